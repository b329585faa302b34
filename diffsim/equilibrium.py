"""Steady states: what a diffusion problem settles to, and how long it takes.

Constant coefficients are solved by transforms, everything linear by multigrid-preconditioned conjugate gradients, D(u),
D(|grad u|), radiation and reactions by Newton or Picard steps around the linear solve.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from . import spectral
from .batch import solve_batch
from .data import number
from .errors import ConvergenceError, ProblemError
from .multigrid import Multigrid, Solve, solve_preconditioned
from .operator import Operator, discretize, norm
from .problem import Problem
from .resources import require_memory
from .together import discretize_together, is_plain

METHODS = ("auto", "spectral", "multigrid", "newton", "picard")
BYTES_PER_CELL = 170  # operator, vectors of the iteration, hierarchy
PIECE = 1 << 17  # cells of a piece of a long list
SMALL = 32 << 20  # bytes that are there: asking the system for what is free takes half a millisecond
BALANCE = 1e-10  # relative imbalance of a floating component that is rounding of the data
MOST_ITERATIONS = 2000
MOST_OUTER = 200


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """The steady state of a problem, and how well it was found.

    Attributes
    ----------
    u
        Field of the grid's shape: NaN in voids, the held values in held cells.
    residual
        ``||F - K u|| / ||F||``, measured on `u`; 0 where nothing drives the problem. With a reaction r, ``||F + r - K u||``
        over the largest of ||F||, ||r|| and ||r|| at the start.
    rounding
        Size of the rounding errors in that residual: where it exceeds the tolerance, double precision can do no better.
    iterations
        Of conjugate gradients, summed over outer steps; 0 for transforms.
    method
        "spectral", "multigrid", "direct" (elimination, in 1D), "newton", "picard", or "none" where nothing drives the problem.
    """

    u: np.ndarray
    residual: float
    iterations: int
    method: str
    rounding: float = 0.0
    operator: Operator = field(repr=False, default=None)  # type: ignore[assignment]
    state: np.ndarray = field(repr=False, default=None)  # type: ignore[arg-type]  # padded, 0 where not free

    def flow(self, side: str) -> float:
        """Flow INTO the domain through `side` ("x-", "x" for both ends, "void", "fixed")."""
        ends = (f"{side}-", f"{side}+") if side in self.operator.grid.axes else (side,)
        return math.fsum(self.operator.flow(end, self.state, 0.0) for end in ends)

    def wall(self, side: str) -> np.ndarray:
        """Values at the wall itself, shape over the side; NaN where no free cell lies behind it."""
        return self.operator.wall_field(side, self.state, 0.0)

    def at(self, point) -> float:
        """Value at a point: linear in every half cell, exact across jumps of D and up to the wall."""
        from .points import PointValue

        return PointValue(self.operator, point)(self.state, 0.0)

    @cached_property
    def bound(self):
        """Guaranteed bounds of the distance to the exact solution of the discrete problem (`diffsim.bounds.Bound`)."""
        from .bounds import energy_bound

        return energy_bound(self.operator, self.u)

    @property
    def error_bound(self) -> float:
        """Guaranteed bound of ``sqrt(sum V_i e_i^2)``, e the distance to the exact discrete solution; inf where nothing
        can be promised (nonlinear problems)."""
        return float(self.bound.l2) if self.operator.linear else math.inf

    def plot(self, path: str | Path | None = None):
        """The field; returns the matplotlib Figure, written to `path` where given."""
        from . import plots

        return plots.field(self.operator.grid, self.u, path=path)


@overload
def equilibrium(
    prob: Problem, tol: float = 1e-8, method: str = "auto", guess: Any = None, initial: Any = None
) -> Equilibrium: ...


@overload
def equilibrium(
    prob: Sequence[Problem], tol: float = 1e-8, method: str = "auto", guess: Any = None, initial: Any = None
) -> list[Equilibrium]: ...


def equilibrium(
    prob: Problem | Sequence[Problem],
    tol: float = 1e-8,
    method: str = "auto",
    guess: Any = None,
    initial: Any = None,
) -> Equilibrium | list[Equilibrium]:
    """The state that `prob` settles to.

    Parameters
    ----------
    prob
        A problem, or a list of problems: solved together, each result independent of the others in the list.
    tol
        Relative residual ``||F - K u|| / ||F||`` to reach. Where rounding in double precision alone exceeds it, the
        result is as good as rounding allows, and says so in `.residual` and `.rounding`.
    method
        "auto": transforms where they are exact, multigrid for other linear problems, Picard and then Newton steps for
        nonlinear ones. Or one of "spectral", "multigrid", "newton", "picard".
    guess
        Where to start: number, array or callable(x, y, ...). For a list of problems, a list of them.
    initial
        Fixes the content of components that no side, loss or held cell anchors: the mass-weighted mean of `initial` is
        kept there. Number, array, callable or Trajectory. For a list of problems, one for all or a list.

    Raises
    ------
    ProblemError
        Where no equilibrium exists, is not unique, or data change in time.
    ConvergenceError
        Where the iteration ended above `tol`; with its numbers.
    """
    tol = number("tol", tol, above=0.0)
    if tol >= 1:
        raise ProblemError(f"tol = {tol:g} is no tolerance: the relative residual of a zero field is 1; give less.")
    if method not in METHODS:
        raise ProblemError(f"method = {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if isinstance(prob, Problem):
        return _solve_one(prob, tol, method, guess, initial)
    if not isinstance(prob, Sequence) or not all(isinstance(p, Problem) for p in prob):
        raise ProblemError(f"problem = {prob!r} is neither a Problem nor a list of them.")
    return _solve_list(list(prob), tol, method, _each("guess", guess, len(prob)), _each("initial", initial, len(prob)))


def _each(name: str, value, count: int) -> list:
    """One value per problem of a list."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ProblemError(f"{name} has {len(value)} entries for {count} problems; give one for each, or one for all.")
    return list(value)


