"""Datasets: what the journal names is valid, resumed equals uninterrupted, damage is noticed, labels are equilibria."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

import diffsim as ds
import surrogate as sg
from surrogate import dataset as module
from surrogate.checks import extrema_excess, relative_residual
from surrogate.sampling import Spec

ROD = {"base": "darcy-1d", "name": "rod", "source": "random"}
SETTINGS = {"spec": ROD, "count": 10, "resolution": 16, "seed": 5}


def files(folder):
    """{name: SHA-256} of everything but the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Three shards of 4, 4 and 2 items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SHARD_BYTES", 4 * (8 * 16 * 3 + 512))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "data"
    sg.generate(out=folder, **SETTINGS)
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    import shutil

    return shutil.copytree(whole, tmp_path / "copy")


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_the_dataset_is_the_same_byte_for_byte(whole, tmp_path, monkeypatch, stride):
    moment = 0
    while True:
        moment += stride
        passed = itertools.count(1)  # by the thread that solves and the one that writes

        def crash(kind, moment=moment, passed=passed):
            if next(passed) == moment:
                raise Killed

        folder = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            for name in ("atomic", "hdf5"):
                patch.setattr(f"diffsim.store.{name}.crash_point", crash)
            try:
                sg.generate(out=folder, **SETTINGS)
            except Killed:
                if (folder / "manifest.json").exists():
                    partial = sg.Dataset(folder)
                    assert len(partial) in (0, 4, 8, 10)
                    partial.verify()
            else:
                break
        sg.generate(out=folder, **SETTINGS)
        assert files(folder) == files(whole)
    assert moment > 29  # moments that matter were counted


@pytest.mark.slow
def test_really_killed_and_resumed_it_is_the_same_too(tmp_path):
    def run(name, moment):
        settings = {**SETTINGS, "count": 150}  # three shards of the usual size
        program = f"import surrogate as sg; sg.generate(out={str(tmp_path / name)!r}, **{settings!r})"
        environment = {**os.environ, "DIFFSIM_CRASH_AT": moment}
        return subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode

    assert [run("data", m) for m in ("rename:2", "appending:1", "written:3", "any:1000")] == [86, 86, 86, 0]
    assert run("alone", "") == 0
    assert files(tmp_path / "data") == files(tmp_path / "alone")


@pytest.mark.slow
def test_workers_do_not_change_a_byte(whole, tmp_path):
    sg.generate(out=tmp_path / "data", workers=3, **SETTINGS)
    assert files(tmp_path / "data") == files(whole)


def test_one_worker_starts_no_process(whole, tmp_path, monkeypatch):
    def started(size):
        raise AssertionError

    monkeypatch.setattr("surrogate.ahead._Processes", started)
    sg.generate(out=tmp_path / "data", workers=1, **SETTINGS)
    assert files(tmp_path / "data") == files(whole)


def test_ctrl_c_finishes_the_shard_and_says_how_to_resume(whole, tmp_path):
    def press(done, total):
        if done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(module.Interrupted, match="stopped after 4 of 10 items.*resumes"):
        sg.generate(out=tmp_path / "data", progress=press, **SETTINGS)
    assert len(sg.Dataset(tmp_path / "data")) == 4
    assert [path.name for path in (tmp_path / "data/shards").iterdir()] == ["00000.h5"]
    sg.generate(out=tmp_path / "data", **SETTINGS)
    assert files(tmp_path / "data") == files(whole)


