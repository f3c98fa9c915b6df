"""The compiled core: points, gradients and verdicts against oracles that are not dcl.

Programs in 57 digits and in exact rationals, the central path in 40 digits, closed forms, and differences of points
that Clarabel finds; then what holds whatever the numbers are: shared data, threads, warm starts, forks, dtypes, empty blocks.
"""

import importlib
import os
import threading
from itertools import product

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from core_programs import FAMILIES, REGULAR, draws, size_of
from oracles.central_path import point
from oracles.exact import tiny
from oracles.regular import DATA, KINDS, instance

from dcl import core

pytestmark = pytest.mark.skipif(not core.available, reason=f"the compiled core is not there: {core.reason}")
if core.available:
    from dcl.core import dense

POINT, GRADIENT = 1e-10, 1e-9


def tensors(data):
    """One program in arrays as a batch of one."""
    return {name: torch.tensor(data[name], dtype=torch.float64)[None] for name in DATA if data.get(name) is not None}


def outputs_of(answer):
    return {name: getattr(answer, name) for name in dense.OUTPUTS if getattr(answer, name).numel()}


def relative(mine, known):
    """|mine - known| / |known| over all arrays together."""
    miss = np.sqrt(sum(np.linalg.norm(np.ravel(mine[name] - known[name])) ** 2 for name in mine))
    size = np.sqrt(sum(np.linalg.norm(np.ravel(known[name])) ** 2 for name in mine))
    return float(miss / size) if size else float(miss)


def gradients(answer, data, cotangents, **options):
    return dense.adjoint(answer, data, cotangents, list(data), **options)


def mistakes(data, solution, exact_gradients, seed):
    """What is wrong with the certified answer to one program, [] if nothing is."""
    batch = tensors(data)
    answer = dense.solve(batch, 1)
    if answer.status.item() != dense.Code.CERTIFIED:
        return [f"not certified: {dense.Code(answer.status.item()).name}"]
    outputs = outputs_of(answer)
    found = []
    for name, t in outputs.items():
        error = np.abs(t[0].numpy() - solution[name]).max() / (1e-300 + np.abs(solution["x"]).max())
        scale = max(1.0, np.abs(solution[name]).max() / (1e-300 + np.abs(solution["x"]).max()))
        if not error <= POINT * scale:
            found.append(f"{name} off by {error:.1e}")
    rng = np.random.default_rng(seed)
    for name, t in outputs.items():
        cotangent = rng.standard_normal(tuple(t.shape))
        mine = {k: g[0].numpy() for k, g in gradients(answer, batch, {name: torch.tensor(cotangent)}).items()}
        error = relative(mine, exact_gradients({name: cotangent[0]}))
        if not error <= GRADIENT:
            found.append(f"gradient of {name} off by {error:.1e}")
    return found


# Against oracles


