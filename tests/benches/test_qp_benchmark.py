"""benchmarks/how_fast_are_qp_layers.py: right references, wrong answers found out, dcl right, peers that may be absent."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import how_fast_are_qp_layers as script  # noqa: E402 -- it lies beside the package
import qp_peers  # noqa: E402
import qp_timing  # noqa: E402
import where_does_the_time_go as parts  # noqa: E402
from contest import LEAST, Effort, Programs  # noqa: E402
from lines import Done, Line, base, ratio, table  # noqa: E402
from machine import cores  # noqa: E402
from processes import confined  # noqa: E402
from qp_families import random_programs, standard_form  # noqa: E402
from qp_figure import draw  # noqa: E402
from qp_reference import Answer, central, exact  # noqa: E402
from qp_report import growth, ratios, speedups  # noqa: E402
from qp_works import DATA, DENSE, MEGABYTES, PARTS, SIZES, Shape, Work, shape_of_size, works  # noqa: E402

from dcl import core  # noqa: E402

MU = 1e-2
DIFFERENCE = 1e-6  # of a central difference with step 1e-5: its own error, and rounding
DCL_ERROR = 1e-9
EFFORT = Effort(seconds=0.0, turns=3, call=10.0)
SMALL = {family: Work(family, shape_of_size(family, 5), 3) for family in DATA}


# The references: differences, and the equations that define the answer


def answer(family: str, data: dict[str, np.ndarray], w: np.ndarray, mu: float) -> Answer:
    program = standard_form(family, tuple(data[name] for name in DATA[family]))
    found = central(program, w, mu) if mu else exact(program, w)
    assert found is not None
    return found


@pytest.mark.parametrize("mu", [0.0, MU])
@pytest.mark.parametrize("family", DATA)
def test_gradients_of_the_reference_are_differences(family: str, mu: float) -> None:
    programs = random_programs(family, shape_of_size(family, 5), 4, seed=1, mus=(mu,))
    rng = np.random.default_rng(0)
    for k in range(len(programs)):
        data = {name: programs.data[name][k] for name in DATA[family]}
        way = {name: rng.standard_normal(a.shape) for name, a in data.items()}
        way |= {name: a + a.T for name, a in way.items() if name == "P"}
        ends = [
            answer(family, {name: a + step * way[name] for name, a in data.items()}, programs.w, mu).x @ programs.w
            for step in (1e-5, -1e-5)
        ]
        slope = sum(float((programs.answers[mu].gradients[name][k] * way[name]).sum()) for name in data)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=DIFFERENCE, abs=DIFFERENCE)


@pytest.mark.parametrize("mu", [0.0, MU])
@pytest.mark.parametrize("family", DATA)
def test_the_reference_satisfies_its_equations(family: str, mu: float) -> None:
    programs = random_programs(family, shape_of_size(family, 8), 5, mus=(mu,))
    for k in range(len(programs)):
        data = {name: programs.data[name][k] for name in DATA[family]}
        at, program = answer(family, data, programs.w, mu), standard_form(family, tuple(data.values()))
        slack = program.h - program.G @ at.x
        assert slack.min() >= -1e-12
        assert at.z.min() >= 0.0
        for zero in (
            program.P @ at.x + program.q + program.A.T @ at.y + program.G.T @ at.z,
            program.A @ at.x - program.b,
            slack * at.z - mu,
        ):
            assert np.abs(zero).max(initial=0.0) < 1e-10


def test_the_root_and_its_gradient() -> None:
    programs = random_programs("qp", Shape(5, 5, 1), 4)
    L, P = programs.data["L"], programs.data["P"]
    np.testing.assert_allclose(L.transpose(0, 2, 1) @ L, P, atol=1e-14)
    way = np.random.default_rng(0).standard_normal(L.shape)
    squared = way.transpose(0, 2, 1) @ L + L.transpose(0, 2, 1) @ way  # d(L'L)
    of = programs.answers[0.0].gradients
    np.testing.assert_allclose((of["L"] * way).sum((1, 2)), (of["P"] * squared).sum((1, 2)), rtol=1e-12)


# What counts as wrong


def errors(programs: Programs, x: np.ndarray, gradients: dict[str, np.ndarray]) -> tuple[float, float]:
    return programs.answers[0.0].errors(np.arange(len(programs)), x, gradients)


def test_errors_are_found() -> None:
    programs = random_programs("qp", Shape(5, 5, 1), 4)
    right = programs.answers[0.0]
    gradients = {name: right.gradients[name] for name in DATA["qp"]}
    assert errors(programs, right.x, gradients) == (0.0, 0.0)
    assert errors(programs, -right.x, gradients)[0] > 0.1
    assert errors(programs, right.x, {name: -g for name, g in gradients.items()})[1] == pytest.approx(2.0)
    assert errors(programs, right.x, gradients | {"q": -gradients["q"]})[1] > 0.1
    unsymmetric = np.triu(np.ones((5, 5)), 1)
    moved = gradients | {"P": gradients["P"] + unsymmetric - unsymmetric.T}
    assert errors(programs, right.x, moved)[1] < 1e-15
    lost = right.x.copy()
    lost[-1, 0] = np.nan
    assert errors(programs, lost, {}) == (math.inf, 0.0)


def line(work: Work, layer: str, ms: float, error: float = 0.0, trouble: str = "") -> Line:
    is_dcl, answers = layer.startswith("dcl"), not layer.startswith("torch")
    return Line(work, layer, is_dcl, answers, trouble, "", 3, ms, ms, ms / 2, ms / 2, error, error)


def test_wrong_answers_are_not_ranked() -> None:
    work = SMALL["qp"]
    lines = [
        line(work, "torch", 0.1),
        line(work, "dcl.QPLayer", 1.0),
        line(work, "quick", 0.5, error=0.1),
        line(work, "good", 2.0),
        line(work, "slow", 4.0),
        line(work, "nothing", math.nan, trouble="not installed: nothing"),
    ]
    best = base(work, lines)
    assert best is lines[3]
    assert [ratio(entry, best) for entry in lines[3:5]] == [1.0, 2.0]
    assert math.isnan(ratio(lines[2], best))
    shown = table(work, lines).splitlines()[3:]
    assert [row.split()[0] for row in shown] == ["torch", "dcl.QPLayer", "good", "slow", "quick", "nothing"]
    assert shown[1].split()[1:4] == ["1.00", "0.500", "0.500"]
    assert "wrong" in shown[4]
    assert shown[5].endswith("not installed: nothing")
    assert ratios([(work, lines)]).splitlines()[-1].split()[-1] == "0.50"


def test_x_mu_is_measured_by_the_exact_layer() -> None:
    work = replace(SMALL["qp"], central=True)
    lines = [line(work, "dcl.QPLayer, mu 1e-02", 3.0), line(work, "dcl.QPLayer", 2.0)]
    assert base(work, lines) is lines[1]
    assert ratios([(work, lines)]).splitlines()[-1].split()[-1] == "1.50"


def test_speedup_is_time_with_one_thread_over_time_with_two() -> None:
    one, two = SMALL["qp"], replace(SMALL["qp"], threads=2)
    done = [(one, [line(one, "dcl.QPLayer", 3.0)]), (two, [line(two, "dcl.QPLayer", 2.0)])]
    assert speedups(done).splitlines()[-1].split()[-1] == "1.50"
    assert speedups(done[:1]) == ""


def test_growth_is_the_slope_of_the_line() -> None:
    """Times that are 3e-6 n^2.5, one of them wrong, which is left out; other shapes and small sizes are none of that range."""
    todo = [Work("qp", shape_of_size("qp", n), 16) for n in (50, 100, 200, 500)]
    done = [(work, [line(work, "dcl.QPLayer", 3e-6 * work.shape.n**2.5)]) for work in todo]
    wrong = Work("qp", shape_of_size("qp", 80), 16)
    other = Work("qp", Shape(60, 10, 5), 16)
    extra = [(wrong, [line(wrong, "dcl.QPLayer", 9.0, 1e-2)]), (other, [line(other, "dcl.QPLayer", 9.0)])]
    last = growth([*done, *extra]).splitlines()[-1]
    assert "n from 50 to 500" in last
    assert last.split()[-1] == "2.50"
    assert growth(done[:2]) == ""  # two points are no fit


def test_a_fault_of_dcl_is_an_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    work = SMALL["qp"]
    outcomes = {
        (line(work, "dcl.QPLayer", 1.0),): 0,
        (line(work, "dcl.QPLayer", 1.0, error=0.1),): 1,
        (line(work, "dcl.QPLayer", math.nan, trouble="failed: SolveError"),): 1,
        (line(work, "dcl.QPLayer", math.nan, trouble="left out: about 9.0 s a call"), line(work, "x", 1.0)): 0,
        (line(work, "dcl.QPLayer", 1.0), line(work, "x", 1.0, error=0.1)): 0,
    }
    for lines, status in outcomes.items():
        monkeypatch.setattr(script, "timed", lambda *_, lines=lines: iter([(work, list(lines))]))
        assert script.main(["--short"]) == status
    assert "dcl.QPLayer: wrong" in capsys.readouterr().err


# What is timed


def test_the_works() -> None:
    everything = works(list(PARTS))
    assert len(set(everything)) == len(everything)
    assert [work.threads for work in everything] == sorted(work.threads for work in everything)
    assert {Work("qp", shape, batch) for shape in DENSE for batch in (1, 16, 128, 1024)} <= set(everything)
    assert Work("qp", DENSE[0], 1024, backward=False) in everything
    assert {work.shape.n for work in everything if work.family == "lp"} == set(SIZES)
    assert max(work.megabytes for work in everything) <= MEGABYTES
    data = random_programs("lp", shape_of_size("lp", 20), 2).data
    assert Work("lp", shape_of_size("lp", 20), 2).megabytes == pytest.approx(
        (data["A"].nbytes + data["G"].nbytes) / 1e6
    )


def lines_of(todo: list[Work], effort: Effort = EFFORT) -> list[Done]:
    return list(qp_timing.time_works(todo, [], effort))


@pytest.fixture
def dcl_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other layers need something that is not there, whatever is installed."""
    absent = tuple(p if p.is_dcl or not p.answers else replace(p, needs=("no-such-package",)) for p in qp_peers.PEERS)
    monkeypatch.setattr(qp_peers, "PEERS", absent)


