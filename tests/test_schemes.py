"""The theory of every row of the table, and the published numbers of the methods."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.linalg import expm, toeplitz

from diffsim.errors import ProblemError
from diffsim.rock_coefficients import ROCK2_FINISH, rock2_coefficients
from diffsim.schemes import SCHEMES, ButcherTableau, Recurrence, RungeKutta, _trees, scheme_of, within

ROWS = list(SCHEMES.values())
STABILIZED = [s for s in ROWS if s.family == "stabilized"]
TABLEAUS = [s for s in ROWS if s.tableau is not None]


def rows(selection):
    return pytest.mark.parametrize("scheme", selection, ids=lambda s: s.name)


every_scheme = rows(ROWS)
every_stabilized = rows(STABILIZED)
every_tableau = rows(TABLEAUS)
every_explicit = rows([s for s in ROWS if s.explicit])
every_implicit = rows([s for s in ROWS if not s.explicit])


def stage_counts(scheme):
    """A few stage counts of a scheme that chooses, [None] for one that does not."""
    return [None] if scheme.stages is not None else [s for s in (2, 3, 4, 5, 8, 9, 20, 53) if s in scheme.degrees]


@pytest.fixture(scope="module")
def laplacian():
    """Return the 1-D Dirichlet Laplacian on 24 points with unit diagonal: eigenvalues in (0, 2)."""
    return toeplitz(np.r_[1.0, -0.5, np.zeros(22)])


def apply_R(scheme, A, s=None):
    """R(-A) of a symmetric matrix through its eigenvectors; the matrix a step multiplies the state with."""
    values, vectors = np.linalg.eigh(A)
    return (vectors * np.asarray(scheme.R(-values, s)).real) @ vectors.T


# --- the table itself -----------------------------------------------------------------------------------------


def test_every_scheme_of_the_design_is_a_row():
    names = "ftcs rk2 rk4 rkl1 rkl2 rkc2 rock2 backward-euler crank-nicolson tr-bdf2 bdf2 sdirk3 adi exact krylov"
    assert list(SCHEMES) == names.split()


@every_scheme
def test_a_row_is_found_by_its_name_and_by_itself(scheme):
    assert scheme_of(scheme.name) is scheme
    assert scheme_of(scheme) is scheme


def test_an_unknown_name_lists_what_exists_and_guesses():
    with pytest.raises(ProblemError, match=r"Did you mean 'crank-nicolson'\? Known schemes: ftcs, rk2"):
        scheme_of("crank_nicholson")
    with pytest.raises(ProblemError, match="not in the table"):
        scheme_of(3)


def test_a_row_with_a_wrong_order_is_refused():
    euler = ButcherTableau(np.zeros((1, 1)), np.ones(1))
    with pytest.raises(ProblemError, match="order 2 stated, its tableau has 1"):
        RungeKutta(name="wrong", title="Wrong", order=2, reference="", memory=2, tableau=euler)


def test_rows_cannot_be_changed():
    with pytest.raises(AttributeError):
        SCHEMES["ftcs"].order = 2
    with pytest.raises(ValueError, match="read-only"):
        SCHEMES["rk4"].tableau.b[0] = 1.0


# --- order ----------------------------------------------------------------------------------------------------


def test_there_are_as_many_trees_as_cayley_counted():
    assert [len(list(_trees(n))) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@every_scheme
def test_R_agrees_with_exp_to_the_stated_order_and_no_further(scheme):
    for s in stage_counts(scheme):
        if math.isinf(scheme.order):
            z = np.array([-0.7, -3.0, 0.2j])
            np.testing.assert_allclose(scheme.R(z), np.exp(z), rtol=1e-15)
            continue
        # three digits per halving would do; steps small enough for the leading term, large enough for rounding
        z = -np.array([0.08, 0.04])
        error = np.abs(scheme.R(z, s) - np.exp(z))
        observed = math.log2(error[0] / error[1]) - 1
        assert observed == pytest.approx(scheme.order, abs=0.15), s


@every_tableau
def test_the_order_conditions_hold_to_rounding(scheme):
    for order in range(1, scheme.order + 1):
        assert scheme.tableau.defect(order) < 4e-16
    assert scheme.tableau.defect(scheme.order + 1) > 1e-3


@rows([s for s in TABLEAUS if s.tableau.b_hat is not None])
def test_embedded_weights_have_another_order_than_the_scheme(scheme):
    assert scheme.estimate == "embedded"
    assert scheme.embedded_order in (scheme.order - 1, scheme.order + 1)


@every_stabilized
def test_stages_of_a_recurrence_stay_inside_the_step_and_end_at_its_end(scheme):
    for s in stage_counts(scheme):
        row = scheme.recurrence(s)
        last = row.c[-1] + (2 * row.finish[0] if row.finish else 0.0)
        assert last == pytest.approx(1.0, abs=1e-13)
        assert row.c[0] == 0.0
        assert (np.diff(row.c) > -1e-15).all()
        assert row.stages == s


def recurrence_step(row: Recurrence, rate, t, u, dt):
    """One step by the formulas in the docstring of `Recurrence`."""
    L0 = rate(t, u)
    before, now = u, u + row.mu_t[1] * dt * L0
    for j in range(2, len(row.mu)):
        L = rate(t + row.c[j - 1] * dt, now)
        fixed = (1 - row.mu[j] - row.nu[j]) * u + row.gamma_t[j] * dt * L0
        before, now = now, row.mu[j] * now + row.nu[j] * before + fixed + row.mu_t[j] * dt * L
    if row.finish:
        sigma, tau = row.finish
        end = t + row.c[-1] * dt
        Ln = rate(end, now)
        a = now + sigma * dt * Ln
        La = rate(end + sigma * dt, a)
        now = a + sigma * dt * La - (sigma - tau / sigma) * dt * (La - Ln)
    return now


@every_stabilized
def test_a_recurrence_integrates_time_dependent_data_to_its_order(scheme):
    """``u' = -u + g(t)`` with g at the stage times c: quadrature order in time, not only R(z)."""
    exact = lambda t: np.sin(3 * t) + np.exp(-t)  # noqa: E731
    rate = lambda t, u: -u + np.sin(3 * t) + 3 * np.cos(3 * t)  # noqa: E731
    for s in (scheme.degrees[1], 9):
        row, errors = scheme.recurrence(s), []
        for n in (40, 80):
            u, dt = exact(0.0), 1.0 / n
            for k in range(n):
                u = recurrence_step(row, rate, k * dt, u, dt)
            errors.append(abs(u - exact(1.0)))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(scheme.order, abs=0.15)


