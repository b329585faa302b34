"""The step check: is (operator, scheme, dt) stable, free of new extrema, free of oscillation; and if not, what to do.

The chain of the proof: `Operator.spectral_bound` is never below rho(A), the spectrum of A is real and non-negative
(A is similar to a symmetric positive semidefinite matrix), and `Scheme.real_limit` is the largest x with ``|R| <= 1``
on [-x, 0]. So ``dt <= real_limit / bound`` keeps every mode from growing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from .data import number
from .errors import ProblemError, StabilityError
from .operator import Operator, discretize
from .problem import OfGradient, OfState, OfTime, Problem
from .schemes import SCHEMES, Scheme, Stabilized, scheme_of, within

__all__ = [
    "Spectrum",
    "Verdict",
    "allowed_step",
    "check_step",
    "mesh_fourier",
    "positive_step",
    "spectrum",
    "stability",
]

_BOUND_TEXT = {
    "exact": "exact, in closed form",
    "gershgorin": "upper bound by Gershgorin's circles",
    "collatz": "upper bound by Collatz' quotients",
}


@dataclass(frozen=True)
class Verdict:
    """What a step of a scheme does to a problem.

    Attributes
    ----------
    stable
        Whether no mode grows at `dt`; without `dt`, whether some positive step is stable (always so for diffusion).
    dt_limit
        Largest stable step [s]; inf where every step is stable. Also inf for rkl1, rkl2 and rkc2, whose stage count
        grows with the step (see `stages`), and for "auto", which picks a scheme that is stable.
    dt_positive
        Largest step [s] that is guaranteed to make no new extrema; 0 where there is none, inf where every step is one.
    fourier
        Mesh Fourier number ``D dt / c * sum 1/dx^2`` of `dt` (of `dt_limit` without `dt`), the largest of any cell.
    spectral_radius, bound_kind
        Rigorous upper bound of rho(A) [1/s], and where it comes from: "exact" | "gershgorin" | "collatz".
    oscillating
        Whether some mode oscillates from step to step at `dt` (at `dt_limit` without `dt`): R is not real and >= 0 on
        the whole spectrum.
    stages
        Stages the step takes, where the scheme chooses them and `dt` is given; else None.
    scheme, dt
        What was asked.
    """

    stable: bool
    dt_limit: float
    dt_positive: float
    fourier: float
    spectral_radius: float
    bound_kind: str
    oscillating: bool
    scheme: str
    dt: float | None
    stages: int | None = None
    ways_out: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def explain(self) -> str:
        """One paragraph: value, limit, where it comes from, the largest legal step, and the ways out."""
        title = "The automatic choice" if self.scheme == "auto" else SCHEMES[self.scheme].title
        radius = f"spectral radius {self.spectral_radius:.6g} 1/s ({_BOUND_TEXT[self.bound_kind]})"
        sentences = []
        if self.dt is not None:
            what = "stable" if self.stable else "unstable"
            stages = f", {self.stages} stage{'s' if self.stages > 1 else ''}" if self.stages else ""
            sentences.append(
                f"{title} at dt = {self.dt:.6g} s is {what} (mesh Fourier number {self.fourier:.4g}{stages})."
            )
        if self.scheme == "auto":
            sentences.append(f"It picks a scheme that is stable at the step it takes; {radius}.")
        elif math.isfinite(self.dt_limit):
            limit = SCHEMES[self.scheme].real_limit()
            sentences.append(
                f"{'Its' if self.dt is not None else title + ': the'} largest stable step on this grid is "
                f"{_legal(self.dt_limit)} s = real stability interval {limit:.6g} / {radius}."
            )
        elif isinstance(SCHEMES[self.scheme], Stabilized):
            sentences.append(
                f"{'It' if self.dt is not None else title} has no largest step: its stage count grows with the square "
                f"root of dt * rho, {radius}."
            )
        else:
            sentences.append(f"{'It' if self.dt is not None else title} is stable at every step; {radius}.")
        if self.dt_positive == 0.0:
            sentences.append("No step is guaranteed to make no new extrema.")
        elif math.isinf(self.dt_positive):
            sentences.append("No step makes new extrema.")
        else:
            sentences.append(f"No new extrema are made up to dt = {_legal(self.dt_positive)} s.")
        if self.oscillating and self.stable:
            at = "this step" if self.dt is not None else "its largest steps"
            sentences.append(f"At {at} some short-wave modes oscillate from step to step.")
        if not self.stable:
            sentences.append("Ways out: " + "; ".join(self.ways_out) + ".")
        return " ".join([*sentences, *self.notes])

    def plot(self, path: str | Path | None = None):
        """``|R|`` along the negative real axis with the reach of the spectrum; returns the Figure."""
        from . import plots

        return plots.verdict(self, path=path)


def stability(
    problem: Problem | Operator,
    scheme: str | Scheme = "ftcs",
    dt: float | None = None,
    *,
    tighten: bool = True,
    u: Any = None,
    t: float = 0.0,
) -> Verdict:
    """Judge a step before it is taken.

    A `dt` exactly at the limit is stable; the comparison has 16 ulp of slack, because the limit is itself rounded.

    Parameters
    ----------
    problem
        A `Problem`, or an `Operator` already made of one.
    scheme
        A name of the table, or "auto".
    dt
        Step [s]; None asks for the limits alone.
    tighten
        Sharpen the bound of the spectral radius by Collatz' quotients where no closed form exists (about 20 products);
        False leaves Gershgorin's, which can be up to twice too large. `simulate` checks against the sharp one.
    u, t
        State (number, array of grid.shape or callable) and time [s] at which coefficients that depend on them are
        taken; the state is needed for D(u), D(|grad u|) and radiating sides only.

    Raises
    ------
    ProblemError
        If the scheme is unknown, dt is not a positive finite number, or a state is needed and missing.
    """
    operator = _operator(problem, u, t)
    step = None if dt is None else _checked_dt(dt)
    bound = operator.spectral_bound(sharp=tighten)
    rho = float(bound.value)
    fourier_per_dt = mesh_fourier(operator)
    notes = _notes(operator)
    if isinstance(scheme, str) and scheme == "auto":
        return Verdict(
            stable=True,
            dt_limit=math.inf,
            dt_positive=0.0,
            fourier=math.inf if step is None else fourier_per_dt * step,
            spectral_radius=rho,
            bound_kind=bound.kind,
            oscillating=False,
            scheme="auto",
            dt=step,
            notes=notes,
        )
    row = scheme_of(scheme)
    limit = _limit(row, rho)
    stable = True if step is None else within(step, limit)
    at = limit if step is None else step
    return Verdict(
        stable=stable,
        dt_limit=limit,
        dt_positive=positive_step(operator, row, rho),
        fourier=fourier_per_dt * at if fourier_per_dt else 0.0,
        spectral_radius=rho,
        bound_kind=bound.kind,
        oscillating=_oscillates(row, at * rho if rho else 0.0),
        scheme=row.name,
        dt=step,
        stages=row.stages_for(step * rho) if row.stages is None and step is not None and stable else None,
        ways_out=() if stable else _ways_out(operator, row, step or 0.0, rho, limit),
        notes=notes,
    )


def allowed_step(operator: Operator, scheme: Scheme, stages: int | None = None) -> float:
    """Largest stable step of `scheme` on `operator` [s], for `stages` stages where given; inf where there is none."""
    return _limit(scheme, operator.spectral_bound().value, stages)


def check_step(operator: Operator, scheme: Scheme, dt: float, stages: int | None = None) -> None:
    """Return if a step of `dt` is stable.

    Raises
    ------
    StabilityError
        With the value, the limit and where it comes from, the largest legal step, and the ways out.
    ProblemError
        If dt is not a positive finite number.
    """
    dt = _checked_dt(dt)
    if is_proved(operator, scheme, dt, stages):
        return
    bound = operator.spectral_bound()
    limit = _limit(scheme, bound.value, stages)
    fourier = mesh_fourier(operator) * dt
    count = f" with {stages} stages" if stages is not None else ""
    raise StabilityError(
        f"dt = {dt:.6g} s is unstable for {scheme.name}{count}: the limit on this grid is {_legal(limit)} s "
        f"(real stability interval {scheme.real_limit(stages):.6g} / spectral radius {bound.value:.6g} 1/s, "
        f"{bound.kind}; mesh Fourier number {fourier:.4g}, at most {fourier * limit / dt:.4g}). "
        f"Ways out: {'; '.join(_ways_out(operator, scheme, dt, bound.value, limit))}."
    )


def is_proved(operator: Operator, scheme: Scheme, dt: float, stages: int | None = None) -> bool:
    """Whether a step of `dt` is proved stable: by the bound that costs least, where that is enough."""
    bounds = (operator.spectral_bound(sharp=sharp).value for sharp in (False, True))
    return any(within(dt, _limit(scheme, bound, stages)) for bound in bounds)


def mesh_fourier(operator: Operator) -> float:
    """Largest ``D / c * sum 1/dx^2`` of any cell [1/s]: the mesh Fourier number per second of step."""
    grid, problem = operator.grid, operator.problem
    facts = operator.uniform
    if facts is not None:  # no array of the size of the grid is needed
        rates = (d / h**2 for d, h in zip(facts.diffusivity, facts.spacing, strict=True))
        return sum(rates) / facts.capacity
    total = np.zeros((1,) * grid.ndim)
    for axis in range(grid.ndim):
        widths = grid.widths[axis].reshape([-1 if a == axis else 1 for a in range(grid.ndim)])
        total = total + np.asarray(operator._along(axis)) / widths**2
    capacity = np.asarray(problem.capacity)
    if problem.active is not None:
        total = np.broadcast_to(total, grid.shape)[problem.active]
        capacity = capacity[problem.active] if capacity.ndim else capacity
    return float(np.max(total / capacity))


def positive_step(operator: Operator, scheme: Scheme, rho: float | None = None) -> float:
    """Largest step [s] guaranteed to make no new extrema: positivity radius / max A_ii.

    0 for a full tensor D, whose off-diagonal couplings have both signs. For schemes that choose their stages the radius
    is that of the stage count such a step takes.
    """
    if operator.cross is not None:
        return 0.0
    diagonal = operator.max_diagonal
    if diagonal == 0.0:
        return math.inf
    if scheme.stages is not None:
        return scheme.positivity() / diagonal
    rho = operator.spectral_bound().value if rho is None else rho
    assert isinstance(scheme, Stabilized)
    for s in scheme.degrees:  # rho <= 2 max A_ii: the first or second count always ends this
        positive = scheme.positivity(s) / diagonal
        if within(positive, scheme.real_limit(s) / rho):
            return positive
    return 0.0


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of A [1/s], ascending, and what they are worth.

    `kind` is "exact" (closed form; of large grids an even sample with both ends), "dense" (all of them), or "ritz":
    Lanczos' estimates, which lie inside the spectrum and prove nothing. `bound` is the proven end.
    """

    values: np.ndarray
    kind: str
    bound: float


