"""Claims 1 to 4: how large a step, how many, which coefficient, and whether one choice serves all.

The experiments need no long runs: on these small linear problems every outcome of every step size follows from the
eigenvectors of the operator (`diffsim.tuning.cheapest`, `decay`), and whole runs are made where noise or moving data
are the point.
"""

import math
from typing import Any

import numpy as np

import diffsim as ds
from diffsim.equilibrium import equilibrium, slowest_rate
from diffsim.operator import discretize
from diffsim.schemes import SCHEMES
from diffsim.simulate import simulate
from diffsim.stability import allowed_step, mesh_fourier, stability
from diffsim.tuning import cheapest
from diffsim.tuning.modes import decay

from ..claim import Case, Check, Claim, Finding, Records
from ..statistics import Comparison, compare

TOL = 1e-3


def _seeds(profile: str, quick: int = 2, full: int = 5) -> range:
    return range(full if profile == "full" else quick)


# --- problems -------------------------------------------------------------------------------------------------------


def _rod(n: int = 32) -> ds.Problem:
    return ds.Problem(ds.Grid((n,), (1.0,)), 1.0, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)})


def _layers(n: int = 32) -> ds.Problem:
    """A conductor between two insulators, a hundred times worse; one wall is held, the other cools."""
    d = np.where(np.abs(np.arange(n) + 0.5 - n / 2) < n / 8, 1.0, 0.01)
    return ds.Problem(ds.Grid((n,), (1.0,)), d, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=0.1, ambient=0.0)})


def _plate(n: int = 16) -> ds.Problem:
    sides = {"x-": ds.Dirichlet(1.0), "y+": ds.Robin(h=2.0, ambient=0.0)}
    return ds.Problem(ds.Grid((n, n), (1.0, 1.0)), 1.0, boundary=sides)


def _porous(n: int = 16) -> ds.Problem:
    """A random medium with voids; content enters at one side and leaves at the other."""
    rng = np.random.default_rng(7)
    active = rng.random((n, n)) > 0.2
    active[0], active[-1] = True, True
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)}
    problem = ds.Problem(ds.Grid((n, n), (1.0, 1.0)), rng.lognormal(size=(n, n)), active=active, boundary=sides)
    labels, _, anchored = discretize(problem).components
    reached = (labels >= 0) & anchored[np.maximum(labels, 0)]  # pores that no side feeds have no fixed equilibrium
    return problem.with_(active=reached.reshape(n, n))


def _fin(n: int = 32) -> ds.Problem:
    return ds.Problem(ds.Grid((n,), (1.0,)), 1.0, loss=200.0, boundary={"x-": ds.Dirichlet(1.0)})


PROBLEMS = {"rod": _rod, "layers": _layers, "plate": _plate, "porous": _porous, "fin": _fin}


def _start(problem: ds.Problem, seed: int) -> np.ndarray:
    """A rough state: all modes are in it."""
    u = np.random.default_rng(seed).random(problem.grid.shape)
    return u if problem.active is None else np.where(problem.active, u, np.nan)


# --- 1: the step size -----------------------------------------------------------------------------------------------

FACTORS = (*(2.0**k for k in range(-6, 0)), 0.9, 1.0, 1.1, *(2.0**k for k in range(1, 13)))  # in limits of FTCS
STEP_SCHEMES = ("ftcs", "rk4", "rkl2", "crank-nicolson", "backward-euler", "tr-bdf2")
GOALS = {"rest": "be at rest", "path": "follow the path"}
LOSS = 1.2  # times the least work: what counts as slow


def _step_cases(profile: str) -> list[dict]:
    problems = ("rod", "layers", "plate") if profile == "full" else ("rod", "layers")
    return [
        {"problem": problem, "scheme": scheme, "goal": goal, "seed": seed}
        for problem in problems
        for scheme in STEP_SCHEMES
        for goal in GOALS
        for seed in _seeds(profile)
    ]


def _step_measure(case: Case) -> dict[str, Any]:
    problem, scheme = PROBLEMS[case["problem"]](), SCHEMES[case["scheme"]]
    initial, operator = _start(problem, case["seed"]), discretize(problem)
    limit, reach = allowed_step(operator, SCHEMES["ftcs"]), operator.spectral_bound().value
    dts = limit * np.array(FACTORS)
    if case["goal"] == "rest":
        found = cheapest(problem, initial, list(dts), scheme, TOL)
        measured: dict[str, Any] = {"work": found.work, "steps": found.steps}
        if scheme.name == "ftcs":
            measured |= _richardson(problem, initial)
        return measured
    duration = 0.3 / slowest_rate(operator)
    modes = decay(operator, operator.enter(initial), duration)
    steps = np.maximum(1, np.ceil(duration / dts * (1 - 1e-12)))
    work = []
    for n in steps:
        stages = scheme.stages_for(duration / n * reach) if scheme.stages is None else None
        with np.errstate(over="ignore"):  # an unstable step may leave every range
            good = modes.error(scheme, int(n), duration) <= TOL
        work.append(n * scheme.work(stages) if good else math.inf)
    return {"work": work, "steps": steps}


