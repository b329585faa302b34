"""Predictions that say how far they can be off, and how to come closer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import diffsim
from diffsim.bounds import Bound, energy_bound
from diffsim.data import number
from diffsim.errors import ConvergenceError, ProblemError
from diffsim.forecast import Forecast
from diffsim.grid import Grid
from diffsim.operator import Operator, discretize
from diffsim.problem import Problem

from .sensors import frames_of, placed

_CHUNK = 4  # conjugate-gradient steps between two looks at the bound
_MOST_CHUNKS = 50


@dataclass(frozen=True)
class Interval:
    """A statistical statement, not a guarantee: the share `level` of items drawn like the held-out ones lies within.

    Attributes
    ----------
    level
        Share that is covered, on average over such items.
    l2_relative
        Relative L2 error of the whole field.
    items
        Held-out items that it was calibrated on.
    cells
        (2, *shape) between which, on average, the share `level` of the cells lies; None where not calibrated.
    rate
        (low, high) of the slowest rate [1/s]; None where none is predicted.
    """

    level: float
    l2_relative: float
    items: int
    cells: np.ndarray | None = None
    rate: tuple[float, float] | None = None

    kind = "statistical"

    def __str__(self) -> str:
        return (
            f"{100 * self.level:.0f} % of {self.items} validation items had a relative L2 error below "
            f"{100 * self.l2_relative:.3g} %; this holds for problems drawn alike, and is no guarantee for this one"
        )


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predicted equilibrium.

    Attributes
    ----------
    u
        The field, shape ``grid.shape``; NaN in voids.
    bound
        Guaranteed distance to the discrete equilibrium; None where none exists (unknown coefficients, nonlinear D).
    interval
        What validation errors suggest, or None where the model recorded none. Statistical.
    tol
        Relative L2 error up to which `accepted` is True.
    forecast
        The same answer as a `diffsim.forecast.Forecast`, with the slowest rate, later values and the time to
        equilibrium; None where the model gives none.
    """

    u: np.ndarray
    bound: Bound | None
    interval: Interval | None
    tol: float
    operator: Operator | None = None
    forecast: Forecast | None = None

    @property
    def accepted(self) -> bool:
        """The guaranteed relative L2 error is at most `tol`. Never True without a guarantee."""
        return self.bound is not None and bool(self.bound.l2_relative <= self.tol)

    def refine(self, tol: float | None = None) -> "Prediction":
        """Improve the field until its guaranteed relative L2 error is at most `tol`, starting from the prediction.

        Raises
        ------
        ProblemError
            Where the coefficients are unknown: there is nothing to solve.
        ConvergenceError
            Where rounding or an unbounded problem keeps the guarantee above `tol`.
        """
        tol = self.tol if tol is None else number("tol", tol, above=0.0)
        if self.operator is None:
            raise ProblemError(
                "this prediction was made from frames of an unknown problem: there is nothing to refine against."
            )
        if self.bound is None:
            solution = diffsim.equilibrium(self.operator.problem, tol=tol, guess=self.u)
            return replace(self, u=solution.u, tol=tol)
        best, u = self.bound, self.u
        if not np.isfinite(best.energy):
            u = np.zeros_like(u)  # nothing to learn from a field that is not finite
        elif best.l2_relative <= tol:
            return replace(self, tol=tol)
        smallest = np.inf
        for _ in range(_MOST_CHUNKS):
            # the steps that bound u also make its successor
            best = energy_bound(self.operator, u, steps=_CHUNK)
            if best.l2_relative <= tol:
                return replace(self, u=_shown(self.operator, u), bound=best, tol=tol)
            if not best.l2 < 0.9 * smallest and np.isfinite(smallest):
                break
            u, smallest = best.u, best.l2
        raise ConvergenceError(
            f"refine(tol={tol:g}) stopped at a guaranteed relative error of {best.l2_relative:.2e}: more steps do not lower "
            "it, because rounding or the contrast of the problem is in the way. Ask for a larger tol, or use diffsim.equilibrium."
        )

    def plot(self, path: "str | Path | None" = None, truth: np.ndarray | None = None):
        """The prediction, and beside it the truth and the error where given."""
        from diffsim import plots

        return plots.prediction(self, truth=truth, path=path)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.u.shape))
        if self.bound is None:
            return f"Prediction({shape}, no guarantee)"
        verdict = "accepted" if self.accepted else "not accepted"
        return f"Prediction({shape}, within {100 * self.bound.l2_relative:.3g} % of the equilibrium, {verdict} at tol={self.tol:g})"


