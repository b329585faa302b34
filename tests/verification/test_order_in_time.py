"""Temporal order of every row of the table, against the semi-discrete solution by the matrix exponential.

Two regimes. *Resolved*: a coarse grid, so every mode is resolved in time and the classical order must show.
*Stiff*: a fine grid, steps far above 1/rho; where a method loses order there, its row says so in
`reductions`, and that is tested too. Data move as a sine, which makes the semi-discrete system autonomous and
its solution exact.
"""

import math

import numpy as np
import pytest
from scipy.linalg import expm

import diffsim as ds
from diffsim import exact
from diffsim.operator import discretize
from diffsim.schemes import SCHEMES

OMEGA = 7.0
UNTIL = 0.5
SITUATIONS = ("steady", "moving value", "moving flux", "moving ambient", "moving source")
QUICK = ("steady", "moving value")
TOLERANCE = 0.15


def signal(t):
    return np.sin(OMEGA * t)


def bar(cells, situation, ndim=1):
    """Variable D, a value at x-, Robin at x+, zero flux elsewhere; one datum moves."""
    grid = ds.Grid((cells,) * ndim, (1.0,) * ndim)
    mesh = grid.mesh()
    arguments = {"diffusivity": np.broadcast_to(1 + 0.5 * np.sin(3 * mesh[0] + mesh[-1]), grid.shape)}
    sides = {"x-": ds.Dirichlet(1.0), "x+": ds.Robin(2.0, 0.5)}
    if situation == "moving value":
        sides["x-"] = ds.Dirichlet(lambda t: 1 + signal(t))
    elif situation == "moving flux":
        sides["x+"] = ds.Neumann(signal)
    elif situation == "moving ambient":
        sides["x+"] = ds.Robin(2.0, signal)
    elif situation == "moving source":
        arguments["source"] = signal
    return ds.Problem(grid, boundary=sides, **arguments)


def semi_discrete(problem, u0, duration, start=0.0):
    """u after `duration` from u0 at time `start`, exact: the sine and cosine of the data are unknowns of the
    system."""
    op = discretize(problem)
    n, mass = op.mass.size, op.mass.ravel()
    first, peak, turned = (op.forcing(phase / OMEGA).ravel() for phase in (0.0, math.pi / 2, math.pi))
    base = (first + turned) / 2  # F = base + sine part + cosine part
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = -op.matrix().toarray() / mass[:, None]
    system[:n, n], system[:n, n + 1], system[:n, n + 2] = (
        base / mass,
        (peak - base) / mass,
        (first - base) / mass,
    )
    system[n + 1, n + 2], system[n + 2, n + 1] = OMEGA, -OMEGA
    state = np.concatenate([np.ravel(u0), [1.0, np.sin(OMEGA * start), np.cos(OMEGA * start)]])
    return (expm(system * duration) @ state)[:n].reshape(problem.grid.shape)


def errors(scheme, problem, counts, rough=False):
    u0 = np.zeros(problem.grid.shape)
    if not rough:  # what the data have been driving for a while: no initial layer
        u0 = semi_discrete(problem, np.broadcast_to(np.cos(2 * problem.grid.mesh()[0]), u0.shape), 0.5, -0.5)
    truth = semi_discrete(problem, u0, UNTIL)
    result = []
    for count in counts:
        run = ds.simulate(problem, u0, UNTIL, scheme=scheme.name, dt=UNTIL / count, save="final")
        assert run.ok
        result.append(np.sqrt(np.mean((run.final - truth) ** 2)))
    return result


def observed(sequence):
    return math.log2(sequence[-2] / sequence[-1])


def table(predicate, situations):
    return [
        pytest.param(
            scheme,
            situation,
            id=f"{scheme.name}-{situation.replace(' ', '_')}",
            marks=() if situation in QUICK else pytest.mark.slow,
        )
        for scheme in SCHEMES.values()
        if predicate(scheme)
        for situation in situations
    ]


def finite(scheme):
    return math.isfinite(scheme.order)


@pytest.mark.parametrize(("scheme", "situation"), table(finite, SITUATIONS))
def test_every_scheme_has_its_order_where_all_modes_are_resolved(scheme, situation):
    problem = bar(8, situation)
    steps = 32
    if scheme.explicit:  # below the limit of the fewest stages, so that halving dt changes nothing else
        fewest = scheme.stages or scheme.stages_for(0.1)
        bound = discretize(problem).spectral_bound().value
        steps = math.ceil(1.05 * UNTIL * bound / scheme.real_limit(fewest))
    # moving data set in later; steady ones reach rounding sooner
    factor = 2 if situation == "steady" else 8
    sequence = errors(scheme, problem, [factor * steps, 2 * factor * steps])
    assert observed(sequence) == pytest.approx(scheme.order, abs=TOLERANCE)


@pytest.mark.parametrize(("scheme", "situation"), table(lambda s: not finite(s), ["steady"]))
def test_exponentials_are_exact_for_steady_data_at_any_step(scheme, situation):
    if scheme.name == "exact":
        grid = ds.Grid((12,), (1.0,))
        problem = ds.Problem(grid, 0.7, loss=0.3, boundary={"x-": ds.Dirichlet(1.0), "x+": ds.Neumann(0.2)})
    else:
        problem = bar(12, situation)
    for count in (1, 7):
        # the Krylov exponential is asked for 1e-10, relative to the field
        assert errors(scheme, problem, [count], rough=True)[0] < 1e-9


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if not finite(s)], ids=lambda s: s.name)
def test_exponentials_refuse_moving_data_in_words(scheme):
    with pytest.raises(ds.ProblemError, match="change in time|constant D"):
        ds.simulate(bar(8, "moving value"), 0.0, 0.1, scheme=scheme.name)


