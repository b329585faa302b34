"""The time loop: which scheme and step, which frames, when to stop, and what the run reports of itself."""

from __future__ import annotations

import bisect
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .data import number
from .errors import ConvergenceError, ProblemError, StabilityError
from .footprint import count_frames, run_bytes
from .lines import aligned
from .operator import Operator
from .points import PointValue
from .problem import OfState, Problem
from .resources import memory_available, require_memory
from .schemes import SCHEMES, SOLVE_WORK, Scheme, scheme_of
from .steppers import Stepper, System, longest_kernel, rehearse, stepper_for
from .trajectory import Trajectory

DEFAULT_TOL = 1e-4
LEAST = "ftcs"  # no scheme takes less memory
POLICIES = ("raise", "substep", "switch", "allow")
_CHUNK_CELLS = 1 << 24  # cell updates between two looks at the state: some 10 ms
_CHUNK_STEPS = 64  # at least, where nothing asks for more looks: a look costs what several steps cost
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 4.0
# the tolerance is met over the run when each of its some 10^2 steps takes this share of it
_SHARE = 0.1
_TYPICAL_STEPS = 40  # accuracy steps of an adaptive run at the default tolerance; the fixed model behind "auto"
_AUTO_FTCS_STEPS = 20_000
_KRYLOV_CELLS = 4_000_000  # a Krylov space holds about ten fields
_LONG = 1e5  # diffusion times: a run this long is a mistake of units, or wants the equilibrium
_MOST_STEPS = 1e10
_MOST_STAGES = 300  # more lose digits in the recurrence, and gain little


@dataclass(frozen=True)
class AtSteady:
    """Stop once ``||F - K u|| <= rtol * max(||F||, ||F - K u|| at the start)``: nothing moves any more."""

    rtol: float = 1e-6

    def __post_init__(self):
        number("AtSteady rtol", self.rtol, above=0.0)


@dataclass
class _Run:
    """What accumulates while the run goes on."""

    system: System
    u: np.ndarray
    t: float
    frames: np.ndarray  # (n, *grid.shape), those saved so far first
    gain: float = 0.0
    times: list[float] = field(default_factory=list)
    contents: list[float] = field(default_factory=list)
    flows: dict[str, list[float]] = field(default_factory=dict)
    probes: dict[str, PointValue] = field(default_factory=dict)
    records: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    dt: float = math.nan
    dt_range: tuple[float, float] = (math.inf, 0.0)
    counted: tuple[float, float] = (math.nan, math.nan)  # (time, content) of the last count

    def __post_init__(self):
        self.start_content = self.content()

    @property
    def operator(self) -> Operator:
        """The operator at the present time and state."""
        return self.system.at(self.t, self.u)

    def content(self) -> float:
        """The content of the present state, counted once."""
        if self.counted[0] != self.t:
            self.counted = self.t, self.system.first.content(self.u)  # masses do not depend on t or u
        return self.counted[1]

    def save(self) -> None:
        operator = self.operator
        self.contents.append(self.content())
        for side in self.flows:
            self.flows[side].append(operator.flow(side, self.u, self.t))
        operator.leave(self.u, out=self.frames[len(self.times)])  # last: the state itself may become its frame
        self.times.append(float(self.t))

    def probe(self) -> None:
        if not self.probes:
            return
        operator = self.operator
        for name, point in self.probes.items():
            times, values = self.records[name]
            if not times or times[-1] != self.t:
                point.operator = operator
                times.append(self.t)
                values.append(point(self.u, self.t))

    def used(self, dt: float) -> None:
        self.dt = dt
        self.dt_range = (min(self.dt_range[0], dt), max(self.dt_range[1], dt))


