"""From the arrays of the oracles to calls of dcl and back, and the one way in which errors are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from oracles.regular import DATA
from tolerances import NOT_TINY

import dcl

OUTPUTS = ("x", "y", "z", "z_lb", "z_ub", "value")
Arrays = Mapping[str, Any]


def tensors(data: Arrays, requires_grad: bool = True) -> dict[str, torch.Tensor]:
    """The blocks that are present, as float64 leaves."""
    present = {name: data[name] for name in DATA if data[name] is not None}
    return {name: torch.tensor(a, dtype=torch.float64, requires_grad=requires_grad) for name, a in present.items()}


def solve(data: Arrays, **settings: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dcl.Solution]:
    """(leaves, outputs of the blocks that are present, Solution) of a program in arrays."""
    leaves = tensors(data)
    result, solution = dcl.solve_qp(**({"P": None} | leaves), on_degenerate="ignore", return_solution=True, **settings)
    return leaves, present_outputs(result, data), solution


def present_outputs(result: dcl.QPResult, data: Arrays) -> dict[str, torch.Tensor]:
    owner = {"y": "b", "z": "h", "z_lb": "lb", "z_ub": "ub"}
    return {name: getattr(result, name) for name in OUTPUTS if data[owner.get(name, "q")] is not None}


def gradients(
    leaves: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], cotangents: Arrays
) -> dict[str, np.ndarray]:
    """Gradients of sum <cotangent, output> with respect to every leaf."""
    chosen = [name for name in cotangents if name in outputs]
    seeds = [torch.as_tensor(cotangents[name], dtype=torch.float64) for name in chosen]
    found = torch.autograd.grad(
        [outputs[name] for name in chosen],
        list(leaves.values()),
        seeds,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return {name: g.numpy() for name, g in zip(leaves, found, strict=True)}


def draw(outputs: Arrays, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A random cotangent for every output, those of inactive multipliers included."""
    return {name: rng.standard_normal(tuple(t.shape)) for name, t in outputs.items()}


def errors(computed: Arrays, known: Arrays) -> Iterator[tuple[str, float]]:
    """Relative errors of the arrays that `computed` has: "all" together, then each that is not tiny; see tolerances.py."""
    names = [name for name in computed if known.get(name) is not None]
    misses = {name: float(np.linalg.norm(np.ravel(_array(computed[name]) - known[name]))) for name in names}
    norms = {name: float(np.linalg.norm(np.ravel(known[name]))) for name in names}
    norm = float(np.linalg.norm(list(norms.values())))
    yield "all", _ratio(float(np.linalg.norm(list(misses.values()))), norm)
    for name in names:
        if norms[name] >= NOT_TINY * norm:
            yield name, _ratio(misses[name], norms[name])


def wrong(computed: Arrays, known: Arrays, tol: float) -> list[str]:
    """The errors above tol, as text."""
    return [f"{name} {error:.1e}" for name, error in errors(computed, known) if not error <= tol]


def _array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _ratio(miss: float, norm: float) -> float:
    return miss if norm == 0.0 else miss / norm
