"""Trained models and running trainings on disk.

A folder holds ``model.safetensors``: weights, with the card that says what they are and the history of their training.
A training that can go on keeps ``state.safetensors`` beside it, with everything the next step depends on. Each file is
whole by itself, replaced atomically and sealed with a digest, so a kill between any two instructions leaves a folder
that loads and resumes. Neither can hold code.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffsim import store
from diffsim.errors import ProblemError, StoreError
from diffsim.problem import Problem

from . import fields as encoding
from . import models
from .models.layers import laid_out

MODEL = "model.safetensors"
STATE = "state.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What a network is: enough to build it again, and to say what it was trained for.

    Attributes
    ----------
    model, options
        Name in the registry of models, and the options it was built with.
    task
        "coefficients" or "transient".
    coefficients, forcing
        Channels of its two inputs.
    shape
        Cells of the grids it was trained on.
    hybrid
        The network also gets the equilibrium on cells that many times wider; 0: it does not.
    exact_sides, bounded
        Values on sides hold exactly; answers stay inside the range of the maximum principle. See `fields.from_problems`.
    periodic
        Per axis: the network closes across its seam.
    trained
        How: settings, data, budget used, errors on the validation split.
    """

    model: str
    options: dict[str, Any]
    task: str
    coefficients: int
    forcing: int
    shape: tuple[int, ...]
    hybrid: int = 0
    exact_sides: bool = False
    bounded: bool = False
    periodic: tuple[bool, ...] = ()
    trained: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network, with fresh weights."""
        sizes = self.coefficients, self.forcing, self.shape
        return models.build(self.model, *sizes, self.periodic, self.exact_sides, **self.options)

    def inputs(self, problems: Sequence[Problem]) -> encoding.Fields:
        """Problems as this network reads them."""
        return encoding.from_problems(problems, self.hybrid, self.exact_sides, self.bounded)

    @classmethod
    def read(cls, record: Any, path: Path) -> "Card":
        """The card in a file's metadata; a `StoreError` says what is missing."""
        required = ("model", "options", "task", "coefficients", "forcing", "shape")
        missing = [key for key in required if not isinstance(record, dict) or key not in record]
        if missing:
            raise StoreError(f"{path} holds no model of this package: its card lacks {', '.join(missing)}.")
        known = {key: record[key] for key in (f.name for f in fields(cls)) if key in record}
        return cls(**{**known, "shape": tuple(record["shape"]), "periodic": tuple(record.get("periodic", ()))})


class Surrogate:
    """A network and what it needs to answer in physical units. Made by `train`, read by `load`."""

    def __init__(self, card: Card, network: nn.Module, history: list[dict] | None = None):
        self.card, self.network, self.history = card, network.eval(), history or []

    @property
    def task(self) -> str:
        return self.card.task

    @property
    def parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.network.parameters())

    def fields(self, problems, batch: int = 16) -> np.ndarray:
        """The network's equilibria of problems on grids of one shape, (n, *shape) float64; NaN in voids, held values.

        Raises
        ------
        ProblemError
            If the model was trained for transients, the dimension is another, or `fields.from_problems` refuses.
        """
        problems = list(problems)
        self._needs("coefficients", "problems")
        u = self._run(self.card.inputs(problems), batch)
        for answer, problem in zip(u, problems, strict=True):
            if problem.active is not None:
                answer[~problem.active] = np.nan
            if problem.fixed is not None:
                mask, values = problem.fixed
                answer[mask] = values[mask]
        return u

    def from_frames(self, times: np.ndarray, frames: np.ndarray, batch: int = 16) -> np.ndarray:
        """The equilibria that trajectories settle to, (n, *shape) float64, from their first frames (n, k, *shape).

        Frames may hold NaN where nothing was observed; the answer is a whole field.

        Raises
        ------
        ProblemError
            If the model was trained for coefficients, on another number of frames, or `fields.from_frames` refuses.
        """
        self._needs("transient", "frames")
        return self._run(encoding.from_frames(times, frames), batch)

    def predict(self, problem, tol: float = 1e-2, **options):
        """A `Prediction` with its error bound; a list gives a list. See `surrogate.predict`."""
        from .predict import predict

        return predict(self, problem, tol=tol, **options)

    def save(self, path) -> Path:
        """Write the model to a folder (made if need be); `load` reads it back, bit for bit."""
        folder = Path(path)
        write_model(folder, self.card, self.network.state_dict(), self.history)
        return folder

    def _needs(self, task: str, given: str) -> None:
        if self.task != task:
            raise ProblemError(
                f"{given} were given, but this model was trained for task '{self.task}'; train one with task='{task}'."
            )

    def _run(self, batch: encoding.Fields, size: int) -> np.ndarray:
        got = batch.coefficients.shape[1], batch.forcing.shape[1]
        want = self.card.coefficients, self.card.forcing
        if len(batch.shape) != len(self.card.shape) or got != want:
            raise ProblemError(
                f"the input has {len(batch.shape)} axes and {got[0]} + {got[1]} channels; this model was trained on "
                f"{len(self.card.shape)} axes and {want[0]} + {want[1]} (for transients, channels follow from the frames)."
            )
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(batch), size):
                part = slice(start, start + size)
                inputs = [laid_out(torch.from_numpy(x[part])) for x in (batch.coefficients, batch.forcing)]
                outputs.append(self.network(*inputs).numpy())
        return batch.physical(np.concatenate(outputs))