class _Ended(Exception):
    """The loop is over: carries status and message."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status, self.message = status, message


def simulate(
    problem: Problem,
    initial: Any,
    until: float,
    scheme: str | Scheme = "auto",
    dt: float | str = "auto",
    tol: float | None = None,
    save: int | str | Any = 50,
    on_unstable: str = "raise",
    stop: Callable | AtSteady | None = None,
    probes: dict | None = None,
    progress: bool | Callable | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Trajectory:
    """Advance `problem` from `initial` to the time `until`.

    No step is taken before it is proved stable. Every saved time is hit exactly: between two of them the number of
    steps is chosen first, and the step is the quotient.

    Parameters
    ----------
    initial
        State at t = 0: number, array of grid.shape, callable(x, y, ...), or a `Trajectory` to continue from its end.
    until
        End time [s], counted from t = 0 of the first run.
    scheme
        A name of `diffsim.schemes.SCHEMES`, or "auto": the exact transform where it applies, otherwise the cheaper of an
        explicit stabilized and an implicit method by a fixed model of counted work.
    dt
        Step [s]; "auto": the largest stable step without new extrema for explicit schemes of fixed stages, adaptive
        for all others.
    tol
        Temporal error to aim at, relative to the span of the field (adaptive steps; default 1e-4 where steps adapt).
    save
        Number of frames, equally spaced, first and last included; or an array of times; or "final".
    on_unstable
        "raise" a `StabilityError`; "substep": take the largest stable step; "switch" to a scheme that is stable at this dt;
        "allow": run on, and end as "unstable" when the run has blown up.
    stop
        callable(t, u) -> bool, asked after every step, or `AtSteady(rtol)`.
    probes
        {name: point}: values recorded along the run (every step of adaptive runs, at least 200 times otherwise).
    progress
        True, False, or callable(fraction, t); None: a bar after two seconds where a terminal watches.
    noise, seed
        Strength of white noise in space and time, ``c du = (...) dt + noise dW``: the stochastic heat equation, on fixed
        steps. Crank-Nicolson has its stationary variance exactly; "auto" takes it.

    Returns
    -------
    Trajectory

    Raises
    ------
    ProblemError
        For arguments that make no sense together.
    StabilityError
        For an unstable step with on_unstable="raise".
    ResourceError
        Where the frames do not fit into memory.
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem = {problem!r} is not a Problem.")
    if on_unstable not in POLICIES:
        raise ProblemError(f"on_unstable = {on_unstable!r} is unknown; choose one of {', '.join(POLICIES)}.")
    if stop is not None and not callable(stop) and not isinstance(stop, AtSteady):
        raise ProblemError(f"stop = {stop!r}: give a function of (t, u), or AtSteady(rtol).")
    begin = float(initial.t[-1]) if isinstance(initial, Trajectory) else 0.0
    until = number("until", until)
    if until < begin:
        raise ProblemError(f"until = {until:g} lies before the start at t = {begin:g}; give a later time.")
    tol = None if tol is None else number("tol", tol, above=0.0)
    step = None if isinstance(dt, str) and dt == "auto" else number("dt", dt, above=0.0)
    noise = number("noise", noise, least=0.0)
    asked = scheme_of(LEAST if scheme == "auto" else scheme)
    available = memory_available()
    needs: dict[str, Any] = {
        "save": save,
        "step": step,
        "tol": tol,
        "on_unstable": on_unstable,
        "stop": stop,
        "noise": noise,
    }
    require_room(problem, asked, available, **needs)
    times = frame_times(save, begin, until)
    frames = aligned((len(times), *problem.grid.shape))
    # the state lives in the place of the last frame, which is made when nothing else needs it any more
    field0 = _initial_field(problem, initial, frames[-1])

    system = System(problem, field0, begin, noise, seed)
    operator = system.first
    watched = stop is not None or bool(probes)
    chosen = (
        choose(system, until - begin, tol or DEFAULT_TOL, leaps(times, begin, watched))
        if scheme == "auto"
        else scheme_of(scheme)
    )
    if noise and (tol is not None or chosen.family in ("exponential", "multistep")):
        raise ProblemError(
            f"noise is stepped with a fixed dt by a one-step scheme; scheme = {chosen.name!r}, tol = {tol} do not fit. "
            "Use 'crank-nicolson', whose stationary variance is exact, and give dt."
        )
    if noise and step is None:
        step = 1.0 / (operator.max_diagonal or 1.0)
    from . import compiling
    from .kernels import stepping
    from .stability import is_proved

    kernel, like = longest_kernel(system, chosen), (chosen.name, problem.grid.ndim)
    with compiling.beside(kernel) as order:
        order(kernel, rehearse, lambda: like)
        chosen, step = _checked_step(operator, chosen, step, on_unstable)
        if chosen is not asked:
            require_room(problem, chosen, available, **{**needs, "step": step})
        stepper = stepper_for(system, chosen)
        if tol is not None or scheme == "auto":
            stepper.aim(_SHARE * (tol or DEFAULT_TOL))

        _require_patience(problem, chosen, step, operator, until - begin, stop)

        run = _Run(system, operator.settle(field0), begin, frames)
        run.flows = {side: [] for side in problem.grid.sides}
        if problem.active is not None:
            run.flows["void"] = []
        if problem.fixed is not None:
            run.flows["fixed"] = []
        for name, point in (probes or {}).items():
            run.probes[name] = PointValue(operator, point)
            run.records[name] = ([], [])

        wild = step is not None and on_unstable == "allow" and problem.reaction is None  # a reaction has no such bound
        if wild and step is not None and problem.steady_coefficients:
            wild = not is_proved(operator, chosen, step)
        watch = _Watch(run, stop, _Progress(progress, begin, until), wild)
        adaptive = step is None and _adaptive(chosen, tol)
        first = _first_step(run, _SHARE * (tol or DEFAULT_TOL)) if adaptive else 0.0
        _max_abs(run.u[:1, :1, :1])  # compiled now, while this process would wait for the one beside
    status, message = "finished", f"reached t = {until:g} with {chosen.name}"
    try:
        run.probe()
        if times[0] == begin:
            run.save()
            times = times[1:]
        if adaptive:
            _adapt(run, stepper, times, tol or DEFAULT_TOL, first, watch)
        else:
            _march(run, stepper, times, step, on_unstable, watch)
    except _Ended as end:
        status, message = end.status, end.message
    except ConvergenceError as error:
        status, message = "failed", f"at t = {run.t:g}: {error}"
    except KeyboardInterrupt:
        status, message = (
            "interrupted",
            f"interrupted at t = {run.t:g}; continue with simulate(problem, trajectory, until={until:g})",
        )
    finally:
        watch.progress.close()
    if not run.times or (run.t > run.times[-1] and stepping.is_finite(run.u)):
        run.save()  # an early end keeps its last good state
    return _trajectory(run, chosen, status, message)


