"""The same physics as random walks.

Two motions. *Jumps* go from cell to cell with the rates ``g_ij / (c_i V_i)`` of the discrete operator:
reversible by construction, right at jumps of D and with voids, and simulated without a time step (Gillespie's
direct method), so their mean is the semi-discrete solution exactly. *Brownian* walkers move in the continuum,
for smooth D: diffusivity D/c and drift grad D / c, which together leave the density ∝ c at rest; without the
drift they would pile up where D is small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .data import array, number
from .errors import ProblemError, ResourceError
from .operator import Operator, discretize
from .problem import OfGradient, OfState, OfTime, PerAxis, Problem, Tensor

MOST_JUMPS = 10**12  # more would take hours: refused with the ways out
_CHUNK = 64  # blocks between two chances to interrupt


@dataclass(frozen=True, eq=False)
class Walk:
    """Where the walkers are at time `t`.

    ``counts * weight / (c V)`` estimates u; the relative standard error of a cell is about ``1 /
    sqrt(counts)``.
    """

    counts: np.ndarray = field(repr=False)  # walkers in each cell, int64, grid shape
    t: float  # [s]
    particles: int
    weight: float  # content that one walker stands for
    absorbed: dict[str, int]  # side, "fixed", "void" or "loss" -> walkers that left there
    moves: int  # jumps made, or steps taken
    mass: np.ndarray = field(repr=False)  # c V, grid shape
    positions: np.ndarray | None = field(default=None, repr=False)  # (alive, ndim), Brownian walkers only

    @property
    def density(self) -> np.ndarray:
        """Estimate of u, grid shape; NaN in voids."""
        return self.counts * self.weight / self.mass


def walk(
    prob: Problem,
    start,
    until: float,
    particles: int = 100_000,
    dt: float | str = "auto",
    seed: int = 0,
    *,
    motion: str | None = None,
    potential=None,
) -> Walk:
    """Follow independent random walkers whose mean density solves `prob`.

    Parameters
    ----------
    prob
        A linear problem with constant coefficients in time. Zero-value sides absorb, insulated ones reflect,
        periodic ones wrap, Robin sides and losses to an ambient of 0 absorb at their rate. Jumps also take
        steady sources and sides that feed (value > 0, flux > 0): of all `particles`, the share that these
        feed until the end enters at uniform times, in the cells that they feed.
    start
        Where walkers start: a point (tuple of coordinates), or u >= 0 as an array of the grid's shape or a
        callable(x, y, ...). A point holds content 1.
    until
        Time to walk [s].
    particles
        Number of walkers.
    dt
        Step of Brownian walkers [s]; "auto" follows the walls and the scale on which coefficients vary (one
        step in all where that is exact). Jumps have no step; a number here selects Brownian motion.
    seed
        Same seed, same result, with any number of threads.
    motion
        "jumps" (default) or "brownian".
    potential
        V in units of the thermal energy, array of the grid's shape or callable(x, y, ...): the density at
        rest becomes ∝ c exp(-V). Jump rates take the factor ``exp((V_i - V_j) / 2)``; Brownian steps are
        Metropolis-corrected (MALA), so the density at rest is exact at any step.

    Raises
    ------
    ProblemError
        For nonlinear or time-dependent problems, sinks (negative sources), negative starts, and for whatever
        the chosen motion cannot represent.
    ResourceError
        If the run would need more than 10^12 jumps.

    Notes
    -----
    D. T. Gillespie, J. Phys. Chem. 81 (1977) 2340; G. O. Roberts, R. L. Tweedie, Bernoulli 2 (1996) 341
    (MALA); D. R. Cox, H. D. Miller, The Theory of Stochastic Processes, 1965 (bridge law at an absorbing
    wall).
    """
    until = number("until", until, least=0.0)
    if isinstance(particles, bool) or not isinstance(particles, int | np.integer) or particles < 1:
        raise ProblemError(f"particles = {particles!r} must be a whole number of at least 1.")
    if motion is None:
        motion = "jumps" if dt == "auto" else "brownian"
    if motion not in _MOTIONS:
        raise ProblemError(f"motion = {motion!r} is unknown; choose one of {', '.join(_MOTIONS)}.")
    _refuse_what_cannot_walk(prob)
    levels = _potential(potential, prob)
    return _MOTIONS[motion](prob, start, until, int(particles), dt, int(seed), levels)


def _refuse_what_cannot_walk(prob: Problem) -> None:
    d = prob.diffusivity
    if isinstance(d, OfState | OfGradient | OfTime) or not prob.linear:
        raise ProblemError(
            "walkers are independent, so D, sides and sources must not depend on u or t; freeze the coefficient at a "
            "field (an array), or use simulate()."
        )
    if isinstance(d, Tensor):
        raise ProblemError(
            "a diffusivity tensor with xy terms couples diagonal neighbours with either sign, and a negative rate is no "
            "walk; rotate the grid to the principal axes and give PerAxis, or use simulate()."
        )


def _potential(potential, prob: Problem) -> np.ndarray | None:
    if potential is None:
        return None
    if callable(potential):
        potential = np.broadcast_to(np.asarray(potential(*prob.grid.mesh()), float), prob.grid.shape)
    return array("potential", potential, prob.grid.shape, where=prob.active)


def _start_content(start, operator: Operator) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """Content per cell (flat) and the point where all start, if one was given."""
    grid = operator.grid
    if isinstance(start, tuple) or (grid.ndim == 1 and np.ndim(start) == 0 and not callable(start)):
        point = tuple(float(x) for x in np.atleast_1d(np.asarray(start, float)))
        index = grid.locate(point)
        content = np.zeros(grid.shape)
        content[index] = 1.0
        if not operator.free.reshape(grid.shape)[index]:
            raise ProblemError(f"start = {point} lies in a void or held cell; start in a free one.")
        return content.ravel(), point
    u = grid.field("start", start, where=operator.free.reshape(grid.shape))
    if u.min() < 0:
        raise ProblemError(
            f"start has a smallest value of {u.min():g}; walkers carry positive content. Walk u minus its minimum (the "
            "equation is linear), or use simulate()."
        )
    return np.where(operator.free, operator.mass, 0.0).ravel() * u.ravel(), None


def _streams(seed: int, particles: int) -> np.ndarray:
    """One generator state per block of particles, (blocks, 4) uint64; block k of a seed is always the same
    stream."""
    from .kernels.walk import BLOCK

    blocks = -(-particles // BLOCK)
    return np.stack(
        [np.random.SeedSequence(seed, spawn_key=(1, k)).generate_state(4, np.uint64) for k in range(blocks)]
    )


def _share(rng: np.random.Generator, content: np.ndarray, particles: int) -> np.ndarray:
    """Cells of `particles` walkers: each cell gets the whole part of its share, the rest is drawn (less
    noise)."""
    expected = content * (particles / content.sum())
    whole = np.floor(expected).astype(np.int64)
    left = particles - int(whole.sum())
    cells = np.repeat(np.arange(content.size), whole)
    if left <= 0:
        return cells[:particles]
    rest = np.cumsum(expected - whole)
    extra = np.searchsorted(rest, rng.uniform(0, rest[-1], left), side="right")
    return np.concatenate([cells, np.minimum(extra, content.size - 1)])


# --- jumps
# --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class JumpRates:
    """Rates of the jump process: out of each cell in six directions, and out of the domain, all [1/s]."""

    faces: np.ndarray  # (n, 6): down and up along each padded axis
    exit: np.ndarray  # (n,)
    channels: list[tuple[str, np.ndarray]]  # (name, (n,) rate) whose sum is `exit`

    @property
    def total(self) -> np.ndarray:
        """Rate of leaving each cell, (n,)."""
        return self.faces.sum(axis=1) + self.exit


def jump_rates(operator: Operator, potential: np.ndarray | None = None) -> JumpRates:
    """Rates ``g_ij / m_i`` of `operator`, times ``exp((V_i - V_j) / 2)`` with a potential.

    Detailed balance: ``m_i exp(-V_i) rate_ij = g_ij exp(-(V_i + V_j) / 2)`` is symmetric in i and j.
    """
    mass = operator.mass
    faces = np.zeros((*operator.shape, 6))
    for axis, g in enumerate(operator.conductances):
        n = operator.shape[axis]
        if n == 1:
            continue
        low = np.take(g, range(n), axis=axis) / mass
        high = np.take(g, range(1, n + 1), axis=axis) / mass
        if potential is not None:
            v = potential.reshape(operator.shape)
            low *= np.exp((v - np.roll(v, 1, axis=axis)) / 2)
            high *= np.exp((v - np.roll(v, -1, axis=axis)) / 2)
        faces[..., 2 * axis], faces[..., 2 * axis + 1] = low, high
    channels: list[tuple[str, np.ndarray]] = []
    for name in dict.fromkeys(wall.side for wall in operator.walls):
        rate = np.zeros(mass.size)
        for wall in operator.walls:
            if wall.side == name:
                np.add.at(rate, wall.cells, wall.g)
        if rate.any():
            channels.append((name, rate / mass.ravel()))
    if np.any(operator.problem.loss):
        loss = operator.volumes.ravel() * np.ravel(np.broadcast_to(operator.problem.loss, operator.grid.shape))
        channels.append(("loss", loss / mass.ravel()))
    leave = sum((rate for _, rate in channels), np.zeros(mass.size))
    return JumpRates(faces.reshape(-1, 6), leave, channels)


def _feed(operator: Operator, until: float) -> np.ndarray:
    """Content that enters each cell until the end, flat; refused where it is negative or moves in time."""
    if not operator.forcing.constant:
        raise ProblemError(
            "sides or sources change in time; walkers enter at uniform times, so they must be steady. Use simulate(), or "
            "walk piece by piece with steady data."
        )
    feed = operator.forcing(0.0).ravel() * until
    if feed.min() < 0:
        raise ProblemError(
            f"sources or sides withdraw content ({feed.min() / max(until, 1e-300):g} per second in one cell); walkers can "
            "enter but not be owed. Shift u so that all data are >= 0, or use simulate()."
        )
    return feed


def _jumps(prob, start, until, particles, dt, seed, potential) -> Walk:
    from .kernels.walk import BLOCK, jump

    if dt != "auto":
        raise ProblemError(f'dt = {dt!r}: jumps are exact in time and take no step; leave dt="auto".')
    operator = discretize(prob)
    rates = jump_rates(operator, potential)
    total = rates.total
    content, _ = _start_content(start, operator)
    feed = _feed(operator, until)
    amount = math.fsum(content) + math.fsum(feed)
    if amount <= 0:
        raise ProblemError("start is 0 everywhere and nothing enters: there is nothing to walk.")
    mean_rate = float((total * (content + feed / 2)).sum() / amount)
    if particles * mean_rate * until > MOST_JUMPS:
        raise ResourceError(
            f"about {particles * mean_rate * until:.1e} jumps ({particles} walkers, {mean_rate:.3g} jumps per second each,"
            f" for {until:g} s) exceed the limit of {MOST_JUMPS:.0e}; walk fewer, shorter or on a coarser grid, or use "
            'motion="brownian" where D is smooth.'
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    first = round(particles * math.fsum(content) / amount)
    cells = np.concatenate(
        [_share(rng, part, count) for part, count in ((content, first), (feed, particles - first)) if count]
    ).astype(np.int64)
    times = np.zeros(particles)
    times[first:] = rng.uniform(0, until, particles - first)
    exits = np.full(particles, -1.0)
    table = _running_table(rates)
    streams = _streams(seed, particles)
    strides = np.array([operator.shape[1] * operator.shape[2], operator.shape[2], 1])
    shape = np.array(operator.shape)
    moves = 0
    for k in range(0, len(streams), _CHUNK):  # in chunks, so that a long walk can be interrupted
        part = slice(k * BLOCK, (k + _CHUNK) * BLOCK)
        done = jump(
            streams[k : k + _CHUNK], table, total, strides, (shape - 1) * strides, shape, until,
            times[part], cells[part], exits[part],
        )  # fmt: skip
        moves += int(done.sum())
    inside = exits < 0
    counts = np.bincount(cells[inside], minlength=total.size)
    absorbed = _ways_out(rates, cells[~inside], exits[~inside])
    return Walk(
        counts.reshape(prob.grid.shape), until, particles, amount / particles, absorbed, moves,
        _mass_or_nan(operator),
    )  # fmt: skip


def _running_table(rates: JumpRates) -> np.ndarray:
    """Running sums of the face probabilities; where there is no way out, the last open face takes what
    rounding left."""
    total = rates.total
    table = np.divide(
        np.cumsum(rates.faces, axis=1),
        total[:, None],
        out=np.zeros_like(rates.faces),
        where=total[:, None] > 0,
    )
    last_open = 5 - np.argmax(rates.faces[:, ::-1] > 0, axis=1)
    closed = (rates.exit == 0)[:, None] & (np.arange(6) >= last_open[:, None])
    table[closed] = 2.0
    return table


def _ways_out(rates: JumpRates, cells: np.ndarray, draws: np.ndarray) -> dict[str, int]:
    """Count the leavers per channel: a draw in [0, 1] picks in proportion to the channels' rates in the last
    cell."""
    absorbed = {}
    left = draws * rates.exit[cells]
    undecided = np.ones(cells.size, dtype=bool)
    for k, (name, rate) in enumerate(rates.channels):
        here = undecided & (left < rate[cells]) if k < len(rates.channels) - 1 else undecided.copy()
        absorbed[name] = int(here.sum())
        undecided &= ~here
        left -= rate[cells]
    return absorbed


def _mass_or_nan(operator: Operator) -> np.ndarray:
    return np.where(operator.free, operator.mass, np.nan).reshape(operator.grid.shape)


# --- Brownian walkers
# ---------------------------------------------------------------------------------------------


def _brownian(prob, start, until, particles, dt, seed, potential) -> Walk:
    from .kernels.walk import BLOCK, brown

    grid = prob.grid
    operator = discretize(prob)
    kinds = _end_kinds(prob)
    lead = operator.lead
    d = prob.diffusivity.values if isinstance(prob.diffusivity, PerAxis) else (prob.diffusivity,) * grid.ndim
    nodes, offsets, extend = _lattice(grid, kinds)
    fields = [np.zeros((1, 1, 1))] * lead + [extend(x) for x in d]
    capacity = extend(prob.capacity)
    levels = extend(0.0 if potential is None else potential)
    step = _brownian_step(dt, until, (*d, prob.capacity, 0.0 if potential is None else potential), kinds, grid)
    steps = max(1, math.ceil(until / step * (1 - 1e-12))) if until > 0 else 0

    content, point = _start_content(start, operator)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    cells = _share(rng, content, particles)
    x = np.zeros((particles, 3))
    for a, index in enumerate(np.unravel_index(cells, grid.shape)):
        edge = grid.edges[a]
        x[:, lead + a] = (
            point[a] if point is not None else edge[index] + rng.uniform(size=particles) * np.diff(edge)[index]
        )
    lows = np.array([0.0] * lead + [e[0] for e in grid.edges])
    highs = np.array([1.0] * lead + [e[-1] for e in grid.edges])
    out, exits = np.empty_like(x), np.empty(particles, np.int64)
    streams = _streams(seed, particles)
    for k in range(0, len(streams), _CHUNK):
        part = slice(k * BLOCK, (k + _CHUNK) * BLOCK)
        brown(
            streams[k : k + _CHUNK], x[part], lead, lows, highs, kinds, nodes, offsets, *fields, capacity, levels,
            prob.loss / prob.capacity if np.any(prob.loss) else 0.0,
            potential is not None, until / max(steps, 1), steps, out[part], exits[part],
        )  # fmt: skip
    alive = exits < 0
    positions = out[alive, lead:]
    inside = [
        np.clip(np.searchsorted(edge, positions[:, a], side="right") - 1, 0, len(edge) - 2)
        for a, edge in enumerate(grid.edges)
    ]
    counts = np.bincount(np.ravel_multi_index(inside, grid.shape), minlength=grid.size).reshape(grid.shape)
    names = {2 * (lead + a) + end: f"{axis}{'-+'[end]}" for a, axis in enumerate(grid.axes) for end in (0, 1)}
    absorbed = {name: int((exits == k).sum()) for k, name in names.items() if kinds.flat[k] == 1}
    if np.any(prob.loss):
        absorbed["loss"] = int((exits == 6).sum())
    weight = math.fsum(content) / particles
    return Walk(counts, until, particles, weight, absorbed, steps * particles, _mass_or_nan(operator), positions)


def _end_kinds(prob: Problem) -> np.ndarray:
    """(3, 2) int64: 0 reflects, 1 absorbs, 2 periodic; whatever Brownian walkers cannot do is refused."""
    grid = prob.grid

    def refuse(what: str) -> ProblemError:
        return ProblemError(f'Brownian walkers do not know {what}; use motion="jumps", which does, or simulate().')

    if grid.geometry != "cartesian":
        raise refuse(f"a {grid.geometry} grid")
    if prob.active is not None or prob.fixed is not None:
        raise refuse("void or held cells")
    if prob.contacts:
        raise refuse("contact resistances")
    if not prob.source.constant or np.any(prob.source.steady):
        raise refuse("sources")
    if np.ndim(prob.loss) or (np.any(prob.loss) and np.ndim(prob.capacity)):
        raise refuse("a loss or capacity that varies beside a loss")
    if np.any(prob.loss) and not (prob.ambient.constant and not np.any(prob.ambient.steady)):
        raise refuse("a loss to an ambient other than 0")
    kinds = np.zeros((3, 2), np.int64)
    for a, axis in enumerate(grid.axes):
        for end in (0, 1):
            side = prob.boundary[f"{axis}{'-+'[end]}"]
            value = getattr(side, "value", getattr(side, "flux", 0.0))
            if side.kind not in ("value", "flux", "periodic") or callable(value) or np.any(value):
                raise refuse(f"the side {axis}{'-+'[end]} (only zero values, zero fluxes and periodic sides)")
            kinds[3 - grid.ndim + a, end] = {"flux": 0, "value": 1, "periodic": 2}[side.kind]
    values = prob.diffusivity.values if isinstance(prob.diffusivity, PerAxis) else (prob.diffusivity,)
    for d in (*values, prob.capacity):
        if np.ndim(d) and any(_steepest(np.asarray(d), axis) > 2 for axis in range(grid.ndim)):
            raise refuse("coefficients that jump (more than a factor of 2 between neighbours)")
    return kinds


def _steepest(d: np.ndarray, axis: int) -> float:
    if d.shape[axis] < 2:
        return 1.0
    if d.min() <= 0:
        return math.inf
    return float(np.exp(np.abs(np.diff(np.log(d), axis=axis)).max()))


def _lattice(grid, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Nodes of the three padded axes in one array, their offsets (4,), and a function that puts a cell field
    on them.

    The nodes are the cell centres and one more at each end: at the wall with the value of the last cell, or
    wrapped.
    """
    lead = 3 - grid.ndim
    nodes = [np.array([0.5])] * lead
    for a, c in enumerate(grid.centers):
        if kinds[lead + a, 0] == 2:
            nodes.append(np.concatenate([[c[-1] - grid.lengths[a]], c, [c[0] + grid.lengths[a]]]))
        else:
            nodes.append(np.concatenate([[grid.edges[a][0]], c, [grid.edges[a][-1]]]))

    def extend(value) -> np.ndarray:
        if np.ndim(value) == 0:
            return np.full((1, 1, 1), float(value))
        cells = np.asarray(value, float)
        for a in range(grid.ndim):
            width = [(1, 1) if b == a else (0, 0) for b in range(grid.ndim)]
            cells = np.pad(cells, width, mode="wrap" if kinds[lead + a, 0] == 2 else "edge")
        return np.ascontiguousarray(cells.reshape((1,) * lead + cells.shape))

    return np.concatenate(nodes), np.cumsum([0, *map(len, nodes)]), extend


