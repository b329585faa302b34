"""What is asked: ``c u_t = div(D grad u) - b (u - u_ext) + f`` in a box with sides, voids and held cells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from .boundary import on_sides, wall_parts
from .data import Data, array, number, number_or_array
from .errors import ProblemError
from .grid import Grid


@dataclass(frozen=True, eq=False)
class PerAxis:
    """Diagonal anisotropy: one number or array of the grid's shape per axis."""

    values: tuple

    def __init__(self, *values):
        object.__setattr__(self, "values", values[0] if len(values) == 1 and isinstance(values[0], tuple) else values)


@dataclass(frozen=True, eq=False)
class Tensor:
    """Symmetric diffusivity tensor in 2-D: entries xx, xy, yy, each a number or an array of the grid's shape."""

    xx: Any
    xy: Any
    yy: Any


@dataclass(frozen=True, eq=False)
class OfState:
    """D = f(u); `f` maps an array to an array. Faces take the arithmetic mean, which lets degenerate fronts move."""

    f: Callable


@dataclass(frozen=True, eq=False)
class OfGradient:
    """D = f(|grad u|), evaluated at the faces; `f` maps an array to an array (Perona-Malik is one)."""

    f: Callable


@dataclass(frozen=True, eq=False)
class OfTime:
    """D = f(t), a number or an array of the grid's shape."""

    f: Callable


@dataclass(frozen=True, eq=False)
class Problem:
    """A diffusion problem on a grid.

    Parameters
    ----------
    grid
        The cells.
    diffusivity
        number | array(grid.shape) | PerAxis | Tensor | OfState | OfGradient | OfTime, >= 0. A conductivity where
        `capacity` is a heat capacity; a diffusivity where it is 1.
    capacity
        c > 0: number | array.
    loss, ambient
        Linear exchange ``- loss (u - ambient)``: loss >= 0 number | array; ambient number | array | callable(t) | TimeSeries.
    source
        f: number | array | callable(t) | callable(x, ..., t) | TimeSeries, per volume.
    active
        bool array, False = void. None: every cell is active.
    fixed
        (mask, values): cells held at a value (number or array of the grid's shape).
    boundary
        {side: condition}; "x" stands for both sides of x; "void" for the faces towards voids; a side left out insulates.
    contacts
        Thermal contact resistances between layers: (axis, position, resistance) with the position on a face of the grid.
    reaction
        callable(u) -> array, added to the right-hand side (per volume); stepped explicitly.

    Raises
    ------
    ProblemError
        Where an argument is of the wrong type, shape or range, or the combination has no meaning.
    """

    grid: Grid
    diffusivity: Any
    capacity: Any = 1.0
    loss: Any = 0.0
    ambient: Any = 0.0
    source: Any = 0.0
    active: np.ndarray | None = None
    fixed: tuple | None = None
    boundary: Mapping[str, Any] = field(default_factory=dict)
    contacts: tuple = ()
    reaction: Callable | None = None
    # {side: [(mask or None, plain side, (h, value, flux))]}, sides that are not periodic
    wall_terms: Mapping[str, list] = field(init=False, repr=False)
    radiates: bool = field(init=False, repr=False)  # a side follows u
    plain_sides: bool = field(init=False, repr=False)  # single steady numbers on whole sides that do not radiate

    def __post_init__(self):
        grid = self.grid
        if not isinstance(grid, Grid):
            raise ProblemError(f"grid = {grid!r} is not a Grid; build one with Grid(shape=..., lengths=...).")
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - frozen: only here
        put("active", _mask("active", self.active, grid))
        where = self.active
        for name, check in _COEFFICIENTS.items():
            put(name, check(getattr(self, name), grid, where))
        put("fixed", _fixed(self.fixed, grid, where))
        put("boundary", MappingProxyType(on_sides(self.boundary, grid)))
        put("contacts", _contacts(self.contacts, grid))
        if self.reaction is not None and not callable(self.reaction):
            raise ProblemError(f"reaction = {self.reaction!r} is not callable; give a function of u.")
        # every wall datum is built here, once, so that mistakes surface at the border
        terms: dict[str, list] = {}
        for side, what in self.boundary.items():
            if what.kind != "periodic" and (side != "void" or what.kind == "patches" or self.active is not None):
                shape = grid.shape if side == "void" else grid.side_shape(side)
                terms[side] = [(mask, part, part.terms(side, shape)) for mask, part in wall_parts(side, what, shape)]
        put("wall_terms", terms)
        put("plain_sides", all(map(_is_plain, (parts for side, parts in terms.items() if side != "void"))))
        put(
            "radiates",
            any(
                part.kind == "radiation"
                for what in self.boundary.values()
                for part in (what, getattr(what, "default", what), *(p for _, p in getattr(what, "patches", ())))
            ),
        )

    @property
    def follows_state(self) -> bool:
        """D or a radiating side depends on u: the operator changes as the state does."""
        return self.radiates or isinstance(self.diffusivity, OfState | OfGradient)

    @property
    def steady_coefficients(self) -> bool:
        """D and the sides depend neither on t nor on u: one operator serves the whole run."""
        return not self.follows_state and not isinstance(self.diffusivity, OfTime)

    @property
    def all_free(self) -> bool:
        """No voids and no held cells: every cell is solved for."""
        return self.active is None and self.fixed is None

    @property
    def linear(self) -> bool:
        """Nothing depends on u."""
        return not self.follows_state and self.reaction is None

    def with_(self, **changes) -> "Problem":
        """The same problem with some arguments changed. Coefficients alone are all that is checked then."""
        if changes.keys() <= _COEFFICIENTS.keys():
            changed = object.__new__(Problem)
            checked = {name: _COEFFICIENTS[name](value, self.grid, self.active) for name, value in changes.items()}
            changed.__dict__.update(self.__dict__ | checked)
            return changed
        from dataclasses import fields

        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        for name in ("ambient", "source"):
            data = given[name]
            given[name] = data.steady if data.constant else data.signal
        return Problem(**{**given, "boundary": dict(self.boundary), **changes})

    def with_each(self, diffusivity: np.ndarray) -> "list[Problem]":
        """``[self.with_(diffusivity=d) for d in diffusivity]`` for a stack of arrays, which are checked together."""
        shape = (len(diffusivity), *self.grid.shape)
        where = None if self.active is None else np.broadcast_to(self.active, shape)
        stack = array("diffusivity", diffusivity, shape, least=0.0, where=where)
        for largest in stack.max(axis=tuple(range(1, stack.ndim))):
            _something_diffuses((largest,))
        alike = [object.__new__(Problem) for _ in stack]
        for problem, d in zip(alike, stack, strict=True):
            problem.__dict__.update(self.__dict__, diffusivity=d)
        return alike


