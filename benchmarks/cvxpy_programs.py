"""The programs of `how_fast_are_cvxpy_layers.py`, as people write them in CVXPY, and their random data.

Two forms of each: plain, and with scaled bounds, 2 x >= 2 l instead of x >= l.  The second is for cvxpylayers 1.2.0 with
solver="MOREAU" and CVXPY 1.9, which drops cones on a variable itself, those that CVXPY makes for `pos` too, and keeps
G @ x <= h with any other G.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np

Data = dict[str, np.ndarray]
Built = tuple[cp.Problem, cp.Variable]


@dataclass(frozen=True)
class Family:
    """build(size, scaled): the problem and the variable that is asked for.  draw(size, rng): the parameters' values by name.

    title: with {size} and {columns}.  bounds: the two forms differ.
    twin: the family with the same data and solutions, written in a simpler way, for which no layer should take much less time.
    """

    title: str
    parameters: tuple[str, ...]
    build: Callable[[int, bool], Built]
    draw: Callable[[int, np.random.Generator], Data]
    columns: Callable[[int], int] = lambda size: size
    bounds: bool = False
    twin: str = ""

    def named(self, size: int) -> str:
        return self.title.format(size=size, columns=self.columns(size))


def _at_least(t: cp.Expression, low: float | cp.Expression, scaled: bool) -> cp.Constraint:
    return 2.0 * t >= 2.0 * low if scaled else t >= low


def _at_most(t: cp.Expression, high: float | cp.Expression, scaled: bool) -> cp.Constraint:
    return 2.0 * t <= 2.0 * high if scaled else t <= high


# Regression: A (size, columns), b (size,)


def _root(size: int) -> int:
    return max(3, round(size**0.5))


def _fifth(size: int) -> int:
    return max(2, size // 5)


def _two_fifths(size: int) -> int:
    return 2 * size // 5


def _residual(size: int, columns: int) -> tuple[cp.Variable, cp.Expression]:
    x = cp.Variable(columns)
    return x, cp.sum_squares(cp.Parameter((size, columns), name="A") @ x - cp.Parameter(size, name="b"))


def _draw_regression(columns: Callable[[int], int]) -> Callable[[int, np.random.Generator], Data]:
    def draw(size: int, rng: np.random.Generator) -> Data:
        n = columns(size)
        A, x = rng.standard_normal((size, n)), rng.standard_normal(n) * (rng.random(n) < 0.5)
        return {"A": A, "b": A @ x + 0.5 * rng.standard_normal(size)}

    return draw


def _build_ls_simplex(size: int, scaled: bool) -> Built:
    x, square = _residual(size, _root(size))
    return cp.Problem(cp.Minimize(square), [_at_least(x, 0.0, scaled), cp.sum(x) == 1.0]), x


def _build_lasso(size: int, scaled: bool) -> Built:
    x, square = _residual(size, _two_fifths(size))
    return cp.Problem(cp.Minimize(square + 0.4 * size * cp.norm1(x))), x


def _build_ridge(size: int, scaled: bool) -> Built:
    x, square = _residual(size, _fifth(size))
    return cp.Problem(cp.Minimize(square + 2.0 * cp.sum_squares(x))), x


def _build_tv(size: int, scaled: bool) -> Built:
    x, y = cp.Variable(size), cp.Parameter(size, name="y")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - y) + cp.norm1(cp.diff(x)))), x


def _draw_tv(size: int, rng: np.random.Generator) -> Data:
    steps = np.repeat(rng.standard_normal(5), -(-size // 5))[:size]
    return {"y": steps + 0.3 * rng.standard_normal(size)}


# Classification: X (size, columns), labels fixed


def _labels(size: int) -> np.ndarray:
    return np.where(np.arange(size) % 2 == 0, 1.0, -1.0)


def _build_svm(size: int, scaled: bool) -> Built:
    n = _fifth(size)
    beta, offset, X = cp.Variable(n), cp.Variable(), cp.Parameter((size, n), name="X")
    margin = cp.multiply(_labels(size), X @ beta + offset)
    if not scaled:
        return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(beta) + cp.sum(cp.pos(1.0 - margin)))), beta
    lack = cp.Variable(size)
    objective = cp.Minimize(0.5 * cp.sum_squares(beta) + cp.sum(lack))
    return cp.Problem(objective, [lack >= 1.0 - margin, _at_least(lack, 0.0, scaled)]), beta


def _build_logistic(size: int, scaled: bool) -> Built:
    n = _fifth(size)
    beta, X = cp.Variable(n), cp.Parameter((size, n), name="X")
    loss = cp.sum(cp.logistic(-cp.multiply(_labels(size), X @ beta)))
    return cp.Problem(cp.Minimize(loss + 0.1 * cp.sum_squares(beta))), beta


def _draw_classes(size: int, rng: np.random.Generator) -> Data:
    return {"X": rng.standard_normal((size, _fifth(size))) + 0.3 * _labels(size)[:, None]}


def _build_quantile(size: int, scaled: bool) -> Built:
    """Quantile regression (Koenker and Bassett 1978), quantile 0.3: a linear program."""
    x = cp.Variable(_fifth(size))
    residual = cp.Parameter(size, name="b") - cp.Parameter((size, _fifth(size)), name="A") @ x
    return cp.Problem(cp.Minimize(cp.sum(cp.maximum(0.3 * residual, -0.7 * residual)))), x


def _build_wide_lasso(size: int, scaled: bool) -> Built:
    x, square = _residual(size, 2 * size)
    return cp.Problem(cp.Minimize(0.5 * square + 0.2 * size * cp.norm1(x))), x


# Networks


def _build_relu(size: int, scaled: bool) -> Built:
    """max(W x + b, 0) of one layer.  W x is a product of parameters, so a variable stands for W."""
    y, V = cp.Variable(size), cp.Variable((size, size))
    W, x, b = cp.Parameter((size, size), name="W"), cp.Parameter(size, name="x"), cp.Parameter(size, name="b")
    return cp.Problem(cp.Minimize(cp.sum_squares(y - V @ x - b)), [_at_least(y, 0.0, scaled), V == W]), y


def _draw_relu(size: int, rng: np.random.Generator) -> Data:
    return {"W": rng.standard_normal((size, size)), "x": rng.standard_normal(size), "b": rng.standard_normal(size)}


# Decisions


def _build_portfolio(size: int, scaled: bool) -> Built:
    x, mu = cp.Variable(size), cp.Parameter(size, name="mu")
    F, d = cp.Parameter((_fifth(size), size), name="F"), cp.Parameter(size, name="d")
    risk = cp.sum_squares(F @ x) + cp.sum_squares(cp.multiply(d, x))
    return cp.Problem(cp.Minimize(risk - mu @ x), [_at_least(x, 0.0, scaled), cp.sum(x) == 1.0]), x


def _draw_portfolio(size: int, rng: np.random.Generator) -> Data:
    factors = rng.standard_normal((_fifth(size), size))
    return {"mu": rng.random(size), "F": factors, "d": 0.5 + rng.random(size)}


def _chain(size: int) -> tuple[cp.Variable, cp.Expression, list[cp.Constraint]]:
    """u (size, 2), the cost, the dynamics of 4 states from the parameter x0; A and B are constants."""
    rng = np.random.default_rng(1)
    A, B = np.eye(4) + 0.1 * rng.standard_normal((4, 4)), rng.standard_normal((4, 2))
    x, u = cp.Variable((size + 1, 4)), cp.Variable((size, 2))
    dynamics = [x[0] == cp.Parameter(4, name="x0"), x[1:] == x[:-1] @ A.T + u @ B.T]
    return u, cp.sum_squares(x) + 0.1 * cp.sum_squares(u), dynamics


def _build_mpc(size: int, scaled: bool) -> Built:
    u, cost, dynamics = _chain(size)
    return cp.Problem(cp.Minimize(cost), [*dynamics, _at_most(u, 1.0, scaled), _at_least(u, -1.0, scaled)]), u


def _build_mpc_abs(size: int, scaled: bool) -> Built:
    u, cost, dynamics = _chain(size)
    return cp.Problem(cp.Minimize(cost), [*dynamics, cp.abs(u) <= 1.0]), u


def _draw_mpc(size: int, rng: np.random.Generator) -> Data:
    return {"x0": 2.0 * rng.standard_normal(4)}


def _network(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Incidence (size, 3 size) of a ring and random arcs, and a flow (3 size,); the rows add up to zero."""
    rng = np.random.default_rng(2)
    start, end = np.arange(size), (np.arange(size) + 1) % size
    more = np.array([rng.choice(size, 2, replace=False) for _ in range(2 * size)]).T
    incidence = np.zeros((size, 3 * size))
    incidence[np.append(start, more[0]), np.arange(3 * size)] = 1.0
    incidence[np.append(end, more[1]), np.arange(3 * size)] = -1.0
    return incidence, rng.random(3 * size)


