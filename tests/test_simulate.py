"""Runs end in a named status, hit their times, keep their content, and obey the physics of their equation."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.linalg import expm

import diffsim as ds
from diffsim.operator import discretize
from diffsim.schemes import SCHEMES
from tests.problems import random_problem

seeds = st.integers(0, 2**32 - 1)
GRID = ds.Grid(shape=(9, 7), lengths=(1.5, 1.0))
MIXED = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.5), "y-": ds.Neumann(0.3)}


def plate(**changes):
    d = 1 + np.random.default_rng(1).random(GRID.shape)
    return ds.Problem(GRID, **{"diffusivity": d, "boundary": MIXED, **changes})


def box(**changes):
    return ds.Problem(GRID, **{"diffusivity": 0.7, "boundary": {"x": ds.Dirichlet(0.0)}, **changes})


def semidiscrete(problem, u0, t):
    """The exact solution of m u' = F - K u at time t, for steady data."""
    operator = discretize(problem)
    k, m = operator.matrix().toarray(), operator.mass.ravel()
    f = operator.forcing(0.0).ravel()
    n = f.size
    generator = np.zeros((n + 1, n + 1))
    generator[:n, :n], generator[:n, n] = -k / m[:, None], f / m
    state = expm(t * generator) @ np.append(operator.enter(u0).ravel(), 1.0)
    return operator.leave(state[:n].reshape(operator.shape))


every_scheme = pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "exact"])


# --- the contract of a run -------------------------------------------------------------------------------------------


@every_scheme
def test_every_scheme_reaches_the_semidiscrete_solution(scheme):
    problem, u0 = plate(), np.random.default_rng(0).random(GRID.shape)
    dt = 2e-4 if SCHEMES[scheme].order < 2 else 5e-4
    if SCHEMES[scheme].explicit and SCHEMES[scheme].stages is not None:
        dt = min(dt, 0.5 * ds.stability(problem, scheme).dt_limit)
    run = ds.simulate(problem, u0, until=0.05, scheme=scheme, dt=dt, save=3)
    assert run.ok
    np.testing.assert_allclose(run.final, semidiscrete(problem, u0, 0.05), rtol=0, atol=2e-3)


@every_scheme
def test_the_balance_closes_to_rounding(scheme):
    run = ds.simulate(plate(loss=0.2, ambient=0.4, source=1.0), 0.3, until=0.1, scheme=scheme, save=3)
    assert run.balance < 1e-12


@every_scheme
@pytest.mark.parametrize("save", ["final", 3])
def test_voids_and_held_cells_are_shown_and_keep_the_balance(scheme, save):
    active, held = np.ones(GRID.shape, bool), np.zeros(GRID.shape, bool)
    active[3:5, 2:4], held[7, 5] = False, True
    problem = plate(active=active, fixed=(held, 2.0))
    run = ds.simulate(problem, 0.3, until=0.05, scheme=scheme, save=save)
    assert run.balance < 1e-12
    for frame in run.u:
        np.testing.assert_array_equal(np.isnan(frame), ~active)
        assert frame[7, 5] == 2.0
    inside = active & ~held
    weight = np.broadcast_to(problem.grid.volumes, GRID.shape)[inside]
    np.testing.assert_allclose(run.content, [(weight * frame[inside]).sum() for frame in run.u], rtol=1e-13)


@pytest.mark.parametrize("scheme", ["ftcs", "rkc2", "tr-bdf2", "exact"])
def test_saved_times_are_hit_exactly(scheme):
    times = np.array([0.0, 0.013, 0.0131, 0.5])
    run = ds.simulate(box(), 1.0, until=0.7, scheme=scheme, save=times)
    np.testing.assert_array_equal(run.t, times)


def test_the_end_is_part_of_equally_spaced_frames():
    run = ds.simulate(box(), 1.0, until=0.1 + 0.2, save=7)
    assert (run.t[0], run.t[-1], len(run.t)) == (0.0, 0.1 + 0.2, 7)
    assert run.u.shape == (7, *GRID.shape)


