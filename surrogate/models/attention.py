"""Attention over patches of space and over frames (Vaswani et al. 2017; patches after Dosovitskiy et al. 2021).

The two are done in turn (Bertasius, Wang & Torresani 2021: divided space-time attention): every patch looks back at
itself in all frames, then every frame at all its patches. So diffusion's reach, which is the whole box, costs one step.
A problem without frames is one frame.
"""

import torch
from torch import nn
from torch.nn import functional

from diffsim.errors import ProblemError

from .. import fields
from .layers import channels_per_step, conv, crop, pad_to_multiple, start_of, steps_of

_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Attention(nn.Module):
    """``x + attention(norm(x))`` over the second last axis, several heads beside each other."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width), the same shape."""
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # noqa: E731
        query, key, value = map(split, self.ask(self.norm(x)).chunk(3, dim=-1))
        seen = functional.scaled_dot_product_attention(query, key, value)
        return x + self.answer(seen.transpose(-2, -3).flatten(-2))


class Block(nn.Module):
    """Attention over frames, attention over patches, and a dense layer for every token."""

    def __init__(self, width: int, heads: int, frames: int):
        super().__init__()
        self.time = Attention(width, heads) if frames else nn.Identity()
        self.space = Attention(width, heads)
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, frames, patches, width), the same shape."""
        n, frames, patches, _ = x.shape
        x = self.time(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (n, patches)).transpose(1, 2)
        x = self.space(x.flatten(0, 1)).unflatten(0, (n, frames))
        return x + self.dense(x)


class AttentionNetwork(nn.Module):
    """See the module's text. The full grid is seen by convolutions before the patches are cut and after they are put back.

    Parameters
    ----------
    width
        Numbers per token.
    patch
        Cells per axis of a patch.
    blocks, heads
        How often tokens look around, and at how many things at once.
    local
        Channels on the full grid.
    """

    title = "attention over patches and frames"
    periodic: tuple[bool, ...] = ()

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 96,
        patch: int = 4,
        blocks: int = 4,
        heads: int = 4,
        local: int = 24,
    ):
        super().__init__()
        if width % heads:
            raise ProblemError(
                f"model 'attention': width = {width} does not divide by heads = {heads}; give multiples."
            )
        ndim, self.multiple = len(shape), patch
        self.frames = fields.frames_in(coefficients, forcing)
        self.stem = conv(ndim, channels_per_step(coefficients, forcing, self.frames), local)
        self.cut = conv(ndim, local, width, patch, patch)
        self.place = nn.Linear(2 * _WAVES * ndim, width)
        self.blocks = nn.ModuleList(Block(width, heads, self.frames) for _ in range(blocks))
        self.paste = _TRANSPOSED[ndim](width, local, patch, patch)
        self.refine = conv(ndim, 2 * local, local)
        self.head = conv(ndim, local, 1, 1)

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        steps = steps_of(coefficients, forcing, self.frames)
        n = len(steps)
        fine = functional.gelu(self.stem(pad_to_multiple(steps.flatten(0, 1), self.multiple)))
        patches = self.cut(fine)
        place = self.place(waves(patches[:1], self.periodic).flatten(2).transpose(1, 2))
        x = patches.flatten(2).transpose(1, 2) + place
        x = x.unflatten(0, (n, -1))
        for block in self.blocks:
            x = block(x)
        back = self.paste(x[:, -1].transpose(1, 2).unflatten(2, patches.shape[2:]))
        last = fine.unflatten(0, (n, -1))[:, -1]
        h = functional.gelu(self.refine(torch.cat([back, last], dim=1)))
        return start_of(forcing, self.frames) + crop(self.head(h), tuple(forcing.shape[2:]))


_WAVES = 8


def waves(like: torch.Tensor, periodic: tuple[bool, ...]) -> torch.Tensor:
    """Sines and cosines of the place along every axis, from the whole box down, for a batch (n, C, *shape)."""
    parts = []
    for axis, n in enumerate(like.shape[2:]):
        k = torch.arange(1, _WAVES + 1) * torch.pi * (2 if periodic and periodic[axis] else 1)
        phase = k[:, None] * (torch.arange(n) + 0.5) / n
        line = torch.cat([phase.sin(), phase.cos()])
        parts.append(line.view(-1, *(n if a == axis else 1 for a in range(like.ndim - 2))).expand(-1, *like.shape[2:]))
    return torch.cat(parts).expand(len(like), -1, *like.shape[2:])
