"""What the update does with the gradient: drag against its rivals, limits and equal pace, and what stability costs."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from ...dataset import Dataset
from ...optimizers import OPTIMIZERS
from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import compare, interval, spread
from ..testbed import joined, pairs, step_seconds, steps_to, trial, tuned, watched

SEEDS = {"quick": 2, "full": 5}
SMALL = {"width": 8, "blocks": 3, "epochs": 12}  # of testbed.PLAIN's network: 96 steps in half a second

Gradient = Callable[[torch.Tensor], torch.Tensor]


def descend(optimizer: str, start: torch.Tensor, gradient: Gradient, steps: int, lr: float, anneal=False, **options):
    """Weights after each of `steps` updates by a row of the table, (steps + 1, *start.shape)."""
    w = start.clone().requires_grad_()
    rule = OPTIMIZERS[optimizer].build([w], lr, **options)
    path = [start.clone()]
    for step in range(steps):
        if anneal:
            rule.param_groups[0]["lr"] = lr * (1 - step / steps)
        w.grad = gradient(w.detach())
        rule.step()
        path.append(w.detach().clone())
    return torch.stack(path)


# --- (7) drag -------------------------------------------------------------------------------------------------------

# name -> (row of the optimizers' table, its options, step sizes to choose from on a network)
METHODS: dict[str, tuple[str, dict[str, float], tuple[float, ...]]] = {
    "drag": ("drag", {}, (0.1, 0.3, 1.0, 3.0)),
    "drag and pull": ("drag", {"pull": 0.1}, (0.1, 0.3, 1.0, 3.0)),
    "sgd": ("sgd", {}, (0.03, 0.1, 0.3, 1.0)),
    "momentum": ("momentum", {}, (0.01, 0.03, 0.1, 0.3)),
    "adagrad": ("adagrad", {}, (0.01, 0.03, 0.1, 0.3)),
    "rmsprop": ("rmsprop", {}, (0.001, 0.003, 0.01, 0.03)),
    "adam": ("adam", {}, (0.003, 0.01, 0.03, 0.1)),
    "adamw": ("adamw", {"weight_decay": 0.01}, (0.003, 0.01, 0.03, 0.1)),
}
RIVALS = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
LINEAR = ("sgd", "momentum", "drag", "drag and pull")
CONDITION = 100.0  # largest over smallest eigenvalue of the quadratic on which the rates are measured
RATE_STEPS = 400
WELL_LR = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
WELL_HEIGHT, WELL_STEPS, WELL_STARTS = 0.5, 300, 100
WELL_CENTER = 0.3  # of the wide bowl, off the symmetry of the wells, where a step could be right by chance


def _drag_cases(profile: str) -> list[dict]:
    seeds = range(SEEDS[profile])
    cases: list[dict] = [{"part": "limit", "method": name} for name in LINEAR]
    cases += [{"part": "rate", "method": name} for name in ("sgd", "drag")] + [{"part": "same", "method": "drag"}]
    cases += [
        {"part": "wells", "method": name, "noise": noise, "seed": seed}
        for name in METHODS
        for noise in (0.0, 3.0)
        for seed in seeds
    ]
    return cases + [
        {"part": "network", "method": name, "lr": lr, "seed": seed}
        for name, (_, _, grid) in METHODS.items()
        for lr in (grid if profile == "full" else grid[1:2])
        for seed in seeds
    ]


def _drag_measure(case: Case) -> dict:
    return _DRAG_PARTS[case["part"]](case)


def _on_network(case: Case) -> dict:
    row, options, _ = METHODS[case["method"]]
    return trial({"seed": case["seed"], "lr": case["lr"], "optimizer": row, **options, **SMALL})


def _limit(case: Case) -> dict:
    """Where steps begin to grow on ``lambda w^2 / 2``, by running the optimizer itself; in units of lr lambda."""
    row, options, _ = METHODS[case["method"]]
    low, high = 0.0, 64.0
    for _ in range(4):  # each run looks at 200 curvatures at once and narrows the bracket 200 times
        curvature = torch.linspace(low, high, 201, dtype=torch.float64)
        path = descend(row, torch.ones(201, dtype=torch.float64), lambda w, c=curvature: c * w, 600, 1.0, **options)
        size = path.abs().nan_to_num(math.inf, math.inf, math.inf)
        grown = size[-100:].amax(0) > size[300:400].amax(0)
        first = int(torch.nonzero(grown)[0])
        low, high = float(curvature[first - 1]), float(curvature[first])
    return {"limit": high, "theory": OPTIMIZERS[row].real_limit(**options)}


def _rate(case: Case) -> dict:
    """Contraction per step on eigenvalues in [1 / CONDITION, 1], at the step size (and drag) that theory calls best."""
    root = math.sqrt(CONDITION)
    curvature = torch.linspace(1 / CONDITION, 1, 64, dtype=torch.float64)
    if case["method"] == "sgd":
        expected = (CONDITION - 1) / (CONDITION + 1)
        path = _quadratic("sgd", curvature, 2 / (1 + 1 / CONDITION))
    else:
        expected = (root - 1) / (root + 1)  # Polyak 1964
        drag = expected**-2 - 1  # the friction whose momentum is the best one
        path = _quadratic("drag", curvature, 4 / (1 + 1 / root) ** 2 * (1 + drag) / drag, drag=drag)
    sizes = path.norm(dim=1)
    half = RATE_STEPS // 2
    return {"rate": float((sizes[-1] / sizes[half]) ** (1 / half)), "theory": expected}


def _same(case: Case) -> dict:
    """Largest difference between drag and the heavy ball of momentum 1 / (1 + drag) along one path, over its size."""
    drag, lr = OPTIMIZERS["drag"].options["drag"], 1.0
    curvature = torch.linspace(0.01, 2.0, 64, dtype=torch.float64)
    path = _quadratic("drag", curvature, lr)
    ball = _quadratic("momentum", curvature, lr * drag / (1 + drag), momentum=1 / (1 + drag))
    return {"difference": float((path - ball).abs().max() / path.abs().max())}


def _quadratic(row: str, curvature: torch.Tensor, lr: float, **options) -> torch.Tensor:
    return descend(row, torch.ones_like(curvature), lambda w: curvature * w, RATE_STEPS, lr, **options)


def _wells(case: Case) -> dict:
    """Share of starts that end outside the deepest well of the plane ``sum (w - c)^2 / 2 + h (1 - cos 2 pi w)``."""
    row, options, _ = METHODS[case["method"]]
    ends = {}
    for lr in WELL_LR:
        random = torch.Generator().manual_seed(case["seed"])
        start = 8 * torch.rand(2, WELL_STARTS, 2, generator=random) - 4  # validation and test starts

        def gradient(w, random=random):
            return (
                (w - WELL_CENTER)
                + 2 * math.pi * WELL_HEIGHT * torch.sin(2 * math.pi * w)
                + case["noise"] * torch.randn(w.shape, generator=random)
            )

        end = descend(row, start, gradient, WELL_STEPS, lr, anneal=True, **options)[-1]
        outside = ~(end.abs().amax(-1) < 0.5)  # NaN counts as outside
        ends[lr] = ((outside.sum(1) + 0.5) / (WELL_STARTS + 1)).tolist()  # never 0: ratios of it are compared
    best = min(WELL_LR, key=lambda lr: ends[lr][0])
    return {"lr_chosen": best, "validation": ends[best][0], "test": ends[best][1]}


_DRAG_PARTS = {"limit": _limit, "rate": _rate, "same": _same, "wells": _wells, "network": _on_network}


def _drag_judge(records: Records) -> Finding:
    checks = [
        Check(f"largest lr * lambda, {row['method']}", row["limit"], row["theory"], 1e-3 * row["theory"])
        for row in records.where(part="limit")
    ]
    # at the best setting roots coincide and the error falls as n rho^n: over the second half of n steps 2^(2/n) too slow
    slack = 2.2 ** (2 / RATE_STEPS) - 1
    checks += [
        Check(f"contraction per step at condition {CONDITION:g}, {row['method']}", row["rate"], row["theory"], slack)
        for row in records.where(part="rate")
    ]
    same = records.where(part="same").rows[0]["difference"]
    checks.append(Check("drag against the heavy ball of momentum 1/(1 + drag), on a quadratic", same, 0.0, 1e-11))

    network = {name: tuned(records.where(part="network", method=name)) for name in METHODS}
    error = {name: chosen.by_seed("test") for name, chosen in network.items()}
    missed = {
        (name, noise): records.where(part="wells").by_seed("test", method=name, noise=noise)
        for name in METHODS
        for noise in (0.0, 3.0)
    }
    faster = {name: compare(error["drag"], error[name]) for name in METHODS}
    escapes = {(name, noise): compare(missed["drag", noise], missed[name, noise]) for name, noise in missed}
    limit = {row["method"]: row["limit"] for row in records.where(part="limit")}
    rows = tuple(
        (
            name,
            f"{limit[name]:.4g}" if name in limit else "nonlinear",
            f"{network[name].distinct('lr')[0]:g}",
            spread(network[name]["test"]),
            str(faster[name]) if name != "drag" else "1",
            *(_percent(missed[name, noise].values()) for noise in (0.0, 3.0)),
        )
        for name in METHODS
    )
    beaten = [name for name in RIVALS if faster[name].smaller]
    ahead = [name for name in RIVALS if faster[name].larger]
    freer = [name for name in RIVALS if any(escapes[name, noise].smaller for noise in (0.0, 3.0))]
    better_than_descent = limit["drag"] > limit["sgd"] and "sgd" in beaten and "sgd" in freer
    if better_than_descent and set(beaten) == set(RIVALS) == set(freer):
        verdict = "supported"
    elif "sgd" not in beaten and "sgd" not in freer:
        verdict = "refuted"
    else:
        verdict = "depends"
    because = (
        f"Drag carries lr * lambda to {limit['drag']:.3g} where gradient descent stops at {limit['sgd']:.3g}, and it is the "
        f"heavy ball with momentum 1/(1 + drag) (paths agree to {same:.0e}). After {_steps(records)} steps on a network, all "
        f"step sizes tuned, its error is {faster['sgd']} times that of gradient descent, {faster['momentum']} of momentum, "
        f"{faster['adagrad']} of AdaGrad, {faster['rmsprop']} of RMSProp, {faster['adam']} of Adam: better than "
        f"{_listed(beaten)}, worse than {_listed(ahead)}. Among many wells it misses the deepest less often than "
        f"{_listed(freer)}.{' It depends on the rival.' if verdict == 'depends' else ''}"
    )
    head = (
        "method",
        "stable up to lr λ",
        "lr chosen",
        "test error",
        "drag's error over it",
        "wells missed",
        "with noise",
    )
    return Finding(verdict, because, head, rows, tuple(checks))


def _steps(records: Records) -> int:
    return max(int(row["steps"]) for row in records.where(part="network"))


def _listed(names) -> str:
    return ", ".join(names) or "none"


def _percent(values) -> str:
    mean, low, high = (100 * x for x in interval(np.array(list(values))))
    return f"{mean:.0f} %" + (f" ± {(high - low) / 2:.0f}" if math.isfinite(high - low) else "")


def _drag_draw(records: Records, figure) -> None:
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    x = np.geomspace(0.05, 100, 300)
    for name in LINEAR:
        row, options, _ = METHODS[name]
        left.plot(x, [OPTIMIZERS[row].spectral_radius(-v, **options) for v in x], label=name)
    for row in records.where(part="limit"):
        left.plot(row["limit"], 1.0, "k.", ms=5)
    left.set(
        xscale="log", ylim=(0.4, 1.6), xlabel="lr λ", ylabel="growth per step", title="on a quadratic (• measured)"
    )
    left.axhline(1, color="0.6", lw=0.8, zorder=0)
    left.legend(fontsize=7, loc="lower left")
    names = list(METHODS)
    for shift, noise, color in ((-0.2, 0.0, "tab:blue"), (0.2, 3.0, "tab:orange")):
        shares = [100 * np.mean(records.where(part="wells", method=n, noise=noise)["test"]) for n in names]
        label = "noisy gradient" if noise else "exact"
        middle.barh(np.arange(len(names)) + shift, shares, 0.4, color=color, label=label)
    middle.set_yticks(range(len(names)), names, fontsize=7)
    middle.set(xlabel="starts that miss it [%]", title="deepest of many wells", ylim=(len(names) - 0.4, -2.1))
    middle.legend(fontsize=7, loc="upper center", ncols=2)
    for name in names:
        chosen = tuned(records.where(part="network", method=name))
        curves = np.array([row["curve"] for row in chosen if not row["failed"]], dtype=float)
        if len(curves):
            steps = _steps(records) / curves.shape[1] * np.arange(1, curves.shape[1] + 1)
            style = "-" if name.startswith("drag") else "--"
            right.plot(steps, np.exp(np.log(curves).mean(0)), style, lw=2 if name == "drag" else 1.2, label=name)
    right.set(yscale="log", xlabel="step", ylabel="validation error", title="a network, lr tuned")
    right.legend(fontsize=6.5, ncols=2)
    for axes in (left, middle, right):
        axes.title.set_fontsize(10)


DRAG = Claim(
    number=7,
    name="drag",
    says="Drag in the gradient update stabilises training, speeds it up and lets it leave poor minima",
    hypothesis=(
        "Against gradient descent, momentum, AdaGrad, RMSProp, Adam and AdamW, each at its own best step size, drag has a "
        "lower error after equal steps on a network, and misses the deepest of many wells less often. Supported if both "
        "hold (95 % interval of the paired ratio below 1) against every one of them, refuted if neither holds against plain "
        "gradient descent, else it depends on the rival."
    ),
    settings=(
        "Quadratics in float64, the optimizers themselves run; a landscape of 2-D wells, (w - 0.3)²/2 + (1 - cos 2πw)/2 per axis, "
        "100 starts in [-4, 4]², 300 steps, step size falling linearly to 0 and chosen of 7 on other starts, exact gradient "
        "and gradient with noise of standard deviation 3; residual network of 8 channels and 3 blocks on 64 Darcy fields of "
        "16², batches of 8, 96 steps, cosine schedule, step size chosen of 4 (half a decade apart) on the validation split, "
        "5 seeds. drag = 0.1, pull 0 or 0.1, decay of AdamW 0.01."
    ),
    why="""\
