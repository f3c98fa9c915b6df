"""Times layers of CVXPY problems: their programs, drawn at random, and their peers, for `turns.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from contest import Effort, Programs
from cvxpy_peers import peers_of
from cvxpy_reference import random_programs
from cvxpy_works import Work
from lines import Done
from turns import time_works as in_turns

# So many different programs: a larger batch has some of them several times.  A reference takes a second at size 1000.
MOST, LEAST_POOL, SIZES = 40, 6, 6000


def time_works(works: Iterable[Work], only: Sequence[str], effort: Effort) -> Iterator[Done]:
    """The lines of each work, as soon as they are there; `only` layers whose name contains one of these, or all."""
    return in_turns(works, only, effort, peers_of, _programs)


def _programs(together: Sequence[Work], seed: int) -> Programs:
    work = together[0]
    batch = max(each.batch for each in together)
    return random_programs(work.family, work.size, min(batch + 4, max(LEAST_POOL, min(MOST, SIZES // work.size))), seed)
