"""One pass over the cells for each half of the error bounds (diffsim/bounds.py). Sums are returned row by row."""

import numba
import numpy as np

jit = numba.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})


@jit
def residual(g0, g1, g2, diagonal, free, periodic, inverse_volumes, forcing, u, slack, r, rows):
    """r = F - K u, and per row ``sum rho^2 / V`` with ``rho = slack (|F| + |K| |u|)``, a bound of the rounding in r."""
    n0, n1, n2 = u.shape
    for i in range(n0):
        for j in range(n1):
            total = 0.0
            for k in range(n2):
                if not free[i, j, k]:
                    r[i, j, k] = 0.0
                    continue
                c = u[i, j, k]
                a = abs(c)
                flow = diagonal[i, j, k] * c
                size = diagonal[i, j, k] * a
                if n2 > 1:
                    if k > 0 or periodic[2]:
                        g, other = g2[i, j, k], u[i, j, k - 1 if k > 0 else n2 - 1]
                        flow += g * (c - other)
                        size += g * (a + abs(other))
                    if k < n2 - 1 or periodic[2]:
                        g, other = g2[i, j, k + 1], u[i, j, k + 1 if k < n2 - 1 else 0]
                        flow += g * (c - other)
                        size += g * (a + abs(other))
                if n1 > 1:
                    if j > 0 or periodic[1]:
                        g, other = g1[i, j, k], u[i, j - 1 if j > 0 else n1 - 1, k]
                        flow += g * (c - other)
                        size += g * (a + abs(other))
                    if j < n1 - 1 or periodic[1]:
                        g, other = g1[i, j + 1, k], u[i, j + 1 if j < n1 - 1 else 0, k]
                        flow += g * (c - other)
                        size += g * (a + abs(other))
                if n0 > 1:
                    if i > 0 or periodic[0]:
                        g, other = g0[i, j, k], u[i - 1 if i > 0 else n0 - 1, j, k]
                        flow += g * (c - other)
                        size += g * (a + abs(other))
                    if i < n0 - 1 or periodic[0]:
                        g, other = g0[i + 1, j, k], u[i + 1 if i < n0 - 1 else 0, j, k]
                        flow += g * (c - other)
                        size += g * (a + abs(other))
                r[i, j, k] = forcing[i, j, k] - flow
                rho = slack * (abs(forcing[i, j, k]) + size)
                total += rho * rho * inverse_volumes[i, j, k]
            rows[i * n1 + j] = total


@jit
def squares(weights, a, rows):
    """``sum weights a^2`` per row."""
    n0, n1, n2 = a.shape
    for i in range(n0):
        for j in range(n1):
            total = 0.0
            for k in range(n2):
                total += weights[i, j, k] * a[i, j, k] * a[i, j, k]
            rows[i * n1 + j] = total


