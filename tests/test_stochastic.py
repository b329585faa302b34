"""Noise: the stationary law, the law in between, and the two ways to sample it, against each other and
closed forms."""

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import chi2

import diffsim as ds
from diffsim import exact, stochastic
from diffsim.operator import discretize
from diffsim.stochastic import fluctuate

NOISE = 0.7
MEMBERS = 2000


def bar(cells=12, **changes):
    sides = {"x-": ds.Dirichlet(0.0), "x+": ds.Dirichlet(0.0)}
    return ds.Problem(ds.Grid((cells,), (1.0,)), **{"diffusivity": 1.3, "boundary": sides, **changes})


def uneven(capacity=1.0):
    grid = ds.Grid.from_edges([np.cumsum([0, 1, 2, 1, 3, 2, 1]) / 10, np.linspace(0, 1, 4)])
    d = np.random.default_rng(0).uniform(0.2, 2, grid.shape)
    sides = {"x-": ds.Robin(2.0, 1.0), "y+": ds.Dirichlet(0.5)}
    return ds.Problem(grid, d, capacity=capacity, loss=0.3, boundary=sides)


def covariance_after(problem, t):
    """Integral of exp(-A s) Q exp(-A' s) over s from 0 to t: Van Loan's block exponential, then doubling in
    time."""
    op = discretize(problem)
    a = op.matrix().toarray() / op.mass.ravel()[:, None]
    q = np.diag(NOISE**2 * op.volumes.ravel() / op.mass.ravel() ** 2)
    n, halvings = len(a), 12
    block = expm(np.block([[a, q], [np.zeros((n, n)), -a.T]]) * t / 2**halvings)
    step, result = block[n:, n:].T, block[n:, n:].T @ block[:n, n:]
    for _ in range(halvings):
        result, step = result + step @ result @ step.T, step @ step
    return (result + result.T) / 2


def assert_covariance(samples, mean, covariance):
    """The sum of all squared normalised deviations is chi-square with members x cells degrees of freedom."""
    root = np.linalg.cholesky(covariance)
    z = np.linalg.solve(root, (samples.reshape(len(samples), -1) - np.ravel(mean)).T)
    total = (z**2).sum()
    low, high = chi2.ppf([5e-5, 1 - 5e-5], z.size)
    assert low < total < high
    # and every normalised component has mean 0 and variance 1, to five standard errors
    assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(len(samples))
    assert np.abs((z**2).mean(axis=1) - 1).max() < 5 * np.sqrt(2 / len(samples))


@pytest.mark.parametrize("way", ["transform", "modes"])
def test_exact_sampling_has_the_law_of_the_discrete_problem_at_any_time(way):
    problem = bar() if way == "transform" else uneven(capacity=1.7)
    run = fluctuate(problem, 0.4, [0.03, 0.1], NOISE, MEMBERS, seed=1)
    op = discretize(problem)
    a = op.matrix().toarray() / op.mass.ravel()[:, None]
    settled = np.linalg.solve(a, op.forcing(0.0).ravel() / op.mass.ravel())
    mean = settled + expm(-a * 0.1) @ (0.4 - settled)
    assert_covariance(run.u, mean, covariance_after(problem, 0.1))


def test_stationary_variance_is_that_of_the_closed_forms():
    problem = bar(24)
    run = fluctuate(problem, 0.0, 5.0, NOISE, MEMBERS, seed=2)
    discrete = np.diag(exact.noise_covariance(discretize(problem).matrix().toarray(), NOISE))
    # the variance of a sample variance is 2 / (members - 1) of its square
    np.testing.assert_allclose(run.variance[-1], discrete, rtol=5 * np.sqrt(2 / MEMBERS))
    continuous = exact.noise_variance(problem.grid.centers[0], 1.0, 1.3, NOISE)
    middle = slice(6, 18)
    np.testing.assert_allclose(run.variance[-1][middle], continuous[middle], rtol=5 * np.sqrt(2 / MEMBERS) + 0.05)


def test_large_uneven_problems_are_referred_to_paths(monkeypatch):
    monkeypatch.setattr(stochastic, "DENSE_CELLS", 5)
    with pytest.raises(ds.ProblemError, match="simulate"):
        fluctuate(uneven(), 0.0, 1.0, NOISE, 2)


def test_transform_and_modes_agree_in_law_and_noise_free_runs_are_the_solver(monkeypatch):
    problem = bar(boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Neumann(0.5)}, loss=0.2)
    still = fluctuate(problem, 0.3, 0.07, 0.0, 2)
    run = ds.simulate(problem, 0.3, 0.07, scheme="exact", save="final")
    np.testing.assert_allclose(still.u[1], run.final, atol=1e-12)
    assert still.variance.max() < 1e-28
    monkeypatch.setattr(discretize(problem).__class__, "uniform", None)
    np.testing.assert_allclose(fluctuate(problem, 0.3, 0.07, 0.0, 1).u[0], run.final, atol=1e-11)


def test_an_insulated_bar_wanders_as_brownian_motion():
    run = fluctuate(bar(8, boundary={}), 0.0, [1.0, 4.0], NOISE, MEMBERS, seed=4)
    content = run.u.mean(axis=1)  # noise^2 t / length
    assert content.var() == pytest.approx(NOISE**2 * 4.0, rel=5 * np.sqrt(2 / MEMBERS))


def test_members_do_not_depend_on_their_number_and_times_chain():
    problem = uneven()
    few, many = (fluctuate(problem, 0.0, [0.1, 0.2], NOISE, n, seed=5) for n in (3, 10))
    np.testing.assert_allclose(few.u, many.u[:3], rtol=0, atol=1e-13)
    assert few.mean.shape == (2, *problem.grid.shape)


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, {"noise": -1.0}, "noise"),
        ({}, {"members": 0}, "members"),
        ({}, {"times": [0.2, 0.1]}, "increase"),
        ({"capacity": np.linspace(1, 2, 12)}, {}, "one capacity"),
        ({"diffusivity": ds.OfState(lambda u: 1 + u)}, {}, "linear"),
        ({"source": lambda t: t}, {}, "change in time"),
    ],
)
def test_wrong_input_is_refused_in_words(changes, arguments, words):
    with pytest.raises(ds.ProblemError, match=words):
        fluctuate(bar(**changes), **{"initial": 0.0, "times": 0.1, "noise": NOISE, "members": 2, **arguments})
