"""The cones of the compiled core against those of `dcl.cones`: z = Pi_mu*(v) and D = dz/dv, with kinks and sizes of all kinds."""

import numpy as np
import pytest
import torch

from dcl import core
from dcl.cones import Exponential, Nonnegative, Power, Product, SecondOrder, Semidefinite, Zero
from dcl.cones.semidefinite import lower_from_upper, svec

pytestmark = pytest.mark.skipif(not core.available, reason=f"the compiled core is not there: {core.reason}")
if core.available:
    from dcl.core.conic import conic_core

CONES = {
    "ray": SecondOrder(1, 2),
    "SOC(2)": SecondOrder(2, 3),
    "SOC(3)": SecondOrder(3, 2),
    "SOC(40)": SecondOrder(40),
    "PSD(1)": Semidefinite(1, 2),
    "PSD(2)": Semidefinite(2, 2),
    "PSD(7)": Semidefinite(7),
    "exponential": Exponential(4),
    "power": Power((0.01, 0.2, 0.5, 0.7, 0.99)),
    "product": Product(
        (Zero(2), Nonnegative(3), SecondOrder(3, 2), SecondOrder(5), Semidefinite(3), Exponential(1), Power((0.3,)))
    ),
}
MUS = (0.0, 1e-12, 1e-6, 1e-3, 1.0, 1e3)
SIZES = (1e-120, 1e-30, 1e-8, 1.0, 1e8, 1e30, 1e120)
EPSILON = 2.0**-52
PROJECTION, DERIVATIVE = 1e-14, 1e-12  # relative to |v| + sqrt(mu), and to |w|
# Eigenvalues of one block, repeated to its rank: interior, boundary, apex, edges, rank jumps, nearly so.
SPECTRA = (
    (1.0, 2.0), (-1.0, -2.0), (1.5, -0.5), (0.0,), (1.0, 0.0), (-1.0, 0.0), (1.0, 0.0, -1.0), (0.7,), (1.0, 1e-7, -1e-7),
    (1.0, 1e-10, -1e-10), (1e-10, -1e-10),
)  # fmt: skip


def both(cone, v, mu, w):
    """z and D w by the core, and by torch; v and w (B, dim)."""
    conic = conic_core(cone.blocks, 1)
    z, Dw = torch.empty_like(v), torch.empty_like(v)
    for rows in zip(v, w, z, Dw, strict=True):
        core.extension.conic_project(conic.blocks, mu, *(t.data_ptr() for t in rows))
    barrier = torch.tensor([[mu]], dtype=torch.float64) if mu else 0.0
    # of symmetric cones torch knows a kink when it sees one, of orthants it has to be told
    orthant = torch.cat([torch.full((b.rows * b.count,), b.is_orthant) for b in cone.blocks])
    at_kink = torch.where(orthant & (v == 0.0), 0.5, torch.nan).to(v)
    D = cone.dproject(v, barrier, at_kink)
    return z, Dw, cone.project(v, barrier), D.apply(w)


def agree(cone, v, mu, w):
    """Do they? D changes by rounding / distance from the kink, which at mu > 0 is at least sqrt(mu) wide."""
    v, w = torch.atleast_2d(v), torch.atleast_2d(w)
    z, Dw, z_torch, Dw_torch = both(cone, v, mu, w)
    size = v.abs().amax(-1) + mu**0.5
    distance = cone.kink_distance(v)
    # at mu = 0 both take 1/2 at a kink
    distance = distance if mu else torch.where(distance > 0.0, distance, torch.inf)
    width = distance.amin(-1).clamp(min=mu**0.5)
    derivative = (16.0 * EPSILON * size / width).clamp(min=DERIVATIVE)
    projected = (z - z_torch).abs().amax(-1) <= PROJECTION * size * v.shape[-1] ** 0.5
    return bool((projected & ((Dw - Dw_torch).abs().amax(-1) <= derivative * w.abs().amax(-1))).all())


@pytest.mark.sample(7)
@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("name", CONES)
def test_projection_and_derivative(name, mu):
    cone, rng = CONES[name], np.random.default_rng(0)
    for size in SIZES:
        v, w = (torch.tensor(rng.standard_normal((5, cone.dim))) for _ in range(2))
        assert agree(cone, size * v, mu, w), size


