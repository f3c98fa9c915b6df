"""dcl.compat: answers, gradients and signs against a KKT system solved in NumPy, and finite differences; options."""

import importlib
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch

from dcl import SolveError
from dcl.compat import proxsuite, qpth
from dcl.errors import CompatibilityWarning

EMPTY = torch.tensor([])
N, M, P, BATCH = 6, 5, 2, 3
TOLERANCE = 1e-9


def tensor(array):
    return torch.tensor(np.asarray(array, dtype=float))


@pytest.fixture
def built():
    """Programs whose answers are chosen first: row 0 of G at its upper bound, row 1 at its lower one, others free."""
    rng = np.random.default_rng(0)
    L = rng.standard_normal((BATCH, N, N))
    Q = L @ L.transpose(0, 2, 1) + np.eye(N)
    A, G = rng.standard_normal((BATCH, P, N)), rng.standard_normal((BATCH, M, N))
    x, y = rng.standard_normal((BATCH, N)), rng.standard_normal((BATCH, P))
    nus = np.zeros((BATCH, M))
    nus[:, 0], nus[:, 1] = rng.uniform(0.5, 1.5, BATCH), -rng.uniform(0.5, 1.5, BATCH)
    Gx = np.einsum("bij,bj->bi", G, x)
    u, lower = Gx + rng.uniform(0.5, 1.5, (BATCH, M)), Gx - rng.uniform(0.5, 1.5, (BATCH, M))
    u[:, 0], lower[:, 1] = Gx[:, 0], Gx[:, 1]
    p = -np.einsum("bij,bj->bi", Q, x) - np.einsum("bij,bi->bj", A, y) - np.einsum("bij,bi->bj", G, nus)
    b = np.einsum("bij,bj->bi", A, x)
    return {k: tensor(v) for k, v in dict(Q=Q, p=p, A=A, b=b, G=G, l=lower, u=u, x=x, y=y, nus=nus).items()}


def kkt_gradients(data, i, w):
    """Gradients of w'x at instance i with respect to Q, p, A, b, G, l, u, from its active KKT system."""
    Q, A, G, x, y, nus = (data[k][i].numpy() for k in ("Q", "A", "G", "x", "y", "nus"))
    E = np.concatenate([A, G[:2]])
    K = np.block([[Q, E.T], [E, np.zeros((len(E), len(E)))]])
    a = np.linalg.solve(K, np.concatenate([w, np.zeros(len(E))]))
    ax, ay, az = a[:N], a[N : N + P], np.zeros(M)
    az[:2] = a[N + P :]
    side = np.arange(M)
    return {
        "Q": -0.5 * (np.outer(ax, x) + np.outer(x, ax)),
        "p": -ax,
        "A": -(np.outer(y, ax) + np.outer(ay, x)),
        "b": ay,
        "G": -(np.outer(nus, ax) + np.outer(az, x)),
        "l": np.where(side == 1, az, 0.0),
        "u": np.where(side == 0, az, 0.0),
    }


def one_sided(data):
    """The built programs as Gx <= h: rows [G; -G], right-hand sides [u; -l]."""
    return torch.cat([data["G"], -data["G"]], -2), torch.cat([data["u"], -data["l"]], -1)


def close(a, b, tolerance=TOLERANCE):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_proxsuite_answers_and_signs(built):
    x, lams, nus = proxsuite.QPFunction()(*(built[k] for k in "QpAbGlu"))
    close(x, built["x"])
    close(lams, built["y"])
    close(nus, built["nus"])


def test_proxsuite_gradients(built):
    names = "QpAbGlu"
    data = {k: built[k].clone().requires_grad_() for k in names}
    w = tensor(np.random.default_rng(1).standard_normal(N))
    (proxsuite.QPFunction()(*data.values())[0] @ w).sum().backward()
    for i in range(BATCH):
        for name, expected in kkt_gradients(built, i, w.numpy()).items():
            close(data[name].grad[i], tensor(expected))


def test_proxsuite_gradients_of_multipliers(built):
    single = [built[k][0] for k in "QpAbGlu"]

    def f(p, b, lower, upper):
        return proxsuite.QPFunction()(single[0], p, single[2], b, single[4], lower, upper)

    inputs = tuple(single[k].clone().requires_grad_() for k in (1, 3, 5, 6))
    assert torch.autograd.gradcheck(f, inputs, atol=1e-6)