def require_room(
    problem: Problem,
    scheme: Scheme,
    available: int,
    *,
    save: Any,
    step: float | None,
    tol: float | None,
    on_unstable: str = "raise",
    stop: Any = None,
    noise: float = 0.0,
) -> int:
    """Bytes that a run with these settings of `simulate` takes; a `ResourceError` where they are not `available`."""
    frames, wild = count_frames(save), on_unstable == "allow" and step is not None
    settings = {"adaptive": step is None and _adaptive(scheme, tol), "stop": stop, "wild": wild, "noise": noise > 0}
    needed = run_bytes(problem, scheme, frames, **settings)
    cells = " x ".join(map(str, problem.grid.shape))
    what = f"simulating {cells} cells with {frames} frames by {scheme.name}"
    require_memory(needed, what, problem.grid.shape, available)
    return needed


# --- choices ---------------------------------------------------------------------------------------------------------


def choose(system: System, duration: float, tol: float, intervals: float = math.inf) -> Scheme:
    """The scheme behind "auto": deterministic, by counted work of a fixed model.

    `intervals`: see `leaps`.
    """
    operator = system.first
    if system.shaken:
        return SCHEMES["crank-nicolson"]
    if not system.steady:
        # positive explicit steps keep D(u) inside its domain; stiff ones are solved
        steps = duration * operator.max_diagonal
        return SCHEMES[
            "ftcs" if steps <= _AUTO_FTCS_STEPS or not isinstance(system.problem.diffusivity, OfState) else "tr-bdf2"
        ]
    if operator.uniform is not None and operator.uniform.transformable and operator.forcing.constant:
        return SCHEMES["exact"]
    steps = _TYPICAL_STEPS * (DEFAULT_TOL / tol) ** (1 / 3)
    explicit, implicit = SCHEMES["rkc2"], SCHEMES["tr-bdf2"]
    stages = (
        math.sqrt(_radius(operator) * duration / steps / explicit.real_limit(100)) * 100
    )  # real_limit grows like s^2
    filtered = implicit.work() + SOLVE_WORK
    if operator.forcing.constant and operator.mass.size <= _KRYLOV_CELLS:
        # a space grows by one solve for about two thirds of a digit (17 solves at 1e-10), whatever the stiffness
        solves = 2 + 1.5 * math.log10(1 / min(_SHARE * tol, 0.1))
        if intervals * solves * SOLVE_WORK < steps * min(stages, filtered):
            return SCHEMES["krylov"]
    return explicit if stages <= filtered else implicit


