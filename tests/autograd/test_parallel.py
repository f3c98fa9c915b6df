"""One layer in many threads and processes: the same numbers bit for bit, errors that arrive, no more threads than asked.

The functions that run in other processes are at module level, so that a spawned process can import them.
"""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from front_end_cases import F64, KNOWN, Model, QPByPosition
from tolerances import IDENTITY, ROUNDING
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import dcl

NAMES = list(KNOWN)
TESTS = Path(__file__).resolve().parents[1]
HERE = [str(TESTS / name) for name in ("autograd", ".", "laws")]  # this module, and what it imports
# Python 3.12 and newer say this of every fork of a process that has threads, which a DataLoader's parent often has.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def solved(name, layer, seed, *batch):
    """x and the gradients of a weighted sum of all outputs, for the program of this seed."""
    leaves = KNOWN[name].leaves(seed, *batch)
    outputs = layer(*leaves)
    loss = sum((torch.linspace(-1.0, 2.0, t.numel(), **F64).reshape(t.shape) * t).sum() for t in outputs)
    gradients = torch.autograd.grad(loss, [leaves[i] for i in KNOWN[name].varies])
    return [outputs[0].detach(), *gradients]


def large(seed, solver="CLARABEL", n=50, m=260):
    """A layer and its arguments, so large that the solver runs in the pool of threads (`dcl.solvers.pool`)."""
    g = torch.Generator().manual_seed(seed)
    q, h = torch.randn(4, n, generator=g, **F64), torch.rand(m, generator=g, **F64)
    return QPByPosition(solver), (torch.eye(n, **F64), q, None, None, torch.randn(m, n, generator=g, **F64), h)


# Threads


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, pytest.param(0.05, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_shared_by_eight_threads(name, mu):
    layer = KNOWN[name].make(mu=mu)
    jobs = [(seed, *batch) for seed in range(4) for batch in ((), (5,))]
    serial = [solved(name, layer, *job) for job in jobs]
    start = threading.Barrier(8)

    def work(k):
        start.wait()
        order = jobs[k:] + jobs[:k]  # each thread in an order of its own
        found = [solved(name, layer, *job) for job in order]
        return found[len(jobs) - k :] + found[: len(jobs) - k]

    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(work, range(8)):
            for one, known in zip(found, serial, strict=True):
                assert all(torch.equal(t, e) for t, e in zip(one, known, strict=True))


def test_a_graph_made_in_one_thread_is_used_in_another():
    known = KNOWN["QPLayer"]
    leaves = known.leaves(0, 4)
    x = known.make()(*leaves).x
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(torch.autograd.grad, x.sum(), leaves, retain_graph=True) for _ in range(4)]
    expected = torch.autograd.grad(known.exact(*leaves).sum(), leaves)
    for job in jobs:
        torch.testing.assert_close(job.result(), expected, rtol=IDENTITY, atol=IDENTITY)


@pytest.mark.slow
def test_callers_in_eight_threads_share_one_pool():
    programs = [large(seed) for seed in range(8)]
    serial = [layer(*data).x for layer, data in programs]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda program: program[0](*program[1]).x, programs))
    assert all(torch.equal(x, e) for x, e in zip(found, serial, strict=True))
    pool = [t for t in threading.enumerate() if t.name.startswith("dcl-solver")]
    assert 1 <= len(pool) <= len(os.sched_getaffinity(0))