def _richardson(problem: ds.Problem, initial: np.ndarray) -> dict[str, float]:
    """What one step of 2 / (lambda_1 + lambda_n) leaves of the distance, after all other modes are gone; and theory's."""
    operator = discretize(problem)
    modes = decay(operator, operator.enter(initial), 1.0)
    slow, fast = float(modes.rates.min()), float(modes.rates.max())
    dt = 2.0 / (slow + fast)
    counts = [2 * round(k / (dt * slow) / 2) for k in (8, 11)]
    swept = ds.sweep(problem, initial, [dt], counts)
    first, last = swept.distance[0]
    return {"rate": float((last / first) ** (1 / (counts[1] - counts[0]))), "theory": (fast - slow) / (fast + slow)}


def _step_judge(records: Records) -> Finding:
    rows, fails, slow = [], {}, {}
    for goal, words in GOALS.items():
        for scheme in records.distinct("scheme"):
            chosen = records.where(scheme=scheme, goal=goal)
            work = np.where(np.isfinite(chosen["work"]), chosen["work"], np.inf)
            best = work.min(axis=1)
            small = compare(dict(enumerate(work[:, 0])), dict(enumerate(best)))
            large = compare(dict(enumerate(work[:, -1])), dict(enumerate(best)))
            place = np.array(FACTORS)[work.argmin(axis=1)]
            slow[goal, scheme] = small.low > LOSS or small.lost > 0
            fails[goal, scheme] = large.lost > 0 or large.low > LOSS
            rows.append(
                (
                    words, SCHEMES[scheme].title, f"{place.min():.3g} to {place.max():.3g}", str(small),
                    f"never, in {large.lost} of {len(work)}" if large.lost else str(large),
                )
            )  # fmt: skip
    pairs = list(fails)
    both = [pair for pair in pairs if fails[pair] and slow[pair]]
    verdict = "supported" if len(both) == len(pairs) else "depends" if both else "refuted"
    harmless = [SCHEMES[scheme].title for goal, scheme in pairs if goal == "rest" and not fails[goal, scheme]]
    at_rest, path = ([s for g, s in both if g == goal] for goal in GOALS)
    n = len(records.distinct("scheme"))
    because = (
        f"An optimum between two bad ends: for {len(at_rest)} of {n} schemes where only the end matters, for "
        f"{len(path)} of {n} where the path must be right to {TOL:g}. "
        + (f"Where only rest matters, no step is too large for {', '.join(harmless)}." if harmless else "")
    )
    ftcs = records.where(scheme="ftcs", goal="rest")
    checks = [
        Check(f"{row['problem']}: rate of FTCS at its best step, (λn - λ1)/(λn + λ1)", row["rate"], row["theory"], 1e-6)
        for row in ftcs.where(seed=0)
    ]
    above, below, lost = np.array(FACTORS) > 1.0, np.array(FACTORS) < 1.0, ~np.isfinite(ftcs["work"])
    checks.append(Check("FTCS runs above the limit that never rest, share", float(lost[:, above].mean()), 1.0, 0.0))
    checks.append(Check("FTCS runs below the limit that never rest, share", float(lost[:, below].mean()), 0.0, 0.0))
    head = (
        "goal",
        "scheme",
        "best step, in limits of FTCS",
        "work of the smallest step / best",
        "of the largest / best",
    )
    return Finding(verdict, because.strip(), head, tuple(rows), tuple(checks))


def _step_draw(records: Records, figure) -> None:
    from diffsim.plots import DASHES, LINES

    axes = figure.subplots(1, 2, sharey=True)
    for ax, (goal, words) in zip(axes, GOALS.items(), strict=True):
        for k, scheme in enumerate(records.distinct("scheme")):
            work = records.where(scheme=scheme, goal=goal, problem="rod")["work"]
            middle = np.median(np.where(np.isfinite(work), work, np.inf), axis=0)
            ax.plot(FACTORS, np.where(np.isfinite(middle), middle, np.nan), color=LINES[k], linestyle=DASHES[k],
                    marker="o", markersize=3, label=SCHEMES[scheme].title)  # fmt: skip
        ax.axvline(1.0, color="#7A7A7A", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlabel="step / limit of FTCS", title=f"rod: work to {words}")
    axes[0].set_ylabel("applications of the operator")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)


