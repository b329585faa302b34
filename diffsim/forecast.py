"""From the early frames of a transient to where it settles, and when, without knowing what drives it.

Five classical methods. Four look at the frames alone, whatever they show (cells or a few sensors):

* "exponential": each point by itself, ``u_inf + b exp(-rate t)``, least squares;
* "aitken": the delta-squared formula on three frames (Aitken 1926);
* "reduced-rank": the combination of frames whose combined change is smallest (Eddy 1979; Mešina 1977);
* "dynamic-modes": rates common to all points from total-least-squares dynamic mode decomposition (Schmid 2010; Hemati et
  al. 2017), then ``u_inf + sum b_i exp(-rate_i t)`` by least squares.

The fifth knows the grid, the sides and the equation: ``u_t = div(D grad u) + f`` is linear in (D, f), so

* "linear-inverse": face conductances and sources by regularised least squares, then one solve.

All expect equally spaced frames with noise of one size, which they estimate when it is not given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from .data import number
from .errors import ProblemError
from .operator import discretize
from .problem import Problem

_SLOWEST = 0.1  # slowest rate believed, per duration observed: beyond it lies guesswork
_ALIKE = 2 / 3  # slowest rate of a single point relative to that of all points together
_RATES = 240  # trial rates of the per-point fit
_PRIOR_SPREAD = 1.0  # of a conductance relative to the prior's: an order of magnitude either way is no surprise
_SOURCE_SPREAD, _SOURCE_STEP = 3.0, 0.3  # of the source, and between neighbours, relative to the rates seen
_SHARED = 5.0  # how much larger noise counts that is not independent from equation to equation
_LEAST = 0.02  # smallest conductance relative to the prior's: heat flows downhill


@dataclass(frozen=True, eq=False)
class Forecast:
    """Where a transient settles.

    Attributes
    ----------
    u
        Predicted equilibrium, shape of a frame.
    rate
        Slowest decay that is still to come [1/s]; nan where the method gives none.
    method
        Its name.
    """

    u: np.ndarray
    rate: float
    method: str
    _times: np.ndarray = field(repr=False)
    _distances: np.ndarray = field(repr=False)  # of the frames from the prediction
    _last: np.ndarray = field(repr=False)  # the last frame, smoothed over the last few

    def at(self, times: ArrayLike) -> np.ndarray:
        """Values at later `times`, (n, ...): the last frame's distance to the equilibrium decays at `rate`."""
        later = np.atleast_1d(np.array(times, dtype=float)) - self._times[-1]
        if later.size and later.min() < 0:
            raise ProblemError(
                f"times start at {later.min() + self._times[-1]:g}, before the last frame at {self._times[-1]:g}."
            )
        decay = np.exp(-np.multiply.outer(later, self.rate if self.rate > 0 else 0.0))
        return self.u + decay.reshape(-1, *(1,) * self.u.ndim) * (self._last - self.u)

    def time(self, tol: float = 1e-3) -> float:
        """Time [s] at which the distance to the equilibrium has fallen to `tol` of that of the first frame."""
        tol = number("tol", tol, above=0.0)
        relative = self._distances / (self._distances[0] or 1.0)
        if relative[-1] <= tol:
            return float(self._times[int(np.argmax(relative <= tol))])
        return float(self._times[-1] + math.log(relative[-1] / tol) / self.rate) if self.rate > 0 else math.inf


