"""dcl's own check of every answer, per instance: residuals, gap, and certificates of infeasibility.

Residuals for z = Pi_mu*(v) and s = z - v (so that s and z are in their cones by construction); primal and dual: the largest
over the rows, each relative to the terms that are added in it, so that neither a far bound nor a large cost excuses an error
elsewhere.  FLOOR = 1e-5 stands for terms that are rounding themselves, in the units of `dcl.scaling`; see `acceptable`.

    primal  |Ax + s - b|_i / (FLOOR + |A||x| + |s| + |b|)_i        dual  |Px + q + A'z|_j / (FLOOR + |P||x| + |q| + |A|'|z|)_j
    gap     |x'Px + q'x + b'z - mu nu| / (FLOOR + |x|'|P||x| + |q|'|x| + |b|'|z|)

The strict residuals above cannot be had where the data themselves are inconsistent by their rounding, nor along rows of a
block whose other rows are large.  With a floor of 1 they are an answer's if moreover the error of x is bounded,

    across    condition of S * residual <= ERROR_BOUND |x|, |x| up to 1
    along     directions d with S (d, 0) = 0 (the solution is not unique):   |r_x'd| / (t'|d|) <= FLAT_TOLERANCE,
              t = FLOOR + |P||x| + |q| + |A|'|z|:  1e-7 for truss3 of SDPLIB, where digits of the data are missing
    value     |x|'|r_x| + |z|'|r_z|, which bounds the error of the value without cancellation, unlike the gap: 1e-8, relative

the last two for other cones than orthants, whose degenerate programs (optimal values that are not attained: hinf* and qap6
of SDPLIB) have points with residuals of 4e-9, a gap of 1e-9, and a value that is off by 1e-5.

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
FLOOR = 1e-5
ERROR_BOUND = 1e-3
FLAT_TOLERANCE = 1e-6
CERTIFICATE_TOLERANCE = 1e-7
NOISE = 1e-7


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
    """Primal, dual and gap residual of the point x (B, n), v (B, m): (B, 3).

    absolute: `absolutes(program)`, and z: Pi_mu*(v), if at hand.
    """
    z = program.structure.cone.project(v, mu) if z is None else z
    s = z - v
    Px, Ax, ATz = program.Px(x), program.Ax(x), program.ATz(z)
    absolute, x_abs, z_abs = absolute or absolutes(program), x.abs(), z.abs()
    Px_abs = absolute.Px(x_abs)
    primal = magnitude((Ax + s - program.b) / (floor + absolute.Ax(x_abs) + s.abs() + program.b.abs()))
    dual = magnitude((Px + program.q + ATz) / (floor + Px_abs + program.q.abs() + absolute.ATz(z_abs)))
    terms = (Px * x).sum(-1), (program.q * x).sum(-1), (program.b * z).sum(-1)
    sizes = (Px_abs * x_abs).sum(-1) + ((program.q * x).abs()).sum(-1) + (program.b * z).abs().sum(-1)
    smoothing = mu.squeeze(-1) * program.structure.cone.degree if isinstance(mu, Tensor) else mu
    gap = (terms[0] + terms[1] + terms[2] - smoothing).abs() / (floor + sizes)
    return torch.stack(torch.broadcast_tensors(primal, dual, gap), -1)


def acceptable(program: ConeProgram, x: Tensor, v: Tensor, residuals: Tensor, factor: AbstractFactor) -> Tensor:
    """The residuals (B, 3), measured with a floor of 1 where that is below 1e-8 and the point is right all the same.

    Degenerate programs on which polishing stalls are accepted so; a program whose objective has terms of size 1e-9 beside one
    of size 1 is not.  factor: of S at the point.
    """
    strict = worst(residuals)
    if bool((strict <= OPTIMAL_TOLERANCE).all()):
        return residuals
    wide = check(program, x, v, 0.0, floor=1.0)
    good = (worst(wide) <= OPTIMAL_TOLERANCE) & (strict > OPTIMAL_TOLERANCE)
    if not bool(good.any()):
        return residuals
    size = magnitude(x).clamp(max=1.0)
    good = good & (factor.conditioning.condition * wide[:, :2].amax(-1) <= ERROR_BOUND * size)
    unique = factor.conditioning.null_a == 0
    if not program.structure.cone.is_orthant:
        good = good & (_value_error(program, x, v) <= OPTIMAL_TOLERANCE)
        for i in torch.nonzero(good & ~unique).flatten().tolist():
            one = program.rows(torch.tensor([i], device=x.device))
            unique[i] = _slope(one, x[[i]], v[[i]], factor.flat_directions(i)) <= FLAT_TOLERANCE
    return torch.where((good & unique).unsqueeze(-1), wide, residuals)


def _value_error(program: ConeProgram, x: Tensor, v: Tensor) -> Tensor:
    """The bound (|x|'|r_x| + |z|'|r_z|) / (1 + terms) of the header, (B,)."""
    z = program.structure.cone.project(v, 0.0)
    dual, primal = program.Px(x) + program.q + program.ATz(z), program.Ax(x) + (z - v) - program.b
    error = (x * dual).abs().sum(-1) + (z * primal).abs().sum(-1)
    sizes = (program.Px(x) * x).abs().sum(-1) + (program.q * x).abs().sum(-1) + (program.b * z).abs().sum(-1)
    return error / (1.0 + sizes)


def _slope(program: ConeProgram, x: Tensor, v: Tensor, N: Tensor) -> float:
    """At least the largest |r_x'd| / (t'|d|) for d in the span of N (n, k), t the terms of the strict dual residual."""
    z, absolute = program.structure.cone.project(v, 0.0), absolutes(program)
    r = (program.Px(x) + program.q + program.ATz(z))[0]
    t = FLOOR + (absolute.Px(x.abs()) + program.q.abs() + absolute.ATz(z.abs()))[0]
    # t'|d| >= |T d|, and r'd / |T d| is largest where it is |r / t projected onto the span of T N|
    basis, _ = torch.linalg.qr(t.unsqueeze(-1) * N)
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
