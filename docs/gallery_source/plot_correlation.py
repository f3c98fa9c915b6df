r"""
Repair a correlation matrix
===========================

Correlations that are estimated pair by pair, each from the days on which both prices are known, need not fit
together: the matrix may have negative eigenvalues, and then some portfolio has a negative variance. The
remedy is the nearest correlation matrix:

.. math:: X(C) = \operatorname{argmin}_X \; \|X - C\|_F^2 \quad \text{subject to} \quad X_{ii} = 1, \; X \succeq 0 .

We compute it with a semidefinite cone. Then we ask how much each repaired entry depends on each estimate.
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
from skfolio.datasets import load_sp500_dataset

import dcl

plt.style.use("tableau-colorblind10")

# %%
# Estimates with gaps
# -------------------
#
# Weekly returns of ten stocks of the S&P 500 in 2020. To imitate markets with different holidays and late
# listings we hide 60 % of the returns at random. pandas computes each correlation from the weeks that are
# left.

prices = load_sp500_dataset().loc["2020", :"LLY"].iloc[:, :10].resample("W").last()
returns = prices.pct_change().dropna()
generator = np.random.default_rng(1)
known = returns.where(generator.random(returns.shape) > 0.6)
names, n = list(returns.columns), returns.shape[1]
estimate = known.corr(min_periods=3).to_numpy(copy=True)
eigenvalues = np.linalg.eigvalsh(estimate)
print(
    f"{len(returns)} weeks; {int((eigenvalues < 0).sum())} negative eigenvalues, the smallest is {eigenvalues[0]:.3f}"
)

# %%
# The nearest correlation matrix
# ------------------------------

X, C = cp.Variable((n, n), PSD=True, name="X"), cp.Parameter((n, n), name="C")
problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1])
program = dcl.ParametricProgram(problem)
solution = program.solve({C: estimate})
repaired = solution[X]
print(
    f"smallest eigenvalue after the repair: {abs(np.linalg.eigvalsh(repaired)[0]):.3f}, distance {np.sqrt(solution.value):.3f}"
)

# %%
# Its derivatives
# ---------------
#
# Move one estimate, that of the first two stocks, and see which repaired entries move with it. ``derivative``
# is exact and does not solve again.

direction = np.zeros((n, n))
direction[0, 1] = direction[1, 0] = 1.0
change = solution.derivative({C: direction})["X"]
print(
    f"d X[{names[0]}, {names[1]}] = {change[0, 1]:.3f}; of the others at most {np.abs(change - change * direction).max():.3f}"
)

# %%
# What to see
# -----------
#
# Left: the estimate has four negative eigenvalues, the repaired matrix has none. Middle: by how much the
# repair changed each correlation. Right: the derivative of the repaired matrix in the estimate of the first
# pair. If the estimate moves by one, the repaired entry moves by less than one, and entries in the same rows
# move too, since the eigenvalues must stay nonnegative. The conclusion: after a repair an error in one
# estimate is spread over a whole row and column.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 4.0), layout="constrained")
place = np.arange(n)
left.axhline(0.0, color="0.5", linewidth=0.8)
left.plot(place, eigenvalues, "o", color="C5", label="pair by pair")
left.plot(place, np.linalg.eigvalsh(repaired), "x", color="C0", markersize=8, label="nearest correlation matrix")
left.set(title="Eigenvalues", xlabel="number of the eigenvalue", ylabel="eigenvalue")
left.legend(fontsize=8)
for axes, matrix, title in (
    (middle, repaired - estimate, "Change by the repair"),
    (right, change, f"Derivative in {names[0]}, {names[1]}"),
):
    size = np.abs(matrix).max()
    image = axes.imshow(matrix, cmap="PuOr", vmin=-size, vmax=size)
    axes.set_xticks(place, names, rotation=90)
    axes.set_yticks(place, names)
    axes.set(title=title, xlabel="stock", ylabel="stock")
    figure.colorbar(
        image,
        ax=axes,
        shrink=0.85,
        label="change of the correlation" if axes is middle else "change per change of the estimate",
    )
