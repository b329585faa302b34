"""Graph, convolutional, recurrent and attention networks, given equal time."""

from itertools import combinations
from typing import Any

import numpy as np

from ...sampling import SPECS, Spec
from ..claim import Case, Claim, Finding, Records
from ..statistics import compare, spread
from ..testbed import dataset, trial, tuned

SEEDS = {"quick": range(2), "full": range(5)}
TASKS = {"darcy": SPECS["darcy"], "all kinds of sides": SPECS["mixed"]}
ITEMS = 48
# name -> (family, options, passes over the data that take about as long as the others': see the seconds in the records)
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet": ("convolutional", {"width": 12, "blocks": 4, "dilations": 3}, 18),
    "unet": ("convolutional", {"width": 8}, 14),
    "graph": ("graph", {"width": 8}, 6),
    "convlstm": ("recurrent", {"width": 8}, 13),
    "attention": ("attention", {"width": 16}, 12),
}
FAMILIES = tuple(dict.fromkeys(family for family, _, _ in NETWORKS.values()))
STEP_SIZES = {"quick": (1e-2,), "full": (3e-3, 1e-2)}
SHORTER = {"quick": 6, "full": 1}  # the passes are divided by it
MATTERS = 1.25  # factor between two families' errors below which the choice does not matter
_COLORS = {"convolutional": "#0072B2", "graph": "#009E73", "recurrent": "#E69F00", "attention": "#D55E00"}


