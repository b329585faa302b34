"""Least squares for many parameters: gradients by the adjoint, smoothness weighed by the data, intervals that say so.

A coarse field of diffusivities has more parameters than a transient can tell. What is minimised is

    1/2 |readings - values|^2 + 1/2 mu |L (q - q_0)|^2

over internal coordinates q (logarithms of positive parameters). L takes differences between neighbours of the field, or
is the identity; mu is chosen by the data: where the noise is known, the field whose predictions are expected to err
least (Mallows 1973), otherwise the one that foretells a reading left out best, by generalised cross-validation (Golub,
Heath & Wahba 1979). The discrepancy principle (Morozov 1966) smooths more than that, and its intervals cover less. The
search is quasi-Newton in coordinates in which the Gauss-Newton
Hessian at its start is the identity, so it takes as many gradients as the problem is curved, not as it has parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConvergenceError, ProblemError
from .adjoint import Misfit
from .leastsquares import CONFIDENCE, Scale, Solution
from .sensitivity import Model

_WEIGHTS = np.logspace(-9, 4, 66)  # of the penalty, relative to the data: where mu is looked for
_ROUNDS = 4  # of choosing mu and searching
_SETTLED = 1.5  # factor by which mu may still move
_RIDGE = 1e-10  # keeps the level of a field that the data do not see, relative to the Hessian
_COARSER = (
    4.0  # steps of the Jacobian, which shapes the search and the intervals and need not be as exact as the gradient
)
_SHARP = 1e-2  # of a standard deviation of the estimate: how near its minimum a search is taken


def penalty(count: int, smooth: Sequence[int] | None) -> np.ndarray:
    """L, (rows, count): differences of neighbours in the array of shape `smooth` that the first parameters are."""
    if smooth is None:
        return np.eye(count)
    shape = tuple(int(n) for n in smooth)
    size = math.prod(shape)
    if not shape or min(shape) < 1 or size < 2 or size > count:
        raise ProblemError(f"smooth = {tuple(smooth)} holds {size} parameters; give the shape of 2 to {count} of them.")
    index = np.arange(size).reshape(shape)
    pairs = [(np.delete(index, -1, axis).ravel(), np.delete(index, 0, axis).ravel()) for axis in range(len(shape))]
    low, high = (np.concatenate(side) for side in zip(*pairs, strict=True))
    rows = np.zeros((low.size, count))
    rows[np.arange(low.size), high] = 1.0
    rows[np.arange(low.size), low] = -1.0
    return rows


@dataclass(frozen=True, eq=False)
class _Linear:
    """The problem linearised at q: residuals r (n,), Jacobian A (n, p), penalty L, and what the penalty pulls towards."""

    residual: np.ndarray
    jacobian: np.ndarray
    rows: np.ndarray
    q: np.ndarray
    pulled: np.ndarray

    def hessian(self, mu: float) -> np.ndarray:
        whole = self.jacobian.T @ self.jacobian + mu * (self.rows.T @ self.rows)
        return whole + _RIDGE * float(np.trace(whole)) / len(whole) * np.eye(len(whole))

    @property
    def unit(self) -> float:
        """mu at which data and penalty weigh the same."""
        return float((self.jacobian**2).sum() / (self.rows**2).sum())

    def trial(self, mu: float) -> tuple[float, float]:
        """(sum of squares left, parameters used) of the minimum for `mu`."""
        inverse = np.linalg.inv(self.hessian(mu))
        gradient = self.jacobian.T @ self.residual + mu * (self.rows.T @ (self.rows @ (self.q - self.pulled)))
        left = self.residual - self.jacobian @ (inverse @ gradient)
        return float(left @ left), float(np.sum(inverse * (self.jacobian.T @ self.jacobian)))

    def deviation(self, mu: float) -> float:
        """Standard deviation of the residuals at the minimum for `mu`."""
        left, used = self.trial(mu)
        return math.sqrt(left / max(self.residual.size - used, 1.0))

    def weight(self, noise: float | None) -> float:
        """mu of least expected error where the noise is known, else by generalised cross-validation."""
        n, weights = self.residual.size, self.unit * _WEIGHTS
        trials = [self.trial(mu) for mu in weights]
        if noise is not None:
            scores = [left + 2 * noise**2 * used for left, used in trials]
        else:
            scores = [left / (n - used) ** 2 if used < n else math.inf for left, used in trials]
        return float(weights[int(np.argmin(scores))])


def solve_many(
    model: Model,
    guess: np.ndarray,
    bounds: Any,
    names: tuple[str, ...],
    smooth: Sequence[int] | None,
    noise: float | None,
) -> Solution:
    """Minimise the penalised misfit of a `Model` on the route "stepping".

    Intervals are those of the posterior of which the penalty is the prior, sigma^2 (A'A + mu L'L)^-1: over the parameters
    of a smooth field they hold the truth about as often as they say (Wahba 1983); they do not see features finer than the data.
    """
    from scipy.optimize import minimize

    misfit, scale = Misfit(model), Scale(guess, bounds)
    rows = penalty(guess.size, smooth)
    q, pulled = scale.start.copy(), scale.start if smooth is None else np.zeros(guess.size)
    linear = _linearised(model, scale, q, rows, pulled)
    mu, message = linear.weight(noise), ""
    for _ in range(_ROUNDS):
        turn = np.linalg.inv(np.linalg.cholesky(linear.hessian(mu))).T if bounds is None else _scaled(linear, mu)
        begin, weight = q, mu

        def value(y: np.ndarray, begin=begin, turn=turn, weight=weight) -> tuple[float, np.ndarray]:
            at = begin + turn @ y
            theta = scale.parameters(at)
            far, slopes, _ = misfit(theta)
            rough = rows @ (at - pulled)
            return far + 0.5 * weight * float(rough @ rough), turn.T @ (
                slopes * scale.derivative(theta) + weight * (rows.T @ rough)
            )

        limits = None
        if bounds is not None:
            limits = list(zip(*((side - begin) / np.diag(turn) for side in scale.limits), strict=True))
        # in these coordinates the estimate has the standard deviation of the residuals, and gradients are distances
        options = {"maxiter": 60, "maxcor": 20, "ftol": 0.0, "gtol": _SHARP * linear.deviation(mu)}
        found = minimize(value, np.zeros(q.size), jac=True, method="L-BFGS-B", bounds=limits, options=options)
        if not np.isfinite(found.fun):
            raise ConvergenceError(f"the fit did not settle: {found.message} Start closer, or give bounds.")
        q, message = begin + turn @ found.x, str(found.message)
        linear = _linearised(model, scale, q, rows, pulled)
        before, mu = mu, linear.weight(noise)
        if 1 / _SETTLED <= mu / before <= _SETTLED:
            mu = before
            break
    return _concluded(linear, scale, mu, names, smooth, noise, message)


def _linearised(model: Model, scale: Scale, q: np.ndarray, rows: np.ndarray, pulled: np.ndarray) -> _Linear:
    theta, present = scale.parameters(q), model.observations.present
    readings = model(theta, derivatives=False)[0]
    slopes = model(theta, dt=_COARSER * model.dt)[1]
    assert slopes is not None
    residual = readings[present] - model.observations.values[present]
    return _Linear(residual, slopes[present] * scale.derivative(theta), rows, q, pulled)


def _scaled(linear: _Linear, mu: float) -> np.ndarray:
    """Coordinates of unit curvature that keep bounds on single parameters."""
    return np.diag(1 / np.sqrt(np.diag(linear.hessian(mu))))


def _concluded(
    linear: _Linear,
    scale: Scale,
    mu: float,
    names: tuple[str, ...],
    smooth: Sequence[int] | None,
    noise: float | None,
    message: str,
) -> Solution:
    from scipy.special import stdtrit

    theta, inverse = scale.parameters(linear.q), np.linalg.inv(linear.hessian(mu))
    used = float(np.sum(inverse * (linear.jacobian.T @ linear.jacobian)))
    freedom = max(linear.residual.size - used, 1.0)
    variance = noise**2 if noise is not None else float(linear.residual @ linear.residual) / freedom
    deviations = np.sqrt(variance * np.diag(inverse))
    half = stdtrit(freedom, 0.5 + CONFIDENCE / 2) * deviations
    low, high = (scale.parameters(linear.q + sign * half) for sign in (-1, 1))
    natural = scale.derivative(theta)
    covariance = variance * inverse
    return Solution(
        value=theta,
        interval=np.stack([low, high], axis=1),
        residual=linear.residual,
        covariance=covariance * np.outer(natural, natural),
        correlation=covariance / np.outer(deviations, deviations),
        notes=_told(linear, mu, used, half, scale, names, smooth, noise),
        message=message,
    )


def _told(linear, mu, used, half, scale, names, smooth, noise) -> tuple[str, ...]:
    """What the data say and what the penalty says."""
    towards = "the guess" if smooth is None else "smoothness"
    how = "for the least expected error" if noise is not None else "by generalised cross-validation"
    notes = [
        f"The readings determine about {used:.0f} of {len(names)} combinations of the parameters; the others follow from "
        f"{towards}, whose weight {mu:.2g} was chosen {how}. Features finer than these are not seen, and intervals do not "
        "cover them."
    ]
    norms = np.linalg.norm(linear.jacobian, axis=0)
    blind = np.flatnonzero(norms <= 1e-9 * max(float(norms.max()), 1e-300))
    if blind.size:
        notes.append(
            f"The readings do not depend on {_listed(blind, names)}: all that is said of them follows from {towards}."
        )
    vague = [j for j in np.flatnonzero(scale.logarithmic & (half > math.log(2))) if j not in blind]
    if vague:
        worst = math.exp(float(half[vague].max()))
        notes.append(f"{_listed(vague, names)} are known to no better than a factor of 2, the worst {worst:.2g}.")
    return tuple(notes)


def _listed(which, names: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[j] for j in which[:most])
    return shown if len(which) <= most else f"{shown} and {len(which) - most} others"
