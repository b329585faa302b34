"""Is a field the equilibrium of a problem? Residual, maximum principle, finiteness."""

import numpy as np

from diffsim.operator import discretize
from diffsim.problem import Problem


def relative_residual(problem: Problem, u: np.ndarray) -> float:
    """``||F - K u|| / ||F||`` of a field; relative to ``||K u||`` where nothing drives the problem."""
    operator = discretize(problem)
    forcing = operator.forcing(0.0)
    image = operator.apply(operator.enter(u))
    scale = float(np.linalg.norm(forcing)) or float(np.linalg.norm(image)) or 1.0
    return float(np.linalg.norm(np.where(operator.free, forcing - image, 0.0))) / scale


def extrema_excess(problem: Problem, u: np.ndarray) -> float:
    """How far `u` leaves the range that the maximum principle allows, relative to the size of u; 0 where it obeys.

    With no source an equilibrium stays between the smallest and the largest value imposed on it; a source of one sign
    relaxes one of the two bounds. Imposed fluxes of either sign do the same.
    """
    operator = discretize(problem)
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
    inside = operator.enter(u)[operator.free]
    if not values.size or not inside.size:
        return 0.0
    size = max(float(np.abs(inside).max()), float(np.abs(values).max())) or 1.0
    below = 0.0 if pushes_down else float(values.min()) - float(inside.min())
    above = 0.0 if pushes_up else float(inside.max()) - float(values.max())
    return max(0.0, below, above) / size


def faults(problem: Problem, u: np.ndarray, residual_limit: float | None) -> list[str]:
    """What is wrong with `u` as the equilibrium of `problem`, in words; a limit of None leaves out the residual."""
    inside = u if problem.active is None else u[problem.active]
    if not np.isfinite(inside).all():
        return ["the label is not finite"]
    found = []
    if residual_limit is not None and (residual := relative_residual(problem, u)) > residual_limit:
        found.append(
            f"the label is not an equilibrium: relative residual {residual:.1e}, allowed {residual_limit:.1e}"
        )
    if (excess := extrema_excess(problem, u)) > 1e-8:
        found.append(f"the label breaks the maximum principle by {100 * excess:.2g} % of its size")
    return found
