"""Batches, dtypes, modes of torch: a batch is a loop, shared data sum, dtypes come back, nothing is kept or disturbed."""

import copy
import gc
import pickle
import weakref

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl
from dcl import core

CORE = {"P": 2, "q": 1, "A": 2, "b": 1, "G": 2, "h": 1, "lb": 1, "ub": 1}
N = 5
EXACT, LAYER = {"rtol": 1e-10, "atol": 1e-11}, dcl.QPLayer()


def qp(batch=(), seed=0, n=N):
    """Regular programs with an equality, two active inequalities and one active bound, answers chosen first."""
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((*batch, n, n))
    P = L @ L.swapaxes(-1, -2) + np.eye(n)
    A, G = rng.standard_normal((*batch, 1, n)), rng.standard_normal((*batch, 3, n))
    x, y = rng.standard_normal((*batch, n, 1)), rng.standard_normal((*batch, 1, 1))
    z = rng.uniform(0.5, 1.5, (*batch, 3, 1)) * np.array([[1.0], [1.0], [0.0]])
    z_lb = np.zeros((*batch, n))
    z_lb[..., 0] = rng.uniform(0.5, 1.5, batch)
    h = G @ x + np.array([[0.0], [0.0], [1.0]])
    q = -(P @ x + A.swapaxes(-1, -2) @ y + G.swapaxes(-1, -2) @ z)[..., 0] + z_lb
    lb, ub = x[..., 0] - 1.0, x[..., 0] + 1.0
    lb[..., 0] += 1.0
    data = {"P": P, "q": q, "A": A, "b": (A @ x)[..., 0], "G": G, "h": h[..., 0], "lb": lb, "ub": ub}
    return {k: torch.tensor(v) for k, v in data.items()}


def solved(layer, data, weights=None):
    """Outputs, and gradients of a fixed combination of them with respect to every argument."""
    leaves = {k: v.clone().requires_grad_() for k, v in data.items()}
    result = layer(**leaves)
    weights = weights or [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).reshape(t.shape) for t in result]
    total = sum((w * t).sum() for w, t in zip(weights, result, strict=True))
    return result, dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True)), weights


BATCHES = [(1,), (3,), (2, 3), (1, 2, 1, 2), (2, 1)]


@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_batch_is_a_loop(batch, mu):
    layer, data = dcl.QPLayer(mu=mu), qp(batch)
    result, gradients, weights = solved(layer, data)
    for name, t in zip(result._fields, result, strict=True):
        assert t.shape[: len(batch)] == batch, name
    for index in np.ndindex(batch):
        one, its_gradients, _ = solved(layer, {k: v[index] for k, v in data.items()}, [w[index] for w in weights])
        torch.testing.assert_close([t[index] for t in result], list(one), **EXACT)
        for name, gradient in its_gradients.items():
            torch.testing.assert_close(gradients[name][index], gradient, rtol=1e-9, atol=1e-10)
            assert name == "ub" or float(gradient.abs().max()) > 1e-3


SHARED = ["P", "q", "A", "b", "G", "h", "lb", "ub", "PqAb", "PAG", "qb"]


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("batch", [(3,), (2, 3)], ids=str)
def test_gradients_of_shared_data_are_sums(batch, shared):
    names = {k for k in CORE if (k in ("lb", "ub") and k == shared) or (k in shared and shared not in ("lb", "ub"))}
    data = qp(batch)
    # a feasible interior whatever is combined: the shared datum comes from one instance, the sides get room
    first = (0,) * len(batch)
    data["h"], data["lb"], data["ub"] = data["h"] + 6.0, data["lb"] - 8.0, data["ub"] + 8.0
    for name in names:
        data[name] = data[name][first]
    full = {k: v.expand(*batch, *v.shape) if k in names else v for k, v in data.items()}
    layer = dcl.QPLayer(mu=0.1)  # every row has a part in it
    result, gradients, weights = solved(layer, data)
    expanded, sums, _ = solved(layer, full, weights)
    torch.testing.assert_close(result, expanded, **EXACT)
    for name, gradient in gradients.items():
        dims = tuple(range(len(batch))) if name in names else ()
        expected = sums[name].sum(dims) if dims else sums[name]
        assert gradient.shape == data[name].shape
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)
        assert float(gradient.abs().max()) > 1e-6


