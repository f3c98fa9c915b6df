"""dcl's own check of every answer, per instance: residuals, gap, and certificates of infeasibility.

Residuals for z = Pi_mu*(v) and s = z - v (so that s and z are in their cones by construction); primal and dual: the largest
over the rows, each relative to the terms that are added in it, so that neither a far bound nor a large cost excuses an error
elsewhere.  FLOOR = 1e-5 stands for terms that are rounding themselves, in the units of `dcl.scaling`; see `acceptable`.

    primal  |Ax + s - b|_i / (FLOOR + |A||x| + |s| + |b|)_i        dual  |Px + q + A'z|_j / (FLOOR + |P||x| + |q| + |A|'|z|)_j
    gap     |x'Px + q'x + b'z - mu nu| / (FLOOR + |x|'|P||x| + |q|'|x| + |b|'|z|)

Terms that cancel excuse too much where x or z is large: at |x| = 1e13 every program is "solved" up to the rounding of |P||x|,
an unbounded one too.  So the same three are also measured against what is left after cancelling (the net measure), and
the larger one counts where the net one is above NET_MATTERS,

    primal  |Ax + s - b|_i / (1 + |Ax|_max + |s_i| + |b_i|)        dual  |Px + q + A'z|_max / (1 + max(|Px|, |q|, |A'z|)_max)
    gap     |x'Px + q'x + b'z - mu nu| / (1 + max(|x'Px|, |q'x|, |b'z|))

and where the rounding of the uncancelled terms alone is above 1e-8 of these denominators, nothing is known: a residual
that is zero there is luck, and the rounding is what is reported.  A slack or a right-hand side excuses its own row only,
a bound of 1e10 nothing else.

Row by row, 1e-8 cannot be had where the data themselves are inconsistent by their rounding, nor along rows of a block whose
other rows are large.  The net residuals are an answer's (those row by row with a floor of 1 too, unless the solution of a
linear or quadratic program is not unique) if moreover the errors of x and of the value are bounded,

    across    condition of S * residual <= ERROR_BOUND |x|, |x| up to 1
    value     |x|'|r_x| + |z|'|r_z|, which bounds the error of the value without cancellation, unlike the gap: 1e-8, relative
    along     directions d with S (d, 0) = 0 (the solution is not unique).  Nothing holds x back there, so a slope of 5e-9 may be
              an unbounded program, or a point far from the solution.
              orthants: a step of FAR |x| changes the value by at most 1e-8, relative (`dcl.solve` also asks whether a
              direction of descent exists); others: |r_x'd| / (t'|d|) <= FLAT_TOLERANCE, t = FLOOR + max(|Px|, |q|, |A'z|),
              1e-7 for truss3 of SDPLIB, where digits of the data are missing

The value matters most for degenerate programs with other cones than orthants: where optimal values are not attained (hinf*
and qap6 of SDPLIB) there are points with residuals of 4e-9, a gap of 1e-9, and a value that is off by 1e-5.  The drift along
flat directions is looked at wherever polishing leaves a linear or quadratic program with a residual above ROUNDED.

Certificates, of free length:   primal infeasible  z in K*, A'z = 0, b'z < 0       dual infeasible  Px = 0, -Ax in K, q'x < 0
A certificate is accepted if what should vanish is below CERTIFICATE_TOLERANCE of the terms that cancel in it, and if
it excludes every point (every multiplier) of norm up to 1e6 times that of the data.  Along a coordinate nothing cancels:
there the solver's rounding in the other entries is all that is left, so a certificate is also tried without its entries
below NOISE of the largest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.factor import AbstractFactor
from dcl.program import ConeProgram, magnitude

OPTIMAL_TOLERANCE = 1e-8
# x(mu) is reached by Newton's method on a smooth F; where there is no x(mu) (no interior) residuals can come near 1e-9.
PATH_TOLERANCE = 1e-10
INACCURATE_TOLERANCE = 1e-5
NET_MATTERS = 1e-9
FLOOR = 1e-5
ERROR_BOUND = 1e-3
FLAT_TOLERANCE = 1e-6
FAR = 100.0
# Where a KKT system is well conditioned, polishing reaches 1e-15; above this, an answer is doubtful.
ROUNDED = 1e-11
CERTIFICATE_TOLERANCE = 1e-7
NOISE = 1e-7
# Of a flat direction: entries that are rounding, what is left of terms that cancel, and what rounding leaves of a row.
_CLEAN, _CANCELS, _ROUNDING = 1e-9, 1e-6, 1e-12
_EPSILON = torch.finfo(torch.float64).eps


def worst(residuals: Tensor) -> Tensor:
    """The largest of (..., 3) residuals; inf where one is NaN."""
    return residuals.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(-1)


def check(
    program: ConeProgram,
    x: Tensor,
    v: Tensor,
    mu: Barrier,
    absolute: ConeProgram | None = None,
    floor: float = FLOOR,
    z: Tensor | None = None,
) -> Tensor:
    """Primal, dual and gap residual of the point x (B, n), v (B, m): (B, 3), row by row, or net where that is not small.

    A net residual below NET_MATTERS is what rounding leaves of large multipliers; the other measure says how good a point is.
    absolute: `absolutes(program)`, and z: Pi_mu*(v), if at hand.
    """
    by_row, net = measures(program, x, v, mu, absolute, floor, z)
    return torch.where(net > NET_MATTERS, torch.maximum(by_row, net), by_row)


def measures(
    program: ConeProgram,
    x: Tensor,
    v: Tensor,
    mu: Barrier,
    absolute: ConeProgram | None = None,
    floor: float = FLOOR,
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The two measures of the header, row by row and net, (B, 3) each; arguments as in `check`."""
    z = program.structure.cone.project(v, mu) if z is None else z
    s = z - v
    q, b = program.q, program.b
    Px, Ax, ATz = program.Px(x), program.Ax(x), program.ATz(z)
    absolute, x_abs, z_abs = absolute or absolutes(program), x.abs(), z.abs()
    Px_abs, Ax_abs = absolute.Px(x_abs), absolute.Ax(x_abs)
    own = s.abs() + b.abs()
    primal, primal_terms = (Ax + s - b).abs(), Ax_abs + own
    dual, dual_terms = (Px + q + ATz).abs(), Px_abs + q.abs() + absolute.ATz(z_abs)
    xPx, qx, bz = (Px * x).sum(-1), (q * x).sum(-1), (b * z).sum(-1)
    smoothing = mu.squeeze(-1) * program.structure.cone.degree if isinstance(mu, Tensor) else mu
    gap = (xPx + qx + bz - smoothing).abs()
    gap_terms = (Px_abs * x_abs).sum(-1) + (q * x).abs().sum(-1) + (b * z).abs().sum(-1)
    strict = primal / (floor + primal_terms), dual / (floor + dual_terms), gap / (floor + gap_terms)
    left = _largest(magnitude(Px), magnitude(q), magnitude(ATz)).unsqueeze(-1)
    net = (
        _at_least_rounding(primal, primal_terms, 1.0 + magnitude(Ax).unsqueeze(-1) + own),
        _at_least_rounding(dual, dual_terms, 1.0 + left),
        _at_least_rounding(gap, gap_terms, 1.0 + _largest(xPx.abs(), qx.abs(), bz.abs())),
    )
    columns = [(magnitude(p), magnitude(d), g) for p, d, g in (strict, net)]
    by_row, after_cancelling = (torch.stack(torch.broadcast_tensors(*column), -1) for column in columns)
    return by_row, after_cancelling


