"""Claims 5 and 6: random walks, what brings them to the even distribution, and where they meet the equation.

Walkers are independent, so what a crowd of them does follows exactly from the law of one: ``p' = p Q`` with the matrix Q of
jump rates. Processes that the package's own walkers cannot make (they are reversible by construction) are drawn from it.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

import diffsim as ds
from diffsim.applications.images import sample_slice
from diffsim.operator import discretize
from diffsim.particles import jump_rates, walk
from diffsim.simulate import simulate

from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import compare

# --- 5: reversible and stationary -----------------------------------------------------------------------------------

_SIDE = 8
CELLS = _SIDE * _SIDE
CROWD = 20_000
SIGMAS = 5  # standard deviations of what scatter alone gives: within is agreement
PROCESSES = {
    "jumps": "jumps through a random medium",
    "brownian": "Brownian motion, with the drift that a varying D asks for",
    "potential": "jumps in a potential",
    "undrifted": "jumps without that drift (each cell's own D, both ways)",
    "one-way": "faces that pass twice as much one way",
    "ring": "a current that runs in circles",
    "switching": "a medium that changes with time",
    "rotating": "one-way faces that turn round",
    "pumped": "a source that moves",
}


def _seeds(profile: str, quick: int = 2, full: int = 5) -> range:
    return range(full if profile == "full" else quick)


def _process_cases(profile: str) -> list[dict]:
    return [{"process": name, "seed": seed} for name in PROCESSES for seed in _seeds(profile)]


def _medium(seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 5]).lognormal(sigma=0.7, size=(_SIDE, _SIDE))


def _smooth_medium() -> np.ndarray:
    x, y = ds.Grid((_SIDE, _SIDE), (1.0, 1.0)).mesh()
    return np.exp(0.7 * np.cos(np.pi * x) * np.cos(np.pi * y))


def _box(diffusivity: np.ndarray) -> ds.Problem:
    return ds.Problem(ds.Grid((_SIDE, _SIDE), (1.0, 1.0)), diffusivity)


def _levels(seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 6]).normal(size=(_SIDE, _SIDE))


def _pairs(wrap: bool = False) -> list[tuple[int, int, int]]:
    """(axis, cell, next cell) of all faces; with `wrap` also those that join the ends of axis 0."""
    index = np.arange(CELLS).reshape(_SIDE, _SIDE)
    found = []
    for axis in (0, 1):
        ahead = np.roll(index, -1, axis=axis)
        inside = np.ones_like(index, dtype=bool)
        if not (wrap and axis == 0):
            inside[(-1, slice(None)) if axis == 0 else (slice(None), -1)] = False
        found += [(axis, int(i), int(j)) for i, j in zip(index[inside], ahead[inside], strict=True)]
    return found


def _generator(rates: dict[tuple[int, int], float]) -> np.ndarray:
    """Q, (CELLS, CELLS), of rates from cell to cell; rows sum to 0."""
    q = np.zeros((CELLS, CELLS))
    for (i, j), rate in rates.items():
        q[i, j] += rate
    return q - np.diag(q.sum(axis=1))


def _symmetric(seed: int, extra: int = 0) -> dict[tuple[int, int], float]:
    rng = np.random.default_rng([seed, 7, extra])
    return {
        pair: g for _, i, j in _pairs() for g in [float(CELLS * rng.lognormal(sigma=0.7))] for pair in ((i, j), (j, i))
    }


def _one_way(seed: int, turned: bool = False) -> np.ndarray:
    """Every face passes half as much in one direction, chosen at random (and in the other when `turned`)."""
    rng = np.random.default_rng([seed, 8])
    rates = {}
    for _, i, j in _pairs():
        forward = rng.random() < 0.5
        rates[i, j], rates[j, i] = (CELLS * (1.0 if ahead != turned else 0.5) for ahead in (forward, not forward))
    return _generator(rates)


def _ring(seed: int) -> np.ndarray:
    """A random medium, periodic along x, and on top of it a current that enters every cell as it leaves it."""
    rng = np.random.default_rng([seed, 9])
    rates: dict[tuple[int, int], float] = {}
    for axis, i, j in _pairs(wrap=True):
        g = float(CELLS * rng.lognormal(sigma=0.7))
        rates[i, j], rates[j, i] = g + (3.0 * CELLS if axis == 0 else 0.0), g
    return _generator(rates)


def _undrifted(seed: int) -> np.ndarray:
    d = _medium(seed).ravel()
    return _generator({pair: CELLS * float(d[pair[0]]) for _, i, j in _pairs() for pair in ((i, j), (j, i))})


def _pumped(seed: int, place: int) -> np.ndarray:
    """A symmetric medium, from all of which walkers are taken and put back at one place."""
    q = _generator(_symmetric(seed))
    q[:, place] += 2.0
    return q - np.diag(q.sum(axis=1))


def _generators(name: str, seed: int) -> list[np.ndarray]:
    """One Q, or the sequence of them that a process goes through again and again."""
    if name == "switching":
        return [_generator(_symmetric(seed, k)) for k in range(4)]
    if name == "rotating":
        return [_one_way(seed), _one_way(seed, turned=True)]
    if name == "pumped":
        corners = (0, _SIDE - 1, CELLS - 1, CELLS - _SIDE)
        return [_pumped(seed, corner) for corner in corners]
    if name in ("jumps", "potential", "brownian"):
        medium = _smooth_medium() if name == "brownian" else _medium(seed)
        return [_own_generator(_box(medium), _levels(seed) if name == "potential" else None)]
    return [{"one-way": _one_way, "ring": _ring, "undrifted": _undrifted}[name](seed)]


def _own_generator(problem: ds.Problem, potential: np.ndarray | None = None) -> np.ndarray:
    """Q of the package's own jump process."""
    faces = jump_rates(discretize(problem), potential).faces
    index = np.arange(CELLS).reshape(_SIDE, _SIDE)
    q = np.zeros((CELLS, CELLS))
    for k, shift in enumerate((1, -1)):
        for axis, first in ((0, 2), (1, 4)):  # the padded axis 0 has one cell
            q[index.ravel(), np.roll(index, shift, axis=axis).ravel()] += faces[:, first + k]
    return q - np.diag(q.sum(axis=1))


