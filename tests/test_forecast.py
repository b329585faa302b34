"""Forecasts from early frames: exact where theory says so, better than standing still where it counts."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import diffsim as ds
from diffsim.forecast import METHODS, roughness

FRAMES_ONLY = [name for name in METHODS if name != "linear-inverse"]
SIDES = {"x": ds.Dirichlet(0.0), "y-": ds.Dirichlet(0.5), "y+": ds.Robin(3.0, 1.0)}
GRID = ds.Grid(shape=(10, 8), lengths=(1.0, 0.8))


def decays(t, rates, seed=0, n=7):
    """(equilibrium (n,), frames (k, n)) of a sum of exponentials with random amplitudes."""
    generator = np.random.default_rng(seed)
    end, parts = generator.normal(size=n), generator.normal(size=(len(rates), n))
    return end, end + np.exp(-np.outer(t, rates)) @ parts


def hidden(seed=1):
    """A plate whose D and source nobody knows."""
    generator = np.random.default_rng(seed)
    return ds.Problem(GRID, np.exp(generator.normal(size=(10, 8)) * 0.4), source=2.0, boundary=SIDES)


def early(problem, fraction, k=12, noise=0.0, seed=0):
    """(times, frames, equilibrium) over a fraction of the slowest time constant."""
    end = ds.equilibrium(problem, tol=1e-12).u
    t = np.linspace(0.0, fraction * ds.time_to_equilibrium(problem, tol=math.exp(-1)), k)
    frames = ds.simulate(problem, 0.0, t[-1], scheme="krylov", save=t).u
    return t, frames + noise * np.nanmax(end) * np.random.default_rng(seed).normal(size=frames.shape), end


def distance(u, end):
    return np.linalg.norm(u - end) / np.linalg.norm(end)


@pytest.mark.parametrize("method", FRAMES_ONLY)
def test_one_exponential_is_extrapolated_exactly(method):
    """All methods are exact on one mode; the per-point fit to the spacing of its trial rates."""
    t = np.linspace(0.0, 1.0, 9)
    end, frames = decays(t, [2.0])
    made = ds.forecast(t, frames, method, noise=0.0)
    np.testing.assert_allclose(made.u, end, rtol=0, atol=0.03 if method == "exponential" else 1e-5)
    assert made.rate == pytest.approx(2.0, rel=0.03)
    assert made.time(1e-3) == pytest.approx(math.log(1e3) / 2.0, rel=0.03)


@pytest.mark.parametrize("method", ["reduced-rank", "dynamic-modes"])
def test_several_modes_are_told_apart_by_methods_that_see_all_points(method):
    t = np.linspace(0.0, 1.0, 13)
    end, frames = decays(t, [1.0, 4.0, 9.0])
    made = ds.forecast(t, frames, method, noise=0.0)
    np.testing.assert_allclose(made.u, end, rtol=0, atol=1e-3)


def test_noise_is_estimated_from_roughness(rng):
    t = np.linspace(0.0, 1.0, 40)
    _, frames = decays(t, [1.0, 3.0], n=200)
    assert roughness(frames + 0.05 * rng.normal(size=frames.shape)) == pytest.approx(0.05, rel=0.05)
    assert roughness(frames) < 1e-4


@pytest.mark.parametrize("method", FRAMES_ONLY)
def test_noise_on_a_settled_state_is_not_extrapolated(method, rng):
    """Nothing moves: the forecast stays within a few standard deviations of the level."""
    frames = 1.0 + 0.01 * rng.normal(size=(12, 50))
    made = ds.forecast(np.arange(12.0), frames, method)
    assert np.abs(made.u - 1.0).max() < 0.08


def test_the_equation_beats_the_frames_when_little_was_seen():
    """A tenth of the time constant, no noise: D and f from the rates, then one solve."""
    t, frames, end = early(hidden(), 0.1)
    prior = ds.Problem(GRID, 1.0, boundary=SIDES)
    errors = {name: distance(ds.forecast(t, frames, name, problem=prior).u, end) for name in METHODS}
    assert errors["linear-inverse"] < 0.1 and min(errors, key=errors.get) == "linear-inverse"
    assert distance(frames[-1], end) > 0.5


def test_the_linear_inverse_of_the_truth_is_the_truth():
    """With the true D and f as prior, what is inferred settles where the truth does."""
    problem = hidden()
    t, frames, end = early(problem, 0.3)
    made = ds.forecast(t, frames, "linear-inverse", noise=0.0, problem=problem)
    assert distance(made.u, end) < 5e-3
    assert made.rate == pytest.approx(1.0 / ds.time_to_equilibrium(problem, tol=math.exp(-1)), rel=0.05)


@pytest.mark.parametrize("method", ["dynamic-modes", "reduced-rank"])
def test_a_whole_time_constant_with_noise_is_better_extrapolated_than_left(method):
    t, frames, end = early(hidden(), 1.0, k=24, noise=0.01)
    assert distance(ds.forecast(t, frames, method).u, end) < 0.6 * distance(frames[-1], end)


def test_the_time_to_the_equilibrium_is_foretold():
    problem = hidden()
    t, frames, _ = early(problem, 1.0, k=20)
    made = ds.forecast(t, frames, "dynamic-modes", noise=0.0)
    assert made.time(1e-2) == pytest.approx(ds.time_to_equilibrium(problem, initial=0.0, tol=1e-2), rel=0.05)
    assert made.time(0.5) <= t[-1]


def test_voids_stay_voids():
    active = np.ones((10, 8), bool)
    active[4:6, 3:5] = False
    problem = ds.Problem(GRID, 1.0, source=1.0, active=active, boundary=SIDES)
    t, frames, end = early(problem, 0.5)
    for method in METHODS:
        made = ds.forecast(t, frames, method, problem=problem)
        np.testing.assert_array_equal(np.isnan(made.u), np.isnan(end))


def test_later_values_follow_the_slowest_decay():
    t = np.linspace(0.0, 1.0, 9)
    end, frames = decays(t, [2.0])
    made = ds.forecast(t, frames, "dynamic-modes", noise=0.0)
    later = np.array([1.0, 1.5, 4.0])
    expected = end + np.exp(-2.0 * (later - t[-1]))[:, None] * (frames[-1] - end)
    np.testing.assert_allclose(made.at(later), expected, rtol=0, atol=3e-3)
    with pytest.raises(ds.ProblemError, match="before the last frame"):
        made.at([0.5])


def sparse(frames, count, seed=0):
    """Frames of which a few random cells are read."""
    cells = frames[0].size
    where = np.random.default_rng(seed).choice(cells, count, replace=False)
    seen = np.full((len(frames), cells), np.nan)
    seen[:, where] = frames.reshape(len(frames), -1)[:, where]
    return seen.reshape(frames.shape)


def test_a_few_sensors_and_the_equation_give_the_whole_field():
    """Smooth source, one coefficient three times the prior's: the factor and the field are found from twelve cells."""
    x, y = GRID.mesh()
    prior = ds.Problem(GRID, 1.0, boundary=SIDES)
    problem = prior.with_(
        diffusivity=3.0, source=6.0 * np.cos(2 * x) * (1 + y), boundary={**SIDES, "y+": ds.Robin(9.0, 1.0)}
    )
    t, frames, end = early(problem, 0.5, k=16)
    made = ds.forecast(t, sparse(frames, 12), "linear-inverse", problem=prior)
    assert distance(made.u, end) < 0.1
    assert distance(frames[-1], end) > 0.3
    assert made.rate == pytest.approx(1.0 / ds.time_to_equilibrium(problem, tol=math.exp(-1)), rel=0.3)
    np.testing.assert_allclose(made.at([t[-1]])[0], frames[-1], rtol=0, atol=0.05 * np.abs(end).max())