def test_partial_batches_broadcast():
    data = qp((2, 3), seed=3)
    data["h"], data["lb"], data["ub"] = data["h"] + 6.0, data["lb"] - 8.0, data["ub"] + 8.0
    data["q"], data["h"], data["b"] = data["q"][:, :1], data["h"][0], data["b"][1, 2]
    full = {k: v.expand(2, 3, *v.shape[v.ndim - CORE[k] :]) for k, v in data.items()}
    layer = dcl.QPLayer(mu=0.1)
    result, gradients, weights = solved(layer, data)
    expanded, sums, _ = solved(layer, full, weights)
    torch.testing.assert_close(result, expanded, **EXACT)
    torch.testing.assert_close(gradients["q"], sums["q"].sum(1, keepdim=True), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients["h"], sums["h"].sum(0), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients["b"], sums["b"].sum((0, 1)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("batched", [*CORE, "all"])
@pytest.mark.parametrize("batch", [(0,), (3, 0), (0, 2)], ids=str)
def test_empty_batches(batch, batched):
    data = {k: v.expand(*batch, *v.shape) if batched in (k, "all") else v for k, v in qp().items()}
    leaves = {k: v.clone().requires_grad_() for k, v in data.items()}
    result, solution = dcl.QPLayer()(**leaves, return_solution=True)
    assert result.x.shape == (*batch, N)
    assert result.y.shape == (*batch, 1)
    assert result.z.shape == (*batch, 3)
    assert result.value.shape == batch
    assert solution.status.shape == solution.gradient_kind.shape == solution.condition.shape == batch
    sum(t.sum() for t in result).backward()
    for leaf in leaves.values():
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any()


def test_absent_blocks_have_no_multipliers():
    data = qp((2,))
    result = dcl.QPLayer()(data["P"], data["q"])
    assert [tuple(t.shape) for t in result] == [(2, N), (2, 0), (2, 0), (2, 0), (2, 0), (2,)]
    zero_rows = dcl.QPLayer()(
        data["P"], data["q"], A=torch.zeros(0, N), b=torch.zeros(0), G=torch.zeros(2, 0, N), h=torch.zeros(0)
    )
    torch.testing.assert_close(result, zero_rows)


# Dtypes

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 0.3}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_dtypes_come_back(dtype):
    data = {k: v.to(dtype) for k, v in qp((2,)).items()}
    data["h"] = data["h"] + 1
    layer = dcl.QPLayer(mu=0.1)
    result, gradients, weights = solved(layer, data)
    reference, expected, _ = solved(layer, {k: v.double() for k, v in data.items()}, [w.double() for w in weights])
    for t, r in zip(result, reference, strict=True):
        assert t.dtype == dtype
        torch.testing.assert_close(t.double(), r, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
        assert torch.equal(t, r.to(dtype))  # computed in float64, rounded once
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), expected[name], rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_mixed_dtypes_promote_and_gradients_keep_theirs():
    data = qp((2,))
    data["q"], data["G"] = data["q"].float(), data["G"].float()
    result, gradients, _ = solved(LAYER, data)
    assert {t.dtype for t in result} == {torch.float64}
    assert {k: g.dtype for k, g in gradients.items()} == {k: v.dtype for k, v in data.items()}


def test_solution_is_float64_and_outputs_are_the_callers():
    solution = dcl.QPLayer().solve(**{k: v.float() for k, v in qp((2,)).items()})
    assert solution.x.dtype == solution.z.dtype == solution.s.dtype == torch.float64
    assert {t.dtype for t in solution.outputs} == {torch.float32}


# Gradients only where asked


@pytest.mark.parametrize("name", CORE)
def test_gradients_only_where_asked(name):
    data = qp((2,))
    _, expected, weights = solved(LAYER, data)
    data[name].requires_grad_()
    result = LAYER(**data)
    sum((w * t).sum() for w, t in zip(weights, result, strict=True)).backward()
    torch.testing.assert_close(data[name].grad, expected[name], rtol=1e-12, atol=1e-12)
    assert all(v.grad is None for k, v in data.items() if k != name)
    assert all(t.requires_grad for t in result)


def test_nothing_asked_nothing_recorded():
    result = LAYER(**qp((2,)))
    assert not any(t.requires_grad for t in result)


@pytest.mark.parametrize("output", ["x", "y", "z", "z_lb", "z_ub", "value"])
def test_backward_through_one_output_only(output):
    data = qp((2,))
    leaves = {k: v.requires_grad_() for k, v in data.items()}
    getattr(dcl.QPLayer(mu=0.05)(**leaves), output).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves.values())


