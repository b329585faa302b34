"""The tuning map: outcomes against the proofs, one jump against the steps, collapse onto dimensionless numbers."""

import math

import numpy as np
import pytest

import diffsim as ds
from diffsim.tuning import OUTCOMES, cheapest
from diffsim.tuning.sweeping import SweptCase

STEPS = np.unique(np.geomspace(2, 4000, 12).astype(int))


def line(n=16, diffusivity=1.0, **kw):
    grid = ds.Grid(shape=(n,), lengths=(1.0,))
    return ds.Problem(
        grid, **{"diffusivity": diffusivity, "boundary": {"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)}, **kw}
    )


def around(problem, scheme="ftcs"):
    """Steps on both sides of the limit, none nearer than 3 %."""
    limit = ds.stability(problem, scheme=scheme).dt_limit
    return limit * np.array([0.01, 0.1, 0.3, 0.6, 0.97, 1.03, 1.5, 4.0])


def test_runs_are_unstable_beyond_the_limit_and_nowhere_else():
    problem = line()
    dts = around(problem)
    swept = ds.sweep(problem, np.random.default_rng(0).random(16), dts, STEPS)
    assert swept.outcome.shape == (8, STEPS.size) and set(swept.outcome.ravel()) <= set(OUTCOMES)
    unstable = swept.outcome == "unstable"
    assert not unstable[dts <= swept.theory.dt_limit[0]].any()
    assert unstable[dts > swept.theory.dt_limit[0]][:, STEPS >= 300].all()


def test_a_step_at_the_limit_is_not_unstable():
    problem = line()
    limit = ds.stability(problem, scheme="ftcs").dt_limit
    swept = ds.sweep(problem, np.random.default_rng(0).random(16), [limit], STEPS)
    assert not (swept.outcome == "unstable").any()


def test_every_stable_run_is_settled_after_the_time_of_the_slowest_mode():
    """||e_n|| <= |R|^n ||e_0|| with |R| largest on the slowest mode, which positive steps guarantee."""
    problem = line()
    dts = around(problem)[:4]
    swept = ds.sweep(problem, lambda x: np.sin(9 * x), dts, STEPS, tol=1e-2)
    needed = swept.theory.settled_steps(0, dts)
    settled = np.isin(swept.outcome, ("settled", "wasteful"))
    assert settled[STEPS[None, :] >= needed[:, None]].all()
    assert (swept.outcome == "unfinished").any()
    assert swept.theory.settled_time[0] == pytest.approx(math.log(100) / (4 * 16**2 * math.sin(math.pi / 32) ** 2))


def test_wasteful_means_settled_in_half_the_steps():
    swept = ds.sweep(line(), 0.0, [5e-4], [100, 200, 400, 800, 1600, 3200])
    names, distance = swept.outcome[0], swept.distance[0]
    for j in range(1, 6):
        if distance[j] <= 1e-3:
            assert names[j] == ("wasteful" if distance[j - 1] <= 1e-3 else "settled")
    assert list(names).count("settled") == 1


def test_a_spike_oscillates_near_the_limit_and_not_below_half_of_it():
    """Up to half the limit every |R| of forward Euler is R >= 0: no mode changes sign."""
    problem = line(17, boundary={"x": ds.Dirichlet(0.0)})
    spike = np.zeros(17)
    spike[8] = 1.0
    limit = ds.stability(problem, scheme="ftcs").dt_limit
    swept = ds.sweep(problem, spike, [0.5 * limit, 0.99 * limit], [2, 3, 10])
    assert (swept.outcome[0] == "unfinished").all() and (swept.outcome[1] == "oscillating").all()


@pytest.mark.parametrize(
    ("problem", "scheme"),
    [(line(), "ftcs"), (line(diffusivity=np.ones(16)), "ftcs"), (line(diffusivity=np.linspace(1, 9, 16)), "bdf2")],
    ids=["transform", "eigenvectors", "two steps of memory"],
)
def test_one_jump_is_the_same_as_all_steps(problem, scheme, monkeypatch):
    """A box of constants is jumped by a transform, a small problem by its eigenvectors; others are stepped."""
    dts = around(problem)
    start = np.random.default_rng(3).random(16)
    jumped = ds.sweep(problem, start, dts, STEPS, scheme=scheme)
    monkeypatch.setattr(SweptCase, "_errors", SweptCase._marched)
    stepped = ds.sweep(problem, start, dts, STEPS, scheme=scheme)
    near = jumped.outcome != "unstable"
    np.testing.assert_array_equal(jumped.outcome[near], stepped.outcome[near])
    np.testing.assert_allclose(jumped.distance[near], stepped.distance[near], rtol=1e-6, atol=1e-9)
    assert ((jumped.outcome == "unstable") == (stepped.outcome == "unstable")).all()


@pytest.mark.parametrize("scheme", ["ftcs", "crank-nicolson", "rkl2", "bdf2"])
def test_the_cheapest_run_settles_and_one_step_less_does_not(scheme, monkeypatch):
    """Against single runs; and the same counts where every step is taken."""
    problem, start = line(diffusivity=np.linspace(1, 9, 16)), np.random.default_rng(3).random(16)
    dts = ds.stability(problem, scheme="ftcs").dt_limit * np.array([0.3, 0.9, 4.0])
    found = cheapest(problem, start, dts, scheme, tol=1e-2)
    for dt, n, work in zip(dts, found.steps, found.work, strict=True):
        if math.isinf(n):
            assert scheme == "ftcs" and dt > dts[1]
            continue
        names = ds.sweep(problem, start, [dt], [max(1, int(n) - 1), int(n)], scheme=scheme, tol=1e-2).outcome[0]
        assert names[1] in ("settled", "wasteful") and (n == 1 or names[0] not in ("settled", "wasteful"))
        assert work >= n and found.cost <= work
    assert found.best[0] in dts
    monkeypatch.setattr(SweptCase, "least_settled", SweptCase._least_marched)
    np.testing.assert_array_equal(cheapest(problem, start, dts, scheme, tol=1e-2).steps, found.steps)


def test_outcomes_collapse_onto_dimensionless_numbers():
    """D times dt is all that matters: ten times the diffusivity at a tenth of the step is the same run."""
    dts = around(line(diffusivity=1.0))
    start = np.random.default_rng(0).random(16)
    slow = ds.sweep(line(), start, dts, STEPS, diffusivities=[1.0])
    fast = ds.sweep(line(), start, dts / 10, STEPS, diffusivities=[10.0])
    np.testing.assert_allclose(slow.fourier, fast.fourier, rtol=1e-12)
    np.testing.assert_allclose(slow.decay, fast.decay, rtol=1e-12)
    np.testing.assert_array_equal(slow.outcome, fast.outcome)


def test_a_sweep_over_diffusivities_has_one_layer_each():
    field = np.linspace(1.0, 2.0, 16)
    swept = ds.sweep(line(), 0.0, [1e-4, 1e-2], [10, 100], diffusivities=[0.5, field])
    assert swept.outcome.shape == swept.distance.shape == (2, 2, 2)
    assert swept.theory.dt_limit[1] == ds.stability(line(diffusivity=field), scheme="ftcs").dt_limit
    assert len(swept.best) == 2


def test_the_best_run_is_the_cheapest_that_settles():
    dts = around(line())
    swept = ds.sweep(line(), 0.0, dts, STEPS)
    dt, steps = swept.best
    settled = np.isin(swept.outcome, ("settled", "wasteful"))
    assert settled[list(dts).index(dt), list(STEPS).index(steps)]
    assert steps == STEPS[np.nonzero(settled)[1].min()]
    assert ds.sweep(line(), 0.0, [1e-6], [3]).best is None


@pytest.mark.parametrize("scheme", ["backward-euler", "rkl2", "bdf2"])
def test_schemes_without_a_limit_are_never_unstable(scheme):
    swept = ds.sweep(line(), np.random.default_rng(0).random(16), [1e-4, 1e-2, 1.0], [1, 5, 30], scheme=scheme)
    assert not (swept.outcome == "unstable").any() and swept.outcome[2, 2] in ("settled", "wasteful")


def test_nonlinear_problems_are_swept_too():
    problem = line(diffusivity=ds.OfState(lambda u: 0.5 + u**2))
    swept = ds.sweep(problem, 0.0, [1e-4, 1e-3, 3e-2], [20, 400])
    assert swept.outcome[0, 1] in ("settled", "unfinished") and (swept.outcome[2] == "unstable").all()


def test_voids_and_held_cells_are_swept():
    active = np.ones((8, 8), bool)
    active[3:5, 3:5] = False
    held = np.zeros((8, 8), bool)
    held[0, 0] = True
    grid = ds.Grid(shape=(8, 8), lengths=(1.0, 1.0))
    problem = ds.Problem(grid, 1.0, active=active, fixed=(held, 1.0), boundary={"x+": ds.Dirichlet(0.0)})
    swept = ds.sweep(problem, 0.0, [1e-3, 1e-2], [10, 5000])
    assert swept.outcome[0, 1] in ("settled", "wasteful") and swept.outcome[1, 1] == "unstable"


def test_the_picture_shows_every_class_and_line(tmp_path):
    dts = np.geomspace(1e-5, 1e-2, 12)
    swept = ds.sweep(line(), np.random.default_rng(0).random(16), dts, STEPS, diffusivities=[0.5, 2.0])
    figure = swept.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 20_000
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert set(OUTCOMES) <= set(labels) and "largest stable step" in labels
    assert len(figure.axes) == 3 and "x unstable" in str(swept)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"steps": [0, 3]}, "steps"),
        ({"steps": [1.5]}, "steps"),
        ({"steps": []}, "steps"),
        ({"dts": [-1e-3]}, "dts"),
        ({"diffusivities": []}, "diffusivities"),
        ({"initial": lambda x: 1 - x}, "is the equilibrium"),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments, word):
    with pytest.raises(ds.ProblemError, match=word):
        ds.sweep(**{"problem": line(), "initial": 0.0, "dts": [1e-4], "steps": [3], **arguments})
