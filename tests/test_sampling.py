"""Distributions of problems: reproducible, independent of the grid, and what they say they are."""

import numpy as np
import pytest

import diffsim as ds
from surrogate.sampling import SPECS, Spec

every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=lambda s: s.name)


@every_spec
def test_an_item_depends_on_seed_and_number_alone(spec):
    first, again, other = (spec.problem(7, i, 12) for i in (5, 5, 6))
    assert np.array_equal(first.diffusivity, again.diffusivity)
    assert np.array_equal(first.source.steady, again.source.steady)
    assert not np.array_equal(first.diffusivity, other.diffusivity)


@every_spec
@pytest.mark.parametrize("cells", [1 << 16, 300])
def test_items_drawn_together_have_the_bits_of_each_alone(spec, cells, monkeypatch):
    alone = [spec.problem(7, i, 12) for i in (3, 4, 9)]
    monkeypatch.setattr("surrogate.sampling._CELLS", cells)
    for one, other in zip(alone, spec.problems(7, [3, 4, 9], 12), strict=True):
        assert np.array_equal(one.diffusivity, other.diffusivity)
        assert np.array_equal(one.source.steady, other.source.steady)
        assert [vars(side) for side in one.boundary.values()] == [vars(side) for side in other.boundary.values()]


@every_spec
def test_a_seed_is_the_same_medium_on_every_grid(spec):
    coarse, fine = (np.asarray(spec.problem(3, 2, n).diffusivity) for n in (8, 24))
    centers = fine[(slice(1, None, 3),) * spec.ndim]  # of cells three times finer, one lies at each coarse centre
    np.testing.assert_allclose(centers, coarse, rtol=1e-10)


@every_spec
def test_every_item_can_be_posed_and_has_a_value_held_somewhere(spec):
    for i in range(5):
        sides = spec.problem(0, i, 8).boundary.values()
        assert any(side.kind == "value" for side in sides)


def test_darcy_is_the_published_field():
    # coefficients tau^(alpha-1) (pi^2 |k|^2 + tau^2)^(-alpha/2) on cosines of mean square 1, thresholded at 0 to 12 and 3
    spec, n = SPECS["darcy"], 16
    rng = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(9, 0)))
    k = np.arange(spec.modes)
    rng.integers(1)  # which tau: there is one
    xi = rng.standard_normal((64, 64)) * 3 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    xi[0, 0] = 0
    x = (np.arange(n) + 0.5) / n
    field = sum(
        xi[p, q] * np.outer(np.cos(p * np.pi * x), np.cos(q * np.pi * x)) * 2 ** (0.5 * (p > 0) + 0.5 * (q > 0))
        for p in range(64)
        for q in range(64)
    )
    np.testing.assert_array_equal(spec.problem(4, 9, n).diffusivity, np.where(field >= 0, 12.0, 3.0))


def test_contrast_is_what_was_asked_for():
    layers = Spec.of({"base": "layers", "name": "l", "contrast": [1e4, 1e4], "pieces": [6, 6]})
    inclusions = Spec.of({"base": "inclusions", "name": "i", "contrast": [50.0, 50.0]})
    for i in range(5):
        assert np.ptp(np.log(layers.problem(0, i, 64).diffusivity)) <= np.log(1e4)
        values = np.unique(inclusions.problem(0, i, 64).diffusivity)
        assert values.max() / values.min() == pytest.approx(50.0)


def test_the_streams_of_ingredients_are_separate():
    plain, driven = SPECS["darcy"].problem(1, 1, 8), SPECS["mixed"].problem(1, 1, 8)
    np.testing.assert_array_equal(plain.diffusivity, driven.diffusivity)


def test_a_spec_is_its_dict_and_its_file(tmp_path):
    spec = Spec.of({"base": "transient", "name": "mine", "tau": [4.0, 9.0], "noise": 0.02})
    assert Spec.of(spec.as_dict()) == spec
    path = tmp_path / "mine.toml"
    path.write_text('base = "transient"\ntau = [4.0, 9.0]\nnoise = 0.02\n')
    assert Spec.of(path) == spec
    assert Spec.of(str(path)).name == "mine"


def test_sensors_see_what_they_should():
    spec = Spec.of({"base": "transient-sensors", "name": "s", "sensors": 9, "noise": 0.01})
    frames = np.random.default_rng(0).normal(size=(spec.frames, 16, 16))
    where, seen = spec.observe(3, 1, frames)
    assert where.shape == (9,)
    assert (~np.isnan(seen)).reshape(spec.frames, -1).sum(axis=1).tolist() == [9] * spec.frames
    noise = (seen - frames).reshape(spec.frames, -1)[:, where]
    assert 0.005 * np.ptp(frames) < noise.std() < 0.02 * np.ptp(frames)
    np.testing.assert_array_equal(spec.observe(3, 1, frames)[1], seen)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("darci", "Did you mean 'darcy'"),
        ({"name": "x", "medum": "layers"}, "did you mean|Did you mean 'medium'"),
        ({"name": "x", "medium": "layer"}, "Did you mean 'layers'"),
        ({"name": "x", "ndim": 4}, "ndim"),
        ({"name": "x", "low": -1.0}, "low"),
        ({"name": "x", "high": float("nan")}, "high"),
        ({"name": "x", "contrast": [10.0, 2.0]}, "contrast"),
        ({"name": "x", "sensors": 5}, "frames"),
        ({"name": "x", "frames": 1}, "frames"),
        ({"medium": "layers"}, "name"),
    ],
)
def test_impossible_specs_are_refused(given, words):
    with pytest.raises(ds.ProblemError, match=words):
        Spec.of(given)


def test_impossible_items_are_refused():
    for arguments in ((-1, 0, 8), (0, -1, 8), (0, 0, 1), (0, 0, 8.0), (True, 0, 8)):
        with pytest.raises(ds.ProblemError):
            SPECS["darcy"].problem(*arguments)
