"""Fits: derivatives against differences of runs, planted values inside their intervals, words where data cannot tell."""

import math

import numpy as np
import pytest

import diffsim as ds
from diffsim import exact
from diffsim.operator import discretize
from diffsim.tuning import sensitivity
from diffsim.tuning.adjoint import Misfit
from diffsim.tuning.regularised import penalty
from diffsim.tuning.sensitivity import Model

LINE = ds.Grid(shape=(24,), lengths=(1.0,))
POINTS = [0.011, 0.2, 0.505, 0.99]
TIMES = np.array([0.02, 0.05, 0.1, 0.3])
NOTHING = ds.Observations(POINTS, TIMES, np.zeros((4, 4)))


def rod(theta):
    """Two layers, a Robin side, loss and capacity: every kind of coefficient moves with a parameter."""
    conductivity, h, capacity, loss = theta
    layers = np.where(LINE.centers[0] < 0.5, conductivity, 3 * conductivity)
    sides = {"x-": ds.Robin(h, 1.0), "x+": ds.Dirichlet(h)}
    return ds.Problem(LINE, layers, capacity=capacity, loss=loss, ambient=0.3, source=1.0, boundary=sides)


def driven(theta):
    """A wall that follows a record, whose height is a parameter."""
    record = ds.TimeSeries([0.0, 0.1, 0.2, 0.3], theta[1] * np.array([0.0, 1.0, 0.5, 0.7]))
    return ds.Problem(LINE, theta[0], boundary={"x-": ds.Dirichlet(record), "x+": ds.Neumann(0.0)})


def quenched(theta):
    return ds.Problem(LINE, float(theta[0]), boundary={"x": ds.Dirichlet(0.0)})


def plate(theta):
    """Two materials and voids in 2-D."""
    grid = ds.Grid(shape=(9, 7), lengths=(1.0, 0.8))
    active = np.ones((9, 7), bool)
    active[4, 2:5] = False
    left = grid.mesh()[0] + np.zeros((9, 7)) < 0.5
    sides = {"x-": ds.Dirichlet(1.0), "y+": ds.Robin(1.0, 0.0)}
    return ds.Problem(grid, np.where(left, theta[0], theta[1]), active=active, boundary=sides)


def hump(x):
    return np.sin(np.pi * x) + 0.5 * np.sin(2 * np.pi * x)


def noisy(of, initial, points, times, truth, noise, seed=0):
    empty = ds.Observations(points, times, np.zeros((len(times), len(points))))
    clean = Model(of, initial, empty, np.asarray(truth, float))(np.asarray(truth, float), derivatives=False)[0]
    return ds.Observations(points, times, clean + noise * np.random.default_rng(seed).normal(size=clean.shape))


# --- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "initial", "theta", "route"),
    [
        (rod, lambda x: x * x, [0.7, 2.0, 1.3, 0.5], "modes"),
        (rod, lambda x: x * x, [0.7, 2.0, 1.3, 0.5], "stepping"),
        (driven, 0.0, [0.7, 2.0], "stepping"),
    ],
    ids=["modes", "stepping", "driven"],
)
def test_derivatives_are_those_of_the_readings(of, initial, theta, route):
    """Sensitivity equations against differences of the readings themselves, whose error is the square of the step."""
    theta = np.array(theta)
    model = Model(of, initial, NOTHING, theta)
    if model.route != route:
        model.route, model.dt = route, 2.0**-8
    _, slopes = model(theta)
    for j, unit in enumerate(np.eye(theta.size)):
        up, down = (model(theta + sign * 1e-4 * unit, derivatives=False)[0] for sign in (1, -1))
        np.testing.assert_allclose(slopes[..., j], (up - down) / 2e-4, rtol=0, atol=1e-6)


