"""Laws of every cone: projection, its derivatives, the barrier; against high precision and finite differences."""

import itertools
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from dcl.cones import Nonnegative, Product, Zero, orthant

CONES = {
    "zero": Zero(3),
    "nonnegative": Nonnegative(4),
    "orthant": orthant(2, 3),
    "only zeros": orthant(3, 0),
    "only nonnegatives": orthant(0, 4),
    "nested": Product((orthant(1, 2), Nonnegative(2))),
    "empty": orthant(0, 0),
}
DEGREES = {"zero": 0, "nonnegative": 4, "orthant": 3, "only zeros": 0, "only nonnegatives": 4, "nested": 4, "empty": 0}
# leading rows that are free in the dual and zero in the primal; the others are nonnegative in both
FREE = {"zero": 3, "orthant": 2, "only zeros": 3, "nested": 1}
MUS = [0.0, 1e-1, 1e-3, 1e-6]
each_cone = pytest.mark.parametrize("name", CONES)
each_mu = pytest.mark.parametrize("mu", MUS)
smooth = pytest.mark.parametrize("mu", MUS[1:])
BATCH = 6


def barrier(mu):
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def points(name, seed=0, batch=BATCH):
    """Points away from the kinks, of all signs and sizes."""
    rng = np.random.default_rng(seed)
    shape = (batch, CONES[name].dim)
    return torch.tensor(rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-1.0, 2.0, shape))


def directions(name, lead=(), seed=1):
    return torch.tensor(np.random.default_rng(seed).standard_normal((*lead, BATCH, CONES[name].dim)))


def no_kink(v):
    return torch.full_like(v, torch.nan)


@each_mu
@each_cone
def test_projections_are_in_the_cones_and_complementary(name, mu):
    cone, v = CONES[name], points(name)
    z = cone.project(v, barrier(mu))
    s, free = z - v, FREE.get(name, 0)
    assert not s[:, :free].any()
    assert (z[:, free:] >= 0.0).all()
    assert (s[:, free:] >= 0.0).all()
    torch.testing.assert_close(
        (z * s).sum(-1), torch.full((BATCH,), mu * DEGREES[name], dtype=v.dtype), rtol=1e-8, atol=1e-10
    )
    assert cone.degree == DEGREES[name]
    assert cone.dim == v.shape[-1]
    assert cone.zeros == free


@each_cone
def test_projection_is_the_nearest_point(name):
    cone, v = CONES[name], points(name)
    z, free = cone.project(v, 0.0), FREE.get(name, 0)
    others = directions(name, (50,)) * 10.0
    others[..., free:] = others[..., free:].abs()
    assert ((v - z).norm(dim=-1) <= (v - others).norm(dim=-1)).all()
    torch.testing.assert_close(cone.project(z, 0.0), z, rtol=0, atol=0)


@pytest.mark.sample(5)
@pytest.mark.parametrize("mu", [1.0, 1e-3, 1e-12, 1e6])
@pytest.mark.parametrize("v", [0.0, 1e-9, 1.0, 1e4, 1e12, 1e150, -1e-9, -1.0, -1e4, -1e12, -1e150])
def test_accuracy_at_the_ends(v, mu):
    # z (z - v) = mu, z > 0, in 400 digits
    with localcontext() as context:
        context.prec = 400
        exact_v, exact_mu = Decimal(v), Decimal(mu)
        root = (exact_v * exact_v + 4 * exact_mu).sqrt()
        z, d = (exact_v + root) / 2, (1 + exact_v / root) / 2
        complement = 1 - d
        expected = [float(z), float(d), float(complement), float(2 * exact_mu / root**3)]
    cone, vs = Nonnegative(1), torch.tensor([[v]], dtype=torch.float64)
    one = torch.ones_like(vs)
    found_z = cone.project(vs, barrier(mu))
    found_d = cone.dproject(vs, barrier(mu), no_kink(vs)).d
    assert float(found_z) == pytest.approx(expected[0], rel=4e-16, abs=0)
    assert float(found_d) == pytest.approx(expected[1], rel=4e-16, abs=0)
    assert float(1.0 - found_d) == pytest.approx(expected[2], rel=1e-9, abs=3e-16)
    if abs(v) < 1e100:  # v^3 does not fit
        assert float(cone.curvature_product(vs, barrier(mu), one, one)) == pytest.approx(expected[3], rel=1e-14, abs=0)


@each_mu
@each_cone
def test_D_is_the_derivative_of_the_projection(name, mu):
    cone, v, w = CONES[name], points(name), directions(name)
    step = 1e-6 * max(v.abs().min().item() if v.numel() else 1.0, 0.1)
    up, down = (cone.project(v + sign * step * w, barrier(mu)) for sign in (1, -1))
    found = cone.dproject(v, barrier(mu), no_kink(v)).apply(w)
    torch.testing.assert_close(found, (up - down) / (2 * step), rtol=1e-6, atol=1e-7)


@smooth
@each_cone
def test_D_is_the_derivative_near_zero_too(name, mu):
    cone, w = CONES[name], directions(name)
    v = points(name) * np.sqrt(mu) * 0.1
    step = 1e-4 * np.sqrt(mu)
    up, down = (cone.project(v + sign * step * w, barrier(mu)) for sign in (1, -1))
    found = cone.dproject(v, barrier(mu), no_kink(v)).apply(w)
    torch.testing.assert_close(found, (up - down) / (2 * step), rtol=1e-6, atol=1e-7)


