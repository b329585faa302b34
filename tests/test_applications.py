"""Uses against published figures, closed forms and independent sums."""

import importlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import diffsim as ds
from diffsim import exact
from diffsim.applications import Plate, material, materials, sample_slice
from diffsim.applications.images import edges_kept, noise_level

# --- tortuosity and effective conductivity
# --------------------------------------------------------------------------


def random_image(shape, open_share, seed=0):
    return (np.random.default_rng(seed).random(shape) > open_share).astype(np.uint8)


@pytest.mark.parametrize("shape", [(7,), (6, 9), (12, 12, 12), (5, 1, 3)])
def test_an_open_block_is_not_tortuous(shape):
    result = ds.tortuosity(np.zeros(shape, np.uint8), axis=0)
    assert result.tau == pytest.approx(1, abs=1e-10)
    assert result.deff == pytest.approx(1, abs=1e-10)
    assert result.epsilon == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_straight_channels_have_tau_one_and_their_share_of_the_flow(axis):
    image = np.ones((6, 6, 6), np.uint8)
    index = [slice(None) if a == axis else slice(1, 3) for a in range(3)]
    image[tuple(index)] = 0
    result = ds.tortuosity(image, axis=axis)
    assert result.tau == pytest.approx(1, abs=1e-10)
    assert result.deff == pytest.approx(4 / 36, abs=1e-10)
    u = np.moveaxis(result.u, axis, 0)[:, 1, 1]
    np.testing.assert_allclose(u, 1 - (np.arange(6) + 0.5) / 6, atol=1e-6)


def dense_deff(image, axis):
    """Flow between the faces by a dense pseudo-inverse, assembled voxel by voxel."""
    n = image.size
    index = np.arange(n).reshape(image.shape)
    matrix, rhs = np.zeros((n, n)), np.zeros(n)
    for a in range(image.ndim):
        low, high = np.take(index, range(image.shape[a] - 1), a), np.take(index, range(1, image.shape[a]), a)
        for i, j in zip(low.ravel(), high.ravel(), strict=True):
            if image.flat[i] == 0 and image.flat[j] == 0:
                matrix[[i, j, i, j], [i, j, j, i]] += [1, 1, -1, -1]
    for k, value in ((0, 1.0), (-1, 0.0)):
        for i in np.take(index, k, axis).ravel():
            if image.flat[i] == 0:
                matrix[i, i] += 2
                rhs[i] += 2 * value
    u = np.linalg.lstsq(matrix, rhs, rcond=None)[0]
    entered = sum(2 * (1 - u[i]) for i in np.take(index, 0, axis).ravel() if image.flat[i] == 0)
    return entered * image.shape[axis] ** 2 / n


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_deff_of_random_images_equals_a_dense_solve(axis, seed):
    image = random_image((6, 7, 5), 0.65, seed)
    result = ds.tortuosity(image, axis=axis, tol=1e-10)
    expected = dense_deff(image, axis)
    assert result.deff == pytest.approx(expected, abs=1e-10)
    assert result.epsilon == np.mean(image == 0)
    assert result.tau == (pytest.approx(result.epsilon / expected) if expected > 1e-12 else math.inf)


def test_a_phase_that_does_not_percolate_is_said_so():
    image = np.zeros((8, 8), np.uint8)
    image[4] = 1
    result = ds.tortuosity(image)
    assert (result.tau, result.deff, result.percolates) == (math.inf, 0.0, False)
    assert result.epsilon == 7 / 8
    assert "does not connect" in result.explanation
    assert ds.tortuosity(image, axis=1).percolates


def test_dead_ends_count_in_epsilon_only():
    image = np.ones((9, 9), np.uint8)
    image[:, 4] = 0
    image[2, 5:] = 0  # a dead end
    image[7, :2] = 0  # an isolated pore
    result = ds.tortuosity(image)
    assert result.deff == pytest.approx(1 / 9, abs=1e-10)
    assert result.epsilon == 15 / 81


