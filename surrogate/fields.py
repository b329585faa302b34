"""Problems as arrays a network can read, and back: where the exact equivariances live.

The equilibrium solves ``K u = F``, so K and F say everything, whatever the sides, the geometry or the loss. They are
handed over cell by cell and free of units:

* K over the geometric mean of its conductances, as logarithms per face (scaling D, h and b by c changes nothing);
* F over the same mean and split by origin (sources, values on walls, fluxes), divided by its own norm;
* a reference value is taken off first: the mean of the values imposed (shifting them all by a constant changes nothing).

The network's output is multiplied by the norm and the reference added. Hence, for every network and every weight:
scaling D, h and b by c, sources and fluxes by s, and values by s/c scales the prediction by s/c, and adding a constant
to all values adds it to the prediction, both to rounding.

Two things more can be had on request: values on sides that hold exactly, because the output is multiplied by a function
that vanishes there and added to one that has these values; and answers inside the range that the maximum principle
allows, non-negative for non-negative data among others.

Frames of a trajectory (task "transient") are divided by their root mean square, times by the last one: scaling
values, or the unit of time, scales the prediction exactly too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from diffsim.errors import ProblemError
from diffsim.operator import Operator, discretize
from diffsim.problem import Problem

from .baselines import coarse_solve
from .checks import extrema
from .dataset import Item

FORCINGS = 3  # channels of the right-hand side: sources and losses, imposed values, imposed fluxes
RESPONSE = 1 / 25  # root mean square of u in a unit square with D = f = 1 and zero sides: makes outputs about 1


@dataclass(frozen=True, eq=False)
class Fields:
    """A batch in the network's units; ``u = reference + scale * network(coefficients, forcing)``, inside `limits`.

    Attributes
    ----------
    coefficients
        (n, C, *shape) float32. The first ``4 ndim`` channels belong to directions, in the order (axis, low/high): the
        log conductances of the faces, then their kinds (1 a wall that conducts, -1 closed, 0 an inner face). Sinks and
        which cells are free follow, and the envelope where sides are exact. For frames there are none of these.
    forcing
        (n, R, *shape) float32; u depends on it linearly.
    scale, reference
        (n,) float64, in the units of u; the reference is (n, *shape) where sides are exact.
    directional
        Number of leading channels of `coefficients` that turn with the grid.
    limits
        (n, 2) lowest and highest u that answers may have; None sets none.
    """

    coefficients: np.ndarray
    forcing: np.ndarray
    scale: np.ndarray
    reference: np.ndarray
    directional: int
    limits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.coefficients.shape[2:]

    def normalised(self, u: np.ndarray) -> np.ndarray:
        """Fields in physical units (n, *shape) as the network should give them, (n, 1, *shape) float32; voids 0."""
        safe = np.where(self.scale > 0, self.scale, 1.0)
        inner = (np.asarray(u) - self._column(self.reference)) / self._column(safe)
        return np.nan_to_num(inner, nan=0.0)[:, None].astype(np.float32)

    def physical(self, output: np.ndarray) -> np.ndarray:
        """The network's output (n, 1, *shape) in physical units, (n, *shape) float64."""
        u = self._column(self.reference) + self._column(self.scale) * output[:, 0].astype(np.float64)
        if self.limits is None:
            return u
        return np.clip(u, self._column(self.limits[:, 0]), self._column(self.limits[:, 1]))

    def _column(self, values: np.ndarray) -> np.ndarray:
        """One number per item, or one field, ready to meet fields."""
        return values.reshape((-1,) + (1,) * len(self.shape)) if values.ndim == 1 else values


def channels(ndim: int) -> int:
    """Coefficient channels of a problem on a grid of `ndim` axes."""
    return 4 * ndim + 2


def frames_in(coefficients: int, forcing: int) -> int:
    """How many frames so many channels come from; 0 where they are those of problems."""
    frames, odd = divmod(forcing, 2)
    return frames if not odd and coefficients == 3 * frames - 1 else 0


