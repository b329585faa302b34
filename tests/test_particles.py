"""Walkers against the equation they sample: chi-square at a fixed seed, level 1e-4, so a wrong law fails by
far."""

import numba
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import chi2

import diffsim as ds
from diffsim import exact
from diffsim.operator import discretize
from diffsim.particles import jump_rates

LEVEL = 1e-4


def assert_sampled_from(counts, expected):
    """Pearson's chi-square; cells that expect fewer than ten walkers are pooled."""
    counts, expected = np.ravel(counts).astype(float), np.ravel(expected)
    small = expected < 10
    observed = np.append(counts[~small], counts[small].sum())
    mean = np.append(expected[~small], expected[small].sum())
    observed, mean = observed[mean > 1], mean[mean > 1]
    statistic = ((observed - mean) ** 2 / mean).sum()
    assert statistic < chi2.ppf(1 - LEVEL, observed.size), (statistic, observed.size)


def rough_problem(**changes):
    """Jumps of 1e3, a void, a loss, and four kinds of sides."""
    rng = np.random.default_rng(1)
    grid = ds.Grid.from_edges([np.cumsum([0, 1, 2, 1, 1, 3, 1]) / 9, np.linspace(0, 1, 6)])
    active = np.ones(grid.shape, dtype=bool)
    active[2, 2] = False
    arguments = {
        "diffusivity": 10 ** rng.uniform(-2, 1, grid.shape),
        "capacity": rng.uniform(0.5, 2, grid.shape),
        "loss": 0.3,
        "active": active,
        "boundary": {"x-": ds.Dirichlet(0.0), "x+": ds.Robin(2.0, 0.0), "y": ds.Periodic()},
    }
    return ds.Problem(grid, **{**arguments, **changes})


def closed_problem():
    return rough_problem(loss=0.0, boundary={"y": ds.Periodic()})


def semi_discrete(problem, u0, t):
    """u(t) and the content each way out has taken, by the matrix exponential of the augmented system."""
    op = discretize(problem)
    n = op.mass.size
    names = sorted({w.side for w in op.walls if w.g.any()})
    system = np.zeros((n + len(names) + 2, n + len(names) + 2))
    system[:n, :n] = -op.matrix().toarray() / op.mass.ravel()[:, None]
    system[:n, -1] = op.forcing(0.0).ravel() / op.mass.ravel()
    for k, name in enumerate(names):
        for wall in op.walls:
            if wall.side == name:
                np.add.at(system[n + k], wall.cells, wall.g)
    system[n + len(names), :n] = (
        op.volumes * np.broadcast_to(problem.loss, problem.grid.shape).reshape(op.shape)
    ).ravel()
    start = np.concatenate([np.ravel(u0), np.zeros(len(names) + 1), [1.0]])
    end = expm(system * t) @ start
    taken = dict(zip([*names, "loss"], end[n:-1], strict=True))
    return end[:n].reshape(problem.grid.shape), taken


def test_jumps_sample_the_semi_discrete_solution_and_every_way_out():
    problem = rough_problem()
    u0 = np.random.default_rng(2).uniform(0, 1, problem.grid.shape) * problem.active
    run = ds.walk(problem, u0, 0.3, particles=200_000, seed=3)
    u, taken = semi_discrete(problem, u0, 0.3)
    expected = np.where(problem.active, u * np.nan_to_num(run.mass) / run.weight, 0.0)
    ways = np.array([taken[name] / run.weight for name in run.absorbed])
    assert run.counts.sum() + sum(run.absorbed.values()) == run.particles
    assert_sampled_from([*run.counts.ravel(), *run.absorbed.values()], [*expected.ravel(), *ways])
    assert np.isnan(run.density[2, 2])


def test_sources_and_values_at_sides_feed_walkers_as_the_equation_says():
    problem = rough_problem(
        source=np.where(np.arange(30).reshape(6, 5) % 3 == 0, 2.0, 0.0), ambient=0.5,
        boundary={"x-": ds.Dirichlet(1.5), "x+": ds.Robin(2.0, 0.7), "y-": ds.Neumann(0.2)},
    )  # fmt: skip
    u0 = np.random.default_rng(2).uniform(0, 1, problem.grid.shape) * problem.active
    run = ds.walk(problem, u0, 0.3, particles=200_000, seed=4)
    u, _ = semi_discrete(problem, u0, 0.3)
    expected = np.where(problem.active, u * np.nan_to_num(run.mass) / run.weight, 0.0)
    assert_sampled_from(run.counts, expected)


