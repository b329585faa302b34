"""The closed forms satisfy the equations they claim to solve, checked by means that share nothing with their
derivation."""

import itertools

import numpy as np
import pytest

from diffsim import exact
from diffsim.errors import ProblemError

SIDES = [0.0, 0.7, 3.0, np.inf]  # zero flux, two Robin coefficients, fixed value


def dense_slab(cells, length, diffusivity, left, right):
    """-D u'' on cell centres with walls half a cell outside, assembled independently of the package."""
    d = length / cells
    matrix = np.zeros((cells, cells))
    for i in range(cells - 1):
        g = diffusivity / d**2
        matrix[i : i + 2, i : i + 2] += g * np.array([[1, -1], [-1, 1]])
    for i, h in ((0, left), (-1, right)):
        if h > 0:
            matrix[i, i] += 1 / (1 / h + d / (2 * diffusivity)) / d
    return matrix


@pytest.mark.parametrize(("left", "right"), list(itertools.product(SIDES, SIDES)))
@pytest.mark.parametrize("cells", [1, 2, 9])
def test_discrete_modes_are_eigenvectors_of_the_matrix(left, right, cells):
    modes = exact.slab_modes(2.0, cells, 1.3, left, right, cells=cells)
    matrix = dense_slab(cells, 2.0, 1.3, left, right)
    x = (np.arange(cells) + 0.5) * 2.0 / cells
    np.testing.assert_allclose(modes.rates, np.linalg.eigvalsh(matrix), rtol=0, atol=1e-12 * np.abs(matrix).max())
    for k in range(cells):
        residual = matrix @ modes(k, x) - modes.rates[k] * modes(k, x)
        assert np.abs(residual).max() <= 1e-12 * np.abs(matrix).max()


@pytest.mark.parametrize(("left", "right"), list(itertools.product(SIDES, SIDES)))
def test_continuous_modes_meet_both_sides_and_are_orthogonal(left, right):
    modes = exact.slab_modes(2.0, 5, 1.3, left, right)
    for kappa, phase in zip(modes.wavenumbers, modes.phases, strict=True):
        for value, outward, h in (
            (np.cos(phase), -kappa * np.sin(phase), left),
            (np.cos(kappa * 2 - phase), -kappa * np.sin(kappa * 2 - phase), right),
        ):
            # -D du/dn = h u, divided by 1 + h so that h = inf reads u = 0
            weight = 1.0 if h == np.inf else h / (1 + h)
            assert abs(weight * value + 1.3 * outward / (1 + h)) < 1e-12 * (1 + kappa)
    x, w = np.polynomial.legendre.leggauss(60)
    x, gram = x + 1, np.array([modes(k, x + 1) for k in range(5)])
    expected = np.diag([modes.norm2(k) for k in range(5)])
    np.testing.assert_allclose(gram * w @ gram.T, expected, rtol=0, atol=1e-12)


def test_periodic_rates_are_those_of_the_circulant_matrix():
    n = 7
    matrix = (2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)) * 0.3 / (1.5 / n) ** 2
    np.testing.assert_allclose(exact.periodic_rates(1.5, n, 0.3), np.linalg.eigvalsh(matrix), atol=1e-12)


def test_modes_refuse_a_negative_side_and_more_modes_than_cells():
    with pytest.raises(ProblemError, match="zero flux"):
        exact.slab_modes(1.0, 1, left=-1.0)
    with pytest.raises(ProblemError, match="one mode a cell"):
        exact.slab_modes(1.0, 5, cells=4)


def heat_defect(u, x, t, diffusivity, loss=0.0, dx=1e-3, dt=1e-4):
    """u_t - D u_xx + loss u by fourth-order differences."""
    w = np.array([1, -8, 0, 8, -1]) / 12
    second = np.array([-1, 16, -30, 16, -1]) / 12
    s = np.arange(-2, 3)
    u_t = sum(wi * u(x, t + si * dt) for wi, si in zip(w, s, strict=True)) / dt
    u_xx = sum(wi * u(x + si * dx, t) for wi, si in zip(second, s, strict=True)) / dx**2
    return u_t - diffusivity * u_xx + loss * u(x, t)


