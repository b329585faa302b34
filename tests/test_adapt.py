"""Adaptation: every answer is good, and what the solver had to answer makes later answers cheaper."""

import numpy as np
import pytest

import diffsim as ds
import surrogate as sg
from surrogate.adapt import Adaptive
from surrogate.sampling import Spec


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    data = sg.generate("darcy-1d", tmp_path_factory.mktemp("data") / "data", count=60, resolution=16, seed=0)
    return sg.train(data, epochs=1, seed=0, threads=1, progress=False)


def rods(count, start=0):
    spec = Spec.of({"base": "lognormal", "name": "rods", "ndim": 1, "contrast": [30.0, 60.0]})
    return [spec.problem(1, start + i, 16) for i in range(count)]


def test_every_answer_is_within_the_tolerance_and_solver_calls_are_counted(model):
    service = Adaptive(model, tol=0.02, every=1000)
    problems = rods(6)
    for answer, problem in zip(service(problems), problems, strict=True):
        truth = ds.equilibrium(problem, tol=1e-12).u
        assert answer.accepted
        assert np.linalg.norm(answer.u - truth) <= 0.02 * np.linalg.norm(truth)
    assert service.served == [6]
    assert 0 < service.solved[0] <= 6


@pytest.mark.slow
def test_learning_changes_the_copy_and_lowers_the_error(model):
    problems = rods(24)
    before = model.fields(problems)
    service = Adaptive(model, tol=0.01, every=24, steps=150, lr=2e-3)
    service(problems)
    np.testing.assert_array_equal(model.fields(problems), before)
    fresh = rods(12, start=100)
    truth = np.stack([s.u for s in ds.equilibrium(fresh)])
    error = lambda m: np.mean(np.linalg.norm(m.fields(fresh) - truth, axis=1) / np.linalg.norm(truth, axis=1))  # noqa: E731
    assert error(service.surrogate) < 0.7 * error(model)


def test_the_same_service_gives_the_same_answers_again(model):
    answers = [Adaptive(model, tol=0.05, every=4, steps=3)(rods(8)) for _ in range(2)]
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first.u, second.u)


def test_the_share_of_solver_calls_is_drawn(model, tmp_path):
    service = Adaptive(model, tol=0.02, every=1000)
    service(rods(2))
    service.plot(tmp_path / "share.png")
    assert (tmp_path / "share.png").stat().st_size > 1000
    assert service.share.shape == (1,)


def test_impossible_settings_are_refused(model):
    for settings in ({"tol": 0.0}, {"every": 0}, {"lr": -1.0}, {"memory": 2.5}):
        with pytest.raises(ds.ProblemError):
            Adaptive(model, **settings)
