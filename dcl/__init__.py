"""dcl: differentiable convex optimization layers."""
