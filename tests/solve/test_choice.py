"""Which solver is asked, with which options: the rule, names and options of other packages, and what is refused."""

import numpy as np
import pytest
from solver_cases import built, solved

from dcl.cones.orthant import Nonnegative
from dcl.errors import CompatibilityWarning, OptionError
from dcl.program import Structure
from dcl.program.pattern import DensePattern, pattern_of
from dcl.solvers import Claim, Clarabel, Daqp, Osqp, Piqp, Scs
from dcl.solvers.choose import Choice, after_claims, configure, solver_order


def test_clarabel_takes_tol_for_eps():
    prog, _, _ = built(3, 10, 20, 3)
    np.testing.assert_array_equal(solved(Clarabel(tol=1e-3), prog).x, solved(Clarabel(eps=1e-3), prog).x)
    with pytest.raises(OptionError, match="tol"):
        Clarabel(tol=1e-3, eps=1e-4)


def structure(n, m, *, dense=True):
    def pattern(rows, cols):
        return DensePattern((rows, cols)) if dense else pattern_of(np.arange(1), np.arange(1), (rows, cols))

    return Structure(pattern(n, n), pattern(m, n), Nonnegative(m))


def names(solvers):
    return [solver.name for solver in solvers]


@pytest.mark.parametrize(
    ("n", "m", "dense", "lp", "expected"),
    [
        (10, 15, True, False, ["DAQP", "PIQP", "CLARABEL", "OSQP"]),
        (10, 15, False, True, ["DAQP", "PIQP", "CLARABEL", "OSQP"]),
        (100, 270, True, True, ["PIQP", "CLARABEL", "DAQP", "OSQP"]),
        (600, 600, True, False, ["PIQP", "CLARABEL", "DAQP", "OSQP"]),
        (1000, 1000, False, False, ["PIQP", "CLARABEL", "OSQP"]),
        (1000, 1000, False, True, ["HIGHS", "CLARABEL", "PIQP", "OSQP"]),
    ],
)
def test_rule(n, m, dense, lp, expected):
    assert names(solver_order(structure(n, m, dense=dense), lp, None)) == expected


def test_a_chosen_solver_goes_first_and_only_limit_and_verbose_go_on():
    chosen = Osqp(eps=1e-3, max_iters=5, verbose=True)
    first, *rest = solver_order(structure(5, 5), False, chosen)
    assert first is chosen
    assert rest == [Daqp(verbose=True), Piqp(verbose=True), Clarabel(verbose=True)]
    limited = solver_order(structure(5, 5), False, Osqp(time_limit=2.0))
    assert limited == (Osqp(time_limit=2.0), Daqp(time_limit=2.0), Clarabel(time_limit=2.0))


def test_options_without_a_solver_go_to_the_first_of_the_rule():
    choice = configure(None, {"eps": 1e-4, "max_iter": 9, "time_limit": 3.0})
    assert choice.order(structure(5, 5), False) == (
        Daqp(eps=1e-4, max_iters=9, time_limit=3.0),
        Clarabel(time_limit=3.0),
        Osqp(time_limit=3.0),
    )
    assert choice.order(structure(600, 600), False)[0] == Clarabel(eps=1e-4, max_iters=9, time_limit=3.0)


def test_a_claim_of_infeasibility_goes_to_a_solver_with_certificates():
    _, *rest = solver_order(structure(5, 5), False, None)
    assert names(after_claims(rest, np.array([Claim.PRIMAL_INFEASIBLE], dtype=np.int8))) == ["CLARABEL", "OSQP", "PIQP"]
    assert names(after_claims(rest, np.array([Claim.DUAL_INFEASIBLE], dtype=np.int8))) == ["CLARABEL", "OSQP", "PIQP"]
    assert names(after_claims(rest, np.array([Claim.FAILED], dtype=np.int8))) == ["PIQP", "CLARABEL", "OSQP"]


