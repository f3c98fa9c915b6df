"""Sweeps: rows are those of single calls, failures are rows, nothing computed is lost when a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
import torch

import dcl
from dcl.programs.store import Store, gaps

ROOT = Path(__file__).resolve().parents[2]


def frontier(n: int = 5, **settings: Any) -> dcl.ParametricProgram:
    """Least risk for a return of at least `target`: no solution where that is above the largest of mu."""
    rng = np.random.default_rng(3)
    M = rng.standard_normal((n, n))
    w, mu, target = cp.Variable(n, name="w"), cp.Parameter(n, name="mu"), cp.Parameter(name="target")
    risk = cp.quad_form(w, M @ M.T / n + 0.2 * np.eye(n))
    problem = cp.Problem(cp.Minimize(risk), [cp.sum(w) == 1, w >= 0, mu @ w >= target])
    mu.value = np.linspace(0.05, 0.2, n)
    return dcl.ParametricProgram(problem, **settings)


TARGETS = np.linspace(0.05, 0.22, 60)


def test_rows_are_those_of_single_calls() -> None:
    program = frontier(on_failure="nan")
    sweep = program.sweep({"target": TARGETS}, progress=False)
    assert len(sweep) == 60
    for row in range(0, 60, 7):
        one = program.solve(target=TARGETS[row])
        assert sweep.status[row] == int(one.status)
        np.testing.assert_allclose(sweep["w"][row], one["w"], atol=1e-10)
        np.testing.assert_allclose(sweep.value[row], one.value, rtol=1e-12)
        for constraint in range(3):
            np.testing.assert_allclose(sweep.dual(constraint)[row], one.dual(constraint), atol=1e-9)


def test_failures_are_rows_with_their_status() -> None:
    sweep = frontier().sweep({"target": TARGETS}, progress=False, gradient="value")
    infeasible = TARGETS > 0.2
    np.testing.assert_array_equal(sweep.status == int(dcl.Status.PRIMAL_INFEASIBLE), infeasible)
    np.testing.assert_array_equal(sweep.ok, ~infeasible)
    for array in (sweep["w"], sweep.value, sweep.dual(2), sweep.gradient["mu"], sweep.gradient["target"]):
        np.testing.assert_array_equal(np.isnan(array.reshape(60, -1)).all(1), infeasible)
    assert (sweep.residual[~infeasible] <= 1e-8).all()
    assert f"{infeasible.sum()} PRIMAL_INFEASIBLE" in repr(sweep)
    frame = sweep.to_pandas()
    assert list(frame["status"]) == [dcl.Status(s).name for s in sweep.status]
    np.testing.assert_array_equal(frame["w[3]"].to_numpy(), sweep["w"][:, 3])
    assert {"target", "value", "residual", "dual of mu @ w >= target", "gradient of mu[0]"} <= set(frame.columns)


@pytest.mark.parametrize("gradient", ["value", "weights"])
def test_gradients_are_those_of_single_calls(gradient: str) -> None:
    program, weights = frontier(), np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    targets = TARGETS[TARGETS < 0.19]
    wanted: Any = "value" if gradient == "value" else {"w": weights}
    sweep = program.sweep({"target": targets}, progress=False, gradient=wanted)
    for row in range(0, len(targets), 9):
        one = program.solve(target=targets[row])
        known = one.value_gradient() if gradient == "value" else one.adjoint({"w": weights})
        for name in ("mu", "target"):
            np.testing.assert_allclose(sweep.gradient[name][row], known[name], rtol=1e-8, atol=1e-9)
    part = program.sweep({"target": targets}, progress=False, gradient=wanted, wrt=["target"])
    assert list(part.gradient) == ["target"]
    np.testing.assert_allclose(part.gradient["target"], sweep.gradient["target"], rtol=1e-9, atol=1e-11)


def test_gradients_of_the_careful_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiled core every row goes through the torch path: the same numbers."""
    from dcl import core

    program, weights = frontier(), {"w": [1.0, -2.0, 0.5, 0.0, 3.0]}
    fast = program.sweep({"target": TARGETS}, progress=False, gradient=weights)
    monkeypatch.setattr(core, "available", False)
    slow = program.sweep({"target": TARGETS}, progress=False, gradient=weights)
    np.testing.assert_array_equal(fast.status, slow.status)
    np.testing.assert_array_equal(fast.found.active, slow.found.active)
    np.testing.assert_allclose(fast["w"], slow["w"], atol=1e-10)
    np.testing.assert_allclose(fast.gradient["mu"], slow.gradient["mu"], rtol=1e-7, atol=1e-8)


