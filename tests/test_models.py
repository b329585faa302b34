"""What every architecture promises for any weights: shapes, exact equivariances, files that read back the same."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import spsolve

from diffsim import Dirichlet, Grid, Neumann, PerAxis, Periodic, Problem, Robin, Tensor
from diffsim.errors import ProblemError, StoreError
from diffsim.operator import discretize
from surrogate import fields, models
from surrogate.checkpoint import MODEL, Card, Surrogate, load
from surrogate.models.multigrid import Residual

every_model = pytest.mark.parametrize("name", models.MODELS)

# small enough to build quickly; the property must hold for any size
SMALL = {
    "multigrid": {"width": 6, "cycles": 2, "levels": 2, "depth": 1, "coarse": 1},
    "fno": {"width": 6, "layers": 2, "modes": 3},
    "unet": {"width": 4, "levels": 2, "normalisation": "batch"},
    "resnet": {"width": 6, "blocks": 2, "normalisation": "spectral"},
    "deeponet": {"width": 4, "basis": 8, "levels": 2},
    "pod-ridge": {"modes": 3},
    "convlstm": {"width": 4, "levels": 2},
    "attention": {"width": 8, "heads": 2, "blocks": 1, "local": 4},
    "closure": {"width": 4, "depth": 1},
    "graph": {"width": 6, "cycles": 2, "levels": 2, "depth": 1, "coarse": 1},
}


def surrogate(name, shape=(12, 12), seed=0):
    torch.manual_seed(seed)
    card = Card(name, SMALL[name], "coefficients", fields.channels(len(shape)), fields.FORCINGS, shape)
    return Surrogate(card, card.build())


def plate(c=1.0, s=1.0, shift=0.0, shape=(12, 12), source=1.0, seed=0):
    """All kinds of sides at once: D, h and b times c; sources and fluxes times s; values times s / c, plus a shift."""
    rng = np.random.default_rng(seed)
    return Problem(
        Grid(shape=shape, lengths=(1.0, 1.5)),
        diffusivity=c * np.exp(rng.normal(size=shape)),
        source=s * source * rng.normal(size=shape),
        loss=c * 0.7,
        ambient=0.4 * s / c + shift,
        boundary={
            "x-": Dirichlet(2.0 * s / c + shift),
            "x+": Robin(h=3.0 * c, ambient=-1.0 * s / c + shift),
            "y-": Neumann(0.5 * s),
        },
    )


@every_model
@pytest.mark.parametrize("shape", [(13,), (12, 12), (9, 14), (6, 7, 8)], ids=str)
def test_a_network_answers_in_the_shape_of_the_grid(name, shape):
    rng = np.random.default_rng(0)
    grid = Grid(shape=shape, lengths=(1.0,) * len(shape))
    sides = {"x-": Dirichlet(1.0)}
    problems = [Problem(grid, diffusivity=np.exp(rng.normal(size=shape)), source=k, boundary=sides) for k in (0.0, 1.0)]
    torch.manual_seed(0)
    network = models.build(name, fields.channels(len(shape)), 3, shape, **SMALL[name]).eval()
    out = answer(network, fields.from_problems(problems))
    assert out.shape == (2, 1, *shape)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", [n for n in models.MODELS if n != "closure"])
@pytest.mark.parametrize("shape", [(13,), (6, 9), (4, 5, 6)], ids=str)
@pytest.mark.parametrize("k", [2, 5])
def test_a_network_answers_frames_in_the_shape_of_the_grid(name, shape, k):
    rng = np.random.default_rng(0)
    inputs = fields.from_frames(np.arange(float(k)), rng.normal(size=(2, k, *shape)))
    channels = inputs.coefficients.shape[1], inputs.forcing.shape[1]
    assert fields.frames_in(*channels) == k
    assert not fields.frames_in(fields.channels(len(shape)), fields.FORCINGS + 1)
    torch.manual_seed(0)
    network = models.build(name, *channels, shape, **SMALL[name]).eval()
    out = answer(network, inputs)
    assert out.shape == (2, 1, *shape)
    assert torch.isfinite(out).all()


@every_model
def test_scaling_the_problem_scales_the_answer(name):
    model = surrogate(name)
    u = model.fields([plate()])[0]
    for c, s in ((7.3e5, 1.0), (1.0, 3.1e-6), (2.7e-4, 5.9e3)):
        np.testing.assert_allclose(model.fields([plate(c, s)])[0] / (s / c), u, rtol=0, atol=1e-5 * np.abs(u).max())


@every_model
def test_shifting_all_values_shifts_the_answer(name):
    model = surrogate(name)
    u = model.fields([plate()])[0]
    np.testing.assert_allclose(model.fields([plate(shift=40.0)])[0] - 40.0, u, rtol=0, atol=1e-5 * np.abs(u).max())


@every_model
def test_equal_values_all_around_are_answered_exactly(name):
    grid = Grid(shape=(12, 12), lengths=(1.0, 1.0))
    problem = Problem(grid, diffusivity=2.0, boundary={"x": Dirichlet(300.15), "y-": Robin(h=2.0, ambient=300.15)})
    np.testing.assert_allclose(surrogate(name).fields([problem])[0], 300.15, rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "options"), [("multigrid", {"residual": False}), ("multigrid", {"residual": True}), ("graph", {})]
)
def test_the_networks_that_say_so_are_linear_in_the_right_hand_side(name, options):
    torch.manual_seed(0)
    options = {**SMALL[name], **options}
    card = Card(name, options, "coefficients", fields.channels(2), fields.FORCINGS, (12, 12))
    model = Surrogate(card, card.build())

    def answer(source, left):
        grid = Grid(shape=(12, 12), lengths=(1.0, 1.0))
        d = np.exp(np.random.default_rng(1).normal(size=grid.shape))
        sides = {"x-": Dirichlet(left), "x+": Dirichlet(-left), "y-": Neumann(left)}
        return model.fields([Problem(grid, diffusivity=d, source=source, boundary=sides)])[0]

    f = np.random.default_rng(2).normal(size=(12, 12))
    together = answer(3 * f, -2.0)
    np.testing.assert_allclose(together, 3 * answer(f, 0.0) - 2 * answer(0.0, 1.0), atol=2e-5 * np.abs(together).max())


@pytest.mark.parametrize("problem", [plate(), plate(shift=5.0, shape=(9, 14))])
def test_coefficients_and_forcing_determine_the_equilibrium(problem):
    """K and F rebuilt from the channels alone give the equilibrium back: nothing is lost on the way."""
    inputs = fields.from_problems([problem])
    shape, n = problem.grid.shape, max(problem.grid.shape)
    c, f = inputs.coefficients[0].astype(float), inputs.forcing[0].astype(float)
    index = np.arange(np.prod(shape)).reshape(shape)
    matrix = np.diag(np.expm1(c[8].ravel()) / n**2)
    for axis in range(2):
        for end, step in ((0, -1), (1, 1)):
            g = np.where(c[4 + 2 * axis + end] < 0, 0.0, np.exp(c[2 * axis + end]))
            for cell in np.ndindex(shape):
                other = list(cell)
                other[axis] += step
                i = index[cell]
                matrix[i, i] += g[cell]
                if 0 <= other[axis] < shape[axis]:
                    matrix[i, index[tuple(other)]] -= g[cell]
    rhs = (f[0] / n**2 + f[1] + f[2] / n) / fields.RESPONSE
    u = inputs.physical(np.linalg.solve(matrix, rhs.ravel()).reshape(1, 1, *shape))[0]
    operator = discretize(problem)
    exact = spsolve(operator.matrix().tocsc(), operator.forcing(0.0).ravel()).reshape(shape)
    np.testing.assert_allclose(u, exact, rtol=0, atol=1e-4 * np.abs(exact).max())  # float32 channels
    np.testing.assert_allclose(
        inputs.physical(inputs.normalised(exact[None])[:, :])[0], exact, atol=1e-5 * np.abs(exact).max()
    )


@pytest.mark.parametrize(
    "sides", [{"x-": Dirichlet(1.0), "y": Neumann(0.3)}, {"x": Periodic(), "y-": Robin(h=2.0)}], ids=str
)
def test_the_residual_in_a_learned_solver_is_that_of_the_problem(sides):
    rng = np.random.default_rng(0)
    grid = Grid(shape=(8, 12), lengths=(1.0, 1.0))
    problem = Problem(grid, diffusivity=np.exp(rng.normal(size=grid.shape)), source=2.0, loss=0.5, boundary=sides)
    inputs = fields.from_problems([problem])
    operator = discretize(problem)
    u = rng.normal(size=grid.shape)
    residual = (operator.forcing(0.0) - operator.apply(operator.pad(u))).reshape(grid.shape)
    inner = torch.from_numpy(inputs.normalised(u[None]))
    got = Residual(torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing))(inner)[0, 0].numpy()
    ratio = residual / got
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)
    equilibrium = spsolve(operator.matrix().tocsc(), operator.forcing(0.0).ravel()).reshape(1, *grid.shape)
    rest = Residual(torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing))
    settled = rest(torch.from_numpy(inputs.normalised(equilibrium)))
    assert settled.abs().max() < 1e-3 * rest(torch.zeros_like(settled)).abs().max()


def test_a_learned_solver_needs_a_problem():
    with pytest.raises(ProblemError, match="task='coefficients'"):
        models.build("multigrid", 17, 16, (8, 8), residual=True)


def test_a_symmetry_of_the_fields_is_the_symmetry_of_the_problem():
    rng = np.random.default_rng(0)
    d, f = np.exp(rng.normal(size=(2, 8, 8)))
    sides = {"x-": Dirichlet(1.0), "x+": Neumann(2.0), "y-": Robin(h=3.0), "y+": Neumann(0.0)}
    moved_to = {  # flip x, then swap the axes: where each side ends up
        "x-": "y+", "x+": "y-", "y-": "x-", "y+": "x+",
    }  # fmt: skip
    grid = Grid(shape=(8, 8), lengths=(1.0, 1.0))
    turn = lambda a: a[::-1].T  # noqa: E731
    turned = Problem(grid, diffusivity=turn(d), source=turn(f), boundary={moved_to[k]: v for k, v in sides.items()})
    symmetry = fields.Symmetry(flips=(True, False), order=(1, 0))
    before = fields.from_problems([Problem(grid, diffusivity=d, source=f, boundary=sides)])
    after = fields.from_problems([turned])
    got = symmetry(torch.from_numpy(before.coefficients), before.directional).numpy()
    np.testing.assert_allclose(got, after.coefficients, atol=1e-6)
    np.testing.assert_allclose(symmetry(torch.from_numpy(before.forcing)).numpy(), after.forcing, atol=1e-6)


def test_boxes_have_as_many_symmetries_as_geometry_allows():
    assert [len(fields.symmetries(s)) for s in ((5,), (4, 4), (4, 5), (3, 3, 3), (3, 3, 4))] == [2, 8, 4, 48, 16]


def test_voids_and_held_cells_are_left_to_the_problem():
    grid = Grid(shape=(12, 12), lengths=(1.0, 1.0))
    active = np.ones(grid.shape, bool)
    active[3:5, 4] = False
    held = np.zeros(grid.shape, bool)
    held[8, 8] = True
    problem = Problem(grid, diffusivity=1.0, active=active, fixed=(held, 7.0), boundary={"x-": Dirichlet(1.0)})
    u = surrogate("multigrid").fields([problem])[0]
    assert np.isnan(u[~active]).all()
    assert np.isfinite(u[active]).all()
    assert u[8, 8] == 7.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diffusivity": Tensor(1.0, 0.2, 1.0)}, "tensor"),
        ({"source": lambda t: t}, "changes with t"),
    ],
    ids=["tensor", "moving"],
)
def test_what_has_no_fields_is_refused_in_words(change, message):
    grid = Grid(shape=(12, 12), lengths=(1.0, 1.0))
    with pytest.raises(ProblemError, match=message):
        surrogate("multigrid").fields([Problem(grid, **{"diffusivity": 1.0, **change})])


def test_anisotropy_is_seen():
    grid = Grid(shape=(12, 12), lengths=(1.0, 1.0))
    inputs = fields.from_problems([Problem(grid, diffusivity=PerAxis(4.0, 1.0), boundary={"x": Dirichlet(1.0)})])
    inner = inputs.coefficients[0, :4, 5, 5]
    np.testing.assert_allclose(inner[0] - inner[2], np.log(4.0), rtol=1e-6)


def test_the_answer_does_not_depend_on_the_batch():
    model = surrogate("multigrid")
    problems = [plate(seed=i) for i in range(5)]
    alone = np.concatenate([model.fields([p]) for p in problems])
    np.testing.assert_allclose(model.fields(problems, batch=3), alone, rtol=0, atol=1e-6 * np.abs(alone).max())


# --- frames ------------------------------------------------------------------------------------------------------------


def decaying(rate=3.0, shape=(8, 8), k=5, seed=0):
    rng = np.random.default_rng(seed)
    rest, start = rng.normal(size=(2, *shape))
    t = np.linspace(0.0, 0.6, k)
    return t, rest + (start - rest) * np.exp(-rate * t)[:, None, None], rest


def test_one_decaying_mode_is_extrapolated_to_its_end():
    """Midpoint rates of an exponential are off by (rate * interval)^2 / 24."""
    t, frames, rest = decaying(rate=1.0)
    inputs = fields.from_frames(t[None], frames[None])
    guess = inputs.physical(inputs.forcing[:, -1:])[0]
    before = np.abs(frames[-1] - rest).max()
    assert np.abs(guess - rest).max() < 0.01 * before


def test_scaling_frames_or_time_changes_nothing_that_the_network_sees():
    t, frames, _ = decaying()
    one, other = fields.from_frames(t[None], frames[None]), fields.from_frames(60 * t[None] + 5, -3e4 * frames[None])
    np.testing.assert_allclose(other.forcing, -one.forcing, atol=1e-5)
    assert other.scale[0] == pytest.approx(3e4 * one.scale[0])


def test_frames_that_were_not_observed_are_masked():
    t, frames, _ = decaying()
    frames[:, 2, 3] = np.nan
    inputs = fields.from_frames(t[None], frames[None])
    assert inputs.coefficients[0, -1].sum() == 63
    assert np.isfinite(inputs.coefficients).all()


@pytest.mark.parametrize(
    ("times", "k", "message"),
    [([0.0, 0.1, 0.1], 3, "increase"), ([0.0, 0.1], 3, "one per frame"), ([0.0], 1, "k >= 2")],
)
def test_bad_times_are_refused(times, k, message):
    with pytest.raises(ProblemError, match=message):
        fields.from_frames(np.array(times), np.zeros((1, k, 4, 4)))


# --- files --------------------------------------------------------------------------------------------------------------


@every_model
def test_a_saved_model_predicts_the_same_bits(name, tmp_path):
    model = surrogate(name)
    again = load(model.save(tmp_path / "model"))
    assert again.card == model.card
    np.testing.assert_array_equal(again.fields([plate()]), model.fields([plate()]))


def test_a_flipped_byte_is_noticed(tmp_path):
    path = surrogate("fno").save(tmp_path) / MODEL
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(place) % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError):
            load(tmp_path)


def test_weights_of_another_architecture_are_listed(tmp_path):
    from diffsim import store

    path = surrogate("multigrid").save(tmp_path) / MODEL
    arrays, record = store.read_safetensors(path)
    arrays["head.weight"] = arrays["head.weight"][:, :2]
    arrays["tail.weight"] = arrays.pop("lift.weight")
    store.write_safetensors(path, arrays, record)
    with pytest.raises(
        StoreError, match=r"missing lift.weight; unexpected tail.weight; head.weight is float32 \(1, 2, 3, 3\)"
    ):
        load(tmp_path)
    with pytest.raises(StoreError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_unknown_models_and_options_are_answered_with_what_exists():
    with pytest.raises(ProblemError, match="Did you mean 'multigrid'"):
        models.build("multigird", 10, 3, (8, 8))
    with pytest.raises(ProblemError, match="it has width, layers"):
        models.build("fno", 10, 3, (8, 8), modus=3)
    with pytest.raises(ProblemError, match="choose one of none, batch"):
        models.build("unet", 10, 3, (8, 8), normalisation="bath")


def test_the_lipschitz_bound_of_a_spectrally_normalised_network_holds():
    torch.manual_seed(0)
    network = models.build("resnet", 10, 3, (12, 12), **SMALL["resnet"])
    for _ in range(30):  # the power iterations of the normalisation settle while training
        network(torch.randn(1, 10, 12, 12), torch.randn(1, 3, 12, 12))
    network.eval()
    bound = network.lipschitz()
    x, y = torch.randn(2, 8, 13, 12, 12)
    with torch.no_grad():
        change = (network(x[:, :10], x[:, 10:]) - network(y[:, :10], y[:, 10:])).flatten(1).norm(dim=1)
    assert (change <= bound * (x - y).flatten(1).norm(dim=1)).all()
    assert models.build("resnet", 10, 3, (8, 8), normalisation="batch").lipschitz() == float("inf")


# --- the graph network ---------------------------------------------------------------------------------------------------


def graph_network(shape=(8, 8), task_channels=None, **options):
    torch.manual_seed(0)
    c, r = task_channels or (fields.channels(len(shape)), fields.FORCINGS)
    return models.build("graph", c, r, shape, **{**SMALL["graph"], **options}).eval()


def answer(network, inputs):
    with torch.no_grad():
        return network(torch.from_numpy(inputs.coefficients), torch.from_numpy(inputs.forcing))


@pytest.mark.parametrize("shape", [(8, 8), (8, 4, 8)], ids=str)
def test_turning_the_problem_turns_the_answer_of_a_graph_network(shape):
    rng = np.random.default_rng(0)
    grid = Grid(shape=shape, lengths=(1.0,) * len(shape))
    problem = Problem(grid, diffusivity=np.exp(rng.normal(size=shape)), source=rng.normal(size=shape),
                      boundary={"x-": Dirichlet(1.0), "y+": Robin(h=2.0)})  # fmt: skip
    inputs, network = fields.from_problems([problem]), graph_network(shape)
    straight = answer(network, inputs)
    for symmetry in fields.symmetries(shape):
        with torch.no_grad():
            turned = network(
                symmetry(torch.from_numpy(inputs.coefficients), inputs.directional),
                symmetry(torch.from_numpy(inputs.forcing)),
            )
        np.testing.assert_allclose(turned, symmetry(straight), rtol=0, atol=1e-5 * float(straight.abs().max()))


def test_the_graph_goes_across_periodic_sides():
    rng = np.random.default_rng(0)
    d, f = np.exp(rng.normal(size=(8, 8))), rng.normal(size=(8, 8))
    network, rolled = graph_network((8, 8)), {}
    for shift in (0, 2):  # whole blocks
        grid = Grid(shape=(8, 8), lengths=(1.0, 1.0))
        problem = Problem(grid, diffusivity=np.roll(d, shift, 0), source=np.roll(f, shift, 0),
                          boundary={"x": Periodic(), "y-": Dirichlet(0.0)})  # fmt: skip
        rolled[shift] = answer(network, fields.from_problems([problem])).roll(-shift, 2).numpy()
    np.testing.assert_allclose(rolled[2], rolled[0], rtol=0, atol=1e-5 * np.abs(rolled[0]).max())
    closed = fields.from_problems([Problem(grid, diffusivity=d, source=f, boundary={"y-": Dirichlet(0.0)})])
    assert np.abs(answer(network, closed).numpy() - rolled[0]).max() > 1e-3 * np.abs(rolled[0]).max()


def test_voids_are_no_nodes_and_parts_that_nothing_joins_do_not_see_each_other():
    rng = np.random.default_rng(0)
    grid = Grid(shape=(8, 9), lengths=(1.0, 1.0))
    active = np.ones(grid.shape, bool)
    active[:, 4] = False
    problem = Problem(grid, diffusivity=np.exp(rng.normal(size=grid.shape)), source=1.0, active=active,
                      boundary={"y": Dirichlet(0.0)})  # fmt: skip
    inputs, network = fields.from_problems([problem]), graph_network(grid.shape, levels=2)
    before = answer(network, inputs)
    assert (before[0, 0].numpy()[~active] == 0).all()
    inputs.coefficients[:, :4, ~active] = 5.0  # conductances of what is not there
    inputs.coefficients[:, 8, ~active] = 5.0
    inputs.forcing[:, :, ~active] = 5.0
    torch.testing.assert_close(answer(network, inputs), before, rtol=0, atol=0)
    inputs.coefficients[:, :4, :, :4] += 0.5  # the left part conducts better
    after = answer(network, inputs)
    torch.testing.assert_close(after[..., 5:], before[..., 5:], rtol=0, atol=0)
    assert (after[..., :4] != before[..., :4]).any()


def test_coarse_graphs_have_the_sums_of_the_conductances_between_their_blocks():
    from surrogate.models.graph import graphs_of

    rng = np.random.default_rng(0)
    grid = Grid(shape=(7, 6), lengths=(1.0, 1.0))
    problems = [
        Problem(
            grid,
            diffusivity=np.exp(rng.normal(size=grid.shape)),
            source=1.0,
            boundary={"x": Periodic(), "y": Dirichlet(0.0)},
        )
        for _ in range(2)
    ]
    inputs = fields.from_problems(problems)
    cells, (fine, coarse) = graphs_of(torch.from_numpy(inputs.coefficients), 2, 0)
    assert cells.all()
    dense = lambda g: _laplacian(g.size, g.ends, g.logs.exp()[:, 0].double())  # noqa: E731
    joined = torch.zeros(fine.size, coarse.size, dtype=torch.float64)
    joined[torch.arange(fine.size), fine.parents] = 1.0
    torch.testing.assert_close(dense(coarse), joined.T @ dense(fine) @ joined, rtol=1e-5, atol=1e-5)
    assert joined.sum(0).tolist().count(4) == 2 * 3 * 3  # of 4 x 3 blocks per item, those of two whole rows


def _laplacian(size, ends, conductances):
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for i, j, g in zip(*ends, conductances, strict=True):
        matrix[i, i] += g
        matrix[j, j] += g
        matrix[i, j] -= g
        matrix[j, i] -= g
    return matrix


@pytest.mark.parametrize("shape", [(11,), (8, 9), (4, 6, 5)], ids=str)
def test_the_spectral_convolution_is_what_fourier_transforms_say_and_so_are_its_gradients(shape):
    from surrogate.models.fno import SpectralConvolution

    torch.manual_seed(0)
    layer, x = SpectralConvolution(len(shape), 3, 2).double(), torch.randn(2, 3, *shape, dtype=torch.float64)

    def plain(x, weight):
        axes = tuple(range(2, x.ndim))
        spectrum, kept = torch.fft.fftn(x, dim=axes), torch.view_as_complex(weight)
        out = torch.zeros_like(spectrum)
        for where in np.ndindex(*(4,) * (len(shape) - 1), 2):  # frequencies 0, 1, -2, -1 per axis; 0, 1 of the last
            corner = sum((k > 1) << (len(shape) - 2 - a) for a, k in enumerate(where[:-1]))
            place = tuple(k if k < 2 else k - 4 for k in where)
            matrix = kept[(corner, slice(None), slice(None), *(k % 2 for k in where))]
            row = torch.einsum("ni,io->no", spectrum[(..., *place)], matrix)
            mirrored = tuple(-k for k in place)
            out[(..., *place)] = out[(..., *place)] + (row if place[-1] else 0.5 * row)
            out[(..., *mirrored)] = out[(..., *mirrored)] + (row.conj() if place[-1] else 0.5 * row.conj())
        return torch.fft.ifftn(out, dim=axes).real

    torch.testing.assert_close(layer(x), plain(x, layer.weight), rtol=1e-10, atol=1e-12)
    inputs = x.clone().requires_grad_(), layer.weight
    goal = torch.randn(2, 3, *shape, dtype=torch.float64)
    expected = torch.autograd.grad((plain(*inputs) * goal).sum(), inputs)
    for got, want in zip(torch.autograd.grad((layer(inputs[0]) * goal).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)

    def curved(function):  # second derivatives: what the sharpness of a training is measured with
        first = torch.autograd.grad(function(*inputs).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    for got, want in zip(curved(lambda x, w: layer(x)), curved(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


# --- exact structure -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in models.MODELS if n not in ("deeponet", "attention", "pod-ridge")])
def test_moving_along_a_periodic_axis_moves_the_answer(name):
    """By whole blocks. Networks that know places (deeponet, attention, pod-ridge) cannot have this."""
    rng = np.random.default_rng(0)
    shape, sides = (16, 12), {"x": Periodic(), "y-": Dirichlet(1.0), "y+": Robin(h=2.0)}
    grid, f = Grid(shape=shape, lengths=(2.0, 1.0)), rng.normal(size=shape)
    d = np.exp(rng.normal(size=shape))
    torch.manual_seed(0)
    card = Card(name, SMALL[name], "coefficients", fields.channels(2), fields.FORCINGS, shape, periodic=(True, False))
    model = Surrogate(card, card.build())
    turn = lambda a: np.roll(a, 4, 0)  # noqa: E731
    u, moved = model.fields(
        [
            Problem(grid, diffusivity=d, source=f, boundary=sides),
            Problem(grid, diffusivity=turn(d), source=turn(f), boundary=sides),
        ]
    )
    np.testing.assert_allclose(moved, turn(u), rtol=0, atol=2e-5 * np.abs(u).max())
    if name not in ("graph", "closure"):  # which reads from the faces what the others must be told
        torch.manual_seed(0)
        network = models.build(name, fields.channels(2), fields.FORCINGS, shape, **SMALL[name]).eval()
        open_ended = answer(network, fields.from_problems([Problem(grid, diffusivity=d, source=f, boundary=sides)]))
        network.load_state_dict(model.network.state_dict())
        moved = answer(
            network, fields.from_problems([Problem(grid, diffusivity=turn(d), source=turn(f), boundary=sides)])
        )
        assert (moved - open_ended.roll(4, 2)).abs().max() > 1e-3 * open_ended.abs().max()


@pytest.mark.parametrize("name", ["unet", "multigrid", "convlstm", "attention"])
def test_blocks_that_do_not_close_across_a_seam_are_refused(name):
    with pytest.raises(ProblemError, match="axis 1 is periodic with 13 cells"):
        models.build(name, fields.channels(2), 3, (8, 13), periodic=(False, True), **SMALL[name])
    network = models.build(name, fields.channels(2), 3, (8, 8), periodic=(False, True), **SMALL[name])
    with pytest.raises(ProblemError, match="with 9 cells"):
        network(torch.zeros(1, 10, 8, 9), torch.zeros(1, 3, 8, 9))


def test_training_takes_periodic_axes_from_the_data_and_keeps_them(tmp_path):
    import surrogate as sg

    rng = np.random.default_rng(0)
    grid = Grid(shape=(8, 8), lengths=(1.0, 1.0))
    sides = {"x": Periodic(), "y": Dirichlet(0.0)}
    problems = [
        Problem(grid, diffusivity=np.exp(rng.normal(size=(8, 8))), source=1.0, boundary=sides) for _ in range(12)
    ]
    data = sg.Dataset.from_arrays(problems, rng.normal(size=(12, 8, 8)))
    model = sg.train(data, epochs=1, out=tmp_path, progress=False, **SMALL["multigrid"])
    assert model.card.periodic == (True, False)
    again = load(tmp_path)
    assert again.card.periodic == (True, False)
    np.testing.assert_array_equal(again.fields(problems[:2]), model.fields(problems[:2]))
    assert len(fields.symmetries((8, 8), (True, False))) == 4  # no exchange of the axes


def envelope_of(problem):
    inputs = fields.from_problems([problem], exact_sides=True)
    return inputs.coefficients[0, -1], inputs.reference[0]


@pytest.mark.parametrize("name", ["unet", "attention"])
def test_values_on_sides_hold_exactly_however_wild_the_network(name):
    """Half a cell from a wall the answer is off its value by at most 4 d / L times the largest output: 0 at the wall."""
    for n in (8, 32):
        grid = Grid(shape=(n, 8), lengths=(2.0, 1.0))
        along = np.linspace(1.0, 3.0, 8)
        sides = {"x-": Dirichlet(along), "x+": Dirichlet(-4.0), "y-": Neumann(1.0)}
        problem = Problem(grid, diffusivity=3.0, source=1.0, boundary=sides)
        torch.manual_seed(0)
        channels = fields.channels(2) + 1, fields.FORCINGS
        card = Card(name, SMALL[name], "coefficients", *channels, grid.shape, exact_sides=True)
        model = Surrogate(card, card.build())
        for p in model.network.parameters():
            p.data.mul_(3.0)
        bare = models.build(name, *channels, grid.shape, **SMALL[name]).eval()
        bare.load_state_dict(model.network.state_dict())
        inputs = fields.from_problems([problem], exact_sides=True)
        out, u = answer(bare, inputs)[0, 0].numpy(), model.fields([problem])[0]
        lift = inputs.reference[0]
        expected = lift + inputs.scale[0] * inputs.coefficients[0, -1] * out
        np.testing.assert_allclose(u, expected, rtol=0, atol=1e-6 * np.abs(u).max())
        reach = 4 * (0.5 / n) * inputs.scale[0] * np.abs(out).max()
        for row, value in ((0, along), (-1, -4.0)):
            np.testing.assert_allclose(
                lift[row], value, rtol=0, atol=7 * (1 / (2 * n - 1)) ** 2
            )  # weights 1 : (2n - 1)^2
            assert np.abs(u[row] - lift[row]).max() <= reach * (1 + 1e-6)
        assert np.abs(out).max() > 0.1


def test_the_envelope_is_the_parabola_between_two_walls_and_one_where_nothing_is_held():
    x = (np.arange(8) + 0.5) / 8
    grid = Grid(shape=(8, 5), lengths=(3.0, 1.0))
    both, lift = envelope_of(Problem(grid, diffusivity=1.0, source=1.0, boundary={"x": Dirichlet(2.0)}))
    np.testing.assert_allclose(both, np.broadcast_to((4 * x * (1 - x))[:, None], (8, 5)), rtol=1e-6)
    np.testing.assert_allclose(lift, 2.0, rtol=1e-14)
    none, lift = envelope_of(Problem(grid, diffusivity=1.0, source=1.0, boundary={"x": Robin(h=1.0, ambient=2.0)}))
    np.testing.assert_array_equal(none, 1.0)
    np.testing.assert_allclose(lift, 2.0, rtol=1e-14)


@every_model
def test_equivariance_survives_exact_sides_and_bounds(name):
    if name in ("pod-ridge", "closure"):
        with pytest.raises(ProblemError, match="closed form|known problem"):
            models.build(name, 11, 3, (12, 12), exact_sides=True)
        return
    torch.manual_seed(0)
    channels = fields.channels(2) + 1, fields.FORCINGS
    card = Card(name, SMALL[name], "coefficients", *channels, (12, 12), exact_sides=True, bounded=True)
    model = Surrogate(card, card.build())
    u = model.fields([plate()])[0]
    for c, s, shift in ((2.7e-4, 5.9e3, 0.0), (1.0, 1.0, 40.0)):
        other = (model.fields([plate(c, s, shift)])[0] - shift) / (s / c)
        np.testing.assert_allclose(other, u, rtol=0, atol=1e-5 * np.abs(u).max())


@pytest.mark.parametrize(
    ("given", "lower", "upper"),
    [
        ({"source": 2.0, "boundary": {"x-": Dirichlet(0.0), "y-": Neumann(1.0)}}, 0.0, np.inf),
        ({"source": -2.0, "boundary": {"x-": Dirichlet(1.0), "x+": Robin(2.0, 3.0)}}, -np.inf, 3.0),
        ({"boundary": {"x-": Dirichlet(1.0), "x+": Dirichlet(5.0)}}, 1.0, 5.0),
        ({"boundary": {"x-": Dirichlet(1.0)}, "loss": 2.0, "ambient": -1.0}, -1.0, 1.0),
        ({"source": np.linspace(-1, 1, 144).reshape(12, 12), "boundary": {"x": Dirichlet(0.0)}}, -np.inf, np.inf),
        ({"boundary": {"y": Neumann(0.0)}}, -np.inf, np.inf),
    ],
)
def test_bounded_answers_stay_where_the_maximum_principle_has_them(given, lower, upper):
    grid = Grid(shape=(12, 12), lengths=(1.0, 1.0))
    d = np.exp(np.random.default_rng(0).normal(size=grid.shape))
    problem = Problem(grid, diffusivity=d, **given)
    inputs = fields.from_problems([problem], bounded=True)
    assert inputs.limits.tolist() == [[lower, upper]]
    wild = 1e3 * np.random.default_rng(1).normal(size=(1, 1, 12, 12))
    u = inputs.physical(wild)[0]
    assert lower <= u.min() <= u.max() <= upper
    if "y" in given.get("boundary", {}):
        return  # no equilibrium to compare with
    operator = discretize(problem)
    exact = spsolve(operator.matrix().tocsc(), operator.forcing(0.0).ravel()).reshape(grid.shape)
    assert lower - 1e-12 <= exact.min() <= exact.max() <= upper + 1e-12
    free = fields.from_problems([problem]).physical(wild)[0]
    assert np.linalg.norm(u - exact) <= np.linalg.norm(free - exact)


def test_a_trained_model_is_not_negative_for_data_that_are_not(tmp_path):
    import surrogate as sg

    rng = np.random.default_rng(0)
    grid = Grid(shape=(8, 8), lengths=(1.0, 1.0))
    problems = [
        Problem(grid, diffusivity=np.exp(rng.normal(size=(8, 8))), source=float(k % 2), boundary={"x": Dirichlet(0.0)})
        for k in range(12)
    ]
    data = sg.Dataset.from_arrays(problems, -np.ones((12, 8, 8)))  # labels that ask for negative answers
    free = sg.train(data, epochs=2, progress=False, **SMALL["multigrid"])
    model = sg.train(data, epochs=2, out=tmp_path, bounded=True, progress=False, **SMALL["multigrid"])
    assert free.fields(problems).min() < 0
    for one in (model, load(tmp_path)):
        assert one.fields(problems).min() == 0
