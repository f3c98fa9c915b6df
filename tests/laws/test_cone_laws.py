"""Laws of every cone of `cone_cases.CASES`: the projection, its derivatives, the barrier, kinks, and a program with it.

The laws are those of the docstrings of `dcl.cones.base`.  What a cone is comes from the case, never from dcl: membership in
NumPy, the barrier in torch, derivatives by central differences of what lies one order below.
"""

import itertools

import numpy as np
import pytest
import torch
from cone_cases import CASES, ConeCase

from dcl.cones import Nonnegative, Product, Zero
from dcl.implicit import project
from dcl.kkt import factorize
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import DensePattern

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, in jvp

MUS = [0.0, 1e-1, 1e-3, 1e-6]
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_mu = pytest.mark.parametrize("mu", MUS)
smooth = pytest.mark.parametrize("mu", MUS[1:])
TWICE = {name: case for name, case in CASES.items() if case.twice}


def barrier(mu: float) -> float | torch.Tensor:
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def no_kink(v: torch.Tensor) -> torch.Tensor:
    return torch.full_like(v, torch.nan)


def regular(case: ConeCase) -> torch.Tensor:
    return torch.tensor(case.regular)


def everywhere(case: ConeCase) -> torch.Tensor:
    """Regular points, kinks, and points of all sizes."""
    rng = np.random.default_rng(9)
    sizes = 10.0 ** rng.uniform(-4.0, 4.0, (40, case.cone.dim)) * rng.choice([-1.0, 1.0], (40, case.cone.dim))
    found = [case.regular, sizes] if case.kinks is None else [case.regular, case.kinks, sizes]
    return torch.tensor(np.concatenate(found))


def directions(v: torch.Tensor, lead: tuple[int, ...] = (), seed: int = 1) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((*lead, *v.shape)))


def steps(case: ConeCase, mu: float) -> torch.Tensor:
    """Small beside the distance to the next kink, which the barrier rounds off over sqrt(mu), (B, 1)."""
    return torch.tensor(1e-4 * np.clip(case.distance, np.sqrt(mu), 0.01 if case.accuracy.difference < 1e-6 else None))[
        :, None
    ]


def close(found: torch.Tensor, expected: torch.Tensor, tol: float, scale: float | torch.Tensor = 1.0) -> None:
    assert found.shape == expected.shape
    error = (found - expected).abs() / (scale + expected.abs())
    assert not found.numel() or float(error.max()) <= tol


def curved(v: torch.Tensor) -> torch.Tensor:
    """The size of the curvature at v, which grows towards the apex: 1 + 1 / |v|, (B,)."""
    return 1.0 + 1.0 / v.norm(dim=-1).clamp(min=1e-6)


# The projection


@each_case
def test_what_a_cone_says_of_itself(case):
    cone = case.cone
    assert (cone.dim, cone.degree, cone.zeros) == (case.regular.shape[1], case.degree, case.zeros)
    assert sum(block.rows * block.count for block in cone.blocks) == cone.dim


@pytest.mark.sample(3)
@each_mu
@each_case
def test_z_and_s_are_in_the_cones_and_complementary(case, mu):
    # at mu = 0 this says that z is the nearest point of K* (Moreau)
    v = everywhere(case)
    z = case.cone.project(v, barrier(mu))
    s, size = z - v, v.norm(dim=-1).numpy() + np.sqrt(mu)
    assert (case.dual(z.numpy()) >= -case.accuracy.member * size).all()
    assert (case.primal(s.numpy()) >= -case.accuracy.member * size).all()
    miss = ((z * s).sum(-1) - mu * case.degree).abs().numpy()
    assert (miss <= case.accuracy.complementary * (1.0 + size**2)).all()


@each_case
def test_the_projection_is_idempotent_and_does_not_stretch(case):
    cone, v = case.cone, everywhere(case)
    w = v.roll(1, 0) + directions(v)
    z, size = cone.project(v, 0.0), 1e-13 * (1.0 + v.norm(dim=-1))
    assert ((cone.project(z, 0.0) - z).norm(dim=-1) <= size).all()
    assert ((cone.project(v - z, 0.0)).norm(dim=-1) <= size).all()
    apart = (v - w).norm(dim=-1)
    assert ((z - cone.project(w, 0.0)).norm(dim=-1) <= apart * (1 + 1e-14) + size).all()


