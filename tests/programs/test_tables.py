"""What programs print and tabulate: values with labels, constraints by name, nothing that is only rounding."""

from __future__ import annotations

import json
from pathlib import Path

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest

import dcl
from dcl.cli.main import main

NAMES = ["bonds", "steel", "tea"]


def portfolio() -> dcl.ParametricProgram:
    """Least risk for a return: x = (0.6, 0.4, 0) moved by the target, see the closed form below."""
    w, mean, target = cp.Variable(3, name="w"), cp.Parameter(3, name="mean"), cp.Parameter(name="target")
    wanted = (mean @ w >= target).set_label("return")
    return dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(w)), [cp.sum(w) == 1, w >= 0, wanted]))


def test_derivatives_show_values_with_labels() -> None:
    mean = pd.Series([0.0, 1.0, 2.0], index=NAMES)
    solution = portfolio().solve(mean=mean, target=1.25)
    # w = 1/3 + (target - 1) (-1, 0, 1) / 2:  dw / dtarget = (-1/2, 0, 1/2)
    moved = solution.derivative(target=1.0)
    assert repr(moved).splitlines()[0].split() == ["variable", "shape", "value"]
    assert "bonds -0.5, steel 0, tea 0.5" in repr(moved)
    # value 1/3 + (target - 1)^2 / 2, so its slope is target - 1
    slopes = repr(solution.value_gradient())
    assert [line.split() for line in slopes.splitlines() if line.startswith("target")] == [["target", "number", "0.25"]]
    assert "bonds " in slopes
    assert "tea " in repr(solution.adjoint({"w": [1.0, 0.0, 0.0]}))
    many = portfolio().solve(mean=mean, target=[1.25, 1.5]).derivative(target=1.0)
    assert "2 x 3" in repr(many)
    assert "[-0.5 0 0.5; -0.5 0 0.5]" in repr(many)


def test_a_long_list_of_values_is_cut() -> None:
    x = [cp.Variable(name=f"x{k}") for k in range(15)]
    t = cp.Parameter(name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(sum(cp.square(one - t) for one in x))))
    lines = repr(program.solve(t=2.0).derivative(t=1.0)).splitlines()
    assert lines[-1] == "... and 3 more variables"
    assert lines[2].split() == ["x0", "number", "1"]


def test_multipliers_have_the_names_of_constraints() -> None:
    mean = pd.Series([0.0, 1.0, 2.0], index=NAMES)
    program = portfolio()
    solution = program.solve(mean=mean, target=1.25)
    frame = solution.to_frame()
    assert frame["name"].unique().tolist() == ["w", "dual of sum(w) == 1", "dual of w >= 0", "dual of return"]
    assert frame.loc[frame["name"] == "dual of w >= 0", "entry"].tolist() == NAMES
    found = solution.to_xarray()
    np.testing.assert_array_equal(found["dual of w >= 0"], solution.dual(1))
    assert float(found["dual of return"]) == pytest.approx(0.25)
    rows = program.sweep(mean=mean, target=[1.25, 1.5], progress=False)
    assert {"dual of return", "dual[tea] of w >= 0"} <= set(rows.to_pandas().columns)
    np.testing.assert_allclose(rows.to_xarray()["dual of return"], [0.25, 0.5], atol=1e-12)


def test_constraints_that_read_the_same_are_numbered() -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    program = dcl.ParametricProgram(
        cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, x >= 0, cp.SOC(x[0] + 3, x)])
    )
    names = program.solve(t=[1.0, 2.0])
    found = list(names.to_frame()["name"].unique())
    assert found[1:3] == ["dual of x >= 0 (1)", "dual of x >= 0 (2)"]
    assert [name.split(" of ")[0] for name in found[3:]] == ["dual 0", "dual 1"]
    columns = program.sweep(t=np.ones((2, 2)), progress=False).to_pandas().columns
    assert "dual[1] of x >= 0 (2)" in columns


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (lambda x, t: x >= 0, "x >= 0"),
        (lambda x, t: x >= t, "x >= t"),
        (lambda x, t: cp.sum(x) == 1, "sum(x) == 1"),
        (lambda x, t: cp.sum(x) <= 10.5, "sum(x) <= 10.5"),
        (lambda x, t: cp.norm(x) <= t, "norm(x, 2) <= t"),
    ],
)
def test_constraints_read_as_they_were_written(constraint: object, text: str) -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(name="t", value=1.0)
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - 0.4)), [constraint(x, t)]))  # type: ignore[operator]
    assert f"dual of {text}" in set(program.solve().to_frame()["name"])


def test_rounding_is_shown_as_zero() -> None:
    """Value and slopes are zero in exact arithmetic, and some 1e-30 here."""
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, cp.sum(x) >= 3]))
    rng = np.random.default_rng(0)
    exact = 0
    for _ in range(10):
        solution = program.solve(t=1.1 + rng.random(3))
        exact += solution.value == 0.0 and not np.any(solution.value_gradient()["t"])
        assert "value 0;" in repr(solution)
        assert repr(solution.value_gradient()).endswith("[0 0 0]")
        assert all(line.split()[2:4] == ["0", "0"] for line in repr(solution.sensitivity()).splitlines()[2:5])
    assert exact < 10  # else there was nothing to round


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 1e9])
def test_small_numbers_that_are_no_rounding_are_shown(size: float) -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0]))
    solution = program.solve(t=[size, -1e-8 * size])
    assert f"[{size:.5g} 0]" in repr(solution)
    # the multiplier of x[1] >= 0, 2e-8 of the size of the other terms
    assert solution.certain.outputs[1][1] == pytest.approx(2e-8 * size, rel=1e-6)
    assert repr(solution.value_gradient()).split()[-1].rstrip("]") == f"{2e-8 * -size:.5g}"


