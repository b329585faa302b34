"""Kernels that a process beside this one compiles, while this one compiles others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import diffsim as ds
from diffsim import compiling
from diffsim.kernels import multigrid as kernels
from diffsim.multigrid import Multigrid
from diffsim.schemes import SCHEMES
from diffsim.steppers import System, longest_kernel, rehearse

ROOT = Path(__file__).parent.parent
FIRST = """
import sys, numpy as np
import diffsim as ds
from diffsim import compiling
from diffsim.kernels import multigrid as kernels
start, early = compiling._start, []
compiling._start = lambda: early.append(not kernels.survey.signatures) or start()
if len(sys.argv) > 1:
    sys.executable = sys.argv[1]
D = np.where(np.random.default_rng(0).random((24, 20)) < 0.5, 12.0, 3.0)
sides = {side: ds.Dirichlet(0.0) for side in ("x-", "x+", "y-", "y+")}
found = ds.equilibrium(ds.Problem(ds.Grid((24, 20), (1.0, 1.0)), D, source=1.0, boundary=sides))
for kernel in (kernels.box_set_up, kernels.plane_pcg):
    print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
print(found.u.tobytes().hex())
print(*early)
"""


def first_solve(folder, threads, *executable):
    """((hits, misses) of the cache in the set-up and in the solver, the solution) of a process with an empty cache; and
    whether the process beside was started before this one compiled anything."""
    own = {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", FIRST, *executable],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    set_up, solver, solution, early = done.stdout.splitlines()
    return tuple(map(int, set_up.split())), tuple(map(int, solver.split())), solution, early


@pytest.mark.slow
def test_the_first_solve_finds_the_solver_compiled_beside_its_set_up(tmp_path):
    set_up, solver, solution, early = first_solve(tmp_path / "empty", 2)
    assert (set_up, solver, early) == ((0, 1), (1, 0), "True")
    set_up, solver, again, early = first_solve(tmp_path / "empty", 2)  # now full
    assert (set_up, solver, early) == ((1, 0), (1, 0), "")
    # where nothing can be started, or one thread is all that is allowed, this process does all of it
    set_up, solver, without, _ = first_solve(tmp_path / "nobody", 2, "/nowhere/python")
    assert (set_up, solver) == ((0, 1), (0, 1))
    set_up, solver, alone, early = first_solve(tmp_path / "alone", 1)
    assert (set_up, solver, early) == ((0, 1), (0, 1), "")
    assert solution == again == without == alone


def solvers():
    """A solver of every kind: planes in both precisions, plain blocks, and aggregates that follow the ties."""
    rng = np.random.default_rng(3)
    for shape, contrast in (((1, 30, 31), 4.0), ((1, 30, 31), 1e6), ((9, 10, 11), 2.0), ((12, 13, 14), 1e6)):
        faces = [tuple(n + (k == axis) for k, n in enumerate(shape)) for axis in range(3)]
        conductances = [np.where(rng.random(face) < 0.5, 1.0, contrast) for face in faces]
        for axis, g in enumerate(conductances):
            np.moveaxis(g, axis, 0)[[0, -1]] = 0.0
        yield Multigrid(conductances, np.full(shape, 0.1))


def test_what_is_compiled_beside_is_what_the_solver_calls():
    kinds = set()
    for solver in solvers():
        b = np.ones(solver.shape)
        calls = [solver._call(hierarchy, b, b, 1e-8, 100) for hierarchy in (solver._blank, solver._hierarchy)]
        types = [(call[0], *map(numba.typeof, call[2:])) for call in calls]
        assert types[0] == types[1]
        told = json.loads(json.dumps([compiling.kind_of(argument) for argument in calls[0][2:]]))
        assert tuple(numba.typeof(compiling.sample_of(kind)) for kind in told) == types[0][1:]
        kinds.add(types[0])
    assert len(kinds) == 4


def test_nothing_is_started_for_what_is_compiled(monkeypatch):
    next(solvers()).solve(np.ones((1, 30, 31)))
    monkeypatch.setattr(subprocess, "Popen", None)
    with compiling.beside(kernels.plane_pcg) as order:
        order(kernels.plane_pcg, compiling.compile_for, list)


@numba.njit(cache=True)
def fresh(k):
    return k


def test_a_process_that_gets_no_order_is_ended(monkeypatch):
    monkeypatch.setattr(numba, "get_num_threads", lambda: 2)
    next(solvers()).solve(np.ones((1, 30, 31)))
    started = []
    monkeypatch.setattr(compiling, "_start", lambda: started.append(start()) or started[-1])
    start = lambda: subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: E731
    with compiling.beside(fresh, kernels.plane_pcg) as order:  # one of them may be all that is wanted
        assert not started
        order(kernels.plane_pcg, compiling.compile_for, list)
    assert not started
    with compiling.beside(fresh):
        assert started[0].poll() is None
    assert started[0].poll() is not None
    with compiling.beside(kernels.plane_pcg) as order:
        order(fresh, compiling.compile_for, list)  # it had not been foreseen
    assert len(started) == 2
    assert started[1].poll() is not None


def problems(axes):
    """Whatever might give a kernel arguments of other types."""
    shape, rng = (8, 9, 10)[:axes], np.random.default_rng(4)
    grid, D = ds.Grid(shape, (1.0,) * axes), 1 + rng.random(shape)
    held = {f"{axis}{end}": ds.Dirichlet(0.0) for axis in "xyz"[:axes] for end in "-+"}
    moving = {**held, "x-": ds.Dirichlet(lambda t: np.sin(t))}
    yield from (
        ds.Problem(grid, D, boundary=sides) for sides in (held, moving, {"x-": ds.Periodic(), "x+": ds.Periodic()})
    )
    yield from (ds.Problem(grid, D, source=source, boundary=held) for source in (rng.random(shape), lambda t: t))
    yield ds.Problem(grid, D, capacity=1 + rng.random(shape), boundary=held)
    yield ds.Problem(grid, 1.0, source=2.0, boundary=moving)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", ["ftcs", "rkc2", "rk4"])
def test_what_is_rehearsed_beside_is_what_a_run_calls(name, axes):
    rehearse(name, axes)
    for problem in problems(axes):
        kernel = longest_kernel(System(problem, np.zeros(problem.grid.shape)), SCHEMES[name])
        compiled = list(kernel.signatures) if kernel else []
        assert bool(compiled) == bool(kernel)
        run = ds.simulate(problem, 0.0, until=1e-3, scheme=name, dt=1e-4)
        assert run.status == "finished"
        assert (list(kernel.signatures) if kernel else []) == compiled