def test_a_shard_that_fails_leaves_those_before_it_and_no_temporary(tmp_path, monkeypatch):
    def faults(problem, u, limit, operator):
        return ["planted"] * np.array_equal(problem.diffusivity, Spec.of(ROD).problem(5, 6, 16).diffusivity)

    monkeypatch.setattr(module, "label_faults", faults)
    with pytest.raises(ds.DiffsimError, match="item 6 of seed 5 fails its own check: planted"):
        sg.generate(out=tmp_path / "data", **SETTINGS)
    assert [path.name for path in (tmp_path / "data/shards").iterdir()] == ["00000.h5"]
    monkeypatch.undo()
    assert len(sg.Dataset(tmp_path / "data")) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 6}, "seed is 5 there and 6 here"),
        ({"count": 9}, "count is 10 there and 9 here"),
        ({"spec": "darcy"}, "spec.ndim is 1 there and 2"),
    ],
)
def test_resuming_with_other_settings_is_refused_with_the_differences(copied, change, words):
    before = files(copied)
    with pytest.raises(ds.ProblemError, match=words):
        sg.generate(out=copied, **{**SETTINGS, **change})
    assert files(copied) == before


@pytest.mark.parametrize("first", [3, 4, 6, 9])
def test_a_dataset_made_larger_equals_one_generated_at_once_byte_for_byte(whole, tmp_path, first):
    """Shards hold 4 items: the last one of the smaller dataset is full, or is computed again."""
    small = sg.generate(out=tmp_path / "data", **{**SETTINGS, "count": first})
    u = [item.u for item in small]
    data = sg.generate(out=tmp_path / "data", **SETTINGS)
    assert files(tmp_path / "data") == files(whole)
    np.testing.assert_array_equal([item.u for item in data][:first], u)
    with pytest.raises(ds.ProblemError, match=f"count is 10 there and {first} here"):
        sg.generate(out=tmp_path / "data", **{**SETTINGS, "count": first})


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_while_growing_it_grows_to_the_same_bytes(whole, tmp_path, monkeypatch, stride):
    moment = 1 - stride
    while True:
        moment, passed = moment + stride, itertools.count(1)

        def crash(kind, moment=moment, passed=passed):
            if next(passed) == moment:
                raise Killed

        folder = tmp_path / str(moment)
        sg.generate(out=folder, **{**SETTINGS, "count": 6})
        with monkeypatch.context() as patch:
            for name in ("atomic", "hdf5"):
                patch.setattr(f"diffsim.store.{name}.crash_point", crash)
            try:
                sg.generate(out=folder, **SETTINGS)
            except Killed:
                assert len(sg.Dataset(folder)) in (4, 6, 8, 10)
                sg.Dataset(folder).verify()
            else:
                break
        sg.generate(out=folder, **SETTINGS)
        assert files(folder) == files(whole)
    assert moment > 15


def test_a_complete_dataset_is_shared_without_a_lock(copied):
    from diffsim import store
    from diffsim.errors import BusyError

    with store.locked(copied):
        assert len(sg.generate(out=copied, **SETTINGS)) == 10
        with pytest.raises(BusyError):
            sg.generate(out=copied, **{**SETTINGS, "count": 12})


@pytest.mark.parametrize("lost", ["manifest", "manifest damaged", "journal", "both"])
def test_a_lost_manifest_is_made_again_byte_for_byte(whole, copied, lost):
    if lost == "manifest damaged":
        path = copied / "manifest.json"
        path.write_bytes(path.read_bytes()[:100])
    elif lost != "journal":
        (copied / "manifest.json").unlink()
    if lost in ("journal", "both"):
        (copied / "journal.jsonl").unlink()
    assert len(sg.Dataset.repair(copied)) == 10
    assert files(copied) == files(whole)
    assert sg.Dataset.repair(copied).complete  # nothing is wrong: nothing changes
    assert files(copied) == files(whole)


def test_a_repaired_part_of_a_dataset_grows_to_the_whole(whole, copied):
    (copied / "manifest.json").unlink()
    (copied / "journal.jsonl").unlink()
    (copied / "shards/00002.h5").unlink()
    assert len(sg.Dataset.repair(copied)) == 8
    sg.generate(out=copied, **SETTINGS)
    assert files(copied) == files(whole)


