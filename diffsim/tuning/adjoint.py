"""The gradient of a transient misfit by the adjoint of its steps: two runs, however many the parameters.

A Runge-Kutta step, explicit or with a diagonal, solves for its slopes k_i

    m k_i + K Y_i = F_i,    Y_i = u + h sum_j a_ij k_j,    u_next = u + h sum_i b_i k_i

With w = dJ/du_next the adjoint of exactly these equations runs backwards,

    (m + h a_ii K) p_i = h b_i w - h K sum_(j > i) a_ji p_j,    dJ/du = w - K sum_i p_i

and a parameter moves J by ``sum p_i . (F_theta - K_theta Y_i - m_theta k_i)`` over all stages of all steps. K is a
weighted graph, so what all parameters need of these sums is one number per face and three per cell; K_theta, m_theta
and F_theta are differences of the discrete operators, as in `sensitivity`. (A. Walther, Comput. Optim. Appl. 36, 2007,
for discrete adjoints of Runge-Kutta methods.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ProblemError
from ..schemes import ButcherTableau, scheme_of
from .sensitivity import Model, Posed, Slope, neighbours, shifted, steps_between

_RELATIVE_STEP = 6e-6  # of a parameter, for the differences of operators: eps^(1/3) balances truncation and rounding


@dataclass(frozen=True, eq=False)
class _Step:
    """What a step leaves for its adjoint: length, stage states and slopes (s, N), and the moments of the stages (s,)."""

    h: float
    stages: np.ndarray
    slopes: np.ndarray
    moments: np.ndarray


class _Products:
    """``p . K_theta Y + p . m_theta k - p . F_theta`` summed over stages, before theta is known."""

    def __init__(self, posed: Posed):
        operator = posed.operator
        self.shape, self.periodic = operator.shape, operator.periodic
        self.faces = [np.zeros_like(g) for g in operator.conductances]
        self.diagonal, self.mass, self.force = (np.zeros(operator.shape) for _ in range(3))
        self.steady = operator.forcing.constant
        self.moments: list[float] = []
        self.weights: list[np.ndarray] = []

    def add(self, p: np.ndarray, y: np.ndarray, k: np.ndarray, moment: float) -> None:
        a, u = p.reshape(self.shape), y.reshape(self.shape)
        for axis, total in enumerate(self.faces):
            n = self.shape[axis]
            if n > 1:
                inner = [slice(None)] * 3
                inner[axis] = slice(1, n)
                total[tuple(inner)] += np.diff(a, axis=axis) * np.diff(u, axis=axis)
                if self.periodic[axis]:  # one face, kept as the last
                    first, last = (np.take(x, 0, axis) - np.take(x, n - 1, axis) for x in (a, u))
                    inner[axis] = slice(n, n + 1)
                    total[tuple(inner)] += np.expand_dims(first * last, axis)
        self.diagonal += a * u
        self.mass += a * k.reshape(self.shape)
        if self.steady:
            self.force += a
        else:
            self.moments.append(moment)
            self.weights.append(p)

    def along(self, slope: Slope) -> float:
        """Minus the sum, for one parameter."""
        above, below = slope.above.operator, slope.below.operator
        moved = ((above.diagonal - below.diagonal) * self.diagonal).sum()
        moved += ((above.mass - below.mass) * self.mass).sum()
        for one, two, total in zip(above.conductances, below.conductances, self.faces, strict=True):
            moved += ((one - two) * total).sum()
        if self.steady:
            moved -= ((above.forcing.base - below.forcing.base) * self.force).sum()
        else:
            moments = np.array(self.moments)
            moved -= ((slope.above.forces(moments) - slope.below.forces(moments)) * np.stack(self.weights)).sum()
        return -float(moved) / slope.width


class Misfit:
    """``theta -> (J, dJ/dtheta (p,), readings)``, ``J = 1/2 sum |weights * (readings - values)|^2`` over the readings present.

    Parameters
    ----------
    model
        Its route must be "stepping": linear, with coefficients that do not move.
    scheme
        Any row of the table with a Butcher tableau. Explicit ones need a stable `model.dt`.

    Raises
    ------
    ProblemError
        Where coefficients depend on u or t, or D is a full tensor.
    """

    def __init__(self, model: Model, scheme: str = "sdirk3"):
        tableau = scheme_of(scheme).tableau
        if tableau is None:
            raise ProblemError(f"{scheme} has no tableau, so no adjoint here; take sdirk3, tr-bdf2, rk4, ...")
        if model.route != "stepping":
            raise ProblemError("the adjoint of a run needs coefficients that depend neither on u nor on t.")
        self.model, self.tableau = model, tableau
        self.values = np.nan_to_num(model.observations.values)
        self.present = model.observations.present

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Misfit, gradient, readings (n_times, n_points)."""
        posed = self.model.posed(theta)
        if posed.operator.cross is not None:
            raise ProblemError(
                "the adjoint of a run does not follow full tensors D; take PerAxis, or fewer parameters."
            )
        times = self.model.observations.times
        run = _Run(posed, self.tableau)
        frames, steps = run.forward(self.model, times)
        readings = frames @ posed.rows.T + posed.offsets(times)
        residual = np.where(self.present, readings - self.values, 0.0)
        self.model.evaluations += 1
        products = run.backward(steps, residual @ posed.rows)
        gradient = np.empty(theta.size)
        for j, sides in enumerate(neighbours(self.model.posed, theta, _RELATIVE_STEP)):
            slope = Slope(*sides)
            gradient[j] = products.along(slope) + float((residual * slope.reading(frames, times)).sum())
        return 0.5 * float((residual**2).sum()), gradient, readings


