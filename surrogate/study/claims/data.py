"""What a surrogate learns from: fewer numbers per field, trajectories before equilibria, more and better labels."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import nn

import diffsim as ds

from ...baselines import fit_ridge, pod_ridge
from ...dataset import FINER, Item, _coarsened
from ...fields import from_problems
from ...sampling import SPECS, Spec
from ..claim import Case, Check, Claim, Finding, Records
from ..descent import Examples, descend
from ..statistics import Comparison, compare, interval, spread
from ..testbed import RESOLUTION, pairs, tuned

SEEDS = {"quick": range(2), "full": range(5)}
BATCH = 8
TESTED = 64  # problems that no arm trains on
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"

# --- (20) mapping to a low-dimensional subspace ------------------------------------------------------------------------

MEDIA = {
    "smooth": Spec("smooth", medium="lognormal", alpha=4.0, contrast=(10.0, 10.0)),
    "darcy": SPECS["darcy"],
    "rough": Spec("rough", tau=(18.0,)),
    "high contrast": Spec("high-contrast", medium="lognormal", tau=(3.0,), contrast=(1e6, 1e6)),
}
DIMENSIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIGNIFICANT = 0.01  # mean relative L2 error of the projection
SHARE = 0.1  # of the cells: below it a dimension counts as low
USELESS = 0.5  # error from which a regression says nothing
WASTE = 1.1  # factor on the regression's error that truncation may cost
_SIZES = {"quick": (100, 50, 16), "full": (400, 100, 32)}  # problems to learn from, to test on, cells per axis


def _subspace_cases(profile: str) -> list[dict]:
    train, test, resolution = _SIZES[profile]
    return [
        {"medium": medium, "seed": seed, "train": train, "test": test, "resolution": resolution}
        for medium in MEDIA
        for seed in SEEDS[profile]
    ]


def _measure_subspace(case: Case) -> dict:
    """Errors of the best linear subspaces of the training fields, on new fields, by dimension."""
    spec, n = MEDIA[case["medium"]], case["resolution"]
    problems, u = pairs(spec, case["train"], seed=case["seed"], resolution=n)
    asked, truth = pairs(spec, case["test"], "test", case["seed"], n)
    logs = [np.log(np.stack([p.diffusivity for p in some])).reshape(len(some), -1) for some in (problems, asked)]
    dimensions = [r for r in DIMENSIONS if r < case["train"]]
    seen, new = u.reshape(len(u), -1), truth.reshape(len(truth), -1)
    mean, values, shapes = _principal(seen)
    everything = fit_ridge(logs[0], seen, modes=len(seen))(logs[1])
    regressed = [_projected(everything, mean, shapes[:r]) for r in dimensions]
    r = dimensions[len(dimensions) // 2]
    projected = mean + (new - mean) @ shapes[:r].T @ shapes[:r]
    pieces = ((new - projected) ** 2).sum() + ((projected - regressed[len(dimensions) // 2]) ** 2).sum()
    return {
        "dimensions": dimensions,
        "projection": [_relative(_projected(new, mean, shapes[:r]) - new, new) for r in dimensions],
        "input": _input_errors(logs[0], logs[1], dimensions),
        "regression": [_relative(field - new, new) for field in regressed],
        "untruncated": _relative(everything - new, new),
        # theory: what rank r leaves of the training fields is the tail of the singular values (Eckart & Young 1936),
        "tail": float(((seen - _projected(seen, mean, shapes[:r])) ** 2).sum() / (values[r:] ** 2).sum()),
        # no other subspace of that dimension leaves less, here the r smoothest cosines,
        "cosines": float((values[r:] ** 2).sum() / _cosine_rest(seen - mean, n, r)),
        # and the two parts of the regression's error stand at right angles.
        "pythagoras": float(((new - regressed[len(dimensions) // 2]) ** 2).sum() / pieces),
    }


def _known(problems, u: np.ndarray) -> dict[str, np.ndarray]:
    """What `pod_ridge` learns from."""
    return {"diffusivity": np.stack([p.diffusivity for p in problems]), "source": np.ones_like(u), "u": u}


def _principal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (cells,), singular values and right singular vectors (k, cells) of centred rows (n, cells)."""
    mean = rows.mean(axis=0)
    _, values, shapes = np.linalg.svd(rows - mean, full_matrices=False)
    return mean, values, shapes