def test_all_routes_predict_the_same_readings_and_derivatives():
    theta = np.array([0.7, 2.0, 1.3, 0.5])
    model = Model(rod, lambda x: x * x, NOTHING, theta)
    assert model.route == "modes"
    readings, slopes = model(theta)
    model.route = "stepping"
    model.dt = model._settled_step(theta)
    for route in ("stepping", "differences"):
        model.route = route
        other, other_slopes = model(theta)
        np.testing.assert_allclose(other, readings, rtol=0, atol=2e-5)
        np.testing.assert_allclose(other_slopes, slopes, rtol=0, atol=2e-4)


def test_readings_are_those_of_a_run():
    """Walls, layers and voids included: the rows that read a state give what a probe gives."""
    points = [(0.03, 0.05), (0.5, 0.7), (0.97, 0.4), (0.48, 0.1)]
    record = ds.Observations(points, [0.05, 0.2], np.zeros((2, 4)))
    readings, _ = Model(plate, 0.2, record, np.array([1.0, 5.0]))(np.array([1.0, 5.0]))
    run = ds.simulate(
        plate([1.0, 5.0]), 0.2, 0.2, scheme="krylov", save=[0.05, 0.2], probes={str(k): p for k, p in enumerate(points)}
    )
    for k in range(4):
        times, values = run.probes[str(k)]
        np.testing.assert_allclose(readings[:, k], np.interp([0.05, 0.2], times, values), rtol=0, atol=2e-9)


def test_multigrid_serves_what_is_too_large_to_factor(monkeypatch):
    theta = np.array([1.0, 5.0])
    record = ds.Observations([(0.3, 0.3), (0.9, 0.5)], [0.05, 0.2], np.zeros((2, 2)))
    model = Model(plate, 0.2, record, theta)
    model.route, model.dt = "stepping", 0.05
    factored = model(theta)
    monkeypatch.setattr(sensitivity, "_FACTORED_CELLS", 0)
    for one, two in zip(factored, model(theta), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("of", "initial", "theta", "scheme", "dt"),
    [
        (rod, lambda x: x * x, [0.7, 2.0, 1.3, 0.5], "sdirk3", 2.0**-6),
        (rod, lambda x: x * x, [0.7, 2.0, 1.3, 0.5], "tr-bdf2", 2.0**-6),
        (rod, lambda x: x * x, [0.7, 2.0, 1.3, 0.5], "rk4", 6e-4),
        (driven, 0.0, [0.7, 2.0], "sdirk3", 2.0**-6),
        (plate, 0.2, [1.0, 5.0], "sdirk3", 2.0**-5),
    ],
    ids=["implicit", "tr-bdf2", "explicit", "driven", "plate"],
)
def test_the_adjoint_of_the_steps_is_the_gradient(of, initial, theta, scheme, dt, rng):
    """Against differences of the misfit itself; with the scheme of the sensitivity equations, against those too."""
    theta = np.array(theta)
    points = POINTS if of is not plate else [(0.03, 0.05), (0.5, 0.7), (0.97, 0.4), (0.48, 0.1)]
    times = TIMES / 10 if scheme == "rk4" else TIMES
    values = rng.random((4, 4))
    values[1, 2] = np.nan
    model = Model(of, initial, ds.Observations(points, times, values), theta, always_stepping=True)
    model.dt = dt
    misfit = Misfit(model, scheme)
    far, gradient, readings = misfit(theta)
    size = np.abs(gradient).max()
    for j, unit in enumerate(np.eye(theta.size)):
        up, down = (misfit(theta + sign * 1e-5 * theta[j] * unit)[0] for sign in (1, -1))
        assert gradient[j] == pytest.approx((up - down) / (2e-5 * theta[j]), abs=1e-8 * size)
    if scheme == "sdirk3":
        expected, slopes = model(theta)
        np.testing.assert_allclose(readings, expected, rtol=0, atol=1e-12)
        residual = np.nan_to_num(expected - values)
        assert far == pytest.approx(0.5 * (residual**2).sum(), rel=1e-12)
        np.testing.assert_allclose(gradient, np.einsum("tj,tjp->p", residual, slopes), rtol=0, atol=1e-7 * size)


