"""Which of CVXPY's atoms does dcl solve and differentiate right?

    python benchmarks/atoms.py [--only WORD] [--write]        --write: docs/atoms.md

Every atom f is put where it can be lost, into an active constraint, in a problem with one solution:

    minimize |x - t|^2   subject to   w'f(x) <= r   (>= r where f is concave; w'f for an f with more than one entry)

with Parameters t and r, f(t) on the wrong side of r, and a point that is strictly inside.  Cones, transforms with several
variables and geometric programs have problems of their own.  Measured for each, on the user's variables and constraints:

    |x - x_cvxpy|    against problem.solve(solver=CLARABEL) with tight tolerances and its point polished in CVXPY's canonical
                     form (tests/oracles/polish.py), largest entry over all variables
    violation        of the user's constraints at dcl's point, the largest
    gradient error   of a random combination of all variables along a random direction of all parameters, against central
                     differences of fourth order of dcl's own solution, relative to 1 + |difference|
"""

from __future__ import annotations

import argparse
import platform
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cvxpy as cp
import numpy as np
import torch

import dcl
from dcl import GradientKind

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oracles import polish

STEP = 1e-3
NAN = float("nan")
ROOT = Path(__file__).resolve().parents[1]
Build = Callable[[], tuple[cp.Problem, list[cp.Variable]]]


@dataclass(frozen=True)
class Atom:
    """build gives a new problem, whose parameters have values, and the variables to compare."""

    name: str
    build: Build
    gp: bool = False


@dataclass(frozen=True)
class Row:
    """What dcl made of one atom; error: the message where it made nothing."""

    name: str
    cones: str = "-"
    point: float = NAN
    violation: float = NAN
    gradient: float = NAN
    kind: str = "-"
    error: str = ""


def _parameter(value: object, **attributes: object) -> cp.Parameter:
    array = np.asarray(value, dtype=float)
    return cp.Parameter(array.shape, value=array, **attributes)


def _scalar(expression: cp.Expression) -> cp.Expression:
    if expression.is_scalar():
        return expression
    weights = 1.0 + 0.3 * np.sin(1.0 + np.arange(expression.size)).reshape(expression.shape, order="F")
    return cp.sum(cp.multiply(weights, expression))


def _at(f: Callable[[cp.Variable], cp.Expression], point: np.ndarray, attributes: dict[str, bool]) -> float:
    x = cp.Variable(point.shape, **attributes)
    x.value = point
    return float(_scalar(f(x)).value)


def atom(
    name: str,
    f: Callable[[cp.Variable], cp.Expression],
    t: object = (1.0, -2.0, 0.7),
    inside: object = None,
    **attributes: bool,
) -> Atom:
    """The problem of the first lines of this file; inside: a point strictly on the right side, 0.5 t if none is given."""
    target = np.asarray(t, dtype=float)
    middle = 0.5 * target if inside is None else np.asarray(inside, dtype=float)

    def build() -> tuple[cp.Problem, list[cp.Variable]]:
        x = cp.Variable(target.shape, **attributes)
        wrong, right = _at(f, target, attributes), _at(f, middle, attributes)
        goal, bound = (
            _parameter(target, symmetric=bool(attributes.get("symmetric"))),
            _parameter(0.6 * wrong + 0.4 * right),
        )
        side = _scalar(f(x)) <= bound if right < wrong else _scalar(f(x)) >= bound
        return cp.Problem(cp.Minimize(cp.sum_squares(x - goal)), [side]), [x]

    return Atom(name, build)


P3 = (0.5, 1.6, 0.9)
X3 = np.array([[2.0, 0.3, -0.4], [0.3, 1.1, 0.2], [-0.4, 0.2, 0.7]])
X23 = np.array([[1.0, -0.7, 0.4], [0.2, 1.3, -1.1]])
Q3 = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.8]])
LOW3 = X3 + 0.6 * np.eye(3)  # inside for the concave functions of eigenvalues
SYM = {"symmetric": True}


