"""The line that `verbose=True` prints for each call, in addition to the solver's own output (some solvers have none).

dcl: 3 instances: solved by DAQP 3; OPTIMAL 3; relative residuals: primal 1.1e-17, dual 0, gap 0; 4 iterations on average, ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from dcl.implicit import DUAL, GAP, ITERATIONS, PRIMAL, SECONDS, SOLVER, STATUS
from dcl.status import Status
from dcl.torch_modes import is_readable


def tell(report: Tensor, solvers: Sequence[str]) -> None:
    """Print the outcome of a call of the careful lane, from its report (B, 7) and the names of the solvers."""
    if not is_readable(report) or not report.shape[0]:
        return
    names = Counter(solvers[int(k)] for k in report[:, SOLVER].tolist())
    statuses = Counter(Status(int(k)).name for k in report[:, STATUS].tolist())
    worst = [float(report[:, column].max()) for column in (PRIMAL, DUAL, GAP)]
    _print(names, statuses, worst, float(report[:, ITERATIONS].mean()), float(report[:, SECONDS].mean()))


def tell_core(status: Tensor, residuals: Tensor, iterations: Tensor, seconds: float) -> None:
    """Print the outcome of a call of the compiled core.

    status (B,): `dcl.core.dense.Code`.  residuals (B, 3): primal, dual, gap.  iterations (B,).  seconds: of the call.
    """
    certified = status == 0
    count = int(certified.sum())
    if not count:
        return
    worst, steps = residuals[certified].amax(0).tolist(), float(iterations[certified].double().mean())
    _print(Counter({"compiled core": count}), Counter(OPTIMAL=count), worst, steps, seconds / len(certified))


def _print(names: Counter[str], statuses: Counter[str], worst: Sequence[float], steps: float, seconds: float) -> None:
    count = names.total()
    by, outcome = (", ".join(f"{name} {k}" for name, k in c.items()) for c in (names, statuses))
    primal, dual, gap = (f"{value:.1e}" if value else "0" for value in worst)
    print(
        f"dcl: {count} instance{'s' * (count != 1)}: solved by {by}; {outcome}; relative residuals: primal {primal}, "
        f"dual {dual}, gap {gap}; {steps:.3g} iterations on average, {1e3 * seconds:.2g} ms an instance",
        flush=True,
    )
