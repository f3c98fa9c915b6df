"""Layers through the compiled core: right answers and derivatives, and nothing that the careful lane would say is lost."""

import copy
import pickle
import warnings
from contextlib import contextmanager

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import draw, gradients, present_outputs, tensors, wrong
from oracles.exact import DEGENERATE, tiny
from oracles.regular import KINDS, instance
from tolerances import REGULAR
from torch.utils.checkpoint import checkpoint

import dcl
from dcl import core
from dcl.layers.base import AbstractLayer
from dcl.program.affine import affine_map

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
CONDITIONS = (1.0, 1e4, 1e8, 1e2, 1e6)


@contextmanager
def careful_calls(monkeypatch):
    """A list that gets the batch size of every call of the careful lane."""
    calls = []
    evaluate = AbstractLayer._evaluate

    def spy(self, arguments, *rest):
        calls.append(max((t.shape[0] for t in arguments.values()), default=1))
        return evaluate(self, arguments, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(AbstractLayer, "_evaluate", spy)
        yield calls


# Against high precision


@pytest.mark.filterwarnings("ignore:the gradient with respect to:dcl.DegenerateWarning")  # of a linear program
@pytest.mark.sample(5)
@pytest.mark.parametrize("n", [2, 10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_regular_programs_against_57_digits(kind, n, monkeypatch):
    mistakes, count = [], 5
    with careful_calls(monkeypatch) as calls:
        for seed in range(count):
            known = instance(kind, n, seed, CONDITIONS[seed])
            leaves = tensors(known.data)
            result = dcl.QPLayer(on_degenerate="raise")(**({"P": None} | leaves))
            outputs = present_outputs(result, known.data)
            mistakes += [f"{seed}: {t}" for t in wrong(outputs, known.solution, REGULAR)]
            cotangents = draw(outputs, np.random.default_rng(seed))
            found = gradients(leaves, outputs, cotangents)
            mistakes += [f"{seed}: gradient of {t}" for t in wrong(found, known.gradients(cotangents), REGULAR)]
    assert not mistakes
    assert len(calls) <= 2, "the core certifies regular programs"


def test_degenerate_programs_are_flagged_by_the_careful_lane(monkeypatch):
    degenerate = [tiny(seed, kind) for kind in DEGENERATE for seed in range(6)]
    with careful_calls(monkeypatch) as calls:
        for program in degenerate:
            leaves = tensors(program.data)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                dcl.QPLayer()(**({"P": None} | leaves))
            assert any(issubclass(w.category, dcl.DegenerateWarning) for w in said)
    assert len(calls) == len(degenerate)


# A batch in both lanes


def mixed_batch():
    """min |x - c|^2 / 2 with sum x <= 1, x >= 0: instance 1 is infeasible (bound), 3 is at a tie, the others are regular."""
    c = torch.tensor([[0.9, 0.6], [0.5, 0.5], [0.3, 0.2], [0.5, 0.5], [2.0, -1.0]], **F64)
    h = torch.tensor([[1.0], [-1.0], [1.0], [1.0], [1.0]], **F64)
    return c.requires_grad_(), h.requires_grad_()


def solve_mixed(layer, c, h):
    return layer(torch.eye(2, **F64), -c, G=torch.ones(1, 2, **F64), h=h, lb=torch.zeros(2, **F64))


def test_what_is_not_certified_takes_the_careful_lane_row_by_row(monkeypatch):
    c, h = mixed_batch()
    with careful_calls(monkeypatch) as calls, pytest.warns(dcl.DegenerateWarning, match=r"\(3,\)"):
        result = solve_mixed(dcl.QPLayer(on_failure="nan"), c, h)
    assert calls == [2]
    expected = torch.tensor([[0.65, 0.35], [torch.nan] * 2, [0.3, 0.2], [0.5, 0.5], [1.0, 0.0]], **F64)
    torch.testing.assert_close(result.x.detach(), expected, equal_nan=True, rtol=0.0, atol=1e-12)
    result.x[:, 0].nansum().backward()
    # on the face x1 + x2 = 1: half of the difference; inside: the identity; at the tie (D = 1/2): between; at the vertex: 0
    slopes = torch.tensor([[0.5, -0.5], [0.0, 0.0], [1.0, 0.0], [2 / 3, -1 / 3], [0.0, 0.0]], **F64)
    torch.testing.assert_close(c.grad, slopes, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(h.grad[:, 0], torch.tensor([0.5, 0.0, 0.0, 1 / 3, 1.0], **F64), rtol=0.0, atol=1e-12)


def test_errors_name_the_places_in_the_whole_batch():
    c, h = mixed_batch()
    with pytest.raises(dcl.SolveError, match=r"1 of 5 instances \(batch indices \(1,\)\)") as error:
        solve_mixed(dcl.QPLayer(on_degenerate="ignore"), c, h)
    assert error.value.indices == [(1,)]
    grid = c.detach().reshape(5, 1, 2).expand(5, 2, 2), h.detach().reshape(5, 1, 1).expand(5, 2, 1)
    with pytest.raises(dcl.SolveError, match=r"2 of 10 instances") as error:
        solve_mixed(dcl.QPLayer(on_degenerate="ignore"), *grid)
    assert error.value.indices == [(1, 0), (1, 1)]


def test_bad_values_are_named_with_their_place():
    c, h = mixed_batch()
    c = c.detach().clone()
    c[4, 1] = torch.nan
    with pytest.raises(dcl.InputError, match=r"q\[1\] is nan at batch index \(4,\)"):
        solve_mixed(dcl.QPLayer(), c, h)


# Derivatives beyond the first, and the ways of torch


def regular_batch(B=3, n=4, m=3, p=1):
    g = torch.Generator().manual_seed(5)
    L, x = torch.randn(B, n, n, generator=g, **F64), torch.randn(B, n, generator=g, **F64)
    A, G = torch.randn(p, n, generator=g, **F64), torch.randn(B, m, n, generator=g, **F64)
    q, h = torch.randn(n, generator=g, **F64), (G @ x.unsqueeze(-1)).squeeze(-1) + torch.rand(B, m, generator=g, **F64)
    data = {"P": L @ L.mT + torch.eye(n, **F64), "q": q, "A": A, "b": x @ A.T, "G": G, "h": h}
    return {name: t.requires_grad_() for name, t in data.items()}


def loss_of(layer, data):
    result = layer(**data)
    weights = torch.linspace(0.5, 1.5, result.x.numel(), **F64).reshape(result.x.shape)
    return (weights * result.x).sum() + result.z.square().sum() + (result.y * result.value.unsqueeze(-1)).sum()


@pytest.mark.sample(2)
@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_gradcheck_and_gradgradcheck(mu):
    data = regular_batch(B=2)
    layer = dcl.QPLayer(mu=mu)

    def outputs(*tensors):
        P, *rest = tensors
        return loss_of(layer, dict(zip(data, (0.5 * (P + P.mT), *rest), strict=True)))

    assert torch.autograd.gradcheck(outputs, tuple(data.values()), atol=1e-6)
    assert torch.autograd.gradgradcheck(outputs, tuple(data.values()), atol=1e-5)


def test_jacobians_with_mapped_cotangents():
    data = regular_batch()
    layer = dcl.QPLayer()

    def x_of(h):
        return layer(**(data | {"h": h})).x

    plain = torch.autograd.functional.jacobian(x_of, data["h"])
    mapped = torch.autograd.functional.jacobian(x_of, data["h"], vectorize=True)
    torch.testing.assert_close(mapped, plain, rtol=1e-10, atol=1e-12)
    step = 1e-6 * torch.randn(data["h"].shape, generator=torch.Generator().manual_seed(0), **F64)
    difference = (x_of(data["h"] + step) - x_of(data["h"] - step)).detach() / 2
    torch.testing.assert_close(torch.tensordot(plain, step, dims=2).detach(), difference, rtol=1e-6, atol=1e-12)


def test_a_checkpointed_layer_and_a_second_backward():
    data = regular_batch()
    layer = dcl.QPLayer()
    (expected,) = torch.autograd.grad(loss_of(layer, data), data["q"])
    out = checkpoint(lambda q: loss_of(layer, data | {"q": q}), data["q"], use_reentrant=False)
    (found,) = torch.autograd.grad(out, data["q"], retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
    torch.testing.assert_close(torch.autograd.grad(out, data["q"])[0], expected, rtol=0.0, atol=0.0)


def test_inputs_that_were_changed_in_place_are_an_error():
    data = regular_batch()
    q = data["q"].detach().clone()
    result = dcl.QPLayer()(**(data | {"q": q}))
    q.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.x.sum().backward()


def test_outputs_that_were_changed_in_place_do_not_change_second_derivatives():
    data = regular_batch()
    layer = dcl.QPLayer()
    (first,) = torch.autograd.grad(layer(**data).x.square().sum(), data["q"], create_graph=True)
    expected = torch.autograd.grad(first.sum(), data["q"])[0]
    result = layer(**data)
    loss = result.x.square().sum()
    with torch.no_grad():
        result.y.zero_()
    (first,) = torch.autograd.grad(loss, data["q"], create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(first.sum(), data["q"])[0], expected, rtol=1e-9, atol=1e-12)


def test_single_precision_stays_single_and_shared_gradients_are_sums():
    data = {name: t.detach() for name, t in regular_batch().items()}
    small = {name: t.float().requires_grad_() for name, t in data.items()}
    exact = {name: t.double().requires_grad_() for name, t in small.items()}
    found = torch.autograd.grad(loss_of(dcl.QPLayer(), {k: t.float() for k, t in small.items()}), list(small.values()))
    known = torch.autograd.grad(loss_of(dcl.QPLayer("DAQP"), exact), list(exact.values()))
    for f, k, t in zip(found, known, small.values(), strict=True):
        assert f.dtype == torch.float32
        assert f.shape == t.shape
        torch.testing.assert_close(f.double(), k, rtol=1e-4, atol=1e-4)


def test_a_layer_that_was_called_can_be_copied_and_pickled():
    data = regular_batch()
    layer = dcl.QPLayer()
    expected = layer(**data).x.detach()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(**data).x.detach(), expected, rtol=0.0, atol=0.0)


def test_a_named_solver_or_an_option_is_what_runs(monkeypatch):
    data = regular_batch()
    with careful_calls(monkeypatch) as calls:
        dcl.QPLayer("CLARABEL")(**data)
        dcl.QPLayer(solver_args={"eps": 1e-9})(**data)
        dcl.QPLayer()(**data, solver_args={"max_iters": 50})
        assert len(calls) == 3
        dcl.QPLayer()(**data)
        assert len(calls) == 3


# CVXPY


def cvxpy_layer(**settings):
    """minimize x'Px / 2 + (q + r)'x + c sum(r) over a box and a halfspace, with everything as a parameter."""
    n = 3
    x, P, q, r = cp.Variable(n), cp.Parameter((n, n), PSD=True), cp.Parameter(n), cp.Parameter(n)
    a, c = cp.Parameter(n), cp.Parameter(nonneg=True)
    rows = [a @ x <= 1, x >= -c, cp.sum(x) == 0.1]
    objective = cp.Minimize(0.5 * cp.quad_form(x, P) + (q + r) @ x + cp.sum(r) + c)
    problem = cp.Problem(objective, rows)
    outputs = [x, rows[0].dual_variables[0], rows[2].dual_variables[0], problem.objective]
    return dcl.CvxpyLayer(problem, [P, q, r, a, c], outputs, **settings)


def cvxpy_values(B=4):
    g = torch.Generator().manual_seed(1)
    L = torch.randn(B, 3, 3, generator=g, **F64)
    values = [
        L @ L.mT + torch.eye(3, **F64),
        torch.randn(B, 3, generator=g, **F64),
        torch.randn(3, generator=g, **F64),
        torch.randn(B, 3, generator=g, **F64),
        torch.tensor(0.3, **F64),
    ]
    return [t.requires_grad_() for t in values]


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("maximize", [False, True])
def test_a_cvxpy_layer_against_differences(maximize, monkeypatch):
    layer, values = cvxpy_layer(), cvxpy_values()

    def f(P, *rest):
        outputs = layer(0.5 * (P + P.mT), *rest)
        return sum((torch.linspace(1.0, 2.0, t.numel(), **F64).reshape(t.shape) * t).sum() for t in outputs)

    with careful_calls(monkeypatch) as calls:
        loss = (lambda *v: -f(*v)) if maximize else f
        assert torch.autograd.gradcheck(loss, tuple(values), atol=1e-6)
        assert not calls
    assert torch.autograd.gradgradcheck(f, tuple(values), atol=1e-5)


def test_a_maximum_its_value_and_its_parameter_in_the_constant():
    # maximize c t - t^2 / 2 + c, t <= 5: t = c, value c^2 / 2 + c
    t, c = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Maximize(c * t - 0.5 * cp.square(t) + c), [t <= 5])
    layer = dcl.CvxpyLayer(problem, [c], [t, problem.objective])
    value = torch.tensor([1.0, 2.0], **F64, requires_grad=True)
    point, optimum = layer(value)
    torch.testing.assert_close(point.detach(), value.detach(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(optimum.detach(), torch.tensor([1.5, 4.0], **F64), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(optimum.sum(), value)[0], torch.tensor([2.0, 3.0], **F64), rtol=0.0, atol=1e-12
    )


def test_declared_domains_are_still_checked():
    layer, values = cvxpy_layer(), [t.detach().clone() for t in cvxpy_values()]
    with pytest.raises(dcl.InputError, match="outside its declared domain"):
        layer(*values[:-1], torch.tensor(-0.5, **F64))
    values[0][2] = -torch.eye(3, **F64)
    with pytest.raises(dcl.InputError, match=r"batch index \(2,\)"):
        layer(*values)


def test_the_adjoint_of_an_affine_map():
    # <M theta, y> = <theta, M'y> by the matrix itself
    rng = np.random.default_rng(0)
    M = sp.random_array((7, 9), density=0.4, rng=rng)
    sizes = [4, 2, 3]
    affine = affine_map(rng.standard_normal(7), M, sizes)
    y = rng.standard_normal((5, 7))
    found = affine.adjoint(torch.from_numpy(y), sizes)
    expected = np.split(y @ M.toarray(), np.cumsum(sizes)[:-1], axis=1)
    for p, part in enumerate(expected):
        if p in found:
            np.testing.assert_allclose(found[p].numpy(), part, rtol=0.0, atol=1e-14)
        else:
            assert not part.any()


def test_info_and_the_switch():
    assert dcl.info().core == core.variant
    assert "compiled core" in repr(dcl.info())


# What an adversary found


def test_dependent_equalities_that_no_interior_point_can_start_from():
    q = torch.tensor([1.0, 1.0], **F64)
    x = dcl.QPLayer(on_degenerate="ignore")(torch.eye(2, **F64), q, A=torch.ones(2, 2, **F64), b=torch.ones(2, **F64)).x
    torch.testing.assert_close(x, torch.tensor([0.5, 0.5], **F64), rtol=0.0, atol=1e-12)


def test_an_argument_that_is_computed_from_another_counts_once():
    # x = projection of -q onto sum x <= q1^2 / 10, active: x = -q - (sum(-q) - h) / 2
    q = torch.tensor([-3.0, -1.0], **F64, requires_grad=True)
    calls = []
    q.register_hook(lambda g: calls.append(1))
    h = 0.1 * q[:1].square()
    x = dcl.QPLayer()(torch.eye(2, **F64), q, G=torch.ones(1, 2, **F64), h=h).x
    for create in (False, True):
        (g,) = torch.autograd.grad(x[0], q, create_graph=create, retain_graph=True)
        torch.testing.assert_close(g.detach(), torch.tensor([-0.5 - 0.3, 0.5], **F64), rtol=0.0, atol=1e-12)
    assert len(calls) == 2
    u = torch.tensor([0.5, 0.25], **F64, requires_grad=True)
    x = dcl.QPLayer()(torch.eye(2, **F64), u - 2.0, ub=u).x  # both bounds bind: x = u
    (g,) = torch.autograd.grad(x.sum(), u, create_graph=True)
    torch.testing.assert_close(g.detach(), torch.ones(2, **F64), rtol=0.0, atol=1e-12)


def test_second_derivatives_on_the_path_beside_an_infinite_bound_and_a_failed_row():
    # min x^2 / 2 + q x - mu log x: x = (-q + sqrt(q^2 + 4 mu)) / 2; dx/dq = -x / sqrt(q^2 + 4 mu)
    q, mu = torch.tensor([1.0, -1.0], **F64, requires_grad=True), 0.1
    lb, ub = torch.tensor([0.0, -torch.inf], **F64), torch.tensor([[torch.inf] * 2, [-1.0, 1.0]], **F64)
    x = dcl.QPLayer(mu=mu, on_failure="nan")(torch.eye(2, **F64), q, lb=lb, ub=ub).x
    (g,) = torch.autograd.grad(x[0].sum(), q, create_graph=True)
    root = np.sqrt(1.0 + 4.0 * mu)
    expected = torch.tensor([-(root - 1.0) / 2 / root, -1.0], **F64)
    torch.testing.assert_close(g.detach(), expected, rtol=0.0, atol=1e-10)


def test_mu_of_the_layer_per_instance_where_some_are_not_certified():
    # one-dimensional: min q x - mu log x, x >= 0: x = mu / q; where 1 / q is far, the core hands over
    mu = torch.tensor([0.01, 0.1, 1.0], **F64)
    q = torch.tensor([[1.0], [1e-9], [2.0]], **F64)
    layer = dcl.QPLayer(mu=mu, on_failure="nan", on_degenerate="ignore")
    x = layer(None, q, lb=torch.zeros(1, **F64)).x
    known = (mu.unsqueeze(-1) / q)[[0, 2]]
    torch.testing.assert_close(x[[0, 2]], known, rtol=1e-9, atol=0.0)


def test_mu_that_is_changed_in_place_before_the_backward_pass():
    mu, q = torch.tensor([0.1], **F64), torch.tensor([1.0], **F64, requires_grad=True)
    x = dcl.QPLayer(mu=mu)(torch.eye(1, **F64), q, lb=torch.zeros(1, **F64)).x
    mu.mul_(0.01)
    (g,) = torch.autograd.grad(x.sum(), q, create_graph=True)
    root = np.sqrt(1.4)
    torch.testing.assert_close(g.detach().item(), -(root - 1.0) / 2 / root, rtol=0.0, atol=1e-10)


def test_a_parameter_in_the_constant_only_is_looked_at_too():
    x, k = cp.Variable(2), cp.Parameter()
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1) + k), [x >= 0]), [k], [x])
    with pytest.raises(dcl.InputError, match=r"batch index \(1,\)"):
        layer(torch.tensor([1.0, torch.nan], **F64))


def test_domains_are_named_with_the_place_in_the_callers_batch():
    x, u, P = cp.Variable(2), cp.Parameter(2, nonneg=True), cp.Parameter((2, 2), PSD=True)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 2)), [x <= u]), [u], [x])
    value = torch.ones(2, 3, 2, **F64)
    value[1, 2, 0] = -1.0
    with pytest.raises(dcl.InputError, match=r"batch index \(1, 2\)"):
        layer(value)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, P) + cp.sum_squares(x) - x[0])), [P], [x])
    with pytest.raises(dcl.InputError, match="declared domain"):  # though the sum is positive semidefinite
        layer(-0.5 * torch.eye(2, **F64))


