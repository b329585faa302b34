"""The first solve of an installation compiles its kernels; of two long ones, a process beside this one compiles the second.

Numba compiles one function at a time in a process, and keeps the result in files that all processes share. Where there is
nothing to compile, or something goes wrong beside, nothing changes but the time.
"""

import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numba
from numba.core.dispatcher import Dispatcher

_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from {__name__} import _serve; _serve()"
)


@contextmanager
def beside(kernel: Callable, arguments: Callable[[], Sequence]) -> Iterator[None]:
    """While the block compiles and runs something else, compile `kernel` for arguments of these types; then wait for it."""
    if not _worth_it(kernel):
        yield
        return
    order = pickle.dumps((kernel.__module__, kernel.__name__, tuple(map(numba.typeof, arguments()))))
    process = None
    with suppress(OSError):  # it could not start, or ended at once
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        process.stdin.write(order)  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    try:
        yield
        if process:
            process.wait()
    finally:
        if process:
            process.kill()
            process.wait()


def _worth_it(kernel: Callable) -> bool:
    """It is compiled (nobody has switched that off), has never been, and there is a core to do it."""
    if not isinstance(kernel, Dispatcher) or kernel.signatures or numba.get_num_threads() == 1:
        return False
    if not Path(sys.executable or "").stem.startswith("python"):  # a program with Python inside
        return False
    code = kernel.py_func.__code__
    kept = Path(kernel.stats.cache_path or "").glob(f"*.{kernel.__name__}-{code.co_firstlineno}.*nbi")
    return kernel.stats.cache_path is not None and not any(kept)


def _serve() -> None:
    """What the process does."""
    module, name, types = pickle.load(sys.stdin.buffer)
    getattr(importlib.import_module(module), name).compile(types)
