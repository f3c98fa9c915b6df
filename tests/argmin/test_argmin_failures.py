"""What has no argmin is not given one: the thread's networks, flat and saddle points, bad input; each with its own error."""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dcl
from dcl.smooth import function
from dcl.smooth.judge import judge

ZERO = torch.zeros(1).double()


def network(seed: int, inputs: int = 1, hidden: int = 3, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The networks of the thread: initialized in `dtype` from the seed, then cast to double."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(inputs, hidden, dtype=dtype), nn.Tanh(), nn.Linear(hidden, 1, bias=False, dtype=dtype)
    return nn.Sequential(*layers).double()


class Stabilized(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor) -> Tensor:
        return self.network(y).squeeze() + y.square().sum() / 16.0


def exact(network: nn.Sequential, start: float, stabilizer: float = 0.0) -> tuple[float, dict[str, list[float]]]:
    """The minimizer near start and its derivative in all weights, by mpmath with 40 digits: lemma 3.1 by hand."""
    first, second = network[0], network[2]
    with mpmath.workdps(40):
        w, c = ([mpmath.mpf(float(t)) for t in p.detach().flatten()] for p in (first.weight, first.bias))
        a = [mpmath.mpf(float(t)) for t in second.weight.detach().flatten()]
        s = mpmath.mpf(stabilizer)

        def slope(x: Any) -> Any:
            return (
                sum(ai * wi * (1 - mpmath.tanh(wi * x + ci) ** 2) for ai, wi, ci in zip(a, w, c, strict=True))
                + 2 * s * x
            )

        x = mpmath.findroot(slope, start)
        t = [mpmath.tanh(wi * x + ci) for wi, ci in zip(w, c, strict=True)]
        bend = sum(-2 * ai * wi**2 * ti * (1 - ti**2) for ai, wi, ti in zip(a, w, t, strict=True)) + 2 * s
        in_bias = [float(2 * ai * wi * ti * (1 - ti**2) / bend) for ai, wi, ti in zip(a, w, t, strict=True)]
        in_weight = [
            float(-(ai * (1 - ti**2) - 2 * x * ai * wi * ti * (1 - ti**2)) / bend)
            for ai, wi, ti in zip(a, w, t, strict=True)
        ]
        in_last = [float(-wi * (1 - ti**2) / bend) for wi, ti in zip(w, t, strict=True)]
        return float(x), {"0.weight": in_weight, "0.bias": in_bias, "2.weight": in_last}


@pytest.mark.parametrize(
    ("seed", "stabilizer", "start", "printed"),
    [(2023, 0.0, 4.4, 4.385826110839844), (456, 1.0 / 16.0, -1.1, -1.146886944770813)],
)
def test_the_threads_minima_and_their_gradients(seed: int, stabilizer: float, start: float, printed: float) -> None:
    net = network(seed)
    layer = dcl.ArgminLayer(Stabilized(net) if stabilizer else net)
    y = layer(ZERO)
    known, gradients = exact(net, start, stabilizer)
    assert abs(known - printed) < 1e-5  # the thread's x_star, found in float32
    np.testing.assert_allclose(y.detach(), [known], rtol=1e-12)
    assert y.shape == (1,)
    y.sum().backward()
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.grad.flatten(), gradients[name], rtol=1e-9)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("seed", "near"), [(141, -1.3), (143, 7.1), (154, 3.0), (272, 4.6), (355, 2.3)])
def test_a_valley_that_a_long_step_leaps_over(seed: int, near: float) -> None:
    """Newton's first step from zero crosses the minimum and runs off; with short steps it is found."""
    y, solution = dcl.argmin(network(seed), ZERO, return_solution=True)
    np.testing.assert_allclose(y.detach(), [exact(network(seed), near)[0]], rtol=1e-10)
    assert solution.solvers[solution.solver] == "newton, short steps"


@pytest.mark.sample(3)
@pytest.mark.parametrize("linear_solve", [None, "cg"])
@pytest.mark.parametrize("solver", [None, "L-BFGS-B"])
def test_seed_456_has_no_minimum(solver: str | None, linear_solve: str | None) -> None:
    layer = dcl.ArgminLayer(network(456), solver=solver, linear_solve=linear_solve)
    with pytest.raises(dcl.DivergedError, match=r"stabilizing term such as \|y\|\^2 / 16") as caught:
        layer(ZERO)
    assert caught.value.statuses == [dcl.Status.RUNS_OFF]
    assert float(str(caught.value).split("y = ")[1].split(",")[0]) < -15.0


