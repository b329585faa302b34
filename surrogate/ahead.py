"""Jobs done ahead of whoever waits for them, and handed over in order: by a thread here, by processes beside.

The thread shares what is loaded and compiled, so it starts at once; processes take half a second to start and join
when they are ready. What a job does may depend on its task alone: who does it is a matter of chance.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

_END = object()
HELD = 2  # jobs per worker that are begun or done and not handed over: one in hand, one to go on with


@contextmanager
def done_ahead(job: Callable[[Any], Any], tasks: Iterable, processes: int = 0) -> Iterator[Iterator[tuple[Any, Any]]]:
    """An iterator of (task, ``job(task)``) in the order of `tasks`, which are asked for one by one when they are begun.

    Parameters
    ----------
    job
        Can be pickled where there are processes, as tasks and results can. An exception that it raises is raised where
        its result is due.
    processes
        How many work beside the thread of this process. Each of them all holds `HELD` results at most.

    Notes
    -----
    Leaving the block cancels what was not begun and waits for the rest; after a KeyboardInterrupt it does not wait.
    Processes that have nothing left to do end by themselves, in a tenth of a second.
    """
    beside = [_Processes(processes)] if processes else []  # first: they start while this process loads what it needs
    helpers: list[_Helper] = [_Thread(alone=not processes), *beside]
    patient = True
    try:
        yield _in_order(job, tasks, helpers)
    except KeyboardInterrupt:
        patient = False
        raise
    finally:
        for helper in helpers:
            helper.close(patient)


def _in_order(job: Callable[[Any], Any], tasks: Iterable, helpers: list) -> Iterator[tuple[Any, Any]]:
    left, begun = iter(tasks), deque[tuple[Any, Future]]()
    most = HELD * sum(helper.size for helper in helpers)
    while True:
        while len(begun) < most and any(helper.room for helper in helpers) and (task := next(left, _END)) is not _END:
            begun.append((task, max(helpers, key=lambda helper: helper.room).submit(job, task)))
        if not begun:
            return
        task, future = begun[0]
        wait([future, *(start for helper in helpers for start in helper.starting)], return_when=FIRST_COMPLETED)
        if future.done():
            begun.popleft()
            yield task, future.result()


class _Helper:
    """Someone who does jobs, `size` at once."""

    def __init__(self, size: int):
        self.size = size
        self._given: list[Future] = []

    @property
    def starting(self) -> list[Future]:
        """What is done when another of its workers has started."""
        return []

    @property
    def room(self) -> float:
        """Jobs it would take now, per worker."""
        self._given = [future for future in self._given if not future.done()]
        return max(0.0, HELD - len(self._given) / self.size)

    def submit(self, job: Callable, *arguments) -> Future:
        future = self._start(job, *arguments)
        self._given.append(future)
        return future

    def _start(self, job: Callable, *arguments) -> Future:
        raise NotImplementedError

    def close(self, patient: bool) -> None:
        for future in self._given:
            future.cancel()


class _Thread(_Helper):
    """A thread that a process need not wait for when it ends. Where it is `alone` it has the threads of numba."""

    def __init__(self, alone: bool):
        import numba

        super().__init__(1)
        self._queue: SimpleQueue = SimpleQueue()
        share = numba.get_num_threads() if alone else 1
        self._thread = threading.Thread(target=self._work, args=(share,), daemon=True)
        self._thread.start()

    def _work(self, share: int) -> None:
        import numba

        numba.set_num_threads(share)
        _keep_memory()
        for future, job, arguments in iter(self._queue.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job(*arguments))
                except BaseException as error:
                    future.set_exception(error)

    def _start(self, job: Callable, *arguments) -> Future:
        future: Future = Future()
        self._queue.put((future, job, arguments))
        return future

    def close(self, patient: bool) -> None:
        super().close(patient)
        self._queue.put(None)
        if patient:
            self._thread.join()


class _Processes(_Helper):
    """Processes of their own; they get jobs once one of them has started."""

    def __init__(self, size: int):
        import multiprocessing

        super().__init__(size)
        # spawn: neither numba's threads nor HDF5 survive a fork
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(size, mp_context=context, initializer=_quiet_worker)
        # BLAS' threads look for work for a while when they are made: 0.2 s of a core that another worker could use
        with _environment(OPENBLAS_THREAD_TIMEOUT="4"):
            self._started = [self._pool.submit(_nothing) for _ in range(size)]

    @property
    def starting(self) -> list[Future]:
        return [future for future in self._started if not future.done()]

    @property
    def room(self) -> float:
        return super().room if len(self.starting) < self.size else 0.0

    def _start(self, job: Callable, *arguments) -> Future:
        return self._pool.submit(job, *arguments)

    def close(self, patient: bool) -> None:
        super().close(patient)
        if patient:
            wait(self._given)
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables for the processes that start meanwhile; those that the user has set stay."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _quiet_worker() -> None:
    """The parent alone answers Ctrl-C; one thread each, so that workers do not fight for cores."""
    import numba

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    numba.set_num_threads(1)
    _keep_memory()


def _keep_memory() -> None:
    """Let this process keep the memory that a job frees for the next one: fresh memory costs a page fault every 4 KiB.

    The C library of Linux gives memory back beyond twice the largest block that was ever mapped for an array and freed,
    if that was no larger than 32 MB. This one is never touched. Other libraries do as they please.
    """
    np.empty(31 << 20, dtype=np.uint8)


def _nothing() -> None:
    """The first job of a process: when it is done, the process has started."""