def _process_measure(case: Case) -> dict[str, Any]:
    from scipy.linalg import expm

    name, seed = case["process"], case["seed"]
    generators = _generators(name, seed)
    period, until = 0.15, 6.0  # the slowest mode of an even medium decays at pi^2
    steps = [expm(q * period / len(generators)) for q in generators]
    law = np.zeros(CELLS)
    law[0] = 1.0
    for _ in range(round(until / period)):
        for step in steps:
            law = law @ step
    later = law @ steps[0]
    rest = law if len(generators) > 1 else np.linalg.matrix_power(steps[0], 400)[0]
    flow = rest[:, None] * generators[0]
    off = ~np.eye(CELLS, dtype=bool)
    counts = _crowd(name, seed, law, until)
    even = CROWD / CELLS
    measured = {
        "chi": float(((counts - even) ** 2).sum() / even / (CELLS - 1)),
        "uneven": float(0.5 * np.abs(law - 1 / CELLS).sum()),
        "moves": float(0.5 * np.abs(later - law).sum()),
        "irreversible": float(np.abs(flow - flow.T)[off].max() / flow[off].max()) if len(generators) == 1 else None,
        # what enters a cell of the even state less what leaves it, relative to what passes
        "unbalanced": float(max(np.abs(q.sum(axis=0)).max() / q[off].max() for q in generators)),
    }
    if name in ("potential", "undrifted"):
        weights = np.exp(-_levels(seed)).ravel() if name == "potential" else 1 / _medium(seed).ravel()
        expected = CROWD * weights / weights.sum()
        measured["theory"] = float(((counts - expected) ** 2 / expected).sum() / (CELLS - 1))
    return measured


def _crowd(name: str, seed: int, law: np.ndarray, until: float) -> np.ndarray:
    """Walkers per cell: walked where the package has the process, drawn from the law where it has not."""
    corner = (0.01, 0.01)
    if name in ("jumps", "potential"):
        potential = _levels(seed) if name == "potential" else None
        return walk(_box(_medium(seed)), corner, until, CROWD, seed=seed, potential=potential).counts.ravel()
    if name == "brownian":
        return walk(_box(_smooth_medium()), corner, 1.0, CROWD, seed=seed, motion="brownian").counts.ravel()
    return np.random.default_rng([seed, 10, list(PROCESSES).index(name)]).multinomial(CROWD, law / law.sum())


