"""Random programs of three families, with the right answers and gradients to judge every package by.

    qp    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z)
    lp    minimize       q'x        subject to   Ax = b (y),   Gx <= h (z)
    box   minimize 1/2 x'Px + q'x   subject to   lb <= x <= ub                 that is G = (I, -I), h = (ub, -lb)

P = LL' + 0.01 I with L standard normal / sqrt(n), the other data standard normal.  Right-hand sides come from a random
feasible point with slacks in (0, 1), the q of an LP from random multipliers y and z > 0, so that there is a vertex to find.

The loss is w'x with a fixed w.  Answers and gradients are those of qp_reference.py, which has no part of dcl.  Programs
without a clear active set are drawn anew: nobody's gradient is well defined there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from contest import AbstractAnswers, Programs
from qp_reference import Answer, Program, central, exact
from qp_works import DATA, Shape


@dataclass(frozen=True)
class Answers(AbstractAnswers):
    """For all programs of a pool: x (count, n), and the gradients of w'x by the name of the data, (count, ...)."""

    x: np.ndarray
    gradients: dict[str, np.ndarray]

    def errors(self, rows: np.ndarray, x: np.ndarray, gradients: dict[str, np.ndarray]) -> tuple[float, float]:
        """All data of a program taken together, P symmetrized."""
        right = self.x[rows]
        error_x = np.abs(x - right).max(1) / (1.0 + np.abs(right).max(1))
        wrong, size = np.zeros(len(x)), np.full(len(x), 0.0 if gradients else 1.0)
        for name, g in gradients.items():
            expected = self.gradients[name][rows]
            g = 0.5 * (g + g.transpose(0, 2, 1)) if name == "P" else g
            wrong += np.square(g - expected).reshape(len(x), -1).sum(1)
            size += np.square(expected).reshape(len(x), -1).sum(1)
        found = float(error_x.max()), float(np.sqrt(wrong / size).max())
        return float(np.nan_to_num(found[0], nan=np.inf)), float(np.nan_to_num(found[1], nan=np.inf))


def random_programs(family: str, shape: Shape, count: int, seed: int = 0, mus: Sequence[float] = (0.0,)) -> Programs:
    """A pool of `count` programs with their answers at these mu; other seeds give other programs.

    "L" is the square root with P = L'L, for packages that cannot take P; its gradient is 2 L grad_P.
    """
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape.n)
    drawn: list[tuple[np.ndarray, ...]] = []
    found: dict[float, list[dict[str, np.ndarray]]] = {mu: [] for mu in mus}
    while len(drawn) < count:
        data = _DRAW[family](shape, rng)
        program = standard_form(family, data)
        answer = exact(program, w)
        if answer is None:
            continue
        drawn.append(data)
        for mu in mus:
            at = answer if mu == 0.0 else central(program, w, mu)
            found[mu].append({"x": at.x, **_gradients(family, at)})
    names = DATA[family]
    data_of = {name: np.stack([data[k] for data in drawn]) for k, name in enumerate(names)}
    answers = {}
    for mu in mus:
        x, *gradients = (np.stack([at[name] for at in found[mu]]) for name in ("x", *names))
        answers[mu] = Answers(x, dict(zip(names, gradients, strict=True)))
    if "P" in names:
        data_of["L"] = np.linalg.cholesky(data_of["P"]).transpose(0, 2, 1).copy()
        for at_mu in answers.values():
            at_mu.gradients["L"] = 2.0 * data_of["L"] @ at_mu.gradients["P"]
    return Programs(data_of, w, answers)


def _draw_qp(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n, m, p = shape.n, shape.m, shape.p
    L = rng.standard_normal((n, n)) / np.sqrt(n)
    A, G, x = rng.standard_normal((p, n)), rng.standard_normal((m, n)), rng.standard_normal(n)
    return L @ L.T + 0.01 * np.eye(n), rng.standard_normal(n), A, A @ x, G, G @ x + rng.uniform(0.0, 1.0, m)


def _draw_lp(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n, m, p = shape.n, shape.m, shape.p
    A, G, x = rng.standard_normal((p, n)), rng.standard_normal((m, n)), rng.standard_normal(n)
    q = -A.T @ rng.standard_normal(p) - G.T @ rng.uniform(0.0, 1.0, m)
    return q, A, A @ x, G, G @ x + rng.uniform(0.0, 1.0, m)


def _draw_box(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n = shape.n
    L = rng.standard_normal((n, n)) / np.sqrt(n)
    x = rng.standard_normal(n)
    lb, ub = x - rng.uniform(0.0, 1.0, n), x + rng.uniform(0.0, 1.0, n)
    return L @ L.T + 0.01 * np.eye(n), rng.standard_normal(n), lb, ub


_DRAW: dict[str, Callable[[Shape, np.random.Generator], tuple[np.ndarray, ...]]] = {
    "qp": _draw_qp,
    "lp": _draw_lp,
    "box": _draw_box,
}


def standard_form(family: str, data: tuple[np.ndarray, ...]) -> Program:
    """The program as one with P, A, G."""
    if family == "qp":
        return Program(*data)
    if family == "lp":
        n = len(data[0])
        return Program(np.zeros((n, n)), *data)
    P, q, lb, ub = data
    eye = np.eye(len(q))
    return Program(P, q, np.zeros((0, len(q))), np.zeros(0), np.concatenate([eye, -eye]), np.concatenate([ub, -lb]))


def _gradients(family: str, answer: Answer) -> dict[str, np.ndarray]:
    """The gradients by the names of the family's data: the adjoint of `standard_form`."""
    gradients = answer.gradients()
    if family == "box":
        upper, lower = np.split(gradients["h"], 2)
        gradients |= {"lb": -lower, "ub": upper}
    return {name: gradients[name] for name in DATA[family]}
