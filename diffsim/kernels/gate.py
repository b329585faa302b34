"""Where the threads of a team (`diffsim.team`) meet between the passes of a compiled function.

The one file whose functions kernels of other files call: their cached code does not notice edits here.
"""

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


def _place(context, builder, array_type, array, at):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


@intrinsic
def _add_to(typing, array, at, amount):
    """Add to a number that other threads add to as well; what it was before."""

    def add(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), add


@intrinsic
def _look_at(typing, array, at):
    """A number that other threads change."""

    def look(context, builder, signature, arguments):
        return builder.load_atomic(_place(context, builder, signature.args[0], *arguments), "seq_cst", 8)

    return types.int64(array, types.int64), look


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
