"""The gallery: each example runs without a warning, its figures are labeled, and its numbers are those of an independent oracle.

The oracles: closed forms, NumPy, scikit-learn, HiGHS, Clarabel through CVXPY, alternating projections, one process for two, and
the numbers that were printed in the forum.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cvxpy as cp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles import polish
from scipy.optimize import linprog
from sklearn.datasets import load_iris
from sklearn.linear_model import ElasticNet

GALLERY = sorted((Path(__file__).parents[2] / "docs" / "gallery_source").glob("plot_*.py"))
NAMES = [path.stem.removeprefix("plot_") for path in GALLERY]

pytest.importorskip("skfolio", reason='the gallery needs pip install "dcl-layers[examples]"')


@cache
def ran(name: str) -> tuple[dict[str, Any], list[Figure]]:
    """The names that an example leaves, and its figures; warnings are errors here as in all tests."""
    with mpl.rc_context({"backend": "Agg"}):
        plt.close("all")
        names = runpy.run_path(str(GALLERY[NAMES.index(name)]))
        figures = [plt.figure(number) for number in plt.get_fignums()]
        for figure in figures:
            figure.canvas.draw()
        plt.close("all")
    return names, figures


def test_there_are_twelve() -> None:
    assert len(NAMES) == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_figures_are_labeled(name: str) -> None:
    text = GALLERY[NAMES.index(name)].read_text(encoding="utf-8")
    assert "What to see" in text
    assert "The conclusion: " in re.sub(r"\s*#? +|\n# *", " ", text)
    _, figures = ran(name)
    assert figures
    for figure in figures:
        for axes in figure.axes:
            same_y = axes.get_shared_y_axes().get_siblings(axes)
            assert axes.get_xlabel() or not len(axes.get_xticks()) or axes.get_label() == "<colorbar>"
            assert any(one.get_ylabel() for one in same_y) or not len(axes.get_yticks())
            texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
            legend = axes.get_legend()
            texts += legend.get_texts() if legend else []
            assert min(one.get_fontsize() for one in texts) >= 8


@pytest.mark.slow
def test_mpc() -> None:
    g, _ = ran("mpc")
    A, B, Q, R = g["A"], g["B"], g["Q"], g["R"]
    P = Q
    for _ in range(2000):  # the Riccati recursion
        gain = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        P = Q + A.T @ P @ (A - B @ gain)
    np.testing.assert_allclose(g["gains"][-1], -gain[0], rtol=1e-6)
    np.testing.assert_allclose(g["forces"][-1], -gain[0] @ g["states"][-2], rtol=1e-6, atol=1e-9)
    assert g["at_limit"].sum() >= 2
    assert np.abs(g["gains"][g["at_limit"]]).max() < 1e-9
    assert np.abs(g["states"][:, 1]).max() <= g["SPEED"] + 1e-9
    for step in (0, 4, 20, 50):
        g["state"].value = g["states"][step]
        g["problem"].solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        assert g["forces"][step] == pytest.approx(float(g["u"].value[0, 0]), abs=1e-5)


def held(
    mean: np.ndarray, covariance: np.ndarray, cap: float, w: np.ndarray
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(target, mean) -> weights and the gradients of the bounds, for the stocks that are at 0 and at the cap in w."""
    zero, full = w < 1e-9, w > cap - 1e-9
    free = ~(zero | full)

    def solve(target: float, mean: np.ndarray = mean) -> tuple[np.ndarray, np.ndarray]:
        n, rows = int(free.sum()), np.vstack([np.ones(len(w)), mean])
        fixed = np.where(full, cap, 0.0)
        K = np.block([[2.0 * covariance[np.ix_(free, free)], rows[:, free].T], [rows[:, free], np.zeros((2, 2))]])
        side = np.concatenate([-2.0 * (covariance @ fixed)[free], np.array([1.0, target]) - rows @ fixed])
        found = np.linalg.solve(K, side)
        weights = fixed.copy()
        weights[free] = found[:n]
        return weights, 2.0 * covariance @ weights + rows.T @ found[n:]

    def optimal(target: float) -> bool:
        weights, reduced = solve(target)
        inside = (weights[free] > 0).all() and (weights[free] < cap).all()
        return bool(inside and (reduced[zero] >= 0).all() and (reduced[full] <= 0).all())

    solve.optimal = optimal  # type: ignore[attr-defined]
    return solve