@jit
def dual_energies(
    g0, g1, g2, diagonal, periodic, inverse,
    faces0, faces1, faces2, walls0, walls1, walls2, weights0, weights1, weights2, shift,
    s, z, slack, rows,
):  # fmt: skip
    """Of the flow p = l grad z of a separable operator (see `bounds._Separable`), per row of `rows` (n0 n1, 5):

    0: ``sum p^2 / g + q^2 / w``  1: ``z'Kz``  2: ``s'z``  3: ``sum |s z|``
    4: ``sum (|s - div p| + slack (|s| + sum |p|))^2 * inverse``, what the flow misses of s.
    """
    n0, n1, n2 = z.shape
    for i in range(n0):
        for j in range(n1):
            flow = work = power = spread = missed = 0.0
            for k in range(n2):
                c = z[i, j, k]
                across0, across1, across2 = (
                    weights1[j] * weights2[k],
                    weights0[i] * weights2[k],
                    weights0[i] * weights1[j],
                )
                wall = shift * weights0[i] * across0 + walls0[i] * across0 + walls1[j] * across1 + walls2[k] * across2
                q = wall * c
                out = q
                size = abs(q)
                w = diagonal[i, j, k]
                work += w * c * c
                if wall > 0.0:
                    flow += q * q / w
                if n2 > 1:
                    if k > 0 or periodic[2]:
                        jump = c - z[i, j, k - 1 if k > 0 else n2 - 1]
                        p = faces2[k] * across2 * jump
                        out += p
                        size += abs(p)
                        flow += p * p / g2[i, j, k]
                        work += g2[i, j, k] * jump * jump
                    if k < n2 - 1 or periodic[2]:
                        p = faces2[k + 1] * across2 * (c - z[i, j, k + 1 if k < n2 - 1 else 0])
                        out += p
                        size += abs(p)
                if n1 > 1:
                    if j > 0 or periodic[1]:
                        jump = c - z[i, j - 1 if j > 0 else n1 - 1, k]
                        p = faces1[j] * across1 * jump
                        out += p
                        size += abs(p)
                        flow += p * p / g1[i, j, k]
                        work += g1[i, j, k] * jump * jump
                    if j < n1 - 1 or periodic[1]:
                        p = faces1[j + 1] * across1 * (c - z[i, j + 1 if j < n1 - 1 else 0, k])
                        out += p
                        size += abs(p)
                if n0 > 1:
                    if i > 0 or periodic[0]:
                        jump = c - z[i - 1 if i > 0 else n0 - 1, j, k]
                        p = faces0[i] * across0 * jump
                        out += p
                        size += abs(p)
                        flow += p * p / g0[i, j, k]
                        work += g0[i, j, k] * jump * jump
                    if i < n0 - 1 or periodic[0]:
                        p = faces0[i + 1] * across0 * (c - z[i + 1 if i < n0 - 1 else 0, j, k])
                        out += p
                        size += abs(p)
                here = s[i, j, k]
                power += here * c
                spread += abs(here * c)
                miss = abs(here - out) + slack * (abs(here) + size)
                missed += miss * miss * inverse[i, j, k]
            row = i * n1 + j
            rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3], rows[row, 4] = flow, work, power, spread, missed


@jit
def extremes(
    g0, g1, g2, diagonal, periodic,
    faces0, faces1, faces2, walls0, walls1, walls2, weights0, weights1, weights2, shift, rows,
):  # fmt: skip
    """Per row of `rows` (n0 n1, 3): smallest and largest ratio of K to L over faces and diagonal terms of L; and 1 where
    K has a diagonal term that L has not."""
    n0, n1, n2 = diagonal.shape
    for i in range(n0):
        for j in range(n1):
            least, most, extra = np.inf, 0.0, 0.0
            for k in range(n2):
                across0, across1, across2 = (
                    weights1[j] * weights2[k],
                    weights0[i] * weights2[k],
                    weights0[i] * weights1[j],
                )
                wall = shift * weights0[i] * across0 + walls0[i] * across0 + walls1[j] * across1 + walls2[k] * across2
                if wall > 0.0:
                    ratio = diagonal[i, j, k] / wall
                    least, most = min(least, ratio), max(most, ratio)
                elif diagonal[i, j, k] > 0.0:
                    extra = 1.0
                if n2 > 1 and (k > 0 or periodic[2]):
                    ratio = g2[i, j, k] / (faces2[k] * across2)
                    least, most = min(least, ratio), max(most, ratio)
                if n1 > 1 and (j > 0 or periodic[1]):
                    ratio = g1[i, j, k] / (faces1[j] * across1)
                    least, most = min(least, ratio), max(most, ratio)
                if n0 > 1 and (i > 0 or periodic[0]):
                    ratio = g0[i, j, k] / (faces0[i] * across0)
                    least, most = min(least, ratio), max(most, ratio)
            row = i * n1 + j
            rows[row, 0], rows[row, 1], rows[row, 2] = least, most, extra
