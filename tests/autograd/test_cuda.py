"""Tensors on a second device: answers and gradients stay there, and are those of the CPU.

Each case runs on a device that is simulated (`simulated_device.py`: it finds every mix-up of devices on any machine) and, where
there is one, on a GPU.
"""

import contextlib

import cvxpy as cp
import numpy as np
import pytest
import torch
from cvxpy_families import FAMILIES, build, chain
from front_end_cases import KNOWN, QPByPosition
from simulated_device import DEVICE, SimulatedDevice, fetch, send

import dcl
from dcl import core
from dcl.frontends.cvxpy import canonicalize
from dcl.kkt.dense import _probe
from dcl.program.pattern import SparsePattern


@pytest.fixture(autouse=True)
def careful_lane_on_the_cpu_too(monkeypatch):
    """The compiled core is for the CPU: what the device is compared with takes the lane that the device takes, bit for bit."""
    monkeypatch.setattr(core, "available", False)
    monkeypatch.setattr(core, "switched_off", True)


HAS_CUDA = torch.cuda.is_available()
GPU = pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA GPU; the simulated device runs the same test")


class Gpu:
    """The same words as for the simulated device: leaves there, numbers here."""

    device, rtol = torch.device("cuda", 0), 1e-8

    @staticmethod
    def send(t, requires_grad=False):
        return t.detach().to("cuda").requires_grad_(requires_grad)

    @staticmethod
    def fetch(t):
        return t.detach().cpu()

    world = contextlib.nullcontext


class Simulation:
    """Same kernels as the CPU, so the same numbers bit for bit."""

    device, rtol = DEVICE, 0.0
    send, fetch = staticmethod(send), staticmethod(fetch)
    world = SimulatedDevice


MU = [0.0, 0.1]
PLACES = [pytest.param(Simulation, id="simulated"), pytest.param(Gpu, id="cuda", marks=GPU)]


def weights(tensors):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]


def value_and_gradients(layer, leaves, given):
    outputs = [t for t in layer(*leaves) if t.requires_grad]
    total = sum((w * t).nansum() for w, t in zip(given or weights(outputs), outputs, strict=True))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return outputs, gradients


def agrees(place, layer, data):
    """Outputs and gradients of `layer` (leaves -> outputs) there and here; both worlds start from the same numbers."""
    here = [t.clone().requires_grad_() for t in data]
    expected = value_and_gradients(layer, here, None)
    with place.world():
        there = [place.send(t, True) for t in data]
        given = [place.send(w) for w in weights(expected[0])]
        outputs, gradients = value_and_gradients(layer, there, given)
        assert all(t.device == place.device for t in (*outputs, *gradients))
    for found, known in zip((*outputs, *gradients), (*expected[0], *expected[1]), strict=True):
        atol = place.rtol * float(known.detach().nan_to_num().abs().max()) if known.numel() else 0.0
        torch.testing.assert_close(place.fetch(found), known.detach(), rtol=place.rtol, atol=atol, equal_nan=True)
    assert max(float(g.abs().max()) for g in expected[1] if g.numel()) > 1e-3


def qp_data(*batch, seed=0, n=5, p=1, m=4):
    rng = np.random.default_rng(seed)
    L, x = rng.standard_normal((n, n)), rng.standard_normal(n)
    A, G = rng.standard_normal((p, n)), rng.standard_normal((m, n))
    P, q, h = L @ L.T + np.eye(n), rng.standard_normal((*batch, n)), G @ x + rng.uniform(0.1, 1.0, (*batch, m))
    return [torch.tensor(a) for a in (P, q, A, A @ x, G, h)]


@pytest.mark.parametrize("mu", MU)
@pytest.mark.parametrize("place", PLACES)
def test_qp(place, mu):
    agrees(place, QPByPosition(mu=mu), qp_data(3))