def from_problems(
    problems: Sequence[Problem], coarse: int = 0, exact_sides: bool = False, bounded: bool = False
) -> Fields:
    """The fields of problems on grids of one shape.

    Parameters
    ----------
    coarse
        k > 0: the forcing has one channel more, the equilibrium on cells k times wider, solved and interpolated. It is
        linear in the right-hand side too, and scales with it.
    exact_sides
        The coefficients have one channel more, the envelope of `anchored`, and the reference is its lift.
    bounded
        Answers are cut to the range that the maximum principle allows, which never takes them further from the truth.

    Raises
    ------
    ProblemError
        If the shapes differ, or a problem is nonlinear, moves in time, or has a diffusivity tensor: it has no K and F
        of this form.
    """
    if not problems:
        raise ProblemError("0 problems were given; give at least one.")
    shapes = {p.grid.shape for p in problems}
    if len(shapes) > 1:
        raise ProblemError(
            f"problems on grids of different shapes, {sorted(shapes)}, cannot share a batch; group them by shape."
        )
    (shape,) = shapes
    n, ndim = len(problems), len(shape)
    coefficients = np.empty((n, channels(ndim), *shape), np.float32)
    forcing = np.empty((n, FORCINGS, *shape), np.float32)
    scale, reference, limits = np.empty(n), np.empty(n), np.empty((n, 2))
    for i, problem in enumerate(problems):
        operator = _steady(problem)
        mean = _mean_conductance(operator)
        coefficients[i] = _coefficients(operator, mean)
        forcing[i], scale[i], reference[i] = _forcing(operator, mean)
        if bounded:
            limits[i] = extrema(operator)
    inputs = Fields(coefficients, forcing, scale, reference, directional=4 * ndim, limits=limits if bounded else None)
    if exact_sides:
        pairs = [anchored(problem, constant) for problem, constant in zip(problems, reference, strict=True)]
        envelopes, lifts = (np.stack(column) for column in zip(*pairs, strict=True))
        coefficients = np.concatenate([coefficients, envelopes[:, None].astype(np.float32)], axis=1)
        inputs = replace(inputs, coefficients=coefficients, reference=lifts)
    if coarse:
        guess = coarse_solve([Item(problem, np.empty(0)) for problem in problems], coarse)
        inputs = replace(inputs, forcing=np.concatenate([forcing, inputs.normalised(guess)], axis=1))
    return inputs


def anchored(problem: Problem, otherwise: float) -> tuple[np.ndarray, np.ndarray]:
    """(envelope, lift), both of the grid's shape, for sides that hold values.

    The envelope is a product over these sides of ``1 - (1 - 2 d)^2``, 1 from the middle of the box on, d the distance to
    the side over the length of the box: it vanishes linearly at the side, and is positive elsewhere. The lift is the mean
    of the sides' values weighted by 1/d^2 (inverse-distance interpolation: Rvachev et al. 2001), and has these values at
    the sides. Without such sides they are 1 and the constant `otherwise`.
    """
    grid = problem.grid
    envelope, weighted, weights = np.ones(grid.shape), np.zeros(grid.shape), np.zeros(grid.shape)
    for axis, name in enumerate(grid.axes):
        for end, wall in (("-", grid.edges[axis][0]), ("+", grid.edges[axis][-1])):
            side = problem.boundary[name + end]
            if side.kind != "value":
                continue
            distance = np.abs(grid.centers[axis] - wall) / grid.lengths[axis]
            distance = distance.reshape([-1 if a == axis else 1 for a in range(grid.ndim)])
            shape = grid.side_shape(name + end)
            value = np.asarray(side.terms(name + end, shape)[1](0.0), dtype=float)
            value = np.expand_dims(np.broadcast_to(value, shape), axis)
            envelope = envelope * (1 - (1 - 2 * np.minimum(distance, 0.5)) ** 2)
            weighted, weights = weighted + value / distance**2, weights + 1 / distance**2
    return envelope, np.where(weights > 0, weighted / np.where(weights > 0, weights, 1.0), otherwise)


def _steady(problem: Problem) -> Operator:
    if not problem.linear:
        raise ProblemError("the problem is nonlinear (D or a side depends on u, or there is a reaction); surrogates of "
                           "coefficients are for linear problems. Use diffsim.equilibrium.")  # fmt: skip
    operator = discretize(problem)
    if not (operator.autonomous and operator.forcing.constant):
        raise ProblemError("the problem changes with t, so it has no equilibrium; give data that do not depend on t.")
    if operator.cross is not None:
        raise ProblemError(
            "a diffusivity tensor with xy entries is not supported by the surrogates; use diffsim.equilibrium."
        )
    return operator


def _mean_conductance(operator: Operator) -> float:
    """Geometric mean of the conductances, of the walls' and losses' where no inner face conducts."""
    # The first face of an axis is a wall (0 here), or the last one again, where periodic.
    faces = [np.delete(g, 0, axis=axis) for axis, g in enumerate(operator.conductances)]
    inner = np.concatenate([g[g > 0] for g in faces])
    if inner.size == 0:
        inner = operator.diagonal[operator.diagonal > 0]
    return float(np.exp(np.mean(np.log(inner)))) if inner.size else 1.0


