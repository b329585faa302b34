"""The first solve of an installation compiles its kernels; of two long ones, a process beside this one compiles the second.

Numba compiles one function at a time in a process, and keeps the result in files that all processes share. Where there is
nothing to compile, or something goes wrong beside, nothing changes but the time.
"""

import gc
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
def beside(*kernels: Callable | None) -> Iterator[Callable[[Callable | None, Callable, Callable[[], Sequence]], None]]:
    """While the block compiles and runs something else, have a process beside compile a kernel; then wait for it.

    The process starts at once where none of `kernels`, of which one will be wanted, was ever compiled. Which one turns
    out inside the block, which has to say so: by calling what it is given with

    kernel
        Nothing is done where it has been compiled before, or is None.
    task
        What compiles it, a function of a module: `compile_for`, or one that takes the kernel through a tiny problem.
    arguments
        Makes the arguments of the task, which JSON must be able to tell.
    """
    process = _start() if all(map(_worth_it, kernels)) else None
    awaited = False

    def order(kernel: Callable | None, task: Callable, arguments: Callable[[], Sequence]) -> None:
        nonlocal process, awaited
        if not _worth_it(kernel):
            return
        process = process or _start()
        if process:
            awaited = True
            with suppress(OSError):  # it has ended
                process.stdin.write(json.dumps([task.__module__, task.__name__, *arguments()]).encode())  # type: ignore[union-attr]
                process.stdin.close()  # type: ignore[union-attr]

    try:
        yield order
        if process and awaited:
            process.wait()
    finally:
        if process:
            process.kill()
            process.communicate()


def _start() -> subprocess.Popen | None:
    """A process that loads numba and waits for an order; None where it can't be had."""
    with suppress(OSError):
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],  # -P: what lies in the current folder is not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    return None


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
    """What the process does. It ends soon, so nothing is gained by collecting garbage; a tenth of the time is."""
    gc.disable()
    numba.njit((numba.int64,))(lambda k: k)  # makes numba load what it loads for the first function
    module, name, *arguments = json.load(sys.stdin)
    getattr(importlib.import_module(module), name)(*arguments)
