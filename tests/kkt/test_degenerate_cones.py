"""Cones at points where multipliers or solutions are not unique: flagged, finite, and right in what is unique.

Made from the regular programs of oracles/cones.py, whose derivatives are known in NumPy:

    every cone twice       z_1 + z_2 = z is all that is known of the multipliers; x, and the gradients summed over the copies,
                           are those of the program with one copy: RANK_DEFICIENT
    every variable twice   x = x_1 + x_2 is all that is known of the point; z, s and the summed gradients are: NONUNIQUE
"""

import numpy as np
import pytest
import torch
from helpers import draw, wrong
from oracles.cones import gradients, regular, smat, svec

import dcl
from dcl import GradientKind
from dcl.cones import Nonnegative, Product, SecondOrder, Zero
from dcl.kkt.system import _rotations

GRADIENT = 1e-7
SOLUTION = 1e-7
COSTS = ("zero", "low rank", "full")


def twice(known):
    """The cones of the program, each one followed by its copy, and the rows of the program in that order."""
    cones, order, start = {}, [], 0
    for key in ("z", "l", "q", "s", "ep", "p"):
        value = known.cones.get(key, 0)
        sizes = (
            [1] * value
            if key in "zl"
            else [3] * value
            if key == "ep"
            else [3] * len(value or [])
            if key == "p"
            else value
        )
        for size in sizes or []:
            rows = size * (size + 1) // 2 if key == "s" else size
            order += 2 * list(range(start, start + rows))
            start += rows
        if value:
            cones[key] = 2 * value if key in ("z", "l", "ep") else [v for v in value for _ in range(2)]
    return cones, torch.tensor(order)


def leaves_of(known):
    return {name: torch.tensor(a, requires_grad=True) for name, a in known.data.items()}


def compare(known, leaves, outputs, seed):
    off = [k for k in outputs if np.abs(outputs[k].detach().numpy() - known.outputs[k]).max() > SOLUTION]
    cotangents = {k: c for k, c in draw(known_tensors(known), np.random.default_rng(seed)).items() if k in outputs}
    seeds = [torch.from_numpy(cotangents[k]) for k in outputs]
    found = torch.autograd.grad(list(outputs.values()), list(leaves.values()), seeds)
    computed = {name: g.numpy() for name, g in zip(leaves, found, strict=True)}
    full = {k: cotangents.get(k, np.zeros_like(known.outputs[k])) for k in known.outputs}
    return off + wrong(computed, gradients(known, full, known.D[0]), GRADIENT)


def known_tensors(known):
    return {k: torch.from_numpy(a) for k, a in known.outputs.items()}


@pytest.mark.parametrize(
    "start", [0, pytest.param(10, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)]
)
def test_every_cone_twice(start):
    bad, kinds = [], []
    for seed in range(start, start + 10):
        known = regular(seed, COSTS[seed % 3])
        cones, order = twice(known)
        leaves = leaves_of(known)
        data = {k: t.index_select(0, order) if k in ("A", "b") else t for k, t in leaves.items()}
        result, solution = dcl.ConeLayer(cones, on_degenerate="ignore")(**({"P": None} | data), return_solution=True)
        z = torch.zeros_like(leaves["b"]).index_add(0, order, result.z)
        s = torch.zeros_like(leaves["b"]).index_add(0, order, 0.5 * result.s)
        kinds.append(int(solution.gradient_kind))
        found = compare(known, leaves, {"x": result.x, "z": z, "s": s}, seed)
        bad += [(seed, known.states, found)] if found else []
    assert not bad, "\n".join(map(str, bad))
    assert set(kinds) <= {GradientKind.RANK_DEFICIENT, GradientKind.WEAKLY_ACTIVE, GradientKind.EXACT}, kinds
    assert kinds.count(GradientKind.RANK_DEFICIENT) >= 7, kinds


