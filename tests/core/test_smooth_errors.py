"""The bounds of the errors of programs with smooth terms (dcl/core/smooth_error.hpp), at points that are off by a known step.

The program is made so that its solution is known: q is what makes a drawn point stationary.  K and its inverse are NumPy's.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcl import core
from dcl.cones import Exponential
from dcl.core import smooth
from dcl.core.smooth import Kind

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
N, ROWS = 5, 2
MIXED = ((Kind.RELATIVE, 2), (Kind.EXP, 2), (Kind.LOG_SUM, 3), (Kind.LOG_SUM, 2))
TERMS = {kind.name: ((kind, 2),) * 6 for kind in Kind} | {"MIXED": MIXED}


class Drawn:
    """P, B, C, d, lambda and the solution x, y, with u inside of every domain."""

    def __init__(self, name: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.terms = TERMS[name]
        tails = sum(size for _, size in self.terms)
        root = rng.standard_normal((N, N))
        self.P, self.C = 0.1 * root @ root.T + 0.2 * np.eye(N), rng.standard_normal((N, tails))
        self.B, self.x, self.y = rng.standard_normal((ROWS, N)), rng.standard_normal(N), rng.standard_normal(ROWS)
        self.weights = rng.uniform(0.5, 2.0, len(self.terms))
        self.d = self.C.T @ self.x + rng.uniform(0.8, 2.0, tails)
        self.b = self.B @ self.x
        slopes, _ = self.terms_at(self.x)
        self.q = -(self.P @ self.x + self.B.T @ self.y - self.C @ slopes)

    def terms_at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """lambda psi' and lambda psi''."""
        u, first = self.d - self.C.T @ x, 0
        slopes, W = np.zeros(len(u)), np.zeros((len(u), len(u)))
        for (kind, size), weight in zip(self.terms, self.weights, strict=True):
            at = slice(first, first + size)
            one, two = u[first], u[first + 1]
            match kind:
                case Kind.RELATIVE:
                    slope = np.array([np.log(one / two) + 1.0, -one / two])
                    bend = np.array([[1.0 / one, -1.0 / two], [-1.0 / two, one / two**2]])
                case Kind.EXP:
                    r, e = one / two, np.exp(one / two)
                    slope, bend = np.array([e, e * (1.0 - r)]), e / two * np.array([[1.0, -r], [-r, r * r]])
                case _:
                    slope = np.exp(u[at]) / np.exp(u[at]).sum()
                    bend = np.diag(slope) - np.outer(slope, slope)
            slopes[at], W[at, at] = weight * slope, weight * bend
            first += size
        return slopes, W

    def derivative(self, x: np.ndarray) -> np.ndarray:
        """Of x, y and the multipliers of the tails: K^-1, and W C' of that."""
        W = self.terms_at(x)[1]
        H = self.P + self.C @ W @ self.C.T
        R = np.linalg.inv(np.block([[H, self.B.T], [self.B, np.zeros((ROWS, ROWS))]]))
        return np.concatenate([R, W @ self.C.T @ R[:N]])

    def errors(self, x: np.ndarray, y: np.ndarray, refined: float = 0.0) -> list[float]:
        """What the core says of point, derivative, and curvature."""
        return [float(t) for t in self.bounds(x, y, refined, None)[:3]]

    def bounds(self, x: np.ndarray, y: np.ndarray, refined: float, units: smooth.Units | None) -> smooth.Errors:
        data = {"P": self.P, "q": self.q, "A": self.B, "b": self.b}
        tensors = {name: torch.tensor(t).unsqueeze(0).contiguous() for name, t in data.items()}
        tails = smooth.Tails(
            *(torch.tensor(t).unsqueeze(0).contiguous() for t in (self.C.T.copy(), self.d, self.weights))
        )
        none = torch.zeros(1, 0, dtype=torch.float64)
        point = (torch.tensor(x).unsqueeze(0), torch.tensor(y).unsqueeze(0), none, none, none)
        kinds = [(int(kind), size) for kind, size in self.terms]
        return smooth.errors(tensors, kinds, tails, point, None, units, refined=refined)


def columns(error: np.ndarray, value: np.ndarray) -> float:
    """The largest error of a column, relative to its largest entry, block by block."""
    worst, parts = 0.0, (slice(0, N), slice(N, N + ROWS), slice(N + ROWS, None))
    for rows in parts:
        for cols in parts[:2]:
            sizes = np.abs(value[rows, cols]).max(0)
            worst = max(worst, float((np.abs(error[rows, cols]).max(0) / sizes.clip(1e-3 * sizes.max())).max()))
    return worst


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TERMS)
def test_bounds_hold_and_are_no_more_than_some_times_the_error(name, seed):
    drawn, rng = Drawn(name, seed), np.random.default_rng(seed + 100)
    dx, dy = 1e-7 * rng.standard_normal(N), 1e-7 * rng.standard_normal(ROWS)
    x, y = drawn.x + dx, drawn.y + dy
    point, derivative, _ = drawn.errors(x, y)
    slopes, exact = drawn.terms_at(x)[0], drawn.terms_at(drawn.x)[0]
    pairs = ((dx, x), (dy, y), (slopes - exact, slopes))
    off = max(float(np.abs(error).max() / (1.0 + np.abs(of).max())) for error, of in pairs)
    assert 0.999 * off <= point <= 1e3 * off
    here, there = drawn.derivative(x), drawn.derivative(drawn.x)
    off = columns(here - there, here)
    assert 0.999 * off <= derivative <= 1e5 * off