def _process_judge(records: Records) -> Finding:
    rows, agrees = [], []
    even: list[str] = []
    balanced: list[str] = []
    both: list[str] = []
    for name in records.distinct("process"):
        chosen = records.where(process=name)
        mean, spread = float(chosen["chi"].mean()), math.sqrt(2 / (CELLS - 1) / len(chosen))
        is_even = abs(mean - 1) <= SIGMAS * spread
        moves, reversible = float(chosen["moves"].max()) > 1e-6, float(chosen["irreversible"].max()) < 1e-6
        steady = not np.isnan(chosen["irreversible"]).any()  # one Q at all times
        ideal = steady and reversible
        (even.append(name) if is_even else None)
        (balanced.append(name) if float(chosen["unbalanced"].max()) < 1e-9 else None)
        (both.append(name) if ideal else None)
        agrees.append(ideal == is_even)
        rows.append(
            (
                PROCESSES[name], "yes" if steady else "no", "yes" if steady and reversible else "no",
                f"{mean:.3g} (1 ± {spread:.2g})", f"{chosen['uneven'].mean():.2g}",
                "even" if is_even else "uneven", "for ever" if moves else "no",
            )
        )  # fmt: skip
    verdict = "supported" if all(agrees) else "refuted" if not set(both) & set(even) else "depends"
    wrong = [name for name in both if name not in even]
    spared = [name for name in even if name not in both]
    count = len(agrees)
    because = (
        f"{sum(agrees)} of {count} processes do as the claim says. "
        + (f"Reversible and stationary, and yet uneven: {', '.join(PROCESSES[n] for n in wrong)}. " if wrong else "")
        + (f"Not so, and yet even: {', '.join(PROCESSES[n] for n in spared)}. " if spared else "")
        + (
            "It depends on what the process is reversible against: even is what balances cell by cell, as much in as "
            f"out ({sum((n in even) == (n in balanced) for n in records.distinct('process'))} of {count} follow that "
            "rule)."
        )
    )
    checks = [
        Check(f"χ² per degree of freedom, {words}", float(records.where(process=name)[column].mean()), 1.0,
              SIGMAS * math.sqrt(2 / (CELLS - 1) / len(records.where(process=name))))
        for name, column, words in (
            ("jumps", "chi", "jumps against the even state"),
            ("brownian", "chi", "Brownian walkers against the even state"),
            ("potential", "theory", "walkers in a potential V against exp(-V)"),
            ("undrifted", "theory", "walkers without drift against 1/D"),
        )
    ]  # fmt: skip
    defect = float(records.where(process="jumps")["irreversible"].max())
    checks.append(Check("detailed balance of the package's own jumps", defect, 0.0, 1e-12))
    head = (
        "process",
        "one Q",
        "reversible",
        "χ² per degree of freedom",
        "distance of the law from even",
        "end",
        "moves",
    )
    return Finding(verdict, because, head, tuple(rows), tuple(checks))


def _process_draw(records: Records, figure) -> None:
    from diffsim.plots import BLUE, VERMILION

    ax, picture = figure.subplots(1, 2, width_ratios=(2.2, 1))
    names = records.distinct("process")
    for k, name in enumerate(names):
        chi = records.where(process=name)["chi"]
        uneven = abs(chi.mean() - 1) > SIGMAS * math.sqrt(2 / (CELLS - 1) / len(chi))
        ax.plot(chi, np.full(len(chi), k), "x" if uneven else "o", color=VERMILION if uneven else BLUE, markersize=5)
    short = {"jumps": "jumps, random D", "brownian": "Brownian with drift", "potential": "in a potential",
             "undrifted": "drift left out", "one-way": "one-way faces", "ring": "circular current",
             "switching": "D(x, t)", "rotating": "one-way, turning", "pumped": "moving source"}  # fmt: skip
    ax.set_yticks(range(len(names)), [short[name] for name in names], fontsize=8)
    ax.invert_yaxis()
    ax.axvline(1.0, color="#7A7A7A", linewidth=0.8)
    ax.set(xscale="log", xlabel="χ² per degree of freedom against even", title="● even   × uneven")
    weights = 1 / _medium(records.rows[0]["seed"])
    shown = picture.imshow((weights / weights.mean()).T, origin="lower", cmap="cividis")
    picture.set(title="drift left out:\nwhere walkers rest", xticks=[], yticks=[])
    figure.colorbar(shown, ax=picture, label="density / even", shrink=0.8)