def _at_least_rounding(residual: Tensor, terms: Tensor, size: Tensor) -> Tensor:
    """Residual / size, or what rounding leaves of the terms if that alone misses the tolerance."""
    rounding = _EPSILON * terms
    return torch.where(rounding > OPTIMAL_TOLERANCE * size, torch.maximum(residual, rounding), residual) / size


def _largest(*sizes: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*sizes)).amax(0)


def acceptable(program: ConeProgram, x: Tensor, v: Tensor, residuals: Tensor, factor: AbstractFactor) -> Tensor:
    """The residuals (B, 3) by which a point is judged: those of `check`, but for two cases of the header.

    Points of degenerate programs on which polishing stalls are measured with a floor of 1 where that is below 1e-8 and the
    point is right all the same; a program whose objective has terms of size 1e-9 beside one of size 1 is not.  Points that
    polishing left above ROUNDED with a slope along a flat direction have that slope as their dual residual.
    factor: of S at the point.
    """
    strict = worst(residuals)
    if bool((strict <= ROUNDED).all()):
        return residuals
    is_orthant = program.structure.cone.is_orthant
    if is_orthant:
        residuals = _with_slopes(program, x, v, residuals, factor)
    strict = worst(residuals)
    by_row, net = measures(program, x, v, 0.0, floor=1.0)
    unique = factor.conditioning.null_a == 0
    wide = torch.where(unique.unsqueeze(-1) | (not is_orthant), torch.maximum(by_row, net), net)
    good = (worst(wide) <= OPTIMAL_TOLERANCE) & (strict > OPTIMAL_TOLERANCE)
    if not bool(good.any()):
        return residuals
    size = magnitude(x).clamp(max=1.0)
    good = good & (factor.conditioning.condition * wide[:, :2].amax(-1) <= ERROR_BOUND * size)
    good = good & (is_orthant & unique | (_value_error(program, x, v) <= OPTIMAL_TOLERANCE))
    for i in torch.nonzero(good & ~unique).flatten().tolist():
        if is_orthant:
            unique[i] = _drift(program, x, v, factor, i) <= OPTIMAL_TOLERANCE
        else:
            unique[i] = _slope(program, x, v, factor, i) <= FLAT_TOLERANCE
    return torch.where((good & unique).unsqueeze(-1), wide, residuals)


