"""Seconds per unit of counted work on this machine: predictions of time only, never a reason to choose."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np

from ..boundary import Dirichlet
from ..grid import Grid
from ..operator import Operator, discretize
from ..problem import Problem
from ..schemes import SCHEMES, Scheme
from ..simulate import simulate
from ..steppers import System, stepper_for

_SHAPES = ((12, 12), (96, 96))
_ENOUGH = 0.02  # seconds spent on each timing
_STAGES = 20  # of a step of a scheme that chooses them
_KINDS = {  # what is timed for each kind of step, on a field of D that varies or on a constant box
    "box": ("ftcs", True),
    "euler": ("ftcs", False),
    "stages": ("rk4", False),
    "recurrence": ("rkl2", False),
    "solve": ("backward-euler", False),
    "transform": ("backward-euler", True),
    "exact": ("exact", True),
    "krylov": ("krylov", False),
    "sweep": ("adi", False),
}


def seconds(operator: Operator, scheme: Scheme, steps: int, work: float) -> float:
    """Predicted time of `steps` steps that count `work` in all [s]."""
    constant = operator.uniform is not None and operator.uniform.transformable
    unit = scheme.work() if scheme.stages is not None else 1.0
    if scheme.name in ("exact", "krylov"):
        kind, units = scheme.name, float(steps)
    elif scheme.family == "splitting":
        kind, units = "sweep", float(steps)
    elif not scheme.explicit:
        kind, units = "transform" if constant else "solve", work / SCHEMES["backward-euler"].work()
    elif scheme.name == "ftcs":
        kind, units = "box" if operator.uniform is not None else "euler", work / unit
    else:
        kind, units = "recurrence" if scheme.stages is None else "stages", work
    fixed, per_cell = _cost(kind)
    once, once_per_cell = _cost_of_a_run(operator.uniform is not None)
    size = operator.grid.size
    return once + once_per_cell * size + units * (fixed + per_cell * size)


@cache
def _cost(kind: str) -> tuple[float, float]:
    """(fixed seconds, seconds per cell) of one step, stage or solve; measured once per process."""
    name, constant = _KINDS[kind]
    row = SCHEMES[name]
    return _line([_time_of_stage(row, shape, constant) for shape in _SHAPES])


@cache
def _cost_of_a_run(constant: bool) -> tuple[float, float]:
    """The same for what a run costs besides its steps: discretisation, bounds, frames, the balance."""

    def whole(shape: tuple[int, int]) -> float:
        problem, start = _sample(shape, constant)
        dt = 0.1 / discretize(problem).spectral_bound().value
        return _best(lambda: simulate(problem, start, dt, scheme="ftcs", dt=dt, save="final", progress=False))

    return _line([whole(shape) for shape in _SHAPES])


def _line(measured: list[float]) -> tuple[float, float]:
    """(at no cells, per cell) of the line through what was measured on `_SHAPES`."""
    small, large = (float(np.prod(shape)) for shape in _SHAPES)
    per_cell = max(0.0, (measured[1] - measured[0]) / (large - small))
    return max(0.0, measured[0] - per_cell * small), per_cell


def _sample(shape: tuple[int, int], constant: bool) -> tuple[Problem, np.ndarray]:
    grid = Grid(shape=shape, lengths=(1.0, 1.0))
    x, y = grid.mesh()
    diffusivity = 1.0 if constant else 1.0 + 0.5 * np.sin(5 * x) * np.cos(7 * y)
    problem = Problem(grid, diffusivity=diffusivity, boundary={"x": Dirichlet(0.0)})
    return problem, np.sin(3 * x + 2 * y) * np.ones(shape)


def _best(call: Callable[[], object]) -> float:
    """Least of a few timings in processor time of this thread, so that what else the machine does is not counted.

    The first call, which may compile, is not timed.
    """
    call()
    best, spent = np.inf, 0.0
    while spent < _ENOUGH:
        begin = time.thread_time()
        call()
        took = time.thread_time() - begin
        best, spent = min(best, took), spent + max(took, 1e-5)
    return float(best)


def _time_of_stage(row: Scheme, shape: tuple[int, int], constant: bool) -> float:
    problem, start = _sample(shape, constant)
    system = System(problem, start)
    stepper = stepper_for(system, row)
    u = system.first.enter(start)
    reach, stages = system.first.spectral_bound().value, row.stages or _STAGES
    limit = row.real_limit(None if row.stages else stages) / reach
    dt = 0.5 * limit if np.isfinite(limit) else 1e-2
    stages = row.stages or row.stages_for(dt * reach)
    count = max(1, 50 // stages) if row.explicit else 1
    return _best(lambda: stepper.advance(u.copy(), 0.0, dt, count)) / (count * stages)
