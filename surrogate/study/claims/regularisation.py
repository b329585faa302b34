"""Keeping a network from learning its examples by heart: dropout, small weights, noise, and symmetry."""

import math
from collections.abc import Iterable

import numpy as np
import torch

import diffsim as ds

from ... import fields
from ...dataset import Dataset
from ...sampling import Spec
from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import Comparison, compare, spread
from ..testbed import TEST, VALIDATION, dataset, joined, trained, tuned

SEEDS = {"quick": 2, "full": 5}
# of testbed.PLAIN's network; the slope term is off there, so the loss is the error that is reported
SMALL = {"width": 12, "blocks": 3, "lr": 0.02}
STEPS = 96
FEW, MANY = 8, 128  # training items: 96 passes over them in `STEPS` steps of 8, or 6


def _epochs(items: int) -> int:
    return STEPS * 8 // items


def _chosen(records: Records, **settings) -> Records:
    """The strength of a regulariser that is best on the validation split."""
    return tuned(records.where(**settings), over="strength")


def _listed(names) -> str:
    return ", ".join(names) or "none"


def _verdict(comparisons: list[Comparison]) -> str:
    """Supported where every ratio is below 1 beyond chance, refuted where none is."""
    smaller = [c.smaller for c in comparisons]
    return "supported" if all(smaller) else "depends" if any(smaller) else "refuted"


def _at_most(comparisons: Iterable[Comparison]) -> str:
    """What the intervals leave open."""
    most = 100 * (1 - min(c.low for c in comparisons))
    return f"Gains of more than {most:.0f} % are excluded for all." if most > 0 else "Gains are excluded for all."


def _marks(axes, names, groups: dict[str, list[np.ndarray]]) -> None:
    """Means as bars across, one group beside the other, with every seed as a dot."""
    for k, (label, values) in enumerate(groups.items()):
        x = np.arange(len(names)) + 0.3 * (k - (len(groups) - 1) / 2)
        for at, seeds in zip(x, values, strict=True):
            axes.plot(np.full(len(seeds), at), seeds, ".", color=f"C{k}", ms=4, alpha=0.5)
        axes.plot(x, [np.nanmean(v) for v in values], "_", color=f"C{k}", ms=14, mew=2.5, label=label)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.legend(fontsize=8)


# --- (13) symmetry ------------------------------------------------------------------------------------------------------

SYMMETRIC = tuple(("darcy", items) for items in (8, 16, 64, 256))
LONG = ("fields, 4 times the steps", 16)
ORIENTED = ("layers across x", 64)  # media that are never turned: the symmetry of the equation is not one of the data
SYMMETRY_LR = (0.01, 0.03)


def _symmetry_data(name: str, items: int) -> Dataset:
    return _oriented(items) if name == ORIENTED[0] else dataset("darcy", items)


def _oriented(items: int) -> Dataset:
    """Layered media, all of them across the first axis; zero sides."""
    spec = Spec("oriented", medium="layers", contrast=(2.0, 20.0))
    parts, number = [], 0
    for count in (items, VALIDATION, TEST):
        problems: list[ds.Problem] = []
        while len(problems) < count:
            problem = spec.problem(0, number, 16)
            number += 1
            d = np.asarray(problem.diffusivity)
            if np.ptp(d, axis=1).max() == 0 < np.ptp(d, axis=0).max():  # constant along the second axis
                problems.append(problem)
        parts.append((problems, np.stack([e.u for e in ds.equilibrium(problems)])))
    return joined(*parts)


def _symmetry_cases(profile: str) -> list[dict]:
    arms = (*SYMMETRIC, LONG, ORIENTED) if profile == "full" else (SYMMETRIC[2], ORIENTED)
    return [
        {"data": name, "items": items, "augment": augment, "lr": lr, "seed": seed}
        for name, items in arms
        for augment in (False, True)
        for lr in (SYMMETRY_LR if profile == "full" else SYMMETRY_LR[1:])
        for seed in range(SEEDS[profile])
    ]


