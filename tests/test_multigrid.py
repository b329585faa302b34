"""The multigrid solver against sparse direct solves, its work on rough coefficients, and its promises."""

import math

import numba
import numpy as np
import pytest
from scipy.fft import idctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

import diffsim.batch
import diffsim.graphs
import diffsim.multigrid
from diffsim.batch import solve_batch
from diffsim.kernels import multigrid as kernels
from diffsim.multigrid import Multigrid


def graph(coefficient, walls=(), wrap=(), spacing=(1.0, 1.0, 1.0), shift=0.0):
    """(conductances, diagonal, periodic) of harmonic faces on a padded coefficient field; 0 in voids.

    `walls`: axes with values held half a cell outside; `wrap`: periodic axes.
    """
    shape = coefficient.shape
    conductances, diagonal = [], shift * (coefficient > 0)
    for axis in range(3):
        scale = math.prod(spacing) / spacing[axis] ** 2
        d = np.moveaxis(coefficient, axis, 0)
        pair = np.concatenate([d, d[:1]]) if axis in wrap else d
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where((pair[:-1] > 0) & (pair[1:] > 0), 2 / (1 / pair[:-1] + 1 / pair[1:]), 0.0)
        g = np.zeros((shape[axis] + 1, *d.shape[1:]))
        if axis in wrap and shape[axis] > 1:
            g[1:] = inner
            g[0] = g[-1]
        elif axis not in wrap:
            g[1:-1] = inner
        conductances.append(np.ascontiguousarray(np.moveaxis(scale * g, 0, axis)))
        if axis in walls:
            w = np.moveaxis(diagonal, axis, 0)
            w[0] += 2 * scale * d[0]
            w[-1] += 2 * scale * d[-1]
    return conductances, diagonal, tuple(axis in wrap for axis in range(3))


def assembled(conductances, diagonal):
    """K as a sparse matrix, independently of the solver."""
    index = np.arange(diagonal.size).reshape(diagonal.shape)
    rows, cols, values = [index.ravel()], [index.ravel()], [diagonal.ravel()]
    for axis, g in enumerate(conductances):
        face = np.moveaxis(g, axis, 0)[1:].ravel()
        here = np.moveaxis(index, axis, 0)
        i, j = here.ravel(), np.roll(here, -1, axis=0).ravel()
        rows += [i, j, i, j]
        cols += [i, j, j, i]
        values += [face, face, -face, -face]
    K = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))).tocsc()
    K.eliminate_zeros()
    return K


def direct(conductances, diagonal, rhs):
    """Solution by sparse elimination; floating components with their last cell at 0."""
    K = assembled(conductances, diagonal)
    _, labels = connected_components(K, directed=False)
    anchored = np.bincount(labels, diagonal.ravel()) > 0
    pinned = {label: cell for cell, label in enumerate(labels) if not anchored[label]}
    free = np.setdiff1d(np.arange(rhs.size), list(pinned.values()))
    x = np.zeros(rhs.size)
    x[free] = spsolve(K[free][:, free], rhs.ravel()[free])
    return x.reshape(rhs.shape), labels.reshape(rhs.shape), anchored


def gaussian(shape, tau, seed):
    """Gaussian field with coefficients (pi² k² + tau²)^-1 on cosine modes."""
    k2 = sum(k**2 for k in np.meshgrid(*map(np.arange, shape), indexing="ij"))
    modes = np.random.default_rng(seed).standard_normal(shape) * tau / (np.pi**2 * k2 + tau**2)
    modes.flat[0] = 0.0
    return idctn(modes, norm="ortho")


def two_phase(shape, tau, high, low, seed=1):
    return np.where(gaussian(shape, tau, seed) >= 0, high, low)


def smooth(shape, contrast, seed=1):
    field = gaussian(shape, 3.0, seed)
    return contrast ** ((field - field.min()) / np.ptp(field))


SHAPES = [
    (1, 1, 1), (1, 1, 2), (1, 1, 17), (1, 2, 1), (1, 2, 2), (1, 3, 40), (1, 31, 33), (1, 64, 20), (1, 5, 300),
    (2, 2, 2), (3, 1, 50), (9, 10, 11), (16, 3, 7),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["walls", "shift", "periodic", "floating"])
