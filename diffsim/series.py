"""Conductances of half cells in series: faces between cells, and walls.

Everything here acts on arrays ``(..., *grid.shape)``: one problem, or a stack of problems on one grid. The operations
are elementwise, so a problem gets the same bits alone and in a stack.
"""

import numpy as np

from .grid import Grid
from .lines import aligned


def half_cells(grid: Grid, axis: int, d: np.ndarray) -> np.ndarray:
    """Resistance of half a cell along `axis` per area, (..., *shape); inf where D = 0, or so small that nothing passes."""
    with np.errstate(divide="ignore", over="ignore"):
        return 0.5 * grid._along(axis, grid.widths[axis]) / d


def conductances(
    grid: Grid,
    axis: int,
    half: np.ndarray,
    periodic: bool,
    inner: np.ndarray | None = None,
    contacts: list[tuple[int, float | np.ndarray]] | None = None,
) -> np.ndarray:
    """Conductances of the faces across `axis`, (..., n + 1 along it, ...).

    Parameters
    ----------
    half
        What `half_cells` returns.
    periodic
        Whether the two ends are one face; otherwise the links of both ends are 0.
    inner
        D at the inner faces, for coefficients that are no cell's own; None: the two half cells in series.
    contacts
        (face, resistance per area) of what lies between two cells.
    """
    n, along = grid.shape[axis], axis - grid.ndim
    area = grid.face_areas(axis)
    links = aligned([size + (a == half.ndim + along) for a, size in enumerate(half.shape)])
    faces = _cut(links, along, 1, -1)
    if inner is not None:
        gap = grid._along(axis, np.diff(grid.centers[axis]))
        faces[...] = _inner(area, along) * inner / gap
    else:
        np.add(_cut(half, along, None, -1), _cut(half, along, 1, None), out=faces)
        for face, resistance in contacts or ():
            across = _cut(links, along, face, face + 1)
            across += np.expand_dims(resistance, axis) if np.ndim(resistance) else resistance
        np.divide(_inner(area, along), faces, out=faces)
    seam: float | np.ndarray = 0.0
    if periodic and n > 1:
        seam = _cut(area, along, 0, 1) / (_cut(half, along, 0, 1) + _cut(half, along, -1, None))
    _cut(links, along, 0, 1)[...] = seam
    _cut(links, along, -1, None)[...] = seam
    return links


def to_wall(grid: Grid, axis: int, end: str, d: float | np.ndarray) -> np.ndarray:
    """Conductances of the half cells between the wall at the `end` ("-" or "+") of an axis and the cells behind it.

    `d`: a number, or of the cells, (..., *shape); the result has length 1 along the axis.
    """
    place = 0 if end == "-" else -1
    if np.ndim(d):
        d = np.take(d, [place], axis=axis - grid.ndim)
    with np.errstate(divide="ignore", over="ignore"):
        return np.take(grid.face_areas(axis), [place], axis=axis) / (0.5 * grid.widths[axis][place] / d)


def to_outside(h: float | np.ndarray, area: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Conductance from a cell's centre to the value outside: a film h and a half cell of conductance `half`, in series."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(half > 0, 1 / (1 / (np.asarray(h) * area) + 1 / half), 0.0)  # h = inf: half; h = 0: 0


def _cut(x: np.ndarray, axis: int, start: int | None, stop: int | None) -> np.ndarray:
    """A slice along an axis counted from the end."""
    return x[(..., slice(start, stop), *(slice(None),) * (-axis - 1))]


def _inner(area: np.ndarray, axis: int) -> np.ndarray:
    """Areas of the inner faces; those that are equal along the axis as they are."""
    return area if area.shape[axis] == 1 else _cut(area, axis, 1, -1)