@pytest.mark.sample(2)
@pytest.mark.parametrize("linear_solve", [None, "cg"])
def test_seed_123_has_no_minimum(linear_solve: str | None) -> None:
    net = network(123, 3, 2, torch.float64)
    with pytest.raises(dcl.DivergedError):
        dcl.argmin(net, torch.zeros(3).double(), linear_solve=linear_solve)
    # with the term it has one, with gradients of size one and not 1e15
    y, solution = dcl.argmin(Stabilized(net), torch.zeros(3).double(), linear_solve=linear_solve, return_solution=True)
    y.sum().backward()
    assert max(float(p.grad.abs().max()) for p in net.parameters()) < 10.0
    assert solution.condition < 100.0


def judged(objective: Any, at: float, start: float = 0.0) -> Any:
    plan = function.plan([function.part("objective", objective)], 1.0, torch.tensor([start]).double(), (), None, 1)
    v, theta = torch.zeros(1, 0).double(), tuple(t.detach() for t in plan.theta)
    return judge(plan.program, theta, torch.tensor([[at]]).double(), v, 0.0, plan.start, minimum=True).facts


def test_a_small_gradient_is_not_stationary() -> None:
    """Seed 456 at -39.5: |g| = 9e-13 looks converged, but the Newton step is 1.4, since the Hessian is as small."""
    net = network(456)
    facts = judged(net, -39.5)
    assert facts.gradient < 1e-11
    assert facts.step * 40.5 > 1.0
    assert facts.status == dcl.Status.RUNS_OFF
    # while a tiny objective with a minimum has one: its gradient at the wrong point is smaller still
    tiny = lambda y: 1e-14 * (y - 1.0).square().sum()  # noqa: E731
    assert judged(tiny, 1.5).status == dcl.Status.NOT_STATIONARY
    assert judged(tiny, 1.0).status == dcl.Status.OPTIMAL
    np.testing.assert_allclose(dcl.argmin(tiny, ZERO), [1.0], atol=1e-12)


def raises(error: type[Exception], objective: Any, y0: Any, *params: Any, match: str = ".", **settings: Any) -> Any:
    with pytest.raises(error, match=match) as caught:
        dcl.argmin(
            objective,
            torch.as_tensor(y0, dtype=torch.float64) if isinstance(y0, (float, list)) else y0,
            *params,
            **settings,
        )
    return caught.value


def test_the_older_name_of_an_error_stays_for_one_version() -> None:
    with pytest.warns(DeprecationWarning, match="DivergedError"):
        assert dcl.RunsOffError is dcl.DivergedError
    with pytest.raises(AttributeError, match="RunOffError"):
        dcl.RunOffError  # noqa: B018


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("objective", "error"),
    [
        (lambda y: y.pow(4).sum(), dcl.FlatError),
        (lambda y: (y[0] - y[1]) ** 2, dcl.FlatError),
        (lambda y: y[0] ** 2, dcl.FlatError),
        (lambda y: torch.relu(y).sum() + torch.relu(-2.0 * y).sum(), dcl.NotStationaryError),
        (lambda y: y.abs().sum(), dcl.NotStationaryError),
        (lambda y: y.sum(), dcl.DivergedError),
        (lambda y: -y.square().sum(), dcl.DivergedError),
        (lambda y: torch.exp(-y).sum(), dcl.DivergedError),
        (lambda y: y[0] ** 2 - 1e-3 * y[1] ** 2, dcl.DivergedError),
        (lambda y: torch.atan(y).sum(), dcl.DivergedError),
    ],
    ids=["quartic", "valley", "unused", "relu", "abs", "linear", "concave", "exp", "trough", "atan"],
)
def test_no_minimum(objective: Any, error: type[Exception]) -> None:
    found = raises(error, objective, [1.0, 0.5])
    assert "y0" in str(found)
    assert "Newton step" in str(found)


def test_a_minimum_beside_the_end_of_a_domain() -> None:
    """Where y is 1e-12 the Hessian is 1e12, and a step of 1e-8 would leave the domain of the log."""
    s = torch.tensor(1e-12, dtype=torch.float64, requires_grad=True)
    y = dcl.argmin(lambda y, s: y - s * torch.log(y), torch.tensor(1e-3).double(), s)
    np.testing.assert_allclose(y.item(), 1e-12, rtol=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(y, s)[0], 1.0, rtol=1e-9)