@every_tableau
def test_stage_order_is_what_the_stages_achieve(scheme):
    tableau = scheme.tableau
    defect = lambda k: np.abs(tableau.A @ tableau.c ** (k - 1) - tableau.c**k / k).max()  # noqa: E731
    assert defect(tableau.stage_order) < 1e-15
    assert tableau.stage_order >= 1
    assert all(defect(k) < 1e-15 for k in range(1, tableau.stage_order))
    assert tableau.stage_order == scheme.order or defect(tableau.stage_order + 1) > 1e-3


@pytest.mark.parametrize(("name", "order"), [("tr-bdf2", 2), ("sdirk3", 2), ("crank-nicolson", 2), ("rk4", 1)])
def test_published_stage_orders(name, order):
    assert SCHEMES[name].tableau.stage_order == order


# --- order where data are not smooth: the entries `reductions` ------------------------------------------------------


class Rod:
    """``u_t = u_xx / 10 + f`` on n cells with half-cell walls and the exact answer in time of the discrete problem.

    Moving: walls and source of sin(2 x + 6 t). Otherwise: walls at 0, and a jump to start from.
    """

    def __init__(self, n, moving):
        h = 1.0 / n
        x = (np.arange(n) + 0.5) * h
        self.A = toeplitz(np.r_[2.0, -1.0, np.zeros(n - 2)]) * 0.1 / h**2
        self.A[0, 0] = self.A[-1, -1] = 0.3 / h**2
        self.u0 = np.sin(2 * x) if moving else np.where((x > 0.3) & (x < 0.6), 1.0, 0.0)
        # F(t) = P (cos 6t, sin 6t): the source, and the walls through their half-cell conductance 0.2 / h^2
        self.P = np.zeros((n, 2))
        if moving:
            self.P += np.column_stack(
                [6 * np.cos(2 * x) + 0.4 * np.sin(2 * x), 0.4 * np.cos(2 * x) - 6 * np.sin(2 * x)]
            )
            self.P[0] += 0.2 / h**2 * np.array([0.0, 1.0])
            self.P[-1] += 0.2 / h**2 * np.array([np.sin(2.0), np.cos(2.0)])
        whole = np.zeros((n + 2, n + 2))  # F is itself the solution of a linear equation
        whole[:n, :n], whole[:n, n:], whole[n:, n:] = -self.A, self.P, [[0.0, -6.0], [6.0, 0.0]]
        self.exact = (expm(whole) @ np.r_[self.u0, 1.0, 0.0])[:n]

    def F(self, t):
        return self.P @ [np.cos(6 * t), np.sin(6 * t)]

    def rate(self, t, u):
        return self.F(t) - self.A @ u

    def tableau_step(self, tableau, t, u, dt):
        rates, eye = [], np.eye(u.size)
        for a, c in zip(tableau.A, tableau.c, strict=True):
            k = len(rates)
            now = u + dt * sum((w * f for w, f in zip(a, rates, strict=False)), np.zeros_like(u))
            if a[k]:
                now = np.linalg.solve(eye + dt * a[k] * self.A, now + dt * a[k] * self.F(t + c * dt))
            rates.append(self.rate(t + c * dt, now))
        return u + dt * sum(w * f for w, f in zip(tableau.b, rates, strict=True))

    def error(self, scheme, steps):
        """Error in the L2 norm after `steps` steps to t = 1."""
        dt, u, before = 1.0 / steps, self.u0, None
        recurrence = None
        if scheme.family == "stabilized":
            recurrence = scheme.recurrence(scheme.stages_for(dt * float(np.linalg.eigvalsh(self.A)[-1])))
        for k in range(steps):
            if scheme.tableau is not None:
                u = self.tableau_step(scheme.tableau, k * dt, u, dt)
            elif recurrence is not None:
                u = recurrence_step(recurrence, self.rate, k * dt, u, dt)
            elif before is None:
                before, u = u, self.tableau_step(SCHEMES[scheme.starter].tableau, 0.0, u, dt)
            else:
                now, old, rate = scheme.weights()
                right = now * u + old * before + rate * dt * self.F((k + 1) * dt)
                before, u = u, np.linalg.solve(np.eye(u.size) + rate * dt * self.A, right)
        return np.sqrt(np.mean((u - self.exact) ** 2))


