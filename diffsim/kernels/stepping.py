"""Explicit time stepping of  m du/dt = -K u + F  on padded 3-D arrays: the compiled loops.

Every array over cells has the padded shape ``(n0, n1, n2)``: C-contiguous float64, last axis fast, leading axes
of length 1 in 1-D and 2-D. ``g0, g1, g2`` are face conductances with ``n_a + 1`` faces along axis ``a``
(``g[0] = g[n] = 0``, or ``g[0] == g[n]`` joining the two ends of a periodic axis). Cells that are not free hold
0, have no conductance and ``inv_mass = 0``, and so stay 0. Kernels check nothing.

Three promises shape the code, and all of them are tested bit by bit:

* mirror symmetry: the two neighbours along an axis are always added to each other first, and the flag "contract"
  is left out, because a fused multiply-add treats its two products differently;
* the same bits with any number of threads: sums run over fixed bands of rows, which are then added in order;
* the same bits however steps are blocked: one expression per cell, wherever it is evaluated.
"""

import numba
import numpy as np

_SERIAL = {"cache": True, "error_model": "numpy", "nogil": True}
_PARALLEL = {**_SERIAL, "parallel": True}

# Rows are handed out in bands of about this many cells; below _PARALLEL_CELLS one thread does them all, because
# waking a second one costs more than the work.
_BAND_CELLS = 16_384
_PARALLEL_CELLS = 32_768


# ---------------------------------------------------------------- rows: the only stencils for variable coefficients


@numba.njit(**_SERIAL)
def _axis_row(g, u, net):
    """``net`` = what flows into each cell of one row along the row itself, ends joined by ``g[0]``."""
    n = u.size
    if n == 1:
        net[0] = 0.0
        return
    net[0] = g[0] * (u[n - 1] - u[0]) + g[1] * (u[1] - u[0])
    net[n - 1] = g[n - 1] * (u[n - 2] - u[n - 1]) + g[n] * (u[0] - u[n - 1])
    g_west, g_east = g[1 : n - 1], g[2:n]
    west, centre, east = u[0 : n - 2], u[1 : n - 1], u[2:n]
    inner = net[1 : n - 1]
    for k in range(n - 2):
        inner[k] = g_west[k] * (west[k] - centre[k]) + g_east[k] * (east[k] - centre[k])


@numba.njit(**_SERIAL)
def _add_transverse_row(g_low, g_high, u_low, u, u_high, net):
    """Add to ``net`` what flows in from the rows on both sides."""
    for k in range(u.size):
        net[k] += g_low[k] * (u_low[k] - u[k]) + g_high[k] * (u_high[k] - u[k])


@numba.njit(**_SERIAL)
def _add_entered_row(w, f, u, net, entered):
    """Add forcing minus loss to ``net``, and to ``entered``, the running column sums of what crossed the border."""
    for k in range(u.size):
        e = f[k] - w[k] * u[k]
        net[k] += e
        entered[k] += e


@numba.njit(**_SERIAL)
def _flow_row(g0, g1, g2, u, i, j, net):
    """``net = -(K - w) u`` on row ``(i, j)``: what flows in from all neighbours."""
    n0, n1, _ = u.shape
    centre = u[i, j]
    _axis_row(g2[i, j], centre, net)
    if n1 > 1:
        south, north = u[i, j - 1 if j > 0 else n1 - 1], u[i, j + 1 if j + 1 < n1 else 0]
        _add_transverse_row(g1[i, j], g1[i, j + 1], south, centre, north, net)
    if n0 > 1:
        below, above = u[i - 1 if i > 0 else n0 - 1, j], u[i + 1 if i + 1 < n0 else 0, j]
        _add_transverse_row(g0[i, j], g0[i + 1, j], below, centre, above, net)


@numba.njit(**_SERIAL)
def _forcing_row(base, patterns, amplitudes, i, j, buffer):
    """Row ``(i, j)`` of  base + sum_p amplitudes[p] patterns[p];  the base itself where there are no patterns."""
    if patterns.shape[0] == 0:
        return base[i, j]
    buffer[:] = base[i, j]
    for p in range(patterns.shape[0]):
        scale, pattern = amplitudes[p], patterns[p, i, j]
        for k in range(buffer.size):
            buffer[k] += scale * pattern[k]
    return buffer


