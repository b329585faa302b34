"""The guarantee: lower <= true error <= upper, for any problem and any candidate."""

import math

import numpy as np
import pytest
import scipy.linalg

import diffsim as ds
from diffsim.bounds import energy_bound
from diffsim.operator import discretize
from tests.problems import random_problem

ULP = np.finfo(float).eps


def balanced(problem):
    """The problem with a source that lets every floating component rest."""
    operator = discretize(problem)
    labels, _, anchored = operator.components
    if anchored.all():
        return problem
    source = np.array(np.broadcast_to(np.asarray(problem.source.steady, dtype=float), problem.grid.shape))
    forcing = operator.forcing(0.0)
    for component in np.flatnonzero(~anchored):
        cells = (labels == component).reshape(problem.grid.shape)
        here = cells.reshape(operator.shape)
        source[cells] -= forcing[here].sum() / operator.volumes[here].sum()
        if cells.sum() == 1:
            source[cells] -= (discretize(problem.with_(source=source)).forcing(0.0)[here] / operator.volumes[here])[0]
    return problem.with_(source=source)


def exact_matrix(operator):
    """K in extended precision, straight from the conductances."""
    n = operator.free.size
    index = np.arange(n).reshape(operator.shape)
    matrix = np.zeros((n, n), dtype=np.longdouble)
    matrix[np.arange(n), np.arange(n)] = operator.diagonal.ravel()
    for axis, g in enumerate(operator.conductances):
        size = operator.shape[axis]
        pairs = [(range(size - 1), range(1, size), range(1, size))]
        if operator.periodic[axis] and size > 1:
            pairs.append(([size - 1], [0], [0]))
        for left, right, face in pairs:
            i, j = np.take(index, left, axis).ravel(), np.take(index, right, axis).ravel()
            c = np.take(g, face, axis).ravel().astype(np.longdouble)
            for rows, columns, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                np.add.at(matrix, (rows, columns), sign * c)
    return matrix


def solution(operator, candidate, matrix):
    """The discrete equilibrium, refined in extended precision; floating components keep the candidate's content."""
    labels, n_components, anchored = operator.components
    forcing = operator.forcing(0.0).ravel().astype(np.longdouble)
    mass, v = operator.mass.ravel(), candidate.ravel()
    u = np.zeros(v.size, dtype=np.longdouble)
    for component in range(n_components):
        cells = np.flatnonzero(labels.ravel() == component)
        block, right, m = matrix[np.ix_(cells, cells)], forcing[cells], mass[cells].astype(np.longdouble)
        if not anchored[component]:
            right = right - m * right.sum() / m.sum()
            weight = (np.abs(block).max() or 1) / m.max() ** 2
            block, right = block + weight * np.outer(m, m), right + weight * m * (m @ v[cells])
        scale = 1 / np.sqrt(np.diag(block)).astype(float)
        factors = scipy.linalg.lu_factor((block * np.outer(scale, scale)).astype(float))
        solve = lambda b, f=factors, s=scale: scipy.linalg.lu_solve(f, (b * s).astype(float)) * s  # noqa: E731
        x = solve(right).astype(np.longdouble)
        for _ in range(8):
            x += solve(right - block @ x)
        u[cells] = x
    return u.reshape(operator.shape)


def true_errors(operator, e):
    energy = (operator.diagonal * e**2).sum()
    for axis, g in enumerate(operator.conductances):
        size = operator.shape[axis]
        if size > 1:
            energy += (np.take(g, range(1, size), axis) * np.diff(e, axis=axis) ** 2).sum()
            if operator.periodic[axis]:
                energy += (np.take(g, [0], axis) * (np.take(e, [0], axis) - np.take(e, [-1], axis)) ** 2).sum()
    return float(np.sqrt(energy)), float(np.sqrt((operator.volumes * e**2).sum())), float(np.abs(e).max())


