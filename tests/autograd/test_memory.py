"""Nothing stays behind: a pass frees its graph and its factorization at once, and thousands of passes need no more memory.

`DCL_PASSES=20000` before the command makes the long run of `docs/torch.md`; the limit is 5 MiB for 20,000 passes.
"""

import ctypes
import gc
import os
import weakref

import pytest
import torch
from front_end_cases import KNOWN

import dcl
from dcl.core.conic import ConicAnswer
from dcl.core.dense import Answer, Kept
from dcl.implicit.solve import Call
from dcl.kkt import KKT, DenseFactor
from dcl.layers.cone_lane import ConicKept
from dcl.layers.lane import FastCall
from dcl.layers.reduced_lane import Lifted
from dcl.program import ConeProgram

PASSES = int(os.environ.get("DCL_PASSES", "2000"))
WARM_UP, LIMIT = 500, 5 * 2**20 * PASSES / 20_000
KEPT = (Call, KKT, DenseFactor, ConeProgram, dcl.Solution, FastCall, Answer, Kept, Lifted, ConicAnswer, ConicKept)


def alive():
    """How many objects of the kinds that hold on to a program there are."""
    return sum(type(thing) in KEPT for thing in gc.get_objects())


def one_pass(layer, leaves):
    sum(t.square().sum() for t in layer(*leaves)).backward()
    for t in leaves:
        t.grad = None


@pytest.fixture
def no_collector():
    """What lives in a cycle waits for the garbage collector, with all of its tensors: there must be none."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def everything(mu=0.0):
    """A layer of each kind and its arguments, used once."""
    pairs = [(known.make(mu=mu), known.leaves(0, 3)) for known in KNOWN.values()]
    for pair in pairs:
        one_pass(*pair)
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_pass_leaves_nothing(mu, no_collector):
    pairs = everything(mu)
    before = alive()
    for pair in [*pairs, *pairs]:
        one_pass(*pair)
    assert alive() == before


@pytest.mark.slow
def test_a_graph_lives_as_long_as_its_output(no_collector):
    pairs = everything()
    before = alive()
    outputs = [layer(*leaves) for layer, leaves in pairs]
    assert alive() >= before + 2 * len(pairs)
    del outputs  # without a backward pass
    assert alive() == before
    outputs = [layer(*leaves)[0] for layer, leaves in pairs]
    for x, (_, leaves) in zip(outputs, pairs, strict=True):
        first = torch.autograd.grad(x.square().sum(), [t for t in leaves if t.requires_grad], create_graph=True)
        assert any(g.requires_grad for g in first)
    del x, first, outputs
    assert alive() == before


def test_a_solution_keeps_no_graph(no_collector):
    for layer, leaves in everything():
        outputs, solution = layer(*leaves, return_solution=True)
        node, graph = weakref.ref(solution), outputs[0].grad_fn
        assert graph is not None
        tensors = [t for t in vars(solution).values() if isinstance(t, torch.Tensor)]
        assert not any(t.requires_grad for t in (*tensors, *solution.outputs, solution._program.A))
        del outputs, graph, solution, tensors
        assert node() is None


@pytest.mark.slow
def test_a_failed_call_leaves_nothing(no_collector):
    pairs = everything()
    before = alive()
    for (layer, leaves), known in zip(pairs, KNOWN.values(), strict=True):
        spoiled = [torch.full_like(t, torch.nan) if i == known.point else t for i, t in enumerate(leaves)]
        with pytest.raises(dcl.InputError):
            layer(*spoiled)
    assert alive() == before


def resident():
    """Bytes of memory that this process has, after what is free went back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc, which Linux has")
def test_memory_is_flat():
    # the layers take turns; a leak of 300 bytes a pass is above the limit
    pairs = [(known.make(), known.leaves(0)) for known in KNOWN.values()]
    for k in range(WARM_UP):
        one_pass(*pairs[k % len(pairs)])
    before = resident()
    for k in range(PASSES):
        one_pass(*pairs[k % len(pairs)])
    grown = resident() - before
    assert grown <= LIMIT, f"{grown} bytes in {PASSES} passes"
