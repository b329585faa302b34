"""A measured rod, heated in pulses: each later part from the first, by every method that applies.

Nothing is learned from the record itself. The equation knows a rod with a handbook's diffusivity and loss to the room; the
Gaussian estimate knows simulated rods whose diffusivity, loss, heating and start are drawn at random. The network was trained
on plates and is not asked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffsim.boundary import Neumann
from diffsim.forecast import METHODS, forecast
from diffsim.grid import Grid
from diffsim.problem import Problem

from .gaussian import Gaussians, learn

CELLS = 30
DIFFUSIVITY = (4e-5, 1.2e-4)  # [m^2/s] of aluminium and its alloys
LOSS = (3e-4, 3e-3)  # [1/s] of a rod 2 cm thick in still to moving air


@dataclass(frozen=True, eq=False)
class Rod:
    """Sensors along a rod.

    Attributes
    ----------
    length
        [m]
    positions
        (n,) of the sensors [m].
    room
        Temperature of the surroundings.
    """

    length: float
    positions: np.ndarray
    room: float

    @property
    def grid(self) -> Grid:
        """Cells along the rod."""
        return Grid(shape=(CELLS,), lengths=(self.length,))

    def placed(self, readings: np.ndarray) -> np.ndarray:
        """Readings (k, n) above the room as frames (k, CELLS), NaN between the sensors."""
        frames = np.full((len(readings), CELLS), np.nan)
        frames[:, [self.grid.locate((x,))[0] for x in self.positions]] = readings - self.room
        return frames

    def prior(self) -> Problem:
        """A rod of middling diffusivity and loss, nothing known of what heats it; temperatures above the room."""
        return Problem(self.grid, math.sqrt(math.prod(DIFFUSIVITY)), loss=math.sqrt(math.prod(LOSS)))

    def simulated(self, count: int = 300, seed: int = 0) -> Gaussians:
        """Second moments of random rods, heated at one end, from starts that are warmer towards it."""
        rng = np.random.default_rng(seed)
        x = self.grid.centers[0] / self.length
        problems, starts = [], []
        for _ in range(count):
            diffusivity, loss = (math.exp(rng.uniform(*np.log(limits))) for limits in (DIFFUSIVITY, LOSS))
            # a flux that would warm the whole rod by about one degree in a time of its loss
            flux = Neumann(abs(rng.normal()) * loss * self.length)
            problems.append(Problem(self.grid, diffusivity, loss=loss, boundary={"x-": flux}))
            starts.append(rng.normal() * 0.5 + rng.normal() * 0.2 * np.cos(math.pi * x))
        return learn(problems, starts)


def continued(
    rod: Rod, times: np.ndarray, readings: np.ndarray, seen: int, gaussians: Gaussians | None = None
) -> dict[str, float]:
    """Root mean square errors of the readings after the first `seen`, forecast from these, per method.

    Parameters
    ----------
    times, readings
        (k,) equally spaced [s], (k, sensors).
    gaussians
        From `Rod.simulated`; None leaves "learned-linear" out.
    """
    early, later = times[:seen] - times[0], times[seen:] - times[0]
    truth, frames = readings[seen:], rod.placed(readings[:seen])
    where = ~np.isnan(frames[0])
    error = lambda made: float(np.sqrt(np.mean((made - truth) ** 2)))  # noqa: E731
    errors = {"last frame": error(readings[seen - 1])}
    for name in METHODS:
        known = name == "linear-inverse"
        made = forecast(early, frames if known else frames[:, where], name, problem=rod.prior() if known else None)
        errors[name] = error(rod.room + (made.at(later)[:, where] if known else made.at(later)))
    if gaussians is not None:
        errors["learned-linear"] = error(rod.room + gaussians.given(early, frames).forecast().at(later)[:, where])
    return errors


def without_offsets(times: Sequence[float], readings: np.ndarray, rest: float, room: float) -> np.ndarray:
    """Readings shifted so that each sensor shows the room's temperature, on average, before `rest`."""
    return readings - readings[np.asarray(times) <= rest].mean(axis=0) + room