@pytest.mark.parametrize("place", PLACES)
def test_bounds_some_of_them_infinite(place):
    layer = dcl.QPLayer()
    data = qp_data(2)
    lb, ub = torch.full((5,), -0.1).double(), torch.full((2, 5), 0.4).double()
    lb[1], ub[0, 2] = -torch.inf, torch.inf
    agrees(place, lambda P, q, lb, ub: layer(P, q, lb=lb, ub=ub), [data[0], data[1], lb, ub])


@pytest.mark.parametrize("place", PLACES)
def test_mu_is_a_tensor_there_or_here(place):
    data, mu = qp_data(3), torch.tensor([0.3, 0.1, 0.02]).double()
    expected = QPByPosition(mu=mu)(*data).x
    with place.world():
        there = [place.send(t) for t in data]
        from_here, from_there = QPByPosition(mu=mu)(*there).x, QPByPosition()(*there, mu=place.send(mu)).x
    for x in (from_here, from_there):
        torch.testing.assert_close(place.fetch(x), expected, rtol=place.rtol, atol=place.rtol)


@pytest.mark.parametrize("place", PLACES)
def test_lp_with_multipliers_that_are_not_unique(place):
    # a vertex where three rows meet in the plane: a basic solution is chosen on the host
    layer = dcl.QPLayer(on_degenerate="ignore")
    G = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]).double()
    h = torch.tensor([[1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.5, 3.0]]).double()
    agrees(place, lambda q, G, h: layer(None, q, G=G, h=h), [torch.tensor([-1.0, -1.0]).double(), G, h])


@pytest.mark.parametrize("place", PLACES)
def test_weakly_active_rows(place):
    layer = dcl.QPLayer(on_degenerate="ignore")
    P, q = torch.eye(2).double(), torch.tensor([[-1.0, 0.0], [-1.0, -2.0]]).double()
    agrees(place, lambda P, q, G, h: layer(P, q, G=G, h=h), [P, q, -P, torch.zeros(2).double()])


@pytest.mark.parametrize("place", PLACES)
def test_dependent_equalities(place):
    layer = QPByPosition(on_degenerate="ignore")
    A, b = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]).double(), torch.tensor([1.0, 2.0]).double()
    agrees(place, layer, [torch.eye(3).double(), torch.tensor([[1.0, -1.0, 2.0]] * 2).double(), A, b])


@pytest.mark.parametrize("place", PLACES)
def test_ill_conditioned(place):
    layer = QPByPosition(on_degenerate="ignore")
    data = qp_data(2, n=4)
    data[0] = torch.diag(torch.tensor([1.0, 1e-4, 1e-8, 1.0]).double())
    ub = torch.full((2, 4), 10.0).double()
    agrees(place, lambda *data: (layer(*data[:-1], lb=-data[-1], ub=data[-1]).x,), [*data, ub])


@pytest.mark.parametrize("how", ["nan", "last"])
@pytest.mark.parametrize("place", PLACES)
def test_failed_instances(place, how):
    layer = dcl.QPLayer(on_failure=how)
    G = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
    h = torch.tensor([[1.0, 0.0], [1.0, -2.0], [0.5, 3.0]]).double()  # the second one is infeasible
    agrees(place, lambda P, q, G, h: (layer(P, q, G=G, h=h).x,), [torch.eye(2).double(), -torch.ones(2).double(), G, h])


@pytest.mark.parametrize("place", PLACES)
def test_errors_and_their_certificates(place):
    with place.world():
        q, G = place.send(torch.tensor([1.0]).double()), place.send(torch.tensor([[1.0], [-1.0]]).double())
        with pytest.raises(dcl.SolveError) as infeasible:
            dcl.solve_qp(None, q, G=G, h=place.send(torch.tensor([0.0, -1.0]).double()))
        with pytest.raises(dcl.SolveError) as unbounded:
            dcl.solve_qp(None, q, G=G[:1], h=place.send(torch.tensor([0.0]).double()))
        with pytest.raises(dcl.InputError, match=r"h is on cpu"):
            dcl.solve_qp(None, q, G=G, h=torch.zeros(2))
        with pytest.raises(dcl.InputError, match="P is not positive semidefinite"):
            dcl.solve_qp(place.send(-torch.eye(1).double()), q)
    assert infeasible.value.statuses == [dcl.Status.PRIMAL_INFEASIBLE]
    assert unbounded.value.statuses == [dcl.Status.DUAL_INFEASIBLE]
    assert infeasible.value.certificates[0].device == place.device


