"""Normalisation inside a network: does it even out gradients, and what are the two readings of "LSDR" worth."""

import math

import numpy as np
import torch

from ... import fields, models
from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import compare, spread
from ..testbed import dataset, trained, trial, tuned, watched

SEEDS = {"quick": 2, "full": 5}
SMALL = {"width": 12, "blocks": 3, "epochs": 12}  # 96 steps; 12 channels are 4 groups of 3

# base optimizer -> step sizes to choose from
GRIDS = {"sgd": (0.03, 0.1, 0.3, 1.0), "adam": (0.01, 0.03)}

# --- (10) gradients across layers -------------------------------------------------------------------------------------

KINDS = ("none", "batch", "layer", "instance", "group", "weight")
DEPTHS = (3, 12)


def _even_cases(profile: str) -> list[dict]:
    seeds = range(SEEDS[profile])
    kinds = KINDS if profile == "full" else ("none", "batch", "weight")
    cases: list[dict] = [{"part": "invariance", "kind": kind} for kind in kinds if kind != "none"]
    cases += [
        {"part": "spread", "kind": kind, "blocks": blocks, "seed": seed}
        for kind in kinds
        for blocks in DEPTHS
        for seed in seeds
    ]
    return cases + [
        {"part": "error", "kind": kind, "optimizer": base, "lr": lr, "seed": seed}
        for kind in kinds
        for base, grid in GRIDS.items()
        for lr in (grid if profile == "full" else grid[1:2])
        for seed in seeds
    ]


def _even_measure(case: Case) -> dict:
    if case["part"] == "invariance":
        return {"cosine": _radial(case["kind"])}
    options = {"seed": case["seed"], "normalisation": case["kind"], **SMALL}
    if case["part"] == "error":
        return trial(options | {"optimizer": case["optimizer"], "lr": case["lr"]})
    few = {"blocks": case["blocks"], "epochs": 1, "warmup": 0.0, "schedule": "constant", "optimizer": "sgd", "lr": 0.03}
    return {"spread": _unevenness(watched(options | few))}


def _unevenness(reports) -> float:
    """Standard deviation over the kernels of log10 of the gradient's root mean square, averaged over the steps."""
    kernel = lambda name: "weight" in name and "norm." not in name and "original0" not in name  # noqa: E731
    rows = [[report.gradient for report in step if kernel(report.name)] for step in reports]
    return float(np.log10(np.maximum(np.array(rows), 1e-30)).std(axis=1).mean())


def _radial(kind: str) -> float:
    """Largest cosine between a normalised kernel and its gradient: 0 where the size of the kernel does not matter."""
    data = dataset()
    items = [data[int(i)] for i in data.split["train"][:8]]
    inputs = fields.from_problems([item.problem for item in items])
    target = torch.from_numpy(inputs.normalised(np.stack([item.u for item in items])))
    coefficients, forcing = torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.build(
            "resnet",
            coefficients.shape[1],
            forcing.shape[1],
            inputs.shape,
            normalisation=kind,
            width=SMALL["width"],
            blocks=SMALL["blocks"],
        )
    (network(coefficients, forcing) - target).square().mean().backward()
    named = dict(network.named_parameters())
    together = ["parametrizations.weight.original1"] if kind == "weight" else ["weight", "bias"]  # what a layer scales
    cosines = []
    for block in (f"blocks.{i}.inner." for i in range(SMALL["blocks"])):
        p = torch.cat([named[block + name].detach().flatten() for name in together])
        gradient = torch.cat([_gradient(named[block + name]).flatten() for name in together])
        cosines.append(float((p @ gradient).abs() / (p.norm() * gradient.norm())))
    return max(cosines)


