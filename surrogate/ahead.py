"""Numbered jobs done ahead of whoever waits for them, and handed over in order: by a thread here, by processes beside.

The thread shares what is loaded and compiled, so it starts at once; processes take a second to start and join when they
are ready. What a job returns may depend on its number alone: who does it is a matter of chance.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

HELD = 2  # jobs per worker that are begun or done and not handed over: one in hand, one to go on with


@contextmanager
def done_ahead(
    job: Callable[[int], Any], numbers: Sequence[int], processes: int = 0
) -> Iterator[Iterator[tuple[int, Any]]]:
    """An iterator of (number, ``job(number)``) in the order of `numbers`.

    Parameters
    ----------
    job
        Can be pickled where there are processes. An exception that it raises is raised where its result is due.
    processes
        How many work beside the thread of this process. Each of them all holds `HELD` results at most.

    Notes
    -----
    Leaving the block cancels what was not begun and waits for the rest; after a KeyboardInterrupt it does not wait.
    """
    helpers: list[_Helper] = [_Thread(alone=not processes)]
    if processes and len(numbers) > 1:
        helpers.append(_Processes(min(processes, len(numbers) - 1)))
    wait = True
    try:
        yield _in_order(job, numbers, helpers)
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        for helper in helpers:
            helper.close(wait)


def _in_order(job: Callable[[int], Any], numbers: Sequence[int], helpers: list) -> Iterator[tuple[int, Any]]:
    left, begun = deque(numbers), deque[tuple[int, Future]]()
    most = HELD * sum(helper.size for helper in helpers)
    while left or begun:
        while left and len(begun) < most and any(helper.room for helper in helpers):
            number = left.popleft()
            begun.append((number, max(helpers, key=lambda helper: helper.room).submit(job, number)))
        number, future = begun.popleft()
        yield number, future.result()


class _Helper:
    """Someone who does jobs, `size` at once."""

    def __init__(self, size: int):
        self.size = size
        self.ready = True
        self._given: list[Future] = []

    @property
    def room(self) -> float:
        """Jobs it would take now, per worker."""
        self._given = [future for future in self._given if not future.done()]
        return max(0.0, HELD - len(self._given) / self.size) if self.ready else 0.0

    def submit(self, job: Callable, *arguments) -> Future:
        future = self._start(job, *arguments)
        self._given.append(future)
        return future

    def _start(self, job: Callable, *arguments) -> Future:
        raise NotImplementedError

    def close(self, wait: bool) -> None:
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

    def close(self, wait: bool) -> None:
        super().close(wait)
        self._queue.put(None)
        if wait:
            self._thread.join()


class _Processes(_Helper):
    """Processes of their own; they get jobs once one of them has started."""

    def __init__(self, size: int):
        import multiprocessing

        super().__init__(size)
        # spawn: neither numba's threads nor HDF5 survive a fork
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(size, mp_context=context, initializer=_quiet_worker)
        self._started = [self._pool.submit(_nothing) for _ in range(size)]

    @property
    def room(self) -> float:
        self.ready = any(future.done() for future in self._started)
        return super().room

    def _start(self, job: Callable, *arguments) -> Future:
        return self._pool.submit(job, *arguments)

    def close(self, wait: bool) -> None:
        super().close(wait)
        self._pool.shutdown(wait=wait, cancel_futures=True)


def _quiet_worker() -> None:
    """The parent alone answers Ctrl-C; one thread each, so that workers do not fight for cores."""
    import numba

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    numba.set_num_threads(1)


def _nothing() -> None:
    """The first job of a process: when it is done, the process has started."""
