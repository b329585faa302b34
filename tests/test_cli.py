"""The command line: data on stdout, messages on stderr, exit codes with a meaning, nothing half done."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffsim as ds
from diffsim import cli, console, resources, store, threads

PROBLEM = """
[grid]
shape = [12, 8]
lengths = [1.5, 1.0]
[problem]
diffusivity = 2.0
source = 1.0
[boundary.x-]
kind = "value"
value = 1.0
[boundary."x+"]
kind = "robin"
h = 2.0
ambient = 0.0
[run]
until = 0.05
save = 4
[run.probes]
middle = [0.75, 0.5]
"""


@pytest.fixture
def problem(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plate.toml").write_text(PROBLEM)
    return Path("plate.toml")


@pytest.fixture
def diffsim(capsys, monkeypatch):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threads, "configure_threads", lambda *_: 1)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def in_process(*words, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "diffsim", *words], capture_output=True, text=True, **keywords)


# ---------------------------------------------------------------------------------------------------- start-up


@pytest.mark.parametrize(
    "statement", ["import diffsim", "from diffsim import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass"]
)
def test_importing_and_asking_for_help_load_nothing_heavy(statement):
    heavy = ("torch", "numba", "matplotlib", "scipy", "h5py", "pandas")
    script = f"{statement}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_takes_less_than_half_a_second():
    def used() -> float:  # of the processor: what else the machine does is not the command's fault
        times = os.times()
        return times.children_user + times.children_system

    seconds = []
    for _ in range(3):
        before = used()
        assert in_process("--help").returncode == 0
        seconds.append(used() - before)
    assert min(seconds) < 0.5


def test_the_module_and_the_command_are_the_same():
    module = in_process("--version")
    command = subprocess.run([Path(sys.executable).with_name("diffsim"), "--version"], capture_output=True, text=True)
    assert module.stdout == command.stdout == f"diffsim {ds.__version__}\n"


def test_every_command_explains_itself(diffsim):
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        code, out, _ = diffsim(name, "--help")
        assert code == 0 and command.callback.__doc__.split("\n")[0][:20] in out, name


# ------------------------------------------------------------------------------------------------------ running


def test_a_run_equals_that_of_python(diffsim, problem):
    code, out, err = diffsim("simulate", problem)
    assert code == 0
    assert "finished" in out and "next: diffsim" in err and "grid" in err
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)}
    posed = ds.Problem(ds.Grid((12, 8), (1.5, 1.0)), diffusivity=2.0, source=1.0, boundary=sides)
    expected = ds.simulate(posed, 0.0, until=0.05, save=4)
    np.testing.assert_array_equal(ds.load("plate.h5").u, expected.u)


def test_json_is_one_object_and_nothing_else(diffsim, problem):
    code, out, err = diffsim("simulate", problem, "--json", "--quiet")
    facts = json.loads(out)
    assert code == 0 and err == ""
    assert facts["status"] == "finished" and facts["frames"] == 4 and facts["file"] == "plate.h5"
    assert facts["probes"]["middle"] == ds.load("plate.h5").probes["middle"][1][-1]


def test_nothing_is_overwritten_unless_forced(diffsim, problem):
    assert diffsim("simulate", problem)[0] == 0
    before = store.digest("plate.h5")
    code, out, _ = diffsim("simulate", problem, "--set", "problem.source=5.0")
    assert code == 0 and "plate-2.h5" in out  # the default name makes room
    code, _, err = diffsim("simulate", problem, "--out", "plate.h5")
    assert code == 4 and "--force" in err  # a chosen name is refused
    assert store.digest("plate.h5") == before
    assert diffsim("simulate", problem, "--force", "--set", "problem.source=5.0")[0] == 0
    assert store.digest("plate.h5") != before


def test_a_dry_run_shows_the_numbers_and_writes_nothing(diffsim, problem):
    code, out, _ = diffsim(
        "simulate", problem, "--dry-run", "--json", "-q", "--set", "run.scheme=ftcs", "--set", "run.dt=1e-4"
    )
    facts = json.loads(out)
    verdict = ds.stability(ds.Problem(ds.Grid((12, 8), (1.5, 1.0)), diffusivity=2.0), "ftcs", 1e-4)
    assert code == 0
    assert facts["fourier"] == pytest.approx(verdict.fourier, rel=1e-14)
    assert facts["steps"] == 500 and facts["frames"] == 4 and facts["disk"] == 12 * 8 * 4 * 8
    assert facts["diffusion_time"] == 1.5**2 / 2.0
    assert [p.name for p in Path().iterdir()] == ["plate.toml"]


def test_suspicious_units_are_pointed_out(diffsim, problem):
    for diffusivity, words in ((2e6, "ends in equilibrium"), (1e-9, "next to nothing")):
        _, _, err = diffsim("simulate", problem, "--dry-run", "--set", f"problem.diffusivity={diffusivity}")
        assert f"warning: {words}" in err or words in err
    assert "warning" not in diffsim("simulate", problem, "--dry-run")[2]


def test_a_saved_run_can_be_continued(diffsim, problem):
    diffsim("simulate", problem)
    code, _, _ = diffsim(
        "simulate", problem, "--set", 'run.initial={file = "plate.h5"}', "--set", "run.until=0.1", "--out", "more.h5"
    )
    more = ds.load("more.h5")
    assert code == 0
    assert more.t[0] == 0.05 and more.t[-1] == 0.1
    np.testing.assert_array_equal(more.u[0], ds.load("plate.h5").final)


def test_a_run_that_blows_up_fails_and_keeps_its_frames(diffsim, problem):
    code, out, _ = diffsim(
        "simulate", problem, "--set", "run.scheme=ftcs", "--set", "run.dt=0.1", "--set", "run.until=100.0",
        "--set", "run.on_unstable=allow",
    )  # fmt: skip
    assert code == 6 and "unstable" in out
    kept = ds.load("plate.h5")
    assert kept.status == "unstable" and np.isfinite(kept.u).all()


def test_the_equilibrium_is_reported_and_saved(diffsim, problem):
    code, out, _ = diffsim("equilibrium", problem, "--json", "-q", "--out", "u.npy")
    facts = json.loads(out)
    assert code == 0 and facts["residual"] <= 1e-8
    np.testing.assert_allclose(sum(facts["flows"].values()), -1.5, rtol=1e-6)  # what the source supplies leaves
    assert store.read_npy("u.npy").shape == (12, 8)
    assert "flow in through x-" in diffsim("equilibrium", problem)[1]


def test_stability_lists_every_scheme_with_its_limit(diffsim, problem):
    from diffsim.schemes import SCHEMES

    code, out, _ = diffsim("stability", problem, "--json", "-q")
    facts = json.loads(out)
    posed = ds.Problem(
        ds.Grid((12, 8), (1.5, 1.0)),
        diffusivity=2.0,
        boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)},
    )
    assert code == 0 and set(facts["schemes"]) == set(SCHEMES)
    assert facts["schemes"]["rk4"]["dt_limit"] == ds.stability(posed, "rk4").dt_limit
    assert facts["schemes"]["backward-euler"]["dt_limit"] is None  # infinite
    text = diffsim("stability", problem, "--scheme", "rk4", "--dt", "0.5")[1]
    assert "unstable" in text and all(name in text for name in SCHEMES)


def test_verify_accepts_a_good_run_and_finds_planted_defects(diffsim, problem):
    from dataclasses import replace

    diffsim("simulate", problem)
    assert diffsim("verify", "plate.h5", problem)[0] == 0
    run = ds.load("plate.h5")
    planted = {
        "values": np.where(np.arange(96).reshape(12, 8) == 7, np.nan, run.u[2]),
        "motion": run.u[1],
        "steps": run.u[2] + 0.05,
        "content": run.u[2] * 1.001,
    }
    for name, frame in planted.items():
        u = run.u.copy()
        u[2] = frame
        replace(run, u=u).save("bad.h5")
        code, out, _ = diffsim("verify", "bad.h5", problem, "--json")
        bad = [finding["check"] for finding in json.loads(out)["findings"] if not finding["ok"]]
        assert code == 6 and name in bad, (name, bad)
    assert diffsim("verify", "plate.h5", problem, "--set", "problem.diffusivity=1.0")[0] == 6  # another physics


def test_verify_refines_a_problem_and_prints_its_orders(diffsim, problem):
    code, out, _ = diffsim("verify", problem, "--json")
    findings = json.loads(out)["findings"]
    fields = [f for f in findings if f["quantity"] == "field (L2)"]
    assert code == 0 and {f["refined"] for f in findings} >= {"space"}
    assert all(f["order"] > 0.9 for f in fields)
    assert "estimated error" in diffsim("verify", problem)[1]


def test_a_damaged_run_is_named(diffsim, problem):
    diffsim("simulate", problem)
    content = bytearray(Path("plate.h5").read_bytes())
    content[-100] ^= 1
    Path("plate.h5").write_bytes(content)
    code, _, err = diffsim("verify", "plate.h5")
    assert code == 4 and "plate.h5 is damaged" in err


# ------------------------------------------------------------------------------------------------------- tuning


def test_a_plan_names_scheme_step_and_alternatives(diffsim, problem):
    code, out, _ = diffsim("plan", problem, "--json", "-q", "--tol", "1e-2")
    facts = json.loads(out)
    assert code == 0 and facts["steps"] > 0 and len(facts["table"]) > 1
    assert facts["steps"] * facts["dt"] == pytest.approx(0.05)


@pytest.mark.slow
def test_a_plan_is_a_table_for_people(diffsim, problem):
    code, out, err = diffsim("plan", problem, "--tol", "1e-2")
    assert code == 0 and "crank-nicolson" in out and "next: diffsim simulate" in err


def test_a_sweep_maps_stable_and_unstable_steps(diffsim, problem):
    Path("plate.toml").write_text(PROBLEM + "[sweep]\ndts = [1e-4, 1.0]\nsteps = [10, 100]\n")
    code, out, _ = diffsim("sweep", problem, "--json", "-q")
    facts = json.loads(out)
    assert code == 0 and np.shape(facts["outcome"])[:2] == (2, 2)
    assert facts["outcome"][0] != facts["outcome"][1]
    assert "10 steps" in diffsim("sweep", problem)[1]
    Path("plate.toml").write_text(PROBLEM)
    code, _, err = diffsim("sweep", problem)
    assert code == 3 and "[sweep]" in err


def test_a_fit_recovers_the_diffusivity_behind_a_log(diffsim, problem):
    posed = ds.Problem(
        ds.Grid((12, 8), (1.5, 1.0)),
        diffusivity=1.3,
        source=1.0,
        boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)},
    )
    times = np.linspace(0, 0.3, 7)
    run = ds.simulate(posed, 0.0, until=0.3, save=times, tol=1e-6, probes={"a": (0.3, 0.5), "b": (0.9, 0.5)})
    values = [np.interp(times, *run.probes[name]) for name in ("a", "b")]
    rows = "\n".join(
        ",".join(f"{x:.10g}" for x in row) for row in zip(times[1:], *(v[1:] for v in values), strict=True)
    )
    Path("log.csv").write_text(f"t,a,b\n{rows}\n")
    table = (
        '[fit]\nparameters = ["problem.diffusivity"]\nobservations = "log.csv"\ntime = "t"\n'
        'columns = ["a", "b"]\npoints = [[0.3, 0.5], [0.9, 0.5]]\n'
    )
    Path("plate.toml").write_text(PROBLEM + table)
    code, out, _ = diffsim("fit", problem, "--json", "-q")
    found = json.loads(out)["parameters"]["problem.diffusivity"]
    assert code == 0 and found["value"] == pytest.approx(1.3, rel=0.01)
    assert found["interval"][0] < found["value"] < found["interval"][1]


def test_the_tortuosity_of_a_uniform_block_is_one(diffsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Image.fromarray(np.zeros((8, 8), "u1"))
    page.save("block.tiff", save_all=True, append_images=[page] * 7)
    code, out, _ = diffsim("tortuosity", "block.tiff", "--json", "-q")
    facts = json.loads(out)
    assert code == 0 and facts["shape"] == [8, 8, 8]
    assert facts["tau"] == pytest.approx(1, abs=1e-6) and facts["epsilon"] == 1
    assert json.loads(diffsim("tortuosity", "block.tiff", "--box", "4", "--json", "-q")[1])["shape"] == [4, 4, 4]


# ------------------------------------------------------------------------------------------------ looking after


def test_init_writes_an_example_that_runs(diffsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert diffsim("init", "new.toml")[0] == 0
    assert diffsim("init", "new.toml")[0] == 4
    assert diffsim("simulate", "new.toml", "--set", "run.until=0.5")[0] == 0
    schema = json.loads(diffsim("init", "--schema")[1])
    assert "diffusivity" in schema["$defs"]["ProblemTable"]["properties"]


def test_config_shows_values_and_where_they_came_from(diffsim, problem):
    out = diffsim("config", problem, "--set", "run.scheme=rk4", "--json")[1]
    facts = json.loads(out)
    assert facts["run.scheme"] == {"value": "rk4", "from": "--set"}
    assert facts["problem.capacity"]["from"] == "default"


def test_doctor_reports_and_clears_the_compiled_kernels(diffsim, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    (tmp_path / "kernels_1").mkdir()
    for name in ("a.nbi", "a.1.nbc", "other.txt"):
        (tmp_path / "kernels_1" / name).touch()
    facts = json.loads(diffsim("doctor", "--json")[1])
    assert facts["versions"]["numpy"] == np.__version__ and facts["compiled kernels"]["files"] == "2"
    assert ("WARNING" in facts["compiled kernels"]) == (os.name == "posix")
    diffsim("doctor", "--clear-cache")
    assert [p.name for p in (tmp_path / "kernels_1").iterdir()] == ["other.txt"]


# ------------------------------------------------------------------------------------------- errors and the stream


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["simulate", "absent.toml"], 4, "does not exist"),
        (["simulate", "plate.toml", "--set", "problem.diffusvity=1"], 3, "did you mean 'diffusivity'"),
        (["simulate", "plate.toml", "--set", "problem.diffusivity=-1"], 3, "must be >= 0"),
        (["simulate", "plate.toml", "--set", "run.scheme=ftsc"], 3, "ftcs"),
        (["simulate", "plate.toml", "--set", "run.scheme=ftcs", "--set", "run.dt=0.1"], 3, "Ways out"),
        (["simulate", "plate.toml", "--set", "run.until=-1"], 3, "until"),
        (["simulate", "plate.toml", "--set", "grid.shape=[100000, 100000]"], 5, "largest grid"),
        (["simulate", "plate.toml", "--set", "grid.shape=[4000000000, 4000000000]"], 5, "largest grid"),
        (["equilibrium", "plate.toml", "--set", "boundary={}"], 3, "no equilibrium|equilibrium"),
        (["verify", "absent.toml"], 4, "does not exist"),
        (["simlate"], 2, "simulate"),
        (["simulate", "plate.toml", "--overwrite"], 2, "No such option"),
    ],
)
def test_errors_are_one_line_with_the_right_code(diffsim, problem, words, code, message):
    got, out, err = diffsim(*words, *(["-q"] if code != 2 else []))
    assert got == code, err
    assert any(part in err for part in message.split("|"))
    assert out == "" and "Traceback" not in err
    if code != 2:
        assert err.startswith("error: ") and err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["plate.toml"]


def test_a_traceback_is_shown_only_on_request(diffsim, problem):
    with pytest.raises(ds.ProblemError):
        cli.main(["simulate", str(problem), "--set", "problem.diffusivity=-1", "--debug"])


def test_escape_sequences_from_files_do_not_reach_the_terminal(diffsim, problem):
    code, _, err = diffsim("simulate", problem, "--set", 'run.scheme="\\u001b[31mred [link=file:///etc]x"')
    assert code == 3
    assert "\x1b" not in err and "\\x1b[31mred [link=file:///etc]x" in err


def test_output_in_a_pipe_has_no_escapes_and_a_closed_pipe_no_traceback(problem):
    done = in_process("simulate", "plate.toml", env={**os.environ, "FORCE_COLOR": ""})
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr
    reader = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.close()"], stdin=subprocess.PIPE)
    reader.wait()
    closed = subprocess.run(
        [sys.executable, "-m", "diffsim", "config", "plate.toml"],
        stdout=reader.stdin,
        stderr=subprocess.PIPE,
        text=True,
    )
    reader.stdin.close()
    assert "Traceback" not in closed.stderr and "BrokenPipe" not in closed.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_keeps_what_it_has_and_says_how_to_go_on(problem, sent):
    words = ["simulate", "plate.toml", "--set", "run.scheme=ftcs", "--set", "run.dt=1e-7", "--set", "run.until=1e3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffsim", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline().startswith("grid")  # the survey is out, the run has begun
    time.sleep(1.0)
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert process.returncode == console.INTERRUPTED, err
    assert "interrupted" in out and "next: continue" in err and "Traceback" not in err
    kept = ds.load("plate.h5")
    assert kept.status == "interrupted" and np.isfinite(kept.u).all() and len(kept.t) == len(kept.u) > 0


# ---------------------------------------------------------------------------------------- memory, disk, threads


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(resources, "memory_available", lambda: 10**9)
    resources.require_memory(8 * 10**8, "this")
    with pytest.raises(ds.ResourceError, match=r"that needs 1.82 TiB.*858 MiB.*107 x 214 x 107"):
        resources.require_memory(2 * 10**12, "that", (1400, 2800, 1400))


def test_the_disk_is_looked_at_before_writing(monkeypatch, tmp_path):
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    resources.require_disk(tmp_path, 1000, "this")
    with pytest.raises(ds.ResourceError, match="are free"):
        store.write_hdf5(tmp_path / "file", {"u": np.zeros(1000)}, {})
    assert not list(tmp_path.iterdir())


def test_control_groups_of_both_versions_are_honoured(tmp_path):
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "job").mkdir(parents=True)
    (root / "job" / "memory.max").write_text("1000\n")
    (root / "job" / "memory.current").write_text("900\n")
    (root / "job" / "memory.stat").write_text("anon 700\ninactive_file 150\n")
    (root / "memory.max").write_text("max\n")
    membership.write_text("0::/job\n")
    assert resources._cgroup_rests(root, membership) == [250]
    (root / "memory" / "old").mkdir(parents=True)
    (root / "memory" / "old" / "memory.limit_in_bytes").write_text("500\n")
    (root / "memory" / "old" / "memory.usage_in_bytes").write_text("100\n")
    membership.write_text("4:memory:/old\n3:cpu:/old\n")
    assert resources._cgroup_rests(root, membership) == [400]
    assert resources._cgroup_rests(root, tmp_path / "absent") == []


def test_thread_counts_are_set_before_and_after_imports(monkeypatch):
    for variable in threads._VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    script = (
        "from diffsim.threads import configure_threads, plan; configure_threads(2);"
        "import numba; print(numba.get_num_threads()); configure_threads(1); print(numba.get_num_threads());"
        "print([(p.library, p.threads) for p in plan()])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2", "1", "[('numba', 1), ('torch', 1), ('BLAS', 1)]"]
    with pytest.raises(ds.ProblemError, match="threads"):
        threads.configure_threads(0)


def test_verify_hands_a_dataset_to_the_command_that_knows_it(tmp_path):
    import surrogate as sg

    def verify(*words) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "diffsim", "verify", str(tmp_path / "data"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    sg.generate("darcy", tmp_path / "data", count=2, resolution=8)
    good = verify("--json")
    assert good.returncode == 0 and json.loads(good.stdout)["ok"] is True
    shard = next((tmp_path / "data" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    bad = verify()
    assert bad.returncode == 4 and shard.name in bad.stderr + bad.stdout
