"""Honest evaluation: the whole distribution of errors, next to what costs nothing and to the solver itself."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import diffsim
from diffsim import store
from diffsim.errors import ProblemError
from diffsim.operator import Operator, discretize

from . import baselines
from .dataset import Dataset, Item
from .predict import predict

STATISTICS = ("mean", "median", "p95", "worst")
_SOLVER_TOLERANCES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, eq=False)
class Report:
    """What a surrogate is worth on data it has not seen.

    Attributes
    ----------
    errors
        ``errors["l2" | "energy"]["mean" | "median" | "p95" | "worst"]``, relative to the labels.
    baselines
        {name: errors of the same form}: training mean, nearest neighbour, POD + ridge, coarse solve, ... ; "solver at
        equal error" also holds the tolerance and the iterations it took.
    certificate
        Share of items accepted at `tol`, the median of bound / true error, and the number of items whose true error
        exceeded its bound (must be 0); None where no bound exists.
    label_error
        Distance of the labels from the equilibria on the grid itself (restricted-fine labels), else None.
    same_grid
        Errors against the equilibria on the grid itself, where the labels are others; else None.
    worst_items
        Numbers of the items with the largest L2 errors, worst first.
    break_even
        Number of predictions from which generating data, training and predicting is faster than solving to the
        surrogate's error, batched; infinite where it never is. From `timing`.
    timing
        Measured seconds: everything in a report that differs between two evaluations.
    """

    title: str
    items: int
    errors: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, Any]]
    certificate: dict[str, float] | None
    label_error: dict[str, dict[str, float]] | None
    same_grid: dict[str, dict[str, float]] | None
    worst_items: list[int]
    notes: list[str]
    timing: dict[str, float]

    @property
    def break_even(self) -> float:
        """Predictions needed before the surrogate has paid for itself; infinite where it never does."""
        saved = self.timing.get("solver_batched", math.nan) - self.timing.get("surrogate_batched", math.nan)
        spent = self.timing.get("training", math.nan) + self.timing.get("labels", math.nan)
        if math.isnan(saved) or math.isnan(spent):
            return math.nan
        return spent / saved if saved > 0 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, as JSON holds them; infinities are strings."""
        content = {
            "title": self.title,
            "items": self.items,
            "errors": self.errors,
            "baselines": self.baselines,
            "certificate": self.certificate,
            "label_error": self.label_error,
            "same_grid": self.same_grid,
            "worst_items": self.worst_items,
            "notes": self.notes,
            "timing": {**self.timing, "break_even": self.break_even},
        }
        return _plain(content)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, atomically; two evaluations differ in the block "timing" alone."""
        store.write_json(path, self.as_dict())

    def table(self) -> str:
        """The report for people."""
        rows = [("surrogate", self.errors)]
        if self.same_grid is not None:
            rows.append(("  against the grid's own equilibria", self.same_grid))
        if self.label_error is not None:
            rows.append(("  labels against these", self.label_error))
        rows += list(self.baselines.items())
        width = max(len(name) for name, _ in rows)
        head = "  ".join(f"{s:>8}" for s in STATISTICS)
        lines = [
            f"{self.title}: {self.items} items",
            "",
            f"{'relative error, %':<{width}}  {head}   (L2)  {head}   (energy)",
        ]
        for name, errors in rows:
            cells = "  ".join(_percent(errors.get("l2", {}).get(s)) for s in STATISTICS)
            energy = "  ".join(_percent(errors.get("energy", {}).get(s)) for s in STATISTICS)
            lines.append(f"{name:<{width}}  {cells}         {energy}".rstrip())
        lines.append("")
        if self.certificate is not None:
            c = self.certificate
            lines.append(
                f"certificate: {100 * c['accepted']:.1f} % accepted at {100 * c['tol']:g} %; bound / true error, median: "
                f"{c['energy_ratio']:.2f} (energy), {c['l2_ratio']:.2f} (L2); {c['violations']} violations"
            )
        if "surrogate_batched" in self.timing:
            t = self.timing
            lines.append(
                f"time per item: surrogate {_seconds(t['surrogate_single'])} alone, {_seconds(t['surrogate_batched'])} batched; "
                f"certificate {_seconds(t.get('certificate', math.nan))}"
            )
            if "solver_single" in t:
                lines.append(
                    f"  solver at equal error: {_seconds(t['solver_single'])} alone, {_seconds(t['solver_batched'])} batched"
                )
                if not math.isnan(t.get("solver_equal_time_l2", math.nan)):
                    lines.append(f"  solver at equal time: mean L2 error {100 * t['solver_equal_time_l2']:.2g} %")
                n = self.break_even
                verdict = (
                    "unknown (no training time recorded)"
                    if math.isnan(n)
                    else (
                        "never: the solver is faster one by one and batched"
                        if math.isinf(n)
                        else f"after {n:,.0f} predictions"
                    )
                )
                lines.append(f"  break-even: {verdict}")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"worst items: {', '.join(map(str, self.worst_items))}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def evaluate(
    model,
    data: Dataset,
    part: "str | Sequence[int] | None" = "test",
    tol: float = 1e-2,
    most: int | None = None,
    progress: "Callable[[str], None] | None" = None,
) -> Report:
    """Measure a surrogate on items it was not trained on, beside baselines that any user could have instead.

    Parameters
    ----------
    model
        What `train` or `load` returned, or any object with ``.task`` and ``.fields(problems)`` or ``.from_frames(...)``.
    data
        Equilibria of known problems, or transients.
    part
        A split ("test" by default), a list of item numbers, or None for all items. Where `data` is too small for a test
        split, all items are used, and the report says so.
    tol
        Relative L2 error up to which a certified prediction counts as accepted.
    most
        At most so many items (the first ones).
    progress
        Called with a line at every stage.

    Raises
    ------
    ProblemError
        Where there is nothing to evaluate on, or model and data are of different tasks.
    """
    say = progress or (lambda line: None)
    notes = []
    chosen = data.indices(part)
    if not len(chosen) and part == "test":
        chosen = data.indices(None)
        notes.append("too few different items for a test split: all were used; training may have seen them")
    chosen = chosen[:most]
    if not len(chosen):
        raise ProblemError(f"the part {part!r} of {data!r} holds no items; give another one, or None for all.")
    if model.task != data.task and not (model.task == "coefficients" and data.task == "transient"):
        raise ProblemError(
            f"the model is for task {model.task!r}, the data for {data.task!r}; give data of the model's task."
        )
    items = [data[int(i)] for i in chosen]
    measure = Measure(items)
    say(f"predicting {len(items)} items")
    fields, timing = _predicted(model, items)
    errors = measure(fields)
    report: dict[str, Any] = {"certificate": None, "label_error": None, "same_grid": None}
    if model.task == "coefficients":
        report["certificate"], timing["certificate"] = _certified(model, items, fields, tol, measure)
    rows: dict[str, dict[str, Any]] = {}
    train_numbers = np.setdiff1d(data.split["train"], chosen)
    train = data.arrays(train_numbers) if len(train_numbers) > 1 else None
    if train is None:
        notes.append("no training split in these data: baselines that learn from it are left out")
    for name, make in _learning_free(model.task, train, items):
        say(f"baseline: {name}")
        try:
            rows[name] = measure(make())
        except ProblemError as error:
            notes.append(f"{name} left out: {error}")
    if model.task == "coefficients":
        say("baseline: the solver")
        name, row, solver_timing = _solver(items, measure, errors["l2"]["mean"], timing["surrogate_batched"])
        rows[name] = row
        timing.update(solver_timing)
        _costs(model, train, timing)
    if data.labels == "restricted-fine":
        own = np.stack([s.u for s in diffsim.equilibrium([item.problem for item in items], tol=1e-10)])
        report["label_error"] = measure(own)
        report["same_grid"] = Measure([Item(item.problem, u) for item, u in zip(items, own, strict=True)])(fields)
    worst = np.argsort(-measure.l2(fields), kind="stable")[:5]
    title = f"{getattr(getattr(model, 'card', None), 'model', type(model).__name__)} on {data!r}"
    numbers = [int(chosen[i]) for i in worst]
    return Report(title, len(items), errors, rows, worst_items=numbers, notes=notes, timing=timing, **report)


class Measure:
    """Relative errors of fields against the labels of items, in L2 and in energy."""

    def __init__(self, items: Sequence[Item]):
        self.labels = np.stack([item.u for item in items])
        self.operators: list[Operator] = [discretize(item.problem) for item in items]
        self.sizes = np.array([self._l2(op, op.enter(u)) for op, u in zip(self.operators, self.labels, strict=True)])
        self.energies = np.array(
            [self._energy(op, op.enter(u)) for op, u in zip(self.operators, self.labels, strict=True)]
        )

    @staticmethod
    def _l2(operator: Operator, e: np.ndarray) -> float:
        return math.sqrt(float((operator.volumes * e * e).sum()))

    @staticmethod
    def _energy(operator: Operator, e: np.ndarray) -> float:
        return math.sqrt(max(0.0, float((e * operator.apply(e)).sum())))

    def _differences(self, fields):
        for operator, u, field in zip(self.operators, self.labels, fields, strict=True):
            yield operator, operator.enter(np.asarray(field)) - operator.enter(u)

    def l2(self, fields) -> np.ndarray:
        """Relative L2 error per item."""
        absolute = np.array([self._l2(operator, e) for operator, e in self._differences(fields)])
        return np.nan_to_num(absolute / np.where(self.sizes > 0, self.sizes, 1.0), nan=np.inf)

    def energy(self, fields) -> np.ndarray:
        """Relative energy error per item."""
        absolute = np.array([self._energy(operator, e) for operator, e in self._differences(fields)])
        return np.nan_to_num(absolute / np.where(self.energies > 0, self.energies, 1.0), nan=np.inf)

    def __call__(self, fields) -> dict[str, dict[str, float]]:
        return {"l2": _summary(self.l2(fields)), "energy": _summary(self.energy(fields))}


def _summary(errors: np.ndarray) -> dict[str, float]:
    values = (errors.mean(), np.median(errors), np.quantile(errors, 0.95, method="higher"), errors.max())
    return dict(zip(STATISTICS, map(float, values), strict=True))


def _predicted(model, items: Sequence[Item]) -> tuple[np.ndarray, dict[str, float]]:
    """Fields of all items, and seconds per item in a batch and one by one."""

    def run(some: Sequence[Item]) -> np.ndarray:
        if model.task == "transient":
            return model.from_frames(np.stack([x.times for x in some]), np.stack([x.frames for x in some]))
        return model.fields([x.problem for x in some])

    run(items[:1])  # compiles and warms up
    start = time.perf_counter()
    fields = run(items)
    batched = (time.perf_counter() - start) / len(items)
    few = items[:8]
    start = time.perf_counter()
    for item in few:
        run([item])
    return fields, {"surrogate_batched": batched, "surrogate_single": (time.perf_counter() - start) / len(few)}


class _Known:
    """Fields that were predicted already, as a model."""

    task = "coefficients"

    def __init__(self, model, fields):
        self.card, self._fields = getattr(model, "card", None), list(fields)

    def fields(self, problems, batch=16):
        return [self._fields.pop(0) for _ in problems]


def _certified(model, items, fields, tol, measure: "Measure") -> tuple[dict[str, float] | None, float]:
    start = time.perf_counter()
    predictions = predict(_Known(model, fields), [item.problem for item in items], tol=tol)
    seconds = (time.perf_counter() - start) / len(items)
    # the truth that a bound speaks of is the equilibrium on the grid, which a label need not be
    truths = diffsim.equilibrium([item.problem for item in items], tol=1e-12)
    ratios, violations = [], 0
    for p, truth, operator in zip(predictions, truths, measure.operators, strict=True):
        e = operator.enter(p.u) - operator.enter(truth.u)
        l2, energy = measure._l2(operator, e), measure._energy(operator, e)
        slack = (
            1e-9 * measure._l2(operator, operator.enter(truth.u)),
            1e-9 * measure._energy(operator, operator.enter(truth.u)),
        )
        violations += bool(l2 > p.bound.l2 + slack[0] or energy > p.bound.energy + slack[1])
        if l2 > 0 and energy > 0:
            ratios.append((p.bound.energy / energy, p.bound.l2 / l2))
    median = np.median(np.array(ratios), axis=0) if ratios else np.full(2, np.nan)
    accepted = float(np.mean([p.accepted for p in predictions]))
    row = {"tol": tol, "accepted": accepted, "violations": violations}
    return row | {"energy_ratio": float(median[0]), "l2_ratio": float(median[1])}, seconds


def _learning_free(task: str, train, items):
    """(name, function that makes the fields) of the baselines of a task."""
    if train is not None:
        yield "training mean", lambda: baselines.training_mean(train, items)
        yield "nearest neighbour", lambda: baselines.nearest_neighbour(train, items)
        yield "POD + ridge", lambda: baselines.pod_ridge(train, items)
    if task == "transient":
        yield "last frame", lambda: baselines.last_frame(items)
        yield "exponential extrapolation", lambda: baselines.exponential(train or {"u": []}, items)
        yield "exponential, one rate", lambda: baselines.exponential_whole(train or {"u": []}, items)
        yield "dynamic modes", lambda: baselines.forecasts(items, "dynamic-modes")
        yield "linear inverse (sides known)", lambda: baselines.forecasts(items, "linear-inverse")
    else:
        yield "coarse solve (2x)", lambda: baselines.coarse_solve(items, 2)
        yield "coarse solve (4x)", lambda: baselines.coarse_solve(items, 4)


def _solver(items, measure: "Measure", target: float, seconds: float) -> tuple[str, dict[str, Any], dict[str, float]]:
    """(name, errors, timing) of the solver, stopped where its mean L2 error is that of the surrogate, if it gets there."""
    problems = [item.problem for item in items]
    diffsim.equilibrium(problems[:1], tol=0.3)  # compiles
    row: dict[str, Any] | None = None
    errors, timing = {}, {"solver_equal_time_l2": math.nan}
    for tolerance in _SOLVER_TOLERANCES:
        start = time.perf_counter()
        solutions = diffsim.equilibrium(problems, tol=tolerance)
        batched = (time.perf_counter() - start) / len(items)
        errors = measure([s.u for s in solutions])
        if batched <= seconds:
            timing["solver_equal_time_l2"] = errors["l2"]["mean"]
        if errors["l2"]["mean"] <= target and row is None:
            row = {**errors, "tolerance": tolerance, "iterations": float(np.mean([s.iterations for s in solutions]))}
            few = problems[:8]
            start = time.perf_counter()
            for problem in few:
                diffsim.equilibrium(problem, tol=tolerance)
            timing |= {"solver_batched": batched, "solver_single": (time.perf_counter() - start) / len(few)}
        if row is not None and batched > seconds:
            break
    # labels of another grid: however far it is solved, the solver stays at the error of these points
    return ("solver at equal error", row, timing) if row is not None else ("solver on the same points", errors, timing)


def _costs(model, train, timing: dict[str, float]) -> None:
    """Seconds that went into the surrogate before its first prediction."""
    minutes = (getattr(getattr(model, "card", None), "trained", None) or {}).get("minutes_used")
    if minutes is not None:
        timing["training"] = 60.0 * float(minutes)
    if train is not None and "solver_batched" in timing:
        timing["labels"] = len(train["u"]) * timing["solver_batched"]  # a lower bound: labels are solved further


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _percent(value: float | None) -> str:
    if value is None:
        return f"{'-':>8}"
    return f"{100 * value:8.3f}" if value < 10 else f"{100 * value:8.2g}"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{1e3 * value:.3g} ms"