def load(path) -> Surrogate:
    """Read a model saved by `Surrogate.save` or by a training run: its folder, or the file itself.

    Raises
    ------
    StoreError
        If the file is missing, damaged (its digest differs), of another format or architecture, or holds values that
        are not finite. Nothing in it is executed.
    """
    arrays, record, path = _read(Path(path), MODEL)
    card = Card.read(record.get("card"), path)
    try:
        network = card.build()
    except (ProblemError, TypeError, ValueError) as error:
        raise StoreError(f"{path} holds a model that this version cannot build: {error}") from None
    fill(network, arrays, path)
    return Surrogate(card, network, record.get("history"))


def write_model(folder: Path, card: Card, weights: dict[str, torch.Tensor], history: list[dict]) -> None:
    """The weights that predict."""
    folder.mkdir(parents=True, exist_ok=True)
    store.write_safetensors(
        folder / MODEL, _arrays(weights), {"format": FORMAT, "card": asdict(card), "history": history}
    )


def write_state(folder: Path, tree: dict[str, Any]) -> None:
    """Everything a training needs to go on: nested dicts and lists of tensors and plain values."""
    tensors: dict[str, torch.Tensor] = {}
    record = flatten("state", tree, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    store.write_safetensors(folder / STATE, _arrays(tensors), {"format": FORMAT, "state": record})


def read_state(folder: Path) -> dict[str, Any]:
    """The inverse of `write_state`."""
    arrays, record, path = _read(folder, STATE)
    if "state" not in record:
        raise StoreError(f"{path} is not the state of a training: it lacks 'state'.")
    return unflatten(record["state"], {name: torch.from_numpy(array) for name, array in arrays.items()})


def fill(network: nn.Module, weights: dict[str, np.ndarray], path: Path) -> None:
    """Put weights into a network, or say everything that does not fit."""
    own = network.state_dict()
    faults = []
    if missing := sorted(own.keys() - weights.keys()):
        faults.append(f"missing {', '.join(missing)}")
    if extra := sorted(weights.keys() - own.keys()):
        faults.append(f"unexpected {', '.join(extra)}")
    for name in sorted(own.keys() & weights.keys()):
        have, want = weights[name], own[name].numpy()
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            faults.append(f"{name} is {have.dtype} {have.shape} instead of {want.dtype} {want.shape}")
    if faults:
        raise StoreError(f"the weights in {path} do not fit the model its card names: {'; '.join(faults)}.")
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})


def _read(path: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any], Path]:
    file = path / name if path.is_dir() else path
    if not file.exists():
        there = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing" if path.is_dir() else "no such path"
        raise StoreError(f"{file} does not exist ({there}); give the folder that `save` or `train` wrote.")
    arrays, record = store.read_safetensors(file)
    if record.get("format") != FORMAT:
        raise StoreError(
            f"{file} has format {record.get('format')!r}; this version reads {FORMAT}. Use the version that wrote it."
        )
    return arrays, record, file


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: t.detach().contiguous().numpy() for name, t in tensors.items()}


def flatten(path: str, tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Move the tensors of nested dicts and lists to `tensors`, under their path; what is left, JSON can hold.

    JSON would turn the integer keys of torch's optimizer states into strings, so mappings become lists of pairs.
    """
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"pairs": [[key, flatten(f"{path}.{key}", value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"items": [flatten(f"{path}.{i}", value, tensors) for i, value in enumerate(tree)]}
    return tree


def unflatten(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `flatten`; tuples come back as lists."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: unflatten(value, tensors) for key, value in content}
    return [unflatten(value, tensors) for value in content]
