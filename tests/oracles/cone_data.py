"""Cone programs that nobody here wrote, in the form of dcl.ConeLayer, with checks on the data as the files state them.

Read from ../shared/data beside the repository, or from $DCL_DATA (`oracles.real_data.data_folder`).

    sdplib   SDPA sparse text:  minimize c'x  subject to  sum_i x_i F_i - F_0 semidefinite, block by block
    cblib    CBF text in gzip:  minimize c'x + c0  subject to  x in a product of cones (VAR), A x + b in another (CON)

Both become minimize q'x subject to A x + s = b, s in K, with K as SCS's dict: z, l, q, s, ep.  A block of order 1 and the
entries of a diagonal block are rows of l.  A rotated cone 2 x1 x2 >= |x3|^2 is rotated to a second-order cone; CBF's
exponential cone (x1, x2, x3), x1 >= x2 exp(x3 / x2), is SCS's (x3, x2, x1).

Two independent judges, in numpy: `File.violation` and `File.objective` read the file's own statement of the problem (eigh
of the matrices, the cones of CBF), not the rows above; `certificate` measures x, z, s in the rows: K by eigh and the
definition, K*, both residuals, the gap.  The reference value is Clarabel's, called here, and only as good as its certificate.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clarabel
import numpy as np
import scipy.sparse as sp
import torch

from oracles.real_data import data_folder

COLLECTIONS = {"sdplib": ".dat-s", "cblib": ".cbf.gz"}
# Published optimal values (README of SDPLIB 1.2, Borchers 1999), of minimize c'x.  Those of hinf* are known to two to five
# digits only: solvers do not agree on more.
SDPLIB = {
    "control1": 17.78463,
    "hinf1": 2.0326,
    "hinf3": 56.95,
    "hinf5": 362.2,
    "hinf7": 390.8,
    "hinf9": 236.25,
    "hinf11": 65.9,
    "hinf13": 46.0,
    "mcp124-1": 141.9905,
    "mcp124-3": 467.7501,
    "mcp250-1": 317.2643,
    "mcp250-3": 981.1726,
    "qap6": -381.4392,
    "truss1": -8.999996,
    "truss3": -9.109996,
    "truss6": -901.0014,
}
Entry = tuple[int, int, float]


@dataclass(frozen=True, eq=False)
class Rows:
    """minimize q'x + constant subject to A x + s = b, s in K."""

    q: np.ndarray
    A: sp.csc_array
    b: np.ndarray
    cones: dict[str, int | list[int]]
    constant: float = 0.0

    @property
    def gigabytes(self) -> float:
        """Of the dense KKT matrix of order n + rows."""
        return 8e-9 * sum(self.A.shape) ** 2


@dataclass(frozen=True)
class Certificate:
    """What (x, z, s) prove, every entry relative to 1 + the largest term: 0 is a proof of optimality."""

    primal: float
    dual: float
    in_cone: float
    in_dual_cone: float
    gap: float

    @property
    def worst(self) -> float:
        return max(self.primal, self.dual, self.in_cone, self.in_dual_cone, self.gap)


def names(collection: str) -> list[str]:
    """Names of the problems of a collection, [] without the data."""
    folder, suffix = data_folder(), COLLECTIONS[collection]
    return [] if folder is None else sorted(p.name.removesuffix(suffix) for p in (folder / collection).iterdir())


def load(collection: str, name: str) -> Sdpa | Cbf:
    """One problem; FileNotFoundError without the data."""
    folder = data_folder()
    if folder is None:
        raise FileNotFoundError("no ../shared/data beside the repository, and DCL_DATA is not set")
    reader = {"sdplib": Sdpa.read, "cblib": Cbf.read}[collection]
    return reader(folder / collection / (name + COLLECTIONS[collection]))


# ---------------------------------------------------------------------------------------------------------------- SDPA


