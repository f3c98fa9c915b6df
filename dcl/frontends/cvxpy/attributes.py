"""Attributes of variables and parameters: what CVXPY keeps of a leaf, and the domain that a parameter declares."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpy.atoms.affine.upper_tri import batched_upper_tri_to_full
from cvxpy.expressions.leaf import Leaf
from torch import Tensor

from dcl.errors import UnsupportedError
from dcl.frontends.cvxpy.domain import Domain

_DECLARATIONS = ("nonneg", "nonpos", "pos", "neg", "symmetric", "diag", "PSD", "NSD", "bounds", "sparsity")


def declared(leaf: Leaf) -> str:
    """The attributes of a leaf that restrict it, as in "nonneg" or "symmetric, bounds"."""
    values = leaf.attributes
    return ", ".join(key for key in _DECLARATIONS if values[key] is not False and values[key] is not None)


def expansion(leaf: Leaf) -> sp.csr_array | None:
    """E (size, reduced size), vec(value) = E phi, for the phi that CVXPY replaces `leaf` by; None if it keeps all."""
    attributes, shape = leaf.attributes, leaf.shape
    if attributes["symmetric"] or attributes["PSD"] or attributes["NSD"]:
        return sp.csr_array(batched_upper_tri_to_full(int(np.prod(shape[:-2])), shape[-1]))
    if attributes["diag"]:
        places = np.arange(shape[0]) * (shape[0] + 1)
    elif attributes["sparsity"]:
        places = np.ravel_multi_index(leaf.sparse_idx, shape, order="F")
    else:
        return None
    k = len(places)
    return sp.csr_array((np.ones(k), (places, np.arange(k))), shape=(leaf.size, k))


def reduction(leaf: Leaf) -> sp.coo_array:
    """L = (E'E)^-1 E': the mean of the entries that one reduced parameter stands for."""
    E = expansion(leaf)
    if E is None:
        return sp.eye_array(leaf.size, format="coo")
    counts = np.asarray(E.sum(axis=0)).ravel()
    return sp.coo_array(sp.diags_array(1.0 / counts) @ E.T)


def domain_of(parameter: cp.Parameter, *, strict: bool) -> Domain:
    """What the values of a parameter must satisfy; strict: its logarithm is taken.

    Raises:
        UnsupportedError: bounds that are expressions or sparse.
    """
    values = parameter.attributes
    lower, upper = _bounds(parameter)
    if values["nonneg"] or values["pos"]:
        lower = torch.zeros((), device="cpu") if lower is None else lower.clamp(min=0.0)
    if values["nonpos"] or values["neg"]:
        upper = torch.zeros((), device="cpu") if upper is None else upper.clamp(max=0.0)
    return Domain(
        name=parameter.name(),
        shape=tuple(parameter.shape),
        declared=declared(parameter),
        lower=lower,
        upper=upper,
        strict=strict,
        sign=int(bool(values["PSD"])) - int(bool(values["NSD"])),
        free=_free(parameter),
    )


def _bounds(parameter: cp.Parameter) -> tuple[Tensor | None, Tensor | None]:
    bounds = parameter.attributes["bounds"]
    if bounds is None:
        return None, None
    return _bound(parameter, bounds[0]), _bound(parameter, bounds[1])


def _bound(parameter: cp.Parameter, bound: Any) -> Tensor | None:
    if isinstance(bound, cp.Expression) or sp.issparse(bound):
        raise UnsupportedError(f"parameter {parameter.name()}: bounds that are expressions or sparse are not supported")
    full = np.broadcast_to(np.asarray(bound, dtype=np.float64), parameter.shape)
    return None if np.all(np.isinf(full)) else torch.from_numpy(full.copy())


def _free(parameter: cp.Parameter) -> Tensor | None:
    """False where a diagonal or sparse parameter must be zero."""
    if not (parameter.attributes["diag"] or parameter.attributes["sparsity"]):
        return None
    E = expansion(parameter)
    filled = np.zeros(parameter.size, dtype=bool)
    if E is not None:
        filled[E.nonzero()[0]] = True
    return torch.from_numpy(filled.reshape(parameter.shape, order="F").copy())
