"""Equilibria against sparse direct solves and closed forms; refusals in words; time to equilibrium."""

import math
import sys

import numba
import numpy as np
import pytest
from scipy.linalg import eigh, expm
from scipy.sparse.linalg import spsolve

import diffsim as ds
from diffsim.operator import discretize


def plate(shape=(24, 16), **changes):
    grid = ds.Grid(shape=shape, lengths=(1.5, 1.0, 0.7)[: len(shape)])
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)}
    return ds.Problem(grid, **{"diffusivity": 1.0, "boundary": sides, **changes})


def direct(problem):
    """The same equilibrium by a sparse direct solve of the free cells."""
    operator = discretize(problem)
    free = operator.free.ravel()
    K, F = operator.matrix().tocsc()[free][:, free], operator.forcing(0.0).ravel()[free]
    state = np.zeros(free.size)
    state[free] = spsolve(K, F)
    return operator.leave(state.reshape(operator.shape))


def random_field(shape, contrast, seed=0):
    return contrast ** np.random.default_rng(seed).random(shape)


def disc(shape, centre, radius):
    mesh = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    return sum((x - c) ** 2 for x, c in zip(mesh, centre, strict=True)) < radius**2


HOLE = ~disc((24, 16), (0.4, 0.5), 0.2)
LINEAR = {
    "uniform with Robin": {},
    "varying D": {"diffusivity": random_field((24, 16), 1e3), "source": 2.0},
    "per axis": {"diffusivity": ds.PerAxis(1.0, random_field((24, 16), 10.0)), "source": random_field((24, 16), 2.0)},
    "tensor": {"diffusivity": ds.Tensor(2.0, 0.8, 1.0), "source": 1.0},
    "loss": {"loss": 3.0, "ambient": 0.4, "boundary": {}},
    "voids": {"active": HOLE, "source": 1.0},
    "walls of voids": {"active": HOLE, "boundary": {"void": ds.Dirichlet(3.0), "y-": ds.Neumann(0.5)}},
    "held cells": {"fixed": (disc((24, 16), (0.7, 0.3), 0.1), 2.0), "boundary": {}, "source": 0.1},
    "periodic": {
        "boundary": {"x": ds.Periodic(), "y-": ds.Dirichlet(1.0)},
        "diffusivity": random_field((24, 16), 30.0),
    },
    "1D": {"shape": (50,), "diffusivity": random_field(50, 100.0), "source": 1.0},
    "3D": {"shape": (9, 8, 7), "diffusivity": random_field((9, 8, 7), 100.0), "source": 1.0},
}


@pytest.mark.parametrize("changes", LINEAR.values(), ids=LINEAR)
def test_equilibrium_matches_a_direct_solve(changes):
    problem = plate(**changes)
    eq = ds.equilibrium(problem, tol=1e-11)
    want = direct(problem)
    assert eq.residual <= 1e-11
    assert np.array_equal(np.isnan(eq.u), np.isnan(want))
    np.testing.assert_allclose(eq.u, want, rtol=0, atol=1e-8 * np.nanmax(np.abs(want)))


