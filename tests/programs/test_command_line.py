"""`dcl` and `python -m dcl`: what each command prints, writes and returns, and how it ends where something is wrong."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dcl
from dcl.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]

PORTFOLIO = """
import cvxpy as cp, numpy as np
M = np.array([[1.0, 0.2, 0.1], [0.0, 0.8, -0.3], [0.0, 0.0, 0.6]])
w = cp.Variable(3, name="w")
mu = cp.Parameter(3, name="mu", value=[0.1, 0.2, 0.15])
gamma = cp.Parameter(nonneg=True, name="gamma")
problem = cp.Problem(cp.Maximize(mu @ w - gamma * cp.quad_form(w, M.T @ M)), [cp.sum(w) == 1, w >= 0])
"""
# Wyndor Glass (Hillier and Lieberman): 2 doors, 6 windows, value 36
WYNDOR = {
    "q": [-3, -5],
    "G": [[1, 0], [0, 2], [3, 2]],
    "h": [4, 12, 18],
    "lb": [0, None],
    "names": ["doors", "windows"],
}
MPS = """NAME          MINI
OBJSENSE
    MAX
ROWS
 N  COST
 L  LIM1
 G  LIM2
 E  MYEQN
COLUMNS
    XONE      COST        -1.0   LIM1         1.0
    XONE      LIM2         1.0
    YTWO      COST        -2.0   LIM1         1.0
    YTWO      MYEQN       -1.0
    ZTHREE    COST         1.0   MYEQN        1.0
RHS
    RHS       LIM1         4.0   LIM2         1.0
    RHS       MYEQN        7.0
BOUNDS
 UP BND       XONE         4.0
 LO BND       YTWO        -1.0
 UP BND       YTWO         1.0
