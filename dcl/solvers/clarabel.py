"""Clarabel, a homogeneous interior-point method: sparse programs, and certificates of infeasibility.

    Clarabel:  min 1/2 x'Px + q'x   s.t.  Ax + s = b,  s in K     dual z in K*: the form and the signs of dcl itself

P goes in by its upper triangle, K block by block: the order of rows and the coordinates of semidefinite cones are those of
dcl.  On infeasibility Clarabel leaves the certificate in z (primal) or x (dual).  Its Almost* statuses become the same
claims as the full ones: dcl checks them.  b from 1e20 on is infinite for Clarabel, and its row is dropped.

Tolerance [run, 20 random LPs, n 30]: at 1e-8, 1e-9, 1e-10, 1e-11 it says Solved on 19, 17, 9 and 2 of them, with a
median residual of 9e-9, 2e-9, 9e-10, 9e-10: below 1e-9 only time is spent.  On QPs 1e-11 is reached.  dcl polishes.

Its tolerances are absolute for small data, and with |b| of 1e-6 and cones other than orthants what it leaves no longer can
be polished.  So such programs go in with b and the objective of size one:  x = length x',  z = cost / length z'.  To do
that always loses more than it gains on SDPLIB and CBLIB (isil01's certificate).

Semidefinite cones are split along the cliques of the pattern of A and b.  Clarabel's own way of merging them, clique_graph,
panics (index out of bounds, 0.11.1) or does not end on some graphs that are not connected.  There parent_child takes its place,
which did neither [run, 160 random sparse graphs of 20 to 90 vertices]; elsewhere it is slower, by 1.1 to 2 at orders of 20 to 36.

Ctrl-C: Clarabel sees no signals, and an exception in its callback is printed and lost [run].  In a worker thread,
where `stop` is given, it is asked after each iteration whether to go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from dcl.cones.base import Block
from dcl.errors import OptionError
from dcl.solvers.base import ALL_CONES, AbstractSolver, Array, Claim, HostProgram, Iterates, check_options
from dcl.solvers.convert import by_columns, vectors

if TYPE_CHECKING:
    import clarabel

_EPS = 1e-9
_SMALL = 1e-3
# Units are between 2^-_MOST and 2^_MOST.
_MOST = 300


@dataclass(frozen=True, kw_only=True)
class Clarabel(AbstractSolver):
    """Clarabel. eps, or its synonym tol, is its tolerance on residuals and duality gap, relative and absolute.

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Clarabel(eps=1e-9))
        >>> layer(torch.eye(2), torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    tol: float | None = None

    name: ClassVar[str] = "CLARABEL"
    package: ClassVar[str] = "clarabel"
    cones: ClassVar[frozenset[str]] = ALL_CONES
    releases_gil: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = True
    gives_basic_duals: ClassVar[bool] = False
    finds_center: ClassVar[bool] = True
    limits_time: ClassVar[bool] = True
    tolerances: ClassVar[tuple[str, ...]] = ("eps", "tol")

    def __post_init__(self) -> None:
        check_options(self)
        if self.eps is not None and self.tol is not None and self.eps != self.tol:
            raise OptionError("CLARABEL: eps and tol are the same option; give one of them", argument="tol")

    def solve(
        self,
        program: HostProgram,
        rows: Iterable[int],
        out: Iterates,
        start: Iterates | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        import clarabel

        rows, claims = list(rows), _claims()
        n, m = program.n, program.m
        Ps = by_columns(program.P, program.P_index, (n, n), rows, upper=True)
        As = by_columns(program.A, program.A_index, (m, n), rows)
        cones = [clarabel.ZeroConeT(program.zeros), clarabel.NonnegativeConeT(program.nonnegatives)]
        cones += [cone for block in program.cones for cone in _cones(block)]
        settings = self._settings()

        for i, P, q, A, b in zip(rows, Ps, vectors(program.q, rows), As, vectors(program.b, rows), strict=False):
            if stop is not None and stop.is_set():
                return
            began = time.perf_counter()
            length, cost = _units(P, q, b) if program.cones else (1.0, 1.0)
            if (length, cost) != (1.0, 1.0):
                P, q, b = P * (length * length / cost), q * (length / cost), b / length
            settings.chordal_decomposition_merge_method = _merging(program, A, b)
            solver = clarabel.DefaultSolver(P, q, A, b, cones, settings)
            if stop is not None:
                solver.set_termination_callback(_until(stop))
            solution = solver.solve()
            out.seconds[i] = time.perf_counter() - began

            claim = claims.get(solution.status, Claim.FAILED)
            out.claim[i] = claim
            out.iterations[i] = solution.iterations
            if claim != Claim.PRIMAL_INFEASIBLE:
                out.x[i] = np.multiply(length, solution.x)
            if claim != Claim.DUAL_INFEASIBLE:
                out.z[i] = np.multiply(cost / length, solution.z)

    def _settings(self) -> clarabel.DefaultSettings:
        """Clarabel's settings for these options."""
        import clarabel

        eps = next((value for value in (self.eps, self.tol) if value is not None), _EPS)
        settings = clarabel.DefaultSettings()
        settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = eps
        settings.tol_infeas_abs = settings.tol_infeas_rel = min(eps, _EPS)
        settings.verbose = self.verbose
        settings.direct_solve_method = "qdldl"
        settings.max_threads = 1  # the batch is what runs in parallel
        if self.max_iters is not None:
            settings.max_iter = self.max_iters
        if self.time_limit is not None:
            settings.time_limit = self.time_limit
        return settings


@cache
def _claims() -> dict[Any, Claim]:
    """What Clarabel's statuses claim."""
    from clarabel import SolverStatus

    return {
        SolverStatus.Solved: Claim.SOLVED,
        SolverStatus.AlmostSolved: Claim.SOLVED,
        SolverStatus.PrimalInfeasible: Claim.PRIMAL_INFEASIBLE,
        SolverStatus.AlmostPrimalInfeasible: Claim.PRIMAL_INFEASIBLE,
        SolverStatus.DualInfeasible: Claim.DUAL_INFEASIBLE,
        SolverStatus.AlmostDualInfeasible: Claim.DUAL_INFEASIBLE,
        SolverStatus.MaxIterations: Claim.MAX_ITERATIONS,
        SolverStatus.MaxTime: Claim.TIME_LIMIT,
    }


def _merging(program: HostProgram, A: sp.csc_matrix, b: Array) -> str:
    """clique_graph, Clarabel's default, if the graphs of all semidefinite cones are connected; see the header."""
    used = (np.bincount(A.indices, minlength=program.m) > 0) | (b != 0.0)
    first, vertex, cones, edges = program.zeros + program.nonnegatives, 0, 0, [np.zeros((2, 0), dtype=np.int64)]
    for block in program.cones:
        rows = block.rows * block.count
        if block.kind == "semidefinite":
            columns, heights = np.tril_indices(block.size)
            cone, place = np.divmod(np.flatnonzero(used[first : first + rows]), block.rows)
            edges.append(vertex + cone * block.size + np.stack([columns[place], heights[place]]))
            vertex, cones = vertex + block.size * block.count, cones + block.count
        first += rows
    i, j = np.concatenate(edges, axis=1)
    graph = sp.coo_array((np.ones(len(i)), (i, j)), shape=(vertex, vertex))
    connected = vertex == 0 or connected_components(graph, directed=False, return_labels=False) == cones
    return "clique_graph" if connected else "parent_child"


def _units(P: sp.csc_matrix, q: Array, b: Array) -> tuple[float, float]:
    """Powers of two near the sizes of b, a length, and of the objective at points of that length; 1 where b is not small."""
    size = float(np.abs(b).max(initial=0.0))
    if not 0.0 < size < _SMALL:
        return 1.0, 1.0
    length = _power(size)
    return length, _power(length * max(length * float(np.abs(P.data).max(initial=0.0)), float(np.abs(q).max())))


def _power(size: float) -> float:
    return 2.0 ** min(max(round(np.log2(size)), -_MOST), _MOST) if 0.0 < size < np.inf else 1.0


def _until(stop: threading.Event) -> Callable[[clarabel.DefaultInfo], bool]:
    """A callback that tells Clarabel to end once `stop` is set."""
    return lambda _info: stop.is_set()


def _cones(block: Block) -> list[Any]:
    """Clarabel's names for the cones of a block."""
    import clarabel

    if block.kind == "second_order":
        # Clarabel wants at least two rows; with one, the cone is the ray t >= 0
        return [clarabel.SecondOrderConeT(block.size) if block.size > 1 else clarabel.NonnegativeConeT(1)] * block.count
    if block.kind == "semidefinite":
        return [clarabel.PSDTriangleConeT(block.size)] * block.count
    if block.kind == "exponential":
        return [clarabel.ExponentialConeT()] * block.count
    return [clarabel.PowerConeT(alpha) for alpha in block.alphas]
