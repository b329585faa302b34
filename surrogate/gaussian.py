"""Where an observed transient settles, given many simulated ones: the conditional mean of a mixture of Gaussians.

For a known medium, frames and equilibrium depend linearly on the start and the source; together they are one Gaussian
vector, and the equilibrium's conditional mean given the readings is the best estimate there is. The medium is not known, so
the second moments are taken over simulated transients of the kind expected, aligned by how much of their slowest time
constant is seen: one Gaussian per fraction. How well each explains the readings says which fraction was seen (and so the
slowest rate), and how much noise there is; the answer is their average under these weights.

Per fraction this is ridge regression on empirical orthogonal functions of space and time, the penalty being the noise
(Everson & Sirovich 1995 fill gaps so; Evensen 1994 takes the moments from an ensemble). Members are scaled to unit root mean
square and moments are not centred, so answers scale with the readings and with the unit of time exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from diffsim.errors import ProblemError
from diffsim.forecast import Forecast, roughness
from diffsim.operator import discretize
from diffsim.problem import Problem

NODES = 10  # times at which members are kept: Chebyshev points in the square root of time, in which starts are smooth
FRACTIONS = np.geomspace(0.05, 2.0, 10)  # of the slowest time constant
NOISES = np.array([1.0, 0.2, 0.04])  # of the roughness of the readings, which fast modes enlarge
_LEAST = 1e-12  # variance relative to the readings', so that exact readings of few members can be solved for
_MOST_CELLS = 1024  # members come from dense eigenvectors


@dataclass(frozen=True, eq=False)
class Posterior:
    """What readings say of one transient.

    Attributes
    ----------
    u, spread
        Equilibrium and its standard deviation, grid shape.
    frames
        (NODES, *shape): the transient itself, without noise and between sensors, from its start to the last reading.
    rate
        Slowest rate [1 / unit of the times].
    fraction
        Of the slowest time constant that was seen.
    noise
        Standard deviation of the readings that explains them best.
    duration
        From the start to the last reading.
    """

    u: np.ndarray
    spread: np.ndarray
    frames: np.ndarray
    rate: float
    fraction: float
    noise: float
    duration: float

    def forecast(self, u: np.ndarray | None = None, method: str = "learned-linear") -> Forecast:
        """As a `Forecast`, which also says what follows and when it is over; of another equilibrium, if one is given."""
        u = self.u if u is None else u
        distances = np.sqrt(((self.frames - u) ** 2).mean(axis=tuple(range(1, self.frames.ndim))))
        return Forecast(u, self.rate, method, self.duration * nodes(), distances, self.frames[-1])


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Second moments of simulated transients, one set per fraction of the time constant seen. Made by `learn`.

    Attributes
    ----------
    shape
        Cells of the grid.
    factors
        (fractions, NODES + 1, cells, d) float32: ``x = factors z + rest``, z standard normal; the last row is the
        equilibrium, the others are the frames at `NODES` times.
    rest
        (fractions, 2): standard deviation of what d factors leave out of frames and of the equilibrium.
    """

    shape: tuple[int, ...]
    factors: np.ndarray
    rest: np.ndarray

    def given(self, times: np.ndarray, frames: np.ndarray, noise: float | None = None) -> Posterior:
        """The posterior given readings.

        Parameters
        ----------
        times
            (k,) increasing, counted from the start of the transient; k >= 2.
        frames
            (k, *shape); NaN where there is no reading.
        noise
            Standard deviation of the readings; None: estimated.

        Raises
        ------
        ProblemError
            For another shape, or no reading.
        """
        frames = np.asarray(frames, dtype=float)
        times = np.asarray(times, dtype=float)
        if frames.shape[1:] != self.shape or times.shape != frames.shape[:1] or times.size < 2:
            raise ProblemError(
                f"{times.size} times and frames of shape {frames.shape}: this forecast was learned on cells {self.shape}; "
                f"give (k,) and (k, {', '.join(map(str, self.shape))}), k >= 2."
            )
        if not (times[0] >= 0 and (np.diff(times) > 0).all() and np.isfinite(times).all()):
            raise ProblemError("times must increase and count from the start of the transient, t >= 0.")
        flat = frames.reshape(times.size, -1)
        seen = np.flatnonzero(~np.isnan(flat).all(axis=0))
        if not seen.size:
            raise ProblemError("the frames hold no reading; give at least one sensor.")
        readings = flat[:, seen]
        present = ~np.isnan(readings)
        rough = _roughness(readings) if noise is None else noise
        size = np.sqrt(max(float(np.nanmean(readings**2)) - rough**2, 0.1 * float(np.nanmean(readings**2)))) or 1.0
        if present.all():
            weights, where = _orthogonal(interpolation(times / times[-1]))
            data, lost = where.T @ readings / size, readings / size - where @ (where.T @ readings / size)
        else:
            weights, data, lost = interpolation(times / times[-1]), readings / size, np.zeros(1)
        noises = rough / size * (NOISES if noise is None else np.ones(1))
        return self._mixture(times[-1], weights, seen, data, float((lost**2).sum()), present.sum(), noises, size)

    def _mixture(self, duration, weights, seen, data, lost, count, noises, size) -> Posterior:
        kept = ~np.isnan(data)
        total = float((data[kept] ** 2).sum()) + lost
        evidence = np.empty((len(self.factors), len(noises)))
        solved = []
        for k, factors in enumerate(self.factors):
            response = np.tensordot(weights, factors[:-1][:, seen], 1)[kept].astype(float)
            gram, projected = response.T @ response, response.T @ data[kept]
            for m, variance in enumerate(noises**2 + self.rest[k, 0] ** 2 + _LEAST):
                lower = np.linalg.cholesky(gram + variance * np.eye(len(gram)))
                half = solve_triangular(lower, projected, lower=True, check_finite=False)
                volume = 2 * np.log(np.diag(lower)).sum() + (count - len(gram)) * np.log(variance)
                evidence[k, m] = -0.5 * ((total - float(half @ half)) / variance + volume)
                solved.append((lower, half, variance))
        share = np.exp(evidence - evidence.max())
        share[share < 1e-3] = 0.0
        share /= share.sum()
        mean, square = np.zeros((NODES + 1, self.factors.shape[2])), np.zeros(self.factors.shape[2])
        for k, m in zip(*np.nonzero(share), strict=True):
            lower, half, variance = solved[k * len(noises) + m]
            x = self.factors[k] @ solve_triangular(lower.T, half, check_finite=False).astype(np.float32)
            end = solve_triangular(lower, self.factors[k][-1].T.astype(float), lower=True, check_finite=False)
            mean += share[k, m] * x
            square += share[k, m] * (variance * (end**2).sum(axis=0) + self.rest[k, 1] ** 2 + x[-1].astype(float) ** 2)
        by_fraction = share.sum(axis=1)
        fraction = float(np.exp(by_fraction @ np.log(FRACTIONS)))
        spread = np.sqrt(np.maximum(square - mean[-1] ** 2, self.rest.min() ** 2))
        best = np.exp(share.sum(axis=0) @ np.log(np.maximum(noises, 1e-300)))
        fields = size * mean.reshape(-1, *self.shape)
        return Posterior(
            fields[-1],
            size * spread.reshape(self.shape),
            fields[:-1],
            fraction / duration,
            fraction,
            float(size * best),
            float(duration),
        )


