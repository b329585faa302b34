"""Honest evaluation: the whole distribution of errors, next to what costs nothing and to the solver itself."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    each
        The errors of every model, where several were evaluated (trainings with other seeds): `errors` are their means.
    spread
        Standard deviations of `errors` over the models (of a sample: n - 1); None for a single one.
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
    each: list[dict[str, dict[str, float]]] = field(default_factory=list)
    spread: dict[str, dict[str, float]] | None = None

    @property
    def break_even(self) -> float:
        """Predictions needed before the surrogate has paid for itself, in batches; infinite where it never does."""
        return self._break_even("batched")

    @property
    def break_even_single(self) -> float:
        """The same where problems come one by one."""
        return self._break_even("single")

    def _break_even(self, way: str) -> float:
        saved = self.timing.get(f"solver_{way}", math.nan) - self.timing.get(f"surrogate_{way}", math.nan)
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
            "each": self.each,
            "spread": self.spread,
            "baselines": self.baselines,
            "certificate": self.certificate,
            "label_error": self.label_error,
            "same_grid": self.same_grid,
            "worst_items": self.worst_items,
            "notes": self.notes,
            "timing": {
                **self.timing,
                "break_even": self.break_even,
                "break_even_single": self.break_even_single,
            },
        }
        return _plain(content)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, atomically; two evaluations differ in the block "timing" alone."""
        store.write_json(path, self.as_dict())

    def table(self) -> str:
        """The report for people."""
        rows = [("surrogate" if self.spread is None else f"surrogate, mean of {len(self.each)}", self.errors)]
        if self.spread is not None:
            rows.append(("  standard deviation", self.spread))
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
                reached = [
                    _percent(t.get(key)).strip() for key in ("solver_equal_time_single_l2", "solver_equal_time_l2")
                ]
                lines.append(f"  solver at equal time: mean L2 error {reached[0]} % alone, {reached[1]} % batched")
                verdicts = [_verdict(n) for n in (self.break_even_single, self.break_even)]
                lines.append(f"  break-even: {verdicts[0]} alone, {verdicts[1]} batched")
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
    train: Dataset | None = None,
) -> Report:
    """Measure a surrogate on items it was not trained on, beside baselines that any user could have instead.

    Parameters
    ----------
    model
        What `train` or `load` returned, or any object with ``.task`` and ``.fields(problems)`` or ``.from_frames(...)``.
        A list of them, one per seed, is reported by its mean and spread.
    data
        Equilibria of known problems, or transients.
    part
        "test": what the model has not seen. That is the test split of data it was trained on, and all items of other
        data; the report says which. Another split, a list of item numbers, or None for all items. Where `data` is too
        small for a test split, all items are used, and the report says so.
    tol
        Relative L2 error up to which a certified prediction counts as accepted.
    most
        At most so many items (the first ones).
    progress
        Called with a line at every stage.
    train
        Data whose training split the baselines learn from; default: that of `data`, without the items evaluated.

    Raises
    ------
    ProblemError
        Where there is nothing to evaluate on, or model and data are of different tasks.
    """
    say = progress or (lambda line: None)
    models = list(model) if isinstance(model, list | tuple) else [model]
    if not models:
        raise ProblemError("evaluate got an empty list of models; give at least one.")
    model = models[0]
    notes: list[str] = []
    if len({one.task for one in models}) > 1:
        raise ProblemError("the models are of different tasks; evaluate those of one task together.")
    chosen = _chosen(models, data, part, notes)[:most]
    if not len(chosen):
        raise ProblemError(f"the part {part!r} of {data!r} holds no items; give another one, or None for all.")
    if model.task != data.task and not (model.task == "coefficients" and data.task == "transient"):
        raise ProblemError(
            f"the model is for task {model.task!r}, the data for {data.task!r}; give data of the model's task."
        )
    items = [data[int(i)] for i in chosen]
    measure = Measure(items)
    say(f"predicting {len(items)} items")
    predicted = [_predicted(one, items) for one in models]
    each = [measure(fields) for fields, _ in predicted]
    errors, timing = _mean(each), _mean([timing for _, timing in predicted])
    report: dict[str, Any] = {"certificate": None, "label_error": None, "same_grid": None}
    if len(models) > 1:
        report |= {"each": each, "spread": _deviation(each)}
    if model.task == "coefficients":
        certified = [
            _certified(m, items, fields, tol, measure) for m, (fields, _) in zip(models, predicted, strict=True)
        ]
        violations = sum(row["violations"] for row, _ in certified)
        report["certificate"] = _mean([row for row, _ in certified]) | {"violations": violations}
        timing["certificate"] = _mean([seconds for _, seconds in certified])
    rows: dict[str, dict[str, Any]] = {}
    train_numbers = np.setdiff1d(data.split["train"], chosen) if train is None else train.split["train"]
    known = (data if train is None else train).arrays(train_numbers) if len(train_numbers) > 1 else None
    if known is None:
        notes.append("no training split in these data: baselines that learn from it are left out")
    for name, make in _learning_free(model.task, known, items):
        say(f"baseline: {name}")
        try:
            rows[name] = measure(make())
        except ProblemError as error:
            notes.append(f"{name} left out: {error}")
    if model.task == "coefficients":
        say("baseline: the solver")
        name, row, solver_timing = _solver(items, measure, errors["l2"]["mean"], timing)
        rows[name] = row
        timing.update(solver_timing)
        _costs(models, known, timing)
    if data.labels == "restricted-fine":
        own = np.stack([s.u for s in diffsim.equilibrium([item.problem for item in items], tol=1e-10)])
        report["label_error"] = measure(own)
        own_measure = Measure([Item(item.problem, u) for item, u in zip(items, own, strict=True)])
        report["same_grid"] = _mean([own_measure(fields) for fields, _ in predicted])
    worst = np.argsort(-np.mean([measure.l2(fields) for fields, _ in predicted], axis=0), kind="stable")[:5]
    title = f"{getattr(getattr(model, 'card', None), 'model', type(model).__name__)} on {data!r}"
    numbers = [int(chosen[i]) for i in worst]
    return Report(title, len(items), errors, rows, worst_items=numbers, notes=notes, timing=timing, **report)


