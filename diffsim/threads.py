"""Threads: one pool at a time. Numba and torch take the cores, BLAS takes one, because its threads fight with Numba's."""

import os
import sys
from dataclasses import dataclass

from .data import number
from .errors import ProblemError
from .resources import available_cores

# variable -> share of the cores; the libraries read these when they are first imported
_VARIABLES = {
    "NUMBA_NUM_THREADS": "all",
    "OMP_NUM_THREADS": "all",
    "MKL_NUM_THREADS": "all",
    "OPENBLAS_NUM_THREADS": "one",
    "VECLIB_MAXIMUM_THREADS": "one",
}


@dataclass(frozen=True)
class Pool:
    """How many threads one library uses, and what decided it."""

    library: str
    threads: int
    decided_by: str


def configure_threads(threads: int | None = None) -> int:
    """Use `threads` threads (default: the available cores) in Numba and torch, and one in BLAS; how many it became.

    Call it before the first computation. What is already imported is set directly; Numba cannot exceed the number
    it started with. A variable that the user has set in the environment stays as it is unless `threads` is given.

    Raises
    ------
    ProblemError
        Where `threads` is not a whole number >= 1.
    """
    wanted = available_cores()
    if threads is not None:
        if number("threads", threads, least=1) != int(threads):
            raise ProblemError(f"threads = {threads} is not a whole number; give 1, 2, ...")
        wanted = int(threads)
    for variable, share in _VARIABLES.items():
        value = str(wanted if share == "all" else 1)
        if threads is None:
            os.environ.setdefault(variable, value)
        else:
            os.environ[variable] = value
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        wanted = min(wanted, numba.config.NUMBA_NUM_THREADS)
        numba.set_num_threads(wanted)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(wanted)
    return wanted


def plan() -> list[Pool]:
    """What each library would use if it were imported now."""
    cores = available_cores()
    libraries = {"numba": "NUMBA_NUM_THREADS", "torch": "OMP_NUM_THREADS", "BLAS": "OPENBLAS_NUM_THREADS"}
    pools = []
    for library, variable in libraries.items():
        value = os.environ.get(variable, "")
        known = value.isdecimal() and int(value) > 0
        pools.append(Pool(library, int(value) if known else cores, variable if known else "the number of cores"))
    return pools
