"""`dcl.ConeLayer`: programs whose solution is known (Moreau), closed forms, differences, diffcp; what a layer must do.

random v, x, A:   z = Pi_K*(v),  s = z - v,   b = Ax + s,   q = -(Px + A'z)        then (x, z, s) is the solution
"""

import copy
import pickle

import numpy as np
import pytest
import torch

import dcl
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.cones.semidefinite import smat, svec
from dcl.frontends.cone import parse
from dcl.kkt import factorize
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import DensePattern, pattern_of
from dcl.solvers import Clarabel, Iterates, Scs
from dcl.solvers.host import to_host
from dcl.status import Status

CONES = {
    "orthant": {"z": 2, "l": 6},
    "second-order": {"l": 2, "q": [3, 3, 5, 1]},
    "semidefinite": {"z": 1, "s": [3, 2, 3, 1]},
    "exponential": {"l": 1, "ep": 4},
    "power": {"l": 1, "p": [0.3, 0.5, 0.8]},
    "all": {"z": 1, "l": 2, "q": [4, 3], "s": [3], "ep": 2, "p": [0.4, 0.7]},
}
SEEDS = range(7)
NAMES = ("P", "q", "A", "b")


def dimension(cones):
    return parse(cones).cone.dim


def moreau(cones, seed, *, linear=False, batch=(), n=None):
    """Data (P, q, A, b) in the caller's order of rows, with solution (x, z, s)."""
    generator = torch.Generator().manual_seed(seed)
    known = parse(cones)
    m = known.cone.dim

    def normal(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    v = normal(m)
    z = known.cone.project(v.reshape(-1, m), 0.0).reshape(v.shape)
    if n is None:
        d = known.cone.dproject(v.reshape(-1, m), 0.0, torch.full((v.numel() // m, m), torch.nan)).d
        # a linear program has one solution, and one multiplier, only between these two
        n = int(((d > 1e-6).sum(-1) + (d > 1 - 1e-6).sum(-1)).min()) // 2
    x, A, L = normal(n), known.rows.to_user(normal(n, m)).mT, normal(n, n)
    z, s = known.rows.to_user(z), known.rows.to_user(z - v)
    P = torch.zeros_like(L) if linear else L @ L.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)
    q = -(P @ x.unsqueeze(-1) + A.mT @ z.unsqueeze(-1)).squeeze(-1)
    return (P, q, A, (A @ x.unsqueeze(-1)).squeeze(-1) + s), (x, z, s)


@pytest.mark.sample(5)
@pytest.mark.parametrize("linear", [False, True], ids=["quadratic", "linear"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CONES)
def test_known_solutions(name, seed, linear):
    data, known = moreau(CONES[name], seed, linear=linear)
    with torch.no_grad():
        result, solution = dcl.ConeLayer(CONES[name])(*data, return_solution=True)
    condition = float(solution.condition)
    for got, wanted in zip(result, known, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-13 * max(condition, 1e4), rtol=0.0)
    assert (result.z @ result.s).abs() < 1e-9
    P, q = data[:2]
    torch.testing.assert_close(solution.value, 0.5 * known[0] @ P @ known[0] + q @ known[0], atol=1e-8, rtol=1e-8)


@pytest.mark.sample(4)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONES)
def test_gradients_against_differences(name, seed):
    data, _ = moreau(CONES[name], seed)
    layer = dcl.ConeLayer(CONES[name], on_degenerate="raise")
    generator = torch.Generator().manual_seed(100 + seed)
    leaves = [t.clone().requires_grad_() for t in data]
    outputs = layer(*leaves)
    weights, directions = (
        [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in ts] for ts in (outputs, data)
    )
    directions[0] = directions[0] @ directions[0].mT
    total = sum((w * out).sum() for w, out in zip(weights, outputs, strict=True))
    slope = sum(float((g * d).sum()) for g, d in zip(torch.autograd.grad(total, leaves), directions, strict=True))

    def loss(step):
        with torch.no_grad():
            moved = layer(*(t + step * d for t, d in zip(data, directions, strict=True)))
            return sum(float((w * out).sum()) for w, out in zip(weights, moved, strict=True))

    h = 1e-5
    difference = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert abs(slope - difference) <= 1e-6 * (1 + abs(slope))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONES if name != "all"])
def test_second_derivatives(name):
    cones = {key: value[:1] if isinstance(value, list) else min(value, 1) for key, value in CONES[name].items()}
    data, _ = moreau(cones, 3)
    layer = dcl.ConeLayer(cones)
    leaves = [t.clone().requires_grad_() for t in data[1:]]
    assert torch.autograd.gradgradcheck(lambda *rest: layer(data[0], *rest).x, leaves, eps=1e-5, atol=1e-4, rtol=1e-4)


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CONES)
def test_gradients_against_diffcp(name, seed):
    diffcp = pytest.importorskip("diffcp")
    import scipy.sparse as sp

    cones = {"z": 0, "l": 0, "q": [], "s": [], "ep": 0} | CONES[name]
    if "p" in cones:
        pytest.skip("diffcp has no derivative of power cones")
    data, _ = moreau(cones, seed, linear=True)
    _, q, A, b = (t.clone().requires_grad_() for t in data)
    outputs, solution = dcl.ConeLayer(cones)(None, q, A, b, return_solution=True)
    if solution.gradient_kind != 0 or solution.condition > 1e5:
        pytest.skip("not a regular point")
    x, y, s, _, adjoint = diffcp.solve_and_derivative(
        sp.csc_matrix(A.detach().numpy()), b.detach().numpy(), q.detach().numpy(), cones,
        solve_method="SCS", mode="dense", eps=1e-12, max_iters=200_000,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(len(t)) for t in (x, y, s)]
    dA, db, dc = adjoint(*weights)
    total = sum((torch.from_numpy(w) * out).sum() for w, out in zip(weights, outputs, strict=True))
    mine = torch.autograd.grad(total, [A, b, q])
    scale = max(float(g.abs().max()) for g in mine)
    for got, wanted in zip(mine, (np.asarray(dA.todense()), db, dc), strict=True):
        # diffcp leaves out the entries of A that are zero, of which there are none here
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5 * (1 + scale))