def _projected(rows: np.ndarray, mean: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    return mean + (rows - mean) @ shapes.T @ shapes


def _relative(error: np.ndarray, truth: np.ndarray) -> float:
    return float((np.linalg.norm(error, axis=1) / np.linalg.norm(truth, axis=1)).mean())


def _input_errors(seen: np.ndarray, new: np.ndarray, dimensions: list[int]) -> list[float]:
    """The same for log D, relative to its distance from the mean field: its level means nothing."""
    mean, _, shapes = _principal(seen)
    return [_relative(_projected(new, mean, shapes[:r]) - new, new - mean) for r in dimensions]


def _cosine_rest(centred: np.ndarray, n: int, r: int) -> float:
    """Squares that the projection on the r smoothest products of cosines leaves."""
    from scipy.fft import dctn

    coefficients = dctn(centred.reshape(-1, n, n), axes=(1, 2), norm="ortho")
    order = np.add.outer(np.arange(n) ** 2, np.arange(n) ** 2).reshape(-1).argsort(kind="stable")
    return float((coefficients.reshape(len(centred), -1)[:, order[r:]] ** 2).sum())


def _dimension_for(dimensions: np.ndarray, errors: np.ndarray, level: float) -> float:
    """Least dimension whose error is below the level, between the measured ones on logarithms; inf if none is."""
    below = np.flatnonzero(errors <= level)
    if not len(below):
        return math.inf
    k = int(below[0])
    if k == 0:
        return float(dimensions[0])
    fraction = math.log(errors[k - 1] / level) / math.log(errors[k - 1] / errors[k])
    return float(dimensions[k - 1] * (dimensions[k] / dimensions[k - 1]) ** fraction)


def _judge_subspace(records: Records) -> Finding:
    rows, low, free, checks = [], {}, {}, []
    cells = int(records.rows[0]["resolution"]) ** 2
    for medium in records.distinct("medium"):
        mine = records.where(medium=medium)
        r = mine["dimensions"][0]
        projection, regression = mine["projection"], mine["regression"]
        needed = np.array([_dimension_for(r, errors, SIGNIFICANT) for errors in projection])
        # dimensions that a regression can do with: those whose truncation costs it less than WASTE
        costs = regression / mine["untruncated"][:, None]
        enough = np.array([_dimension_for(r, cost, WASTE) for cost in costs])
        low[medium] = float(np.median(needed))
        useful = mine["untruncated"].mean() < USELESS
        if useful:
            free[medium] = float(np.median(enough))
        tail = np.array([_slope(r[2:7], errors[2:7]) for errors in projection])
        at32 = int(np.flatnonzero(r == 32)[0])
        slope = interval(tail)
        rows.append((
            medium, _count(low[medium]), f"{100 * projection[:, at32].mean():.2f} %",
            f"{100 * mine['input'][:, at32].mean():.0f} %", f"{-slope[0]:.2f} [{-slope[2]:.2f}, {-slope[1]:.2f}]",
            f"{100 * mine['untruncated'].mean():.1f} %", _count(free[medium]) if useful else "fails",
        ))  # fmt: skip
        checks.append(
            Check(f"{medium}: squares left over tail of the singular values", float(mine["tail"].mean()), 1.0, 1e-9)
        )
        checks.append(
            Check(f"{medium}: parts of the error at right angles", float(mine["pythagoras"].mean()), 1.0, 1e-9)
        )
        # at most 1, whatever the fields: no subspace of that dimension is better
        checks.append(Check(f"{medium}: rest over that of cosines", float(mine["cosines"].max()), 0.5, 0.5 + 1e-9))
    fits = [m for m in low if low[m] <= SHARE * cells]
    verdict = "supported" if len(fits) == len(low) else "depends" if fits else "refuted"
    said = ", ".join(f"{_count(low[m])} ({m})" for m in low)
    because = (
        f"Of {cells} numbers per field, {100 * SIGNIFICANT:g} % error needs {said}; "
        f"{100 * SHARE:g} % of the cells is {SHARE * cells:.0f}. A ridge regression loses nothing that counts with "
        + ", ".join(f"{_count(free[m])} ({m})" for m in free)
        + "."
    )
    head = (
        "medium", f"dimensions for {100 * SIGNIFICANT:g} %", "error at 32", "of log D at 32", "rate: error ~ r^-p",
        "ridge, all dimensions", f"dimensions within {WASTE:g} of it",
    )  # fmt: skip
    return Finding(verdict, because, head, tuple(rows), tuple(checks))


def _count(r: float) -> str:
    return f"{r:.0f}" if math.isfinite(r) else f"more than {DIMENSIONS[-1]}"


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Exponent of a power law through positive numbers."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _draw_subspace(records: Records, figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for medium, color in zip(records.distinct("medium"), (_GREEN, _BLUE, _ORANGE, _RED), strict=False):
        mine = records.where(medium=medium)
        r = mine["dimensions"][0]
        left.loglog(r, mine["projection"].mean(axis=0), "o-", color=color, markersize=3, label=medium)
        left.loglog(r, mine["input"].mean(axis=0), ":", color=color)
        right.loglog(r, mine["regression"].mean(axis=0), "s-", color=color, markersize=3, label=medium)
        right.loglog(r, mine["projection"].mean(axis=0), "-", color=color, linewidth=0.7, alpha=0.6)
    left.axhline(SIGNIFICANT, color=_GREY, linewidth=0.8)
    left.set(xlabel="dimensions kept", ylabel="mean relative L2 error", title="projection of u (dotted: of log D)")
    right.set(xlabel="dimensions kept", title="ridge regression (thin: its projection)")
    left.legend(fontsize=8)


SUBSPACE = Claim(
    number=20,
    name="subspace",
    says="A field can be mapped to a few numbers without significant loss",
    hypothesis=(
        f"The best linear subspace (principal components of training equilibria) of at most {100 * SHARE:g} % of the "
        f"cells represents new equilibria to a mean relative L2 error of {100 * SIGNIFICANT:g} %. Supported where that "
        "holds in the median over the seeds for all four kinds of media, refuted where for none, depends otherwise."
    ),
    settings=(
        "Unit square, f = 1, u = 0 on the sides; media: lognormal of contrast 10, smooth (alpha 4); Darcy 12/3 (tau 3); the "
        "same, rough (tau 18); lognormal of contrast 1e6. 32 x 32 cells, 400 fields to learn from and 100 new ones, 5 seeds. "
        "The regression is ridge from log D to the components, its penalty by leave-one-out error."
    ),
    why=(
        "Among all linear subspaces of dimension r the leading principal components leave the least of the fields they were "
        "computed from, and what they leave is the tail of the singular values (Eckart & Young 1936); the first check is that "
        "identity. How fast the tail falls is a matter of smoothness: a set of functions with s derivatives in two dimensions "
        "has linear widths that fall like r^(-s/2) (Kolmogorov). An equilibrium has two derivatives more than its source, but "
        "at a jump of D its gradient jumps too, and as the place of the jump varies from item to item it has about one and a "
        "half: the worst case is an error like r^(-3/4), and smooth media do better. High contrast hurts in another way: the "
        "solution is nearly constant on patches and steep between them, wherever these happen to be.\n\n"
        "The map is smoothing in one direction only. log D itself, which is not the solution of anything, has no such "
        "subspace when it is rough (dotted): compress what comes out, not what goes in.\n\n"
        "Whether a loss is significant depends on what else is lost. The error of a regression in a subspace splits at right "
        "angles into what the subspace cannot hold and what was predicted wrongly in it; once the second dominates, further "
        "dimensions buy nothing. A model that predicts better needs more of them: for one at 0.2 % error the subspace that "
        "serves the ridge regression is the bottleneck. Linear subspaces are also why a DeepONet, whose output is a "
        "combination of r learned functions, cannot fall below these curves, while a U-Net or a multigrid network can."
    ),
    cases=_subspace_cases,
    measure=_measure_subspace,
    judge=_judge_subspace,
    draw=_draw_subspace,
)

# --- (23) trajectories before equilibria -------------------------------------------------------------------------------

TRAJECTORIES = SPECS["transient"]
FRAMES = TRAJECTORIES.frames
PHASE = {"quick": 40, "full": 160}  # updates of each of the two phases
FILMED = {"quick": 16, "full": 64}  # trajectories
FEW, MORE = 8, 32  # equilibria
STEPS_OF_23 = (3e-3, 1e-2)
ARMS_OF_23 = ("equilibria only", "trajectories first", "their equilibria first")


def _pretraining_cases(profile: str) -> list[dict]:
    lrs = STEPS_OF_23 if profile == "full" else STEPS_OF_23[1:]
    return [
        {"arm": arm, "labels": labels, "lr": lr, "seed": seed, "phase": PHASE[profile], "filmed": FILMED[profile]}
        for seed in SEEDS[profile]
        for arm in ARMS_OF_23
        for labels in (FEW, MORE)
        for lr in lrs
    ]


def _measure_pretraining(case: Case) -> dict:
    """Error on new equilibria after two phases of equally many updates; the arms differ in what the first one sees."""
    seed, phase, lr = case["seed"], case["phase"], case["lr"]
    few, validation, test = (_equilibria(part, count, seed) for part, count in
                             (("train", case["labels"]), ("validation", 32), ("test", TESTED)))  # fmt: skip
    if case["arm"] == "equilibria only":
        network = few.network(seed)
        fine = _train(network, few, 2 * phase, lr, seed)
    else:
        network = few.network(seed)
        network.load_state_dict(_prepared(case["arm"], seed, case["filmed"], phase))
        fine = _train(network, few, phase, lr, seed)
    if not fine:
        return {"test": math.nan, "validation": math.nan}
    return {"test": test.error(network), "validation": validation.error(network)}


@lru_cache(maxsize=8)
def _equilibria(part: str, count: int, seed: int) -> Examples:
    """With a forcing channel more, for the frame that is not there. Training items follow those that were filmed."""
    examples = Examples.of(*pairs(TRAJECTORIES, count, part, seed))
    return Examples(examples.coefficients, _with_frame(examples.forcing), examples.target)


def _with_frame(forcing: torch.Tensor, frame: torch.Tensor | None = None) -> torch.Tensor:
    frame = torch.zeros_like(forcing[:, :1]) if frame is None else frame
    return torch.cat([forcing, frame], dim=1)


@lru_cache(maxsize=4)
def _prepared(arm: str, seed: int, filmed: int, phase: int) -> dict[str, torch.Tensor]:
    """Weights after a first phase on the filmed problems: on pairs of frames, or on where they settle."""
    examples = _films(seed, filmed)[ARMS_OF_23.index(arm) - 1]
    network = examples.network(seed)
    _train(network, examples, phase, STEPS_OF_23[1], seed)
    return network.state_dict()


@lru_cache(maxsize=2)
def _films(seed: int, count: int) -> tuple[Examples, Examples]:
    """Pairs of successive frames of `count` trajectories, and the equilibria of the same problems."""
    numbers = [50_000 + i for i in range(count)]  # none of those that equilibria are drawn from
    problems = [TRAJECTORIES.problem(seed, i, RESOLUTION) for i in numbers]
    frames = []
    for i, problem in zip(numbers, problems, strict=True):
        times = TRAJECTORIES.times(problem)
        start = TRAJECTORIES.initial(seed, i, problem)
        frames.append(ds.simulate(problem, start, until=float(times[-1]), save=times).u)
    settled = Examples.of(problems, np.stack([e.u for e in ds.equilibrium(problems)]))
    scaled = from_problems(problems)
    u = np.stack([scaled.normalised(frame) for frame in np.moveaxis(np.array(frames), 1, 0)], axis=1)
    before, after = (torch.from_numpy(x.reshape(-1, 1, RESOLUTION, RESOLUTION)) for x in (u[:, :-1], u[:, 1:]))
    repeat = lambda x: x.repeat_interleave(FRAMES - 1, dim=0)  # noqa: E731
    films = Examples(repeat(settled.coefficients), _with_frame(repeat(settled.forcing), before), after)
    return films, Examples(settled.coefficients, _with_frame(settled.forcing), settled.target)


def _train(network: nn.Module, examples: Examples, steps: int, lr: float, seed: int) -> bool:
    rng = np.random.default_rng([seed, steps])
    size = min(BATCH, len(examples))
    draw = lambda: torch.from_numpy(rng.choice(len(examples), size, replace=False))  # noqa: E731
    return descend(network, lambda step: examples[draw()].errors(network).mean(), steps, lr)


def _judge_pretraining(records: Records) -> Finding:
    def compared(labels: int, other: str) -> Comparison:
        pick = lambda arm: tuned(records.where(arm=arm, labels=labels)).by_seed("test")  # noqa: E731
        return compare(pick(ARMS_OF_23[1]), pick(other))

    sizes = records.distinct("labels")
    rows = []
    for labels in sizes:
        errors = [100 * tuned(records.where(arm=arm, labels=labels))["test"] for arm in ARMS_OF_23]
        ratios = [str(compared(labels, arm)) for arm in (ARMS_OF_23[0], ARMS_OF_23[2])]
        rows.append((str(labels), *(spread(e) for e in errors), *ratios))
    helps = {labels: compared(labels, ARMS_OF_23[0]) for labels in sizes}
    rival = {labels: compared(labels, ARMS_OF_23[2]) for labels in sizes}
    helped = [labels for labels in sizes if helps[labels].smaller]
    beaten = [labels for labels in sizes if rival[labels].larger]
    filmed = records.rows[0]["filmed"]
    verdict = "refuted" if not helped else "supported" if len(helped) == len(sizes) and not beaten else "depends"
    because = (
        "Error with trajectories first over error without, equal updates: "
        + ", ".join(f"{helps[n]} with {n} equilibria" for n in sizes)
        + f". Over that of a first phase on the {filmed} equilibria of the filmed problems, which cost less to compute: "
        + ", ".join(f"{rival[n]}" for n in sizes)
        + "."
    )
    if verdict == "depends":
        because += (
            " It depends on what else could be had: frames help where equilibria are few, and where they are at hand; "
            "who can compute should compute equilibria."
            if beaten
            else " It depends on how many equilibria there are."
        )
    head = ("equilibria", *(f"{arm} [%]" for arm in ARMS_OF_23), "second over first", "second over third")
    return Finding(verdict, because, head, tuple(rows))


def _draw_pretraining(records: Records, figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    for ax, labels in zip(axes, records.distinct("labels"), strict=False):
        for k, (arm, color) in enumerate(zip(ARMS_OF_23, (_GREY, _BLUE, _GREEN), strict=True)):
            errors = 100 * tuned(records.where(arm=arm, labels=labels))["test"]
            ax.plot(np.full(len(errors), k), errors, "o", color=color, alpha=0.6, markersize=5)
            ax.plot([k - 0.2, k + 0.2], [errors.mean()] * 2, color=color)
        ax.set_xticks(range(3), [arm.replace(" ", "\n", 1) for arm in ARMS_OF_23], fontsize=8)
        ax.set(title=f"{labels} equilibria", xlim=(-0.5, 2.5), ylim=(0, None))
    axes[0].set_ylabel("mean relative L2 error [%]")


PRETRAINING = Claim(
    number=23,
    name="pretraining",
    says="Learning the next frame of trajectories first makes a better predictor of equilibria",
    hypothesis=(
        "With equally many updates, a network trained first to predict the next frame and then on a few equilibria has a "
        "smaller error on new equilibria than one trained on the equilibria alone. Supported where this holds beyond chance "
        "for both numbers of equilibria and computing the equilibria of the filmed problems instead is not better; refuted "
        "where it holds for neither number; depends otherwise."
    ),
    settings=(
        f"Lognormal media (contrast 2 to 20), random smooth sources, u = 0 on the sides, 16 x 16 cells; "
        f"{PHASE['full']} + {PHASE['full']} updates of Adam on batches of {BATCH}, step size from {STEPS_OF_23} by the "
        f"validation error; {FILMED['full']} trajectories of {FRAMES} frames over half a time constant; {FEW} or {MORE} "
        f"equilibria of other problems; 5 seeds. Frames enter as one more channel of the forcing, empty for equilibria."
    ),
    why=(
        "A frame tells what the coefficient does: u(t + dt) = E u(t) + (1 - E) u*, E = exp(-dt A). A network that has "
        "learned to advance any frame of any problem has learned A, and the equilibrium is where advancing changes nothing. "
        "But the information is unevenly spread. Over a step dt the fast modes are gone and the slow ones have hardly moved: "
        "of the component of u* along a mode of rate a, a frame shows the share 1 - exp(-a dt), first-order small for the slow "
        "modes, which are most of the equilibrium. What is learned first is therefore local smoothing; the global part is "
        "left to the second phase.\n\n"
        "The price has to be counted as well. A trajectory of k frames costs at least k linear solves, an equilibrium one. "
        "Whoever can simulate can also compute equilibria, so the fair rival of k frames of a problem is that problem's "
        "equilibrium. Trajectories are worth having where they come for free: recorded by sensors on systems whose "
        "equilibrium nobody has waited for."
    ),
    cases=_pretraining_cases,
    measure=_measure_pretraining,
    judge=_judge_pretraining,
    draw=_draw_pretraining,
)

# --- (24) error against quantity and quality ---------------------------------------------------------------------------

COUNTS = (4, 8, 16, 32, 64)  # problems a network learns from
RIDGE_COUNTS = (16, 32, 64, 128, 256, 512)
NOISE = 0.3  # of the root mean square of a label
QUALITIES = ("exact", "noisy", "own grid")
COMPARED = (8, 64)  # problems, where the qualities are compared
UPDATES = 200
LR = 1e-2


def _quantity_cases(profile: str) -> list[dict]:
    if profile == "quick":
        return [
            {"model": model, "quality": quality, "count": count, "seed": seed, "updates": 60}
            for seed in SEEDS[profile]
            for model, quality, count in [("network", "exact", n) for n in (4, 8, 16)]
            + [("ridge", quality, n) for quality in QUALITIES for n in (16, 64, 256)]
        ]
    network = [("exact", n) for n in COUNTS] + [(quality, n) for quality in QUALITIES[1:] for n in COMPARED]
    ridge = [(quality, n) for quality in QUALITIES for n in RIDGE_COUNTS]
    return [
        {"model": model, "quality": quality, "count": count, "seed": seed, "updates": UPDATES}
        for seed in SEEDS[profile]
        for model, settings in (("network", network), ("ridge", ridge))
        for quality, count in settings
    ]


def _measure_quantity(case: Case) -> dict:
    """Error on labels of full quality, after learning from labels of the case's."""
    seed, count = case["seed"], case["count"]
    problems, exact, own = _labelled("train", count, seed)
    asked, truth, _ = _labelled("test", TESTED, seed)
    u = own if case["quality"] == "own grid" else exact
    if case["quality"] == "noisy":
        size = np.sqrt((u**2).mean(axis=(1, 2), keepdims=True))
        u = u + NOISE * size * np.random.default_rng([seed, 24]).standard_normal(u.shape)
    if case["model"] == "ridge":
        predicted = pod_ridge(_known(problems, u), [Item(p, field) for p, field in zip(asked, truth, strict=True)])
        return {"test": _relative((predicted - truth).reshape(TESTED, -1), truth.reshape(TESTED, -1))}
    examples, test = Examples.of(problems, u), Examples.of(asked, truth)
    network = examples.network(seed)
    fine = _train(network, examples, case["updates"], LR, seed)
    return {"test": test.error(network) if fine else math.nan}


def _labelled(part: str, count: int, seed: int):
    """Darcy problems, their equilibria from a grid FINER times finer, averaged, and those of their own grid."""
    most = max(RIDGE_COUNTS) if count > max(COUNTS) else max(COUNTS)
    return tuple(column[:count] for column in _all_labelled(part, most, seed))


@lru_cache(maxsize=6)
def _all_labelled(part: str, count: int, seed: int):
    problems, own = pairs("darcy", count, part, seed)
    finer = pairs("darcy", count, part, seed, FINER * RESOLUTION)[1]
    return problems, np.stack([_coarsened(u, FINER) for u in finer]), own


def _judge_quantity(records: Records) -> Finding:
    seeds = records.distinct("seed")
    exponents, damage, rows = {}, {}, []
    for model in records.distinct("model"):
        exact = records.where(model=model, quality="exact")
        exponents[model] = interval(np.array([
            _slope(exact.where(seed=seed)["count"], exact.where(seed=seed)["test"]) for seed in seeds
        ]))  # fmt: skip
        for quality in records.where(model=model).distinct("quality"):
            mine = records.where(model=model, quality=quality)
            counts = sorted(mine.distinct("count"))
            for count in counts:
                ratio = compare(mine.where(count=count).by_seed("test"), exact.where(count=count).by_seed("test"))
                rows.append((model, quality, str(count), spread(100 * mine.where(count=count)["test"]),
                             "" if quality == "exact" else str(ratio)))  # fmt: skip
                if quality != "exact" and count in (counts[0], counts[-1]):
                    damage[model, quality, count] = ratio
    falls = all(high < 0 for _, _, high in exponents.values())
    hurt = [key for key, ratio in damage.items() if ratio.larger]
    verdict = "refuted" if not falls else "supported" if len(hurt) == len(damage) else "depends"
    because = (
        "Error ~ N^-p with p = "
        + ", ".join(
            f"{-mean:.2f} [{-high:.2f}, {-low:.2f}] ({model})" for model, (mean, low, high) in exponents.items()
        )
        + ". Error over that with exact labels: "
        + ", ".join(f"{ratio} ({model}, {quality}, N = {count})" for (model, quality, count), ratio in damage.items())
        + "."
    )
    if verdict == "depends":
        spared = [
            f"{quality} labels at N = {count} ({model})"
            for model, quality, count in damage
            if (model, quality, count) not in hurt
        ]
        because += f" Quantity always helps; the quality does not matter beyond chance for {', '.join(spared)}."
    return Finding(verdict, because, ("model", "labels", "N", "error [%]", "over exact"), tuple(rows))


def _draw_quantity(records: Records, figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    colors = dict(zip(QUALITIES, (_BLUE, _RED, _ORANGE), strict=True))
    names = {"exact": "fine labels", "noisy": f"with {100 * NOISE:g} % noise", "own grid": "of the own grid"}
    for ax, model in zip(axes, records.distinct("model"), strict=False):
        for quality in records.where(model=model).distinct("quality"):
            mine = records.where(model=model, quality=quality)
            counts = sorted(mine.distinct("count"))
            errors = [100 * mine.where(count=count)["test"] for count in counts]
            mean = [e.mean() for e in errors]
            half = [e.std(ddof=1) if len(e) > 1 else 0.0 for e in errors]
            style = "o-" if len(counts) > 2 else "s"
            ax.errorbar(
                counts, mean, half, fmt=style, color=colors[quality], markersize=4, label=names[quality], capsize=2
            )
        ax.set(xscale="log", yscale="log", xlabel="problems learned from", title=model)
        ticks = sorted(records.where(model=model).distinct("count"))
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("mean relative L2 error [%]")
    axes[0].set_yticks([3, 5, 10, 20, 30], ["3", "5", "10", "20", "30"])
    axes[1].legend(fontsize=8)


QUANTITY = Claim(
    number=24,
    name="quantity-and-quality",
    says="The error falls with the number of problems learned from, and with the quality of their labels",
    hypothesis=(
        "On labels of full quality the error falls as a power of the number of problems (the exponent's interval excludes "
        "0) for a network and for ridge regression, and each defect (noise; labels of the coarse grid) raises it beyond "
        "chance, at the smallest and the largest number compared. Supported where all of this holds, refuted where an "
        "exponent is not negative, depends where some defect does not matter."
    ),
    settings=(
        f"Darcy media on 16 x 16 cells; full quality: solved on 64 x 64 and averaged; own grid: solved on 16 x 16; noisy: full "
        f"quality with white noise of {100 * NOISE:g} % of each label's root mean square. Tested on {TESTED} problems of full "
        f"quality. Network: the plain residual one, {UPDATES} updates on batches of {BATCH} at step size {LR:g}, whatever the "
        f"number of problems; ridge: from log D to 64 components. 5 seeds."
    ),
    why=(
        "Fitting p parameters to N independent examples leaves a squared error of order p / N from chance alone, so the error "
        "falls like N^-1/2 where that dominates, and more slowly where more examples also let a model use more of its "
        "dimensions (ridge regression chooses its penalty anew for each N). The curve ends at what does not depend on N: what the "
        "model cannot represent, what was not optimised in the updates allowed, and what its input does not say. Here the "
        "medium is sampled at 16 x 16 points while the labels come from 64 x 64: that part cannot be learned by anyone.\n\n"
        "Noise and bias are defects of different kinds. Independent noise of relative size s adds s^2 times (degrees of freedom "
        "used) / (numbers observed) to the squared error; every label consists of 256 noisy numbers "
        "and a smoothing model averages over them. With few examples and many updates a flexible model follows the noise of each "
        "label instead; as N grows the noise averages out. Labels of the own grid are wrong in the same way every time; a model "
        "learns that error faithfully, and more of them do not help. "
        "Spend on bias before noise, and on quantity until the curve bends."
    ),
    cases=_quantity_cases,
    measure=_measure_quantity,
    judge=_judge_quantity,
    draw=_draw_quantity,
)

CLAIMS: tuple[Claim, ...] = (SUBSPACE, PRETRAINING, QUANTITY)