def _perspective() -> tuple[cp.Problem, list[cp.Variable]]:
    y, s, t, r = cp.Variable(2), cp.Variable(nonneg=True), _parameter([1.5, -0.5]), _parameter(0.8)
    constraint = cp.perspective(cp.sum_squares(y), s) <= r
    return cp.Problem(cp.Minimize(cp.sum_squares(y - t) + cp.square(s - 0.6)), [constraint]), [y, s]


def _perspective_of_exp() -> tuple[cp.Problem, list[cp.Variable]]:
    y, s, t, r = cp.Variable(), cp.Variable(nonneg=True), _parameter(1.5), _parameter(1.9)
    constraint = cp.perspective(cp.exp(y) + cp.square(y), s) <= r
    return cp.Problem(cp.Minimize(cp.square(y - t) + cp.square(s - 0.6)), [constraint]), [y, s]


def _suppfunc() -> tuple[cp.Problem, list[cp.Variable]]:
    z, x, t, r = cp.Variable(2), cp.Variable(2), _parameter([1.5, -0.5]), _parameter(1.1)
    support = cp.suppfunc(z, [cp.norm2(z) <= 1, z[0] + z[1] <= 0.8])
    return cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [support(x) <= r]), [x]


def _nearest(
    constraints: Callable[[cp.Variable, cp.Parameter], list[cp.Constraint]], t: object, r: object, **kind: bool
) -> Build:
    """Minimize |x - t|^2 subject to constraints(x, r)."""

    def build() -> tuple[cp.Problem, list[cp.Variable]]:
        goal, bound = _parameter(t, symmetric=bool(kind.get("symmetric"))), _parameter(r)
        x = cp.Variable(goal.shape, **kind)
        return cp.Problem(cp.Minimize(cp.sum_squares(x - goal)), constraints(x, bound)), [x]

    return build


def _gp(f: Callable[[cp.Variable], cp.Expression], r: float, t: object = (1.0, 2.0, 0.7), lower: bool = False) -> Build:
    """Minimize sum t/x + 0.1 sum x subject to f(x) <= r, or f(x) >= r, geometric."""

    def build() -> tuple[cp.Problem, list[cp.Variable]]:
        goal, bound = _parameter(t, pos=True), _parameter(r, pos=True)
        x = cp.Variable(goal.shape, pos=True)
        objective = cp.sum(cp.multiply(goal, x**-1)) + 0.1 * cp.sum(x)
        return cp.Problem(cp.Minimize(objective), [f(x) >= bound if lower else f(x) <= bound]), [x]

    return build


