"""Planning: errors foretold for every scheme, tolerances met, and nothing much cheaper to be found."""

import math
from pathlib import Path

import numpy as np
import pytest

import diffsim as ds
from diffsim.operator import discretize
from diffsim.schemes import SCHEMES
from diffsim.tuning.modes import Modes, decay, power
from diffsim.tuning.planning import least_steps


def rough(shape, contrast, seed):
    return np.exp(math.log(contrast) * np.random.default_rng(seed).random(shape))


def line(n=40, **kw):
    grid = ds.Grid(shape=(n,), lengths=(1.0,))
    return ds.Problem(
        grid, **{"diffusivity": 1.0, "boundary": {"x-": ds.Dirichlet(1.0), "x+": ds.Dirichlet(0.0)}, **kw}
    )


def plate(shape=(14, 10), **kw):
    grid = ds.Grid(shape=shape, lengths=(1.4, 1.0))
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(h=2.0, ambient=0.0)}
    return ds.Problem(grid, **{"diffusivity": 1.0, "boundary": sides, **kw})


def voids(shape):
    active = np.ones(shape, bool)
    active[4:8, 3:7] = False
    return active


def zoo():
    """(name, problem, initial, until, tol): 24 with steady data, then 6 whose data or coefficients move."""
    cube = ds.Grid(shape=(6, 5, 7), lengths=(1.0, 1.0, 1.0))
    ring = ds.Grid(shape=(8, 10), lengths=(1.0, 2.0), geometry="cylindrical")
    graded = ds.Grid.from_edges([np.linspace(0, 1, 31) ** 1.7])
    ball = ds.Grid(shape=(24,), lengths=(1.0,), geometry="spherical")
    bump = lambda x: np.exp(-80 * (x - 0.4) ** 2)  # noqa: E731
    wave = lambda x, y: np.sin(3 * x) * np.cos(4 * y)  # noqa: E731
    noise = np.random.default_rng(5).random
    periodic = {"x": ds.Periodic()}
    cold = {"x": ds.Dirichlet(0.0)}
    steady = [
        ("line", line(), 0.0, 0.05, 1e-3),
        ("line, late", line(), 0.0, 0.6, 1e-3),
        ("line, tight", line(), 0.0, 0.05, 1e-6),
        ("line, insulated", line(boundary={}), bump, 0.02, 1e-4),
        ("line, periodic", line(boundary=periodic), bump, 0.01, 1e-3),
        ("line, noise", line(), noise(40), 0.002, 1e-3),
        ("line, loss", line(loss=3.0, ambient=0.5), bump, 0.1, 1e-3),
        ("line, heat in", line(boundary={"x-": ds.Neumann(1.0)}), 0.0, 0.1, 1e-3),
        ("layers", line(diffusivity=np.where(np.arange(40) < 20, 1.0, 50.0)), 0.0, 0.1, 1e-3),
        ("layers, late", line(diffusivity=np.where(np.arange(40) < 20, 1.0, 1e4)), 0.0, 1.0, 1e-3),
        ("layers, tight", line(diffusivity=np.where(np.arange(40) < 20, 1.0, 50.0)), bump, 0.05, 1e-5),
        ("rough line", line(diffusivity=rough(40, 100, 1), source=1.0), noise(40), 0.05, 1e-3),
        ("capacity", line(capacity=rough(40, 20, 2)), 0.0, 0.5, 1e-3),
        ("graded", ds.Problem(graded, 1.0, boundary=cold, source=2.0), bump, 0.05, 1e-3),
        ("ball", ds.Problem(ball, 1.0, boundary={"r+": ds.Robin(5.0, 1.0)}), 0.0, 0.1, 1e-3),
        ("plate", plate(), 0.0, 0.1, 1e-3),
        ("plate, loose", plate(), 0.0, 0.1, 3e-2),
        ("plate, tight", plate(), wave, 0.05, 1e-5),
        ("rough plate", plate(diffusivity=rough((14, 10), 30, 3)), wave, 0.05, 1e-3),
        ("rough plate, late", plate(diffusivity=rough((14, 10), 1000, 4), source=1.0), 0.0, 0.3, 1e-3),
        ("plate with voids", plate(active=voids((14, 10))), 0.0, 0.1, 1e-3),
        ("anisotropic", plate(diffusivity=ds.PerAxis(1.0, 10.0)), noise((14, 10)), 0.02, 1e-3),
        ("pipe", ds.Problem(ring, 1.0, boundary={"r+": ds.Dirichlet(1.0), "z": ds.Dirichlet(0.0)}), 0.0, 0.1, 1e-3),
        ("cube", ds.Problem(cube, rough((6, 5, 7), 20, 6), boundary={"x": ds.Dirichlet(1.0)}), 0.0, 0.05, 1e-3),
    ]  # fmt: skip
    pulse = ds.TimeSeries([0.0, 0.05, 0.1], [0.0, 1.0, 0.2])
    moving = [
        ("moving wall", line(20, boundary={"x-": ds.Dirichlet(lambda t: math.sin(20 * t))}), 0.0, 0.2, 1e-3),
        ("pulse", line(20, boundary={"x-": ds.Dirichlet(pulse), "x+": ds.Robin(2.0, 0.0)}), 0.0, 0.1, 1e-3),
        ("source", plate((8, 6), source=lambda t: math.cos(15 * t)), 0.0, 0.2, 1e-3),
        ("D(t)", line(16, diffusivity=ds.OfTime(lambda t: 1.0 + 5 * t)), 0.0, 0.05, 1e-3),
        ("D(u)", line(16, diffusivity=ds.OfState(lambda u: 0.5 + u**2)), bump, 0.05, 1e-3),
        ("D(|grad u|)", line(16, diffusivity=ds.OfGradient(lambda g: 1 / (1 + g**2))), bump, 0.02, 1e-3),
    ]  # fmt: skip
    return steady + moving


