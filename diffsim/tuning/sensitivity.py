"""What sensors read as a function of parameters, and how the readings move with them.

The derivative s = du/dtheta obeys the equation of the state, forced by what the parameter changes in it:

    m s' = -K s  +  F_theta - K_theta u - m_theta u'

K_theta, F_theta and m_theta are differences of the discrete operators, exact where those are affine in the parameter
(diffusivity, conductivity of a layer, loss, source, wall values) and good to 1e-8 elsewhere. The state itself is never
differenced. Two integrators: the eigenvectors of A, exact in time, for small problems with steady data; elsewhere a
third-order L-stable scheme, whose own derivative is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import ConvergenceError, ProblemError
from ..operator import Operator, discretize
from ..points import PointValue
from ..problem import Problem
from ..schemes import SCHEMES
from ..simulate import simulate
from ..steppers import Counts, ShiftedSolver, phi
from ..trajectory import Trajectory
from .observations import Observations

_RELATIVE_STEP = 1e-4  # of a parameter, for the differences of operators
_DENSE_CELLS, _DENSE_ENTRIES = 160, 20_000_000
_FACTORED_CELLS = 40_000
_BATCH_NUMBERS = 1 << 20  # forces held at once
_TIME_TOLERANCE = 1e-5  # of the span of the readings: error of the stepping
_SIMULATE_TOLERANCE = 1e-6
# scheme of nonlinear runs by rho(A) times duration: Picard iterations pay only where explicit stages would be very many
_NONLINEAR = (("rk4", 3e3), ("rkc2", 1e6), ("tr-bdf2", math.inf))


class Posed:
    """A problem at one parameter value, as arrays over all cells: m, K, F(t), and the rows that read the sensors."""

    def __init__(self, problem: Problem, points: np.ndarray):
        self.operator: Operator = discretize(problem)
        self.mass = self.operator.mass.ravel()
        self.points = points

    @cached_property
    def readers(self) -> list[PointValue]:
        return [PointValue(self.operator, point) for point in self.points]

    @cached_property
    def stiffness(self):
        return self.operator.matrix()

    @cached_property
    def dense_stiffness(self) -> np.ndarray:
        """K as a full matrix; for small problems much faster than by way of `stiffness`."""
        operator = self.operator
        if operator.cross is not None:
            return self.stiffness.toarray()
        index = np.arange(self.mass.size).reshape(operator.shape)
        matrix = np.diag(operator.diagonal.ravel())
        for axis, conductance in enumerate(operator.conductances):
            n = operator.shape[axis]
            last = n if operator.periodic[axis] and n > 1 else n - 1  # the face after cell k joins it to cell k + 1
            left = np.take(index, np.arange(last), axis=axis).ravel()
            right = np.take(index, (np.arange(last) + 1) % n, axis=axis).ravel()
            g = np.take(conductance, np.arange(1, last + 1), axis=axis).ravel()
            for i, j in ((left, right), (right, left)):
                matrix[i, i] += g
                matrix[i, j] -= g
        return matrix

    def forces(self, times: np.ndarray) -> np.ndarray:
        """F at many times, (n, N)."""
        forcing = self.operator.forcing
        if forcing.constant:
            return np.broadcast_to(forcing.base.reshape(1, -1), (times.size, self.mass.size))
        if not forcing.separable:
            return np.stack([forcing(float(t)).ravel() for t in times])
        base, patterns, amplitudes = forcing.table(times)
        return base.reshape(1, -1) + amplitudes @ patterns.reshape(len(patterns), -1)

    @cached_property
    def rows(self) -> np.ndarray:
        """(n_points, N) weights of the cells in each reading."""
        rows = [self.row(reader) for reader in self.readers]
        return np.stack(rows) if rows else np.zeros((0, self.mass.size))

    def around(self, reader: PointValue) -> set[tuple[int, ...]]:
        """Cells that a reading may depend on."""
        shape = self.operator.grid.shape
        return set(
            itertools.product(*([(i + k) % n for k in (-1, 0, 1)] for i, n in zip(reader.cell, shape, strict=True)))
        )

    def row(self, reader: PointValue) -> np.ndarray:
        """(N,) weights of the cells in one reading, found by reading unit states around the point."""
        shape = self.operator.grid.shape
        row, state = np.zeros(self.mass.size), np.zeros(shape)
        nothing = reader(state, 0.0)
        for cell in self.around(reader):
            if self.operator.free.reshape(shape)[cell]:
                state[cell] = 1.0
                row[np.ravel_multi_index(cell, shape)] = reader(state, 0.0) - nothing
                state[cell] = 0.0
        return row

    def offsets(self, times: np.ndarray) -> np.ndarray:
        """(n_times, n_points): what the sensors read of wall values and held cells."""
        offsets = [self.offset(reader, times) for reader in self.readers]
        return np.stack(offsets, axis=1) if offsets else np.zeros((times.size, 0))

    def offset(self, reader: PointValue, times: np.ndarray) -> np.ndarray:
        """(n_times,): what one sensor reads of wall values and held cells."""
        state, shape = np.zeros(self.operator.grid.shape), self.operator.grid.shape
        beside_wall = any(i in (0, n - 1) for i, n in zip(reader.cell, shape, strict=True))
        if beside_wall and not self.operator.forcing.constant:
            return np.array([reader(state, float(t)) for t in times])
        return np.full(times.size, reader(state, float(times[0])))


class Slope:
    """Derivative of everything in a `Posed` with respect to one parameter."""

    def __init__(self, above: Posed, below: Posed, width: float):
        self.above, self.below, self.width = above, below, width

    def __call__(self, part: Callable[[Posed], Any]) -> Any:
        return (part(self.above) - part(self.below)) / self.width

    @cached_property
    def stiffness(self):
        return self(lambda posed: posed.stiffness)

    @cached_property
    def mass(self) -> np.ndarray:
        return self(lambda posed: posed.mass)

    @cached_property
    def touched(self) -> list[int]:
        """Readers beside which a coefficient, or what drives a wall, moves with the parameter: the others read as before."""
        above, below = self.above.operator, self.below.operator
        if not above.forcing.constant:
            return list(range(len(self.above.points)))
        moves = (above.diagonal != below.diagonal) | (above.forcing.base != below.forcing.base)
        for axis, (one, two) in enumerate(zip(above.conductances, below.conductances, strict=True)):
            changed = one != two
            n = moves.shape[axis]
            moves |= np.take(changed, range(n), axis=axis) | np.take(changed, range(1, n + 1), axis=axis)
        cells = moves.reshape(above.grid.shape)
        shape = cells.shape
        near = cells.copy()  # and the neighbours of these
        for offset in itertools.product(*((-1, 0, 1) if n > 1 else (0,) for n in shape)):
            near |= np.roll(cells, offset, axis=range(cells.ndim))
        return [j for j, point in enumerate(self.above.points) if near[above.grid.locate(point)]]

    def reading(self, states: np.ndarray, times: np.ndarray) -> np.ndarray:
        """What the parameter moves in the readings of unmoved `states` (n_times, N), (n_times, n_points)."""
        result = np.zeros((times.size, len(self.above.points)))
        for j in self.touched:
            above, below = ((posed, posed.readers[j]) for posed in (self.above, self.below))
            sides = [states @ posed.row(reader) + posed.offset(reader, times) for posed, reader in (above, below)]
            result[:, j] = (sides[0] - sides[1]) / self.width
        return result


class Model:
    """``predict(theta) -> (readings (n_times, n_points), derivatives (n_times, n_points, p))``.

    `route` says how: "modes" (exact in time), "stepping" (sensitivity equations), or "differences" (central differences
    of whole runs, for coefficients that depend on u or t).
    """

    def __init__(
        self,
        problem_of: Callable,
        initial: Any,
        observations: Observations,
        guess: np.ndarray,
        always_stepping: bool = False,
    ):
        self.problem_of, self.initial, self.observations = problem_of, initial, observations
        problem = self.pose(guess)
        self.grid = problem.grid
        if observations.points.shape[1] != self.grid.ndim:
            raise ProblemError(
                f"the points have {observations.points.shape[1]} coordinates, the grid has {self.grid.ndim} axes; "
                "give points of shape (n_points, ndim)."
            )
        self.begin = float(initial.t[-1]) if isinstance(initial, Trajectory) else 0.0
        if observations.times[0] < self.begin:
            raise ProblemError(
                f"the first reading is of t = {observations.times[0]:g}, before the initial state at t = {self.begin:g}."
            )
        start = initial.final if isinstance(initial, Trajectory) else initial
        self.start = self.grid.field("initial", start, where=problem.active)
        posed = Posed(problem, observations.points) if problem.linear else None
        if posed is None or not problem.steady_coefficients:
            self.route = "differences"
        elif self._small(posed) and not always_stepping:
            self.route = "modes"
        else:
            self.route = "stepping"
        self.evaluations = 0
        if self.route == "stepping":
            self.dt = self._settled_step(guess)

    def pose(self, theta: np.ndarray) -> Problem:
        problem = self.problem_of(theta)
        if not isinstance(problem, Problem):
            raise ProblemError(f"problem_of({theta}) returned {type(problem).__name__}; it must return a Problem.")
        return problem

    def _small(self, posed: Posed) -> bool:
        n = posed.mass.size
        return (
            posed.operator.forcing.constant
            and n <= _DENSE_CELLS
            and n * n * self.observations.times.size <= _DENSE_ENTRIES
        )

    def __call__(
        self, theta: np.ndarray, derivatives: bool = True, dt: float | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Readings, and their derivatives unless not wanted; stepped with `dt` where given, else with the settled step."""
        self.evaluations += 1
        if self.route == "differences":
            readings = self._simulated(theta)
            if not derivatives:
                return readings, None
            columns = []
            for above, below, width in neighbours(self._simulated, theta, 10 * _RELATIVE_STEP):
                columns.append((above - below) / width)
            return readings, np.stack(columns, axis=-1)
        posed = self.posed(theta)
        slopes = []
        if derivatives:
            slopes = [Slope(*sides) for sides in neighbours(self.posed, theta)]
        states = self._modal(posed, slopes) if self.route == "modes" else self._stepped(posed, slopes, dt or self.dt)
        times = self.observations.times
        readings = states[0] @ posed.rows.T + posed.offsets(times)
        if not derivatives:
            return readings, None
        columns = [
            s @ posed.rows.T + slope.reading(states[0], times) for s, slope in zip(states[1:], slopes, strict=True)
        ]
        return readings, np.stack(columns, axis=-1)

    def posed(self, theta: np.ndarray) -> Posed:
        problem = self.pose(theta)
        if problem.grid.shape != self.grid.shape:
            raise ProblemError(
                f"problem_of changes the grid from {self.grid.shape} to {problem.grid.shape}; parameters may move coefficients, "
                "sides and sources, not the cells."
            )
        return Posed(problem, self.observations.points)

    def posed_start(self, posed: Posed) -> np.ndarray:
        """The initial state over all cells, (N,)."""
        return posed.operator.enter(self.start).ravel()

    # --- exact in time ------------------------------------------------------------------------------------------------

    def _modal(self, posed: Posed, slopes: list[Slope]) -> list[np.ndarray]:
        """States and sensitivities at the times, [(n_times, N)] * (1 + p), in the eigenvectors of m^-1/2 K m^-1/2.

        ``y = m^1/2 u`` obeys ``y' = -B y + f``: ``y(t) = y0 + psi_t(B) (f - B y0)`` with ``psi_t(x) = (1 - exp(-t x)) / x``.
        The derivative of psi_t(B) in the direction B_theta is that of Daleckii & Krein (1965): divided differences.
        """
        root = np.sqrt(posed.mass)
        times = self.observations.times - self.begin
        initial = self.posed_start(posed)

        def scaled(p: Posed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            r = np.sqrt(p.mass)
            return p.dense_stiffness / np.outer(r, r), p.operator.forcing.base.ravel() / r, r * initial

        b, f, y0 = scaled(posed)
        rates, q = np.linalg.eigh(b)
        rates = np.maximum(rates, 0.0)
        pull = q.T @ (f - b @ y0)
        psi = times[:, None] * phi(1, times[:, None] * rates)
        y = y0 + (psi * pull) @ q.T
        states = [y / root]
        if not slopes:
            return states
        divided = _divided_differences(rates, psi, times)
        for slope in slopes:
            db, df, dy0 = (slope(lambda p, k=k: scaled(p)[k]) for k in range(3))
            turned = q.T @ db @ q
            moved = np.einsum("tij,ij,j->ti", divided, turned, pull, optimize=True)
            dpull = q.T @ (df - db @ y0 - b @ dy0)
            dy = dy0 + (moved + psi * dpull) @ q.T
            states.append((dy - y * slope(lambda p: np.sqrt(p.mass)) / root) / root)
        return states

    # --- stepping -----------------------------------------------------------------------------------------------------

    def refine(self, theta: np.ndarray) -> bool:
        """Shorten the step where it is too long at `theta`; whether it was."""
        if self.route != "stepping":
            return False
        before, self.dt = self.dt, min(self.dt, self._settled_step(theta))
        return self.dt < before

    def _settled_step(self, guess: np.ndarray) -> float:
        """A step so small that halving it no longer moves the readings."""
        duration = float(self.observations.times[-1]) - self.begin
        posed = self.posed(guess)
        values = self.observations.values
        span = float(np.nanmax(values) - np.nanmin(values)) or float(np.nanmax(np.abs(values))) or 1.0
        order = SCHEMES["sdirk3"].order
        dt = duration / 16 or 1.0
        before = self._stepped(posed, [], dt)[0] @ posed.rows.T
        for _ in range(14):
            dt /= 2
            now = self._stepped(posed, [], dt)[0] @ posed.rows.T
            if np.abs(now - before).max() / (2**order - 1) <= _TIME_TOLERANCE * span:
                return dt
            before = now
        raise ConvergenceError(
            f"the readings still change when the step is halved to {dt:.3g} s; data that jump in time need readings spread less."
        )

    def _stepped(self, posed: Posed, slopes: list[Slope], dt: float) -> list[np.ndarray]:
        """States and sensitivities at the times by the third-order scheme, steps of at most dt that hit every time."""
        times = self.observations.times
        u = self.posed_start(posed)
        s = np.zeros((u.size, len(slopes)))
        states = [np.empty((times.size, u.size)) for _ in range(1 + len(slopes))]
        step = _Step(posed, slopes)
        growing = posed.operator.forcing.constant
        starts, lengths, counts = steps_between(np.append(self.begin, times), dt, growing)
        frame = 0
        for h, forces, slope_forces in step.forcing(starts, lengths):
            while counts[frame] == 0:  # nothing left of this interval: the time is reached
                _save(states, frame, u, s)
                frame += 1
            u, s = step(u, s, h, forces, slope_forces)
            counts[frame] -= 1
        for i in range(frame, times.size):
            _save(states, i, u, s)
        return states

    # --- whole runs ---------------------------------------------------------------------------------------------------

    def _first_rate(self, problem: Problem) -> float:
        return discretize(problem, self.begin, None if problem.linear else self.start).spectral_bound().value

    def _simulated(self, theta: np.ndarray) -> np.ndarray:
        problem, times = self.pose(theta), self.observations.times
        frames = np.unique(np.append(self.begin, times))
        until = float(times[-1])
        work = self._first_rate(problem) * (until - self.begin)
        scheme = next(name for name, most in _NONLINEAR if work <= most)
        run = simulate(
            problem, self.initial, until, scheme=scheme, tol=_SIMULATE_TOLERANCE, save=frames, progress=False
        )
        if not run.ok:
            raise ConvergenceError(f"the run at parameters {theta} ended as {run.status!r}: {run.message}")
        kept = np.searchsorted(run.t, times)
        readings = np.empty((times.size, len(self.observations.points)))
        for i, frame in zip(range(times.size), kept, strict=True):
            operator = discretize(problem, float(times[i]), None if problem.linear else run.u[frame])
            for j, point in enumerate(self.observations.points):
                readings[i, j] = PointValue(operator, point)(operator.enter(run.u[frame]), float(times[i]))
        return readings


class _Step:
    """One step of the third-order scheme for the state and, with the same matrix, for its derivatives."""

    def __init__(self, posed: Posed, slopes: list[Slope]):
        tableau = SCHEMES["sdirk3"].tableau
        assert tableau is not None
        self.tableau, self.posed, self.slopes = tableau, posed, slopes
        self.slope_mass = (
            np.stack([slope.mass for slope in slopes], axis=1) if slopes else np.zeros((posed.mass.size, 0))
        )
        self.solvers: dict[float, Callable] = {}
        if slopes:
            from scipy.sparse import vstack

            self.slope_stiffness = vstack([slope.stiffness for slope in slopes], format="csr")

    def forcing(self, starts: np.ndarray, lengths: np.ndarray):
        """Yield (h, F at the stages (s, N), F_theta at the stages (s, N, p)) for every step, made in batches."""
        stages, n, p = self.tableau.stages, self.posed.mass.size, len(self.slopes)
        batch = max(1, _BATCH_NUMBERS // (stages * n * (1 + p)))
        for first in range(0, starts.size, batch):
            t, h = starts[first : first + batch], lengths[first : first + batch]
            moments = (t[:, None] + h[:, None] * self.tableau.c).ravel()
            forces = self.posed.forces(moments).reshape(t.size, stages, n)
            moved = [slope(lambda posed, m=moments: posed.forces(m)) for slope in self.slopes]
            slope_forces = np.stack(moved, axis=-1) if p else np.zeros((moments.size, n, 0))
            yield from zip(h, forces, slope_forces.reshape(t.size, stages, n, p), strict=True)

    def __call__(self, u: np.ndarray, s: np.ndarray, h: float, forces: np.ndarray, slope_forces: np.ndarray):
        mass = self.posed.mass[:, None]
        nets: list[np.ndarray] = []
        slope_nets: list[np.ndarray] = []
        stage, slope_stage = u, s
        here, slope_here = self.posed.stiffness @ u, self.posed.stiffness @ s
        for row, force, slope_force in zip(self.tableau.A, forces, slope_forces, strict=True):
            a = row[len(nets)]
            if a == 0:  # the first stage is the state itself
                nets.append(force - here)
                slope_nets.append(slope_force - self._drag(u) - slope_here)
                continue
            shift = 1.0 / (h * a)
            solve = self._solver(shift)
            known = sum(w / a * net for w, net in zip(row, nets, strict=False) if w)
            delta = solve(known + force - here)
            stage = u + delta
            nets.append(shift * self.posed.mass * delta - known)
            if self.slopes:
                known = sum(w / a * net for w, net in zip(row, slope_nets, strict=False) if w)
                inertia = shift * delta[:, None] * self.slope_mass
                delta = solve(known + slope_force - self._drag(stage) - slope_here - inertia)
                slope_stage = s + delta
                slope_nets.append(shift * mass * delta + inertia - known)
        return stage, slope_stage

    def _drag(self, u: np.ndarray) -> np.ndarray:
        """K_theta u, (N, p)."""
        if not self.slopes:
            return np.zeros((u.size, 0))
        return (self.slope_stiffness @ u).reshape(len(self.slopes), u.size).T

    def _solver(self, shift: float) -> Callable:
        key = float(f"{shift:.12g}")  # equal steps differ in their last digits
        if key not in self.solvers:
            if len(self.solvers) >= 8:
                self.solvers.clear()
            self.solvers[key] = shifted(self.posed, shift)
        return self.solvers[key]


def neighbours(evaluate: Callable[[np.ndarray], Any], theta: np.ndarray, relative: float = _RELATIVE_STEP):
    """Yield (value above, value below, width) per parameter; one-sided where the other side cannot be posed."""
    here = None
    for j, value in enumerate(theta):
        step = relative * (abs(value) or 1.0)
        sides, places = [], []
        for sign in (1, -1):
            moved = theta.copy()
            moved[j] = value + sign * step
            try:
                sides.append(evaluate(moved))
                places.append(moved[j])
            except ProblemError:
                if here is None:
                    here = evaluate(theta)
                sides.append(here)
                places.append(value)
        if places[0] == places[1]:
            raise ProblemError(f"problem_of cannot be posed on either side of parameter {j} = {value:g}.")
        yield sides[0], sides[1], places[0] - places[1]


def steps_between(marks: np.ndarray, dt: float, growing: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts, lengths) of equal steps between the marks, at most dt long, and their number in each interval.

    Growing: at most dt times the time elapsed at the start of the interval, in units of the first. What a rough start
    leaves at time t moves at rates of about 1/t: steps in proportion to t make errors alike.
    """
    gaps, elapsed = np.diff(marks), marks[:-1] - marks[0]
    later = elapsed[elapsed > 0]
    longest = dt * np.maximum(1.0, elapsed / later[0]) if growing and later.size else np.full(gaps.size, dt)
    counts = np.ceil(gaps / longest * (1 - 1e-12)).astype(int)
    within = np.concatenate([np.arange(n) for n in counts]) if counts.size else np.zeros(0)
    lengths = np.repeat(np.divide(gaps, counts, out=np.zeros_like(gaps), where=counts > 0), counts)
    return np.repeat(marks[:-1], counts) + within * lengths, lengths, counts


def _save(states: list[np.ndarray], i: int, u: np.ndarray, s: np.ndarray) -> None:
    states[0][i] = u
    for j in range(s.shape[1]):
        states[1 + j][i] = s[:, j]


def shifted(posed: Posed, shift: float) -> Callable[[np.ndarray], np.ndarray]:
    """Solver of ``(shift m + K) x = rhs`` for one or more columns: factored where small, multigrid elsewhere."""
    if posed.mass.size <= _FACTORED_CELLS:
        from scipy.sparse import dia_array
        from scipy.sparse.linalg import splu

        n = posed.mass.size
        matrix = posed.stiffness + dia_array((shift * posed.mass[None, :], [0]), shape=(n, n))
        return splu(matrix.tocsc()).solve
    solver, shape = ShiftedSolver(posed.operator, Counts()), posed.operator.shape

    def solve(rhs: np.ndarray) -> np.ndarray:
        if rhs.ndim == 1:
            return solver.solve(shift, rhs.reshape(shape)).ravel()
        return np.stack([solve(np.ascontiguousarray(column)) for column in rhs.T], axis=1)

    return solve


def _divided_differences(rates: np.ndarray, psi: np.ndarray, times: np.ndarray) -> np.ndarray:
    """``(psi_t(a) - psi_t(b)) / (a - b)`` for all pairs of rates, (n_times, N, N); the derivative where they meet."""
    gap = rates[:, None] - rates[None, :]
    middle = 0.5 * (rates[:, None] + rates[None, :])
    t = times[:, None, None]
    near = np.abs(gap) * max(float(times[-1]), 1e-300) < 1e-4
    quotient = (psi[:, :, None] - psi[:, None, :]) / np.where(near, 1.0, gap)
    # d psi / dx = -t^2 (phi_1 - phi_2)(-t x)
    derivative = -(t**2) * (phi(1, t * middle) - phi(2, t * middle)) if near.any() else 0.0
    return np.where(near, derivative, quotient)
