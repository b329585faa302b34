"""Refinement of a user's own problem: observed orders, and how far the results on the user's grid are from
converged.

Three grids, each with every cell of the last cut into equal parts. Coefficients, masks and other data per
cell or face stay what they are on the original cells; functions of position are evaluated on the new ones.
What changes from grid to grid is then the discretisation alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .boundary import Dirichlet, Neumann, Patches, Radiation, Robin
from .data import Data, TimeSeries
from .errors import ProblemError
from .grid import Grid
from .problem import OfTime, PerAxis, Problem, Tensor

SAFETY = 1.25  # factor of the grid convergence index on three grids (Roache 1994)
FIELD = "field (L2)"  # its "values" are distances from the first level
ROUNDING = 1e-9  # relative differences below this say nothing of an order


@dataclass(frozen=True)
class Convergence:
    """One quantity on three levels of refinement, coarsest (the user's) first."""

    name: str
    values: tuple[float, float, float]
    ratio: float  # of successive refinements
    scale: float  # size that relative statements refer to

    @property
    def differences(self) -> tuple[float, float]:
        """Change from the first level to the second, and from there to the third."""
        first, second, third = self.values
        return second - first, third - second

    @property
    def settled(self) -> bool:
        """The levels agree to rounding: there is no error to see."""
        return max(map(abs, self.differences)) <= ROUNDING * self.scale

    @property
    def order(self) -> float:
        """Observed order ``ln |d1 / d2| / ln ratio``; NaN where the values oscillate, do not converge or
        agree to rounding."""
        first, second = self.differences
        if self.settled or second == 0 or first / second <= 1:
            return math.nan
        return math.log(first / second) / math.log(self.ratio)

    @property
    def limit(self) -> float:
        """Richardson's extrapolation to infinite refinement; the finest value where no order is seen."""
        if math.isnan(self.order):
            return self.values[2]
        return self.values[2] + self.differences[1] / (self.ratio**self.order - 1)

    @property
    def error(self) -> float:
        """Estimated error of the value on the user's own level."""
        if math.isnan(self.order):
            return 0.0 if self.settled else max(self.values) - min(self.values)
        return abs(self.limit - self.values[0])

    @property
    def index(self) -> float:
        """Grid convergence index of the finest level: a relative error bar with the customary safety of
        1.25."""
        if self.settled:
            return 0.0
        if math.isnan(self.order):
            return 3 * (max(self.values) - min(self.values)) / self.scale  # Roache's factor where no order is observed
        return SAFETY * abs(self.limit - self.values[2]) / self.scale

    @property
    def verdict(self) -> str:
        """One word or two."""
        if self.settled:
            return "exact"
        if math.isnan(self.order):
            first, second = self.differences
            return "oscillates" if first * second < 0 else "not converging"
        return f"order {self.order:.2f}"


@dataclass(frozen=True)
class Verification:
    """What refinement in space, and for runs in time, says of a problem."""

    space: tuple[Convergence, ...]
    time: tuple[Convergence, ...]
    shapes: tuple[tuple[int, ...], ...]  # grids used
    steps: tuple[int, ...]  # numbers of time steps used, empty for steady problems
    scheme: str  # of the refinement in time, "" for steady problems

    @property
    def ok(self) -> bool:
        """Content, flows and field converge, or agree to rounding.

        Extremes are reported but not judged: they are read at cell centres, which lie elsewhere on every
        grid.
        """
        judged = [c for c in (*self.space, *self.time) if c.name not in ("maximum", "minimum")]
        return all(c.settled or not math.isnan(c.order) for c in judged)

    def rows(self) -> list[dict[str, Any]]:
        """One record per quantity and direction of refinement, for tables and JSON."""
        return [
            {
                "refined": direction,
                "quantity": c.name,
                "value": c.values[0],
                "limit": c.limit,
                "order": c.order,
                "error": c.error,
                "error_relative": c.error / c.scale,
                "index": c.index,
                "verdict": c.verdict,
            }
            for direction, group in (("space", self.space), ("time", self.time))
            for c in group
        ]

    def explain(self) -> str:
        """The findings in words, one line per quantity."""
        lines = [f"space: {' -> '.join(' x '.join(map(str, shape)) for shape in self.shapes)}"]
        lines += [_line(c) for c in self.space]
        if self.time:
            lines.append(f"time: {self.scheme}, {' -> '.join(map(str, self.steps))} steps")
            lines += [_line(c) for c in self.time]
        return "\n".join(lines)


def _line(c: Convergence) -> str:
    if c.name == FIELD:
        return (
            f"  {c.name:<16} {'':>14}  {c.verdict:<14} estimated error {c.error:.2e} ({c.error / c.scale:.1e} relative)"
        )
    return (
        f"  {c.name:<16} {c.values[0]:>14.7g}  {c.verdict:<14} estimated error {c.error:.2e} "
        f"({c.error / c.scale:.1e} relative), limit {c.limit:.7g}"
    )


def verify(
    problem: Problem,
    initial: Any = None,
    until: float | None = None,
    *,
    scheme: str = "auto",
    dt: float | str = "auto",
    factor: int = 2,
) -> Verification:
    """Refine a problem twice and report observed orders and error estimates.

    Quantities: the total content, the largest and smallest value, the field itself (L2 difference between
    levels, on the user's cells), and the flow through every side that lets something pass.

    Parameters
    ----------
    initial
        Initial state, as for `simulate`; for steady problems only where the sides do not fix the mean.
    until
        End time; None verifies the steady state.
    scheme, dt
        As for `simulate`; refined in time on the user's grid (`dt`, `dt`/2, `dt`/4). Exact schemes have no
        error in time.
    factor
        Parts into which each cell is cut per refinement.

    Raises
    ------
    ProblemError
        If `factor` is below 2 or an `initial` is missing.

    Notes
    -----
    Grid convergence index: P. J. Roache, J. Fluids Eng. 116 (1994) 405; I. B. Celik et al., J. Fluids Eng.
    130 (2008) 078001. Extrapolation: L. F. Richardson, Phil. Trans. R. Soc. A 210 (1911) 307.
    """
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
        raise ProblemError(f"factor = {factor!r} must be a whole number of at least 2.")
    if until is not None and initial is None:
        raise ProblemError("initial is missing: the state at t = 0 of the run to be verified.")
    problems = [problem, refined(problem, factor), refined(problem, factor**2)]
    starts = [_start(initial, problem, p) for p in problems]
    if until is None:
        states = [_steady(p, u0) for p, u0 in zip(problems, starts, strict=True)]
    else:
        # time must not blur what is seen of space
        states = [_run(p, u0, until, "auto", "auto", 1e-7) for p, u0 in zip(problems, starts, strict=True)]
    space = _compare(
        [s.measures for s in states],
        [_coarsened(s.u, p, problem) for s, p in zip(states, problems, strict=True)],
        problem,
        factor,
    )
    time: tuple[Convergence, ...] = ()
    steps: tuple[int, ...] = ()
    used = ""
    if until is not None:
        time, steps, used = _refine_time(problem, starts[0], until, scheme, dt)
    return Verification(space, time, tuple(p.grid.shape for p in problems), steps, used)


# --- one level
# ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _State:
    u: np.ndarray
    measures: dict[str, float]


def _measures(problem: Problem, u: np.ndarray, flow: Callable[[str], float]) -> dict[str, float]:
    weight = np.broadcast_to(problem.capacity * problem.grid.volumes, u.shape)
    result = {
        "content": float(np.nansum(weight * u)),
        "maximum": float(np.nanmax(u)),
        "minimum": float(np.nanmin(u)),
    }
    for side, what in problem.boundary.items():
        insulated = what.kind == "flux" and np.ndim(what.flux) == 0 and not callable(what.flux) and what.flux == 0
        if side != "void" and what.kind != "periodic" and not insulated:
            result[f"flow {side}"] = flow(side)
    return result


def _steady(problem: Problem, initial) -> _State:
    from .equilibrium import equilibrium

    found = equilibrium(problem, tol=1e-11, initial=initial)
    return _State(found.u, _measures(problem, found.u, found.flow))


def _run(problem: Problem, initial, until: float, scheme: str, dt, tol: float | None) -> _State:
    from .simulate import simulate

    run = simulate(problem, initial, until, scheme=scheme, dt=dt, tol=tol, save="final", progress=False)
    return _State(run.final, _measures(problem, run.final, lambda side: float(np.ravel(run.flow(side))[-1])))


def _refine_time(problem, initial, until, scheme, dt) -> tuple[tuple[Convergence, ...], tuple[int, ...], str]:
    from .schemes import scheme_of
    from .simulate import simulate

    first = simulate(problem, initial, until, scheme=scheme, dt=dt, save="final", progress=False)
    used = first.scheme
    if not math.isfinite(scheme_of(used).order):
        return (), (), used
    count = max(1, math.ceil(until / dt * (1 - 1e-12))) if dt != "auto" else max(1, int(str(first.stats["steps"])))
    counts = (count, 2 * count, 4 * count)
    states = [_run(problem, initial, until, used, until / n, None) for n in counts]
    return _compare([s.measures for s in states], [s.u for s in states], problem, 2), counts, used


def _compare(measures, fields, problem: Problem, ratio: int) -> tuple[Convergence, ...]:
    """Every measure on three levels; the field as its distance from the finest level."""
    span = max(float(np.nanmax(fields[2]) - np.nanmin(fields[2])), float(np.nanmax(np.abs(fields[2]))) * 1e-3, 1e-300)
    flows = max((abs(v) for k, v in measures[2].items() if k.startswith("flow")), default=0.0)
    scales = {"maximum": span, "minimum": span, "content": max(abs(measures[2]["content"]), 1e-300)}
    result = [
        Convergence(name, tuple(m[name] for m in measures), float(ratio), scales.get(name, max(flows, 1e-300)))
        for name in measures[2]
    ]
    weight = np.where(np.isnan(fields[0]), 0.0, problem.grid.volumes)
    distance = [math.sqrt(float(np.nansum(weight * (fields[k + 1] - fields[k]) ** 2) / weight.sum())) for k in (0, 1)]
    # distances, not values: put so that the differences of the three "values" are them
    result.append(Convergence(FIELD, (0.0, distance[0], distance[0] + distance[1]), float(ratio), span))
    return tuple(result)


def _start(initial, coarse: Problem, fine: Problem):
    if initial is None or callable(initial) or np.ndim(initial) == 0:
        return initial
    return _spread(np.asarray(initial, float), coarse.grid, fine.grid)


def _coarsened(u: np.ndarray, problem: Problem, coarse: Problem) -> np.ndarray:
    """Volume-weighted means over the user's cells."""
    parts = problem.grid.shape[0] // coarse.grid.shape[0]
    if parts == 1:
        return u
    split = [n for size in coarse.grid.shape for n in (size, parts)]
    inner = tuple(range(1, 2 * u.ndim, 2))
    volumes = np.broadcast_to(problem.grid.volumes, u.shape)
    return (u * volumes).reshape(split).sum(axis=inner) / volumes.reshape(split).sum(axis=inner)


# --- a finer grid
# -----------------------------------------------------------------------------------------------------


def refined(problem: Problem, factor: int) -> Problem:
    """The same problem on a grid whose every cell is cut into `factor` equal parts along every axis."""
    old = problem.grid
    if old.uniform or (old.geometry != "cartesian" and all(np.ptp(w) < 1e-12 * w.max() for w in old.widths)):
        grid = Grid(tuple(factor * n for n in old.shape), old.lengths, old.geometry, old.origin)
    else:
        parts = np.arange(factor) / factor
        edges = [np.append((e[:-1, None] + np.diff(e)[:, None] * parts).ravel(), e[-1]) for e in old.edges]
        grid = Grid.from_edges(edges, old.geometry)

    def cells(value):
        return _spread_value(value, old.shape, factor)

    d = problem.diffusivity
    if isinstance(d, PerAxis):
        d = PerAxis(tuple(map(cells, d.values)))
    elif isinstance(d, Tensor):
        d = Tensor(cells(d.xx), cells(d.xy), cells(d.yy))
    elif isinstance(d, OfTime):
        d = OfTime(lambda t, f=d.f: cells(np.asarray(f(t), float)))
    elif not callable(getattr(d, "f", None)):
        d = cells(d)
    boundary = {
        side: _refined_side(what, old.shape if side == "void" else old.side_shape(side), factor)
        for side, what in problem.boundary.items()
    }
    contacts = tuple(
        (axis, position, _spread_value(resistance, old.side_shape(f"{axis}-"), factor))
        for axis, position, resistance in problem.contacts
    )
    return Problem(
        grid,
        d,
        capacity=cells(problem.capacity),
        loss=cells(problem.loss),
        ambient=_refined_data(problem.ambient, old.shape, factor),
        source=_refined_data(problem.source, old.shape, factor),
        active=None if problem.active is None else cells(problem.active),
        fixed=None if problem.fixed is None else tuple(map(cells, problem.fixed)),
        boundary=boundary,
        contacts=contacts,
        reaction=problem.reaction,
    )


def _refined_side(what, shape, factor: int):
    def over(value):
        return _refined_given(value, shape, factor)

    if isinstance(what, Dirichlet):
        return Dirichlet(over(what.value))
    if isinstance(what, Neumann):
        return Neumann(over(what.flux))
    if isinstance(what, Robin):
        return Robin(over(what.h), over(what.ambient))
    if isinstance(what, Radiation):
        return Radiation(over(what.emissivity), over(what.ambient), what.sigma)
    if isinstance(what, Patches):
        patches = [
            (_spread_value(mask, shape, factor), _refined_side(side, shape, factor)) for mask, side in what.patches
        ]
        return Patches(_refined_side(what.default, shape, factor), patches)
    return what  # periodic


def _refined_data(data: Data, shape, factor: int):
    return _refined_given(data.given, shape, factor)


def _refined_given(value, shape, factor: int):
    """A user's datum for the finer grid: arrays are spread, in functions of time at every call; the rest
    stays."""
    if isinstance(value, TimeSeries):
        if value.values.ndim == 1:
            return value
        return TimeSeries(value.times, np.stack([_spread_value(v, shape, factor) for v in value.values]))
    if callable(value):
        import inspect

        if len(inspect.signature(value).parameters) > 1:  # of position: the finer grid has its own coordinates
            return value
        return lambda t: _spread_value(np.asarray(value(t), float), shape, factor)
    return _spread_value(value, shape, factor)


def _spread_value(value, shape, factor: int):
    """An array of `shape` with every entry repeated `factor` times along every axis; numbers as they are."""
    if np.ndim(value) == 0:
        return float(value) if isinstance(value, np.ndarray) else value
    spread = np.broadcast_to(np.asarray(value), shape)
    for axis in range(spread.ndim):
        spread = np.repeat(spread, factor, axis=axis)
    return spread


def _spread(value: np.ndarray, coarse: Grid, fine: Grid) -> np.ndarray:
    return _spread_value(value, coarse.shape, fine.shape[0] // coarse.shape[0])