def leaps(times: np.ndarray, begin: float, watched: bool) -> float:
    """How many times an exponential would be formed: once per saved frame after the start; inf where the run is looked at
    in between."""
    return math.inf if watched else len(times) - int(times[0] == begin)


def _radius(operator: Operator) -> float:
    return operator.spectral_bound().value or 1e-300


def _adaptive(scheme: Scheme, tol: float | None) -> bool:
    """Steps follow an error estimate: where a tolerance was given, and where stability sets no step."""
    if scheme.family == "exponential":
        return False
    fixed_stages = scheme.explicit and scheme.stages is not None
    return tol is not None or not fixed_stages


def _checked_step(operator: Operator, scheme: Scheme, step: float | None, policy: str) -> tuple[Scheme, float | None]:
    """The scheme and step that the policy makes of what was asked."""
    if step is None or policy == "allow":
        return scheme, step
    from .stability import check_step

    try:
        check_step(operator, scheme, step)
    except StabilityError:
        if policy == "raise":
            raise
        if policy == "substep":
            return scheme, scheme.real_limit() / _radius(operator)
        return SCHEMES["tr-bdf2" if operator.linear else "backward-euler"], step
    return scheme, step


def largest_good_step(operator: Operator, scheme: Scheme) -> float:
    """The step of dt="auto" for explicit schemes of fixed stages: stable, and without new extrema."""
    from .stability import allowed_step, positive_step

    plain = operator.spectral_bound(sharp=False).value
    positive = positive_step(operator, scheme, plain)
    if 0 < positive * plain <= scheme.real_limit():
        return positive  # the positive step is the smaller one already by Gershgorin: nothing to sharpen
    limit = allowed_step(operator, scheme)
    return min(limit, positive) if positive > 0 else limit


def frame_times(save, begin: float, until: float) -> np.ndarray:
    """The times of the frames that `save` asks for, (n,); see `simulate`."""
    if isinstance(save, str):
        if save != "final":
            raise ProblemError(f"save = {save!r} is unknown; give a number of frames, an array of times, or 'final'.")
        return np.array([until])
    if np.ndim(save) == 0:
        if isinstance(save, bool) or not float(save).is_integer() or save < 1:
            raise ProblemError(f"save = {save!r}: give a whole number of frames >= 1, an array of times, or 'final'.")
        n = int(save)
        if n == 1 or until == begin:
            return np.array([until])
        times = np.linspace(begin, until, n)
        times[-1] = until
        return times
    times = np.array(save, dtype=float)
    if times.ndim != 1 or times.size == 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ProblemError("save: give one or more finite times that increase strictly, shape (n,).")
    if times[0] < begin or times[-1] > until:
        raise ProblemError(
            f"save holds times from {times[0]:g} to {times[-1]:g}; the run covers {begin:g} to {until:g}."
        )
    return times


def _require_patience(problem, scheme: Scheme, step: float | None, operator: Operator, duration: float, stop) -> None:
    """Refuse runs that no one would wait for, and doubt times far beyond rest: mostly a matter of units."""
    fastest = problem.diffusivity if isinstance(problem.diffusivity, float) else None
    if fastest is not None and stop is None:
        scale = max(problem.grid.lengths) ** 2 * np.max(problem.capacity) / fastest
        if duration > _LONG * scale:
            warnings.warn(
                f"until lies {duration / scale:.2g} x L^2 c / D away (L = {max(problem.grid.lengths):g}, D = {fastest:g}): "
                "everything is at rest long before. Check the units, or ask for the equilibrium.",
                stacklevel=3,
            )
    if step is None and not (scheme.explicit and scheme.stages is not None):
        return
    size = step if step is not None else largest_good_step(operator, scheme)
    if duration / size > _MOST_STEPS:
        raise ProblemError(
            f"{scheme.name} would take {duration / size:.2g} steps of {size:.3g} s to reach the end; at most {_MOST_STEPS:.0g} "
            "are begun. Use scheme='auto', whose steps grow as the field settles, ask for the equilibrium, or check the units."
        )


