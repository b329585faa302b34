"""Spatial order 2 of every kind of side, dimension, geometry and coefficient, by manufactured steady states.

``u = sum_a sin(w_a x_a + p_a)`` with D linear in the first axis has a source in closed form in every
geometry; a small loss makes every mix of sides solvable. Errors are measured at the cell centres in the
volume-weighted L2 norm and the maximum norm.
"""

import math

import numpy as np
import pytest

import diffsim as ds

TOLERANCE = 0.15
LOSS = 0.5
WAVES = ((2.0, 0.3), (1.5, 0.8), (2.5, 0.1))  # (w_a, p_a)
PERIODIC_WAVES = ((2 * np.pi, 0.3), (2 * np.pi, 0.8), (2 * np.pi, 0.1))
CURVATURE = {"cartesian": 0, "cylindrical": 1, "spherical": 2}  # the k of (1/r^k) d/dr (r^k D du/dr)


class Made:
    """The manufactured state on one grid."""

    def __init__(self, grid, waves, slope=0.4, exact_d=None):
        self.grid, self.waves, self.slope = grid, waves, slope

    def diffusivity(self, x):
        return 1 + self.slope * x

    def u(self, *points):
        return sum(np.sin(w * x + p) for x, (w, p) in zip(points, self.waves, strict=False))

    def derivative(self, axis, x):
        w, p = self.waves[axis]
        return w * np.cos(w * x + p)

    def source(self, *points):
        first = points[0]
        d = self.diffusivity(first)
        divergence = -d * sum(w**2 * np.sin(w * x + p) for x, (w, p) in zip(points, self.waves, strict=False))
        divergence = divergence + self.slope * self.derivative(0, first)
        bend = CURVATURE[self.grid.geometry]
        if bend:
            divergence = divergence + bend * d * self.derivative(0, first) / first
        return LOSS * self.u(*points) - divergence

    def side(self, kind, axis, end):
        """The condition that this state meets on one side, from its value and slope there."""
        if kind == "periodic":
            return ds.Periodic()
        grid = self.grid
        points = [c.reshape([-1 if b == a else 1 for b in range(grid.ndim)]) for a, c in enumerate(grid.centers)]
        points[axis] = np.full([1] * grid.ndim, grid.edges[axis][-1 if end else 0])
        shape = [n for a, n in enumerate(grid.shape) if a != axis]
        face = [1 if a == axis else n for a, n in enumerate(grid.shape)]

        def over(values):
            return np.broadcast_to(values, face).reshape(shape)

        value = over(self.u(*points))
        inward = over((1 if end else -1) * self.diffusivity(points[0]) * self.derivative(axis, points[axis]))
        if not shape:
            value, inward = float(value), float(inward)
        if kind == "value":
            return ds.Dirichlet(value)
        if kind == "flux":
            return ds.Neumann(inward)
        return ds.Robin(1.7, value + inward / 1.7)


def grid_of(cells, ndim, geometry="cartesian", start=0.0, stretched=False):
    s = np.linspace(0, 1, cells + 1)
    edge = s + 0.12 * np.sin(2 * np.pi * s) / np.pi if stretched else s
    return ds.Grid.from_edges([edge + (start if a == 0 else 0.0) for a in range(ndim)], geometry=geometry)


def error(grid, kind, waves=WAVES, slope=0.4):
    """(L2, max) error of the discrete steady state with `kind` on every side."""
    made = Made(grid, waves, slope)
    mesh = grid.mesh()
    boundary = {
        f"{axis}{'-+'[end]}": made.side(kind, a, end)
        for a, axis in enumerate(grid.axes)
        for end in (0, 1)
        if not (axis == "r" and end == 0 and grid.edges[0][0] == 0)
    }
    problem = ds.Problem(
        grid,
        np.broadcast_to(made.diffusivity(mesh[0]), grid.shape),
        loss=LOSS,
        source=np.broadcast_to(made.source(*mesh), grid.shape),
        boundary=boundary,
    )
    defect = ds.equilibrium(problem, tol=1e-12).u - made.u(*mesh)
    return math.sqrt((grid.volumes * defect**2).sum() / grid.volumes.sum()), np.abs(defect).max()


def assert_second_order(coarse, fine):
    np.testing.assert_allclose(np.log2(np.divide(coarse, fine)), 2, atol=TOLERANCE)


