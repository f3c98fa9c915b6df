"""Laws of every front end of `front_end_cases.KNOWN`: closed forms, batches, dtypes, and arguments that are left alone.

Torch differentiates the closed forms; what transforms, copies, threads and compilation must do is in tests/autograd.
"""

import pytest
import torch
from front_end_cases import KNOWN, N

import dcl

each_layer = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
each_batch = pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)], ids=str)
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


def weights(x):
    return torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).reshape(x.shape)


def gradients(x, leaves):
    return torch.autograd.grad((weights(x) * x).sum(), [t for t in leaves if t.requires_grad])


@each_batch
@each_layer
def test_x_and_its_gradients_are_those_of_the_closed_form(known, batch):
    leaves = known.leaves(3, *batch)
    found, expected = known.make()(*leaves)[0], known.exact(*leaves)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    computed = gradients(found, leaves)
    for gradient, by_torch in zip(computed, gradients(expected, leaves), strict=True):
        torch.testing.assert_close(gradient, by_torch, rtol=1e-8, atol=1e-9)
    assert max(float(g.abs().max()) for g in computed) > 1e-3


@each_layer
def test_a_batch_is_a_loop_and_shared_arguments_get_sums(known):
    layer, leaves = known.make(), known.leaves(5, 4)
    batched = [t.dim() > s.dim() for t, s in zip(leaves, known.leaves(5), strict=True)]
    x = layer(*leaves)[0]
    computed = iter(gradients(x, leaves))
    sums = [torch.zeros_like(t) if t.requires_grad else None for t in leaves]
    for i in range(4):
        alone = [
            (t[i] if b else t).detach().requires_grad_(t.requires_grad) for t, b in zip(leaves, batched, strict=True)
        ]
        row = layer(*alone)[0]
        torch.testing.assert_close(row, x[i], **TOLERANCE)
        varying = [k for k, t in enumerate(leaves) if t.requires_grad]
        for k, gradient in zip(
            varying,
            torch.autograd.grad((weights(x)[i] * row).sum(), [alone[k] for k in varying]),
            strict=True,
        ):
            if batched[k]:
                sums[k][i] += gradient
            else:
                sums[k] += gradient
    for expected in (s for s in sums if s is not None):
        torch.testing.assert_close(next(computed), expected, **TOLERANCE)


@each_layer
def test_an_empty_batch(known):
    leaves = known.leaves(0, 2)
    single = known.leaves(0)
    empty = [t.detach()[:0] if t.dim() > s.dim() else t.detach() for t, s in zip(leaves, single, strict=True)]
    empty[known.point].requires_grad_()
    x = known.make()(*empty)[0]
    assert x.shape == (0, N)
    x.sum().backward()
    assert empty[known.point].grad.shape == empty[known.point].shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_layer
def test_dtypes_come_back(known, dtype):
    leaves = [t.detach().to(dtype).requires_grad_(t.requires_grad) for t in known.leaves(1, 3)]
    x = known.make()(*leaves)[0]
    assert x.dtype == dtype
    assert all(g.dtype == dtype for g in gradients(x, leaves))
    torch.testing.assert_close(x, known.exact(*leaves), rtol=1e-3, atol=1e-4)


@each_layer
def test_arguments_are_left_alone(known):
    leaves = known.leaves(2, 3)
    before = [t.detach().clone() for t in leaves]
    x = known.make()(*leaves)[0]
    gradients(x, leaves)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves, strict=True))
    assert all(t.grad is None for t in leaves)


@each_layer
def test_a_value_that_is_not_finite_is_named_with_its_instance(known):
    leaves = [t.detach().clone() for t in known.leaves(2, 3)]
    leaves[known.point][1, 0] = torch.nan
    with pytest.raises(dcl.InputError, match=r"^\w+\[0\] is nan at batch index \(1,\)"):
        known.make()(*leaves)


@each_layer
def test_the_solution_tells_what_was_found(known):
    leaves = known.leaves(4, 3)
    *outputs, solution = known.make()(*leaves, return_solution=True)
    assert (solution.status == dcl.Status.OPTIMAL).all()
    assert (solution.gradient_kind == dcl.GradientKind.EXACT).all()
    assert solution.status.shape == (3,)
    assert float(solution.primal_residual.max()) < 1e-11
    assert outputs
