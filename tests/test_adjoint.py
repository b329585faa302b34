"""Gradients through the solver: against differences of whole solves."""

import numpy as np
import pytest
import torch

import diffsim as ds
import surrogate as sg
from diffsim.sensitivity import adjoint


def box(**given):
    grid = given.pop("grid", ds.Grid(shape=(5, 4), lengths=(1.0, 0.7)))
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(2.0, 0.3), "y-": ds.Neumann(0.5)}
    return ds.Problem(grid, **{"diffusivity": 1.0, "source": 0.7, "boundary": sides, **given})


ACTIVE = np.ones((5, 4), dtype=bool)
ACTIVE[2, 1] = ACTIVE[4, 3] = False
HELD = np.zeros((5, 4), dtype=bool)
HELD[1, 2] = True
PERIODIC = {"x": ds.Periodic(), "y-": ds.Dirichlet(0.2)}
RINGS = ds.Grid(shape=(5, 4), lengths=(1.0, 0.7), geometry="cylindrical")
CASES = {
    "plain": {},
    "voids": {"active": ACTIVE, "boundary": {"x": ds.Dirichlet(1.0), "void": ds.Robin(3.0, 0.4)}},
    "held cell": {"fixed": (HELD, np.full((5, 4), 2.0))},
    "periodic": {"boundary": PERIODIC},
    "uneven": {"grid": ds.Grid.from_edges([[0, 0.1, 0.3, 0.4, 0.8, 1.0], [0, 0.2, 0.3, 0.6, 0.7]])},
    "rings": {"grid": RINGS, "boundary": {"r+": ds.Dirichlet(1.0), "z-": ds.Robin(1.0, 0.1)}},
    "contact": {"contacts": (("x", 0.4, 0.3),), "loss": 0.5, "ambient": 0.2},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("wrt", ["diffusivity", "source"])
def test_gradients_of_fields_are_those_of_differences(case, wrt, rng):
    layer = sg.equilibrium_layer(lambda theta: box(**case, **{wrt: theta}), wrt=wrt, tol=1e-13)
    theta = torch.from_numpy(rng.uniform(0.5, 2.0, size=(5, 4))).requires_grad_()
    weights = torch.from_numpy(rng.normal(size=(5, 4)))
    assert torch.autograd.gradcheck(
        lambda t: (weights * layer(t).nan_to_num()).sum(), theta, eps=1e-5, atol=1e-7, rtol=1e-5
    )


def test_gradients_of_any_parameters(rng):
    def problem(theta):
        d, h, value, f = theta
        x, y = ds.Grid(shape=(5, 4), lengths=(1.0, 0.7)).mesh()
        sides = {"x-": ds.Dirichlet(value), "x+": ds.Robin(h, 0.3)}
        return box(diffusivity=np.exp(d * x) * (1 + y), source=f, boundary=sides, loss=d)

    layer = sg.equilibrium_layer(problem, tol=1e-13)
    theta = torch.tensor([0.7, 2.0, 1.3, 0.4], dtype=torch.float64, requires_grad=True)
    weights = torch.from_numpy(rng.normal(size=(5, 4)))
    assert torch.autograd.gradcheck(lambda t: (weights * layer(t)).sum(), theta, eps=1e-5, atol=1e-7, rtol=1e-5)


def test_a_conductivity_is_found_again_by_descent(rng):
    truth = rng.uniform(0.5, 2.0, size=(5, 4))
    target = torch.from_numpy(ds.equilibrium(box(diffusivity=truth), tol=1e-13).u)
    layer = sg.equilibrium_layer(lambda theta: box(diffusivity=theta), wrt="diffusivity")
    log = torch.zeros((5, 4), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], lr=0.5, max_iter=60, tolerance_grad=0, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = ((layer(torch.exp(log)) - target) ** 2).sum()
        loss.backward()
        return loss

    start = closure().item()
    optimizer.step(closure)
    assert closure().item() < 1e-4 * start


def test_float32_stays_float32():
    theta = torch.ones((5, 4), dtype=torch.float32, requires_grad=True)
    u = sg.equilibrium_layer(lambda t: box(diffusivity=t), wrt="diffusivity")(theta)
    u.sum().backward()
    assert u.dtype == theta.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("prob_of", "wrt", "words"),
    [
        (lambda t: box(diffusivity=2 * t), "diffusivity", "unchanged"),
        (lambda t: box(diffusivity=ds.OfState(lambda u: 1 + u**2)), "parameters", "linear"),
        (lambda t: 3, "parameters", "Problem"),
        (lambda t: box(), "difusivity", "choose one of"),
    ],
)
def test_what_cannot_be_differentiated_is_refused(prob_of, wrt, words):
    with pytest.raises(ds.ProblemError, match=words):
        sg.equilibrium_layer(prob_of, wrt=wrt)(torch.ones((5, 4), dtype=torch.float64))


def test_a_floating_problem_has_no_gradient():
    layer = sg.equilibrium_layer(lambda t: box(diffusivity=t, source=0.0, boundary={}), wrt="diffusivity")
    with pytest.raises(ds.ProblemError, match="fixes the level"):
        layer(torch.ones((5, 4), dtype=torch.float64, requires_grad=True))
    floating = ds.operator.discretize(box(source=0.0, boundary={}))
    with pytest.raises(ds.ProblemError, match="held by no side"):
        adjoint(floating, np.ones((5, 4)))
