"""The learned forecaster: exact where linear algebra says so, free of units, with intervals that cover what is new."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import diffsim as ds
from diffsim import store
from scripts import forecast_rod as forecast_rod_script
from scripts import forecast_table as forecast_table_script
from surrogate import gaussian
from surrogate.conformal import coverage_band
from surrogate.forecast import Calibration, Examples, Forecaster, Kind, Learned, examples, finished, observed, shares
from surrogate.forecast_table import ALL, LEARNED, Plan, compared, coverage, document, material, overall, summary, wins
from surrogate.gaussian import NODES, Gaussians, interpolation, learn, nodes, transients
from surrogate.sampling import Spec

LINE = Spec.of({"base": "transient", "name": "line", "ndim": 1})
MEDIA = (40, 20, 6, 40)


@pytest.fixture(scope="module")
def kind():
    return Kind(LINE, 16, 0)


@pytest.fixture(scope="module")
def made(kind):
    """A forecaster of 1-D transients, small enough for a test."""
    moments, network, choice, held_out = shares(MEDIA)
    gaussians = learn(*kind.items(moments), factors=40)
    data = Examples(kind.prior, examples(kind, gaussians, network), examples(kind, gaussians, choice))
    sizes = {"width": 8, "cycles": 1, "levels": 2, "depth": 1, "epochs": 6, "progress": False}
    return finished(kind, gaussians, data, held_out, 0, "multigrid", None, None, **sizes)


@pytest.fixture(scope="module")
def query(kind):
    (problem,), (start,) = kind.items([500])
    return observed(problem, start, np.random.default_rng(1), 0.4, 0.01, 6)


# --- transients and their moments ---------------------------------------------------------------------------------------


def test_transients_are_those_that_the_simulator_steps_through(kind):
    (problem,), (start,) = kind.items([3])
    frames, ends, rate = transients(problem, [start], [problem.source.steady], np.array([0.5]), np.linspace(0, 1, 4))
    run = ds.simulate(problem, start, 0.5 / rate, scheme="krylov", save=4)
    np.testing.assert_allclose(frames[0, 0], run.u, rtol=0, atol=1e-6 * np.abs(run.u).max())
    np.testing.assert_allclose(ends[0], ds.equilibrium(problem, tol=1e-12).u, rtol=1e-9)
    assert rate == pytest.approx(1 / ds.time_to_equilibrium(problem, tol=math.exp(-1)), rel=1e-6)


def test_times_between_the_nodes_are_interpolated_exactly_for_polynomials_in_their_root(rng):
    coefficients, times = rng.normal(size=NODES), rng.uniform(size=9)
    values = lambda t: np.polynomial.polynomial.polyval(np.sqrt(t), coefficients)  # noqa: E731
    np.testing.assert_allclose(interpolation(times) @ values(nodes()), values(times), rtol=0, atol=1e-11)
    np.testing.assert_allclose(interpolation(nodes()), np.eye(NODES), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def alike():
    """Moments that are the same for every fraction: one Gaussian."""
    rng = np.random.default_rng(2)
    factors = rng.normal(size=(1, NODES + 1, 5, 7)).astype(np.float32)
    count = len(gaussian.FRACTIONS)
    return Gaussians((5,), np.repeat(factors, count, axis=0), np.zeros((count, 2)))


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "readings missing"])
def test_the_answer_is_the_conditional_mean_of_a_gaussian(alike, rng, gaps):
    """``C_uy (C_yy + noise^2)^-1 y`` by the dense formula; members have unit size, so moments take that of the readings."""
    times, noise = np.linspace(0.0, 2.0, 8), 0.3
    frames = rng.normal(size=(8, 5))
    frames[:, 1] = np.nan
    if gaps:
        frames[3, 2] = frames[0, 4] = np.nan
    x = math.sqrt(np.nanmean(frames**2) - noise**2) * alike.factors[0].astype(float)
    response = np.tensordot(interpolation(times / 2), x[:-1], 1)
    kept = ~np.isnan(frames)
    b = response[kept]
    inverse = np.linalg.inv(b @ b.T + noise**2 * np.eye(kept.sum()))
    found = alike.given(times, frames, noise)
    np.testing.assert_allclose(found.u, x[-1] @ b.T @ inverse @ frames[kept], rtol=0, atol=1e-5)
    covariance = x[-1] @ (np.eye(7) - b.T @ inverse @ b) @ x[-1].T
    np.testing.assert_allclose(found.spread, np.sqrt(np.diag(covariance)), rtol=1e-4)


def test_fractions_are_weighted_by_how_likely_they_make_the_readings(alike, rng):
    """Weights by the density of a multivariate normal; frames at more times than nodes leave a part that no mode explains."""
    count = len(gaussian.FRACTIONS)
    rest = np.linspace(0.2, 0.05, count)
    growth = 1 + 0.1 * np.arange(count)[:, None, None, None]
    several = Gaussians((5,), alike.factors * growth.astype(np.float32), np.outer(rest, [1.0, 0.0]))
    times, noise = np.linspace(0.0, 1.0, NODES + 3), 0.5
    frames = np.full((times.size, 5), np.nan)
    frames[:, [0, 3]] = 0.5 * rng.normal(size=(times.size, 2)) + 1.0
    kept = ~np.isnan(frames)
    size = math.sqrt(np.nanmean(frames**2) - noise**2)
    density = []
    for factors, left in zip(several.factors.astype(float), rest, strict=True):
        b = np.tensordot(interpolation(times), factors[:-1], 1)[kept]
        covariance = b @ b.T + ((noise / size) ** 2 + left**2) * np.eye(kept.sum())
        density.append(multivariate_normal(cov=covariance).logpdf(frames[kept] / size))
    weights = np.exp(np.array(density) - max(density))
    expected = np.exp(weights @ np.log(gaussian.FRACTIONS) / weights.sum())
    assert np.sort(weights)[-2] > 0.1  # more than one fraction counts
    assert several.given(times, frames, noise).fraction == pytest.approx(expected, rel=0.01)


def test_moments_of_few_members_hold_these_members(kind):
    """With as many factors as members nothing is left out: their second moments are the sample's."""
    problems, starts = kind.items(range(6))
    found = learn(problems, starts, partners=1, factors=50)
    assert found.factors.shape == (len(gaussian.FRACTIONS), NODES + 1, 16, 6)
    # what is left is the difference of squares in single precision
    assert (found.rest**2).max() < 1e-6 * (found.factors**2).sum(axis=-1).max()
    frames, ends, _ = transients(problems[0], starts[:1], [problems[0].source.steady], gaussian.FRACTIONS[:1], nodes())
    member = np.concatenate([frames[0, 0], ends]) / np.sqrt((frames**2).mean())
    flat = found.factors[0].reshape(-1, 6)
    left = member.ravel() - flat @ np.linalg.lstsq(flat, member.ravel(), rcond=None)[0]
    assert np.linalg.norm(left) < 1e-3 * np.linalg.norm(member)