def _symmetry_measure(case: Case) -> dict:
    data = _symmetry_data(case["data"], case["items"])
    options = {"seed": case["seed"], "lr": case["lr"], "augment": case["augment"], "width": 12, "blocks": 3}
    times = 4 if case["data"] == LONG[0] else 1
    model, outcome = trained(options | {"epochs": times * _epochs(case["items"])}, data)
    return outcome | {"asymmetry": math.nan if model is None else _asymmetry(model, data)}


def _asymmetry(model, data: Dataset) -> float:
    """How far answers to turned and mirrored problems are from the turned and mirrored answers, mean relative L2."""
    inputs = fields.from_problems([data[int(i)].problem for i in data.split["test"][:16]])
    coefficients, forcing = torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing)
    found = []
    with torch.no_grad():
        straight = model.network(coefficients, forcing)
        for symmetry in fields.symmetries(inputs.shape)[1:]:
            turned = model.network(symmetry(coefficients, inputs.directional), symmetry(forcing, 0))
            expected = symmetry(straight, 0)
            found.append(((turned - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).mean())
    return float(torch.stack(found).mean())


def _symmetry_judge(records: Records) -> Finding:
    arms = list(dict.fromkeys((row["data"], row["items"]) for row in records))
    chosen = {
        (*arm, on): tuned(records.where(data=arm[0], items=arm[1], augment=on)) for arm in arms for on in (False, True)
    }
    error = {arm: compare(chosen[*arm, True].by_seed("test"), chosen[*arm, False].by_seed("test")) for arm in arms}
    turned = {
        arm: compare(chosen[*arm, True].by_seed("asymmetry"), chosen[*arm, False].by_seed("asymmetry")) for arm in arms
    }
    verdict = _verdict(list(error.values()))
    name = lambda arm: f"{arm[1]} {'fields' if arm[0] == 'darcy' else arm[0]}"  # noqa: E731
    better = [name(arm) for arm in arms if error[arm].smaller]
    worse = [name(arm) for arm in arms if error[arm].larger]
    because = (
        "Test error with symmetries over that without, at equal steps: "
        + "; ".join(f"{name(arm)}: {error[arm]}" for arm in arms)
        + f". Lower beyond chance with {_listed(better)}; higher with {_listed(worse)}. The answers to turned problems differ "
        f"from the turned answers by {np.mean(list(c.ratio for c in turned.values())):.2g} times what they did."
        + (" It depends on how often each field is seen, and on whether the data are turned." * (verdict == "depends"))
    )
    rows = tuple(
        (
            name(arm),
            *(spread(chosen[*arm, on]["test"]) for on in (False, True)),
            str(error[arm]),
            *(spread(chosen[*arm, on]["test"] / chosen[*arm, on]["train"]) for on in (False, True)),
            str(turned[arm]),
        )
        for arm in arms
    )
    head = ("data", "plain", "augmented", "ratio", "test over train, plain", "augmented", "asymmetry, ratio")
    return Finding(verdict, because, head, rows)


def _symmetry_draw(records: Records, figure) -> None:
    left, right = figure.subplots(1, 2)
    arms = list(dict.fromkeys((row["data"], row["items"]) for row in records))
    below = {LONG[0]: "\n4x the\nsteps", ORIENTED[0]: "\nnever\nturned"}
    names = [f"{items}{below.get(name, '')}" for name, items in arms]
    for axes, column, label in ((left, "test", "test error"), (right, "asymmetry", "asymmetry of the answers")):
        groups = {
            ("augmented" if on else "plain"): [
                tuned(records.where(data=name, items=items, augment=on))[column] for name, items in arms
            ]
            for on in (False, True)
        }
        _marks(axes, names, groups)
        axes.set(yscale="log", ylabel=label, xlabel="training fields")


SYMMETRY = Claim(
    number=13,
    name="symmetry",
    says="Training on turned and mirrored copies lowers the error",
    hypothesis=(
        "At equal steps, drawing one of the eight symmetries of the square for each batch lowers the test error, for 8, 16, 64 and "
        "256 Darcy fields, for 16 in a training four times as long, and for 64 layered media that are never turned. "
        "Supported if so in all (95 % interval of the paired ratio below 1), refuted if in none, else it depends."
    ),
    settings=(
        f"Residual network of 12 channels and 3 blocks, {STEPS} steps of 8 fields of 16², Adam, cosine schedule, step size "
        "chosen of 2 on the validation split, 5 seeds."
    ),
    why="""\
Turning a problem turns its equilibrium: for div(D ∇u) = -f on a square this is exact, and the data know it only as far as
their distribution is turned as well. A convolutional network is equivariant to shifts, not to turns, so it has to learn
them: eight copies are seven new examples for the price of a permutation.

What they are worth depends on what is missing. After many passes over few fields the network knows them by heart (the
training error falls, the test error stays), and copies are almost as good as new fields. With many fields, or few steps,
examples are not what is missing: steps are, and every step then also has to serve the other seven orientations. Averaging
over a group that leaves the truth unchanged can only lower the variance of an estimator (Chen, Dobriban & Lee 2020), but a
network after a few steps is not at its estimate: its error is mostly bias.

Where the data are never turned, the symmetry of the equation is true but useless: the test asks only for one orientation,
and capacity is spent on seven that never come. It would pay as soon as they did come; that is what the asymmetry of the
answers shows.""",
    cases=_symmetry_cases,
    measure=_symmetry_measure,
    judge=_symmetry_judge,
    draw=_symmetry_draw,
)


# --- (9) dropout and small weights --------------------------------------------------------------------------------------

PENALTY_SEEDS = {"quick": 2, "full": 8}  # differences are a few per cent
# name -> (option, strengths)
PENALTIES: dict[str, tuple[str, tuple[float, ...]]] = {
    "none": ("weight_decay", (0.0,)),
    "dropout": ("dropout", (0.05, 0.2)),
    "L1": ("l1", (0.3, 3.0)),
    "L2": ("weight_decay", (1e-3, 1e-2)),  # Adam's: added to the gradient
    "decay": ("weight_decay", (0.5, 1.0)),  # AdamW's: apart from it
}


def _penalty_cases(profile: str) -> list[dict]:
    names = list(PENALTIES) if profile == "full" else ["none", "dropout", "decay"]
    return [
        {"penalty": name, "strength": strength, "items": items, "seed": seed}
        for items in (FEW, MANY)
        for name in names
        for strength in PENALTIES[name][1][: None if profile == "full" else 1]
        for seed in range(PENALTY_SEEDS[profile])
    ]


def _penalty_measure(case: Case) -> dict:
    option, _ = PENALTIES[case["penalty"]]
    optimizer = "adamw" if case["penalty"] == "decay" else "adam"
    options = {"seed": case["seed"], option: case["strength"], "optimizer": optimizer, **SMALL}
    model, outcome = trained({**options, "items": case["items"], "epochs": _epochs(case["items"])})
    found = {"correlation": math.nan, "ablation": math.nan, "size": math.nan}
    if model is not None:
        correlation, ablation = _dependence(model, dataset(items=case["items"]))
        size = math.sqrt(sum(float(p.detach().square().sum()) for p in model.network.parameters()))
        found = {"correlation": correlation, "ablation": ablation, "size": size}
    return outcome | found


def _dependence(model, data: Dataset) -> tuple[float, float]:
    """How much the channels before the head lean on each other.

    Returns
    -------
    correlation
        Mean absolute correlation between two channels, over the cells of 16 test items.
    ablation
        Factor by which the error grows when one channel is set to its mean; geometric mean over the channels.
    """
    items = [data[int(i)] for i in data.split["test"][:16]]
    inputs = fields.from_problems([item.problem for item in items])
    target = torch.from_numpy(inputs.normalised(np.stack([item.u for item in items])))
    coefficients, forcing = torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing)
    seen: list[torch.Tensor] = []
    handle = model.network.head.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        try:
            whole = model.network(coefficients, forcing)
        finally:
            handle.remove()
        h = seen[0]
        matrix = torch.corrcoef(h.transpose(0, 1).flatten(1))
        apart = ~torch.eye(len(matrix), dtype=torch.bool)
        error = lambda u: float(((u - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)).mean())  # noqa: E731
        factors = []
        for channel in range(h.shape[1]):
            without = h.clone()
            without[:, channel] = h[:, channel].mean()
            factors.append(math.log(error(model.network.head(without)) / error(whole)))
    return float(matrix[apart].abs().nanmean()), math.exp(float(np.mean(factors)))