Gradient descent is forward Euler for the flow w' = -∇L, and inherits its limit: lr λ ≤ 2 for the largest curvature λ. Drag
puts mass into the equation, w'' = -γ w' - ∇L, and treats the friction implicitly. A heavy body needs many steps to turn
round, so a steep direction cannot throw it far in one step: at equal speed along a slope (equal lr) the limit is lr λ < 2(1
+ 2/drag), that is 42 instead of 2 at drag = 0.1. Along the flat directions nothing is lost. This is why the best rate on a
quadratic of condition κ improves from (κ-1)/(κ+1) to (√κ-1)/(√κ+1) (Polyak 1964): at κ = 100 ten times fewer steps.

Written out, s ← (s - drag·lr·g)/(1 + drag) *is* the heavy ball with momentum 1/(1 + drag) and step lr·drag/(1 + drag): the
check shows equal paths to rounding. So drag cannot beat momentum; it is a parametrisation in which the speed does not
change with the friction, which makes lr easier to choose. On a network the two differ only because 0.1 is not momentum 0.9
exactly, and because two chaotic trainings part from the last bit.

The methods that divide by a running gradient size (AdaGrad, RMSProp, Adam) do something drag does not: they rescale each
weight, so that directions of different curvature get different steps. Where curvatures differ along the axes of the
weights, as in networks, this lowers the condition number itself, and inertia only takes the root of it. The claim confuses
the two.