# --- the forecaster -----------------------------------------------------------------------------------------------------


def test_answers_follow_the_units_of_readings_and_time(made, query):
    one = made.forecast(query.times, query.frames)
    other = made.forecast(60 * query.times, 2e3 * query.frames)
    np.testing.assert_allclose(other.u, 2e3 * one.u, rtol=0, atol=1e-3 * np.abs(other.u).max())
    np.testing.assert_allclose(other.spread, 2e3 * one.spread, rtol=1e-3)
    assert other.forecast.rate == pytest.approx(one.forecast.rate / 60, rel=1e-6)


def test_observations_are_answered_with_field_interval_and_time(made, query, kind):
    cells = np.flatnonzero(~np.isnan(query.frames[0]))
    points = [(kind.grid.centers[0][i],) for i in cells]
    seen = ds.Observations(points, query.times, query.frames[:, cells])
    p = made.predict(seen, grid=kind.grid)
    np.testing.assert_array_equal(p.u, made.forecast(query.times, query.frames).u)
    assert p.bound is None
    assert not p.accepted
    assert p.interval.kind == "statistical"
    assert "no guarantee" in str(p.interval)
    assert (p.interval.cells[0] < p.u).all()
    assert (p.u < p.interval.cells[1]).all()
    assert p.interval.rate[0] < p.forecast.rate < p.interval.rate[1]
    assert query.times[-1] < p.forecast.time(1e-3) < math.inf
    twice = ds.Grid(shape=(16,), lengths=(2.0,))  # a bar twice as long is the same bar in another unit
    further = ds.Observations([(2 * x,) for (x,) in points], query.times, query.frames[:, cells])
    np.testing.assert_array_equal(made.predict(further, grid=twice).u, p.u)
    several = made.predict([(query.times, query.frames), (query.times, query.clean)])
    np.testing.assert_array_equal(several[0].u, p.u)
    with pytest.raises(ds.ProblemError, match="was trained on"):
        made.predict(ds.Observations([(0.5,)], query.times, query.frames[:, cells[:1]]), grid=ds.Grid((12,), (1.0,)))


