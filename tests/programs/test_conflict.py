"""Conflicts of infeasible programs: they have no common point, and each constraint in them is needed for that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import linprog

import dcl
from dcl.cli.main import main

IRREDUCIBLE = "(none can be left out)"


def numbers(names: Sequence[str]) -> set[int]:
    return {int(name.split()[1]) for name in names if name.startswith("constraint")}


def failed(constraints: list[cp.Constraint], x: cp.Variable) -> dcl.programs.ProgramSolution:
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum(x)), constraints), on_failure="nan")
    return program.solve()


def test_what_is_not_needed_is_left_out() -> None:
    x = cp.Variable(4, name="x")
    solution = failed([x >= 0, cp.sum(x) <= 1, x[0] >= 0.5, x <= 5, x[1] >= 2, cp.sum(x) >= 3], x)
    assert solution.status is dcl.Status.PRIMAL_INFEASIBLE
    assert numbers(solution.conflict) == {1, 5}
    assert solution.failure.endswith(f"among: {', '.join(solution.conflict)} {IRREDUCIBLE}")
    assert solution.failure.rpartition("; ")[2] in repr(solution)


@pytest.mark.parametrize(
    ("constraints", "conflict"),
    [
        # |x| <= 1 and x0 >= 2 alone contradict each other, and so do |x| <= 1 and x1 >= 3; the sum is innocent
        (lambda x: [cp.sum(x) == 2, cp.norm(x) <= 1, x[0] >= 2], {1, 2}),
        (lambda x: [cp.exp(x[0]) <= 1, x[1] >= 0, x[0] + x[1] >= 4, cp.sum(x) <= 1, x[2] >= 0.5], {2, 3, 4}),
        (lambda x: [cp.bmat([[x[0], 2], [2, x[1]]]) >> 0, x[0] <= 1, x[1] <= 3, x[2] >= 0], {0, 1, 2}),
    ],
)
def test_curved_constraints(constraints: object, conflict: set[int]) -> None:
    x = cp.Variable(3, name="x")
    solution = failed(constraints(x), x)  # type: ignore[operator]
    assert numbers(solution.conflict) == conflict
    assert IRREDUCIBLE in solution.failure


def test_attributes_and_single_constraints() -> None:
    x = cp.Variable(2, name="x", nonneg=True)
    solution = failed([cp.sum(x) <= -1, x <= 3], x)
    assert set(solution.conflict) == {"variable x (attribute nonneg)", "constraint 0 (sum(x) <= -1)"}
    y = cp.Variable(2, name="y")
    solution = failed([y >= 0, cp.norm(y) <= -1], y)
    assert "the conflict lies within constraint 1 (norm(y, 2) <= -1)" in solution.failure


@pytest.mark.parametrize("seed", range(12))
def test_random_linear_constraints_against_highs(seed: int) -> None:
    """Feasible subsets by scipy's HiGHS: the whole conflict has no point, and without any one of it there is one."""
    rng = np.random.default_rng(seed)
    n, m = 4, 14
    A, b = rng.standard_normal((m, n)).round(2), rng.standard_normal(m).round(2) - 0.5
    x = cp.Variable(n, name="x")
    solution = failed([A[i] @ x <= b[i] for i in range(m)], x)
    if solution.ok or solution.status is not dcl.Status.PRIMAL_INFEASIBLE:
        pytest.skip("this draw has a point")
    found = sorted(numbers(solution.conflict))
    assert IRREDUCIBLE in solution.failure

    def has_point(rows: Sequence[int]) -> bool:
        chosen = list(rows)
        return linprog(np.zeros(n), A_ub=A[chosen], b_ub=b[chosen], bounds=(None, None)).status == 0

    assert not has_point(found)
    assert all(has_point([row for row in found if row != left]) for left in found)


def test_of_a_large_program_the_conflict_is_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcl.programs import conflict

    monkeypatch.setattr(conflict, "_SIZE", 3)
    x = cp.Variable(4, name="x")
    solution = failed([x >= 0, cp.sum(x) <= 1, x[0] >= 0.5, cp.sum(x) >= 3], x)
    assert {1, 3} <= numbers(solution.conflict)
    assert "the conflict lies among" in solution.failure
    assert IRREDUCIBLE not in solution.failure


@pytest.mark.parametrize("command", ["solve", "sensitivity"])
def test_commands_name_the_conflict(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.py"
    path.write_text(
        'import cvxpy as cp\nx, t = cp.Variable(2, name="x"), cp.Parameter(name="t", value=1.0)\n'
        "problem = cp.Problem(cp.Minimize(cp.sum(x)), [x >= 0, cp.sum(x) <= t, x[0] >= 2, x <= 9])\n",
        encoding="utf-8",
    )
    assert main([command, str(path)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    conflict = said.partition("the conflict lies among: ")[2]
    assert set(re.findall(r"constraint (\d)", conflict)) == {"0", "1", "2"}
    assert IRREDUCIBLE in said