@pytest.mark.parametrize("scheme", ["sdirk3", "ftcs"])
def test_the_adjoint_is_exact_to_rounding_where_the_misfit_is_a_parabola(scheme, rng):
    """Readings are linear in sources and wall values: a central difference of any width is then the derivative."""

    def of(theta):
        sides = {"x-": ds.Robin(2.0, theta[1]), "x+": ds.Dirichlet(theta[2])}
        return ds.Problem(LINE, 1.0 + LINE.centers[0], source=theta[0], boundary=sides)

    theta = np.array([1.0, 2.0, 3.0])
    record = ds.Observations(POINTS, TIMES / 10, rng.random((4, 4)))
    model = Model(of, 0.3, record, theta, always_stepping=True)
    model.dt = {"sdirk3": 0.01, "ftcs": 3e-4}[scheme]
    misfit = Misfit(model, scheme)
    _, gradient, _ = misfit(theta)
    for j, unit in enumerate(np.eye(3)):
        up, down = (misfit(theta + sign * unit)[0] for sign in (1, -1))
        assert gradient[j] == pytest.approx((up - down) / 2, abs=1e-9 * np.abs(gradient).max())


def test_the_adjoint_crosses_periodic_sides_and_multigrid_solves(monkeypatch, rng):
    ring = ds.Grid(shape=(6, 5), lengths=(1.0, 1.0))

    def of(theta):
        return ds.Problem(ring, theta.reshape(6, 5), loss=1.0, boundary={"x": ds.Periodic(), "y-": ds.Dirichlet(1.0)})

    theta = 1.0 + rng.random(30)
    record = ds.Observations([(0.95, 0.3), (0.1, 0.8)], [0.02, 0.1], rng.random((2, 2)))
    model = Model(of, rng.random((6, 5)), record, theta, always_stepping=True)
    model.dt = 0.02
    gradient = Misfit(model)(theta)[1]
    way = rng.normal(size=30)
    up, down = (Misfit(model)(theta + sign * 1e-5 * way)[0] for sign in (1, -1))
    assert gradient @ way == pytest.approx((up - down) / 2e-5, rel=1e-7)
    monkeypatch.setattr(sensitivity, "_FACTORED_CELLS", 0)
    np.testing.assert_allclose(Misfit(model)(theta)[1], gradient, rtol=0, atol=1e-8 * np.abs(gradient).max())


# --- fits -----------------------------------------------------------------------------------------------------------


def test_a_planted_diffusivity_is_found_to_rounding_without_noise():
    record = noisy(quenched, hump, [0.2, 0.5], TIMES, [0.6], 0.0)
    fit = ds.fit(quenched, hump, record, guess=[0.1])
    assert fit.value[0] == pytest.approx(0.6, rel=1e-7) and fit.rms < 1e-8 and fit.route == "modes"


def test_layers_loss_and_heat_transfer_are_fitted_together():
    """Planted values within 4 sigma of their estimates, all four, and the noise recovered within 10 %."""
    truth = np.array([0.7, 2.0, 1.3, 0.5])
    record = noisy(rod, lambda x: x * x, POINTS, np.linspace(0.01, 0.5, 60), truth, 1e-3)
    fit = ds.fit(rod, lambda x: x * x, record, guess=[1.0, 1.0, 1.0, 1.0], names=["k", "h", "c", "b"])
    assert fit.rms == pytest.approx(1e-3, rel=0.1)
    assert (np.abs(fit.value - truth) < 4 * np.sqrt(np.diag(fit.covariance))).all()
    assert all(name in fit.explain() for name in "khcb")


