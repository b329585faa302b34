"""Datasets of problems and their equilibria: generated crash-safely, loaded lazily, re-checked against the physics.

A dataset is a folder:

    manifest.json     format, spec, seed, count, resolution, labels, code version; and, once complete, every shard with
                      its SHA-256. Replaced atomically.
    journal.jsonl     one line per finished shard, appended after the shard is durable. What it names is valid.
    shards/NNNNN.h5   consecutive items, whole trajectories included, sealed HDF5 with checksums

Shards have a fixed number of items whatever the workers, are computed from (spec, seed, item) alone, and are entered in
order: the folder of a killed and resumed call equals that of an uninterrupted one, byte for byte, and a folder that was
made larger later equals one that was so large at once. Every shard also holds the settings, so that a lost manifest can
be made again.
"""

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

import diffsim
from diffsim import store
from diffsim.boundary import Dirichlet, Neumann, Robin
from diffsim.errors import DiffsimError, ProblemError, StoreError
from diffsim.grid import Grid
from diffsim.lines import stacked
from diffsim.problem import Problem
from diffsim.resources import require_disk, require_memory

from . import exports
from .ahead import HELD, done_ahead
from .checks import faults as label_faults
from .checks import relative_residual
from .sampling import Spec
from .sensors import filled

FORMAT = 1
MANIFEST, JOURNAL, SHARDS = "manifest.json", "journal.jsonl", "shards"
LABELS = ("same-grid", "restricted-fine")
FINER = 4  # restricted-fine labels are solved on this many times the cells per axis
TOLERANCE = 1e-9  # relative residual of labels when they are solved
ALLOWED = 1e-8  # and when they are checked, here and later
SPLITS = ("train", "validation", "test")
_NOT_DRAWN = ("name", "frames", "window", "sensors", "noise")  # fields of a spec that do not change its problems
_SHARD_BYTES = 16 << 20
_SHARDS_HELD = 128  # in memory: at most 2 GiB


class Interrupted(DiffsimError):
    """Generation stopped on request; what is finished is valid, and the same call resumes."""

    exit_code = 130


# --- generation -----------------------------------------------------------------------------------------------------


def generate(
    spec: "Spec | str | Path | dict",
    out: "str | Path",
    count: int = 1000,
    resolution: int = 64,
    seed: int = 0,
    workers: int = 1,
    labels: str = "same-grid",
    progress: "Callable[[int, int], None] | None" = None,
) -> "Dataset":
    """Draw problems, solve them, and store both; a call that was cut short is resumed by the same call.

    The same call with a larger `count` adds the items that are missing. On a dataset that is complete it writes nothing
    and needs no lock, so that several trainings may share one.

    Parameters
    ----------
    spec
        A name (`surrogate.sampling.SPECS`), a TOML file, a dict of fields, or a `Spec`.
    out
        Folder of the dataset; made if need be.
    count, resolution, seed
        Items, cells per axis, and the seed; item i depends on (seed, i) alone.
    workers
        Shards that are solved at once: one by this process, on the threads that numba has where it is alone, the others by
        processes, which join when they have started. The result does not depend on it.
    labels
        "same-grid": the equilibrium on the grid itself. "restricted-fine": the medium is drawn and solved on a grid
        4 times finer and the solution averaged; the model still sees the medium sampled on the coarse grid.
    progress
        Called with (items done, items in all) after every shard.

    Raises
    ------
    ProblemError
        For arguments out of range, or where `out` holds a dataset of other settings (the differences are listed).
    StoreError, ResourceError
        Where it cannot be written, or the disk is too small.
    Interrupted
        After Ctrl-C or SIGTERM, once the current shard is safe. A second signal ends at once, and is safe as well.
    """
    spec = Spec.of(spec)
    recipe = _Recipe(
        spec, _integer("seed", seed, 0), _integer("count", count, 1), _integer("resolution", resolution, 2), labels
    )
    workers = _integer("workers", workers, 1)
    spec.problem(recipe.seed, 0, recipe.resolution)  # mistakes surface before anything is written
    folder = Path(out)
    report = progress or (lambda done, total: None)
    if _finished(folder, recipe):
        report(recipe.count, recipe.count)
        return Dataset(folder)
    store.new_path(folder / MANIFEST, force=True)
    with store.locked(folder):
        done = _prepare(folder, recipe)
        report(min(done * recipe.per_shard, recipe.count), recipe.count)
        left = range(done, recipe.n_shards)
        if left:
            require_disk(folder, len(left) * recipe.per_shard * recipe.item_bytes, f"generating {recipe.count} items")
            held = (HELD + 1) * workers * recipe.per_shard
            require_memory(held * recipe.solve_bytes, "solving one shard per worker")
            journal = store.Journal(folder / JOURNAL)
            tasks = ((k, store.stage(_shard_path(folder, k))) for k in left)
            job = partial(_fill_shard, recipe, folder)
            try:
                with _stop_requests() as stop, done_ahead(job, tasks, min(workers, len(left)) - 1) as shards:
                    for (k, temporary), digest in shards:
                        store.publish(temporary, _shard_path(folder, k))
                        journal.append({"shard": k, "items": len(recipe.items(k)), "sha256": digest})
                        report(min((k + 1) * recipe.per_shard, recipe.count), recipe.count)
                        if stop.is_set() and k + 1 < recipe.n_shards:
                            raise Interrupted(
                                f"stopped after {(k + 1) * recipe.per_shard} of {recipe.count} items; all of them are "
                                f"safe in {folder}. The same call resumes."
                            )
            finally:
                store.sweep(folder / SHARDS)  # what was begun and is not wanted any more
        store.write_json(folder / MANIFEST, recipe.manifest(store.Journal(folder / JOURNAL).records()))
    return Dataset(folder)