ENDATA
"""


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def portfolio(tmp_path: Path) -> str:
    path = tmp_path / "portfolio.py"
    path.write_text(PORTFOLIO, encoding="utf-8")
    return str(path)


@pytest.fixture
def wyndor(tmp_path: Path) -> str:
    path = tmp_path / "wyndor.json"
    path.write_text(json.dumps(WYNDOR), encoding="utf-8")
    return str(path)


def program() -> dcl.ParametricProgram:
    scope: dict[str, Any] = {}
    exec(PORTFOLIO, scope)
    return dcl.ParametricProgram(scope["problem"])


def printed(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(list(words)) == status
    said = capsys.readouterr()
    assert status or said.err == ""
    return said.out


def test_solve_prints_tables(portfolio: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "solve", portfolio, "--set", "gamma=0.5")
    known = program().solve(gamma=0.5)
    lines = out.splitlines()
    assert lines[0].startswith(f"OPTIMAL  value {known.value:.8g}  (worst residual")
    found = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("w[")}
    np.testing.assert_allclose([found[f"w[{i}]"] for i in range(3)], known["w"], rtol=1e-5, atol=1e-12)
    assert any(line.startswith("0 ") and "sum(w) == 1" in line for line in lines)


def test_solve_as_json(portfolio: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "solve", portfolio, "--set", "gamma=0.5", "--set", "mu=[0.3,0,0.1]", "--json"))
    known = program().solve(gamma=0.5, mu=[0.3, 0.0, 0.1])
    assert found["status"] == "OPTIMAL"
    np.testing.assert_allclose(found["variables"]["w"], known["w"], atol=1e-14)
    np.testing.assert_allclose(found["multipliers"]["dual of sum(w) == 1"], known.dual(0), atol=1e-14)
    assert found["binding"] == list(known.binding)
    assert found["parameters"]["mu"] == [0.3, 0.0, 0.1]


def test_single_entries_and_files_of_values(portfolio: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = program().solve(gamma=0.5, mu=[0.1, 0.2, 0.9])["w"]
    (tmp_path / "mu.csv").write_text("asset,return\na,0.1\nb,0.2\nc,0.9\n", encoding="utf-8")
    np.save(tmp_path / "mu.npy", np.array([0.1, 0.2, 0.9]))
    for value in ("mu[2]=0.9", f"mu={tmp_path / 'mu.csv'}", f"mu={tmp_path / 'mu.npy'}"):
        out = printed(capsys, "solve", portfolio, "--set", "gamma=0.5", "--set", value, "--json")
        np.testing.assert_allclose(json.loads(out)["variables"]["w"], known, atol=1e-14)
    out = printed(capsys, "solve", portfolio, "--set", "gamma=0.5", "--set", f"mu={tmp_path / 'mu.csv'}")
    assert "w[c]" in out


def test_rows_of_data(portfolio: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("day,mu[0],gamma\nmon,0.5,1\ntue,0.1,2\n", encoding="utf-8")
    known = program().solve(gamma=[1.0, 2.0], mu=[[0.5, 0.2, 0.15], [0.1, 0.2, 0.15]])
    for kind in ("csv", "json", "npz"):
        out = printed(capsys, "solve", portfolio, "--data", str(data), "--out", str(tmp_path / f"found.{kind}"))
        assert "mon  OPTIMAL" in out
        assert "2 OPTIMAL" in out
    with (tmp_path / "found.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["mon", "tue"]
    np.testing.assert_array_equal([[float(row[f"w[{i}]"]) for i in range(3)] for row in rows], known["w"])
    assert json.loads((tmp_path / "found.json").read_text())["variables"]["w"] == known["w"].tolist()
    np.testing.assert_array_equal(np.load(tmp_path / "found.npz")["variables/w"], known["w"])


def test_quadratic_programs_in_files(wyndor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "solve", wyndor)
    assert "value -36" in out
    assert "x[windows]      6" in out
    found = json.loads(printed(capsys, "solve", wyndor, "--json"))
    np.testing.assert_allclose(found["multipliers"]["dual of G @ x <= h"], [0.0, 1.5, 1.0], atol=1e-12)
    P, q = np.diag([1.0, 2.0]), np.array([-1.0, -8.0])
    path = tmp_path / "qp.npz"
    np.savez(path, P=P, q=q, ub=np.array([np.inf, 3.0]), A=np.ones((1, 2)), b=np.array([4.0]))
    found = json.loads(printed(capsys, "solve", str(path), "--json"))
    np.testing.assert_allclose(found["variables"]["x"], [1.0, 3.0], atol=1e-12)
    assert found["value"] == pytest.approx(0.5 + 9.0 - 1.0 - 24.0)


def test_mps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mini.mps"
    path.write_text(MPS, encoding="utf-8")
    found = json.loads(printed(capsys, "solve", str(path), "--json"))
    # -x - 2 y + z with z = 7 + y: x = 1 (at least 1), y = -1
    np.testing.assert_allclose(found["variables"]["x"], [1.0, -1.0, 6.0], atol=1e-12)
    assert found["value"] == pytest.approx(7.0)
    assert "x[ZTHREE]" in printed(capsys, "solve", str(path))


@pytest.mark.parametrize(
    ("file", "status", "message"),
    [
        (
            {"q": [1.0], "lb": [2.0], "ub": [1.0], "P": [[1.0]]},
            3,
            "PRIMAL_INFEASIBLE: no point.*the conflict lies among: constraint 0",
        ),
        ({"q": [-1.0]}, 4, "DUAL_INFEASIBLE: the objective is unbounded"),
    ],
)
def test_exit_status_of_programs_without_a_solution(
    file: Any, status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    path = tmp_path / "program.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    assert main(["solve", str(path)]) == status
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert said.err.count("\n") == 1
    assert main(["solve", str(path), "--json"]) == status
    assert json.loads(capsys.readouterr().out)["value"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "gama=1"], "'gama' is not a parameter of the program; parameters: mu, gamma"),
        (["--set", "gamma=abc"], "not a number, not a list"),
        (["--set", "gamma=-1"], "gamma is outside its declared domain"),
        (["--set", "mu[7]=1"], "mu has shape (3,): give one of its entries, such as mu[0]"),
        (["--set", "mu=[1,2]", "--set", "gamma=1"], "parameter mu must have shape (3,)"),
        ([], "parameter gamma has no value: --set gamma=..."),
        (["--set", "gamma=1", "--solver", "nope"], "unknown solver 'nope'"),
        (["--set", "gamma=1", "--solver", "nope"], "CLARABEL, SCS, HIGHS, SCHUR; without --solver dcl chooses"),
        (["--set", 'gamma="1"'], "gamma must be real numbers, got text: '1'"),
        (["--set", "gamma=1", "--set", "gamma=2"], "--set gamma is given twice"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], message: str, portfolio: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", portfolio, *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("dcl solve: ")
    assert message in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "x = 1\ny = undefined", "a.py, line 2: NameError: name 'undefined' is not defined"),
        ("a.py", "x = (", "a.py, line 1: SyntaxError"),
        ("a.py", "x = 1", "does not define `problem`"),
        ("a.py", "problem = 3", "problem must be a cvxpy.Problem, got int"),
        ("a.json", "{", "a.json, line 1"),
        ("a.json", "[1]", "must be a JSON object with some of the names P, q"),
        ("a.json", '{"q": [1], "R": [2]}', "has R; a quadratic program has P, q"),
        ("a.json", '{"q": [1], "R": [2]}', "lb, ub, names"),
        (
            "a.json",
            '{"q": [1, 1], "lb": [0, 0], "names": ["a"]}',
            "names has 1 entries, but x has 2: give one name for each",
        ),
        ("a.json", '{"q": [1], "names": "a"}', "names must be a list of strings"),
        ("a.json", '{"q": [1, 1], "names": ["a", "a"]}', "two entries of names are equal"),
        ("a.json", '{"q": ["x"]}', "q is not an array of numbers"),
        ("a.json", '{"q": [1], "G": [[1]]}', "G must have shape (0, 1)"),
        ("a.json", '{"q": [1, 1], "P": [[1, 0], [0, -1]]}', "P is not positive semidefinite"),
        ("a.npz", "text", "is not a file of NumPy arrays"),
        ("a.mps", "nonsense", "cannot be read by HiGHS"),
        ("a.txt", "", "unknown kind of file; use .py, .json, .npz, .mps or .lp"),
        ("a.py", "import sys; sys.exit(3)", "ends the program (sys.exit) before it is read"),
    ],
)
@pytest.mark.parametrize("command", ["solve", "compare"])
def test_bad_files(
    command: str, name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    if (command, name) == ("compare", "a.py") and content == "problem = 3":
        message = "does not define parameters, variables, values"
    assert main([command, str(path)]) == 2
    said = capsys.readouterr()
    assert message.replace("`", "") in said.err.replace("`", "")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solve"], "dcl solve: the following arguments are required: FILE; see dcl solve --help"),
        (["solve", "portfolo.py"], "no such file: 'portfolo.py'; did you mean 'portfolio.py'?; see dcl solve --help"),
        (
            ["compare", "folder"],
            "dcl compare: argument FILE: 'folder' is a folder: give a file in it; see dcl compare --help",
        ),
        (["slove", "portfolio.py"], "invalid choice: 'slove' (choose from"),
        (["info", "portfolio.py"], "unrecognized arguments: portfolio.py; see dcl --help"),
        (
            ["demo", "--steps", "0"],
            "dcl demo: argument --steps: must be a positive integer, not '0'; see dcl demo --help",
        ),
        (["demo", "--output", "folder"], "cannot write 'folder'"),
        (["sweep", "portfolio.py", "--over", "gamma"], "must be NAME=POINTS, as in gamma=0:1:50, not 'gamma'"),
        (["sweep", "portfolio.py", "--plot", "a.txt"], "cannot draw 'a.txt': the name must end in .png, .pdf, .svg"),
    ],
)
def test_wrong_arguments_are_one_line(
    words: list[str], message: str, portfolio: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(portfolio).parent)
    Path("folder").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_files_without_permission(
    portfolio: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every user: the superuser, as whom a test may run, may read everything."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", portfolio])
    assert "cannot be read: permission denied" in capsys.readouterr().err
    monkeypatch.undo()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "rows.csv")

    path = tmp_path / "a.json"
    path.write_bytes(b"{}")
    monkeypatch.setattr(Path, "open", refuse)
    assert main(["solve", portfolio, "--set", "gamma=1", "--out", str(tmp_path / "rows.csv")]) == 2
    assert capsys.readouterr().err == "dcl solve: rows.csv: Permission denied\n"
    monkeypatch.setattr(Path, "read_text", refuse)
    assert main(["compare", str(path)]) == 2
    assert capsys.readouterr().err == f"dcl compare: {path} cannot be read: Permission denied\n"


def test_missing_packages_are_named(
    portfolio: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is computed."""
    from dcl.cli import arguments
    from dcl.demo import command

    for module in (arguments, command):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == "matplotlib" else name)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == 'dcl demo needs matplotlib, not installed here: pip install "dcl-layers[demo]"\n'
    for words, extra in ((["compare"], "compare"), (["sweep", portfolio, "--over", "gamma=1,2"], "programs")):
        assert main([*words, "--plot", "paths.png"]) == 2
        said = capsys.readouterr()
        assert f'--plot needs matplotlib, not installed here: pip install "dcl-layers[{extra}]"' in said.err
        assert said.out == ""