def test_no_time_leaves_the_initial_state():
    run = ds.simulate(box(), 3.0, until=0.0)
    assert run.ok
    np.testing.assert_array_equal(run.final, np.full(GRID.shape, 3.0))


@pytest.mark.parametrize("scheme", ["ftcs", "rkl2", "crank-nicolson", "exact", "krylov"])
def test_a_run_continues_where_another_ended(scheme):
    problem = box()
    once = ds.simulate(problem, lambda x, y: np.sin(3 * x), until=0.2, scheme=scheme, save=[0.1, 0.2], dt="auto")
    first = ds.simulate(problem, lambda x, y: np.sin(3 * x), until=0.1, scheme=scheme, save="final")
    again = ds.simulate(problem, first, until=0.2, scheme=scheme, save="final")
    np.testing.assert_allclose(again.final, once.final, rtol=0, atol=1e-4)
    assert again.t[-1] == 0.2


@pytest.mark.parametrize(
    "arguments",
    [
        {"until": -1.0}, {"until": np.nan}, {"until": "1"}, {"until": np.inf},
        {"dt": 0.0}, {"dt": -1.0}, {"dt": np.nan}, {"dt": "big"}, {"tol": 0.0}, {"tol": np.nan},
        {"save": 0}, {"save": 2.5}, {"save": []}, {"save": [0.5, 0.1]}, {"save": [2.0]}, {"save": "all"},
        {"scheme": "euler"}, {"on_unstable": "pray"}, {"initial": np.ones((7, 9))}, {"initial": np.nan}, {"initial": "hot"},
        {"initial": np.full((9, 7), np.inf)}, {"stop": 3}, {"probes": {"a": (9.0, 9.0)}}, {"probes": {"a": (0.5,)}},
    ],
    ids=str,
)  # fmt: skip
def test_arguments_of_no_meaning_are_refused(arguments):
    with pytest.raises(ds.ProblemError):
        ds.simulate(box(), **{"initial": 0.0, "until": 0.1, **arguments})


@pytest.mark.parametrize(
    "arguments", [{"save": 10**9}, {"problem": ds.Problem(ds.Grid((10**5, 10**5), (1.0, 1.0)), 1.0)}]
)
def test_what_cannot_fit_is_refused_before_it_is_taken(arguments):
    with pytest.raises(ds.ResourceError, match="GiB"):
        ds.simulate(**{"problem": box(), "initial": 0.0, "until": 0.1, **arguments})


def test_times_far_beyond_rest_are_doubted():
    copper_in_mm2 = ds.Problem(ds.Grid((50,), (0.1,)), diffusivity=111.0, boundary={"x": ds.Dirichlet(1.0)})
    with pytest.warns(UserWarning, match="units"), pytest.raises(ds.ProblemError, match="steps"):
        ds.simulate(copper_in_mm2, 0.0, until=3600.0, scheme="ftcs")


@pytest.mark.parametrize("initial", [lambda x: x, lambda x, y: np.ones(3), lambda x, y: "hot"])
def test_a_function_that_does_not_fit_its_call_is_explained(initial):
    with pytest.raises(ds.ProblemError, match=r"called as initial\(x, y\)"):
        ds.simulate(box(), initial, until=0.1)


def test_a_source_may_depend_on_space_and_on_time():
    x, y = GRID.mesh()
    still = ds.simulate(box(source=lambda x, y: x * y), 0.0, until=0.1, save="final").final
    array = ds.simulate(box(source=x * y), 0.0, until=0.1, save="final").final
    moving = ds.simulate(box(source=lambda x, y, t: x * y + 0 * t), 0.0, until=0.1, save="final", tol=1e-6).final
    np.testing.assert_array_equal(still, array)
    np.testing.assert_allclose(moving, array, rtol=0, atol=1e-6)


