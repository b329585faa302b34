"""Problems assembled together have the bits that each has alone, and what does not fit goes its own way."""

import numpy as np
import pytest

import diffsim as ds
from diffsim.lines import stacked
from diffsim.operator import discretize
from diffsim.together import LARGEST, discretize_together
from surrogate.sampling import SPECS, Spec


def pieces(operator):
    """Everything that was assembled, as one flat list."""
    walls = [
        value
        for wall in operator.walls
        for value in (wall.side, wall.cells, wall.area, wall.half, wall.g, wall.places, wall.value(0.0), wall.flux(0.0))
    ]
    return [*operator.conductances, operator.diagonal, operator.forcing(0.0), operator._all_joined, *walls]


def assert_same_bits(some, others):
    for a, b in zip(some, others, strict=True):
        for x, y in zip(pieces(a), pieces(b), strict=True):
            assert np.shape(x) == np.shape(y)
            assert np.array_equal(x, y)


def shared(operators):
    """How many were assembled together: those that are complete before anybody asks."""
    return sum("_graph" in operator.__dict__ for operator in operators)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda s: s.name)
def test_a_stack_gives_every_problem_the_bits_it_has_alone(spec):
    problems = [spec.problem(0, i, 10) for i in range(5)]
    together = discretize_together(problems)
    assert shared(together) == 5
    assert_same_bits(together, [discretize(problem) for problem in problems])


def test_grids_that_are_equal_count_as_one():
    problems = [
        ds.Problem(ds.Grid((9, 7), (length, 1.0)), diffusivity=FIELD, source=1.0, boundary={"x": ds.Dirichlet(0.0)})
        for length in (1.5, 1.5, 2.0, 1.5, 2.5)
    ]
    together = discretize_together(problems)
    assert shared(together) == 3
    assert_same_bits(together, [discretize(problem) for problem in problems])


GRID = ds.Grid((9, 7), (1.5, 1.0))
FIELD = 10.0 ** np.random.default_rng(0).uniform(-1, 1, (9, 7))
GRADED = ds.Grid.from_edges([np.linspace(0.0, 1.0, 10) ** 2, np.linspace(0.0, 1.0, 8)], geometry="cylindrical")
FITS = {
    "periodic": (GRID, {"boundary": {"x": ds.Periodic(), "y-": ds.Dirichlet(1.0)}}),
    "robin beside a flux": (GRID, {"boundary": {"x-": ds.Robin(3.0, 2.0), "y+": ds.Neumann(-1.0)}}),
    "source of every cell": (GRID, {"source": FIELD, "boundary": {"x": ds.Dirichlet(1.0)}}),
    "cells that do not conduct": (GRID, {"diffusivity": np.where(FIELD > 1, FIELD, 0.0)}),
    "rings of growing width": (GRADED, {"boundary": {"r+": ds.Dirichlet(2.0)}}),
}
FALL_BACK = {
    "voids": {"active": FIELD > 0.3},
    "held cells": {"fixed": (FIELD > 5, 1.0)},
    "loss": {"loss": 0.5},
    "contacts": {"contacts": (("x", 0.5, 2.0),)},
    "number": {"diffusivity": 2.0},
    "per axis": {"diffusivity": ds.PerAxis(FIELD, 2.0)},
    "tensor": {"diffusivity": ds.Tensor(FIELD, 0.0, FIELD)},
    "array on a side": {"boundary": {"x-": ds.Dirichlet(np.arange(7.0))}},
    "patches": {"boundary": {"x-": ds.Patches(ds.Neumann(0.0), [(np.arange(7) < 3, ds.Dirichlet(1.0))])}},
    "side in time": {"boundary": {"x-": ds.Dirichlet(lambda t: t)}},
    "source in time": {"source": lambda t: t},
}


