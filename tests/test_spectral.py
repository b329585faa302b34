"""Transforms against dense matrices, for every mix of sides, odd and even sizes, down to one cell."""

import itertools

import numpy as np
import pytest
from scipy.linalg import expm

import diffsim as ds
from diffsim import spectral
from diffsim.operator import discretize

SIDES = {
    "value": (ds.Dirichlet(0.0), ds.Dirichlet(0.0)),
    "flux": (ds.Neumann(0.0), ds.Neumann(0.0)),
    "value-flux": (ds.Dirichlet(0.0), ds.Neumann(0.0)),
    "flux-value": (ds.Neumann(0.0), ds.Dirichlet(0.0)),
    "periodic": (ds.Periodic(), ds.Periodic()),
}


def box(shape, kinds, loss=0.0, capacity=1.7):
    lengths = tuple(0.5 + 0.4 * a for a in range(len(shape)))
    sides = {
        f"{axis}{end}": SIDES[kind][k] for axis, kind in zip("xyz", kinds, strict=False) for k, end in enumerate("-+")
    }
    diffusivity = ds.PerAxis(*(1.0 + 0.3 * a for a in range(len(shape)))) if len(shape) > 1 else 1.3
    return discretize(
        ds.Problem(
            ds.Grid(shape=shape, lengths=lengths), diffusivity=diffusivity, capacity=capacity, loss=loss, boundary=sides
        )
    )


CASES = [
    *(((n,), kinds) for n in (1, 2, 3, 8) for kinds in itertools.product(SIDES, repeat=1)),
    *(((5, 4), kinds) for kinds in itertools.product(SIDES, repeat=2)),
    *(((2, 1), kinds) for kinds in itertools.product(SIDES, repeat=2)),
    *(((3, 2, 4), kinds) for kinds in itertools.product(SIDES, repeat=3)),
]


@pytest.mark.parametrize(("shape", "kinds"), CASES, ids=lambda c: "x".join(map(str, c)))
def test_solve_and_function_match_the_dense_matrix(shape, kinds):
    operator = box(shape, kinds, loss=0.6)
    K = operator.matrix().toarray()
    field = np.random.default_rng(0).normal(size=operator.shape)
    A = K / operator.mass.reshape(-1, 1)
    dt = 0.7 / np.linalg.norm(A, 2)

    solved = spectral.solve(operator.uniform, field, shift=0.3)
    want = np.linalg.solve(K + 0.3 * np.eye(len(K)), field.ravel())
    np.testing.assert_allclose(solved.ravel(), want, rtol=0, atol=1e-12 * np.abs(want).max())

    decayed = spectral.apply_function(operator.uniform, field, lambda a: np.exp(-dt * a))
    np.testing.assert_allclose(decayed.ravel(), expm(-dt * A) @ field.ravel(), rtol=0, atol=1e-12)

    jumped = spectral.apply_function(operator.uniform, field, lambda a: (1 - dt * a) ** 5)
    steps = np.linalg.matrix_power(np.eye(len(A)) - dt * A, 5) @ field.ravel()
    np.testing.assert_allclose(jumped.ravel(), steps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kinds", list(itertools.product(("flux", "periodic"), repeat=2)), ids="-".join)
def test_without_an_anchor_the_solution_has_zero_mean(kinds):
    operator = box((6, 5), kinds)
    rhs = np.random.default_rng(1).normal(size=operator.shape)
    rhs -= rhs.mean()
    x = spectral.solve(operator.uniform, rhs)
    assert abs(x.mean()) < 1e-14
    np.testing.assert_allclose(operator.apply(x), rhs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "sides", [{"x": ds.Dirichlet(1.0)}, {"x-": ds.Neumann(2.0), "y+": ds.Dirichlet(0.5)}, {"x": ds.Periodic()}]
)
def test_a_jump_is_that_many_forward_euler_steps(sides):
    problem = ds.Problem(ds.Grid(shape=(7, 6), lengths=(1.0, 0.7)), diffusivity=0.4, source=1.0, boundary=sides)
    start = np.random.default_rng(5).random((7, 6))
    dt = ds.stability(problem, "ftcs").dt_limit
    stepped = ds.simulate(problem, start, until=300 * dt, scheme="ftcs", dt=dt, save="final").final
    np.testing.assert_allclose(spectral.jump(problem, start, dt, 300), stepped, rtol=1e-11)
    np.testing.assert_array_equal(spectral.jump(problem, start, dt, 0), start)
