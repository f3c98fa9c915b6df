"""Smooth programs: torch functions on the same waist as matrices, solved by Newton's method, checked and explained."""
