"""Implicit schemes: diagonally implicit stages, two-step differentiation, alternating directions."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from ..errors import ConvergenceError
from ..schemes import SCHEMES
from .base import Stepper, Trial
from .solver import ShiftedSolver

PICARD_TOLERANCE = 1e-10


class ImplicitStepper(Stepper):
    """Diagonally implicit Runge-Kutta in increments, so that an equilibrium stays where it is to rounding."""

    def __init__(self, system, scheme):
        super().__init__(system, scheme)
        self.solver = ShiftedSolver(self.operator, self.counts)

    def trial(self, u, t, dt, estimate=True):
        tableau = self.scheme.tableau
        operator = self.operator
        nets: list[np.ndarray] = []  # F - K Y, per stage
        gain, stage, delta = 0.0, u, None
        here = operator.apply(u)
        for row, b, c in zip(tableau.A, tableau.b, tableau.c, strict=True):
            a = row[len(nets)]
            forcing = operator.forcing(t + c * dt)
            if a == 0:
                stage, net = u, forcing - here
            else:
                known = sum((w / a * net for w, net in zip(row, nets, strict=False) if w), np.zeros_like(u))
                shift = 1.0 / (dt * a)
                delta = self.solver.solve(shift, known + (forcing - here), guess=delta)
                stage = u + delta
                # what the solve says of F - K Y: exact content, no second application
                net = shift * operator.mass * delta - known
            nets.append(net)
            self.counts.stages += 1
            gain += dt * b * float((forcing - operator.diagonal * stage).sum())
        error = None
        if estimate and tableau.b_hat is not None:
            defect = dt * sum((b - h) * net for b, h, net in zip(tableau.b, tableau.b_hat, nets, strict=True))
            # filtered by one solve, so that stiff modes do not frighten the estimate (Hosea & Shampine 1996)
            shift = 1.0 / (dt * tableau.A[-1, -1])
            error = self.estimate(
                shift * self.solver.solve(shift, defect if operator.all_free else np.where(operator.free, defect, 0.0))
            )
        return Trial(stage, gain, error)


class PicardStepper(Stepper):
    """Implicit stages where D moves with t or u: the frozen-coefficient solve is repeated until the stage repeats itself."""

    most = 60

    def trial(self, u, t, dt, estimate=True):
        tableau = self.scheme.tableau
        nets: list[np.ndarray] = []
        gain, stage = 0.0, u
        for row, b, c in zip(tableau.A, tableau.b, tableau.c, strict=True):
            a, time = row[len(nets)], t + c * dt
            if a == 0:
                operator = self.system.at(time, u)
                stage, net = u, operator.forcing(time) - operator.apply(u) + self.system.reaction(operator, u)
            else:
                known = sum((w / a * net for w, net in zip(row, nets, strict=False) if w), np.zeros_like(u))
                stage, operator = self._stage(u, stage, time, 1.0 / (dt * a), known)
                net = operator.mass * (stage - u) / (dt * a) - known
            nets.append(net)
            self.counts.stages += 1
            gain += dt * b * self.system.entered(operator, stage, time)
        error = None
        if estimate and tableau.b_hat is not None:
            defect = dt * sum((b - h) * net for b, h, net in zip(tableau.b, tableau.b_hat, nets, strict=True))
            error = self.estimate(defect / self.operator.mass)
        return Trial(stage, gain, error)

    def _stage(self, u, guess, time, shift, known):
        stage = guess
        for _ in range(self.most):
            operator = self.system.at(time, stage)
            rhs = known + operator.forcing(time) - operator.apply(u) + self.system.reaction(operator, stage)
            new = u + ShiftedSolver(operator, self.counts).solve(shift, rhs, guess=stage - u)
            change, size = self.system.rms(new - stage), self.system.rms(new)
            stage = new
            if self.system.problem.linear or change <= PICARD_TOLERANCE * max(size, 1e-300):
                return stage, operator  # where only time moves D, one solve is the answer
        raise ConvergenceError(
            f"the nonlinear stage still changes by {change / max(size, 1e-300):.1e} (relative) after {self.most} Picard "
            "iterations; take a smaller step, or an explicit scheme (rkl2)."
        )


class Bdf2Stepper(Stepper):
    """Two-step backward differentiation with variable steps; starts, and restarts, with its starter."""

    def __init__(self, system, scheme):
        super().__init__(system, scheme)
        self.starter = ImplicitStepper(system, SCHEMES[scheme.starter])
        self.solver = ShiftedSolver(self.operator, self.counts)
        self.before: tuple | None = (
            None  # (t, dt, u, gain) of the last step taken, to tell a continued run from a new one
        )

    def trial(self, u, t, dt, estimate=True):
        if self.before is None or abs(self.before[0] + self.before[1] - t) > 1e-9 * dt or dt > 2.4 * self.before[1]:
            step = self.starter.trial(u, t, dt, estimate=False)
        else:
            step = self._two_step(u, t, dt)
        self._pending = (t, dt, u.copy(), step.gain)
        return Trial(step.u, step.gain, None)

    def accept(self) -> None:
        self.before = self._pending

    def forget(self) -> None:
        self.before = None

    def _two_step(self, u, t, dt):
        assert self.before is not None
        _, dt_before, u_before, gain_before = self.before
        _, before, rate = self.scheme.weights(dt / dt_before)
        operator, end = self.operator, t + dt
        # in increments about u: the weights of the two states add up to 1, so u itself drops out
        shift = 1.0 / (rate * dt)
        forcing = operator.forcing(end)
        rhs = forcing - operator.apply(u) - shift * before * operator.mass * (u - u_before)
        delta = self.solver.solve(shift, rhs)
        new = u + delta
        gain = -before * gain_before + rate * dt * float((forcing - operator.diagonal * new).sum())
        self.counts.stages += 1
        return Trial(new, gain, None)


class AdiStepper(Stepper):
    """Alternating directions, Douglas-Gunn form: one tridiagonal sweep per axis."""

    @cached_property
    def axis_diagonals(self) -> list[np.ndarray]:
        """The diagonal w split over the axes: each wall belongs to its own axis, the rest is shared equally."""
        operator, grid = self.operator, self.operator.grid
        parts = [np.zeros(operator.shape) for _ in range(grid.ndim)]
        for wall in operator.walls:
            if wall.side in grid.sides:
                np.add.at(parts[grid.axes.index(wall.side[0])].reshape(-1), wall.cells, wall.g)
        rest = (operator.diagonal - sum(parts)) / grid.ndim
        return [part + rest for part in parts]

    def trial(self, u, t, dt, estimate=True):
        from ..kernels import splitting

        operator = self.operator
        forcing = 0.5 * (operator.forcing(t) + operator.forcing(t + dt))
        delta = dt * (forcing - operator.apply(u))
        gain = dt * float((forcing - operator.diagonal * u).sum())
        half = 0.5 * dt
        for axis, w in enumerate(self.axis_diagonals):
            a = operator.lead + axis
            g = operator.conductances[a]
            shape = (math.prod(operator.shape[:a]), operator.shape[a], math.prod(operator.shape[a + 1 :]))
            faces = (shape[0], shape[1] + 1, shape[2])
            if axis:
                delta *= operator.mass
            centre = operator.mass + half * w
            splitting.sweep(g.reshape(faces), centre.reshape(shape), half, operator.periodic[a], delta.reshape(shape))
            gain -= half * float((w * delta).sum())
        self.counts.stages += 1
        return Trial(u + (delta if operator.all_free else np.where(operator.free, delta, 0.0)), gain, None)