@pytest.mark.sample(3)
@smooth
@each_case
def test_z_is_minus_mu_times_the_gradient_of_the_barrier(case, mu):
    # s = z - v is exact enough only for points of size one
    v = regular(case)
    v = v[v.norm(dim=-1) < 100.0]
    z = case.cone.project(v, barrier(mu))
    s = (z - v).requires_grad_()
    (gradient,) = torch.autograd.grad(case.phi(s).sum(), s, materialize_grads=True, allow_unused=True)
    free = case.zeros if case.cone.zeros else 0
    close(z[:, free:], (-mu * gradient)[:, free:], 1e-6, scale=0.1)


@pytest.mark.sample(7)
@each_mu
@pytest.mark.parametrize("t", [1e-9, 1e-2, 7.0, 1e6])
@each_case
def test_the_projection_is_homogeneous(case, t, mu):
    v = everywhere(case)
    size = v.norm(dim=-1, keepdim=True) + np.sqrt(mu)
    scaled = case.cone.project(t * v, barrier(mu * t * t)) / t
    assert not v.numel() or float(((scaled - case.cone.project(v, barrier(mu))).abs() / (1e-9 + size)).max()) <= 1e-13


@each_case
def test_the_barrier_goes_to_the_projection(case):
    cone, v = case.cone, regular(case)[case.distance >= 0.01]
    far, near = ((cone.project(v, barrier(mu)) - cone.project(v, 0.0)).norm(dim=-1) for mu in (1e-6, 1e-7))
    assert (near <= 1e-4 * np.sqrt(v.shape[1] + 1)).all()
    # with slope 1; on the flat faces of the exponential cone it is mu log mu
    assert ((near <= far / 8.0) & (near >= far / 12.0)).all()


@each_case
def test_row_sizes_made_equal_keep_the_cone(case):
    v = regular(case)
    sizes = directions(v, seed=7).abs() + 0.1
    E = case.cone.equalize(sizes)
    assert (sizes <= E).all()
    close(case.cone.project(E * v, 0.0), E * case.cone.project(v, 0.0), 1e-11)
    if case.cone.is_orthant:  # diag(sizes) K = K for every sizes > 0: nothing has to be made equal
        assert torch.equal(E, sizes)


# Its derivatives


@pytest.mark.sample(3)
@each_mu
@each_case
def test_D_is_the_derivative_of_the_projection(case, mu):
    cone, v, step = case.cone, regular(case), steps(case, mu)
    w = directions(v)
    up, down = (cone.project(v + sign * step * w, barrier(mu)) for sign in (1, -1))
    close(cone.dproject(v, barrier(mu), no_kink(v)).apply(w), (up - down) / (2 * step), case.accuracy.difference)


@pytest.mark.sample(3)
@smooth
@each_case
def test_D_and_the_curvature_near_zero(case, mu):
    # where the barrier is all there is: |v| below sqrt(mu)
    cone, v = case.cone, regular(case)
    v = 0.1 * np.sqrt(mu) * v / v.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    w, u, a = (directions(v, seed=k) for k in range(3))
    step = 1e-4 * np.sqrt(mu)

    def D(at):
        return cone.dproject(at, barrier(mu), no_kink(at))

    up, down = (cone.project(v + sign * step * w, barrier(mu)) for sign in (1, -1))
    close(D(v).apply(w), (up - down) / (2 * step), 1e-6)
    expected = ((a * D(v + step * u).apply(w)).sum(-1) - (a * D(v - step * u).apply(w)).sum(-1)) / (2 * step)
    found = (cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1)
    close(found, expected, 1e-6, scale=1.0 / np.sqrt(mu))
    if case.degree:
        assert float(found.abs().min()) > 0.0


@pytest.mark.sample(3)
@each_mu
@each_case
def test_the_curvature_is_the_derivative_of_D(case, mu):
    cone, v, step = case.cone, regular(case), steps(case, mu)
    a, w, u = (directions(v, seed=k) for k in range(3))
    up, down = (cone.dproject(v + s * step * u, barrier(mu), no_kink(v)).apply(w) for s in (1, -1))
    expected = (a * (up - down)).sum(-1, keepdim=True) / (2 * step)
    found = (cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1, keepdim=True)
    close(found, expected, case.accuracy.curvature, scale=1.0 + 1e-4 / step)  # it grows as 1 / distance from the kink


@pytest.mark.sample(7)
@each_mu
@each_case
def test_the_curvature_is_symmetric_in_all_three(case, mu):
    v = everywhere(case)
    vectors = [directions(v, (2,), seed=k) for k in range(3)]
    forms = [
        (case.cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1) for a, w, u in itertools.permutations(vectors)
    ]
    for form in forms[1:]:
        close(form, forms[0], case.accuracy.all_three, scale=curved(v))


