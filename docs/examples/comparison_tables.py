"""The comparison tables of docs/compare.md: quadratic, linear, second-order, semidefinite and entropy programs, a vertex, a kink.

python docs/examples/comparison_tables.py [FILE.png]        prints them; the figure is that of the entropy program
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cvxpy as cp
import numpy as np
import torch

import dcl

MUS = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8)
Case = tuple[cp.Problem, list[cp.Parameter], list[cp.Variable], list[np.ndarray]]


def quadratic() -> Case:
    """A projection onto a simplex with a cap."""
    x, t = cp.Variable(4, name="x"), cp.Parameter(4, name="target")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.sum(x) == 1, x >= 0, x <= 0.6])
    return problem, [t], [x], [np.array([0.9, 0.4, 0.1, -0.3])]


def linear() -> Case:
    """The cheapest mixture: a vertex."""
    x, c, need = cp.Variable(4, name="x"), cp.Parameter(4, name="cost"), cp.Parameter(2, name="need")
    content = np.array([[1.0, 0.2, 0.5, 0.0], [0.1, 1.0, 0.6, 0.3]])
    problem = cp.Problem(cp.Minimize(c @ x), [content @ x >= need, x >= 0])
    return problem, [c, need], [x], [np.array([1.0, 1.2, 0.9, 0.5]), np.array([1.0, 0.8])]


def vertex() -> Case:
    """The same, differentiated in the cost alone: the mixture does not move."""
    x, c = cp.Variable(4, name="x"), cp.Parameter(4, name="cost")
    content = np.array([[1.0, 0.2, 0.5, 0.0], [0.1, 1.0, 0.6, 0.3]])
    problem = cp.Problem(cp.Minimize(c @ x), [content @ x >= np.array([1.0, 0.8]), x >= 0])
    return problem, [c], [x], [np.array([1.0, 1.2, 0.9, 0.5])]


def second_order() -> Case:
    """A portfolio with a bound on its deviation."""
    rng = np.random.default_rng(0)
    w, mean = cp.Variable(4, name="w"), cp.Parameter(4, name="mean")
    factor = rng.standard_normal((4, 4)) * 0.2 + 0.1 * np.eye(4)
    problem = cp.Problem(cp.Maximize(mean @ w), [cp.sum(w) == 1, w >= 0, cp.norm(factor @ w) <= 0.2])
    return problem, [mean], [w], [np.array([0.1, 0.15, 0.12, 0.05])]


def semidefinite() -> Case:
    """The nearest correlation matrix."""
    X, C = cp.Variable((3, 3), symmetric=True, name="X"), cp.Parameter((3, 3), name="C")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.diag(X) == 1])
    return problem, [C], [X], [np.array([[1.0, 0.9, -0.6], [0.9, 1.0, 0.5], [-0.6, 0.5, 1.0]])]


def entropy() -> Case:
    """The distribution of largest entropy with a given mean cost."""
    p, c, level = cp.Variable(4, name="p"), cp.Parameter(4, name="cost"), cp.Parameter(name="level")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(p))), [cp.sum(p) == 1, c @ p <= level])
    return problem, [c, level], [p], [np.array([1.0, 2.0, 3.0, 4.0]), np.array(2.0)]


def kink() -> Case:
    """The projection onto a budget that holds with multiplier zero."""
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="target")
    return (
        cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.sum(x) <= 1, x >= 0]),
        [t],
        [x],
        [np.array([0.5, 0.3, 0.2])],
    )


CASES = {
    "Quadratic program": quadratic,
    "Linear program": linear,
    "Linear program, cost alone": vertex,
    "Second-order cone program": second_order,
    "Semidefinite program": semidefinite,
    "Entropy program": entropy,
    "A kink": kink,
}


def compared(case: Case, mus: tuple[float, ...] = MUS) -> dcl.Comparison:
    """The comparison of one program."""
    problem, parameters, variables, values = case
    layer = dcl.CvxpyLayer(problem, parameters, variables)
    return dcl.compare_gradients(
        layer, *(torch.from_numpy(np.asarray(v, dtype=np.float64)) for v in values), mu=mus, repeats=9
    )


def main(path: Path) -> None:
    """Print all tables, draw one figure."""
    for name, case in CASES.items():
        print(f"### {name}\n\n{case.__doc__}\n\n```text\n{compared(case())}\n```\n")
    compared(entropy(), tuple(10.0**-k for k in range(1, 10))).plot(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("comparison.png"), metavar="FILE.png")
    main(parser.parse_args().path)
