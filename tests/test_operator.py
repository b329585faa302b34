"""The discrete operator: symmetric, conservative, exact on linear and layered profiles, bounded from above."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import diffsim as ds
from diffsim.operator import discretize
from tests.problems import random_problem


def steady(problem):
    operator = discretize(problem)
    u = np.linalg.solve(operator.matrix().toarray(), operator.forcing(0.0).ravel())
    return operator, u.reshape(operator.shape)


seeds = st.integers(0, 2**32 - 1)


@hypothesis.given(seeds)
def test_the_matrix_is_symmetric_and_does_what_the_kernel_does(seed):
    operator = discretize(random_problem(seed))
    matrix = operator.matrix()
    u = np.random.default_rng(seed).normal(size=operator.shape) * operator.free
    assert abs(matrix - matrix.T).max() == 0
    scale = abs(matrix).sum(axis=1).max() * np.abs(u).max()
    np.testing.assert_allclose(
        (matrix @ u.ravel()).reshape(operator.shape), operator.apply(u), rtol=0, atol=1e-14 * scale
    )


@hypothesis.given(seeds)
def test_the_bounds_hold_the_spectral_radius(seed):
    operator = discretize(random_problem(seed))
    root = 1 / np.sqrt(operator.mass.ravel())
    rho = np.linalg.eigvalsh(root[:, None] * operator.matrix().toarray() * root).max()
    plain, sharp = operator.spectral_bound(sharp=False), operator.spectral_bound()
    rounding = 1 + 1e-12
    assert rho <= plain.value * rounding
    assert plain.value <= 2 * rho * rounding
    assert rho <= sharp.value * rounding
    assert sharp.value <= plain.value * rounding
    if plain.kind == "exact":
        np.testing.assert_allclose(plain.value, rho, rtol=1e-11)
    np.testing.assert_allclose(
        operator.max_diagonal, (operator.matrix().diagonal() / operator.mass.ravel()).max(), rtol=1e-13
    )


@hypothesis.given(seeds)
def test_what_leaves_a_cell_enters_the_next(seed):
    operator = discretize(random_problem(seed))
    u = np.random.default_rng(seed).normal(size=operator.shape) * operator.free
    flux = operator.apply(u)
    lost = (operator.diagonal * u).sum()
    assert abs(flux.sum() - lost) <= 1e-13 * np.abs(flux).sum()


@hypothesis.given(seeds)
def test_flows_through_sides_and_losses_are_all_that_changes_the_content(seed):
    problem = random_problem(seed)
    operator = discretize(problem)
    u = np.random.default_rng(seed).normal(size=operator.shape) * operator.free
    inflow = sum(operator.flow(side, u, 0.0) for side in (*problem.grid.sides, "void", "fixed"))
    loss = (
        np.broadcast_to(problem.loss, problem.grid.shape).reshape(operator.shape)
        * operator.volumes
        * (problem.ambient(0.0) - u)
    ).sum()
    source = (np.broadcast_to(problem.source(0.0), problem.grid.shape).reshape(operator.shape) * operator.volumes).sum()
    rate = operator.forcing(0.0) - operator.apply(u)
    assert abs(rate.sum() - (inflow + loss + source)) <= 1e-11 * (np.abs(rate).sum() + abs(inflow) + 1)


@pytest.mark.parametrize(
    "left", [ds.Dirichlet(1.0), ds.Neumann(-4.0), ds.Robin(h=4.0, ambient=0.0)], ids=lambda s: s.kind
)
def test_a_linear_profile_is_exact(left):
    grid = ds.Grid.from_edges([np.array([0.0, 0.1, 0.35, 0.4, 1.0])])
    problem = ds.Problem(grid, diffusivity=2.0, boundary={"x-": left, "x+": ds.Dirichlet(3.0)})
    _, u = steady(problem)  # u = 1 + 2 x has D u' = 4
    np.testing.assert_allclose(u.ravel(), 1 + 2 * grid.centers[0], rtol=1e-13)


def test_layers_with_interfaces_on_faces_are_exact():
    grid = ds.Grid.from_edges([np.array([0.0, 0.2, 0.5, 0.6, 1.0])])
    d = np.array([1.0, 1.0, 1e-3, 1e4])
    problem = ds.Problem(grid, diffusivity=d, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)})
    operator, u = steady(problem)
    resistance = (grid.widths[0] / d).sum()
    np.testing.assert_allclose(operator.flow("x-", u, 0.0), 1 / resistance, rtol=1e-12)


def test_a_contact_resistance_is_one_more_layer():
    grid = ds.Grid(shape=(8,), lengths=(1.0,))
    problem = ds.Problem(
        grid, diffusivity=2.0, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)}, contacts=[("x", 0.5, 0.7)]
    )
    operator, u = steady(problem)
    flux = operator.flow("x-", u, 0.0)
    np.testing.assert_allclose(flux, 1 / (1 / 2 + 0.7), rtol=1e-12)
    steps = -np.diff(u.ravel())
    np.testing.assert_allclose(steps, flux * (1 / 16 + 0.7 * (np.arange(7) == 3)), rtol=1e-11)


@pytest.mark.parametrize("cells", [1, 2, 5])
@pytest.mark.parametrize("low", [ds.Dirichlet(0.0), ds.Neumann(0.0), ds.Robin(3.0)], ids=lambda s: s.kind)
@pytest.mark.parametrize("high", [ds.Dirichlet(0.0), ds.Neumann(0.0), ds.Robin(0.4)], ids=lambda s: s.kind)
def test_the_facts_of_a_constant_box_are_those_of_its_matrix(cells, low, high):
    sides = {"x-": low, "x+": high, "y": ds.Dirichlet(0.0)}
    grid = ds.Grid(shape=(cells, 4), lengths=(1.0, 2.0))
    operator = discretize(ds.Problem(grid, diffusivity=0.6, capacity=2.0, loss=0.3, boundary=sides))
    matrix, mass = operator.matrix().toarray(), operator.mass.ravel()
    np.testing.assert_allclose(operator.uniform.max_diagonal, (matrix.diagonal() / mass).max(), rtol=1e-14)
    if operator.uniform.transformable:
        rho = np.linalg.eigvalsh(matrix / mass[0]).max()
        np.testing.assert_allclose(operator.uniform.spectral_radius, rho, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (1, 2), (2, 4), (2, 1, 3)])
def test_rows_of_a_box_with_a_robin_side_in_closed_form(shape):
    sides = {"x-": ds.Robin(h=3.0, ambient=1.0), "x+": ds.Dirichlet(0.0)}
    grid = ds.Grid(shape, tuple(0.3 * n for n in shape))
    operator = discretize(ds.Problem(grid, diffusivity=0.5, capacity=2.0, loss=0.7, boundary=sides))
    rows = abs(operator.matrix()).sum(axis=1) / operator.mass.ravel()
    assert operator.uniform.gershgorin == pytest.approx(rows.max(), rel=1e-13)


def test_wall_values_and_flows_of_a_robin_side():
    grid = ds.Grid(shape=(5, 3), lengths=(1.0, 1.0))
    problem = ds.Problem(grid, diffusivity=0.5, boundary={"x-": ds.Dirichlet(10.0), "x+": ds.Robin(h=2.0, ambient=1.0)})
    operator, u = steady(problem)
    flow = 9.0 / (1 / 0.5 + 1 / 2)
    np.testing.assert_allclose(operator.flow("x-", u, 0.0), flow, rtol=1e-12)
    np.testing.assert_allclose(operator.wall_field("x+", u, 0.0), np.full(3, 1 + flow / 2), rtol=1e-12)


def test_held_cells_act_as_walls_at_their_centre():
    grid = ds.Grid(shape=(5,), lengths=(5.0,))
    mask = np.zeros(5, bool)
    mask[0] = mask[4] = True
    problem = ds.Problem(grid, diffusivity=1.0, fixed=(mask, np.array([8.0, 0, 0, 0, 4.0])))
    operator = discretize(problem)
    k, f = operator.matrix().toarray(), operator.forcing(0.0).ravel()
    free = operator.free.ravel()
    u = np.zeros(5)
    u[free] = np.linalg.solve(k[np.ix_(free, free)], f[free])
    np.testing.assert_allclose(operator.leave(u.reshape(operator.shape)), [8, 7, 6, 5, 4], rtol=1e-13)


def test_patches_cover_a_side_once():
    grid = ds.Grid(shape=(4, 6), lengths=(1.0, 1.0))
    mask = np.arange(6) < 2
    side = ds.Patches(ds.Neumann(0.0), [(mask, ds.Dirichlet(1.0)), (np.arange(6) == 1, ds.Robin(h=1.0, ambient=5.0))])
    operator = discretize(ds.Problem(grid, diffusivity=1.0, boundary={"x-": side}))
    g = {wall.value(0.0): wall for wall in operator.walls if wall.side == "x-" and (wall.g > 0).any()}
    assert [list(g[value].places) for value in (1.0, 5.0)] == [[0], [1]]


@pytest.mark.parametrize("rotation", [0.0, 0.3, 1.0])
def test_a_tensor_reproduces_linear_profiles_inside(rotation):
    c, s = np.cos(rotation), np.sin(rotation)
    xx, xy, yy = 5 * c * c + s * s, 4 * c * s, 5 * s * s + c * c
    grid = ds.Grid(shape=(7, 6), lengths=(1.0, 1.3))
    operator = discretize(ds.Problem(grid, diffusivity=ds.Tensor(xx, xy, yy)))
    x, y = grid.mesh()
    flux = operator.apply(operator.pad(np.broadcast_to(2 * x - 3 * y, grid.shape)))
    np.testing.assert_allclose(flux[0, 1:-1, 1:-1], 0.0, atol=1e-12)
    assert np.linalg.eigvalsh(operator.matrix().toarray()).min() > -1e-12


def test_components_are_found_through_voids_and_periodic_sides():
    active = np.ones((6, 5), bool)
    active[[1, 4]] = False
    grid = ds.Grid(shape=(6, 5), lengths=(1.0, 1.0))
    closed = discretize(ds.Problem(grid, diffusivity=1.0, active=active, boundary={"x-": ds.Dirichlet(0.0)}))
    assert (closed.components[1], list(closed.components[2])) == (3, [True, False, False])
    ring = discretize(ds.Problem(grid, diffusivity=1.0, active=active, boundary={"x": ds.Periodic()}))
    assert ring.components[1] == 2


def test_a_diffusivity_of_state_is_second_order_up_to_the_walls():
    def error(n):
        grid = ds.Grid(shape=(n,), lengths=(1.0,))
        sides = {"x-": ds.Dirichlet(0.0), "x+": ds.Dirichlet(1.0)}
        problem = ds.Problem(grid, ds.OfState(lambda u: (1 + u) ** 3), boundary=sides)
        # Kirchhoff's integral of D is linear in x: (1 + u)^4 = 1 + 15 x
        return np.abs(ds.equilibrium(problem, tol=1e-11).u - ((1 + 15 * grid.centers[0]) ** 0.25 - 1)).max()

    assert abs(np.log2(error(80) / error(160)) - 2) < 0.15
