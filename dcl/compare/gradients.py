"""`compare_gradients`: one loss, its gradient by every engine, measured against finite differences.

rows       exact (mu = 0), barrier x(mu) for each mu, straight-through (x with the gradient of x(mu)), diffcp, differences
gap        |x_row - x| / |x|                      x: the polished exact solution
error      |g_row - g_ref| / |g_ref|,  cosine     g_ref: central differences; |g_row - g_ref| itself where g_ref = 0
residual   largest relative residual of the row's own equations (at mu for a barrier row)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

from dcl.compare.differences import Differences, differences
from dcl.compare.engines import ENGINES, Unavailable, engine
from dcl.compare.probes import MUS, NOTHING
from dcl.compare.subject import (
    Layer,
    Loss,
    Result,
    Spy,
    Subject,
    bind,
    called,
    has_engine,
    names,
    primal,
    subject,
    with_engine,
)
from dcl.compare.table import Comparison, Row
from dcl.compare.verdict import Evidence, decide
from dcl.errors import InputError, OptionError, SolveError
from dcl.point import Point, worst
from dcl.program import ConeProgram
from dcl.status import GradientKind

# Slopes below this part of the loss's own size are what rounding leaves of zero, for steps of `dcl.compare.differences`.
_ZERO = 1e-7
# A part of the exact gradient below this, relative to that of a barrier's, is zero.
_VANISHES = 1e-10
_SHOWN = 5
T = TypeVar("T")


def compare_gradients(
    layer: Layer,
    *tensors: Tensor | None,
    mu: Sequence[float] = MUS,
    loss: Loss | None = None,
    engines: Sequence[str] = ENGINES,
    entries: int = 200,
    repeats: int = 3,
    seed: int = 0,
    **named: Tensor | None,
) -> Comparison:
    """Compare all ways to compute the gradient of a loss through `layer`, and say which one to use here.

    Rows: the exact KKT gradient; that of the log-barrier point x(mu) for each mu; straight-through (the exact x with the
    gradient of x(mu)) at the mu recommended; diffcp as an independent engine on the same canonical program; central finite
    differences of the polished solve, the reference.

    Args:
        layer: a `CvxpyLayer`, `QPLayer`, `ConeLayer`, `ArgminLayer`, or what follows the protocol of `dcl.compare.subject`.
        tensors: the arguments of the call, batch dimensions included; None where a block is absent.  Those that require a
            gradient are differentiated, all of them if none does.
        mu: the barrier parameters to try, positive, in any order.
        loss: a function from what the layer returns to a number. Default: a fixed random weighting of x (QPLayer, ConeLayer) or
            of everything returned.
        engines: some of "diffcp dense", "diffcp lsqr", "diffcp lpgd". If one cannot do the program, its row says why.
        entries: finite differences of this many entries of the data at most (drawn at random where there are more); errors and
            cosines of all rows are over these.
        repeats: timings are medians over this many runs.
        seed: of the random weighting and the random entries.
        named: tensors by the names of the call, for a `QPLayer` or a `ConeLayer`: `compare_gradients(layer, P, q, G=G, h=h)`.

    Returns:
        A `Comparison`. It prints as a table and a recommendation, and has
        `to_frame()`, `plot(path)`, `recommended_mu`, `mu_range`.

    Raises:
        SolveError: an instance has no solution (`dcl.diagnose` says what conflicts).  InputError, OptionError: bad arguments.

    Example:
        >>> import torch, dcl
        >>> q, h = torch.tensor([-1.0, -3.0], dtype=torch.float64), torch.ones(1).double()
        >>> P, G = torch.eye(2).double(), torch.ones(1, 2).double()
        >>> found = dcl.compare_gradients(dcl.QPLayer(), P, q, G=G, h=h, mu=[1e-4], engines=[])
        >>> [row.method for row in found.rows], found.recommended_mu
        (['exact', 'barrier', 'straight-through', 'differences'], 0.0)
    """
    mus = _barriers(mu)
    for name in engines:
        if name not in ENGINES:
            raise OptionError(f"unknown engine {name!r}; valid: {', '.join(ENGINES)}", argument="engines")
    call = subject(layer, bind(layer, tensors, named))
    if not call.wanted:
        raise InputError("no tensor to differentiate: pass at least one")
    generator = torch.Generator().manual_seed(seed)
    if any(t is not None and t.numel() == 0 and t.shape[0] == 0 for t in call.tensors):
        raise InputError("the batch is empty: there is no gradient to compare")
    result, solution = _exact(call)
    x = primal(result).detach().cpu()
    weights = torch.randn(x.numel(), generator=generator, dtype=torch.float64) / max(x.numel(), 1) ** 0.5
    measure: Loss = loss if loss is not None else lambda r: primal(r).to(torch.float64) @ weights.to(primal(r).device)
    if measure(result).numel() != 1:
        raise InputError(f"loss must return one number, got shape {tuple(measure(result).shape)}", argument="loss")

    bench = _Bench(call, measure, x, repeats)
    reference, seconds = _timed(lambda: differences(call, measure, measure(result).detach(), entries, generator), 1)
    bench.judge(reference)
    rows = [bench.run("exact", 0.0, lambda: call(0.0))]
    rows += [_barrier(bench, call, m) for m in mus]
    kinds = [GradientKind(int(k)) for k in solution.gradient_kind.reshape(-1).tolist()]
    verdict = decide(
        Evidence(
            kinds=tuple(kinds),
            margin=float(solution.margin.min()) if solution.margin.numel() else float("inf"),
            exact=rows[0],
            barrier=tuple(row for row in rows[1:] if not row.note),
            kink=reference.kink,
            slope=bench.size,
            known=int(reference.known.sum()),
            pathless=bool(mus) and all(row.note for row in rows[1:]),
            still=_still(call, names(layer, len(call.tensors)), rows),
        )
    )
    there = [row.mu for row in rows[1:] if row.mu is not None and not row.note]
    at = verdict.mu or verdict.alternative or (there[len(there) // 2] if there else None)
    if at is not None:
        rows.append(bench.run("straight-through", at, lambda: _straight_through(call, at)))
    for name in engines:
        rows.append(_outside(bench, name))
    rows.append(bench.reference_row(seconds * 1e3))
    return Comparison(
        rows=tuple(rows),
        verdict=verdict.text,
        recommended_mu=verdict.mu,
        mu_range=(verdict.mu, verdict.mu if verdict.end is None else verdict.end),
        kinds=tuple(kinds),
        subject=_describe(call, layer, x, reference),
    )


def _still(call: Subject, labels: list[str], rows: list[Row]) -> tuple[str, ...]:
    """The arguments, of several, in which the exact gradient is zero and that of the largest mu with an x(mu) is not."""
    smooth = next((row.gradient for row in rows[1:] if row.gradient is not None), None)
    exact, sizes = rows[0].gradient, [leaf.numel() for leaf in call.leaves]
    if smooth is None or exact is None or len(sizes) < 2:
        return ()
    parts = zip(call.wanted, exact.split(sizes), smooth.split(sizes), strict=True)
    return tuple(
        labels[i] for i, g, g_mu in parts if float(g.norm()) <= _VANISHES * float(g_mu.norm()) and bool(g_mu.any())
    )


def _barriers(mu: Sequence[float]) -> list[float]:
    mus = [float(m) for m in mu]
    if any(not 0.0 < m < float("inf") for m in mus):
        raise InputError(f"mu must be positive numbers, got {mus}", argument="mu")
    return sorted(set(mus), reverse=True)


def _exact(call: Subject) -> tuple[Result, Any]:
    """(result, solution) at mu = 0. Raises SolveError in words that fit: here every instance is needed."""
    try:
        return call(0.0)
    except SolveError as error:
        at = ", ".join(str(index) for index in error.indices[:_SHOWN] if index)
        more = ", ..." if len(error.indices) > _SHOWN else ""
        failed = "; ".join(f"{s.name}: {s.message}" for s in dict.fromkeys(error.statuses)) or str(error)
        raise type(error)(
            f"a comparison needs the solution of every instance, and {f'batch indices {at}{more} have' if at else 'there is'} "
            f"none.\n  {failed}\n  (dcl.diagnose names the constraints{', leave these instances out' if at else ''})",
            indices=error.indices,
            statuses=error.statuses,
            certificates=error.certificates,
        ) from error


def _timed(f: Callable[[], T], repeats: int) -> tuple[T, float]:
    """What f returns, and its median time in seconds."""
    seconds = []
    for _ in range(max(repeats, 1)):
        start = time.perf_counter()
        out = f()
        seconds.append(time.perf_counter() - start)
    return out, median(seconds)


def _barrier(bench: _Bench, call: Subject, mu: float) -> Row:
    """The row of x(mu), or why there is none."""
    try:
        return bench.run("barrier", mu, lambda: call(mu))
    except SolveError as error:
        statuses = ", ".join(dict.fromkeys(status.name for status in error.statuses))
        return Row("barrier", mu, note=f"no point x(mu) ({statuses}): do the constraints leave an interior?")


def _straight_through(call: Subject, mu: float) -> tuple[Result, Any]:
    """The exact result with the derivative of x(mu)."""
    with torch.no_grad():
        exact, solution = call(0.0)
    smooth, _ = call(mu)

    def both(a: Tensor, b: Tensor) -> Tensor:
        return a.detach() + (b - b.detach())

    if isinstance(exact, Tensor):
        return both(exact, smooth), solution  # type: ignore[arg-type]
    parts = [both(a, b) for a, b in zip(exact, smooth, strict=True)]
    return (tuple(parts) if type(exact) is tuple else type(exact)(*parts)), solution


class _Bench:
    """Runs one row after the other against the same loss, exact point and reference."""

    def __init__(self, call: Subject, loss: Loss, x: Tensor, repeats: int) -> None:
        self._call, self._loss, self._x, self._repeats = call, loss, x, repeats
        self.size = 0.0

    def judge(self, reference: Differences) -> None:
        """From now on errors are against these differences."""
        self._at = reference.index[reference.known]
        self._slopes = reference.central[reference.known]
        self.size = float(self._slopes.norm())
        if self.size <= _ZERO * max(1.0, float(self._x.abs().max()) if self._x.numel() else 1.0):
            self.size = 0.0

    def run(self, method: str, mu: float | None, forward: Callable[[], tuple[Result, Any]]) -> Row:
        """The row of one engine."""
        (result, solution), ahead = _timed(forward, self._repeats)
        value = self._loss(result)
        gradient, back = _timed(lambda: self._call.gradient(value), self._repeats)
        found: dict[str, Any] = (
            {} if solution is None else {"residual": _residual(solution), "condition": float(solution.condition.max())}
        )
        return self._row(method, mu, result, gradient.detach().cpu(), ahead * 1e3, back * 1e3, **found)

    def reference_row(self, ms: float) -> Row:
        """The row of the differences themselves."""
        return Row("differences", None, gap=0.0, norm=float(self._slopes.norm()), forward_ms=ms, note="the reference")

    def _row(
        self, method: str, mu: float | None, result: Result, gradient: Tensor, ahead: float, back: float, **found: Any
    ) -> Row:
        x, g = primal(result).detach().cpu(), gradient[self._at]
        there = torch.isfinite(g)
        if not bool(there.all()):
            found |= {"note": f"without the gradient in P: {int((~there).sum())} entries"}
        g, slopes = g[there], self._slopes[there]
        size, length = float(self._x.norm()), float(slopes.norm()) if self.size else 0.0
        miss = float((g - slopes).norm())
        cosine = float(g @ slopes) / (float(g.norm()) * length) if length and float(g.norm()) else float("nan")
        return Row(
            method,
            mu,
            gap=float((x - self._x).norm()) / (size if size > NOTHING else 1.0),
            error=miss / (length or 1.0),
            cosine=cosine,
            norm=float(g.norm()),
            forward_ms=ahead,
            backward_ms=back,
            gradient=gradient,
            **found,
        )


def _residual(solution: Any) -> float:
    residuals = torch.stack([solution.primal_residual, solution.dual_residual, solution.gap])
    return float(residuals.max()) if residuals.numel() else 0.0


def _outside(bench: _Bench, name: str) -> Row:
    """The row of an engine that is not dcl's, or the reason why there is none."""
    call = bench._call
    if not has_engine(call.layer):
        return Row(name, None, note="no cone program to hand over")
    twin, spy = with_engine(call.layer, engine(name))
    try:
        row = bench.run(name, None, lambda: (called(twin, call.tensors), None))
    except Unavailable as reason:
        return Row(name, None, note=str(reason))
    return row.with_residual(_outside_residual(spy))


def _outside_residual(spy: Spy) -> float:
    """dcl's own check of the outside engine's point."""
    program, answer = spy.program, spy.answer
    if not isinstance(program, ConeProgram) or answer is None:
        return float("nan")
    v = (answer.z - answer.s).detach()
    return float(worst(Point(program.detach(), answer.x.detach(), v).residuals).max())


def _describe(call: Subject, layer: Layer, x: Tensor, reference: Differences) -> str:
    labels = names(layer, len(call.tensors))
    total = sum(int(torch.isfinite(t.detach()).sum()) for t in call.leaves)
    measured, known = len(reference.index), int(reference.known.sum())
    part = "" if measured == total else f", errors over {measured} of them drawn at random"
    lost = "" if known == measured else f" ({measured - known} left out: a neighbor has no solution or is not allowed)"
    wanted = ", ".join(labels[i] for i in call.wanted)
    return f"{type(layer).__name__}: {x.numel()} outputs, gradient in {wanted}: {total} entries{part}{lost}"
