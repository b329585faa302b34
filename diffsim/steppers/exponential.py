"""Exponential schemes: the semi-discrete problem itself, over any time, by transforms or in a Krylov space."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ConvergenceError, ProblemError
from .base import Stepper, Trial
from .solver import ShiftedSolver


def phi(k: int, x: np.ndarray) -> np.ndarray:
    """``phi_k(-x)`` for x >= 0: phi_0 = exp, phi_{j+1}(z) = (phi_j(z) - 1/j!)/z; k up to 2, accurate near 0."""
    x = np.asarray(x, dtype=float)
    if k == 0:
        return np.exp(-x)
    small = x < 1e-2
    safe = np.where(small, 1.0, x)
    if k == 1:
        far = -np.expm1(-safe) / safe
        series = 1 + x * (-1 / 2 + x * (1 / 6 + x * (-1 / 24 + x * (1 / 120 - x / 720))))
    else:
        far = (np.expm1(-safe) + safe) / safe**2
        series = 1 / 2 + x * (-1 / 6 + x * (1 / 24 + x * (-1 / 120 + x * (1 / 720 - x / 5040))))
    return np.where(small, series, far)


class _Exponential(Stepper):
    """``u + tau phi_1(-tau A) du/dt``: the semi-discrete problem with steady data, advanced over any time."""

    def __init__(self, system, scheme):
        super().__init__(system, scheme)
        if not self.operator.forcing.constant:
            raise ProblemError(
                f"scheme = {scheme.name!r} advances problems whose sides and sources do not change in time; these do. "
                "Use scheme='auto', 'tr-bdf2' or 'rkc2'."
            )

    def functions(self, rate: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """(phi_1(-dt A) rate, phi_2(-dt A) rate)."""
        raise NotImplementedError

    def trial(self, u, t, dt, estimate=True):
        operator = self.operator
        rate = operator.rates(u, t)
        if not operator.all_free:
            rate[~operator.free] = 0.0
        one, two = self.functions(rate, dt)
        gain = dt * self.system.entered(operator, u, t) - dt**2 * float((operator.diagonal * two).sum())
        self.counts.stages += 1
        return Trial(u + self.settled(dt * one, gain), gain, None)

    def settled(self, change: np.ndarray, gain: float) -> np.ndarray:
        """The change of the state, made to hold what entered; the functions are exact here."""
        return change


class ExactStepper(_Exponential):
    """The exponential by sine, cosine or Fourier transforms: exact for constant coefficients on a uniform box."""

    def __init__(self, system, scheme):
        super().__init__(system, scheme)
        if self.operator.uniform is None or not self.operator.uniform.transformable:
            raise ProblemError(
                "scheme = 'exact' needs constant D, c and loss on a uniform Cartesian box with value, flux or periodic sides, "
                "no voids and no held cells. Use scheme='krylov' (any D) or 'auto'."
            )

    def functions(self, rate, dt):
        from .. import spectral

        uniform = self.operator.uniform
        assert uniform is not None  # the constructor asked
        one, two = (spectral.apply_function(uniform, rate, lambda values, k=k: phi(k, dt * values)) for k in (1, 2))
        return one, two


class KrylovStepper(_Exponential):
    """The exponential in a shift-and-invert Krylov space (van den Eshof & Hochbruck 2006), for any linear D.

    Lanczos on ``(1 + gamma A)^-1`` in the mass inner product; the number of solves does not grow with stiffness.
    """

    tolerance = 1e-10
    most = 80

    def __init__(self, system, scheme):
        super().__init__(system, scheme)
        self.solver = ShiftedSolver(self.operator, self.counts, tolerance=1e-13)

    def aim(self, tol):
        """Let the space end at `tol`, never below the default.

        It ends when two spaces agree to a fifth of it, because the error falls by jumps; errors of the solves are not amplified.
        """
        self.tolerance = max(0.2 * tol, type(self).tolerance)
        self.solver.tolerance = max(1e-2 * self.tolerance, 1e-13)

    def settled(self, change, gain):
        """Spread over all cells what the truncated space has lost of the content, below the tolerance of the space."""
        mass = self.operator.mass if self.operator.all_free else np.where(self.operator.free, self.operator.mass, 0.0)
        lack = (gain - float((mass * change).sum())) / float(mass.sum())
        return change + lack if self.operator.all_free else np.where(self.operator.free, change + lack, change)

    def functions(self, rate, dt):
        mass = self.operator.mass
        inner = lambda a, b: float((mass * a * b).sum())  # noqa: E731
        norm = math.sqrt(inner(rate, rate))
        if norm == 0:
            return np.zeros_like(rate), np.zeros_like(rate)
        gamma = dt / 10
        basis = [rate / norm]
        alpha: list[float] = []
        beta: list[float] = []
        previous: np.ndarray | None = None
        for m in range(1, self.most + 1):
            v = basis[-1]
            # (m + gamma K) x = m v, in the form (shift m + K) x = shift m v
            w = self.solver.solve(1 / gamma, mass * v / gamma)
            alpha.append(inner(w, v))
            for q in basis:  # full reorthogonalisation: the space is small
                w = w - inner(w, q) * q
            for q in basis:
                w = w - inner(w, q) * q
            size = math.sqrt(inner(w, w))
            tri = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
            values, vectors = np.linalg.eigh(tri)
            eigenvalues = np.maximum((1 / np.clip(values, 1e-14, None) - 1) / gamma, 0.0)
            coefficients = [vectors @ (phi(k, dt * eigenvalues) * vectors[0]) for k in (1, 2)]
            exhausted = size <= 1e-13 or m == mass.size
            if previous is not None:
                change = np.linalg.norm(coefficients[0] - np.append(previous, 0.0))
                if change <= self.tolerance * np.linalg.norm(coefficients[0]):
                    break
            if exhausted:
                break
            previous = coefficients[0]
            beta.append(size)
            basis.append(w / size)
        else:
            raise ConvergenceError(
                f"the Krylov space of {self.most} vectors leaves a change of {change:.1e}; split the time with more saved frames, "
                "or use scheme='tr-bdf2'."
            )
        combine = lambda c: norm * sum(x * v for x, v in zip(c, basis, strict=False))  # noqa: E731
        return combine(coefficients[0]), combine(coefficients[1])
