"""The table of optimizers: how each is built, and what it does to a quadratic.

Gradient descent is forward Euler on the gradient flow, so an optimizer is a time stepper and has an amplification
matrix: on the loss ``lambda w^2 / 2`` with step ``lr`` one update multiplies its state by ``M(z)``, ``z = -lr lambda``,
and training is stable where the spectral radius of M is at most one. The rows have the `amplification(z)` of the
schemes of `diffsim`, so the same plot draws both.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import torch
from torch.optim import Optimizer

from diffsim.errors import ProblemError


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes
    ----------
    make
        ``make(params, lr, weight_decay, **options) -> torch.optim.Optimizer``.
    memory
        ``memory(z, **options) -> (k, k)`` amplification matrix for one real or complex z; None where a step has no
        linear part (its length does not depend on the gradient's).
    preconditioned
        True where z is ``-lr`` times an eigenvalue of ``P^-1 H`` with the method's own, frozen preconditioner P.
    lr
        A step size that trains the networks of this package at batches of about ten.
    options
        The method's own options and their defaults.
    """

    name: str
    title: str
    make: Callable[..., Optimizer]
    memory: Callable[..., np.ndarray] | None
    lr: float
    reference: str
    preconditioned: bool = False
    options: dict[str, float] = field(default_factory=dict)

    def build(self, params: Iterable, lr: float | None = None, weight_decay: float = 0.0, **options) -> Optimizer:
        """The optimizer for `params`; unknown options are refused with the list of known ones."""
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise ProblemError(
                f"optimizer '{self.name}' has no option {', '.join(unknown)}; it has {', '.join(self.options) or 'none'}."
            )
        return self.make(list(params), self.lr if lr is None else lr, weight_decay, **{**self.options, **options})

    def amplification(self, z: complex, **options) -> np.ndarray:
        """M(z), (k, k), complex: what one update does to (weight, memory...) on a quadratic."""
        if self.memory is None:
            raise ProblemError(
                f"'{self.name}' takes steps whose length does not depend on the gradient: it has no linear stability, "
                f"it hovers at a distance set by its step size."
            )
        return np.asarray(self.memory(complex(z), **{**self.options, **options}))

    def spectral_radius(self, z: complex, **options) -> float:
        return float(np.abs(np.linalg.eigvals(self.amplification(z, **options))).max())

    def real_limit(self, **options) -> float:
        """Largest x such that the method is stable for all real z in [-x, 0): ``lr < x / lambda_max``."""
        if self.memory is None:
            return math.inf
        stable = lambda x: self.spectral_radius(-x, **options) <= 1 + 1e-9  # noqa: E731
        low, high = 0.0, 1e-3
        while stable(high):
            low, high = high, 1.1 * high
            if high > 1e6:
                return math.inf
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if stable(middle) else (low, middle)
        return low