@pytest.mark.parametrize("infinity", [1e20, np.inf])
def test_proxsuite_infinite_bounds(built, infinity):
    Q, p, A, b, G, u = (built[k] for k in ("Q", "p", "A", "b", "G", "u"))
    free = torch.full_like(u, -infinity)
    function = proxsuite.QPFunction()
    constant, lams, nus = function(Q, p, A, b, G, free, u)
    lower = free.clone().requires_grad_()
    tracked, *_ = function(Q, p, A, b, G, lower, u)
    (gradient,) = torch.autograd.grad(tracked.sum(), lower)
    close(tracked.detach(), constant)
    close(gradient, torch.zeros_like(gradient))
    assert nus.shape == (BATCH, M)
    assert bool((nus >= 0).all())
    stationarity = (Q @ constant.unsqueeze(-1)).squeeze(-1) + p
    stationarity = stationarity + (A.mT @ lams.unsqueeze(-1)).squeeze(-1) + (G.mT @ nus.unsqueeze(-1)).squeeze(-1)
    close(stationarity, torch.zeros_like(stationarity))
    above, _, nus_none = function(Q, p, A, b, G, free, -free)
    assert nus_none.shape == (BATCH, M)
    assert not bool(nus_none.any())
    close((A @ above.unsqueeze(-1)).squeeze(-1), b)


def test_proxsuite_equality_as_two_sides(built):
    """l = u is an equality: the multiplier is one number, its sign free."""
    Q, p, A, b = (built[k] for k in ("Q", "p", "A", "b"))
    function = proxsuite.QPFunction()
    x, _, nus = function(Q, p, EMPTY, EMPTY, A, b, b)
    expected, lams, _ = function(Q, p, A, b, EMPTY, EMPTY, EMPTY)
    close(x, expected)
    close(nus, lams)


def test_qpth_answers_and_gradients(built):
    G, h = one_sided(built)
    data = [t.clone().requires_grad_() for t in (built["Q"], built["p"], G, h, built["A"], built["b"])]
    w = tensor(np.random.default_rng(1).standard_normal(N))
    x = qpth.QPFunction(verbose=-1)(*data)
    close(x.detach(), built["x"])
    (x @ w).sum().backward()
    grad_G = data[2].grad[:, :M] - data[2].grad[:, M:]
    for i in range(BATCH):
        expected = kkt_gradients(built, i, w.numpy())
        close(data[0].grad[i], tensor(expected["Q"]))
        close(data[1].grad[i], tensor(expected["p"]))
        close(grad_G[i], tensor(expected["G"]))
        close(data[3].grad[i], tensor(np.concatenate([expected["u"], -expected["l"]])))
        close(data[4].grad[i], tensor(expected["A"]))
        close(data[5].grad[i], tensor(expected["b"]))


def test_qpth_gradients_by_finite_differences(built):
    G, h = one_sided(built)
    inputs = tuple(t[0].clone().requires_grad_() for t in (built["p"], G, h, built["A"], built["b"]))
    function = qpth.QPFunction()
    assert torch.autograd.gradcheck(lambda *data: function(built["Q"][0], *data), inputs, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("absent", [EMPTY, None, torch.zeros(0, N).double()], ids=["empty", "none", "zero rows"])
def test_absent_blocks(built, absent):
    Q, p, A, b = (built[k] for k in ("Q", "p", "A", "b"))
    side = None if absent is None else EMPTY if absent.ndim == 1 else absent.new_zeros(0)
    expected = torch.linalg.solve(Q, -p.unsqueeze(-1)).squeeze(-1)
    close(qpth.QPFunction()(Q, p, absent, side, absent, side), expected)
    x, lams, nus = proxsuite.QPFunction()(Q, p, absent, side, absent, side, side)
    close(x, expected)
    assert lams.shape == nus.shape == (BATCH, 0)
    close((A @ qpth.QPFunction()(Q, p, absent, side, A, b).unsqueeze(-1)).squeeze(-1), b)


def test_unbatched_has_a_batch_of_one(built):
    G, h = one_sided(built)
    x = qpth.QPFunction()(*(t[0] for t in (built["Q"], built["p"], G, h, built["A"], built["b"])))
    outputs = proxsuite.QPFunction()(*(built[k][0] for k in "QpAbGlu"))
    assert [tuple(t.shape) for t in (x, *outputs)] == [(1, N), (1, N), (1, P), (1, M)]
    close(x, built["x"][:1])


@pytest.mark.parametrize("package", ["qpth", "proxsuite"])
def test_gradient_of_shared_data_is_the_sum(built, package):
    def x_of(Q):
        if package == "qpth":
            return qpth.QPFunction()(Q, built["p"], EMPTY, EMPTY, built["A"], built["b"])
        return proxsuite.QPFunction()(Q, built["p"], built["A"], built["b"], EMPTY, EMPTY, EMPTY)[0]

    shared = built["Q"][0].clone().requires_grad_()
    copies = built["Q"][:1].repeat(BATCH, 1, 1).requires_grad_()
    x_of(shared).sum().backward()
    x_of(copies).sum().backward()
    close(shared.grad, copies.grad.sum(0))


def test_float32_stays_float32(built):
    data = [built[k].float().requires_grad_() for k in "QpAbGlu"]
    outputs = proxsuite.QPFunction()(*data)
    outputs[0].sum().backward()
    assert {t.dtype for t in (*outputs, *(d.grad for d in data))} == {torch.float32}


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (qpth.QPFunction, {"maxIter": 50}, ["maxIter"]),
        (qpth.QPFunction, {"solver": qpth.QPSolvers.CVXPY, "notImprovedLim": 5, "check_Q_spd": False},
         ["notImprovedLim", "solver", "check_Q_spd"]),
        (proxsuite.QPFunction, {"maxIter": 5, "eps_backward": 1e-9}, ["maxIter", "eps_backward"]),
    ],
)  # fmt: skip
def test_ignored_options_warn_once(make, options, named):
    with pytest.warns(CompatibilityWarning) as record:
        make(**options)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert all(name in str(record[0].message) for name in named)


