"""Conformal intervals: the right order statistic, coverage by count, and the faults that break it."""

import math

import numpy as np
import pytest
from scipy.stats import binom

import diffsim as ds
from surrogate.conformal import coverage_band, quantile, share_quantile


def test_the_quantile_is_the_order_statistic_that_theory_names(rng):
    scores = rng.normal(size=19)
    assert quantile(scores, 0.9) == np.sort(scores)[17]  # ceil(0.9 * 20) = 18
    assert quantile(scores, 0.5) == np.sort(scores)[9]
    assert quantile(scores[:8], 0.9) == math.inf  # ceil(0.9 * 9) = 9 > 8
    assert quantile(scores[:9], 0.9) == scores[:9].max()
    assert quantile([*scores, np.nan], 0.96) == math.inf  # NaN is the worst of scores


def test_the_share_quantile_is_the_smallest_that_keeps_its_promise(rng):
    scores = rng.gamma(2.0, size=(30, 7))
    for level in (0.5, 0.8, 0.9, 0.95):
        q = share_quantile(scores, level)
        risk = lambda limit: ((scores > limit).mean(axis=1).sum() + 1) / 31  # noqa: E731
        below = np.sort(scores, axis=None)
        assert risk(q) <= 1 - level + 1e-12
        assert risk(below[np.searchsorted(below, q) - 1]) > 1 - level
    assert share_quantile(scores[:5], 0.9) == math.inf


def test_exchangeable_scores_are_covered_as_often_as_promised(rng):
    """4000 calibrations of 59 scores, one new score each: P = 54/60 exactly for continuous scores."""
    scores = rng.standard_cauchy((4000, 60))
    covered = sum(row[-1] <= quantile(row[:-1], 0.9) for row in scores)
    low, high = binom(4000, 54 / 60).ppf([0.001, 0.999])
    assert low <= covered <= high


def test_shares_of_dependent_cells_are_covered_in_expectation(rng):
    """Cells of an item share most of their noise; the guarantee is on the mean share, and tight to 1/(n + 1)."""
    shares = []
    for _ in range(600):
        common, own = rng.normal(size=(51, 1)), rng.normal(size=(51, 20))
        scores = np.abs(common + 0.3 * own)
        shares.append((scores[-1] <= share_quantile(scores[:-1], 0.9)).mean())
    error = 3 * np.std(shares) / math.sqrt(600)
    assert 0.9 - error <= np.mean(shares) <= 0.9 + 1 / 51 + error


def memory(known_x, known_y, x):
    """A predictor that remembers: the label of the nearest known point."""
    return known_y[np.abs(known_x[:, None] - x).argmin(axis=0)]


@pytest.mark.parametrize("held_out", [True, False], ids=["held out", "on the training points"])
def test_only_held_out_points_give_intervals_that_cover(rng, held_out):
    """The planted fault: a predictor that remembers its training points has no error there."""
    x = rng.uniform(size=900)
    y = np.sin(6 * x) + 0.3 * rng.normal(size=900)
    known, other, new = np.split(np.arange(900), [300, 500])
    used = other if held_out else known
    q = quantile(np.abs(memory(x[known], y[known], x[used]) - y[used]), 0.9)
    covered = (np.abs(memory(x[known], y[known], x[new]) - y[new]) <= q).sum()
    low, high = coverage_band(0.9, len(used), len(new))
    assert (low <= covered <= high) == held_out


def test_the_band_of_counts_is_that_of_repeated_trials(rng):
    low, high = coverage_band(0.9, 40, 60, confidence=0.9)
    scores = rng.uniform(size=(4000, 100))
    q = np.sort(scores[:, :40], axis=1)[:, 36]  # ceil(0.9 * 41) = 37
    inside = (scores[:, 40:] <= q[:, None]).sum(axis=1)
    assert abs(np.mean(inside < low) - 0.05) < 0.03
    assert abs(np.mean(inside > high) - 0.05) < 0.03


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: quantile([], 0.9), "shape"),
        (lambda: quantile([[1.0]], 0.9), "shape"),
        (lambda: share_quantile([1.0], 0.9), "shape"),
        (lambda: quantile([1.0], 1.0), "always covers"),
        (lambda: quantile([1.0], 0.0), "level"),
    ],
)
def test_what_has_no_quantile_is_refused(call, word):
    with pytest.raises(ds.ProblemError, match=word):
        call()
