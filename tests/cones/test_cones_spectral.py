"""Second-order and semidefinite cones: every law of the interface, against NumPy, differences and the barrier itself."""

import itertools

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import brentq

from dcl.cones import Nonnegative, Product, SecondOrder, Semidefinite, Zero
from dcl.cones.semidefinite import lower_from_upper, smat, svec
from dcl.implicit import kkt_solve, project
from dcl.kkt import factorize, residual
from dcl.point import Point
from dcl.point.ties import kinks, tie_width
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import DensePattern
from dcl.solve.path import follow

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, in jvp

CONES = {
    "ray": SecondOrder(1, 3),
    "SOC(2)": SecondOrder(2, 2),
    "SOC(3)": SecondOrder(3, 2),
    "SOC(6)": SecondOrder(6),
    "PSD(1)": Semidefinite(1, 3),
    "PSD(2)": Semidefinite(2, 2),
    "PSD(4)": Semidefinite(4),
    "product": Product((Zero(2), Nonnegative(2), SecondOrder(3, 2), Semidefinite(3))),
    "no cones": Product((SecondOrder(3, 0), Semidefinite(2, 0), SecondOrder(2))),
}
# Relative to 1 + the size of what is compared, unless stated otherwise.
TOL = {
    "rounding": 1e-12,
    "in the cone": 1e-13,  # relative to |v|
    "difference": 1e-6,  # central, steps of 1e-4 of the distance to the kink
    "solver": 1e-6,
}
MUS = [0.0, 1e-1, 1e-3, 1e-6]
each_cone = pytest.mark.parametrize("name", CONES)
each_mu = pytest.mark.parametrize("mu", MUS)
smooth = pytest.mark.parametrize("mu", MUS[1:])
symmetric = pytest.mark.parametrize("name", ["SOC(2)", "SOC(3)", "SOC(6)", "PSD(2)", "PSD(4)"])

# Eigenvalues of one block of rank k: all regular, but for those that KINKS lists.
SPECTRA = {
    "interior": lambda k: np.linspace(1.0, 2.0, k),
    "exterior": lambda k: -np.linspace(1.0, 2.0, k),
    "boundary": lambda k: np.resize([1.5, -0.5, 0.3, -2.0], k),
    "boundary, other side": lambda k: np.resize([0.2, -3.0], k),
    "repeated": lambda k: np.full(k, 0.7),
    "repeated, negative": lambda k: np.full(k, -0.7),
    "repeated in pairs": lambda k: np.resize([1.0, -2.0], k),
    "nearly repeated": lambda k: 1.0 + 1e-9 * np.arange(k),
    "nearly inactive": lambda k: np.resize([1.0, -1e-3], k),
    "near the apex": lambda k: 1e-5 * np.resize([1.0, -2.0, 3.0, -4.0], k),
    "large": lambda k: 1e4 * np.resize([1.0, -2.0, 3.0, -4.0], k),
}
KINKS = {
    "apex": lambda k: np.zeros(k),
    "edge": lambda k: np.resize([2.0, 0.0], k),
    "edge of the polar": lambda k: np.resize([0.0, -2.0], k),
    "rounded": lambda k: np.resize([1.0, 1e-13], k),
    "double": lambda k: np.resize([0.0, 1.0, 0.0, -1.0], k),
}


BATCH = len(SPECTRA)


def barrier(mu):
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def no_kink(v):
    return torch.full_like(v, torch.nan)


def matrix(values, rng):
    """A symmetric matrix with these eigenvalues in its coordinates, written without `svec`."""
    k = len(values)
    U = np.linalg.qr(rng.standard_normal((k, k)))[0]
    V = U * values @ U.T
    return [V[i, j] * (1.0 if i == j else np.sqrt(2.0)) for j in range(k) for i in range(j + 1)]


def point(cone, spectrum, rng):
    """A vector whose blocks have this spectrum."""
    if isinstance(cone, Product):
        return [t for part in cone.cones for t in point(part, spectrum, rng)]
    if isinstance(cone, SecondOrder):
        out = []
        for _ in range(cone.count):
            if cone.size == 1:
                out += [spectrum(1)[0]]
                continue
            e = rng.standard_normal(cone.size - 1)
            l1, l2 = sorted(spectrum(2), reverse=True)
            out += [(l1 + l2) / 2, *((l1 - l2) / 2 * e / np.linalg.norm(e))]
        return out
    if isinstance(cone, Semidefinite):
        return [t for _ in range(cone.count) for t in matrix(spectrum(cone.order), rng)]
    return list(rng.permutation(spectrum(cone.dim)))