def test_compare_takes_the_files_of_solve(wyndor: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "compare", wyndor, "--mu", "0.01", "--set", "q[doors]=-2.5")
    assert "exact" in out
    assert "differences" in out
    assert main(["compare", wyndor, "--set", "h[0]=-1"]) == 3
    said = capsys.readouterr()
    assert "PRIMAL_INFEASIBLE" in said.err
    assert said.err.count("\n") == 1
    assert main(["compare", "--set", "q[doors]=1"]) == 2
    assert "--set is for the parameters of a FILE" in capsys.readouterr().err


def test_parameters_with_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Minimize (x - a)^2 + (x - b)^2: x = (a + b) / 2."""
    path = tmp_path / "twins.py"
    path.write_text(
        'import cvxpy as cp\nx = cp.Variable(name="x")\na, b = cp.Parameter(name="k", value=1.0), cp.Parameter(name="k")\n'
        "problem = cp.Problem(cp.Minimize(cp.square(x - a) + cp.square(x - b)))",
        encoding="utf-8",
    )
    assert main(["solve", str(path), "--json", "--set", "k (2)=4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["variables"]["x"] == pytest.approx(2.5)
    assert found["parameters"] == {"k (1)": 1.0, "k (2)": 4.0}
    assert main(["sensitivity", str(path), "--range", "--set", "k (2)=4"]) == 0
    assert "k (2)" in capsys.readouterr().out
    assert main(["solve", str(path)]) == 2
    assert "parameter k (2) has no value" in capsys.readouterr().err


def test_a_maximization_without_bound_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "up.py"
    path.write_text(
        'import cvxpy as cp\nx = cp.Variable(name="x")\nproblem = cp.Problem(cp.Maximize(x))', encoding="utf-8"
    )
    for command in ("solve", "sensitivity"):
        assert main([command, str(path)]) == 4
        assert "unbounded above" in capsys.readouterr().err


def test_sweep(portfolio: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", portfolio, "--over", "gamma=log:0.01:10:40", "--gradient"]
    out = printed(capsys, *words, "--out", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "paths.png"))
    gammas = np.geomspace(0.01, 10.0, 40)
    known = program().sweep({"gamma": gammas}, progress=False, gradient="value")
    assert repr(known) in out
    assert "24 of 40 rows: --out FILE has all" in out
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal([float(row["gamma"]) for row in rows], gammas)
    np.testing.assert_array_equal([float(row["w[1]"]) for row in rows], known["w"][:, 1])
    np.testing.assert_array_equal([float(row["gradient of gamma"]) for row in rows], known.gradient["gamma"])
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(printed(capsys, *words, "--json"))
    assert found["changes"] == known.changes.tolist()


def test_the_table_of_a_sweep_fits_the_terminal(
    portfolio: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", portfolio, "--over", "gamma=0.1,1,5", "--gradient"]
    whole = printed(capsys, *words)
    assert "gradient of mu[0]" in whole
    assert "dual of" not in whole
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    out = printed(capsys, *words)
    assert "w[2]" in out
    assert "more columns, and multipliers: --out FILE has all" in out
    assert max(map(len, out.partition("more columns")[0].splitlines())) <= 80


LONG = """
import cvxpy as cp
x, t = cp.Variable(3, name="production_of_plants"), cp.Parameter(3, name="target_of_plants", value=[-0.5, 1.0, 2.0])
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, cp.sum(x) == 3])
"""


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["sensitivity", "--range"], "left out: value, +1 %; |x|, +1 %; moves most (--out FILE has all)"),
        (["diagnose"], None),
        (["compare", "--mu", "0.1"], "left out: residual, condition (--csv FILE has all)"),
        (["solve", "--data"], "more columns: --out FILE has all"),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_what_is_printed_fits_the_terminal(
    words: list[str],
    left_out: str | None,
    columns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tables leave columns out and name them, sentences go on below themselves; nothing is lost of what is kept."""
    file, rows = tmp_path / "plants.py", tmp_path / "rows.csv"
    file.write_text(LONG, encoding="utf-8")
    rows.write_text("target_of_plants[0]\n0.5\n0.25\n", encoding="utf-8")
    words = [words[0], str(file), *words[1:], *([str(rows)] if "--data" in words else [])]
    whole = printed(capsys, *words)
    assert max(map(len, whole.splitlines())) > 80
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    out = printed(capsys, *words)
    assert max(map(len, out.splitlines())) <= columns
    if columns == 80 and left_out is not None:
        assert left_out in out
    if left_out is None:
        assert out.split() == whole.split()