@pytest.mark.slow
def test_frontier() -> None:
    g, _ = ran("frontier")
    w, mean = np.asarray(g["chosen"][g["w"]]), g["mean"].to_numpy()
    solve = held(mean, g["covariance"], g["CAP"], w)
    np.testing.assert_allclose(w, solve(0.20)[0], atol=1e-9)
    assert solve.optimal(0.20)  # type: ignore[attr-defined]
    slope = (solve(0.201)[0] - solve(0.199)[0]) / 0.002  # affine in the target
    np.testing.assert_allclose(g["slope"], slope, atol=1e-7)
    for end, outwards in ((g["low"], -1e-5), (g["high"], 1e-5)):
        assert solve.optimal(0.20 + end - outwards)  # type: ignore[attr-defined]
        assert not solve.optimal(0.20 + end + outwards)  # type: ignore[attr-defined]
    step = 1e-6
    for j in g["strongest"]:
        moved = step * np.eye(len(mean))[j]
        column = (solve(0.20, mean + moved)[0] - solve(0.20, mean - moved)[0]) / (2.0 * step)
        np.testing.assert_allclose(g["by_mean"][:, j], column, atol=1e-4)
    assert g["frontier"].ok.all()
    middle = np.gradient(g["variance"], g["targets"])[1:-1]
    np.testing.assert_allclose(g["price"][1:-1], middle, atol=2e-3)  # kinks of the slope lie between the grid points
    for row in (0, 40, 80, 110):
        weights = np.asarray(g["frontier"][g["w"]])[row]
        np.testing.assert_allclose(
            weights, held(mean, g["covariance"], g["CAP"], weights)(g["targets"][row])[0], atol=1e-8
        )


@pytest.mark.slow
def test_predict_then_optimize() -> None:
    g, _ = ran("predict_then_optimize")
    assert g["exact_gradient"] < 1e-12
    assert g["barrier_gradient"] > 1e-2
    assert torch.equal(g["exact"][0], g["exact"][-1])
    assert float(g["barrier"][-1].max()) < 0.14
    assert float(g["exact"][-1].min()) > 0.5
    # the three largest predictions
    score, truth = g["features"][g["held_out"]] @ g["fitted"], g["progression"][g["held_out"]]
    chosen = truth.gather(-1, score.topk(3, -1).indices).sum(-1)
    assert g["least_squares"][1] == pytest.approx(
        float((1.0 - chosen / truth.topk(3, -1).values.sum(-1)).mean()), abs=1e-12
    )
    # x(mu): c - t + mu / x - mu / (1 - x) = 0 entry by entry, with t such that the entries add up to three
    c, mu = score[:1].numpy(), 0.1
    low, high = np.full(1, -50.0), np.full(1, 50.0)
    for _ in range(200):
        t = 0.5 * (low + high)
        u = (c - t[:, None]) / (2.0 * mu)
        x = (u - 1.0 + np.hypot(u, 1.0)) / (2.0 * u)  # the root in (0, 1) of u x^2 - (u - 1) x - 1/2
        enough = x.sum(-1) > 3.0
        low, high = np.where(enough, t, low), np.where(enough, high, t)
    (on_path,) = g["decide"](score[:1], mu=mu)
    np.testing.assert_allclose(on_path.numpy(), x, atol=1e-9)


@pytest.mark.slow
def test_hyperparameters() -> None:
    g, _ = ran("hyperparameters")
    assert g["path_difference"] < 1e-6
    assert g["dual_difference"] < 1e-6
    ridge = g["program"].solve({g["alpha"]: 0.0, g["beta"]: 0.3})[g["w"]]
    np.testing.assert_allclose(ridge, np.linalg.solve(g["gram"] + 0.3 * np.eye(10), g["moment"]), atol=1e-9)

    def loss(logarithms: np.ndarray) -> float:
        alpha, beta = np.exp(logarithms)
        net = ElasticNet(
            alpha=alpha + beta, l1_ratio=alpha / (alpha + beta), fit_intercept=False, tol=1e-15, max_iter=10**6
        )
        net.fit(g["X"][g["train"]], g["y"][g["train"]])
        return float(np.square(g["X"][g["validation"]] @ net.coef_ - g["y"][g["validation"]]).mean())

    at, step = np.log([0.05, 0.2]), 1e-4
    differences = [(loss(at + step * e) - loss(at - step * e)) / (2.0 * step) for e in np.eye(2)]
    logarithms = torch.tensor(at, requires_grad=True)
    (w,) = g["layer"](*logarithms.exp())
    (gradient,) = torch.autograd.grad((g["X_validation"] @ w - g["y_validation"]).square().mean(), logarithms)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5)
    assert g["steps"][0, 2] == pytest.approx(loss(np.log([0.3, 0.3])), abs=1e-9)
    assert g["steps"][-1, 2] < 1.005 * g["surface"].min()
    assert g["errors"]["chosen"] < g["errors"]["no penalty"]


