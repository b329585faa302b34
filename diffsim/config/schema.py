"""What a configuration file may hold: its tables, keys and kinds of value."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag


class _Table(BaseModel):
    """Strict: `true` is no number, "5" is no number, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class FromFile(_Table):
    """An array from a .npy, .csv or image file.

    Images are seen as pictures: x to the right, y up. `black` and `white` map the grey range of the file linearly to
    two numbers; `values` maps labels to numbers, e.g. ``{"0" = 1.0, "255" = 0.02}``.
    """

    file: str
    black: float | None = None
    white: float | None = None
    values: dict[str, float] | None = None


class Series(_Table):
    """A sampled record over time: two columns of a CSV file (names, or numbers from 0), or the samples themselves."""

    series: str | None = None
    time: str | int = 0
    column: str | int = 1
    times: list[float] | None = None
    values: list[float] | None = None


class ByAxis(_Table):
    """Diagonal anisotropy."""

    x: Any = None
    y: Any = None
    z: Any = None
    r: Any = None


class ByEntry(_Table):
    """A symmetric tensor in 2-D."""

    xx: Any
    xy: Any
    yy: Any


class Mask(_Table):
    """True where an image or array is `above` a number or `equals` one of several."""

    file: str
    above: float | None = None
    equals: list[float] | None = None


def _form(value: Any) -> str:
    if isinstance(value, dict):
        for key, form in (("file", "file"), ("series", "series"), ("times", "series"), ("xx", "tensor")):
            if key in value:
                return form
        return "axes" if set(value) & set("xyzr") else "file"
    if isinstance(value, BaseModel):
        forms: dict[type, str] = {FromFile: "file", Series: "series", ByAxis: "axes", ByEntry: "tensor"}
        return forms[type(value)]
    return "quantity" if isinstance(value, str) else "list" if isinstance(value, list) else "number"


_Number = Annotated[float, Tag("number")] | Annotated[str, Tag("quantity")]
_Array = Annotated[list[Any], Tag("list")] | Annotated[FromFile, Tag("file")]
Quantity = Annotated[_Number, Discriminator(_form)]
Steady = Annotated[_Number | _Array, Discriminator(_form)]
Timed = Annotated[_Number | _Array | Annotated[Series, Tag("series")], Discriminator(_form)]
Coefficient = Annotated[
    _Number | _Array | Annotated[ByAxis, Tag("axes")] | Annotated[ByEntry, Tag("tensor")], Discriminator(_form)
]
Box = dict[str, list[float]]


class GridTable(_Table):
    """Cells of the box: `shape` and `lengths`, or the `edges` of the cells along each axis."""

    shape: list[int] | int | None = None
    lengths: list[Quantity] | Quantity | None = None
    edges: list[list[float]] | None = None
    geometry: Literal["cartesian", "cylindrical", "spherical"] = "cartesian"


class Contact(_Table):
    """A thermal contact resistance at a face of the grid."""

    axis: str
    position: Quantity
    resistance: Quantity


class ProblemTable(_Table):
    """The equation ``capacity u_t = div(diffusivity grad u) - loss (u - ambient) + source``."""

    diffusivity: Coefficient
    capacity: Steady = 1.0
    loss: Steady = 0.0
    ambient: Timed = 0.0
    source: Timed = 0.0
    active: Mask | None = None
    contacts: list[Contact] = []


class Region(_Table):
    """A part of the box with its own coefficients; later regions override earlier ones."""

    box: Box
    diffusivity: Quantity | None = None
    capacity: Quantity | None = None
    loss: Quantity | None = None
    source: Quantity | None = None
    active: bool | None = None


class SideTable(_Table):
    """What holds on one side. `kind` decides which of the other keys apply."""

    kind: Literal["value", "flux", "robin", "radiation", "periodic"]
    value: Timed | None = None
    flux: Timed | None = None
    h: Steady | None = None
    ambient: Timed | None = None
    emissivity: Steady | None = None


class PatchTable(SideTable):
    """A part of a side, given by ranges along its axes."""

    box: Box


class PatchedSide(SideTable):
    """A side, and the parts of it where something else holds."""

    patches: list[PatchTable] = []


class RunTable(_Table):
    """The arguments of `simulate`."""

    initial: Steady = 0.0
    until: Quantity | None = None
    scheme: str = "auto"
    dt: Quantity = "auto"
    tol: float | None = None
    save: int | list[float] | Literal["final"] = 50
    on_unstable: Literal["raise", "substep", "switch", "allow"] = "raise"
    steady: float | None = None  # stop when the relative rate of change falls below this
    probes: dict[str, list[Quantity]] = {}


class SweepTable(_Table):
    """The arguments of `sweep`."""

    dts: list[float]
    steps: list[int]
    diffusivities: list[float] | None = None


class FitTable(_Table):
    """Which numbers of this file to fit, to which record: sensors at `points`, one column of the CSV file each."""

    parameters: list[str]
    bounds: list[list[float]] | None = None
    observations: str
    time: str | int = 0
    columns: list[str | int]
    points: list[list[float]]


class File(_Table):
    """The whole file."""

    grid: GridTable
    problem: ProblemTable
    region: list[Region] = []
    boundary: dict[str, PatchedSide] = {}
    run: RunTable = RunTable()
    sweep: SweepTable | None = None
    fit: FitTable | None = None