def _cases(profile: str) -> list[dict]:
    return [
        {"task": task, "network": network, "lr": lr, "seed": seed, "epochs": max(1, passes // SHORTER[profile])}
        for task in TASKS
        for network, (_, _, passes) in NETWORKS.items()
        for lr in STEP_SIZES[profile]
        for seed in SEEDS[profile]
    ]


def _measure(case: Case) -> dict:
    """One training; the passes of the case are what makes the times equal."""
    _, options, _ = NETWORKS[case["network"]]
    settings = {"model": case["network"], "seed": case["seed"], "lr": case["lr"], "epochs": case["epochs"], **options}
    outcome = trial(settings, _problems(case["task"], case["seed"]))
    return {name: outcome[name] for name in ("test", "train", "validation", "seconds", "steps")}


def _problems(task: str, seed: int):
    spec: Spec = TASKS[task]
    return dataset(spec, ITEMS, seed)


def _judge(records: Records) -> Finding:
    rows, best = [], {}
    for task in records.distinct("task"):
        chosen = {name: tuned(records.where(task=task, network=name)) for name in NETWORKS}
        for name, mine in chosen.items():
            rows.append((task, name, NETWORKS[name][0], f"{mine['seconds'].mean():.2f}", f"{mine['steps'].mean():.0f}",
                         spread(100 * mine["train"]), spread(100 * mine["test"])))  # fmt: skip
        for family in FAMILIES:  # each by its better network
            members = [chosen[name] for name in NETWORKS if NETWORKS[name][0] == family]
            best[task, family] = min(members, key=lambda mine: _mean(mine["validation"])).by_seed("test")
    ranked = {
        task: sorted(FAMILIES, key=lambda family: _mean(np.array(list(best[task, family].values())))) for task in TASKS
    }
    winners = {task: order[0] for task, order in ranked.items()}
    lead = {task: compare(best[task, order[1]], best[task, order[0]]) for task, order in ranked.items()}
    gap = {task: compare(best[task, order[-1]], best[task, order[0]]) for task, order in ranked.items()}
    matters = [task for task in TASKS if gap[task].low > MATTERS]
    clear = len(set(winners.values())) == 1 and all(lead[task].larger for task in TASKS)
    verdict = "refuted" if not matters else "supported" if len(matters) == len(TASKS) and clear else "depends"
    because = "; ".join(
        f"{task}: {order[0]} is first, {order[1]} has {lead[task]} times its error, {order[-1]} {gap[task]}"
        for task, order in ranked.items()
    )
    because += "."
    if verdict == "depends":
        if len(set(winners.values())) > 1:
            because += (
                f" It depends on the task: {' and '.join(dict.fromkeys(winners.values()))} share the first places."
            )
        else:
            because += (
                f" The same family is first on both, but how much that matters depends on the task: more than a factor "
                f"{MATTERS:g} beyond chance between first and last on {', '.join(matters)} only."
                if len(matters) < len(TASKS)
                else " The same family is first on both, not beyond chance on each."
            )
    even = [
        task
        for task in TASKS
        for a, b in combinations(ranked[task][:2], 2)
        if not compare(best[task, b], best[task, a]).larger
    ]
    if even and verdict != "refuted":
        because += f" The first two cannot be told apart on {', '.join(even)}."
    head = ("task", "network", "family", "seconds", "updates", "training error [%]", "error [%]")
    return Finding(verdict, because, head, tuple(rows))


def _mean(values: np.ndarray) -> float:
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else float("inf")


def _draw(records: Records, figure) -> None:
    axes = figure.subplots(1, 2)
    for ax, task in zip(axes, records.distinct("task"), strict=False):
        for k, (name, (family, _, _)) in enumerate(NETWORKS.items()):
            errors = 100 * tuned(records.where(task=task, network=name))["test"]
            ax.plot(np.full(len(errors), k), errors, "o", color=_COLORS[family], alpha=0.6, markersize=5)
            ax.plot([k - 0.25, k + 0.25], [errors.mean()] * 2, color=_COLORS[family])
        ax.set_xticks(range(len(NETWORKS)), list(NETWORKS), fontsize=8)
        ax.set(title=task, xlim=(-0.5, len(NETWORKS) - 0.5), ylim=(0, None))
    axes[0].set_ylabel("mean relative L2 error [%]")


ARCHITECTURES = Claim(
    number=17,
    name="architectures",
    says="Given the same time, one family of networks (graph, convolutional, recurrent, attention) is best",
    hypothesis=(
        "At equal processor time one family has the smallest error on new problems on both tasks, beyond chance against the "
        f"second, and the last family's error is more than {MATTERS:g} times the first's. Supported where all of this holds, "
        f"refuted where on no task the families differ by more than {MATTERS:g} beyond chance, depends otherwise."
    ),
    settings=(
        f"16 x 16 cells, {ITEMS} problems: Darcy media with f = 1 and u = 0 on the sides; the same media with random sources and "
        "random values, fluxes and Robin sides. Adam, batches of 8, relative L2 loss, cosine schedule; step size from "
        f"{STEP_SIZES['full']} by the validation error; passes chosen so that each training takes about as many processor "
        "seconds of one core (in the table). A family is represented by its better network on the validation split; 5 seeds. "
        "Small networks and short trainings: other budgets may rank them otherwise."
    ),
    why=(
        "The equilibrium is K^-1 F: every value depends on every coefficient, nearby ones most. An architecture is a guess at "
        "that structure. A convolution sees its neighbourhood and needs depth, dilation or coarser levels to carry a wall's "
        "value across the domain; attention sees everything at once but has to learn what distance means; a recurrent network "
        "repeats one local update, as relaxation does, and inherits its slowness unless it works on several levels; message "
        "passing on the graph of faces is the closest to K itself, works on any shape, and costs the most per update, because "
        "gathering along edges is slower than a convolution on a regular array.\n\n"
        "All networks here are built around linearity in the right-hand side (the solution is linear in F), and receive "
        "inputs free of units, which helps them alike. At equal time the number of updates differs by several times, and that "
        "decides as much as the structure does: what is fast per update sees the data more often. With f = 1 and cold sides "
        "there is little to carry across the box; with fluxes and values on the sides there is, which is why the two tasks "
        "need not have the same winner."
    ),
    cases=_cases,
    measure=_measure,
    judge=_judge,
    draw=_draw,
)

CLAIMS: tuple[Claim, ...] = (ARCHITECTURES,)
