"""Experiments on dropout, small weights, noise and symmetry."""

import math

import numpy as np
import pytest
import torch

from surrogate.study import testbed
from surrogate.study.claim import Records
from surrogate.study.claims import regularisation
from surrogate.study.claims.regularisation import (
    FEW,
    LONG,
    MANY,
    NOISE,
    NOISES,
    ORIENTED,
    PENALTIES,
    PENALTY,
    SYMMETRIC,
    SYMMETRY,
)

SEEDS = range(5)
OTHER_COLUMNS = ("correlation", "ablation", "size", "variance", "share", "theory", "disturbed", "asymmetry")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(testbed, "VALIDATION", 4)
    monkeypatch.setattr(testbed, "TEST", 4)
    monkeypatch.setattr(regularisation, "VALIDATION", 2)
    monkeypatch.setattr(regularisation, "TEST", 2)
    testbed.dataset.cache_clear()
    yield
    testbed.dataset.cache_clear()


def test_oriented_media_vary_along_the_first_axis_alone(tiny):
    data = regularisation._oriented(3)
    assert [len(data.split[part]) for part in ("train", "validation", "test")] == [3, 2, 2]
    for problem in data.problems:
        d = np.asarray(problem.diffusivity)
        assert np.ptp(d, axis=0).max() > 0 == np.ptp(d, axis=1).max()


class _Fake:
    """A model of the given network."""

    def __init__(self, network):
        self.network = network


def test_an_answer_that_turns_with_the_problem_has_no_asymmetry_and_one_that_does_not_has_some(tiny):
    data = testbed.dataset(items=4)
    right = torch.linspace(1, 2, 16)
    assert regularisation._asymmetry(_Fake(lambda coefficients, forcing: forcing[:, :1]), data) == 0
    assert regularisation._asymmetry(_Fake(lambda coefficients, forcing: forcing[:, :1] * right), data) > 0.1


def test_copies_of_a_channel_are_correlated_and_noise_is_not(tiny):
    class Copies(torch.nn.Module):
        """Channels of one field, with some noise, averaged by the head."""

        def __init__(self, count, noise):
            super().__init__()
            self.count, self.noise = count, noise
            self.head = torch.nn.Conv2d(count, 1, 1, bias=False)
            torch.nn.init.constant_(self.head.weight, 1.0 / count)

        def forward(self, coefficients, forcing):
            random = torch.Generator().manual_seed(0)
            field = coefficients[:, :1] + 1
            noise = self.noise * torch.randn(len(field), self.count, *field.shape[2:], generator=random)
            return self.head(field.expand(-1, self.count, -1, -1) + noise)

    data = testbed.dataset(items=4)
    same, _ = regularisation._dependence(_Fake(Copies(4, 0.0)), data)
    apart, _ = regularisation._dependence(_Fake(Copies(4, 100.0)), data)
    assert same == pytest.approx(1.0, abs=1e-4)
    assert apart < 0.2


@pytest.mark.parametrize("lr", [0.1, 1.0])
def test_walkers_on_a_quadratic_have_the_variance_that_theory_gives(lr):
    found = NOISE.measure({"part": "quadratic", "lr": lr, "seed": 1})
    assert found["variance"] == pytest.approx(found["theory"], rel=4 * math.sqrt(2 / regularisation.WALKERS))


def _pairs(names, sizes, ratio, base, extra=()):
    for items in sizes:
        for name in names:
            for s in SEEDS:
                plain = name == "none"
                value = 0.1 * (1.0 if plain else ratio(name, items)) * (1 + 0.01 * s * (not plain))
                yield {**base, "items": items, "seed": s, "strength": 0.1, "validation": value, "test": value, "train": 0.1,
                       **dict.fromkeys(extra, value)}, name  # fmt: skip


def _penalty_records(ratio) -> Records:
    extra = ("correlation", "ablation", "size")
    return Records({**row, "penalty": name} for row, name in _pairs(PENALTIES, (FEW, MANY), ratio, {}, extra))


def test_the_verdict_on_penalties_follows_the_records():
    assert PENALTY.judge(_penalty_records(lambda name, items: 0.5)).verdict == "supported"
    assert PENALTY.judge(_penalty_records(lambda name, items: 1.5)).verdict == "refuted"
    assert PENALTY.judge(_penalty_records(lambda name, items: 0.5 if items == FEW else 1.5)).verdict == "depends"


def _noise_records(ratio, share=0.6) -> Records:
    rows: list[dict] = [{"part": "quadratic", "lr": 0.1, "variance": 1.05, "theory": 1.05}]
    rows += [{"part": "wells", "temperature": t, "share": share, "theory": 0.6} for t in (0.02, 0.2)]
    pairs = _pairs(NOISES, (FEW, MANY), ratio, {"part": "network"}, ("disturbed",))
    return Records([*rows, *({**row, "place": name} for row, name in pairs)])


def test_the_verdict_on_noise_follows_the_records():
    assert NOISE.judge(_noise_records(lambda name, items: 0.5)).verdict == "supported"
    assert NOISE.judge(_noise_records(lambda name, items: 1.5)).verdict == "refuted"
    assert NOISE.judge(_noise_records(lambda name, items: 0.5 if name == "inputs" else 1.5)).verdict == "depends"
    assert not NOISE.judge(_noise_records(lambda name, items: 0.5, share=0.9)).checks[-1].ok


def _symmetry_records(ratio) -> Records:
    rows = []
    for name, items in (*SYMMETRIC, LONG, ORIENTED):
        for on in (False, True):
            for s in SEEDS:
                value = 0.1 * (ratio(name, items) * (1 + 0.01 * s) if on else 1.0)
                rows.append(
                    {"data": name, "items": items, "augment": on, "lr": 0.01, "seed": s, "validation": value, "test": value,
                     "train": 0.1, "asymmetry": value}
                )  # fmt: skip
    return Records(rows)


def test_the_verdict_on_symmetry_follows_the_records():
    assert SYMMETRY.judge(_symmetry_records(lambda name, items: 0.5)).verdict == "supported"
    assert SYMMETRY.judge(_symmetry_records(lambda name, items: 1.5)).verdict == "refuted"
    assert SYMMETRY.judge(_symmetry_records(lambda name, items: 0.5 if name == "darcy" else 1.5)).verdict == "depends"


@pytest.mark.parametrize("claim", [PENALTY, NOISE, SYMMETRY], ids=lambda claim: claim.name)
def test_the_quick_cases_are_enough_for_a_verdict_and_a_figure(claim):
    from matplotlib.figure import Figure

    measured = dict.fromkeys(("test", "train", "validation", *OTHER_COLUMNS), 0.5)
    measured |= {"curve": [0.9, 0.5], "steps": 16, "failed": 0}
    records = Records({**measured, **case} for case in claim.cases("quick"))
    assert claim.judge(records).rows
    claim.draw(records, Figure())
