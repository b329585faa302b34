"""Constant coefficients on a uniform box: exact solves and functions of the operator by fast transforms.

With half-cell walls every axis diagonalises: value-value by the sine transform of type 2, flux-flux by the cosine
transform of type 2, mixed sides by the sine or cosine transform of type 4, periodic sides by the Fourier transform
(Strang, The discrete cosine transform, SIAM Review 41, 1999). `Uniform.axis_eigenvalues` has the eigenvalues.
"""

import math
import os
from collections.abc import Callable

import numpy as np

from .data import number
from .errors import ProblemError
from .uniform import Uniform

# (low side, high side) -> (transform of scipy.fft, type)
_TRANSFORMS = {
    ("value", "value"): ("dst", 2),
    ("flux", "flux"): ("dct", 2),
    ("value", "flux"): ("dst", 4),
    ("flux", "value"): ("dct", 4),
}
_LARGE = 2**18  # cells from which a transform pays for threads


def solve(uniform: Uniform, rhs: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """x with ``(K + shift) x = rhs``, K volume-integrated.

    Where nothing holds the mean (no value side, no loss, no shift) the solution of zero mean is returned, and the mean
    of `rhs` is ignored.

    Parameters
    ----------
    uniform
        A transformable box.
    rhs
        Shape ``uniform.shape``.
    shift
        A number in the units of K, for an implicit step ``capacity * volume / (gamma dt)``.
    """
    symbol = math.prod(uniform.spacing) * (_axis_sum(uniform) + uniform.loss) + shift
    if not symbol.flat[0] > 0.0:  # the constant mode comes first in every transform
        symbol.flat[0] = np.inf
    return _filtered(uniform, rhs, 1.0 / symbol)


def apply_function(uniform: Uniform, u: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """fn(A) u for a function given by its values at the eigenvalues of A [1/s].

    ``fn = lambda a: np.exp(-t * a)`` advances the homogeneous equation by t exactly;
    ``lambda a: (1 - dt * a) ** steps`` makes that many forward Euler steps at once.
    """
    return _filtered(uniform, u, fn((_axis_sum(uniform) + uniform.loss) / uniform.capacity))


def jump(problem, initial, dt: float, steps: int) -> np.ndarray:
    """The field after `steps` forward Euler steps of `dt` [s], in one pair of transforms; grid.shape.

    With steady data ``u_n = u_0 + sum_{j<n} (1 - dt A)^j dt (F - K u_0) / m``: the sum is a function of A. Unstable steps
    are jumped as they would be stepped.

    Raises
    ------
    ProblemError
        If the box is not transformable or data change in time, or dt or steps are not positive.
    """
    from .operator import discretize

    operator = discretize(problem)
    if operator.uniform is None or not operator.uniform.transformable or not operator.forcing.constant:
        raise ProblemError(
            "jump needs constant D, c and loss on a uniform Cartesian box with steady value, flux or periodic sides, no voids "
            "and no held cells; use simulate."
        )
    dt, count = number("dt", dt, above=0.0), number("steps", steps, least=0.0)
    u = operator.enter(problem.grid.field("initial", initial))

    def summed(rates: np.ndarray) -> np.ndarray:
        still = rates * dt < 1e-14
        with np.errstate(over="ignore"):
            grown = (1 - (1 - dt * rates) ** count) / np.where(still, 1.0, rates)
        return np.where(still, count * dt, grown)

    return operator.leave(u + apply_function(operator.uniform, operator.rates(u), summed))


def _axes(uniform: Uniform) -> tuple[dict[tuple[str, int], list[int]], list[int]]:
    """Axes by trigonometric transform, and the periodic axes; axes of one cell without walls need none."""
    trigonometric: dict[tuple[str, int], list[int]] = {}
    periodic = []
    for axis in range(3):
        kinds = uniform.kinds(axis)
        if kinds[0] == "periodic":
            periodic.append(axis)
        elif uniform.shape[axis] > 1:
            trigonometric.setdefault(_TRANSFORMS[kinds], []).append(axis)
    return trigonometric, periodic


def _axis_sum(uniform: Uniform) -> np.ndarray:
    """Sum over the axes of the eigenvalues of -D d2/dx2, in the mode order of the transforms."""
    periodic = _axes(uniform)[1]
    total = np.zeros((1, 1, 1))
    for axis in range(3):
        values = uniform.axis_eigenvalues(axis)
        if axis in periodic[:-1]:  # only the last periodic axis keeps half of its frequencies
            n = uniform.shape[axis]
            k = np.arange(n)
            values = values[np.minimum(k, n - k)]
        total = total + values.reshape([-1 if a == axis else 1 for a in range(3)])
    return total


def _filtered(uniform: Uniform, field: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Transform, multiply, transform back. Orthonormal transforms, so nothing is left to scale."""
    from scipy import fft

    workers = _workers(field.size)
    trigonometric, periodic = _axes(uniform)
    x = np.asarray(field, dtype=np.float64)
    for (name, kind), axes in trigonometric.items():
        x = getattr(fft, f"{name}n")(x, type=kind, axes=axes, norm="ortho", workers=workers)
    if periodic:
        x = fft.rfftn(x, axes=periodic, workers=workers)
    x = x * multipliers
    if periodic:
        x = fft.irfftn(x, s=[uniform.shape[a] for a in periodic], axes=periodic, workers=workers)
    for (name, kind), axes in trigonometric.items():
        x = getattr(fft, f"i{name}n")(x, type=kind, axes=axes, norm="ortho", workers=workers)
    return x


def _workers(size: int) -> int | None:
    if size < _LARGE:
        return None
    return int(os.environ.get("NUMBA_NUM_THREADS", 0)) or min(os.cpu_count() or 1, 4)
