"""Evaluation: errors as defined, baselines that are what they say, reports that repeat byte for byte, the command line."""

import json
import math

import numpy as np
import pytest

import diffsim as ds
import surrogate as sg
from surrogate import baselines
from surrogate.sampling import Spec
from tests.test_certificate import Frames, Known


@pytest.fixture(scope="module")
def darcy(tmp_path_factory):
    return sg.generate("darcy", tmp_path_factory.mktemp("darcy") / "data", count=60, resolution=16, seed=1)


@pytest.fixture(scope="module")
def transients(tmp_path_factory):
    spec = {"base": "transient", "name": "t", "frames": 5, "ndim": 1}
    return sg.generate(spec, tmp_path_factory.mktemp("transient") / "data", count=40, resolution=16, seed=1)


class Scaled(Known):
    """Off by a known factor: relative errors are known in every norm."""

    def fields(self, problems, batch=16):
        return 1.02 * super().fields(problems)


class Labels:
    """A "model" that has learned the labels by heart."""

    task, card = "coefficients", None

    def __init__(self, data):
        self.known = {item.problem.diffusivity.tobytes(): item.u for item in data}

    def fields(self, problems, batch=16):
        return np.stack([self.known[p.diffusivity.tobytes()] for p in problems])


def test_a_known_relative_error_is_reported_in_every_norm_and_statistic(darcy):
    report = sg.evaluate(Scaled(), darcy)
    assert report.items == len(darcy.split["test"])
    for norm in ("l2", "energy"):
        for statistic in ("mean", "median", "p95", "worst"):
            assert report.errors[norm][statistic] == pytest.approx(0.02, rel=1e-6)


def test_certificates_are_never_violated_and_counted(darcy):
    certificate = sg.evaluate(Known(0.05), darcy, part=None, tol=0.2).certificate
    assert certificate["violations"] == 0
    assert certificate["energy_ratio"] >= 1
    assert 0 <= certificate["accepted"] <= 1


def test_baselines_are_in_the_table_and_better_ones_are_better(darcy):
    report = sg.evaluate(Known(0.01), darcy)
    errors = {name: row["l2"]["mean"] for name, row in report.baselines.items()}
    assert errors["coarse solve (2x)"] < errors["POD + ridge"] < errors["training mean"]
    assert errors["solver at equal error"] <= report.errors["l2"]["mean"]
    for name in report.baselines:
        assert name in report.table()


def test_a_report_repeats_byte_for_byte_apart_from_timing(darcy, tmp_path):
    contents = []
    for k in range(2):
        path = tmp_path / f"{k}.json"
        sg.evaluate(Known(0.05), darcy).save(path)
        contents.append(json.loads(path.read_text()))
        contents[-1].pop("timing")
    assert json.dumps(contents[0]) == json.dumps(contents[1])


def test_break_even_is_cost_over_saving():
    report = sg.Report("", 1, {}, {}, None, None, None, [], [], {"solver_batched": 3.0, "surrogate_batched": 1.0})
    assert math.isnan(report.break_even)
    report.timing.update(training=50.0, labels=10.0)
    assert report.break_even == pytest.approx(30.0)
    report.timing.update(surrogate_batched=4.0)
    assert report.break_even == math.inf
    assert math.isnan(report.break_even_single)
    report.timing.update(surrogate_single=2.0, solver_single=12.0)
    assert report.break_even_single == pytest.approx(6.0)


def test_a_model_that_predicts_nan_is_infinitely_wrong(darcy):
    report = sg.evaluate(Known(answer=np.nan), darcy)
    assert report.errors["l2"]["mean"] == report.errors["l2"]["worst"] == math.inf
    assert report.certificate["accepted"] == 0
    assert "inf" in json.dumps(report.as_dict()["errors"])


