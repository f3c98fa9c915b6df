"""1,000 tiny programs decided in exact rationals: verdicts, values, gradients; a quarter of them degenerate.

Regular points: x, multipliers, value and all gradients.  Degenerate points: value, x where it is unique, a flag that
says so, and a gradient of x in the convex hull of the one-sided ones.  Infeasible and unbounded: the status, with a
certificate that is checked here once more.
"""

import numpy as np
import pytest
import torch
from helpers import draw, gradients, solve, tensors, wrong
from oracles.exact import DEGENERATE, UNSOLVABLE, Tiny, analyze, in_hull, tiny
from oracles.regular import rows_of
from tolerances import TINY, TINY_HULL

import dcl
from dcl import GradientKind, Status

COUNTS = {None: 650} | dict.fromkeys(DEGENERATE, 50) | dict.fromkeys(UNSOLVABLE, 50)
CHUNK = 50
CHUNKS = [(kind, start) for kind, count in COUNTS.items() for start in range(0, count, CHUNK)]


def seeds_of(kind: str | None, start: int) -> range:
    return range(start, min(start + CHUNK, COUNTS[kind]))


def mistakes(kind: str | None, seed: int) -> list[str]:
    known = tiny(seed, kind)
    judge = unsolvable if kind in UNSOLVABLE else regular if known.regular else degenerate
    return [f"tiny({seed}, {kind!r}): {text}" for text in judge(known, seed)]


def regular(known: Tiny, seed: int) -> list[str]:
    try:
        leaves, outputs, solution = solve(known.data)
    except dcl.SolveError as error:
        return [f"reported {error.statuses[0].name}"]
    found = [f"outputs: {text}" for text in wrong(outputs, known.solution, TINY)]
    if solution.gradient_kind != GradientKind.EXACT:
        found.append(f"flagged {GradientKind(int(solution.gradient_kind)).name}")
    for name, cotangent in draw(outputs, np.random.default_rng(seed)).items():
        (exact,) = known.candidates({name: cotangent})
        found += [f"gradient of {name}: {t}" for t in wrong(gradients(leaves, outputs, {name: cotangent}), exact, TINY)]
    return found


def degenerate(known: Tiny, seed: int) -> list[str]:
    try:
        leaves, outputs, solution = solve(known.data)
    except dcl.SolveError as error:
        return [f"reported {error.statuses[0].name}"]
    found = []
    kind = GradientKind(int(solution.gradient_kind))
    expected = flags(known)
    if kind not in expected:
        found.append(f"flagged {kind.name}, which is not in {sorted(k.name for k in expected)}")
    value, computed = float(known.value), outputs["value"].item()
    if not abs(computed - value) <= TINY * (1 + abs(value)):
        found.append(f"value off by {computed - value:.1e}")
    cotangents = draw(outputs, np.random.default_rng(seed))
    if not all(np.isfinite(g).all() for g in gradients(leaves, outputs, cotangents).values()):
        found.append("a gradient is not finite")
    if "nonunique" in known.degeneracies:
        return found
    x = np.array([float(v) for v in known.x])
    if not np.abs(outputs["x"].detach().numpy() - x).max() <= TINY * (1 + np.abs(x).max()):
        found.append(f"x is {outputs['x'].tolist()} instead of {x.tolist()}")
    # what the one-sided gradients determine: see the docstring of the oracle
    dependent = "rank" in known.degeneracies
    blocks = [name for name in leaves if not (dependent and name in ("P", "A", "G"))]
    for name in ("x",) if dependent else outputs:
        chosen = {name: cotangents[name]}
        computed = gradients(leaves, outputs, chosen)
        if not in_hull({b: computed[b] for b in blocks}, known.candidates(chosen), TINY_HULL):
            found.append(f"gradient of {name} is outside the hull of the one-sided ones")
    return found


def flags(known: Tiny) -> set[GradientKind]:
    """The kinds that tell the user of a cause that is there."""
    expected = set()
    if "nonunique" in known.degeneracies:
        # the flat face may end in further degeneracies at the point that the solver chose
        return {GradientKind.NONUNIQUE, GradientKind.WEAKLY_ACTIVE, GradientKind.RANK_DEFICIENT}
    if "weakly_active" in known.degeneracies:
        expected |= {GradientKind.WEAKLY_ACTIVE}
    if "rank" in known.degeneracies:
        # the multipliers returned may have zeros, and with D = 1/2 there the matrix may be regular
        expected |= {GradientKind.RANK_DEFICIENT, GradientKind.WEAKLY_ACTIVE}
    return expected


