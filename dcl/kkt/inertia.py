"""Is a sparse symmetric matrix positive semidefinite, up to rounding?

    P + e |P| I = C' L D L' C        positive definite exactly if D > 0 (Sylvester's law of inertia), for every permutation C

|P| is the largest sum of absolute values in a row, which bounds the eigenvalues.  One analysis of the pattern serves all calls.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dcl.kkt.ldl import AbstractLdl, Indices, ldl
from dcl.program.pattern import AbstractPattern

_analyzed: WeakKeyDictionary[AbstractPattern, tuple[Indices, AbstractLdl]] = WeakKeyDictionary()


def is_semidefinite(pattern: AbstractPattern, P: Tensor, tolerance: float) -> Tensor:
    """(B or 1,): are the eigenvalues of P above -tolerance |P|? P: finite values (B or 1, nnz) on a symmetric sparse pattern."""
    if not P.shape[-1]:
        return torch.ones(P.shape[0], dtype=torch.bool, device=P.device)
    n = pattern.shape[0]
    size = pattern.matvec(P.abs(), P.new_ones(P.shape[0], n)).amax(-1, keepdim=True)
    scaled = P / torch.where(size > 0.0, size, 1.0)
    found = _analyzed.get(pattern)
    if found is None:
        rows, cols = pattern.coordinates()
        upper = np.flatnonzero(rows <= cols)
        found = _analyzed[pattern] = upper, ldl(n, rows[upper], cols[upper])
    upper, analysis = found
    values = np.ascontiguousarray(scaled.detach().cpu().numpy()[:, upper])
    factors = analysis.factor(values, np.full(n, tolerance), len(values))
    return torch.from_numpy(analysis.turned(factors) == 0).to(P.device)