def _brownian_step(dt, until: float, fields, kinds: np.ndarray, grid) -> float:
    """The step as given, or one whose rms move suits the walls and the coefficients.

    With constant coefficients and no absorbing side one step is exact (folding is the method of images). An
    absorbing side wants the opposite wall ten rms moves away. A coefficient that varies over a length l =
    1/|d ln D| costs a weak error of first order in (move / l)^2: the local rms move is at most l / 8.
    """
    if dt != "auto":
        return number("dt", dt, above=0.0)
    *diffusivities, capacity, potential = fields
    kappa = max(float(np.max(d) / np.min(capacity)) for d in diffusivities)
    if kappa == 0:
        return max(until, 1e-300)
    varies = any(np.ndim(f) for f in fields)
    step = math.inf
    if varies or (kinds == 1).any():
        step = (min(grid.lengths) / 10) ** 2 / (2 * kappa)
    for a in range(grid.ndim if varies else 0):
        lower, upper = (slice(None),) * a + (slice(None, -1),), (slice(None),) * a + (slice(1, None),)
        gap = grid._along(a, np.diff(grid.centers[a]))
        local = np.broadcast_to(
            np.maximum.reduce([d / capacity for d in np.broadcast_arrays(*diffusivities)]), grid.shape
        )
        local = np.maximum(local[lower], local[upper])
        for logs in (*(np.log(np.maximum(f, 1e-300)) for f in (*diffusivities, capacity)), potential):
            if np.ndim(logs):
                slope = np.abs(logs[upper] - logs[lower]) / gap
                step = min(step, float(np.min(1 / 128 / np.maximum(local * slope**2, 1e-300), initial=math.inf)))
    return min(step, max(until, 1e-300))


_MOTIONS = {"jumps": _jumps, "brownian": _brownian}
