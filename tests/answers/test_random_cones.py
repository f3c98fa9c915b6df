"""ConeLayer on random cone programs with known optimum and known derivative; see oracles/cones.py.

Regular programs: solution and gradients against NumPy's implicit derivative, differences of the layer and diffcp.
Programs with a tie (apex, edges, rank jumps): solution, the flag, and a gradient between the one-sided ones.
"""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import draw, wrong
from oracles.cones import TIES, difference, gradients, pair, regular, speed, svec, tied

import dcl

diffcp = pytest.importorskip("diffcp")

SOLUTION = 1e-7
GRADIENT = 1e-8  # measured: 2e-12, exponential and power cones included
DIFFERENCE = 1e-6  # measured: 4e-9
DIFFCP = 1e-6
HULL = 1e-6
# diffcp is started at the optimum: its own gradient is off by as much as its solution, 1e-5 at times with Clarabel (which
# has the rows of several semidefinite cones wrong there: {"s": [2, 3, 3]}).
AT_ONCE = {"eps_abs": 1e-12, "eps_rel": 1e-12, "acceleration_lookback": 0}
COSTS = ("zero", "low rank", "full")
CHUNK = 10
QUICK, ALL = 30, 270
QUICK_TIES, ALL_TIES = 20, 70
QUICK_DIFFCP, ALL_DIFFCP = 20, 60  # diffcp has no power cones


def chunks(quick, total):
    starts = range(0, total, CHUNK)
    return [pytest.param(i, marks=[] if i < quick else [pytest.mark.slow], id=f"{i}-{i + CHUNK - 1}") for i in starts]


def solve(known):
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in known.data.items()}
    layer = dcl.ConeLayer(known.cones, on_degenerate="ignore")
    result, solution = layer(**({"P": None} | leaves), return_solution=True)
    return leaves, result._asdict(), solution


def backward(leaves, outputs, cotangents):
    seeds = [torch.from_numpy(cotangents[name]) for name in outputs]
    found = torch.autograd.grad(list(outputs.values()), list(leaves.values()), seeds)
    return {name: g.numpy() for name, g in zip(leaves, found, strict=True)}


def misses(known, outputs):
    """The outputs that are off by more than SOLUTION."""
    off = {k: np.abs(outputs[k].detach().numpy() - known.outputs[k]).max() for k in outputs}
    return [f"{k} {e:.1e}" for k, e in off.items() if not e <= SOLUTION * (1.0 + np.abs(known.outputs[k]).max())]


def difference_error(known, cotangents, known_gradients, rng):
    """|difference - <gradient, direction>| / |gradient| along a direction that leans towards the gradient."""
    norm = np.sqrt(sum(np.sum(g**2) for g in known_gradients.values()))
    direction = {k: g / norm + rng.standard_normal(g.shape) / np.sqrt(2 * g.size) for k, g in known_gradients.items()}
    if "P" in direction:
        direction["P"] = 0.5 * (direction["P"] + direction["P"].T)
    steps = 2e-3 / max(1.0, speed(known, direction)) * np.array([-2.0, -1.0, 1.0, 2.0])
    moved = {k: torch.from_numpy(a + np.multiply.outer(steps, direction[k])) for k, a in known.data.items()}
    if known.P is not None and np.linalg.eigvalsh(moved["P"].numpy()).min() < 0.0:  # singular P: not along P
        moved["P"], direction["P"] = torch.from_numpy(known.P), np.zeros_like(known.P)
    outputs = dcl.ConeLayer(known.cones)(**({"P": None} | moved))._asdict()
    values = sum((outputs[k] @ torch.from_numpy(c)) for k, c in cotangents.items()).numpy()
    at = dict(zip(steps.tolist(), values.tolist(), strict=True))
    slope = difference(lambda t: at[min(at, key=lambda s: abs(s - t))], float(steps[2]))
    along = sum(np.sum(known_gradients[k] * direction[k]) for k in direction)
    return abs(slope - along) / norm


@pytest.mark.parametrize("start", chunks(QUICK, ALL))
def test_regular_programs(start):
    bad = []
    for seed in range(start, start + CHUNK):
        rng = np.random.default_rng(seed)
        known = regular(seed, COSTS[seed % 3])
        leaves, outputs, solution = solve(known)
        cotangents = draw(outputs, rng)
        computed = backward(leaves, outputs, cotangents)
        found = misses(known, outputs) + wrong(computed, gradients(known, cotangents, known.D[0]), GRADIENT)
        if solution.gradient_kind != dcl.GradientKind.EXACT:
            found.append(dcl.GradientKind(int(solution.gradient_kind)).name)
        error = difference_error(known, cotangents, computed, rng)
        bad += [(seed, known.states, found)] if found else []
        bad += [(seed, known.states, f"difference {error:.1e}")] if not error <= DIFFERENCE else []
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.parametrize("start", chunks(QUICK_TIES, ALL_TIES))
def test_programs_with_a_tie(start):
    bad = []
    for seed in range(start, start + CHUNK):
        known = tied(seed)
        leaves, outputs, solution = solve(known)
        found = misses(known, outputs)
        if solution.gradient_kind != dcl.GradientKind.WEAKLY_ACTIVE:
            found.append(dcl.GradientKind(int(solution.gradient_kind)).name)
        cotangents = draw(outputs, np.random.default_rng(seed))
        computed = backward(leaves, outputs, cotangents)
        if known.D:
            share, miss = between(computed, *(gradients(known, cotangents, D) for D in known.D))
            found += [f"share {share:.2f}, miss {miss:.1e}"] if not (0.0 <= share <= 1.0 and miss <= HULL) else []
        found += ["not finite"] if not all(np.isfinite(g).all() for g in computed.values()) else []
        bad += [(seed, known.states, found)] if found else []
    assert not bad, "\n".join(map(str, bad))