class Drag(Optimizer):
    """Heavy ball in a viscous medium, the friction treated implicitly, with an optional pull to the mean of its path.

    One step discretises ``w'' = -drag w' - grad L - pull (w - mean)``, ``mean' = rate (w - mean)``::

        s <- (s - drag (lr g + pull (w - mean))) / (1 + drag)
        w <- w + s,     mean <- mean + rate (w - mean)

    so that friction, which is stiff when `drag` is large, is never the reason for instability. In the overdamped limit
    ``drag -> inf`` this is gradient descent with step `lr`; at any drag the speed along a constant slope is the same,
    lr g per step, and the momentum of the usual notation is ``1 / (1 + drag)``. On a quadratic it is stable for
    ``lr lambda < 2 (1 + 2 / drag) - 2 pull (1 - rate) / (2 - rate)`` (the root of the 3 x 3 matrix at -1).
    """

    def __init__(
        self, params, lr: float, drag: float = 0.1, pull: float = 0.0, rate: float = 0.01, weight_decay: float = 0.0
    ):
        for name, value, least in (("lr", lr, 0.0), ("drag", drag, 0.0), ("pull", pull, None), ("rate", rate, None)):
            if not (math.isfinite(value) and (value > least if least is not None else value >= 0)):
                raise ProblemError(
                    f"Drag({name}={value!r}): must be finite and {'>' if least is not None else '>='} 0."
                )
        if rate > 1:
            raise ProblemError(
                f"Drag(rate={rate!r}): the running average moves by a fraction of the distance, at most 1."
            )
        super().__init__(params, dict(lr=lr, drag=drag, pull=pull, rate=rate, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        """One update; `closure` re-evaluates the loss, as torch's optimizers have it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, drag, pull = group["lr"], group["drag"], group["pull"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["shift"] = torch.zeros_like(p)
                    if pull:
                        state["mean"] = p.clone()
                force = p.grad * lr
                if pull:
                    force.add_(p - state["mean"], alpha=pull)
                state["shift"].sub_(force, alpha=drag).div_(1 + drag)
                p.mul_(1 - lr * group["weight_decay"]).add_(state["shift"])
                if pull:
                    state["mean"].lerp_(p, group["rate"])
        return loss


class Muon(Optimizer):
    """Momentum whose update of every weight matrix is orthogonalised: all its directions move at the same pace.

    A quintic Newton-Schulz iteration drives the singular values of the update to about one (coefficients and method:
    Jordan et al. 2024, "Muon: an optimizer for hidden layers"). Convolutions count as (out, in * kernel) matrices.
    Parameters with fewer than two axes, and those of the first and last layer where told by `plain`, take Adam steps.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(
        self, params, lr: float = 0.02, momentum: float = 0.95, plain_lr: float = 3e-3, weight_decay: float = 0.0
    ):
        super().__init__(params, dict(lr=lr, momentum=momentum, plain=plain_lr / lr, weight_decay=weight_decay))

    @classmethod
    def orthogonalised(cls, updates: torch.Tensor, iterations: int = 5) -> torch.Tensor:
        """The nearest matrices with orthonormal rows (or columns), (..., a, b), to the iteration's accuracy of 30 %."""
        a, b, c = cls.COEFFICIENTS
        tall = updates.shape[-2] > updates.shape[-1]
        x = updates.mT if tall else updates
        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
        for _ in range(iterations):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if tall else x

    @torch.no_grad()
    def step(self, closure=None):
        """One update; `closure` re-evaluates the loss, as torch's optimizers have it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["weight_decay"])
                if p.ndim > 1 and not getattr(p, "plain", False):
                    alike.setdefault((p.shape[0], p[0].numel()), []).append(p)
                else:
                    self._plain(p, group)
            for shape, parameters in alike.items():
                self._matrices(shape, parameters, group)
        return loss

    def _matrices(self, shape: tuple[int, int], parameters: list[torch.Tensor], group) -> None:
        """All matrices of one shape at once: many small products cost far more than one stack of them."""
        updates = []
        for p in parameters:
            state = self.state[p]
            if not state:
                state["average"] = torch.zeros_like(p)
            average = state["average"].lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(average, group["momentum"]).reshape(shape))
        stretch = math.sqrt(max(1.0, shape[0] / shape[1]))
        for p, update in zip(parameters, self.orthogonalised(torch.stack(updates)), strict=True):
            p.sub_(update.view(p.shape), alpha=group["lr"] * stretch)

    def _plain(self, p, group) -> None:
        state = self.state[p]
        if not state:
            state["count"] = torch.zeros(())
            state["average"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        state["count"] += 1
        count = float(state["count"])
        average = state["average"].lerp_(p.grad, 0.1)
        square = state["square"].lerp_(p.grad.square(), 0.01)
        step = group["lr"] * group["plain"] / (1 - 0.9**count)
        p.addcdiv_(average, (square / (1 - 0.99**count)).sqrt_().add_(1e-8), value=-step)


def _descent(z):
    return [[1 + z]]


def _heavy_ball(z, momentum):
    """State (w_n, w_n-1)."""
    return [[1 + momentum + z, -momentum], [1, 0]]


def _averaged_gradient(z, beta):
    """State (w, lr m): m is the running mean of the gradient, as in Adam with a frozen preconditioner."""
    return [[1 + (1 - beta) * z, -beta], [-(1 - beta) * z, beta]]


def _drag(z, drag, pull, rate):
    """State (w, s, mean)."""
    push = drag / (1 + drag)
    shift = np.array([push * (z - pull), 1 / (1 + drag), push * pull])
    weight = shift + np.array([1, 0, 0])
    return np.array([weight, shift, rate * weight + np.array([0, 0, 1 - rate])])


def _adam(kind):
    return lambda params, lr, wd, beta, beta2: kind(params, lr=lr, weight_decay=wd, betas=(beta, beta2))


OPTIMIZERS = {
    rule.name: rule
    for rule in (
        Rule(
            "sgd",
            "gradient descent",
            lambda params, lr, wd: torch.optim.SGD(params, lr=lr, weight_decay=wd),
            _descent,
            lr=0.05,
            reference="Robbins & Monro 1951",
        ),
        Rule(
            "momentum",
            "heavy ball",
            lambda params, lr, wd, momentum: torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=wd),
            _heavy_ball,
            lr=0.01,
            reference="Polyak 1964",
            options={"momentum": 0.9},
        ),
        Rule(
            "adagrad",
            "AdaGrad",
            lambda params, lr, wd: torch.optim.Adagrad(params, lr=lr, weight_decay=wd),
            _descent,
            lr=0.01,
            reference="Duchi, Hazan & Singer 2011",
            preconditioned=True,
        ),
        Rule(
            "rmsprop",
            "RMSProp",
            lambda params, lr, wd, alpha: torch.optim.RMSprop(params, lr=lr, alpha=alpha, weight_decay=wd),
            lambda z, alpha: _descent(z),
            lr=1e-3,
            reference="Tieleman & Hinton 2012",
            preconditioned=True,
            options={"alpha": 0.99},
        ),
        Rule(
            "adam",
            "Adam",
            _adam(torch.optim.Adam),
            lambda z, beta, beta2: _averaged_gradient(z, beta),
            lr=3e-3,
            reference="Kingma & Ba 2015; stability: Cohen et al. 2022",
            preconditioned=True,
            options={"beta": 0.9, "beta2": 0.99},
        ),
        Rule(
            "adamw",
            "Adam, decoupled decay",
            _adam(torch.optim.AdamW),
            lambda z, beta, beta2: _averaged_gradient(z, beta),
            lr=3e-3,
            reference="Loshchilov & Hutter 2019",
            preconditioned=True,
            options={"beta": 0.9, "beta2": 0.99},
        ),
        Rule(
            "drag",
            "implicit friction and pull",
            lambda params, lr, wd, drag, pull, rate: Drag(params, lr, drag, pull, rate, weight_decay=wd),
            _drag,
            lr=0.1,
            reference="this package",
            options={"drag": 0.1, "pull": 0.0, "rate": 0.01},
        ),
        Rule(
            "muon",
            "orthogonalised momentum",
            lambda params, lr, wd, momentum, plain_lr: Muon(params, lr, momentum, plain_lr, weight_decay=wd),
            None,
            lr=0.02,
            reference="Jordan et al. 2024",
            options={"momentum": 0.95, "plain_lr": 3e-3},
        ),
    )
}


def optimizer_of(name: str) -> Rule:
    """The row of that name.

    Raises
    ------
    ProblemError
        For a name that is not in the table, with the nearest one and the list.
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    near = get_close_matches(str(name), OPTIMIZERS, n=1)
    raise ProblemError(
        f"optimizer = {name!r} is not known{f'; did you mean {near[0]!r}?' if near else ''} Known: {', '.join(OPTIMIZERS)}."
    )


def clip_norm(parameters: list[torch.Tensor], limit: float) -> float:
    """Scale all gradients by one factor so that their joint norm is at most `limit`; returns the norm before."""
    return float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True))


@torch.no_grad()
def clip_adaptive(parameters: list[torch.Tensor], ratio: float, floor: float = 1e-3) -> None:
    """Limit each output unit's gradient norm to `ratio` times its weight norm (Brock et al. 2021)."""
    for p in parameters:
        if p.grad is None:
            continue
        axes = tuple(range(1, p.ndim))
        norm = lambda t, axes=axes: t.square().sum(axes, keepdim=True).sqrt_() if axes else t.abs()  # noqa: E731
        limit = norm(p).clamp_(min=floor).mul_(ratio)
        p.grad.mul_((limit / norm(p.grad).clamp_(min=1e-12)).clamp_(max=1.0))


@torch.no_grad()
def equalise(parameters: list[torch.Tensor]) -> None:
    """Give every layer's gradient the same root mean square, so that all layers learn at the same pace.

    The joint norm is kept: only its distribution over the layers changes.
    """
    live = [p for p in parameters if p.grad is not None]
    norms = torch.stack([p.grad.norm() for p in live])
    share = torch.tensor([math.sqrt(p.numel()) for p in live])
    total = norms.norm()
    for p, norm, part in zip(live, norms, share * total / share.norm(), strict=True):
        p.grad.mul_(part / norm.clamp(min=1e-30))
