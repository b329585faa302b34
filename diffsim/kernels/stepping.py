"""Explicit time stepping of  m du/dt = -K u + F  on padded 3-D arrays: the compiled loops.

Every array over cells has the padded shape ``(n0, n1, n2)``: C-contiguous float64, last axis fast, leading axes
of length 1 in 1-D and 2-D. ``g0, g1, g2`` are face conductances with ``n_a + 1`` faces along axis ``a``
(``g[0] = g[n] = 0``, or ``g[0] == g[n]`` joining the two ends of a periodic axis). Cells that are not free hold
0, have no conductance and ``inv_mass = 0``, and so stay 0. Kernels check nothing.

Three promises shape the code, and all of them are tested bit by bit:

* mirror symmetry: the two neighbours along an axis are always added to each other first, and the flag
  "contract" is left out, because a fused multiply-add treats its two products differently;
* the same bits with any number of threads: sums run over fixed pieces, which are then added in order;
* the same bits however steps are blocked: one expression per cell, wherever it is evaluated.

Inside, arrays are flat and a row is the offset of its first cell. Offsets inside the innermost loops are
unsigned: a signed index costs a test for wraparound at every access, and slices cost more than a short row.
2-D problems are folded from ``(1, n1, n2)`` to ``(n1, 1, n2)``, so the first axis is always the one that is
streamed through, and the middle one is the one that may be absent ("planar").
"""

import math
from types import FunctionType

import numba
import numpy as np
from numba.extending import intrinsic

_SERIAL = {"cache": True, "error_model": "numpy", "nogil": True}
# A call that is not inlined passes every array by its seven fields, which costs what a short row costs.
_INLINE = {**_SERIAL, "forceinline": True}

# One thread does fewer cells than this alone, because waking a second one costs more than the work.
_PARALLEL_CELLS = 32_768
# Cells in one band of rows, the unit of work and of summation where every step is one pass over memory.
_BAND_CELLS = 16_384
_COLUMNS = 256
# Planes that a time level advances per visit, and so how many it keeps: those, and one on each side.
_VISIT = 4
_KEEP = _VISIT + 2


def _serial_and_parallel(function):
    """Compile a loop over ``numba.prange`` both ways, each on its first call: ``(serial, parallel)``.

    Parallel code takes several times as long to compile, and small problems never need it. The twin has a name
    of its own because that names its file in the compile cache.
    """
    twin = FunctionType(function.__code__, function.__globals__, f"{function.__name__}_parallel")
    twin.__qualname__ = twin.__name__
    return numba.njit(**_SERIAL)(function), numba.njit(parallel=True, **_SERIAL)(twin)


# --- sums in fixed order ---------------------------------------------------------------------------------------------


@intrinsic
def _bare(typing, array):
    """The same array without its owner, so that passing it on counts no references: callers keep it alive."""

    def strip(context, builder, signature, arguments):
        value = context.make_array(array)(context, builder, arguments[0])
        value.meminfo = value.meminfo.type(None)
        return value._getvalue()

    return array(array), strip


if numba.config.DISABLE_JIT:

    def _bare(array):
        """Nothing is counted in plain Python."""
        return array


@numba.njit(**_SERIAL)
def _ordered_sum(values):
    """Sum from the first to the last."""
    total = 0.0
    for k in range(values.size):
        total += values[k]
    return total


@numba.njit(**_SERIAL)
def dot(a, b):
    """``sum_i a_i b_i`` over C-contiguous arrays of one shape, in an order that depends on the size alone."""
    x, y = a.reshape(a.size), b.reshape(b.size)
    columns = np.zeros(_COLUMNS)
    for start in range(0, x.size, _COLUMNS):
        at = np.uint64(start)
        for k in range(np.uint64(min(_COLUMNS, x.size - start))):
            columns[k] += x[at + k] * y[at + k]
    return _ordered_sum(columns)


@numba.njit(**_SERIAL)
def weighted_norm(weights, a):
    """``sqrt(sum_i weights_i a_i**2)`` over C-contiguous arrays of one shape, in fixed order."""
    w, x = weights.reshape(weights.size), a.reshape(a.size)
    columns = np.zeros(_COLUMNS)
    for start in range(0, x.size, _COLUMNS):
        at = np.uint64(start)
        for k in range(np.uint64(min(_COLUMNS, x.size - start))):
            columns[k] += w[at + k] * (x[at + k] * x[at + k])
    return np.sqrt(_ordered_sum(columns))


@numba.njit(**_SERIAL)
def max_abs(u):
    """``max |u_i|`` of a C-contiguous array; infinity or NaN if any entry is: both compare above all numbers.

    The bits of non-negative floats are ordered like the floats, and a maximum of integers vectorises.
    """
    bits = u.reshape(u.size).view(np.int64)
    magnitude = np.int64(0x7FFFFFFFFFFFFFFF)
    largest = np.zeros(1, np.int64)
    top = np.int64(0)
    for k in range(bits.size):
        top = max(top, bits[k] & magnitude)
    largest[0] = top
    return largest.view(np.float64)[0]


@numba.njit(**_SERIAL)
def is_finite(u):
    """Whether a C-contiguous array holds neither NaN nor infinity, in one pass without branches."""
    return np.isfinite(max_abs(u))


# --- rows: the stencils ----------------------------------------------------------------------------------------------


@numba.njit(**_INLINE)
def _copy_row(source, at, n, out, to):
    for k in range(n):
        out[to + k] = source[at + k]


@numba.njit(**_SERIAL)
def _add_row(source, at, n, out, to):
    for k in range(n):
        out[to + k] += source[at + k]


