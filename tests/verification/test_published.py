"""Published cases and closed forms: what others agree the answer is."""

from itertools import pairwise

import numpy as np
import pytest

import diffsim as ds
from diffsim import exact

SERIES_SCHEMES = [
    "ftcs",
    "rk4",
    "rkl2",
    "rock2",
    "backward-euler",
    "crank-nicolson",
    "tr-bdf2",
    "sdirk3",
    "exact",
    "krylov",
]


# --- transient
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["auto", "tr-bdf2", "rkl2", "sdirk3"])
def test_nafems_t3_reaches_its_target(scheme):
    case = exact.NAFEMS_T3
    problem = ds.Problem(
        ds.Grid((200,), (case["length"],)),
        case["conductivity"],
        capacity=case["capacity"],
        boundary={
            "x-": ds.Dirichlet(0.0),
            "x+": ds.Dirichlet(lambda t: case["amplitude"] * np.sin(case["frequency"] * t)),
        },
    )
    run = ds.simulate(problem, 0.0, case["t"], scheme=scheme, tol=1e-6, save="final", probes={"target": (case["x"],)})
    reached = run.probes["target"][1][-1]
    assert reached == pytest.approx(case["published"], abs=0.01)
    assert reached == pytest.approx(float(exact.nafems_t3()), abs=4e-3)


@pytest.mark.parametrize("scheme", SERIES_SCHEMES)
def test_slab_follows_its_series(scheme):
    """Slab 4 m, 300 against 400: 352.0501, 384.2723, 396.6512 at 1, 2, 3 m after 1 s."""
    grid = ds.Grid((100,), (4.0,))
    problem = ds.Problem(grid, 1.0, boundary={"x-": ds.Dirichlet(300.0), "x+": ds.Dirichlet(400.0)})
    # steps at which each is accurate to a tenth of the tolerance; FTCS and RK4 at their limit
    dt = {
        "backward-euler": 4e-4,
        "crank-nicolson": 1e-3,
        "tr-bdf2": 0.01,
        "sdirk3": 0.02,
        "exact": 0.5,
        "krylov": 0.5,
    }
    probes = {str(x): (float(x),) for x in (1, 2, 3)}
    run = ds.simulate(problem, 400.0, 1.0, scheme=scheme, dt=dt.get(scheme, 1 / 1280), save="final", probes=probes)
    reached = [run.probes[str(x)][1][-1] for x in (1, 2, 3)]
    np.testing.assert_allclose(reached, [352.0501, 384.2723, 396.6512], rtol=0, atol=0.015)


def test_fenics_case_has_no_error_in_time_and_order_two_in_space():
    made = exact.Manufactured()

    def final_error(n, dt, held="wall"):
        grid = ds.Grid((n, n), (1.0, 1.0))
        x, y = grid.centers
        sides = {
            "x-": ds.Dirichlet(lambda t: made(0.0, y, t)), "x+": ds.Dirichlet(lambda t: made(1.0, y, t)),
            "y-": ds.Dirichlet(lambda t: made(x, 0.0, t)), "y+": ds.Dirichlet(lambda t: made(x, 1.0, t)),
        }  # fmt: skip
        problem = ds.Problem(grid, 1.0, source=made.source, boundary=sides)
        run = ds.simulate(problem, lambda x, y: made(x, y, 0.0), 2.0, scheme="backward-euler", dt=dt, save="final")
        return np.abs(run.final - made(*grid.mesh(), 2.0)).max()

    coarse = [final_error(8, dt) for dt in (0.05, 0.2, 0.5)]
    # The start misses the discrete profile by the error itself; that decays as (1 + lambda1 dt)^-n, here 7e-5
    # at most.
    assert np.ptp(coarse) < (1 + 2 * np.pi**2 * 0.5) ** -4 * coarse[0]
    fine = final_error(16, 0.5)
    assert np.log2(coarse[-1] / fine) == pytest.approx(2, abs=0.15)


