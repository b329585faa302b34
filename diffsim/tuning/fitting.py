"""Fit coefficients to records of sensors: least squares, intervals that cover, and words where the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConvergenceError, ProblemError
from .observations import Observations
from .sensitivity import Model

_CONFIDENCE = 0.95
_INFLATED = 10.0  # an interval this much wider than with the other parameters known: the data mix them up
_SINGULAR = 1e-7  # relative singular value below which a combination of parameters leaves no trace


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
        "modes" | "stepping" (sensitivity equations) | "differences" (whole runs differenced: D depends on u or t).
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
) -> Fit:
    """Find the parameters whose problem predicts the readings best, in the sense of least squares.

    The derivatives come from the sensitivity equations of the discrete problem, not from differences of runs (except
    where D depends on u or t, which the result says). A parameter whose guess is positive is searched on a logarithmic
    scale, unless its bounds reach below zero.

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

    Raises
    ------
    ProblemError
        Where there are fewer readings than parameters, or the guess is outside its bounds.
    ConvergenceError
        Where the search ends without having settled.
    """
    from scipy.optimize import least_squares

    if not isinstance(observations, Observations):
        raise ProblemError(f"observations = {type(observations).__name__}; give Observations(points, times, values).")
    guess = np.atleast_1d(np.array(guess, dtype=float))
    if guess.ndim != 1 or guess.size == 0 or not np.isfinite(guess).all():
        raise ProblemError(f"guess = {guess}: give one finite number per parameter.")
    names = tuple(names) if names is not None else tuple(f"theta[{j}]" for j in range(guess.size))
    if len(names) != guess.size:
        raise ProblemError(f"{len(names)} names for {guess.size} parameters; give one each.")
    if observations.count <= guess.size:
        raise ProblemError(
            f"{observations.count} readings cannot fix {guess.size} parameters with an interval; give more readings."
        )
    scale = _Scale(guess, bounds)
    model = Model(problem_of, initial, observations, guess)
    present = observations.present
    cache: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def evaluate(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (key := q.tobytes()) not in cache:
            cache.clear()
            theta = scale.parameters(q)
            readings, slopes = model(theta)
            assert slopes is not None
            cache[key] = (
                (readings - np.nan_to_num(observations.values))[present],
                slopes[present] * scale.derivative(theta),
            )
        return cache[key]

    found = least_squares(
        lambda q: evaluate(q)[0],
        scale.start,
        jac=lambda q: evaluate(q)[1],
        bounds=scale.limits,
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    if found.status <= 0:
        raise ConvergenceError(f"the fit did not settle: {found.message} Start closer, or give bounds.")
    theta = scale.parameters(found.x)
    residual, jacobian = evaluate(found.x)
    half, covariance, correlation, notes = _uncertainty(residual, jacobian, names, scale.logarithmic)
    low, high = (scale.parameters(found.x + sign * half) for sign in (-1, 1))
    natural = scale.derivative(theta)
    return Fit(
        value=theta,
        interval=np.stack([low, high], axis=1),
        rms=float(np.sqrt(np.mean(residual**2))),
        predicted=model(theta, derivatives=False)[0],
        covariance=covariance * np.outer(natural, natural),
        correlation=correlation,
        observations=observations,
        names=names,
        notes=notes,
        route=model.route,
        evaluations=model.evaluations,
        message=str(found.message),
    )


class _Scale:
    """Internal coordinates: logarithms of positive parameters, others in units of their guess."""

    def __init__(self, guess: np.ndarray, bounds: Any):
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        try:
            low, high = (np.broadcast_to(np.asarray(x, dtype=float), guess.shape) for x in (low, high))
        except ValueError:
            raise ProblemError(
                f"bounds do not fit {guess.size} parameters; give (low, high), numbers or one per parameter."
            ) from None
        if not ((low <= guess) & (guess <= high) & (low < high)).all():
            raise ProblemError(f"guess = {guess} must lie within its bounds {low} to {high}, and low below high.")
        self.logarithmic = (guess > 0) & ((low >= 0) | (bounds is None))
        self.unit = np.where(self.logarithmic | (guess == 0), 1.0, np.abs(guess))
        self.start = self.internal(guess)
        self.limits = (self.internal(low), self.internal(high))

    def internal(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.logarithmic, np.log(np.maximum(theta, 0.0)), theta / self.unit)

    def parameters(self, q: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.where(self.logarithmic, np.exp(np.where(self.logarithmic, q, 0.0)), q * self.unit)

    def derivative(self, theta: np.ndarray) -> np.ndarray:
        """d theta / d q."""
        return np.where(self.logarithmic, theta, self.unit)


def _uncertainty(residual: np.ndarray, jacobian: np.ndarray, names: tuple[str, ...], logarithmic: np.ndarray):
    """(half widths, covariance, correlation, notes) in internal coordinates."""
    from scipy.special import stdtrit

    n, p = jacobian.shape
    freedom = n - p
    deviation = math.sqrt(float(residual @ residual) / freedom)
    norms = np.linalg.norm(jacobian, axis=0)
    blind = norms <= 1e-12 * max(float(norms.max()), 1e-300)
    scaled = jacobian / np.where(blind, 1.0, norms)
    _, singular, turned = np.linalg.svd(scaled, full_matrices=False)
    kept = singular > _SINGULAR * singular[0]
    lost = turned[~kept]
    inverse = (turned[kept].T / singular[kept] ** 2) @ turned[kept]
    unknown = blind | (np.abs(lost) > 1e-3).any(axis=0) if len(lost) else blind
    deviations = deviation * np.sqrt(np.diag(inverse)) / np.where(blind, 1.0, norms)
    covariance = deviation**2 * inverse / np.outer(np.where(blind, 1.0, norms), np.where(blind, 1.0, norms))
    covariance[unknown, :] = covariance[:, unknown] = 0.0
    covariance[unknown, unknown] = np.inf
    root = np.sqrt(np.maximum(np.diag(inverse), 1e-300))
    correlation = inverse / np.outer(root, root)
    half = np.where(unknown, np.inf, stdtrit(freedom, 0.5 + _CONFIDENCE / 2) * deviations)
    notes = [f"The readings do not depend on {names[j]}: they hold nothing about it." for j in np.flatnonzero(blind)]
    inflation = np.sqrt(np.diag(inverse))
    if len(lost) or (inflation > _INFLATED).any():
        notes += _mixed(turned[-1] / np.where(blind, np.inf, norms), inflation, names, logarithmic, bool(len(lost)))
    for j in range(p):
        if not unknown[j] and logarithmic[j] and half[j] > math.log(2):
            notes.append(f"{names[j]} is known to no better than a factor of {math.exp(half[j]):.2g}.")
    return half, covariance, correlation, tuple(notes)


def _mixed(
    direction: np.ndarray, inflation: np.ndarray, names: tuple[str, ...], logarithmic: np.ndarray, lost: bool
) -> list[str]:
    """The sentence about parameters that stand in for each other; `direction` is the change that leaves least trace."""
    largest = float(np.abs(direction).max())
    involved = [j for j in range(len(names)) if abs(direction[j]) > 0.05 * largest]
    if len(involved) < 2:
        return []
    lead = involved[int(np.argmax(np.abs(direction[involved])))]
    step = direction / direction[lead] * 0.1

    def change(j: int) -> str:
        amount = f"{100 * math.expm1(step[j]):+.3g} %" if logarithmic[j] else f"{step[j]:+.3g} of its guess"
        return f"{names[j]} by {amount}"

    trade = " and ".join(change(j) for j in involved)
    which = " and ".join(names[j] for j in involved)
    if lost:
        return [
            f"The data cannot tell {which} apart: changing {trade} leaves every prediction as it is. "
            "Fix one of them, or fit their combination."
        ]
    worst = max(inflation[j] for j in involved)
    return [
        f"The data hardly tell {which} apart: changing {trade} moves the predictions very little, and the intervals are up to "
        f"{worst:.2g} times wider than with the others known."
    ]