def test_saddles_are_left_downhill_and_reported_where_that_is_impossible() -> None:
    def monkey(y: Tensor) -> Tensor:  # a saddle at zero, minima at y_1 = +-1
        return (y[0] ** 2 - 1.0) ** 2 + y[1] ** 2

    np.testing.assert_allclose(dcl.argmin(monkey, torch.zeros(2).double()).abs(), [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(dcl.argmin(monkey, torch.zeros(2).double(), stationary="any"), [0.0, 0.0], atol=1e-12)
    error = raises(dcl.SaddleError, monkey, [0.0, 0.0], solver=lambda y0: y0)
    assert "-4" in str(error)
    assert 'stationary="any"' in str(error)
    # on the null space of the constraint the saddle is a minimum; of the other, a maximum
    fixed = dcl.argmin(monkey, torch.zeros(2).double(), equality=lambda y: y[0])
    np.testing.assert_allclose(fixed, [0.0, 0.0], atol=1e-12)
    raises(dcl.SaddleError, monkey, [0.0, 0.0], equality=lambda y: y[1] + 0.0, solver=lambda y0: y0)
    # a maximum of a concave function is what the argmax wants, and a minimum is none
    raises(dcl.DivergedError, lambda y: y.square().sum(), [1.0, 0.5], maximize=True)


@pytest.mark.slow
def test_infeasible_constraints() -> None:
    for settings in (
        {"inequality": lambda y: torch.stack([y[0] - 1.0, 2.0 - y[0]])},
        {"equality": lambda y: torch.stack([y[0] - 1.0, 2.0 - y[0]])},
        {"equality": lambda y: y.square().sum() + 1.0},
    ):
        error = raises(dcl.LocallyInfeasibleError, lambda y: y.square().sum(), [0.1, 0.2], **settings)
        assert "constraints violated by" in str(error)


@pytest.mark.slow
def test_on_failure_and_mixed_batches() -> None:
    a = torch.tensor([1.0, -1.0, 0.5, 0.0]).double().requires_grad_()
    objective = lambda y, a: a * y * y - y  # noqa: E731
    layer = dcl.ArgminLayer(objective, in_dims=(0, 0))
    with pytest.raises(dcl.NoMinimumError) as caught:
        layer(torch.zeros(4).double(), a)
    assert caught.value.indices == [(1,), (3,)]
    for how in ("nan", "last"):
        y, solution = dcl.ArgminLayer(objective, in_dims=(0, 0), on_failure=how)(
            torch.zeros(4).double(), a, return_solution=True
        )
        assert solution.ok.tolist() == [True, False, True, False]
        np.testing.assert_allclose(y[[0, 2]].detach(), [0.5, 1.0], atol=1e-12)
        assert torch.isnan(y[[1, 3]]).all() == (how == "nan")
        (gradient,) = torch.autograd.grad(y.sum(), a)
        np.testing.assert_allclose(gradient, [-0.5, 0.0, -2.0, 0.0], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("linear_solve", [None, "cg"])
@pytest.mark.parametrize("how", ["nan", "last"])
def test_a_failed_instance_does_not_spoil_shared_gradients(how: str, linear_solve: str | None) -> None:
    """The second instance ends where exp overflows; the gradient of the shared w is that of the first, twice differentiable."""
    a, w = torch.tensor([1.0, -1.0]).double(), torch.tensor(2.0).double().requires_grad_()
    layer = dcl.ArgminLayer(
        lambda y, a, w: a * (torch.exp(w * y) - y),
        in_dims=(None, 0, None),
        on_failure=how,
        linear_solve=linear_solve,
        solver="newton",
    )
    y = layer(torch.zeros(()).double(), a, w)
    np.testing.assert_allclose(y[0].item(), -np.log(2.0) / 2.0, atol=1e-12)  # w exp(w y) = 1
    (gradient,) = torch.autograd.grad(y.sum() if how == "last" else y.nansum(), w, create_graph=True)
    np.testing.assert_allclose(gradient.item(), (np.log(2.0) - 1.0) / 4.0, atol=1e-12)
    (second,) = torch.autograd.grad(gradient, w)
    np.testing.assert_allclose(second.item(), (3.0 - 2.0 * np.log(2.0)) / 8.0, atol=1e-11)


def test_a_tie_is_reported() -> None:
    a = torch.zeros(2).double().requires_grad_()
    with pytest.warns(dcl.DegenerateWarning, match=r"weakly active: inequality\[1\]"):
        y = dcl.argmin(
            lambda y, a: (y - a).square().sum() + y[0], torch.ones(2).double(), a, inequality=lambda y, a: -y
        )
    np.testing.assert_allclose(torch.autograd.grad(y.sum(), a)[0], [0.0, 0.5])
    with pytest.raises(dcl.DegenerateError):
        dcl.argmin(
            lambda y, a: (y - a).square().sum(),
            torch.ones(2).double(),
            a,
            inequality=lambda y, a: -y,
            on_degenerate="raise",
        )


# what the functions reach


class Holder:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, y: Tensor) -> Tensor:
        return Stabilized(self.net)(y)


NET = network(2023)


@pytest.mark.parametrize("how", ["closure", "global", "attribute", "partial", "default", "method", "container"])
def test_a_network_that_was_not_passed_is_named(how: str) -> None:
    net = network(2023)
    functions = {
        "closure": lambda y: net(y).sum(),
        "global": lambda y: NET(y).sum(),
        "attribute": Holder(net),
        "partial": functools.partial(lambda net, y: net(y).sum(), net),
        "default": lambda y, net=net: net(y).sum(),
        "method": Holder(net).__call__,
        "container": (lambda nets: lambda y: nets[0](y).sum())([net]),
    }
    error = raises(dcl.InputError, functions[how], ZERO)
    assert "0.weight" in str(error)
    assert error.argument == "objective"
    with torch.no_grad():  # nothing is lost where no gradient is wanted
        assert bool(torch.isfinite(dcl.argmin(functions[how], ZERO)).all())


def test_a_tensor_that_was_not_passed_is_named() -> None:
    scale = torch.ones(()).double().requires_grad_()
    derived = 2.0 * scale
    raises(dcl.InputError, lambda y: (y * derived - 1.0).square().sum(), ZERO, match="'derived'")
    raises(
        dcl.InputError,
        lambda y: y.square().sum(),
        ZERO,
        inequality=lambda y: scale - y,
        match="inequality reaches .*'scale'",
    )
    fixed = derived.detach()
    np.testing.assert_allclose(dcl.argmin(lambda y: (y * fixed - 1.0).square().sum(), ZERO), [0.5])


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.vmap])
def test_a_tensor_of_an_outer_transform_is_named(transform: Any) -> None:
    with pytest.raises(dcl.InputError, match="'a'"):
        transform(lambda a: dcl.argmin(lambda y: (y - a).square().sum(), ZERO))(ZERO + 1.0)