@rows([s for s in ROWS if s.family in ("runge-kutta", "stabilized", "dirk", "multistep")])
@pytest.mark.parametrize("situation", ["moving walls", "rough start"])
def test_the_order_under_joint_refinement_is_the_entry_of_the_table(scheme, situation):
    expected = scheme.reductions.get(situation, scheme.order)
    if scheme.family == "runge-kutta":
        cells, steps = (16, 32), lambda n: math.ceil(0.23 * n * n)
    else:
        cells, steps = (32, 128), lambda n: n // 2
    errors = [Rod(n, situation == "moving walls").error(scheme, steps(n)) for n in cells]
    observed = math.log(errors[0] / errors[1]) / math.log(steps(cells[1]) / steps(cells[0]))
    assert observed > expected - 0.25
    if situation in scheme.reductions:  # a loss that is not there must not be listed
        assert observed < expected + 0.25 < scheme.order


def test_adi_in_one_dimension_loses_what_crank_nicolson_loses():
    assert SCHEMES["adi"].reductions["rough start"] == SCHEMES["crank-nicolson"].reductions["rough start"]


# --- real stability interval ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limit"),
    [("ftcs", 2.0), ("rk2", 2.0), ("rk4", 2.785293563405282)],  # Hairer & Wanner II, table IV.2.1
)
def test_published_real_limits(name, limit):
    assert SCHEMES[name].real_limit() == pytest.approx(limit, rel=1e-15)


@pytest.mark.parametrize("s", [1, 2, 3, 7, 10, 31, 100])
def test_rkl1_reaches_s_squared_plus_s(s):
    assert SCHEMES["rkl1"].real_limit(s) == pytest.approx(s * s + s, rel=1e-14)  # Meyer et al. 2014, eq. 14


@pytest.mark.parametrize("s", [2, 3, 4, 7, 10, 31, 100])
def test_rkl2_reaches_the_published_limit_exactly_when_s_is_even(s):
    published = (s * s + s - 2) / 2  # Meyer et al. 2014, eq. 20: the end of the Legendre interval
    limit = SCHEMES["rkl2"].real_limit(s)
    # for odd s R is still 2 / (s^2 + s) - 1/2 + ... > -1 there, and the true interval is a little longer
    assert limit == pytest.approx(published, rel=1e-14) if s % 2 == 0 else published < limit < published + 1