STEP_SIZE = Claim(
    1,
    "step-size",
    "A step too large overshoots and never rests, one too small is slow; the optimum lies between",
    f"For every scheme, on the way to rest (within {TOL:g} of the equilibrium) and along a path (error {TOL:g} at 0.3 "
    f"of the slowest time constant): both the smallest and the largest step cost more than {LOSS} times the least "
    "work, or never arrive. The 95 % interval of the ratio, over problems and random starts, must lie beyond that. "
    "Supported if all pairs of scheme and goal obey, refuted if none does.",
    "A rod of 32 cells, layers with D 1 : 0.01, a plate of 16 x 16 with a cooled side; random starts; steps from "
    "1/64 to 4096 limits of FTCS; work in applications of the operator, a linear solve counting 56.",
    "Written in eigenvectors, diffusion is u' = -λu, and a scheme multiplies each mode by R(-λ dt) per step. "
    "**FTCS** has R = 1 - λ dt: the fastest mode overshoots beyond dt = 1/λn and grows beyond 2/λn, while the "
    "slowest needs about ln(1/tol)/(λ1 dt) steps. The product of the two is why explicit stepping is slow: λn/λ1 "
    "grows as the number of cells along an axis squared. Both ends balance at dt = 2/(λ1 + λn), where each step "
    "leaves (λn - λ1)/(λn + λ1): Richardson's iteration, with its optimum a hair below the limit, so a step tuned "
    "for speed is a step at the edge.\n\n"
    "A scheme whose R vanishes at -∞ (backward Euler, TR-BDF2) has no step too large *if only rest is wanted*: one "
    "enormous step is a linear solve for the equilibrium. Crank-Nicolson, with R(-∞) = -1, is stable at every step "
    "and still rings: large steps flip the fast modes for thousands of steps. Super-time-stepping buys its reach "
    "with stages. As soon as the *path* matters, accuracy forbids large steps to all of them, and the optimum is "
    "back.\n\n"
    "Source of the optimal step: L. F. Richardson (1911); D. M. Young, Iterative Solution of Large Linear Systems "
    "(1971).",
    _step_cases, _step_measure, _step_judge, _step_draw,
)  # fmt: skip


# --- 2: the number of steps -----------------------------------------------------------------------------------------

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of the time to equilibrium
KINDS = {
    "steady": "steady walls and sources",
    "driven": "a wall that swings",
    "fed": "a source and no way out",
    "noise": "thermal noise",
    "walkers": "4000 walkers",
}
WALKERS = 4_000
MOVES = 1e-9  # of the scale of the state: less is rounding


def _count_cases(profile: str) -> list[dict]:
    return [{"kind": kind, "seed": seed} for kind in KINDS for seed in _seeds(profile)]


def _count_measure(case: Case) -> dict[str, Any]:
    kind, seed, rod = case["kind"], case["seed"], _rod(16)
    grid, rng = rod.grid, np.random.default_rng(case["seed"])
    if kind in ("walkers", "fed"):
        rod = rod.with_(boundary={}, source=float(kind == "fed"))
    operator = discretize(rod)
    rate, limit = slowest_rate(operator), allowed_step(operator, SCHEMES["ftcs"])
    settle = math.log(1 / TOL) / rate
    rest = np.full(16, 1.0) if kind in ("walkers", "fed") else equilibrium(rod).u
    if kind == "walkers":
        return _walkers(rod, settle, seed)
    if kind == "driven":
        side = ds.Dirichlet(lambda t: 1.0 + 0.5 * math.sin(2 * math.pi * t / settle * 3))
        rod = rod.with_(boundary={**rod.boundary, "x-": side})
    start = rng.random(16)
    steps = math.ceil(settle / (0.4 * limit))
    dt = settle / steps
    noise = 0.05 if kind == "noise" else 0.0
    # a frame at each multiple, and one some steps earlier: the motion in between
    lag = steps // 8
    counts = sorted({round(m * steps) - k for m in (*MULTIPLES, *range(2, 17)) for k in (0, lag)})
    options = {"noise": noise, "seed": seed} if noise else {}
    run = simulate(rod, start, MULTIPLES[-1] * settle, scheme="ftcs", dt=dt,
                      save=np.array(counts) * dt, progress=False, **options)  # fmt: skip
    frames = dict(zip(counts, run.u, strict=True))
    scale = float(np.sqrt(np.mean((start - rest) ** 2)))
    rms = lambda v: float(np.sqrt(np.mean(v**2))) / scale  # noqa: E731
    places = [round(m * steps) for m in MULTIPLES]
    measured: dict[str, Any] = {
        "distance": [math.nan if kind == "fed" else rms(frames[n] - rest) for n in places],
        "motion": [rms(frames[n] - frames[n - lag]) for n in places],
    }
    if kind == "noise":
        # frames a settling time apart are independent: every mode has its own variance in each
        rates, modes = np.linalg.eigh(operator.matrix().toarray() / grid.widths[0][0])
        variances = noise**2 / grid.widths[0][0] * dt / (1 - (1 - rates * dt) ** 2)  # w <- (1 - λ dt) w + noise
        late = np.array([(frames[m * steps] - rest) @ modes for m in range(2, round(MULTIPLES[-1]) + 1)])
        measured |= {"level": float((late**2 / variances).mean()), "theory": 1.0, "spread": math.sqrt(2 / late.size)}
    if kind == "fed":
        n, span = counts[-1], counts[-1] - counts[0]
        measured |= {"level": float(np.mean(frames[n] - frames[counts[0]]) / (span * dt)), "theory": 1.0}
    return measured