def test_the_solution_is_right_to_rounding_and_refinement_is_added():
    drawn = Drawn("MIXED", 0)
    point, derivative, curvature = drawn.errors(drawn.x, drawn.y)
    assert max(point, derivative, curvature) <= 1e-9
    assert 1e-8 <= drawn.errors(drawn.x, drawn.y, 1e-8)[1] - derivative <= 1e-4


def test_a_flat_direction_has_no_bound():
    drawn = Drawn("LOG_SUM", 0)
    drawn.P, drawn.C = np.zeros((N, N)), drawn.C * np.array([1.0, 1.0, 0.0, 0.0, 0.0])[:, None]
    assert drawn.errors(drawn.x, drawn.y) == [np.inf] * 3


def _cones(drawn: Drawn, c: float, E: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """P, A, z, s of the program with its cones: x, then t of each term; the rows B, then (t, y, z) or (x, y, t) of each term."""
    count = len(drawn.terms)
    P = np.zeros((N + count, N + count))
    P[:N, :N] = drawn.P
    A = np.zeros((ROWS + 3 * count, N + count))
    A[:ROWS, :N] = drawn.B
    s, z = np.zeros(len(A)), np.zeros(len(A))
    z[:ROWS] = drawn.y
    slopes, _ = drawn.terms_at(drawn.x)
    u = drawn.d - drawn.C.T @ drawn.x
    for k, ((kind, _), weight) in enumerate(zip(drawn.terms, drawn.weights, strict=True)):
        head, tail, sigma = (0, 1, -1.0) if kind is Kind.RELATIVE else (2, 0, 1.0)
        one, two = u[2 * k : 2 * k + 2]
        psi = one * np.log(one / two) if kind is Kind.RELATIVE else two * np.exp(one / two)
        at = ROWS + 3 * k
        A[at + head, N + k] = -sigma
        A[at + tail : at + tail + 2, :N] = drawn.C[:, 2 * k : 2 * k + 2].T
        s[at + head], z[at + head] = sigma * psi, sigma * weight
        s[at + tail : at + tail + 2] = u[2 * k : 2 * k + 2]
        z[at + tail : at + tail + 2] = -slopes[2 * k : 2 * k + 2]
    return c * P, E[:, None] * A, z * c / E, s * E


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["RELATIVE", "EXP"])
def test_the_inverse_of_the_matrix_with_cones_has_a_bound(name, seed):
    """S in eigenvectors of D, the derivative of the projection by dcl/cones."""
    drawn, rng = Drawn(name, seed), np.random.default_rng(seed)
    count, c = len(drawn.terms), 0.5
    cones = 2.0 ** rng.integers(-2, 3, count)
    E = np.concatenate([2.0 ** -np.round(np.log2(np.abs(drawn.B).max(1))), np.repeat(cones, 3)])
    P, A, z, s = _cones(drawn, c, E)
    assert np.abs(P[:, :N] @ drawn.x + c * np.append(drawn.q, drawn.weights) + A.T @ z).max() <= 1e-12
    values, vectors = np.zeros(len(z)), np.eye(len(z))
    values[:ROWS] = 1.0
    for k in range(count):
        at = slice(ROWS + 3 * k, ROWS + 3 * k + 3)
        values[at], vectors[at, at] = np.linalg.eigh(_derivative(torch.tensor(z[at] - s[at])))
    live = values > 1e-7
    R = (vectors * np.sqrt(values.clip(0.0)))[:, live]
    S = np.block([[P, A.T @ R], [R.T @ A, np.diag(values[live] - 1.0)]])
    exact = 1.0 / np.abs(np.linalg.eigvalsh(S)).min()
    alpha = torch.tensor([1.0 if kind is Kind.RELATIVE else -1.0 for kind, _ in drawn.terms], dtype=torch.float64)
    units = smooth.Units(alpha, torch.tensor(cones).unsqueeze(0), torch.tensor([[c]], dtype=torch.float64))
    found = float(drawn.bounds(drawn.x, drawn.y, 0.0, units).inverse)
    assert 0.999 * exact <= found <= 1e3 * exact


def _derivative(v: torch.Tensor) -> np.ndarray:
    """That of the projection onto the dual of the exponential cone."""
    D = Exponential().dproject(v.unsqueeze(0), 0.0, torch.full((1, 3), torch.nan, dtype=torch.float64))
    units = torch.eye(3, dtype=torch.float64)
    return torch.stack([D.apply(units[k : k + 1])[0] for k in range(3)], -1).numpy()