def test_projection_on_the_ball():
    point = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    A, b = torch.cat([torch.zeros(1, 2), -torch.eye(2)]).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    x = dcl.ConeLayer({"q": [3]})(torch.eye(2).double(), -point, A, b).x
    wanted = point / point.norm(dim=-1, keepdim=True).clamp(min=1.0)
    torch.testing.assert_close(x, wanted, atol=1e-12, rtol=0.0)
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    grads = (torch.autograd.grad((out * w).sum(), point, retain_graph=True)[0] for out in (x, wanted))
    torch.testing.assert_close(*grads, atol=1e-12, rtol=0.0)


def test_projection_on_the_semidefinite_matrices():
    """Daleckii and Krein: the derivative of X = U g(l) U' in the direction E is U (g[i, j] o U'EU) U'."""
    generator = torch.Generator().manual_seed(0)
    C, E, W = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    C, E, W = C + C.T, E + E.T, W + W.T
    known = parse({"s": [4]})

    def lower(X):
        return known.rows.to_user(svec(X))

    c = lower(C).requires_grad_()
    eye = torch.eye(10, dtype=torch.float64)
    x, z, _ = dcl.ConeLayer({"s": [4]})(eye, -c, -eye, torch.zeros(10, dtype=torch.float64))
    values, U = torch.linalg.eigh(C)
    positive = values.clamp(min=0.0)
    torch.testing.assert_close(smat(known.rows.to_canonical(x), 4), (U * positive) @ U.T, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(
        smat(known.rows.to_canonical(z), 4), (U * (positive - values)) @ U.T, atol=1e-12, rtol=0.0
    )
    gap = values.unsqueeze(-1) - values
    divided = torch.where(
        gap == 0, (values > 0).double(), (positive.unsqueeze(-1) - positive) / torch.where(gap == 0, 1, gap)
    )
    derivative = U @ (divided * (U.T @ E @ U)) @ U.T
    (grad,) = torch.autograd.grad((lower(W) * x).sum(), c)
    torch.testing.assert_close(grad @ lower(E), (W * derivative).sum(), atol=1e-11, rtol=0.0)


def test_entropy_on_the_simplex_is_softmax():
    """Minimize sum t - c'x, x log x <= t: (-t, x, 1) in the exponential cone."""
    n = 4
    c = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    A, b = torch.zeros(1 + 3 * n, 2 * n, dtype=torch.float64), torch.zeros(1 + 3 * n, dtype=torch.float64)
    A[0, :n], b[0] = 1.0, 1.0
    for i in range(n):
        A[1 + 3 * i, n + i], A[2 + 3 * i, i], b[3 + 3 * i] = 1.0, -1.0, 1.0
    q = torch.cat([-c, torch.ones(n, dtype=torch.float64)])
    x = dcl.ConeLayer({"z": 1, "ep": n})(None, q, A, b).x[:n]
    torch.testing.assert_close(x, torch.softmax(c, -1), atol=1e-10, rtol=0.0)
    jacobian = torch.stack([torch.autograd.grad(x[i], c, retain_graph=True)[0] for i in range(n)])
    p = torch.softmax(c.detach(), -1)
    torch.testing.assert_close(jacobian, torch.diag(p) - torch.outer(p, p), atol=1e-9, rtol=0.0)


def test_trace_program_is_the_smallest_eigenvalue():
    """Minimize <C, X>, tr X = 1, X >= 0: X = uu', and dX/dC is that of the eigenvector."""
    C = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    C = C + C.T
    known = parse({"z": 1, "s": [4]})
    trace = svec(torch.eye(4, dtype=torch.float64))
    A = known.rows.to_user(torch.cat([trace.unsqueeze(0), -torch.eye(10, dtype=torch.float64)]).mT).mT
    b = torch.cat([torch.ones(1), torch.zeros(10)]).double()
    q = svec(C).requires_grad_()
    x, z, _ = dcl.ConeLayer({"z": 1, "s": [4]}, on_degenerate="raise")(None, q, A, b)
    values, U = torch.linalg.eigh(C)
    torch.testing.assert_close(smat(x, 4), torch.outer(U[:, 0], U[:, 0]), atol=1e-11, rtol=0.0)
    torch.testing.assert_close(z[0], -values[0], atol=1e-11, rtol=0.0)
    w = torch.arange(10.0, dtype=torch.float64)
    inverse = (U[:, 1:] / (values[0] - values[1:])) @ U[:, 1:].T
    du = U[:, 0].unsqueeze(1) @ (inverse @ smat(w, 4) @ U[:, 0]).unsqueeze(0)
    (grad,) = torch.autograd.grad((w * x).sum(), q)
    torch.testing.assert_close(grad, svec(du + du.T), atol=1e-9, rtol=0.0)


def test_batches_dtypes_and_shared_data():
    cones = CONES["all"]
    (P, q, A, b), (x, z, s) = moreau(cones, 5, batch=(2, 3), n=20)
    result, solution = dcl.ConeLayer(cones)(P, q, A, b, return_solution=True)
    for got, wanted in zip(result, (x, z, s), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=0.0)
    assert solution.status.shape == (2, 3)
    assert len(solution.outputs) == 3
    single = dcl.ConeLayer(cones)(P[1, 2], q[1, 2], A[1, 2], b[1, 2])
    for one, many in zip(single, result, strict=True):
        torch.testing.assert_close(one, many[1, 2], atol=1e-10, rtol=0.0)
    shared = A[0, 0].clone().requires_grad_()
    expanded = A[0, 0].expand(2, 3, -1, -1).clone().requires_grad_()
    near = b[0, 0] + 0.01 * b
    grads = [
        torch.autograd.grad(dcl.ConeLayer(cones)(P[0, 0], q[0, 0], t, near).x.sum(), t)[0] for t in (shared, expanded)
    ]
    torch.testing.assert_close(grads[0], grads[1].sum((0, 1)), atol=1e-7, rtol=1e-7)
    assert dcl.ConeLayer(cones)(*(t[0, 0].float() for t in (P, q, A, b))).z.dtype == torch.float32
    assert dcl.ConeLayer(cones)(P[:, :0], q[:, :0], A[:, :0], b[:, :0]).x.shape == (2, 0, 20)


@pytest.mark.parametrize("solver", [Clarabel(), Scs()], ids=["CLARABEL", "SCS"])
@pytest.mark.parametrize("name", CONES)
def test_claims_of_solvers(name, solver):
    """What the solver's file hands back is in the signs and the order of the waist, before any polishing."""
    known = parse(CONES[name])
    (P, q, A, b), (x, z, _) = moreau(CONES[name], 3)
    m, n = A.shape
    for dense in (True, False):
        structure = Structure(*(pattern_of(*np.divmod(np.arange(r * n), n), (r, n)) for r in (n, m)), known.cone)
        M = known.rows.to_canonical(A, -2)
        values = (P.reshape(1, -1), M.reshape(1, -1))
        if dense:
            structure = Structure(DensePattern((n, n)), DensePattern((m, n)), known.cone)
            values = (P.unsqueeze(0), M.unsqueeze(0))
        program = ConeProgram(structure, values[0], q.unsqueeze(0), values[1], known.rows.to_canonical(b).unsqueeze(0))
        out = Iterates.empty(1, n, m)
        solver.solve(to_host(program), [0], out)
        np.testing.assert_allclose(out.x[0], x.numpy(), atol=2e-4)
        np.testing.assert_allclose(known.rows.to_user(torch.from_numpy(out.z[0])).numpy(), z.numpy(), atol=2e-4)


@pytest.mark.parametrize("name", CONES)
def test_scs_alone_and_warm(name):
    data, (x, _, _) = moreau(CONES[name], 1)
    layer = dcl.ConeLayer(CONES[name], solver="scs")
    solution = layer.solve(*data)
    assert solution.solvers[int(solution.solver)] == "SCS"
    torch.testing.assert_close(solution.x, x, atol=1e-8, rtol=0.0)
    again = layer.solve(*data, warm_start=solution)
    assert int(again.iterations) < int(solution.iterations)


@pytest.mark.parametrize("name", ["second-order", "semidefinite", "exponential", "power", "all"])
def test_sparse_kkt_is_the_dense_one(name):
    known = parse(CONES[name])
    (P, q, A, b), (_, z, s) = moreau(CONES[name], 4, batch=(2,), n=6)
    M, v = known.rows.to_canonical(A, -2), known.rows.to_canonical(z - s)
    m, n = M.shape[1:]
    dense = dcl.ConeLayer(CONES[name]).solve(P, q, A, b)._program.structure
    sparse = Structure(*(pattern_of(*np.divmod(np.arange(r * n), n), (r, n)) for r in (n, m)), known.cone)
    r = torch.randn(3, 2, n + m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nowhere = torch.full_like(v, torch.nan)
    found = []
    for structure, shape in ((dense, None), (sparse, (2, -1))):
        values = (P, M) if shape is None else (P.reshape(shape), M.reshape(shape))
        program = ConeProgram(structure, values[0], q, values[1], known.rows.to_canonical(b))
        for mu in (0.0, torch.full((1, 1), 0.1, dtype=torch.float64)):
            kkt = factorize(program, v, mu, nowhere)
            found.append([*kkt.tangent(r[..., :n], r[..., n:])[:2], *kkt.adjoint(r[..., :n], r[..., n:])[:2]])
    for one, two in zip(found[:2], found[2:], strict=True):
        for got, wanted in zip(one, two, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONES)
def test_on_the_central_path(name):
    data, _ = moreau(CONES[name], 2)
    degree = parse(CONES[name]).cone.degree
    for mu in (1e-6, 1e-3, 1e-1, 1.0, 10.0):
        x, z, s = dcl.ConeLayer(CONES[name], mu=mu)(*data)
        torch.testing.assert_close(z @ s, torch.tensor(mu * degree, dtype=torch.float64), atol=1e-7, rtol=1e-7)
        P, q, A, b = data
        torch.testing.assert_close(A @ x + s, b, atol=1e-7, rtol=0.0)
        torch.testing.assert_close(P @ x + q + A.T @ z, torch.zeros_like(q), atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS"])
def test_infeasible(solver):
    """|x| <= -1 has no point; on |x| <= 1 the smallest x_0 is -1."""
    A = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    b = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    q = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    with pytest.raises(dcl.SolveError) as caught:
        dcl.ConeLayer({"q": [3]}, solver=solver)(None, q, A, b)
    assert caught.value.statuses == [Status.PRIMAL_INFEASIBLE]
    assert caught.value.indices == [(0,)]
    z = caught.value.certificates[0]
    torch.testing.assert_close(b[0] @ z, torch.tensor(-1.0, dtype=torch.float64))
    assert z[0] >= z[1:].norm() - 1e-9
    assert (A.T @ z).abs().max() < 1e-6
    x = dcl.ConeLayer({"q": [3]}, solver=solver, on_failure="nan")(None, q, A, b).x
    assert torch.isnan(x[0]).all()
    torch.testing.assert_close(x[1], torch.tensor([-1.0, 0.0], dtype=torch.float64), atol=1e-8, rtol=0.0)


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS"])
@pytest.mark.parametrize(
    ("cones", "ray"), [({"q": [3]}, [1.0, 0.5, 0.5]), ({"s": [2]}, [1.0, 0.0, 1.0]), ({"ep": 1}, [0.0, 1.0, 2.0])]
)
def test_unbounded(cones, ray, solver):
    """Minimize -c'x on x in K, for c in the interior of K."""
    eye, c = torch.eye(3, dtype=torch.float64), torch.tensor(ray, dtype=torch.float64)
    with pytest.raises(dcl.SolveError) as caught:
        dcl.ConeLayer(cones, solver=solver)(None, -c, -eye, torch.zeros(3, dtype=torch.float64))
    assert caught.value.statuses == [Status.DUAL_INFEASIBLE]
    assert c @ caught.value.certificates[0] > 0.0


@pytest.mark.parametrize(
    ("cones", "error", "words"),
    [
        ({"k": 3}, dcl.OptionError, "unknown cone 'k'; valid keys: z, l, q, s, ep, p"),
        ({"z": -1}, dcl.OptionError, "cones\\['z'\\]"),
        ({"l": 2.5}, dcl.OptionError, "nonnegative integer"),
        ({"q": 3}, dcl.OptionError, "must be a list"),
        ({"s": [2, -1]}, dcl.OptionError, "nonnegative integer"),
        ({"p": [1.5]}, dcl.OptionError, "between 0 and 1"),
        ({"p": [-0.5]}, dcl.UnsupportedError, "dual power"),
        ({"ed": 1}, dcl.UnsupportedError, "dual exponential"),
        ({"bu": [1.0], "bl": [0.0]}, dcl.UnsupportedError, "box"),
        ([("z", 1)], dcl.OptionError, "must be a dict"),
    ],
)
def test_cones_that_are_refused(cones, error, words):
    with pytest.raises(error, match=words):
        dcl.ConeLayer(cones)


def test_cones_of_nothing_are_nothing():
    layer = dcl.ConeLayer({"z": 1, "l": 0, "q": [], "s": [], "ep": 0, "ed": 0, "p": [], "bu": [], "bl": None})
    x = layer(torch.eye(2).double(), torch.zeros(2).double(), torch.ones(1, 2).double(), torch.ones(1).double()).x
    torch.testing.assert_close(x, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_bad_arguments_are_named():
    (P, q, A, b), _ = moreau(CONES["all"], 0, n=5)
    layer = dcl.ConeLayer(CONES["all"])
    bad = b.clone()
    bad[3] = torch.nan
    for arguments, words in (
        ((P, q, A[1:], b), r"A has shape .* the cones \d+ rows"),
        ((P, q, A, bad), r"b\[3\] is nan"),
        ((-torch.eye(5).double(), q, A, b), "P is not positive semidefinite"),
        ((P, q, None, b), "A is missing"),
        ((P[:-1], q, A, b), "P has shape"),
    ):
        with pytest.raises(dcl.InputError, match=words):
            layer(*arguments)
    with pytest.raises(dcl.OptionError, match="PIQP has no exponential, power, second-order, semidefinite cones"):
        dcl.ConeLayer(CONES["all"], solver="PIQP")
    with pytest.raises(dcl.OptionError, match="rho"):
        dcl.ConeLayer(CONES["all"], solver="SCS", solver_args={"rho": 1.0})


def test_rows_have_names():
    known = parse({"z": 1, "l": 1, "q": [3, 2], "s": [2], "ep": 1})
    assert known.describe_row(0) == "row 0 of A (zero)"
    assert known.describe_row(6) == "row 6 of A (second-order cone 1)"
    # the lower triangle by columns: (0, 0), (1, 0), (1, 1), as the upper one has (0, 0), (0, 1), (1, 1)
    assert known.describe_row(8) == "row 8 of A (semidefinite cone 0)"
    assert known.describe_row(11) == "row 11 of A (exponential cone 0)"


def test_named_is_the_inverse_of_blocks():
    for cones in CONES.values():
        cone = parse(cones).cone
        assert named(cone.blocks) == cone
        assert sum(block.rows * block.count for block in cone.blocks) == cone.dim
    with pytest.raises(ValueError, match="out of order"):
        named([Block("exponential", 3), Block("second_order", 3)])


@pytest.mark.parametrize("duplicate", [lambda layer: pickle.loads(pickle.dumps(layer)), copy.deepcopy])
def test_layers_can_be_copied(duplicate):
    data, (x, _, _) = moreau(CONES["all"], 1)
    torch.testing.assert_close(duplicate(dcl.ConeLayer(CONES["all"]))(*data).x, x, atol=1e-8, rtol=0.0)