@numba.njit(**_SERIAL)
def _rate_row(g0, g1, g2, w, inv_mass, base, patterns, amplitudes, u, i, j, buffer, rate, entered):
    """``rate = (F - K u) / m`` on row ``(i, j)``; what crossed the border is added to ``entered``."""
    _flow_row(g0, g1, g2, u, i, j, rate)
    forcing = _forcing_row(base, patterns, amplitudes, i, j, buffer)
    _add_entered_row(w[i, j], forcing, u[i, j], rate, entered)
    scale = inv_mass[i, j]
    for k in range(rate.size):
        rate[k] *= scale[k]


# ------------------------------------------------------------------------------------------------ sums in fixed order


@numba.njit(**_SERIAL)
def _ordered_sum(values):
    """Sum from the first to the last."""
    total = 0.0
    for value in values:
        total += value
    return total


@numba.njit(**_SERIAL)
def dot(a, b):
    """``sum_i a_i b_i`` over C-contiguous arrays of one shape, in an order that depends on the size alone."""
    x, y = a.reshape(a.size), b.reshape(b.size)
    width = 256
    columns = np.zeros(width)
    blocks = x.size // width
    for block in range(blocks):
        x_row, y_row = x[block * width : (block + 1) * width], y[block * width : (block + 1) * width]
        for k in range(width):
            columns[k] += x_row[k] * y_row[k]
    for k in range(x.size - blocks * width):
        columns[k] += x[blocks * width + k] * y[blocks * width + k]
    return _ordered_sum(columns)


@numba.njit(**_SERIAL)
def weighted_norm(weights, a):
    """``sqrt(sum_i weights_i a_i**2)`` in fixed order, C-contiguous arrays of one shape."""
    w, x = weights.reshape(weights.size), a.reshape(a.size)
    width = 256
    columns = np.zeros(width)
    blocks = x.size // width
    for block in range(blocks):
        w_row, x_row = w[block * width : (block + 1) * width], x[block * width : (block + 1) * width]
        for k in range(width):
            columns[k] += w_row[k] * x_row[k] * x_row[k]
    for k in range(x.size - blocks * width):
        columns[k] += w[blocks * width + k] * x[blocks * width + k] ** 2
    return np.sqrt(_ordered_sum(columns))


@numba.njit(**_SERIAL)
def max_abs(u):
    """``max |u_i|`` of a C-contiguous array; infinity or NaN if any entry is (both compare above all numbers).

    The bits of non-negative floats are ordered like the floats, and a maximum of integers vectorises.
    """
    bits = u.reshape(u.size).view(np.int64)
    largest = np.zeros(1, np.int64)
    sign_off = np.int64(0x7FFFFFFFFFFFFFFF)
    top = np.int64(0)
    for k in range(bits.size):
        top = max(top, bits[k] & sign_off)
    largest[0] = top
    return largest.view(np.float64)[0]


@numba.njit(**_SERIAL)
def is_finite(u):
    """Whether a C-contiguous array holds neither NaN nor infinity, in one pass without branches."""
    return np.isfinite(max_abs(u))


# ------------------------------------------------------------------------------------------------------ bands of rows


