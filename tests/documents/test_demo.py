"""`python -m dcl` and its demo: the gradient that learns is right, learning lowers the loss, and what is written exists."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import polish

import dcl
from dcl.__main__ import COMMANDS, main
from dcl.demo import command, dispatch


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def past() -> dispatch.Days:
    return dispatch.load(seed=5, days=12)[0]


def test_gradient_agrees_with_finite_differences(past: dispatch.Days) -> None:
    torch.manual_seed(0)
    model = dispatch.WithLayer(past)
    with torch.no_grad():
        model.log_priorities += 0.5 * torch.randn(dispatch.CUSTOMERS)
    assert bool((model.reader(past.slips).sum(-1) > model.total).all())  # the total binds

    def loss() -> torch.Tensor:
        return (model(past.slips) - past.shipped).square().mean()

    learned = [model.log_priorities, model.total, model.reader.network[2].bias]
    gradients = torch.autograd.grad(loss(), learned)
    step = 1e-5
    for parameter, gradient in zip(learned, gradients, strict=True):
        differences = torch.zeros_like(gradient)
        for entry in np.ndindex(tuple(parameter.shape)):
            with torch.no_grad():
                parameter[entry] += step
                ahead = loss()
                parameter[entry] -= 2.0 * step
                behind = loss()
                parameter[entry] += step
            differences[entry] = (ahead - behind) / (2.0 * step)
        assert float((gradient - differences).norm()) <= 1e-6 * float(differences.norm())
        assert float(gradient.norm()) > 1e-3


def test_rule_against_a_polished_point(past: dispatch.Days) -> None:
    priorities = torch.linspace(0.3, 2.0, dispatch.CUSTOMERS, dtype=torch.float64)
    x = dispatch.ship(dcl.QPLayer(), past.digits, priorities, tensor(dispatch.TOTAL)[0]).numpy()
    n = dispatch.CUSTOMERS
    rows, sides = np.vstack([-np.eye(n), np.ones((1, n))]), np.append(np.zeros(n), dispatch.TOTAL)
    for wanted, shipped in zip(past.digits.numpy(), x, strict=True):
        P = np.diag(priorities.numpy())
        program = polish.Program(P, -P @ wanted, rows, sides, (polish.Cone("nonnegative", len(sides)),))
        known, _ = polish.by_clarabel(program)
        np.testing.assert_allclose(shipped, known, atol=1e-9)


def test_rule_in_closed_form() -> None:
    n = dispatch.CUSTOMERS
    wanted = tensor(9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    ones = torch.ones(n, dtype=torch.float64)
    layer = dcl.QPLayer()
    torch.testing.assert_close(dispatch.ship(layer, wanted, ones, tensor(50.0)[0]), wanted)  # enough for all
    # equal priorities: all get less by the same, but not less than zero; 9 + ... + 4 - 6 * 3 = 21
    expected = tensor(6, 5, 4, 3, 2, 1, 0, 0, 0, 0)
    torch.testing.assert_close(dispatch.ship(layer, wanted, ones, tensor(21.0)[0]), expected, atol=1e-12, rtol=0.0)


def test_past_and_judged_days_have_other_handwriting() -> None:
    past, judged, priorities = dispatch.load(seed=1, days=40)
    again, _, _ = dispatch.load(seed=1, days=40)
    assert torch.equal(past.slips, again.slips)
    assert past.slips.shape == (40, dispatch.CUSTOMERS, 64)
    assert bool((priorities > 0).all())
    slips = [{tuple(slip) for slip in part.slips.flatten(0, 1).tolist()} for part in (past, judged)]
    assert not slips[0] & slips[1]
    for part in (past, judged):
        assert torch.equal(part.shipped, part.shipped.round())
        assert float(part.shipped.min()) >= 0.0
        assert float(part.shipped.sum(-1).max()) <= dispatch.TOTAL + 0.5 * dispatch.CUSTOMERS
        assert bool((part.shipped <= part.digits).all())


def test_the_state_that_is_best_on_the_stopping_days_stays(past: dispatch.Days) -> None:
    torch.manual_seed(0)
    model, ticks = dispatch.WithLayer(past), []
    first = len(past.slips) * 4 // 5
    before = past[first:].error(model(past[first:].slips))
    dispatch.fit(model, past, 20, dispatch.LAYER_RATE, 0.0, lambda: ticks.append(1))
    assert len(ticks) == 20
    assert past[first:].error(model(past[first:].slips)) < before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])  # not those that the demo shows
def test_the_layer_wins_on_held_out_days(seed: int) -> None:
    ticks: list[int] = []
    outcome = dispatch.experiment(seed, 60, 150, lambda: ticks.append(1))
    assert len(ticks) == 4 * 150
    *baselines, layer = outcome.errors.values()
    assert list(outcome.errors)[-1] == "network with the layer"
    assert layer < 0.65 * min(baselines)
    assert outcome.floor == pytest.approx(0.27, abs=0.03)  # rounding: at most 1 / sqrt(12), less where x is zero
    assert outcome.total == pytest.approx(dispatch.TOTAL, abs=0.8)
    assert float(torch.corrcoef(torch.stack([outcome.readings, outcome.digits]))[0, 1]) > 0.8
    assert float(torch.corrcoef(torch.stack([outcome.priorities.log(), outcome.learned.log()]))[0, 1]) > 0.95


@pytest.mark.slow
def test_demo_writes_table_figure_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    figure, errors = tmp_path / "demo.png", tmp_path / "errors.csv"
    assert main(["demo", "--steps", "3", "--seed", "1", "--output", str(figure), "--csv", str(errors)]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    methods = ("mean of each customer", "ridge regression", "network", "network with the layer")
    for head in (*methods, "past days to learn from", "rule and digits known"):
        (line,) = [line for line in lines if line.startswith(f"{head}  ")]
        assert len(line) == len(lines[1])
    runs = len(command.DAYS) * command.SEEDS
    assert f"/{runs * 3 * 4} [" in said.err  # the progress bar
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 20_000
    with errors.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == runs * len(methods)
    assert {row["method"] for row in rows} == set(methods)
    assert {int(row["seed"]) for row in rows} == {1, 2, 3}
    assert all(0.0 < float(row["error"]) < 5.0 for row in rows)


@pytest.mark.slow
def test_no_bar_where_stderr_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "1", "--output", str(tmp_path / "demo.png")]) == 0
    assert capsys.readouterr().err == ""


def test_axis_of_the_figure_starts_at_zero() -> None:
    from matplotlib.figure import Figure

    from dcl.demo.figure import _errors

    errors = dict.fromkeys(("mean of each customer", "ridge regression", "network", "network with the layer"), 2.0)
    outcome = dispatch.Outcome(errors, 0.25, tensor(1), tensor(1), tensor(1), tensor(1), 28.0)
    axes = Figure().subplots()
    _errors(axes, {(30, 0): outcome, (60, 0): outcome})
    assert axes.get_ylim()[0] == 0.0


def test_demo_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda module: None if module == "sklearn" else module)
    assert main(["demo"]) == 2
    assert 'scikit-learn, not installed here: pip install "dcl-layers[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "0", "positive integer"),
        ("--steps", "ten", "positive integer"),
        ("--output", "no/such/folder/f.png", "cannot write"),
        ("--seed", "x", "invalid int"),
    ],
)
def test_demo_refuses_bad_options(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", option, value])
    assert message in capsys.readouterr().err


def test_demo_refuses_an_unknown_kind_of_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path / "figure.abc")]) == 2
    assert "unknown kind of picture" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"dcl {dcl.__version__}\n"


def test_the_table_fits_a_narrow_terminal() -> None:
    none = torch.zeros(0)
    outcomes = {
        (days, seed): dispatch.Outcome({"network": 1.0 + seed}, 0.25, none, none, none, none, 1.0)
        for days in command.DAYS
        for seed in (0, 1)
    }
    assert "1.50 (1.00 to 2.00)" in command.table(outcomes)
    assert command.table(outcomes, 120) == command.table(outcomes)
    narrow = command.table(outcomes, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow.splitlines()[3].split() == ["network", *["1.50"] * 4]
