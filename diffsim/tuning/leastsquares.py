"""Nonlinear least squares with intervals that cover, and words where the data cannot tell parameters apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConvergenceError, ProblemError

CONFIDENCE = 0.95
_INFLATED = 10.0  # an interval this much wider than with the other parameters known: the data mix them up
_SINGULAR = 1e-7  # relative singular value below which a combination of parameters leaves no trace


@dataclass(frozen=True, eq=False)
class Solution:
    """Where a search settled: parameters, 95 % intervals, and what is known about them."""

    value: np.ndarray
    interval: np.ndarray
    residual: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    notes: tuple[str, ...]
    message: str

    @property
    def rms(self) -> float:
        """Root mean square of the residual."""
        return float(np.sqrt(np.mean(self.residual**2)))


def checked_guess(
    guess: Any, names: Sequence[str] | None, readings: int, penalised: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The guess as an array and one name per parameter; where nothing is penalised, readings must outnumber them."""
    guess = np.atleast_1d(np.array(guess, dtype=float))
    if guess.ndim != 1 or guess.size == 0 or not np.isfinite(guess).all():
        raise ProblemError(f"guess = {guess}: give one finite number per parameter.")
    names = tuple(names) if names is not None else tuple(f"theta[{j}]" for j in range(guess.size))
    if len(names) != guess.size:
        raise ProblemError(f"{len(names)} names for {guess.size} parameters; give one each.")
    if readings <= guess.size and not penalised:
        raise ProblemError(
            f"{readings} readings cannot fix {guess.size} parameters with an interval; give more readings."
        )
    return guess, names


def solve(
    model: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    guess: np.ndarray,
    bounds: Any,
    names: tuple[str, ...],
) -> Solution:
    """Minimise the squares of ``model(theta) -> (residual (n,), d residual / d theta (n, p))``.

    Trust-region search (Branch, Coleman & Li 1999, as in scipy) on logarithms of positive parameters; intervals from the
    linearised problem at its end, Student's t with n - p degrees of freedom.
    """
    from scipy.optimize import least_squares

    scale = Scale(guess, bounds)
    cache: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def evaluate(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (key := q.tobytes()) not in cache:
            cache.clear()
            theta = scale.parameters(q)
            residual, slopes = model(theta)
            cache[key] = residual, slopes * scale.derivative(theta)
        return cache[key]

    found = least_squares(
        lambda q: evaluate(q)[0],
        scale.start,
        jac=lambda q: evaluate(q)[1],
        bounds=scale.limits,
        x_scale="jac",
        xtol=1e-10,
        ftol=1e-10,
        gtol=1e-10,
    )
    if found.status <= 0:
        raise ConvergenceError(f"the fit did not settle: {found.message} Start closer, or give bounds.")
    theta = scale.parameters(found.x)
    residual, jacobian = evaluate(found.x)
    half, covariance, correlation, notes = uncertainty(residual, jacobian, names, scale.logarithmic)
    low, high = (scale.parameters(found.x + sign * half) for sign in (-1, 1))
    natural = scale.derivative(theta)
    return Solution(
        value=theta,
        interval=np.stack([low, high], axis=1),
        residual=residual,
        covariance=covariance * np.outer(natural, natural),
        correlation=correlation,
        notes=notes,
        message=str(found.message),
    )


class Scale:
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


def uncertainty(residual: np.ndarray, jacobian: np.ndarray, names: tuple[str, ...], logarithmic: np.ndarray):
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
    half = np.where(unknown, np.inf, stdtrit(freedom, 0.5 + CONFIDENCE / 2) * deviations)
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
    step = direction / direction[lead] * (math.log(1.1) if logarithmic[lead] else 0.1)

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
