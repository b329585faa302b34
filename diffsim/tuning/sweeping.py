"""The tuning map: what a run does at every step size and step count, beside what theory says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..data import number
from ..equilibrium import equilibrium, slowest_rate
from ..errors import DiffsimError, ProblemError
from ..operator import Operator
from ..problem import Problem
from ..schemes import Scheme, scheme_of, within
from ..stability import allowed_step, mesh_fourier, positive_step
from ..steppers import System, stepper_for
from .modes import DENSE_CELLS, Powers, power, whole_modes

OUTCOMES = ("unstable", "oscillating", "unfinished", "settled", "wasteful")
_NOISE = 1e-9  # of the initial distance: smaller changes are rounding, whatever they do
_LOST = 1e8  # a run this much further from the equilibrium than at its start does not come back
_MOST_STEPS = 10**9  # a run that has not settled by then counts as one that does not
_MOST_MARCHED = 10**6  # the same, where every step has to be taken


def fewest(settled: Callable[[int], bool]) -> float:
    """The least number of steps that is settled, by doubling and bisection; inf beyond `_MOST_STEPS`."""
    high = 1
    while not settled(high):
        high *= 2
        if high > _MOST_STEPS:
            return math.inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return float(high)


@dataclass(frozen=True, eq=False)
class Theory:
    """What is known without a run, per diffusivity: arrays of shape (n_diff,).

    Attributes
    ----------
    dt_limit
        Largest stable step [s].
    dt_positive
        Largest step guaranteed to make no new extrema [s].
    rate
        lambda_1, the slowest decay [1/s].
    fourier
        Mesh Fourier number per second of step [1/s]: Fo = fourier * dt.
    settled_time
        ln(1/tol) / lambda_1 [s]: every stable run is within tol after it, up to the error of the step itself.
    """

    dt_limit: np.ndarray
    dt_positive: np.ndarray
    rate: np.ndarray
    fourier: np.ndarray
    settled_time: np.ndarray
    scheme: Scheme
    reach: np.ndarray

    def settled_steps(self, k: int, dts: np.ndarray) -> np.ndarray:
        """Steps after which the slowest mode of case `k` has decayed to tol, ``ln(1/tol) / -ln|R(-dt lambda_1)|``."""
        decades = self.settled_time[k] * self.rate[k]  # ln(1/tol)
        result = np.empty(len(dts))
        for i, dt in enumerate(dts):
            stages = self.scheme.stages_for(dt * self.reach[k]) if self.scheme.stages is None else None
            factor = abs(float(power(self.scheme, np.array([-dt * self.rate[k]]), 1, stages)[0]))
            result[i] = decades / -math.log(factor) if 0 < factor < 1 else (1.0 if factor == 0 else math.inf)
        return result


@dataclass(frozen=True, eq=False)
class Sweep:
    """Outcomes of runs over (diffusivity,) step size and step count.

    Attributes
    ----------
    outcome
        Names from `OUTCOMES`, shape (n_dts, n_steps), with (n_diff,) in front where diffusivities were given:
        "unstable": the distance to the equilibrium has grown, or a mode of the run is growing;
        "oscillating": successive changes point in opposite directions, or there is an extremum that diffusion cannot make;
        "unfinished": further than tol from the equilibrium;
        "settled": within tol; "wasteful": within tol after half as many steps already.
    distance
        ||u - eq|| / ||u_0 - eq|| at the end, same shape.
    theory
        The lines.
    """

    dts: np.ndarray
    steps: np.ndarray
    diffusivities: tuple | None
    outcome: np.ndarray
    distance: np.ndarray
    theory: Theory
    scheme: str
    tol: float
    _work: np.ndarray = field(repr=False)

    @cached_property
    def fourier(self) -> np.ndarray:
        """Mesh Fourier numbers, (n_diff, n_dts)."""
        return self.theory.fourier[:, None] * self.dts

    @cached_property
    def decay(self) -> np.ndarray:
        """t * lambda_1, (n_diff, n_dts, n_steps)."""
        return self.theory.rate[:, None, None] * self.dts[:, None] * self.steps

    @property
    def best(self) -> tuple[float, int] | list[tuple[float, int] | None] | None:
        """(dt, steps) of the cheapest settled run by counted work; a list where diffusivities were given; None: no run settled."""
        cases = [self._best(layer, work) for layer, work in zip(self._layers, self._work, strict=True)]
        return cases if self.diffusivities is not None else cases[0]

    @property
    def _layers(self) -> np.ndarray:
        return self.outcome if self.diffusivities is not None else self.outcome[None]

    def _best(self, layer: np.ndarray, work: np.ndarray) -> tuple[float, int] | None:
        cost = np.where((layer == "settled") | (layer == "wasteful"), work, np.inf)
        i, j = np.unravel_index(int(np.argmin(cost)), cost.shape)
        return (float(self.dts[i]), int(self.steps[j])) if np.isfinite(cost[i, j]) else None

    def plot(self, path: str | Path | None = None):
        """One map per diffusivity with the lines of theory, and all of them on (Fo, t lambda_1); returns the Figure."""
        from .pictures import sweep_picture

        return sweep_picture(self, path)

    def __str__(self) -> str:
        letters = {"unstable": "x", "oscillating": "~", "unfinished": ".", "settled": "o", "wasteful": "w"}
        parts = []
        for k, layer in enumerate(self._layers):
            parts.append(
                f"case {k}: rows dt, columns steps {self.steps[0]} to {self.steps[-1]}" if len(self._layers) > 1 else ""
            )
            parts += [
                f"{dt:>10.4g}  " + "".join(letters[name] for name in row)
                for dt, row in zip(self.dts, layer, strict=True)
            ]
        parts.append("x unstable  ~ oscillating  . unfinished  o settled  w wasteful")
        return "\n".join(part for part in parts if part)


def sweep(
    problem: Problem,
    initial: Any,
    dts: Sequence[float],
    steps: Sequence[int],
    diffusivities: Sequence | None = None,
    scheme: str | Scheme = "ftcs",
    tol: float = 1e-3,
) -> Sweep:
    """Run every combination of step size, step count and diffusivity, and class what comes out.

    One run per (diffusivity, dt) serves all step counts. On constant boxes with value, flux or periodic sides, and on
    linear problems of at most 512 cells, all steps are taken at once: ``R(-dt lambda)^n`` on every mode.

    Parameters
    ----------
    dts, steps
        Step sizes [s] and step counts; unstable ones are welcome.
    diffusivities
        Anything that `Problem(diffusivity=...)` takes, one per case; None: the problem's own.
    scheme, tol
        Scheme to run; distance to the equilibrium, relative to the initial one, that counts as settled.

    Raises
    ------
    ProblemError
        Where there is no fixed equilibrium to settle to, or the initial state is it.
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem = {problem!r} is not a Problem.")
    row = scheme_of(scheme)
    tol = number("tol", tol, above=0.0)
    step_sizes = np.array([number("dts", dt, above=0.0) for dt in np.atleast_1d(np.asarray(dts, dtype=object))])
    counts = np.atleast_1d(np.asarray(steps))
    if counts.size == 0 or step_sizes.size == 0 or counts.dtype.kind not in "iu" or (counts < 1).any():
        raise ProblemError(f"steps = {steps}: give one or more whole numbers >= 1, and one or more dts.")
    cases = [problem] if diffusivities is None else [problem.with_(diffusivity=d) for d in diffusivities]
    if not cases:
        raise ProblemError("diffusivities is empty; give one or more, or None for the problem's own.")
    layers = [SweptCase(case, initial, row, tol) for case in cases]
    judged = [[layer.outcomes(float(dt), counts) for dt in step_sizes] for layer in layers]
    outcome = np.array([[names for names, _ in rows] for rows in judged])
    distance = np.array([[far for _, far in rows] for rows in judged])
    work = np.array([[counts * layer.work(float(dt)) for dt in step_sizes] for layer in layers])
    theory = Theory(
        dt_limit=np.array([layer.dt_limit for layer in layers]),
        dt_positive=np.array([layer.dt_positive for layer in layers]),
        rate=np.array([layer.rate for layer in layers]),
        fourier=np.array([layer.fourier for layer in layers]),
        settled_time=np.array([math.log(1 / tol) / layer.rate for layer in layers]),
        scheme=row,
        reach=np.array([layer.reach for layer in layers]),
    )
    if diffusivities is None:
        outcome, distance = outcome[0], distance[0]
    given = None if diffusivities is None else tuple(diffusivities)
    return Sweep(step_sizes, counts, given, outcome, distance, theory, row.name, tol, work)