def _penalty_judge(records: Records) -> Finding:
    names = [name for name in records.distinct("penalty") if name != "none"]
    plain = {items: _chosen(records, penalty="none", items=items) for items in (FEW, MANY)}
    chosen = {(name, items): _chosen(records, penalty=name, items=items) for name in names for items in (FEW, MANY)}
    error = {arm: compare(rows.by_seed("test"), plain[arm[1]].by_seed("test")) for arm, rows in chosen.items()}
    leaning = {
        (column, items): compare(chosen["dropout", items].by_seed(column), plain[items].by_seed(column))
        for column in ("correlation", "ablation")
        for items in (FEW, MANY)
    }
    verdict = _verdict(list(error.values()))
    say = lambda arm: f"{arm[0]} ({arm[1]} fields)"  # noqa: E731
    gaps = {items: float(np.nanmean(rows["test"] / rows["train"])) for items, rows in plain.items()}
    because = (
        f"After {STEPS} steps without any of them the test error is {gaps[FEW]:.2g} times the training error with {FEW} fields "
        f"and {gaps[MANY]:.2g} times with {MANY}. Lower beyond chance: {_listed(say(a) for a in error if error[a].smaller)}; "
        f"higher: {_listed(say(a) for a in error if error[a].larger)}. Dropout with {FEW} fields changes the error "
        f"{error['dropout', FEW]} times, the correlation between channels {leaning['correlation', FEW]} times and the harm of "
        f"losing one channel {leaning['ablation', FEW]} times."
        f" {_at_most(error.values())}"
        + (" It depends on the means and on how far the network overfits." if verdict == "depends" else "")
    )
    rows = []
    for items in (FEW, MANY):
        for name in ("none", *names):
            runs = plain[items] if name == "none" else chosen[name, items]
            rows.append((
                str(items), name, f"{runs.distinct('strength')[0]:g}", spread(runs["test"]),
                "1" if name == "none" else str(error[name, items]), spread(runs["test"] / runs["train"]),
                spread(runs["correlation"]), spread(runs["ablation"]), spread(runs["size"]),
            ))  # fmt: skip
    head = (
        "fields", "means", "strength", "test error", "over none", "test over train", "correlation", "loss of a channel",
        "norm of weights",
    )  # fmt: skip
    return Finding(verdict, because, head, tuple(rows))