def test_labels_of_finer_grids_report_both_targets(tmp_path):
    data = sg.generate("darcy", tmp_path / "data", count=12, resolution=8, seed=0, labels="restricted-fine")
    report = sg.evaluate(Known(), data, part=None)  # predicts the grid's own equilibria
    assert report.same_grid["l2"]["worst"] < 1e-9
    assert "solver at equal error" in report.baselines
    better = sg.evaluate(Labels(data), data, part=None)
    assert better.baselines["solver on the same points"]["l2"]["mean"] == pytest.approx(
        report.label_error["l2"]["mean"], rel=1e-3
    )
    assert math.isnan(better.break_even)
    assert report.errors["l2"]["mean"] == pytest.approx(report.label_error["l2"]["mean"], rel=1e-6)
    assert report.certificate["violations"] == 0


def test_transients_are_compared_with_extrapolation(transients):
    report = sg.evaluate(Frames(), transients)
    assert report.certificate is None
    assert report.baselines["last frame"]["l2"] == report.errors["l2"]
    assert {"training mean", "exponential extrapolation", "nearest neighbour"} <= set(report.baselines)


def test_exponential_extrapolation_is_exact_for_one_exponential_per_point(transients):
    rng = np.random.default_rng(0)
    limit, start, ratio = rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), rng.uniform(0.2, 0.85, size=(3, 8))
    frames = np.stack([limit + start * ratio**k for k in range(6)], axis=1)
    np.testing.assert_allclose(baselines._limit(frames, 0.9), limit, atol=1e-12)
    whole = limit[:, None] + start[:, None] * 0.7 ** np.arange(6)[None, :, None]
    np.testing.assert_allclose(baselines._limit(whole, 0.99, whole=True), limit, atol=1e-12)


def test_ridge_recovers_a_linear_map():
    rng = np.random.default_rng(0)
    grid = ds.Grid(shape=(6,), lengths=(1.0,))
    sides = {"x": ds.Dirichlet(0.0)}
    problems = [ds.Problem(grid, diffusivity=1.0, source=rng.normal(size=6), boundary=sides) for _ in range(40)]
    data = sg.Dataset.from_arrays(problems, np.stack([s.u for s in ds.equilibrium(problems, tol=1e-12)]))
    items = [data[i] for i in range(30, 40)]
    predicted = baselines.pod_ridge(data.arrays(range(30)), items)
    np.testing.assert_allclose(predicted, [item.u for item in items], rtol=0, atol=1e-5)


