"""Exponential and power cones: beyond the laws of every cone: high precision, solvers, kinks."""

import itertools

import clarabel
import mpmath as mp
import numpy as np
import pytest
import scipy.sparse as sp
import scs
import torch
from cone_cases import EXPONENTIAL_PIECES, POWER_PIECES

from dcl.cones.exponential import Exponential
from dcl.cones.power import Power
from dcl.errors import UnsupportedError
from dcl.implicit import project
from dcl.program import Structure
from dcl.program.pattern import DensePattern

TOLERANCE = {
    "member": 1e-14,  # of z and s, times the size of v
    "complementary": 1e-14,  # |z's - 3 mu|, times the size of v squared
    "nearest": 1e-14,  # projection against 40 digits, times the size of v; 2e-16 to 4e-15 were seen
    "path": 1e-14,  # prox of the barrier against 40 digits
    "D on the path": 1e-10,  # its derivative against 40 digits: mu / |v|^2 down to 1e-8
    "solver": 1e-4,  # with their default tolerances: this is about the order of the coordinates
    "bend": 1e-6,  # differences of D, relative to 1 + |curvature|
}
EXPONENTS = {"power 0.5": 0.5, "power 0.2": 0.2, "power 0.95": 0.95}
CONES = {"exponential": Exponential(1)} | {name: Power((a,)) for name, a in EXPONENTS.items()}
MUS = [1e-1, 1e-3, 1e-6]
REGIONS = {"exponential": EXPONENTIAL_PIECES, "power": POWER_PIECES}
KINKS = {
    "exponential": {
        "boundary of K": [0.0, -1.0, -1.0],
        "boundary of K*": [-1.0, -1.0, np.exp(-2.0) * np.exp(2.0)],
        "face and K": [1.0, 0.0, -1.0],
        "face and K*": [0.0, 1.0, 1.0],
        "face and smooth": [0.0, 1.0, -1.0],
        "two faces": [1.0, 2.0, 0.0],
        "edge": [1.0, 0.0, 0.0],
    },
    "power": {"boundary of K": [-1.0, -1.0, 1.0], "axis of K": [-1.0, 0.0, 0.0], "axis of K*": [0.0, 1.0, 0.0]},
}
KINKS["power"]["boundary of K*"] = None  # depends on the exponent

each_cone = pytest.mark.parametrize("name", CONES)
each_mu = pytest.mark.parametrize("mu", [0.0, *MUS])
smoothed = pytest.mark.parametrize("mu", MUS)


def family(name):
    return name.split()[0]


KINK_CASES = [(name, kink) for name in CONES for kink in KINKS[family(name)]]
each_kink = pytest.mark.parametrize(("name", "kink"), KINK_CASES)


def barrier(mu):
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def region_points(name):
    """A point in each region, (number of regions, 3), and whether D is curved there."""
    regions = REGIONS[family(name)]
    return torch.tensor(list(regions.values()), dtype=torch.float64), torch.tensor(
        [r.startswith("smooth") for r in regions]
    )


def kink_point(name, kink):
    point = KINKS[family(name)][kink]
    if point is None:
        a = EXPONENTS[name]
        point = [2.0 * a, 2.0 * (1.0 - a), 2.0]
    return torch.tensor([point], dtype=torch.float64)


def points(count=100, sizes=(-1.0, 1.0), seed=0, dim=3):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.choice([-1.0, 1.0], (count, dim)) * 10.0 ** rng.uniform(*sizes, (count, dim)))


def directions(shape, seed=1):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def no_kink(v):
    return torch.full_like(v, torch.nan)


def dense(cone, v, mu, at_kink=None):
    """D as matrices, (B, dim, dim)."""
    D = cone.dproject(v, barrier(mu), no_kink(v) if at_kink is None else at_kink)
    return D.apply(torch.eye(cone.dim, dtype=v.dtype).unsqueeze(1).expand(-1, v.shape[0], -1)).permute(1, 2, 0)


# --- what the cones are, written down again -------------------------------------------------------------------------


def is_in(name, s):
    x, y, z = s
    if name == "exponential":
        return y > 0 and y * mp.exp(x / y) <= z
    a = mp.mpf(EXPONENTS[name])
    return x > 0 and y > 0 and x**a * y ** (1 - a) >= abs(z)


def is_in_dual(name, z):
    u, v, w = z
    if name == "exponential":
        return u < 0 and -u * mp.exp(v / u) <= mp.e * w
    a = mp.mpf(EXPONENTS[name])
    return u > 0 and v > 0 and (u / a) ** a * (v / (1 - a)) ** (1 - a) >= abs(w)