def test_curved_cones_and_large_programs_sweep_too() -> None:
    x, r = cp.Variable(3, name="x"), cp.Parameter(pos=True, name="r")
    c = np.array([1.0, 2.0, -2.0])
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(c @ x), [cp.norm(x) <= r]))
    radii = np.linspace(0.5, 2.0, 7)
    sweep = program.sweep({r: radii}, progress=False, gradient="value")
    np.testing.assert_allclose(sweep["x"], -radii[:, None] * c / 3.0, atol=1e-7)
    np.testing.assert_allclose(sweep.gradient["r"], -3.0, atol=1e-7)
    assert len(sweep.changes) == 0


def ball() -> cp.Problem:
    x, r = cp.Variable(2, name="x"), cp.Parameter(pos=True, name="r")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - np.ones(2))), [cp.norm(x) <= r])


@pytest.mark.parametrize("order", [1, -1])
def test_curved_constraints_change_where_the_ball_lets_go(order: int) -> None:
    """The projection of (1, 1) on a ball: on its boundary for r < sqrt(2), the point itself for larger r."""
    program = dcl.ParametricProgram(ball())
    radii = np.linspace(0.1, 3.0, 30)[::order]
    sweep = program.sweep({"r": radii}, progress=False)
    inside = radii > np.sqrt(2.0)
    assert sweep.changes.tolist() == [int(np.flatnonzero(inside != inside[0])[0])]
    assert "the active constraints change 1 times" in repr(sweep)
    for row in (0, 12, 13, 14, 15, 29):
        assert bool(program.solve(r=radii[row]).binding) != inside[row]


def test_each_curved_cone_changes_by_itself() -> None:
    """Semidefinite: X >= t I is active until t is below the smallest eigenvalue of C. Second order: columns of a matrix."""
    X, t = cp.Variable((2, 2), name="X", symmetric=True), cp.Parameter(name="t")
    C = np.array([[2.0, 1.0], [1.0, 2.0]])  # eigenvalues 1 and 3
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> t * np.eye(2)]))
    levels = np.array([0.0, 0.4, 0.8, 1.2, 1.6])
    assert program.sweep({t: levels}, progress=False).changes.tolist() == [3]
    Y, r = cp.Variable((2, 3), name="Y"), cp.Parameter(pos=True, name="r")
    targets = np.array([[0.3, 0.6, 0.0], [0.4, 0.8, 2.0]])  # norms 0.5, 1, 2
    cost = cp.sum_squares(Y - targets)
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cost), [cp.norm(Y, axis=0) <= r]))
    radii = np.array([0.3, 0.7, 0.9, 1.3, 1.7, 2.3])
    assert program.sweep({r: radii}, progress=False).changes.tolist() == [1, 3, 5]
    assert len(dcl.ParametricProgram(ball(), mu=0.1).sweep({"r": radii}, progress=False).changes) == 0


def test_changes_of_the_active_constraints_are_where_active_range_says() -> None:
    program = frontier()
    targets = np.linspace(0.05, 0.199, 400)
    sweep = program.sweep({"target": targets}, progress=False)
    ends, at = [], targets[0]
    while at < targets[-1]:
        _, high = program.solve(target=at).active_range({"target": 1.0})
        ends.append(at + high)
        at = at + high + 1e-7
    ends = [end for end in ends if end < targets[-1]]
    assert len(sweep.changes) == len(ends) >= 3
    for row, end in zip(sweep.changes, ends, strict=True):
        assert targets[row - 1] <= end <= targets[row]