def _gradient(p: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _even_judge(records: Records) -> Finding:
    kinds = [kind for kind in records.where(part="spread").distinct("kind") if kind != "none"]
    uneven = {
        (kind, blocks): records.where(part="spread").by_seed("spread", kind=kind, blocks=blocks)
        for kind in ("none", *kinds)
        for blocks in DEPTHS
    }
    evens = {
        (kind, blocks): compare(uneven[kind, blocks], uneven["none", blocks]) for kind in kinds for blocks in DEPTHS
    }
    chosen = {
        (kind, base): tuned(records.where(part="error", kind=kind, optimizer=base))
        for kind in ("none", *kinds)
        for base in GRIDS
    }
    error = {arm: rows.by_seed("test") for arm, rows in chosen.items()}
    gain = {(kind, base): compare(error[kind, base], error["none", base]) for kind in kinds for base in GRIDS}
    even = [kind for kind in kinds if all(evens[kind, blocks].smaller for blocks in DEPTHS)]
    uneven_now = [kind for kind in kinds if any(evens[kind, blocks].larger for blocks in DEPTHS)]
    verdict = (
        "supported" if len(even) == len(kinds) else "depends" if any(c.smaller for c in evens.values()) else "refuted"
    )
    better = [f"{kind} ({base})" for (kind, base), c in gain.items() if c.smaller]
    worse = [f"{kind} ({base})" for (kind, base), c in gain.items() if c.larger]
    plain = [float(np.mean(list(uneven["none", blocks].values()))) for blocks in DEPTHS]
    because = (
        f"Without normalisation gradients of the kernels spread over {plain[0]:.2f} decades in {DEPTHS[0]} blocks and "
        f"{plain[1]:.2f} in {DEPTHS[1]}. Times that with: "
        + "; ".join(
            f"{kind} {evens[kind, DEPTHS[0]].ratio:.2f} and {evens[kind, DEPTHS[1]].ratio:.2f}" for kind in kinds
        )
        + f". More even beyond chance at both depths: {_listed(even)}; less even at one: {_listed(uneven_now)}. At the tuned "
        f"step size the error falls beyond chance with {_listed(better)}, and rises with {_listed(worse)}."
        + (" It depends on the kind and on the depth." if verdict == "depends" else "")
    )
    rows = tuple(
        (
            kind,
            *(spread(np.array(list(uneven[kind, blocks].values()))) for blocks in DEPTHS),
            *("1" if kind == "none" else str(evens[kind, blocks]) for blocks in DEPTHS),
            *(spread(chosen[kind, base]["test"]) for base in GRIDS),
            *("1" if kind == "none" else str(gain[kind, base]) for base in GRIDS),
        )
        for kind in ("none", *kinds)
    )
    # In front of a normalisation the loss does not depend on the kernel's size, so the gradient has no part along it:
    # exactly with weight normalisation, else up to the 1e-5 that is added to variances of 0.01 and more.
    checks = tuple(
        Check(
            f"cosine of kernel and gradient, {row['kind']}",
            row["cosine"],
            0.0,
            1e-5 if row["kind"] == "weight" else 1e-3,
        )
        for row in records.where(part="invariance")
    )
    head = (
        "kind", *(f"spread, {blocks} blocks" for blocks in DEPTHS), *(f"over none, {blocks}" for blocks in DEPTHS),
        *(f"test error, {base}" for base in GRIDS), *(f"over none, {base}" for base in GRIDS),
    )  # fmt: skip
    return Finding(verdict, because, head, rows, checks)


def _listed(names) -> str:
    return ", ".join(names) or "none"


def _even_draw(records: Records, figure) -> None:
    left, right = figure.subplots(1, 2)
    kinds = records.where(part="spread").distinct("kind")
    _bars(left, kinds, {
        f"{blocks} blocks": [records.where(part="spread", kind=k, blocks=blocks)["spread"] for k in kinds] for blocks in DEPTHS
    })  # fmt: skip
    left.set(ylabel="spread of gradients over layers [decades]", title="how uneven the gradients are")
    _bars(right, kinds, {
        base: [tuned(records.where(part="error", kind=k, optimizer=base))["test"] for k in kinds] for base in GRIDS
    })  # fmt: skip
    right.set(ylabel="test error", title="after equal steps, lr tuned")
    right.set_ylim(bottom=0)


def _bars(axes, names, groups: dict[str, list[np.ndarray]]) -> None:
    """Means as marks, one group beside the other, with every seed as a dot."""
    for k, (label, values) in enumerate(groups.items()):
        x = np.arange(len(names)) + 0.3 * (k - (len(groups) - 1) / 2)
        for at, seeds in zip(x, values, strict=True):
            axes.plot(np.full(len(seeds), at), seeds, ".", color=f"C{k}", ms=4, alpha=0.5)
        axes.plot(x, [np.nanmean(v) if np.isfinite(v).any() else np.nan for v in values], "_", color=f"C{k}", ms=14, mew=2.5,
                  label=label)  # fmt: skip
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.legend(fontsize=8)


EVEN = Claim(
    number=10,
    name="normalisation",
    says="Batch, layer, instance, group and weight normalisation even out the size of the gradient across layers",
    hypothesis=(
        "The standard deviation over the kernels of log10 of the gradient's root mean square, during the first epoch, is lower "
        f"with the normalisation than without, in residual networks of {DEPTHS[0]} and of {DEPTHS[1]} blocks. Supported if so "
        "for all five at both depths (95 % interval of the paired ratio below 1), refuted if for none at any depth, else it "
        "depends. Whether the error gains from it is reported beside it."
    ),
    settings=(
        "Residual networks of 12 channels (4 groups of 3), 64 Darcy fields of 16², batches of 8; spreads over 8 steps of "
        "gradient descent at lr = 0.03; errors after 96 steps (3 blocks), step size chosen of 4 (gradient descent) or 2 "
        "(Adam) on the validation split; 5 seeds."
    ),
    why="""\
A normalised layer's output does not change when its kernel is multiplied by a number, L(aW) = L(W). Differentiated, this
says two things: the gradient is at right angles to the kernel, and it shrinks as the kernel grows, ∇L(aW) = ∇L(W)/a. So
gradients adjust themselves: a layer that moves too fast grows (each step at right angles makes it longer), and then moves
more slowly. That is a controller of the *relative* pace, over many steps (Arora, Li & Lyu 2019). It is not a guarantee that
gradients are equal at any moment, and with residual connections there is less to mend, since the sum of identity and block
lets the gradient through to every depth as it is.

What normalisation does change is which sizes the gradient has. In front of a normalisation it is divided by the standard
deviation of what the kernel puts out. The first and last layers, which are not normalised, keep theirs, and the ratio
between them and the others can become larger than before: a smaller spread is not implied.

In this task normalisation also has a price of its own. The size of the output says how large the temperature is; instance
and layer normalisation remove just this number from every item, and the network has to bring it past them through the
skips. In batch normalisation the noise of small batches enters as well.

Against that stands what it buys: plain gradient descent, held back by its worst layer, gains most; Adam rescales every
weight itself and has little left to gain. Weight normalisation only splits a kernel into size and direction. It starts from
the same kernels and hardly changes their gradients.

An even gradient is a means, not an end: see the claim on updates of equal pace, which equalises them outright.""",
    cases=_even_cases,
    measure=_even_measure,
    judge=_even_judge,
    draw=_even_draw,
)


# --- (11) LSDR ----------------------------------------------------------------------------------------------------------

# the two readings of the letters, and no normalisation
READINGS = ("none", "standardised", "spectral")
WIDE = {"sgd": (0.03, 0.1, 0.3, 1.0), "adam": (0.003, 0.01, 0.03, 0.1)}
NOISE = 0.05  # standard deviation of what is added to the inputs to see how much the output moves


def _lsdr_cases(profile: str) -> list[dict]:
    return [
        {"kind": kind, "optimizer": base, "lr": lr, "seed": seed}
        for kind in READINGS
        for base, grid in WIDE.items()
        for lr in (grid if profile == "full" else grid[1:2])
        for seed in range(SEEDS[profile])
    ]


def _lsdr_measure(case: Case) -> dict:
    options = {"seed": case["seed"], "normalisation": case["kind"], "optimizer": case["optimizer"], "lr": case["lr"]}
    model, outcome = trained(options | SMALL)
    found = {"bound": math.nan, "gain": math.nan, "kernel": math.nan}
    if model is not None:
        found = {"bound": model.network.lipschitz(), "gain": _gain(model), "kernel": _largest(model.network)}
    return outcome | found


def _gain(model) -> float:
    """Largest change of the output over the change of the input, both in the 2-norm, over items and directions of noise."""
    data = dataset()
    inputs = fields.from_problems([data[int(i)].problem for i in data.split["test"][:16]])
    coefficients, forcing = torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing)
    random = torch.Generator().manual_seed(0)
    worst = 0.0
    with torch.no_grad():
        clean = model.network(coefficients, forcing)
        for _ in range(4):
            noise = NOISE * torch.randn(coefficients.shape, generator=random)
            moved = model.network(coefficients + noise, forcing) - clean
            worst = max(worst, float((moved.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)).max()))
    return worst