@pytest.mark.parametrize("s", [4, 10, 54, 100])
def test_rkc2_reaches_the_published_limit(s):
    published = 2 / 3 * (s**2 - 1) * (1 - 2 / 15 * 2 / 13)  # Sommeijer et al. 1998, eq. 2.11, an approximation
    assert published < SCHEMES["rkc2"].real_limit(s) < 1.01 * published


@pytest.mark.parametrize("s", [10, 20, 49, 104, 200])
def test_rock2_reaches_081_s_squared(s):
    assert SCHEMES["rock2"].real_limit(s) / s**2 == pytest.approx(0.81, rel=0.02)  # Abdulle & Medovikov 2001


@every_explicit
def test_a_real_limit_is_sharp_and_holds_all_the_way(scheme):
    for s in stage_counts(scheme):
        limit = scheme.real_limit(s)
        x = limit * 0.5 * (1 - np.cos(np.linspace(0, np.pi, 20_001)))
        assert scheme.growth(-x, s).max() <= 1 + 1e-12
        assert scheme.growth(np.array(-limit * (1 + 1e-10)), s) > 1
        assert scheme.growth(np.array(-limit * 1.001), s) > 1


@every_implicit
def test_implicit_schemes_are_stable_on_the_whole_negative_axis(scheme):
    x = np.concatenate([[0.0], np.logspace(-8, 18, 20_001), [np.inf]])
    assert scheme.growth(-x).max() <= 1 + 1e-14
    assert scheme.real_limit() == math.inf
    assert scheme.unconditional


@rows([s for s in TABLEAUS if not s.explicit])
def test_no_root_of_the_stability_condition_lies_on_the_negative_axis(scheme):
    """A proof, not a scan: for R = N / Q, neither Q - N nor Q + N changes sign on z < 0."""
    A, b, n = scheme.tableau.A, scheme.tableau.b, scheme.tableau.stages
    # det(I - z A) and det(I - z A + z 1 b^T) as polynomials, by interpolation at roots of unity
    points = np.exp(2j * np.pi * np.arange(2 * n) / (2 * n))
    Q = np.array([np.linalg.det(np.eye(n) - z * A) for z in points])
    N = np.array([np.linalg.det(np.eye(n) - z * A + z * np.outer(np.ones(n), b)) for z in points])
    for values in (Q - N, Q + N):
        coefficients = (np.fft.fft(values) / points.size).real[: n + 1]
        coefficients[np.abs(coefficients) < 1e-12] = 0.0
        at = -np.logspace(-3, 12, 2000)
        signs = np.sign(np.polynomial.polynomial.polyval(at, coefficients))
        assert (signs >= 0).all() or (signs <= 0).all()


@rows([SCHEMES[n] for n in ("backward-euler", "crank-nicolson", "tr-bdf2", "bdf2", "sdirk3")])
def test_implicit_schemes_are_a_stable_on_the_imaginary_axis(scheme):
    y = np.concatenate([np.logspace(-4, 8, 5001), -np.logspace(-4, 8, 5001)])
    growth = np.abs(np.linalg.eigvals(scheme.amplification(1j * y))).max(axis=-1)
    assert growth.max() <= 1 + 1e-12


@pytest.mark.parametrize("name", ["backward-euler", "tr-bdf2", "bdf2", "sdirk3", "exact", "krylov"])
def test_l_stable_schemes_forget_infinitely_stiff_modes(name):
    assert SCHEMES[name].damping_at_infinity < 1e-14


@pytest.mark.parametrize("name", ["crank-nicolson", "adi"])
def test_crank_nicolson_and_adi_do_not_damp_infinitely_stiff_modes(name):
    assert SCHEMES[name].damping_at_infinity == pytest.approx(1.0, abs=1e-15)


@every_explicit
def test_explicit_schemes_amplify_without_bound(scheme):
    assert scheme.damping_at_infinity == math.inf


# --- stage counts -----------------------------------------------------------------------------------------------


