"""The learned closure: physics that holds for any weights, and what it makes of other people's coarse pairs."""

import numpy as np
import pytest
import torch

import diffsim as ds
import surrogate as sg
from surrogate import fields
from surrogate.models import closure
from surrogate.models.closure import ClosureNetwork

CASES = {
    "plane": ((6, 5), {"x": ds.Dirichlet(1.0), "y-": ds.Robin(2.0, 0.5)}),
    "line": ((7,), {"x-": ds.Dirichlet(0.0)}),
    "block, periodic": ((4, 4, 3), {"x": ds.Periodic(), "z": ds.Dirichlet(2.0)}),
}


def problem(name: str, **changes) -> ds.Problem:
    shape, boundary = CASES[name]
    rng = np.random.default_rng(3)
    asked = dict(diffusivity=np.exp(rng.normal(size=shape)), source=rng.random(shape), boundary=boundary)
    return ds.Problem(ds.Grid(shape, (1.0,) * len(shape)), **{**asked, **changes})


def network(name: str, weights: float = 0.0) -> ClosureNetwork:
    """A network whose last layer, 0 at the start, has random weights of that size."""
    torch.manual_seed(0)
    shape = CASES[name][0]
    made = ClosureNetwork(fields.channels(len(shape)), fields.FORCINGS, shape, width=8, depth=1)
    torch.nn.init.normal_(made.head.weight, 0.0, weights) if weights else None
    return made


def predicted(made: ClosureNetwork, asked: ds.Problem) -> np.ndarray:
    inputs = fields.from_problems([asked])
    with torch.no_grad():
        output = made(torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing))
    return inputs.physical(output.numpy())[0]


@pytest.mark.parametrize("name", CASES)
def test_before_training_it_is_the_plain_discretisation(name):
    asked = problem(name, loss=0.3, ambient=0.1)
    exact = ds.equilibrium(asked, tol=1e-12).u
    assert np.abs(predicted(network(name), asked) - exact).max() < 2e-6 * np.abs(exact).max()  # single precision


@pytest.mark.parametrize("name", CASES)
def test_sources_of_one_sign_and_superposition(name):
    made = network(name, weights=1.0)
    zero = {side: ds.Robin(2.0, 0.0) if isinstance(s, ds.Robin) else s for side, s in CASES[name][1].items()}
    zero = {side: ds.Dirichlet(0.0) if isinstance(s, ds.Dirichlet) else s for side, s in zero.items()}
    one, two = (problem(name, boundary=zero, source=np.random.default_rng(k).random(CASES[name][0])) for k in (1, 2))
    both = problem(name, boundary=zero, source=one.source.steady + 3.0 * two.source.steady)
    a, b, total = (predicted(made, p) for p in (one, two, both))
    assert a.min() > 0
    assert np.abs(total - a - 3 * b).max() < 1e-5 * total.max()
    plain = ds.equilibrium(one).u
    assert np.abs(a - plain).max() > 1e-2 * plain.max()  # the weights do change the answer


def test_without_sources_it_stays_between_the_values_on_the_walls():
    shape = (8, 8)
    asked = ds.Problem(
        ds.Grid(shape, (1.0, 1.0)),
        np.exp(np.random.default_rng(0).normal(size=shape)),
        boundary={"x-": ds.Dirichlet(-1.0), "y+": ds.Dirichlet(2.0)},
    )
    torch.manual_seed(1)
    made = ClosureNetwork(fields.channels(2), fields.FORCINGS, shape, width=8, depth=1)
    torch.nn.init.normal_(made.head.weight, 0.0, 1.0)
    u = predicted(made, asked)
    assert -1 - 1e-5 <= u.min() < 0 < u.max() <= 2 + 1e-5


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_equilibrium(name, monkeypatch):
    monkeypatch.setattr(closure, "TOLERANCE", 1e-13)
    shape, boundary = CASES[name]
    periodic = tuple(isinstance(boundary.get(axis), ds.Periodic) for axis in "xyz"[: len(shape)])
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.rand(1, *shape, dtype=torch.double, generator=generator) + 0.1  # noqa: E731
    sinks, rhs, links = draw(), draw(), [draw() for _ in shape]
    ends = [torch.ones_like(g) for g in links]
    for axis, end in enumerate(ends):
        if not periodic[axis]:
            end.select(1 + axis, -1).zero_()
    solve = lambda s, f, *g: closure._Equilibrium.apply(  # noqa: E731
        s, f, periodic, *(a * b for a, b in zip(g, ends, strict=True))
    )
    inputs = [x.requires_grad_() for x in (sinks, rhs, *links)]
    assert torch.autograd.gradcheck(solve, inputs, eps=1e-5, atol=1e-6)


def test_a_problem_that_it_cannot_correct_is_refused():
    with pytest.raises(ds.ProblemError, match="task='coefficients'"):
        ClosureNetwork(9, 9, (8, 8))
    with pytest.raises(ds.ProblemError, match="reach"):
        ClosureNetwork(fields.channels(2), fields.FORCINGS, (8, 8), reach=-1.0)


@pytest.mark.slow
def test_coarse_pairs_of_others_beat_the_coarse_solve_and_halve_a_fourier_operator(shared_data):
    """1000 pairs sampled at 16 x 16 points; both models train for the same quarter of a minute of one core."""
    data, _ = sg.adopt(shared_data / "darcy16" / "darcy_train_16.npz")
    budget = dict(minutes=0.2, clock="cpu", threads=1, seed=0, progress=False)
    errors = {
        name: sg.evaluate(sg.train(data, model=name, **budget, **options), data).errors["l2"]["mean"]
        for name, options in {"closure": {}, "fno": {"optimizer": "adamw"}}.items()
    }
    assert errors["closure"] < 0.080  # the coarse solve: 0.089 on all pairs
    assert errors["closure"] < 0.6 * errors["fno"]
