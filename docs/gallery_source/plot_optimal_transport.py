"""
Move one digit into another: optimal transport
==============================================

Two images of handwritten digits are two ways to spread ink over a grid. Optimal transport (OT) asks: what is
the cheapest way to move the ink of the first image to where the second has it? The answer is a plan, entry
(i, j) of which says how much ink goes from pixel i to pixel j. The least cost is a distance between images.

We solve the program with :class:`dcl.CvxpyLayer` and take two gradients: of the least cost in the prices, and
in the ink itself. Then we move the ink along the plan.
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import dcl

plt.style.use("tableau-colorblind10")

# %%
# Two images
# ----------
#
# Scikit-learn's digits have 8 by 8 pixels. We take a 1 and a 7, drop the faint pixels, and scale the ink to a
# total of one.

digits = load_digits()
pixels = np.array([(row, column) for row in range(8) for column in range(8)], dtype=float)


def ink(index, least=6.0):
    """Positions (k, 2) of the dark pixels of an image, and their share of the ink (k,)."""
    values = digits.data[index]
    dark = values >= least
    return pixels[dark], values[dark] / values[dark].sum()


one, seven = np.flatnonzero(digits.target == 1)[0], np.flatnonzero(digits.target == 7)[0]
(start, supply), (end, demand) = ink(one), ink(seven)
prices = np.square(start[:, None] - end[None]).sum(-1)  # squared distance in pixels
print(f"a {digits.target[one]} of {len(start)} dark pixels, a {digits.target[seven]} of {len(end)}")

# %%
# The program
# -----------
#
# A small quadratic term makes the plan unique. Its weight is far below the prices, so the cost hardly
# changes.

plan, price = cp.Variable((len(start), len(end)), nonneg=True), cp.Parameter((len(start), len(end)))
s, d = cp.Parameter(len(start)), cp.Parameter(len(end))
cost = cp.sum(cp.multiply(price, plan)) + 0.05 * cp.sum_squares(plan)
rows = [cp.sum(plan, axis=1) == s, cp.sum(plan[:, :-1], axis=0) == d[:-1]]  # the last column follows from the others
problem = cp.Problem(cp.Minimize(cost), rows)
layer = dcl.CvxpyLayer(problem, [price, s, d], [plan, problem.objective])

# %%
# Prices and ink come in as tensors, and the layer returns the plan and the least cost:

tensors = [torch.from_numpy(t).requires_grad_() for t in (prices, supply, demand)]
flow, least_cost = layer(*tensors)
by_price, by_supply, _ = torch.autograd.grad(least_cost, tensors)
flow, least_cost = flow.detach().numpy(), float(least_cost.detach())
by_price, by_supply = by_price.numpy(), by_supply.numpy()
print(
    f"least cost {least_cost:.3f}; the ink moves on {int((flow > 1e-6).sum())} ways, "
    f"{(np.sqrt(prices) * flow).sum():.2f} pixels on average"
)
print(f"largest difference between the gradient in the prices and the plan: {np.abs(by_price - flow).max():.0e}")

# %%
# What to see
# -----------
#
# Top: the ink on its way, each piece on the straight line of the plan. Below, left: the plan itself. It is
# also the gradient of the least cost in the prices: a dearer way costs as much more as it carries. Right: the
# gradient in the ink of the 1: where a little more ink would make the transport dearer (orange) or cheaper
# (violet) than on average. The conclusion: to bring the 1 closer to the 7, take ink from its foot and add it
# at the upper right, where the 7 has more.

figure = plt.figure(figsize=(10.0, 6.4), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[1.0, 1.5])
source, sink = np.nonzero(flow > 1e-6)
for axes, share in zip(above.subplots(1, 5, sharey=True), (0.0, 0.25, 0.5, 0.75, 1.0), strict=True):
    place = (1.0 - share) * start[source] + share * end[sink]
    axes.scatter(place[:, 1], place[:, 0], s=1500.0 * flow[source, sink], color="C0", alpha=0.5, linewidths=0)
    axes.set(xlim=(-0.5, 7.5), ylim=(7.5, -0.5), aspect="equal", title=f"{share:.0%} of the way", xticks=[], yticks=[])
left, right = below.subplots(1, 2)
image = left.imshow(np.where(flow > 1e-6, 100.0 * flow, np.nan), cmap="cividis_r", aspect="auto")
left.set(title="The plan, and the gradient in the prices", xlabel="pixel of the 7", ylabel="pixel of the 1")
below.colorbar(image, ax=left, label="ink moved (% of all)")
potential = np.full(64, np.nan)
potential[[int(8 * row + column) for row, column in start]] = by_supply - supply @ by_supply
size = np.nanmax(np.abs(potential))
image = right.imshow(potential.reshape(8, 8), cmap="PuOr_r", vmin=-size, vmax=size)
right.set(title="Gradient in the ink of the 1", xlabel="column (pixels)", ylabel="row (pixels)")
below.colorbar(image, ax=right, label="cost per ink, relative to the mean (pixels²)")
