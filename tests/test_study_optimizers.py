"""Experiments on what the update does with the gradient."""

import math

import numpy as np
import pytest
import torch

from surrogate.study import testbed
from surrogate.study.claim import Records
from surrogate.study.claims import optimizers
from surrogate.study.claims.optimizers import COST, DRAG, METHODS, PACE, PACE_ARMS, STABILISERS

SEEDS = range(5)
OTHER_COLUMNS = ("limit", "theory", "rate", "difference", "gradients", "updates", "ratio", "seconds")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(testbed, "VALIDATION", 4)
    monkeypatch.setattr(testbed, "TEST", 4)
    monkeypatch.setattr(optimizers, "SMALL", {"width": 4, "blocks": 1, "epochs": 2, "items": 16})
    testbed.dataset.cache_clear()
    yield
    testbed.dataset.cache_clear()


def test_gradient_descent_by_the_table_is_gradient_descent():
    path = optimizers.descend("sgd", torch.ones(1, dtype=torch.float64), lambda w: 2 * w, 3, 0.25)
    np.testing.assert_allclose(path[:, 0], [1, 0.5, 0.25, 0.125])


@pytest.mark.parametrize("name", ["sgd", "drag"])
def test_the_measured_limit_is_that_of_the_amplification(name):
    found = DRAG.measure({"part": "limit", "method": name})
    assert found["limit"] == pytest.approx(found["theory"], rel=1e-3)


def test_the_deepest_well_is_missed_by_steps_that_stay_in_theirs(monkeypatch):
    monkeypatch.setattr(optimizers, "WELL_LR", (0.001,))
    monkeypatch.setattr(optimizers, "WELL_STEPS", 2000)
    missed = DRAG.measure({"part": "wells", "method": "sgd", "noise": 0.0, "seed": 0})["test"]
    # Flow without inertia ends in the well above whose barriers it starts: per axis the deepest one reaches from about
    # -0.53 to 0.55 of [-4, 4], so (1.08 / 8)^2 = 1.8 % of the starts are in it; 100 starts.
    assert missed == pytest.approx(1 - 0.018, abs=4 * math.sqrt(0.018 / 100))


def _drag_records(error_of_drag: float, missed_by_drag: float) -> Records:
    def near(value, seed):
        return value * (1 + 0.01 * seed)

    rows: list[dict] = [
        {"part": "limit", "method": name, "limit": 42.0 if "drag" in name else 2.0, "theory": 2.0}
        for name in optimizers.LINEAR
    ]
    rows += [{"part": "rate", "method": "drag", "rate": 0.8, "theory": 0.8}]
    rows += [{"part": "same", "method": "drag", "difference": 0.0}]
    for name in METHODS:
        value = error_of_drag if name == "drag" else 0.1
        missed = missed_by_drag if name == "drag" else 0.5
        rows += [
            {"part": "wells", "method": name, "noise": noise, "seed": s, "test": near(missed, s * (name == "drag"))}
            for noise in (0.0, 3.0)
            for s in SEEDS
        ]
        rows += [
            {"part": "network", "method": name, "lr": 1.0, "seed": s, "steps": 8, "validation": value,
             "test": near(value, s * (name == "drag")), "failed": 0, "curve": [1.0, value]}
            for s in SEEDS
        ]  # fmt: skip
    return Records(rows)


def test_the_verdict_on_drag_follows_the_records():
    assert DRAG.judge(_drag_records(0.05, 0.1)).verdict == "supported"
    assert DRAG.judge(_drag_records(0.2, 0.9)).verdict == "refuted"
    assert DRAG.judge(_drag_records(0.05, 0.9)).verdict == "depends"
    limits = {check.name: check.ok for check in DRAG.judge(_drag_records(0.05, 0.1)).checks}
    assert limits["largest lr * lambda, sgd"] and not limits["largest lr * lambda, drag"]  # 42 was planted, 2 expected


def test_equal_layers_have_equal_gradients_and_others_do_not(tiny):
    measure = lambda variant: PACE.measure({"part": "pace", "base": "sgd", "variant": variant, "seed": 0})  # noqa: E731
    assert measure("equal layers")["gradients"] < 1e-5 < 0.05 < measure("plain")["gradients"]


def _pace_records(gain: float, spiked: float) -> Records:
    rows: list[dict] = []
    for base, variants, _ in PACE_ARMS:
        for variant in variants:
            helped = variant != "plain" or base == "muon"
            rows += [
                {"part": "pace", "base": base, "variant": variant, "seed": s, "gradients": 0.0, "updates": 0.0}
                for s in SEEDS
            ]
            for part, factor in (("clean", gain), ("spiked", spiked)):
                value = 0.1 * (factor if helped else 1.0)
                rows += [
                    {"part": part, "base": base, "variant": variant, "lr": 0.1, "seed": s, "validation": value,
                     "test": value * (1 + 0.01 * s * helped)}
                    for s in SEEDS
                ]  # fmt: skip
    return Records(rows)


def test_the_verdict_on_equal_pace_follows_the_records():
    assert PACE.judge(_pace_records(0.5, 0.5)).verdict == "supported"
    assert PACE.judge(_pace_records(1.5, 1.5)).verdict == "refuted"
    assert PACE.judge(_pace_records(1.5, 0.5)).verdict == "depends"


def _cost_records(price: float, speed: float) -> Records:
    """All means make steps `price` times as dear and their errors fall `speed` times as fast."""
    rows: list[dict] = [
        {"part": "seconds", "variant": name, "ratio": 1.0 if name == "plain" else price} for name in STABILISERS
    ]
    for name in STABILISERS:
        pace = 1.0 if name == "plain" else speed
        for s in SEEDS:
            curve = [math.exp(-pace * (1 + 0.01 * s * (name != "plain")) * (k + 1)) for k in range(8)]
            rows.append(
                {"part": "steps", "variant": name, "lr": 0.1, "seed": s, "steps": 64, "curve": curve,
                 "validation": curve[-1], "test": curve[-1], "failed": 0}
            )  # fmt: skip
    return Records(rows)


def test_the_verdict_on_the_price_weighs_time_and_steps():
    assert COST.judge(_cost_records(1.2, 2.0)).verdict == "supported"
    assert COST.judge(_cost_records(3.0, 2.0)).verdict == "refuted"  # half the steps at three times the price
    assert COST.judge(_cost_records(1.0, 0.5)).verdict == "refuted"  # never gets there


def test_a_step_that_does_more_costs_more(tiny):
    ratio = COST.measure({"part": "seconds", "variant": "spectral norm", "repeats": 2})["ratio"]
    assert ratio > 1.05


@pytest.mark.parametrize("claim", [DRAG, PACE, COST], ids=lambda claim: claim.name)
def test_the_quick_cases_are_part_of_the_story_of_the_full_ones(claim):
    for profile in ("quick", "full"):
        cases = claim.cases(profile)
        assert len({str(sorted(case.items())) for case in cases}) == len(cases)
    assert {case["part"] for case in claim.cases("quick")} == {case["part"] for case in claim.cases("full")}


@pytest.mark.parametrize("claim", [DRAG, PACE, COST], ids=lambda claim: claim.name)
def test_the_quick_cases_are_enough_for_a_verdict_and_a_figure(claim):
    from matplotlib.figure import Figure

    measured = dict.fromkeys(("test", "train", "validation", *OTHER_COLUMNS), 0.5)
    measured |= {"curve": [0.9, 0.5], "steps": 16, "failed": 0}
    records = Records({**measured, **case} for case in claim.cases("quick"))
    assert claim.judge(records).rows
    claim.draw(records, Figure())
