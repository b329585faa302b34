"""The tuning map foretold: what a run does at every step size and step count, and the cheapest one, without running it.

With steady data, n steps of a scheme leave of the initial difference to the equilibrium

    d(n)^2 = sum_k w_k R(-dt lambda_k)^(2 n),     w_k: share of mode k in the initial difference

R is in the table of schemes, for every row of it. The shares are what only all modes could tell. Here a network tells
them, in bins between the slowest rate and the fastest, from what is cheap: how much of the difference is left after one
backward Euler step of each of ten sizes, and after a few products with A. It is trained on the distances that sweeps
(`diffsim.sweep`) of drawn problems measure, so it never sees a mode. A second, smaller network reads the outcome from
what the foretold shares imply. Everything it sees is dimensionless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import diffsim as ds
from diffsim.data import number
from diffsim.errors import DiffsimError, ProblemError
from diffsim.schemes import Scheme, scheme_of, within
from diffsim.steppers import Counts, ShiftedSolver
from diffsim.tuning.modes import Powers
from diffsim.tuning.sweeping import OUTCOMES, SweptCase, Theory, fewest

from .training import _threads

SCHEMES = ("ftcs", "rk4", "rkl2", "rkc2", "crank-nicolson")  # trained on; others follow from their R
_SOLVES, _PRODUCTS = 10, (1, 2, 4, 8)  # probes of slow and middling rates, and of the fastest
_TRUST = 0.02  # relative error up to which the foretold shares explain the probes: what a bin is wide
_BINS, _NODES = 24, 6  # bins of the rates, places in each: one place must not stand for a crest or a trough of R
_SLOW = 3  # the slowest rate and the bins next to it
_TINY, _BLOWN = 1e-30, 1e12
_CANDIDATES = 40  # step sizes among which the cheapest run is looked for
_MARGINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)


# --- what is known of a problem ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Facts:
    """What a prediction sees of a problem and its initial state.

    Attributes
    ----------
    slowest, fastest
        Ends of the spectrum of A [1/s].
    reach
        Bound on the spectrum that the schemes choose their stages by [1/s].
    probes
        (14,) ``ln(||f(A) e|| / ||e||)`` of the initial difference e: f = 1/(1 + gamma lambda), gamma from 10/slowest down
        to 1/fastest, then f = (lambda/fastest)^k, k = 1, 2, 4, 8.
    extent
        Largest minus smallest value of e (0 among them), over its root mean square.
    """

    slowest: float
    fastest: float
    reach: float
    probes: np.ndarray
    extent: float

    @staticmethod
    def of(case: SweptCase) -> Facts:
        """Facts of a case: ten solves and eight products beyond what its lines of theory need."""
        operator, system = case.operator, case.system
        fastest = operator.spectral_bound(sharp=True).value
        solver = ShiftedSolver(operator, Counts(), tolerance=1e-6)
        left = [
            system.rms(solver.solve(1 / gamma, operator.mass * case.first / gamma))
            for gamma in np.geomspace(10 / case.rate, 1 / fastest, _SOLVES)
        ]
        image = case.first
        for k in range(1, max(_PRODUCTS) + 1):
            image = operator.apply(image) / (operator.mass * fastest)
            if k in _PRODUCTS:
                left.append(system.rms(image))
        left = [far / case.scale for far in left]
        return Facts(
            slowest=case.rate,
            fastest=max(fastest, case.rate * (1 + 1e-6)),  # a single mode is both
            reach=case.reach,
            probes=np.log(np.maximum(left, _TINY)),
            extent=(case.high - case.low) / case.scale,
        )

    @property
    def inputs(self) -> np.ndarray:
        """What the network sees, (28,)."""
        return np.concatenate([self.probes, np.diff(self.probes), [math.log(self.fastest / self.slowest)]])

    @property
    def nodes(self) -> np.ndarray:
        """Rates that stand for the spectrum, (2 + bins, places): its two ends alone, and bins of equal ratio between."""
        edges = np.geomspace(self.slowest, self.fastest, _BINS + 1)
        inside = (np.arange(_NODES) + 0.5) / _NODES
        places = edges[:-1, None] * (edges[1:] / edges[:-1])[:, None] ** inside
        ends = np.repeat([[self.slowest], [self.fastest]], _NODES, axis=1)
        return np.concatenate([ends[:1], places, ends[1:]])

    def explained(self, shares: np.ndarray) -> np.ndarray:
        """The shares nearest to `shares` that explain the probes, in the sense of relative entropy.

        Minimises ``sum w ln(w / shares) + |P w / m - 1|^2 / (2 trust^2)`` over w >= 0 with P the squared filters of the
        probes and m their squares, by Newton's method on the dual.
        """
        gammas = np.geomspace(10 / self.slowest, 1 / self.fastest, _SOLVES)[:, None, None]
        ratio = self.nodes / self.fastest
        filters = [*(1 / (1 + gammas * self.nodes)), *(ratio**k for k in _PRODUCTS)]
        seen = np.exp(2 * self.probes)
        rows = np.stack([(f**2).mean(axis=1) for f in filters]) / np.maximum(seen, 1e-24)[:, None]
        rows = rows[seen > 1e-20]
        prior, dual = np.maximum(shares, 1e-12), np.zeros(len(rows))

        def primal(dual: np.ndarray) -> tuple[np.ndarray, float]:
            """(w, dual function) at `dual`."""
            power = -dual @ rows
            top = power.max()
            w = prior * np.exp(power - top)
            total = w.sum()
            return w / total, math.log(total) + top + dual.sum() + 0.5 * _TRUST**2 * float(dual @ dual)

        w, value = primal(dual)
        for _ in range(60):
            slope = 1.0 - rows @ w + _TRUST**2 * dual
            if np.abs(slope).max() < 1e-6:
                break
            mean = rows @ w
            curvature = (rows * w) @ rows.T - np.outer(mean, mean) + _TRUST**2 * np.eye(len(rows))
            step, length = np.linalg.solve(curvature, slope), 1.0
            while length > 1e-6:  # the dual is convex: halve until it falls
                w, now = primal(dual - length * step)
                if now <= value - 1e-4 * length * float(step @ slope):
                    break
                length /= 2
            dual, value = dual - length * step, now
        return w


class _Damping:
    """One scheme at one step size on the nodes of a problem."""

    def __init__(self, facts: Facts, scheme: Scheme, dt: float):
        self.stages = scheme.stages_for(dt * facts.reach) if scheme.stages is None else None
        z = -dt * facts.nodes
        self.powers = Powers(scheme, z, self.stages)
        with np.errstate(over="ignore", invalid="ignore"):
            self.growth = float(np.max(scheme.growth(z, self.stages)))

    def left(self, n: int) -> np.ndarray:
        """R^(2 n), mean over each bin, (2 + bins,)."""
        return (self._bounded(n) ** 2).mean(axis=1)

    def _bounded(self, n: int) -> np.ndarray:
        """R^n; what has blown up stays at a bound."""
        return np.clip(np.nan_to_num(self.powers(n), nan=_BLOWN, posinf=_BLOWN, neginf=-_BLOWN), -_BLOWN, _BLOWN)

    def signs(self, n: int) -> np.ndarray:
        """Rows that a classifier weighs, (4, 2 + bins): last change squared, the one before, their product, and what is < 0."""
        now, before = self._bounded(n), self._bounded(n - 1)
        earlier = self._bounded(n - 2) if n > 1 else before
        last, previous = now - before, before - earlier
        return np.stack(
            [(last**2).mean(1), (previous**2).mean(1), (last * previous).mean(1), (now**2 * (now < 0)).mean(1)]
        )

    def least(self, shares: np.ndarray, level: float, margin: float = 0.0) -> float:
        """Fewest steps after which the distance is foretold within `level`; inf where a mode does not die.

        Where all of the distance sits in faster modes than the slowest few, whose shares are known less well, a factor
        exp(margin) is kept from the level; in proportion less where part of it does, down to a tenth of the exponent.
        """
        if self.growth >= 1 - 1e-6:  # at the limit itself the fastest mode never dies
            return math.inf

        def within_level(n: int) -> bool:
            parts = shares * self.left(n)
            far = float(parts.sum())
            faster = 1.0 - float(parts[:_SLOW].sum()) / max(far, _TINY)
            return far * math.exp(2 * margin * max(faster, 0.1)) <= level**2

        return fewest(within_level)


def step_sizes(facts: Facts, scheme: Scheme, tol: float, count: int = _CANDIDATES) -> np.ndarray:
    """Step sizes worth a look: around the limit where the scheme has one, else from 1/fastest to the time of settling."""
    if scheme.explicit and scheme.stages is not None:
        limit = scheme.real_limit() / facts.fastest
        near = limit * np.array([0.9, 0.95, 0.98, 1.0])
        return np.unique(np.concatenate([np.geomspace(0.1 * limit, 1.5 * limit, count - near.size), near]))
    settled = math.log(1 / tol) / facts.slowest
    longest = 1.5 * settled if scheme.explicit else 3 / (tol * facts.slowest)
    longest = min(longest, scheme.real_limit() / facts.reach)
    return np.geomspace(min(1 / facts.fastest, 0.5 * longest), longest, count)


# --- problems to learn from -------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, cells: int = 180) -> tuple[ds.Problem, np.ndarray, float]:
    """A problem of mixed kind with at most about `cells` cells, an initial state, and a tolerance."""
    ndim = int(rng.choice([1, 2, 3], p=[0.4, 0.5, 0.1]))
    most = cells ** (1 / ndim)
    shape = tuple(int(n) for n in np.exp(rng.uniform(np.log(0.3 * most), np.log(most), ndim)))
    if ndim == 1:
        shape = (int(np.exp(rng.uniform(np.log(8), np.log(most)))),)
    lengths = tuple(float(x) for x in np.exp(rng.uniform(-0.7, 0.7, ndim)))
    grid = ds.Grid(shape=shape, lengths=lengths)
    if rng.random() < 0.2:
        powers = rng.uniform(1.0, 1.6, ndim)
        grid = ds.Grid.from_edges(
            [length * np.linspace(0, 1, n + 1) ** p for n, length, p in zip(shape, lengths, powers, strict=True)]
        )
    unit = [np.broadcast_to(x, shape) / length for x, length in zip(grid.mesh(), lengths, strict=True)]

    def smooth() -> np.ndarray:
        total = np.zeros(shape)
        for _ in range(6):
            waves = rng.integers(0, 4, ndim)
            parts = [np.cos(np.pi * k * x + rng.uniform(0, 2)) for k, x in zip(waves, unit, strict=True)]
            total += rng.normal() / (1 + waves.sum()) * np.prod(parts, axis=0)
        return total / max(float(np.abs(total).max()), 1e-12)

    contrast = math.log(1e3) * rng.random()
    fields: list[Callable[[], Any]] = [
        lambda: 1.0,
        lambda: np.exp(contrast * (np.floor(unit[0] * rng.integers(2, 6)) % 2)),
        lambda: np.exp(0.5 * contrast * smooth()),
        lambda: np.exp(contrast * rng.random(shape)),
        lambda: np.exp(contrast * (smooth() > 0.2)),
    ]
    sides: list[Callable[[], Any]] = [
        lambda: ds.Dirichlet(float(rng.normal())),
        lambda: ds.Robin(float(np.exp(rng.uniform(-1, 3))), float(rng.normal())),
        lambda: ds.Neumann(0.0),
    ]
    boundary = {f"{axis}{end}": sides[rng.choice(3, p=[0.45, 0.2, 0.35])]() for axis in "xyz"[:ndim] for end in "-+"}
    loss = float(np.exp(rng.uniform(-2, 2))) if rng.random() < 0.25 else 0.0
    held = loss > 0 or any(not isinstance(side, ds.Neumann) for side in boundary.values())
    problem = ds.Problem(
        grid,
        fields[rng.integers(len(fields))](),
        capacity=np.exp(rng.uniform(0, 2) * smooth()) if rng.random() < 0.2 else 1.0,
        loss=loss,
        source=float(rng.normal()) if held and rng.random() < 0.3 else 0.0,
        boundary=boundary,
    )
    starts: list[Callable[[], np.ndarray]] = [
        lambda: np.full(shape, float(rng.normal())),
        smooth,
        lambda: rng.normal(size=shape),
        lambda: 3.0 * np.eye(1, grid.size, int(rng.integers(grid.size)))[0].reshape(shape),
        lambda: np.where(unit[0] < rng.uniform(0.2, 0.8), 1.0, -1.0),
        lambda: smooth() + np.exp(rng.uniform(-5, 0)) * rng.normal(size=shape),
    ]
    start = starts[rng.integers(len(starts))]()
    return problem, start, float(np.exp(rng.uniform(np.log(1e-4), np.log(3e-2))))


def cases(rng: np.random.Generator, schemes: Sequence[str], per: int, cells: int = 180) -> Iterator[SweptCase]:
    """Drawn problems without end, each with `per` of the schemes; problems already at rest are passed over."""
    while True:
        problem, start, tol = draw(rng, cells)
        for name in rng.permutation(np.array(schemes))[:per]:
            try:
                yield SweptCase(problem, start, scheme_of(str(name)), tol)
            except DiffsimError:
                break


@dataclass(frozen=True, eq=False)
class _Swept:
    """One sweep to learn from: dts (n,), steps (m,), outcome and distance (n, m)."""

    case: SweptCase
    facts: Facts
    dts: np.ndarray
    steps: np.ndarray
    outcome: np.ndarray
    distance: np.ndarray

    @staticmethod
    def of(case: SweptCase, dts: int, steps: int) -> _Swept:
        facts = Facts.of(case)
        sizes = step_sizes(facts, case.scheme, case.tol, dts)
        longest = 3 * math.log(1 / case.tol) / (facts.slowest * float(np.median(sizes)))
        counts = np.unique(np.geomspace(1, max(4.0, longest), steps).astype(int))
        rows = [case.outcomes(float(dt), counts) for dt in sizes]
        return _Swept(case, facts, sizes, counts, np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Foretold:
    """A tuning map that was not run.

    Attributes
    ----------
    outcome, distance
        As in `diffsim.Sweep`, (n_dts, n_steps).
    best
        (dt, steps) of the run that is foretold to settle at least work; None where none is.
    work
        Its counted work.
    """

    dts: np.ndarray
    steps: np.ndarray
    outcome: np.ndarray
    distance: np.ndarray
    best: tuple[float, int] | None
    work: float
    scheme: str
    tol: float

    def plot(self, truth: ds.tuning.Sweep, path: str | Path | None = None):
        """This map beside the one that was run, with the lines of theory; returns the matplotlib Figure."""
        from diffsim.tuning.pictures import maps_side_by_side

        return maps_side_by_side(truth, self.outcome, self.best, path)


@dataclass(eq=False)
class TuningMap:
    """Predicts tuning maps; made by `train`.

    Attributes
    ----------
    margin
        A run is recommended where the distance in the faster modes is foretold a factor exp(margin) below the tolerance;
        chosen on problems that the networks were not trained on.
    history
        Facts of the training.
    """

    shares: nn.Module
    classes: nn.Module
    centre: np.ndarray
    spread: np.ndarray
    margin: float = 0.0
    history: dict[str, float] = field(default_factory=dict)

    def predict(
        self,
        problem: ds.Problem,
        initial: Any,
        scheme: str | Scheme = "ftcs",
        tol: float = 1e-3,
        dts: Sequence[float] | None = None,
        steps: Sequence[int] | None = None,
    ) -> Foretold:
        """The map over `dts` x `steps` and the cheapest run, from ten solves beyond what theory needs.

        Parameters
        ----------
        dts, steps
            As in `diffsim.sweep`; None: step sizes worth a look, and step counts up to three times those of the slowest
            mode. The cheapest run is looked for over `dts` and all step counts.

        Raises
        ------
        ProblemError
            For problems that are not linear with steady data, or schemes without a stability function of one variable.
        """
        row = scheme_of(scheme)
        case = SweptCase(problem, initial, row, number("tol", tol, above=0.0))
        return self._predict(case, Facts.of(_foreseeable(case)), dts, steps)

    def _predict(self, case: SweptCase, facts: Facts, dts=None, steps=None) -> Foretold:
        sizes = step_sizes(facts, case.scheme, case.tol) if dts is None else np.asarray(dts, dtype=float)
        if steps is None:
            longest = 3 * math.log(1 / case.tol) / (facts.slowest * float(np.median(sizes)))
            steps = np.unique(np.geomspace(1, max(4.0, longest), 24).astype(int))
        counts = np.asarray(steps, dtype=int)
        shares = self.shares_of(facts)
        made = [_Damping(facts, case.scheme, float(dt)) for dt in sizes]
        best, work = _cheapest(case, sizes, [d.least(shares, case.tol, self.margin) for d in made])
        rows = [_implied(case, facts, d, shares, float(dt), counts) for d, dt in zip(made, sizes, strict=True)]
        implied = np.concatenate([numbers for numbers, _ in rows])
        with torch.no_grad():
            chosen = self.classes(torch.as_tensor(implied, dtype=torch.float32)).argmax(dim=1).numpy()
        outcome = np.array(OUTCOMES)[chosen].reshape(sizes.size, counts.size)
        distance = np.stack([far for _, far in rows])
        return Foretold(sizes, counts, outcome, distance, best, work, case.scheme.name, case.tol)

    def shares_of(self, facts: Facts) -> np.ndarray:
        """Foretold shares of the bins, (2 + bins,), sum 1."""
        inputs = torch.as_tensor((facts.inputs - self.centre) / self.spread, dtype=torch.float32)
        with torch.no_grad():
            prior = torch.softmax(self.shares(inputs[None]), dim=1)[0].double().numpy()
        return facts.explained(prior)


def _cheapest(case: SweptCase, dts: np.ndarray, counts: Sequence[float]) -> tuple[tuple[float, int] | None, float]:
    """((dt, steps), work) of the run of least work; (None, inf) where every count is infinite."""
    pairs = list(zip(dts, counts, strict=True))
    work = [n * case.work(float(dt)) if math.isfinite(n) else math.inf for dt, n in pairs]
    i = int(np.argmin(work))
    return ((float(dts[i]), int(counts[i])) if math.isfinite(work[i]) else None), work[i]


def _foreseeable(case: SweptCase) -> SweptCase:
    if not case.system.steady or case.scheme.family in ("splitting", "exponential"):
        raise ProblemError(
            f"{case.scheme.name} on this problem: only linear problems with steady data and schemes with a stability function "
            "of one variable are foretold. Run diffsim.sweep."
        )
    return case


def _implied(
    case: SweptCase, facts: Facts, made: _Damping, shares: np.ndarray, dt: float, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(numbers for the classifier (m, 12), distances (m,)) at step counts `counts`; `shares` (2 + bins,)."""

    def log(x: float, bound: float = 12.0) -> float:
        return float(np.clip(math.log(max(x, _TINY)), -bound, bound))

    rows, far = [], np.empty(len(counts))
    positive = case.dt_positive
    for j, n in enumerate(int(n) for n in counts):
        far[j] = math.sqrt(float(shares @ made.left(n)))
        half = math.sqrt(float(shares @ made.left(n // 2)))
        last, before, product, negative = made.signs(n) @ shares
        rows.append(
            [
                log(far[j] / case.tol, 4.0),
                log(half / case.tol, 4.0),
                log(far[j]),
                math.log(case.tol),
                float(np.clip(n * math.log(max(made.growth, 1e-12)), -6, 12)),
                float(within(made.growth, 1.0)),
                0.5 * log(last / max(before, _TINY), 4.0) if n > 1 else -2.0,
                float(product / max(math.sqrt(last * before), _TINY)) if n > 1 else 1.0,
                log(math.sqrt(last) / case.tol, 6.0),
                float(negative / max(far[j] ** 2, _TINY)),
                log(dt / positive, 4.0) if positive > 0 else 4.0,
                math.log(facts.extent),
            ]
        )
    return np.array(rows), far


# --- training ---------------------------------------------------------------------------------------------------------


def train(problems: int = 80, seed: int = 0, schemes: Sequence[str] = SCHEMES, steps: int = 1500) -> TuningMap:
    """Draw problems, sweep them, and learn from what the sweeps show; under a minute of one core.

    Parameters
    ----------
    problems
        Drawn problems; each is swept with two of the `schemes`. One in five is kept from the networks and chooses the margin.
    steps
        Steps of AdamW on the shares, and again on the classes.
    """
    if problems < 10:
        raise ProblemError(f"problems = {problems}: give at least 10, of which one in five chooses the margin.")
    source = cases(np.random.default_rng(seed), schemes, per=2)
    swept = [_Swept.of(next(source), dts=14, steps=12) for _ in range(2 * problems)]
    kept = len(swept) // 5 // 2 * 2  # both schemes of a problem on the same side
    held, learned = swept[:kept], swept[kept:]
    generator = torch.Generator().manual_seed(seed)
    inputs = np.stack([s.facts.inputs for s in learned])
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    model = TuningMap(_network(inputs.shape[1], 48, 2 + _BINS, generator), nn.Identity(), centre, spread)
    with _threads(1, 0):  # networks this small lose at the barriers
        model.history["shares"] = _learn_shares(model, learned, steps, generator)
        model.classes = _network(12, 32, len(OUTCOMES), generator)
        model.history["classes"] = _learn_classes(model, learned, steps, generator)
    model.margin = _margin(model, held)
    return model


def _network(inputs: int, width: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    sizes = (inputs, width, width, outputs)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(b, a, generator=generator) / math.sqrt(a))
            linear.bias.zero_()
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _descend(parameters, loss: Callable[[], torch.Tensor], steps: int) -> float:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    value = torch.zeros(())
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return float(value.detach())


def _learn_shares(model: TuningMap, swept: list[_Swept], steps: int, generator: torch.Generator) -> float:
    """Fit ``ln d`` of every run that is on its way: neither blown up nor far below its tolerance."""
    left, seen, owner = [], [], []
    for k, s in enumerate(swept):
        for dt, row in zip(s.dts, s.distance, strict=True):
            kept = np.isfinite(row) & (row < 1.0) & (row > s.case.tol / 30)
            if kept.any():
                made = _Damping(s.facts, s.case.scheme, float(dt))
                left.append(np.stack([made.left(int(n)) for n in s.steps[kept]]))
                seen.append(np.log(row[kept]))
                owner.append(np.full(int(kept.sum()), k))
    decays, targets = (torch.as_tensor(np.concatenate(x), dtype=torch.float32) for x in (left, seen))
    owners = torch.as_tensor(np.concatenate(owner))
    inputs = np.stack([(s.facts.inputs - model.centre) / model.spread for s in swept])
    points = torch.as_tensor(inputs, dtype=torch.float32)

    def loss() -> torch.Tensor:
        batch = torch.randint(len(targets), (4096,), generator=generator)
        shares = torch.softmax(model.shares(points), dim=1)
        foretold = 0.5 * torch.log((shares[owners[batch]] * decays[batch]).sum(dim=1) + 1e-14)
        return functional.smooth_l1_loss(foretold, targets[batch], beta=0.1)

    return _descend(model.shares.parameters(), loss, steps)


def _learn_classes(model: TuningMap, swept: list[_Swept], steps: int, generator: torch.Generator) -> float:
    """Fit the outcomes from what the foretold shares imply."""
    numbers, names = [], []
    for s in swept:
        shares = model.shares_of(s.facts)
        for dt, row in zip(s.dts, s.outcome, strict=True):
            made = _Damping(s.facts, s.case.scheme, float(dt))
            numbers.append(_implied(s.case, s.facts, made, shares, float(dt), s.steps)[0])
            names.append([OUTCOMES.index(name) for name in row])
    seen = torch.as_tensor(np.concatenate(numbers), dtype=torch.float32)
    wanted = torch.as_tensor(np.concatenate(names))

    def loss() -> torch.Tensor:
        batch = torch.randint(len(wanted), (2048,), generator=generator)
        return functional.cross_entropy(model.classes(seen[batch]), wanted[batch])

    return _descend(model.classes.parameters(), loss, steps)


def _margin(model: TuningMap, held: list[_Swept]) -> float:
    """The margin with which most recommended runs settle at no more than 1.2 of the least work."""
    good = np.zeros(len(_MARGINS))
    for s in held:
        dts, case = step_sizes(s.facts, s.case.scheme, s.case.tol, 24), s.case
        true = [case.least_settled(float(dt)) for dt in dts]
        made, shares = [_Damping(s.facts, case.scheme, float(dt)) for dt in dts], model.shares_of(s.facts)
        for k, margin in enumerate(_MARGINS):
            told = [damping.least(shares, case.tol, margin) for damping in made]
            best, work = _cheapest(case, dts, told)
            settles = best is not None and best[1] >= true[list(dts).index(best[0])]
            good[k] += settles and work <= 1.2 * _cheapest(case, dts, true)[1]
    # a run that does not settle is lost, one that costs 5 % more is not: the widest of those that are nearly the best
    return max(margin for margin, count in zip(_MARGINS, good, strict=True) if count >= 0.95 * good.max() - 1e-9)


# --- how good it is ---------------------------------------------------------------------------------------------------


def _paid(case: SweptCase, best: tuple[float, int] | None) -> float:
    """Work of a recommended run; inf where it does not settle."""
    if best is None or best[1] < case.least_settled(best[0]):
        return math.inf
    return best[1] * case.work(best[0])


@dataclass(frozen=True, eq=False)
class Report:
    """How a model does on problems it has not seen, beside what theory alone does.

    Attributes
    ----------
    paid
        Way to choose -> (n,) work of the run it recommends over that of the true optimum; inf where it does not settle.
        "learned"; "slowest mode": the step of least ``work * ln(1/tol) / -ln|R(-dt lambda_1)|`` among stable ones;
        "whole spectrum": the same with the largest |R| between the slowest rate and the fastest, which is a guarantee.
    schemes
        (n,) name of the scheme.
    right
        Way -> share of the cells of all maps whose outcome it names: "learned" and "theory".
    balanced
        The same, mean over the classes that occur, each counting alike.
    """

    paid: dict[str, np.ndarray]
    schemes: np.ndarray
    right: dict[str, float]
    balanced: dict[str, float]

    def within(self, way: str = "learned", factor: float = 1.2, scheme: str | None = None) -> float:
        """Share of recommended runs that settle at no more than `factor` times the least work."""
        chosen = self.schemes == scheme if scheme else np.ones(self.schemes.size, dtype=bool)
        return float((self.paid[way][chosen] <= factor).mean())

    def failed(self, way: str = "learned", scheme: str | None = None) -> float:
        """Share of recommended runs that do not settle."""
        chosen = self.schemes == scheme if scheme else np.ones(self.schemes.size, dtype=bool)
        return float(np.isinf(self.paid[way][chosen]).mean())

    def __str__(self) -> str:
        ways = list(self.paid)
        lines = [f"{'within 20 % / not settled':<28}" + "".join(f"{way:>18}" for way in ways) + f"{'runs':>8}"]
        for scheme in [*dict.fromkeys(self.schemes), None]:
            count = int((self.schemes == scheme).sum()) if scheme else self.schemes.size
            cells = "".join(
                f"{self.within(w, scheme=scheme):>11.0%} /{self.failed(w, scheme=scheme):>4.0%}" for w in ways
            )
            lines.append(f"{scheme or 'all':<28}{cells}{count:>8}")
        for name, shares in (("outcomes named right", self.right), ("the same, classes alike", self.balanced)):
            lines.append(f"{name:<28}" + ", ".join(f"{way} {share:.1%}" for way, share in shares.items()))
        return "\n".join(lines)


def evaluate(
    model: TuningMap,
    problems: int = 60,
    seed: int = 10_000,
    schemes: Sequence[str] = SCHEMES,
    per: int = 2,
    cells: int = 180,
    candidates: int = _CANDIDATES,
) -> Report:
    """Test on freshly drawn problems, `per` schemes each; `cells`: how large they may be."""
    source = cases(np.random.default_rng(seed), schemes, per=per, cells=cells)
    paid: dict[str, list[float]] = {"learned": [], "slowest mode": [], "whole spectrum": []}
    names, true, learned, theory = [], [], [], []
    for _ in range(per * problems):
        swept = _Swept.of(case := next(source), dts=14, steps=12)
        sizes = step_sizes(swept.facts, case.scheme, case.tol, candidates)
        _, least = _cheapest(case, sizes, [case.least_settled(float(dt)) for dt in sizes])
        if not math.isfinite(least):
            continue
        names.append(case.scheme.name)
        paid["learned"].append(_paid(case, model._predict(case, swept.facts, sizes, [1]).best) / least)
        for way, best in _by_theory(case, swept.facts, sizes).items():
            paid[way].append(_paid(case, best) / least)
        true.append(swept.outcome.ravel())
        learned.append(model._predict(case, swept.facts, swept.dts, swept.steps).outcome.ravel())
        theory.append(theory_outcome(case, swept.dts, swept.steps).ravel())
    truth, said = np.concatenate(true), {"learned": np.concatenate(learned), "theory": np.concatenate(theory)}
    right = {way: float((classes == truth).mean()) for way, classes in said.items()}
    balanced = {
        way: float(np.mean([(classes[truth == name] == name).mean() for name in np.unique(truth)]))
        for way, classes in said.items()
    }
    return Report({way: np.array(x) for way, x in paid.items()}, np.array(names), right, balanced)


def _by_theory(case: SweptCase, facts: Facts, dts: np.ndarray) -> dict[str, tuple[float, int] | None]:
    """The runs that the lines of theory recommend."""
    slowest = np.eye(1, 2 + _BINS)[0]
    made = [_Damping(facts, case.scheme, float(dt)) for dt in dts]
    worst = [-math.log(max(damping.growth, _TINY)) for damping in made]
    sure = [max(1.0, math.ceil(math.log(1 / case.tol) / w)) if w > 1e-6 else math.inf for w in worst]
    return {
        "slowest mode": _cheapest(case, dts, [damping.least(slowest, case.tol) for damping in made])[0],
        "whole spectrum": _cheapest(case, dts, sure)[0],
    }


def theory_outcome(case: SweptCase, dts: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Outcomes by the lines of theory alone, (n_dts, n_steps): the baseline that a learned map has to beat.

    Unstable beyond the limit; settled from the count of the slowest mode on, wasteful from twice that; before it,
    oscillating where a step is longer than the one that is sure to make no new extrema.
    """
    lines = Theory(
        dt_limit=np.array([case.dt_limit]),
        dt_positive=np.array([case.dt_positive]),
        rate=np.array([case.rate]),
        fourier=np.array([case.fourier]),
        settled_time=np.array([math.log(1 / case.tol) / case.rate]),
        scheme=case.scheme,
        reach=np.array([case.reach]),
    )
    needed = np.ceil(lines.settled_steps(0, dts))[:, None]
    early = np.where(dts[:, None] > case.dt_positive, "oscillating", "unfinished")
    late = np.where(steps // 2 >= needed, "wasteful", np.where(steps >= needed, "settled", early))
    return np.where(np.array([within(float(dt), case.dt_limit) for dt in dts])[:, None], late, "unstable")