@pytest.mark.parametrize(
    "start", [0, pytest.param(10, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)]
)
def test_every_variable_twice(start):
    bad = []
    for seed in range(start, start + 10):
        known = regular(seed, COSTS[seed % 3])
        leaves = leaves_of(known)
        data = dict(leaves)
        data["A"], data["q"] = (torch.cat([leaves[k]] * 2, -1) for k in ("A", "q"))
        if "P" in leaves:
            data["P"] = torch.cat([torch.cat([leaves["P"]] * 2, -1)] * 2, -2)
        result, solution = dcl.ConeLayer(known.cones, on_degenerate="ignore")(
            **({"P": None} | data), return_solution=True
        )
        n = leaves["q"].shape[0]
        found = compare(known, leaves, {"x": result.x[:n] + result.x[n:], "z": result.z, "s": result.s}, seed)
        if solution.gradient_kind != GradientKind.NONUNIQUE:
            found.append(GradientKind(int(solution.gradient_kind)).name)
        bad += [(seed, known.states, found)] if found else []
    assert not bad, "\n".join(map(str, bad))


def test_a_face_of_the_semidefinite_cone_is_optimal():
    """The smallest eigenvalue, min <C, X> with tr X = 1, where it is a double one: X is any matrix of a face."""
    rng = np.random.default_rng(0)
    U, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    C = (U * [1.0, 1.0, 2.0, 5.0]) @ U.T
    c = torch.tensor(svec(C), requires_grad=True)
    A = torch.cat([torch.tensor(svec(np.eye(4)))[None], -torch.eye(10, dtype=torch.float64)])
    b = torch.cat([torch.ones(1, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)]).requires_grad_()
    result, solution = dcl.ConeLayer({"z": 1, "s": [4]}, on_degenerate="ignore")(None, c, A, b, return_solution=True)
    value = c @ result.x
    assert value.item() == pytest.approx(1.0, abs=1e-9)
    assert solution.gradient_kind in (GradientKind.NONUNIQUE, GradientKind.WEAKLY_ACTIVE)
    np.testing.assert_allclose(smat(result.z[1:].detach().numpy()), C - np.eye(4), atol=1e-8)
    g, gb = torch.autograd.grad(value, (c, b))
    # a subgradient of the smallest eigenvalue: of trace one, on the face, semidefinite; and the multiplier of tr X = 1
    G = smat(g.numpy())
    assert np.trace(G) == pytest.approx(1.0, abs=1e-7)
    assert np.linalg.norm(G @ U[:, 2:]) <= 1e-7
    assert np.linalg.eigvalsh(G)[0] >= -1e-7
    assert gb[0].item() == pytest.approx(1.0, abs=1e-7)


def test_a_flat_direction_inside_of_a_second_order_cone():
    """min t with |w + b_2| <= t + b_1 and |2 u - 1| <= 1: t = -b_1, w = -b_2, and u anywhere between 0 and 1."""
    q = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    A = torch.tensor([[-1.0, 0, 0], [0, -1, 0], [0, 0, 0], [0, 0, -2]], dtype=torch.float64)
    b = torch.tensor([0.0, 0.25, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    result, solution = dcl.ConeLayer({"q": [2, 2]}, on_degenerate="ignore")(None, q, A, b, return_solution=True)
    assert solution.gradient_kind == GradientKind.NONUNIQUE
    np.testing.assert_allclose(result.x[:2].detach().numpy(), [0.0, -0.25], atol=1e-9)
    assert 0.0 <= result.x[2].item() <= 1.0
    for k in range(2):
        gradient = torch.autograd.grad(result.x[k], b, retain_graph=True)[0]
        np.testing.assert_allclose(gradient.numpy(), -np.eye(4)[k], atol=1e-7)


def test_cones_of_which_there_are_none():
    """Rows of curved cones that all have count 0, in the sparse form too."""
    cone = Product((Zero(0), Nonnegative(0), SecondOrder(3, 0)))
    v = torch.zeros(2, 0, dtype=torch.float64)
    assert cone.project(v, 0.0).shape == (2, 0)
    assert [Q.shape for Q in _rotations(cone, cone.dproject(v, 0.0, v))] == [(0, 0)] * 2
    x = dcl.ConeLayer({"q": [0, 0], "s": [0], "p": []})(torch.eye(1).double(), v.new_ones(1), v.new_zeros(0, 1), v[0]).x
    assert x.item() == pytest.approx(-1.0)