def test_inputs_may_be_anything_that_is_a_tensor():
    base = qp((2,))
    _, expected, weights = solved(LAYER, base)
    big = torch.zeros(2, N, 2 * N, dtype=torch.float64)
    big[..., ::2] = base["P"]
    data = dict(base)
    data["P"] = big[..., ::2].requires_grad_()  # not contiguous
    data["q"] = torch.nn.Parameter(base["q"].clone())
    root = base["b"].clone().requires_grad_()
    data["b"] = root * 1.0  # not a leaf
    data["G"] = base["G"].mT.contiguous().mT.requires_grad_()
    sum((w * t).sum() for w, t in zip(weights, LAYER(**data), strict=True)).backward()
    for name, leaf in (("P", data["P"]), ("q", data["q"]), ("b", root), ("G", data["G"])):
        torch.testing.assert_close(leaf.grad, expected[name], rtol=1e-9, atol=1e-9)


# no_grad, inference_mode, memory


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_modes_give_the_same_bits(mode, mu, batch):
    layer, data = dcl.QPLayer(mu=mu), qp(batch)
    leaves = {k: v.clone().requires_grad_() for k, v in data.items()}
    recorded = layer(**leaves)
    with mode():
        result = layer(**leaves)
        plain = layer(**data)
    for t, r, p in zip(recorded, result, plain, strict=True):
        assert torch.equal(t, r)
        assert torch.equal(t, p)
        assert not r.requires_grad
        assert r.grad_fn is None


def test_inference_first_and_training_after():
    # what is cached per shape in inference mode must serve recorded calls
    data = qp((2,), n=7)
    layer = dcl.QPLayer(mu=0.05)
    with torch.inference_mode():
        solution = layer.solve(**data)
    leaves = {k: v.clone().requires_grad_() for k, v in data.items()}
    layer(**leaves, warm_start=solution).x.sum().backward()
    assert (solution.gradient_kind == dcl.GradientKind.EXACT).all()
    torch.autograd.gradcheck(
        lambda q: layer(**{**data, "q": q}).x, (data["q"].clone().requires_grad_(),), fast_mode=True
    )


def _freed(record):
    """References to what one call makes, after its outputs are dropped without the help of the garbage collector."""
    data = {k: v.requires_grad_(record) for k, v in qp((2,)).items()}
    outputs = LAYER(**data)
    if record:
        sum(t.sum() for t in outputs).backward()
    watched = [weakref.ref(t) for t in (*data.values(), *outputs)]
    watched += [weakref.ref(t.untyped_storage()) for t in data.values()]
    del outputs, data
    return watched


@pytest.mark.parametrize("record", [True, False])
def test_nothing_is_kept(record):
    _freed(record)
    gc.collect()
    gc.disable()
    try:
        watched = _freed(record)
        assert [reference() for reference in watched] == [None] * len(watched)
    finally:
        gc.enable()


def test_under_no_grad_outputs_keep_no_data():
    data = {k: v.requires_grad_() for k, v in qp((2,)).items()}
    with torch.no_grad():
        result = LAYER(**data)
    references = [weakref.ref(v) for v in data.values()]
    del data
    assert [reference() for reference in references] == [None] * len(references)
    assert torch.isfinite(result.x).all()


# Calls do not see each other


