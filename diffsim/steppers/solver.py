"""The linear solves inside implicit steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ConvergenceError
from ..operator import Operator
from .base import Counts

HIERARCHIES = 2  # kept at most: an error estimate needs those of a step and of its half
SOLVE_TOLERANCE = 1e-11  # relative residual: below every error that is estimated


class ShiftedSolver:
    """Solves ``(shift m + K) x = rhs``: transforms on constant boxes, multigrid-preconditioned CG elsewhere."""

    def __init__(self, operator: Operator, counts: Counts, tolerance: float = SOLVE_TOLERANCE):
        self.operator, self.counts, self.tolerance = operator, counts, tolerance
        self._multigrid: dict[float, Any] = {}

    def solve(self, shift: float, rhs: np.ndarray, guess: np.ndarray | None = None) -> np.ndarray:
        operator = self.operator
        self.counts.solves += 1
        if operator.uniform is not None and operator.uniform.transformable:
            from .. import spectral

            return spectral.solve(operator.uniform, rhs, shift=shift * operator._uniform_mass)
        if not rhs.any():
            return np.zeros_like(rhs)
        solution = self._solver(shift).solve(rhs, x0=guess, tol=self.tolerance)
        self.counts.iterations += solution.iterations
        if not solution.converged:
            raise ConvergenceError(
                f"LINEAR_SOLVE_NOT_CONVERGED: the implicit solve stands at a relative residual of {solution.residual:.2e} after "
                f"{solution.iterations} iterations; {self.tolerance:.0e} is asked for. Take a smaller step, or an explicit scheme."
            )
        # remove the mean of the residual: the step then conserves content to rounding, however far CG was taken
        centre = self._centre(shift)
        lack = float(rhs.sum()) - float((centre * solution.x).sum())
        x = solution.x + lack / float(centre.sum())
        return x if operator.all_free else np.where(operator.free, x, 0.0)

    def _centre(self, shift: float) -> np.ndarray:
        centre = self.operator.diagonal + shift * self.operator.mass
        return centre if self.operator.all_free else np.where(self.operator.free, centre, 0.0)

    def _solver(self, shift: float):
        if shift not in self._multigrid:
            from ..multigrid import Multigrid

            if len(self._multigrid) >= HIERARCHIES:  # adaptive runs wander; old steps do not come back
                del self._multigrid[next(iter(self._multigrid))]
            operator = self.operator
            solver: Any = Multigrid(operator.conductances, self._centre(shift), operator.periodic)
            if operator.cross is not None:
                solver = _CrossSolver(operator, shift, solver)
            self._multigrid[shift] = solver
        return self._multigrid[shift]


class _CrossSolver:
    """CG on K with its cross terms, preconditioned by the multigrid cycle without them (spectrally equivalent)."""

    def __init__(self, operator: Operator, shift: float, multigrid):
        self.operator, self.shift, self.multigrid = operator, shift, multigrid

    def solve(self, rhs, x0=None, tol=1e-10, max_iterations=500):
        from ..multigrid import Solve

        x = np.zeros_like(rhs) if x0 is None else x0.copy()
        shift = self.shift * self.operator.mass
        product = lambda v: self.operator.apply(v) + shift * v  # noqa: E731
        r, z = rhs - product(x), np.empty_like(rhs)
        target = tol * np.sqrt(float((rhs * rhs).sum()))
        p, rho = np.zeros_like(rhs), 1.0
        for iteration in range(max_iterations + 1):
            norm = math.sqrt(float((r * r).sum()))
            if norm <= target or iteration == max_iterations:
                break
            self.multigrid.cycle(r, z)
            rho, previous = float((r * z).sum()), rho
            p = z + (rho / previous if iteration else 0.0) * p
            q = product(p)
            alpha = rho / float((p * q).sum())
            x += alpha * p
            r -= alpha * q
        return Solve(x=x, iterations=iteration, residual=norm * tol / target, converged=norm <= target, rounding=0.0)
