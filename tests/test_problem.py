"""What can be posed is taken as it is meant; what cannot is refused in words that name the field and the way out."""

import numpy as np
import pytest

import diffsim as ds
from diffsim.operator import discretize

GRID = ds.Grid(shape=(6, 4), lengths=(3.0, 2.0))


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [((0,), (1.0,)), ((-5,), (1.0,)), ((3.0,), (1.0,)), (("64",), (1.0,)), ((True,), (1.0,)), ((), ()), ((4, 4, 4, 4), (1,) * 4),
     ((4,), (0.0,)), ((4,), (-1.0,)), ((4,), (np.nan,)), ((4,), (np.inf,)), ((4, 4), (1.0,)), ((4,), ("1",))],
)  # fmt: skip
def test_a_grid_of_no_meaning_is_refused(shape, lengths):
    with pytest.raises(ds.ProblemError):
        ds.Grid(shape=shape, lengths=lengths)


@pytest.mark.parametrize("edges", [[], [[0.0]], [[0.0, 0.0]], [[1.0, 0.0]], [[0.0, np.nan, 1.0]], [[[0.0, 1.0]]]])
def test_edges_that_do_not_increase_are_refused(edges):
    with pytest.raises(ds.ProblemError):
        ds.Grid.from_edges([np.array(e) for e in edges])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"diffusivity": -1.0}, "diffusivity"),
        ({"diffusivity": 0.0}, "nothing diffuses"),
        ({"diffusivity": np.zeros((6, 4))}, "nothing diffuses"),
        ({"diffusivity": np.nan}, "diffusivity"),
        ({"diffusivity": np.inf}, "diffusivity"),
        ({"diffusivity": "1"}, "not a number"),
        ({"diffusivity": True}, "not a number"),
        ({"diffusivity": np.ones((4, 6))}, "axes look swapped"),
        ({"diffusivity": np.ones((6, 4), complex)}, "complex"),
        ({"diffusivity": ds.PerAxis(1.0)}, "one per axis"),
        ({"diffusivity": ds.Tensor(1.0, 2.0, 1.0)}, "positive semidefinite"),
        ({"diffusivity": ds.OfState(3.0)}, "give a function"),
        ({"capacity": 0.0}, "capacity"),
        ({"capacity": np.full((6, 4), -1.0)}, "capacity"),
        ({"loss": -1.0}, "loss"),
        ({"source": np.full((6, 4), np.nan)}, "source"),
        ({"source": lambda t: np.inf}, "source"),
        ({"source": lambda t: np.ones(3)}, "source"),
        ({"active": np.zeros((6, 4), bool)}, "False everywhere"),
        ({"active": np.ones((6, 4))}, "active"),
        ({"fixed": (np.ones((6, 4)), 1.0)}, "fixed"),
        ({"fixed": 3}, "fixed"),
        ({"boundary": {"w-": ds.Dirichlet(0.0)}}, "does not have"),
        ({"boundary": {"x-": 0.0}}, "is not a side"),
        ({"boundary": {"x-": ds.Periodic()}}, "only one of"),
        ({"boundary": {"x-": ds.Dirichlet(np.ones(5))}}, "shape"),
        ({"boundary": {"x-": ds.Dirichlet(np.nan)}}, "finite"),
        ({"boundary": {"x-": ds.Robin(h=-1.0)}}, "h"),
        ({"boundary": {"x-": ds.Patches(ds.Neumann(), [(np.ones(3, bool), ds.Dirichlet(1.0))])}}, "mask"),
        ({"boundary": {"x-": ds.Patches(ds.Neumann(), [(np.ones(4, bool), ds.Periodic())])}}, "patch"),
        ({"contacts": [("x", 0.3, 1.0)]}, "not on an inner face"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments, word):
    with pytest.raises(ds.ProblemError, match=word):
        ds.Problem(GRID, **{"diffusivity": 1.0, **arguments})


def test_a_misspelt_side_is_guessed():
    with pytest.raises(ds.ProblemError, match=r"Did you mean 'x-'"):
        ds.Problem(GRID, diffusivity=1.0, boundary={"x--": ds.Neumann()})


def test_arrays_are_copied_and_frozen():
    d = np.ones((6, 4))
    problem = ds.Problem(GRID, diffusivity=d)
    d[:] = 7.0
    assert problem.diffusivity.max() == 1.0
    assert not problem.diffusivity.flags.writeable


def test_values_in_voids_do_not_matter():
    active = np.ones((6, 4), bool)
    active[2, 2] = False
    d = np.ones((6, 4))
    d[2, 2] = np.nan
    assert np.isfinite(ds.Problem(GRID, diffusivity=d, active=active).diffusivity).all()


def test_a_side_refines_its_axis():
    boundary = ds.Problem(GRID, diffusivity=1.0, boundary={"x+": ds.Neumann(2.0), "x": ds.Dirichlet(1.0)}).boundary
    assert (boundary["x-"].kind, boundary["x+"].kind, boundary["y-"].kind) == ("value", "flux", "flux")