@pytest.mark.sample(3)
@pytest.mark.usefixtures("dcl_only")
@pytest.mark.parametrize("family", DATA)
def test_dcl_is_right_and_absent_peers_are_listed(family: str) -> None:
    forward = replace(SMALL[family], backward=False)
    for work, lines in lines_of([SMALL[family], forward]):
        ours = [entry for entry in lines if entry.is_dcl]
        assert {"dcl.QPLayer", "dcl.CvxpyLayer"} <= {entry.layer for entry in ours}
        for entry in ours:
            assert entry.verdict == "right"
            assert entry.error_x < DCL_ERROR
            assert not entry.error_gradient > DCL_ERROR
            assert entry.repetitions >= LEAST
            assert 0.0 < entry.ms_least <= entry.ms
            assert math.isnan(entry.ms_backward) == (not work.backward)
        others = {entry.layer: entry.verdict for entry in lines if not entry.is_dcl}
        assert others.pop(qp_peers.OVERHEAD) == "overhead"
        assert set(others.values()) == {"not installed: no-such-package"}
        assert "moreau.torch" in others


def test_x_mu_is_right() -> None:
    ((_, lines),) = lines_of([replace(SMALL["qp"], central=True)])
    assert len(lines) == len(qp_peers.CENTRAL) >= 3
    for entry in lines:
        assert entry.verdict == "right"
        assert max(entry.error_x, entry.error_gradient) < DCL_ERROR


