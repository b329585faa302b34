"""How a problem decays: the rates at which it moves and how much of the initial state moves at each.

With steady data ``m du/dt = F - K u`` is, in the eigenvectors of ``A = m^-1 K``, a set of independent equations. A
one-step scheme multiplies each by R(-dt lambda) where the semi-discrete problem multiplies it by exp(-dt lambda).
So the temporal error of any row of the table, at any step, is a sum over modes: no run is needed to know it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ProblemError
from ..operator import Operator
from ..schemes import SCHEMES, Scheme
from ..steppers import Counts, ShiftedSolver, phi

_AXIS_CELLS = 1024  # axes longer than this are not diagonalised: eigenvectors cost n^2 numbers
DENSE_CELLS = 512  # smaller problems are diagonalised whole
_POLES = 32  # one shifted solve each, spread over all time scales between the fastest mode and the run
_RESOLVED = 1e-2  # residual of a Ritz value, relative to it
_SPREAD = 24  # places in the gap of a rate that is not resolved
_BINS_PER_E = 100  # merged modes differ by 1 % at most


@dataclass(frozen=True, eq=False)
class Modes:
    """Decay of ``u(t) - u(inf)`` as a sum of exponentials, in the mass-weighted root mean square over the cells.

    Attributes
    ----------
    rates
        lambda_k >= 0, (m,) [1/s].
    slopes
        Share of mode k in du/dt at t = 0, (m,): ``rms(du/dt)^2 = sum slopes^2``.
    axis_rates
        Per axis parts of `rates`, (m, ndim), where the operator separates; else None.
    reach
        Largest rate that the problem can have [1/s]: the bound that stage counts are chosen by.
    span
        Largest minus smallest value that the start and the state at `duration` hold.
    duration
        Time that the state was followed to [s].
    exact
        True where every mode was found; False where a rational Krylov space stands for them.
    resolved
        (m,) bool: the rate is that of a mode; elsewhere it stands for the many modes between its neighbours.
    """

    rates: np.ndarray
    slopes: np.ndarray
    axis_rates: np.ndarray | None
    reach: float
    span: float
    duration: float
    exact: bool
    resolved: np.ndarray | None = None

    def distance(self, t: float) -> float:
        """rms(u(t) - u(inf)); modes of rate 0 do not move towards anything and are left out."""
        moving = self.rates > 0
        parts = self.slopes[moving] / self.rates[moving] * np.exp(-t * self.rates[moving])
        return float(np.linalg.norm(parts))

    def error(self, scheme: Scheme, n: int, t: float) -> float:
        """rms difference from the semi-discrete solution after `n` equal steps to the time `t`, relative to `span`."""
        if self.span == 0 or scheme.family == "exponential":
            return 0.0
        rates, slopes, axes = self._essential
        if scheme.family == "splitting":
            rates, slopes, axes = self.rates, self.slopes, self.axis_rates
        elif scheme.family == "stabilized":  # polynomials ripple: one rate must not stand for a crest or a trough
            rates, slopes = self._spread
        dt = t / n
        stages = scheme.stages_for(dt * self.reach) if scheme.stages is None else None
        made = power(scheme, -dt * rates, n, stages, None if axes is None else -dt * axes)
        # (R^n - exp) / lambda acts on the slope; below 1e-6 it is less than rounding and the quotient would amplify that
        gap = np.divide(made - np.exp(-t * rates), rates, out=np.zeros_like(rates), where=t * rates > 1e-6)
        return float(np.linalg.norm(gap * slopes)) / self.span

    @cached_property
    def _essential(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Modes with equal rates, to 1 %, merged: their parts are orthogonal, so squares add."""
        if self.rates.size <= 256:
            return self.rates, self.slopes, None
        lowest = max(float(self.rates.max()) * 1e-15, 1e-6 / self.duration)
        place = np.floor(np.log(np.maximum(self.rates, lowest) / lowest) * _BINS_PER_E).astype(int)
        weight = self.slopes**2
        total = np.bincount(place, weight)
        mean = np.bincount(place, weight * self.rates)
        kept = total > 0
        return mean[kept] / total[kept], np.sqrt(total[kept]), None

    @cached_property
    def _spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates that stand for many, spread evenly in logarithm between their neighbours."""
        if self.resolved is None or self.resolved.all():
            return self._essential[:2]
        logs = np.log(np.maximum(self.rates, 1e-9 / self.duration))
        middle = 0.5 * (logs[1:] + logs[:-1])
        low, high = np.append(logs[0], middle), np.append(middle, logs[-1])
        places = np.exp(low[:, None] + (high - low)[:, None] * (np.arange(_SPREAD) + 0.5) / _SPREAD)
        many = ~self.resolved
        rates = np.concatenate([self.rates[self.resolved], places[many].ravel()])
        # du/dt = lambda * distance: it is the distance that is shared out
        share = np.repeat(self.slopes[many] / self.rates[many] / math.sqrt(_SPREAD), _SPREAD) * places[many].ravel()
        return rates, np.concatenate([self.slopes[self.resolved], share])


def power(
    scheme: Scheme, z: np.ndarray, n: int, stages: int | None = None, axes: np.ndarray | None = None
) -> np.ndarray:
    """What n equal steps of `scheme` multiply a mode by, for real ``z = -dt lambda``, shape z.shape.

    `axes`, (\\*z.shape, d): the parts of z per axis, which splitting needs; an equal share each where not given.
    """
    if scheme.family == "exponential":
        return np.exp(n * z)
    if n == 0:
        return np.ones_like(z)
    with np.errstate(over="ignore", invalid="ignore"):
        if scheme.family == "multistep":
            starter = SCHEMES[scheme.starter]  # type: ignore[attr-defined]
            first = np.real(starter.R(z))
            if n == 1:
                return first
            matrix = np.linalg.matrix_power(np.real(scheme.amplification(z)), n - 1)
            return matrix[..., 0, 0] * first + matrix[..., 0, 1]
        if scheme.family == "splitting":
            parts = [z] if axes is None else list(np.moveaxis(axes, -1, 0))
            return np.real(scheme.R(*parts)) ** n  # type: ignore[arg-type]
        return np.real(scheme.R(z, stages)) ** n


class Powers:
    """`power` at one z for any step count: one-step schemes evaluate R once, and ``powers(n)`` costs no more than R^n."""

    def __init__(self, scheme: Scheme, z: np.ndarray, stages: int | None = None):
        self.scheme, self.z, self.stages = scheme, z, stages
        self.factor = None if scheme.family in ("multistep", "exponential") else power(scheme, z, 1, stages)

    def __call__(self, n: int) -> np.ndarray:
        """What n steps multiply the modes by, shape z.shape."""
        if self.factor is None:
            return power(self.scheme, self.z, n, self.stages)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return self.factor**n


def decay(operator: Operator, state: np.ndarray, duration: float) -> Modes:
    """Modes of a problem with steady coefficients and data, from the padded `state`.

    Constant boxes are diagonalised axis by axis (any sides, Robin too) and small problems whole: every mode, exactly.
    Elsewhere the slope du/dt
    spans a rational Krylov space, ``v -> (1 + gamma A)^-1 v`` with gamma from the fastest time of the grid to
    `duration`, on which A is projected (Ruhe 1984; for the exponential Druskin, Knizhnerman & Zaslavsky 2009).

    Raises
    ------
    ProblemError
        Where coefficients or data move: such a problem has no modes.
    """
    if not (operator.problem.steady_coefficients and operator.forcing.constant):
        raise ProblemError(
            "coefficients, sides or sources change in time or with u; such a problem has no fixed modes."
        )
    slope = operator.rates(state, 0.0)
    if not operator.all_free:
        slope[~operator.free] = 0.0
    if operator.uniform is not None and max(operator.shape) <= _AXIS_CELLS:
        return _separable(operator, state, slope, duration)
    if operator.grid.size <= DENSE_CELLS:
        return _dense(operator, state, slope, duration)
    return _krylov(operator, state, slope, duration)


def axis_modes(operator: Operator, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (n,) and orthonormal eigenvectors (n, n) in columns of -D d2/dx2 along a padded axis of a constant box."""
    facts = operator.uniform
    assert facts is not None
    n = facts.shape[axis]
    scale = facts.diffusivity[axis] / facts.spacing[axis] ** 2
    diagonal = np.full(n, 2.0 * scale)
    if operator.periodic[axis]:
        matrix = np.diag(diagonal)
        for i in range(n):  # one link per face; a cell that is its own neighbour keeps nothing
            matrix[i, (i + 1) % n] -= scale
            matrix[i, (i - 1) % n] -= scale
        values, vectors = np.linalg.eigh(matrix)
    else:
        from scipy.linalg import eigh_tridiagonal

        diagonal[0] += scale * (facts.wall_factor(axis, 0) - 1.0)
        diagonal[-1] += scale * (facts.wall_factor(axis, 1) - 1.0)
        values, vectors = eigh_tridiagonal(diagonal, np.full(n - 1, -scale))
    values[values < 1e-13 * max(values[-1], scale)] = 0.0
    return values, vectors


