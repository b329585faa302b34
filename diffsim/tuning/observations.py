"""Records of sensors: where, when, and what they read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ProblemError


@dataclass(frozen=True, eq=False)
class Observations:
    """Values read at points.

    Parameters
    ----------
    points
        (n_points, ndim) coordinates; numbers in 1-D.
    times
        (n_times,) increasing, counted from the initial state [s].
    values
        (n_times, n_points); NaN where a reading is missing. (n_times,) for a single point.

    Raises
    ------
    ProblemError
        Where shapes disagree, times do not increase, or nothing was read.
    """

    points: np.ndarray
    times: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        try:
            points, times, values = (np.array(x, dtype=float) for x in (self.points, self.times, self.values))
        except (TypeError, ValueError):
            raise ProblemError("Observations hold entries that are not numbers, or rows of different length.") from None
        points = points.reshape(-1, 1) if points.ndim < 2 else points
        times = np.atleast_1d(times)
        values = values.reshape(-1, 1) if values.ndim < 2 and len(points) == 1 else values
        if times.ndim != 1 or times.size == 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise ProblemError(
                "Observations times must be finite and increase strictly, shape (n_times,); sort the record."
            )
        if points.ndim != 2 or not np.isfinite(points).all():
            raise ProblemError(
                f"Observations points have shape {points.shape}; give finite coordinates (n_points, ndim)."
            )
        if values.shape != (times.size, len(points)):
            raise ProblemError(
                f"Observations values have shape {values.shape}, but {times.size} times and {len(points)} points "
                f"need {(times.size, len(points))}."
            )
        if np.isinf(values).any() or np.isnan(values).all():
            raise ProblemError(
                "Observations values hold infinities, or no reading at all; mark missing readings by NaN."
            )
        for name, array in (("points", points), ("times", times), ("values", values)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def present(self) -> np.ndarray:
        """Bool (n_times, n_points): readings that are there."""
        return ~np.isnan(self.values)

    @property
    def count(self) -> int:
        """Number of readings."""
        return int(self.present.sum())