Among wells, inertia carries a body over a barrier lower than its kinetic energy. But a step above 2/λ of the local wells
makes plain gradient descent jump out of them as well: it wanders chaotically, and as the step is lowered settles where the
landscape is lowest. An adaptive method does so because its step does not shrink with the gradient. Escaping is a matter of
the size of the steps, and of lowering it slowly, more than of inertia.""",
    cases=_drag_cases,
    measure=_drag_measure,
    judge=_drag_judge,
    draw=_drag_draw,
)

# --- (8) limits and equal pace ----------------------------------------------------------------------------------------

# name -> options of training
PACES: dict[str, dict] = {
    "plain": {},
    "clip": {"clip": 1.0},
    "clip per unit": {"clip_ratio": 0.1},
    "equal layers": {"equalise": True},
}
# (base, variants, step sizes)
PACE_ARMS = (
    ("sgd", ("plain", "clip", "clip per unit", "equal layers"), (0.1, 0.3, 1.0, 3.0)),
    ("adam", ("plain", "clip", "equal layers"), (0.01, 0.03, 0.1)),
    ("muon", ("plain",), (0.02, 0.05, 0.1)),
)
SPIKED = ("plain", "clip")  # variants that also train on data with spikes
SPIKED_LR = {"sgd": (0.003, 0.01, 0.03), "adam": ()}  # there descent needs smaller steps as well
SPIKE = 0.02  # four of 64 labels are that small: their relative errors, and gradients, are 50 times the others'


@lru_cache(maxsize=1)
def _spiked() -> Dataset:
    problems, u = pairs("darcy", 64)
    u = u.copy()
    u[::16] *= SPIKE
    return joined((problems, u), *(pairs("darcy", n, part) for n, part in ((32, "validation"), (64, "test"))))


def _pace_cases(profile: str) -> list[dict]:
    seeds = range(SEEDS[profile])
    cases: list[dict] = []
    for base, variants, grid in PACE_ARMS:
        for variant in variants:
            cases += [{"part": "pace", "base": base, "variant": variant, "seed": seed} for seed in seeds]
            grids = {"clean": grid if profile == "full" else grid[1:2]}
            if variant in SPIKED and base in SPIKED_LR:
                grids["spiked"] = (*SPIKED_LR[base], *grid) if profile == "full" else grid[:1]
            cases += [
                {"part": data, "base": base, "variant": variant, "lr": lr, "seed": seed}
                for data, step_sizes in grids.items()
                for lr in step_sizes
                for seed in seeds
            ]
    return cases


def _pace_measure(case: Case) -> dict:
    options = {"seed": case["seed"], "optimizer": case["base"], **SMALL, **PACES[case["variant"]]}
    if case["part"] == "pace":
        reports = watched(options | {"epochs": 1, "warmup": 0.0, "schedule": "constant"})
        return {"gradients": _unevenness(reports, "gradient"), "updates": _unevenness(reports, "update_ratio")}
    return trial(options | {"lr": case["lr"]}, _spiked() if case["part"] == "spiked" else None)


def _unevenness(reports, column: str) -> float:
    """Standard deviation over the kernels of log10 of a column, averaged over the steps: 1 is a spread of a decade."""
    rows = [[getattr(r, column) for r in step if r.name.endswith("weight")] for step in reports]
    logs = np.log10(np.maximum(np.array(rows), 1e-30))
    return float(logs.std(axis=1).mean())


def _pace_judge(records: Records) -> Finding:
    arms = [(base, variant) for base, variants, _ in PACE_ARMS for variant in variants]
    chosen = {(base, v): tuned(records.where(part="clean", base=base, variant=v)) for base, v in arms}
    error = {arm: rows.by_seed("test") for arm, rows in chosen.items()}
    # Muon is itself a normalised update; the plain method beside it is Adam, which also moves its first and last layers
    rival = lambda base: ("adam" if base == "muon" else base, "plain")  # noqa: E731
    normalised = [arm for arm in arms if arm[1] != "plain" or arm[0] == "muon"]
    gain = {arm: compare(error[arm], error[rival(arm[0])]) for arm in normalised}
    pace = {arm: records.where(part="pace", base=arm[0], variant=arm[1]) for arm in arms}
    spiked = {
        (base, variant): tuned(records.where(part="spiked", base=base, variant=variant))
        for base in SPIKED_LR
        for variant in SPIKED
    }
    rows = tuple(
        (
            *arm,
            f"{chosen[arm].distinct('lr')[0]:g}",
            _usable(records.where(part="clean", base=arm[0], variant=arm[1])),
            spread(chosen[arm]["test"]),
            str(gain[arm]) if arm in gain else "1",
            spread(spiked[arm]["test"]) if arm in spiked else "",
            f"{pace[arm]['gradients'].mean():.2f}",
            f"{pace[arm]['updates'].mean():.2f}",
        )
        for arm in arms
    )
    rescued = {
        base: compare(spiked[base, "clip"].by_seed("test"), spiked[base, "plain"].by_seed("test")) for base in SPIKED_LR
    }
    everything = [*gain.values(), *rescued.values()]
    say = lambda arm: "Muon" if arm[0] == "muon" else f"{arm[1]} ({arm[0]})"  # noqa: E731
    better = [say(arm) for arm, c in gain.items() if c.smaller]
    worse = [say(arm) for arm, c in gain.items() if c.larger]
    if all(c.smaller for c in everything):
        verdict = "supported"
    elif not any(c.smaller for c in everything):
        verdict = "refuted"
    else:
        verdict = "depends"
    because = (
        f"At equal steps and each at its best step size the error falls beyond chance with: {_listed(better)}; it rises with: "
        f"{_listed(worse)}. Muon is {gain['muon', 'plain']} times Adam, equal layers "
        f"{gain['sgd', 'equal layers']} times plain descent, clipping {gain['sgd', 'clip']} times. With a few labels that make "
        f"spikes of the gradient, clipping is {rescued['sgd']} times plain descent and {rescued['adam']} times plain Adam."
        + (" It depends on the base method and on whether gradients have spikes." if verdict == "depends" else "")
    )
    level = records.where(part="pace", base="sgd", variant="equal layers")["gradients"].max()
    check = Check("spread of log10 gradients over layers, equal layers", float(level), 0.0, 1e-5)
    head = (
        "base",
        "variant",
        "lr",
        "usable lr",
        "test error",
        "over plain",
        "with spikes",
        "spread of gradients",
        "of updates",
    )
    return Finding(verdict, because, head, rows, (check,))


def _usable(records: Records) -> str:
    """From which to which step size of the grid the mean error stays within 1.5 times the best."""
    means = {lr: float(records.where(lr=lr)["test"].mean()) for lr in records.distinct("lr")}
    finite = [m for m in means.values() if math.isfinite(m)]
    good = [lr for lr, mean in means.items() if finite and mean <= 1.5 * min(finite)]
    return f"{min(good):g} to {max(good):g}" if good else "none"


def _pace_draw(records: Records, figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    colors = {"sgd": "tab:blue", "adam": "tab:orange", "muon": "tab:green"}
    marks = {"plain": "o-", "clip": "s--", "clip per unit": "^:", "equal layers": "v-."}
    for base, variants, _ in PACE_ARMS:
        for variant in variants:
            style = {"color": colors[base], "ms": 4, "lw": 1.2}
            for axes, part in ((left, "clean"), (middle, "spiked")):
                rows = records.where(part=part, base=base, variant=variant)
                steps = sorted(rows.distinct("lr"))
                means = [rows.where(lr=lr)["test"].mean() for lr in steps]
                axes.plot(steps, means, marks[variant], **style, label=f"{base}, {variant}")
            pace = records.where(part="pace", base=base, variant=variant)
            right.plot(pace["gradients"], pace["updates"], marks[variant][0], ms=5, color=colors[base], alpha=0.8)
    for axes, title in ((left, "clean labels"), (middle, "some labels 50 times too small")):
        axes.set(xscale="log", yscale="log", xlabel="step size (ends: diverged)", title=title)
        axes.set_ylim(0.06, 1.2)
    left.set_ylabel("test error")
    figure.legend(*left.get_legend_handles_labels(), fontsize=7, ncols=4, loc="outside upper center")
    right.set(
        xlabel="spread of gradients [decades]", ylabel="spread of relative updates [decades]", title="across layers"
    )
    for axes in (left, middle, right):
        axes.title.set_fontsize(10)
        axes.xaxis.label.set_fontsize(9)


PACE = Claim(
    number=8,
    name="equal-pace",
    says="Clipping the gradient, and normalising the update so that all layers learn at the same pace, helps",
    hypothesis=(
        "Added to gradient descent or Adam, each at its own best step size, clipping of the joint norm, clipping per unit, or "
        "gradients of equal size in all layers lower the test error after equal steps; so does Muon against Adam; and clipping "
        "does so where a few labels make spikes of the gradient. Supported if all of them do (95 % interval of the paired "
        "ratio below 1), refuted if none does, else it depends."
    ),
    settings=(
        "Residual network of 8 channels and 3 blocks, 64 Darcy fields of 16², batches of 8, 96 steps, cosine schedule; joint "
        "norm at most 1, unit norm at most 0.1 of its weights'; step size chosen of 3 or 4 on the validation split (of 7 for "
        "gradient descent among spikes); 5 seeds. "
        f"Spikes: 4 of the 64 labels multiplied by {SPIKE:g}, so that their relative errors are about {1 / SPIKE:g} times the "
        "others'. Spread: standard deviation over kernels of log10 of the root mean square, over the first epoch."
    ),
    why="""\
