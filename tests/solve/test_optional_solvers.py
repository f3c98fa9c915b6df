"""Solvers are imported when they are first used, and all but those that dcl asks pip for may be missing.

A missing package is simulated by an entry None in sys.modules: `import` fails then, and it is not found.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import cvxpy as cp
import pytest
import torch

import dcl
from dcl.solvers import base
from dcl.solvers.choose import _SOLVERS as SOLVERS

# dcl's own needs no package
KINDS = [kind for kind in SOLVERS.values() if kind.package]
PACKAGES = [kind.package for kind in KINDS]
# Clarabel proves what is infeasible and solves cone programs: nothing takes its place.
DISPENSABLE = [kind for kind in KINDS if kind.name != "CLARABEL"]
F64 = {"dtype": torch.float64}


@pytest.fixture
def without(monkeypatch):
    """A function that takes a package away until the end of the test."""

    def take(package):
        monkeypatch.setitem(sys.modules, package, None)
        base._is_found.cache_clear()

    yield take
    monkeypatch.undo()
    base._is_found.cache_clear()


def test_each_solver_but_our_own_has_a_package():
    assert sorted(PACKAGES) == ["clarabel", "daqp", "highspy", "osqp", "piqp", "scs"]
    assert all(kind.is_installed() for kind in SOLVERS.values())
    assert [name for name, kind in SOLVERS.items() if not kind.package] == ["SCHUR"]


def test_what_is_no_dependency_is_an_extra_and_all_of_them_are_tested():
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = {line.split(">")[0] for line in project["dependencies"]}
    optional = set(PACKAGES) - required
    assert optional == {"piqp"}
    for package in optional:
        assert [line.split(">")[0] for line in extras[package]] == [package]
        assert package in extras["all"][0]
    assert "all" in extras["test"][0]
    # CVXPY brings its own
    assert set(PACKAGES) - optional - {"daqp"} <= required


def test_solvers_and_cvxpy_are_imported_when_they_are_used_and_not_before():
    steps = (
        "import dcl, torch",
        "dcl.info(), dcl.solvers.Piqp(), dcl.QPLayer('osqp')",
        "dcl.solve_qp(torch.eye(2).double(), torch.ones(2).double(), solver='DAQP')",
    )
    found = f"import sys; print([name for name in {[*PACKAGES, 'cvxpy']} if name in sys.modules])"
    code = "\n".join(f"{step}\n{found}" for step in steps)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "[]", "['daqp']"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_naming_an_absent_solver_says_how_to_install_it(without, kind):
    layer = dcl.QPLayer(kind())
    without(kind.package)
    words = f"{kind.name} is not installed: pip install {kind.package}"
    with pytest.raises(dcl.OptionError, match=words):
        dcl.QPLayer(kind.name.lower())
    with pytest.raises(dcl.OptionError, match=words):
        kind()
    # a layer that was made where the solver is
    with pytest.raises(dcl.OptionError, match=words):
        layer(torch.eye(2, **F64), torch.ones(2, **F64))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_info_says_what_is_not_installed(without, kind):
    assert dcl.info().versions[kind.package] != "not installed"
    without(kind.package)
    versions = dcl.info().versions
    assert [name for name, version in versions.items() if version == "not installed"] == [kind.package]
    assert f"{kind.package} " in repr(dcl.info())


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", DISPENSABLE, ids=lambda kind: kind.name)
def test_the_rule_does_without(without, kind, monkeypatch):
    """Without the compiled core: a projection, a linear program, one without a solution, a ball; what they are is known."""
    monkeypatch.setattr("dcl.core.available", False)
    monkeypatch.setattr("dcl.layers.fast.warn_of_slow_path", lambda: None)
    without(kind.package)
    q = torch.tensor([-1.0, -3.0], **F64, requires_grad=True)
    G, h = torch.ones(1, 2, **F64), torch.tensor([1.0], **F64)
    result, solution = dcl.solve_qp(torch.eye(2, **F64), q, G=G, h=h, return_solution=True)
    torch.testing.assert_close(result.x, torch.tensor([-0.5, 1.5], **F64))
    torch.testing.assert_close(torch.autograd.grad(result.x[0], q)[0], torch.tensor([-0.5, 0.5], **F64))
    assert kind.name not in solution.solvers

    vertex = dcl.solve_qp(None, torch.tensor([-1.0, -2.0], **F64), G=G, h=h, lb=torch.zeros(2, **F64)).x
    torch.testing.assert_close(vertex, torch.tensor([0.0, 1.0], **F64))
    large = dcl.QPLayer().solve(torch.eye(505, **F64), torch.ones(505, **F64), lb=torch.zeros(505, **F64))
    assert not large.x.any()
    assert kind.name not in large.solvers
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE"):
        dcl.solve_qp(torch.eye(2, **F64), q, G=torch.cat([G, -G]), h=torch.tensor([1.0, -2.0], **F64))

    x, center = cp.Variable(2), cp.Parameter(2)
    ball = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.norm(x - center)), [cp.norm(x) <= 1]), [center], [x])
    (found,) = ball(torch.tensor([3.0, 4.0], **F64))
    torch.testing.assert_close(found, torch.tensor([0.6, 0.8], **F64))


def test_a_solver_that_is_absent_is_not_recommended(without):
    x, b = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - b)), [])
    without("scs")
    with pytest.raises(dcl.OptionError, match=r"DAQP has no second-order cones: use CLARABEL, or leave"):
        dcl.CvxpyLayer(problem, [b], [x], solver="DAQP")
