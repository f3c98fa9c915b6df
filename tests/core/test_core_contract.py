"""The contract of the two lanes: what the compiled core certifies, the careful lane of dcl calls OPTIMAL and EXACT.

And both agree: in the point to 1e-10, in the gradients to 1e-9.  Certified may be less than what is regular, never more.
"""

import numpy as np
import pytest
import torch
from core_programs import FAMILIES, REGULAR, Batch, draws, grouped, size_of, tiny_programs
from oracles.real_data import COLLECTIONS, data_folder, problems

import dcl
from dcl import GradientKind, Status, core

pytestmark = pytest.mark.skipif(not core.available, reason=f"the compiled core is not there: {core.reason}")
if core.available:
    from dcl.core import dense

POINT, GRADIENT = 1e-10, 1e-9
# The careful lane leaves x(mu) at a residual of 1e-13, which a condition of 1e5 makes 1e-8 of x and of the gradients.
# The core itself is held to 1e-10 there by the oracle of 40 digits in test_core.py.
ON_PATH = 1e-7
SIZES = (1, 2, 3, 5, 10, 20)


def breaches(data: Batch, label: str, mu: float = 0.0) -> tuple[list[str], int]:
    """Where the contract does not hold in a batch, and how many of it are certified."""
    batch = size_of(data)
    answer = dense.solve(data, batch, mu=torch.tensor([mu], dtype=torch.float64) if mu else None)
    certified = answer.status == dense.Code.CERTIFIED
    if not bool(certified.any()):
        return [], 0
    index = torch.nonzero(certified).flatten()
    kept = {name: (t if t.shape[0] == 1 else t[index]).clone() for name, t in data.items()}
    leaves = {name: t.requires_grad_() for name, t in kept.items()}
    # a solver that is named is the one that runs: the careful lane
    layer = dcl.QPLayer(solver="DAQP", on_failure="nan", on_degenerate="ignore", mu=mu)
    result, solution = layer(leaves.get("P"), **{k: t for k, t in leaves.items() if k != "P"}, return_solution=True)
    found = []
    for k, i in enumerate(index.tolist()):
        if solution.status[k] != Status.OPTIMAL:
            found.append(f"{label}[{i}]: certified, but {Status(int(solution.status[k])).name}")
        elif mu and solution.gradient_kind[k] == GradientKind.ILL_CONDITIONED and solution.condition[k] <= 1e9:
            continue  # the careful lane's residual times the condition: see ON_PATH
        elif solution.gradient_kind[k] != GradientKind.EXACT:
            found.append(f"{label}[{i}]: certified, but {GradientKind(int(solution.gradient_kind[k])).name}")
    good = (solution.status == Status.OPTIMAL) & (solution.gradient_kind == GradientKind.EXACT)
    rows = torch.nonzero(good).flatten()
    outputs = {name: getattr(result, name) for name in dense.OUTPUTS}
    for name, t in outputs.items():
        mine, theirs = getattr(answer, name)[index][rows], t.detach()[rows]
        size = 1.0 + theirs.abs().flatten(1).amax(1) if theirs.ndim > 1 and theirs.shape[1] else 1.0 + theirs.abs()
        error = (
            (mine - theirs).abs().flatten(1).amax(1) if theirs.ndim > 1 and theirs.shape[1] else (mine - theirs).abs()
        )
        if theirs.numel():
            found += [
                f"{label}: {name} off by {e:.1e}"
                for e in (error / size).tolist()
                if not e <= (ON_PATH if mu else POINT)
            ]
    rng = np.random.default_rng(0)
    seeds = {name: torch.tensor(rng.standard_normal((batch, *t.shape[1:]))) for name, t in outputs.items()}
    seen = {name: torch.zeros_like(t).index_copy(0, index[rows], t[index[rows]]) for name, t in seeds.items()}
    mine = dense.adjoint(answer, data, seen, list(data))
    masked = [seen[name][index] for name in outputs]
    theirs = dict(zip(leaves, torch.autograd.grad(list(outputs.values()), list(leaves.values()), masked), strict=True))
    own = {name: t[index] if t.shape[0] == batch and batch > 1 else t for name, t in mine.items()}
    errors = sum(((own[k] - theirs[k]).flatten(1) ** 2).sum(1) for k in leaves)
    sizes = sum((theirs[k].flatten(1) ** 2).sum(1) for k in leaves)
    relative = (errors / torch.where(sizes > 0.0, sizes, 1.0)).sqrt()
    found += [f"{label}: gradients off by {e:.1e}" for e in relative.tolist() if not e <= (ON_PATH if mu else GRADIENT)]
    return found, int(certified.sum())


