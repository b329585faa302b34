"""Threads that walk through one compiled function together, each doing its part of every pass.

A kernel made for it takes ``(part, parts, gate, *arguments)``, cuts its work by `part`, and lets the members `meet` at the
gate before each pass that reads what others have written, and once more where it ends, unless they write nothing that the
caller reads. Compared with a pool that is woken for every pass, a meeting costs a hundredth, one compilation serves any
number of threads, and where the machine is busy a member that has to wait gives way.

This is the one file whose functions kernels of other files call: their cached code does not notice edits here.
"""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.config import IS_WIN32
from numba.extending import intrinsic

# Places in the gate of a team, a line of the cache apart: how many have arrived, how often all of them have, and whether
# somebody will never come.
ARRIVED, MEETINGS, ABANDONED, GATE = 0, 16, 32, 48
SPINS = 2000  # looks at the gate before other threads of the machine get a chance

_give_way = types.ExternalFunction("SwitchToThread" if IS_WIN32 else "sched_yield", types.int32())


def place_in(context, builder, array_type, array, at):
    """Pointer to a number of a flat array, for intrinsics."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


@intrinsic
def _add_to(typing, array, at, amount):
    """Add to a number that other threads add to as well; what it was before."""

    def add(context, builder, signature, arguments):
        place = place_in(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), add


@intrinsic
def _look_at(typing, array, at):
    """A number that other threads change."""

    def look(context, builder, signature, arguments):
        return builder.load_atomic(place_in(context, builder, signature.args[0], *arguments), "seq_cst", 8)

    return types.int64(array, types.int64), look


@intrinsic
def bare(typing, array):
    """The same array without its owner, so that passing it on counts no references: callers keep it alive."""
    if isinstance(array, types.NoneType):
        return array(array), lambda context, builder, signature, arguments: context.get_dummy_value()

    def strip(context, builder, signature, arguments):
        value = context.make_array(array)(context, builder, arguments[0])
        value.meminfo = value.meminfo.type(None)
        return value._getvalue()

    return array(array), strip


if numba.config.DISABLE_JIT:

    def bare(array):
        """The same in plain Python."""
        return array


@numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def meet(gate, parts):
    """Wait for the other members; what each has written before, all can read afterwards."""
    if parts == 1:
        return
    meetings = _look_at(gate, MEETINGS)
    if _add_to(gate, ARRIVED, 1) == parts - 1:
        _add_to(gate, ARRIVED, -parts)
        _add_to(gate, MEETINGS, 1)
        return
    spins = np.int64(0)
    while _look_at(gate, MEETINGS) == meetings and _look_at(gate, ABANDONED) == 0:
        spins += 1
        if spins > SPINS:
            _give_way()


# --- the threads ---

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
        result = kernel(0, members, gate, *arguments)
        if gate[ABANDONED]:
            raise MemoryError("a thread could not go on; there is probably too little memory.")
        return result
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
            except Exception:  # the caller, who has made the same call, raises its own
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
