"""Seconds per unit of counted work on this machine: predictions of time only, never a reason to choose."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from ..grid import Grid
from ..operator import Operator
from ..problem import Problem
from ..schemes import SCHEMES, Scheme
from ..steppers import System, stepper_for

_SHAPES = ((12, 12), (96, 96))
_KINDS = {  # what is timed for each kind of step, on a field of D that varies or on a constant box
    "box": ("ftcs", True),
    "euler": ("ftcs", False),
    "stages": ("rk4", False),
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
        kind, units = "stages", work
    fixed, per_cell = _cost(kind)
    return units * (fixed + per_cell * operator.grid.size)


@cache
def _cost(kind: str) -> tuple[float, float]:
    """(fixed seconds, seconds per cell) of one step, stage or solve; measured once per process."""
    name, constant = _KINDS[kind]
    row = SCHEMES[name]
    measured = [_time_of_step(row, shape, constant) / (row.stages or 1) for shape in _SHAPES]
    small, large = (float(np.prod(shape)) for shape in _SHAPES)
    per_cell = max(0.0, (measured[1] - measured[0]) / (large - small))
    return max(0.0, measured[0] - per_cell * small), per_cell


def _time_of_step(row: Scheme, shape: tuple[int, int], constant: bool) -> float:
    """Best of a few timings of one step, in processor time of this thread: what else the machine does is not counted.

    The first call, which compiles, is not timed.
    """
    grid = Grid(shape=shape, lengths=(1.0, 1.0))
    x, y = grid.mesh()
    diffusivity = 1.0 if constant else 1.0 + 0.5 * np.sin(5 * x) * np.cos(7 * y)
    from ..boundary import Dirichlet

    problem = Problem(grid, diffusivity=diffusivity, boundary={"x": Dirichlet(0.0)})
    start = np.sin(3 * x + 2 * y) * np.ones(shape)
    system = System(problem, start)
    stepper = stepper_for(system, row)
    u = system.first.enter(start)
    limit = row.real_limit() / system.first.spectral_bound().value
    dt = 0.5 * limit if np.isfinite(limit) else 1e-2
    count = 50 if row.explicit else 1
    stepper.advance(u.copy(), 0.0, dt, count)
    best, spent = np.inf, 0.0
    while spent < 0.02:
        begin = time.thread_time()
        stepper.advance(u.copy(), 0.0, dt, count)
        took = time.thread_time() - begin
        best, spent = min(best, took / count), spent + took
    return float(best)