def test_a_recorded_call_under_transforms_of_its_cotangent():
    q = torch.tensor([1.0, -1.0], **F64, requires_grad=True)
    x = dcl.QPLayer()(torch.eye(2, **F64), q, lb=torch.tensor([-5.0, 0.0], **F64)).x  # dx/dq = -1
    mapped = torch.func.vmap(lambda w: torch.autograd.grad(x, q, w, retain_graph=True)[0])(torch.eye(2, **F64))
    torch.testing.assert_close(mapped, -torch.eye(2, **F64), rtol=0.0, atol=1e-12)
    with torch.autograd.forward_ad.dual_level():
        seed = torch.autograd.forward_ad.make_dual(torch.ones(2, **F64), torch.tensor([0.5, -0.5], **F64))
        (g,) = torch.autograd.grad(x, q, seed, retain_graph=True)
        tangent = torch.autograd.forward_ad.unpack_dual(g).tangent
    torch.testing.assert_close(tangent, torch.tensor([-0.5, 0.5], **F64), rtol=0.0, atol=1e-12)


def test_data_made_in_inference_mode():
    with torch.inference_mode():
        P = torch.eye(2, **F64)
    q = torch.tensor([1.0, -1.0], **F64, requires_grad=True)
    assert torch.autograd.grad(dcl.QPLayer()(P, q).x.sum(), q)[0].tolist() == [-1.0, -1.0]


def test_a_warm_start_saves_iterations_and_changes_no_answer():
    g = torch.Generator().manual_seed(0)
    q, step = torch.randn(20, 30, generator=g, **F64), 1e-3 * torch.randn(20, 30, generator=g, **F64)
    data = {"P": torch.eye(30, **F64), "G": torch.randn(40, 30, generator=g, **F64), "h": torch.ones(40, **F64)}
    bounds = {"lb": -0.3 * torch.ones(30, **F64)}
    layer = dcl.QPLayer()
    first = layer.solve(q=q, **data, **bounds)
    cold, warm = layer.solve(q=q + step, **data, **bounds), layer.solve(q=q + step, **data, **bounds, warm_start=first)
    assert warm.solvers == ("CORE",)
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())
    torch.testing.assert_close(warm.x, cold.x, rtol=0.0, atol=1e-11)
    with pytest.raises(dcl.InputError, match="warm_start"):
        layer.solve(q=q[:3], **data, **bounds, warm_start=first)
    with pytest.raises(dcl.InputError, match="warm_start"):
        layer(q=q, **data, **bounds, warm_start="yes")
