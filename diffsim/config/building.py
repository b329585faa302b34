"""From checked tables to a `Problem`: fields from files, regions, sides, patches."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import boundary, resources, store
from ..data import TimeSeries
from ..errors import ProblemError
from ..grid import Grid
from ..problem import PerAxis, Problem, Tensor
from .quantities import number
from .schema import Box, ByAxis, ByEntry, File, FromFile, GridTable, Mask, Region, Series, SideTable


def grid_of(table: GridTable) -> Grid:
    """The grid that the table asks for."""
    if table.edges is not None:
        if table.shape is not None or table.lengths is not None:
            raise ProblemError("grid.edges is given together with grid.shape or grid.lengths; give one or the other.")
        return Grid.from_edges([np.array(edge) for edge in table.edges], geometry=table.geometry)
    if table.shape is None or table.lengths is None:
        raise ProblemError("grid needs shape and lengths (or edges), e.g. shape = [64, 32] and lengths = [2.0, 1.0].")
    lengths = table.lengths if isinstance(table.lengths, list) else [table.lengths]
    shape = table.shape if isinstance(table.shape, list) else [table.shape]
    cells = " x ".join(map(str, shape))
    resources.require_memory(8 * math.prod(shape), f"one field of {cells} cells", tuple(shape))
    return Grid(tuple(shape), tuple(number("grid.lengths", x, "[length]") for x in lengths), geometry=table.geometry)


@dataclass(frozen=True)
class Builder:
    """Builds what a file asks for on `grid`; files it names are read from `folder`."""

    grid: Grid
    folder: Path

    def problem(self, file: File) -> Problem:
        table = file.problem
        arguments = {
            "diffusivity": self.coefficient("problem.diffusivity", table.diffusivity),
            "capacity": self.steady("problem.capacity", table.capacity),
            "loss": self.steady("problem.loss", table.loss),
            "ambient": self.timed("problem.ambient", table.ambient),
            "source": self.timed("problem.source", table.source),
            "active": None if table.active is None else self.mask("problem.active", table.active),
        }
        for index, region in enumerate(file.region):
            self._apply(region, f"region {index}", arguments)
        contacts = [
            (c.axis, number("contact position", c.position), number("contact resistance", c.resistance))
            for c in table.contacts
        ]
        sides = {name: self.side(f"boundary.{name}", name, side) for name, side in file.boundary.items()}
        return Problem(self.grid, boundary=sides, contacts=tuple(contacts), **arguments)

    def _apply(self, region: Region, name: str, arguments: dict[str, Any]) -> None:
        inside = self.inside(f"{name}.box", region.box, self.grid.axes)
        for key in ("diffusivity", "capacity", "loss", "source", "active"):
            value = getattr(region, key)
            if value is None:
                continue
            whole = arguments[key] if arguments[key] is not None else True
            if not isinstance(whole, bool | int | float | np.ndarray) or np.ndim(whole) not in (0, inside.ndim):
                raise ProblemError(f"{name}.{key} overrides a problem.{key} that is not a number or an array.")
            value = value if key == "active" else number(f"{name}.{key}", value)
            arguments[key] = np.where(inside, value, whole)

    def inside(self, name: str, box: Box, axes: tuple[str, ...]) -> np.ndarray:
        """Cells (or faces of a side) whose centres lie in `box`, over `axes`."""
        result = np.ones([self.grid.shape[self.grid.axes.index(axis)] for axis in axes], dtype=bool)
        for axis, bounds in box.items():
            if axis not in axes or len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ProblemError(f"{name}.{axis} = {bounds}: give [from, to], for axes among {', '.join(axes)}.")
            centers = self.grid.centers[self.grid.axes.index(axis)]
            along = (centers >= bounds[0]) & (centers <= bounds[1])
            result &= along.reshape([-1 if a == axis else 1 for a in axes])
        if not result.any():
            raise ProblemError(f"{name} = {box} holds no cell centre; make it larger or the grid finer.")
        return result

    def side(self, key: str, name: str, table: SideTable):
        classes: dict[str, tuple[Any, tuple[str, ...]]] = {
            "value": (boundary.Dirichlet, ("value",)),
            "flux": (boundary.Neumann, ("flux",)),
            "robin": (boundary.Robin, ("h", "ambient")),
            "radiation": (boundary.Radiation, ("emissivity", "ambient")),
            "periodic": (boundary.Periodic, ()),
        }
        make, wanted = classes[table.kind]
        every = ("value", "flux", "h", "ambient", "emissivity")
        given = {field for field in every if getattr(table, field) is not None}
        if given != set(wanted):
            needs = " and ".join(repr(field) for field in wanted) or "no further keys"
            raise ProblemError(f"{key}: kind = {table.kind!r} takes {needs}, but {sorted(given) or 'none'} given.")
        side = make(**{field: self.timed(f"{key}.{field}", getattr(table, field)) for field in wanted})
        patches = getattr(table, "patches", [])
        if not patches:
            return side
        axes = tuple(axis for axis in self.grid.axes if axis != name[0])
        return boundary.Patches(
            side, [(self.inside(f"{key} patch", p.box, axes), self.side(f"{key} patch", name, p)) for p in patches]
        )

    def coefficient(self, name: str, value: Any):
        if isinstance(value, ByAxis):
            missing = [axis for axis in self.grid.axes if getattr(value, axis) is None]
            if missing or any(getattr(value, axis) is not None for axis in set("xyzr") - set(self.grid.axes)):
                raise ProblemError(f"{name}: give one entry for each of {', '.join(self.grid.axes)}, and no other.")
            return PerAxis(*(self._inner(f"{name}.{axis}", getattr(value, axis)) for axis in self.grid.axes))
        if isinstance(value, ByEntry):
            return Tensor(*(self._inner(f"{name}.{entry}", getattr(value, entry)) for entry in ("xx", "xy", "yy")))
        return self.steady(name, value)

    def _inner(self, name: str, value: Any):
        if isinstance(value, dict):
            value = FromFile.model_validate(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str | list | FromFile):
            raise ProblemError(f"{name} = {value!r:.60} is not a number, a list or a file.")
        return self.steady(name, value)

    def timed(self, name: str, value: Any):
        if not isinstance(value, Series):
            return self.steady(name, value)
        if value.series is None:
            if value.times is None or value.values is None:
                raise ProblemError(f"{name}: a time series needs times and values, or series = a CSV file.")
            return TimeSeries(np.array(value.times), np.array(value.values))
        table = store.read_csv(self.folder / value.series)
        return TimeSeries(np.asarray(table[value.time]), np.asarray(table[value.column]))

    def steady(self, name: str, value: Any):
        if isinstance(value, FromFile):
            return self.array(name, value)
        if isinstance(value, list):
            try:
                return np.array(value, dtype=float)
            except (TypeError, ValueError):
                raise ProblemError(f"{name} = {value!r:.60} is not a list of numbers of equal lengths.") from None
        return number(name, value)

    def array(self, name: str, table: FromFile) -> np.ndarray:
        raw, full = self._raw(table.file)
        if table.values is not None:
            result = np.full(raw.shape, np.nan)
            for label, value in table.values.items():
                try:
                    result[raw == float(label)] = value
                except ValueError:
                    raise ProblemError(f"{name}.values: {label!r} is not a label; labels are numbers.") from None
            if np.isnan(result).any():
                missing = np.unique(raw[np.isnan(result)])[:5].tolist()
                raise ProblemError(f"{name}: {table.file} holds the labels {missing}, which `values` does not name.")
            return result
        result = raw.astype(float)
        if (table.black is None) != (table.white is None):
            raise ProblemError(f"{name}: give both black and white, or neither.")
        if table.black is not None and table.white is not None:
            result = table.black + (table.white - table.black) * result / full
        return result

    def mask(self, name: str, table: Mask) -> np.ndarray:
        raw, _ = self._raw(table.file)
        if (table.above is None) == (table.equals is None):
            raise ProblemError(f"{name}: give either above = a number or equals = [numbers].")
        return raw > table.above if table.equals is None else np.isin(raw, table.equals)

    def _raw(self, file: str) -> tuple[np.ndarray, float]:
        """The array in `file`, in the order of the grid's axes, and the value that counts as white."""
        path = self.folder / file
        suffix = path.suffix.lower()
        if suffix == ".csv":
            raw = store.read_csv(path).numbers()
            raw = raw[:, 0] if self.grid.ndim == 1 and raw.shape[1] == 1 else raw
        elif suffix == ".npy":
            raw = store.read_npy(path)
        else:
            raw = store.read_image(path)
            if raw.ndim == 2:  # rows run down the picture, y runs up the grid
                raw = raw[::-1].T
        full = float(np.iinfo(raw.dtype).max) if raw.dtype.kind in "iu" else 1.0
        return raw, full