@pytest.mark.sample(4)
@pytest.mark.parametrize("n", [1, 2, 5, 10, 30, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_regular_programs_in_57_digits(kind, n):
    found = []
    for seed, condition in enumerate((1.0, 1e2, 1e4)):
        known = instance(kind, n, seed, condition)
        texts = mistakes(known.data, known.solution, known.gradients, seed)
        found += [f"instance({kind!r}, {n}, {seed}, {condition:.0e}): {text}" for text in texts]
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 5, 10, 30, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_ill_conditioned_programs_in_57_digits(kind, n):
    """What is certified at a condition of up to 1e8 has all its digits."""
    found = []
    for seed, condition in product(range(3, 6), (1e6, 1e8)):
        known = instance(kind, n, seed, condition)
        texts = mistakes(known.data, known.solution, known.gradients, seed)
        found += [f"instance({kind!r}, {n}, {seed}, {condition:.0e}): {t}" for t in texts if "not certified" not in t]
    assert not found


def test_tiny_programs_in_rationals():
    found = []
    for seed in range(60):
        known = tiny(seed)
        texts = mistakes(known.data, known.solution, lambda g, known=known: known.candidates(g)[0], seed)
        found += [f"tiny({seed}): {text}" for text in texts]
    assert not found


@pytest.mark.parametrize(
    "kind", ["weakly_active", "redundant", "duplicate", "overdetermined", "flat", "infeasible", "unbounded"]
)
def test_degenerate_and_unsolvable_tiny_programs_are_not_certified(kind):
    """But those with a tie in a row that no multiplier needs; the rational point tells."""
    for seed in range(20):
        known = tiny(seed, kind)
        status = dense.solve(tensors(known.data), 1).status.item()
        assert status != dense.Code.CERTIFIED, f"tiny({seed}, {kind!r})"


@pytest.mark.sample(3)
@pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-5])
def test_central_path_in_40_digits(mu):
    rng = np.random.default_rng(1)
    for n, m, p in ((2, 4, 0), (4, 7, 1), (3, 3, 1)):
        x, L, A, G = (rng.standard_normal(shape) for shape in (n, (n, n - 1), (p, n), (m, n)))
        P, slack = L @ L.T, 0.5 + rng.random(m)
        q, w = rng.standard_normal(n) - P @ x - G.T @ rng.random(m), rng.standard_normal(n)
        lb, ub = x - 1.5, x + 1.0
        data = {"P": P, "q": q, "A": A, "b": A @ x, "G": G, "h": G @ x + slack, "lb": lb, "ub": ub}
        rows, sides = np.vstack([A, G, -np.eye(n), np.eye(n)]), np.concatenate([A @ x, data["h"], -lb, ub])
        known = point(P, q, rows, sides, {"z": p, "l": m + 2 * n}, mu, x, w)
        data = {name: a for name, a in data.items() if a.size}
        batch = tensors(data)
        answer = dense.solve(batch, 1, mu=torch.tensor([mu], dtype=torch.float64))
        assert answer.status.item() == dense.Code.CERTIFIED
        np.testing.assert_allclose(answer.x[0].numpy(), known["x"], rtol=0, atol=POINT)
        g = gradients(answer, batch, {"x": torch.tensor(w)[None]})
        parts = np.split(known["b"], np.cumsum([p, m, n]))
        expected = {"q": known["q"], "h": parts[1], "lb": -parts[2], "ub": parts[3]} | ({"b": parts[0]} if p else {})
        assert relative({name: g[name][0].numpy() for name in expected}, expected) <= GRADIENT


@pytest.mark.sample(5)
@pytest.mark.parametrize("mu", [1.0, 1e-3])
@pytest.mark.parametrize("family", ["badly_scaled", "dependent", "nearly_tied", "low_rank"])
def test_central_path_of_bad_programs_in_40_digits(family, mu):
    """What is certified there is right at any condition that is."""
    w, worst, seen = np.array([1.0, -2.0, 0.5]), 0.0, 0
    for data in draws(family, 3, 60 if family == "dependent" else 5, seed=5):
        answer = dense.solve(data, size_of(data), mu=torch.tensor([mu], dtype=torch.float64))
        g = gradients(answer, data, {"x": torch.tensor(w).expand_as(answer.x).contiguous()})
        for i in torch.nonzero(answer.status == dense.Code.CERTIFIED).flatten().tolist():
            one, seen = {name: t[i].numpy() for name, t in data.items()}, seen + 1
            rows, sides = np.vstack([one.get("A", np.zeros((0, 3))), one["G"]]), np.append(one.get("b", []), one["h"])
            cones = {"z": len(one.get("b", [])), "l": len(one["h"])}
            P = one.get("P", np.zeros((3, 3)))
            known = point(P, one["q"], rows, sides, cones, mu, answer.x[i].numpy(), w)
            worst = max(worst, relative({"x": answer.x[i].numpy()}, known) / 1e-10)
            worst = max(worst, relative({"q": g["q"][i].numpy()}, known) / 1e-8)
    assert seen
    assert worst <= 1.0


@pytest.mark.parametrize("family", REGULAR)
def test_gradients_are_differences_of_clarabel(family):
    """Of a random functional of x, along a random direction of all data at once, central differences of order two."""
    rng = np.random.default_rng(2)
    for data in draws(family, 6, 4, seed=7):
        answer = dense.solve(data, size_of(data))
        w = torch.tensor(rng.standard_normal(answer.x.shape))
        g = gradients(answer, data, {"x": w})
        for i in torch.nonzero(answer.status == 0).flatten().tolist():
            one = {name: t[i].numpy() for name, t in data.items()}
            move = {name: rng.standard_normal(t.shape) for name, t in one.items()}
            if "P" in move:  # a change that leaves a semidefinite P so
                R = np.linalg.cholesky(one["P"] + 1e-12 * np.eye(6)) if family == "definite" else np.zeros((6, 6))
                move["P"] = R @ (move["P"] + move["P"].T) @ R.T
            step = 1e-5
            ahead, back = (
                reference({k: one[k] + sign * step * np.nan_to_num(move[k]) for k in one}) for sign in (1, -1)
            )
            slope = w[i].numpy() @ (ahead - back) / (2 * step)
            mine = sum(float((g[k][i].numpy() * move[k]).sum()) for k in one)
            assert abs(mine - slope) <= 1e-5 * (1 + abs(slope))