@pytest.mark.slow
def test_optimal_transport() -> None:
    g, _ = ran("optimal_transport")
    flow, prices, supply, demand = g["flow"], g["prices"], g["supply"], g["demand"]
    np.testing.assert_allclose(flow.sum(1), supply, atol=1e-9)
    np.testing.assert_allclose(flow.sum(0), demand, atol=1e-9)
    assert flow.min() > -1e-10
    np.testing.assert_allclose(g["by_price"], flow, atol=1e-9)
    assert g["least_cost"] == pytest.approx((prices * flow).sum() + 0.05 * np.square(flow).sum(), abs=1e-9)
    m, k = prices.shape
    rows = np.vstack([np.kron(np.eye(m), np.ones(k)), np.kron(np.ones(m), np.eye(k))])
    plain = linprog(prices.ravel(), A_eq=rows[:-1], b_eq=np.append(supply, demand)[:-1], method="highs")
    assert (
        plain.fun - 1e-9
        <= (prices * flow).sum()
        <= g["least_cost"]
        <= plain.fun + 0.05 * np.square(plain.x).sum() + 1e-9
    )

    def cost(supply: np.ndarray) -> float:
        plan = cp.Variable((m, k), nonneg=True)
        objective = cp.sum(cp.multiply(prices, plan)) + 0.05 * cp.sum_squares(plan)
        problem = cp.Problem(
            cp.Minimize(objective), [cp.sum(plan, axis=1) == supply, cp.sum(plan, axis=0)[:-1] == demand[:-1]]
        )
        return float(problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11))

    move = np.zeros(m)
    move[0], move[-1] = 1.0, -1.0  # ink from the last pixel to the first
    slope = (cost(supply + 1e-4 * move) - cost(supply - 1e-4 * move)) / 2e-4
    assert g["by_supply"] @ move == pytest.approx(slope, abs=1e-2)


def nearest_correlation(C: np.ndarray) -> np.ndarray:
    """Dykstra's alternating projections onto the semidefinite cone and the unit diagonal (Higham 2002)."""
    X, correction = C.copy(), np.zeros_like(C)
    for _ in range(3000):
        values, vectors = np.linalg.eigh(X - correction)
        semidefinite = (vectors * values.clip(0.0)) @ vectors.T
        correction = semidefinite - (X - correction)
        X = semidefinite.copy()
        np.fill_diagonal(X, 1.0)
    return X


@pytest.mark.slow
def test_correlation() -> None:
    g, _ = ran("correlation")
    assert g["eigenvalues"][0] < -0.1
    np.testing.assert_allclose(g["repaired"], nearest_correlation(g["estimate"]), atol=1e-6)
    step = 1e-3
    ends = [nearest_correlation(g["estimate"] + sign * step * g["direction"]) for sign in (1.0, -1.0)]
    np.testing.assert_allclose(g["change"], (ends[0] - ends[1]) / (2.0 * step), atol=2e-3)


@pytest.mark.slow
def test_sudoku() -> None:
    g, _ = ran("sudoku")
    assert len(g["grids"]) == 288  # a known count
    seen = {tuple(grid) for grid in g["train"].tolist()}
    assert not seen & {tuple(grid) for grid in g["judged"].tolist()}
    assert g["by_rules"][-1] > 0.95
    assert g["by_network"][-1] < 0.6
    assert g["missing"].mean() < 0.15
    rules = g["rules"]
    with torch.no_grad():
        x = rules(g["judged_puzzles"][:2]).numpy()
        A, z = rules.A.numpy(), rules.log_z.exp().numpy()
    for answer, puzzle in zip(x, g["judged_puzzles"].numpy(), strict=False):
        cones = (polish.Cone("zero", len(A)), polish.Cone("nonnegative", 64))
        program = polish.Program(
            rules.P.numpy(), -puzzle, np.vstack([A, -np.eye(64)]), np.append(A @ z, np.zeros(64)), cones
        )
        known, _ = polish.by_clarabel(program)
        np.testing.assert_allclose(answer, known, atol=1e-8)