REVERSIBLE = Claim(
    5,
    "reversible",
    "Reversible and stationary processes reach the even distribution; others do not",
    f"Of nine processes on {CELLS} cells, those that are stationary (one matrix Q of rates) and reversible (π_i q_ij "
    "= π_j q_ji for their own resting state π) end even, and the others do not. Even: χ² per degree of freedom is "
    f"within {SIGMAS} standard deviations of 1, its value where all is scatter. Supported if all nine agree, refuted "
    "if no reversible process ends even.",
    f"{CROWD} walkers start in one corner of a box of 8 x 8 cells and walk for about 60 times the slowest relaxation. "
    "Three processes are walked by `ds.walk`; the others are drawn from their exact law.",
    "Let q_ij be the rate of jumping from cell i to j. The even state rests exactly when as much enters each cell as "
    "leaves it, Σ_j q_ij = Σ_j q_ji. **Detailed balance against the even state**, q_ij = q_ji face by face, is "
    "sufficient: that is what a conductance does, and why the package's jumps (rates g_ij/(c_i V_i)) spread evenly "
    "through any medium.\n\n"
    "Reversible is not enough by itself, for a process is reversible *against its own resting state*. In a potential "
    "V that is exp(-V). And leaving out the drift grad D, as in the Itô reading of du = sqrt(2D) dW, makes a process "
    "as reversible and stationary as any, but against 1/D: walkers linger where D is small. It is the classical "
    "error in simulating inhomogeneous diffusion.\n\n"
    "Nor is it necessary. A current that runs in circles breaks reversibility and brings nothing out of balance; a "
    "medium whose D changes in time is never stationary, yet symmetric at every moment, and the even state rests "
    "through all of it. One-way faces and moving sources do break the balance, and the end is uneven; where they "
    "turn or move, it never rests.\n\n"
    "Sources: A. N. Kolmogorov, Math. Ann. 112 (1936) 155; N. G. van Kampen, Stochastic Processes in Physics and "
    "Chemistry; the drift: P. Hänggi, H. Thomas, Phys. Rep. 88 (1982) 207.",
    _process_cases, _process_measure, _process_judge, _process_draw,
)  # fmt: skip


# --- 6: stochastic and deterministic, homogeneous and inhomogeneous --------------------------------------------------

MEDIA = {"homogeneous": "one D", "inhomogeneous": "a random D"}
PARTICLES = (1_000, 10_000, 100_000)
_UNTIL = 0.08
IMAGES = {"portrait": "a portrait", "head": "an MRI slice", "terrain": "a map of heights"}
NOISES = (0.05, 0.1, 0.2)  # of the range of the image
TIMES = (0.25, 0.5, 1.0, 2.0, 4.0)  # pixels^2
CONTRASTS = (1.0, 2.0, 4.0)  # times the noise
_PIXELS = 64


def _agreement_cases(profile: str) -> list[dict]:
    full = profile == "full"
    walks = [
        {"part": "walk", "medium": medium, "particles": count, "seed": seed}
        for medium in MEDIA
        for count in (PARTICLES if full else PARTICLES[:2])
        for seed in _seeds(profile)
    ]
    images, noises = (tuple(IMAGES), NOISES) if full else (("portrait", "head"), NOISES[1:2])
    return walks + [
        {"part": "image", "image": image, "noise": noise, "seed": seed}
        for image in images
        for noise in noises
        for seed in _seeds(profile)
    ]


def _agreement_measure(case: Case) -> dict[str, Any]:
    return _walked(case) if case["part"] == "walk" else _denoised(case)


def _walked(case: Case) -> dict[str, Any]:
    """How far a crowd is from the equation, in units of the scatter that its size explains."""
    d = np.random.default_rng([case["seed"], 11]).lognormal(size=(16, 16)) if case["medium"] == "inhomogeneous" else 1.0
    problem = ds.Problem(ds.Grid((16, 16), (1.0, 1.0)), d)
    start = np.zeros((16, 16))
    start[3, 5] = 1.0
    p = simulate(problem, start, _UNTIL, scheme="krylov", save="final", tol=1e-10, progress=False).final.ravel()
    p /= p.sum()
    n, k = case["particles"], p.size
    place = tuple(float(c[i]) for c, i in zip(problem.grid.centers, (3, 5), strict=True))
    counts = walk(problem, place, _UNTIL, n, seed=case["seed"]).counts.ravel()
    chi = float(((counts - n * p) ** 2 / (n * p)).sum())
    spread = math.sqrt(2 * (k - 1) + ((1 / p).sum() - k * k - 2 * k + 2) / n)  # of Pearson's statistic, multinomial
    return {
        "chi": chi / (k - 1), "spread": spread / (k - 1),
        "difference": float(np.linalg.norm(counts / n - p) / np.linalg.norm(p)), "concentration": float(p @ p),
    }  # fmt: skip


