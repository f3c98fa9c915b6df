"""The tables and the CSV file of the benchmark: medians, ratios to dcl.QPLayer, errors, versions, machine."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peers import DCL, version
from qp_families import Shape

if TYPE_CHECKING:
    from qp_layers_against_peers import Run

# A relative error above these makes an answer wrong: it is marked and not ranked.
LIMIT_X, LIMIT_GRADIENT = 1e-4, 1e-2
_DISTRIBUTIONS = ("dcl", "moreau", "cvxpylayers", "diffcp", "scs", "qpth", "proxsuite", "cvxpy", "torch", "numpy")
_COLUMNS = (("ms/instance", 11), ("forward", 9), ("backward", 9), ("x dcl", 7), ("error x", 9), ("error grad", 10))
_HEAD = f"{'layer':34} {'batch':>5} " + " ".join(f"{name:>{width}}" for name, width in _COLUMNS)


def machine() -> str:
    """Versions, processor, threads and how busy the machine is."""
    versions = ", ".join(f"{name} {version(name) or 'not installed'}" for name in _DISTRIBUTIONS)
    load = os.getloadavg()[0]
    return (
        f"{versions}\nPython {platform.python_version()}, {_processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"torch threads {torch.get_num_threads()}, load average at the start {load:.1f}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def rows(shape: Shape, runs: Sequence[Run]) -> list[dict[str, object]]:
    """One dictionary per layer: medians in ms an instance, ratio, errors, verdict; right answers first, by time."""
    lines = []
    for run in runs:
        line: dict[str, object] = {"n": shape.n, "m": shape.m, "p": shape.p, "layer": run.peer.name, "batch": run.batch}
        if run.forward and not run.trouble:
            forward, backward = (1e3 / run.batch * np.array(t) for t in (run.forward, run.backward))
            is_right = run.error_x <= LIMIT_X and run.error_gradient <= LIMIT_GRADIENT
            line |= {
                "repetitions": len(forward),
                "ms": float(np.median(forward + backward)),
                "ms_least": float((forward + backward).min()),
                "ms_forward": float(np.median(forward)),
                "ms_backward": float(np.median(backward)),
                "error_x": run.error_x,
                "error_gradient": run.error_gradient,
                "verdict": "right" if is_right else "wrong",
            }
        else:
            line["verdict"] = run.trouble
        lines.append(line)
    ours = next((line["ms"] for line in lines if line["layer"] == DCL and line["verdict"] == "right"), None)
    for line in lines:
        if line["verdict"] == "right" and ours is not None:
            line["ratio"] = line["ms"] / ours  # type: ignore[operator]
    order = {"right": 0, "wrong": 1}
    return sorted(lines, key=lambda line: (order.get(str(line["verdict"]), 2), line.get("ms", 0.0)))


def table(shape: Shape, batch: int, lines: Sequence[dict[str, object]]) -> str:
    """The terminal table of one family."""
    out = [
        f"dense QP {shape}, batch {batch}: forward + backward, gradients for all of P, q, A, b, G, h",
        _HEAD,
        "-" * len(_HEAD),
    ]
    for line in lines:
        start = f"{line['layer']:34} {line['batch']:5d} "
        if "ms" not in line:
            out.append(f"{start}{line['verdict']}")
            continue
        ratio = f"{line['ratio']:7.2f}" if "ratio" in line else f"{'wrong' if line['verdict'] == 'wrong' else '':>7}"
        out.append(
            f"{start}{line['ms']:11.4f} {line['ms_forward']:9.4f} {line['ms_backward']:9.4f} {ratio} "
            f"{line['error_x']:9.1e} {line['error_gradient']:10.1e}"
        )
    return "\n".join(out)


def build_table(size: int, builds: Sequence[tuple[str, list[float] | str]]) -> str:
    """The terminal table of construction times."""
    out = [f"construction of a CvxpyLayer, {size} x {size} matrices as parameters, seconds", "-" * 66]
    for name, seconds in builds:
        out.append(f"{name:50} {seconds if isinstance(seconds, str) else f'{np.median(seconds):10.3f}'}")
    return "\n".join(out)


def write_csv(path: str, lines: Sequence[dict[str, object]], builds: Sequence[tuple[str, list[float] | str]]) -> None:
    """All figures; a construction is a line with its name as layer and its median in `seconds_build`."""
    built = [
        {"layer": f"build, {name}", "verdict": seconds}
        if isinstance(seconds, str)
        else {"layer": f"build, {name}", "seconds_build": float(np.median(seconds)), "repetitions": len(seconds)}
        for name, seconds in builds
    ]
    everything = [*lines, *built]
    names = list(dict.fromkeys(name for line in everything for name in line))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(everything)