def points(name, spectra=SPECTRA, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(np.array([point(CONES[name], spectrum, rng) for spectrum in spectra.values()]))


def distances(spectra=SPECTRA):
    """Distance of each point from the kinks, (B, 1)."""
    return torch.tensor([[np.abs(spectrum(4)).min()] for spectrum in spectra.values()])


def directions(name, lead=(), seed=1, batch=BATCH):
    return torch.tensor(np.random.default_rng(seed).standard_normal((*lead, batch, CONES[name].dim)))


def close(found, expected, tol, scale=1.0):
    expected = torch.as_tensor(expected)
    error = (found - expected).abs() / (scale + expected.abs())
    assert found.shape == expected.shape
    assert not found.numel() or float(error.max()) <= tol


# ---- the projection -------------------------------------------------------------------------------------------------


def blocks(cone, t):
    """The blocks of t (B, dim) as (cone of one block, rows) in NumPy, product cones taken apart."""
    start = 0
    for part in cone.cones if isinstance(cone, Product) else (cone,):
        count = getattr(part, "count", 1)
        size = part.dim // count if count else 0
        for _ in range(count):
            yield part, t[:, start : start + size].numpy()
            start += size


def unpacked(y, k):
    """The symmetric matrices with coordinates y (B, k (k + 1) / 2), entry by entry."""
    X = np.zeros((len(y), k, k))
    places = [(i, j) for j in range(k) for i in range(j + 1)]
    for place, (i, j) in enumerate(places):
        X[:, i, j] = X[:, j, i] = y[:, place] / (1.0 if i == j else np.sqrt(2.0))
    return X


def smallest(cone, y):
    """The smallest eigenvalue of each row of y: >= 0 in the dual cone."""
    if isinstance(cone, Zero):
        return np.zeros(len(y))
    if isinstance(cone, SecondOrder):
        return y[:, 0] - np.linalg.norm(y[:, 1:], axis=1)
    if isinstance(cone, Semidefinite):
        return np.linalg.eigvalsh(unpacked(y, cone.order))[:, 0]
    return y.min(1)


@pytest.mark.sample(5)
@each_mu
@each_cone
def test_projections_are_in_the_cones_and_complementary(name, mu):
    cone, v = CONES[name], points(name)
    z = cone.project(v, barrier(mu))
    s, size = z - v, 1.0 + v.norm(dim=-1).numpy()
    for t in (z, s):
        for part, y in blocks(cone, t):
            assert (smallest(part, y) >= -TOL["in the cone"] * size).all()
    expected = torch.full((len(v),), mu * cone.degree, dtype=v.dtype)
    close((z * s).sum(-1), expected, TOL["in the cone"] * float(size.max()) ** 2)
    regular = v.norm(dim=-1) < 100.0
    close((z * s).sum(-1)[regular], expected[regular], TOL["rounding"])


@each_cone
def test_degrees_and_dimensions(name):
    degrees = {
        "ray": 6,
        "SOC(2)": 4,
        "SOC(3)": 4,
        "SOC(6)": 2,
        "PSD(1)": 3,
        "PSD(2)": 4,
        "PSD(4)": 4,
        "product": 9,
        "no cones": 2,
    }
    dims = {
        "ray": 3,
        "SOC(2)": 4,
        "SOC(3)": 6,
        "SOC(6)": 6,
        "PSD(1)": 3,
        "PSD(2)": 6,
        "PSD(4)": 10,
        "product": 16,
        "no cones": 2,
    }
    assert CONES[name].degree == degrees[name]
    assert CONES[name].dim == dims[name]
    assert CONES[name].zeros == (2 if name == "product" else 0)


def soc_formula(y):
    """Projection onto {|u| <= t}: v inside, 0 inside the polar, else (t + |u|) / 2 (1, u / |u|)."""
    out = []
    for t, *u in y:
        rho = np.linalg.norm(u)
        if rho <= t:
            out.append([t, *u])
        elif rho <= -t:
            out.append([0.0] * len(y[0]))
        else:
            out.append([(t + rho) / 2, *((t + rho) / 2 * np.array(u) / rho)])
    return np.array(out)


@each_cone
def test_projection_by_other_means(name):
    cone, v = CONES[name], torch.cat([points(name), points(name, KINKS)])
    z = cone.project(v, 0.0)
    for (part, y), (_, found) in zip(blocks(cone, v), blocks(cone, z), strict=True):
        if isinstance(part, SecondOrder):
            np.testing.assert_allclose(found, soc_formula(y), rtol=1e-13, atol=1e-11)
        elif isinstance(part, Semidefinite):
            values, U = np.linalg.eigh(unpacked(y, part.order))
            expected = (U * np.maximum(values, 0.0)[:, None]) @ U.swapaxes(1, 2)
            np.testing.assert_allclose(unpacked(found, part.order), expected, rtol=1e-13, atol=1e-10)


@smooth
@each_cone
def test_z_is_the_gradient_of_the_barrier(name, mu):
    # z = -mu grad phi(s), phi = -log(t^2 - |u|^2) or -log det; s = z - v is exact enough only for points of size one
    cone, v = CONES[name], points(name)
    v = v[v.norm(dim=-1) < 100.0]
    z = cone.project(v, barrier(mu))
    for (part, s), (_, expected) in zip(blocks(cone, z - v), blocks(cone, z), strict=True):
        s = torch.tensor(s, requires_grad=True)
        if isinstance(part, SecondOrder):
            phi = -torch.log(s[:, 0] ** 2 - (s[:, 1:] ** 2).sum(-1))
        elif isinstance(part, Semidefinite):
            phi = -torch.logdet(smat(s, part.order))
        else:
            continue
        (gradient,) = torch.autograd.grad(phi.sum(), s)
        np.testing.assert_allclose(-mu * gradient.numpy(), expected, rtol=1e-6, atol=1e-7)


@each_mu
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_diagonal_matrices_are_the_orthant(order, mu):
    rng = np.random.default_rng(order)
    diagonal = torch.tensor(rng.standard_normal((4, order)))
    matrices = svec(torch.diag_embed(diagonal))
    expected = Nonnegative(order).project(diagonal, barrier(mu))
    close(Semidefinite(order).project(matrices, barrier(mu)), svec(torch.diag_embed(expected)), TOL["rounding"])


@each_mu
def test_a_ray_is_nonnegative_and_2_by_2_is_a_second_order_cone(mu):
    v = torch.tensor(np.random.default_rng(0).standard_normal((5, 3)))
    # degree 2 instead of 1: the barrier of SecondOrder(1) is -2 log t
    close(SecondOrder(1, 3).project(v, barrier(mu)), Nonnegative(3).project(v, barrier(2 * mu)), TOL["rounding"])
    # [[a + b, c], [c, a - b]] is positive semidefinite where |(b, c)| <= a, and its det is a^2 - b^2 - c^2
    M = torch.stack([torch.stack([v[:, 0] + v[:, 1], v[:, 2]], -1), torch.stack([v[:, 2], v[:, 0] - v[:, 1]], -1)], -2)
    Z = smat(Semidefinite(2).project(svec(M), barrier(2 * mu)), 2)
    z = torch.stack([Z[:, 0, 0] + Z[:, 1, 1], Z[:, 0, 0] - Z[:, 1, 1], 2 * Z[:, 0, 1]], -1) / 2
    close(z, SecondOrder(3).project(v, barrier(mu)), TOL["rounding"])


def curved(v):
    """The size of the curvature at v: 1 + 1 / |v|, (B,)."""
    return 1.0 + 1.0 / v.norm(dim=-1).clamp(min=1e-6)


# ---- its derivative --------------------------------------------------------------------------------------------------


def steps(mu):
    return 1e-4 * torch.clamp(distances(), min=np.sqrt(mu) if mu else 0.0)


@pytest.mark.sample(5)
@each_mu
@each_cone
def test_D_is_the_derivative_of_the_projection(name, mu):
    cone, v, w, step = CONES[name], points(name), directions(name), steps(mu)
    up, down = (cone.project(v + sign * step * w, barrier(mu)) for sign in (1, -1))
    close(cone.dproject(v, barrier(mu), no_kink(v)).apply(w), (up - down) / (2 * step), TOL["difference"])


@pytest.mark.sample(5)
@each_mu
@each_cone
def test_curvature_is_the_derivative_of_D(name, mu):
    cone, v, step = CONES[name], points(name), steps(mu)
    a, w, u = (directions(name, seed=k) for k in range(3))
    up, down = (cone.dproject(v + s * step * u, barrier(mu), no_kink(v)).apply(w) for s in (1, -1))
    expected = (a * (up - down)).sum(-1, keepdim=True) / (2 * step)
    found = (cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1, keepdim=True)
    # it grows as 1 / distance from the kink
    close(found, expected, 10 * TOL["difference"], scale=1.0 + 1e-4 / step)


@pytest.mark.sample(5)
@each_mu
@each_cone
def test_curvature_is_symmetric_in_all_three(name, mu):
    cone, v = CONES[name], torch.cat([points(name), points(name, KINKS)])
    vectors = [directions(name, seed=k, batch=len(v)) for k in range(3)]
    forms = [(cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1) for a, w, u in itertools.permutations(vectors)]
    for form in forms[1:]:
        close(form, forms[0], TOL["rounding"], scale=curved(v))


@pytest.mark.sample(5)
@each_mu
@each_cone
def test_D_is_symmetric_between_0_and_I(name, mu):
    cone, v = CONES[name], torch.cat([points(name), points(name, KINKS)])
    D = cone.dproject(v, barrier(mu), no_kink(v))
    w, u = (directions(name, (2,), seed=k, batch=len(v)) for k in (4, 5))
    close((u * D.apply(w)).sum(-1), (D.apply(u) * w).sum(-1), TOL["rounding"])
    assert D.d.shape == v.shape
    assert (D.d >= 0.0).all()
    assert (D.d <= 1.0).all()


@pytest.mark.sample(5)
@each_mu
@each_cone
def test_eigenvectors_of_D_are_orthogonal(name, mu):
    cone, v = CONES[name], torch.cat([points(name), points(name, KINKS)])
    D = cone.dproject(v, barrier(mu), no_kink(v))
    w, u = (directions(name, (2, 3), seed=k, batch=len(v)) for k in (4, 5))
    close(D.from_eigen(D.to_eigen(w)), w, TOL["rounding"])
    close(D.to_eigen(D.from_eigen(w)), w, TOL["rounding"])
    close((D.to_eigen(u) * D.to_eigen(w)).sum(-1), (u * w).sum(-1), TOL["rounding"])
    close(D.apply(w)[1, 2], D.apply(w[1, 2]), TOL["rounding"])


@each_cone
def test_mu_per_instance_is_a_loop(name):
    cone, v, a, w = CONES[name], points(name), directions(name, seed=1), directions(name, seed=2)
    mus = torch.logspace(-6, 0, len(v), dtype=torch.float64).unsqueeze(-1)
    z, D, c = cone.project(v, mus), cone.dproject(v, mus, no_kink(v)).apply(w), cone.curvature_product(v, mus, a, w)
    for i in range(len(v)):
        row, mu, of = v[[i]], mus[[i]], (a[[i]], w[[i]])
        close(z[[i]], cone.project(row, mu), TOL["rounding"])
        close(D[[i]], cone.dproject(row, mu, no_kink(row)).apply(of[1]), TOL["rounding"])
        close(c[[i]], cone.curvature_product(row, mu, *of), TOL["rounding"], scale=curved(row).unsqueeze(-1))


@each_cone
def test_extra_dimensions_of_the_curvature_are_a_loop(name):
    cone, v = CONES[name], points(name)
    a, w = directions(name, (2, 3), seed=1), directions(name, seed=2)
    for mu in (0.0, 1e-2):
        found = cone.curvature_product(v, barrier(mu), a, w)
        size = curved(v).unsqueeze(-1)
        close(found[1, 2], cone.curvature_product(v, barrier(mu), a[1, 2], w), TOL["rounding"], scale=size)
        close(cone.curvature_product(v, barrier(mu), w, a), found, TOL["rounding"], scale=size)


def test_one_bad_instance_leaves_the_others():
    for name in ("SOC(3)", "PSD(2)"):
        cone, v = CONES[name], points(name)
        bad = v.clone()
        bad[3, 0] = torch.nan
        good = torch.arange(len(v)) != 3
        for mu in (0.0, 0.1):
            z = cone.project(bad, barrier(mu))
            assert torch.equal(z[good], cone.project(v, barrier(mu))[good])
            assert torch.isnan(z[3]).any()
            assert torch.isnan(cone.dproject(bad, barrier(mu), no_kink(v)).apply(v)[3]).any()


# ---- kinks -----------------------------------------------------------------------------------------------------------


def simple_eigenvalues(cone, d):
    """The g'(l_i) among the eigenvalues d (B, dim) of D; the others are NaN."""
    out = torch.full_like(d, torch.nan)
    start = 0
    for part in cone.cones if isinstance(cone, Product) else (cone,):
        if isinstance(part, SecondOrder):
            places = [start + k * part.size + i for k in range(part.count) for i in range(min(part.size, 2))]
        elif isinstance(part, Semidefinite):
            size = part.order * (part.order + 1) // 2
            places = [start + k * size + i * (i + 3) // 2 for k in range(part.count) for i in range(part.order)]
        else:
            places = list(range(start, start + part.dim))
        out[:, places] = d[:, places]
        start += part.dim
    return out


def program_at(cone, v, b):
    """A program without variables that matter, whose ties are those of v."""
    structure = Structure(DensePattern((1, 1)), DensePattern((cone.dim, 1)), cone)
    one = torch.ones(1, 1, 1, dtype=v.dtype)
    return ConeProgram(structure, one, one[0], one.expand(1, cone.dim, 1), b.expand_as(v))


@pytest.mark.parametrize("b", [0.0, 1.0, 1e7])
@each_cone
def test_flagged_exactly_where_D_is_one_half(name, b):
    cone = CONES[name]
    rng = np.random.default_rng(3)
    near = [2e-10, 5e-9, 3e-7, 1e-4, 1e-2]
    spectra = {**KINKS, **SPECTRA}
    spectra |= {
        (n, size): lambda k, n=n, size=size: np.resize([size, n, -n, size], k) for n in near for size in (1.0, 50.0)
    }
    v = torch.tensor(np.array([point(cone, spectrum, rng) for spectrum in spectra.values()]))
    program = program_at(cone, v, torch.full((1, 1), b, dtype=v.dtype))
    at_kink = kinks(program, v, 0.0)
    half = simple_eigenvalues(cone, cone.dproject(v, 0.0, at_kink).d) == 0.5
    assert torch.equal(half, at_kink == 0.5)
    # the cone's own tolerance is contained in that of dcl.kkt
    alone = simple_eigenvalues(
        cone, cone.dproject(v, 0.0, torch.where(cone.kink_distance(v) == 0, at_kink, torch.nan)).d
    )
    assert not ((alone == 0.5) & (at_kink != 0.5)).any()
    assert (cone.kink_distance(v)[at_kink == 0.5] <= tie_width(program, v)[at_kink == 0.5]).all()


@symmetric
def test_kink_distance_is_the_smallest_eigenvalue(name):
    cone = CONES[name]
    for spectra in (SPECTRA, KINKS):
        v = points(name, spectra)
        rank = 2 if isinstance(cone, SecondOrder) else cone.order
        expected = torch.tensor([np.abs(spectrum(rank)).min() for spectrum in spectra.values()])
        close(cone.kink_distance(v).amin(-1), expected, 1e-10)
        assert (torch.isfinite(cone.kink_distance(v)).sum(-1) == rank * cone.count).all()


@pytest.mark.parametrize("mu", [1e-4, 1e-8, 1e-12])
@each_cone
def test_D_at_the_kinks_is_the_limit_from_the_barrier(name, mu):
    cone, v = CONES[name], points(name, {k: KINKS[k] for k in KINKS if k != "rounded"})
    w = directions(name, batch=len(v))
    at_kink = torch.where(cone.kink_distance(v) == 0.0, 0.5, torch.nan)
    exact = cone.dproject(v, 0.0, at_kink).apply(w)
    close(cone.dproject(v, barrier(mu), no_kink(v)).apply(w), exact, 5 * np.sqrt(mu) + 1e-7)


@each_cone
def test_at_the_apex_D_is_one_half(name):
    cone = CONES[name]
    v = torch.zeros(1, cone.dim, dtype=torch.float64)
    at_kink = kinks(program_at(cone, v, v[:, :1]), v, 0.0)
    d = cone.dproject(v, 0.0, at_kink).d
    assert torch.equal(d[:, cone.zeros :], torch.full_like(v, 0.5)[:, cone.zeros :])
    assert not cone.project(v, 0.0)[:, cone.zeros :].any()


@each_cone
def test_curvature_is_finite_at_kinks(name):
    cone, v = CONES[name], points(name, KINKS)
    a, w = (directions(name, seed=k, batch=len(v)) for k in (1, 2))
    assert torch.isfinite(cone.curvature_product(v, 0.0, a, w)).all()


@each_cone
def test_scaling_by_blocks_keeps_the_cone(name):
    cone, v = CONES[name], points(name)
    sizes = directions(name, seed=7).abs() + 0.1
    E = cone.equalize(sizes)
    assert (sizes <= E).all()
    for part, block in blocks(cone, E):
        if isinstance(part, (SecondOrder, Semidefinite)):
            assert (block == block[:, :1]).all()
    close(cone.project(E * v, 0.0), E * cone.project(v, 0.0), 1e-11)


# ---- coordinates -----------------------------------------------------------------------------------------------------


def test_the_orders_of_3_by_3_by_hand():
    X = torch.tensor([[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    r = 2.0**0.5
    upper = torch.tensor([1.0, 2 * r, 3.0, 4 * r, 5 * r, 6.0], dtype=torch.float64)
    lower = torch.tensor([1.0, 2 * r, 4 * r, 3.0, 5 * r, 6.0], dtype=torch.float64)
    close(svec(X), upper, TOL["rounding"])
    close(svec(X)[lower_from_upper(3)], lower, TOL["rounding"])
    close(lower[lower_from_upper(3).argsort()], upper, TOL["rounding"])
    close(smat(upper, 3), X, TOL["rounding"])


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_coordinates_are_an_isometry_with_its_adjoint(order):
    rng = np.random.default_rng(order)
    size = order * (order + 1) // 2
    X, y = torch.tensor(rng.standard_normal((2, 4, order, order))), torch.tensor(rng.standard_normal((2, 4, size)))
    close(svec(smat(y, order)), y, TOL["rounding"])
    close(smat(svec(X), order), (X + X.mT) / 2, TOL["rounding"])
    close((svec(X) * y).sum(-1), (X * smat(y, order)).sum((-1, -2)), TOL["rounding"])
    close(smat(y, order).norm(dim=(-1, -2)), y.norm(dim=-1), TOL["rounding"])
    assert sorted(lower_from_upper(order).tolist()) == list(range(size))


def test_the_order_is_that_of_clarabel_and_scs():
    # min |x - a|^2 / 2 over x in the cone, by each solver in its own order
    scs = pytest.importorskip("scs")
    a = np.random.default_rng(0).standard_normal(10)
    expected = Semidefinite(4).project(torch.tensor(a)[None], 0.0)[0].numpy()
    identity = sp.identity(10, format="csc")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.PSDTriangleConeT(4)]
    found = clarabel.DefaultSolver(identity, -a, sp.csc_matrix(-identity), np.zeros(10), cones, settings).solve()
    np.testing.assert_allclose(found.x, expected, atol=TOL["solver"])
    order = lower_from_upper(4).numpy()
    data = {"P": identity, "c": -a[order], "A": sp.csc_matrix(-identity), "b": np.zeros(10)}
    other = scs.SCS(data, {"s": [4]}, verbose=False, eps_abs=1e-9, eps_rel=1e-9).solve()
    np.testing.assert_allclose(other["x"], expected[order], atol=TOL["solver"])


# ---- differentiated further -----------------------------------------------------------------------------------------


def structure_of(cone, n=4):
    return Structure(DensePattern((n, n)), DensePattern((cone.dim, n)), cone)


def leaf(t):
    return t.clone().requires_grad_()


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.1])
@symmetric
def test_projection_twice_differentiable(name, mu):
    cone = CONES[name]
    regular = ["boundary", "repeated", "repeated in pairs", "interior"]
    v = points(name, {kind: SPECTRA[kind] for kind in regular})

    def function(at):
        return project(structure_of(cone), barrier(mu), at, no_kink(v))

    assert torch.autograd.gradcheck(function, (leaf(v),), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (leaf(v),))


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.1])
@symmetric
def test_curvature_differentiable_in_all(name, mu):
    # the third and fourth derivative of the projection, at repeated eigenvalues and u = 0 too
    cone = CONES[name]
    v = points(name, {kind: SPECTRA[kind] for kind in ("boundary", "repeated")})
    a, w = (directions(name, seed=k, batch=len(v)) for k in (1, 2))

    def function(*at):
        return cone.curvature_product(at[0], barrier(mu), at[1], at[2])

    leaves = (leaf(v), leaf(a), leaf(w))
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