def with_spectrum(name, spectrum, rng):
    """A vector of one SOC or PSD block with these eigenvalues."""
    if name.startswith("SOC"):
        size = CONES[name].size
        u = rng.standard_normal(size - 1)
        high, low = spectrum[0], spectrum[-1]
        return torch.tensor(np.append(0.5 * (high + low), 0.5 * (high - low) * u / np.linalg.norm(u)))
    k = CONES[name].order
    U = np.linalg.qr(rng.standard_normal((k, k)))[0]
    return svec(torch.tensor((U * np.resize(spectrum, k)) @ U.T))


@pytest.mark.sample(4)
@pytest.mark.parametrize("mu", [0.0, 1e-9, 1e-3])
@pytest.mark.parametrize("name", ["SOC(2)", "SOC(3)", "SOC(40)", "PSD(2)", "PSD(7)"])
def test_at_kinks(name, mu):
    rng = np.random.default_rng(1)
    cone = type(CONES[name])(CONES[name].size if name.startswith("SOC") else CONES[name].order)
    for spectrum in SPECTRA:
        for factor in (1.0, 1e-3, 1e3):
            v, w = factor * with_spectrum(name, spectrum, rng), torch.tensor(rng.standard_normal(cone.dim))
            assert agree(cone, v, mu, w), (spectrum, factor)


def power_kinks(a):
    """v on the boundary of K, K*, and both axes of each, where D jumps, at 1e-7 and 1e-10 beside them, and between them."""
    x, y, b = 0.7, 1.3, 1.0 - a
    z = x**a * y**b
    on = [(-x, -y, z), (-x, -y, -z), (a * x, b * y, z), (a * x, b * y, -z)]
    on += [(-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    between = [
        (-1.0, 1.0, 0.0),
        (1.0, -1.0, 0.0),
        (-1.0, 1.0, 1e-9),
        (1.0, -1.0, -1e-9),
        (1.0, 1.0, 30.0),
        (0.0, 0.0, 1.0),
    ]
    yield from on + between
    for point in on:
        for step in (1e-7, -1e-7, 1e-10, -1e-10):
            yield tuple(np.array(point) + step * np.array([0.3, -0.5, 0.8]))


@pytest.mark.sample(3)
@pytest.mark.parametrize("mu", [0.0, 1e-9, 1e-3])
def test_at_kinks_of_power_cones(mu):
    rng = np.random.default_rng(4)
    for a in (0.01, 0.2, 0.5, 0.7, 0.99):
        points = torch.tensor(list(power_kinks(a)), dtype=torch.float64)
        for factor in (1.0, 1e-3, 1e3, 1e-60, 1e60) if mu == 0.0 else (1.0, 1e3):
            assert agree(Power((a,)), factor * points, mu, torch.tensor(rng.standard_normal(points.shape))), (a, factor)


@pytest.mark.parametrize("mu", [0.0, 1e-2])
def test_apex(mu):
    for name, cone in CONES.items():
        zero, w = torch.zeros(cone.dim, dtype=torch.float64), torch.linspace(-1.0, 1.0, cone.dim, dtype=torch.float64)
        assert agree(cone, zero, mu, w), name


def test_lower_triangle():
    """Rows as SCS has them are the same cone with its rows in another order."""
    cone, rng = Semidefinite(4), np.random.default_rng(2)
    order = lower_from_upper(4)
    v, w = (torch.tensor(rng.standard_normal(cone.dim)) for _ in range(2))
    z, Dw = (t[0] for t in both(cone, v[None], 0.0, w[None])[:2])
    lower = conic_core(cone.blocks, 1, lower=True)
    there = [t[order].contiguous() for t in (v, w)] + [torch.empty_like(v), torch.empty_like(v)]
    core.extension.conic_project(lower.blocks, 0.0, *(t.data_ptr() for t in there))
    torch.testing.assert_close(there[2], z[order], rtol=0.0, atol=1e-14)
    torch.testing.assert_close(there[3], Dw[order], rtol=0.0, atol=1e-14)
