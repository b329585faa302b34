"""Steady temperature of a chip: a floorplan with powers, on a stack of plates that widens from die to heat
sink."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..boundary import Neumann, Robin
from ..data import number
from ..errors import ProblemError
from ..grid import Grid
from ..problem import Problem
from ..store import write_figure
from .materials import material


@dataclass(frozen=True)
class Plate:
    """A square plate of the stack; `side` None is as large as the die."""

    name: str
    thickness: float  # [m]
    material: object  # name, conductivity [W/(m K)] or Material
    side: float | None = None  # [m]
    capacity: float | None = None  # [J/(m^3 K)]; the material's own by default
    cells: int = 4  # across the thickness

    @property
    def conductivity(self) -> float:
        """[W/(m K)]"""
        return material(self.material).conductivity


PACKAGE = (
    Plate("die", 0.15e-3, 100.0, None, 1.75e6, 3),
    Plate("interface", 20e-6, 4.0, None, 4.0e6, 1),
    Plate("spreader", 1.0e-3, 400.0, 30e-3, 3.55e6, 4),
    Plate("sink", 6.9e-3, 400.0, 60e-3, 3.55e6, 6),
)
"""Default stack, die first: the default package of HotSpot (W. Huang et al., IEEE Trans. VLSI 14 (2006)
501)."""


@dataclass(frozen=True, eq=False)
class Chip:
    """Steady temperatures on the powered face of the die."""

    temperature: np.ndarray = field(repr=False)  # (cells, cells), axis 0 is x, axis 1 is y from the bottom
    blocks: dict[str, float]  # block -> mean temperature
    maximum: float
    hottest: tuple[int, int]  # cell (x, y) of the maximum
    heat_out: float  # through the far face of the stack [W]
    power: float  # put in [W]
    residual: float
    problem: Problem = field(repr=False)
    u: np.ndarray = field(repr=False)  # all cells of the stack, NaN outside the plates
    size: tuple[float, float]  # of the die [m]

    def plot(self, path=None):
        """Map of the powered face; returns the figure, and saves it where a path is given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        axes = figure.subplots()
        extent = (0, 1e3 * self.size[0], 0, 1e3 * self.size[1])
        image = axes.imshow(self.temperature.T, origin="lower", extent=extent, cmap="inferno")
        figure.colorbar(image, ax=axes, label="temperature")
        axes.set(xlabel="x [mm]", ylabel="y [mm]", title=f"{self.power:.1f} W, hottest {self.maximum:.2f}")
        if path is not None:
            write_figure(figure, path, dpi=150)
        return figure


def chip(
    floorplan,
    power,
    stack: Sequence[Plate] = PACKAGE,
    *,
    h: float | None = None,
    sink_resistance: float = 0.1,
    ambient: float = 318.15,
    cells: int = 64,
    refine: int = 1,
    tol: float = 1e-9,
) -> Chip:
    """Steady temperature of a floorplan on its stack, in three dimensions.

    Power enters as flux through the free face of the die, each block's spread evenly over its area; the far
    face of the last plate exchanges heat with `ambient`; all other faces are insulated.

    Parameters
    ----------
    floorplan
        Path of a HotSpot .flp file, or {block: (width, height, left, bottom)} [m]. Blocks must not overlap.
    power
        Path of a .ptrace file (its mean over time is taken), {block: W}, or one number per block in the
        floorplan's order. Blocks left out of a dict dissipate nothing.
    stack
        Plates from the die outwards, each at least as wide as the one before, centred.
    h, sink_resistance
        Heat transfer coefficient at the far face [W/(m^2 K)]; by default 1 / (sink_resistance * its area).
    ambient
        Temperature of the surroundings; sets the unit of the result.
    cells, refine
        The die's face is reported on `cells` x `cells`; the solver's grid is `refine` times finer there and
        widens outside the die.

    Raises
    ------
    ProblemError
        If blocks overlap or are unnamed in the power, the stack narrows, or a number is out of range.
    """
    from ..equilibrium import equilibrium

    blocks = _floorplan(floorplan)
    watts = _power(power, blocks)
    origin, size = _die(blocks)
    count = _whole("cells", cells) * _whole("refine", refine)
    if not stack:
        raise ProblemError("stack is empty: give at least the die as a Plate.")
    sides = [_sides(plate, size) for plate in stack]
    for k in range(1, len(sides)):
        if sides[k][0] < sides[k - 1][0] * (1 - 1e-12) or sides[k][1] < sides[k - 1][1] * (1 - 1e-12):
            raise ProblemError(
                f"plate {stack[k].name!r} is narrower than {stack[k - 1].name!r} before it; give the stack from the die "
                "outwards, each plate at least as wide."
            )
    edges = [_lateral(axis, size, sides, count) for axis in range(2)]
    depth, layer = _depth(stack)
    grid = Grid.from_edges([*edges, depth])
    active, conductivity, capacity = _plates(grid, stack, sides, layer)

    density = np.zeros(grid.side_shape("z-"))  # flux into the die's face [W/m^2]
    inside = [np.flatnonzero(np.abs(c) < s / 2) for c, s in zip(grid.centers[:2], size, strict=True)]
    face = np.ix_(*inside)
    shares = {name: _overlap(block, origin, size, [e[i[0] : i[-1] + 2] for e, i in zip(edges, inside, strict=True)])
              for name, block in blocks.items()}  # fmt: skip
    area = np.outer(*(grid.widths[a][inside[a]] for a in range(2)))
    for name, covered in shares.items():
        density[face] += watts[name] * (covered / covered.sum()) / area
    if h is None:
        h = 1 / (number("sink_resistance", sink_resistance, above=0.0) * math.prod(sides[-1]))
    problem = Problem(
        grid,
        conductivity,
        capacity=capacity,
        active=active,
        boundary={"z-": Neumann(density), "z+": Robin(number("h", h, above=0.0), number("ambient", ambient))},
    )
    steady = equilibrium(problem, tol=tol)
    top = np.asarray(steady.wall("z-"))[face]
    coarse = top.reshape(cells, refine, cells, refine).mean(axis=(1, 3))
    i, j = np.unravel_index(np.argmax(coarse), coarse.shape)
    hottest = int(i), int(j)
    means = {name: float((covered * top).sum() / covered.sum()) for name, covered in shares.items()}
    return Chip(
        coarse, means, float(coarse.max()), hottest, -float(steady.flow("z+")), math.fsum(watts.values()),
        float(steady.residual), problem, steady.u, size,
    )  # fmt: skip


