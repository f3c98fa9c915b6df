"""The CVXPY front end: a problem becomes affine maps from its parameters to one cone program (`canonicalize`).

The files of this package are the only ones that import cvxpy.
"""

from dcl.frontends.cvxpy.canonicalize import canonicalize
from dcl.frontends.cvxpy.domain import Domain
from dcl.frontends.cvxpy.form import CanonicalForm

__all__ = ["CanonicalForm", "Domain", "canonicalize"]
