"""The first solve of an installation compiles its kernels; of two long ones, a process beside this one compiles the second.

Numba compiles one function at a time in a process, and keeps the result in files that all processes share. Where there is
nothing to compile, or something goes wrong beside, nothing changes but the time.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.dispatcher import Dispatcher

_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from {__name__} import _serve; _serve()"
)


@contextmanager
def beside(kernel: Callable | None, task: Callable, arguments: Callable[[], Sequence]) -> Iterator[None]:
    """While the block compiles and runs something else, have `kernel` compiled by a process beside; then wait for it.

    Parameters
    ----------
    kernel
        Nothing is done where it has been compiled before, or is None.
    task
        What compiles it, a function of a module: `compile_for`, or one that takes the kernel through a tiny problem.
    arguments
        Makes the arguments of the task, which JSON must be able to tell.
    """
    if not _worth_it(kernel):
        yield
        return
    order = json.dumps([task.__module__, task.__name__, *arguments()])
    process = None
    with suppress(OSError):  # it could not start, or ended at once
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],  # -P: what lies in the current folder is not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        process.stdin.write(order.encode())  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    try:
        yield
        if process:
            process.wait()
    finally:
        if process:
            process.kill()
            process.wait()


def _worth_it(kernel: Callable | None) -> bool:
    """It is compiled (nobody has switched that off), has never been, and there is a core to do it."""
    if not isinstance(kernel, Dispatcher) or kernel.overloads or numba.get_num_threads() == 1:
        return False
    if not Path(sys.executable or "").stem.startswith("python"):  # a program with Python inside
        return False
    code = kernel.py_func.__code__
    kept = Path(kernel.stats.cache_path or "").glob(f"*.{kernel.__name__}-{code.co_firstlineno}.*nbi")
    return kernel.stats.cache_path is not None and not any(kept)


def kind_of(argument: Any) -> Any:
    """What numba looks at: of an array its numbers, axes and whether it can be written; of anything else the type."""
    if isinstance(argument, np.ndarray):
        return [argument.dtype.str, argument.ndim, argument.flags.writeable]
    return type(argument).__name__


def sample_of(kind: Any) -> Any:
    """An argument of that kind."""
    if isinstance(kind, str):
        return {"int": 0, "float": 0.0, "bool": False, "NoneType": None}[kind]
    dtype, axes, writeable = kind
    array = np.zeros((1,) * axes, dtype=dtype)
    array.flags.writeable = writeable
    return array


def compile_for(module: str, name: str, *kinds: Any) -> None:
    """Compile a kernel for arguments of these kinds."""
    getattr(importlib.import_module(module), name).compile(tuple(numba.typeof(sample_of(kind)) for kind in kinds))


def callee(kernel: Callable, arguments: Sequence) -> Any:
    """`kernel` for arguments like these, as another kernel takes it to call it: compiled once, whoever calls."""
    return _Callee(kernel, tuple(map(numba.typeof, arguments))) if isinstance(kernel, Dispatcher) else kernel


class _Callee(types.WrapperAddressProtocol):
    """A compiled function by its address and its signature; a call that does not fit does not compile."""

    def __init__(self, kernel: Dispatcher, kinds: tuple):
        kernel.compile(kinds)
        self._result = kernel.overloads[kinds]

    def __wrapper_address__(self) -> int:
        return self._result.library.get_pointer_to_function(self._result.fndesc.llvm_cfunc_wrapper_name)

    def signature(self) -> Any:
        return self._result.signature


def _serve() -> None:
    """What the process does."""
    module, name, *arguments = json.load(sys.stdin)
    getattr(importlib.import_module(module), name)(*arguments)
