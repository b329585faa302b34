"""Operators of many problems, assembled together where these differ in numbers alone.

What a data set or a sweep solves is one grid with many coefficients. Array by array, Python costs more than arithmetic
there, so such problems are stacked; each gets the bits that `discretize` alone gives it, because every operation is
elementwise and comes in the same order.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from . import series
from .forcing import Wall
from .lines import stacked
from .operator import Operator, discretize
from .problem import Problem

CELLS = 1 << 18  # of a stack at most
LARGEST = 1 << 15  # cells of a problem that is worth a place in one: Python is the smaller part of larger ones


def discretize_together(problems: Sequence[Problem]) -> list[Operator]:
    """``[discretize(p) for p in problems]``; those that are plain and share a grid are assembled in stacks."""
    operators = [discretize(problem) for problem in problems]
    alike: dict[tuple, list[Operator]] = {}
    for operator in operators:
        if operator.grid.size <= LARGEST and is_plain(operator.problem):
            alike.setdefault((operator.grid.identity, operator.periodic), []).append(operator)
    for group in alike.values():
        most = CELLS // group[0].grid.size
        for start in range(0, len(group), most):
            if len(stack := group[start : start + most]) > 1:
                _assemble(stack)
    return operators


def is_plain(problem: Problem) -> bool:
    """D is an array, the data are steady, and the sides are single numbers; no voids, held cells, contacts or losses."""
    if not isinstance(problem.diffusivity, np.ndarray) or problem.reaction is not None or problem.contacts:
        return False
    lossless = isinstance(problem.loss, float) and problem.loss == 0.0
    return lossless and problem.all_free and problem.plain_sides and problem.source.constant


def _column(numbers: Iterable[float]) -> np.ndarray:
    """One number per problem, to multiply the rows of a stack."""
    return np.array(list(numbers))[:, None]


def _assemble(stack: list[Operator]) -> None:
    """Conductances, walls, diagonal and forcing of plain problems on one grid."""
    first, count = stack[0], len(stack)
    grid, lead = first.grid, first.lead
    d = stacked([operator.problem.diffusivity for operator in stack])
    diagonal, base = np.zeros((count, *grid.shape)), np.zeros((count, *grid.shape))
    nothing = [np.zeros(first._face_shape(axis)) for axis in range(lead)]
    joined, links_of, walls_of = np.ones(count, dtype=bool), [], []
    cubes = grid.uniform and len(set(grid.spacing)) == 1  # half cells are the same along every axis
    for axis in range(grid.ndim):
        if axis == 0 or not cubes:
            half = series.half_cells(grid, axis, d)
        links = series.conductances(grid, axis, half, first.periodic[lead + axis])
        inner = np.moveaxis(links, 1 + axis, 1)[:, 1:-1]
        joined &= inner.min(axis=tuple(range(1, inner.ndim)), initial=1.0) > 0
        links_of.append(links.reshape(count, *first._face_shape(lead + axis)))
        if not first.periodic[lead + axis]:
            for end, at in (("-", 0), ("+", -1)):
                side = f"{grid.axes[axis]}{end}"
                layer: tuple = (..., at, *(slice(None),) * (grid.ndim - axis - 1))  # of every problem
                walls_of.append((side, layer, series.to_wall(grid, axis, end, d).reshape(count, -1)))
    walls: list[list[Wall]] = [[] for _ in stack]
    for side, layer, side_half in walls_of:
        cells, area, over = grid.side_cells(side), grid.side_areas(side), (count, *grid.side_shape(side))
        terms = [operator.problem.wall_terms[side][0][2] for operator in stack]
        g = series.to_outside(_column(h for h, _, _ in terms), area, side_half)
        diagonal[layer] += g.reshape(over)
        base[layer] += (g * _column(value.steady for _, value, _ in terms)).reshape(over)
        base[layer] += (area * _column(flux.steady for _, _, flux in terms)).reshape(over)
        places = np.arange(cells.size)
        for k, (_, value, flux) in enumerate(terms):
            walls[k].append(Wall(side, cells, area, side_half[k], g[k], places, value, flux))
    held = diagonal.max(axis=tuple(range(1, diagonal.ndim))) > 0
    for k, operator in enumerate(stack):
        base[k] += grid.volume_factors * operator.problem.source.steady
        conductances = (*nothing, *(links[k] for links in links_of))
        operator.adopt(
            conductances, walls[k], diagonal[k].reshape(operator.shape), base[k], bool(joined[k]), bool(held[k])
        )
