"""What every stepper shares: the system it advances, the work it counts, and the shape of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ProblemError
from ..forcing import Shaken
from ..operator import Operator, discretize
from ..problem import Problem
from ..schemes import Scheme


@dataclass
class Counts:
    """Work done so far."""

    steps: int = 0
    stages: int = 0
    solves: int = 0
    iterations: int = 0
    rejected: int = 0
    limited_by: dict[str, int] = field(default_factory=lambda: {"stability": 0, "accuracy": 0, "save": 0})


@dataclass(frozen=True)
class Trial:
    """A step not yet taken: the new state, what entered, and the estimated error field's rms (None: no estimate)."""

    u: np.ndarray
    gain: float
    error: float | None


class System:
    """``m du/dt = -K u + F`` of a problem: one operator for steady coefficients, otherwise one per (t, u)."""

    def __init__(self, problem: Problem, start: np.ndarray, t: float = 0.0, noise: float = 0.0, seed: int = 0):
        self.problem = problem
        self.steady = problem.steady_coefficients and problem.reaction is None
        self.first = discretize(problem, t, start.copy() if problem.follows_state else None)  # the state moves on
        self.counts = Counts()
        self.shaken = noise > 0
        if self.shaken:
            if not self.steady:
                raise ProblemError("noise needs coefficients that depend neither on t nor on u, and no reaction.")
            calm = self.first.forcing
            self.first.__dict__["forcing"] = Shaken(calm, self.first.volumes, noise, seed)  # in place of the cached one

    def shake(self, dt: float) -> None:
        """Draw the noise of the next step."""
        forcing = self.first.forcing
        assert isinstance(forcing, Shaken)
        forcing.shake(dt)

    def at(self, t: float, u: np.ndarray) -> Operator:
        """The operator at time t and padded state u."""
        if self.problem.steady_coefficients:
            return self.first
        return discretize(self.problem, t, self.first.leave(u) if self.problem.follows_state else None)

    def entered(self, operator: Operator, u: np.ndarray, t: float) -> float:
        """sum_i (F_i - w_i u_i): flow through walls, sources and losses into the free cells."""
        forcing = operator.forcing(t)
        total = operator.total(lambda slab: forcing[slab] - operator.diagonal[slab] * u[slab])
        return total + float(np.sum(self.reaction(operator, u))) if self.problem.reaction else total

    def reaction(self, operator: Operator, u: np.ndarray) -> np.ndarray:
        """The reaction term, integrated over the cells."""
        if self.problem.reaction is None:
            return np.zeros(())
        with np.errstate(over="ignore", invalid="ignore"):  # a run that blows up is told by its status
            value = np.asarray(self.problem.reaction(operator.unpad(u)), dtype=float)
        return operator.volumes * np.broadcast_to(value, operator.grid.shape).reshape(operator.shape)

    def rate(self, t: float, u: np.ndarray) -> tuple[np.ndarray, float]:
        """(du/dt, what enters per time) at (t, u) for any coefficients."""
        operator = self.at(t, u)
        self.counts.stages += 1
        net = operator.forcing(t) - operator.apply(u) + self.reaction(operator, u)
        return net / operator.mass, self.entered(operator, u, t)

    def rms(self, u: np.ndarray) -> float:
        """Mass-weighted root mean square over the free cells."""
        return math.sqrt(self.first.mean_square(u))


class Stepper:
    """Base: `trial` makes one step; `advance` many equal ones, in place."""

    def __init__(self, system: System, scheme: Scheme):
        self.system = system
        self.scheme: Any = scheme  # a row of the family that this stepper serves
        self.operator = system.first
        self.counts = system.counts

    def trial(self, u: np.ndarray, t: float, dt: float, estimate: bool = True) -> Trial:
        """One step from (t, u), which stays as it is; the error is estimated where the row can and `estimate` asks."""
        raise NotImplementedError

    def accept(self) -> None:
        """The last trial was taken: schemes with memory remember it."""

    def aim(self, tol: float) -> None:
        """The error per interval that is asked for, relative to the change of the state; schemes that iterate may stop there."""

    def forget(self) -> None:
        """Schemes with memory start afresh."""

    def advance(self, u: np.ndarray, t: float, dt: float, n: int) -> float:
        """n steps of dt from (t, u), in place; returns what entered."""
        return sum(self._take(self.trial(u, t + k * dt, dt, estimate=False), u) for k in range(n))

    def _take(self, step: Trial, u: np.ndarray) -> float:
        """Put a step into u, so that no two of them are held at once; returns what entered."""
        self.accept()
        u[...] = step.u
        self.counts.steps += 1
        return step.gain

    def estimate(self, error: np.ndarray) -> float:
        return self.system.rms(error)