def _walkers(rod: ds.Problem, settle: float, seed: int) -> dict[str, Any]:
    """All start in one end; each time is a fresh draw of the same process, so motion is what a second look shows."""
    n = rod.grid.size
    looks = [ds.walk(rod, (0.01,), m * settle, WALKERS, seed=1000 * seed + k) for k, m in enumerate(MULTIPLES)]
    again = [ds.walk(rod, (0.01,), m * settle, WALKERS, seed=1000 * seed + 100 + k) for k, m in enumerate(MULTIPLES)]
    even = WALKERS / n
    scale = math.sqrt(n - 1)  # rms distance of the start, in units of the even state
    rms = lambda v: float(np.sqrt(np.mean((v / even) ** 2))) / scale  # noqa: E731
    settled = [look.counts for m, *pair in zip(MULTIPLES, looks, again, strict=True) for look in pair if m >= 2]
    chi = float(np.mean([((counts - even) ** 2).sum() / even for counts in settled])) / (n - 1)
    return {
        "distance": [rms(look.counts - even) for look in looks],
        "motion": [rms(a.counts - b.counts) for a, b in zip(looks, again, strict=True)],
        "level": chi, "theory": 1.0, "spread": math.sqrt(2 / (n - 1) / len(settled)),
    }  # fmt: skip


def _count_judge(records: Records) -> Finding:
    rows: list[tuple[str, ...]] = []
    moving: list[str] = []
    early: list[str] = []
    for kind in records.distinct("kind"):
        chosen = records.where(kind=kind)
        few, late = chosen["distance"][:, 0], chosen["motion"][:, -1]
        (moving if (late > MOVES).all() else early).append(kind)
        rows.append((KINDS[kind], f"{np.median(few):.2g}" if np.isfinite(few).any() else "-",
                     f"{np.median(chosen['motion'][:, 3]):.2g}", f"{np.median(late):.2g}"))  # fmt: skip
    short = records.where(kind="steady")["distance"][:, 0]
    too_few = bool((short > TOL).all())
    verdict = "refuted" if not too_few or not moving else "supported" if not early else "depends"
    names = lambda kinds: ", ".join(KINDS[kind] for kind in kinds)  # noqa: E731
    because = (
        f"Too few steps: at a quarter of the time to equilibrium the distance left is {np.median(short):.2g} of the "
        f"start, {np.median(short) / TOL:.0f} times the tolerance. Too many: nothing moves any more with "
        f"{names(early) or 'none'}; it goes on for ever with {names(moving) or 'none'}."
    )
    still = float(records.where(kind="steady")["motion"][:, -1].max())
    checks = [Check("motion of the steady problem at 16 times the settling time", still, 0.0, 1e-12)]
    for kind, name in (
        ("walkers", "scatter of the walkers, χ² per degree of freedom"),
        ("noise", "variance of the modes of the noisy rod, over that of theory"),
    ):
        chosen = records.where(kind=kind)
        spread = 5 * float(chosen["spread"].mean()) / math.sqrt(len(chosen))
        checks.append(Check(name, float(chosen["level"].mean()), float(chosen["theory"].mean()), spread))
    fed = records.where(kind="fed")
    checks.append(
        Check(
            "growth of the fed rod per second and volume", float(fed["level"].mean()), float(fed["theory"].mean()), 1e-9
        )
    )
    head = ("what drives it", "distance at 1/4 of the settling time", "motion at 2", "motion at 16")
    return Finding(verdict, because, head, tuple(rows), tuple(checks))


def _count_draw(records: Records, figure) -> None:
    from diffsim.plots import DASHES, LINES

    axes = figure.subplots(1, 2)
    for k, kind in enumerate(records.distinct("kind")):
        chosen = records.where(kind=kind)
        for ax, column in zip(axes, ("distance", "motion"), strict=True):
            middle = np.median(chosen[column], axis=0)
            ax.plot(MULTIPLES, np.where(middle > 0, np.maximum(middle, 1e-17), np.nan if column == "distance" else 1e-17),
                    color=LINES[k], linestyle=DASHES[k], marker="o", markersize=3, label=KINDS[kind])  # fmt: skip
    axes[0].axhline(TOL, color="#7A7A7A", linewidth=0.8)
    for ax, title in zip(axes, ("distance to the equilibrium", "motion from look to look"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="steps / steps to settle", title=title)
    axes[0].set_ylabel("relative to the start")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)


STEP_COUNT = Claim(
    2,
    "step-count",
    "Too few steps reach no equilibrium; with too many the state keeps moving",
    f"At a quarter of the settling time the distance exceeds {TOL:g}, and at 16 settling times the state still moves "
    f"by more than {MOVES:g} of its scale. Supported if it moves in every kind of problem, refuted if in none (or if "
    "few steps suffice).",
    "A rod of 16 cells with FTCS at 0.4 of the limit, random starts; a sinusoidal wall; a uniform source between "
    "insulated walls; the stochastic heat equation; independent walkers.",
    "The equilibrium of the discrete problem is a fixed point of every scheme at every step, so a deterministic run "
    "with steady data that has arrived stays: the remaining motion is rounding, and steps past the settling time are "
    "only wasted. Perpetual motion needs a reason. A wall that swings leaves a wave for ever. A source without a way "
    "out has no equilibrium: content grows at the rate it is fed, while its shape settles. Noise keeps every mode at "
    "a variance fixed by the balance of what it receives and what it loses, noise² dt/(1 - R²): more steps do not "
    "lower it, nor would they raise it. A finite crowd of walkers scatters about the even state by the square root "
    "of the number in a cell.\n\n"
    "The parallel in training: full-batch descent at a stable rate comes to rest at a minimum; mini-batches are "
    "noise, and a constant learning rate leaves the weights in motion at a level proportional to it. That is why "
    "learning rates decay, and why 'too many steps' means overfitting there rather than instability.",
    _count_cases, _count_measure, _count_judge, _count_draw,
)  # fmt: skip


