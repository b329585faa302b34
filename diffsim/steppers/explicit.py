"""Explicit schemes: compiled loops on steady coefficients, stage by stage where coefficients move."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..lines import aligned
from ..operator import Operator
from ..uniform import Uniform
from .base import Stepper, Trial

_TABLE_LIMIT = 1 << 20  # amplitudes held at once


class _Compiled(Stepper):
    """Explicit steps on steady coefficients, inside compiled loops."""

    @cached_property
    def arrays(self) -> Any:
        """Conductances, diagonal and inverse mass in the order the kernels take them."""
        return (*self.operator.stencil, self.operator.diagonal, self.operator.inverse_mass)


def constant_box(operator: Operator) -> tuple[Uniform, list] | None:
    """(facts, pairs of (value, flux) per padded axis, None where it is periodic or padding) where forward Euler can take the
    kernel of constant coefficients; no array of the grid's size is made."""
    facts, problem = operator.uniform, operator.problem
    if facts is None or any(d == 0 for d in facts.diffusivity[operator.lead :]):
        return None
    if not (problem.source.constant and problem.ambient.constant):
        return None
    sides = []
    for axis in range(3):
        pair: list = []
        for end in range(2):
            if axis < operator.lead or operator.periodic[axis]:
                pair.append(None)
                continue
            ((_, _, (_, value, flux)),) = problem.wall_terms[f"{operator.grid.axes[axis - operator.lead]}{'-+'[end]}"]
            if not (value.scalar and flux.scalar):
                return None
            pair.append((value, flux))
        sides.append(pair)
    return facts, sides


class ExplicitEuler(_Compiled):
    """FTCS. Constant boxes take the blocked kernel in convex form, everything else the general one."""

    _supplied: tuple[float, np.ndarray] | None = None

    @cached_property
    def box(self):
        """The facts of the constant-coefficient kernel where it applies, else None."""
        return None if self.system.shaken else constant_box(self.operator)

    @cached_property
    def quiet(self) -> Any:
        """Cells on which nothing but their neighbours acts; None where the forcing is not made of lasting arrays."""
        from ..kernels import stepping

        forcing = self.operator.forcing
        if self.system.shaken or not forcing.separable:
            return None
        return stepping.quiet_cells(*self.arrays[-2:], forcing.base, forcing.patterns)

    @cached_property
    def scratch(self) -> np.ndarray:
        """The second array that a step needs, the only one of the grid's size besides state and coefficients."""
        return aligned(self.operator.shape)

    def advance(self, u, t, dt, n):
        from ..kernels import stepping

        self.counts.steps += n
        self.counts.stages += n
        if self.box is not None:
            return self._advance_box(u, t, dt, n)
        forcing, gain = self.operator.forcing, 0.0
        chunk = max(1, _TABLE_LIMIT // max(1, len(forcing.patterns))) if forcing.separable else 1
        for first in range(0, n, chunk):
            times = t + dt * np.arange(first, min(first + chunk, n))
            base, patterns, amplitudes = forcing.table(times)
            gain += stepping.advance_explicit_euler(
                *self.arrays, dt, base, patterns, amplitudes, u, scratch=self.scratch, quiet=self.quiet
            )
        return gain

    def _advance_box(self, u, t, dt, n):
        from ..kernels import stepping

        facts, sides = self.box
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
        wraps, supply = np.array(self.operator.periodic), self._supply(dt)
        gain = stepping.advance_uniform(r, walls, wraps, supply, decay, n, u, self.scratch)
        return gain * self.operator._uniform_mass

    def _supply(self, dt: float) -> np.ndarray:
        """What source and surroundings add to a cell per step; of size 0 where they add nothing. Kept while dt lasts."""
        if self._supplied is None or self._supplied[0] != dt:
            self._supplied = None  # gone before the next is made
            problem, operator = self.system.problem, self.operator
            supply, exchange = np.zeros((0, 0, 0)), problem.loss * problem.ambient.steady
            if np.any(problem.source.steady) or np.any(exchange):
                supply = aligned(operator.shape)
                np.add(problem.source.steady, exchange, out=operator.unpad(supply))
                supply *= dt / problem.capacity
            self._supplied = dt, supply
        return self._supplied[1]

    def trial(self, u, t, dt, estimate=True):
        new = u.copy()
        gain = self.advance(new, t, dt, 1)
        self.counts.steps -= 1  # counted by whoever accepts the trial
        return Trial(new, gain, None)


class RungeKuttaStepper(_Compiled):
    """Explicit Runge-Kutta, one compiled pass per stage."""

    @cached_property
    def work(self) -> np.ndarray:
        return aligned((self.scheme.stages + 1, *self.operator.shape))

    def trial(self, u, t, dt, estimate=True):
        from ..kernels import stepping

        tableau = self.scheme.tableau
        base, patterns, amplitudes = self.operator.forcing.table(t + tableau.c * dt)
        out = np.empty_like(u)
        none = np.zeros(0)
        gain, _ = stepping.runge_kutta_step(
            *self.arrays, dt, tableau.A, tableau.b, none, base, patterns, amplitudes, u, self.work, out
        )
        self.counts.stages += tableau.stages
        error = None
        if estimate and tableau.b_hat is not None:
            weights = dt * (tableau.b - tableau.b_hat)
            error = self.estimate(np.tensordot(weights, self.work[: tableau.stages], axes=1))
        return Trial(out, gain, error)


class StabilizedStepper(_Compiled):
    """Three-term recurrences; the stage count follows from the step."""

    @cached_property
    def work(self) -> np.ndarray:
        return aligned((2, *self.operator.shape))

    @cached_property
    def radius(self) -> float:
        return self.operator.spectral_bound().value

    def trial(self, u, t, dt, estimate=True):
        from ..kernels import stepping

        row = self.scheme.recurrence(self.scheme.stages_for(dt * self.radius))
        operator, last = self.operator, len(row.mu) - 1
        base, patterns, amplitudes = operator.forcing.table(t + row.c[:last] * dt)
        out = np.empty_like(u)
        gain = stepping.stabilized_step(
            *self.arrays, dt, row.mu, row.nu, row.mu_t, row.gamma_t, base, patterns, amplitudes, u, self.work, out
        )
        self.counts.stages += row.stages
        if row.finish:
            return self._finish(row, t, dt, out, gain)
        if not estimate or self.scheme.estimate != "hermite":
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

    def trial(self, u, t, dt, estimate=True):
        if self.scheme.tableau is not None:
            return self._runge_kutta(u, t, dt, estimate)
        return self._recurrence(u, t, dt, estimate)

    def _runge_kutta(self, u, t, dt, estimate):
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
        if estimate and tableau.b_hat is not None:
            error = self.estimate(
                dt * sum((b - h) * k for b, h, k in zip(tableau.b, tableau.b_hat, rates, strict=True))
            )
        return Trial(new, gain, error)

    def _recurrence(self, u, t, dt, estimate):
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
        if not estimate or self.scheme.estimate != "hermite":
            return Trial(now, gain, None)
        end, _ = self.system.rate(t + dt, now)
        return Trial(now, gain, self.estimate(0.8 * (u - now) + 0.4 * dt * (first + end)))
