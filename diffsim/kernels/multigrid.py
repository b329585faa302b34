"""Compiled loops of the multigrid solver: conjugate gradients in double, V-cycles in single precision.

The matrix is never stored: ``(K u)_i = w_i u_i + sum_f g_f (u_i - u_j)`` is applied from its face conductances.
Arrays are padded to three axes, and work is cut into rows (the last axis, which is contiguous). A function whose name
ends in ``_rows`` treats rows ``lo .. hi - 1`` and writes to no other, so any split over threads gives the same bits;
sums are kept per row and added in order afterwards. At sides the neighbour's index wraps around: the conductance there
is 0 unless the axis is periodic, so the value read does not matter.

A hierarchy is one flat single-precision array (`arena`) and one table of integers: per level its shape, and where its
arrays begin. Level arrays are views into the arena.
"""

import numpy as np
from numba import njit, prange

_compiled = njit(cache=True, error_model="numpy")
_threaded = njit(cache=True, error_model="numpy", parallel=True)

# The three Richardson steps of a degree-3 Chebyshev polynomial on [0.4, 2.04], the upper part of the spectrum of
# D^-1 K (which Gershgorin bounds by 2): root k is 1.22 + 0.82 cos((2k + 1) pi / 6).
STEP_1 = np.float32(1.0 / (1.22 + 0.82 * np.cos(np.pi / 6)))
STEP_2 = np.float32(1.0 / 1.22)
STEP_3 = np.float32(1.0 / (1.22 - 0.82 * np.cos(np.pi / 6)))

# Columns of the level table.
SHAPE, G0, G1, G2, W, DINV, B, X, Y = 0, 3, 4, 5, 6, 7, 8, 9, 10
BLOCK = 11  # coarsening factor per axis towards the next level
COLUMNS = 14


@_compiled
def cube(arena, start, n0, n1, n2):
    """View of `n0 n1 n2` numbers of the arena from `start` on."""
    return arena[start : start + n0 * n1 * n2].reshape(n0, n1, n2)


# --- conjugate gradients, double precision ----------------------------------------------------------------------------


@_compiled
def row_dot(a, b):
    """Sum of a_k b_k in a fixed order, with four running sums to hide the latency of additions."""
    n = a.size
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    m = n - n % 4
    for k in range(0, m, 4):
        s0 += a[k] * b[k]
        s1 += a[k + 1] * b[k + 1]
        s2 += a[k + 2] * b[k + 2]
        s3 += a[k + 3] * b[k + 3]
    for k in range(m, n):
        s0 += a[k] * b[k]
    return (s0 + s1) + (s2 + s3)


@_compiled
def apply_row(g0, g1, g2, w, u, i, j, q):
    """One row (i, j) of ``K u`` into q, (n2,)."""
    n0, n1, n2 = u.shape
    below, above = u[i - 1 if i > 0 else n0 - 1, j], u[i + 1 if i < n0 - 1 else 0, j]
    left, right = u[i, j - 1 if j > 0 else n1 - 1], u[i, j + 1 if j < n1 - 1 else 0]
    ga, gb, gc, gd, ge = g0[i, j], g0[i + 1, j], g1[i, j], g1[i, j + 1], g2[i, j]
    own, loss = u[i, j], w[i, j]
    for k in range(1, n2 - 1):
        c = own[k]
        q[k] = (
            loss[k] * c
            + ga[k] * (c - below[k])
            + gb[k] * (c - above[k])
            + gc[k] * (c - left[k])
            + gd[k] * (c - right[k])
            + ge[k] * (c - own[k - 1])
            + ge[k + 1] * (c - own[k + 1])
        )
    for k in (0, n2 - 1):
        c = own[k]
        q[k] = (
            loss[k] * c
            + ga[k] * (c - below[k])
            + gb[k] * (c - above[k])
            + gc[k] * (c - left[k])
            + gd[k] * (c - right[k])
            + ge[k] * (c - own[k - 1 if k > 0 else n2 - 1])
            + ge[k + 1] * (c - own[k + 1 if k < n2 - 1 else 0])
        )


