"""The log-barrier path: x(mu) is the point of eq. 61 (Gould et al. 2016), its gradient that of eq. 64, mu -> 0 is exact.

Oracle: mpmath's Newton on eq. 61 (oracles/central_path.py), closed forms, and the exact solution with its derivative in
NumPy (oracles/cones.py).  Measured: x(mu) to 1e-14, gradients to 4e-12; slopes in mu 0.991 to 1.000, of gradients 0.978 to 1.000.
"""

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import tensors
from oracles import central_path
from oracles.central_path import DEGREES, KEYS
from oracles.cones import Known, draw, gradients, regular
from oracles.regular import instance
from scipy.optimize import brentq
from simulated_device import SimulatedDevice, fetch, send

import dcl

MUS = [1e-1, 1e-3, 1e-6]
SMALL = np.array([1e-5, 1e-6, 1e-7, 1e-8])
each_key = pytest.mark.parametrize("key", KEYS)
each_mu = pytest.mark.parametrize("mu", MUS)
costly = ("ep", "p", "all")
each_key_quick_or_slow = pytest.mark.parametrize(
    "key", [pytest.param(k, marks=[pytest.mark.slow] * (k in costly)) for k in KEYS]
)


def leaves_of(data):
    return {name: torch.tensor(a, requires_grad=True) for name, a in data.items()}


def number(value, requires_grad=True):
    return torch.tensor(value, dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.sample(5)
@each_mu
@pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (k in ("s", "p", "all"))) for k in KEYS])
def test_point_and_gradient_against_equation_61_in_high_precision(key, mu):
    cones, data, inside = central_path.program(key, 1)
    weights = np.random.default_rng(7).standard_normal(len(inside))
    known = central_path.point(**data, cones=cones, mu=mu, start=inside, weights=weights)
    leaves = leaves_of(data)
    x = dcl.ConeLayer(cones, mu=mu)(**leaves).x
    found = dict(zip(leaves, torch.autograd.grad(x @ torch.tensor(weights), list(leaves.values())), strict=True))
    np.testing.assert_allclose(x.detach().numpy(), known["x"], rtol=0, atol=1e-10 * np.abs(known["x"]).max())
    for name in ("q", "b"):
        np.testing.assert_allclose(found[name].numpy(), known[name], rtol=0, atol=1e-9 * np.abs(known[name]).max())


@pytest.mark.sample(5)
@each_mu
@each_key_quick_or_slow
def test_gradcheck(key, mu):
    cones, data, _ = central_path.program(key, 2)
    layer = dcl.ConeLayer(cones, mu=mu)
    assert torch.autograd.gradcheck(
        lambda P, q, A, b: layer(0.5 * (P + P.mT), q, A, b).x, tuple(leaves_of(data).values()), fast_mode=True
    )


@pytest.mark.sample(5)
@each_mu
@each_key_quick_or_slow
def test_complementarity_is_mu_times_the_degree(key, mu):
    for seed in range(5):
        cones, data, _ = central_path.program(key, seed)
        x, z, s = (t.detach().numpy() for t in dcl.ConeLayer(cones, mu=mu)(**leaves_of(data)))
        assert z @ s == pytest.approx(mu * DEGREES[key], rel=1e-9, abs=1e-12)
        # F, in the user's units
        assert np.abs(data["P"] @ x + data["q"] + data["A"].T @ z).max() <= 1e-10
        assert np.abs(data["A"] @ x + s - data["b"]).max() <= 1e-10


@pytest.mark.slow
@each_key
def test_random_programs_against_high_precision(key):
    for seed in range(3, 9):
        cones, data, inside = central_path.program(key, seed)
        mu = float(10.0 ** np.random.default_rng(seed).uniform(-7, 1))
        weights = np.ones(len(inside))
        known = central_path.point(**data, cones=cones, mu=mu, start=inside, weights=weights)
        leaves = leaves_of(data)
        x = dcl.ConeLayer(cones, mu=mu)(**leaves).x
        gq, gb = torch.autograd.grad(x.sum(), [leaves["q"], leaves["b"]])
        for a, b in ((x, known["x"]), (gq, known["q"]), (gb, known["b"])):
            np.testing.assert_allclose(a.detach().numpy(), b, rtol=0, atol=1e-9 * np.abs(b).max())