@numba.njit(**_SERIAL)
def _fill_row(value, n, out, to):
    for k in range(n):
        out[to + k] = value


@numba.njit(**_SERIAL)
def _pair(g_low, low, g_high, high, centre):
    """What flows into a cell through its two faces along one axis."""
    return g_low * (low - centre) + g_high * (high - centre)


@numba.njit(**_INLINE)
def _along_cells(g, at_g, u, at, west, east, n, flow, to):
    """``flow`` = what enters n cells in a row through the faces between them."""
    one = np.uint64(1)
    for k in range(n):
        flow[to + k] = _pair(g[at_g + k], u[west + k], g[at_g + k + one], u[east + k], u[at + k])


@numba.njit(**_INLINE)
def _across_cells(g, g_low, g_high, u, low, at, high, n, flow, to):
    """Add to ``flow`` what enters n cells from the rows on both sides."""
    for k in range(n):
        flow[to + k] += _pair(g[g_low + k], u[low + k], g[g_high + k], u[high + k], u[at + k])


@numba.njit(**_INLINE)
def _enter_cells(base, w, inv_mass, cell, u, at, n, flow, to, tally, column):
    """Flow becomes rate, ``(flow + F - w u) / m``; ``tally`` collects ``F - w u``, what crosses the border."""
    for k in range(n):
        e = base[cell + k] - w[cell + k] * u[at + k]
        tally[column + k] += e
        flow[to + k] = inv_mass[cell + k] * (flow[to + k] + e)


@numba.njit(**_INLINE)
def _pattern_cells(scale, patterns, offset, inv_mass, cell, n, rate, to, tally, column):
    """Add a scaled pattern to the forcing of n cells whose rate is known."""
    for k in range(n):
        e = scale * patterns[offset + cell + k]
        tally[column + k] += e
        rate[to + k] += inv_mass[cell + k] * e


@numba.njit(**_INLINE)
def _flow_row(shape, wraps, stream, middle, along, i, j, first, last, u, at, below, above, south, north, flow):
    """What enters the cells of row ``(i, j)`` from their neighbours, columns [first, last); `flow` by column.

    `at`, `below`, ... are the places of column 0 of the row and of its neighbours in `u`. Where there is no
    neighbour, the face conducts nothing and any place that holds a number will do: the cell's own.
    """
    _, n1, n2 = shape
    row = i * n1 + j
    n, to = np.uint64(last - first), np.uint64(first)
    k = first
    while k < last:
        # The first and the last column have a neighbour elsewhere and go alone; all between them go at once.
        some = 1 if k == 0 or k == n2 - 1 else min(last, n2 - 1) - k
        west = at + (k - 1 if k > 0 else n2 - 1 if wraps else k)
        east = at + (k + 1 if k + 1 < n2 else 0 if wraps else k)
        _along_cells(
            along, np.uint64(row * (n2 + 1) + k), u, np.uint64(at + k), np.uint64(west), np.uint64(east),
            np.uint64(some), flow, np.uint64(k),
        )  # fmt: skip
        k += some
    centre = np.uint64(at + first)
    if n1 > 1:
        face = (row + i) * n2 + first
        _across_cells(
            middle, np.uint64(face), np.uint64(face + n2), u, np.uint64(south + first), centre,
            np.uint64(north + first), n, flow, to,
        )  # fmt: skip
    face = row * n2 + first
    _across_cells(
        stream, np.uint64(face), np.uint64(face + n1 * n2), u, np.uint64(below + first), centre,
        np.uint64(above + first), n, flow, to,
    )  # fmt: skip


@numba.njit(**_INLINE)
def _rate_row(
    shape, wraps, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, i, j, first, last,
    u, at, below, above, south, north, rate, tally, column,
):  # fmt: skip
    """``rate = (F - K u) / m`` on the columns [first, last) of row ``(i, j)``; places as in `_flow_row`."""
    _flow_row(shape, wraps, stream, middle, along, i, j, first, last, u, at, below, above, south, north, rate)
    cell, n = np.uint64((i * shape[1] + j) * shape[2] + first), np.uint64(last - first)
    to, tally_to = np.uint64(first), np.uint64(column + first)
    _enter_cells(base, w, inv_mass, cell, u, np.uint64(at + first), n, rate, to, tally, tally_to)
    for p in range(amplitudes.shape[1]):
        offset = np.uint64(p * inv_mass.size)
        _pattern_cells(amplitudes[step, p], patterns, offset, inv_mass, cell, n, rate, to, tally, tally_to)


@numba.njit(**_INLINE)
def _convex_cells(planar, centre, r0, r1, r2, u, at, below, above, south, north, west, east, n, out, to):
    """``out = centre u + sum_a r_a (u_low + u_high)`` on n cells in a row; the rest are places in `u` and `out`."""
    if planar:
        for k in range(n):
            flat = r2 * (u[west + k] + u[east + k])
            out[to + k] = centre * u[at + k] + (flat + r0 * (u[below + k] + u[above + k]))
    else:
        for k in range(n):
            flat = r2 * (u[west + k] + u[east + k]) + r1 * (u[south + k] + u[north + k])
            out[to + k] = centre * u[at + k] + (flat + r0 * (u[below + k] + u[above + k]))