ZOO = zoo()
NAMES = [name for name, *_ in ZOO]


def truth(problem, initial, until):
    """The semi-discrete solution at `until`: matrix exponential, or a far tighter run where data or D move."""
    operator = discretize(problem) if problem.steady_coefficients else None
    if operator is None or not operator.forcing.constant:
        return ds.simulate(problem, initial, until, scheme="rkc2", tol=1e-8, save="final", progress=False).final
    from scipy.linalg import expm

    u0 = operator.enter(problem.grid.field("initial", initial, where=problem.active)).ravel()
    A = operator.matrix().toarray() / operator.mass.ravel()[:, None]
    b = operator.forcing(0.0).ravel() / operator.mass.ravel()
    # u' = b - A u as one homogeneous system, so that a singular A needs no equilibrium
    whole = np.block([[-A, b[:, None]], [np.zeros((1, A.shape[0] + 1))]])
    return operator.leave((expm(until * whole) @ np.append(u0, 1.0))[:-1].reshape(operator.shape))


def error(problem, initial, final, exact):
    operator = discretize(problem, 0.0, None if problem.linear else exact)
    start = problem.grid.field("initial", initial, where=problem.active)
    both = np.concatenate([x[~np.isnan(exact)] for x in (start, exact)])
    gap = operator.enter(np.nan_to_num(final - exact))[operator.free]
    mass = operator.mass[operator.free]
    return math.sqrt(float((mass * gap**2).sum() / mass.sum())) / (both.max() - both.min())


def measured(problem, initial, until, scheme, n, exact):
    """Error of a run of n steps; inf where it blew up or could not be made."""
    try:
        run = ds.simulate(problem, initial, until, scheme=scheme.name, dt=until / n, save="final", progress=False)
    except ds.DiffsimError:  # Picard gave up
        return math.inf
    return error(problem, initial, run.final, exact) if run.ok else math.inf


@pytest.mark.parametrize("case", ZOO[:24:4] + ZOO[24:25], ids=NAMES[:24:4] + NAMES[24:25])
def test_the_plan_meets_its_tolerance(case):
    _, problem, initial, until, tol = case
    plan = ds.plan(problem, initial, until, tol)
    assert error(problem, initial, plan.run().final, truth(problem, initial, until)) <= tol


