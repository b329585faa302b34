"""Steady diffusion through a voxel image: tortuosity of a phase, effective conductivity of a coefficient
field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data import number
from ..errors import ConvergenceError, ProblemError

_BYTES_PER_VOXEL = 140  # image, labels, conductances, multigrid levels and the vectors of conjugate gradients


@dataclass(frozen=True, eq=False)
class Tortuosity:
    """How much a phase hinders diffusion along one axis: ``deff / D = epsilon / tau``."""

    tau: float  # tortuosity factor; inf where nothing percolates
    deff: float  # effective diffusivity relative to that of the free phase
    epsilon: float  # volume fraction of the phase, dead ends and isolated parts included
    residual: float  # ||f - K u|| / ||f||
    iterations: int
    percolates: bool
    explanation: str
    u: np.ndarray = field(repr=False)  # 1 to 0 along the axis in the conducting part, NaN elsewhere


@dataclass(frozen=True, eq=False)
class _Driven:
    """Flow between two opposite faces of a box held at 1 and 0."""

    conductivity: float
    u: np.ndarray
    residual: float
    iterations: int


def tortuosity(image, phase=0, axis: int = 0, *, spacing=1.0, tol: float = 1e-5) -> Tortuosity:
    """Tortuosity factor of a phase of a labelled image (u = 1 and 0 on two opposite faces, no flux
    elsewhere).

    The faces lie half a voxel outside the first and last centres. Parts of the phase that do not touch both
    faces carry no flow and are left out of the solve; `epsilon` counts them.

    Parameters
    ----------
    image
        Labels, shape (n0[, n1[, n2]]), or the path of a TIFF stack, PNG or npy.
    phase
        The label that conducts, or several of them.
    axis
        Direction of the flow.
    spacing
        Voxel size: one number, or one per axis (only ratios matter).
    tol
        Relative residual. The flow is read from the energy, whose error falls with its square.

    Raises
    ------
    ProblemError
        If `image` is no label array, or `phase` or `axis` does not exist in it.
    ConvergenceError
        If the solver does not reach `tol`.

    Notes
    -----
    ``tau = epsilon D / deff``; S. J. Cooper et al., TauFactor, SoftwareX 5 (2016) 203. A phase that does not
    percolate is no error: ``tau = inf``, ``deff = 0``, and `explanation` says so.
    """
    voxels = _image(image)
    if voxels.dtype.kind not in "biu":
        raise ProblemError(f"image has dtype {voxels.dtype}; give labels (integers or booleans). Threshold it first.")
    axis = _axis(axis, voxels.ndim)
    labels = np.atleast_1d(phase)
    pores = voxels == labels[0] if labels.size == 1 else np.isin(voxels, labels)
    epsilon = float(np.count_nonzero(pores) / pores.size)
    if epsilon == 0:
        raise ProblemError(
            f"phase = {phase!r} does not occur in the image; its labels are {', '.join(map(str, np.unique(voxels)[:12]))}."
        )
    path = _percolating(pores, axis)
    if not path.any():
        words = f"phase {phase!r} ({epsilon:.1%} of the volume) does not connect the two faces of axis {axis}: tau is infinite."
        return Tortuosity(math.inf, 0.0, epsilon, 0.0, 0, False, words, np.full(voxels.shape, np.nan))
    driven = _drive(path, axis, spacing, tol)
    deff = driven.conductivity
    words = (
        f"phase {phase!r}: {epsilon:.1%} of the volume, {np.count_nonzero(path) / pores.size:.1%} carries flow along axis "
        f"{axis}; tau = {epsilon / deff:.6g}, relative residual {driven.residual:.1e}."
    )
    return Tortuosity(epsilon / deff, deff, epsilon, driven.residual, driven.iterations, True, words, driven.u)


def effective(field, axis: int = 0, *, spacing=1.0, tol: float = 1e-8) -> float:
    """Effective conductivity of a coefficient field along `axis`, other sides insulated.

    Layers across the flow give their harmonic mean, layers along it their arithmetic mean, both exactly.

    Parameters
    ----------
    field
        Conductivity per cell, >= 0, shape (n0[, n1[, n2]]), or the path of an image or npy; 0 does not
        conduct.
    axis, spacing, tol
        As for `tortuosity`.

    Raises
    ------
    ProblemError
        If `field` is no array of finite numbers >= 0.
    """
    values = _image(field)
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all() or values.min() < 0:
        raise ProblemError("field must hold finite numbers >= 0 (conductivities); it holds others.")
    axis = _axis(axis, values.ndim)
    path = _percolating(values > 0, axis)
    if not path.any():
        return 0.0
    return _drive(np.where(path, values, 0.0), axis, spacing, tol).conductivity


def _image(image) -> np.ndarray:
    if isinstance(image, str | Path):
        from ..store import read_image

        image = read_image(image)
    voxels = np.asarray(image)
    if not 1 <= voxels.ndim <= 3 or voxels.size == 0:
        raise ProblemError(
            f"image has shape {voxels.shape}; give an array of one to three axes with at least one voxel."
        )
    return voxels


def _axis(axis, ndim: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not 0 <= axis < ndim:
        raise ProblemError(f"axis = {axis!r} does not exist; this image has the axes 0 to {ndim - 1}.")
    return int(axis)


def _percolating(conducts: np.ndarray, axis: int) -> np.ndarray:
    """The part of a mask that belongs to face-connected clusters touching both faces of `axis`."""
    from scipy.ndimage import label

    labels, count = label(conducts)
    first, last = (np.unique(np.take(labels, k, axis=axis)) for k in (0, -1))
    through = np.zeros(count + 1, dtype=bool)
    through[np.intersect1d(first, last)] = True
    through[0] = False
    return through[labels]


def _drive(field: np.ndarray, axis: int, spacing, tol: float) -> _Driven:
    """Steady flow through `field` (bool or conductivities) whose conducting cells all connect both faces of
    `axis`.

    Conductances are built here, straight into the solver's layout: for a 256^3 image the general `Problem`
    would hold several times the memory.
    """
    from ..multigrid import Multigrid
    from ..resources import require_memory

    require_memory(_BYTES_PER_VOXEL * field.size, "a flow through " + " x ".join(map(str, field.shape)) + " voxels")
    ndim = field.ndim
    h = np.broadcast_to(np.asarray(spacing, float), (ndim,))
    if not (np.isfinite(h).all() and (h > 0).all()):
        raise ProblemError(f"spacing = {spacing!r} must be > 0: one number, or one per axis.")
    number("tol", tol, above=0.0)
    lead = 3 - ndim
    cells = field.reshape((1,) * lead + field.shape)
    sizes = np.concatenate([np.ones(lead), h])
    conductances = [_faces(cells, a, sizes) for a in range(3)]
    flow_axis = lead + axis
    half = 2 * np.prod(sizes) / sizes[flow_axis] ** 2  # wall conductance per unit of conductivity
    first = (slice(None),) * flow_axis + (0,)
    last = (slice(None),) * flow_axis + (-1,)
    diagonal, rhs = np.zeros(cells.shape), np.zeros(cells.shape)
    rhs[first] = half * cells[first]
    diagonal[first] += half * cells[first]
    diagonal[last] += half * cells[last]
    n = cells.shape[flow_axis]
    guess = np.broadcast_to(
        (1 - (np.arange(n) + 0.5) / n).reshape([-1 if a == flow_axis else 1 for a in range(3)]), cells.shape
    )
    solver = Multigrid(conductances, diagonal)
    solution = solver.solve(rhs, x0=guess * (cells > 0), tol=tol)
    if not solution.converged:
        raise ConvergenceError(
            f"the flow through the image reached a relative residual of {solution.residual:.1e} after {solution.iterations} "
            f"iterations, not tol = {tol:.1e}. Raise tol: the error of tau falls with its square."
        )
    # The dissipated energy is stationary in u, so its error is quadratic in that of u (and it bounds the flow
    # from above).
    u = solution.x
    energy = math.fsum((diagonal * (u * u)).sum(axis=(1, 2)) - 2 * (rhs * u).sum(axis=(1, 2)) + rhs.sum(axis=(1, 2)))
    for a, g in enumerate(conductances):
        inner = (slice(None),) * a + (slice(1, -1),)
        energy += math.fsum((g[inner] * np.diff(u, axis=a) ** 2).sum(axis=(1, 2)))
    area = np.prod(sizes) / sizes[flow_axis] * (cells.size / n)
    result = np.array(u)
    result[cells == 0] = np.nan
    return _Driven(
        float(energy * n * sizes[flow_axis] / area),
        result.reshape(field.shape),
        solution.residual,
        solution.iterations,
    )


def _faces(cells: np.ndarray, axis: int, sizes: np.ndarray) -> np.ndarray:
    """Face conductances across `axis`, one more along it than cells; harmonic mean, 0 at the ends."""
    shape = tuple(n + (a == axis) for a, n in enumerate(cells.shape))
    g = np.zeros(shape)
    low = cells[(slice(None),) * axis + (slice(None, -1),)]
    high = cells[(slice(None),) * axis + (slice(1, None),)]
    inner = g[(slice(None),) * axis + (slice(1, -1),)]
    if cells.dtype == bool:
        np.logical_and(low, high, out=inner, casting="unsafe")
    else:
        np.multiply(low, high, out=inner)
        np.divide(inner, low + high, out=inner, where=inner > 0)
        inner *= 2
    inner *= np.prod(sizes) / sizes[axis] ** 2
    return g
