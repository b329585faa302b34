"""What a surrogate has to beat: predictors that take no training worth the name, and the solver itself.

Every baseline is a function of the training arrays (or of nothing) and the test items, and returns fields (n, *shape).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import diffsim
from diffsim.errors import ProblemError
from diffsim.grid import Grid
from diffsim.problem import Problem

from .dataset import Item

_RIDGES = 10.0 ** np.arange(-8, 3)


def training_mean(train: dict[str, np.ndarray], items: Sequence[Item]) -> np.ndarray:
    """The mean label, whatever the question."""
    return np.broadcast_to(train["u"].mean(axis=0), (len(items), *train["u"].shape[1:]))


def nearest_neighbour(train: dict[str, np.ndarray], items: Sequence[Item]) -> np.ndarray:
    """The label of the training item whose input is closest."""
    known, asked = _inputs(train), _inputs(_arrays(items))
    distance = (known**2).sum(axis=1)[None] - 2 * asked @ known.T  # up to a constant per row
    return train["u"][distance.argmin(axis=1)]


@dataclass(frozen=True, eq=False)
class Ridge:
    """``label = mean + (input - center) @ weights @ shapes``: a linear map into the leading modes of the labels.

    Attributes
    ----------
    center, mean
        Means of inputs (p,) and labels (q,).
    weights, shapes
        (p, modes) and (modes, q).
    """

    center: np.ndarray
    mean: np.ndarray
    weights: np.ndarray
    shapes: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Labels (n, q) of inputs (n, p)."""
        return self.mean + (inputs - self.center) @ self.weights @ self.shapes


def fit_ridge(inputs: np.ndarray, labels: np.ndarray, modes: int = 64) -> Ridge:
    """Ridge regression from inputs (n, p) to the leading modes of labels (n, q); the penalty by leave-one-out error.

    The leave-one-out residuals come in closed form from the kernel matrix (Golub, Heath & Wahba 1979).
    """
    center, mean = inputs.mean(axis=0), labels.mean(axis=0)
    known = inputs - center
    left, values, right = np.linalg.svd(labels - mean, full_matrices=False)
    amplitudes, shapes = (left * values)[:, :modes], right[:modes]
    kernel = known @ known.T
    scale = float(np.trace(kernel)) / len(kernel) or 1.0
    # The means fit constants without a penalty, so constants are no part of the residuals that are left out. As the
    # kernel maps them to 0, giving them the eigenvalue 1 instead changes no weight, and keeps them apart from others.
    eigenvalues, vectors = np.linalg.eigh(kernel / scale + 1 / len(kernel))
    rotated = vectors.T @ amplitudes

    def weights_and_error(ridge: float):
        shrink = 1 / (np.maximum(eigenvalues, 0) + ridge)
        weights = vectors @ (shrink[:, None] * rotated)
        inverse_diagonal = np.maximum((vectors**2) @ shrink - 1 / (len(kernel) * (1 + ridge)), np.finfo(float).tiny)
        return weights, float(((weights / inverse_diagonal[:, None]) ** 2).sum())

    best, _ = min((weights_and_error(ridge) for ridge in _RIDGES), key=lambda pair: pair[1])
    return Ridge(center, mean, known.T @ best / scale, shapes)


def pod_ridge(train: dict[str, np.ndarray], items: Sequence[Item], modes: int = 64) -> np.ndarray:
    """Ridge regression from log D and f (or the frames) to the leading modes of the labels: see `fit_ridge`."""
    ridge = fit_ridge(_inputs(train), train["u"].reshape(len(train["u"]), -1), modes)
    return ridge(_inputs(_arrays(items))).reshape(len(items), *train["u"].shape[1:])


def coarse_solve(items: Sequence[Item], factor: int = 2) -> np.ndarray:
    """Equilibria on cells `factor` times wider, interpolated: D by its geometric mean, the rest by its mean."""
    problems = [coarsened(item.problem, factor) for item in items]
    solutions = diffsim.equilibrium(problems, tol=1e-8)
    return np.stack([_interpolated(s.u, item.problem.grid.shape) for s, item in zip(solutions, items, strict=True)])


