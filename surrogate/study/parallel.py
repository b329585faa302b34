"""The parallel that the project stands on, in one picture: a step of diffusion beside a step of training.

Both follow u' = -A u near rest, one with the operator of diffusion, the other with the Hessian of the loss; both take
steps, and a step is stable where -dt (or -lr) times every eigenvalue lies in the region of the method. The same function
draws both halves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import diffsim as ds
from diffsim import plots, store
from diffsim.boundary import Dirichlet
from diffsim.schemes import SCHEMES
from diffsim.stability import stability

from ..optimizers import OPTIMIZERS, Rule
from .claims.sharpness import network

BEYOND = 1.15  # the step, in limits of the plain method of each half: what it loses, the others hold


@dataclass(frozen=True)
class Tuned:
    """An optimizer with its options set: a row that `plot_stability` can draw."""

    rule: Rule
    title: str
    options: dict[str, float] = field(default_factory=dict)

    def amplification(self, z: complex) -> np.ndarray:
        """M(z), (k, k); without the running mean of drag, which acts on nothing where there is no pull to it."""
        matrix = self.rule.amplification(z, **self.options)
        return matrix[:2, :2] if self.rule.name == "drag" and not self.options.get("pull") else matrix

    def real_limit(self) -> float:
        """Largest stable lr × eigenvalue."""
        return self.rule.real_limit(**self.options)


METHODS = (
    Tuned(OPTIMIZERS["sgd"], "gradient descent"),
    Tuned(OPTIMIZERS["momentum"], "heavy ball, β = 0.5", {"momentum": 0.5}),
    Tuned(OPTIMIZERS["drag"], "drag 1", {"drag": 1.0}),
)


def hessian_spectrum(net: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> np.ndarray:
    """All eigenvalues of the Hessian of ``loss()`` in the weights of `net`, ascending: (n,), for n up to a few thousand."""
    weights = [p for p in net.parameters() if p.requires_grad]
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), weights, create_graph=True)])
    rows = [
        torch.cat([r.reshape(-1) for r in torch.autograd.grad(g, weights, retain_graph=True, materialize_grads=True)])
        for g in gradient
    ]
    hessian = torch.stack(rows).double().numpy()
    return np.linalg.eigvalsh(0.5 * (hessian + hessian.T))


def trained_network(seed: int = 0, width: int = 8, steps: int = 1500) -> tuple[torch.nn.Module, Callable]:
    """The small network of the claim on sharpness after full-batch descent below the limit of its start; and its loss."""
    net, loss = network(seed, width)
    lr = 1.0 / hessian_spectrum(net, loss)[-1]
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return net, loss


def draw(path: str | Path | None = None):
    """The picture: regions of FTCS and RKL2 with the spectrum of a rod, and of three optimizers with that of a Hessian.

    Returns
    -------
    Figure
        Written to `path` where given.
    """
    from matplotlib.figure import Figure

    rod = ds.Problem(ds.Grid((24,), (1.0,)), 1.0, boundary={"x": Dirichlet(0.0)})
    dt = BEYOND * stability(rod, "ftcs").dt_limit
    curvature = hessian_spectrum(*trained_network())
    lr = BEYOND * SCHEMES["ftcs"].real_limit() / curvature[-1]
    figure = Figure(figsize=(14.0, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.1, 3), wspace=0.02)
    plots.plot_stability(
        ["ftcs", "rkl2"], rod, dt, figure=left,
        title=f"Diffusion: −dt × eigenvalues of the operator,\ndt = {BEYOND:g} limits of FTCS",
    )  # fmt: skip
    plots.plot_stability(
        METHODS, curvature, lr, figure=right,
        title=f"Training: −lr × eigenvalues of the Hessian ({len(curvature)} weights),\nlr = {BEYOND:g} limits of descent",
    )  # fmt: skip
    if path is not None:
        store.write_figure(figure, path, dpi=110)
    return figure
