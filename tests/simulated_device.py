"""A second device that any machine has: tensors that say they are elsewhere, are computed on the CPU, and refuse to mix.

As on a GPU, an operation on tensors of both devices is an error, `numpy()` is, and what comes from a tensor there stays
there.  Only what CUDA allows too is let through: a CPU tensor without dimensions, a CPU index, `copy_` between devices.
A mistake of devices is found without a GPU; only speed and the GPU's own rounding are not simulated.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Autograd runs the backward pass of this type of device in the caller's thread, and no build of torch has kernels for it.
DEVICE = torch.device("lazy", 0)

_MAY_MIX = {torch.ops.aten.copy_.default}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Elsewhere(torch.Tensor):
    """A tensor on DEVICE; its numbers are in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    # what torch does with Python's numbers and lists before it dispatches an operation

    def tolist(self):
        return self.inner.tolist()

    def new_tensor(self, data, **kwargs):
        return Elsewhere(torch.tensor(data, **{"dtype": self.dtype} | kwargs))

    def __getitem__(self, index):
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """torch.tensor makes its numbers before an operation is dispatched."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and _target(kwargs, None) == DEVICE:
            return torch.tensor(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


class SimulatedDevice(TorchDispatchMode):
    """Inside of it DEVICE exists. `there` counts the operations on it by name, `to_host` the tensors that were fetched."""

    def __init__(self):
        super().__init__()
        self.there, self.to_host, self._literals = Counter(), 0, _Literals()

    def __enter__(self):
        self._literals.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._literals.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(t, Elsewhere) for t in tree_leaves((args, kwargs))):
            self.there[func.overloadpacket.__name__] += 1
            self.to_host += func is torch.ops.aten._to_copy.default and _target(kwargs, DEVICE) != DEVICE
        return _run(func, args, kwargs)


def send(t, requires_grad=False):
    """A leaf on DEVICE with the numbers of t."""
    return Elsewhere(t.detach().clone()).requires_grad_(requires_grad)


def fetch(t):
    """The numbers of t, on the CPU."""
    return t.detach().inner.clone()


def _target(kwargs, default):
    device = kwargs.get("device")
    return default if device is None else DEVICE if device.type == DEVICE.type else device


def _check(func, args, kwargs):
    leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    here = [t for t in leaves if not isinstance(t, Elsewhere) and t.ndim > 0]
    if not here or not any(isinstance(t, Elsewhere) for t in leaves) or func in _MAY_MIX:
        return
    if func in _INDEXED and isinstance(args[0], Elsewhere):  # the index may be here, not the values
        here = [t for t in args[2:] if isinstance(t, torch.Tensor) and not isinstance(t, Elsewhere) and t.ndim > 0]
        if not here:
            return
    shapes = [("elsewhere" if isinstance(t, Elsewhere) else "cpu", tuple(t.shape)) for t in leaves]
    raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {shapes}")


def _run(func, args, kwargs):
    _check(func, args, kwargs)
    there = any(isinstance(t, Elsewhere) for t in tree_leaves((args, kwargs)))
    device = _target(kwargs, DEVICE if there else torch.device("cpu"))
    bare_args, bare = tree_map_only(Elsewhere, lambda t: t.inner, (args, dict(kwargs)))
    if "device" in bare:
        bare["device"] = torch.device("cpu")
    out = func(*bare_args, **bare)
    if func._schema.is_mutable and there:  # in place: the result is the argument itself
        return args[0]
    return tree_map_only(torch.Tensor, Elsewhere, out) if device == DEVICE else out
