"""Which examples a step sees: how many of them, and in which order."""

import math
from typing import Any

import numpy as np
import torch

from ...sampling import Spec
from ..claim import Case, Check, Claim, Finding, Records
from ..descent import Examples, descend
from ..statistics import Comparison, compare, spread
from ..testbed import pairs, trial, tuned

SEEDS = {"quick": range(2), "full": range(5)}
SMALL: dict[str, Any] = {"width": 8, "blocks": 3}  # the residual network of these experiments
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"

# --- (14) curriculum ---------------------------------------------------------------------------------------------------

MIXED = Spec("mixed-contrast", medium="lognormal", tau=(3.0, 18.0), contrast=(1.0, 1e4))
ITEMS, TESTED = 128, 128
FIRST, OPEN = 0.25, 0.5  # share of the items at the start, and of the training after which all are in
ORDERS = ("all at once", "easy first", "hard first", "random growth")
LENGTHS = {"quick": (40,), "full": (60, 200)}  # updates
STEP_SIZES = {"quick": (1e-2,), "full": (1e-2, 3e-2)}
BATCH = 8


def _curriculum_cases(profile: str) -> list[dict]:
    return [
        {"order": order, "updates": updates, "lr": lr, "seed": seed}
        for updates in LENGTHS[profile]
        for order in ORDERS
        for lr in STEP_SIZES[profile]
        for seed in SEEDS[profile]
    ]


def difficulty(examples: Examples) -> np.ndarray:
    """Standard deviation of the log conductances: contrast and roughness in one number, (n,)."""
    return examples.coefficients[:, :4].flatten(1).std(dim=1).numpy()


def entered(order: str, ranks: np.ndarray, progress: float, shuffled: np.ndarray) -> np.ndarray:
    """Items that may be drawn at a progress from 0 to 1; `ranks` are item numbers from easy to hard."""
    if order == "all at once":
        return ranks
    count = math.ceil(len(ranks) * min(1.0, FIRST + (1 - FIRST) * progress / OPEN))
    return {"easy first": ranks, "hard first": ranks[::-1], "random growth": shuffled}[order][:count]


def _measure_curriculum(case: Case) -> dict:
    """Errors on new problems of all kinds, and on the quarter of them that is hardest."""
    seed, updates = case["seed"], case["updates"]
    train, test = (Examples.of(*pairs(MIXED, n, part, seed)) for n, part in ((ITEMS, "train"), (TESTED, "test")))
    validation = Examples.of(*pairs(MIXED, 64, "validation", seed))
    ranks = np.argsort(difficulty(train), kind="stable")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(ITEMS)
    network = train.network(seed, **SMALL)

    def loss_at(step: int) -> torch.Tensor:
        pool = entered(case["order"], ranks, step / updates, shuffled)
        return train[torch.from_numpy(rng.choice(pool, BATCH, replace=False))].errors(network).mean()

    if not descend(network, loss_at, updates, case["lr"]):
        return {"test": math.nan, "hard": math.nan, "easy": math.nan, "validation": math.nan}
    with torch.inference_mode():
        errors = test.errors(network).numpy()[np.argsort(difficulty(test), kind="stable")]
    quarter = TESTED // 4
    return {"test": float(errors.mean()), "hard": float(errors[-quarter:].mean()), "easy": float(errors[:quarter].mean()),
            "validation": validation.error(network)}  # fmt: skip


def _judge_curriculum(records: Records) -> Finding:
    lengths = records.distinct("updates")
    best = {(u, order): tuned(records.where(updates=u, order=order)) for u in lengths for order in ORDERS}
    against: dict[tuple[int, str], Comparison] = {}
    rows = []
    for u in lengths:
        for order in ORDERS:
            mine = best[u, order]
            against[u, order] = compare(mine.by_seed("test"), best[u, ORDERS[0]].by_seed("test"))
            rows.append((str(u), order, *(spread(100 * mine[column]) for column in ("test", "easy", "hard")),
                         str(against[u, order]) if order != ORDERS[0] else ""))  # fmt: skip
    order = ORDERS[1]
    control = {u: compare(best[u, order].by_seed("test"), best[u, ORDERS[3]].by_seed("test")) for u in lengths}
    wins = [u for u in lengths if against[u, order].smaller]
    real = [u for u in wins if not control[u].larger]
    verdict = "supported" if len(real) == len(lengths) else "depends" if wins else "refuted"
    because = "Error with easy problems first over all at once: " + ", ".join(
        f"{against[u, order]} after {u} updates" for u in lengths
    )
    because += "; over a pool that grows in random order: " + ", ".join(f"{control[u]}" for u in lengths)
    because += "; hard first over all at once: " + ", ".join(f"{against[u, ORDERS[2]]}" for u in lengths) + "."
    if verdict == "depends":
        because += f" It depends on the length of the training: it helps with {' and '.join(map(str, wins))} updates."
    head = ("updates", "order", "error [%]", "easiest quarter [%]", "hardest quarter [%]", "over all at once")
    return Finding(verdict, because, head, tuple(rows))