def test_several_labels_and_unequal_voxels():
    image = random_image((10, 8), 0.6)
    image[::2][image[::2] == 1] = 2
    both = ds.tortuosity(image, phase=(0, 1, 2))
    assert both.tau == pytest.approx(1, abs=1e-10)
    stretched = ds.tortuosity(np.zeros((4, 6), np.uint8), spacing=(2.0, 0.5))
    assert stretched.deff == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": np.zeros((3, 3))}, "labels"),
        ({"image": np.zeros((2, 2, 2, 2), int)}, "one to three axes"),
        ({"phase": 7}, "its labels are"),
        ({"axis": 2}, "axes 0 to 1"),
        ({"axis": True}, "axes 0 to 1"),
        ({"spacing": 0.0}, "> 0"),
        ({"tol": -1.0}, "tol"),
    ],
)
def test_tortuosity_refuses_in_words(arguments, words):
    arguments = {"image": np.zeros((3, 3), np.uint8), **arguments}
    with pytest.raises(ds.ProblemError, match=words):
        ds.tortuosity(**arguments)


def test_images_are_read_from_files(tmp_path):
    image = random_image((6, 7, 5), 0.7)
    np.save(tmp_path / "image.npy", image)
    from PIL import Image

    pages = [Image.fromarray(page) for page in image]
    pages[0].save(tmp_path / "image.tif", save_all=True, append_images=pages[1:])
    expected = ds.tortuosity(image).tau
    assert ds.tortuosity(tmp_path / "image.npy").tau == expected
    assert ds.tortuosity(str(tmp_path / "image.tif")).tau == expected
    Image.fromarray(image[0] * 200).save(tmp_path / "image.png")
    assert ds.tortuosity(tmp_path / "image.png", phase=200).epsilon == np.mean(image[0] == 1)


def test_electrode_crop_has_the_published_tortuosity(shared_data):
    from diffsim.store import read_image

    crop = read_image(shared_data / "electrode" / "electrode.tiff")[:64, :64, :64]
    result = ds.tortuosity(crop)
    assert result.tau == pytest.approx(2.14639371, rel=1e-4)
    assert result.deff == pytest.approx(0.20300562, rel=1e-4)
    assert result.epsilon == pytest.approx(0.43572998, abs=1e-8)


def test_the_flow_is_quadratic_in_the_residual():
    image = random_image((24, 24, 24), 0.6)
    truth = ds.tortuosity(image, tol=1e-12).deff
    loose, closer = (ds.tortuosity(image, tol=tol) for tol in (1e-2, 1e-4))
    assert loose.residual > 1e-4
    assert closer.deff >= truth * (1 - 1e-12)  # the energy bounds the flow from above
    gained = (loose.deff - truth) / (closer.deff - truth)
    assert gained > (loose.residual / closer.residual) ** 1.5  # a flow read at the face would gain the first power


def test_effective_conductivity_of_layers_is_harmonic_across_and_arithmetic_along():
    layers = np.random.default_rng(0).uniform(0.01, 10, 9)
    field = np.broadcast_to(layers[:, None, None], (9, 4, 3))
    assert ds.effective(field, axis=0) == pytest.approx(1 / np.mean(1 / layers), rel=1e-12)
    assert ds.effective(field, axis=1) == pytest.approx(layers.mean(), rel=1e-12)
    assert ds.effective(layers) == pytest.approx(1 / np.mean(1 / layers), rel=1e-12)