def _initial_field(problem: Problem, initial, out: np.ndarray) -> np.ndarray:
    """The field that a run starts from, in `out`."""
    grid = problem.grid
    if isinstance(initial, Trajectory):
        if initial.grid.shape != grid.shape:
            raise ProblemError(
                f"initial is a Trajectory on a grid of {initial.grid.shape}; this problem has {grid.shape}."
            )
        initial = initial.final
    field0 = grid.field("initial", initial, where=problem.active, out=out)
    if problem.fixed is not None:
        mask, values = problem.fixed
        field0[mask] = values[mask]
    return field0


def _max_abs(u: np.ndarray) -> float:
    """Largest magnitude; not finite where any number is not."""
    from .kernels import stepping

    return float(stepping.max_abs(u))


# --- loops -----------------------------------------------------------------------------------------------------------


class _Watch:
    """Looks at the state between steps: finite, bounded, stop rule, progress."""

    def __init__(self, run: _Run, stop, progress: _Progress, wild: bool):
        self.run, self.stop, self.progress, self.wild = run, stop, progress, wild
        self.every_step = callable(stop)
        self.often = bool(run.probes)
        self._scale = 0.0
        self._largest = _max_abs(run.u) if wild else 0.0
        if isinstance(stop, AtSteady) or self.wild:
            self.look()

    def look(self) -> None:
        """Raise `_Ended` where the run is over."""
        run, largest = self.run, _max_abs(self.run.u)
        if not math.isfinite(largest):
            raise _Ended(
                "unstable",
                f"the state stopped being finite before t = {run.t:g}: the step dt = {run.dt:.4g} is too large",
            )
        run.probe()
        if self.wild and largest > 2 * self._bound():
            raise _Ended(
                "unstable",
                f"max |u| = {largest:.3g} at t = {run.t:g} is beyond what the data can cause: "
                f"dt = {run.dt:.4g} is too large",
            )
        if isinstance(self.stop, AtSteady):
            operator = run.operator
            forcing, rest = operator.forcing(run.t), operator.apply(run.u)
            np.subtract(forcing, rest, out=rest)
            norm = lambda x: math.sqrt(operator.total(lambda slab: x[slab] * x[slab]))  # noqa: E731
            left = norm(rest)
            self._scale = max(self._scale, norm(forcing), left)
            if left <= self.stop.rtol * self._scale:
                raise _Ended(
                    "stopped",
                    f"steady at t = {run.t:g}: ||F - K u|| fell to {left / (self._scale or 1):.1e} of its scale",
                )
        elif self.stop is not None and self.stop(run.t, run.operator.leave(run.u)):
            raise _Ended("stopped", f"the stop rule held at t = {run.t:g}")
        self.progress(run.t)

    def _bound(self) -> float:
        """What the maximum principle allows: the data so far, and what sources and fluxes can have added."""
        operator, t = self.run.operator, self.run.t
        supply = np.zeros(operator.shape)
        for wall in operator.walls:
            if (wall.g > 0).any():
                self._largest = max(self._largest, float(np.abs(wall.data_at(wall.value, t)).max()))
            np.add.at(supply.reshape(-1), wall.cells, np.abs(wall.data_at(wall.flux, t)) * wall.area)
        problem = operator.problem
        self._largest = max(self._largest, float(np.max(np.abs(problem.ambient(t)))) if np.any(problem.loss) else 0.0)
        source = np.broadcast_to(problem.source(t), operator.grid.shape).reshape(operator.shape)
        fastest = max(
            float(((supply[slab] + operator.volumes[slab] * np.abs(source[slab])) / operator.mass_in(slab)).max())
            for slab in operator.slabs()
        )
        return self._largest + (t - self.run.times[0] if self.run.times else t) * fastest + 1e-300