def test_a_second_call_does_not_touch_the_first():
    first, second = qp((2,), seed=1), qp((2,), seed=2)
    expected, gradients, weights = solved(LAYER, first)
    leaves = {k: v.clone().requires_grad_() for k, v in first.items()}
    result = LAYER(**leaves)
    kept = [t.detach().clone() for t in result]
    other = {k: v.clone().requires_grad_() for k, v in second.items()}
    sum(t.sum() for t in LAYER(**other)).backward()
    assert all(torch.equal(t, k) for t, k in zip(result, kept, strict=True))
    sum((w * t).sum() for w, t in zip(weights, result, strict=True)).backward()
    assert all(torch.equal(leaves[k].grad, gradients[k]) for k in leaves)
    assert all(torch.equal(t, e) for t, e in zip(result, expected, strict=True))


def test_the_same_call_gives_the_same_bits():
    data = qp((3,))
    one, two = solved(LAYER, data), solved(dcl.QPLayer(), data)
    assert all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    assert all(torch.equal(one[1][k], two[1][k]) for k in data)


def test_backward_twice_with_retain_graph():
    q = qp()["q"].requires_grad_()
    x = LAYER(**{**qp(), "q": q}).x
    (first,) = torch.autograd.grad(x.sum(), q, retain_graph=True)
    (second,) = torch.autograd.grad(x.sum(), q)
    assert torch.equal(first, second)
    assert first.any()


def test_changing_data_in_place_before_backward():
    data, G = qp(), qp()["G"].requires_grad_()
    rest = {k: data[k] for k in ("P", "q", "h")}
    (expected,) = torch.autograd.grad(LAYER(**rest, G=G).x.sum(), G)
    x = LAYER(**rest, G=G).x
    with torch.no_grad():
        G.mul_(2.0)
    try:
        x.sum().backward()
    except RuntimeError as error:  # autograd's own, where the caller's tensor itself was saved
        assert "inplace" in str(error)  # noqa: PT017
    else:
        assert torch.equal(G.grad, expected)


@pytest.mark.parametrize("mu", [0.0, 0.05])
def test_double_backward(mu):
    data, layer = qp(), dcl.QPLayer(mu=mu)
    names = ["P", "b", "G"]
    leaves = [data[k].clone().requires_grad_() for k in names]

    def outputs(P, b, G):
        result = layer(**{**data, "P": 0.5 * (P + P.mT), "b": b, "G": G})
        return result.x, result.z, result.value

    assert torch.autograd.gradcheck(outputs, leaves, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, leaves, atol=1e-5, rtol=1e-3, fast_mode=True)


# Warm starts, solutions


@pytest.mark.sample(3)
@pytest.mark.parametrize("solver", ["DAQP", "OSQP", "PIQP", "CLARABEL"])
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_warm_start_gives_the_same_answer(solver, batch):
    data, layer = qp(batch), dcl.QPLayer(solver)
    cold, solution = layer(**data, return_solution=True)
    torch.testing.assert_close(layer(**data, warm_start=solution), cold, **EXACT)
    far = layer.solve(**qp(batch, seed=9))
    torch.testing.assert_close(layer(**data, warm_start=far), cold, **EXACT)
    torch.testing.assert_close(layer(**data, warm_start=True), cold, **EXACT)
    torch.testing.assert_close(layer(**data, warm_start=False), cold, **EXACT)
    failed = dcl.QPLayer(solver, on_failure="nan").solve(**{**data, "b": data["b"] + 1e3})
    torch.testing.assert_close(layer(**data, warm_start=failed), cold, **EXACT)


