"""Nothing stays behind: a pass frees its graph and its factorization at once, and thousands of passes need no more memory.

`DCL_PASSES=20000` before the command makes the long run of `docs/torch.md`; the limit is 5 MiB for 20,000 passes.
"""

import ctypes
import gc
import os
import weakref

import pytest
import torch
from known_layers import KNOWN

import dcl
from dcl.factor import DenseFactor
from dcl.implicit.solve import Call
from dcl.kkt import KKT
from dcl.program import ConeProgram

NAMES = list(KNOWN)
PASSES = int(os.environ.get("DCL_PASSES", "2000"))
WARM_UP, LIMIT = 500, 5 * 2**20 * PASSES / 20_000
KEPT = (Call, KKT, DenseFactor, ConeProgram, dcl.Solution)


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


@pytest.mark.parametrize("mu", [0.0, pytest.param(0.05, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_a_pass_leaves_nothing(name, mu, no_collector):
    layer, leaves = KNOWN[name].make(mu=mu), KNOWN[name].leaves(0, 3)
    one_pass(layer, leaves)
    before = alive()
    for _ in range(3):
        one_pass(layer, leaves)
    assert alive() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_lives_as_long_as_its_output(name, no_collector):
    layer, leaves = KNOWN[name].make(), KNOWN[name].leaves(0, 3)
    one_pass(layer, leaves)
    before = alive()
    outputs = layer(*leaves)
    assert alive() > before
    del outputs  # without a backward pass
    assert alive() == before
    x = layer(*leaves)[0]
    gradients = torch.autograd.grad(x.sum(), [leaves[i] for i in KNOWN[name].varies], create_graph=True)
    assert any(g.requires_grad for g in gradients)
    del x, gradients
    assert alive() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_keeps_no_graph(name, no_collector):
    layer, leaves = KNOWN[name].make(), KNOWN[name].leaves(0, 3)
    outputs, solution = layer(*leaves, return_solution=True)
    node, graph = weakref.ref(solution), outputs[0].grad_fn
    assert graph is not None
    tensors = [t for t in vars(solution).values() if isinstance(t, torch.Tensor)]
    assert not any(t.requires_grad for t in (*tensors, *solution.outputs, solution.program.A))
    del outputs, graph, solution, tensors
    assert node() is None


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_call_leaves_nothing(name, no_collector):
    layer, leaves = KNOWN[name].make(), KNOWN[name].leaves(0, 3)
    one_pass(layer, leaves)
    spoiled = [torch.full_like(t, torch.nan) if i == KNOWN[name].point else t for i, t in enumerate(leaves)]
    before = alive()
    for _ in range(3):
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
    pairs = [(KNOWN[name].make(), KNOWN[name].leaves(0)) for name in NAMES]
    for k in range(WARM_UP):
        one_pass(*pairs[k % len(pairs)])
    before = resident()
    for k in range(PASSES):
        one_pass(*pairs[k % len(pairs)])
    grown = resident() - before
    assert grown <= LIMIT, f"{grown} bytes in {PASSES} passes"