def _largest(network) -> float:
    """Largest singular value of the kernels of the blocks, each as an (out, in * kernel) matrix."""
    with torch.no_grad():
        layers = [layer for block in network.blocks for layer in (block.inner, block.outer)]
        return max(float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) for layer in layers)


def _lsdr_judge(records: Records) -> Finding:
    arms = [(kind, base) for base in WIDE for kind in READINGS]
    chosen = {(kind, base): tuned(records.where(kind=kind, optimizer=base)) for kind, base in arms}
    error = {arm: rows.by_seed("test") for arm, rows in chosen.items()}
    readings = [arm for arm in arms if arm[0] != "none"]
    gain = {(kind, base): compare(error[kind, base], error["none", base]) for kind, base in readings}
    moved = {
        (kind, base): compare(chosen[kind, base].by_seed("gain"), chosen["none", base].by_seed("gain"))
        for kind, base in readings
    }
    better = [f"{kind} ({base})" for (kind, base), c in gain.items() if c.smaller]
    worse = [f"{kind} ({base})" for (kind, base), c in gain.items() if c.larger]
    calmer = [f"{kind} ({base})" for (kind, base), c in moved.items() if c.smaller]
    verdict = "supported" if len(better) == len(readings) else "refuted" if not better and not calmer else "depends"
    bounds = {kind: float(np.median(chosen[kind, "adam"]["bound"])) for kind in ("none", "spectral")}
    gains = {kind: float(np.median(chosen[kind, "adam"]["gain"])) for kind in READINGS}
    because = (
        f"Error over that of the same network without, at the tuned step size: per-layer standardisation "
        f"{gain['standardised', 'sgd']} (gradient descent) and {gain['standardised', 'adam']} (Adam); spectral normalisation "
        f"{gain['spectral', 'sgd']} and {gain['spectral', 'adam']}. Better beyond chance: {_listed(better)}; worse: "
        f"{_listed(worse)}; less moved by noise at the input: {_listed(calmer)}. Spectral normalisation bounds the gain of "
        f"the network by {bounds['spectral']:.2g} (without: {bounds['none']:.2g}); noise at the input was amplified "
        f"{gains['spectral']:.2g} times at most ({gains['none']:.2g})."
        + (" It depends on the reading and on the optimizer." if verdict == "depends" else "")
    )
    failures = {
        (kind, base): (int(np.sum(runs["failed"])), len(runs))
        for kind, base in arms
        for runs in [records.where(kind=kind, optimizer=base)]
    }
    rows = tuple(
        (
            kind,
            base,
            f"{chosen[kind, base].distinct('lr')[0]:g}",
            "{} of {}".format(*failures[kind, base]),
            spread(chosen[kind, base]["test"]),
            str(gain[kind, base]) if kind != "none" else "1",
            f"{np.median(chosen[kind, base]['gain']):.2g}",
            "none" if kind == "standardised" else f"{np.median(chosen[kind, base]['bound']):.2g}",
        )
        for kind, base in arms
    )
    whole = [row for row in records if row["gain"] is not None]
    over = max(row["gain"] / row["bound"] for row in whole if row["bound"] is not None)
    norms = [row["kernel"] for row in whole if row["kind"] == "spectral"]
    checks = (
        Check("measured gain over the Lipschitz bound, at most 1", over, 0.5, 0.5),
        # One power iteration per step: the norm is approached from below, so the divided kernel is at least 1, and the
        # estimate lags behind weights that move by some percent per step.
        Check("largest singular value of a spectrally normalised kernel", max(norms), 1.0, 0.1),
    )
    head = ("kind", "optimizer", "lr", "failed", "test error", "over none", "gain of noise", "bound of the gain")
    return Finding(verdict, because, head, rows, checks)