# --- input
# --------------------------------------------------------------------------------------------------------


def _floorplan(floorplan) -> dict[str, tuple[float, float, float, float]]:
    """{block: (width, height, left, bottom)}, checked."""
    if isinstance(floorplan, str | Path):
        floorplan = _read_floorplan(Path(floorplan))
    if not isinstance(floorplan, Mapping) or not floorplan:
        raise ProblemError(
            "floorplan: give the path of a .flp file, or {block: (width, height, left, bottom)} in metres."
        )
    blocks = {}
    for name, entry in floorplan.items():
        if np.shape(entry) != (4,):
            raise ProblemError(f"floorplan[{name!r}] = {entry!r}: give (width, height, left, bottom) in metres.")
        numbers = [number(f"floorplan[{name!r}]", x) for x in entry]
        if min(numbers[:2]) <= 0:
            raise ProblemError(f"floorplan[{name!r}] has the size {numbers[0]:g} x {numbers[1]:g}; both must be > 0.")
        width, height, left, bottom = numbers
        blocks[str(name)] = (width, height, left, bottom)
    _refuse_overlap(blocks)
    return blocks


def _read_floorplan(path: Path) -> dict[str, list[float]]:
    """A HotSpot floorplan: lines of name, width, height, left, bottom [m] (and two optional material
    numbers)."""
    from ..store import read_text

    blocks: dict[str, list[float]] = {}
    for line_number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            blocks[words[0]] = [float(w) for w in words[1:5]]
        except ValueError:
            raise ProblemError(
                f"{path}, line {line_number}: {line.strip()!r} is not 'name width height left bottom'."
            ) from None
        if len(words) < 5:
            raise ProblemError(
                f"{path}, line {line_number}: {len(words)} entries; a block has a name and four numbers."
            )
    return blocks


def _refuse_overlap(blocks) -> None:
    names = list(blocks)
    b = np.array([blocks[n] for n in names])
    slack = 1e-6 * b[:, :2].min()  # floorplans are typed to six digits: edges may miss each other by a rounding
    for k in range(len(b)):
        x = np.minimum(b[:, 2] + b[:, 0], b[k, 2] + b[k, 0]) - np.maximum(b[:, 2], b[k, 2])
        y = np.minimum(b[:, 3] + b[:, 1], b[k, 3] + b[k, 1]) - np.maximum(b[:, 3], b[k, 3])
        both = (x > slack) & (y > slack)
        both[k] = False
        if both.any():
            raise ProblemError(f"blocks {names[k]!r} and {names[int(np.argmax(both))]!r} of the floorplan overlap.")


