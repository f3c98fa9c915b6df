"""Problems that nobody here wrote, in the block convention of this package, and a reference solution for each.

Read from ../shared/data beside the repository, or from $DCL_DATA; tests skip where there is none (`data_folder`).
Constraint rows l <= Ax <= u become A x = b where l == u, else rows of G (the upper sides, then the negated lower ones);
variable bounds stay bounds, with -inf and inf.  `constant` is the objective's, which no solver sees.

    QPs   Clarabel (homogeneous embedding) and PIQP (proximal augmented Lagrangian) must agree
    LPs   HiGHS: the dual simplex gives a vertex

Where the active set that this suggests is regular, it is solved again in 57 digits (`Reference.regular`): from there
on neither solver matters, because the signs of multipliers and slacks certify the optimum.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clarabel
import numpy as np
import piqp
from scipy.io import loadmat
from scipy.optimize import linprog
from scipy.sparse import csc_array, issparse

from oracles.regular import Data, Regular, rows_of

INFINITE = 1e19  # both collections write 5e19 to 1e20; real data stay below 1e10
COLLECTIONS = ("maros_meszaros", "mpc", "netlib_feasible", "netlib_infeasible")
LARGEST = 300  # rows of K that are worth 57 digits (under a second)


@dataclass(frozen=True, eq=False)
class Problem:
    collection: str
    name: str
    data: Data
    constant: float

    @property
    def n(self) -> int:
        return len(self.data["q"])

    @property
    def linear(self) -> bool:
        return self.data["P"] is None


@dataclass(frozen=True, eq=False)
class Reference:
    """status: "optimal", "infeasible" or "unknown" (the solvers disagree); value without the constant.

    agreement: |difference of the two values| / (1 + |value|), 0 for LPs. x: the first solver's, or the certified one.
    regular: the certified active set, None where it is not regular, or larger than LARGEST.
    """

    status: str
    value: float | None = None
    x: np.ndarray | None = None
    agreement: float = 0.0
    regular: Regular | None = None


def data_folder() -> Path | None:
    """Where the real problems are, None where they are not."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("DCL_DATA", beside))
    return folder if folder.is_dir() else None


def names(collection: str) -> list[str]:
    """Names of the problems of a collection, [] without the data."""
    folder = data_folder()
    return [] if folder is None else sorted(path.stem for path in (folder / collection).iterdir())


def load(collection: str, name: str) -> Problem:
    """One problem; FileNotFoundError without the data."""
    folder = data_folder()
    if folder is None:
        raise FileNotFoundError("no ../shared/data beside the repository, and DCL_DATA is not set")
    reader = {"maros_meszaros": _maros_meszaros, "mpc": _mpc, "netlib_feasible": _lp, "netlib_infeasible": _lp}[
        collection
    ]
    suffix = ".npz" if collection == "mpc" else ".mat"
    data, constant = reader(folder / collection / f"{name}{suffix}")
    return Problem(collection, name, data, constant)


def problems(collection: str, largest: int = 10**9) -> Iterator[Problem]:
    """The problems of a collection with at most `largest` variables."""
    for name in names(collection):
        problem = load(collection, name)
        if problem.n <= largest:
            yield problem


def _dense(values: Any) -> np.ndarray:
    """float64 in the machine's byte order: the files store small integers as uint8, where -1 is 255."""
    return np.ascontiguousarray(values.toarray() if issparse(values) else values, dtype=float)


def _bound(values: Any) -> np.ndarray:
    flat = _dense(values).ravel()
    return np.where(flat >= INFINITE, np.inf, np.where(flat <= -INFINITE, -np.inf, flat))


def _blocks(P: Any, q: Any, C: np.ndarray, low: np.ndarray, high: np.ndarray, lb: Any, ub: Any) -> Data:
    equal = low == high
    above, below = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    data: Data = {"P": P, "q": q, "A": None, "b": None, "G": None, "h": None, "lb": None, "ub": None}
    if equal.any():
        data |= {"A": C[equal], "b": high[equal]}
    if above.any() or below.any():
        data |= {"G": np.vstack([C[above], -C[below]]), "h": np.concatenate([high[above], -low[below]])}
    if lb is not None and np.isfinite(lb).any():
        data["lb"] = lb
    if ub is not None and np.isfinite(ub).any():
        data["ub"] = ub
    return data


def _maros_meszaros(path: Path) -> tuple[Data, float]:
    raw = loadmat(path)
    n, P, C = int(raw["n"].item()), _dense(raw["P"]), _dense(raw["A"])
    low, high = _bound(raw["l"]), _bound(raw["u"])
    rows = len(C) - n
    if not np.array_equal(C[rows:], np.eye(n)):
        raise ValueError(f"{path.name}: the last rows of A are not the identity")
    q = _dense(raw["q"]).ravel()
    data = _blocks((P + P.T) / 2, q, C[:rows], low[:rows], high[:rows], low[rows:], high[rows:])
    return data, float(raw["r"].item())


