"""Outcomes as values: what happened to an instance, and whether its derivative can be trusted. Each value has a message."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Outcome of one instance, decided by dcl's own check and not by the solver. `message` explains it.

    Example:
        >>> import torch, dcl
        >>> solution = dcl.QPLayer(on_failure="nan").solve(None, torch.ones(1), lb=0.0, ub=torch.tensor([[1.0], [-1.0]]))
        >>> [dcl.Status(code).name for code in solution.status.tolist()]
        ['OPTIMAL', 'PRIMAL_INFEASIBLE']
        >>> dcl.Status.OPTIMAL.message
        'solved: residuals and gap are below 1e-8 relative'
    """

    OPTIMAL = 0
    INACCURATE = 1
    PRIMAL_INFEASIBLE = 2
    DUAL_INFEASIBLE = 3
    MAX_ITERATIONS = 4
    TIME_LIMIT = 5
    NUMERICAL_ERROR = 6
    NOT_STATIONARY = 7
    RUNS_OFF = 8
    FLAT = 9
    SADDLE = 10
    LOCALLY_INFEASIBLE = 11

    @property
    def message(self) -> str:
        """One sentence: what happened, the usual cause, what to try."""
        return _STATUS_MESSAGES[self]

    def message_of(self, maximize: bool) -> str:
        """`message`, with the words for a maximization if `maximize`."""
        return _OF_MAXIMIZATIONS.get(self, self.message) if maximize else self.message


_STATUS_MESSAGES = {
    Status.OPTIMAL: "solved: residuals and gap are below 1e-8 relative",
    Status.INACCURATE: "the best point found misses the tolerance 1e-8 (but not 1e-5): the data may be badly scaled; "
    "rescale them, or try another solver",
    Status.PRIMAL_INFEASIBLE: "no point satisfies the constraints (certificate checked): relax or penalize one of them",
    Status.DUAL_INFEASIBLE: "the objective is unbounded below if any point satisfies the constraints (certificate "
    "checked): add bounds or a regularizing term",
    Status.MAX_ITERATIONS: "the solver stopped at its iteration limit: raise max_iters, or rescale the data",
    Status.TIME_LIMIT: "the solver stopped at its time limit: raise time_limit",
    Status.NUMERICAL_ERROR: "no solver found a point or a certificate that passes the check: the problem may be "
    "nearly infeasible or unbounded, or badly scaled",
    Status.NOT_STATIONARY: "the point reached is not stationary: its Newton step is not small. Start nearer, or try another "
    "solver. Usual causes: a kink (|y|, ReLU) in the objective or the constraints, dependent constraints without "
    "multipliers, or an objective so saturated that its gradient is mostly rounding (take its log)",
    Status.RUNS_OFF: "no minimum was reached from this start: the iterates diverge to infinity while the objective flattens "
    "out or falls without end: bound y, or add a stabilizing term such as |y|^2 / 16",
    Status.FLAT: "the Hessian is singular where the search ended, so the minimizer is not unique or has no derivative: "
    "add a stabilizing term such as |y|^2 / 16",
    Status.SADDLE: "a stationary point, but not a minimum (maximum): the Hessian on the null space of the active constraints "
    'has an eigenvalue of the wrong sign; start elsewhere, or accept it with stationary="any"',
    Status.LOCALLY_INFEASIBLE: "no point that satisfies the constraints was found from this start: they may contradict each "
    "other; start elsewhere, or relax one",
}
_OF_MAXIMIZATIONS = {
    Status.DUAL_INFEASIBLE: "the objective is unbounded above if any point satisfies the constraints (certificate "
    "checked): add bounds or a regularizing term",
}


class GradientKind(IntEnum):
    """Whether the derivative of x and z at a solution is exact, one-sided or not unique. `message` explains it.

    Example:
        >>> import torch, dcl
        >>> q = torch.tensor([[-1.0], [0.0]])  # argmin of x^2 / 2 + q x over x >= 0: inside, and at the kink
        >>> solution = dcl.QPLayer().solve(torch.eye(1), q, lb=0.0)
        >>> [dcl.GradientKind(code).name for code in solution.gradient_kind.tolist()]
        ['EXACT', 'WEAKLY_ACTIVE']
    """

    EXACT = 0
    WEAKLY_ACTIVE = 1
    RANK_DEFICIENT = 2
    NONUNIQUE = 3
    ILL_CONDITIONED = 4

    @property
    def message(self) -> str:
        """One sentence on what is returned and what to do."""
        return _KIND_MESSAGES[self]


_KIND_MESSAGES = {
    GradientKind.EXACT: "the solution map is differentiable here and this is its derivative",
    GradientKind.WEAKLY_ACTIVE: "a constraint holds with equality and zero multiplier: the derivative is one-sided; an "
    "average of the one-sided derivatives (or one of them) is returned",
    # S (dx, w) = (a, R b) with S (0, y) = 0: dx is unique where y'R b = 0, and a change of P or q has b = 0
    GradientKind.RANK_DEFICIENT: "active constraints are linearly dependent, so their multipliers are not unique, and the "
    "minimum-norm derivative is returned. If they are linear, the derivative of x is not affected: it is exact for every "
    "change of the objective, and for changes of the constraints that keep the dependent ones consistent (for others x has "
    "at most one-sided derivatives). The derivative of the multipliers is one of many",
    GradientKind.NONUNIQUE: "the solution is not unique (flat optimal face): the minimum-norm derivative is returned; "
    "a small quadratic term makes it unique",
    GradientKind.ILL_CONDITIONED: "the KKT system is ill-conditioned (above 1e10): expect few correct digits",
}