@pytest.mark.parametrize(
    ("geometry", "shape", "lengths", "volume"),
    [
        ("cartesian", (5, 4, 3), (1.0, 2.0, 3.0), 6.0),
        ("cylindrical", (7, 3), (2.0, 5.0), np.pi * 4 * 5),
        ("spherical", (9,), (2.0,), 4 / 3 * np.pi * 8),
    ],
)
def test_volumes_add_up(geometry, shape, lengths, volume):
    grid = ds.Grid(shape=shape, lengths=lengths, geometry=geometry)
    np.testing.assert_allclose(grid.volumes.sum(), volume, rtol=1e-14)


def test_edges_and_numbers_make_the_same_grid():
    plain, edged = ds.Grid(shape=(8,), lengths=(2.0,)), ds.Grid.from_edges([np.linspace(0, 2, 9)])
    assert edged.uniform
    np.testing.assert_array_equal(plain.centers[0], edged.centers[0])


def test_a_time_series_is_linear_between_and_constant_beyond():
    series = ds.TimeSeries([0.0, 2.0], [1.0, 5.0])
    assert [float(series(t)) for t in (-1.0, 0.5, 9.0)] == [1.0, 2.0, 5.0]
    fields = ds.TimeSeries([0.0, 2.0], np.array([[1.0, 0.0], [5.0, 2.0]]))
    np.testing.assert_allclose(fields(1.0), [3.0, 1.0])


@pytest.mark.parametrize(
    ("times", "values"),
    [([0.0, 0.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 2.0]), ([0.0], [1.0, 2.0]), ([], []), ([0.0], [np.nan])],
)
def test_a_broken_time_series_is_refused(times, values):
    with pytest.raises(ds.ProblemError):
        ds.TimeSeries(times, values)


def test_a_problem_can_be_varied():
    problem = ds.Problem(GRID, diffusivity=1.0, source=lambda t: t, boundary={"x-": ds.Dirichlet(1.0)})
    varied = problem.with_(diffusivity=3.0)
    assert (varied.diffusivity, varied.boundary["x-"].kind, varied.source(2.0)) == (3.0, "value", 2.0)


def test_changed_coefficients_are_those_of_a_problem_posed_anew():
    active = np.ones((6, 4), bool)
    active[2, 1] = False
    fixed = (np.arange(24).reshape(6, 4) == 10, 2.0)
    posed = {"active": active, "fixed": fixed, "boundary": {"x-": ds.Dirichlet(1.0)}, "contacts": [("x", 1.5, 0.1)]}
    d, f = np.linspace(1, 2, 24).reshape(6, 4), np.arange(24.0).reshape(6, 4)
    changes = {"diffusivity": d, "capacity": 2, "loss": 0.5, "ambient": 3.0, "source": lambda x, y: x + y + f}
    first = ds.Problem(GRID, diffusivity=1.0, **posed)
    varied, anew = first.with_(**changes), ds.Problem(GRID, **changes, **posed)
    for name in ("diffusivity", "capacity", "loss"):
        np.testing.assert_array_equal(getattr(varied, name), getattr(anew, name))
    here, there = discretize(varied), discretize(anew)
    np.testing.assert_array_equal(here.forcing(0.0), there.forcing(0.0))
    np.testing.assert_array_equal(here.matrix().toarray(), there.matrix().toarray())
    assert (first.diffusivity, first.source.steady) == (1.0, 0.0)
    for wrong in ({"diffusivity": -d}, {"loss": -1.0}, {"capacity": 0.0}, {"source": np.nan}, {"diffusivity": d.T}):
        with pytest.raises(ds.ProblemError, match=next(iter(wrong))):
            first.with_(**wrong)


def test_a_stack_of_coefficients_makes_the_problems_that_they_make_one_by_one():
    active = np.ones((6, 4), bool)
    active[2, 1] = False
    first = ds.Problem(GRID, diffusivity=1.0, source=2.0, active=active, boundary={"x-": ds.Dirichlet(1.0)})
    stack = 1.0 + np.arange(72.0).reshape(3, 6, 4)
    stack[1, 2, 1] = -1.0  # void: it may be anything
    for problem, d in zip(first.with_each(stack), stack, strict=True):
        here, there = discretize(problem), discretize(first.with_(diffusivity=d))
        np.testing.assert_array_equal(problem.diffusivity, there.problem.diffusivity)
        np.testing.assert_array_equal(here.matrix().toarray(), there.matrix().toarray())
        assert not problem.diffusivity.flags.writeable
    empty = stack.copy()
    empty[1] = 0.0
    for wrong, word in (
        (-stack, "smallest"),
        (empty, "nothing diffuses"),
        (stack * np.nan, "NaN"),
        (stack[:, :5], "shape"),
    ):
        with pytest.raises(ds.ProblemError, match=word):
            first.with_each(wrong)