# ---- a program with all cones ----------------------------------------------------------------------------------------


ALL = CONES["product"]
N, INSTANCES = 10, 3


def kkt_point(seed=0):
    """A batch of programs and their solution: choose v, set z and s = z - v, then b and q."""
    rng = np.random.default_rng(seed)
    chosen = [SPECTRA[kind] for kind in ("boundary", "boundary, other side", "repeated in pairs")]
    v = torch.tensor(np.array([point(ALL, spectrum, rng) for spectrum in chosen]))
    x, L = torch.tensor(rng.standard_normal((INSTANCES, N))), torch.tensor(rng.standard_normal((INSTANCES, N, N)))
    A, P = torch.tensor(rng.standard_normal((INSTANCES, ALL.dim, N))), L @ L.mT + torch.eye(N, dtype=L.dtype)
    z = ALL.project(v, 0.0)
    b = (A @ x.unsqueeze(-1)).squeeze(-1) + z - v
    q = -(P @ x.unsqueeze(-1) + A.mT @ z.unsqueeze(-1)).squeeze(-1)
    return ConeProgram(structure_of(ALL, N), P, q, A, b), x, v


def difference_matrices(v, mu):
    """D from central differences, (B, m, m)."""
    eye, step = torch.eye(ALL.dim, dtype=v.dtype), 1e-6
    up, down = (torch.stack([ALL.project(v + s * step * e, mu) for e in eye], -1) for s in (1, -1))
    return (up - down) / (2 * step)


