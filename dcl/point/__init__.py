"""A point of a program: its residuals, whether it is an answer, and whether its derivative can be trusted."""

from dcl.point.point import FLOOR, OPTIMAL_TOLERANCE, Point, worst

__all__ = ["FLOOR", "OPTIMAL_TOLERANCE", "Point", "worst"]
