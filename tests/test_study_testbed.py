"""The trainings that experiments share."""

import math

import numpy as np
import pytest

from diffsim.errors import ProblemError
from surrogate.study import testbed
from surrogate.study.claim import Records

TINY = {"items": 8, "epochs": 2, "width": 4, "blocks": 1}


@pytest.fixture(autouse=True)
def small_splits(monkeypatch):
    monkeypatch.setattr(testbed, "VALIDATION", 4)
    monkeypatch.setattr(testbed, "TEST", 4)
    testbed.dataset.cache_clear()
    yield
    testbed.dataset.cache_clear()


def test_the_held_out_problems_do_not_depend_on_the_size_of_the_training_split():
    small, large = testbed.dataset(items=4), testbed.dataset(items=6)
    assert [len(small.split[part]) for part in ("train", "validation", "test")] == [4, 4, 4]
    assert len(set(large.ids)) == 14  # no item is in two parts
    for part in ("validation", "test"):
        np.testing.assert_array_equal(small.arrays(part)["u"], large.arrays(part)["u"])
    np.testing.assert_array_equal(small.arrays("train")["u"], large.arrays("train")["u"][:4])


def test_a_trial_is_decided_by_its_case():
    first, again, other = (testbed.trial({"seed": seed, **TINY}) for seed in (0, 0, 1))
    for name in ("test", "train", "validation", "curve"):
        assert first[name] == again[name]
    assert first["test"] != other["test"]
    assert first["steps"] == 2 and len(first["curve"]) == 2 and first["failed"] == 0
    assert first["validation"] == min(first["curve"])


def test_labels_of_an_experiment_reach_no_option_and_typing_errors_are_refused():
    case = {"seed": 0, "part": "network", "variant": "plain", **TINY}
    assert testbed.trial(case)["test"] == testbed.trial({"seed": 0, **TINY})["test"]
    with pytest.raises(ProblemError, match="learning_rate"):
        testbed.trial({"seed": 0, "learning_rate": 0.1, **TINY})
    with pytest.raises(ProblemError, match="spec"):
        testbed.trial({"seed": 0, "spec": "darcy"}, testbed.dataset(items=4))


def test_a_training_that_diverges_is_a_failure_and_not_an_exception():
    outcome = testbed.trial({"seed": 0, **TINY, "epochs": 6, "optimizer": "sgd", "lr": 1e12, "warmup": 0.0})
    assert outcome["failed"] == 1
    assert math.isnan(outcome["test"]) and math.isnan(outcome["validation"])


def test_other_models_take_their_own_options():
    outcome = testbed.trial({"seed": 0, "model": "unet", "levels": 2, "items": 8, "epochs": 1, "width": 4})
    assert math.isfinite(outcome["test"])


def test_the_error_is_that_of_the_surrogate_in_physical_units():
    data = testbed.dataset(items=8)
    model, outcome = testbed.trained({"seed": 0, "epochs": 2, "width": 4, "blocks": 1}, data)
    items = [data[int(i)] for i in data.split["test"]]
    u = model.fields([item.problem for item in items])
    relative = [np.linalg.norm(a - item.u) / np.linalg.norm(item.u) for a, item in zip(u, items, strict=True)]
    assert outcome["test"] == pytest.approx(np.mean(relative), rel=1e-5)


def test_steps_to_a_level():
    curve = [1.0, 0.1, 0.01, 0.02]
    assert testbed.steps_to(curve, 40, 0.1) == pytest.approx(20)
    assert testbed.steps_to(curve, 40, 10**-1.5) == pytest.approx(25)  # halfway, on the logarithm
    assert testbed.steps_to(curve, 40, 1.0) == 10
    assert testbed.steps_to(curve, 40, 1e-3) == math.inf
    assert testbed.steps_to([None, 0.5], 20, 0.6) == 20
    assert testbed.steps_to([], 0, 1.0) == math.inf


def test_the_step_size_is_chosen_on_the_validation_split_and_must_not_fail():
    rows = [(0.1, 0.5, 0.1), (0.2, 0.3, 0.9), (0.3, 0.1, 0.0), (0.3, None, 0.0)]
    records = Records({"lr": lr, "validation": v, "test": t, "seed": i} for i, (lr, v, t) in enumerate(rows))
    assert testbed.tuned(records).distinct("lr") == [0.2]


def test_watching_a_training_shows_every_step_of_the_same_training():
    case = {"seed": 0, **TINY, "batch": 4, "optimizer": "sgd", "lr": 0.05, "warmup": 0.0, "schedule": "constant"}
    reports = testbed.watched(case)
    assert len(reports) == testbed.trial(case)["steps"] == 4
    for layer in reports[0]:  # plain descent: the update is the step size times the gradient
        assert layer.update_ratio * layer.weight == pytest.approx(0.05 * layer.gradient, rel=1e-3, abs=1e-7)
    assert [layer.weight for layer in reports[0]] != [layer.weight for layer in reports[1]]


def test_steps_are_timed_from_update_to_update_and_the_hooks_are_gone_afterwards():
    case = {"seed": 0, **TINY, "batch": 2}
    seconds = testbed.step_seconds(case)
    assert len(seconds) == 2 * 3 and min(seconds) > 0  # 4 steps per epoch, the first of each left out
    testbed.trial(case)
    assert len(seconds) == 6
