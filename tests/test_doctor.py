"""The data doctor: sound data pass, planted faults are found, a public set shows what is known about it."""

import h5py
import numpy as np
import pytest

import diffsim as ds
import surrogate as sg
from surrogate.doctor import grid_alignment
from surrogate.sampling import Spec


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    data = sg.generate("darcy", tmp_path_factory.mktemp("darcy") / "data", count=60, resolution=32, seed=0)
    arrays = data.arrays()
    return arrays["diffusivity"], arrays["u"]


def by_check(findings):
    return {f.check: f for f in findings}


def test_sound_data_pass_and_their_coefficients_are_found(pairs):
    found = by_check(sg.examine(pairs))
    assert not [f.check for f in found.values() if f.level == "BAD"]
    for key in (3.0, 12.0):
        assert found["coefficients"].values["a"][key][0] == pytest.approx(key, rel=0.02)
    assert found["equation"].values["median"] < 5e-3  # labels of this very grid; a is known to 0.1 %
    assert found["scale"].values["mean"] == pytest.approx(1.0, abs=5e-3)


def test_labels_scaled_by_the_source_show_it(pairs):
    a, u = pairs
    found = by_check(sg.examine((a, 5 * u)))["coefficients"]
    assert found.values["a"][12.0][0] == pytest.approx(12 / 5, rel=0.02)
    assert "f = 5" in found.detail or "f = 4.9" in found.detail


@pytest.mark.parametrize(("offset", "n"), [(0.5, 40), (0.0, 40), (1.0, 40)])
def test_alignment_is_read_off_the_labels(offset, n):
    x = (np.arange(n) + offset) / (n - 1 + 2 * offset)
    profile = x * (1 - x)
    ((low, high), other) = grid_alignment(np.stack([np.outer(profile, profile)] * 3))
    assert low == pytest.approx(offset, abs=1e-6)
    assert high == pytest.approx(offset, abs=1e-6)
    assert other == pytest.approx((offset, offset), abs=1e-6)


def harm(a, u, which):
    a, u = a.copy(), u.copy()
    x = (np.arange(32) + 0.5) / 32
    if which == "maximum principle":
        u[7, 10, 10] = -0.5 * u[7].max()
    elif which == "outliers":
        u[11] = u[12]
    elif which == "scale":
        u *= np.random.default_rng(0).uniform(0.5, 2.0, size=(60, 1, 1))
    elif which == "finite":
        u[3, 0, 0] = np.nan
    elif which == "grid alignment":
        a, u = a[:, 1::2, 1::2], u[:, 1::2, 1::2]
        a, u = a[:, :-1], u[:, :-1]
    elif which == "coefficients":  # another equation: diffusion that knows nothing of the medium
        u = np.random.default_rng(0).uniform(0.5, 2, (60, 1, 1)) * np.outer(x * (1 - x) * (1 + 2 * x), x * (1 - x))
    elif which == "repeats":
        a[5], u[5] = a[4], u[4]
    return a, u


@pytest.mark.parametrize(
    ("fault", "items"),
    [("maximum principle", (7,)), ("outliers", (11,)), ("scale", None), ("finite", (3,)), ("grid alignment", None),
     ("coefficients", None), ("repeats", (5,))],
)  # fmt: skip
def test_planted_faults_are_found(pairs, fault, items):
    finding = by_check(sg.examine(harm(*pairs, fault)))[fault]
    assert finding.level == ("note" if fault == "repeats" else "BAD")
    if items is not None:
        assert finding.items == items


def test_items_in_two_splits_are_leakage(pairs):
    a, u = pairs
    found = by_check(sg.examine((a[:30], u[:30]), (a[28:], u[28:])))
    assert found["leakage"].level == "BAD"
    assert found["leakage"].items == (0, 1)
    assert by_check(sg.examine((a[:30], u[:30]), (a[30:], u[30:])))["leakage"].level == "ok"


