"""Identities that hold for any data and need no oracle, on the instances of the oracle of regular programs.

A change of the data that leaves x alone, or moves it in a known way, says what becomes of the multipliers, the value and
all gradients.  Each test compares two calls of dcl on different data; both sides wrong in the same way is what the
oracle is for.
"""

import numpy as np
import pytest
import torch
from helpers import OUTPUTS, Arrays, draw, gradients, solve, tensors, wrong
from oracles.regular import DATA, KINDS, instance
from tolerances import IDENTITY, ROUNDING
from torch.autograd import forward_ad

import dcl

# torch's forward mode imports parts of torch that warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def each(kinds: tuple[str, ...]) -> pytest.MarkDecorator:
    cases = [
        pytest.param(kind, n, seed, id=f"{kind}-{n}-{seed}", marks=[pytest.mark.slow] * (seed > 0 or n > 10))
        for kind in kinds
        for n in (2, 5, 10, 30)
        for seed in range(4)
    ]
    return pytest.mark.parametrize(("kind", "n", "seed"), cases)


each_instance = each(KINDS)


def program(kind: str, n: int, seed: int) -> tuple[Arrays, np.random.Generator]:
    return instance(kind, n, 100 + seed, 10.0**seed).data, np.random.default_rng([n, seed])


def answer(data: Arrays, cotangents: Arrays | None = None) -> tuple[Arrays, Arrays]:
    """Outputs, and the gradients of sum <cotangent, output>, as arrays."""
    leaves, outputs, _ = solve(data)
    found = gradients(leaves, outputs, cotangents) if cotangents else {}
    return {name: t.detach().numpy() for name, t in outputs.items()}, found


def cotangents_for(data: Arrays, rng: np.random.Generator) -> Arrays:
    return draw(answer(data)[0], rng)


@each_instance
def test_scaling_the_objective(kind, n, seed):
    """(P, q) c: x stays, multipliers and value are multiplied by c."""
    data, rng = program(kind, n, seed)
    c = 7.3
    factor = {"x": 1.0} | dict.fromkeys(OUTPUTS[1:], c)
    scaled = data | {name: data[name] * c for name in ("P", "q") if data[name] is not None}
    cotangents = cotangents_for(data, rng)
    outputs, found = answer(data, {name: g * factor[name] for name, g in cotangents.items()})
    outputs_c, found_c = answer(scaled, cotangents)
    assert not wrong(outputs_c, {name: t * factor[name] for name, t in outputs.items()}, IDENTITY)
    assert not wrong(found_c, {name: g / c if name in ("P", "q") else g for name, g in found.items()}, IDENTITY)


@each(("qp", "qp_semidefinite", "lp", "equality"))
def test_scaling_the_rows(kind, n, seed):
    """Rows of (A, b) and (G, h) times r: x and value stay, multipliers are divided by r."""
    data, rng = program(kind, n, seed)
    scaled, cotangents = dict(data), cotangents_for(data, rng)
    r = {}
    for matrix, side, dual in (("A", "b", "y"), ("G", "h", "z")):
        if data[side] is not None:
            r[dual] = r[side] = 10.0 ** rng.uniform(-1, 1, len(data[side]))
            r[matrix] = r[side][:, None]
            scaled[matrix], scaled[side] = data[matrix] * r[matrix], data[side] * r[side]
    assert r
    outputs, found = answer(data, {name: g / r.get(name, 1.0) for name, g in cotangents.items()})
    outputs_r, found_r = answer(scaled, cotangents)
    assert not wrong(outputs_r, {name: t / r.get(name, 1.0) for name, t in outputs.items()}, IDENTITY)
    assert not wrong(found_r, {name: g / r.get(name, 1.0) for name, g in found.items()}, IDENTITY)


