"""Cross terms of a symmetric diffusivity tensor in 2-D.

The face conductances carry D_xx and D_yy; what is left of the energy is ``2 D_xy u_x u_y``, evaluated at the
vertices, so that K stays symmetric. At the sides of the box the vertices have no cells outside, and the side
decides what is missing:

* periodic: the cells of the other end;
* a value T: the slope along the wall is that of T, and carries the flux ``D_xy dT/ds`` through the wall;
* a flux q: the slope across follows from ``D_xy u_x + D_yy u_y = q`` (outward y), so the half row of cells at
the wall
  conducts along it with ``D_xx - D_xy^2 / D_yy``, and is pushed by ``D_xy q / D_yy``.

At Robin and radiating sides and patches nothing is added: there the order falls to 1 where D_xy is not 0.
"""

from __future__ import annotations

import numpy as np

from .data import Data
from .forcing import Term
from .grid import Grid
from .problem import Tensor


def vertex_values(grid: Grid, d: Tensor, periodic: tuple[bool, bool]) -> np.ndarray:
    """D_xy at the vertices, (nx + 1, ny + 1); 0 on sides, except the seam of a periodic axis, which is kept
    at index 0."""
    xx, xy, yy = (np.broadcast_to(entry, grid.shape) for entry in (d.xx, d.xy, d.yy))
    corners = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1))
    at = lambda c: np.stack(_around(c))  # noqa: E731
    # never more than what the harmonic face terms around the vertex can carry: keeps K semidefinite at jumps
    limit = np.sqrt(np.min(at(xx), axis=0) * np.min(at(yy), axis=0))
    corners[:-1, :-1] = np.clip(np.mean(at(xy), axis=0), -limit, limit)
    if not periodic[0] or grid.shape[0] == 1:
        corners[0] = 0.0
    if not periodic[1] or grid.shape[1] == 1:
        corners[:, 0] = 0.0
    return corners