def candidates(rng, u):
    size = np.abs(u).max() or 1.0
    yield "zero", np.zeros_like(u)
    yield "noise", u + size * 10 ** rng.uniform(-6, 1) * rng.normal(size=u.shape)
    yield "times ten", 10 * u
    yield "sign flipped", -u
    yield "checkerboard", u + size * 10 ** rng.uniform(-8, 0) * (-1.0) ** sum(np.indices(u.shape))
    yield "exact", u.copy()
    yield "one cell off", u + size * (np.arange(u.size).reshape(u.shape) == rng.integers(u.size))
    yield "huge", u + 1e150 * rng.normal(size=u.shape)
    yield "tiny", 1e-200 * u


def violations(seed, steps=(0, 3)):
    """Names of the candidates whose true error lies outside the bounds of a random problem."""
    rng = np.random.default_rng(seed)
    problem = balanced(random_problem(seed))
    operator = discretize(problem)
    matrix = exact_matrix(operator)
    reference = solution(operator, rng.normal(size=operator.shape), matrix)
    floating = not operator.components[2].all()
    wrong = []
    for name, v in candidates(rng, reference.astype(float)):
        v = np.where(operator.free, v, 0.0)
        u = solution(operator, v, matrix) if floating else reference
        energy, l2, linf = true_errors(operator, u - v)
        rounding = 4 * ULP * np.abs(u).astype(float)  # of the reference and of the candidate
        slack = float(np.sqrt((operator._stencil_diagonal * rounding**2).sum()))
        for k in steps:
            bound = energy_bound(operator, operator.unpad(v), k)
            fair = bound.energy_lower <= energy * (1 + 1e-9) + slack and energy <= bound.energy * (1 + 1e-12) + slack
            fair &= l2 <= bound.l2 * (1 + 1e-12) + float(np.sqrt((operator.volumes * rounding**2).sum()))
            fair &= linf <= bound.linf * (1 + 1e-12) + float(rounding.max())
            if not fair:
                wrong.append(
                    f"{seed} {name} {k} steps: {bound.energy_lower} <= {energy} <= {bound.energy}; {l2} <= {bound.l2}"
                )
    return wrong


@pytest.mark.parametrize("block", range(4))
def test_no_true_error_leaves_its_bounds(block):
    assert [w for seed in range(20 * block, 20 * block + 20) for w in violations(seed)] == []


class Jacobi:
    """The worst preconditioner that one can defend."""

    def __init__(self, conductances, diagonal, periodic):
        operator = diagonal.copy()
        for axis, g in enumerate(conductances):
            n = g.shape[axis]
            operator += np.take(g, range(n - 1), axis) + np.take(g, range(1, n), axis)
        self.diagonal = np.where(operator > 0, operator, 1.0)

    def cycle(self, rhs, out):
        out[...] = rhs / self.diagonal


def test_the_bounds_hold_however_badly_the_remainder_is_solved(monkeypatch):
    monkeypatch.setattr("diffsim.multigrid.Multigrid", Jacobi)
    assert [w for seed in range(400, 430) for w in violations(seed)] == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_no_true_error_leaves_its_bounds_in_thousands_of_cases(block):
    assert [w for seed in range(1000 + 60 * block, 1060 + 60 * block) for w in violations(seed, (0, 1, 5))] == []


