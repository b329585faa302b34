"""The step check against dense matrices: never above the truth, sharp where a closed form exists."""

import itertools
import math

import numpy as np
import pytest

import diffsim as ds
from diffsim.operator import discretize
from diffsim.schemes import SCHEMES, Stabilized, within
from diffsim.stability import allowed_step, check_step, mesh_fourier, positive_step, spectrum

ROWS = list(SCHEMES.values())
every_scheme = pytest.mark.parametrize("scheme", ROWS, ids=lambda s: s.name)
limited = [s for s in ROWS if math.isfinite(s.real_limit())]
every_limited = pytest.mark.parametrize("scheme", limited, ids=lambda s: s.name)


def dense(operator):
    """Return A = m^-1 K on the free cells, symmetrised: same eigenvalues, m^-1/2 K m^-1/2."""
    free = operator.free.ravel()
    K = operator.matrix().toarray()[np.ix_(free, free)]
    root = 1.0 / np.sqrt(operator.mass.ravel()[free])
    return root[:, None] * K * root


def spectral_radius(operator):
    return float(np.linalg.eigvalsh(dense(operator))[-1])


def plate(**changes):
    given = {
        "grid": ds.Grid(shape=(12, 9), lengths=(1.5, 1.0)),
        "diffusivity": 0.02,
        "boundary": {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)},
    }
    given.update(changes)
    return ds.Problem(**given)


def posed_problems():
    """Problems of every kind that the operator knows, small enough for dense eigenvalues."""
    rng = np.random.default_rng(5)
    shape = (12, 9)
    rough = 10.0 ** rng.uniform(-4, 3, shape)
    active = rng.uniform(size=shape) > 0.2
    edges = [np.linspace(0, 1, 13) ** 2, np.cumsum(np.r_[0, rng.uniform(0.1, 1, 9)])]
    held = np.zeros(shape, dtype=bool)
    held[3:5, 2:4] = True
    return {
        "robin": plate(),
        "rough": plate(diffusivity=rough),
        "rough capacity": plate(diffusivity=rough, capacity=10.0 ** rng.uniform(-2, 2, shape)),
        "loss": plate(loss=rng.uniform(0, 50, shape), ambient=1.0),
        "voids": plate(diffusivity=rough, active=active, boundary={"void": ds.Dirichlet(0.0)}),
        "held": plate(fixed=(held, 1.0)),
        "stretched": plate(grid=ds.Grid.from_edges(edges)),
        "per axis": plate(diffusivity=ds.PerAxis(1.0, rough)),
        "tensor": plate(diffusivity=ds.Tensor(2.0, 0.9, 1.0)),
        "cylinder": plate(
            grid=ds.Grid(shape=shape, lengths=(1.0, 2.0), geometry="cylindrical"), boundary={"r+": ds.Dirichlet(0.0)}
        ),
        "sphere": ds.Problem(ds.Grid(shape=(20,), lengths=(1.0,), geometry="spherical"), diffusivity=1.0),
        "of time": plate(diffusivity=ds.OfTime(lambda t: 1.0 + t)),
        "rod": ds.Problem(ds.Grid(shape=(30,), lengths=(2.0,)), diffusivity=3.0),
        "cube": ds.Problem(
            ds.Grid(shape=(5, 4, 3), lengths=(1.0, 1.0, 1.0)), diffusivity=10.0 ** rng.uniform(-3, 3, (5, 4, 3))
        ),
    }


PROBLEMS = posed_problems()
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def sides(kinds):
    make = {"value": ds.Dirichlet(1.0), "flux": ds.Neumann(0.3), "periodic": ds.Periodic()}
    return {side: make[kind] for side, kind in kinds.items()}


PAIRS = [("value", "value"), ("value", "flux"), ("flux", "value"), ("flux", "flux"), ("periodic", "periodic")]


# --- limits against dense eigenvalues --------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), list(itertools.product(PAIRS, PAIRS)), ids=lambda pair: "-".join(pair))
def test_the_limit_is_exact_where_a_closed_form_exists(x, y):
    kinds = {"x-": x[0], "x+": x[1], "y-": y[0], "y+": y[1]}
    problem = plate(diffusivity=ds.PerAxis(0.7, 1.3), capacity=2.5, loss=0.4, boundary=sides(kinds))
    verdict = ds.stability(problem, "ftcs")
    assert verdict.bound_kind == "exact"
    assert verdict.dt_limit == pytest.approx(2.0 / spectral_radius(discretize(problem)), rel=1e-12)