@dataclass(frozen=True)
class _Recipe:
    """Everything that decides the content of a dataset."""

    spec: Spec
    seed: int
    count: int
    resolution: int
    labels: str
    code: str = diffsim.__version__

    def __post_init__(self):
        if self.labels not in LABELS:
            raise ProblemError(f"labels = {self.labels!r} is unknown; choose one of {', '.join(LABELS)}.")
        if self.labels != "same-grid" and self.spec.transient:
            raise ProblemError("labels = 'restricted-fine' is for equilibria; trajectories keep 'same-grid'.")

    @property
    def cells(self) -> int:
        return self.resolution**self.spec.ndim

    @property
    def item_bytes(self) -> int:
        return 8 * self.cells * (3 + self.spec.frames) + 512

    @property
    def solve_bytes(self) -> int:
        finer = FINER**self.spec.ndim if self.labels == "restricted-fine" else 1
        return 8 * self.cells * (20 * finer + self.spec.frames)

    @property
    def per_shard(self) -> int:
        return max(1, min(64, _SHARD_BYTES // self.item_bytes))

    @property
    def n_shards(self) -> int:
        return -(-self.count // self.per_shard)

    def items(self, shard: int) -> range:
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.count))

    def label(self, shard: int) -> dict:
        """What a shard says of itself: enough to know which items it holds, whatever becomes of the manifest."""
        settings = {key: value for key, value in self.settings.items() if key != "count"}
        return {"kind": "shard", "shard": shard, "settings": settings}

    @property
    def settings(self) -> dict:
        settings = {
            "spec": self.spec.as_dict(),
            "seed": self.seed,
            "count": self.count,
            "resolution": self.resolution,
            "labels": self.labels,
            "code": self.code,
        }
        return json.loads(json.dumps(settings))

    @classmethod
    def of(cls, settings: dict) -> "_Recipe":
        return cls(**{**settings, "spec": Spec.of(settings["spec"])})

    def manifest(self, shards: Sequence[dict] = ()) -> dict:
        complete = len(shards) == self.n_shards
        content = {"format": FORMAT, "kind": "dataset", "settings": self.settings}
        return _sealed({**content, "complete": complete, "shards": list(shards)})


def _finished(folder: Path, recipe: _Recipe) -> bool:
    """The folder holds exactly this dataset, complete; its shards are checked."""
    if not (folder / MANIFEST).exists():
        return False
    manifest = _read_manifest(folder)
    if not manifest["complete"] or manifest["settings"] != recipe.settings:
        return False
    _check_shards(folder, manifest["shards"])
    return True


def _check_shards(folder: Path, records: list[dict]) -> None:
    _check_journal(folder, records)
    for record in records:
        path = _shard_path(folder, record["shard"])
        if store.digest(path) != record["sha256"]:
            raise StoreError(
                f"{path} is damaged: its SHA-256 differs from the journal's. Remove the dataset and generate it again."
            )


def _prepare(folder: Path, recipe: _Recipe) -> int:
    """Sweep what a crash left, refuse another dataset's folder, and count the shards that are done."""
    (folder / SHARDS).mkdir(exist_ok=True)
    for place in (folder, folder / SHARDS):
        store.sweep(place)
    if (folder / MANIFEST).exists():
        found, wanted = _read_manifest(folder)["settings"], recipe.settings
        fewer = found["count"] < recipe.count
        if differences := _differences({**found, "count": wanted["count"]} if fewer else found, wanted):
            raise ProblemError(
                f"{folder} holds a dataset of other settings: {'; '.join(differences)}. Give the same settings to "
                "resume it, or another folder."
            )
        if fewer:  # not complete any more; what there is stays valid
            store.write_json(folder / MANIFEST, recipe.manifest())
    elif strange := [p.name for p in folder.iterdir() if p.name not in (SHARDS, ".lock")]:
        raise ProblemError(
            f"{folder} holds other files ({', '.join(sorted(strange)[:5])}); give an empty or a new folder."
        )
    else:
        store.write_json(folder / MANIFEST, recipe.manifest())
    records = store.Journal(folder / JOURNAL).records()
    _check_shards(folder, records)
    if records and records[-1]["items"] != len(recipe.items(len(records) - 1)):
        records.pop()  # the last shard of a smaller dataset: it is computed again, with its other items
        store.write_text(folder / JOURNAL, _journal_text(records))
    return len(records)


def _journal_text(records: list[dict]) -> str:
    """The journal that holds these records, as appending them one by one writes it."""
    return "".join(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in records)


def _salvaged(folder: Path, settings: dict | None) -> tuple[_Recipe, list[dict]]:
    """The recipe and the shards of a folder, every item checked against the spec and the physics.

    `settings` are those of a manifest that is intact; None takes them from the shards, and as many items as there are.
    """
    known = {}
    if (folder / JOURNAL).exists():
        with suppress(StoreError):  # a damaged journal is no reason to doubt shards that are sealed by themselves
            known = {record.get("shard"): record.get("sha256") for record in store.Journal(folder / JOURNAL).records()}
    paths = sorted((folder / SHARDS).glob("*.h5"))
    if settings is not None and known:
        paths = paths[: len(known)]  # what is not in the journal yet, `generate` computes again
    if not paths:
        raise StoreError(f"{folder / SHARDS} holds no shards: there is nothing to repair from.")
    total, found = 0, None
    for k, path in enumerate(paths):
        if path != _shard_path(folder, k):
            raise StoreError(f"{_shard_path(folder, k)} is missing, and {path.name} is there: restore it first.")
        arrays, label = store.read_hdf5(path)
        here = label.get("settings")
        if label.get("shard") != k or not isinstance(here, dict) or (found is not None and here != found):
            raise StoreError(f"{path} does not say that it is shard {k} of this dataset; nothing was changed.")
        found, total = here, total + len(arrays["u"])
    if missing := sorted(k for k in known if isinstance(k, int) and k >= len(paths)):
        raise StoreError(f"{_shard_path(folder, missing[0])} is missing: the journal names it. Restore it first.")
    assert found is not None
    try:
        recipe = _Recipe.of({**found, "count": total} if settings is None else settings)
    except (ProblemError, TypeError, KeyError) as error:
        raise StoreError(f"{paths[0]} holds settings that no dataset has: {error}.") from error
    if {**recipe.settings, "count": 0} != {**found, "count": 0}:
        raise StoreError(f"{folder / MANIFEST} and the shards are of different datasets; nothing was changed.")
    records = []
    for k, path in enumerate(paths):
        digest = store.digest(path)
        if known.get(k, digest) != digest:
            raise StoreError(f"{path} is not the file that the journal names: its SHA-256 differs. Restore it first.")
        arrays, _ = store.read_hdf5(path)
        _check_items(recipe, k, arrays, path)
        records.append({"shard": k, "items": len(arrays["u"]), "sha256": digest})
    return recipe, records


def _check_items(recipe: _Recipe, shard: int, arrays: dict[str, np.ndarray], path: Path) -> None:
    """A shard holds the problems that its spec draws, and their equilibria."""
    items = recipe.items(shard)
    problems = recipe.spec.problems(recipe.seed, items, recipe.resolution)
    drawn = _columns(problems) if problems else {}
    if len(items) != len(arrays["u"]) or any(not np.array_equal(arrays.get(k, ()), drawn[k]) for k in drawn):
        raise StoreError(f"{path} does not hold the items {items.start} to {items.stop - 1} that its spec draws.")
    limit = ALLOWED if recipe.labels == "same-grid" else None
    for i, problem, u in zip(items, problems, arrays["u"], strict=True):
        if found := label_faults(problem, u, limit):
            raise StoreError(f"{path}: item {i}: {'; '.join(found)}.")


def _differences(found: dict, wanted: dict, prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key} is {a!r} there and {b!r} here")
    return lines


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or SIGTERM; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}

    def request(number, frame):
        stop.set()
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        for key, handler in before.items():
            signal.signal(key, handler)


