"""The figures of Gould et al. 2016 drawn by ArgminLayer: what they show against closed forms and SciPy."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize, nnls

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
Array = np.ndarray


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max())
    return e / e.sum()


# Figure 1


def test_figure_1_has_the_three_branches_of_equations_23_and_24() -> None:
    found = load("figure_1").branches(points=11)
    x = found.x.numpy()
    root = np.sqrt(9.0 * x**4 + 96.0 * x)
    for k, y in enumerate((0.0 * x, (-3.0 * x**2 + root) / (4.0 * x), (-3.0 * x**2 - root) / (4.0 * x))):
        slope = -(y**3 + 3.0 * x * y**2) / (3.0 * x * y**2 + 3.0 * x**2 * y - 6.0)
        np.testing.assert_allclose(found.g[:, k], y, atol=1e-9)
        np.testing.assert_allclose(found.slope[:, k], slope, atol=1e-8)


# Figures 2 and 4


def maximum_exists(A: Array, i: int, plane: bool) -> bool:
    """log l_i falls in every direction: for each d, of the plane if asked, some a_j has (a_j - a_i)'d > 0."""
    others = np.delete(A, i, 0) - A[i]
    if plane:
        along = others @ np.array([1.0, -1.0])
        return bool(along.min() < 0.0 < along.max())
    angles = np.sort(np.arctan2(others[:, 1], others[:, 0]))  # a_i is in the hull's interior: no gap of half a turn
    return bool(np.diff(np.append(angles, angles[0] + 2.0 * np.pi)).max() < np.pi)


@pytest.mark.slow
@pytest.mark.parametrize("plane", [False, True])
def test_figures_2_and_4(plane: bool) -> None:
    example = load("figures_2_and_4")
    before, after = example.before_and_after(plane=plane)
    A, b = before.A[0].numpy(), before.b[0].numpy()
    origin, basis = (np.array([0.5, 0.5]), np.array([[1.0], [-1.0]])) if plane else (np.zeros(2), np.eye(2))
    count = 0
    for i in range(example.CLASSES):
        exists = maximum_exists(A, i, plane)
        assert bool(torch.isfinite(before.x[i]).all()) == exists
        if not exists:
            assert not before.grad_A[i].any()
            continue
        count += 1

        def value(u: Array, i: int = i) -> float:
            logits = A @ (origin + basis @ u) + b
            return float(logits.max() + np.log(np.exp(logits - logits.max()).sum()) - logits[i])

        def slope(u: Array, i: int = i) -> Array:
            return np.asarray(basis.T @ (softmax(A @ (origin + basis @ u) + b) @ A - A[i]))

        u = minimize(value, np.zeros(basis.shape[1]), jac=slope, method="BFGS", options={"gtol": 1e-12}).x
        for _ in range(5):
            p = softmax(A @ (origin + basis @ u) + b)
            H = basis.T @ ((A.T * p) @ A - np.outer(p @ A, p @ A)) @ basis
            u = u - np.linalg.solve(H, slope(u))
        x = origin + basis @ u
        np.testing.assert_allclose(before.x[i], x, atol=1e-8 * (1.0 + np.abs(x).max()))
        # eq. 33, 34, 74 and 75 with the form for all j (docs/errata.md), at dcl's point, which is the more accurate one
        x = before.x[i].numpy()
        p = softmax(A @ x + b)
        mean = p @ A
        H = np.outer(mean, mean) - (A.T * p) @ A
        w = basis @ np.linalg.solve(basis.T @ H @ basis, basis[0])
        grad_A = np.outer(p, w) + np.outer(p * ((A - mean) @ w), x)
        grad_A[i] -= w
        np.testing.assert_allclose(before.grad_A[i], grad_A, atol=1e-7 * (1.0 + np.abs(grad_A).max()))
        np.testing.assert_allclose(before.grad_b[i], p * ((A - mean) @ w), atol=1e-7 * (1.0 + np.abs(grad_A).max()))
    assert 3 <= count < example.CLASSES
    assert float(after.x[example.SHOWN, 0]) < float(before.x[example.SHOWN, 0]) - 0.1
    if plane:
        np.testing.assert_allclose(after.x[example.SHOWN].sum(), 1.0, atol=1e-12)