def nodes() -> np.ndarray:
    """Times of the kept frames relative to the last, (NODES,): Chebyshev-Lobatto points in the square root of time."""
    return (0.5 * (1 - np.cos(np.pi * np.arange(NODES) / (NODES - 1)))) ** 2


def interpolation(times: np.ndarray) -> np.ndarray:
    """(len(times), NODES): values at relative `times` in [0, 1] from those at the nodes (barycentric; Berrut & Trefethen 2004)."""
    weights = (-1.0) ** np.arange(NODES)
    weights[[0, -1]] *= 0.5
    difference = np.sqrt(times)[:, None] - np.sqrt(nodes())
    exact = np.abs(difference) < 1e-14
    terms = weights / np.where(exact, 1.0, difference)
    matrix = terms / terms.sum(axis=1, keepdims=True)
    return np.where(exact.any(axis=1, keepdims=True), exact.astype(float), matrix)


def transients(
    problem: Problem, starts: Sequence[np.ndarray], sources: Sequence, fractions: np.ndarray, times: np.ndarray
):
    """Exact transients of one medium from several starts and sources.

    Parameters
    ----------
    starts, sources
        One of each per transient.
    fractions
        (s,) of the slowest time constant, at which the frames end.
    times
        (j,) relative to that end.

    Returns
    -------
    frames, ends, rate
        (transients, s, j, cells), (transients, cells), and the slowest rate [1/s].
    """
    operator = discretize(problem)
    if (
        not (problem.steady_coefficients and operator.forcing.constant and operator.all_free)
        or operator.cross is not None
    ):
        raise ProblemError("transients to learn from need steady problems without voids, held cells or a tensor D.")
    if problem.grid.size > _MOST_CELLS:
        raise ProblemError(
            f"{problem.grid.size} cells: transients to learn from have {_MOST_CELLS} at most; coarsen the grid."
        )
    root = np.sqrt(operator.mass.ravel())
    rates, vectors = np.linalg.eigh(operator.matrix().toarray() / np.outer(root, root))
    if rates[0] <= 1e-12 * rates[-1]:
        raise ProblemError("nothing holds the level of this problem: it has no equilibrium to learn.")
    shapes = vectors / root[:, None]
    forces = np.stack([discretize(problem.with_(source=source)).forcing.base.ravel() for source in sources])
    ends = forces @ shapes / rates
    away = np.stack([np.ravel(start) for start in starts]) * root @ vectors - ends
    decay = np.exp(-np.multiply.outer(np.multiply.outer(fractions, times), rates / rates[0]))
    frames = (ends[:, None, None] + decay * away[:, None, None]) @ shapes.T
    return frames, ends @ shapes.T, float(rates[0])