@pytest.mark.slow
@pytest.mark.parametrize("case", ZOO, ids=NAMES)
def test_no_alternative_is_much_cheaper_than_the_plan(case):
    """Every scheme at every step count that costs less than 1/1.3 of the plan misses the tolerance."""
    _, problem, initial, until, tol = case
    plan = ds.plan(problem, initial, until, tol)
    exact = truth(problem, initial, until)
    assert error(problem, initial, plan.run().final, exact) <= tol
    operator = discretize(problem, 0.0, None if problem.linear else problem.grid.field("initial", initial))
    reach = operator.spectral_bound().value
    usable = {row.scheme for row in plan.table if not math.isnan(row.work)}
    assert len(usable) >= 8
    for scheme in (SCHEMES[name] for name in usable):

        def work(n, scheme=scheme):
            return n * scheme.work(scheme.stages_for(until / n * reach) if scheme.stages is None else None)

        n = least_steps(scheme, reach, until)
        while work(n) < plan.work / 1.3:
            assert measured(problem, initial, until, scheme, n, exact) > tol, f"{scheme.name} with {n} steps"
            n = max(n + 1, int(1.06 * n))


@pytest.mark.parametrize("case", ZOO[:24:5], ids=NAMES[:24:5])
def test_predicted_errors_are_those_of_the_runs(case):
    """Within a factor of two, and here, where every mode is known, to the accuracy of solves and rounding."""
    _, problem, initial, until, tol = case
    exact = truth(problem, initial, until)
    compared = 0
    for row in ds.plan(problem, initial, until, tol).table:
        if row.feasible and row.work < 3000 and row.error > 0:
            measured = error(problem, initial, row.run().final, exact)
            assert measured == pytest.approx(row.error, rel=0.02, abs=1e-9), row.scheme
            compared += 1
    assert compared >= 5


def test_predicted_work_is_what_a_run_counts():
    problem = plate(diffusivity=rough((14, 10), 30, 3))
    for row in ds.plan(problem, 0.0, until=0.1, tol=1e-3).table:
        if row.feasible and SCHEMES[row.scheme].explicit:
            stats = row.run().stats
            assert stats["steps"] == row.steps
            # one application more per step where an error estimate is made on the way
            assert row.work <= stats["stages"] <= row.work + row.steps


def test_a_krylov_space_stands_for_the_modes_of_a_large_problem():
    """Predictions from some forty Ritz values, against all 960 modes: within a factor of two for every scheme."""
    shape = (40, 24)
    problem = plate(shape, diffusivity=rough(shape, 100, 7), source=1.0)
    operator, until = discretize(problem), 0.2
    start = operator.enter(np.random.default_rng(1).random(shape))
    some = decay(operator, start, until)
    assert not some.exact
    root = np.sqrt(operator.mass.ravel())
    rates, vectors = np.linalg.eigh(operator.matrix().toarray() / np.outer(root, root))
    slopes = np.abs(vectors.T @ (root * operator.rates(start, 0.0).ravel())) / np.linalg.norm(root)
    every = Modes(rates, slopes, None, some.reach, some.span, until, True)
    assert some.distance(0.05) == pytest.approx(every.distance(0.05), rel=1e-4)
    for scheme in SCHEMES.values():
        if scheme.family in ("splitting", "exponential"):
            continue
        for n in (8, 32, 256, 2048):
            if n >= least_steps(scheme, some.reach, until) and every.error(scheme, n, until) > 1e-9:
                ratio = some.error(scheme, n, until) / every.error(scheme, n, until)
                assert 0.5 <= ratio <= 2.0, (scheme.name, n)


def test_separable_and_whole_diagonalisation_agree():
    """The same box once as constants, once as an array: two routes to the same prediction."""
    box, field = plate(), plate(diffusivity=np.ones((14, 10)))
    start = np.random.default_rng(0).random((14, 10))
    modes = [decay(discretize(p), discretize(p).enter(start), 0.05) for p in (box, field)]
    assert modes[0].axis_rates is not None and modes[1].axis_rates is None
    for name in ("crank-nicolson", "sdirk3", "rkl2", "bdf2"):
        one, two = (m.error(SCHEMES[name], 7, 0.05) for m in modes)
        assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize("name", ["bdf2", "crank-nicolson", "ftcs"])