def test_dropout_and_other_randomness() -> None:
    net = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5), nn.Linear(3, 1)).double()
    raises(dcl.InputError, net, ZERO, match=r"dropout in training mode \(1\)")
    raises(dcl.InputError, lambda y: y.square().sum() + torch.rand(()), ZERO, match="draws random numbers")
    raises(dcl.DivergedError, net.eval(), ZERO)  # a linear function now


# bad input


@pytest.mark.parametrize(
    ("objective", "y0", "match"),
    [
        (lambda y: y.square(), [1.0, 2.0], r"objective must return one number for one instance, got shape \(2,\)"),
        (lambda y: (y > 0).sum(), [1.0, 2.0], "torch.int64"),
        (lambda y: 3.0, [1.0], "got float"),
        (lambda y: y.detach().sum(), [1.0], "not a differentiable function of y"),
        (lambda y: torch.log(y).sum(), [-1.0, 1.0], "y0 is outside the domain of objective: it is nan"),
        (
            lambda y: torch.sqrt(y).sum() + y.square().sum(),
            [0.0, 1.0],
            "y0 is outside the domain of objective: its gradient is inf",
        ),
        (lambda y: y.square().sum(), [float("nan")], r"y0\[0\] is nan"),
        (lambda y: y.square().sum(), "zero", "y0 must be a tensor"),
        (lambda y: y.square().sum(), torch.zeros(2, dtype=torch.int64), "y0 must be real floating point"),
        (lambda y: y.square().sum(), torch.zeros(0), "y0 has no entries"),
        (7, [1.0], "objective must be a function"),
    ],
)
def test_bad_objectives_and_starts(objective: Any, y0: Any, match: str) -> None:
    raises(dcl.InputError, objective, y0, match=match)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"inequality": lambda y: (y > 0).double()}, "inequality is not a differentiable function of y"),
        ({"inequality": lambda y: torch.ones(2).double()}, "inequality is not a differentiable function of y"),
        ({"inequality": lambda y: torch.log(y - 5.0)}, "y0 is outside the domain of inequality"),
        ({"equality": (torch.ones(1, 3).double(), torch.ones(1).double())}, r"A has 3 columns, but y has 2 entries"),
        ({"equality": (torch.ones(1, 2).double(), torch.ones(2).double())}, r"pair \(A, b\) with shapes"),
        ({"equality": "x"}, "equality must be a function"),
        ({"solver": "simplex"}, "valid: None, a function, newton"),
        ({"solver": "bfgs", "equality": lambda y: y.sum()}, "takes no constraints"),
        ({"hessian": "none"}, "valid: 'exact', 'diagonal'"),
        ({"linear_solve": "lu"}, "valid: None, 'cg'"),
        ({"stationary": "saddle"}, "valid: 'minimum', 'any'"),
        ({"mu": -1.0}, "mu is -1.0"),
        ({"on_failure": "skip"}, "on_failure"),
        ({"in_dims": (0,)}, "in_dims"),
        ({"batch_dims": 0, "in_dims": (0, None)}, "batch_dims"),
        ({"solver": lambda y0, a: y0[:1]}, "structure and the shapes of y0"),
        ({"solver": lambda y0, a: y0 / 0.0}, "not finite"),
    ],
)
def test_bad_settings(settings: dict[str, Any], match: str) -> None:
    accepts = {
        name: (lambda y, a, one=one: one(y)) if name in ("equality", "inequality") and callable(one) else one
        for name, one in settings.items()
    }
    raises(
        dcl.InputError, lambda y, a: (y - a).square().sum(), [1.0, 2.0], torch.ones(2).double(), match=match, **accepts
    )


