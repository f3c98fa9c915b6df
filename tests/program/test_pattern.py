"""Laws of the patterns: each operation against NumPy and against its adjoint, dense against sparse."""

import numpy as np
import pytest
import torch

from dcl.program.pattern import DensePattern, pattern_of

SHAPES = {"wide": (3, 5), "tall": (6, 2), "square": (4, 4), "one": (1, 1), "no rows": (0, 3), "row": (1, 4)}
LEADS = [(), (3,), (2, 3)]
BATCH = 4
# name -> share of nonzeros; None is the dense pattern
KINDS = {"dense": None, "full": 1.0, "half": 0.5, "few": 0.2, "empty": 0.0}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_shape = pytest.mark.parametrize("shape", SHAPES)
each_batch = pytest.mark.parametrize("shared", [True, False], ids=["shared", "batched"])
each_lead = pytest.mark.parametrize("lead", LEADS, ids=str)
EXACT = {"rtol": 1e-13, "atol": 1e-13}


def built(kind, shape, shared=False, seed=0):
    """(pattern, values, the matrices in NumPy)."""
    rng = np.random.default_rng(seed)
    m, n = SHAPES[shape]
    batch = 1 if shared else BATCH
    full = rng.standard_normal((batch, m, n))
    if KINDS[kind] is None:
        return DensePattern((m, n)), torch.tensor(full), full
    places = rng.permutation(np.flatnonzero(rng.random(m * n) < KINDS[kind]))  # in no order
    rows, cols = places // max(n, 1), places % max(n, 1)
    mask = np.zeros((m, n))
    mask[rows, cols] = 1.0
    return pattern_of(rows, cols, (m, n)), torch.tensor(full[:, rows, cols]), full * mask


def vector(size, lead, seed, batch=BATCH):
    return torch.tensor(np.random.default_rng(seed).standard_normal((*lead, batch, size)))


@pytest.mark.sample(5)
@each_lead
@each_batch
@each_shape
@each_kind
def test_products_are_those_of_numpy(kind, shape, shared, lead):
    pattern, values, M = built(kind, shape, shared)
    m, n = pattern.shape
    x, y = vector(n, lead, 1), vector(m, lead, 2)
    torch.testing.assert_close(pattern.matvec(values, x), torch.tensor((M @ x.numpy()[..., None])[..., 0]), **EXACT)
    expected = torch.tensor((M.swapaxes(-1, -2) @ y.numpy()[..., None])[..., 0])
    torch.testing.assert_close(pattern.rmatvec(values, y), expected, **EXACT)


@pytest.mark.sample(7)
@each_lead
@each_batch
@each_shape
@each_kind
def test_adjoints(kind, shape, shared, lead):
    pattern, values, _ = built(kind, shape, shared)
    m, n = pattern.shape
    x, y = vector(n, lead, 1), vector(m, lead, 2)
    inner = (pattern.matvec(values, x) * y).sum()
    torch.testing.assert_close((x * pattern.rmatvec(values, y)).sum(), inner, rtol=1e-12, atol=1e-12)
    outer = pattern.outer(y, x, values.shape[0])
    assert outer.shape == values.shape
    torch.testing.assert_close((values * outer).sum(), inner, rtol=1e-12, atol=1e-12)
    # of every entry, not only in the sum: outer is what autograd finds
    values.requires_grad_()
    (expected,) = torch.autograd.grad((pattern.matvec(values, x) * y).sum(), values)
    torch.testing.assert_close(outer, expected, **EXACT)


@pytest.mark.sample(7)
@each_batch
@each_shape
@each_kind
def test_dense_and_coordinates(kind, shape, shared):
    pattern, values, M = built(kind, shape, shared)
    torch.testing.assert_close(pattern.dense(values), torch.tensor(M), rtol=0, atol=0)
    rows, cols = pattern.coordinates()
    flat = values.flatten(1).numpy()
    assert len(rows) == len(cols) == flat.shape[1]
    assert len(set(zip(rows.tolist(), cols.tolist(), strict=True))) == len(rows)
    np.testing.assert_array_equal(M[:, rows, cols], flat)


@pytest.mark.sample(7)
@each_batch
@each_shape
@each_kind
def test_row_sizes_and_scaling(kind, shape, shared):
    pattern, values, M = built(kind, shape, shared)
    np.testing.assert_array_equal(pattern.row_sizes(values), np.abs(M).max(-1, initial=0.0))
    factors = vector(pattern.shape[0], (), 5, batch=1).exp()
    expected = torch.tensor(M * factors.numpy()[..., None])
    torch.testing.assert_close(pattern.dense(pattern.scale_rows(values, factors)), expected, **EXACT)
    factors = vector(pattern.shape[0], (), 6, batch=M.shape[0]).exp()
    expected = torch.tensor(M * factors.numpy()[..., None])
    torch.testing.assert_close(pattern.dense(pattern.scale_rows(values, factors)), expected, **EXACT)


@pytest.mark.parametrize("kind", ["dense", "half"])
@pytest.mark.parametrize("operation", ["matvec", "rmatvec", "outer"])
def test_operations_are_differentiable_twice(kind, operation):
    pattern, values, _ = built(kind, "wide")
    m, n = pattern.shape
    x, y = vector(n, (2,), 1), vector(m, (2,), 2)
    inputs = {"matvec": (values, x), "rmatvec": (values, y), "outer": (y, x)}[operation]
    inputs = tuple(t.requires_grad_() for t in inputs)
    extra = (BATCH,) if operation == "outer" else ()
    assert torch.autograd.gradcheck(lambda *t: getattr(pattern, operation)(*t, *extra), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: getattr(pattern, operation)(*t, *extra), inputs, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own, in jacfwd
@pytest.mark.parametrize("kind", ["dense", "half"])
def test_operations_under_function_transforms(kind):
    pattern, values, M = built(kind, "wide")
    x = vector(5, (), 1)
    mapped = torch.func.vmap(lambda w, u: pattern.matvec(w.unsqueeze(0), u.unsqueeze(0)).squeeze(0))(values, x)
    torch.testing.assert_close(mapped, pattern.matvec(values, x), **EXACT)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        found = jacobian(lambda u: pattern.matvec(values[:1], u))(x[:1])[0, :, 0]
        torch.testing.assert_close(found, torch.tensor(M[0]), **EXACT)