def test_power_is_what_a_run_multiplies_a_mode_by(name):
    problem = line(12, boundary={"x": ds.Dirichlet(0.0)})
    x, k = problem.grid.centers[0], 2
    mode = np.sin(k * np.pi * x)
    rate = 4 * 12**2 * math.sin(k * math.pi / 24) ** 2
    dt, n = 2e-3, 9
    run = ds.simulate(problem, mode, n * dt, scheme=name, dt=dt, save="final")
    np.testing.assert_allclose(run.final, power(SCHEMES[name], np.array([-rate * dt]), n)[0] * mode, rtol=0, atol=1e-10)


def test_the_plan_sees_how_rough_the_start_is():
    """Chebyshev steps leave much of the fast modes, |R| near 1/3 and more; Legendre steps damp them with the stages.

    On a smooth start they cost the same; on noise the plan knows, from its modes, that RKL2 needs far less.
    """
    problem = line(64, diffusivity=np.linspace(1, 3, 64), boundary={"x": ds.Dirichlet(0.0)})
    work = {}
    for name, start in (("smooth", lambda x: np.sin(np.pi * x)), ("noise", np.random.default_rng(0).normal(size=64))):
        rows = {row.scheme: row.work for row in ds.plan(problem, start, 0.02, 1e-3).table}
        work[name] = {scheme: rows[scheme] / rows["rkl2"] for scheme in ("rkc2", "rock2")}
    assert max(work["smooth"].values()) < 1.3
    assert work["noise"]["rkc2"] > 2 and work["noise"]["rock2"] > 1.5


def test_a_plan_is_the_same_every_time():
    problem = plate(diffusivity=rough((14, 10), 30, 3))
    first, second = (ds.plan(problem, 0.0, until=0.1, tol=1e-3) for _ in range(2))
    assert [(r.scheme, r.steps, r.work, r.error) for r in first.table if r.feasible] == [
        (r.scheme, r.steps, r.work, r.error) for r in second.table if r.feasible
    ]


def test_without_an_end_the_plan_goes_to_equilibrium():
    problem = line(24)
    plan = ds.plan(problem, 0.0, tol=1e-3)
    assert plan.until == pytest.approx(ds.time_to_equilibrium(problem, initial=0.0, tol=1e-3))
    settled = ds.equilibrium(problem).u
    assert np.sqrt(np.mean((plan.run().final - settled) ** 2)) <= 2.1e-3 * np.sqrt(np.mean(settled**2))


def test_every_runnable_row_of_the_table_runs_and_says_what_it_does():
    plan = ds.plan(line(16), 0.0, until=0.05, tol=1e-2)
    assert {row.scheme for row in plan.table} == set(SCHEMES)
    assert all(row.run().ok for row in plan.table if row.feasible)
    assert plan.table[0] is plan.best and plan.work == min(row.work for row in plan.table if row.feasible)
    assert plan.scheme in plan.explain() and all(row.scheme in str(plan) for row in plan.table)
    assert all(0 < row.seconds < 10 for row in plan.table if row.feasible)


def test_a_row_that_cannot_run_says_why():
    plan = ds.plan(line(16, diffusivity=np.linspace(1, 2, 16)), 0.0, until=0.05, tol=1e-2)
    row = next(row for row in plan.table if row.scheme == "exact")
    assert not row.feasible and "constant D" in row.reason
    with pytest.raises(ds.ProblemError, match="cannot be run here"):
        row.run()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"tol": 0.0}, "tol"),
        ({"tol": 1e-12}, "rounding"),
        ({"until": -1.0}, "until"),
        ({"until": math.nan}, "until"),
    ],
)
def test_impossible_wishes_are_refused(arguments, word):
    with pytest.raises(ds.ProblemError, match=word):
        ds.plan(line(8), 0.0, **{"until": 0.1, **arguments})


def test_the_page_on_tuning_runs(tmp_path, monkeypatch):
    """Every piece of code on the page, in order, as a reader would type it."""
    import re

    page = (Path(__file__).parents[1] / "docs" / "tuning.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), names)
    assert names["plan"].scheme == "rkl2" and names["fit"].value[0] == pytest.approx(0.7, rel=1e-6)
    assert (tmp_path / "map.png").exists() and (tmp_path / "fit.png").exists()