@pytest.mark.parametrize("harm", ["flip", "foreign", "missing", "edited"])
def test_a_repair_accepts_no_shard_that_it_cannot_prove(copied, tmp_path, harm):
    from diffsim import store

    (copied / "manifest.json").unlink()
    path, words = copied / "shards/00001.h5", r"00001\.h5"
    if harm == "flip":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "foreign":
        sg.generate(out=tmp_path / "other", **{**SETTINGS, "seed": 6})
        path.write_bytes((tmp_path / "other/shards/00001.h5").read_bytes())
    elif harm == "missing":
        path.unlink()
    else:  # sealed, and of this dataset by its own account; but a label was changed
        (copied / "journal.jsonl").unlink()
        arrays, label = store.read_hdf5(path)
        arrays["u"] = 1.01 * arrays["u"]
        store.write_hdf5(path, arrays, label)
        words = "item 4: the label is not an equilibrium"
    before = files(copied)
    with pytest.raises(ds.StoreError, match=words):
        sg.Dataset.repair(copied)
    assert files(copied) == before


def test_origins_are_the_same_at_every_resolution_and_differ_between_seeds(tmp_path):
    make = lambda name, **change: sg.generate(out=tmp_path / name, **{**SETTINGS, "count": 3, **change}).origins  # noqa: E731
    one = make("a")
    assert len(set(one)) == 3
    assert make("b", resolution=8) == one
    assert make("c", spec={**ROD, "name": "other"}) == one
    assert not set(make("d", seed=6)) & set(one)


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ds.ProblemError, match=r"thesis\.txt"):
        sg.generate(out=tmp_path, **SETTINGS)


def test_every_flipped_byte_is_noticed(copied):
    rng = np.random.default_rng(0)
    paths = [p for p in sorted(copied.rglob("*")) if p.suffix in (".h5", ".json")]
    for path in paths:
        original = path.read_bytes()
        for position in rng.integers(len(original), size=12):
            damaged = bytearray(original)
            damaged[position] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            if path.suffix == ".json" and _same_json(damaged, original):
                continue
            for use in (lambda: sg.generate(out=copied, **SETTINGS), lambda: sg.Dataset(copied).verify()):
                with pytest.raises(ds.DiffsimError):
                    use()
            path.write_bytes(original)
    sg.Dataset(copied).verify()


