"""What a torch user does with a function, each judged against a closed form: the rows of the table.

The active rows of the program are known, so that x solves a linear system that torch differentiates by itself:

    [[P, M'], [M, 0]] (x, y) = (-q, r),      M = [A; G_1],   r = [b; h_1]        (the first row of G is active)

A check takes a net of `torch_peers` and returns the largest relative error of what it computes; what raises, raises.
References take no vmap and no forward mode: reverse mode over reverse mode, one entry at a time.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from torch_peers import DIAGONAL, EQUALITIES, M, N, Net

F64 = {"dtype": torch.float64}
Data = tuple[Tensor, ...]


class WrongError(Exception):
    """What a check found wrong where that is no number."""


def draw(seed: int, *batch: int) -> Data:
    """q, A, b, G, h at a point with the first row of G active, multipliers and slacks of at least one half."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, **F64)

    def positive(*shape: int) -> Tensor:
        return 0.5 + torch.rand(shape, generator=g, **F64)

    A, G, x, y, z = (
        normal(EQUALITIES, N),
        normal(M, N),
        normal(*batch, N),
        normal(*batch, EQUALITIES),
        positive(*batch, 1),
    )
    slack = torch.cat([torch.zeros((*batch, 1), **F64), positive(*batch, M - 1)], -1)
    return -(x * torch.tensor(DIAGONAL, **F64) + y @ A + z @ G[:1]), A, x @ A.mT, G, x @ G.mT + slack


