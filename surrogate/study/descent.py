"""Training loops short enough to change: for experiments about the loss, the order or the kind of the examples.

`testbed` trains as users do, through `surrogate.train`; what that does not vary is varied here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import nn

from diffsim.problem import Problem

from .. import fields, models
from ..training import relative_errors

WARMUP = 0.1
RESNET = {"width": 12, "blocks": 4, "dilations": 3}  # the plain network of `testbed`


@dataclass(frozen=True, eq=False)
class Examples:
    """Problems and their equilibria in the network's units: (n, C, *shape), (n, R, *shape), (n, 1, *shape)."""

    coefficients: torch.Tensor
    forcing: torch.Tensor
    target: torch.Tensor

    @classmethod
    def of(cls, problems: Sequence[Problem], u: np.ndarray) -> "Examples":
        """Pairs as `testbed.pairs` gives them."""
        inputs = fields.from_problems(problems)
        return cls(*(torch.from_numpy(x) for x in (inputs.coefficients, inputs.forcing, inputs.normalised(u))))

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, items) -> "Examples":
        return Examples(self.coefficients[items], self.forcing[items], self.target[items])

    def network(self, seed: int, model: str = "resnet", **options) -> nn.Module:
        """A fresh network for these examples, its weights decided by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            options = {**(RESNET if model == "resnet" else {}), **options}
            shape = tuple(self.target.shape[2:])
            return models.build(model, self.coefficients.shape[1], self.forcing.shape[1], shape, **options)

    def errors(self, network: nn.Module) -> torch.Tensor:
        """Relative L2 error of each example, (n,), differentiable."""
        return relative_errors(network(self.coefficients, self.forcing), self.target, None)[0]

    def error(self, network: nn.Module) -> float:
        """Mean relative L2 error."""
        with torch.inference_mode():
            return float(self.errors(network).mean())


def descend(networks: nn.Module | Sequence[nn.Module], loss_at: Callable[[int], torch.Tensor], steps: int, lr: float):
    """Adam with a linear warm-up and a cosine to zero; False where the loss stopped being finite, True otherwise.

    Parameters
    ----------
    loss_at
        Step -> loss; draws its own batch.
    """
    several = [networks] if isinstance(networks, nn.Module) else list(networks)
    optimizer = torch.optim.Adam(chain.from_iterable(network.parameters() for network in several), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * pace(step / steps)
        loss = loss_at(step)
        if not torch.isfinite(loss):
            return False
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return True


def pace(progress: float) -> float:
    """What the step size is multiplied by, at a progress from 0 to 1; never 0, so that no step is lost."""
    if progress < WARMUP:
        return (progress + 1e-3) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
