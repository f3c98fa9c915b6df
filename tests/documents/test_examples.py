"""The examples under docs/examples: they run, and what they draw is right, by closed forms and eq. 61 and 64 in NumPy."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
LARGEST = 150_000  # bytes of a committed figure


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("figure", sorted((FOLDER.parent / "figures").glob("*.png")), ids=lambda path: path.stem)
def test_committed_figures_are_small(figure):
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size < LARGEST


@pytest.mark.parametrize("t", [1.0, 10.0, 100.0])
def test_figure_3_is_its_closed_form(t):
    # 2 t (y - x) = 1 / y;  dy/dx = 2 t / (2 t + 1 / y^2)
    x = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64)
    g, slope = load("figure_3").curve(x, 1.0 / t)
    y = 0.5 * (x + torch.sqrt(x * x + 2.0 / t))
    np.testing.assert_allclose(g, y, rtol=1e-8)
    np.testing.assert_allclose(slope, 2.0 * t / (2.0 * t + 1.0 / y**2), rtol=1e-7)


def test_figure_3_exact():
    x = torch.tensor([-0.5, 0.25], dtype=torch.float64)
    g, slope = load("figure_3").curve(x, 0.0)
    np.testing.assert_allclose(g, [0.0, 0.25], atol=1e-12)
    np.testing.assert_allclose(slope, [0.0, 1.0], atol=1e-12)


def barrier_gradient(A, b, i, t):
    """Maximize t (a_i'x + b_i - log sum exp) + log(1 - |x|^2) by Newton; dx_1 in A and b by eq. 64."""
    x = np.zeros(2)
    for mu in [*np.geomspace(1.0, 1.0 / t, 60), *[1.0 / t] * 20]:
        p = np.exp(A @ x + b - np.max(A @ x + b))
        p /= p.sum()
        room = 1.0 - x @ x
        F = -(A[i] - p @ A) + mu * 2.0 * x / room
        H = (A.T * p) @ A - np.outer(p @ A, p @ A) + mu * (4.0 * np.outer(x, x) / room**2 + 2.0 * np.eye(2) / room)
        step = -np.linalg.solve(H, F)
        while (x + step) @ (x + step) >= 1.0:
            step *= 0.5
        x = x + step
    u = np.linalg.solve(H, [1.0, 0.0])  # dx_1 = u' d(A[i] - p'A)
    mean = p @ A
    grad_A = -np.outer(p, u) - np.outer(p * ((A - mean) @ u), x)
    grad_A[i] += u
    return x, grad_A, -p * ((A - mean) @ u)


def test_figure_5_moves_to_the_left_along_the_gradient_of_equation_64():
    example = load("figure_5")
    A, b = example.parameters()
    found = example.most_likely(A.expand(len(b), -1, -1), b.expand(len(b), -1))
    for i in (*example.SHOWN, 1):
        x, grad_A, grad_b = barrier_gradient(A.numpy(), b.numpy(), i, t=1e6)
        np.testing.assert_allclose(found.x[i], x, atol=1e-5)
        np.testing.assert_allclose(found.grad_A[i], grad_A, atol=1e-4)
        np.testing.assert_allclose(found.grad_b[i], grad_b, atol=1e-4)
    after = example.most_likely(found.A - example.STEP * found.grad_A, found.b - example.STEP * found.grad_b)
    assert bool((after.x[:, 0] < found.x[:, 0]).all())
    assert bool((after.x.norm(dim=-1) <= 1.0 + 1e-9).all())


@pytest.mark.slow
def test_the_decision_layer_trains_with_a_barrier_only(tmp_path, capsys):
    example = load("decision_layer")
    exact, barrier, fitted = example.main(tmp_path / "curves.png", steps=12)
    assert max(exact.gradients) <= 1e-12
    assert np.ptp(exact.train) <= 1e-9
    assert min(barrier.gradients) > 1e-4
    assert barrier.train[-1] < 0.6 * barrier.train[0]
    assert barrier.test[-1] < 0.7 * barrier.test[0]
    assert exact.train[0] == pytest.approx(barrier.train[0], abs=1e-9)
    assert 0.0 < fitted[0] < fitted[1] < 0.3
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "largest |gradient|" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure_3", "figure_5"])
def test_figures_are_drawn(name, tmp_path):
    load(name).main(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.slow
def test_the_tables_of_the_docs_are_those_of_the_script():
    """Each case is in docs/compare.md, with the verdict that it has today; the figures in it differ from run to run."""
    example = load("comparison_tables")
    page = (FOLDER.parent / "compare.md").read_text(encoding="utf-8")
    for name, case in example.CASES.items():
        section = page.split(f"### {name}\n")[1].split("### ")[0]
        found = example.compared(case(), (1e-2, 1e-6))
        assert f"\n{found.subject}\n" in section
        assert " ".join(found.verdict.split()[:4]) in section
        if found.relative:
            assert found.row("exact").cosine > 0.99 or found.recommended_mu > 0.0