def exact(q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
    """x in closed form; every argument may have batch dimensions."""
    lead = torch.broadcast_shapes(q.shape[:-1], A.shape[:-2], b.shape[:-1], G.shape[:-2], h.shape[:-1])
    rows = torch.cat([A.expand(*lead, -1, -1), G[..., :1, :].expand(*lead, -1, -1)], -2)
    k = rows.shape[-2]
    P = torch.diag(torch.tensor(DIAGONAL, dtype=q.dtype)).expand(*lead, -1, -1)
    K = torch.cat([torch.cat([P, rows.mT], -1), torch.cat([rows, rows.new_zeros(*lead, k, k)], -1)], -2)
    right = torch.cat([-q.expand(*lead, -1), b.expand(*lead, -1), h[..., :1].expand(*lead, -1)], -1)
    return torch.linalg.solve(K, right.unsqueeze(-1)).squeeze(-1)[..., :N]


def error(found: Tensor | Sequence[Tensor], known: Tensor | Sequence[Tensor]) -> float:
    """The largest relative error; of different shapes: infinite."""
    pairs = [(found, known)] if isinstance(known, Tensor) else zip(found, known, strict=True)
    errors = []
    for f, k in pairs:
        if f is None or f.shape != k.shape:
            errors.append(float("inf"))
        elif k.numel():
            miss = torch.linalg.vector_norm(f.detach().double() - k.detach().double())
            errors.append(float(miss / torch.linalg.vector_norm(k.detach().double())))
    return max(errors, default=0.0)


def leaves(data: Data) -> Data:
    return tuple(t.detach().clone().requires_grad_() for t in data)


def loss(x: Tensor) -> Tensor:
    """Neither linear nor symmetric in x."""
    return (x**3 + torch.arange(1.0, N + 1, dtype=x.dtype) * x).sum()


def gradients(f: Callable[..., Tensor], data: Data) -> tuple[Tensor, ...]:
    """x and the gradients of the loss for all data."""
    given = leaves(data)
    x = f(*given)
    return x, *torch.autograd.grad(loss(x), given)


def drawn(seed: int, *batch: int) -> Data:
    """`draw` with the matrices in the batch too: what each package takes, and no gradient is a sum or a mean."""
    q, A, b, G, h = draw(seed, *batch)
    return q, A.expand(*batch, -1, -1).clone(), b, G.expand(*batch, -1, -1).clone(), h


def works(net: Callable[..., Tensor]) -> float:
    """Answer and gradients for all data, alone and in a batch: what each of the copies and modes is asked for."""
    return max(error(gradients(net, d), gradients(exact, d)) for d in (draw(0), drawn(1, 4)))


# Function transforms


def func_grad(net: Net) -> float:
    data = draw(0)
    return error(grad(lambda *d: loss(net(*d)), argnums=tuple(range(5)))(*data), gradients(exact, data)[1:])


def vmap_first(net: Net) -> float:
    q, A, b, G, h = draw(0, 4)
    return error(vmap(net, in_dims=(0, None, 0, None, 0))(q, A, b, G, h), exact(q, A, b, G, h))


def vmap_other(net: Net) -> float:
    q, A, b, G, h = draw(0, 4)
    found = vmap(net, in_dims=(1, None, -1, None, 0), out_dims=1)(q.mT, A, b.mT, G, h)
    return error(found.mT, exact(q, A, b, G, h))


def vmap_nested(net: Net) -> float:
    q, A, b, G, h = draw(0, 2, 3)
    dims = (0, None, 0, None, 0)
    return error(vmap(vmap(net, in_dims=dims), in_dims=dims)(q, A, b, G, h), exact(q, A, b, G, h))


def vmap_some(net: Net) -> float:
    q, A, b, G, h = draw(0)
    scales = torch.tensor([1.0, 1.1, 0.9], **F64)
    Gs = G * scales[:, None, None]  # a matrix in the batch, the rest shared: row and side scaled alike stay active
    hs = h * scales[:, None]
    return error(vmap(net, in_dims=(None, None, None, 0, 0))(q, A, b, Gs, hs), exact(q, A, b, Gs, hs))


def vmap_grad(net: Net) -> float:
    q, A, b, G, h = draw(0, 4)
    dims = (0, None, 0, None, 0)
    found = vmap(grad(lambda *d: loss(net(*d)), argnums=(0, 3)), in_dims=dims)(q, A, b, G, h)
    each = [gradients(exact, (q[i], A, b[i], G, h[i])) for i in range(4)]
    return error(found, [torch.stack([e[k] for e in each]) for k in (1, 4)])


def _tangents(data: Data) -> Data:
    g = torch.Generator().manual_seed(9)
    return tuple(torch.randn(t.shape, generator=g, **F64) for t in data)


def _jacobians(data: Data) -> tuple[Tensor, ...]:
    return jacobian(exact, data)


def _pushed(data: Data) -> Tensor:
    parts = zip(_jacobians(data), _tangents(data), strict=True)
    return sum((J.flatten(1) @ t.flatten() for J, t in parts), torch.zeros(N, **F64))


def func_jvp(net: Net) -> float:
    data = draw(0)
    return error(jvp(net, data, _tangents(data)), (exact(*data), _pushed(data)))


def forward_mode(net: Net) -> float:
    data = draw(0)
    with forward_ad.dual_level():
        x = net(*(forward_ad.make_dual(t, d) for t, d in zip(data, _tangents(data), strict=True)))
        tangent = forward_ad.unpack_dual(x).tangent
    return error([tangent], [_pushed(data)])


def func_vjp(net: Net) -> float:
    data, w = draw(0), torch.tensor([1.0, -2.0, 0.5], **F64)
    return error(vjp(net, *data)[1](w), [torch.tensordot(w, J, 1) for J in _jacobians(data)])


def _all_jacobians(transform: Callable[..., Callable[..., tuple[Tensor, ...]]], net: Net) -> float:
    data = draw(0)
    return error(transform(net, argnums=tuple(range(5)))(*data), _jacobians(data))


def func_jacrev(net: Net) -> float:
    return _all_jacobians(jacrev, net)


def func_jacfwd(net: Net) -> float:
    return _all_jacobians(jacfwd, net)


def func_hessian(net: Net) -> float:
    data = draw(0)
    found = torch.func.hessian(lambda *d: loss(net(*d)), argnums=tuple(range(5)))(*data)
    known = hessian(lambda *d: loss(exact(*d)), data)
    return error([t for row in found for t in row], [t for row in known for t in row])


def func_call(net: Net) -> float:
    data, weight = draw(0), torch.tensor([0.01, -0.02, 0.03], **F64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(functional_call(net, {"weight": weight}, data)), weight)
    return error(found, gradients(exact, (data[0] + weight.detach(), *data[1:]))[1])


def double_backward(net: Net) -> float:
    data = draw(0)

    def second(f: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        given = leaves(data)
        first = torch.autograd.grad(loss(f(*given)), given, create_graph=True)
        return torch.autograd.grad(sum((g * t).sum() for g, t in zip(first, _tangents(data), strict=True)), given)

    return error(second(net), second(exact))


def forward_over_forward(net: Net) -> float:
    data = draw(0)
    found = jacfwd(jacfwd(lambda *d: loss(net(*d)), argnums=3), argnums=3)(*data)
    return error(found, hessian(lambda *d: loss(exact(*d)), data)[3][3])


# Compilation


def compiled(net: Net) -> float:
    return works(torch.compile(net))


def compiled_in_one_graph(net: Net) -> float:
    return works(torch.compile(net, fullgraph=True))


def compiled_twice(net: Net) -> float:
    return double_backward(torch.compile(net))


def compiled_forward_mode(net: Net) -> float:
    return forward_mode(torch.compile(net))


# The life of a module


def deepcopied(net: Net) -> float:
    works(net)
    return works(copy.deepcopy(net))


def pickled(net: Net) -> float:
    works(net)
    return works(pickle.loads(pickle.dumps(net)))


def saved(net: Net) -> float:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return works(torch.load(buffer, weights_only=False))


def state_dict(net: Net) -> float:
    buffer, other = io.BytesIO(), type(net)()
    with torch.no_grad():
        net.weight.add_(0.01)
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    data = draw(0)
    return error(other(*data), exact(data[0] + 0.01, *data[1:]))


def averaged(net: Net) -> float:
    model = AveragedModel(net)
    model.update_parameters(net)
    return works(model.module)


def checkpointed(net: Net) -> float:
    return works(lambda *d: checkpoint(net, *d, use_reentrant=False))


def autocast(net: Net) -> float:
    def f(*d: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(*d)

    return works(f)


def anomaly(net: Net) -> float:
    with torch.autograd.set_detect_anomaly(True):
        return works(net)


def hooks(net: Net) -> float:
    data, seen = drawn(0, 4), {}
    net.register_forward_hook(lambda m, args, out: seen.update(x=out))
    net.register_full_backward_hook(lambda m, g_in, g_out: seen.update(g_in=g_in, g_out=g_out))
    given = leaves(data)
    x = net(*given)
    x.register_hook(lambda g: 2.0 * g)
    loss(x).backward()
    known_x, *known = gradients(exact, data)
    (at_x,) = torch.autograd.grad(loss(known_x := known_x.detach().requires_grad_()), known_x)
    return error((seen["x"], seen["g_out"][0], *seen["g_in"]), (known_x, 2.0 * at_x, *(2.0 * g for g in known)))


def retained(net: Net) -> float:
    data = drawn(0, 4)
    given = leaves(data)
    x, known = net(*given), gradients(exact, data)[1:]
    return max(error(torch.autograd.grad(loss(x), given, retain_graph=True), known) for _ in range(3))


def in_place(net: Net) -> float:
    """An argument is changed between the passes: an error of torch that says so is right, a wrong gradient is not."""
    data, errors = drawn(0, 4), []
    known = gradients(exact, data)[1:]
    for k in range(5):
        given = leaves(data)
        total = loss(net(*given))
        with torch.no_grad():
            given[k].mul_(-7.0).add_(3.0)
        try:
            errors.append(error(torch.autograd.grad(total, given), known))
        except RuntimeError as raised:
            if "modified by an inplace operation" not in str(raised):
                raise
    return max(errors, default=0.0)


# Threads and processes


def eight_threads(net: Net) -> float:
    jobs = [drawn(seed, *batch) for seed in range(8) for batch in ((), (4,))]
    known = [gradients(exact, job) for job in jobs]

    def work(k: int) -> float:
        return max(error(gradients(net, jobs[j % len(jobs)]), known[j % len(jobs)]) for j in range(k, k + len(jobs)))

    with ThreadPoolExecutor(8) as threads:
        return max(threads.map(work, range(8)))


class Programs(Dataset):
    """Answers and gradients, computed where the item is asked for."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> list[Tensor]:
        return [t.detach() for t in gradients(self.net, draw(k))]


def _loaded(net: Net, method: str) -> float:
    works(net)  # the parent has used it
    loader = DataLoader(Programs(net), num_workers=2, multiprocessing_context=method, collate_fn=first, timeout=60)
    return max(error(found, gradients(exact, draw(k))) for k, found in enumerate(loader))


def first(batch: list[list[Tensor]]) -> list[Tensor]:
    """A function that a spawned worker can import."""
    return batch[0]


def forked_workers(net: Net) -> float:
    return _loaded(net, "fork")


def spawned_workers(net: Net) -> float:
    return _loaded(net, "spawn")


def _train(rank: int, net: Net, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    q, A, b, G, h = draw(0, 4)
    model = DistributedDataParallel(net)
    loss(model(q[rank::2], A, b[rank::2], G, h[rank::2])).backward()
    torch.save(net.weight.grad, f"{folder}/{rank}.pt")
    del model  # torch 2.13 may hang where the model outlives its process group
    dist.destroy_process_group()


def distributed(net: Net) -> float:
    data = draw(0, 4)
    known = gradients(exact, data)[1].sum(0) / 2  # two processes take the mean of their sums
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(_train, (net, folder), nprocs=2, start_method="fork")
        return max(error(torch.load(f"{folder}/{rank}.pt"), known) for rank in range(2))


# Shapes and types


def several_batch_dimensions(net: Net) -> float:
    data = drawn(0, 2, 3)
    return error(gradients(net, data), gradients(exact, data))


def empty_batch(net: Net) -> float:
    data = draw(0, 0)
    given = leaves(data)
    x = net(*given)
    found = torch.autograd.grad(x.sum(), given)
    shapes = [t.shape for t in found] == [t.shape for t in data] and x.shape == (0, N)
    return max((float(g.abs().max()) for g in found if g.numel()), default=0.0) if shapes else float("inf")


def single_precision(net: Net) -> float:
    found = gradients(net, tuple(t.float() for t in drawn(0, 4)))
    if any(t.dtype != torch.float32 for t in found):
        raise WrongError(f"{found[0].dtype} out".removeprefix("torch."))
    return error(found, gradients(exact, drawn(0, 4)))


def shared_data(net: Net) -> float:
    q, A, b, G, h = draw(0, 4)
    data = (q[0], A, b[0], G, torch.cat([h[:1, :1].expand(4, 1), h[:1, 1:] + torch.rand(4, M - 1, **F64)], -1))
    return error(gradients(net, data), gradients(exact, data))


@dataclass(frozen=True)
class Feature:
    """A row of the table: its title, the test of dcl that holds it, the check."""

    name: str
    test: str
    check: Callable[[Net], float]


_T, _C, _L, _P = (
    "tests/autograd/test_transforms.py",
    "tests/autograd/test_compile.py",
    "tests/autograd/test_module_life.py",
    "tests/autograd/test_parallel.py",
)
FEATURES = (
    Feature("`func.grad`", f"{_T}::test_per_instance_gradients", func_grad),
    Feature("`vmap`, `in_dims=0`", f"{_T}::test_vmap_is_the_loop", vmap_first),
    Feature("`vmap`, other `in_dims`", f"{_T}::test_vmap_is_the_loop", vmap_other),
    Feature("`vmap` of `vmap`", f"{_T}::test_vmap_is_the_loop", vmap_nested),
    Feature("`vmap` over some arguments", f"{_T}::test_vmap_is_the_loop", vmap_some),
    Feature("`vmap` of `grad`", f"{_T}::test_per_instance_gradients", vmap_grad),
    Feature("`func.jvp`", f"{_T}::test_jacobians_in_both_modes", func_jvp),
    Feature("`func.vjp`", f"{_T}::test_jacobians_in_both_modes", func_vjp),
    Feature("`jacrev`", f"{_T}::test_jacobians_in_both_modes", func_jacrev),
    Feature("`jacfwd`", f"{_T}::test_jacobians_in_both_modes", func_jacfwd),
    Feature("`hessian`", f"{_T}::test_hessians", func_hessian),
    Feature("`functional_call`", f"{_T}::test_functional_call", func_call),
    Feature("`forward_ad`", f"{_T}::test_jacobians_in_both_modes", forward_mode),
    Feature("double backward", f"{_T}::test_hessians", double_backward),
    Feature("`jacfwd` of `jacfwd`", f"{_T}::test_forward_over_forward_is_an_error", forward_over_forward),
    Feature("`torch.compile`", f"{_C}::test_a_model_with_a_layer", compiled),
    Feature("`torch.compile(fullgraph=True)`", f"{_C}::test_a_model_with_a_layer", compiled_in_one_graph),
    Feature(
        "double backward, compiled",
        f"{_C}::test_double_backward_of_a_compiled_region_is_an_error",
        compiled_twice,
    ),
    Feature("`forward_ad`, compiled", f"{_C}::test_forward_mode_is_never_silently_zero", compiled_forward_mode),
    Feature("`deepcopy`", f"{_L}::test_a_copy_is_a_layer_of_its_own", deepcopied),
    Feature("`pickle`", f"{_L}::test_a_copy_is_a_layer_of_its_own", pickled),
    Feature("`torch.save`, `torch.load`", f"{_L}::test_a_copy_is_a_layer_of_its_own", saved),
    Feature("`state_dict`", f"{_L}::test_state_dict", state_dict),
    Feature("EMA copy", f"{_L}::test_averaged_model", averaged),
    Feature("`checkpoint(use_reentrant=False)`", f"{_L}::test_checkpoint", checkpointed),
    Feature("autocast", f"{_L}::test_autocast_leaves_the_layer_alone", autocast),
    Feature("anomaly mode", f"{_L}::test_anomaly_mode", anomaly),
    Feature("hooks", f"{_L}::test_module_hooks", hooks),
    Feature("`retain_graph` twice", f"{_L}::test_the_graph_may_be_used_again", retained),
    Feature("argument changed in place", f"{_L}::test_an_argument_changed_in_place", in_place),
    Feature("one layer, 8 threads", f"{_P}::test_a_layer_shared_by_eight_threads", eight_threads),
    Feature("`DataLoader`, fork", f"{_P}::test_forked_workers", forked_workers),
    Feature("`DataLoader`, spawn", f"{_P}::test_spawned_workers", spawned_workers),
    Feature("`DistributedDataParallel`", f"{_P}::test_distributed_data_parallel", distributed),
    Feature(
        "several batch dimensions", "tests/autograd/test_batches.py::test_a_batch_is_a_loop", several_batch_dimensions
    ),
    Feature("empty batch", "tests/autograd/test_batches.py::test_empty_batches", empty_batch),
    Feature("float32 in, float32 out", f"{_L}::test_the_layer_has_no_dtype", single_precision),
    Feature(
        "gradient of shared data is the sum",
        "tests/autograd/test_batches.py::test_gradients_of_shared_data_are_sums",
        shared_data,
    ),
)
