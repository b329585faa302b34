"""Who forecasts best where: every method on the same unseen plates, over noise, sensors, and how much is seen.

One call makes everything and goes on where it was killed: the folder keeps the examples, one forecaster per seed, and one
line per plate. The table is recomputed from these lines alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from diffsim import store
from diffsim.errors import StoreError
from diffsim.forecast import METHODS, forecast

from .forecast import FILE, Examples, Forecaster, Kind, Query, examples, finished, observed, shares
from .gaussian import Gaussians, learn
from .sampling import Spec
from .sensors import filled

ROWS = "rows.jsonl"
_CHUNK = 100  # media per file of examples
LEARNED = ("learned-linear", "learned")
ALL = ("last frame", *METHODS, *LEARNED)
TEST_SEED = 10_000  # of plates, plus the seed of the row: no training uses it
_WHOLE_FIELD = ("linear-inverse", *LEARNED)  # the others answer where they have read, and are filled harmonically


@dataclass(frozen=True)
class Plan:
    """What is trained, and what it is compared on.

    Attributes
    ----------
    media, per, model, options
        As in `forecast.forecaster`.
    minutes
        Processor minutes per network.
    seeds, plates
        Seeds of network, plates and noise; test plates of each.
    noises
        Standard deviations relative to the largest value of the equilibrium.
    sensors
        Numbers of cells read, drawn at random; None: all.
    fractions
        Duration observed over the slowest time constant.
    """

    spec: "str | Spec" = "transient"
    resolution: int = 16
    media: tuple[int, ...] = (500, 400, 100, 100)
    per: int = 4
    model: str = "multigrid"
    minutes: float | None = 0.75
    options: dict = field(
        default_factory=lambda: {"width": 16, "cycles": 2, "levels": 3, "depth": 1, "threads": 1, "clock": "cpu"}
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    plates: int = 3
    noises: tuple[float, ...] = (0.0, 0.001, 0.01, 0.05)
    sensors: tuple[int | None, ...] = (None, 64, 16, 4)
    fractions: tuple[float, ...] = (0.1, 0.3, 1.0)
    frames: int = 16

    @property
    def kind(self) -> Kind:
        """The transients it is about; seed 0 is for training."""
        return Kind(Spec.of(self.spec), self.resolution, 0)


def make(
    plan: Plan, out: "str | Path", seeds: Sequence[int] | None = None, say: Callable[[str], None] | None = None
) -> list[dict]:
    """All rows of a plan, from the folder where they are there already.

    Parameters
    ----------
    seeds
        Only these of the plan's; several processes may each make one.

    Returns
    -------
    list of dict
        Per plate and setting: seed, plate, noise, sensors, fraction, and per method ``[error of the equilibrium at the
        sensors, over all cells, |ln(rate / true)|]``, errors relative in L2; nan where a method gives none. "covered":
        what the forecaster's 90 % intervals hold: field, share of cells, rate.
    """
    out, say = Path(out), say or (lambda line: None)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in plan.seeds if seeds is None else seeds:
        journal = store.Journal(out / f"{seed}-{ROWS}")
        done = journal.records()
        model = None
        for plate in range(plan.plates):
            old = [row for row in done if row["plate"] == plate]
            if not old:
                if model is None:
                    model = _forecaster(plan, out, seed, say)
                say(f"seed {seed}: plate {plate + 1} of {plan.plates}")
                old = list(_plate(plan, model, seed, plate))
                journal.append({"plate": plate, "rows": old})
            else:
                old = old[0]["rows"]
            rows += old
    return rows


def material(plan: Plan, out: Path, say: Callable[[str], None]) -> tuple[Gaussians, Examples]:
    """Second moments and examples, each chunk computed once per folder."""
    kind = plan.kind
    identity = {
        "spec": kind.spec.as_dict(),
        "resolution": plan.resolution,
        "media": list(plan.media[:3]),
        "per": plan.per,
    }

    def kept(name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        path = out / f"{name}.safetensors"
        if not path.exists():
            say(f"simulating: {name}")
            store.write_safetensors(path, compute(), identity)
        arrays, record = store.read_safetensors(path)
        if record != identity:
            raise StoreError(f"{path} was made for another plan, {record}; give another folder.")
        return arrays

    moments, network, choice, _ = shares(plan.media)
    gaussians = Gaussians(kind.grid.shape, **kept("moments", lambda: vars_of(learn(*kind.items(moments)))))
    parts = []
    for name, numbers, per in (("training", network, plan.per), ("validation", choice, 1)):
        chunks = [numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)]
        made = [
            kept(f"{name}-{k}", lambda chunk=chunk, per=per: chunk_of(kind, gaussians, chunk, per))
            for k, chunk in enumerate(chunks)
        ]
        parts.append((np.concatenate([a["channels"] for a in made]), np.concatenate([a["u"] for a in made])))
    return gaussians, Examples(kind.prior, *parts)


def vars_of(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """The arrays of second moments."""
    return {"factors": gaussians.factors, "rest": gaussians.rest}


def chunk_of(kind: Kind, gaussians: Gaussians, numbers: Sequence[int], per: int) -> dict[str, np.ndarray]:
    """The arrays of one file of examples."""
    return dict(zip(("channels", "u"), examples(kind, gaussians, numbers, per), strict=True))


def _forecaster(plan: Plan, out: Path, seed: int, say) -> Forecaster:
    folder = out / f"forecaster-{seed}"
    if (folder / FILE).exists():
        return Forecaster.load(folder)
    gaussians, data = material(plan, out, say)
    say(f"training the network of seed {seed}")
    held_out = shares(plan.media)[3]
    return finished(plan.kind, gaussians, data, held_out, seed, plan.model, plan.minutes, folder, **plan.options)


def _plate(plan: Plan, model: Forecaster, seed: int, plate: int):
    """The rows of one unseen plate."""
    unseen = Kind(model.kind.spec, model.kind.resolution, TEST_SEED + seed)
    (problem,), (start,) = unseen.items([plate])
    rng = np.random.default_rng([TEST_SEED, seed, plate])
    for fraction in plan.fractions:
        for noise in plan.noises:
            for sensors in plan.sensors:
                query = observed(
                    problem, start, rng, fraction, noise, problem.grid.size if sensors is None else sensors, plan.frames
                )
                setting = {"seed": seed, "plate": plate, "noise": noise, "sensors": sensors, "fraction": fraction}
                yield {**setting, **compared(model, query)}


def compared(model: Forecaster, query: Query) -> dict:
    """Errors of every method on one query."""
    seen = ~np.isnan(query.frames[0])
    at_sensors = query.frames[:, seen]
    result: dict = {}

    def enter(name: str, u: np.ndarray, rate: float) -> None:
        errors = [
            float(np.linalg.norm((u - query.u)[part]) / np.linalg.norm(query.u[part])) for part in (seen, np.s_[:])
        ]
        error = abs(math.log(rate / query.rate)) if rate > 0 else None
        result[name] = [*errors, error]

    def spread(values: np.ndarray) -> np.ndarray:
        field = np.full(seen.shape, np.nan)
        field[seen] = values
        return filled(field[None], query.problem.grid)[0]

    enter("last frame", spread(at_sensors[-1]), math.nan)
    for name in METHODS:
        if name in _WHOLE_FIELD:
            made = forecast(query.times, query.frames, name, problem=model.kind.prior)
            enter(name, made.u, made.rate)
        else:
            made = forecast(query.times, at_sensors, name)
            enter(name, spread(made.u), made.rate)
    learned = model.forecast(query.times, query.frames)
    enter("learned-linear", learned.posterior.u, learned.posterior.rate)
    enter("learned", learned.u, learned.forecast.rate)
    interval = model.interval(learned)
    assert interval is not None
    assert interval.cells is not None
    assert interval.rate is not None
    inside = (interval.cells[0] <= query.u) & (query.u <= interval.cells[1])
    result["covered"] = [
        result["learned"][1] <= interval.l2_relative,
        float(inside.mean()),
        interval.rate[0] <= query.rate <= interval.rate[1],
    ]
    return result


# --- what the rows say -------------------------------------------------------------------------------------------------


def summary(rows: Sequence[dict], plan: Plan, of: int = 0) -> list[dict]:
    """Per setting and method the median over all plates, and the spread of the medians of the seeds.

    Parameters
    ----------
    of
        0: errors at the sensors; 1: over all cells; 2: of the rate.
    """
    result = []
    for fraction in plan.fractions:
        for noise in plan.noises:
            for sensors in plan.sensors:
                setting = {"fraction": fraction, "noise": noise, "sensors": sensors}
                here = [row for row in rows if all(row[key] == value for key, value in setting.items())]
                medians = {}
                for name in ALL:
                    values = [row[name][of] for row in here]
                    if any(value is None for value in values):
                        continue
                    seeds = [
                        np.median([row[name][of] for row in here if row["seed"] == seed])
                        for seed in {r["seed"] for r in here}
                    ]
                    medians[name] = (float(np.median(values)), float(np.min(seeds)), float(np.max(seeds)))
                result.append({**setting, "errors": medians})
    return result


def table(rows: Sequence[dict], plan: Plan, of: int = 0) -> str:
    """Markdown: one line per setting, medians with the lowest and highest median of a seed for the best, which is bold."""
    lines = [
        "| observed | noise | sensors | " + " | ".join(ALL) + " | best: lowest and highest seed |",
        "|---" * (len(ALL) + 4) + "|",
    ]
    for line in summary(rows, plan, of):
        errors = line["errors"]
        best = min(errors, key=lambda name: errors[name][0])
        cells = [
            "-" if name not in errors else f"**{errors[name][0]:.3f}**" if name == best else f"{errors[name][0]:.3f}"
            for name in ALL
        ]
        lines.append(
            f"| {line['fraction']:g} | {100 * line['noise']:g} % | {line['sensors'] or 'all'} | {' | '.join(cells)} | "
            f"{errors[best][1]:.3f} to {errors[best][2]:.3f} |"
        )
    return "\n".join(lines)


def rates(rows: Sequence[dict], plan: Plan) -> str:
    """Markdown: by what factor the slowest rate is missed, median over plates, noises and sensors."""
    names = [name for name in ALL if name != "last frame"]
    lines = ["| observed | noise | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for fraction in plan.fractions:
        for noise in plan.noises:
            here = [row for row in rows if row["fraction"] == fraction and row["noise"] == noise]
            cells = []
            for name in names:
                known = [row[name][2] for row in here if row[name][2] is not None]
                cells.append("-" if 2 * len(known) < len(here) else f"{math.exp(float(np.median(known))):.2f}")
            lines.append(f"| {fraction:g} | {100 * noise:g} % | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def wins(rows: Sequence[dict], plan: Plan, of: int = 0) -> dict[str, int]:
    """In how many settings each method has the smallest median error."""
    best = [
        min(line["errors"], key=lambda name, line=line: line["errors"][name][0]) for line in summary(rows, plan, of)
    ]
    return {name: best.count(name) for name in ALL if name in best}


GROUPS: dict[str, Callable[[dict], bool]] = {
    "all cells read": lambda row: row["sensors"] is None,
    "all cells read, noise of 1 % and more": lambda row: row["sensors"] is None and row["noise"] >= 0.01,
    "sensors": lambda row: row["sensors"] is not None,
    "sensors, noise of 1 % and more": lambda row: row["sensors"] is not None and row["noise"] >= 0.01,
}


def overall(rows: Sequence[dict], of: int = 1) -> dict[str, dict[str, float]]:
    """Geometric mean errors over the queries of each group that the rows hold, per method."""
    result = {}
    for group, belongs in GROUPS.items():
        if here := [row for row in rows if belongs(row)]:
            means = {name: np.mean(np.log([max(row[name][of], 1e-12) for row in here])) for name in ALL}
            result[group] = {name: math.exp(float(mean)) for name, mean in means.items()}
    return result


def coverage(rows: Sequence[dict]) -> tuple[float, float, float]:
    """Shares of fields, cells and rates that the forecaster's 90 % intervals hold."""
    return tuple(float(np.mean([row["covered"][k] for row in rows])) for k in range(3))  # type: ignore[return-value]