def test_effective_conductivity_lies_between_the_means_and_obeys_keller():
    field = np.exp(np.random.default_rng(1).normal(size=(20, 20)))
    k = ds.effective(field, axis=0)
    assert 1 / np.mean(1 / field) < k < field.mean()
    # Keller: a checkerboard conducts as the geometric mean; corners make the grid converge slowly, the
    # direction holds
    board = np.where(np.add.outer(np.arange(8) // 4, np.arange(8) // 4) % 2, 4.0, 1.0)
    errors = [abs(ds.effective(np.kron(np.tile(board, (1, 1)), np.ones((r, r)))) - 2.0) for r in (1, 4, 16)]
    assert errors[2] < errors[1] < errors[0]
    assert ds.effective(np.zeros((3, 3))) == 0.0
    with pytest.raises(ds.ProblemError, match=">= 0"):
        ds.effective(np.full((3, 3), -1.0))


# --- walls
# ----------------------------------------------------------------------------------------------------------

LAYERS = [
    ("gypsum plasterboard", 0.0125),
    ("mineral wool", 0.16),
    ("solid clay brick 1800", 0.115),
    (0.87, 0.02),
]


def test_wall_equals_resistances_in_series():
    section = ds.wall(LAYERS, 20.0, -10.0)
    conductivities = [0.25, 0.035, 0.81, 0.87]
    flux, faces = exact.layered_wall([t for _, t in LAYERS], conductivities, 20.0, -10.0, 0.13, 0.04)
    assert section.flux == pytest.approx(flux, rel=1e-10)
    assert section.u_value == pytest.approx(flux / 30, rel=1e-10)
    np.testing.assert_allclose(section.interfaces[:, 0], faces, atol=1e-9)
    np.testing.assert_allclose(section.interfaces[:, 1], faces, atol=1e-9)
    assert "mineral wool" in section.explain()


def test_wall_does_not_depend_on_the_grid():
    coarse, fine = (ds.wall(LAYERS, cells=n) for n in (1, 20))
    np.testing.assert_allclose(coarse.interfaces, fine.interfaces, atol=1e-9)


def test_a_gap_between_layers_adds_its_resistance_and_a_step_of_temperature():
    with_gap = ds.wall([LAYERS[0], 0.18, LAYERS[2]], 20.0, 0.0)
    without = ds.wall([LAYERS[0], LAYERS[2]], 20.0, 0.0)
    assert 1 / with_gap.u_value - 1 / without.u_value == pytest.approx(0.18, rel=1e-9)
    assert with_gap.interfaces[1, 0] - with_gap.interfaces[1, 1] == pytest.approx(0.18 * with_gap.flux, rel=1e-9)


def test_wall_without_films_holds_its_faces_and_without_difference_has_no_flow():
    bare = ds.wall([(2.0, 0.5)], 30.0, 10.0, inside_resistance=0, outside_resistance=0)
    assert bare.flux == pytest.approx(80.0)
    np.testing.assert_allclose(bare.interfaces, [[30, 30], [10, 10]], atol=1e-9)
    still = ds.wall(LAYERS, 15.0, 15.0)
    assert still.flux == pytest.approx(0, abs=1e-9)
    assert still.u_value == pytest.approx(ds.wall(LAYERS).u_value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "empty"),
        ([("mineral wolo", 0.1)], "mineral wool"),
        ([(1.0, -0.1)], "thickness"),
        ([(1.0, 0.1), 0.2], "at an end"),
        (["timber"], "give"),
    ],
)
def test_wall_refuses_in_words(layers, words):
    with pytest.raises(ds.ProblemError, match=words):
        ds.wall(layers)


def test_materials_have_sources_and_sane_values():
    table = materials()
    assert len(table) > 50
    for entry in table.values():
        assert 0.01 < entry.conductivity < 1000, entry
        assert 1 < entry.density < 25000, entry
        assert 100 < entry.heat_capacity < 5000, entry
        assert entry.source
    assert material("Copper").diffusivity == pytest.approx(1.166e-4, rel=1e-3)  # 401 / (8933 * 385)


def test_materials_agree_with_an_independent_table(shared_data):
    from diffsim.store import read_csv

    other = read_csv(shared_data / "materials" / "building_materials.csv")
    known = {round(rho * 1e6 + k * 1e3 + cp): name for name, rho, k, cp in zip(*other.columns.values(), strict=True)}
    ours = [m for m in materials().values() if m.source.startswith("EN ISO 10456:2007 table 3")]
    missing = [m.name for m in ours if round(m.density * 1e6 + m.conductivity * 1e3 + m.heat_capacity) not in known]
    assert len(ours) - len(missing) > 0.8 * len(ours), missing


def test_wall_draws_itself(tmp_path):
    ds.wall(LAYERS).plot(tmp_path / "wall.png")
    assert (tmp_path / "wall.png").stat().st_size > 5000


# --- chip
# -----------------------------------------------------------------------------------------------------------