def test_a_wrong_layer_and_one_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = next(peer for peer in qp_peers.PEERS if peer.name == qp_peers.DCL)

    def minus(work: Work) -> qp_peers.Layer:
        layer = ours.make(work)
        return lambda *data: -layer(*data)

    def breaks(work: Work) -> qp_peers.Layer:
        def layer(*data: torch.Tensor) -> torch.Tensor:
            raise ValueError("no such thing")

        return layer

    peers = (qp_peers.Peer("minus", (), minus), qp_peers.Peer("breaks", (), breaks))
    monkeypatch.setattr(qp_peers, "PEERS", peers)
    ((_, lines),) = lines_of([SMALL["qp"]])
    assert [entry.verdict for entry in lines] == ["wrong", "failed: ValueError: no such thing"]


@pytest.mark.slow
def test_what_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qp_peers, "PEERS", (qp_peers.PEERS[1],))
    done = lines_of([Work("qp", Shape(2, 2, 1), 1), Work("qp", Shape(8, 8, 1), 4)], replace(EFFORT, call=1e-9))
    assert [lines[0].verdict.split(":")[0] for _, lines in done] == ["right", "left out"]


@pytest.mark.skipif(sys.platform != "linux", reason="cores cannot be chosen there")
def test_one_thread_is_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = cores()
    with confined(1):
        assert len(cores()) == 1
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert cores() == before
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


