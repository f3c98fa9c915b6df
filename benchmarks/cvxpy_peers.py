"""The layers that are timed on CVXPY problems: called with the parameters (B, ...), returning x (B, n)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
from contest import AbstractPeer, Layer, NotThereError
from cvxpy_programs import FAMILIES
from cvxpy_works import Work
from cvxpylayers_settings import NEEDS, SETTINGS

Made = Callable[[cp.Problem, list[cp.Parameter], list[cp.Variable]], Any]


@dataclass(frozen=True)
class Peer(AbstractPeer):
    """bounded: it takes those families only that have bounds, since with the others it is another peer."""

    bounded: bool = False

    def takes(self, work: Work) -> tuple[str, ...]:
        return FAMILIES[work.family].parameters


def _layer(construct: Made, scaled: bool = False) -> Callable[[Work], Layer]:
    """From a work to a layer; `construct` is called as `CvxpyLayer` is."""

    def make(work: Work) -> Layer:
        family = FAMILIES[work.family]
        problem, variable = family.build(work.size, scaled)
        layer = construct(problem, [problem.param_dict[name] for name in family.parameters], [variable])
        return lambda *data: layer(*data)[0].flatten(1)

    return make


def _dcl(problem: cp.Problem, parameters: list[cp.Parameter], variables: list[cp.Variable]) -> Any:
    """As a user writes it: default options, all checks on."""
    import dcl

    return dcl.CvxpyLayer(problem, parameters, variables)


def _dcl_unreduced(problem: cp.Problem, parameters: list[cp.Parameter], variables: list[cp.Variable]) -> Any:
    import dcl

    if "reduce" not in inspect.signature(dcl.CvxpyLayer).parameters:
        raise NotThereError("this version has no argument `reduce`")
    return dcl.CvxpyLayer(problem, parameters, variables, reduce=False)


def _cvxpylayers(name: str) -> Made:
    def construct(problem: cp.Problem, parameters: list[cp.Parameter], variables: list[cp.Variable]) -> Any:
        from cvxpylayers.torch import CvxpyLayer

        return CvxpyLayer(problem, parameters, variables, **SETTINGS[name])

    return construct


DCL, UNREDUCED, MOREAU = "dcl.CvxpyLayer", "dcl, reduce=False", "cvxpylayers + MOREAU"
PEERS = (
    Peer(DCL, ("dcl",), _layer(_dcl)),
    Peer(UNREDUCED, ("dcl",), _layer(_dcl_unreduced)),
    Peer(MOREAU, NEEDS[MOREAU], _layer(_cvxpylayers(MOREAU))),
    Peer(f"{MOREAU}, 2x >= 0", NEEDS[MOREAU], _layer(_cvxpylayers(MOREAU), scaled=True), bounded=True),
    Peer(f"{MOREAU}, ipm", NEEDS[MOREAU], _layer(_cvxpylayers(f"{MOREAU}, ipm"), scaled=True)),
    *(
        Peer(name, NEEDS[name], _layer(_cvxpylayers(name)))
        for name in (
            "cvxpylayers, default",
            "cvxpylayers, 1e-8, dense",
            "cvxpylayers, Clarabel",
            "cvxpylayers, Clarabel, dense",
        )
    ),
)


def peers_of(work: Work) -> tuple[Peer, ...]:
    """The layers for a work."""
    return tuple(peer for peer in PEERS if FAMILIES[work.family].bounds or not peer.bounded)
