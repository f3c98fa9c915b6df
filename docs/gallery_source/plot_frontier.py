"""
Efficient frontier with sensitivities
=====================================

How much risk must an investor take for a given return? The answer for every return is the efficient frontier.
We compute it for twenty stocks of the S&P 500, whose daily prices from 1990 to 2022 come with the package
skfolio. Then we ask two questions that a frontier alone does not answer: what does one more percent of return
cost, and which estimates does the portfolio depend on?
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
from skfolio.datasets import load_sp500_dataset

import dcl

plt.style.use("tableau-colorblind10")

# %%
# Returns and risk
# ----------------
#
# We take monthly returns of the ten years from 2013 on. Mean and covariance are per year.

prices = load_sp500_dataset().loc["2013":].resample("ME").last()
returns = prices.pct_change().dropna()
mean, covariance = 12.0 * returns.mean(), 12.0 * returns.cov().to_numpy()
print(f"{len(returns)} months, {len(mean)} stocks; mean returns {mean.min():.1%} to {mean.max():.1%} a year")

# %%
# The program
# -----------
#
# The portfolio has the least variance among those with the target return. It is long only, and no stock has
# more than 25 %.

CAP = 0.25
w = cp.Variable(len(mean), name="weights")
mu, target = cp.Parameter(len(mean), name="mean"), cp.Parameter(name="target")
constraints = [cp.sum(w) == 1, mu @ w == target, w >= 0, w <= CAP]
problem = cp.Problem(cp.Minimize(cp.quad_form(w, covariance)), constraints)
program = dcl.ParametricProgram(problem)

# %%
# One sweep solves the frontier. ``gradient="value"`` adds the derivative of the variance in every parameter:
# it comes from the multipliers and costs nothing. ``changes`` are the rows where a stock enters, leaves, or
# reaches its cap.

targets = np.linspace(0.15, 0.26, 111)
frontier = program.sweep({mu: mean, target: targets}, gradient="value", progress=False)
variance, price = frontier.value, frontier.gradient[target]
risk = np.sqrt(variance)
print(
    f"{int(frontier.ok.sum())} of {len(targets)} points solved and checked, {len(frontier.changes)} changes of the holdings"
)

# %%
# Sensitivities at one point
# --------------------------
#
# We pick the portfolio that returns 20 % a year. ``active_range`` says how far the target may move until the
# holdings change, and ``jacobian`` how the weights move with it.

chosen = program.solve({mu: mean, target: 0.20})
low, high = chosen.active_range({target: 1.0})
slope = chosen.jacobian(w, wrt=target)
by_mean = chosen.jacobian(w, wrt=mu)  # (stock, estimate)
print(f"the same stocks are held for returns from {0.20 + low:.1%} to {0.20 + high:.1%}")
print(f"variance per unit of return: {chosen.value_gradient()['target']:.3f}")

# %%
# What to see
# -----------
#
# Left: the frontier. It is smooth, but between the dotted lines it is one and the same quadratic: the
# holdings do not change there. Right: what happens to the weights when one estimate of a mean return is one
# percentage point higher, while the target stays. The five estimates that move the portfolio most are shown.
# An error of one point, which is small beside the uncertainty of a mean over ten years (some five points),
# moves several percent of the money. The conclusion: read such a portfolio as one choice out of many nearly
# as good.

figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
left.plot(100.0 * risk, 100.0 * targets, color="C0", label="efficient frontier")
for row in frontier.changes:
    left.axhline(100.0 * targets[row], color="0.75", linestyle=":", linewidth=0.9, zorder=0)
left.axhline(np.nan, color="0.75", linestyle=":", label="a holding changes")
left.plot(100.0 * np.sqrt(np.diag(covariance)), 100.0 * mean, "o", color="0.6", markersize=4, label="single stocks")
left.plot(100.0 * np.sqrt(chosen.value), 20.0, "D", color="C5", markersize=8, label="chosen: 20 % a year")
left.set(
    xlim=(0.0, 65.0), ylim=(0.0, 52.0), xlabel="risk: standard deviation (% a year)", ylabel="mean return (% a year)"
)
left.set_title("The frontier")
left.legend(loc="lower right", fontsize=8)

moves = 100.0 * 0.01 * by_mean  # percent of the money, for one percentage point
strongest = np.argsort(-np.abs(moves).sum(0))[:5]
held = np.flatnonzero(np.abs(moves).max(1) > 1e-6)
image = right.imshow(moves[np.ix_(held, strongest)], cmap="PuOr", vmin=-6, vmax=6, aspect="auto")
right.set_xticks(range(5), mean.index[strongest])
right.set_yticks(range(len(held)), mean.index[held])
right.set(xlabel="estimate raised by one point a year", ylabel="stock", title="Change of the weights")
figure.colorbar(image, ax=right, label="change of the weight (% of the money)")
