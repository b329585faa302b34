"""Refining a user's problem: it stays the same problem, and what is reported of it is true."""

import math

import numpy as np
import pytest

import diffsim as ds
from diffsim.verification import Convergence, refined, verify
from tests.problems import random_problem


@pytest.mark.parametrize("seed", range(25))
def test_a_refined_problem_is_the_same_problem(seed):
    """Content of capacity and sources, areas of sides and volumes of voids do not change."""
    problem = random_problem(seed)
    fine = refined(problem, 3)
    assert fine.grid.shape == tuple(3 * n for n in problem.grid.shape)
    for name in ("capacity", "loss"):
        sums = [np.sum(np.broadcast_to(getattr(p, name), p.grid.shape) * p.grid.volumes) for p in (problem, fine)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-12)
    sums = [np.sum(np.broadcast_to(p.source(0.0), p.grid.shape) * p.grid.volumes) for p in (problem, fine)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-11, abs=1e-12)
    if problem.active is not None:
        volumes = [np.sum(p.grid.volumes[p.active]) for p in (problem, fine)]
        assert volumes[0] == pytest.approx(volumes[1])


def test_functions_are_evaluated_anew_and_arrays_are_kept():
    grid = ds.Grid((4, 3), (1.0, 1.0))
    layers = np.repeat([[1.0], [5.0], [1.0], [2.0]], 3, axis=1)
    side = ds.Patches(
        ds.Dirichlet(lambda t: np.array([t, 1.0, 2.0])),
        [(np.array([True, False, False]), ds.Robin(2.0, 1.0))],
    )
    series = ds.TimeSeries([0.0, 1.0], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    problem = ds.Problem(
        grid, layers, source=lambda x, y, t: x * (1 + t), boundary={"x-": side, "x+": ds.Neumann(series)},
        contacts=(("x", 0.5, np.array([1.0, 2.0, 3.0])),),
    )  # fmt: skip
    fine = refined(problem, 2)
    x = fine.grid.mesh()[0]
    np.testing.assert_allclose(fine.source(1.0), np.broadcast_to(2 * x, fine.grid.shape))
    np.testing.assert_array_equal(fine.diffusivity, np.repeat(np.repeat(layers, 2, 0), 2, 1))
    np.testing.assert_array_equal(fine.boundary["x-"].default.value(7.0), [7, 7, 1, 1, 2, 2])
    np.testing.assert_array_equal(fine.boundary["x+"].flux(1.0), [3, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(fine.contacts[0][2], [1, 1, 2, 2, 3, 3])


def smooth_plate(n=12):
    grid = ds.Grid((n, n), (1.0, 1.0))
    # sides that meet in no corner: a corner of two conditions would be singular, and seen as order 1
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(3.0, 0.5)}
    return ds.Problem(grid, 1.0, source=10.0, loss=4.0, boundary=sides)


def test_a_smooth_steady_problem_shows_order_two_and_its_true_error():
    report = verify(smooth_plate())
    by_name = {c.name: c for c in report.space}
    for name in ("content", "field (L2)", "flow x-"):
        assert by_name[name].order == pytest.approx(2, abs=0.15), name
    assert report.ok
    assert report.shapes == ((12, 12), (24, 24), (48, 48))
    truth = verify(smooth_plate(96)).space[0].limit  # eight times finer
    content = by_name["content"]
    assert content.error == pytest.approx(abs(content.values[0] - truth), rel=0.05)
    assert "12 x 12 -> 24 x 24 -> 48 x 48" in report.explain()


def test_an_exact_problem_is_called_exact():
    grid = ds.Grid((6,), (1.0,))
    problem = ds.Problem(grid, np.repeat([1.0, 100.0], 3), boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(3.0)})
    report = verify(problem)
    flows = [c for c in report.space if c.name.startswith("flow")]
    assert {c.verdict for c in flows} == {"exact"}
    assert all(c.error == 0 and c.index == 0 for c in flows)


@pytest.mark.parametrize(("scheme", "order"), [("backward-euler", 1), ("crank-nicolson", 2), ("sdirk3", 3)])
def test_a_run_shows_the_order_of_its_scheme_in_time(scheme, order):
    report = verify(smooth_plate(8), lambda x, y: 1 + 0 * x, 0.05, scheme=scheme, dt=0.05 / 16)
    field = next(c for c in report.time if c.name == "field (L2)")
    assert field.order == pytest.approx(order, abs=0.25)
    assert report.steps == (16, 32, 64)
    assert report.scheme == scheme
    space = next(c for c in report.space if c.name == "field (L2)")
    assert space.order == pytest.approx(2, abs=0.25)


def test_exact_schemes_have_nothing_to_refine_in_time():
    problem = ds.Problem(ds.Grid((16,), (1.0,)), 1.0, boundary={"x": ds.Dirichlet(0.0)})
    report = verify(problem, lambda x: np.sin(np.pi * x), 0.05, scheme="exact")
    assert report.time == ()
    assert report.ok


def test_convergence_by_hand():
    c = Convergence("q", (1.0 + 0.16, 1.0 + 0.04, 1.0 + 0.01), 2.0, 1.0)
    assert (c.order, c.limit, c.error) == (pytest.approx(2.0), pytest.approx(1.0), pytest.approx(0.16))
    assert c.index == pytest.approx(1.25 * 0.01)
    swinging = Convergence("q", (1.0, 1.2, 0.9), 2.0, 1.0)
    assert math.isnan(swinging.order)
    assert swinging.verdict == "oscillates"
    assert swinging.error == pytest.approx(0.3)
    assert Convergence("q", (1.0, 1.1, 1.3), 2.0, 1.0).verdict == "not converging"
    assert Convergence("q", (1.0, 1.0, 1.0 + 1e-12), 2.0, 1.0).verdict == "exact"


def test_wrong_arguments_are_refused_in_words():
    with pytest.raises(ds.ProblemError, match="factor"):
        verify(smooth_plate(), factor=1)
    with pytest.raises(ds.ProblemError, match="initial"):
        verify(smooth_plate(), until=1.0)