@_compiled
def magnitude_row(g0, g1, g2, w, u, i, j, q):
    """One row of ``|K| |u|``: the scale of the rounding errors in ``K u``."""
    n0, n1, n2 = u.shape
    ia, ib = i - 1 if i > 0 else n0 - 1, i + 1 if i < n0 - 1 else 0
    ja, jb = j - 1 if j > 0 else n1 - 1, j + 1 if j < n1 - 1 else 0
    for k in range(n2):
        ka, kb = k - 1 if k > 0 else n2 - 1, k + 1 if k < n2 - 1 else 0
        c = abs(u[i, j, k])
        q[k] = (
            w[i, j, k] * c
            + g0[i, j, k] * (c + abs(u[ia, j, k]))
            + g0[i + 1, j, k] * (c + abs(u[ib, j, k]))
            + g1[i, j, k] * (c + abs(u[i, ja, k]))
            + g1[i, j + 1, k] * (c + abs(u[i, jb, k]))
            + g2[i, j, k] * (c + abs(u[i, j, ka]))
            + g2[i, j, k + 1] * (c + abs(u[i, j, kb]))
        )


# Jobs of one conjugate-gradient pass.
RESIDUAL, LOAD, PRODUCTS, DIRECTION, APPLY, UPDATE = 0, 1, 2, 3, 4, 5


@_compiled
def cg_rows(job, lo, hi, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums):
    """One pass of conjugate gradients over rows lo..hi-1; `sums` (rows, 2) receives two numbers a row.

    RESIDUAL   r = b - K x; (r r, (|K| |x| + |b|)²)
    LOAD       hand alpha r to the V-cycle: its right-hand side, and its first smoothing step from a zero guess
    PRODUCTS   (r z, q z)
    DIRECTION  p = z + alpha p
    APPLY      q = K p; (p q, -)
    UPDATE     x += alpha p, r -= alpha q; (r r, -)
    """
    n1, n2 = x.shape[1], x.shape[2]
    scratch = np.empty(n2)
    for row in range(lo, hi):
        i, j = row // n1, row % n1
        if job == RESIDUAL:
            magnitude_row(g0, g1, g2, w, x, i, j, scratch)
            for k in range(n2):
                scratch[k] += abs(b[i, j, k])
            sums[row, 1] = row_dot(scratch, scratch)
            apply_row(g0, g1, g2, w, x, i, j, scratch)
            for k in range(n2):
                r[i, j, k] = b[i, j, k] - scratch[k]
            sums[row, 0] = row_dot(r[i, j], r[i, j])
        elif job == LOAD:
            rr, fr, gr, dr = r[i, j], rhs[i, j], guess[i, j], dinv[i, j]
            for k in range(n2):
                value = np.float32(alpha * rr[k])
                fr[k] = value
                gr[k] = STEP_1 * dr[k] * value
        elif job == PRODUCTS:
            sums[row, 0] = row_dot(r[i, j], z[i, j])
            sums[row, 1] = row_dot(q[i, j], z[i, j])
        elif job == DIRECTION:
            pr, zr = p[i, j], z[i, j]
            for k in range(n2):
                pr[k] = zr[k] + alpha * pr[k]
        elif job == APPLY:
            apply_row(g0, g1, g2, w, p, i, j, q[i, j])
            sums[row, 0] = row_dot(p[i, j], q[i, j])
        else:
            xr, rr, pr, qr = x[i, j], r[i, j], p[i, j], q[i, j]
            for k in range(n2):
                xr[k] += alpha * pr[k]
                rr[k] -= alpha * qr[k]
            sums[row, 0] = row_dot(rr, rr)


