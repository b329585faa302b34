"""Guaranteed bounds for predictions: how far any field can be from the equilibrium of a known, linear problem."""

from collections.abc import Sequence

import numpy as np

from diffsim.bounds import Bound, energy_bound
from diffsim.errors import ProblemError
from diffsim.operator import discretize
from diffsim.problem import Problem

__all__ = ["Bound", "can_certify", "certify"]


def can_certify(problem: Problem) -> bool:
    """A bound exists: the problem is linear and its coefficients, sides and sources do not change in time."""
    return problem.linear and problem.steady_coefficients and discretize(problem).forcing.constant


def certify(problem: Problem | Sequence[Problem], u, steps: int = 0):
    """Bound the distance of a field from the discrete equilibrium of `problem`, whoever made the field.

    Parameters
    ----------
    problem
        A linear, steady problem, or a list of them.
    u
        The candidate, shape ``grid.shape``; for a list, one each. NaN in an active cell gives an infinite bound.
    steps
        Steps of preconditioned conjugate gradients that tighten the bound; ``bound.u`` is the candidate they improve.

    Returns
    -------
    Bound
        ``energy_lower <= sqrt(e'Ke) <= energy`` and ``sqrt(sum V e^2) <= l2`` with e = u - equilibrium(problem). In
        components that no side anchors, the equilibrium is the one with the content of `u`.

    Raises
    ------
    ProblemError
        If the shape is wrong, the problem is nonlinear or changes in time, or has no equilibrium.
    """
    if isinstance(problem, Problem):
        return energy_bound(discretize(problem), u, steps)
    problems, fields = list(problem), list(u) if not isinstance(u, np.ndarray) or u.ndim else []
    if len(problems) != len(fields):
        raise ProblemError(
            f"certify got {len(problems)} problems and {len(fields)} candidates; give one candidate each."
        )
    return [energy_bound(discretize(p), field, steps) for p, field in zip(problems, fields, strict=True)]