def forecast(
    times: ArrayLike,
    frames: ArrayLike,
    method: str = "dynamic-modes",
    noise: float | None = None,
    problem: Problem | None = None,
) -> Forecast:
    """Predict the equilibrium, and the time to it, from early frames.

    Parameters
    ----------
    times
        (k,) equally spaced, k >= 3 (4 for "dynamic-modes") [s].
    frames
        (k, ...) readings of sensors or whole fields; NaN (voids) stays NaN.
    method
        One of `METHODS`.
    noise
        Standard deviation of the readings; None: estimated from their roughness in time.
    problem
        For "linear-inverse": grid, sides, capacity and loss as known; its diffusivity and source are only the prior.

    Raises
    ------
    ProblemError
        For unequal times, too few frames, or an unknown method.
    """
    times, frames = np.array(times, dtype=float), np.array(frames, dtype=float)
    if method not in METHODS:
        raise ProblemError(f"method = {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    least = 4 if method == "dynamic-modes" else 3
    if times.ndim != 1 or times.size < least or frames.ndim < 2 or len(frames) != times.size:
        raise ProblemError(
            f"{times.size} times and frames of shape {frames.shape}: give {least} or more, (k,) and (k, ...)."
        )
    steps = np.diff(times)
    if not np.isfinite(times).all() or (steps <= 0).any() or np.ptp(steps) > 1e-6 * steps[0]:
        raise ProblemError("times must be finite, increasing and equally spaced; resample the record.")
    gaps = np.isnan(frames).all(axis=0)
    if gaps.all() or not np.isfinite(frames[:, ~gaps]).all():
        raise ProblemError(
            "frames hold infinities, readings that come and go, or nothing: fill or drop such points first."
        )
    flat = frames[:, ~gaps]
    noise = roughness(flat) if noise is None else number("noise", noise, least=0.0)
    if method == "linear-inverse":
        if not isinstance(problem, Problem):
            raise ProblemError(
                "method = 'linear-inverse' needs problem=: grid, sides and capacity, with D and source as prior."
            )
        values, rate = _linear_inverse(problem, times, frames, noise)
        values = values[~gaps]
    else:
        values, rate = METHODS[method](times - times[0], flat, noise)
    result = np.full(frames.shape[1:], np.nan)
    result[~gaps] = values
    distances = np.sqrt(np.mean((flat - values) ** 2, axis=1))
    last = np.full(frames.shape[1:], np.nan)
    # a parabola through the last frames: their noise is averaged, their bend is not
    few = min(times.size, max(4, times.size // 3))
    last[~gaps] = _end_of_parabola(flat[-few:]) if few >= 4 else flat[-1]
    return Forecast(result, rate, method, times, distances, last)


def _end_of_parabola(frames: np.ndarray) -> np.ndarray:
    x = np.linspace(-1.0, 0.0, len(frames))
    return np.linalg.lstsq(np.column_stack([np.ones_like(x), x, x * x]), frames, rcond=None)[0][0]


def roughness(frames: np.ndarray) -> float:
    """Noise of (k, n) readings from their p-th differences, ``std / sqrt(binomial(2p, p))``: smooth decay leaves little there."""
    p = min(4, len(frames) - 1)
    return float(np.sqrt(np.mean(np.diff(frames, n=p, axis=0) ** 2) / math.comb(2 * p, p)))


# --- from the frames alone --------------------------------------------------------------------------------------------


def _exponential(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    # early frames hold fast modes, which bend a single exponential the wrong way
    start = min(t.size // 2, t.size - 4) if t.size > 4 else 0
    t, u = t[start:] - t[start], u[start:]
    duration = t[-1]
    trial = np.geomspace(_SLOWEST / duration, 3.0 / t[1], _RATES)
    decays = np.exp(-trial[:, None] * t)
    decays -= decays.mean(axis=1, keepdims=True)
    power = (decays**2).sum(axis=1)[:, None]
    centred = u - u.mean(axis=0)
    slopes = decays @ centred / power
    # what is left of each point for each rate: the total less what the fit explains
    left = (centred**2).sum(axis=0) - slopes**2 * power
    together = trial[int(np.argmin(left.sum(axis=1)))]
    left[trial < _ALIKE * together] = np.inf  # no point is far slower than all of them
    best = np.argmin(left, axis=0)
    points = np.arange(u.shape[1])
    moved = (centred**2).sum(axis=0) > 4 * noise**2 * t.size  # a point that only trembles has settled
    end = u.mean(axis=0) - slopes[best, points] * np.exp(-trial[best][:, None] * t).mean(axis=1)
    return np.where(moved, end, u[-max(1, t.size // 3) :].mean(axis=0)), float(together) if moved.any() else math.nan


def _aitken(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    stride = (t.size - 1) // 2  # frames as far apart as can be: differences of neighbours are mostly noise
    first, middle, last = u[-1 - 2 * stride], u[-1 - stride], u[-1]
    before, after = middle - first, last - middle
    span = stride * t[1]
    size = float(before @ before)
    together = np.clip(float(after @ before) / size if size else 0.0, 0.0, math.exp(-_SLOWEST * span / t[-1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.clip(np.nan_to_num(after / before), 0.0, together**_ALIKE)
    ratio = np.where(np.abs(before) > 3 * noise, ratio, 0.0)
    return last + after * ratio / (1 - ratio), -math.log(together) / span if together > 0 else math.nan


def _lag(count: int) -> int:
    """Frames between those that are subtracted: a quarter of the record, for changes larger than their noise."""
    return max(1, count // 4)


def _reduced_rank(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    lag = _lag(t.size)
    changes = u[lag:] - u[:-lag]
    gram = changes @ changes.T
    # noise of variance 2 noise^2 per entry would be amplified by large weights of opposite sign
    penalty = 2 * noise**2 * u.shape[1] + 1e-13 * float(np.trace(gram))
    if penalty == 0:
        return u[-1], math.nan
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), np.ones(len(gram)))
    return weights @ u[lag:] / weights.sum(), _last_rate(t, changes)


def _dynamic_modes(t: np.ndarray, u: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    lag = _lag(t.size)
    changes = (u[lag:] - u[:-lag]).T  # (n, k - lag)
    vectors, size, _ = np.linalg.svd(changes, full_matrices=False)
    # the largest singular value that noise alone would have (Davidson & Szarek 2001)
    floor = math.sqrt(2) * noise * (math.sqrt(changes.shape[0]) + math.sqrt(changes.shape[1])) + 1e-10 * size[0]
    # total least squares needs two pairs of changes per mode
    pairs = changes.shape[1] - lag
    rank = max(1, min(int((size > 1.5 * floor).sum()), changes.shape[0], pairs // 2 or 1))
    basis = vectors[:, :rank]
    before, after = basis.T @ changes[:, :-lag], basis.T @ changes[:, lag:]
    _, _, rows = np.linalg.svd(np.concatenate([before, after]), full_matrices=False)
    kept = rows[:rank].T @ rows[:rank]
    propagator = after @ kept @ np.linalg.pinv(before @ kept, rcond=1e-10)
    step = lag * t[1]
    factors = np.linalg.eigvals(propagator).real  # diffusion only decays: real and between 0 and 1
    factors = np.clip(factors, math.exp(-5.0 * lag), math.exp(-_SLOWEST * step / t[-1]))
    rates = np.unique(np.round(-np.log(factors) / step, 12))
    design = np.column_stack([np.ones(t.size), *(np.exp(-rate * t) for rate in rates)])
    end = np.linalg.lstsq(design, u, rcond=1e-9)[0][0]
    return end, float(rates.min())


def _last_rate(t: np.ndarray, changes: np.ndarray) -> float:
    """Rate from the sizes of the last changes."""
    half = max(1, len(changes) // 2)
    early, late = (float(np.sqrt((part**2).mean())) for part in (changes[:half], changes[-half:]))
    gap = (len(changes) - half) * t[1]
    return math.log(early / late) / gap if gap > 0 and early > late > 0 else math.nan


# --- from the equation ------------------------------------------------------------------------------------------------


def _linear_inverse(problem: Problem, times: np.ndarray, frames: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    """Most probable conductances and sources, and what they settle to, grid.shape.

    Over every interval between frames and for every cell

        m (u_next - u) / dt - F_walls = - sum_f g_f theta_f (u_i - u_nb) + sum_w g_w theta_w (T_w - u_i) + V s

    with u on the right the mean of the two frames. Gaussian priors: theta around 1, the source s around the problem's,
    as wide as the rates that are seen. Unknown are the relative conductances theta of faces and walls, and s.
    """
    from scipy.sparse import csr_array, diags_array, eye_array, vstack
    from scipy.sparse.linalg import spsolve

    operator = discretize(problem)
    if not (problem.steady_coefficients and operator.forcing.constant) or operator.cross is not None:
        raise ProblemError("the linear inverse knows steady problems without a full tensor D; give such a prior.")
    if frames.shape[1:] != problem.grid.shape:
        raise ProblemError(
            f"frames have shape {frames.shape[1:]}, the grid {problem.grid.shape}: the linear inverse needs whole fields."
        )
    left, right, base = _faces(operator)
    cells = operator.mass.size
    states = np.stack([operator.enter(np.nan_to_num(frame)).ravel() for frame in frames])
    # noise in the frames enters the coefficients of the equations too, and would make every conductance look small
    states, noise = _cleaned(operator, states, noise)
    dt = np.diff(times)[0]
    middle, change = 0.5 * (states[1:] + states[:-1]), np.diff(states, axis=0) / dt
    mass, volume = operator.mass.ravel(), operator.volumes.ravel()
    holding = [(wall, np.flatnonzero(wall.g > 0)) for wall in operator.walls]
    wall_cells = np.concatenate([wall.cells[k] for wall, k in holding] or [np.zeros(0, int)])
    wall_g = np.concatenate([wall.g[k] for wall, k in holding] or [np.zeros(0)])
    outside = np.concatenate([wall.data_at(wall.value, 0.0)[k] for wall, k in holding] or [np.zeros(0)])
    loss = operator.diagonal.ravel() - np.bincount(wall_cells, wall_g, cells)
    # what is known of F: flux sides and the pull of the surroundings; the source is unknown
    source = volume * np.ravel(np.broadcast_to(problem.source(0.0), problem.grid.shape))
    pulled = np.bincount(wall_cells, wall_g * outside, cells)
    known = operator.forcing.base.ravel() - source - pulled
    faces, walls = np.arange(left.size), np.arange(wall_cells.size)
    blocks, sides = [], []
    for u, rate in zip(middle, change, strict=True):
        flow = base * (u[left] - u[right])
        rows = np.concatenate([left, right, wall_cells, np.arange(cells)])
        columns = np.concatenate([faces, faces, left.size + walls, left.size + walls.size + np.arange(cells)])
        values = np.concatenate([-flow, flow, wall_g * (outside - u[wall_cells]), volume])
        blocks.append(csr_array((values, (rows, columns)), shape=(cells, left.size + walls.size + cells)))
        sides.append(mass * rate + loss * u - known)
    free = np.tile(operator.free.ravel(), len(blocks))
    system, target = vstack(blocks).tocsr()[free], np.concatenate(sides)[free]
    # an equation is as uncertain as the noise of the difference, and no better than the mean of two frames stands for the interval
    reach = np.abs(change).max()
    gather = (
        np.bincount(left, base**2, cells)
        + np.bincount(right, base**2, cells)
        + np.bincount(wall_cells, wall_g**2, cells)
    )
    through = np.sqrt(np.bincount(left, base, cells) ** 2 + gather)
    error = np.tile(np.hypot(math.sqrt(2) * noise / dt * mass, noise * through) + 0.01 * reach * mass, len(blocks))[
        free
    ]
    scale = _source_scale(source, volume, reach, mass)
    spread = np.concatenate([np.full(left.size + walls.size, _PRIOR_SPREAD), np.full(cells, _SOURCE_SPREAD * scale)])
    prior = np.concatenate([np.ones(left.size + walls.size), source / np.where(volume > 0, volume, 1.0)])
    weighted = diags_array(1 / error) @ system @ diags_array(spread)
    deviation = (target - system @ prior) / error
    unknown = weighted.shape[1]
    alike = _neighbours_alike(left, right, left.size + walls.size, unknown)
    held = np.zeros(unknown, dtype=bool)
    low = (_LEAST - prior) / spread
    x = np.zeros(unknown)
    for _ in range(6):  # conductances that would come out negative are held at their least, and the rest solved again
        x[held] = low[held]
        part = weighted[:, ~held]
        normal = (part.T @ part + eye_array(part.shape[1]) + alike[~held][:, ~held]).tocsc()
        x[~held] = spsolve(normal, part.T @ (deviation - weighted[:, held] @ x[held]))
        crossed = ~held & (x < low) & (np.arange(unknown) < left.size + walls.size)
        if not crossed.any():
            break
        held |= crossed
    theta = prior + spread * x
    theta[: left.size + walls.size] = np.maximum(theta[: left.size + walls.size], _LEAST)
    return _settled(operator, theta, (left, right, base), (wall_cells, wall_g, outside), loss, known)


def _source_scale(source: np.ndarray, volume: np.ndarray, reach: float, mass: np.ndarray) -> float:
    """Size of source that the rates of change speak of."""
    seen = reach * float((mass / np.where(volume > 0, volume, np.inf)).max())
    return max(seen, float(np.abs(source).max() / volume.max()))


def _neighbours_alike(left: np.ndarray, right: np.ndarray, offset: int, size: int):
    """Prior precision of sources that resemble their neighbours' (a graph Laplacian on the unknowns from `offset` on)."""
    from scipy.sparse import csr_array

    i, j = left + offset, right + offset
    weight = np.full(i.size, (_SOURCE_SPREAD / _SOURCE_STEP) ** 2)
    values = np.concatenate([weight, weight, -weight, -weight])
    return csr_array((values, (np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i]))), shape=(size, size))


def _cleaned(operator, states: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    """States without most of their noise, and an estimate of what is left of it.

    First in time: singular vectors that noise alone would have are dropped. Then in space: of all fields that differ from
    the states by no more than their noise, those of least energy (the discrepancy principle, Morozov 1966).
    """
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import splu

    if noise == 0:
        return states, 0.0
    u, size, v = np.linalg.svd(states, full_matrices=False)
    floor = noise * (math.sqrt(states.shape[0]) + math.sqrt(states.shape[1]))
    rank = max(1, int((size > 1.2 * floor).sum()))
    kept = (u[:, :rank] * size[:rank]) @ v[:rank]
    noise = min(noise, noise * math.sqrt(rank * (states.shape[0] + states.shape[1] - rank) / states.size))
    stiffness = operator.matrix() / float(operator.max_diagonal * operator.mass.max())
    force = operator.forcing.base.ravel() / float(operator.max_diagonal * operator.mass.max())
    white = noise * np.random.default_rng(0).normal(size=states.shape)
    low, high = -3.0, 4.0
    for _ in range(20):
        weight = 10 ** (0.5 * (low + high))
        solve = splu((eye_array(states.shape[1]) + weight * stiffness).tocsc()).solve
        smooth = solve((kept + weight * force).T).T
        moved = float(np.sqrt(np.mean((smooth - kept) ** 2)))
        low, high = (0.5 * (low + high), high) if moved < noise else (low, 0.5 * (low + high))
    # what is left is alike in neighbouring cells and frames, whose equations therefore share their errors
    return smooth, _SHARED * float(np.sqrt(np.mean(solve(white.T) ** 2)))


def _faces(operator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left cell, right cell, conductance) of every conducting inner face."""
    index = np.arange(operator.mass.size).reshape(operator.shape)
    lefts, rights, values = [], [], []
    for axis, g in enumerate(operator.conductances):
        n = operator.shape[axis]
        last = n if operator.periodic[axis] and n > 1 else n - 1
        lefts.append(np.take(index, np.arange(last), axis=axis).ravel())
        rights.append(np.take(index, (np.arange(last) + 1) % n, axis=axis).ravel())
        values.append(np.take(g, np.arange(1, last + 1), axis=axis).ravel())
    left, right, value = (np.concatenate(parts) for parts in (lefts, rights, values))
    used = value > 0
    return left[used], right[used], value[used]


def _settled(
    operator, theta: np.ndarray, faces, walls, loss: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, float]:
    """Equilibrium and slowest rate of the inferred problem."""
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import eigsh, spsolve

    (left, right, base), (cells, wall_g, outside) = faces, walls
    size = operator.mass.size
    g, w, source = np.split(theta, [left.size, left.size + cells.size])
    g, w = base * g, wall_g * w
    rows = np.concatenate([left, right, left, right])
    columns = np.concatenate([right, left, left, right])
    diagonal = loss + np.bincount(cells, w, size)
    stiffness = csc_array((np.concatenate([-g, -g, g, g]), (rows, columns)), shape=(size, size)) + diags_array(diagonal)
    if not diagonal.any():
        raise ProblemError(
            "nothing holds the level of this problem: no value, Robin side or loss. Its equilibrium keeps its mean."
        )
    free = np.flatnonzero(operator.free.ravel())
    matrix = stiffness.tocsc()[free][:, free]
    force = known + np.bincount(cells, w * outside, size) + operator.volumes.ravel() * source
    u = np.zeros(size)
    u[free] = spsolve(matrix, force[free])
    mass = diags_array(operator.mass.ravel()[free]).tocsc()
    if free.size > 3:
        rate = float(eigsh(matrix, k=1, M=mass, sigma=0.0, return_eigenvectors=False, v0=np.ones(free.size))[0])
    else:
        rate = float(np.linalg.eigvals(matrix.toarray() / operator.mass.ravel()[free][:, None]).real.min())
    return operator.leave(u.reshape(operator.shape)), rate


METHODS: dict[str, Callable] = {
    "exponential": _exponential,
    "aitken": _aitken,
    "reduced-rank": _reduced_rank,
    "dynamic-modes": _dynamic_modes,
    "linear-inverse": _linear_inverse,
}


def compare(
    problem: Problem,
    initial,
    prior: Problem,
    noises: tuple[float, ...] = (0.0, 0.001, 0.01, 0.05),
    sensors: tuple[int | None, ...] = (None, 64, 16, 4),
    fractions: tuple[float, ...] = (0.1, 0.3, 1.0),
    frames: int = 16,
    seed: int = 0,
) -> list[dict]:
    """Errors of all methods on a known problem, over noise, number of sensors and how much of the transient is seen.

    Parameters
    ----------
    prior
        What "linear-inverse" is told: the problem with another diffusivity and source.
    noises
        Standard deviations relative to the largest value of the equilibrium.
    sensors
        Numbers of cells read, drawn at random; None: all.
    fractions
        Duration observed over the slowest time constant.

    Returns
    -------
    list of dict
        Keys noise, sensors, fraction, "last frame" and one per method: relative l2 error of the equilibrium at the
        sensors. "linear-inverse" needs whole fields: nan for fewer sensors.
    """
    from .equilibrium import equilibrium, time_to_equilibrium
    from .simulate import simulate

    end = equilibrium(problem, tol=1e-11, initial=initial).u
    constant = time_to_equilibrium(problem, tol=math.exp(-1))
    cells = np.flatnonzero(~np.isnan(end.ravel()))
    generator = np.random.default_rng(seed)
    rows = []
    for fraction in fractions:
        t = np.linspace(0.0, fraction * constant, frames)
        clean = simulate(problem, initial, t[-1], scheme="krylov", save=t, progress=False).u
        for noise in noises:
            read = clean + noise * np.nanmax(np.abs(end)) * generator.normal(size=clean.shape)
            for count in sensors:
                chosen = cells if count is None else generator.choice(cells, size=min(count, cells.size), replace=False)
                row = {"noise": noise, "sensors": count, "fraction": fraction}
                truth, flat = end.ravel()[chosen], read.reshape(frames, -1)[:, chosen]
                row["last frame"] = float(np.linalg.norm(flat[-1] - truth) / np.linalg.norm(truth))
                for method in METHODS:
                    if method == "linear-inverse":
                        whole = count is None
                        made = (
                            forecast(t, read, method, problem=prior).u.ravel()[chosen]
                            if whole
                            else np.full(truth.shape, np.nan)
                        )
                    else:
                        made = forecast(t, flat, method).u
                    row[method] = float(np.linalg.norm(made - truth) / np.linalg.norm(truth))
                rows.append(row)
    return rows