def test_a_driven_wall_is_fitted_by_stepping():
    record = noisy(driven, 0.0, [0.3, 0.7], np.linspace(0.01, 0.3, 25), [0.7, 2.0], 1e-3)
    fit = ds.fit(driven, 0.0, record, guess=[0.3, 1.0])
    assert fit.route == "stepping"
    assert (np.abs(fit.value - [0.7, 2.0]) < 4 * np.sqrt(np.diag(fit.covariance))).all()


def test_nonlinear_diffusivities_are_fitted_by_differences_and_it_is_said():
    grid = ds.Grid(shape=(10,), lengths=(1.0,))

    def of(theta):
        return ds.Problem(grid, ds.OfState(lambda u: 0.2 + theta[0] * u**2), boundary={"x": ds.Dirichlet(0.0)})

    record = noisy(of, lambda x: np.sin(np.pi * x), [0.3, 0.5], [0.02, 0.05], [1.5], 0.0)
    fit = ds.fit(of, lambda x: np.sin(np.pi * x), record, guess=[1.0])
    assert fit.value[0] == pytest.approx(1.5, rel=1e-3)
    assert fit.route == "differences" and "differences of whole runs" in fit.explain()


@pytest.mark.parametrize("shape", [(5,), (1,), (2,), (4, 3), (2, 3, 2)], ids=str)
def test_the_full_matrix_is_the_sparse_one(shape, rng):
    grid = ds.Grid(shape=shape, lengths=(1.0,) * len(shape))
    problem = ds.Problem(grid, rng.random(shape) + 0.1, loss=1.0, boundary={"x": ds.Periodic()})
    posed = sensitivity.Posed(problem, np.empty((0, len(shape))))
    np.testing.assert_allclose(posed.dense_stiffness, posed.stiffness.toarray(), rtol=0, atol=1e-13)


def test_missing_readings_are_left_out():
    record = noisy(quenched, hump, [0.2, 0.5], TIMES, [0.6], 0.0)
    values = record.values.copy()
    values[1, 0] = values[3, 1] = np.nan
    fit = ds.fit(quenched, hump, ds.Observations(record.points, record.times, values), guess=[0.3])
    assert fit.value[0] == pytest.approx(0.6, rel=1e-6) and np.isnan(fit.residual).sum() == 2


def test_a_fit_continues_a_trajectory():
    run = ds.simulate(quenched([0.6]), hump, 0.05, save="final")
    later = ds.simulate(quenched([0.6]), run, 0.2, save=[0.1, 0.15, 0.2])
    record = ds.Observations([LINE.centers[0][5]], later.t, later.u[:, 5:6])
    fit = ds.fit(quenched, run, record, guess=[0.4])
    assert fit.value[0] == pytest.approx(0.6, rel=1e-6)


def test_bounds_hold():
    record = noisy(quenched, hump, [0.2, 0.5], TIMES, [0.6], 1e-3)
    fit = ds.fit(quenched, hump, record, guess=[0.3], bounds=(0.1, 0.5))
    assert fit.value[0] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.slow
def test_intervals_cover_the_planted_value_as_often_as_they_say():
    """2000 records with noise: 95 % intervals miss 5 %; outside 1867 to 1931 lies a chance of 1 in 900."""
    grid = ds.Grid(shape=(8,), lengths=(1.0,))

    def of(theta):
        return ds.Problem(grid, float(theta[0]), boundary={"x": ds.Dirichlet(0.0)})

    times, points, truth = np.linspace(0.02, 0.3, 5), [0.2, 0.5], 0.6
    clean = noisy(of, hump, points, times, [truth], 0.0).values
    generator, inside = np.random.default_rng(2024), 0
    for _ in range(2000):
        record = ds.Observations(points, times, clean + 0.02 * generator.normal(size=clean.shape))
        low, high = ds.fit(of, hump, record, guess=[truth]).interval[0]
        inside += low <= truth <= high
    assert 1867 <= inside <= 1931


# --- what the data cannot tell --------------------------------------------------------------------------------------


