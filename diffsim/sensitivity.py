"""How a number computed from an equilibrium changes with the problem: the adjoint of K u = F.

For J(u) with gradient G = dJ/du, the adjoint field solves K a = G (K is symmetric), and for any parameter p
``dJ/dp = a . (dF/dp - dK/dp u)``: one solve, whatever the number of parameters. J's own dependence on p is left to the
caller.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import ConvergenceError, ProblemError
from .multigrid import Multigrid
from .operator import Operator, discretize
from .problem import Problem


def adjoint(operator: Operator, gradient: np.ndarray, tol: float = 1e-11) -> np.ndarray:
    """The adjoint field K^-1 G, shape ``grid.shape``, 0 in voids and held cells; G = dJ/du of the same shape.

    Raises
    ------
    ProblemError
        If a component is held by nothing: its mean is not decided by the problem.
    ConvergenceError
        If the solve does not converge.
    """
    if not operator.components[2].all():
        raise ProblemError(
            "a part of the problem is held by no side, loss or cell: its mean does not follow from the problem, so neither "
            "do gradients. Hold a value somewhere."
        )
    right = operator.enter(np.nan_to_num(gradient))
    solve = Multigrid(operator.conductances, operator.diagonal, operator.periodic).solve(right, tol=tol)
    if not solve.converged:
        raise ConvergenceError(
            f"the adjoint solve ended at a relative residual of {solve.residual:.1e}, above {tol:.1e}."
        )
    return operator.unpad(solve.x)


def of_source(operator: Operator, a: np.ndarray) -> np.ndarray:
    """dJ/df per cell: the adjoint field times the volume."""
    return a * operator.unpad(operator.volumes)


def of_diffusivity(operator: Operator, u: np.ndarray, a: np.ndarray) -> np.ndarray:
    """dJ/dD per cell for a scalar D, from the equilibrium `u` and the adjoint field `a`, shape ``grid.shape``.

    A face between cells of half resistances r = d / (2 D) carries ``g = A / (r + r')``, so ``dg/dD = g^2 r / (A D)``; a
    wall carries ``g = 1 / (1/(h A) + 1/half)``, so ``dg/dD = g^2 / (half D)``.

    Raises
    ------
    ProblemError
        If D is not a number or an array of positive values, or the problem is nonlinear.
    """
    problem, grid = operator.problem, operator.grid
    if not isinstance(problem.diffusivity, float | np.ndarray) or not problem.linear:
        raise ProblemError("gradients with respect to D need a linear problem whose D is a number or one array.")
    d = np.broadcast_to(problem.diffusivity, grid.shape)
    active = np.ones(grid.shape, dtype=bool) if problem.active is None else problem.active
    if (d[active] <= 0).any():
        raise ProblemError("D is 0 somewhere: gradients with respect to D need D > 0 in every active cell.")
    d = np.where(active, d, 1.0)
    field, a = np.where(active, np.nan_to_num(u), 0.0), np.asarray(a)
    result = np.zeros(grid.shape)
    for axis in range(grid.ndim):
        n = grid.shape[axis]
        shape = [k + (b == axis) for b, k in enumerate(grid.shape)]
        area = np.broadcast_to(grid.face_areas(axis), shape)
        links = operator._links(axis)
        half = 0.5 * grid._along(axis, grid.widths[axis]) / d  # r
        rate = half / d  # -dr/dD
        pairs = [(np.arange(n - 1), np.arange(1, n), np.arange(1, n))]
        if operator.periodic[operator.lead + axis] and n > 1:
            pairs.append((np.array([n - 1]), np.array([0]), np.array([0])))
        for low, high, face in pairs:
            take = lambda x, i, axis=axis: np.take(x, i, axis=axis)  # noqa: E731
            linked = take(active, low) & take(active, high)
            flow = (take(field, high) - take(field, low)) * (take(a, high) - take(a, low))
            weight = -np.where(linked, flow * take(links, face) ** 2 / take(area, face), 0.0)
            for cells in (low, high):
                index: list[Any] = [slice(None)] * grid.ndim
                index[axis] = cells
                result[tuple(index)] += weight * take(rate, cells)
    flat, cells_u, cells_a = result.reshape(-1), field.reshape(-1), a.reshape(-1)
    for wall in operator.walls:
        if wall.side == "fixed":
            continue  # faces to held cells are links above: their value is in `u`, their adjoint is 0
        conducting = wall.g > 0
        cells = wall.cells[conducting]
        g, half_g = wall.g[conducting], wall.half[conducting]
        drop = wall.data_at(wall.value, 0.0)[conducting] - cells_u[cells]
        np.add.at(flat, cells, drop * cells_a[cells] * g**2 / (half_g * d.reshape(-1)[cells]))
    return np.where(active, result, 0.0)


def of_parameters(
    problem_of: Callable[[np.ndarray], Problem], theta: np.ndarray, u: np.ndarray, a: np.ndarray
) -> np.ndarray:
    """dJ/dtheta for any dependence of the problem on a few numbers, by central differences of ``a . (F - K u)``.

    No solve is repeated: u and a stay, only K and F are rebuilt, twice per number. At theta itself the residual is 0, so
    that the differences lose nothing to cancellation.
    """
    theta = np.asarray(theta, dtype=float)
    result = np.empty(theta.size)

    def weighted_residual(values: np.ndarray) -> float:
        operator = discretize(problem_of(values.reshape(theta.shape)))
        r = operator.forcing(0.0) - operator.apply(operator.enter(np.nan_to_num(u)))
        return float((operator.enter(a) * r).sum())

    for k in range(theta.size):
        step = np.cbrt(np.finfo(float).eps) * (abs(theta.flat[k]) or 1.0)
        up, down = theta.ravel().copy(), theta.ravel().copy()
        up[k] += step
        down[k] -= step
        result[k] = (weighted_residual(up) - weighted_residual(down)) / (up[k] - down[k])
    return result.reshape(theta.shape)
