"""The tuning map foretold: shares that explain their probes, maps of problems not seen, and the baselines they must beat."""

import math

import numpy as np
import pytest

import diffsim as ds
from diffsim.schemes import scheme_of
from diffsim.tuning.sweeping import OUTCOMES, SweptCase
from surrogate import tuning_map
from surrogate.tuning_map import Facts


def line(n=24, **kw):
    grid = ds.Grid(shape=(n,), lengths=(1.0,))
    field = 1.0 + np.linspace(0, 2, n)
    return ds.Problem(grid, **{"diffusivity": field, "boundary": {"x": ds.Dirichlet(0.0)}, **kw})


def rough(n=24):
    return np.sin(np.pi * (np.arange(n) + 0.5) / n) + 0.3 * np.random.default_rng(1).normal(size=n)


def case(scheme="ftcs", start=None, tol=1e-3):
    return SweptCase(line(), rough() if start is None else start, scheme_of(scheme), tol)


@pytest.fixture(scope="module")
def model():
    return tuning_map.train(problems=12, steps=150)


def test_probes_are_what_the_modes_say():
    """||f(A) e|| / ||e|| from all eigenvectors."""
    swept = case()
    facts, (rates, _, _, parts) = Facts.of(swept), swept.modes
    gammas = np.geomspace(10 / facts.slowest, 1 / facts.fastest, 10)
    filters = [1 / (1 + gamma * rates) for gamma in gammas] + [(rates / facts.fastest) ** k for k in (1, 2, 4, 8)]
    expected = [np.linalg.norm(f * parts) / np.linalg.norm(parts) for f in filters]
    np.testing.assert_allclose(np.exp(facts.probes), expected, rtol=1e-4)
    assert facts.slowest == pytest.approx(rates[0], rel=1e-6)
    assert rates[-1] <= facts.fastest * (1 + 1e-12) <= 1.01 * rates[-1]


def test_units_do_not_matter():
    """Time in other units, temperatures in other units: the same facts, to the accuracy of the solves."""
    one = Facts.of(case())
    other = SweptCase(line(diffusivity=60.0 * (1 + np.linspace(0, 2, 24))), 5 * rough(), scheme_of("ftcs"), 1e-3)
    np.testing.assert_allclose(Facts.of(other).inputs, one.inputs, rtol=0, atol=1e-4)


def test_explained_shares_explain_the_probes_and_stay_near_the_prior():
    facts = Facts.of(case())
    prior = np.full(len(facts.nodes), 1 / len(facts.nodes))
    shares = facts.explained(prior)
    assert shares.sum() == pytest.approx(1.0) and (shares >= 0).all()
    left = [math.log(math.sqrt(shares @ (1 / (1 + g * facts.nodes) ** 2).mean(axis=1)))
            for g in np.geomspace(10 / facts.slowest, 1 / facts.fastest, 10)]  # fmt: skip
    np.testing.assert_allclose(left, facts.probes[:10], rtol=0, atol=0.05)
    np.testing.assert_allclose(facts.explained(shares), shares, rtol=0, atol=0.02)


@pytest.mark.parametrize("scheme", ["ftcs", "crank-nicolson", "rkl2", "bdf2"])
def test_with_the_true_shares_the_counts_are_the_true_ones(scheme):
    """What the network is trained to tell: the share of every bin. A bin is narrow enough for a count within 10 %."""
    swept = case(scheme)
    facts, (rates, _, _, parts) = Facts.of(swept), swept.modes
    edges = np.geomspace(facts.slowest, facts.fastest, len(facts.nodes) - 1)
    place = np.clip(np.searchsorted(edges, rates, side="right"), 1, len(facts.nodes) - 2)
    place[0] = 0
    shares = np.bincount(place, parts**2, minlength=len(facts.nodes)) / (parts**2).sum()
    compared = 0
    for dt in tuning_map.step_sizes(facts, swept.scheme, swept.tol, 16):
        true, told = swept.least_settled(dt), tuning_map._Damping(facts, swept.scheme, dt).least(shares, swept.tol)
        if math.isfinite(true) and math.isfinite(told) and true > 20:
            assert told == pytest.approx(true, rel=0.1)
            compared += 1
    assert compared >= 4


def test_maps_of_unseen_problems_beat_theory(model):
    """Trained on 12 problems only, tested on 5 others; the page has the numbers of the full training."""
    report = tuning_map.evaluate(model, problems=5, candidates=12)
    assert report.right["learned"] > 0.8 > report.right["theory"]
    assert report.balanced["learned"] > 0.7
    assert report.within("learned") > report.within("slowest mode")
    assert report.failed("whole spectrum") == 0  # its count is a guarantee
    assert "within 20 %" in str(report)


def test_a_prediction_is_a_map_and_a_run(model, tmp_path):
    told = model.predict(line(), rough(), "ftcs", tol=1e-2)
    assert told.outcome.shape == told.distance.shape == (told.dts.size, told.steps.size)
    assert set(told.outcome.ravel()) <= set(OUTCOMES)
    dt, steps = told.best
    assert told.work == steps and dt <= ds.stability(line(), scheme="ftcs").dt_limit
    truth = ds.sweep(line(), rough(), told.dts, told.steps, tol=1e-2)
    assert (truth.outcome == told.outcome).mean() > 0.8
    told.plot(truth, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 20_000


@pytest.mark.slow
def test_training_is_reproducible():
    one, two = (tuning_map.train(problems=10, steps=5) for _ in range(2))
    facts = Facts.of(case())
    np.testing.assert_array_equal(one.shares_of(facts), two.shares_of(facts))
    assert one.margin == two.margin


@pytest.mark.parametrize(
    ("problem", "scheme", "word"),
    [
        (line(diffusivity=ds.OfState(lambda u: 1 + u**2)), "ftcs", "only linear problems"),
        (line(), "krylov", "stability function"),
        (line(), "nonsense", "nonsense"),
    ],
)
def test_what_cannot_be_foretold_is_refused(model, problem, scheme, word):
    with pytest.raises(ds.ProblemError, match=word):
        model.predict(problem, rough(), scheme)


def test_too_few_problems_are_refused():
    with pytest.raises(ds.ProblemError, match="at least 10"):
        tuning_map.train(problems=3)