def test_readings_may_come_and_go(made, query):
    """Means given some and all readings differ by less than the spread: its square is the difference of the variances."""
    frames = query.frames.copy()
    for k, i in np.argwhere(~np.isnan(frames))[::7]:
        frames[k, i] = np.nan
    noise = query.noise * np.abs(query.u).max()
    whole, some = (made.gaussians.given(query.times, given, noise) for given in (query.frames, frames))
    assert 0 < np.linalg.norm(some.u - whole.u) < np.linalg.norm(some.spread)
    assert np.isfinite(made.forecast(query.times, frames).u).all()


def test_what_is_saved_answers_the_same(made, query, tmp_path):
    made.save(tmp_path / "f")
    again = Forecaster.load(tmp_path / "f")
    one, other = (f.predict((query.times, query.frames)) for f in (made, again))
    np.testing.assert_array_equal(one.u, other.u)
    assert one.interval.l2_relative == other.interval.l2_relative
    with pytest.raises(ds.errors.StoreError):
        Forecaster.load(tmp_path)


def test_sparse_noisy_sensors_are_where_moments_pay(made):
    """Unseen lines, 4 sensors, 1 % noise: better than standing still and than what looks at frames alone. (Twenty examples
    do not train a network; what it adds is measured in docs/forecast_table.md.)"""
    rng = np.random.default_rng(4)
    unseen = Kind(LINE, 16, 9)
    rows = [
        compared(made, observed(problem, start, rng, 0.3, 0.01, 4))
        for problem, start in zip(*unseen.items(range(12)), strict=True)
    ]
    median = {name: np.median([row[name][0] for row in rows]) for name in rows[0] if name != "covered"}
    for name in ("last frame", "exponential", "aitken", "reduced-rank", "dynamic-modes"):
        assert median["learned-linear"] < 0.8 * median[name]


def inside(made, calibration, queries):
    """How many queries lie in their 90 % interval of the whole field, and the mean share of cells in theirs."""
    fields, cells = 0, []
    for query in queries:
        answer = made.forecast(query.times, query.frames)
        interval = calibration.interval(answer)
        fields += np.linalg.norm(answer.u - query.u) <= interval.l2_relative * np.linalg.norm(query.u)
        cells.append(((interval.cells[0] <= query.u) & (query.u <= interval.cells[1])).mean())
    return int(fields), float(np.mean(cells))


def test_intervals_cover_unseen_transients_as_often_as_they_say(made):
    new = list(Kind(LINE, 16, 77).queries(range(50)))
    fields, cells = inside(made, made.calibration, new)
    low, high = coverage_band(0.9, len(made.calibration.l2), len(new))
    assert low <= fields <= high
    assert 0.8 < cells < 0.98


