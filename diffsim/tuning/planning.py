"""Plan a run: the scheme, step and number of steps that reach a tolerance at the least counted work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..data import number
from ..errors import ConvergenceError, DiffsimError, ProblemError
from ..problem import Problem
from ..schemes import SCHEMES, SOLVE_WORK, Scheme, within
from ..simulate import simulate
from ..steppers import System, stepper_for
from ..trajectory import Trajectory
from .calibration import seconds
from .modes import Modes, decay

_SCANNED = 48  # step counts tried one by one: few steps of a high-order scheme do not improve monotonically
_MOST_STEPS = 10**12
_MARGIN_EXACT, _MARGIN = 0.97, 0.85  # share of the tolerance aimed at: errors known exactly, or from a Krylov space


@dataclass(frozen=True, eq=False)
class Alternative:
    """One way to reach the end: a row of `Plan.table`.

    Attributes
    ----------
    scheme, dt, steps
        `steps` equal steps of `dt` [s].
    stages
        Evaluations of the rates per step where the scheme chooses them; else None.
    work
        Counted work, in applications of the operator (`Scheme.work`).
    error
        Predicted temporal error at the end, relative to the span of the solution; nan where unknown.
    seconds
        Predicted time [s]; nan where the row cannot be run.
    feasible
        Whether it meets the tolerance.
    reason
        Why it is not feasible; "" otherwise.
    """

    scheme: str
    dt: float
    steps: int
    stages: int | None
    work: float
    error: float
    seconds: float
    feasible: bool
    reason: str = ""
    _start: Callable[..., Trajectory] | None = field(default=None, repr=False)

    def run(self, **options) -> Trajectory:
        """Run it: `simulate` with this scheme and step. `options` go to `simulate`; frames between shorten steps."""
        if self._start is None or self.steps == 0:
            raise ProblemError(f"{self.scheme} cannot be run here: {self.reason} Choose a row with steps > 0.")
        return self._start(scheme=self.scheme, dt=self.dt, **{"save": "final", "progress": False, **options})


@dataclass(frozen=True, eq=False)
class Plan:
    """The cheapest way to the tolerance, and all others.

    Attributes
    ----------
    best
        The row chosen; its entries are also attributes of the plan: scheme, dt, steps, work, seconds, error.
    table
        All alternatives, feasible ones first, least work first.
    until, tol
        What was asked [s; relative to the span].
    basis
        "modes": errors follow from the exact decay spectrum; "krylov": from a rational Krylov space; "measured": from
        short series of runs (data or coefficients that move).
    """

    best: Alternative
    table: tuple[Alternative, ...]
    until: float
    tol: float
    basis: str

    @property
    def scheme(self) -> str:
        """Name of the scheme chosen."""
        return self.best.scheme

    @property
    def dt(self) -> float:
        """Step [s]."""
        return self.best.dt

    @property
    def steps(self) -> int:
        """Number of equal steps."""
        return self.best.steps

    @property
    def work(self) -> float:
        """Counted work in applications of the operator."""
        return self.best.work

    @property
    def seconds(self) -> float:
        """Predicted time [s]."""
        return self.best.seconds

    @property
    def error(self) -> float:
        """Predicted temporal error at the end, relative to the span."""
        return self.best.error

    def run(self, **options) -> Trajectory:
        """Run the plan; `options` go to `simulate`."""
        return self.best.run(**options)

    def explain(self) -> str:
        """What was chosen and why, in a paragraph and a table."""
        how = {
            "modes": "from every decay mode of the problem",
            "krylov": "from the modes in a rational Krylov space",
            "measured": "measured on short series of runs, because data or coefficients move",
        }[self.basis]
        best = self.best
        lines = [
            f"To reach t = {self.until:.4g} s with a temporal error of at most {self.tol:g} of the solution's span, take "
            f"{best.steps} steps of {best.dt:.4g} s with {SCHEMES[best.scheme].title}: {best.work:.4g} applications of the "
            f"operator, about {best.seconds:.2g} s, predicted error {best.error:.2g} ({how}).",
        ]
        feasible = [row for row in self.table if row.feasible]
        if len(feasible) > 1:
            second = feasible[1]
            lines[0] += f" The next best, {second.scheme}, costs {second.work / best.work:.2g} times as much."
        ftcs = next((row for row in self.table if row.scheme == "ftcs" and row.steps), None)
        if ftcs is not None and ftcs is not best:
            lines[0] += f" FTCS needs {ftcs.steps} steps, {ftcs.work / best.work:.3g} times the work."
        return "\n".join([*lines, "", str(self)])

    def __str__(self) -> str:
        head = f"{'scheme':<16}{'steps':>10}{'dt [s]':>12}{'stages':>8}{'work':>12}{'error':>11}{'time [s]':>11}  note"
        rows = [
            f"{row.scheme:<16}{row.steps or '-':>10}{row.dt:>12.4g}{row.stages or '-':>8}{row.work:>12.4g}{row.error:>11.2g}"
            f"{row.seconds:>11.2g}  {'' if row.feasible else row.reason}"
            for row in self.table
        ]
        return "\n".join([head, *rows])


def plan(problem: Problem, initial: Any, until: float | None = None, tol: float = 1e-3) -> Plan:
    """Choose scheme, step and number of steps for a run, before it is made.

    The choice is by counted work of a fixed model (applications of the operator; a solve counts `SOLVE_WORK`), never
    by timing, so it is the same on every machine. The error of every scheme at every step follows from the decay
    modes of the problem, ``R(-dt lambda)^n`` against ``exp(-n dt lambda)``. Where coefficients or data move there are no
    modes; then short series of runs are measured against a tight one, which costs several runs.

    Parameters
    ----------
    initial
        Number, array of grid.shape, or callable(x, y, ...).
    until
        End time [s]; None: the time to equilibrium within `tol`.
    tol
        Temporal error allowed at the end: mass-weighted rms difference from the solution of the semi-discrete problem,
        relative to its span (largest minus smallest value in start and end).

    Raises
    ------
    ProblemError
        Where until=None and the problem has no fixed equilibrium; where no scheme reaches the tolerance.
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem = {problem!r} is not a Problem.")
    tol = number("tol", tol, above=0.0)
    if tol < 1e-9:
        raise ProblemError(f"tol = {tol:g} is below what linear solves and rounding leave; give at least 1e-9.")
    state = problem.grid.field("initial", initial, where=problem.active)
    if problem.fixed is not None:
        state[problem.fixed[0]] = problem.fixed[1][problem.fixed[0]]
    system = System(problem, state)
    moves = not (system.steady and system.first.forcing.constant)
    if until is None:
        if moves:
            raise ProblemError(
                "until = None asks for the time to equilibrium, which needs data and D that stay; give until."
            )
        from ..equilibrium import time_to_equilibrium

        until = time_to_equilibrium(problem, initial=state, tol=tol)
        until = until if until > 0 else 1.0 / (system.first.max_diagonal or 1.0)
    until = number("until", until, above=0.0)

    def start(**options) -> Trajectory:
        return simulate(problem, initial, until, **options)

    if moves:
        basis, rows = "measured", _measured_rows(system, state, start, until, tol)
    else:
        modes = decay(system.first, system.first.enter(state), until)
        basis, rows = "modes" if modes.exact else "krylov", _modal_rows(system, modes, start, until, tol)
    rows.sort(key=lambda row: (not row.feasible, row.work if row.work > 0 else math.inf))
    if not rows[0].feasible:
        raise ProblemError(
            f"no scheme reaches tol = {tol:g} at t = {until:g}; the nearest, {rows[0].scheme}: {rows[0].reason}"
        )
    return Plan(rows[0], tuple(rows), until, tol, basis)


