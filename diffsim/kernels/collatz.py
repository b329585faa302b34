"""Upper bounds of the spectral radius of ``A = m^-1 K``: Gershgorin's, and Collatz' by power iteration on |A|.

``rho(A) <= rho(|A|) <= max_i (|A| x)_i / x_i`` for any x > 0 (Collatz 1942); x = 1 gives Gershgorin's bound. |A| has the
sign of every coupling turned, ``(|K| x)_i = w_i x_i + sum_f g_f (x_i + x_j)``: all terms are positive, so no digits are
lost.

Arrays as in `stepping`; `inverse` is None where all masses are 1. g0 is None where there is one plane only. At sides the
neighbour's index wraps around: the conductance there is 0 unless the axis is periodic. The bits of non-negative floats are
ordered like the floats, so largest numbers are found among integers, which vectorises.
"""

import numba
import numpy as np

from .team import meet, together

_entry = numba.njit(cache=True, error_model="numpy", nogil=True)
_compiled = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_FLOOR = 1e-12  # keeps x > 0 everywhere, also where a component has died out
_BAND_CELLS = 1 << 15  # cells that one thread takes at once


@_compiled
def _largest_rows(g0, g1, g2, w, inverse, start, stop):
    """The largest A_ii and the largest ``sum_j |A_ij|`` on the rows [start, stop)."""
    n1, n2 = w.shape[1:]
    diagonal, sums, largest = np.empty(n2), np.empty(n2), np.zeros(2)
    diagonal_bits, sum_bits = diagonal.view(np.int64), sums.view(np.int64)
    top_diagonal, top_sum = np.int64(0), np.int64(0)
    for row in range(start, stop):
        i, j = row // n1, row % n1
        along, low, high, loss = g2[i, j], g1[i, j], g1[i, j + 1], w[i, j]
        for k in range(n2):
            sums[k] = (along[k] + along[k + 1]) + (low[k] + high[k])
        if g0 is not None:
            down, up = g0[i, j], g0[i + 1, j]
            for k in range(n2):
                sums[k] += down[k] + up[k]
        for k in range(n2):
            diagonal[k] = sums[k] + loss[k]
            sums[k] = 2.0 * sums[k] + loss[k]
        if inverse is not None:
            over = inverse[i, j]
            for k in range(n2):
                diagonal[k] *= over[k]
                sums[k] *= over[k]
        for k in range(n2):
            top_diagonal, top_sum = max(top_diagonal, diagonal_bits[k]), max(top_sum, sum_bits[k])
    bits = largest.view(np.int64)
    bits[0], bits[1] = top_diagonal, top_sum
    return largest[0], largest[1]


@_compiled
def _largest_of(tops, column):
    """Of all bands."""
    top = 0.0
    for band in range(tops.shape[0]):
        top = max(top, tops[band, column])
    return top


@_entry
def _gershgorin(part, parts, gate, g0, g1, g2, w, inverse, tops):
    bands, rows = tops.shape[0], w.shape[0] * w.shape[1]
    for band in range(part, bands, parts):
        first, last = band * rows // bands, (band + 1) * rows // bands
        tops[band, 0], tops[band, 1] = _largest_rows(g0, g1, g2, w, inverse, first, last)
    meet(gate, parts)
    return _largest_of(tops, 0), _largest_of(tops, 1)


