"""Every script runs with small settings and leaves what it says."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import diffsim as ds
from diffsim import store

SCRIPTS = {path.stem for path in (Path(__file__).parents[1] / "scripts").glob("*.py")} - {"__init__"}
RUN_HERE = {
    "simulate",
    "generate_data",
    "train_surrogate",
    "plot_stability",
    "tune_steps",
    "fit_diffusivity",
    "demo",
    "coarse_pairs",
}
RUN_IN_TEST_APPLICATIONS = {"tortuosity", "wall", "chip", "denoise"}
RUN_IN_TEST_FORECASTER = {"forecast_table", "forecast_rod"}


def run(name: str, *words):
    return importlib.import_module(f"scripts.{name}").main([str(word) for word in words])


def test_every_script_is_run_by_a_test():
    assert SCRIPTS == RUN_HERE | RUN_IN_TEST_APPLICATIONS | RUN_IN_TEST_FORECASTER


def test_simulate(tmp_path, capsys):
    out = tmp_path / "new" / "plate.h5"
    made = run("simulate", "--n-cells", 16, "--until", 0.5, "--out", out)
    assert made.ok and made.t[-1] == 0.5
    assert 20 <= made.final.min() < made.final.max() < 100
    np.testing.assert_array_equal(ds.load(out).u, made.u)
    assert out.with_suffix(".png").stat().st_size > 1000
    assert store.read_json(tmp_path / "new" / "plate.h5.provenance.json")["command"][1:3] == ["--n-cells", "16"]
    assert "largest stable step" in capsys.readouterr().out


def test_plot_stability(tmp_path, capsys):
    verdicts = run("plot_stability", "--n-cells", 20, "--out", tmp_path / "regions.png")
    assert verdicts["ftcs"].stable and verdicts["backward-euler"].stable
    assert (tmp_path / "regions.png").stat().st_size > 1000
    assert not run("plot_stability", "--n-cells", 20, "--dt", 100, "--out", tmp_path / "regions.png")["ftcs"].stable
    assert "UNSTABLE" in capsys.readouterr().out


def test_tune_steps(tmp_path, capsys):
    plan = run("tune_steps", "--n-cells", 12, "--points", 4, "--out", tmp_path / "map.png")
    assert plan.steps * plan.dt == pytest.approx(6 * 3600)
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_fit_diffusivity(tmp_path, capsys):
    """A rod warmed at one end, its log written as CSV: the diffusivity that made it is found."""
    rod = ds.Problem(
        ds.Grid((80,), (0.2,)),
        diffusivity=7e-5,
        loss=1e-3,
        ambient=20.0,
        boundary={"x-": ds.Dirichlet(ds.TimeSeries([0.0, 100.0, 400.0], [20.0, 60.0, 30.0]))},
    )
    places, times = [0.02, 0.08, 0.15], np.linspace(0.0, 600.0, 61)
    sensors = {name: (x,) for name, x in zip("abc", places, strict=True)}
    record = ds.simulate(rod, 20.0, 600.0, scheme="sdirk3", dt=5.0, save=times, probes=sensors).probes
    columns = [np.interp(times, *record[name]) for name in "abc"]
    log = np.column_stack([times, *columns])
    np.savetxt(tmp_path / "log.csv", log, delimiter=",", header="t,a,b,c", comments="")
    words = ("--time", "t", "--columns", *"abc", "--positions", *places, "--ambient", 20, "--out", tmp_path / "fit.png")
    fit = run("fit_diffusivity", tmp_path / "log.csv", *words)
    np.testing.assert_allclose(fit.value, [7e-5, 1e-3], rtol=0.02)
    assert (tmp_path / "fit.png").stat().st_size > 1000 and "95 % interval" in capsys.readouterr().out


def test_generate_data(tmp_path, capsys):
    data = run("generate_data", "--count", 4, "--resolution", 8, "--out", tmp_path / "data")
    assert len(data) == 4 and "wrote 4 items" in capsys.readouterr().out
    assert store.read_json(tmp_path / "data" / "provenance.json")["seed"] == 0


@pytest.mark.slow
def test_train_surrogate(tmp_path, capsys):
    run("generate_data", "--count", 24, "--resolution", 16, "--out", tmp_path / "data")
    report = run("train_surrogate", "--data", tmp_path / "data", "--epochs", 1, "--out", tmp_path / "run")
    assert np.isfinite(report.errors["l2"]["mean"])
    assert "certified relative error" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_leaves_one_report_that_needs_no_network(tmp_path, capsys):
    page = run("demo", "--out", tmp_path, "--minutes", 0.1, "--count", 60, "--resolution", 16)
    text = Path(page).read_text()
    assert text.count("<img") >= 5
    assert 'src="http' not in text and "src='http" not in text


@pytest.mark.slow
def test_coarse_pairs(shared_data, capsys):
    words = ("--minutes", 0.02, "--items", 4, "--draws", 6, "--resolution", 48, "--sweeps", 60)
    found = run("coarse_pairs", "--data", shared_data / "darcy16" / "darcy_train_16.npz", *words)
    assert found["closure 0.02"] < 0.089 < found["fno 0.02"]  # the coarse solve of the published description: 0.089
    assert 0.03 < found["floor"] < found["apart"] < 0.15
    assert "left out: 12" in capsys.readouterr().out
