"""Threads that walk through one compiled function together, each doing its part of every pass.

A kernel made for it takes ``(part, parts, gate, *arguments)``, cuts its work by `part`, and lets the members meet at the
gate (`kernels.gate.meet`) before each pass that reads what others have written, and once more where it ends, unless
they write nothing that the caller reads. Compared with a pool that is woken for every pass, a meeting costs a hundredth,
one compilation serves any number of threads, and where the machine is busy a member that has to wait gives way.
"""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np

from .kernels.gate import ABANDONED, GATE

_one_team = threading.Lock()
_others: list["_Member"] = []


def together(kernel: Callable, members: int, *arguments) -> Any:
    """What ``kernel(0, members, gate, *arguments)`` returns, done by so many threads at once: this one and others.

    One thread does it alone where the others are with another team; what the kernel computes must not depend on that.
    """
    gate = new_gate()
    if members == 1 or numba.config.DISABLE_JIT or not _one_team.acquire(blocking=False):
        return kernel(0, 1, gate, *arguments)
    try:
        while len(_others) < members - 1:
            _others.append(_Member())
        for part, other in enumerate(_others[: members - 1], 1):
            other.begin(kernel, part, members, gate, *arguments)
        return kernel(0, members, gate, *arguments)
    except BaseException:  # Ctrl-C on the way in: nobody may wait for a member who never comes
        gate[ABANDONED] = 1
        raise
    finally:
        _one_team.release()


def new_gate() -> np.ndarray:
    """What a team of kernels meets at."""
    return np.zeros(GATE, dtype=np.int64)


class _Member:
    """A thread that waits for work. It ends with the process, which need not wait for it."""

    def __init__(self):
        self._orders: SimpleQueue = SimpleQueue()
        self._at_home = threading.Lock()
        threading.Thread(target=self._work, name="diffsim", daemon=True).start()

    def begin(self, kernel: Callable, *arguments) -> None:
        """Have the kernel called, once what came before is done."""
        self._at_home.acquire()
        self._orders.put((kernel, arguments))

    def _work(self) -> None:
        while True:
            kernel, arguments = self._orders.get()
            try:
                kernel(*arguments)
            except Exception:  # whoever called has made the same call, and the same exception
                arguments[2][ABANDONED] = 1
            del kernel, arguments  # keeps nothing alive while it waits
            self._at_home.release()


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _one_team
    _one_team = threading.Lock()
    _others.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