# --- stability -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ftcs", "rk2", "rk4"])
def test_a_step_beyond_the_limit_is_refused_before_it_is_taken(scheme):
    limit = ds.stability(plate(), scheme).dt_limit
    with pytest.raises(ds.StabilityError, match="limit"):
        ds.simulate(plate(), 0.0, until=1.0, scheme=scheme, dt=1.001 * limit)
    assert ds.simulate(plate(), 0.0, until=20 * limit, scheme=scheme, dt=limit).ok


@hypothesis.given(seeds)
def test_at_the_limit_nothing_grows_beyond_it_noise_does(seed):
    rng = np.random.default_rng(seed)
    grid = ds.Grid(shape=tuple(rng.integers(3, 12, size=2)), lengths=tuple(rng.uniform(0.5, 2, size=2)))
    sides = {axis: rng.choice([ds.Dirichlet(0.0), ds.Neumann(0.0)]) for axis in "xy"}
    problem = ds.Problem(grid, diffusivity=float(rng.uniform(0.1, 5)), boundary=sides)
    limit = ds.stability(problem, "ftcs").dt_limit
    noise = rng.normal(size=grid.shape)
    calm = ds.simulate(problem, noise, until=200 * limit, dt=limit, scheme="ftcs", save="final")
    wild = ds.simulate(
        problem, noise, until=3000 * limit, dt=1.02 * limit, scheme="ftcs", save="final", on_unstable="allow"
    )
    assert np.sqrt((calm.final**2).sum()) <= np.sqrt((noise**2).sum()) * (1 + 1e-12)
    assert wild.status == "unstable"


@pytest.mark.parametrize("policy", ["substep", "switch"])
def test_policies_finish_the_run(policy):
    problem = plate()
    dt = 7 * ds.stability(problem, "ftcs").dt_limit
    run = ds.simulate(problem, 0.0, until=20 * dt, scheme="ftcs", dt=dt, on_unstable=policy)
    assert run.ok
    assert (run.scheme == "ftcs") == (policy == "substep")


def test_a_blown_up_run_keeps_its_last_good_frames():
    problem = plate()
    dt = 3 * ds.stability(problem, "ftcs").dt_limit
    run = ds.simulate(problem, 0.0, until=4000 * dt, scheme="ftcs", dt=dt, on_unstable="allow", save=2000)
    assert (run.status, run.ok) == ("unstable", False)
    assert np.isfinite(run.u).all()
    assert "too large" in run.message


