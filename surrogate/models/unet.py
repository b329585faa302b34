"""U-Net (Ronneberger, Fischer & Brox 2015): convolutions down to a coarse grid and up again, with skips between."""

from itertools import pairwise

import torch
from torch import nn

from .layers import NORMALISATIONS, check_choice, conv, crop, double, levels_for, normalised_conv, pad_to_multiple


class UNetwork(nn.Module):
    """See the module's text.

    Parameters
    ----------
    width
        Channels on the finest grid; they double per level, up to eightfold.
    normalisation
        One of `layers.NORMALISATIONS`.
    dropout
        Share of channels switched off while training.
    """

    title = "U-Net"

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        levels: int = 4,
        normalisation: str = "group",
        dropout: float = 0.0,
    ):
        super().__init__()
        check_choice("unet", "normalisation", normalisation, NORMALISATIONS)
        ndim, self.levels = len(shape), levels_for(shape, levels)
        self.multiple = 2 ** (self.levels - 1)
        widths = [width * min(2**level, 8) for level in range(self.levels)]

        def block(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(
                normalised_conv(normalisation, ndim, inputs, outputs), nn.GELU(),
                normalised_conv(normalisation, ndim, outputs, outputs), nn.GELU(),
                nn.Dropout1d(dropout) if ndim == 1 else (nn.Dropout2d, nn.Dropout3d)[ndim - 2](dropout),
            )  # fmt: skip

        self.down = nn.ModuleList(
            block(inputs, outputs) for inputs, outputs in zip([coefficients + forcing, *widths], widths, strict=False)
        )
        self.halve = nn.ModuleList(conv(ndim, w, w, 2, 2) for w in widths[:-1])
        self.up = nn.ModuleList(block(a + b, a) for a, b in pairwise(widths))
        self.head = conv(ndim, width, 1, 1)

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        h = pad_to_multiple(torch.cat([coefficients, forcing], dim=1), self.multiple)
        skips = []
        for block, halve in zip(self.down, self.halve, strict=False):
            skips.append(block(h))
            h = halve(skips[-1])
        h = self.down[-1](h)
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            h = block(torch.cat([skip, double(h)], dim=1))
        return crop(self.head(h), tuple(forcing.shape[2:]))