class _Progress:
    """A bar on stderr after two seconds where a terminal watches, or the user's callback."""

    def __init__(self, wish, begin: float, until: float):
        self.begin, self.span = begin, (until - begin) or 1.0
        self.callback = wish if callable(wish) else None
        self.silent = wish is False
        self.eager = wish is True
        self.started = time.monotonic()
        self.bar: Any = None

    def __call__(self, t: float) -> None:
        fraction = (t - self.begin) / self.span
        if self.callback is not None:
            self.callback(fraction, t)
            return
        if self.silent or (self.bar is None and not self._due()):
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("simulate", total=1.0)
            self.bar.start()
        self.bar.update(self.task, completed=fraction, description=f"t = {t:.4g}")

    def _due(self) -> bool:
        import sys

        return self.eager or (sys.stderr.isatty() and time.monotonic() - self.started > 2.0)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _march(run: _Run, stepper: Stepper, times: np.ndarray, step: float | None, policy: str, watch: _Watch) -> None:
    """Equal steps between saved times."""
    counts, system = run.system.counts, run.system
    chunk = max(_CHUNK_STEPS, _CHUNK_CELLS // run.u.size)
    if watch.every_step or system.shaken or not system.steady:
        chunk = 1
    elif isinstance(watch.stop, AtSteady) or watch.wild:
        chunk = min(chunk, _CHUNK_STEPS)
    often = (times[-1] - run.t) / 200 if watch.often and len(times) else math.inf
    limited_by = "save" if step is not None or stepper.scheme.family == "exponential" else "stability"
    for target in times:
        while run.t < target:
            start, interval = run.t, target - run.t
            largest = _largest(run, stepper.scheme, step, policy, interval)
            if stepper.scheme.family == "exponential":
                largest = min(largest, often)
            n = max(1, math.ceil(interval / largest * (1 - 1e-12)))
            h = interval / n
            look = max(1, min(chunk, math.ceil(often / h))) if math.isfinite(often) else chunk
            done = 0
            while done < n:
                if done and not system.steady:
                    # coefficients moved: the step is proved afresh, and the rest of the interval divided anew
                    now = _largest(run, stepper.scheme, step, policy, interval)
                    if h > now or (step is None and h < 0.5 * now):
                        break
                m = min(look, n - done)
                run.used(h)
                if system.shaken:
                    system.shake(h)
                run.gain += stepper.advance(run.u, run.t, h, m)
                done += m
                counts.limited_by[limited_by] += m
                run.t = float(target) if done == n else start + done * h
                watch.look()
        run.save()


def _largest(run: _Run, scheme: Scheme, step: float | None, policy: str, interval: float) -> float:
    """The step to take now; a `StabilityError` where coefficients have moved so far that the given one is unstable."""
    from .stability import allowed_step, check_step

    if step is None:
        return interval if scheme.family == "exponential" else largest_good_step(run.operator, scheme)
    if run.system.steady or policy == "allow":
        return step  # proved before the run, or wanted as it is
    if policy == "substep":
        return min(step, allowed_step(run.operator, scheme))
    check_step(run.operator, scheme, step)
    return step


def _adapt(run: _Run, stepper: Stepper, times: np.ndarray, tol: float, first: float, watch: _Watch) -> None:
    """Steps from an error estimate: embedded where the row has one, otherwise one step against two halves."""
    counts, scheme = run.system.counts, stepper.scheme
    local = _SHARE * tol
    order = _estimate_order(scheme)
    duration = times[-1] - run.t if len(times) else 0.0
    most = _stability_cap(run, scheme)
    h = min(duration, most, first)
    span = _Span(run.operator)
    span.include(run.u)
    for target in times:
        while run.t < target:
            left = target - run.t
            if not run.system.steady:
                most = _stability_cap(run, scheme)
            wish = min(h, most)
            clipped = wish >= left * (1 - 1e-12)
            # two equal steps rather than a long one and a crumb
            trial_step = left if clipped else (left / 2 if wish > left / 2 else wish)
            trial, error = _trial(stepper, run, trial_step)
            scale = span.include(trial.u)
            ratio = error / (local * scale) if scale > 0 else 0.0
            if not math.isfinite(ratio):
                ratio = math.inf
            factor = _GROW if ratio == 0 else min(_GROW, max(_SHRINK, _SAFETY * ratio ** (-1 / (order + 1))))
            if ratio > 1 and trial_step > 1e-12 * (duration + abs(run.t)):
                counts.rejected += 1
                h = trial_step * min(factor, 0.9)
                del trial  # not held beside the next one
                continue
            if math.isinf(ratio):
                raise _Ended("unstable", f"no finite step exists at t = {run.t:g}, down to dt = {trial_step:.3g}")
            stepper.accept()
            run.u[...] = trial.u
            run.gain += trial.gain
            del trial
            run.t = float(target) if clipped else run.t + trial_step
            run.used(trial_step)
            counts.steps += 1
            counts.limited_by["save" if clipped and wish > left else "stability" if wish >= most else "accuracy"] += 1
            h = max(trial_step * factor, h if trial_step < 0.99 * wish else 0.0)
            watch.look()
        run.save()


def _trial(stepper: Any, run: _Run, dt: float):
    """A step and its error estimate."""
    trial = stepper.trial(run.u, run.t, dt)
    if trial.error is not None:
        return trial, trial.error
    order = stepper.scheme.order
    stepper.forget()
    first = stepper.trial(run.u, run.t, dt / 2)
    stepper.accept()
    second = stepper.trial(first.u, run.t + dt / 2, dt / 2)
    error = run.system.rms(trial.u - second.u) / (2**order - 1)
    fine = type(trial)(second.u, first.gain + second.gain, error)
    return fine, error


def _estimate_order(scheme: Scheme) -> int:
    """Order of the error estimate: one less than the exponent of dt in it."""
    if scheme.estimate == "embedded":
        return min(int(scheme.order), scheme.embedded_order or int(scheme.order))
    if scheme.estimate == "finish":
        return 1
    return int(scheme.order)


def _stability_cap(run: _Run, scheme: Any) -> float:
    if scheme.explicit and scheme.stages is not None:
        return scheme.real_limit() / _radius(run.operator)
    if scheme.explicit:
        most = scheme.degrees[bisect.bisect_right(scheme.degrees, _MOST_STAGES) - 1]
        return scheme.real_limit(most) / _radius(run.operator)
    return math.inf


def _first_step(run: _Run, local: float) -> float:
    """A step over which the present rate changes the field by a hundredth, no smaller than an explicit step."""
    operator = run.operator
    rates = operator.rates(run.u, run.t)
    rate = run.system.rms(np.where(operator.free, rates, 0.0))
    scale = max(_Span(operator).include(run.u), run.system.rms(run.u))
    least = 1.0 / (operator.max_diagonal or 1.0)
    return max(least, 0.01 * scale / rate if rate > 0 else math.inf)


class _Span:
    """Largest minus smallest value that the field has had: what a tolerance is relative to."""

    def __init__(self, operator: Operator):
        self.operator = operator
        self.low, self.high = math.inf, -math.inf

    def include(self, u: np.ndarray) -> float:
        values = u if self.operator.all_free else u[self.operator.free]
        if np.isfinite(values).all():
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        # a field that is still flat has no span yet: a thousandth of its size stands in
        return max(self.high - self.low, 1e-3 * max(abs(self.high), abs(self.low)))


def _trajectory(run: _Run, scheme: Scheme, status: str, message: str) -> Trajectory:
    from .kernels import stepping

    counts = run.system.counts
    saved = bool(run.times) and run.times[-1] == run.t  # then it was counted, before the state became a frame
    now = run.content() if saved or stepping.is_finite(run.u) else math.nan
    scale = max(abs(run.start_content), abs(now), abs(run.gain)) if math.isfinite(now) else math.nan
    lost = run.start_content + run.gain - now
    stats = {
        "steps": counts.steps, "rejected": counts.rejected, "stages": counts.stages, "solves": counts.solves,
        "iterations": counts.iterations, "limited_by": dict(counts.limited_by),
        "dt_min": run.dt_range[0], "dt_max": run.dt_range[1], "gain": run.gain,
    }  # fmt: skip
    return Trajectory(
        t=np.array(run.times),
        u=run.frames[: len(run.times)],
        status=status,
        message=message,
        grid=run.system.problem.grid,
        scheme=scheme.name,
        dt=run.dt,
        content=np.array(run.contents),
        balance=abs(lost) / scale if scale else 0.0,
        flows={side: np.array(values) for side, values in run.flows.items()},
        probes={name: (np.array(times), np.array(values)) for name, (times, values) in run.records.items()},
        stats=stats,
    )