def _penalty_draw(records: Records, figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    names = records.distinct("penalty")
    panels = ((left, "test", "test error"), (middle, "correlation", "correlation of channels"))
    for axes, column, label in (*panels, (right, "ablation", "error after losing a channel, times")):
        groups = {
            f"{items} fields": [_chosen(records, penalty=name, items=items)[column] for name in names]
            for items in (FEW, MANY)
        }
        _marks(axes, names, groups)
        axes.set_ylabel(label)
        axes.tick_params(axis="x", rotation=40)


PENALTY = Claim(
    number=9,
    name="dropout-and-decay",
    says="Dropout (against co-adaptation), L1 and L2 or weight decay lower the error on new problems",
    hypothesis=(
        f"With {FEW} training fields and with {MANY}, each of dropout, L1, L2 (in the gradient) and decoupled weight decay, its "
        "strength chosen on the validation split, lowers the test error at equal steps. Supported if all do (95 % interval of "
        "the paired ratio below 1), refuted if none does, else it depends. Co-adaptation is measured as well: correlation "
        "between channels, and the harm of losing one."
    ),
    settings=(
        f"Residual network of 12 channels and 3 blocks on Darcy fields of 16², {STEPS} steps of 8, Adam at lr = {SMALL['lr']:g} "
        "(AdamW for decoupled decay), cosine schedule, two strengths each, 8 seeds. The weights that are best on the "
        "validation split are tested, which is early stopping for all of them."
    ),
    why="""\
A penalty trades variance for bias. It pays where variance is the larger part: where the network can learn the examples by
heart and new ones then fail. The gap between test and training error says whether that is so. A network with the structure
of the problem (convolutions, residuals) trained for a limited number of steps is seldom there, except with very few fields;
then bias is all a penalty brings. Stopping at the best validation error regularises by itself, and takes away much of what
the others could add.

So the answer holds for trainings of this length. One that goes on until the fields are known by heart leaves more to
regularise, as the claim on symmetry shows.

**Dropout** switches channels off at random, so that none can rely on one other: units that only make sense together
(co-adapted) are punished (Srivastava et al. 2014). In a regression the noise has a price of its own. With a channel gone
the *value* of the output is wrong, not just a vote missing, and the network pays with capacity to be right on average. For
a convolutional network on a smooth field neighbouring cells say what a dropped one would have said, so whole channels are
dropped, or nothing happens.

**L1** sends small weights to zero, **L2** shrinks all in proportion. Inside Adam, L2 is divided by the gradient's size, and
acts most on weights whose gradients are small; decoupled decay shrinks all alike (Loshchilov & Hutter 2019). None of them
knows the physics: the zero they pull towards is the zero operator, not a smooth one.""",
    cases=_penalty_cases,
    measure=_penalty_measure,
    judge=_penalty_judge,
    draw=_penalty_draw,
)


# --- (12) noise ---------------------------------------------------------------------------------------------------------

# name -> (option, strengths)
NOISES: dict[str, tuple[str, tuple[float, ...]]] = {
    "none": ("noise", (0.0,)),
    "inputs": ("noise", (0.03, 0.1)),
    "weights": ("langevin", (1e-5, 1e-4, 1e-3)),
}
DISTURBED = 0.1  # standard deviation of noise on the inputs at the test
WALKERS = 4000


def _noise_cases(profile: str) -> list[dict]:
    cases: list[dict] = [{"part": "quadratic", "lr": lr, "seed": 0} for lr in (0.1, 0.5, 1.0)]
    cases += [{"part": "wells", "temperature": t, "seed": 0} for t in (0.02, 0.2)]
    return cases + [
        {"part": "network", "place": name, "strength": strength, "items": items, "seed": seed}
        for items in (FEW, MANY)
        for name, (_, strengths) in NOISES.items()
        for strength in strengths[: None if profile == "full" else 1]
        for seed in range(SEEDS[profile])
    ]


def _noise_measure(case: Case) -> dict:
    if case["part"] == "quadratic":
        return _stationary(case)
    if case["part"] == "wells":
        return _occupied(case)
    option, _ = NOISES[case["place"]]
    options = {"seed": case["seed"], option: case["strength"], **SMALL}
    model, outcome = trained({**options, "items": case["items"], "epochs": _epochs(case["items"])})
    return outcome | {"disturbed": math.nan if model is None else _disturbed(model, dataset(items=case["items"]))}


def _walk(gradient, start: torch.Tensor, steps: int, lr: float, temperature: float, seed: int) -> torch.Tensor:
    """Weights after `steps` of the update that `train(langevin=temperature)` makes with gradient descent."""
    random = torch.Generator().manual_seed(seed)
    w = start.clone()
    for _ in range(steps):
        w -= lr * gradient(w)
        w += math.sqrt(2 * lr * temperature) * torch.randn(w.shape, generator=random, dtype=w.dtype)
    return w


def _stationary(case: Case) -> dict:
    """Variance that walkers on ``w^2 / 2`` settle to, over the temperature; theory 1 / (1 - lr / 2)."""
    w = _walk(lambda w: w, torch.zeros(WALKERS, dtype=torch.float64), 200, case["lr"], 1.0, case["seed"])
    return {"variance": float(w.square().mean()), "theory": 1 / (1 - case["lr"] / 2)}


def _double_well(w):
    return (w**2 - 1) ** 2 / 4 + 0.05 * w  # minima near -1 and 1, the left one lower by 0.1; barrier 0.25


def _occupied(case: Case) -> dict:
    """Share of walkers in the deeper of two wells, all of which start in the other, and what Boltzmann's law says."""
    w = _walk(lambda w: w**3 - w + 0.05, torch.ones(WALKERS, dtype=torch.float64), 4000, 0.02, case["temperature"], 0)
    x = np.linspace(-4, 4, 4001)
    density = np.exp(-_double_well(x) / case["temperature"])
    return {"share": float((w < 0).double().mean()), "theory": float(density[x < 0].sum() / density.sum())}


def _disturbed(model, data: Dataset) -> float:
    """Mean relative L2 error on the test split with noise of `DISTURBED` on the coefficients."""
    items = [data[int(i)] for i in data.split["test"]]
    inputs = fields.from_problems([item.problem for item in items])
    target = torch.from_numpy(inputs.normalised(np.stack([item.u for item in items])))
    coefficients, forcing = torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing)
    noise = DISTURBED * torch.randn(coefficients.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wrong = model.network(coefficients + noise, forcing) - target
    return float((wrong.flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)).mean())