@pytest.mark.parametrize(
    ("solver", "args", "expected"),
    [
        ("clarabel", {"tol": 1e-8}, Choice(Clarabel(tol=1e-8))),
        ("OSQP", {"rho": 1.0}, Choice(Osqp(rho=1.0))),
        (Piqp(eps=1e-8), {"max_iters": 7}, Choice(Piqp(eps=1e-8, max_iters=7))),
        ("CUCLARABEL", None, Choice(Clarabel())),
        ("DIFFCP", None, Choice()),
        ("Moreau", {"eps": 1e-8}, Choice(options={"eps": 1e-8})),
        (None, {"solve_method": "Clarabel"}, Choice(Clarabel())),
        (None, {"solve_method": "SCS", "n_jobs_forward": 3}, Choice(threads=3)),
        ("DIFFCP", {"solve_method": "ECOS", "n_jobs_forward": -1}, Choice()),
        # tolerances of others: the smallest; an option of the solver's own stays what it is
        ("MOREAU", {"tol": 1e-9}, Choice(options={"eps": 1e-9})),
        ("DIFFCP", {"eps_abs": 1e-7, "eps_rel": 1e-9, "eps": 1e-8}, Choice(options={"eps": 1e-9})),
        (None, {"solve_method": "ECOS", "abstol": 1e-7, "reltol": None}, Choice(options={"eps": 1e-7})),
        ("MOREAU", {"tol": 1e-6, "ipm_settings": {"tol_gap_rel": 1e-8}}, Choice(options={"eps": 1e-8})),
        (
            "MOREAU",
            {"active_set_settings": {"primal_tol": 1e-8, "iter_limit": 9}},
            Choice(options={"max_iters": 9, "eps": 1e-8}),
        ),
        ("MPAX", {"iteration_limit": 7, "eps_abs": 1e-6}, Choice(options={"max_iters": 7, "eps": 1e-6})),
        ("SCS", {"time_limit_secs": 2.0, "eps_rel": 1e-6}, Choice(Scs(eps=1e-6, time_limit=2.0))),
        ("CUCLARABEL", {"tol_gap_abs": 1e-7, "tol_feas": 1e-8}, Choice(Clarabel(eps=1e-8))),
        ("CLARABEL", {"tol": 1e-7}, Choice(Clarabel(tol=1e-7))),
        (Osqp(), {"eps_abs": 1e-7, "rho": 1.0}, Choice(Osqp(eps=1e-7, rho=1.0))),
        ("DAQP", {"dual_tol": 1e-9}, Choice(Daqp(dual_tol=1e-9))),
    ],
)
def test_configure(solver, args, expected):
    assert configure(solver, args) == expected


@pytest.mark.parametrize(
    ("solver", "args", "over", "expected"),
    [
        (None, {"eps": 1e-9, "max_iters": 7}, {"eps": 1e-4}, Choice(options={"eps": 1e-4, "max_iters": 7})),
        # the call comes first in another spelling too, and with a looser tolerance
        ("MOREAU", {"max_iters": 7}, {"max_iter": 9}, Choice(options={"max_iters": 9})),
        ("MOREAU", {"tol": 1e-9}, {"ipm_settings": {"tol_feas": 1e-4}}, Choice(options={"eps": 1e-4})),
        (None, {"solve_method": "ECOS"}, {"solve_method": "Clarabel"}, Choice(Clarabel())),
        (None, {"n_jobs_forward": 2}, {"n_jobs_forward": -1}, Choice()),
    ],
)
def test_configure_for_one_call(solver, args, over, expected):
    assert configure(solver, args, over) == expected


@pytest.mark.parametrize(
    ("solver", "args", "words"),
    [
        ("GUROBI", None, "DAQP"),
        ("GUROBI", None, "CLARABEL"),
        (3, None, "OSQP"),
        (None, {"rho": 1.0}, "max_iters"),
        (None, {"eps": -1.0}, "eps"),
        ("DAQP", {"rho": 1.0}, "dual_tol"),
        (Daqp(), {"rho": 1.0}, "dual_tol"),
        ("OSQP", {"solve_method": "ECOS"}, "different"),
        ("OSQP", {"max_iter": 3, "max_iters": 4}, "synonym"),
        ("PIQP", {"time_limit": 1.0}, "time_limit"),
        (None, {"n_jobs_forward": 0}, "n_jobs_forward"),
    ],
)
def test_configure_refuses(solver, args, words):
    with pytest.raises(OptionError, match=words):
        configure(solver, args)


def test_configure_warns_once_of_what_it_ignores():
    with pytest.warns(CompatibilityWarning, match="acceleration_lookback.*mode") as caught:
        configure(None, {"acceleration_lookback": 0, "mode": "lsqr", "n_jobs_backward": 1})
    assert len(caught) == 1


# The pool
