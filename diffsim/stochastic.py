"""Ensembles of the stochastic heat equation, sampled from its exact law.

    c u_t = div(D grad u) - b (u - u_ext) + f + noise * xi        <xi(x, t) xi(x', t')> = delta(x - x')
    delta(t - t')

On cells that is ``m du = (F - K u) dt + noise sqrt(V) dW``: every mode is an Ornstein-Uhlenbeck process,
whose law after any time is known (G. E. Uhlenbeck, L. S. Ornstein, Phys. Rev. 36 (1930) 823). So no time step
is taken and no error made in time. Single paths of problems of any size are stepped by ``simulate(...,
noise=)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .data import array, number
from .errors import ProblemError
from .operator import Operator, discretize
from .problem import Problem
from .resources import require_memory

DENSE_CELLS = 1500  # diagonalised whole up to here
_REACH = 8.0  # rho dt of a trapezoidal step: the stiffest mode is damped by 0.6 a step, so the start is forgotten


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Independent runs of a noisy problem."""

    t: np.ndarray  # (n,) [s]
    mean: np.ndarray = field(repr=False)  # (n, *shape) over the members
    variance: np.ndarray = field(repr=False)  # (n, *shape), unbiased; NaN for a single member
    u: np.ndarray = field(repr=False)  # (members, *shape) at the last time


def fluctuate(problem: Problem, initial, times, noise: float, members: int = 100, seed: int = 0) -> Ensemble:
    """Sample independent runs of the stochastic heat equation, without any error in time.

    Parameters
    ----------
    problem
        Linear and steady, with one number as capacity.
    initial
        State at t = 0: number, array of the grid's shape or callable(x, y, ...); the same for all members.
    times
        Times of the statistics, increasing and > 0, or a single one [s].
    noise
        Strength: [u] c sqrt(volume / time) in the units of the problem.
    members
        Number of independent runs.
    seed
        Member k of a seed is the same run whatever the number of members.

    Raises
    ------
    ProblemError
        If the problem is nonlinear or changes in time, if the capacity varies (noise of which strength?), or
        if a problem that is no uniform box has more than 1500 cells.

    Notes
    -----
    The stationary covariance is ``noise^2 / 2 K^-1`` for c = 1 (`diffsim.exact.noise_covariance`); in one
    dimension between zero values its continuous limit is ``noise^2 / (2 D) x (L - x) / L``. In two and three
    dimensions the variance at a point diverges as the grid is refined: a property of white noise, not of the
    solver.
    """
    noise = number("noise", noise, least=0.0)
    if isinstance(members, bool) or not isinstance(members, int | np.integer) or members < 1:
        raise ProblemError(f"members = {members!r} must be a whole number of at least 1.")
    times = array("times", np.atleast_1d(np.asarray(times)), np.shape(np.atleast_1d(times)))
    if times.ndim != 1 or times.size == 0 or times[0] <= 0 or (np.diff(times) <= 0).any():
        raise ProblemError("times must be > 0 and increase strictly.")
    if not problem.steady_coefficients or problem.reaction is not None:
        raise ProblemError("noise is for linear problems; freeze D at a field, and leave out reactions.")
    if np.ndim(problem.capacity):
        raise ProblemError("capacity varies in space; noise of one strength needs one capacity. Give a number.")
    operator = discretize(problem)
    if not operator.forcing.constant:
        raise ProblemError("sides or sources change in time; noise is for steady data. Run piece by piece.")
    require_memory(8 * problem.grid.size * (members + 2 * times.size + 20), "an ensemble of noisy runs")
    start = operator.enter(problem.grid.field("initial", initial, where=problem.active))
    law = _law(operator, noise)
    streams = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, k))) for k in range(members)]
    states = np.repeat(start[None], members, axis=0)
    means, variances = [], []
    for gap in np.diff(times, prepend=0.0):
        law(states, float(gap), streams)
        mean = states.mean(axis=0)
        means.append(operator.leave(mean))
        spread = states.var(axis=0, ddof=1) if members > 1 else np.full_like(mean, np.nan)
        variances.append(np.where(operator.free, spread, np.nan).reshape(problem.grid.shape))
    return Ensemble(
        times.copy(),
        np.stack(means),
        np.stack(variances),
        np.stack([operator.leave(u) for u in states]),
    )


# --- laws: advance the states of all members by a time gap, in place ---

Law = Callable[[np.ndarray, float, list], None]


def _law(operator: Operator, noise: float) -> Law:
    if operator.uniform is not None and operator.uniform.transformable:
        return _by_transform(operator, noise)
    cells = int(np.count_nonzero(operator.free))
    if cells <= DENSE_CELLS:
        return _by_modes(operator, noise)
    raise ProblemError(
        f"the law of {cells} cells with varying coefficients is not at hand (up to {DENSE_CELLS}, or any number in a uniform "
        "box with value, flux and periodic sides); step paths with simulate(..., noise=)."
    )


def _fed(rate: np.ndarray, gap: float) -> np.ndarray:
    """Integral of exp(-rate s) over the gap: (1 - exp(-rate gap)) / rate."""
    rate = np.maximum(rate, 0.0)
    return np.where(rate * gap > 1e-14, -np.expm1(-rate * gap) / np.where(rate > 0, rate, 1.0), gap)


def _spread(rate: np.ndarray, gap: float) -> np.ndarray:
    """Standard deviation that unit noise gives a mode in the gap: root of (1 - exp(-2 rate gap)) / (2
    rate)."""
    return np.sqrt(_fed(2 * rate, gap))


def _by_transform(operator: Operator, noise: float) -> Law:
    """Every mode of a uniform box: white noise on equal cells is white in the modes."""
    from .spectral import apply_function

    uniform, mass = operator.uniform, operator.mass
    assert uniform is not None
    strength = noise * np.sqrt(operator.volumes) / mass
    pushed = operator.forcing(0.0) / mass

    def advance(states, gap, streams):
        drift = apply_function(uniform, pushed, lambda rate: _fed(rate, gap))
        for u, stream in zip(states, streams, strict=True):
            xi = stream.standard_normal(u.shape) * strength
            u[...] = (
                apply_function(uniform, u, lambda rate: np.exp(-rate * gap))
                + drift
                + apply_function(uniform, xi, lambda rate: _spread(rate, gap))
            )

    return advance


def _by_modes(operator: Operator, noise: float) -> Law:
    """Modes of ``m^-1/2 K m^-1/2`` by a dense eigensolver; in ``y = m^1/2 u`` the noise is white for constant
    c."""
    free = operator.free.ravel()
    root = np.sqrt(operator.mass.ravel()[free])
    stiffness = operator.matrix().toarray()[np.ix_(free, free)]
    rates, modes = np.linalg.eigh(stiffness / np.outer(root, root))
    strength = noise / math.sqrt(operator.problem.capacity)
    pushed = modes.T @ (operator.forcing(0.0).ravel()[free] / root)

    def advance(states, gap, streams):
        flat = states.reshape(len(states), -1)
        amplitudes = (flat[:, free] * root) @ modes
        xi = np.stack([stream.standard_normal(rates.size) for stream in streams])
        amplitudes = amplitudes * np.exp(-np.maximum(rates, 0.0) * gap) + pushed * _fed(rates, gap)
        amplitudes += strength * xi * _spread(rates, gap)
        flat[:, free] = amplitudes @ modes.T / root

    return advance
