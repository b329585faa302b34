"""What is seen of a trajectory, as frames over all cells: sensors placed on the grid, gaps filled harmonically."""

import numpy as np

import diffsim
from diffsim.errors import ProblemError
from diffsim.grid import Grid
from diffsim.problem import Problem


def frames_of(observations, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(times (k,), frames (k, *shape)) from `diffsim.Observations`; cells without a sensor are filled.

    Raises
    ------
    ProblemError
        Where a sensor lies outside the grid, or the values do not fit points and times.
    """
    times, frames = placed(observations, grid)
    return times, filled(frames, grid)


def placed(observations, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(times (k,), frames (k, *shape)) from `diffsim.Observations`; NaN where nothing was read.

    Sensors in one cell are averaged.

    Raises
    ------
    ProblemError
        Where a sensor lies outside the grid, or the values do not fit points and times.
    """
    times = np.asarray(observations.times, dtype=float)
    values = np.asarray(observations.values, dtype=float)
    cells = [np.ravel_multi_index(grid.locate(point), grid.shape) for point in observations.points]
    if values.shape != (len(times), len(cells)):
        raise ProblemError(
            f"the observations hold values of shape {values.shape} for {len(times)} times and {len(cells)} points; "
            "give (times, points)."
        )
    sums = lambda row: np.bincount(cells, weights=row, minlength=grid.size)  # noqa: E731
    count = np.stack([sums(row) for row in (~np.isnan(values)).astype(float)])
    total = np.stack([sums(row) for row in np.nan_to_num(values)])
    frames = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return times, frames.reshape(len(times), *grid.shape)


def filled(frames: np.ndarray, grid: Grid) -> np.ndarray:
    """Frames whose unseen cells (NaN in every frame) take the smoothest field through the seen ones: Laplace's equation."""
    seen = ~np.isnan(frames).any(axis=0)
    if seen.all():
        return frames
    if not seen.any():
        raise ProblemError("the frames hold no cell that is seen at all times; give at least one sensor.")
    known = [np.where(seen, frame, 0.0) for frame in frames]
    problems = [Problem(grid, diffusivity=1.0, fixed=(seen, values)) for values in known]
    return np.stack([solution.u for solution in diffsim.equilibrium(problems, tol=1e-6)])
