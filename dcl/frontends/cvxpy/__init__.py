"""The CVXPY front end: a problem becomes affine maps from its parameters to one cone program.

The files of this package are the only ones that import cvxpy.  What is exported here does not; `canonicalize` in the module
of that name does, and is imported when the first problem comes: cvxpy imports every solver that is installed.
"""

from dcl.frontends.cvxpy.domain import Domain
from dcl.frontends.cvxpy.form import CanonicalForm

__all__ = ["CanonicalForm", "Domain"]