# --- physics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ftcs", "rkl1", "backward-euler"])
@hypothesis.given(seed=seeds)
@hypothesis.settings(max_examples=15)
def test_no_new_extrema_up_to_dt_positive(scheme, seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(seed, grid=ds.Grid(shape=(6, 5), lengths=(1.0, 1.0)), boundary={}, source=0.0, loss=0.0)
    u0 = rng.choice([0.0, 1.0], size=(6, 5))
    if problem.fixed is not None:
        problem = problem.with_(fixed=(problem.fixed[0], rng.choice([0.0, 1.0], size=(6, 5))))
    dt = min(ds.stability(problem, scheme).dt_positive, 0.1)
    run = ds.simulate(problem, u0, until=5 * dt, scheme=scheme, dt=dt)
    assert run.ok
    slack = 4 * np.finfo(float).eps if scheme != "backward-euler" else 1e-9
    assert np.nanmin(run.u) >= -slack
    assert np.nanmax(run.u) <= 1 + slack


@every_scheme
def test_insulated_content_is_kept(scheme):
    problem = ds.Problem(
        GRID, diffusivity=plate().diffusivity, capacity=1 + np.random.default_rng(2).random(GRID.shape)
    )
    run = ds.simulate(problem, lambda x, y: np.exp(x * y), until=0.1, scheme=scheme)
    np.testing.assert_allclose(run.content, run.content[0], rtol=1e-13)


@every_scheme
@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_the_plate_mirrors_the_run(scheme, axis):
    if scheme == "krylov" or SCHEMES[scheme].family == "dirk" or scheme == "bdf2":
        tolerance = 1e-9  # iterative solves are not symmetric to the bit
    else:
        tolerance = 1e-13 if scheme == "adi" else 0.0  # a sweep runs one way
    u0 = np.random.default_rng(3).random(GRID.shape)
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(2.0, 0.5), "y-": ds.Neumann(0.3), "y+": ds.Dirichlet(0.0)}
    low, high = ("x-", "x+") if axis == 0 else ("y-", "y+")
    mirrored = {**sides, low: sides[high], high: sides[low]}
    d = plate().diffusivity
    dt = min(1e-3, 0.9 * ds.stability(plate(), scheme).dt_limit)
    run = ds.simulate(plate(boundary=sides), u0, until=0.01, scheme=scheme, dt=dt, save=2)
    mirror = ds.simulate(
        plate(diffusivity=np.flip(d, axis), boundary=mirrored),
        np.flip(u0, axis),
        until=0.01,
        scheme=scheme,
        dt=dt,
        save=2,
    )
    np.testing.assert_allclose(np.flip(mirror.final, axis), run.final, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scheme", ["ftcs", "rk4", "rkc2", "tr-bdf2", "adi"])
def test_runs_are_linear_in_the_state_and_the_data(scheme):
    rng = np.random.default_rng(4)
    one, two = rng.random(GRID.shape), rng.random(GRID.shape)
    sides = lambda a, b: {"x-": ds.Dirichlet(a), "x+": ds.Robin(2.0, b)}  # noqa: E731
    go = lambda u0, a, b: ds.simulate(plate(boundary=sides(a, b)), u0, until=0.02, scheme=scheme, dt=5e-4, save=2).final  # noqa: E731
    np.testing.assert_allclose(
        go(2 * one - two, 2 * 1.0 - 3.0, 2 * 0.5 - 1.0), 2 * go(one, 1.0, 0.5) - go(two, 3.0, 1.0), atol=1e-9
    )


@pytest.mark.parametrize("factor", [1e-7, 13.0])
def test_only_the_product_of_diffusivity_and_time_matters(factor):
    u0 = np.random.default_rng(5).random(GRID.shape)
    slow = ds.simulate(box(), u0, until=0.3, scheme="rkc2", save=2)
    fast = ds.simulate(box(diffusivity=0.7 * factor), u0, until=0.3 / factor, scheme="rkc2", save=2)
    np.testing.assert_allclose(fast.final, slow.final, rtol=1e-10)
    assert fast.stats["steps"] == slow.stats["steps"]


@pytest.mark.parametrize("scheme", ["exact", "krylov"])
def test_exponentials_form_a_semigroup(scheme):
    problem = box(source=1.0)
    u0 = np.random.default_rng(6).random(GRID.shape)
    whole = ds.simulate(problem, u0, until=0.3, scheme=scheme, save="final").final
    halves = ds.simulate(problem, u0, until=0.3, scheme=scheme, save=[0.1, 0.3]).final
    np.testing.assert_allclose(halves, whole, rtol=0, atol=1e-10 if scheme == "krylov" else 1e-14)
    np.testing.assert_allclose(whole, semidiscrete(problem, u0, 0.3), rtol=0, atol=1e-9)


@every_scheme
@pytest.mark.parametrize("factor", [0.1, 1.0, 1e4])
def test_the_equilibrium_stays_where_it_is(scheme, factor):
    problem = plate(source=1.0)
    operator = discretize(problem)
    rest = np.linalg.solve(operator.matrix().toarray(), operator.forcing(0.0).ravel()).reshape(GRID.shape)
    dt = min(factor / operator.spectral_bound().value, 0.99 * ds.stability(problem, scheme).dt_limit)
    run = ds.simulate(problem, rest, until=20 * dt, scheme=scheme, dt=dt, save=2)
    rounding = 1000 * np.finfo(float).eps
    if SCHEMES[scheme].estimate == "finish":
        # the closing quadratic of ROCK2 multiplies the rounding of the stages before it by tau z^2
        rounding = max(rounding, 4 * np.finfo(float).eps * (dt * operator.spectral_bound().value) ** 2)
    np.testing.assert_allclose(run.final, rest, rtol=0, atol=rounding * np.abs(rest).max())


# --- stopping, probing, watching -------------------------------------------------------------------------------------


def test_a_stop_rule_ends_the_run_at_its_step():
    run = ds.simulate(box(), 1.0, until=10.0, scheme="ftcs", dt=1e-3, stop=lambda t, u: t > 0.0245)
    assert run.status == "stopped"
    np.testing.assert_allclose(run.t[-1], 0.025, rtol=0.02)


def test_at_steady_stops_near_the_equilibrium():
    problem = plate(source=1.0)
    run = ds.simulate(problem, 0.0, until=1e6, stop=ds.AtSteady(1e-8))
    operator = discretize(problem)
    rest = np.linalg.solve(operator.matrix().toarray(), operator.forcing(0.0).ravel()).reshape(GRID.shape)
    assert run.status == "stopped"
    np.testing.assert_allclose(run.final, rest, rtol=1e-5)


def test_probes_read_linear_profiles_exactly():
    grid = ds.Grid(shape=(8, 5), lengths=(2.0, 1.0))
    problem = ds.Problem(grid, diffusivity=1.0, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(5.0)})
    points = {"wall": (0.0, 0.3), "inside": (0.777, 0.5), "corner": (2.0, 1.0)}
    run = ds.simulate(problem, lambda x, y: 1 + 2 * x + 0 * y, until=0.1, probes=points)
    for name, (x, _) in points.items():
        times, values = run.probes[name]
        assert len(times) == len(values) > 1
        np.testing.assert_allclose(values, 1 + 2 * x, rtol=1e-12)