def _wall_sums(operator: Operator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per cell, flat: conductance to walls, that times the walls' values, and the imposed inflow."""
    size = int(np.prod(operator.shape))
    g, values, fluxes = np.zeros(size), np.zeros(size), np.zeros(size)
    for wall in operator.walls:
        np.add.at(g, wall.cells, wall.g)
        np.add.at(values, wall.cells, wall.g * wall.data_at(wall.value, 0.0))
        np.add.at(fluxes, wall.cells, wall.area * wall.data_at(wall.flux, 0.0))
    return g, values, fluxes


def _coefficients(operator: Operator, mean: float) -> np.ndarray:
    shape, lead, ndim = operator.grid.shape, operator.lead, operator.grid.ndim
    faces = np.zeros((2 * ndim, *operator.shape))
    kinds = np.zeros((2 * ndim, *operator.shape))
    for axis in range(ndim):
        g = np.moveaxis(operator.conductances[lead + axis], lead + axis, 0)
        for end, links in enumerate((g[:-1], g[1:])):
            faces[2 * axis + end] = np.moveaxis(links, 0, lead + axis)
    sink = operator.diagonal.copy().reshape(-1)
    for wall in operator.walls:
        if wall.side in operator.grid.sides:
            direction = 2 * operator.grid.axes.index(wall.side[:-1]) + (wall.side[-1] == "+")
            np.add.at(faces[direction].reshape(-1), wall.cells, wall.g)
            np.subtract.at(sink, wall.cells, wall.g)
            kinds[direction].reshape(-1)[wall.cells[wall.g > 0]] = 1.0
    kinds[faces <= 0] = -1.0
    logs = np.log(np.where(faces > 0, faces, mean) / mean)
    reach = max(shape) ** 2  # a sink of conductance mean/reach drains a box of this size about as fast as its walls do
    sinks = np.log1p(np.maximum(sink, 0.0).reshape(operator.shape) * (reach / mean))
    stack = np.concatenate([logs, kinds, sinks[None], operator.free[None].astype(float)])
    return stack.reshape(-1, *shape)


def _forcing(operator: Operator, mean: float) -> tuple[np.ndarray, float, float]:
    """(channels (FORCINGS, *shape) of norm one, scale of u, reference value)."""
    shape = operator.grid.shape
    g, values, fluxes = _wall_sums(operator)
    problem = operator.problem
    loss = np.broadcast_to(np.asarray(problem.loss), shape).reshape(-1) * operator.volumes.reshape(-1)
    surroundings = loss * np.broadcast_to(np.asarray(problem.ambient(0.0)), shape).reshape(-1)
    held = float(g.sum() + loss.sum())
    reference = float((values.sum() + surroundings.sum()) / held) if held > 0 else 0.0
    sources = operator.forcing(0.0).reshape(-1) - values - fluxes - loss * reference
    values = values - g * reference
    n = max(shape)
    parts = np.stack([sources * n**2, values, fluxes * n]) / mean
    # Walls are 1/n of the cells: their weight n makes the norm that of the data per face, whatever the resolution.
    norm = float(np.sqrt(np.mean(parts**2 * np.array([[1.0], [n], [n]]), axis=1).sum()))
    # What is left of the values after taking off a reference they are all equal to is rounding, not data.
    if np.abs(parts).max() <= 1e-13 * abs(reference) * max(g.max(initial=0.0) / mean, 1.0):
        return np.zeros((FORCINGS, *shape)), 0.0, reference
    return (parts / norm).reshape(FORCINGS, *shape), norm * RESPONSE, reference


def from_frames(times: np.ndarray, frames: np.ndarray) -> Fields:
    """The fields of the first frames of trajectories whose coefficients are unknown.

    Parameters
    ----------
    times
        (n, k) or (k,), increasing; k >= 2.
    frames
        (n, k, *shape); NaN in cells that were not observed (voids, no sensor).

    Raises
    ------
    ProblemError
        For fewer than two frames, shapes that do not fit, times that do not increase, or values that are infinite.
    """
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim < 3 or frames.shape[1] < 2:
        raise ProblemError(
            f"frames have shape {frames.shape}; give (n, k, *grid shape) with k >= 2 frames per trajectory."
        )
    n, k = frames.shape[:2]
    try:
        times = np.broadcast_to(np.asarray(times, dtype=np.float64), (n, k))
    except ValueError:
        raise ProblemError(f"times have shape {np.shape(times)}; give ({k},) or ({n}, {k}), one per frame.") from None
    steps = np.diff(times, axis=1)
    if not (np.isfinite(times).all() and (steps > 0).all()):
        raise ProblemError("the times of the frames must be finite and increase from frame to frame.")
    seen = ~np.isnan(frames).any(axis=1, keepdims=True)
    frames = np.where(seen, frames, 0.0)
    if not np.isfinite(frames).all():
        raise ProblemError("frames hold infinite values; give finite ones, and NaN where nothing was observed.")
    column = (-1, 1) + (1,) * (frames.ndim - 2)
    axes = tuple(range(1, frames.ndim))
    scale = np.sqrt(np.sum(frames**2, axis=axes) / np.maximum(k * np.sum(seen, axis=axes), 1))
    unit = frames / np.where(scale > 0, scale, 1.0).reshape(column)
    span = (times[:, -1] - times[:, 0]).reshape(column)
    rates = np.diff(unit, axis=1) / steps.reshape(n, k - 1, *column[2:]) * span
    clock = ((times - times[:, :1]).reshape(n, k, *column[2:]) / span)[:, 1:-1]
    clock = np.broadcast_to(clock, (n, k - 2, *unit.shape[2:]))
    forcing = np.concatenate([unit, rates, _extrapolated(unit, times)[:, None]], axis=1)
    coefficients = np.concatenate([forcing, clock, seen], axis=1)
    return Fields(coefficients.astype(np.float32), forcing.astype(np.float32), scale, np.zeros(n), directional=0)


def _extrapolated(unit: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Where each trajectory would settle if its last two changes were one decaying exponential of the whole field.

    One rate per trajectory, from the projection of the last change on the one before, is robust where pointwise rates
    are not; a trajectory that does not slow down keeps its last frame.
    """
    if unit.shape[1] < 3:
        return unit[:, -1]
    steps = np.diff(times, axis=1)[:, -2:]
    axes = tuple(range(1, unit.ndim - 1))
    before = (unit[:, -2] - unit[:, -3]) / steps[:, 0].reshape((-1,) + (1,) * len(axes))
    after = (unit[:, -1] - unit[:, -2]) / steps[:, 1].reshape((-1,) + (1,) * len(axes))
    power = np.sum(before**2, axis=axes)
    ratio = np.divide(np.sum(before * after, axis=axes), power, out=np.zeros_like(power), where=power > 0)
    ratio = np.clip(ratio, 0.0, 0.95)
    # rates fall by `ratio` between the midpoints of the two intervals: decay = -ln(ratio) / (distance of midpoints)
    distance = steps.mean(axis=1)
    decay = -np.log(np.maximum(ratio, 1e-6)) / distance
    remaining = np.exp(-decay * steps[:, 1] / 2) / decay
    return unit[:, -1] + after * remaining.reshape((-1,) + (1,) * len(axes))


@dataclass(frozen=True)
class Symmetry:
    """A symmetry of the box: flip the axes in `flips`, then reorder them by `order`."""

    flips: tuple[bool, ...]
    order: tuple[int, ...]

    def __call__(self, batch, directional: int = 0):
        """Apply to a tensor (n, channels, *shape) of torch whose first `directional` channels belong to directions."""
        ndim = len(self.flips)
        turned = batch.flip([2 + a for a in range(ndim) if self.flips[a]]) if any(self.flips) else batch
        turned = turned.permute(0, 1, *(2 + a for a in self.order))
        if not directional:
            return turned
        old = [2 * a + (end ^ self.flips[a]) for a in self.order for end in (0, 1)]
        blocks = [base + c for base in range(0, directional, 2 * ndim) for c in old]
        return turned[:, blocks + list(range(directional, batch.shape[1]))]


def symmetries(shape: tuple[int, ...], periodic: tuple[bool, ...] = ()) -> list[Symmetry]:
    """All symmetries of a box of that many cells per axis: flips, and reorderings of axes of equal length.

    Axes that a network closes across their seam (`periodic`) change places among themselves only. Conductances travel
    with the cells, so each is exact for any geometry: it only renumbers the graph. The identity is the first.
    """
    ndim = len(shape)
    alike = list(zip(shape, periodic or (False,) * ndim, strict=True))
    orders = [o for o in permutations(range(ndim)) if all(alike[o[a]] == alike[a] for a in range(ndim))]
    return [Symmetry(flips, order) for order in orders for flips in product((False, True), repeat=ndim)]