def _build_flow(rows_left_out: int) -> Callable[[int, bool], Built]:
    def build(size: int, scaled: bool) -> Built:
        incidence, flow = _network(size)
        rows = incidence[rows_left_out:]
        f, c, u = cp.Variable(3 * size), cp.Parameter(3 * size, name="c"), cp.Parameter(3 * size, name="u")
        return cp.Problem(cp.Minimize(c @ f), [rows @ f == rows @ flow, _at_least(f, 0.0, scaled), f <= u]), f

    return build


def _draw_flow(size: int, rng: np.random.Generator) -> Data:
    return {"c": 0.1 + rng.random(3 * size), "u": _network(size)[1] + 0.3 * rng.random(3 * size)}


def _build_lp(size: int, scaled: bool) -> Built:
    m = 3 * size // 2
    x, q = cp.Variable(size), cp.Parameter(size, name="q")
    return cp.Problem(cp.Minimize(q @ x), [cp.Parameter((m, size), name="G") @ x <= cp.Parameter(m, name="h")]), x


def _draw_lp(size: int, rng: np.random.Generator) -> Data:
    m = 3 * size // 2
    G, x = rng.standard_normal((m, size)), rng.standard_normal(size)
    return {"q": -G.T @ rng.random(m), "G": G, "h": G @ x + rng.random(m)}