COUNT = """
import re, sys, torch, dcl
from test_parallel import large

def threads():
    return int(re.search(r"Threads:\\s+(\\d+)", open("/proc/self/status").read())[1])

torch.set_num_threads(1)
(torch.ones(300, 300).double() @ torch.ones(300, 300).double()).sum()
before, counts = threads(), []
for solver in (None, "DAQP", "PIQP", "OSQP", "CLARABEL", "SCS"):
    layer, (P, q, _, _, G, h) = large(0, solver if solver != "SCS" else None)
    q.requires_grad_()
    if solver == "SCS":
        x = dcl.ConeLayer({"l": len(h)}, "SCS", {"n_jobs_forward": int(sys.argv[1])})(P, q, G, h).x
    else:
        x = layer(P, q, G=G, h=h, solver_args={"n_jobs_forward": int(sys.argv[1])}).x
    x.sum().backward()
    counts.append(threads() - before)
print(max(counts))
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="counts threads in /proc, which Linux has")
def test_no_more_threads_than_asked(asked):
    # the caller waits while the workers work; no solver and no factorization starts threads of its own
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(HERE)}
    command = [sys.executable, "-c", COUNT, str(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) <= asked


# Worker processes


class Programs(Dataset):
    """Item k: the answer and gradients of program k, computed in the worker by the layer that came with the data set."""

    def __init__(self, name):
        self.name, self.layer = name, KNOWN[name].make()

    def __len__(self):
        return 6

    def __getitem__(self, k):
        return solved(self.name, self.layer, k)


class Mixed(Dataset):
    """Programs of all layers, one that takes the pool, and one that has no solution."""

    def __init__(self, fails=False):
        self.layers, self.fails = {name: KNOWN[name].make() for name in NAMES}, fails

    def __len__(self):
        return 4

    def __getitem__(self, k):
        if k < len(NAMES):
            return solved(NAMES[k], self.layers[NAMES[k]], k)
        if self.fails:
            return dcl.solve_qp(None, torch.ones(1, **F64)).x
        layer, data = large(k)
        return [layer(*data).x]


def first(batch):
    return batch[0]


def workers_agree(method, epochs):
    data = Mixed()
    serial = [data[k] for k in range(len(data))]  # the parent has used the layers, its pool and autograd
    assert any(t.name.startswith("dcl-solver") for t in threading.enumerate())
    loader = DataLoader(data, num_workers=2, multiprocessing_context=method, collate_fn=first, timeout=120)
    for epoch in [loader] * epochs:
        for found, known in zip(epoch, serial, strict=True):
            assert all(torch.equal(t, e) for t, e in zip(found, known, strict=True))


@forks
@pytest.mark.slow
def test_forked_workers():
    workers_agree("fork", 2)


@pytest.mark.slow
def test_spawned_workers():
    workers_agree("spawn", 1)


@forks
@pytest.mark.parametrize("name", NAMES)
def test_workers_of_each_layer(name):
    data = Programs(name)
    exact = [KNOWN[name].exact(*KNOWN[name].draw(k)) for k in range(len(data))]
    known = [data[k] for k in range(len(data))]
    loader = DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context="fork", timeout=120)
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    torch.testing.assert_close(found[0], torch.stack(exact), rtol=IDENTITY, atol=IDENTITY)
    for t, e in zip(found, zip(*known, strict=True), strict=True):
        assert torch.equal(t, torch.stack(e))


@forks
def test_an_error_in_a_worker_arrives_as_what_it_is():
    loader = DataLoader(Mixed(fails=True), num_workers=1, multiprocessing_context="fork", collate_fn=first, timeout=120)
    with pytest.raises(dcl.SolveError, match="DUAL_INFEASIBLE"):
        list(loader)


# DistributedDataParallel: the way to train on more than one machine


def train(rank, world, folder):
    """One step of every model on this process' share of the batch; the gradients that it ends up with go to a file."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # both processes are on this machine
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {}
    for name in NAMES:
        model = DistributedDataParallel(Model(name))
        share = batch()[rank::world]
        model(share).square().sum(-1).mean().backward()
        found[name] = [p.grad for p in model.parameters()]
        del (
            model
        )  # torch 2.13 may hang where a model outlives its process group: the last one to go waits under Python's lock
    torch.save(found, f"{folder}/gradients-{rank}.pt")
    dist.destroy_process_group()


def batch():
    return torch.randn((8, 2), generator=torch.Generator().manual_seed(3), **F64)


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    torch.multiprocessing.spawn(train, (2, str(tmp_path)), nprocs=2)
    shares = [torch.load(tmp_path / f"gradients-{rank}.pt") for rank in range(2)]
    for name in NAMES:
        model = Model(name)
        loss = model(batch()).square().sum(-1).mean()
        expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        exact = torch.autograd.grad(model.exact(batch()).square().sum(-1).mean(), list(model.parameters()))
        for found in shares:
            torch.testing.assert_close(found[name], list(expected), rtol=ROUNDING, atol=ROUNDING)
            torch.testing.assert_close(found[name], list(exact), rtol=IDENTITY, atol=IDENTITY)
            assert all(g.abs().max() > 1e-3 for g in found[name])
