"""Training: one loop, settings as data, a state that resumes bit for bit."""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffsim.errors import ConvergenceError, ProblemError, StoreError
from diffsim.threads import available_cores

from . import fields as encoding
from . import models, monitors
from .checkpoint import STATE, Card, Surrogate, load, read_state, write_model, write_state
from .dataset import content_id, mark
from .models.layers import laid_out
from .optimizers import Rule, clip_adaptive, clip_norm, equalise, optimizer_of

TASKS = ("coefficients", "transient")
CELLS_FOR_THREADS = 20_000  # per batch
_CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "precision": ("auto", "float32", "bfloat16"),
    "clock": ("wall", "cpu"),
}
_MAY_CHANGE = ("minutes ", "settings.threads ", "settings.clock ")  # from one session of a training to the next
_OF_PROBLEMS = ("hybrid", "exact_sides", "bounded")  # settings that need to know the problem
_NEWER = {"exact_sides": False, "bounded": False, "periodic": []}  # in cards, since the first version
_FRACTIONS = ("weight_decay", "warmup", "curriculum", "average")


@dataclass(frozen=True)
class Settings:
    """How to train; every field is an option of `train`.

    Attributes
    ----------
    batch
        Items per step.
    hybrid
        Also give the network the equilibrium on cells that many times wider, solved: it then corrects a coarse solve.
    exact_sides
        Values on sides hold exactly: the output is multiplied by a function that vanishes there.
    bounded
        Answers are cut to the range that the maximum principle allows (non-negative for non-negative data). Training
        does not see it.
    items
        Train on the first that many items of the training split; 0: on all.
    optimizer, lr, weight_decay
        A row of `optimizers.OPTIMIZERS`; lr None is the row's own. The row's other options are options of `train` too.
    schedule, warmup
        "cosine" (to 0), "linear" (to 0) or "constant", after a linear warm-up over that fraction of the training.
    slopes
        Weight of the relative error of the gradient (H1) beside that of the values (L2) in the loss.
    clip, clip_ratio
        Limit on the gradient's norm, and on each unit's gradient over its weight (adaptive clipping); 0: none.
    equalise
        Give all layers' gradients the same root mean square.
    l1
        Weight of the mean absolute weight in the loss.
    langevin
        Temperature T of noise sqrt(2 lr T) added to the weights after each step.
    noise
        Standard deviation of noise added to the inputs.
    augment
        Train on the symmetries of the box.
    curriculum
        Fraction of the training over which items enter, from the quarter of least contrast to all.
    average
        Decay per step of the running average of the weights, which is what validates and predicts; 0: the weights
        themselves.
    patience
        Stop after that many epochs without a better validation error; 0: never.
    precision
        "float32", "bfloat16" (convolutions of the training only; answers are computed in float32), or "auto": bfloat16
        where the processor multiplies it in hardware.
    threads
        Of torch, while training; 0: one per core this process may use, one where batches are small.
    clock
        What `minutes` measures: "wall", or "cpu" time per thread (for machines that others use too).
    sharpness
        Epochs between measurements of the largest (preconditioned) Hessian eigenvalue, and of the step it allows; 0: never.
    """

    batch: int = 10
    hybrid: int = 0
    exact_sides: bool = False
    bounded: bool = False
    items: int = 0
    optimizer: str = "muon"
    lr: float | None = None
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.1
    slopes: float = 1.0
    clip: float = 1.0
    clip_ratio: float = 0.0
    equalise: bool = False
    l1: float = 0.0
    langevin: float = 0.0
    noise: float = 0.0
    augment: bool = True
    curriculum: float = 0.0
    average: float = 0.999
    patience: int = 0
    precision: str = "auto"
    threads: int = 0
    clock: str = "wall"
    sharpness: int = 0

    def __post_init__(self):
        for option in fields(self):
            value, default = getattr(self, option.name), option.default
            if option.name in _CHOICES:
                if value not in _CHOICES[option.name]:
                    raise ProblemError(
                        f"train({option.name}={value!r}): give one of {', '.join(_CHOICES[option.name])}."
                    )
            elif isinstance(default, bool):
                if not isinstance(value, bool):
                    raise ProblemError(f"train({option.name}={value!r}): give True or False.")
            elif isinstance(default, int | float):
                kind, accepted = ("an int", int) if isinstance(default, int) else ("a number", int | float)
                low, high = int(option.name == "batch"), 1 if option.name in _FRACTIONS else math.inf
                if isinstance(value, bool) or not isinstance(value, accepted) or not low <= value <= high:
                    raise ProblemError(f"train({option.name}={value!r}): give {kind} from {low} to {high}.")
        if self.lr is not None and not (isinstance(self.lr, int | float) and math.isfinite(self.lr) and self.lr > 0):
            raise ProblemError(f"train(lr={self.lr!r}): give a number > 0, or None for the optimizer's own.")

    def factor(self, progress: float) -> float:
        """What the learning rate is multiplied by, at a progress from 0 to 1."""
        if progress < self.warmup:
            return progress / self.warmup
        rest = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        left = 1 - min(rest, 1.0)
        return {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "linear": left, "constant": 1.0}[self.schedule]


