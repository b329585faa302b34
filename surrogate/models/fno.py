"""Fourier neural operator (Li et al. 2021): pointwise maps beside convolutions done on the lowest Fourier modes."""

import math
from itertools import product

import torch
from torch import nn
from torch.nn import functional

from .layers import conv


class _Filter(torch.autograd.Function):
    """``irfftn(W rfftn(x))`` on the lowest frequencies, x (n, in, *shape), W (corners, in, out, *modes) complex.

    Its transpose is the same filter with conj(W) transposed (Parseval), so that the gradient costs no more than the value.
    Left to autograd, the gradient of a real transform is a complex one of the whole spectrum, several times dearer.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)  # not the spectrum: from these, second derivatives follow too
        return _filtered(_spectrum(x), weight, x.shape[2:])

    @staticmethod
    def backward(ctx, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        shape, given, wanted = x.shape[2:], _spectrum(x), _spectrum(g)
        back = torch.zeros_like(weight)
        for corner, block, kept in _blocks(shape, weight.shape[3:]):
            k = torch.arange(kept[-1].stop)  # of the last axis only half the spectrum is there: the rest counts twice
            count = torch.where((k == 0) | (2 * k == shape[-1]), 1.0, 2.0).to(x.dtype) / shape.numel()
            back[(corner, ..., *kept)] = torch.einsum("ni...,no...->io...", given[block].conj(), wanted[block]) * count
        return _filtered(wanted, weight.conj().transpose(1, 2), shape), back


def _spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfftn(x, dim=tuple(range(2, x.ndim)))


def _filtered(spectrum: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    out = spectrum.new_zeros(len(spectrum), weight.shape[2], *spectrum.shape[2:])
    for corner, block, kept in _blocks(shape, weight.shape[3:]):
        out[block] = torch.einsum("ni...,io...->no...", spectrum[block], weight[(corner, ..., *kept)])
    return torch.fft.irfftn(out, s=shape, dim=tuple(range(2, spectrum.ndim)))


def _blocks(shape: torch.Size, modes: torch.Size):
    """Per corner of the spectrum: its number, where it lies, and the part of its weights that a grid this small has."""
    sizes = [min(m, n // 2) for m, n in zip(modes[:-1], shape[:-1], strict=True)] + [min(modes[-1], shape[-1] // 2 + 1)]
    kept = tuple(slice(0, k) for k in sizes)
    for corner, ends in enumerate(product((False, True), repeat=len(shape) - 1)):
        low = [slice(-k, None) if end else slice(0, k) for k, end in zip(sizes, ends, strict=False)]
        yield corner, (..., *low, kept[-1]), kept


class SpectralConvolution(nn.Module):
    """Multiply the `modes` lowest frequencies per axis by matrices; drop the others.

    The complex weights are stored as pairs of real numbers, which every optimizer, average and file format handles.
    """

    def __init__(self, ndim: int, width: int, modes: int):
        super().__init__()
        corners = 2 ** (ndim - 1)  # positive and negative frequencies of every axis but the last
        self.weight = nn.Parameter(torch.randn(corners, width, width, *(modes,) * ndim, 2) / width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width, *shape), the same shape."""
        return _Filter.apply(x, torch.view_as_complex(self.weight))


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