@pytest.mark.parametrize("potential", [None, "random"])
def test_jump_rates_are_in_detailed_balance(potential):
    problem = closed_problem()
    op = discretize(problem)
    v = np.zeros(op.shape) if potential is None else np.random.default_rng(5).normal(size=op.shape)
    rates = jump_rates(op, None if potential is None else v.reshape(problem.grid.shape)).faces.reshape(*op.shape, 6)
    rest = op.mass * np.exp(-v)
    for axis in range(3):
        down, up = (rest * rates[..., 2 * axis + k] for k in (0, 1))
        scale = up.max() + 1e-300
        np.testing.assert_allclose(up / scale, np.roll(down, -1, axis=axis) / scale, rtol=0, atol=1e-14)


@pytest.mark.parametrize("potential", [None, "tilt"])
def test_the_even_distribution_is_stationary_under_jumps(potential):
    problem = closed_problem()
    v = None if potential is None else np.add.outer(np.linspace(0, 2, 6), np.zeros(5))
    u = np.where(problem.active, 1.0 if v is None else np.exp(-v), 0.0)
    run = ds.walk(problem, u, 0.5, particles=100_000, seed=6, potential=v)
    assert run.moves > 5 * run.particles
    assert_sampled_from(run.counts, np.where(problem.active, u * np.nan_to_num(run.mass) / run.weight, 0.0))


def test_walkers_move_through_thick_and_thin_cells_from_a_point():
    problem = closed_problem()
    run = ds.walk(problem, (0.05, 0.1), 0.02, particles=50_000, seed=7)
    u0 = np.zeros(problem.grid.shape)
    u0[0, 0] = 1 / run.mass[0, 0]
    u, _ = semi_discrete(problem, u0, 0.02)
    assert_sampled_from(run.counts, np.where(problem.active, u * np.nan_to_num(run.mass) / run.weight, 0.0))