@numba.njit(**_INLINE)
def _convex_row(planar, centre, r, walls, step, wraps, n2, first, last, u, at, down, up, back, forth, out, to):
    """`_convex_cells` on the columns [first, last) of one row, the ends at walls apart.

    `at` and `to` are the places of column 0 in `u` and `out`; the neighbouring rows lie `down`, `up`, `back` and
    `forth` from it.
    """
    start, stop = (first, last) if wraps else (max(first, 1), min(last, n2 - 1))
    if start < stop:
        here = at + start
        _convex_cells(
            planar, centre, r[0], r[1], r[2], u, np.uint64(here), np.uint64(here + down), np.uint64(here + up),
            np.uint64(here + back), np.uint64(here + forth), np.uint64(here - 1), np.uint64(here + 1),
            np.uint64(stop - start), out, np.uint64(to + start),
        )  # fmt: skip
    for end in range(0 if wraps else min(n2, 2)):
        k = end * (n2 - 1)
        if first <= k < last:
            here, factor = at + k, 0.0
            if k > 0:
                west = u[here - 1]
            else:
                west, factor = walls[step, 2, 0, 0], walls[step, 2, 0, 1]
            if k + 1 < n2:
                east = u[here + 1]
            else:
                east, factor = walls[step, 2, 1, 0], factor + walls[step, 2, 1, 1]
            flat = r[2] * (west + east)
            if not planar:
                flat += r[1] * (u[here + back] + u[here + forth])
            out[to + k] = (centre + r[2] * factor) * u[here] + (flat + r[0] * (u[here + down] + u[here + up]))


@numba.njit(**_SERIAL)
def _through_wall(r, walls, step, axis, side, u, at, n):
    """What enters n edge cells in a row from the ghost cells ``const + factor * edge`` behind their wall."""
    const, slope = walls[step, axis, side, 0], walls[step, axis, side, 1] - 1.0
    total = 0.0
    for k in range(at, at + n):
        total += const + slope * u[k]
    return r[axis] * total


# --- folding, blocks and bands ---------------------------------------------------------------------------------------


def _fold(shape):
    """``(1, n1, n2)`` becomes ``(n1, 1, n2)``: the axis to stream through comes first."""
    n0, n1, n2 = shape
    return (n1, 1, n2) if n0 == 1 else (n0, n1, n2)


def _flat_graph(g0, g1, g2):
    """Flat conductances of the folded axes: streamed, middle (unused where planar), along the rows."""
    stream = g1 if g0.shape[0] == 2 else g0
    return stream.ravel(), g1.ravel(), g2.ravel()


def _fields(*arrays):
    """Flat views."""
    return [array.reshape(-1) for array in arrays]


@numba.njit(**_SERIAL)
def _span(start, stop, reach, n, wraps):
    """The interval ``[start - reach, stop + reach)``, cut at the walls of ``[0, n)`` unless the axis wraps."""
    if wraps:
        return start - reach, stop + reach
    return max(start - reach, 0), min(stop + reach, n)


