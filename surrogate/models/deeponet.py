"""DeepONet (Lu et al. 2021): the field as a sum of learned basis functions whose weights depend on the problem."""

import torch
from torch import nn

from .fno import positions
from .layers import conv, levels_for

_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class DeepONetwork(nn.Module):
    """A convolutional branch reads the problem; a trunk of dense layers makes `basis` functions of the position."""

    title = "DeepONet"
    periodic: tuple[bool, ...] = ()

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        basis: int = 128,
        levels: int = 5,
    ):
        super().__init__()
        ndim = len(shape)
        widths = [min(width * 2**i, 8 * width) for i in range(levels_for(shape, levels))]
        inputs = [coefficients + forcing, *widths]
        stages = []
        for a, b in zip(inputs, widths, strict=False):
            stages += [conv(ndim, a, b), nn.GELU(), conv(ndim, b, b, 2, 2), nn.GELU()]
        self.branch = nn.Sequential(
            *stages,
            _POOL[ndim](min(2, *shape)),
            nn.Flatten(),
            nn.LazyLinear(2 * basis),
            nn.GELU(),
            nn.Linear(2 * basis, basis),
        )
        self.trunk = nn.Sequential(
            conv(ndim, 3 * ndim, basis, 1),
            nn.GELU(),
            conv(ndim, basis, basis, 1),
            nn.GELU(),
            conv(ndim, basis, basis, 1),
        )
        with torch.no_grad():  # the lazy layer takes its size from here
            self.branch(torch.zeros(1, coefficients + forcing, *shape))

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        weights = self.branch(torch.cat([coefficients, forcing], dim=1))
        closed = self.periodic or (False,) * (forcing.ndim - 2)
        x = positions(coefficients[:1], closed)
        turns = torch.pi * positions(coefficients[:1], (False,) * len(closed))
        turns[:, list(closed)] *= 2  # functions of a periodic axis close across its seam
        functions = self.trunk(torch.cat([x, torch.sin(turns), torch.cos(turns)], dim=1))
        return torch.einsum("nk,k...->n...", weights, functions[0])[:, None] / weights.shape[1] ** 0.5
