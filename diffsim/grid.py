"""Tensor-product grids. Finite volumes make every geometry one code: only face areas and volumes change."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .data import array, evaluate, number
from .errors import ProblemError

AXES = {"cartesian": ("x", "y", "z"), "cylindrical": ("r", "z"), "spherical": ("r",)}


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of a box: `shape[a]` cells over `lengths[a]` along axis a, starting at `origin`.

    Axis 0 is x (or r). ``Grid.from_edges`` takes given cell edges instead. Curved geometries are whole bodies of
    revolution: areas and volumes of the full turn (2 pi per unit length in a 1-D cylinder, 4 pi in a sphere).
    A 1-D or 2-D Cartesian body has unit extent along the missing axes.
    """

    shape: tuple[int, ...]
    lengths: tuple[float, ...]
    geometry: str = "cartesian"
    origin: tuple[float, ...] | None = None
    edges: tuple[np.ndarray, ...] = field(default=None, repr=False)  # type: ignore[arg-type]  # (n_a + 1,) per axis

    def __post_init__(self):
        if self.geometry not in AXES:
            raise ProblemError(f"geometry = {self.geometry!r} is unknown; choose one of {', '.join(AXES)}.")
        shape = _cells(self.shape)
        most = len(AXES[self.geometry])
        if not 1 <= len(shape) <= most:
            raise ProblemError(f"shape has {len(shape)} axes; a {self.geometry} grid has 1 to {most}.")
        lengths = tuple(np.ravel(self.lengths)) if np.ndim(self.lengths) else (self.lengths,)
        if len(lengths) != len(shape):
            raise ProblemError(
                f"lengths has {len(lengths)} entries for a grid of {len(shape)} axes; give one per axis."
            )
        lengths = tuple(number(f"lengths[{a}]", value, above=0.0) for a, value in enumerate(lengths))
        origin = self.origin if self.origin is not None else (0.0,) * len(shape)
        origin = tuple(number(f"origin[{a}]", value) for a, value in enumerate(np.ravel(origin)))
        if len(origin) != len(shape):
            raise ProblemError(f"origin has {len(origin)} entries for a grid of {len(shape)} axes; give one per axis.")
        given = self.edges
        if given is None:
            # start + k * (length / n): exactly the same spacing for every cell, the last edge exactly at the end
            given = tuple(
                o + np.linspace(0.0, length, n + 1) for o, length, n in zip(origin, lengths, shape, strict=True)
            )
        for axis, edge in enumerate(given):
            if not (np.diff(edge) > 0).all():
                raise ProblemError(f"edges of axis {self.axis_name(axis, self.geometry)} must increase strictly.")
            edge.flags.writeable = False
        if self.geometry != "cartesian" and given[0][0] < 0:
            raise ProblemError(f"a {self.geometry} grid starts at r = {given[0][0]:g}; r must be >= 0.")
        for name, value in (("shape", shape), ("lengths", lengths), ("origin", origin), ("edges", given)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_edges(cls, edges, geometry: str = "cartesian") -> "Grid":
        """A grid with the given cell edges: a list of one strictly increasing array (n_a + 1,) per axis."""
        if isinstance(edges, np.ndarray) and edges.ndim == 1:
            edges = [edges]
        checked = []
        for axis, edge in enumerate(edges):
            edge = array(f"edges[{axis}]", edge, np.shape(edge)).copy()
            if edge.ndim != 1 or edge.size < 2:
                raise ProblemError(f"edges[{axis}] has shape {edge.shape}; give two or more edges, shape (n + 1,).")
            if not (np.diff(edge) > 0).all():
                raise ProblemError(f"edges[{axis}] must increase strictly; sort them and drop repeats.")
            checked.append(edge)
        if not checked:
            raise ProblemError("edges is empty; give one array of cell edges per axis.")
        return cls(
            shape=tuple(e.size - 1 for e in checked),
            lengths=tuple(float(e[-1] - e[0]) for e in checked),
            geometry=geometry,
            origin=tuple(float(e[0]) for e in checked),
            edges=tuple(checked),
        )

    @staticmethod
    def axis_name(axis: int, geometry: str = "cartesian") -> str:
        return AXES[geometry][axis]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def identity(self) -> tuple:
        """Equal for grids of the same cells."""
        return (self.geometry, *(edge.tobytes() for edge in self.edges))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes in array order."""
        return AXES[self.geometry][: self.ndim]

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """Names of the sides: "x-", "x+", "y-", ..."""
        return tuple(f"{axis}{end}" for axis in self.axes for end in "-+")

    @cached_property
    def widths(self) -> tuple[np.ndarray, ...]:
        """Cell widths along each axis, (n_a,)."""
        return tuple(
            np.full(n, length / n) if self._uniform[a] else np.diff(edge)
            for a, (n, length, edge) in enumerate(zip(self.shape, self.lengths, self.edges, strict=True))
        )

    @cached_property
    def centers(self) -> tuple[np.ndarray, ...]:
        """Cell centres along each axis, (n_a,)."""
        return tuple(0.5 * (edge[:-1] + edge[1:]) for edge in self.edges)

    @cached_property
    def _uniform(self) -> tuple[bool, ...]:
        # edges computed from numbers carry rounding of a few ulp of the largest coordinate
        slack = [8 * np.finfo(float).eps * max(abs(e[0]), abs(e[-1])) for e in self.edges]
        return tuple(
            bool(np.abs(np.diff(e) - length / n).max() <= tolerance)
            for e, length, n, tolerance in zip(self.edges, self.lengths, self.shape, slack, strict=True)
        )

    @property
    def uniform(self) -> bool:
        """Cartesian with equal cells along every axis."""
        return self.geometry == "cartesian" and all(self._uniform)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Mean cell width along each axis; the cell width where the grid is uniform."""
        return tuple(length / n for length, n in zip(self.lengths, self.shape, strict=True))

    def mesh(self) -> tuple[np.ndarray, ...]:
        """Coordinates of the cell centres, each broadcastable to `shape`."""
        return tuple(np.meshgrid(*self.centers, indexing="ij", sparse=True))

    def _along(self, axis: int, values: np.ndarray) -> np.ndarray:
        return values.reshape([-1 if a == axis else 1 for a in range(self.ndim)])

    def _measure(self, axis: int) -> np.ndarray:
        """Contribution of one axis to the volume, (n_a,): width, or the area of rings and shells over r."""
        edge = self.edges[axis]
        if axis == 0 and self.geometry == "cylindrical":
            return math.pi * (edge[1:] - edge[:-1]) * (edge[1:] + edge[:-1])
        if axis == 0 and self.geometry == "spherical":
            lo, hi = edge[:-1], edge[1:]
            return 4 / 3 * math.pi * (hi - lo) * (hi * hi + hi * lo + lo * lo)
        return self.widths[axis]

    @property
    def volumes(self) -> np.ndarray:
        """Cell volumes, shape `shape` (a broadcast view, read-only)."""
        return np.broadcast_to(self.volume_factors, self.shape)

    @cached_property
    def volume_factors(self) -> np.ndarray:
        """Cell volumes, of length 1 along the axes on which they do not depend."""
        product = np.ones((1,) * self.ndim)
        for axis in range(self.ndim):
            if not (self.geometry == "cartesian" and self._uniform[axis]):
                product = product * self._along(axis, self._measure(axis))
        for axis in range(self.ndim):
            if self.geometry == "cartesian" and self._uniform[axis]:
                product = product * self.spacing[axis]
        return product

    def face_areas(self, axis: int) -> np.ndarray:
        """Areas of the faces across `axis`, broadcastable to `shape` with n_a + 1 along `axis`; read-only."""
        return self._face_areas[axis]

    @cached_property
    def _face_areas(self) -> tuple[np.ndarray, ...]:
        areas = tuple(self._areas_across(axis) for axis in range(self.ndim))
        for area in areas:
            area.flags.writeable = False
        return areas

    def _areas_across(self, axis: int) -> np.ndarray:
        edge = self.edges[axis]
        area = np.ones((1,) * self.ndim)
        if axis == 0 and self.geometry == "cylindrical":
            area = area * self._along(axis, 2 * math.pi * edge)
        elif axis == 0 and self.geometry == "spherical":
            area = area * self._along(axis, 4 * math.pi * edge**2)
        for other in range(self.ndim):
            if other != axis:
                area = area * self._along(other, self._measure(other))
        return area

    def layer(self, axis: int, place: int) -> np.ndarray:
        """Flat indices of the cells of one layer across `axis`, in the shape of a side."""
        index, stride = np.zeros((1,) * self.ndim, dtype=np.int64), 1
        for a in range(self.ndim)[::-1]:
            along = np.arange(place, place + 1) if a == axis else np.arange(self.shape[a])
            index = index + stride * self._along(a, along)
            stride *= self.shape[a]
        return np.squeeze(index, axis=axis)

    def side_shape(self, side: str) -> tuple[int, ...]:
        """Shape of an array over the side, e.g. (ny, nz) for "x-"."""
        axis = self.axes.index(side[0])
        return tuple(n for a, n in enumerate(self.shape) if a != axis)

    def side_cells(self, side: str) -> np.ndarray:
        """Flat indices of the cells behind a side; read-only."""
        return self._side_cells[side]

    def side_areas(self, side: str) -> np.ndarray:
        """Areas of the faces of a side, in the order of `side_cells`; read-only."""
        return self._side_areas[side]

    @cached_property
    def _side_areas(self) -> dict[str, np.ndarray]:
        areas = {}
        for side in self.sides:
            axis = self.axes.index(side[0])
            across = np.take(self.face_areas(axis), 0 if side.endswith("-") else -1, axis=axis)
            areas[side] = np.broadcast_to(across, self.side_shape(side)).ravel()
            areas[side].flags.writeable = False
        return areas

    @cached_property
    def _side_cells(self) -> dict[str, np.ndarray]:
        behind = {}
        for axis, n in enumerate(self.shape):
            for end, place in (("-", 0), ("+", n - 1)):
                cells = behind[f"{self.axes[axis]}{end}"] = self.layer(axis, place).reshape(-1)
                cells.flags.writeable = False
        return behind

    def field(self, name: str, value, where=None, out: np.ndarray | None = None) -> np.ndarray:
        """A number, array or callable(x, y, ...) as a new float64 array of `shape`, or in `out`."""
        field = np.empty(self.shape) if out is None else out
        if callable(value):
            value = evaluate(name, value, self.mesh(), self.shape, f"{name}({', '.join(self.axes)})")
        if np.ndim(value) == 0:
            field[...] = number(name, value)
            return field
        return array(name, value, self.shape, where=where, out=field)

    def locate(self, point) -> tuple[int, ...]:
        """Index of the cell that holds `point`; a `ProblemError` where it lies outside."""
        point = np.atleast_1d(np.asarray(point, dtype=float))
        if point.shape != (self.ndim,):
            raise ProblemError(f"point {tuple(point)} has {point.size} coordinates; this grid has {self.ndim}.")
        index = []
        for axis, (x, edge) in enumerate(zip(point, self.edges, strict=True)):
            if not edge[0] <= x <= edge[-1]:
                raise ProblemError(
                    f"point {tuple(float(p) for p in point)} lies outside the box: {self.axes[axis]} = {x:g} "
                    f"is not in [{edge[0]:g}, {edge[-1]:g}]."
                )
            index.append(int(min(np.searchsorted(edge, x, side="right") - 1, len(edge) - 2)))
        return tuple(index)


def _cells(shape) -> tuple[int, ...]:
    entries = shape if isinstance(shape, tuple | list | np.ndarray) else (shape,)
    for n in entries:
        if isinstance(n, bool | np.bool_) or not isinstance(n, int | np.integer):
            raise ProblemError(f"shape = {shape!r}: every entry must be an int (number of cells), got {n!r}.")
        if n < 1:
            raise ProblemError(f"shape = {tuple(int(k) for k in entries)}: every axis needs at least 1 cell, got {n}.")
    return tuple(int(n) for n in entries)