@pytest.mark.sample(3)
@each_mu
@each_case
def test_D_is_symmetric_between_0_and_I(case, mu):
    v = everywhere(case)
    D = case.cone.dproject(v, barrier(mu), no_kink(v))
    w, u = (directions(v, (2,), seed=k) for k in (4, 5))
    close((u * D.apply(w)).sum(-1), (D.apply(u) * w).sum(-1), case.accuracy.symmetric)
    assert D.d.shape == v.shape
    assert (D.d >= 0.0).all()
    assert (D.d <= 1.0).all()
    form = (w * D.apply(w)).sum(-1)
    assert (form >= -1e-13).all()
    assert (form <= (w * w).sum(-1) * (1 + 1e-13)).all()


@pytest.mark.sample(3)
@each_mu
@each_case
def test_the_eigenvectors_of_D_are_orthogonal(case, mu):
    v = everywhere(case)
    D = case.cone.dproject(v, barrier(mu), no_kink(v))
    w, u = (directions(v, (2, 3), seed=k) for k in (4, 5))
    close(D.from_eigen(D.to_eigen(w)), w, 1e-12)
    close(D.to_eigen(D.from_eigen(w)), w, 1e-12)
    close((D.to_eigen(u) * D.to_eigen(w)).sum(-1), (u * w).sum(-1), 1e-12)
    assert torch.equal(D.apply(w), D.from_eigen(D.d * D.to_eigen(w)))
    close(D.apply(w)[1, 2], D.apply(w[1, 2]), 1e-12)
    if D.diagonal:
        assert torch.equal(D.to_eigen(w), w)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.1])