ATOMS: Sequence[Atom] = [
    # piecewise linear
    atom("abs", cp.abs),
    atom("norm1", cp.norm1),
    atom("norm_inf", cp.norm_inf),
    atom("max", cp.max, (1.0, 1.2, -0.7)),
    atom("min", cp.min, (-1.0, -1.2, 0.7)),
    atom("maximum", lambda x: cp.maximum(x, 2 * x - 1, -x), (1.7, -2.0, 0.7)),
    atom("minimum", lambda x: cp.minimum(x, 0.5 * x + 0.3, 2.0), (-1.7, 0.9, -0.4), (0.5, 3.0, 0.8)),
    atom("pos", cp.pos),
    atom("neg", cp.neg),
    atom("sum_largest", lambda x: cp.sum_largest(x, 2), (1.0, -2.0, 0.7, 1.4)),
    atom("sum_smallest", lambda x: cp.sum_smallest(x, 2), (-1.0, 2.0, -0.7, -1.4)),
    atom("cummax", cp.cummax, (0.5, 1.1, 0.3, 1.6)),
    atom("tv", cp.tv, (0.1, 0.3, 1.7, 2.2, -1.0)),
    atom("tv (2-d)", cp.tv, X23),
    atom("ptp", cp.ptp, (1.0, -2.0, 0.3)),
    atom("scalene", lambda x: cp.scalene(x, 2.0, 0.5)),
    atom("dotsort", lambda x: cp.dotsort(x, np.array([0.2, 1.0, 1.7]))),
    atom("cvar", lambda x: cp.cvar(x, 0.6), (1.0, -2.0, 0.7, 1.4)),
    # quadratic, second-order
    atom("norm2", cp.norm2),
    atom("norm(X, 'fro')", lambda X: cp.norm(X, "fro"), X23),
    atom("norm(X, 2, axis=1)", lambda X: cp.norm(X, 2, axis=1), X23),
    atom("mixed_norm(2, 1)", lambda X: cp.mixed_norm(X, 2, 1), X23),
    atom("sum_squares", cp.sum_squares),
    atom("square", cp.square),
    atom("quad_form", lambda x: cp.quad_form(x, Q3)),
    atom("quad_over_lin", lambda x: cp.quad_over_lin(x[:2], x[2]), (1.0, -2.0, 0.7), (0.1, -0.2, 1.0)),
    atom("huber", lambda x: cp.huber(x, 0.6)),
    atom("std", cp.std),
    atom("var", cp.var),
    atom("matrix_frac", lambda x: cp.matrix_frac(x, Q3)),
    atom("sqrt", cp.sqrt, P3, (1.5, 2.6, 1.9)),
    atom("inv_pos", cp.inv_pos, P3, (1.5, 2.6, 1.9)),
    atom("harmonic_mean", cp.harmonic_mean, P3, (1.5, 2.6, 1.9)),
    atom("inv_prod", cp.inv_prod, P3, (1.5, 2.6, 1.9)),
    # powers: second-order approximations by default, power cones with approx=False
    atom("power 1.5", lambda x: cp.power(x, 1.5), P3),
    atom("power 1.5 (approx=False)", lambda x: cp.power(x, 1.5, approx=False), P3),
    atom("power -1", lambda x: cp.power(x, -1), P3, (1.5, 2.6, 1.9)),
    atom("power -0.7 (approx=False)", lambda x: cp.power(x, -0.7, approx=False), P3, (1.5, 2.6, 1.9)),
    atom("power 0.5", lambda x: cp.power(x, 0.5), P3, (1.5, 2.6, 1.9)),
    atom("power 0.3 (approx=False)", lambda x: cp.power(x, 0.3, approx=False), P3, (1.5, 2.6, 1.9)),
    atom("pnorm p=3", lambda x: cp.pnorm(x, 3)),
    atom("pnorm p=3 (approx=False)", lambda x: cp.pnorm(x, 3, approx=False)),
    atom("pnorm p=0.5", lambda x: cp.pnorm(x, 0.5), P3, (1.5, 2.6, 1.9)),
    atom("geo_mean", cp.geo_mean, P3, (1.5, 2.6, 1.9)),
    atom("geo_mean weighted", lambda x: cp.geo_mean(x, [1, 2, 1]), P3, (1.5, 2.6, 1.9)),
    atom("geo_mean (approx=False)", lambda x: cp.geo_mean(x, [0.2, 0.5, 0.3], approx=False), P3, (1.5, 2.6, 1.9)),
    # exponential
    atom("exp", cp.exp),
    atom("log", cp.log, P3, (1.5, 2.6, 1.9)),
    atom("log1p", cp.log1p, P3, (1.5, 2.6, 1.9)),
    atom("entr", cp.entr, (1.5, 2.6, 1.9), (0.4, 0.5, 0.3)),
    atom("kl_div", lambda x: cp.kl_div(x[0], x[1:]), P3, (1.0, 1.0, 1.0)),
    atom("rel_entr", lambda x: cp.rel_entr(x[1], x[::2]), P3, (1.0, 1.0, 1.0)),
    atom("logistic", cp.logistic, (1.0, 2.0, 0.7)),
    atom("log_sum_exp", cp.log_sum_exp, (1.0, 2.0, 0.7)),
    atom("log_sum_exp(axis=1)", lambda X: cp.log_sum_exp(X, axis=1), X23, X23 - 1.0),
    atom("xexp", cp.xexp, P3, nonneg=True),
    atom("log_normcdf", cp.log_normcdf, (-1.0, 0.4, -0.2), (0.5, 1.4, 0.8)),
    atom("loggamma", cp.loggamma, (3.0, 4.2, 0.3), (1.6, 1.4, 1.5)),
    # matrices
    atom("normNuc", cp.normNuc, X23),
    atom("sigma_max", cp.sigma_max, X23),
    atom("lambda_max", cp.lambda_max, X3, **SYM),
    atom("lambda_min", cp.lambda_min, X3, LOW3, **SYM),
    atom("lambda_sum_largest", lambda X: cp.lambda_sum_largest(X, 2), X3, **SYM),
    atom("lambda_sum_smallest", lambda X: cp.lambda_sum_smallest(X, 2), X3, LOW3, **SYM),
    atom("log_det", cp.log_det, X3, LOW3, **SYM),
    atom("tr_inv", cp.tr_inv, X3, LOW3, **SYM),
    atom("matrix_frac(c, X)", lambda X: cp.matrix_frac(np.array([1.0, -0.5, 0.3]), X), X3, LOW3, **SYM),
    atom("von_neumann_entr", cp.von_neumann_entr, X3, 0.5 * X3, **SYM),
    # affine, under a norm so that a wrong entry anywhere moves the solution
    atom("trace", cp.trace, X3),
    atom("kron", lambda X: cp.norm1(cp.kron(np.array([[1.0, 2.0]]), X)), X23),
    atom("conv", lambda x: cp.norm2(cp.convolve(np.array([1.0, -0.5, 0.3]), x))),
    atom("diag", lambda x: cp.norm(cp.diag(x) + Q3, "fro"), (1.0, -2.0, 0.7), (0.0, 0.0, 0.0)),
    atom("diag of a matrix", lambda X: cp.norm2(cp.diag(X)), X3),
    atom("bmat", lambda x: cp.norm(cp.bmat([[x[0], x[1]], [x[2], 0.5 * x[0]]]), "fro")),
    atom("hstack", lambda x: cp.norm2(cp.hstack([x, 2 * x[:1]]))),
    atom("vstack", lambda x: cp.norm(cp.vstack([x, 0.5 * x]), "fro")),
    atom("cumsum", lambda x: cp.norm2(cp.cumsum(x))),
    atom("diff", lambda x: cp.norm2(cp.diff(x))),
    atom("vdot", lambda x: cp.vdot(np.array([1.0, -0.5, 0.3]), x)),
    atom("multiply", lambda x: cp.norm2(cp.multiply(np.array([1.0, 2.0, 3.0]), x))),
    atom("reshape", lambda X: cp.sigma_max(cp.reshape(X, (3, 2), order="F")), X23),
    atom("vec_to_upper_tri", lambda x: cp.norm(cp.vec_to_upper_tri(x), "fro")),
    atom("upper_tri", lambda X: cp.norm2(cp.upper_tri(X)), X3),
    atom("outer", lambda x: cp.norm(cp.outer(x, np.array([1.0, 2.0])), "fro")),
    atom("partial_trace", lambda X: cp.norm(cp.partial_trace(X, [2, 2], 0), "fro"), np.arange(16.0).reshape(4, 4) / 8),
    # transforms
    Atom("perspective of sum_squares", _perspective),
    Atom("perspective of exp + square", _perspective_of_exp),
    Atom("suppfunc", _suppfunc),
    # constraints
    Atom("== and <=", _nearest(lambda x, r: [cp.sum(x) == r, x <= 0.9], (1.5, 0.2, -0.3), 1.0)),
    Atom("PSD", _nearest(lambda X, r: [X - r * np.eye(3) >> 0], X3 - 1.2 * np.eye(3), 0.1, symmetric=True)),
    Atom("Variable(PSD=True)", _nearest(lambda X, r: [cp.trace(X) == r], X3 - 0.9 * np.eye(3), 1.5, PSD=True)),
    Atom("SOC", _nearest(lambda x, r: [cp.SOC(r + x[0], x[1:])], (-0.5, 1.0, -2.0), 1.2)),
    Atom("SOC (vector)", _nearest(lambda X, r: [cp.SOC(r, X, axis=1)], X23, (0.7, 0.9))),
    Atom("ExpCone", _nearest(lambda x, r: [cp.ExpCone(x[0] - r, x[1], x[2])], (1.0, 0.5, 0.7), 0.2)),
    Atom("PowCone3D", _nearest(lambda x, r: [cp.PowCone3D(x[0], x[1] - r, x[2], 0.3)], (1.0, 0.5, 1.7), 0.2)),
    Atom(
        "PowConeND",
        _nearest(lambda x, r: [cp.PowConeND(x[:3], x[3] + r, np.array([0.2, 0.5, 0.3]))], (1.0, 0.5, 0.8, 1.7), 0.2),
    ),
    # geometric programs
    Atom("gp: posynomial", _gp(lambda x: x[0] * x[1] ** 0.5 + x[1] * x[2] ** 2 + x[0], 2.0), gp=True),
    Atom("gp: prod", _gp(cp.prod, 2.0), gp=True),
    Atom("gp: geo_mean", _gp(cp.geo_mean, 0.9), gp=True),
    Atom("gp: max", _gp(lambda x: cp.max(cp.hstack([x[0] * x[1], x[1] * x[2], x[0] ** 2])), 1.3), gp=True),
    Atom("gp: norm2", _gp(cp.norm2, 1.3), gp=True),
    Atom("gp: quad_over_lin", _gp(lambda x: cp.quad_over_lin(x[:2], x[2] ** -1), 1.3), gp=True),
    Atom("gp: exp", _gp(lambda x: cp.exp(x[0] + x[1] * x[2]), 3.0), gp=True),
    Atom("gp: log", _gp(lambda x: cp.log(9.0 * x[0] ** -1 * x[1] ** -0.5 * x[2] ** -1), 0.6, lower=True), gp=True),
    Atom("gp: xexp", _gp(lambda x: cp.sum(cp.xexp(x)), 3.0), gp=True),
    Atom("gp: one_minus_pos", _gp(lambda x: cp.one_minus_pos(x[0] * x[1] + x[2]), 0.3, lower=True), gp=True),
    Atom("gp: diff_pos", _gp(lambda x: cp.diff_pos(2.0, x[0] * x[1] + x[2]), 0.6, lower=True), gp=True),
    Atom("gp: pf_eigenvalue", _gp(cp.pf_eigenvalue, 2.1, [[1.0, 0.7], [0.4, 1.3]]), gp=True),
    Atom("gp: eye_minus_inv", _gp(lambda X: cp.trace(cp.eye_minus_inv(X)), 2.9, [[1.0, 0.7], [0.4, 1.3]]), gp=True),
    Atom(
        "gp: gmatmul",
        _gp(lambda x: cp.max(cp.gmatmul(np.array([[1.0, 0.5, 0.2], [0.3, 1.0, 0.7]]), x)), 1.2),
        gp=True,
    ),
    Atom("gp: cumprod", _gp(lambda x: cp.sum(cp.cumprod(x)), 2.5), gp=True),
]


