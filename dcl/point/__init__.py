"""A point of a program: what follows from it, whether it is an answer, and what the derivative there is worth."""

from dcl.point.point import FLOOR, OPTIMAL_TOLERANCE, Point, worst

__all__ = ["FLOOR", "OPTIMAL_TOLERANCE", "Point", "worst"]