def test_chip_of_numerical_mooc_stops_at_its_time():
    """21 x 21 nodes over 1 cm, left and bottom nodes held at 100, right and top nodes copy their neighbours.

    On those nodes the copied ones carry no flow, so the free nodes are 20 x 20 cells of the node spacing of
    which the first column and row are held, and the others end half a spacing beyond the last free node with
    zero flux.
    """
    dx = 0.01 / 20
    grid = ds.Grid((20, 20), (20 * dx, 20 * dx))
    held = np.zeros(grid.shape, dtype=bool)
    held[0], held[:, 0] = True, True
    problem = ds.Problem(grid, 1e-4, fixed=(held, 100.0))
    dt = 0.2 * dx**2 / 1e-4
    run = ds.simulate(problem, 20.0, 1.0, scheme="ftcs", dt=dt, save="final", stop=lambda t, u: u[10, 10] >= 70)
    assert run.status == "stopped"
    assert run.t[-1] == pytest.approx(0.16, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_front_of_a_porous_medium_moves_as_barenblatt_says(power):
    truth = exact.Barenblatt(power=power, constant=0.3)
    grid = ds.Grid((200,), (4.0,), origin=(-2.0,))
    x = grid.centers[0]
    start, duration = 0.2, 1.0
    problem = ds.Problem(grid, ds.OfState(lambda u: np.maximum(u, 0.0) ** power))
    run = ds.simulate(problem, truth(x, start), duration, save="final")
    assert run.ok
    expected = truth.front(start + duration)
    assert expected > 1.2 * truth.front(start)
    occupied = np.abs(x[run.final > 1e-3 * run.final.max()]).max() + 0.01  # the far face of the last occupied cell
    assert occupied == pytest.approx(expected, rel=0.02)
    assert np.abs(run.final - truth(x, start + duration)).mean() < 0.005 * run.final.max()


# --- steady
# ---------------------------------------------------------------------------------------------------------

ISO_1 = np.array(
    [
        [9.7, 13.4, 14.7, 15.1],
        [5.3, 8.6, 10.3, 10.8],
        [3.2, 5.6, 7.0, 7.5],
        [2.0, 3.6, 4.7, 5.0],
        [1.3, 2.3, 3.0, 3.2],
        [0.7, 1.4, 1.8, 1.9],
        [0.3, 0.6, 0.8, 0.9],
    ]
)  # EN ISO 10211 case 1, top row first, columns at 1/8 to 4/8 of the width


def test_iso_10211_case_1_meets_its_28_temperatures():
    grid = ds.Grid((32, 64), (0.5, 1.0))
    problem = ds.Problem(
        grid, 1.0, boundary={"x-": ds.Dirichlet(0.0), "y-": ds.Dirichlet(0.0), "y+": ds.Dirichlet(20.0)}
    )
    steady = ds.equilibrium(problem, tol=1e-11)
    found = np.array([[steady.at((i / 8, 1 - j / 8)) for i in range(1, 5)] for j in range(1, 8)])
    assert np.abs(found - ISO_1).max() < 0.1
    x, y = np.arange(1, 5) / 8, 1 - np.arange(1, 8)[:, None] / 8
    np.testing.assert_allclose(found, exact.square_hot_top(x, y, top=20.0), rtol=0, atol=0.02)


def test_iso_10211_case_1_has_exactly_a_quarter_in_the_centre():
    """Four turned copies add up to a constant, on the grid as in the continuum."""
    problem = ds.Problem(
        ds.Grid((22, 22), (1.0, 1.0)),
        1.0,
        boundary={"x": ds.Dirichlet(0.0), "y-": ds.Dirichlet(0.0), "y+": ds.Dirichlet(20.0)},
    )
    assert ds.equilibrium(problem, tol=1e-13).at((0.5, 0.5)) == pytest.approx(5.0, abs=1e-10)


def iso_case_2(refine):
    """0.5 x 0.0475 m: concrete on insulation in an aluminium frame, with a block of wood (EN ISO 10211 case
    2)."""

    def split(corners, counts):
        parts = [
            np.linspace(a, b, refine * n, endpoint=False) for (a, b), n in zip(pairwise(corners), counts, strict=True)
        ]
        return np.concatenate([*parts, corners[-1:]])

    # beyond the wood the layers are nearly one-dimensional: cells grow
    growth = np.cumsum(1.25 ** (np.arange(14 * refine) / refine))
    x = np.concatenate([split([0.0, 0.0015, 0.015], [3, 9]), 0.015 + 0.485 * growth / growth[-1]])
    x[-1] = 0.5
    y = split([0.0, 0.0015, 0.035, 0.0365, 0.0415, 0.0475], [3, 16, 3, 4, 4])
    grid = ds.Grid.from_edges([x, y])
    cx, cy = grid.mesh()
    k = np.full(grid.shape, 0.029)
    for where, value in (
        ((cy > 0.0415) & (cx > 0), 1.15),
        ((cx < 0.015) & (cy > 0.0365) & (cy < 0.0415), 0.12),
        ((cy < 0.0015) & (cx > 0), 230.0),
        ((cx < 0.0015) & (cy < 0.0365), 230.0),
        ((cx < 0.015) & (cy > 0.035) & (cy < 0.0365), 230.0),
    ):
        k[where] = value
    sides = {"y+": ds.Robin(1 / 0.06, 0.0), "y-": ds.Robin(1 / 0.11, 20.0)}
    return ds.Problem(grid, k, boundary=sides)


ISO_2 = {
    (0.0, 0.0475): 7.06, (0.5, 0.0475): 0.76, (0.0, 0.0415): 7.90, (0.015, 0.0415): 6.27, (0.5, 0.0415): 0.83,
    (0.0, 0.0365): 16.40, (0.015, 0.0365): 16.33, (0.0, 0.0): 16.77, (0.5, 0.0): 18.33,
}  # fmt: skip  # points A to I, as HEAT2 gives them with two decimals


def test_iso_10211_case_2_meets_its_temperatures_and_flow():
    steady = ds.equilibrium(iso_case_2(4), tol=1e-11)
    assert steady.flow("y-") == pytest.approx(9.5, abs=0.1)
    assert steady.flow("y-") == pytest.approx(9.490, abs=0.01)
    assert steady.flow("y-") == pytest.approx(-steady.flow("y+"), rel=1e-8)
    # three materials meet in G, and the value there is read from the aluminium below it
    found = {point: steady.at((point[0], max(point[1] - 1e-9, 0.0))) for point in ISO_2}
    assert max(abs(found[p] - ISO_2[p]) for p in ISO_2) < 0.1, found


@pytest.mark.parametrize("axis", [0, 1])
def test_layers_with_interfaces_on_faces_are_exact_whatever_the_jump(axis):
    rng = np.random.default_rng(3)
    thickness, count = rng.uniform(0.1, 1, 5), 4
    k = np.array([1.0, 1e-4, 1e3, 5.0, 0.02])  # jumps of up to 1e7
    corners = np.concatenate([[0], np.cumsum(thickness)])
    edges = np.concatenate(
        [
            *(a + (b - a) * np.sort(np.append(0, rng.random(count - 1))) for a, b in pairwise(corners)),
            corners[-1:],
        ]
    )
    other = np.linspace(0, 1, 4)
    grid = ds.Grid.from_edges([edges, other] if axis == 0 else [other, edges])
    field = np.repeat(k, count)
    field = np.broadcast_to(field[:, None] if axis == 0 else field, grid.shape)
    name = grid.axes[axis]
    problem = ds.Problem(grid, field, boundary={f"{name}-": ds.Robin(8.0, 20.0), f"{name}+": ds.Dirichlet(-5.0)})
    steady = ds.equilibrium(problem, tol=1e-14)
    flux, faces = exact.layered_wall(thickness, k, 20.0, -5.0, 1 / 8)
    truth = np.interp(grid.centers[axis], corners, faces)
    profile = steady.u if axis == 0 else steady.u.T
    np.testing.assert_allclose(profile, np.broadcast_to(truth[:, None], profile.shape), rtol=0, atol=1e-9)
    assert steady.flow(f"{name}-") == pytest.approx(flux, rel=1e-9)


@pytest.mark.parametrize(
    ("geometry", "profile", "flow"),
    [
        ("cylindrical", exact.cylinder_shell, exact.cylinder_shell_flow),
        ("spherical", exact.sphere_shell, exact.sphere_shell_flow),
    ],
)
def test_shells_follow_their_radial_profiles_at_order_two(geometry, profile, flow):
    errors, flows = [], []
    for n in (20, 40):
        grid = ds.Grid((n,), (1.5,), geometry=geometry, origin=(0.5,))
        problem = ds.Problem(grid, 0.4, boundary={"r-": ds.Dirichlet(7.0), "r+": ds.Dirichlet(3.0)})
        steady = ds.equilibrium(problem, tol=1e-13)
        errors.append(np.abs(steady.u - profile(grid.centers[0], 0.5, 2.0, 7.0, 3.0)).max())
        flows.append(abs(steady.flow("r-") / flow(0.5, 2.0, 7.0, 3.0, 0.4) - 1))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    assert np.log2(flows[0] / flows[1]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("geometry", "dimension"), [("cartesian", 1), ("cylindrical", 2), ("spherical", 3)])
def test_heated_bodies_shed_their_source_and_have_their_parabola(geometry, dimension):
    grid = ds.Grid((40,), (2.0,), geometry=geometry)
    axis = grid.axes[0]
    problem = ds.Problem(grid, 0.4, source=3.0, boundary={f"{axis}+": ds.Dirichlet(1.0)})
    steady = ds.equilibrium(problem, tol=1e-13)
    truth = exact.heated_body(grid.centers[0], 2.0, 0.4, 3.0, 1.0, dimension)
    assert steady.flow(f"{axis}+") == pytest.approx(-3.0 * float(np.sum(grid.volumes)), rel=1e-10)
    assert np.abs(steady.u - truth).max() < 2 * 3.0 / (8 * 0.4) * (2.0 / 40) ** 2  # h^2 f / 8 k at the wall


def test_fin_follows_its_hyperbolic_cosine():
    grid = ds.Grid((100,), (0.5,))
    m, tip = 6.0, 0.8
    problem = ds.Problem(
        grid,
        2.0,
        loss=2.0 * m**2,
        ambient=20.0,
        boundary={"x-": ds.Dirichlet(100.0), "x+": ds.Robin(2.0 * tip, 20.0)},
    )
    truth = 20 + exact.fin(grid.centers[0], 0.5, m, 80.0, tip)
    assert np.abs(ds.equilibrium(problem, tol=1e-13).u - truth).max() < 80 * (m * 0.5 / 100) ** 2