@numba.njit(**_SERIAL)
def _band_rows(shape):
    """Rows in one band: a function of the shape alone, so that no sum depends on the number of threads."""
    return max(1, _BAND_CELLS // shape[2])


@numba.njit(**_SERIAL)
def _stiffness_band(g0, g1, g2, w, u, start, stop, out):
    n1 = u.shape[1]
    for row in range(start, stop):
        i, j = row // n1, row % n1
        result, loss, centre = out[i, j], w[i, j], u[i, j]
        _flow_row(g0, g1, g2, u, i, j, result)
        for k in range(result.size):
            result[k] = loss[k] * centre[k] - result[k]


@numba.njit(**_PARALLEL)
def apply_stiffness(g0, g1, g2, w, u, out):
    """``out = K u``;  ``(K u)_i = sum_f g_f (u_i - u_j) + w_i u_i``. All over padded cells; `out` is not `u`."""
    rows = u.shape[0] * u.shape[1]
    step = _band_rows(u.shape)
    if u.size < _PARALLEL_CELLS:
        _stiffness_band(g0, g1, g2, w, u, 0, rows, out)
    else:
        for band in numba.prange((rows + step - 1) // step):
            _stiffness_band(g0, g1, g2, w, u, band * step, min(rows, (band + 1) * step), out)


@numba.njit(**_SERIAL)
def _euler_band(g0, g1, g2, w, inv_mass, dt, base, patterns, amplitudes, u, start, stop, out):
    n1, n2 = u.shape[1], u.shape[2]
    buffer, rate, entered = np.empty(n2), np.empty(n2), np.zeros(n2)
    for row in range(start, stop):
        i, j = row // n1, row % n1
        _rate_row(g0, g1, g2, w, inv_mass, base, patterns, amplitudes, u, i, j, buffer, rate, entered)
        centre, result = u[i, j], out[i, j]
        for k in range(n2):
            result[k] = centre[k] + dt * rate[k]
    return _ordered_sum(entered)


@numba.njit(**_PARALLEL)
def advance_explicit_euler(g0, g1, g2, w, inv_mass, dt, base, patterns, amplitudes, u, scratch):
    """Forward Euler with any coefficients, ``u += dt (F - K u) / m``, as many steps as `amplitudes` has rows.

    Parameters
    ----------
    g0, g1, g2, w, inv_mass
        Face conductances, loss `w` and ``1 / m`` (0 where a cell is not free).
    dt
        The step [s].
    base, patterns, amplitudes
        Step `n` has the forcing ``F = base + sum_p amplitudes[n, p] patterns[p]``; shapes ``(n0, n1, n2)``,
        ``(p, n0, n1, n2)``, ``(n_steps, p)``, `p` may be 0.
    u, scratch
        The state, overwritten by the state after all steps, and a second array of its shape.

    Returns
    -------
    float
        ``sum over steps of dt sum_i (F_i - w_i u_i)``: what entered through walls, sources and losses.
    """
    rows = u.shape[0] * u.shape[1]
    step = _band_rows(u.shape)
    n_bands = (rows + step - 1) // step
    entered = np.zeros(n_bands)
    gain = 0.0
    source, target = u, scratch
    for n in range(amplitudes.shape[0]):
        if u.size < _PARALLEL_CELLS:
            for band in range(n_bands):
                start, stop = band * step, min(rows, (band + 1) * step)
                entered[band] = _euler_band(
                    g0, g1, g2, w, inv_mass, dt, base, patterns, amplitudes[n], source, start, stop, target
                )
        else:
            for band in numba.prange(n_bands):
                start, stop = band * step, min(rows, (band + 1) * step)
                entered[band] = _euler_band(
                    g0, g1, g2, w, inv_mass, dt, base, patterns, amplitudes[n], source, start, stop, target
                )
        gain += dt * _ordered_sum(entered)
        source, target = target, source
    if amplitudes.shape[0] % 2 == 1:
        u[:] = scratch
    return gain


@numba.njit(**_SERIAL)
def _stabilized_band(
    g0, g1, g2, w, inv_mass, dt, coefficients, base, patterns, amplitudes, u, rate0, last, start, stop, out
):
    """One stage on one band; the first stage (``last is u`` in content) also fills `rate0`."""
    mu, nu, mu_t, gamma_t = coefficients
    keep = 1.0 - mu - nu
    n1, n2 = u.shape[1], u.shape[2]
    buffer, rate, entered = np.empty(n2), np.empty(n2), np.zeros(n2)
    for row in range(start, stop):
        i, j = row // n1, row % n1
        _rate_row(g0, g1, g2, w, inv_mass, base, patterns, amplitudes, last, i, j, buffer, rate, entered)
        first, previous, result, first_rate = u[i, j], last[i, j], out[i, j], rate0[i, j]
        # `out` holds the stage before `last`, which is needed in its own cell only.
        for k in range(n2):
            result[k] = (
                mu * previous[k]
                + nu * result[k]
                + keep * first[k]
                + dt * (mu_t * rate[k] + gamma_t * first_rate[k])
            )
    return _ordered_sum(entered)


@numba.njit(**_SERIAL)
def _first_stage_band(
    g0, g1, g2, w, inv_mass, step, base, patterns, amplitudes, u, start, stop, rate0, out, spare
):
    """``rate0 = L(u)``, ``out = u + step rate0``, ``spare = u`` on one band."""
    n1, n2 = u.shape[1], u.shape[2]
    buffer, entered = np.empty(n2), np.zeros(n2)
    for row in range(start, stop):
        i, j = row // n1, row % n1
        rate, centre, result, copy = rate0[i, j], u[i, j], out[i, j], spare[i, j]
        _rate_row(g0, g1, g2, w, inv_mass, base, patterns, amplitudes, u, i, j, buffer, rate, entered)
        for k in range(n2):
            result[k] = centre[k] + step * rate[k]
            copy[k] = centre[k]
    return _ordered_sum(entered)


@numba.njit(**_PARALLEL)
def stabilized_step(
    g0, g1, g2, w, inv_mass, dt, mu, nu, mu_t, gamma_t, base, patterns, amplitudes, u, work, out
):
    """One step of a stabilized (super-time-stepping) method by its three-term recurrence.

        Y_0 = u,   Y_1 = Y_0 + mu_t[1] dt L0,   L(Y) = (F - K Y) / m,   L0 = L(Y_0),
        Y_j = mu[j] Y_{j-1} + nu[j] Y_{j-2} + (1 - mu[j] - nu[j]) Y_0 + mu_t[j] dt L(Y_{j-1}) + gamma_t[j] dt L0

    with one pass over memory per stage.

    Parameters
    ----------
    g0, g1, g2, w, inv_mass, dt
        As in `advance_explicit_euler`.
    mu, nu, mu_t, gamma_t
        Coefficients of the stages, shape ``(s + 1,)``, entry 0 unused; `s >= 1`.
    base, patterns, amplitudes
        Stage `j` evaluates L with the forcing ``base + sum_p amplitudes[j - 1, p] patterns[p]``; `amplitudes` has
        shape ``(s, p)``: one row per evaluation.
    u, work, out
        State (not modified), two spare arrays ``(2, n0, n1, n2)``, state after the step (neither `u` nor `work`).

    Returns
    -------
    float
        What entered through walls, sources and losses, weighted as the stages weight their evaluations.
    """
    rows = u.shape[0] * u.shape[1]
    step = _band_rows(u.shape)
    n_bands = (rows + step - 1) // step
    entered = np.zeros(n_bands)
    serial = u.size < _PARALLEL_CELLS
    n_stages = amplitudes.shape[0]
    rate0 = work[0]
    # Y_j lives in `out` when s - j is even, so that Y_s ends there; Y_j takes the place of Y_{j-2}.
    here, there = (out, work[1]) if n_stages % 2 == 1 else (work[1], out)
    if serial:
        for band in range(n_bands):
            start, stop = band * step, min(rows, (band + 1) * step)
            entered[band] = _first_stage_band(
                g0, g1, g2, w, inv_mass, mu_t[1] * dt, base, patterns, amplitudes[0], u, start, stop, rate0, here, there
            )
    else:
        for band in numba.prange(n_bands):
            start, stop = band * step, min(rows, (band + 1) * step)
            entered[band] = _first_stage_band(
                g0, g1, g2, w, inv_mass, mu_t[1] * dt, base, patterns, amplitudes[0], u, start, stop, rate0, here, there
            )
    entered0 = _ordered_sum(entered)
    gain_before, gain = 0.0, mu_t[1] * dt * entered0
    for j in range(2, n_stages + 1):
        coefficients = (mu[j], nu[j], mu_t[j], gamma_t[j])
        last, target = here, there
        if serial:
            for band in range(n_bands):
                start, stop = band * step, min(rows, (band + 1) * step)
                entered[band] = _stabilized_band(
                    g0, g1, g2, w, inv_mass, dt, coefficients, base, patterns, amplitudes[j - 1],
                    u, rate0, last, start, stop, target
                )  # fmt: skip
        else:
            for band in numba.prange(n_bands):
                start, stop = band * step, min(rows, (band + 1) * step)
                entered[band] = _stabilized_band(
                    g0, g1, g2, w, inv_mass, dt, coefficients, base, patterns, amplitudes[j - 1],
                    u, rate0, last, start, stop, target
                )  # fmt: skip
        inflow = dt * (mu_t[j] * _ordered_sum(entered) + gamma_t[j] * entered0)
        gain_before, gain = gain, mu[j] * gain + nu[j] * gain_before + inflow
        here, there = there, here
    return gain


@numba.njit(**_SERIAL)
def _runge_kutta_band(
    g0, g1, g2, w, inv_mass, dt, weights, error_weights, base, patterns, amplitudes, u, stage, start, stop,
    rates, next_stage, entered_band, error_band
):  # fmt: skip
    """Evaluate the last of `rates` at `stage` and form ``next_stage = u + dt sum_i weights_i rates_i`` on one band."""
    n1, n2 = u.shape[1], u.shape[2]
    buffer, entered, error = np.empty(n2), np.zeros(n2), np.empty(n2)
    n_rates = rates.shape[0]
    largest = 0.0
    for row in range(start, stop):
        i, j = row // n1, row % n1
        rate = rates[n_rates - 1, i, j]
        _rate_row(g0, g1, g2, w, inv_mass, base, patterns, amplitudes, stage, i, j, buffer, rate, entered)
        centre, result = u[i, j], next_stage[i, j]
        result[:] = 0.0
        for r in range(n_rates):
            weight, column = weights[r], rates[r, i, j]
            if weight != 0.0:
                for k in range(n2):
                    result[k] += weight * column[k]
        for k in range(n2):
            result[k] = centre[k] + dt * result[k]
        if error_weights.size > 0:
            error[:] = 0.0
            for r in range(n_rates):
                weight, column = error_weights[r], rates[r, i, j]
                for k in range(n2):
                    error[k] += weight * column[k]
            largest = max(largest, max_abs(error))
    entered_band[0] = _ordered_sum(entered)
    error_band[0] = dt * largest


@numba.njit(**_PARALLEL)
def runge_kutta_step(g0, g1, g2, w, inv_mass, dt, A, b, b_hat, base, patterns, amplitudes, u, work, out):
    """One step of an explicit Runge-Kutta method, one pass over memory per stage.

    Parameters
    ----------
    g0, g1, g2, w, inv_mass, dt
        As in `advance_explicit_euler`.
    A, b, b_hat
        Butcher coefficients, shapes ``(s, s)`` (strictly lower), ``(s,)``, ``(s,)`` or ``(0,)`` for none.
    base, patterns, amplitudes
        Stage `i` has the forcing ``base + sum_p amplitudes[i, p] patterns[p]``; `amplitudes` has shape ``(s, p)``.
    u, work, out
        State (not modified), spare arrays ``(s + 1, n0, n1, n2)``, state after the step.

    Returns
    -------
    gain : float
        What entered through walls, sources and losses: ``dt sum_i b_i sum_cells (F - w Y_i)``.
    error : float
        ``max |dt sum_i (b_i - b_hat_i) L(Y_i)|``, 0 without `b_hat`.
    """
    rows = u.shape[0] * u.shape[1]
    step = _band_rows(u.shape)
    n_bands = (rows + step - 1) // step
    entered, errors = np.zeros((n_bands, 1)), np.zeros((n_bands, 1))
    n_stages = b.size
    gain = 0.0
    no_weights = np.zeros(0)
    stage = u
    for s in range(n_stages):
        last = s + 1 == n_stages
        # The stages alternate between two arrays; the last one written is `out`.
        target = out if (n_stages - s) % 2 == 1 else work[n_stages]
        weights = b if last else A[s + 1]
        error_weights = b - b_hat if last and b_hat.size > 0 else no_weights
        rates = work[: s + 1]
        if u.size < _PARALLEL_CELLS:
            for band in range(n_bands):
                _runge_kutta_band(
                    g0, g1, g2, w, inv_mass, dt, weights, error_weights, base, patterns, amplitudes[s], u, stage,
                    band * step, min(rows, (band + 1) * step), rates, target, entered[band], errors[band]
                )  # fmt: skip
        else:
            for band in numba.prange(n_bands):
                _runge_kutta_band(
                    g0, g1, g2, w, inv_mass, dt, weights, error_weights, base, patterns, amplitudes[s], u, stage,
                    band * step, min(rows, (band + 1) * step), rates, target, entered[band], errors[band]
                )  # fmt: skip
        gain += dt * b[s] * _ordered_sum(entered[:, 0])
        stage = target
    return gain, errors.max()


# -------------------------------------------------------------------------- constant coefficients on a uniform box


@numba.njit(**_SERIAL)
def _uniform_plain_step(r, walls, periodic, source, decay, u, out):
    """One step in convex form, cell by cell. Returns the inflow through the walls."""
    n0, n1, n2 = u.shape
    n = (n0, n1, n2)
    inner = 1.0 - decay - 2.0 * ((r[0] + r[1]) + r[2])
    inflow = 0.0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                at = (i, j, k)
                centre = inner
                total = 0.0
                for a in range(3):
                    pair = 0.0
                    for side in range(2):
                        neighbour = at[a] + 2 * side - 1
                        if periodic[a] or 0 <= neighbour < n[a]:
                            neighbour = neighbour % n[a]
                            pair += u[neighbour if a == 0 else i, neighbour if a == 1 else j, neighbour if a == 2 else k]
                        else:
                            const, factor = walls[a, side, 0], walls[a, side, 1]
                            pair += const
                            centre += r[a] * factor
                            inflow += r[a] * (const + (factor - 1.0) * u[i, j, k])
                    total += r[a] * pair
                out[i, j, k] = centre * u[i, j, k] + total
                if source.size > 0:
                    out[i, j, k] += source[i, j, k]
    return inflow


@numba.njit(**_SERIAL)
def advance_uniform(r, walls, periodic, source, decay, n_steps, u, scratch):
    """Forward Euler with constant coefficients on a uniform box, in convex form.

        u' = (1 - decay - 2 sum_a r_a) u + sum_a r_a (u_west + u_east) + source

    Behind a wall stands a ghost value ``const + factor * edge`` (value: ``2 T - edge``; flux: ``edge + q h / D``;
    Robin in between), folded into the centre coefficient of the edge cell.

    Parameters
    ----------
    r
        ``dt D_a / (c h_a**2)`` per padded axis, shape (3,), 0 on axes of one cell that are only padding. When they
        (and the `factor`, `decay`) are multiples of 2**-53, the weights of a cell sum to exactly 1.
    walls
        ``const, factor`` of every side and step, shape ``(n, 3, 2, 2)`` with ``n`` 1 or `n_steps`:
        ``walls[step, axis, side] = (const, factor)``. Ignored on periodic axes; ``(0, 1)`` is an insulated side.
    periodic
        bool per padded axis, shape (3,).
    source
        Addition per step, ``dt (f V + ...) / m``, shape of `u`; or of shape (0, 0, 0) where there is none.
    decay
        ``dt b / c``: the fraction of a cell lost to the surroundings per step.
    n_steps
        Number of steps.
    u, scratch
        The state, overwritten by the state after all steps, and a second array of its shape.

    Returns
    -------
    float
        ``sum_i`` of what entered over all steps through walls and source minus decay, in units of `u`
        (times the mass of a cell: content).
    """
    content, gain = dot(u, np.ones_like(u)), 0.0
    supplied = dot(source, np.ones_like(source))
    for n in range(n_steps):
        inflow = _uniform_plain_step(r, walls[min(n, walls.shape[0] - 1)], periodic, source, decay, u, scratch)
        inflow += supplied - decay * (content + gain)
        gain += inflow
        u[:] = scratch
    return gain
