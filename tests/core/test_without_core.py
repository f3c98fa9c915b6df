"""Where the compiled core was not built, the first call says so and why, and only the first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

import dcl
from dcl import about, core


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(core, "available", False)
    monkeypatch.setattr(core, "switched_off", False)
    monkeypatch.setattr(core, "variant", "")
    monkeypatch.setattr(core, "reason", "there was no compiler")
    about.warn_of_slow_path.cache_clear()
    yield
    about.warn_of_slow_path.cache_clear()


def solution() -> torch.Tensor:
    return dcl.solve_qp(torch.eye(2), torch.tensor([-1.0, -3.0]), G=torch.ones(1, 2), h=torch.ones(1)).x


def test_the_first_call_says_why_there_is_no_core(no_core: None) -> None:
    with pytest.warns(dcl.SlowWarning, match="there was no compiler"):
        x = solution()
    torch.testing.assert_close(x, torch.tensor([-0.5, 1.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution()


def test_info_says_why_there_is_no_core(no_core: None) -> None:
    assert "no compiled core: there was no compiler" in str(about.info())


def test_a_core_that_was_switched_off_is_not_warned_of(no_core: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "switched_off", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution()