# --- 3: the coefficient ---------------------------------------------------------------------------------------------

MEDIA = {"uniform": "one coefficient", "random": "a random field"}
COEFFICIENT_SCHEMES = ("ftcs", "rk4", "backward-euler")
_DRAWS = 24  # rods per case


def _coefficient_cases(profile: str) -> list[dict]:
    return [
        {"medium": medium, "scheme": scheme, "seed": seed}
        for medium in MEDIA
        for scheme in COEFFICIENT_SCHEMES
        for seed in _seeds(profile)
    ]


def _coefficient_measure(case: Case) -> dict[str, Any]:
    """Rods of random length, cells, coefficient and step, over decades of each; D dt/dx² between 0.02 and 20."""
    rng = np.random.default_rng([case["seed"], 3])
    scheme = SCHEMES[case["scheme"]]
    measured: dict[str, list[float]] = {name: [] for name in ("fourier", "reach", "unstable", "decay", "settled")}
    for _ in range(_DRAWS):
        n, length = int(rng.integers(8, 65)), float(10 ** rng.uniform(-2, 2))
        d, goal = float(10 ** rng.uniform(-6, 3)), float(10 ** rng.uniform(math.log10(0.02), math.log10(20)))
        field = d * rng.lognormal(sigma=1.0, size=n)
        grid = ds.Grid((n,), (length,))
        sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)}
        rod = ds.Problem(grid, field if case["medium"] == "random" else d, boundary=sides)
        operator = discretize(rod)
        dt = goal / mesh_fourier(operator)
        swept = ds.sweep(rod, rng.random(n), [dt], [400, 4000], scheme=scheme)
        measured["fourier"].append(goal)
        measured["reach"].append(dt * operator.spectral_bound(sharp=True).value)
        measured["unstable"].append(float((swept.outcome == "unstable").any()))
        measured["decay"].append(dt * float(swept.theory.rate[0]))
        steps = cheapest(rod, rng.random(n), [dt], scheme, TOL).steps[0]
        measured["settled"].append(float(steps))
    return {**measured, "scaled": _scaled_difference(case)}


def _scaled_difference(case: Case) -> float:
    """Largest difference between a run and one with 2^k D and dt / 2^k: exactly 0, powers of two being exact."""
    rng = np.random.default_rng([case["seed"], 4])
    n, factor = 16, 2.0 ** float(rng.integers(-20, 21))
    d = rng.lognormal(size=n) if case["medium"] == "random" else float(rng.lognormal())
    rod = ds.Problem(ds.Grid((n,), (1.0,)), d, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)})
    initial, dt = rng.random(n), 0.5 * stability(rod, "ftcs").dt_limit
    runs = [
        simulate(
            rod.with_(diffusivity=d * k),
            initial,
            64 * dt / k,
            scheme=case["scheme"],
            dt=dt / k,
            save="final",
            progress=False,
        )
        for k in (1.0, factor)
    ]
    return float(np.abs(runs[0].final - runs[1].final).max())


def _coefficient_judge(records: Records) -> Finding:
    rows, obeys, wrong_fo, wrong_reach = [], [], {}, {}
    for medium in records.distinct("medium"):
        for scheme in records.distinct("scheme"):
            chosen, limit = records.where(medium=medium, scheme=scheme), SCHEMES[scheme].real_limit()
            fo, reach, unstable = (chosen[name].ravel() for name in ("fourier", "reach", "unstable"))
            top = unstable[fo > 10].mean()  # the highest coefficients for their step
            by_fo = float(np.mean((4 * fo > limit) != (unstable > 0)))  # 4 Fo bounds dt rho(A) in one dimension
            by_reach = float(np.mean((reach > limit * (1 + 1e-9)) != (unstable > 0)))
            wrong_fo[medium, scheme], wrong_reach[medium, scheme] = by_fo, by_reach
            obeys.append(bool(top == 1.0))
            rows.append((MEDIA[medium], SCHEMES[scheme].title, f"{limit / 4:.4g}" if math.isfinite(limit) else "none",
                         f"{top:.0%}", f"{by_fo:.1%}", f"{by_reach:.1%}"))  # fmt: skip
    slow = _slowness(records)
    uniform = max(error for (medium, _), error in wrong_fo.items() if medium == "uniform")
    random = max((error for (medium, _), error in wrong_fo.items() if medium == "random"), default=0.0)
    general = max(wrong_reach.values())
    every = all(obeys) and uniform == 0 and slow.smaller
    verdict = "supported" if every else "depends" if any(obeys) and slow.smaller else "refuted"
    stable = [SCHEMES[s].title for s in records.distinct("scheme") if not records.where(scheme=s)["unstable"].any()]
    because = (
        f"Instability follows from Fo = D dt/dx² alone with one coefficient ({uniform:.1%} misjudged); in a random "
        f"field Fo at the largest D misjudges up to {random:.0%}, and dt ρ(A) {general:.1%}. "
        + (f"No coefficient is too high for {', '.join(stable)}. " if stable else "")
        + f"Too low is slow: halving D dt multiplies the steps to rest by {1 / slow.ratio:.3g} for FTCS far below the limit."
    )
    scaled = float(records["scaled"].max())
    checks = (
        Check("difference between (D, dt) and (2^k D, 2^-k dt), all schemes", scaled, 0.0, 0.0),
        Check("uniform: share misjudged by Fo", uniform, 0.0, 0.0),
    )
    head = ("medium", "scheme", "limit of Fo", "unstable above Fo = 10", "misjudged by Fo", "by dt ρ(A)")
    return Finding(verdict, because, head, tuple(rows), checks)