@smooth
@each_cone
def test_curvature_is_the_derivative_of_D(name, mu):
    cone, a, w, u = CONES[name], directions(name, seed=1), directions(name, seed=2), directions(name, seed=3)
    v = points(name) * np.sqrt(mu) * 0.1
    step = 1e-4 * np.sqrt(mu)

    def form(at):
        return (a * cone.dproject(at, barrier(mu), no_kink(at)).apply(w)).sum(-1)

    expected = (form(v + step * u) - form(v - step * u)) / (2 * step)
    found = (cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 / np.sqrt(mu))
    if cone.degree:
        assert float(found.abs().min()) > 0.0


@each_mu
@each_cone
def test_curvature_is_symmetric_in_all_three(name, mu):
    cone, v = CONES[name], points(name) * np.sqrt(max(mu, 1e-3))
    vectors = [directions(name, seed=k) for k in range(3)]
    forms = [(cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1) for a, w, u in itertools.permutations(vectors)]
    for form in forms[1:]:
        torch.testing.assert_close(form, forms[0], rtol=1e-12, atol=1e-12)


@each_mu
@each_cone
def test_D_is_symmetric_between_0_and_I(name, mu):
    cone, v = CONES[name], points(name)
    D = cone.dproject(v, barrier(mu), no_kink(v))
    w, u = directions(name, (2,), seed=4), directions(name, (2,), seed=5)
    torch.testing.assert_close((u * D.apply(w)).sum(-1), (D.apply(u) * w).sum(-1), rtol=1e-13, atol=1e-13)
    form = (w * D.apply(w)).sum(-1)
    assert (form >= 0.0).all()
    assert (form <= (w * w).sum(-1) * (1 + 1e-14)).all()
    assert (D.d >= 0.0).all()
    assert (D.d <= 1.0).all()


@each_mu
@each_cone
def test_eigenvectors_of_D_are_orthogonal(name, mu):
    cone, v = CONES[name], points(name)
    D = cone.dproject(v, barrier(mu), no_kink(v))
    w, u = directions(name, (2,), seed=4), directions(name, (2,), seed=5)
    torch.testing.assert_close(D.from_eigen(D.to_eigen(w)), w, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close((D.to_eigen(u) * D.to_eigen(w)).sum(-1), (u * w).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(D.apply(w), D.from_eigen(D.d * D.to_eigen(w)), rtol=0, atol=0)
    if D.diagonal:
        assert torch.equal(D.to_eigen(w), w)


def test_kinks_take_the_value_they_are_given():
    cone = orthant(1, 4)
    v = torch.tensor([[0.0, 0.0, 1e-12, -1e-12, -2.0]], dtype=torch.float64)
    at_kink = torch.tensor([[torch.nan, 0.5, 0.25, 1.0, torch.nan]], dtype=torch.float64)
    assert cone.dproject(v, 0.0, at_kink).d.tolist() == [[1.0, 0.5, 0.25, 1.0, 0.0]]
    assert cone.kink_distance(v).tolist() == [[torch.inf, 0.0, 1e-12, 1e-12, 2.0]]


@pytest.mark.parametrize("mu", [1e-4, 1e-8, 1e-12])
def test_one_half_is_the_limit_at_the_kink(mu):
    v = torch.zeros(1, 1, dtype=torch.float64)
    assert float(Nonnegative(1).dproject(v, barrier(mu), no_kink(v)).d) == 0.5


@each_cone
def test_the_barrier_goes_to_the_projection(name):
    cone, v = CONES[name], points(name)
    far, near = (float((cone.project(v, barrier(mu)) - cone.project(v, 0.0)).norm()) for mu in (1e-3, 1e-5))
    assert near <= 1e-4 * np.sqrt(v.numel() + 1)
    assert near == pytest.approx(far / 100, rel=0.2) or far == 0.0


@each_cone
def test_mu_per_instance_is_a_loop(name):
    cone, v, a, w = CONES[name], points(name), directions(name, seed=1), directions(name, seed=2)
    mus = torch.logspace(-6, 0, BATCH, dtype=torch.float64).unsqueeze(-1)
    z, D, c = cone.project(v, mus), cone.dproject(v, mus, no_kink(v)).apply(w), cone.curvature_product(v, mus, a, w)
    for i in range(BATCH):
        row, mu = v[i : i + 1], mus[i : i + 1]
        torch.testing.assert_close(z[i : i + 1], cone.project(row, mu), rtol=4e-16, atol=0)
        torch.testing.assert_close(
            D[i : i + 1], cone.dproject(row, mu, no_kink(row)).apply(w[i : i + 1]), rtol=4e-16, atol=0
        )
        torch.testing.assert_close(
            c[i : i + 1], cone.curvature_product(row, mu, a[i : i + 1], w[i : i + 1]), rtol=4e-16, atol=0
        )


@each_mu
def test_a_product_is_its_parts(mu):
    parts = (Zero(2), Nonnegative(1), Nonnegative(3))
    product = Product(parts)
    v, a, w = (torch.tensor(np.random.default_rng(k).standard_normal((BATCH, 6))) for k in range(3))
    slices = [slice(0, 2), slice(2, 3), slice(3, 6)]
    for s, cone in zip(slices, parts, strict=True):
        kink = no_kink(v)
        mu_ = barrier(mu)
        assert torch.equal(product.project(v, mu_)[:, s], cone.project(v[:, s], mu_))
        assert torch.equal(product.dproject(v, mu_, kink).d[:, s], cone.dproject(v[:, s], mu_, kink[:, s]).d)
        assert torch.equal(
            product.curvature_product(v, mu_, a, w)[:, s], cone.curvature_product(v[:, s], mu_, a[:, s], w[:, s])
        )
        assert torch.equal(product.kink_distance(v)[:, s], cone.kink_distance(v[:, s]))


@each_cone
def test_rows_of_these_cones_may_be_scaled(name):
    # diag(sizes) K = K for every sizes > 0: nothing has to be made equal
    sizes = points(name).abs()
    assert torch.equal(CONES[name].equalize(sizes), sizes)
