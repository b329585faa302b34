"""Claims about order, batches and architectures: their machinery and their judges."""

import math
from itertools import combinations

import numpy as np
import pytest

from surrogate import models
from surrogate.study.claim import Records
from surrogate.study.claims import architectures, batches


def planted(claim, measured):
    return Records({**case, **measured(case)} for case in claim.cases("full"))


def wobble(seed) -> float:
    return 1 + 0.02 * math.sin(3.0 * seed)


def test_a_curriculum_grows_from_the_easy_end_to_all():
    ranks = np.arange(8)[::-1]
    shuffled = np.array([3, 1, 4, 0, 5, 2, 6, 7])
    assert list(batches.entered("easy first", ranks, 0.0, shuffled)) == [7, 6]
    assert list(batches.entered("hard first", ranks, 0.0, shuffled)) == [0, 1]
    assert list(batches.entered("random growth", ranks, 0.0, shuffled)) == [3, 1]
    for order in batches.ORDERS:
        assert sorted(batches.entered(order, ranks, batches.OPEN, shuffled)) == list(range(8))
    assert len(batches.entered("easy first", ranks, batches.OPEN / 2, shuffled)) == 5


@pytest.mark.parametrize(("easy", "random", "verdict"), [
    ((0.8, 0.8), 1.0, "supported"), ((0.8, 1.0), 1.0, "depends"), ((0.8, 0.8), 0.5, "depends"), ((1.2, 1.2), 1.0, "refuted"),
])  # fmt: skip
def test_the_verdict_on_the_curriculum_needs_its_control(easy, random, verdict):
    lengths = batches.LENGTHS["full"]
    factor = {
        "all at once": (1.0, 1.0),
        "easy first": easy,
        "hard first": (1.1, 1.1),
        "random growth": (random, random),
    }

    def measured(case):
        error = factor[case["order"]][lengths.index(case["updates"])] * wobble(case["seed"] + len(case["order"]))
        return {"test": error, "validation": error, "easy": error, "hard": error}

    assert batches.CURRICULUM.judge(planted(batches.CURRICULUM, measured)).verdict == verdict


def test_the_variance_of_a_batch_is_that_of_all_batches():
    """The formula for draws without replacement, against every subset."""
    values = np.random.default_rng(0).standard_normal((7, 2))
    centred = values - values.mean(axis=0)
    for size in (1, 3, 6):
        every = np.mean([(centred[list(pick)].mean(axis=0) ** 2).sum() for pick in combinations(range(7), size)])
        assert (centred**2).sum() / 7 / size * (7 - size) / 6 == pytest.approx(every, rel=1e-12)
    measured = batches._measure_gradient({"seed": 5, "size": 16})
    assert measured["measured"] == pytest.approx(measured["expected"], rel=4 * measured["deviation"])
    assert measured["deviation"] < 0.05


@pytest.mark.parametrize(("small", "longer", "verdict"), [
    ((0.5, 0.5), 0.8, "supported"), ((0.5, 0.5), 0.3, "depends"), ((0.5, 1.0), 0.8, "depends"), ((1.0, 1.1), 0.8, "refuted"),
])  # fmt: skip
def test_the_verdict_on_batches_weighs_time(small, longer, verdict):
    factor = dict(zip(batches.ARMS, (*small, 1.0, longer), strict=True))

    def measured(case):
        if case["part"] == "gradient":
            return {"measured": 1.0, "expected": 1.0, "deviation": 0.01}
        error = factor[case["arm"]] * wobble(case["seed"] + len(case["arm"]))
        return {"test": error, "train": error, "validation": error, "seconds": 1.0, "steps": 10}

    finding = batches.MINIBATCHES.judge(planted(batches.MINIBATCHES, measured))
    assert finding.verdict == verdict
    assert all(check.ok for check in finding.checks)


def test_every_network_compared_is_in_the_registry_with_its_options():
    for name, (_, options, passes) in architectures.NETWORKS.items():
        assert set(options) <= set(models.options_of(name))
        assert passes >= 1


@pytest.mark.parametrize(("errors", "verdict"), [
    (({"graph": 0.5}, {"graph": 0.5}), "supported"),
    (({"graph": 0.5}, {"attention": 0.5}), "depends"),
    (({}, {}), "refuted"),
])  # fmt: skip
def test_the_verdict_on_architectures_asks_for_one_winner(errors, verdict):
    factor = dict(zip(architectures.TASKS, errors, strict=True))

    def measured(case):
        error = factor[case["task"]].get(case["network"], 1.0) * wobble(case["seed"] + len(case["network"]))
        return {"test": error, "train": error, "validation": error, "seconds": 1.0, "steps": 10}

    assert architectures.ARCHITECTURES.judge(planted(architectures.ARCHITECTURES, measured)).verdict == verdict
