"""`python -m dcl demo`: learn one penalty per feature of a constrained regression through its argmin, on real data."""
