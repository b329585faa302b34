"""The study: what is committed follows from its records, runs resume, statistics cover, and verdicts can be otherwise."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from diffsim import store
from diffsim.errors import ProblemError
from surrogate import cli, study
from surrogate.study import CLAIMS, Check, Claim, Finding, Records, reporting
from surrogate.study.statistics import compare, interval, spread

HOME = Path(__file__).parents[1] / "docs" / "study"
VERDICTS = store.read_json(HOME / reporting.VERDICTS_FILE)

every_claim = pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)


# --- what is committed ----------------------------------------------------------------------------------------------


def test_every_claim_has_its_number_and_its_verdict():
    assert [claim.number for claim in CLAIMS.values()] == list(range(1, 25))
    assert set(VERDICTS) == set(CLAIMS)


@every_claim
def test_the_verdict_and_the_page_follow_from_the_records(claim):
    assert study.complete(claim, HOME, "full"), f"records of {claim.name} are missing or belong to other cases"
    finding = claim.judge(study.stored(claim, HOME, "full"))
    assert VERDICTS[claim.name] == finding.verdict
    assert [check for check in finding.checks if not check.ok] == []
    written = (HOME / "claims" / f"{claim.label}.md").read_text()
    assert written == study.page(claim, finding, f"images/{claim.label}.png")
    assert (HOME / "claims" / "images" / f"{claim.label}.png").stat().st_size > 5000


def test_the_index_follows_from_the_records():
    found = study.findings(CLAIMS.values(), HOME, "full")
    assert (HOME / "verdicts.md").read_text() == reporting.index(CLAIMS.values(), found)


@every_claim
def test_cases_are_cheap_deterministic_and_different(claim):
    for profile in study.PROFILES:
        cases = claim.cases(profile)
        assert cases == claim.cases(profile) == json.loads(json.dumps(cases))
        assert len({json.dumps(case, sort_keys=True) for case in cases}) == len(cases) > 0
    assert len(claim.cases("quick")) <= len(claim.cases("full"))


REMADE = {
    "step-size": {"problem": "rod", "scheme": "ftcs", "goal": "rest", "seed": 3},
    "step-count": {"kind": "steady", "seed": 1},
    "coefficient": {"medium": "random", "scheme": "ftcs", "seed": 2},
    "optimum": {"part": "application", "problem": "plate", "cells": 8},
    "reversible": {"process": "ring", "seed": 4},
    "agreement": {"part": "walk", "medium": "inhomogeneous", "particles": 1000, "seed": 0},
    "sharpness": {"part": "quadratic", "method": "pull", "factor": 1.02, "seed": 0},
}


@pytest.mark.parametrize("name", REMADE)
def test_a_stored_number_is_remade_by_its_measurement(name):
    """Everything but rounding: motion at the level of 1e-16 is rounding."""
    claim, case = CLAIMS[name], REMADE[name]
    assert case in claim.cases("full")
    (row,) = [row for row in study.stored(claim, HOME, "full") if case.items() <= row.items()]
    for column, value in claim.measure(case).items():
        stored = np.array(row[column], dtype=float)
        fresh = np.array(value, dtype=float)
        np.testing.assert_allclose(
            np.where(np.isfinite(fresh), fresh, np.nan), stored, rtol=1e-6, atol=1e-12, err_msg=column
        )


# --- what theory gives ----------------------------------------------------------------------------------------------

QUICK = ("step-size",)
SLOWER = ("step-count", "coefficient", "optimum", "reversible", "agreement", "sharpness")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_the_quick_profile_finds_what_theory_gives(name, tmp_path):
    claim = CLAIMS[name]
    finding = claim.judge(study.run([claim], tmp_path, "quick")[name])
    assert finding.checks
    assert [check for check in finding.checks if not check.ok] == []


def test_a_check_is_not_ok_beyond_its_tolerance_nor_for_nan():
    assert Check("x", 1.1, 1.0, 0.11).ok
    assert not Check("x", 1.1, 1.0, 0.09).ok
    assert not Check("x", math.nan, 1.0, 1.0).ok


# --- a fault changes the verdict ------------------------------------------------------------------------------------


def altered(name, change):
    """The verdict of a claim on its records after `change` of every row."""
    rows = [dict(row) for row in study.stored(CLAIMS[name], HOME, "full")]
    for row in rows:
        change(row)
    return CLAIMS[name].judge(Records(rows))


def test_a_world_in_which_large_steps_cost_nothing_refutes_the_first_claim():
    def cheap(row):
        best = min(w for w in row["work"] if w is not None)
        row["work"] = [*row["work"][:-1], best]

    assert altered("step-size", cheap).verdict == "refuted"


def test_a_world_in_which_all_implicit_schemes_blow_up_supports_it():
    def lost(row):
        row["work"] = [*row["work"][:-1], None]

    assert altered("step-size", lost).verdict == "supported"


def test_if_nothing_ever_moved_or_all_did_the_verdict_on_many_steps_would_follow():
    assert altered("step-count", lambda row: row.update(motion=[0.0] * 7)).verdict == "refuted"
    assert altered("step-count", lambda row: row.update(motion=[1.0] * 7)).verdict == "supported"


def test_the_coefficient_claim_falls_with_its_runs():
    assert altered("coefficient", lambda row: row.update(unstable=[0.0] * 24)).verdict == "refuted"
    unstable = altered("coefficient", lambda row: row.update(unstable=[0.0] * 23 + [1.0]))
    assert not all(check.ok for check in unstable.checks)  # one run that grows below the limit is seen


def test_the_optimum_claim_has_two_halves():
    def alike(row):
        if row["part"] == "application":
            row.update(plan_dt=1.0, relative=0.99)
        else:
            row.update(best_step=100 + row["seed"], validation=1.0 + abs(math.log(row["lr"] / 0.01)))

    def by_size(row):
        if row["part"] == "items":
            row.update(best_step=row["items"] * (1 + 0.01 * row["seed"]))

    assert altered("optimum", alike).verdict == "refuted"
    assert altered("optimum", by_size).verdict == "supported"


def test_if_only_reversible_stationary_processes_were_even_the_claim_would_be_supported():
    def as_said(row):
        ideal = row["irreversible"] is not None and row["irreversible"] < 1e-6
        row["chi"] = 1.0 if ideal else 50.0

    assert altered("reversible", as_said).verdict == "supported"
    assert altered("reversible", lambda row: row.update(chi=50.0)).verdict == "refuted"


def test_the_agreement_claim_follows_its_images_and_its_walkers():
    def better(row):
        if row["part"] == "image":
            row["adaptive"] = 0.5 * row["constant"]

    def astray(row):
        if row["part"] == "walk":
            row["chi"] = 4.0

    assert altered("agreement", better).verdict == "supported"
    assert altered("agreement", astray).verdict == "refuted"


def test_if_no_network_lived_beyond_its_limit_the_sharpness_claim_would_be_supported():
    def dies(row):
        if row["part"] == "network" and row["peak"] is not None and row["peak"] > 1:
            row["alive"] = 0

    def rests(row):
        if row["part"] == "quadratic":
            row["growth"] = 0.9

    assert altered("sharpness", dies).verdict == "supported"
    assert altered("sharpness", rests).verdict == "refuted"


# --- running --------------------------------------------------------------------------------------------------------

stop_at: set[int] = set()  # numbers of cases at which the fake measurement is interrupted
measured: list[int] = []


def fake_measure(case):
    if case["n"] in stop_at:
        raise KeyboardInterrupt
    measured.append(case["n"])
    return {"square": float(case["n"]) ** 2, "gone": math.inf if case["n"] == 2 else 1.0, "list": np.arange(3) * 0.1}


def fake_claim(measure=fake_measure, cases=6, number=1, name="fake"):
    def judge(records):
        total = records["square"].sum() if "square" in records.rows[0] else records["n"].sum()
        return Finding("supported" if total > 10 else "refuted", f"the sum is {total:g}", ("sum",), ((f"{total:g}",),))

    return Claim(
        number, name, "squares add up", "the sum exceeds 10", f"{cases} numbers", "Because | they do.",
        lambda profile: [{"n": n, "seed": n % 3} for n in range(cases if profile == "full" else 2)],
        measure, judge, lambda records, figure: figure.subplots().plot(records["n"], records["n"]),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh():
    stop_at.clear()
    measured.clear()


def journal(folder):
    return sorted((folder / "records" / "full" / "01-fake.jsonl").read_text().splitlines())


@pytest.mark.parametrize("torn", [b"", b'{"case": {"n": 3, "se'])
def test_a_run_killed_midway_goes_on_and_ends_the_same(tmp_path, torn):
    claim = fake_claim()
    whole = study.run([claim], tmp_path / "whole", "full")["fake"]
    measured.clear()
    stop_at.add(3)
    with pytest.raises(KeyboardInterrupt):
        study.run([claim], tmp_path / "killed", "full")
    assert measured == [0, 1, 2] and not study.complete(claim, tmp_path / "killed", "full")
    with open(tmp_path / "killed" / "records" / "full" / "01-fake.jsonl", "ab") as file:
        file.write(torn)  # what a crash leaves of a line
    stop_at.clear()
    resumed = study.run([claim], tmp_path / "killed", "full")["fake"]
    assert measured == [0, 1, 2, 3, 4, 5]  # nothing twice
    assert resumed.rows == whole.rows and journal(tmp_path / "killed") == journal(tmp_path / "whole")
    assert whole.rows[2]["gone"] is None and whole.rows[1]["list"] == [0.0, 0.1, 0.2]
    measured.clear()
    study.run([claim], tmp_path / "whole", "full")
    assert measured == []


@pytest.mark.slow  # two processes that import torch
def test_two_workers_measure_the_same(tmp_path):
    claim = fake_claim(measure=dict)  # a function that a new process knows
    one, two = (study.run([claim], tmp_path / str(n), "full", workers=n)["fake"] for n in (1, 2))
    assert one.rows == two.rows and len(one) == 6
    assert journal(tmp_path / "1") == journal(tmp_path / "2")


def test_records_of_other_cases_do_not_count(tmp_path):
    study.run([fake_claim(cases=4)], tmp_path, "full")
    assert not study.complete(fake_claim(cases=6), tmp_path, "full")
    assert len(study.stored(fake_claim(cases=3), tmp_path, "full")) == 3
    with pytest.raises(ProblemError, match="profile"):
        study.run([fake_claim()], tmp_path, "half")


def test_pages_escape_what_tables_read(tmp_path):
    claim = fake_claim()
    study.run([claim], tmp_path, "full")
    found = study.write([claim], tmp_path, "full")
    assert found["fake"].verdict == "supported"
    page = (tmp_path / "claims" / "01-fake.md").read_text()
    assert page.startswith("# 1. squares add up") and "**Supported.** the sum is 55" in page
    assert "![fake](images/01-fake.png)" in page and (tmp_path / "claims" / "images" / "01-fake.png").exists()
    assert store.read_json(tmp_path / "verdicts.json") == {"fake": "supported"}
    assert reporting._table(("a|b",), [("c\nd",)]) == ["| a\\|b |", "| --- |", "| c d |"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_claims(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    claims = {"fake": fake_claim(), "other": fake_claim(number=2, name="other")}
    monkeypatch.setattr(study, "CLAIMS", claims)
    return claims


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["study", *arguments])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_command_lists_measures_and_reports(two_claims, capsys, tmp_path):
    code, out, _ = command(capsys)
    assert code == 0 and "fake" in out and "squares add up" in out and "supported" not in out
    code, out, _ = command(capsys, "2", "--profile", "full", "--report", "all.html")
    assert code == 0 and "the sum is 55" in out and (tmp_path / "study" / "claims" / "02-other.md").exists()
    assert "squares add up" in (tmp_path / "all.html").read_text()
    assert not (tmp_path / "study" / "claims" / "01-fake.md").exists()
    code, out, _ = command(capsys, "--profile", "full", "--json")
    facts = {claim["name"]: claim for claim in json.loads(out)["claims"]}
    assert code == 0 and facts["fake"]["verdict"] is None and facts["other"]["verdict"] == "supported"
    assert store.read_json(tmp_path / "study" / "verdicts.json") == {"other": "supported"}
    command(capsys, "all", "--profile", "full", "-q")
    assert set(store.read_json(tmp_path / "study" / "verdicts.json")) == {"fake", "other"}


def test_an_interrupted_command_says_how_to_go_on(two_claims, capsys, tmp_path):
    stop_at.add(4)
    code, _, err = command(capsys, "fake", "--profile", "full", "--out", "here")
    assert code == 130 and "4 of 6" in err
    again = "study fake --profile full --out here"
    assert f"surrogate {again}" in err
    stop_at.clear()
    code, out, _ = command(capsys, *again.split()[1:])
    assert code == 0 and "supported" in out and measured == [0, 1, 2, 3, 4, 5]


def test_a_number_that_theory_contradicts_ends_the_command_with_its_code(two_claims, capsys, monkeypatch):
    finding = Finding("supported", "so", ("a",), (), (Check("the limit", 3.0, 2.0, 0.1),))
    broken = fake_claim()
    object.__setattr__(broken, "judge", lambda records: finding)
    monkeypatch.setattr(study, "CLAIMS", {"fake": broken})
    code, _, err = command(capsys, "fake")
    assert code == 6 and "the limit is 3, theory gives 2" in err


def test_an_unknown_claim_is_named_with_its_neighbour():
    with pytest.raises(ProblemError, match="Did you mean 'sharpness'"):
        study.chosen(["sharpnes"])
    assert [claim.number for claim in study.chosen(["16", "step-size"])] == [1, 16]
    assert study.chosen(["all"]) == list(CLAIMS.values())


# --- statistics -----------------------------------------------------------------------------------------------------


def test_the_interval_of_paired_ratios_covers():
    """Logarithms of pairs are normal here, so Student's interval is exact: 95 % within five standard deviations."""
    rng, runs, held = np.random.default_rng(0), 1500, 0
    for _ in range(runs):
        common = rng.lognormal(sigma=2.0, size=5)  # what both share: pairing removes it
        a, b = 1.3 * common * rng.lognormal(sigma=0.3, size=5), common * rng.lognormal(sigma=0.3, size=5)
        found = compare(dict(enumerate(a)), dict(enumerate(b)))
        held += found.low <= 1.3 <= found.high
    assert abs(held - 0.95 * runs) < 5 * math.sqrt(0.95 * 0.05 * runs)


