r"""
"How to estimate the gradient of an argmin loss"
================================================

This question was asked in a forum about PyTorch. Given a network :math:`f_\theta(x)`, let :math:`x^*(\theta)`
be its minimizer in x. What is the derivative of :math:`x^*` in the weights :math:`\theta`? The answer given
there was a script: find x by Adam, then combine second derivatives,

.. math::

   \frac{dx^*}{d\theta}
   = -\Big(\frac{\partial^2 f}{\partial x^2}\Big)^{-1} \frac{\partial^2 f}{\partial x\, \partial\theta} .

With other random seeds the same script returned strange numbers. This example runs three of the thread's
networks, and shows why.
"""

import copy

import matplotlib.pyplot as plt
import torch

import dcl

plt.style.use("tableau-colorblind10")

# %%
# The networks of the thread
# --------------------------
#
# One input, three hidden units, one output. ``bowl`` adds :math:`x^2/16`, as was proposed later in the
# thread.


class Network(torch.nn.Module):
    """f of one x (1,)."""

    def __init__(self, seed, bowl):
        super().__init__()
        torch.manual_seed(seed)
        layers = torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1, bias=False)
        self.layers, self.bowl = torch.nn.Sequential(*layers).double(), bowl

    def forward(self, x):
        return self.layers(x).squeeze(-1) + self.bowl * x.square().sum()


# %%
# One line in place of the script
# -------------------------------
#
# :class:`dcl.ArgminLayer` takes a module. It finds the minimum by Newton's method, checks that it is one, and
# ``backward`` gives the derivative in all weights. Where there is no minimum it raises an error that says so.


def minimize(network):
    return dcl.ArgminLayer(network)(torch.zeros(1, dtype=torch.float64))


cases = {"seed 2023": Network(2023, 0.0), "seed 456": Network(456, 0.0), "seed 456 + x²/16": Network(456, 0.0625)}
found = {}
for name, network in cases.items():
    try:
        x = minimize(network)
    except dcl.DivergedError as error:
        print(f"{name}: {str(error).splitlines()[0]}")
        continue
    x.sum().backward()
    found[name] = float(x.detach()), network.layers[0].weight.grad.clone()
    print(
        f"{name}: x* = {found[name][0]:.4f}, derivative in the first weights {found[name][1].flatten().numpy().round(3)}"
    )

# %%
# The check by differences
# ------------------------
#
# The thread checks one derivative by moving one weight and minimizing again. We move it to both sides.

differences = {}
for name, (_, slope) in found.items():
    ends = []
    for step in (1e-4, -1e-4):
        moved = copy.deepcopy(cases[name])
        with torch.no_grad():
            moved.layers[0].weight[1, 0] += step
            ends.append(float(minimize(moved)))
    differences[name] = (ends[0] - ends[1]) / 2e-4
    print(f"{name}: derivative in weight [1, 0] {float(slope[1, 0]):.5f}, by differences {differences[name]:.5f}")

# %%
# What to see
# -----------
#
# Left: for seed 2023 there is a minimum, at 4.386, as in the thread. Middle: for seed 456 there is none: the
# function falls to a limit that it does not reach. Adam stops somewhere on the slope, where both second
# derivatives are nearly zero, and their ratio is noise. Right: with the bowl there is a minimum again. The
# conclusion: the formula is right at a minimum, and only there. So check for one before you trust a gradient.

figure, panels = plt.subplots(1, 3, figsize=(11.0, 3.4), layout="constrained")
for axes, (name, network) in zip(panels, cases.items(), strict=True):
    line = torch.linspace(-14.0, 14.0, 400, dtype=torch.float64)
    with torch.no_grad():
        axes.plot(line, torch.stack([network(x.reshape(1)) for x in line]), color="C0")
        if name in found:
            x = found[name][0]
            axes.plot(
                x, network(torch.tensor([x], dtype=torch.float64)), "o", color="C5", label=f"minimum, x = {x:.3f}"
            )
            axes.legend(fontsize=8)
        else:
            axes.text(0.05, 0.9, "no minimum", transform=axes.transAxes)
    axes.set(title=name, xlabel="x", ylabel="f(x)")