def test_a_long_line_goes_on_below_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcl.cli.terminal import wrapped

    text = "  advice          one two three four\nbinding: one two three\nshort"
    assert wrapped(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    assert wrapped(text) == text
    monkeypatch.setenv("COLUMNS", "38")
    shallow = "  label  one two three four five six seven eight"
    assert wrapped(shallow) == "  label  one two three four five six\n         seven eight"
    monkeypatch.setenv("COLUMNS", "19")
    assert wrapped("binding: one two three").split("\n") == ["binding: one two", "         three"]


def test_sweep_over_a_grid_and_from_a_folder(wyndor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "sweep",
        wyndor,
        "--over",
        "q[doors]=-1,-3",
        "--over",
        "h[1]=0:12:3",
        "--json",
        "--path",
        str(tmp_path / "c"),
    ]
    first = printed(capsys, *words)
    found = json.loads(first)
    assert [row[0] for row in found["parameters"]["q"]] == [-1, -1, -1, -3, -3, -3]
    assert [row[1] for row in found["parameters"]["h"]] == [0, 6, 12, 0, 6, 12]
    assert found["value"][5] == pytest.approx(-36.0)
    assert printed(capsys, *words) == first


def test_failures_of_a_sweep_give_the_exit_status(wyndor: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "sweep", wyndor, "--over", "h[0]=-1,4", status=3)
    assert "PRIMAL_INFEASIBLE" in out


def test_sensitivity(wyndor: str, portfolio: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "sensitivity", wyndor, "--range", "--out", str(tmp_path / "s.csv"))
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("q[", "h[", "lb["))}
    assert rows["h[1]"][-2:] == ["6", "18"]
    assert rows["q[doors]"][-2:] == ["-7.5", "0"]
    assert rows["h[0]"][-2:] == ["2", "inf"]
    assert rows["h[1]"][2] == "-1.5"
    with (tmp_path / "s.csv").open(encoding="utf-8") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {
            "q[doors]",
            "q[windows]",
            "h[0]",
            "h[1]",
            "h[2]",
            "lb[doors]",
        }
    found = json.loads(printed(capsys, "sensitivity", portfolio, "--set", "gamma=1", "--json"))
    known = program().solve(gamma=1.0).sensitivity()
    assert [effect["name"] for effect in found["effects"]] == [effect.name for effect in known]
    assert found["effects"][0]["solution"] == pytest.approx(known.effects[0].solution)