def train(
    data,
    model: str = "multigrid",
    task: str = "coefficients",
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
    out=None,
    progress: Callable[[dict], None] | bool | None = None,
    **options,
) -> Surrogate:
    """A surrogate of the equilibria in `data`, trained on its training split and chosen by its validation split.

    The test split is not touched. With `out`, the model and the whole state of the training are kept there after every
    epoch, and the same call goes on where it ended: with `epochs`, to bitwise the weights an uninterrupted run gives
    (same machine, torch and threads). `minutes`, threads and clock may be others then.
    Ctrl-C keeps the state and returns the best model so far.

    Parameters
    ----------
    data
        A `Dataset`.
    model
        A name in `models.MODELS`.
    task
        "coefficients" (the problem is known) or "transient" (its first frames are).
    minutes, epochs
        The budget: time, or passes over the training split (default 100). The schedule of the learning rate fits it.
        Given both, epochs shape the schedule and minutes only end it. Models with a closed form ("pod-ridge") need none.
    out
        Folder for checkpoints; None keeps nothing.
    progress
        Called with a record after every epoch; None draws a bar where stderr is a terminal, False is silent.
    options
        Fields of `Settings`, options of the optimizer's row, and options of the model.

    Raises
    ------
    ProblemError
        If the data are too few or of another task, or an option is unknown or out of range.
    ConvergenceError
        If the loss is not finite: raised before the update, naming the items of the batch. The last state is kept.
    StoreError
        If `out` holds a training with other settings, or is damaged.
    """
    settings, rule, own, network_options = _sorted_options(model, options)
    _check_budget(minutes, epochs, seed, task)
    training = _examples(data, task, "train", settings, settings.items)
    validation = _examples(data, task, "validation", settings)
    structure = {key: getattr(settings, key) for key in _OF_PROBLEMS}
    card = Card(
        model, network_options, task, *training.channels, training.shape, **structure, periodic=training.periodic
    )
    card.build()  # what does not fit is refused before anything is written
    folder = Path(out) if out is not None else None
    call = {
        "card": asdict(card) | {"shape": list(card.shape), "periodic": list(card.periodic)},
        "settings": asdict(settings), "optimizer": own, "epochs": epochs,
        "minutes": minutes if epochs is None else None, "seed": seed, "data": training.digest + validation.digest,
    }  # fmt: skip
    cells = settings.batch * math.prod(training.shape)
    with torch.random.fork_rng(devices=[]), _threads(settings.threads, cells) as threads, _display(progress) as show:
        run = _Run(card, settings, rule, own, seed, threads, len(training), epochs, minutes)
        run.seen = sorted({*training.marks, *validation.marks})
        if folder is not None and (folder / STATE).exists():
            run.resume(folder, call)
        try:
            for epoch in run.epochs_left():
                run.epoch(epoch, training)
                improved = run.validate(epoch, training, validation)
                if folder is not None:
                    run.save(folder, call, improved)
                show(run.history[-1])
        except KeyboardInterrupt:
            run.status = "interrupted"
        return run.result(folder, call)


