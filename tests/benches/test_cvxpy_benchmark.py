"""benchmarks/how_fast_are_cvxpy_layers.py: right references, wrong answers found out, dcl right, peers that may be absent."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles import polish

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import cvxpy_peers  # noqa: E402 -- it lies beside the package
import cvxpy_reference  # noqa: E402
import cvxpy_timing  # noqa: E402
import how_fast_are_cvxpy_layers as script  # noqa: E402
from contest import Effort, Programs  # noqa: E402
from cvxpy_figure import draw  # noqa: E402
from cvxpy_programs import FAMILIES  # noqa: E402
from cvxpy_reference import Differences, random_programs  # noqa: E402
from cvxpy_report import overview, twins  # noqa: E402
from cvxpy_works import LONG, SHORT, Work, works  # noqa: E402
from lines import Done, Line  # noqa: E402

EFFORT = Effort(seconds=0.0, turns=3, call=10.0)
SMALL = {family: next(iter(sizes)) for family, sizes in SHORT.items()}
SOLVED = 1e-9  # two polished points
DIFFERENCE = 1e-6  # of central differences with steps 1e-5 and 1e-4: their own error, and rounding
DCL_ERROR, DCL_DIFFERENCE = 1e-9, 1e-7


def answers_of(programs: Programs) -> Differences:
    found = programs.answers[0.0]
    assert isinstance(found, Differences)
    return found


def solved(
    problem: cp.Problem, variable: cp.Variable, programs: Programs, k: int, step: float = 0.0, way: dict | None = None
) -> np.ndarray:
    """x of program k, moved by so much along its direction; from Clarabel anew."""
    for name, t in programs.data.items():
        problem.param_dict[name].value = t[k] + (step * way[name][k] if way else 0.0)
    polish.solve(problem)
    return variable.value.flatten()


# The references


@pytest.mark.sample(7)
@pytest.mark.parametrize("family", FAMILIES)
def test_references_are_solutions_and_differences_of_the_program_itself(family: str) -> None:
    """Of the family's own form, though the references of some come from a simpler one; solved anew, with a longer step."""
    programs = random_programs(family, SMALL[family], 3, seed=1)
    right = answers_of(programs)
    problem, variable = FAMILIES[family].build(SMALL[family], False)
    for k in range(len(programs)):
        np.testing.assert_allclose(solved(problem, variable, programs, k), right.x[k], atol=SOLVED)
        ends = [solved(problem, variable, programs, k, step, right.ways) @ programs.w for step in (1e-4, -1e-4)]
        assert right.slopes[k] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=DIFFERENCE, abs=DIFFERENCE)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.bounds])
def test_both_forms_have_the_same_solution(family: str) -> None:
    programs = random_programs(family, SMALL[family], 2)
    problem, variable = FAMILIES[family].build(SMALL[family], True)
    for k in range(len(programs)):
        np.testing.assert_allclose(solved(problem, variable, programs, k), answers_of(programs).x[k], atol=SOLVED)


def test_closed_forms() -> None:
    ridge, entropy = random_programs("ridge", 15, 4), random_programs("entropy", 6, 4)
    for programs, names, closed in (
        (ridge, "Ab", lambda A, b: torch.linalg.solve(A.T @ A + 2.0 * torch.eye(A.shape[1], dtype=A.dtype), A.T @ b)),
        (entropy, "c", lambda c: torch.softmax(-c, 0)),
    ):
        right = answers_of(programs)
        for k in range(len(programs)):
            data = [torch.from_numpy(programs.data[name][k]) for name in names]
            way = [torch.from_numpy(right.ways[name][k]) for name in names]
            x, dx = torch.func.jvp(closed, tuple(data), tuple(way))
            np.testing.assert_allclose(right.x[k], x, atol=1e-12)
            assert right.slopes[k] == pytest.approx(float(dx @ torch.from_numpy(programs.w)), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize(("at", "has_slope"), [(1.0, True), (1e-6, False), (0.0, False), (-1e-6, False), (-1.0, True)])
def test_there_is_no_reference_at_a_kink(at: float, has_slope: bool) -> None:
    x, y = cp.Variable(1), cp.Parameter(1, name="y")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [x >= 0])
    found = cvxpy_reference._answer(problem, x, np.ones(1), {"y": np.array([at])}, {"y": np.ones(1)})
    assert (found is not None) == has_slope
    if found is not None:
        assert (found[0][0], found[1]) == pytest.approx((max(at, 0.0), float(at > 0.0)), abs=1e-8)


# What counts as wrong


def test_errors_are_found() -> None:
    x, ways = np.array([[1.0, 2.0], [0.0, -4.0]]), {"c": np.array([[1.0, 0.0], [0.0, 1.0]])}
    right = Differences(x, ways, np.array([3.0, -4.0]))
    rows, gradient = np.array([1, 0]), {"c": np.array([[9.0, -4.0], [3.0, 9.0]])}
    assert right.errors(rows, x[rows], gradient) == (0.0, 0.0)
    assert right.errors(rows, x[rows] + np.array([[0.0, 0.4], [0.0, 0.0]]), {})[0] == pytest.approx(0.1)
    nothing = Differences(np.array([[0.0], [5.0]]), {}, np.zeros(2))
    assert nothing.errors(np.array([0]), np.array([[1e-16]]), {})[0] == pytest.approx(2e-15)
    off = {"c": gradient["c"] + np.array([[0.0, 0.5], [0.0, 0.0]])}
    assert right.errors(rows, x[rows], off)[1] == pytest.approx(0.5 / math.sqrt(12.5))
    lost = {"c": np.full((2, 2), np.nan)}
    assert right.errors(rows, np.full((2, 2), np.nan), lost) == (math.inf, math.inf)


# What is timed


