"""Learned closure: a network corrects the conductances, the corrected problem is solved exactly.

A coarse grid, or coefficients known at points only, leave out what happens between the points. Upscaling replaces that
by effective conductances (Farmer 2002 reviews the classical ones); here a network reads the neighbourhood of every face
and multiplies its conductance by a positive factor. The equilibrium of the corrected problem is found by multigrid, and the
gradient comes from one adjoint solve. Whatever the weights, the answer is an equilibrium: linear in the right-hand side,
positive for positive sources, between the walls' values without sources, and conservative. It is a learned solver: the discrete
operator is inside.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from diffsim.batch import solve_batch
from diffsim.errors import ConvergenceError, ProblemError

from .. import fields
from .layers import conv

TOLERANCE = 1e-7  # relative residual of the solves: single precision


class _Equilibrium(torch.autograd.Function):
    """(links per axis, sinks, right-hand side) -> u with ``K u = rhs``, for a batch; gradients by the adjoint.

    `links[a]`, (n, *shape), joins each cell to its neighbour at the high end of axis a, across a periodic side too.
    """

    @staticmethod
    def forward(ctx, sinks, rhs, periodic, *links):
        systems = [
            _system(
                [g[i].detach().numpy() for g in links], sinks[i].detach().numpy(), rhs[i].detach().numpy(), periodic
            )
            for i in range(len(rhs))
        ]
        u = _solved(systems, rhs)
        ctx.save_for_backward(u)
        ctx.systems, ctx.like = systems, rhs
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        systems = [
            (faces, diagonal, np.where(_coupled(faces, diagonal), part.reshape(diagonal.shape), 0.0), around)
            for (faces, diagonal, _, around), part in zip(ctx.systems, gradient.double().numpy(), strict=True)
        ]
        a = _solved(systems, gradient)
        ndim = gradient.ndim - 1
        jump = lambda v, axis: v.roll(-1, 1 + axis) - v  # noqa: E731
        return -a * u, a, None, *(-jump(a, axis) * jump(u, axis) for axis in range(ndim))


def _system(links: list[np.ndarray], sinks: np.ndarray, rhs: np.ndarray, periodic: tuple[bool, ...]) -> tuple:
    """What `batch.solve_batch` takes: padded to three axes, double precision."""
    ndim, lead = sinks.ndim, 3 - sinks.ndim
    shape = (1,) * lead + sinks.shape
    faces = [np.zeros(tuple(n + (a == axis) for a, n in enumerate(shape))) for axis in range(3)]
    for axis in range(ndim):
        full = np.moveaxis(faces[lead + axis], lead + axis, 0)
        full[1:] = np.moveaxis(links[axis].reshape(shape), lead + axis, 0)
        full[0 if periodic[axis] else -1] = full[-1] if periodic[axis] else 0.0
    around = (False,) * lead + tuple(periodic)
    return faces, sinks.reshape(shape).astype(np.float64), rhs.reshape(shape).astype(np.float64), around


def _coupled(faces: list[np.ndarray], diagonal: np.ndarray) -> np.ndarray:
    """Where u takes part: cells that are held or void have no conductance at all, and their u stays 0."""
    total = diagonal.copy()
    for axis, g in enumerate(faces):
        g = np.moveaxis(g, axis, 0)
        total += np.moveaxis(g[:-1] + g[1:], 0, axis)
    return total > 0


def _solved(systems: list[tuple], like: torch.Tensor) -> torch.Tensor:
    solves = solve_batch(systems, tol=TOLERANCE)
    worst = max((s.residual for s in solves if not s.converged), default=0.0)
    if worst > 0:
        raise ConvergenceError(
            f"model 'closure': the equilibrium of a corrected problem ended at a relative residual of {worst:.1e}, above "
            f"{TOLERANCE:.0e}; lower lr or `reach`, so that corrections stay moderate."
        )
    return torch.from_numpy(np.stack([s.x.reshape(like.shape[1:]) for s in solves])).to(like)


class ClosureNetwork(nn.Module):
    """See the module's text.

    Parameters
    ----------
    width, depth
        Channels and residual blocks (two 3 x 3 convolutions each) of the network that reads the neighbourhood.
    reach
        Largest logarithm of a correction: conductances change by at most exp(reach).
    """

    title = "learned closure, solved exactly"

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        depth: int = 4,
        reach: float = 3.0,
    ):
        super().__init__()
        ndim = self.ndim = len(shape)
        if coefficients != fields.channels(ndim) or forcing != fields.FORCINGS:
            raise ProblemError(
                "model 'closure': it corrects the operator of a known problem: task='coefficients', hybrid=0."
            )
        if not (math.isfinite(reach) and reach > 0):
            raise ProblemError(f"model 'closure': reach = {reach!r}; give a number > 0.")
        self.reach = reach
        self.stem = conv(ndim, coefficients, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GELU(), conv(ndim, width, width), nn.GELU(), conv(ndim, width, width))
            for _ in range(depth)
        )
        self.head = conv(ndim, width, 2 * ndim + 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # before training: the plain discretisation

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        z = self.stem(coefficients)
        for block in self.blocks:
            z = z + block(z)
        with torch.autocast(z.device.type, enabled=False):
            corrections = self.reach * torch.tanh(self.head(functional.gelu(z.float())) / self.reach)
            return self._equilibrium(coefficients, forcing, corrections)[:, None]

    def _equilibrium(self, coefficients: torch.Tensor, forcing: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
        """The equilibrium under corrections `logs`: two per axis, one of each side's face, and one of what leaves the cell."""
        ndim, n = self.ndim, max(forcing.shape[2:])
        known, kinds = coefficients[:, : 2 * ndim], coefficients[:, 2 * ndim : 4 * ndim]
        leaving = logs[:, -1].exp()
        sinks = coefficients[:, 4 * ndim].expm1() / n**2
        links, periodic = [], []
        for axis in range(ndim):
            sinks = sinks + sum(
                torch.where(kinds[:, 2 * axis + end] > 0, known[:, 2 * axis + end].exp(), 0.0) for end in (0, 1)
            )
            high, low = 2 * axis + 1, 2 * axis
            both = 0.5 * (
                logs[:, high] + logs[:, low].roll(-1, 1 + axis)
            )  # a face has one conductance, seen from two cells
            open_ = kinds[:, high] == 0
            links.append(torch.where(open_, (known[:, high] + both).exp(), 0.0))
            periodic.append(bool(open_.select(1 + axis, -1).any()))
        # Walls, losses and the values they impose are corrected by the same factor, so imposed constants stay solutions.
        rhs = forcing[:, 0] / n**2 + leaving * forcing[:, 1] + forcing[:, 2] / n
        return _Equilibrium.apply(sinks * leaving, rhs / fields.RESPONSE, tuple(periodic), *links)