@numba.njit(**_SERIAL)
def _box(shape, box, number):
    """``(i0, i1, j0, j1, k0, k1)`` of one of the boxes that cover the grid."""
    n_j, n_k = -(-shape[1] // box[1]), -(-shape[2] // box[2])
    i, j, k = number // (n_j * n_k) * box[0], number // n_k % n_j * box[1], number % n_k * box[2]
    return i, min(i + box[0], shape[0]), j, min(j + box[1], shape[1]), k, min(k + box[2], shape[2])


def _n_boxes(shape, box):
    return math.prod(-(-n // size) for n, size in zip(shape, box, strict=True))


def _passes(n_steps, depth):
    """Numbers of steps of at most `depth` that add up to `n_steps`: an even number of them, or one."""
    passes = -(-n_steps // depth)
    if passes > 1:  # then the state ends where it began, without a copy
        passes += passes % 2
    bounds = np.arange(passes + 1) * n_steps // max(passes, 1)
    return np.diff(bounds)


def _workers(cells):
    """How many threads pay."""
    return numba.get_num_threads() if cells >= _PARALLEL_CELLS else 1


# --- constant coefficients on a uniform box --------------------------------------------------------------------------


@numba.njit(**_SERIAL)
def _take_row(source, row, n2, first, last, add, out, to):
    """Copy, or add, the columns [first, last) of a row of a field, around its ends, to the row at `to`."""
    k = first
    while k < last:
        start = k % n2
        n = min(last - k, n2 - start)
        if add:
            _add_row(source, np.uint64(row + start), np.uint64(n), out, np.uint64(to + k))
        else:
            _copy_row(source, np.uint64(row + start), np.uint64(n), out, np.uint64(to + k))
        k += n


@numba.njit(**_SERIAL)
def _uniform_block(shape, planar, r, walls, periodic, source, decay, depth, u, bounds, ring, inflow, out):
    """Advance one box of cells by `depth` steps, from `u` to `out`, without leaving the cache.

    Planes stream through a ring that holds a few planes of every time level, a visit to each level at a time;
    level l runs one plane behind level l - 1. What is computed reaches ``depth - l`` cells beyond the box at level
    l, so boxes do not wait for each other. Ghost values of the streamed and the middle axis lie in the ring beside
    their edge cells.
    """
    source, u, ring, out = _bare(source), _bare(u), _bare(ring), _bare(out)
    n0, n1, n2 = shape
    i0, i1, j0, j1, k0, k1 = bounds
    halo = 0 if planar else depth
    width = k1 - k0 + 2 * depth
    plane = (j1 - j0 + 2 * halo) * width
    origin = (halo - j0) * width + depth - k0  # of row 0, column 0 within a plane
    inner = 1.0 - decay - 2.0 * ((r[0] + r[1]) + r[2])
    open0, open1, open2 = periodic[0], planar or periodic[1], periodic[2]
    inflow[:] = 0.0
    for front in range(i0 - depth, i1 + depth, _VISIT):
        for level in range(depth + 1):
            reach = depth - level
            for i in range(front - level, front - level + _VISIT):
                if i < i0 - reach or i >= i1 + reach or not (open0 or -1 <= i <= n0):
                    continue
                j_first, j_last = (j0, j1) if planar else _span(j0, j1, reach, n1, open1)
                first, last = _span(k0, k1, reach, n2, open2)
                n = np.uint64(last - first)
                slot = i % _KEEP
                here = (_KEEP * level + slot) * plane + origin
                # row s of `walls` is what step s sees on its way from level s to level s + 1
                step = min(level, walls.shape[0] - 1)
                if not open0 and (i == -1 or i == n0):
                    if reach > 0:
                        for j in range(j_first, j_last):
                            _fill_row(walls[step, 0, int(i == n0), 0], n, ring, np.uint64(here + j * width + first))
                    continue

                if level == 0:
                    for j in range(j_first, j_last):
                        _take_row(u, ((i % n0) * n1 + j % n1) * n2, n2, first, last, level > 0, ring, here + j * width)
                else:
                    past = min(level - 1, walls.shape[0] - 1)
                    before = (_KEEP * (level - 1) + slot) * plane + origin
                    down = (_KEEP - 1 if slot == 0 else -1) * plane
                    up = (1 - _KEEP if slot == _KEEP - 1 else 1) * plane
                    plane_centre = inner
                    if not open0 and (i == 0 or i == n0 - 1):
                        low, high = walls[past, 0, 0, 1], walls[past, 0, 1, 1]
                        plane_centre += r[0] * ((low if i == 0 else 0.0) + (high if i == n0 - 1 else 0.0))
                    for j in range(j_first, j_last):
                        at, centre = before + j * width, plane_centre
                        if not open1 and (j == 0 or j == n1 - 1):
                            low, high = walls[past, 1, 0, 1], walls[past, 1, 1, 1]
                            centre += r[1] * ((low if j == 0 else 0.0) + (high if j == n1 - 1 else 0.0))
                        if reach > 0:
                            to = here + j * width
                            _convex_row(
                                planar, centre, r, walls, past, open2, n2, first, last,
                                ring, at, down, up, -width, width, ring, to,
                            )  # fmt: skip
                            if source.size > 0:
                                row = ((i % n0) * n1 + j % n1) * n2
                                _take_row(source, row, n2, first, last, level > 0, ring, to)
                        else:
                            to = (i * n1 + j) * n2
                            _convex_row(
                                planar, centre, r, walls, past, open2, n2, first, last,
                                ring, at, down, up, -width, width, out, to,
                            )  # fmt: skip
                            if source.size > 0:
                                _take_row(source, to, n2, first, last, level > 0, out, to)
                if reach == 0:
                    continue

                if not open1 and j_first == 0:
                    _fill_row(walls[step, 1, 0, 0], n, ring, np.uint64(here - width + first))
                if not open1 and j_last == n1:
                    _fill_row(walls[step, 1, 1, 0], n, ring, np.uint64(here + n1 * width + first))
                if i0 <= i < i1:
                    entered = 0.0
                    for j in range(j0, j1):
                        row = here + j * width
                        if not open2 and k0 == 0:
                            entered += _through_wall(r, walls, step, 2, 0, ring, row, 1)
                        if not open2 and k1 == n2:
                            entered += _through_wall(r, walls, step, 2, 1, ring, row + n2 - 1, 1)
                        if not open1 and j == 0:
                            entered += _through_wall(r, walls, step, 1, 0, ring, row + k0, k1 - k0)
                        if not open1 and j == n1 - 1:
                            entered += _through_wall(r, walls, step, 1, 1, ring, row + k0, k1 - k0)
                        if not open0 and i == 0:
                            entered += _through_wall(r, walls, step, 0, 0, ring, row + k0, k1 - k0)
                        if not open0 and i == n0 - 1:
                            entered += _through_wall(r, walls, step, 0, 1, ring, row + k0, k1 - k0)
                    inflow[level] += entered


@_serial_and_parallel
def _uniform_passes(
    n_workers, passes, shape, planar, box, r, walls, periodic, source, supplied, decay, content, u, rings, inflow, out
):  # fmt: skip
    """Take all blocks ``passes[p]`` steps ahead, to and fro between `u` and `out`, for every p; returns the gain."""
    gain, done = 0.0, 0
    for steps in passes:
        now = walls[done : done + steps] if walls.shape[0] > 1 else walls
        for worker in numba.prange(n_workers):
            for number in range(np.int64(worker), inflow.shape[0], n_workers):
                _uniform_block(
                    shape, planar, r, now, periodic, source, decay, steps, u, _box(shape, box, number),
                    rings[worker], inflow[number], out,
                )  # fmt: skip
        for step in range(steps):
            # what the content has become follows from what has crossed the border: no pass over the field
            gain += _ordered_sum(inflow[:, step]) + supplied - decay * (content + gain)
        u, out = out, u
        done += steps
    return gain


def _half_or_all(shape):
    """Planes of a block of a small plane: half of them where a second thread pays."""
    return -(-shape[0] // 2) if math.prod(shape) >= _PARALLEL_CELLS else shape[0]


def _uniform_blocking(shape, planar):
    """Steps per pass and the box of a block: what fits the second-level cache and recomputes little at the rims."""
    if not planar:
        return 4, (64, 32, 256)
    return (16, (256, 1, 1024)) if shape[0] >= 512 else (8, (_half_or_all(shape), 1, 1024))


def advance_uniform(r, walls, periodic, source, decay, n_steps, u, scratch):
    """Forward Euler with constant coefficients on a uniform box, in convex form.

        u' = (1 - decay - 2 sum_a r_a) u + sum_a r_a (u_west + u_east) + source

    Behind a wall stands a ghost value ``const + factor * edge`` (value: ``2 T - edge``; flux: ``edge + q h / D``;
    Robin in between). The factor is folded into the centre coefficient of the edge cell, so that no cell makes
    new extrema as long as all coefficients are positive.

    Many steps are made per pass over memory (see `_uniform_block`); the bits are those of plain stepping.

    Parameters
    ----------
    r
        ``dt D_a / (c h_a**2)`` per padded axis, shape (3,), 0 on axes that are only padding. When they, the
        `factor` and `decay` are multiples of 2**-53, the weights of a cell sum to exactly 1.
    walls
        ``walls[step, axis, side] = (const, factor)``, shape ``(n, 3, 2, 2)`` with ``n`` 1 or `n_steps`. Ignored on
        periodic axes; ``(0, 1)`` is an insulated side.
    periodic
        bool per padded axis, shape (3,).
    source
        Addition per step, ``dt f / c + ...``, shape of `u`; or of shape (0, 0, 0) where there is none.
    decay
        ``dt b / c``: the fraction of a cell lost to the surroundings per step.
    n_steps
        Number of steps.
    u, scratch
        The state, overwritten by the state after all steps, and a second array of its shape.

    Returns
    -------
    float
        ``sum_i`` of what entered over all steps through walls and source, minus the decay, in units of `u` (times
        the mass of a cell: content).
    """
    shape = u.shape
    if shape[0] == 1 and r[0] == 0.0:
        shape, order = _fold(shape), [1, 0, 2]
        r, periodic, walls = r[order], periodic[order], np.ascontiguousarray(walls[:, order])
    planar = bool(shape[1] == 1 and r[1] == 0.0)
    depth, box = _uniform_blocking(shape, planar)
    box = tuple(min(n, size) for n, size in zip(shape, box, strict=True))
    workers = _workers(u.size)
    halo = 0 if planar else 2 * depth
    rings = np.empty((workers, _KEEP * depth * (box[1] + halo) * (box[2] + 2 * depth)))
    inflow = np.empty((_n_boxes(shape, box), depth))
    content, supplied = float(u.sum()), float(source.sum())
    state, other, source = _fields(u, scratch, source)
    passes = _passes(n_steps, depth)
    gain = _uniform_passes[workers > 1](
        workers, passes, shape, planar, box, r, walls, periodic, source, supplied, float(decay), content,
        state, rings, inflow, other,
    )  # fmt: skip
    if len(passes) == 1:
        u[...] = scratch
    return gain


# --- any coefficients: blocked forward Euler -------------------------------------------------------------------------


@numba.njit(**_INLINE)
def _step_cells(u, at, dt, rate, column, n, out, to):
    for k in range(n):
        out[to + k] = u[at + k] + dt * rate[column + k]


@numba.njit(**_SERIAL)
def _euler_block(
    shape, wraps, stream, middle, along, w, inv_mass, dt, base, patterns, amplitudes, u, bounds, ring, rate, tally, out
):  # fmt: skip
    """`_uniform_block` for any coefficients. Rows of a periodic last axis are whole, so that their ends meet.

    Returns the sum of ``F - w u`` over the cells of the box and all steps.
    """
    stream, middle, along = _bare(stream), _bare(middle), _bare(along)
    w, inv_mass, base, patterns = _bare(w), _bare(inv_mass), _bare(base), _bare(patterns)
    u, ring, rate, tally, out = _bare(u), _bare(ring), _bare(rate), _bare(tally), _bare(out)
    n0, n1, n2 = shape
    i0, i1, j0, j1, k0, k1 = bounds
    depth = amplitudes.shape[0]
    halo = 0 if n1 == 1 else depth
    width = k1 - k0 + 2 * depth
    plane = (j1 - j0 + 2 * halo) * width
    origin = (halo - j0) * width + depth - k0
    tally[:] = 0.0
    for front in range(i0 - depth, i1 + depth):
        for level in range(depth + 1):
            i, reach = front - level, depth - level
            if i < i0 - reach or i >= i1 + reach or not (wraps[0] or 0 <= i < n0):
                continue
            j_first, j_last = (0, 1) if n1 == 1 else _span(j0, j1, reach, n1, wraps[1])
            first, last = _span(k0, k1, reach, n2, np.bool_(False))
            n = np.uint64(last - first)
            here = (3 * level + i % 3) * plane + origin
            before = 3 * (level - 1) * plane + origin
            for j in range(j_first, j_last):
                row = ((i % n0) * n1 + j % n1) * n2
                if level == 0:
                    _copy_row(u, np.uint64(row + first), n, ring, np.uint64(here + j * width + first))
                    continue
                at = before + (i % 3) * plane + j * width
                below, above, south, north = at, at, at, at
                if wraps[0] or i > 0:
                    below = before + ((i - 1) % 3) * plane + j * width
                if wraps[0] or i < n0 - 1:
                    above = before + ((i + 1) % 3) * plane + j * width
                if n1 > 1 and (wraps[1] or j > 0):
                    south = at - width
                if n1 > 1 and (wraps[1] or j < n1 - 1):
                    north = at + width
                # Cells beyond the box belong to others; what crosses the border there goes to a second tally.
                own = 0 if i0 <= i < i1 and j0 <= j < j1 else n2
                _rate_row(
                    shape, wraps[2], stream, middle, along, w, inv_mass, base, patterns, amplitudes,
                    level - 1, i % n0, j % n1, first, last, ring, at, below, above, south, north, rate, tally, own,
                )  # fmt: skip
                start, column = np.uint64(at + first), np.uint64(first)
                if reach > 0:
                    to = np.uint64(here + j * width + first)
                    _step_cells(ring, start, dt, rate, column, n, ring, to)
                else:
                    _step_cells(ring, start, dt, rate, column, n, out, np.uint64(row + first))
    return _ordered_sum(tally[k0:k1])


@_serial_and_parallel
def _euler_passes(
    n_workers, passes, shape, box, wraps, stream, middle, along, w, inv_mass, dt, base, patterns, amplitudes, u,
    rings, rates, tallies,
    entered, out,
):  # fmt: skip
    """Take all blocks ``passes[p]`` steps ahead, to and fro between `u` and `out`, for every p; returns the gain."""
    gain, done = 0.0, 0
    for steps in passes:
        now = amplitudes[done : done + steps]
        for worker in numba.prange(n_workers):
            for number in range(np.int64(worker), entered.size, n_workers):
                entered[number] = _euler_block(
                    shape, wraps, stream, middle, along, w, inv_mass, dt, base, patterns, now, u, _box(shape, box, number),
                    rings[worker], rates[worker], tallies[worker], out,
                )  # fmt: skip
        gain += dt * _ordered_sum(entered)
        u, out = out, u
        done += steps
    return gain


def _euler_blocking(shape, planar):
    """Steps per pass and the box of a block, as in `_uniform_blocking`; the coefficients want their place too."""
    if not planar:
        return 2, (64, 16, 256)
    return 8, (256 if shape[0] >= 512 else _half_or_all(shape), 1, 512)


def advance_explicit_euler(g0, g1, g2, w, inv_mass, dt, base, patterns, amplitudes, u, scratch):
    """Forward Euler with any coefficients, ``u += dt (F - K u) / m``, as many steps as `amplitudes` has rows.

    Several steps are made per pass over memory (see `_euler_block`); the bits are those of plain stepping.

    Parameters
    ----------
    g0, g1, g2, w, inv_mass
        Face conductances, loss `w` and ``1 / m`` (0 where a cell is not free).
    dt
        The step [s].
    base, patterns, amplitudes
        Step `n` has the forcing ``F = base + sum_p amplitudes[n, p] patterns[p]``; shapes ``(n0, n1, n2)``,
        ``(p, n0, n1, n2)``, ``(n_steps, p)``, where `p` may be 0.
    u, scratch
        The state, overwritten by the state after all steps, and a second array of its shape.

    Returns
    -------
    float
        ``sum over steps of dt sum_i (F_i - w_i u_i)``: what entered through walls, sources and losses.
    """
    shape = _fold(u.shape)
    wraps = (bool(np.any(g0[0])), bool(np.any(g1[:, 0])), bool(np.any(g2[:, :, 0])))
    if u.shape[0] == 1:
        wraps = (wraps[1], False, wraps[2])
    depth, box = _euler_blocking(shape, shape[1] == 1)
    if wraps[2]:
        box = (*box[:2], shape[2])
    box = tuple(min(n, size) for n, size in zip(shape, box, strict=True))
    workers = _workers(u.size)
    halo = 0 if shape[1] == 1 else 2 * depth
    rings = np.empty((workers, 3 * depth * (box[1] + halo) * (box[2] + 2 * depth)))
    rates, tallies = np.empty((workers, shape[2])), np.empty((workers, 2 * shape[2]))
    entered = np.empty(_n_boxes(shape, box))
    state, other, *fixed = _fields(u, scratch, w, inv_mass, base, patterns)
    w, inv_mass, base, patterns = fixed
    stream, middle, along = _flat_graph(g0, g1, g2)
    passes = _passes(len(amplitudes), depth)
    gain = _euler_passes[workers > 1](
        workers, passes, shape, box, wraps, stream, middle, along, w, inv_mass, float(dt), base, patterns, amplitudes,
        state, rings, rates, tallies, entered, other,
    )  # fmt: skip
    if len(passes) == 1:
        u[...] = scratch
    return gain


# --- any coefficients: one pass per stage ----------------------------------------------------------------------------


@numba.njit(**_SERIAL)
def _n_bands(shape):
    """In how many bands rows are handed out: a function of the shape alone, as sums are taken band by band."""
    rows = shape[0] * shape[1]
    if rows * shape[2] < _PARALLEL_CELLS:
        return 1
    return -(-rows // max(1, _BAND_CELLS // shape[2]))


@numba.njit(**_SERIAL)
def _band(shape, number):
    """First and last row of a band."""
    rows, bands = shape[0] * shape[1], _n_bands(shape)
    return number * rows // bands, (number + 1) * rows // bands


@numba.njit(**_SERIAL)
def _neighbours(shape, row):
    """Places of the rows below, above, south and north of a row of a field, around its ends."""
    n0, n1, n2 = shape
    i, j = row // n1, row % n1
    below, above = ((i - 1) % n0 * n1 + j) * n2, ((i + 1) % n0 * n1 + j) * n2
    return below, above, (i * n1 + (j - 1) % n1) * n2, (i * n1 + (j + 1) % n1) * n2


@numba.njit(**_SERIAL)
def _whole_row_rate(
    shape, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, u, rate, tally
):  # fmt: skip
    """`_rate_row` of a full row of a field."""
    below, above, south, north = _neighbours(shape, row)
    _rate_row(
        shape, np.bool_(True), stream, middle, along, w, inv_mass, base, patterns, amplitudes, step,
        row // shape[1], row % shape[1], np.int64(0), shape[2],
        u, row * shape[2], below, above, south, north, rate, tally, np.int64(0),
    )  # fmt: skip


@numba.njit(**_SERIAL)
def _stiffness_band(shape, stream, middle, along, w, u, number, out):
    n1, n2 = shape[1], shape[2]
    flow = np.empty(n2)
    stream, middle, along = _bare(stream), _bare(middle), _bare(along)
    w, u, out = _bare(w), _bare(u), _bare(out)
    start, stop = _band(shape, number)
    for row in range(start, stop):
        below, above, south, north = _neighbours(shape, row)
        _flow_row(
            shape, np.bool_(True), stream, middle, along, row // n1, row % n1, np.int64(0), n2, u, row * n2,
            below, above, south, north, flow,
        )  # fmt: skip
        at = np.uint64(row * n2)
        for k in range(np.uint64(n2)):
            out[at + k] = w[at + k] * u[at + k] - flow[k]


@_serial_and_parallel
def _apply_stiffness(shape, stream, middle, along, w, u, out):
    for number in numba.prange(_n_bands(shape)):
        _stiffness_band(shape, stream, middle, along, w, u, np.int64(number), out)


def apply_stiffness(g0, g1, g2, w, u, out):
    """``out = K u``: ``(K u)_i = sum_f g_f (u_i - u_j) + w_i u_i``. Padded arrays; `out` is not `u`."""
    _apply_stiffness[_workers(u.size) > 1](_fold(u.shape), *_flat_graph(g0, g1, g2), *_fields(w, u, out))


@numba.njit(**_SERIAL)
def _first_stage_band(
    shape, stream, middle, along, w, inv_mass, dt, base, patterns, amplitudes, step, u, number, rate0, out, spare
):  # fmt: skip
    """``rate0 = L(u)``, ``out = u + dt rate0``, ``spare = u`` on one band; returns the sum of ``F - w u``."""
    n2 = shape[2]
    rate, tally = np.empty(n2), np.zeros(n2)
    stream, middle, along, w, inv_mass = _bare(stream), _bare(middle), _bare(along), _bare(w), _bare(inv_mass)
    base, patterns, u, rate0, out, spare = (
        _bare(base),
        _bare(patterns),
        _bare(u),
        _bare(rate0),
        _bare(out),
        _bare(spare),
    )
    start, stop = _band(shape, number)
    for row in range(start, stop):
        _whole_row_rate(
            shape, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, u, rate, tally
        )  # fmt: skip
        at = np.uint64(row * n2)
        for k in range(np.uint64(n2)):
            rate0[at + k] = rate[k]
            out[at + k] = u[at + k] + dt * rate[k]
            spare[at + k] = u[at + k]
    return _ordered_sum(tally)


@numba.njit(**_SERIAL)
def _stabilized_band(
    shape, stream, middle, along, w, inv_mass, dt, coefficients, base, patterns, amplitudes, step, u, rate0, last,
    number, out,
):  # fmt: skip
    """One later stage on one band. `out` holds the stage before `last`, which is needed in its own cell only."""
    mu, nu, mu_t, gamma_t = coefficients
    keep = 1.0 - mu - nu
    n2 = shape[2]
    rate, tally = np.empty(n2), np.zeros(n2)
    stream, middle, along, w, inv_mass = _bare(stream), _bare(middle), _bare(along), _bare(w), _bare(inv_mass)
    base, patterns, u, rate0, last, out = _bare(base), _bare(patterns), _bare(u), _bare(rate0), _bare(last), _bare(out)
    start, stop = _band(shape, number)
    for row in range(start, stop):
        _whole_row_rate(
            shape, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, last, rate, tally
        )  # fmt: skip
        at = np.uint64(row * n2)
        for k in range(np.uint64(n2)):
            m = at + k
            change = dt * (mu_t * rate[k] + gamma_t * rate0[m])
            out[m] = (mu * last[m] + nu * out[m]) + (keep * u[m] + change)
    return _ordered_sum(tally)


@_serial_and_parallel
def _stabilized_step(
    shape, stream, middle, along, w, inv_mass, dt, mu, nu, mu_t, gamma_t, base, patterns, amplitudes, u, rate0, spare, out
):  # fmt: skip
    n_stages, bands = amplitudes.shape[0], _n_bands(shape)
    entered = np.zeros(bands)
    # Y_j takes the place of Y_{j-2}; the last of them has to end in `out`.
    last, target = (spare, out) if n_stages % 2 == 0 else (out, spare)
    first_step = mu_t[1] * dt
    for number in numba.prange(bands):
        entered[number] = _first_stage_band(
            shape, stream, middle, along, w, inv_mass, first_step, base, patterns, amplitudes, np.int64(0), u, np.int64(number),
            rate0, last, target,
        )  # fmt: skip
    entered0 = _ordered_sum(entered)
    gain_before, gain = 0.0, first_step * entered0
    for j in range(2, n_stages + 1):
        coefficients = (mu[j], nu[j], mu_t[j], gamma_t[j])
        for number in numba.prange(bands):
            entered[number] = _stabilized_band(
                shape, stream, middle, along, w, inv_mass, dt, coefficients, base, patterns, amplitudes, j - 1, u, rate0, last,
                np.int64(number), target,
            )  # fmt: skip
        change = dt * (mu_t[j] * _ordered_sum(entered) + gamma_t[j] * entered0)
        gain_before, gain = gain, mu[j] * gain + nu[j] * gain_before + change
        last, target = target, last
    return gain


def stabilized_step(g0, g1, g2, w, inv_mass, dt, mu, nu, mu_t, gamma_t, base, patterns, amplitudes, u, work, out):
    """One step of a stabilized (super-time-stepping) method by its three-term recurrence.

        Y_0 = u,   Y_1 = Y_0 + mu_t[1] dt L0,   L(Y) = (F - K Y) / m,   L0 = L(Y_0),
        Y_j = mu[j] Y_{j-1} + nu[j] Y_{j-2} + (1 - mu[j] - nu[j]) Y_0 + mu_t[j] dt L(Y_{j-1}) + gamma_t[j] dt L0

    with one pass over memory per stage. ``work[0]`` is L0 afterwards.

    Parameters
    ----------
    g0, g1, g2, w, inv_mass, dt
        As in `advance_explicit_euler`.
    mu, nu, mu_t, gamma_t
        Coefficients of the stages, shape ``(s + 1,)``, entry 0 unused; ``s >= 1``.
    base, patterns, amplitudes
        Stage `j` evaluates L with the forcing ``base + sum_p amplitudes[j - 1, p] patterns[p]``; `amplitudes` has
        shape ``(s, p)``: one row per evaluation.
    u, work, out
        State (not modified), two spare arrays ``(2, n0, n1, n2)``, state after the step.

    Returns
    -------
    float
        What entered through walls, sources and losses, weighted as the stages weight their evaluations.
    """
    w, inv_mass, base, u, rate0, spare, out = _fields(w, inv_mass, base, u, work[0], work[1], out)
    return _stabilized_step[_workers(u.size) > 1](
        _fold(work.shape[1:]), *_flat_graph(g0, g1, g2), w, inv_mass, float(dt), mu, nu, mu_t, gamma_t,
        base, patterns.reshape(-1), amplitudes, u, rate0, spare, out,
    )  # fmt: skip


@numba.njit(**_SERIAL)
def _combine(scale, weights, rates, at, n, total):
    """``total = scale sum_i weights_i rates_i`` on n cells of a row; `total` is indexed from the row's start."""
    total[:] = 0.0
    for r in range(weights.size):
        if weights[r] != 0.0:
            weight, rate = scale * weights[r], rates[r]
            for k in range(n):
                total[k] += weight * rate[at + k]


@numba.njit(**_SERIAL)
def _runge_kutta_band(
    shape, stream, middle, along, w, inv_mass, dt, weights, error_weights, base, patterns, amplitudes, step, u, stage,
    number,    rates, next_stage,
):  # fmt: skip
    """Fill the newest of `rates` from `stage` and form ``next_stage = u + dt sum_i weights_i rates_i`` on one band.

    Returns the sum of ``F - w stage`` and ``max |dt sum_i error_weights_i rates_i|``.
    """
    n2, newest = shape[2], rates[weights.size - 1]
    rate, tally = np.empty(n2), np.zeros(n2)
    error = 0.0
    start, stop = _band(shape, number)
    n = np.uint64(n2)
    for row in range(start, stop):
        _whole_row_rate(
            shape, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, stage, rate, tally
        )  # fmt: skip
        at = np.uint64(row * n2)
        for k in range(n):
            newest[at + k] = rate[k]
        if error_weights.size > 0:
            _combine(dt, error_weights, rates, at, n, rate)
            error = max(error, max_abs(rate))
        _combine(dt, weights, rates, at, n, rate)
        for k in range(n):
            next_stage[at + k] = u[at + k] + rate[k]
    return _ordered_sum(tally), error


@_serial_and_parallel
def _runge_kutta_step(
    shape, stream, middle, along, w, inv_mass, dt, A, b, b_hat, base, patterns, amplitudes, u, work, out
):
    n_stages, bands = b.size, _n_bands(shape)
    entered, errors = np.zeros(bands), np.zeros(bands)
    gain = 0.0
    stage = u
    for s in range(n_stages):
        last = s + 1 == n_stages
        # The stages alternate between two arrays; the last one written is `out`.
        target = out if (n_stages - s) % 2 == 1 else work[n_stages]
        weights = b if last else A[s + 1, : s + 1]
        error_weights = b - b_hat if last and b_hat.size > 0 else b[:0]
        for number in numba.prange(bands):
            entered[number], errors[number] = _runge_kutta_band(
                shape, stream, middle, along, w, inv_mass, dt, weights, error_weights, base, patterns, amplitudes, s, u, stage,
                np.int64(number), work, target,
            )  # fmt: skip
        gain += dt * b[s] * _ordered_sum(entered)
        stage = target
    return gain, errors.max()


def runge_kutta_step(g0, g1, g2, w, inv_mass, dt, A, b, b_hat, base, patterns, amplitudes, u, work, out):
    """One step of an explicit Runge-Kutta method, one pass over memory per stage.

    Parameters
    ----------
    g0, g1, g2, w, inv_mass, dt
        As in `advance_explicit_euler`.
    A, b, b_hat
        Butcher coefficients, shapes ``(s, s)`` (strictly lower), ``(s,)``, and ``(s,)`` or ``(0,)`` for none.
    base, patterns, amplitudes
        Stage `i` has the forcing ``base + sum_p amplitudes[i, p] patterns[p]``; `amplitudes` has shape ``(s, p)``.
    u, work, out
        State (not modified), spare arrays ``(s + 1, n0, n1, n2)`` whose first s are the rates ``L(Y_i)``
        afterwards, state after the step.

    Returns
    -------
    gain : float
        What entered through walls, sources and losses: ``dt sum_i b_i sum_cells (F - w Y_i)``.
    error : float
        ``max |dt sum_i (b_i - b_hat_i) L(Y_i)|``, 0 without `b_hat`.
    """
    shape, patterns, work = _fold(u.shape), patterns.reshape(-1), work.reshape(len(work), u.size)
    w, inv_mass, base, u, out = _fields(w, inv_mass, base, u, out)
    return _runge_kutta_step[_workers(u.size) > 1](
        shape, *_flat_graph(g0, g1, g2), w, inv_mass, float(dt), A, b, b_hat, base, patterns, amplitudes, u, work, out
    )