def test_only_the_ratio_of_conductivity_and_capacity_can_be_told():
    """Values at the walls and no source: D and c enter as D / c alone."""

    def of(theta):
        return ds.Problem(LINE, theta[0], capacity=theta[1], boundary={"x": ds.Dirichlet(0.0)})

    record = noisy(of, hump, [0.2, 0.5], TIMES, [0.6, 2.0], 1e-3)
    fit = ds.fit(of, hump, record, guess=[1.0, 2.0], names=["k", "c"])
    assert fit.value[0] / fit.value[1] == pytest.approx(0.3, rel=0.01)
    assert np.isinf(fit.interval[:, 1]).all() and (fit.interval[:, 0] == 0).all()
    assert "cannot tell k and c apart" in fit.explain()
    assert "k by +10 % and c by +10 %" in fit.explain()  # along D / c = const


def test_a_parameter_without_effect_is_named():
    def of(theta):
        return ds.Problem(LINE, theta[0], loss=0.0, ambient=theta[1], boundary={"x": ds.Dirichlet(0.0)})

    record = noisy(of, hump, [0.2, 0.5], TIMES, [0.6, 2.0], 1e-3)
    fit = ds.fit(of, hump, record, guess=[1.0, 2.0], names=["D", "outside"])
    assert "do not depend on outside" in fit.explain()
    assert np.isinf(fit.interval[1, 1]) and np.isfinite(fit.interval[0]).all()


def test_parameters_hardly_told_apart_are_named():
    """Loss and diffusivity both damp one mode: only what the second mode adds separates them."""

    def of(theta):
        return ds.Problem(LINE, theta[0], loss=theta[1], boundary={"x": ds.Dirichlet(0.0)})

    start = lambda x: np.sin(np.pi * x) + 1e-2 * np.sin(2 * np.pi * x)  # noqa: E731
    record = noisy(of, start, [0.2, 0.5], TIMES, [0.6, 3.0], 1e-5)
    fit = ds.fit(of, start, record, guess=[0.5, 4.0], names=["D", "b"])
    assert "hardly tell D and b apart" in fit.explain() and fit.correlation[0, 1] < -0.99


COARSE = ds.Grid(shape=(10, 10), lengths=(1.0, 1.0))
PATCH = np.repeat(np.arange(5), 2)
CENTRES = (np.arange(5) + 0.5) / 5
FIELD = np.exp(0.7 * np.sin(2 * np.pi * CENTRES)[:, None] * np.cos(np.pi * CENTRES)).ravel()


def patches(theta):
    """A source and two cold sides; 5 x 5 patches of diffusivity."""
    sides = {"x-": ds.Dirichlet(1.0), "y+": ds.Dirichlet(0.0)}
    return ds.Problem(COARSE, np.asarray(theta).reshape(5, 5)[np.ix_(PATCH, PATCH)], source=10.0, boundary=sides)


def patch_record(noise):
    places = COARSE.centers[0][::2]
    return noisy(patches, 0.0, [(x, y) for x in places for y in places], [0.02, 0.05, 0.1, 0.2, 0.4], FIELD, noise)


@pytest.mark.parametrize(
    "known", [pytest.param(True, marks=pytest.mark.slow), False], ids=["noise known", "cross-validation"]
)
def test_a_coarse_field_is_recovered_from_noise(known):
    """25 diffusivities that differ by a factor of four, from readings with noise of 1 % of their span."""
    record = patch_record(0.02)
    fit = ds.fit(patches, 0.0, record, guess=np.ones(25), smooth=(5, 5), noise=0.02 if known else None)
    assert fit.route == "adjoint" and fit.rms == pytest.approx(0.02, rel=0.15)
    assert np.sqrt(np.mean(np.log(fit.value / FIELD) ** 2)) < 0.15 < np.ptp(np.log(FIELD)) / 6
    inside = (fit.interval[:, 0] <= FIELD) & (fit.interval[:, 1] >= FIELD)
    assert inside.mean() >= 0.8
    assert "combinations of the parameters" in fit.explain() and "adjoint" in fit.explain()