def _separable(operator: Operator, state: np.ndarray, slope: np.ndarray, duration: float) -> Modes:
    facts = operator.uniform
    assert facts is not None
    pairs = [axis_modes(operator, axis) for axis in range(3)]
    coefficients = slope
    for axis, (_, vectors) in enumerate(pairs):
        coefficients = np.moveaxis(np.tensordot(vectors, coefficients, axes=(0, axis)), 0, axis)
    dim = operator.grid.ndim
    parts = np.stack(np.broadcast_arrays(*np.ix_(*(values / facts.capacity for values, _ in pairs))), axis=-1)[
        ..., 3 - dim :
    ]
    parts = parts + facts.loss / facts.capacity / dim  # ADI shares the loss among the axes
    rates = parts.sum(axis=-1)
    end = coefficients * duration * phi(1, duration * rates)
    for axis, (_, vectors) in enumerate(pairs):
        end = np.moveaxis(np.tensordot(vectors, end, axes=(1, axis)), 0, axis)
    return Modes(
        rates=rates.ravel(),
        slopes=np.abs(coefficients.ravel()) / math.sqrt(slope.size),
        axis_rates=parts.reshape(-1, dim),
        reach=operator.spectral_bound().value,
        span=_span(operator, state, state + end),
        duration=duration,
        exact=True,
    )