def gaps(known: Known, seed: int):
    """|x(mu) - x| and the same of the gradient of a random weighting of x, for each of SMALL."""
    rng, rows = np.random.default_rng(seed), len(known.b)
    cotangents = {"x": rng.standard_normal(len(known.x)), "z": np.zeros(rows), "s": np.zeros(rows)}
    exact = gradients(known, cotangents, known.D[0])
    leaves = leaves_of(known.data)
    layer = dcl.ConeLayer(known.cones)
    off, off_gradient = [], []
    for mu in SMALL:
        x = layer(**({"P": None} | leaves), mu=float(mu)).x
        found = torch.autograd.grad(x @ torch.tensor(cotangents["x"]), list(leaves.values()))
        off.append(np.linalg.norm(x.detach().numpy() - known.x))
        both = zip(leaves, found, strict=True)
        off_gradient.append(np.linalg.norm(np.concatenate([(g.numpy() - exact[k]).ravel() for k, g in both])))
    return off, off_gradient


def slope(values):
    return float(np.polyfit(np.log(SMALL), np.log(values), 1)[0])


@pytest.mark.parametrize(
    ("keys", "seeds"),
    [
        *((keys, range(3)) for keys in [("z", "l"), ("q",), ("z", "l", "q", "s")]),
        *(
            pytest.param(keys, range(9), marks=pytest.mark.slow)
            for keys in [("z", "l"), ("q",), ("s",), ("ep",), ("p",), ("z", "l", "q", "s")]
        ),
    ],
    ids=str,
)
def test_slope_1_where_strictly_complementary_and_non_degenerate(keys, seeds):
    """Strict complementarity and a nonsingular K: x(mu) = x + c mu + o(mu), and so is the gradient."""
    seen = 0
    for seed in seeds:
        known = regular(seed, ("zero", "low rank", "full")[seed % 3], keys)
        off, off_gradient = gaps(known, seed)
        if off[0] < 1e-9:  # equalities and slack rows alone: nothing or too little moves
            continue
        seen += 1
        assert slope(off) == pytest.approx(1.0, abs=0.05)
        assert slope(off_gradient) == pytest.approx(1.0, abs=0.05)
    assert seen >= len(seeds) // 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_flat_faces_of_the_exponential_cone_have_a_logarithm_in_the_second_order_only(seed):
    """s inside of the face y = 0: z_y = mu ((log(z/y) - 1) / r + 1/y) has mu log mu beside 1/y ~ 1/mu: mu^2 log mu in x."""
    known = draw([("ep", 1.0, "face")], "full", 4, np.random.default_rng(seed))
    off, off_gradient = (np.array(t) for t in gaps(known, seed))
    assert slope(off) == pytest.approx(1.0, abs=0.01)
    assert slope(off_gradient) == pytest.approx(1.0, abs=0.01)
    assert np.ptp(off / SMALL) <= 0.01 * np.max(off / SMALL)


# closed forms


@pytest.mark.parametrize("mu", [1.0, *MUS])
def test_unit_ball_is_equation_61_with_log_of_1_minus_the_square(mu):
    # an explicit cone: cp.norm(x) <= 1 would add a variable t, |x| <= t <= 1, and both are smoothed
    # min c'x - mu log(1 - |x|^2): x = -r c / |c|,  |c| (1 - r^2) = 2 mu r;  for c = e_1 and mu = 0.1, r = 0.90499
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [cp.SOC(cp.Constant(1.0), x)]), [c], [x], mu=mu)
    cost = number([1.0, 0.0])
    (point,) = layer(cost)
    r = brentq(lambda r: (1.0 - r * r) - 2.0 * mu * r, 0.0, 1.0, xtol=1e-15)
    if mu == 0.1:
        assert r == pytest.approx(0.90499, abs=5e-6)
    np.testing.assert_allclose(point.detach().numpy(), [-r, 0.0], rtol=0, atol=1e-9)
    # dr/d|c| = (1 - r^2) / (2 mu + 2 r);  across, x turns with c: -r
    jacobian = torch.stack([torch.autograd.grad(entry, cost, retain_graph=True)[0] for entry in point])
    known = np.diag([-(1.0 - r * r) / (2.0 * mu + 2.0 * r), -r])
    np.testing.assert_allclose(jacobian.numpy(), known, rtol=0, atol=1e-8)


