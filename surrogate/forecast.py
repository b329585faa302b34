"""A learned forecaster: from early frames or a few noisy sensors to the equilibrium, its time, and intervals that cover.

Neither coefficient nor source is known; what is known is the kind of problem (a `Spec`). Three estimates are combined:

1. `gaussian`: the conditional mean of the equilibrium given the readings, from simulated transients of the kind;
2. "linear-inverse" of `diffsim.forecast`, on whole frames as read, else on the frames that the first estimate fills in;
3. a network, trained by `train`, that sees both, what they are unsure of, and the readings, and corrects them.

Everything is free of units: scaling the readings, or the unit of time, scales the answer. One forecaster serves any number
of frames, sensors, and amount of noise. Intervals are calibrated on plates that no part was trained or chosen on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import diffsim
from diffsim import store
from diffsim.errors import ProblemError, StoreError
from diffsim.forecast import Forecast
from diffsim.forecast import forecast as classical
from diffsim.grid import Grid
from diffsim.problem import Problem

from . import conformal
from .checkpoint import Surrogate, load
from .dataset import Item
from .gaussian import Gaussians, Posterior, interpolation, learn, transients
from .predict import Interval
from .sampling import Spec
from .training import train

FILE = "forecaster.safetensors"
FORMAT = 1
SHOWN = (0, 4, 7, -1)  # of the posterior's frames, to the network
EVEN = 12  # equally spaced frames that the linear inverse gets where sensors are sparse
SENSORS = (4, 128)  # drawn log-uniformly between them, or all cells
FRAMES = (8, 24)
FRACTION = (0.07, 1.4)  # of the slowest time constant
NOISE = (5e-4, 0.1)  # of the largest value of the equilibrium, or none
_STRANGERS = 1_000_000  # items so far on lend their sources and starts to a medium


@dataclass(frozen=True, eq=False)
class Query:
    """A transient as read, and where it settles.

    Attributes
    ----------
    times, frames
        (k,) from the start, and (k, *shape) with NaN where no sensor is.
    clean
        The frames everywhere and without noise.
    problem, u, rate
        The truth: problem, equilibrium and slowest rate.
    fraction, noise, sensors
        Share of the time constant seen, standard deviation relative to the largest value of u, cells read.
    """

    times: np.ndarray
    frames: np.ndarray
    clean: np.ndarray
    problem: Problem
    u: np.ndarray
    rate: float
    fraction: float
    noise: float
    sensors: int


@dataclass(frozen=True)
class Kind:
    """Transients of a spec at a resolution: item i of `seed` is a plate with its source and its start.

    Attributes
    ----------
    spec
        With the same sides in every item, and no sensors or noise of its own.
    """

    spec: Spec
    resolution: int = 16
    seed: int = 0

    def __post_init__(self):
        if not self.spec.transient or self.spec.sides != "zero":
            raise ProblemError(
                f"spec {self.spec.name!r}: a forecaster learns from transients whose sides are known and the same "
                "(sides = 'zero'); give such a spec, as 'transient' is."
            )

    @property
    def grid(self) -> Grid:
        """The box of every item."""
        return self.spec.grid(self.resolution)

    @cached_property
    def prior(self) -> Problem:
        """What is known of an item: grid and sides; with a unit coefficient and no source."""
        return self.spec.problem(self.seed, 0, self.resolution).with_(diffusivity=1.0, source=0.0)

    @cached_property
    def unit_rate(self) -> float:
        """Slowest rate of `prior`."""
        return 1.0 / diffsim.time_to_equilibrium(self.prior, tol=math.exp(-1))

    def items(self, numbers: Sequence[int]) -> tuple[list[Problem], list[np.ndarray]]:
        """Problems and starts of items."""
        problems = self.spec.problems(self.seed, numbers, self.resolution)
        return problems, [self.spec.initial(self.seed, i, p) for i, p in zip(numbers, problems, strict=True)]

    def queries(self, numbers: Sequence[int], per: int = 1) -> Iterator[Query]:
        """Readings with random fraction, frames, noise and sensors: `per` of each medium, each with its own source and
        start."""
        for i in numbers:
            rng = np.random.default_rng([self.seed, i, 0])
            (problem,), _ = self.items([i])
            for j in range(per):
                (other,), (start,) = self.items([i + j * _STRANGERS])
                count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
                fraction = _between(rng, *FRACTION)
                noise = _between(rng, *NOISE) if rng.random() < 0.75 else 0.0
                sensors = round(_between(rng, *SENSORS)) if rng.random() < 0.7 else problem.grid.size
                yield observed(problem.with_(source=other.source.steady), start, rng, fraction, noise, sensors, count)


def observed(
    problem: Problem,
    start: np.ndarray,
    rng: np.random.Generator,
    fraction: float,
    noise: float,
    sensors: int,
    frames: int = 16,
) -> Query:
    """A transient of `problem` read by sensors at random cells, at equally spaced times up to a fraction of its slowest
    time constant, exactly (by eigenvectors) but for the noise."""
    shape, cells = problem.grid.shape, problem.grid.size
    runs, ends, rate = transients(
        problem, [start], [problem.source.steady], np.array([fraction]), np.linspace(0.0, 1.0, frames)
    )
    clean, u = runs[0, 0], ends[0]
    readings = clean + noise * np.abs(u).max() * rng.standard_normal(clean.shape)
    seen = np.full(clean.shape, np.nan)
    where = np.sort(rng.choice(cells, min(sensors, cells), replace=False))
    seen[:, where] = readings[:, where]
    return Query(
        np.linspace(0.0, fraction / rate, frames), seen.reshape(frames, *shape), clean.reshape(frames, *shape), problem,
        u.reshape(shape), rate, fraction, noise, len(where),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Calibration:
    """Errors on held-out queries, in units of the spread that was predicted for them.

    Attributes
    ----------
    l2
        (n,) relative L2 error over the relative spread of the whole field.
    cells
        (n, cells) error over spread.
    rate
        (n,) |ln(rate / true rate)|.
    """

    l2: np.ndarray
    cells: np.ndarray
    rate: np.ndarray

    @classmethod
    def of(cls, forecasts: Sequence["Learned"], queries: Sequence[Query]) -> "Calibration":
        """What the forecasts of these queries missed."""
        l2, cells, rate = [], [], []
        for made, query in zip(forecasts, queries, strict=True):
            away = np.abs(made.u - query.u)
            l2.append(np.linalg.norm(away) / np.linalg.norm(query.u) / made.relative_spread)
            cells.append((away / made.spread).ravel())
            rate.append(abs(math.log(made.forecast.rate / query.rate)))
        return cls(np.array(l2), np.array(cells, dtype=np.float32), np.array(rate))

    def interval(self, made: "Learned", level: float = 0.9) -> Interval:
        """Statistical intervals of a forecast: of its whole field, its cells, and its slowest rate."""
        reach = conformal.share_quantile(self.cells, level) * made.spread
        factor = math.exp(min(conformal.quantile(self.rate, level), 700.0))
        return Interval(
            level,
            conformal.quantile(self.l2, level) * made.relative_spread,
            len(self.l2),
            cells=np.stack([made.u - reach, made.u + reach]),
            rate=(made.forecast.rate / factor, made.forecast.rate * factor),
        )


@dataclass(frozen=True, eq=False)
class Learned:
    """A forecast with the spread that was expected of it, grid shape, and the Gaussian estimate it started from."""

    u: np.ndarray
    spread: np.ndarray
    forecast: Forecast
    posterior: Posterior

    @property
    def relative_spread(self) -> float:
        """Of the whole field, relative to the prediction."""
        return float(np.linalg.norm(self.spread) / max(np.linalg.norm(self.u), np.finfo(float).tiny))


class Forecaster:
    """Made by `forecaster`, read by `Forecaster.load`."""

    task = "transient"

    def __init__(self, kind: Kind, gaussians: Gaussians, network: Surrogate, calibration: Calibration | None = None):
        self.kind, self.gaussians, self.network, self.calibration = kind, gaussians, network, calibration
        self.card = network.card

    def predict(self, given, tol: float = 1e-2, **options):
        """A `Prediction` with its statistical interval and its time to equilibrium; see `surrogate.predict`.

        Parameters
        ----------
        given
            `diffsim.Observations` with ``grid=``, a `Trajectory`, or (times, frames) with NaN where nothing was read; a
            list of these gives a list. Times count from the start of the transient.
        """
        from .predict import predict

        return predict(self, given, tol=tol, **options)

    def forecast(self, times: np.ndarray, frames: np.ndarray, grid: Grid | None = None) -> Learned:
        """The forecast from readings (k, *shape), NaN where there are none.

        Raises
        ------
        ProblemError
            For other cells, or a box of other proportions, than it was trained on.
        """
        own = self.kind.grid
        if grid is not None:
            ratio = np.array(grid.lengths) / np.array(own.lengths) if grid.ndim == own.ndim else np.zeros(1)
            if grid.shape != own.shape or not grid.uniform or np.ptp(ratio) > 1e-9 * ratio[0]:
                raise ProblemError(
                    f"a grid of {grid.shape} cells, {grid.lengths} long: this forecaster was trained on {own.shape} cells of a "
                    f"box {own.lengths}; give a uniform grid of these cells and proportions (any size)."
                )
        return self.answer(self.gaussians.given(times, frames), np.asarray(times, float), np.asarray(frames, float))

    def answer(self, posterior: Posterior, times: np.ndarray, frames: np.ndarray) -> Learned:
        """What the network makes of the Gaussian estimate."""
        channels = channels_of(self.kind, posterior, times, frames)
        u = self.network.from_frames(np.arange(len(channels), dtype=float)[None], channels[None])[0]
        return Learned(u, posterior.spread, posterior.forecast(u, "learned"), posterior)

    def interval(self, made: Learned, level: float = 0.9) -> Interval | None:
        """Calibrated intervals; None where nothing was held out."""
        return None if self.calibration is None else self.calibration.interval(made, level)

    def save(self, path) -> Path:
        """Write everything to a folder."""
        folder = self.network.save(path)
        arrays = {"factors": self.gaussians.factors, "rest": self.gaussians.rest}
        if self.calibration is not None:
            arrays |= {f"calibration.{name}": array for name, array in vars(self.calibration).items()}
        record = {
            "format": FORMAT,
            "spec": self.kind.spec.as_dict(),
            "resolution": self.kind.resolution,
            "seed": self.kind.seed,
        }
        store.write_safetensors(folder / FILE, arrays, record)
        return folder

    @classmethod
    def load(cls, path) -> "Forecaster":
        """Read what `save` wrote.

        Raises
        ------
        StoreError
            Where it is missing, damaged, or of another format.
        """
        folder = Path(path)
        arrays, record = store.read_safetensors(folder / FILE)
        if record.get("format") != FORMAT or not {"factors", "rest"} <= arrays.keys():
            raise StoreError(f"{folder / FILE} is not a forecaster of format {FORMAT}; use the version that wrote it.")
        kind = Kind(Spec.of(record["spec"]), record["resolution"], record["seed"])
        held = {name.removeprefix("calibration."): a for name, a in arrays.items() if name.startswith("calibration.")}
        gaussians = Gaussians(kind.grid.shape, arrays["factors"], arrays["rest"])
        return cls(kind, gaussians, load(folder), Calibration(**held) if held else None)


def channels_of(kind: Kind, posterior: Posterior, times: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """What the network sees, (channels, *shape), all in the units of the readings."""
    seen = ~np.isnan(frames).any(axis=0)
    size = math.sqrt(float(np.mean(posterior.frames**2)))
    level = lambda value: np.full(seen.shape, size * value)  # noqa: E731
    last = np.where(seen, frames[-1], posterior.frames[-1])
    return np.stack([
        posterior.u, posterior.spread, inverted(kind, posterior, times, frames), *posterior.frames[list(SHOWN)], last,
        size * seen, level(math.exp(-posterior.fraction)), level(min(posterior.noise / size, 1.0) if size else 0.0),
    ])  # fmt: skip


def inverted(kind: Kind, posterior: Posterior, times: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The linear inverse of whole frames, or of those the posterior fills in; in a unit of time in which D is about 1."""
    pace = posterior.rate / kind.unit_rate
    if not np.isnan(frames).any() and np.ptp(np.diff(times)) < 1e-6 * times[-1] and times.size >= 3:
        return classical(times * pace, frames, "linear-inverse", problem=kind.prior).u
    even = np.linspace(0.0, 1.0, EVEN)
    filled = np.tensordot(interpolation(even), posterior.frames, 1)
    # the posterior's frames are smooth, and their errors are no noise: a little is assumed
    return classical(
        even * times[-1] * pace, filled, "linear-inverse", noise=0.3 * posterior.noise, problem=kind.prior
    ).u