def _slowness(records: Records) -> Comparison:
    """Steps at Fo = x against those at x / 2, by the power law that the runs below half the limit follow: 1/2 ideally."""
    ratios = {}
    for k, row in enumerate(records.where(scheme="ftcs", medium="uniform")):
        decay_, steps = np.array(row["decay"], float), np.array(row["settled"], float)
        known = np.isfinite(steps) & (np.array(row["fourier"]) < 0.25) & (steps > 20)
        if known.sum() >= 3:
            slope = np.polyfit(np.log(decay_[known]), np.log(steps[known]), 1)[0]
            ratios[k] = 2.0**slope
    return compare(ratios, dict.fromkeys(ratios, 1.0))


def _coefficient_draw(records: Records, figure) -> None:
    from diffsim.plots import BLUE, VERMILION

    axes = figure.subplots(1, 2, sharey=True)
    ftcs = records.where(scheme="ftcs")
    for ax, medium in zip(axes, MEDIA, strict=True):
        chosen = ftcs.where(medium=medium)
        fo, decay_, unstable = (chosen[name].ravel() for name in ("fourier", "decay", "unstable"))
        for wanted, colour, marker, label in ((0.0, BLUE, "o", "stable"), (1.0, VERMILION, "x", "unstable")):
            here = unstable == wanted
            ax.plot(fo[here], decay_[here], marker, color=colour, markersize=4, label=label)
        ax.axvline(0.5, color="#7A7A7A", linewidth=1.0)
        ax.set(
            xscale="log", yscale="log", title=f"FTCS, {MEDIA[medium]}", xlabel="mesh Fourier number (of the largest D)"
        )
        ax.text(0.55, 0.94, "Fo = 1/2", fontsize=8, color="#555555", transform=ax.get_xaxis_transform())
    axes[0].set_ylabel("dt λ₁: slow decays are low")
    axes[0].legend(frameon=False, loc="lower right")


COEFFICIENT = Claim(
    3,
    "coefficient",
    "A coefficient too high is unstable, too low is slow; what counts is the Fourier number",
    "On rods over nine decades of D, four of length, 8 to 64 cells and 0.02 < Fo < 20: for every scheme all runs at "
    "Fo > 10 are unstable; with one coefficient Fo alone tells stable from unstable; the steps to rest rise as Fo "
    "falls (interval below 1). Supported if all hold, refuted if no scheme is unstable or slowness is not seen.",
    "24 random rods per case; FTCS, RK4 and backward Euler; one coefficient and log-normal fields (σ = 1); random "
    "starts, 4000 steps.",
    "The equation u_t = D u_xx has no scale of its own: measured in cells and steps, only Fo = D dt/dx² is left. A "
    "run with twice the D and half the dt is the *same* run, bit for bit (powers of two are exact in floating "
    "point), so 'is my coefficient too high?' has no answer until the step is named. FTCS is stable up to Fo = 1/2 "
    "in one dimension (Fo counts every axis), RK4 up to 0.696, backward Euler always.\n\n"
    "With a coefficient that varies, 4 Fo at the largest D is an upper bound of dt ρ(A), no longer its value: "
    "harmonic means and neighbours lower it. A step refused by Fo may be stable; dt ρ(A) is the invariant that "
    "decides, and the step check uses a rigorous bound of it. Slowness has an invariant as well, t λ1: the number of "
    "steps to rest is ln(1/tol)/(dt λ1).\n\n"
    "In training the same pair appears as learning rate times curvature: scaling the loss by k and the rate by 1/k "
    "changes nothing for gradient descent, while Adam divides the scale out and has a different invariant.",
    _coefficient_cases, _coefficient_measure, _coefficient_judge, _coefficient_draw,
)  # fmt: skip


# --- 4: applications and sizes --------------------------------------------------------------------------------------

