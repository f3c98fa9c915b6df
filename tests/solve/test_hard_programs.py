"""Programs that once got a wrong answer, a wrong flag or a crash: bad scales, forward mode at kinks, infinite bounds."""

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from oracles.regular import instance

import dcl


def tensor(a):
    return torch.tensor(np.asarray(a, dtype=float))


def beside_a_large_cost(seed, large, where):
    """A regular QP in 5 variables beside one decoupled variable in [-1, 1] with a large cost or curvature."""
    known = instance("qp_semidefinite", 5, seed)
    data = known.data
    P, q = np.zeros((6, 6)), np.append(data["q"], 1.0)
    P[:5, :5] = data["P"]
    if where == "q":
        q[5] = large
    else:
        P[5, 5] = large

    def wider(M):
        return np.hstack([M, np.zeros((len(M), 1))])

    blocks = {"P": P, "q": q, "lb": [-np.inf] * 5 + [-1.0], "ub": [np.inf] * 5 + [1.0]}
    for matrix, side in (("A", "b"), ("G", "h")):
        if data[matrix] is not None:
            blocks |= {matrix: wider(data[matrix]), side: data[side]}
    return {name: tensor(t) for name, t in blocks.items()}, known.solution["x"]


SEEDS = [699611053, 280763989, 744959101, 211230630, 1, 2]


@pytest.mark.sample(7)
@pytest.mark.parametrize("where", ["q", "P"])
@pytest.mark.parametrize("large", [1e4, 1e6, 10**8.5, 1e9])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_large_cost_elsewhere_excuses_no_error(seed, large, where):
    data, x = beside_a_large_cost(seed, large, where)
    try:
        solution = dcl.QPLayer().solve(**data)
    except dcl.SolveError:
        assert large > 1e8, "an honest failure, but only where the scales are hopeless"
        return
    np.testing.assert_allclose(solution.x[:5].numpy(), x, atol=1e-6)


@pytest.mark.parametrize("size", [1e-10, 1e-6, 1.0, 1e6])
def test_small_and_large_answers(size):
    # the projection of (1, -0.5) size onto the box of 0.7 and -0.3 size
    q, lb, ub = tensor([-size, 0.5 * size]).requires_grad_(), tensor([-0.3 * size] * 2), tensor([0.7 * size] * 2)
    result, solution = dcl.solve_qp(torch.eye(2).double(), q, lb=lb, ub=ub, return_solution=True)
    np.testing.assert_allclose(result.x.detach().numpy(), [0.7 * size, -0.3 * size], rtol=1e-12)
    assert int(solution.gradient_kind) == dcl.GradientKind.EXACT


def test_a_small_multiplier_beside_a_large_cost_is_not_zero():
    q = tensor([1e8, -1.0]).requires_grad_()
    result, solution = dcl.solve_qp(
        torch.diag(tensor([0.0, 1.0])), q, lb=tensor([0.0, -10.0]), ub=tensor([10.0, 0.95]), return_solution=True
    )
    assert int(solution.gradient_kind) == dcl.GradientKind.EXACT
    np.testing.assert_allclose(result.z_ub.detach().numpy(), [0.0, 0.05], rtol=1e-9)


def test_crossing_bounds_are_infeasible_however_close():
    with pytest.raises(dcl.SolveError) as caught:
        dcl.solve_qp(torch.eye(1).double(), tensor([0.0]), lb=tensor([1e-8]), ub=tensor([-1e-8]))
    assert caught.value.statuses == [dcl.Status.PRIMAL_INFEASIBLE]


@pytest.mark.parametrize("P", [1e-310, 1e-200, 1e200, 1.7e308])
def test_extreme_numbers_do_not_crash(P):
    x = dcl.solve_qp(tensor([[P]]), tensor([1.0]), lb=tensor([-1.0])).x
    assert x.item() == pytest.approx(max(-1.0, -1.0 / P), rel=1e-9)


def test_forward_mode_takes_the_same_derivative_at_a_kink_and_says_so():
    P, q, ub = torch.eye(2).double(), tensor([-1.0, -1.0]), tensor([1.0, 5.0])
    direction = tensor([1.0, 0.0])
    quiet = dcl.QPLayer(on_degenerate="ignore")
    with fwAD.dual_level():
        forward = fwAD.unpack_dual(quiet(P, fwAD.make_dual(q, direction), ub=ub).x).tangent
    _, func = torch.func.jvp(lambda t: quiet(P, t, ub=ub).x, (q,), (direction,))
    reverse = torch.autograd.functional.jacobian(lambda t: quiet(P, t, ub=ub).x, q) @ direction
    torch.testing.assert_close(forward, tensor([-0.5, 0.0]))
    torch.testing.assert_close(func, forward)
    torch.testing.assert_close(reverse, forward)
    strict = dcl.QPLayer(on_degenerate="raise")
    with fwAD.dual_level(), pytest.raises(dcl.DegenerateError):
        strict(P, fwAD.make_dual(q, direction), ub=ub)
    with pytest.raises(dcl.DegenerateError):
        torch.func.jvp(lambda t: strict(P, t, ub=ub).x, (q,), (direction,))


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_infinite_bounds_have_no_multiplier(mu):
    data = {"P": tensor([[1.0]]), "q": tensor([-1.0]), "G": tensor([[1.0]]), "h": tensor([np.inf])}
    result = dcl.solve_qp(**data, lb=tensor([-np.inf]), ub=tensor([2.0]), mu=mu)
    assert result.z.item() == 0.0
    assert result.z_lb.item() == 0.0
    stationarity = result.x - 1.0 + result.z_ub
    assert abs(stationarity.item()) < 1e-12
    assert ((2.0 - result.x) * result.z_ub).item() == pytest.approx(mu, abs=1e-12)


@pytest.mark.parametrize("mu", [1e-3, 1.0, 57.0, 1e3])
def test_the_path_is_found_far_from_the_solution(mu):
    q, lb, ub = tensor([-0.072, 0.13]), tensor([-3.0, -3.0]), tensor([3.0, 3.0])
    G, h = tensor([[1.6276, -0.5857], [0.0817, 1.3848], [-0.8279, 1.3045]]), tensor([362.757, 47.9735, 1.3786])
    x = dcl.solve_qp(None, q, G=G, h=h, lb=lb, ub=ub, mu=mu).x.detach()
    # stationarity of q'x - mu * (sum of logs of the slacks)
    gradient = q + mu * (G.T @ (1.0 / (h - G @ x)) - 1.0 / (x - lb) + 1.0 / (ub - x))
    assert float(gradient.abs().max()) < 1e-8 * (1.0 + mu)