@pytest.mark.parametrize("mu", [0.0, 1e-1, 1e-3])
def test_tangent_and_adjoint_are_those_of_the_plain_matrix(mu):
    program, x, v = kkt_point()
    if mu == 0.0:
        for r in residual(program, x, v, 0.0):
            assert float(r.abs().max()) < 1e-11
    kkt = factorize(program, v, barrier(mu), kinks(program, v, barrier(mu)))
    rng = np.random.default_rng(1)
    r1, r2 = (
        torch.tensor(rng.standard_normal((2, INSTANCES, N))),
        torch.tensor(rng.standard_normal((2, INSTANCES, ALL.dim))),
    )
    D = difference_matrices(v, barrier(mu)).numpy()
    right = torch.cat([r1, r2], -1).numpy()
    for transpose, out in ((False, kkt.tangent(r1, r2)), (True, kkt.adjoint(r1, r2))):
        found = torch.cat(out[:2], -1).numpy()
        for i in range(INSTANCES):
            P, A = program.P[i].numpy(), program.A[i].numpy()
            K = np.block([[P, A.T @ D[i]], [A, D[i] - np.eye(ALL.dim)]])
            expected = np.linalg.solve(K.T if transpose else K, right[:, i].T).T
            np.testing.assert_allclose(found[:, i], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert float(out[2].max()) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_kkt_solve_twice_differentiable(mu, adjoint):
    program, _, v = kkt_point(2)
    rng = np.random.default_rng(3)
    r1, r2 = torch.tensor(rng.standard_normal((INSTANCES, N))), torch.tensor(rng.standard_normal((INSTANCES, ALL.dim)))

    def function(P, A, v, r1, r2):
        P, structure = (P + P.mT) / 2, program.structure
        return kkt_solve(structure, barrier(mu), None, P, A, v, no_kink(v), r1, r2, adjoint=adjoint)

    one = slice(0, 1)
    leaves = [leaf(t[one]) for t in (program.P, program.A, v, r1, r2)]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("mu", [1.0, 1e-1, 1e-3, 1e-6])
def test_unit_ball_of_equation_61(mu):
    # min x_1 - mu log(1 - |x|^2) over the ball: x = (-r, 0), 1 = 2 mu r / (1 - r^2)
    r = brentq(lambda r: (1.0 - r * r) - 2.0 * mu * r, 0.0, 1.0, xtol=1e-15)
    if mu == 1e-1:
        assert r == pytest.approx(0.90499, abs=5e-6)
    structure = Structure(DensePattern((2, 2)), DensePattern((3, 2)), SecondOrder(3))
    P, q = torch.zeros(1, 2, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    A = torch.tensor([[[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]], dtype=torch.float64)
    program = ConeProgram(structure, P, q, A, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    # from the solution at mu = 0: x = (-1, 0), s = (1, -1, 0), z = (1, 1, 0)
    x, v = torch.tensor([[-1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64)
    polished = follow(Point(program, x, v), barrier(mu))
    assert polished.x[0].tolist() == pytest.approx([-r, 0.0], abs=1e-9)