def whole_modes(operator: Operator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All modes of a small problem: rates (m,) [1/s], orthonormal vectors (m, m) of m^-1/2 K m^-1/2, and m^1/2 (m,).

    The m entries are the free cells, in their order.
    """
    free = operator.free.ravel()
    root = np.sqrt(operator.mass.ravel()[free])
    stiffness = operator.matrix().toarray()[np.ix_(free, free)]
    rates, vectors = np.linalg.eigh(stiffness / np.outer(root, root))
    rates[rates < 1e-13 * operator.spectral_bound().value] = 0.0
    return rates, vectors, root


def _dense(operator: Operator, state: np.ndarray, slope: np.ndarray, duration: float) -> Modes:
    free = operator.free.ravel()
    reach = operator.spectral_bound().value
    rates, vectors, root = whole_modes(operator)
    parts = vectors.T @ (root * slope.ravel()[free])
    end = state.copy()
    end.reshape(-1)[free] += vectors @ (parts * duration * phi(1, duration * rates)) / root
    slopes = np.abs(parts) / math.sqrt(float(root @ root))
    return Modes(rates, slopes, None, reach, _span(operator, state, end), duration, exact=True)


def _krylov(operator: Operator, state: np.ndarray, slope: np.ndarray, duration: float) -> Modes:
    mass, reach = operator.mass, operator.spectral_bound().value
    total = float(mass.sum() if operator.all_free else mass[operator.free].sum())

    def inner(a: np.ndarray, b: np.ndarray) -> float:
        return float((mass * a * b).sum())

    norm = math.sqrt(inner(slope, slope))
    if norm == 0:
        none = np.zeros(0)
        return Modes(none, none, None, reach, _span(operator, state, state), duration, True)
    solver = ShiftedSolver(operator, Counts(), tolerance=1e-6)  # the space may be inexact: the projection on it is not
    basis = [slope / norm]
    fastest = min(1.0 / reach, duration)
    poles = np.geomspace(duration, fastest, _POLES) if fastest < duration else np.full(_POLES, duration)
    exact = False
    for gamma in poles:
        w = solver.solve(1 / gamma, mass * basis[-1] / gamma)
        before = math.sqrt(inner(w, w))
        for _ in range(2):  # twice is enough (Kahan)
            for v in basis:
                w = w - inner(w, v) * v
        size = math.sqrt(inner(w, w))
        if size <= 1e-11 * before:  # invariant: these are all the modes that the start excites
            exact = True
            break
        basis.append(w / size)
    space = np.stack([v.ravel() for v in basis], axis=1)
    image = np.stack([operator.apply(v).ravel() for v in basis], axis=1)
    projected = space.T @ image
    rates, vectors = np.linalg.eigh(0.5 * (projected + projected.T))
    missed = (image @ vectors) / mass.reshape(-1, 1) - space @ vectors * rates  # A x - rate x
    left = np.sqrt((mass.reshape(-1, 1) * missed**2).sum(axis=0))
    rates = np.where(rates < 1e-13 * reach, 0.0, rates)
    resolved = left <= _RESOLVED * np.maximum(rates, 1e-13 * reach)
    end = vectors @ (duration * phi(1, duration * rates) * vectors[0]) * norm
    final = state + sum(c * v for c, v in zip(end, basis, strict=True))
    slopes = np.abs(vectors[0]) * norm / math.sqrt(total)
    return Modes(rates, slopes, None, reach, _span(operator, state, final), duration, exact, resolved)


def _span(operator: Operator, start: np.ndarray, end: np.ndarray) -> float:
    """Range of the values in two states; 0 where it is no more than rounding."""
    values = np.concatenate([x[operator.free] for x in (start, end)])
    span = float(values.max() - values.min())
    return span if span > 1e-13 * float(np.abs(values).max()) else 0.0