SIZES = (8, 16, 22)  # cells along an axis: plates of up to 512 cells are diagonalised whole
ITEMS = (16, 64, 256)  # fields to learn from
RATES = tuple(float(f"{x:.2g}") for x in np.geomspace(1e-3, 3.2e-2, 4))
_UPDATES, _EVERY = 2000, 50
_CELLS = 16


def _optimum_cases(profile: str) -> list[dict]:
    sizes = SIZES if profile == "full" else SIZES[:2]
    applications = [{"part": "application", "problem": name, "cells": n} for name in PROBLEMS for n in sizes]
    items, rates = (ITEMS, RATES) if profile == "full" else (ITEMS[::2], RATES[::2])
    return applications + [
        {"part": "items", "items": count, "lr": lr, "seed": seed}
        for count in items
        for lr in rates
        for seed in _seeds(profile)
    ]


def _optimum_measure(case: Case) -> dict[str, Any]:
    return _application(case) if case["part"] == "application" else _learned(case)


def _application(case: Case) -> dict[str, Any]:
    """The best FTCS step and its count of steps to rest, and what the planner takes to follow the path."""
    problem = PROBLEMS[case["problem"]](case["cells"])
    operator, initial = discretize(problem), _start(problem, 0)
    limit = allowed_step(operator, SCHEMES["ftcs"])
    found = cheapest(problem, initial, list(limit * np.linspace(0.5, 0.9999, 200)), "ftcs", TOL)
    assert found.best is not None
    dt, steps = found.best
    chosen = ds.plan(problem, initial, until=0.3 / slowest_rate(operator), tol=TOL)
    return {
        "dt": dt, "steps": steps, "relative": dt / limit, "stiffness": 2.0 / limit / slowest_rate(operator),
        "plan_dt": chosen.dt / limit, "plan_steps": chosen.steps, "plan_order": SCHEMES[chosen.scheme].order,
        "plan_stages": chosen.best.stages or SCHEMES[chosen.scheme].stages,
    }  # fmt: skip