def test_ctrl_c_returns_what_there_is():
    def interrupt(fraction, t):
        if fraction > 0.5:
            raise KeyboardInterrupt

    run = ds.simulate(box(), 1.0, until=1.0, scheme="rkc2", save=9, progress=interrupt)
    assert run.status == "interrupted"
    assert 2 < len(run.t) < 9
    rest = ds.simulate(box(), run, until=1.0, save="final")
    assert rest.ok


def test_side_flows_have_the_sign_of_what_enters():
    run = ds.simulate(box(), 1.0, until=0.05)
    assert (run.flow("x") < 0).all()
    np.testing.assert_allclose(run.flow("y"), 0.0)
    with pytest.raises(ds.ProblemError):
        run.flow("q")


# --- moving and nonlinear coefficients -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ftcs", "rk4", "rkl2", "backward-euler", "tr-bdf2", "auto"])
def test_a_diffusivity_of_time_only_bends_time(scheme):
    u0 = np.random.default_rng(7).random(GRID.shape)
    moving = box(diffusivity=ds.OfTime(lambda t: 0.7 * (1 + np.sin(3 * t))))
    stretched = 0.2 + (1 - np.cos(3 * 0.2)) / 3  # integral of 1 + sin 3t
    run = ds.simulate(moving, u0, until=0.2, scheme=scheme, tol=1e-5)
    np.testing.assert_allclose(run.final, semidiscrete(box(), u0, stretched), rtol=0, atol=1e-3)
    assert run.balance < 1e-12


@pytest.mark.parametrize("scheme", ["ftcs", "rk2", "rkc2", "crank-nicolson", "sdirk3"])
def test_a_diffusivity_of_state_keeps_content_and_agrees_between_schemes(scheme):
    grid = ds.Grid(shape=(30,), lengths=(1.0,))
    problem = ds.Problem(grid, diffusivity=ds.OfState(lambda u: 0.1 + u**2))
    start = lambda x: np.exp(-50 * (x - 0.4) ** 2)  # noqa: E731
    reference = ds.simulate(problem, start, until=0.05, scheme="rk4", dt=2e-5, save="final").final
    run = ds.simulate(problem, start, until=0.05, scheme=scheme, tol=1e-5, save=3)
    np.testing.assert_allclose(run.final, reference, rtol=0, atol=1e-3)
    np.testing.assert_allclose(run.content, run.content[0], rtol=1e-9 if not SCHEMES[scheme].explicit else 1e-13)