@dataclass(frozen=True, eq=False)
class Examples:
    """Channels (n, c, *shape) and equilibria (n, *shape) of queries, in the interface that `train` reads."""

    problem: Problem
    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]

    task = "transient"

    def indices(self, part: str) -> np.ndarray:
        """Numbers of the items of a split."""
        first, second = len(self.training[1]), len(self.validation[1])
        return np.arange(first) if part == "train" else np.arange(first, first + second)

    def __getitem__(self, i: int) -> Item:
        first = len(self.training[1])
        channels, u = (x[i] for x in self.training) if i < first else (x[i - first] for x in self.validation)
        return Item(self.problem, u, np.arange(len(channels), dtype=float), channels)

    def __repr__(self) -> str:
        return f"Examples({len(self.training[1])} to train on, {len(self.validation[1])} to choose by)"


def examples(kind: Kind, gaussians: Gaussians, numbers: Sequence[int], per: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Channels (n, c, *shape) float32 and equilibria (n, *shape) of `per` queries of each item."""
    channels, u = [], []
    for query in kind.queries(numbers, per):
        posterior = gaussians.given(query.times, query.frames)
        channels.append(channels_of(kind, posterior, query.times, query.frames).astype(np.float32))
        u.append(query.u)
    return np.stack(channels), np.stack(u)


def shares(media: Sequence[int]) -> list[range]:
    """Consecutive item numbers, so many of each."""
    bounds = np.cumsum([0, *media]).tolist()
    return [range(low, high) for low, high in pairwise(bounds)]


def forecaster(
    spec: "Spec | str | dict" = "transient",
    resolution: int = 16,
    seed: int = 0,
    media: tuple[int, ...] = (500, 400, 100, 200),
    per: int = 4,
    model: str = "resnet",
    minutes: float | None = 3.0,
    out=None,
    **options: Any,
) -> Forecaster:
    """Learn to forecast transients of a kind.

    Parameters
    ----------
    spec, resolution, seed
        The kind: a spec of transients whose sides are the same in all items.
    media
        How many go into the Gaussians, the network, its validation, and the calibration of the intervals; no medium
        serves two of them.
    per
        Queries per medium that the network is trained on.
    model, minutes, options
        Of `train`.
    out
        Folder to keep the forecaster in; None keeps nothing.
    """
    kind = Kind(Spec.of(spec), resolution, seed)
    for_moments, for_network, for_choice, for_intervals = shares(media)
    gaussians = learn(*kind.items(for_moments))
    data = Examples(kind.prior, examples(kind, gaussians, for_network, per), examples(kind, gaussians, for_choice))
    return finished(kind, gaussians, data, for_intervals, seed, model, minutes, out, **options)


def finished(
    kind, gaussians, data: Examples, held_out: Sequence[int], seed, model, minutes, out, **options
) -> Forecaster:
    """Train the network on examples, and calibrate it on held-out items."""
    network = train(data, model=model, task="transient", minutes=minutes, seed=seed, **{"slopes": 0.0, **options})
    made = Forecaster(kind, gaussians, network)
    made.calibration = calibrated(made, held_out)
    if out is not None:
        made.save(out)
    return made


def calibrated(made: Forecaster, held_out: Sequence[int]) -> Calibration:
    """Errors of a forecaster on one query of each held-out medium."""
    queries = list(made.kind.queries(held_out))
    return Calibration.of([made.forecast(query.times, query.frames) for query in queries], queries)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