def rods(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random conductivities (logarithm, (count, cells)) of a heated rod and its equilibria, scaled to about one."""
    rng = np.random.default_rng(seed)
    modes = np.cos(np.pi * np.outer(np.arange(1, 5), (np.arange(_CELLS) + 0.5) / _CELLS))
    logs = (rng.standard_normal((count, 4)) / np.arange(1, 5)) @ modes
    grid = ds.Grid((_CELLS,), (1.0,))
    rods = [ds.Problem(grid, np.exp(log), source=8.0, boundary={"x": ds.Dirichlet(0.0)}) for log in logs]
    return logs, np.stack([end.u for end in equilibrium(rods)])


def _learned(case: Case) -> dict[str, Any]:
    """Validation error of a small network over training, and the test error at its best moment."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(case["seed"])
    parts = [rods(10 * case["seed"] + k, count) for k, count in enumerate((max(ITEMS), 128, 256))]
    tensors = [tuple(torch.tensor(v, dtype=torch.float32) for v in part) for part in parts]
    x, y = (v[: case["items"]] for v in tensors[0])
    network = torch.nn.Sequential(
        torch.nn.Linear(_CELLS, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, _CELLS)
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=case["lr"])
    draw = torch.Generator().manual_seed(case["seed"])

    def error(part: int) -> float:
        inputs, labels = tensors[part]
        with torch.no_grad():
            return float(((network(inputs) - labels).norm(dim=1) / labels.norm(dim=1)).mean())

    curve, tests = [], []
    for step in range(1, _UPDATES + 1):
        batch = torch.randint(len(x), (16,), generator=draw)
        optimizer.zero_grad()
        (network(x[batch]) - y[batch]).square().mean().backward()
        optimizer.step()
        if step % _EVERY == 0:
            curve.append(error(1))
            tests.append(error(2))
    best = int(np.nanargmin(curve)) if np.isfinite(curve).any() else 0
    return {"validation": curve[best], "test": tests[best], "best_step": _EVERY * (best + 1), "last": tests[-1]}


def _tuned(records: Records) -> dict[int, dict[int, dict]]:
    """items -> seed -> the row of the rate that is best on the validation split."""
    best: dict[int, dict[int, dict]] = {}
    for row in records.where(part="items"):
        held = best.setdefault(row["items"], {})
        now = held.get(row["seed"])
        if row["validation"] is not None and (now is None or row["validation"] < now["validation"]):
            held[row["seed"]] = row
    return best


def _optimum_judge(records: Records) -> Finding:
    applications = records.where(part="application")
    relative, plans = applications["relative"], applications["plan_dt"]
    rows = [
        (f"{row['problem']}, {row['cells']} cells per axis", f"{row['dt']:.3g} s", f"{row['relative']:.4f}",
         f"{row['steps']}", f"{row['plan_dt']:.3g}", f"{row['plan_steps']}")
        for row in applications
    ]  # fmt: skip
    tuned = _tuned(records)
    few, many = min(tuned), max(tuned)
    column = lambda name: [{s: float(row[name]) for s, row in tuned[items].items()} for items in (many, few)]  # noqa: E731
    rate, steps = compare(*column("lr")), compare(*column("best_step"))
    for items, held in tuned.items():
        rows.append((f"network, {items} items", "-", f"lr {np.median([r['lr'] for r in held.values()]):.2g}",
                     f"{np.median([r['best_step'] for r in held.values()]):.0f}", "-", "-"))  # fmt: skip
    spread_rest, spread_plan = float(relative.max() / relative.min()), float(plans.max() / plans.min())
    seconds = float(applications["dt"].max() / applications["dt"].min())
    application = spread_plan > 2 or spread_rest > 2
    size = steps.larger or steps.smaller or rate.larger or rate.smaller
    verdict = "supported" if application and size else "depends" if application or size else "refuted"
    words = lambda c: "differs" if c.larger or c.smaller else "is the same within the scatter"  # noqa: E731
    because = (
        f"In seconds the best FTCS step differs by {seconds:.3g} times between applications and grids; in units of "
        f"the limit by only {spread_rest - 1:.1%}, while the step that follows a path to {TOL:g} differs by "
        f"{spread_plan:.3g} times. From {few} to {many} training fields the best number of updates changes {steps} "
        f"times and {words(steps)}; the best learning rate changes {rate} times and {words(rate)}."
    )
    bound = np.ceil(math.log(1 / TOL) / -np.log(1 - 2 / (applications["stiffness"] + 1)))
    checks = (
        Check(
            "share of applications that need more steps than ln(1/tol) / -ln((λn - λ1)/(λn + λ1))",
            float(np.mean(applications["steps"] > bound)), 0.0, 0.0,
        ),
        *(
            Check(f"rod of {row['cells']} cells: λn/λ1 = 1/sin²(π/2n)", row["stiffness"],
                  math.sin(math.pi / 2 / row["cells"]) ** -2, 1e-9 * row["stiffness"])
            for row in applications.where(problem="rod")
        ),
    )  # fmt: skip
    head = (
        "application",
        "best step to rest",
        "in limits of FTCS",
        "steps",
        "planned step on the path, in limits",
        "steps",
    )
    return Finding(verdict, because, head, tuple(rows), checks)


def _optimum_draw(records: Records, figure) -> None:
    from diffsim.plots import DASHES, LINES

    left, right = figure.subplots(1, 2)
    applications = records.where(part="application")
    for k, name in enumerate(applications.distinct("problem")):
        chosen = applications.where(problem=name)
        left.plot(chosen["stiffness"], chosen["steps"], color=LINES[k], linestyle=DASHES[k], marker="o", label=name)
        left.plot(
            chosen["stiffness"], chosen["plan_steps"], color=LINES[k], linestyle=DASHES[k], marker="^", markersize=5
        )
    left.set(xscale="log", yscale="log", xlabel="stiffness λn/λ₁", ylabel="best number of steps",
             title="● FTCS to rest   ▲ planned path")  # fmt: skip
    left.legend(frameon=False, fontsize=8)
    learned = records.where(part="items")
    for k, items in enumerate(learned.distinct("items")):
        chosen = learned.where(items=items)
        rates = sorted(chosen.distinct("lr"))
        middle = [np.nanmedian(chosen.where(lr=lr)["test"]) for lr in rates]
        right.plot(rates, middle, color=LINES[k], linestyle=DASHES[k], marker="o", label=f"{items} fields")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="learning rate (Adam)",
        ylabel="test error",
        title="a network, by training fields",
    )
    right.legend(frameon=False, fontsize=8)


OPTIMUM = Claim(
    4,
    "optimum",
    "The best step and number of steps depend on the application and on the size of the data set",
    "Between five applications on grids of 8 to 22 cells per axis the best step, in units of the stability limit, "
    "differs by more than 2 times (to rest, or on a planned path); between 16 and 256 training fields the best "
    "learning rate or number of updates differs (paired interval excludes 1). Supported if both, refuted if neither.",
    "Rod, layers, plate, porous medium, fin; FTCS to rest and `ds.plan` at a tolerance of 1e-3. A network "
    "16-64-64-16 from the conductivity of a rod to its equilibrium: Adam, batches of 16, 2000 updates, four learning "
    "rates, the best chosen on a validation split together with the moment to stop.",
    "*In seconds* the optimum depends on everything; that much is units. *In units of the limit* the way to rest has "
    "one answer for every application, 2/(λ1 + λn), a hair below the limit, and what differs is the number of steps: "
    "λn/λ1 times ln(1/tol)/2, four times more for each doubling of the cells. When the path matters, the answer "
    "depends on how smooth the start and how far the end is.\n\n"
    "The size of a grid is one reading of 'size of the data set'; the number of examples is the other. With few "
    "examples a network starts to fit their particulars early, which moves the moment to stop and the rate that gets "
    "there best. The largest *stable* rate is set by curvature, which hardly knows how many examples there are; the "
    "best rate need not be the largest stable one. The two intervals (rate and updates) are both looked at, so about "
    "one study in ten would find a difference where there is none: read an interval that barely excludes 1 as a hint.",
    _optimum_cases, _optimum_measure, _optimum_judge, _optimum_draw,
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (STEP_SIZE, STEP_COUNT, COEFFICIENT, OPTIMUM)