def darcy(contrast, n=48, seed=0, **given):
    rng = np.random.default_rng(seed)
    grid = ds.Grid(shape=(n, n), lengths=(1.0, 1.0))
    field = np.kron(rng.random((n // 4, n // 4)) < 0.5, np.ones((4, 4), dtype=bool))
    sides = {"x": ds.Dirichlet(0.0), "y": ds.Dirichlet(0.0)}
    return ds.Problem(
        grid, **{"diffusivity": np.where(field, contrast, 1.0), "source": 1.0, "boundary": sides, **given}
    )


def tightness(problem, steps, rough=0.1):
    operator = discretize(problem)
    u = scipy.sparse.linalg.spsolve(operator.matrix().tocsc(), operator.forcing(0.0).ravel()).reshape(operator.shape)
    rng = np.random.default_rng(1)
    n = operator.shape[-1]
    waves = np.cos(np.pi * np.outer(np.arange(6), (np.arange(n) + 0.5) / n))
    wrong = np.einsum("ab,ai,bj->ij", rng.normal(size=(6, 6)), waves, waves) + rough * rng.normal(size=(n, n))
    v = u + 0.01 * np.abs(u).max() * wrong
    energy, l2, _ = true_errors(operator, u - v)
    bound = energy_bound(operator, operator.unpad(v), steps)
    return bound.energy / energy, bound.l2 / l2


@pytest.mark.parametrize(("contrast", "steps", "most"), [(4.0, 0, 1.2), (4.0, 5, 1.1), (1e4, 20, 2.0)])
def test_the_energy_bound_is_close_to_the_true_error(contrast, steps, most):
    ratios = [tightness(darcy(contrast, seed=seed), steps)[0] for seed in range(5)]
    assert 1 <= np.median(ratios) <= most


def test_a_few_steps_make_the_l2_bound_sharp():
    assert np.median([tightness(darcy(4.0, seed=seed), 5)[1] for seed in range(5)]) <= 1.1


def test_layers_of_any_contrast_are_a_comparison_operator_of_their_own():
    layers = np.broadcast_to(np.array([1.0, 1e6, 1e-3, 50.0]).repeat(12)[:, None], (48, 48))
    assert tightness(darcy(1.0, diffusivity=layers), 0)[0] <= 1.01


@pytest.mark.parametrize("field", [np.nan, np.inf])
def test_a_candidate_that_is_not_finite_gets_an_infinite_bound(field):
    operator = discretize(darcy(4.0))
    v = np.zeros((48, 48))
    v[5, 7] = field
    bound = energy_bound(operator, v, 2)
    assert bound.energy == bound.l2 == bound.l2_relative == math.inf
    assert bound.energy_lower == 0


def test_values_in_void_cells_do_not_matter():
    active = np.ones((48, 48), dtype=bool)
    active[10:20, 10:20] = False
    operator = discretize(darcy(4.0, active=active))
    v = np.full((48, 48), 0.01)
    bounds = [energy_bound(operator, np.where(active, v, filler)).energy for filler in (np.nan, 0.0, 7.0)]
    assert bounds[0] == bounds[1] == bounds[2] < math.inf


def test_the_improved_candidate_is_closer():
    operator = discretize(darcy(100.0))
    bound = energy_bound(operator, np.zeros((48, 48)), 4)
    assert energy_bound(operator, bound.u).energy < 0.1 * bound.energy_lower


def test_wrong_shapes_types_and_steps_are_refused():
    operator = discretize(darcy(4.0))
    for wrong, words in ((np.zeros((4, 4)), "shape"), (np.full((48, 48), "a"), "dtype")):
        with pytest.raises(ds.ProblemError, match=words):
            energy_bound(operator, wrong)
    for steps in (-1, 1.5, True):
        with pytest.raises(ds.ProblemError, match="steps"):
            energy_bound(operator, np.zeros((48, 48)), steps)


def test_problems_without_a_bound_say_why():
    flux = {"x": ds.Neumann(0.0), "y": ds.Neumann(0.0)}
    cases = [
        (darcy(1.0, diffusivity=ds.OfState(lambda u: 1 + u**2)), "linear"),
        (darcy(4.0, source=lambda t: t), "changes in time|change in time"),
        (darcy(4.0, boundary=flux), "content grows"),
    ]
    for problem, words in cases:
        with pytest.raises(ds.ProblemError, match=words):
            energy_bound(discretize(problem, u=np.zeros((48, 48))), np.zeros((48, 48)))


def test_what_is_held_everywhere_is_exact():
    operator = discretize(darcy(4.0, fixed=(np.ones((48, 48), dtype=bool), 3.0)))
    assert energy_bound(operator, np.zeros((48, 48))).energy == 0


def test_numbers_too_small_or_large_to_square_are_abstained_from():
    assert energy_bound(discretize(darcy(4.0, diffusivity=1e-200)), np.ones((48, 48))).energy == math.inf


def test_a_tensor_coefficient_is_abstained_from():
    problem = darcy(1.0, diffusivity=ds.Tensor(2.0, 0.5, 1.0))
    assert energy_bound(discretize(problem), np.zeros((48, 48))).energy == math.inf
