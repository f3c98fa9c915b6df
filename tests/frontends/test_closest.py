"""The closest feasible program of dcl.compat.proxsuite, against closed forms and two solves by Clarabel itself.

The reference never sees dcl: the least shifts by one quadratic program, the answer under the shifted constraints by another,
in the null space of the equalities and violated rows, and gradients by finite differences of the two together.
"""

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import dcl
from dcl.compat import proxsuite

EMPTY = torch.tensor([])
NAMES = "QpAbGlu"


def tensor(array):
    return torch.tensor(np.asarray(array, dtype=float))


def close(a, b, tolerance=1e-8):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def qp(P, q, A, b, G, h):
    """x, y, z of min 1/2 x'Px + q'x, Ax = b, Gx <= h, by Clarabel."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    finite = np.isfinite(h)
    rows = sp.csc_array(np.concatenate([A, G[finite]]))
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(int(finite.sum()))]
    solver = clarabel.DefaultSolver(sp.csc_array(np.triu(P)), q, rows, np.concatenate([b, h[finite]]), cones, settings)
    solution = solver.solve()
    z = np.zeros(len(h))
    z[finite] = solution.z[len(b) :]
    return np.array(solution.x), np.array(solution.z[: len(b)]), z


def reference(Q, p, A, b, G, l, u):  # noqa: E741
    """x, s_e, s_i and the violated rows of [G; -G], in two stages."""
    n, k, m = len(p), len(b), len(u)
    C, h = np.concatenate([G, -G]), np.concatenate([u, -l])
    P = np.diag(np.concatenate([np.zeros(n), np.ones(k + 2 * m)]))
    rows = np.concatenate([A, C])
    shifts = -np.eye(k + 2 * m)
    stage, *_ = qp(P, np.zeros(n + k + 2 * m), np.hstack([rows, shifts])[:k], b, np.hstack([rows, shifts])[k:], h)
    s = stage[n + k :]
    violated = s > 1e-6
    E, e = np.concatenate([A, C[violated]]), np.concatenate([b, h[violated]])
    start, _, rank, _ = np.linalg.lstsq(E, e, rcond=1e-9)
    Z = np.linalg.svd(E)[2][rank:].T
    x = start
    if Z.size:
        others = C[~violated]
        none = np.zeros((0, Z.shape[1]))
        w, *_ = qp(Z.T @ Q @ Z, Z.T @ (Q @ start + p), none, np.zeros(0), others @ Z, h[~violated] - others @ start)
        x = start + Z @ w
    s_i = np.where(violated, C @ x - h, 0.0)
    return x, A @ x - b, s_i[:m] - s_i[m:], violated


def draw(seed, n, k, m, clash):
    """A program that contradicts itself in the given number of ways: l > u, or an equality beside another."""
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((n, n))
    A, G, x = rng.standard_normal((k, n)), rng.standard_normal((m, n)), rng.standard_normal(n)
    b = A @ x
    width = rng.uniform(0.2, 1.0, m)
    lower, upper = G @ x - width, G @ x + rng.uniform(0.2, 1.0, m)
    if clash in ("bounds", "both"):
        lower[0], upper[0] = upper[0] + 0.7, lower[0]
        G[1], lower[1], upper[1] = G[0], -np.inf, upper[0] - 0.3
    if clash == "overdetermined":
        b = b + rng.standard_normal(k)
    if clash in ("equalities", "both"):
        A[1] = A[0]
        b[1] = b[0] + 0.5
    return dict(zip(NAMES, (L @ L.T + 0.1 * np.eye(n), rng.standard_normal(n), A, b, G, lower, upper), strict=True))


CASES = [
    (0, 5, 2, 4, "bounds"),
    (1, 5, 2, 4, "equalities"),
    (2, 6, 3, 4, "both"),
    (3, 2, 4, 3, "overdetermined"),
    (4, 3, 0, 8, "bounds"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_answers_against_two_solves(case):
    data = draw(*case)
    x, _, _, s_e, s_i = proxsuite.QPFunction(structural_feasibility=False)(*(tensor(t) for t in data.values()))
    known = reference(**data)
    for got, want in zip((x, s_e, s_i), known, strict=False):
        close(got[0], tensor(want), 1e-7)
    assert max(np.abs(known[1]).max(initial=0.0), np.abs(known[2]).max(initial=0.0)) > 0.01


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_against_differences_of_two_solves(case):
    """Along directions that keep dependent rows dependent: A and G only where the violated rows are so for all data."""
    data = draw(*case)
    rng = np.random.default_rng(9)
    weights = [rng.standard_normal(len(data[name])) for name in ("p", "b", "u")]

    def loss(data):
        return sum(float(w @ t) for w, t in zip(weights, reference(**data), strict=False))

    names = NAMES if case[-1] == "overdetermined" else "Qpblu"
    leaves = {name: tensor(t).requires_grad_(name in names) for name, t in data.items()}
    x, _, _, s_e, s_i = proxsuite.QPFunction(structural_feasibility=False)(*leaves.values())
    outputs = sum((tensor(w) * t[0]).sum() for w, t in zip(weights, (x, s_e, s_i), strict=True))
    grads = torch.autograd.grad(outputs, [leaves[name] for name in names], materialize_grads=True)
    found = dict(zip(names, grads, strict=True))
    for name in names:
        for _ in range(3):
            step = rng.standard_normal(data[name].shape)
            step = step + step.T if name == "Q" else step
            up, down = ({**data, name: data[name] + sign * 1e-5 * step} for sign in (1.0, -1.0))
            difference = (loss(up) - loss(down)) / 2e-5
            computed = float((found[name] * tensor(np.where(np.isfinite(data[name]), step, 0.0))).sum())
            assert computed == pytest.approx(difference, rel=1e-4, abs=1e-4), name
    assert max(float(g.abs().sum()) for g in found.values()) > 0.1


def test_stationarity_and_the_shortest_multipliers():
    """Qx + p + A'lams + G'nus = 0, and (lams, nus) orthogonal to the shifts."""
    Q, p, A, b, G, lower, upper = (tensor(t) for t in draw(*CASES[2]).values())
    x, lams, nus, s_e, s_i = (
        t[0] for t in proxsuite.QPFunction(structural_feasibility=False)(Q, p, A, b, G, lower, upper)
    )
    close(Q @ x + p + A.T @ lams + G.T @ nus, torch.zeros_like(p))
    free = s_i == 0
    assert bool((nus[free & (G @ x > lower + 1e-6)] >= 0).all())
    assert bool((nus[free & (G @ x < upper - 1e-6)] <= 0).all())
    # E's = 0: the shifts balance
    close(A.T @ s_e + G.T @ s_i, torch.zeros_like(p))


def test_closed_forms():
    """Parallel lines: halfway; weights of rows count squared (the 2-norm of the shifts, not of x)."""
    eye, e = torch.eye(2).double(), EMPTY
    lines, offsets = tensor([[1.0, 0.0], [10.0, 0.0]]), tensor([2.0, 10.0]).requires_grad_()
    p = tensor([-7.0, -3.0]).requires_grad_()
    x, lams, _, s_e, _ = proxsuite.QPFunction(structural_feasibility=False)(eye, p, lines, offsets, e, e, e)
    t = (2.0 + 100.0) / 101.0
    close(x[0], tensor([t, 3.0]))
    close(s_e[0], tensor([t - 2.0, 10.0 * t - 10.0]))
    close(lams[0] @ s_e[0], tensor(0.0))
    close(torch.autograd.grad(x[0, 0], offsets, retain_graph=True)[0], tensor([1.0, 10.0]) / 101.0)
    close(torch.autograd.grad(s_e[0, 0], offsets, retain_graph=True)[0], tensor([-100.0, 10.0]) / 101.0)
    close(torch.autograd.grad(x[0].sum(), p)[0], tensor([0.0, -1.0]))


def test_rows_of_very_different_units():
    """10^10 x_1 = 10^10 and x_1 = 2 beside x_2 + x_3 = 1, x_2 + x_3 = 3: the first wins by 10^20, the others meet halfway."""
    A = tensor([[1e10, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    b = tensor([1e10, 2.0, 1.0, 3.0]).requires_grad_()
    function = proxsuite.QPFunction(structural_feasibility=False)
    x, _, _, s_e, _ = function(torch.eye(3).double(), torch.zeros(3).double(), A, b, EMPTY, EMPTY, EMPTY)
    close(x[0].detach(), tensor([1.0, 1.0, 1.0]))
    close(s_e[0, 1:].detach(), tensor([-1.0, 1.0, -1.0]))
    close(1e10 * torch.autograd.grad(x[0, 0], b, retain_graph=True)[0][0], tensor(1.0))
    close(torch.autograd.grad(x[0, 1], b)[0][2:], tensor([0.25, 0.25]))


def test_one_row_with_crossed_bounds():
    """l > u: Gx = (l + u) / 2, for every G, so that the gradient in G is that of this equality."""
    Q, p = torch.eye(2).double(), tensor([0.5, -1.0])
    G, lower, upper = (t.requires_grad_() for t in (tensor([[1.0, 2.0]]), tensor([3.0]), tensor([1.0])))
    x, _, nus, _, s_i = proxsuite.QPFunction(structural_feasibility=False)(Q, p, EMPTY, EMPTY, G, lower, upper)
    # the projection of -p onto {Gx = t}
    t = 0.5 * (lower + upper)
    known = -p + G[0] * (t + G[0] @ p) / (G[0] @ G[0])
    close(x[0].detach(), known.detach())
    close(s_i[0].detach(), tensor([0.0]))  # 1 above u less 1 below l
    close(nus[0, 0].detach(), ((-(x[0] + p)) @ G[0] / (G[0] @ G[0])).detach())
    for k in range(2):
        got, want = (torch.autograd.grad(v[k], (G, lower, upper), retain_graph=True) for v in (x[0], known))
        for a, b in zip(got, want, strict=True):
            close(a, b)


def test_feasible_and_infeasible_instances_in_one_batch():
    data = [
        draw(*case) for case in ((5, 4, 2, 3, ""), (6, 4, 2, 3, "bounds"), (7, 4, 2, 3, ""), (8, 4, 2, 3, "equalities"))
    ]
    stacked = [torch.stack([tensor(d[name]) for d in data]).requires_grad_() for name in NAMES]
    with pytest.warns(dcl.DegenerateWarning, match=r"linearly dependent.*at batch index \(3,\)"):
        outputs = proxsuite.QPFunction(structural_feasibility=False)(*stacked)
    for i, d in enumerate(data):
        singles = [tensor(t).requires_grad_() for t in d.values()]
        if i % 2 == 0:
            alone = proxsuite.QPFunction()(*singles)
            assert not bool(outputs[3][i].any() | outputs[4][i].any())
        else:
            with torch.no_grad():
                alone = proxsuite.QPFunction(structural_feasibility=False)(*singles)
        for a, b in zip(outputs, alone, strict=False):
            close(a[i].detach(), b[0].detach())
        if i % 2 == 0:
            want = torch.autograd.grad(alone[0].sum(), singles)
            got = torch.autograd.grad(outputs[0][i].sum(), stacked, retain_graph=True)
            for a, b in zip(got, want, strict=True):
                close(a[i], b)


def test_shared_data_and_float32():
    """Gradients of what a batch shares are sums; float32 in is float32 out."""
    lower, upper = torch.tensor([[1.0], [-1.0], [2.0]]), torch.zeros(1, requires_grad=True)
    p = torch.tensor([[0.0], [1.0], [0.0]])  # the second stays inside, at -1/2 ... 0
    x, *rest = proxsuite.QPFunction(structural_feasibility=False)(
        2.0 * torch.eye(1), p, EMPTY, EMPTY, torch.ones(1, 1), lower, upper
    )
    torch.testing.assert_close(x.detach(), torch.tensor([[0.5], [-0.5], [1.0]]))
    assert {t.dtype for t in rest} == {torch.float32}
    x.sum().backward()
    torch.testing.assert_close(upper.grad, torch.tensor([0.5 + 0.0 + 0.5]))


def test_an_unbounded_closest_program_is_an_error():
    A, b = tensor([[1.0, 0.0], [1.0, 0.0]]), tensor([[0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(
        dcl.SolveError, match=r"closest feasible program is DUAL_INFEASIBLE at batch index \(0,\)"
    ) as error:
        proxsuite.QPFunction(structural_feasibility=False)(
            torch.zeros(2, 2).double(), tensor([[0.0, 1.0], [0.0, 0.0]]), A, b, EMPTY, EMPTY, EMPTY
        )
    assert error.value.indices == [(0,)]
    assert error.value.statuses == [dcl.Status.DUAL_INFEASIBLE]


def test_doubts_are_said_once():
    lines = tensor([[1.0, 0.0], [1.0, 0.0]]).requires_grad_()
    function = proxsuite.QPFunction(structural_feasibility=False)
    args = (torch.eye(2).double(), tensor([0.0, 1.0]), lines, tensor([0.0, 1.0]), EMPTY, EMPTY, EMPTY)
    with pytest.warns(dcl.DegenerateWarning, match="parallel lines") as said:
        x, *_ = function(*args)
    assert [w.filename for w in said] == [__file__]
    function(*args)
    close(x[0].detach(), tensor([0.5, -1.0]))