def _around(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells around every vertex but the last ones: lower left, lower right, upper left, upper right;
    wrapped."""
    return np.roll(cells, (1, 1), (0, 1)), np.roll(cells, 1, 1), np.roll(cells, 1, 0), cells


def product(cross: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The cross terms' part of K u for a 2-D field: gradient of ``sum_v D_xy,v u_x u_y hx hy``."""
    a, b, c, d = _around(u)
    k = 0.25 * cross[:-1, :-1]
    ux, uy = k * ((b - a) + (d - c)), k * ((c - a) + (d - b))
    out = ux + uy
    out -= np.roll(ux + uy, (-1, -1), (0, 1))
    out += np.roll(uy - ux, -1, 1)
    out += np.roll(ux - uy, -1, 0)
    return out


def matrix(cross: np.ndarray, index: np.ndarray):
    """The same as a scipy CSR matrix; `index` numbers the cells, (nx, ny)."""
    from scipy.sparse import coo_array

    corner = _around(index)
    dx, dy = np.array([-1, 1, -1, 1]), np.array([-1, -1, 1, 1])
    k = 0.25 * cross[:-1, :-1]
    rows, cols, values = [], [], []
    for i in range(4):
        for j in range(4):
            rows.append(corner[i].ravel())
            cols.append(corner[j].ravel())
            values.append((k * (dx[i] * dy[j] + dy[i] * dx[j])).ravel())
    size = index.size
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
    return coo_array(entries, shape=(size, size)).tocsr()


def loosened(links: np.ndarray, grid: Grid, d: Tensor, axis: int, boundary) -> np.ndarray:
    """Face conductances `links` across `axis`, with the half rows at flux sides that run along it
    loosened."""
    other = 1 - axis
    along, xy, across = _rows(grid, d, axis)
    free = along - np.divide(xy**2, across, out=np.zeros_like(xy), where=across > 0)
    gap = grid.widths[axis] / 2
    links = np.moveaxis(links.copy(), axis, 0)
    for end, row in (("-", 0), ("+", -1)):
        if boundary[f"{grid.axes[other]}{end}"].kind != "flux":
            continue
        with np.errstate(divide="ignore", over="ignore"):
            resistance = gap / np.maximum(free[:, row], 0.0)
        loose = grid.widths[other][row] / (resistance[:-1] + resistance[1:])
        links[1:-1, row] = 0.5 * (links[1:-1, row] + loose)
        if links[0].any():  # periodic along the wall
            seam = 0.5 * (links[0, row] + grid.widths[other][row] / (resistance[0] + resistance[-1]))
            links[0, row] = links[-1, row] = seam
    return np.ascontiguousarray(np.moveaxis(links, 0, axis))


def push_terms(grid: Grid, d: Tensor, boundary, periodic: tuple[bool, bool]) -> list[Term]:
    """Forcing terms of fluxes q through sides: the flow ``D_xy q / D_yy`` along the half row of cells at the
    wall."""
    terms = []
    index = np.arange(grid.size).reshape(grid.shape)
    for axis in range(2):
        other, n = 1 - axis, grid.shape[axis]
        _, xy, across = _rows(grid, d, axis)
        slant = np.divide(xy, across, out=np.zeros_like(xy), where=across > 0)
        cells = np.moveaxis(index, axis, 0)
        for end, row, sign in (("-", 0, 1.0), ("+", -1, -1.0)):
            side = f"{grid.axes[other]}{end}"
            if boundary[side].kind != "flux":
                continue
            _, _, flux = boundary[side].terms(side, grid.side_shape(side))
            if flux.constant and not np.any(flux.steady):
                continue
            lower = np.arange(n) if periodic[axis] and n > 1 else np.arange(n - 1)
            upper = (lower + 1) % n
            weight = sign * 0.25 * grid.widths[other][row] * 0.5 * (slant[lower, row] + slant[upper, row])
            for place in (lower, upper):  # the flux at the face is the mean of those beside it
                array_places = None if flux.scalar else place
                terms.append(Term(cells[lower, row], -weight, flux, array_places))
                terms.append(Term(cells[upper, row], weight, flux, array_places))
    return terms


def wall_flux(grid: Grid, d: Tensor, side: str, value: Data, flux: Data, periodic: tuple[bool, bool]) -> Data:
    """The flux ``D_xy dT/ds`` into the domain that a value varying along `side` drives, as data over the
    side."""
    if value.scalar:
        return flux
    axis = grid.axes.index(side[0])
    other = 1 - axis
    row = 0 if side.endswith("-") else -1
    xy = (-1.0 if row == 0 else 1.0) * np.take(np.broadcast_to(d.xy, grid.shape), row, axis=axis)
    centers, length = grid.centers[other], grid.lengths[other]

    def slope(t: float) -> np.ndarray:
        at = np.asarray(value(t), float)
        if at.size == 1:
            return np.zeros_like(at)
        if periodic[other]:
            x = np.concatenate([[centers[-1] - length], centers, [centers[0] + length]])
            steps = np.diff(np.concatenate([at[-1:], at, at[:1]])) / np.diff(x)
        else:
            inner = np.diff(at) / np.diff(centers)
            steps = np.concatenate([inner[:1], inner, inner[-1:]])
        return xy * 0.5 * (steps[:-1] + steps[1:])

    if value.constant:
        return Data(flux.name, flux.shape, steady=slope(0.0), scalar=False)
    return Data(flux.name, flux.shape, signal=slope, scalar=False)


def _rows(grid: Grid, d: Tensor, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """D along `axis`, D_xy and D across it, each with `axis` first."""
    along, across = (d.xx, d.yy) if axis == 0 else (d.yy, d.xx)
    return tuple(np.moveaxis(np.broadcast_to(x, grid.shape), axis, 0) for x in (along, d.xy, across))  # type: ignore[return-value]