@pytest.mark.parametrize("place", PLACES)
def test_the_solution_is_there_too_and_warm_starts(place):
    layer, data = QPByPosition(), qp_data(3)
    expected = layer.solve(*data)
    with place.world():
        there = [place.send(t) for t in data]
        solution = layer.solve(*there)
        again = layer.solve(*there, warm_start=solution)
        from_here = layer.solve(*there, warm_start=expected)
        fields = [solution.x, solution.z, solution.s, solution.value, solution.status, solution.gap]
        fields += [solution.gradient_kind, solution.margin, solution.condition]
        assert all(t.device == place.device for t in fields)
        assert solution.ok.all()
        assert repr(solution).startswith("Solution(3 OPTIMAL")
        for x in (solution.x, again.x, from_here.x):
            torch.testing.assert_close(place.fetch(x), expected.x, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("place", PLACES)
def test_empty_batch_and_single_precision(place):
    with place.world():
        data = [place.send(t.float(), True) for t in qp_data(0)]
        x = QPByPosition()(*data).x
        x.sum().backward()
        assert x.shape == (0, 5)
        assert x.dtype == torch.float32
        assert x.device == data[0].grad.device == place.device


QUICK = ("parametric_P", "shared_parameter", "symmetric_parameter_and_variable")
SORTED = [
    pytest.param(family, id=family.__name__, marks=[] if family.__name__ in QUICK else [pytest.mark.slow])
    for family in FAMILIES
]


@pytest.mark.filterwarnings("ignore:the gradient with respect to:dcl.DegenerateWarning")  # of a linear program
@pytest.mark.parametrize("family", SORTED)
@pytest.mark.parametrize("place", PLACES)
def test_cvxpy(place, family):
    problem, parameters, outputs = build(family)
    layer = dcl.CvxpyLayer(problem, parameters, [*outputs, problem.objective])
    agrees(place, layer, [torch.tensor(np.array(p.value, dtype=float)) for p in parameters])


@pytest.mark.parametrize("mu", MU)
@pytest.mark.parametrize("place", PLACES)
def test_sparse(place, mu, monkeypatch):
    monkeypatch.setattr(canonicalize, "dense_storage", lambda *_: False)
    problem, parameters, outputs, values = chain(8)
    layer = dcl.CvxpyLayer(problem, parameters, outputs, mu=mu)
    assert isinstance(layer._form.structure.A, SparsePattern)
    agrees(place, layer, values)


@pytest.mark.parametrize("place", PLACES)
def test_domains_of_parameters(place):
    x, t, S = cp.Variable(2), cp.Parameter(2, nonneg=True), cp.Parameter((2, 2), PSD=True)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, S) - t @ x), [x <= 1]), [t, S], [x])
    agrees(place, layer, [torch.tensor([1.0, 0.5]).double(), torch.tensor([[2.0, 0.3], [0.3, 1.0]]).double()])
    with place.world(), pytest.raises(dcl.InputError, match="nonneg"):
        layer(place.send(torch.tensor([1.0, -0.5]).double()), place.send(torch.eye(2).double()))


