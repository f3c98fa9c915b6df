"""What happens to a module in its life: copied, saved, moved, averaged, hooked, recomputed, changed in place under its graph.

Answers and gradients are held to closed forms (`front_end_cases.py`), not to the layer itself.
"""

import copy
import io
import pickle

import cvxpy as cp
import pytest
import torch
from front_end_cases import KNOWN, Model, gradients
from tolerances import IDENTITY
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import dcl

NAMES = list(KNOWN)
F64 = {"dtype": torch.float64}
every_layer = pytest.mark.parametrize("name", NAMES)


def features(*batch, seed=1):
    return torch.randn((*batch, 2), generator=torch.Generator().manual_seed(seed), **F64)


def close(found, known, tol=IDENTITY):
    torch.testing.assert_close(found, known, rtol=tol, atol=tol)


def weights_like(x):
    return torch.linspace(-1.0, 2.0, x.numel(), **F64).reshape(x.shape).to(x.dtype)


def is_right(model, x=None, tol=IDENTITY):
    """The model's answer and the gradients of its parameters are those of the closed form."""
    f = features(4)
    found, known = model(f) if x is None else x, model.exact(f)
    close(found, known, tol)
    mine, exact = (gradients(model, (weights_like(known) * t).sum()) for t in (found, known))
    for g, e in zip(mine, exact, strict=True):
        assert e.abs().max() > 1e-3
        close(g, e, tol)


# Copies


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "save": saved}


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
@every_layer
def test_a_copy_is_a_layer_of_its_own(name, how):
    model = Model(name)
    loss = model(features(4)).square().sum()  # used, with a graph that waits for its backward pass
    twin = how(model)
    is_right(twin)
    with torch.no_grad():
        twin.linear.bias.add_(0.05)
    is_right(twin)
    is_right(model)
    loss.backward()


@every_layer
def test_no_call_leaves_anything_in_the_layer(name):
    model = Model(name)
    model(features(4)).square().sum().backward()
    before = pickle.dumps(model.layer)  # after a first call: what is derived of the problem is kept
    for batch in ((), (7,), (2, 3)):
        model(features(*batch)).square().sum().backward()
        assert pickle.dumps(model.layer) == before


@every_layer
def test_settings_survive_a_copy(name):
    settings = {
        "solver": dcl.solvers.Clarabel(eps=1e-9), "mu": torch.tensor(0.05, **F64), "on_failure": "nan", "on_degenerate": "raise",
    }  # fmt: skip
    known = KNOWN[name]
    layer, data = known.make(**settings), known.draw(0)
    for how in COPIES.values():
        x, solution = how(layer)(*data, return_solution=True)
        close(x[0], layer(*data)[0], 0.0)
        assert (x[0] - known.exact(*data)).abs().max() > 1e-3  # at mu = 0.05
        assert solution.solvers[0] == "CLARABEL"
    assert how(layer)._engine.settings.on_failure == "nan"
    assert how(layer)._engine.settings.on_degenerate == "raise"


@every_layer
def test_state_dict(name):
    model, other = Model(name), Model(name)
    with torch.no_grad():
        other.linear.weight.mul_(-3.0)
    assert not any(key.startswith("layer") for key in model.state_dict())
    assert not list(model.layer.parameters())
    assert not list(model.layer.buffers())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    assert other.load_state_dict(torch.load(buffer, weights_only=True)).missing_keys == []
    close(other(features(4)), model.exact(features(4)))
    is_right(other)


@every_layer
def test_averaged_model(name):
    model = Model(name)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(model)  # the first one is a copy
    start = model.linear.bias.detach().clone()
    with torch.no_grad():
        model.linear.bias.add_(0.04)
    averaged.update_parameters(model)
    close(averaged.module.linear.bias.detach(), start + 0.02)
    close(averaged(features(4)), averaged.module.exact(features(4)))
    is_right(averaged.module)
    assert (averaged(features(4)) - model(features(4))).abs().max() > 1e-4