def test_failures_are_counted_and_not_averaged():
    found = compare({0: 1.0, 1: math.nan, 2: 4.0, 3: 1.0}, {0: 2.0, 1: 1.0, 2: 8.0, 3: math.inf, 9: 1.0})
    assert (found.ratio, found.seeds, found.lost, found.won) == (pytest.approx(0.5), 2, 1, 1)
    assert found.smaller and not found.larger and found.within(3)
    one = compare({0: 1.0}, {0: 2.0})
    assert not one.smaller and one.high == math.inf
    assert str(compare({0: math.nan}, {0: 1.0})) == "no finite pair"
    assert spread(np.array([1.0, 3.0, math.nan])) == "2 ± 1 (1 failed)"
    mean, low, high = interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0 and high - mean == pytest.approx(mean - low) == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_records_select_and_refuse_what_is_not_one_variant():
    records = Records([{"a": 1, "seed": 0, "x": 2.0}, {"a": 2, "seed": 0, "x": None}])
    assert records.by_seed("x", a=1) == {0: 2.0} and math.isnan(records.by_seed("x", a=2)[0])
    with pytest.raises(ProblemError, match="several rows"):
        records.by_seed("x")


# --- the parallel ---------------------------------------------------------------------------------------------------


def test_the_hessian_of_a_linear_network_is_that_of_least_squares():
    """Mean square of n x m residuals X W' + b: the Hessian is 2/(n m) X'X for each of m outputs, with a column of ones."""
    import torch

    from surrogate.study.parallel import hessian_spectrum

    torch.manual_seed(0)
    x, net = torch.randn(7, 3), torch.nn.Linear(3, 2)
    found = hessian_spectrum(net, lambda: net(x).square().mean())
    design = np.column_stack([x.numpy(), np.ones(7)]).astype(float)
    expected = np.sort(np.tile(np.linalg.eigvalsh(2 / 14 * design.T @ design), 2))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_both_halves_of_the_parallel_lose_the_modes_that_their_limit_says(monkeypatch, tmp_path):
    from surrogate.study import parallel

    curvature = np.array([-0.2, 0.1, 1.0, 1.9, 2.0])
    monkeypatch.setattr(parallel, "trained_network", lambda: ())
    monkeypatch.setattr(parallel, "hessian_spectrum", lambda: curvature)
    figure = parallel.draw(tmp_path / "parallel.png")
    panels = [ax for part in figure.subfigs for ax in part.axes if ax.get_title()]
    lost = {
        ax.get_title(): sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "x") for ax in panels
    }
    rates = 4 * 24**2 * np.sin(np.arange(1, 25) * np.pi / 48) ** 2
    assert lost["FTCS (forward Euler)"] == np.sum(parallel.BEYOND * rates / rates[-1] > 1)
    assert lost["RKL2 (Legendre), 5 stages"] == 0
    # descent loses what lies beyond 2 / lr, and all of them the direction that curves down
    assert lost["gradient descent"] == 1 + np.sum(parallel.BEYOND * curvature / curvature[-1] > 1)
    assert lost["heavy ball, β = 0.5"] == lost["drag 1"] == 1
    assert (tmp_path / "parallel.png").stat().st_size > 10_000


def test_pages_of_the_quick_profile_say_how_little_they_show():
    claim = next(iter(study.CLAIMS.values()))
    finding = claim.judge(study.stored(claim, HOME, "full"))
    assert study.QUICK_CAVEAT in study.page(claim, finding, None, "quick")
    assert study.QUICK_CAVEAT not in study.page(claim, finding, None)
