"""Real cone programs (SDPLIB, CBLIB): a right value, proved in numpy on the file's data, or an honest status.

From ../shared/data or $DCL_DATA (`python benchmarks/real_cone_problems.py` prints the table).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles.cone_data import (
    COLLECTIONS,
    SDPLIB,
    certificate,
    infeasibility,
    load,
    matrix_of,
    names,
    reference,
    sparse_tensor,
)
from oracles.real_data import data_folder

import dcl
from dcl import Status

pytestmark = pytest.mark.skipif(data_folder() is None, reason="no ../shared/data beside the repository, no DCL_DATA")

VALUE = 1e-5
RESIDUAL = 1e-6
# More than a minute: benchmarks/real_cone_problems.py has them, and benchmarks/README.md what came out.
TOO_LONG = {"mcp124-3", "mcp250-1", "mcp250-3", "chainsing_1000_3"}
QUICK = {"truss1", "truss3", "hinf1", "bss2", "demb782", "rijc782", "rijc784", "rijc786", "isil01", "sambal"}
# Must be right: the others may be reported as not solved, but only these statuses are honest.
RIGHT = {
    "truss1",
    "truss3",
    "control1",
    "beck751",
    "beck753",
    "bss2",
    "demb761",
    "demb763",
    "demb782",
    "fiac81a",
    "gp_dave_1",
    "isil01",
}
RIGHT |= {"mra01", "mcp124-1", "rijc782", "rijc784", "rijc786", "sambal"}
HONEST = {Status.NUMERICAL_ERROR, Status.MAX_ITERATIONS, Status.INACCURATE}
# What the published values of SDPLIB are worth for hinf*, relative.
UNCERTAIN = {name: 1e-2 for name in SDPLIB if name.startswith("hinf")} | {"hinf13": 3e-2}

PROBLEMS = [
    pytest.param(collection, name, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for collection in COLLECTIONS
    for name in names(collection)
    if name not in TOO_LONG
]


@pytest.mark.sample(3)
@pytest.mark.parametrize(("collection", "name"), PROBLEMS)
def test_right_or_honest(collection, name):
    file = load(collection, name)
    rows = file.rows()
    layer = dcl.ConeLayer(rows.cones, on_degenerate="ignore")
    q, A, b = torch.tensor(rows.q), sparse_tensor(rows.A), torch.tensor(rows.b)
    try:
        x, z, s = (t.numpy() for t in layer(None, q, A, b))
    except dcl.SolveError as error:
        status = error.statuses[0]
        if status == Status.PRIMAL_INFEASIBLE:
            assert infeasibility(rows) <= RESIDUAL
        else:
            assert status in HONEST
            assert name not in RIGHT
        return
    assert certificate(rows, x, z, s).worst <= RESIDUAL
    assert file.violation(x) <= RESIDUAL
    if name in SDPLIB:
        known = SDPLIB[name]
    else:
        found = reference(rows)
        assert found.certificate.worst <= RESIDUAL
        known = found.value
    assert abs(file.objective(x) - known) <= UNCERTAIN.get(name, VALUE) * (1.0 + abs(known))


@pytest.mark.parametrize(("collection", "name"), [("sdplib", "truss1"), ("sdplib", "control1"), ("cblib", "sambal")])
def test_the_rows_say_what_the_file_says(collection, name):
    # at a random point: the slack of each cone against the file's own matrices and cones
    file = load(collection, name)
    rows = file.rows()
    x = np.random.default_rng(0).standard_normal(len(rows.q))
    slack = rows.b - rows.A @ x
    assert rows.q @ x + rows.constant == pytest.approx(file.objective(x), rel=1e-14)
    if collection == "cblib":
        values = np.concatenate([x[: len(x)], file.A @ x + file.b])
        kinds = [kind for kind, size in (*file.variables, *file.constraints) for _ in range(size)]
        for kinds_here, key in ((("L=",), "z"), (("L+", "L-"), "l"), (("Q",), "q")):
            mine = [
                v * (-1 if kind == "L-" else 1) for v, kind in zip(values, kinds, strict=True) if kind in kinds_here
            ]
            count = rows.cones[key] if key != "q" else sum(rows.cones["q"])
            start = {"z": 0, "l": rows.cones["z"], "q": rows.cones["z"] + rows.cones["l"]}[key]
            np.testing.assert_allclose(slack[start : start + count], mine, atol=1e-13)
        return
    start = rows.cones["l"]
    squares = [block for block, order in enumerate(file.orders) if order > 1]
    for block, order in zip(squares, rows.cones["s"], strict=True):
        matrix = np.zeros((order, order))
        for k, which, i, j, value in file.entries:
            if which == block:
                matrix[i, j] = matrix[j, i] = matrix[i, j] + value * (x[k - 1] if k else -1.0)
        size = order * (order + 1) // 2
        np.testing.assert_allclose(matrix_of(slack[start : start + size]), matrix, atol=1e-12)
        start += size


def test_the_judge_of_the_exponential_cone_is_not_fooled():
    rows = load("cblib", "bss2").rows()
    found = reference(rows)
    assert found.certificate.worst <= 1e-8
    layer = dcl.ConeLayer(rows.cones, on_degenerate="ignore")
    x, z, s = (t.numpy().copy() for t in layer(None, *(torch.tensor(t) for t in (rows.q, rows.A.toarray(), rows.b))))
    for v, entry in ((s, -3), (z, -2)):  # x of the last cone up, y* of its dual down: outside, by about 1e-3
        worse = v.copy()
        worse[entry] += 1e-3 if v is s else -1e-3
        judged = certificate(rows, x, z if v is s else worse, worse if v is s else s)
        outside = judged.in_cone if v is s else judged.in_dual_cone
        assert 1e-6 < outside < 1e-2
        assert not math.isnan(judged.worst)