def test_warm_start_saves_iterations():
    layer, data = dcl.QPLayer("OSQP"), qp((3,))
    cold = layer.solve(**data)
    warm = layer.solve(**data, warm_start=cold)
    assert (warm.iterations < cold.iterations).all()


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("record", [True, False])
def test_solution_fields(batch, record):
    data = {k: v.requires_grad_(record) for k, v in qp(batch).items()}
    result, solution = LAYER(**data, return_solution=True)
    n, m = N, 1 + 3 + N + N
    shapes = {"x": (n,), "z": (m,), "s": (m,)}
    scalars = ["value", "primal_residual", "dual_residual", "gap", "seconds", "margin", "condition"]
    integers = ["status", "iterations", "solver", "gradient_kind"]
    for name in (*shapes, *scalars, *integers):
        t = getattr(solution, name)
        assert t.shape == (*batch, *shapes.get(name, ())), name
        assert t.dtype == (torch.int64 if name in integers else torch.float64), name
        assert not t.requires_grad
    assert (solution.status == dcl.Status.OPTIMAL).all()
    assert solution.ok.all()
    assert (solution.gradient_kind == dcl.GradientKind.EXACT).all()
    assert (solution.primal_residual < 1e-12).all()
    assert (solution.dual_residual < 1e-12).all()
    assert (solution.gap < 1e-11).all()
    assert (solution.margin > 1e-3).all()
    assert (solution.condition > 1.0).all()
    assert (solution.seconds > 0.0).all()
    assert solution.solvers[0] == ("CORE" if core.available else "DAQP")
    assert not solution.solver.any()
    assert solution.certificate is None
    assert "OPTIMAL" in repr(solution)
    for t, out in zip(solution.outputs, result, strict=True):
        assert torch.equal(t, out)
        assert not t.requires_grad
    # the point in the letters of dcl.program: rows [A; G; -I; I]
    torch.testing.assert_close(solution.z, torch.cat([result.y, result.z, result.z_lb, result.z_ub], -1))
    rows = [data["A"], data["G"], -torch.eye(n).expand_as(data["P"]), torch.eye(n).expand_as(data["P"])]
    Ax = (torch.cat(rows, -2) @ solution.x.unsqueeze(-1)).squeeze(-1)
    sides = torch.cat([data["b"], data["h"], -data["lb"], data["ub"]], -1)
    torch.testing.assert_close(Ax + solution.s, sides, rtol=1e-10, atol=1e-10)
    assert (solution.s >= 0.0).all()


def test_gradient_kind_is_the_same_on_first_access():
    data = {k: v for k, v in qp((3,)).items() if k in ("P", "q", "lb")}
    data["q"] = -(data["P"] @ data["lb"].unsqueeze(-1)).squeeze(-1)  # all bounds hold with multiplier zero
    lazy = dcl.QPLayer().solve(**data)
    data["q"].requires_grad_()
    recorded = dcl.QPLayer(on_degenerate="ignore")(**data, return_solution=True)[1]
    assert lazy.gradient_kind.tolist() == [dcl.GradientKind.WEAKLY_ACTIVE] * 3
    torch.testing.assert_close(lazy.gradient_kind, recorded.gradient_kind)
    torch.testing.assert_close(lazy.condition, recorded.condition)


def test_mu_per_instance_is_a_loop():
    data = qp((2, 2))
    mu = torch.tensor([[0.01, 0.1], [0.02, 0.05]])
    for given, shape in ((mu, (2, 2)), (mu[0], (2,)), (mu[:, :1], (2, 1))):
        result, gradients, weights = solved(dcl.QPLayer(mu=given), data)
        full = given.expand(2, 2)
        assert given.shape == shape
        for index in np.ndindex(2, 2):
            one = {k: v[index] for k, v in data.items()}
            alone, its, _ = solved(dcl.QPLayer(mu=float(full[index])), one, [w[index] for w in weights])
            torch.testing.assert_close([t[index] for t in result], list(alone), **EXACT)
            torch.testing.assert_close([g[index] for g in gradients.values()], list(its.values()), rtol=1e-8, atol=1e-9)
    assert float((dcl.QPLayer(mu=mu)(**data).x - dcl.QPLayer()(**data).x).abs().max()) > 1e-3


def test_large_mu_alone_is_as_in_a_batch():
    layer, missed = dcl.QPLayer(mu=10.0, on_failure="nan"), []
    for seed in range(5):
        data = qp((4,), seed)
        together = layer(**data).x
        alone = torch.stack([layer(**{k: v[i] for k, v in data.items()}).x for i in range(4)])
        if not torch.allclose(together, alone, **EXACT):
            missed.append(seed)
    assert missed == []