def test_the_works() -> None:
    everything = works([], LONG)
    assert len(set(everything)) == len(everything)
    assert set(LONG) == set(SHORT) == set(FAMILIES)
    assert all(batches[0] == 1 < batches[-1] for sizes in LONG.values() for batches in sizes.values())
    assert len({work.subject for work in everything}) == len({work.pool for work in everything})
    for name, family in FAMILIES.items():
        if family.twin:  # the same sizes and batches, to compare
            assert {(w.size, w.batch) for w in works([name], LONG)} <= {
                (w.size, w.batch) for w in works([family.twin], LONG)
            }


def lines_of(todo: list[Work]) -> list[Done]:
    return list(cvxpy_timing.time_works(todo, [], EFFORT))


@pytest.mark.sample(11)
@pytest.mark.parametrize("family", FAMILIES)
def test_dcl_is_right_and_absent_peers_are_listed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tuple(p if p.is_dcl else replace(p, needs=("no-such-package",)) for p in cvxpy_peers.PEERS)
    monkeypatch.setattr(cvxpy_peers, "PEERS", absent)
    ((_, lines),) = lines_of([Work(family, SMALL[family], 2)])
    verdicts = {line.layer: line.verdict for line in lines}
    assert verdicts.pop(cvxpy_peers.DCL) == "right"
    assert verdicts.pop(cvxpy_peers.UNREDUCED) in ("right", "left out: this version has no argument `reduce`")
    assert set(verdicts.values()) == {"not installed: no-such-package"}
    assert (f"{cvxpy_peers.MOREAU}, 2x >= 0" in verdicts) == FAMILIES[family].bounds
    ours = lines[0]
    assert ours.error_x < DCL_ERROR
    assert ours.error_gradient < DCL_DIFFERENCE


def test_a_dropped_cone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cvxpylayers with solver="MOREAU" does."""

    def without_bounds(problem: cp.Problem, parameters: list, variables: list) -> object:
        import dcl

        kept = [
            constraint for constraint in problem.constraints if not isinstance(constraint, cp.constraints.Inequality)
        ]
        return dcl.CvxpyLayer(cp.Problem(problem.objective, kept), parameters, variables)

    peer = cvxpy_peers.Peer("dropped", (), cvxpy_peers._layer(without_bounds))
    monkeypatch.setattr(cvxpy_peers, "PEERS", (peer,))
    ((_, lines),) = lines_of([Work("ls_simplex", 20, 2)])
    assert [line.verdict for line in lines] == ["wrong"]


# What is printed


def line(work: Work, layer: str, ms: float, error: float = 0.0, trouble: str = "") -> Line:
    return Line(work, layer, layer.startswith("dcl"), True, trouble, "", 3, ms, ms, ms / 2, ms / 2, error, error)


def results() -> list[tuple[Work, list[Line]]]:
    box, with_abs = Work("mpc", 20, 1), Work("mpc_abs", 20, 1)
    return [
        (
            box,
            [
                line(box, "dcl.CvxpyLayer", 1.0),
                line(box, "cvxpylayers, default", 0.1, error=0.1),
                line(box, "good", 2.0),
            ],
        ),
        (with_abs, [line(with_abs, "dcl.CvxpyLayer", 3.0), line(with_abs, "cvxpylayers, Clarabel", 2.0)]),
    ]


def test_the_summaries() -> None:
    rows = overview(results()).splitlines()[3:]
    assert [row.split()[-5:] for row in rows] == [
        ["2.00", "1.00", "0.50", "0e+00", "0e+00"],
        ["2.00", "3.00", "1.50", "0e+00", "0e+00"],
    ]
    assert "good" in rows[0]
    (row,) = twins(results()).splitlines()[3:]
    assert row.split()[-3:] == ["dcl.CvxpyLayer", "1", "3.00"]
    nothing = [
        (work, [replace(entry, ms=math.nan, trouble="failed: X") for entry in lines]) for work, lines in results()
    ]
    assert "failed" in overview(nothing)
    assert twins(nothing) == ""


def test_the_figure() -> None:
    left, right = draw([(work, lines[:1] + lines[-1:]) for work, lines in results()[1:]]).axes
    (bar,) = left.patches
    assert (bar.get_x(), bar.get_width()) == (1.0, 0.5)
    assert [label.get_text() for label in left.get_yticklabels()] == ["MPC, abs(u) <= 1, horizon 20"]
    assert not right.patches
    assert not draw([]).axes


def test_a_fault_of_dcl_is_an_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work("lp", 4, 1)
    for lines, status in (
        ([line(work, "dcl.CvxpyLayer", 1.0), line(work, "cvxpylayers, default", 1.0, error=0.1)], 0),
        ([line(work, "dcl.CvxpyLayer", 1.0, error=0.1)], 1),
        ([line(work, "dcl.CvxpyLayer", math.nan, trouble="failed: SolveError")], 1),
    ):
        monkeypatch.setattr(script, "timed", lambda *_, lines=lines: iter([(work, lines)]))
        assert script.main(["--short"]) == status
    assert "dcl.CvxpyLayer: wrong" in capsys.readouterr().err


@pytest.mark.slow
def test_the_short_run(tmp_path: Path) -> None:
    files = {"--csv": tmp_path / "figures.csv", "--figure": tmp_path / "figure.png"}
    command = [sys.executable, "-W", "error", str(FOLDER / "how_fast_are_cvxpy_layers.py"), "--short", "--peers", "dcl"]
    done = subprocess.run(
        command + [str(word) for pair in files.items() for word in pair], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    with files["--csv"].open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["layer"] == cvxpy_peers.DCL]
    assert {row["family"] for row in rows} == set(FAMILIES)
    assert {row["verdict"] for row in rows} == {"right"}
    assert files["--figure"].exists()