@every_problem
@every_limited
def test_the_limit_is_never_above_the_true_one_and_at_most_half_of_it(problem, scheme):
    true = scheme.real_limit() / spectral_radius(discretize(problem))
    loose, sharp = (ds.stability(problem, scheme.name, tighten=tighten).dt_limit for tighten in (False, True))
    assert loose <= sharp <= true * (1 + 1e-12)
    assert loose >= 0.5 * true * (1 - 1e-12)


@every_problem
def test_tightening_closes_the_gap(problem):
    operator = discretize(problem)
    if operator.cross is not None:  # couplings of both signs: |A| has a larger radius than A
        return
    # the sign pattern (-1)^(i+j+k) turns |A| into A on a grid without odd periodic axes, so nothing is lost in principle
    true = 2.0 / spectral_radius(operator)
    assert ds.stability(problem, "ftcs", tighten=True).dt_limit == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("name", ["rough", "rough capacity", "per axis", "cube"])
def test_tightening_is_sharp_on_rough_fields(name):
    true = 2.0 / spectral_radius(discretize(PROBLEMS[name]))
    assert ds.stability(PROBLEMS[name], "ftcs", tighten=False).dt_limit < 0.97 * true
    assert ds.stability(PROBLEMS[name], "ftcs", tighten=True).dt_limit == pytest.approx(true, rel=1e-4)


@every_problem
@every_scheme
def test_the_matrix_of_a_step_at_the_limit_does_not_grow(problem, scheme):
    values = np.linalg.eigvalsh(dense(discretize(problem)))
    verdict = ds.stability(problem, scheme.name)
    dt = verdict.dt_limit if math.isfinite(verdict.dt_limit) else 1e3 / verdict.spectral_radius
    stages = scheme.stages_for(dt * verdict.spectral_radius) if scheme.stages is None else None
    assert scheme.growth(-dt * np.maximum(values, 0.0), stages).max() <= 1 + 1e-11


@every_limited
def test_a_step_a_thousandth_above_the_limit_grows(scheme):
    problem = plate(boundary={"x": ds.Dirichlet(0.0), "y": ds.Dirichlet(0.0)})
    values = np.linalg.eigvalsh(dense(discretize(problem)))
    dt = 1.001 * ds.stability(problem, scheme.name).dt_limit
    stages = scheme.degrees[-1] if isinstance(scheme, Stabilized) else None
    assert scheme.growth(-dt * values, stages).max() > 1.0001


# --- comparison ---------------------------------------------------------------------------------------------------


def test_a_step_exactly_at_the_limit_is_accepted_in_100_000_draws():
    """The limit as textbooks write it, hx^2 hy^2 / (2 D/c (hx^2 + hy^2)), against 2 / rho: equal up to rounding only."""
    rng = np.random.default_rng(1)
    n = 100_000
    cells, lengths = rng.integers(2, 400, (2, n)), 10.0 ** rng.uniform(-4, 4, (2, n))
    d, c = 10.0 ** rng.uniform(-12, 6, n), 10.0 ** rng.uniform(-3, 7, n)
    hx, hy = lengths / cells
    textbook = hx**2 * hy**2 / (2 * (d / c) * (hx**2 + hy**2))
    rho = (4 * d / hx**2 + 4 * d / hy**2) / c  # value sides: sin^2 = 1 exactly for the highest mode
    limit = SCHEMES["ftcs"].real_limit() / rho
    assert 0.05 < (textbook > limit).mean() < 0.6  # without slack this many would be refused
    assert all(map(within, textbook, limit))
    assert not any(map(within, 1.001 * textbook, limit))


@pytest.mark.parametrize("scheme", ["ftcs", "rk2", "rk4"])
def test_the_verdict_accepts_the_textbook_limit_and_refuses_a_thousandth_more(scheme, rng):
    beta = SCHEMES[scheme].real_limit()
    for _ in range(300):
        shape = tuple(int(n) for n in rng.integers(2, 50, 2))
        lengths = 10.0 ** rng.uniform(-3, 3, 2)
        d, c = 10.0 ** rng.uniform(-9, 3, 2)
        problem = ds.Problem(
            ds.Grid(shape=shape, lengths=tuple(lengths)),
            diffusivity=d,
            capacity=c,
            boundary={"x": ds.Dirichlet(0.0), "y": ds.Dirichlet(0.0)},
        )
        h = lengths / np.array(shape)
        dt = beta / 4 / (d / c * (1 / h[0] ** 2 + 1 / h[1] ** 2))
        assert ds.stability(problem, scheme, dt).stable
        assert not ds.stability(problem, scheme, 1.001 * dt).stable
        check_step(discretize(problem), SCHEMES[scheme], dt)
        with pytest.raises(ds.StabilityError):
            check_step(discretize(problem), SCHEMES[scheme], 1.001 * dt)


