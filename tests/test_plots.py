"""Pictures show the numbers they claim to show, are written whole, and leave nothing behind."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure
from PIL import Image

import diffsim as ds
from diffsim import plots
from diffsim.schemes import SCHEMES
from diffsim.trajectory import Trajectory

WALLS = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)}


@pytest.fixture
def plate():
    return ds.Problem(ds.Grid(shape=(12, 8), lengths=(1.5, 1.0)), diffusivity=0.02, boundary=WALLS)


def run_of(shape, n=5, scheme="ftcs"):
    """Return a hand-made run: a ramp that rises with time."""
    grid = ds.Grid(shape=shape, lengths=tuple(1.0 + a for a in range(len(shape))))
    t = np.linspace(0.0, 2.0, n)
    ramp = sum(grid.mesh()) + np.zeros(shape)
    u = np.array([(1 + k) * ramp for k in range(n)])
    flows = {side: np.sin(t) * (side == "x-") for side in grid.sides}
    return Trajectory(
        t, u, "finished", "", grid, scheme, 0.1, content=u.reshape(n, -1).sum(axis=1), balance=1e-16, flows=flows
    )


def written(path):
    """Return the pixels of a picture, (h, w, 3)."""
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def has_content(ax):
    return bool(ax.lines or ax.collections or ax.images or ax.patches)


# --- what every picture promises ------------------------------------------------------------------------------------


def pictures(tmp_path):
    """Return one call of every function, each writing to its own file."""
    problem = ds.Problem(ds.Grid(shape=(12, 8), lengths=(1.5, 1.0)), diffusivity=0.02, boundary=WALLS)
    box = ds.Grid(shape=(6, 5, 4), lengths=(1.0, 1.0, 1.0))
    predicted = SimpleNamespace(
        u=np.ones((12, 8)), bound=SimpleNamespace(energy_lower=0.1, energy=0.2, l2=0.1, l2_relative=0.05), operator=None
    )
    history = [
        {"epoch": k, "train_l2": 1 / k, "validation_l2": 1.2 / k, "lr": 1e-3, "sharpness": 90.0} for k in (1, 2, 3)
    ]
    return {
        "regions": lambda path: plots.plot_stability(["ftcs", "bdf2"], problem, 0.1, path=path),
        "verdict": lambda path: ds.stability(problem, "rk4", 0.5).plot(path),
        "map": lambda path: plots.step_map(problem, "ftcs", path=path),
        "amplification": lambda path: plots.amplification(path=path),
        "line": lambda path: plots.field(ds.Grid(shape=(9,), lengths=(1.0,)), np.arange(9.0), path),
        "image": lambda path: plots.field(problem.grid, np.arange(96.0).reshape(12, 8), path),
        "slices": lambda path: plots.field(box, np.arange(120.0).reshape(6, 5, 4), path),
        "profiles": lambda path: run_of((9,)).plot(path),
        "frames": lambda path: run_of((9, 6)).plot(path),
        "balance": lambda path: plots.balance(run_of((9,)), path=path),
        "training": lambda path: plots.training_curve(history, path=path),
        "prediction": lambda path: plots.prediction(predicted, truth=np.ones((12, 8)) * 1.1, path=path),
    }


@pytest.mark.parametrize("name", pictures(None))
def test_a_picture_is_written_whole_and_shows_something(name, tmp_path):
    before = dict(rcParams)
    path = tmp_path / f"{name}.png"
    figure = pictures(tmp_path)[name](path)
    assert isinstance(figure, Figure)
    pixels = written(path)
    assert min(pixels.shape[:2]) >= 250
    assert 0.005 < (pixels.sum(axis=2) < 740).mean() < 0.9  # neither blank nor filled
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge > 250).all()  # nothing is cut off at the border
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    shown = [ax for ax in figure.axes if ax.axison]
    assert all(map(has_content, shown))
    assert any(ax.get_xlabel() for ax in shown)
    assert any(ax.get_ylabel() for ax in shown)
    assert dict(rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch, plate):
    monkeypatch.chdir(tmp_path)
    plots.field(plate.grid, np.zeros((12, 8)))
    assert not list(tmp_path.iterdir())


# --- stability --------------------------------------------------------------------------------------------------------


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_the_whole_table_is_drawn_by_default(plate):
    figure = ds.plot_stability(problem=plate)
    shown = titles(figure)
    assert len(shown) == len(SCHEMES)
    assert all(any(row.title in title for title in shown) for row in SCHEMES.values())


def marks(ax, marker):
    """Return the abscissae drawn with `marker`."""
    return np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == marker] or [np.empty(0)])


def test_the_spectrum_on_top_is_the_problems_own_times_dt(plate):
    dt = 1.3 * ds.stability(plate).dt_limit
    figure = plots.plot_stability(["ftcs", "backward-euler"], plate, dt)
    operator = plots.operator_of(plate, None, 0.0)
    root = 1 / np.sqrt(operator.mass.ravel())
    z = -dt * np.linalg.eigvalsh(root[:, None] * operator.matrix().toarray() * root)
    for ax in figure.axes[:2]:
        drawn = np.sort(np.concatenate([marks(ax, "|"), marks(ax, "x")]))
        np.testing.assert_allclose(drawn, np.sort(z), atol=1e-9)
    np.testing.assert_allclose(np.sort(marks(figure.axes[0], "x")), np.sort(z[np.abs(1 + z) > 1 + 1e-9]), atol=1e-9)
    assert marks(figure.axes[1], "x").size == 0  # backward Euler damps every mode


def test_at_the_default_step_no_mode_grows(plate):
    figure = plots.plot_stability(["ftcs", "rk2", "rk4", "rkl1", "tr-bdf2"], plate)
    assert all(marks(ax, "x").size == 0 for ax in figure.axes[:5])


def test_an_infinite_step_falls_back_to_the_default(plate):
    limit = ds.stability(plate, "backward-euler").dt_limit
    assert "dt = " in plots.plot_stability(["ftcs"], plate, limit).get_suptitle()


def test_the_outline_of_ftcs_is_the_unit_circle_around_minus_one():
    figure = plots.plot_stability(["ftcs"])
    outline = next(c for c in figure.axes[0].collections if np.ravel(c.levels).tolist() == [1.0])
    for path in outline.get_paths():
        x, y = path.vertices.T
        np.testing.assert_allclose(np.hypot(x + 1, y), 1.0, atol=5e-4)


def test_a_spectrum_far_out_is_cut_and_named():
    problem = ds.Problem(ds.Grid(shape=(20,), lengths=(1.0,)), diffusivity=1.0)
    end = -ds.stability(problem).spectral_radius
    figure = plots.plot_stability(["ftcs"], problem, 1.0)
    assert f"to {end:.3g}" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_xlim()[0] > 0.01 * end


def test_anything_that_knows_its_amplification_is_drawn():
    """Heavy ball on a quadratic, the state (w, w_before): unstable beyond 2 (1 + momentum)."""
    momentum = 0.6
    ball = SimpleNamespace(
        title="heavy ball",
        amplification=lambda z: np.array([[1 + momentum + z, -momentum], [1.0, 0.0]]),
        real_limit=lambda: 2 * (1 + momentum),
    )
    figure = plots.plot_stability([ball, "ftcs"])
    assert titles(figure) == ["heavy ball", "FTCS (forward Euler)"]
    outline = next(c for c in figure.axes[0].collections if np.ravel(c.levels).tolist() == [1.0])
    leftmost = min(path.vertices[:, 0].min() for path in outline.get_paths())
    assert leftmost == pytest.approx(-2 * (1 + momentum), abs=0.05)


def test_eigenvalues_may_be_given_and_those_of_growth_are_marked():
    values = np.array([-0.1, 0.0, 1.0, 3.0, 4.2])
    figure = plots.plot_stability(["ftcs", "backward-euler"], values, 0.5)
    np.testing.assert_allclose(np.sort(marks(figure.axes[0], "x")), [-2.1, 0.05])
    np.testing.assert_allclose(np.sort(marks(figure.axes[1], "x")), [0.05])
    default = plots.plot_stability(["ftcs"], list(values))  # 2 / 4.2: the largest is exactly on the edge
    np.testing.assert_allclose(marks(default.axes[0], "|").min(), -2.0)
    assert "given" in default.get_suptitle()


@pytest.mark.parametrize("values", [np.zeros((2, 2)), [], [1.0, np.nan], np.array([1j]), "ftcs", 3.0])
def test_what_is_no_spectrum_is_refused(values):
    with pytest.raises(ds.ProblemError, match="eigenvalues"):
        plots.plot_stability(["ftcs"], values)


def test_regions_are_drawn_into_a_part_of_a_figure(plate, tmp_path):
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    assert plots.plot_stability(["ftcs"], plate, figure=left, title="one") is left
    plots.plot_stability(["rk4"], [1.0, 2.0], 1.0, figure=right, title="two")
    assert [part.get_suptitle() for part in (left, right)] == ["one", "two"]
    assert len(left.axes) == len(right.axes) == 2  # a region and its colour bar each
    figure.savefig(tmp_path / "both.png")
    with pytest.raises(ds.ProblemError, match="part of a figure"):
        plots.plot_stability(["ftcs"], plate, figure=left, path=tmp_path / "left.png")


@pytest.mark.parametrize("schemes", [[], ["euler"], [object()]])
def test_what_has_no_region_is_refused(schemes):
    with pytest.raises(ds.ProblemError):
        plots.plot_stability(schemes)


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_every_scheme_has_a_verdict_picture(scheme, plate):
    figure = ds.stability(plate, scheme, 2.0).plot()
    line = next(line for line in figure.axes[0].lines if line.get_label().startswith("R("))
    x, y = line.get_data()
    shown = np.isfinite(y)
    stages = ds.stability(plate, scheme, 2.0).stages
    np.testing.assert_allclose(y[shown], np.real(SCHEMES[scheme].R(-x[shown].astype(float), stages)), atol=1e-12)


def test_auto_has_no_verdict_picture(plate):
    with pytest.raises(ds.ProblemError, match="auto"):
        ds.stability(plate, "auto").plot()


@pytest.mark.parametrize("scheme", ["ftcs", "rkl2", "rock2", "crank-nicolson", "backward-euler", "bdf2", "exact"])
def test_the_step_map_draws_the_limit_of_the_problem(scheme, plate):
    figure = plots.step_map(plate, scheme)
    verdict = ds.stability(plate, scheme)
    here = min(plate.grid.spacing)
    labels = {line.get_label(): line for line in figure.axes[0].lines}
    limit = [line for label, line in labels.items() if label.startswith("limit")]
    assert bool(limit) == np.isfinite(verdict.dt_limit)
    if limit:
        dx, dt = limit[0].get_data()
        np.testing.assert_allclose(dt, verdict.dt_limit * (dx / here) ** 2, rtol=1e-12)


def test_amplification_lines_are_R_at_the_wavenumber():
    figure = plots.amplification(["crank-nicolson"], fourier=(2.0,))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    angle, value = lines["Crank-Nicolson"].get_data()
    x = 8.0 * np.sin(angle / 2) ** 2
    np.testing.assert_allclose(value, (1 - x / 2) / (1 + x / 2), atol=1e-14)


# --- fields ------------------------------------------------------------------------------------------------------------


def mesh_of(ax):
    return next(c for c in ax.collections if hasattr(c, "get_coordinates"))


def test_an_image_has_x_to_the_right_true_aspect_and_grey_voids(plate):
    u = np.arange(96.0).reshape(12, 8)
    u[3, 2] = np.nan
    ax = plots.field(plate.grid, u).axes[0]
    shown = mesh_of(ax).get_array()
    assert ax.get_aspect() == 1.0
    assert ax.get_xlim() == (0.0, 1.5)
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan).reshape(8, 12), u.T)
    assert shown.reshape(8, 12).mask[2, 3]


def test_stretched_cells_keep_their_edges():
    edges = [np.linspace(0, 1, 7) ** 2, np.linspace(0, 2, 4)]
    grid = ds.Grid.from_edges(edges)
    corners = mesh_of(plots.field(grid, np.zeros(grid.shape)).axes[0]).get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], edges[0])
    np.testing.assert_allclose(corners[:, 0, 1], edges[1])


def test_signed_fields_are_symmetric_about_zero(plate):
    u = np.linspace(-1.0, 3.0, 96).reshape(12, 8)
    norm = mesh_of(plots.field(plate.grid, u, signed=True).axes[0]).norm
    assert (norm.vmin, norm.vmax) == (-3.0, 3.0)


def test_a_constant_field_is_drawn(plate):
    norm = mesh_of(plots.field(plate.grid, np.full((12, 8), 7.0)).axes[0]).norm
    assert norm.vmin < 7.0 < norm.vmax


def test_a_field_of_another_shape_is_refused(plate):
    with pytest.raises(ds.ProblemError, match=r"\(8, 12\); this grid has \(12, 8\)"):
        plots.field(plate.grid, np.zeros((8, 12)))


@pytest.mark.parametrize("shape", [(9, 6), (9, 6, 4)])
def test_frames_share_one_scale_and_include_both_ends(shape):
    run = run_of(shape, n=12)
    figure = plots.frames(run, count=4)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in (panels[0], panels[-1])] == ["t = 0 s", "t = 2 s"]
    assert len({(mesh_of(ax).norm.vmin, mesh_of(ax).norm.vmax) for ax in panels}) == 1
    last = run.u[-1] if len(shape) == 2 else run.u[-1][:, :, 2]
    np.testing.assert_array_equal(np.ravel(mesh_of(panels[-1]).get_array()), last.T.ravel())


@pytest.mark.parametrize(("shape", "n", "expected"), [((9,), 4, 4), ((8, 6), 3, 3), ((5, 4, 3), 2, 2)])
def test_an_animation_has_one_picture_per_frame(shape, n, expected, tmp_path):
    run_of(shape, n).animate(tmp_path / "run.gif")
    with Image.open(tmp_path / "run.gif") as gif:
        assert gif.format == "GIF"
        assert gif.n_frames == expected
        first = np.asarray(gif.convert("RGB"), dtype=int)
        gif.seek(expected - 1)
        last = np.asarray(gif.convert("RGB"), dtype=int)
    assert np.abs(first - last).max() > 30  # it moves
    assert (first[0, 0] == 255).all()  # white paper


@pytest.mark.slow
def test_an_animation_has_at_most_200_pictures(tmp_path):
    run_of((9,), 500).animate(tmp_path / "run.gif")
    with Image.open(tmp_path / "run.gif") as gif:
        assert gif.n_frames == 200


def test_the_balance_picture_shows_content_and_moving_sides_only():
    run = run_of((9,))
    top, bottom = plots.balance(run).axes
    np.testing.assert_array_equal(top.lines[0].get_ydata(), run.content)
    assert [text.get_text() for text in bottom.get_legend().get_texts()] == ["x-"]


# --- surrogates ----------------------------------------------------------------------------------------------------------


def test_a_prediction_is_shown_with_truth_error_and_bound(plate):
    operator = plots.operator_of(plate, None, 0.0)
    truth = np.linalg.solve(operator.matrix().toarray(), operator.forcing(0.0).ravel()).reshape(12, 8)
    u = truth + 0.01 * np.sin(5 * plate.grid.mesh()[0])
    bound = SimpleNamespace(energy_lower=0.01, energy=0.05, l2=0.1, l2_relative=0.04)
    figure = plots.prediction(SimpleNamespace(u=u, bound=bound, operator=operator), truth=truth)
    shown = {ax.get_title(): ax for ax in figure.axes if ax.get_title()}
    assert list(shown) == ["prediction", "truth", "prediction − truth", "relative error, guaranteed"]
    norms = [mesh_of(shown[name]).norm for name in ("prediction", "truth", "prediction − truth")]
    assert (norms[0].vmin, norms[0].vmax) == (norms[1].vmin, norms[1].vmax)
    assert norms[2].vmin == -norms[2].vmax
    points = [line.get_xdata()[0] for line in shown["relative error, guaranteed"].lines]
    error = (u - truth).ravel()
    assert points[1] == pytest.approx(
        np.sqrt(error @ operator.matrix() @ error / (truth.ravel() @ operator.matrix() @ truth.ravel()))
    )
    assert points[4] == pytest.approx(np.linalg.norm(error) / np.linalg.norm(truth))


@pytest.mark.parametrize("shape", [(9,), (9, 6), (6, 5, 4)])
@pytest.mark.parametrize("with_bound", [True, False])
@pytest.mark.parametrize("with_truth", [True, False])
def test_a_prediction_is_drawn_in_every_dimension_with_what_is_known(shape, with_bound, with_truth):
    bound = SimpleNamespace(energy_lower=0.1, energy=0.2, l2=0.1, l2_relative=np.inf) if with_bound else None
    u = np.random.default_rng(0).normal(size=shape)
    figure = plots.prediction(SimpleNamespace(u=u, bound=bound), truth=u + 0.1 if with_truth else None)
    assert figure.axes[0].get_xlabel() == "x [cells]"


def test_an_empty_history_is_refused():
    with pytest.raises(ds.ProblemError, match="history is empty"):
        plots.training_curve([])


def test_the_training_curve_marks_the_best_epoch():
    history = [
        {"epoch": k, "train_l2": 1 / k, "validation_l2": v, "lr": 1e-3} for k, v in enumerate((0.5, 0.2, 0.3), 1)
    ]
    legend = plots.training_curve(history).axes[0].get_legend()
    assert "best: 0.2 at epoch 2" in [text.get_text() for text in legend.get_texts()]