def _same_json(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize("harm", ["delete", "truncate", "empty", "swap"])
def test_missing_and_foreign_shards_are_named(copied, harm):
    first, second = copied / "shards/00000.h5", copied / "shards/00001.h5"
    if harm == "delete":
        first.unlink()
    elif harm == "swap":
        first.write_bytes(second.read_bytes())
    else:
        first.write_bytes(first.read_bytes()[: -1 if harm == "truncate" else 0])
    with pytest.raises(ds.StoreError, match=r"00000\.h5"):
        sg.Dataset(copied)[0]
    with pytest.raises(ds.StoreError, match=r"00000\.h5"):
        sg.Dataset(copied).verify()


def test_a_newer_format_asks_for_an_upgrade(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ds.StoreError, match="Upgrade"):
        sg.Dataset(copied)


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(ds.StoreError, match="not a folder"):
        sg.Dataset(tmp_path / "nothing")
    with pytest.raises(ds.StoreError, match=r"no manifest\.json"):
        sg.Dataset(tmp_path)


def test_items_are_the_problems_of_the_spec_and_their_equilibria(whole):
    data, spec = sg.Dataset(whole), Spec.of(ROD)
    assert len(data) == 10
    for i in (0, 3, 4, 9, -1):
        item, problem = data[i], spec.problem(5, i % 10, 16)
        np.testing.assert_array_equal(item.problem.diffusivity, problem.diffusivity)
        reference = ds.equilibrium(problem, tol=1e-13).u
        np.testing.assert_allclose(item.u, reference, rtol=0, atol=1e-9 * np.abs(reference).max())
    with pytest.raises(IndexError):
        data[10]


def test_mixed_sides_and_sources_survive_storing(tmp_path):
    data = sg.generate("mixed", tmp_path / "data", count=6, resolution=8, seed=1)
    for i, item in enumerate(data):
        posed = Spec.of("mixed").problem(1, i, 8)
        here, there = (ds.operator.discretize(p) for p in (item.problem, posed))
        np.testing.assert_array_equal(here.forcing(0.0), there.forcing(0.0))
        np.testing.assert_array_equal(here.diagonal, there.diagonal)


def test_splits_depend_on_the_item_alone_and_are_disjoint(tmp_path):
    few, many = (sg.generate(out=tmp_path / str(n), **{**SETTINGS, "count": n, "resolution": 2}) for n in (60, 150))
    split, more = few.split, many.split
    assert sorted(np.concatenate(list(split.values()))) == list(range(60))
    assert len(split["train"]) > 40
    assert len(split["test"]) > 0 < len(split["validation"])
    for part, items in split.items():
        assert set(items) <= set(more[part])


def test_equal_pairs_fall_into_one_part():
    problem = Spec.of(ROD).problem(0, 0, 8)
    others = [Spec.of(ROD).problem(0, i, 8) for i in range(1, 12)]
    problems = [problem, *others, problem]
    u = np.stack([solution.u for solution in ds.equilibrium(problems)])
    data = sg.Dataset.from_arrays(problems, u)
    part_of = {int(i): part for part, items in data.split.items() for i in items}
    assert part_of[0] == part_of[12]
    assert data.verify().repeats == [[0, 12]]


def test_given_pairs_are_checked():
    problem = Spec.of("darcy-1d").problem(0, 0, 8)
    u = ds.equilibrium(problem).u
    for problems, fields, words in (
        ([], np.zeros((0, 8)), "0 problems"),
        ([problem], np.zeros((2, 8)), "shape"),
        ([problem], np.full((1, 8), np.nan), "finite"),
        ([problem, Spec.of("darcy-1d").problem(0, 0, 9)], np.zeros((2, 8)), "one shape"),
        (["x"], np.zeros((1, 8)), "Problem objects"),
    ):
        with pytest.raises(ds.ProblemError, match=words):
            sg.Dataset.from_arrays(problems, fields)
    assert len(sg.Dataset.from_arrays([problem], u[None])) == 1


def planted(u, which):
    u = u.copy()
    if which == "not an equilibrium":
        return 0.97 * u
    if which == "maximum principle":
        u[3] = -0.2 * np.abs(u).max()
    return u


@pytest.mark.parametrize("fault", ["not an equilibrium", "maximum principle"])
def test_verify_finds_planted_faults(fault):
    problems = [Spec.of("darcy-1d").problem(0, i, 16) for i in range(4)]
    u = np.stack([solution.u for solution in ds.equilibrium(problems, tol=1e-12)])
    sg.Dataset.from_arrays(problems, u).verify()
    u[2] = planted(u[2], fault)
    with pytest.raises(ds.StoreError, match=rf"item 2: .*{fault}"):
        sg.Dataset.from_arrays(problems, u).verify()


def test_the_maximum_principle_knows_sources_and_fluxes():
    grid = ds.Grid(shape=(16,), lengths=(1.0,))
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(3.0)}
    for source in (0.0, 5.0, -5.0):
        problem = ds.Problem(grid, diffusivity=1.0, source=source, boundary=sides)
        assert extrema_excess(problem, ds.equilibrium(problem).u) <= 1e-12
    plain = ds.Problem(grid, diffusivity=1.0, boundary=sides)
    u = ds.equilibrium(plain).u
    assert extrema_excess(plain, np.where(u == u.max(), 3.3, u)) == pytest.approx(0.3 / 3.3)
    heated = ds.Problem(grid, diffusivity=1.0, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Neumann(2.0)})
    assert extrema_excess(heated, ds.equilibrium(heated).u) <= 1e-12
    assert relative_residual(heated, ds.equilibrium(heated, tol=1e-12).u) <= 1e-12