@every_problem
@every_limited
def test_a_verdict_accepts_its_own_limit(problem, scheme):
    limit = ds.stability(problem, scheme.name).dt_limit
    assert ds.stability(problem, scheme.name, limit).stable
    assert not ds.stability(problem, scheme.name, 1.001 * limit).stable


# --- positivity and oscillation -------------------------------------------------------------------------------------


@every_problem
@every_scheme
def test_no_entry_of_a_step_is_negative_up_to_dt_positive(problem, scheme):
    operator = discretize(problem)
    dt = ds.stability(problem, scheme.name).dt_positive
    if dt == 0.0 or scheme.family == "multistep":
        assert operator.cross is not None or scheme.positivity() == 0.0
        return
    rho = operator.spectral_bound().value
    dt = min(dt, 20 / rho)
    stages = scheme.stages_for(dt * rho) if scheme.stages is None else None
    values, vectors = np.linalg.eigh(dense(operator))
    step = (vectors * np.asarray(scheme.R(-dt * np.maximum(values, 0.0), stages)).real) @ vectors.T
    assert step.min() > -1e-12


def test_ftcs_at_a_half_cell_wall_keeps_positivity_only_to_a_third():
    """1-D, a value at a wall half a cell away: the diagonal is 3 D / h^2, so Fo <= 1/3, while stability allows 1/2."""
    verdict = ds.stability(
        ds.Problem(ds.Grid(shape=(40,), lengths=(1.0,)), diffusivity=1.0, boundary={"x": ds.Dirichlet(0.0)})
    )
    fourier = 1.0 / (1 / 40) ** 2
    assert verdict.dt_limit * fourier == pytest.approx(1 / 2, rel=1e-14)
    assert verdict.dt_positive * fourier == pytest.approx(1 / 3, rel=1e-14)
    assert verdict.fourier == pytest.approx(1 / 2, rel=1e-14)


def test_crank_nicolson_oscillates_beyond_two_over_rho_and_backward_euler_never():
    rho = ds.stability(plate()).spectral_radius
    assert not ds.stability(plate(), "crank-nicolson", 1.99 / rho).oscillating
    assert ds.stability(plate(), "crank-nicolson", 2.01 / rho).oscillating
    assert not ds.stability(plate(), "backward-euler", 1e6 / rho).oscillating
    assert ds.stability(plate(), "ftcs", 1.01 / rho).oscillating
    assert not ds.stability(plate(), "ftcs", 0.99 / rho).oscillating


def test_a_full_tensor_has_no_positive_step():
    assert ds.stability(PROBLEMS["tensor"]).dt_positive == 0.0


# --- what a verdict says -----------------------------------------------------------------------------------------------


@every_scheme
def test_every_scheme_gives_a_whole_verdict(scheme):
    for dt in (None, 1e-3, 5.0):
        verdict = ds.stability(plate(), scheme.name, dt)
        assert verdict.scheme == scheme.name
        assert isinstance(verdict.stable, bool)
        assert isinstance(verdict.oscillating, bool)
        assert verdict.dt_limit > 0
        assert verdict.dt_positive >= 0
        text = verdict.explain()
        assert "\n" not in text
        assert "nan" not in text.replace("name", "")
        assert scheme.title in text


def test_stabilized_schemes_have_no_limit_and_name_their_stages():
    verdict = ds.stability(plate(), "rkl2", 100.0)
    assert verdict.dt_limit == math.inf
    assert verdict.stable
    assert verdict.stages == SCHEMES["rkl2"].stages_for(100.0 * verdict.spectral_radius)
    assert f"{verdict.stages} stages" in verdict.explain()


def test_a_fixed_stage_count_has_a_limit():
    operator = discretize(plate())
    rkl2 = SCHEMES["rkl2"]
    limit = allowed_step(operator, rkl2, stages=6)
    assert limit == pytest.approx(20.0 / operator.spectral_bound().value, rel=1e-14)
    check_step(operator, rkl2, limit, stages=6)
    with pytest.raises(ds.StabilityError, match="rkl2 with 6 stages"):
        check_step(operator, rkl2, 1.001 * limit, stages=6)