def _build_ot(size: int, scaled: bool) -> Built:
    """Optimal transport with a quadratic penalty (Blondel et al. 2018).

    One equality follows from the others.  The second form leaves it out: with it, moreau 0.4.1 returns zeros, silently.
    """
    X, C = cp.Variable((size, size)), cp.Parameter((size, size), name="C")
    a, b = (np.random.default_rng(seed).dirichlet(np.full(size, 5.0)) for seed in (3, 4))
    cost = cp.sum(cp.multiply(C, X)) + 0.5 * size * cp.sum_squares(X)
    most = size - 1 if scaled else size
    rows = [cp.sum(X, axis=1) == a, cp.sum(X, axis=0)[:most] == b[:most]]
    return cp.Problem(cp.Minimize(cost), [_at_least(X, 0.0, scaled), *rows]), X


def _build_entropy(size: int, scaled: bool) -> Built:
    """The solution is softmax(-c)."""
    x, c = cp.Variable(size), cp.Parameter(size, name="c")
    return cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1.0]), x


def _build_soc(size: int, scaled: bool) -> Built:
    """Two dense second-order cones."""
    x, y = cp.Variable(size), cp.Parameter(size, name="y")
    balls = []
    for k in "12":
        A, c, d = cp.Parameter((size, size), name="A" + k), cp.Parameter(size, name="c" + k), cp.Parameter(name="d" + k)
        balls.append(cp.norm(A @ x + c) <= d)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - y)), balls), x