FLOORPLAN = {"a": (2e-3, 4e-3, 0.0, 0.0), "b": (2e-3, 2e-3, 2e-3, 0.0), "c": (2e-3, 2e-3, 2e-3, 2e-3)}
STACK = (Plate("die", 0.3e-3, 100.0, cells=2), Plate("lid", 1e-3, "copper", 8e-3, cells=2))


def test_chip_sheds_what_it_is_given_and_warms_where_the_power_is():
    result = ds.chip(FLOORPLAN, {"a": 1.0, "b": 6.0}, STACK, cells=16, h=3000.0, ambient=300.0)
    assert result.power == 7.0
    assert result.heat_out == pytest.approx(7.0, rel=1e-7)
    assert result.temperature.shape == (16, 16)
    assert result.blocks["b"] == max(result.blocks.values())
    assert result.hottest[0] >= 8
    assert result.hottest[1] < 8
    # the mean rise of the far face is power / (h area)
    lid = np.asarray(result.u)[:, :, -1]
    assert np.nanmin(result.temperature) > np.nanmin(lid) > 300


def test_an_evenly_powered_die_without_overhang_is_a_stack_of_resistances():
    stack = (Plate("die", 0.3e-3, 100.0, cells=2), Plate("lid", 1e-3, 50.0, cells=3))
    area = 16e-6
    even = {name: 8.0 * w * h / area for name, (w, h, _, _) in FLOORPLAN.items()}
    result = ds.chip(FLOORPLAN, even, stack, cells=8, sink_resistance=0.5, ambient=300.0)
    rise = 8.0 * (0.5 + (0.3e-3 / 100 + 1e-3 / 50) / area)
    np.testing.assert_allclose(result.temperature, 300 + rise, rtol=1e-8)


def test_chip_turned_by_a_quarter_turns_its_map():
    turned = {name: (h, w, 4e-3 - y - h, x) for name, (w, h, x, y) in FLOORPLAN.items()}
    power = {"a": 1.0, "b": 6.0, "c": 2.0}
    straight = ds.chip(FLOORPLAN, power, STACK, cells=16, tol=1e-11).temperature
    quarter = ds.chip(turned, power, STACK, cells=16, tol=1e-11).temperature
    np.testing.assert_allclose(quarter, np.rot90(straight), rtol=0, atol=1e-6)


def test_power_is_read_from_files_names_and_lists(tmp_path):
    (tmp_path / "x.flp").write_text(
        "# a floorplan\n" + "".join(f"{n}\t{w}\t{h}\t{x}\t{y}\n" for n, (w, h, x, y) in FLOORPLAN.items())
    )
    (tmp_path / "x.ptrace").write_text("c\ta\tb\n1 0 3\n3 2 5\n")
    expected = ds.chip(FLOORPLAN, {"a": 1.0, "b": 4.0, "c": 2.0}, STACK, cells=8)
    read = ds.chip(tmp_path / "x.flp", tmp_path / "x.ptrace", STACK, cells=8)
    listed = ds.chip(FLOORPLAN, [1.0, 4.0, 2.0], STACK, cells=8)
    np.testing.assert_array_equal(read.temperature, expected.temperature)
    np.testing.assert_array_equal(listed.temperature, expected.temperature)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"power": {"d": 1.0}}, "does not have"),
        ({"power": [1.0]}, "one per block"),
        ({"floorplan": {**FLOORPLAN, "d": (1e-3, 1e-3, 1e-3, 1e-3)}}, "overlap"),
        ({"floorplan": {}}, "floorplan"),
        ({"stack": STACK[::-1]}, "narrower"),
        ({"stack": ()}, "empty"),
        ({"cells": 0}, "cells"),
        ({"sink_resistance": 0.0}, "sink_resistance"),
    ],
)
def test_chip_refuses_in_words(changes, words):
    arguments = {"floorplan": FLOORPLAN, "power": {"a": 1.0}, "stack": STACK, "cells": 8, **changes}
    with pytest.raises(ds.ProblemError, match=words):
        ds.chip(**arguments)