def figure(rows: Sequence[dict], plan: Plan, path: "str | Path | None" = None):
    """Errors over the noise, one panel per number of sensors and fraction seen."""
    import matplotlib.pyplot as plt

    shown = {
        "last frame": ("0.6", ":", "v"), "exponential": ("tab:brown", ":", "x"), "dynamic-modes": ("tab:green", "--", "s"),
        "linear-inverse": ("tab:orange", "--", "^"), "learned-linear": ("tab:blue", "-", "o"), "learned": ("tab:red", "-", "D"),
    }  # fmt: skip
    lines = summary(rows, plan)
    places = np.arange(len(plan.noises))
    fig, axes = plt.subplots(
        len(plan.fractions),
        len(plan.sensors),
        figsize=(11, 7.5),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for i, fraction in enumerate(plan.fractions):
        for j, sensors in enumerate(plan.sensors):
            axis = axes[i, j]
            here = [line for line in lines if line["fraction"] == fraction and line["sensors"] == sensors]
            for name, (colour, style, marker) in shown.items():
                values = np.array([line["errors"][name] for line in here])
                axis.plot(places, values[:, 0], color=colour, ls=style, marker=marker, ms=4, label=name)
                if name == "learned":
                    axis.fill_between(places, values[:, 1], values[:, 2], color=colour, alpha=0.15, lw=0)
            axis.set_yscale("log")
            axis.set_ylim(0.01, 2.0)
            axis.grid(alpha=0.3, which="both", lw=0.4)
            axis.set_xticks(places, [f"{100 * noise:g} %" for noise in plan.noises])
            if i == 0:
                axis.set_title(f"{sensors} sensors" if sensors else "all cells")
            if j == 0:
                axis.set_ylabel(f"{fraction:g} of the time constant\nrelative L2 error")
            if i == len(plan.fractions) - 1:
                axis.set_xlabel("noise")
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    if path is not None:
        store.write_figure(fig, path)
        plt.close(fig)
    return fig


def document(rows: Sequence[dict], plan: Plan) -> str:
    """The page of tables, from rows alone."""
    where = coverage(rows)
    return "\n\n".join([
        "# Forecasts compared",
        "Made by `python -m scripts.forecast_table`; read with [forecast.md](forecast.md). "
        f"{len(plan.seeds)} seeds (network, plates, noise), {plan.plates} unseen plates each; medians over all plates where "
        "nothing else is said. Relative L2 errors.",
        "## Geometric means over queries, all cells", _overall_table(rows),
        "## Error of the equilibrium at the sensors", table(rows, plan, 0),
        "## Error over all cells", "Methods that answer only where they have read are filled in harmonically.",
        table(rows, plan, 1),
        "## Factor by which the slowest rate is missed", "Median over plates and sensors; the time to equilibrium is off as much.",
        rates(rows, plan),
        "## Coverage of the 90 % intervals of `learned`",
        f"Whole field {100 * where[0]:.0f} %, cells {100 * where[1]:.0f} %, rate {100 * where[2]:.0f} % of {len(rows)} queries.",
    ]) + "\n"  # fmt: skip


def _overall_table(rows: Sequence[dict]) -> str:
    lines = ["| queries | " + " | ".join(ALL) + " |", "|---" * (len(ALL) + 1) + "|"]
    for group, means in overall(rows).items():
        best = min(means, key=lambda name, means=means: means[name])
        cells = [f"**{means[name]:.3f}**" if name == best else f"{means[name]:.3f}" for name in ALL]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(rows: Sequence[dict], plan: Plan) -> dict:
    """Rows and plan, rounded to what is meant."""
    return {"plan": asdict(plan), "rows": [{key: _rounded(value) for key, value in row.items()} for row in rows]}


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
