"""The training loop: what it learns, how it stops, and that it goes on bit for bit."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import spsolve

import surrogate as sg
from diffsim import Dirichlet, Grid, Problem, store
from diffsim.errors import ConvergenceError, ProblemError, StoreError
from diffsim.operator import discretize
from diffsim.store.atomic import CRASH_EXIT
from surrogate import baselines, fields, models, monitors, training
from surrogate.checkpoint import MODEL, STATE, read_state
from surrogate.optimizers import OPTIMIZERS

TINY = {"width": 6, "cycles": 1, "levels": 2, "depth": 1, "coarse": 1, "progress": False}


@cache
def pairs(count=24, n=8):
    """Two-material plates with zero-value sides, and their equilibria by a direct solve."""
    grid = Grid(shape=(n, n), lengths=(1.0, 1.0))
    problems, u = [], []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        d = np.where(np.kron(rng.normal(size=(n // 4, n // 4)), np.ones((4, 4))) > 0, 12.0, 3.0)
        problem = Problem(grid, diffusivity=d, source=1.0, boundary={"x": Dirichlet(0.0), "y": Dirichlet(0.0)})
        operator = discretize(problem)
        problems.append(problem)
        u.append(spsolve(operator.matrix().tocsc(), operator.forcing(0.0).ravel()).reshape(n, n))
    return sg.Dataset.from_arrays(problems, np.stack(u))


class Frames:
    """Trajectories of unknown rate towards unknown fields, in the interface of a transient dataset."""

    task = "transient"

    def __init__(self, count=60, n=8, k=5):
        self.items = []
        grid = Grid(shape=(n, n), lengths=(1.0, 1.0))
        x = (np.arange(n) + 0.5) / n
        mode = lambda i, j: np.outer(np.sin(i * np.pi * x), np.sin(j * np.pi * x))  # noqa: E731
        for seed in range(count):
            rng = np.random.default_rng(seed)
            d, t = rng.uniform(0.5, 2.0), np.linspace(0.0, 0.03, k)
            rest = sum(rng.normal() * mode(i, j) for i in (1, 2) for j in (1, 2))
            gap = [(rng.normal(), i, j) for i in (1, 2, 3) for j in (1, 2, 3)]
            frames = [
                rest + sum(a * np.exp(-d * np.pi**2 * (i * i + j * j) * s) * mode(i, j) for a, i, j in gap) for s in t
            ]
            item = type("Item", (), {})()
            item.problem, item.u, item.times, item.frames = Problem(grid, diffusivity=d), rest, t, np.stack(frames)
            self.items.append(item)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]

    def indices(self, part):
        n = len(self)
        return {"train": np.arange(n - 20), "validation": np.arange(n - 20, n - 10), "test": np.arange(n - 10, n)}[part]


def weights(model):
    return {name: w.numpy() for name, w in model.network.state_dict().items()}


def assert_equal_weights(a, b):
    assert weights(a).keys() == weights(b).keys()
    for name, w in weights(a).items():
        np.testing.assert_array_equal(w, weights(b)[name], err_msg=name)


def error(guesses, truth):
    """Mean relative L2 error."""
    return np.mean([np.linalg.norm(g - u) / np.linalg.norm(u) for g, u in zip(guesses, truth, strict=True)])


def test_training_beats_the_mean_field_on_what_it_has_not_seen():
    data = pairs(count=40)
    model = sg.train(data, epochs=12, width=12, cycles=2, levels=2, depth=1, progress=False)
    test = data.subset("test")
    mean = data.arrays("train")["u"].mean(axis=0)
    truth = test.arrays()["u"]
    assert error(model.fields(test.problems), truth) < 0.5 * error([mean] * len(truth), truth)


def test_a_closed_form_is_fitted_stored_and_predicts_by_the_same_calls(tmp_path):
    """With more modes than items, and labels that are linear in the source, ridge regression finds the solution operator."""
    grid = Grid(shape=(6,), lengths=(1.0,))
    source = np.random.default_rng(0).normal(size=(80, 6))
    problems = [Problem(grid, diffusivity=2.0, source=f, boundary={"x": Dirichlet(0.0)}) for f in source]
    operator = discretize(problems[0])
    u = np.linalg.solve(operator.matrix().toarray(), (source * operator.volumes.ravel()).T).T
    data = sg.Dataset.from_arrays(problems, u)
    model = sg.train(data, model="pod-ridge", modes=8, out=tmp_path, progress=False)
    test = data.subset("test")
    assert error(model.fields(test.problems), test.arrays()["u"]) < 1e-4
    assert model.card.trained["status"] == "finished"
    assert len(model.history) == 1
    called = []
    again = sg.train(data, model="pod-ridge", modes=8, out=tmp_path, progress=called.append)
    assert called == []
    for one in (again, sg.load(tmp_path)):
        assert_equal_weights(one, model)
        np.testing.assert_array_equal(one.fields(test.problems), model.fields(test.problems))
    with pytest.raises(StoreError, match="options.modes was 8, now 4"):
        sg.train(data, model="pod-ridge", modes=4, out=tmp_path, progress=False)
    with pytest.raises(ProblemError, match=r"grids of \(6,\) cells only"):
        model.fields([problems[0].with_(grid=Grid(shape=(7,), lengths=(1.0,)), source=1.0)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convlstm", {"width": 8, "levels": 2}),
        ("attention", {"width": 16, "blocks": 1, "heads": 2, "patch": 2, "local": 8}),
        ("graph", {"width": 8, "cycles": 1, "levels": 2}),
    ],
)
def test_every_network_learns_from_frames(name, options):
    model = sg.train(Frames(40), model=name, task="transient", epochs=8, progress=False, **options)
    assert model.history[-1]["validation_l2"] < 0.8 * model.history[0]["validation_l2"]
    assert model.history[-1]["train_l2"] < 0.8 * model.history[0]["train_l2"]


def test_a_closed_form_beats_the_last_frame():
    data = Frames()
    model = sg.train(data, model="pod-ridge", task="transient", progress=False)
    items = [data[i] for i in data.indices("test")]
    t, frames, truth = (np.stack([getattr(i, key) for i in items]) for key in ("times", "frames", "u"))
    assert error(model.from_frames(t, frames), truth) < 0.5 * error(frames[:, -1], truth)


def test_transients_beat_the_exponential_extrapolation():
    data = Frames()
    model = sg.train(data, task="transient", epochs=12, width=12, cycles=2, levels=2, depth=1, progress=False)
    items = [data[i] for i in data.indices("test")]
    t, frames, truth = (np.stack([getattr(i, key) for i in items]) for key in ("times", "frames", "u"))
    inputs = fields.from_frames(t, frames)
    extrapolated = inputs.physical(inputs.forcing[:, -1:])
    assert error(model.from_frames(t, frames), truth) < error(extrapolated, truth)
    with pytest.raises(ProblemError, match="trained for task 'transient'"):
        model.fields([items[0].problem])


def test_one_seed_is_one_model_and_another_seed_another():
    one, same, other = (sg.train(pairs(), epochs=2, seed=s, **TINY) for s in (3, 3, 4))
    assert_equal_weights(one, same)
    assert any((weights(one)[k] != weights(other)[k]).any() for k in weights(one))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw", "langevin": 1e-8, "noise": 0.01},
        {"optimizer": "drag", "pull": 0.01, "curriculum": 0.5},
    ],
    ids=["muon", "adamw with noise", "drag with curriculum"],
)
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, options):
    whole = sg.train(pairs(), epochs=4, out=tmp_path / "whole", **TINY, **options)
    interrupt_at(5, pairs(), tmp_path / "parts", options)
    resumed = sg.train(pairs(), epochs=4, out=tmp_path / "parts", **TINY, **options)
    assert_equal_weights(whole, resumed)
    assert [r["validation_l2"] for r in whole.history] == [r["validation_l2"] for r in resumed.history]


def interrupt_at(step, data, out, options):
    """Ctrl-C in the middle of an epoch."""
    original = training._Run._step

    def step_or_stop(run, *args):
        if run.done == step:
            raise KeyboardInterrupt
        original(run, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Run, "_step", step_or_stop)
        model = sg.train(data, epochs=4, out=out, **TINY, **options)
    assert model.card.trained["status"] == "interrupted"
    return model


def test_dropping_the_optimizer_state_would_be_noticed(tmp_path):
    whole = sg.train(pairs(), epochs=4, **TINY)
    interrupt_at(5, pairs(), tmp_path, {})
    arrays, record = store.read_safetensors(tmp_path / STATE)
    arrays = {k: np.zeros_like(v) if k.startswith("state.optimizer") else v for k, v in arrays.items()}
    store.write_safetensors(tmp_path / STATE, arrays, record)
    resumed = sg.train(pairs(), epochs=4, out=tmp_path, **TINY)
    assert any((weights(whole)[k] != weights(resumed)[k]).any() for k in weights(whole))


def test_the_same_call_on_a_finished_training_returns_it(tmp_path):
    first = sg.train(pairs(), epochs=2, out=tmp_path, **TINY)
    called = []
    again = sg.train(pairs(), epochs=2, out=tmp_path, **{**TINY, "progress": called.append})
    assert called == []
    assert_equal_weights(first, again)
    assert_equal_weights(first, sg.load(tmp_path))


def test_another_call_on_a_training_is_refused_with_the_differences(tmp_path):
    sg.train(pairs(), epochs=1, out=tmp_path, **TINY)
    with pytest.raises(StoreError, match=r"seed was 0, now 1.*settings.lr was None, now 0.5"):
        sg.train(pairs(), epochs=1, seed=1, lr=0.5, out=tmp_path, **TINY)
    with pytest.raises(StoreError, match="the data are others"):
        sg.train(pairs(count=30), epochs=1, out=tmp_path, **TINY)


def test_a_damaged_state_is_refused(tmp_path):
    sg.train(pairs(), epochs=1, out=tmp_path, **TINY)
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StoreError):
        sg.train(pairs(), epochs=1, out=tmp_path, **TINY)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    with pytest.raises(ConvergenceError, match=r"no update was made.*items|items \[.*no update was made"):
        sg.train(pairs(), epochs=40, optimizer="sgd", lr=1e25, clip=0.0, warmup=0.0, out=tmp_path, **TINY)
    if (tmp_path / STATE).exists():
        state = read_state(tmp_path)
        assert all(torch.isfinite(w).all() for w in state["weights"].values())


def test_labels_that_are_not_finite_are_named():
    data = Frames()
    data.items[3].u = np.full_like(data.items[3].u, np.nan)
    with pytest.raises(ProblemError, match=r"items \[3\]"):
        sg.train(data, task="transient", epochs=1, **TINY)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_items_are_refused_with_their_number(count):
    full = pairs()
    data = sg.Dataset.from_arrays(full.problems[:count], full.arrays()["u"][:count])
    with pytest.raises(ProblemError, match=rf"holds 0 of its {count} items"):
        sg.train(data, epochs=1, **TINY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "multigird"}, "Did you mean 'multigrid'"),
        ({"task": "both"}, "coefficients, transient"),
        ({"task": "transient"}, "needs frames"),
        ({"epochs": 0}, "epochs = 0"),
        ({"minutes": float("nan")}, "minutes = nan"),
        ({"seed": -1}, "seed = -1"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"bach": 4}, "Did you mean 'batch'"),
        ({"batch": 2.5}, "batch=2.5"),
        ({"optimizer": "admw"}, "did you mean 'adamw'"),
        ({"momentum": 0.9, "optimizer": "adam"}, "no option momentum"),
        ({"schedule": "cos"}, "cosine, linear, constant"),
    ],
    ids=lambda v: next(iter(v.values())) if isinstance(v, dict) else "",
)
def test_bad_calls_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ProblemError, match=message):
        sg.train(pairs(), out=tmp_path / "run", **{"epochs": 1, **TINY, **options})
    assert not (tmp_path / "run").exists()


def test_minutes_end_a_training(tmp_path):
    timed = {**TINY, "clock": "cpu"}  # processor time: other jobs on the machine do not matter
    model = sg.train(pairs(), minutes=0.02, out=tmp_path, **timed)
    assert 0.02 <= model.card.trained["minutes_used"] < 0.2
    assert model.history[-1]["lr"] < 0.05 * max(r["lr"] for r in model.history)  # the schedule fitted the budget
    again = sg.train(pairs(), minutes=0.02, out=tmp_path, **timed)
    assert len(again.history) == len(model.history)
    longer = sg.train(pairs(), minutes=0.03, out=tmp_path, **timed)
    assert longer.history[: len(model.history)] == model.history
    assert len(longer.history) > len(model.history)


def test_patience_ends_a_training_that_no_longer_improves():
    model = sg.train(pairs(), epochs=200, lr=1e-12, plain_lr=1e-12, patience=3, average=0.0, **TINY)
    assert model.card.trained["status"] == "stopped"
    assert len(model.history) < 20


def test_threads_are_as_they_were_afterwards():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        sg.train(pairs(), epochs=1, **TINY, threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_every_option_of_training_can_be_stored(tmp_path):
    every = {
        "batch": 7, "optimizer": "momentum", "schedule": "linear", "warmup": 0.2, "slopes": 0.5, "clip_ratio": 0.1,
        "equalise": True, "l1": 1e-5, "langevin": 1e-9, "noise": 1e-3, "augment": False, "curriculum": 0.5, "average": 0.9,
        "patience": 5, "precision": "float32", "sharpness": 1, "momentum": 0.8,
    }  # fmt: skip
    model = sg.train(pairs(), epochs=2, out=tmp_path, **TINY, **every)
    assert np.isfinite(model.history[-1]["validation_l2"])
    assert model.history[-1]["step_limit"] == pytest.approx(2 * 1.8 / model.history[-1]["sharpness"], rel=1e-6)
    assert json.loads(json.dumps(sg.load(tmp_path).card.trained)) == sg.load(tmp_path).card.trained


@pytest.mark.slow
def test_killed_anywhere_it_resumes_to_the_same_bits(tmp_path):
    """The process ends at a counted moment of its file operations; the same call goes on, until one survives."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from tests.test_training import *\n"
        "sg.train(pairs(), epochs=3, out=sys.argv[1], **TINY)\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    undisturbed = sg.train(pairs(), epochs=3, **TINY)
    for moment, restarts in ((2, 1), (7, 1), (10, 6)):  # in the first model, in the first state, in every second epoch
        for _ in range(restarts):
            done = subprocess.run(
                [sys.executable, "-c", script, str(tmp_path / f"run{moment}"), root],
                env={**os.environ, "DIFFSIM_CRASH_AT": f"any:{moment}"},
                check=False,
                cwd=root,
            )
            if done.returncode == 0:
                break
            assert done.returncode == CRASH_EXIT
        assert_equal_weights(undisturbed, sg.train(pairs(), epochs=3, out=tmp_path / f"run{moment}", **TINY))


