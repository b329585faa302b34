"""Linear systems ``K x = b`` of the discrete diffusion operator: conjugate gradients preconditioned by multigrid.

`K` is never assembled: the solver works on face conductances and a diagonal (docs/architecture.md), copes with voids,
periodic axes, jumps of the coefficient and sizes that are not powers of two, and its result does not depend on the
number of threads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from .kernels import multigrid as kernels

COARSEST = 96  # cells solved directly
WEAK = 0.3  # an axis this much weaker than the strongest waits until the others have been coarsened


@dataclass(frozen=True)
class Solve:
    """Solution of ``K x = rhs`` and how well it was found."""

    x: np.ndarray  # padded shape
    iterations: int
    residual: float  # ||rhs - K x|| / ||rhs||, measured; 0 where rhs = 0
    converged: bool  # residual <= tol, or as small as rounding in double precision allows
    rounding: float  # size of the rounding errors in `residual`, relative to ||rhs||


class Multigrid:
    """Solver for one ``K``: ``(K u)_i = diagonal_i u_i + sum over faces g (u_i - u_j)``.

    Parameters
    ----------
    conductances
        (g0, g1, g2), face conductances >= 0 of the padded shape (n0, n1, n2) with one more entry along their own axis;
        the two ends are 0, or equal on a periodic axis.
    diagonal
        Shape (n0, n1, n2), >= 0: walls, losses, and for an implicit step mass / (gamma dt). Cells without any
        conductance and diagonal are inert and stay 0.
    periodic
        Per axis. Only the conductances decide; given for the interface.

    Notes
    -----
    Each V-cycle is a symmetric, positive preconditioner up to single-precision rounding.
    """

    def __init__(self, conductances: Sequence[np.ndarray], diagonal: np.ndarray, periodic: Sequence[bool] = (False,) * 3):
        self.conductances = tuple(np.ascontiguousarray(g, dtype=np.float64) for g in conductances)
        self.diagonal = np.ascontiguousarray(diagonal, dtype=np.float64)
        self.periodic = tuple(periodic)
        self.shape = self.diagonal.shape

    def with_diagonal(self, diagonal: np.ndarray) -> "Multigrid":
        """The same graph with another diagonal."""
        return Multigrid(self.conductances, diagonal, self.periodic)

    @cached_property
    def _blocks(self) -> int | None:
        """Pieces a pass is cut into; None: one thread."""
        threads = numba.get_num_threads()
        return None if threads == 1 or self.diagonal.size < kernels.PARALLEL_CELLS else 4 * threads

    @cached_property
    def _hierarchy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """(table, arena, dense factors, scale) of the preconditioner."""
        strength = [float(g.max(initial=0.0)) for g in self.conductances]
        largest = max(*strength, float(self.diagonal.max(initial=0.0)))
        scale = 1.0 / largest if largest > 0 else 1.0
        table, size = _layout(self.shape, [float(g.sum()) / self.diagonal.size for g in self.conductances])
        arena = np.zeros(size, dtype=np.float32)
        coarsest = math.prod(int(n) for n in table[-1, :3])
        dense = np.zeros((coarsest, coarsest))
        kernels.set_up(table, arena, *self.conductances, self.diagonal, scale, dense)
        return table, arena, dense, scale

    def solve(
        self,
        rhs: np.ndarray,
        x0: np.ndarray | None = None,
        tol: float = 1e-8,
        max_iterations: int = 500,
        norm: str = "residual",
    ) -> Solve:
        """Solve ``K x = rhs`` to a relative residual of `tol`.

        Parameters
        ----------
        rhs, x0
            Right-hand side and first guess (zero by default), padded shape. Not modified.
        tol
            Bound on ||rhs - K x|| / ||rhs||.
        norm
            "residual" is the only norm.

        Returns
        -------
        Solve
            Never raises for want of convergence: read `.converged`.
        """
        if norm != "residual":
            raise ValueError(f"norm = {norm!r}: only 'residual' exists.")
        rhs = np.ascontiguousarray(rhs, dtype=np.float64).reshape(self.shape)
        x = np.zeros(self.shape) if x0 is None else np.array(x0, dtype=np.float64, order="C").reshape(self.shape)
        if not rhs.any():
            return Solve(np.zeros(self.shape), 0, 0.0, True, 0.0)
        table, arena, dense, _ = self._hierarchy
        iterations, residual, size, rounding = kernels.pcg(
            *self.conductances, self.diagonal, rhs, x, tol, max_iterations, table, arena, dense, self._blocks
        )
        converged = bool(residual <= max(tol * size, 2.0 * rounding))
        return Solve(x, int(iterations), float(residual / size), converged, float(rounding / size))

    def cycle(self, rhs: np.ndarray, out: np.ndarray) -> np.ndarray:
        """One symmetric V-cycle for ``K out = rhs`` from zero, into `out`."""
        table, arena, dense, scale = self._hierarchy
        size = float(np.abs(rhs).max(initial=0.0))
        factor = 1.0 / size if size > 0 else 1.0
        n = self.diagonal.size
        b, x, dinv, y = (arena[start : start + n] for start in table[0, [kernels.B, kernels.X, kernels.DINV, kernels.Y]])
        np.multiply(rhs.reshape(-1), factor, out=b, casting="same_kind")
        np.multiply(dinv, b, out=x)
        x *= kernels.STEP_1
        kernels.vcycle(table, arena, dense, self._blocks)
        np.multiply(y, scale / factor, out=out.reshape(-1), dtype=np.float64)
        return out


def _layout(shape: tuple[int, ...], strength: list[float]) -> tuple[np.ndarray, int]:
    """Level table of a hierarchy, and the length of its arena. `strength`: mean conductance per axis."""
    lines, at = [], 0
    size, strength = [int(n) for n in shape], list(strength)
    while True:
        line = np.zeros(kernels.COLUMNS, dtype=np.int64)
        line[:3] = size
        n = math.prod(size)
        for axis in range(3):
            line[kernels.G0 + axis] = at
            at += n // size[axis] * (size[axis] + 1)
        for column in (kernels.W, kernels.DINV, kernels.B, kernels.X, kernels.Y):
            line[column] = at
            at += n
        lines.append(line)
        strongest = max((s for s, n_axis in zip(strength, size, strict=True) if n_axis > 1), default=0.0)
        blocks = [2 if n_axis > 1 and s >= WEAK * strongest else 1 for s, n_axis in zip(strength, size, strict=True)]
        if n <= COARSEST or strongest == 0.0:
            break
        line[kernels.BLOCK : kernels.BLOCK + 3] = blocks
        for axis in range(3):
            strength[axis] *= math.prod(blocks) / blocks[axis] ** 2
        size = [(n_axis + f - 1) // f for n_axis, f in zip(size, blocks, strict=True)]
    return np.array(lines), at


def solve_batch(
    systems: Sequence[tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]], tol: float = 1e-8, max_iterations: int = 500
) -> list[Solve]:
    """Solve many systems (conductances, diagonal, rhs), small ones side by side on all threads.

    Each is solved by the operations of `Multigrid.solve`, so a result does not depend on its companions.
    """
    return [Multigrid(g, w).solve(rhs, tol=tol, max_iterations=max_iterations) for g, w, rhs in systems]


def solve_preconditioned(
    apply: Callable[[np.ndarray], np.ndarray],
    cycle: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rhs: np.ndarray,
    x0: np.ndarray | None,
    tol: float,
    max_iterations: int,
) -> Solve:
    """Conjugate gradients for any symmetric `apply`, with V-cycles of a spectrally close K as preconditioner."""
    size = float(np.linalg.norm(rhs))
    x = np.zeros_like(rhs) if x0 is None else x0.copy()
    if size == 0.0:
        return Solve(np.zeros_like(rhs), 0, 0.0, True, 0.0)
    r = rhs - apply(x) if x0 is not None else rhs.copy()
    z, p, old, iterations = np.empty_like(r), np.zeros_like(r), 0.0, 0
    q, alpha = np.zeros_like(r), 0.0
    while iterations < max_iterations and float(np.linalg.norm(r)) > tol * size:
        cycle(r, z)
        new = float((r * z).sum())
        if not new > 0:
            break
        beta = max(-alpha * float((q * z).sum()) / old, 0.0) if old > 0 else 0.0
        p = z + beta * p
        q = apply(p)
        alpha = new / float((p * q).sum())
        x += alpha * p
        r -= alpha * q
        old = new
        iterations += 1
    residual = float(np.linalg.norm(rhs - apply(x))) / size
    return Solve(x, iterations, residual, residual <= 1.01 * tol, 0.0)