SIZES = {1: (64, 128), 2: (24, 48), 3: (12, 24)}
KINDS = ("value", "flux", "robin", "periodic")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_kind_of_side_is_of_second_order_in_every_dimension(ndim, kind):
    waves, slope = (PERIODIC_WAVES, 0.0) if kind == "periodic" else (WAVES, 0.4)
    assert_second_order(*(error(grid_of(n, ndim), kind, waves, slope) for n in SIZES[ndim]))


@pytest.mark.parametrize("kind", ["value", "flux", "robin"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_unequal_cells_keep_second_order(ndim, kind):
    assert_second_order(*(error(grid_of(n, ndim, stretched=True), kind) for n in SIZES[ndim]))


@pytest.mark.parametrize("kind", ["value", "flux", "robin"])
@pytest.mark.parametrize("start", [0.0, 0.5], ids=["axis", "hollow"])
@pytest.mark.parametrize(("geometry", "ndim"), [("cylindrical", 1), ("cylindrical", 2), ("spherical", 1)])
def test_curved_geometries_are_of_second_order(geometry, ndim, start, kind):
    # on the axis a state must have no slope: cos instead of sin
    waves = ((2.0, np.pi / 2), *WAVES[1:]) if start == 0 else WAVES
    slope = 0.4 if start else 0.0
    assert_second_order(*(error(grid_of(n, ndim, geometry, start), kind, waves, slope) for n in SIZES[ndim]))


def observed(states, truths, grids):
    errors = [np.sqrt(np.mean((u - t) ** 2)) for u, t in zip(states, truths, strict=True)]
    assert all(g.uniform for g in grids)
    return math.log2(errors[0] / errors[1])


def plate(n):
    grid = ds.Grid((n, n), (1.0, 1.0))
    x, y = grid.mesh()
    return grid, x, y, np.sin(2 * x + 0.3) * np.cos(1.5 * y - 0.2)


def values_on_sides(f):
    def sides(grid):
        cx, cy = grid.centers
        return {
            "x-": ds.Dirichlet(f(0.0, cy)), "x+": ds.Dirichlet(f(1.0, cy)),
            "y-": ds.Dirichlet(f(cx, 0.0)), "y+": ds.Dirichlet(f(cx, 1.0)),
        }  # fmt: skip

    return sides


product = values_on_sides(lambda x, y: np.sin(2 * x + 0.3) * np.cos(1.5 * y - 0.2))


def test_anisotropy_per_axis_is_of_second_order():
    states, truths, grids = [], [], []
    for n in SIZES[2]:
        grid, *_, u = plate(n)
        problem = ds.Problem(grid, ds.PerAxis(0.3, 5.0), source=(0.3 * 4 + 5.0 * 2.25) * u, boundary=product(grid))
        states.append(ds.equilibrium(problem, tol=1e-12).u)
        truths.append(u)
        grids.append(grid)
    assert observed(states, truths, grids) == pytest.approx(2, abs=TOLERANCE)


def test_full_tensor_is_of_second_order_between_periodic_sides():
    states, truths, grids = [], [], []
    for n in SIZES[2]:
        grid = ds.Grid((n, n), (1.0, 1.0))
        x, y = grid.mesh()
        k = 2 * np.pi
        u = np.sin(k * (x + y)) + np.cos(k * x) * np.sin(k * y)
        xx, xy, yy = 1.0, 0.6, 2.0
        cross = -np.sin(k * (x + y)) - np.sin(k * x) * np.cos(k * y)
        source = LOSS * u + k**2 * ((xx + yy) * u - 2 * xy * cross)
        problem = ds.Problem(
            grid,
            ds.Tensor(xx, xy, yy),
            loss=LOSS,
            source=source,
            boundary={"x": ds.Periodic(), "y": ds.Periodic()},
        )
        states.append(ds.equilibrium(problem, tol=1e-11).u)
        truths.append(u)
        grids.append(grid)
    assert observed(states, truths, grids) == pytest.approx(2, abs=TOLERANCE)


def tensor_state(n, kind):
    """A plate with a strong cross term, `kind` on all sides, and the state it is made for."""
    grid = ds.Grid((n, n), (1.0, 1.0))
    x, y = grid.mesh()
    xx, xy, yy = 1.0, 0.9, 2.0
    u = lambda x, y: np.sin(2 * x + 0.3) * np.cos(1.5 * y - 0.2)  # noqa: E731
    u_x = lambda x, y: 2 * np.cos(2 * x + 0.3) * np.cos(1.5 * y - 0.2)  # noqa: E731
    u_y = lambda x, y: -1.5 * np.sin(2 * x + 0.3) * np.sin(1.5 * y - 0.2)  # noqa: E731
    boundary = {}
    for axis in (0, 1):
        for end in (0, 1):
            at = [*grid.centers]
            at[axis] = np.full(n, float(end))
            flux = (xx, xy)[axis] * u_x(*at) + (xy, yy)[axis] * u_y(*at)
            inward = flux if end else -flux
            boundary[f"{grid.axes[axis]}{'-+'[end]}"] = {
                "value": ds.Dirichlet(u(*at)),
                "flux": ds.Neumann(inward),
                "robin": ds.Robin(1.5, u(*at) + inward / 1.5),
            }[kind]
    bent = -3 * np.cos(2 * x + 0.3) * np.sin(1.5 * y - 0.2)
    source = (LOSS + 4 * xx + 2.25 * yy) * u(x, y) - 2 * xy * bent
    return ds.Problem(grid, ds.Tensor(xx, xy, yy), loss=LOSS, source=source, boundary=boundary), u(x, y)


@pytest.mark.parametrize(("kind", "order"), [("value", 2), ("flux", 2), ("robin", 1)])
def test_full_tensor_keeps_its_order_between_sides_that_vary(kind, order):
    """Robin sides lose an order beside a full tensor: an entry of docs/limits.md."""
    made = [tensor_state(n, kind) for n in SIZES[2]]
    states = [ds.equilibrium(problem, tol=1e-11).u for problem, _ in made]
    grids = [problem.grid for problem, _ in made]
    assert observed(states, [u for _, u in made], grids) == pytest.approx(order, abs=TOLERANCE)


def test_a_diffusivity_equal_to_the_state_is_exact():
    """The mean of D = u over a face is Kirchhoff's integral itself, so u^2 is linear from wall to wall."""
    grid = ds.Grid((64,), (1.0,))
    problem = ds.Problem(grid, ds.OfState(np.abs), boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(3.0)})
    u = ds.equilibrium(problem, tol=1e-11, initial=2.0).u
    np.testing.assert_allclose(u**2, 1 + 8 * grid.centers[0], rtol=1e-8)


@pytest.mark.parametrize("power", [2])
def test_diffusivity_of_the_state_is_of_second_order(power):
    """D = u^n between two values: u^(n+1) is linear in x."""
    states, truths, grids = [], [], []
    for n in (128, 256):  # the steep start of u = x^(1/3) is resolved late
        grid = ds.Grid((n,), (1.0,))
        law = ds.OfState(lambda u: np.abs(u) ** power)
        problem = ds.Problem(grid, law, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(3.0)})
        states.append(ds.equilibrium(problem, tol=1e-11, initial=2.0).u)
        truths.append((1 + (3.0 ** (power + 1) - 1) * grid.centers[0]) ** (1 / (power + 1)))
        grids.append(grid)
    assert observed(states, truths, grids) == pytest.approx(2, abs=TOLERANCE)


def test_diffusivity_of_the_gradient_is_of_second_order():
    """D = 1 + |grad u|^2 in one dimension: the flux u' + u'^3 balances the source of a chosen u."""
    states, truths, grids = [], [], []
    for n in (32, 64):
        grid = ds.Grid((n,), (1.0,))
        x = grid.centers[0]
        u, slope, bend = np.sin(2 * x), 2 * np.cos(2 * x), -4 * np.sin(2 * x)
        problem = ds.Problem(
            grid, ds.OfGradient(lambda s: 1 + s**2), source=-(1 + 3 * slope**2) * bend,
            boundary={"x-": ds.Dirichlet(0.0), "x+": ds.Dirichlet(float(np.sin(2.0)))},
        )  # fmt: skip
        states.append(ds.equilibrium(problem, tol=1e-11, initial=0.5).u)
        truths.append(u)
        grids.append(grid)
    assert observed(states, truths, grids) == pytest.approx(2, abs=TOLERANCE)