@_threaded
def cg_threads(job, blocks, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums):
    """`cg_rows` over all rows, in `blocks` pieces."""
    rows = x.shape[0] * x.shape[1]
    for piece in prange(blocks):
        lo, hi = np.int64(piece) * rows // blocks, (np.int64(piece) + 1) * rows // blocks
        cg_rows(job, lo, hi, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums)


@_compiled
def cg_pass(job, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums, blocks):
    """One pass on one thread (`blocks` None: nothing parallel is compiled) or several; returns the two total sums."""
    if blocks is None:
        cg_rows(job, 0, x.shape[0] * x.shape[1], g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums)
    else:
        cg_threads(job, blocks, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums)
    first, second = 0.0, 0.0
    for row in range(sums.shape[0]):
        first += sums[row, 0]
        second += sums[row, 1]
    return first, second


@_compiled
def pcg(g0, g1, g2, w, b, x, tol, max_iterations, table, arena, dense, blocks):
    """Solve ``K x = b`` in place by conjugate gradients with V-cycles; x holds the first guess.

    Returns (iterations, ||b - K x||, ||b||, rounding), the last the size of the rounding errors in that residual: no
    double-precision x can be expected to have a smaller one. The direction is updated by Polak and Ribiere's formula,
    which keeps conjugacy although single precision makes the preconditioner slightly nonlinear (Notay, Flexible
    conjugate gradients, SIAM J. Sci. Comput. 22, 2000).
    """
    r, p, q = np.empty_like(x), np.zeros_like(x), np.empty_like(x)
    n0, n1, n2 = x.shape
    rhs, guess = cube(arena, table[0, B], n0, n1, n2), cube(arena, table[0, X], n0, n1, n2)
    dinv, z = cube(arena, table[0, DINV], n0, n1, n2), cube(arena, table[0, Y], n0, n1, n2)
    sums = np.zeros((x.shape[0] * x.shape[1], 2))
    size = 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            size += row_dot(b[i, j], b[i, j])
    size = np.sqrt(size)
    rr, magnitude = cg_pass(RESIDUAL, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, 0.0, sums, blocks)
    iterations, residual, rounding = 0, np.sqrt(rr), 2.3e-16 * np.sqrt(magnitude)
    while iterations < max_iterations and residual > tol * size and residual > 2.0 * rounding:
        before, rz, alpha, beta = residual, 0.0, 0.0, 0.0
        while iterations < max_iterations:
            cg_pass(LOAD, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, 1.0 / size, sums, blocks)
            vcycle(table, arena, dense, blocks)
            product, mixed = cg_pass(PRODUCTS, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, 0.0, sums, blocks)
            if rz > 0.0:
                beta = -alpha * mixed / rz
            rz = product
            if not rz > 0.0:
                break
            cg_pass(DIRECTION, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, max(beta, 0.0), sums, blocks)
            pq, _ = cg_pass(APPLY, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, 0.0, sums, blocks)
            if not pq > 0.0:
                break
            alpha = rz / pq
            rr, _ = cg_pass(UPDATE, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, alpha, sums, blocks)
            iterations += 1
            if not np.sqrt(rr) > tol * size:
                break
        # The recurrence drifts from the true residual by rounding: measure, and start again where it matters.
        rr, magnitude = cg_pass(RESIDUAL, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, 0.0, sums, blocks)
        residual, rounding = np.sqrt(rr), 2.3e-16 * np.sqrt(magnitude)
        if not residual < 0.5 * before:
            break
    return iterations, residual, size, rounding


# --- V-cycle on aggregates, single precision --------------------------------------------------------------------------


