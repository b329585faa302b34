"""The compiled stepping kernels against dense matrices, and their bit-level promises."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from diffsim.kernels import stepping

SHAPES = {
    "1d": (1, 1, 17),
    "2d": (1, 9, 14),
    "3d": (5, 6, 7),
    "one cell": (1, 1, 1),
    "thin": (1, 40, 1),
    "two": (2, 2, 2),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
every_periodicity = pytest.mark.parametrize("periodic", [False, True], ids=["walls", "periodic"])


def random_operator(shape, periodic, seed=0, holes=True):
    """Conductances, loss and inverse mass of a random K u with a few cells that are not free."""
    rng = np.random.default_rng(seed)
    free = rng.random(shape) > 0.1 if holes else np.ones(shape, bool)
    conductances = []
    for axis in range(3):
        n = shape[axis]
        faces = list(shape)
        faces[axis] = n + 1
        g = np.exp(rng.normal(size=faces))
        first, last = [slice(None)] * 3, [slice(None)] * 3
        first[axis], last[axis] = slice(0, 1), slice(n, n + 1)
        g[tuple(last)] = g[tuple(first)] = g[tuple(first)] if periodic and n > 1 else 0.0
        closed = np.concatenate([free.take([-1], axis), free, free.take([0], axis)], axis)
        g *= closed.take(range(n + 1), axis) & closed.take(range(1, n + 2), axis)
        conductances.append(np.ascontiguousarray(g))
    loss = rng.random(shape) * (rng.random(shape) > 0.5) * free
    inv_mass = (0.5 + rng.random(shape)) * free
    return *conductances, loss, inv_mass, free


def calm_operator(shape, periodic, seed=0):
    """`random_operator` where most cells feel their neighbours only: one mass, losses at the walls and in one place."""
    *conductances, loss, _, free = random_operator(shape, periodic, seed)
    loss[(0,) * 3] = loss[tuple(n // 2 for n in shape)] = 0.0
    walls = np.zeros(shape, bool)
    for axis in range(3):
        walls.swapaxes(0, axis)[[0, -1]] |= shape[axis] > 1
    loss[~walls] = 0.0
    loss[tuple(n // 4 for n in shape)] = free[tuple(n // 4 for n in shape)]
    return *conductances, loss, np.where(free, 0.7, 0.0), free


def forcing_at_walls(operator, n_evaluations, n_patterns=1):
    """Forcing where `calm_operator` has losses."""
    loss = operator[3]
    base, patterns, amplitudes = random_forcing(loss.shape, loss > 0, n_patterns, n_evaluations)
    return base, patterns, amplitudes


every_operator = pytest.mark.parametrize("calm", [False, True], ids=["any", "calm"])


def operator_and_forcing(shape, periodic, calm, n_patterns, n_evaluations):
    if not calm:
        *operator, free = random_operator(shape, periodic)
        return operator, free, random_forcing(shape, free, n_patterns, n_evaluations)
    *operator, free = calm_operator(shape, periodic)
    return operator, free, forcing_at_walls(operator, n_evaluations, n_patterns)


def dense_stiffness(g0, g1, g2, w):
    """The matrix of K, face by face."""
    shape = w.shape
    number = np.arange(w.size).reshape(shape)
    K = np.diag(w.ravel())
    for axis, g in enumerate((g0, g1, g2)):
        n = shape[axis]
        for face in range(n):  # face n is face 0 again where it is open
            low, high = number.take(face - 1, axis).ravel(), number.take(face, axis).ravel()
            for a, b, conductance in zip(low, high, g.take(face, axis).ravel(), strict=True):
                K[a, a] += conductance
                K[b, b] += conductance
                K[a, b] -= conductance
                K[b, a] -= conductance
    return K


@every_shape
@every_periodicity
def test_apply_stiffness_is_the_matrix_product(shape, periodic):
    *operator, _, _ = random_operator(shape, periodic)
    u = np.random.default_rng(1).normal(size=shape)
    K = dense_stiffness(*operator)
    out = np.full(shape, np.nan)
    stepping.apply_stiffness(*operator, u, out)
    np.testing.assert_allclose(out.ravel(), K @ u.ravel(), rtol=0, atol=1e-13 * max(1, np.abs(K).max()))


class Dense:
    """The same semi-discrete problem as matrices: rate(u, F) = m^-1 (F - K u), and what crosses the border."""

    def __init__(self, g0, g1, g2, w, inv_mass):
        self.shape = w.shape
        self.K = dense_stiffness(g0, g1, g2, w)
        self.w, self.inv_mass = w.ravel(), inv_mass.ravel()

    def rate(self, u, F):
        return self.inv_mass * (F - self.K @ u)

    def entered(self, u, F):
        return np.sum(F - self.w * u)


def random_forcing(shape, free, n_patterns, n_evaluations, seed=3):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=shape) * free
    patterns = rng.normal(size=(n_patterns, *shape)) * free
    return base, patterns, rng.normal(size=(n_evaluations, n_patterns))


def forcings(base, patterns, amplitudes):
    return [base.ravel() + np.tensordot(row, patterns, 1).ravel() for row in amplitudes]


@every_shape
@every_periodicity
@pytest.mark.parametrize("n_patterns", [0, 2])
@pytest.mark.parametrize("n_steps", [0, 1, 6])
@every_operator
def test_euler_steps_are_those_of_the_matrix(shape, periodic, n_patterns, n_steps, calm):
    operator, free, forcing = operator_and_forcing(shape, periodic, calm, n_patterns, n_steps)
    dense, dt = Dense(*operator), 0.01
    u = np.random.default_rng(1).normal(size=shape) * free
    expected, gain = u.ravel().copy(), 0.0
    for F in forcings(*forcing):
        gain += dt * dense.entered(expected, F)
        expected = expected + dt * dense.rate(expected, F)
    got = stepping.advance_explicit_euler(*operator, dt, *forcing, u, np.empty(shape))
    np.testing.assert_allclose(u.ravel(), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(got, gain, rtol=0, atol=1e-12)


@every_shape
@every_periodicity
@pytest.mark.parametrize("n_stages", [1, 2, 5])
def test_stabilized_step_is_the_recurrence(shape, periodic, n_stages):
    *operator, free = random_operator(shape, periodic)
    base, patterns, amplitudes = random_forcing(shape, free, 1, n_stages)
    rng = np.random.default_rng(5)
    mu, nu, mu_t, gamma_t = rng.normal(size=(4, n_stages + 1))
    dense, dt = Dense(*operator), 0.01
    u = rng.normal(size=shape) * free
    F = forcings(base, patterns, amplitudes)
    Y = [u.ravel()]
    rates, crossed, gains = [dense.rate(Y[0], F[0])], [dense.entered(Y[0], F[0])], [0.0]
    for j in range(1, n_stages + 1):
        if j == 1:
            Y.append(Y[0] + mu_t[1] * dt * rates[0])
            gains.append(mu_t[1] * dt * crossed[0])
        else:
            rates.append(dense.rate(Y[j - 1], F[j - 1]))
            crossed.append(dense.entered(Y[j - 1], F[j - 1]))
            keep = 1 - mu[j] - nu[j]
            Y.append(
                mu[j] * Y[j - 1]
                + nu[j] * Y[j - 2]
                + keep * Y[0]
                + dt * (mu_t[j] * rates[j - 1] + gamma_t[j] * rates[0])
            )
            gains.append(
                mu[j] * gains[j - 1] + nu[j] * gains[j - 2] + dt * (mu_t[j] * crossed[j - 1] + gamma_t[j] * crossed[0])
            )
    out = np.empty(shape)
    start = u.copy()
    gain = stepping.stabilized_step(
        *operator, dt, mu, nu, mu_t, gamma_t, base, patterns, amplitudes, u, np.empty((2, *shape)), out
    )
    np.testing.assert_allclose(out.ravel(), Y[-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(gain, gains[-1], rtol=0, atol=1e-11)
    np.testing.assert_array_equal(u, start)


@every_shape
@every_periodicity
@pytest.mark.parametrize("n_stages", [1, 2, 4])
def test_runge_kutta_step_is_the_butcher_formula(shape, periodic, n_stages):
    *operator, free = random_operator(shape, periodic)
    base, patterns, amplitudes = random_forcing(shape, free, 1, n_stages)
    rng = np.random.default_rng(7)
    A, (b, b_hat) = np.tril(rng.normal(size=(n_stages, n_stages)), -1), rng.normal(size=(2, n_stages))
    dense, dt = Dense(*operator), 0.01
    u = rng.normal(size=shape) * free
    rates, crossed = [], []
    for i, F in enumerate(forcings(base, patterns, amplitudes)):
        Y = u.ravel() + dt * sum((A[i, r] * rates[r] for r in range(i)), np.zeros(u.size))
        rates.append(dense.rate(Y, F))
        crossed.append(dense.entered(Y, F))
    out, start = np.empty(shape), u.copy()
    gain, error = stepping.runge_kutta_step(
        *operator, dt, A, b, b_hat, base, patterns, amplitudes, u, np.empty((n_stages + 1, *shape)), out
    )
    np.testing.assert_allclose(out.ravel(), u.ravel() + dt * (b @ rates), rtol=0, atol=1e-12)
    np.testing.assert_allclose(gain, dt * (b @ crossed), rtol=0, atol=1e-11)
    np.testing.assert_allclose(error, np.abs(dt * ((b - b_hat) @ rates)).max(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(u, start)


def uniform_case(shape, periodic, n_walls, seed=0):
    """Random coefficients of `advance_uniform`, all positive: values, fluxes and Robin in between."""
    rng = np.random.default_rng(seed)
    r = np.where(np.array(shape) > 1, 0.02 + 0.1 * rng.random(3), 0.0)
    walls = np.empty((n_walls, 3, 2, 2))
    walls[..., 0] = rng.normal(size=(n_walls, 3, 2))
    walls[..., 1] = 2 * rng.random((3, 2)) - 1
    walls[:, np.array(shape) == 1] = 0.0, 1.0
    periodic = np.array([periodic and n > 1 for n in shape])
    return r, walls, periodic, rng.normal(size=shape), 0.05


def ghost_cell_step(r, walls, periodic, source, decay, u):
    """The textbook version: pad with ghost cells, add second differences. Returns the state and what entered."""
    change = source - decay * u
    for axis in range(3):
        sides = [
            u.take([-1 if side == 0 else 0], axis)
            if periodic[axis]
            else walls[axis, side, 0] + walls[axis, side, 1] * u.take([0 if side == 0 else -1], axis)
            for side in range(2)
        ]
        change = change + r[axis] * np.diff(np.concatenate([sides[0], u, sides[1]], axis), n=2, axis=axis)
    return u + change, change.sum()


@every_shape
@every_periodicity
@pytest.mark.parametrize("n_steps", [0, 1, 7])
@pytest.mark.parametrize("steady", [True, False])
def test_uniform_steps_are_those_with_ghost_cells(shape, periodic, n_steps, steady):
    r, walls, periodic, source, decay = uniform_case(shape, periodic, 1 if steady else n_steps)
    u = np.random.default_rng(1).normal(size=shape)
    expected, gain = u.copy(), 0.0
    for n in range(n_steps):
        expected, entered = ghost_cell_step(r, walls[0 if steady else n], periodic, source, decay, expected)
        gain += entered
    got = stepping.advance_uniform(r, walls, periodic, source, decay, n_steps, u, np.empty(shape))
    np.testing.assert_allclose(u, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(got, gain, rtol=0, atol=1e-11)


# Grids that are cut into several blocks along each axis in turn.
LARGE = {
    "many planes": (1, 530, 17),
    "long rows": (1, 5, 2070),
    "1d": (1, 1, 2070),
    "tall": (140, 3, 5),
    "wide": (3, 70, 5),
    "deep": (3, 4, 530),
    "a few columns in the last block": (3, 4, 515),
    "ends of rows apart": (4, 5, 69),
}
every_large_shape = pytest.mark.parametrize("shape", LARGE.values(), ids=LARGE.keys())


@every_large_shape
@every_periodicity
def test_blocked_uniform_steps_have_the_bits_of_single_steps(shape, periodic):
    r, walls, periodic, source, decay = uniform_case(shape, periodic, 1)
    blocked = np.random.default_rng(1).normal(size=shape)
    single, scratch = blocked.copy(), np.empty(shape)
    gain = sum(stepping.advance_uniform(r, walls, periodic, source, decay, 1, single, scratch) for _ in range(37))
    blocked_gain = stepping.advance_uniform(r, walls, periodic, source, decay, 37, blocked, scratch)
    np.testing.assert_array_equal(blocked, single)
    np.testing.assert_allclose(blocked_gain, gain, rtol=0, atol=1e-12 * shape[0] * shape[1] * shape[2])


@every_large_shape
@every_periodicity
@every_operator
def test_blocked_euler_steps_have_the_bits_of_single_steps(shape, periodic, calm):
    """Single steps never look for quiet cells, so this is also the test that quiet cells get the same bits."""
    operator, free, (base, patterns, amplitudes) = operator_and_forcing(shape, periodic, calm, 1, 19)
    blocked = np.random.default_rng(1).normal(size=shape) * free
    single, scratch = blocked.copy(), np.empty(shape)
    gain = 0.0
    for row in amplitudes:
        gain += stepping.advance_explicit_euler(*operator, 0.01, base, patterns, row[None], single, scratch)
    blocked_gain = stepping.advance_explicit_euler(*operator, 0.01, base, patterns, amplitudes, blocked, scratch)
    np.testing.assert_array_equal(blocked, single)
    np.testing.assert_allclose(blocked_gain, gain, rtol=0, atol=1e-12 * shape[0] * shape[1] * shape[2])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_patterns", [0, 1])
def test_quiet_cells_are_all_cells_around_the_middle_on_which_only_neighbours_act(seed, n_patterns):
    shape = (3, 4, 23)
    rng = np.random.default_rng(seed)
    w, base, *patterns = (rng.random((2 + n_patterns, *shape)) > 0.95).astype(float)
    patterns = np.array(patterns).reshape(n_patterns, *shape)
    inv_mass = np.where(rng.random(shape) > 0.05, 0.5, np.where(rng.random(shape) > 0.5, 0.0, 2.0))
    inv_mass[0, 0, :2] = 0.0, 0.5
    spans, common, _ = stepping.quiet_cells(w, inv_mass, base, patterns)
    acted_on = (w != 0) | (base != 0) | patterns.any(0) | (inv_mass == 2.0)
    assert common == 0.5
    for row, (first, last) in zip(acted_on.reshape(-1, 23), spans, strict=True):
        assert first <= 11 <= last
        assert not row[first:last].any()
        assert first == 0 or row[first - 1]
        assert last == 23 or row[last]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 40, 33), (9, 10, 33)], ids=["2d", "3d"])
def test_mirroring_the_problem_mirrors_every_bit(shape, axis):
    r, walls, periodic, source, decay = uniform_case(shape, False, 1)
    u = np.random.default_rng(1).normal(size=shape)
    mirrored = np.ascontiguousarray(np.flip(u, axis))
    mirrored_walls = walls.copy()
    mirrored_walls[:, axis] = walls[:, axis, ::-1]
    mirrored_source = np.ascontiguousarray(np.flip(source, axis))
    stepping.advance_uniform(r, walls, periodic, source, decay, 20, u, np.empty(shape))
    stepping.advance_uniform(r, mirrored_walls, periodic, mirrored_source, decay, 20, mirrored, np.empty(shape))
    np.testing.assert_array_equal(np.flip(mirrored, axis), u)


@every_operator
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 40, 33), (9, 10, 33)], ids=["2d", "3d"])
def test_mirroring_any_operator_mirrors_every_bit(shape, axis, calm):
    operator, free, forcing = operator_and_forcing(shape, False, calm, 1, 20)
    u = np.random.default_rng(2).normal(size=shape) * free
    mirrored = np.ascontiguousarray(np.flip(u, axis))
    mirrored_operator = [np.ascontiguousarray(np.flip(a, axis)) for a in operator]
    base, patterns = (np.ascontiguousarray(np.flip(a, axis - 3)) for a in forcing[:2])
    stepping.advance_explicit_euler(*operator, 0.01, *forcing, u, np.empty(shape))
    stepping.advance_explicit_euler(*mirrored_operator, 0.01, base, patterns, forcing[2], mirrored, np.empty(shape))
    np.testing.assert_array_equal(np.flip(mirrored, axis), u)


def test_a_constant_stays_the_same_bits_where_nothing_enters():
    shape = (7, 8, 9)
    *operator, free = random_operator(shape, False)
    operator[3] = np.zeros(shape)
    u = np.where(free, 1 / 3, 0.0)
    start = u.copy()
    nothing = np.zeros(shape), np.zeros((0, *shape)), np.zeros((10, 0))
    stepping.advance_explicit_euler(*operator, 0.01, *nothing, u, np.empty(shape))
    np.testing.assert_array_equal(u, start)


def test_weights_that_are_multiples_of_2_to_minus_53_keep_the_content():
    shape, grain = (1, 64, 48), 2.0**53
    r = np.round(np.array([0.0, 0.21, 0.17]) * grain) / grain
    walls = np.zeros((1, 3, 2, 2))
    walls[..., 1] = 1.0  # insulated
    u = np.random.default_rng(1).random(shape)
    start, n_steps = u.sum(), 2000
    insulated = np.zeros(3, bool), np.zeros((0, 0, 0)), 0.0
    gain = stepping.advance_uniform(r, walls, *insulated, n_steps, u, np.empty(shape))
    assert gain == 0.0
    # rounding errors of single cells are random: sqrt(cells * steps) half ulps, ten of their standard deviations
    assert abs(u.sum() - start) <= 10 * np.sqrt(u.size * n_steps) * 2.0**-54


def test_no_new_extrema_while_all_weights_are_positive():
    shape = (1, 50, 50)
    r = np.array([0.0, 1 / 6, 1 / 6])  # half-cell walls: the edge cells' centre weight reaches zero in the corner
    walls = np.zeros((1, 3, 2, 2))
    walls[..., 1] = -1.0
    u = (np.random.default_rng(1).random(shape) > 0.5).astype(float)
    stepping.advance_uniform(r, walls, np.zeros(3, bool), np.zeros((0, 0, 0)), 0.0, 3, u, np.empty(shape))
    assert u.min() >= 0.0
    assert u.max() <= 1.0


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_single_bad_number_is_found(poison):
    u = np.random.default_rng(0).normal(size=(3, 4, 5))
    assert stepping.is_finite(u)
    assert stepping.max_abs(u) == np.abs(u).max()
    u[2, 3, 1] = poison
    assert not stepping.is_finite(u)
    assert not np.isfinite(stepping.max_abs(u))


@pytest.mark.parametrize("size", [1, 255, 256, 1000])
def test_ordered_sums_are_the_sums(size):
    a, b = np.random.default_rng(0).random((2, size))
    np.testing.assert_allclose(stepping.dot(a, b), a @ b, rtol=1e-13)
    np.testing.assert_allclose(stepping.weighted_norm(a, b), np.sqrt((a * b**2).sum()), rtol=1e-13)


def hash_of_all_kernels(threads):
    """Run every kernel above the parallel threshold in a fresh process with so many threads; digest of the bits."""
    code = """