@pytest.mark.parametrize("case", TWICE.values(), ids=TWICE)
def test_the_projection_is_twice_differentiable_in_torch(case, mu):
    v = regular(case)[case.distance >= 0.01][:4]
    structure = Structure(DensePattern((1, 1)), DensePattern((case.cone.dim, 1)), case.cone)

    def z(at):
        return project(structure, barrier(mu), at, no_kink(v))

    leaf = v.clone().requires_grad_()
    assert torch.autograd.gradcheck(z, (leaf,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(z, (leaf,))


# Batches


@pytest.mark.sample(3)
@each_case
def test_mu_per_instance_is_a_loop(case):
    cone, v = case.cone, regular(case)
    a, w = directions(v, seed=1), directions(v, seed=2)
    mus = torch.logspace(-6, 0, len(v), dtype=torch.float64).unsqueeze(-1)
    z, D, c = cone.project(v, mus), cone.dproject(v, mus, no_kink(v)).apply(w), cone.curvature_product(v, mus, a, w)
    for i in range(len(v)):
        row, mu, of = v[[i]], mus[[i]], (a[[i]], w[[i]])
        close(z[[i]], cone.project(row, mu), min(case.accuracy.loop, 1e-12))
        close(D[[i]], cone.dproject(row, mu, no_kink(row)).apply(of[1]), min(case.accuracy.loop, 1e-12))
        close(c[[i]], cone.curvature_product(row, mu, *of), case.accuracy.loop, scale=curved(row).unsqueeze(-1))


@each_case
def test_further_dimensions_of_the_curvature_are_a_loop(case):
    cone, v = case.cone, regular(case)
    a, w = directions(v, (2, 3), seed=1), directions(v, seed=2)
    for mu in (0.0, 1e-2):
        found, size = cone.curvature_product(v, barrier(mu), a, w), curved(v).unsqueeze(-1)
        close(found[1, 2], cone.curvature_product(v, barrier(mu), a[1, 2], w), 1e-12, scale=size)
        close(cone.curvature_product(v, barrier(mu), w, a), found, 1e-10, scale=size)


@each_case
def test_one_bad_instance_leaves_the_others(case):
    cone, v = case.cone, regular(case)
    bad, good = v.clone(), torch.arange(len(v)) != 3
    bad[3, -1:] = torch.nan
    for mu in (0.0, 0.1):
        assert torch.equal(cone.project(bad, barrier(mu))[good], cone.project(v, barrier(mu))[good])
        found = (cone.dproject(at, barrier(mu), no_kink(v)).apply(v)[good] for at in (bad, v))
        assert torch.equal(*found)


@pytest.mark.sample(7)
@each_mu
@each_case
def test_a_product_is_its_parts(case, mu):
    parts = (Zero(2), case.cone, Nonnegative(1), case.cone)
    product, sizes = Product(parts), [2, case.cone.dim, 1, case.cone.dim]
    v = torch.cat(
        [torch.ones(len(case.regular), 2), regular(case), -torch.ones(len(case.regular), 1), -regular(case)], -1
    )
    a, w, mu_, at = directions(v, seed=1), directions(v, seed=2), barrier(mu), no_kink(v)
    whole = (product.project(v, mu_), product.dproject(v, mu_, at).apply(w), product.curvature_product(v, mu_, a, w))
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        own = slice(start, start + size)
        start += size
        alone = (
            part.project(v[:, own], mu_),
            part.dproject(v[:, own], mu_, at[:, own]).apply(w[:, own]),
            part.curvature_product(v[:, own], mu_, a[:, own], w[:, own]),
        )
        for found, expected in zip(whole, alone, strict=True):
            assert torch.equal(found[:, own], expected)
        assert torch.equal(product.kink_distance(v)[:, own], part.kink_distance(v[:, own]))


# Kinks


@each_case
def test_kink_distances(case):
    cone, v = case.cone, regular(case)
    near = cone.kink_distance(v).amin(-1) if cone.dim else torch.full((len(v),), torch.inf, dtype=v.dtype)
    assert (near >= 0.1 * torch.tensor(case.distance)).all()
    if cone.dim > cone.zeros:
        assert (cone.kink_distance(torch.tensor(case.kinks)).amin(-1) <= 1e-12).all()


@pytest.mark.parametrize("mu", [1e-8, 1e-12])
@each_case
def test_D_at_a_kink_is_the_limit_of_the_barrier(case, mu):
    cone, v = case.cone, torch.tensor(case.kinks)
    w, distance = directions(v), cone.kink_distance(v)
    tied = distance <= 1e-15
    exactly = (tied | (distance > 1e-6)).all(-1)
    half = cone.dproject(v, 0.0, torch.where(tied, 0.5, torch.nan)).apply(w)
    limit = cone.dproject(v, barrier(mu), no_kink(v)).apply(w)
    close(limit[exactly], half[exactly], 5 * np.sqrt(mu) + 1e-5)


@each_case
def test_the_curvature_is_finite_at_kinks(case):
    v = torch.tensor(case.kinks)
    assert torch.isfinite(case.cone.curvature_product(v, 0.0, directions(v, seed=1), directions(v, seed=2))).all()


# In a program


@pytest.mark.sample(3)
@pytest.mark.parametrize("mu", [0.0, 1e-1, 1e-3])
@each_case
def test_tangent_and_adjoint_are_those_of_the_plain_matrix(case, mu):
    # K = [[P, A'D], [A, D - I]] with D by differences
    rng = np.random.default_rng(3)
    cone = Product((Zero(1), Nonnegative(2), case.cone))
    batch, m = 3, cone.dim
    n = m + 2
    L, A = rng.standard_normal((batch, n, n)), rng.standard_normal((batch, m, n))
    P = L @ L.swapaxes(1, 2) + np.eye(n)
    own = regular(case)[case.distance >= 0.01][:batch]
    v = torch.cat([torch.tensor(rng.choice([-1.0, 1.0], (len(own), 3))), own], -1)
    x, z = torch.tensor(rng.standard_normal((batch, n))), cone.project(v, barrier(mu))
    structure = Structure(DensePattern((n, n)), DensePattern((m, n)), cone)
    blank = ConeProgram(structure, torch.tensor(P), torch.zeros_like(x), torch.tensor(A), torch.zeros_like(v))
    program = ConeProgram(structure, blank.P, -(blank.Px(x) + blank.ATz(z)), blank.A, blank.Ax(x) + z - v)
    kkt = factorize(program, v, barrier(mu), no_kink(v))
    gx, gv = torch.tensor(rng.standard_normal((batch, n))), torch.tensor(rng.standard_normal((batch, m)))
    h, eye = 1e-6, torch.eye(m, dtype=v.dtype)
    D = torch.stack(
        [(cone.project(v + h * e, barrier(mu)) - cone.project(v - h * e, barrier(mu))) / (2 * h) for e in eye], -1
    )
    for transpose, (first, second, *_) in ((False, kkt.tangent(gx, gv)), (True, kkt.adjoint(gx, gv))):
        for i in range(batch):
            K = np.block([[P[i], A[i].T @ D[i].numpy()], [A[i], D[i].numpy() - np.eye(m)]])
            known = np.linalg.solve(K.T if transpose else K, torch.cat([gx[i], gv[i]]).numpy())
            found = torch.cat([first[i], second[i]]).numpy()
            assert np.abs(known - found).max() <= 1e-6 * np.abs(known).max()