@_compiled
def step_rows(lo, hi, g0, g1, g2, dinv, b, x, omega, y):
    """One Richardson step ``y = x + omega D^-1 (b - K x)``."""
    n0, n1, n2 = x.shape
    for row in range(lo, hi):
        i, j = row // n1, row % n1
        below, above = x[i - 1 if i > 0 else n0 - 1, j], x[i + 1 if i < n0 - 1 else 0, j]
        left, right = x[i, j - 1 if j > 0 else n1 - 1], x[i, j + 1 if j < n1 - 1 else 0]
        ga, gb, gc, gd, ge = g0[i, j], g0[i + 1, j], g1[i, j], g1[i, j + 1], g2[i, j]
        own, rhs, inverse, out = x[i, j], b[i, j], dinv[i, j], y[i, j]
        for k in range(1, n2 - 1):
            pull = rhs[k] + ga[k] * below[k] + gb[k] * above[k] + gc[k] * left[k] + gd[k] * right[k]
            pull += ge[k] * own[k - 1] + ge[k + 1] * own[k + 1]
            out[k] = own[k] + omega * (pull * inverse[k] - own[k])
        for k in (0, n2 - 1):
            pull = rhs[k] + ga[k] * below[k] + gb[k] * above[k] + gc[k] * left[k] + gd[k] * right[k]
            pull += ge[k] * own[k - 1 if k > 0 else n2 - 1] + ge[k + 1] * own[k + 1 if k < n2 - 1 else 0]
            out[k] = own[k] + omega * (pull * inverse[k] - own[k])