def predict(
    surrogate, problem, tol: float = 1e-2, *, steps: int | None = None, grid: Grid | None = None, batch: int = 16
):
    """Predict equilibria, each with its guarantee.

    Parameters
    ----------
    surrogate
        A trained model: anything with ``.task`` and ``.fields(problems)`` or ``.from_frames(times, frames)``.
    problem
        Task "coefficients": a `Problem` or a list of them (any mixture of grids). Task "transient": `Observations`
        together with `grid`, a `Trajectory`, or a pair (times, frames), or a list of these.
    tol
        Relative L2 error up to which a prediction is accepted.
    steps
        Conjugate-gradient steps that tighten the bound (the field stays the network's). None: none where the prediction
        is accepted without, else as many of 2 and 5 as may still lead to acceptance.

    Returns
    -------
    Prediction
        A list for a list.

    Raises
    ------
    ProblemError
        Where the model was trained for the other task or another dimension.
    """
    tol = number("tol", tol, above=0.0)
    single = not isinstance(problem, list | tuple) or _is_pair_of_frames(problem)
    given = [problem] if single else list(problem)
    if not given:
        return []
    if surrogate.task == "transient":
        results = [_from_frames(surrogate, one, tol, grid, batch) for one in given]
    else:
        results = _from_problems(surrogate, given, tol, steps, batch)
    return results[0] if single else results


def _from_problems(
    surrogate, problems: Sequence[Problem], tol: float, steps: int | None, batch: int
) -> list[Prediction]:
    for i, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            raise ProblemError(
                f"predict got a {type(problem).__name__} as item {i}; this model maps problems to equilibria: give a "
                "diffsim.Problem."
            )
    fields: dict[int, np.ndarray] = {}
    shapes = {problem.grid.shape for problem in problems}
    for shape in sorted(shapes):
        group = [i for i, problem in enumerate(problems) if problem.grid.shape == shape]
        predicted = surrogate.fields([problems[i] for i in group], batch=batch)
        fields.update(zip(group, predicted, strict=True))
    interval = _interval(surrogate)
    results = []
    for i, problem in enumerate(problems):
        operator = discretize(problem)
        bound = _tight_enough(operator, fields[i], tol) if steps is None else energy_bound(operator, fields[i], steps)
        results.append(Prediction(fields[i], bound, interval, tol, operator))
    return results


def _tight_enough(operator: Operator, u: np.ndarray, tol: float) -> Bound:
    """The cheapest bound that decides whether `u` is accepted at `tol`."""
    bound = energy_bound(operator, u)
    for steps in (2, 5):
        hopeless = not np.isfinite(bound.energy) or (steps > 2 and bound.l2_relative > 4 * tol)
        if bound.l2_relative <= tol or hopeless:
            break
        bound = energy_bound(operator, u, steps)
    return bound


def _from_frames(surrogate, given, tol: float, grid: Grid | None, batch: int) -> Prediction:
    fills = not hasattr(surrogate, "forecast")  # a forecaster knows better than to smooth over what was not read
    if hasattr(given, "points"):
        if grid is None:
            raise ProblemError("observations at points need a grid to predict on: predict(observations, grid=grid).")
        times, frames = frames_of(given, grid) if fills else placed(given, grid)
    elif hasattr(given, "t") and hasattr(given, "u"):
        times, frames = given.t, given.u
    elif _is_pair_of_frames(given):
        times, frames = given
    else:
        raise ProblemError(
            f"predict got a {type(given).__name__}; this model maps early frames to equilibria: give Observations with a "
            "grid, a Trajectory, or (times, frames)."
        )
    times, frames = np.asarray(times), np.asarray(frames)
    if fills:
        u = surrogate.from_frames(times[None], frames[None], batch=batch)[0]
        return Prediction(u, None, _interval(surrogate), tol)
    made = surrogate.forecast(times, frames, grid)
    return Prediction(made.u, None, surrogate.interval(made), tol, forecast=made.forecast)


def _is_pair_of_frames(given) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and np.ndim(given[0]) == 1 and np.ndim(given[1]) >= 2


def _interval(surrogate, level: float = 0.9) -> Interval | None:
    """The `level` quantile of the validation errors that the model's card records, with the finite-sample correction."""
    card = getattr(surrogate, "card", None)
    errors = np.sort(np.asarray((getattr(card, "trained", None) or {}).get("validation_errors", ()), dtype=float))
    rank = int(np.ceil(level * (len(errors) + 1))) - 1  # split conformal prediction: Vovk et al. 2005
    if not 0 <= rank < len(errors) or not np.isfinite(errors[rank]):
        return None
    return Interval(level, float(errors[rank]), len(errors))


def _shown(operator: Operator, u: np.ndarray) -> np.ndarray:
    return operator.leave(operator.enter(np.nan_to_num(u)))