def _is_plain(parts: list) -> bool:
    """A side is one part that does not radiate, and its data are single steady numbers."""
    (_, side, (h, *data)), *others = parts
    steady = isinstance(h, float) and all(datum.constant and datum.scalar for datum in data)
    return not others and steady and side.kind != "radiation"


def _mask(name: str, mask, grid: Grid) -> np.ndarray | None:
    if mask is None:
        return None
    mask = np.array(mask)
    if mask.dtype != bool or mask.shape != grid.shape:
        raise ProblemError(
            f"{name} has dtype {mask.dtype} and shape {mask.shape}; a bool array of shape {grid.shape} is needed."
        )
    if not mask.any():
        raise ProblemError(f"{name} is False everywhere: there is no cell to solve for.")
    mask.flags.writeable = False
    return mask


def _diffusivity(value, grid: Grid, where):
    """The normalised coefficient: a float, an array, or one of the classes above with checked entries."""
    if isinstance(value, OfState | OfGradient | OfTime):
        if not callable(value.f):
            raise ProblemError(f"diffusivity = {type(value).__name__}({value.f!r}): give a function.")
        if isinstance(value, OfTime):
            Data.of("diffusivity", value.f, grid.shape)
        return value
    if isinstance(value, PerAxis):
        if len(value.values) != grid.ndim:
            raise ProblemError(
                f"diffusivity = PerAxis of {len(value.values)} entries on a grid of {grid.ndim} axes; give one per axis."
            )
        entries = tuple(
            number_or_array(f"diffusivity[{axis}]", entry, grid.shape, least=0.0, where=where)
            for axis, entry in zip(grid.axes, value.values, strict=True)
        )
        _something_diffuses(entries)
        return PerAxis(entries)
    if isinstance(value, Tensor):
        return _tensor(value, grid, where)
    if np.ndim(value) == 0:
        result: Any = number("diffusivity", value, least=0.0)
    else:
        result = array("diffusivity", value, grid.shape, least=0.0, where=where)
    _something_diffuses((result,))
    return result


