"""Coefficients and sources from readings of a transient, and what they settle to: least squares on the equation.

Grid, sides and the equation are known. Where whole fields were read, every face has its own conductance and every cell its own
source (`from_fields`). From a few sensors neither can be had: there the coefficients are the prior's up to one factor, and
start and source are smooth fields (`from_sensors`).
"""

from __future__ import annotations

import math

import numpy as np

from .errors import ProblemError
from .operator import Operator, discretize
from .problem import Problem

_PRIOR_SPREAD = 1.0  # of a conductance relative to the prior's: an order of magnitude either way is no surprise
_SOURCE_SPREAD, _SOURCE_STEP = 3.0, 0.3  # of the source, and between neighbours, relative to the rates seen
_SHARED = 5.0  # how much larger noise counts that is not independent from equation to equation
_LEAST = 0.02  # smallest conductance relative to the prior's: heat flows downhill
_MODES = 80  # smoothest fields that sensors are told apart by
_ROUGH = 1.5  # the variance of starts and sources falls as that power of the rates of the modes
_SEEN = np.geomspace(0.04, 2.5, 9)  # trial durations over the slowest time constant
_RISES = np.array([0.3, 1.0, 3.0, 10.0])  # trial sizes of the equilibrium over those of the readings
_MISFIT = 0.03  # of the readings' size: what one factor for all coefficients leaves unexplained


def settled(
    problem: Problem, times: np.ndarray, frames: np.ndarray, noise: float
) -> tuple[np.ndarray, float, np.ndarray]:
    """Equilibrium (*shape), slowest rate, and last state (*shape) of a transient of an unknown problem that is like `problem`.

    Raises
    ------
    ProblemError
        For frames of another shape, a prior that is not steady or has a tensor D, or one that holds no level.
    """
    if frames.shape[1:] != problem.grid.shape:
        raise ProblemError(
            f"frames have shape {frames.shape[1:]}, the grid {problem.grid.shape}: the linear inverse takes frames over the "
            "cells, with NaN where nothing was read."
        )
    operator = _steady(problem)
    unread = np.isnan(frames).any(axis=0) & operator.unpad(operator.free)
    if unread.any():
        return from_sensors(problem, times, frames, noise)
    return (*from_fields(problem, times, frames, noise), frames[-1].copy())


def from_sensors(
    problem: Problem, times: np.ndarray, frames: np.ndarray, noise: float
) -> tuple[np.ndarray, float, np.ndarray]:
    """Equilibrium, slowest rate, and last state of a transient read by sensors: (*shape), 1/s, (*shape).

    In the modes phi_k of the prior problem, with rates d lambda_k, a state is

        u(t) = prior's equilibrium + sum_k phi_k (e_k (1 - exp(-d lambda_k t)) + s_k exp(-d lambda_k t))

    linear in start s and equilibrium e, whose Gaussian priors are those of smooth fields. The factor d of the coefficients and
    the size of e are not; the answer is the average over trial values, weighted by how well they explain the readings
    (MacKay 1992).

    Parameters
    ----------
    frames
        (k, *shape), NaN in cells without a sensor.
    """
    from scipy.linalg import solve_triangular

    operator = _steady(problem)
    flat = frames.reshape(len(frames), -1)
    seen = np.flatnonzero(~np.isnan(flat).any(axis=0))
    rates, modes = _smoothest(operator)
    level = operator.leave(_equilibrium(operator))
    readings = (flat[:, seen] - level.ravel()[seen]).ravel()
    size = math.sqrt(max(float(np.mean(readings**2)) - noise**2, 0.1 * float(np.mean(readings**2)))) or 1.0
    variance = noise**2 + (_MISFIT * size) ** 2
    total = float(operator.mass[operator.free].sum())
    start = rates**-_ROUGH
    source = rates ** (-_ROUGH - 2)
    start, source = (size * np.sqrt(total * part / part.sum()) for part in (start, source))
    since = times - times[0]
    evidence, answers = [], []
    for fraction in _SEEN:
        factor = fraction / (rates[0] * since[-1])
        left = np.exp(-factor * np.multiply.outer(since, rates))[:, None]
        at_sensors = modes[seen]
        response = np.concatenate([(1 - left) * at_sensors * source, left * at_sensors * start], axis=-1)
        response = response.reshape(readings.size, -1)
        gram, projected = response.T @ response, response.T @ readings
        for rise in _RISES:
            scale = np.repeat([rise, 1.0], rates.size)
            lower = np.linalg.cholesky(gram * np.outer(scale, scale) + variance * np.eye(scale.size))
            half = solve_triangular(lower, scale * projected, lower=True, check_finite=False)
            volume = 2 * np.log(np.diag(lower)).sum() - 2 * rates.size * math.log(variance)
            evidence.append(0.5 * (half @ half / variance - volume))
            end, begin = np.split(solve_triangular(lower.T, half, check_finite=False), 2)
            end, begin = rise * source * end, start * begin
            answers.append(np.concatenate([end, end + left[-1, 0] * (begin - end), [math.log(factor * rates[0])]]))
    weight = np.exp(np.array(evidence) - max(evidence))
    mean = weight @ np.array(answers) / weight.sum()
    end, last = (level + (modes @ part).reshape(problem.grid.shape) for part in np.split(mean[:-1], 2))
    return end, math.exp(mean[-1]), last