def largest_rows(g0, g1, g2, w, inverse):
    """(max_i A_ii, max_i sum_j |A_ij|): what bounds a step without new extrema, and rho(A) by Gershgorin."""
    tops = _tops(w)
    return together(_gershgorin, _members(len(tops) // 4), *_graph(g0, g1, g2, w), w, inverse, tops)


def _members(most):
    """Threads: so many at most."""
    return max(1, min(numba.get_num_threads(), most))


def _graph(g0, g1, g2, w):
    return None if w.shape[0] == 1 else g0, g1, g2


def _tops(w):
    """Place for two numbers per band of rows."""
    return np.zeros((max(1, min(w.shape[0] * w.shape[1], w.size // _BAND_CELLS)), 2))


@_compiled
def _sweep_rows(g0, g1, g2, w, inverse, cross, most, scale, x, start, stop, y):
    """``y = max(scale |A| x, floor)`` on the rows [start, stop); returns the largest (|A| x)_i / x_i and the largest y_i there.

    `cross` is None, or what the largest x, `most`, adds to |A| x by a tensor.
    """
    n0, n1, n2 = x.shape
    product, ratio, largest = np.empty(n2), np.empty(n2), np.zeros(2)
    product_bits, ratio_bits = product.view(np.int64), ratio.view(np.int64)
    top_product, top_ratio = np.int64(0), np.int64(0)
    for row in range(start, stop):
        i, j = row // n1, row % n1
        here, out = x[i, j], y[i, j]
        south, north = x[i, j - 1 if j > 0 else n1 - 1], x[i, j + 1 if j < n1 - 1 else 0]
        below, above = x[i - 1 if i > 0 else n0 - 1, j], x[i + 1 if i < n0 - 1 else 0, j]
        along, low, high, loss = g2[i, j], g1[i, j], g1[i, j + 1], w[i, j]
        for k in range(n2):
            c = here[k]
            product[k] = loss[k] * c + (low[k] * (c + south[k]) + high[k] * (c + north[k]))
        if g0 is not None:
            down, up = g0[i, j], g0[i + 1, j]
            for k in range(n2):
                c = here[k]
                product[k] += down[k] * (c + below[k]) + up[k] * (c + above[k])
        for k in range(1, n2 - 1):
            c = here[k]
            product[k] += along[k] * (c + here[k - 1]) + along[k + 1] * (c + here[k + 1])
        for k in range(0, n2, max(n2 - 1, 1)):
            c = here[k]
            west, east = here[k - 1 if k > 0 else n2 - 1], here[k + 1 if k < n2 - 1 else 0]
            product[k] += along[k] * (c + west) + along[k + 1] * (c + east)
        if inverse is not None:
            over = inverse[i, j]
            for k in range(n2):
                product[k] *= over[k]
        if cross is not None:
            for k in range(n2):
                product[k] += most * cross[i, j, k]
        for k in range(n2):
            ratio[k] = product[k] / here[k]
            scaled = scale * product[k]
            product[k] = scaled if scaled > _FLOOR else _FLOOR
            out[k] = product[k]
        for k in range(n2):
            top_ratio, top_product = max(top_ratio, ratio_bits[k]), max(top_product, product_bits[k])
    bits = largest.view(np.int64)
    bits[0], bits[1] = top_ratio, top_product
    return largest[0], largest[1]


@_entry
def _collatz(part, parts, gate, g0, g1, g2, w, inverse, cross, start, sweeps, x, y, tops):
    bands, rows = tops.shape[0], x.shape[0] * x.shape[1]
    best, most = start, 1.0
    for _ in range(sweeps):
        scale = 1 / (start * most)  # x stays between the floor and 1
        for band in range(part, bands, parts):
            first, last = band * rows // bands, (band + 1) * rows // bands
            tops[band, 0], tops[band, 1] = _sweep_rows(g0, g1, g2, w, inverse, cross, most, scale, x, first, last, y)
        meet(gate, parts)
        ratio, most = _largest_of(tops, 0), _largest_of(tops, 1)
        meet(gate, parts)
        previous, best = best, min(best, ratio)
        if previous - best < 1e-7 * best and best < start * (1 - 1e-9):
            break
        x, y = y, x
    return best


def radius_bound(g0, g1, g2, w, inverse, cross, start, sweeps):
    """An upper bound of rho(A), at most `start`.

    Parameters
    ----------
    g0, g1, g2, w, inverse
        Face conductances, loss, and ``1 / m`` (0 where a cell is not free) or None; g0 is not read where there is one plane.
    cross
        None, or absolute row sums of a part of A that the conductances do not hold, shape of `w`.
    start
        An upper bound that is known already: the largest absolute row sum.
    sweeps
        Most products to spend.
    """
    if not start > 0 or sweeps == 0:
        return start
    x, y, tops = np.ones(w.shape), np.empty(w.shape), _tops(w)
    system = (*_graph(g0, g1, g2, w), w, inverse, cross, float(start), int(sweeps))
    return together(_collatz, _members(len(tops)), *system, x, y, tops)