@dataclass(frozen=True, eq=False)
class Cheapest:
    """The fewest steps that settle at each step size, and the cheapest of these runs.

    Attributes
    ----------
    dts
        Step sizes [s], (n,).
    steps
        Fewest steps that settle, (n,); inf where no number does.
    work
        Counted work of these runs, (n,); inf where there is none.
    """

    dts: np.ndarray
    steps: np.ndarray
    work: np.ndarray

    @property
    def best(self) -> tuple[float, int] | None:
        """(dt, steps) of least work; None where nothing settles."""
        i = int(np.argmin(self.work))
        return (float(self.dts[i]), int(self.steps[i])) if math.isfinite(self.work[i]) else None

    @property
    def cost(self) -> float:
        """Work of the cheapest."""
        return float(self.work.min())


def cheapest(
    problem: Problem, initial: Any, dts: Sequence[float], scheme: str | Scheme = "ftcs", tol: float = 1e-3
) -> Cheapest:
    """The exact optimum of the tuning map over the step sizes `dts`: the step count is found, not swept.

    Parameters and errors are those of `sweep`.
    """
    row = scheme_of(scheme)
    case = SweptCase(problem, initial, row, number("tol", tol, above=0.0))
    step_sizes = np.array([number("dts", dt, above=0.0) for dt in np.atleast_1d(np.asarray(dts, dtype=object))])
    steps = np.array([case.least_settled(float(dt)) for dt in step_sizes])
    pairs = zip(step_sizes, steps, strict=True)
    work = np.array([n * case.work(float(dt)) if math.isfinite(n) else math.inf for dt, n in pairs])
    return Cheapest(step_sizes, steps, work)


