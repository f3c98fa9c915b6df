"""dcl's own check of every answer, per instance: the residuals that decide, and certificates of infeasibility.

The residuals are those of `dcl.point`, row by row and net.  Row by row, 1e-8 cannot be had where the data themselves are
inconsistent by their rounding, nor along rows of a block whose other rows are large.  The net residuals are an answer's (those
row by row with a floor of 1 too, unless the solution of a linear or quadratic program is not unique) if moreover the errors of
x and of the value are bounded,

    across    condition of S * residual <= ERROR_BOUND |x|, |x| up to 1
    value     |x|'|r_x| + |z|'|r_z|, which bounds the error of the value without cancellation, unlike the gap: 1e-8, relative
    along     directions d with S (d, 0) = 0 (the solution is not unique).  Nothing holds x back there, so a slope of 5e-9 may be
              an unbounded program, or a point far from the solution.
              orthants: a step of FAR |x| changes the value by at most 1e-8, relative (`dcl.solve.pipeline` also asks whether a
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

from dcl.kkt import DenseFactor
from dcl.point import FLOOR, OPTIMAL_TOLERANCE, Point, worst
from dcl.point.sharp import errors
from dcl.program import ConeProgram, largest, magnitude

# x(mu) is reached by Newton's method on a smooth F; where there is no x(mu) (no interior) residuals can come near 1e-9.
PATH_TOLERANCE = 1e-10
INACCURATE_TOLERANCE = 1e-5
ERROR_BOUND = 1e-3
FLAT_TOLERANCE = 1e-6
FAR = 100.0
# Where a KKT system is well conditioned, polishing reaches 1e-15; above this, an answer is doubtful.
ROUNDED = 1e-11
CERTIFICATE_TOLERANCE = 1e-7
NOISE = 1e-7
# Of a flat direction: entries that are rounding, what is left of terms that cancel, and what rounding leaves of a row.
_CLEAN, _CANCELS, _ROUNDING = 1e-9, 1e-6, 1e-12


def relaxed_residuals(point: Point) -> Tensor:
    """The residuals (B, 3) by which a point is judged: its own, but for three cases of the header.

    Points of degenerate programs on which polishing stalls are measured with a floor of 1 where that is below 1e-8 and the
    point is right all the same; a program whose objective has terms of size 1e-9 beside one of size 1 is not.  Points that
    polishing left above ROUNDED with a slope along a flat direction have that slope as their dual residual.
    """
    residuals = _with_errors(point)
    if bool((worst(residuals) <= ROUNDED).all()):
        return residuals
    is_orthant = point.program.structure.cone.is_orthant
    if is_orthant:
        residuals = _with_slopes(point, residuals)
    strict = worst(residuals)
    by_row, net = point.measures(floor=1.0)
    conditioning = point.kkt.conditioning
    unique = conditioning.null_a == 0
    wide = torch.where(unique.unsqueeze(-1) | (not is_orthant), torch.maximum(by_row, net), net)
    good = (worst(wide) <= OPTIMAL_TOLERANCE) & (strict > OPTIMAL_TOLERANCE) & ~conditioning.scaled
    if not bool(good.any()):
        return residuals
    size = magnitude(point.x).clamp(max=1.0)
    good = good & (conditioning.condition * wide[:, :2].amax(-1) <= ERROR_BOUND * size)
    good = good & (is_orthant & unique | (_value_error(point) <= OPTIMAL_TOLERANCE))
    for i in torch.nonzero(good & ~unique).flatten().tolist():
        if is_orthant:
            unique[i] = _drift(point, i) <= OPTIMAL_TOLERANCE
        else:
            unique[i] = _slope(point, i) <= FLAT_TOLERANCE
    return torch.where((good & unique).unsqueeze(-1), wide, residuals)


def _with_errors(point: Point) -> Tensor:
    """The point's residuals, with Newton's step as dual residual where S is regular in its best units only."""
    residuals = point.residuals
    if not isinstance(point.kkt.factor, DenseFactor) or not bool(point.kkt.conditioning.scaled.any()):
        return residuals
    residuals = residuals.clone()
    residuals[:, 1] = torch.maximum(residuals[:, 1], errors(point))
    return residuals


def _with_slopes(point: Point, residuals: Tensor) -> Tensor:
    """The residuals with the drift along flat directions as dual residual, of the points above ROUNDED that have some."""
    doubtful = (worst(residuals) > ROUNDED) & (worst(residuals) <= OPTIMAL_TOLERANCE)
    for i in torch.nonzero(doubtful & (point.kkt.conditioning.null_a > 0)).flatten().tolist():
        residuals = residuals.clone()
        residuals[i, 1] = max(float(residuals[i, 1]), _drift(point, i))
    return residuals


def _drift(point: Point, i: int) -> float:
    """How much the value of instance i changes, relative, if x moves along flat directions by FAR times its length.

    Infinite where these directions only look flat, beside rows that are larger by 1e10: in their own rows of P and of the
    active part of A nothing cancels.
    """
    one = point.rows(torch.tensor([i], device=point.x.device))
    N = point.kkt.factor.flat_directions(i, one.stationarity[0])
    program, structure = one.program, one.program.structure
    d = torch.where(N.abs() > _CLEAN, N, 0.0).mT.unsqueeze(1)
    active = (one.v > 0.0) | (torch.arange(structure.m, device=one.v.device) < structure.cone.zeros)
    for moved, terms, size in (
        (program.Px(d), one.absolute.Px(d.abs()), structure.P.row_sizes(program.P)),
        (program.Ax(d) * active, one.absolute.Ax(d.abs()), structure.A.row_sizes(program.A)),
    ):
        if bool((moved.abs() > _CANCELS * terms + _ROUNDING * size).any()):
            return torch.inf
    value = largest(
        (one.Px * one.x).sum(-1).abs(), (program.q * one.x).sum(-1).abs(), (program.b * one.z).sum(-1).abs()
    )
    return float(FAR * (N.mT @ one.stationarity[0]).norm() * (1.0 + magnitude(one.x)) / (1.0 + value))


def _value_error(point: Point) -> Tensor:
    """The bound (|x|'|r_x| + |z|'|r_z|) / (1 + terms) of the header, (B,)."""
    x, z, program = point.x, point.z, point.program
    error = (x * point.stationarity).abs().sum(-1) + (z * point.feasibility).abs().sum(-1)
    sizes = (point.Px * x).abs().sum(-1) + (program.q * x).abs().sum(-1) + (program.b * z).abs().sum(-1)
    return error / (1.0 + sizes)


def _slope(point: Point, i: int) -> float:
    """Of instance i, at least the largest |r_x'd| / (t'|d|) for d with S (d, 0) = 0, t the net terms of the dual residual."""
    one = point.rows(torch.tensor([i], device=point.x.device))
    r, t = one.stationarity[0], FLOOR + largest(one.Px.abs(), one.program.q.abs(), one.ATz.abs())[0]
    # t'|d| >= |T d|, and r'd / |T d| is largest where it is |r / t projected onto the span of T N|
    basis, _ = torch.linalg.qr(t.unsqueeze(-1) * point.kkt.factor.flat_directions(i, r / t**2))
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
    vanishing, terms = magnitude(program.ATz(z)), program.absolute().ATz(z.abs()).amax(-1)
    bounded = vanishing * (1.0 + magnitude(program.b)) <= 1e-6
    return (slope.squeeze(-1) > 0.0) & (vanishing <= CERTIFICATE_TOLERANCE * terms) & bounded, z


def _excludes_multipliers(program: ConeProgram, x: Tensor) -> tuple[Tensor, Tensor]:
    slope = -(program.q * x).sum(-1, keepdim=True)
    x = x / slope
    Ax = program.Ax(x)
    outside = magnitude(program.structure.cone.project(Ax, 0.0))  # distance of -Ax from K, by Moreau
    absolute = program.absolute()
    terms_A, terms_P = absolute.Ax(x.abs()), magnitude(absolute.Px(x.abs()))
    terms_A = terms_A.amax(-1) if terms_A.shape[-1] else terms_P * 0.0
    curvature = magnitude(program.Px(x))
    small = (outside <= CERTIFICATE_TOLERANCE * terms_A) & (curvature <= CERTIFICATE_TOLERANCE * terms_P)
    bounded = torch.maximum(outside, curvature) * (1.0 + magnitude(program.q)) <= 1e-6
    return (slope.squeeze(-1) > 0.0) & small & bounded, x