@_compiled
def restrict_rows(lo, hi, g0, g1, g2, w, b, x, f0, f1, f2, dinv, bc, xc):
    """Coarse rows: bc = sum of ``b - K x`` over each aggregate, and xc, the coarse level's first smoothing step."""
    n0, n1, n2 = x.shape
    m1, m2 = bc.shape[1], bc.shape[2]
    flow = np.empty(n2, dtype=np.float32)
    for row in range(lo, hi):
        ci, cj = row // m1, row % m1
        total = bc[ci, cj]
        total[:] = np.float32(0.0)
        for i in range(ci * f0, min(ci * f0 + f0, n0)):
            for j in range(cj * f1, min(cj * f1 + f1, n1)):
                apply_row(g0, g1, g2, w, x, i, j, flow)
                rhs = b[i, j]
                if f2 == 2:
                    for k in range(n2 // 2):
                        total[k] += (rhs[2 * k] - flow[2 * k]) + (rhs[2 * k + 1] - flow[2 * k + 1])
                    if n2 % 2:
                        total[m2 - 1] += rhs[n2 - 1] - flow[n2 - 1]
                else:
                    for k in range(n2):
                        total[k] += rhs[k] - flow[k]
        guess, inverse = xc[ci, cj], dinv[ci, cj]
        for k in range(m2):
            guess[k] = STEP_1 * inverse[k] * total[k]


@_compiled
def prolong_rows(lo, hi, f0, f1, f2, e, x):
    """x += e of the aggregate each cell belongs to."""
    n1, n2 = x.shape[1], x.shape[2]
    for row in range(lo, hi):
        i, j = row // n1, row % n1
        coarse, fine = e[i // f0, j // f1], x[i, j]
        if f2 == 2:
            for k in range(n2 // 2):
                fine[2 * k] += coarse[k]
                fine[2 * k + 1] += coarse[k]
            if n2 % 2:
                fine[n2 - 1] += coarse[n2 // 2]
        else:
            for k in range(n2):
                fine[k] += coarse[k]


# Jobs of one pass over a level.
FORWARD, BACKWARD, RESTRICT, PROLONG = 0, 1, 2, 3


@_compiled
def level_rows(job, lo, hi, table, arena, level, omega):
    """One pass over rows of a level. FORWARD: step x -> y; BACKWARD: step y -> x; RESTRICT from x; PROLONG into x."""
    line = table[level]
    n0, n1, n2 = line[SHAPE], line[SHAPE + 1], line[SHAPE + 2]
    g0, g1, g2 = (
        cube(arena, line[G0], n0 + 1, n1, n2),
        cube(arena, line[G1], n0, n1 + 1, n2),
        cube(arena, line[G2], n0, n1, n2 + 1),
    )
    b, x, y = cube(arena, line[B], n0, n1, n2), cube(arena, line[X], n0, n1, n2), cube(arena, line[Y], n0, n1, n2)
    f0, f1, f2 = line[BLOCK], line[BLOCK + 1], line[BLOCK + 2]
    if job == FORWARD or job == BACKWARD:
        dinv = cube(arena, line[DINV], n0, n1, n2)
        if job == FORWARD:
            step_rows(lo, hi, g0, g1, g2, dinv, b, x, omega, y)
        else:
            step_rows(lo, hi, g0, g1, g2, dinv, b, y, omega, x)
    else:
        below = table[level + 1]
        m0, m1, m2 = below[SHAPE], below[SHAPE + 1], below[SHAPE + 2]
        if job == RESTRICT:
            w = cube(arena, line[W], n0, n1, n2)
            dinv, bc = cube(arena, below[DINV], m0, m1, m2), cube(arena, below[B], m0, m1, m2)
            xc = cube(arena, below[X], m0, m1, m2)
            restrict_rows(lo, hi, g0, g1, g2, w, b, x, f0, f1, f2, dinv, bc, xc)
        else:
            prolong_rows(lo, hi, f0, f1, f2, cube(arena, below[Y], m0, m1, m2), x)


@_threaded
def level_threads(job, blocks, rows, table, arena, level, omega):
    """`level_rows` over all rows, in `blocks` pieces."""
    for piece in prange(blocks):
        lo, hi = np.int64(piece) * rows // blocks, (np.int64(piece) + 1) * rows // blocks
        level_rows(job, lo, hi, table, arena, level, omega)


PARALLEL_CELLS = 20_000  # below this a level is done before a second thread has woken


@_compiled
def level_pass(job, table, arena, level, omega, blocks):
    """One pass over a whole level, on one thread or several."""
    target = level + 1 if job == RESTRICT else level
    rows = table[target, SHAPE] * table[target, SHAPE + 1]
    if blocks is None or table[level, SHAPE] * table[level, SHAPE + 1] * table[level, SHAPE + 2] < PARALLEL_CELLS:
        level_rows(job, 0, rows, table, arena, level, omega)
    else:
        level_threads(job, blocks, rows, table, arena, level, omega)


@_compiled
def vcycle(table, arena, dense, blocks):
    """One symmetric V-cycle: from b (and the first step in x) of level 0 to the correction in y of level 0."""
    last = table.shape[0] - 1
    for level in range(last):
        level_pass(FORWARD, table, arena, level, STEP_2, blocks)
        level_pass(BACKWARD, table, arena, level, STEP_3, blocks)
        level_pass(RESTRICT, table, arena, level, STEP_1, blocks)
    solve_dense(dense, arena, table[last, B], table[last, Y])
    for level in range(last - 1, -1, -1):
        level_pass(PROLONG, table, arena, level, STEP_1, blocks)
        level_pass(FORWARD, table, arena, level, STEP_3, blocks)
        level_pass(BACKWARD, table, arena, level, STEP_2, blocks)
        level_pass(FORWARD, table, arena, level, STEP_1, blocks)


# --- setting up -------------------------------------------------------------------------------------------------------


@_compiled
def inverse_diagonal(table, arena, level):
    """1 / (sum of conductances + w) of a level; 0 for cells that nothing is attached to."""
    line = table[level]
    n0, n1, n2 = line[SHAPE], line[SHAPE + 1], line[SHAPE + 2]
    g0, g1, g2 = (
        cube(arena, line[G0], n0 + 1, n1, n2),
        cube(arena, line[G1], n0, n1 + 1, n2),
        cube(arena, line[G2], n0, n1, n2 + 1),
    )
    w, dinv = cube(arena, line[W], n0, n1, n2), cube(arena, line[DINV], n0, n1, n2)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                d = g0[i, j, k] + g0[i + 1, j, k] + g1[i, j, k] + g1[i, j + 1, k]
                d += g2[i, j, k] + g2[i, j, k + 1] + w[i, j, k]
                dinv[i, j, k] = np.float32(1.0) / d if d > 0 else np.float32(0.0)


@_compiled
def copy_scaled(source, scale, target):
    """target = scale * source, flat, into single precision."""
    for k in range(source.size):
        target[k] = source[k] * scale


@_compiled
def coarsen_faces(g, axis, f0, f1, f2, coarse):
    """Conductances between aggregates: the sum over the faces they share, halved along a coarsened axis.

    The plain (Galerkin) sum is twice too stiff for smooth errors, since aggregates are twice as far apart as cells;
    halving it is over-correction (Braess, Towards algebraic multigrid for elliptic problems, Computing 55, 1995).
    """
    n0, n1, n2 = g.shape[0], g.shape[1], g.shape[2]
    m0, m1, m2 = coarse.shape
    factor = np.float32(0.5) if (f0, f1, f2)[axis] == 2 else np.float32(1.0)
    if (m0, m1, m2)[axis] == 2:  # one aggregate only: nothing to join
        factor = np.float32(0.0)
    for i in range(m0):
        i0, i1 = (min(i * f0, n0 - 1), min(i * f0, n0 - 1) + 1) if axis == 0 else (i * f0, min(i * f0 + f0, n0))
        for j in range(m1):
            j0, j1 = (min(j * f1, n1 - 1), min(j * f1, n1 - 1) + 1) if axis == 1 else (j * f1, min(j * f1 + f1, n1))
            for k in range(m2):
                k0, k1 = (min(k * f2, n2 - 1), min(k * f2, n2 - 1) + 1) if axis == 2 else (k * f2, min(k * f2 + f2, n2))
                total = np.float32(0.0)
                for a in range(i0, i1):
                    for c in range(j0, j1):
                        for e in range(k0, k1):
                            total += g[a, c, e]
                coarse[i, j, k] = factor * total


@_compiled
def coarsen_walls(g0, g1, g2, w, f0, f1, f2, coarse):
    """w of the aggregates: each cell's w in series with the half cell that its aggregate's centre is further away.

    A wall (w of the order of a face) is halved as the faces are; a small loss is summed unchanged.
    """
    n0, n1, n2 = w.shape
    coarse[:] = np.float32(0.0)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                own = w[i, j, k]
                if own > 0:
                    faces, count = np.float32(0.0), 0
                    for g in (g0[i, j, k], g0[i + 1, j, k], g1[i, j, k], g1[i, j + 1, k], g2[i, j, k], g2[i, j, k + 1]):
                        faces += g
                        count += g > 0
                    if faces > 0:
                        own /= np.float32(1.0) + min(np.float32(1.0), own * np.float32(0.5) * np.float32(count) / faces)
                    coarse[i // f0, j // f1, k // f2] += own


@_compiled
def coarsen(table, arena, level):
    """Fill level + 1 from `level`."""
    line, below = table[level], table[level + 1]
    n0, n1, n2 = line[SHAPE], line[SHAPE + 1], line[SHAPE + 2]
    m0, m1, m2 = below[SHAPE], below[SHAPE + 1], below[SHAPE + 2]
    f0, f1, f2 = line[BLOCK], line[BLOCK + 1], line[BLOCK + 2]
    g0, g1, g2 = (
        cube(arena, line[G0], n0 + 1, n1, n2),
        cube(arena, line[G1], n0, n1 + 1, n2),
        cube(arena, line[G2], n0, n1, n2 + 1),
    )
    coarsen_faces(g0, 0, f0, f1, f2, cube(arena, below[G0], m0 + 1, m1, m2))
    coarsen_faces(g1, 1, f0, f1, f2, cube(arena, below[G1], m0, m1 + 1, m2))
    coarsen_faces(g2, 2, f0, f1, f2, cube(arena, below[G2], m0, m1, m2 + 1))
    w, wc = cube(arena, line[W], n0, n1, n2), cube(arena, below[W], m0, m1, m2)
    coarsen_walls(g0, g1, g2, w, f0, f1, f2, wc)


@_compiled
def set_up(table, arena, g0, g1, g2, w, scale, dense):
    """Fill the hierarchy of ``scale * K`` and factorise its coarsest level."""
    copy_scaled(g0.reshape(-1), scale, arena[table[0, G0] : table[0, G0] + g0.size])
    copy_scaled(g1.reshape(-1), scale, arena[table[0, G1] : table[0, G1] + g1.size])
    copy_scaled(g2.reshape(-1), scale, arena[table[0, G2] : table[0, G2] + g2.size])
    copy_scaled(w.reshape(-1), scale, arena[table[0, W] : table[0, W] + w.size])
    for level in range(table.shape[0]):
        inverse_diagonal(table, arena, level)
        if level < table.shape[0] - 1:
            coarsen(table, arena, level)
    factorise(table, arena, dense)


@_compiled
def factorise(table, arena, dense):
    """L D L^T of the coarsest matrix in `dense`, L below the diagonal and 1 / D on it.

    A component without anchor ends in a pivot that is nothing but rounding: it is replaced by 0, which holds its last
    cell at 0 (any correction will do there, the right-hand side being balanced).
    """
    line = table[table.shape[0] - 1]
    n0, n1, n2 = line[SHAPE], line[SHAPE + 1], line[SHAPE + 2]
    dense[:] = 0.0
    for axis in range(3):
        f0, f1, f2 = np.int64(axis == 0), np.int64(axis == 1), np.int64(axis == 2)
        g = cube(arena, line[G0 + axis], n0 + f0, n1 + f1, n2 + f2)
        for i in range(n0):
            for j in range(n1):
                for k in range(n2):
                    here = (i * n1 + j) * n2 + k
                    there = ((i + f0) % n0 * n1 + (j + f1) % n1) * n2 + (k + f2) % n2
                    face = np.float64(g[i + f0, j + f1, k + f2])
                    if face > 0 and here != there:
                        dense[here, here] += face
                        dense[there, there] += face
                        dense[max(here, there), min(here, there)] -= face
    w = arena[line[W] : line[W] + n0 * n1 * n2]
    n = w.size
    for c in range(n):
        dense[c, c] += np.float64(w[c])
    for c in range(n):
        whole = dense[c, c]
        pivot = whole
        for k in range(c):
            # below the diagonal column k holds L_ck; 1 / D_k sits on the diagonal
            if dense[k, k] > 0:
                pivot -= dense[c, k] * dense[c, k] / dense[k, k]
        inverse = 1.0 / pivot if pivot > 1e-13 * n * whole else 0.0
        for i in range(c + 1, n):
            value = dense[i, c]
            for k in range(c):
                if dense[k, k] > 0:
                    value -= dense[i, k] * dense[c, k] / dense[k, k]
            dense[i, c] = value * inverse
        dense[c, c] = inverse


@_compiled
def solve_dense(dense, arena, rhs, out):
    """y = K^-1 b on the coarsest level from its factors."""
    n = dense.shape[0]
    y = np.empty(n)
    for i in range(n):
        value = np.float64(arena[rhs + i])
        for k in range(i):
            value -= dense[i, k] * y[k]
        y[i] = value
    for i in range(n):
        y[i] *= dense[i, i]
    for i in range(n - 1, -1, -1):
        value = y[i] if dense[i, i] > 0 else 0.0
        if dense[i, i] > 0:
            for k in range(i + 1, n):
                value -= dense[k, i] * y[k]
        y[i] = value
    for i in range(n):
        arena[out + i] = y[i]