def _noise_judge(records: Records) -> Finding:
    network = records.where(part="network")
    arms = [(name, items) for items in (FEW, MANY) for name in NOISES]
    chosen = {(name, items): _chosen(network, place=name, items=items) for name, items in arms}
    noisy = [arm for arm in arms if arm[0] != "none"]
    error = {(n, k): compare(chosen[n, k].by_seed("test"), chosen["none", k].by_seed("test")) for n, k in noisy}
    # for robustness the strength is that which would be chosen if the disturbance were expected
    robust = {(n, k): tuned(network.where(place=n, items=k), over="strength", by="disturbed") for n, k in noisy}
    firm = {
        (n, k): compare(robust[n, k].by_seed("disturbed"), chosen["none", k].by_seed("disturbed")) for n, k in noisy
    }
    verdict = _verdict([*error.values(), *firm.values()])
    say = lambda arm: f"{arm[0]} ({arm[1]} fields)"  # noqa: E731
    cold, warm = records.where(part="wells").rows
    because = (
        f"Error on clean problems over that without noise: inputs {error['inputs', FEW]} ({FEW} fields), "
        f"{error['inputs', MANY]} ({MANY}); weights {error['weights', FEW]}, {error['weights', MANY]}. On disturbed inputs: "
        f"inputs {firm['inputs', FEW]}, {firm['inputs', MANY]}; weights {firm['weights', FEW]}, {firm['weights', MANY]}. Lower "
        f"beyond chance on clean problems: {_listed(say(a) for a in noisy if error[a].smaller)}; on disturbed ones: "
        f"{_listed(say(a) for a in noisy if firm[a].smaller)}. Between two wells warm weights (T = {warm['temperature']:g}) "
        f"reach the deeper one in {100 * warm['share']:.0f} % of cases, cold ones ({cold['temperature']:g}) in "
        f"{100 * cold['share']:.0f} %."
        + (" It depends on where the noise enters and on what the test asks for." if verdict == "depends" else "")
    )
    rows = tuple(
        (
            str(items),
            name,
            f"{chosen[name, items].distinct('strength')[0]:g}",
            spread(chosen[name, items]["test"]),
            "1" if name == "none" else str(error[name, items]),
            spread(chosen[name, items]["test"] / chosen[name, items]["train"]),
            f"{(robust.get((name, items)) or chosen[name, items]).distinct('strength')[0]:g}",
            spread((robust.get((name, items)) or chosen[name, items])["disturbed"]),
            "1" if name == "none" else str(firm[name, items]),
        )
        for name, items in arms
    )
    # the sample variance of n normal numbers scatters by sqrt(2 / n), a share by at most 1 / (2 sqrt(n)); four of those
    checks = [
        Check(f"variance over temperature at lr λ = {row['lr']:g}", row["variance"], row["theory"],
              4 * row["theory"] * math.sqrt(2 / WALKERS))
        for row in records.where(part="quadratic")
    ]  # fmt: skip
    checks.append(
        Check("share in the deeper well, warm", warm["share"], warm["theory"], 4 * 0.5 / math.sqrt(WALKERS) + 0.01)
    )
    head = (
        "fields", "noise on", "strength", "test error", "over none", "test over train", "strength for disturbed",
        "disturbed error", "over none",
    )  # fmt: skip
    return Finding(verdict, because, head, rows, tuple(checks))