def test_labels_and_pictures(tmp_path: Path) -> None:
    program = frontier()
    mu = pd.Series(np.linspace(0.05, 0.2, 5), index=list("abcde"))
    sweep = program.sweep({"mu": mu, "target": TARGETS}, progress=False)
    assert "w[c]" in sweep.to_pandas().columns
    sweep.plot(tmp_path / "paths.png")
    sweep.plot(tmp_path / "one.png", variables=["w"])
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(dcl.InputError, match="'v' is not a variable"):
        sweep.plot(variables=["v"])
    days = pd.DataFrame(np.outer([1.0, 2.0], mu), index=["mon", "tue"], columns=list("abcde"))
    frame = program.sweep({"mu": days, "target": 0.1}, progress=False).to_pandas()
    assert list(frame.index) == ["mon", "tue"]


def test_xarray() -> None:
    pytest.importorskip("xarray", reason='needs the extra "programs"')
    sweep = frontier().sweep({"target": TARGETS}, progress=False, gradient="value")
    found = sweep.to_xarray()
    assert found["w"].dims == ("row", "w_0")
    np.testing.assert_array_equal(found["target"], TARGETS)
    np.testing.assert_array_equal(found["gradient of target"], sweep.gradient["target"])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"target": 0.1}, {}, "nothing is swept"),
        ({"target": np.ones((2, 3))}, {}, "target has 2 batch dimensions"),
        ({"target": np.ones(3), "mu": np.ones((4, 5))}, {}, "mu has 4 rows, a parameter before it has 3"),
        ({"target": [0.1, np.nan, 0.2]}, {}, r"target is nan at batch index \(1,\)"),
        ({"targets": [0.1]}, {}, "'targets' is not a parameter"),
        ({"target": [0.1]}, {"gradient": "w"}, 'gradient must be "value", or a dict'),
        ({"target": [0.1]}, {"gradient": {"v": 1.0}}, "'v' is not a variable"),
        ({"target": [0.1]}, {"backend": "no such thing"}, "backend 'no such thing'"),
    ],
)
def test_bad_arguments_are_named(values: Any, options: Any, message: str) -> None:
    with pytest.raises(dcl.InputError, match=message):
        frontier().sweep(values, progress=False, **options)


def test_values_by_keyword_and_in_a_frame() -> None:
    program, targets = frontier(), np.array([0.1, 0.3, 0.5])
    known = program.sweep({"target": targets}, progress=False, gradient="value")
    swept = program.sweep(target=targets, progress=False, gradient="value", wrt="target")
    np.testing.assert_array_equal(swept["w"], known["w"])
    np.testing.assert_array_equal(swept.gradient["target"], known.gradient["target"])
    frame = pd.DataFrame({"target": targets}, index=["low", "middle", "high"])
    swept = program.sweep(frame, progress=False)
    np.testing.assert_array_equal(swept["w"], known["w"])
    assert swept.to_pandas().index.tolist() == ["low", "middle", "high"]
    with pytest.raises(dcl.InputError, match="'goal' is not a parameter of the program; parameters:"):
        program.sweep(frame.rename(columns={"target": "goal"}), progress=False)
    with pytest.raises(dcl.InputError, match=r"values must be a dict.*got list.*sweep\(.*=...\)"):
        program.sweep([0.1, 0.2], progress=False)  # type: ignore[arg-type]
    a = cp.Parameter(3, name="a")
    x = cp.Variable(3, name="x")
    vector = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - a))))
    with pytest.raises(dcl.InputError, match=r"a column of a DataFrame.*but a has shape \(3,\).*\(rows, 3\)"):
        vector.sweep(pd.DataFrame({"a": [1.0, 2.0, 3.0]}), progress=False)


def test_no_rows() -> None:
    sweep = frontier().sweep({"target": np.zeros(0)}, progress=False, gradient="value")
    assert len(sweep) == 0
    assert sweep["w"].shape == (0, 5)
    assert sweep.gradient["mu"].shape == (0, 5)
    assert "no rows" in repr(sweep)


