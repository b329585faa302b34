"""Is a field the equilibrium of a problem? Residual, maximum principle, finiteness."""

import numpy as np

from diffsim.operator import Operator, discretize
from diffsim.problem import Problem


def relative_residual(problem: Problem, u: np.ndarray, operator: Operator | None = None) -> float:
    """``||F - K u|| / ||F||`` of a field; relative to ``||K u||`` where nothing drives the problem."""
    operator = operator or discretize(problem)
    forcing = operator.forcing(0.0)
    image = operator.apply(operator.enter(u))
    scale = float(np.linalg.norm(forcing)) or float(np.linalg.norm(image)) or 1.0
    return float(np.linalg.norm(np.where(operator.free, forcing - image, 0.0))) / scale


def extrema(operator: Operator) -> tuple[float, float]:
    """The range that the maximum principle allows the equilibrium; infinite ends where it says nothing.

    With no source an equilibrium stays between the smallest and the largest value imposed on it; a source of one sign
    relaxes one of the two bounds. Imposed fluxes of either sign do the same. Where no value is imposed on a part of the
    domain, nothing is known of it.
    """
    problem = operator.problem
    if not operator.components[2].all():
        return -np.inf, np.inf
    imposed, pushes_up, pushes_down = [], False, False
    for wall in operator.walls:
        conducting = wall.g > 0
        imposed.append(wall.data_at(wall.value, 0.0)[conducting])
        flux = wall.data_at(wall.flux, 0.0)
        pushes_up, pushes_down = pushes_up or bool((flux > 0).any()), pushes_down or bool((flux < 0).any())
    if np.any(problem.loss):
        imposed.append(np.ravel(problem.ambient(0.0)))
    source = np.asarray(problem.source(0.0))
    pushes_up, pushes_down = pushes_up or bool((source > 0).any()), pushes_down or bool((source < 0).any())
    values = np.concatenate(imposed) if imposed else np.empty(0)
    if not values.size:  # no cell is free
        return -np.inf, np.inf
    return -np.inf if pushes_down else float(values.min()), np.inf if pushes_up else float(values.max())


def extrema_excess(problem: Problem, u: np.ndarray, operator: Operator | None = None) -> float:
    """How far `u` leaves the range that the maximum principle allows, relative to the size of u; 0 where it obeys."""
    operator = operator or discretize(problem)
    lower, upper = extrema(operator)
    inside = operator.enter(u)[operator.free]
    if not inside.size:
        return 0.0
    size = max(float(np.abs(inside).max()), *(abs(x) for x in (lower, upper) if np.isfinite(x)), 0.0) or 1.0
    return max(0.0, lower - float(inside.min()), float(inside.max()) - upper) / size


def faults(
    problem: Problem, u: np.ndarray, residual_limit: float | None, operator: Operator | None = None
) -> list[str]:
    """What is wrong with `u` as the equilibrium of `problem`, in words; a limit of None leaves out the residual.

    `operator`: that of the problem, where it is at hand.
    """
    operator = operator or discretize(problem)
    inside = u if problem.active is None else u[problem.active]
    if not np.isfinite(inside).all():
        return ["the label is not finite"]
    found = []
    if residual_limit is not None and (residual := relative_residual(problem, u, operator)) > residual_limit:
        found.append(f"the label is not an equilibrium: relative residual {residual:.1e}, allowed {residual_limit:.1e}")
    if (excess := extrema_excess(problem, u, operator)) > 1e-8:
        found.append(f"the label breaks the maximum principle by {100 * excess:.2g} % of its size")
    return found
