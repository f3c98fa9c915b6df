"""One thread for each test process, and the quick part of the suite.

Threads: the processes of `-n auto` share the cores, and the threads of BLAS and OpenMP spin while they wait. With two
threads the tests of the core and of KKT systems take twice the processor time of one.

`@pytest.mark.sample(k)`: of the cases of this test every k-th, the first one included, is in the quick part; the others are slow.
So each law stays in the quick part, and all of its cases in the whole suite. k has no factor in common with the lengths of the
lists whose product the cases are, so that the sample meets every entry of each.

Tests with a timeout of their own, the longest, come first.
"""

import os
from collections import Counter

import pytest

# NumPy, SciPy and torch read it when they are imported, and so do the processes that a test starts
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from dcl import core

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors; of the one that the core was not built, once is enough: tests/core/test_without_core.py."""
    if not core.available:
        config.addinivalue_line("filterwarnings", "ignore:dcl runs without its compiled core")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is None or item.get_closest_marker("slow") is not None:
            continue
        test = item.nodeid.split("[")[0]
        if seen[test] % sample.args[0]:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1
    # so that no worker starts one of minutes when the others have nothing left to do
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