@dataclass(frozen=True, eq=False)
class Sdpa:
    """entries: of the upper triangle, (matrix, block, row, column, value), all from 0 except that matrix 0 is F_0."""

    c: np.ndarray
    orders: tuple[int, ...]
    entries: tuple[tuple[int, int, int, int, float], ...]

    @classmethod
    def read(cls, path: Path) -> Sdpa:
        lines = path.read_text().splitlines()
        while lines[0].startswith(('"', "*")):
            lines.pop(0)
        count = int(_plain(lines[0])[0])
        orders = tuple(int(float(word)) for word in _plain(lines[2]))
        words = _plain(" ".join(lines[3:]))
        c, rest = np.array(words[:count], dtype=float), words[count:]
        entries = []
        for matrix, block, i, j, value in zip(*(rest[k::5] for k in range(5)), strict=True):
            low, high = sorted((int(i) - 1, int(j) - 1))
            entries.append((int(matrix), int(block) - 1, low, high, float(value)))
        return cls(c, orders, tuple(entries))

    def objective(self, x: np.ndarray) -> float:
        return float(self.c @ x)

    def violation(self, x: np.ndarray) -> float:
        """The most negative eigenvalue of a block of sum_i x_i F_i - F_0, relative to the block's largest term."""
        weight = np.concatenate([[-1.0], x])
        blocks = [np.zeros((abs(order),) * 2) for order in self.orders]
        scales = np.ones(len(self.orders))
        for matrix, block, i, j, value in self.entries:
            term = weight[matrix] * value
            blocks[block][i, j] += term
            if i != j:
                blocks[block][j, i] += term
            scales[block] = max(scales[block], 1.0 + abs(term))
        least = (min(0.0, float(np.linalg.eigvalsh(block)[0])) for block in blocks)
        return max(-value / scale for value, scale in zip(least, scales, strict=True))

    def rows(self) -> Rows:
        linear, squares = 0, []
        place: dict[int, int] = {}
        for block, order in enumerate(self.orders):
            if order < 0 or order == 1:
                place[block] = linear
                linear += abs(order)
            else:
                squares.append(block)
        start = linear
        for block in squares:
            place[block] = start
            start += self.orders[block] * (self.orders[block] + 1) // 2
        triplets, b = [], np.zeros(start)
        for matrix, block, i, j, value in self.entries:
            # column i of the lower triangle starts after i columns of length order, order - 1, ...
            inner = i * self.orders[block] - i * (i - 1) // 2 + (j - i) if block in squares else i
            row = place[block] + inner
            scaled = value * (math.sqrt(2.0) if i != j else 1.0)
            if matrix == 0:
                b[row] -= scaled
            else:
                triplets.append((row, matrix - 1, -scaled))
        cones = {"l": linear, "s": [self.orders[block] for block in squares]}
        return Rows(self.c, _sparse(triplets, (start, len(self.c))), b, cones)


def _plain(line: str) -> list[str]:
    for sign in "{}(),":
        line = line.replace(sign, " ")
    return line.split()


# ----------------------------------------------------------------------------------------------------------------- CBF


@dataclass(frozen=True, eq=False)
class Cbf:
    """minimize c'x + constant, x in the cones `variables`, A x + b in the cones `constraints`; names of cones as in CBF."""

    c: np.ndarray
    constant: float
    A: sp.csc_array
    b: np.ndarray
    variables: tuple[tuple[str, int], ...]
    constraints: tuple[tuple[str, int], ...]

    @classmethod
    def read(cls, path: Path) -> Cbf:
        with gzip.open(path, "rt") as file:
            lines = iter([line for line in map(str.strip, file) if line and not line.startswith("#")])
        sense, constant = "MIN", 0.0
        cones: dict[str, tuple[int, tuple[tuple[str, int], ...]]] = {"VAR": (0, ()), "CON": (0, ())}
        coordinates: dict[str, list[list[str]]] = {"OBJACOORD": [], "ACOORD": [], "BCOORD": []}
        for word in lines:
            if word == "VER":
                next(lines)
            elif word == "OBJSENSE":
                sense = next(lines)
            elif word in cones:
                size, count = map(int, next(lines).split())
                pairs = [next(lines).split() for _ in range(count)]
                cones[word] = (size, tuple((kind, int(rows)) for kind, rows in pairs))
            elif word in coordinates:
                coordinates[word] = [next(lines).split() for _ in range(int(next(lines)))]
            elif word == "OBJBCOORD":
                constant = float(next(lines))
            else:
                raise NotImplementedError(f"{path.name}: {word}")
        if sense != "MIN":
            raise NotImplementedError(f"{path.name}: {sense}")
        (n, variables), (m, constraints) = cones["VAR"], cones["CON"]
        c, b = np.zeros(n), np.zeros(m)
        for place, value in coordinates["OBJACOORD"]:
            c[int(place)] = float(value)
        for place, value in coordinates["BCOORD"]:
            b[int(place)] = float(value)
        triplets = [(int(i), int(j), float(value)) for i, j, value in coordinates["ACOORD"]]
        return cls(c, constant, _sparse(triplets, (m, n)), b, variables, constraints)

    def objective(self, x: np.ndarray) -> float:
        return float(self.c @ x) + self.constant

    def violation(self, x: np.ndarray) -> float:
        """By how much x and A x + b miss their cones, relative to 1 + the largest entry of the cone's part."""
        worst = 0.0
        for values, cones in ((x, self.variables), (self.A @ x + self.b, self.constraints)):
            start = 0
            for kind, size in cones:
                part, start = values[start : start + size], start + size
                worst = max(worst, _outside(kind, part) / (1.0 + float(np.abs(part).max())))
        return worst

    def rows(self) -> Rows:
        n = len(self.c)
        parts: dict[str, list[sp.csr_array]] = {"z": [], "l": [], "q": [], "ep": []}
        offsets: dict[str, list[np.ndarray]] = {"z": [], "l": [], "q": [], "ep": []}
        sizes = []
        for matrix, offset, cones in (
            (sp.eye_array(n, format="csr"), np.zeros(n), self.variables),
            (self.A.tocsr(), self.b, self.constraints),
        ):
            start = 0
            for kind, size in cones:
                piece, value = matrix[start : start + size], offset[start : start + size]
                start += size
                if kind == "F":
                    continue
                key = {"L=": "z", "L+": "l", "L-": "l", "Q": "q", "QR": "q", "EXP": "ep"}[kind]
                turn = _turn(kind, size)
                parts[key].append(turn @ piece)
                offsets[key].append(turn @ value)
                if key == "q":
                    sizes.append(size)
        count = {key: sum(piece.shape[0] for piece in pieces) for key, pieces in parts.items()}
        flat = [piece for pieces in parts.values() for piece in pieces]
        b = np.concatenate([value for values in offsets.values() for value in values])
        keys = {"z": count["z"], "l": count["l"], "q": sizes, "ep": count["ep"] // 3}
        return Rows(self.c, sp.csc_array(-sp.vstack(flat)), b, keys, self.constant)


def _turn(kind: str, size: int) -> sp.csr_array:
    """The map of CBF's cone onto SCS's."""
    if kind == "EXP":
        return sp.csr_array(np.eye(3)[::-1])
    if kind == "QR":
        turn = sp.eye_array(size, format="lil")
        turn[:2, :2] = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2.0)
        return turn.tocsr()
    return sp.csr_array((-1.0 if kind == "L-" else 1.0) * sp.eye_array(size))