@pytest.mark.slow
def test_patches_that_no_reading_depends_on_are_named():
    def of(theta):
        inner = theta.copy()
        inner[0] = 1.0  # the first parameter is not used
        return patches(inner)

    fit = ds.fit(of, 0.0, patch_record(0.02), guess=np.ones(25), smooth=(5, 5))
    assert "do not depend on theta[0]" in fit.explain()


def test_roughness_is_the_differences_between_neighbours():
    rows = penalty(7, (2, 3))
    assert rows.shape == (7, 7) and (rows.sum(axis=1) == 0).all() and (rows[:, 6] == 0).all()
    field = np.append(np.arange(6.0), 9.0)
    assert sorted(rows @ field) == [1.0] * 4 + [3.0] * 3
    with pytest.raises(ds.ProblemError, match="smooth"):
        penalty(5, (2, 3))


def test_residuals_with_memory_are_pointed_out():
    times = np.linspace(0.01, 0.5, 80)
    record = noisy(quenched, hump, [0.2, 0.5], times, [0.6], 1e-3)
    drifting = ds.Observations([0.2, 0.5], times, record.values + 0.02 * np.sin(9 * times)[:, None])
    assert "Successive residuals are alike" in ds.fit(quenched, hump, drifting, guess=[0.5]).explain()
    assert "Successive" not in ds.fit(quenched, hump, record, guess=[0.5]).explain()


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([0.2], [0.1, 0.1], [[1.0], [1.0]]), "increase strictly"),
        (([0.2], [0.1, 0.2], [[1.0, 2.0]]), "values have shape"),
        (([0.2], [0.1], [[np.nan]]), "no reading"),
        (([0.2], [0.1], [[np.inf]]), "infinities"),
        (([[0.2], [0.1, 0.3]], [0.1], [[1.0, 2.0]]), "not numbers"),
        (([np.nan], [0.1], [[1.0]]), "finite coordinates"),
    ],
)
def test_records_that_make_no_sense_are_refused(arguments, word):
    with pytest.raises(ds.ProblemError, match=word):
        ds.Observations(*arguments)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"guess": [math.nan]}, "finite"),
        ({"guess": [1.0] * 20}, "cannot fix"),
        ({"guess": [1.0], "bounds": (2.0, 3.0)}, "within its bounds"),
        ({"guess": [1.0], "names": ["a", "b"]}, "names"),
        ({"noise": 0.1}, "penalty"),
        ({"observations": "log.csv"}, "Observations"),
        ({"problem_of": lambda theta: None}, "must return a Problem"),
        ({"observations": ds.Observations([(0.1, 0.2)], TIMES, np.zeros((4, 1)))}, "coordinates"),
    ],
)
def test_impossible_fits_are_refused(changes, word):
    arguments = {"problem_of": quenched, "initial": hump, "observations": NOTHING, "guess": [1.0]}
    with pytest.raises(ds.ProblemError, match=word):
        ds.fit(**{**arguments, **changes})


# --- periodic heating -----------------------------------------------------------------------------------------------


def test_the_response_solves_the_time_harmonic_equation():
    problem = rod([0.7, 2.0, 1.3, 0.5])
    operator = discretize(problem)
    response = ds.time_harmonic(problem, 2.0).reshape(operator.shape)
    rest = 4j * np.pi * operator.mass * response + operator.apply(response.real.copy())
    rest = rest + 1j * operator.apply(response.imag.copy()) - operator.forcing(0.0)
    assert np.abs(rest).max() < 1e-12 * np.abs(operator.forcing(0.0)).max()