class _Run:
    """The state of a training: everything the next step depends on, and nothing else."""

    def __init__(self, card, settings, rule, own, seed, threads, items, epochs, minutes):
        torch.manual_seed(seed)
        self.card, self.settings, self.seed, self.threads = card, settings, seed, threads
        self.rule, self.own = rule, own
        self.network = card.build().train()
        self.closed = hasattr(self.network, "fit")  # a closed form instead of steps
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        if self.closed:
            self.parameters, items, epochs, minutes = (
                [nn.Parameter(torch.zeros(()))],
                1,
                1,
                None,
            )  # no optimizer takes none
        self.optimizer = rule.build(self.parameters, settings.lr, settings.weight_decay, **own)
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.weights = {name: w.clone() for name, w in self.network.state_dict().items()}  # running average
        self.best = {name: w.clone() for name, w in self.weights.items()}
        self.steps_per_epoch = math.ceil(items / settings.batch)
        self.total = (100 if minutes is None else None) if epochs is None else epochs
        self.seconds = None if minutes is None else 60.0 * minutes
        self.history: list[dict] = []
        self.spent, self.status = (
            0.0,
            "running",
        )  # seconds of earlier sessions; later "finished", "stopped", "interrupted"
        self.seen: list[str] = []  # marks of the items of training and validation: see Dataset.origins
        self.done = 0  # steps
        self.offset, self.entered, self.sums = 0, 0.0, [0.0] * 4  # of the epoch begun: steps, progress before it, sums
        self.best_error, self.best_epoch, self.best_errors = math.inf, -1, []  # validation
        self.low = _low_precision(settings.precision)
        self._started = self._clock()

    # --- budget ---------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        return time.perf_counter() if self.settings.clock == "wall" else time.process_time() / self.threads

    @property
    def elapsed(self) -> float:
        """Seconds spent on this training, earlier sessions included."""
        return self.spent + self._clock() - self._started

    def progress(self) -> float:
        """From 0 to 1. Counted in steps where epochs are given, so that it does not depend on the machine's pace."""
        if self.total is not None:
            return min(1.0, self.done / (self.total * self.steps_per_epoch))
        return min(1.0, self.elapsed / self.seconds) if self.seconds else 0.0

    def epochs_left(self) -> Iterator[int]:
        """Numbers of the epochs still to do."""
        while not self._over():
            yield self.done // self.steps_per_epoch
        if self.status == "running":
            self.status = "finished"

    def _over(self) -> bool:
        if self.status != "running":
            return True
        if (
            self.settings.patience
            and self.history
            and self.history[-1]["epoch"] - self.best_epoch >= self.settings.patience
        ):
            self.status = "stopped"
            return True
        late = self.seconds is not None and self.elapsed >= self.seconds
        return late or (self.total is not None and self.done >= self.total * self.steps_per_epoch)

    # --- work -----------------------------------------------------------------------------------------------------

    def epoch(self, epoch: int, data: "_Examples") -> None:
        """The rest of one pass over the data. Order and noise depend on (seed, epoch) alone."""
        settings = self.settings
        if self.closed:
            self._fit(data)
            return
        if self.offset == 0:
            self.entered = self.progress()
            torch.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
            self.sums = [0.0] * 4
        order = _order(data, settings, self.seed, epoch, self.entered)
        for start in range(self.offset * settings.batch, len(order), settings.batch):
            items = order[start : start + settings.batch]
            symmetry = data.symmetries[_draw(len(data.symmetries), self.seed, self.done) if settings.augment else 0]
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * settings.factor(self.progress())
            self._step(data.batch(items, symmetry), items)
            if self.seconds is not None and self.elapsed >= self.seconds:
                return
        self.offset = 0

    def _fit(self, data: "_Examples") -> None:
        """All there is to do for a model with a closed form, instead of an epoch."""
        self.network.fit(data.coefficients, data.forcing, data.target)
        self.done = 1
        for name, w in self.network.state_dict().items():
            self.weights[name].copy_(w)

    def _step(self, batch: "_Batch", items: np.ndarray) -> None:
        settings = self.settings
        if settings.noise:
            batch.coefficients = batch.coefficients + settings.noise * torch.randn_like(batch.coefficients)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            output = self.network(batch.coefficients, batch.forcing)
        values, slopes = relative_errors(output.float(), batch.target, batch.active)
        loss = (values + settings.slopes * slopes).mean()
        if settings.l1:
            loss = loss + settings.l1 * torch.cat([p.flatten() for p in self.parameters]).abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.equalise:
            equalise(self.parameters)
        if settings.clip_ratio:
            clip_adaptive(self.parameters, settings.clip_ratio)
        norm = clip_norm(self.parameters, settings.clip or math.inf)
        size = float(loss.detach())
        if not (math.isfinite(size) and math.isfinite(norm)):
            raise ConvergenceError(
                f"step {self.done}: the loss is {size:g} and its gradient's norm {norm:g} on items {items.tolist()} "
                f"(positions in the training split) at lr {self.optimizer.param_groups[0]['lr']:.3g}; no update was made. "
                f"Lower lr (the table's own is {self.lr:.3g} here), set clip, or look at these items."
            )
        self.optimizer.step()
        with torch.no_grad():
            if settings.langevin:
                spread = math.sqrt(2 * self.optimizer.param_groups[0]["lr"] * settings.langevin)
                for p in self.parameters:
                    p.add_(torch.randn_like(p), alpha=spread)
            self.done += 1
            self.offset += 1
            self._average()
        for k, value in enumerate((float(values.detach().mean()), float(slopes.detach().mean()), norm, 1.0)):
            self.sums[k] += value

    def _average(self) -> None:
        """Young averages forget faster: at most a tenth of the steps so far count."""
        decay = min(self.settings.average, 1 - 10 / (self.done + 10))
        for name, w in self.network.state_dict().items():
            if w.is_floating_point():
                self.weights[name].lerp_(w, 1 - decay)
            else:
                self.weights[name].copy_(w)

    def validate(self, epoch: int, training: "_Examples", validation: "_Examples") -> bool:
        """Add a line to the history; True where the averaged weights are the best so far."""
        each = errors(self._averaged(), validation)
        values, slopes = each.mean(axis=1).tolist()
        count = max(self.sums[3], 1.0)
        record = {
            "epoch": epoch, "step": self.done, "progress": round(self.progress(), 6),
            "seconds": round(self.elapsed, 3), "lr": self.optimizer.param_groups[0]["lr"],
            "train_l2": self.sums[0] / count, "train_h1": self.sums[1] / count, "gradient": self.sums[2] / count,
            "validation_l2": values, "validation_h1": slopes,
        }  # fmt: skip
        if self.settings.sharpness and epoch % self.settings.sharpness == 0:
            batch = training.batch(np.arange(min(len(training), 4 * self.settings.batch)), training.symmetries[0])
            diagonal = monitors.preconditioner(self.optimizer)
            top = monitors.sharpness(self.network, lambda: self._loss(batch), seed=self.seed, preconditioner=diagonal)
            limit = monitors.step_limit(self.rule, top, **self.own)
            record |= {"sharpness": top, "step_limit": limit if math.isfinite(limit) else None}
        self.history.append(record)
        improved = values < self.best_error
        if improved:
            self.best_error, self.best_epoch, self.best_errors = values, epoch, each[0].tolist()
            for name, w in self.weights.items():
                self.best[name].copy_(w)
        return improved

    def _loss(self, batch: "_Batch") -> torch.Tensor:
        values, slopes = relative_errors(self.network(batch.coefficients, batch.forcing), batch.target, batch.active)
        return (values + self.settings.slopes * slopes).mean()

    def _averaged(self) -> nn.Module:
        network = self.card.build().eval()
        network.load_state_dict(self.weights)
        return network

    # --- keeping ----------------------------------------------------------------------------------------------------

    _COUNTERS = ("done", "offset", "entered", "sums", "history", "best_error", "best_epoch", "best_errors", "status")

    def save(self, folder: Path, call: dict[str, Any], improved: bool) -> None:
        """Replace the state, and the model where it is better."""
        if improved:
            write_model(folder, self._card(call), self.best, self.history)
        counters = {name: getattr(self, name) for name in self._COUNTERS}
        if not math.isfinite(self.best_error):
            counters["best_error"] = None
        write_state(folder, {
            "call": call, "counters": counters, "elapsed": self.elapsed, "random": torch.get_rng_state(),
            "weights": dict(self.network.state_dict()), "average": self.weights, "best": self.best,
            "optimizer": self.optimizer.state_dict(),
        })  # fmt: skip

    def resume(self, folder: Path, call: dict[str, Any]) -> None:
        """Take over the state in a folder, after comparing what was asked then and now."""
        state = read_state(folder)
        needed = {"call", "counters", "elapsed", "random", "weights", "average", "best", "optimizer"}
        if missing := sorted(needed - state.keys()):
            raise StoreError(f"{folder / STATE} lacks {', '.join(missing)}; it is not the state of a training.")
        then = state["call"]  # perhaps of a version that knew fewer options
        then = {**then, "settings": asdict(Settings()) | then["settings"], "card": _NEWER | then["card"]}
        if changes := [c for c in _differences(then, call) if not c.startswith(_MAY_CHANGE)]:
            raise StoreError(
                f"{folder} holds a training with other settings: {'; '.join(changes)}. Call it as before to resume, or "
                f"give another folder."
            )
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mine, stored in ((self.weights, state["average"]), (self.best, state["best"])):
            for name, w in mine.items():
                w.copy_(stored[name])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        if self.best_error is None:
            self.best_error = math.inf
        if self.status != "stopped":
            self.status = "running"  # what is left of the budget decides
        torch.set_rng_state(state["random"])
        self.spent, self._started = state["elapsed"], self._clock()

    def _card(self, call: dict[str, Any]) -> Card:
        done = {
            "status": self.status, "validation_l2": self.best_error if self.history else None, "epochs": len(self.history),
            "best_epoch": self.best_epoch, "validation_errors": self.best_errors,
            "minutes_used": self.elapsed / 60, "threads": self.threads,
            "precision": "bfloat16" if self.low else "float32", "torch": torch.__version__, "seen": self.seen,
        }  # fmt: skip
        return Card(**{**asdict(self.card), "trained": {**{k: v for k, v in call.items() if k != "card"}, **done}})

    def result(self, folder: Path | None, call: dict[str, Any]) -> Surrogate:
        """The best model so far; written once more, so that the file tells the whole history."""
        if folder is not None:
            self.save(folder, call, improved=True)
        network = self.card.build()
        network.load_state_dict(self.best)
        return Surrogate(self._card(call), network, self.history)


