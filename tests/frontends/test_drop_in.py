"""Programs written for cvxpylayers.torch.CvxpyLayer run after a change of the import, and nothing more."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles import polish

import dcl
from dcl import CvxpyLayer

DIFFCP_ARGS = {
    "eps": 1e-10,
    "max_iters": 10000,
    "acceleration_lookback": 0,
    "mode": "dense",
    "solve_method": "SCS",
    "n_jobs_forward": 1,
    "n_jobs_backward": 1,
}
KKT = {"rtol": 1e-8, "atol": 1e-9}


def problem_of_readme():
    n, m = 2, 3
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    return cp.Problem(cp.Minimize(0.5 * cp.pnorm(A @ x - b, p=1)), [x >= 0]), A, b, x


def ridge(n=4, m=7):
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + cp.sum_squares(x))), A, b, x


def ridge_data(*lead, seed=0, n=4, m=7):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((*lead, m, n), (*lead, m))
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def closed_form(A, b):
    return torch.linalg.solve(A.mT @ A + torch.eye(A.shape[-1], dtype=A.dtype), A.mT @ b.unsqueeze(-1)).squeeze(-1)


def test_example_of_the_readme():
    problem, A, b, x = problem_of_readme()
    assert problem.is_dpp()
    cvxpylayer = CvxpyLayer(problem, parameters=[A, b], variables=[x])
    torch.manual_seed(0)
    A_tch = torch.randn(3, 2, requires_grad=True)
    b_tch = torch.randn(3, requires_grad=True)

    # solve the problem
    (solution,) = cvxpylayer(A_tch, b_tch)

    # compute the gradient of the sum of the solution with respect to A, b
    solution.sum().backward()

    assert solution.dtype == torch.float32
    A.value, b.value = A_tch.detach().double().numpy(), b_tch.detach().double().numpy()
    polish.solve(problem)
    np.testing.assert_allclose(solution.detach(), x.value, atol=1e-5)
    assert A_tch.grad.shape == (3, 2)
    assert b_tch.grad.shape == (3,)
    assert A_tch.grad.any()
    step = torch.zeros(3).index_fill(0, b_tch.grad.abs().argmax(), 1e-3)
    up, down = (cvxpylayer(A_tch.detach(), b_tch.detach() + sign * step)[0].sum() for sign in (1, -1))
    assert float((up - down) / 2e-3) == pytest.approx(
        float(b_tch.grad.abs().max() * b_tch.grad[step > 0].sign()), rel=1e-3
    )


def test_least_squares_against_autograd_through_a_linear_solve():
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data()
    prob_layer = CvxpyLayer(problem, [A, b], [x])
    (x_tch,) = prob_layer(A_tch, b_tch, solver_args={"eps": 1e-10})
    found = torch.autograd.grad(x_tch.square().sum(), [A_tch, b_tch])
    lstsq = closed_form(A_tch, b_tch)
    torch.testing.assert_close(x_tch, lstsq, **KKT)
    torch.testing.assert_close(found, torch.autograd.grad(lstsq.square().sum(), [A_tch, b_tch]), **KKT)


@pytest.mark.parametrize("leads", [((5,), (5,)), ((5,), ()), ((), (5,)), ((), ()), ((2, 5), (5,))], ids=str)
def test_batched_and_unbatched_parameters(leads):
    problem, A, b, x = ridge()
    layer = CvxpyLayer(problem, [A, b], [x])
    A_tch, b_tch = ridge_data(*leads[0])[0], ridge_data(*leads[1], seed=1)[1]
    (x_tch,) = layer(A_tch, b_tch)
    expected = closed_form(A_tch, b_tch.expand(*torch.broadcast_shapes(*leads), 7))
    torch.testing.assert_close(x_tch, expected, **KKT)
    found = torch.autograd.grad(x_tch.square().sum(), [A_tch, b_tch])
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), [A_tch, b_tch]), **KKT)


def test_shared_parameter():
    x, A, b1, b2 = cp.Variable(4), cp.Parameter((6, 4)), np.arange(6.0), np.ones(6)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b1) + cp.sum_squares(A @ x - b2)))
    (A_tch, _) = ridge_data(n=4, m=6)
    (x_tch,) = CvxpyLayer(problem, parameters=[A], variables=[x])(A_tch)
    middle = torch.tensor((b1 + b2) / 2)
    expected = torch.linalg.lstsq(A_tch, middle.unsqueeze(-1)).solution.squeeze(-1)
    torch.testing.assert_close(x_tch, expected, **KKT)
    torch.testing.assert_close(
        torch.autograd.grad(x_tch.sum(), A_tch), torch.autograd.grad(expected.sum(), A_tch), **KKT
    )


def test_equality():
    x, A, b = cp.Variable(3), np.eye(3), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b]), parameters=[b], variables=[x])
    value = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    (found,) = layer(value)
    (found * torch.arange(3.0)).sum().backward()
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(value.grad, torch.arange(3.0))


def test_broadcasting_inside_of_the_problem():
    x, shift, scale = cp.Variable((2, 3)), cp.Parameter(), cp.Parameter(nonneg=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - shift) + scale * cp.sum(x))), [shift, scale], [x])
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 2.0)]
    (found,) = layer(*values)
    torch.testing.assert_close(found, (values[0] - 0.5 * values[1]).expand(2, 3))
    found.sum().backward()
    assert [float(v.grad) for v in values] == pytest.approx([6.0, -3.0])


def test_a_layer_in_a_model_learns():
    # the bilevel example of cvxpylayers: recover the threshold of a projection by gradient descent
    x, point, budget = cp.Variable(5), cp.Parameter(5), cp.Parameter()
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(x - point)), [cp.sum(x) <= budget, x >= 0]), [point, budget], [x]
    )
    points = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    (target,) = layer(points, torch.tensor(0.8))
    budget_tch = torch.nn.Parameter(torch.tensor(2.0))
    optimizer = torch.optim.SGD([budget_tch], lr=5.0)
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(points, budget_tch)[0] - target).square().mean()
        loss.backward()
        optimizer.step()
    assert float(budget_tch.detach()) == pytest.approx(0.8, abs=0.01)


# Errors of the kinds that its users catch


def test_errors_are_value_errors_too():
    problem, A, b, x = ridge()
    layer = CvxpyLayer(problem, [A, b], [x])
    A_tch, b_tch = ridge_data()
    with pytest.raises(ValueError, match="must exactly match"):
        CvxpyLayer(problem, [A], [x])
    with pytest.raises(ValueError, match="takes 2 tensors"):
        layer(A_tch)
    with pytest.raises(ValueError, match=r"must be a torch\.Tensor, got NoneType"):
        layer(A_tch, None)
    with pytest.raises(ValueError, match="neither a variable"):
        CvxpyLayer(problem, [A, b], [x, cp.Variable(2)])
    with pytest.raises(ValueError, match="must have shape"):
        layer(A_tch, torch.ones(3))
    with pytest.raises(RuntimeError, match="PRIMAL_INFEASIBLE"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b[:4])), [x >= 1, x <= 0]), [b], [x])(b_tch)


def test_its_phrases_are_in_the_messages():
    problem, A, b, x = ridge()
    layer = CvxpyLayer(problem, [A, b], [x])
    A_tch, b_tch = ridge_data()
    Q = cp.Parameter((4, 4), PSD=True)
    cases = {
        r"must be a subset of problem\.variables": lambda: CvxpyLayer(problem, [A, b], [x, cp.Variable(2)]),
        "must be a subset of": lambda: CvxpyLayer(problem, [A, b], [(x >= 1).dual_variables[0]]),
        "A tensor must be provided for each CVXPY parameter": lambda: layer(A_tch),
        "Inconsistent batch sizes": lambda: layer(A_tch.expand(3, -1, -1), b_tch.expand(2, -1)),
        "Invalid parameter shape": lambda: layer(A_tch, torch.ones(5, 8)),
        "only supported in the objective": lambda: CvxpyLayer(
            cp.Problem(cp.Minimize(cp.sum(x)), [cp.quad_form(x, Q) <= 1]), [Q], [x], solver="MOREAU"
        ),
    }
    for phrase, call in cases.items():
        with pytest.raises(ValueError, match=phrase):
            call()


def test_programs_that_are_not_dpp():
    x, a, c = cp.Variable(2), cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
    with pytest.raises(ValueError, match="not DPP"):
        CvxpyLayer(cp.Problem(cp.Minimize(a * c * cp.sum_squares(x) + cp.sum(x))), [a, c], [x])


# Options


@pytest.mark.parametrize(
    "solver",
    [None, "DIFFCP", "MOREAU", "MPAX", "CUCLARABEL", "CLARABEL", "diffcp", cp.CLARABEL, cp.OSQP, cp.DAQP, cp.PIQP],
)
def test_solver_names(solver):
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data()
    (found,) = CvxpyLayer(problem, [A, b], [x], solver=solver)(A_tch, b_tch)
    torch.testing.assert_close(found, closed_form(A_tch, b_tch), **KKT)


@pytest.mark.parametrize("method", ["SCS", "Clarabel", "ECOS", "CLARABEL"])
@pytest.mark.parametrize("solver", [None, "DIFFCP"])
def test_solve_methods(method, solver):
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data()
    layer = CvxpyLayer(problem, [A, b], [x], solver=solver, solver_args={"solve_method": method, "eps": 1e-9})
    expected = closed_form(A_tch, b_tch)
    torch.testing.assert_close(layer(A_tch, b_tch)[0], expected, **KKT)
    torch.testing.assert_close(layer(A_tch, b_tch, solver_args={"solve_method": "Clarabel"})[0], expected, **KKT)
    name = layer.solve(A_tch, b_tch, solver_args={"solve_method": "Clarabel"}).solvers[0]
    assert name == "CLARABEL"


def compatibility_warnings(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [w for w in caught if issubclass(w.category, dcl.CompatibilityWarning)]


@pytest.mark.parametrize("where", ["layer", "call", "both"])
def test_ignored_arguments_are_said_once_per_layer(where):
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data(3)
    at_layer = DIFFCP_ARGS if where != "call" else None
    at_call = DIFFCP_ARGS if where != "layer" else {"eps": 1e-9}
    found = []

    def use():
        layer = CvxpyLayer(problem, [A, b], [x], solver_args=at_layer)
        for _ in range(3):
            found[:] = layer(A_tch, b_tch, solver_args=at_call)
            layer.solve(A_tch, b_tch, solver_args=at_call)

    said = compatibility_warnings(use)
    assert len(said) == 1
    assert all(name in str(said[0].message) for name in ("acceleration_lookback", "mode", "n_jobs_backward"))
    assert "eps" not in str(said[0].message).split()
    assert len(compatibility_warnings(use)) == 1  # another layer says it again
    torch.testing.assert_close(found[0], closed_form(A_tch, b_tch), **KKT)


def test_the_warning_points_at_the_users_line():
    problem, A, b, x = ridge()
    (said,) = compatibility_warnings(lambda: CvxpyLayer(problem, [A, b], [x], solver_args={"mode": "lsqr"}))
    assert said.filename == __file__


def test_options_that_mean_something_do_not_warn():
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data(3)
    layer = CvxpyLayer(
        problem, [A, b], [x], verbose=False, solver_args={"eps": 1e-9, "max_iters": 500, "n_jobs_forward": 2}
    )
    torch.testing.assert_close(layer(A_tch, b_tch)[0], closed_form(A_tch, b_tch), **KKT)  # a warning is an error here


@pytest.mark.parametrize("warm_start", [True, False, None])
def test_warm_start_flags(warm_start):
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data()
    layer = CvxpyLayer(problem, [A, b], [x])
    for _ in range(2):
        (found,) = layer(A_tch, b_tch, warm_start=warm_start)
        torch.testing.assert_close(found, closed_form(A_tch, b_tch), **KKT)


@pytest.mark.parametrize("backend", [None, "CPP", "SCIPY", "COO"])
def test_positional_signature_and_backends(backend):
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data()
    layer = CvxpyLayer(problem, [A, b], [x], "DIFFCP", False, False, backend, {"eps": 1e-9})
    torch.testing.assert_close(layer(A_tch, b_tch)[0], closed_form(A_tch, b_tch), **KKT)


# of each back end of cvxpylayers: what is given, and which names the warning has
FOREIGN = {
    "MOREAU": (
        {"tol": 1e-12, "max_iters": 500, "device": "cpu", "ipm_settings": {"tol_gap_abs": 1e-9, "cudss_ir_steps": 3}},
        ["device", "ipm_settings['cudss_ir_steps']"],
    ),
    "DIFFCP": (
        {
            "eps_abs": 1e-10,
            "eps_rel": 1e-9,
            "use_indirect": True,
            "scale": 0.1,
            "mode": "lsqr",
            "time_limit_secs": 60.0,
        },
        ["mode", "scale", "use_indirect"],
    ),
    "CUCLARABEL": ({"tol_feas": 1e-9, "max_iter": 90, "direct_solve_method": "qdldl"}, ["direct_solve_method"]),
    "MPAX": ({"eps_abs": 1e-6, "iteration_limit": 10000, "algorithm": "r2HPDHG"}, ["algorithm"]),
    "ECOS": ({"abstol": 1e-9, "feastol": 1e-9, "abstol_inacc": 1e-5}, ["abstol_inacc"]),
    cp.SCS: ({"eps_abs": 1e-9, "normalize": False, "acceleration_interval": 5}, ["acceleration_interval", "normalize"]),
    None: ({"tol_gap_abs": 1e-9, "ipm_settings": None, "alpha": 1.5, "yolo": False}, ["alpha", "yolo"]),
}


@pytest.mark.parametrize("solver", FOREIGN)
@pytest.mark.parametrize("where", ["layer", "call"])
def test_options_of_its_back_ends(solver, where):
    problem, A, b, x = ridge()
    A_tch, b_tch = ridge_data()
    args, named = FOREIGN[solver]
    found = []

    def use():
        layer = CvxpyLayer(problem, [A, b], [x], solver=solver, solver_args=args if where == "layer" else None)
        for _ in range(2):
            found[:] = layer(A_tch, b_tch, solver_args=args if where == "call" else None)

    (said,) = compatibility_warnings(use)
    assert said.filename == __file__
    assert sorted(str(said.message).split(" of cvxpylayers")[0].removeprefix("solver_args ").split(", ")) == named
    torch.testing.assert_close(found[0], closed_form(A_tch, b_tch), **KKT)


def test_limits_and_bad_tolerances():
    problem, A, b, x = problem_of_readme()
    layer, data = CvxpyLayer(problem, [A, b], [x], solver="MOREAU"), ridge_data(n=2, m=3)
    with pytest.raises(dcl.SolveError, match="MAX_ITERATIONS"):
        layer.solve(*data, solver_args={"solve_method": "Clarabel", "max_iter": 1})
    for value in (0.0, -1e-6, np.nan, "small", True):
        with pytest.raises(dcl.OptionError, match=r"ipm_settings\['tol_feas'\] must be a positive number"):
            layer.solve(*data, solver_args={"ipm_settings": {"tol_feas": value}})


def test_misspelled_options_of_others_are_errors():
    problem, A, b, x = ridge()
    for solver, args in ((None, {"tol_gap": 1e-9}), ("MOREAU", {"ipm_setting": {}}), ("OSQP", {"use_indirect": True})):
        with pytest.raises(dcl.OptionError, match=next(iter(args))):
            CvxpyLayer(problem, [A, b], [x], solver=solver, solver_args=args)


def test_unknown_options_are_errors():
    problem, A, b, x = ridge()
    for settings in ({"solver": "SCIPY"}, {"solver_args": {"epsilon": 1e-9}}, {"canon_backend": "RUST"}):
        with pytest.raises(dcl.OptionError):
            CvxpyLayer(problem, [A, b], [x], **settings)