def stiffly(scheme):
    return finite(scheme) and scheme.order > 1 and not (scheme.explicit and scheme.stages)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "situation"), table(stiffly, ["steady", "moving source", "moving ambient"]))
def test_order_holds_far_above_the_explicit_limit(scheme, situation):
    problem = bar(120, situation)
    sequence = errors(scheme, problem, [128, 256])
    rho = discretize(problem).spectral_bound().value
    assert UNTIL / 256 * rho > 50
    assert observed(sequence) == pytest.approx(scheme.order, abs=TOLERANCE)


# --- order losses
# -------------------------------------------------------------------------------------------------


def rod(cells, situation):
    """u_t = u_xx / 10 + f with u = sin(2 x + 7 t) at walls and inside, or walls at 0 and a jump to start
    from."""
    grid = ds.Grid((cells,), (1.0,))
    x = grid.centers[0]
    if situation == "rough start":
        return ds.Problem(grid, 0.1, boundary={"x": ds.Dirichlet(0.0)}), np.where((x > 0.3) & (x < 0.6), 1.0, 0.0)
    wave = lambda at: ds.Dirichlet(lambda t: np.sin(2 * at + OMEGA * t))  # noqa: E731
    source = lambda x, t: OMEGA * np.cos(2 * x + OMEGA * t) + 0.4 * np.sin(2 * x + OMEGA * t)  # noqa: E731
    return ds.Problem(grid, 0.1, source=source, boundary={"x-": wave(0.0), "x+": wave(1.0)}), np.sin(2 * x)


LOSSES = [
    pytest.param(scheme, situation, id=f"{scheme.name}-{situation.replace(' ', '_')}")
    for scheme in SCHEMES.values()
    for situation in scheme.reductions
    if scheme.family != "splitting"  # in one dimension ADI is Crank-Nicolson; its own loss needs two
]


@pytest.mark.parametrize(("scheme", "situation"), LOSSES)
def test_losses_of_order_under_joint_refinement_are_those_of_the_table(scheme, situation):
    sizes = (16, 32) if scheme.family == "runge-kutta" else (32, 128)
    counts = [math.ceil(0.23 * n * n) if scheme.family == "runge-kutta" else n // 2 for n in sizes]
    sequence = []
    for cells, count in zip(sizes, counts, strict=True):
        problem, u0 = rod(cells, situation)
        run = ds.simulate(problem, u0, 1.0, scheme=scheme.name, dt=1 / count, save="final")
        sequence.append(np.sqrt(np.mean((run.final - semi_discrete(problem, u0, 1.0)) ** 2)))
    order = math.log(sequence[0] / sequence[1]) / math.log(counts[1] / counts[0])
    # orders at walls are fractional and set in slowly: a quarter, as in the test of the table itself
    assert order == pytest.approx(scheme.reductions[situation], abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("situation", ["steady", "moving value", "moving source"])
def test_adi_keeps_its_order_in_every_dimension(ndim, situation):
    problem = bar({2: 12, 3: 7}[ndim], situation, ndim)
    assert observed(errors(SCHEMES["adi"], problem, [32, 64])) == pytest.approx(2, abs=TOLERANCE)


# --- one step on one mode
# -----------------------------------------------------------------------------------------

MIXES = [(left, right) for left in (np.inf, 0.0, 3.0) for right in (np.inf, 0.0, 0.7)]


def side(h):
    return ds.Dirichlet(0.0) if h == np.inf else ds.Robin(h, 0.0) if h > 0 else ds.Neumann(0.0)


@pytest.mark.parametrize(("left", "right"), MIXES, ids=str)
@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.family != "multistep"], ids=lambda s: s.name)
def test_one_step_multiplies_a_mode_by_R(scheme, left, right):
    """For every mix of sides the closed-form mode of the grid is scaled by R(-rate dt) of the table, to
    rounding."""
    if scheme.name == "exact" and not {left, right} <= {np.inf, 0.0}:
        return  # refused: Robin modes have no fast transform
    cells, diffusivity = 16, 0.7
    problem = ds.Problem(ds.Grid((cells,), (2.0,)), diffusivity, boundary={"x-": side(left), "x+": side(right)})
    modes = exact.slab_modes(2.0, cells, diffusivity, left, right, cells=cells)
    reach = 10.0 if scheme.stages is None else scheme.real_limit()
    dt = 0.9 * min(reach, 10.0) / modes.rates[-1]
    for k in (0, 3, cells - 1):
        u = modes(k, problem.grid.centers[0])
        run = ds.simulate(problem, u, dt, scheme=scheme.name, dt=dt, save="final")
        stages = scheme.stages_for(dt * discretize(problem).spectral_bound().value) if scheme.stages is None else None
        z = -modes.rates[k] * dt
        factor = scheme.R(z, s=stages) if stages else scheme.R(z)
        np.testing.assert_allclose(run.final, np.real(factor) * u, rtol=0, atol=2e-10)