def test_auto_is_always_stable():
    verdict = ds.stability(plate(), "auto", 1e9)
    assert verdict.stable
    assert verdict.dt_limit == math.inf
    assert "picks a scheme" in verdict.explain()


def test_the_error_gives_value_limit_origin_and_ways_out_that_work():
    operator = discretize(plate())
    with pytest.raises(ds.StabilityError) as caught:
        check_step(operator, SCHEMES["ftcs"], 2.0)
    text = str(caught.value)
    assert text.startswith("dt = 2 s is unstable for ftcs: the limit on this grid is ")
    assert "\n" not in text
    printed = float(text.split("dt <= ")[1].split(";")[0])
    check_step(operator, SCHEMES["ftcs"], printed)  # the printed limit is itself legal
    substeps = int(text.split(" substeps")[0].split("; ")[-1])
    check_step(operator, SCHEMES["ftcs"], 2.0 / substeps)
    with pytest.raises(ds.StabilityError):
        check_step(operator, SCHEMES["ftcs"], 2.0 / (substeps - 1))
    named = text.split("stable at this dt: ")[1].rstrip(".").split(", ")
    for name in (entry.split(" ")[0] for entry in named):
        check_step(operator, SCHEMES[name], 2.0)
    assert not {"ftcs", "rk2", "rk4", "exact"} & {entry.split(" ")[0] for entry in named}


def test_only_schemes_that_are_stable_at_the_step_are_ways_out():
    operator = discretize(plate())
    limit = allowed_step(operator, SCHEMES["ftcs"])
    for factor, rk4 in ((1.35, True), (1.45, False)):  # RK4 reaches 2.785 / 2 = 1.39 FTCS limits
        with pytest.raises(ds.StabilityError) as caught:
            check_step(operator, SCHEMES["ftcs"], factor * limit)
        assert (" rk4" in str(caught.value)) is rk4
        assert " rk2" not in str(caught.value)


def test_a_radiating_side_needs_a_state_and_follows_it():
    problem = plate(boundary={"x+": ds.Radiation(emissivity=0.9, ambient=300.0)})
    with pytest.raises(ds.ProblemError):
        ds.stability(problem)
    cold, hot = ds.stability(problem, u=300.0), ds.stability(problem, u=3000.0)
    assert hot.dt_positive < cold.dt_positive
    assert "A side radiates" in hot.explain()


def test_numbers_of_a_verdict_are_plain_floats():
    verdict = ds.stability(PROBLEMS["rough"], "rk4", 1e-3)
    for name in ("dt_limit", "dt_positive", "fourier", "spectral_radius", "dt"):
        assert type(getattr(verdict, name)) is float, name


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan, math.inf, True, "1", None])
def test_a_meaningless_step_is_refused(dt):
    if dt is not None:
        with pytest.raises(ds.ProblemError, match="dt"):
            ds.stability(plate(), "ftcs", dt)
    with pytest.raises(ds.ProblemError, match="dt"):
        check_step(discretize(plate()), SCHEMES["ftcs"], dt)


def test_what_is_not_a_problem_is_refused():
    with pytest.raises(ds.ProblemError, match="is not a Problem"):
        ds.stability("plate")
    with pytest.raises(ds.ProblemError, match="Known schemes"):
        ds.stability(plate(), "euler")


def test_an_operator_is_accepted_in_place_of_its_problem():
    assert ds.stability(discretize(plate())) == ds.stability(plate())


def test_state_dependent_coefficients_need_a_state_and_follow_it():
    problem = plate(diffusivity=ds.OfState(lambda u: 1.0 + u**2))
    with pytest.raises(ds.ProblemError, match="u=initial"):
        ds.stability(problem)
    cold, hot = ds.stability(problem, u=0.0), ds.stability(problem, u=3.0)
    assert hot.spectral_radius > 5 * cold.spectral_radius
    assert "D depends on u" in hot.explain()


def test_time_dependent_coefficients_are_taken_at_t_and_said_so():
    problem = plate(diffusivity=ds.OfTime(lambda t: 1.0 + t))
    assert ds.stability(problem, t=3.0).dt_limit == ds.stability(plate(diffusivity=4.0)).dt_limit
    assert "t = 3 s" in ds.stability(problem, t=3.0).explain()


# --- Fourier number ------------------------------------------------------------------------------------------------------