def test_restricted_labels_are_averages_of_finer_solutions(tmp_path):
    data = sg.generate("darcy", tmp_path / "data", count=2, resolution=8, seed=2, labels="restricted-fine")
    fine = ds.equilibrium(Spec.of("darcy").problem(2, 1, 32), tol=1e-12).u
    np.testing.assert_allclose(data[1].u, fine.reshape(8, 4, 8, 4).mean(axis=(1, 3)), rtol=1e-8)
    np.testing.assert_array_equal(data[1].problem.diffusivity, Spec.of("darcy").problem(2, 1, 8).diffusivity)
    assert data.verify().worst_residual is None


@pytest.fixture(scope="module")
def transients(tmp_path_factory):
    spec = {"base": "transient", "name": "short", "frames": 4, "ndim": 1}
    return sg.generate(spec, tmp_path_factory.mktemp("transient") / "data", count=8, resolution=16, seed=0)


def test_trajectories_start_where_the_spec_says_and_head_for_their_label(transients):
    item = transients[3]
    np.testing.assert_array_equal(item.frames[0], transients.spec.initial(0, 3, item.problem))
    run = ds.simulate(item.problem, item.frames[0], until=float(item.times[-1]), save="final", tol=1e-8)
    change = np.abs(item.frames[-1] - item.frames[0]).max()
    assert np.abs(run.final - item.frames[-1]).max() <= 1e-2 * change
    until = 40 * float(item.times[-1])
    settled = ds.simulate(
        item.problem, item.frames[-1], until=until, dt=until / 80, save="final", scheme="backward-euler"
    )
    np.testing.assert_allclose(settled.final, item.u, atol=1e-4 * np.abs(item.u).max())
    transients.verify()


def test_sensors_are_filled_in_between(tmp_path):
    spec = {"base": "transient-sensors", "name": "s", "frames": 3, "sensors": 12, "noise": 0.0}
    data = sg.generate(spec, tmp_path / "data", count=2, resolution=8, seed=0)
    stored, j = data._locate(1)
    where, seen = data.spec.observe(0, 1, stored["frames"][j])
    frames = data[1].frames
    assert np.isfinite(frames).all()
    np.testing.assert_array_equal(frames.reshape(3, -1)[:, where], seen.reshape(3, -1)[:, where])
    assert frames.max() <= np.nanmax(seen) + 1e-6 * np.nanmax(np.abs(seen))  # harmonic: no new extrema


def test_exports_hold_the_same_numbers(transients, tmp_path):
    data = sg.generate("darcy", tmp_path / "data", count=4, resolution=8, seed=0)
    arrays = data.arrays()
    data.to_pdebench(tmp_path / "pdebench.h5")
    with h5py.File(tmp_path / "pdebench.h5") as file:
        np.testing.assert_array_equal(file["tensor"][:, 0], arrays["u"])
        np.testing.assert_array_equal(file["nu"][:], arrays["diffusivity"])
        np.testing.assert_allclose(file["x-coordinate"][:], (np.arange(8) + 0.5) / 8)
    transients.to_well(tmp_path / "well.h5")
    with h5py.File(tmp_path / "well.h5") as file:
        assert file["t0_fields/u"].shape == (8, 4, 16)
        np.testing.assert_array_equal(file["t0_fields/u"][:], transients.arrays()["frames"])
        np.testing.assert_array_equal(file["dimensions/time"][:], transients.arrays()["times"])
    read = data.to_xarray("train")
    assert read["u"].dims == ("item", "x", "y")
    np.testing.assert_array_equal(read["u"], data.arrays("train")["u"])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"count": 0}, "count"), ({"resolution": 1}, "resolution"), ({"seed": -1}, "seed"), ({"workers": 0}, "workers"),
     ({"labels": "fine"}, "restricted-fine"), ({"count": 2.0}, "count")],
)  # fmt: skip
def test_impossible_arguments_write_nothing(tmp_path, change, words):
    with pytest.raises(ds.ProblemError, match=words):
        sg.generate(out=tmp_path / "data", **{**SETTINGS, **change})
    assert not (tmp_path / "data").exists()


def test_what_cannot_fit_is_refused_at_once(tmp_path):
    with pytest.raises(ds.ResourceError):
        sg.generate("darcy", tmp_path / "data", count=10**7, resolution=512)
