"""Every optimizer of the table against its own linear theory, and what is done to gradients before the step."""

import math

import numpy as np
import pytest
import torch

from diffsim.errors import ProblemError
from surrogate.optimizers import OPTIMIZERS, Drag, Muon, clip_adaptive, clip_norm, equalise, optimizer_of

every_rule = pytest.mark.parametrize("rule", OPTIMIZERS.values(), ids=lambda r: r.name)
LINEAR = [r for r in OPTIMIZERS.values() if r.memory is not None and not r.preconditioned]
every_linear_rule = pytest.mark.parametrize("rule", LINEAR, ids=lambda r: r.name)


def descend(rule, eigenvalue, lr, steps, **options):
    """Weights of `steps` updates on ``eigenvalue w^2 / 2`` from w = 1, in float64."""
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = rule.build([w], lr, **options)
    path = [1.0]
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * eigenvalue * w.square()).sum().backward()
        optimizer.step()
        path.append(w.item())
    return np.array(path)


def at_rest(rule):
    """The state of the matrix that belongs to w = 1 and no motion yet."""
    return {"sgd": [1.0], "momentum": [1.0, 1.0], "drag": [1.0, 0.0, 1.0]}[rule.name]


@every_linear_rule
@pytest.mark.parametrize("z", [-0.3, -1.7])
def test_the_matrix_is_what_an_update_does_to_a_quadratic(rule, z):
    options = {"pull": 0.2, "rate": 0.3} if rule.name == "drag" else {}
    path = descend(rule, eigenvalue=-z / 0.1, lr=0.1, steps=8, **options)
    matrix, state = rule.amplification(z, **options).real, np.array(at_rest(rule))
    for step in range(9):
        assert path[step] == pytest.approx(state[0], rel=1e-12, abs=1e-12)
        state = matrix @ state


@every_linear_rule
def test_the_limit_is_sharp(rule):
    limit = rule.real_limit()
    assert np.abs(descend(rule, limit * 0.999, 1.0, 3000)[-1]) < 0.01
    assert np.abs(descend(rule, limit * 1.01, 1.0, 3000)[-1]) > 1e3


@pytest.mark.parametrize("drag", [0.05, 0.3, 2.0, 50.0])
@pytest.mark.parametrize(("pull", "rate"), [(0.0, 0.01), (0.5, 0.01), (0.2, 0.5)])
def test_drag_is_stable_up_to_the_root_at_minus_one(drag, pull, rate):
    expected = 2 * (1 + 2 / drag) - 2 * pull * (1 - rate) / (2 - rate)
    assert OPTIMIZERS["drag"].real_limit(drag=drag, pull=pull, rate=rate) == pytest.approx(expected, rel=1e-6)


def test_without_pull_drag_is_a_heavy_ball():
    drag = 0.25
    ball = OPTIMIZERS["momentum"].real_limit(momentum=1 / (1 + drag))
    assert OPTIMIZERS["drag"].real_limit(drag=drag) == pytest.approx(ball * (1 + drag) / drag, rel=1e-9)


def test_overdamped_drag_is_gradient_descent():
    np.testing.assert_allclose(
        descend(OPTIMIZERS["drag"], 3.0, 0.1, 20, drag=1e9), descend(OPTIMIZERS["sgd"], 3.0, 0.1, 20), rtol=1e-7
    )


def test_the_speed_on_a_slope_does_not_depend_on_drag():
    for drag in (0.1, 1.0, 10.0):
        w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = Drag([w], lr=0.01, drag=drag)
        for _ in range(400):
            w.grad = torch.ones_like(w)
            before = w.item()
            optimizer.step()
        assert before - w.item() == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_hovers_at_the_known_limit(name):
    assert OPTIMIZERS[name].real_limit(beta=0.9) == pytest.approx(
        38.0, rel=1e-6
    )  # Cohen et al. 2022: 2 (1 + b) / (1 - b)


@every_rule
def test_every_rule_lowers_the_loss_of_a_small_network(rule):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(64, 3)
    y = torch.sin(x.sum(dim=1, keepdim=True))
    optimizer = rule.build(network.parameters())
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_muon_moves_all_directions_alike():
    torch.manual_seed(0)
    skewed = torch.randn(12, 30) * torch.logspace(0, -2, 12)[:, None]
    values = torch.linalg.svdvals(Muon.orthogonalised(skewed))
    assert values.min() > 0.5
    assert values.max() < 1.3
    np.testing.assert_allclose(Muon.orthogonalised(skewed.T), Muon.orthogonalised(skewed).T, atol=1e-5)


def test_muon_has_no_linear_stability():
    assert OPTIMIZERS["muon"].real_limit() == math.inf
    with pytest.raises(ProblemError, match="hovers"):
        OPTIMIZERS["muon"].amplification(-1.0)


def test_clipping_by_norm_keeps_the_direction():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert clip_norm([p], 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-5)


def test_adaptive_clipping_compares_each_unit_with_its_weights():
    p = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    p.grad = torch.tensor([[0.3, 0.4], [0.3, 0.4]])
    clip_adaptive([p], 0.5)
    np.testing.assert_allclose(p.grad, [[0.3, 0.4], [0.15, 0.2]], rtol=1e-6)


def test_equalising_gives_all_layers_one_pace_and_keeps_the_norm():
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (4, 100)]
    for p, size in zip(parameters, (10.0, 0.01), strict=True):
        p.grad = torch.full_like(p, size)
    before = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
    equalise(parameters)
    rms = [float(p.grad.square().mean().sqrt()) for p in parameters]
    assert rms[0] == pytest.approx(rms[1], rel=1e-5)
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)) == pytest.approx(before, rel=1e-5)


def test_unknown_names_are_answered_with_the_table():
    with pytest.raises(ProblemError, match=r"did you mean 'momentum'.*adagrad"):
        optimizer_of("momentm")
    with pytest.raises(ProblemError, match="it has momentum"):
        OPTIMIZERS["momentum"].build([torch.nn.Parameter(torch.zeros(1))], nesterov=True)
    with pytest.raises(ProblemError, match="drag"):
        Drag([torch.nn.Parameter(torch.zeros(1))], lr=0.1, drag=float("nan"))
