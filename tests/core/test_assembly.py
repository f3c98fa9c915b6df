"""From parameters to data and back in the core: affine maps by their matrices, adjoints, layers in closed form."""

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tolerances import IDENTITY

import dcl
from dcl import core
from dcl.core import affine as compiled
from dcl.program.affine import affine_map

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
EXACT = {"rtol": 0.0, "atol": 1e-14}
# sizes of the parameters; the second is not touched
SIZES = [4, 2, 3, 1]


def drawn(seed, rows=9, density=0.3):
    """offset and matrix, with empty rows and columns, and rows that are one entry with weight 1"""
    rng = np.random.default_rng(seed)
    M = sp.lil_array(sp.random_array((rows, sum(SIZES)), density=density, rng=rng))
    offset = rng.standard_normal(rows)
    if rows > 3:
        M[1], M[2], offset[2] = 0.0, 0.0, 0.0
        M[2, 0] = 1.0
    M[:, 4:6] = 0.0
    return offset, sp.csr_array(M)


@pytest.mark.parametrize("batches", [(1, 1, 1, 1), (5, 5, 5, 5), (5, 1, 1, 5), (1, 5, 1, 1), (0, 1, 0, 1)], ids=str)
@pytest.mark.parametrize(("rows", "density"), [(9, 0.3), (9, 1.0), (3, 0.0), (0, 0.0)])
def test_an_affine_map_is_its_matrix(batches, rows, density):
    offset, M = drawn(0, rows, density)
    affine = affine_map(offset, M, SIZES)
    rng = np.random.default_rng(1)
    thetas = [torch.from_numpy(rng.standard_normal((b, size))) for b, size in zip(batches, SIZES, strict=True)]
    thetas[2] = thetas[2].mT.contiguous().mT  # strides that are not those of a matrix by rows
    found = affine.numbers(thetas, threads=2)
    touched = {p for p in (0, 2, 3) if M[:, sum(SIZES[:p]) : sum(SIZES[: p + 1])].nnz}
    batch = next((batches[p] for p in touched if batches[p] != 1), 1)
    expected = np.zeros((0, rows))
    if batch:
        # what is empty is not touched here
        u = np.concatenate(
            [np.broadcast_to(t if len(t) else np.zeros((1, t.shape[1])), (5, t.shape[1])) for t in thetas], -1
        )
        expected = (u @ M.toarray().T + offset)[:batch]
    assert found.shape == (batch, rows)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)
    torch.testing.assert_close(found, affine(thetas), **EXACT)


def test_the_transpose_and_threads():
    offset, M = drawn(2)
    affine = affine_map(offset, M, SIZES)
    y = torch.randn(40, 9, **F64, generator=torch.Generator().manual_seed(0))
    found = affine.adjoint(y, SIZES)
    expected = np.split(y.numpy() @ M.toarray(), np.cumsum(SIZES)[:-1], axis=1)
    assert sorted(found) == [0, 2, 3]
    for p, g in found.items():
        np.testing.assert_allclose(g.numpy(), expected[p], atol=1e-14)
        assert torch.equal(g, affine.adjoint(y.mT.contiguous().mT, SIZES, threads=3)[p])


@pytest.mark.parametrize("with_value", [False, True])
def test_gradients_of_entries(with_value):
    """Outer products in NumPy; one instance adds nothing; the second part is a sum over the batch."""
    rng = np.random.default_rng(3)
    batch, n, m = 4, 3, 2
    x, u = rng.standard_normal((2, batch, n))
    z, w = rng.standard_normal((2, batch, m))
    c = rng.standard_normal(batch) if with_value else np.zeros(batch)
    rest = w - c[:, None] * z
    dP = -u[:, :, None] * x[:, None, :] + 0.5 * c[:, None, None] * x[:, :, None] * x[:, None, :]
    dA = -(z[:, :, None] * u[:, None, :] + rest[:, :, None] * x[:, None, :])
    y = np.concatenate(
        [dP[:, [0, 2], [1, 2]], dA[:, [1, 0], [2, 0]], (c[:, None] * x - u)[:, [2]], rest, c[:, None]], -1
    )
    y[2] = 0.0
    L = sp.random_array((y.shape[1], 5), density=0.5, rng=rng, format="csr")
    places = [torch.tensor(t) for t in ([0, 2], [1, 2], [1, 0], [2, 0], [2], [0, 1])]
    entries = compiled.Entries((places[0], places[1]), (places[2], places[3]), places[4], places[5], True)
    point = [torch.from_numpy(t) for t in (x, z, u, w)]
    value, status = torch.from_numpy(c) if with_value else None, torch.tensor([0, 0, 4, 0], dtype=torch.int8)
    for threads in (1, 3):
        own, shared = compiled.pull_back(
            entries, compiled.lists(L.T), point, value, status, [(2, False), (3, True)], threads
        )
        expected = y @ L.toarray()
        np.testing.assert_allclose(own.numpy(), expected[:, :2], atol=1e-14)
        np.testing.assert_allclose(shared.numpy(), expected[:, 2:].sum(0, keepdims=True), atol=1e-14)