def test_mapped_options_do_not_warn(built):
    G, h = one_sided(built)
    x = qpth.QPFunction(eps=1e-9, verbose=False, solver=qpth.QPSolvers.PDIPM_BATCHED)(
        built["Q"], built["p"], G, h, built["A"], built["b"]
    )
    close(x, built["x"])
    close(proxsuite.QPFunction(1e-10, omp_parallel=True)(*(built[k] for k in "QpAbGlu"))[0], built["x"])


def test_infeasible_raises(built):
    Q, p, G, u = (built[k] for k in "QpGu")
    lower = built["l"].clone()
    lower[1, 0] = u[1, 0] + 1.0
    with pytest.raises(SolveError) as error:
        proxsuite.QPFunction()(Q, p, EMPTY, EMPTY, G, lower, u)
    assert error.value.indices == [(1,)]


def test_functions_pickle(built):
    data = [built[k] for k in "QpAbGlu"]
    copy = pickle.loads(pickle.dumps(proxsuite.QPFunction()))
    close(copy(*data)[0], built["x"])


def real(module):
    """The peer's own QPFunction, or a skip that says why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module).QPFunction
    except ImportError as error:
        pytest.skip(f"{module} cannot be imported: {error}")


def parameters(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name != "solver"]


def test_against_qpth(built):
    theirs = real("qpth.qp")
    assert parameters(qpth.QPFunction) == parameters(theirs)
    G, h = one_sided(built)
    results = []
    for function in (qpth.QPFunction(verbose=-1), theirs(verbose=-1)):
        data = [t.clone().requires_grad_() for t in (built["Q"], built["p"], G, h, built["A"], built["b"])]
        x = function(*data)
        x.square().sum().backward()
        results.append([x.detach(), *(t.grad for t in data)])
    for ours, other in zip(*results, strict=True):
        close(ours, other, 1e-5)


@pytest.mark.filterwarnings("ignore")
def test_against_proxsuite(built):
    theirs = real("proxsuite.torch.qplayer")
    assert parameters(proxsuite.QPFunction) == parameters(theirs)
    results = []
    for function in (proxsuite.QPFunction(), theirs()):
        data = [built[k].clone().requires_grad_() for k in "QpAbGlu"]
        x, lams, nus = function(*data)
        (x.square().sum() + lams.sum()).backward()
        results.append([x.detach(), lams.detach(), nus.detach(), *(t.grad for t in data)])
    for ours, other in zip(*results, strict=True):
        close(ours, other, 1e-4)


@pytest.mark.filterwarnings("ignore")
def test_closest_feasible_against_proxsuite(built):
    """Without equalities: it weights their shifts ten times. Its gradient of G leaves out one side, and is not compared."""
    theirs = real("proxsuite.torch.qplayer")
    lower = built["l"].clone()
    lower[:, 2] = built["u"][:, 2] + 1.0
    results = []
    for function in (proxsuite.QPFunction(structural_feasibility=False), theirs(structural_feasibility=False)):
        data = [t[0].clone().requires_grad_() for t in (built["Q"], built["p"], built["G"], lower, built["u"])]
        Q, p, G, l, u = data  # noqa: E741
        x, _, _, _, s_i = function(Q, p, torch.zeros(1, N).double(), torch.zeros(1).double(), G, l, u)
        x.square().sum().backward()
        results.append([x.detach()[0], s_i.detach()[0], *(t.grad.reshape(-1) for t in (p, l, u))])
    for ours, other in zip(*results, strict=True):
        close(ours, other.double(), 1e-3)


def test_proxsuite_one_shared_side(built):
    """One bound without batch dimension, the other with one."""
    Q, p, G, upper = built["Q"], built["p"], built["G"][0], built["u"].abs() + 0.1
    lower = torch.full((M,), -0.1, dtype=torch.float64)
    x, _, nus = proxsuite.QPFunction()(Q, p, EMPTY, EMPTY, G, lower, upper)
    expected, _, expected_nus = proxsuite.QPFunction()(Q, p, EMPTY, EMPTY, G, lower.expand(BATCH, M), upper)
    close(x, expected)
    close(nus, expected_nus)
    assert bool((nus < 0).any())