def _draw_soc(size: int, rng: np.random.Generator) -> Data:
    data: Data = {"y": rng.standard_normal(size)}
    for k in "12":
        data["A" + k] = np.eye(size) + 0.5 * rng.standard_normal((size, size)) / size**0.5
        data["c" + k] = 0.3 * rng.standard_normal(size) / size**0.5
        data["d" + k] = np.array(0.7 + 0.1 * rng.random()) * np.linalg.norm(data["A" + k] @ data["y"] + data["c" + k])
    return data


def _build_spectraplex(size: int, scaled: bool) -> Built:
    X, C = cp.Variable((size, size), symmetric=True), cp.Parameter((size, size), name="C")
    psd = 2.0 * X >> 0 if scaled else X >> 0
    return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [psd, cp.trace(X) == 1.0]), X


def _draw_spectraplex(size: int, rng: np.random.Generator) -> Data:
    M = rng.standard_normal((size, size)) / size**0.5
    return {"C": M + M.T}


FAMILIES = {
    "ls_simplex": Family(
        "ls_simplex, A {size} x {columns}",
        ("A", "b"),
        _build_ls_simplex,
        _draw_regression(_root),
        columns=_root,
        bounds=True,
    ),
    "lasso": Family(
        "lasso, A {size} x {columns}", ("A", "b"), _build_lasso, _draw_regression(_two_fifths), columns=_two_fifths
    ),
    "ridge": Family("ridge, A {size} x {columns}", ("A", "b"), _build_ridge, _draw_regression(_fifth), columns=_fifth),
    "tv": Family("total variation, n {size}", ("y",), _build_tv, _draw_tv),
    "svm": Family("SVM, X {size} x {columns}", ("X",), _build_svm, _draw_classes, columns=_fifth, bounds=True),
    "quantile": Family(
        "quantile regression, A {size} x {columns}",
        ("A", "b"),
        _build_quantile,
        _draw_regression(_fifth),
        columns=_fifth,
    ),
    "wide_lasso": Family(
        "lasso, A {size} x {columns}",
        ("A", "b"),
        _build_wide_lasso,
        _draw_regression(lambda size: 2 * size),
        columns=lambda size: 2 * size,
    ),
    "relu": Family("ReLU, W {size} x {size}", ("W", "x", "b"), _build_relu, _draw_relu, bounds=True),
    "logistic": Family("logistic, X {size} x {columns}", ("X",), _build_logistic, _draw_classes, columns=_fifth),
    "portfolio": Family(
        "portfolio, n {size}, {columns} factors",
        ("mu", "F", "d"),
        _build_portfolio,
        _draw_portfolio,
        columns=_fifth,
        bounds=True,
    ),
    "mpc": Family("MPC, box, horizon {size}", ("x0",), _build_mpc, _draw_mpc, bounds=True),
    "mpc_abs": Family("MPC, abs(u) <= 1, horizon {size}", ("x0",), _build_mpc_abs, _draw_mpc, twin="mpc"),
    "flow": Family(
        "flow LP, {size} nodes, {columns} arcs",
        ("c", "u"),
        _build_flow(rows_left_out=1),
        _draw_flow,
        columns=lambda size: 3 * size,
        bounds=True,
    ),
    "flow_redundant": Family(
        "the same, a redundant row",
        ("c", "u"),
        _build_flow(rows_left_out=0),
        _draw_flow,
        bounds=True,
        twin="flow",
    ),
    "lp": Family(
        "LP, {size} variables, {columns} rows", ("q", "G", "h"), _build_lp, _draw_lp, columns=lambda size: 3 * size // 2
    ),
    "ot": Family(
        "transport, {size} x {size}", ("C",), _build_ot, lambda size, rng: {"C": rng.random((size, size))}, bounds=True
    ),
    "soc": Family("two balls, n {size}", ("y", "A1", "c1", "d1", "A2", "c2", "d2"), _build_soc, _draw_soc),
    "spectraplex": Family("spectraplex, {size} x {size}", ("C",), _build_spectraplex, _draw_spectraplex, bounds=True),
    "entropy": Family("entropy, n {size}", ("c",), _build_entropy, lambda size, rng: {"c": rng.standard_normal(size)}),
}
