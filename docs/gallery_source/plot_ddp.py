"""
Train on two processes (DDP)
============================

PyTorch trains on several processes or machines with ``DistributedDataParallel`` (DDP): each process sees its
share of the batch, and DDP averages the gradients. A dcl layer inside the model needs nothing special. This
example trains the same model twice, on one process and on two, and compares the weights after every step.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

plt.style.use("tableau-colorblind10")

# %%
# The training script
# -------------------
#
# The model predicts the species of a flower (scikit-learn's iris data) as a point of the probability simplex,
# the nearest one to a linear prediction. We write the script to a file, since each process has to start from
# one. Its arguments are the number of this process, the number of all, and a folder in which they meet.

SCRIPT = """
import sys

import cvxpy as cp
import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_iris

import dcl

torch.set_num_threads(1)
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        x, score = cp.Variable(3), cp.Parameter(3)
        nearest = cp.Problem(cp.Minimize(cp.sum_squares(x - score)), [cp.sum(x) == 1, x >= 0])
        self.linear, self.layer = torch.nn.Linear(4, 3), dcl.CvxpyLayer(nearest, [score], [x])

    def forward(self, features):
        return self.layer(self.linear(features))[0]


def train():
    features, species = load_iris(return_X_y=True)
    features = torch.tensor((features - features.mean(0)) / features.std(0), dtype=torch.float64)
    species = torch.nn.functional.one_hot(torch.tensor(species), 3).double()
    torch.manual_seed(0)
    model = Model().double()
    parallel = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    weights = []
    for _ in range(30):
        mine = slice(rank, None, world)  # every second flower, with two processes
        loss = (parallel(features[mine]) - species[mine]).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        weights.append(model.linear.weight.detach().numpy().copy())
    right = (model(features).argmax(-1) == species.argmax(-1)).double().mean()
    if rank == 0:
        np.savez(f"{folder}/{world}.npz", weights=np.array(weights), right=float(right))


if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
train()
if world > 1:
    dist.destroy_process_group()
"""

# %%
# Run it
# ------
#
# On a cluster ``torchrun`` starts the processes. Here we start them ourselves: one process alone, then two
# together.


def run(world):
    """Weights after each step (30, 3, 4), and the share of flowers that the model has right."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT, encoding="utf-8")
        calls = [[sys.executable, str(script), str(rank), str(world), folder] for rank in range(world)]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # they find the packages that we find
        processes = [subprocess.Popen(call, env=paths) for call in calls]
        codes = [process.wait(timeout=240) for process in processes]
        if any(codes):
            raise RuntimeError(f"a training process failed: exit codes {codes}")
        with np.load(f"{folder}/{world}.npz") as saved:
            return saved["weights"], float(saved["right"])


single, right = run(1)
double, _ = run(2)
difference = np.abs(single - double).max(axis=(1, 2))
print(f"{right:.0%} of the flowers right after 30 steps")
print(
    f"largest difference of a weight, one process and two: {'below 1e-12' if difference.max() < 1e-12 else difference.max()}"
)

# %%
# What to see
# -----------
#
# Left: four of the twelve weights; the markers of two processes lie on the line of one. Right: the difference
# stays at rounding, around 1e-16. The conclusion: the gradient of the layer's batch is the sum over its
# instances, as everywhere in PyTorch, so DDP's average over two halves is the gradient of the whole.

step = np.arange(1, len(single) + 1)
figure, (left, right_axes) = plt.subplots(1, 2, figsize=(9.0, 3.5), layout="constrained")
for k, name in enumerate(("sepal length", "sepal width", "petal length", "petal width")):
    left.plot(step, single[:, 0, k], color=f"C{k}", label=name)
    left.plot(step[::3], double[::3, 0, k], "o", color=f"C{k}", markersize=4)
left.set(
    title="Weights of the first species", xlabel="step", ylabel="weight (per standard deviation)", ylim=(-0.8, 1.1)
)
left.legend(fontsize=8, title="line: one process, marker: two", title_fontsize=8, ncols=2, loc="upper right")
right_axes.semilogy(step, np.maximum(difference, 1e-18), color="C5")
right_axes.axhline(np.finfo(float).eps, color="0.4", linestyle="--", label="rounding of float64")
right_axes.set(
    title="One process minus two", xlabel="step", ylabel="largest difference of a weight", ylim=(1e-18, 1e-8)
)
right_axes.legend()