def reference(data):
    """x by Clarabel."""
    n = len(data["q"])
    blocks = [(np.zeros((0, n)), np.zeros(0))]
    zeros = 0
    if "A" in data:
        blocks, zeros = [(data["A"], data["b"])], len(data["b"])
    for name, sign in (("G", 1), ("lb", -1), ("ub", 1)):
        if name in data:
            M, side = (data["G"], data["h"]) if name == "G" else (sign * np.eye(n), sign * data[name])
            blocks.append((M[np.isfinite(side)], side[np.isfinite(side)]))
    A, b = np.vstack([M for M, _ in blocks]), np.concatenate([side for _, side in blocks])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    P = sp.csc_matrix(np.triu(data.get("P", np.zeros((n, n)))))
    cones = [clarabel.ZeroConeT(zeros), clarabel.NonnegativeConeT(len(b) - zeros)]
    return np.array(clarabel.DefaultSolver(P, data["q"], sp.csc_matrix(A), b, cones, settings).solve().x)


def kkt_error(data, answer, i):
    """The largest violation of the KKT conditions of instance i, which prove x right where P > 0: in long double."""
    one = {name: t[i].numpy().astype(np.longdouble) for name, t in data.items()}
    x, y, z = (getattr(answer, name)[i].numpy().astype(np.longdouble) for name in ("x", "y", "z"))
    slack = one["h"] - one["G"] @ x
    gradient = one["P"] @ x + one["q"] + one["A"].T @ y + one["G"].T @ z
    assert (z >= 0).all()
    return max(abs(gradient).max(), abs(one["A"] @ x - one["b"]).max(), -slack.min(), abs(z * slack).max())


def test_where_block_pivoting_gives_up():
    """Many rows: some need more than its 20 steps, and the dual method finds their active set."""
    (data,) = draws("definite", 60, 24, seed=8)
    rng = np.random.default_rng(8)
    more = torch.tensor(rng.standard_normal((24, 120, 60)))
    data |= {
        "G": torch.cat([data["G"], more], 1),
        "h": torch.cat([data["h"], torch.tensor(0.3 + rng.random((24, 120)))], 1),
    }
    data["h"] = (data["G"] @ answer_inside(data)).squeeze(-1) + data["h"].abs()
    answer = dense.solve(data, 24)
    assert bool((answer.status == dense.Code.CERTIFIED).all())
    assert int(answer.iterations.max()) > 20
    assert max(kkt_error(data, answer, i) for i in range(24)) <= 1e-12


def answer_inside(data):
    """A point of each instance on its equalities: (B, n, 1)."""
    return torch.linalg.lstsq(data["A"], data["b"].unsqueeze(-1)).solution


# Closed forms