@each_instance
def test_translation(kind, n, seed):
    """x + t in place of x: q - Pt, b + At, h + Gt, lb + t, ub + t; multipliers stay."""
    data, rng = program(kind, n, seed)
    t = rng.standard_normal(n)
    P = np.zeros((n, n)) if data["P"] is None else data["P"]
    moved = data | {"q": data["q"] - P @ t}
    for side, matrix in (("b", data["A"]), ("h", data["G"]), ("lb", np.eye(n)), ("ub", np.eye(n))):
        if data[side] is not None:
            moved[side] = data[side] + matrix @ t
    cotangents = cotangents_for(data, rng)
    del cotangents["value"]
    outputs, found = answer(data, cotangents)
    outputs_t, found_t = answer(moved, cotangents)
    # f(x + t; q - Pt) = f(x; q) + q't - t'Pt / 2
    shift = data["q"] @ t - t @ P @ t / 2
    assert abs(outputs_t.pop("value") - outputs["value"] - shift) <= IDENTITY * (1 + abs(outputs["value"]) + abs(shift))
    assert not wrong(outputs_t, outputs | {"x": outputs["x"] + t}, IDENTITY)
    # the chain rule through q - Pt, b + At and h + Gt
    chained = dict(found_t)
    if "P" in chained:
        chained["P"] = chained["P"] - (np.outer(found_t["q"], t) + np.outer(t, found_t["q"])) / 2
    for matrix, side in (("A", "b"), ("G", "h")):
        if matrix in chained:
            chained[matrix] = chained[matrix] + np.outer(found_t[side], t)
    assert not wrong(chained, found, IDENTITY)


@each_instance
def test_permuting_rows_and_variables(kind, n, seed):
    data, rng = program(kind, n, seed)
    place = {"x": rng.permutation(n)}
    place |= {name: rng.permutation(len(data[s])) for name, s in (("y", "b"), ("z", "h")) if data[s] is not None}
    axes = {"P": ("x", "x"), "q": "x", "A": ("y", "x"), "b": "y", "G": ("z", "x"), "h": "z", "lb": "x", "ub": "x"}
    axes |= {"x": "x", "y": "y", "z": "z", "z_lb": "x", "z_ub": "x", "value": ()}

    def permuted(arrays: Arrays) -> Arrays:
        out = {}
        for name, a in arrays.items():
            out[name] = a if a is None or name == "value" else a[np.ix_(*(place[k] for k in axes[name]))]
        return out

    cotangents = cotangents_for(data, rng)
    outputs, found = answer(data, cotangents)
    outputs_p, found_p = answer(permuted(data), permuted(cotangents))
    assert not wrong(outputs_p, permuted(outputs), IDENTITY)
    assert not wrong(found_p, permuted(found), IDENTITY)


@each(("bounds",))
def test_bounds_are_rows(kind, n, seed):
    """lb <= x <= ub against the same rows in G and h."""
    data, rng = program(kind, n, seed)
    low, high = np.isfinite(data["lb"]), np.isfinite(data["ub"])
    m = 0 if data["h"] is None else len(data["h"])
    G = [np.zeros((0, n)) if m == 0 else data["G"], -np.eye(n)[low], np.eye(n)[high]]
    h = [np.zeros(0) if m == 0 else data["h"], -data["lb"][low], data["ub"][high]]
    rows = data | {"G": np.vstack(G), "h": np.concatenate(h), "lb": None, "ub": None}

    def as_rows(o: Arrays) -> Arrays:
        z = np.concatenate([o.get("z", np.zeros(0)), o["z_lb"][low], o["z_ub"][high]])
        return {name: t for name, t in o.items() if name not in ("z_lb", "z_ub")} | {"z": z}

    cotangents = cotangents_for(data, rng)
    cotangents["z_lb"] *= low
    cotangents["z_ub"] *= high
    outputs, found = answer(data, cotangents)
    outputs_r, found_r = answer(rows, as_rows(cotangents))
    assert not wrong(outputs_r, as_rows(outputs), IDENTITY)
    back = {name: found_r[name] for name in found if name in ("P", "q", "A", "b")}
    if m:
        back |= {"G": found_r["G"][:m], "h": found_r["h"][:m]}
    lb, ub = np.zeros(n), np.zeros(n)
    lb[low], ub[high] = -found_r["h"][m : m + low.sum()], found_r["h"][m + low.sum() :]
    assert not wrong(back | {"lb": lb, "ub": ub}, found, IDENTITY)