@pytest.mark.parametrize("count", [4, 16])
def test_sensors_with_noise_are_better_inverted_than_left(count):
    t, frames, end = early(hidden(), 0.3, k=16, noise=0.01)
    made = ds.forecast(t, sparse(frames, count), "linear-inverse", problem=ds.Problem(GRID, 1.0, boundary=SIDES))
    seen = ~np.isnan(sparse(frames, count)[0])
    assert distance(made.u[seen], end[seen]) < 0.7 * distance(frames[-1][seen], end[seen])


def test_what_sensors_say_does_not_depend_on_units():
    """Readings in other units, of a transient in other units of time: u follows, the rate too."""
    t, frames, _ = early(hidden(), 0.3, noise=0.01)
    prior = ds.Problem(GRID, 1.0, boundary={"x": ds.Dirichlet(0.0), "y": ds.Dirichlet(0.0)})
    made = ds.forecast(t, sparse(frames, 9), "linear-inverse", problem=prior)
    other = ds.forecast(60 * t, -7 * sparse(frames, 9), "linear-inverse", problem=prior)
    np.testing.assert_allclose(other.u, -7 * made.u, rtol=0, atol=1e-9 * np.abs(made.u).max())
    assert other.rate == pytest.approx(made.rate / 60, rel=1e-9)


def test_the_page_on_forecasts_runs():
    page = (Path(__file__).parents[1] / "docs" / "forecast.md").read_text()
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), names)
    end = ds.equilibrium(names["unknown"]).u
    assert distance(names["better"].u, end) < 0.1 < distance(names["frames"][-1], end)


@pytest.mark.parametrize("phase", [(200, 500, 760), (860, 1120, 1360), (1440, 1720, 1950), (2040, 2300, 2540)], ids=str)
def test_phases_of_the_measured_rod_are_continued(shared_data, phase):
    """Each heating and cooling phase from its first half: less than half the error of standing still."""
    log = np.genfromtxt(shared_data / "rod" / "rod.csv", delimiter=",", encoding="utf-8-sig")
    start, now, end = phase

    def means(times):
        return np.stack([log[np.abs(log[:, 0] - t) <= 5, 2:11:2].mean(axis=0) for t in times])

    seen, later = np.arange(start, now, 10.0), np.arange(now, end, 10.0)
    frames, truth = means(seen), means(later)
    made = ds.forecast(seen, frames, "exponential").at(later)
    assert np.sqrt(np.mean((made - truth) ** 2)) < 0.5 * np.sqrt(np.mean((frames[-1] - truth) ** 2))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"method": "oracle"}, "unknown"),
        ({"times": [0.0, 1.0, 3.0, 4.0]}, "equally spaced"),
        ({"times": [0.0, 1.0]}, "or more"),
        ({"frames": np.full((4, 2), np.nan)}, "frames hold"),
        ({"method": "linear-inverse"}, "needs problem="),
        ({"method": "linear-inverse", "problem": ds.Problem(GRID, 1.0)}, "takes frames over the cells"),
        ({"noise": -1.0}, "noise"),
        (
            {"frames": np.ones((4, 10, 8)), "method": "linear-inverse", "problem": ds.Problem(GRID, 1.0)},
            "holds the level",
        ),
    ],
)
def test_records_that_cannot_be_extrapolated_are_refused(changes, word):
    arguments = {"times": np.arange(4.0), "frames": np.ones((4, 2)), **changes}
    with pytest.raises(ds.ProblemError, match=word):
        ds.forecast(**arguments)
