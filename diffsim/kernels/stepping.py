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

So a stencil is written once, as a function of one place, and evaluated on eight cells of a row at once ("lanes")
or on a single one: the argument `like` says which. A row is a number of whole lanes, the last of them drawn back
to end with the row; what overlaps is computed twice, to the same bits.

Inside, arrays are flat and a row is the offset of its first cell. Offsets inside the innermost loops are
unsigned: a signed index costs a test for wraparound at every access, and slices cost more than a short row.
2-D problems are folded from ``(1, n1, n2)`` to ``(n1, 1, n2)``, so the first axis is always the one that is
streamed through, and the middle one is the one that may be absent ("planar"): its coefficient is None then, which
leaves its terms out of the compiled code.
"""

import math
import operator

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from .team import bare, meet, place_in, together

_SERIAL = {"cache": True, "error_model": "numpy", "nogil": True}
# A call that is not inlined passes every array by its seven fields, which costs what a short row costs.
_INLINE = {**_SERIAL, "forceinline": True}

# One thread does fewer cells than this alone, and fewer cells times passes, because waking a second one costs more.
_PARALLEL_CELLS, _PARALLEL_WORK = 32_768, 200_000
# Cells in one band of rows, the unit of work and of summation where every step is one pass over memory.
_BAND_CELLS = 16_384
_COLUMNS = 256
# Planes that a time level advances per visit; of a block with any coefficients, whose conductances want the cache.
_VISIT, _VISIT_GRAPH = 2, 1
# Bytes of a block that are to stay in the second-level cache; the same on every machine, because sums are taken block by
# block.
_CACHE = 1_200_000
# Blocks that there must be for them to be long: along the planes they overlap less then, but fewer threads find one.
_FEWEST_LONG = 4
# Numbers between what two threads write often: a line of the cache that both want goes to and fro.
_APART = 16
# Rows of a plane that a level advances before the next level follows; twice as many of constant coefficients and so few numbers.
_STRIP, _NARROW = 4, 160
# Numbers of a plan per plane, see `_place_planes`.
_ENTRIES = 5
NOWHERE = -1
ONE, TWO, THREE, FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
# From so many steps on it pays to look for cells on which nothing but their neighbours acts.
_MANY_STEPS = 4
# Cells of a row that are computed at once: 64 bytes, a line of the cache.
_LANES = 8
# From so many columns on the ends of rows are kept apart as well, see `_at_ends`.
_LONG = 64


# --- lanes -----------------------------------------------------------------------------------------------------------


class _Lanes(types.Type):
    """Eight neighbouring numbers of a row: what a vector register holds, or two, or four."""

    def __init__(self):
        super().__init__(name="_Lanes")


_VECTOR = ir.VectorType(ir.DoubleType(), _LANES)


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


def _arithmetic(function, instruction):
    """Let `function` act on lanes, number by number, by one instruction without liberties."""

    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, args, _):
            both = len(args) == 2 and all(isinstance(arg, _Lanes) for arg in args)
            return signature(_Lanes(), *args) if both else None

    @lower_builtin(function, _Lanes, _Lanes)
    def lower(context, builder, signature, arguments):
        return getattr(builder, instruction)(*arguments)


for _function, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _arithmetic(_function, _instruction)


@intrinsic
def _times_plus(typing, a, b, c):
    """``a b + c`` of numbers or lanes, rounded once where the processor can: which it always or never does."""

    def fuse(context, builder, signature, arguments):
        kind = context.get_value_type(signature.return_type)
        name = "llvm.fmuladd.v8f64" if isinstance(signature.return_type, _Lanes) else "llvm.fmuladd.f64"
        return builder.call(get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), arguments)

    return c(a, b, c), fuse


def _pointer(context, builder, kind, source_type, source, at):
    if isinstance(source_type, types.CPointer):
        place = builder.gep(source, [at])
    else:
        place = place_in(context, builder, source_type, source, at)
    return builder.bitcast(place, context.get_value_type(kind).as_pointer())


@intrinsic
def _row(typing, array, at):
    """The row that begins at a place of a flat array, as a pointer.

    An empty instruction hides where it comes from: else a loop over the columns of several rows gets a counter for each of
    them, which are more than there are registers.
    """

    def begin(context, builder, signature, arguments):
        place = _pointer(context, builder, types.float64, signature.args[0], *arguments)
        return builder.asm(ir.FunctionType(place.type, [place.type]), "", "=r,0", [place], False)

    return types.CPointer(types.float64)(array, types.uint64), begin


@intrinsic
def _at(typing, like, array, at):
    """The number at a place of a flat array or row; or eight from there on, where `like` is lanes."""

    def load(context, builder, signature, arguments):
        like, array, _ = signature.args
        result = builder.load(_pointer(context, builder, like, array, *arguments[1:]))
        result.align = 8
        return result

    return like(like, array, types.uint64), load


@intrinsic
def _put(typing, value, array, at):
    """Store what `_at` reads."""

    def store(context, builder, signature, arguments):
        value, array, _ = signature.args
        builder.store(arguments[0], _pointer(context, builder, value, array, *arguments[1:])).align = 8
        return context.get_dummy_value()

    return types.none(value, array, types.uint64), store


@intrinsic
def _fetch(typing, array, at):
    """Ask for the line of the cache around a place of a flat array or row, which may lie beyond its end."""

    def fetch(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = _pointer(context, builder, types.float64, signature.args[0], *arguments)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [builder.bitcast(place, byte), number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.none(array, types.uint64), fetch


def _broadcast(builder, number):
    first = builder.insert_element(
        ir.Constant(ir.VectorType(number.type, _LANES), ir.Undefined), number, ir.IntType(32)(0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
    return builder.shuffle_vector(first, first, zeros)


@intrinsic
def _spread(typing, number):
    """A number in every lane; None stays None."""
    if isinstance(number, types.NoneType):
        return number(number), lambda context, builder, signature, arguments: context.get_dummy_value()
    return _Lanes()(number), lambda context, builder, signature, arguments: _broadcast(builder, *arguments)


@intrinsic
def _alike(typing, like, number):
    """A number, in every lane where `like` is lanes."""

    def spread(context, builder, signature, arguments):
        return _broadcast(builder, arguments[1]) if isinstance(like, _Lanes) else arguments[1]

    return like(like, types.float64), spread


@intrinsic
def _with(typing, value, lane, number):
    """Lanes with a number in one of them, counted from 0; unchanged where there is no such lane."""

    def choose(context, builder, signature, arguments):
        value, lane, number = arguments
        lanes = ir.Constant(ir.VectorType(lane.type, _LANES), list(range(_LANES)))
        here = builder.icmp_unsigned("==", _broadcast(builder, lane), lanes)
        return builder.select(here, _broadcast(builder, number), value)

    return value(value, types.uint64, types.float64), choose


def _window(start):
    """Intrinsic: the eight numbers from `start` on among the sixteen of two lanes."""

    @intrinsic
    def window(typing, low, high):
        def shuffle(context, builder, signature, arguments):
            places = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), list(range(start, start + _LANES)))
            return builder.shuffle_vector(*arguments, places)

        return low(low, high), shuffle

    return window


_west_of, _east_of = _window(_LANES - 1), _window(1)


@intrinsic
def _sum(typing, value):
    """Sum of all lanes, from the first to the last."""

    def add(context, builder, signature, arguments):
        total = builder.extract_element(arguments[0], ir.IntType(32)(0))
        for lane in range(1, _LANES):
            total = builder.fadd(total, builder.extract_element(arguments[0], ir.IntType(32)(lane)))
        return total

    return types.float64(value), add


if numba.config.DISABLE_JIT:  # the same in plain Python, where lanes are short arrays

    def _row(array, at):
        return array, at

    def _found(array, at):  # a row begins somewhere in its array, and columns before it count backwards
        if isinstance(array, tuple):
            array, start = array
            at = int(start) + int(np.int64(at))
        return array, int(at)

    def _at(like, array, at):
        array, at = _found(array, at)
        return array[at : at + _LANES] if np.ndim(like) else array[at]

    def _put(value, array, at):
        array, at = _found(array, at)
        array[at : at + np.size(value)] = value

    def _times_plus(a, b, c):
        return a * b + c

    def _fetch(array, at):
        pass

    def _alike(like, number):
        return number

    def _spread(number):
        return None if number is None else np.full(_LANES, number)

    def _west_of(before, here):
        return np.concatenate((before[-1:], here[:-1]))

    def _east_of(here, after):
        return np.concatenate((here[1:], after[:1]))

    def _sum(value):
        return _ordered_sum(value)

    def _with(value, lane, number):
        return np.where(np.arange(_LANES, dtype=np.uint64) == lane, number, value)


# --- sums in fixed order ---------------------------------------------------------------------------------------------


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
    lanes, like = np.uint64(_LANES), _spread(0.0)
    if n >= lanes:
        for start in range(np.uint64(0), n, lanes):
            k = min(start, n - lanes)
            _put(_at(like, source, at + k), out, to + k)
    else:
        for k in range(n):
            out[to + k] = source[at + k]


@numba.njit(**_INLINE)
def _add_row(source, at, n, out, to):
    lanes = np.uint64(_LANES)
    whole = n - n % lanes
    for k in range(np.uint64(0), whole, lanes):
        _put(_at(_spread(0.0), out, to + k) + _at(_spread(0.0), source, at + k), out, to + k)
    for k in range(whole, n):
        out[to + k] += source[at + k]


@numba.njit(**_SERIAL)
def _fill_row(value, n, out, to):
    for k in range(n):
        out[to + k] = value


@numba.njit(**_INLINE)
def _pair(like, g, low_face, high_face, u, low, high, centre):
    """What flows into a cell through its two faces along one axis."""
    lower = _at(like, g, low_face) * (_at(like, u, low) - centre)
    return lower + _at(like, g, high_face) * (_at(like, u, high) - centre)


@numba.njit(**_INLINE)
def _net(like, stream, middle, along, row, u, places, faces, k):
    """What enters the cell in column k of a row from its neighbours, ``sum_f g_f (u_neighbour - u)``.

    `places` are those of column 0 in `row`: itself, west, east; and of the neighbouring rows in `u`: south, north, below,
    above. `faces` are those of its faces: west in `along`, south and north in `middle`, below and above in `stream`.
    Where there is no neighbour, the face conducts nothing and any place that holds a number will do.
    """
    at, west, east, south, north, below, above = places
    face_along, face_south, face_north, face_below, face_above = faces
    centre = _at(like, row, at + k)
    face = face_along + k
    net = _pair(like, along, face, face + np.uint64(1), row, west + k, east + k, centre)
    if middle is not None:
        net = net + _pair(like, middle, face_south + k, face_north + k, u, south + k, north + k, centre)
    return net + _pair(like, stream, face_below + k, face_above + k, u, below + k, above + k, centre)


@numba.njit(**_INLINE)
def _change(
    dt, stream, middle, along, w, inv_mass, base, patterns, spacing, amplitudes, step, row, u, places, faces, cell, k, tally,
    column,
):  # fmt: skip
    """``dt (F - K u) / m`` of the cell in column k; `tally` collects ``F - w u``, what crosses the border.

    In `patterns` one follows the other after `spacing` numbers.
    """
    net = _net(dt, stream, middle, along, row, u, places, faces, k)
    cell += k
    enters = _at(dt, base, cell) - _at(dt, w, cell) * _at(dt, row, places[0] + k)
    for p in range(amplitudes.shape[1]):
        pattern = _at(dt, patterns, np.uint64(p) * spacing + cell)
        enters = enters + _alike(dt, amplitudes[step, p]) * pattern
    _put(_at(dt, tally, column + k) + enters, tally, column + k)
    return (dt * _at(dt, inv_mass, cell)) * (net + enters)


@numba.njit(**_SERIAL)
def _rate_cells(
    stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, u, places, faces, cell, n, rate, tally, column
):  # fmt: skip
    """``rate = (F - K u) / m`` in n columns of a row."""
    lanes, one, size = np.uint64(_LANES), _spread(1.0), np.uint64(inv_mass.size)
    whole = n - n % lanes
    for k in range(np.uint64(0), whole, lanes):
        change = _change(
            one, stream, middle, along, w, inv_mass, base, patterns, size, amplitudes, step, u, u, places, faces, cell,
            k, tally, column,
        )  # fmt: skip
        _put(change, rate, column + k)
    for k in range(whole, n):
        rate[column + k] = _change(
            1.0, stream, middle, along, w, inv_mass, base, patterns, size, amplitudes, step, u, u, places, faces, cell,
            k, tally, column,
        )  # fmt: skip


@numba.njit(**_INLINE)
def _step_cells(
    dt, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, u, places, faces, cell, first, last,
    tally, column, out, to,
):  # fmt: skip
    """``out = u + dt (F - K u) / m`` in the columns [first, last) of a row."""
    lanes, wide, size = np.uint64(_LANES), _spread(dt), np.uint64(inv_mass.size)
    whole = last - (last - first) % lanes
    for k in range(first, whole, lanes):
        change = _change(
            wide, stream, middle, along, w, inv_mass, base, patterns, size, amplitudes, step, row, u, places, faces, cell,
            k, tally, column,
        )  # fmt: skip
        _put(_at(wide, row, places[0] + k) + change, out, to + k)
    for k in range(whole, last):
        change = _change(
            dt, stream, middle, along, w, inv_mass, base, patterns, size, amplitudes, step, row, u, places, faces, cell,
            k, tally, column,
        )  # fmt: skip
        out[to + k] = row[places[0] + k] + change


@numba.njit(**_INLINE)
def _step_quiet_cells(scale, stream, middle, along, row, u, places, faces, first, last, out, to, soon, soon_at):
    """`_step_cells` where F = 0 and w = 0 and ``dt / m`` is `scale`: the same bits, fewer numbers read.

    Lanes are whole and may reach beyond `last`; `soon` from `soon_at` on is asked for meanwhile.
    """
    wide, at = _spread(scale), places[0]
    for k in range(first, last, np.uint64(_LANES)):
        _fetch(soon, soon_at + k)
        net = _net(wide, stream, middle, along, row, u, places, faces, k)
        _put(_at(wide, row, at + k) + wide * net, out, to + k)


@numba.njit(**_INLINE)
def _faces(shape, row, i, first):
    """`faces` of `_net` for a row of a field that lies in plane i, counted from column `first` on."""
    _, n1, n2 = shape
    across, below = (row + i) * n2 + first, row * n2 + first
    return (
        np.uint64(row * (n2 + 1) + first), np.uint64(across), np.uint64(across + n2), np.uint64(below),
        np.uint64(below + n1 * n2),
    )  # fmt: skip


@numba.njit(**_INLINE)
def _euler_row(
    dt, scale, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, u, places, faces, cell, first,
    quiet, loud, last, tally, column, out, to, soon, soon_at,
):  # fmt: skip
    """One step of the columns [first, last) of a row, of which [quiet, loud) are quiet."""
    _step_quiet_cells(scale, stream, middle, along, row, u, places, faces, quiet, loud, out, to, soon, soon_at)
    for side in range(2):  # one call for both sides, because it is pasted in
        start, stop = (first, quiet) if side == 0 else (loud, last)
        if start < stop:
            _step_cells(
                dt, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, u, places, faces, cell,
                start, stop, tally, column, out, to,
            )  # fmt: skip


@numba.njit(**_INLINE)
def _short_row(
    dt, scale, stream, middle, along, ends, amplitudes, step, row, u, places, faces, number, n2, first, last, tally, column,
    out, to, soon, soon_at,
):  # fmt: skip
    """`_euler_row` on a row of n2 columns that is quiet between its first and its last lanes, of which `ends` knows more.

    They come first, before others overwrite what they need, and are stored last, over what the others write too much.
    """
    w, inv_mass, base, patterns = ends
    lanes, zero, wide = np.uint64(_LANES), np.uint64(0), _spread(dt)
    quiet, loud = max(first, lanes), min(last, n2 - lanes)
    length = lanes * np.uint64(3 + amplitudes.shape[1])
    head = tail = wide
    for side in range(2):  # one call for both sides, because it is pasted in
        if (side == 0 and first == zero) or (side == 1 and last == n2):
            k = zero if side == 0 else n2 - lanes
            place = (number + number + np.uint64(side)) * length - k
            change = _change(
                wide, stream, middle, along, w, inv_mass, base, patterns, lanes, amplitudes, step, row, u, places, faces,
                place, k, tally, column,
            )  # fmt: skip
            value = _at(wide, row, places[0] + k) + change
            head, tail = (value, tail) if side == 0 else (head, value)
            _fetch(soon, soon_at + k)
    _step_quiet_cells(scale, stream, middle, along, row, u, places, faces, quiet, loud, out, to, soon, soon_at)
    if first == zero:
        _put(head, out, to)
    if last == n2:
        _put(tail, out, to + (n2 - lanes))


@numba.njit(**_INLINE)
def _convex(centre, r0, r1, r2, own, across, south, north, below, above):
    """``centre own + sum_a r_a (u_low + u_high)``; `across` is the sum along the row, the others are neighbours.

    A fused multiply-add is symmetric here: what it multiplies is the sum of two neighbours.
    """
    value = _times_plus(r2, across, centre * own)
    if r1 is not None:
        value = _times_plus(r1, south + north, value)
    return _times_plus(r0, below + above, value)


@numba.njit(**_INLINE)
def _convex_cells(like, centre, r0, r1, r2, west, own, east, rows, k):
    """`_convex` of the cells in column k of a row; `rows` are itself and its neighbours: south, north, below, above."""
    _, south, north, below, above = rows
    return _convex(
        centre, r0, r1, r2, own, west + east, _at(like, south, k), _at(like, north, k), _at(like, below, k),
        _at(like, above, k),
    )  # fmt: skip


@numba.njit(**_INLINE)
def _convex_end(centre, r0, r1, r2, ends, n2, rows, k):
    """`_convex_cells` at an end of a row of n2, or at both: what stands behind it lies in no array."""
    west, east, low, high = ends
    own, like = rows[0], _spread(0.0)
    near, far = np.uint64(0) - k, n2 - ONE - k  # lanes of the first and of the last column, if they are among these
    added = _with(like, near, low) + _with(like, far, high)
    left, right = _with(_at(like, own, k - ONE), near, west), _with(_at(like, own, k + ONE), far, east)
    return _convex_cells(
        like, _spread(centre) + added, _spread(r0), _spread(r1), _spread(r2), left, _at(like, own, k), right, rows, k
    )


@numba.njit(**_INLINE)
def _few_convex_cells(centre, r0, r1, r2, ends, n2, rows, first, last, out):
    """`_convex_row` where there are fewer cells than lanes."""
    west, east, low, high = ends
    own = rows[0]
    for k in range(first, last):
        at_first, at_last = k == np.uint64(0), k == n2 - ONE
        added = (low if at_first else 0.0) + (high if at_last else 0.0)
        left = west if at_first else _at(0.0, own, k - ONE)
        right = east if at_last else _at(0.0, own, k + ONE)
        value = _convex_cells(0.0, centre + added, r0, r1, r2, left, _at(0.0, own, k), right, rows, k)
        _put(value, out, k)


@numba.njit(**_INLINE)
def _convex_row(centre, r0, r1, r2, ends, n2, rows, first, last, stop, out, soon):
    """`_convex` on the columns [first, last) of a row of n2; the row below may be overwritten.

    `ends` are the values beyond both ends of the row, and what they add to the centre of the end cells. Lanes go on up
    to `stop`, which may lie beyond `last`. `soon` is asked for meanwhile.
    """
    lanes = np.uint64(_LANES)
    if stop < first + lanes:
        _few_convex_cells(centre, r0, r1, r2, ends, n2, rows, first, last, out)
        return
    begin, end = first, stop
    for side in range(2):  # one call for both ends, because it is pasted in
        k = first if side == 0 else stop - lanes
        if (side == 0 and first == np.uint64(0)) or (side == 1 and last == n2 and begin < stop):
            if r1 is not None:  # a plane waits less for memory than it would take to ask
                _fetch(soon, k)
            _put(_convex_end(centre, r0, r1, r2, ends, n2, rows, k), out, k)
            begin, end = (lanes, end) if side == 0 else (begin, k)
    if begin >= end:
        return
    c, s0, s1, s2 = _spread(centre), _spread(r0), _spread(r1), _spread(r2)
    before, here = _at(c, rows[0], begin - lanes), _at(c, rows[0], begin)
    for k in range(begin, end, lanes):
        after = _at(c, rows[0], k + lanes)
        if r1 is not None:
            _fetch(soon, k)
        _put(_convex_cells(c, c, s0, s1, s2, _west_of(before, here), here, _east_of(here, after), rows, k), out, k)
        before, here = here, after


@numba.njit(**_INLINE)
def _convex_rows(
    count, centre, r0, r1, r2, ends, around, n2, row, fields, places, steps, first, last, stop, out, to, soon, soon_at
):
    """`_convex_row` on so many rows, one after the other.

    The first one lies in `row` at ``places[0]``, its neighbours in `fields` at the other places; each of them, and `out`,
    steps on by its own of `steps`. Where the rows go `around`, an end of a row has the other end for a neighbour.
    """
    at, south, north, below, above = places
    length, below_step, above_step, to_step = steps
    west, east, low, high = ends
    for _ in range(count):
        if around:
            west, east = row[at + n2 - ONE], row[at]
        rows = (
            _row(row, at), _row(fields[0], south), _row(fields[1], north), _row(fields[2], below), _row(fields[3], above)
        )  # fmt: skip
        _convex_row(
            centre, r0, r1, r2, (west, east, low, high), n2, rows, first, last, stop, _row(out, to), _row(soon, soon_at)
        )
        at, south, north = at + length, south + length, north + length
        below, above, to, soon_at = below + below_step, above + above_step, to + to_step, soon_at + n2


@numba.njit(**_SERIAL)
def _through_walls(r, walls, step, axis, number, size, u, at, n):
    """What enters n cells in a row, from `at` on, through the walls across an axis on which they are cells `number`."""
    total, lanes = 0.0, np.uint64(_LANES)
    whole = n - n % lanes
    for end in range(2):
        if number == (0 if end == 0 else size - 1):
            const, slope = walls[step, axis, end, 0], walls[step, axis, end, 1] - 1.0
            c, s, sums = _spread(const), _spread(slope), _spread(0.0)
            for k in range(at, at + whole, lanes):
                sums = sums + (c + s * _at(c, u, k))
            total += _sum(sums)
            for k in range(at + whole, at + n):
                total += const + slope * u[k]
    return r * total


# --- folding, blocks and bands ---------------------------------------------------------------------------------------


def _fold(shape):
    """``(1, n1, n2)`` becomes ``(n1, 1, n2)``: the axis to stream through comes first."""
    n0, n1, n2 = shape
    return (n1, 1, n2) if n0 == 1 else (n0, n1, n2)


def _flat_graph(g0, g1, g2):
    """Flat conductances of the folded axes: streamed, middle (None where planar), along the rows."""
    if g0.shape[0] == 2:
        return g1.ravel(), None, g2.ravel()
    return g0.ravel(), g1.ravel() if g1.shape[1] > 2 else None, g2.ravel()


def _fields(*arrays):
    """Flat views."""
    return [array.reshape(-1) for array in arrays]


@numba.njit(**_SERIAL)
def _span(start, stop, reach, n, wraps):
    """The interval ``[start - reach, stop + reach)``, cut at the walls of ``[0, n)`` unless the axis wraps."""
    if wraps:
        return start - reach, stop + reach
    return max(start - reach, 0), min(stop + reach, n)


def _aligned(workers, size):
    """Zeros, one row per worker, that begin at lines of the cache."""
    size += -size % _LANES
    block = np.zeros(workers * size + _LANES)
    skip = -block.ctypes.data % (8 * _LANES) // 8
    return block[skip : skip + workers * size].reshape(workers, size)


def _ring_size(box, shape, depth, planar, visit):
    """Numbers in the ring of a block, see `_slots`, and in a spare row: for the first and the last row of the grid, beside
    which lanes must not look, and for rows of a periodic axis."""
    rows = box[1] + (0 if planar else 2 * depth)
    return (_slots(depth - 1, visit) * rows + 1) * _width(box[2], shape[2], depth)


@numba.njit(**_SERIAL)
def _slots(levels, visit):
    """Planes that the ring of a block holds when so many time levels lie in it.

    Plane i of level l lies in slot ``i - l`` (modulo the number of slots): where plane i - 1 of level l - 1 was, which is
    read for the last time, row by row, when plane i of level l is made.
    """
    return 2 * levels + visit


@numba.njit(**_SERIAL)
def _rounded(columns):
    """The next whole number of lanes."""
    return -(-columns // _LANES) * _LANES


@numba.njit(**_SERIAL)
def _margin(columns, n2, depth):
    """Places beside the columns of a block in its ring: what is computed around them, and one for a neighbour."""
    return _LANES if columns == n2 else _rounded(depth) + _LANES


@numba.njit(**_SERIAL)
def _width(columns, n2, depth):
    """Length of a row of a block in its ring."""
    return _rounded(columns) + 2 * _margin(columns, n2, depth)


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


def _workers(cells, passes=1):
    """How many threads pay where all cells are gone through so often."""
    worth_it = cells >= _PARALLEL_CELLS and cells * passes >= _PARALLEL_WORK
    return numba.get_num_threads() if worth_it else 1


# --- constant coefficients on a uniform box --------------------------------------------------------------------------


@numba.njit(**_SERIAL)
def _ghost_rows(r1, walls, periodic, depth, width, ghosts):
    """Fill the rows behind the walls across the first two axes: four for each level, see `_ghost`."""
    for level in range(depth):
        step = min(level, walls.shape[0] - 1)
        for axis in range(1 if r1 is None else 2):
            for end in range(2):
                if not periodic[axis]:
                    _fill_row(
                        walls[step, axis, end, 0], np.uint64(width), ghosts, np.uint64(_ghost(level, axis, end) * width)
                    )


@numba.njit(**_SERIAL)
def _ghost(level, axis, end):
    """Number of a ghost row."""
    return 4 * level + 2 * axis + end


@numba.njit(**_SERIAL)
def _place_planes(shape, wraps, i0, i1, depth, front, visit, slots, plane, origin, plan):
    """Where the planes of a front lie: per level and plane its first cell in the grid, the place of row 0 of the planes
    below, here and above of the level before (in the grid where that is level 0, else in the ring), and of the plane
    itself in the ring. `NOWHERE` first: no such plane."""
    n0, n1, n2 = shape
    for level in range(1, depth + 1):
        for v in range(visit):
            i, entry = front - level + 1 + v, _ENTRIES * (visit * level + v)
            if i < i0 - (depth - level) or i >= i1 + depth - level or (not wraps and (i < 0 or i >= n0)):
                plan[entry] = NOWHERE
                continue
            plan[entry] = i % n0 * n1 * n2
            for k in range(3):
                if level == 1:
                    plan[entry + 1 + k] = (i + k - 1) % n0 * n1 * n2
                else:
                    plan[entry + 1 + k] = (i + k - level) % slots * plane + origin
            plan[entry + 4] = (i - level) % slots * plane + origin


@numba.njit(**_INLINE)
def _until_next(n1, strip, rows, top, bottom, visit):
    """How many rows of the grid after those of a strip those lie that follow it, maybe in the next planes.

    Only the first level reads from memory and only the last one writes there, and while they wait, nothing is computed. So
    the levels ask, line by line as they compute, for the arrays that will be wanted there, each for one of them.
    """
    return rows if strip + rows < bottom else visit * n1 + top - strip


@numba.njit(**_SERIAL)
def _uniform_block(
    shape, r0, r1, r2, walls, periodic, source, decay, depth, u, bounds, ring, ghosts, plan, inflow, out
):
    """Advance one box of cells by `depth` steps, from `u` to `out`, without leaving the cache.

    Planes stream through a ring that holds a few planes of every time level between (`_slots`); level l runs one plane
    behind level l - 1, a few rows at a time, so that what it reads of the plane above was written just before. Of the two
    planes of a visit the second lags a row behind the first, which it reads, and whose neighbours it overwrites. What
    is computed reaches ``depth - l`` cells beyond the box at level l, so boxes do not wait for each other; along the rows
    it reaches to the next whole lanes, and the cells too far out for what level l - 1 holds get numbers without meaning
    that no cell of the box will see. Behind walls lie rows of ghost values. A row of a periodic axis is whole.
    """
    source, u, ring, ghosts, out, plan = bare(source), bare(u), bare(ring), bare(ghosts), bare(out), bare(plan)
    n0, n1, n2 = shape
    i0, i1, j0, j1, k0, k1 = bounds
    halo, lag = (0, 0) if r1 is None else (depth, 1)
    width, slots = _width(k1 - k0, n2, depth), _slots(depth - 1, _VISIT)
    plane = (j1 - j0 + 2 * halo) * width
    margin = _margin(k1 - k0, n2, depth) - k0  # of column 0 in a row of the ring
    origin, spare = (halo - j0) * width + margin, slots * plane + margin
    west_end, east_end = max(k0 - _rounded(depth), 0), min(k1 + _rounded(depth), n2)  # of what a spare row holds
    open0, open1, open2 = periodic
    inner = 1.0 - decay - 2.0 * (r0 + r2 if r1 is None else (r0 + r1) + r2)
    rows = 2 * _STRIP if width <= _NARROW else _STRIP
    inflow[:] = 0.0
    _ghost_rows(r1, walls, periodic, depth, width, ghosts)
    top, bottom = (j0, j1) if r1 is None else _span(j0, j1, depth - 1, n1, open1)
    for front in range(i0 - depth + 1, i1 + depth - 1, _VISIT):
        _place_planes(shape, open0, i0, i1, depth, front, _VISIT, slots, plane, origin, plan)
        for strip in range(top, bottom + lag * (_VISIT - 1), rows):
            ahead = _until_next(n1, strip, rows, top, bottom, _VISIT)
            for level in range(1, depth + 1):
                reach = depth - level
                j_first, j_last = (j0, j1) if r1 is None else _span(j0, j1, reach, n1, open1)
                first, last = max(k0 - _rounded(reach), 0), min(k1 + _rounded(reach), n2)
                # between levels of the ring nothing is computed twice, since the row below may be overwritten
                stop = first + _rounded(last - first) if level > 1 and reach > 0 else last
                past = min(level - 1, walls.shape[0] - 1)  # what this step sees at the walls
                west, east = walls[past, 2, 0, 0], walls[past, 2, 1, 0]
                low, high = r2 * walls[past, 2, 0, 1], r2 * walls[past, 2, 1, 1]
                if open2:
                    low, high = 0.0, 0.0
                row, length = (u, n2) if level == 1 else (ring, width)
                for v in range(_VISIT):
                    entry = np.uint64(_ENTRIES * (_VISIT * level + v))
                    i = front - level + 1 + v
                    if plan[entry] == NOWHERE:
                        continue
                    below_in, above_in, below_step, above_step = row, row, length, length
                    below_0, here_0, above_0 = plan[entry + ONE], plan[entry + TWO], plan[entry + THREE]
                    newest = i + level  # plane that the first level reads now
                    soon, soon_at = (u, newest) if level == 2 else (out, newest - depth)
                    soon_at = (soon_at * n1 + ahead) * n2
                    asks = level == 2 or reach == 0  # the others ask for what they write
                    plane_centre, entered = inner, 0.0
                    inside_0, at_wall_0 = i0 <= i < i1, not open0 and (i == 0 or i == n0 - 1)
                    if at_wall_0:
                        plane_centre += r0 * (
                            (walls[past, 0, 0, 1] if i == 0 else 0.0) + (walls[past, 0, 1, 1] if i == n0 - 1 else 0.0)
                        )
                        if i == 0:
                            below_in, below_0, below_step = ghosts, _ghost(level - 1, 0, 0) * width + margin, 0
                        if i == n0 - 1:
                            above_in, above_0, above_step = ghosts, _ghost(level - 1, 0, 1) * width + margin, 0
                    j, j_stop = max(j_first, strip - lag * v), min(j_last, strip + rows - lag * v)
                    while j < j_stop:
                        centre, south_in, north_in = plane_centre, row, row
                        inside = j if 0 <= j < n1 else j % n1
                        # rows at the rim of the grid go alone, the others on to an edge of the box
                        at_rim = inside == 0 or inside == n1 - 1
                        edge = j0 if j < j0 else j1 if j < j1 else j_stop
                        count = 1 if at_rim else min(edge - j, j_stop - j, n1 - 1 - inside)
                        cells = plan[entry] + inside * n2  # of the whole grid
                        place = inside if level == 1 else j
                        at = here_0 + place * length
                        south, north = (at, at) if r1 is None else (at - length, at + length)
                        if r1 is not None:  # noqa: SIM102 (apart, it is decided while compiling)
                            if at_rim:
                                if level == 1:  # around the grid
                                    south, north = here_0 + (inside - 1) % n1 * n2, here_0 + (inside + 1) % n1 * n2
                                if not open1:
                                    centre += r1 * (
                                        (walls[past, 1, 0, 1] if j == 0 else 0.0)
                                        + (walls[past, 1, 1, 1] if j == n1 - 1 else 0.0)
                                    )
                                    if j == 0:
                                        south_in, south = ghosts, _ghost(level - 1, 1, 0) * width + margin
                                    if j == n1 - 1:
                                        north_in, north = ghosts, _ghost(level - 1, 1, 1) * width + margin
                        target, to, to_step = out, cells, n2
                        if reach > 0:
                            target, to, to_step = ring, plan[entry + FOUR] + j * width, width
                        own = row
                        if level == 1 and (cells == 0 or cells == (n0 * n1 - 1) * n2):
                            _copy_row(
                                u,
                                np.uint64(cells + west_end),
                                np.uint64(east_end - west_end),
                                ring,
                                np.uint64(spare + west_end),
                            )
                            own, at = ring, spare
                        places = (
                            np.uint64(at), np.uint64(south), np.uint64(north), np.uint64(below_0 + place * below_step),
                            np.uint64(above_0 + place * above_step),
                        )  # fmt: skip
                        steps = (np.uint64(length), np.uint64(below_step), np.uint64(above_step), np.uint64(to_step))
                        _convex_rows(
                            count, centre, r0, r1, r2, (west, east, low, high), open2, np.uint64(n2), own,
                            (south_in, north_in, below_in, above_in), places, steps, np.uint64(first), np.uint64(last),
                            np.uint64(stop), target, np.uint64(to), soon if asks else target,
                            np.uint64(soon_at + inside * n2 if asks else to),
                        )  # fmt: skip
                        if source.size > 0:
                            for m in range(count):
                                _add_row(
                                    source, np.uint64(cells + m * n2 + first), np.uint64(last - first), target,
                                    np.uint64(to + m * to_step + first),
                                )  # fmt: skip
                        if inside_0 and j0 <= j < j1:
                            for m in range(at, at + count * length, length):
                                if not open2 and k0 == 0:
                                    entered += r2 * west + (low - r2) * own[np.uint64(m)]
                                if not open2 and k1 == n2:
                                    entered += r2 * east + (high - r2) * own[np.uint64(m + n2 - 1)]
                                if at_wall_0:
                                    entered += _through_walls(
                                        r0, walls, past, 0, i, n0, own, np.uint64(m + k0), np.uint64(k1 - k0)
                                    )
                                if r1 is not None and not open1 and at_rim:
                                    entered += _through_walls(
                                        r1, walls, past, 1, j, n1, own, np.uint64(m + k0), np.uint64(k1 - k0)
                                    )
                        j += count
                    inflow[level - 1] += entered


@numba.njit(**_SERIAL)
def _uniform_passes(
    part, parts, gate, passes, shape, box, r0, r1, r2, walls, periodic, source, supplied, decay, content, u, rings, ghosts, plans,
    inflow, out,
):  # fmt: skip
    """Take all blocks ``passes[p]`` steps ahead, to and fro between `u` and `out`, for every p; returns the gain."""
    gain, done = 0.0, 0
    for steps in passes:
        now = walls[done : done + steps] if walls.shape[0] > 1 else walls
        for number in range(part, inflow.shape[0], parts):
            _uniform_block(
                shape, r0, r1, r2, now, periodic, source, decay, steps, u, _box(shape, box, number), rings[part],
                ghosts[part], plans[part], inflow[number], out,
            )  # fmt: skip
        meet(gate, parts)
        for step in range(steps):
            # what the content has become follows from what has crossed the border: no pass over the field
            gain += _ordered_sum(inflow[:, step]) + supplied - decay * (content + gain)
        meet(gate, parts)
        u, out = out, u
        done += steps
    return gain


def _half_or_all(shape):
    """Planes of a block of a small grid: half of them where a second thread pays."""
    return -(-shape[0] // 2) if math.prod(shape) >= _PARALLEL_CELLS else shape[0]


def _uniform_blocking(shape, planar):
    """Steps per pass and the box of a block: what fits the second-level cache and recomputes little at the rims."""
    if not planar:
        return 4, _block_of_rows(shape, 4, _slots(3, _VISIT) + 5)  # and planes of the state, read and written
    return 16, (256 if shape[0] >= 512 else _half_or_all(shape), 1, 1024)


def _block_of_rows(shape, depth, planes):
    """The box of a block of which so many planes have to stay in the cache: as many rows as fit, in equal parts."""
    columns = min(shape[2], 256)
    fitting = _CACHE // (8 * planes * _width(columns, shape[2], depth)) - 2 * depth
    rows = -(-shape[1] // -(-shape[1] // max(fitting, 4 * depth)))
    planes = -(-shape[0] // -(-shape[0] // 128))  # equal parts again
    if _n_boxes(shape, (planes, rows, columns)) < _FEWEST_LONG:
        planes = min(64, _half_or_all(shape))
    return planes, rows, columns


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
    if periodic[2]:
        box = (*box[:2], shape[2])
    box = tuple(min(n, size) for n, size in zip(shape, box, strict=True))
    workers = min(_workers(u.size, n_steps), _n_boxes(shape, box))
    rings = _aligned(workers, _ring_size(box, shape, depth, planar, _VISIT))
    ghosts = np.zeros((workers, 4 * depth * _width(box[2], shape[2], depth)))
    plans = np.zeros((workers, _ENTRIES * _VISIT * (depth + 1) + _APART), np.int64)
    inflow = np.empty((_n_boxes(shape, box), depth + _APART))
    content, supplied = float(u.sum()) if decay else 0.0, float(source.sum())  # content matters to decay alone
    state, other, source = _fields(u, scratch, source)
    passes = _passes(n_steps, depth)
    gain = together(
        _uniform_passes, workers, passes, shape, box, float(r[0]), None if planar else float(r[1]), float(r[2]), walls,
        tuple(bool(p) for p in periodic), source, supplied, float(decay), content, state, rings, ghosts, plans, inflow,
        other,
    )  # fmt: skip
    if len(passes) == 1:
        u[...] = scratch
    return gain


# --- any coefficients: blocked forward Euler -------------------------------------------------------------------------


@numba.njit(**_INLINE)
def _quiet(w, inv_mass, base, patterns, n_patterns, common, cell):
    """Whether nothing but its neighbours acts on a cell, whose mass is the common one or which is not free."""
    if w[cell] != 0.0 or base[cell] != 0.0 or (inv_mass[cell] != common and inv_mass[cell] != 0.0):
        return False
    for p in range(n_patterns):  # noqa: SIM110 (Numba has no generators in all())
        if patterns[np.uint64(p * inv_mass.size) + cell] != 0.0:
            return False
    return True


@numba.njit(**_SERIAL)
def _find_quiet(n_columns, w, inv_mass, base, patterns, spans):
    w, inv_mass, base, patterns = bare(w), bare(inv_mass), bare(base), bare(patterns)
    n_patterns, common = patterns.size // inv_mass.size, 0.0
    for cell in range(inv_mass.size):
        if inv_mass[cell] > 0.0:
            common = inv_mass[cell]
            break
    for row in range(spans.shape[0]):
        first = last = row * n_columns + n_columns // 2
        while first > row * n_columns and _quiet(w, inv_mass, base, patterns, n_patterns, common, np.uint64(first - 1)):
            first -= 1
        while last < (row + 1) * n_columns and _quiet(w, inv_mass, base, patterns, n_patterns, common, np.uint64(last)):
            last += 1
        spans[row, 0], spans[row, 1] = first - row * n_columns, last - row * n_columns
    return common


def quiet_cells(w, inv_mass, base, patterns):
    """Where forward Euler can leave loss, forcing and mass unread; arguments as in `advance_explicit_euler`.

    Returns
    -------
    spans : (rows, 2) int32 array
        The columns ``[first, last)`` around the middle of each row on which F and w are 0, and of whose cells each
        has the common mass or is not free.
    inv_mass : float
        ``1 / m`` of the common mass.
    ends
        What acts at both ends of each row, see `_at_ends`.
    """
    shape = w.shape
    spans = np.zeros((shape[0] * shape[1], 2), np.int32)
    common = _find_quiet(shape[2], *_fields(w, inv_mass, base, patterns), spans)
    return spans, common, _at_ends(w, inv_mass, base, *patterns)


def _at_ends(*arrays):
    """The first and the last lanes of each row: of one array after the other, end after end, row after row.

    Most rows feel more than their neighbours there alone, in arrays in which these places lie far apart. Empty where the
    ends would be much of the rows.
    """
    columns = arrays[0].shape[-1]
    if columns < _LONG:
        return np.empty(0)
    ends = np.empty((arrays[0].size // columns, 2, len(arrays), _LANES))
    for k, array in enumerate(arrays):
        rows = array.reshape(-1, columns)
        ends[:, 0, k], ends[:, 1, k] = rows[:, :_LANES], rows[:, -_LANES:]
    return ends.reshape(-1)


@numba.njit(**_SERIAL)
def _euler_block(
    shape, wraps, stream, middle, along, w, inv_mass, dt, spans, ends, scale, base, patterns, amplitudes, u, bounds,
    ring, plan, tally, out,
):  # fmt: skip
    """`_uniform_block` for any coefficients; no ghosts, because faces in walls conduct nothing.

    Returns the sum of ``F - w u`` over the cells of the box and all steps.
    """
    g0, g1, g2 = bare(stream), bare(middle), bare(along)
    w, inv_mass, base, patterns, spans = bare(w), bare(inv_mass), bare(base), bare(patterns), bare(spans)
    u, ring, plan, tally, out = bare(u), bare(ring), bare(plan), bare(tally), bare(out)
    ends = bare(ends)
    at_ends = (ends, ends[_LANES:], ends[2 * _LANES :], ends[3 * _LANES :])  # as in `_at_ends`
    n0, n1, n2 = shape
    i0, i1, j0, j1, k0, k1 = bounds
    depth = amplitudes.shape[0]
    visit, halo = (_VISIT, 0) if middle is None else (_VISIT_GRAPH, depth)
    width, slots = _width(k1 - k0, n2, depth), _slots(depth - 1, visit)
    plane = (j1 - j0 + 2 * halo) * width
    margin = _margin(k1 - k0, n2, depth) - k0
    origin, spare = (halo - j0) * width + margin, slots * plane + margin
    west_end, east_end = max(k0 - _rounded(depth), 0), min(k1 + _rounded(depth), n2)  # of what a spare row holds
    tally[:] = 0.0
    top, bottom = (j0, j1) if middle is None else _span(j0, j1, depth - 1, n1, wraps[1])
    for front in range(i0 - depth + 1, i1 + depth - 1, visit):
        _place_planes(shape, wraps[0], i0, i1, depth, front, visit, slots, plane, origin, plan)
        for strip in range(top, bottom, _STRIP):
            ahead = _until_next(n1, strip, _STRIP, top, bottom, visit)
            for level in range(1, depth + 1):
                reach = depth - level
                j_first, j_last = (j0, j1) if middle is None else _span(j0, j1, reach, n1, wraps[1])
                first, last = max(k0 - _rounded(reach), 0), min(k1 + _rounded(reach), n2)
                before, length = (u, n2) if level == 1 else (ring, width)
                for v in range(visit):
                    entry = np.uint64(_ENTRIES * (visit * level + v))
                    i = front - level + 1 + v
                    if plan[entry] == NOWHERE:
                        continue
                    below_0, here_0, above_0 = plan[entry + ONE], plan[entry + TWO], plan[entry + THREE]
                    if not wraps[0]:  # any place with a number will do behind a wall
                        below_0, above_0 = here_0 if i == 0 else below_0, here_0 if i == n0 - 1 else above_0
                    newest = i + level  # plane that the first level reads now, the last one whose faces below it needs
                    soon, soon_at, soon_step = out, ((newest - depth) * n1 + ahead) * n2, n2
                    if level == 2:
                        soon, soon_at = u, (newest * n1 + ahead) * n2
                    elif level == 3:
                        soon, soon_at = g0, (newest * n1 + ahead) * n2
                    elif level == 4:
                        soon, soon_at, soon_step = g2, ((newest - 1) * n1 + ahead) * (n2 + 1), n2 + 1
                    if middle is not None:  # noqa: SIM102 (apart, it is decided while compiling)
                        if level == 5:
                            soon, soon_at = g1, ((newest - 1) * (n1 + 1) + ahead + 1) * n2
                    here = i % n0 if wraps[0] else i
                    for j in range(max(j_first, strip), min(j_last, strip + _STRIP)):
                        inside = j if 0 <= j < n1 else j % n1
                        number = here * n1 + inside  # of the row in the grid
                        cell, to = number * n2, plan[entry + FOUR] + j * width
                        place = inside if level == 1 else j
                        row, at = before, here_0 + place * length
                        south, north = at - length, at + length
                        if middle is None or (level == 1 and wraps[1]):
                            south, north = here_0 + (inside - 1) % n1 * n2, here_0 + (inside + 1) % n1 * n2
                        elif not wraps[1]:
                            south, north = at if j == 0 else south, at if j == n1 - 1 else north
                        if level == 1 and (wraps[2] or number == 0 or number == n0 * n1 - 1):
                            row, at = ring, spare
                            _copy_row(
                                u,
                                np.uint64(cell + west_end),
                                np.uint64(east_end - west_end),
                                ring,
                                np.uint64(spare + west_end),
                            )
                            if wraps[2]:
                                ring[spare - 1], ring[spare + n2] = u[cell + n2 - 1], u[cell]
                        places = (
                            np.uint64(at), np.uint64(at - 1), np.uint64(at + 1), np.uint64(south), np.uint64(north),
                            np.uint64(below_0 + place * length), np.uint64(above_0 + place * length),
                        )  # fmt: skip
                        # Cells beyond the box belong to others; what crosses the border there goes to a second tally.
                        column = np.uint64(0 if i0 <= i < i1 and j0 <= j < j1 else n2)
                        faces = _faces(shape, number, here, np.int64(0))
                        target, to = (ring, to) if reach > 0 else (out, cell)
                        soon_now = np.uint64(soon_at + inside * soon_step)
                        quiet, loud = np.int64(spans[number, 0]), np.int64(spans[number, 1])
                        if ends.size > 0 and quiet <= _LANES and first <= n2 - _LANES <= loud:
                            _short_row(
                                dt, scale, g0, g1, g2, at_ends, amplitudes, level - 1, row, before, places, faces,
                                np.uint64(number), np.uint64(n2), np.uint64(first), np.uint64(last), tally, column, target,
                                np.uint64(to), soon, soon_now,
                            )  # fmt: skip
                        else:
                            # whole lanes that begin at lines of the cache
                            quiet = first + _rounded(max(quiet - first, 0))
                            loud = first + (min(loud, last) - first) // _LANES * _LANES
                            if quiet >= loud:
                                quiet = loud = last
                            _euler_row(
                                dt, scale, g0, g1, g2, w, inv_mass, base, patterns, amplitudes, level - 1, row, before,
                                places, faces, np.uint64(cell), np.uint64(first), np.uint64(quiet), np.uint64(loud),
                                np.uint64(last), tally, column, target, np.uint64(to), soon, soon_now,
                            )  # fmt: skip
                        if wraps[2] and reach > 0:
                            ring[to - 1], ring[to + n2] = ring[to + n2 - 1], ring[to]
    return _ordered_sum(tally[k0:k1])


@numba.njit(**_SERIAL)
def _euler_passes(
    part, parts, gate, passes, shape, box, wraps, stream, middle, along, w, inv_mass, dt, spans, ends, scale, base, patterns,
    amplitudes, u, rings, plans, tallies, entered, out,
):  # fmt: skip
    """Take all blocks ``passes[p]`` steps ahead, to and fro between `u` and `out`, for every p; returns the gain."""
    gain, done = 0.0, 0
    for steps in passes:
        now = amplitudes[done : done + steps]
        for number in range(part, entered.size, parts):
            entered[number] = _euler_block(
                shape, wraps, stream, middle, along, w, inv_mass, dt, spans, ends, scale, base, patterns, now,
                u, _box(shape, box, number), rings[part], plans[part], tallies[part], out,
            )  # fmt: skip
        meet(gate, parts)
        gain += dt * _ordered_sum(entered)
        meet(gate, parts)
        u, out = out, u
        done += steps
    return gain


def _euler_blocking(shape, planar):
    """Steps per pass and the box of a block, as in `_uniform_blocking`; the coefficients want their place too."""
    if not planar:
        # and three conductances of as many planes as levels
        return 5, _block_of_rows(shape, 5, _slots(4, _VISIT_GRAPH) + 3 * 5)
    return 8, (256 if shape[0] >= 512 else _half_or_all(shape), 1, 512)


def advance_explicit_euler(g0, g1, g2, w, inv_mass, dt, base, patterns, amplitudes, u, scratch, quiet=None):
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
    quiet
        What `quiet_cells` says, where it is known; looked for where it is not and the steps are many.

    Returns
    -------
    float
        ``sum over steps of dt sum_i (F_i - w_i u_i)``: what entered through walls, sources and losses.
    """
    shape = _fold(u.shape)
    wraps = (bool(np.any(g0[0])), bool(np.any(g1[:, 0])), bool(np.any(g2[:, :, 0])))
    if u.shape[0] == 1:
        wraps = (wraps[1], False, wraps[2])
    stream, middle, along = _flat_graph(g0, g1, g2)
    depth, box = _euler_blocking(shape, middle is None)
    if wraps[2]:
        box = (*box[:2], shape[2])
    box = tuple(min(n, size) for n, size in zip(shape, box, strict=True))
    workers = min(_workers(u.size, len(amplitudes)), _n_boxes(shape, box))
    planar = middle is None
    rings = _aligned(workers, _ring_size(box, shape, depth, planar, _VISIT if planar else _VISIT_GRAPH))
    tallies = np.empty((workers, 2 * shape[2]))
    plans = np.zeros((workers, _ENTRIES * _VISIT * (depth + 1) + _APART), np.int64)
    entered = np.empty(_n_boxes(shape, box))
    if quiet is None:
        looked = quiet_cells(w, inv_mass, base, patterns) if len(amplitudes) >= _MANY_STEPS else None
        quiet = looked or (np.zeros((shape[0] * shape[1], 2), np.int32), 0.0, np.empty(0))
    spans, common, ends = quiet
    state, other, w, inv_mass, base, patterns = _fields(u, scratch, w, inv_mass, base, patterns)
    passes = _passes(len(amplitudes), depth)
    gain = together(
        _euler_passes, workers, passes, shape, box, wraps, stream, middle, along, w, inv_mass, float(dt), spans, ends,
        float(dt * common), base, patterns, amplitudes, state, rings, plans, tallies, entered, other,
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
def _row_places(shape, row, first, last):
    """`places` of `_net` for the columns [first, last) of a row of a field, around its ends, counted from `first` on.

    The first and the last column have a neighbour elsewhere and go alone; all between them go at once.
    """
    n0, n1, n2 = shape
    i, j, at = row // n1, row % n1, row * n2 + first
    south, north = (i * n1 + (j - 1) % n1) * n2 + first, (i * n1 + (j + 1) % n1) * n2 + first
    below, above = ((i - 1) % n0 * n1 + j) * n2 + first, ((i + 1) % n0 * n1 + j) * n2 + first
    west, east = at - 1 if first > 0 else at + n2 - 1, at + 1 if last < n2 else row * n2
    return (
        np.uint64(at), np.uint64(west), np.uint64(east), np.uint64(south), np.uint64(north), np.uint64(below),
        np.uint64(above),
    )  # fmt: skip


@numba.njit(**_SERIAL)
def _part(n, part):
    """A row of n columns in three parts: its first column, its last, and those between."""
    if part == 0:
        return 0, 1
    return (1, max(n - 1, 1)) if part == 1 else (max(n - 1, 1), n)


@numba.njit(**_SERIAL)
def _rate_row(shape, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, u, rate, tally):
    """``rate = (F - K u) / m`` on a row of a field; `tally` collects ``F - w u`` by column."""
    for part in range(3):
        first, last = _part(shape[2], part)
        if first < last:
            places, faces = _row_places(shape, row, first, last), _faces(shape, row, row // shape[1], first)
            _rate_cells(
                stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, u, places, faces,
                np.uint64(row * shape[2] + first), np.uint64(last - first), rate, tally, np.uint64(first),
            )  # fmt: skip


@numba.njit(**_SERIAL)
def _stiffness_cells(stream, middle, along, w, u, places, faces, n, out):
    """``out = K u`` in n columns of a row."""
    lanes, wide, at = np.uint64(_LANES), _spread(0.0), places[0]
    whole = n - n % lanes
    for k in range(np.uint64(0), whole, lanes):
        net = _net(wide, stream, middle, along, u, u, places, faces, k)
        _put(_at(wide, w, at + k) * _at(wide, u, at + k) - net, out, at + k)
    for k in range(whole, n):
        out[at + k] = w[at + k] * u[at + k] - _net(0.0, stream, middle, along, u, u, places, faces, k)


@numba.njit(**_SERIAL)
def _stiffness_band(shape, stream, middle, along, w, u, number, out):
    g0, g1, g2 = bare(stream), bare(middle), bare(along)
    w, u, out = bare(w), bare(u), bare(out)
    start, stop = _band(shape, number)
    for row in range(start, stop):
        for part in range(3):
            first, last = _part(shape[2], part)
            if first < last:
                places, faces = _row_places(shape, row, first, last), _faces(shape, row, row // shape[1], first)
                _stiffness_cells(g0, g1, g2, w, u, places, faces, np.uint64(last - first), out)


@numba.njit(**_SERIAL)
def _bands_of(shape, part, parts):
    """Numbers of the bands that a member of a team does."""
    bands = _n_bands(shape)
    return range(part * bands // parts, (part + 1) * bands // parts)


@numba.njit(**_SERIAL)
def _apply_stiffness(part, parts, gate, shape, stream, middle, along, w, u, out):
    for number in _bands_of(shape, part, parts):
        _stiffness_band(shape, stream, middle, along, w, u, number, out)
    meet(gate, parts)


def apply_stiffness(g0, g1, g2, w, u, out):
    """``out = K u``: ``(K u)_i = sum_f g_f (u_i - u_j) + w_i u_i``. Padded arrays; `out` is not `u`."""
    together(_apply_stiffness, _workers(u.size), _fold(u.shape), *_flat_graph(g0, g1, g2), *_fields(w, u, out))


@numba.njit(**_SERIAL)
def _first_stage_band(
    shape, stream, middle, along, w, inv_mass, dt, base, patterns, amplitudes, step, u, number, rate0, out, spare
):  # fmt: skip
    """``rate0 = L(u)``, ``out = u + dt rate0``, ``spare = u`` on one band; returns the sum of ``F - w u``."""
    n2 = shape[2]
    rate, tally = np.empty(n2), np.zeros(n2)
    g0, g1, g2, w, inv_mass = bare(stream), bare(middle), bare(along), bare(w), bare(inv_mass)
    base, patterns, u, rate0, out, spare = (
        bare(base),
        bare(patterns),
        bare(u),
        bare(rate0),
        bare(out),
        bare(spare),
    )
    start, stop = _band(shape, number)
    for row in range(start, stop):
        _rate_row(shape, g0, g1, g2, w, inv_mass, base, patterns, amplitudes, step, row, u, rate, tally)
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
    g0, g1, g2, w, inv_mass = bare(stream), bare(middle), bare(along), bare(w), bare(inv_mass)
    base, patterns, u, rate0, last, out = bare(base), bare(patterns), bare(u), bare(rate0), bare(last), bare(out)
    start, stop = _band(shape, number)
    for row in range(start, stop):
        _rate_row(shape, g0, g1, g2, w, inv_mass, base, patterns, amplitudes, step, row, last, rate, tally)
        at = np.uint64(row * n2)
        for k in range(np.uint64(n2)):
            m = at + k
            change = dt * (mu_t * rate[k] + gamma_t * rate0[m])
            out[m] = (mu * last[m] + nu * out[m]) + (keep * u[m] + change)
    return _ordered_sum(tally)


@numba.njit(**_SERIAL)
def _stabilized_step(
    part, parts, gate, shape, stream, middle, along, w, inv_mass, dt, mu, nu, mu_t, gamma_t, base, patterns, amplitudes, u,
    rate0, spare, out, entered,
):  # fmt: skip
    """See `stabilized_step`; `entered` (2, bands) is used in turn, so that no stage writes what is still being added up."""
    n_stages = amplitudes.shape[0]
    # Y_j takes the place of Y_{j-2}; the last of them has to end in `out`.
    last, target = (spare, out) if n_stages % 2 == 0 else (out, spare)
    first_step = mu_t[1] * dt
    for number in _bands_of(shape, part, parts):
        entered[1, number] = _first_stage_band(
            shape, stream, middle, along, w, inv_mass, first_step, base, patterns, amplitudes, np.int64(0), u, number, rate0,
            last, target,
        )  # fmt: skip
    meet(gate, parts)
    entered0 = _ordered_sum(entered[1])
    gain_before, gain = 0.0, first_step * entered0
    for j in range(2, n_stages + 1):
        coefficients, now = (mu[j], nu[j], mu_t[j], gamma_t[j]), entered[j % 2]
        for number in _bands_of(shape, part, parts):
            now[number] = _stabilized_band(
                shape, stream, middle, along, w, inv_mass, dt, coefficients, base, patterns, amplitudes, j - 1, u, rate0, last,
                number, target,
            )  # fmt: skip
        meet(gate, parts)
        change = dt * (mu_t[j] * _ordered_sum(now) + gamma_t[j] * entered0)
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
    shape, workers = _fold(work.shape[1:]), _workers(u.size, len(amplitudes))
    return together(
        _stabilized_step, workers, shape, *_flat_graph(g0, g1, g2), w, inv_mass, float(dt), mu, nu, mu_t, gamma_t,
        base, patterns.reshape(-1), amplitudes, u, rate0, spare, out, np.empty((2, _n_bands(shape))),
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
        _rate_row(shape, stream, middle, along, w, inv_mass, base, patterns, amplitudes, step, row, stage, rate, tally)
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


@numba.njit(**_SERIAL)
def _runge_kutta_step(
    part, parts, gate, shape, stream, middle, along, w, inv_mass, dt, A, b, b_hat, base, patterns, amplitudes, u, work, out,
    entered, errors,
):  # fmt: skip
    """See `runge_kutta_step`; `entered` as in `_stabilized_step`, `errors` (bands,)."""
    n_stages = b.size
    gain = 0.0
    stage = u
    for s in range(n_stages):
        last, now = s + 1 == n_stages, entered[s % 2]
        # The stages alternate between two arrays; the last one written is `out`.
        target = out if (n_stages - s) % 2 == 1 else work[n_stages]
        weights = b if last else A[s + 1, : s + 1]
        error_weights = b - b_hat if last and b_hat.size > 0 else b[:0]
        for number in _bands_of(shape, part, parts):
            now[number], errors[number] = _runge_kutta_band(
                shape, stream, middle, along, w, inv_mass, dt, weights, error_weights, base, patterns, amplitudes, s, u, stage,
                number, work, target,
            )  # fmt: skip
        meet(gate, parts)
        gain += dt * b[s] * _ordered_sum(now)
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
    bands, workers = _n_bands(shape), _workers(u.size, b.size)
    return together(
        _runge_kutta_step, workers, shape, *_flat_graph(g0, g1, g2), w, inv_mass, float(dt), A, b, b_hat, base, patterns,
        amplitudes, u, work, out, np.empty((2, bands)), np.empty(bands),
    )  # fmt: skip


def longest(name, family):
    """The kernel of a scheme with any coefficients that takes longest to compile."""
    families = {"stabilized": _stabilized_step, "runge-kutta": _runge_kutta_step}
    return _euler_passes if name == "ftcs" else families.get(family)
