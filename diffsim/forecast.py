"""From the early frames of a transient to where it settles, and when, without knowing what drives it.

Five classical methods. Four look at the frames alone, whatever they show (cells or a few sensors):

* "exponential": each point by itself, ``u_inf + b exp(-rate t)``, least squares;
* "aitken": the delta-squared formula on three frames (Aitken 1926);
* "reduced-rank": the combination of frames whose combined change is smallest (Eddy 1979; Mešina 1977);
* "dynamic-modes": rates common to all points from total-least-squares dynamic mode decomposition (Schmid 2010; Hemati et
  al. 2017), then ``u_inf + sum b_i exp(-rate_i t)`` by least squares.

The fifth knows the grid, the sides and the equation (`inverse`): ``u_t = div(D grad u) + f`` is linear in (D, f), so

* "linear-inverse": from whole fields, face conductances and sources by regularised least squares, then one solve; from a
  few sensors, smooth starts and sources and one factor for all coefficients.

All expect equally spaced frames with noise of one size, which they estimate when it is not given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from .data import number
from .errors import ProblemError
from .inverse import settled
from .problem import Problem

_SLOWEST = 0.1  # slowest rate believed, per duration observed: beyond it lies guesswork
_ALIKE = 2 / 3  # slowest rate of a single point relative to that of all points together
_RATES = 240  # trial rates of the per-point fit


@dataclass(frozen=True, eq=False)
class Forecast:
    """Where a transient settles.

    Attributes
    ----------
    u
        Predicted equilibrium, shape of a frame.
    rate
        Slowest decay that is still to come [1/s]; nan where the method gives none.
    method
        Its name.
    """

    u: np.ndarray
    rate: float
    method: str
    _times: np.ndarray = field(repr=False)
    _distances: np.ndarray = field(repr=False)  # of the frames from the prediction
    _last: np.ndarray = field(repr=False)  # the last frame, smoothed over the last few

    def at(self, times: ArrayLike) -> np.ndarray:
        """Values at later `times`, (n, ...): the last frame's distance to the equilibrium decays at `rate`."""
        later = np.atleast_1d(np.array(times, dtype=float)) - self._times[-1]
        if later.size and later.min() < 0:
            raise ProblemError(
                f"times start at {later.min() + self._times[-1]:g}, before the last frame at {self._times[-1]:g}."
            )
        decay = np.exp(-np.multiply.outer(later, self.rate if self.rate > 0 else 0.0))
        return self.u + decay.reshape(-1, *(1,) * self.u.ndim) * (self._last - self.u)

    def time(self, tol: float = 1e-3) -> float:
        """Time [s] at which the distance to the equilibrium has fallen to `tol` of that of the first frame."""
        tol = number("tol", tol, above=0.0)
        relative = self._distances / (self._distances[0] or 1.0)
        if relative[-1] <= tol:
            return float(self._times[int(np.argmax(relative <= tol))])
        return float(self._times[-1] + math.log(relative[-1] / tol) / self.rate) if self.rate > 0 else math.inf