@pytest.mark.slow
def test_learn_a_constraint() -> None:
    g, _ = ran("learn_a_constraint")
    np.testing.assert_allclose(g["limits"].detach(), g["true"], rtol=3e-3)
    errors = {name: error.mean() for name, error in g["errors"].items()}
    assert errors["learned limits"] < 1.02 * errors["true limits"]
    assert 3.0 * errors["learned limits"] < min(errors["ridge regression"], errors["no limits"])
    w, month = cp.Variable(g["n"]), 100
    exposure, target = g["exposures"].numpy(), g["recommended"][month].numpy()
    rules = [cp.sum(w) == 1, w >= 0, w <= 0.12, exposure @ w <= 0.9]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(w - target)), rules)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    np.testing.assert_allclose(g["exact"][month], w.value, atol=1e-6)


@pytest.mark.slow
def test_robust_regression() -> None:
    g, _ = ran("robust_regression")
    X, y, huber = g["design"], g["jumps"], g["fits"]["Huber"]["line"]
    np.testing.assert_allclose(g["fits"]["least squares"]["line"], np.linalg.lstsq(X, y)[0], rtol=1e-9)
    assert huber[0] == pytest.approx(g["theirs"].coef_[0], rel=1e-4)
    # the conditions of optimality, and Newton's matrix of the men within the threshold
    within = ~g["beyond"]
    np.testing.assert_allclose(X.T @ np.clip(y - X @ huber, -g["threshold"], g["threshold"]), 0.0, atol=1e-8)
    pull = np.zeros((2, 20))
    pull[:, within] = np.linalg.solve(X[within].T @ X[within], X[within].T)
    np.testing.assert_allclose(g["pull"]["Huber"], pull[0], atol=1e-9)
    np.testing.assert_allclose(g["pull"]["least squares"], np.linalg.pinv(X)[0], atol=1e-9)
    assert g["beyond"][g["outlier"]]
    assert np.ptp(g["slopes"]["Huber"][g["counts"] > 150]) < 1e-8
    assert np.ptp(g["slopes"]["least squares"][g["counts"] > 150]) > 20.0


@pytest.mark.slow
def test_bilevel() -> None:
    g, _ = ran("bilevel")
    assert g["reached"] <= 60
    assert g["exact"][-1] < 1e-9
    assert g["barrier"][-1] > 1e-4
    x, a, b = g["last"]
    likelihood = torch.softmax(x @ a.mT + b, -1)
    pull = a - likelihood @ a  # gradients of the log-likelihoods: along x, outwards, where the ball binds
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(3, dtype=torch.float64), atol=1e-9, rtol=0.0)
    assert bool(((pull * x).sum(-1) > 0.0).all())
    across = pull - (pull * x).sum(-1, keepdim=True) * x
    assert float(across.abs().max()) < 1e-7
    torch.testing.assert_close(x, g["targets"], atol=1e-4, rtol=0.0)


@pytest.mark.slow
def test_forum() -> None:
    g, _ = ran("forum")
    x, slope = g["found"]["seed 2023"]
    assert x == pytest.approx(4.385826, abs=2e-4)  # as the thread prints them, found by Adam in float32
    np.testing.assert_allclose(slope.flatten(), [2.8206, -8.8939, -0.0791], atol=1e-3)
    assert "seed 456" not in g["found"]
    assert set(g["differences"]) == {"seed 2023", "seed 456 + x²/16"}
    for name, difference in g["differences"].items():
        assert float(g["found"][name][1][1, 0]) == pytest.approx(difference, rel=1e-5)


def simplex(v: torch.Tensor) -> torch.Tensor:
    """The nearest points of the probability simplex to v (*batch, n), by sorting."""
    ordered = v.sort(-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1.0) / torch.arange(1, v.shape[-1] + 1)
    count = (ordered > excess).sum(-1, keepdim=True)
    return (v - excess.gather(-1, count - 1)).clamp_min(0.0)


@pytest.mark.slow
def test_ddp() -> None:
    g, _ = ran("ddp")
    assert g["difference"].max() < 1e-12
    assert g["right"] > 0.9
    features, species = load_iris(return_X_y=True)
    X = torch.tensor((features - features.mean(0)) / features.std(0))
    Y = torch.nn.functional.one_hot(torch.tensor(species), 3).double()
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.3)
    for weights in g["single"]:
        optimizer.zero_grad()
        (simplex(linear(X)) - Y).square().sum(-1).mean().backward()
        optimizer.step()
        np.testing.assert_allclose(weights, linear.weight.detach(), atol=1e-10)
