"""The cones that the laws of `dcl.cones` are held for, each with a description that dcl has no part in.

**A new cone is one more entry of CASES.** It says what the cone is in plain NumPy:

    primal, dual     how far s, z (N, dim) are inside of K and K*, (N,): >= 0 in the cone, and in units of the vector
    phi              the barrier of K in torch, (N, dim) -> (N,); None where there is none (zero cones)
    regular          points (B, dim) away from every kink of the projection, at least one in each of its pieces
    distance         how far these are from the nearest kink, (B,): steps of differences are small beside it
    kinks            points (B, dim) on kinks, or None

test_cone_laws.py does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dcl.cones import Nonnegative, Product, SecondOrder, Semidefinite, Zero, orthant
from dcl.cones.base import AbstractCone
from dcl.cones.exponential import Exponential
from dcl.cones.power import Power
from dcl.cones.semidefinite import smat

Array = np.ndarray
Margin = Callable[[Array], Array]


@dataclass(frozen=True)
class Accuracy:
    """Tolerances, relative to 1 + the size of what is compared unless stated otherwise."""

    member: float = 1e-13  # margin, relative to |v|
    complementary: float = 1e-13  # z's - mu nu, relative to 1 + |v|^2
    difference: float = 1e-6  # of the projection
    curvature: float = 1e-5  # differences of D
    symmetric: float = 1e-12  # <u, D w> = <D u, w>
    all_three: float = 1e-12  # the curvature in any order of its arguments
    loop: float = 1e-12  # an instance of a batch, and alone


@dataclass(frozen=True)
class ConeCase:
    """A cone, what it is by other means, and where to try it; see the header."""

    cone: AbstractCone
    degree: int
    primal: Margin
    dual: Margin
    regular: Array
    distance: Array
    phi: Callable[[Tensor], Tensor] | None = None
    kinks: Array | None = None
    accuracy: Accuracy = field(default_factory=Accuracy)
    zeros: int = 0
    twice: bool = False  # gradcheck and gradgradcheck: of one cone of each kind


# Spectra: the eigenvalues of one block of rank k, each away from zero

SPECTRA: dict[str, Callable[[int], Array]] = {
    "interior": lambda k: np.linspace(1.0, 2.0, k),
    "exterior": lambda k: -np.linspace(1.0, 2.0, k),
    "boundary": lambda k: np.resize([1.5, -0.5, 0.3, -2.0], k),
    "boundary, other side": lambda k: np.resize([0.2, -3.0], k),
    "repeated": lambda k: np.full(k, 0.7),
    "repeated, negative": lambda k: np.full(k, -0.7),
    "repeated in pairs": lambda k: np.resize([1.0, -2.0], k),
    "nearly repeated": lambda k: 1.0 + 1e-9 * np.arange(k),
    "nearly inactive": lambda k: np.resize([1.0, -1e-3], k),
    "near the apex": lambda k: 1e-5 * np.resize([1.0, -2.0, 3.0, -4.0], k),
    "large": lambda k: 1e4 * np.resize([1.0, -2.0, 3.0, -4.0], k),
}
TIES: dict[str, Callable[[int], Array]] = {
    "apex": lambda k: np.zeros(k),
    "edge": lambda k: np.resize([2.0, 0.0], k),
    "edge of the polar": lambda k: np.resize([0.0, -2.0], k),
    "rounded": lambda k: np.resize([1.0, 1e-13], k),
    "double": lambda k: np.resize([0.0, 1.0, 0.0, -1.0], k),
}
DISTANCE = np.array([np.abs(spectrum(4)).min() for spectrum in SPECTRA.values()])


def _matrix(values: Array, rng: np.random.Generator) -> list[float]:
    """A symmetric matrix with these eigenvalues in its coordinates, written without `svec`."""
    k = len(values)
    U = np.linalg.qr(rng.standard_normal((k, k)))[0]
    V = U * values @ U.T
    return [V[i, j] * (1.0 if i == j else np.sqrt(2.0)) for j in range(k) for i in range(j + 1)]


def point(cone: AbstractCone, spectrum: Callable[[int], Array], rng: np.random.Generator) -> list[float]:
    """A vector whose blocks have this spectrum."""
    if isinstance(cone, Product):
        return [t for part in cone.cones for t in point(part, spectrum, rng)]
    if isinstance(cone, SecondOrder):
        out: list[float] = []
        for _ in range(cone.count):
            if cone.size == 1:
                out += [spectrum(1)[0]]
                continue
            e = rng.standard_normal(cone.size - 1)
            l1, l2 = sorted(spectrum(2), reverse=True)
            out += [(l1 + l2) / 2, *((l1 - l2) / 2 * e / np.linalg.norm(e))]
        return out
    if isinstance(cone, Semidefinite):
        return [t for _ in range(cone.count) for t in _matrix(spectrum(cone.order), rng)]
    return list(rng.permutation(spectrum(cone.dim)))


def points(cone: AbstractCone, spectra: dict[str, Callable[[int], Array]], seed: int = 0) -> Array:
    """One point for each spectrum, (number of spectra, dim)."""
    rng = np.random.default_rng(seed)
    return np.array([point(cone, spectrum, rng) for spectrum in spectra.values()])


# Symmetric cones: the smallest eigenvalue; K = K* but for zero rows

Parts = list[tuple[str, int, int]]  # kind, size, count


def _unpacked(y: Array, k: int) -> Array:
    X = np.zeros((len(y), k, k))
    places = [(i, j) for j in range(k) for i in range(j + 1)]
    for place, (i, j) in enumerate(places):
        X[:, i, j] = X[:, j, i] = y[:, place] / (1.0 if i == j else np.sqrt(2.0))
    return X


def _margin(parts: Parts, dual: bool) -> Margin:
    def of(y: Array) -> Array:
        lowest, start = np.full(len(y), np.inf), 0
        for kind, size, count in parts:
            rows = size * (size + 1) // 2 if kind == "psd" else size
            for _ in range(count):
                block = y[:, start : start + rows]
                start += rows
                if kind == "zero":
                    least = np.zeros(len(y)) if dual else -np.abs(block).max(1, initial=0.0)
                elif kind == "soc":
                    least = block[:, 0] - np.linalg.norm(block[:, 1:], axis=1)
                elif kind == "psd":
                    least = np.linalg.eigvalsh(_unpacked(block, size))[:, 0]
                else:
                    least = block.min(1, initial=np.inf)
                lowest = np.minimum(lowest, least)
        assert start == y.shape[1]
        return lowest

    return of


def _phi(parts: Parts) -> Callable[[Tensor], Tensor]:
    def of(s: Tensor) -> Tensor:
        total, start = s.new_zeros(len(s)), 0
        for kind, size, count in parts:
            rows = size * (size + 1) // 2 if kind == "psd" else size
            for _ in range(count):
                block = s[:, start : start + rows]
                start += rows
                if kind == "soc":
                    total = total - torch.log(block[:, 0] ** 2 - (block[:, 1:] ** 2).sum(-1))
                elif kind == "psd":
                    total = total - torch.logdet(smat(block, size))
                elif kind == "nonneg":
                    total = total - torch.log(block).sum(-1)
        return total

    return of


def symmetric(cone: AbstractCone, parts: Parts, degree: int, *, zeros: int = 0, twice: bool = False) -> ConeCase:
    """A product of symmetric cones, tried at all spectra."""
    ranks = {min(size, 2) if kind == "soc" else size for kind, size, _ in parts}
    ties = {name: s for name, s in TIES.items() if all(np.abs(s(rank)).min() <= 1e-12 for rank in ranks)}
    return ConeCase(
        cone,
        degree,
        _margin(parts, dual=False),
        _margin(parts, dual=True),
        points(cone, SPECTRA),
        DISTANCE,
        _phi(parts),
        points(cone, ties),
        zeros=zeros,
        twice=twice,
    )


def rows(cone: AbstractCone, zeros: int, count: int) -> ConeCase:
    """Zero and nonnegative rows, at points of all signs and sizes."""
    rng = np.random.default_rng(0)
    shape = (6, cone.dim)
    v = rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-1.0, 2.0, shape)
    parts: Parts = [("zero", zeros, 1), ("nonneg", count, 1)]
    kinks = np.concatenate([np.zeros((1, cone.dim)), v[:2] * (np.arange(cone.dim) % 2)])
    return ConeCase(
        cone,
        count,
        _margin(parts, dual=False),
        _margin(parts, dual=True),
        v,
        np.abs(v).min(1, initial=10.0),
        _phi(parts),
        kinks,
        Accuracy(member=0.0, difference=1e-7, curvature=1e-6, symmetric=1e-13, loop=1e-15),
        zeros=zeros,
    )


# Exponential and power cones: v = z - s in each piece of the projection; s = -v is projected onto K

EXPONENTIAL_PIECES = {
    "in K": [-0.5, -1.0, -2.0],
    "in K, x < 0": [3.0, -0.5, -0.2],
    "in the polar": [-1.0, 0.5, 3.0],
    "in the polar, y < 0": [-1.0, -0.3, 3.0],
    "face z > 0": [1.0, 2.0, -1.5],
    "face z < 0": [1.0, 2.0, 1.5],
    "smooth": [-1.0, -1.0, -1.0],
    "smooth, x < 0 < y": [1.0, -1.0, 0.7],
    "smooth, x > 0 > y": [-2.0, 0.7, -1.5],
}
POWER_PIECES = {
    "in K": [-1.5, -1.0, -0.2],
    "in the polar": [1.0, 1.2, 0.3],
    "smooth": [-0.8, -0.5, 1.7],
    "smooth, x > 0 > y": [-1.0, 0.8, -0.9],
    "smooth, x < 0 < y": [0.7, -1.3, 0.6],
    "smooth, x, y < 0": [0.2, 0.4, -1.6],
}


def _by_steps(inside: Callable[[Array], Array], e: Array) -> Margin:
    """The margin to 1e-15 of |y|, as the least multiple of e (inside of the cone) whose addition is inside."""

    def of(y: Array) -> Array:
        size = np.linalg.norm(y, axis=1)
        margin = np.where(inside(y), 0.0, -np.inf)
        for step in 10.0 ** np.arange(-16.0, 1.0)[::-1]:
            near = inside(y + (step * size)[:, None] * e)
            margin = np.where((margin < 0) & near, -step * size, margin)
        return margin

    return of


def _in_exponential(s: Array) -> Array:
    x, y, z = s.T
    with np.errstate(all="ignore"):
        return ((y > 0) & (z > 0) & (y * np.exp(x / y) <= z)) | ((y == 0) & (x <= 0) & (z >= 0))


def _in_exponential_dual(t: Array) -> Array:
    u, v, w = t.T
    with np.errstate(all="ignore"):
        return ((u < 0) & (w > 0) & (-u * np.exp(v / u) <= np.e * w)) | ((u == 0) & (v >= 0) & (w >= 0))


def _in_power(a: float) -> Callable[[Array], Array]:
    def of(s: Array) -> Array:
        x, y, z = s.T
        with np.errstate(all="ignore"):
            return (x >= 0) & (y >= 0) & (x**a * y ** (1 - a) >= np.abs(z))

    return of


def _in_power_dual(a: float) -> Callable[[Array], Array]:
    def of(t: Array) -> Array:
        u, v, w = t.T
        with np.errstate(all="ignore"):
            return (u >= 0) & (v >= 0) & ((u / a) ** a * (v / (1 - a)) ** (1 - a) >= np.abs(w))

    return of


def _phi_exponential(s: Tensor) -> Tensor:
    x, y, z = s.unbind(-1)
    return -torch.log(y * torch.log(z / y) - x) - torch.log(y) - torch.log(z)


def _phi_power(a: float) -> Callable[[Tensor], Tensor]:
    def of(s: Tensor) -> Tensor:
        x, y, z = s.unbind(-1)
        return -torch.log(x ** (2 * a) * y ** (2 - 2 * a) - z**2) - (1 - a) * torch.log(x) - a * torch.log(y)

    return of


NONSYMMETRIC = Accuracy(member=1e-14, complementary=1e-14, difference=1e-7, curvature=1e-6, all_three=1e-10, loop=1e-9)


def exponential() -> ConeCase:
    """One exponential cone."""
    v = np.array(list(EXPONENTIAL_PIECES.values()))
    kinks = [[0, -1, -1], [-1, -1, 1], [0, 1, 1], [0, 1, -1], [1, 2, 0], [1, 0, 0]]
    return ConeCase(
        Exponential(1),
        3,
        _by_steps(_in_exponential, np.array([-1.0, 1.0, 3.0])),
        _by_steps(_in_exponential_dual, np.array([-1.0, 1.0, 3.0])),
        v,
        np.full(len(v), 0.01),
        _phi_exponential,
        np.array(kinks, float),
        NONSYMMETRIC,
        twice=True,
    )


def power(a: float) -> ConeCase:
    """One power cone."""
    v = np.array(list(POWER_PIECES.values()))
    e = np.array([1.0, 1.0, 0.0])
    return ConeCase(
        Power((a,)),
        3,
        _by_steps(_in_power(a), e),
        _by_steps(_in_power_dual(a), e),
        v,
        np.full(len(v), 0.01),
        _phi_power(a),
        np.array([[-1.0, -1.0, 1.0], [2 * a, 2 * (1 - a), 2.0]]),
        NONSYMMETRIC,
        twice=a == 0.2,
    )


ALL = Product((Zero(2), Nonnegative(2), SecondOrder(3, 2), Semidefinite(3)))

CASES: dict[str, ConeCase] = {
    "zero": rows(Zero(3), 3, 0),
    "nonnegative": rows(Nonnegative(4), 0, 4),
    "orthant": rows(orthant(2, 3), 2, 3),
    "only zeros": rows(orthant(3, 0), 3, 0),
    "only nonnegatives": rows(orthant(0, 4), 0, 4),
    "nested": rows(Product((orthant(1, 2), Nonnegative(2))), 1, 4),
    "empty": rows(orthant(0, 0), 0, 0),
    "ray": symmetric(SecondOrder(1, 3), [("soc", 1, 3)], 6),
    "SOC(2)": symmetric(SecondOrder(2, 2), [("soc", 2, 2)], 4, twice=True),
    "SOC(3)": symmetric(SecondOrder(3, 2), [("soc", 3, 2)], 4, twice=True),
    "SOC(6)": symmetric(SecondOrder(6), [("soc", 6, 1)], 2, twice=True),
    "PSD(1)": symmetric(Semidefinite(1, 3), [("psd", 1, 3)], 3),
    "PSD(2)": symmetric(Semidefinite(2, 2), [("psd", 2, 2)], 4, twice=True),
    "PSD(4)": symmetric(Semidefinite(4), [("psd", 4, 1)], 4, twice=True),
    "product": symmetric(ALL, [("zero", 2, 1), ("nonneg", 2, 1), ("soc", 3, 2), ("psd", 3, 1)], 9, zeros=2),
    "no cones": symmetric(Product((SecondOrder(3, 0), Semidefinite(2, 0), SecondOrder(2))), [("soc", 2, 1)], 2),
    "exponential": exponential(),
    "power 0.5": power(0.5),
    "power 0.2": power(0.2),
    "power 0.95": power(0.95),
}