def forecast(
    times: ArrayLike,
    frames: ArrayLike,
    method: str = "dynamic-modes",
    noise: float | None = None,
    problem: Problem | None = None,
) -> Forecast:
    """Predict the equilibrium, and the time to it, from early frames.

    Parameters
    ----------
    times
        (k,) equally spaced, k >= 3 (4 for "dynamic-modes") [s].
    frames
        (k, ...) readings of sensors or whole fields; NaN (voids) stays NaN. For "linear-inverse" (k, *grid shape): cells that
        hold NaN in all frames and are no voids have no sensor, and the answer holds them too.
    method
        One of `METHODS`.
    noise
        Standard deviation of the readings; None: estimated from their roughness in time.
    problem
        For "linear-inverse": grid, sides, capacity and loss as known; its diffusivity and source are only the prior.

    Raises
    ------
    ProblemError
        For unequal times, too few frames, or an unknown method.
    """
    times, frames = np.array(times, dtype=float), np.array(frames, dtype=float)
    if method not in METHODS:
        raise ProblemError(f"method = {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    least = 4 if method == "dynamic-modes" else 3
    if times.ndim != 1 or times.size < least or frames.ndim < 2 or len(frames) != times.size:
        raise ProblemError(
            f"{times.size} times and frames of shape {frames.shape}: give {least} or more, (k,) and (k, ...)."
        )
    steps = np.diff(times)
    if not np.isfinite(times).all() or (steps <= 0).any() or np.ptp(steps) > 1e-6 * steps[0]:
        raise ProblemError("times must be finite, increasing and equally spaced; resample the record.")
    gaps = np.isnan(frames).all(axis=0)
    if gaps.all() or not np.isfinite(frames[:, ~gaps]).all():
        raise ProblemError(
            "frames hold infinities, readings that come and go, or nothing: fill or drop such points first."
        )
    flat = frames[:, ~gaps]
    noise = roughness(flat) if noise is None else number("noise", noise, least=0.0)
    if method == "linear-inverse":
        if not isinstance(problem, Problem):
            raise ProblemError(
                "method = 'linear-inverse' needs problem=: grid, sides and capacity, with D and source as prior."
            )
        result, rate, last = settled(problem, times, frames, noise)
        values = result[~gaps]
    else:
        values, rate = METHODS[method](times - times[0], flat, noise)
        result, last = np.full(frames.shape[1:], np.nan), np.full(frames.shape[1:], np.nan)
        result[~gaps] = values
    distances = np.sqrt(np.mean((flat - values) ** 2, axis=1))
    # a parabola through the last frames: their noise is averaged, their bend is not
    few = min(times.size, max(4, times.size // 3))
    last[~gaps] = _end_of_parabola(flat[-few:]) if few >= 4 else flat[-1]
    return Forecast(result, rate, method, times, distances, last)


def _end_of_parabola(frames: np.ndarray) -> np.ndarray:
    x = np.linspace(-1.0, 0.0, len(frames))
    return np.linalg.lstsq(np.column_stack([np.ones_like(x), x, x * x]), frames, rcond=None)[0][0]


def roughness(frames: np.ndarray) -> float:
    """Noise of (k, n) readings from their p-th differences, ``std / sqrt(binomial(2p, p))``: smooth decay leaves little there."""
    p = min(4, len(frames) - 1)
    return float(np.sqrt(np.mean(np.diff(frames, n=p, axis=0) ** 2) / math.comb(2 * p, p)))


# --- from the frames alone --------------------------------------------------------------------------------------------


def _exponential(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    # early frames hold fast modes, which bend a single exponential the wrong way
    start = min(t.size // 2, t.size - 4) if t.size > 4 else 0
    t, u = t[start:] - t[start], u[start:]
    duration = t[-1]
    trial = np.geomspace(_SLOWEST / duration, 3.0 / t[1], _RATES)
    decays = np.exp(-trial[:, None] * t)
    decays -= decays.mean(axis=1, keepdims=True)
    power = (decays**2).sum(axis=1)[:, None]
    centred = u - u.mean(axis=0)
    slopes = decays @ centred / power
    # what is left of each point for each rate: the total less what the fit explains
    left = (centred**2).sum(axis=0) - slopes**2 * power
    together = trial[int(np.argmin(left.sum(axis=1)))]
    left[trial < _ALIKE * together] = np.inf  # no point is far slower than all of them
    best = np.argmin(left, axis=0)
    points = np.arange(u.shape[1])
    moved = (centred**2).sum(axis=0) > 4 * noise**2 * t.size  # a point that only trembles has settled
    end = u.mean(axis=0) - slopes[best, points] * np.exp(-trial[best][:, None] * t).mean(axis=1)
    return np.where(moved, end, u[-max(1, t.size // 3) :].mean(axis=0)), float(together) if moved.any() else math.nan


def _aitken(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    stride = (t.size - 1) // 2  # frames as far apart as can be: differences of neighbours are mostly noise
    first, middle, last = u[-1 - 2 * stride], u[-1 - stride], u[-1]
    before, after = middle - first, last - middle
    span = stride * t[1]
    size = float(before @ before)
    together = np.clip(float(after @ before) / size if size else 0.0, 0.0, math.exp(-_SLOWEST * span / t[-1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.clip(np.nan_to_num(after / before), 0.0, together**_ALIKE)
    ratio = np.where(np.abs(before) > 3 * noise, ratio, 0.0)
    return last + after * ratio / (1 - ratio), -math.log(together) / span if together > 0 else math.nan


def _lag(count: int) -> int:
    """Frames between those that are subtracted: a quarter of the record, for changes larger than their noise."""
    return max(1, count // 4)


def _reduced_rank(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    lag = _lag(t.size)
    changes = u[lag:] - u[:-lag]
    gram = changes @ changes.T
    # noise of variance 2 noise^2 per entry would be amplified by large weights of opposite sign
    penalty = 2 * noise**2 * u.shape[1] + 1e-13 * float(np.trace(gram))
    if penalty == 0:
        return u[-1], math.nan
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), np.ones(len(gram)))
    return weights @ u[lag:] / weights.sum(), _last_rate(t, changes)


def _dynamic_modes(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    lag = _lag(t.size)
    changes = (u[lag:] - u[:-lag]).T  # (n, k - lag)
    vectors, size, _ = np.linalg.svd(changes, full_matrices=False)
    # the largest singular value that noise alone would have (Davidson & Szarek 2001)
    floor = math.sqrt(2) * noise * (math.sqrt(changes.shape[0]) + math.sqrt(changes.shape[1])) + 1e-10 * size[0]
    # total least squares needs two pairs of changes per mode
    pairs = changes.shape[1] - lag
    rank = max(1, min(int((size > 1.5 * floor).sum()), changes.shape[0], pairs // 2 or 1))
    basis = vectors[:, :rank]
    before, after = basis.T @ changes[:, :-lag], basis.T @ changes[:, lag:]
    _, _, rows = np.linalg.svd(np.concatenate([before, after]), full_matrices=False)
    kept = rows[:rank].T @ rows[:rank]
    propagator = after @ kept @ np.linalg.pinv(before @ kept, rcond=1e-10)
    step = lag * t[1]
    factors = np.linalg.eigvals(propagator).real  # diffusion only decays: real and between 0 and 1
    factors = np.clip(factors, math.exp(-5.0 * lag), math.exp(-_SLOWEST * step / t[-1]))
    rates = np.unique(np.round(-np.log(factors) / step, 12))
    design = np.column_stack([np.ones(t.size), *(np.exp(-rate * t) for rate in rates)])
    end = np.linalg.lstsq(design, u, rcond=1e-9)[0][0]
    return end, float(rates.min())


def _last_rate(t: np.ndarray, changes: np.ndarray) -> float:
    """Rate from the sizes of the last changes."""
    half = max(1, len(changes) // 2)
    early, late = (float(np.sqrt((part**2).mean())) for part in (changes[:half], changes[-half:]))
    gap = (len(changes) - half) * t[1]
    return math.log(early / late) / gap if gap > 0 and early > late > 0 else math.nan


METHODS: dict[str, Callable] = {
    "exponential": _exponential,
    "aitken": _aitken,
    "reduced-rank": _reduced_rank,
    "dynamic-modes": _dynamic_modes,
    "linear-inverse": settled,
}