def is_nearly(member, name, s, slack):
    """Is s + slack e in the cone, with e in its interior?"""
    e = (-1.0, 1.0, 3.0) if name == "exponential" else (1.0, 1.0, 0.0)
    return member(name, [mp.mpf(float(t)) + slack * ei for t, ei in zip(s, e, strict=True)])


def newton(f, x):
    """The zero of f near x, and the Jacobian there."""
    n, h = len(x), mp.mpf(10) ** -20
    for _ in range(20):
        fx = mp.matrix(f(x))
        J = mp.matrix(n, n)
        for j in range(n):
            moved = list(x)
            moved[j] += h
            for i, value in enumerate(f(moved)):
                J[i, j] = (value - fx[i]) / h
        dx = mp.lu_solve(J, -fx)
        x = [xi + di for xi, di in zip(x, dx, strict=True)]
        if max(abs(di) for di in dx) < mp.mpf(10) ** -25:
            return x, J
    raise AssertionError("no convergence")


def nearest(name, v, s, z):
    """Projection of v onto K* from its optimality conditions; Newton starts from s, z on the curved boundary."""
    v = [mp.mpf(t) for t in v]
    p = [-t for t in v]
    if is_in(name, p):
        return [mp.mpf(0)] * 3
    if is_in_dual(name, v):
        return v
    s, z = ([mp.mpf(t) for t in w] for w in (s, z))
    if name == "exponential":
        if p[0] <= 0 and p[1] <= 0:
            return [mp.mpf(0), v[1], max(v[2], mp.mpf(0))]

        def conditions(u):  # u = log y, x/y, log of the multiplier
            y, r, k = mp.exp(u[0]), u[1], mp.exp(u[2])
            k_e = mp.exp(u[2] + r)
            return [r * y + k_e - p[0], y - (r - 1) * k_e - p[1], mp.exp(u[0] + r) - k - p[2]]

        (_, r, k), _ = newton(conditions, [mp.log(s[1]), s[0] / s[1], mp.log(z[2])])
        return [-mp.exp(k + r), (r - 1) * mp.exp(k + r), mp.exp(k)]
    a, sign = mp.mpf(EXPONENTS[name]), mp.sign(v[2])

    def gradients(u):
        mean = a * u[0] + (1 - a) * u[1]
        return a * mp.exp(u[2] + mean - u[0]), (1 - a) * mp.exp(u[2] + mean - u[1]), mp.exp(mean)

    def stationary(u):  # u = log x, log y, log of the multiplier
        zx, zy, mean = gradients(u)
        return [mp.exp(u[0]) - zx - p[0], mp.exp(u[1]) - zy - p[1], mean + mp.exp(u[2]) - abs(p[2])]

    u, _ = newton(stationary, [mp.log(s[0]), mp.log(s[1]), mp.log(abs(z[2]))])
    zx, zy, _ = gradients(u)
    return [zx, zy, sign * mp.exp(u[2])]


def on_path(name, v, s, mu):
    """(z, D) from s + v + mu phi'(s) = 0."""
    v, mu = [mp.mpf(t) for t in v], mp.mpf(mu)

    def stationary(s):
        x, y, z = s
        if name == "exponential":
            psi = y * mp.log(z / y) - x
            g = [1 / psi, -(mp.log(z / y) - 1) / psi - 1 / y, -y / z / psi - 1 / z]
        else:
            a = mp.mpf(EXPONENTS[name])
            u = x ** (2 * a) * y ** (2 - 2 * a)
            psi = u - z * z
            g = [-2 * a * u / x / psi - (1 - a) / x, -2 * (1 - a) * u / y / psi - a / y, 2 * z / psi]
        return [si + vi + mu * gi for si, vi, gi in zip(s, v, g, strict=True)]

    s, J = newton(stationary, [mp.mpf(t) for t in s])
    D = mp.eye(3) - mp.inverse(J)
    return [float(si + vi) for si, vi in zip(s, v, strict=True)], np.array(D.tolist(), float)


# --- the laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(-1.0, 1.0), (-4.0, 4.0), (-12.0, 8.0)])
@each_cone
def test_projections_are_in_the_cones_and_complementary(name, sizes):
    v = points(60, sizes)
    z = CONES[name].project(v, 0.0)
    size = v.norm(dim=-1)
    assert float(((z * (z - v)).sum(-1).abs() / size**2).max()) <= TOLERANCE["complementary"]
    for vi, zi in zip(v, z, strict=True):
        slack = TOLERANCE["member"] * float(vi.norm())
        assert is_nearly(is_in_dual, name, zi, slack)
        assert is_nearly(is_in, name, zi - vi, slack)