def _chosen(models, data: Dataset, part, notes: list[str]) -> np.ndarray:
    """Numbers of the items to evaluate on; what there is to say of the choice is added to `notes`."""
    seen: set[str] = set()
    for one in models:
        seen.update((getattr(getattr(one, "card", None), "trained", None) or {}).get("seen", ()))
    origins = getattr(data, "origins", None)
    if part == "test" and seen and origins is not None:
        fresh = np.array([origin not in seen for origin in origins])
        if fresh.all():
            notes.append(f"no item of these data was in the training: all {len(data)} are used, not a split of them")
            return data.indices(None)
        test = data.indices("test")
        if not fresh[test].all():
            known = len(test) - int(fresh[test].sum())
            notes.append(f"{known} items of the test split are problems that the training has seen: they are left out")
            test = test[fresh[test]]
        if len(test):
            return test
        if not fresh.any():
            notes.append("the training has seen all items of these data: these errors say nothing of others")
    chosen = data.indices(part)
    if not len(chosen) and part == "test":
        notes.append("too few different items for a test split: all were used; training may have seen them")
        return data.indices(None)
    return chosen


def _mean(rows: list):
    """The mean of numbers, or of dicts of them, key by key."""
    if isinstance(rows[0], dict):
        return {key: _mean([row[key] for row in rows]) for key in rows[0]}
    return float(np.mean(rows)) if len(rows) > 1 else rows[0]


def _deviation(rows: list):
    """The same of standard deviations."""
    if isinstance(rows[0], dict):
        return {key: _deviation([row[key] for row in rows]) for key in rows[0]}
    return float(np.std(rows, ddof=1)) if np.isfinite(rows).all() else math.nan


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
        for operator, u, guess in zip(self.operators, self.labels, fields, strict=True):
            yield operator, operator.enter(np.asarray(guess)) - operator.enter(u)

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


def _certified(model, items, fields, tol, measure: "Measure") -> tuple[dict[str, float], float]:
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


def _solver(
    items, measure: "Measure", target: float, surrogate: dict[str, float]
) -> tuple[str, dict[str, Any], dict[str, float]]:
    """(name, errors, timing) of the solver, stopped where its mean L2 error is that of the surrogate, if it gets there.

    `surrogate` holds the seconds per item that the surrogate took; how far the solver comes in them is in the timing.
    """
    problems = [item.problem for item in items]
    diffsim.equilibrium(problems[:1], tol=0.3)  # compiles
    row: dict[str, Any] | None = None
    errors, timing = {}, {"solver_equal_time_l2": math.nan, "solver_equal_time_single_l2": math.nan}
    for tolerance in _SOLVER_TOLERANCES:
        start = time.perf_counter()
        solutions = diffsim.equilibrium(problems, tol=tolerance)
        batched = (time.perf_counter() - start) / len(items)
        few = problems[:8]
        start = time.perf_counter()
        for problem in few:
            diffsim.equilibrium(problem, tol=tolerance)
        single = (time.perf_counter() - start) / len(few)
        errors = measure([s.u for s in solutions])
        if batched <= surrogate["surrogate_batched"]:
            timing["solver_equal_time_l2"] = errors["l2"]["mean"]
        if single <= surrogate["surrogate_single"]:
            timing["solver_equal_time_single_l2"] = errors["l2"]["mean"]
        if errors["l2"]["mean"] <= target and row is None:
            row = {**errors, "tolerance": tolerance, "iterations": float(np.mean([s.iterations for s in solutions]))}
            timing |= {"solver_batched": batched, "solver_single": single}
        if row is not None and batched > surrogate["surrogate_batched"] and single > surrogate["surrogate_single"]:
            break
    # labels of another grid: however far it is solved, the solver stays at the error of these points
    return ("solver at equal error", row, timing) if row is not None else ("solver on the same points", errors, timing)


def _costs(models, train, timing: dict[str, float]) -> None:
    """Seconds that went into one surrogate before its first prediction."""
    records = [getattr(getattr(model, "card", None), "trained", None) or {} for model in models]
    if all("minutes_used" in record for record in records):
        timing["training"] = 60.0 * float(np.mean([record["minutes_used"] for record in records]))
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


def _verdict(predictions: float) -> str:
    if math.isnan(predictions):
        return "unknown (no training time recorded)"
    return "never (the solver is faster)" if math.isinf(predictions) else f"after {predictions:,.0f} predictions"


def _percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return f"{'-':>8}"
    return f"{100 * value:8.3f}" if value < 10 else f"{100 * value:8.2g}"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{1e3 * value:.3g} ms"
