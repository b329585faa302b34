"""What the update does with the gradient: drag against its rivals, limits and equal pace, and what stability costs."""

import math
from collections.abc import Callable

import numpy as np
import torch

from ...optimizers import OPTIMIZERS
from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import compare, interval, spread
from ..testbed import trial, tuned

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
        for lr in (grid if profile == "full" else grid[1:3])
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
        f"{_listed(freer)}. It depends on the rival."
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
    left.legend(fontsize=7, loc="upper left")
    names = list(METHODS)
    for shift, noise, color in ((-0.2, 0.0, "tab:blue"), (0.2, 3.0, "tab:orange")):
        shares = [100 * np.mean(records.where(part="wells", method=n, noise=noise)["test"]) for n in names]
        label = "noisy gradient" if noise else "exact gradient"
        middle.barh(np.arange(len(names)) + shift, shares, 0.4, color=color, label=label)
    middle.set_yticks(range(len(names)), names, fontsize=7)
    middle.invert_yaxis()
    middle.set(xlabel="starts that miss it [%]", title="deepest of many wells")
    middle.legend(fontsize=7)
    for name in names:
        chosen = tuned(records.where(part="network", method=name))
        curves = np.array([row["curve"] for row in chosen if not row["failed"]], dtype=float)
        if len(curves):
            steps = _steps(records) / curves.shape[1] * np.arange(1, curves.shape[1] + 1)
            style = "-" if name.startswith("drag") else "--"
            right.plot(steps, np.exp(np.log(curves).mean(0)), style, lw=2 if name == "drag" else 1.2, label=name)
    right.set(yscale="log", xlabel="step", ylabel="validation error", title="a network, lr tuned")
    right.legend(fontsize=6.5, ncols=2)


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
Gradient descent is forward Euler for the flow w' = -∇L, and inherits its limit: lr λ ≤ 2 for the largest curvature λ.
Drag puts mass into the equation, w'' = -γ w' - ∇L, and treats the friction implicitly. A heavy body needs many steps to
turn round, so a steep direction cannot throw it far in one step: at equal speed along a slope (equal lr) the limit is
lr λ < 2(1 + 2/drag), that is 42 instead of 2 at drag = 0.1. Along the flat directions nothing is lost. This is why the best
rate on a quadratic of condition κ improves from (κ-1)/(κ+1) to (√κ-1)/(√κ+1) (Polyak 1964): at κ = 100 ten times fewer steps.

Written out, s ← (s - drag·lr·g)/(1 + drag) *is* the heavy ball with momentum 1/(1 + drag) and step lr·drag/(1 + drag): the
check shows equal paths to rounding. So drag cannot beat momentum; it is a parametrisation in which the speed does not change with
the friction, which makes lr easier to choose. On a network the two differ only because 0.1 is not momentum 0.9 exactly, and
because two chaotic trainings part from the last bit.

The methods that divide by a running gradient size (AdaGrad, RMSProp, Adam) do something drag does not: they rescale each
weight, so that directions of different curvature get different steps. Where curvatures differ along the axes of the weights, as
in networks, this lowers the condition number itself, and inertia only takes the root of it. The claim confuses the two.

Among wells, inertia carries a body over a barrier lower than its kinetic energy. But a step above 2/λ of the local wells
makes plain gradient descent jump out of them as well: it wanders chaotically, and as the step is lowered settles where the
landscape is lowest. An adaptive method does so because its step does not shrink with the gradient. Escaping is a matter of the
size of the steps, and of lowering it slowly, more than of inertia.""",
    cases=_drag_cases,
    measure=_drag_measure,
    judge=_drag_judge,
    draw=_drag_draw,
)

CLAIMS: tuple[Claim, ...] = (DRAG,)
