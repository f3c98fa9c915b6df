"""Options that programs written for cvxpylayers give to its solvers: what they mean here, if anything, in one table.

    a tolerance           -> eps, the smallest of those that were given: it is relative and absolute, for residuals and gap
    a limit               -> max_iters, time_limit
    a dict of settings    -> its tolerances and limits; the rest of it is ignored (MOREAU's ipm_settings)
    what steers a method other than the one that is used is ignored, with one CompatibilityWarning

A name that is neither here nor an option of the solver is a misspelled one: an OptionError.  For DAQP, PIQP and OSQP, which
cvxpylayers does not offer, there is no table: beside their own options only tolerances, limits and diffcp's are understood.

Sources: the settings of SCS 3.2, ECOS 2.0, Clarabel 0.11, moreau 0.4 and MPAX 0.2, and the signatures of diffcp 1.1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real

from dcl.errors import OptionError

_TOLERANCES = (
    *("eps_abs", "eps_rel"),  # SCS, MPAX
    *("tol", "tol_gap_abs", "tol_gap_rel", "tol_feas"),  # MOREAU, Clarabel
    *("abstol", "reltol", "feastol"),  # ECOS
    "primal_tol",  # MOREAU's active-set method
)
_LIMITS = {
    "max_iter": "max_iters",  # MOREAU, Clarabel
    "iter_limit": "max_iters",  # MOREAU's active-set method
    "iteration_limit": "max_iters",  # MPAX
    "time_limit_secs": "time_limit",  # SCS
}
_SETTINGS = ("ipm_settings", "active_set_settings")  # MOREAU

# What is ignored: of diffcp, whatever its solver (acceleration_lookback is an option of SCS, its default) ...
_OF_DIFFCP = ("acceleration_lookback", "derivative_kwargs", "mode", "n_jobs_backward", "raise_on_error", "warm_start")
# ... and of each solver and back end.
_IGNORED = {
    "SCS": """
        acceleration_interval adaptive_scale alpha cudss eps_infeas gpu log_csv_filename mkl normalize rho_x scale
        use_indirect write_data_filename
        """,
    "ECOS": "abstol_inacc feastol_inacc reltol_inacc",
    "CLARABEL": """
        chordal_decomposition_compact chordal_decomposition_complete_dual chordal_decomposition_enable
        chordal_decomposition_merge_method device direct_kkt_solver direct_solve_method dynamic_regularization_delta
        dynamic_regularization_enable dynamic_regularization_eps equilibrate_enable equilibrate_max_iter
        equilibrate_max_scaling equilibrate_min_scaling input_sparse_dropzeros iterative_refinement_abstol
        iterative_refinement_enable iterative_refinement_max_iter iterative_refinement_reltol
        iterative_refinement_stop_ratio linesearch_backtrack_step max_step_fraction max_threads min_switch_step_length
        min_terminate_step_length pardiso_iparm pardiso_verbose presolve_enable reduced_tol_feas reduced_tol_gap_abs
        reduced_tol_gap_rel reduced_tol_infeas_abs reduced_tol_infeas_rel reduced_tol_ktratio
        static_regularization_constant static_regularization_enable static_regularization_proportional tol_infeas_abs
        tol_infeas_rel tol_ktratio
        """,
    "MOREAU": "auto_tune batch_size device device_id enable_grad solver yolo yolo_num_iters",
    "MPAX": """
        adaptive_step_size adaptive_step_size_growth_exponent adaptive_step_size_limit_coef
        adaptive_step_size_reduction_exponent algorithm artificial_restart_threshold debug display_frequency
        eps_dual_infeasible eps_feas_polish eps_primal_infeasible feasibility_polishing infeasibility_detection
        initial_dual_solution initial_primal_solution jit l2_norm_rescaling l_inf_ruiz_iterations
        necessary_reduction_for_restart optimality_norm pock_chambolle_alpha primal_importance
        primal_weight_update_smoothing restart_frequency_if_fixed restart_scheme restart_to_current_metric
        scale_invariant_initial_primal_weight sufficient_reduction_for_restart termination_evaluation_frequency unroll
        """,
}


@dataclass(frozen=True)
class Translated:
    """Options in dcl's names, and the names of those that were given and mean nothing here."""

    options: dict[str, object]
    ignored: tuple[str, ...]


def translate(given: Mapping[str, object], own: Collection[str], solver: str | None) -> Translated:
    """The options `given` to a solver that has the options `own`; solver: its name, None if dcl's rule chooses it.

    Law: an option of `own` other than eps stays as it is, and so does a name that is in no table, for the solver to refuse.
    Raises OptionError for a tolerance that is not a positive number, and for a limit that is given twice.

    Example:
        >>> own = ("eps", "max_iters", "time_limit", "verbose")
        >>> translate({"tol_feas": 1e-6, "ipm_settings": {"tol_gap_abs": 1e-9}, "max_iter": 50, "alpha": 1.5}, own, None)
        Translated(options={'max_iters': 50, 'eps': 1e-09}, ignored=('alpha',))
    """
    tables = [table.split() for name, table in _IGNORED.items() if solver is None or solver == name]
    foreign = {*_OF_DIFFCP, *_SETTINGS, *(name for table in tables for name in table)}
    options: dict[str, object] = {}
    tolerances: dict[str, object] = {}
    ignored = []
    for label, option, value in _entries(given):
        name = option if option in own else _LIMITS.get(option, option)
        if name == "eps" or (name in _TOLERANCES and name not in own):
            tolerances[label] = value
        elif name in own or (label == option and name not in foreign):
            if name in options:
                raise OptionError(f"solver_args has both {name!r} and a synonym of it", argument="solver_args")
            options[name] = value
        elif value is not None:
            ignored.append(label)
    if tolerances:
        options["eps"] = _smallest(tolerances)
    return Translated(options, tuple(ignored))


def _entries(given: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    """The options, those of a dict of settings too: as messages call it, its name, its value."""
    for name, value in given.items():
        if name in _SETTINGS and isinstance(value, Mapping):
            yield from ((f"{name}[{inner!r}]", inner, entry) for inner, entry in value.items())
        else:
            yield name, name, value


def _smallest(tolerances: Mapping[str, object]) -> object:
    """The smallest tolerance, None if none has a value."""
    numbers: list[float] = []
    for label, value in tolerances.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0.0:
            raise OptionError(f"{label} must be a positive number, not {value!r}", argument=label)
        numbers.append(float(value))
    return min(numbers, default=None)