@pytest.mark.slow
def test_ev6_has_its_hottest_cell_where_hotspot_finds_it(shared_data):
    folder = shared_data / "chip_ev6"
    result = ds.chip(folder / "ev6.flp", folder / "gcc.ptrace")
    assert result.hottest == (40, 63)
    assert result.maximum == pytest.approx(346.7, abs=0.5)
    assert result.heat_out == pytest.approx(40.207316, rel=1e-6)
    x, y, t = np.loadtxt(folder / "gcc.grid.steady", unpack=True)
    hotspot = np.zeros((64, 64))
    hotspot[x.astype(int), y.astype(int)] = t
    assert np.corrcoef(result.temperature.ravel(), hotspot.ravel())[0, 1] > 0.999


# --- denoising
# ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slice_of_a_head():
    return sample_slice()


def test_noise_level_finds_the_noise_and_ignores_slopes():
    x, y = np.meshgrid(np.arange(200.0), np.arange(150.0))
    noise = np.random.default_rng(0).normal(0, 3.0, x.shape)
    # 29 000 correlated responses; the median's relative standard error is about 1 %
    assert noise_level(0.5 * x - 2 * y + 0.01 * x * x + noise) == pytest.approx(3.0, rel=0.04)
    assert noise_level(np.full((9, 9), 4.0)) == 0


def test_denoising_a_head_lowers_noise_and_keeps_edges(slice_of_a_head):
    clean = slice_of_a_head
    noisy = clean + np.random.default_rng(0).normal(0, 8.0, clean.shape)
    result = ds.denoise(noisy)
    blurred = ds.denoise(noisy, edge_preserving=False)

    def error(u):
        return np.sqrt(np.mean((u - clean) ** 2))

    assert result.noise_before == pytest.approx(8.0, rel=0.05)
    assert result.noise_after < 0.1 * result.noise_before
    assert error(result.image) < 0.65 * error(noisy)
    assert error(result.image) < 0.9 * error(blurred.image)
    assert edges_kept(clean, result.image) > 0.85
    assert edges_kept(clean, result.image) > edges_kept(clean, blurred.image) + 0.05
    assert "edges" in result.explain()


def test_denoising_keeps_the_mean_makes_no_new_extrema_and_removes_the_noise_it_measured(slice_of_a_head):
    noisy = slice_of_a_head[60:160, 60:160] + np.random.default_rng(1).normal(0, 6.0, (100, 100))
    result = ds.denoise(noisy)
    assert result.image.mean() == pytest.approx(noisy.mean(), rel=1e-12)
    assert noisy.min() <= result.image.min()
    assert result.image.max() <= noisy.max()
    removed = np.sqrt(np.mean((noisy - result.image) ** 2))
    assert removed >= result.noise_before
    shorter = ds.denoise(noisy, until=result.until - result.until / result.steps)
    assert np.sqrt(np.mean((noisy - shorter.image) ** 2)) < result.noise_before


def test_denoising_a_flat_image_or_a_wrong_one():
    flat = ds.denoise(np.full((8, 8), 3.0))
    assert (flat.image == 3.0).all()
    with pytest.raises(ds.ProblemError, match="grey values"):
        ds.denoise(np.zeros(9))
    with pytest.raises(ds.ProblemError, match="NaN"):
        ds.denoise(np.full((8, 8), np.nan))


# --- scripts
# --------------------------------------------------------------------------------------------------------


def run_script(name, *words):
    return importlib.import_module(f"scripts.{name}").main([str(word) for word in words])


def test_script_tortuosity(tmp_path, capsys):
    image = random_image((10, 10, 10), 0.7)
    np.save(tmp_path / "image.npy", image)
    results = run_script("tortuosity", tmp_path / "image.npy", "--box", 8)
    assert [r.tau for r in results] == [ds.tortuosity(image[:8, :8, :8], axis=a).tau for a in range(3)]
    assert "axis 2: tau" in capsys.readouterr().out