def _draw_curriculum(records: Records, figure) -> None:
    lengths = records.distinct("updates")
    axes = np.atleast_1d(figure.subplots(1, len(lengths), sharey=True))
    for ax, u in zip(axes, lengths, strict=True):
        for k, (order, color) in enumerate(zip(ORDERS, (_GREY, _BLUE, _RED, _ORANGE), strict=True)):
            mine = tuned(records.where(updates=u, order=order))
            for column, mark, shift in (("test", "o", -0.18), ("hard", "^", 0.0), ("easy", "v", 0.18)):
                label = (
                    {"test": "all", "hard": "hardest quarter", "easy": "easiest quarter"}[column] if k == 0 else None
                )
                values = 100 * mine[column]
                ax.plot(
                    np.full(len(values), k + shift), values, mark, color=color, markersize=4, alpha=0.7, label=label
                )
        ax.set_xticks(range(len(ORDERS)), [order.replace(" ", "\n", 1) for order in ORDERS], fontsize=8)
        ax.set(title=f"{u} updates", yscale="log", xlim=(-0.5, len(ORDERS) - 0.5))
        ax.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
        ax.minorticks_off()
    axes[0].set_ylabel("mean relative L2 error [%]")
    axes[-1].legend(fontsize=8)


CURRICULUM = Claim(
    number=14,
    name="curriculum",
    says="Going from smooth media of low contrast to rough ones of high contrast trains better",
    hypothesis=(
        "At equally many updates, drawing first from the quarter of least contrast and roughness and then from ever more gives "
        "a smaller error on new problems of all kinds than drawing from all at once, and not a larger one than a pool that "
        "grows in random order. Supported where both hold beyond chance for a short and a longer training, refuted where the "
        "first holds for neither, depends otherwise."
    ),
    settings=(
        f"Lognormal media on 16 x 16 cells, contrast 1 to 1e4 (log-uniform), tau 3 or 18; {ITEMS} to train on, {TESTED} to test "
        f"on. Difficulty: the standard deviation of the log conductances. The pool grows from {100 * FIRST:g} % to all over the "
        f"first {100 * OPEN:g} % of the updates. Residual network of width 8 and 3 blocks, relative L2 loss, Adam, batches of "
        f"{BATCH}, step size from {STEP_SIZES['full']} by the validation error; 5 seeds."
    ),
    why=(
        "The idea is continuation: minimise an easier function first and follow its minimum (Bengio et al. 2009). It pays where "
        "the hard examples, met too early, drive the weights somewhere from which they do not return, or where their gradients "
        "are so noisy that they hide what the easy ones teach. For equilibria the easy problems are nearly D = constant: "
        "their solution is close to one fixed field times a number, which any network learns within a few updates, and they "
        "say little about what the coefficient does; a hard problem contains "
        "what the easy ones teach, not the other way round. The updates spent on them are then missing for the others.\n\n"
        "The loss matters as well. With relative errors every problem has the same weight in the sum, so the hard ones do not "
        "dominate it and there is less to be protected from; with absolute errors of fields whose size varies by orders of "
        "magnitude there would be. Two controls belong to a fair test. A growing pool repeats few items at first, easy or not "
        "(random growth); and the opposite order, hard first, shows whether order matters at all or only the last phase, which "
        "is the same for all and in which the step size goes to zero."
    ),
    cases=_curriculum_cases,
    measure=_measure_curriculum,
    judge=_judge_curriculum,
    draw=_draw_curriculum,
)

# --- (15) mini-batches against the full batch --------------------------------------------------------------------------