@pytest.mark.parametrize("length", [0.02, 0.05])
def test_the_response_of_a_rod_is_the_closed_form(length):
    """Order 2 in the cell: a quarter of the error at twice the cells."""
    errors = []
    for cells in (100, 200):
        grid = ds.Grid(shape=(cells,), lengths=(length,))
        problem = ds.Problem(grid, 1.1e-4, loss=0.3, boundary={"x-": ds.Dirichlet(1.0)})
        errors.append(
            np.abs(ds.time_harmonic(problem, 1.0) - exact.plane_wave(grid.centers[0], 1.0, 1.1e-4, 0.3, length)).max()
        )
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("length", [None, 0.02])
def test_a_planted_rod_is_found_from_amplitude_and_phase(length, rng):
    x = np.tile(np.linspace(0.0005, 0.012, 20), 3)
    response = exact.plane_wave(x, 1.0, 1.1e-4, 0.4, length)
    amplitude = np.abs(response) * np.exp(0.005 * rng.normal(size=x.size))
    lag = -np.angle(response) + 0.005 * rng.normal(size=x.size)
    fit = ds.fit_angstrom(x, amplitude, lag, 1.0, length=length)
    assert fit.value[0] == pytest.approx(1.1e-4, rel=0.01)
    assert fit.interval[0, 0] < 1.1e-4 < fit.interval[0, 1] and fit.interval[1, 0] < 0.4 < fit.interval[1, 1]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"positions": [0.0, 0.2, 0.1]}, "increasing order"),
        ({"positions": [0.0, 0.1]}, "three or more"),
        ({"readings": np.zeros((4, 2))}, "readings have shape"),
        ({"ambient": math.nan}, "ambient"),
    ],
)
def test_records_that_are_not_of_a_rod_are_refused(changes, word):
    arguments = {"positions": [0.0, 0.1, 0.2], "times": TIMES, "readings": np.zeros((4, 3)), "ambient": 20.0}
    with pytest.raises(ds.ProblemError, match=word):
        ds.fit_rod(**{**arguments, **changes})


def test_a_record_without_decay_is_refused():
    with pytest.raises(ds.ProblemError, match="positive away from the heater"):
        ds.fit_angstrom([0.0, 1.0, 2.0], [1.0, 1.1, 1.2], [0.0, 0.1, 0.2], 1.0)


# --- measured -------------------------------------------------------------------------------------------------------


def test_the_measured_copper_strip(shared_data, tmp_path):
    """Infrared thermography at 1 Hz: 1.10e-4 m²/s within 4 %."""
    file = shared_data / "angstrom" / "rec565_IR_phase_amp_6groups.csv"
    _, x, ratio, lag = np.genfromtxt(file, delimiter=",", skip_header=1).T
    fit = ds.fit_angstrom(x, ratio, lag, 1.0)
    assert fit.value[0] == pytest.approx(1.10e-4, rel=0.04)
    assert ds.fit_angstrom(x, ratio, lag, 1.0, length=0.05).value[0] == pytest.approx(1.10e-4, rel=0.04)
    fit.plot(tmp_path / "strip.png")
    assert (tmp_path / "strip.png").stat().st_size > 10_000


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_the_measured_rod(shared_data, tmp_path, every):
    """Aluminium rod heated in pulses: u_t = alpha u_xx - beta (u - u_a), the outer sensors drive the ends."""
    log = np.genfromtxt(shared_data / "rod" / "rod.csv", delimiter=",", encoding="utf-8-sig")
    log = log[log[:, 0] <= 2900][::every]
    places = [0.0502, 0.1000, 0.1495, 0.2008, 0.2509]
    fit = ds.fit_rod(places, log[:, 0], log[:, 2:11:2], ambient=21.63, rest=140.0)
    assert fit.value[0] == pytest.approx(6.70e-5, rel=0.03)
    assert fit.value[1] == pytest.approx(1.16e-3, rel=0.05)
    assert fit.rms <= 0.42
    assert fit.interval[0, 0] < 6.70e-5 < fit.interval[0, 1]
    fit.plot(tmp_path / "rod.png")
    assert (tmp_path / "rod.png").stat().st_size > 20_000