@pytest.mark.sample(5)
@pytest.mark.parametrize("family", FAMILIES)
def test_certified_is_optimal_and_exact(family):
    found = []
    for n in SIZES[:5]:
        for data in draws(family, n, 10):
            found += breaches(data, f"{family}, n = {n}")[0]
    assert not found


@pytest.mark.sample(5)
@pytest.mark.parametrize("mu", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_the_central_path(family, mu):
    found = []
    for n in (2, 3, 6):
        for data in draws(family, n, 15, seed=4):
            found += breaches(data, f"{family}, n = {n}, mu = {mu}", mu)[0]
    assert not found


def test_of_tiny_programs_in_integers():
    assert not [text for data in tiny_programs(6) for text in breaches(data, "tiny")[0]]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_of_all(family):
    """16,800 programs; with those below, 20,000."""
    found = []
    for n, count in zip(SIZES, (200, 300, 300, 300, 200, 100), strict=True):
        for data in draws(family, n, count, seed=1):
            found += breaches(data, f"{family}, n = {n}")[0]
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_of_all_tiny_programs(seed):
    assert not [text for data in tiny_programs(50, seed=50 * seed) for text in breaches(data, "tiny")[0]]


@pytest.mark.slow
@pytest.mark.skipif(data_folder() is None, reason="needs the problem collections beside the repository")
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_of_real_problems(collection):
    found = []
    for problem in problems(collection, largest=300):
        (data,) = grouped([problem.data])
        found += breaches({name: t for name, t in data.items() if t.numel()}, problem.name)[0]
    assert not found


@pytest.mark.parametrize("family", REGULAR)
def test_regular_programs_are_certified(family):
    """Nearly all that the careful lane calls EXACT is done by the core alone."""
    for n in (2, 5, 10, 30):
        for data in draws(family, n, 60, seed=2):
            batch = size_of(data)
            layer = dcl.QPLayer(solver="DAQP", on_failure="nan", on_degenerate="ignore")
            rest = {k: t for k, t in data.items() if k != "P"}
            leaves = {k: t.clone().requires_grad_() for k, t in rest.items()}
            _, solution = layer(data.get("P"), **leaves, return_solution=True)
            regular = (solution.status == Status.OPTIMAL) & (solution.gradient_kind == GradientKind.EXACT)
            missed = int((regular & (dense.solve(data, batch).status != dense.Code.CERTIFIED)).sum())
            assert missed <= 0.02 * batch


@pytest.mark.parametrize("family", ["unbounded", "infeasible"])
def test_nothing_unsolvable_is_certified(family):
    """By construction: a direction of descent that no row opposes; two rows that contradict each other."""
    for n in (2, 3, 5, 10):
        for data in draws(family, n, 100, seed=3):
            if family == "unbounded":
                direction = torch.linalg.eigh(data["P"])[1][:, :, 0]
                falls = (data["q"] * direction).sum(-1)
                direction = direction * -falls.sign().unsqueeze(-1)
                free = ((data["G"] @ direction.unsqueeze(-1)).squeeze(-1) <= 1e-12).all(-1) & (falls.abs() > 1e-6)
            else:
                free = torch.ones(size_of(data), dtype=torch.bool)
            certified = dense.solve(data, size_of(data)).status == dense.Code.CERTIFIED
            assert not bool((certified & free).any())
