"""Independent oracles: what dcl is judged by. Nothing in this folder imports dcl or torch.

One convention, that of `dcl.solve_qp`; every block may be absent (None):

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y)   Gx <= h (z >= 0)   lb <= x (z_lb >= 0)   x <= ub (z_ub >= 0)
    stationarity  Px + q + A'y + G'z - z_lb + z_ub = 0

regular.py    random programs of any size and condition: solution, gradients, tangents in 57 digits (python-flint's arb)
exact.py      tiny programs in rationals: status, degeneracies and all one-sided derivatives, by enumeration
central_path.py  x(mu) by Newton on eq. 61 of Gould et al. 2016, in 40 digits (mpmath)
real_data.py  problems that nobody here wrote, and a reference solution for them
"""
