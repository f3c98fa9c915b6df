"""The house rules that can be read off the source: which way imports go, sizes, and what a public docstring has."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dcl

ROOT = Path(dcl.__file__).parent
MODULES = {".".join(("dcl", *p.relative_to(ROOT).with_suffix("").parts)): p for p in sorted(ROOT.rglob("*.py"))}

# Parts of the package, lowest first: a part imports parts of lower lines only. "dcl" is the public package itself.
ORDER = [
    {"core", "errors", "status"},
    {"about", "torch_modes", "user_code"},
    {"cones"},
    {"program"},
    {"kkt"},
    {"point"},
    {"solvers"},
    {"solve"},
    {"outcome"},
    {"frontends", "implicit"},
    {"smooth"},
    {"layers"},
    {"compat", "programs"},
    {"compare"},
    {"dcl"},
    {"cli"},
    {"demo"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
# Allowed by the order, but how a program is stated and how it is solved must not know of each other.
NEVER = {("frontends", "solvers"), ("frontends", "solve"), ("frontends", "kkt"), ("solvers", "frontends")}
# Who may import these packages, by the start of the module's name.
OWNERS = {
    "cvxpy": ["dcl.frontends.cvxpy"],
    "clarabel": ["dcl.solvers.clarabel"],
    "daqp": ["dcl.solvers.daqp"],
    "osqp": ["dcl.solvers.osqp"],
    "piqp": ["dcl.solvers.piqp"],
    "scs": ["dcl.solvers.scs"],
    "sklearn": ["dcl.demo"],
    "matplotlib": ["dcl.demo", "dcl.compare.figure", "dcl.programs.figure"],
    "pandas": ["dcl.compare.table", "dcl.programs.frames", "dcl.programs.sensitivity", "dcl.cli.values"],
    "xarray": ["dcl.programs.frames"],
    "joblib": ["dcl.programs.sweep"],
    "diffcp": ["dcl.compare.engines"],
    "highspy": ["dcl.solvers.highs", "dcl.cli.mps"],
    "tqdm": ["dcl.demo", "dcl.programs.sweep"],
}
SOLVERS = {f"dcl.solvers.{name}" for name in ("clarabel", "daqp", "highs", "osqp", "piqp", "scs")}
PRINTS = {
    "dcl.demo.command",
    "dcl.cli.compare",
    "dcl.cli.main",
    "dcl.cli.solve",
    "dcl.cli.sweep",
    "dcl.cli.sensitivity",
}
PRINTS |= {"dcl.cli.diagnose", "dcl.cli.info", "dcl.layers.verbose", "dcl.solvers.schur"}
LONGEST, LONGEST_MEDIAN = 400, 150


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            children = child.orelse
        else:
            children = [child]
        for grandchild in children:
            yield from runtime_nodes(grandchild)


@cache
def imports(name: str) -> frozenset[str]:
    """Full names of all modules that a module imports when it runs, inside of functions too."""
    found = set()
    for node in runtime_nodes(tree(name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            # `from dcl import solvers` imports dcl.solvers; `from dcl.kkt import KKT` imports dcl.kkt
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {module for module in joined if module in MODULES or f"{module}.__init__" in MODULES}
            found.update(modules)
            if len(modules) < len(joined):
                found.add(str(node.module))
    return frozenset(found)


def part(module: str) -> str:
    """dcl.cones.orthant -> cones; dcl and dcl.__init__ -> dcl."""
    pieces = module.split(".")
    return "dcl" if len(pieces) == 1 or pieces[1] == "__init__" else pieces[1]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    mine = part(name)
    assert mine in RANK, f"{name}: give the new part {mine!r} its place in ORDER"
    for module in imports(name):
        if module.split(".")[0] != "dcl":
            continue
        other = part(module)
        assert other == mine or RANK[other] < RANK[mine], f"{name} imports {module}: the wrong way"
        assert (mine, other) not in NEVER, f"{name} imports {module}"


@pytest.mark.parametrize("name", MODULES)
def test_packages_have_one_owner(name: str) -> None:
    for module in imports(name):
        owners = OWNERS.get(module.split(".")[0])
        assert owners is None or any(name.startswith(owner) for owner in owners), f"{name} imports {module}"
        # what a solver can do is asked of dcl.solvers.choose
        assert module not in SOLVERS or part(name) in ("solvers", "dcl"), f"{name} imports {module}"


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "solvers"])
def test_solvers_know_nothing_of_autograd(name: str) -> None:
    nodes = list(ast.walk(tree(name)))
    assert not any(module.startswith("torch.autograd") for module in imports(name))
    assert not any(isinstance(node, ast.Attribute) and node.attr in ("autograd", "backward") for node in nodes)


@pytest.mark.parametrize("name", MODULES)
def test_what_no_module_does(name: str) -> None:
    for node in ast.walk(tree(name)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            caught = [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)] if node.type else []
            too_wide = {"Exception", "BaseException"} & set(caught)
            reraised = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert node.type is not None, f"{where}: bare except"
            assert not too_wide or reraised, f"{where}: except {caught} that goes on"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or name in PRINTS, f"{where}: print"
            # a platform may lack a function of os; an object of ours never lacks an attribute
            assert node.func.id != "hasattr" or ast.unparse(node.args[0]) == "os", f"{where}: hasattr"
    assert name.split(".")[-1] not in ("utils", "misc", "helpers", "common")


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not too_long
    assert statistics.median(length for length in lengths.values() if length) <= LONGEST_MEDIAN


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.stat().st_size])
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(name))


@pytest.mark.parametrize("name", dcl.__all__)
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(dcl, name)
    assert inspect.getdoc(thing)
    if name.endswith("Layer"):
        assert ">>>" in inspect.getdoc(thing), f"{name} has no example"


EXAMPLES = [name for name, path in MODULES.items() if ">>>" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name.removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
