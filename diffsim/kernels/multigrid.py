"""Compiled loops of the multigrid solver: conjugate gradients in double precision, V-cycles mostly in single.

The matrix is never stored: ``(K u)_i = w_i u_i + sum_f g_f (u_i - u_j)`` is applied from its face conductances.
Arrays are padded to three axes, and work is cut into rows (the last axis, which is contiguous). A function whose name
ends in ``_rows`` treats rows ``lo .. hi - 1`` and writes to no other, so any split over threads gives the same bits;
sums are kept per row and added in order afterwards. At sides the neighbour's index wraps around: the conductance there
is 0 unless the axis is periodic, so the value read does not matter.

A hierarchy is one flat array (`arena`, in single precision unless the contrast asks for double) and one table of
integers: per level its shape, and where its arrays begin. Level arrays are views into the arena.
"""

import numpy as np
from numba import njit, prange

# Entries are called from Python and cached with all they call; the others need no wrappers and compile faster without.
_entry = njit(cache=True, error_model="numpy", nogil=True)
_compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
_threaded = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, parallel=True)

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


# Jobs of one conjugate-gradient pass. Not Python ints: numba would compile each pass once for every literal.
START = np.int64(0)
RESIDUAL, LOAD, PRODUCTS, DIRECTION, APPLY, UPDATE = np.arange(6)


@_compiled
def cg_rows(job, lo, hi, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, first, alpha, sums):
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
                fr[k] = alpha * rr[k]
                gr[k] = first * dr[k] * fr[k]
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
def cg_threads(job, blocks, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, first, alpha, sums):
    """`cg_rows` over all rows, in `blocks` pieces."""
    rows = x.shape[0] * x.shape[1]
    for piece in prange(blocks):
        lo, hi = np.int64(piece) * rows // blocks, (np.int64(piece) + 1) * rows // blocks
        cg_rows(job, lo, hi, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, first, alpha, sums)