def test_repr_tells_what_it_solves_and_how():
    x, demand, price = cp.Variable(3, name="x"), cp.Parameter(3, name="demand"), cp.Parameter(name="price")
    bound = cp.norm(x) <= 2.0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - demand) + price * cp.sum(x)), [cp.sum(x) == 1, x >= 0, bound])
    text = repr(dcl.CvxpyLayer(problem, [demand, price], [x, problem.objective], solver="clarabel", mu=0.1))
    form = dcl.CvxpyLayer(problem, [demand, price], [x])._form.structure
    for part in ("CvxpyLayer(", "demand (3,)", "price ()", "x (3,)", f"n={form.n}", f"m={form.m}", "mu=0.1"):
        assert part in text
    for part in ("zero", "nonnegative", "second-order(4)", "clarabel"):
        assert part in text.lower()
    text = repr(dcl.ConeLayer({"z": 2, "l": 5, "q": [3, 3], "s": [2]}))
    for part in (
        "ConeLayer(",
        "m=16",
        "2 zero",
        "5 nonnegative",
        "2 second-order(3)",
        "semidefinite(2)",
        "solver=auto",
        "mu=0.0",
    ):
        assert part in text
    text = repr(torch.nn.Sequential(dcl.QPLayer(mu=torch.ones(4))))
    assert "QPLayer(solver=auto, mu=tensor (4,))" in text


@every_layer
def test_models_in_an_ensemble(name):
    # many sets of weights through one layer, as torch's tutorial on ensembles does it
    models = [Model(name) for _ in range(3)]
    with torch.no_grad():
        for k, model in enumerate(models):
            model.linear.bias.add_(0.02 * k)
    parameters, buffers = torch.func.stack_module_state(models)
    shell = copy.deepcopy(models[0]).to("meta")

    def loss(p, b, f):
        x = torch.func.functional_call(shell, (p, b), (f,))
        return (weights_like(x) * x).sum(), x

    found, x = torch.vmap(torch.func.grad(loss, has_aux=True), in_dims=(0, 0, None))(parameters, buffers, features(4))
    close(x, torch.stack([model.exact(features(4)) for model in models]))
    for k, model in enumerate(models):
        exact = model.exact(features(4))
        close([g[k] for g in found.values()], gradients(model, (weights_like(exact) * exact).sum()))


@every_layer
def test_gradient_scaler(name):
    model = Model(name)
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.linear.bias.detach().clone()
    scaler.scale(model(features(4)).sum()).backward()
    (expected,) = torch.autograd.grad(model.exact(features(4)).sum(), model.linear.bias)
    scaler.step(optimizer)
    close(model.linear.bias.detach(), before - 0.5 * expected)


# Moving and modes


@every_layer
def test_modes_change_nothing(name):
    model = Model(name)
    expected = model(features(4))
    for change in (
        model.eval,
        model.train,
        lambda: model.layer.requires_grad_(False),
        model.zero_grad,
        model.share_memory,
    ):
        change()
        close(model(features(4)), expected, 0.0)
    is_right(model)
    assert model.eval().layer.training is False


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_layer
def test_the_layer_has_no_dtype(name, dtype):
    known = KNOWN[name]
    layer, data = known.make(), [t.to(dtype) for t in known.draw(0)]
    exact = known.exact(*(t.double() for t in data))
    layer(*data)
    before = pickle.dumps(layer)
    for move in (
        layer.half,
        layer.double,
        lambda: layer.to(torch.bfloat16),
        lambda: layer.to("cpu"),
        lambda: layer.to("meta"),
    ):
        assert move() is layer
        assert pickle.dumps(layer) == before
        leaf = data[known.point].clone().requires_grad_()
        x = layer(*(leaf if i == known.point else t for i, t in enumerate(data)))[0]
        assert x.dtype == dtype
        close(x.double(), exact, max(IDENTITY, torch.finfo(dtype).eps))  # rounded once
        x.sum().backward()
        assert leaf.grad.dtype == dtype