def test_the_fourier_number_is_the_largest_of_any_cell():
    d, c = np.full((12, 9), 0.5), np.full((12, 9), 2.0)
    d[3, 4], c[7, 7] = 5.0, 0.1
    problem = plate(diffusivity=d, capacity=c)
    h = (1.5 / 12, 1.0 / 9)
    largest = max(5.0 / 2.0, 0.5 / 0.1) * (1 / h[0] ** 2 + 1 / h[1] ** 2)
    assert ds.stability(problem, "ftcs", 0.01).fourier == pytest.approx(0.01 * largest, rel=1e-12)


def test_void_cells_do_not_count_towards_the_fourier_number():
    active = np.ones((12, 9), dtype=bool)
    active[0, 0] = False
    d = np.full((12, 9), 0.5)
    d[0, 0] = np.nan
    problem = plate(diffusivity=d, active=active, capacity=np.where(active, 2.0, np.nan))
    expected = 0.25 * ((12 / 1.5) ** 2 + 9**2)
    assert mesh_fourier(discretize(problem)) == pytest.approx(expected, rel=1e-12)


def test_a_problem_that_does_not_move_has_no_limit():
    insulated = ds.Problem(ds.Grid(shape=(1,), lengths=(1.0,)), diffusivity=1.0)
    verdict = ds.stability(insulated, "ftcs", 1e9)
    assert verdict.stable
    assert verdict.dt_limit == math.inf
    assert positive_step(discretize(insulated), SCHEMES["ftcs"]) == math.inf
    assert "stable" in verdict.explain()


# --- the spectrum itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), list(itertools.product(PAIRS, PAIRS[::2])), ids=lambda pair: "-".join(pair))
def test_the_closed_form_spectrum_is_the_dense_one(x, y):
    kinds = {"x-": x[0], "x+": x[1], "y-": y[0], "y+": y[1]}
    operator = discretize(plate(diffusivity=ds.PerAxis(0.7, 1.3), capacity=2.5, loss=0.4, boundary=sides(kinds)))
    found, true = spectrum(operator), np.linalg.eigvalsh(dense(operator))
    assert found.kind == "exact"
    gaps = np.abs(found.values[:, None] - true).min(axis=1)  # periodic pairs are counted once
    assert gaps.max() < 1e-10 * true[-1]
    assert np.abs(found.values[:, None] - true).min(axis=0).max() < 1e-10 * true[-1]


def test_a_large_box_is_sampled_with_both_ends():
    problem = ds.Problem(ds.Grid(shape=(300, 200), lengths=(1.0, 1.0)), diffusivity=1.0)
    found = spectrum(discretize(problem))
    assert found.values.size <= 5000
    assert found.values[0] == pytest.approx(0.0, abs=1e-9)
    assert found.values[-1] == pytest.approx(found.bound, rel=1e-12)


@every_problem
def test_estimates_lie_inside_the_spectrum_and_near_its_end(problem):
    operator = discretize(problem)
    true = np.linalg.eigvalsh(dense(operator))
    found = spectrum(operator, most=0)
    if found.kind == "exact":
        return
    assert found.kind == "ritz"
    assert found.values.min() >= -1e-9 * true[-1]
    assert found.values.max() <= true[-1] * (1 + 1e-12)
    assert found.values.max() == pytest.approx(true[-1], rel=1e-6)
    assert found.bound >= true[-1]
    np.testing.assert_allclose(spectrum(operator).values, np.maximum(true, 0.0), atol=1e-12 * true[-1])


@pytest.mark.parametrize("shape", [(40,), (31, 17), (9, 8, 7)], ids=str)
@pytest.mark.parametrize("kind", ["array", "robin", "held"])
def test_the_textbook_step_is_legal_where_no_closed_form_applies(shape, kind):
    rng = np.random.default_rng(0)
    for _ in range(20):
        d, lengths = float(rng.uniform(0.01, 10)), tuple(rng.uniform(0.1, 3, size=len(shape)))
        grid = ds.Grid(shape=shape, lengths=lengths)
        held = np.zeros(shape, bool)
        held[tuple(n // 2 for n in shape)] = True
        problem = ds.Problem(
            grid,
            diffusivity=np.full(shape, d) if kind == "array" else d,
            fixed=(held, 1.0) if kind == "held" else None,
            boundary={"x": ds.Robin(2.0, 1.0) if kind == "robin" else ds.Dirichlet(0.0)},
        )
        dt = 0.5 / (d * sum((n / length) ** 2 for n, length in zip(shape, lengths, strict=True)))
        assert ds.stability(problem, "ftcs", dt=dt).stable
        assert ds.simulate(problem, 0.0, until=dt, scheme="ftcs", dt=dt, save="final").ok
