"""The KKT system against the plain unsymmetric matrix in NumPy: tangent, adjoint, ties, mu > 0; sparse is dense."""

import numpy as np
import pytest
import torch

import dcl
from dcl.cones import orthant
from dcl.kkt import factorize, residual
from dcl.point.ties import kinks
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import DensePattern, pattern_of

BATCH, N, P, M = 4, 6, 2, 9
EXACT = {"rtol": 1e-9, "atol": 1e-10}
MUS = [0.0, 1.0, 1e-2, 1e-5]
each_mu = pytest.mark.parametrize("mu", MUS)
each_pattern = pytest.mark.parametrize("pattern", ["dense", "sparse"])


def barrier(mu):
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def built(pattern, *, seed=0, shared=(), lp=False):
    """A program with a third of its entries zero, and the same as (P, A) in NumPy."""
    rng = np.random.default_rng(seed)
    mask_P = rng.random((N, N)) < 0.6
    mask_P |= mask_P.T | np.eye(N, dtype=bool)
    mask_A = rng.random((P + M, N)) < 0.7
    L = rng.standard_normal((BATCH, N, N))
    H = np.zeros((BATCH, N, N)) if lp else (L @ L.swapaxes(1, 2) / N) * mask_P + 3.0 * np.eye(N)
    A = rng.standard_normal((BATCH, P + M, N)) * mask_A
    q, b = rng.standard_normal((BATCH, N)), rng.standard_normal((BATCH, P + M))
    H, A = (X[:1] if name in shared else X for name, X in (("P", H), ("A", A)))
    if pattern == "dense":
        patterns, values = (DensePattern((N, N)), DensePattern((P + M, N))), (H, A)
    else:
        places = [np.nonzero(mask) for mask in (mask_P, mask_A)]
        patterns = [pattern_of(*place, mask.shape) for place, mask in zip(places, (mask_P, mask_A), strict=True)]
        values = [X[:, *place] for X, place in zip((H, A), places, strict=True)]
    structure = Structure(*patterns, orthant(P, M))
    program = ConeProgram(structure, *(torch.tensor(X) for X in (values[0], q, values[1], b)))
    return program, np.broadcast_to(H, (BATCH, N, N)), np.broadcast_to(A, (BATCH, P + M, N))


def point(seed=1, *, ties=0, active=3):
    """v with a different number of active rows in each instance, and exact ties."""
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((BATCH, P + M))
    v[:, P:] = -np.abs(v[:, P:]) - 0.1
    for i in range(BATCH):
        rows = P + rng.permutation(M)
        v[i, rows[: max(active - i, 0)]] *= -1.0
        v[i, rows[active : active + ties]] = 0.0
    return torch.tensor(v)


def matrices(H, A, d):
    """K of `dcl.kkt`, instance by instance."""
    eye = np.eye(P + M)
    return [np.block([[Hi, Ai.T * di], [Ai, np.diag(di) - eye]]) for Hi, Ai, di in zip(H, A, d.numpy(), strict=True)]


def sides(lead=(), seed=5):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((*lead, BATCH, N))), torch.tensor(
        rng.standard_normal((*lead, BATCH, P + M))
    )


def expected_d(v, mu):
    """D by its definition."""
    v = v.numpy()
    d = 0.5 * (1.0 + np.sign(v)) if mu == 0.0 else 0.5 * (1.0 + v / np.sqrt(v * v + 4.0 * mu))
    d[:, :P] = 1.0
    return torch.tensor(d)


