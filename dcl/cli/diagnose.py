"""`dcl diagnose FILE`: one point explained, by `dcl.diagnose`."""

from __future__ import annotations

import argparse

from dcl.cli.arguments import add_program
from dcl.cli.terminal import wrapped

_EXAMPLES = """
examples:
  dcl diagnose portfolio.py --set gamma=0.3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = (
        "Status and residuals, what is active, strict complementarity, rank, condition, whether the solution, its\n"
        "multipliers and its derivative are unique, and what to do where they are not."
    )
    add_program(parser, examples=_EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Explain each instance. Returns the exit status."""
    import numpy as np
    import torch

    from dcl.cli.program import asked, exit_status
    from dcl.compare import diagnose
    from dcl.layers.cvxpy import CvxpyLayer

    work = asked(args)
    problem = work.problem
    layer = CvxpyLayer(problem, problem.parameters(), problem.variables(), args.solver, mu=args.mu)
    values = [torch.as_tensor(np.array(work.values[leaf.name()], dtype=np.float64)) for leaf in problem.parameters()]
    found = diagnose(layer, *values)
    print(wrapped(str(found)))
    return exit_status(int(point.status) for point in found.points)