def test_layers_copy_and_pickle():
    data = qp((2,))
    layer = dcl.QPLayer("OSQP", {"eps": 1e-9}, mu=torch.tensor(0.05), on_failure="nan")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(torch.equal(a, b) for a, b in zip(twin(**data), layer(**data), strict=True))


# The same through CvxpyLayer


@pytest.fixture(scope="module")
def layer():
    x, A, b, c = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + c * cp.norm1(x[:2])), [cp.sum(x) == 1])
    return dcl.CvxpyLayer(problem, [A, b, c], [x, problem.constraints[0].dual_variables[0]])


def parameters(*leads, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(4, 3), (4,), ()]
    values = [rng.uniform(0.1, 1.0, (*lead, *shape)) for lead, shape in zip(leads, shapes, strict=True)]
    return [torch.tensor(v, requires_grad=True) for v in values]


LEADS = [
    ((), (), ()),
    ((3,), (3,), (3,)),
    ((3,), (), ()),
    ((), (3,), ()),
    ((), (), (3,)),
    ((2, 1), (3,), ()),
    ((2, 3), (1, 3), (2, 1)),
]


@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_cvxpy_batches_are_loops_and_shared_parameters_sum(layer, leads):
    given = parameters(*leads)
    outputs = layer(*given)
    batch = torch.broadcast_shapes(*leads)
    assert [t.shape for t in outputs] == [(*batch, 3), batch]
    weights = [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).reshape(t.shape) for t in outputs]
    gradients = torch.autograd.grad(sum((w * t).sum() for w, t in zip(weights, outputs, strict=True)), given)
    full = (
        [t.detach().expand(*batch, *core).clone() for t, core in zip(given, [(4, 3), (4,), ()], strict=True)]
        if batch
        else given
    )
    sums = [torch.zeros_like(t) for t in full]
    for index in np.ndindex(batch):
        one = [t[index].detach().clone().requires_grad_() for t in full]
        alone = layer(*one)
        torch.testing.assert_close([t[index] for t in outputs], list(alone), **EXACT)
        total = sum((w[index] * t).sum() for w, t in zip(weights, alone, strict=True))
        for s, g in zip(sums, torch.autograd.grad(total, one), strict=True):
            s[index] = g
    for gradient, s, t in zip(gradients, sums, given, strict=True):
        torch.testing.assert_close(gradient, s.sum_to_size(t.shape), rtol=1e-8, atol=1e-10)
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("leads", [((0,), (), ()), ((), (0,), ()), ((2, 0), (), (2, 1))], ids=str)
def test_cvxpy_empty_batches(layer, leads):
    given = parameters(*leads)
    x, y = layer(*given)
    batch = torch.broadcast_shapes(*leads)
    assert (x.shape, y.shape) == ((*batch, 3), batch)
    (x.sum() + y.sum()).backward()
    assert all(not t.grad.any() for t in given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_cvxpy_dtypes(layer, dtype):
    given = [t.detach().to(dtype).requires_grad_() for t in parameters((2,), (2,), ())]
    outputs = layer(*given)
    reference = layer(*(t.detach().double() for t in given))
    assert all(torch.equal(t, r.to(dtype)) for t, r in zip(outputs, reference, strict=True))
    outputs[0].square().sum().backward()
    assert all(t.grad.dtype == dtype and t.grad.any() for t in given)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_cvxpy_modes(layer, mode):
    given = parameters((2,), (2,), ())
    recorded = layer(*given)
    with mode():
        plain = layer(*given)
        solution = layer.solve(*given)
    for a, b, c in zip(recorded, plain, solution.outputs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert not b.requires_grad
    warm = layer(*given, warm_start=solution)
    torch.testing.assert_close(warm, recorded, **EXACT)


def test_cvxpy_solution_value_is_the_objective(layer):
    A, b, c = parameters((2,), (2,), ())
    (x, _), solution = layer(A, b, c, return_solution=True)
    residual = (A @ x.unsqueeze(-1)).squeeze(-1) - b
    torch.testing.assert_close(solution.value, residual.square().sum(-1) + c * x[:, :2].abs().sum(-1), **EXACT)
    assert solution.outputs[0].shape == (2, 3)