Clipping is a limit on the distance of one step, not on the sharpness that a step may meet. While the norm stays below the
limit it does nothing; while it stays above, it turns descent into steps of fixed length, whose best lr is another. Its use
is insurance: a rare batch with a gradient fifty times the usual one would undo the progress of fifty steps, and cutting it
costs nothing, because such a gradient says little about the mean. That is the case of heavy-tailed gradients, for which
clipped descent has proven rates and plain descent has none (Zhang et al. 2020). Adam does something like it by itself, but
with a memory: a spike stays in its running mean of squares for 1/(1 - β2) steps and shrinks the steps that follow.

Layers differ because the gradient of each is a product of the Jacobians of the others. Where the sizes differ by decades, a
step size right for one is wrong for most. Dividing each layer's gradient by its own size makes it right for all at once, at
a price: a layer that has converged, whose gradient should vanish, is kept moving by its noise. So the joint norm is kept
here, and only its distribution is changed.

Equal *gradients* are not equal *pace*: pace is the update over the weight. Muon goes further and gives equal speed to all
directions within a layer (all singular values of the update about one): it is steepest descent in the spectral norm, which
is how a layer acts on the next. What helps is thus not that numbers are equal, but that the step is measured in the norm in
which the loss is smooth.""",
    cases=_pace_cases,
    measure=_pace_measure,
    judge=_pace_judge,
    draw=_pace_draw,
)


# --- (21) what stability costs ----------------------------------------------------------------------------------------

# name -> (options of training, step sizes); "plain" is gradient descent without any of them
STABILISERS: dict[str, tuple[dict, tuple[float, ...]]] = {
    "plain": ({"optimizer": "sgd"}, (0.05, 0.1, 0.3)),
    "clip": ({"optimizer": "sgd", "clip": 1.0}, (0.1, 0.3)),
    "equal layers": ({"optimizer": "sgd", "equalise": True}, (0.1, 0.3)),
    "drag": ({"optimizer": "drag"}, (0.3, 1.0)),
    "adam": ({"optimizer": "adam"}, (0.01, 0.03)),
    "muon": ({"optimizer": "muon"}, (0.02, 0.05)),
    "group norm": ({"optimizer": "sgd", "normalisation": "group"}, (0.1, 0.3)),
    "spectral norm": ({"optimizer": "sgd", "normalisation": "spectral"}, (0.1, 0.3)),
}


def _cost_cases(profile: str) -> list[dict]:
    seeds = range(SEEDS[profile])
    names = list(STABILISERS) if profile == "full" else ["plain", "drag", "adam", "muon"]
    cases: list[dict] = [{"part": "seconds", "variant": name, "repeats": 3} for name in names]
    for name in names:
        grid = STABILISERS[name][1]
        cases += [
            {"part": "steps", "variant": name, "lr": lr, "seed": seed}
            for lr in (grid if profile == "full" else grid[1:2])
            for seed in seeds
        ]
    return cases


def _cost_measure(case: Case) -> dict:
    options, _ = STABILISERS[case["variant"]]
    if case["part"] == "steps":
        return trial({"seed": case["seed"], "lr": case["lr"], **options, **SMALL})
    plain, _ = STABILISERS["plain"]
    pooled: tuple[list[float], list[float]] = ([], [])
    for _ in range(case["repeats"]):  # side by side, so that whatever slows the machine slows both
        for seconds, means in zip(pooled, (plain, options), strict=True):
            seconds += step_seconds({"seed": 0, "lr": 1e-3, **SMALL, "epochs": 3, **means})
    reference, own = (float(np.quantile(seconds, 0.1)) for seconds in pooled)
    return {"seconds": own, "ratio": own / reference}


def _cost_judge(records: Records) -> Finding:
    names = records.where(part="steps").distinct("variant")
    chosen = {name: tuned(records.where(part="steps", variant=name)) for name in names}
    ratio = {row["variant"]: row["ratio"] for row in records.where(part="seconds")}
    level = {int(row["seed"]): min(row["curve"]) for row in chosen["plain"]}  # what plain descent reaches, per seed
    steps = {
        name: {int(r["seed"]): steps_to(r["curve"], r["steps"], level[int(r["seed"])]) for r in chosen[name]}
        for name in names
    }
    rivals = [name for name in names if name != "plain"]
    saved = {name: compare(steps[name], steps["plain"]) for name in rivals}
    net = {name: compare({s: n * ratio[name] for s, n in steps[name].items()}, steps["plain"]) for name in rivals}
    pays = [name for name in rivals if net[name].smaller and not net[name].lost]
    loses = [name for name in rivals if net[name].larger or net[name].lost == len(steps[name])]
    verdict = "supported" if len(pays) == len(rivals) else "depends" if pays else "refuted"
    best = min(rivals, key=lambda name: net[name].ratio if net[name].seeds and not net[name].lost else math.inf)
    dearest = max(rivals, key=ratio.__getitem__)
    because = (
        f"A step costs from {min(ratio[n] for n in rivals):.2f} to {ratio[dearest]:.2f} times a plain one ({dearest}). To the "
        f"error at which plain descent ends, the processor time is less with {_listed(pays)} ({best}: {net[best]} times), and "
        f"more, or the error is not reached, with {_listed(loses)}."
        + (" It depends on the means." if verdict == "depends" else "")
    )
    rows = tuple(
        (
            name,
            f"{chosen[name].distinct('lr')[0]:g}",
            f"{ratio[name]:.2f}",
            spread(chosen[name]["test"]),
            _reached(saved[name]) if name in saved else "1",
            _reached(net[name]) if name in net else "1",
        )
        for name in names
    )
    head = ("means", "lr", "time per step over plain", "test error", "steps to plain's error", "time to plain's error")
    return Finding(verdict, because, head, rows)


def _reached(c) -> str:
    return str(c) + (f" ({c.lost} of {c.lost + c.seeds} never)" if c.lost else "")


def _cost_draw(records: Records, figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    ratio = {row["variant"]: row["ratio"] for row in records.where(part="seconds")}
    names = list(ratio)
    left.barh(names, [ratio[name] for name in names], color="tab:gray")
    left.axvline(1, color="k", lw=0.8)
    left.invert_yaxis()
    left.set(xlabel="processor time per step, plain = 1", title="price")
    left.tick_params(axis="y", labelsize=8)
    for k, name in enumerate(names):
        rows = tuned(records.where(part="steps", variant=name))
        curves = np.array([row["curve"] for row in rows if not row["failed"]], dtype=float)
        if len(curves):
            time = ratio[name] * max(row["steps"] for row in rows) / curves.shape[1] * np.arange(1, curves.shape[1] + 1)
            style = {"color": "k", "lw": 2.2} if name == "plain" else {"color": f"C{k % 10}", "lw": 1.2}
            right.plot(time, np.exp(np.log(curves).mean(0)), label=name, **style)
    right.set(yscale="log", xlabel="processor time [plain steps]", ylabel="validation error", title="what it buys")
    right.legend(fontsize=7, ncols=2)


COST = Claim(
    number=21,
    name="price-of-stability",
    says="Means that stabilise a training cost extra time, which faster convergence repays",
    hypothesis=(
        "For each means, processor time per step (relative to plain gradient descent, measured side by side) times the steps "
        "it needs to the error at which plain descent ends is below that of plain descent. Supported if this holds for all "
        "means (95 % interval of the paired ratio below 1, reached for all seeds), refuted if for none, else it depends."
    ),
    settings=(
        "Residual network of 8 channels and 3 blocks, 64 Darcy fields of 16², batches of 8, 96 steps, cosine schedule, step "
        "size of plain descent chosen of 3 and of the others of 2 on the validation split, 5 seeds; processor seconds "
        "of one thread per step, the lowest tenth of 63 steps, alternating with plain ones."
    ),
    why="""\
The price of a step is that of the forward and backward passes, which are convolutions over a batch of fields, plus what is
done once per weight: a norm (clipping), a running mean (momentum, drag, averages), a running mean of squares and a root
(Adam). The second part does not grow with the number of cells or the size of the batch, so it is visible in a network as
small as this one, and vanishes on a real grid. Dearer are what works on activations (normalisation: once per cell and
channel, forward and backward) and what multiplies matrices of weights (Muon's five Newton-Schulz steps, the power iteration
of a spectral norm).

The gain is a matter of the condition number. Descent needs about κ ln(1/ε) steps on a quadratic, inertia √κ ln(1/ε), and a
good preconditioner brings κ itself down; for κ in the hundreds that is a factor against some ten percent of price. A limit
that is seldom reached (clipping) buys nothing in a training that does not blow up: it is insurance, and pays in another
currency.

A fair account uses equal time, not equal steps, and each method's own step size: most published gains shrink when the rival
is tuned as well (Schmidt, Schneider & Hennig 2021).""",
    cases=_cost_cases,
    measure=_cost_measure,
    judge=_cost_judge,
    draw=_cost_draw,
)

CLAIMS: tuple[Claim, ...] = (DRAG, PACE, COST)