@pytest.mark.parametrize("sides", [ds.Dirichlet(0.0), ds.Neumann(0.0)], ids=["value", "flux"])
@pytest.mark.parametrize("shape", [(31,), (24, 17), (9, 12, 10)], ids=str)
def test_transforms_and_multigrid_agree(shape, sides):
    source = np.random.default_rng(3).normal(size=shape)
    source -= source.mean()
    problem = plate(shape, source=source, boundary=dict.fromkeys("xyz"[: len(shape)], sides))
    by = {m: ds.equilibrium(problem, tol=1e-13, method=m, initial=0.7) for m in ("spectral", "multigrid")}
    assert by["spectral"].method == "spectral"
    assert by["multigrid"].method == ("direct" if len(shape) == 1 else "multigrid")
    scale = np.abs(by["spectral"].u).max()
    np.testing.assert_allclose(by["multigrid"].u, by["spectral"].u, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("method", ["auto", "multigrid"])
def test_linear_profile_flows_and_wall_values_are_exact(method):
    eq = ds.equilibrium(plate(), tol=1e-13, method=method)
    flux = 1.0 / (1.5 + 1 / 2.0)  # two resistances in series: the plate, and the film
    profile = lambda x: 1 - flux * x  # noqa: E731
    x = eq.operator.grid.centers[0]
    np.testing.assert_allclose(eq.u, np.broadcast_to(profile(x)[:, None], (24, 16)), rtol=0, atol=1e-11)
    assert eq.flow("x-") == pytest.approx(flux, abs=1e-11)
    assert eq.flow("x+") == pytest.approx(-flux, abs=1e-11)
    assert eq.flow("x") == pytest.approx(0.0, abs=1e-11)
    np.testing.assert_allclose(eq.wall("x-"), 1.0, rtol=0, atol=1e-11)
    np.testing.assert_allclose(eq.wall("x+"), profile(1.5), rtol=0, atol=1e-11)
    for point in ((0.0, 0.5), (0.01, 0.99), (0.77, 0.3), (1.5, 1.0)):
        assert eq.at(point) == pytest.approx(profile(point[0]), abs=1e-11)


def test_error_bound_holds():
    problem = plate(diffusivity=random_field((24, 16), 50.0), source=1.0)
    eq = ds.equilibrium(problem, tol=1e-4)
    error = eq.u - direct(problem)
    true = math.sqrt(float((problem.grid.volumes * error**2).sum()))
    assert 0 < true <= eq.error_bound < math.inf


# --- components ------------------------------------------------------------------------------------------------------


def test_two_floating_components_keep_their_own_content():
    active = np.ones((24, 16), dtype=bool)
    active[10, :] = False
    source = np.where(np.arange(16) < 8, 1.0, -1.0) * np.ones((24, 1))
    capacity = 1.0 + random_field((24, 16), 2.0)
    problem = plate(active=active, source=source, boundary={}, capacity=capacity)
    start = lambda x, y: np.where(x < 0.6, 2.0, 5.0) + y  # noqa: E731
    eq = ds.equilibrium(problem, tol=1e-10, initial=start)
    for part, mask in (("left", slice(None, 10)), ("right", slice(11, None))):
        content = (capacity[mask] * eq.u[mask]).sum()
        want = (capacity[mask] * problem.grid.field("initial", start)[mask]).sum()
        assert content == pytest.approx(want, rel=1e-13), part
    operator = eq.operator
    rest = operator.forcing(0.0) - operator.apply(eq.state)
    assert np.linalg.norm(rest) <= 1e-10 * np.linalg.norm(operator.forcing(0.0))


@pytest.mark.parametrize("diffusivity", [1.0, random_field((24, 16), 4.0)], ids=["spectral", "multigrid"])
def test_growing_content_is_refused_with_its_rate(diffusivity):
    with pytest.raises(ds.ProblemError, match=r"content grows at 4\.5 per second"):
        ds.equilibrium(plate(diffusivity=diffusivity, boundary={}, source=3.0), initial=0.0)


def test_a_floating_problem_without_initial_says_what_is_missing():
    with pytest.raises(ds.ProblemError, match="initial="):
        ds.equilibrium(plate(boundary={}))


def test_one_growing_component_among_others_is_named():
    active = np.ones((24, 16), dtype=bool)
    active[20, :] = False
    problem = plate(active=active, boundary={"x-": ds.Dirichlet(1.0)}, source=1.0)
    with pytest.raises(ds.ProblemError, match=r"component of 48 cells"):
        ds.equilibrium(problem, initial=0.0)


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diffusivity", [1.0, random_field((24, 16), 4.0)], ids=["uniform", "varying"])
def test_nothing_driving_gives_zero_without_nan(diffusivity):
    eq = ds.equilibrium(plate(diffusivity=diffusivity, boundary={"x-": ds.Dirichlet(0.0)}))
    assert not eq.u.any()
    assert eq.residual == 0.0


def test_floating_and_undriven_is_the_mean():
    eq = ds.equilibrium(plate(diffusivity=random_field((24, 16), 4.0), boundary={}), initial=lambda x, y: x)
    np.testing.assert_allclose(eq.u, 0.75, rtol=1e-14)


MOVING = {
    "source": {"source": lambda t: t},
    "ambient": {"ambient": ds.TimeSeries([0.0, 1.0], [0.0, 1.0]), "loss": 1.0},
    "side": {"boundary": {"x-": ds.Dirichlet(lambda t: t)}},
    "diffusivity": {"diffusivity": ds.OfTime(lambda t: 1 + t)},
}


@pytest.mark.parametrize("changes", MOVING.values(), ids=MOVING)
def test_data_that_change_in_time_are_refused(changes):
    with pytest.raises(ds.ProblemError, match=r"depends? on time"):
        ds.equilibrium(plate(**changes))


@pytest.mark.parametrize("tol", [0.0, -1.0, 1.0, math.nan, "small", None])
def test_senseless_tolerances_are_refused(tol):
    with pytest.raises(ds.ProblemError, match="tol"):
        ds.equilibrium(plate(), tol=tol)


def test_methods_that_do_not_fit_are_refused():
    with pytest.raises(ds.ProblemError, match="spectral"):
        ds.equilibrium(plate(), method="spectral")  # a Robin side has no transform
    with pytest.raises(ds.ProblemError, match="nonlinear"):
        ds.equilibrium(plate(), method="newton")
    with pytest.raises(ds.ProblemError, match="unknown"):
        ds.equilibrium(plate(), method="magic")


def test_want_of_convergence_is_an_error(monkeypatch):
    monkeypatch.setattr(sys.modules["diffsim.equilibrium"], "MOST_ITERATIONS", 1)
    with pytest.raises(ds.ConvergenceError, match=r"relative residual of .* after 1 iterations"):
        ds.equilibrium(plate(diffusivity=random_field((24, 16), 100.0)), tol=1e-12)


def test_a_guess_that_is_the_answer_needs_no_iteration():
    problem = plate(diffusivity=random_field((24, 16), 100.0))
    eq = ds.equilibrium(problem, tol=1e-10)
    again = ds.equilibrium(problem, tol=1e-9, guess=eq.u)
    assert again.iterations == 0
    assert again.residual <= 1e-9


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_gives_what_each_problem_gives_alone():
    fields = [random_field((24, 16), 100.0, seed) for seed in range(5)]
    problems = [plate(diffusivity=d, source=1.0) for d in fields]
    problems.insert(2, plate(source=1.0, boundary={"x": ds.Dirichlet(0.0)}))  # a transform among them
    problems.insert(4, plate((10, 12), diffusivity=random_field((10, 12), 3.0)))  # another shape
    together = ds.equilibrium(problems)
    for problem, eq in zip(problems, together, strict=True):
        alone = ds.equilibrium(problem)
        assert alone.method == eq.method
        assert np.array_equal(alone.u, eq.u)
        assert alone.residual == eq.residual
    assert np.array_equal(ds.equilibrium(problems[:2])[1].u, together[1].u)
    assert ds.equilibrium([]) == []


def test_a_long_list_is_cut_into_pieces_and_comes_back_in_order(monkeypatch):
    module = sys.modules["diffsim.equilibrium"]
    monkeypatch.setattr(module, "PIECE", 2 * 24 * 16)
    cut, solve = [], module._solve_piece
    monkeypatch.setattr(module, "_solve_piece", lambda *list_: cut.append(len(list_[0])) or solve(*list_))
    problems = [plate(diffusivity=random_field((24, 16), 100.0, seed), source=1.0) for seed in range(33)]
    results = ds.equilibrium(problems)
    assert sorted(cut) == [1] + [2] * 16 if numba.get_num_threads() == 2 else sum(cut) == 33
    for k in (0, 1, 2, 17, 31, 32):
        assert np.array_equal(results[k].u, ds.equilibrium(problems[k]).u)
    floating = plate(diffusivity=random_field((24, 16), 3.0), source=1.0, boundary={})
    with pytest.raises(ds.ProblemError, match="content grows"):
        ds.equilibrium([*problems, floating])


def test_one_bad_problem_of_a_batch_is_refused_as_it_would_be_alone():
    with pytest.raises(ds.ProblemError, match="content grows"):
        ds.equilibrium([plate(), plate(boundary={}, source=1.0)])
    with pytest.raises(ds.ProblemError, match="neither a Problem nor a list"):
        ds.equilibrium([plate(), 3])
    with pytest.raises(ds.ProblemError, match="2 entries for 1"):
        ds.equilibrium([plate()], initial=[1.0, 2.0])


# --- nonlinear -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "newton", "picard"])
@pytest.mark.parametrize("power", [1, 3])
def test_kirchhoff_profile_of_a_power_law(method, power):
    n = 80
    problem = ds.Problem(
        ds.Grid(shape=(n,), lengths=(1.0,)),
        diffusivity=ds.OfState(lambda u: 1e-5 * (1 + u) ** power),
        boundary={"x-": ds.Dirichlet(0.0), "x+": ds.Dirichlet(3.0)},
    )
    eq = ds.equilibrium(problem, tol=1e-10, method=method)
    x = problem.grid.centers[0]
    exact = (1 + (4.0 ** (power + 1) - 1) * x) ** (1 / (power + 1)) - 1  # (1 + u)^(power + 1) is linear in x
    assert eq.residual <= 1e-10
    assert np.abs(eq.u - exact).max() < (3 if power == 1 else 6) / n  # D at the wall is taken from the wall cell
    assert eq.method == ("picard" if method == "auto" else method)


def test_radiating_side_balances_conduction():
    sigma = 5.670374419e-8
    problem = ds.Problem(
        ds.Grid(shape=(64,), lengths=(0.1,)),
        diffusivity=10.0,
        boundary={"x-": ds.Dirichlet(1000.0), "x+": ds.Radiation(emissivity=0.8, ambient=300.0)},
    )
    eq = ds.equilibrium(problem, tol=1e-11)
    wall = float(eq.wall("x+"))
    conducted = 10.0 * (1000.0 - wall) / 0.1
    assert eq.flow("x-") == pytest.approx(conducted, rel=1e-8)
    assert conducted == pytest.approx(0.8 * sigma * (wall**4 - 300.0**4), rel=1e-7)


def test_reaction_equilibrium_is_a_zero_of_the_rate():
    problem = plate(reaction=lambda u: -5 * u**3, boundary={"x-": ds.Dirichlet(1.0)})
    eq = ds.equilibrium(problem, tol=1e-9)
    operator = eq.operator
    rest = operator.forcing(0.0) - operator.volumes * (5 * eq.state**3) - operator.apply(eq.state)
    assert np.linalg.norm(rest) < 2e-9 * np.linalg.norm(operator.forcing(0.0))


def test_a_body_in_cold_space_radiates_what_it_makes():
    problem = plate(diffusivity=20.0, source=1e4, boundary={"x": ds.Radiation(emissivity=0.9, ambient=0.0)})
    eq = ds.equilibrium(problem, tol=1e-10)
    assert eq.flow("x") == pytest.approx(-1e4 * 1.5, rel=1e-9)
    wall = eq.wall("x+")
    assert -eq.flow("x+") == pytest.approx(0.9 * 5.670374419e-8 * (wall**4).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("reaction", "level"), [(lambda u: u * (1 - u), 1.0), (lambda u: 3 - u**3, 3 ** (1 / 3))], ids=["grow", "damp"]
)
def test_reactions_settle_at_their_stable_zero(reaction, level):
    eq = ds.equilibrium(plate(reaction=reaction, boundary={}), initial=0.3, tol=1e-9)
    np.testing.assert_allclose(eq.u, level, rtol=1e-7)


def test_a_stiff_reaction_needs_no_small_steps():
    eq = ds.equilibrium(plate(reaction=lambda u: -1e3 * u**3, boundary={"x-": ds.Dirichlet(1.0)}), tol=1e-9)
    assert eq.residual <= 1e-9
    assert 0 < eq.u.min() < eq.u.max() < 1


def test_degenerate_diffusion_with_a_source():
    problem = plate(
        diffusivity=ds.OfState(lambda u: u**2), boundary={"x-": ds.Dirichlet(0.0), "x+": ds.Dirichlet(1.0)}, source=1.0
    )
    eq = ds.equilibrium(problem, tol=1e-9)
    assert eq.flow("x") == pytest.approx(-1.5, rel=1e-8)


def test_runaway_without_equilibrium_is_an_error_with_numbers():
    bratu = ds.Problem(  # no solution beyond 3.5138 (Bratu 1914)
        ds.Grid(shape=(60,), lengths=(1.0,)), 1.0, reaction=lambda u: 5 * np.exp(u), boundary={"x": ds.Dirichlet(0.0)}
    )
    with pytest.raises(ds.ConvergenceError, match=r"relative residual of \d"), np.errstate(over="ignore"):
        ds.equilibrium(bratu)


def test_edge_preserving_diffusion_with_loss():
    noisy = np.where(np.arange(24)[:, None] < 12, 0.0, 1.0) + 0.05 * np.random.default_rng(0).normal(size=(24, 16))
    problem = plate(diffusivity=ds.OfGradient(lambda g: 1 / (1 + g**2)), loss=30.0, ambient=noisy, boundary={})
    eq = ds.equilibrium(problem, tol=1e-9)
    frozen = discretize(problem, u=eq.u)
    rest = frozen.forcing(0.0) - frozen.apply(frozen.pad(eq.u))
    assert np.linalg.norm(rest) <= 1e-9 * np.linalg.norm(frozen.forcing(0.0)) * (1 + 1e-9)


# --- time to equilibrium ---------------------------------------------------------------------------------------------


def dense(problem):
    operator = discretize(problem)
    free = operator.free.ravel()
    K = operator.matrix().toarray()[np.ix_(free, free)]
    return K, operator.mass.ravel()[free]


TIMES = {
    "closed form": {"boundary": {"x": ds.Dirichlet(0.0)}},
    "closed form, floating": {"boundary": {}},
    "robin": {},
    "varying": {"diffusivity": random_field((24, 16), 100.0), "capacity": random_field((24, 16), 5.0, 1)},
    "floating": {"diffusivity": random_field((24, 16), 100.0), "boundary": {}},
    "voids": {"active": HOLE},
    "tensor": {"diffusivity": ds.Tensor(2.0, 0.8, 1.0)},
}


@pytest.mark.parametrize("changes", TIMES.values(), ids=TIMES)
def test_slowest_mode_matches_the_dense_spectrum(changes):
    problem = plate(**changes)
    K, m = dense(problem)
    rates = eigh(K, np.diag(m), eigvals_only=True)
    slowest = rates[rates > 1e-10 * rates[-1]][0]
    assert ds.time_to_equilibrium(problem, tol=1e-3) == pytest.approx(math.log(1e3) / slowest, rel=1e-5)


@pytest.mark.parametrize("tol", [0.5, 1e-3])
@pytest.mark.parametrize(
    "changes", [TIMES[k] for k in ("closed form, floating", "robin", "varying", "floating")], ids=str
)
def test_time_from_a_start_matches_the_matrix_exponential(changes, tol):
    problem = plate((12, 8), **{k: v[:12, :8] if isinstance(v, np.ndarray) else v for k, v in changes.items()})
    start = np.random.default_rng(5).random((12, 8)) + np.linspace(0, 3, 12)[:, None]
    t = ds.time_to_equilibrium(problem, initial=start, tol=tol)
    K, m = dense(problem)
    error = (start - ds.equilibrium(problem, initial=start, tol=1e-12).u).ravel()
    size = lambda e: math.sqrt((m * e**2).sum())  # noqa: E731
    assert size(expm(-t * K / m[:, None]) @ error) == pytest.approx(tol * size(error), rel=2e-3)


def test_starting_at_the_equilibrium_takes_no_time():
    problem = plate(source=1.0)
    assert ds.time_to_equilibrium(problem, initial=ds.equilibrium(problem, tol=1e-12).u) == 0.0


def test_time_of_a_nonlinear_problem_is_near_its_linearisation():
    problem = ds.Problem(
        ds.Grid(shape=(30,), lengths=(1.0,)),
        diffusivity=ds.OfState(lambda u: 1 + 1e-4 * u),
        boundary={"x": ds.Dirichlet(0.0)},
    )
    t = ds.time_to_equilibrium(problem, initial=lambda x: np.sin(np.pi * x), tol=1e-2)
    slowest = 4 * 30**2 * math.sin(math.pi / 60) ** 2
    assert t == pytest.approx(math.log(100) / slowest, rel=0.01)


def test_nothing_to_decay_is_refused():
    with pytest.raises(ds.ProblemError, match="nothing decays"):
        ds.time_to_equilibrium(ds.Problem(ds.Grid(shape=(1,), lengths=(1.0,)), diffusivity=1.0))
