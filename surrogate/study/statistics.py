"""Paired comparisons over seeds, with intervals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """How one variant compares with another on the same seeds.

    Attributes
    ----------
    ratio
        Geometric mean of a / b over the seeds.
    low, high
        Its 95 % interval (Student's t on the logarithms of the pairs).
    seeds
        Pairs compared: those where both are finite.
    lost
        Seeds where only a failed (was not finite), and `won`: where only b did.
    """

    ratio: float
    low: float
    high: float
    seeds: int
    lost: int = 0
    won: int = 0

    @property
    def smaller(self) -> bool:
        """a is smaller than b, beyond chance."""
        return self.high < 1

    @property
    def larger(self) -> bool:
        """a is larger than b, beyond chance."""
        return self.low > 1

    def within(self, factor: float) -> bool:
        """a and b agree to that factor, beyond chance: the interval lies in [1/factor, factor]."""
        return 1 / factor <= self.low and self.high <= factor

    def __str__(self) -> str:
        if not self.seeds:
            return "no finite pair"
        return f"{self.ratio:.3g} [{self.low:.3g}, {self.high:.3g}]"


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """a against b, both by seed, both positive (`Records.by_seed`).

    One pair, or pairs of no spread at all, have no interval to speak of: one pair gives (0, inf).
    """
    from scipy.stats import t

    common = sorted(set(a) & set(b))
    logs = np.array([math.log(a[s] / b[s]) for s in common if _usable(a[s]) and _usable(b[s])])
    lost = sum(_usable(b[s]) and not _usable(a[s]) for s in common)
    won = sum(_usable(a[s]) and not _usable(b[s]) for s in common)
    if len(logs) == 0:
        return Comparison(math.nan, 0.0, math.inf, 0, lost, won)
    mean = float(logs.mean())
    if len(logs) == 1:
        return Comparison(math.exp(mean), 0.0, math.inf, 1, lost, won)
    half = float(t.ppf(0.5 + LEVEL / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return Comparison(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs), lost, won)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % interval of (n,) numbers, n >= 2, by Student's t; NaN are left out."""
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else math.nan
        return mean, -math.inf, math.inf
    half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation as text; failures (NaN) are counted apart."""
    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "all failed"
    text = f"{finite.mean():.3g}" + (f" ± {finite.std(ddof=1):.1g}" if len(finite) > 1 else "")
    return text + (f" ({len(values) - len(finite)} failed)" if len(finite) < len(values) else "")


def _usable(x: float) -> bool:
    return math.isfinite(x) and x > 0