def coarsened(problem: Problem, factor: int) -> Problem:
    """The problem on cells `factor` times wider; for uniform boxes without voids and with plain coefficients.

    Raises
    ------
    ProblemError
        Where it cannot be coarsened.
    """
    grid = problem.grid
    plain = all(isinstance(x, float | np.ndarray) for x in (problem.diffusivity, problem.capacity, problem.loss))
    steady = problem.source.constant and problem.ambient.constant
    if not (grid.uniform and plain and steady and problem.all_free and not problem.contacts):
        raise ProblemError("only uniform boxes with plain coefficients, without voids and held cells, are coarsened.")
    if any(n % factor for n in grid.shape) or any(
        np.ndim(v) for s in problem.boundary.values() for v in vars(s).values()
    ):
        raise ProblemError(f"a grid of {grid.shape} with sides that vary does not divide by {factor}.")
    coarse = Grid(shape=tuple(n // factor for n in grid.shape), lengths=grid.lengths, origin=grid.origin)
    d = problem.diffusivity
    if isinstance(d, np.ndarray):
        if (d <= 0).any():
            raise ProblemError("D = 0 somewhere: its geometric mean says nothing.")
        d = np.exp(_means(np.log(d), factor))
    return Problem(
        coarse,
        diffusivity=d,
        capacity=_means(problem.capacity, factor),
        loss=_means(problem.loss, factor),
        ambient=_means(problem.ambient.steady, factor),
        source=_means(problem.source.steady, factor),
        boundary=dict(problem.boundary),
    )


def last_frame(items: Sequence[Item]) -> np.ndarray:
    """A transient's last frame: no extrapolation at all."""
    return np.stack([item.frames[-1] for item in items])


def exponential(train: dict[str, np.ndarray], items: Sequence[Item]) -> np.ndarray:
    """Per point, the limit of ``u(t) = a + b q^t`` fitted to the frames' increments; q at most what did best in training.

    Successive increments of one exponential have the ratio q; the least-squares ratio over all of them is used.
    """
    frames = np.stack([item.frames for item in items])
    if "frames" not in train or not len(train["u"]):
        return _limit(frames, 0.9)
    known = train["frames"][:256]
    errors = [np.square(_limit(known, most) - train["u"][:256]).sum() for most in _RATIOS]
    return _limit(frames, float(_RATIOS[int(np.argmin(errors))]))


def exponential_whole(train: dict[str, np.ndarray], items: Sequence[Item]) -> np.ndarray:
    """As `exponential`, with one ratio for the whole field."""
    frames = np.stack([item.frames for item in items])
    return _limit(frames, 0.99, whole=True)


def forecasts(items: Sequence[Item], method: str) -> np.ndarray:
    """`diffsim.forecast` item by item; "linear-inverse" also knows the grid and the sides, but neither D nor the source."""
    results = []
    for item in items:
        known = item.problem.with_(diffusivity=1.0, source=0.0) if method == "linear-inverse" else None
        results.append(diffsim.forecast(item.times, item.frames, method, problem=known).u)
    return np.stack(results)


_RATIOS = np.array([0.0, 0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99])


def _limit(frames: np.ndarray, most: float, whole: bool = False) -> np.ndarray:
    """frames (n, k, *shape), equally spaced."""
    steps = np.diff(frames, axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    axes = tuple(range(1, frames.ndim)) if whole else (1,)
    power = (before**2).sum(axis=axes, keepdims=whole)
    power = power[:, 0] if whole else power
    match = (before * after).sum(axis=axes, keepdims=whole)
    match = match[:, 0] if whole else match
    ratio = np.clip(np.divide(match, power, out=np.zeros_like(power), where=power > 0), 0.0, most)
    return frames[:, -1] + steps[:, -1] * ratio / (1 - ratio)


def _arrays(items: Sequence[Item]) -> dict[str, np.ndarray]:
    shape = items[0].problem.grid.shape
    full = lambda value: np.broadcast_to(np.asarray(value, dtype=float), shape)  # noqa: E731
    arrays = {}
    if items[0].frames is not None:
        arrays["frames"] = np.stack([item.frames for item in items])
    if all(isinstance(item.problem.diffusivity, float | np.ndarray) for item in items):
        arrays["diffusivity"] = np.stack([full(item.problem.diffusivity) for item in items])
    if all(item.problem.source.constant for item in items):
        arrays["source"] = np.stack([full(item.problem.source.steady) for item in items])
    return arrays


def _inputs(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What a regression sees, one row per item: the frames of transients, else log D and f, each in its own units."""
    if "frames" in arrays:
        return arrays["frames"].reshape(len(arrays["frames"]), -1)
    if "diffusivity" not in arrays:
        raise ProblemError("the coefficients of these problems are not numbers or arrays: no plain regression applies.")
    tiny = np.finfo(float).tiny
    rows = [np.log(np.maximum(arrays["diffusivity"], tiny)).reshape(len(arrays["diffusivity"]), -1)]
    if "source" in arrays:
        rows.append(arrays["source"].reshape(len(arrays["source"]), -1))
    return np.concatenate(rows, axis=1)


def _means(value, factor: int):
    if np.ndim(value) == 0:
        return float(value)
    split = [k for n in value.shape for k in (n // factor, factor)]
    return value.reshape(split).mean(axis=tuple(range(1, 2 * value.ndim, 2)))


def _interpolated(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation from the centres of coarse cells to those of fine ones, constant slope towards the sides."""
    fine = coarse
    for axis, n in enumerate(shape):
        m = fine.shape[axis]
        if m == 1:
            fine = np.repeat(fine, n, axis=axis)
            continue
        place = (np.arange(n) + 0.5) * m / n - 0.5
        low = np.clip(np.floor(place).astype(int), 0, m - 2)
        weight = (place - low).reshape([-1 if a == axis else 1 for a in range(fine.ndim)])
        fine = (1 - weight) * np.take(fine, low, axis=axis) + weight * np.take(fine, low + 1, axis=axis)
    return fine
