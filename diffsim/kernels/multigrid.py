"""Compiled loops of the multigrid solver: conjugate gradients in double precision, V-cycles mostly in single.

The matrix is never stored: ``(K u)_i = w_i u_i + sum_f g_f (u_i - u_j)`` is applied from its face conductances.
Arrays are padded to three axes, and work is cut into rows (the last axis, which is contiguous). A function whose name
ends in ``_rows`` treats rows ``lo .. hi - 1`` and writes to no other, so any split over threads gives the same bits;
sums are kept per row and added in order afterwards. At sides the neighbour's index wraps around: the conductance there
is 0 unless the axis is periodic, so the value read does not matter.

Entries are called by every member of a team (`kernels.team`) with the same arguments but for `part`, its number: each walks
through the whole algorithm, does its own rows of every pass, and meets the others before the next. All of them read the
same sums and decide alike. Memory is handed in, because a member that failed for want of it would leave the others waiting.

A hierarchy is one flat array (`arena`, in single precision unless the contrast asks for double) and one table of
integers: per level its shape, and where its arrays begin. Level arrays are views into the arena.
"""

import numpy as np
from numba import njit

from .team import bare, meet

# Entries are called from Python and cached with all they call; the others need no wrappers and compile faster without.
_entry = njit(cache=True, error_model="numpy", nogil=True)
_compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
_pasted = njit(error_model="numpy", inline="always")  # not optimised with all it calls before its caller is, once more

# Columns of the level table.
SHAPE, G0, G1, G2, W, DINV, B, X, Y = 0, 3, 4, 5, 6, 7, 8, 9, 10
BLOCK = 11  # coarsening factor per axis towards the next level
COLUMNS = 14
# Where aggregates follow the ties, levels below the finest are lists: TIES lies in the arena, the others in `links`. NEAR
# and TIES of node i are entries ENDS[i] .. ENDS[i + 1] - 1; ORDER[GROUPS[c]] .. are the nodes of aggregate c.
TIES, ENDS, NEAR, GROUPS, ORDER = 3, 4, 5, 11, 12


@_compiled
def cube(arena, start, n0, n1, n2):
    """View of `n0 n1 n2` numbers of the arena from `start` on."""
    return arena[start : start + n0 * n1 * n2].reshape(n0, n1, n2)


# --- a team of threads -------------------------------------------------------------------------------------------------

PARALLEL_CELLS = 4_000  # of a level; below this one member does all of it before the others would have begun

START = np.int64(0)


@_compiled
def share(rows, cells, part, parts):
    """(lo, hi): the rows that a member does in a pass over `rows` rows and so many cells."""
    if cells < PARALLEL_CELLS:
        return START, rows if part == 0 else START
    return part * rows // parts, (part + 1) * rows // parts


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
RESIDUAL, LOAD, PRODUCTS, DIRECTION, APPLY, UPDATE = np.arange(6)


@_compiled
def cg_rows(job, lo, hi, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, first, alpha, sums, scratch):
    """One pass of conjugate gradients over rows lo..hi-1; `sums` (rows, 2) receives two numbers a row.

    RESIDUAL   r = b - K x; (r r, (|K| |x| + |b|)²)
    LOAD       hand alpha r to the V-cycle: its right-hand side, and its first smoothing step from a zero guess
    PRODUCTS   (r z, q z)
    DIRECTION  p = z + alpha p
    APPLY      q = K p; (p q, -)
    UPDATE     x += alpha p, r -= alpha q; (r r, -)
    """
    n1, n2 = x.shape[1], x.shape[2]
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