@pytest.mark.sample(3)
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_backends_give_the_same_arrays(backend: str) -> None:
    program = frontier()
    known = program.sweep({"target": TARGETS}, progress=False, gradient="value")
    sweep = program.sweep({"target": TARGETS}, progress=False, gradient="value", backend=backend, workers=2)
    np.testing.assert_array_equal(sweep.status, known.status)
    np.testing.assert_allclose(sweep["w"], known["w"], atol=1e-12)
    np.testing.assert_allclose(sweep.gradient["mu"], known.gradient["mu"], atol=1e-12)


# Chunks on disk


def test_gaps() -> None:
    assert gaps([], 5) == [(0, 5)]
    assert gaps([(0, 2), (2, 5)], 5) == []
    assert gaps([(3, 4), (0, 2)], 6) == [(2, 3), (4, 6)]


def test_a_finished_sweep_is_loaded_and_not_solved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcl.programs.chunk import Work

    first = frontier().sweep({"target": TARGETS}, progress=False, path=tmp_path / "s", gradient="value")
    monkeypatch.setattr(Work, "run", lambda *_: pytest.fail("solved again"))
    again = frontier().sweep({"target": TARGETS}, progress=False, path=tmp_path / "s", gradient="value")
    for one, other in ((first["w"], again["w"]), (first.value, again.value), (first.status, again.status)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.gradient["mu"], again.gradient["mu"])


def test_another_sweep_in_the_folder_is_an_error(tmp_path: Path) -> None:
    program = frontier()
    program.sweep({"target": TARGETS}, progress=False, path=tmp_path)
    for change in ({"target": TARGETS + 0.01}, {"target": TARGETS, "mu": np.ones(5)}):
        with pytest.raises(dcl.InputError, match="has the chunks of another sweep"):
            program.sweep(change, progress=False, path=tmp_path)
    with pytest.raises(dcl.InputError, match="has the chunks of another sweep"):
        frontier(mu=1e-3).sweep({"target": TARGETS}, progress=False, path=tmp_path)
    with pytest.raises(dcl.InputError, match="cannot hold the chunks"):
        program.sweep({"target": TARGETS}, progress=False, path=tmp_path / "sweep.json")


def test_a_chunk_that_is_broken_is_solved_again(tmp_path: Path) -> None:
    program = frontier()
    known = program.sweep({"target": TARGETS}, progress=False, path=tmp_path)
    (file,) = tmp_path.glob("rows_*.npz")
    file.write_bytes(file.read_bytes()[:300])
    (tmp_path / ".unfinished_abc").write_bytes(b"what a killed process leaves")
    again = program.sweep({"target": TARGETS}, progress=False, path=tmp_path)
    np.testing.assert_array_equal(known["w"], again["w"])