def test_box_in_closed_form():
    """min 1/2 |x|^2 - c'x on a box: x clips c, multipliers are what is cut off, and the gradient passes inside only."""
    c = torch.tensor([[0.5, 2.0, -3.0, 0.25]], dtype=torch.float64)
    lb, ub = torch.full((1, 4), -1.0, dtype=torch.float64), torch.full((1, 4), 1.0, dtype=torch.float64)
    data = {"P": torch.eye(4, dtype=torch.float64)[None], "q": -c, "lb": lb, "ub": ub}
    answer = dense.solve(data, 1)
    assert torch.equal(answer.x, c.clamp(-1.0, 1.0))
    assert torch.equal(answer.z_ub, torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64))
    assert torch.equal(answer.z_lb, torch.tensor([[0.0, 0.0, 2.0, 0.0]], dtype=torch.float64))
    assert answer.value.item() == pytest.approx(0.5 * (0.25 + 1 + 1 + 0.0625) - (0.25 + 2 + 3 + 0.0625))
    g = gradients(answer, data, {"x": torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)})
    np.testing.assert_allclose(g["q"], [[-1.0, 0.0, 0.0, -4.0]], atol=1e-15)
    np.testing.assert_allclose(g["lb"], [[0.0, 0.0, 3.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(g["ub"], [[0.0, 2.0, 0.0, 0.0]], atol=1e-15)
    g = gradients(answer, data, {"z_lb": torch.ones(1, 4, dtype=torch.float64)})  # z_lb = q + lb where it binds
    np.testing.assert_allclose(g["q"], [[0.0, 0.0, 1.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(g["lb"], [[0.0, 0.0, 1.0, 0.0]], atol=1e-15)


def test_barrier_in_closed_form():
    """min x - mu log x: x = mu, z = 1; the gradient of x in q is -mu, and in lb it is 1."""
    for mu in (0.5, 1e-3, 1e-6):
        data = {"q": torch.ones(1, 1, dtype=torch.float64), "lb": torch.zeros(1, 1, dtype=torch.float64)}
        answer = dense.solve(data, 1, mu=torch.tensor([mu], dtype=torch.float64))
        assert answer.x.item() == pytest.approx(mu, rel=1e-12)
        g = gradients(answer, data, {"x": torch.ones(1, 1, dtype=torch.float64)})
        assert g["q"].item() == pytest.approx(-mu, rel=1e-12)
        assert g["lb"].item() == pytest.approx(1.0, rel=1e-12)
        g = gradients(answer, data, {"value": torch.ones(1, 1, dtype=torch.float64)})  # q x = mu: constant
        assert g["q"].item() == pytest.approx(0.0, abs=1e-12)


def test_projection_onto_a_plane():
    """min 1/2 |x - c|^2, a'x = b: x = c - a (a'c - b) / |a|^2, y = (a'c - b) / |a|^2."""
    a, c, b = torch.tensor([1.0, 2.0, 2.0]).double(), torch.tensor([3.0, 1.0, -1.0]).double(), 0.5
    data = {"P": torch.eye(3).double()[None], "q": -c[None], "A": a[None, None], "b": torch.tensor([[b]]).double()}
    answer = dense.solve(data, 1)
    y = (a @ c - b) / 9
    np.testing.assert_allclose(answer.x[0], c - a * y, atol=1e-15)
    np.testing.assert_allclose(answer.y[0], [y], atol=1e-15)
    g = gradients(answer, data, {"y": torch.ones(1, 1).double()})
    np.testing.assert_allclose(g["b"], [[-1 / 9]], atol=1e-15)
    np.testing.assert_allclose(g["q"][0], -a / 9, atol=1e-15)
    np.testing.assert_allclose(g["A"][0, 0], c / 9 - 2 * a * y / 9, atol=1e-15)


# Verdicts


@pytest.mark.parametrize(
    ("name", "value"), list(product(("P", "q", "A", "b", "G", "h", "lb", "ub"), ("nan", "inf", "-inf")))
)
def test_what_is_not_finite_is_not_certified(name, value):
    """But h = inf, lb = -inf and ub = inf, which bind nothing."""
    (data,) = draws("definite", 5, 1)
    bounds = {"lb": torch.full((1, 5), -9.0).double(), "ub": torch.full((1, 5), 9.0).double()}
    data = {k: t.clone() for k, t in (data | bounds).items()}
    data[name].flatten()[0] = float(value)
    status = dense.solve(data, 1).status.item()
    free = (name, value) in (("h", "inf"), ("lb", "-inf"), ("ub", "inf"))
    assert (status == dense.Code.CERTIFIED) if free else (status == dense.Code.NOT_FINITE)


def test_zero_and_positive_mu_in_one_batch():
    (data,) = draws("definite", 4, 2)
    mixed = dense.solve(data, 2, mu=torch.tensor([0.0, 1e-2], dtype=torch.float64))
    for i, mu in enumerate((None, torch.tensor([1e-2], dtype=torch.float64))):
        assert torch.equal(mixed.x[i], dense.solve(data, 2, mu=mu).x[i])


@pytest.mark.parametrize("mu", [-1.0, float("nan"), float("inf")])
def test_a_barrier_that_is_none(mu):
    (data,) = draws("definite", 4, 2)
    answer = dense.solve(data, 2, mu=torch.tensor([mu, 1e-2], dtype=torch.float64))
    assert answer.status.tolist() == [dense.Code.NOT_FINITE, dense.Code.CERTIFIED]


def test_infinite_sides_bind_nothing():
    (data,) = draws("definite", 6, 5)
    h = data["h"].clone()
    h[:, 2:] = torch.inf
    few, all_ = (
        dense.solve(data | {"G": data["G"][:, :2].clone(), "h": h[:, :2].clone()}, 5),
        dense.solve(data | {"h": h}, 5),
    )
    assert bool((all_.status == 0).all())
    torch.testing.assert_close(all_.x, few.x, rtol=0, atol=1e-13)
    assert not all_.z[:, 2:].any()
    g = gradients(all_, data | {"h": h}, {"x": torch.ones(5, 6).double(), "z": torch.ones(5, 6).double()})
    assert not g["G"][:, 2:].any()
    assert not g["h"][:, 2:].any()


def test_a_program_leaves_nothing_to_the_next():
    """Contradicting equalities, on which nothing can start, after a larger program: with and without mu."""
    row, rng = torch.ones(1, 1, 3).double(), np.random.default_rng(0)
    data = {
        "q": torch.tensor(rng.standard_normal((1, 3))),
        "A": torch.cat([row, row], 1),
        "b": torch.tensor([[0.0, 1.0]]).double(),
    }
    data["lb"] = torch.zeros(1, 3).double()
    for mu in (None, torch.tensor([1.0]).double()):
        for larger in ("linear", "low_rank", "definite"):
            (before,) = draws(larger, 20, 2)
            dense.solve(before, 2, mu=mu)
            assert dense.solve(data, 1, mu=mu).status.item() not in (dense.Code.CERTIFIED, dense.Code.NOT_FINITE)


def test_indefinite_P():
    data = {"P": torch.diag(torch.tensor([1.0, -1e-3])).double()[None], "q": torch.ones(1, 2).double()}
    data |= {"lb": torch.zeros(1, 2).double(), "ub": torch.ones(1, 2).double()}
    assert dense.solve(data, 1).status.item() == dense.Code.NOT_PSD


@pytest.mark.parametrize(
    ("P", "q", "G", "h"),
    [
        ([[6.140000000000001, 18.42], [18.42, 55.26000000000001]], [3e-4, -1e-4], [[1.0, 3.0]], [1.0]),
        ([[6.140000000000001, 1.842], [1.842, 0.5526000000000001]], [3e-5, -1e-4], None, None),
    ],
)
def test_unbounded_by_the_smallest_of_slopes(P, q, G, h):
    """Issue 10: a P of rank one by rounding."""
    data = {name: np.array(a) for name, a in (("P", P), ("q", q), ("G", G), ("h", h)) if a is not None}
    assert dense.solve(tensors(data), 1).status.item() != dense.Code.CERTIFIED


def test_unbounded_portfolios():
    rng = np.random.default_rng(28)
    R = rng.standard_normal((12, 20))
    data = {"P": 2 * R.T @ R / 12, "q": -rng.standard_normal(20), "A": np.ones((1, 20)), "b": np.ones(1)}
    assert dense.solve(tensors(data), 1).status.item() != dense.Code.CERTIFIED


def test_ties_are_not_certified():
    """x = min(c, 1) at c = 1: a kink, and near it."""
    for c, clear in ((1.0, False), (1.0 + 1e-9, False), (1.0 - 1e-9, False), (1.1, True), (0.9, True)):
        data = {"P": np.eye(1), "q": np.array([-c]), "ub": np.ones(1)}
        assert (dense.solve(tensors(data), 1).status.item() == dense.Code.CERTIFIED) == clear


# Whatever the numbers are


def test_symmetrized_P():
    (data,) = draws("definite", 5, 3)
    skew = torch.tensor(np.random.default_rng(0).standard_normal((3, 5, 5)))
    tilted = data | {"P": data["P"] + skew - skew.mT}
    plain, answer = dense.solve(data, 3), dense.solve(tilted, 3)
    torch.testing.assert_close(answer.x, plain.x, rtol=0, atol=1e-12)
    g, known = (gradients(a, d, {"x": torch.ones(3, 5).double()}) for a, d in ((answer, tilted), (plain, data)))
    torch.testing.assert_close(g["P"], known["P"], rtol=1e-11, atol=1e-13)
    assert torch.equal(g["P"], g["P"].mT)


SHARED = [("P",), ("P", "A", "G"), ("A", "G"), ("G",), ("q",), ("P", "A", "G", "b", "h"), ("lb", "ub"), ("P", "lb")]


@pytest.mark.parametrize("mu", [None, 1e-3])
@pytest.mark.parametrize("shared", SHARED)
def test_shared_data(shared, mu):
    """One copy for all: the same answers as B copies, and the sum of their gradients."""
    rng, B = np.random.default_rng(3), 7
    (data,) = draws("definite", 6, B, seed=3)
    data |= {"lb": torch.tensor(-1.0 - rng.random((B, 6))), "ub": torch.tensor(1.0 + rng.random((B, 6)))}
    data["b"], data["h"] = 0.1 * data["b"], data["h"].abs() + 0.5
    one = data | {name: data[name][:1].clone() for name in shared}
    full = {name: t.expand(B, *t.shape[1:]).contiguous() for name, t in one.items()}
    barrier = None if mu is None else torch.tensor([mu], dtype=torch.float64)
    a, f = dense.solve(one, B, mu=barrier), dense.solve(full, B, mu=barrier)
    assert bool((a.status == 0).all())
    assert torch.equal(a.status, f.status)
    cotangents = {name: torch.tensor(rng.standard_normal(t.shape)) for name, t in outputs_of(a).items()}
    for name, t in outputs_of(a).items():
        torch.testing.assert_close(t, getattr(f, name), rtol=1e-11, atol=1e-12)
    g, known = gradients(a, one, cotangents), gradients(f, full, cotangents)
    for name, t in g.items():
        expected = known[name].sum(0, keepdim=True) if name in shared else known[name]
        torch.testing.assert_close(t, expected, rtol=1e-10, atol=1e-11)


def test_objectives_of_different_sizes_with_one_P():
    """They keep units of their own where one would not do."""
    (data,) = draws("box", 5, 3)
    data["P"] = data["P"][:1].clone()
    data["q"] = data["q"] * torch.tensor([[1.0], [1e5], [1e-7]]).double()
    answer = dense.solve(data, 3)
    for i in range(3):
        single = dense.solve({name: t if t.shape[0] == 1 else t[i : i + 1].clone() for name, t in data.items()}, 1)
        assert answer.status[i] == single.status[0]
        torch.testing.assert_close(answer.x[i], single.x[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_change_no_bit(family):
    for data in draws(family, 8, 12, seed=4):
        B = size_of(data)
        shared = data | {"q": data["q"][:1].clone()}
        for d in (data, shared):
            one, two, three = (dense.solve(d, B, threads=k) for k in (1, 2, 3))
            cotangents = {name: torch.ones_like(t) for name, t in outputs_of(one).items()}
            g = [gradients(a, d, cotangents, threads=k) for a, k in ((one, 1), (two, 2), (three, 3))]
            for other, h in ((two, g[1]), (three, g[2])):
                assert torch.equal(one.status, other.status)
                assert all(torch.equal(t, getattr(other, name)) for name, t in outputs_of(one).items())
                assert all(torch.equal(t, h[name]) for name, t in g[0].items())


def test_calls_at_once():
    (data,) = draws("definite", 10, 20)
    known = dense.solve(data, 20)
    cotangents = {"x": torch.ones_like(known.x)}
    expected = gradients(known, data, cotangents)
    wrong = []

    def work(threads):
        for _ in range(20):
            answer = dense.solve(data, 20, threads=threads)
            g = gradients(answer, data, cotangents, threads=threads)
            if not (torch.equal(answer.x, known.x) and all(torch.equal(g[k], expected[k]) for k in g)):
                wrong.append(threads)

    callers = [threading.Thread(target=work, args=(1 + k % 3,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_after_a_fork():
    """A child has none of the pool's threads; it makes its own."""
    (data,) = draws("definite", 10, 20)
    known = dense.solve(data, 20, threads=2)
    child = os.fork()
    if child == 0:
        same = torch.equal(dense.solve(data, 20, threads=2).x, known.x)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(dense.solve(data, 20, threads=2).x, known.x)


@pytest.mark.parametrize("family", ["definite", "low_rank", "linear", "box", "linear_box"])
def test_warm_starts(family):
    """From the answer itself nothing is left to do; from the answer of nearby data, less than from nowhere."""
    for data in draws(family, 15, 20, seed=5):
        B = size_of(data)
        cold = dense.solve(data, B)
        start = {name: t for name, t in outputs_of(cold).items() if name != "value"}
        warm = dense.solve(data, B, start=start)
        assert torch.equal(warm.status, cold.status)
        torch.testing.assert_close(warm.x, cold.x, rtol=1e-11, atol=1e-11)
        assert not warm.iterations[cold.status == 0].any()
        moved = data | {"q": data["q"] * 1.001}
        near, nowhere = dense.solve(moved, B, start=start), dense.solve(moved, B)
        torch.testing.assert_close(near.x, nowhere.x, rtol=1e-11, atol=1e-11)
        assert near.iterations.sum() < nowhere.iterations.sum()


def test_a_start_of_nonsense_is_no_harm():
    (data,) = draws("definite", 8, 10)
    known = dense.solve(data, 10)
    rng = np.random.default_rng(0)
    for fill in (np.nan, np.inf, 1e300, None):
        x, z = (
            torch.tensor(rng.standard_normal(t.shape) if fill is None else np.full(t.shape, fill))
            for t in (known.x, known.z)
        )
        answer = dense.solve(data, 10, start={"x": x, "z": z.abs()})
        torch.testing.assert_close(answer.x, known.x, rtol=1e-10, atol=1e-11)


def test_float32():
    """Computed in float64 from float32 numbers, and rounded once."""
    (data,) = draws("definite", 8, 6)
    single = {name: t.float() for name, t in data.items()}
    double = {name: t.double() for name, t in single.items()}
    a, b = dense.solve(single, 6), dense.solve(double, 6)
    assert a.x.dtype == a.z.dtype == a.value.dtype == torch.float32
    assert torch.equal(a.status, b.status)
    assert all(torch.equal(t, getattr(b, name).float()) for name, t in outputs_of(a).items())
    cotangents = {name: torch.ones_like(t) for name, t in outputs_of(a).items()}
    g = gradients(a, single, cotangents)
    known = gradients(b, double, {name: t.double() for name, t in cotangents.items()})
    assert all(torch.equal(t, known[name].float()) for name, t in g.items())


@pytest.mark.parametrize("mu", [None, 1e-2])
@pytest.mark.parametrize("blocks", list(product((0, 1), repeat=4)))
def test_absent_and_empty_blocks(blocks, mu):
    """Every combination of A, G, lb, ub, absent or there with zero rows, in a batch of none and of two."""
    has_A, has_G, has_lb, has_ub = blocks
    eye = torch.eye(3).double()
    data = {"P": eye[None].clone(), "q": torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.2, -0.1]]).double()}
    if has_A:
        data |= {"A": torch.ones(1, 1, 3).double(), "b": torch.full((1, 1), 0.3).double()}
    else:
        data |= {"A": torch.ones(1, 0, 3).double(), "b": torch.zeros(1, 0).double()}
    if has_G:
        data |= {"G": torch.tensor([[[1.0, 0.0, -1.0]]]).double(), "h": torch.full((1, 1), 0.25).double()}
    if has_lb:
        data["lb"] = torch.full((1, 3), -0.7).double()
    if has_ub:
        data["ub"] = torch.full((1, 3), 0.9).double()
    barrier = None if mu is None else torch.tensor([mu]).double()
    for d, B in ((data, 2), (data | {"q": data["q"][:0].clone()}, 0)):
        answer = dense.solve(d, B, mu=barrier, threads=2)
        assert not answer.status.any()
        g = dense.adjoint(answer, d, {"x": torch.ones(B, 3).double()}, list(d), threads=2)
        assert all(g[name].shape == d[name].shape and bool(g[name].isfinite().all()) for name in d)
        if B == 0:
            assert not any(bool(t.any()) for t in g.values())
    if mu is None and not any(blocks):
        assert torch.equal(dense.solve(data, 2).x, -data["q"])


def test_masked_instances_add_nothing():
    """One that is not certified beside others: zero outputs, zero gradients, and nothing in the sum of a shared one."""
    (data,) = draws("definite", 5, 4)
    data["P"] = data["P"][:1].clone()
    good = dense.solve(data, 4)
    broken = data | {"q": data["q"].clone()}
    broken["q"][2] = torch.nan
    answer = dense.solve(broken, 4)
    assert answer.status.tolist() == [0, 0, dense.Code.NOT_FINITE, 0]
    assert not answer.x[2].any()
    weight = torch.ones(4, 5).double()
    g, known = (
        gradients(answer, broken, {"x": weight}),
        gradients(good, data, {"x": weight * (torch.arange(4) != 2)[:, None]}),
    )
    torch.testing.assert_close(g["P"], known["P"], rtol=1e-11, atol=1e-13)
    assert not g["q"][2].any()
    assert not g["G"][2].any()


@pytest.mark.parametrize("mu", [None, 1e-2])
@pytest.mark.parametrize("family", REGULAR)
def test_solves_with_the_KKT_matrix(family, mu):
    """K times what K^-1 returns, with K written out from its definition; the adjoint by <u, K^-1 r> = <K^-T u, r>."""
    rng = np.random.default_rng(6)
    for data in draws(family, 5, 3, seed=6):
        B, n = data["q"].shape
        data = data | {name: data[name].clamp(-9, 9) for name in ("lb", "ub") if name in data}
        answer = dense.solve(data, B, mu=None if mu is None else torch.tensor([mu]).double())
        assert not answer.status.any()
        eye = np.eye(n)
        blocks = {"A": ("b", answer.y), "G": ("h", answer.z), "lb": ("lb", answer.z_lb), "ub": ("ub", answer.z_ub)}
        for i in range(B):
            rows, d = [], []
            for name, (side, z) in blocks.items():
                if name not in data:
                    continue
                M = {"lb": -eye, "ub": eye}.get(name, data[name][i].numpy())
                sign = -1 if name == "lb" else 1
                s = sign * data[side][i].numpy() - M @ answer.x[i].numpy()
                z = z[i].numpy()
                rows.append(M)
                d.append(np.ones(len(M)) if name == "A" else (z > 0) * 1.0 if mu is None else z / (z + s))
            A, D = np.vstack(rows), np.diag(np.concatenate(d))
            P = data["P"][i].numpy() if "P" in data else np.zeros((n, n))
            K = np.block([[P, A.T @ D], [A, D - np.eye(len(A))]])
            r, u = rng.standard_normal((2, B, n + len(A)))
            dx, dv = dense.solve_kkt(answer, data, torch.tensor(r[:, :n]), torch.tensor(r[:, n:]), adjoint=False)
            ux, uv = dense.solve_kkt(answer, data, torch.tensor(u[:, :n]), torch.tensor(u[:, n:]), adjoint=True)
            t, w = np.concatenate([dx[i], dv[i]]), np.concatenate([ux[i], uv[i]])
            assert np.abs(K @ t - r[i]).max() <= 1e-9 * np.abs(t).max()
            assert np.abs(K.T @ w - u[i]).max() <= 1e-9 * np.abs(w).max()


def test_the_build_for_every_processor_agrees(monkeypatch):
    """Not to the last bit: fused products round once."""
    for family in REGULAR:
        for data in draws(family, 12, 10, seed=9):
            B = size_of(data)
            answer = dense.solve(data, B)
            g = gradients(answer, data, {"x": torch.ones_like(answer.x)})
            with monkeypatch.context() as patch:
                patch.setattr(dense, "_extension", importlib.import_module("dcl.core._core_baseline"))
                other = dense.solve(data, B)
                h = gradients(other, data, {"x": torch.ones_like(answer.x)})
            assert torch.equal(answer.status, other.status)
            torch.testing.assert_close(other.x, answer.x, rtol=1e-10, atol=1e-11)
            for name, t in h.items():
                torch.testing.assert_close(t, g[name], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("G", lambda t: t.mT.contiguous().mT),
        ("q", lambda t: t[:1].expand(3, -1)),
        ("h", torch.Tensor.float),
        ("b", lambda t: t[:2].clone()),
    ],
)
def test_tensors_that_the_core_would_misread(name, change):
    (data,) = draws("definite", 5, 3)
    with pytest.raises(ValueError, match=name):
        dense.solve(data | {name: change(data[name])}, 3)


def test_a_handle_belongs_to_its_sizes():
    (data,) = draws("definite", 4, 2)
    answer = dense.solve(data, 2)
    (other,) = draws("definite", 5, 2)
    with pytest.raises(ValueError, match="sizes"):
        dense.adjoint(answer, other, {}, ["q"])


def test_equalities_make_p_definite():
    """|y|^2 with y = A x - b, x on a simplex: pivoting takes few steps on P + A'G A, and the point is that of x alone."""
    rng = np.random.default_rng(0)
    m, n = 40, 6
    A, b = rng.standard_normal((m, n)), rng.standard_normal(m)
    P = np.zeros((n + m, n + m))
    P[n:, n:] = 2.0 * np.eye(m)
    rows = np.vstack([np.hstack([A, -np.eye(m)]), np.hstack([np.ones((1, n)), np.zeros((1, m))])])
    long = {"P": P, "q": np.zeros(n + m), "A": rows, "b": np.append(b, 1.0)}
    long |= {"G": np.hstack([-np.eye(n), np.zeros((n, m))]), "h": np.zeros(n)}
    short = {"P": 2.0 * A.T @ A, "q": -2.0 * A.T @ b, "A": np.ones((1, n)), "b": np.ones(1), "G": -np.eye(n), "h": np.zeros(n)}
    given, reduced = (
        dense.solve({name: torch.tensor(t)[None] for name, t in blocks.items()}, 1, threads=1) for blocks in (long, short)
    )
    assert int(given.status) == int(reduced.status) == 0
    torch.testing.assert_close(given.x[:, :n], reduced.x, rtol=0, atol=1e-13)
    torch.testing.assert_close(given.z, reduced.z, rtol=0, atol=1e-12)
    assert int(given.iterations) <= int(reduced.iterations) + 1