# Figure 6


def angle_of(A: Array, b: Array, i: int) -> float:
    """The most likely point of class i on the unit circle: the best of 720 angles, then a root of the derivative."""

    def log_likelihood(t: Array) -> Array:
        logits = np.stack([np.cos(t), np.sin(t)], -1) @ A.T + b
        top = logits.max(-1, keepdims=True)
        return np.asarray(logits[..., i] - top[..., 0] - np.log(np.exp(logits - top).sum(-1)))

    def slope(t: float) -> float:
        x = np.array([np.cos(t), np.sin(t)])
        return float((A[i] - softmax(A @ x + b) @ A) @ np.array([-x[1], x[0]]))

    angles = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)
    best = float(angles[log_likelihood(angles).argmax()])
    return float(brentq(slope, best - 0.01, best + 0.01, xtol=1e-15, rtol=1e-14))


def upper_loss(A: Array, b: Array, targets: Array) -> float:
    points = np.array([[np.cos(t), np.sin(t)] for t in (angle_of(A, b, i) for i in range(len(b)))])
    return 0.5 * float(((points - targets) ** 2).sum())


def test_a_step_of_figure_6_is_one_of_gradient_descent() -> None:
    example = load("figure_6")
    A, b = (t.numpy() for t in example.parameters())
    targets = example.TARGETS.numpy()
    run = example.descend(1)
    assert run.loss[0] == pytest.approx(upper_loss(A, b, targets), abs=1e-9)
    h = 1e-5
    for moved, start, which in ((run.A, A, 0), (run.b, b, 1)):
        for index in np.ndindex(start.shape):
            e = np.zeros_like(start)
            e[index] = h
            plus, minus = (
                upper_loss(*((A + s * e, b) if which == 0 else (A, b + s * e)), targets) for s in (1.0, -1.0)
            )
            assert float(moved[index]) == pytest.approx(
                start[index] - example.RATE * (plus - minus) / (2.0 * h), abs=1e-6
            )


def test_the_single_level_form_ends_at_the_same_optimum() -> None:
    example = load("figure_6")
    result = example.single_level()
    A, b, x, multipliers = (t.numpy() for t in example.unpack(torch.from_numpy(result.x)))
    assert result.success
    assert result.fun < 1e-9
    assert multipliers.min() > 0.0
    np.testing.assert_allclose(x, example.TARGETS, atol=1e-4)
    # by true argmaxes, not only by points that satisfy constraints
    assert upper_loss(A, b, example.TARGETS.numpy()) < 1e-9


@pytest.mark.slow
def test_figure_6_reaches_the_optimum_in_under_100_iterations(tmp_path: Path, capsys: Any) -> None:
    example = load("figure_6")
    exact, barrier, _ = example.main(tmp_path / "figure.png", iterations=60)
    assert min(exact.loss) < 1e-9
    assert upper_loss(exact.A.numpy(), exact.b.numpy(), example.TARGETS.numpy()) < 1e-9
    assert exact.loss[20] < 1e-3 * exact.loss[0]  # the rapid decrease in the first 20
    assert 1e-4 < barrier.loss[-1] < 0.1 < barrier.loss[0]  # inside of the ball: the circle is not reached
    assert (tmp_path / "figure.png").stat().st_size > 20_000
    assert "below 1e-9 from" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure_1", "figures_2_and_4"])