# a slow sweep, so that there is something to kill; it says when chunks are on disk
_SCRIPT = """
import sys, time
from pathlib import Path
from test_sweep import TARGETS, frontier
from dcl.programs import sweep as module
from dcl.programs.chunk import Work
plain = Work.run
def slow(self, tensors, start=None):
    time.sleep(0.05)
    return plain(self, tensors, start)
Work.run = slow
module._FIRST = module._MOST = 5
frontier().sweep({"target": TARGETS}, progress=False, path=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcl.programs.chunk import Work

    folder = tmp_path / "sweep"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]),
        "PYTHONHASHSEED": "7",
    }
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(folder)], env=environment)
    deadline = time.monotonic() + 120.0
    while len(list(folder.glob("rows_*.npz"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    kept = {file.name: file.stat().st_mtime_ns for file in folder.glob("rows_*.npz")}
    rows = sum(chunk.count for chunk in Store(folder).load().values())
    assert 15 <= rows < len(TARGETS)

    solved = []
    plain = Work.run

    def counted(self: Work, tensors: Any, start: Any = None) -> Any:
        chunk, last = plain(self, tensors, start)
        solved.append(chunk.count)
        return chunk, last

    monkeypatch.setattr(Work, "run", counted)
    resumed = frontier().sweep({"target": TARGETS}, progress=False, path=folder)
    assert sum(solved) == len(TARGETS) - rows
    assert kept == {name: (folder / name).stat().st_mtime_ns for name in kept}
    known = frontier().sweep({"target": TARGETS}, progress=False)
    np.testing.assert_array_equal(resumed.status, known.status)
    np.testing.assert_allclose(resumed["w"], known["w"], atol=1e-12)


def _kill_once(flag: str) -> None:
    """In a worker: end it the first time."""
    if not Path(flag).exists():
        Path(flag).write_text("killed")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_worker_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcl.programs import sweep as module

    plain, flag = module._numbered, str(tmp_path / "flag")

    def dangerous(at: int, work: Any, tensors: Any) -> Any:
        if at > 20:
            _kill_once(flag)
        return plain(at, work, tensors)

    monkeypatch.setattr(module, "_numbered", dangerous)
    found = frontier().sweep({"target": TARGETS}, progress=False, backend="loky", workers=2, path=tmp_path / "s")
    assert Path(flag).exists()
    known = frontier().sweep({"target": TARGETS}, progress=False)
    np.testing.assert_array_equal(found.status, known.status)
    np.testing.assert_allclose(found["w"], known["w"], atol=1e-12)


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="needs dask")
    from dcl.programs import sweep as module

    plain, flag = module._numbered, str(tmp_path / "flag")

    def dangerous(at: int, work: Any, tensors: Any) -> Any:
        if at > 20:
            _kill_once(flag)
        return plain(at, work, tensors)

    monkeypatch.setattr(module, "_numbered", dangerous)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        found = frontier().sweep({"target": TARGETS}, progress=False, backend="dask", workers=2)
    assert Path(flag).exists()
    known = frontier().sweep({"target": TARGETS}, progress=False)
    np.testing.assert_array_equal(found.status, known.status)
    np.testing.assert_allclose(found["w"], known["w"], atol=1e-12)


def test_a_doubtful_gradient_is_said() -> None:
    # x = max(t, 0): at t = 0 the derivative is one-sided
    x, t = cp.Variable(name="x"), cp.Parameter(name="t")
    problem = cp.Problem(cp.Minimize(cp.square(x - t)), [x >= 0])
    values = {t: np.array([-1.0, 0.0, 1.0])}
    with pytest.warns(dcl.DegenerateWarning, match=r"WEAKLY_ACTIVE in 1 of 3 rows \(1\)"):
        sweep = dcl.ParametricProgram(problem).sweep(values, progress=False, gradient={x: 1.0})
    assert sweep.gradient_kind.tolist() == [0, int(dcl.GradientKind.WEAKLY_ACTIVE), 0]
    np.testing.assert_allclose(sweep.gradient["t"], [0.0, 0.5, 1.0], atol=1e-12)
    with pytest.raises(dcl.DegenerateError, match="WEAKLY_ACTIVE"):
        dcl.ParametricProgram(problem, on_degenerate="raise").sweep(values, progress=False, gradient={x: 1.0})
    plain = dcl.ParametricProgram(problem).sweep(values, progress=False)  # nobody asked for one
    with pytest.raises(dcl.InputError, match="this sweep has no gradient"):
        _ = plain.gradient_kind


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    """Chunks of other sizes that overlap: no row counts twice."""
    program = frontier()
    known = program.sweep({"target": TARGETS}, progress=False, path=tmp_path)
    (file,) = tmp_path.glob("rows_*.npz")
    (whole,) = Store(tmp_path).load().values()
    (tmp_path / "rows_000000005_000000065.npz").write_bytes(file.read_bytes())
    assert whole.count == 60
    again = program.sweep({"target": TARGETS}, progress=False, path=tmp_path)
    assert len(again) == 60
    np.testing.assert_array_equal(known["w"], again["w"])


def test_the_caller_keeps_his_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    frontier().sweep({"target": TARGETS}, progress=False, backend="threading", workers=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_backend_that_returns_lists_only() -> None:
    """As Ray's: it has no generators, so chunks come in groups."""
    import joblib
    from joblib._parallel_backends import ThreadingBackend

    class Lists(ThreadingBackend):
        supports_return_generator = False

    joblib.register_parallel_backend("lists", Lists)
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0]))
    values = np.random.default_rng(0).standard_normal((50, 2))
    found = program.sweep(t=values, backend="lists", workers=2, progress=False)
    np.testing.assert_allclose(found["x"], np.maximum(values, 0.0), atol=1e-12)