@every_layer
def test_made_and_used_under_other_defaults(name):
    known = KNOWN[name]

    def right(layer):
        leaves = known.leaves()
        varying = [leaves[i] for i in known.varies]
        x, exact = layer(*leaves)[0], known.exact(*leaves)
        assert x.dtype == torch.float64
        close(x, exact)
        for g, e in zip(torch.autograd.grad(x.sum(), varying), torch.autograd.grad(exact.sum(), varying), strict=True):
            close(g, e)

    with torch.device("meta"):  # as models are made that are to be filled from a file
        layer = known.make()
    right(layer)
    with torch.inference_mode():
        layer = known.make()
        close(layer(*known.draw(0))[0], known.exact(*known.draw(0)))
    right(layer)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        right(known.make())
    finally:
        torch.set_default_dtype(default)


@every_layer
def test_without_gradients(name):
    model = Model(name)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            x = model(features(4))
        assert not x.requires_grad
        close(x, model.exact(features(4)).detach())
    is_right(model)


# Autograd's own tools


@every_layer
def test_checkpoint(name):
    model = Model(name)
    is_right(model, checkpoint(model, features(4), use_reentrant=False))
    calls = []
    model.layer.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpoint(model, features(4), use_reentrant=False).sum().backward()
    assert len(calls) == 2  # it was computed again


@every_layer
def test_saved_tensors_may_be_packed(name):
    model, packed = Model(name), []

    def pack(t):
        packed.append(t.shape)
        return t.numpy(force=True).copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        x = model(features(4))
    is_right(model, x)
    assert (4, 3) in packed
    with torch.autograd.graph.save_on_cpu():
        x = model(features(4))
    is_right(model, x)