class SweptCase:
    """One diffusivity: its operator, its equilibrium, and the runs."""

    def __init__(self, problem: Problem, initial: Any, scheme: Scheme, tol: float):
        self.scheme, self.tol = scheme, tol
        start = problem.grid.field("initial", initial, where=problem.active)
        if problem.fixed is not None:
            start[problem.fixed[0]] = problem.fixed[1][problem.fixed[0]]
        self.system = System(problem, start)
        self.operator: Operator = self.system.first
        end = equilibrium(problem, tol=1e-10, initial=start)
        at_rest = Operator(problem, 0.0, None if problem.linear else end.u)
        self.u0 = self.operator.enter(start)
        self.goal = self.operator.enter(np.nan_to_num(end.u))
        self.first = self.u0 - self.goal
        self.scale = self.system.rms(self.first)
        if self.scale <= 1e-12 * max(self.system.rms(self.goal), 1e-300):
            raise ProblemError("the initial state is the equilibrium: nothing is left to settle. Start elsewhere.")
        free = self.first[self.operator.free]
        # diffusion draws the difference to the equilibrium towards 0 and makes no new extrema of it
        self.low, self.high = min(0.0, float(free.min())), max(0.0, float(free.max()))
        self.rate = slowest_rate(at_rest)
        self.reach = self.operator.spectral_bound().value
        self.dt_limit = allowed_step(self.operator, scheme)
        self.dt_positive = positive_step(self.operator, scheme)
        self.fourier = mesh_fourier(self.operator)

    def work(self, dt: float) -> float:
        return self.scheme.work(self._stages(dt))

    def outcomes(self, dt: float, counts: np.ndarray) -> tuple[list[str], list[float]]:
        """(names, relative distances) at every count of steps."""
        wanted = sorted({int(m) for n in counts for m in (n - 2, n - 1, n, n // 2) if m >= 0})
        states = self._errors(dt, wanted)
        with np.errstate(over="ignore", invalid="ignore"):
            judged = [self._judge(states, int(n)) for n in counts]
        return [name for name, _ in judged], [distance for _, distance in judged]

    def _errors(self, dt: float, wanted: list[int]) -> Callable[[int], np.ndarray | None]:
        """The difference to the equilibrium after each wanted number of steps; None where the run was lost."""
        uniform = self.operator.uniform
        if self.system.steady and self.scheme.family != "splitting":
            if uniform is not None and uniform.transformable and self.scheme.family != "multistep":
                return self._jumps(dt)
            if self.modes is not None:
                return self._leaps(dt, wanted)
        return self._marched(dt, wanted)

    @cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """(rates, vectors, m^1/2, initial difference in these vectors) of a small linear problem; None for others."""
        if not self.system.steady or self.operator.grid.size > DENSE_CELLS:
            return None
        rates, vectors, root = whole_modes(self.operator)
        return rates, vectors, root, vectors.T @ (root * self.first[self.operator.free])

    def least_settled(self, dt: float) -> float:
        """Fewest steps of `dt` after which the run is within tol for good; inf where there is no such number."""
        if self.modes is None or self.scheme.family == "splitting":
            return self._least_marched(dt)
        rates, _, root, parts = self.modes
        try:
            stages, z = self._stages(dt), -dt * rates
        except ProblemError:  # more stages than the scheme has: no step of this size
            return math.inf
        excited = np.abs(parts) > 1e-13 * np.linalg.norm(parts)
        if not (self.scheme.growth(z[excited & (rates > 0)], stages) < 1).all():
            return math.inf
        made = Powers(self.scheme, z, stages)
        level = self.tol * self.scale * float(np.linalg.norm(root))

        def settled(n: int) -> bool:
            return float(np.linalg.norm(made(n) * parts)) <= level

        return fewest(settled)

    def _least_marched(self, dt: float) -> float:
        if not within(dt, self.dt_limit):
            return math.inf
        stepper, u = stepper_for(self.system, self.scheme), self.u0.copy()
        for n in range(1, _MOST_MARCHED + 1):
            try:
                stepper.advance(u, (n - 1) * dt, dt, 1)
            except DiffsimError:
                return math.inf
            far = self.system.rms(u - self.goal) / self.scale
            if far <= self.tol:
                return float(n)
            if not far < _LOST:
                return math.inf
        return math.inf

    def _stages(self, dt: float) -> int | None:
        return self.scheme.stages_for(dt * self.reach) if self.scheme.stages is None else None

    def _judge(self, error: Callable[[int], np.ndarray | None], n: int) -> tuple[str, float]:
        now, before = error(n), error(n - 1)
        if now is None or before is None:
            return "unstable", math.inf
        distance = self.system.rms(now) / self.scale
        change = now - before
        size = self.system.rms(change) / self.scale
        if not math.isfinite(distance) or distance > 1 + _NOISE:
            return "unstable", distance
        reverses = False
        if n > 1 and size > _NOISE and (earlier := error(n - 2)) is not None:
            last = before - earlier
            # each step multiplies the change by R(-dt A): it can only shrink unless some |R| > 1
            if self.system.steady and size > self.system.rms(last) / self.scale * (1 + 1e-6):
                return "unstable", distance
            reverses = float((self.operator.mass * change * last).sum()) < 0
        if distance <= self.tol:
            half = error(n // 2)
            early = half is not None and n > 1 and self.system.rms(half) <= self.tol * self.scale
            return ("wasteful" if early else "settled"), distance
        slack = self.tol * (self.high - self.low)
        extremum = float(now.max()) > self.high + slack or float(now.min()) < self.low - slack
        return ("oscillating" if reverses or extremum else "unfinished"), distance

    def _jumps(self, dt: float) -> Callable[[int], np.ndarray | None]:
        """Distances to the equilibrium after any number of steps, by one transform each."""
        from .. import spectral

        stages = self._stages(dt)
        known: dict[int, np.ndarray] = {}
        facts = self.operator.uniform
        assert facts is not None  # the caller asked
        made: list[Powers] = []  # at the rates of the box, which the transform hands over

        def grown(rates: np.ndarray, n: int) -> np.ndarray:
            if not made:
                made.append(Powers(self.scheme, -dt * rates, stages))
            return made[0](n)

        def error(n: int) -> np.ndarray:
            if n not in known:
                with np.errstate(over="ignore", invalid="ignore"):
                    known[n] = spectral.apply_function(facts, self.first, lambda rates: grown(rates, n))
            return known[n]

        return error

    def _leaps(self, dt: float, wanted: list[int]) -> Callable[[int], np.ndarray | None]:
        """Distances after the wanted numbers of steps, all by one product with the eigenvectors."""
        assert self.modes is not None  # the caller asked
        rates, vectors, root, parts = self.modes
        stages = self._stages(dt)
        with np.errstate(over="ignore", invalid="ignore"):
            made = Powers(self.scheme, -dt * rates, stages)
            grown = np.stack([made(n) for n in wanted]) * parts
            lost = ~(np.abs(grown).max(axis=1) < _LOST * np.linalg.norm(parts))
            states = np.where(lost[:, None], 0.0, grown) @ vectors.T / root
        known: dict[int, np.ndarray | None] = {}
        for n, gone, state in zip(wanted, lost, states, strict=True):
            error = np.zeros(self.operator.shape)
            error[self.operator.free] = state
            known[n] = None if gone else error
        return known.get

    def _marched(self, dt: float, wanted: list[int]) -> Callable[[int], np.ndarray | None]:
        """Distances by one run with frames at the wanted counts; None after it was lost."""
        stepper = stepper_for(self.system, self.scheme)
        u, done = self.u0.copy(), 0
        known: dict[int, np.ndarray | None] = {}
        safe = self.system.steady and within(dt, self.dt_limit)
        finished = lost = False
        for n in wanted:
            if not (lost or finished) and n > done:
                try:
                    with np.errstate(over="ignore", invalid="ignore"):
                        stepper.advance(u, done * dt, dt, n - done)
                except DiffsimError:  # coefficients that leave their range on the way out
                    lost = True
                done = n
                with np.errstate(over="ignore", invalid="ignore"):
                    far = self.system.rms(u - self.goal) / self.scale
                lost = lost or not far < _LOST
                finished = safe and far <= 1e-3 * _NOISE  # a contraction stays where it has arrived
            known[n] = None if lost else u - self.goal
        return known.get


__all__ = ["OUTCOMES", "Cheapest", "Sweep", "SweptCase", "Theory", "cheapest", "sweep"]
