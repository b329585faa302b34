"""Fourier neural operator (Li et al. 2021): pointwise maps beside convolutions done on the lowest Fourier modes."""

import math
from itertools import product

import torch
from torch import nn
from torch.nn import functional

from .layers import conv


class SpectralConvolution(nn.Module):
    """Multiply the `modes` lowest frequencies per axis by matrices; drop the others.

    The complex weights are stored as pairs of real numbers, which every optimizer, average and file format handles.
    """

    def __init__(self, ndim: int, width: int, modes: int):
        super().__init__()
        self.modes, self.ndim = modes, ndim
        corners = 2 ** (ndim - 1)  # positive and negative frequencies of every axis but the last
        self.weight = nn.Parameter(torch.randn(corners, width, width, *(modes,) * ndim, 2) / width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width, *shape), the same shape."""
        axes = tuple(range(2, x.ndim))
        shape = x.shape[2:]
        spectrum = torch.fft.rfftn(x, dim=axes)
        out = torch.zeros_like(spectrum)
        kept = [min(self.modes, n // 2) for n in shape[:-1]] + [min(self.modes, shape[-1] // 2 + 1)]
        weight = torch.view_as_complex(self.weight)
        for corner, ends in enumerate(product((False, True), repeat=self.ndim - 1)):
            low = [slice(-k, None) if end else slice(0, k) for k, end in zip(kept, ends, strict=False)]
            block = (..., *low, slice(0, kept[-1]))
            matrices = weight[corner][(..., *(slice(0, k) for k in kept))]
            out[block] = torch.einsum("ni...,io...->no...", spectrum[block], matrices)
        return torch.fft.irfftn(out, s=shape, dim=axes)


class FourierNetwork(nn.Module):
    """See the module's text. The box is padded by zeros at its high ends, except along periodic axes."""

    title = "Fourier neural operator"
    periodic: tuple[bool, ...] = ()

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        layers: int = 4,
        modes: int = 12,
        padding: float = 0.125,
    ):
        super().__init__()
        ndim, self.padding = len(shape), padding
        modes = min(modes, *(n // 2 for n in shape)) if min(shape) > 1 else 1
        self.lift = conv(ndim, coefficients + forcing + ndim, width, 1)
        self.spectral = nn.ModuleList(SpectralConvolution(ndim, width, modes) for _ in range(layers))
        self.local = nn.ModuleList(conv(ndim, width, width, 1) for _ in range(layers))
        self.project = nn.Sequential(conv(ndim, width, 2 * width, 1), nn.GELU(), conv(ndim, 2 * width, 1, 1))
        for block in self.spectral:
            block.weight.plain = True  # stacks of small matrices, one per mode: see optimizers.Muon

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        shape = forcing.shape[2:]
        closed = self.periodic or (False,) * len(shape)
        place = positions(coefficients, closed)
        h = self.lift(torch.cat([coefficients, forcing, place], dim=1)).float()
        pads = [0 if wrapped else math.ceil(self.padding * n) for n, wrapped in zip(shape, closed, strict=True)]
        pads = [p for pad in reversed(pads) for p in (0, pad)]
        h = functional.pad(h, pads)
        for i, (spectral, local) in enumerate(zip(self.spectral, self.local, strict=True)):
            h = spectral(h) + local(h)
            h = functional.gelu(h) if i < len(self.local) - 1 else h
        return self.project(h[(..., *(slice(0, n) for n in shape))])


def positions(like: torch.Tensor, periodic: tuple[bool, ...]) -> torch.Tensor:
    """Coordinates of the cell centres in [0, 1], one channel per axis, for a batch (n, C, *shape); 0 on periodic axes,
    where no place is different from the others."""
    cells = zip(like.shape[2:], periodic, strict=True)
    axes = [torch.zeros(n) if wrapped else (torch.arange(n, dtype=torch.float32) + 0.5) / n for n, wrapped in cells]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return mesh.expand(like.shape[0], *mesh.shape)