@each_instance
def test_forward_and_reverse_are_adjoint(kind, n, seed):
    """<u, J v> = <J'u, v>."""
    data, rng = program(kind, n, seed)
    cotangents = cotangents_for(data, rng)
    _, found = answer(data, cotangents)
    leaves = tensors(data, requires_grad=False)
    v = {name: torch.from_numpy(rng.standard_normal(t.shape)) for name, t in leaves.items()}
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(t, v[name]) for name, t in leaves.items()}
        result = dcl.solve_qp(**({"P": None} | duals), on_degenerate="ignore")
        moved = {name: forward_ad.unpack_dual(getattr(result, name)).tangent.numpy() for name in cotangents}
    left = sum(np.sum(cotangents[name] * moved[name]) for name in cotangents)
    right = sum(np.sum(found[name] * v[name].numpy()) for name in found)
    size = np.sqrt(sum(np.sum(g**2) for g in found.values()) * sum(float((t**2).sum()) for t in v.values()))
    assert abs(left - right) <= ROUNDING * size
    assert abs(right) > 1e-6 * size


def batch_of(kind: str, n: int, count: int) -> list[Arrays]:
    """Instances of one shape: the same blocks and row counts."""
    found: list[Arrays] = []
    for seed in range(1000):
        data = instance(kind, n, seed, 10.0 ** (seed % 5)).data
        if not found or all(np.shape(data[name]) == np.shape(found[0][name]) for name in DATA):
            found.append(data)
        if len(found) == count:
            return found
    raise RuntimeError("no batch")


@pytest.mark.sample(4)
@pytest.mark.parametrize("n", [1, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_loop(kind, n):
    programs = batch_of(kind, n, 6)
    stacked = {
        name: None
        if programs[0][name] is None
        else np.stack([p[name] for p in programs]).reshape(2, 3, *np.shape(programs[0][name]))
        for name in DATA
    }
    cotangents = cotangents_for(stacked, np.random.default_rng(n))
    outputs, found = answer(stacked, cotangents)
    for i, data in enumerate(programs):
        at = divmod(i, 3)
        outputs_i, found_i = answer(data, {name: g[at] for name, g in cotangents.items()})
        assert not wrong({name: t[at] for name, t in outputs.items()}, outputs_i, IDENTITY)
        assert not wrong({name: g[at] for name, g in found.items()}, found_i, IDENTITY)


def everywhere(kind: str) -> Arrays:
    """An instance with every block of its kind, and active rows of G if it has any."""
    for seed in range(100):
        known = instance(kind, 5, seed, 10.0)
        if known.data["G"] is None and kind == "bounds":
            continue
        if known.data["G"] is None or len(known.active["G"]):
            return known.data
    raise RuntimeError(f"no instance of {kind}")


SHARED = [(kind, name) for kind in KINDS for name in DATA if everywhere(kind)[name] is not None]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("kind", "shared"), SHARED)
def test_gradient_of_shared_data_is_the_sum(kind, shared):
    """One block is given once, the others per instance, each a little different in q, b and h."""
    data, rng = everywhere(kind), np.random.default_rng(0)
    copies = {
        name: np.stack([a * (1 + 1e-3 * rng.uniform(-1, 1) * (name in "qbh")) for _ in range(4)])
        for name, a in data.items()
        if a is not None
    }
    whole = dict.fromkeys(DATA) | copies | {shared: np.stack([data[shared]] * 4)}
    mixed = whole | {shared: data[shared]}
    cotangents = cotangents_for(whole, rng)
    outputs, found = answer(mixed, cotangents)
    outputs_w, found_w = answer(whole, cotangents)
    assert not wrong(outputs, outputs_w, IDENTITY)
    assert found[shared].shape == data[shared].shape
    assert np.linalg.norm(found[shared]) > 0
    assert not wrong(found, found_w | {shared: found_w[shared].sum(0)}, IDENTITY)
    assert wrong(found, found_w | {shared: found_w[shared].mean(0)}, IDENTITY)