def _mpc(path: Path) -> tuple[Data, float]:
    with np.load(path, allow_pickle=True) as raw:
        data: Data = {name: None if raw[name].ndim == 0 else _dense(raw[name]) for name in raw.files}
    for name in ("q", "b", "h", "lb", "ub"):
        if data[name] is not None:
            data[name] = data[name].ravel()
    return data | {"P": (data["P"] + data["P"].T) / 2}, 0.0


def _lp(path: Path) -> tuple[Data, float]:
    raw = loadmat(path)
    if "Problem" in raw:
        raw = {name: raw["Problem"][name].item() for name in raw["Problem"].dtype.names}
    b = _dense(raw["b"]).ravel()
    q, lb, ub = _dense(raw["c"]).ravel(), _bound(raw["lo"]), _bound(raw["hi"])
    return _blocks(None, q, _dense(raw["A"]), b, b, lb, ub), float(_dense(raw["z0"]).item()) if "z0" in raw else 0.0


# Reference solutions


def reference(problem: Problem) -> Reference:
    """Solve it with solvers that are not dcl's judgment, and certify what is regular."""
    if problem.linear:
        status, x, w = _highs(problem.data)
        agreement = 0.0
    else:
        status, x, w, agreement = _agreement(problem.data)
    if status != "optimal":
        return Reference(status, agreement=agreement)
    regular = _certify(problem.data, x, w)
    if regular is not None:
        return Reference(status, regular.solution["value"], regular.solution["x"], agreement, regular)
    return Reference(status, value_at(problem.data, x), x, agreement)


def value_at(data: Data, x: np.ndarray) -> float:
    return float(data["q"] @ x + (0 if data["P"] is None else x @ data["P"] @ x / 2))


def _highs(data: Data) -> tuple[str, Any, Any]:
    free = np.full(len(data["q"]), np.inf)
    lb, ub = (-free if data["lb"] is None else data["lb"]), (free if data["ub"] is None else data["ub"])
    G = None if data["G"] is None else csc_array(data["G"])
    A = None if data["A"] is None else csc_array(data["A"])
    program = (data["q"], G, data["h"], A, data["b"], np.stack([lb, ub], 1))
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    out = linprog(*program, method="highs-ds", options=tight)
    if out.status not in (0, 2, 3):  # klein1 is too hard for these tolerances
        out = linprog(*program, method="highs-ds")
    if out.status != 0:
        return {2: "infeasible", 3: "unbounded"}.get(out.status, "unknown"), None, None
    w = {"G": -out.ineqlin.marginals, "lb": out.lower.marginals, "ub": -out.upper.marginals}
    return "optimal", out.x, w


def _agreement(data: Data) -> tuple[str, Any, Any, float]:
    first, second = _clarabel(data), _piqp(data)
    if first is None or second is None:
        return "unknown", None, None, np.inf
    values = [value_at(data, x) for x, _ in (first, second)]
    agreement = abs(values[0] - values[1]) / (1 + abs(values[0]))
    return ("optimal" if agreement < 1e-5 else "unknown"), *first, agreement


def _clarabel(data: Data) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    parts, kept = [], {}
    for block in ("A", "G", "lb", "ub"):
        C, d = rows_of(data, block)
        kept[block] = np.isfinite(d)
        parts.append((C[kept[block]].astype(float), d[kept[block]]))
    C, d = np.vstack([c for c, _ in parts]), np.concatenate([s for _, s in parts])
    p = len(parts[0][1])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.ZeroConeT(p), clarabel.NonnegativeConeT(len(d) - p)]
    out = clarabel.DefaultSolver(csc_array(np.triu(data["P"])), data["q"], csc_array(C), d, cones, settings).solve()
    if str(out.status) not in ("Solved", "AlmostSolved"):
        return None
    w, start, z = {}, p, np.asarray(out.z)
    for block in ("G", "lb", "ub"):
        w[block] = np.zeros(len(kept[block]))
        w[block][kept[block]] = z[start : start + kept[block].sum()]
        start += kept[block].sum()
    return np.asarray(out.x), w


def _piqp(data: Data) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    solver = piqp.SparseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = 1e-9
    sparse = [None if data[name] is None else csc_array(data[name]) for name in ("A", "G")]
    # piqp wants l <= Gx <= u
    solver.setup(
        csc_array(data["P"]), data["q"], sparse[0], data["b"], sparse[1], None, data["h"], data["lb"], data["ub"]
    )
    if solver.solve() != piqp.PIQP_SOLVED:
        return None
    return np.asarray(solver.result.x), {}


def _certify(data: Data, x: np.ndarray, w: dict[str, np.ndarray]) -> Regular | None:
    """The active set where multipliers exceed slacks, if it is regular and optimal in high precision."""
    active = {}
    for block in ("G", "lb", "ub"):
        C, d = rows_of(data, block)
        active[block] = np.flatnonzero(w[block] > d - C @ x) if len(d) else np.zeros(0, int)
    known = Regular(data, active)
    if len(known.K) > LARGEST or len(known.K) > 2 * known.n or not known.condition < 1e14:
        return None
    return known if known.margin > 0 else None
