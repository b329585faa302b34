"""The compiled stepping kernels against dense matrices, and their bit-level promises."""

import numpy as np
import pytest

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
def test_euler_steps_are_those_of_the_matrix(shape, periodic, n_patterns, n_steps):
    *operator, free = random_operator(shape, periodic)
    forcing = random_forcing(shape, free, n_patterns, n_steps)
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
                mu[j] * gains[j - 1]
                + nu[j] * gains[j - 2]
                + dt * (mu_t[j] * crossed[j - 1] + gamma_t[j] * crossed[0])
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
