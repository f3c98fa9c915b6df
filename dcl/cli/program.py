"""What the commands about a program share: FILE and options -> the program, its values, and the exit status of an answer."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dcl.cli.load import load
from dcl.cli.values import Places, assigned, instances, read_table
from dcl.errors import InputError, OptionError
from dcl.programs import ParametricProgram
from dcl.solvers import choose
from dcl.status import Status

_EXIT = {Status.OPTIMAL: 0, Status.PRIMAL_INFEASIBLE: 3, Status.DUAL_INFEASIBLE: 4}
_OTHER = 5


@dataclass(frozen=True, eq=False)
class Asked:
    """The problem, the program of it, its parameters, and values by name: of --data with a row for each instance."""

    problem: Any
    program: ParametricProgram
    places: Places
    rows: dict[str, Any]
    labels: list[str] | None

    @property
    def values(self) -> dict[str, Any]:
        """All values that FILE and the command line give."""
        return {**self.places.base, **self.rows}


def asked(args: argparse.Namespace) -> Asked:
    """Read FILE, --set, --data. Raises InputError and what a program raises."""
    torch.set_num_threads(1)  # one row at a time gains nothing from more, and a busy machine loses
    loaded = load(args.file)
    if args.solver is not None and not choose.is_name(args.solver):
        raise OptionError(
            f"unknown solver {args.solver!r}; valid names: {', '.join(choose.names())}; without --solver dcl chooses",
            argument="solver",
        )
    program = ParametricProgram(loaded.problem, mu=args.mu, solver=args.solver, on_failure="nan")
    program = program.with_labels(loaded.labels)
    leaves = zip(program.parameters, loaded.problem.parameters(), strict=True)
    base = {name: leaf.value for name, leaf in leaves if leaf.value is not None}
    places = set_values(assigned(args.set), Places(program.parameters, base, loaded.labels))
    table = read_table(args.data) if vars(args).get("data") is not None else None
    rows = {} if table is None else instances(table, places)
    missing = [name for name in places.shapes if name not in places.base and name not in rows]
    if missing and not vars(args).get("over"):
        raise InputError(f"parameter {missing[0]} has no value: --set {missing[0]}=...", argument=missing[0])
    return Asked(loaded.problem, program, places, rows, None if table is None else table.labels)


def set_values(given: dict[str, Any], places: Places) -> Places:
    """The places with the values of --set; single entries such as mu[2] are put into the others."""
    for name, value in given.items():
        whole, place = (name, ()) if name in places.shapes else places.of(name)
        if place:
            array = places.filled(whole)
            if not isinstance(value, int | float):
                raise InputError(f"--set {name}=...: one entry takes a number", argument=whole)
            array[place] = value
            value = array
        places = replace(places, base={**places.base, whole: value})
    return places


def exit_status(statuses: Iterable[int]) -> int:
    """That of the first instance without a solution, 0 where all are solved."""
    return next((code for one in statuses if (code := _EXIT.get(Status(int(one)), _OTHER))), 0)
