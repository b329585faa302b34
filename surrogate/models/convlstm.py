"""Convolutional LSTM (Shi et al. 2015): memory cells on the grid read the frames one after the other.

A memory on the full grid hears a neighbour per frame, which is far too slow for diffusion; so there is one per level of
a U-Net, and what the coarse ones remember reaches the whole box. A problem without frames is a sequence of one.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from .. import fields
from .layers import channels_per_step, conv, crop, double, levels_for, pad_to_multiple, start_of, steps_of


class Memory(nn.Module):
    """A cell that keeps, forgets and tells: ``c = f * c + i * tanh(g)``, ``h = o * tanh(c)``, gates by convolution."""

    def __init__(self, ndim: int, inputs: int, width: int):
        super().__init__()
        self.gates = conv(ndim, inputs + width, 4 * width)
        with torch.no_grad():
            self.gates.bias[width : 2 * width] = 1.0  # remember at first (Jozefowicz et al. 2015)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None):
        """The state (h, c) after reading x, (n, width, *shape) each."""
        width = self.gates.weight.shape[0] // 4
        h, c = state or (x.new_zeros(len(x), width, *x.shape[2:]),) * 2
        enter, forget, leave, content = self.gates(torch.cat([x, h.to(x.dtype)], dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(forget.float()) * c + torch.sigmoid(enter.float()) * torch.tanh(content.float())
        return torch.sigmoid(leave.float()) * torch.tanh(c), c


class ConvLSTMNetwork(nn.Module):
    """See the module's text.

    Parameters
    ----------
    width
        Channels on the finest grid; they double per level, up to fourfold.
    levels
        Grids at most; fewer where the training grid gets shorter than four cells.
    """

    title = "convolutional LSTM"

    def __init__(self, coefficients: int, forcing: int, shape: tuple[int, ...], width: int = 24, levels: int = 4):
        super().__init__()
        ndim, self.levels = len(shape), levels_for(shape, levels)
        self.multiple = 2 ** (self.levels - 1)
        self.frames = fields.frames_in(coefficients, forcing)
        widths = [width * min(2**level, 4) for level in range(self.levels)]
        self.stem = conv(ndim, channels_per_step(coefficients, forcing, self.frames), width)
        self.memories = nn.ModuleList(Memory(ndim, w, w) for w in widths)
        self.halve = nn.ModuleList(conv(ndim, a, b, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(conv(ndim, a + b, a) for a, b in pairwise(widths))
        self.head = conv(ndim, width, 1, 1)

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        steps = steps_of(coefficients, forcing, self.frames)
        states: list = [None] * self.levels
        for x in steps.unbind(dim=1):
            z = functional.gelu(self.stem(pad_to_multiple(x, self.multiple)))
            for level, memory in enumerate(self.memories):
                if level:
                    z = self.halve[level - 1](z)
                states[level] = memory(z, states[level])
                z = z + states[level][0]
        h, *finer = [state[0] for state in reversed(states)]
        for up, told in zip(reversed(self.up), finer, strict=True):
            h = functional.gelu(up(torch.cat([told, double(h)], dim=1)))
        return start_of(forcing, self.frames) + crop(self.head(h), tuple(forcing.shape[2:]))
