"""Distributions of diffusion problems. A spec is data: what is drawn, never how far the drawing has come.

Item i of a seed depends on (seed, i) alone, and its fields are functions of the place, not of the grid: the same seed
shows the same medium at every resolution. Medium, source, sides, start and noise draw from separate streams, so that
changing one of them leaves the others as they were.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from diffsim.boundary import Dirichlet, Neumann, Robin
from diffsim.errors import ProblemError
from diffsim.grid import Grid
from diffsim.problem import Problem

MEDIA = ("threshold", "lognormal", "inclusions", "layers")
SOURCES = ("one", "random", "zero")
SIDES = ("zero", "values", "mixed")
_CELLS = 1 << 18  # drawn together at most
_STREAMS = ("medium", "source", "sides", "start", "noise")


@lru_cache(maxsize=64)
def amplitudes(tau: float, alpha: float, ndim: int, modes: int) -> np.ndarray:
    """Standard deviations of the cosine modes of a Gaussian field, (modes,) * ndim: no mean, and mean variance one.

    Read-only.
    """
    k = np.arange(modes)
    square = sum(np.meshgrid(*[k**2] * ndim, indexing="ij", sparse=True))
    made = tau ** (alpha - 1) * (math.pi**2 * square + tau**2) ** (-alpha / 2)
    made[(0,) * ndim] = 0.0
    made /= math.sqrt(float((made**2).sum()))
    made.flags.writeable = False
    return made


@dataclass(frozen=True)
class Spec:
    """What a dataset draws. Every field is part of its identity.

    Parameters
    ----------
    name
        For people and file names.
    medium
        "threshold": `high` where a Gaussian field is >= 0, `low` elsewhere (Darcy; Li et al. 2021).
        "lognormal": exp of a Gaussian field; contrast between its points at +-3 standard deviations.
        "inclusions": balls of one coefficient in another. "layers": plane layers across a random axis.
    ndim
        1, 2 or 3; the box is the unit interval, square or cube.
    tau, alpha, modes
        Covariance of Gaussian fields: cosine modes k < `modes` per axis with coefficients
        ``tau^(alpha - 1) (pi^2 |k|^2 + tau^2)^(-alpha / 2)``, the mean left out. Larger tau is rougher.
        Where several tau are given, each field takes one of them at random.
    contrast
        (least, most): the contrast of an item is drawn log-uniformly between them ("threshold" has high / low).
    source
        "one": f = 1. "random": a smooth random field. "zero": none.
    sides
        "zero": u = 0 on all. "values": one random value per side. "mixed": random values, fluxes and Robin sides, at
        least one of which holds a value.
    frames, window
        More than 0 frames make the task transient: frames at equally spaced times from 0 to `window` time scales
        ``1 / (ndim pi^2 D)``, D the geometric mean, and the equilibrium the trajectory settles to.
    sensors, noise
        Transient: number of cells that are observed (0: all of them), and the standard deviation of what is added to
        them, relative to the range of the frames.
    """

    name: str
    medium: str = "threshold"
    ndim: int = 2
    low: float = 3.0
    high: float = 12.0
    tau: tuple[float, ...] = (3.0,)
    alpha: float = 2.0
    modes: int = 64
    contrast: tuple[float, float] = (4.0, 4.0)
    pieces: tuple[int, int] = (3, 12)
    source: str = "one"
    sides: str = "zero"
    frames: int = 0
    window: float = 0.5
    sensors: int = 0
    noise: float = 0.0

    def __post_init__(self):
        for field in ("tau", "contrast", "pieces"):
            value = getattr(self, field)
            value = (value,) if np.ndim(value) == 0 else tuple(value)
            if field != "tau" and len(value) == 1:
                value = value * 2
            object.__setattr__(self, field, value)
        for field, choices in (("medium", MEDIA), ("source", SOURCES), ("sides", SIDES)):
            value = getattr(self, field)
            if value not in choices:
                near = difflib.get_close_matches(str(value), choices, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ProblemError(f"spec: {field} = {value!r} is unknown; choose one of {', '.join(choices)}.{hint}")
        for field, least, most in (
            ("ndim", 1, 3),
            ("modes", 1, 512),
            ("frames", 0, 10_000),
            ("sensors", 0, 10**9),
        ):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ProblemError(f"spec: {field} = {value!r} must be an int from {least} to {most}.")
        for field, least in (("low", 0), ("high", 0), ("alpha", 0), ("window", 0)):
            self._positive(field, getattr(self, field), least)
        for field in ("tau", "contrast", "pieces"):
            for value in getattr(self, field):
                self._positive(field, value, 0)
        if len(self.contrast) != 2 or self.contrast[0] > self.contrast[1] or self.contrast[0] < 1:
            raise ProblemError(f"spec: contrast = {self.contrast} must be (least, most) with 1 <= least <= most.")
        if len(self.pieces) != 2 or self.pieces[0] > self.pieces[1] or not all(isinstance(k, int) for k in self.pieces):
            raise ProblemError(f"spec: pieces = {self.pieces} must be two ints (least, most).")
        if not (isinstance(self.noise, int | float) and 0 <= self.noise < math.inf):
            raise ProblemError(f"spec: noise = {self.noise!r} must be a finite number >= 0.")
        if self.frames == 1:
            raise ProblemError("spec: frames = 1 shows no change; give 0 (equilibria only) or at least 2.")
        if not self.frames and (self.sensors or self.noise):
            raise ProblemError("spec: sensors and noise belong to transient data; give frames >= 2 as well.")

    @staticmethod
    def _positive(field: str, value, least: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < math.inf:
            raise ProblemError(f"spec: {field} = {value!r} must be a finite number > {least}.")

    # --- identity ---------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, spec: "Spec | str | Path | dict") -> "Spec":
        """A spec from its name, a TOML file, a dict of its fields, or itself."""
        if isinstance(spec, Spec):
            return spec
        if isinstance(spec, dict):
            return cls._from_dict(spec)
        if str(spec) in SPECS:
            return SPECS[str(spec)]
        path = Path(spec)
        if path.suffix == ".toml" or path.exists():
            from diffsim.store import read_toml

            return cls._from_dict({"name": path.stem, **read_toml(path)})
        near = difflib.get_close_matches(str(spec), SPECS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ProblemError(f"spec {str(spec)!r} is neither a TOML file nor one of {', '.join(SPECS)}.{hint}")

    @classmethod
    def _from_dict(cls, given: dict) -> "Spec":
        """`base` names a spec to start from; every other key is a field."""
        given = dict(given)
        base = given.pop("base", None)
        allowed = [field.name for field in fields(cls)]
        for key in given:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ProblemError(f"spec: unknown key {key!r}; allowed are base, {', '.join(allowed)}.{hint}")
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        if base is not None:
            return replace(cls.of(base), **given)
        if "name" not in given:
            raise ProblemError("spec: give it a name.")
        return cls(**given)

    def as_dict(self) -> dict:
        """The fields, as JSON and TOML can hold them; ``Spec.of`` of it is this spec again."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def transient(self) -> bool:
        """Items are trajectories and what they settle to, not coefficients and equilibria."""
        return self.frames > 0

    # --- drawing ----------------------------------------------------------------------------------------------------

    def problem(self, seed: int, i: int, resolution: int) -> Problem:
        """Item i of `seed` on `resolution` cells per axis."""
        return self.problems(seed, [i], resolution)[0]

    def problems(self, seed: int, items: Sequence[int], resolution: int) -> list[Problem]:
        """Items of `seed`: each as if it were drawn alone, in less time."""
        grid, drawn = self.grid(resolution), []
        together = max(1, _CELLS // grid.size)
        for start in range(0, len(items), together):
            part = items[start : start + together]
            media = self._media([_stream(seed, i, "medium") for i in part], grid)
            drawn += _in_common(grid, 1.0 if self.source == "one" else 0.0).with_each(media)
        if self.source == "random" or self.sides != "zero":
            drawn = [problem.with_(**self._driven(seed, i, grid)) for i, problem in zip(items, drawn, strict=True)]
        return drawn

    def _driven(self, seed: int, i: int, grid: Grid) -> dict[str, Any]:
        """What is drawn of an item besides its medium."""
        drawn: dict[str, Any] = {}
        if self.source == "random":
            drawn["source"] = self._random_source(_stream(seed, i, "source"), grid)
        if self.sides != "zero":
            drawn["boundary"] = self._boundary(_stream(seed, i, "sides"), grid)
        return drawn

    def grid(self, resolution: int) -> Grid:
        """The unit box with `resolution` cells per axis."""
        if isinstance(resolution, bool) or not isinstance(resolution, int | np.integer) or resolution < 2:
            raise ProblemError(f"resolution = {resolution!r} must be an int >= 2 (cells per axis).")
        return _unit_box(self.ndim, int(resolution))

    def initial(self, seed: int, i: int, problem: Problem) -> np.ndarray:
        """Where the trajectory of item i starts: a smooth random field, as large as what a unit source settles to."""
        field = self._gaussian(_stream(seed, i, "start"), problem.grid, 5.0, modes=16)
        return self._time_scale(problem) * field

    def times(self, problem: Problem) -> np.ndarray:
        """Frame times of a transient item, (frames,)."""
        return np.linspace(0.0, self.window * self._time_scale(problem), self.frames)

    def _time_scale(self, problem: Problem) -> float:
        """Decay time of the slowest mode of a unit box with zero sides and the geometric mean of D."""
        d = np.asarray(problem.diffusivity, dtype=float)
        return 1 / (self.ndim * math.pi**2 * math.exp(float(np.log(d).mean())))

    def observe(self, seed: int, i: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(flat indices of the observed cells, frames as observed): NaN where no sensor is, noise where one is."""
        rng = _stream(seed, i, "noise")
        cells = math.prod(frames.shape[1:])
        if self.sensors > cells:
            raise ProblemError(f"spec: sensors = {self.sensors}, but the grid has {cells} cells.")
        where = np.arange(cells)
        if self.sensors:
            where = np.sort(rng.choice(cells, self.sensors, replace=False))
        seen = np.full((len(frames), cells), np.nan)
        seen[:, where] = frames.reshape(len(frames), -1)[:, where]
        if self.noise:
            size = float(np.ptp(frames))
            seen[:, where] += self.noise * size * rng.standard_normal((len(frames), len(where)))
        return where, seen.reshape(frames.shape)

    def _media(self, streams: list[np.random.Generator], grid: Grid) -> np.ndarray:
        """Coefficients of an item for every stream, (items, *grid.shape)."""
        return _MEDIA[self.medium](self, streams, grid)

    def _contrast(self, rng: np.random.Generator) -> float:
        lo, hi = np.log(self.contrast)
        return math.exp(rng.uniform(lo, hi))

    def _tau(self, rng: np.random.Generator) -> float:
        return self.tau[rng.integers(len(self.tau))]

    def _gaussian(self, rng, grid: Grid, tau: float, modes: int | None = None) -> np.ndarray:
        """A Gaussian field of zero mean and unit mean variance at the cell centres, from cosine modes."""
        return self._gaussians([rng], grid, [tau], modes)[0]

    def _gaussians(self, streams: list, grid: Grid, taus: list[float], modes: int | None = None) -> np.ndarray:
        """One such field for every stream, (fields, *grid.shape)."""
        modes = modes or (self.modes if self.ndim < 3 else min(self.modes, 24))
        fields = np.empty((len(streams),) + (modes,) * grid.ndim)
        for field, rng, tau in zip(fields, streams, taus, strict=True):
            rng.standard_normal(out=field)
            field *= amplitudes(tau, self.alpha, self.ndim, modes)
        for axis in range(grid.ndim - 1):
            stack = fields.reshape(len(streams) * grid.shape[0] ** axis, modes, -1)
            fields = np.matmul(_cosines(grid, axis, modes), stack)
        rows = fields.reshape(len(streams), -1, modes)  # field by field: the bits of a product depend on its size
        return np.matmul(rows, _cosines(grid, grid.ndim - 1, modes).T).reshape(-1, *grid.shape)

    def _threshold(self, streams, grid: Grid) -> np.ndarray:
        taus = [self._tau(rng) for rng in streams]
        return np.where(self._gaussians(streams, grid, taus) >= 0, self.high, self.low)

    def _lognormal(self, streams, grid: Grid) -> np.ndarray:
        taus, sizes = [], []
        for rng in streams:
            taus.append(self._tau(rng))
            sizes.append(math.log(self._contrast(rng)) / 6)
        return np.exp(np.reshape(sizes, (-1,) + (1,) * grid.ndim) * self._gaussians(streams, grid, taus))

    def _inclusions(self, streams, grid: Grid) -> np.ndarray:
        fields = np.ones((len(streams), *grid.shape))
        for field, rng in zip(fields, streams, strict=True):
            contrast = self._contrast(rng)
            inside = contrast if rng.random() < 0.5 else 1 / contrast
            count = int(rng.integers(self.pieces[0], self.pieces[1] + 1))
            centers, radii = rng.random((count, self.ndim)), rng.uniform(0.04, 0.18, count)
            for center, radius in zip(centers, radii, strict=True):
                distance = sum((x - c) ** 2 for x, c in zip(grid.mesh(), center, strict=True))
                field[np.broadcast_to(distance <= radius**2, grid.shape)] = inside
        return fields

    def _layers(self, streams, grid: Grid) -> np.ndarray:
        fields = np.empty((len(streams), *grid.shape))
        for field, rng in zip(fields, streams, strict=True):
            contrast = self._contrast(rng)
            count = int(rng.integers(self.pieces[0], self.pieces[1] + 1))
            interfaces = np.sort(rng.random(count - 1))
            values = np.exp(rng.uniform(0, math.log(contrast), count)) if contrast > 1 else np.ones(count)
            along = grid.mesh()[int(rng.integers(self.ndim))]
            field[...] = values[np.searchsorted(interfaces, along)]
        return fields

    def _random_source(self, rng, grid: Grid) -> np.ndarray:
        return rng.standard_normal() + self._gaussian(rng, grid, 5.0, modes=16)

    def _boundary(self, rng, grid: Grid) -> dict:
        names = grid.sides
        kinds = rng.integers(0, 4, len(names))  # 0, 1: value; 2: flux; 3: Robin
        kinds[rng.integers(len(names))] = 0
        numbers = rng.standard_normal(len(names))
        h = 10.0 ** rng.uniform(-1, 2, len(names))
        if self.sides == "values":
            return {name: Dirichlet(float(value)) for name, value in zip(names, numbers, strict=True)}
        make: list[Callable] = [
            lambda j: Dirichlet(float(numbers[j])),
            lambda j: Dirichlet(float(numbers[j])),
            lambda j: Neumann(float(numbers[j])),
            lambda j: Robin(float(h[j]), float(numbers[j])),
        ]
        return {name: make[kinds[j]](j) for j, name in enumerate(names)}


_MEDIA = {
    "threshold": Spec._threshold,
    "lognormal": Spec._lognormal,
    "inclusions": Spec._inclusions,
    "layers": Spec._layers,
}

SPECS = {
    spec.name: spec
    for spec in (
        Spec("darcy"),
        Spec("darcy-rough", tau=(5.0, 18.0)),
        Spec("lognormal", medium="lognormal", contrast=(1.0, 1e6)),
        Spec("inclusions", medium="inclusions", contrast=(2.0, 1e3)),
        Spec("layers", medium="layers", contrast=(2.0, 1e3), sides="values"),
        Spec("sources", source="random", sides="values"),
        Spec("mixed", source="random", sides="mixed"),
        Spec("darcy-1d", ndim=1),
        Spec("darcy-3d", ndim=3),
        Spec("transient", medium="lognormal", contrast=(2.0, 20.0), source="random", frames=8),
        Spec(
            "transient-sensors",
            medium="lognormal",
            contrast=(2.0, 20.0),
            source="random",
            frames=8,
            sensors=64,
            noise=0.01,
        ),
    )
}


@lru_cache(maxsize=16)
def _unit_box(ndim: int, resolution: int) -> Grid:
    """One grid for all problems of a data set: what is derived from it is derived once."""
    return Grid(shape=(resolution,) * ndim, lengths=(1.0,) * ndim)


@lru_cache(maxsize=16)
def _in_common(grid: Grid, source: float) -> Problem:
    """What problems on one grid are before something is drawn: u = 0 on all sides."""
    return Problem(grid, diffusivity=1.0, source=source, boundary={name: Dirichlet(0.0) for name in grid.sides})


@lru_cache(maxsize=16)
def _cosines(grid: Grid, axis: int, modes: int) -> np.ndarray:
    """Cosine modes k < `modes` of unit mean square at the cell centres along an axis, (n, modes)."""
    k = np.arange(modes)
    return np.cos(math.pi * np.outer(grid.centers[axis], k)) * np.where(k > 0, math.sqrt(2.0), 1.0)


def _stream(seed: int, i: int, what: str) -> np.random.Generator:
    """The random numbers of one ingredient of item i."""
    for name, value in (("seed", seed), ("item", i)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ProblemError(f"{name} = {value!r} must be an int >= 0.")
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(int(i), _STREAMS.index(what))))