def test_figures_are_drawn(name: str, tmp_path: Path) -> None:
    load(name).main(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


# The thread


@pytest.mark.slow
def test_the_scripts_of_the_thread(tmp_path: Path, capsys: Any) -> None:
    example = load("thread")
    for seed, is_stabilized, entry in ((2023, False, (1, 0)), (456, True, (1, 0)), (123, True, (0, 0))):
        found = example.script(seed, is_stabilized=is_stabilized)
        network = example.Network(seed, is_stabilized=is_stabilized)
        W, b, v = (p.detach().numpy() for p in network.parameters())

        def f(y: Array, W: Array = W, b: Array = b, v: Array = v, c: float = network.stabilizer) -> float:
            return float(v[0] @ np.tanh(W @ y + b) + c * y @ y)

        def slope(y: Array, W: Array = W, b: Array = b, v: Array = v, c: float = network.stabilizer) -> Array:
            return np.asarray(W.T @ (v[0] * (1.0 - np.tanh(W @ y + b) ** 2)) + 2.0 * c * y)

        y = minimize(f, np.zeros(network.n), jac=slope, method="BFGS", options={"gtol": 1e-11}).x
        for _ in range(5):
            t = np.tanh(W @ y + b)
            H = (W.T * (-2.0 * v[0] * t * (1.0 - t**2))) @ W + 2.0 * network.stabilizer * np.eye(network.n)
            y = y - np.linalg.solve(H, slope(y))
        np.testing.assert_allclose(found.y, y, atol=1e-9)
        measured = example.difference(seed, entry, is_stabilized=is_stabilized)
        np.testing.assert_allclose(found.slope[:, *entry], measured, rtol=1e-6)
        if seed != 123:  # the thread's numbers, printed there from float32
            printed = [2.8206, -8.8939, -0.0791] if seed == 2023 else [-2.1014, -0.4498, 0.9942]
            np.testing.assert_allclose(found.slope[0, :, 0], printed, atol=1e-4)
    example.main(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000
    printed_out = capsys.readouterr().out
    assert printed_out.count("differences:") == 3
    assert printed_out.count("RUNS_OFF") == printed_out.count("stabilizing term") == 2  # 456 and 123 as they are


def test_the_page_of_the_report_names_tests_and_files_that_exist() -> None:
    page = (FOLDER.parent / "report.md").read_text(encoding="utf-8")
    default = "test_argmin_report.py"
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in Path(__file__).resolve().parents[1].rglob("test_*.py")
    }
    count = 0
    for row in (line for line in page.splitlines() if line.startswith("|")):
        for cell in row.split("; "):
            files = re.findall(r"`tests/\w+/(test_\w+\.py)`", cell) or [default]
            for name in re.findall(r"`(test_\w+)`", cell):
                count += 1
                assert any(f"def {name}(" in sources[file] for file in files), f"{name} is not in {files}"
        for name in re.findall(r"`(\w+\.py)`", row):
            assert (FOLDER / name).exists()
        for name in re.findall(r"\(figures/(\w+\.png)\)", row):
            assert (FOLDER.parent / "figures" / name).exists()
    assert count > 30


# The open questions


def test_gradients_at_inexact_points_are_the_formula() -> None:
    """-M'H^-1 w with H and M of logistic regression written in NumPy, at a point that is not optimal."""
    example = load("open_questions")
    X = example.breast_cancer()[0].numpy()
    rng = np.random.default_rng(0)
    y, theta, w = 0.3 * rng.normal(size=30), rng.normal(size=30), rng.normal(size=(2, 30))
    p = 1.0 / (1.0 + np.exp(X @ y))
    H = (X.T * (p * (1.0 - p))) @ X / len(X) + np.diag(np.exp(theta))
    known = -np.linalg.solve(H, w.T).T * np.exp(theta) * y
    found = example.implicit_gradients(*(torch.from_numpy(a) for a in (y, theta, X, w)))
    np.testing.assert_allclose(found, known, rtol=1e-8, atol=1e-10)


def test_conjugate_gradients_and_neumann_series_converge_to_the_inverse() -> None:
    example = load("open_questions")
    rng = np.random.default_rng(1)
    F, w = rng.normal(size=(6, 6)), rng.normal(size=(3, 6))
    H = F @ F.T / 6.0 + np.eye(6)
    known = np.linalg.solve(H, w.T).T
    H, w = torch.from_numpy(H), torch.from_numpy(w)
    np.testing.assert_allclose(example.conjugate_gradients(H, w, 6), known, atol=1e-9)
    np.testing.assert_allclose(example.conjugate_gradients(H, w, 6, H.diag()), known, atol=1e-9)
    np.testing.assert_allclose(example.neumann(H, w, 300), known, atol=1e-9)


def test_one_sided_derivatives_at_kinks_are_those_of_nonnegative_least_squares() -> None:
    example = load("kinks")
    rng = np.random.default_rng(2)
    F = rng.normal(size=(10, 10))
    H = F @ F.T / 10.0 + 0.1 * np.eye(10)
    x, z = np.zeros(10), np.zeros(10)
    x[example.FREE], z[example.ZERO] = 1.0, 1.0
    root, w, theta = np.linalg.cholesky(H), rng.normal(size=10), H @ x - z
    for d in rng.normal(size=(5, 10)):
        moved = nnls(root.T, np.linalg.solve(root, theta + 1e-4 * d), maxiter=1000)[0]
        found = example.slopes(*(torch.from_numpy(a).unsqueeze(0) for a in (H, w, d)))
        assert float(found) == pytest.approx(w @ (moved - x) / 1e-4, abs=1e-8)


@pytest.mark.slow
def test_what_the_page_on_the_open_questions_says(tmp_path: Path, capsys: Any) -> None:
    starts, left, diagonal, cheap, training = load("open_questions").main(tmp_path / "figure.png", quick=True)
    cold, warm, predicted = (np.array(row) for row in starts.free.values())
    assert bool((2.0 * warm < cold).all())
    assert bool((predicted <= warm).all())
    cold, warm = (np.array(row) for row in starts.constrained.values())
    assert bool((2.0 * warm < cold).all())
    gap = 1.0 - np.array(left.median)
    assert left.tolerances[4] == pytest.approx(1e-3)
    assert left.median[4] > 0.98
    assert left.least[4] > 0.9
    assert np.polyfit(np.log10(left.tolerances[4:]), np.log10(gap[4:]), 1)[0] == pytest.approx(2.0, abs=0.3)
    for size in (3, 30):
        assert diagonal.median[size][0] == pytest.approx(1.0)  # H is a multiple of the identity
        assert diagonal.median[size][-1] < 0.6
    assert diagonal.descent[3][-1] < 0.9
    plain, scaled, neumann = cheap.cosine.values()
    assert min(plain[5], scaled[5]) > 0.99 > neumann[-1]
    assert cheap.stale[0] > 0.999 > 0.9 > cheap.stale[-1]
    for row in training.loss.values():
        assert row[-1] < row[0]
    assert training.loss["H^-1 (exact)"][-1] == min(row[-1] for row in training.loss.values())
    assert min(training.cosine["H^-1 (exact)"]) == pytest.approx(1.0)
    assert 0.8 < training.cosine["5 steps of conjugate gradients"][0] < 0.99
    assert (tmp_path / "figure.png").stat().st_size > 20_000
    assert "breast cancer" in capsys.readouterr().out


@pytest.mark.slow
def test_what_the_page_says_of_kinks(tmp_path: Path, capsys: Any) -> None:
    found = load("kinks").main(tmp_path / "figure.png", trials=60)
    for size in range(3):
        one, few, many, barrier = (found.rate[name][size] for name in found.rate)
        assert one < few < many
        assert one < min(barrier, found.half[1])
        assert found.descent["barrier"][size] > 0.9
    assert "barrier" in capsys.readouterr().out


# The benchmark


@pytest.mark.slow
def test_the_problems_of_the_benchmark_in_40_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER.parent.parent / "benchmarks"))
    peers, problems = importlib.import_module("argmin_peers"), importlib.import_module("argmin_problems")
    for problem in problems.problems():
        known = problem.oracle()
        for way, limits in ((peers.dcl_layer, (1e-12, 1e-11)), (peers.by_hand, (1e-5, 1e-5))):
            errors = [peers.error(found, right) for found, right in zip(way(problem), known, strict=True)]
            assert errors[0] < limits[0], problem.name
            assert errors[1] < limits[1], problem.name