@pytest.mark.parametrize(("grid", "given"), FITS.values(), ids=FITS)
def test_sides_sources_and_geometries_fit_a_stack(grid, given):
    problems = [ds.Problem(grid, **{"diffusivity": k * FIELD, "source": k, **given}) for k in (1.0, 2.0, 3.0)]
    together = discretize_together(problems)
    assert shared(together) == 3
    assert_same_bits(together, [discretize(problem) for problem in problems])


@pytest.mark.parametrize("given", FALL_BACK.values(), ids=FALL_BACK)
def test_what_does_not_fit_is_assembled_alone(given):
    plain = [ds.Problem(GRID, diffusivity=k * FIELD, boundary={"x": ds.Dirichlet(k)}) for k in (1.0, 2.0)]
    other = ds.Problem(GRID, **{"diffusivity": FIELD, "boundary": {"x": ds.Dirichlet(1.0)}, **given})
    together = discretize_together([plain[0], other, plain[1], other])
    assert shared(together) == 2
    assert_same_bits(together, [discretize(problem) for problem in (plain[0], other, plain[1], other)])


def test_grids_do_not_mix_and_large_ones_gain_nothing():
    n = int(LARGEST**0.5) + 1
    large = ds.Problem(ds.Grid((n, n), (1.0, 1.0)), diffusivity=np.ones((n, n)))
    twin = ds.Problem(ds.Grid((9, 7), (1.5, 1.0), origin=(0.0, 1.0)), diffusivity=FIELD)
    assert shared(discretize_together([large, large, twin, ds.Problem(GRID, diffusivity=FIELD)])) == 0
    assert discretize_together([]) == []


# --- equilibria ------------------------------------------------------------------------------------------------------


def test_arrays_that_follow_each_other_are_one_without_a_copy():
    whole = np.arange(60.0).reshape(5, 3, 4)
    for rows, shared in ((range(5), True), ([2, 3], True), ([4], True), ([1, 3], False), ([3, 2], False)):
        parts = [whole[k] for k in rows]
        made = stacked(parts)
        assert np.array_equal(made, np.stack(parts))
        assert np.shares_memory(made, whole) == shared
    beside = [whole[0].copy(), whole[1]]
    columns = [whole[:, :, k] for k in range(2)]
    for parts in (beside, columns):
        assert np.array_equal(stacked(parts), np.stack(parts))
        assert not np.shares_memory(stacked(parts), whole)


def test_a_solution_depends_neither_on_its_companions_nor_on_their_order():
    problems = [Spec.of(name).problem(1, i, n) for i in range(3) for name, n in (("mixed", 20), ("darcy", 33))]
    problems.append(
        ds.Problem(GRID, diffusivity=FIELD, source=1.0, active=FIELD > 0.3, boundary={"x": ds.Dirichlet(0.0)})
    )
    alone = [ds.equilibrium(problem) for problem in problems]
    for order in (range(7), [6, 3, 0, 5, 2, 4, 1]):
        together = ds.equilibrium([problems[k] for k in order])
        for k, eq in zip(order, together, strict=True):
            assert np.array_equal(eq.u, alone[k].u, equal_nan=True)
            assert (eq.iterations, eq.residual, eq.flow("x-")) == (
                alone[k].iterations,
                alone[k].residual,
                alone[k].flow("x-"),
            )


def test_floating_problems_of_a_batch_keep_their_content():
    problems = [ds.Problem(GRID, diffusivity=k * FIELD, boundary={"x": ds.Periodic()}) for k in (1.0, 2.0)]
    for problem, eq in zip(problems, ds.equilibrium(problems, initial=[3.0, 4.0]), strict=True):
        alone = ds.equilibrium(problem, initial=3.0 if problem is problems[0] else 4.0)
        assert np.array_equal(eq.u, alone.u)


def test_a_small_equilibrium_does_not_ask_the_system_for_its_memory(monkeypatch):
    def asked():
        raise AssertionError

    monkeypatch.setattr("diffsim.resources.memory_available", asked)
    ds.equilibrium(ds.Problem(GRID, diffusivity=FIELD, source=1.0, boundary={"x": ds.Dirichlet(0.0)}))
