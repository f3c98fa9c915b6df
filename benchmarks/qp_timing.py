"""Times QP layers: their programs, drawn at random, and their peers, for `turns.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from contest import Effort, Programs
from lines import Done
from qp_families import random_programs
from qp_peers import CENTRAL, peers_of
from qp_works import Work
from turns import time_works as in_turns


def time_works(works: Iterable[Work], only: Sequence[str], effort: Effort) -> Iterator[Done]:
    """The lines of each work, as soon as they are there; `only` layers whose name contains one of these, or all."""
    return in_turns(works, only, effort, peers_of, programs_of)


def programs_of(together: Sequence[Work], seed: int) -> Programs:
    work = together[0]
    count = min(max(each.batch for each in together) + 8, _most(work.shape.n, work.central))
    mus = [peer.mu for peer in CENTRAL] if work.central else [0.0]
    return random_programs(work.family, work.shape, count, seed, mus)


def _most(n: int, is_central: bool) -> int:
    """So many different programs: a larger batch has some of them several times.  A reference takes seconds at n = 500."""
    return max(8, min(40 if is_central else 136, 2_000_000 // n**2))