@lru_cache(maxsize=4)
def picture(name: str) -> np.ndarray:
    """A real image of 64 x 64 pixels, grey values 0 to 1; all of them come with matplotlib."""
    from matplotlib.cbook import get_sample_data

    if name == "head":
        values, place, block = sample_slice(), (40, 60), 2
    elif name == "terrain":
        sample: Any = get_sample_data("jacksboro_fault_dem.npz")
        values, place, block = np.asarray(sample["elevation"], float), (60, 60), 2
    else:
        from diffsim.store import read_image

        values, place, block = (
            read_image(get_sample_data("grace_hopper.jpg", asfileobj=False)).astype(float),
            (95, 165),
            3,
        )
    size = _PIXELS * block
    part = values[place[0] : place[0] + size, place[1] : place[1] + size]
    part = part.reshape(_PIXELS, block, _PIXELS, block).mean(axis=(1, 3))
    return (part - part.min()) / (part.max() - part.min())


def _denoised(case: Case) -> dict[str, Any]:
    """Error of both filters with the time (and contrast) that are best on another draw of the noise."""
    clean, sigma = picture(case["image"]), case["noise"]
    tuning, test = (
        clean + sigma * np.random.default_rng([case["seed"], 12, k]).standard_normal(clean.shape) for k in (0, 1)
    )
    steep = np.hypot(*np.gradient(clean))
    edges = steep >= np.quantile(steep, 0.9)
    rms = lambda v: float(np.sqrt(np.mean(v**2)))  # noqa: E731
    measured: dict[str, Any] = {"noisy": rms(test - clean)}
    for name, contrasts in (("constant", (None,)), ("adaptive", CONTRASTS)):
        tried = {
            (contrast, until): rms(_filtered(tuning, sigma, contrast, until) - clean)
            for contrast in contrasts
            for until in TIMES
        }
        contrast, until = min(tried, key=lambda pair: tried[pair])
        error = _filtered(test, sigma, contrast, until) - clean
        measured |= {name: rms(error), f"{name}_edges": rms(error[edges]), f"{name}_flat": rms(error[~edges]),
                     f"{name}_until": until, f"{name}_contrast": contrast}  # fmt: skip
    return measured


def _filtered(image: np.ndarray, sigma: float, contrast: float | None, until: float) -> np.ndarray:
    options: dict[str, Any] = {"edge_preserving": False} if contrast is None else {"contrast": contrast * sigma}
    return ds.denoise(image, noise=sigma, until=until, **options).image


def _agreement_judge(records: Records) -> Finding:
    walks, images = records.where(part="walk"), records.where(part="image")
    rows: list[tuple[str, ...]] = []
    for medium in walks.distinct("medium"):
        for count in walks.distinct("particles"):
            chosen = walks.where(medium=medium, particles=count)
            mean, spread = float(chosen["chi"].mean()), float(chosen["spread"].mean()) / math.sqrt(len(chosen))
            near = abs(mean - 1) <= SIGMAS * spread
            rows.append((f"{count} walkers, {MEDIA[medium]}", f"χ² per degree of freedom {mean:.3g} (1 ± {spread:.2g})",
                         f"{chosen['difference'].mean():.2g} from the equation", "agree" if near else "differ"))  # fmt: skip
    wins = []
    for image in images.distinct("image"):
        for noise in images.distinct("noise"):
            chosen = images.where(image=image, noise=noise)
            if not len(chosen):
                continue
            ratio, edges, flat = (
                compare(chosen.by_seed(f"adaptive{part}"), chosen.by_seed(f"constant{part}"))
                for part in ("", "_edges", "_flat")
            )
            wins.append(ratio)
            rows.append((f"{IMAGES[image]}, noise {noise:.0%}", f"error adaptive / constant D {ratio}",
                         f"at edges {edges.ratio:.3g}, elsewhere {flat.ratio:.3g}",
                         "better" if ratio.smaller else "worse" if ratio.larger else "no difference"))  # fmt: skip
    pooled = float(np.mean(walks["chi"]))
    tolerance = SIGMAS * float(np.sqrt((walks["spread"] ** 2).sum())) / len(walks)
    theory = Check("χ² per degree of freedom of all walks against the equation", pooled, 1.0, tolerance)
    few, many = min(walks.distinct("particles")), max(walks.distinct("particles"))
    scaling = compare(*({k: row["difference"] for k, row in enumerate(walks.where(particles=n))} for n in (many, few)))
    better, worse = sum(w.smaller for w in wins), sum(w.larger for w in wins)
    same = theory.ok
    verdict = "supported" if same and better == len(wins) else "depends" if same and better else "refuted"
    because = (
        f"The crowd and the equation {'agree' if same else 'differ'}: χ² per degree of freedom {pooled:.3f} over "
        f"{len(walks)} walks, and {many // few} times the walkers leave {scaling} of the difference "
        f"({math.sqrt(few / many):.3g} if it is scatter alone). A D that adapts to the slope denoises better than one "
        f"D in {better} of {len(wins)} settings of image and noise, and worse in {worse}."
    )
    # the logarithm of a norm of scatter over cells p varies by Σp²/2, so the mean over the pairs of a ratio by Σp²/pairs
    root, varies = math.sqrt(few / many), math.sqrt(float(walks["concentration"].mean()) / scaling.seeds)
    name = f"difference at {many} walkers over that at {few}"
    checks = (theory, Check(name, scaling.ratio, root, SIGMAS * varies * root))
    head = ("what", "measured", "in detail", "outcome")
    return Finding(verdict, because, head, tuple(rows), checks)