@each_cone
def test_projection_in_high_precision(name):
    v = torch.cat([points(60), points(10, seed=3) * 1e-12, points(10, seed=4) * 1e7])
    # near the boundary of K, and of K*
    z = CONES[name].project(v[:10], 0.0)
    v = torch.cat([v, v[:10] - z * (1.0 - 1e-7), z + (v[:10] - z) * 1e-7])
    blocks = v.unsqueeze(1)
    start = CONES[name].nearest(blocks, CONES[name].foot(blocks)).s.squeeze(1)
    found = CONES[name].project(v, 0.0)
    with mp.workdps(40):
        for vi, si, zi in zip(v.tolist(), start.tolist(), found.tolist(), strict=True):
            known = nearest(name, vi, si, zi)
            miss = max(abs(k - mp.mpf(t)) for k, t in zip(known, zi, strict=True))
            assert miss <= TOLERANCE["nearest"] * max(map(abs, vi)), vi


@pytest.mark.sample(5)
@smoothed
@each_cone
def test_barrier_point_in_high_precision(name, mu):
    v = points(12, (-1.0, 0.5), seed=2)
    z, D = CONES[name].project(v, barrier(mu)), dense(CONES[name], v, mu)
    with mp.workdps(40):
        for vi, zi, Di in zip(v.tolist(), z.tolist(), D.numpy(), strict=True):
            s = (
                CONES[name]
                ._prox(torch.tensor([[vi]], dtype=torch.float64), barrier(mu).unsqueeze(-1))
                .flatten()
                .tolist()
            )
            known, known_D = on_path(name, vi, s, mu)
            assert np.abs(np.array(known) - zi).max() <= TOLERANCE["path"] * max(map(abs, vi)), vi
            assert np.abs(known_D - Di).max() <= TOLERANCE["D on the path"], vi


@each_cone
def test_the_coordinates_are_those_of_clarabel_and_scs(name):
    eye = sp.csc_matrix(np.eye(3))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cone = clarabel.ExponentialConeT() if name == "exponential" else clarabel.PowerConeT(EXPONENTS[name])
    scs_cone = {"ep": 1} if name == "exponential" else {"p": [EXPONENTS[name]]}
    for v, z in zip(*(t.numpy() for t in (points(6), CONES[name].project(points(6), 0.0))), strict=True):
        # minimize |s + v|^2 / 2 with s = x in K
        first = clarabel.DefaultSolver(eye, v, -eye, np.zeros(3), [cone], settings).solve()
        np.testing.assert_allclose(z - v, first.x, atol=TOLERANCE["solver"] * np.abs(v).max())
        data = {"P": eye, "A": -eye, "b": np.zeros(3), "c": v}
        second = scs.SCS(data, scs_cone, eps_abs=1e-9, eps_rel=1e-9, verbose=False).solve()
        np.testing.assert_allclose(z - v, second["x"], atol=TOLERANCE["solver"] * np.abs(v).max())


@each_mu
@each_cone
def test_curvature_is_the_derivative_of_D(name, mu):
    cone, (v, smooth), h = CONES[name], region_points(name), 1e-6
    a, w, u = (directions(v.shape, seed=k) for k in range(3))
    found = (cone.curvature_product(v, barrier(mu), a, w) * u).sum(-1)
    up, down = ((a * (dense(cone, v + t * u, mu) @ w.unsqueeze(-1)).squeeze(-1)).sum(-1) for t in (h, -h))
    miss = (found - (up - down) / (2 * h)).abs() / (1.0 + found.abs())
    assert float(miss.max()) <= TOLERANCE["bend"], dict(zip(REGIONS[family(name)], miss.tolist(), strict=True))
    assert torch.equal(found != 0.0, smooth | (mu > 0.0))


@each_cone
def test_the_barrier_goes_to_the_projection_with_slope_1(name):
    cone, (v, _) = CONES[name], region_points(name)
    far, near = ((cone.project(v, barrier(mu)) - cone.project(v, 0.0)).norm(dim=-1) for mu in (1e-5, 1e-6))
    assert float(near.max()) <= 1e-4
    for region, ratio in zip(REGIONS[family(name)], (far / near).tolist(), strict=True):
        # on the flat faces of the exponential cone it is mu log mu
        assert ratio == pytest.approx(10.0, rel=0.2 if region.startswith("face") else 0.01), region