def test_a_constant_function_of_the_gradient_is_a_constant():
    u0 = np.random.default_rng(8).random(GRID.shape)
    constant = ds.simulate(box(), u0, until=0.05, scheme="rk2", dt=1e-3, save="final").final
    function = ds.simulate(
        box(diffusivity=ds.OfGradient(lambda g: 0.7 + 0 * g)), u0, until=0.05, scheme="rk2", dt=1e-3, save="final"
    ).final
    np.testing.assert_allclose(function, constant, rtol=1e-12)


def test_a_full_tensor_runs_explicit_and_implicit():
    problem = box(diffusivity=ds.Tensor(2.0, 0.9, 1.0))
    u0 = np.random.default_rng(9).random(GRID.shape)
    expected = semidiscrete(problem, u0, 0.05)
    for scheme in ("rk4", "rkc2", "tr-bdf2", "krylov"):
        run = ds.simulate(problem, u0, until=0.05, scheme=scheme, tol=1e-6, save="final")
        np.testing.assert_allclose(run.final, expected, rtol=0, atol=1e-4, err_msg=scheme)


def test_a_radiating_side_settles_where_radiation_balances_the_supply():
    grid = ds.Grid(shape=(10,), lengths=(0.1,))
    sides = {"x-": ds.Neumann(500.0), "x+": ds.Radiation(emissivity=0.8, ambient=300.0)}
    problem = ds.Problem(grid, diffusivity=2.0, capacity=1e5, boundary=sides)
    run = ds.simulate(problem, 300.0, until=5e6, scheme="tr-bdf2", save=3)
    surface = (500.0 / (0.8 * 5.670374419e-8) + 300.0**4) ** 0.25
    centre = surface + 500.0 / 2.0 * (0.1 - grid.centers[0])
    np.testing.assert_allclose(run.final, centre, rtol=2e-4)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("scheme", ["ftcs", "rk4", "rkc2"])
def test_a_reaction_that_explodes_ends_as_unstable(scheme):
    problem = ds.Problem(ds.Grid(shape=(8,), lengths=(1.0,)), diffusivity=1.0, reaction=lambda u: u**2)
    run = ds.simulate(problem, 1.0, until=2.0, scheme=scheme)  # u = 1 / (1 - t)
    assert (run.status, run.ok) == ("unstable", False)
    assert 0.9 < run.t[-1] < 1.2
    assert np.isfinite(run.u).all()


def test_a_step_is_proved_again_when_the_state_has_moved_the_coefficients():
    grid = ds.Grid(shape=(20,), lengths=(1.0,))
    problem = ds.Problem(grid, ds.OfState(lambda u: 1 + u**2), boundary={"x-": ds.Dirichlet(4.0)})
    dt = 0.9 * ds.stability(problem, "ftcs", u=0.0).dt_limit
    with pytest.raises(ds.StabilityError):
        ds.simulate(problem, 0.0, until=300 * dt, scheme="ftcs", dt=dt)
    assert ds.simulate(problem, 0.0, until=300 * dt, scheme="ftcs", dt=dt, on_unstable="substep").ok
    assert ds.simulate(problem, 0.0, until=300 * dt, scheme="ftcs", dt=dt, on_unstable="allow").status == "unstable"


