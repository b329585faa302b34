"""Intervals from held-out errors that cover as often as they say, whatever the model: split conformal prediction.

They hold for items drawn like the held-out ones, on average over both, and guarantee nothing for a single item. The
held-out items must not have been used for training or for choosing a model: errors on those are too small.

Sources: V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World (2005), for quantiles; A. Angelopoulos, S.
Bates, A. Fisch, L. Lei, T. Schuster, Conformal Risk Control (2022), for shares of cells.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from diffsim.data import number
from diffsim.errors import ProblemError


def quantile(scores: ArrayLike, level: float) -> float:
    """A number that the score of the next item stays below with a probability of at least `level`.

    Parameters
    ----------
    scores
        (n,) of held-out items, exchangeable with the next one; NaN counts as infinite.

    Returns
    -------
    float
        The ceil(level (n + 1))-th smallest; infinite where n is too small for the level.
    """
    ordered = np.sort(_scores(scores, 1))
    rank = math.ceil(_level(level) * (ordered.size + 1) * (1 - 1e-12))
    return float(ordered[rank - 1]) if rank <= ordered.size else math.inf


def share_quantile(scores: ArrayLike, level: float) -> float:
    """A number that, in expectation, a share of at least `level` of the next item's entries stays below.

    Parameters
    ----------
    scores
        (n, m): m entries of each held-out item, which may depend on each other in any way.

    Returns
    -------
    float
        The smallest score q with ``(sum over items of the share above q + 1) / (n + 1) <= 1 - level``; infinite where n is
        too small.
    """
    table = _scores(scores, 2)
    n, m = table.shape
    allowed = (1 - _level(level)) * (n + 1) - 1  # sum over items of the shares that may lie above
    ordered = np.sort(table, axis=None)
    above = math.floor(allowed * m * (1 + 1e-12) + 1e-9)
    if above < 0:
        return math.inf
    return float(ordered[max(ordered.size - 1 - above, 0)])


def coverage_band(level: float, held_out: int, new: int, confidence: float = 0.998) -> tuple[int, int]:
    """Between which counts, of `new` items, those covered at `level` lie with that confidence when the promise is kept.

    With n held-out items the coverage of one calibration is itself random, Beta(k, n + 1 - k) for k = ceil(level (n + 1));
    the count is then beta-binomial.
    """
    from scipy.stats import betabinom

    rank = math.ceil(_level(level) * (held_out + 1) * (1 - 1e-12))
    law = betabinom(new, rank, held_out + 1 - rank)
    tail = (1 - confidence) / 2
    return int(law.ppf(tail)), int(law.ppf(1 - tail))


def _level(level: float) -> float:
    level = number("level", level, above=0.0)
    if level >= 1:
        raise ProblemError(f"level = {level:g}: an interval that always covers is infinite; give a level below 1.")
    return level


def _scores(scores: ArrayLike, ndim: int) -> np.ndarray:
    array = np.asarray(scores, dtype=float)
    if array.ndim != ndim or array.size == 0:
        raise ProblemError(
            f"scores have shape {array.shape}; give {'(n,)' if ndim == 1 else '(n, m)'}, one row per held-out item."
        )
    return np.where(np.isnan(array), np.inf, array)
