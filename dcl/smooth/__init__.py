"""Smooth programs: torch functions in the same canonical form as matrices, solved by Newton's method, checked and explained."""