@every_layer
def test_autocast_leaves_the_layer_alone(name):
    model = Model(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # float64 is no type that autocast changes
        x = model(features(4))
    assert x.dtype == torch.float64
    is_right(model, x)


@every_layer
def test_autocast_in_single_precision(name):
    known, model = KNOWN[name], Model(name, dtype=torch.float32)
    f = features(4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model.linear(f)
        data = model.data(f)
        data[known.point] = model.get_buffer(f"data_{known.point}") + predicted
        x = model.layer(*data)[0]
        x.square().sum().backward()
    assert predicted.dtype == torch.bfloat16
    assert x.dtype == torch.float32  # that of the arguments, promoted
    exact = known.exact(*(t.double() for t in data))
    assert torch.equal(x, exact.float()) or (x - exact).abs().max() < 1e-6
    # one bfloat16 rounding of the layer's gradient is torch's, in the backward pass of the sum
    twin = Model(name)
    twin_x = twin.exact(f.double())
    known_gradient = torch.autograd.grad(twin_x.square().sum(), twin.linear.bias)[0]
    assert model.linear.bias.grad.dtype == torch.float32
    torch.testing.assert_close(model.linear.bias.grad.double(), known_gradient, rtol=0.05, atol=0.02)


@every_layer
def test_anomaly_mode(name):
    model = Model(name)
    with torch.autograd.set_detect_anomaly(True):
        is_right(model)


def test_anomaly_mode_sees_no_nan_of_a_failed_instance():
    q = torch.tensor([-1.0], **F64, requires_grad=True)
    G, h = (
        torch.tensor([[1.0], [-1.0]], **F64),
        torch.tensor([[0.5, 0.0], [-1.0, 0.0]], **F64),
    )  # the second is infeasible
    with torch.autograd.set_detect_anomaly(True):
        x = dcl.QPLayer(on_failure="nan")(torch.eye(1, **F64), q, G=G, h=h.requires_grad_()).x
        x.nansum().backward()
    assert x.isnan().flatten().tolist() == [False, True]
    close(h.grad, torch.tensor([[1.0, 0.0], [0.0, 0.0]], **F64))


@every_layer
def test_module_hooks(name):
    known, model, seen = KNOWN[name], Model(name), {}
    layer = model.layer
    layer.register_forward_pre_hook(lambda m, args: seen.update(inputs=args))
    layer.register_forward_hook(lambda m, args, out: seen.update(outputs=out))
    layer.register_full_backward_pre_hook(lambda m, g: seen.update(pre=g))
    layer.register_full_backward_hook(lambda m, g_in, g_out: seen.update(g_in=g_in, g_out=g_out))
    x = model(features(4))
    w = weights_like(x)
    (w * x).sum().backward(retain_graph=True)
    assert len(seen["inputs"]) == len(known.draw(0))
    close(seen["outputs"][0], x, 0.0)
    close(seen["pre"][0], w)
    close(seen["g_out"][0], w)
    point = model.data(features(4))[known.point].detach().requires_grad_()
    exact = known.exact(*(point if i == known.point else t for i, t in enumerate(model.data(features(4)))))
    close(seen["g_in"][known.point], torch.autograd.grad((w * exact).sum(), point)[0])
    is_right(model, x)


@every_layer
def test_a_forward_hook_may_replace_the_answer(name):
    model = Model(name)
    model.layer.register_forward_hook(lambda m, args, out: (2.0 * out[0],))
    close(model(features(4)), 2.0 * model.exact(features(4)))


@every_layer
def test_tensor_hooks(name):
    model, order = Model(name), []
    x = model(features(4))
    x.register_hook(lambda g: 3.0 * g)
    model.linear.bias.register_post_accumulate_grad_hook(lambda p: order.append(p.grad.clone()))
    x.sum().backward()
    (expected,) = torch.autograd.grad(3.0 * model.exact(features(4)).sum(), model.linear.bias)
    close(order[0], expected)
    assert len(order) == 1


@every_layer
def test_the_graph_may_be_used_again(name):
    model = Model(name)
    x = model(features(4))
    first = gradients(model, x.sum())
    is_right(model, x)
    for again in (gradients(model, x.sum()), gradients(model, x.sum())):
        close(again, first, 0.0)
    x.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        x.sum().backward()


@every_layer
def test_gradients_accumulate(name):
    model = Model(name)
    for seed in (1, 2):
        model(features(4, seed=seed)).square().sum().backward()
    exact = sum(model.exact(features(4, seed=seed)).square().sum() for seed in (1, 2))
    close(model.linear.weight.grad, torch.autograd.grad(exact, model.linear.weight)[0])


# Changed in place between forward and backward


def differentiated(layer, leaves, change=None):
    """Gradients for all arguments of a function of all outputs, with `change` between the two passes."""
    outputs = layer(*leaves)
    loss = sum((weights_like(t) * t).sum() for t in outputs)
    if change is not None:
        with torch.no_grad():
            change(outputs)
    return torch.autograd.grad(loss, leaves)


ARGUMENTS = [(name, i) for name in NAMES for i in range(len(KNOWN[name].draw(0)))]


@pytest.mark.sample(4)
@pytest.mark.parametrize("batch", [(), (3,)], ids=["one", "batch"])
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_changed_in_place(name, argument, batch):
    # it either is an error of torch or does not reach the gradient: never a wrong number
    known, layer = KNOWN[name], KNOWN[name].make()
    leaves = [t.detach().requires_grad_() for t in known.draw(0, *batch)]
    expected = differentiated(layer, leaves)
    try:
        found = differentiated(layer, leaves, lambda _: leaves[argument].mul_(-7.0).add_(3.0))
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
    else:
        close(found, expected, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_changed_in_place(name):
    known, layer = KNOWN[name], KNOWN[name].make()
    leaves = [t.detach().requires_grad_() for t in known.draw(0, 3)]
    expected = differentiated(layer, leaves)
    for k in range(len(layer(*leaves))):
        try:
            found = differentiated(layer, leaves, lambda outputs, k=k: outputs[k].mul_(-7.0).add_(3.0))
        except RuntimeError as error:
            assert "inplace" in str(error)  # noqa: PT017
        else:
            close(found, expected, 0.0)


@every_layer
def test_a_solution_changed_in_place(name):
    known, layer = KNOWN[name], KNOWN[name].make()
    leaves = [t.detach().requires_grad_() for t in known.draw(0, 3)]
    expected = torch.autograd.grad(layer(*leaves)[0].sum(), leaves)
    for field in ("canonical_x", "z", "s", "_v", "value", "status"):
        outputs, solution = layer(*leaves, return_solution=True)
        getattr(solution, field).mul_(0)
        try:
            found = torch.autograd.grad(outputs[0].sum(), leaves)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
        else:
            close(found, expected, 0.0)


@every_layer
def test_an_argument_changed_before_the_kind_of_derivative_is_asked_for(name):
    known = KNOWN[name]
    data = known.draw(0, 3)
    solution = known.make().solve(*data)
    for t in data:
        t.zero_()
    assert (solution.gradient_kind == dcl.GradientKind.EXACT).all()


# Solution


SOLUTION_COPIES = COPIES | {"copy": copy.copy}


@pytest.mark.parametrize("recorded", [True, False])
@every_layer
def test_a_solution_survives(name, recorded):
    known, layer = KNOWN[name], KNOWN[name].make()
    data = known.leaves(0, 3)
    solution = layer(*data, return_solution=True)[1] if recorded else layer.solve(*data)
    for how in SOLUTION_COPIES.values():
        is_the_same(how(solution), solution)
        close(how(solution).outputs[0], known.exact(*data).detach())
    close(layer.solve(*data, warm_start=saved(solution)).outputs[0], solution.outputs[0])


def is_the_same(twin, solution):
    for field in ("canonical_x", "z", "s", "_v", "value", "status", "gap", "iterations", "gradient_kind", "margin", "condition"):
        assert torch.equal(getattr(twin, field), getattr(solution, field)), field
    assert repr(twin) == repr(solution)
    assert twin.solvers == solution.solvers


def test_certificates_survive():
    G, h = torch.tensor([[1.0], [-1.0]], **F64), torch.tensor([[0.5, 0.0], [-1.0, 0.0]], **F64)
    solution = dcl.QPLayer(on_failure="nan").solve(torch.eye(1, **F64), torch.ones(1, **F64), G=G, h=h)
    twin = pickle.loads(pickle.dumps(solution))
    torch.testing.assert_close(twin.certificate, solution.certificate, rtol=0, atol=0, equal_nan=True)
    z = twin.certificate[1, 1:]  # G'z = 0, h'z < 0, z >= 0
    assert (z >= 0.0).all()
    close(G.mT @ z, torch.zeros(1, **F64))
    assert h[1] @ z < 0.0


@pytest.mark.parametrize(
    "error",
    [
        lambda: dcl.QPLayer()(torch.eye(1, **F64), torch.tensor([[torch.nan]] * 2, **F64)),
        lambda: dcl.solve_qp(None, torch.ones(2, 1, **F64)),
        lambda: dcl.QPLayer("nobody"),
    ],
    ids=["InputError", "SolveError", "OptionError"],
)
def test_errors_survive_pickle(error):
    # a worker process sends its error to the parent this way
    with pytest.raises(dcl.DclError) as caught:
        error()
    twin = pickle.loads(pickle.dumps(caught.value))
    assert type(twin) is type(caught.value)
    assert str(twin) == str(caught.value)
    mine, its = vars(caught.value), vars(twin)
    assert mine.keys() == its.keys()
    for key, value in mine.items():
        if key != "certificates":
            assert its[key] == value