import hashlib, sys, numpy as np
sys.path.insert(0, "tests")
from test_kernels import *
digest = hashlib.sha256()
for shape in ((1, 300, 150), (70, 20, 33)):
    r, walls, periodic, source, decay = uniform_case(shape, False, 1)
    u = np.random.default_rng(1).normal(size=shape)
    gain = stepping.advance_uniform(r, walls, periodic, source, decay, 20, u, np.empty(shape))
    *operator, free = random_operator(shape, True)
    forcing = random_forcing(shape, free, 1, 5)
    v, out, kout = u * free, np.empty(shape), np.empty(shape)
    gains = [gain, stepping.advance_explicit_euler(*operator, 0.01, *forcing, v, np.empty(shape))]
    *calm, calm_free = calm_operator(shape, False)
    gains.append(stepping.advance_explicit_euler(*calm, 0.01, *forcing_at_walls(calm, 9), v * calm_free, np.empty(shape)))
    stepping.apply_stiffness(*operator[:4], v, kout)
    c = np.random.default_rng(2).normal(size=(4, 6))
    gains.append(stepping.stabilized_step(*operator, 0.01, *c, *forcing, v, np.empty((2, *shape)), out))
    w, A = np.empty(shape), np.tril(np.ones((5, 5)), -1)
    gains += stepping.runge_kutta_step(*operator, 0.01, A, c[0, :5], c[1, :5], *forcing, v, np.empty((6, *shape)), w)
    for a in (u, v, kout, out, w, np.array(gains)):
        digest.update(a.tobytes())
print(digest.hexdigest())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_every_bit_is_the_same_with_one_and_with_two_threads():
    assert hash_of_all_kernels(1) == hash_of_all_kernels(2)


@pytest.mark.parametrize("shape", [(1, 40, 33), (9, 10, 33)], ids=["2d", "3d"])
def test_compiled_loops_allocate_nothing_per_step(shape):
    r, walls, periodic, source, decay = uniform_case(shape, False, 1)
    u, scratch = np.zeros(shape), np.empty(shape)

    _nrt_python.memsys_enable_stats()

    def allocations(n_steps):
        before = rtsys.get_allocation_stats().alloc
        stepping.advance_uniform(r, walls, periodic, source, decay, n_steps, u, scratch)
        return rtsys.get_allocation_stats().alloc - before

    allocations(1)
    assert allocations(64) == allocations(6400)
