"""Periodic heating: the response in amplitude and phase, and coefficients fitted to it (Ångström's method)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..boundary import Dirichlet
from ..data import number
from ..errors import ProblemError
from ..grid import Grid
from ..operator import discretize
from ..problem import Problem
from .leastsquares import checked_guess, solve
from .sensitivity import Posed, Slope, neighbours


def time_harmonic(problem: Problem, frequency: float) -> np.ndarray:
    """Complex response to sides and sources that oscillate in phase, once all else has died out; grid.shape.

    ``u(x, t) = Re[response exp(2 pi i frequency t)]``, from one complex solve ``(i omega m + K) response = F``. The data
    of sides, sources and ambient are taken as amplitudes. NaN in voids.

    Raises
    ------
    ProblemError
        Where coefficients or data depend on t or u: amplitudes are numbers or arrays.
    """
    frequency = number("frequency", frequency, above=0.0)
    _require_steady(problem)
    operator = discretize(problem)
    posed = Posed(problem, np.empty((0, problem.grid.ndim)))
    response = _solver(posed, frequency)(operator.forcing.base.ravel().astype(complex))
    result = np.empty(problem.grid.shape, dtype=complex)
    result.real, result.imag = (operator.leave(part.reshape(operator.shape)) for part in (response.real, response.imag))
    return result


@dataclass(frozen=True, eq=False)
class HarmonicFit:
    """Parameters that fit amplitude ratios and phase lags of a periodic response.

    Attributes
    ----------
    value, interval
        (p,) parameters and their (p, 2) 95 % intervals.
    rms
        Root mean square of ln(amplitude) and phase [rad] residuals together.
    predicted
        (n,) complex response of the fitted model at the points.
    """

    value: np.ndarray
    interval: np.ndarray
    rms: float
    predicted: np.ndarray
    points: np.ndarray
    response: np.ndarray
    frequency: float
    names: tuple[str, ...]
    notes: tuple[str, ...]

    def explain(self) -> str:
        """Values with intervals, how well they fit, and what the data cannot tell."""
        lines = [
            f"{name} = {value:.5g}, 95 % interval {low:.4g} to {high:.4g}"
            for name, value, (low, high) in zip(self.names, self.value, self.interval, strict=True)
        ]
        lines.append(
            f"{len(self.response)} points at {self.frequency:g} Hz, rms of ln amplitude and phase {self.rms:.3g}."
        )
        return "\n".join([*lines, *self.notes])

    def plot(self, path: str | Path | None = None):
        """Amplitude and phase against position with the fit; returns the matplotlib Figure."""
        from .pictures import harmonic_picture

        return harmonic_picture(self, path)


def fit_harmonic(
    problem_of: Callable[[np.ndarray], Problem],
    frequency: float,
    points: ArrayLike,
    response: ArrayLike,
    guess: Sequence[float] | np.ndarray,
    bounds: Any = None,
    names: Sequence[str] | None = None,
) -> HarmonicFit:
    """Fit parameters to a periodic response: least squares on ln(amplitude) and phase.

    Parameters
    ----------
    problem_of
        Function of theta that returns the problem with its data as amplitudes (see `time_harmonic`).
    points, response
        (n, ndim) coordinates (numbers in 1-D), and the complex response there, ``amplitude * exp(-i lag)``, (n,).
    """
    frequency = number("frequency", frequency, above=0.0)
    points = np.array(points, dtype=float)
    points = points.reshape(-1, 1) if points.ndim < 2 else points
    measured = np.atleast_1d(np.array(response, dtype=complex))
    if measured.shape != (len(points),) or not np.isfinite(measured).all() or (measured == 0).any():
        raise ProblemError(
            f"response has shape {measured.shape}: give one finite number that is not 0 per point ({len(points)})."
        )
    guess, names = checked_guess(guess, names, 2 * measured.size)
    predicted = measured

    def posed_at(theta: np.ndarray) -> Posed:
        problem = problem_of(theta)
        _require_steady(problem)
        return Posed(problem, points)

    def residual(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal predicted
        posed = posed_at(theta)
        apply_inverse = _solver(posed, frequency)
        force = posed.operator.forcing.base.ravel()
        u = apply_inverse(force.astype(complex))
        rest = posed.offsets(np.zeros(1))[0]
        predicted = posed.rows @ u + rest
        slopes = np.empty((measured.size, theta.size), dtype=complex)
        for j, (above, below, width) in enumerate(neighbours(posed_at, theta)):
            slope = Slope(above, below, width)
            drive = slope(lambda p: p.operator.forcing.base.ravel()) - slope.stiffness @ u
            s = apply_inverse(drive - 2j * math.pi * frequency * slope.mass * u)
            slopes[:, j] = posed.rows @ s + slope(lambda p: p.rows) @ u + slope(lambda p: p.offsets(np.zeros(1))[0])
        gap = np.log(predicted / measured)  # ln of the amplitude ratio, and i times the phase between them
        relative = slopes / predicted[:, None]
        return np.concatenate([gap.real, gap.imag]), np.concatenate([relative.real, relative.imag])

    found = solve(residual, guess, bounds, names)
    residual(found.value)
    return HarmonicFit(
        value=found.value,
        interval=found.interval,
        rms=found.rms,
        predicted=predicted,
        points=points,
        response=measured,
        frequency=frequency,
        names=names,
        notes=found.notes,
    )


def fit_angstrom(
    x: ArrayLike, amplitude_ratio: ArrayLike, phase: ArrayLike, frequency: float, length: float | None = None
) -> HarmonicFit:
    """Diffusivity and loss of a rod or strip heated periodically at x = 0 (Ångström 1861).

    The response of a long rod is ``exp(-(a + i b) x)`` with ``a b = omega / (2 alpha)`` and ``a^2 - b^2 = loss / alpha``:
    two slopes, of ln(amplitude) and of the phase lag, give both, and errors of the reference station drop out with the
    intercepts. With `length`, a rod insulated at that end, fitted on a grid.

    Parameters
    ----------
    x
        (n,) distances from the reference station [m]; repeats are welcome.
    amplitude_ratio, phase
        (n,) amplitude over that of the reference, and lag behind it [rad].
    frequency
        [Hz].

    Returns
    -------
    HarmonicFit
        Parameters "diffusivity" [m^2/s] and "loss" [1/s].
    """
    from scipy.special import stdtrit

    frequency = number("frequency", frequency, above=0.0)
    x, ratio, lag = (np.atleast_1d(np.array(v, dtype=float)) for v in (x, amplitude_ratio, phase))
    if not (x.shape == ratio.shape == lag.shape) or x.ndim != 1 or np.unique(x).size < 3:
        raise ProblemError(
            f"x, amplitude_ratio and phase have shapes {x.shape}, {ratio.shape}, {lag.shape}: give three or more stations."
        )
    if not (np.isfinite(x).all() and np.isfinite(lag).all() and (ratio > 0).all() and np.isfinite(ratio).all()):
        raise ProblemError("x and phase must be finite, amplitude ratios positive.")
    omega = 2 * math.pi * frequency
    measured = ratio * np.exp(-1j * lag)
    (a, sa, ca), (b, sb, cb) = _line(x, -np.log(ratio)), _line(x, lag)
    if a <= 0 or b <= 0:
        raise ProblemError(
            f"amplitude falls by {a:.3g} and lag grows by {b:.3g} per metre; both must be positive away from the heater."
        )
    alpha = omega / (2 * a * b)
    loss = alpha * (a * a - b * b)
    if length is not None:
        return _finite_rod(x, measured, frequency, number("length", length, above=float(x.max())), alpha, loss)
    half = float(stdtrit(x.size - 2, 0.975))
    spread = half * math.hypot(sa / a, sb / b)
    # loss = omega (a/b - b/a) / 2
    loss_spread = half * omega / 2 * (1 / b + b / a**2) * math.hypot(sa, sb * a / b)
    predicted = np.exp(-(a + 1j * b) * x - ca - 1j * cb)
    gap = np.log(predicted / measured)
    notes = []
    if loss < 0:
        notes.append(
            "The phase grows faster than the amplitude falls: the loss comes out negative, which is noise or a reflected wave."
        )
    return HarmonicFit(
        value=np.array([alpha, loss]),
        interval=np.array(
            [[alpha * math.exp(-spread), alpha * math.exp(spread)], [loss - loss_spread, loss + loss_spread]]
        ),
        rms=float(np.sqrt(np.mean(np.concatenate([gap.real, gap.imag]) ** 2))),
        predicted=predicted,
        points=x[:, None],
        response=measured,
        frequency=frequency,
        names=("diffusivity", "loss"),
        notes=tuple(notes),
    )


def _finite_rod(
    x: np.ndarray, measured: np.ndarray, frequency: float, length: float, alpha: float, loss: float
) -> HarmonicFit:
    # 40 cells to a radian of the wave: its error, (q h)^2 / 24, is far below any measurement's
    cells = max(64, math.ceil(40 * length * math.sqrt(math.pi * frequency / alpha)))
    grid = Grid(shape=(cells,), lengths=(length,))

    def rod(theta: np.ndarray) -> Problem:
        return Problem(grid, diffusivity=float(theta[0]), loss=float(theta[1]), boundary={"x-": Dirichlet(1.0)})

    guess = [alpha, max(loss, 1e-3 * frequency)]
    return fit_harmonic(rod, frequency, x, measured, guess, names=("diffusivity", "loss"))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(slope, its standard error, intercept) of a straight line."""
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (x.size - 2) / float(centred @ centred))
    return slope, error, float(y.mean() - slope * x.mean())


def _require_steady(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem = {problem!r} is not a Problem.")
    if not problem.steady_coefficients or not discretize(problem).forcing.constant:
        raise ProblemError(
            "a time-harmonic problem has coefficients that stay, and amplitudes (numbers or arrays) for data."
        )


def _solver(posed: Posed, frequency: float) -> Callable[[np.ndarray], np.ndarray]:
    """Factored ``i omega m + K``."""
    from scipy.sparse import dia_array
    from scipy.sparse.linalg import splu

    n = posed.mass.size
    matrix = posed.stiffness + dia_array((2j * math.pi * frequency * posed.mass[None, :], [0]), shape=(n, n))
    return splu(matrix.tocsc()).solve
