"""Layers for 1, 2 and 3 dimensions that several architectures share."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from diffsim.errors import ProblemError

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}


def conv(ndim: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> nn.Module:
    """A convolution that keeps the shape at stride 1 (odd kernels) and divides it by an even stride equal to the kernel."""
    padding = kernel // 2 if stride == 1 else 0
    return _CONV[ndim](inputs, outputs, kernel, stride, padding, bias=bias)


def double(x: torch.Tensor) -> torch.Tensor:
    """Every cell becomes 2^ndim cells of the same value: piecewise constant prolongation."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def laid_out(x: torch.Tensor) -> torch.Tensor:
    """The tensor with its channels innermost, the order in which convolutions on CPUs are several times faster."""
    form = _FORMAT.get(x.ndim - 2)
    return x.contiguous(memory_format=form) if form else x.contiguous()


def lay_out(module: nn.Module, ndim: int) -> nn.Module:
    """The module with its kernels stored as `laid_out` stores fields."""
    form = _FORMAT.get(ndim)
    return module.to(memory_format=form) if form else module


def scaled_normal_(weight: torch.Tensor, gain: float) -> None:
    """Normal weights whose output has `gain` times the standard deviation of their input."""
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Cells of zeros (not active, nothing flows) at the high ends, so that every axis divides by `multiple`."""
    pads: list[int] = []
    for n in reversed(x.shape[2:]):
        pads += [0, -n % multiple]
    return functional.pad(x, pads) if any(pads) else x


def crop(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The first cells of each axis: undoes `pad_to_multiple`."""
    return x[(slice(None), slice(None), *(slice(n) for n in shape))]


def levels_for(shape: tuple[int, ...], most: int, coarsest: int = 4) -> int:
    """How often a grid can be halved, plus one, with at least `coarsest` cells left on its shortest axis."""
    return max(1, min(most, 1 + int(math.log2(max(1, min(shape) / coarsest)))))


def steps_of(coefficients: torch.Tensor, forcing: torch.Tensor, frames: int) -> torch.Tensor:
    """The channels of `surrogate.fields` as a sequence, (n, steps, channels, *shape).

    A step is a frame: values, rates since the frame before, its time from 0 to 1, and what was observed. Where there are
    no frames, all channels are one step.
    """
    if not frames:
        return torch.cat([coefficients, forcing], dim=1)[:, None]
    values, rates = forcing[:, :frames], forcing[:, frames : 2 * frames - 1]
    clock, seen = coefficients[:, 2 * frames : 3 * frames - 2], coefficients[:, -1:]
    start = torch.zeros_like(seen)
    rates, clock = torch.cat([start, rates], dim=1), torch.cat([start, clock, start + 1], dim=1)
    return torch.stack([values, rates, clock, seen.expand_as(values)], dim=2)


def channels_per_step(coefficients: int, forcing: int, frames: int) -> int:
    """Channels of one step of `steps_of`."""
    return 4 if frames else coefficients + forcing


def start_of(forcing: torch.Tensor, frames: int) -> torch.Tensor | float:
    """What a network of frames corrects: their extrapolation, the last channel; 0 where there are no frames."""
    return forcing[:, -1:] if frames else 0.0


NORMALISATIONS = ("none", "batch", "layer", "instance", "group", "weight", "spectral", "standardised")


class Standardised(nn.Module):
    """Activations of the whole layer, over channels and cells of each item, to mean 0 and variance 1; nothing learned."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        return functional.layer_norm(x, x.shape[1:])


def normalisation(kind: str, ndim: int, width: int) -> nn.Module:
    """What follows a convolution of `width` channels; "weight" and "spectral" act on the convolution instead."""
    batch = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim]
    makers: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: batch(width),
        "layer": lambda: nn.GroupNorm(1, width),
        "instance": lambda: nn.GroupNorm(width, width),
        "group": lambda: nn.GroupNorm(math.gcd(8, width), width),
        "standardised": Standardised,
    }
    return makers.get(kind, nn.Identity)()


def normalised_conv(kind: str, ndim: int, inputs: int, outputs: int, **options) -> nn.Module:
    """A convolution, its kernel weight- or spectrally normalised where `kind` says so, and what follows it otherwise."""
    layer = conv(ndim, inputs, outputs, **options)
    if kind == "weight":
        return nn.utils.parametrizations.weight_norm(layer)
    if kind == "spectral":
        return nn.utils.parametrizations.spectral_norm(layer)
    return nn.Sequential(layer, normalisation(kind, ndim, outputs))


def check_choice(model: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option that is not one of `allowed`."""
    if value not in allowed:
        raise ProblemError(f"model '{model}': {name} = {value!r} is not known; choose one of {', '.join(allowed)}.")