def test_functions_that_fail_are_named() -> None:
    raises(
        dcl.InputError,
        lambda y: y @ torch.ones(3).double(),
        [1.0, 2.0],
        match="fails on one instance.*see in_dims for a batch",
    )
    raises(
        dcl.InputError,
        lambda y: y.sum(),
        [1.0],
        inequality=lambda y: y @ torch.ones(3).double(),
        match=r"inequality.*fails on one",
    )
    layer = dcl.ArgminLayer(lambda y: y.square().sum() if float(y.detach().sum()) > 0 else y.pow(4).sum(), in_dims=(0,))
    with pytest.raises(dcl.InputError, match=r"torch\.func\.vmap"):
        layer(torch.ones(3, 2).double())
    norm = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1)).double()
    with pytest.raises((dcl.InputError, ValueError)):
        dcl.argmin(lambda y, net=norm: net(y.unsqueeze(0)).sum() + y.square().sum(), torch.ones(2).double())


@pytest.mark.slow
def test_points_without_multipliers_are_no_solutions() -> None:
    """At (1, 0) the gradients of the active constraints are opposite: nearby points look better and better, with huge z."""
    raises(
        dcl.NotStationaryError, lambda y: -y[0], [0.1, 0.1],
        inequality=lambda y: torch.stack([y[1] - (1.0 - y[0]) ** 3, -y[0], -y[1]]),
    )  # fmt: skip


def test_bad_batches() -> None:
    layer = dcl.ArgminLayer(lambda y, a: (y - a).square().sum(), in_dims=(0, 0))
    with pytest.raises(dcl.InputError, match=r"params\[0\] has shape \(3, 2\)"):
        layer(torch.zeros(4, 2).double(), torch.zeros(3, 2).double())
    with pytest.raises(
        dcl.InputError, match=r"params\[0\]\[1\] is inf at batch index \(2,\)|params\[0\].*inf.*index \(2,\)"
    ):
        layer(torch.zeros(3, 2).double(), torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, torch.inf]]).double())
    with pytest.raises(dcl.InputError, match="one number"):  # a batch that was not declared
        dcl.argmin(lambda y, a: (y - a).square().sum(-1), torch.zeros(4, 2).double(), torch.zeros(4, 2).double())
    with pytest.raises(dcl.UnsupportedError, match="without constraints"):
        dcl.ArgminLayer(lambda y: y.sum(), inequality=lambda y: y, linear_solve="cg")


def test_a_function_with_too_few_arguments_is_told_how_it_is_called():
    raises(dcl.InputError, lambda y: (y * y).sum(), [1.0], 2.0, match=r"objective\(y, \*params\), with 1 parameter")
