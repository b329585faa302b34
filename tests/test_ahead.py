"""Jobs done ahead: in order, never too many, and what fails or is left fails or ends where it is due."""

import os
import platform
import threading
import time

import numba
import numpy as np
import pytest

from surrogate.ahead import HELD, done_ahead


def square(number):
    """A job for processes, which must find it by name."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


@pytest.mark.parametrize(
    "processes", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_results_come_in_the_order_of_the_numbers(processes):
    with done_ahead(square, range(3, 20), processes) as results:
        assert list(results) == [(k, k * k) for k in range(3, 20)]
    with done_ahead(square, range(0), processes) as results:
        assert list(results) == []


@pytest.mark.slow
def test_processes_join_in():
    with done_ahead(square, range(200), 2) as results:
        assert list(results) == [(k, k * k) for k in range(200)]


def met(task):
    """The first task ends when another process has begun one."""
    number, folder = task
    if number:
        (folder / str(os.getpid())).touch()
        return True
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(path.name != str(os.getpid()) for path in folder.iterdir()):
        time.sleep(1e-3)
    return time.monotonic() < deadline


@pytest.mark.slow
def test_a_process_gets_work_when_it_has_started_though_nothing_is_handed_over_yet(tmp_path):
    with done_ahead(met, [(k, tmp_path) for k in range(4)], 1) as results:
        assert all(result for _, result in results)


def test_no_more_is_begun_than_can_be_held():
    begun = []

    def job(number):
        begun.append(number)
        return number

    with done_ahead(job, range(50)) as results:
        for taken, _ in results:
            assert len(begun) <= taken + HELD
            time.sleep(1e-3)  # the worker is faster
    assert sorted(begun) == list(range(50))


def test_a_failure_is_raised_where_its_result_is_due():
    taken = []
    with pytest.raises(ValueError, match="-1 is negative"), done_ahead(square, [2, 1, -1, 5]) as results:
        taken += results
    with done_ahead(square, [2, 1, -1, 5]) as results:
        taken += [next(results), next(results)]
    assert taken == 2 * [(2, 4), (1, 1)]


def test_leaving_waits_for_what_runs_and_begins_nothing_more():
    running, finish, done = threading.Event(), threading.Event(), []

    def job(number):
        running.set()
        assert finish.wait(10)
        done.append(number)

    with done_ahead(job, range(9)) as results:
        waiter = threading.Thread(target=lambda: next(results), daemon=True)
        waiter.start()
        assert running.wait(10)
        finish.set()
        waiter.join(10)
    assert len(done) <= 1 + HELD


def test_an_interrupt_waits_for_nothing():
    running, finish = threading.Event(), threading.Event()

    def job(number):
        running.set()
        finish.wait(60)
        return number

    def pressed():
        with done_ahead(job, range(3)) as results:
            threading.Thread(target=lambda: next(results), daemon=True).start()
            assert running.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pressed()
    assert not finish.is_set()
    finish.set()


def faults(number):
    """Pages that were fresh for 16 MB of arrays."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _ = [np.ones(1 << 17) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how other libraries keep memory is theirs")
def test_what_a_job_frees_is_kept_for_the_next():
    with done_ahead(faults, range(6)) as results:
        assert [count for _, count in results][-1] < 1000  # of 4096


def share(number):
    """The threads of numba that a job may use."""
    return numba.get_num_threads()


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_thread_has_those_of_numba_alone_and_one_in_company(processes):
    with done_ahead(share, range(4), processes) as results:
        assert {threads for _, threads in results} == {numba.get_num_threads() if processes == 0 else 1}