# --- from the modes ---------------------------------------------------------------------------------------------------


def _modal_rows(system: System, modes: Modes, start: Callable, until: float, tol: float) -> list[Alternative]:
    target = tol * (_MARGIN_EXACT if modes.exact else _MARGIN)
    rows, unsplit = [], []
    for scheme in SCHEMES.values():
        if (refusal := _refusal(system, scheme)) is not None:
            rows.append(refusal)
            continue
        if scheme.family == "splitting" and modes.axis_rates is None and system.problem.grid.ndim > 1:
            unsplit.append(
                scheme
            )  # its error depends on how the rates split over the axes, which these modes do not know
            continue
        rows.append(_cheapest(scheme, modes, system, start, until, target))
    for scheme in unsplit:
        # where all rates split evenly the error is that of these modes; a run tells the truth
        guess = _cheapest(scheme, modes, system, start, until, target)
        rows.append(_verified(guess, system, start, until, target, min(row.work for row in rows if row.feasible)))
    return rows


def _refusal(system: System, scheme: Scheme) -> Alternative | None:
    """The row of a scheme that cannot do what the problem asks, or None."""
    try:
        stepper_for(system, scheme)
    except ProblemError as error:
        return Alternative(scheme.name, math.nan, 0, None, math.nan, math.nan, math.nan, False, str(error))
    return None