def cone_programs():
    """A regular program for each cone, all of its data: projections of a point onto the cone's neighborhood, with a pull."""
    p = torch.tensor([0.3, 0.8, -0.9]).double()
    eye = torch.eye(3).double()
    A = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]).double()
    yield "z, l", {"z": 1, "l": 2}, eye, -p, A, p.abs()
    yield "q", {"q": [3]}, eye, -p, -eye, torch.tensor([0.2, 0.1, 0.0]).double()
    yield "s", {"s": [2]}, eye, -p, -eye, torch.tensor([0.1, 0.2, 0.3]).double()
    yield "ep", {"ep": 1}, eye, -p, -eye, torch.tensor([0.1, 0.5, 0.3]).double()
    yield "p", {"p": [0.3]}, eye, -p, -eye, torch.tensor([0.1, 0.2, 0.3]).double()


# the cones of three rows take many small operations, each of which goes through the simulation
CONES = [
    pytest.param(program, id=program[0], marks=[pytest.mark.slow] if program[0] in ("ep", "p") else [])
    for program in cone_programs()
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("mu", MU)
@pytest.mark.parametrize("program", CONES)
@pytest.mark.parametrize("place", PLACES)
def test_cones(place, program, mu):
    _, cones, *data = program
    agrees(place, dcl.ConeLayer(cones, mu=mu), data)


@pytest.mark.parametrize("place", PLACES)
def test_second_derivatives(place):
    data = qp_data()
    layer = QPByPosition()

    def second(leaves, given):
        first = torch.autograd.grad((layer(*leaves).x ** 2).sum(), leaves, create_graph=True)
        total = sum((w * g).sum() for w, g in zip(given, first, strict=True))
        return torch.autograd.grad(total, leaves)

    expected = second([t.clone().requires_grad_() for t in data], weights(data))
    with place.world():
        found = second([place.send(t, True) for t in data], [place.send(w) for w in weights(data)])
    for t, known in zip(found, expected, strict=True):
        torch.testing.assert_close(place.fetch(t), known, rtol=10 * place.rtol, atol=10 * place.rtol)


@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", list(KNOWN))
def test_another_default_device(name, place, mu):
    # as after torch.set_default_device("cuda"), with data that are on the CPU all the same
    known = KNOWN[name]
    leaves = known.leaves(0, 3)
    expected = known.make(mu=mu)(*leaves)[0]
    gradient = torch.autograd.grad(expected.sum(), leaves[known.point])
    _probe.cache_clear()
    with place.world(), place.device:
        x = known.make(mu=mu)(*leaves)[0]
        found = torch.autograd.grad(x.sum(), leaves[known.point])
    assert torch.equal(x, expected)
    assert torch.equal(found[0], gradient[0])


@pytest.mark.parametrize("place", PLACES)
def test_ties_under_another_default_device(place):
    x, t = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0])
    t0 = torch.tensor([1.0, 0.0]).double().requires_grad_()
    with place.world(), place.device:
        layer = dcl.CvxpyLayer(problem, [t], [x], on_degenerate="ignore")
        (y,) = layer(t0)
        (g,) = torch.autograd.grad(y.sum(), t0)
    torch.testing.assert_close(g, torch.tensor([1.0, 0.5]).double())


def test_all_but_the_solver_runs_there():
    # the program goes to the solver, its answer comes back: few tensors travel, whatever the batch
    travels = []
    for batch in (2, 50):
        with SimulatedDevice() as device:
            leaves = [send(t, True) for t in qp_data(batch)]
            QPByPosition()(*leaves).x.sum().backward()
        travels.append(device.to_host)
        assert device.there["linalg_cholesky_ex"] >= 2
        assert device.there["linalg_solve_triangular"] >= 4
    assert travels[0] == travels[1] <= 6


def test_the_simulated_device_refuses_what_a_gpu_refuses():
    with SimulatedDevice():
        there, here = send(torch.ones(3)), torch.ones(3)
        index = torch.zeros(1).long()
        for mixed in (lambda: there + here, lambda: torch.cat([there, here]), lambda: there.gather(0, index)):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert (there + torch.tensor(1.0)).device == DEVICE
        assert there[torch.tensor([True, False, True])].device == DEVICE
        assert torch.zeros(2, device=there.device).device == DEVICE
        assert there.cpu().numpy().sum() == 3.0
