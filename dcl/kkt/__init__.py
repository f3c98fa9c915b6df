"""The KKT system of a program at a point, and its one symmetric matrix S, factored: dense in batches, sparse one by one."""

from dcl.kkt.base import RANK_TOLERANCE, AbstractFactor, Conditioning
from dcl.kkt.dense import DenseFactor
from dcl.kkt.sparse import SparseFactor
from dcl.kkt.system import KKT, assemble, factorize, residual

__all__ = [
    "KKT",
    "RANK_TOLERANCE",
    "AbstractFactor",
    "Conditioning",
    "DenseFactor",
    "SparseFactor",
    "assemble",
    "factorize",
    "residual",
]