# The script


def test_the_figure() -> None:
    def of(work: Work) -> list[Line]:
        return [line(work, "dcl.QPLayer", float(work.batch * work.shape.n)), line(work, "qpth", 1.0, error=0.1)]

    figure = draw([(work, of(work)) for work in works(["growth", "box", "mu"], sizes=[2, 10, 50], batches=[1, 16])])
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels)[:3] == ["dense QP, batch 1", "dense QP, batch 16", "dense QP, n = 10"]
    assert len(panels) == 6
    for title, curve in {
        "dense QP, batch 16": [[2.0, 32.0], [10.0, 160.0], [50.0, 800.0]],
        "box QP, n = 10": [[1.0, 10.0], [16.0, 160.0]],
    }.items():
        axes = panels[title]
        (drawn,) = axes.lines  # the wrong answers have none
        assert drawn.get_xydata().tolist() == curve
        assert axes.get_xscale() == axes.get_yscale() == "log"
    assert not draw([]).axes


@pytest.mark.slow
def test_the_short_run(tmp_path: Path) -> None:
    files = {"--csv": tmp_path / "figures.csv", "--figure": tmp_path / "figure.png"}
    command = [sys.executable, "-W", "error", str(FOLDER / "how_fast_are_qp_layers.py"), "--short", "--peers", "dcl"]
    done = subprocess.run(
        command + [str(word) for pair in files.items() for word in pair], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "torch 2." in done.stdout
    with files["--csv"].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["family"] for row in rows} == set(DATA)
    assert {row["verdict"] for row in rows} == {"right"}
    assert {row["warned"] for row in rows} == {""}
    assert max(float(row["error_x"]) for row in rows) < DCL_ERROR
    assert max(float(row["error_gradient"] or 0.0) for row in rows) < DCL_ERROR
    assert files["--figure"].stat().st_size > 10_000


@pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
def test_the_parts_of_a_call_add_up():
    found, error = parts.timed(random_programs("qp", Shape(3, 3, 1), 2), Shape(3, 3, 1), 3, turns=2)
    assert set(found) == set(parts.ROWS)
    assert error <= DCL_ERROR
    names = ("the core, solve", "the core, adjoint", "torch", "Python")
    assert sum(found[name] for name in names) == pytest.approx(found["QPLayer"])
