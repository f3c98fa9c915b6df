"""The seam of solvers: what is found does not depend on what else is asked, and points are measured, not believed."""

import numpy as np
import pytest
import torch

from dcl.cones import orthant
from dcl.program import ConeProgram, dense_structure
from dcl.solve.backend import Backend
from dcl.solvers.base import Claim
from dcl.solvers.choose import _SOLVERS as SOLVERS
from dcl.solvers.choose import centering, vertex_solvers

KINDS = pytest.mark.parametrize("kind", SOLVERS.values(), ids=list(SOLVERS))


def boxes(sides):
    """minimize |x - (2, -2)|^2 / 2 subject to x <= sides, -x <= sides, of which x = sides * (1, -1) for sides in (0, 2)."""
    sides = torch.as_tensor(sides, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    A = torch.cat([eye, -eye]).unsqueeze(0)
    q = torch.tensor([[-2.0, 2.0]], dtype=torch.float64)
    return ConeProgram(dense_structure(orthant(0, 4), 2), eye.unsqueeze(0), q, A, sides.unsqueeze(-1).expand(-1, 4))


@KINDS
def test_points_and_rows(kind):
    sides = np.array([0.5, 1.0, 1.5])
    program, backend = boxes(sides), Backend(kind())
    whole, part = backend.solve(program), backend.solve(program, [0, 2])
    assert whole.is_solved.all()
    np.testing.assert_allclose(whole.x, np.outer(sides, [1.0, -1.0]), atol=1e-6)
    np.testing.assert_allclose(whole.z[:, [0, 3]], 2.0 - sides[:, None].repeat(2, 1), atol=1e-6)
    torch.testing.assert_close(part.x, whole.x[[0, 2]], rtol=0.0, atol=0.0)
    torch.testing.assert_close(part.program.b, program.b[[0, 2]], rtol=0.0, atol=0.0)
    point = part.points(np.array([1]))
    # s is what the constraints say, not what the solver says
    torch.testing.assert_close(point.v, part.z[1:] - (program.b[2:] - part.x[1:] @ program.A[0].T))


@KINDS
def test_an_instance_without_a_solution_has_no_point_and_harms_no_other(kind):
    found = Backend(kind()).solve(boxes([1.0, -1.0, 1.0]))
    assert found.is_solved.tolist() == [True, False, True]
    if found.claim[1] == Claim.PRIMAL_INFEASIBLE:
        assert not found.has_point[1]


@KINDS
def test_limits_and_tolerances_are_told(kind):
    backend = Backend(kind())
    assert not backend.is_limited
    assert backend.at_own_tolerance() == backend
    assert Backend(kind(max_iters=5)).is_limited
    loose = Backend(kind(eps=1e-3), threads=2)
    assert loose.at_own_tolerance() == Backend(kind(), threads=2)


def test_vertices_and_centers_are_sought_by_capability():
    found = vertex_solvers(None)
    assert [solver.name for solver in found] == ["DAQP", "HIGHS"]
    assert all(solver.gives_basic_duals for solver in found)
    assert [solver.time_limit for solver in found] == [None, 2.0]
    assert [solver.time_limit for solver in vertex_solvers(0.5)] == [0.5, 0.5]
    center = centering(1e-11, 3.0)
    assert center.finds_center
    assert (center.eps, center.time_limit) == (1e-11, 3.0)
    # a linear program whose solutions are a face: the middle of it
    face = ConeProgram(
        dense_structure(orthant(0, 4), 2),
        torch.zeros(1, 2, 2, dtype=torch.float64),
        torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        torch.cat([torch.eye(2), -torch.eye(2)]).double().unsqueeze(0),
        torch.ones(1, 4, dtype=torch.float64),
    )
    torch.testing.assert_close(Backend(center).solve(face).x, torch.tensor([[0.0, -1.0]], dtype=torch.float64))
