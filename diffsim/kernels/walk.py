"""Random walks: an exact jump process on cells, and Brownian walkers in the continuum.

Every block of particles owns a random stream, so results do not depend on the number of threads.
"""

import math

import numpy as np
from numba import njit, prange

BLOCK = 256  # particles that share a stream

_exact = njit(cache=True, error_model="numpy", nogil=True)
_parallel = njit(cache=True, error_model="numpy", nogil=True, parallel=True)


@_exact
def _next(s):
    """xoshiro256++ 1.0 (D. Blackman, S. Vigna, 2019): 64 random bits; `s` is the state, (4,) uint64."""
    x = s[0] + s[3]
    result = ((x << np.uint64(23)) | (x >> np.uint64(41))) + s[0]
    t = s[1] << np.uint64(17)
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = (s[3] << np.uint64(45)) | (s[3] >> np.uint64(19))
    return result


@_exact
def _uniform(s):
    """Uniform on (0, 1), never 0, so that its logarithm is finite."""
    return (np.float64(_next(s) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@_parallel
def jump(streams, table, total, strides, wraps, shape, until, times, cells, exits):
    """Run the jump process of every particle from times[p] to `until` (exact: no time step).

    A particle in cell i waits an exponential time of rate total[i], then leaves through one of six faces or
    out of the domain with the probabilities whose running sums are table[i] (order: down and up along each
    axis; the rest is the way out).

    cells (P,) int64: start cell, replaced by the last cell. exits (P,): -1 while inside, otherwise a uniform
    number that chooses among the ways out of the last cell; times (P,): start time, replaced by `until` or
    the time of leaving. Returns the number of jumps per block.
    """
    n = cells.size
    jumps = np.zeros(streams.shape[0], np.int64)
    for b in prange(streams.shape[0]):
        s = streams[b].copy()
        count = 0
        for p in range(b * BLOCK, min(n, (b + 1) * BLOCK)):
            i = cells[p]
            t = times[p]
            while total[i] > 0.0:
                t -= math.log(_uniform(s)) / total[i]
                if t >= until:
                    break
                count += 1
                r = _uniform(s)
                way = 0
                while way < 6 and r >= table[i, way]:
                    way += 1
                if way == 6:
                    last = table[i, 5]
                    exits[p] = min((r - last) / (1.0 - last), 1.0)
                    break
                axis = way // 2
                k = (i // strides[axis]) % shape[axis]
                if way % 2 == 0:
                    i += wraps[axis] if k == 0 else -strides[axis]
                else:
                    i += -wraps[axis] if k == shape[axis] - 1 else strides[axis]
            cells[p] = i
            times[p] = min(t, until)
        jumps[b] = count
    return jumps


@_exact
def _bracket(nodes, x):
    """Index k and weight w with x = (1 - w) nodes[k] + w nodes[k + 1], clamped to the ends."""
    lo, hi = 0, nodes.size - 1
    if x <= nodes[0]:
        return 0, 0.0
    if x >= nodes[hi]:
        return hi - 1, 1.0
    while hi - lo > 1:
        mid = (lo + hi) // 2
        if nodes[mid] <= x:
            lo = mid
        else:
            hi = mid
    return lo, (x - nodes[lo]) / (nodes[lo + 1] - nodes[lo])


@_exact
def _sample(field, lead, index, weight, nodes, offsets, out):
    """Multilinear `field` in the bracketed box: out[3] the value, out[a] its slope along the axes a >=
    lead."""
    if field.size == 1:  # a constant
        out[3] = field[0, 0, 0]
        for a in range(lead, 3):
            out[a] = 0.0
        return
    for a in range(lead, 4):
        out[a] = 0.0
    for corner in range(1 << (3 - lead)):
        product = 1.0
        i0, i1, i2 = index[0], index[1], index[2]
        for a in range(lead, 3):
            up = (corner >> (a - lead)) & 1
            product *= weight[a] if up else 1 - weight[a]
            if a == 0:
                i0 += up
            elif a == 1:
                i1 += up
            else:
                i2 += up
        f = field[i0, i1, i2]
        out[3] += product * f
        for a in range(lead, 3):  # the slope: the weight of axis a replaced by its derivative
            partial = 1.0 / (nodes[offsets[a] + index[a] + 1] - nodes[offsets[a] + index[a]])
            for other in range(lead, 3):
                up = (corner >> (other - lead)) & 1
                if other == a:
                    partial = partial if up else -partial
                else:
                    partial *= weight[other] if up else 1 - weight[other]
            out[a] += partial * f


@_exact
def _laws(x, lead, nodes, offsets, d0, d1, d2, capacity, potential, kappa, drift, index, weight, work, metropolis):
    """kappa_a = D_a / c, drift_a = (dD_a/da - D_a dV/da) / c; returns ln c - V, the log of the density at
    rest, where `metropolis` needs it."""
    for a in range(lead, 3):
        index[a], weight[a] = _bracket(nodes[offsets[a] : offsets[a + 1]], x[a])
    _sample(capacity, lead, index, weight, nodes, offsets, work)
    c = work[3]
    _sample(potential, lead, index, weight, nodes, offsets, work)
    v = work[3]
    for a in range(lead, 3):
        drift[a] = -work[a]
    for a in range(lead, 3):
        _sample(d0 if a == 0 else (d1 if a == 1 else d2), lead, index, weight, nodes, offsets, work)
        kappa[a] = work[3] / c
        drift[a] = (work[a] + work[3] * drift[a]) / c
    return math.log(c) - v if metropolis else 0.0


@_parallel
def brown(
    streams,
    x0,
    lead,
    lows,
    highs,
    kinds,
    nodes,
    offsets,
    d0,
    d1,
    d2,
    capacity,
    potential,
    loss,
    metropolis,
    dt,
    steps,
    out,
    exits,
):
    """Euler-Maruyama steps of Brownian walkers, `steps` of size `dt`.

    The axes before `lead` only pad the grid. The lattice of axis a is ``nodes[offsets[a] : offsets[a + 1]]``;
    d0, d1, d2 (D along each axis), capacity and potential live on it, or have size 1 where constant.

    kinds (3, 2): what an end of an axis does, 0 reflects, 1 absorbs, 2 periodic. Reflection folds the path
    back; absorption also catches paths that crossed between two steps (probability exp(-a b / (kappa dt)) for
    distances a, b before and after, the law of the Brownian bridge). With `metropolis` a step is accepted
    with the ratio that keeps the stationary density c exp(-V) exact, and a step out of the box is refused
    instead of folded.

    x0 (P, 3): start points. out (P, 3): end points. exits (P,) int64: -1 inside, 2 a + end where absorbed, 6
    where lost to the surroundings (`loss`, b / c per second).
    """
    n = x0.shape[0]
    for b in prange(streams.shape[0]):
        s = streams[b].copy()
        x, y = np.empty(3), np.empty(3)
        kappa, drift, kappa_y, drift_y = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
        work, weight, index = np.empty(4), np.zeros(3), np.zeros(3, np.int64)
        spare = 0.0
        has_spare = False
        for p in range(b * BLOCK, min(n, (b + 1) * BLOCK)):
            for a in range(3):
                x[a] = x0[p, a]
            gone = -1
            density = _laws(
                x,
                lead,
                nodes,
                offsets,
                d0,
                d1,
                d2,
                capacity,
                potential,
                kappa,
                drift,
                index,
                weight,
                work,
                metropolis,
            )
            for _ in range(steps):
                refused = False
                for a in range(lead, 3):
                    low, high = lows[a], highs[a]
                    if has_spare:
                        normal, has_spare = spare, False
                    else:  # Box-Muller makes two at a time
                        r, angle = math.sqrt(-2 * math.log(_uniform(s))), 2 * math.pi * _uniform(s)
                        normal, spare, has_spare = r * math.cos(angle), r * math.sin(angle), True
                    z = x[a] + drift[a] * dt + math.sqrt(2 * kappa[a] * dt) * normal
                    if kinds[a, 0] == 2:
                        z = low + (z - low) % (high - low)
                    else:
                        for end in range(2):
                            if kinds[a, end] == 1 and kappa[a] > 0:
                                before = x[a] - low if end == 0 else high - x[a]
                                after = z - low if end == 0 else high - z
                                if after <= 0 or _uniform(s) < math.exp(-before * after / (kappa[a] * dt)):
                                    gone = 2 * a + end
                        if gone < 0 and (z < low or z > high):
                            if metropolis:
                                refused = True
                            else:
                                width = high - low  # folding, as often as the step is long
                                z = (z - low) % (2 * width)
                                z = low + (z if z <= width else 2 * width - z)
                    y[a] = z
                    if gone >= 0:
                        break
                if gone < 0 and loss > 0 and _uniform(s) > math.exp(-loss * dt):
                    gone = 6
                if gone >= 0:
                    break
                if refused:
                    continue
                density_y = _laws(
                    y,
                    lead,
                    nodes,
                    offsets,
                    d0,
                    d1,
                    d2,
                    capacity,
                    potential,
                    kappa_y,
                    drift_y,
                    index,
                    weight,
                    work,
                    metropolis,
                )
                if metropolis:
                    ratio = density_y - density
                    for a in range(lead, 3):
                        if kappa[a] <= 0 or kappa_y[a] <= 0:
                            continue
                        step = y[a] - x[a]
                        if kinds[a, 0] == 2:  # the short way round
                            width = highs[a] - lows[a]
                            step -= width * round(step / width)
                        forth, back = step - drift[a] * dt, -step - drift_y[a] * dt
                        ratio += forth * forth / (4 * kappa[a] * dt) - back * back / (4 * kappa_y[a] * dt)
                        ratio += 0.5 * math.log(kappa[a] / kappa_y[a])
                    if ratio < 0 and math.log(_uniform(s)) > ratio:
                        continue
                density = density_y
                for a in range(lead, 3):
                    x[a], kappa[a], drift[a] = y[a], kappa_y[a], drift_y[a]
            for a in range(3):
                out[p, a] = x[a]
            exits[p] = gone
