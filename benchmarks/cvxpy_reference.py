"""Random programs with the answers to judge every package by: no part of dcl is in them.

x is Clarabel's with tight tolerances, made exact by Newton's method on the KKT conditions (tests/oracles/polish.py).  A
gradient g of w'x in all parameters theta is judged in one random direction d:

    <g, d>   against   ( w'x(theta + h d) - w'x(theta - h d) ) / 2h,     h = 1e-5

where both points are Newton's from x(theta): where another set of rows is active at one of them, it ends at a point that is
none, and the program is drawn anew, as it is where the differences to both sides disagree.  Nobody's gradient is well
defined there.

A family with a twin gets the answers of the twin: it says the same, and there the KKT matrix is regular.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import cvxpy as cp
import numpy as np
from contest import AbstractAnswers, Programs
from cvxpy_programs import FAMILIES, Data

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracles import polish

STEP, SIDES = 1e-5, 1e-3
SMALL, LEAST_SLOPE = 1e-2, 1e-3  # x = 0 is the answer of some lassos, and no slope that of some linear programs
Point = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Differences(AbstractAnswers):
    """For all programs of a pool: x (count, n), directions by name (count, ...), the slopes of w'x along them (count,)."""

    x: np.ndarray
    ways: Data
    slopes: np.ndarray

    def errors(self, rows: np.ndarray, x: np.ndarray, gradients: Data) -> tuple[float, float]:
        """That of x relative to its largest entry (at least SMALL of that of all), that of a slope to the root mean square."""
        right = self.x[rows]
        size_x = np.maximum(np.abs(right).max(1), SMALL * np.abs(self.x).max())
        error_x = float((np.abs(x - right).max(1) / size_x).max())
        if not gradients:
            return float(np.nan_to_num(error_x, nan=np.inf)), 0.0
        found = sum((g * self.ways[name][rows]).reshape(len(rows), -1).sum(1) for name, g in gradients.items())
        size = max(LEAST_SLOPE, float(np.sqrt(np.square(self.slopes).mean())))
        error = float(np.abs(found - self.slopes[rows]).max()) / size
        return float(np.nan_to_num(error_x, nan=np.inf)), float(np.nan_to_num(error, nan=np.inf))


def random_programs(name: str, size: int, count: int, seed: int = 0) -> Programs:
    """A pool of `count` programs of a family with their answers; other seeds give other programs.

    Raises:
        ArithmeticError: hardly any program has a reference.
    """
    family, rng = FAMILIES[FAMILIES[name].twin or name], np.random.default_rng(seed)
    problem, variable = family.build(size, False)
    w = rng.standard_normal(variable.size)
    drawn: list[Data] = []
    found: list[tuple[np.ndarray, Data, float]] = []
    for _ in range(5 * count + 20):
        data = family.draw(size, rng)
        way = {parameter: rng.standard_normal(t.shape) for parameter, t in data.items()}
        answer = _answer(problem, variable, w, data, way)
        if answer is not None:
            drawn.append(data)
            found.append((answer[0], way, answer[1]))
        if len(drawn) == count:
            break
    else:
        raise ArithmeticError(f"{family.named(size)}: {len(drawn)} references for {5 * count + 20} programs")
    data_of = {name: np.stack([data[name] for data in drawn]) for name in family.parameters}
    ways = {name: np.stack([way[name] for _, way, _ in found]) for name in family.parameters}
    x, slopes = np.stack([x for x, _, _ in found]), np.array([slope for _, _, slope in found])
    return Programs(data_of, w, {0.0: Differences(x, ways, slopes)})


def _answer(
    problem: cp.Problem, variable: cp.Variable, w: np.ndarray, data: Data, way: Data
) -> tuple[np.ndarray, float] | None:
    """x and the slope of w'x; None where there is no such slope, or no reference."""

    def at(step: float, start: Point | None) -> tuple[np.ndarray, Point]:
        for name, t in data.items():
            problem.param_dict[name].value = t + step * way[name]
        point = polish.solve(problem, start=start)
        return np.asarray(variable.value).flatten(), point

    try:
        x, point = at(0.0, None)
        up, down = ((at(step, point)[0] - x) @ w / step for step in (STEP, -STEP))
    except AssertionError:  # no optimum
        return None
    slope = 0.5 * (up + down)
    return (x, float(slope)) if abs(up - down) <= SIDES * (1.0 + abs(slope)) else None