def spectrum(operator: Operator, most: int = 600) -> Spectrum:
    """Eigenvalues of ``A = m^-1 K``: closed form, all of them on up to `most` cells, else Lanczos' estimates."""
    bound = operator.spectral_bound().value
    box = operator.uniform
    if box is not None and box.transformable:
        axes = [np.sort(box.axis_eigenvalues(a)) for a in range(3)]
        each = max(2, round(4096 ** (1 / max(1, sum(axis.size > 1 for axis in axes)))))
        axes = [
            axis[np.unique(np.linspace(0, axis.size - 1, min(each, axis.size)).round().astype(int))] for axis in axes
        ]
        total = axes[0][:, None, None] + axes[1][:, None] + axes[2] + box.loss
        return Spectrum(np.sort(total.ravel()) / box.capacity, "exact", bound)
    free = operator.free.ravel()
    root = np.where(operator.free, 1.0 / np.sqrt(operator.mass), 0.0)
    if np.count_nonzero(free) <= most:
        K = operator.matrix().toarray()[np.ix_(free, free)]
        root = root.ravel()[free]
        return Spectrum(np.maximum(np.linalg.eigvalsh(root[:, None] * K * root), 0.0), "dense", bound)
    return Spectrum(_ritz_values(lambda v: root * operator.apply(root * v), root > 0), "ritz", bound)