def learn(
    problems: Sequence[Problem], starts: Sequence[np.ndarray], partners: int = 4, factors: int = 192
) -> Gaussians:
    """Second moments of the transients of these problems from these starts.

    Each medium is also combined with the starts and sources of the next items, `partners` in all: media are dear,
    starts and sources are not.

    Raises
    ------
    ProblemError
        For fewer items than partners, different grids, or problems that `transients` refuses.
    """
    if len({problem.grid.shape for problem in problems}) != 1 or not 1 <= partners <= len(problems) == len(starts):
        raise ProblemError(
            f"{len(problems)} problems, {len(starts)} starts, {partners} partners: give problems on one grid, a start for each, "
            "and no more partners than problems."
        )
    shape, n = problems[0].grid.shape, len(problems)
    members = np.empty((len(FRACTIONS), n * partners, NODES + 1, problems[0].grid.size), np.float32)
    for i, problem in enumerate(problems):
        with_ = [(i + j) % n for j in range(partners)]
        frames, ends, _ = transients(
            problem, [starts[j] for j in with_], [problems[j].source.steady for j in with_], FRACTIONS, nodes()
        )
        place = slice(i * partners, (i + 1) * partners)
        members[:, place, :-1] = frames.swapaxes(0, 1)
        members[:, place, -1] = ends
    size = np.sqrt((members[:, :, :-1] ** 2).mean(axis=(2, 3), keepdims=True))
    members /= np.where(size > 0, size, 1.0)
    count = min(factors, n * partners)
    result = np.empty((len(FRACTIONS), NODES + 1, members.shape[3], count), np.float32)
    rest = np.empty((len(FRACTIONS), 2))
    for k, x in enumerate(members):
        result[k], rest[k] = _leading(x, count)
    return Gaussians(shape, result, rest)


def _leading(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(factors (rows, cells, count) of the uncentred second moments of x (n, rows, cells), what they leave out (2,))."""
    from scipy.linalg import eigh

    flat = x.reshape(len(x), -1)
    _, vectors = eigh(flat @ flat.T, subset_by_index=(len(x) - count, len(x) - 1))
    factors = (flat.T @ vectors[:, ::-1].astype(np.float32) / np.sqrt(len(x))).reshape(*x.shape[1:], count)
    left = np.maximum((x**2).mean(axis=0, dtype=float) - (factors.astype(float) ** 2).sum(axis=-1), 0.0)
    return factors, np.sqrt([left[:-1].mean(), left[-1].mean()])


def _orthogonal(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, Q) of a QR decomposition: readings in orthonormal combinations keep white noise white."""
    q, r = np.linalg.qr(matrix)
    return r, q


def _roughness(readings: np.ndarray) -> float:
    """`diffsim.forecast.roughness` of sensors without gaps; of the others, of the readings they have, one after the other."""
    whole = ~np.isnan(readings).any(axis=0)
    if whole.any():
        return roughness(readings[:, whole])
    parts = [column[~np.isnan(column)] for column in readings.T]
    estimates = [roughness(part[:, None]) for part in parts if part.size > 2]
    return float(np.median(estimates)) if estimates else 0.0