class Dead(BaseException):
    """Stands for a kill: nothing catches it."""


def test_stopped_dead_at_random_moments_it_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """In the middle of steps and of the writing of files, three times; whole processes are killed in the slow test."""
    whole, rng, deaths = sg.train(pairs(), epochs=4, **TINY), np.random.default_rng(1), 0
    step = training._Run._step
    while deaths < 3:
        left = int(rng.integers(3, 16))

        def moment(*_):
            nonlocal left
            left -= 1
            if left == 0:
                raise Dead

        def watched(run, *args):
            moment()
            step(run, *args)
            moment()

        with monkeypatch.context() as patch:
            patch.setattr(training._Run, "_step", watched)
            patch.setattr("diffsim.store.atomic.crash_point", moment)
            with pytest.raises(Dead):
                sg.train(pairs(), epochs=4, out=tmp_path, **TINY)
        deaths += 1
    resumed = sg.train(pairs(), epochs=4, out=tmp_path, **TINY)
    assert_equal_weights(whole, resumed)
    assert_equal_weights(whole, sg.load(tmp_path))


KILLER = """
import os, random, signal, sys, time
root, out, kills, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, root)
from tests.test_training import TINY, pairs, sg

data, draw = pairs(), random.Random(0)

def start(epochs, out):
    pid = os.fork()  # children find everything imported: the moments below are moments of a training
    if not pid:
        sg.train(data, epochs=epochs, out=out, **TINY)
        os._exit(0)
    return pid

begin = time.perf_counter()
assert os.waitpid(start(6, out + "-pace"), 0)[1] == 0
pace = (time.perf_counter() - begin) / 6
for kill in range(kills):
    pid = start(epochs, out)
    time.sleep(draw.uniform(0.0, 2.5 * pace))
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), f"the training ended before kill {kill + 1}"
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_goes_on_to_the_same_bits(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # others do not survive a fork
    program = [sys.executable, "-c", KILLER, root, str(tmp_path / "run"), "20", "60"]
    subprocess.run(program, env={**os.environ, **threads}, check=True, cwd=root)
    resumed = sg.train(pairs(), epochs=60, out=tmp_path / "run", **TINY)
    assert_equal_weights(sg.train(pairs(), epochs=60, **TINY), resumed)
    assert len(resumed.history) == 60


@pytest.mark.parametrize("stride", [211, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_any_file_of_a_training_is_noticed(tmp_path, stride):
    """In the header of a file every byte (or every 211th), the history among them; of the weights a sample."""
    sg.train(pairs(), epochs=2, out=tmp_path, **TINY)
    readers = {MODEL: sg.load, STATE: read_state}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == readers.keys()
    rng = np.random.default_rng(0)
    for name, read in readers.items():
        content = (tmp_path / name).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        history = content.index(b"validation_h1")  # a number of the history follows
        places = {
            *range(0, header, stride),
            *range(history, history + 30),
            *rng.integers(header, len(content), 40).tolist(),
        }
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(rng.integers(8))
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(StoreError):
                read(tmp_path)
        (tmp_path / name).write_bytes(content)
        read(tmp_path)


# --- monitors ---------------------------------------------------------------------------------------------------------


def quadratic(eigenvalues):
    """A network of one parameter vector, and a loss with that Hessian."""
    network = torch.nn.Linear(len(eigenvalues), 1, bias=False)
    h = torch.tensor(eigenvalues, dtype=torch.float32)
    return network, lambda: 0.5 * (h * network.weight[0].square()).sum() + network.weight.sum()


def test_lanczos_finds_the_largest_eigenvalue():
    network, loss = quadratic(np.linspace(0.1, 7.0, 12))
    assert monitors.sharpness(network, loss) == pytest.approx(7.0, rel=1e-4)


def test_a_preconditioner_changes_the_sharpness_as_it_should():
    values = np.array([1.0, 8.0, 20.0])
    network, loss = quadratic(values)
    p = [torch.tensor([[0.1, 2.0, 10.0]])]
    assert monitors.sharpness(network, loss, preconditioner=p) == pytest.approx(10.0, rel=1e-4)


def test_sharpness_of_a_network_is_that_of_its_dense_hessian():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    x, y = torch.randn(20, 2), torch.randn(20, 1)
    names = [n for n, _ in network.named_parameters()]

    def loss_of(*values):
        out = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (x,))
        return (out - y).square().mean()

    values = tuple(p.detach() for p in network.parameters())
    blocks = torch.autograd.functional.hessian(loss_of, values)
    hessian = torch.cat(
        [torch.cat([b.reshape(v.numel(), -1) for b in row], 1) for v, row in zip(values, blocks, strict=True)]
    )
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    found = monitors.sharpness(network, lambda: (network(x) - y).square().mean(), iterations=17)
    assert found == pytest.approx(top, rel=1e-3)


def test_the_preconditioner_is_what_adam_divides_by():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = torch.optim.Adam([p], lr=0.1, eps=0.0)
    p.grad = torch.tensor([0.5, -4.0])
    optimizer.step()
    np.testing.assert_allclose(monitors.preconditioner(optimizer)[0], [0.5, 4.0], rtol=1e-5)
    assert monitors.preconditioner(torch.optim.SGD([p], lr=0.1)) is None


@pytest.mark.parametrize("name", ["sgd", "momentum", "drag"])
def test_the_step_limit_of_the_sharpness_separates_rest_from_blow_up(name):
    rule = OPTIMIZERS[name]
    outcome = {}
    for factor in (0.97, 1.03):
        torch.manual_seed(0)
        network, loss = quadratic(np.array([0.5, 3.0, 11.0]))
        lr = factor * monitors.step_limit(rule, monitors.sharpness(network, loss))
        optimizer = rule.build(network.parameters(), lr)
        for _ in range(600):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        outcome[factor] = float(loss().detach())
    assert outcome[0.97] < 10
    assert not outcome[1.03] < 1e3


def test_layers_report_how_far_they_moved():
    network, loss = quadratic(np.array([1.0, 1.0]))
    with torch.no_grad():
        network.weight.fill_(2.0)
    watch = monitors.Layers(network)
    watch.before()
    loss().backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    (report,) = watch.after()
    assert (report.weight, report.gradient) == (pytest.approx(2.0), pytest.approx(3.0))
    assert report.update_ratio == pytest.approx(0.15)


def test_dead_channels_are_counted():
    layer = torch.nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight[2:] = 0.0
    network = torch.nn.Sequential(layer, torch.nn.ReLU())
    assert monitors.activations(network, torch.randn(16, 3))["0"]["dead"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("losses", "limits", "word"),
    [([1.0, 0.5, 0.1], None, "stable"), ([1.0, 0.1, 0.9], None, "unstable"), ([1.0, 0.5, 0.4], 0.005, "edge")],
)
def test_the_verdict_says_what_happened(losses, limits, word):
    history = [{"train_l2": x, "lr": 0.01, "step_limit": limits} for x in losses]
    assert monitors.verdict(history).split(":")[0].endswith(word)
    assert monitors.verdict([]) == "no epoch has been trained yet."


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_a_recipe_generates_enough_items_for_its_training_split():
    """The split is binomial: the training part of `count` items falls short of `items` with probability below 1e-7."""
    from scipy.stats import binom

    from surrogate.recipes import RECIPES, TRAIN_SHARE

    for recipe in RECIPES.values():
        assert binom.cdf(recipe.items - 1, recipe.count, TRAIN_SHARE) < 1e-7


def test_recipes_name_what_exists():
    from surrogate.recipes import RECIPES, recipe_of
    from surrogate.sampling import SPECS

    for recipe in RECIPES.values():
        assert recipe.spec in SPECS
        training._sorted_options(recipe.model, recipe.options)
        assert recipe.model in models.MODELS
    with pytest.raises(ProblemError, match="Did you mean 'darcy-64'"):
        recipe_of("darcy64")


def test_a_hybrid_starts_from_the_coarse_solve_and_reads_back_the_same(tmp_path):
    data = pairs()
    model = sg.train(data, epochs=1, hybrid=2, out=tmp_path, **TINY)
    problems = data.problems[:2]
    coarse = baselines.coarse_solve([data[i] for i in range(2)])
    inputs = fields.from_problems(problems, coarse=2)
    np.testing.assert_allclose(inputs.physical(inputs.forcing[:, -1:]), coarse, rtol=1e-5)
    np.testing.assert_array_equal(sg.load(tmp_path).fields(problems), model.fields(problems))
    with pytest.raises(ProblemError, match=r"train\(hybrid, bounded\) needs the problem"):
        sg.train(Frames(), task="transient", epochs=1, hybrid=2, bounded=True, **TINY)


def test_no_name_means_two_options():
    of_training = {f.name for f in dataclasses.fields(training.Settings)}
    of_optimizers = {name for rule in OPTIMIZERS.values() for name in rule.options}
    for model in models.MODELS:
        assert not set(models.options_of(model)) & (of_training | of_optimizers)
    assert not of_training & of_optimizers


def test_a_limit_on_the_training_items_is_kept(tmp_path):
    data = pairs()
    few = sg.train(data, epochs=1, items=10, batch=5, **TINY)
    assert few.history[-1]["step"] == 2
    with pytest.raises(ProblemError, match="holds"):
        sg.train(data, epochs=1, items=1000, **TINY)
