"""The classic experiment: a rod with sensors along it, heated however one likes; its outer sensors drive the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..boundary import Dirichlet
from ..data import TimeSeries, number
from ..errors import ProblemError
from ..grid import Grid
from ..problem import Problem
from .fitting import Fit, fit
from .observations import Observations


def fit_rod(
    positions: Any,
    times: Any,
    readings: Any,
    ambient: float,
    rest: float | None = None,
    cells: int = 40,
) -> Fit:
    """Diffusivity and loss of a rod from the readings of three or more sensors along it.

    ``u_t = diffusivity u_xx - loss (u - ambient)`` between the outermost sensors, whose readings are the values at the
    ends; the sensors between are fitted. What heats the rod, and how, need not be known.

    Parameters
    ----------
    positions
        (n,) increasing [m].
    times
        (n_times,) increasing [s].
    readings
        (n_times, n); the outer two columns without gaps.
    ambient
        Temperature of the surroundings, and of the whole rod at the first time.
    rest
        Seconds from the first time during which the rod rests at `ambient`: each sensor's mean over them shows its
        offset, which is removed. None: sensors are trusted.
    cells
        Grid cells between the outer sensors.

    Returns
    -------
    Fit
        Parameters "diffusivity" [m^2/s] and "loss" [1/s].
    """
    positions, times, readings = (np.array(given, dtype=float) for given in (positions, times, readings))
    ambient = number("ambient", ambient)
    if positions.ndim != 1 or positions.size < 3 or (np.diff(positions) <= 0).any():
        raise ProblemError(f"positions = {positions}: give three or more sensors in increasing order.")
    if times.ndim != 1 or readings.shape != (times.size, positions.size):
        raise ProblemError(
            f"readings have shape {readings.shape}; {times.size} times and {positions.size} sensors need "
            f"{(times.size, positions.size)}."
        )
    times = times - times[0]
    if rest is not None:
        still = times <= number("rest", rest, least=0.0)
        readings = readings - np.nanmean(readings[still], axis=0) + ambient
    span, duration = positions[-1] - positions[0], times[-1]
    grid = Grid(shape=(cells,), lengths=(span,), origin=(positions[0],))
    ends = {"x-": Dirichlet(TimeSeries(times, readings[:, 0])), "x+": Dirichlet(TimeSeries(times, readings[:, -1]))}

    def of(theta: np.ndarray) -> Problem:
        return Problem(grid, diffusivity=theta[0], loss=theta[1], ambient=ambient, boundary=ends)

    record = Observations(positions[1:-1], times, readings[:, 1:-1])
    # some ten diffusion times, and a few loss times, in a record worth fitting
    return fit(of, ambient, record, guess=[10 * span**2 / duration, 3 / duration], names=("diffusivity", "loss"))