def _ritz_values(apply: Callable[[np.ndarray], np.ndarray], support: np.ndarray, steps: int = 60) -> np.ndarray:
    """Return Lanczos' estimates of the eigenvalues of a symmetric operator, with full reorthogonalisation."""
    v = np.random.default_rng(0).normal(size=support.shape) * support
    basis = [v / np.linalg.norm(v)]
    diagonal, side = [], []
    for _ in range(steps):
        w = apply(basis[-1])
        diagonal.append(float(np.vdot(basis[-1], w)))
        for _twice in range(2):
            for q in basis:
                w = w - np.vdot(q, w) * q
        side.append(float(np.linalg.norm(w)))
        if side[-1] < 1e-12 * max(diagonal):
            break
        basis.append(w / side[-1])
    n = len(diagonal)
    T = np.diag(diagonal) + np.diag(side[: n - 1], 1) + np.diag(side[: n - 1], -1)
    return np.maximum(np.linalg.eigvalsh(T), 0.0)


def _operator(problem: Problem | Operator, u: Any, t: float) -> Operator:
    if isinstance(problem, Operator):
        return problem
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem = {problem!r} is not a Problem.")
    if u is not None:
        u = problem.grid.field("u", u, where=problem.active)
    elif isinstance(problem.diffusivity, OfState | OfGradient):
        raise ProblemError(
            "the diffusivity depends on u, and so does the largest stable step, but no state was given. "
            "Give one: stability(problem, ..., u=initial)."
        )
    return discretize(problem, t, u)


