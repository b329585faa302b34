"""What samples leave open: the prior they fit, the fields they allow, and the error that remains."""

import numpy as np
import pytest

import diffsim as ds
from surrogate import unresolved
from surrogate.unresolved import Prior

PLACES = (np.arange(10) + 0.5) / 10


def signs_of(prior: Prior, places: np.ndarray, count: int, rng) -> np.ndarray:
    basis, amplitudes = prior.basis(places), prior.amplitudes()
    return np.array([basis @ (rng.standard_normal(amplitudes.shape) * amplitudes) @ basis.T >= 0 for _ in range(count)])


def test_the_covariance_is_that_of_the_fields(rng):
    prior = Prior(5.0, 2.0, modes=24)
    basis, amplitudes = prior.basis(PLACES), prior.amplitudes()
    fields = np.array([(basis @ (rng.standard_normal((24, 24)) * amplitudes) @ basis.T).ravel() for _ in range(4000)])
    c = prior.covariance(PLACES, PLACES)
    # the standard error of a sample covariance is at most its largest variance times sqrt(2 / draws)
    assert np.abs(fields.T @ fields / 4000 - c).max() < 5 * c.max() * np.sqrt(2 / 4000)


def test_the_prior_of_signs_is_found_again(rng):
    planted = Prior(6.0, 2.4)
    found = unresolved.fitted(signs_of(planted, PLACES, 600, rng), PLACES)
    lags = lambda p: p.covariance(PLACES, PLACES)[45, 45 + 10 * np.arange(1, 5)] / p.covariance(PLACES, PLACES)[45, 45]  # noqa: E731
    np.testing.assert_allclose(lags(found), lags(planted), atol=0.06)


def test_draws_keep_the_samples_and_spread_as_rejection_does(rng):
    """Signs at the corners of a square: the field between them, against plain rejection."""
    prior, places = Prior(4.0, 2.0, modes=16), np.array([0.25, 0.75])
    phases = np.array([[[True, False], [False, True]]])
    drawn = unresolved.drawn(prior, phases, places, resolution=4, count=2000, sweeps=50)
    assert drawn.shape == (1, 2000, 4, 4)
    fine = (np.arange(4) + 0.5) / 4
    p, q, amplitudes = prior.basis(places), prior.basis(fine), prior.amplitudes()
    kept = []
    while len(kept) < 2000:
        modes = rng.standard_normal((16, 16)) * amplitudes
        if np.array_equal(p @ modes @ p.T >= 0, phases[0]):
            kept.append(q @ modes @ q.T >= 0)
    # two proportions of 2000 each differ by at most 5 standard errors
    assert np.abs(drawn[0].mean(axis=0) - np.mean(kept, axis=0)).max() < 5 * np.sqrt(0.5 / 2000)


def test_the_floor_is_none_where_nothing_is_open_and_large_where_much_is(rng):
    same = np.repeat(signs_of(Prior(5.0, 2.0), PLACES, 2, rng)[:, None], 4, axis=1)
    closed = unresolved.floor(same, (0.1, 1.0), PLACES)
    assert closed.error.max() < 1e-5 and closed.apart.max() < 1e-5
    open_ = unresolved.floor(rng.random((2, 12, 10, 10)) < 0.5, (0.1, 1.0), PLACES)
    assert open_.error.min() > 0.03
    # two draws lie sqrt(2) times further apart than one from the mean of all
    np.testing.assert_allclose(open_.apart / open_.error, np.sqrt(2), rtol=0.25)


def test_wrong_input_is_refused():
    with pytest.raises(ds.ProblemError, match="m >= 9"):
        unresolved.fitted(np.zeros((3, 4, 4), bool), np.linspace(0, 1, 4))
    with pytest.raises(ds.ProblemError, match="at least 3"):
        unresolved.floor(np.zeros((1, 2, 4, 4), bool), (1.0, 2.0), PLACES[:4])