@every_stabilized
def test_stages_for_is_the_smallest_stable_count(scheme, rng):
    draws = 10.0 ** rng.uniform(-3, 4, 60)
    limits = [scheme.real_limit(s) for s in stage_counts(scheme)]
    for z in np.concatenate([draws, limits, [0.0]]):
        s = scheme.stages_for(z)
        index = scheme.degrees.index(s)
        assert within(z, scheme.real_limit(s))
        assert index == 0 or not within(z, scheme.real_limit(scheme.degrees[index - 1]))


@every_stabilized
def test_a_step_exactly_at_the_limit_of_s_stages_takes_s_stages(scheme):
    for s in stage_counts(scheme):
        assert scheme.stages_for(scheme.real_limit(s)) == s
        assert scheme.stages_for(scheme.real_limit(s) * 1.0001) > s


def test_counts_beyond_the_computed_ones_stay_on_the_safe_side():
    z = (5000**2 + 5000 - 2) / 2
    assert 5000 <= SCHEMES["rkl2"].stages_for(z) <= 5003


@every_stabilized
@pytest.mark.parametrize("z", [-1.0, math.nan, math.inf])
def test_a_meaningless_reach_has_no_stage_count(scheme, z):
    with pytest.raises(ProblemError, match="finite number >= 0"):
        scheme.stages_for(z)


def test_rock2_says_where_its_table_ends():
    rock2 = SCHEMES["rock2"]
    with pytest.raises(ProblemError, match="its 200 stages reach 32398"):
        rock2.stages_for(1e5)
    with pytest.raises(ProblemError, match="Take 24"):
        rock2.recurrence(23)
    assert rock2.real_limit() == rock2.real_limit(200)


@every_stabilized
def test_work_grows_with_the_square_root_of_the_step(scheme):
    small, large = scheme.stages_for(300.0), scheme.stages_for(30_000.0)
    assert large / small == pytest.approx(10.0, rel=0.1)
    assert scheme.work(large) == large


# --- positivity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "radius"),
    [
        ("ftcs", 1.0),
        ("rk2", 1.0),
        ("rk4", 1.0),  # Kraaijevanger 1991: 1 for every s = p
        ("backward-euler", math.inf),
        ("crank-nicolson", 2.0),
        ("tr-bdf2", 1 + math.sqrt(2)),
        ("exact", math.inf),
    ],
)
def test_published_radii_of_absolute_monotonicity(name, radius):
    assert SCHEMES[name].positivity() == pytest.approx(radius, rel=1e-12)


@pytest.mark.parametrize("s", [2, 3, 5, 10, 40])
def test_the_radius_of_rkl1_is_the_largest_zero_of_its_legendre_polynomial(s):
    zero = np.polynomial.legendre.leggauss(s)[0].max()  # P_s and its derivatives are >= 0 to its right
    assert SCHEMES["rkl1"].positivity(s) == pytest.approx((1 - zero) * (s * s + s) / 2, rel=1e-9)


@pytest.mark.parametrize("s", [3, 5, 10, 40])
def test_the_radius_of_rkl2_is_the_largest_zero_of_the_derivative(s):
    derivative = np.polynomial.legendre.Legendre.basis(s).deriv()
    zero = derivative.roots().real.max()
    assert SCHEMES["rkl2"].positivity(s) == pytest.approx((1 - zero) * (s * s + s - 2) / 4, rel=1e-9)


@rows([s for s in ROWS if s.family != "multistep"])
def test_no_entry_of_a_step_is_negative_inside_the_radius(scheme, laplacian, rng):
    couplings = rng.uniform(size=(12, 12)) * (rng.uniform(size=(12, 12)) < 0.4)
    couplings = np.triu(couplings, 1) + np.triu(couplings, 1).T
    graph = np.diag(couplings.sum(axis=1)) - couplings
    for A in (laplacian, graph / graph.diagonal().max()):  # largest diagonal entry 1
        for s in stage_counts(scheme):
            radius = min(scheme.positivity(s), 50.0)
            for fraction in (1.0, 0.7, 0.2):
                assert apply_R(scheme, fraction * radius * A, s).min() > -1e-14 * (1 + (s or 1))