def test_every_size_and_side_matches_a_direct_solve(shape, kind):
    coefficient = 10.0 ** np.random.default_rng(2).uniform(-1, 1, shape)
    long = [axis for axis in range(3) if shape[axis] > 1]
    given = {
        "walls": {"walls": long},
        "shift": {"shift": 0.3},
        "periodic": {"wrap": long, "shift": 1e-3},
        "floating": {"wrap": long[:1]},
    }[kind]
    if not long and kind != "shift":
        given = {"shift": 1.0}
    conductances, diagonal, periodic = graph(coefficient, **given)
    rhs = np.random.default_rng(3).normal(size=shape)
    if not diagonal.any():
        rhs -= rhs.mean()
    solve = Multigrid(conductances, diagonal, periodic).solve(rhs, tol=1e-11)
    want, _, anchored = direct(conductances, diagonal, rhs)
    x = solve.x if anchored.all() else solve.x - solve.x.mean() + want.mean()
    assert solve.converged
    np.testing.assert_allclose(x, want, rtol=0, atol=1e-8 * np.abs(want).max())
    rest = rhs.ravel() - assembled(conductances, diagonal) @ solve.x.ravel()
    assert solve.residual == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(rhs), abs=1e-13)


@pytest.mark.parametrize("shape", [(1, 40, 33), (12, 13, 14)], ids=str)
def test_voids_and_their_components(shape):
    coefficient = np.where(np.random.default_rng(4).random(shape) < 0.6, 2.0, 0.0)
    conductances, diagonal, periodic = graph(coefficient, walls=[1])
    rhs = np.where(coefficient > 0, np.random.default_rng(5).normal(size=shape), 0.0)
    _, labels, anchored = direct(conductances, diagonal, rhs)
    for label in np.flatnonzero(~anchored):  # balance what floats
        rhs[labels == label] -= rhs[labels == label].mean()
    want, *_ = direct(conductances, diagonal, rhs)
    solve = Multigrid(conductances, diagonal, periodic).solve(rhs, tol=1e-11)
    assert solve.converged
    assert not solve.x[coefficient == 0].any()
    held = anchored[labels]
    np.testing.assert_allclose(solve.x[held], want[held], rtol=0, atol=1e-8 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(12, 13, 14), (2, 3, 40), (7, 1, 30), (5, 5, 5)], ids=str)
@pytest.mark.parametrize("given", [{"walls": [2]}, {"wrap": [0, 2], "shift": 1e-3}, {"wrap": [1]}], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.7], ids=["full", "voids"])
def test_aggregates_that_follow_the_ties_match_a_direct_solve(shape, given, share):
    rng = np.random.default_rng(12)
    coefficient = np.where(rng.random(shape) < 0.5, 1e5, 1.0) * (rng.random(shape) < share)
    conductances, diagonal, periodic = graph(coefficient, **given)
    solver = Multigrid(conductances, diagonal, periodic)
    assert solver._split
    rhs = np.where(coefficient > 0, rng.normal(size=shape), 0.0)
    _, labels, anchored = direct(conductances, diagonal, rhs)
    for label in np.flatnonzero(~anchored):
        rhs[labels == label] -= rhs[labels == label].mean()
    want, *_ = direct(conductances, diagonal, rhs)
    solve = solver.solve(rhs, tol=1e-11)
    assert solve.converged
    for label in np.flatnonzero(~anchored):
        want[labels == label] += (solve.x - want)[labels == label].mean()
    np.testing.assert_allclose(solve.x, want, rtol=0, atol=1e-7 * np.abs(want).max())
    assert not solve.x[(coefficient == 0)].any()


def test_many_components_need_no_coarse_level_of_their_own():
    coefficient = np.where(np.random.default_rng(13).random((24, 24, 24)) < 0.2, 1.0, 0.0)
    coefficient[coefficient > 0] = 10.0 ** np.random.default_rng(14).uniform(-2, 2, np.count_nonzero(coefficient))
    conductances, diagonal, _ = graph(coefficient, shift=0.1)
    solver = Multigrid(conductances, diagonal)
    assert solver._split
    assert len(solver._hierarchy[2]) <= 96
    rhs = np.where(coefficient > 0, 1.0, 0.0)
    solve = solver.solve(rhs, tol=1e-10)
    assert solve.converged
    want, *_ = direct(conductances, diagonal + (coefficient == 0), rhs)
    np.testing.assert_allclose(solve.x, want, rtol=1e-7)


@pytest.mark.parametrize("ratio", [1.0, 10.0, 1e3])
def test_stretched_cells_cost_no_more(ratio):
    conductances, diagonal, _ = graph(smooth((1, 96, 80), 10.0), walls=[1, 2], spacing=(1.0, math.sqrt(ratio), 1.0))
    solve = Multigrid(conductances, diagonal).solve(np.ones(diagonal.shape))
    assert solve.converged
    assert solve.iterations <= 20


# --- work ------------------------------------------------------------------------------------------------------------

