"""The claim about noise at the input of a generator: its exact reference, its scores and its judge."""

import math

import numpy as np
import pytest
import torch

from surrogate.study.claim import Records
from surrogate.study.claims import generators as g


@pytest.mark.parametrize("target", g.DISTANCE)
def test_the_exact_conditional_distribution_is_that_of_draws(target):
    world, rng = g.world(target), np.random.default_rng(0)
    u, y = world.draw(4000, rng)
    rest = u - y @ world.gain.T
    # the mean of what is left is zero and does not go with the readings: 4 standard errors
    assert np.abs(rest.mean(axis=0)).max() < 4 * rest.std(axis=0).max() / math.sqrt(len(u))
    together = (rest.T @ y) / len(u)
    limit = 4 * np.outer(rest.std(axis=0), y.std(axis=0)) / math.sqrt(len(u))
    assert (np.abs(together) < 1.2 * limit).all()
    spread = (rest**2).sum(axis=1)
    assert spread.mean() == pytest.approx(world.variance, abs=4 * spread.std() / math.sqrt(len(u)))


def test_sensors_cannot_tell_the_modes_apart():
    world = g.world("two modes")
    assert np.abs(world.sensors @ world.apart).max() < 1e-12 * np.abs(world.apart).max()


def test_exact_samples_have_the_exact_mean_and_spread():
    world = g.world("two modes")
    _, y = world.draw(2, np.random.default_rng(1))
    samples = world.conditional(y, 4000, np.random.default_rng(2))
    np.testing.assert_allclose(samples.var(axis=1).sum(axis=1), world.variance, rtol=0.1)
    error = np.linalg.norm(samples.mean(axis=1) - y @ world.gain.T, axis=1)
    assert (error < 4 * math.sqrt(world.variance / 4000)).all()


def test_the_energy_score_is_its_formula_and_least_for_the_truth():
    rng = np.random.default_rng(0)
    samples, truth = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 5))
    brute = np.mean([
        np.mean([np.linalg.norm(x - u) for x in xs])
        - 0.5 * np.mean([np.linalg.norm(xs[i] - xs[j]) for i in range(4) for j in range(4) if i != j])
        for xs, u in zip(samples, truth, strict=True)
    ])  # fmt: skip
    assert float(g.energy_score(torch.from_numpy(samples), torch.from_numpy(truth))) == pytest.approx(brute, rel=1e-6)
    draws = lambda scale: torch.from_numpy(scale * rng.standard_normal((4000, 8, 5)))  # noqa: E731
    truths = torch.from_numpy(rng.standard_normal((4000, 5)))
    right = float(g.energy_score(draws(1.0), truths))
    assert right < float(g.energy_score(draws(0.5), truths))
    assert right < float(g.energy_score(draws(2.0), truths))


def test_without_noise_nothing_is_random():
    case = {"target": "two modes", "loss": "squares", "noise": False, "lr": 5e-3, "seed": 0, "updates": 3}
    measured = g._measure(case)
    assert measured["spread"] < 1e-6
    assert measured["coverage"] < 0.01


@pytest.mark.parametrize(("shown", "verdict"), [
    ({"squares": 1.0, "energy": 1.0, "adversary": 1.0}, "supported"),
    ({"squares": 0.1, "energy": 1.0, "adversary": 2.0}, "depends"),
    ({"squares": 0.1, "energy": 0.2, "adversary": 0.1}, "refuted"),
])  # fmt: skip
def test_the_verdict_follows_the_spread(shown, verdict):
    def measured(case):
        wobble = 1 + 0.02 * math.sin(3.0 * case["seed"])
        spread = 1.0 if case["loss"] == "exact" else shown[case["loss"]] * wobble if case["noise"] else 0.0
        return {
            "spread": spread,
            "coverage": 0.8,
            "score": 1.0,
            "both": 0.95 * wobble,
            "between": 0.1,
            "validation": 1.0,
            "skill": 1.0,
        }

    records = Records({**case, **measured(case)} for case in g.NOISY_GENERATOR.cases("full"))
    finding = g.NOISY_GENERATOR.judge(records)
    assert finding.verdict == verdict
    assert all(check.ok for check in finding.checks)
