"""Files: whole or absent after any crash, damage always noticed, hostile content refused before it costs anything."""

import io
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from diffsim import store
from diffsim.errors import BusyError, ResourceError, StoreError
from diffsim.store.atomic import CRASH_EXIT

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs fork and resource limits")


def in_child(script: str, folder: Path) -> str:
    """Output of `script`, run in `folder` by a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def no_temporaries(folder: Path) -> bool:
    return not list(folder.glob("*.tmp")) and not list(folder.glob(".diffsim-*"))


# --------------------------------------------------------------------------------------------- atomic writing


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(tmp_path):
    target = tmp_path / "file"
    store.write_text(target, "old")
    with pytest.raises(ZeroDivisionError), store.replacing(target) as temporary:
        temporary.write_text("half of the n" * (1 // 0))
    assert target.read_text() == "old"
    assert no_temporaries(tmp_path)


def test_the_file_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    store.write_bytes(tmp_path / "file", b"new")
    assert calls == (["fsync", "rename", "fsync"] if os.name == "posix" else ["fsync", "rename"])


def test_what_was_staged_is_filled_anywhere_and_published_or_swept_away_for_good(tmp_path):
    target = tmp_path / "file"
    first, second = store.stage(target), store.stage(target)
    digest = store.fill_hdf5(first, target, {"u": np.arange(3)}, {})
    assert not target.exists()
    store.publish(first, target)
    assert store.digest(target) == digest
    assert store.sweep(tmp_path) == 1
    with pytest.raises(StoreError, match="file: the folder .* does not exist"):
        store.fill_hdf5(second, target, {"u": np.zeros(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert store.digest(target) == digest


@posix_only
def test_a_kill_at_any_counted_point_leaves_every_file_whole_and_every_acknowledged_record(tmp_path):
    report = in_child(
        f"""
        import json, os
        from pathlib import Path
        import numpy as np
        from diffsim import store

        def work(acknowledged):
            journal = store.Journal(Path("journal"))
            for i in range(3):
                store.write_hdf5("shard", {{"u": np.full(50, float(i)), "v": np.arange(3)}}, {{"id": i}})
                store.write_json("manifest", {{"id": i, "text": "x" * 100}})
                journal.append({{"id": i}})
                os.write(acknowledged, bytes([i]))

        points = 0
        while True:
            for name in ("shard", "manifest", "journal"):
                Path(name).unlink(missing_ok=True)
            points += 1
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.environ["DIFFSIM_CRASH_AT"] = f"any:{{points}}"
                work(writing)
                os._exit(0)
            os.close(writing)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            acknowledged = len(os.read(reading, 10))
            os.close(reading)

            ids = [record["id"] for record in store.Journal(Path("journal")).records()]
            assert ids == list(range(len(ids))) and acknowledged <= len(ids) <= acknowledged + 1, (points, ids)
            if Path("shard").exists():
                arrays, metadata = store.read_hdf5("shard")
                assert (arrays["u"] == metadata["id"]).all() and metadata["id"] >= len(ids) - 1
            if Path("manifest").exists():
                assert store.read_json("manifest")["id"] >= len(ids) - 1
            assert ids == [] or (Path("shard").exists() and Path("manifest").exists())

            store.Journal(Path("journal")).append({{"id": len(ids)}})  # a torn line does not spoil the next one
            assert len(store.Journal(Path("journal")).records()) == len(ids) + 1
            store.sweep(".")
            assert not list(Path(".").glob(".diffsim-*"))
            if code == 0:
                break
            assert code == {CRASH_EXIT}, code
        print(points - 1)
        """,
        tmp_path,
    )
    assert int(report) > 30  # three rounds of at least 12 points each


@posix_only
@pytest.mark.parametrize("limit", [0, 512, 3000, 100_000])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, limit):
    in_child(
        f"""
        import resource, signal
        from pathlib import Path
        import numpy as np
        from diffsim import store
        from diffsim.errors import ResourceError

        big = np.random.default_rng(0).random(20_000)
        writers = {{
            "a.h5": lambda path: store.write_hdf5(path, {{"u": big, "v": big}}, {{"x": 1}}),
            "a.npy": lambda path: store.write_npy(path, big),
            "a.bin": lambda path: store.write_bytes(path, bytes(big)),
            "a.safetensors": lambda path: store.write_safetensors(path, {{"w": big}}, {{}}),
        }}
        for name in writers:
            Path(name).write_text("old")
        import h5py, safetensors.numpy
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
        for name, write in writers.items():
            try:
                write(name)
            except ResourceError as error:
                assert name in str(error) and "full" in str(error), error
            else:
                raise AssertionError(name)
            assert Path(name).read_text() == "old"
        assert sorted(p.name for p in Path(".").iterdir()) == sorted(writers), list(Path(".").iterdir())
        """,
        tmp_path,
    )


def test_a_missing_folder_a_folder_and_a_read_only_folder_are_explained(tmp_path):
    with pytest.raises(StoreError, match=r"no/file.*does not exist"):
        store.write_text(tmp_path / "no" / "file", "text")
    with pytest.raises(StoreError, match="folder"):
        store.write_text(tmp_path, "text")
    with pytest.raises(StoreError, match="name is too long"):
        store.write_text(tmp_path / ("n" * 300), "text")
    store.write_text(tmp_path / "file", "text")
    with pytest.raises(StoreError, match="not a folder"):
        store.write_text(tmp_path / "file" / "below", "text")
    assert no_temporaries(tmp_path)


@pytest.mark.parametrize("name", ["with space", "ü", "n" * 240, "con"])
def test_unusual_but_legal_names_work(tmp_path, name):
    store.write_text(tmp_path / name, "text")
    assert store.read_text(tmp_path / name) == "text"


def test_nothing_is_overwritten_without_force(tmp_path):
    target = store.new_path(tmp_path / "made" / "on" / "demand")
    store.write_text(target, "text")
    with pytest.raises(StoreError, match="--force"):
        store.new_path(target)
    assert store.new_path(target, force=True) == target


def test_a_folder_is_held_by_one_writer(tmp_path):
    with store.locked(tmp_path), pytest.raises(BusyError), store.locked(tmp_path):
        pass
    with store.locked(tmp_path):
        pass


def test_a_damaged_line_in_a_journal_is_named(tmp_path):
    journal = store.Journal(tmp_path / "journal")
    assert journal.records() == []
    for i in range(3):
        journal.append({"id": i})
    journal.path.write_bytes(journal.path.read_bytes().replace(b'{"id": 1}', b'{"id":'))
    with pytest.raises(StoreError, match="line 2"):
        journal.records()


# ---------------------------------------------------------------------------------------------- sealed HDF5


@pytest.fixture
def sealed(tmp_path) -> Path:
    path = tmp_path / "sealed.h5"
    arrays = {"u": np.linspace(0, 1, 60).reshape(5, 12), "n": np.arange(4), "s": 2.5}
    store.write_hdf5(path, arrays, {"name": "é", "x": [1]})
    return path


def test_arrays_and_metadata_come_back_bit_for_bit(sealed):
    arrays, metadata = store.read_hdf5(sealed)
    assert metadata == {"name": "é", "x": [1]}
    assert set(arrays) == {"u", "n", "s"}
    np.testing.assert_array_equal(arrays["u"], np.linspace(0, 1, 60).reshape(5, 12))
    assert arrays["n"].dtype == np.arange(4).dtype
    assert arrays["s"].shape == () and arrays["s"] == 2.5


def test_equal_content_gives_equal_bytes_and_the_digest_is_that_of_the_file(tmp_path):
    first = store.write_hdf5(tmp_path / "a", {"u": np.arange(9.0), "v": np.ones(3)}, {"k": 1, "j": 2})
    second = store.write_hdf5(tmp_path / "b", {"v": np.ones(3), "u": np.arange(9.0)}, {"j": 2, "k": 1})
    assert first == second == store.digest(tmp_path / "a")


def test_other_programs_can_open_a_sealed_file(sealed):
    with h5py.File(sealed) as file:
        assert file["u"].shape == (5, 12)
        assert file["u"].fletcher32
        assert np.isnan(file["u"].fillvalue)


def test_one_flipped_bit_anywhere_is_noticed(sealed, rng):
    content = sealed.read_bytes()
    for position in {*range(64), *rng.integers(len(content), size=300)}:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        sealed.write_bytes(damaged)
        with pytest.raises(StoreError, match="sealed.h5"):
            store.read_hdf5(sealed)


def test_a_missing_or_added_end_is_noticed(sealed):
    content = sealed.read_bytes()
    for damaged in (*(content[:length] for length in range(0, len(content), 509)), content[:-1], content + b"\0"):
        sealed.write_bytes(damaged)
        with pytest.raises(StoreError, match="sealed.h5"):
            store.read_hdf5(sealed)


def test_a_newer_format_asks_for_an_upgrade(sealed):
    sealed.write_bytes(sealed.read_bytes().replace(b"hdf5 1\n", b"hdf5 9\n", 1))
    with pytest.raises(StoreError, match="Upgrade"):
        store.read_hdf5(sealed)


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([None]), np.array([{}], dtype=object)])
def test_only_numbers_are_written(tmp_path, value):
    with pytest.raises(StoreError, match="plain numbers"):
        store.write_hdf5(tmp_path / "file", {"a": value}, {})
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ hostile HDF5 files


def external_link(file):
    file["secret"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link(file):
    file["alias"] = h5py.SoftLink("/elsewhere")


def external_storage(file):
    file.create_dataset("secret", shape=(10,), dtype="u1", external=[("/etc/hostname", 0, 10)])


def virtual(file):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "u", shape=(4,))
    file.create_virtual_dataset("u", layout)


def shape_bomb(file):
    file.create_dataset("u", shape=(10**6, 10**6), chunks=(100, 100), dtype="f8")


def compressed_bomb(file):
    file.create_dataset("u", data=np.zeros(20 << 20, "u1"), chunks=(1 << 20,), compression="gzip")
    file.create_dataset("v", shape=(80 << 20,), dtype="u1", chunks=(1 << 20,), compression="gzip")


def objects(file):
    file["words"] = ["variable", "length"]


def deep(file):
    file.create_group("/".join("g" * 50))


def many_attributes(file):
    group = file.create_group("g", track_order=True)
    for i in range(5000):
        group.attrs[str(i)] = i


def plugin_filter(file):
    space = h5py.h5s.create_simple((16,))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((16,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"u", h5py.h5t.IEEE_F64LE, space, plist)


@pytest.mark.parametrize(
    "plant",
    [
        external_link,
        soft_link,
        external_storage,
        virtual,
        shape_bomb,
        compressed_bomb,
        objects,
        deep,
        many_attributes,
        plugin_filter,
    ],
)
def test_a_hostile_hdf5_file_is_refused(tmp_path, plant):
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        plant(file)
    with pytest.raises(StoreError, match="hostile.h5"), store.open_hdf5(path):
        pass


def test_groups_that_contain_themselves_end(tmp_path):
    path = tmp_path / "loop.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["again"] = file["/"]
        group["u"] = np.arange(3)
    with store.open_hdf5(path) as file:
        assert file["a/again/a/u"].shape == (3,)


def test_what_is_not_hdf5_is_named(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("not HDF5")
    with pytest.raises(StoreError, match="text.h5"), store.open_hdf5(path):
        pass
    with pytest.raises(StoreError, match="does not exist"), store.open_hdf5(tmp_path / "absent"):
        pass


# ------------------------------------------------------------------------------------------------- npy, npz


def forged_npy(shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def test_an_npy_array_comes_back(tmp_path, rng):
    matrix = rng.normal(size=(3, 4))
    for array in (matrix, np.arange(5, dtype="u1"), np.asfortranarray(matrix), np.float64(3)):
        store.write_npy(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(store.read_npy(tmp_path / "a.npy"), array)


@pytest.mark.parametrize(
    "content",
    [
        forged_npy("(4294967296,)"),
        forged_npy("(-1,)"),
        forged_npy("(2,)", b"\0" * 15),
        forged_npy("(2,)", b"\0" * 17),
        forged_npy("(" * 90 + ")" * 90),
        forged_npy("__import__('os').system('false')"),
        b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little"),
        b"\x93NUM",
        b"",
    ],
    ids=["32 GiB", "negative", "short", "long", "nested", "code", "2 GiB header", "cut", "empty"],
)
def test_a_forged_npy_file_is_refused(tmp_path, content):
    path = tmp_path / "forged.npy"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="forged.npy"):
        store.read_npy(path)


class Canary:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


def test_python_objects_in_arrays_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("object.npy", np.array([Canary()], dtype=object))
    np.savez("object.npz", a=np.array([Canary()], dtype=object))
    for read, name in ((store.read_npy, "object.npy"), (store.read_npz, "object.npz")):
        with pytest.raises(StoreError, match="Python objects"):
            read(name)
    assert not Path("canary").exists()


def test_an_npz_archive_comes_back(tmp_path, rng):
    a, b = rng.normal(size=(3, 2)), np.zeros((1000, 1000), bool)
    np.savez_compressed(tmp_path / "a.npz", a=a, b=b)
    arrays = store.read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["a"], a)
    assert arrays["b"].sum() == 0 and set(arrays) == {"a", "b"}


def test_npz_bombs_repeats_strangers_and_damage_are_refused(tmp_path):
    bomb, twice, stranger, broken = (tmp_path / f"{n}.npz" for n in ("bomb", "twice", "stranger", "broken"))
    np.savez_compressed(bomb, a=np.zeros(100 << 20, "u1"))
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a.npy", forged_npy("(0,)"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", forged_npy("(0,)"))
    with zipfile.ZipFile(stranger, "w") as archive:
        archive.writestr("../../evil.py", "print()")
    np.savez(broken, a=np.arange(1000.0))
    content = bytearray(broken.read_bytes())
    content[3000] ^= 4
    broken.write_bytes(content)
    for path in (bomb, twice, stranger, broken):
        with pytest.raises(StoreError, match=path.name):
            store.read_npz(path)
    broken.write_bytes(content[:-30])
    with pytest.raises(StoreError, match="broken.npz"):
        store.read_npz(broken)


def test_a_declared_size_beyond_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    from diffsim import resources

    store.write_npy(tmp_path / "a.npy", np.zeros(1000))
    monkeypatch.setattr(resources, "memory_available", lambda: 4000)
    with pytest.raises(ResourceError, match=r"a\.npy.*7\.81 KiB"):
        store.read_npy(tmp_path / "a.npy")


# ---------------------------------------------------------------------------------------------- safetensors


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    store.write_safetensors(path, {"w": np.ones((3, 2), "f4"), "b": np.arange(2.0)}, {"epoch": 3, "name": "é"})
    return path


def test_weights_come_back_and_equal_weights_give_equal_bytes(weights, tmp_path):
    arrays, metadata = store.read_safetensors(weights)
    np.testing.assert_array_equal(arrays["w"], np.ones((3, 2), "f4"))
    assert metadata == {"epoch": 3, "name": "é"} and arrays["b"].dtype == np.float64
    store.write_safetensors(tmp_path / "again", {"b": arrays["b"], "w": arrays["w"]}, metadata)
    assert (tmp_path / "again").read_bytes() == weights.read_bytes()


def test_one_flipped_bit_in_weights_is_noticed(weights, rng):
    content = weights.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        weights.write_bytes(damaged)
        with pytest.raises(StoreError, match="weights"):
            store.read_safetensors(weights)


def tensor_file(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin, end, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        (1 << 63).to_bytes(8, "little") + b"{}",
        tensor_file({"a": entry(0, 4), "b": entry(0, 4)}, b"\0" * 4),
        tensor_file({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
        tensor_file(b'{"a": %b, "a": %b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"\0" * 4),
        tensor_file({"a": entry(0, 4)}, b"\0" * 3),
        tensor_file({"a": entry(0, 4, shape=(1 << 40, 1 << 40))}, b"\0" * 4),
        tensor_file({"a": {"dtype": "F32"}}),
        tensor_file({"a": entry(0, 4)}, np.float32("nan").tobytes()),
        tensor_file(b"[" * 5000),
        b"\0",
    ],
    ids=["header", "overlap", "hole", "repeat", "short", "overflow", "malformed", "nan", "nested", "cut"],
)
def test_a_hostile_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="hostile"):
        store.read_safetensors(path, sealed=False)


def test_weights_that_others_wrote_need_no_seal(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.arange(3.0)}, metadata={"by": "someone"}))
    arrays, metadata = store.read_safetensors(path, sealed=False)
    assert metadata == {"by": "someone"} and arrays["a"][2] == 2
    with pytest.raises(StoreError, match="digest"):
        store.read_safetensors(path)


# --------------------------------------------------------------------------------------- tables, text, images


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("t,u\n0,1\n1,2.5\n", ["t", "u"]),
        ("\ufeff0,1,\r\n1,2.5,\r\n", ["0", "1"]),
        ("# comment\nt;u\n0;1\n\n1;2.5\n", ["t", "u"]),
        ("0 1\n1   2.5", ["0", "1"]),
        ("t\tu\n0\t1\n1\t2.5\n", ["t", "u"]),
    ],
    ids=["header", "bom", "semicolon", "blanks", "tabs"],
)
def test_csv_dialects_give_the_same_table(tmp_path, text, names):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    table = store.read_csv(path)
    assert list(table.columns) == names
    np.testing.assert_array_equal(table.numbers(), [[0, 1], [1, 2.5]])
    np.testing.assert_array_equal(table[names[1]], table[1])


def test_text_columns_stay_text_and_empty_cells_are_nan(tmp_path):
    path = tmp_path / "materials.csv"
    path.write_text('name,k\n"Bitumen, pure",0.17\nAir,\n')
    table = store.read_csv(path)
    assert table["name"] == ["Bitumen, pure", "Air"]
    assert table["k"][0] == 0.17 and np.isnan(table["k"][1])
    with pytest.raises(StoreError, match="'Bitumen, pure' is not a number"):
        table.numbers()
    with pytest.raises(StoreError, match="has name, k"):
        table["kk"]


@pytest.mark.parametrize(("text", "word"), [("1,2\n3\n", "row 2"), ("", "no data"), ("a,a\n1,2\n", "same name")])
def test_a_malformed_table_is_explained(tmp_path, text, word):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(StoreError, match=word):
        store.read_csv(tmp_path / "t.csv")


def test_a_real_sensor_log_is_read(shared_data):
    log = store.read_csv(shared_data / "rod" / "rod.csv").numbers()
    assert log.shape[1] == 13
    np.testing.assert_array_equal(np.diff(log[:100, 0]), 2.0)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"a = 1\nb = = 2\n", "line 2, column 5"),
        (b"a = 1\na = 2\n", "line 2"),
        ("a = 1".encode("utf-16"), "UTF-16"),
        (b"a = \xff", "UTF-8"),
        (b"a = " + b"[" * 50_000, "nested|TOML"),
        (b"a = 1\n" * 1_000_000, "too large"),
    ],
    ids=["syntax", "duplicate", "utf-16", "bytes", "nested", "large"],
)
def test_a_bad_configuration_file_is_explained(tmp_path, content, word):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=word):
        store.read_toml(path)


def test_images_and_stacks_come_back_as_stored(tmp_path, rng):
    page = rng.integers(256, size=(5, 7)).astype("u1")
    Image.fromarray(page).save(tmp_path / "a.png")
    np.testing.assert_array_equal(store.read_image(tmp_path / "a.png"), page)
    stack = [Image.fromarray(page + k) for k in range(3)]
    stack[0].save(tmp_path / "a.tiff", save_all=True, append_images=stack[1:])
    read = store.read_image(tmp_path / "a.tiff")
    assert read.shape == (3, 5, 7)
    np.testing.assert_array_equal(read[2], page + 2)
    deep = rng.integers(60_000, size=(4, 4)).astype("u2")
    Image.fromarray(deep).save(tmp_path / "b.png")
    np.testing.assert_array_equal(store.read_image(tmp_path / "b.png"), deep)
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "c.png")
    np.testing.assert_array_equal(store.read_image(tmp_path / "c.png"), 76)  # 0.299 * 255, the luma of red


def test_what_is_not_an_image_or_a_bomb_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(StoreError, match="text.png"):
        store.read_image(tmp_path / "text.png")
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, format="PNG")
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    with pytest.raises(StoreError, match="declares"):
        store.read_image(tmp_path / "bomb.png")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:200])
    with pytest.raises(StoreError, match="cut.png"):
        store.read_image(tmp_path / "cut.png")


def test_a_real_stack_of_voxels_is_read(shared_data):
    voxels = store.read_image(shared_data / "electrode" / "electrode.tiff")
    assert voxels.shape == (256, 256, 256) and set(np.unique(voxels)) == {0, 85, 170}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "npz", "png", "tiff", "safetensors", "csv", "toml"])
def test_mutated_files_raise_only_our_errors(tmp_path, rng, kind):
    path = tmp_path / f"file.{kind}"
    array = rng.integers(255, size=(16, 16)).astype("u1")
    writers = {
        "npy": lambda: store.write_npy(path, array),
        "npz": lambda: np.savez_compressed(path, a=array, b=array / 2),
        "png": lambda: Image.fromarray(array).save(path),
        "tiff": lambda: Image.fromarray(array).save(path),
        "safetensors": lambda: store.write_safetensors(path, {"a": array}, {"k": 1}),
        "csv": lambda: path.write_text("a,b\n" + "1,2\n" * 20),
        "toml": lambda: path.write_text('[grid]\nshape = [3, 4]\ntext = "x"\n'),
    }
    readers = {"npy": store.read_npy, "npz": store.read_npz, "csv": store.read_csv, "toml": store.read_toml}
    read = readers.get(kind, store.read_safetensors if kind == "safetensors" else store.read_image)
    writers[kind]()
    content = path.read_bytes()
    refused = 0
    for _ in range(1000):
        damaged = bytearray(content)
        for position in rng.integers(len(damaged), size=rng.integers(1, 6)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged) + 1)])
        try:
            read(path)
        except (StoreError, ResourceError):
            refused += 1
    assert refused > 0


def test_other_layouts_are_written_as_safely(tmp_path):
    path = tmp_path / "other.h5"
    with store.create_hdf5(path) as file:
        file["a/b"] = np.arange(3)
        file.attrs["name"] = "x"
        assert not path.exists()
    with store.open_hdf5(path) as file:
        assert file["a/b"][2] == 2
    with pytest.raises(ZeroDivisionError), store.create_hdf5(path) as file:
        file["a"] = 1 // 0
    with store.open_hdf5(path) as file:
        assert "a/b" in file
    assert no_temporaries(tmp_path)


def test_figures_are_written_in_the_format_of_their_suffix(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        store.write_figure(figure, tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(magic)
    with pytest.raises(StoreError, match="no picture format 'xyz'"):
        store.write_figure(figure, tmp_path / "a.xyz")


def test_a_trajectory_comes_back_bit_for_bit(tmp_path):
    import diffsim as ds

    grid = ds.Grid.from_edges([np.array([0.0, 0.1, 0.3, 1.0]), np.linspace(0, 2, 5)], geometry="cylindrical")
    problem = ds.Problem(grid, diffusivity=1.0, boundary={"r+": ds.Dirichlet(lambda t: 1 + t)})
    run = ds.simulate(problem, 0.0, until=0.3, save=[0.0, 0.1, 0.3], scheme="tr-bdf2", probes={"a/b ü": (0.2, 1.0)})
    run.save(tmp_path / "run.h5")
    again = ds.load(tmp_path / "run.h5")
    for name in ("t", "u", "content"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name))
    for one, other in zip(again.grid.edges, grid.edges, strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.grid.geometry == "cylindrical"
    for name in ("status", "message", "scheme", "dt", "balance"):
        assert getattr(again, name) == getattr(run, name)
    assert dict(again.stats) == dict(run.stats)
    np.testing.assert_array_equal(again.probes["a/b ü"], run.probes["a/b ü"])
    for side in ("r+", "z-"):
        np.testing.assert_array_equal(again.flow(side), run.flow(side))


def test_what_is_not_a_trajectory_is_named(tmp_path):
    store.write_hdf5(tmp_path / "other.h5", {"u": np.zeros(3)}, {"kind": "shard"})
    with pytest.raises(StoreError, match="'shard', not a trajectory"):
        store.load(tmp_path / "other.h5")
    store.write_hdf5(tmp_path / "part.h5", {"t": np.zeros(3)}, {"kind": "trajectory", "version": 1})
    with pytest.raises(StoreError, match="not a complete trajectory"):
        store.load(tmp_path / "part.h5")
    store.write_hdf5(tmp_path / "new.h5", {"t": np.zeros(3)}, {"kind": "trajectory", "version": 99})
    with pytest.raises(StoreError, match="Upgrade"):
        store.load(tmp_path / "new.h5")
