"""Is a field the equilibrium of a problem? Residual, maximum principle, finiteness."""

import math

import numpy as np

from diffsim.operator import Operator, discretize, norm
from diffsim.problem import Problem


def relative_residual(problem: Problem, u: np.ndarray, operator: Operator | None = None) -> float:
    """``||F - K u|| / ||F||`` of a field; relative to ``||K u||`` where nothing drives the problem."""
    operator = operator or discretize(problem)
    forcing = operator.forcing(0.0)
    image = operator.apply(operator.pad(u) if operator.all_free else operator.enter(u))
    scale = norm(forcing) or norm(image) or 1.0
    rest = np.subtract(forcing, image, out=image)
    return norm(rest if operator.all_free else np.where(operator.free, rest, 0.0)) / scale


def extrema(operator: Operator) -> tuple[float, float]:
    """The range that the maximum principle allows the equilibrium; infinite ends where it says nothing.

    With no source an equilibrium stays between the smallest and the largest value imposed on it; a source of one sign
    relaxes one of the two bounds. Imposed fluxes of either sign do the same. Where no value is imposed on a part of the
    domain, nothing is known of it.
    """
    problem = operator.problem
    if not operator.anchored.all():
        return -np.inf, np.inf
    imposed, pushing = [], [_range(problem.source(0.0))]
    for wall in operator.walls:
        if wall.g.any():
            value = wall.value(0.0) if wall.value.scalar else wall.data_at(wall.value, 0.0)[wall.g > 0]
            imposed.append(_range(value))
        pushing.append(_range(wall.flux(0.0) if wall.flux.scalar else wall.data_at(wall.flux, 0.0)))
    if np.any(problem.loss):
        imposed.append(_range(problem.ambient(0.0)))
    if not imposed:  # no cell is free
        return -np.inf, np.inf
    pushed_down, pushed_up = min(low for low, _ in pushing) < 0, max(high for _, high in pushing) > 0
    lower, upper = min(low for low, _ in imposed), max(high for _, high in imposed)
    return -np.inf if pushed_down else lower, np.inf if pushed_up else upper


def _range(value: float | np.ndarray) -> tuple[float, float]:
    """Smallest and largest of a number or an array."""
    return (value, value) if isinstance(value, float) else (float(np.min(value)), float(np.max(value)))


def extrema_excess(problem: Problem, u: np.ndarray, operator: Operator | None = None) -> float:
    """How far `u` leaves the range that the maximum principle allows, relative to the size of u; 0 where it obeys."""
    operator = operator or discretize(problem)
    lower, upper = extrema(operator)
    inside = u if operator.all_free else operator.enter(u)[operator.free]
    if not inside.size:
        return 0.0
    least, most = float(inside.min()), float(inside.max())
    size = max(-least, most, *(abs(x) for x in (lower, upper) if math.isfinite(x)), 0.0) or 1.0
    return max(0.0, lower - least, most - upper) / size


def faults(
    problem: Problem, u: np.ndarray, residual_limit: float | None, operator: Operator | None = None
) -> list[str]:
    """What is wrong with `u` as the equilibrium of `problem`, in words; a limit of None leaves out the residual.

    `operator`: that of the problem, where it is at hand.
    """
    operator = operator or discretize(problem)
    inside = u if problem.active is None else u[problem.active]
    if not (math.isfinite(inside.min()) and math.isfinite(inside.max())):  # NaN is both
        return ["the label is not finite"]
    found = []
    if residual_limit is not None and (residual := relative_residual(problem, u, operator)) > residual_limit:
        found.append(f"the label is not an equilibrium: relative residual {residual:.1e}, allowed {residual_limit:.1e}")
    if (excess := extrema_excess(problem, u, operator)) > 1e-8:
        found.append(f"the label breaks the maximum principle by {100 * excess:.2g} % of its size")
    return found