MPS = """NAME mini
ROWS
 N COST
 L LIMIT
 G LEAST
 E BALANCE
COLUMNS
 X COST -1.0 LIMIT 1.0
 X LEAST 1.0
 Y COST -2.0 LIMIT 1.0
 Y BALANCE -1.0
 Z COST 1.0 BALANCE 1.0
RHS
 RHS LIMIT 4.0 LEAST 1.0
 RHS BALANCE 7.0
RANGES
 RNG LIMIT 2.0
BOUNDS
 UP BND X 4.0
 MI BND Y
ENDATA
"""


def test_rows_and_columns_of_a_file_have_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mini.mps"
    path.write_text(MPS, encoding="utf-8")
    # with a cost of -1.5 for X the solution is unique
    assert main(["sensitivity", str(path), "--range", "--set", "q[X]=-1.5"]) == 0
    out = capsys.readouterr().out
    assert {"b[BALANCE]", "h[LIMIT]", "low[LIMIT]", "low[LEAST]", "ub[X]", "lb[Z]"} <= {
        line.split()[0] for line in out.splitlines() if line
    }
    # minimize -1.5 x - 2 y + z, z = 7 + y, 2 <= x + y <= 4: the cost is 7 - 1.5 x - y, least at x + y = 4, x = 4
    assert "value 1\n" in out
    assert main(["solve", str(path), "--set", "low[LEAST]=2", "--set", "q[X]=-1.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(found["variables"]["x"], [4.0, 0.0, 7.0], atol=1e-9)
    assert main(["solve", str(path), "--set", "q[X]=-1.5"]) == 0
    out = capsys.readouterr().out
    assert "x[X]          4" in out
    assert "LIMIT 1" in out
    assert "binding: constraint 1 (G @ x <= h), entry LIMIT" in out
    assert main(["solve", str(path), "--set", "h[LEAST]=2"]) == 2
    assert "give one of its entries, such as h[LIMIT]" in capsys.readouterr().err


def test_names_of_matrix_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many rows as entries of x: lengths do not tell which names are whose."""
    q, G, h = [-3.0, -5.0], [[1.0, 0.0], [1.0, 1.0]], [4.0, 6.0]
    path = tmp_path / "program.json"
    path.write_text(
        json.dumps(
            {"q": q, "G": G, "h": h, "lb": [0, None], "names": ["doors", "windows"], "G_names": ["steel", "glass"]}
        ),
        encoding="utf-8",
    )
    arrays = tmp_path / "program.npz"
    np.savez(arrays, q=q, G=G, h=h, lb=[0, -np.inf], names=["doors", "windows"], G_names=["steel", "glass"])
    for file in (path, arrays):
        assert main(["sensitivity", str(file)]) == 0
        said = capsys.readouterr().out
        assert {"q[doors]", "q[windows]", "h[steel]", "h[glass]", "lb[doors]"} <= {
            line.split(" ")[0] for line in said.splitlines()
        }
        assert "entry glass" in said
        assert "x[windows]" in said
        assert main(["sweep", str(file), "--over", "h[glass]=5,6", "--out", str(tmp_path / "rows.csv")]) == 0
        assert "dual[glass] of G @ x <= h" in (tmp_path / "rows.csv").read_text(encoding="utf-8")
        assert "x[windows]" in capsys.readouterr().out
    path.write_text(json.dumps({"q": q, "G": G, "h": h, "G_names": ["steel"]}), encoding="utf-8")
    assert main(["solve", str(path)]) == 2
    assert "G_names has 1 entries, but h has 2: give one name for each" in capsys.readouterr().err


def test_labels_of_a_program() -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    plain = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0]))
    program = plain.with_labels({"x": ["a", "b"], "t": ["u", "v"], "dual of x >= 0": ["a", "b"]})
    solution = program.solve(t=[1.0, -2.0])
    assert "a 1, b 0" in repr(solution)
    assert solution.binding == ("constraint 0 (x >= 0), entry b",)
    assert [effect.name for effect in solution.sensitivity()] == ["t[u]", "t[v]"]
    assert "[1 0]" in repr(plain.solve(t=[1.0, -2.0]))
    with pytest.raises(dcl.InputError, match=r"t has the labels v, u, those of the program are u, v"):
        program.solve(t=pd.Series([1.0, 2.0], index=["v", "u"]))
    for labels, message in (
        ({"y": ["a"]}, "'y' is none of t, x, dual of x >= 0"),
        ({"x": ["a"]}, "one label for each entry"),
    ):
        with pytest.raises(dcl.InputError, match=message):
            plain.with_labels(labels)