@pytest.mark.parametrize("motion", ["jumps", "brownian"])
def test_result_does_not_depend_on_the_number_of_threads(motion):
    problem = ds.Problem(ds.Grid((8, 6), (1.0, 1.0)), 0.5, boundary={"x-": ds.Dirichlet(0.0)})
    before = numba.get_num_threads()
    try:
        results = []
        for threads in {1, numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(threads)
            results.append(ds.walk(problem, (0.3, 0.4), 0.05, particles=5_000, seed=8, motion=motion))
    finally:
        numba.set_num_threads(before)
    assert all((r.counts == results[0].counts).all() and r.absorbed == results[0].absorbed for r in results)
    other = ds.walk(problem, (0.3, 0.4), 0.05, particles=5_000, seed=9, motion=motion)
    assert (other.counts != results[0].counts).any()


def test_error_falls_as_one_over_the_root_of_the_number_of_walkers():
    problem = closed_problem()
    u0 = np.zeros(problem.grid.shape)
    u0[0] = 1.0
    u, _ = semi_discrete(problem, u0, 0.1)

    def error(particles):
        runs = [ds.walk(problem, u0, 0.1, particles=particles, seed=s) for s in range(40)]
        return np.sqrt(np.nanmean([((r.density - u) * r.mass) ** 2 for r in runs]))

    # about 40 x 10 independent squares: each rms has a relative standard error near 1 / sqrt(2 x 400) = 3.5 %
    assert error(1_000) / error(16_000) == pytest.approx(4.0, rel=0.15)


# --- Brownian
# ---------------------------------------------------------------------------------------------------


def test_brownian_in_a_reflecting_box_is_exact_in_one_step():
    grid = ds.Grid((20, 12), (1.0, 0.7))
    problem = ds.Problem(grid, ds.PerAxis(0.5, 0.2), boundary={"y": ds.Periodic()})
    run = ds.walk(problem, (0.2, 0.1), 0.3, particles=200_000, seed=10, motion="brownian")
    assert run.moves == run.particles  # one step
    x, y = (np.linspace(0, length, 20 * n * 5 + 1) for length, n in zip(grid.lengths, (1, 1), strict=True))
    images_x = sum(
        exact.gaussian(x - s * 0.2 - 2 * k, 0.3, 0.5) for k in range(-3, 4) for s in (1, -1)
    )  # mirrored in both walls
    images_y = sum(exact.gaussian(y - 0.1 - 0.7 * k, 0.3, 0.2) for k in range(-6, 7))
    cells = []
    for f, nodes, edges in ((images_x, x, grid.edges[0]), (images_y, y, grid.edges[1])):
        running = np.concatenate([[0], np.cumsum((f[1:] + f[:-1]) / 2 * np.diff(nodes))])
        cells.append(np.diff(np.interp(edges, nodes, running)))
    assert_sampled_from(run.counts, run.particles * np.outer(*cells))
    assert run.positions.shape == (run.particles, 2)


def test_brownian_absorption_follows_the_slab_series():
    grid = ds.Grid((10,), (1.0,))
    problem = ds.Problem(grid, 0.7, boundary={"x": ds.Dirichlet(0.0)})
    run = ds.walk(problem, (0.3,), 0.15, particles=200_000, seed=11, motion="brownian")
    n = np.arange(1, 60)
    decay = 2 * np.sin(n * np.pi * 0.3) * np.exp(-0.7 * 0.15 * (n * np.pi) ** 2)
    edges = grid.edges[0][:, None]
    running = (decay / (n * np.pi) * (1 - np.cos(n * np.pi * edges))).sum(axis=1)
    # what each wall has taken is the time integral of the slope there
    taken = 2 * np.sin(n * np.pi * 0.3) / (n * np.pi) * -np.expm1(-0.7 * 0.15 * (n * np.pi) ** 2)
    left, right = taken.sum(), -(taken * np.cos(n * np.pi)).sum()
    # the series of the outflow converges slowly: the two add up to what is missing inside
    gone = 1 - running[-1]
    left = left + (gone - left - right) * 0.7  # 0.7 = 1 - x0: the stationary split carries the tail of the series
    expected = [*np.diff(running), left, gone - left]
    assert_sampled_from([*run.counts, run.absorbed["x-"], run.absorbed["x+"]], np.array(expected) * run.particles)


def smooth_box(**changes):
    grid = ds.Grid((24,), (1.0,))
    x = grid.centers[0]
    return ds.Problem(grid, 1 + 0.7 * np.sin(2 * np.pi * x), capacity=1 + 0.5 * x, **changes)


def test_drift_keeps_brownian_walkers_even_where_diffusivity_varies():
    problem = smooth_box()
    run = ds.walk(problem, np.ones(24), 0.02, particles=30_000, seed=12, motion="brownian")
    even = run.mass / run.mass.sum() * run.particles
    # without the drift the density would tend to c/D, a factor 5 between thin and thick
    assert_sampled_from(run.counts, even)


@pytest.mark.slow
def test_brownian_walkers_agree_with_jumps_on_a_smooth_problem():
    problem = smooth_box(boundary={"x-": ds.Dirichlet(0.0)})
    run = ds.walk(problem, np.ones(24), 0.03, particles=20_000, seed=13, motion="brownian", dt=1e-4)
    u, taken = semi_discrete(problem, np.ones(24), 0.03)
    expected = np.append(u * run.mass, taken["x-"]) / run.weight
    assert_sampled_from([*run.counts, run.absorbed["x-"]], expected)


def test_metropolis_keeps_the_density_of_a_potential_at_any_step():
    problem = smooth_box()
    v = 1.5 * np.cos(2 * np.pi * problem.grid.centers[0])
    # the density between the centres: both fields are linear there, flat in the outer half cells
    nodes = np.concatenate([[0], problem.grid.centers[0], [1]])
    x = (np.arange(24 * 50) + 0.5) / (24 * 50)
    rest = np.interp(x, nodes, np.pad(1 + 0.5 * nodes[1:-1], 1, "edge")) * np.exp(
        -np.interp(x, nodes, np.pad(v, 1, "edge"))
    )
    expected = rest.reshape(24, 50).sum(axis=1) / rest.sum()
    run = ds.walk(problem, (0.5,), 1.0, particles=20_000, seed=14, motion="brownian", potential=v, dt=0.01)
    assert_sampled_from(run.counts, expected * run.particles)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusivity": ds.OfState(lambda u: 1 + u)}, "independent"),
        ({"source": lambda t: 1 + t}, "steady"),
        ({"source": -1.0}, "withdraw"),
    ],
    ids=["nonlinear", "moving source", "sink"],
)
def test_what_cannot_walk_is_refused_in_words(changes, words):
    with pytest.raises(ds.ProblemError, match=words):
        ds.walk(rough_problem(**changes), (0.05, 0.1), 0.1, particles=100)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"particles": 0}, "at least 1"),
        ({"motion": "swim"}, "jumps, brownian"),
        ({"motion": "jumps", "dt": 0.1}, "no step"),
        ({"motion": "brownian"}, "void"),
        ({"start": -np.ones((6, 5))}, "positive content"),
        ({"start": (0.4, 0.5)}, "void"),
        ({"start": (3.0, 0.5)}, "outside"),
    ],
)
def test_wrong_arguments_are_refused_in_words(arguments, words):
    arguments = {"start": (0.05, 0.1), "until": 0.1, "particles": 100, **arguments}
    with pytest.raises(ds.ProblemError, match=words):
        ds.walk(rough_problem(), **arguments)


def test_a_walk_that_would_never_end_is_refused():
    with pytest.raises(ds.ResourceError, match="brownian"):
        ds.walk(rough_problem(), (0.05, 0.1), 1e9, particles=100_000)


def test_a_jump_of_diffusivity_is_not_for_brownian_walkers():
    problem = ds.Problem(ds.Grid((8,), (1.0,)), np.repeat([1.0, 5.0], 4))
    with pytest.raises(ds.ProblemError, match="factor of 2"):
        ds.walk(problem, (0.2,), 0.1, particles=10, motion="brownian")
