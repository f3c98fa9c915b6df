"""`python -m dcl` and its demo: the gradient that learns is right, learning lowers the loss, and what is written exists."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import polish

import dcl
from dcl.__main__ import COMMANDS, main
from dcl.demo import command, regression

SPLITS = 2


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "shuffled"])
def data(request: pytest.FixtureRequest) -> regression.Data:
    return regression.load(seed=3, shuffled=request.param, splits=SPLITS)


def test_gradient_agrees_with_finite_differences(data: regression.Data) -> None:
    layer = regression.regression(data.signs)
    generator = torch.Generator().manual_seed(0)
    size = (SPLITS, len(data.signs))
    log_penalty = (torch.randn(size, generator=generator, dtype=torch.float64) - 2.0).requires_grad_()
    (gradient,) = torch.autograd.grad(regression.validation_loss(layer, data, log_penalty).sum(), log_penalty)
    step = 1e-5
    with torch.no_grad():
        basis = step * torch.eye(size[1], dtype=torch.float64).unsqueeze(1)
        ahead = regression.validation_loss(layer, data, log_penalty + basis)
        behind = regression.validation_loss(layer, data, log_penalty - basis)
    differences = ((ahead - behind) / (2.0 * step)).mT
    assert float((gradient - differences).norm()) <= 1e-6 * float(differences.norm())
    assert float(gradient.norm()) > 1e-4


def test_lower_level_against_a_polished_point(data: regression.Data) -> None:
    sign = np.array(data.signs)
    penalty = 0.05 * (1.0 + torch.arange(len(sign), dtype=torch.float64))
    w = regression.weights(regression.regression(data.signs), data.train, penalty)[0].numpy()
    P, c = data.train.P[0].numpy() + np.diag(penalty.numpy()), data.train.c[0].numpy()
    # sign w >= 0 where there is one, and the budget
    signed = np.diag(sign)[sign != 0]
    rows, sides = np.vstack([-signed, sign]), np.append(np.zeros(len(signed)), regression.BUDGET)
    program = polish.Program(P, -c, rows, sides, (polish.Cone("nonnegative", len(sides)),))
    known, _ = polish.by_clarabel(program)
    np.testing.assert_allclose(w, known, atol=1e-9)


def test_mean_square_of_moments_is_that_of_the_rows() -> None:
    X, y, w = torch.randn(7, 3).double(), torch.randn(7).double(), torch.randn(3).double()
    moments = regression.Moments(X.mT @ X / 7, X.mT @ y / 7, y @ y / 7)
    torch.testing.assert_close(moments.mean_square(w), (X @ w - y).square().mean())


def test_learning_lowers_the_validation_loss(data: regression.Data) -> None:
    ticks: list[int] = []
    outcome = regression.experiment(data, 12, lambda: ticks.append(1))
    assert len(ticks) == 12
    assert outcome.curve.shape == (13, SPLITS)
    torch.testing.assert_close(outcome.curve[0], outcome.single_loss)  # it starts from the best single penalty
    assert bool((outcome.curve[-1] < outcome.curve[0]).all())
    assert list(outcome.errors) == ["no penalty", "best single penalty", "one penalty per feature"]
    assert all(40.0 < float(e) < 77.0 for errors in outcome.errors.values() for e in errors)  # 77: predict the mean


@pytest.mark.slow
def test_demo_writes_table_figure_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, errors = tmp_path / "demo.png", tmp_path / "errors.csv"
    assert main(["demo", "--steps", "3", "--seed", "1", "--output", str(figure), "--csv", str(errors)]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    for head in ("no penalty", "best single penalty", "one penalty per feature", "per feature minus single", "seconds"):
        (line,) = [line for line in lines if line.startswith(head)]
        assert len(line) == len(lines[0])
    assert "/6 [" in said.err  # the progress bar
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 20_000
    with errors.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * regression.SPLITS * 3
    assert {row["data"] for row in rows} == {"10 features", "10 features + 20 shuffled"}


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
    assert "no such kind of picture" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"dcl {dcl.__version__}\n"