def test_script_wall(tmp_path, capsys):
    section = run_script("wall", "--insulation", "polyurethane foam", "--out", tmp_path / "new" / "wall.png")
    assert section.u_value == pytest.approx(1 / (0.17 + 0.015 / 0.4 + 0.355 / 0.81 + 0.16 / 0.025 + 0.18), rel=1e-9)
    assert (tmp_path / "new" / "wall.png").stat().st_size > 5000
    assert "polyurethane" in capsys.readouterr().out


def test_script_chip(tmp_path, capsys):
    (tmp_path / "x.flp").write_text("".join(f"{n} {w} {h} {x} {y}\n" for n, (w, h, x, y) in FLOORPLAN.items()))
    (tmp_path / "x.ptrace").write_text("a b c\n1 2 3\n")
    result = run_script(
        "chip", tmp_path / "x.flp", tmp_path / "x.ptrace", "--cells", 16, "--out", tmp_path / "chip.png"
    )
    assert result.heat_out == pytest.approx(6.0, rel=1e-6)
    assert (tmp_path / "chip.png").stat().st_size > 5000
    assert "hottest cell" in capsys.readouterr().out


def test_script_denoise(tmp_path, capsys):
    image = np.kron([[0.0, 90.0], [200.0, 40.0]], np.ones((20, 20)))
    np.save(tmp_path / "image.npy", image + np.random.default_rng(0).normal(0, 5, image.shape))
    result = run_script("denoise", tmp_path / "image.npy", "--out", tmp_path / "denoised.png")
    assert result.noise_after < 0.2 * result.noise_before
    assert (tmp_path / "denoised.png").stat().st_size > 5000
    assert "plain blur" in capsys.readouterr().out


# --- commands
# -------------------------------------------------------------------------------------------------------


def command(*words):
    """(exit code, standard output) of `diffsim words`."""
    from typer.testing import CliRunner

    from diffsim.cli import app

    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout


def test_command_effective(tmp_path):
    np.save(tmp_path / "field.npy", np.broadcast_to([1.0, 4.0, 1.0], (5, 3)))
    code, out = command("effective", tmp_path / "field.npy", "--axis", 1, "--json")
    assert code == 0
    assert json.loads(out)["effective"] == pytest.approx(3 / (1 + 1 + 0.25), rel=1e-9)


def test_command_wall(tmp_path):
    words = [
        "wall",
        "mineral wool:0.16",
        "0.18",
        "0.81:0.115",
        "--outside",
        "-10",
        "--plot",
        tmp_path / "wall.svg",
    ]
    code, out = command(*words, "--json")
    assert code == 0
    expected = 1 / (0.17 + 0.16 / 0.035 + 0.18 + 0.115 / 0.81)
    assert json.loads(out)["u_value"] == pytest.approx(expected, rel=1e-9)
    assert (tmp_path / "wall.svg").stat().st_size > 1000
    assert "mineral wool" in command(*words)[1]
    assert command("wall", "mineral wool:thick")[0] == 2


def test_command_chip(tmp_path):
    (tmp_path / "x.flp").write_text("".join(f"{n} {w} {h} {x} {y}\n" for n, (w, h, x, y) in FLOORPLAN.items()))
    (tmp_path / "x.ptrace").write_text("a b c\n1 2 3\n")
    code, out = command("chip", tmp_path / "x.flp", tmp_path / "x.ptrace", "--cells", 8, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["heat_out"] == pytest.approx(6.0, rel=1e-6)
    assert set(facts["blocks"]) == set(FLOORPLAN)


def test_command_denoise(tmp_path):
    image = np.kron([[0.0, 90.0], [200.0, 40.0]], np.ones((20, 20)))
    np.save(tmp_path / "image.npy", image + np.random.default_rng(0).normal(0, 5, image.shape))
    code, out = command("denoise", tmp_path / "image.npy", tmp_path / "out.npy", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["noise_after"] < 0.2 * facts["noise_before"]
    assert np.load(tmp_path / "out.npy").shape == image.shape
    assert command("denoise", tmp_path / "image.npy", tmp_path / "out.npy")[0] != 0  # does not overwrite


def test_the_page_on_uses_runs():
    page = (Path(__file__).parents[1] / "docs" / "uses.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(blocks) > 5
    names: dict = {}
    for block in blocks:
        exec(block, names)