def _noise_draw(records: Records, figure) -> None:
    axes = figure.subplots(1, 3)
    network = records.where(part="network")
    heights: list[float] = []
    for ax, (name, label) in zip(
        axes, (("inputs", "noise on inputs"), ("weights", "temperature of weights")), strict=False
    ):
        for k, items in enumerate((FEW, MANY)):
            plain = network.where(place="none", items=items)
            strengths = network.where(place=name, items=items).distinct("strength")
            for column, style in (("test", "-"), ("disturbed", "--")):
                means = [network.where(place=name, items=items, strength=s)[column].mean() for s in strengths]
                text = f"{items} fields, {'clean' if column == 'test' else 'disturbed'}"
                means = [plain[column].mean(), *means]
                heights += means
                ax.plot([strengths[0] / 10**0.5, *strengths], means, style, color=f"C{k}", marker="o", ms=4, label=text)
        ax.set(xscale="log", xlabel=f"{label}\n(leftmost: none)")
    for ax in axes[:2]:
        ax.set_ylim(0.95 * np.nanmin(heights), 1.05 * np.nanmax(heights))
    axes[0].set(ylabel="test error")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=7, ncols=4, loc="outside upper center", handlelength=4)
    x = np.linspace(-1.75, 1.75, 200)
    axes[2].plot(x, _double_well(x), "k")
    axes[2].set(xlabel="w, all start at 1", ylabel="loss", ylim=(-0.15, 1.6))
    lines = [
        f"T = {row['temperature']:g}: {100 * row['share']:.0f} % end left\n(Boltzmann: {100 * row['theory']:.0f} %)"
        for row in records.where(part="wells")
    ]
    axes[2].text(0.5, 0.97, "\n".join(lines), fontsize=8, ha="center", va="top", transform=axes[2].transAxes)


