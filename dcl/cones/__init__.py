"""Cones: projection, its derivatives, and the log-barrier, each in one place (see `dcl.cones.base`)."""

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier
from dcl.cones.exponential import Exponential
from dcl.cones.orthant import Nonnegative, Zero
from dcl.cones.power import Power
from dcl.cones.product import Product, orthant
from dcl.cones.second_order import SecondOrder
from dcl.cones.semidefinite import Semidefinite

__all__ = [
    "AbstractCone",
    "AbstractDerivative",
    "Barrier",
    "Exponential",
    "Nonnegative",
    "Power",
    "Product",
    "SecondOrder",
    "Semidefinite",
    "Zero",
    "orthant",
]
