"""
Robust regression, and what one outlier does
============================================

Least squares lets a single unusual measurement move the whole line. The Huber loss does not: it is quadratic
for small residuals and linear beyond a threshold. How much does each measurement pull? That is the derivative
of the fitted line in the measurement, and :class:`dcl.ParametricProgram` returns it exactly.

The data are scikit-learn's Linnerud data: exercises of twenty men in a fitness club. One of them jumped 250
times, far more than all others.
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_linnerud
from sklearn.linear_model import HuberRegressor

import dcl

plt.style.use("tableau-colorblind10")

# %%
# Two fits
# --------
#
# We predict the number of jumps from the number of sit-ups. Scikit-learn's ``HuberRegressor`` chooses a
# threshold together with the line. We take its threshold, so that both have the same optimum.

exercises = load_linnerud().data
situps, jumps = exercises[:, 1] / 100.0, exercises[:, 2]  # sit-ups in hundreds
design = np.column_stack([situps - situps.mean(), np.ones(20)])  # coefficients: slope, and jumps at the mean
theirs = HuberRegressor(epsilon=1.35, alpha=0.0, tol=1e-9, max_iter=10_000).fit(design[:, :1], jumps)
threshold = 1.35 * theirs.scale_

line, y = cp.Variable(2, name="line"), cp.Parameter(20, name="jumps")
residual = y - design @ line
robust = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum(cp.huber(residual, threshold)))))
least_squares = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(residual))))
fits = {"least squares": least_squares.solve(jumps=jumps), "Huber": robust.solve(jumps=jumps)}
for name, fit in fits.items():
    print(f"{name:14} {fit['line'][0]:.1f} jumps more for 100 more sit-ups")
print(f"{'scikit-learn':14} {theirs.coef_[0]:.1f}")

# %%
# The pull of each measurement
# ----------------------------
#
# The Jacobian has a row for the slope, and a column for each man.

pull = {name: fit.jacobian("line", wrt="jumps")[0] for name, fit in fits.items()}
beyond = np.abs(jumps - design @ fits["Huber"]["line"]) > threshold
print(
    f"{int(beyond.sum())} of 20 men lie beyond the threshold of {threshold:.1f} jumps; "
    f"their largest pull: {np.abs(pull['Huber'][beyond]).max():.0e}"
)

# %%
# The same for a whole range: let the outlier's count go from 0 to 400, in one sweep.

outlier, counts = int(np.argmax(jumps)), np.linspace(0.0, 400.0, 81)
moved = np.tile(jumps, (81, 1))
moved[:, outlier] = counts
slopes = {
    "least squares": least_squares.sweep({y: moved}, progress=False)[line][:, 0],
    "Huber": robust.sweep({y: moved}, progress=False)[line][:, 0],
}

# %%
# What to see
# -----------
#
# Left: the outlier draws the least-squares line upwards; the Huber line stays with the others. Middle: how
# much one more jump of each man moves the slope. Those beyond the threshold have no pull at all under the
# Huber loss (crosses at zero). Right: as the outlier moves, the least-squares slope follows without end,
# while the Huber slope stops. The conclusion: the Huber line does depend on the fact that there is an
# outlier, but not on how far away it is.

style = {"least squares": ("C5", "--", "o"), "Huber": ("C0", "-", "x")}
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
left.plot(100.0 * situps, jumps, "o", color="0.45", markersize=4)
for name, fit in fits.items():
    color, dashes, marker = style[name]
    ends = np.array([situps.min(), situps.max()])
    left.plot(100.0 * ends, fit["line"][0] * (ends - situps.mean()) + fit["line"][1], dashes, color=color, label=name)
    middle.plot(np.arange(1, 21), pull[name], marker, color=color, label=name)
    right.plot(counts, slopes[name], dashes, color=color, label=name)
left.set(title="Two lines", xlabel="sit-ups", ylabel="jumps")
middle.axhline(0.0, color="0.6", linewidth=0.8)
middle.axvline(outlier + 1, color="0.6", linestyle=":", linewidth=1.2, label="outlier")
middle.set(title="Pull on the slope", xlabel="man", ylabel="slope per jump (1 / 100 sit-ups)", xticks=range(1, 21, 3))
right.axvline(jumps[outlier], color="0.6", linestyle=":", linewidth=1.2, label="as measured")
right.set(title="If the outlier moves", xlabel="jumps of the outlier", ylabel="slope (jumps per 100 sit-ups)")
for axes in (left, middle, right):
    axes.legend(fontsize=8)