DATA = 64  # problems: the full batch
# name -> (items per step, passes over the data relative to the first)
ARMS = {
    "batches of 4": (4, 1),
    "batches of 16": (16, 1),
    "full batch": (DATA, 1),
    "full batch, four times the passes": (DATA, 4),
}
PASSES = {"quick": 3, "full": 16}
BATCH_STEPS = {"quick": (1e-2,), "full": (3e-3, 1e-2, 3e-2)}
FITTED, UNKNOWNS = 64, 8  # the linear regression whose gradients are counted
PARTS = (1, 2, 4, 8, 16, 32)
DRAWS = 4000


def _batch_cases(profile: str) -> list[dict]:
    return [{"part": "gradient", "size": size, "seed": seed} for size in PARTS for seed in SEEDS[profile]] + [
        {"part": "network", "arm": arm, "lr": lr, "seed": seed, "passes": PASSES[profile]}
        for arm in ARMS
        for lr in BATCH_STEPS[profile]
        for seed in SEEDS[profile]
    ]


def _measure_batches(case: Case) -> dict:
    if case["part"] == "gradient":
        return _measure_gradient(case)
    batch, factor = ARMS[case["arm"]]
    options = {
        "batch": batch,
        "epochs": factor * case["passes"],
        "items": DATA,
        "lr": case["lr"],
        "seed": case["seed"],
        **SMALL,
    }
    outcome = trial({**options, "data_seed": case["seed"]})
    return {name: outcome[name] for name in ("test", "train", "validation", "seconds", "steps")}


def _measure_gradient(case: Case) -> dict:
    """Mean squared distance of a batch's gradient from the full one, for a linear regression, and what theory gives.

    Drawn without replacement from N items, b of them have the variance ``S^2 / b (N - b) / (N - 1)``.
    """
    rng = np.random.default_rng([case["seed"], case["size"]])
    x = rng.standard_normal((FITTED, UNKNOWNS))
    y = x @ rng.standard_normal(UNKNOWNS) + 0.3 * rng.standard_normal(FITTED)
    gradients = x * (x @ rng.standard_normal(UNKNOWNS) - y)[:, None]
    centred = gradients - gradients.mean(axis=0)
    size = case["size"]
    picks = rng.permuted(np.tile(np.arange(FITTED), (DRAWS, 1)), axis=1)[:, :size]
    distances = (centred[picks].mean(axis=1) ** 2).sum(axis=1)
    expected = float((centred**2).sum() / FITTED) / size * (FITTED - size) / (FITTED - 1)
    return {"measured": float(distances.mean()), "expected": expected,
            "deviation": float(distances.std(ddof=1) / math.sqrt(DRAWS)) / expected}  # fmt: skip


def _judge_batches(records: Records) -> Finding:
    network = records.where(part="network")
    best = {arm: tuned(network.where(arm=arm)) for arm in ARMS}
    full, longer = "full batch", "full batch, four times the passes"
    small = [arm for arm in ARMS if ARMS[arm][0] < DATA]
    rows = tuple(
        (arm, f"{mine['steps'].mean():.0f}", f"{mine.rows[0]['lr']:g}", f"{mine['seconds'].mean():.2f}",
         spread(100 * mine["train"]), spread(100 * mine["test"]),
         "" if arm == full else str(compare(mine.by_seed("test"), best[full].by_seed("test"))))
        for arm, mine in best.items()
    )  # fmt: skip
    equal = {arm: compare(best[arm].by_seed("test"), best[full].by_seed("test")) for arm in small}
    timed = {arm: compare(best[arm].by_seed("test"), best[longer].by_seed("test")) for arm in small}
    cost = {arm: compare(best[arm].by_seed("seconds"), best[longer].by_seed("seconds")) for arm in small}
    wins = [arm for arm in small if equal[arm].smaller]
    holds = [arm for arm in small if cost[arm].ratio <= 1 and not timed[arm].larger]
    verdict = "refuted" if not wins else "supported" if len(wins) == len(small) and holds else "depends"
    because = "Error over that of the full batch at equally many passes: " + ", ".join(
        f"{equal[a]} ({a})" for a in small
    )
    because += "; against the full batch with four times the passes: " + ", ".join(
        f"{timed[a]} at {cost[a].ratio:.2g} times its processor time ({a})" for a in small
    )
    because += "."
    if verdict == "depends":
        because += (
            f" It depends on the size: at equal passes only {', '.join(wins)} gain."
            if len(wins) < len(small)
            else " It depends on what is held equal: given as much time the full batch does better."
        )
    checks = []
    for size in PARTS:
        mine = records.where(part="gradient", size=size)
        ratio = float((mine["measured"] / mine["expected"]).mean())
        tolerance = 4 * float(np.sqrt((mine["deviation"] ** 2).sum())) / len(mine)
        checks.append(
            Check(f"variance of the gradient of {size} of {FITTED} items, over theory", ratio, 1.0, tolerance)
        )
    head = ("arm", "updates", "step size", "seconds", "training error [%]", "error [%]", "over the full batch")
    return Finding(verdict, because, head, rows, tuple(checks))


