"""V-cycles of convolutions whose smoothing is steered by features of the coefficients.

After MgNO (He, Liu & Xu 2023: linear operators as multigrid cycles of 3 x 3 convolutions) with two changes. The state is
never passed through a nonlinearity: features of the coefficients, computed once per level, multiply it. So the network
is linear in the right-hand side, as the equilibrium is, and superposition holds exactly for any weights. And the
smoothers ``h + W2 (m(D) * W1 h)`` have the form of a relaxation with variable coefficients, ``u + w div(D grad u)``, so
that a cycle can express what classical multigrid does and improve on it.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from diffsim.errors import ProblemError

from .. import fields
from .layers import conv, crop, double, levels_for, pad_to_multiple, scaled_normal_


class Smoother(nn.Module):
    """``h + W2 (m * W1 h)``: local, linear in h, with coefficients m (n, width, *shape) from the features."""

    def __init__(self, ndim: int, width: int, gain: float):
        super().__init__()
        self.inner = conv(ndim, width, width, bias=False)
        self.outer = conv(ndim, width, width, bias=False)
        scaled_normal_(self.outer.weight, gain)

    def forward(self, h: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The smoothed state, same shape and dtype as h."""
        return h + self.outer(self.inner(h) * features)


class Encoder(nn.Module):
    """Features of the coefficients on every level, the finest first: residual convolutions between halvings."""

    def __init__(self, ndim: int, channels: int, width: int, levels: int, depth: int):
        super().__init__()
        self.stem = conv(ndim, channels, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList(conv(ndim, width, width) for _ in range(depth)) for _ in range(levels)
        )
        self.halvings = nn.ModuleList(conv(ndim, width, width, 2, 2) for _ in range(levels - 1))

    def forward(self, coefficients: torch.Tensor) -> list[torch.Tensor]:
        """(n, width, *shape / 2^level) per level."""
        z, features = self.stem(coefficients), []
        for level, blocks in enumerate(self.blocks):
            if level:
                z = self.halvings[level - 1](z)
            for block in blocks:
                z = z + block(functional.gelu(z))
            features.append(functional.gelu(z))
        return features


class Cycle(nn.Module):
    """One V-cycle over all levels; the coarse states are kept from cycle to cycle."""

    def __init__(self, ndim: int, width: int, levels: int, coarse: int, gain: float):
        super().__init__()
        fine = range(levels - 1)
        self.before = nn.ModuleList(Smoother(ndim, width, gain) for _ in fine)
        self.after = nn.ModuleList(Smoother(ndim, width, gain) for _ in fine)
        self.coarse = nn.ModuleList(Smoother(ndim, width, gain) for _ in range(coarse))
        self.restrict = nn.ModuleList(conv(ndim, width, width, 2, 2, bias=False) for _ in fine)
        self.prolong = nn.ModuleList(conv(ndim, width, width, 1, bias=False) for _ in fine)
        for transfer in self.prolong:
            scaled_normal_(transfer.weight, gain)

    def forward(self, states: list[torch.Tensor | None], features: list[torch.Tensor]) -> list[torch.Tensor]:
        """The states after the cycle, finest first; None below the finest before the first cycle."""
        down: list[torch.Tensor] = []
        h = states[0]
        for level, (smooth, restrict) in enumerate(zip(self.before, self.restrict, strict=True)):
            h = smooth(h, features[level])
            down.append(h)
            h = restrict(h)
            if states[level + 1] is not None:
                h = h + states[level + 1]
        for smooth in self.coarse:
            h = smooth(h, features[-1])
        up = [h]
        for level in reversed(range(len(down))):
            h = self.after[level](down[level] + double(self.prolong[level](h)), features[level])
            up.append(h)
        return up[::-1]


