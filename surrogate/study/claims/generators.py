"""Generators of fields that a few sensors do not determine: do they show all that is possible, or one of it?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from diffsim.boundary import Dirichlet
from diffsim.grid import Grid
from diffsim.operator import discretize
from diffsim.problem import Problem

from ..claim import Case, Check, Claim, Finding, Records
from ..descent import descend, pace
from ..statistics import interval, spread
from ..testbed import tuned

SEEDS = {"quick": range(2), "full": range(5)}
UPDATES = {"quick": 60, "full": 500}
STEP_SIZES = {"quick": (5e-3,), "full": (2e-3, 5e-3)}
CELLS = 16  # per axis
MODES = 4  # random sources: cosines k < MODES per axis
SENSORS, SENSOR_NOISE = 4, 0.02  # noise relative to the root mean square of a reading
DISTANCE = {"one mode": 0.0, "two modes": 3.0}  # of a mode from the middle, in standard deviations of the rest
BATCH, LATENT, WIDTH = 64, 16, 64
COMPANIONS = 4  # samples per reading in the energy score
ASKED, SAMPLES = 100, 64  # readings tested, samples for each
LEVEL = 0.8  # of the intervals whose coverage is counted
COLLAPSED, KEPT = 0.5, 0.8  # share of the true spread: less is a collapse; kept is from here to the inverse
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"


# --- what is possible, exactly -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class World:
    """Fields ``u = L xi + side a``, xi standard normal and side +1 or -1 by chance, read as ``y = H u + noise``.

    The sensors stand where a is zero, so a reading says nothing about the side: given y, u is a mixture of two Gaussians,
    ``N(gain y +- a, cov)``, of equal weight.

    Attributes
    ----------
    mixing
        L, (cells, modes).
    apart
        a, (cells,); zero where there is one mode.
    sensors
        H, (sensors, cells).
    noise
        Standard deviation of a reading.
    gain, cov
        (cells, sensors) and (cells, cells).
    """

    mixing: np.ndarray
    apart: np.ndarray
    sensors: np.ndarray
    noise: float
    gain: np.ndarray
    cov: np.ndarray

    @property
    def variance(self) -> float:
        """Trace of the covariance of u given a reading."""
        return float(np.trace(self.cov) + self.apart @ self.apart)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Fields (n, cells) and their readings (n, sensors)."""
        u = rng.standard_normal((n, self.mixing.shape[1])) @ self.mixing.T
        u += rng.choice([-1.0, 1.0], (n, 1)) * self.apart
        return u, u @ self.sensors.T + self.noise * rng.standard_normal((n, len(self.sensors)))

    def conditional(self, y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """n fields for each reading, (len(y), n, cells), from the exact distribution."""
        values, vectors = np.linalg.eigh(self.cov)
        root = vectors * np.sqrt(np.maximum(values, 0))
        gauss = rng.standard_normal((len(y), n, len(values))) @ root.T
        return (y @ self.gain.T)[:, None] + gauss + rng.choice([-1.0, 1.0], (len(y), n, 1)) * self.apart


@lru_cache(maxsize=4)
def world(target: str) -> World:
    """Equilibria of a square with cold sides under a smooth random source and, for two modes, a heater left or right."""
    grid = Grid(shape=(CELLS, CELLS), lengths=(1.0, 1.0))
    problem = Problem(grid, diffusivity=1.0, boundary={"x": Dirichlet(0.0), "y": Dirichlet(0.0)})
    solve = np.linalg.inv(discretize(problem).matrix().toarray()) / CELLS**2  # of sources per volume
    x, y = np.meshgrid(*grid.centers, indexing="ij")
    waves = [
        np.cos(math.pi * i * x) * np.cos(math.pi * j * y) / (1 + i * i + j * j)
        for i in range(MODES)
        for j in range(MODES)
    ]
    mixing = solve @ np.stack([wave.reshape(-1) for wave in waves], axis=1)
    scale = math.sqrt(float((mixing**2).sum()) / CELLS**2)
    mixing /= scale  # fields of root mean square one
    heater = np.exp(-((x - 0.75) ** 2 + (y - 0.5) ** 2) / 0.02) - np.exp(-((x - 0.25) ** 2 + (y - 0.5) ** 2) / 0.02)
    apart = solve @ heater.reshape(-1)
    places = np.zeros((SENSORS, CELLS, CELLS))
    for k, row in enumerate(np.linspace(2, CELLS - 3, SENSORS).round().astype(int)):
        places[k, CELLS // 2 - 1 : CELLS // 2 + 1, row] = 0.5  # on the middle line, between two cells
    sensors = places.reshape(SENSORS, -1)
    seen = sensors @ mixing
    noise = SENSOR_NOISE * math.sqrt(float((seen**2).sum()) / SENSORS)
    gain = mixing @ seen.T @ np.linalg.inv(seen @ seen.T + noise**2 * np.eye(SENSORS))
    cov = mixing @ mixing.T - gain @ seen @ mixing.T
    apart *= DISTANCE[target] * math.sqrt(float(np.trace(cov)) / float(apart @ apart))
    return World(mixing, apart, sensors, noise, gain, cov)


# --- generators --------------------------------------------------------------------------------------------------------


def _layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
    )


class Generator(nn.Module):
    """Reading (..., sensors) and noise (..., LATENT) -> field (..., cells); without `noisy` the noise is not looked at."""

    def __init__(self, noisy: bool):
        super().__init__()
        self.noisy = noisy
        self.layers = _layers(SENSORS + (LATENT if noisy else 0), CELLS**2)

    def forward(self, reading: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        if not self.noisy:
            return self.layers(reading)
        noise = torch.randn((*reading.shape[:-1], LATENT), generator=random)
        return self.layers(torch.cat([reading, noise], dim=-1))


def energy_score(samples: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean of ``|x - u| - |x - x'| / 2`` over samples (n, m, cells) of one distribution and the truth (n, cells).

    Least on average, over all distributions, for the one that the truth is drawn from (Gneiting & Raftery 2007).
    """
    m = samples.shape[1]
    near = (samples - truth[:, None]).norm(dim=-1).mean()
    pairs = (samples[:, :, None] - samples[:, None] + 1e-9).norm(dim=-1).sum(dim=(1, 2)) / (m * (m - 1))
    return near - 0.5 * pairs.mean()


def _squares(generator: Generator, batch: tuple[torch.Tensor, torch.Tensor], random: torch.Generator) -> torch.Tensor:
    y, u = batch
    return (generator(y, random) - u).square().mean()


def _energy(generator: Generator, batch: tuple[torch.Tensor, torch.Tensor], random: torch.Generator) -> torch.Tensor:
    y, u = batch
    return energy_score(generator(y[:, None].expand(-1, COMPANIONS, -1), random), u)


_SCORES = {"squares": _squares, "energy": _energy}


def _trained(case: Case, draw: Callable) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case["seed"])
        generator, judge = Generator(case["noise"]), _layers(SENSORS + CELLS**2, 1)
    random = torch.Generator().manual_seed(case["seed"])
    if case["loss"] == "adversary":
        _compete(generator, judge, draw, random, case["updates"], case["lr"])
    else:
        loss = _SCORES[case["loss"]]
        descend(generator, lambda step: loss(generator, draw(), random), case["updates"], case["lr"])
    return generator


def _compete(generator: Generator, judge: nn.Module, draw: Callable, random: torch.Generator, updates: int, lr: float):
    """Conditional adversarial training (Goodfellow et al. 2014, Mirza & Osindero 2014), the judge one update ahead."""
    ours = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.9))
    theirs = torch.optim.Adam(judge.parameters(), lr=lr, betas=(0.5, 0.9))
    verdict = lambda y, u: judge(torch.cat([y, u], dim=-1))  # noqa: E731
    for step in range(updates):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = lr * pace(step / updates)
        y, u = draw()
        fake = generator(y, random)
        blame = nn.functional.softplus(verdict(y, fake.detach())) + nn.functional.softplus(-verdict(y, u))
        theirs.zero_grad(set_to_none=True)
        blame.mean().backward()
        theirs.step()
        y, u = draw()
        ours.zero_grad(set_to_none=True)
        nn.functional.softplus(-verdict(y, generator(y, random))).mean().backward()
        ours.step()


# --- the experiment ----------------------------------------------------------------------------------------------------

KINDS = ("squares", "energy", "adversary")


def _cases(profile: str) -> list[dict]:
    exact = [{"target": target, "loss": "exact", "noise": True, "lr": 0.0, "seed": seed, "updates": 0}
             for target in DISTANCE for seed in SEEDS[profile]]  # fmt: skip
    return exact + [
        {"target": target, "loss": loss, "noise": noise, "lr": lr, "seed": seed, "updates": UPDATES[profile]}
        for target in DISTANCE
        for loss in KINDS
        for noise in (False, True)
        for lr in (STEP_SIZES[profile] if noise else STEP_SIZES["quick"])
        for seed in SEEDS[profile]
    ]


def _measure(case: Case) -> dict:
    """Samples for readings that were not trained on, against the exact conditional distribution."""
    place = world(case["target"])
    rng = np.random.default_rng([case["seed"], 1])
    scale = place.draw(4000, np.random.default_rng(0))[1].std(axis=0)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        u, y = place.draw(BATCH, rng)
        return torch.from_numpy((y / scale).astype(np.float32)), torch.from_numpy(u.astype(np.float32))

    tests = np.random.default_rng([case["seed"], 2])
    validation, tested = place.draw(ASKED, tests), place.draw(ASKED, tests)
    if case["loss"] == "exact":
        return _compared(place, tested, place.conditional(tested[1], SAMPLES, tests), math.nan)
    generator = _trained(case, draw)
    random = torch.Generator().manual_seed(10_000 + case["seed"])

    def samples(y: np.ndarray) -> np.ndarray:
        reading = torch.from_numpy((y / scale).astype(np.float32))[:, None].expand(-1, SAMPLES, -1)
        with torch.inference_mode():
            return generator(reading, random).numpy().astype(float)

    return _compared(place, tested, samples(tested[1]), _score(samples(validation[1]), validation[0]))


def _score(samples: np.ndarray, truth: np.ndarray) -> float:
    few = torch.from_numpy(samples[:, :16])
    return float(energy_score(few, torch.from_numpy(truth)))


def _compared(place: World, tested: tuple[np.ndarray, np.ndarray], samples: np.ndarray, validation: float) -> dict:
    truth, y = tested
    mean = y @ place.gain.T
    deviation = math.sqrt(place.variance)
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    along = (samples - mean[:, None]) @ place.apart / max(float(place.apart @ place.apart), 1e-300)
    right = (along > 0).mean(axis=1)
    return {
        "spread": math.sqrt(float(samples.var(axis=1, ddof=1).sum(axis=1).mean())) / deviation,
        "center": math.sqrt(float(((samples.mean(axis=1) - mean) ** 2).sum(axis=1).mean())) / deviation,
        "coverage": float(((truth >= low) & (truth <= high)).mean()),
        "score": _score(samples, truth),
        "validation": validation,
        # two modes: readings for which both have at least a tenth of the samples; samples that lie in neither
        "both": float(((right >= 0.1) & (right <= 0.9)).mean()),
        "between": float((np.abs(along) < 0.5).mean()),
        # what theory says is 1: squared distance of the truth from the exact mean, over its expectation
        "skill": float(((truth - mean) ** 2).sum(axis=1).mean()) / place.variance,
        "along": along[: min(20, len(along)), :10].reshape(-1).round(3).tolist() if place.apart.any() else [],
    }


def _chosen(records: Records, target: str, loss: str, noise: bool) -> Records:
    return tuned(records.where(target=target, loss=loss, noise=noise))


def _judge(records: Records) -> Finding:
    rows, kept, spreads = [], {}, {}
    for target in records.distinct("target"):
        for loss in ("exact", *KINDS):
            for noise in (True,) if loss == "exact" else (False, True):
                mine = (
                    records.where(target=target, loss=loss)
                    if loss == "exact"
                    else _chosen(records, target, loss, noise)
                )
                share = interval(mine["spread"])
                if noise and loss != "exact":
                    spreads[target, loss] = share
                    enough = (
                        share[1] > KEPT
                        and share[2] < 1 / KEPT
                        and (target == "one mode" or interval(mine["both"])[1] > 0.5)
                    )
                    kept[target, loss] = True if enough else False if share[2] < COLLAPSED else None
                two = target == "two modes"
                rows.append((
                    target, loss, "" if loss == "exact" else "yes" if noise else "no", spread(100 * mine["spread"]),
                    spread(100 * mine["coverage"]), spread(mine["score"]),
                    spread(100 * mine["both"]) if two else "", spread(100 * mine["between"]) if two else "",
                ))  # fmt: skip
    works = [loss for loss in KINDS if all(kept[target, loss] for target in DISTANCE)]
    fails = [loss for loss in KINDS if all(kept[target, loss] is False for target in DISTANCE)]
    verdict = "supported" if len(works) == len(KINDS) else "refuted" if not works else "depends"
    because = "With noise at the input the samples have, of the true conditional spread, " + "; ".join(
        f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}] ({loss}, {target})"
        for (target, loss), (mean, low, high) in spreads.items()
    )
    because += ". Without it, exactly none."
    if verdict == "depends":
        because += f" It depends on the loss: {', '.join(works)} keeps the spread and visits every mode"
        because += f"; with {', '.join(fails)} the generator learns to ignore its noise." if fails else "."
        between = {loss: _chosen(records, "two modes", loss, True)["between"].mean() for loss in works}
        exact = records.where(target="two modes", loss="exact")["between"].mean()
        because += (
            " The modes are not told apart sharply after so few updates: between them lie "
            + ", ".join(f"{100 * share:.0f} % of its samples ({loss})" for loss, share in between.items())
            + f", of exact ones {100 * exact:.0f} %."
        )
        if rest := [loss for loss in KINDS if loss not in works + fails]:
            because += f" With {', '.join(rest)} the spread is neither lost nor right on both."
    head = ("target", "loss", "noise", "spread [%]", f"coverage of {100 * LEVEL:g} % [%]", "energy score",
            "both modes shown [%]", "in neither [%]")  # fmt: skip
    return Finding(verdict, because, head, tuple(rows), _checks(records))


def _checks(records: Records) -> tuple[Check, ...]:
    checks = []
    for target in records.distinct("target"):
        mine = records.where(target=target, loss="exact")
        n = ASKED * len(mine)
        place = world(target)
        values = np.linalg.eigvalsh(place.cov)
        # variance of a quadratic form; the part of the two modes adds the product of the Gaussian with a
        variance = 2 * float((values**2).sum()) + 4 * float(place.apart @ place.cov @ place.apart)
        tolerance = 4 * math.sqrt(variance / n) / place.variance
        checks.append(Check(f"{target}: squared distance from the exact mean, over its expectation",
                            float(mine["skill"].mean()), 1.0, tolerance))  # fmt: skip
        # cells of one field go together, so each reading counts as one trial; quantiles of few samples are a little narrow
        narrow = 2 / (SAMPLES + 1)
        checks.append(Check(f"{target}: coverage of intervals from exact samples", float(mine["coverage"].mean()), LEVEL,
                            4 * math.sqrt(LEVEL * (1 - LEVEL) / n) + narrow))  # fmt: skip
    return tuple(checks)


def _draw(records: Records, figure) -> None:
    left, right = figure.subplots(1, 2)
    colors = {"squares": _GREY, "energy": _BLUE, "adversary": _ORANGE}
    for k, target in enumerate(DISTANCE):
        for j, loss in enumerate(KINDS):
            values = 100 * _chosen(records, target, loss, True)["spread"]
            place = k + 0.25 * (j - 1)
            left.bar(place, values.mean(), 0.22, color=colors[loss], label=loss if k == 0 else None)
            left.plot(np.full(len(values), place), values, ".", color="black", markersize=3)
    left.axhline(100, color=_GREEN, linewidth=0.8)
    left.set_xticks(range(len(DISTANCE)), list(DISTANCE))
    left.set(
        ylabel="spread of samples, of the true one [%]", title="with noise at the input (without: 0)", ylim=(0, 260)
    )
    left.legend(fontsize=8, loc="upper left", ncols=1)
    edges = np.linspace(-2, 2, 41)
    for loss, color in (("exact", _GREEN), *colors.items()):
        known = records.where(target="two modes", loss=loss)
        mine = known if loss == "exact" else _chosen(records, "two modes", loss, True)
        along = np.clip(np.concatenate(mine["along"]), -1.99, 1.99)
        right.hist(along, edges, density=True, histtype="step", color=color, label=loss)
    right.set(
        xlabel="place between the modes at -1 and 1",
        ylabel="density of samples",
        title="samples of two modes (squares: all at 0)",
        ylim=(0, 1),
    )
    right.legend(fontsize=8)


NOISY_GENERATOR = Claim(
    number=22,
    name="noisy-generator",
    says="Noise at the input of a generator keeps it from mode collapse",
    hypothesis=(
        f"A generator of fields from {SENSORS} sensors that also receives noise shows the true conditional spread to a "
        f"factor of {1 / KEPT:g} beyond chance and, where two equally likely modes exist, both for most readings. Supported where "
        "that holds for every loss (squared error, energy score, adversary), refuted where for none, depends otherwise. A "
        f"spread below {100 * COLLAPSED:g} % counts as a collapse."
    ),
    settings=(
        f"Equilibria of a unit square with cold sides on {CELLS} x {CELLS} cells under a smooth Gaussian source; for two modes "
        f"also a heater left or right of the middle line on which the {SENSORS} sensors stand, so that they cannot tell which. The "
        f"exact conditional distribution is known in closed form. Generator: two hidden layers of {WIDTH}; {LATENT} noise "
        f"inputs; {UPDATES['full']} updates of Adam on fresh batches of {BATCH}, step size from {STEP_SIZES['full']} by the energy "
        f"score on other readings; 5 seeds, {ASKED} readings with {SAMPLES} samples each. The adversary is a network of the same "
        "size, one update for each of the generator's. After a trial with one seed, in which the adversary gave twice the true "
        "spread, and before these runs, an upper limit was set to what counts as kept."
    ),
    why=(
        "A function of the reading alone gives one field per reading: whatever the loss, its conditional spread is zero. Noise "
        "at the input makes a spread possible. Whether it is used is decided by the loss. For squared error, E|G(y, z) - u|^2 = "
        "|E u - E G|^2 + Var u + Var G: every bit of spread adds to it, so the generator learns weights zero for its noise and "
        "shows the conditional mean, which where there are two modes lies between them and is a field that never occurs. (A "
        "generator that was never trained to the end shows some spread left over from its random weights.)\n\n"
        "The energy score |x - u| - |x - x'| / 2 rewards distance between two samples by just what makes it proper: its "
        "expectation is least for the true conditional distribution and for no other (Gneiting & Raftery 2007), so both modes "
        "and their weights are its minimum. An adversary's ideal game has the same equilibrium (Goodfellow et al. 2014), but "
        "playing it is not a descent: the generator moves towards where the present judge errs, for any one judge the best "
        "answer is a single point, and nothing in the game pays for the right variety until the judge has caught up. Noise is "
        "necessary, and not sufficient.\n\n"
        "Spread alone is not the aim: intervals from the samples should hold the truth as often as they say (coverage), and "
        "samples should lie in one mode or the other rather than in between."
    ),
    cases=_cases,
    measure=_measure,
    judge=_judge,
    draw=_draw,
)

CLAIMS: tuple[Claim, ...] = (NOISY_GENERATOR,)