@pytest.mark.parametrize("scheme", ["ftcs", "crank-nicolson", "rk4"])
def test_noise_settles_at_the_variance_of_its_scheme(scheme):
    # a chain of cells with walls: every mode is a linear recurrence y' = R y + (R - 1)/z noise sqrt(dt) xi
    grid = ds.Grid(shape=(6,), lengths=(1.0,))
    problem = ds.Problem(grid, diffusivity=1.0, boundary={"x": ds.Dirichlet(0.0)})
    operator = discretize(problem)
    dt, noise, steps = 0.4 * ds.stability(problem, "ftcs").dt_limit, 0.3, 10_000
    run = ds.simulate(problem, 0.0, until=steps * dt, scheme=scheme, dt=dt, save=steps // 10 + 1, noise=noise, seed=3)
    measured = run.u[100:].var(axis=0)
    rate, modes = np.linalg.eigh(operator.matrix().toarray() / operator.mass[0, 0, 0])
    R = SCHEMES[scheme].R(-rate * dt).real
    variance = noise**2 * dt * ((R - 1) / (-rate * dt)) ** 2 / (1 - R**2) / operator.mass[0, 0, 0]
    expected = modes**2 @ variance
    # samples every 10 steps of a slowest mode of 1/(2 rate dt) steps: about 500 independent ones
    independent = len(run.u) * min(1.0, 10 * 2 * rate[0] * dt)
    np.testing.assert_allclose(measured, expected, rtol=4 * np.sqrt(2 / independent))
    if scheme == "crank-nicolson":
        np.testing.assert_allclose(variance, noise**2 / (2 * rate) / operator.mass[0, 0, 0], rtol=1e-12)


def test_noise_repeats_with_its_seed_and_keeps_the_balance():
    go = lambda seed: ds.simulate(plate(), 0.0, until=0.01, noise=1.0, seed=seed)  # noqa: E731
    one, same, other = go(1), go(1), go(2)
    np.testing.assert_array_equal(one.final, same.final)
    assert not np.array_equal(one.final, other.final)
    assert one.balance < 1e-12
    with pytest.raises(ds.ProblemError, match="noise"):
        ds.simulate(plate(), 0.0, until=0.01, noise=1.0, scheme="krylov")


def test_a_reaction_is_stepped_with_the_diffusion():
    grid = ds.Grid(shape=(12,), lengths=(1.0,))
    problem = ds.Problem(grid, diffusivity=1.0, reaction=lambda u: u * (1 - u))
    for scheme in ("rk4", "rkc2", "tr-bdf2"):
        run = ds.simulate(problem, 0.1, until=2.0, scheme=scheme, tol=1e-6, save="final")
        logistic = 1 / (1 + 9 * np.exp(-2.0))
        np.testing.assert_allclose(run.final, logistic, rtol=1e-4)
        assert run.balance < 1e-9


def test_auto_leaps_to_a_single_frame_within_the_tolerance_and_by_few_solves():
    rng = np.random.default_rng(7)
    grid = ds.Grid((64, 64), (1.0, 1.0))
    two = np.where(rng.random(grid.shape) < 0.5, 12.0, 3.0)
    cold = {"x": ds.Dirichlet(0.0), "y": ds.Dirichlet(0.0)}
    starts = {
        "source": (ds.Problem(grid, two, source=1.0, boundary=cold), 0.0),
        "noise": (ds.Problem(grid, two, boundary=cold), rng.random(grid.shape)),
        "closed": (ds.Problem(grid, two), rng.random(grid.shape)),
    }
    for problem, start in starts.values():
        exact = ds.simulate(problem, start, until=0.02, scheme="krylov", save="final").final
        for tol in (1e-4, 1e-6):
            run = ds.simulate(problem, start, until=0.02, tol=tol, save="final")
            assert run.scheme == "krylov"
            span = max(np.ptp(exact), np.ptp(np.broadcast_to(start, grid.shape)))
            assert np.sqrt(np.mean((run.final - exact) ** 2)) < 0.3 * tol * span
            assert run.balance < 1e-14  # what a short Krylov space loses of the content is put back
            assert run.stats["solves"] <= 2 + 3 * np.log10(10 / tol)
    assert ds.simulate(*starts["source"], until=0.02).scheme != "krylov"  # one space per saved frame does not pay
    looked_at = ds.simulate(*starts["source"], until=0.02, save="final", probes={"middle": (0.5, 0.5)})
    assert looked_at.scheme != "krylov"