X = np.linspace(0.1, 0.9, 9)
TRANSIENT = {
    "half-space": (lambda x, t: exact.semi_infinite(x, t, 0.3, 2.0, 0.5), 0.0),
    "half-space flux": (lambda x, t: exact.semi_infinite_flux(x, t, 0.6, 2.0, 1.5), 0.0),
    "half-space robin": (lambda x, t: exact.semi_infinite_robin(x, t, 0.6, 2.0, 1.5, 3.0), 0.0),
    "slab step, images": (lambda x, t: exact.slab_step(x, t - 0.15, 1.0, 0.3, 2.0, -1.0, 0.5), 0.0),
    "slab step, series": (lambda x, t: exact.slab_step(x, t + 0.6, 1.0, 0.3, 2.0, -1.0, 0.5), 0.0),
    "slab driven": (lambda x, t: exact.slab_driven(x, t, 1.0, 0.3, 5.0, 4.0), 0.0),
    "plane wave": (lambda x, t: (np.exp(2j * np.pi * t) * exact.plane_wave(x, 1.0, 0.3, 0.8)).real, 0.8),
    "plane wave, end": (
        lambda x, t: (np.exp(2j * np.pi * t) * exact.plane_wave(x, 1.0, 0.3, 0.8, 1.2)).real,
        0.8,
    ),
    "gaussian": (lambda x, t: exact.gaussian(x, t, 0.3, 2.0, 1, 0.01), 0.0),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_transient_solutions_satisfy_the_heat_equation(name):
    u, loss = TRANSIENT[name]
    scale = np.abs(u(X, 0.2)).max() / 0.2
    assert np.abs(heat_defect(u, X, 0.2, 0.3, loss)).max() < 1e-6 * scale  # h^4 truncation and rounding over h^2


def test_the_two_series_of_the_slab_agree_where_they_meet():
    x = np.linspace(0, 1, 21)
    before = exact.slab_step(x, np.nextafter(0.1, 0), 1.0, 1.0, 2.0, 3.0, 0.5)
    np.testing.assert_allclose(before, exact.slab_step(x, 0.1, 1.0, 1.0, 2.0, 3.0, 0.5), rtol=0, atol=1e-13)


def test_sides_and_starts_of_transient_solutions():
    assert exact.slab_step(0.0, 0.02, 1.0, 1.0, 2.0, 3.0) == pytest.approx(2.0, abs=1e-13)
    assert exact.slab_step(1.0, 0.30, 1.0, 1.0, 2.0, 3.0) == pytest.approx(3.0, abs=1e-13)
    assert exact.slab_driven(1.0, 0.37, 1.0, 0.3, 5.0, 4.0) == pytest.approx(5 * np.sin(4 * 0.37), abs=1e-12)
    np.testing.assert_allclose(exact.slab_driven(X, 1e-6, 1.0, 0.3, 5.0, 4.0), 0, atol=1e-10)
    d = 1e-5
    surface = exact.semi_infinite_robin(np.array([0.0, d, 2 * d]), 0.4, 0.6, 2.0, 1.5, 3.0)
    slope = (-3 * surface[0] + 4 * surface[1] - surface[2]) / (2 * d)
    assert -0.6 * slope == pytest.approx(1.5 * (3.0 - surface[0]), rel=1e-6)
    flux = exact.semi_infinite_flux(np.array([0.0, d, 2 * d]), 0.4, 0.6, 2.0, 1.5)
    assert -0.6 * (-3 * flux[0] + 4 * flux[1] - flux[2]) / (2 * d) == pytest.approx(1.5, rel=1e-6)


def test_published_values():
    assert exact.nafems_t3() == pytest.approx(36.60, abs=5e-3)
    np.testing.assert_allclose(
        exact.slab_step([1.0, 2.0, 3.0], 1.0, 4.0, 1.0, 300, 400, 400),
        [352.0501, 384.2723, 396.6512],
        atol=5e-5,
    )
    assert exact.square_hot_top(0.5, 0.5, top=20.0) == pytest.approx(5.0, abs=1e-13)


def test_driven_slab_agrees_with_its_duhamel_series():
    """The textbook series, which falls as 1/n^3 only, summed far; the closed periodic part needs no such
    patience."""
    case, n = exact.NAFEMS_T3, np.arange(1, 200_001)
    w, t = case["frequency"], case["t"]
    rate = case["conductivity"] / case["capacity"] * (n * np.pi / case["length"]) ** 2
    lift = 2 * (-1.0) ** (n + 1) / (n * np.pi)
    b = -100 * w * lift * (rate * np.cos(w * t) + w * np.sin(w * t) - rate * np.exp(-rate * t)) / (rate**2 + w**2)
    series = 0.8 * 100 * np.sin(w * t) + b @ np.sin(n * np.pi * 0.8)
    assert exact.nafems_t3() == pytest.approx(series, abs=1e-10)


def test_angstrom_recovers_the_diffusivity_whatever_the_loss():
    for loss in (0.0, 0.8, 20.0):
        response = exact.plane_wave(0.2, 1.5, 0.3, loss)
        assert exact.angstrom_diffusivity(0.2, abs(response), -np.angle(response), 1.5) == pytest.approx(0.3, rel=1e-13)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_barenblatt_keeps_its_mass_and_solves_its_equation(dimension, power):
    u = exact.Barenblatt(power, 0.8, 1.7, dimension)

    def mass(t):
        angle, w = np.polynomial.legendre.leggauss(400)
        r = u.front(t) * np.sin(np.pi / 4 * (angle + 1))  # sin: the profile is steep at the front
        return np.pi / 4 * u.front(t) * np.sum(w * np.cos(np.pi / 4 * (angle + 1)) * u(r, t) * r ** (dimension - 1))

    assert mass(0.3) == pytest.approx(mass(5.0), rel=1e-5)
    r, d = 0.4 * u.front(1.0), 1e-3

    def flow(r):  # r^(d-1) D u^n u_r, u_r by central differences
        return r ** (dimension - 1) * 1.7 * u(r, 1.0) ** power * (u(r + d, 1.0) - u(r - d, 1.0)) / (2 * d)

    divergence = (flow(r + d) - flow(r - d)) / (2 * d) / r ** (dimension - 1)
    assert (u(r, 1 + d) - u(r, 1 - d)) / (2 * d) == pytest.approx(divergence, rel=1e-4)
    assert u(1.0001 * u.front(1.0), 1.0) == 0
    assert u(0.999 * u.front(1.0), 1.0) > 0


def test_gaussian_holds_its_mass_in_every_dimension():
    x = np.linspace(-8, 8, 801)
    for dimension in (1, 2, 3):
        axes = np.meshgrid(*[x[::20]] * dimension, indexing="ij")
        r = np.sqrt(sum(a**2 for a in axes))
        content = exact.gaussian(r, 0.5, 0.8, 2.0, dimension).sum() * (x[20] - x[0]) ** dimension
        assert content == pytest.approx(2.0, rel=1e-10)


def test_steady_profiles_carry_their_flow_through_every_radius():
    r, d = np.linspace(1.1, 1.9, 5), 1e-5
    for profile, flow, area in (
        (exact.cylinder_shell, exact.cylinder_shell_flow, 2 * np.pi * r),
        (exact.sphere_shell, exact.sphere_shell_flow, 4 * np.pi * r**2),
    ):
        slope = (profile(r + d, 1.0, 2.0, 7.0, 3.0) - profile(r - d, 1.0, 2.0, 7.0, 3.0)) / (2 * d)
        np.testing.assert_allclose(-0.4 * area * slope, flow(1.0, 2.0, 7.0, 3.0, 0.4), rtol=1e-8)
        np.testing.assert_allclose(profile([1.0, 2.0], 1.0, 2.0, 7.0, 3.0), [7.0, 3.0], rtol=1e-14)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_a_heated_body_sheds_what_it_makes(dimension):
    d = 1e-6
    slope = (
        exact.heated_body(2.0, 2.0, 0.4, 3.0, 1.0, dimension) - exact.heated_body(2 - d, 2.0, 0.4, 3.0, 1.0, dimension)
    ) / d
    assert -0.4 * slope == pytest.approx(3.0 * 2.0 / dimension, rel=1e-5)  # source * volume / area
    assert exact.heated_body(2.0, 2.0, 0.4, 3.0, 1.0, dimension) == 1.0


def test_fin_solves_its_equation_and_its_tip():
    m, d = 3.0, 1e-4
    u = exact.fin(np.array([0.5 - d, 0.5, 0.5 + d]), 1.0, m, 2.0, 0.7)
    assert (u[0] - 2 * u[1] + u[2]) / d**2 == pytest.approx(m**2 * u[1], rel=1e-6)
    end = exact.fin(np.array([1 - 2 * d, 1 - d, 1.0]), 1.0, m, 2.0, 0.7)
    assert -(3 * end[2] - 4 * end[1] + end[0]) / (2 * d) == pytest.approx(0.7 * end[2], rel=1e-5)
    assert exact.fin(0.0, 1.0, m, 2.0, 0.7) == pytest.approx(2.0)


def test_layered_wall_adds_resistances():
    flux, faces = exact.layered_wall([0.1, 0.2], [0.5, 2.0], 20.0, 0.0, 0.13, 0.04)
    assert flux == pytest.approx(20 / (0.13 + 0.2 + 0.1 + 0.04))
    np.testing.assert_allclose(faces, [20 - 0.13 * flux, 20 - 0.33 * flux, 0.04 * flux])


def test_manufactured_solution_satisfies_its_equation():
    u = exact.Manufactured()
    d = 0.1  # differences are exact on quadratics
    x, y, t = 0.3, 0.7, 2.0
    laplacian = (u(x + d, y, t) + u(x - d, y, t) + u(x, y + d, t) + u(x, y - d, t) - 4 * u(x, y, t)) / d**2
    assert (u(x, y, t + 1) - u(x, y, t)) == pytest.approx(laplacian + u.source, rel=1e-12)


def test_square_meets_its_sides_and_laplace():
    d = 1e-3
    u = exact.square_hot_top
    laplacian = u(0.3 + d, 0.6) + u(0.3 - d, 0.6) + u(0.3, 0.6 + d) + u(0.3, 0.6 - d) - 4 * u(0.3, 0.6)
    assert abs(laplacian) / d**2 < 1e-4
    assert u(0.0, 0.6) == 0
    assert u(0.3, 0.0) == 0
    assert u(0.3, 1.0, terms=20_000) == pytest.approx(1.0, abs=1e-4)


def test_noise_covariance_balances_and_tends_to_the_continuous_variance():
    cells, noise, diffusivity = 64, 0.7, 1.3
    d = 1.0 / cells
    stiffness = dense_slab(cells, 1.0, diffusivity, np.inf, np.inf) * d
    covariance = exact.noise_covariance(stiffness, noise)
    a = stiffness / d
    np.testing.assert_allclose(a @ covariance + covariance @ a.T, noise**2 / d * np.eye(cells), atol=1e-9 / d)
    x = (np.arange(cells) + 0.5) * d
    continuous = exact.noise_variance(x, 1.0, diffusivity, noise)
    assert np.abs(np.diag(covariance) - continuous).max() < noise**2 / (2 * diffusivity) * d


def test_stepped_noise_tends_to_the_variance_of_the_mode():
    def backward_euler(z):
        return 1 / (1 - z)

    coarse, fine = (exact.noise_mode_variance(3.0, dt, 0.7, backward_euler) for dt in (2e-4, 1e-4))
    limit = 0.7**2 / 6
    assert abs(fine - limit) < 1e-3 * limit
    assert (coarse - limit) / (fine - limit) == pytest.approx(2.0, abs=0.01)