def least_steps(scheme: Scheme, reach: float, until: float) -> int:
    """Fewest equal steps to `until` that are stable."""
    limit = scheme.real_limit()
    count = until * reach / limit if math.isfinite(limit) else 0.0
    # a step exactly at the limit counts as stable, as everywhere
    return max(1, math.floor(count) if within(count, math.floor(count)) else math.ceil(count))


def _stages(scheme: Scheme, reach: float, dt: float) -> int | None:
    return scheme.stages_for(dt * reach) if scheme.stages is None else None


def _cheapest(
    scheme: Scheme, modes: Modes, system: System, start: Callable, until: float, target: float
) -> Alternative:
    """The step count of least work among those whose error the modes predict within `target`."""
    errors: dict[int, float] = {}

    def error(n: int) -> float:
        if n not in errors:
            errors[n] = modes.error(scheme, n, until)
        return errors[n]

    def work(n: int) -> float:
        return n * scheme.work(_stages(scheme, modes.reach, until / n))

    least = least_steps(scheme, modes.reach, until)
    good = [n for n in range(least, least + _SCANNED) if error(n) <= target]
    if not good:
        low, n = least + _SCANNED - 1, 2 * (least + _SCANNED)
        while error(n) > target:
            if n > _MOST_STEPS:
                row = _row(scheme, system, start, until, least, work(least), error(least))
                return replace(
                    row, feasible=False, reason=f"misses the tolerance with any number of steps up to {n:.1g}."
                )
            low, n = n, 2 * n
        while n - low > max(1, n // 256):
            middle = (low + n) // 2
            low, n = (low, middle) if error(middle) <= target else (middle, n)
        good = [n]
    if scheme.stages is None:  # one stage less per step for a few steps more can pay
        s = _stages(scheme, modes.reach, until / good[0])
        fewer = [d for d in scheme.degrees if d < s][-6:]  # type: ignore[attr-defined]
        extra = [max(good[0], math.ceil(until * modes.reach / scheme.real_limit(d))) for d in fewer]
        good += [n for n in extra if error(n) <= target]
    n = min(good, key=lambda n: (work(n), n))
    return _row(scheme, system, start, until, n, work(n), error(n))


def _row(scheme: Scheme, system: System, start, until: float, n: int, work: float, error: float) -> Alternative:
    stages = _stages(scheme, system.first.spectral_bound().value, until / n)
    predicted = seconds(system.first, scheme, n, work)
    return Alternative(scheme.name, until / n, n, stages, work, error, predicted, True, "", start)


def _verified(row: Alternative, system: System, start, until: float, target: float, bar: float) -> Alternative:
    """A row whose error the modes cannot know, corrected by runs; not run where it cannot become the cheapest."""
    if not row.feasible or row.work >= bar:
        return replace(
            row, feasible=False, error=math.nan, reason="costs more than others even if its splitting made no error."
        )
    reference = start(scheme="krylov", save="final", progress=False).final
    return _search(SCHEMES[row.scheme], system, start, until, target, reference, row.steps, bar)


# --- from runs --------------------------------------------------------------------------------------------------------


def _measured_rows(system: System, state: np.ndarray, start, until: float, tol: float) -> list[Alternative]:
    reference = None
    for name in ("sdirk3", "rkc2"):
        try:
            tight = start(scheme=name, tol=0.01 * tol, save="final", progress=False)
        except DiffsimError:
            continue
        if tight.ok:
            reference = tight.final
            break
    if reference is None:
        raise ConvergenceError(
            f"no reference run reached t = {until:g}; try a shorter time, or simulate(..., tol=...)."
        )
    rows, bar = [], math.inf
    # high order and implicit first: a low bar saves long runs of the others
    for scheme in sorted(SCHEMES.values(), key=lambda s: (-s.order, s.explicit)):
        row = _refusal(system, scheme)
        if row is None:
            row = _search(scheme, system, start, until, tol * _MARGIN_EXACT, reference, 4, bar)
        rows.append(row)
        if row.feasible:
            bar = min(bar, row.work)
    table_order = list(SCHEMES)
    return sorted(rows, key=lambda row: table_order.index(row.scheme))


def _search(scheme, system: System, start, until: float, target: float, reference, n: int, bar: float) -> Alternative:
    """Fewest steps whose measured error is within `target`; given up where they cost more than twice `bar`."""
    reach = system.first.spectral_bound().value
    least = least_steps(scheme, reach, until)
    n = max(n, least)
    known: dict[int, tuple[float, float]] = {}

    def good(n: int) -> bool:
        if n not in known:
            known[n] = _measured(scheme, system, start, until, n, reference)
        return known[n][0] <= target

    while (work := n * scheme.work(_stages(scheme, reach, until / n))) <= 2 * bar and not good(n):
        error = known[n][0]
        factor = (error / target) ** (1 / scheme.order) if math.isfinite(error) else 4.0
        n = max(n + 1, math.ceil(n * min(factor, 8.0)))
    if n not in known:
        row = _row(scheme, system, start, until, n, work, math.nan)
        why = "its stability limit alone" if n == least else "its accuracy"
        return replace(row, feasible=False, reason=f"{why} asks for more than twice the work of the best; not run.")
    low = max((m for m in known if m < n), default=least - 1)
    while n - low > max(1, n // 16):
        middle = (low + n) // 2
        low, n = (low, middle) if good(middle) else (middle, n)
    error, work = known[n]
    return _row(scheme, system, start, until, n, work, error)


def _measured(scheme, system: System, start, until: float, n: int, reference) -> tuple[float, float]:
    """(error, counted work) of a run with n steps; the error is inf where it blew up."""
    work = n * scheme.work(_stages(scheme, system.first.spectral_bound().value, until / n))
    try:
        run = start(scheme=scheme.name, dt=until / n, save=[0.0, until], progress=False)
    except DiffsimError:
        return math.inf, work
    if not run.ok:
        return math.inf, work
    if not system.problem.linear and not scheme.explicit:
        work = max(work, SOLVE_WORK * run.stats["solves"])  # Picard repeats the solves
    operator = system.first
    both = np.concatenate([operator.enter(x)[operator.free] for x in (run.u[0], reference)])
    span = float(both.max() - both.min())
    gap = operator.enter(run.final - reference)
    return (system.rms(gap) / span if span > 0 else 0.0), work