def _fill_shard(recipe: _Recipe, folder: Path, task: tuple[int, Path]) -> str:
    """Write the content of a shard to the temporary file that was staged for it; its SHA-256."""
    shard, temporary = task
    return store.fill_hdf5(temporary, _shard_path(folder, shard), compute_shard(recipe, shard), recipe.label(shard))


def compute_shard(recipe: _Recipe, shard: int) -> dict[str, np.ndarray]:
    """The arrays of one shard, a function of its arguments alone."""
    spec, seed, n, items = recipe.spec, recipe.seed, recipe.resolution, recipe.items(shard)
    problems = spec.problems(seed, items, n)
    finer = FINER if recipe.labels == "restricted-fine" else 1
    solved = problems if finer == 1 else spec.problems(seed, items, n * finer)
    solutions = diffsim.equilibrium(solved, tol=TOLERANCE)
    labels = np.stack([_coarsened(s.u, finer) for s in solutions])
    for i, problem, label, solution in zip(items, problems, labels, solutions, strict=True):
        limit, operator = (ALLOWED, solution.operator) if finer == 1 else (None, None)
        if faults := label_faults(problem, label, limit, operator):
            raise DiffsimError(
                f"item {i} of seed {seed} fails its own check: {'; '.join(faults)}. Nothing of this shard was stored."
            )
    arrays = {"u": labels, **_columns(problems)}
    if spec.transient:
        runs = [_trajectory(spec, seed, i, problem) for i, problem in zip(items, problems, strict=True)]
        arrays["times"] = np.stack([t for t, _ in runs])
        arrays["frames"] = np.stack([u for _, u in runs])
    return arrays


