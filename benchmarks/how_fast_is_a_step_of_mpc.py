"""How long does a step of a controller take in closed loop, beside CVXPY's warm solve of the same program?

The crane of docs/gallery_source/plot_mpc.py: 4 states, one force, horizon 25, limits on force and speed.  In each step every
way solves the program for the same state, in random order, so that a busy machine slows all alike (times are of the
processor); the trolley then moves by the reference's force.  The ways:

    dcl, layer            CvxpyLayer, cold, all checks
    dcl, layer and gain   the same, and the derivative of the first force in the state by a backward pass
    dcl, program          ParametricProgram.solve, cold, all checks; also all multipliers, statuses and residuals
    dcl, program and gain the same, and the derivative by `adjoint`
    cvxpy, OSQP           problem.solve(solver=OSQP, warm_start=True), its own tolerance
    cvxpy, OSQP at 1e-8   the same with eps_abs = eps_rel = 1e-8
    cvxpy, Clarabel       problem.solve(solver=CLARABEL)

CVXPY compiles the program once (DPP) and keeps the solver.  Every first force is compared with Clarabel's at 1e-12, not timed.

    python benchmarks/how_fast_is_a_step_of_mpc.py [--steps 80] [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from statistics import median

import cvxpy as cp
import numpy as np
import torch
from machine import machine
from scipy.linalg import expm, solve_discrete_are

import dcl

HORIZON, FORCE, SPEED, STEP = 25, 20.0, 0.6, 0.1
FIRST = np.eye(HORIZON)[:, :1]


def crane() -> tuple[np.ndarray, np.ndarray]:
    """A (4, 4) and B (4, 1) of a trolley of 10 kg with a load of 5 kg on one meter of cable, steps of 0.1 s."""
    continuous = np.zeros((5, 5))
    continuous[0, 1] = continuous[2, 3] = 1.0
    continuous[1, 2], continuous[1, 4] = 5.0 * 9.81 / 10.0, 0.1
    continuous[3, 2], continuous[3, 4] = -15.0 * 9.81 / 10.0, -0.1
    discrete = expm(STEP * continuous)
    return discrete[:4, :4], discrete[:4, 4:]


def controller() -> tuple[cp.Problem, cp.Parameter, cp.Variable]:
    """The program, its state and its forces."""
    A, B = crane()
    Q, R = np.diag([10.0, 1.0, 20.0, 2.0]), np.array([[0.01]])
    state, x, u = (
        cp.Parameter(4, name="state"),
        cp.Variable((HORIZON + 1, 4), name="x"),
        cp.Variable((HORIZON, 1), name="u"),
    )
    cost = cp.quad_form(x[HORIZON], cp.psd_wrap(solve_discrete_are(A, B, Q, R))) + R[0, 0] * cp.sum_squares(u)
    cost += cp.sum_squares(x[:HORIZON] @ np.sqrt(Q))
    motion = [x[0] == state, x[1:] == x[:HORIZON] @ A.T + u @ B.T]
    limits = [u <= FORCE, u >= -FORCE, x[1:, 1] <= SPEED, x[1:, 1] >= -SPEED]
    return cp.Problem(cp.Minimize(cost), [*motion, *limits]), state, u


def ways() -> tuple[dict[str, Callable[[np.ndarray], float]], Callable[[np.ndarray], float]]:
    """State -> first force, by name; and the reference.  Each of CVXPY's keeps a problem, and so a warm solver, of its own."""
    problem, state, u = controller()
    program = dcl.ParametricProgram(problem)
    layer = dcl.CvxpyLayer(problem, [state], [u])

    def forward(now: np.ndarray) -> float:
        return float(layer(torch.from_numpy(now))[0][0, 0])

    def backward(now: np.ndarray) -> float:
        tensor = torch.from_numpy(now).requires_grad_()
        force = layer(tensor)[0][0, 0]
        torch.autograd.grad(force, tensor)
        return float(force.detach())

    def by_program(now: np.ndarray) -> float:
        return float(program.solve(state=now)[u][0, 0])

    def with_gain(now: np.ndarray) -> float:
        plan = program.solve(state=now)
        plan.adjoint({u: FIRST})
        return float(plan[u][0, 0])

    def by_cvxpy(**options: object) -> Callable[[np.ndarray], float]:
        problem, state, u = controller()

        def solve(now: np.ndarray) -> float:
            state.value = now
            problem.solve(**options)
            return float(u.value[0, 0])

        return solve

    tight = {"solver": cp.CLARABEL, "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    named = {
        "dcl, layer": forward,
        "dcl, layer and gain": backward,
        "dcl, program": by_program,
        "dcl, program and gain": with_gain,
        "cvxpy, OSQP": by_cvxpy(solver=cp.OSQP, warm_start=True),
        "cvxpy, OSQP at 1e-8": by_cvxpy(solver=cp.OSQP, warm_start=True, eps_abs=1e-8, eps_rel=1e-8, max_iter=100_000),
        "cvxpy, Clarabel": by_cvxpy(solver=cp.CLARABEL),
    }
    return named, by_cvxpy(**tight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    A, B = crane()
    named, reference = ways()
    seconds: dict[str, list[float]] = {name: [] for name in named}
    error = dict.fromkeys(named, 0.0)
    for round_ in range(args.rounds + 1):  # the first one compiles and warms up
        now = np.array([-2.0, 0.0, 0.0, 0.0])
        for _ in range(args.steps):
            force = reference(now)
            for name in random.sample(list(named), len(named)):
                start = time.process_time()
                found = named[name](now)
                if round_:
                    seconds[name].append(time.process_time() - start)
                    error[name] = max(error[name], abs(found - force) / FORCE)
            now = A @ now + B[:, 0] * force
    base = median(seconds["cvxpy, OSQP"])
    print(f"{'way':24}{'ms a step':>10}{'of cvxpy, OSQP':>16}{'largest error of the force':>28}")
    for name, all_ in seconds.items():
        print(f"{name:24}{1e3 * median(all_):10.2f}{median(all_) / base:16.2f}{error[name]:28.0e}")


if __name__ == "__main__":
    main()