@pytest.mark.parametrize("t", [1.0, 1e2, 1e5, 1e8])
def test_kink_of_the_positive_mean(t):
    """Eq. 65 at mean 0: y = 1 / sqrt(2 m t) and gradient 1 / (2 m) in every h_i, between the one-sided 0 and 1 / m."""
    m = 5
    y, h = cp.Variable(), cp.Parameter(m)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(h - y)), [y >= 0]), [h], [y], mu=1.0 / t)
    values = number([1.0, -2.0, 0.5, 0.75, -0.25])
    (mean,) = layer(values)
    mean.backward()
    assert mean.item() == pytest.approx(1.0 / np.sqrt(2.0 * m * t), rel=1e-9)
    np.testing.assert_allclose(values.grad.numpy(), np.full(m, 0.5 / m), rtol=1e-7)


@pytest.mark.parametrize("total", [-3.0, -1e-3, 1e-3, 2.0])
@each_mu
def test_positive_mean_in_closed_form(total, mu):
    # 2 m y - 2 total = mu / y  (eq. 68);  dy/dh = 2 / (2 m + mu / y^2)  (eq. 71)
    m = 3
    y, h = cp.Variable(), cp.Parameter(m)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(h - y)), [y >= 0]), [h], [y])
    values = number([total - 1.5, 0.5, 1.0])
    (mean,) = layer(values, mu=mu)
    mean.backward()
    root = np.sqrt(total**2 + 2.0 * m * mu)
    known = (total + root) / (2.0 * m) if total > 0.0 else mu / (root - total)
    assert mean.item() == pytest.approx(known, rel=1e-7)
    np.testing.assert_allclose(values.grad.numpy(), 2.0 / (2.0 * m + mu / known**2), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:the gradient with respect to:dcl.DegenerateWarning")  # of a linear program
@each_mu
def test_linear_program_at_a_vertex(mu):
    """On the box [0, 1]: c = mu / x - mu / (1 - x).  The exact gradient is zero, the barrier's is not, and has its sign."""
    c = number([0.7, -1.3, 0.2])
    bounds = {"lb": torch.zeros(3, dtype=torch.float64), "ub": torch.ones(3, dtype=torch.float64)}
    exact = dcl.QPLayer()(None, c, **bounds).x
    np.testing.assert_array_equal(exact.detach().numpy(), [0.0, 1.0, 0.0])
    assert not torch.autograd.grad(exact.sum(), c)[0].any()
    x = dcl.QPLayer(mu=mu)(None, c, **bounds).x
    known = np.array(
        [brentq(lambda x, c=c: c * x * (1 - x) - mu * (1 - 2 * x), 0.0, 1.0, xtol=1e-16) for c in c.tolist()]
    )
    slack = np.where(known < 0.5, known, 1.0 - known)
    np.testing.assert_allclose(np.where(known < 0.5, x.detach(), 1.0 - x.detach()), slack, rtol=1e-6)
    (gradient,) = torch.autograd.grad(x.sum(), c)
    np.testing.assert_allclose(gradient.numpy(), -1.0 / (mu / known**2 + mu / (1.0 - known) ** 2), rtol=1e-5)


def test_on_a_flat_face_the_path_ends_in_the_analytic_center():
    """min x_1 on [0, 1]^2: every x_2 is optimal; x(mu) has x_2 = 1/2 for every mu, and is unique."""
    q = number([1.0, 0.0])
    bounds = {"lb": torch.zeros(2, dtype=torch.float64), "ub": torch.ones(2, dtype=torch.float64)}
    for mu in (1e-1, 1e-4, 1e-7):
        result, solution = dcl.QPLayer(mu=mu, on_degenerate="raise")(None, q, **bounds, return_solution=True)
        assert result.x[1].item() == pytest.approx(0.5, abs=1e-7)
        assert int(solution.gradient_kind) == dcl.GradientKind.EXACT
        (gradient,) = torch.autograd.grad(result.x[1], q)
        assert float(gradient[1]) == pytest.approx(-1.0 / (8.0 * mu), rel=1e-5)


# how mu is given, and how the point is found


def test_mu_of_the_layer_of_the_call_and_of_each_instance_agree():
    leaves = tensors(instance("qp", 5, 0).data)
    q = leaves["q"] + torch.arange(3.0, dtype=torch.float64).unsqueeze(-1)
    data = leaves | {"q": q}
    each = torch.tensor([1e-1, 1e-3, 1e-6], dtype=torch.float64)
    together = dcl.QPLayer()(**data, mu=each)
    whole = torch.autograd.grad(together.x.sum(), leaves["q"], retain_graph=True)[0]
    gradient = torch.zeros_like(whole)
    for i, mu in enumerate(each.tolist()):
        one = dcl.QPLayer(mu=mu)(**(data | {"q": q[i]}))
        torch.testing.assert_close(together.x[i], one.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(one.x, dcl.QPLayer(mu=0.5)(**(data | {"q": q[i]}), mu=mu).x, rtol=0, atol=0)
        gradient += torch.autograd.grad(one.x.sum(), leaves["q"], retain_graph=True)[0]
    torch.testing.assert_close(whole, gradient, rtol=1e-8, atol=1e-8)
    assert (together.x[0] - together.x[2]).abs().max().item() > 1e-3


@pytest.mark.sample(5)
@pytest.mark.parametrize("mu", [10.0, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("kind", ["qp", "qp_semidefinite", "lp", "bounds"])
def test_residual_of_every_instance_of_a_batch(kind, mu):
    """F below 1e-10 in NumPy, in the user's units relative to 1 + |data|, for many programs at once, each as if alone."""
    drawn = [tensors(instance(kind, 10, seed).data, requires_grad=False) for seed in range(40)]
    data = [d for d in drawn if {k: t.shape for k, t in d.items()} == {k: t.shape for k, t in drawn[0].items()}]
    assert len(data) >= 4
    common = {name: torch.stack([d[name] for d in data]) for name in data[0]}
    P = common.get("P")
    r = dcl.QPLayer(mu=mu)(**({"P": None} | common))
    stationarity = common["q"].clone()
    for matrix, multiplier in (("A", r.y), ("G", r.z)):
        if matrix in common:
            stationarity += (common[matrix].mT @ multiplier.unsqueeze(-1)).squeeze(-1)
    stationarity += 0.0 if P is None else (P @ r.x.unsqueeze(-1)).squeeze(-1)
    stationarity += (r.z_ub if "ub" in common else 0.0) - (r.z_lb if "lb" in common else 0.0)
    size = 1.0 + torch.cat([t.flatten(1) for t in (*r[1:5], common["q"])], -1).abs().amax(-1)
    assert bool((stationarity.abs().amax(-1) <= 1e-10 * size).all())
    for slack, multiplier in (
        (common["h"] - (common["G"] @ r.x.unsqueeze(-1)).squeeze(-1) if "G" in common else None, r.z),
        (r.x - common["lb"] if "lb" in common else None, r.z_lb),
        (common["ub"] - r.x if "ub" in common else None, r.z_ub),
    ):
        if slack is not None:
            there = torch.isfinite(slack)
            assert bool((slack > 0.0).all())
            np.testing.assert_allclose((slack * multiplier)[there], mu, rtol=1e-5)
    alone = dcl.QPLayer(mu=mu)(**({"P": None} | data[3])).x
    torch.testing.assert_close(r.x[3], alone, rtol=0, atol=1e-9 * float(alone.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["z", "q", "s", pytest.param("ep", marks=pytest.mark.slow), pytest.param("p", marks=pytest.mark.slow)]
)
def test_the_path_on_another_device_is_that_of_the_cpu(key):
    """The same kernels, so the same numbers; the simulated device refuses to mix with the CPU."""
    cones, data, _ = central_path.program(key, 3)
    layer, here = dcl.ConeLayer(cones, mu=1e-3), leaves_of(data)
    x = layer(**here).x
    known = torch.autograd.grad(x.sum(), list(here.values()))
    with SimulatedDevice():
        there = {name: send(t.detach(), True) for name, t in here.items()}
        elsewhere = layer(**there).x
        found = torch.autograd.grad(elsewhere.sum(), list(there.values()))
        values = [fetch(t) for t in (elsewhere, *found)]
    for a, b in zip(values, (x.detach(), *known), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))


@pytest.mark.parametrize("mu", [1e-3, 0.1, 10.0])
def test_without_an_interior_there_is_no_path(mu):
    """x_0 = 2 by two inequalities: residuals come near 1e-9 with multipliers of 1e7, and that is no x(mu)."""
    G, h = number([[1.0, 0.0], [-1.0, 0.0]]), number([2.0, -2.0])
    with pytest.raises(dcl.SolveError, match="exists only where a point satisfies all inequalities strictly"):
        dcl.solve_qp(torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), G=G, h=h, mu=mu)
