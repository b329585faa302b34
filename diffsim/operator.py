"""The discrete problem ``m du/dt = -K u + F(t)``: conductances, walls, forcing, and rigorous bounds of its
spectrum.

Arrays are padded to three axes (leading axes of length 1), so that one kernel serves every dimension.
docs/architecture.md states the conventions.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import series, sparse, tensor
from .data import Data
from .errors import ProblemError
from .forcing import Forcing, Term, Wall
from .lines import aligned
from .problem import OfGradient, OfState, OfTime, PerAxis, Problem, Tensor
from .uniform import Uniform, UniformSide

_SWEEPS = 40  # power iterations behind a bound of rho(A)
_SLAB_CELLS = 1 << 15  # cells that are taken at once where a temporary array is needed: it stays in the cache


@dataclass(frozen=True)
class SpectralBound:
    """A rigorous upper bound of rho(m^-1 K) [1/s], how it was found, and a lower bound of the same number."""

    value: float
    kind: str  # "exact" | "gershgorin" | "collatz"
    lower: float


class Operator:
    """The discretised problem at a time (and, for nonlinear D, at a state). Build it with `discretize`.

    Large arrays are made on first use: a constant-coefficient box stepped by its own kernel never makes them.
    """

    def __init__(self, problem: Problem, t: float, u: np.ndarray | None):
        self.problem, self.grid, self.t = problem, problem.grid, t
        self._state = u
        grid = problem.grid
        self.shape: tuple[int, int, int] = (1,) * (3 - grid.ndim) + grid.shape  # type: ignore[assignment]
        self.lead = 3 - grid.ndim
        self.periodic = (False,) * self.lead + tuple(
            problem.boundary[f"{axis}-"].kind == "periodic" for axis in grid.axes
        )
        self.linear = problem.linear
        self.autonomous = not isinstance(problem.diffusivity, OfTime)

    # --- shapes
    # ---------------------------------------------------------------------------------------------------

    def pad(self, field: np.ndarray) -> np.ndarray:
        """A field of the grid's shape in the padded shape, C-contiguous float64 (a view where possible)."""
        return np.ascontiguousarray(field, dtype=np.float64).reshape(self.shape)

    def unpad(self, field: np.ndarray) -> np.ndarray:
        return field.reshape(self.grid.shape)

    def enter(self, field: np.ndarray) -> np.ndarray:
        """A user's field as a padded state: a copy with 0 in cells that are not free."""
        return self.settle(np.array(field, dtype=np.float64, order="C"))

    def settle(self, field: np.ndarray) -> np.ndarray:
        """A C-contiguous field made a padded state where it is: 0 in cells that are not free."""
        state = field.reshape(self.shape)
        if not self.all_free:
            state[~self.free] = 0.0
        return state

    def leave(self, state: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """A padded state as a user's field: NaN in voids, held values in held cells. A copy, in `out` where given;
        `out` may be the place of the state itself."""
        inside = state.reshape(self.grid.shape)
        field = inside.copy() if out is None else out
        if out is not None and field.ctypes.data != state.ctypes.data:
            field[...] = inside
        if self.problem.active is not None:
            field[~self.problem.active] = np.nan
        if self.problem.fixed is not None:
            mask, values = self.problem.fixed
            field[mask] = values[mask]
        return field

    @cached_property
    def all_free(self) -> bool:
        return self.problem.all_free

    @cached_property
    def free(self) -> np.ndarray:
        """Cells that are solved for, padded bool."""
        free = np.ones(self.grid.shape, dtype=bool) if self.problem.active is None else self.problem.active.copy()
        if self.problem.fixed is not None:
            free &= ~self.problem.fixed[0]
        return free.reshape(self.shape)

    # --- sums
    # -----------------------------------------------------------------------------------------------------

    def slabs(self) -> Iterator[tuple[slice, ...]]:
        """Indices of pieces that cover a padded field once, each small enough for temporaries of its size."""
        axis = int(np.argmax(self.shape[:2])) if max(self.shape[:2]) > 1 else 2
        n = self.shape[axis]
        thick = max(1, _SLAB_CELLS * n // math.prod(self.shape))
        for first in range(0, n, thick):
            yield (slice(None),) * axis + (slice(first, min(first + thick, n)),)

    def total(self, terms: Callable[[tuple[slice, ...]], np.ndarray]) -> float:
        """The sum over all cells of ``terms(slab)``, the numbers on a piece of a padded field."""
        return math.fsum(float(terms(slab).sum()) for slab in self.slabs())

    # --- coefficients
    # ---------------------------------------------------------------------------------------------

    @cached_property
    def _coefficient(self):
        """D at (t, u) as a float, an array, PerAxis or Tensor; a tuple of face arrays for D(|grad u|)."""
        d = self.problem.diffusivity
        if isinstance(d, OfTime):
            value = np.asarray(d.f(self.t), dtype=float)
            return self._checked(float(value) if value.ndim == 0 else value, f"diffusivity(t = {self.t:g})")
        if isinstance(d, OfState):
            return self._checked(self._call(d.f, self._field), "diffusivity(u)")
        return d

    @property
    def _field(self) -> np.ndarray:
        """The state that freezes nonlinear coefficients, grid shape; held cells at their value, voids 0."""
        if self._state is None:
            raise ProblemError("D depends on u here: give the state, discretize(problem, u=field).")
        field = np.array(self._state, dtype=float).reshape(self.grid.shape)
        if self.problem.active is not None:
            field[~self.problem.active] = 0.0
        if self.problem.fixed is not None:
            mask, values = self.problem.fixed
            field[mask] = values[mask]
        return field

    def _call(self, f, argument: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(f(argument), dtype=float), argument.shape)

    def _checked(self, value, name: str, over_cells: bool = True):
        if over_cells and self.problem.active is not None and np.ndim(value):
            value = np.where(self.problem.active, value, 0.0)
        low = np.min(value)
        if not np.isfinite(value).all() or low < 0:
            raise ProblemError(
                f"{name} returned {low:g} at its smallest or a value that is not finite; D must be finite and >= 0."
            )
        return value

    def _along(self, axis: int) -> float | np.ndarray:
        """Cell values of D along grid axis `axis`."""
        d = self._coefficient
        if isinstance(d, PerAxis):
            return d.values[axis]
        if isinstance(d, Tensor):
            return (d.xx, d.yy)[axis]
        if isinstance(d, OfGradient):
            return self._of_gradient
        return d

    @cached_property
    def _of_gradient(self) -> np.ndarray:
        """Cell values of D(|grad u|)."""
        return self._checked(self._call(self._coefficient.f, self._gradient_magnitude), "diffusivity(|grad u|)")

    @cached_property
    def _cell_slopes(self) -> list[np.ndarray]:
        """du/dx at the cells, per axis: mean of the slopes at the two faces."""
        slopes = []
        for axis in range(self.grid.ndim):
            faces = self._face_slopes(axis)
            slopes.append(0.5 * (_slice(faces, axis, None, -1) + _slice(faces, axis, 1, None)))
        return slopes

    def _face_slopes(self, axis: int) -> np.ndarray:
        """du/dn at the faces across `axis`: 0 at insulated walls and next to voids, wrapped where periodic,
        and at other walls the slope of the nearest inner face (a zero there would halve |grad u| and cost an
        order)."""
        u, grid = self._field, self.grid
        gap = np.diff(grid.centers[axis])
        inner = np.diff(u, axis=axis) / grid._along(axis, gap)
        if self.problem.active is not None:
            a = self.problem.active
            inner *= _slice(a, axis, None, -1) & _slice(a, axis, 1, None)
        faces = np.zeros([n + (a == axis) for a, n in enumerate(grid.shape)])
        _slice(faces, axis, 1, -1)[...] = inner
        for end, wall, beside in (("-", 0, 1), ("+", grid.shape[axis], grid.shape[axis] - 1)):
            side = self.problem.boundary[f"{grid.axes[axis]}{end}"]
            if grid.shape[axis] > 1 and not (side.kind == "flux" and np.ndim(side.flux) == 0 and side.flux == 0):
                _slice(faces, axis, wall, wall + 1)[...] = _slice(faces, axis, beside, beside + 1)
        if self.periodic[self.lead + axis]:
            wrap = (_slice(u, axis, 0, 1) - _slice(u, axis, -1, None)) / (
                0.5 * (grid.widths[axis][0] + grid.widths[axis][-1])
            )
            _slice(faces, axis, 0, 1)[...] = wrap
            _slice(faces, axis, -1, None)[...] = wrap
        return faces

    @property
    def _gradient_magnitude(self) -> np.ndarray:
        return np.sqrt(sum(s * s for s in self._cell_slopes))

    def _face_gradient_magnitude(self, axis: int) -> np.ndarray:
        """|grad u| at the faces across `axis`: the face's own slope, and the mean of the cells' slopes across
        it."""
        total = self._face_slopes(axis) ** 2
        for other, slope in enumerate(self._cell_slopes):
            if other != axis:
                total += self._to_faces(slope, axis) ** 2
        return np.sqrt(total)

    def _to_faces(self, cells: np.ndarray, axis: int) -> np.ndarray:
        """Distance-weighted mean of cell values at the faces across `axis`; the cell's own value at walls."""
        width = self.grid._along(axis, self.grid.widths[axis])
        faces = np.empty([n + (a == axis) for a, n in enumerate(self.grid.shape)])
        left, right = _slice(cells, axis, None, -1), _slice(cells, axis, 1, None)
        wl, wr = _slice(width, axis, None, -1), _slice(width, axis, 1, None)
        _slice(faces, axis, 1, -1)[...] = (left * wr + right * wl) / (wl + wr)
        first, last = _slice(cells, axis, 0, 1), _slice(cells, axis, -1, None)
        if self.periodic[self.lead + axis]:
            first = last = 0.5 * (first + last)
        _slice(faces, axis, 0, 1)[...] = first
        _slice(faces, axis, -1, None)[...] = last
        return faces

    def _links(self, axis: int) -> np.ndarray:
        """Conductances of the inner faces across grid axis `axis` before voids and held cells are cut out; n + 1 faces,
        walls 0 unless periodic."""
        grid, coefficient = self.grid, self._coefficient
        d = _spread(self._along(axis), grid.shape)
        half = series.half_cells(grid, axis, d)
        inner = None
        if isinstance(coefficient, OfGradient):
            inner = self._checked_faces(coefficient, axis)
        elif isinstance(self.problem.diffusivity, OfState):
            inner = _slice(self._to_faces(d, axis), axis, 1, -1)
        contacts = [
            (int(np.argmin(np.abs(grid.edges[axis] - position))), resistance)
            for name, position, resistance in self.problem.contacts
            if name == grid.axes[axis]
        ]
        return series.conductances(grid, axis, half, self.periodic[self.lead + axis], inner, contacts)

    def _checked_faces(self, coefficient: OfGradient, axis: int) -> np.ndarray:
        values = self._call(coefficient.f, self._face_gradient_magnitude(axis))
        if not np.isfinite(values).all() or values.min() < 0:
            raise ProblemError(
                f"diffusivity(|grad u|) returned {values.min():g} at its smallest; D must be finite and >= 0."
            )
        return _slice(values, axis, 1, -1)

    @cached_property
    def conductances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Face conductances along each padded axis."""
        padding = tuple(np.zeros(self._face_shape(a)) for a in range(self.lead))
        return (*padding, *self._graph[0])  # type: ignore[return-value]

    @property
    def stencil(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`conductances` for the stepping kernels: where there is one plane, two planes of nothing stand for its faces."""
        if self.lead == 0:
            return self.conductances
        padding = (np.zeros((2, 1, 1)), *(np.zeros(self._face_shape(a)) for a in range(1, self.lead)))
        return (*padding, *self._graph[0])  # type: ignore[return-value]

    @cached_property
    def walls(self) -> list[Wall]:
        """Faces to the outside: of the sides, towards voids, towards held cells. Sides alone need no conductances."""
        grid, walls = self.grid, []
        for axis, name in enumerate(grid.axes):
            if not self.periodic[self.lead + axis]:
                for end in "-+":
                    side = f"{name}{end}"
                    walls += self._side_walls(
                        side, axis, series.to_wall(grid, axis, end, self._along(axis)), grid.side_cells(side)
                    )
        return walls if self.all_free else walls + self._graph[1]

    @cached_property
    def _graph(self) -> tuple[tuple[np.ndarray, ...], list[Wall]]:
        """(conductances along each axis of the grid, walls inside the box), voids and held cells cut out."""
        grid, conductances = self.grid, []
        void: list[tuple] = []
        held: list[tuple] = []
        for axis in range(grid.ndim):
            links = self._links(axis)
            if isinstance(self._coefficient, Tensor):
                links = tensor.loosened(links, grid, self._coefficient, axis, self.problem.boundary)
            if not self.all_free:
                self._cut(links, axis, void, held)
            conductances.append(np.ascontiguousarray(links).reshape(self._face_shape(self.lead + axis)))
        return tuple(conductances), self._void_walls(void) + self._held_walls(held)

    def _cut(self, links: np.ndarray, axis: int, void: list[tuple], held: list[tuple]) -> None:
        """Cut the faces of cells that are not free out of `links`; what they were is appended to `void` and `held`."""
        grid, problem, n = self.grid, self.problem, self.grid.shape[axis]
        free = self.free.reshape(grid.shape)
        index = np.arange(grid.size).reshape(grid.shape)
        pairs = [(slice(0, n - 1), slice(1, n), slice(1, n))]
        if self.periodic[self.lead + axis] and n > 1:
            pairs.append((slice(n - 1, n), slice(0, 1), slice(0, 1)))
        area = np.broadcast_to(grid.face_areas(axis), links.shape)
        width = np.broadcast_to(grid._along(axis, grid.widths[axis]), grid.shape)
        d = np.broadcast_to(self._along(axis), grid.shape)
        take = lambda x, s: x[(slice(None),) * axis + (s,)]  # noqa: E731
        for left, right, face in pairs:
            link = take(links, face)
            for here, there in ((left, right), (right, left)):
                inside = take(free, here)
                if problem.fixed is not None:
                    cut = inside & take(problem.fixed[0], there)
                    values = take(problem.fixed[1], there)
                    held.append((take(index, here)[cut], take(area, face)[cut], link[cut], values[cut]))
                if problem.active is not None:
                    cut = inside & ~take(problem.active, there)
                    half = take(area, face)[cut] * take(d, here)[cut] / (0.5 * take(width, here)[cut])
                    void.append((take(index, here)[cut], take(index, there)[cut], take(area, face)[cut], half))
            link *= take(free, left) & take(free, right)
        if self.periodic[self.lead + axis] and n > 1:
            _slice(links, axis, -1, None)[...] = _slice(links, axis, 0, 1)

    def _face_shape(self, axis: int) -> tuple[int, ...]:
        return tuple(n + (a == axis) for a, n in enumerate(self.shape))

    def _side_walls(self, side: str, axis: int, half: np.ndarray, cells: np.ndarray) -> list[Wall]:
        shape = self.grid.side_shape(side)
        area = self.grid.side_areas(side).reshape(shape)
        half = _spread(half.reshape([n for a, n in enumerate(half.shape) if a != axis]), shape)
        walls = []
        for mask, what, (h, value, flux) in self.problem.wall_terms[side]:
            chosen = None if mask is None else np.ravel(mask)
            if not self.all_free:
                free = self.free.reshape(-1)[cells]
                chosen = free if chosen is None else free & chosen
            places = np.arange(cells.size) if chosen is None else np.flatnonzero(chosen)
            if not places.size:
                continue
            if isinstance(self._coefficient, Tensor) and what.kind == "value" and mask is None:
                flux = tensor.wall_flux(self.grid, self._coefficient, side, value, flux, self.periodic[1:])
            half_cells = half
            if isinstance(self.problem.diffusivity, OfState) and what.kind == "value":
                # the mean of D at the cell and at the wall: D of the cell alone would be first order here
                wall_d = self._call(self.problem.diffusivity.f, np.broadcast_to(value(self.t), shape))
                width = self.grid.widths[axis][0 if side.endswith("-") else -1]
                half_cells = (
                    0.5 * half + area * self._checked(wall_d, f"diffusivity(u) on the side {side}", False) / width
                )
            walls.append(
                self._wall(
                    side,
                    what,
                    cells[places],
                    np.ravel(area)[places],
                    np.ravel(half_cells)[places],
                    places,
                    np.ravel(h)[places] if np.ndim(h) else h,
                    value,
                    flux,
                )
            )
        return walls

    def _void_walls(self, pieces: list[tuple]) -> list[Wall]:
        if not pieces:
            return []
        cells, voids, area, half = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        walls = []
        for mask, what, (h, value, flux) in self.problem.wall_terms["void"]:
            chosen = np.ones(cells.size, dtype=bool) if mask is None else np.ravel(mask)[voids]
            if chosen.any():
                walls.append(
                    self._wall(
                        "void",
                        what,
                        cells[chosen],
                        area[chosen],
                        half[chosen],
                        voids[chosen],
                        np.ravel(h)[voids[chosen]] if np.ndim(h) else h,
                        value,
                        flux,
                    )
                )
        return walls

    def _held_walls(self, pieces: list[tuple]) -> list[Wall]:
        if not pieces:
            return []
        cells, area, g, values = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        keep = g > 0
        n = int(keep.sum())
        data = Data("fixed", (n,), steady=values[keep], scalar=False)
        return [Wall("fixed", cells[keep], area[keep], g[keep], g[keep], np.arange(n), data, Data("fixed", ()))]

    def _wall(self, side, what, cells, area, half, places, h, value, flux) -> Wall:
        if what.kind == "radiation":
            if self._state is None:
                raise ProblemError(
                    f"the side {side} radiates, which depends on u: give the state, discretize(problem, u=field)."
                )
            wall = Wall(side, cells, area, half, np.zeros_like(area), places, value, flux)
            h = _radiative_coefficient(h, half / area, np.ravel(self._field)[cells], wall.data_at(value, self.t))
        return Wall(side, cells, area, half, series.to_outside(h, area, half), places, value, flux)

    def adopt(
        self, conductances, walls: list[Wall], diagonal: np.ndarray, base: np.ndarray, joined: bool, held: bool
    ) -> None:
        """Take what was assembled for many problems at once (`diffsim.together`), as it would be assembled here.

        `base` is a steady forcing; `joined`: every inner face conducts; `held`: the diagonal is somewhere positive.
        """
        known = self.__dict__
        known["conductances"], known["_graph"] = conductances, (conductances[self.lead :], [])
        known["walls"], known["diagonal"], known["_all_joined"] = walls, diagonal, joined
        known["forcing"] = Forcing(self.shape, [], base)
        if joined:
            known["anchored"] = np.array([held])

    @cached_property
    def cross(self) -> np.ndarray | None:
        """D_xy at the vertices of a 2-D grid, (nx + 1, ny + 1), where D is a tensor; otherwise None (see
        `tensor`)."""
        d = self._coefficient
        if not isinstance(d, Tensor):
            return None
        if self.problem.fixed is not None:
            raise ProblemError(
                "a diffusivity Tensor beside held cells (fixed) is not supported; use PerAxis, or hold sides."
            )
        return tensor.vertex_values(self.grid, d, self.periodic[1:])

    @cached_property
    def mass(self) -> np.ndarray:
        """m = c V, padded; 1 in cells that are not free. Read-only, and no array of the grid's size where one number, or
        one per axis, says it all."""
        if self.all_free and not np.ndim(self.problem.capacity):
            return self._padded_view(self.problem.capacity * self.grid.volume_factors)
        mass = np.empty(self.shape)
        for slab in self.slabs():
            mass[slab] = self.mass_in(slab)
        return mass

    @cached_property
    def volumes(self) -> np.ndarray:
        """Cell volumes, padded; 0 in cells that are not free. Read-only; see `mass`."""
        volumes = self._padded_view(self.grid.volume_factors)
        return volumes if self.all_free else np.where(self.free, volumes, 0.0)

    def mass_in(self, slab: tuple[slice, ...], idle: float = 1.0) -> np.ndarray:
        """`mass` on one of the `slabs`, made afresh; `idle` in cells that are not free."""
        capacity, volumes = self.problem.capacity, self._padded_view(self.grid.volume_factors)
        mass = (np.reshape(capacity, self.shape)[slab] if np.ndim(capacity) else capacity) * volumes[slab]
        return mass if self.all_free else np.where(self.free[slab], mass, idle)

    @cached_property
    def inverse_mass(self) -> np.ndarray:
        """1 / m, padded; 0 in cells that are not free."""
        inverse = aligned(self.shape)
        if self._one_mass is not None:
            inverse.fill(1.0 / self._one_mass)
            return inverse
        for slab in self.slabs():
            np.divide(1.0, self.mass_in(slab), out=inverse[slab])
            if not self.all_free:
                inverse[slab] *= self.free[slab]
        return inverse

    @property
    def _one_mass(self) -> float | None:
        """The mass that all cells have, or None."""
        one = self.all_free and not np.ndim(self.problem.capacity) and self.grid.volume_factors.size == 1
        return self._uniform_mass if one else None

    @property
    def _inverse_or_unit(self) -> tuple[np.ndarray | None, float]:
        """(None, m) where all cells have the same mass m, otherwise (1 / m, 1)."""
        return (self.inverse_mass, 1.0) if self._one_mass is None else (None, self._one_mass)

    def _padded_view(self, factors: np.ndarray) -> np.ndarray:
        """What broadcasts to the grid's shape in the padded shape, without a copy."""
        return np.broadcast_to(factors.reshape((1,) * self.lead + factors.shape), self.shape)

    @cached_property
    def diagonal(self) -> np.ndarray:
        """w: conductances to the outside and loss, padded."""
        w = aligned(self.shape, np.zeros)
        for wall in self.walls:
            np.add.at(w.reshape(-1), wall.cells, wall.g)
        if np.any(self.problem.loss):
            w += self._loss
        return w

    @property
    def _loss(self) -> np.ndarray:
        """b V, padded."""
        loss = self.problem.loss
        return self.volumes * (np.reshape(loss, self.shape) if np.ndim(loss) else loss)

    @cached_property
    def forcing(self) -> Forcing:
        problem = self.problem
        terms = []
        for wall in self.walls:
            array_value = None if wall.value.scalar else wall.places
            array_flux = None if wall.flux.scalar else wall.places
            terms.append(Term(wall.cells, wall.g, wall.value, array_value))
            terms.append(Term(wall.cells, wall.area, wall.flux, array_flux))
        everywhere = slice(None)
        if np.any(problem.loss):
            terms.append(Term(everywhere, self._loss, problem.ambient, None))
        if not (problem.source.constant and not np.any(problem.source.steady)):
            terms.append(Term(everywhere, self.volumes, problem.source, None))
        if isinstance(self._coefficient, Tensor):
            terms += tensor.push_terms(self.grid, self._coefficient, problem.boundary, self.periodic[1:])
        return Forcing(self.shape, terms)

    # --- constant-coefficient box
    # -----------------------------------------------------------------------------------

    @cached_property
    def uniform(self) -> Uniform | None:
        """The facts of a constant-coefficient box, or None."""
        problem, grid = self.problem, self.grid
        d = self._coefficient if self.problem.linear else None
        numbers: tuple[Any, ...] = d.values if isinstance(d, PerAxis) else (d,) * grid.ndim
        constant = all(isinstance(x, float) for x in (*numbers, problem.capacity, problem.loss))
        if not (constant and grid.uniform and self.all_free and not problem.contacts):
            return None
        none = (UniformSide("flux", 0.0),) * 2
        sides = [none] * self.lead
        for axis in grid.axes:
            pair: list[UniformSide] = []
            for end in "-+":
                side = problem.boundary[f"{axis}{end}"]
                h = {"value": math.inf, "flux": 0.0}.get(side.kind, getattr(side, "h", 0.0))
                if side.kind == "patches" or not isinstance(h, int | float):
                    return None
                kind = "flux" if side.kind == "robin" and h == 0 else side.kind
                pair.append(UniformSide(kind, float(h)))
            sides.append((pair[0], pair[1]))
        pad = (0.0,) * self.lead
        spacing = (1.0,) * self.lead + grid.spacing
        return Uniform(self.shape, pad + tuple(numbers), problem.capacity, problem.loss, spacing, tuple(sides))

    # --- action and spectrum
    # ------------------------------------------------------------------------------------------

    def apply(self, u: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """K u for a padded field."""
        from .kernels import stepping

        if out is None:
            out = np.empty(self.shape)
        stepping.apply_stiffness(*self.stencil, self.diagonal, u, out)
        if self.cross is not None:
            out[0] += tensor.product(self.cross, u[0])
        return out

    def rates(self, u: np.ndarray, t: float | None = None) -> np.ndarray:
        """du/dt = (F - K u) / m for a padded field."""
        rate = self.forcing(self.t if t is None else t) - self.apply(u)
        rate /= self.mass
        return rate

    def matrix(self):
        """K as a scipy CSR matrix over all cells; rows of cells that are not free are empty."""
        matrix = sparse.matrix(self.conductances, self.diagonal, self.periodic)
        if self.cross is not None:
            matrix = matrix + tensor.matrix(self.cross, np.arange(math.prod(self.shape)).reshape(self.shape)[0])
        return matrix

    @cached_property
    def _stencil_diagonal(self) -> np.ndarray:
        """K_ii, padded."""
        total = self.diagonal.copy()
        for axis, g in enumerate(self._graph[0], start=self.lead):
            total += _slice(g, axis, None, -1)
            total += _slice(g, axis, 1, None)
        return total

    @cached_property
    def _largest_rows(self) -> tuple[float, float]:
        """(max_i A_ii, max_i sum_j |A_ij|), the cross terms of a tensor in the second alone."""
        from .kernels.collatz import largest_rows

        inverse, unit = self._inverse_or_unit
        diagonal, rows = (top / unit for top in largest_rows(*self.stencil, self.diagonal, inverse))
        if self.cross is not None:
            rows = largest_rows(*self.stencil, self.diagonal + 2 * self._cross_rows, inverse)[1] / unit
        return diagonal, rows

    @cached_property
    def max_diagonal(self) -> float:
        """max_i A_ii [1/s]: FTCS makes no new extrema for dt <= 1 / max A_ii."""
        return self.uniform.max_diagonal if self.uniform is not None else self._largest_rows[0]

    def spectral_bound(self, sharp: bool = True) -> SpectralBound:
        """A rigorous upper bound of rho(A): closed form on constant boxes, else Gershgorin, tightened where
        `sharp`."""
        if self.uniform is not None and self.uniform.transformable:
            exact = self.uniform.spectral_radius
            return SpectralBound(exact, "exact", exact)
        if not sharp:
            return SpectralBound(self._gershgorin, "gershgorin", self.max_diagonal)
        return SpectralBound(self._collatz, "collatz", self.max_diagonal)

    @cached_property
    def _gershgorin(self) -> float:
        # right to a few ulp, less than the slack of every comparison: a textbook limit computed elsewhere stays legal
        return self.uniform.gershgorin if self.uniform is not None else self._largest_rows[1]

    @cached_property
    def _collatz(self) -> float:
        """``rho <= max_i (|A| x)_i / x_i`` for any x > 0 (Collatz 1942), x from power iteration on |A|."""
        from .kernels.collatz import radius_bound

        inverse, unit = self._inverse_or_unit
        cross = None if self.cross is None else 2 * self._cross_rows * (1.0 if inverse is None else inverse)
        return radius_bound(*self.stencil, self.diagonal, inverse, cross, self._gershgorin * unit, _SWEEPS) / unit

    @cached_property
    def _cross_rows(self) -> np.ndarray:
        """Half the absolute row sums of the cross-term matrix, padded."""
        assert self.cross is not None
        matrix = tensor.matrix(self.cross, np.arange(self.grid.size).reshape(self.grid.shape))
        return 0.5 * np.asarray(abs(matrix).sum(axis=1)).reshape(self.shape)

    @cached_property
    def _all_joined(self) -> bool:
        """Every inner face conducts."""
        return all(
            _slice(g, axis, 1, -1).min(initial=1.0) > 0 for axis, g in enumerate(self._graph[0], start=self.lead)
        )

    @cached_property
    def components(self) -> tuple[np.ndarray, int, np.ndarray]:
        """(labels, n, anchored): connected components of the free cells (-1 elsewhere); anchored where some w
        > 0."""
        if self.uniform is not None and all(d > 0 for d in self.uniform.diffusivity[self.lead :]):
            held = self.uniform.loss > 0 or any(
                self.uniform.wall_factor(a, e) > 0 and not self.periodic[a] for a in range(3) for e in (0, 1)
            )
            return np.zeros(self.shape, dtype=np.int32), 1, np.array([held])
        if self.all_free and self._all_joined:
            return np.zeros(self.shape, dtype=np.int32), 1, self.anchored
        from .kernels import components

        labels = np.empty(self.shape, dtype=np.int32)
        anchored = components.label(*self.conductances, self.free, self.diagonal, labels)
        return labels, anchored.size, anchored

    @cached_property
    def anchored(self) -> np.ndarray:
        """The same of `components`, without a label for every cell where every face conducts."""
        if self.uniform is None and self.all_free and self._all_joined:
            return np.array([bool((self.diagonal > 0).any())])
        return self.components[2]

    # --- results
    # ------------------------------------------------------------------------------------------------------

    def content(self, state: np.ndarray) -> float:
        """sum of m u over the free cells."""
        if self.uniform is not None:
            return self._uniform_mass * math.fsum(state.sum(axis=(1, 2)))
        return self.total(lambda slab: self.mass_in(slab, 0.0) * state[slab])

    def mean_square(self, u: np.ndarray) -> float:
        """Mass-weighted mean of u^2 over the free cells."""
        return self.total(lambda slab: self.mass_in(slab, 0.0) * u[slab] * u[slab]) / self._total_mass

    @cached_property
    def _total_mass(self) -> float:
        return self.total(lambda slab: self.mass_in(slab, 0.0))

    @property
    def _uniform_mass(self) -> float:
        return float(self.problem.capacity * self.grid.volume_factors.item())

    def flow(self, side: str, state: np.ndarray, t: float) -> float:
        """Flow INTO the domain through `side` ("x-", ..., "void", "fixed") for a padded state at time t."""
        if side not in (*self.grid.sides, "void", "fixed"):
            raise ProblemError(
                f"side {side!r} does not exist; this grid has {', '.join(self.grid.sides)}, void, fixed."
            )
        u = state.reshape(-1)
        return math.fsum(float(wall.inflow(u, t).sum()) for wall in self.walls if wall.side == side)

    def wall_field(self, side: str, state: np.ndarray, t: float) -> np.ndarray:
        """Values at the wall, shape over the side; NaN where no free cell lies behind the wall."""
        if side not in self.grid.sides:
            raise ProblemError(f"side {side!r} does not exist; this grid has {', '.join(self.grid.sides)}.")
        axis = self.grid.axes.index(side[0])
        u = state.reshape(-1)
        if self.periodic[self.lead + axis]:
            field = state.reshape(self.grid.shape)
            return 0.5 * (np.take(field, 0, axis=axis) + np.take(field, -1, axis=axis))
        result = np.full(math.prod(self.grid.side_shape(side)), np.nan)
        for wall in self.walls:
            if wall.side == side:
                result[wall.places] = wall.wall_values(u, t)
        return result.reshape(self.grid.side_shape(side))


def norm(x: np.ndarray) -> float:
    """Euclidean norm, with a scale so that it neither overflows nor vanishes."""
    flat = x.reshape(-1)
    square = float(np.einsum("i,i", flat, flat))  # one pass, on one thread: the same bits always
    if 1e-200 < square < 1e200:
        return math.sqrt(square)
    largest = float(np.abs(x).max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.square(x / largest).sum()))


def discretize(problem: Problem, t: float = 0.0, u: np.ndarray | None = None) -> Operator:
    """The operator of `problem` at time `t`; for D(u), D(|grad u|) and radiating sides at the field `u` (grid
    shape)."""
    return Operator(problem, t, u)


def _radiative_coefficient(strength, half, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """h with ``h (wall - outside) = strength (wall^4 - outside^4)`` at the wall value that the cell value
    `inside` implies.

    The wall value solves ``half (inside - wall) = strength (wall^4 - outside^4)``: monotone and convex, so
    Newton from above converges without safeguards.
    """
    wall = np.maximum(inside, outside)
    for _ in range(30):
        slope = half + 4 * strength * wall**3
        excess = half * (wall - inside) + strength * (wall**4 - outside**4)
        wall = wall - np.divide(excess, slope, out=np.zeros_like(wall), where=slope > 0)
    return strength * (wall**2 + outside**2) * (wall + outside)


def _slice(x: np.ndarray, axis: int, start, stop) -> np.ndarray:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _spread(values, shape) -> np.ndarray:
    """`values` as an array of `shape`, as they are where they have it."""
    return values if np.shape(values) == tuple(shape) else np.broadcast_to(values, shape)