class _Run:
    """Steps of a tableau forwards, and their adjoints backwards."""

    def __init__(self, posed: Posed, tableau: ButcherTableau):
        self.posed, self.tableau = posed, tableau
        self.solvers: dict[float, Callable] = {}

    def forward(self, model: Model, times: np.ndarray) -> tuple[np.ndarray, list[list[_Step]]]:
        """Frames (n_times, N), and the steps that led to each."""
        u = model.posed_start(self.posed)
        growing = self.posed.operator.forcing.constant and not self.tableau.explicit
        starts, lengths, counts = steps_between(np.append(model.begin, times), model.dt, growing)
        frames, steps, done = np.empty((times.size, u.size)), [], 0
        for i, count in enumerate(counts):
            taken = []
            for t, h in zip(starts[done : done + count], lengths[done : done + count], strict=True):
                step = self._step(u, float(t), float(h))
                u = u + h * (self.tableau.b @ step.slopes)
                taken.append(step)
            done += count
            frames[i] = u
            steps.append(taken)
        return frames, steps

    def _step(self, u: np.ndarray, t: float, h: float) -> _Step:
        tableau, posed = self.tableau, self.posed
        stages, slopes = np.empty((2, tableau.stages, u.size))
        moments = t + h * tableau.c
        forces = posed.forces(moments)
        for i, row in enumerate(tableau.A):
            base = u + h * (row[:i] @ slopes[:i])
            net = forces[i] - posed.stiffness @ base
            slopes[i] = self._solve(h * row[i], net)
            stages[i] = base + h * row[i] * slopes[i]
        return _Step(h, stages, slopes, moments)

    def backward(self, steps: list[list[_Step]], sources: np.ndarray) -> _Products:
        """Sums over all stages, from dJ/du of the frames, (n_times, N)."""
        tableau, products = self.tableau, _Products(self.posed)
        w = np.zeros(sources.shape[1])
        for taken, source in zip(reversed(steps), reversed(sources), strict=True):
            w = w + source
            for step in reversed(taken):
                p = np.empty_like(step.stages)
                for i in reversed(range(tableau.stages)):
                    later = self.posed.stiffness @ (tableau.A[i + 1 :, i] @ p[i + 1 :])
                    p[i] = self._solve(step.h * tableau.A[i, i], step.h * (tableau.b[i] * w - later))
                    products.add(p[i], step.stages[i], step.slopes[i], float(step.moments[i]))
                w = w - self.posed.stiffness @ p.sum(axis=0)
        return products

    def _solve(self, weight: float, rhs: np.ndarray) -> np.ndarray:
        """``(m + weight K)^-1 rhs``."""
        if weight == 0:
            return rhs / self.posed.mass
        key = float(f"{weight:.12g}")  # equal steps differ in their last digits
        if key not in self.solvers:
            self.solvers[key] = shifted(self.posed, 1.0 / key)
        return self.solvers[key](rhs / key)