@rows([SCHEMES[n] for n in ("ftcs", "rk2", "rk4", "crank-nicolson", "tr-bdf2", "rkl1", "rkl2", "rkc2", "rock2")])
def test_the_radius_is_where_the_first_taylor_coefficient_turns_negative(scheme):
    """By Cauchy's formula on a circle, independent of the recursions in the module."""
    k, rho = np.arange(64), 0.5
    for s in stage_counts(scheme):
        radius = scheme.positivity(s)
        for x, sign in ((0.999 * radius, 1.0), (1.001 * radius, -1.0)):
            values = scheme.R(-x + rho * np.exp(2j * np.pi * k / 64), s)
            coefficients = (np.fft.fft(values) / 64 / rho**k).real[:6]
            assert math.copysign(1.0, coefficients.min() + 1e-13) == sign, (s, x, coefficients)


def test_bdf2_promises_no_positivity():
    assert SCHEMES["bdf2"].positivity() == 0.0


@pytest.mark.parametrize("ndim", [2, 3])
def test_adi_keeps_positivity_inside_its_radius_in_every_dimension(ndim, rng):
    """Entries of the product form, on commuting axes; diagonals of the axes share the radius in random parts."""
    adi, n = SCHEMES["adi"], 6
    values, vectors = np.linalg.eigh(toeplitz(np.r_[1.0, -0.5, np.zeros(n - 2)]))
    modes = vectors
    for _ in range(ndim - 1):
        modes = np.kron(modes, vectors)
    for _ in range(10):
        parts = rng.dirichlet(np.full(ndim, 0.5)) * adi.positivity()
        response = adi.R(*np.meshgrid(*[-part * values for part in parts], indexing="ij")).real
        assert ((modes * response.ravel()) @ modes.T).min() > -1e-14


# --- schemes with memory and splittings ---------------------------------------------------------------------------


def test_bdf2_amplification_is_the_two_step_recursion():
    z = -0.7 + 0.2j
    M = SCHEMES["bdf2"].amplification(z)
    u = np.array([1.3, 0.4])  # u_n, u_{n-1}
    expected = (4 / 3 * u[0] - 1 / 3 * u[1]) / (1 - 2 / 3 * z)
    np.testing.assert_allclose(M @ u, [expected, u[0]], rtol=1e-15)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_bdf2_weights_are_exact_for_quadratics_on_unequal_steps(ratio):
    now, before, rate = SCHEMES["bdf2"].weights(ratio)
    dt, dt_before = ratio, 1.0
    for p in (0, 1, 2):
        u = lambda t, p=p: t**p  # noqa: E731
        slope = p * dt ** (p - 1) if p else 0.0
        assert now * u(0.0) + before * u(-dt_before) + rate * dt * slope == pytest.approx(u(dt), abs=1e-14)


@every_scheme
def test_growth_is_the_spectral_radius_of_the_amplification_matrix(scheme):
    z = np.array([0.0, -0.3, -1.9, -2.5 + 1j, 0.5j])
    for s in stage_counts(scheme):
        M = scheme.amplification(z, s)
        assert M.shape[:1] == z.shape
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(M)).max(axis=-1), scheme.growth(z, s), rtol=1e-7)


def test_adi_is_peaceman_rachford_in_two_dimensions():
    x, y = -np.logspace(-2, 3, 9)[:, None], -np.logspace(-1, 2, 7)
    product = (1 + x / 2) * (1 + y / 2) / ((1 - x / 2) * (1 - y / 2))
    np.testing.assert_allclose(SCHEMES["adi"].R(x, y), product, rtol=1e-12, atol=1e-13)


def test_adi_is_crank_nicolson_in_one_dimension():
    x = -np.logspace(-2, 6, 50)
    np.testing.assert_allclose(SCHEMES["adi"].R(x), SCHEMES["crank-nicolson"].R(x), rtol=1e-12)


def test_adi_is_stable_for_every_triple_of_negative_arguments():
    z = -np.concatenate([[0.0], np.logspace(-4, 12, 60), [np.inf]])
    growth = np.abs(SCHEMES["adi"].R(z[:, None, None], z[:, None], z))
    assert growth.max() <= 1 + 1e-14


# --- evaluation ---------------------------------------------------------------------------------------------------