def _with_slopes(program: ConeProgram, x: Tensor, v: Tensor, residuals: Tensor, factor: AbstractFactor) -> Tensor:
    """The residuals with the drift along flat directions as dual residual, of the points above ROUNDED that have some."""
    doubtful = (worst(residuals) > ROUNDED) & (worst(residuals) <= OPTIMAL_TOLERANCE)
    for i in torch.nonzero(doubtful & (factor.conditioning.null_a > 0)).flatten().tolist():
        residuals = residuals.clone()
        residuals[i, 1] = max(float(residuals[i, 1]), _drift(program, x, v, factor, i))
    return residuals


def _drift(program: ConeProgram, x: Tensor, v: Tensor, factor: AbstractFactor, i: int) -> float:
    """How much the value of instance i changes, relative, if x moves along flat directions by FAR times its length.

    Infinite where these directions only look flat, beside rows that are larger by 1e10: in their own rows of P and of the
    active part of A nothing cancels.
    """
    index = torch.tensor([i], device=x.device)
    program, x, v = program.rows(index), x[index], v[index]
    z, N = program.structure.cone.project(v, 0.0), factor.flat_directions(i)
    d = torch.where(N.abs() > _CLEAN, N, 0.0).mT.unsqueeze(1)
    active = (v > 0.0) | (torch.arange(v.shape[-1], device=v.device) < program.structure.cone.zeros)
    absolute, structure = absolutes(program), program.structure
    for moved, terms, size in (
        (program.Px(d), absolute.Px(d.abs()), structure.P.row_sizes(program.P)),
        (program.Ax(d) * active, absolute.Ax(d.abs()), structure.A.row_sizes(program.A)),
    ):
        if bool((moved.abs() > _CANCELS * terms + _ROUNDING * size).any()):
            return torch.inf
    r = (program.Px(x) + program.q + program.ATz(z))[0]
    value = _largest((program.Px(x) * x).sum(-1).abs(), (program.q * x).sum(-1).abs(), (program.b * z).sum(-1).abs())
    return float(FAR * (N.mT @ r).norm() * (1.0 + magnitude(x)) / (1.0 + value))