CASES = {"regular": {}, "ties": {"ties": 2}, "vertex": {"active": 4}, "nothing active": {"active": 0}}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.mark.sample(5)
@pytest.mark.parametrize("lead", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("shared", [(), ("P",), ("A",), ("P", "A")], ids=str)
@each_case
@each_mu
@each_pattern
def test_tangent_and_adjoint_are_those_of_the_plain_matrix(pattern, mu, case, shared, lead):
    program, H, A = built(pattern, shared=shared)
    v = point(**CASES[case])
    kkt = factorize(program, v, barrier(mu), kinks(program, v, barrier(mu)))
    torch.testing.assert_close(kkt.D.d, expected_d(v, mu), rtol=1e-12, atol=1e-12)
    r1, r2 = sides(lead)
    found = [kkt.tangent(r1, r2), kkt.adjoint(r1, r2)]
    r = torch.cat([r1, r2], -1).numpy()
    for transpose, (w1, w2, accuracy) in zip((False, True), found, strict=True):
        w = torch.cat([w1, w2], -1).numpy()
        for i, K in enumerate(matrices(H, A, expected_d(v, mu))):
            K = K.T if transpose else K
            expected = np.linalg.solve(K, r[..., i, :, None])[..., 0]
            np.testing.assert_allclose(
                w[..., i, :], expected, rtol=0, atol=1e-12 * np.linalg.cond(K) * np.abs(expected).max()
            )
        assert accuracy.shape == (*lead, BATCH)
        assert float(accuracy.max()) < 1e-10
    inner = (found[0][0] * r1).sum() + (found[0][1] * r2).sum()
    torch.testing.assert_close((r1 * found[1][0]).sum() + (r2 * found[1][1]).sum(), inner, **EXACT)
    assert not kkt.conditioning.null_a.any()
    assert not kkt.conditioning.null_y.any()


@each_mu
@each_pattern
def test_K_is_the_derivative_of_F(pattern, mu):
    program, _, _ = built(pattern)
    v, x = point(), sides(seed=8)[0]
    dx, dv = sides(seed=9)
    step = 1e-6
    up, down = (residual(program, x + s * step * dx, v + s * step * dv, barrier(mu)) for s in (1, -1))
    r1, r2 = ((a - b) / (2 * step) for a, b in zip(up, down, strict=True))
    kkt = factorize(program, v, barrier(mu), kinks(program, v, barrier(mu)))
    found_x, found_v, _ = kkt.tangent(r1, r2)
    torch.testing.assert_close(found_x, dx, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_v, dv, rtol=1e-5, atol=1e-5)


def test_residual_in_the_signs_of_dcl():
    # min x^2/2 - 3x  s.t.  x <= 1:  x = 1, z = 2, s = 0, v = 2;  and F at x = 0, v = -1
    structure = Structure(DensePattern((1, 1)), DensePattern((1, 1)), orthant(0, 1))
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    program = ConeProgram(structure, one, -3.0 * one[0], one, one[0])
    zero = residual(program, one[0], 2.0 * one[0], 0.0)
    assert [float(t) for t in zero] == [0.0, 0.0]
    off = residual(program, 0.0 * one[0], -1.0 * one[0], 0.0)
    assert [float(t) for t in off] == [-3.0, 0.0]


@each_mu
@each_case
def test_a_sparse_program_is_the_dense_one(case, mu):
    v, (r1, r2) = point(**CASES[case]), sides((2,))
    answers = []
    for pattern in ("dense", "sparse"):
        program, _, _ = built(pattern)
        kkt = factorize(program, v, barrier(mu), kinks(program, v, barrier(mu)))
        answers.append([*kkt.tangent(r1, r2)[:2], *kkt.adjoint(r1, r2)[:2], *residual(program, r1[0], v, barrier(mu))])
    torch.testing.assert_close(answers[0], answers[1], **EXACT)


@each_pattern
def test_a_batch_is_a_loop(pattern):
    program, _, _ = built(pattern)
    v, (r1, r2) = point(ties=1), sides()
    together = factorize(program, v, 0.0, kinks(program, v, 0.0)).adjoint(r1, r2)
    for i in range(BATCH):
        one = program.rows(torch.tensor([i]))
        alone = factorize(one, v[[i]], 0.0, kinks(one, v[[i]], 0.0)).adjoint(r1[[i]], r2[[i]])
        torch.testing.assert_close([t[[i]] for t in together[:2]], list(alone[:2]), **EXACT)


@each_pattern
def test_inactive_rows_do_not_matter(pattern):
    program, _, _ = built(pattern)
    v, (r1, r2) = point(), sides()
    dead = v < 0.0
    dead[:, :P] = False
    dx = factorize(program, v, 0.0, kinks(program, v, 0.0)).tangent(r1, r2)[0]
    other = torch.where(dead, 7.0 * r2, r2)
    torch.testing.assert_close(
        factorize(program, 3.0 * v, 0.0, kinks(program, v, 0.0)).tangent(r1, other)[0], dx, **EXACT
    )
    live = torch.where(dead, r2, 7.0 * r2)
    assert (factorize(program, v, 0.0, kinks(program, v, 0.0)).tangent(r1, live)[0] - dx).abs().amax() > 1e-3


@each_pattern
def test_dependent_rows_and_flat_faces_are_told_apart(pattern):
    program, _, _ = built(pattern, lp=True)
    # only the equalities are active: N - P directions are free
    v = point(active=0)
    flat = factorize(program, v, 0.0, kinks(program, v, 0.0)).conditioning
    assert flat.null_a.tolist() == [N - P] * BATCH
    assert flat.null_y.tolist() == [0] * BATCH
    v = point(active=M)
    v[:, P:] = v[:, P:].abs()
    crowded = factorize(program, v, 0.0, kinks(program, v, 0.0)).conditioning
    assert crowded.null_a.tolist() == [0] * BATCH
    assert crowded.null_y.tolist() == [P + M - N] * BATCH


# Kinks are a matter of the row, not of the largest number in the program


@pytest.mark.parametrize("large", [1e3, 1e6, 1e8, 1e10, 1e15, 1e20, 1e30, 1e100])
@pytest.mark.parametrize("name", ["h", "ub", "lb"])
def test_a_far_bound_does_not_make_ties_of_the_others(name, large):
    # min |x|^2/2 - x1 - 3 x2  s.t.  x1 + x2 <= 1:  x = (-1/2, 3/2), z = 3/2, dx1/dh = 1/2
    h = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    data = {"P": torch.eye(2), "q": torch.tensor([-1.0, -3.0]), "G": torch.ones(1, 2), "h": h}
    data = {k: v.double() for k, v in data.items()}
    if name == "h":
        data["G"] = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        data["h"] = torch.cat([h, torch.full_like(h, large)])
    else:
        data[name] = torch.full((2,), -large if name == "lb" else large, dtype=torch.float64)
    result, solution = dcl.QPLayer()(**data, return_solution=True)
    np.testing.assert_allclose(result.x.detach(), [-0.5, 1.5], rtol=1e-9)
    result.x[0].backward()
    assert float(h.grad) == pytest.approx(0.5, rel=1e-9)
    assert solution.gradient_kind == dcl.GradientKind.EXACT
