"""Every tolerance of the correctness tests, and how the error is measured.

The error of a set of arrays ("all gradients", "all outputs") is measured twice:

- together: |computed - known| / |known| in the 2-norm over all arrays of the set as one vector;
- per array: |computed - known| / |known| for each array whose norm is at least NOT_TINY of the set's.  The others (often
  exactly zero, as the gradient of a multiplier of an LP in b) have an error of the condition times the rounding of the
  large ones, so they are held to the tolerance times the norm of the set, by the first measure.
"""

# Solution and gradients of regular programs against high precision, where the condition of K is up to 1e8.
REGULAR = 1e-8
NOT_TINY = 1e-2
# The same for tiny programs against exact rationals; TINY_HULL is relative to 1 + the largest one-sided gradient.
TINY = 1e-9
TINY_HULL = 1e-9
# Identities between results of dcl, on instances with condition up to 1e4; those whose two sides are the same
# computation in another order only round.
IDENTITY = 1e-9
ROUNDING = 1e-12
# Real problems: value, relative to 1 + |value|; tighter where two reference solvers agree so well or it is certified.
REAL_VALUE = 1e-6
REAL_VALUE_CERTIFIED = 1e-8
# Gradients of regular real problems with condition <= REAL_CONDITION: against high precision and finite differences.
REAL_GRADIENT = 1e-6
REAL_CONDITION = 1e5
