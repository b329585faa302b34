"""Residual network (He et al. 2016) on the full grid, dilated so that it sees the whole box (Yu & Koltun 2016)."""

import torch
from torch import nn
from torch.nn import functional

from .layers import NORMALISATIONS, check_choice, conv, normalisation


class ResidualNetwork(nn.Module):
    """``h + w2 * gelu(norm(w1 * gelu(h)))``, dilations 1, 2, 4, ... in turn.

    With ``normalisation="spectral"`` every kernel's matrix has largest singular value one, and `lipschitz` bounds how
    much the output can change with the input.
    """

    title = "residual network"

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        blocks: int = 8,
        dilations: int = 4,
        normalisation: str = "none",
        dropout: float = 0.0,
    ):
        super().__init__()
        check_choice("resnet", "normalisation", normalisation, NORMALISATIONS)
        ndim = len(shape)
        self.dropout = dropout
        self.stem = _wrapped(normalisation, conv(ndim, coefficients + forcing, width))
        self.blocks = nn.ModuleList(_Block(ndim, width, 2 ** (i % dilations), normalisation) for i in range(blocks))
        self.head = _wrapped(normalisation, conv(ndim, width, 1, 1))

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        h = self.stem(torch.cat([coefficients, forcing], dim=1))
        for block in self.blocks:
            h = h + functional.dropout(block(h), self.dropout, self.training)
        return self.head(h)

    @torch.no_grad()
    def lipschitz(self) -> float:
        """An upper bound of the Lipschitz constant in the 2-norm, infinite where a normalisation depends on the data.

        A convolution is at most the spectral norm of its (out, in * kernel) matrix times the root of its kernel's size
        (Sedghi, Gupta & Long 2019); GELU's slope is at most 1.1290.
        """
        if any(not isinstance(block.norm, nn.Identity) for block in self.blocks):
            return float("inf")
        bound = lambda layer: float(  # noqa: E731
            torch.linalg.matrix_norm(layer.weight.flatten(1), 2) * layer.weight[0, 0].numel() ** 0.5
        )
        total = bound(self.stem) * bound(self.head)
        for block in self.blocks:
            total *= 1 + 1.1290**2 * bound(block.inner) * bound(block.outer)
        return total


class _Block(nn.Module):
    def __init__(self, ndim: int, width: int, dilation: int, kind: str):
        super().__init__()
        self.inner, self.outer = (_wrapped(kind, _dilated(conv(ndim, width, width), dilation)) for _ in range(2))
        self.norm = normalisation(kind, ndim, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.outer(functional.gelu(self.norm(self.inner(functional.gelu(h)))))


def _dilated(layer: nn.Module, dilation: int) -> nn.Module:
    ndim = layer.weight.ndim - 2
    layer.dilation, layer.padding = (dilation,) * ndim, (dilation,) * ndim
    return layer


def _wrapped(kind: str, layer: nn.Module) -> nn.Module:
    if kind == "weight":
        return nn.utils.parametrizations.weight_norm(layer)
    if kind == "spectral":
        return nn.utils.parametrizations.spectral_norm(layer)
    return layer