def _something_diffuses(entries) -> None:
    if all((entry if np.ndim(entry) == 0 else np.max(entry)) == 0 for entry in entries):
        raise ProblemError("diffusivity is 0 everywhere: nothing diffuses. Give a positive value somewhere.")


def _tensor(value: Tensor, grid: Grid, where) -> Tensor:
    if grid.ndim != 2 or grid.geometry != "cartesian":
        raise ProblemError(
            f"diffusivity = Tensor needs a 2-D Cartesian grid; this one is {grid.ndim}-D {grid.geometry}."
        )
    if where is not None and not where.all():
        raise ProblemError("diffusivity = Tensor with void cells is not supported; use PerAxis, or no voids.")
    xx = number_or_array("diffusivity xx", value.xx, grid.shape, least=0.0)
    xy = number_or_array("diffusivity xy", value.xy, grid.shape)
    yy = number_or_array("diffusivity yy", value.yy, grid.shape, least=0.0)
    excess = np.max(np.square(xy) - np.multiply(xx, yy) * (1 + 1e-12))
    if excess > 0:
        raise ProblemError(
            f"diffusivity = Tensor is not positive semidefinite: xy^2 exceeds xx * yy by {excess:g} somewhere; "
            "a diffusivity tensor needs xy^2 <= xx * yy."
        )
    _something_diffuses((xx, yy))
    return Tensor(xx, xy, yy)


def _source(value, grid: Grid, where) -> Data:
    coordinates = grid.mesh() if callable(value) else None
    return Data.of("source", value, grid.shape, coordinates=coordinates, where=where)


# arguments that hang together with nothing but the grid and its voids: how each is checked
_COEFFICIENTS: dict[str, Callable] = {
    "diffusivity": _diffusivity,
    "capacity": lambda value, grid, where: number_or_array("capacity", value, grid.shape, above=0.0, where=where),
    "loss": lambda value, grid, where: number_or_array("loss", value, grid.shape, least=0.0, where=where),
    "ambient": lambda value, grid, where: Data.of("ambient", value, grid.shape, where=where),
    "source": _source,
}


def _fixed(fixed, grid: Grid, where):
    if fixed is None:
        return None
    try:
        mask, values = fixed
    except (TypeError, ValueError):
        raise ProblemError(f"fixed = {fixed!r}: give a pair (mask, values).") from None
    mask = np.array(mask)
    if mask.dtype != bool or mask.shape != grid.shape:
        raise ProblemError(
            f"fixed mask has dtype {mask.dtype} and shape {mask.shape}; a bool array of shape {grid.shape} is needed."
        )
    if where is not None and (mask & ~where).any():
        raise ProblemError(f"fixed holds {int((mask & ~where).sum())} cells that are void; hold only active cells.")
    if not mask.any():
        return None
    values = np.where(
        mask, np.broadcast_to(number_or_array("fixed values", values, grid.shape, where=mask), grid.shape), 0.0
    )
    mask.flags.writeable = values.flags.writeable = False
    return mask, values


def _contacts(contacts, grid: Grid) -> tuple:
    """(axis index, face index, resistance) triples."""
    checked = []
    for entry in contacts:
        try:
            axis, position, resistance = entry
        except (TypeError, ValueError):
            raise ProblemError(f"contacts holds {entry!r}: give (axis, position, resistance).") from None
        if axis not in grid.axes:
            raise ProblemError(f"contacts names the axis {axis!r}; this grid has {', '.join(grid.axes)}.")
        a = grid.axes.index(axis)
        edge = grid.edges[a]
        position = number("contact position", position)
        face = int(np.argmin(np.abs(edge - position)))
        if abs(edge[face] - position) > 1e-9 * grid.lengths[a] or face in (0, len(edge) - 1):
            raise ProblemError(
                f"contact at {axis} = {position:g} is not on an inner face of the grid; the nearest face is at {edge[face]:g}. "
                "Put an edge there with Grid.from_edges."
            )
        resistance = number_or_array("contact resistance", resistance, grid.side_shape(f"{axis}-"), least=0.0)
        checked.append((axis, float(edge[face]), resistance))
    return tuple(checked)