def fitted(square):
    """x = F c + a + 2 b, which parameters of a batch and shared ones make together: as one residual, or in the cost."""
    x, F, a, b = cp.Variable(3), cp.Parameter((3, 2)), cp.Parameter(3), cp.Parameter(3)
    c = np.array([0.5, -2.0])
    target = F @ c + a + 2 * b
    objective = cp.sum_squares(x - target) if square else 0.5 * cp.sum_squares(x) - target @ x
    return dcl.CvxpyLayer(cp.Problem(cp.Minimize(objective), [x >= -50]), [F, a, b], [x]), torch.tensor(c)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, IDENTITY), (torch.float32, 1e-5)])
def test_sums_of_parameters_in_closed_form(square, dtype, tol):
    layer, c = fitted(square)
    torch.manual_seed(0)
    F = torch.randn(6, 2, 3, dtype=dtype).mT.requires_grad_()
    a, b = torch.randn(3, dtype=dtype, requires_grad=True), torch.randn(6, 3, dtype=dtype, requires_grad=True)
    (x,) = layer(F, a, b)
    known = F @ c.to(dtype) + a + 2 * b
    torch.testing.assert_close(x, known, rtol=tol, atol=tol)
    weights = torch.randn(6, 3, dtype=dtype)
    found = torch.autograd.grad((weights * x).sum(), [F, a, b])
    expected = (weights[:, :, None] * c.to(dtype), weights.sum(0), 2 * weights)
    for g, e in zip(found, expected, strict=True):
        assert g.dtype == dtype
        torch.testing.assert_close(g, e, rtol=tol, atol=tol)


@pytest.mark.parametrize("square", [True, False])
def test_other_derivatives_do_not_see_the_core(square):
    layer, c = fitted(square)
    torch.manual_seed(0)
    F, a, b = torch.randn(4, 3, 2, **F64), torch.randn(3, **F64), torch.randn(4, 3, **F64)

    def loss(F, a, b):
        return (layer(F, a, b)[0] ** 3).sum()

    def known(F, a, b):
        return ((F @ c + a + 2 * b) ** 3).sum()

    for argnum in range(3):
        for f, g in ((torch.func.grad(loss, argnum), torch.func.grad(known, argnum)),):
            torch.testing.assert_close(f(F, a, b), g(F, a, b), rtol=IDENTITY, atol=IDENTITY)
    tangents = tuple(torch.randn_like(t) for t in (F, a, b))
    both = [torch.func.jvp(f, (F, a, b), tangents)[1] for f in (loss, known)]
    torch.testing.assert_close(*both, rtol=IDENTITY, atol=IDENTITY)
    mapped = torch.func.vmap(lambda one: layer(one, a, b[0])[0])(F)
    torch.testing.assert_close(mapped, F @ c + a + 2 * b[0], rtol=IDENTITY, atol=IDENTITY)
    a.requires_grad_()
    second = []
    for f in (loss, known):
        (g,) = torch.autograd.grad(f(F, a, b), a, create_graph=True)
        second.append(torch.autograd.grad((g**2).sum(), a)[0])
    torch.testing.assert_close(*second, rtol=IDENTITY, atol=IDENTITY)


def test_a_layer_that_was_called_is_copied_with_its_maps():
    layer, c = fitted(True)
    F, a, b = torch.ones(3, 2, **F64), torch.ones(3, **F64), torch.ones(2, 3, **F64, requires_grad=True)
    layer(F, a, b)[0].sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(F, a, b)[0], (F @ c + a + 2 * b), rtol=IDENTITY, atol=IDENTITY)