def _power(power, blocks) -> dict[str, float]:
    """{block: W} for every block."""
    if isinstance(power, str | Path):
        power = _read_power(Path(power))
    if isinstance(power, Mapping):
        unknown = [name for name in power if name not in blocks]
        if unknown:
            raise ProblemError(
                f"power names {unknown[0]!r}, which the floorplan does not have; its blocks: {', '.join(blocks)}."
            )
        given = power
    else:
        values = np.ravel(np.asarray(power, dtype=float))
        if values.size != len(blocks):
            raise ProblemError(
                f"power has {values.size} numbers for {len(blocks)} blocks; give one per block, in order."
            )
        given = dict(zip(blocks, values, strict=True))
    return {name: number(f"power[{name!r}]", given.get(name, 0.0)) for name in blocks}


def _read_power(path: Path) -> dict[str, float]:
    """Mean over time of a HotSpot power trace: a line of block names, then lines of watts."""
    from ..store import read_text

    lines = [
        line.split() for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    try:
        trace = np.array(lines[1:], dtype=float)
    except (ValueError, IndexError):
        raise ProblemError(f"{path}: lines of watts must be numbers, as many as the first line has names.") from None
    if trace.ndim != 2 or trace.shape[1] != len(lines[0]):
        raise ProblemError(f"{path}: {len(lines[0])} names, but lines of watts of shape {trace.shape}.")
    return dict(zip(lines[0], trace.mean(axis=0), strict=True))


def _whole(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ProblemError(f"{name} = {value!r} must be a whole number of at least 1.")
    return int(value)


# --- grid
# ---------------------------------------------------------------------------------------------------------


def _die(blocks) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lower left corner and size of the smallest box around the blocks."""
    b = np.array(list(blocks.values()))
    low = b[:, 2:].min(axis=0)
    high = (b[:, 2:] + b[:, :2]).max(axis=0)
    return tuple(low), tuple(high - low)


def _sides(plate: Plate, size) -> tuple[float, float]:
    if plate.side is None:
        return size
    return (number(f"side of plate {plate.name!r}", plate.side, above=0.0),) * 2


def _lateral(axis: int, size, sides, count: int) -> np.ndarray:
    """Edges along x or y, the die's centre at 0: `count` equal cells over the die, widening by at most 1.4
    outside it."""
    widths = sorted({round(s[axis], 12) for s in sides})
    half = size[axis] / 2
    right = [half]
    step = size[axis] / count
    for width in widths:
        gap = width / 2 - right[-1]
        if gap <= 1e-9 * half:
            continue
        n = 1
        while step * sum(1.4**k for k in range(1, n + 1)) < gap:
            n += 1
        ratio = _ratio(gap / step, n)
        steps = step * ratio ** np.arange(1, n + 1)
        right += list(right[-1] + np.cumsum(steps) * gap / steps.sum())
        step = steps[-1]
    outside = np.array(right[1:])
    return np.concatenate([-outside[::-1], np.linspace(-half, half, count + 1), outside])


def _ratio(total: float, n: int) -> float:
    """The ratio q <= 1.4 with q + q^2 + ... + q^n = total, by bisection."""
    low, high = 1e-3, 1.4
    for _ in range(60):
        q = (low + high) / 2
        low, high = (q, high) if sum(q**k for k in range(1, n + 1)) < total else (low, q)
    return high


def _depth(stack) -> tuple[np.ndarray, np.ndarray]:
    """Edges through the stack, and the number of the plate that each cell belongs to."""
    edges, layer = [0.0], []
    for k, plate in enumerate(stack):
        thickness = number(f"thickness of plate {plate.name!r}", plate.thickness, above=0.0)
        n = _whole(f"cells of plate {plate.name!r}", plate.cells)
        edges += list(edges[-1] + thickness * np.arange(1, n + 1) / n)
        layer += [k] * n
    return np.array(edges), np.array(layer)


def _plates(grid: Grid, stack, sides, layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Active cells, conductivity and capacity of the stack."""
    active = np.zeros(grid.shape, dtype=bool)
    conductivity, capacity = np.zeros(grid.shape), np.ones(grid.shape)
    for k, plate in enumerate(stack):
        inside = [np.abs(c) < s / 2 for c, s in zip(grid.centers[:2], sides[k], strict=True)]
        where = inside[0][:, None, None] & inside[1][None, :, None] & (layer == k)
        active |= where
        made_of = material(plate.material)
        conductivity[where] = made_of.conductivity
        own = plate.capacity if plate.capacity is not None else made_of.capacity
        capacity[where] = number(f"capacity of plate {plate.name!r}", own, above=0.0) if math.isfinite(own) else 1.0
    return active, conductivity, capacity


def _overlap(block, origin, size, edges) -> np.ndarray:
    """Area of `block` in every cell of the die's face."""
    spans = []
    for axis in range(2):
        low = block[2 + axis] - origin[axis] - size[axis] / 2  # the die's centre is 0
        edge = edges[axis]
        spans.append(np.maximum(0.0, np.minimum(edge[1:], low + block[axis]) - np.maximum(edge[:-1], low)))
    return np.outer(*spans)
