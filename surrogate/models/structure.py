"""Structure that holds for any weights, added to networks that do not have it: periodic axes and exact sides."""

import torch
from torch import nn

from diffsim.errors import ProblemError

from .layers import laid_out


def wrap(name: str, network: nn.Module, shape: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
    """Close convolutions across the seam of periodic axes: what they would see as zeros is what lies at the other end.

    Networks that join cells in blocks (attribute `multiple`, cells per axis) need axes that divide into blocks.

    Raises
    ------
    ProblemError
        Where they do not; of other grids than `shape`, when the network is called.
    """
    axes = [axis for axis, wrapped in enumerate(periodic) if wrapped]
    if not axes:
        return
    network.periodic = tuple(periodic)
    multiple = getattr(network, "multiple", 1)

    def check(cells: tuple[int, ...]) -> None:
        for axis in axes:
            if cells[axis] % multiple:
                raise ProblemError(
                    f"model '{name}': axis {axis} is periodic with {cells[axis]} cells, which blocks of {multiple} cells do "
                    f"not divide: they would not close across its seam. Give fewer levels (or a smaller patch), or a "
                    "number of cells that divides."
                )

    check(shape)
    network.register_forward_pre_hook(lambda module, inputs: check(tuple(inputs[1].shape[2:])))
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and any(module.padding[a] for a in axes):
            pads = {2 + a: module.padding[a] for a in axes}
            module.padding = tuple(0 if a in axes else p for a, p in enumerate(module.padding))
            module.register_forward_pre_hook(lambda module, inputs, pads=pads: (_wrapped(inputs[0], pads),))


def _wrapped(x: torch.Tensor, pads: dict[int, int]) -> torch.Tensor:
    """The tensor with so many cells from the other end before and behind it, per axis."""
    for axis, pad in pads.items():
        n = x.shape[axis]
        x = x.index_select(axis, torch.arange(-pad, n + pad) % n)
    return laid_out(x)


def envelop(network: nn.Module) -> None:
    """Multiply the output by the last channel of the coefficients, which vanishes at the sides that hold a value."""
    network.register_forward_hook(lambda module, inputs, output: output * inputs[0][:, -1:])