NOISE = Claim(
    number=12,
    name="noise",
    says="Noise on the inputs, and random movement of the weights, make training better",
    hypothesis=(
        f"With {FEW} and with {MANY} training fields, noise on the inputs and Langevin noise on the weights, its strength "
        "chosen on the validation split, lower the test error on clean problems, and on problems whose coefficients are "
        "disturbed. Supported if all do (95 % interval of the paired ratio below 1), refuted if none does, else it depends."
    ),
    settings=(
        f"Residual network of 12 channels and 3 blocks on Darcy fields of 16², {STEPS} steps of 8, Adam at lr = {SMALL['lr']:g}, "
        f"cosine schedule, two or three strengths each, 5 seeds. Disturbed: noise of {DISTURBED:g} on all coefficient "
        f"channels, the strength then chosen for it. Theory: {WALKERS} walkers on a quadratic and between two wells."
    ),
    why="""\
**Noise on the inputs** of small variance σ² adds σ² tr(JᵀJ)/2 to a squared loss, J the Jacobian of the network (Bishop
1995): it asks for answers that do not change much with the input. If the truth does not change much either, this is a good
prior. Here the input is the coefficient itself: its jumps *are* the problem, and a network that is told to ignore small
changes of it learns a blurred one. So clean problems rarely gain, while problems that arrive disturbed do, because that is
then the distribution trained for.

**Noise on the weights**, w ← w - lr ∇L + √(2 lr T) ξ, is Langevin's equation by the Euler-Maruyama scheme. Its stationary
law is Boltzmann's, e^(-L/T), up to the step's error: on a quadratic of curvature λ the variance is T/(λ(1 - lr λ/2)), which
is checked. Every direction holds an energy T/2, so n weights raise the loss by n T/2: with ten thousand weights the
temperature must be tiny, or all that is learnt is heat.

Between two wells the law favours the deeper one; but the time to get there grows as e^(ΔL/T) (Kramers). A temperature that
is low enough to stay in a good minimum is too low to reach it in the steps one can afford; hence annealing, which the
schedule of the learning rate does to the noise as well, since the noise here scales with its root. Mini-batches bring noise
of their own, free of charge.""",
    cases=_noise_cases,
    measure=_noise_measure,
    judge=_noise_judge,
    draw=_noise_draw,
)

CLAIMS: tuple[Claim, ...] = (PENALTY, NOISE, SYMMETRY)