def _outside(kind: str, v: np.ndarray) -> float:
    if kind == "F":
        return 0.0
    if kind in ("L=", "L+", "L-"):
        return float({"L=": np.abs(v), "L+": -v, "L-": v}[kind].max())
    if kind == "Q":
        return float(np.linalg.norm(v[1:]) - v[0])
    if kind == "QR":  # sqrt(2 x1 x2), which has the units of x
        inside = min(v[0], v[1])
        return float(-inside) if inside < 0 else float(np.linalg.norm(v[2:]) - math.sqrt(2.0 * v[0] * v[1]))
    if kind == "EXP":
        return _outside_exponential(v[2], v[1], v[0])
    raise NotImplementedError(kind)


def _outside_exponential(x: float, y: float, z: float) -> float:
    """How far one must go at most: to the face y = 0, x <= 0, z >= 0; or to the surface y exp(x/y) = z along x or z."""
    face = max(abs(y), x, -z, 0.0)
    if y <= 0.0:
        return face
    along_z = max(0.0, _safe_exp(x / y) * y - z)
    return min(face, along_z, max(0.0, x - y * math.log(z / y)) if z > 0.0 else math.inf)


def _safe_exp(t: float) -> float:
    return math.exp(min(t, 700.0))


# ------------------------------------------------------------------------------------------------- rows: judge, reference


def _sparse(triplets: list[Entry], shape: tuple[int, int]) -> sp.csc_array:
    i, j, values = zip(*triplets, strict=True)
    return sp.csc_array(sp.coo_array((values, (i, j)), shape=shape))


def sparse_tensor(A: sp.sparray) -> torch.Tensor:
    """The same matrix as a sparse COO tensor."""
    coo = sp.coo_array(A)
    coo.sum_duplicates()
    places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    return torch.sparse_coo_tensor(places, torch.from_numpy(coo.data), coo.shape, check_invariants=True).coalesce()


