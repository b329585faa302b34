"""Linear systems ``K x = b`` of the discrete diffusion operator: conjugate gradients preconditioned by multigrid.

`K` is never assembled: the solver works on face conductances and a diagonal (docs/architecture.md), copes with voids,
periodic axes, jumps of the coefficient and sizes that are not powers of two, and its result does not depend on the
number of threads.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numba
import numpy as np

from . import compiling, graphs, sparse
from .errors import ResourceError
from .kernels import multigrid as kernels
from .kernels import team
from .resources import require_memory

COARSEST = 96  # cells solved directly
LARGEST_DENSE = 400  # the most that are solved directly where an axis cannot be coarsened further
VOIDS = 0.02  # share of faces without conductance from which aggregates fit better
SOLVE, SET_UP = 8_000, 24_000  # cells that a thread must have to do in a system to be woken for it
BAND = 700_000  # bytes of a band of the finest level in the set-up, besides the rows it shares with the next one
STRETCHED = 6.0  # ratio of mean conductances of two axes from which aggregates fit better
PATIENCE = 120  # iterations on a plane after which factors of K are cheaper: next to a threshold of percolation, say
LARGEST_FACTORISED, FACTORS = 500_000, 1_000  # cells of a plane whose factors are made, which takes 4 s; bytes per cell
SPLIT = 1e-4  # share of weak ties inside blocks from which aggregates follow the ties
STRETCHED_LINES = 0.1  # share of lines of cells that may be stretched so either way
WEAK = 0.3  # an axis this much weaker than the strongest waits until the others have been coarsened


KEPT = 16 << 20  # bytes of a solver's memory that its thread keeps for the next one
_kept = threading.local()


def _memory(name: str, size: int, dtype: type) -> np.ndarray:
    """Numbers that may hold anything, from what an earlier solver of this thread has left under `name` if that is enough.

    Fresh memory costs a page fault every 4 KiB: a third of a solve on 128 x 128 cells.
    """
    wanted = size * np.dtype(dtype).itemsize
    left = _kept.__dict__.pop(name, None)
    if left is None or left.nbytes < wanted:
        left = np.empty(wanted, dtype=np.uint8)
    return left[:wanted].view(dtype)


def _leave(name: str, memory: np.ndarray) -> None:
    """Leave memory that nobody uses any more to the next solver of this thread."""
    if memory.base is not None and memory.base.nbytes <= KEPT:
        _kept.__dict__[name] = memory.base


def _steps(low: float, degree: int) -> list[float]:
    """Step lengths of a smoother that is a Chebyshev polynomial on [low, 2.04].

    2 bounds the spectrum of D^-1 K (Gershgorin). The steps commute, so any order makes the cycle symmetric.
    """
    roots = 0.5 * (2.04 + low) + 0.5 * (2.04 - low) * np.cos(np.pi * (2 * np.arange(degree) + 1) / (2 * degree))
    return [float(1 / root) for root in roots]


def _schedule(steps: list[float], rest: bool) -> tuple[np.ndarray, np.ndarray]:
    """(jobs, omegas): the passes of a V-cycle on aggregates, step by step. `rest`: it has a pass of its own."""
    degree, hops = len(steps), [kernels.FORWARD, kernels.BACKWARD]
    down = [(hops[k % 2], step) for k, step in enumerate(steps[1:])]
    # the correction is added where the way down left off, and the way up must end in y
    up = [(hops[(k + degree + 1) % 2], step) for k, step in enumerate(reversed(steps))]
    down += [(kernels.REST, 0.0)] if rest else []
    passes = [(kernels.FORWARD, steps[0]), *down, (kernels.RESTRICT, steps[0]), (kernels.PROLONG, 0.0), *up]
    return np.array([job for job, _ in passes]), np.array([step for _, step in passes])


BLOCKS, GRAPHS = (_schedule(_steps(0.4, 3), rest) for rest in (False, True))
PLANE = (*_steps(0.6, 2), 0.0, 0.0, 0.0)  # `numbers` of the kernels: the two smoothing steps come first


@dataclass(frozen=True)
class Solve:
    """Solution of ``K x = rhs`` and how well it was found."""

    x: np.ndarray  # padded shape
    iterations: int
    residual: float  # ||rhs - K x|| / ||rhs||, measured; 0 where rhs = 0
    converged: bool  # residual <= tol, or as small as rounding in double precision allows
    rounding: float  # size of the rounding errors in `residual`, relative to ||rhs||

    @classmethod
    def of(cls, x: np.ndarray, tol: float, iterations: int, residual: float, size: float, rounding: float) -> "Solve":
        """x and what the kernel that found it returned."""
        converged = bool(residual <= max(tol * size, 2.0 * rounding))
        return cls(x, int(iterations), float(residual / size), converged, float(rounding / size))


class Multigrid:
    """Solver for one ``K``: ``(K u)_i = diagonal_i u_i + sum over faces g (u_i - u_j)``.

    Parameters
    ----------
    conductances
        (g0, g1, g2), face conductances >= 0 of the padded shape (n0, n1, n2) with one more entry along their own axis;
        the two ends are 0, or equal on a periodic axis.
    diagonal
        Shape (n0, n1, n2), >= 0: walls, losses, and for an implicit step mass / (gamma dt). Cells without any
        conductance and diagonal are inert and stay 0.
    periodic
        Whether each axis is.
    threads
        At most; None: all that numba has. The result does not depend on it.

    Notes
    -----
    Each V-cycle is a symmetric, positive preconditioner up to its rounding (single precision at moderate contrast).
    """

    def __init__(
        self,
        conductances: Sequence[np.ndarray],
        diagonal: np.ndarray,
        periodic: Sequence[bool] = (False,) * 3,
        threads: int | None = None,
    ):
        self.conductances = tuple(np.ascontiguousarray(g, dtype=np.float64) for g in conductances)
        self.diagonal = np.ascontiguousarray(diagonal, dtype=np.float64)
        self.shape = self.diagonal.shape
        self.periodic = tuple(bool(p) for p in periodic)
        self.threads = threads

    def with_diagonal(self, diagonal: np.ndarray) -> "Multigrid":
        """The same graph with another diagonal."""
        return Multigrid(self.conductances, diagonal, self.periodic, self.threads)

    @property
    def direct(self) -> bool:
        """A line of cells: solved by elimination."""
        return max(self.shape) == self.diagonal.size

    @cached_property
    def _facts(self) -> list[tuple[float, float, float, float]]:
        """Per axis: sum, largest, smallest positive and number of positive conductances."""
        flat = [n == 1 and not wraps for n, wraps in zip(self.shape, self.periodic, strict=True)]  # both ends are 0
        none = (0.0, 0.0, math.inf, 0.0)
        return [
            none if is_flat else kernels.survey(g.reshape(-1))
            for g, is_flat in zip(self.conductances, flat, strict=True)
        ]

    @cached_property
    def _strength(self) -> list[float]:
        """Mean conductance per axis."""
        return [total / self.diagonal.size for total, *_ in self._facts]

    @cached_property
    def _plane(self) -> tuple[np.ndarray, int] | None:
        """Layout of the hierarchy of every other cell; None where aggregates fit better: 3D, voids, stretched cells."""
        n0, n1, n2 = self.shape
        weak, strong = sorted(self._strength[1:])
        if n0 > 1 or self._strength[0] > 0 or strong > STRETCHED * weak:
            return None
        if self._graded:
            return None
        if sum(count for *_, count in self._facts) < (1 - VOIDS) * (2 * n1 * n2 - n1 - n2):
            return None
        return _plane_layout(self.shape, self.periodic)

    @property
    def _graded(self) -> bool:
        """Whether the cells of a plane are stretched one way here and the other way there, by lines of cells."""
        if self._contrast < STRETCHED**2:
            return False
        down, right = self.conductances[1][0], self.conductances[2][0]
        along = [down[:-1].sum(axis=1) + down[1:].sum(axis=1), 2 * down.sum(axis=0)]  # per row, per column
        across = [2 * right.sum(axis=1), right[:, :-1].sum(axis=0) + right[:, 1:].sum(axis=0)]
        return any(
            np.mean((a > STRETCHED * b) | (b > STRETCHED * a)) > STRETCHED_LINES
            for a, b in zip(along, across, strict=True)
        )

    @cached_property
    def _split(self) -> bool:
        """Whether blocks of cells hold ties so weak beside others that aggregates had better follow the strong ones."""
        if self._plane or self.diagonal.size <= COARSEST or self._contrast < 1 / graphs.STRONG:
            return False
        strongest = max(self._strength)
        halved = [strength >= WEAK * strongest for strength in self._strength]
        return graphs.share_of_weak_ties(self.conductances, halved) > SPLIT

    @property
    def _schedule(self) -> tuple[np.ndarray, np.ndarray]:
        """Passes of a V-cycle on aggregates."""
        jobs, omegas = GRAPHS if self._split else BLOCKS
        return jobs, omegas.astype(self._precision)

    def _scratch(self, members: int, coarsest: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers for each thread to write on, in double precision and in that of the arena; 64 keep two threads apart."""
        places = self.shape[2] + 2
        narrow = kernels.BUFFERS * places if self._plane else places
        wide = max(3 * places, coarsest)
        return np.zeros((members, wide + 64)), np.zeros((members, narrow + 64), dtype=self._precision)

    @cached_property
    def _contrast(self) -> float:
        """Largest to smallest positive conductance; 0 of none."""
        largest, smallest = max(facts[1] for facts in self._facts), min(facts[2] for facts in self._facts)
        return largest / smallest

    @cached_property
    def _precision(self) -> type:
        """Of the preconditioner: weights rounded to 7 digits disturb contrasts beyond 1e5, at a quarter more iterations."""
        return np.float64 if self._contrast > 1e5 else np.float32

    def _members(self, cells: int) -> int:
        """Threads that pay, where one has to do so many cells to be worth waking."""
        return max(1, min(self.threads or numba.get_num_threads(), self.diagonal.size // cells))

    @cached_property
    def _hierarchy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray | None]:
        """(table, arena, dense factors, scale, links) of the preconditioner; lists only where aggregates follow ties."""

        def arguments() -> list:
            kernel, _, *rest = self._call(self._blank, self.diagonal, self.diagonal, 0.0, 0)
            return [kernel.__module__, kernel.__name__, *map(compiling.kind_of, (0, 1, team.new_gate(), *rest))]

        with compiling.beside(kernels.plane_pcg, kernels.pcg) as order:
            order(kernels.plane_pcg if self._plane else kernels.pcg, compiling.compile_for, arguments)
            return self._set_up()

    @cached_property
    def _scale(self) -> float:
        """What the preconditioner multiplies K by."""
        largest = max(*(facts[1] for facts in self._facts), float(self.diagonal.max(initial=0.0)))
        return 1.0 / largest if largest > 0 else 1.0

    def _set_up(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray | None]:
        conductances, diagonal, scale = self.conductances, self.diagonal, self._scale
        precision, links = self._precision, None
        if self._split:
            table, arena, links = graphs.layout(conductances, diagonal, scale, precision, COARSEST)
            dense = _dense(table)
            kernels.graph_set_up(table, arena, *conductances, diagonal, scale, links, dense)
        elif self._plane:
            table, size = self._plane
            arena, dense = _memory("arena", size, precision), _dense(table)
            members = self._members(SET_UP)
            tables, room = _banded_layouts(self.shape, self.periodic, members)
            work = _memory("scratch", room, np.float64)
            flat = (g.reshape(-1) for g in (*conductances[1:], diagonal))
            system = (tables.copy(), arena, work, *flat, *self.periodic[1:], scale, dense, np.empty(len(dense)))
            team.together(kernels.box_set_up, members, *system)
            _leave("scratch", work)
        else:
            table, size = _layout(self.shape, self._strength)
            arena, dense = np.zeros(size, dtype=precision), _dense(table)
            kernels.set_up(table, arena, *conductances, diagonal, scale, dense)
        return table, arena, dense, scale, links

    @cached_property
    def _inert(self) -> np.ndarray:
        """Cells that nothing is attached to: the correction of their aggregate must not stay there."""
        start = self._hierarchy[0][0, kernels.DINV]
        return self._hierarchy[1][start : start + self.diagonal.size].reshape(self.shape) == 0.0

    def release(self) -> None:
        """Leave the memory of the hierarchy to the next solver of this thread; it is made again where it is needed."""
        hierarchy = self.__dict__.pop("_hierarchy", None)
        self.__dict__.pop("_inert", None)
        if hierarchy is not None and self._plane:
            _leave("arena", hierarchy[1])
            _leave("dense", hierarchy[2])

    def solve(
        self,
        rhs: np.ndarray,
        x0: np.ndarray | None = None,
        tol: float = 1e-8,
        max_iterations: int = 500,
        norm: str = "residual",
    ) -> Solve:
        """Solve ``K x = rhs`` to a relative residual of `tol`.

        Parameters
        ----------
        rhs, x0
            Right-hand side and first guess (zero by default), padded shape. Not modified.
        tol
            Bound on ||rhs - K x|| / ||rhs||.
        norm
            "residual" is the only norm.

        Returns
        -------
        Solve
            Never raises for want of convergence: read `.converged`.

        Raises
        ------
        ValueError
            For a right-hand side that is not finite, or an unknown norm.
        """
        if norm != "residual":
            raise ValueError(f"norm = {norm!r}: only 'residual' exists.")
        rhs = np.ascontiguousarray(rhs, dtype=np.float64).reshape(self.shape)
        x = np.zeros(self.shape) if x0 is None else np.array(x0, dtype=np.float64, order="C").reshape(self.shape)
        top = max(float(rhs.max(initial=0.0)), -float(rhs.min(initial=0.0)))
        if not math.isfinite(top):
            raise ValueError("rhs holds values that are not finite; nothing can be solved with them.")
        if top == 0.0:
            return Solve(np.zeros(self.shape), 0, 0.0, True, 0.0)
        if not 1e-100 < top < 1e100:  # squares of these would leave the range of doubles
            unit = 2.0 ** math.frexp(top)[1] if top < 1e300 else top
            part = self.solve(rhs / unit, None if x0 is None else x / unit, tol, max_iterations)
            return replace(part, x=part.x * unit)
        if self.direct:
            return self._eliminate(rhs)
        small_plane = self.shape[0] == 1 and self.diagonal.size <= LARGEST_FACTORISED
        return (self._solve_plane if small_plane else self._iterate)(rhs, x, tol, max_iterations)

    def _solve_plane(self, rhs: np.ndarray, x: np.ndarray, tol: float, max_iterations: int) -> Solve:
        """Conjugate gradients from x on; where they are slow, from what the factors of K say."""
        _ = self._hierarchy  # before this process compiles anything: it has something compiled beside
        patience = 0 if self.__dict__.get("_factors") else self._patience
        first = self._iterate(rhs, x, tol, min(patience, max_iterations))
        if first.converged or first.iterations >= max_iterations:
            return first
        start = self._factors(rhs) if self._factors else None
        if start is None or not np.isfinite(start).all():
            start = x.copy()
        second = self._iterate(rhs, start, tol, max_iterations - first.iterations)
        best = second if second.residual < first.residual else first
        return replace(best, iterations=first.iterations + second.iterations)

    def _iterate(self, rhs: np.ndarray, x: np.ndarray, tol: float, max_iterations: int) -> Solve:
        """Conjugate gradients from x on, which is overwritten."""
        found = team.together(*self._call(self._hierarchy, rhs, x, tol, max_iterations))
        if self._inert.any():
            x[self._inert] = 0.0
        return Solve.of(x, tol, *found)

    @property
    def _patience(self) -> int:
        """Iterations on a plane that are tried before its factors are made; on aggregates one costs more."""
        return PATIENCE if self._plane else PATIENCE // 2

    @cached_property
    def _factors(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What solves ``K x = rhs`` directly; None where it can't be had."""
        try:
            require_memory(FACTORS * self.diagonal.size, "factors of a plane", self.shape[1:])
        except ResourceError:
            return None
        return sparse.factorised(self.conductances, self.diagonal, self.periodic)

    def _call(
        self, hierarchy: tuple, rhs: np.ndarray, x: np.ndarray, tol: float, max_iterations: int, solving: bool = True
    ) -> tuple:
        """(kernel, members of its team, *its arguments*) of conjugate gradients on x; of a mere V-cycle if not `solving`.

        The kernels return (iterations, ||rhs - K x||, ||rhs||, size of the rounding errors) and nothing.
        """
        table, arena, dense, scale, links = hierarchy
        members = self._members(SOLVE)
        system = (self.diagonal, rhs, x, tol, max_iterations)
        wide, narrow = self._scratch(members, len(dense))
        if self._plane:
            numbers: np.ndarray = np.array([PLANE] * members, dtype=self._precision)
            memory = (numbers, wide, narrow, np.zeros((self.shape[1], 6)))
            system = (*self.conductances[1:], *system, scale)
            return kernels.plane_pcg, members, *system, table, arena, dense, *memory, solving
        cycle = (table, arena, dense, *self._schedule, links, wide, narrow)
        if not solving:
            return kernels.vcycle, members, *cycle
        vectors, sums = np.zeros((3, *self.shape)), np.zeros((2, self.shape[0] * self.shape[1], 2))
        return kernels.pcg, members, *self.conductances, *system, *cycle, vectors, sums

    @property
    def _blank(self) -> tuple:
        """A hierarchy that holds nothing, of the types of the one to come."""
        table = self._plane[0] if self._plane else np.zeros((1, kernels.COLUMNS), dtype=np.int64)
        links = np.zeros(1, dtype=np.int32) if self._split else None
        return table, np.zeros(1, dtype=self._precision), np.zeros((1, 2)), 1.0, links

    def _eliminate(self, rhs: np.ndarray) -> Solve:
        """The solution on a line of cells."""
        axis = int(np.argmax(self.shape))
        g, w, x = self.conductances[axis].reshape(-1), self.diagonal.reshape(-1), np.empty(rhs.size)
        f = rhs.reshape(-1)
        kernels.solve_line(g, w, f, x)
        steps = g * (np.append(x, x[0]) - np.append(x[-1], x))
        rest = f - w * x + np.diff(steps)
        scale = (w + g[:-1] + g[1:]) * np.abs(x) + np.abs(f)
        size = float(np.linalg.norm(f))
        residual, rounding = float(np.linalg.norm(rest)) / size, 2.3e-16 * float(np.linalg.norm(scale)) / size
        # a floating line whose rhs does not add up has no solution, and its residual shows it
        return Solve(x.reshape(self.shape), 1, residual, residual <= max(8 * rounding, 1e-12), rounding)

    def cycle(self, rhs: np.ndarray, out: np.ndarray) -> np.ndarray:
        """One symmetric V-cycle for ``K out = rhs`` from zero, into `out`."""
        if self.direct:
            kernels.solve_line(
                self.conductances[int(np.argmax(self.shape))].reshape(-1),
                self.diagonal.reshape(-1),
                np.ascontiguousarray(rhs, dtype=np.float64).reshape(-1),
                out.reshape(-1),
            )
            return out
        table, arena, _, scale, _ = self._hierarchy
        size = float(np.abs(rhs).max(initial=0.0))
        factor = 1.0 / size if size > 0 else 1.0
        n = self.diagonal.size
        columns = [kernels.R if self._plane else kernels.B, kernels.X, kernels.DINV, kernels.Y]
        b, x, dinv, y = (arena[start : start + n] for start in table[0, columns])
        np.multiply(rhs.reshape(-1), factor, out=b, casting="same_kind")
        if not self._plane:
            np.multiply(dinv, b, out=x)
            x *= self._schedule[1][0]
        team.together(*self._call(self._hierarchy, self.diagonal, self.diagonal, 0.0, 0, solving=False))
        np.multiply(y, scale / factor, out=out.reshape(-1), dtype=np.float64)
        out.reshape(self.shape)[self._inert] = 0.0
        return out


def _dense(table: np.ndarray) -> np.ndarray:
    """Place for the factors of the coarsest level, 0."""
    coarsest = math.prod(int(n) for n in table[-1, :3])
    place = _memory("dense", coarsest * (coarsest + 1), np.float64)
    place.fill(0.0)
    return place.reshape(coarsest, coarsest + 1)


def _layout(shape: tuple[int, ...], strength: list[float]) -> tuple[np.ndarray, int]:
    """Level table of a hierarchy, and the length of its arena. `strength`: mean conductance per axis."""
    lines, at = [], 0
    size, strength = [int(n) for n in shape], list(strength)
    while True:
        line = np.zeros(kernels.COLUMNS, dtype=np.int64)
        line[:3] = size
        n = math.prod(size)
        for axis in range(3):
            line[kernels.G0 + axis] = at
            at += n // size[axis] * (size[axis] + 1)
        for column in (kernels.W, kernels.DINV, kernels.B, kernels.X, kernels.Y):
            line[column] = at
            at += n
        lines.append(line)
        strongest = max((s for s, n_axis in zip(strength, size, strict=True) if n_axis > 1), default=0.0)
        blocks = [2 if n_axis > 1 and s >= WEAK * strongest else 1 for s, n_axis in zip(strength, size, strict=True)]
        if n <= COARSEST or strongest == 0.0:
            break
        line[kernels.BLOCK : kernels.BLOCK + 3] = blocks
        for axis in range(3):
            strength[axis] *= math.prod(blocks) / blocks[axis] ** 2
        size = [(n_axis + f - 1) // f for n_axis, f in zip(size, blocks, strict=True)]
    return np.array(lines), at


@lru_cache(maxsize=64)
def _plane_layout(shape: tuple[int, ...], periodic: tuple[bool, ...]) -> tuple[np.ndarray, int] | None:
    """The same for a plane whose coarse cells are every other one; None where that cannot be coarsened enough."""
    lines: list = []
    at = scratch = 0
    n1, n2 = int(shape[1]), int(shape[2])
    while True:
        line = np.zeros(kernels.PLANE_COLUMNS, dtype=np.int64)
        line[:3], line[kernels.WRAP] = (1, n1, n2), periodic[1]
        cells, corners = n1 * n2, (n1 + 1) * (n2 + 2)
        sizes = {kernels.EAST: cells + n1, kernels.SOUTH: cells + n2}
        sizes |= dict.fromkeys((kernels.W, kernels.DINV, kernels.X, kernels.Y), cells)
        if lines:
            sizes |= {kernels.SOUTHEAST: corners, kernels.SOUTHWEST: corners, kernels.B: cells}
        else:  # residual and direction alternate between two places
            sizes |= {kernels.R: 2 * cells, kernels.P: 2 * cells, kernels.Q: cells}
        m1, m2 = n1 // 2, n2 // 2
        coarsest = cells <= COARSEST or min(n1, n2) < 4 or (periodic[1] and n1 % 2) or (periodic[2] and n2 % 2)
        if not coarsest:
            sizes[kernels.TRANSFER] = 8 * (m1 + 2) * (m2 + 2)
        for column, size in sizes.items():
            line[column] = at
            at += size
        if lines:
            height, width = n1 + 2 * kernels.HALO, n2 + 2 * kernels.HALO
            line[[kernels.WORK, kernels.HEIGHT, kernels.WEIGHTS_HEIGHT]] = scratch, height, m1 + 2
            scratch += 6 * height * width
            line[kernels.WEIGHTS] = scratch
            scratch += 0 if coarsest else 8 * (m1 + 2) * (m2 + 2)
        lines.append(line)
        if coarsest:
            lines[0][kernels.WORK] = scratch
            line[kernels.WEIGHTS] = scratch + _place_band(lines[0])  # on the coarsest level, which has none: the end
            table = np.array(lines)
            table.flags.writeable = False
            return (table, at) if len(table) > 1 and cells <= LARGEST_DENSE else None
        n1, n2 = m1, m2


def _place_band(line: np.ndarray) -> int:
    """Size of a band of the finest level in the scratch of the set-up, from WORK on; where its fields and weights lie."""
    n1, n2 = int(line[1]), int(line[2])
    width, places = n2 + 2 * kernels.HALO, n2 // 2 + 2
    # of coarse rows, of which each has two fine rows of four fields
    rows = min(max(4, BAND // (8 * (8 * width + 8 * places))), n1 // 2)
    height = 2 * rows + kernels.HALO + 2
    line[[kernels.HEIGHT, kernels.WEIGHTS_HEIGHT]] = height, rows + 2
    line[kernels.WEIGHTS] = line[kernels.WORK] + 4 * height * width
    size = 4 * height * width + 8 * (rows + 2) * places
    return size + -size % 16  # what two threads write often is apart


@lru_cache(maxsize=64)
def _banded_layouts(shape: tuple[int, ...], periodic: tuple[bool, ...], members: int) -> tuple[np.ndarray, int]:
    """The table for each member of a team, whose band of the finest level is its own; and the size of all scratch."""
    layout = _plane_layout(shape, periodic)
    assert layout is not None
    table, _ = layout
    first, end = int(table[0, kernels.WORK]), int(table[-1, kernels.WEIGHTS])
    tables = np.repeat(table[None], members, axis=0)
    tables[:, 0, [kernels.WORK, kernels.WEIGHTS]] += (end - first) * np.arange(members)[:, None]
    tables.flags.writeable = False
    return tables, first + members * (end - first)


def solve_preconditioned(
    apply: Callable[[np.ndarray], np.ndarray],
    cycle: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rhs: np.ndarray,
    x0: np.ndarray | None,
    tol: float,
    max_iterations: int,
) -> Solve:
    """Conjugate gradients for any symmetric `apply`, with V-cycles of a spectrally close K as preconditioner."""
    size = float(np.linalg.norm(rhs))
    x = np.zeros_like(rhs) if x0 is None else x0.copy()
    if size == 0.0:
        return Solve(np.zeros_like(rhs), 0, 0.0, True, 0.0)
    r = rhs - apply(x) if x0 is not None else rhs.copy()
    z, p, old, iterations = np.empty_like(r), np.zeros_like(r), 0.0, 0
    q, alpha = np.zeros_like(r), 0.0
    while iterations < max_iterations and float(np.linalg.norm(r)) > tol * size:
        cycle(r, z)
        new = float((r * z).sum())
        if not new > 0:
            break
        beta = max(-alpha * float((q * z).sum()) / old, 0.0) if old > 0 else 0.0
        p = z + beta * p
        q = apply(p)
        alpha = new / float((p * q).sum())
        x += alpha * p
        r -= alpha * q
        old = new
        iterations += 1
    residual = float(np.linalg.norm(rhs - apply(x))) / size
    return Solve(x, iterations, residual, residual <= 1.01 * tol, 0.0)