def test_the_layouts_of_others_are_read(pairs, tmp_path):
    a, u = pairs
    np.savez(tmp_path / "set.npz", x=a, y=u)
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file["nu"], file["tensor"] = a, u[:, None]
    data = sg.generate("darcy", tmp_path / "data", count=60, resolution=32, seed=0)
    data.to_well(tmp_path / "well.h5")
    expected = [(f.level, f.check, f.detail) for f in sg.examine((a, u))]
    for name in ("set.npz", "set.hdf5", "well.h5"):
        assert [(f.level, f.check, f.detail) for f in sg.examine(tmp_path / name)] == expected


def test_continuous_coefficients_are_left_alone_with_a_note():
    problems = [Spec.of("lognormal").problem(0, i, 16) for i in range(6)]
    u = np.stack([s.u for s in ds.equilibrium(problems)])
    found = by_check(sg.examine((np.stack([p.diffusivity for p in problems]), u)))
    assert found["coefficients"].level == "note"
    assert "equation" not in found


def test_files_without_pairs_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros((3, 8, 8)))
    (tmp_path / "notes.txt").write_text("hello")
    for name, words in (("other.npz", "none of them"), ("notes.txt", "reads"), ("gone.npz", "gone")):
        with pytest.raises(ds.StoreError, match=words):
            sg.examine(tmp_path / name)
    with pytest.raises(ds.ProblemError, match="shape"):
        sg.examine((np.zeros((3, 8, 8)), np.zeros((3, 8, 9))))


def test_a_public_set_shows_what_is_known_about_it(shared_data):
    found = by_check(sg.examine(shared_data / "darcy16" / "darcy_train_16.npz"))
    values = found["coefficients"].values["a"]
    assert values[0.0][0] == pytest.approx(0.02, rel=0.02)
    assert values[1.0][0] == pytest.approx(0.36, rel=0.02)
    assert found["maximum principle"].level == "BAD"
    assert len(found["maximum principle"].items) == 12
    assert found["maximum principle"].values["lowest"] == pytest.approx(-0.43, abs=0.005)
    assert found["grid alignment"].level == "BAD"  # not symmetric: points (32 i + 1/2) / 512
    for low, high in found["grid alignment"].values["distances"]:
        assert low == pytest.approx(0.5 / 32, abs=0.01)
        assert high == pytest.approx(31.5 / 32, abs=0.05)
    assert found["equation"].values["mean"] == pytest.approx(0.089, abs=0.01)


def test_adopted_pairs_are_the_problems_they_came_from(pairs):
    a, u = pairs
    data, dropped = sg.adopt((a, u))
    assert dropped == ()
    assert len(data) == 60
    np.testing.assert_array_equal(data[7].u, u[7])
    np.testing.assert_allclose(data[7].problem.diffusivity, a[7], rtol=0.01)
    solved = ds.equilibrium(data[7].problem).u
    assert np.linalg.norm(solved - u[7]) < 0.01 * np.linalg.norm(u[7])


def test_adopting_leaves_out_what_is_damaged(pairs):
    data, dropped = sg.adopt(harm(*pairs, "maximum principle"))
    assert dropped == (7,)
    assert len(data) == 59


def test_a_public_set_is_adopted_with_its_walls(shared_data):
    data, dropped = sg.adopt(shared_data / "darcy16" / "darcy_train_16.npz")
    assert len(dropped) == 12
    assert len(data) == 988
    item = data[3]
    assert item.problem.grid.shape == (17, 17)  # first row on the wall, last one a spacing inside
    held, values = item.problem.fixed
    assert held[0].all()
    assert held[-1].all()
    assert not held[1:-1, 1:-1].any()
    assert (values == 0).all()
    solved = np.stack([s.u for s in ds.equilibrium(data.problems[:100])])
    labels = data.arrays(range(100))["u"]
    errors = np.linalg.norm((solved - labels).reshape(100, -1), axis=1) / np.linalg.norm(
        labels.reshape(100, -1), axis=1
    )
    assert errors.mean() == pytest.approx(0.089, abs=0.02)