# --- errors ---------------------------------------------------------------------------------------------------------


def relative_errors(
    output: torch.Tensor, target: torch.Tensor, active: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Relative errors per item, (n,) each: of the values (L2), and of their differences between neighbours (H1).

    Items whose target is zero count absolutely.
    """
    error = output - target
    if active is not None:
        error = error * active
    axes = tuple(range(1, error.ndim))
    norm = lambda x: x.square().sum(axes)  # noqa: E731
    slopes = lambda x: sum(norm(x.diff(dim=axis)) for axis in axes[1:])  # noqa: E731
    tiny = torch.finfo(torch.float32).tiny
    ratio = lambda e, t: (e / torch.where(t > tiny, t, torch.ones_like(t)) + 1e-20).sqrt()  # noqa: E731
    return ratio(norm(error), norm(target)), ratio(slopes(error), slopes(target))


def errors(network: nn.Module, data: "_Examples", size: int = 16) -> np.ndarray:
    """Relative errors (L2, H1) of a network on every item of a split, (2, n), in float32."""
    both = []
    with torch.inference_mode():
        for start in range(0, len(data), size):
            batch = data.batch(np.arange(start, min(start + size, len(data))), data.symmetries[0])
            output = network(batch.coefficients, batch.forcing)
            both.append(torch.stack(relative_errors(output, batch.target, batch.active)))
    return torch.cat(both, dim=1).numpy()


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass
class _Batch:
    coefficients: torch.Tensor
    forcing: torch.Tensor
    target: torch.Tensor
    active: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class _Examples:
    """A split as tensors."""

    coefficients: torch.Tensor
    forcing: torch.Tensor
    target: torch.Tensor
    active: torch.Tensor | None
    directional: int
    digest: str
    symmetries: list[encoding.Symmetry] = field(default_factory=list)
    periodic: tuple[bool, ...] = ()  # per axis, where it is so in all items
    marks: list[str] = field(default_factory=list)  # of what the items were drawn from, and of what they hold

    def __len__(self) -> int:
        return len(self.target)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.target.shape[2:])

    @property
    def channels(self) -> tuple[int, int]:
        return self.coefficients.shape[1], self.forcing.shape[1]

    def batch(self, items: np.ndarray, symmetry: encoding.Symmetry) -> _Batch:
        pick = torch.from_numpy(np.asarray(items))
        turned = lambda x, directional=0: laid_out(symmetry(x[pick], directional))  # noqa: E731
        active = None if self.active is None else turned(self.active)
        return _Batch(turned(self.coefficients, self.directional), turned(self.forcing), turned(self.target), active)


def _examples(data, task: str, part: str, settings: Settings, limit: int = 0) -> _Examples:
    """One split of a dataset, or its first `limit` items, in the network's units."""
    if getattr(data, "task", "coefficients") != task and task == "transient":
        raise ProblemError(
            f"task = 'transient' needs frames, but {data!r} holds none; generate it from the spec 'transient'."
        )
    items = data.indices(part)
    if limit > len(items):
        raise ProblemError(f"train(items={limit}): the {part} split of {data!r} holds {len(items)}; generate more.")
    items = items[:limit] if limit else items
    if len(items) == 0:
        raise ProblemError(
            f"the {part} split of {data!r} holds 0 of its {len(data)} items; training needs at least 1 for training and 1 "
            f"for validation besides the test split: give at least 3 different items (1000 is usual)."
        )
    picked = [data[int(i)] for i in items]
    u = np.stack([item.u for item in picked])
    problems = [item.problem for item in picked]
    if task == "transient" and (asked := [key for key in _OF_PROBLEMS if getattr(settings, key)]):
        raise ProblemError(
            f"train({', '.join(asked)}) needs the problem: with task 'transient' neither sides nor coefficients are known."
        )
    if task == "coefficients":
        inputs = encoding.from_problems(
            problems, coarse=settings.hybrid, exact_sides=settings.exact_sides, bounded=settings.bounded
        )
    else:
        inputs = encoding.from_frames(
            np.stack([item.times for item in picked]), np.stack([item.frames for item in picked])
        )
    active = np.stack([np.ones(u.shape[1:], bool) if p.active is None else p.active for p in problems])
    if bad := [int(i) for i, x, a in zip(items, u, active, strict=True) if not np.isfinite(x[a]).all()]:
        raise ProblemError(f"the labels of items {bad} of {data!r} hold NaN or infinite values; leave these items out.")
    target = inputs.normalised(u)
    digest = hashlib.sha256()
    for array in (inputs.coefficients, inputs.forcing, target):
        digest.update(np.ascontiguousarray(array).tobytes())
    mask = None if active.all() else torch.from_numpy(active[:, None].astype(np.float32))
    coefficients, forcing, target = (torch.from_numpy(x) for x in (inputs.coefficients, inputs.forcing, target))
    periodic = tuple(all(p.boundary[f"{a}-"].kind == "periodic" for p in problems) for a in problems[0].grid.axes)
    periodic = periodic if any(periodic) else ()
    symmetries = encoding.symmetries(u.shape[1:], periodic)
    origins = getattr(data, "origins", None)
    marks = [] if origins is None else [origins[int(i)] for i in items]
    marks += [mark(content_id(problem, label)) for problem, label in zip(problems, u, strict=True)]
    inputs_and_target = coefficients, forcing, target, mask
    return _Examples(*inputs_and_target, inputs.directional, digest.hexdigest(), symmetries, periodic, marks)


def _order(data: _Examples, settings: Settings, seed: int, epoch: int, progress: float) -> np.ndarray:
    """The items of an epoch; with a curriculum, as many draws from the items of least contrast that have entered."""
    rng = np.random.default_rng([seed, epoch])
    if progress >= settings.curriculum:
        return rng.permutation(len(data))
    entered = math.ceil(len(data) * (0.25 + 0.75 * progress / settings.curriculum))
    contrast = data.coefficients.std(dim=tuple(range(1, data.coefficients.ndim))).numpy()
    return rng.choice(np.argsort(contrast, kind="stable")[:entered], len(data))


def _draw(count: int, *seeds: int) -> int:
    return int(np.random.default_rng([*seeds, 1]).integers(count))


# --- the call -------------------------------------------------------------------------------------------------------


def _sorted_options(model: str, options: dict[str, Any]) -> tuple[Settings, Rule, dict[str, Any], dict[str, Any]]:
    """Options to whom they belong: (settings, optimizer's row, its options, all options of the model)."""
    of_model = models.options_of(model)
    of_training = {f.name for f in fields(Settings)}
    rule = optimizer_of(options.get("optimizer", Settings.optimizer))
    if unknown := sorted(set(options) - of_training - set(of_model) - set(rule.options)):
        from difflib import get_close_matches

        everything = sorted(of_training | set(of_model) | set(rule.options))
        near = get_close_matches(unknown[0], everything, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ProblemError(
            f"train has no option {', '.join(unknown)}.{hint} With these choices it has {', '.join(everything)}."
        )
    settings = Settings(**{k: v for k, v in options.items() if k in of_training})
    own = {k: v for k, v in options.items() if k in rule.options}
    return settings, rule, own, {k: options.get(k, default) for k, default in of_model.items()}


def _check_budget(minutes, epochs, seed, task) -> None:
    if task not in TASKS:
        raise ProblemError(f"task = {task!r}; choose one of {', '.join(TASKS)}.")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise ProblemError(f"epochs = {epochs!r}; give an int >= 1.")
    if minutes is not None and not (isinstance(minutes, int | float) and math.isfinite(minutes) and minutes > 0):
        raise ProblemError(f"minutes = {minutes!r}; give a number > 0.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ProblemError(f"seed = {seed!r}; give an int >= 0.")


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Where two calls differ, as readable pieces."""
    found: list[str] = []
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {a!r}, now {b!r}" if key != "data" else "the data are others")
    return found


def _low_precision(wish: str) -> bool:
    """bfloat16 pays only where the processor has tiles for it; elsewhere it is emulated, and slower."""
    if wish != "auto":
        return wish == "bfloat16"
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


@contextmanager
def _threads(wish: int, cells: int):
    """Torch's threads while training. Set on purpose: the default counts processors that this process may not use, and
    small batches lose more at the barriers than the second thread gains."""
    before = torch.get_num_threads()
    count = wish or (available_cores() if cells >= CELLS_FOR_THREADS else 1)
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


@contextmanager
def _display(progress: Callable[[dict], None] | bool | None):
    """The function that is called with each line of the history."""
    if callable(progress):
        yield progress
        return
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(text, BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training: first epoch", total=1.0)
        yield lambda r: bar.update(
            task,
            completed=r["progress"],
            description=f"training: epoch {r['epoch'] + 1}, error {100 * r['validation_l2']:.2f} %",
        )


__all__ = ["Settings", "load", "train"]
