"""What holds on the sides of the box. A side is two numbers per face: a conductance to a value, and a flux.

flow into the cell = g (T - u_cell) + q A        g = A / (1/h + d/(2 D));  h = inf is a value, h = 0 insulates
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .data import Data, number, number_or_array
from .errors import ProblemError


@dataclass(frozen=True, eq=False)
class Dirichlet:
    """The value `value` at the wall, half a cell outside the first centre: number | array | callable(t) | TimeSeries."""

    value: Any = 0.0
    kind = "value"

    def terms(self, side: str, shape) -> tuple[float | np.ndarray, Data, Data]:
        return math.inf, Data.of(f"boundary[{side!r}] value", self.value, shape), Data(side, shape)


@dataclass(frozen=True, eq=False)
class Neumann:
    """The flux ``D du/dn`` INTO the domain per area: number | array | callable(t) | TimeSeries. 0 insulates."""

    flux: Any = 0.0
    kind = "flux"

    def terms(self, side: str, shape) -> tuple[float | np.ndarray, Data, Data]:
        return 0.0, Data(side, shape), Data.of(f"boundary[{side!r}] flux", self.flux, shape)


@dataclass(frozen=True, eq=False)
class Robin:
    """``-D du/dn = h (u - ambient)`` at the wall; `h` number | array >= 0, `ambient` as a Dirichlet value."""

    h: Any
    ambient: Any = 0.0
    kind = "robin"

    def terms(self, side: str, shape) -> tuple[float | np.ndarray, Data, Data]:
        h = number_or_array(f"boundary[{side!r}] h", self.h, shape, least=0.0)
        return h, Data.of(f"boundary[{side!r}] ambient", self.ambient, shape), Data(side, shape)


@dataclass(frozen=True, eq=False)
class Radiation:
    """A side that radiates: ``-D du/dn = emissivity * sigma * (u^4 - ambient^4)``, u absolute [K].

    `sigma` is the Stefan-Boltzmann constant (CODATA 2018) unless other units are used. The side is linearised as a Robin
    side about the present wall value: ``h = emissivity sigma (u^2 + ambient^2)(u + ambient)``.
    """

    emissivity: Any
    ambient: Any = 0.0
    sigma: float = 5.670374419e-8
    kind = "radiation"

    def terms(self, side: str, shape) -> tuple[float | np.ndarray, Data, Data]:
        strength = number_or_array(f"boundary[{side!r}] emissivity", self.emissivity, shape, least=0.0)
        strength = strength * number(f"boundary[{side!r}] sigma", self.sigma, above=0.0)
        return strength, Data.of(f"boundary[{side!r}] ambient", self.ambient, shape), Data(side, shape)


@dataclass(frozen=True)
class Periodic:
    """What leaves through one side enters through the opposite one; both sides of the axis must be periodic."""

    kind = "periodic"


@dataclass(frozen=True, eq=False)
class Patches:
    """Several kinds on one side: `default`, and a list of (mask over the side, side). Later patches override.

    On "void" the masks are over the cells of the grid and select void cells by their position.
    """

    default: Any
    patches: Any = ()
    kind = "patches"

    def parts(self, side: str, shape) -> list[tuple[np.ndarray, Any]]:
        """(mask, plain side) pairs that cover the side once."""
        masks = []
        for k, entry in enumerate(self.patches):
            try:
                mask, what = entry
            except (TypeError, ValueError):
                raise ProblemError(f"boundary[{side!r}] patch {k}: give pairs (mask, side), got {entry!r}.") from None
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != tuple(shape):
                raise ProblemError(
                    f"boundary[{side!r}] patch {k}: the mask has dtype {mask.dtype} and shape {mask.shape}; "
                    f"a bool array of shape {tuple(shape)} is needed."
                )
            if not isinstance(what, WALLS):
                raise ProblemError(f"boundary[{side!r}] patch {k}: {what!r} cannot stand on a patch; use {_NAMES}.")
            masks.append((mask, what))
        if not isinstance(self.default, WALLS):
            raise ProblemError(f"boundary[{side!r}] default: {self.default!r} cannot stand on a patch; use {_NAMES}.")
        covered = np.zeros(shape, dtype=bool)
        result = []
        for mask, what in reversed(masks):
            result.append((mask & ~covered, what))
            covered |= mask
        return [(~covered, self.default), *reversed(result)]


WALLS = (Dirichlet, Neumann, Robin, Radiation)
_NAMES = "Dirichlet, Neumann, Robin or Radiation"
SIDES = (*WALLS, Periodic, Patches)


def on_sides(boundary, grid) -> dict[str, Any]:
    """Every side of `grid` (and "void") with what holds there; "x" means both ends of x, a side left out is Neumann(0)."""
    if boundary is None:
        boundary = {}
    if not hasattr(boundary, "items"):
        raise ProblemError(
            f"boundary = {boundary!r} is not a dict; give {{side: condition}}, e.g. {{'x-': Dirichlet(1.0)}}."
        )
    allowed = (*grid.axes, *grid.sides, "void")
    full: dict[str, Any] = {side: Neumann(0.0) for side in (*grid.sides, "void")}
    for name in sorted(boundary, key=lambda n: len(str(n))):  # "x" first, so that "x-" refines it
        side = boundary[name]
        if name not in allowed:
            import difflib

            near = difflib.get_close_matches(str(name), allowed, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ProblemError(
                f"boundary names a side {name!r} that this grid does not have; it has {', '.join(allowed)}.{hint}"
            )
        if not isinstance(side, SIDES):
            raise ProblemError(f"boundary[{name!r}] = {side!r} is not a side; use {_NAMES}, Periodic or Patches.")
        for each in (name,) if name not in grid.axes else (f"{name}-", f"{name}+"):
            full[each] = side
    for axis in grid.axes:
        kinds = {full[f"{axis}{end}"].kind == "periodic" for end in "-+"}
        if len(kinds) == 2:
            raise ProblemError(
                f"only one of {axis}-, {axis}+ is periodic; make both Periodic() (boundary[{axis!r}]) or neither."
            )
    if full["void"].kind == "periodic":
        raise ProblemError("boundary['void'] cannot be periodic; use Dirichlet, Neumann, Robin or Patches.")
    if grid.geometry != "cartesian":
        if full["r-"].kind == "periodic":
            raise ProblemError("the r axis cannot be periodic.")
        insulated = isinstance(full["r-"], Neumann) and np.isscalar(full["r-"].flux) and full["r-"].flux == 0
        if grid.edges[0][0] == 0.0 and not insulated:
            raise ProblemError(
                "the side r- lies on the axis r = 0 and has no area; leave it out, or start the grid at r > 0."
            )
    return full


def wall_parts(side: str, what, shape) -> Sequence[tuple[np.ndarray | None, Any]]:
    """(mask or None for the whole side, plain side) pairs."""
    if isinstance(what, Patches):
        return [*what.parts(side, shape)]
    return [(None, what)]
