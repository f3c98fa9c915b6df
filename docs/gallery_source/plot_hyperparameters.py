r"""
Ridge, lasso, elastic net and SVM: choose the penalty by its gradient
=====================================================================

A penalized regression has hyperparameters, and the usual way to choose them is a grid and cross-validation.
But the solution of a convex program has a derivative in its hyperparameters. So the validation error has one
too, and gradient descent can choose them.

We first check that the layer's solutions are those of scikit-learn, then choose two penalties of an elastic
net at once, and finally solve a support vector machine (SVM) together with its dual.
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import enet_path
from sklearn.svm import SVC

import dcl

plt.style.use("tableau-colorblind10")

# %%
# The elastic net
# ---------------
#
# Minimize over w
#
# .. math:: \frac{1}{2m}\|Xw - y\|^2 + \alpha \|w\|_1 + \frac{\beta}{2}\|w\|^2 .
#
# Ridge regression has alpha = 0, the lasso beta = 0. The layer sees the data through ``X'X / m`` and ``X'y /
# m`` only.

X, y = load_diabetes(return_X_y=True)
X, y = X / X.std(0), (y - y.mean()) / y.std()
generator = np.random.default_rng(0)
train, validation, test = np.split(generator.permutation(len(y)), [200, 320])
n = X.shape[1]
gram, moment = X[train].T @ X[train] / len(train), X[train].T @ y[train] / len(train)

w = cp.Variable(n, name="w")
alpha, beta = cp.Parameter(nonneg=True, name="alpha"), cp.Parameter(nonneg=True, name="beta")
objective = cp.quad_form(w, gram) / 2 - moment @ w + alpha * cp.norm1(w) + beta / 2 * cp.sum_squares(w)
problem = cp.Problem(cp.Minimize(objective))

# %%
# A path of 60 values of alpha, in one sweep, beside scikit-learn's coordinate descent:

alphas, ratio = np.geomspace(1.0, 1e-3, 60), 0.8
program = dcl.ParametricProgram(problem)
path = program.sweep({alpha: ratio * alphas, beta: (1 - ratio) * alphas}, progress=False)
_, theirs, _ = enet_path(X[train], y[train], l1_ratio=ratio, alphas=alphas, tol=1e-14, max_iter=100_000)
path_difference = np.abs(path[w] - theirs.T).max()
print(f"largest difference from scikit-learn along the path: below 1e-{int(-np.log10(path_difference))}")

# %%
# Choose both penalties on validation data
# ----------------------------------------
#
# The logarithms of alpha and beta descend the gradient of the validation error. Each step is one solve and
# one backward pass.

layer = dcl.CvxpyLayer(problem, [alpha, beta], [w])
X_validation, y_validation = torch.from_numpy(X[validation]), torch.from_numpy(y[validation])
logarithms = torch.log(torch.tensor([0.3, 0.3], dtype=torch.float64)).requires_grad_()
optimizer, steps = torch.optim.Adam([logarithms], lr=0.2), []
for _ in range(60):
    (coefficients,) = layer(*logarithms.exp())
    loss = (X_validation @ coefficients - y_validation).square().mean()
    steps.append([*logarithms.detach().exp().tolist(), float(loss.detach())])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
steps = np.array(steps)

grid = np.geomspace(1e-3, 1.0, 25)
fits = program.sweep({alpha: np.tile(grid, 25), beta: np.repeat(grid, 25)}, progress=False)[w]
surface = np.square(fits @ X[validation].T - y[validation]).mean(1).reshape(25, 25)  # (beta, alpha)
chosen = program.solve({alpha: steps[-1, 0], beta: steps[-1, 1]})[w]
least = np.linalg.solve(gram, moment)
errors = {
    name: float(np.square(X[test] @ c - y[test]).mean()) for name, c in (("no penalty", least), ("chosen", chosen))
}
print(
    f"validation error: {steps[0, 2]:.4f} at the start, {steps[-1, 2]:.4f} after 60 steps; "
    f"best of 625 grid points {surface.min():.4f}"
)
print(f"test error:       {errors['no penalty']:.4f} without a penalty, {errors['chosen']:.4f} with those chosen")

# %%
# A support vector machine and its dual
# -------------------------------------
#
# Minimize :math:`\tfrac12 |w|^2 + C \sum_i \xi_i` subject to :math:`y_i (x_i^T w + b) \ge 1 - \xi_i` and :math:`\xi \ge 0`.
# The multipliers are the dual variables of scikit-learn's ``SVC``. They say how much each case pulls on the boundary.

cases, label = load_breast_cancer(return_X_y=True)
cases, label = ((cases - cases.mean(0)) / cases.std(0))[:150, :10], np.where(label[:150] == 1, 1.0, -1.0)
v, b, xi, C = (
    cp.Variable(10, name="v"),
    cp.Variable(name="b"),
    cp.Variable(150, name="xi"),
    cp.Parameter(nonneg=True, name="C"),
)
margin = cp.multiply(label, cases @ v + b) >= 1 - xi
machine = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(v) / 2 + C * cp.sum(xi)), [margin, xi >= 0]))
solution = machine.solve({C: 1.0})
dual = solution.dual(margin)
svc = SVC(kernel="linear", C=1.0, tol=1e-12).fit(cases, label)
their_dual = np.zeros(150)
their_dual[svc.support_] = np.abs(svc.dual_coef_[0])
dual_difference = np.abs(dual - their_dual).max()
print(
    f"{int((dual > 1e-8).sum())} support vectors of 150 cases; "
    f"largest difference from SVC's dual: below 1e-{int(-np.log10(dual_difference))}"
)

# %%
# What to see
# -----------
#
# Left: the coefficients of the elastic net as alpha grows; the markers are scikit-learn's. Middle: the
# validation error over both penalties, and the way that gradient descent took from the upper right to the
# valley. Right: the dual variables of the SVM against scikit-learn's: all on the diagonal. The conclusion:
# the gradient finds as good a pair as 625 grid points, with 60 solves. On the test data the gain over no
# penalty is small: ten features and 200 patients hardly need one.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
for k in range(n):
    left.semilogx(alphas, path[w][:, k], linewidth=1.2)
    left.plot(alphas[::6], theirs[k, ::6], "x", color="0.35", markersize=4)
left.plot([], [], color="0.3", label="dcl (one line a feature)")
left.plot([], [], "x", color="0.35", label="scikit-learn")
left.set(title="Elastic net path", xlabel="penalty alpha", ylabel="coefficient (standard deviations)")
left.legend(fontsize=8)
contours = middle.contourf(grid, grid, surface, levels=16, cmap="cividis")
middle.plot(steps[:, 0], steps[:, 1], "o-", color="white", markersize=3, linewidth=1.0)
middle.plot(*steps[-1, :2], "*", color="white", markersize=14, markeredgecolor="black", label="chosen")
middle.set(
    title="Choosing both penalties",
    xlabel="alpha (absolute values)",
    ylabel="beta (squares)",
    xscale="log",
    yscale="log",
)
middle.legend(fontsize=8, loc="upper left")
figure.colorbar(contours, ax=middle, label="validation error (variance of y = 1)")
right.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
right.plot(their_dual, dual, "o", color="C0", markersize=4)
right.set(title="Dual variables of the SVM", xlabel="scikit-learn's SVC", ylabel="dcl", aspect="equal")