def test_calibrating_on_what_was_learned_from_is_caught(kind):
    """The planted fault: a small ensemble recognises its own members, and is far more certain of them than it should be."""
    few = range(30)
    gaussians = learn(*kind.items(few), partners=1, factors=30)

    def answered(seed, numbers):
        """(forecasts, queries) of whole frames without noise, over a fraction that the moments were taken at."""
        rng = np.random.default_rng(seed)
        queries = [
            observed(problem, start, rng, gaussian.FRACTIONS[4], 0.0, 16)
            for problem, start in zip(*Kind(LINE, 16, seed).items(numbers), strict=True)
        ]
        posteriors = [gaussians.given(q.times, q.frames, 1e-3 * np.abs(q.u).max()) for q in queries]
        return [Learned(p.u, np.ones(16), p.forecast(), p) for p in posteriors], queries

    def covered(calibration):
        limits = [calibration.interval(made).l2_relative for made in new[0]]
        return sum(
            np.linalg.norm(made.u - q.u) <= limit * np.linalg.norm(q.u)
            for made, q, limit in zip(*new, limits, strict=True)
        )

    new = answered(78, range(60))
    assert covered(Calibration.of(*answered(0, few))) < coverage_band(0.9, 30, 60)[0]
    low, high = coverage_band(0.9, 50, 60)
    assert low <= covered(Calibration.of(*answered(79, range(50)))) <= high


@pytest.mark.parametrize("spec", ["darcy", "mixed"])
def test_kinds_without_frames_or_with_unknown_sides_are_refused(spec):
    with pytest.raises(ds.ProblemError, match="sides are known"):
        Kind(Spec.of(spec))


@pytest.mark.parametrize(
    ("times", "frames", "word"),
    [
        (np.arange(4.0), np.ones((4, 12)), "was learned on"),
        (np.arange(4.0), np.full((4, 16), np.nan), "no reading"),
        (np.arange(4.0) - 1, np.ones((4, 16)), "count from the start"),
        (np.zeros(1), np.ones((1, 16)), "k >= 2"),
    ],
)
def test_readings_that_say_nothing_are_refused(made, times, frames, word):
    with pytest.raises(ds.ProblemError, match=word):
        made.forecast(times, frames)


# --- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_goes_on_where_it_was_and_says_who_wins(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--out", out, "--resolution", 6, "--media", 12, 4, 3, 8, "--minutes", 0.01, "--seeds", 0, "--plates", 2)
    words += ("--noises", 0, 0.01, "--sensors", 0, 4, "--fractions", 0.3)
    words = [str(word) for word in words]
    rows = forecast_table_script.main(words)
    assert len(rows) == 2 * 2 * 2
    assert "training the network" in capsys.readouterr().out
    (out / "0-rows.jsonl").write_text((out / "0-rows.jsonl").read_text().splitlines()[0] + "\n")
    assert forecast_table_script.main(words) == rows
    said = capsys.readouterr().out
    assert "plate 2 of 2" in said
    assert "plate 1 of 2" not in said
    assert "training" not in said
    assert (out / "forecast_table.md").read_text().count("| 0.3 | 0 % | all |") == 2
    assert (out / "forecast.png").stat().st_size > 5000
    assert len(store.read_json(out / "forecast_table.json")["rows"]) == 8
    with pytest.raises(ds.errors.StoreError, match="another plan"):
        material(Plan(resolution=6), out, print)


def test_tables_say_what_the_rows_hold():
    """Medians over plates, the spread of the seeds' medians, and who is best, from rows made by hand."""
    plan = Plan(noises=(0.0,), sensors=(4,), fractions=(1.0,))
    row = lambda seed, error: {  # noqa: E731
        "seed": seed, "plate": 0, "noise": 0.0, "sensors": 4, "fraction": 1.0, "covered": [error < 0.3, 0.9, True],
        **{name: [0.5, 0.6, None if name == "last frame" else 0.7] for name in ALL}, "learned": [error, 2 * error, 0.1],
    }  # fmt: skip
    rows = [row(0, 0.1), row(1, 0.2), row(2, 0.4)]
    (line,) = summary(rows, plan)
    assert line["errors"]["learned"] == (0.2, 0.1, 0.4)
    assert wins(rows, plan) == {"learned": 1}
    assert "**0.200** | 0.100 to 0.400 |" in document(rows, plan)
    assert coverage(rows) == pytest.approx((2 / 3, 0.9, 1.0))
    assert "last frame" not in summary(rows, plan, of=2)[0]["errors"]