def _agreement_draw(records: Records, figure) -> None:
    from diffsim.plots import BLUE, DASHES, LINES, ORANGE

    left, right = figure.subplots(1, 2)
    walks, images = records.where(part="walk"), records.where(part="image")
    counts = np.array(walks.distinct("particles"), float)
    for colour, marker, medium in ((BLUE, "o", "homogeneous"), (ORANGE, "s", "inhomogeneous")):
        middle = [walks.where(medium=medium, particles=n)["difference"].mean() for n in walks.distinct("particles")]
        left.plot(counts, middle, marker, color=colour, label=MEDIA[medium])
        left.plot(counts, middle[0] * np.sqrt(counts[0] / counts), color=colour, linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="walkers", ylabel="relative difference from the equation",
             title="walkers against the equation")  # fmt: skip
    left.legend(frameon=False, title="lines: 1/√N", fontsize=8)
    for k, image in enumerate(images.distinct("image")):
        chosen = images.where(image=image)
        noises = sorted(chosen.distinct("noise"))
        for name, dash in (("constant", DASHES[1]), ("adaptive", DASHES[0])):
            middle = [chosen.where(noise=noise)[name].mean() for noise in noises]
            right.plot(noises, middle, color=LINES[k], linestyle=dash, marker="o", markersize=4,
                       label=f"{IMAGES[image]}, {name} D")  # fmt: skip
    right.set(
        xlabel="noise, of the range of the image",
        ylabel="rms error after denoising",
        title="a D that adapts",
        ylim=(0, None),
    )
    right.legend(frameon=False, fontsize=7, handlelength=3.5)


AGREEMENT = Claim(
    6,
    "agreement",
    "Stochastic and deterministic diffusion agree; a diffusivity that adapts to local structure does better",
    "Counts of walkers scatter about the solution of the equation as a multinomial draw does (χ² per degree of "
    "freedom is 1 within five standard deviations), for one D and for a random one; and denoising with D(|∇u|) has a "
    "smaller error than with one D in every setting of image and noise (paired interval below 1). Supported if both, "
    "depends if the first and some settings, else refuted.",
    f"16 x 16 cells, walkers from one cell until t = {_UNTIL}. Three real images of {_PIXELS} x {_PIXELS} pixels that "
    "come with matplotlib, white noise of 5, 10 and 20 % of their range; diffusion time and contrast of each filter "
    "are those that are best on another draw of the noise.",
    "A crowd of independent walkers whose jump rates are the conductances over the masses has the equation as its "
    "*mean*, exactly, in any medium: d p/dt = p Q is the semi-discrete heat equation. What differs is scatter, the "
    "multinomial one, falling as 1/√N: 100 times the walkers for one more digit. So walkers are for what has no "
    "grid, for high dimensions and for what single particles do.\n\n"
    "With one D denoising is a Gaussian blur: noise and edges go together. Perona and Malik let D fall where the "
    "slope is steep, 1/(1 + (|∇u|/s)²), so that flat parts are smoothed and edges stand. The contrast s has to tell "
    "noise from edges by their slope: noise of standard deviation σ makes slopes of 1.4 σ between pixels. Where "
    "edges are no steeper than that (much noise, or an image without edges, as hills are), there is nothing to adapt "
    "to, and the advantage goes.\n\n"
    "Source: P. Perona, J. Malik, IEEE Trans. PAMI 12 (1990) 629.",
    _agreement_cases, _agreement_measure, _agreement_judge, _agreement_draw,
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (REVERSIBLE, AGREEMENT)
