"""A configuration file poses the same problem as the Python names do, and says what is wrong where it cannot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffsim as ds
from diffsim import config, store
from diffsim.errors import ProblemError, StoreError


@pytest.fixture
def write(tmp_path):
    """Write a file, read it as a configuration."""

    def make(text: str, *overrides: str) -> config.Configuration:
        (tmp_path / "run.toml").write_text(text)
        return config.read(tmp_path / "run.toml", overrides)

    return make


PLATE = """
[grid]
shape = [6, 4]
lengths = [1.5, 1.0]
[problem]
diffusivity = 2.0
[boundary.x-]
kind = "value"
value = 1.0
[boundary."x+"]
kind = "robin"
h = 2.0
ambient = 0.5
[run]
until = 0.1
"""


def matrix(problem):
    from diffsim.operator import discretize

    operator = discretize(problem)
    return operator.matrix().toarray(), operator.forcing(0.0)


def assert_same(one: ds.Problem, other: ds.Problem):
    for a, b in zip(matrix(one), matrix(other), strict=True):
        np.testing.assert_array_equal(a, b)


def plate(**changes) -> ds.Problem:
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.5)}
    grid = ds.Grid(shape=(6, 4), lengths=(1.5, 1.0))
    return ds.Problem(grid, **{"diffusivity": 2.0, "boundary": sides, **changes})


def test_a_file_poses_the_problem_that_python_poses(write):
    assert_same(write(PLATE).problem(), plate())


def test_the_example_of_init_is_a_valid_configuration(write):
    example = write(config.EXAMPLE.format(name="run.toml"))
    assert example.problem().grid.shape == (96, 48)
    assert example.simulation()["until"] == 60.0
    assert example.file.sweep.steps == [10, 100, 1000]


def test_every_key_of_the_problem_reaches_it(write, tmp_path, rng):
    field = rng.random((6, 4)) + 1
    store.write_npy(tmp_path / "k.npy", field)
    (tmp_path / "power.csv").write_text("t,p\n0,0\n1,2\n")
    text = PLATE.replace(
        "diffusivity = 2.0",
        'diffusivity = { file = "k.npy" }\ncapacity = 3.0\nloss = 0.1\nambient = 4.0\n'
        'source = { series = "power.csv", time = "t", column = "p" }\n'
        "contacts = [{ axis = 'x', position = 0.5, resistance = 0.25 }]\n",
    )
    posed = write(text).problem()
    expected = plate(
        diffusivity=field,
        capacity=3.0,
        loss=0.1,
        ambient=4.0,
        source=ds.TimeSeries(np.array([0.0, 1.0]), np.array([0.0, 2.0])),
        contacts=(("x", 0.5, 0.25),),
    )
    assert_same(posed, expected)
    assert posed.source(0.5) == 1.0 and posed.capacity == 3.0


def test_later_regions_override_earlier_ones(write):
    regions = """
    [[region]]
    box = { x = [0.0, 0.75] }
    diffusivity = 5.0
    source = 1.0
    [[region]]
    box = { x = [0.5, 1.0], y = [0.0, 0.5] }
    diffusivity = 7.0
    active = false
    """
    posed = write(PLATE + regions).problem()
    d = np.full((6, 4), 2.0)
    d[:3] = 5.0
    d[2:4, :2] = 0.0  # void cells hold no coefficient
    np.testing.assert_array_equal(posed.diffusivity, d)
    assert posed.active.sum() == 20 and not posed.active[2:4, :2].any()


def test_anisotropy_and_tensors(write):
    by_axis = write(PLATE, "problem.diffusivity={x = 1.0, y = 3.0}").problem()
    assert_same(by_axis, plate(diffusivity=ds.PerAxis(1.0, 3.0)))
    tensor = write(PLATE, "problem.diffusivity={xx = 2.0, xy = 0.5, yy = 1.0}").problem()
    assert tensor.diffusivity.xy == 0.5
    with pytest.raises(ProblemError, match="each of x, y"):
        write(PLATE, "problem.diffusivity={x = 1.0}").problem()


def test_sides_with_patches(write):
    patch = '[boundary.y-]\nkind = "flux"\nflux = 0.0\npatches = [{ box = { x = [0.5, 1.0] }, kind = "value", value = 9.0 }]\n'
    mask = np.array([0, 0, 1, 1, 0, 0], bool)
    sides = {
        "x-": ds.Dirichlet(1.0),
        "x+": ds.Robin(h=2.0, ambient=0.5),
        "y-": ds.Patches(ds.Neumann(0.0), [(mask, ds.Dirichlet(9.0))]),
    }
    assert_same(write(PLATE + patch).problem(), plate(boundary=sides))


def test_pictures_are_seen_with_y_upwards_and_grey_is_mapped(write, tmp_path):
    picture = np.zeros((4, 6), "u1")
    picture[0, 5] = 255  # top right
    Image.fromarray(picture).save(tmp_path / "map.png")
    posed = write(PLATE, 'problem.diffusivity={file = "map.png", black = 1.0, white = 3.0}').problem()
    expected = np.ones((6, 4))
    expected[5, 3] = 3.0
    np.testing.assert_array_equal(posed.diffusivity, expected)
    labels = write(PLATE, 'problem.diffusivity={file = "map.png", values = {"0" = 4.0, "255" = 5.0}}').problem()
    np.testing.assert_array_equal(labels.diffusivity, np.where(expected == 3, 5.0, 4.0))
    masked = write(PLATE, 'problem.active={file = "map.png", equals = [0]}').problem()
    np.testing.assert_array_equal(masked.active, expected == 1)
    with pytest.raises(ProblemError, match=r"labels \[255\]"):
        write(PLATE, 'problem.diffusivity={file = "map.png", values = {"0" = 4.0}}').problem()


def test_edges_and_geometries(write):
    text = '[grid]\nedges = [[0.5, 1.0, 2.0]]\ngeometry = "spherical"\n[problem]\ndiffusivity = 1.0\n'
    grid = write(text).grid()
    np.testing.assert_array_equal(grid.edges[0], [0.5, 1.0, 2.0])
    assert grid.geometry == "spherical"
    with pytest.raises(ProblemError, match="one or the other"):
        write(text.replace("edges", "shape = [3]\nedges")).grid()


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("111 mm^2/s", "[length]**2/[time]", 1.11e-4),
        ("10 min", "[time]", 600.0),
        ("20 degC", "[temperature]", 293.15),
        ("5 W/m^2/K", None, 5.0),
        ("1e-3 mm²/s", None, 1e-9),
        (7, "[time]", 7.0),
    ],
)
def test_units_are_converted_to_si(text, dimension, value):
    assert config.number("key", text, dimension) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    "text", ["10 kg", "ten s", "9**9**9 s", "5 parsnips", "__import__('os')", "1", "1 s; 2", "nan s"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ProblemError, match="key ="):
        config.number("key", text, "[time]")


def test_overrides_win_and_are_listed_with_their_origin(write):
    changed = write(PLATE, "problem.diffusivity=3", "run.scheme=rk4", 'boundary."x+".h=7.5', "grid.shape=[3,2]")
    assert changed.problem().boundary["x+"].h == 7.5
    assert changed.simulation()["scheme"] == "rk4"
    origins = {key: (value, origin) for key, value, origin in changed.listing()}
    assert origins["problem.diffusivity"] == (3.0, "--set")
    assert origins["grid.lengths"] == ([1.5, 1.0], "file")
    assert origins["problem.capacity"] == (1.0, "default")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("problem.diffusvity=1", "did you mean 'diffusivity'"),
        ("boundary.x-.valu=3", "did you mean 'value'"),
        ("region=[{box = {x = [0, 1]}, diffusivty = 3}]", "did you mean 'diffusivity'"),
        ("problm=3", "did you mean 'problem'"),
        ("problem.diffusivity=true", "must be a valid number"),
        ("problem.diffusivity=nan", "finite"),
        ("problem.diffusivity=-1", "diffusivity = -1 must be >= 0"),
        ("problem.diffusivity=0", "nothing diffuses"),
        ("problem.diffusivity=[1.0, 2.0]", r"shape \(2,\), but \(6, 4\)"),
        ("problem.diffusivity=[[1.0], [1.0, 2.0]]", "equal lengths"),
        ("problem.source={sries = 'x.csv'}", "unknown key 'problem.source.sries'"),
        ("problem.source={file = 'map.png', black = 1.0}", "cannot read|black and white"),
        ("grid.shape=[3.0, 2]", "valid integer"),
        ("grid.shape=[0, 4]", "at least 1 cell"),
        ("grid.lengths=[1.0]", "lengths has 1 entries"),
        ("boundary.x-.kind=dirichlet", "'value', 'flux', 'robin'"),
        ("boundary.x-.h=3.0", "takes 'value'"),
        ("boundary.q={kind = 'flux', flux = 0.0}", "does not have"),
        ("run.until=10 kg", r"\[time\] is needed"),
        ("run.save=2.5", "valid integer"),
        ("run.steady=-1.0", "must be > 0"),
        ("region=[{box = {x = [5, 6]}, diffusivity = 1.0}]", "no cell centre"),
        ("run.until.x=3", "is a value here"),
        ("until", "key=value"),
    ],
)
def test_a_mistake_is_named_with_its_key(write, override, words):
    with pytest.raises((ProblemError, StoreError), match=words):
        read_all(write(PLATE, override))


def read_all(made: config.Configuration):
    made.problem(), made.simulation(), made.initial()


def test_missing_tables_are_named(write):
    with pytest.raises(ProblemError, match="empty"):
        write("")
    with pytest.raises(ProblemError, match="'problem' is missing"):
        write("[grid]\nshape = [3]\nlengths = [1.0]\n")
    with pytest.raises(ProblemError, match=r"run\.until is missing"):
        write(PLATE.replace("until = 0.1", "")).simulation()


def test_parameters_to_fit_are_keys_of_the_file(write):
    made = write(PLATE)
    of = made.problem_of(["problem.diffusivity", "boundary.x+.h"])
    assert_same(of(np.array([2.0, 2.0])), plate())
    assert of([4.0, 3.0]).diffusivity == 4.0
    assert made.guess(["problem.diffusivity"]) == [2.0]
    with pytest.raises(ProblemError, match=r"run\.scheme"):
        made.problem_of(["run.scheme"])


def test_the_examples_of_the_documentation_are_valid(write):
    page = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
    whole, fit = (block.split("```")[0] for block in page.split("```toml\n")[1:])
    posed = write(whole)
    read_all(posed)
    assert posed.simulation()["until"] == 3600.0 and posed.grid().lengths[1] == 0.1
    assert posed.problem().diffusivity[-1, 0] == 0.04
    assert write(whole + fit).file.fit.columns == [4, 6]