def _lsdr_draw(records: Records, figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    for axes, base in ((left, "sgd"), (middle, "adam")):
        for kind in READINGS:
            rows = records.where(kind=kind, optimizer=base)
            steps = sorted(rows.distinct("lr"))
            axes.plot(steps, [rows.where(lr=lr)["test"].mean() for lr in steps], "o-", ms=4, label=kind)
        axes.set(xscale="log", yscale="log", xlabel="step size", title="gradient descent" if base == "sgd" else "Adam")
    left.set(ylabel="test error")
    left.legend(fontsize=8)
    for axes in (left, middle):
        axes.set_ylim(0.06, 0.6)
    names, values = [], []
    for kind in READINGS:
        rows = tuned(records.where(kind=kind, optimizer="adam"))
        names.append(kind)
        values.append(rows["gain"])
    _bars(right, names, {"measured with noise": values})
    bounds = [np.median(tuned(records.where(kind=k, optimizer="adam"))["bound"]) for k in ("none", "spectral")]
    right.plot([0, 2], bounds, "kv", ms=6, label="bound")
    right.set(yscale="log", ylabel="output change over input change", title="sensitivity (Adam)")
    right.legend(fontsize=7)


LSDR = Claim(
    number=11,
    name="lsdr",
    says="'LSDR', read as standardised activations or as spectrally normalised kernels, improves residual networks",
    hypothesis=(
        "In a residual network, standardising each layer's activations, or dividing each kernel by its largest singular value, "
        "lowers the test error at the tuned step size, with gradient descent and with Adam. Supported if both readings do with "
        "both optimizers (95 % interval of the paired ratio below 1), refuted if neither lowers error nor sensitivity to noise "
        "anywhere, else it depends."
    ),
    settings=(
        "Residual network of 12 channels and 3 blocks, 64 Darcy fields of 16², batches of 8, 96 steps, cosine schedule, step size "
        f"chosen of 4 on the validation split, 5 seeds. Sensitivity: normal noise of {NOISE:g} on all coefficient channels of "
        "16 test items, the largest of 4 draws."
    ),
    why="""\
The letters are not a method of the literature, so both things they may stand for are tested. Standardisation takes mean and
deviation of each layer's output over channels and cells, item by item, and leaves nothing to learn. It fixes the scale of
what the next layer sees, so that weights may grow without the activations doing so; it also throws away the item's own
scale, which in this task is part of the answer.

Spectral normalisation (Miyato et al. 2018) bounds how much a layer can stretch. A residual block is then Lipschitz with 1 +
L² (L the slope of the nonlinearity times the layer's norm), and the network with the product over the blocks. That is a
proof of stability in the sense of a time stepper: a residual block *is* a forward Euler step h + f(h), and the bound on f
is its step limit. But the bound is a product of worst cases that never occur together, decades above what noise really
does; and for a convolution the matrix norm has to be multiplied by the root of the kernel's size to be a bound at all
(Sedghi, Gupta & Long 2019).

The price is expressiveness: with gains of at most one a few blocks cannot build large contrasts, which solutions of div(D
∇u) = -f have. Adam, which rescales every weight by itself, has less to gain from either than gradient descent.""",
    cases=_lsdr_cases,
    measure=_lsdr_measure,
    judge=_lsdr_judge,
    draw=_lsdr_draw,
)

CLAIMS: tuple[Claim, ...] = (EVEN, LSDR)
