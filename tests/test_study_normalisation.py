"""Experiments on normalisation."""

import pytest

from surrogate.study import testbed
from surrogate.study.claim import Records
from surrogate.study.claims import normalisation
from surrogate.study.claims.normalisation import DEPTHS, EVEN, GRIDS, KINDS, LSDR, READINGS, WIDE

SEEDS = range(5)
OTHER_COLUMNS = ("cosine", "spread", "gain", "bound", "kernel")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(testbed, "VALIDATION", 4)
    monkeypatch.setattr(testbed, "TEST", 4)
    monkeypatch.setattr(normalisation, "SMALL", {"width": 12, "blocks": 2, "epochs": 2, "items": 16})
    testbed.dataset.cache_clear()
    yield
    testbed.dataset.cache_clear()


@pytest.mark.parametrize("kind", ["batch", "layer", "group", "weight"])
def test_the_size_of_a_normalised_layer_does_not_matter_and_that_of_a_plain_one_does(tiny, kind):
    assert normalisation._radial(kind) < 1e-3
    assert normalisation._radial("none") > 1e-2


def test_unevenness_counts_decades_and_kernels_alone():
    report = lambda name, gradient: testbed.LayerReport(name, 1.0, gradient, 1.0)  # noqa: E731
    step = [
        report("stem.weight", 0.01),
        report("blocks.0.inner.weight", 1.0),
        report("blocks.0.norm.weight", 1e9),
        report("blocks.0.inner.bias", 1e9),
        report("head.parametrizations.weight.original0", 1e9),
    ]
    assert normalisation._unevenness([step, step]) == pytest.approx(1.0)  # two decades apart: one either side


def _even_records(spreads: float, errors: float) -> Records:
    rows: list[dict] = [{"part": "invariance", "kind": "weight", "cosine": 1e-9}]
    for kind in KINDS:
        for s in SEEDS:
            scatter = 1 + 0.01 * s * (kind != "none")
            value = 0.5 * (1.0 if kind == "none" else spreads) * scatter
            rows += [
                {"part": "spread", "kind": kind, "blocks": blocks, "seed": s, "spread": value} for blocks in DEPTHS
            ]
            error = 0.1 * (1.0 if kind == "none" else errors) * scatter
            rows += [
                {
                    "part": "error",
                    "kind": kind,
                    "optimizer": base,
                    "lr": 0.1,
                    "seed": s,
                    "validation": error,
                    "test": error,
                }
                for base in GRIDS
            ]
    return Records(rows)


def test_the_verdict_on_even_gradients_follows_the_spreads_and_not_the_errors():
    assert EVEN.judge(_even_records(0.5, 2.0)).verdict == "supported"
    assert EVEN.judge(_even_records(1.5, 0.5)).verdict == "refuted"
    mixed = _even_records(0.5, 1.0).rows
    for row in mixed:
        if row["part"] == "spread" and row["kind"] == "weight":
            row["spread"] = 0.7
    assert EVEN.judge(Records(mixed)).verdict == "depends"


def _lsdr_records(**ratios: float) -> Records:
    rows = []
    for kind in READINGS:
        for base in WIDE:
            for s in SEEDS:
                value = 0.1 * ratios.get(kind, 1.0) * (1 + 0.01 * s * (kind != "none"))
                rows.append(
                    {"kind": kind, "optimizer": base, "lr": 0.1, "seed": s, "validation": value, "test": value,
                     "gain": value, "bound": None if kind == "standardised" else 10.0, "kernel": 1.0, "failed": 0}
                )  # fmt: skip
    return Records(rows)


def test_the_verdict_on_both_readings_follows_the_records():
    assert LSDR.judge(_lsdr_records(standardised=0.5, spectral=0.5)).verdict == "supported"
    assert LSDR.judge(_lsdr_records(standardised=1.5, spectral=1.5)).verdict == "refuted"
    assert LSDR.judge(_lsdr_records(standardised=0.5, spectral=1.5)).verdict == "depends"


def test_a_gain_above_the_proven_bound_fails_its_check():
    good, bad = _lsdr_records().rows, _lsdr_records().rows
    bad[0]["bound"] = 0.01
    assert all(check.ok for check in LSDR.judge(Records(good)).checks)
    assert not LSDR.judge(Records(bad)).checks[0].ok


def test_a_spectrally_normalised_network_keeps_its_bound(tiny):
    found = LSDR.measure({"kind": "spectral", "optimizer": "adam", "lr": 0.01, "seed": 0})
    assert found["gain"] < found["bound"] < 1e6
    assert found["kernel"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("claim", [EVEN, LSDR], ids=lambda claim: claim.name)
def test_the_quick_cases_are_enough_for_a_verdict_and_a_figure(claim):
    from matplotlib.figure import Figure

    measured = dict.fromkeys(("test", "train", "validation", *OTHER_COLUMNS), 0.5)
    measured |= {"curve": [0.9, 0.5], "steps": 16, "failed": 0}
    records = Records({**measured, **case} for case in claim.cases("quick"))
    assert claim.judge(records).rows
    claim.draw(records, Figure())