def _trajectory(spec: Spec, seed: int, i: int, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    times = spec.times(problem)
    run = diffsim.simulate(problem, spec.initial(seed, i, problem), until=float(times[-1]), save=times)
    if not run.ok:
        raise DiffsimError(f"the trajectory of item {i} ended {run.status}: {run.message}")
    return times, run.u


def _coarsened(u: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of `factor` cells per axis."""
    if factor == 1:
        return u
    split = [k for n in u.shape for k in (n // factor, factor)]
    return u.reshape(split).mean(axis=tuple(range(1, 2 * u.ndim, 2)))


def _columns(problems: Sequence[Problem]) -> dict[str, np.ndarray]:
    """What defines the problems, as arrays: coefficients, sources, and per side its kind and two numbers."""
    shape = problems[0].grid.shape
    full = lambda value: np.broadcast_to(np.asarray(value, dtype=float), shape)  # noqa: E731
    sides = [[_side_numbers(p.boundary[name]) for name in p.grid.sides] for p in problems]
    sources = [p.source.steady for p in problems]
    number = all(np.ndim(f) == 0 for f in sources)
    return {
        "diffusivity": stacked([p.diffusivity if np.ndim(p.diffusivity) else full(p.diffusivity) for p in problems]),
        "source": np.array(sources, dtype=float) if number else np.stack([full(f) for f in sources]),
        "sides": np.array(sides, dtype=float),
    }


def _side_numbers(side) -> tuple[float, float, float]:
    if isinstance(side, Dirichlet):
        return 0.0, float(side.value), 0.0
    if isinstance(side, Neumann):
        return 1.0, float(side.flux), 0.0
    return 2.0, float(side.h), float(side.ambient)


def _side(numbers: np.ndarray):
    kind, first, second = numbers
    return (Dirichlet(float(first)), Neumann(float(first)), Robin(float(first), float(second)))[int(kind)]


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Item:
    """One pair: the problem and its label; for transients also the early frames of its trajectory."""

    problem: Problem
    u: np.ndarray
    times: Any = None  # (k,) and
    frames: Any = None  # (k, *shape), or None


class Dataset:
    """Problems and their equilibria: a folder that `generate` wrote, or pairs from anywhere (`from_arrays`).

    A folder that is still being written shows the items finished when it was opened. Shards are read on first use.
    """

    def __init__(self, path: "str | Path"):
        folder = Path(path)
        manifest = _read_manifest(folder)
        records = manifest["shards"] if manifest["complete"] else store.Journal(folder / JOURNAL).records()
        _check_journal(folder, records)
        settings = manifest["settings"]
        self.path: Path | None = folder
        self.settings: dict[str, Any] = settings
        self.complete: bool = manifest["complete"]
        self.spec: Any = Spec.of(settings["spec"])  # None where the pairs were given
        self._shards = [(_shard_path(folder, r["shard"]), r["sha256"], int(r["items"])) for r in records]
        self._starts = np.cumsum([0, *(n for _, _, n in self._shards)])
        self._cache: dict[int, dict[str, np.ndarray]] = {}
        self._given: list[Problem] | None = None
        self._u: Any = None
        self.ids = [f"{_spec_digest(settings)}-{settings['seed']}-{i}" for i in range(int(self._starts[-1]))]

    @staticmethod
    def repair(path: "str | Path") -> "Dataset":
        """Make a lost or damaged manifest (and journal) again from the shards, after checking every item.

        Items are compared with what the spec draws, labels with the physics. Without a manifest, the dataset is as long
        as its shards; `generate` with the count it was to have adds the rest. Where nothing is wrong, nothing changes.

        Raises
        ------
        StoreError
            Where a shard is damaged or missing, or is not of this dataset: then nothing is changed.
        BusyError
            Where another process writes to the folder.
        """
        folder = Path(path)
        if not (folder / SHARDS).is_dir():
            raise StoreError(f"{folder} holds no folder {SHARDS}: it is not a dataset.")
        with store.locked(folder):
            settings = None
            with suppress(StoreError):
                settings = _read_manifest(folder)["settings"]
            recipe, records = _salvaged(folder, settings)
            for place in (folder, folder / SHARDS):
                store.sweep(place)
            store.write_text(folder / JOURNAL, _journal_text(records))
            store.write_json(folder / MANIFEST, recipe.manifest(records))
        return Dataset(folder)

    @classmethod
    def from_arrays(cls, problems: Sequence[Problem], u: np.ndarray) -> "Dataset":
        """Other people's pairs: a list of problems and their equilibria, (n, *shape). Not written to disk.

        Equal pairs get equal ids, so they fall into the same split.

        Raises
        ------
        ProblemError
            If the counts or shapes do not agree, or a value in an active cell is not finite.
        """
        problems, u = list(problems), np.asarray(u, dtype=float)
        if not problems:
            raise ProblemError("from_arrays got 0 problems; give at least one pair.")
        for i, problem in enumerate(problems):
            if not isinstance(problem, Problem):
                raise ProblemError(f"problems[{i}] is a {type(problem).__name__}; give diffsim.Problem objects.")
            if problem.grid.shape != problems[0].grid.shape:
                raise ProblemError(
                    f"problems[{i}] has a grid of {problem.grid.shape}, problems[0] one of {problems[0].grid.shape}; "
                    "a dataset holds one shape. Make one dataset per shape."
                )
        if u.shape != (len(problems), *problems[0].grid.shape):
            raise ProblemError(f"u has shape {u.shape}, but {(len(problems), *problems[0].grid.shape)} is needed.")
        for i, problem in enumerate(problems):
            inside = u[i] if problem.active is None else u[i][problem.active]
            if not np.isfinite(inside).all():
                raise ProblemError(f"u[{i}] holds values that are not finite; leave such pairs out.")
        self = cls.__new__(cls)
        self.path, self.complete, self.spec = None, True, None
        self.settings = {"labels": "given", "count": len(problems)}
        self._given, self._u = problems, u
        self._shards, self._cache = [], {}
        self._starts = np.array([0, len(problems)])
        self.ids = [content_id(p, x) for p, x in zip(problems, u, strict=True)]
        return self

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def origins(self) -> list[str]:
        """What each item was drawn from, shortened: equal for the same problem at another resolution or with other labels.

        A training keeps those of its items, so that an evaluation knows what the model has seen.
        """
        if self._given is not None:
            return [mark(name) for name in self.ids]
        drawing = {key: value for key, value in self.spec.as_dict().items() if key not in _NOT_DRAWN}
        digest = hashlib.sha256(json.dumps(drawing, sort_keys=True).encode()).hexdigest()
        return [mark(f"{digest}-{self.settings['seed']}-{i}") for i in range(len(self))]

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells of the grid."""
        if self._given is not None:
            return self._given[0].grid.shape
        return (int(self.settings["resolution"]),) * self.spec.ndim

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the items are: equal for equal data, wherever they lie."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    @property
    def task(self) -> str:
        """ "coefficients" or "transient"."""
        return "transient" if self.spec is not None and self.spec.transient else "coefficients"

    @property
    def labels(self) -> str:
        """ "same-grid", "restricted-fine", or "given"."""
        return self.settings["labels"]

    def __getitem__(self, i: int) -> Item:
        n = len(self)
        if isinstance(i, bool) or not isinstance(i, int | np.integer):
            raise ProblemError(f"a dataset is indexed by ints, not {i!r}.")
        if not -n <= i < n:
            raise IndexError(f"item {i} of a dataset of {n}")
        i = int(i) % n
        if self._given is not None:
            return Item(self._given[i], self._u[i])
        arrays, j = self._locate(i)
        problem = self._problem(arrays, j)
        if "frames" not in arrays:
            return Item(problem, arrays["u"][j])
        return Item(problem, arrays["u"][j], arrays["times"][j], self._observed(i, arrays["frames"][j]))

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    @property
    def problems(self) -> list[Problem]:
        """All problems, in order."""
        return [self[i].problem for i in range(len(self))]

    @cached_property
    def split(self) -> dict[str, np.ndarray]:
        """Item numbers of "train", "validation" and "test" (80 : 10 : 10), decided by a hash of each item's id.

        An item keeps its part whatever else is in the dataset, except that a part that would be empty takes the item
        that came closest, where there are at least three different items.
        """
        position = {name: int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13 for name in set(self.ids)}
        ranked = sorted(position, key=position.__getitem__)
        parts = {name: "test" if x < 0.1 else "validation" if x < 0.2 else "train" for name, x in position.items()}
        if len(ranked) >= 3:
            parts[ranked[0]] = "test"
            if "validation" not in parts.values():
                parts[next(name for name in ranked if parts[name] == "train")] = "validation"
            if "train" not in parts.values():
                parts[ranked[-1]] = "train"
            if "validation" not in parts.values():
                parts[ranked[1]] = "validation"
        return {
            part: np.array([i for i, name in enumerate(self.ids) if parts[name] == part], dtype=int) for part in SPLITS
        }

    def subset(self, part: "str | Sequence[int]") -> "Dataset":
        """The items of a split, or of a list of numbers, as a dataset of given pairs (equilibria only)."""
        items = [self[int(i)] for i in self.indices(part)]
        return Dataset.from_arrays([item.problem for item in items], np.stack([item.u for item in items]))

    def indices(self, part: "str | Sequence[int] | np.ndarray | None") -> np.ndarray:
        """Item numbers of a split, of a list of numbers, or (None) of everything."""
        if part is None:
            return np.arange(len(self))
        if isinstance(part, str):
            if part not in SPLITS:
                raise ProblemError(f"split {part!r} is unknown; choose one of {', '.join(SPLITS)}.")
            return self.split[part]
        return np.asarray(part, dtype=int)

    def arrays(self, part: "str | Sequence[int] | np.ndarray | None" = None) -> dict[str, np.ndarray]:
        """Stacked arrays of a split: u, diffusivity, source (n, *shape); for transients also times (n, k) and
        frames (n, k, *shape) as observed: with noise, and filled in between sensors."""
        items = [self[int(i)] for i in self.indices(part)]
        shape = self.shape
        full = lambda value: np.broadcast_to(np.asarray(value, dtype=float), shape)  # noqa: E731
        stack = lambda rows: np.stack(rows) if rows else np.empty((0, *shape))  # noqa: E731
        result = {"u": stack([item.u for item in items])}
        if all(isinstance(item.problem.diffusivity, float | np.ndarray) for item in items):
            result["diffusivity"] = stack([full(item.problem.diffusivity) for item in items])
        if all(item.problem.source.constant for item in items):
            result["source"] = stack([full(item.problem.source.steady) for item in items])
        if items and items[0].frames is not None:
            result["times"] = np.stack([item.times for item in items])
            result["frames"] = np.stack([item.frames for item in items])
        return result

    # --- checking ---------------------------------------------------------------------------------------------------

    def verify(self, sample: "int | None" = None, seed: int = 0) -> "VerifyReport":
        """Check digests, and labels against the physics: residual, extrema, finiteness, repeats.

        Parameters
        ----------
        sample
            Number of items drawn (with `seed`) for the physics; None checks all.

        Returns
        -------
        VerifyReport
            What was checked and the worst residual.

        Raises
        ------
        StoreError
            Where a file is damaged or missing, or a label is not what it claims to be; every fault is listed.
        """
        for path, digest, _ in self._shards:
            if store.digest(path) != digest:
                raise StoreError(
                    f"{path} is damaged: its SHA-256 differs from the recorded one. Restore it, or generate it again."
                )
        chosen = np.arange(len(self))
        if sample is not None and sample < len(self):
            chosen = np.sort(
                np.random.default_rng(seed).choice(len(self), _integer("sample", sample, 1), replace=False)
            )
        faults, worst = [], 0.0
        exact = self.labels != "restricted-fine"
        for i in chosen:
            item = self[int(i)]
            limit = ALLOWED if self.labels == "same-grid" else 1e-3 if exact else None
            faults += [f"item {i}: {fault}" for fault in label_faults(item.problem, item.u, limit)]
            if item.frames is not None:
                faults += [f"item {i}: {fault}" for fault in self._frame_faults(int(i))]
            if exact:
                worst = max(worst, relative_residual(item.problem, item.u))
        counts: dict[str, list[int]] = {}
        for i in chosen:
            counts.setdefault(content_id(self[int(i)].problem, self[int(i)].u), []).append(int(i))
        repeats = [group for group in counts.values() if len(group) > 1]
        if faults:
            more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise StoreError(f"{self.path or 'these pairs'}: {'; '.join(faults[:10])}{more}.")
        return VerifyReport(len(self), len(chosen), len(self._shards), worst if exact else None, repeats)

    def _frame_faults(self, i: int) -> list[str]:
        """One step of the trajectory recomputed, and the distance to the equilibrium that must not grow."""
        arrays, j = self._locate(i)
        times, frames, label = arrays["times"][j], arrays["frames"][j], arrays["u"][j]
        if not np.isfinite(frames).all():
            return ["a frame is not finite"]
        faults = []
        distance = np.sqrt(((frames - label) ** 2).sum(axis=tuple(range(1, frames.ndim))))
        if (np.diff(distance) > 1e-6 * distance[0]).any():
            faults.append("its frames move away from the equilibrium")
        if (np.abs(np.diff(frames, axis=0)).reshape(len(frames) - 1, -1).max(axis=1) == 0).any():
            faults.append("two successive frames are equal")
        k = i % (len(times) - 1)
        run = diffsim.simulate(
            self._problem(arrays, j), frames[k], until=float(times[k + 1] - times[k]), save="final", tol=1e-6
        )
        change = np.abs(frames[k + 1] - frames[k]).max()
        if np.abs(run.final - frames[k + 1]).max() > 1e-2 * change:
            faults.append(f"frame {k + 1} does not follow from frame {k}")
        return faults

    # --- other people's formats -------------------------------------------------------------------------------------

    def to_xarray(self, part: "str | Sequence[int] | None" = None):
        """An xarray Dataset with named dimensions and coordinates; `to_netcdf` of it writes NetCDF."""
        return exports.to_xarray(self, part)

    def to_pdebench(self, path: "str | Path", part: "str | Sequence[int] | None" = None) -> None:
        """Write the HDF5 layout of PDEBench's 2-D Darcy flow."""
        exports.to_pdebench(self, path, part)

    def to_well(self, path: "str | Path", part: "str | Sequence[int] | None" = None) -> None:
        """Write the HDF5 layout of The Well."""
        exports.to_well(self, path, part)

    # --- internals --------------------------------------------------------------------------------------------------

    def _locate(self, i: int) -> tuple[dict[str, np.ndarray], int]:
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        if shard not in self._cache:
            path, digest, items = self._shards[shard]
            if store.digest(path) != digest:
                raise StoreError(
                    f"{path} is damaged: its SHA-256 differs from the recorded one. Restore it, or generate it again."
                )
            arrays, _ = store.read_hdf5(path)
            if len(arrays.get("u", ())) != items:
                raise StoreError(f"{path} holds {len(arrays.get('u', ()))} items, but {items} are recorded.")
            if len(self._cache) >= _SHARDS_HELD:
                self._cache.pop(next(iter(self._cache)))
            self._cache[shard] = arrays
        return self._cache[shard], i - int(self._starts[shard])

    def _problem(self, arrays: dict[str, np.ndarray], j: int) -> Problem:
        grid = Grid(shape=self.shape, lengths=(1.0,) * len(self.shape))
        source = arrays["source"][j]
        return Problem(
            grid,
            diffusivity=arrays["diffusivity"][j],
            source=float(source) if np.ndim(source) == 0 else source,
            boundary={name: _side(numbers) for name, numbers in zip(grid.sides, arrays["sides"][j], strict=True)},
        )

    def _observed(self, i: int, frames: np.ndarray) -> np.ndarray:
        if not (self.spec.sensors or self.spec.noise):
            return frames
        observed = self.spec.observe(int(self.settings["seed"]), i, frames)[1]
        return filled(observed, self.spec.grid(int(self.settings["resolution"])))

    def __repr__(self) -> str:
        what = self.spec.name if self.spec else "given pairs"
        return f"Dataset({what}: {len(self)} items of {'x'.join(map(str, self.shape))}, {self.labels}, {self.task})"


@dataclass(frozen=True)
class VerifyReport:
    """What `Dataset.verify` looked at; it raises where something is wrong."""

    items: int
    checked: int
    shards: int
    worst_residual: float | None  # ||F - K u|| / ||F||; None for labels from a finer grid
    repeats: list = field(default_factory=list)  # groups of equal pairs: few cells, or leakage between splits

    def __str__(self) -> str:
        residual = (
            "not measured (labels from a finer grid)" if self.worst_residual is None else f"{self.worst_residual:.1e}"
        )
        repeats = f", {len(self.repeats)} groups of equal pairs" if self.repeats else ""
        return (
            f"{self.checked} of {self.items} items and {self.shards} shards checked: worst residual {residual}{repeats}"
        )


# --- small things ---------------------------------------------------------------------------------------------------


def _integer(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ProblemError(f"{name} = {value!r} must be an int >= {least}.")
    return int(value)


def _shard_path(folder: Path, k: int) -> Path:
    return folder / SHARDS / f"{k:05d}.h5"


def _read_manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder; give the folder of a dataset.")
    if not path.exists():
        raise StoreError(f"{folder} holds no {MANIFEST}: it is not a dataset, or the manifest was deleted.")
    manifest = store.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("kind") != "dataset":
        raise StoreError(f"{path} is not the manifest of a dataset.")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise StoreError(
            f"{path} has format {manifest.get('format')!r}, newer than the {FORMAT} this version reads. Upgrade."
        )
    if manifest.get("sha256") != _sealed(manifest)["sha256"]:
        raise StoreError(f"{path} is damaged or was edited: its content does not match the SHA-256 written with it.")
    try:
        settings = manifest["settings"]
        Spec.of(settings["spec"])
        (
            _integer("count", settings["count"], 1),
            _integer("resolution", settings["resolution"], 2),
            _integer("seed", settings["seed"], 0),
        )
        if (
            settings["labels"] not in LABELS
            or not isinstance(manifest["complete"], bool)
            or not isinstance(manifest["shards"], list)
        ):
            raise ProblemError("an entry has an impossible value")
    except (KeyError, TypeError, AttributeError, ProblemError) as error:
        raise StoreError(f"{path} is damaged or was edited: {error!s}.") from error
    return manifest


def _sealed(manifest: dict) -> dict:
    """`manifest` with the SHA-256 of its canonical text, so that a flipped bit or an edit is noticed."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _check_journal(folder: Path, records: list) -> None:
    for k, record in enumerate(records):
        keys = {"shard": int, "items": int, "sha256": str}
        if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in keys.items()):
            raise StoreError(f"{folder / JOURNAL}: entry {k + 1} is not the record of a shard.")
        if record["shard"] != k:
            raise StoreError(f"{folder / JOURNAL}: shard {record['shard']} is named where {k} is due.")


def _spec_digest(settings: dict) -> str:
    identity = {key: settings[key] for key in ("spec", "resolution", "labels")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def mark(name: str) -> str:
    """Twelve hexadecimal digits that stand for a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def content_id(problem: Problem, u: np.ndarray) -> str:
    """What a pair is, whatever it was drawn from."""
    total = hashlib.sha256(np.ascontiguousarray(u, dtype=float).tobytes())
    for value in (problem.diffusivity, problem.source.steady):
        if isinstance(value, float | np.ndarray):
            total.update(np.ascontiguousarray(value, dtype=float).tobytes())
    return total.hexdigest()[:24]
