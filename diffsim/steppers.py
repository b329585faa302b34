"""One step of each family of schemes: ``u -> u_next``, with what entered on the way and an estimate of the error.

A stepper is built once per run for a `System` and a row of the table, and knows nothing of saving, stopping or
choosing steps. All fields here are padded (docs/architecture.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .errors import ConvergenceError, ProblemError
from .operator import Operator, discretize
from .problem import Problem
from .schemes import SCHEMES, Scheme

SOLVE_TOLERANCE = 1e-11  # relative residual of the linear solves inside a step: below every error that is estimated
PICARD_TOLERANCE = 1e-10
_TABLE_LIMIT = 1 << 20  # amplitudes held at once


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

    def __init__(self, problem: Problem, start: np.ndarray, t: float = 0.0):
        self.problem = problem
        self.steady = problem.steady_coefficients and problem.reaction is None
        self.first = discretize(problem, t, start if problem.follows_state else None)
        self.counts = Counts()

    def at(self, t: float, u: np.ndarray) -> Operator:
        """The operator at time t and padded state u."""
        if self.problem.steady_coefficients:
            return self.first
        return discretize(self.problem, t, self.first.leave(u) if self.problem.follows_state else None)

    def entered(self, operator: Operator, u: np.ndarray, t: float) -> float:
        """sum_i (F_i - w_i u_i): flow through walls, sources and losses into the free cells."""
        total = float((operator.forcing(t) - operator.diagonal * u).sum())
        return total + float(np.sum(self.reaction(operator, u))) if self.problem.reaction else total

    def reaction(self, operator: Operator, u: np.ndarray) -> np.ndarray:
        """The reaction term, integrated over the cells."""
        if self.problem.reaction is None:
            return np.zeros(())
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
        m = self.first.mass
        if self.first.all_free:
            return math.sqrt(float((m * u * u).sum() / m.sum()))
        free = self.first.free
        return math.sqrt(float((m * u * u)[free].sum() / m[free].sum()))


class Stepper:
    """Base: `trial` makes one step; `advance` many equal ones, in place."""

    def __init__(self, system: System, scheme: Scheme):
        self.system = system
        self.scheme: Any = scheme  # a row of the family that this stepper serves
        self.operator = system.first
        self.counts = system.counts

    def trial(self, u: np.ndarray, t: float, dt: float) -> Trial:
        """One step from (t, u), which stays as it is."""
        raise NotImplementedError

    def accept(self) -> None:
        """The last trial was taken: schemes with memory remember it."""

    def forget(self) -> None:
        """Schemes with memory start afresh."""

    def advance(self, u: np.ndarray, t: float, dt: float, n: int) -> float:
        """n steps of dt from (t, u), in place; returns what entered."""
        gain = 0.0
        for k in range(n):
            step = self.trial(u, t + k * dt, dt)
            self.accept()
            u[...] = step.u
            gain += step.gain
            self.counts.steps += 1
        return gain

    def estimate(self, error: np.ndarray) -> float:
        return self.system.rms(error)


# --- explicit ------------------------------------------------------------------------------------------------------


class _Compiled(Stepper):
    """Explicit steps on steady coefficients, inside compiled loops."""

    @cached_property
    def arrays(self) -> Any:
        """Conductances, diagonal and inverse mass in the order the kernels take them."""
        operator = self.operator
        inverse = 1.0 / operator.mass
        if not operator.all_free:
            inverse[~operator.free] = 0.0
        return (*operator.conductances, operator.diagonal, inverse)


class ExplicitEuler(_Compiled):
    """FTCS. Constant boxes take the blocked kernel in convex form, everything else the general one."""

    @cached_property
    def box(self):
        """The facts of the constant-coefficient kernel where it applies, else None."""
        operator = self.operator
        facts = operator.uniform
        if facts is None or any(d == 0 for d in facts.diffusivity[operator.lead :]):
            return None
        problem = operator.problem
        if not (problem.source.constant and problem.ambient.constant):
            return None
        sides = []
        for axis in range(3):
            pair: list = []
            for end in range(2):
                if axis < operator.lead or operator.periodic[axis]:
                    pair.append(None)
                    continue
                side = f"{operator.grid.axes[axis - operator.lead]}{'-+'[end]}"
                _, value, flux = problem.boundary[side].terms(side, operator.grid.side_shape(side))
                if not (value.scalar and flux.scalar):
                    return None
                pair.append((value, flux))
            sides.append(pair)
        return facts, sides

    def advance(self, u, t, dt, n):
        from .kernels import stepping

        self.counts.steps += n
        self.counts.stages += n
        if self.box is not None:
            return self._advance_box(u, t, dt, n)
        forcing, scratch, gain = self.operator.forcing, np.zeros_like(u), 0.0
        chunk = max(1, _TABLE_LIMIT // max(1, len(forcing.patterns))) if forcing.separable else 1
        for first in range(0, n, chunk):
            times = t + dt * np.arange(first, min(first + chunk, n))
            base, patterns, amplitudes = forcing.table(times)
            gain += stepping.advance_explicit_euler(*self.arrays, dt, base, patterns, amplitudes, u, scratch)
        return gain

    def _advance_box(self, u, t, dt, n):
        from .kernels import stepping

        facts, sides = self.box
        problem = self.operator.problem
        grain = 2.0**53  # weights that are multiples of 2^-53 sum to exactly 1: no drift of constants
        r = np.array(
            [
                dt * d / (facts.capacity * h**2) if d > 0 else 0.0
                for d, h in zip(facts.diffusivity, facts.spacing, strict=True)
            ]
        )
        r = np.round(r * grain) / grain
        decay = round(dt * facts.loss / facts.capacity * grain) / grain
        times = t + dt * np.arange(n)
        moving = any(not datum.constant for pair in sides for data in pair if data for datum in data)
        walls = np.zeros((n if moving else 1, 3, 2, 2))
        walls[..., 1] = 1.0
        for axis, pair in enumerate(sides):
            for end, data in enumerate(pair):
                if data is None:
                    continue
                value, flux = data
                w = facts.wall_factor(axis, end)
                d, h = facts.diffusivity[axis], facts.spacing[axis]
                walls[:, axis, end, 1] = 1.0 - w
                walls[:, axis, end, 0] = w * value.over(times[: len(walls)]) + flux.over(times[: len(walls)]) * h / d
        source = np.zeros((0, 0, 0))
        supply = problem.source.steady + problem.loss * problem.ambient.steady
        if np.any(supply):
            source = np.array(np.broadcast_to(dt / facts.capacity * supply, self.operator.grid.shape)).reshape(
                self.operator.shape
            )
        gain = stepping.advance_uniform(
            r, walls, np.array(self.operator.periodic), source, decay, n, u, np.empty_like(u)
        )
        return gain * self.operator._uniform_mass

    def trial(self, u, t, dt):
        new = u.copy()
        gain = self.advance(new, t, dt, 1)
        self.counts.steps -= 1  # counted by whoever accepts the trial
        return Trial(new, gain, None)


class RungeKuttaStepper(_Compiled):
    """Explicit Runge-Kutta, one compiled pass per stage."""

    @cached_property
    def work(self) -> np.ndarray:
        return np.zeros((self.scheme.stages + 1, *self.operator.shape))

    def trial(self, u, t, dt):
        from .kernels import stepping

        tableau = self.scheme.tableau
        base, patterns, amplitudes = self.operator.forcing.table(t + tableau.c * dt)
        out = np.zeros_like(u)
        none = np.zeros(0)
        gain, _ = stepping.runge_kutta_step(
            *self.arrays, dt, tableau.A, tableau.b, none, base, patterns, amplitudes, u, self.work, out
        )
        self.counts.stages += tableau.stages
        error = None
        if tableau.b_hat is not None:
            weights = tableau.b - tableau.b_hat
            error = self.estimate(dt * np.tensordot(weights, self.work[: tableau.stages], axes=1))
        return Trial(out, gain, error)


class StabilizedStepper(_Compiled):
    """Three-term recurrences; the stage count follows from the step."""

    @cached_property
    def work(self) -> np.ndarray:
        return np.zeros((2, *self.operator.shape))

    @cached_property
    def radius(self) -> float:
        return self.operator.spectral_bound().value

    def trial(self, u, t, dt):
        from .kernels import stepping

        row = self.scheme.recurrence(self.scheme.stages_for(dt * self.radius))
        operator, last = self.operator, len(row.mu) - 1
        base, patterns, amplitudes = operator.forcing.table(t + row.c[:last] * dt)
        out = np.zeros_like(u)
        gain = stepping.stabilized_step(
            *self.arrays, dt, row.mu, row.nu, row.mu_t, row.gamma_t, base, patterns, amplitudes, u, self.work, out
        )
        self.counts.stages += row.stages
        if row.finish:
            return self._finish(row, t, dt, out, gain)
        if self.scheme.estimate != "hermite":
            return Trial(out, gain, None)
        # the defect of the cubic Hermite interpolant (Sommeijer, Shampine & Verwer 1998)
        end = operator.rates(out, t + dt)
        error = 0.8 * (u - out) + 0.4 * dt * (self.work[0] + end)
        self.counts.stages += 1
        return Trial(out, gain, self.estimate(self._free(error)))

    def _free(self, field):
        return field if self.operator.all_free else np.where(self.operator.free, field, 0.0)

    def _finish(self, row, t, dt, y, gain):
        """The two closing stages of ROCK2 (Abdulle & Medovikov 2001)."""
        sigma, tau = row.finish
        inverse = self.arrays[-1]

        def rate(state, time):
            net = self.operator.forcing(time) - self.operator.apply(state)
            return net * inverse, self.system.entered(self.operator, state, time)

        end = t + row.c[-1] * dt
        first, g_first = rate(y, end)
        middle = y + sigma * dt * first
        second, g_second = rate(middle, end + sigma * dt)
        correction = (sigma - tau / sigma) * dt * (second - first)
        gain += dt * (sigma * (g_first + g_second) - (sigma - tau / sigma) * (g_second - g_first))
        return Trial(middle + sigma * dt * second - correction, gain, self.estimate(correction))


class GeneralExplicit(Stepper):
    """Explicit stages where D moves with t or u: coefficients are evaluated afresh at every stage."""

    def trial(self, u, t, dt):
        if self.scheme.tableau is not None:
            return self._runge_kutta(u, t, dt)
        return self._recurrence(u, t, dt)

    def _runge_kutta(self, u, t, dt):
        tableau = self.scheme.tableau
        rates: list[np.ndarray] = []
        gain = 0.0
        for row, b, c in zip(tableau.A, tableau.b, tableau.c, strict=True):
            stage = u + dt * sum((a * k for a, k in zip(row, rates, strict=False) if a), np.zeros_like(u))
            rate, entered = self.system.rate(t + c * dt, stage)
            rates.append(rate)
            gain += dt * b * entered
        new = u + dt * sum(b * k for b, k in zip(tableau.b, rates, strict=True))
        error = None
        if tableau.b_hat is not None:
            error = self.estimate(
                dt * sum((b - h) * k for b, h, k in zip(tableau.b, tableau.b_hat, rates, strict=True))
            )
        return Trial(new, gain, error)

    def _recurrence(self, u, t, dt):
        radius = self.system.at(t, u).spectral_bound().value
        row = self.scheme.recurrence(self.scheme.stages_for(1.05 * dt * radius))  # D may grow within the step
        first, entered0 = self.system.rate(t, u)
        before, now = u, u + row.mu_t[1] * dt * first
        g_before, gain = 0.0, row.mu_t[1] * dt * entered0
        for j in range(2, len(row.mu)):
            rate, entered = self.system.rate(t + row.c[j - 1] * dt, now)
            keep = 1 - row.mu[j] - row.nu[j]
            new = row.mu[j] * now + row.nu[j] * before + keep * u + dt * (row.mu_t[j] * rate + row.gamma_t[j] * first)
            g_new = row.mu[j] * gain + row.nu[j] * g_before + dt * (row.mu_t[j] * entered + row.gamma_t[j] * entered0)
            before, now, g_before, gain = now, new, gain, g_new
        if row.finish:
            sigma, tau = row.finish
            end = t + row.c[-1] * dt
            k1, g1 = self.system.rate(end, now)
            middle = now + sigma * dt * k1
            k2, g2 = self.system.rate(end + sigma * dt, middle)
            correction = (sigma - tau / sigma) * dt * (k2 - k1)
            gain += dt * (sigma * (g1 + g2) - (sigma - tau / sigma) * (g2 - g1))
            return Trial(middle + sigma * dt * k2 - correction, gain, self.estimate(correction))
        if self.scheme.estimate != "hermite":
            return Trial(now, gain, None)
        end, _ = self.system.rate(t + dt, now)
        return Trial(now, gain, self.estimate(0.8 * (u - now) + 0.4 * dt * (first + end)))


# --- implicit ------------------------------------------------------------------------------------------------------


class ShiftedSolver:
    """Solves ``(shift m + K) x = rhs``: transforms on constant boxes, multigrid-preconditioned CG elsewhere."""

    def __init__(self, operator: Operator, counts: Counts, tolerance: float = SOLVE_TOLERANCE):
        self.operator, self.counts, self.tolerance = operator, counts, tolerance
        self._multigrid: dict[float, Any] = {}

    def solve(self, shift: float, rhs: np.ndarray, guess: np.ndarray | None = None) -> np.ndarray:
        operator = self.operator
        self.counts.solves += 1
        if operator.uniform is not None and operator.uniform.transformable:
            from . import spectral

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
            from .multigrid import Multigrid

            if len(self._multigrid) >= 4:  # adaptive runs wander; old steps do not come back
                self._multigrid.clear()
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
        from .multigrid import Solve

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


class ImplicitStepper(Stepper):
    """Diagonally implicit Runge-Kutta in increments, so that an equilibrium stays where it is to rounding."""

    def __init__(self, system, scheme):
        super().__init__(system, scheme)
        self.solver = ShiftedSolver(self.operator, self.counts)

    def trial(self, u, t, dt):
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
        if tableau.b_hat is not None:
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

    def trial(self, u, t, dt):
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
        if tableau.b_hat is not None:
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
        self.starter = stepper_for(system, SCHEMES[scheme.starter])
        self.solver = ShiftedSolver(self.operator, self.counts)
        self.before: tuple | None = (
            None  # (t, dt, u, gain) of the last step taken, to tell a continued run from a new one
        )

    def trial(self, u, t, dt):
        if self.before is None or abs(self.before[0] + self.before[1] - t) > 1e-9 * dt or dt > 2.4 * self.before[1]:
            step = self.starter.trial(u, t, dt)
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

    def trial(self, u, t, dt):
        from .kernels import splitting

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


# --- exponential -----------------------------------------------------------------------------------------------------


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

    def trial(self, u, t, dt):
        operator = self.operator
        rate = operator.rates(u, t)
        if not operator.all_free:
            rate[~operator.free] = 0.0
        one, two = self.functions(rate, dt)
        gain = dt * self.system.entered(operator, u, t) - dt**2 * float((operator.diagonal * two).sum())
        self.counts.stages += 1
        return Trial(u + dt * one, gain, None)


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
        from . import spectral

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


# --- which stepper serves which row -----------------------------------------------------------------------------------


_STEADY: dict[str, type[Stepper]] = {
    "runge-kutta": RungeKuttaStepper,
    "stabilized": StabilizedStepper,
    "dirk": ImplicitStepper,
    "multistep": Bdf2Stepper,
    "splitting": AdiStepper,
}
_MOVING: dict[str, type[Stepper]] = {
    "runge-kutta": GeneralExplicit,
    "stabilized": GeneralExplicit,
    "dirk": PicardStepper,
}
_BY_NAME: dict[str, type[Stepper]] = {"ftcs": ExplicitEuler, "exact": ExactStepper, "krylov": KrylovStepper}


def stepper_for(system: System, scheme: Scheme) -> Stepper:
    """The stepper of a row for a system; a `ProblemError` where the scheme cannot do what the problem asks."""
    compiled = system.steady and (system.first.cross is None or not scheme.explicit)
    if compiled:
        if scheme.family == "splitting" and system.first.cross is not None:
            raise ProblemError("scheme = 'adi' cannot split a full tensor D; use 'tr-bdf2' or 'rkc2'.")
        return (_BY_NAME.get(scheme.name) or _STEADY[scheme.family])(system, scheme)
    if scheme.family not in _MOVING:
        usable = [row.name for row in SCHEMES.values() if row.family in _MOVING]
        raise ProblemError(
            f"scheme = {scheme.name!r} needs coefficients that do not change; here D depends on t or u, or there is a reaction. "
            f"Use one of {', '.join(usable)}."
        )
    return _MOVING[scheme.family](system, scheme)