@_entry
def pcg(g0, g1, g2, w, b, x, tol, max_iterations, aggregates, box, table, arena, dense, jobs, omegas, blocks):
    """Solve ``K x = b`` in place by conjugate gradients with V-cycles; x holds the first guess.

    `aggregates` to `blocks`: as `vcycle` takes them.

    Returns (iterations, ||b - K x||, ||b||, rounding), the last the size of the rounding errors in that residual: no
    double-precision x can be expected to have a smaller one. The direction is updated by Polak and Ribiere's formula,
    which keeps conjugacy although single precision makes the preconditioner slightly nonlinear (Notay, Flexible
    conjugate gradients, SIAM J. Sci. Comput. 22, 2000).
    """
    n0, n1, n2 = x.shape
    rows = n0 * n1
    r, p, q = np.empty_like(x), np.zeros_like(x), np.empty_like(x)
    sums = np.zeros((rows, 2))
    rhs, guess = cube(arena, table[0, B], n0, n1, n2), cube(arena, table[0, X], n0, n1, n2)
    dinv, z = cube(arena, table[0, DINV], n0, n1, n2), cube(arena, table[0, Y], n0, n1, n2)
    size = 0.0
    for row in range(rows):
        size += row_dot(b[row // n1, row % n1], b[row // n1, row % n1])
    size = np.sqrt(size)
    iterations, residual, rounding, before = 0, 0.0, 0.0, np.inf
    rz, alpha, beta, target, halfway = 0.0, 0.0, 0.0, 0.0, False
    job = RESIDUAL
    while True:  # one pass over the cells a turn
        factor = 1.0 / size if job == LOAD else beta if job == DIRECTION else alpha
        if blocks is None:
            cg_rows(job, START, rows, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, omegas[0], factor, sums)
        else:
            cg_threads(job, blocks, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, omegas[0], factor, sums)
        first, second = 0.0, 0.0
        for row in range(rows):
            first += sums[row, 0]
            second += sums[row, 1]
        if job == RESIDUAL:
            residual, rounding = np.sqrt(first), 2.3e-16 * np.sqrt(second)
            if residual <= max(tol * size, 2.0 * rounding) or iterations >= max_iterations:
                break
            if not residual < 0.5 * before:  # no progress, or not a number
                break
            if target == 0.0 or halfway:  # the start, or the first look at how far rounding lets it go
                target = max(tol * size, 1e-5 * size) if target == 0.0 else max(tol * size, 1.5 * rounding)
                halfway = not halfway
            else:  # the recurrence had drifted from the true residual: start again from there
                before, rz = residual, 0.0
            job = LOAD
        elif job == LOAD:
            vcycle(aggregates, box, table, arena, dense, jobs, omegas, blocks)
            job = PRODUCTS
        elif job == PRODUCTS:
            beta = max(-alpha * second / rz, 0.0) if rz > 0.0 else 0.0
            rz = first
            job = DIRECTION if rz > 0.0 else RESIDUAL
        elif job == DIRECTION:
            job = APPLY
        elif job == APPLY:
            alpha = rz / first if first > 0.0 else 0.0
            job = UPDATE if alpha > 0.0 else RESIDUAL
        else:
            iterations += 1
            job = LOAD if np.sqrt(first) > target and iterations < max_iterations else RESIDUAL
    return iterations, residual, size, rounding


# --- lines ------------------------------------------------------------------------------------------------------------


@_compiled
def chain(g, first, last, w, low, high, f, x):
    """Solve the equations of cells first .. last - 1 of a line, everything beyond held at 0.

    `low`, `high`: conductances to the outside at the two ends, added to w. Elimination in terms of conductances never
    subtracts (each pivot is what anchors the cells so far, in series with the next face), so it is exact to rounding at
    any contrast. Where nothing anchors a piece, its last cell is held at 0.
    """
    anchor = np.empty(last - first)
    held = 0.0
    carried = 0.0
    for k in range(first, last):
        own = w[k] + held
        if k == first:
            own += low
        if k == last - 1:
            own += high
        anchor[k - first] = own
        x[k] = f[k] + carried
        face = g[k + 1] if k < last - 1 else 0.0
        share = face / (own + face) if own + face > 0.0 else 0.0
        held, carried = own * share, x[k] * share
    for k in range(last - 1, first - 1, -1):
        face = g[k + 1] if k < last - 1 else 0.0
        pivot = anchor[k - first] + face
        beyond = face * x[k + 1] if k < last - 1 else 0.0
        x[k] = (x[k] + beyond) / pivot if pivot > 0.0 else 0.0


@_entry
def solve_line(g, w, f, x):
    """Solve ``K x = f`` of a line of cells directly; g (n + 1,) with equal ends where periodic, the others (n,)."""
    n = w.size
    if n < 3 or g[0] == 0.0:
        if n == 2 and g[0] > 0.0:  # both faces join the same two cells
            g = np.array([0.0, g[0] + g[1], 0.0])
        chain(g, 0, n, w, 0.0, 0.0, f, x)
        return
    # Cells 0 .. n - 2 with the last one at 0; and how far they rise above it where only w acts: t = 1 - (its influence).
    rise = np.empty(n)
    chain(g, 0, n - 1, w, g[0], g[n - 1], f, x)
    chain(g, 0, n - 1, w, g[0], g[n - 1], w, rise)
    loss = w[n - 1] + g[0] * rise[0] + g[n - 1] * rise[n - 2]
    inflow = f[n - 1] + g[0] * x[0] + g[n - 1] * x[n - 2]
    last = inflow / loss if loss > 0.0 else 0.0
    x[n - 1] = last
    for k in range(n - 1):
        x[k] += (1.0 - rise[k]) * last


# --- V-cycle on aggregates --------------------------------------------------------------------------------------------


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
def restrict_rows(lo, hi, g0, g1, g2, w, b, x, f0, f1, f2, dinv, bc, xc, omega):
    """Coarse rows: bc = sum of ``b - K x`` over each aggregate, and xc, the coarse level's first smoothing step."""
    n0, n1, n2 = x.shape
    m1, m2 = bc.shape[1], bc.shape[2]
    flow = np.empty(n2, dtype=x.dtype)
    for row in range(lo, hi):
        ci, cj = row // m1, row % m1
        total = bc[ci, cj]
        for k in range(m2):
            total[k] = 0.0
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
            guess[k] = omega * inverse[k] * total[k]


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
FORWARD, BACKWARD, RESTRICT, PROLONG = np.arange(4)


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
    if job <= BACKWARD:
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
            restrict_rows(lo, hi, g0, g1, g2, w, b, x, f0, f1, f2, dinv, bc, xc, omega)
        else:
            prolong_rows(lo, hi, f0, f1, f2, cube(arena, below[Y], m0, m1, m2), x)


@_threaded
def level_threads(job, blocks, rows, table, arena, level, omega):
    """`level_rows` over all rows, in `blocks` pieces."""
    for piece in prange(blocks):
        lo, hi = np.int64(piece) * rows // blocks, (np.int64(piece) + 1) * rows // blocks
        level_rows(job, lo, hi, table, arena, level, omega)


PARALLEL_CELLS = 20_000  # below this a level is done before a second thread has woken


# --- V-cycle on every other cell, two dimensions ------------------------------------------------------------------------
#
# Black-box multigrid (Dendy, Black box multigrid, J. Comput. Phys. 48, 1982): coarse cells are the odd ones along both
# axes, interpolation follows the matrix, coarse matrices are Galerkin products and have nine entries a row. A level
# keeps the couplings of each cell to its east, south, south-east and south-west neighbours, and w.


# Columns of the level table of a plane; W .. Y are shared with the table of aggregates.
EAST, SOUTH, SOUTHEAST, SOUTHWEST, TRANSFER = 3, 4, 5, 11, 12
HALO = 3  # rows and columns around a level while it is set up: wrapped where periodic, 0 elsewhere


@_compiled
def plane(arena, start, n1, n2):
    """View of `n1 n2` numbers of the arena from `start` on."""
    return arena[start : start + n1 * n2].reshape(n1, n2)


@_compiled
def rest_row(five, east, south, southeast, southwest, w, b, x, i, out):
    """Row i of ``b - K x``, from differences: what one cell loses its neighbour gains, also in single precision."""
    n1, n2 = x.shape
    up, down = i - 1 if i > 0 else n1 - 1, i + 1 if i < n1 - 1 else 0
    e, above, below, loss, rhs = east[i], south[up], south[i], w[i], b[i]
    own, xu, xd = x[i], x[up], x[down]
    for k in range(1, n2 - 1):
        c = own[k]
        flow = above[k] * (xu[k] - c) + below[k] * (xd[k] - c) + e[k - 1] * (own[k - 1] - c) + e[k] * (own[k + 1] - c)
        out[k] = rhs[k] - loss[k] * c + flow
    for k in (0, n2 - 1):
        c = own[k]
        a, d = k - 1 if k > 0 else n2 - 1, k + 1 if k < n2 - 1 else 0
        flow = above[k] * (xu[k] - c) + below[k] * (xd[k] - c) + e[a] * (own[a] - c) + e[k] * (own[d] - c)
        out[k] = rhs[k] - loss[k] * c + flow
    if not five:
        se_up, sw_up, se, sw = southeast[up], southwest[up], southeast[i], southwest[i]
        for k in range(1, n2 - 1):
            c = own[k]
            out[k] += (
                se_up[k - 1] * (xu[k - 1] - c)
                + sw_up[k + 1] * (xu[k + 1] - c)
                + se[k] * (xd[k + 1] - c)
                + sw[k] * (xd[k - 1] - c)
            )
        for k in (0, n2 - 1):
            c = own[k]
            a, d = k - 1 if k > 0 else n2 - 1, k + 1 if k < n2 - 1 else 0
            out[k] += se_up[a] * (xu[a] - c) + sw_up[d] * (xu[d] - c) + se[k] * (xd[d] - c) + sw[k] * (xd[a] - c)


# The eight weights of a fine cell's interpolation, (m1 + 2, m2 + 2) each, cell (I, J) at [I + 1, J + 1]:
# LEFT, RIGHT of the cell (2 I + 1, 2 J) between coarse columns J - 1 and J; UP, DOWN of (2 I, 2 J + 1) between
# coarse rows I - 1 and I; NW, NE, SW, SE of (2 I, 2 J) between four coarse cells.
LEFT, RIGHT, UP, DOWN, NW, NE, SW, SE = 0, 1, 2, 3, 4, 5, 6, 7
EIGHT = np.int64(8)


@_compiled
def box_restrict_rows(lo, hi, five, east, south, southeast, southwest, w, b, x, weights, dinv, bc, xc, omega):
    """Coarse rows: bc = P^T (b - K x), and xc, the coarse level's first smoothing step."""
    n1, n2 = x.shape
    m2 = bc.shape[1]
    rest = np.zeros((3, n2 + 3), dtype=x.dtype)  # columns -1 .. n2 + 1: wrapped, or met by weights that are 0
    for ci in range(lo, hi):
        for a in range(3):
            row = 2 * ci + a
            if a == 0 and ci > lo:
                for k in range(n2 + 2):
                    rest[0, k] = rest[2, k]
                continue
            if row >= n1:
                row -= n1  # wrapped, or met by weights that are 0
            rest_row(five, east, south, southeast, southwest, w, b, x, row, rest[a, 1 : n2 + 1])
            rest[a, 0], rest[a, n2 + 1] = rest[a, n2], rest[a, 1]
        above, own, below = rest[0], rest[1], rest[2]
        left, right = weights[LEFT, ci + 1], weights[RIGHT, ci + 1]
        down, up = weights[DOWN, ci + 1], weights[UP, ci + 2]
        se, sw, ne, nw = weights[SE, ci + 1], weights[SW, ci + 1], weights[NE, ci + 2], weights[NW, ci + 2]
        total, guess, inverse = bc[ci], xc[ci], dinv[ci]
        for k in range(m2):
            j = 2 * k + 2  # column of the coarse cell in `rest`
            value = own[j] + right[k + 1] * own[j - 1] + left[k + 2] * own[j + 1]
            value += down[k + 1] * above[j] + se[k + 1] * above[j - 1] + sw[k + 2] * above[j + 1]
            value += up[k + 1] * below[j] + ne[k + 1] * below[j - 1] + nw[k + 2] * below[j + 1]
            total[k] = value
            guess[k] = omega * inverse[k] * value


@_compiled
def box_prolong_rows(lo, hi, weights, e, x):
    """x += P e on fine rows lo .. hi - 1."""
    n2 = x.shape[1]
    m1, m2 = e.shape
    for row in range(lo, hi):
        fine, ci = x[row], row // 2
        if row % 2:
            own, left, right = e[ci], weights[LEFT, ci + 1], weights[RIGHT, ci + 1]
            for k in range(1, m2):
                fine[2 * k] += left[k + 1] * own[k - 1] + right[k + 1] * own[k]
                fine[2 * k + 1] += own[k]
            fine[0] += left[1] * own[m2 - 1] + right[1] * own[0]
            fine[1] += own[0]
            if n2 % 2:
                fine[n2 - 1] += left[m2 + 1] * own[m2 - 1]
        else:
            above, below = e[ci - 1 if ci > 0 else m1 - 1], e[ci if ci < m1 else 0]
            up, down = weights[UP, ci + 1], weights[DOWN, ci + 1]
            nw, ne, sw, se = weights[NW, ci + 1], weights[NE, ci + 1], weights[SW, ci + 1], weights[SE, ci + 1]
            for k in range(1, m2):
                fine[2 * k] += nw[k + 1] * above[k - 1] + ne[k + 1] * above[k] + sw[k + 1] * below[k - 1] + se[k + 1] * below[k]
                fine[2 * k + 1] += up[k + 1] * above[k] + down[k + 1] * below[k]
            last = m2 - 1
            fine[0] += nw[1] * above[last] + ne[1] * above[0] + sw[1] * below[last] + se[1] * below[0]
            fine[1] += up[1] * above[0] + down[1] * below[0]
            if n2 % 2:
                fine[n2 - 1] += nw[m2 + 1] * above[last] + sw[m2 + 1] * below[last]


@_compiled
def box_rows(job, lo, hi, table, arena, level, omega):
    """`level_rows` for a plane."""
    line = table[level]
    n1, n2 = line[SHAPE + 1], line[SHAPE + 2]
    five = level == 0
    east, south = plane(arena, line[EAST], n1, n2), plane(arena, line[SOUTH], n1, n2)
    southeast, southwest = plane(arena, line[SOUTHEAST], n1, n2), plane(arena, line[SOUTHWEST], n1, n2)
    b, x, y = plane(arena, line[B], n1, n2), plane(arena, line[X], n1, n2), plane(arena, line[Y], n1, n2)
    w = plane(arena, line[W], n1, n2)
    if job <= BACKWARD:
        dinv = plane(arena, line[DINV], n1, n2)
        rest = np.empty(n2, dtype=arena.dtype)
        source, target = (x, y) if job == FORWARD else (y, x)
        for i in range(lo, hi):
            rest_row(five, east, south, southeast, southwest, w, b, source, i, rest)
            own, inverse, out = source[i], dinv[i], target[i]
            for k in range(n2):
                out[k] = own[k] + omega * inverse[k] * rest[k]
    else:
        below = table[level + 1]
        m1, m2 = below[SHAPE + 1], below[SHAPE + 2]
        weights = cube(arena, line[TRANSFER], EIGHT, m1 + 2, m2 + 2)
        if job == RESTRICT:
            dinv = plane(arena, below[DINV], m1, m2)
            bc, xc = plane(arena, below[B], m1, m2), plane(arena, below[X], m1, m2)
            box_restrict_rows(lo, hi, five, east, south, southeast, southwest, w, b, y, weights, dinv, bc, xc, omega)
        else:
            box_prolong_rows(lo, hi, weights, plane(arena, below[Y], m1, m2), y)


@_threaded
def box_threads(job, blocks, rows, table, arena, level, omega):
    """`box_rows` over all rows, in `blocks` pieces."""
    for piece in prange(blocks):
        lo, hi = np.int64(piece) * rows // blocks, (np.int64(piece) + 1) * rows // blocks
        box_rows(job, lo, hi, table, arena, level, omega)


# --- the cycle ---------------------------------------------------------------------------------------------------------


@_entry
def vcycle(aggregates, box, table, arena, dense, jobs, omegas, blocks):
    """One symmetric V-cycle from b and the first smoothing step in x of level 0; the correction is left in y.

    One of `aggregates` and `box` is True, the kind of the hierarchy; the other is None, and not compiled. `jobs` and
    `omegas` list the passes: entry 0 is the first smoothing step, made by whoever fills b and x, then come the passes
    on the way down up to RESTRICT, then those on the way up. `blocks`: pieces for several threads, or None for one.
    """
    last, down = table.shape[0] - 1, 1
    while jobs[down] != RESTRICT:
        down += 1
    up = jobs.size - 1 - down
    for turn in range(last * (down + up) + 1):
        if turn == last * down:
            solve_dense(dense, arena, table[last, B], table[last, Y])
            continue
        level, k = turn // down, turn % down + 1
        if turn > last * down:
            done = turn - last * down - 1
            level, k = last - 1 - done // up, down + 1 + done % up
        line = table[level + 1 if jobs[k] == RESTRICT else level]
        rows = line[SHAPE] * line[SHAPE + 1]
        few = table[level, SHAPE] * table[level, SHAPE + 1] * table[level, SHAPE + 2] < PARALLEL_CELLS
        if aggregates is not None:
            if blocks is None or few:
                level_rows(jobs[k], START, rows, table, arena, level, omegas[k])
            else:
                level_threads(jobs[k], blocks, rows, table, arena, level, omegas[k])
        if box is not None:
            if blocks is None or few:
                box_rows(jobs[k], START, rows, table, arena, level, omegas[k])
            else:
                box_threads(jobs[k], blocks, rows, table, arena, level, omegas[k])


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
                dinv[i, j, k] = 1.0 / d if d > 0 else 0.0


@_compiled
def copy_scaled(source, scale, target):
    """target = scale * source, flat, in the precision of the target."""
    for k in range(source.size):
        target[k] = source[k] * scale


@_compiled
def coarsen_faces(g, axis, f0, f1, f2, coarse):
    """Conductances between aggregates: the sum over the faces they share, halved along a coarsened axis.

    The plain (Galerkin) sum is twice too stiff for smooth errors, since aggregates are twice as far apart as cells;
    halving it is over-correction (Braess, Towards algebraic multigrid for elliptic problems, Computing 55, 1995).
    """
    n0, n1, n2 = g.shape
    m0, m1, m2 = coarse.shape
    factor = 0.5 if (f0, f1, f2)[axis] == 2 else 1.0
    if (m0, m1, m2)[axis] == 2:  # one aggregate only: nothing to join
        factor = 0.0
    for i in range(m0 if axis == 0 else n0):
        fine_i, coarse_i = (min(i * f0, n0 - 1), i) if axis == 0 else (i, i // f0)
        for j in range(m1 if axis == 1 else n1):
            fine_j, coarse_j = (min(j * f1, n1 - 1), j) if axis == 1 else (j, j // f1)
            source, target = g[fine_i, fine_j], coarse[coarse_i, coarse_j]
            if axis == 2:
                for k in range(m2):
                    target[k] += factor * source[min(k * f2, n2 - 1)]
            elif f2 == 2:
                for k in range(n2 // 2):
                    target[k] += factor * (source[2 * k] + source[2 * k + 1])
                if n2 % 2:
                    target[m2 - 1] += factor * source[n2 - 1]
            else:
                for k in range(n2):
                    target[k] += factor * source[k]


@_compiled
def coarsen_walls(g0, g1, g2, w, f0, f1, f2, coarse):
    """w of the aggregates: each cell's w in series with the half cell that its aggregate's centre is further away.

    A wall (w of the order of a face) is halved as the faces are; a small loss is summed unchanged.
    """
    n0, n1, n2 = w.shape
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                own = w[i, j, k]
                if own > 0:
                    a, b, c = g0[i, j, k], g0[i + 1, j, k], g1[i, j, k]
                    d, e, f = g1[i, j + 1, k], g2[i, j, k], g2[i, j, k + 1]
                    faces, count = a + b + c + d + e + f, (a > 0) + (b > 0) + (c > 0) + (d > 0) + (e > 0) + (f > 0)
                    if faces > 0:
                        own /= 1.0 + min(1.0, 0.5 * own * count / faces)
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


@_entry
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
    assemble(table, arena, dense)
    factorise(dense)


@_compiled
def link(dense, here, there, coupling):
    """Add a coupling between two unknowns to the lower triangle."""
    if here != there:
        dense[here, here] += coupling
        dense[there, there] += coupling
        dense[max(here, there), min(here, there)] -= coupling


@_compiled
def assemble(table, arena, dense):
    """The matrix of the coarsest level in `dense`, lower triangle."""
    line = table[table.shape[0] - 1]
    n0, n1, n2 = line[SHAPE], line[SHAPE + 1], line[SHAPE + 2]
    for axis in range(3):
        f0, f1, f2 = np.int64(axis == 0), np.int64(axis == 1), np.int64(axis == 2)
        g = cube(arena, line[G0 + axis], n0 + f0, n1 + f1, n2 + f2)
        for i in range(n0):
            for j in range(n1):
                for k in range(n2):
                    there = ((i + f0) % n0 * n1 + (j + f1) % n1) * n2 + (k + f2) % n2
                    link(dense, (i * n1 + j) * n2 + k, there, np.float64(g[i + f0, j + f1, k + f2]))
    for c in range(dense.shape[0]):
        dense[c, c] += np.float64(arena[line[W] + c])


@_compiled
def factorise(dense):
    """L D L^T in place: L below the diagonal and 1 / D on it.

    A component without anchor ends in a pivot that is nothing but rounding: it is replaced by 0, which holds its last
    cell at 0 (any correction will do there, the right-hand side being balanced).
    """
    n = dense.shape[0]
    scaled = np.empty(n)
    for c in range(n):
        # row c of L D, with the columns to its left done
        whole = dense[c, c]
        pivot = whole
        for k in range(c):
            value = dense[c, k]
            for m in range(k):
                value -= scaled[m] * dense[k, m]
            scaled[k] = value
            dense[c, k] = value * dense[k, k]
            pivot -= value * dense[c, k]
        dense[c, c] = 1.0 / pivot if pivot > 1e-13 * n * whole else 0.0


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


# --- setting up a plane, in double precision --------------------------------------------------------------------------


@_compiled
def wrap_halo(a, n1, n2, wrap1, wrap2):
    """Fill the halo of a (n1 + 2 HALO, n2 + 2 HALO) array along periodic axes."""
    if wrap2:
        for i in range(HALO, HALO + n1):
            for k in range(HALO):
                a[i, k] = a[i, k + n2]
                a[i, HALO + n2 + k] = a[i, HALO + k]
    if wrap1:
        for i in range(HALO):
            for k in range(n2 + 2 * HALO):
                a[i, k] = a[i + n1, k]
                a[HALO + n1 + i, k] = a[HALO + i, k]


@_compiled
def box_weights(e, s, se, sw, w, five, m1, m2, weights):
    """Interpolation from the matrix, its couplings given with a halo; `weights` as at LEFT, RIGHT, ...

    Between two coarse neighbours the matrix is collapsed across them; among four it is solved. Couplings of the wrong
    sign count as 0 (lumped into the diagonal): at contrasts of 1e6 in fine structures that halves the iterations.
    """
    for ci in range(m1 + 2):
        for ck in range(m2 + 2):
            i, k = 2 * ci - 1 + HALO, 2 * ck - 2 + HALO
            left, right = max(e[i, k - 1], 0.0), max(e[i, k], 0.0)
            if not five:
                left += max(se[i - 1, k - 1], 0.0) + max(sw[i, k], 0.0)
                right += max(sw[i - 1, k + 1], 0.0) + max(se[i, k], 0.0)
            whole = left + right + w[i, k]
            share = 1.0 / whole if whole > 0.0 else 0.0
            weights[LEFT, ci, ck], weights[RIGHT, ci, ck] = left * share, right * share
            i, k = 2 * ci - 2 + HALO, 2 * ck - 1 + HALO
            up, down = max(s[i - 1, k], 0.0), max(s[i, k], 0.0)
            if not five:
                up += max(se[i - 1, k - 1], 0.0) + max(sw[i - 1, k + 1], 0.0)
                down += max(se[i, k], 0.0) + max(sw[i, k], 0.0)
            whole = up + down + w[i, k]
            share = 1.0 / whole if whole > 0.0 else 0.0
            weights[UP, ci, ck], weights[DOWN, ci, ck] = up * share, down * share
    for ci in range(1, m1 + 2):
        for ck in range(1, m2 + 2):
            i, k = 2 * ci - 2 + HALO, 2 * ck - 2 + HALO
            north, south, west, east = max(s[i - 1, k], 0.0), max(s[i, k], 0.0), max(e[i, k - 1], 0.0), max(e[i, k], 0.0)
            a, b, c, d = 0.0, 0.0, 0.0, 0.0  # the four corners
            if not five:
                a, b = max(se[i - 1, k - 1], 0.0), max(sw[i - 1, k + 1], 0.0)
                c, d = max(sw[i, k], 0.0), max(se[i, k], 0.0)
            whole = north + south + west + east + a + b + c + d + w[i, k]
            share = 1.0 / whole if whole > 0.0 else 0.0
            weights[NW, ci, ck] = (a + north * weights[LEFT, ci - 1, ck] + west * weights[UP, ci, ck - 1]) * share
            weights[NE, ci, ck] = (b + north * weights[RIGHT, ci - 1, ck] + east * weights[UP, ci, ck]) * share
            weights[SW, ci, ck] = (c + south * weights[LEFT, ci, ck] + west * weights[DOWN, ci, ck - 1]) * share
            weights[SE, ci, ck] = (d + south * weights[RIGHT, ci, ck] + east * weights[DOWN, ci, ck]) * share


@_compiled
def box_galerkin(e, s, se, sw, d, five, weights, m1, m2, ce, cs, cse, csw, cw):
    """Coarse couplings of ``P^T K P``, halo left empty; d is the diagonal of K. `cw` receives the coarse diagonal.

    For every coarse cell the basis function f (its nine weights) is passed through K, on the ring around its support
    only towards east and south. At cells among four coarse ones K f vanishes where no coupling has the wrong sign,
    so surely on the finest level.
    """
    for ci in range(m1):
        for ck in range(m2):
            a, c = ci + 1, ck + 1  # this coarse cell in `weights`
            i, k = 2 * ci + 1 + HALO, 2 * ck + 1 + HALO
            fw, fe, fn, fs = weights[RIGHT, a, c], weights[LEFT, a, c + 1], weights[DOWN, a, c], weights[UP, a + 1, c]
            fnw, fne = weights[SE, a, c], weights[SW, a, c + 1]
            fsw, fse = weights[NE, a + 1, c], weights[NW, a + 1, c + 1]
            own = -(e[i, k - 1] * fw + e[i, k] * fe + s[i - 1, k] * fn + s[i, k] * fs)
            # K f in the five cells of the support that are not among four coarse ones
            at_e = -(e[i, k] + s[i - 1, k + 1] * fne + s[i, k + 1] * fse)
            at_w = -(e[i, k - 1] + s[i - 1, k - 1] * fnw + s[i, k - 1] * fsw)
            at_n = -(s[i - 1, k] + e[i - 1, k - 1] * fnw + e[i - 1, k] * fne)
            at_s = -(s[i, k] + e[i + 1, k - 1] * fsw + e[i + 1, k] * fse)
            # and in the ring around it, towards east, south and the two lower corners
            at_ee, at_nee, at_see = -e[i, k + 1] * fe, -e[i - 1, k + 1] * fne, -e[i + 1, k + 1] * fse
            at_ss, at_ssw, at_sse = -s[i + 1, k] * fs, -s[i + 1, k - 1] * fsw, -s[i + 1, k + 1] * fse
            at_sww = -e[i + 1, k - 2] * fsw
            at_sse2, at_ssw2 = 0.0, 0.0
            at_nw, at_ne, at_sw, at_se = 0.0, 0.0, 0.0, 0.0
            if not five:
                at_nw = d[i - 1, k - 1] * fnw
                at_nw -= s[i - 1, k - 1] * fw + e[i - 1, k - 1] * fn + se[i - 1, k - 1]
                at_ne = d[i - 1, k + 1] * fne
                at_ne -= s[i - 1, k + 1] * fe + e[i - 1, k] * fn + sw[i - 1, k + 1]
                at_sw = d[i + 1, k - 1] * fsw
                at_sw -= s[i, k - 1] * fw + e[i + 1, k - 1] * fs + sw[i, k]
                at_se = d[i + 1, k + 1] * fse
                at_se -= s[i, k + 1] * fe + e[i + 1, k] * fs + se[i, k]
                own -= se[i - 1, k - 1] * fnw + sw[i - 1, k + 1] * fne + sw[i, k] * fsw + se[i, k] * fse
                at_e -= se[i - 1, k] * fn + sw[i, k + 1] * fs
                at_w -= sw[i - 1, k] * fn + se[i, k - 1] * fs
                at_n -= sw[i - 1, k] * fw + se[i - 1, k] * fe
                at_s -= se[i, k - 1] * fw + sw[i, k + 1] * fe
                at_ee -= se[i - 1, k + 1] * fne + sw[i, k + 2] * fse
                at_nee -= sw[i - 1, k + 2] * fe
                at_see -= se[i, k + 1] * fe
                at_ss -= se[i + 1, k - 1] * fsw + sw[i + 1, k + 1] * fse
                at_ssw -= sw[i + 1, k] * fs
                at_sse -= se[i + 1, k] * fs
                at_sww -= sw[i, k - 1] * fw
                at_sse2 = -se[i + 1, k + 1] * fse
                at_ssw2 = -sw[i + 1, k - 1] * fsw
            own += d[i, k]
            at_e += d[i, k + 1] * fe
            at_w += d[i, k - 1] * fw
            at_n += d[i - 1, k] * fn
            at_s += d[i + 1, k] * fs
            whole = own + fe * at_e + fw * at_w + fn * at_n + fs * at_s
            whole += fnw * at_nw + fne * at_ne + fsw * at_sw + fse * at_se
            # rows of P^T towards the four neighbours
            east = weights[RIGHT, a, c + 1] * at_e + at_ee
            east += weights[DOWN, a, c + 1] * at_nee + weights[UP, a + 1, c + 1] * at_see
            south = weights[DOWN, a + 1, c] * at_s + at_ss
            south += weights[RIGHT, a + 1, c] * at_ssw + weights[LEFT, a + 1, c + 1] * at_sse
            east += weights[SE, a, c + 1] * at_ne + weights[NE, a + 1, c + 1] * at_se
            south += weights[SE, a + 1, c] * at_sw + weights[SW, a + 1, c + 1] * at_se
            southeast = weights[SE, a + 1, c + 1] * at_se + weights[DOWN, a + 1, c + 1] * at_see
            southeast += weights[RIGHT, a + 1, c + 1] * at_sse + at_sse2
            southwest = weights[SW, a + 1, c] * at_sw + weights[DOWN, a + 1, c - 1] * at_sww
            southwest += weights[LEFT, a + 1, c] * at_ssw + at_ssw2
            p, q = ci + HALO, ck + HALO
            ce[p, q], cs[p, q], cse[p, q], csw[p, q], cw[p, q] = -east, -south, -southeast, -southwest, whole


@_compiled
def box_excess(e, s, se, sw, w, five, n1, n2, d, dinv):
    """Turn w, on entry the whole diagonal on coarse levels, into the row's excess over its couplings; fill d and dinv.

    d is the diagonal of K. An excess that is nothing but rounding counts as 0. Galerkin products may have couplings of
    the wrong sign; dinv is the inverse of a diagonal D so large that the rows of D^-1 K still sum to 2 at most, as the
    smoother assumes.
    """
    for i in range(HALO, HALO + n1):
        for k in range(HALO, HALO + n2):
            total = e[i, k - 1] + e[i, k] + s[i - 1, k] + s[i, k]
            wrong = 0.0
            if not five:
                a, b, c, f = se[i - 1, k - 1], sw[i - 1, k + 1], sw[i, k], se[i, k]
                total += a + b + c + f
                wrong = min(e[i, k - 1], 0.0) + min(e[i, k], 0.0) + min(s[i - 1, k], 0.0) + min(s[i, k], 0.0)
                wrong += min(a, 0.0) + min(b, 0.0) + min(c, 0.0) + min(f, 0.0)
                rest = w[i, k] - total
                w[i, k] = rest if rest > 1e-13 * w[i, k] else 0.0
            whole = total + w[i, k]
            d[i, k] = whole
            whole = max(whole, total + 0.5 * w[i, k] - wrong)
            dinv[i - HALO, k - HALO] = 1.0 / whole if whole > 0.0 else 0.0


@_compiled
def box_store(a, n1, n2, arena, start):
    """Copy the inside of a haloed array into the arena."""
    target = plane(arena, start, n1, n2)
    for i in range(n1):
        for k in range(n2):
            target[i, k] = a[i + HALO, k + HALO]


@_entry
def box_set_up(table, arena, g1, g2, diagonal, wrap1, wrap2, scale, dense):
    """Fill the hierarchy of ``scale * K`` of a plane and factorise its coarsest level."""
    n1, n2 = diagonal.shape[1], diagonal.shape[2]
    e, s, w = np.zeros((n1 + 6, n2 + 6)), np.zeros((n1 + 6, n2 + 6)), np.zeros((n1 + 6, n2 + 6))
    se, sw = np.zeros((0, 0)), np.zeros((0, 0))
    for i in range(n1):
        for k in range(n2):
            e[i + HALO, k + HALO] = scale * g2[0, i, k + 1]
            s[i + HALO, k + HALO] = scale * g1[0, i + 1, k]
            w[i + HALO, k + HALO] = scale * diagonal[0, i, k]
    for level in range(table.shape[0]):
        line, five = table[level], level == 0
        n1, n2 = line[SHAPE + 1], line[SHAPE + 2]
        wrap_halo(e, n1, n2, wrap1, wrap2)
        wrap_halo(s, n1, n2, wrap1, wrap2)
        if not five:
            wrap_halo(se, n1, n2, wrap1, wrap2)
            wrap_halo(sw, n1, n2, wrap1, wrap2)
            box_store(se, n1, n2, arena, line[SOUTHEAST])
            box_store(sw, n1, n2, arena, line[SOUTHWEST])
        d = np.zeros(w.shape)
        box_excess(e, s, se, sw, w, five, n1, n2, d, plane(arena, line[DINV], n1, n2))
        wrap_halo(w, n1, n2, wrap1, wrap2)
        wrap_halo(d, n1, n2, wrap1, wrap2)
        box_store(e, n1, n2, arena, line[EAST])
        box_store(s, n1, n2, arena, line[SOUTH])
        box_store(w, n1, n2, arena, line[W])
        if level == table.shape[0] - 1:
            box_assemble(e, s, se, sw, w, five, n1, n2, dense)
            factorise(dense)
        else:
            m1, m2 = table[level + 1, SHAPE + 1], table[level + 1, SHAPE + 2]
            weights = np.zeros((8, m1 + 2, m2 + 2))
            box_weights(e, s, se, sw, w, five, m1, m2, weights)
            ce, cs, cw = np.zeros((m1 + 6, m2 + 6)), np.zeros((m1 + 6, m2 + 6)), np.zeros((m1 + 6, m2 + 6))
            cse, csw = np.zeros((m1 + 6, m2 + 6)), np.zeros((m1 + 6, m2 + 6))
            box_galerkin(e, s, se, sw, d, five, weights, m1, m2, ce, cs, cse, csw, cw)
            copy_scaled(weights.reshape(-1), 1.0, arena[line[TRANSFER] : line[TRANSFER] + weights.size])
            e, s, se, sw, w = ce, cs, cse, csw, cw


@_compiled
def box_assemble(e, s, se, sw, w, five, n1, n2, dense):
    """The matrix of a level in `dense`, lower triangle."""
    for i in range(n1):
        for k in range(n2):
            here = i * n2 + k
            dense[here, here] += w[i + HALO, k + HALO]
            link(dense, here, i * n2 + (k + 1) % n2, e[i + HALO, k + HALO])
            link(dense, here, (i + 1) % n1 * n2 + k, s[i + HALO, k + HALO])
            if not five:
                link(dense, here, (i + 1) % n1 * n2 + (k + 1) % n2, se[i + HALO, k + HALO])
                link(dense, here, (i + 1) % n1 * n2 + (k + n2 - 1) % n2, sw[i + HALO, k + HALO])