def _solve_one(problem: Problem, tol: float, method: str, guess, initial) -> Equilibrium:
    if (needed := BYTES_PER_CELL * problem.grid.size) > SMALL:
        require_memory(needed, "an equilibrium", problem.grid.shape)
    _require_steady(problem)
    if not problem.linear:
        return _nonlinear(problem, tol, method, guess, initial)
    system = _System(discretize(problem), tol, initial)
    system.require(method)
    if not system.driven:
        return system.rest()
    if method == "spectral" or (method == "auto" and system.transformable):
        return system.finish(system.by_transform(), "spectral")
    return system.finish(system.by_multigrid(guess), system.name)


def _solve_list(problems: list[Problem], tol: float, method: str, guesses: list, initials: list) -> list[Equilibrium]:
    """Long lists of small plain problems are cut into pieces, for all threads: Python of the one while the other computes.

    What else there is comes as one piece, and so do lists too short to keep all threads busy to their end.
    """
    import numba

    threads, largest = numba.get_num_threads(), max((p.grid.size for p in problems), default=0)
    most = max(2, PIECE // max(largest, 1))
    piece = min(most, len(problems) // (4 * threads))
    alone = threads == 1 or 2 * piece < most or 2 * largest > PIECE
    if alone or any(guess is not None for guess in guesses) or not all(map(is_plain, problems)):
        return _solve_piece(problems, tol, method, guesses, initials)

    def solve(start: int) -> list[Equilibrium]:
        part = slice(start, start + piece)
        return _solve_piece(problems[part], tol, method, guesses[part], initials[part])

    results = solve(0)  # compiles, once
    with ThreadPoolExecutor(threads, initializer=numba.set_num_threads, initargs=(1,)) as pool:
        others = [pool.submit(solve, start) for start in range(piece, len(problems), piece)]
        try:
            for other in others:
                results += other.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _solve_piece(problems: list[Problem], tol: float, method: str, guesses: list, initials: list) -> list[Equilibrium]:
    """Linear problems that need multigrid go to the batch solver; the others are solved one by one."""
    results: list[Equilibrium | None] = [None] * len(problems)
    together: list[tuple[int, _System]] = []
    fits = [
        p.linear and guess is None and method in ("auto", "multigrid")
        for p, guess in zip(problems, guesses, strict=True)
    ]
    operators = iter(discretize_together([problem for problem, fit in zip(problems, fits, strict=True) if fit]))
    for k, (problem, guess, initial) in enumerate(zip(problems, guesses, initials, strict=True)):
        system = None
        if fits[k]:
            _require_steady(problem)
            system = _System(next(operators), tol, initial)
        if system is not None and system.driven and system.plain and not (method == "auto" and system.transformable):
            together.append((k, system))
        else:
            results[k] = _solve_one(problem, tol, method, guess, initial)
    systems = [(s.operator.conductances, s.operator.diagonal, s.forcing, s.operator.periodic) for _, s in together]
    for (k, system), solve in zip(together, solve_batch(systems, tol, MOST_ITERATIONS), strict=True):
        results[k] = system.finish(solve, system.name)
    return results  # type: ignore[return-value]


def _require_steady(problem: Problem) -> None:
    """Refuse data that change in time: there is no equilibrium to speak of."""
    from .problem import OfTime

    if isinstance(problem.diffusivity, OfTime):
        raise ProblemError(
            "diffusivity depends on time, so no equilibrium is defined; give its final value as a number or an array, or "
            "use simulate(..., stop=AtSteady(1e-6))."
        )
    moving = [data.name for data in (problem.source, problem.ambient) if not data.constant]
    if moving:
        raise ProblemError(
            f"{moving[0]} depends on time, so no equilibrium is defined; give its final value as a number or an array, or "
            "use simulate."
        )


# --- linear ---------------------------------------------------------------------------------------------------------


class _System:
    """``(K + damping) u = F + extra`` with its components: which of them float, and what their mean shall be.

    `damping` and `extra`, padded, are what a linearised reaction adds.
    """

    def __init__(self, operator: Operator, tol: float, initial, extra=0.0, damping=0.0):
        self.operator, self.tol, self.damping = operator, tol, damping
        if not operator.forcing.constant:
            names = sorted({w.side for w in operator.walls if not (w.value.constant and w.flux.constant)})
            raise ProblemError(
                f"the data of side {', '.join(names)} depend on time, so no equilibrium is defined; give their final "
                "values as numbers or arrays, or use simulate."
            )
        self.forcing = operator.forcing(0.0) + extra if np.ndim(extra) else operator.forcing(0.0)
        self.size = norm(self.forcing)
        if not math.isfinite(self.size):
            raise ProblemError("the forcing of this problem overflows double precision; choose units closer to 1.")
        labels, count, anchored = self._components()
        if np.ndim(damping):
            anchored = anchored | np.array([bool((damping[labels == c] > 0).any()) for c in range(count)])
        self.floating = np.flatnonzero(~anchored)
        self.labels = labels
        self.count = count
        self.means = self._means(initial) if self.floating.size else np.zeros(0)

    def _components(self):
        """Like `Operator.components`, without a search where every face conducts."""
        operator = self.operator
        if operator.all_free and not np.ndim(self.damping) and operator._all_joined:
            return None, 1, operator.anchored
        return operator.components

    def _cells(self, component: int):
        """Index of the cells of a component."""
        return np.ones(self.operator.shape, dtype=bool) if self.labels is None else self.labels == component

    def _means(self, initial) -> np.ndarray:
        """Check that each floating component is balanced; the mean it keeps."""
        operator, problem = self.operator, self.operator.problem
        labels = np.zeros(operator.shape, dtype=np.int32) if self.labels is None else self.labels
        bins = labels.ravel() + 1  # 0: not free
        total = lambda values: np.bincount(bins, values.ravel(), minlength=self.count + 1)[1:][self.floating]  # noqa: E731
        growth, scale = total(self.forcing), total(np.abs(self.forcing))
        unbalanced = np.abs(growth) > max(BALANCE, 0.1 * self.tol) * scale
        if unbalanced.any():
            worst = int(np.argmax(np.abs(growth)))
            where = (
                "" if self.count == 1 else f" in a component of {int((bins == self.floating[worst] + 1).sum())} cells"
            )
            raise ProblemError(
                f"no equilibrium: content grows at {growth[worst]:.6g} per second{where}, where no side, loss or held cell "
                "takes up what sources and fluxes bring in. Balance them, or fix a value at a side."
            )
        if initial is None:
            which = "the problem" if self.count == 1 else f"{self.floating.size} of {self.count} components"
            raise ProblemError(
                f"no side, loss or held cell fixes the level of {which}: the equilibrium keeps the content it starts with. "
                "Give initial= (number, array or callable)."
            )
        start = operator.pad(_field(problem, "initial", initial))
        mass = np.where(operator.free, operator.mass, 0.0)
        return total(mass * np.where(operator.free, start, 0.0)) / total(mass)

    @property
    def driven(self) -> bool:
        return self.size > 0

    @property
    def transformable(self) -> bool:
        return self.operator.uniform is not None and self.operator.uniform.transformable

    @property
    def name(self) -> str:
        """What `by_multigrid` does: a line of cells is eliminated directly."""
        return "direct" if max(self.operator.shape) == self.forcing.size and self.plain else "multigrid"

    @property
    def plain(self) -> bool:
        """K is a graph Laplacian plus a diagonal: the batch solver knows no other."""
        return self.operator.cross is None

    def require(self, method: str) -> None:
        """Refuse a method that does not fit."""
        if method in ("newton", "picard"):
            raise ProblemError(f"method = {method!r} is for nonlinear problems, and this one is linear; use 'auto'.")
        if method == "spectral" and not self.transformable:
            raise ProblemError(
                "method = 'spectral' needs constant D, c and loss on a uniform Cartesian box with value, flux or periodic "
                "sides, no voids and no held cells; use 'multigrid' or 'auto'."
            )

    def rest(self) -> Equilibrium:
        """Nothing drives the problem: every floating component keeps its mean, the others are at 0."""
        return self.finish(Solve(np.zeros(self.operator.shape), 0, 0.0, True, 0.0), "none")

    def by_transform(self) -> Solve:
        """Transforms, and one step of refinement where rounding shows."""
        operator = self.operator
        x = spectral.solve(operator.uniform, self.forcing)  # type: ignore[arg-type]
        rest = self.forcing - operator.apply(x)
        if norm(rest) > self.tol * self.size:
            better = x + spectral.solve(operator.uniform, rest)  # type: ignore[arg-type]
            remaining = self.forcing - operator.apply(better)
            if norm(remaining) < norm(rest):
                x, rest = better, remaining
        residual = norm(rest) / self.size
        rounding = 2.3e-16 * norm(self.operator._stencil_diagonal * np.abs(x)) / self.size
        return Solve(x, 0, residual, residual <= max(self.tol, 8 * rounding), rounding)

    def by_multigrid(self, guess) -> Solve:
        """Conjugate gradients with V-cycles; off-diagonal tensors are seen by the iteration, not by the V-cycle."""
        operator = self.operator
        x0 = None
        if guess is not None:
            x0 = operator.enter(_field(operator.problem, "guess", guess))
        diagonal = operator.diagonal + self.damping if np.ndim(self.damping) else operator.diagonal
        solver = Multigrid(operator.conductances, diagonal, operator.periodic)
        if self.plain:
            solve = solver.solve(self.forcing, x0=x0, tol=self.tol, max_iterations=MOST_ITERATIONS)
            solver.release()
            return solve
        apply = lambda u: operator.apply(u) + self.damping * u  # noqa: E731
        return solve_preconditioned(apply, solver.cycle, self.forcing, x0, self.tol, MOST_ITERATIONS)

    def level(self, x: np.ndarray) -> np.ndarray:
        """x with the mass-weighted mean of every floating component set."""
        for component, mean in zip(self.floating, self.means, strict=True):
            cells = self._cells(int(component))
            mass = self.operator.mass[cells]
            for _ in range(2):  # the second pass removes what rounding left of the first
                x[cells] += mean - float((mass * x[cells]).sum() / mass.sum())
        return x

    def finish(self, solve: Solve, method: str) -> Equilibrium:
        """The result, or why there is none."""
        if not solve.converged:
            raise ConvergenceError(
                f"the equilibrium stands at a relative residual of {solve.residual:.2e} after {solve.iterations} iterations; "
                f"tol = {self.tol:.0e} is asked for. Accept a larger tol, or reduce the contrast of D."
            )
        operator = self.operator
        state = self.level(solve.x)
        return Equilibrium(
            operator.leave(state), solve.residual, solve.iterations, method, solve.rounding, operator, state
        )


def _field(problem: Problem, name: str, value) -> np.ndarray:
    """A user's field (number, array, callable or Trajectory) on the grid; NaN in voids becomes 0."""
    from .trajectory import Trajectory

    if isinstance(value, Trajectory):
        value = value.final
    elif isinstance(value, Equilibrium):
        value = value.u
    result = problem.grid.field(name, value, where=problem.active)
    inside = result if problem.active is None else result[problem.active]
    if not np.isfinite(inside).all():
        raise ProblemError(f"{name} is not finite everywhere; it must be in every active cell.")
    return np.nan_to_num(result, nan=0.0)


# --- nonlinear ------------------------------------------------------------------------------------------------------


class _Nonlinear:
    """``F(u) + r(u) - K(u) u = 0``: its residual, and the linear problem frozen at a state."""

    def __init__(self, problem: Problem, tol: float, initial):
        self.problem, self.tol, self.initial = problem, tol, initial
        self.iterations = 0
        self.at_start: float | None = None  # size of the reaction where the iteration began

    def freeze(self, u: np.ndarray) -> tuple[Operator, np.ndarray | float]:
        """Operator and reaction term at the field u (grid shape)."""
        operator = discretize(self.problem, u=u)
        return operator, self._integrated(operator, self._rate(u))

    def _rate(self, u: np.ndarray) -> np.ndarray:
        if self.problem.reaction is None:
            return np.zeros(())
        return np.broadcast_to(np.asarray(self.problem.reaction(u), dtype=float), u.shape)

    def _integrated(self, operator: Operator, rate: np.ndarray) -> np.ndarray | float:
        """A rate per volume times the volumes of the free cells, padded."""
        if rate.ndim == 0:
            return 0.0
        padded = rate.reshape(operator.shape)
        if not np.isfinite(padded[operator.free]).all():
            raise ConvergenceError("reaction(u) is not finite at a state of the iteration; start closer with guess=.")
        return operator.volumes * np.nan_to_num(padded)

    def defect(self, u: np.ndarray) -> tuple[np.ndarray, float, Operator]:
        """Residual field, its relative size, and the operator, at the field u."""
        operator, reaction = self.freeze(u)
        given = operator.forcing(0.0)
        forcing = given + reaction
        state = operator.enter(u)
        flow = operator.apply(state)
        rest = np.where(operator.free, forcing - flow, 0.0)
        # a reaction may vanish at the equilibrium itself: measure against what it was at the start as well
        strength = norm(np.asarray(reaction))
        if self.at_start is None:
            self.at_start = strength
        scale = max(norm(given), strength, self.at_start) or norm(flow) or 1.0
        return rest, norm(rest) / scale, operator

    def picard(self, u: np.ndarray, tol: float) -> np.ndarray:
        """Solution of the linear problem frozen at u.

        The reaction enters with its slope where that damps; where it excites, with a shift of the same size on both
        sides, which makes the step one of implicit relaxation.
        """
        operator, extra = self.freeze(u)
        damping: np.ndarray | float = 0.0
        if self.problem.reaction is not None:
            small = 1e-6 * max(1.0, float(np.abs(u).max()))
            slope = (self._rate(u + small) - self._rate(u - small)) / (2 * small)
            damping = np.abs(self._integrated(operator, slope))
            extra = extra + damping * operator.enter(u)
        system = _System(operator, tol, self.initial, extra, damping)
        solve = system.by_multigrid(u) if system.driven else Solve(np.zeros(operator.shape), 0, 0.0, True, 0.0)
        self.iterations += solve.iterations
        return np.nan_to_num(operator.leave(system.level(solve.x)), nan=0.0)


def _nonlinear(problem: Problem, tol: float, method: str, guess, initial) -> Equilibrium:
    if method in ("spectral", "multigrid"):
        raise ProblemError(
            f"method = {method!r} is for linear problems; D, a side or a reaction depends on u here: use 'auto'."
        )
    system = _Nonlinear(problem, tol, initial)
    u = _start(problem, guess, initial)
    reached = math.inf
    used = method
    if method in ("auto", "picard"):
        u, reached = _anderson(system, u)
        used = "picard"
    if method == "newton" or (method == "auto" and reached > tol):
        u, reached = _newton(system, u)
        used = "newton"
    if not reached <= tol:
        raise ConvergenceError(
            f"the nonlinear equilibrium stands at a relative residual of {reached:.2e} after {system.iterations} linear "
            f"iterations ({used}); tol = {tol:.0e} is asked for. Start closer with guess=, or simulate until AtSteady({tol:.0e})."
        )
    operator = discretize(problem, u=u)
    state = operator.enter(u)
    return Equilibrium(operator.leave(state), reached, system.iterations, used, 0.0, operator, state)


def _start(problem: Problem, guess, initial) -> np.ndarray:
    """The field to start from: the guess, the initial state, or the mean of what the sides prescribe."""
    for name, value in (("guess", guess), ("initial", initial)):
        if value is not None:
            return _field(problem, name, value)
    plain = problem.with_(diffusivity=1.0, reaction=None)
    if not plain.linear:  # a side radiates
        return np.full(problem.grid.shape, _balanced_level(problem.with_(reaction=None)))
    unit = discretize(plain)
    weights, values = [], []
    for wall in unit.walls:
        value = wall.data_at(wall.value, 0.0)
        prescribed = np.ones_like(value, dtype=bool) if (wall.g > 0).all() else (wall.g > 0) | (value != 0)
        weights.append(wall.half[prescribed])
        values.append(value[prescribed])
    weight = np.concatenate([*weights, np.zeros(1)])
    value = np.concatenate([*values, np.zeros(1)])
    mean = float((weight * value).sum() / weight.sum()) if weight.sum() > 0 else 0.0
    return np.full(problem.grid.shape, mean)


def _balanced_level(problem: Problem) -> float:
    """The uniform temperature at which a radiating problem takes up as much as it gives, by bisection."""

    def gain(level: float) -> float:
        operator = discretize(problem, u=np.full(problem.grid.shape, level))
        return float((operator.forcing(0.0) - operator.diagonal * level)[operator.free].sum())

    low, high = 1e-3, 1e6
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def _anderson(system: _Nonlinear, u: np.ndarray, memory: int = 5) -> tuple[np.ndarray, float]:
    """Picard steps with Anderson's mixing of the last few (Walker & Ni, SIAM J. Numer. Anal. 49, 2011).

    Returns the best field and its residual: at the tolerance, or where the steps have stopped to bring anything.
    """
    best, best_u, since = math.inf, u, 0
    steps: list[np.ndarray] = []
    images: list[np.ndarray] = []
    for _ in range(MOST_OUTER):
        _, size, operator = system.defect(u)
        if not math.isfinite(size):
            break
        if size < best:
            best, best_u, since = size, u, 0
        else:
            since += 1
        if best <= system.tol or since > 3 * memory:
            break
        try:
            image = system.picard(u, tol=min(1e-2, max(0.05 * size, 0.1 * system.tol)))
        except ProblemError:
            if not images:
                raise
            u = best_u  # mixing led to a state without a frozen problem: take a plain step from the best one
            steps.clear()
            images.clear()
            since += memory
            continue
        free = operator.free.reshape(u.shape)
        steps.append((image - u)[free])
        images.append(image[free])
        del steps[: -memory - 1], images[: -memory - 1]
        u = image
        if len(steps) > 1:
            differences = np.diff(np.array(steps), axis=0)
            weights, *_ = np.linalg.lstsq(differences.T, steps[-1], rcond=1e-10)
            trial = image.copy()
            trial[free] -= np.diff(np.array(images), axis=0).T @ weights
            trial = _within(trial, image, free)
            if _size_at(system, trial) < 2 * size:
                u = trial
            else:
                steps.clear()
                images.clear()
    return best_u, best


def _size_at(system: _Nonlinear, u: np.ndarray) -> float:
    """Relative residual at a trial; infinity where the problem refuses it."""
    try:
        return system.defect(u)[1]
    except (ProblemError, ConvergenceError):
        return math.inf


def _within(trial: np.ndarray, reference: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The trial, kept within twice the span of a safe field: extrapolation must not leave the domain of D(u)."""
    low, high = float(reference[free].min()), float(reference[free].max())
    trial[free] = np.clip(trial[free], low - (high - low), high + (high - low))
    return trial


def _newton(system: _Nonlinear, u: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton steps by GMRES with differences of the residual, V-cycles of the frozen operator as preconditioner, and
    backtracking (Knoll & Keyes, J. Comput. Phys. 193, 2004)."""
    from scipy.sparse.linalg import LinearOperator, gmres

    for _ in range(2):  # linear solves bring the iteration near enough for its derivative to mean something
        image = system.picard(u, tol=1e-2)
        if _size_at(system, image) == math.inf:
            break
        u = image
    rest, size, operator = system.defect(u)
    for _ in range(MOST_OUTER):
        if size <= system.tol or not math.isfinite(size):
            break
        free = operator.free.reshape(u.shape)
        solver = Multigrid(operator.conductances, operator.diagonal, operator.periodic)
        scale = norm(np.where(free, u, 0.0)) or 1.0

        def derivative(v, u=u, rest=rest, free=free, scale=scale):
            length = norm(v)
            if length == 0:
                return np.zeros_like(v)
            small = 1e-7 * scale / length
            moved = u.copy()
            moved[free] += small * v
            return (rest - system.defect(moved)[0]).reshape(u.shape)[free] / small

        def precondition(r, free=free, solver=solver, operator=operator):
            padded = np.zeros(operator.grid.shape)
            padded[free] = r
            out = np.empty(operator.shape)
            return solver.cycle(operator.pad(padded), out).reshape(operator.grid.shape)[free]

        n = int(free.sum())
        system.iterations += 1

        def count(_):
            system.iterations += 1

        step, _ = gmres(
            LinearOperator((n, n), matvec=derivative, dtype=float),
            rest.reshape(u.shape)[free],
            M=LinearOperator((n, n), matvec=precondition, dtype=float),
            rtol=1e-3,
            restart=40,
            maxiter=2,
            callback=count,
            callback_type="pr_norm",
        )
        damping, accepted = 1.0, False
        while damping > 1e-4:
            trial = u.copy()
            trial[free] += damping * step
            try:
                new_rest, new_size, new_operator = system.defect(trial)
            except (ProblemError, ConvergenceError):  # D(u) or the reaction refuses this state
                new_size = math.inf
            else:
                new_size = new_size if norm(new_rest) < (1 - 1e-4 * damping) * norm(rest) else math.inf
            if new_size < math.inf:
                u, rest, size, operator, accepted = trial, new_rest, new_size, new_operator, True
                break
            damping *= 0.5
        if not accepted:
            break
    return u, size


# --- time to equilibrium --------------------------------------------------------------------------------------------


def time_to_equilibrium(prob: Problem, initial: Any = None, tol: float = 1e-3) -> float:
    """Time [s] after which the distance to the equilibrium has fallen to `tol` of what it was.

    Parameters
    ----------
    prob
        A problem with steady data.
    initial
        Where it starts. None: the worst start, ``ln(1/tol) / lambda_1`` with lambda_1 the slowest mode that decays.
        Otherwise the time at which ``||u - eq|| = tol ||u_0 - eq||``, in the norm ``sqrt(sum c V e^2)``.
    tol
        Between 0 and 1.

    Notes
    -----
    Constant boxes use closed-form modes. Elsewhere modes and the decay come from Krylov spaces of the multigrid inverse
    (van den Eshof & Hochbruck, SIAM J. Sci. Comput. 27, 2006), to 0.1 %. Nonlinear problems are simulated from `initial`;
    without it, the operator is frozen at the equilibrium.
    """
    tol = number("tol", tol, above=0.0)
    if tol >= 1:
        raise ProblemError(f"tol = {tol:g}: give a number below 1.")
    if not isinstance(prob, Problem):
        raise ProblemError(f"problem = {prob!r} is not a Problem.")
    if initial is None:
        _require_steady(prob)
        if prob.reaction is not None:
            raise ProblemError("with a reaction, the time to equilibrium depends on the start: give initial=.")
        operator = discretize(prob) if prob.linear else equilibrium(prob).operator
        return math.log(1 / tol) / slowest_rate(operator)
    end = equilibrium(prob, tol=min(1e-8, 1e-4 * tol), initial=initial)
    start = end.operator.enter(_field(prob, "initial", initial))
    error = start - end.state
    if norm(error) <= 1e-7 * max(norm(start), norm(end.state)):
        return 0.0  # it starts there, as far as the equilibrium is known
    if not prob.linear:
        return _simulated_time(prob, initial, end, tol)
    return _decay_time(end.operator, error, tol)


def slowest_rate(operator: Operator) -> float:
    """Smallest eigenvalue [1/s] of ``m^-1 K`` that is not 0."""
    uniform = operator.uniform
    if uniform is not None and uniform.transformable:
        rates = (spectral._axis_sum(uniform) + uniform.loss) / uniform.capacity
        positive = rates[rates > 1e-14 * rates.max()]
        if not positive.size:
            raise ProblemError("nothing decays in this problem: every state is an equilibrium.")
        return float(positive.min())
    krylov = _Krylov(operator, 0.0)
    start = np.where(operator.free, 1.0 + 0.5 * np.random.default_rng(0).random(operator.shape), 0.0)
    for _ in krylov.grow(start):
        values, vectors = np.linalg.eigh(krylov.projected)
        # the residual of a Ritz value is the last entry of its vector times the next off-diagonal entry
        if abs(krylov.next * vectors[-1, -1]) < 1e-5 * values[-1]:
            break
    if not len(krylov.basis) or not values[-1] > 0:
        raise ProblemError("nothing decays in this problem: every state is an equilibrium.")
    return 1.0 / float(values[-1])


class _Krylov:
    """Lanczos on ``(shift m + K)^-1 m`` in the mass inner product, floating components without their means."""

    most = 60

    def __init__(self, operator: Operator, shift: float):
        self.operator, self.shift = operator, shift
        self.mass = np.where(operator.free, operator.mass, 0.0)
        labels, _, anchored = operator.components
        self.floating = [labels == c for c in np.flatnonzero(~anchored)]
        self.solver = Multigrid(operator.conductances, operator.diagonal + shift * self.mass, operator.periodic)
        self.basis: list[np.ndarray] = []
        self.size = self.next = 0.0
        self._matrix = np.zeros((self.most + 1, self.most + 1))

    @property
    def projected(self) -> np.ndarray:
        k = len(self.basis)
        return self._matrix[:k, :k]

    def centred(self, x: np.ndarray) -> np.ndarray:
        for cells in self.floating:
            x[cells] -= (self.mass[cells] * x[cells]).sum() / self.mass[cells].sum()
        return x

    def norm(self, x: np.ndarray) -> float:
        return norm(np.sqrt(self.mass) * x)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        rhs = self.mass * x
        if self.operator.cross is None:
            solve = self.solver.solve(rhs, tol=1e-11)
        else:
            apply = lambda u: self.operator.apply(u) + self.shift * self.mass * u  # noqa: E731
            solve = solve_preconditioned(apply, self.solver.cycle, rhs, None, 1e-11, 500)
        if not solve.converged:
            raise ConvergenceError(
                f"an inner solve stands at a relative residual of {solve.residual:.1e}, 1e-11 is needed."
            )
        return self.centred(solve.x)

    def grow(self, start: np.ndarray):
        """Yield after every new direction; ends when the space is exhausted."""
        v = self.centred(start.copy())
        self.size = self.norm(v)
        if self.size == 0:
            return
        v /= self.size
        for k in range(self.most):
            self.basis.append(v)
            w = self.inverse(v)
            for _ in range(2):  # full orthogonalisation, twice: the space is small
                for j, b in enumerate(self.basis):
                    part = float((self.mass * b * w).sum())
                    w -= part * b
                    if j == k:
                        self._matrix[k, k] += part
            self.next = self.norm(w)
            yield k
            if self.next <= 1e-13 * self._matrix[0, 0]:
                return
            self._matrix[k, k + 1] = self._matrix[k + 1, k] = self.next
            v = w / self.next


def _decay_time(operator: Operator, error: np.ndarray, tol: float) -> float:
    """When ``||exp(-A t) e||`` has fallen to `tol` times ``||e||``, in the mass norm."""
    uniform = operator.uniform
    if uniform is not None and uniform.transformable:
        left = lambda t: norm(spectral.apply_function(uniform, error, lambda a: np.exp(-t * a))) / norm(error)  # noqa: E731
        return _when(left, tol, 1.0 / slowest_rate(operator))
    # poles near 10 / t suit the rational space for exp(-A t); find t, move the pole, and stop when t stays
    t, shift = math.inf, 0.0
    for _ in range(6):
        krylov = _Krylov(operator, shift)
        previous, settled = math.inf, 0
        for k in krylov.grow(error):
            values, vectors = np.linalg.eigh(krylov.projected)
            keep = values > 1e-14 * values[-1]
            rates, weights = np.maximum(1 / values[keep] - shift, 0.0), vectors[0, keep]
            left = lambda t, rates=rates, weights=weights: float(np.linalg.norm(weights * np.exp(-t * rates)))  # noqa: E731
            now = _when(left, tol, 1.0 / max(rates.min(), 1e-300))
            settled = settled + 1 if abs(now - previous) < 1e-4 * now else 0
            previous = now
            if settled >= 3 and k > 5:
                break
        if shift > 0 and abs(previous - t) < 1e-3 * previous:
            return previous
        t, shift = previous, 10.0 / previous
    raise ConvergenceError(
        f"the time to equilibrium did not settle: last estimate {t:.6g} s; simulate with stop= instead."
    )


def _when(left, tol: float, unit: float) -> float:
    """The time at which the decreasing function `left` reaches tol, to 1e-10, by bisection of its logarithm."""
    low, high = 0.0, unit
    while left(high) > tol:
        low, high = high, 2 * high
        if high > 1e6 * unit:
            return math.inf
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if left(middle) > tol else (low, middle)
        if high - low <= 1e-10 * high:
            break
    return 0.5 * (low + high)


def _simulated_time(problem: Problem, initial, end: Equilibrium, tol: float) -> float:
    """Run until the distance to the equilibrium has fallen, and interpolate its logarithm in the last step."""
    from .simulate import simulate

    operator = end.operator
    weight = np.where(operator.free, operator.mass, 0.0).reshape(operator.grid.shape)
    target = np.nan_to_num(end.u)
    history: list[tuple[float, float]] = []

    def near(t, u):
        history.append((t, norm(np.sqrt(weight) * (np.nan_to_num(u) - target))))
        return history[-1][1] <= tol * first

    first = norm(np.sqrt(weight) * (_field(problem, "initial", initial) - target))
    if first == 0:
        return 0.0
    horizon = math.log(1 / tol) / slowest_rate(operator)
    run = simulate(problem, initial, until=1e3 * horizon, save="final", stop=near, tol=1e-2 * tol, progress=False)
    if run.status != "stopped":
        raise ConvergenceError(f"the run did not come near its equilibrium: {run.message}")
    (t0, d0), (t1, d1) = (history[-2] if len(history) > 1 else (0.0, first)), history[-1]
    return t0 + (t1 - t0) * math.log(d0 / (tol * first)) / math.log(d0 / d1)
