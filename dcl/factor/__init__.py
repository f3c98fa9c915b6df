"""Factorizations of the saddle matrix S of `dcl.kkt` (see `dcl.factor.base`)."""

from dcl.factor.base import RANK_TOLERANCE, AbstractFactor, Conditioning
from dcl.factor.dense import DenseFactor
from dcl.factor.sparse import SparseFactor

__all__ = ["RANK_TOLERANCE", "AbstractFactor", "Conditioning", "DenseFactor", "SparseFactor"]
