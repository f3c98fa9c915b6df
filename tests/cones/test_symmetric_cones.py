"""Second-order and semidefinite cones, beyond the laws of every cone: formulas, kinks, coordinates, the ball of eq. 61."""

import clarabel
import cone_cases
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cone_cases import CASES, SPECTRA, TIES, point
from scipy.optimize import brentq

from dcl.cones import Nonnegative, Product, SecondOrder, Semidefinite
from dcl.cones.semidefinite import lower_from_upper, smat, svec
from dcl.implicit import kkt_solve
from dcl.point import Point
from dcl.point.ties import kinks, tie_width
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import DensePattern
from dcl.solve.path import follow

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, in jvp

NAMES = ("ray", "SOC(2)", "SOC(3)", "SOC(6)", "PSD(1)", "PSD(2)", "PSD(4)", "product", "no cones")
CONES = {name: CASES[name].cone for name in NAMES}
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

BATCH = len(SPECTRA)


def barrier(mu):
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def no_kink(v):
    return torch.full_like(v, torch.nan)


def points(name, spectra=SPECTRA):
    return torch.tensor(cone_cases.points(CONES[name], spectra))


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
    cone, v = CONES[name], torch.cat([points(name), points(name, TIES)])
    z = cone.project(v, 0.0)
    for (part, y), (_, found) in zip(blocks(cone, v), blocks(cone, z), strict=True):
        if isinstance(part, SecondOrder):
            np.testing.assert_allclose(found, soc_formula(y), rtol=1e-13, atol=1e-11)
        elif isinstance(part, Semidefinite):
            values, U = np.linalg.eigh(unpacked(y, part.order))
            expected = (U * np.maximum(values, 0.0)[:, None]) @ U.swapaxes(1, 2)
            np.testing.assert_allclose(unpacked(found, part.order), expected, rtol=1e-13, atol=1e-10)


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


# ---- its derivative --------------------------------------------------------------------------------------------------


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
    spectra = {**TIES, **SPECTRA}
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
    for spectra in (SPECTRA, TIES):
        v = points(name, spectra)
        rank = 2 if isinstance(cone, SecondOrder) else cone.order
        expected = torch.tensor([np.abs(spectrum(rank)).min() for spectrum in spectra.values()])
        close(cone.kink_distance(v).amin(-1), expected, 1e-10)
        assert (torch.isfinite(cone.kink_distance(v)).sum(-1) == rank * cone.count).all()


@each_cone
def test_at_the_apex_D_is_one_half(name):
    cone = CONES[name]
    v = torch.zeros(1, cone.dim, dtype=torch.float64)
    at_kink = kinks(program_at(cone, v, v[:, :1]), v, 0.0)
    d = cone.dproject(v, 0.0, at_kink).d
    assert torch.equal(d[:, cone.zeros :], torch.full_like(v, 0.5)[:, cone.zeros :])
    assert not cone.project(v, 0.0)[:, cone.zeros :].any()


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
