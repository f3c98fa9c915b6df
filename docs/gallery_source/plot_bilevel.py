r"""
The bilevel program of Gould et al. (2016)
==========================================

In a bilevel program the constraint of one problem is the solution of another. The report "On differentiating
parameterized argmin and argmax problems with application to bi-level optimization" (Gould et al., 2016)
closes with this one: find the parameters of a soft-max classifier, so that the most likely point of each
class inside the unit ball lies on a given target,

.. math::

   \min_\theta \; \tfrac12 \sum_i \|x_i(\theta) - t_i\|^2, \qquad
   x_i(\theta) = \operatorname{argmax}_{\|x\| \le 1} \; a_i'x + b_i - \log \sum_j \exp(a_j'x + b_j) .

The lower problem is written as two torch functions. :class:`dcl.ArgminLayer` solves it and differentiates the
solution, so that gradient descent works on the upper one.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

import dcl

plt.style.use("tableau-colorblind10")

# %%
# The lower problem
# -----------------
#
# The functions are written for one class. ``in_dims`` says which arguments have one entry a class, and which
# all classes share.

CLASSES, RATE = 3, 4.0
angles = 0.5 * math.pi + 2.0 * math.pi * torch.arange(CLASSES, dtype=torch.float64) / CLASSES
targets = torch.stack([angles.cos(), angles.sin()], -1)
one_of = torch.eye(CLASSES, dtype=torch.float64)


def log_likelihood(x, one, a, b):
    logits = a @ x + b
    return one @ logits - torch.logsumexp(logits, 0)


def ball(x, one, a, b):
    return x @ x - 1.0


def layer(mu):
    return dcl.ArgminLayer(log_likelihood, inequality=ball, maximize=True, mu=mu, in_dims=(0, 0, None, None))


# %%
# Gradient descent on the upper problem
# -------------------------------------
#
# Each step starts where the last one ended (``warm_start``). We do it twice: with the exact solutions, and
# with a log-barrier of mu = 0.01, which the report uses.


def descend(mu, steps):
    """The loss before each step and after the last; the first and the last points and parameters."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(CLASSES, 2, generator=generator, dtype=torch.float64).requires_grad_()
    b = torch.randn(CLASSES, generator=generator, dtype=torch.float64).requires_grad_()
    points, solution, losses, states = layer(mu), None, [], []
    for _ in range(steps + 1):
        x, solution = points(
            torch.zeros(CLASSES, 2, dtype=torch.float64), one_of, a, b, warm_start=solution, return_solution=True
        )
        loss = 0.5 * (x - targets).square().sum()
        losses.append(float(loss.detach()))
        states.append((x.detach(), a.detach(), b.detach()))
        grad_a, grad_b = torch.autograd.grad(loss, (a, b))
        a, b = ((t - RATE * g).detach().requires_grad_() for t, g in ((a, grad_a), (b, grad_b)))
    return losses, states[0], states[-1]


exact, first, last = descend(0.0, 70)
barrier, _, _ = descend(0.01, 40)
reached = next(k for k, loss in enumerate(exact) if loss < 1e-9)
print(f"exact:      the loss is below 1e-9 from step {reached} on")
print(f"mu = 0.01:  the loss ends at {barrier[-1]:.0e}")

# %%
# What to see
# -----------
#
# Left and middle: the likelihood of class 1 before and after, its most likely point and its target. Right:
# with exact solutions the loss falls to rounding. With the barrier it stops: no point of the central path
# lies on the circle, where the targets are. The conclusion: where the answer lies on the boundary of the
# constraints, take the exact gradient.

grid = torch.linspace(-1.4, 1.4, 121, dtype=torch.float64)
plane = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
circle = torch.linspace(0.0, 2.0 * math.pi, 200)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
for axes, (x, a, b), title in ((left, first, "Class 1 at the start"), (middle, last, "Class 1 after 70 steps")):
    likelihood = torch.softmax(plane @ a.mT + b, -1)[..., 0]
    filled = axes.contourf(grid, grid, likelihood, levels=np.linspace(0.0, 1.0, 11), cmap="cividis")
    axes.plot(circle.cos(), circle.sin(), color="white", linewidth=1.2)
    axes.plot(*targets[0], "X", color="white", markeredgecolor="black", markersize=12, label="target")
    axes.plot(*x[0], "o", color="C1", markeredgecolor="black", markersize=7, label="most likely point")
    axes.set(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
left.legend(loc="lower left", fontsize=8)
figure.colorbar(filled, ax=middle, label="likelihood of class 1")
right.semilogy(exact, color="C0", label="exact solutions")
right.semilogy(barrier, "--", color="C5", label="barrier, mu = 0.01")
right.set(title="Gradient descent", xlabel="step", ylabel="loss (upper problem)", ylim=(1e-19, 20.0))
right.legend()