def unsolvable(known: Tiny, _seed: int) -> list[str]:
    """The verdict and its proof, on the rows C x <= d that bind something (the first p with equality)."""
    leaves = tensors(known.data, requires_grad=False)
    with pytest.raises(dcl.SolveError) as raised:
        dcl.solve_qp(**({"P": None} | leaves))
    (status,), (proof,) = raised.value.statuses, raised.value.certificates
    data, n, p = known.data, len(known.data["q"]), len(rows_of(known.data, "A")[1])
    parts = zip(*(rows_of(data, block) for block in ("A", "G", "lb", "ub")), strict=True)
    C, d = (np.concatenate(part) for part in parts)
    real = np.isfinite(d)
    if status == Status.PRIMAL_INFEASIBLE and known.status == "infeasible":
        z, slope = proof.numpy()[real], -(d[real] @ proof.numpy()[real])
        holds = z[p:].min(initial=0) >= 0 and np.abs(C[real].T @ z).max() < 1e-6 * slope
        return [] if holds else ["the certificate proves nothing"]
    if status == Status.DUAL_INFEASIBLE:
        # said of an infeasible program too, if its dual is infeasible: the direction proves that much
        x, P = proof.numpy(), np.zeros((n, n)) if data["P"] is None else data["P"]
        moves, slope = C[real] @ x, -(data["q"] @ x)
        outside = max(moves[p:].max(initial=0), np.abs(moves[:p]).max(initial=0), np.abs(P @ x).max())
        return [] if outside < 1e-6 * slope else ["the direction proves nothing"]
    return [f"reported {status.name}"]


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", COUNTS)
def test_tiny_programs(kind):
    assert not [text for seed in range(25 if kind is None else 8) for text in mistakes(kind, seed)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "start"), CHUNKS)
def test_all_tiny_programs(kind, start):
    assert not [text for seed in seeds_of(kind, start) for text in mistakes(kind, seed)]


def test_flagged_without_gradients_too():
    """`layer.solve` records no gradient and classifies on first access."""
    for kind in DEGENERATE:
        known = tiny(1, kind)
        with torch.no_grad():
            solution = dcl.QPLayer(on_degenerate="ignore").solve(**({"P": None} | tensors(known.data)))
        assert GradientKind(int(solution.gradient_kind)) in flags(known)


@pytest.mark.sample(7)
# an eigenvector of P with a cost of 1e-10 beside it: nothing tells that from rounding, and EXACT would be a guess
@pytest.mark.parametrize("exponent", [8, 9, 10, 11, 12])
def test_a_tiny_cost_beside_a_singular_quadratic_term(exponent):
    found = [_tiny_cost(np.random.default_rng([exponent, seed]), exponent) for seed in range(60)]
    found.append(_tiny_cost_judged(*KNOWN_TINY_COST, exponent))
    assert [text for text in found if text] == []


KNOWN_TINY_COST = (
    np.array([[13, 2, -2, -9], [2, 8, 2, 4], [-2, 2, 1, 3], [-9, 4, 3, 10]]),
    np.array([3, -1, 1, -1]), np.array([-5, 0, 1, -1]), np.array([0, 4, 4, 3]),
)  # fmt: skip


def _tiny_cost(rng: np.random.Generator, exponent: int) -> str:
    n = int(rng.integers(2, 5))
    R = rng.integers(-3, 4, (int(rng.integers(1, n)), n))
    lb = rng.integers(-5, 2, n)
    return _tiny_cost_judged(R.T @ R, rng.integers(-3, 4, n), lb, lb + rng.integers(1, 6, n), exponent)


def _tiny_cost_judged(P: np.ndarray, q: np.ndarray, lb: np.ndarray, ub: np.ndarray, exponent: int) -> str:
    """A mistake, or nothing: where the answer is OPTIMAL and EXACT, x is that of the exact program."""
    cost = q * 10.0**-exponent
    layer = dcl.QPLayer(on_failure="nan", on_degenerate="ignore")
    tensor = {name: torch.from_numpy(a.astype(float)) for name, a in {"P": P, "q": cost, "lb": lb, "ub": ub}.items()}
    solution = layer.solve(tensor.pop("P"), tensor.pop("q"), **tensor)
    if solution.status != Status.OPTIMAL or solution.gradient_kind != GradientKind.EXACT:
        return ""
    known = analyze({"P": P, "q": cost, "lb": lb, "ub": ub})
    if "nonunique" in known.degeneracies:
        return f"EXACT, but x is not unique: {P.tolist(), cost.tolist(), lb.tolist(), ub.tolist()}"
    error = np.abs(solution.x.numpy() - [float(x) for x in known.x]).max()
    return "" if error <= 1e-6 else f"x is off by {error:.1e}: {P.tolist(), cost.tolist(), lb.tolist(), ub.tolist()}"