@each_kink
def test_kinks_are_flagged_and_take_the_limit_of_the_barrier(name, kink):
    cone, v = CONES[name], kink_point(name, kink)
    distance = cone.kink_distance(v)
    assert float(distance[0, 0]) <= 1e-15
    assert torch.isinf(distance[0, 1:]).all()
    at_kink = no_kink(v)
    at_kink[:, 0] = 0.5
    half, limit = dense(cone, v, 0.0, at_kink), dense(cone, v, 1e-12)
    if kink.startswith("axis"):  # the rotated second-order cone: one direction is split as the exponent says
        return
    assert float((half - limit).abs().max()) <= 0.02 if kink == "face and K" else 1e-5
    low, high = (dense(cone, v, 0.0, at_kink + t) for t in (-0.5, 0.5))
    torch.testing.assert_close(0.5 * (low + high), half, rtol=0, atol=1e-15)


@each_kink
def test_kink_distance_is_the_distance_of_points_nearby(name, kink):
    cone, v = CONES[name], kink_point(name, kink)
    near = v + 1e-7 * directions((50, 3))
    distance = cone.kink_distance(near)[:, 0]
    assert float(distance.max()) <= 1e-6
    assert float(distance.median()) >= 1e-9


@each_cone
def test_no_kink_inside_of_the_regions(name):
    assert float(CONES[name].kink_distance(region_points(name)[0])[:, 0].min()) >= 0.05


@pytest.mark.sample(3)
@each_mu
def test_blocks_are_a_loop_and_so_are_batches(mu):
    v = points(3, dim=9)
    a, w = directions((2, *v.shape)), directions((2, *v.shape), seed=2)
    mus = barrier(mu) if mu == 0.0 else mu * torch.logspace(-2, 0, 3, dtype=torch.float64).unsqueeze(-1)
    for cone, singles in (
        (Exponential(3), [Exponential(1)] * 3),
        (Power((0.5, 0.2, 0.95)), [Power((0.5,)), Power((0.2,)), Power((0.95,))]),
    ):
        z, c, D = cone.project(v, mus), cone.curvature_product(v, mus, a, w), cone.dproject(v, mus, no_kink(v)).apply(w)
        for i, (k, single) in itertools.product(range(3), enumerate(singles)):
            row, cols = slice(i, i + 1), slice(3 * k, 3 * k + 3)
            at, mu_i = v[row, cols], mus if mu == 0.0 else mus[row]
            assert torch.equal(z[row, cols], single.project(at, mu_i))
            torch.testing.assert_close(
                c[:, row, cols],
                single.curvature_product(at, mu_i, a[:, row, cols], w[:, row, cols]),
                rtol=1e-9,
                atol=1e-9,
            )
            alone = single.dproject(at, mu_i, no_kink(at)).apply(w[:, row, cols])
            torch.testing.assert_close(D[:, row, cols], alone, rtol=0, atol=1e-14)


def test_what_the_cones_say_of_themselves():
    for cone in (Exponential(2), Power((0.3, 0.6))):
        assert (cone.dim, cone.degree, cone.zeros) == (6, 6, 0)
        sizes = torch.tensor([[1.0, 5.0, 2.0, 0.5, 0.25, 0.0]])
        assert cone.equalize(sizes).tolist() == [[5.0, 5.0, 5.0, 0.5, 0.5, 0.5]]
    empty = torch.zeros(2, 0, dtype=torch.float64)
    assert Exponential(0).project(empty, 0.0).shape == Power(()).project(empty, 0.0).shape == (2, 0)
    for wrong in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Power((wrong,))


@pytest.mark.slow
@each_mu
@pytest.mark.parametrize("cone", [Exponential(2), Power((0.3, 0.6))], ids=["exponential", "power"])
def test_two_derivatives_through_autograd_and_no_third(cone, mu):
    v = points(2, (-0.3, 0.3), seed=7, dim=6).requires_grad_()
    structure = Structure(DensePattern((1, 1)), DensePattern((6, 1)), cone)

    def z(v):
        return project(structure, barrier(mu), v, no_kink(v))

    assert torch.autograd.gradcheck(z, v, fast_mode=True)
    assert torch.autograd.gradgradcheck(z, v, fast_mode=True)
    (first,) = torch.autograd.grad((z(v) ** 3).sum(), v, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), v, create_graph=True)
    with pytest.raises(UnsupportedError, match="third derivatives"):
        torch.autograd.grad(second.sum(), v)