def _steady(problem: Problem) -> Operator:
    operator = discretize(problem)
    if not (problem.steady_coefficients and operator.forcing.constant) or operator.cross is not None:
        raise ProblemError("the linear inverse knows steady problems without a full tensor D; give such a prior.")
    if not operator.components[2].all():
        raise ProblemError(
            "nothing holds the level of this problem: no value, Robin side or loss. Its equilibrium keeps its mean."
        )
    return operator


def _smoothest(operator: Operator) -> tuple[np.ndarray, np.ndarray]:
    """Slowest rates (n,) and their modes over all cells (cells, n), ``phi' m phi = 1``, 0 in cells that are not free."""
    from scipy.linalg import eigh
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh

    free = np.flatnonzero(operator.free.ravel())
    root = np.sqrt(operator.mass.ravel()[free])
    scale = diags_array(1 / root)
    matrix = scale @ operator.matrix()[free][:, free] @ scale
    if free.size <= 4 * _MODES:
        rates, vectors = eigh(matrix.toarray(), subset_by_index=(0, min(_MODES, free.size) - 1))
    else:
        rates, vectors = eigsh(matrix.tocsc(), k=_MODES, sigma=0.0, v0=np.ones(free.size))
        order = np.argsort(rates)
        rates, vectors = rates[order], vectors[:, order]
    modes = np.zeros((operator.mass.size, rates.size))
    modes[free] = vectors / root[:, None]
    return rates, modes


def _equilibrium(operator: Operator) -> np.ndarray:
    """What the prior problem settles to, padded shape."""
    from scipy.sparse.linalg import spsolve

    free = np.flatnonzero(operator.free.ravel())
    u = np.zeros(operator.mass.size)
    u[free] = spsolve(operator.matrix()[free][:, free].tocsc(), operator.forcing.base.ravel()[free])
    return u.reshape(operator.shape)


def from_fields(problem: Problem, times: np.ndarray, frames: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    """Most probable conductances and sources, and what they settle to, grid.shape.

    Over every interval between frames and for every cell

        m (u_next - u) / dt - F_walls = - sum_f g_f theta_f (u_i - u_nb) + sum_w g_w theta_w (T_w - u_i) + V s

    with u on the right the mean of the two frames. Gaussian priors: theta around 1, the source s around the problem's,
    as wide as the rates that are seen. Unknown are the relative conductances theta of faces and walls, and s.
    """
    from scipy.sparse import csr_array, diags_array, eye_array, vstack
    from scipy.sparse.linalg import spsolve

    operator = _steady(problem)
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