@every_tableau
def test_R_equals_its_definition_by_a_dense_solve(scheme, rng):
    A, b, n = scheme.tableau.A, scheme.tableau.b, scheme.tableau.stages
    for z in rng.normal(size=20) * 3 + 1j * rng.normal(size=20):
        expected = 1 + z * b @ np.linalg.solve(np.eye(n) - z * A, np.ones(n))
        assert scheme.R(z) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "polynomial"),
    [
        ("rkl1", lambda s, x: np.polynomial.legendre.Legendre.basis(s)(1 + 2 * x / (s * s + s))),
        ("rkl2", lambda s, x: _shifted_legendre(s, x)),
        ("rkc2", lambda s, x: _shifted_chebyshev(s, x)),
    ],
)
@pytest.mark.parametrize("s", [2, 3, 10, 80])
def test_recurrences_evaluate_their_closed_polynomials(name, polynomial, s):
    z = -np.linspace(0, SCHEMES[name].real_limit(s), 301)
    # an ulp of the argument moves P_s by up to s^2 ulp
    np.testing.assert_allclose(SCHEMES[name].R(z, s), polynomial(s, z), rtol=0, atol=4e-14 * s**2)


def _shifted_legendre(s, z):
    b = (s * s + s - 2) / (2 * s * (s + 1))
    return 1 - b + b * np.polynomial.legendre.Legendre.basis(s)(1 + 4 * z / (s * s + s - 2))


def _shifted_chebyshev(s, z):
    T = np.polynomial.chebyshev.Chebyshev.basis(s)
    w0 = 1 + 2 / 13 / s**2
    w1, b = T.deriv()(w0) / T.deriv(2)(w0), T.deriv(2)(w0) / T.deriv()(w0) ** 2
    return 1 - b * T(w0) + b * T(w0 + w1 * z)


@every_scheme
def test_a_mode_without_decay_is_left_alone_exactly(scheme):
    for s in stage_counts(scheme):
        assert scheme.R(np.array(0.0), s) == 1.0


def test_a_recurrence_of_200_stages_still_gives_R_to_rounding():
    """Exact rational arithmetic of the same recurrence, one argument: the floating evaluation must not drift."""
    row, z = SCHEMES["rkl2"].recurrence(200), Fraction(-12345)
    exact = [[Fraction(float(v)) for v in array] for array in (row.mu, row.nu, row.mu_t, row.gamma_t)]
    before, now = Fraction(1), 1 + exact[2][1] * z
    for j in range(2, 201):
        mu, nu, mu_t, gamma_t = (array[j] for array in exact)
        before, now = now, (mu + mu_t * z) * now + nu * before + 1 - mu - nu + gamma_t * z
        now, before = now.limit_denominator(10**40), before.limit_denominator(10**40)
    assert SCHEMES["rkl2"].R(float(z), 200) == pytest.approx(float(now), abs=1e-11)


# --- ROCK2's published table ----------------------------------------------------------------------------------------

# rock2.f, array recf: mu_1; mu_2, kappa_2; mu_3, kappa_3 ... of three degrees
ROCK2_PUBLISHED = {
    3: ([0.1794612899156781], []),
    4: ([0.09326607661089206, 0.1268473641290642], [0.02103378190528467]),
    5: ([0.0578662712551911, 0.07776456841673993, 0.09528922876588625], [0.02157791817707098, 0.08723622960881584]),
    22: (
        [0.002843902743022214, 0.003902467368190393, 0.004709429895823432],
        [0.02519598783827689, 0.09757348323445655],
    ),
}


@pytest.mark.parametrize("s", ROCK2_PUBLISHED)
def test_the_derived_recurrence_is_the_published_one(s):
    mu_t, kappa = ROCK2_PUBLISHED[s]
    mu, nu, derived, _, _ = rock2_coefficients(s)
    np.testing.assert_allclose(derived[1 : len(mu_t) + 1], mu_t, rtol=1e-8)
    np.testing.assert_allclose(-nu[2 : len(kappa) + 2], kappa, rtol=1e-7)
    np.testing.assert_allclose(mu[2:] + nu[2:], 1.0, rtol=1e-13)


@pytest.mark.parametrize("s", [s for s in ROCK2_FINISH if s < 60] + [104, 200])
def test_every_rock2_degree_is_of_order_two_and_damped(s):
    row = SCHEMES["rock2"].recurrence(s)
    coefficients = row.series(0.0, 1.0, 3)
    np.testing.assert_allclose(coefficients, [1.0, 1.0, 0.5], rtol=0, atol=4e-16 * max(s, 10))
    limit = SCHEMES["rock2"].real_limit(s)
    x = np.linspace(3.0, 0.98 * limit, 4001)
    assert np.abs(row.stability(-x)).max() < 0.96