WORK = {
    "contrast 4, 128²": ((1, 128, 128), 3.0, 12.0, 3.0, 12),
    "contrast 4, odd": ((1, 253, 241), 3.0, 12.0, 3.0, 12),
    "contrast 1e6": ((1, 253, 253), 3.0, 1e6, 1.0, 25),
    "contrast 1e6, rough": ((1, 253, 253), 18.0, 1e6, 1.0, 40),
    "contrast 1e7, few": ((1, 100, 100), 3.0, 1.0, 1e-7, 25),
    "3D, contrast 4": ((40, 41, 42), 3.0, 12.0, 3.0, 12),
}


@pytest.mark.parametrize(("shape", "tau", "high", "low", "most"), WORK.values(), ids=WORK)
def test_iterations_on_two_phases(shape, tau, high, low, most):
    long = [axis for axis in range(3) if shape[axis] > 1]
    conductances, diagonal, _ = graph(two_phase(shape, tau, high, low), walls=long)
    solve = Multigrid(conductances, diagonal, threads=1).solve(np.ones(shape), tol=1e-8)
    assert solve.converged
    assert solve.iterations <= most


def spheres(shape, share, radius, inside, outside):
    """Random spheres (voxelised, overlapping) that fill `share` of a box."""
    rng, cells, field = np.random.default_rng(1), np.indices(shape), np.zeros(shape, bool)
    while field.mean() < share:
        centre, size = rng.uniform(0, shape), radius * rng.uniform(0.6, 1.4)
        field |= sum((cells[axis] - centre[axis]) ** 2 for axis in range(3)) < size**2
    return np.where(field, inside, outside)


