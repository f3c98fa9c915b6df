"""The tests of the core's headers in C++ (dcl/core/tests), built without the core and run case by case."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "dcl" / "core"
# name of the program and of the case, as its `main` lists them
CASES = [
    (path.stem, name)
    for path in sorted((SOURCES / "tests").glob("*.cpp"))
    for name in re.findall(r'^ +(?:\{|\{\{)"(\w+)", \1\}', path.read_text(), re.MULTILINE)
]


def compiler() -> str | None:
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are: made by the first of pytest's workers that asks."""
    fcntl = pytest.importorskip("fcntl")
    if compiler() is None:
        pytest.skip("no C++ compiler")
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    assert cmake is not None, "cmake comes with the extra `test`"
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    build = root / "headers"
    options = ["-DDCL_CORE_TESTS=ON", "-DDCL_CORE_STRICT=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    environment = dict(os.environ)
    if shutil.which("ccache"):  # a build takes two minutes, and most runs of the suite change no header
        options.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
        # the folder of the build is another one in every run
        environment |= {"CCACHE_BASEDIR": str(SOURCES), "CCACHE_NOHASHDIR": "1"}
    with (root / "headers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in ([cmake, "-S", str(SOURCES), "-B", str(build), *options], [cmake, "--build", str(build)]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return build


def test_every_case_is_listed() -> None:
    for path in sorted((SOURCES / "tests").glob("*.cpp")):
        functions = set(re.findall(r"^void (\w+)\(\) \{", path.read_text(), re.MULTILINE))
        assert functions == {name for program, name in CASES if program == path.stem}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("program", "name"), CASES)
def test_case(programs: Path, program: str, name: str) -> None:
    done = subprocess.run([programs / program, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