def between(computed, one, other):
    """(t, distance) to the nearest point of the line one + t (other - one), relative to |one|."""
    flat = [np.concatenate([g[k].ravel() for k in computed]) for g in (computed, one, other)]
    edge = flat[2] - flat[1]
    share = float(edge @ (flat[0] - flat[1]) / (edge @ edge))
    return share, float(np.linalg.norm(flat[0] - flat[1] - share * edge) / np.linalg.norm(flat[1]))


def test_all_ties_and_states_are_tried():
    drawn = {state for seed in range(2 * QUICK) for state in regular(seed, COSTS[seed % 3]).states}
    assert {key for key, _ in drawn} == {"z", "l", "q", "s", "ep", "p"}
    assert {s for k, s in drawn if k == "ep"} >= {"interior", "boundary", "dual interior", "face", "ray"}
    assert {s for seed in range(QUICK_TIES) for s in tied(seed).states} >= set(TIES)


@pytest.mark.parametrize("start", chunks(QUICK_DIFFCP, ALL_DIFFCP))
def test_gradients_of_diffcp(start):
    bad = []
    for seed in range(start, start + CHUNK):
        known = regular(1000 + seed, "zero", ("z", "l", "q", "s", "ep"))
        leaves, outputs, _ = solve(known)
        cotangents = draw(outputs, np.random.default_rng(seed))
        computed = backward(leaves, outputs, cotangents)
        given = (sp.csc_matrix(known.A), known.b, known.q, known.cones, (known.x, known.z, known.s))
        *_, adjoint = diffcp.solve_and_derivative(*given, mode="dense", solve_method="SCS", **AT_ONCE)
        dA, db, dc = adjoint(cotangents["x"], cotangents["z"], cotangents["s"])
        found = misses(known, outputs) + wrong(computed, {"A": dA.toarray(), "b": db, "q": dc}, DIFFCP)
        bad += [(seed, known.cones, known.states, found)] if found else []
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["projected", "all entries"])
@pytest.mark.parametrize("cones", [{"z": 2}, {"l": 3}, {"q": [4]}, {"s": [2]}, {"ep": 1}, {"p": [0.3]}], ids=str)
def test_gradcheck(cones, fast):
    (key,) = cones
    rng = np.random.default_rng(7)
    count = cones[key] if key in "zl" else 1
    size = cones[key][0] if key in "qsp" else 1
    states = {"z": ["free"] * 2, "l": ["active", "slack", "active"]}.get(key, ["boundary"])
    pairs = [pair(key, size, states[k], rng) for k in range(count)]
    s, z = (np.concatenate([getattr(p, name) for p in pairs]) for name in ("s", "z"))
    n = 3
    A, x, L = rng.standard_normal((len(s), n)), rng.standard_normal(n), rng.standard_normal((n, n))
    P = L @ L.T + np.eye(n)
    data = [torch.tensor(a, requires_grad=True) for a in (P, -P @ x - A.T @ z, A, A @ x + s)]
    layer = dcl.ConeLayer(cones)
    assert torch.allclose(layer(*data).x, torch.from_numpy(x), rtol=0.0, atol=SOLUTION)
    assert torch.autograd.gradcheck(lambda *d: tuple(layer(*d)), data, eps=1e-5, atol=1e-7, rtol=1e-6, fast_mode=fast)


def test_svec_is_the_lower_triangle_by_columns():
    matrix = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    r = np.sqrt(2.0)
    assert np.allclose(svec(matrix), [1.0, 2 * r, 3 * r, 4.0, 5 * r, 6.0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e4])
def test_small_and_large_points(size):
    """b and, beside a quadratic cost, q times `size`: x, and s, are those of size one times `size`."""
    for seed in range(10):
        known = regular(seed, COSTS[seed % 3])
        scaled = {"b", "q"} if known.P is not None else {"b"}
        data = {k: torch.from_numpy(size * a if k in scaled else a) for k, a in known.data.items()}
        x = dcl.ConeLayer(known.cones, on_degenerate="ignore")(**({"P": None} | data)).x.numpy()
        assert np.abs(x - size * known.x).max() <= 1e-7 * size * np.abs(known.x).max(), (seed, known.states)