def _value_error(program: ConeProgram, x: Tensor, v: Tensor) -> Tensor:
    """The bound (|x|'|r_x| + |z|'|r_z|) / (1 + terms) of the header, (B,)."""
    z = program.structure.cone.project(v, 0.0)
    dual, primal = program.Px(x) + program.q + program.ATz(z), program.Ax(x) + (z - v) - program.b
    error = (x * dual).abs().sum(-1) + (z * primal).abs().sum(-1)
    sizes = (program.Px(x) * x).abs().sum(-1) + (program.q * x).abs().sum(-1) + (program.b * z).abs().sum(-1)
    return error / (1.0 + sizes)


def _slope(program: ConeProgram, x: Tensor, v: Tensor, factor: AbstractFactor, i: int) -> float:
    """Of instance i, at least the largest |r_x'd| / (t'|d|) for d with S (d, 0) = 0, t the net terms of the dual residual."""
    index = torch.tensor([i], device=x.device)
    program, x, z = program.rows(index), x[index], program.structure.cone.project(v[index], 0.0)
    Px, ATz = program.Px(x), program.ATz(z)
    r = (Px + program.q + ATz)[0]
    t = FLOOR + _largest(Px.abs(), program.q.abs(), ATz.abs())[0]
    # t'|d| >= |T d|, and r'd / |T d| is largest where it is |r / t projected onto the span of T N|
    basis, _ = torch.linalg.qr(t.unsqueeze(-1) * factor.flat_directions(i))
    return float((basis.mT @ (r / t)).norm())


def primal_infeasible(program: ConeProgram, z: Tensor) -> tuple[Tensor, Tensor]:
    """Whether z (B, m) proves that Ax + s = b has no solution; (B,) boolean, and z scaled to b'z = -1."""
    return _with_or_without_noise(_excludes_points, program, z)


def dual_infeasible(program: ConeProgram, x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether x (B, n) is a direction of unbounded decrease; (B,) boolean, and x scaled to q'x = -1."""
    return _with_or_without_noise(_excludes_multipliers, program, x)


def _with_or_without_noise(
    proves: Callable[[ConeProgram, Tensor], tuple[Tensor, Tensor]], program: ConeProgram, t: Tensor
) -> tuple[Tensor, Tensor]:
    as_given, t_given = proves(program, t)
    cleaned, t_cleaned = proves(program, torch.where(t.abs() > NOISE * magnitude(t).unsqueeze(-1), t, 0.0))
    return as_given | cleaned, torch.where(cleaned.unsqueeze(-1), t_cleaned, t_given)


def _excludes_points(program: ConeProgram, z: Tensor) -> tuple[Tensor, Tensor]:
    z = program.structure.cone.project(z, 0.0)
    slope = -(program.b * z).sum(-1, keepdim=True)
    z = z / slope
    vanishing, terms = magnitude(program.ATz(z)), absolutes(program).ATz(z.abs()).amax(-1)
    bounded = vanishing * (1.0 + magnitude(program.b)) <= 1e-6
    return (slope.squeeze(-1) > 0.0) & (vanishing <= CERTIFICATE_TOLERANCE * terms) & bounded, z


def _excludes_multipliers(program: ConeProgram, x: Tensor) -> tuple[Tensor, Tensor]:
    slope = -(program.q * x).sum(-1, keepdim=True)
    x = x / slope
    Ax = program.Ax(x)
    outside = magnitude(program.structure.cone.project(Ax, 0.0))  # distance of -Ax from K, by Moreau
    absolute = absolutes(program)
    terms_A, terms_P = absolute.Ax(x.abs()), magnitude(absolute.Px(x.abs()))
    terms_A = terms_A.amax(-1) if terms_A.shape[-1] else terms_P * 0.0
    curvature = magnitude(program.Px(x))
    small = (outside <= CERTIFICATE_TOLERANCE * terms_A) & (curvature <= CERTIFICATE_TOLERANCE * terms_P)
    bounded = torch.maximum(outside, curvature) * (1.0 + magnitude(program.q)) <= 1e-6
    return (slope.squeeze(-1) > 0.0) & small & bounded, x


def absolutes(program: ConeProgram) -> ConeProgram:
    """The program with |P| and |A|."""
    return ConeProgram(program.structure, program.P.abs(), program.q, program.A.abs(), program.b)