def test_a_degenerate_point_has_a_table_and_no_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.py"
    file.write_text(
        "import cvxpy as cp\n"
        'x, demand = cp.Variable(2, name="x"), cp.Parameter(name="demand")\n'
        'c = cp.Parameter(2, name="c", value=[1.0, 2.0])\n'
        "problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) >= demand, x >= 0, x[0] <= 80])\n",
        encoding="utf-8",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["sensitivity", str(file), "--set", "demand=80", "--range"]) == 0
    said = capsys.readouterr()
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.startswith(("demand", "c["))}
    assert set(rows) == {"demand", "c[0]", "c[1]"}
    assert said.err.count("dcl: warning:") == 1
    assert "silences" not in said.err
    assert all(row.split()[-4:] == ["not", "unique"] * 2 for row in rows.values())
    # away from the kink: x[0] alone serves from 0 to 80
    out = printed(capsys, "sensitivity", str(file), "--set", "demand=50", "--range")
    assert next(line for line in out.splitlines() if line.startswith("demand")).split()[-2:] == ["0", "80"]


def test_diagnose_and_info(portfolio: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gradient EXACT" in printed(capsys, "diagnose", portfolio, "--set", "gamma=1")
    assert f"dcl       {dcl.info().versions['dcl']}" in printed(capsys, "info")
    assert json.loads(printed(capsys, "info", "--json"))["versions"] == dcl.info().versions


def test_help_shows_single_entries(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["solve", "--help"])
    assert "--set mu[2]=0.5" in capsys.readouterr().out


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert f"usage: dcl {name}" in capsys.readouterr().out


def run(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "dcl", *words], env=environment, **(pipes | options))


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    code = f"""
import sys
from dcl.__main__ import main
try:
    main({words!r})
except SystemExit:
    pass
slow = {{"torch", "numpy", "scipy", "cvxpy", "pandas", "matplotlib"}} & set(sys.modules)
assert not slow, slow
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGPIPE")
def test_a_reader_that_has_enough_is_no_error(portfolio: str) -> None:
    with run("sweep", portfolio, "--over", "gamma=0.1:1:3000", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"{\n"
        process.stdout.close()
        assert process.wait(timeout=120) == 141
        assert process.stderr.read() == b""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_control_c_is_quiet_and_a_sweep_goes_on(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        PORTFOLIO + "\nimport time\nfrom dcl.programs import sweep\nfrom dcl.programs.chunk import Work\n"
        "plain = Work.run\nsweep._FIRST = sweep._MOST = 5\n"
        "def run(*arguments):\n    time.sleep(0.05)\n    return plain(*arguments)\nWork.run = run\n",
        encoding="utf-8",
    )
    words = ["sweep", str(slow), "--over", "gamma=0.1:1:400", "--path", str(tmp_path / "chunks")]
    # a shell in the background passes on an ignored SIGINT
    process = run(*words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    deadline = time.monotonic() + 120.0
    while not list((tmp_path / "chunks").glob("rows_*.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == b""
    assert err.decode() == f"dcl sweep: stopped; run the same command again to continue from {tmp_path / 'chunks'}\n"


def test_the_console_script_is_main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["dcl"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
