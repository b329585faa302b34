"""Threads that walk through one compiled function together."""

import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

from diffsim.kernels import team
from diffsim.kernels.team import meet


@numba.njit(nogil=True)
def relay(part, parts, gate, numbers, rounds):
    """In every round each member adds what its neighbour held; returns how many there were."""
    for step in range(rounds):
        source, target = numbers[step % 2], numbers[(step + 1) % 2]
        for k in range(part, numbers.shape[1], parts):
            target[k] = source[k] + source[(k + 1) % numbers.shape[1]] % 7
        meet(gate, parts)
    return parts


def alone(numbers, rounds):
    """What `relay` leaves, without it."""
    for step in range(rounds):
        numbers[(step + 1) % 2] = numbers[step % 2] + np.roll(numbers[step % 2], -1) % 7
    return numbers


def start():
    return np.arange(26, dtype=np.int64).reshape(2, 13)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_members_see_what_the_others_wrote_before_they_met(members):
    numbers = start()
    assert team.together(relay, members, numbers, 300) == members
    assert np.array_equal(numbers, alone(start(), 300))


def test_a_second_team_does_not_wait_for_the_members_of_the_first():
    assert team._one_team.acquire(blocking=False)
    try:
        numbers = start()
        assert team.together(relay, 3, numbers, 20) == 1
    finally:
        team._one_team.release()
    assert np.array_equal(numbers, alone(start(), 20))
    assert team.together(relay, 3, start(), 20) == 3


def test_many_callers_at_once_all_get_their_results():
    results = [start() for _ in range(8)]
    callers = [threading.Thread(target=lambda n=n: [team.together(relay, 2, n, 2) for _ in range(50)]) for n in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert all(np.array_equal(numbers, alone(start(), 100)) for numbers in results)


def test_members_go_home_when_the_caller_never_comes():
    """As after Ctrl-C between the members' start and the caller's own."""

    def kernel(part, parts, gate, numbers, rounds):
        if part == 0:
            raise KeyboardInterrupt
        return relay(part, parts, gate, numbers, rounds)

    team.together(relay, 3, start(), 1)
    with pytest.raises(KeyboardInterrupt):
        team.together(kernel, 3, start(), 5)
    assert team.together(relay, 3, start(), 20) == 3


def test_the_callers_mistake_is_the_callers_exception():
    with pytest.raises(TypeError):
        team.together(relay, 2, start())
    assert team.together(relay, 2, start(), 20) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_makes_a_team_of_its_own():
    program = """
import os, numpy as np, sys
from tests.test_team import alone, relay, start, team
team.together(relay, 2, start(), 3)
child = os.fork()
numbers = start()
members = team.together(relay, 2, numbers, 30)
good = members == 2 and np.array_equal(numbers, alone(start(), 30))
if child == 0:
    os._exit(0 if good else 1)
sys.exit(os.waitpid(child, 0)[1] or not good)
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=120).returncode == 0