def _parts(cones: dict[str, int | list[int]], v: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    pieces: list[tuple[str, int]] = [("z", cones.get("z", 0)), ("l", cones.get("l", 0))]
    pieces += [("q", size) for size in cones.get("q", [])]
    pieces += [("s", order * (order + 1) // 2) for order in cones.get("s", [])]
    pieces += [("ep", 3)] * cones.get("ep", 0)
    for key, size in pieces:
        yield key, v[start : start + size]
        start += size


def matrix_of(v: np.ndarray) -> np.ndarray:
    """The symmetric matrix of SCS's rows."""
    order = (math.isqrt(8 * len(v) + 1) - 1) // 2
    full, (j, i) = np.zeros((order, order)), np.triu_indices(order)
    full[i, j] = full[j, i] = v / np.where(i == j, 1.0, math.sqrt(2.0))
    return full


def _outside_part(key: str, v: np.ndarray, dual: bool) -> float:
    if key == "z":
        return 0.0 if dual else float(np.abs(v).max())
    if key == "l":
        return float(-v.min())
    if key == "q":
        return float(np.linalg.norm(v[1:]) - v[0])
    if key == "s":
        return float(-np.linalg.eigvalsh(matrix_of(v))[0])
    x, y, z = v
    if not dual:
        return _outside_exponential(x, y, z)
    # -x exp(y / x) <= e z, that is (x - y, -x, z) in the primal cone
    return _outside_exponential(x - y, -x, z)


def _outside_all(cones: dict[str, int | list[int]], v: np.ndarray, dual: bool) -> float:
    parts = [(key, part) for key, part in _parts(cones, v) if len(part)]
    return max(max(0.0, _outside_part(key, part, dual)) / (1.0 + float(np.abs(part).max())) for key, part in parts)


def certificate(rows: Rows, x: np.ndarray, z: np.ndarray, s: np.ndarray) -> Certificate:
    """How near (x, z, s) are to the conditions of optimality."""
    primal = np.abs(rows.A @ x + s - rows.b) / (1.0 + abs(rows.A) @ np.abs(x) + np.abs(rows.b))
    dual = np.abs(rows.q + rows.A.T @ z) / (1.0 + abs(rows.A).T @ np.abs(z) + np.abs(rows.q))
    value, below = float(rows.q @ x), float(-rows.b @ z)
    return Certificate(
        float(primal.max()),
        float(dual.max()),
        _outside_all(rows.cones, s, dual=False),
        _outside_all(rows.cones, z, dual=True),
        abs(value - below) / (1.0 + abs(value)),
    )


@dataclass(frozen=True, eq=False)
class Reference:
    """Clarabel's answer to the rows; value with the constant; certificate as measured here."""

    status: str
    value: float
    x: np.ndarray
    certificate: Certificate


def reference(rows: Rows) -> Reference:
    """The rows solved by Clarabel, called directly, as tightly as it can."""
    status, x, z, s = _clarabel(rows)
    return Reference(status, float(rows.q @ x) + rows.constant, x, certificate(rows, x, z, s))


def _clarabel(rows: Rows) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    order, cones = _for_clarabel(rows)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_iter = 500
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, 1e-10)
    n = len(rows.q)
    A = sp.csc_matrix(rows.A.tocsr()[order])
    found = clarabel.DefaultSolver(sp.csc_matrix((n, n)), rows.q, A, rows.b[order], cones, settings).solve()
    x, z, s = np.array(found.x), np.zeros(len(order)), np.zeros(len(order))
    z[order], s[order] = found.z, found.s
    return str(found.status), x, z, s


def infeasibility(rows: Rows) -> float:
    """How far Clarabel's certificate, scaled to b'z = -1, is from a proof (A'z = 0, z in K*); inf without one."""
    status, _, z, _ = _clarabel(rows)
    if status != "PrimalInfeasible" or not rows.b @ z < 0.0:
        return math.inf
    z /= -(rows.b @ z)
    scale = 1.0 + abs(rows.A).T @ np.abs(z)
    return max(float((np.abs(rows.A.T @ z) / scale).max()), _outside_all(rows.cones, z, dual=True))


def _for_clarabel(rows: Rows) -> tuple[np.ndarray, list[object]]:
    """Rows in Clarabel's order: the upper triangle column by column."""
    start, order, cones = 0, [], []
    for key, part in _parts(rows.cones, np.arange(len(rows.b))):
        size = len(part)
        inner = np.arange(size)
        if key == "s":
            degree = (math.isqrt(8 * size + 1) - 1) // 2
            place = np.zeros((degree, degree), dtype=int)
            place[np.triu_indices(degree)] = inner  # the lower triangle by columns is the upper one by rows
            j, i = np.tril_indices(degree)  # the upper triangle by columns is the lower one by rows
            inner = place[i, j]
            cones.append(clarabel.PSDTriangleConeT(degree))
        elif key == "ep":
            cones.append(clarabel.ExponentialConeT())
        elif size:
            kinds = {"z": clarabel.ZeroConeT, "l": clarabel.NonnegativeConeT, "q": clarabel.SecondOrderConeT}
            cones.append(kinds[key](size))
        order.append(start + inner)
        start += size
    return np.concatenate(order), cones
