"""Ctrl-C and the solvers that take it: OSQP and SCS install a SIGINT handler of their own for the time of a solve.

Afterwards each restores the handler that it found.  Two solves at a time restore each other's, and from then on Ctrl-C is
swallowed for good [run, OSQP 1.1]: all solves of all such solvers take turns.
"""

from __future__ import annotations

import _thread
import os
import threading
from typing import NoReturn

_turn = threading.Lock()


def turn() -> threading.Lock:
    """The lock to hold during a solve."""
    return _turn


def interrupted() -> NoReturn:
    """Raise the KeyboardInterrupt that a solver took: the main thread has not seen it, if this is another one."""
    if threading.current_thread() is not threading.main_thread():
        _thread.interrupt_main()
    raise KeyboardInterrupt


def _new_turn() -> None:
    """A forked child has only the thread that forked: whoever held the lock is not there to release it."""
    global _turn
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_new_turn)
