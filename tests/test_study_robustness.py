"""Claims about shifting distributions and wrong labels: their machinery and their judges."""

import numpy as np
import pytest
import torch

from surrogate.study.claim import Records
from surrogate.study.claims import robustness


def planted(claim, measured):
    return Records({**case, **measured(case)} for case in claim.cases("full"))


@pytest.mark.parametrize(
    ("end", "again", "verdict"), [(0.3, 0.1, "supported"), (0.3, 0.6, "depends"), (0.9, 0.1, "refuted")]
)
def test_the_verdict_on_a_shift_weighs_what_is_forgotten(end, again, verdict):
    def measured(case):
        wobble = 0.02 * np.sin(5.0 * case["seed"])
        calls = case["before"] + case["after"]
        frozen = np.where(np.arange(calls) < case["before"], 0.1, 0.9)
        adaptive = np.where(np.arange(calls) < case["before"], 0.1, np.linspace(0.9, end, calls)) + wobble
        return {
            "adaptive": adaptive,
            "frozen": frozen,
            "worst": 0.09,
            "adaptive_again": again + wobble,
            "frozen_again": 0.1,
        }

    finding = robustness.SHIFT.judge(planted(robustness.SHIFT, measured))
    assert finding.verdict == verdict
    assert finding.checks[0].ok


def test_what_noise_adds_to_ridge_regression_is_what_theory_says():
    for sigma in robustness.RIDGE_NOISES[:2]:
        measured = robustness._measure_ridge({"seed": 3, "sigma": sigma})
        assert measured["added"] == pytest.approx(measured["expected"], rel=4 * measured["deviation"])
        assert measured["deviation"] < 0.03  # so that the check can fail


def test_labels_are_corrupted_as_the_name_says():
    rng = np.random.default_rng(0)
    label = rng.standard_normal((50, 1, 8, 8)).astype(np.float32)
    same = robustness._corrupted(label, 0.0, 0.0, np.random.default_rng(1))
    np.testing.assert_array_equal(same, label)
    noisy = robustness._corrupted(label, 0.3, 0.0, np.random.default_rng(1)) - label
    assert np.sqrt((noisy**2).mean() / (label**2).mean()) == pytest.approx(0.3, rel=4 / np.sqrt(2 * label.size))
    wrong = robustness._corrupted(label, 0.0, 0.2, np.random.default_rng(1))
    assert (wrong != label).any(axis=(1, 2, 3)).sum() == 10


def test_robust_losses_feel_a_far_outlier_no_more_than_a_near_one():
    def pull(loss, size):
        errors = torch.full((16, 4), 0.05)
        errors[0] = size
        errors.requires_grad_()
        robustness.LOSSES[loss](errors).backward()
        return float(errors.grad[0].norm())

    assert pull("squares", 20.0) == pytest.approx(10 * pull("squares", 2.0))
    for loss in ("norms", "huber"):
        assert pull(loss, 20.0) == pytest.approx(pull(loss, 2.0), rel=1e-3)
    assert pull("trimmed", 2.0) == 0


@pytest.mark.parametrize(("noise", "outliers", "huber", "verdict"), [
    (1.1, 3.0, 1.2, "supported"), (1.1, 3.0, 2.9, "depends"), (2.0, 3.0, 1.2, "depends"), (2.0, 1.1, 1.1, "refuted"),
])  # fmt: skip
def test_the_verdict_on_wrong_labels(noise, outliers, huber, verdict):
    def measured(case):
        if case["part"] == "ridge":
            return {"added": 1.01, "expected": 1.0, "deviation": 0.02}
        factor = {"clean": 1.0, "noise": noise, "more noise": 2 * noise, "outliers": outliers}[case["labels"]]
        if case["labels"] == "outliers" and case["loss"] == "huber":
            factor = huber
        return {"test": 0.1 * factor * (1 + 0.02 * np.sin(3.0 * case["seed"] + len(case["loss"])))}

    finding = robustness.LABELS.judge(planted(robustness.LABELS, measured))
    assert finding.verdict == verdict
    assert all(check.ok for check in finding.checks)