def _draw_batches(records: Records, figure) -> None:
    left, right = figure.subplots(1, 2)
    network = records.where(part="network")
    for arm, color in zip(ARMS, (_BLUE, _GREEN, _RED, _ORANGE), strict=True):
        mine = tuned(network.where(arm=arm))
        left.plot(mine["seconds"], 100 * mine["test"], "o", color=color, markersize=5, label=arm)
    left.set(xlabel="processor time [s]", ylabel="mean relative L2 error [%]", title="networks, each at its best step size",
             xlim=(0, None), ylim=(0, None))  # fmt: skip
    left.legend(fontsize=7)
    gradient = records.where(part="gradient")
    sizes = np.array(gradient.distinct("size"), dtype=float)
    ratio = np.array([(m["measured"] / m["expected"]).mean() for m in (gradient.where(size=int(b)) for b in sizes)])
    finite = (FITTED - sizes) / (FITTED - 1)
    right.loglog(sizes, ratio * finite / sizes, "o", color=_BLUE, markersize=5, label="measured")
    right.loglog(sizes, finite / sizes, "-", color=_GREEN, linewidth=0.8, label="(N - b) / (N - 1) / b")
    right.loglog(sizes, 1 / sizes, "-", color=_GREY, linewidth=0.8, label="1 / b")
    right.set(xlabel="items per step b", ylabel="variance of the gradient, b = 1 at 1", title="linear regression")
    right.legend(fontsize=8)


MINIBATCHES = Claim(
    number=15,
    name="mini-batches",
    says="Mini-batches train better than the full batch",
    hypothesis=(
        "After equally many passes over the data, batches of 4 and of 16 give a smaller error on new problems than the full "
        "batch of 64, and at least one of them is not worse than a full batch that is given at least as much processor time. "
        "Supported where all of this holds beyond chance, refuted where neither size wins at equal passes, depends otherwise."
    ),
    settings=(
        f"{DATA} Darcy problems of 16 x 16 cells, residual network of width 8 and 3 blocks, Adam, {PASSES['full']} passes, step "
        f"size from {BATCH_STEPS['full']} by the validation error for each arm; 5 seeds. Gradients: linear regression with "
        f"{FITTED} items and {UNKNOWNS} unknowns, {DRAWS} draws per batch size and seed."
    ),
    why=(
        "The gradient of b items drawn from N is right on average, and its variance is S^2 / b (N - b) / (N - 1): the checks. Its "
        "cost is proportional to b. Going from b to 4 b halves the standard deviation of the noise and costs four times as much, "
        "so as long as the noise is smaller than the gradient itself the larger batch buys accuracy that the step does not "
        "need. The full batch takes N / b times fewer steps per pass, and the step size cannot make up for it: stability limits "
        "it to 2 / sharpness whatever the batch. Near the minimum the order turns round, for there the gradient "
        "vanishes and the noise does not; a step size that goes to zero takes the noise out again.\n\n"
        "That the noise by itself leads to minima that generalise better is a separate statement: compare the training error "
        "with the error in the table. Where the two agree nothing is overfitted and there is nothing for noise to cure: "
        "mini-batches win by the number of updates. Measured in time the picture also depends on the machine, since a "
        "larger batch runs more efficiently: the table gives processor seconds of one core."
    ),
    cases=_batch_cases,
    measure=_measure_batches,
    judge=_judge_batches,
    draw=_draw_batches,
)

CLAIMS: tuple[Claim, ...] = (CURRICULUM, MINIBATCHES)