class Residual:
    """``n^2 (F - K u)`` of the discrete problem itself, rebuilt from the channels of `surrogate.fields`; nothing learned."""

    def __init__(self, coefficients: torch.Tensor, forcing: torch.Tensor):
        self.ndim, self.n = forcing.ndim - 2, max(forcing.shape[2:])
        logs, kinds = coefficients[:, : 2 * self.ndim], coefficients[:, 2 * self.ndim : 4 * self.ndim]
        self.faces = torch.where(kinds < 0, torch.zeros_like(logs), logs.exp())
        self.diagonal = self.faces.sum(1, keepdim=True) + coefficients[:, 4 * self.ndim, None].expm1() / self.n**2
        self.walls = (kinds > 0).to(logs.dtype)
        self.sources = (forcing[:, :1] + self.n**2 * forcing[:, 1:2] + self.n * forcing[:, 2:3]) / fields.RESPONSE

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape), for u of that shape."""
        ku = self.diagonal * u
        for axis in range(self.ndim):
            for end, shift in ((0, 1), (1, -1)):
                g = self.faces[:, 2 * axis + end, None] * (1 - self.walls[:, 2 * axis + end, None])
                ku = ku - g * u.roll(shift, 2 + axis)  # across periodic sides too; other sides are walls or closed
        return self.sources - self.n**2 * ku


class MultigridNetwork(nn.Module):
    """See the module's text. Linear in `forcing`; any number of axes; grids of any size.

    Parameters
    ----------
    width
        Channels on every level.
    cycles
        V-cycles one after the other.
    levels
        Grids at most; fewer where the training grid gets shorter than four cells.
    depth
        Convolutions of the encoder per level.
    coarse
        Smoothing steps on the coarsest grid.
    tied
        One cycle's weights for all cycles: an iteration instead of a stack.
    residual
        Give every cycle the exact residual of the answer so far. That makes the network a learned solver: it knows the
        discrete operator, which the others have to learn. Only for task "coefficients".
    """

    title = "multigrid convolutions"

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        cycles: int = 4,
        levels: int = 5,
        depth: int = 2,
        coarse: int = 2,
        tied: bool = False,
        residual: bool = False,
    ):
        super().__init__()
        if residual and (coefficients != fields.channels(len(shape)) or forcing < fields.FORCINGS):
            raise ProblemError(
                "model 'multigrid': residual=True needs the channels of a problem as they are: task='coefficients', and no "
                "exact_sides."
            )
        ndim, self.levels, self.repeats = len(shape), levels_for(shape, levels), cycles
        self.multiple = 2 ** (self.levels - 1)
        gain = 1 / math.sqrt(2 * cycles)
        self.encoder = Encoder(ndim, coefficients, width, self.levels, depth)
        self.lift = conv(ndim, forcing, width, 1, bias=False)
        self.cycles = nn.ModuleList(Cycle(ndim, width, self.levels, coarse, gain) for _ in range(1 if tied else cycles))
        self.head = conv(ndim, width, 1, bias=False)
        self.residual = residual
        self.feedback = conv(ndim, 1, width, 1, bias=False) if residual else nn.Identity()
        for p in (*self.lift.parameters(), *self.encoder.stem.parameters(), *self.head.parameters()):
            p.plain = True  # first and last layers: see optimizers.Muon

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        shape = tuple(forcing.shape[2:])
        features = self.encoder(pad_to_multiple(coefficients, self.multiple))
        # The state stays in single precision also where convolutions run in bfloat16: what is added to it is rounded,
        # what it has accumulated is not.
        h = self.lift(pad_to_multiple(forcing, self.multiple)).float()
        states = [h] + [None] * (self.levels - 1)
        exact = Residual(coefficients, forcing) if self.residual else None
        for i in range(self.repeats):
            if exact and i > 0:
                states = [h + self._fed_back(exact, h, shape), *states[1:]]
            h, *_ = states = self.cycles[i % len(self.cycles)](states, features)
        with torch.autocast(h.device.type, enabled=False):
            return crop(self.head(h), shape)

    def _fed_back(self, exact: Residual, h: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """What the residual of the answer so far adds to the state; in single precision, because it cancels."""
        with torch.autocast(h.device.type, enabled=False):
            return self.feedback(pad_to_multiple(exact(crop(self.head(h), shape)), self.multiple))