@_entry
def pcg(
    part, parts, gate, g0, g1, g2, w, b, x, tol, max_iterations, table, arena, dense, jobs, omegas, links, wide, narrow,
    vectors, sums
):  # fmt: skip
    """Solve ``K x = b`` in place by conjugate gradients with V-cycles; x holds the first guess.

    `table` to `narrow`: as `vcycle` takes them. `vectors` (3,) + x.shape holds the residual, the direction, zero at first,
    and its image; `sums` (2, rows, 2), used in turn, so that a pass never writes what another member still reads.

    Returns (iterations, ||b - K x||, ||b||, rounding), the last the size of the rounding errors in that residual: no
    double-precision x can be expected to have a smaller one. The direction is updated by Polak and Ribiere's formula,
    which keeps conjugacy although single precision makes the preconditioner slightly nonlinear (Notay, Flexible
    conjugate gradients, SIAM J. Sci. Comput. 22, 2000).
    """
    n0, n1, n2 = x.shape
    rows = n0 * n1
    lo, hi = share(rows, x.size, part, parts)
    r, p, q, own = vectors[0], vectors[1], vectors[2], wide[part, :n2]
    rhs, guess = cube(arena, table[0, B], n0, n1, n2), cube(arena, table[0, X], n0, n1, n2)
    dinv, z = cube(arena, table[0, DINV], n0, n1, n2), cube(arena, table[0, Y], n0, n1, n2)
    size = 0.0
    for row in range(rows):
        size += row_dot(b[row // n1, row % n1], b[row // n1, row % n1])
    size = np.sqrt(size)
    iterations, residual, rounding, before = 0, 0.0, 0.0, np.inf
    rz, alpha, beta, target, halfway = 0.0, 0.0, 0.0, 0.0, False
    job, turn = RESIDUAL, START
    while True:  # one pass over the cells a turn
        factor = 1.0 / size if job == LOAD else beta if job == DIRECTION else alpha
        turn = 1 - turn
        of_row = sums[turn]
        cg_rows(job, lo, hi, g0, g1, g2, w, b, x, r, p, q, rhs, guess, dinv, z, omegas[0], factor, of_row, own)
        meet(gate, parts)
        first, second = 0.0, 0.0
        for row in range(rows):
            first += of_row[row, 0]
            second += of_row[row, 1]
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
            vcycle(part, parts, gate, table, arena, dense, jobs, omegas, links, wide, narrow)
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
def restrict_rows(lo, hi, g0, g1, g2, w, b, x, f0, f1, f2, dinv, bc, xc, omega, flow):
    """Coarse rows: bc = sum of ``b - K x`` over each aggregate, and xc, the coarse level's first smoothing step."""
    n0, n1, n2 = x.shape
    m1, m2 = bc.shape[1], bc.shape[2]
    for row in range(lo, hi):
        ci, cj = row // m1, row % m1
        total = bc[ci, cj]
        for k in range(m2):
            total[k] = 0.0
        for i in range(ci * f0, min(ci * f0 + f0, n0)):
            for j in range(cj * f1, min(cj * f1 + f1, n1)):
                apply_row(g0, g1, g2, w, x, i, j, flow[:n2])
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
FORWARD, BACKWARD, REST, RESTRICT, PROLONG = np.arange(5)


@_compiled
def level_rows(job, lo, hi, table, arena, level, omega, flow):
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
            restrict_rows(lo, hi, g0, g1, g2, w, b, x, f0, f1, f2, dinv, bc, xc, omega, flow)
        else:
            prolong_rows(lo, hi, f0, f1, f2, cube(arena, below[Y], m0, m1, m2), x)


@_compiled
def node_rows(lo, hi, ends, near, ties, w, dinv, b, x, omega, y):
    """One Richardson step on a graph; ``y = b - K x`` itself where omega is 0."""
    for i in range(lo, hi):
        own, flow = x[i], np.float64(0.0)
        for e in range(ends[i], ends[i + 1]):
            flow += ties[e] * (x[near[e]] - own)
        rest = b[i] - w[i] * own + flow
        y[i] = rest if omega == 0.0 else own + omega * (dinv[i] * rest)


@_compiled
def gather_rows(lo, hi, groups, order, rest, dinv, b, x, omega):
    """b = sum of the rest over each aggregate, and x, the first smoothing step there."""
    for c in range(lo, hi):
        total = np.float64(0.0)
        for m in range(groups[c], groups[c + 1]):
            total += rest[order[m]]
        b[c] = total
        x[c] = omega * (dinv[c] * total)


@_compiled
def scatter_rows(lo, hi, groups, order, e, x):
    """x += e of the aggregate each node belongs to."""
    for c in range(lo, hi):
        for m in range(groups[c], groups[c + 1]):
            x[order[m]] += e[c]


@_compiled
def graph_rows(job, lo, hi, table, arena, links, level, omega, flow):
    """One pass of `level_rows` where aggregates follow the ties; RESTRICT and PROLONG go over the aggregates.

    RESTRICT takes its rest from y, where the pass REST before it (omega = 0) has left ``b - K x``.
    """
    line = table[level]
    b, x, y = arena[line[B] :], arena[line[X] :], arena[line[Y] :]
    if job >= RESTRICT:
        below, groups, order = table[level + 1], links[line[GROUPS] :], links[line[ORDER] :]
        if job == RESTRICT:
            gather_rows(lo, hi, groups, order, y, arena[below[DINV] :], arena[below[B] :], arena[below[X] :], omega)
        else:
            scatter_rows(lo, hi, groups, order, arena[below[Y] :], x)
    elif level > 0:
        source, target = (y, x) if job == BACKWARD else (x, y)
        ties, w, dinv = arena[line[TIES] :], arena[line[W] :], arena[line[DINV] :]
        node_rows(lo, hi, links[line[ENDS] :], links[line[NEAR] :], ties, w, dinv, b, source, omega, target)
    elif job == REST:
        n0, n1, n2 = line[SHAPE], line[SHAPE + 1], line[SHAPE + 2]
        g0, g1 = cube(arena, line[G0], n0 + 1, n1, n2), cube(arena, line[G1], n0, n1 + 1, n2)
        g2, w = cube(arena, line[G2], n0, n1, n2 + 1), cube(arena, line[W], n0, n1, n2)
        u = cube(arena, line[X], n0, n1, n2)
        for row in range(lo, hi):
            rest = y[row * n2 : (row + 1) * n2]
            apply_row(g0, g1, g2, w, u, row // n1, row % n1, rest)
            for k in range(n2):
                rest[k] = b[row * n2 + k] - rest[k]
    else:
        level_rows(job, lo, hi, table, arena, level, omega, flow)


@_entry
def vcycle(part, parts, gate, table, arena, dense, jobs, omegas, links, wide, narrow):
    """One symmetric V-cycle from b and the first smoothing step in x of level 0; the correction is left in y.

    `jobs` and `omegas` list the passes: entry 0 is the first smoothing step, made by whoever fills b and x, then come
    the passes on the way down up to RESTRICT, then those on the way up. `links`: the lists of a hierarchy whose
    aggregates follow the ties, None where they are blocks. Each member has a row of `wide`, in double precision, as long
    as the coarsest level is large, and of `narrow`, in that of the arena, as long as a row.
    """
    last, down = table.shape[0] - 1, 1
    while jobs[down] != RESTRICT:
        down += 1
    up = jobs.size - 1 - down
    for turn in range(last * (down + up) + 1):
        if turn == last * down:
            if part == 0:
                solve_dense(dense, arena, table[last, B], table[last, Y], wide[part])
        else:
            level, k = turn // down, turn % down + 1
            if turn > last * down:
                done = turn - last * down - 1
                level, k = last - 1 - done // up, down + 1 + done % up
            coarse = jobs[k] == RESTRICT or (jobs[k] == PROLONG and links is not None)
            line = table[level + 1 if coarse else level]
            cells = table[level, SHAPE] * table[level, SHAPE + 1] * table[level, SHAPE + 2]
            lo, hi = share(line[SHAPE] * line[SHAPE + 1], cells, part, parts)
            if links is not None:
                graph_rows(jobs[k], lo, hi, table, arena, links, level, omegas[k], narrow[part])
            else:
                level_rows(jobs[k], lo, hi, table, arena, level, omegas[k], narrow[part])
        meet(gate, parts)


# --- planes: a hierarchy of every other cell ----------------------------------------------------------------------------
#
# Black-box multigrid (Dendy, Black box multigrid, J. Comput. Phys. 48, 1982): coarse cells are the odd ones along both
# axes, interpolation follows the matrix, coarse matrices are Galerkin products and have nine entries a row. A level
# keeps the couplings of each cell to its neighbours, and w.
#
# A sweep over the cells does several passes at once: each follows the one before by a row, and what they hand on stays
# in a few rows that fit the first-level cache. Inside, arrays are flat and a row is the offset of its first cell,
# unsigned: slices cost more than a short row, and signed indices a test for wraparound at every access. Rows beyond a
# piece are computed by its neighbour too, by the same expressions, so any split gives the same bits; what a neighbour
# may still read is never overwritten (r and p alternate between two places).


# Columns of the level table of a plane; W .. Y are shared with the table of aggregates. R, P, Q are on level 0 alone.
EAST, SOUTH, SOUTHEAST, SOUTHWEST, TRANSFER = 3, 4, 5, 11, 12
WRAP = 13  # 1 where the first axis is periodic
R, P, Q = 14, 15, 16
# In the scratch of the set-up, with how many rows lie between two fields, and between two weights.
WORK, HEIGHT, WEIGHTS, WEIGHTS_HEIGHT = 17, 18, 19, 20
PLANE_COLUMNS = 21

# Entries of `numbers`, in the precision of the arena.
FIRST, SECOND, ALPHA, BETA, NOTHING = 0, 1, 2, 3, 4
# Columns of `sums`: per row b b, y b, y Q and -p Q, and the squares of the true rest and of its rounding errors. A pass
# writes no column that another member may still be adding up.
BB, YB, YQ, PQ, REST2, ROUNDING2 = np.arange(6)
# Rows of numbers that the three sweeps keep, 12 on the way down, 7 up, 5 at the turn: where they begin, and all of them.
UP_BUFFER, TURN_BUFFER, BUFFERS = 12, 19, 24

DROP = 1e-4  # of the residual between two looks at the true one

ONE, TWO, LANES = np.uint64(1), np.uint64(2), np.uint64(32)


@_compiled
def seam(row, at, n):
    """Fill the places beyond both ends of a row from the other end; couplings there are 0 unless the axis is periodic."""
    row[at - ONE] = row[at + n - ONE]
    row[at + n] = row[at]


@_compiled
def lane_dot(a, at_a, b, at_b, n, lanes):
    """Sum of a_k b_k over n places in an order that depends on n alone; `lanes` is scratch."""
    for lane in range(LANES):
        lanes[lane] = 0.0
    k, pair = np.uint64(0), LANES + LANES
    while k + pair <= n:  # two at once: a quarter of the time of one by one
        for lane in range(LANES):
            i, j = at_a + k + lane, at_b + k + lane
            lanes[lane] = lanes[lane] + a[i] * b[j] + a[i + LANES] * b[j + LANES]
        k += pair
    while k < n:
        for lane in range(min(LANES, n - k)):
            lanes[lane] += a[at_a + k + lane] * b[at_b + k + lane]
        k += LANES
    half = LANES // TWO
    while half > ONE:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= TWO
    return np.float64(lanes[0]) + np.float64(lanes[1])


@_compiled
def relax_row(omega, level, i, table, arena, rows, up, own, down, b, at_b, out):
    """Row i of ``x + omega D^-1 (b - K x)``, x in `rows`; of ``b - K x`` itself where omega is 0.

    K x is taken from differences: what one cell loses its neighbour gains, also in single precision.
    """
    n = np.uint64(table[level, SHAPE + 2])
    row = np.uint64(i)
    above = np.uint64(table[level, SOUTH]) + row * n
    below, loss = above + n, np.uint64(table[level, W]) + row * n
    left = np.uint64(table[level, EAST]) + row * (n + ONE)
    right = left + ONE
    for k in range(n):
        c = rows[own + k]
        flow = arena[above + k] * (rows[up + k] - c) + arena[below + k] * (rows[down + k] - c)
        flow += arena[left + k] * (rows[own + k - ONE] - c) + arena[right + k] * (rows[own + k + ONE] - c)
        rows[out + k] = b[at_b + k] - arena[loss + k] * c + flow
    if level > 0:
        above_left = np.uint64(table[level, SOUTHEAST]) + row * (n + TWO)
        above_right = np.uint64(table[level, SOUTHWEST]) + row * (n + TWO) + TWO
        below_right, below_left = above_left + n + TWO + ONE, above_right + n + ONE
        for k in range(n):
            c = rows[own + k]
            rows[out + k] += (
                arena[above_left + k] * (rows[up + k - ONE] - c)
                + arena[above_right + k] * (rows[up + k + ONE] - c)
                + arena[below_right + k] * (rows[down + k + ONE] - c)
                + arena[below_left + k] * (rows[down + k - ONE] - c)
            )
    if omega != 0.0:
        inverse = np.uint64(table[level, DINV]) + row * n
        for k in range(n):
            rows[out + k] = rows[own + k] + omega * (arena[inverse + k] * rows[out + k])


# The eight weights of a fine cell's interpolation, (m1 + 2, m2 + 2) each, cell (I, J) at [I + 1, J + 1]:
# LEFT, RIGHT of the cell (2 I + 1, 2 J) between coarse columns J - 1 and J; UP, DOWN of (2 I, 2 J + 1) between
# coarse rows I - 1 and I; NW, NE, SW, SE of (2 I, 2 J) between four coarse cells.
LEFT, RIGHT, UP, DOWN, NW, NE, SW, SE = np.arange(8)


@_compiled
def weight_row(table, level, which, row):
    """Where row `row` of one of the eight weights begins in the arena, at the entry of coarse column 0."""
    m1, m2 = table[level + 1, SHAPE + 1], table[level + 1, SHAPE + 2]
    return np.uint64(table[level, TRANSFER] + (which * (m1 + 2) + row) * (m2 + 2) + 1)


@_compiled
def restrict_row(ci, level, table, arena, rows, above, own, below):
    """Row ci of ``P^T rest`` into b of the next level; the rests of fine rows 2 ci .. 2 ci + 2 are in `rows`."""
    m = np.uint64(table[level + 1, SHAPE + 2])
    out = np.uint64(table[level + 1, B]) + np.uint64(ci) * m
    left, right = weight_row(table, level, LEFT, ci + 1) + ONE, weight_row(table, level, RIGHT, ci + 1)
    down, up = weight_row(table, level, DOWN, ci + 1), weight_row(table, level, UP, ci + 2)
    se, sw = weight_row(table, level, SE, ci + 1), weight_row(table, level, SW, ci + 1) + ONE
    ne, nw = weight_row(table, level, NE, ci + 2), weight_row(table, level, NW, ci + 2) + ONE
    for k in range(m):
        j = TWO * k
        west, centre, east = own + j, own + j + ONE, own + j + TWO
        arena[out + k] = rows[centre] + arena[right + k] * rows[west] + arena[left + k] * rows[east]
    for k in range(m):
        j = TWO * k
        west, centre, east = above + j, above + j + ONE, above + j + TWO
        arena[out + k] += arena[down + k] * rows[centre] + arena[se + k] * rows[west] + arena[sw + k] * rows[east]
    for k in range(m):
        j = TWO * k
        west, centre, east = below + j, below + j + ONE, below + j + TWO
        arena[out + k] += arena[up + k] * rows[centre] + arena[ne + k] * rows[west] + arena[nw + k] * rows[east]


@_compiled
def prolong_row(i, level, table, arena, rows, out):
    """Row i of ``x + P e`` into `rows`; x is X of this level, e is Y of the next."""
    n, m1, m = table[level, SHAPE + 2], table[level + 1, SHAPE + 1], np.uint64(table[level + 1, SHAPE + 2])
    x = np.uint64(table[level, X] + i * n)
    ci = i // 2
    odd = np.uint64(n % 2)
    own = np.uint64(table[level + 1, Y] + (ci if ci < m1 else 0) * np.int64(m))
    last = m - ONE
    if i % 2:
        left, right = weight_row(table, level, LEFT, ci + 1), weight_row(table, level, RIGHT, ci + 1)
        rows[out] = arena[x] + (arena[left] * arena[own + last] + arena[right] * arena[own])
        rows[out + ONE] = arena[x + ONE] + arena[own]
        for k in range(ONE, m):
            e = arena[own + k]
            j = TWO * k
            rows[out + j] = arena[x + j] + (arena[left + k] * arena[own + k - ONE] + arena[right + k] * e)
            rows[out + j + ONE] = arena[x + j + ONE] + e
        if odd:
            j = TWO * m
            rows[out + j] = arena[x + j] + arena[left + m] * arena[own + last]
    else:
        above = np.uint64(table[level + 1, Y] + (ci if ci > 0 else m1) * np.int64(m)) - m
        up, down = weight_row(table, level, UP, ci + 1), weight_row(table, level, DOWN, ci + 1)
        nw, ne = weight_row(table, level, NW, ci + 1), weight_row(table, level, NE, ci + 1)
        sw, se = weight_row(table, level, SW, ci + 1), weight_row(table, level, SE, ci + 1)
        corners = arena[nw] * arena[above + last] + arena[ne] * arena[above]
        rows[out] = arena[x] + (corners + (arena[sw] * arena[own + last] + arena[se] * arena[own]))
        rows[out + ONE] = arena[x + ONE] + (arena[up] * arena[above] + arena[down] * arena[own])
        for k in range(ONE, m):
            a, b = arena[above + k], arena[own + k]
            j = TWO * k
            corners = arena[nw + k] * arena[above + k - ONE] + arena[ne + k] * a
            corners += arena[sw + k] * arena[own + k - ONE] + arena[se + k] * b
            rows[out + j] = arena[x + j] + corners
            rows[out + j + ONE] = arena[x + j + ONE] + (arena[up + k] * a + arena[down + k] * b)
        if odd:
            j = TWO * m
            rows[out + j] = arena[x + j] + (arena[nw + m] * arena[above + last] + arena[sw + m] * arena[own + last])


@_compiled
def down_rows(lo, hi, level, table, arena, numbers, source, target, sums, rows, lanes):
    """Smooth twice from zero and restrict: coarse rows lo .. hi - 1 and the fine rows that they own.

    b begins at `source`. Where `target` differs, b is what lies there plus ALPHA Q: it is kept at `target`, and its
    square in column BB of `sums`. The smoothed x is left in X, the restricted rest in B of the next level.
    """
    n1, n2, wraps = table[level, SHAPE + 1], table[level, SHAPE + 2], table[level, WRAP] > 0
    n, size = np.uint64(n2), n2 + 2
    last = n1 if hi == table[level + 1, SHAPE + 1] else 2 * hi
    first, second, alpha, nothing = numbers[FIRST], numbers[SECOND], numbers[ALPHA], numbers[NOTHING]
    for t in range(2 * lo - 2, 2 * hi + 3):
        if wraps or 0 <= t < n1:  # b, and the first step from it
            i = t + n1 if t < 0 else t - n1 if t >= n1 else t
            b, x = np.uint64((t + 3) % 3 * size + 1), np.uint64(((t + 3) % 3 + 3) * size + 1)
            given = np.uint64(source + i * n2)
            inverse = np.uint64(table[level, DINV] + i * n2)
            if source == target:
                for k in range(n):
                    value = arena[given + k]
                    rows[b + k] = value
                    rows[x + k] = first * (arena[inverse + k] * value)
            else:
                change = np.uint64(table[level, Q] + i * n2)
                for k in range(n):
                    value = arena[given + k] + alpha * arena[change + k]
                    rows[b + k] = value
                    rows[x + k] = first * (arena[inverse + k] * value)
                if 2 * lo <= t < last:
                    kept = np.uint64(target + i * n2)
                    for k in range(n):
                        arena[kept + k] = rows[b + k]
                    sums[i, BB] = lane_dot(rows, b, rows, b, n, lanes)
            seam(rows, x, n)
        t1 = t - 1
        if t1 >= 2 * lo - 1 and (wraps or 0 <= t1 < n1):  # the second step
            i = t1 + n1 if t1 < 0 else t1 - n1 if t1 >= n1 else t1
            up, own, down = (t1 + 2) % 3 + 3, (t1 + 3) % 3 + 3, (t1 + 4) % 3 + 3
            x, y = np.uint64(own * size + 1), np.uint64((own + 3) * size + 1)
            b = np.uint64((own - 3) * size + 1)
            relax_row(
                second,
                level,
                i,
                table,
                arena,
                rows,
                np.uint64(up * size + 1),
                x,
                np.uint64(down * size + 1),
                rows,
                b,
                y,
            )
            seam(rows, y, n)
            if 2 * lo <= t1 < last:
                kept = np.uint64(table[level, X] + i * n2)
                for k in range(n):
                    arena[kept + k] = rows[y + k]
        t2 = t - 2
        if t2 >= 2 * lo and (wraps or t2 < n1):  # the rest
            i = t2 - n1 if t2 >= n1 else t2
            up, own, down = (t2 + 2) % 3 + 6, t2 % 3 + 6, (t2 + 1) % 3 + 6
            b, rest = np.uint64((own - 6) * size + 1), np.uint64((own + 3) * size + 1)
            relax_row(
                nothing, level, i, table, arena, rows, np.uint64(up * size + 1), np.uint64(own * size + 1),
                np.uint64(down * size + 1), rows, b, rest,
            )  # fmt: skip
            seam(rows, rest, n)
        if t2 > 2 * lo and t2 % 2 == 0:
            above, own, below = (t2 + 1) % 3 + 9, (t2 + 2) % 3 + 9, t2 % 3 + 9
            restrict_row(
                t2 // 2 - 1, level, table, arena, rows, np.uint64(above * size + 1), np.uint64(own * size + 1),
                np.uint64(below * size + 1),
            )  # fmt: skip


@_compiled
def up_rows(lo, hi, level, table, arena, numbers, source, sums, rows, lanes):
    """Add the next level's correction to X and smooth twice: rows lo .. hi - 1 into Y; b begins at `source`.

    On level 0, columns YB and YQ of `sums` receive y b and y Q.
    """
    n1, n2, wraps = table[level, SHAPE + 1], table[level, SHAPE + 2], table[level, WRAP] > 0
    n, size = np.uint64(n2), n2 + 2
    first, second = numbers[FIRST], numbers[SECOND]
    for t in range(lo - 2, hi + 2):
        if wraps or 0 <= t < n1:
            x = np.uint64((t + 3) % 3 * size + 1)
            prolong_row(t + n1 if t < 0 else t - n1 if t >= n1 else t, level, table, arena, rows, x)
            seam(rows, x, n)
        t1 = t - 1
        if t1 >= lo - 1 and (wraps or 0 <= t1 < n1):
            i = t1 + n1 if t1 < 0 else t1 - n1 if t1 >= n1 else t1
            up, own, down = (t1 + 2) % 3, (t1 + 3) % 3, (t1 + 4) % 3
            x, y = np.uint64(own * size + 1), np.uint64((own + 3) * size + 1)
            relax_row(
                second, level, i, table, arena, rows, np.uint64(up * size + 1), x, np.uint64(down * size + 1), arena,
                np.uint64(source + i * n2), y,
            )  # fmt: skip
            seam(rows, y, n)
        t2 = t - 2
        if t2 >= lo:
            up, own, down = (t2 + 2) % 3 + 3, t2 % 3 + 3, (t2 + 1) % 3 + 3
            y, z, b = np.uint64(own * size + 1), np.uint64(6 * size + 1), np.uint64(source + t2 * n2)
            relax_row(
                first,
                level,
                t2,
                table,
                arena,
                rows,
                np.uint64(up * size + 1),
                y,
                np.uint64(down * size + 1),
                arena,
                b,
                z,
            )
            kept = np.uint64(table[level, Y] + t2 * n2)
            for k in range(n):
                arena[kept + k] = rows[z + k]
            if level == 0:
                sums[t2, YB] = lane_dot(rows, z, arena, b, n, lanes)
                sums[t2, YQ] = lane_dot(rows, z, arena, np.uint64(table[level, Q] + t2 * n2), n, lanes)


@_compiled
def turn_rows(lo, hi, table, arena, numbers, source, target, sums, x, stretch, rows, lanes):
    """Next direction and its image, rows lo .. hi - 1: ``x += stretch ALPHA p; p = z + BETA p; Q = -K p``.

    p is read at `source` and written at `target`; z is Y of level 0. Column PQ of `sums` receives -p Q.
    """
    n1, n2, wraps = table[0, SHAPE + 1], table[0, SHAPE + 2], table[0, WRAP] > 0
    n, size = np.uint64(n2), n2 + 2
    step, beta = stretch * np.float64(numbers[ALPHA]), numbers[BETA]
    nothing = numbers[NOTHING]
    zeros = np.uint64(4 * size + 1)
    for t in range(lo - 1, hi + 1):
        if wraps or 0 <= t < n1:
            i = t + n1 if t < 0 else t - n1 if t >= n1 else t
            p, old = np.uint64((t + 3) % 3 * size + 1), np.uint64(source + i * n2)
            z = np.uint64(table[0, Y] + i * n2)
            for k in range(n):
                rows[p + k] = arena[z + k] + beta * arena[old + k]
            seam(rows, p, n)
            if lo <= t < hi:
                kept, cell = np.uint64(target + i * n2), np.uint64(i * n2)
                for k in range(n):
                    x[cell + k] += step * np.float64(arena[old + k])
                for k in range(n):
                    arena[kept + k] = rows[p + k]
        t1 = t - 1
        if t1 >= lo:
            up, own, down = (t1 + 2) % 3, t1 % 3, (t1 + 1) % 3
            p, q = np.uint64(own * size + 1), np.uint64(3 * size + 1)
            relax_row(
                nothing,
                START,
                t1,
                table,
                arena,
                rows,
                np.uint64(up * size + 1),
                p,
                np.uint64(down * size + 1),
                rows,
                zeros,
                q,
            )
            kept = np.uint64(table[0, Q] + t1 * n2)
            for k in range(n):
                arena[kept + k] = rows[q + k]
            sums[t1, PQ] = -lane_dot(rows, p, rows, q, n, lanes)


@_compiled
def true_rest_rows(lo, hi, g1, g2, w, b, x, scale, arena, target, sums, rows, lanes):
    """``scale (b - K x)`` into the arena from `target` on, computed in double precision, rows lo .. hi - 1.

    `sums` receives the squares of b - K x, and of ``|K| |x| + |b|``, the scale of the rounding errors in it. `rows`: 3 (n2 + 2)
    numbers of scratch.
    """
    n1, n2 = x.shape[1], x.shape[2]
    n = np.uint64(n2)
    u, loss, rhs, south, east = (
        x.reshape(x.size),
        w.reshape(w.size),
        b.reshape(b.size),
        g1.reshape(g1.size),
        g2.reshape(g2.size),
    )
    rest, magnitude, own = np.uint64(0), n, TWO * n + ONE
    for i in range(lo, hi):
        at = np.uint64(i * n2)
        up, down = np.uint64((i - 1 if i > 0 else n1 - 1) * n2), np.uint64((i + 1 if i < n1 - 1 else 0) * n2)
        left = np.uint64(i * (n2 + 1))
        for k in range(n):
            rows[own + k] = u[at + k]
        seam(rows, own, n)
        for k in range(n):
            c = rows[own + k]
            flow = south[at + k] * (u[up + k] - c) + south[at + n + k] * (u[down + k] - c)
            flow += east[left + k] * (rows[own + k - ONE] - c) + east[left + k + ONE] * (rows[own + k + ONE] - c)
            rows[rest + k] = rhs[at + k] - loss[at + k] * c + flow
        for k in range(n):
            c = abs(rows[own + k])
            size = south[at + k] * (abs(u[up + k]) + c) + south[at + n + k] * (abs(u[down + k]) + c)
            size += east[left + k] * (abs(rows[own + k - ONE]) + c) + east[left + k + ONE] * (
                abs(rows[own + k + ONE]) + c
            )
            rows[magnitude + k] = abs(rhs[at + k]) + loss[at + k] * c + size
        sums[i, REST2] = lane_dot(rows, rest, rows, rest, n, lanes)
        sums[i, ROUNDING2] = lane_dot(rows, magnitude, rows, magnitude, n, lanes)
        kept = np.uint64(target) + at
        for k in range(n):
            arena[kept + k] = scale * rows[rest + k]


LOOK, GO_DOWN, GO_UP, TURN = np.arange(4)


@_compiled
def column_sum(sums, column):
    """Sum over the rows, first to last."""
    total = 0.0
    for row in range(sums.shape[0]):
        total += sums[row, column]
    return total


@_entry
def plane_pcg(
    part, parts, gate, g1, g2, w, b, x, tol, max_iterations, scale, table, arena, dense, numbers, wide, narrow, sums,
    solving
):  # fmt: skip
    """`pcg` for a plane whose hierarchy holds ``scale * K``; returns the same.

    Residual and direction are kept in the precision of the arena, in units of the residual found last, and the sum of
    all steps in double precision: every factor `DROP` the residual is found anew from it, which removes what rounding
    has added, while the directions go on. Where not `solving`, one V-cycle only, for b in R into Y of level 0.

    Each member has a row of `numbers`, of `wide`, in double precision, and of `narrow`, in that of the arena and 0 at first:
    3 and `BUFFERS` numbers for each place of a row and its two ends, and 32 more. `sums`: (rows, 6).
    """
    g1, g2, w, b, x, table, arena = bare(g1), bare(g2), bare(w), bare(b), bare(x), bare(table), bare(arena)
    dense, numbers, wide, narrow, sums = bare(dense), bare(numbers), bare(wide), bare(narrow), bare(sums)
    cells, last, n2 = x.size, table.shape[0] - 1, table[0, SHAPE + 2]
    solution, rhs = x.reshape(cells), b.reshape(cells)
    own, wide_rows, wide_lanes = numbers[part], wide[part], wide[part, 3 * (n2 + 2) :]
    down_buffer, up_buffer = narrow[part], narrow[part, UP_BUFFER * (n2 + 2) :]
    turn_buffer, lanes = narrow[part, TURN_BUFFER * (n2 + 2) :], narrow[part, BUFFERS * (n2 + 2) :]
    size = np.sqrt(lane_dot(rhs, np.uint64(0), rhs, np.uint64(0), np.uint64(cells), wide_lanes))
    iterations, residual, rounding, before, target, unit, now = 0, 0.0, 0.0, np.inf, 0.0, size, 1.0
    r, p, rz, pq, level = table[0, R], table[0, P], 0.0, 0.0, START
    source, kind = r, LOOK if solving else GO_DOWN
    first, end = share(table[0, SHAPE + 1], cells, part, parts)
    for k in range(
        np.uint64(first * n2), np.uint64(end * n2)
    ):  # an earlier solve may have ended in numbers that are not finite
        arena[np.uint64(p) + k] = 0.0
    while True:  # one sweep over the cells of a level a turn
        if kind == LOOK:
            step = scale * unit * np.float64(own[ALPHA])  # that was decided on last
            for k in range(np.uint64(first * n2), np.uint64(end * n2)):
                solution[k] += step * np.float64(arena[np.uint64(p) + k])
            own[ALPHA] = 0.0
            unit *= now
            now, r = 1.0, table[0, R]
            source = r
            meet(gate, parts)
            true_rest_rows(first, end, g1, g2, w, b, x, 1.0 / unit, arena, r, sums, wide_rows, wide_lanes)
            meet(gate, parts)
            residual, rounding = np.sqrt(column_sum(sums, REST2)), 2.3e-16 * np.sqrt(column_sum(sums, ROUNDING2))
            if residual <= max(tol * size, 2.0 * rounding) or iterations >= max_iterations:
                break
            if not residual < 0.5 * before:  # no progress, or not a number
                break
            before = residual
            target = max(tol * size, 1.5 * rounding, DROP * residual) / unit
            kind = GO_DOWN
        here, there = (source, r) if level == 0 else (table[level, B], table[level, B])
        if kind == TURN:
            here, there = p, 2 * table[0, P] + cells - p
        coarse = table[level + 1 if kind == GO_DOWN else level, SHAPE + 1]
        lo, hi = share(coarse, table[level, SHAPE + 1] * table[level, SHAPE + 2], part, parts)
        if lo < hi:
            if kind == GO_DOWN:
                down_rows(lo, hi, level, table, arena, own, here, there, sums, down_buffer, lanes)
            elif kind == GO_UP:
                up_rows(lo, hi, level, table, arena, own, here, sums, up_buffer, lanes)
            else:
                turn_rows(lo, hi, table, arena, own, here, there, sums, solution, scale * unit, turn_buffer, lanes)
        meet(gate, parts)
        if kind == GO_DOWN:
            if level == 0 and source != r:
                iterations += 1
                now = np.sqrt(column_sum(sums, BB))
                if not now > target or iterations >= max_iterations:
                    now = max(now, 1e-30)
                    kind = LOOK
                    continue
            level += 1
            if level == last:
                if part == 0:
                    solve_dense(dense, arena, table[last, B], table[last, Y], wide_rows)
                meet(gate, parts)
                level -= 1
                kind, source = GO_UP, r
        elif kind == GO_UP:
            level -= 1
            if level < 0:
                if not solving:
                    break
                level, rz = START, column_sum(sums, YB)
                own[BETA] = max(column_sum(sums, YQ) / pq, 0.0) if pq > 0.0 else 0.0
                kind = TURN if rz > 0.0 else LOOK
        else:
            p, pq = there, column_sum(sums, PQ)
            own[ALPHA] = rz / pq if pq > 0.0 else 0.0
            source, r = r, 2 * table[0, R] + cells - r
            kind = GO_DOWN if pq > 0.0 else LOOK
    return iterations, residual, size, rounding


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


@_compiled
def copy_finest(table, arena, g0, g1, g2, w, scale):
    """``scale * K`` into the finest level."""
    copy_scaled(g0.reshape(-1), scale, arena[table[0, G0] : table[0, G0] + g0.size])
    copy_scaled(g1.reshape(-1), scale, arena[table[0, G1] : table[0, G1] + g1.size])
    copy_scaled(g2.reshape(-1), scale, arena[table[0, G2] : table[0, G2] + g2.size])
    copy_scaled(w.reshape(-1), scale, arena[table[0, W] : table[0, W] + w.size])


@_entry
def set_up(table, arena, g0, g1, g2, w, scale, dense):
    """Fill the hierarchy of ``scale * K`` and factorise its coarsest level."""
    copy_finest(table, arena, g0, g1, g2, w, scale)
    for level in range(table.shape[0]):
        inverse_diagonal(table, arena, level)
        if level < table.shape[0] - 1:
            coarsen(table, arena, level)
    assemble(table, arena, dense)
    factorise(dense, np.empty(dense.shape[0]))


@_entry
def graph_set_up(table, arena, g0, g1, g2, w, scale, links, dense):
    """The same where aggregates follow the ties; ties and w of the levels below the finest are in the arena already."""
    copy_finest(table, arena, g0, g1, g2, w, scale)
    inverse_diagonal(table, arena, START)
    last = table.shape[0] - 1
    for level in range(1, last + 1):
        line = table[level]
        ends, near, ties = links[line[ENDS] :], links[line[NEAR] :], arena[line[TIES] :]
        for i in range(line[SHAPE]):
            d = np.float64(arena[line[W] + i])
            for e in range(ends[i], ends[i + 1]):
                d += ties[e]
                if level == last and near[e] > i:
                    dense[i, near[e]] = -np.float64(ties[e])
            arena[line[DINV] + i] = 1.0 / d if d > 0.0 else 0.0
            if level == last:
                dense[i, i] = np.float64(arena[line[W] + i])
    eliminate(dense)


@_entry
def survey(values):
    """(sum, largest, smallest positive, number of positive) of values >= 0, flat; (0, 0, inf, 0) of none."""
    total, more, top, higher, low, lower, count = 0.0, 0.0, 0.0, 0.0, np.inf, np.inf, 0
    half = np.uint64(values.size // 2)
    for k in range(half):  # two chains of operations: each waits for its last one
        a, b = values[k], values[half + k]
        total += a
        more += b
        top = a if a > top else top
        higher = b if b > higher else higher
        a, b = a if a > 0.0 else np.inf, b if b > 0.0 else np.inf
        low = a if a < low else low
        lower = b if b < lower else lower
        count += np.int64(a < np.inf) + np.int64(b < np.inf)
    for k in range(half + half, np.uint64(values.size)):
        a = values[k]
        more += a
        top, low, count = max(top, a), min(low, a if a > 0.0 else np.inf), count + np.int64(a > 0.0)
    return total + more, max(top, higher), min(low, lower), count


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
def factorise(dense, whole):
    """``L D L^T`` of the matrix whose lower triangle is given: the rows of ``D L^T`` above the diagonal, 1 / D on it.

    The matrix (n, n) lies in the first n columns; the last one receives where each row of the factor ends. A component
    without anchor ends in a pivot that is nothing but rounding: it is replaced by 0, which holds its last cell at 0
    (any correction will do there, the right-hand side being balanced).
    """
    n = dense.shape[0]
    for i in range(n):
        whole[i] = dense[i, i]
        for j in range(i):
            dense[j, i] = dense[i, j]
    end = np.int64(0)
    for k in range(n):
        row_end = n
        while row_end > max(end, k + 1) and dense[k, row_end - 1] == 0.0:
            row_end -= 1
        end = row_end  # rows fill up to where those above them end
        dense[k, n] = end
        pivot = dense[k, k]
        dense[k, k] = 1.0 / pivot if pivot > 1e-13 * n * whole[k] else 0.0
        for i in range(k + 1, end):
            share = dense[k, i] * dense[k, k]
            for j in range(i, end):
                dense[i, j] -= share * dense[k, j]


@_compiled
def eliminate(dense):
    """The same from couplings <= 0 above the diagonal and w on it, without a subtraction: exact at any contrast.

    Whether a component is anchored shows in what is left of w, where a difference of large numbers could not tell
    (Grassmann, Taksar and Heyman, Regenerative analysis and steady state distributions, Oper. Res. 33, 1985).
    """
    n = dense.shape[0]
    for k in range(n):
        dense[k, n] = n
        pivot = dense[k, k]
        for i in range(k + 1, n):
            pivot -= dense[k, i]
        for i in range(k + 1, n):
            share = -dense[k, i] / pivot if pivot > 0.0 else 0.0
            dense[i, i] += share * dense[k, k]
            for j in range(i + 1, n):
                dense[i, j] += share * dense[k, j]
        dense[k, k] = 1.0 / pivot if pivot > 0.0 else 0.0


@_compiled
def solve_dense(dense, arena, rhs, out, y):
    """y = K^-1 b on the coarsest level from its factors."""
    n = dense.shape[0]
    for i in range(n):
        y[i] = np.float64(arena[rhs + i])
    for k in range(n):
        y[k] *= dense[k, k]
        for i in range(k + 1, np.int64(dense[k, n])):
            y[i] -= dense[k, i] * y[k]
    for k in range(n - 1, -1, -1):
        value = 0.0
        for i in range(k + 1, np.int64(dense[k, n])):
            value += dense[k, i] * y[i]
        y[k] -= dense[k, k] * value
    for i in range(n):
        arena[out + i] = y[i]


# --- setting up a plane, in double precision --------------------------------------------------------------------------
#
# `work` is flat: from WORK on, a level's fields lie one after the other, each with a halo of HALO rows and columns
# (wrapped where periodic, 0 elsewhere); from WEIGHTS on, its interpolation. Offsets are unsigned, as in the sweeps.
# Of the finest level there is only a band of rows at a time, which stays in the cache: a member takes its rows from the
# conductances to the next level, then the band moves on. So every member has a table of its own.

HALO = 3
EASTWARD, SOUTHWARD, LOSS, WHOLE, SOUTHEASTWARD, SOUTHWESTWARD = np.arange(6)  # fields; the last two not on level 0
THREE = np.uint64(HALO)


@_compiled
def field_at(table, level, field, i):
    """Where row i of a field of a level begins in `work`, at column 0."""
    width = table[level, SHAPE + 2] + 2 * HALO
    return np.uint64(table[level, WORK] + (field * table[level, HEIGHT] + i + HALO) * width + HALO)


@_compiled
def weights_at(table, level, which, row):
    """Where row `row` of one of the eight weights of a level begins in `work`."""
    m2 = table[level + 1, SHAPE + 2]
    return np.uint64(table[level, WEIGHTS] + (which * table[level, WEIGHTS_HEIGHT] + row) * (m2 + 2))


@_compiled
def wrap_halo(table, level, field, wrap1, wrap2, work):
    """Fill the halo of a field of a coarse level along periodic axes."""
    n1, n2 = table[level, SHAPE + 1], table[level, SHAPE + 2]
    n, width = np.uint64(n2), np.uint64(n2 + 2 * HALO)
    if wrap2:
        for i in range(n1):
            row = field_at(table, level, field, i)
            for k in range(THREE):
                work[row - THREE + k] = work[row - THREE + n + k]
                work[row + n + k] = work[row + k]
    if wrap1:
        first = field_at(table, level, field, START) - THREE
        for k in range(THREE * width):
            work[first - THREE * width + k] = work[first - THREE * width + np.uint64(n1) * width + k]
            work[first + np.uint64(n1) * width + k] = work[first + k]


@_compiled
def clear_edges(lo, hi, level, table, work):
    """0 into the halos of a coarse level's fields, beside rows lo .. hi - 1 and beyond the first and the last one."""
    n1, n2 = table[level, SHAPE + 1], table[level, SHAPE + 2]
    n, width = np.uint64(n2), np.uint64(n2 + 2 * HALO)
    for field in range(6):
        for i in range(lo if lo > 0 else lo - HALO, hi if hi < n1 else n1 + HALO):
            row = field_at(table, level, field, i) - THREE
            if 0 <= i < n1:
                for k in range(THREE):
                    work[row + k] = 0.0
                    work[row + THREE + n + k] = 0.0
            else:
                for k in range(width):
                    work[row + k] = 0.0


@_compiled
def negative(x):
    """The negative part; a choice between two numbers vectorises where `min` does not."""
    return x if x < 0.0 else 0.0


@_compiled
def positive(x):
    """The positive part."""
    return x if x > 0.0 else 0.0


@_compiled
def load_rows(lo, hi, table, g1, g2, w, wrap1, wrap2, scale, work):
    """``scale * K`` into the fields of the finest level, rows lo .. hi - 1 and their halos; g1, g2 and w are flat.

    Rows beyond the plane are those of its other end, or 0. WHOLE, the diagonal of K, is not known of the first row.
    """
    n1, n2 = table[0, SHAPE + 1], table[0, SHAPE + 2]
    n, width = np.uint64(n2), np.uint64(n2 + 2 * HALO)
    for i in range(lo, hi):
        inside = (i + n1) % n1 if wrap1 else i
        cell, face = np.uint64(inside * n2), np.uint64(inside * (n2 + 1) + 1)
        east, south = field_at(table, START, EASTWARD, i), field_at(table, START, SOUTHWARD, i)
        loss, whole = field_at(table, START, LOSS, i), field_at(table, START, WHOLE, i)
        if 0 <= inside < n1:
            for k in range(n):
                work[east + k] = scale * g2[face + k]
                work[south + k] = scale * g1[cell + n + k]
                work[loss + k] = scale * w[cell + k]
            for field in (east, south, loss):
                for k in range(THREE):
                    work[field - THREE + k] = work[field - THREE + n + k] if wrap2 else 0.0
                    work[field + n + k] = work[field + k] if wrap2 else 0.0
        else:
            for field in (east, south, loss):
                for k in range(width):
                    work[field - THREE + k] = 0.0
        if i > lo:
            north = south - width
            for k in range(n):
                value = work[east + k - ONE] + work[east + k] + work[north + k] + work[south + k] + work[loss + k]
                work[whole + k] = value
            work[whole + n] = work[whole] if wrap2 else 0.0  # all that is wanted of its halo


@_compiled
def store_row(work, source, count, arena, target):
    """Copy a row into the arena."""
    for k in range(count):
        arena[target + k] = work[source + k]


@_compiled
def finish_rows(lo, hi, level, table, arena, work):
    """Everything that the arena keeps of rows lo .. hi - 1, and the diagonals of coarse ones.

    There LOSS is, on entry, the whole diagonal: it becomes the row's excess over its couplings, where one
    that is nothing but rounding counts as 0. WHOLE is the diagonal of K. Galerkin products may have couplings of the
    wrong sign; 1 / D is the inverse of a diagonal so large that the rows of D^-1 K still sum to 2 at most, as the
    smoother assumes.
    """
    n2 = table[level, SHAPE + 2]
    n, width = np.uint64(n2), np.uint64(n2 + 2 * HALO)
    for i in range(lo, hi):
        east, south = field_at(table, level, EASTWARD, i), field_at(table, level, SOUTHWARD, i)
        loss, whole = field_at(table, level, LOSS, i), field_at(table, level, WHOLE, i)
        north, inverse = south - width, np.uint64(table[level, DINV] + i * n2)
        if level == 0:
            for k in range(n):
                value = work[whole + k]
                arena[inverse + k] = 1.0 / value if value > 0.0 else 0.0
        else:
            se, sw = field_at(table, level, SOUTHEASTWARD, i), field_at(table, level, SOUTHWESTWARD, i)
            for k in range(n):
                a, b, c, d = work[east + k - ONE], work[east + k], work[north + k], work[south + k]
                e, f = work[se - width + k - ONE], work[sw - width + k + ONE]
                g, h = work[sw + k], work[se + k]
                total = a + b + c + d + (e + f + g + h)
                wrong = negative(a) + negative(b) + negative(c) + negative(d)
                wrong += negative(e) + negative(f) + negative(g) + negative(h)
                rest = work[loss + k] - total
                excess = rest if rest > 1e-13 * work[loss + k] else 0.0
                work[loss + k] = excess
                work[whole + k] = total + excess
                enlarged = total + 0.5 * excess - wrong
                value = enlarged if enlarged > total + excess else total + excess
                arena[inverse + k] = 1.0 / value if value > 0.0 else 0.0
            beyond = n + TWO
            for row in range(i if i > 0 else -1, i + 1):  # what lies above row 0 is kept too
                to, shift = np.uint64((row + 1) * (n2 + 2)), np.uint64(i - row) * width + ONE
                store_row(work, se - shift, beyond, arena, np.uint64(table[level, SOUTHEAST]) + to)
                store_row(work, sw - shift, beyond, arena, np.uint64(table[level, SOUTHWEST]) + to)
        store_row(work, east - ONE, n + ONE, arena, np.uint64(table[level, EAST] + i * (n2 + 1)))
        store_row(work, loss, n, arena, np.uint64(table[level, W] + i * n2))
        store_row(work, south, n, arena, np.uint64(table[level, SOUTH] + (i + 1) * n2))
        if i == 0:
            store_row(work, north, n, arena, np.uint64(table[level, SOUTH]))


@_compiled
def middle_rows(lo, hi, level, table, work):
    """Interpolation between two coarse cells, weights' rows lo .. hi - 1: the matrix collapsed across the pair.

    Couplings of the wrong sign count as 0 (lumped into the diagonal): at contrasts of 1e6 in fine structures that
    halves the iterations.
    """
    width, m = np.uint64(table[level, SHAPE + 2] + 2 * HALO), np.uint64(table[level + 1, SHAPE + 2] + 2)
    for ci in range(lo, hi):
        i = 2 * ci - 1  # cells (i, k), between coarse columns, and (i - 1, k + 1), between coarse rows; k from -2 on
        e, s = field_at(table, level, EASTWARD, i) - TWO, field_at(table, level, SOUTHWARD, i - 1) - ONE
        own, other = field_at(table, level, LOSS, i) - TWO, field_at(table, level, LOSS, i - 1) - ONE
        to_left, to_right = weights_at(table, level, LEFT, ci), weights_at(table, level, RIGHT, ci)
        to_up, to_down = weights_at(table, level, UP, ci), weights_at(table, level, DOWN, ci)
        se, sw = e, s
        if level > 0:
            se, sw = field_at(table, level, SOUTHEASTWARD, i) - TWO, field_at(table, level, SOUTHWESTWARD, i) - TWO
        for ck in range(m):
            k = TWO * ck
            left, right = positive(work[e + k - ONE]), positive(work[e + k])
            up, down = positive(work[s + k - width]), positive(work[s + k])
            if level > 0:
                p, q = se + k, sw + k
                left += positive(work[p - width - ONE]) + positive(work[q])
                right += positive(work[q - width + ONE]) + positive(work[p])
                p, q = p - width + ONE, q - width + ONE
                up += positive(work[p - width - ONE]) + positive(work[q - width + ONE])
                down += positive(work[p]) + positive(work[q])
            whole = left + right + work[own + k]
            share = 1.0 / whole if whole > 0.0 else 0.0
            work[to_left + ck] = left * share
            work[to_right + ck] = right * share
            whole = up + down + work[other + k]
            share = 1.0 / whole if whole > 0.0 else 0.0
            work[to_up + ck] = up * share
            work[to_down + ck] = down * share


@_compiled
def corner_rows(lo, hi, level, table, arena, work):
    """Interpolation among four coarse cells, where the matrix is solved; and rows lo .. hi - 1 of all weights, kept."""
    m1, m2 = table[level + 1, SHAPE + 1], table[level + 1, SHAPE + 2]
    width, m = np.uint64(table[level, SHAPE + 2] + 2 * HALO), np.uint64(m2 + 2)
    for ci in range(lo, hi):
        left, right = weights_at(table, level, LEFT, ci), weights_at(table, level, RIGHT, ci)
        up, down = weights_at(table, level, UP, ci), weights_at(table, level, DOWN, ci)
        nw, ne = weights_at(table, level, NW, ci), weights_at(table, level, NE, ci)
        sw, se = weights_at(table, level, SW, ci), weights_at(table, level, SE, ci)
        for ck in range(ONE if ci > 0 else m):  # nothing lies there
            work[nw + ck], work[ne + ck], work[sw + ck], work[se + ck] = 0.0, 0.0, 0.0, 0.0
        if ci > 0:
            i = 2 * ci - 2  # cells (i, k), k from -2 on
            e, s = field_at(table, level, EASTWARD, i) - TWO, field_at(table, level, SOUTHWARD, i) - TWO
            loss = field_at(table, level, LOSS, i) - TWO
            p, q = e, s
            if level > 0:
                p, q = field_at(table, level, SOUTHEASTWARD, i) - TWO, field_at(table, level, SOUTHWESTWARD, i) - TWO
            for ck in range(ONE, m):
                k = TWO * ck
                north, south = positive(work[s + k - width]), positive(work[s + k])
                west, east = positive(work[e + k - ONE]), positive(work[e + k])
                a, b, c, d = 0.0, 0.0, 0.0, 0.0  # the four corners
                if level > 0:
                    a, b = positive(work[p + k - width - ONE]), positive(work[q + k - width + ONE])
                    c, d = positive(work[q + k]), positive(work[p + k])
                whole = north + south + west + east + a + b + c + d + work[loss + k]
                share = 1.0 / whole if whole > 0.0 else 0.0
                work[nw + ck] = (a + north * work[left - m + ck] + west * work[up + ck - ONE]) * share
                work[ne + ck] = (b + north * work[right - m + ck] + east * work[up + ck]) * share
                work[sw + ck] = (c + south * work[left + ck] + west * work[down + ck - ONE]) * share
                work[se + ck] = (d + south * work[right + ck] + east * work[down + ck]) * share
        for which in range(8):
            to = np.uint64(table[level, TRANSFER] + (which * (m1 + 2) + ci) * (m2 + 2))
            store_row(work, weights_at(table, level, which, ci), m, arena, to)


@_compiled
def galerkin_rows(lo, hi, level, table, work):
    """Rows lo .. hi - 1 of ``P^T K P`` into the next level's fields; its LOSS receives the whole diagonal.

    For every coarse cell the basis function f (its nine weights) is passed through K, on the ring around its support
    only towards east and south. At cells among four coarse ones K f vanishes where no coupling has the wrong sign,
    so surely on the finest level.
    """
    width, m2 = np.uint64(table[level, SHAPE + 2] + 2 * HALO), np.uint64(table[level + 1, SHAPE + 2])
    m = m2 + TWO
    for ci in range(lo, hi):
        row = 2 * ci + 1
        e, s = field_at(table, level, EASTWARD, row) + ONE, field_at(table, level, SOUTHWARD, row) + ONE
        d = field_at(table, level, WHOLE, row) + ONE
        se, sw = e, s
        if level > 0:
            se, sw = field_at(table, level, SOUTHEASTWARD, row) + ONE, field_at(table, level, SOUTHWESTWARD, row) + ONE
        left, right = weights_at(table, level, LEFT, ci + 1) + ONE, weights_at(table, level, RIGHT, ci + 1) + ONE
        up, down = weights_at(table, level, UP, ci + 1) + ONE, weights_at(table, level, DOWN, ci + 1) + ONE
        wnw, wne = weights_at(table, level, NW, ci + 1) + ONE, weights_at(table, level, NE, ci + 1) + ONE
        wsw, wse = weights_at(table, level, SW, ci + 1) + ONE, weights_at(table, level, SE, ci + 1) + ONE
        to_e, to_s = field_at(table, level + 1, EASTWARD, ci), field_at(table, level + 1, SOUTHWARD, ci)
        to_se, to_sw = field_at(table, level + 1, SOUTHEASTWARD, ci), field_at(table, level + 1, SOUTHWESTWARD, ci)
        to_loss = field_at(table, level + 1, LOSS, ci)
        for c in range(m2):
            k, b = TWO * c, c + m  # the fine cell in its row; the weights' row below
            i, j = e + k, s + k
            fw, fe, fn, fs = work[right + c], work[left + c + ONE], work[down + c], work[up + b]
            fnw, fne = work[wse + c], work[wsw + c + ONE]
            fsw, fse = work[wne + b], work[wnw + b + ONE]
            own = -(work[i - ONE] * fw + work[i] * fe + work[j - width] * fn + work[j] * fs)
            # K f in the five cells of the support that are not among four coarse ones
            at_e = -(work[i] + work[j - width + ONE] * fne + work[j + ONE] * fse)
            at_w = -(work[i - ONE] + work[j - width - ONE] * fnw + work[j - ONE] * fsw)
            at_n = -(work[j - width] + work[i - width - ONE] * fnw + work[i - width] * fne)
            at_s = -(work[j] + work[i + width - ONE] * fsw + work[i + width] * fse)
            # and in the ring around it, towards east, south and the two lower corners
            at_ee, at_nee, at_see = -work[i + ONE] * fe, -work[i - width + ONE] * fne, -work[i + width + ONE] * fse
            at_ss, at_ssw = -work[j + width] * fs, -work[j + width - ONE] * fsw
            at_sse, at_sww = -work[j + width + ONE] * fse, -work[i + width - TWO] * fsw
            at_sse2, at_ssw2 = 0.0, 0.0
            at_nw, at_ne, at_sw, at_se = 0.0, 0.0, 0.0, 0.0
            h = d + k
            if level > 0:
                p, q = se + k, sw + k
                at_nw = work[h - width - ONE] * fnw
                at_nw -= work[j - width - ONE] * fw + work[i - width - ONE] * fn + work[p - width - ONE]
                at_ne = work[h - width + ONE] * fne
                at_ne -= work[j - width + ONE] * fe + work[i - width] * fn + work[q - width + ONE]
                at_sw = work[h + width - ONE] * fsw
                at_sw -= work[j - ONE] * fw + work[i + width - ONE] * fs + work[q]
                at_se = work[h + width + ONE] * fse
                at_se -= work[j + ONE] * fe + work[i + width] * fs + work[p]
                own -= work[p - width - ONE] * fnw + work[q - width + ONE] * fne + work[q] * fsw + work[p] * fse
                at_e -= work[p - width] * fn + work[q + ONE] * fs
                at_w -= work[q - width] * fn + work[p - ONE] * fs
                at_n -= work[q - width] * fw + work[p - width] * fe
                at_s -= work[p - ONE] * fw + work[q + ONE] * fe
                at_ee -= work[p - width + ONE] * fne + work[q + TWO] * fse
                at_nee -= work[q - width + TWO] * fe
                at_see -= work[p + ONE] * fe
                at_ss -= work[p + width - ONE] * fsw + work[q + width + ONE] * fse
                at_ssw -= work[q + width] * fs
                at_sse -= work[p + width] * fs
                at_sww -= work[q - ONE] * fw
                at_sse2 = -work[p + width + ONE] * fse
                at_ssw2 = -work[q + width - ONE] * fsw
            own += work[h]
            at_e += work[h + ONE] * fe
            at_w += work[h - ONE] * fw
            at_n += work[h - width] * fn
            at_s += work[h + width] * fs
            whole = own + fe * at_e + fw * at_w + fn * at_n + fs * at_s
            whole += fnw * at_nw + fne * at_ne + fsw * at_sw + fse * at_se
            # rows of P^T towards the four neighbours
            east = work[right + c + ONE] * at_e + at_ee
            east += work[down + c + ONE] * at_nee + work[up + b + ONE] * at_see
            south = work[down + b] * at_s + at_ss
            south += work[right + b] * at_ssw + work[left + b + ONE] * at_sse
            east += work[wse + c + ONE] * at_ne + work[wne + b + ONE] * at_se
            south += work[wse + b] * at_sw + work[wsw + b + ONE] * at_se
            southeast = work[wse + b + ONE] * at_se + work[down + b + ONE] * at_see
            southeast += work[right + b + ONE] * at_sse + at_sse2
            southwest = work[wsw + b] * at_sw + work[down + b - ONE] * at_sww
            southwest += work[left + b] * at_ssw + at_ssw2
            work[to_e + c], work[to_s + c], work[to_loss + c] = -east, -south, whole
            work[to_se + c], work[to_sw + c] = -southeast, -southwest


@_pasted
def finest_rows(lo, hi, table, arena, work, g1, g2, w, wrap1, wrap2, scale):
    """What the arena keeps of the finest level, and the next one's fields: coarse rows lo .. hi - 1, band by band."""
    n1, m1, band = table[0, SHAPE + 1], table[1, SHAPE + 1], table[0, WEIGHTS_HEIGHT] - 2
    fields, weights = table[0, WORK], table[0, WEIGHTS]
    for top in range(lo, hi, band):
        end = min(top + band, hi)
        table[0, WORK] = fields - 2 * top * (table[0, SHAPE + 2] + 2 * HALO)
        table[0, WEIGHTS] = weights - top * (table[1, SHAPE + 2] + 2)
        load_rows(2 * top - HALO, 2 * end + 2, table, g1, g2, w, wrap1, wrap2, scale, work)
        finish_rows(2 * top, 2 * end if end < m1 else n1, START, table, arena, work)
        middle_rows(top, end + 2, START, table, work)
        corner_rows(top + 1 if top > 0 else 0, end + 2, START, table, arena, work)
        galerkin_rows(top, end, START, table, work)
    table[0, WORK], table[0, WEIGHTS] = fields, weights


FINISH, MIDDLES, CORNERS, GALERKIN = np.arange(4)


@_entry
def box_set_up(part, parts, gate, tables, arena, work, g1, g2, w, wrap1, wrap2, scale, dense, whole):
    """Fill the hierarchy of ``scale * K`` of a plane and factorise its coarsest level; g1, g2 and w are flat.

    `tables` holds the level table once for each member, whose WORK and WEIGHTS of the finest level are its own. `work` is
    scratch of the size that the layout says, `whole` of the cells of the coarsest level.
    """
    tables, arena, work, g1, g2, w = bare(tables), bare(arena), bare(work), bare(g1), bare(g2), bare(w)
    dense, whole = bare(dense), bare(whole)
    table, last = tables[part], tables.shape[1] - 1
    lo, hi = share(table[1, SHAPE + 1], table[0, SHAPE + 1] * table[0, SHAPE + 2], part, parts)
    finest_rows(lo, hi, table, arena, work, g1, g2, w, wrap1, wrap2, scale)
    for level in range(1, last + 1):
        n1, n2 = table[level, SHAPE + 1], table[level, SHAPE + 2]
        lo, hi = share(n1, n1 * n2, part, parts)
        if lo < hi:
            clear_edges(lo, hi, level, table, work)
        meet(gate, parts)
        if part == 0:
            for field in range(6):
                if field != LOSS and field != WHOLE:
                    wrap_halo(table, level, field, wrap1, wrap2, work)
        meet(gate, parts)
        for job in range(4 if level < last else 1):
            rows = n1
            if job > FINISH:
                rows = table[level + 1, SHAPE + 1] + (2 if job < GALERKIN else 0)
            lo, hi = share(rows, n1 * n2, part, parts)
            if job == FINISH:
                finish_rows(lo, hi, level, table, arena, work)
            elif job == MIDDLES:
                middle_rows(lo, hi, level, table, work)
            elif job == CORNERS:
                corner_rows(lo, hi, level, table, arena, work)
            else:
                galerkin_rows(lo, hi, level, table, work)
            meet(gate, parts)
            if job == FINISH:
                if part == 0:
                    wrap_halo(table, level, LOSS, wrap1, wrap2, work)
                    wrap_halo(table, level, WHOLE, wrap1, wrap2, work)
                meet(gate, parts)
    if part == 0:
        box_assemble(table, last, work, dense)
        factorise(dense, whole)


@_compiled
def box_assemble(table, level, work, dense):
    """The matrix of a level in `dense`, lower triangle."""
    n1, n2 = table[level, SHAPE + 1], table[level, SHAPE + 2]
    for i in range(n1):
        below = (i + 1) % n1 * n2
        for field in range(6):
            row = field_at(table, level, field, i)
            for k in range(n2):
                value, here, right, left = work[row + np.uint64(k)], i * n2 + k, (k + 1) % n2, (k + n2 - 1) % n2
                if field == LOSS:
                    dense[here, here] += value
                elif field == EASTWARD:
                    link(dense, here, i * n2 + right, value)
                elif field == SOUTHWARD:
                    link(dense, here, below + k, value)
                elif field == SOUTHEASTWARD:
                    link(dense, here, below + right, value)
                elif field == SOUTHWESTWARD:
                    link(dense, here, below + left, value)
