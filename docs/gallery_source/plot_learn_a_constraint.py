"""
Learn a constraint from decisions
=================================

A fund manager rebalances twenty stocks each month. We see the recommendations that she gets and the
portfolios that she holds. She follows the recommendations as closely as her rules allow, but we do not know
the rules: no short sales and all money invested, that is plain to see; but also a limit on every stock, and a
limit on the risk of the whole portfolio. We learn the limits from what she did.

The recommendations come from real prices (S&P 500, from the package skfolio). The manager is simulated, so
that we know the truth.
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from skfolio.datasets import load_sp500_dataset
from sklearn.linear_model import RidgeCV

import dcl

plt.style.use("tableau-colorblind10")

# %%
# Recommendations and decisions
# -----------------------------
#
# A month's recommendation weighs the stocks by their growth over the last year. The manager's limits are 12 %
# a stock, and a sensitivity to the market ("beta") of at most 0.9. Her trades are not exact: each weight is
# off by some 0.3 % of the money.

prices = load_sp500_dataset().loc["2005":].resample("ME").last()
returns = prices.pct_change().dropna()
growth = prices.pct_change(12).dropna()
beta = returns.cov().mean() / returns.mean(axis=1).var()  # of each stock on the mean of all
scores = np.exp(2.0 * (growth - growth.mean(axis=1).to_numpy()[:, None]).clip(-1.0, 1.0))
recommended = torch.tensor((scores.T / scores.sum(axis=1)).T.to_numpy())
months, n = recommended.shape

w, target, exposure = cp.Variable(n), cp.Parameter(n), cp.Parameter(n)
cap, most = cp.Parameter(), cp.Parameter()
rules = [cp.sum(w) == 1, w >= 0, w <= cap, exposure @ w <= most]
layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(w - target)), rules), [target, exposure, cap, most], [w])

exposures = torch.tensor(beta.to_numpy())
true = torch.tensor([0.12, 0.90], dtype=torch.float64)
(exact,) = layer(recommended, exposures, *true)
noise = 0.003 * torch.randn(months, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
held = exact + noise - noise.mean(-1, keepdim=True)
train, later = slice(0, 36), slice(36, months)
print(f"{months} months; we learn from the first 36 and judge on the {months - 36} after them")

# %%
# Learn the limits
# ----------------
#
# Both limits start too tight, so that they bind. A limit that does not bind has no gradient.

limits = torch.tensor([0.08, 0.80], dtype=torch.float64, requires_grad=True)
optimizer, steps = torch.optim.Adam([limits], lr=0.01), []
for _ in range(80):
    (decided,) = layer(recommended[train], exposures, *limits)
    loss = (decided - held[train]).square().mean()
    steps.append(limits.detach().clone())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
steps = torch.stack(steps)
print(f"learned: at most {float(limits[0].detach()):.2%} a stock, beta at most {float(limits[1].detach()):.3f}")
print(f"true:    at most {float(true[0]):.2%} a stock, beta at most {float(true[1]):.3f}")

# %%
# Judge on later months
# ---------------------
#
# The obvious alternative does not know of a program: a ridge regression from the recommendation to the
# portfolio, with its penalty chosen by cross-validation. The second alternative knows that the money is all
# invested and nothing is sold short, but has no limits.

ridge = RidgeCV(np.logspace(-6, 1, 15)).fit(recommended[train].numpy(), held[train].numpy())
with torch.no_grad():
    answers = {
        "no limits": layer(recommended, exposures, 1.0, 10.0)[0],
        "ridge regression": torch.from_numpy(ridge.predict(recommended.numpy())),
        "learned limits": layer(recommended, exposures, *limits)[0],
        "true limits": exact,
    }
errors = {name: 100.0 * (answer - held)[later].square().mean(-1).sqrt().numpy() for name, answer in answers.items()}
for name, error in errors.items():
    print(f"{name:17} typical error of a weight on later months: {error.mean():.2f} % of the money")

# %%
# What to see
# -----------
#
# Left: both limits arrive at the truth. Right: the error on the later months. The layer with learned limits
# is as good as one with the true limits: what is left is the manager's own noise. Ridge regression is several
# times worse, since a limit that binds in some months and not in others is no linear function. The
# conclusion: if you know the form of the rules, learn their numbers. (Here the form is right by construction.
# With real managers, compare with the regression first.)

figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained", width_ratios=[1.0, 1.4])
for k, (name, color, dashes) in enumerate((("limit of a stock", "C0", "-"), ("limit of beta", "C5", "--"))):
    left.plot(100.0 * steps[:, k] / true[k], dashes, color=color, label=name)
left.axhline(100.0, color="0.6", linewidth=1.0)
left.set(title="Learning the limits", xlabel="gradient step", ylabel="limit (% of the true one)", ylim=(0.0, 125.0))
left.legend(loc="lower right")
dates = growth.index[later]
for (name, error), color, dashes in zip(
    errors.items(), ("C2", "C5", "C0", "black"), ("-", "--", "-", ":"), strict=True
):
    right.plot(dates, error, dashes, color=color, label=name, linewidth=1.4)
right.set(title="Error on later months", xlabel="year", ylabel="error of a weight (% of the money)", ylim=(0.0, None))
right.legend(fontsize=8)
