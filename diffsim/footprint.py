"""How much memory a run holds at its peak, counted before anything of the grid's size is made.

What is counted are arrays of one number per cell, as the code holds them at its fullest: frames (the state lives in the
last of them), coefficients, and what the method works in. `tests/test_footprint.py` measures what runs really take.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .operator import discretize
from .problem import OfGradient, OfState, OfTime, Problem
from .schemes import Scheme
from .steppers.explicit import constant_box

# Of each method: (arrays on equal steps, arrays where steps follow an error estimate), besides frames and coefficients.
# Where linear systems are solved, by transforms; the hierarchies of other boxes are counted apart.
_WORK = {
    "ftcs": (1, 5),  # the second array of a step; of a step and two halves, their states and the difference
    "rkl1": (3, 6),  # rate of the start, spare stage, result
    "rkl2": (3, 7),  # the defect at the end needs a rate and its terms
    "rkc2": (3, 7),
    "rock2": (8, 8),  # the closing stages are formed one from the other
    "backward-euler": (7, 9),
    "crank-nicolson": (8, 10),
    "tr-bdf2": (11, 12),
    "sdirk3": (10, 11),
    "bdf2": (11, 13),
    "adi": (9, 11),
    "exact": (8, 8),
    "krylov": (30, 30),  # a basis of some twenty vectors
}
_HIERARCHY = {1: 4, 2: 12, 3: 7}  # by dimension: one multigrid hierarchy and the vectors of its iteration
_HIERARCHIES = {"bdf2": (2, 4), "krylov": (1, 1)}  # how many are held, where not (1, 2)
_NOISE = 4  # amplitude, calm part, draw and sum
_PATTERN = 3  # of forcing that moves as a field: now, without what is steady, and the table made of it
_NUMBERS_PER_WALL = 5  # indices, area, two conductances, places
_LONG_ROW = 64  # columns from which on the ends of rows are kept apart
_CELLS_AT_ONCE = 1 << 20  # looked at when walls are counted
_BYTES_PER_THREAD = 1 << 20  # rings of time levels


def run_bytes(
    problem: Problem,
    scheme: Scheme,
    frames: int,
    *,
    adaptive: bool = False,
    stop: Any = None,
    wild: bool = False,
    noise: bool = False,
) -> int:
    """Bytes that a run takes at its peak beside the problem itself and the start that was given.

    Parameters
    ----------
    frames
        Number of frames that are returned.
    adaptive
        Whether steps follow an error estimate.
    stop, wild, noise
        Stop rule of the run; whether it is watched for blowing up; whether it is shaken.
    """
    grid = problem.grid
    arrays = frames + (1 if callable(stop) else 0) + (1 if wild else 0)
    ends = 0
    steady = problem.steady_coefficients and problem.reaction is None
    if not steady:
        arrays += _moving(problem, scheme, adaptive)
    elif _takes_box(problem, scheme, noise):
        arrays += _WORK["ftcs"][adaptive] + (1 if _is_supplied(problem) else 0)
        if stop is not None and not callable(stop):
            arrays += _graph(problem) + 1  # the residual is looked at
    else:
        arrays += _graph(problem) + _work(problem, scheme, adaptive) + _drive(problem)
        arrays += (_NOISE if noise else 0) + (1 if stop is not None and not callable(stop) else 0)
        if scheme.explicit or np.ndim(problem.capacity) or not problem.all_free:
            arrays += 1  # mass, or its inverse
        ends = _ends(problem, scheme)
    masks = 0 if problem.all_free else grid.size
    return 8 * (arrays * grid.size + ends) + masks + 8 * _NUMBERS_PER_WALL * _walls(problem) + _rings()


def count_frames(save: Any) -> int:
    """How many frames `save` asks for at most; what makes no sense is refused later, in words."""
    if isinstance(save, int | float):
        return int(max(1, save)) if math.isfinite(save) else 1
    return 1 if isinstance(save, str) else max(1, np.size(save))


def _takes_box(problem: Problem, scheme: Scheme, noise: bool) -> bool:
    return scheme.name == "ftcs" and not noise and constant_box(discretize(problem)) is not None


def _is_supplied(problem: Problem) -> bool:
    return bool(np.any(problem.source.steady) or (np.any(problem.loss) and np.any(problem.ambient.steady)))


def _graph(problem: Problem) -> int:
    """Conductances per axis (a line has two more padding it), walls and losses, steady forcing."""
    return problem.grid.ndim + 2 + (2 if problem.grid.ndim == 1 else 0)


def _work(problem: Problem, scheme: Scheme, adaptive: bool) -> int:
    if scheme.family == "runge-kutta" and scheme.stages != 1:
        stages, embedded = scheme.stages or 0, scheme.estimate == "embedded"
        extra = 0 if not adaptive else 1 if embedded else 3
        return stages + 2 + extra  # rates, a stage, the result; the error, or two half steps and a difference
    arrays = _WORK[scheme.name][adaptive]
    uniform = discretize(problem).uniform
    transformed = uniform is not None and uniform.transformable
    if not scheme.explicit and scheme.family != "splitting" and not transformed:
        arrays += _HIERARCHIES.get(scheme.name, (1, 2))[adaptive] * _HIERARCHY[problem.grid.ndim]
    return arrays


def _drive(problem: Problem) -> int:
    """Arrays of a forcing that moves: one per number that moves, or the field itself where fields do."""
    moving = [data for data in _data(problem) if not data.constant]
    return len(moving) if all(data.scalar for data in moving) else _PATTERN


def _ends(problem: Problem, scheme: Scheme) -> int:
    """Numbers at the ends of rows that forward Euler keeps apart: loss, inverse mass and forcing of eight cells each."""
    columns = problem.grid.shape[-1]
    if scheme.name != "ftcs" or columns < _LONG_ROW:
        return 0
    return 2 * 8 * (3 + _drive(problem)) * (problem.grid.size // columns)


def _data(problem: Problem) -> Iterator[Any]:
    for terms in problem.wall_terms.values():
        for _, _, (_, value, flux) in terms:
            yield from (value, flux)
    yield problem.source
    if np.any(problem.loss):
        yield problem.ambient


def _moving(problem: Problem, scheme: Scheme, adaptive: bool) -> int:
    """Where D moves with t or u, or there is a reaction: the operator of the start and that of the present stage."""
    graph, ndim = _graph(problem), problem.grid.ndim
    if isinstance(problem.diffusivity, OfState):
        arrays = 2 * graph + 7
    elif isinstance(problem.diffusivity, OfGradient):
        arrays = 2 * graph + 8 + 2 * ndim  # slopes along every axis
    elif isinstance(problem.diffusivity, OfTime) or problem.reaction is None:
        arrays = graph + 3
    else:
        arrays = graph + 5
    if scheme.family == "runge-kutta":
        arrays += (scheme.stages or 1) - 1
    else:
        arrays += 1 if scheme.explicit else 3 + _HIERARCHY[ndim]
    return arrays + (4 if adaptive else 0)


def _walls(problem: Problem) -> int:
    """Faces to the outside: of the sides, and between free cells and voids or held cells."""
    grid = problem.grid
    count = sum(math.prod(grid.side_shape(side)) for side in problem.wall_terms if side != "void")
    masks = [problem.active] if problem.active is not None else []
    masks += [problem.fixed[0]] if problem.fixed is not None else []
    for mask in masks:
        for axis in range(grid.ndim):
            layers = np.moveaxis(mask, axis, 0)
            last, many = len(layers) - 1, max(1, _CELLS_AT_ONCE * len(layers) // grid.size)
            for k in range(0, last, many):
                stop = min(k + many, last)
                count += int(np.count_nonzero(layers[k:stop] != layers[k + 1 : stop + 1]))
    return count


def _rings() -> int:
    import numba

    return numba.get_num_threads() * _BYTES_PER_THREAD
