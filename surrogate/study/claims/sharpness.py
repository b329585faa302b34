"""Claim 16: the learning rate against the limit that the measured sharpness sets."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...monitors import preconditioner, sharpness
from ...optimizers import OPTIMIZERS, Rule
from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import interval
from .stepping import rods


@dataclass(frozen=True)
class Setting:
    """An optimizer with options, the limit of ``lr × λmax`` known for it in closed form, and its state before step 1."""

    title: str
    rule: Rule
    limit: float
    options: dict[str, float] = field(default_factory=dict)
    start: tuple[float, ...] = (1.0,)


SETTINGS = {
    "descent": Setting("gradient descent", OPTIMIZERS["sgd"], 2.0),
    "ball": Setting("heavy ball, β = 0.9", OPTIMIZERS["momentum"], 2 * (1 + 0.9), {"momentum": 0.9}, (1, 1)),
    "drag": Setting("drag 1", OPTIMIZERS["drag"], 2 * (1 + 2 / 1.0), {"drag": 1.0}, (1, 0, 1)),
    "pull": Setting(
        "drag 1, pull 0.5", OPTIMIZERS["drag"], 6 - 2 * 0.5 * 0.99 / 1.99, {"drag": 1.0, "pull": 0.5}, (1, 0, 1)
    ),
    "adam": Setting("Adam, β = 0.9", OPTIMIZERS["adam"], 2 * (1 + 0.9) / (1 - 0.9), {"beta": 0.9, "beta2": 0.99}),
}
QUADRATIC = ("descent", "ball", "drag", "pull")  # methods whose step is linear in the gradient
NETWORKS = ("descent", "ball", "adam")
SIDES = (0.98, 1.02)  # of the limit
START = (0.2, 0.8, 1.5, 3.0, 10.0)  # learning rates, in limits of the sharpness at the start
ADAM = (1e-3, 3e-3, 1e-2, 3e-2)  # Adam has no limit at the start: its preconditioner is not there yet
STEPS, EVERY, ITEMS, WIDTH = 1200, 40, 64, 32


def _cases(profile: str) -> list[dict]:
    full = profile == "full"
    quadratics = [{"part": "quadratic", "method": m, "factor": f, "seed": 0} for m in QUADRATIC for f in SIDES]
    networks = [
        {"part": "network", "method": method, "lr": lr, "seed": seed}
        for method in (NETWORKS if full else NETWORKS[:1])
        for lr in (ADAM if method == "adam" else START if full else START[:4])
        for seed in range(5 if full else 2)
    ]
    return quadratics + networks


def _measure(case: Case) -> dict[str, Any]:
    torch.set_num_threads(1)
    return _quadratic(case) if case["part"] == "quadratic" else _network(case)


def _quadratic(case: Case) -> dict[str, Any]:
    """Growth per step of the stiffest direction of a quadratic, as run by torch, and as the table says."""
    chosen = SETTINGS[case["method"]]
    curvature = torch.logspace(-2, 0, 8, dtype=torch.float64)  # lambda_max = 1
    weights = torch.ones(8, dtype=torch.float64, requires_grad=True)
    lr = case["factor"] * chosen.rule.real_limit(**chosen.options)
    optimizer = chosen.rule.build([weights], lr=lr, **chosen.options)
    path = []
    for _ in range(600):
        optimizer.zero_grad()
        (0.5 * curvature * weights.square()).sum().backward()
        optimizer.step()
        path.append(float(weights[-1].detach().abs()))
    matrix, first = chosen.rule.amplification(-lr, **chosen.options), np.array(chosen.start)
    early, late = (abs((np.linalg.matrix_power(matrix, n) @ first)[0]) for n in (300, 600))
    return {
        "growth": (path[599] / path[299]) ** (1 / 300),
        "theory": (late / early) ** (1 / 300),
        "limit": chosen.rule.real_limit(**chosen.options),
    }


def network(seed: int, width: int = WIDTH) -> tuple[torch.nn.Module, Any]:
    """A small network from the conductivity of a rod to its equilibrium, and its loss over all of the data."""
    torch.manual_seed(seed)
    x, y = (torch.tensor(v, dtype=torch.float32) for v in rods(seed, ITEMS))
    net = torch.nn.Sequential(torch.nn.Linear(16, width), torch.nn.Tanh(), torch.nn.Linear(width, 16))
    return net, lambda: (net(x) - y).square().mean()


def _network(case: Case) -> dict[str, Any]:
    """Full-batch training; every EVERY steps lr × sharpness over the method's limit (of P^-1 H for Adam), and the loss."""
    chosen = SETTINGS[case["method"]]
    limit = chosen.rule.real_limit(**chosen.options)
    net, loss = network(case["seed"])
    first = sharpness(net, loss, 30)
    lr = case["lr"] if chosen.rule.preconditioned else case["lr"] * limit / first
    optimizer = chosen.rule.build(net.parameters(), lr=lr, **chosen.options)
    ratios, losses, rises, last = [], [], 0, math.inf
    start = float(loss().detach())
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        now = float(value.detach())
        rises += now > last
        last = now
        if not math.isfinite(now) or now > 1e4 * start:
            break
        optimizer.step()
        if step % EVERY == 0:
            scale = preconditioner(optimizer) if chosen.rule.preconditioned else None
            ratios.append(lr * sharpness(net, loss, 20, preconditioner=scale) / limit)
            losses.append(float(loss().detach()))
    count = STEPS // EVERY
    alive = len(losses) == count and losses[-1] < start
    pad = [math.nan] * (count - len(ratios))
    late = ratios[-count // 3 :] if alive else []
    return {
        "alive": int(alive), "ratio": ratios + pad, "loss": losses + pad, "start": start, "rises": rises / STEPS,
        "late": float(np.median(late)) if late else math.nan, "peak": max(ratios, default=math.nan),
        "final": losses[-1] if alive else math.nan,
    }  # fmt: skip


HOVER = 0.8  # of the limit: from here on a run is at the edge


def _judge(records: Records) -> Finding:
    quadratics, networks = records.where(part="quadratic"), records.where(part="network")
    rows: list[tuple[str, ...]] = []
    sharp = []
    for method in quadratics.distinct("method"):
        chosen = quadratics.where(method=method)
        below, above = (chosen.where(factor=f)["growth"][0] for f in SIDES)
        sharp.append(below < 1 < above)
        rows.append((f"quadratic, {SETTINGS[method].title}", f"{SIDES[0]}, {SIDES[1]} of the limit",
                     "rests; grows" if sharp[-1] else "otherwise", f"{below:.4f}; {above:.4f} per step", "-"))  # fmt: skip
    lived, reached = dict.fromkeys(networks.distinct("method"), 0), []
    for method in networks.distinct("method"):
        for lr in networks.where(method=method).distinct("lr"):
            chosen = networks.where(method=method, lr=lr)
            alive, late = chosen["alive"] > 0, chosen["late"]
            over = alive & (chosen["peak"] > 1)
            lived[method] += int(over.sum())
            reached += list(late[alive & (late > HOVER)])
            given = f"lr {lr:g}" if SETTINGS[method].rule.preconditioned else f"{lr:g} of the limit at the start"
            rows.append((f"network, {SETTINGS[method].title}", given, f"{int(alive.sum())} of {len(chosen)} train",
                         f"{np.median(late[alive]):.3g} of the limit at the end" if alive.any() else "-",
                         f"{np.nanmedian(chosen['final']):.2g}" if alive.any() else "-"))  # fmt: skip
    verdict = "refuted" if not all(sharp) else "depends" if any(lived.values()) else "supported"
    each = []
    for method, count in lived.items():
        chosen = networks.where(method=method)
        met = int(((chosen["peak"] > 1) | (chosen["alive"] == 0)).sum())
        each.append(f"{count} of {met} with {SETTINGS[method].title}")
    mean, low, high = interval(np.array(reached))
    because = (
        f"On quadratics the limit is exact for {sum(sharp)} of {len(sharp)} methods, 2 % to either side. Networks "
        f"move: of the runs that met the limit of their measured sharpness these went on training: {'; '.join(each)}. "
        f"{len(reached)} runs end at the edge, at {mean:.3g} [{low:.3g}, {high:.3g}] times the limit."
    )
    checks = [
        check
        for row in quadratics
        for known in [SETTINGS[row["method"]]]
        for check in (
            Check(f"{known.title}: growth per step at {row['factor']} of the limit", row["growth"], row["theory"], 1e-6),
            Check(f"{known.title}: lr × λmax at the limit", row["limit"], known.limit, 1e-6),
        )[: 2 if row["factor"] == SIDES[0] else 1]
    ]  # fmt: skip
    head = ("what", "learning rate", "outcome", "lr × sharpness", "final loss")
    return Finding(verdict, because, head, tuple(rows), tuple(checks))


def _draw(records: Records, figure) -> None:
    from diffsim.plots import DASHES, LINES

    networks = records.where(part="network")
    methods = networks.distinct("method")
    axes = np.atleast_1d(figure.subplots(1, len(methods), sharey=True))
    steps = EVERY * np.arange(1, STEPS // EVERY + 1)
    for ax, method in zip(axes, methods, strict=True):
        chosen = networks.where(method=method, seed=networks.rows[0]["seed"])
        for k, row in enumerate(chosen):
            ratio = np.array(row["ratio"], float)
            ends = "" if row["alive"] else " (lost)"
            ax.plot(
                steps,
                ratio,
                color=LINES[k],
                linestyle=DASHES[k % len(DASHES)],
                linewidth=1.3,
                label=f"{row['lr']:g}{ends}",
            )
        ax.axhline(1.0, color="#7A7A7A", linewidth=1.0)
        ax.set(yscale="log", ylim=(0.02, 20), xlabel="steps", title=SETTINGS[method].title)
        adaptive = SETTINGS[method].rule.preconditioned
        ax.legend(
            frameon=False, fontsize=7, ncols=2, title="lr" if adaptive else "lr / limit at the start", title_fontsize=8
        )
    axes[0].set_ylabel("lr × sharpness / limit")


SHARPNESS = Claim(
    16,
    "sharpness",
    "The learning rate must stay below the limit that the sharpness sets; above it training diverges",
    "On quadratics every method rests 2 % below its limit and grows 2 % above; and no network goes on training (a "
    "finite loss below the start's, after all steps) once lr × measured sharpness has exceeded the limit. Supported "
    "if both, depends if quadratics obey and some networks live beyond, refuted if quadratics do not obey.",
    f"Quadratics of 8 directions, λ from 0.01 to 1. A network 16-{WIDTH}-16 (tanh) from the conductivity of a heated "
    f"rod to its equilibrium, {ITEMS} fields, full batch, {STEPS} steps, five starts; the sharpness by 20 Lanczos "
    f"steps every {EVERY} steps; for Adam that of P⁻¹H with its own preconditioner P. Learning rates in limits of the "
    "sharpness at the start.",
    "Gradient descent is forward Euler on the gradient flow w' = -∇L: with H = ∇²L a step of lr multiplies each "
    "eigendirection by 1 - lr λ, and lr λmax < 2 is the same wall as dt ρ(A) < 2 of FTCS. A heavy ball stretches it "
    "to 2(1 + β)/λmax, drag to 2(1 + 2/drag)/λmax, Adam to 2(1 + β)/((1 - β) λmax(P⁻¹H)): the roots of their "
    "amplification matrices, computed from the table of optimizers.\n\n"
    "Diffusion is linear, so beyond the wall it is lost. A network's Hessian moves with the weights. Training at a "
    "small rate *sharpens* it until lr λmax reaches the limit; there the stiffest direction starts to swing, the "
    "swing moves the weights to where the curvature is smaller, and the sharpness falls back: training hovers at the "
    "edge of stability while the loss goes on falling, though not in every step. A start above the limit may be "
    "thrown to a flatter place (a catapult) or be lost. So the measured sharpness tells which rate is large, not where "
    "training ends; how much the edge forgives depends on the method, as the table shows.\n\n"
    "Sources: J. Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability (2021), "
    "and Adaptive Gradient Methods at the Edge of Stability (2022); A. Lewkowycz et al., The large learning rate "
    "phase (2020).",
    _cases, _measure, _judge, _draw,
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (SHARPNESS,)
