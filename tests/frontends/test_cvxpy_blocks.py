"""The blocks of the core's program as functions of a CVXPY problem's parameters: right values, adjoints, and no copies."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl
from dcl import core
from dcl.core import dense
from dcl.layers.cvxpy_blocks import Whole, blocks_of

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
EXACT = {"rtol": 0.0, "atol": 1e-14}


def plain():
    x, P, q = cp.Variable(3), cp.Parameter((3, 3), PSD=True), cp.Parameter(3)
    A, b, G, h = cp.Parameter((2, 3)), cp.Parameter(2), cp.Parameter((4, 3)), cp.Parameter(4)
    objective = cp.Minimize(0.5 * cp.quad_form(x, P) + q @ x)
    return cp.Problem(objective, [A @ x == b, G @ x <= h]), [P, q, A, b, G, h], {"P", "q", "A", "b", "G", "h"}


def with_factors():
    """2 P, 3 q, and a negative semidefinite parameter would do as well."""
    x, P, q, G = cp.Variable(3), cp.Parameter((3, 3), NSD=True), cp.Parameter(3), cp.Parameter((2, 3))
    return cp.Problem(cp.Maximize(cp.quad_form(x, P) - 3 * (q @ x)), [-2 * G @ x <= 1]), [P, q, G], {"P", "q", "G"}


def transposed_and_mixed():
    """G is a transposed parameter, b a row and a constant, q a sum of two."""
    x, q, r, G, b = cp.Variable(3), cp.Parameter(3), cp.Parameter(3), cp.Parameter((3, 4)), cp.Parameter()
    constraints = [G.T @ x <= 1, cp.sum(x) == b, x[0] == 2]
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + (q + r) @ x), constraints), [q, r, G, b], set()


def one_row():
    """Parameters whose shapes are not those of the blocks."""
    x, a, b = cp.Variable(3), cp.Parameter((1, 3)), cp.Parameter()
    return cp.Problem(cp.Minimize(cp.sum(x)), [a @ x == b, x >= -1]), [a, b], {"A", "b"}


PROBLEMS = [plain, with_factors, transposed_and_mixed, one_row]


def drawn(parameters, seed, batch):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.standard_normal((*batch, *p.shape))) for p in parameters]


@pytest.mark.parametrize("make", PROBLEMS)
@pytest.mark.parametrize("batch", [(), (1,), (5,)], ids=str)
def test_values_and_adjoints(make, batch):
    problem, parameters, whole = make()
    form = dcl.CvxpyLayer(problem, parameters, problem.variables())._form
    blocks, zeros = blocks_of(form), form.structure.cone.zeros
    assert {name for name, block in blocks.items() if isinstance(block, Whole)} == whole
    given = drawn(parameters, 0, batch)
    # the same by the maps of the whole program
    program, _ = form.program([form.flatten(t, p) for p, t in enumerate(given)])
    expected = {"P": program.P, "q": program.q, "A": program.A[:, :zeros], "b": program.b[:, :zeros]}
    expected |= {"G": program.A[:, zeros:], "h": program.b[:, zeros:]}
    rng = np.random.default_rng(1)
    for name, block in blocks.items():
        found = block(given)
        # a block that no varying parameter touches is shared, whatever its neighbors are
        both = [t.reshape(-1, *block.shape) for t in (found, expected[name])]
        both = [t.expand(max(len(t) for t in both), *block.shape) for t in both]
        symmetric = [0.5 * (t + t.mT) if name == "P" else t for t in both]
        torch.testing.assert_close(*symmetric, **EXACT)
        # <block(t) - block(0), y> = <t, adjoint(y)>
        y = torch.tensor(rng.standard_normal(found.shape))
        y = y + y.mT if name == "P" else y
        linear = found - block([torch.zeros_like(t) for t in given])
        pulled = sum((g.reshape(given[p].shape) * given[p]).sum() for p, g in block.adjoint(y).items())
        torch.testing.assert_close(torch.as_tensor(pulled, **F64), (linear * y).sum(), rtol=1e-12, atol=1e-12)
        if name in whole and block.factor == 1.0:
            assert found.data_ptr() == given[block.parameter].data_ptr()


@pytest.mark.parametrize("make", PROBLEMS)
def test_parts_of_an_affine_map(make):
    problem, parameters, _ = make()
    form = dcl.CvxpyLayer(problem, parameters, problem.variables())._form
    given = drawn(parameters, 2, (4,))
    thetas = [form.flatten(t, p) for p, t in enumerate(given)]
    sizes = [theta.shape[-1] for theta in thetas]
    for affine in (form.map_P, form.map_q, form.map_A, form.map_b):
        everything = affine(thetas)
        matrix = affine.linear(sizes)
        by_matrix = torch.cat(thetas, -1).numpy() @ matrix.toarray().T + affine.offset.numpy()
        np.testing.assert_allclose(everything.numpy(), by_matrix[: len(everything)], rtol=0.0, atol=1e-13)
        for entries in (slice(0, affine.size // 2), slice(affine.size // 2, affine.size)):
            found = affine.part(entries, sizes)(thetas)
            torch.testing.assert_close(found.expand_as(everything[:, entries]), everything[:, entries], **EXACT)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=str)
def test_the_core_takes_any_leading_dimensions(batch):
    rng = np.random.default_rng(3)
    data = {"P": torch.eye(3, **F64), "q": torch.tensor(rng.standard_normal((*batch, 3)))}
    answer = dense.solve_framed(dense.frame(data, batch), data)
    assert answer.kept.left == 0
    torch.testing.assert_close(answer.x, -data["q"], rtol=0.0, atol=1e-14)
    assert answer.value.shape == batch
    assert answer.y.shape == (*batch, 0)
    x, _ = answer.kept.point()
    torch.testing.assert_close(x, answer.x.reshape(-1, 3), **EXACT)


def test_a_handle_that_keeps_nothing_says_so():
    data = {"P": torch.eye(3, **F64), "q": torch.ones(2, 3, **F64)}
    kept = dense.solve_framed(dense.frame(data, (2,)), data, keep=False).kept
    with pytest.raises(ValueError, match="keeps nothing"):
        kept.adjoint({"x": torch.ones(2, 3, **F64)}, ["q"])
    with pytest.raises(ValueError, match="keeps nothing"):
        kept.point()