def test_the_tables_in_the_documents_follow_from_their_rows():
    """And so do the sentences of docs/forecast.md: who wins where."""
    docs = Path(__file__).parents[1] / "docs"
    stored = store.read_json(docs / "forecast_table.json")
    plan, rows = Plan(**stored["plan"]), stored["rows"]
    assert len(rows) == 48 * len(plan.seeds) * plan.plates
    assert document(rows, plan) == (docs / "forecast_table.md").read_text()
    means = overall(rows)
    page = (docs / "forecast.md").read_text()
    for group in means.values():
        assert all(f"{error:.3f}" in page for error in group.values())
    for line in summary(rows, plan, of=1):
        best = min(line["errors"], key=lambda name, line=line: line["errors"][name][0])
        if line["noise"] >= 0.01 and line["sensors"]:
            assert best in LEARNED
        if line["fraction"] == 0.1 and not line["sensors"]:
            assert best == "linear-inverse"
    noisy = means["sensors, noise of 1 % and more"]
    others = min(error for name, error in noisy.items() if name not in LEARNED)
    assert 1.7 < others / min(noisy[name] for name in LEARNED) < 2.0
    assert [round(100 * share) for share in coverage(rows)] == [88, 89, 92]


# --- a measured record --------------------------------------------------------------------------------------------------


def test_pulses_of_the_measured_rod_are_continued_by_what_simulated_rods_do(shared_data, capsys):
    """The second half of each heating pulse: the equation wins in all three, learning from simulated rods beats standing still."""
    pulses = (160, 460, 760, 1360, 1660, 1960, 2560, 2860, 3160)
    words = (
        shared_data / "rod" / "rod.csv",
        "--columns",
        2,
        4,
        6,
        8,
        10,
        "--positions",
        0.0502,
        0.1000,
        0.1495,
        0.2008,
        0.2509,
    )
    words += ("--length", 0.30, "--room", 21.63, "--rest", 140, "--rods", 80, "--pulses", *pulses)
    for errors in forecast_rod_script.main([str(word) for word in words]):
        assert min(errors, key=errors.get) == "linear-inverse"
        assert errors["linear-inverse"] < 0.6 * errors["last frame"]
        assert errors["learned-linear"] < 0.85 * errors["last frame"]
    assert capsys.readouterr().out.count(", then to ") == 3


def test_a_rod_heated_at_its_end_is_continued_from_its_log(tmp_path, capsys):
    """A simulated log as CSV: both that know rods come within a tenth of what standing still leaves."""
    times = np.arange(0.0, 601.0, 10.0)
    grid = ds.Grid((60,), (0.3,))
    heated = ds.Problem(grid, 8e-5, loss=1e-3, ambient=20.0, boundary={"x-": ds.Neumann(5e-3)})
    run = ds.simulate(heated, 20.0, 600.0, scheme="krylov", save=times).u[:, [10, 30, 50]]
    noisy = run + 0.02 * np.random.default_rng(0).normal(size=run.shape)
    np.savetxt(tmp_path / "log.csv", np.column_stack([times, noisy]), delimiter=",", header="t,a,b,c", comments="")
    words = (
        tmp_path / "log.csv",
        "--time",
        "t",
        "--columns",
        *"abc",
        "--positions",
        0.0525,
        0.1525,
        0.2525,
        "--length",
        0.3,
    )
    words += ("--room", 20, "--rods", 60, "--pulses", 0, 300, 600)
    (errors,) = forecast_rod_script.main([str(word) for word in words])
    for name in ("linear-inverse", "learned-linear"):
        assert errors[name] < 0.25 * errors["last frame"]