def cubes(shape, edge, high, low):
    return np.where((np.indices(shape) // edge).sum(axis=0) % 2 == 0, high, low)


def speckled(shape, share, high, low):
    return np.where(np.random.default_rng(0).random(shape) < share, high, low)


# plain blocks of 2 x 2 x 2 cells took 50 to 350 iterations on most of these
PHASES = {
    "smooth, 1e3": (two_phase((33, 34, 31), 3.0, 1e3, 1.0), 20),
    "smooth, 1e6": (two_phase((33, 34, 31), 3.0, 1e6, 1.0), 24),
    "smooth, 1e7, few": (two_phase((33, 34, 31), 3.0, 1.0, 1e-7), 24),
    "rough, 1e3": (two_phase((33, 34, 31), 18.0, 1e3, 1.0), 24),
    "rough, 1e7": (two_phase((33, 34, 31), 18.0, 1e7, 1.0), 26),
    "conducting spheres": (spheres((32, 32, 32), 0.2, 2.0, 1e6, 1.0), 36),
    "insulating spheres": (spheres((32, 32, 32), 0.3, 2.0, 1.0, 1e6), 18),
    "layers": (np.where(np.arange(32)[:, None, None] // 3 % 2, 1e6, 1.0) * np.ones((32, 32, 32)), 16),
    "cubes": (cubes((32, 32, 32), 3, 1e6, 1.0), 75),
    "speckles": (speckled((32, 32, 32), 0.05, 1e6, 1.0), 30),
    "speckles, half": (speckled((32, 32, 32), 0.5, 1e6, 1.0), 26),
    "every cell another": (10.0 ** np.random.default_rng(0).uniform(-3, 3, (32, 32, 32)), 32),
    "thin": (two_phase((3, 60, 61), 18.0, 1e6, 1.0), 26),
}


@pytest.mark.parametrize(("coefficient", "most"), PHASES.values(), ids=PHASES)
def test_iterations_on_blocks_of_high_contrast(coefficient, most):
    conductances, diagonal, _ = graph(coefficient, walls=[0, 1, 2])
    solve = Multigrid(conductances, diagonal, threads=1).solve(np.ones(diagonal.shape))
    assert solve.converged
    assert solve.iterations <= most


def graded(shape, ratio):
    """(conductances, diagonal) of D = 1 on a box whose cells grow by `ratio` along x and z, and away from the middle in y."""
    widths = []
    for axis, n in enumerate(shape):
        t = np.linspace(0, 1, n) if axis != 1 else np.abs(np.linspace(-1, 1, n))
        widths.append(ratio**t / (ratio**t).sum() if n > 1 else np.ones(1))
    conductances, diagonal = [], np.zeros(shape)
    for axis, n in enumerate(shape):
        inner = 2 / (widths[axis][1:] + widths[axis][:-1])
        wall = np.zeros(n)
        if n > 1:
            wall[[0, -1]] = 2 / widths[axis][[0, -1]]
        faces, walls = (
            np.einsum("i,j,k->ijk", *(own if a == axis else widths[a] for a in range(3)))
            for own in (np.concatenate([[0.0], inner, [0.0]]), wall)
        )
        conductances.append(np.ascontiguousarray(faces))
        diagonal += walls
    return conductances, diagonal


# 36 to more than 500 without aggregates that follow the ties
@pytest.mark.parametrize(
    ("shape", "ratio", "most"),
    [
        ((1, 120, 121), 10.0, 34), ((1, 120, 121), 100.0, 36), ((1, 120, 121), 1e4, 48),
        ((32, 33, 31), 10.0, 22), ((32, 33, 31), 100.0, 24), ((32, 33, 31), 1e4, 50),
    ],
    ids=str,
)  # fmt: skip
def test_iterations_where_cells_are_stretched_either_way(shape, ratio, most):
    conductances, diagonal = graded(shape, ratio)
    solve = Multigrid(conductances, diagonal, threads=1).solve(np.ones(shape))
    assert solve.converged
    assert solve.iterations <= most


def test_iterations_on_a_log_normal_block():
    conductances, diagonal, _ = graph(smooth((40, 40, 40), 1e3), walls=[0, 1, 2])
    assert Multigrid(conductances, diagonal, threads=1).solve(np.ones((40, 40, 40))).iterations <= 12


@pytest.mark.parametrize("shift", [1e-6, 1e-3, 1.0, 1e3], ids=str)
@pytest.mark.parametrize("shape", [(1, 120, 120), (24, 24, 24)], ids=str)
def test_implicit_steps_are_no_harder_than_equilibria(shape, shift):
    conductances, diagonal, _ = graph(two_phase(shape, 3.0, 12.0, 3.0), shift=shift)
    rhs = np.random.default_rng(6).normal(size=shape)
    solve = Multigrid(conductances, diagonal).solve(rhs, tol=1e-8)
    assert solve.converged
    assert solve.iterations <= 13


def test_one_dimension_is_exact_at_any_contrast():
    coefficient = 10.0 ** np.random.default_rng(7).uniform(-10, 10, (1, 1, 1000))
    conductances, diagonal, _ = graph(coefficient, walls=[2])
    flow = np.zeros((1, 1, 1000))
    flow[0, 0, 0], flow[0, 0, -1] = diagonal[0, 0, 0], 0.0  # 1 at the low wall, 0 at the high one
    x = Multigrid(conductances, diagonal).solve(flow).x.ravel()
    resistance = np.concatenate([[1 / diagonal[0, 0, 0]], 1 / conductances[2][0, 0, 1:-1], [1 / diagonal[0, 0, -1]]])
    want = np.cumsum(resistance[::-1])[::-1][1:] / resistance.sum()
    np.testing.assert_allclose(x, want, rtol=1e-11)


# --- promises --------------------------------------------------------------------------------------------------------

SYMMETRIC = {
    "plane": ((1, 30, 27), {"walls": [1, 2]}),
    "plane, periodic": ((1, 32, 24), {"wrap": [1], "shift": 0.1}),
    "block": ((9, 8, 7), {"walls": [0]}),
    "block, held by losses": ((9, 8, 7), {"wrap": [0, 2], "shift": 0.1}),
    "line": ((1, 1, 40), {"walls": [2]}),
}


@pytest.mark.parametrize(("shape", "given"), SYMMETRIC.values(), ids=SYMMETRIC)
def test_the_cycle_is_a_symmetric_positive_preconditioner(shape, given):
    conductances, diagonal, periodic = graph(two_phase(shape, 3.0, 100.0, 1.0), **given)
    solver = Multigrid(conductances, diagonal, periodic)
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, *shape))
    Ma, Mb = (solver.cycle(v, np.empty(shape)) for v in (a, b))
    assert (a * Mb).sum() == pytest.approx((b * Ma).sum(), rel=1e-4, abs=1e-5 * np.linalg.norm(a) * np.linalg.norm(Mb))
    assert (a * Ma).sum() > 0
    assert (b * Mb).sum() > 0


@pytest.mark.parametrize(
    ("shape", "wrap"),
    [((1, 220, 210), []), ((1, 192, 160), [1, 2]), pytest.param((32, 40, 41), [], marks=pytest.mark.slow)],
    ids=str,
)
def test_threads_change_no_bit(shape, wrap):
    given = {"wrap": wrap, "shift": 1e-3} if wrap else {"walls": [1, 2]}
    conductances, diagonal, periodic = graph(two_phase(shape, 3.0, 12.0, 3.0), **given)
    rhs = np.random.default_rng(10).normal(size=shape)
    one, *more = (Multigrid(conductances, diagonal, periodic, threads=n).solve(rhs) for n in (1, 2, 3))
    assert {other.iterations for other in more} == {one.iterations}
    assert all(np.array_equal(one.x, other.x) for other in more)


def test_threads_change_no_bit_where_aggregates_follow_the_ties():
    conductances, diagonal, _ = graph(two_phase((28, 29, 31), 18.0, 1e4, 1.0), walls=[0])
    rhs = np.random.default_rng(10).normal(size=diagonal.shape)
    one, two = (Multigrid(conductances, diagonal, threads=n) for n in (1, 2))
    assert one._split
    assert np.array_equal(one.solve(rhs).x, two.solve(rhs).x)


def test_aggregates_keep_phases_apart():
    coefficient = spheres((16, 17, 18), 0.3, 3.0, 1e4, 1.0)
    conductances, diagonal, _ = graph(coefficient, walls=[0])
    table, _, links = diffsim.graphs.layout(conductances, diagonal, 1.0, np.float64, 96)
    groups, order = (links[table[0, column] :] for column in (kernels.GROUPS, kernels.ORDER))
    groups = groups[: table[1, 0] + 1]
    phases = np.split(coefficient.ravel()[order[: groups[-1]]], groups[1:-1])
    assert sorted(order[: groups[-1]]) == list(range(diagonal.size))
    assert max(map(len, phases)) <= 8 + 6  # a block, and cells that nothing but a neighbour ties
    mixed = [phase for phase in phases if np.ptp(phase) > 0]
    # a cell that the other phase encloses may follow a neighbour; nothing else mixes
    assert sum(map(len, mixed)) < 0.02 * diagonal.size


def test_a_batch_solves_each_as_if_alone():
    systems = []
    for seed in range(6):
        conductances, diagonal, _ = graph(two_phase((1, 40, 40 + seed % 2), 3.0, 12.0, 3.0, seed), walls=[1, 2])
        systems.append((conductances, diagonal, np.random.default_rng(seed).normal(size=diagonal.shape)))
    for (conductances, diagonal, rhs), solve in zip(systems, solve_batch(systems), strict=True):
        alone = Multigrid(conductances, diagonal).solve(rhs)
        assert np.array_equal(alone.x, solve.x)
        assert alone.iterations == solve.iterations
    assert solve_batch([]) == []


def stacks_of_planes():
    """Systems of one shape in an order that mixes what a stack may hold and what it may not."""
    systems = []
    for seed in range(32):
        high, wrap = 1e6 if seed % 4 == 3 else 12.0 + seed, [2] if seed % 3 == 2 else []
        coefficient = two_phase((1, 40, 36), 3.0, high, 3.0, seed)
        if seed % 5 == 4:
            coefficient[0, 7, 9] = 0.0  # a cell that nothing is attached to
        conductances, diagonal, periodic = graph(coefficient, [1], wrap)
        if seed == 13:
            diagonal[0, 3, 3] = np.inf  # no number can come of that
        rhs = np.random.default_rng(seed).normal(size=diagonal.shape) * np.where(coefficient > 0, 1.0, 0.0)
        systems.append((conductances, diagonal, {6: 0.0, 7: 1e150}.get(seed, 1.0) * rhs, periodic))
    return systems


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stack_of_planes_solves_each_as_if_alone(threads, monkeypatch):
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    systems, sizes = stacks_of_planes(), []
    solve_planes = diffsim.batch.stack.solve_planes
    monkeypatch.setattr(diffsim.batch.stack, "solve_planes", lambda *a: (sizes.append(len(a[-1])), solve_planes(*a)))
    solves = solve_batch(systems)
    assert sum(sizes) >= 8
    for (conductances, diagonal, rhs, periodic), solve in zip(systems, solves, strict=True):
        alone = Multigrid(conductances, diagonal, periodic, threads=1).solve(rhs)
        assert np.array_equal(alone.x, solve.x, equal_nan=True)
        numbers = [(s.iterations, s.residual, s.rounding, s.converged) for s in (alone, solve)]
        assert numbers[0] == numbers[1] or not np.isfinite(diagonal).all()
        assert alone.converged == np.isfinite(diagonal).all()


def test_memory_that_holds_anything_does_not_matter_to_a_stack(monkeypatch):
    systems = [system for system in stacks_of_planes() if not system[3][2]]
    before = solve_batch(systems)
    left = diffsim.multigrid._kept.__dict__
    for memory in left.values():
        memory[:] = 255  # NaN, in any precision
    assert left
    for first, again in zip(before, solve_batch(systems), strict=True):
        assert np.array_equal(first.x, again.x, equal_nan=True)


def test_what_cannot_be_written_to_is_copied_for_a_stack():
    systems = [[*system] for system in stacks_of_planes()[:5]]
    for system in systems:
        system[2] = np.broadcast_to(1.0, system[1].shape)
        system[1].flags.writeable = False
    for (conductances, diagonal, rhs, periodic), solve in zip(systems, solve_batch(systems), strict=True):
        assert np.array_equal(Multigrid(conductances, diagonal, periodic, threads=1).solve(rhs).x, solve.x)


def test_inputs_are_left_alone_and_a_good_guess_saves_work():
    conductances, diagonal, _ = graph(two_phase((1, 60, 60), 3.0, 12.0, 3.0), walls=[1, 2])
    rhs = np.ones(diagonal.shape)
    solver = Multigrid(conductances, diagonal)
    cold = solver.solve(rhs)
    guess = cold.x * (1 + 1e-4)
    before = guess.copy()
    warm = solver.solve(rhs, x0=guess)
    assert warm.iterations < cold.iterations
    assert np.array_equal(guess, before)
    assert (rhs == 1).all()


def test_what_an_earlier_solve_left_behind_does_not_matter():
    conductances, diagonal, _ = graph(two_phase((1, 60, 60), 3.0, 12.0, 3.0), walls=[1, 2])
    used, fresh = Multigrid(conductances, diagonal), Multigrid(conductances, diagonal)
    used.solve(np.random.default_rng(11).normal(size=diagonal.shape))
    table, arena, *_ = used._hierarchy
    start, cells = table[0, diffsim.multigrid.kernels.P], diagonal.size
    arena[start : start + 2 * cells] = np.nan  # the directions
    rhs = np.ones(diagonal.shape)
    assert np.array_equal(used.solve(rhs).x, fresh.solve(rhs).x)


@pytest.mark.parametrize("wrap", [[], [1, 2]], ids=["walls", "periodic"])
def test_memory_that_a_solver_has_left_is_used_again_and_changes_nothing(wrap):
    conductances, diagonal, periodic = graph(two_phase((1, 64, 48), 3.0, 12.0, 3.0), [1, 2], wrap, shift=0.1)
    rhs = np.ones(diagonal.shape)
    fresh = Multigrid(conductances, diagonal, periodic, threads=1).solve(rhs)
    first = Multigrid(conductances, diagonal, periodic, threads=1)
    first._hierarchy[1][:] = np.nan
    arena = first._hierarchy[1].ctypes.data
    diffsim.multigrid._kept.scratch[:] = 255  # NaN as doubles
    first.release()
    second = Multigrid(conductances, diagonal, periodic, threads=1)
    assert np.array_equal(second.solve(rhs).x, fresh.x)
    assert second._hierarchy[1].ctypes.data == arena
    second.release()
    assert np.array_equal(second.solve(rhs).x, fresh.x)  # made again


def test_what_a_thread_keeps_is_bounded(monkeypatch):
    monkeypatch.setattr(diffsim.multigrid, "KEPT", 1000)
    conductances, diagonal, _ = graph(two_phase((1, 64, 48), 3.0, 12.0, 3.0), walls=[1, 2])
    diffsim.multigrid._kept.__dict__.clear()
    solver = Multigrid(conductances, diagonal, threads=1)
    solver.solve(np.ones(diagonal.shape))
    solver.release()
    assert not diffsim.multigrid._kept.__dict__


def test_a_batch_compiles_nothing_that_one_solve_has_not_compiled():
    systems = []
    for seed in range(3):
        conductances, diagonal, _ = graph(two_phase((1, 40, 40), 3.0, 12.0, 3.0, seed), walls=[1, 2])
        systems.append((conductances, diagonal, np.ones(diagonal.shape)))
    Multigrid(*systems[0][:2], threads=1).solve(systems[0][2])
    entries = [kernels.box_set_up, kernels.plane_pcg, kernels.survey]
    compiled = [len(entry.signatures) for entry in entries]
    solve_batch(systems)
    assert [len(entry.signatures) for entry in entries] == compiled


@pytest.mark.parametrize("wrap", [[], [1, 2]], ids=["walls", "periodic"])
def test_a_hierarchy_set_up_on_several_threads_has_the_bits_of_one(wrap, monkeypatch):
    monkeypatch.setattr(diffsim.multigrid, "SET_UP", 4_000)
    conductances, diagonal, periodic = graph(two_phase((1, 200, 160), 3.0, 1e3, 1.0), [1, 2], wrap, shift=0.1)
    solvers = [Multigrid(conductances, diagonal, periodic, threads=n) for n in (1, 2, 5)]
    rhs = np.random.default_rng(13).normal(size=diagonal.shape)
    one, *more = (solver.cycle(rhs, np.empty(rhs.shape)) for solver in solvers)
    assert [solver._members(diffsim.multigrid.SET_UP) for solver in solvers] == [1, 2, 5]
    assert all(np.array_equal(one, other) for other in more)


@pytest.fixture
def thin_bands(monkeypatch):
    """The fewest rows that a band of the finest level may have."""
    layouts = (diffsim.multigrid._plane_layout, diffsim.multigrid._banded_layouts)
    for layout in layouts:
        layout.cache_clear()
    yield lambda: (monkeypatch.setattr(diffsim.multigrid, "BAND", 1), *(layout.cache_clear() for layout in layouts))
    for layout in layouts:
        layout.cache_clear()


@pytest.mark.parametrize(
    ("shape", "wrap"), [((1, 71, 67), ()), ((1, 70, 64), ()), ((1, 72, 67), (1,)), ((1, 71, 64), (2,)), ((1, 64, 72), (1, 2))]
)
def test_bands_of_the_finest_level_change_no_bit(shape, wrap, thin_bands):
    system = graph(two_phase(shape, 3.0, 50.0, 1.0), [axis for axis in (1, 2) if axis not in wrap], wrap, shift=0.1)
    whole, rhs = Multigrid(*system), np.ones(shape)
    expected = whole.solve(rhs)
    kept = whole._hierarchy[1][: whole._plane[0][0, kernels.X]].copy()  # couplings, losses and diagonals of the finest level
    thin_bands()
    banded = Multigrid(*system)
    assert banded._plane[0][0, kernels.WEIGHTS_HEIGHT] - 2 == 4
    np.testing.assert_array_equal(banded.solve(rhs).x, expected.x)
    np.testing.assert_array_equal(banded._hierarchy[1][: kept.size], kept)


def test_too_few_iterations_are_reported():
    conductances, diagonal, _ = graph(two_phase((1, 60, 60), 3.0, 12.0, 3.0), walls=[1, 2])
    solve = Multigrid(conductances, diagonal).solve(np.ones(diagonal.shape), tol=1e-10, max_iterations=2)
    assert not solve.converged
    assert solve.iterations == 2
    assert solve.residual > 1e-10


def test_below_rounding_the_solver_stops_and_says_so():
    conductances, diagonal, _ = graph(two_phase((1, 60, 60), 3.0, 1e7, 1.0), walls=[1, 2])
    solve = Multigrid(conductances, diagonal).solve(np.ones(diagonal.shape), tol=1e-15)
    assert solve.converged
    assert 1e-15 < solve.residual <= 2 * solve.rounding


def test_zero_and_scale_of_the_right_hand_side():
    conductances, diagonal, _ = graph(two_phase((1, 30, 30), 3.0, 12.0, 3.0), walls=[1, 2])
    solver = Multigrid(conductances, diagonal)
    nothing = solver.solve(np.zeros(diagonal.shape))
    assert nothing.converged
    assert nothing.iterations == 0
    assert not nothing.x.any()
    one = solver.solve(np.ones(diagonal.shape))
    for scale in (2.0**1000, 2.0**400, 2.0**-400, 2.0**-1000):
        scaled = solver.solve(np.full(diagonal.shape, scale))
        assert scaled.iterations == one.iterations
        np.testing.assert_allclose(scaled.x / scale, one.x, rtol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_right_hand_side_that_is_not_finite_is_refused(bad):
    conductances, diagonal, _ = graph(np.ones((1, 8, 8)), walls=[1])
    rhs = np.ones((1, 8, 8))
    rhs[0, 3, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        Multigrid(conductances, diagonal).solve(rhs)


def test_other_norms_are_refused():
    conductances, diagonal, _ = graph(np.ones((1, 8, 8)), walls=[1])
    with pytest.raises(ValueError, match="residual"):
        Multigrid(conductances, diagonal).solve(np.ones((1, 8, 8)), norm="energy")


def test_any_symmetric_operator_can_use_the_cycle():
    conductances, diagonal, _ = graph(smooth((1, 40, 40), 10.0), walls=[1, 2])
    K = assembled(conductances, diagonal)
    extra = np.random.default_rng(9).random(diagonal.size)
    apply = lambda u: (K @ u.ravel() + extra * u.ravel()).reshape(u.shape)  # noqa: E731
    solver = Multigrid(conductances, diagonal)
    rhs = np.ones(diagonal.shape)
    solve = diffsim.multigrid.solve_preconditioned(apply, solver.cycle, rhs, None, 1e-10, 100)
    assert solve.converged
    np.testing.assert_allclose(apply(solve.x), rhs, rtol=0, atol=1e-9)


def percolating(n, contrast, seed=0):
    """A plane whose cells are good or bad conductors by chance, as many of the good as just hang together."""
    return np.where(np.random.default_rng(seed).random((1, n, n)) < 0.41, 1.0, contrast)


def test_where_iterations_are_slow_factors_take_over(monkeypatch):
    system, rhs = graph(percolating(96, 1e6), walls=(1, 2)), np.ones((1, 96, 96))
    solver = Multigrid(*system)
    solve = solver.solve(rhs, max_iterations=2000)
    assert solve.converged
    assert diffsim.multigrid.PATIENCE <= solve.iterations <= diffsim.multigrid.PATIENCE + 2
    K = assembled(*system[:2])
    assert np.linalg.norm(K @ solve.x.ravel() - rhs.ravel()) <= max(1e-8, 2 * solve.rounding) * np.linalg.norm(rhs)
    again = solver.solve(2 * rhs)  # by what is there
    assert again.converged
    assert again.iterations <= 2
    # a few iterations are none too many
    assert not Multigrid(*system).solve(rhs, max_iterations=50).converged
    # without them conjugate gradients go on where they were
    monkeypatch.setattr(diffsim.multigrid.sparse, "factorised", lambda *system: None)
    alone = Multigrid(*system).solve(rhs, max_iterations=2000)
    assert alone.converged
    assert alone.iterations > 150
    np.testing.assert_allclose(alone.x, solve.x, rtol=1e-5)


def test_no_factors_are_made_for_which_memory_is_missing(monkeypatch):
    monkeypatch.setattr(diffsim.multigrid, "FACTORS", 1 << 40)
    solver = Multigrid(*graph(percolating(64, 1e6, 1), walls=(1, 2)))
    assert solver._factors is None
    assert solver.solve(np.ones((1, 64, 64)), max_iterations=2000).converged


@pytest.mark.parametrize("walls", [(1, 2), ()])
def test_factors_know_cells_and_components_that_nothing_anchors(walls):
    coefficient = percolating(40, 10.0)
    coefficient[0, 7, 9] = 0.0
    coefficient[0, 20:30, [20, 29]] = coefficient[0, [20, 29], 20:30] = 0.0  # an island in the lake
    conductances, diagonal, periodic = graph(coefficient, walls=walls)
    rhs = np.random.default_rng(0).standard_normal(coefficient.shape)
    expected, labels, anchored = direct(conductances, diagonal, rhs)
    for label in np.flatnonzero(~anchored):
        rhs[labels == label] -= rhs[labels == label].mean()
    expected, labels, anchored = direct(conductances, diagonal, rhs)
    x = diffsim.multigrid.sparse.factorised(conductances, diagonal, periodic)(rhs)
    for label in np.flatnonzero(~anchored):
        cells = labels == label
        assert x[cells][0] == pytest.approx(0.0, abs=1e-12)
        x[cells] += (expected[cells] - x[cells]).mean()
    np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-11)


def test_factors_take_over_on_planes_with_voids_and_components_without_anchor():
    coefficient = percolating(128, 1e6, 2)
    coefficient[np.random.default_rng(1).random(coefficient.shape) < 0.35] = 0.0
    system = graph(coefficient, walls=(1,))
    rhs = np.where(system[1] > 0, 1.0, 0.0)
    solve = Multigrid(*system).solve(rhs, max_iterations=2000)
    assert solve.converged
    assert solve.iterations <= diffsim.multigrid.PATIENCE + 2


def test_a_stack_leaves_slow_planes_to_their_factors():
    systems = [graph(percolating(96, 1e6 if seed == 2 else 3.0, seed), walls=(1, 2)) for seed in range(5)]
    systems = [(conductances, diagonal, np.ones(diagonal.shape), periodic) for conductances, diagonal, periodic in systems]
    together = solve_batch(systems, max_iterations=2000)
    for (conductances, diagonal, rhs, periodic), solve in zip(systems, together, strict=True):
        alone = Multigrid(conductances, diagonal, periodic, threads=1).solve(rhs, max_iterations=2000)
        np.testing.assert_array_equal(alone.x, solve.x)
        assert alone.iterations == solve.iterations
    assert together[2].converged
    assert together[2].iterations >= diffsim.multigrid.PATIENCE