def _tensors(
    parameters: list[cp.Parameter], shift: float = 0.0, directions: Sequence[np.ndarray] = ()
) -> list[torch.Tensor]:
    values = [np.array(p.value, dtype=float) for p in parameters]
    if shift:
        values = [v + shift * d for v, d in zip(values, directions, strict=True)]
    return [torch.tensor(v, requires_grad=not shift) for v in values]


def _cones(layer: dcl.CvxpyLayer) -> str:
    """As in "2 zero, 3 nonnegative, second_order 4 x2"."""
    shown: Counter[str] = Counter()
    for block in (block for block in layer._form.structure.cone.blocks if block.rows * block.count):
        shown[
            block.kind if block.is_orthant or block.kind in ("exponential", "power") else f"{block.kind} {block.size}"
        ] += block.rows * block.count if block.is_orthant else block.count
    return ", ".join(f"{kind.replace('_', '-')} x{count}" for kind, count in shown.items()) or "none"


def examine(entry: Atom) -> Row:
    """Solve, differentiate, compare; an error of dcl is the row's."""
    problem, variables = entry.build()
    parameters = problem.parameters()
    try:
        layer = dcl.CvxpyLayer(problem, parameters, variables, gp=entry.gp, on_degenerate="ignore")
        leaves = _tensors(parameters)
        found, solution = layer(*leaves, return_solution=True)
    except dcl.DclError as error:
        return Row(entry.name, error=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    rng = np.random.default_rng(zlib.crc32(entry.name.encode()))
    weights = [torch.tensor(rng.standard_normal(t.shape)) for t in found]
    directions = [rng.standard_normal(p.shape) for p in parameters]
    directions = [d + d.T if p.attributes["symmetric"] else d for d, p in zip(directions, parameters, strict=True)]
    sum((w * t).sum() for w, t in zip(weights, found, strict=True)).backward()
    slope = sum(float((leaf.grad * torch.tensor(d)).sum()) for leaf, d in zip(leaves, directions, strict=True))

    def moved(shift: float) -> float:
        outputs = layer.solve(*_tensors(parameters, shift, directions)).outputs
        return sum(float((w * t).sum()) for w, t in zip(weights, outputs, strict=True))

    difference = (8 * (moved(STEP) - moved(-STEP)) - (moved(2 * STEP) - moved(-2 * STEP))) / (12 * STEP)
    polish.solve(problem, gp=entry.gp)
    point = max(float(np.abs(v.value - t.detach().numpy()).max()) for v, t in zip(variables, found, strict=True))
    for variable, t in zip(variables, found, strict=True):
        variable.project_and_assign(t.detach().numpy())
    violation = max(map(polish.violation, problem.constraints), default=0.0)
    return Row(
        entry.name,
        _cones(layer),
        point,
        violation,
        abs(slope - difference) / (1.0 + abs(difference)),
        GradientKind(int(solution.gradient_kind)).name,
    )


HEAD = """# CVXPY's atoms in dcl

Written by `python benchmarks/atoms.py --write`; what is measured, and on which problems, is said at the top of that file.
`tests/frontends/test_atoms.py` asserts these tables: point to 1e-9, gradient to 1e-5.

Not EXACT, with the right gradient: `eye_minus_inv` (condition above the limit).
`partial_optimize` as a term of an objective is missing: CVXPY 1.9.3 itself fails on it
('Minimize' object has no attribute 'is_constant').

"""


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| atom | cones | \\|x - x_cvxpy\\| | worst violation | gradient error | gradient kind |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        if r.error:
            lines.append(f"| {r.name} | {r.error} | | | | |")
        else:
            lines.append(f"| {r.name} | {r.cones} | {r.point:.0e} | {r.violation:.0e} | {r.gradient:.0e} | {r.kind} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="atoms with this in their names")
    parser.add_argument("--write", action="store_true", help="write docs/atoms.md")
    options = parser.parse_args()
    print(f"dcl {dcl.__version__}, cvxpy {cp.__version__}, torch {torch.__version__}, {platform.machine()}")
    rows = [examine(entry) for entry in ATOMS if not options.only or options.only in entry.name]
    print(table(rows))
    solved = [r for r in rows if not r.error]
    summary = f"{len(rows)} atoms and constraints, {len(solved)} solved: " + ", ".join(
        f"largest {what} {max(getattr(r, field) for r in solved):.0e}"
        for what, field in (("|x - x_cvxpy|", "point"), ("violation", "violation"), ("gradient error", "gradient"))
    )
    print(summary)
    if options.write:
        (ROOT / "docs" / "atoms.md").write_text(
            HEAD + summary.replace("|", "\\|") + ".\n\n" + table(rows) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
