"""The solver as a layer of a network: equilibria forward, adjoint solves backward."""

from collections.abc import Callable

import numpy as np
import torch
from torch.autograd.function import once_differentiable

import diffsim
from diffsim import sensitivity
from diffsim.errors import ProblemError
from diffsim.operator import discretize
from diffsim.problem import Problem

WRT = ("parameters", "diffusivity", "source")


def equilibrium_layer(
    prob_of: Callable[[np.ndarray], Problem], wrt: str = "parameters", tol: float = 1e-11
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A torch function theta -> equilibrium of ``prob_of(theta)``, differentiable by one adjoint solve.

    Parameters
    ----------
    prob_of
        Takes theta as a float64 numpy array and returns a linear, steady `Problem`.
    wrt
        "parameters": theta is any array of few numbers that `prob_of` may use as it likes; costs two discretisations (no
        solve) per number in the backward pass. "diffusivity" or "source": theta has the grid's shape and `prob_of`
        passes it on as that field; the gradient is exact, at the cost of one solve for all cells.
    tol
        Relative residual of both solves.

    Returns
    -------
    callable
        Maps a tensor theta to a tensor of ``grid.shape`` (float64 where theta is float64, else theta's own type).
        NaN in voids.

    Raises
    ------
    ProblemError
        In the call: where the problem is nonlinear or changes in time, or theta is not the field `wrt` says.
    """
    if wrt not in WRT:
        raise ProblemError(f"wrt = {wrt!r} is unknown; choose one of {', '.join(WRT)}.")

    def layer(theta: torch.Tensor) -> torch.Tensor:
        return _Equilibrium.apply(theta, prob_of, wrt, tol)

    return layer


class _Equilibrium(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, prob_of, wrt, tol):
        values = theta.detach().cpu().double().numpy()
        problem = prob_of(values.copy())
        _check(problem, values, wrt)
        u = diffsim.equilibrium(problem, tol=tol).u
        ctx.problem, ctx.values, ctx.u = problem, values, u
        ctx.prob_of, ctx.wrt, ctx.tol = prob_of, wrt, tol
        return torch.from_numpy(u.copy()).to(theta)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        operator = discretize(ctx.problem)
        a = sensitivity.adjoint(operator, gradient.detach().cpu().double().numpy(), tol=ctx.tol)
        if ctx.wrt == "diffusivity":
            result = sensitivity.of_diffusivity(operator, ctx.u, a)
        elif ctx.wrt == "source":
            result = sensitivity.of_source(operator, a)
        else:
            result = sensitivity.of_parameters(ctx.prob_of, ctx.values, ctx.u, a)
        return torch.from_numpy(np.ascontiguousarray(result)).to(gradient), None, None, None


def _check(problem: Problem, values: np.ndarray, wrt: str) -> None:
    if not isinstance(problem, Problem):
        raise ProblemError(f"prob_of returned a {type(problem).__name__}; return a diffsim.Problem.")
    if not (problem.linear and problem.steady_coefficients):
        raise ProblemError("equilibrium_layer needs a linear problem that does not change in time.")
    if wrt == "parameters":
        return
    field = problem.diffusivity if wrt == "diffusivity" else problem.source.steady
    where = np.ones(problem.grid.shape, dtype=bool) if problem.active is None else problem.active
    same = (
        values.shape == problem.grid.shape
        and isinstance(field, np.ndarray)
        and np.array_equal(field[where], values[where])
    )
    if not same:
        raise ProblemError(
            f"wrt = {wrt!r} needs theta of shape {problem.grid.shape}, passed on as the problem's {wrt} unchanged. "
            "Transform theta before the layer, in torch; or use wrt='parameters'."
        )
