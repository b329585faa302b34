"""Multigrid hierarchies whose aggregates follow the strong ties of a graph, where blocks of cells would mix phases.

Blocks of 2 x 2 x 2 cells join what a jump of the coefficient keeps apart: two inclusions that share a block count as
one on every coarser level, and each such pair costs conjugate gradients an iteration. Here a block is split where its
ties are weak, so coarse levels are graphs without a stencil. They are kept as lists; the finest level stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .kernels import graphs as kernels
from .kernels import multigrid as passes

STRONG = kernels.STRONG


@dataclass
class _Level:
    """One level while the hierarchy is built: what `kernels.look` takes, and w."""

    faces: tuple  # conductances; empty below the finest level
    graph: tuple  # (ends, near, ties); empty on the finest level
    coords: np.ndarray  # (n, 3): block of each node
    loss: np.ndarray  # (n,): w
    longest: int  # the most ties of a node


def share_of_weak_ties(conductances: Sequence[np.ndarray], halved: Sequence[bool]) -> float:
    """Which part of the faces inside 2 x 2 x 2 cells is weak beside others of its cells."""
    every, weak = kernels.weak_ties(*conductances, np.array(halved))
    return weak / every if every else 0.0


def layout(
    conductances: Sequence[np.ndarray], diagonal: np.ndarray, scale: float, precision: type, enough: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(table, arena, links) of the hierarchy of ``scale * K``; the arena holds ties and w of all levels but the finest.

    Levels follow until one has at most `enough` nodes; nodes without ties need no coarser one. What the
    columns mean: `kernels.multigrid`.
    """
    shape = diagonal.shape
    coords = np.indices(shape, dtype=np.int32).reshape(3, -1).T.copy()
    nothing = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0))
    level = _Level(tuple(conductances), nothing, coords, diagonal.reshape(-1), kernels.SIDES)
    most = 2 ** sum(n > 1 for n in shape)
    floats: list[np.ndarray | int] = []  # parts of the arena, or how many numbers to leave free
    lists: list[np.ndarray] = [np.empty(0, np.int32)]
    lines: list[np.ndarray] = []
    ends = {"arena": 0, "links": 0}

    def keep(part: np.ndarray) -> int:
        lists.append(part)
        ends["links"] += part.size
        return ends["links"] - part.size

    def store(part: np.ndarray | int) -> int:
        floats.append(part)
        size = part if isinstance(part, int) else part.size
        ends["arena"] += size
        return ends["arena"] - size

    while True:
        line = np.zeros(passes.COLUMNS, dtype=np.int64)
        n = level.loss.size
        if not lines:
            line[:3] = shape
            for axis, g in enumerate(conductances):
                line[passes.G0 + axis] = store(g.size)
            line[passes.W] = store(n)
        else:
            line[:3] = n, 1, 1
            line[passes.ENDS], line[passes.NEAR] = keep(level.graph[0]), keep(level.graph[1])
            line[passes.TIES], line[passes.W] = store(scale * level.graph[2]), store(scale * level.loss)
        for column in (passes.DINV, passes.B, passes.X, passes.Y):
            line[column] = store(n)
        lines.append(line)
        below = _coarsened(level, most) if n > enough else None
        if below is None:
            break
        level, groups, order = below
        line[passes.GROUPS], line[passes.ORDER] = keep(groups), keep(order)
    arena: np.ndarray = np.zeros(ends["arena"], dtype=precision)
    at = 0
    for part in floats:
        if isinstance(part, int):
            at += part
        else:
            arena[at : at + part.size] = part
            at += part.size
    return np.array(lines), arena, np.concatenate(lists)


def _coarsened(level: _Level, most: int) -> tuple[_Level, np.ndarray, np.ndarray] | None:
    """The next level, and the nodes of its aggregates (`kernels.members`); None where nothing can be joined any more."""
    n, given = level.loss.size, (level.faces, level.graph, level.coords)
    labels, seeds = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
    one_block = not level.coords.any()
    count = kernels.aggregate(*given, most, level.longest, one_block, labels, seeds)
    if count == n and one_block:
        return None
    groups = np.empty(count + 1, dtype=np.int32)
    order = np.empty(n, dtype=np.int32)
    kernels.members(labels, groups, order)
    further = np.empty((n, kernels.SIDES), dtype=np.float32)
    crossing = kernels.distances(*given, labels, level.longest, further)
    ends, loss, coords = np.empty(count + 1, np.int32), np.empty(count), np.empty((count, 3), np.int32)
    near, ties = np.empty(crossing, np.int32), np.empty(crossing)
    lists = (level.loss, labels, seeds, groups, order, further, level.longest, ends, near, ties, loss, coords)
    longest = kernels.join(*given, *lists)
    graph = (ends, near[: ends[-1]].copy(), ties[: ends[-1]].copy())
    return _Level((np.empty((0, 0, 0)),) * 3, graph, coords, loss, max(longest, 1)), groups, order[: groups[-1]].copy()
