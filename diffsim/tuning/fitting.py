"""Fit coefficients to records of sensors: least squares, intervals that cover, and words where the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data import number
from ..errors import ProblemError
from .leastsquares import Solution, checked_guess, solve
from .observations import Observations
from .regularised import solve_many
from .sensitivity import Model

_MANY = 20  # parameters beyond which one adjoint run costs less than a sensitivity each, and data seldom tell them all


@dataclass(frozen=True, eq=False)
class Fit:
    """Parameters that fit a record.

    Attributes
    ----------
    value
        (p,) parameters.
    interval
        (p, 2) 95 % intervals from the linearised least-squares problem with Student's t; infinite where the data
        hold nothing about a parameter.
    rms
        Root mean square of the residuals, in units of the readings.
    predicted
        (n_times, n_points) readings of the fitted model.
    covariance
        (p, p), of the parameters themselves (first order).
    correlation
        (p, p) of the estimates.
    notes
        Sentences on what the data cannot tell.
    route
        "modes" | "stepping" (sensitivity equations) | "adjoint" (many parameters: one run backwards for all) |
        "differences" (whole runs differenced: D depends on u or t).
    """

    value: np.ndarray
    interval: np.ndarray
    rms: float
    predicted: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    observations: Observations
    names: tuple[str, ...]
    notes: tuple[str, ...]
    route: str
    evaluations: int
    message: str = field(default="", repr=False)

    @property
    def residual(self) -> np.ndarray:
        """Readings minus predictions, (n_times, n_points); NaN where missing."""
        return self.observations.values - self.predicted

    def explain(self) -> str:
        """Values with intervals, how well they fit, and what the data cannot tell."""
        lines = [
            f"{name} = {value:.5g}, 95 % interval {low:.4g} to {high:.4g}"
            for name, value, (low, high) in zip(self.names, self.value, self.interval, strict=True)
        ]
        how = {
            "modes": "sensitivities exact in time from the eigenvectors",
            "stepping": "sensitivity equations stepped with the state",
            "adjoint": "gradients by the adjoint of the steps",
            "differences": "central differences of whole runs, because D depends on u or t",
        }[self.route]
        count = self.observations.count
        lines.append(f"{count} readings, rms residual {self.rms:.3g}; {self.evaluations} evaluations; {how}.")
        return "\n".join([*lines, *self.notes])

    def plot(self, path: str | Path | None = None):
        """Readings with the fitted curves, and the residuals below; returns the matplotlib Figure."""
        from .pictures import fit_picture

        return fit_picture(self, path)


def fit(
    problem_of: Callable[[np.ndarray], Any],
    initial: Any,
    observations: Observations,
    guess: Sequence[float] | np.ndarray,
    bounds: Any = None,
    names: Sequence[str] | None = None,
    smooth: Sequence[int] | None = None,
    noise: float | None = None,
) -> Fit:
    """Find the parameters whose problem predicts the readings best, in the sense of least squares.

    The derivatives come from the sensitivity equations of the discrete problem, not from differences of runs (except
    where D depends on u or t, which the result says). A parameter whose guess is positive is searched on a logarithmic
    scale, unless its bounds reach below zero.

    More than 20 parameters, or a field with `smooth`, are more than most records can tell. Then gradients come from the
    adjoint of the run, two runs for all of them, and a penalty on roughness (without `smooth`: on the distance from the
    guess) is weighed by the data; the result says how many combinations of the parameters the readings determine.

    Parameters
    ----------
    problem_of
        Function of theta, (p,), that returns a `Problem`; the grid must not change with theta.
    initial
        State at t = 0: number, array, callable(x, y, ...), or a `Trajectory`.
    observations
        What was read.
    guess
        (p,) starting values.
    bounds
        (low, high), numbers or (p,) each; None: no bounds but the sign of a positive guess.
    names
        p names for the texts.
    smooth
        Shape of the coarse field that the first parameters are, in C order: neighbours in it are held alike.
    noise
        Standard deviation of the readings, where known: the penalty is then that of least expected error (Mallows); None:
        by generalised cross-validation.

    Raises
    ------
    ProblemError
        Where there are fewer readings than parameters, or the guess is outside its bounds.
    ConvergenceError
        Where the search ends without having settled.
    """
    if not isinstance(observations, Observations):
        raise ProblemError(f"observations = {type(observations).__name__}; give Observations(points, times, values).")
    many = smooth is not None or np.size(guess) > _MANY
    guess, names = checked_guess(guess, names, observations.count, penalised=many)
    model = Model(problem_of, initial, observations, guess, always_stepping=many)
    if many and model.route == "stepping" and model.posed(guess).operator.cross is None:
        noise = None if noise is None else number("noise", noise, above=0.0)
        found = solve_many(model, guess, bounds, names, smooth, noise)
        while model.refine(found.value):
            found = solve_many(model, found.value, bounds, names, smooth, noise)
        model.route = "adjoint"
        return _concluded(model, found, observations, names, model(found.value, derivatives=False)[0])
    if many and (smooth is not None or observations.count <= guess.size):
        raise ProblemError(
            f"{guess.size} parameters for {observations.count} readings need a penalty, and that needs D that depends "
            "neither on u nor on t and is no full tensor; give fewer parameters."
        )
    if noise is not None:
        raise ProblemError(
            f"noise = {noise} weighs the penalty on many parameters, and there is none here; give smooth, or leave it out."
        )
    present = observations.present
    values = observations.values[present]

    def residual(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        readings, slopes = model(theta)
        assert slopes is not None
        return readings[present] - values, slopes[present]

    found = solve(residual, guess, bounds, names)
    while model.refine(found.value):  # the step that was fine enough at the guess is not at the end
        found = solve(residual, found.value, bounds, names)
    return _concluded(model, found, observations, names, model(found.value, derivatives=False)[0])


def _concluded(
    model: Model, found: Solution, observations: Observations, names: tuple[str, ...], predicted: np.ndarray
) -> Fit:
    return Fit(
        value=found.value,
        interval=found.interval,
        rms=found.rms,
        predicted=predicted,
        covariance=found.covariance,
        correlation=found.correlation,
        observations=observations,
        names=names,
        notes=(*found.notes, *_memory(observations.values - predicted)),
        route=model.route,
        evaluations=model.evaluations,
        message=found.message,
    )


def _memory(residual: np.ndarray) -> tuple[str, ...]:
    """A warning where successive residuals of a sensor resemble each other: intervals count them as independent."""
    centred = residual - np.nanmean(residual)
    pairs = centred[1:] * centred[:-1]
    count = int((~np.isnan(pairs)).sum())
    if count < 30:
        return ()
    r = float(np.nansum(pairs) / count / np.nanmean(centred**2)) if np.nanmax(np.abs(centred)) > 0 else 0.0
    if r < max(0.2, 4 / math.sqrt(count)):
        return ()
    wider = math.sqrt((1 + r) / (1 - min(r, 0.99)))
    return (
        f"Successive residuals are alike (correlation {r:.2f}): the model or the sensors have a systematic error, and the "
        f"intervals should be about {wider:.2g} times wider.",
    )