def _checked_dt(dt: Any) -> float:
    return number("dt", dt, above=0.0)


def _limit(scheme: Scheme, rho: float, stages: int | None = None) -> float:
    interval = scheme.real_limit(stages)
    return interval / rho if rho > 0.0 else math.inf


def _oscillates(scheme: Scheme, reach: float) -> bool:
    """Whether R leaves the non-negative reals somewhere on [-reach, 0]."""
    if reach == 0.0:
        return False
    stages = None
    if isinstance(scheme, Stabilized):
        if not math.isfinite(reach) or not within(reach, scheme.real_limit()):
            return True  # beyond its longest polynomial
        stages = scheme.stages_for(reach)
        if stages > 1000:  # Legendre and Chebyshev polynomials have met their first minimum long before
            stages, reach = 1000, scheme.real_limit(1000)
    x = np.linspace(0.0, reach, 2049) if math.isfinite(reach) else np.append(np.logspace(-3, 16, 2048), math.inf)
    R = np.asarray(scheme.R(-x, stages), dtype=complex)
    R = R[np.isfinite(R)]
    return bool((R.real < -1e-12).any() or (np.abs(R.imag) > 1e-12).any())


def _applies(operator: Operator, scheme: Scheme) -> bool:
    """Whether the scheme can be run on this problem at all."""
    if scheme.family == "exponential":
        fits = operator.uniform is not None and operator.uniform.transformable
        return operator.problem.steady_coefficients and operator.forcing.constant and (fits or scheme.name != "exact")
    if scheme.family == "splitting":
        return operator.problem.steady_coefficients and operator.cross is None
    return scheme.family != "multistep" or operator.problem.steady_coefficients


def _ways_out(operator: Operator, scheme: Scheme, dt: float, rho: float, limit: float) -> tuple[str, ...]:
    """What makes this step, or this length of time, possible: computed from the table, cheapest first."""
    ways = [f"dt <= {_legal(limit)}", f"{math.ceil(dt / limit * (1 - 1e-12))} substeps (on_unstable='substep')"]
    stable = []
    for row in SCHEMES.values():
        if row is scheme or not _applies(operator, row) or not within(dt * rho, row.real_limit()):
            continue
        stages = row.stages_for(dt * rho) if row.stages is None else None
        stable.append((row.work(stages), f"{row.name} ({stages} stage{'s' * (stages > 1)})" if stages else row.name))
    ways.append("a scheme stable at this dt: " + ", ".join(text for _, text in sorted(stable)))
    return tuple(ways)


def _notes(operator: Operator) -> tuple[str, ...]:
    """What the verdict does not cover."""
    problem, notes = operator.problem, []
    if isinstance(problem.diffusivity, OfTime):
        notes.append(f"D depends on t: these limits are those of t = {operator.t:g} s and move with it.")
    if isinstance(problem.diffusivity, OfState | OfGradient):
        notes.append("D depends on u: these limits are those of the state given and move with it.")
    elif not problem.linear and problem.reaction is None:
        notes.append("A side radiates: these limits are those of the state given and move with it.")
    if problem.reaction is not None:
        notes.append("The reaction term is not part of the bound.")
    return tuple(notes)


def _legal(value: float) -> str:
    """`value` in six digits, rounded down where rounding up would matter: the printed limit is a legal input."""
    if not math.isfinite(value) or within(float(f"{value:.6g}"), value):
        return f"{value:.6g}"
    return f"{float(Context(prec=6, rounding=ROUND_FLOOR).create_decimal(Decimal(value))):.6g}"
