"""Small trainings that the experiments share: problems of 16 x 16 cells, one network, everything else switched off.

A claim is about one thing, so `PLAIN` has none of the others: no clipping, decay, averaging, symmetry or slope term,
unless the experiment is about it. One training takes about a second of one core.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import diffsim as ds
from diffsim.errors import ConvergenceError, ProblemError

from .. import training
from ..checkpoint import Surrogate
from ..dataset import Dataset
from ..monitors import LayerReport
from ..sampling import Spec
from .claim import Case, Records

RESOLUTION = 16
VALIDATION, TEST = 32, 64  # items; the same ones for every size of the training split
_FIRST = {"train": 0, "validation": 100_000, "test": 200_000}  # item numbers of a seed
PLAIN: dict[str, Any] = {
    "model": "resnet", "width": 12, "blocks": 4, "dilations": 3,
    "epochs": 20, "batch": 8, "optimizer": "adam", "lr": None, "schedule": "cosine", "warmup": 0.1,
    "weight_decay": 0.0, "slopes": 0.0, "clip": 0.0, "augment": False, "average": 0.0,
    "precision": "float32", "threads": 1, "clock": "cpu",
}  # fmt: skip
_OF_DATA = ("spec", "items", "data_seed")
_LABELS = ("part", "variant")  # names an experiment gives to its cases; they say nothing to a training


# --- data -----------------------------------------------------------------------------------------------------------


def pairs(spec: str | Spec, count: int, part: str = "train", seed: int = 0, resolution: int = RESOLUTION):
    """The first `count` problems of one part of a seed, and their equilibria (count, *shape)."""
    drawn = Spec.of(spec)
    problems = [drawn.problem(seed, _FIRST[part] + i, resolution) for i in range(count)]
    return problems, np.stack([settled.u for settled in ds.equilibrium(problems)])


def joined(train, validation, test) -> Dataset:
    """A dataset whose split is given: three pairs (problems, u), as `pairs` has them."""
    data = Dataset.from_arrays([p for part in (train, validation, test) for p in part[0]],
                               np.concatenate([part[1] for part in (train, validation, test)]))  # fmt: skip
    ends = np.cumsum([0, *(len(part[0]) for part in (train, validation, test))])
    numbers = [np.arange(a, b) for a, b in pairwise(ends)]
    data.split = dict(zip(("train", "validation", "test"), numbers, strict=True))
    return data


@lru_cache(maxsize=16)
def dataset(spec: str | Spec = "darcy", items: int = 64, data_seed: int = 0, resolution: int = RESOLUTION) -> Dataset:
    """`items` problems to train on, solved, and `VALIDATION` and `TEST` others; kept for the next call."""
    sizes = {"train": items, "validation": VALIDATION, "test": TEST}
    return joined(*(pairs(spec, count, part, data_seed, resolution) for part, count in sizes.items()))


# --- trainings ------------------------------------------------------------------------------------------------------


def trained(case: Case, data: Dataset | None = None, **fixed) -> tuple[Surrogate | None, dict[str, Any]]:
    """Train as the case says; the model (None where the training failed) and what `trial` returns.

    Parameters
    ----------
    case
        ``seed``; ``spec``, ``items`` and ``data_seed`` of `dataset`; ``epochs``, ``model`` and options of
        `surrogate.train`, which replace those of `PLAIN`. ``part`` and ``variant`` are ignored.
    data
        Instead of `dataset`.
    fixed
        More options, the same for all cases; the case has the last word.
    """
    data, options = _call(case, data, fixed)
    history: list[dict] = []
    start = time.process_time()
    try:
        model = training.train(data, progress=history.append, **options)
    except ConvergenceError:
        model = None
    seconds = time.process_time() - start
    failed = model is None or not history or not math.isfinite(history[-1]["validation_l2"])
    curve = [line["validation_l2"] for line in history]
    outcome: dict[str, Any] = {
        "failed": int(failed), "steps": history[-1]["step"] if history else 0, "seconds": seconds, "curve": curve,
        "validation": math.nan if failed else min(curve), "train": math.nan, "test": math.nan,
    }  # fmt: skip
    if model is None or failed:
        return None, outcome
    return model, outcome | {"train": error(model, data, "train"), "test": error(model, data, "test")}


def watched(case: Case, data: Dataset | None = None, **fixed) -> list[list[LayerReport]]:
    """The training of `trained`, seen from inside: after every step a report per parameter, in the network's order.

    Raises
    ------
    ConvergenceError
        If the training fails.
    """
    data, options = _call(case, data, fixed)
    old: list[torch.Tensor] = []
    numbers: list[list[tuple[float, float, float]]] = []
    rms = lambda x: float(x.square().mean().sqrt())  # noqa: E731

    def before(optimizer, _args, _options):
        old[:] = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]

    def after(optimizer, _args, _options):
        now = [p for group in optimizer.param_groups for p in group["params"]]
        numbers.append([(rms(o), rms(p.grad), rms(p.detach() - o)) for p, o in zip(now, old, strict=True)])

    with _hooked(before, after):
        model = training.train(data, progress=False, **options)
    names = [name for name, _ in model.network.named_parameters()]
    return [
        [
            LayerReport(name, weight, gradient, update / weight if weight > 0 else math.inf)
            for name, (weight, gradient, update) in zip(names, step, strict=True)
        ]
        for step in numbers
    ]


def step_seconds(case: Case, data: Dataset | None = None, **fixed) -> list[float]:
    """Processor seconds of every step of a training but the first of each epoch: from update to update, nothing else."""
    data, options = _call(case, data, fixed)
    seconds: list[float] = []
    last = math.nan

    def after(_optimizer, _args, _options):
        nonlocal last
        now = time.process_time()
        seconds.append(now - last)
        last = now

    def at_the_end_of_an_epoch(_line):
        nonlocal last
        last = math.nan  # validation is no part of the next step

    with _hooked(lambda *_: None, after):
        training.train(data, progress=at_the_end_of_an_epoch, **options)
    return [s for s in seconds if s == s]


@contextmanager
def _hooked(before: Callable, after: Callable) -> Iterator[None]:
    """Around every update of every optimizer."""
    handles = (register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trial(case: Case, data: Dataset | None = None, **fixed) -> dict[str, Any]:
    """One training in numbers.

    Returns
    -------
    dict
        test, train, validation
            Mean relative L2 error on each split, of the weights that were best on the validation split; NaN where the
            training failed.
        curve
            Validation error after each epoch.
        steps, seconds
            Updates made, and processor seconds of the whole call.
        failed
            1 where the loss was no longer finite, else 0.
    """
    return trained(case, data, **fixed)[1]


def error(model: Surrogate, data: Dataset, part: str) -> float:
    """Mean relative L2 error of a model on a split, in physical units."""
    items = [data[int(i)] for i in data.indices(part)]
    if model.task == "transient":
        fields = model.from_frames(np.stack([item.times for item in items]), np.stack([item.frames for item in items]))
    else:
        fields = model.fields([item.problem for item in items])
    return float(np.mean([relative(u, item.u) for u, item in zip(fields, items, strict=True)]))


def relative(u: np.ndarray, truth: np.ndarray) -> float:
    """L2 error over the L2 norm of the truth; cells where a field is NaN (voids) are left out."""
    return math.sqrt(np.nansum((u - truth) ** 2) / np.nansum(truth**2))


def steps_to(curve: Sequence[float | None], steps: int, level: float) -> float:
    """Updates until the error of a curve (one value per epoch, `steps` in all) first falls to `level`; inf if never.

    Between two epochs the logarithm of the error is taken as linear; before the first one nothing is known.
    """
    values = np.array([math.inf if v is None else v for v in curve], dtype=float)
    each = steps / max(len(values), 1)
    below = np.flatnonzero(values <= level)
    if len(below) == 0:
        return math.inf
    k = int(below[0])
    if k == 0 or not math.isfinite(values[k - 1]) or level <= 0:
        return each * (k + 1)
    fraction = math.log(values[k - 1] / level) / math.log(values[k - 1] / values[k]) if values[k] > 0 else 1.0
    return each * (k + fraction)


def tuned(records: Records, over: str = "lr", by: str = "validation") -> Records:
    """The rows at the step size whose mean validation error over the seeds is least; a failed seed rules it out."""

    def score(value) -> float:
        mean = float(records.where(**{over: value})[by].mean())
        return mean if math.isfinite(mean) else math.inf

    return records.where(**{over: min(records.distinct(over), key=score)})


def _call(case: Case, data: Dataset | None, fixed: dict[str, Any]) -> tuple[Dataset, dict[str, Any]]:
    """Data and options of `train`. Options of the plain network leave with it, where another model has no such option."""
    asked = {k: v for k, v in {**fixed, **case}.items() if k not in _LABELS}
    chosen = {k: asked.pop(k) for k in _OF_DATA if k in asked}
    if data is not None and chosen:
        raise ProblemError(f"the case chooses data ({', '.join(chosen)}), but data were given as well; leave one out.")
    plain = PLAIN
    if (model := asked.get("model", PLAIN["model"])) != PLAIN["model"]:
        foreign = set(training.models.options_of(PLAIN["model"])) - set(training.models.options_of(model))
        plain = {k: v for k, v in PLAIN.items() if k not in foreign}
    return dataset(**chosen) if data is None else data, {**plain, **asked}
