"""What training looks like from inside: gradients and updates per layer, and the sharpness that limits the step.

Gradient descent is forward Euler on the gradient flow: with H the Hessian of the loss, the step must stay below the
optimizer's real limit over the largest eigenvalue of H (`optimizers.Rule.real_limit`), as a time step must stay below
that of its scheme. `sharpness` measures the eigenvalue, `step_limit` the step that follows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import nn

from .optimizers import Rule


@dataclass(frozen=True)
class LayerReport:
    """Root mean squares of one parameter: itself, its gradient, and its last update relative to itself."""

    name: str
    weight: float
    gradient: float
    update_ratio: float


class Layers:
    """Watches the parameters of a network from step to step: call `before` and `after` the optimizer's step."""

    def __init__(self, network: nn.Module):
        self.named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self._old: list[torch.Tensor] = []

    def before(self) -> None:
        """Remember the weights."""
        self._old = [p.detach().clone() for _, p in self.named]

    def after(self) -> list[LayerReport]:
        """One report per parameter, in the network's order."""
        rms = lambda x: float(x.square().mean().sqrt())  # noqa: E731
        reports = []
        for (name, p), old in zip(self.named, self._old, strict=True):
            size = rms(old)
            gradient = rms(p.grad) if p.grad is not None else 0.0
            update = rms(p.detach() - old)
            reports.append(LayerReport(name, size, gradient, update / size if size > 0 else math.inf))
        return reports


def activations(network: nn.Module, *inputs: torch.Tensor) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and share of dead channels of every leaf module's output on one batch.

    A channel is dead where its output is the same number in every cell of every item.
    """
    found: dict[str, dict[str, float]] = {}

    def watch(name):
        def hook(_module, _inputs, output):
            if isinstance(output, torch.Tensor) and output.ndim > 1:
                flat = output.detach().float().transpose(0, 1).flatten(1)
                dead = (flat.amax(dim=1) == flat.amin(dim=1)).float().mean()
                found[name] = {"mean": float(flat.mean()), "std": float(flat.std()), "dead": float(dead)}

        return hook

    leaves = [(n, m) for n, m in network.named_modules() if not list(m.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def sharpness(
    network: nn.Module,
    loss: Callable[[], torch.Tensor],
    iterations: int = 12,
    seed: int = 0,
    preconditioner: list[torch.Tensor] | None = None,
) -> float:
    """Largest eigenvalue of the Hessian of ``loss()``, by Lanczos with Hessian-vector products: an estimate from below.

    Parameters
    ----------
    iterations
        Lanczos steps, each one double backward pass; 12 give about two digits.
    preconditioner
        Diagonal P, one positive tensor per parameter: the eigenvalue is then that of ``P^-1/2 H P^-1/2``, which is what
        limits the step of adaptive methods (Cohen et al. 2022).
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    root = None if preconditioner is None else torch.cat([p.flatten() for p in preconditioner]).sqrt()
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
    if not used:
        return 0.0

    def product(v: torch.Tensor) -> torch.Tensor:
        v = v if root is None else v / root
        parts = dict(zip(map(id, parameters), v.split(sizes), strict=True))
        inner = sum((g * parts[id(p)].view_as(p)).sum() for p, g in used)
        rows = torch.autograd.grad(inner, parameters, retain_graph=True, allow_unused=True)
        flat = [torch.zeros(n) if r is None else r.reshape(-1) for r, n in zip(rows, sizes, strict=True)]
        result = torch.cat(flat).detach()
        return result if root is None else result / root

    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(sum(sizes), generator=generator)
    basis, diagonal, beside = [v / v.norm()], [], []
    for _ in range(min(iterations, sum(sizes))):
        w = product(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        for q in basis + basis:  # twice: full orthogonality, or copies of the top eigenvalue appear
            w = w - (w @ q) * q
        size = float(w.norm())
        if size < 1e-6 * max(abs(a) for a in (*diagonal, 1e-30)):
            break
        beside.append(size)
        basis.append(w / size)
    n = len(diagonal)
    return float(eigh_tridiagonal(np.array(diagonal), np.array(beside[: n - 1]), eigvals_only=True)[-1])


def preconditioner(optimizer: torch.optim.Optimizer) -> list[torch.Tensor] | None:
    """The diagonal P by which an adaptive method divides its steps now, one tensor per parameter; None for the others."""
    found = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            if "exp_avg_sq" in state:
                square = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
            elif "square_avg" in state:
                square = state["square_avg"]
            elif "sum" in state:
                square = state["sum"]
            else:
                return None
            found.append(square.sqrt() + group["eps"])
    return found


def step_limit(rule: Rule, top: float, **options) -> float:
    """The largest stable learning rate on a quadratic whose largest (preconditioned) eigenvalue is `top`."""
    return rule.real_limit(**options) / top if top > 0 else math.inf


def verdict(history: list[dict], limit: str = "step_limit") -> str:
    """One sentence on a training's history: stable, at the edge, or unstable, and what to change."""
    if not history:
        return "no epoch has been trained yet."
    losses = np.array([line["train_l2"] for line in history])
    rising = len(losses) >= 3 and losses[-1] > 2 * losses.min()
    measured = [line for line in history if line.get(limit)]
    over = [line["lr"] / line[limit] for line in measured]
    if rising:
        return (
            f"unstable: the training error rose from {losses.min():.3g} to {losses[-1]:.3g}. Lower lr (last "
            f"{history[-1]['lr']:.3g}), lengthen warmup, or set clip."
        )
    if over and over[-1] > 1:
        return (
            f"at the edge: the learning rate is {over[-1]:.2g} times the limit {measured[-1][limit]:.3g} that the measured "
            f"sharpness implies; training hovers there without blowing up. A lower lr would be smoother."
        )
    return "stable: the training error does not rise" + (
        f", and lr stays below the limit of the measured sharpness by {1 / over[-1]:.2g} times."
        if over and over[-1] > 0
        else "."
    )
