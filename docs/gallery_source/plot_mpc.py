"""
Move a crane's load in closed loop
==================================

A crane's trolley carries a load on a cable. The motor pushes the trolley with at most 20 newtons, and the
trolley may not go faster than 0.6 m/s. Every 0.1 seconds a controller solves a quadratic program: it plans
the next 2.5 seconds, applies the first force of the plan, and plans again. This is model predictive control
(MPC).

We build the controller with :class:`dcl.ParametricProgram`, run it in closed loop, and then ask how its force
depends on what it measures. That derivative is the controller's local feedback gain.
"""

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import expm, solve_discrete_are

import dcl

plt.style.use("tableau-colorblind10")

# %%
# The trolley and the load
# ------------------------
#
# The state is the trolley's position (m) and velocity (m/s), the load's angle (rad) and angular velocity
# (rad/s). For small angles the motion is linear. The matrix exponential turns it into steps of 0.1 s with a
# constant force.

TROLLEY, LOAD, CABLE, GRAVITY = 10.0, 5.0, 1.0, 9.81  # kg, kg, m, m/s^2
STEP, FORCE, SPEED = 0.1, 20.0, 0.6  # s, N, m/s
continuous = np.zeros((5, 5))
continuous[0, 1] = continuous[2, 3] = 1.0
continuous[1, 2], continuous[1, 4] = LOAD * GRAVITY / TROLLEY, 1.0 / TROLLEY
continuous[3, 2], continuous[3, 4] = -(TROLLEY + LOAD) * GRAVITY / (TROLLEY * CABLE), -1.0 / (TROLLEY * CABLE)
discrete = expm(STEP * continuous)
A, B = discrete[:4, :4], discrete[:4, 4:]

# %%
# The controller
# --------------
#
# The stage cost weighs position, velocity, angle, angular velocity and force. The terminal cost is that of
# the linear-quadratic regulator (LQR), from SciPy's Riccati solver. So MPC and LQR agree where no limit binds
# along the plan.

HORIZON = 25
Q, R = np.diag([10.0, 1.0, 20.0, 2.0]), np.array([[0.01]])
terminal = solve_discrete_are(A, B, Q, R)
lqr_gain = -np.linalg.solve(R + B.T @ terminal @ B, B.T @ terminal @ A)[0]  # the LQR force is lqr_gain @ state

state = cp.Parameter(4, name="state")
x, u = cp.Variable((HORIZON + 1, 4), name="x"), cp.Variable((HORIZON, 1), name="u")
cost = cp.quad_form(x[HORIZON], cp.psd_wrap(terminal)) + R[0, 0] * cp.sum_squares(u)
cost += cp.sum_squares(x[:HORIZON] @ np.sqrt(Q))
motion = [x[0] == state, x[1:] == x[:HORIZON] @ A.T + u @ B.T]
limits = [u <= FORCE, u >= -FORCE, x[1:, 1] <= SPEED, x[1:, 1] >= -SPEED]
problem = cp.Problem(cp.Minimize(cost), [*motion, *limits])
controller = dcl.ParametricProgram(problem)

# %%
# The closed loop
# ---------------
#
# The trolley starts two meters away, at rest. At each step we keep the force, and the derivative of the force
# in the state. Each program is solved and checked. The derivative uses the factorization that is already
# there.

STEPS = 80
first = np.zeros((HORIZON, 1))
first[0] = 1.0  # picks the first force of a plan
states, forces, gains = [np.array([-2.0, 0.0, 0.0, 0.0])], [], []
for _ in range(STEPS):
    plan = controller.solve(state=states[-1])
    forces.append(plan[u][0, 0])
    gains.append(plan.adjoint({u: first})["state"])
    states.append(A @ states[-1] + B[:, 0] * forces[-1])
states, forces, gains = np.array(states), np.array(forces), np.array(gains)

at_limit = np.abs(forces) > FORCE - 1e-6
print(f"steps at the force limit: {int(at_limit.sum())} of {STEPS}")
print(f"largest speed:  {np.abs(states[:, 1]).max():.3f} m/s")
print(f"last position:  {abs(states[-1, 0]):.3f} m")
print(f"last gain, MPC: {gains[-1].round(3)}")
print(f"gain of LQR:    {lqr_gain.round(3)}")

# %%
# What to see
# -----------
#
# Left: the trolley arrives and the load's swing dies out. Middle: at first the force is at its limit, then
# the trolley's speed is. Right: while the force is at its limit, its derivative in the position is exactly
# zero: the controller does not react to a small change. At the speed limit it is zero too. Once no limit
# binds along the plan, the derivative is the LQR gain. The conclusion: near a limit the linear gain does not
# describe the controller. The exact derivative does.

time = STEP * np.arange(STEPS + 1)
figure, axes = plt.subplots(1, 3, figsize=(11.0, 3.4), layout="constrained")
axes[0].plot(time, states[:, 0], label="position (m)")
axes[0].plot(time, states[:, 1], "-.", color="C3", label="speed (m/s)")
axes[0].plot(time, 10.0 * states[:, 2], "--", color="C1", label="angle (0.1 rad)")
axes[0].set(title="The trolley and the load", xlabel="time (s)", ylabel="position, speed, angle (units: see legend)")
axes[0].legend()
axes[1].step(time[:-1], forces, where="post", label="force")
axes[1].axhline(FORCE, color="0.4", linestyle=":", label="limit")
axes[1].axhline(-FORCE, color="0.4", linestyle=":")
axes[1].set(title="The motor", xlabel="time (s)", ylabel="force (N)")
axes[1].legend()
axes[2].step(time[:-1], gains[:, 0], where="post", label="MPC")
axes[2].axhline(lqr_gain[0], color="0.4", linestyle="--", label="LQR")
axes[2].set(title="Force per position", xlabel="time (s)", ylabel="derivative (N/m)")
axes[2].legend()

# %%
# How long a step takes is measured in ``benchmarks/how_fast_is_a_step_of_mpc.py``, beside CVXPY's warm solve. Where
# each millisecond counts, take :class:`dcl.CvxpyLayer` in place of the program: it returns only what is asked for.
