"""Zero and nonnegative rows, beyond the laws of every cone: 400 digits at the ends of the range, and kinks."""

from decimal import Decimal, localcontext

import pytest
import torch

from dcl.cones import Nonnegative, orthant


def barrier(mu):
    return mu if mu == 0.0 else torch.full((1, 1), mu, dtype=torch.float64)


def no_kink(v):
    return torch.full_like(v, torch.nan)


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
