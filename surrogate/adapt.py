"""Follow a distribution that shifts: predict, certify, solve what was not accepted, and learn from it."""

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from diffsim.data import number
from diffsim.errors import ProblemError
from diffsim.problem import Problem

from .checkpoint import Surrogate
from .models.layers import laid_out
from .predict import Prediction, predict
from .training import _threads, relative_errors


@dataclass
class Adaptive:
    """A surrogate in service: every answer is certified, and what it could not answer becomes its training set.

    Parameters
    ----------
    surrogate
        A model of task "coefficients". It is copied; the one given is not changed.
    tol
        Guaranteed relative L2 error of every answer.
    memory
        Solved problems kept to learn from; the oldest are forgotten first.
    every
        Fine-tune after so many new solutions.
    steps, batch, lr
        Steps of AdamW per fine-tuning, items per step, learning rate.
    seed
        Of the draws from memory.

    Attributes
    ----------
    served, solved
        Per call: problems answered, and how many of them needed the solver.
    """

    surrogate: Surrogate
    tol: float = 1e-2
    memory: int = 512
    every: int = 16
    steps: int = 60
    batch: int = 16
    lr: float = 5e-4
    seed: int = 0
    served: list[int] = field(default_factory=list, init=False)
    solved: list[int] = field(default_factory=list, init=False)

    def __post_init__(self):
        if self.surrogate.task != "coefficients":
            raise ProblemError("only predictions of known problems are certified; give a model of task 'coefficients'.")
        self.tol, self.lr = number("tol", self.tol, above=0.0), number("lr", self.lr, above=0.0)
        for name in ("memory", "every", "steps", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ProblemError(f"{name} = {getattr(self, name)!r} must be an int >= 1.")
        self.surrogate = Surrogate(
            self.surrogate.card, copy.deepcopy(self.surrogate.network), list(self.surrogate.history)
        )
        self._known: deque[tuple[Problem, np.ndarray]] = deque(maxlen=self.memory)
        self._new = 0
        self._rng = np.random.default_rng(self.seed)
        self._optimizer = torch.optim.AdamW(self.surrogate.network.parameters(), lr=self.lr, weight_decay=0.0)

    def __call__(self, problems: Sequence[Problem]) -> list[Prediction]:
        """Answer problems on grids of one shape; every answer is within `tol`, by the network or by the solver."""
        answers = predict(self.surrogate, list(problems), tol=self.tol)
        count = 0
        for i, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
            if not answer.accepted:
                # further than asked: these are labels
                answers[i] = answer.refine(min(1e-3 * self.tol, 1e-5))
                self._known.append((problem, answers[i].u))
                count += 1
        self.served.append(len(answers))
        self.solved.append(count)
        self._new += count
        if self._new >= self.every:
            self._new = 0
            with _threads(0, int(np.prod(problems[0].grid.shape)) * self.batch):
                self._learn()
        return answers

    @property
    def share(self) -> np.ndarray:
        """Share of problems per call that needed the solver."""
        return np.array(self.solved) / np.maximum(np.array(self.served), 1)

    def _learn(self) -> None:
        problems, labels = (list(column) for column in zip(*self._known, strict=True))
        inputs = self.surrogate.card.inputs(problems)
        target = torch.from_numpy(inputs.normalised(np.stack(labels)))
        active = [np.ones(p.grid.shape, bool) if p.active is None else p.active for p in problems]
        mask = torch.from_numpy(np.stack(active)[:, None].astype(np.float32))
        coefficients, forcing = torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing)
        network = self.surrogate.network.train()
        for _ in range(self.steps):
            pick = torch.from_numpy(self._rng.choice(len(problems), min(self.batch, len(problems)), replace=False))
            output = network(laid_out(coefficients[pick]), laid_out(forcing[pick]))
            values, slopes = relative_errors(output, laid_out(target[pick]), laid_out(mask[pick]))
            self._optimizer.zero_grad(set_to_none=True)
            loss = (values + slopes).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            if torch.isfinite(loss):
                self._optimizer.step()
        network.eval()

    def plot(self, path: "str | Path | None" = None):
        """The share of solver calls over the problems served; returns the matplotlib Figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        ax = figure.subplots()
        ax.step(np.cumsum(self.served), 100 * self.share, where="pre", color="#0072B2")
        ax.set_xlabel("problems served")
        ax.set_ylabel("solved, not predicted [%]")
        ax.set_ylim(0, 102)
        ax.set_title(f"answers within {100 * self.tol:g} %, guaranteed")
        if path is not None:
            from diffsim import store

            with store.replacing(path) as temporary:
                figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=150)
        return figure