def test_the_penalty_of_the_ridge_is_the_best_by_leaving_one_out():
    """The closed form of all residuals against fits that each leave one item out, intercept included."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5))
    y = x @ rng.normal(size=(5, 3)) + 2.0 * rng.normal(size=(12, 3))
    scale = ((x - x.mean(axis=0)) ** 2).sum() / 12

    def fit(x, y, ridge):
        centered = x - x.mean(axis=0)
        weights = np.linalg.solve(centered.T @ centered + ridge * scale * np.eye(5), centered.T @ (y - y.mean(axis=0)))
        return lambda new: y.mean(axis=0) + (new - x.mean(axis=0)) @ weights

    def left_out(ridge):
        rows = [np.delete(np.arange(12), i) for i in range(12)]
        return sum(float(((fit(x[r], y[r], ridge)(x[i]) - y[i]) ** 2).sum()) for i, r in enumerate(rows))

    best = min(baselines._RIDGES, key=left_out)
    assert baselines._RIDGES[0] < best < baselines._RIDGES[-1]
    np.testing.assert_allclose(baselines.fit_ridge(x, y)(x), fit(x, y, best)(x), rtol=1e-9)


def test_the_nearest_neighbour_of_a_training_item_is_itself(darcy):
    items = [darcy[i] for i in (3, 5)]
    np.testing.assert_array_equal(
        baselines.nearest_neighbour(darcy.arrays([1, 3, 5, 7]), items), [items[0].u, items[1].u]
    )


def test_interpolation_and_means_keep_linear_fields():
    x = np.add.outer(np.arange(8.0), 2 * np.arange(8.0))
    np.testing.assert_allclose(baselines._interpolated(baselines._means(x, 2), (8, 8)), x, atol=1e-12)


def test_coarsening_keeps_what_it_can_and_refuses_the_rest():
    problem = Spec.of("mixed").problem(0, 0, 8)
    coarse = baselines.coarsened(problem, 2)
    assert coarse.grid.shape == (4, 4)
    assert float(np.mean(coarse.source.steady)) == pytest.approx(float(np.mean(problem.source.steady)))
    with pytest.raises(ds.ProblemError, match="divide"):
        baselines.coarsened(Spec.of("mixed").problem(0, 0, 9), 2)
    void = np.ones((8, 8), dtype=bool)
    void[2, 2] = False
    with pytest.raises(ds.ProblemError, match="voids"):
        baselines.coarsened(problem.with_(active=void), 2)


TINY = {"width": 4, "cycles": 1, "levels": 2, "depth": 1, "coarse": 1, "progress": False, "epochs": 1, "items": 10}


@pytest.fixture(scope="module")
def trained(darcy):
    return [sg.train(darcy, seed=seed, **TINY) for seed in (0, 1)]


def test_on_its_own_data_a_model_meets_the_test_split_and_on_other_data_all_of_it(darcy, trained, tmp_path):
    own = sg.evaluate(trained[0], darcy)
    assert own.items == len(darcy.split["test"]) < len(darcy)
    assert own.notes == []
    other = sg.generate("darcy", tmp_path / "other", count=6, resolution=16, seed=2)
    report = sg.evaluate(trained[0], other, train=darcy)
    assert report.items == 6
    assert "no item of these data was in the training: all 6 are used" in report.table()
    assert {"training mean", "POD + ridge"} <= set(report.baselines)
    bare = sg.evaluate(trained[0], other, part="validation")
    assert bare.items == len(other.split["validation"])


def test_what_a_model_has_seen_is_found_at_other_resolutions_and_in_copies(darcy, trained, tmp_path):
    finer = sg.generate("darcy", tmp_path / "finer", count=60, resolution=20, seed=1)  # the same media
    report = sg.evaluate(trained[0], finer, most=3)
    seen = set(darcy.split["train"][:10]) | set(darcy.split["validation"])
    test = [int(i) for i in finer.split["test"]]
    if set(test) & seen:  # splits are drawn anew at every resolution
        assert (
            f"{len(set(test) & seen)} items of the test split are problems that the training has seen" in report.table()
        )
    assert not set(report.worst_items) & seen
    assert "no item of these data" not in report.table()
    copies = darcy.subset(darcy.split["train"][:10])  # the same pairs, given by hand
    assert "training has seen all items" in sg.evaluate(trained[0], copies, most=2).table()


def test_several_seeds_are_reported_by_mean_and_spread(darcy, trained):
    alone = [sg.evaluate(model, darcy, most=3) for model in trained]
    report = sg.evaluate(trained, darcy, most=3)
    for norm in ("l2", "energy"):
        for statistic in ("mean", "median", "p95", "worst"):
            values = [one.errors[norm][statistic] for one in alone]
            assert report.errors[norm][statistic] == pytest.approx(np.mean(values), rel=1e-12)
            assert report.spread[norm][statistic] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
            assert report.spread[norm][statistic] > 0
    assert [one["l2"] for one in report.each] == [one.errors["l2"] for one in alone]
    assert "surrogate, mean of 2" in report.table()
    assert report.certificate["violations"] == 0
    with pytest.raises(ds.ProblemError, match="empty list"):
        sg.evaluate([], darcy)
    with pytest.raises(ds.ProblemError, match="different tasks"):
        sg.evaluate([trained[0], Frames()], darcy)


def test_the_solver_is_met_at_equal_error_and_equal_time_alone_and_in_batches(darcy, monkeypatch):
    """With a clock that ticks when it is read, every stretch takes a second: the solver goes as far as it can."""
    report = sg.evaluate(Known(0.05), darcy, most=2)
    t = report.timing
    assert {"solver_single", "solver_batched", "surrogate_single", "surrogate_batched"} <= t.keys()
    for line in ("solver at equal error", "solver at equal time", "alone", "batched", "break-even"):
        assert line in report.table()
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    t = sg.evaluate(Known(0.05), darcy, most=2).timing
    assert t["solver_equal_time_l2"] < 1e-3  # a residual of 1e-6 leaves a smaller error
    assert t["solver_equal_time_single_l2"] < 1e-3


def test_too_few_items_for_a_test_split_are_used_whole_and_it_says_so():
    problem = Spec.of("darcy").problem(0, 0, 8)
    pair = sg.Dataset.from_arrays([problem, problem], np.stack([ds.equilibrium(problem).u] * 2))
    report = sg.evaluate(Known(), pair)
    assert report.items == 2
    assert "training may have seen them" in report.table()


def test_model_and_data_of_different_tasks_are_refused(darcy):
    with pytest.raises(ds.ProblemError, match="task"):
        sg.evaluate(Frames(), darcy)
    with pytest.raises(ds.ProblemError, match="choose one of train, validation, test"):
        sg.evaluate(Known(), darcy, part="tset")


def run(*arguments):
    from surrogate.cli import main

    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code


def test_the_command_line_goes_from_nothing_to_a_certified_prediction(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("generate", "darcy", "data", "--count", 12, "--resolution", 8, "--json") == 0
    assert json.loads(capsys.readouterr().out)["items"] == 12
    assert run("verify", "data", "--sample", 4) == 0
    (tmp_path / "data/manifest.json").unlink()
    assert run("verify", "data") == 4
    assert run("verify", "data", "--repair", "--sample", 4) == 0
    assert run("export", "data", "data.h5", "--layout", "pdebench") == 0
    options = ("--epochs", 1, "--set", "batch=4", "--quiet", "--json")
    assert run("train", "data", "model", *options) == 0
    capsys.readouterr()
    assert run("evaluate", "model", "data", "--part", "all", "--out", "report.json", "--quiet") == 0
    assert "coarse solve" in capsys.readouterr().out
    (tmp_path / "problem.toml").write_text(
        "[grid]\nshape = [8, 8]\nlengths = [1.0, 1.0]\n[problem]\ndiffusivity = 3.0\nsource = 1.0\n"
        '[boundary]\nx = {kind = "value", value = 0.0}\ny = {kind = "value", value = 0.0}\n'
    )
    assert run("predict", "model", "problem.toml", "--refine", "--tol", 1e-6, "--out", "u.npy", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accepted"]
    assert answer["l2_relative"] <= 1e-6
    assert np.load("u.npy").max() == pytest.approx(answer["max"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("generate", "darci", "data"), 3, "Did you mean 'darcy'"),
        (("generate", "darcy", "data", "--labels", "fine"), 3, "restricted-fine"),
        (("generate", "darcy", "data", "--set", "sorce=one"), 3, "Did you mean 'source'"),
        (("generate", "darcy", "data", "--count", "1e3"), 2, "int"),
        (("verify", "nowhere"), 4, "nowhere"),
        (("train", "nowhere", "model"), 4, "nowhere"),
        (("evaluate", "nowhere", "data"), 4, "nowhere"),
    ],
)
def test_mistakes_on_the_command_line_end_with_their_code_and_write_nothing(
    tmp_path, capsys, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_specs_are_listed(capsys):
    assert run("specs") == 0
    assert "transient-sensors" in capsys.readouterr().out


def test_the_ladder_measures_every_rung():
    rungs = sg.ladder(Scaled(), count=2, resolution=8)
    assert len({rung.name for rung in rungs}) == len(rungs) > 8
    for rung in rungs:
        assert rung.errors["l2"]["worst"] == pytest.approx(0.02, rel=1e-5)
    with pytest.raises(ds.ProblemError, match="known problems"):
        sg.ladder(Frames())
