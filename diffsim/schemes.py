"""The table of time steppers: what defines each method, and everything that follows from it.

A row holds only what its inventors had to choose: a Butcher tableau, the coefficients of a recurrence, a pair of
multistep weights. Stability function, real stability interval, damping, positivity radius, stage order and stage
count are computed from the row, so a wrong coefficient shows as a wrong consequence and no limit is typed twice.

Everything is said about the scalar test equation ``u' = lambda u`` with ``z = lambda dt``. Diffusion has
``z`` on the negative real axis; lengths on that axis (`Scheme.real_limit`, `Scheme.positivity`) are given as
positive numbers, so a step is stable when ``dt * rho(A) <= real_limit``.
"""

from __future__ import annotations

import bisect
import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from diffsim.errors import ProblemError
from diffsim.rock_coefficients import ROCK2_FINISH, rock2_coefficients

__all__ = ["SCHEMES", "SLACK", "SOLVE_WORK", "ButcherTableau", "Recurrence", "Scheme", "scheme_of", "within"]

#: Relative slack of every comparison with a limit. An honest "dt exactly at the limit" is recomputed through a
#: handful of roundings and lands above it about once in twenty times; 16 ulp covers them all.
SLACK = 16.0 * float(np.finfo(float).eps)

#: Work of one implicit solve, in applications of the operator: about eight iterations of conjugate gradients,
#: each one product and one multigrid cycle worth six more. A fixed model, never a timing.
SOLVE_WORK = 56.0


#: Longest recurrence on offer. One such RKL2 step spans 2e11 FTCS limits; longer ones cost memory, not only time.
MAX_STAGES = 1_000_000

#: Real limits are computed up to this stage count and scaled with s^2 beyond it.
_COMPUTED_STAGES = 4096


def within(value: float, limit: float) -> bool:
    """``value <= limit`` up to `SLACK`."""
    return bool(value <= limit * (1.0 + SLACK))


# --- Butcher tableaux ------------------------------------------------------------------------------------------


def _trees(order: int, largest: tuple | None = None) -> Iterator[tuple]:
    """Yield every rooted tree with `order` vertices; a tree is the sorted tuple of its children."""

    def forests(vertices: int, ceiling: tuple[int, int]) -> Iterator[tuple]:
        if vertices == 0:
            yield ()
            return
        for size in range(min(vertices, ceiling[0]), 0, -1):
            trees = list(_trees(size))
            stop = ceiling[1] + 1 if size == ceiling[0] else len(trees)
            for index in range(min(stop, len(trees))):
                for rest in forests(vertices - size, (size, index)):
                    yield (trees[index], *rest)

    yield from forests(order - 1, (order, 10**9))


def _tree_size(tree: tuple) -> int:
    return 1 + sum(_tree_size(child) for child in tree)


def _tree_density(tree: tuple) -> int:
    return _tree_size(tree) * math.prod(_tree_density(child) for child in tree)


@dataclass(frozen=True, eq=False)
class ButcherTableau:
    """Coefficients of ``Y_i = u + dt sum_j A_ij f(t + c_j dt, Y_j)``, ``u_next = u + dt sum_i b_i f_i``.

    `b_hat` are the weights of an embedded method of another order; the difference estimates the error of a step.
    Shapes: A (s, s) lower triangular; b, c, b_hat (s,).
    """

    A: np.ndarray
    b: np.ndarray
    b_hat: np.ndarray | None = None
    c: np.ndarray = field(init=False)

    def __post_init__(self):
        for name in ("A", "b", "b_hat"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _frozen(value))
        object.__setattr__(self, "c", _frozen(self.A.sum(axis=1)))
        if self.A.shape != (len(self.b), len(self.b)) or np.triu(self.A, 1).any():
            raise ProblemError(f"a tableau needs a lower triangular A of shape (s, s) and b (s,), got {self.A.shape}")

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.b)

    @property
    def explicit(self) -> bool:
        """Whether no stage needs a solve."""
        return not self.A.diagonal().any()

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the new state, so that ``R(inf)`` needs no cancellation."""
        return bool(np.array_equal(self.A[-1], self.b))

    def defect(self, order: int, weights: np.ndarray | None = None) -> float:
        """Largest violation of the order conditions of exactly `order`: max over trees ``|b . Phi - 1/gamma|``."""
        weights = self.b if weights is None else weights

        def stage_weight(tree: tuple) -> np.ndarray:
            value = np.ones(self.stages)
            for child in tree:
                value = value * (self.A @ stage_weight(child))
            return value

        return max(abs(weights @ stage_weight(tree) - 1.0 / _tree_density(tree)) for tree in _trees(order))

    def order_of(self, weights: np.ndarray | None = None) -> int:
        """Largest p such that all order conditions up to p hold (Butcher's trees), at most 5."""
        order = 0
        while order < 5 and self.defect(order + 1, weights) < 1e-13:
            order += 1
        return order

    @cached_property
    def stage_order(self) -> int:
        """Largest q such that stages and weights integrate ``t^(k-1)`` exactly for k <= q.

        This is the order that stiff problems with time-dependent data leave of the method (Hairer & Wanner II, IV.15).
        """
        rows = np.vstack([self.A, self.b])
        ends = np.append(self.c, 1.0)
        order = 0
        while order < 5 and np.allclose(rows @ self.c**order, ends ** (order + 1) / (order + 1), rtol=0, atol=1e-13):
            order += 1
        return order

    def stability(self, z: np.ndarray) -> np.ndarray:
        """``R(z)`` by the stages themselves; finite at infinity for stiffly accurate implicit methods."""
        z = np.asarray(z, dtype=complex)
        near = np.abs(z) <= 1.0
        # (p + q sum) / (p - q a) with (p, q) = (1, z) near the origin and (1/z, 1) far out: nothing overflows
        with np.errstate(all="ignore"):
            direct = near | self.explicit
            p = np.where(direct, 1.0, 1.0 / np.where(near, 1.0, z))
            q = np.where(direct, z, 1.0)
            stages: list[np.ndarray] = []
            for i, row in enumerate(self.A):
                if not row.any():  # Y = u, also where z is infinite
                    stages.append(np.ones_like(z))
                    continue
                total = sum((a * y for a, y in zip(row[:i], stages, strict=False) if a), np.zeros_like(z))
                stages.append((p + q * total) / (p - q * row[i]))
            if self.stiffly_accurate:
                return stages[-1]
            return 1.0 + z * sum(b * y for b, y in zip(self.b, stages, strict=True))

    def series(self, x: float, scale: float, terms: int) -> np.ndarray:
        """Return the coefficients of ``R(-x + scale n)`` in powers of n, shape (terms,)."""
        zero, one = np.zeros(terms), np.eye(1, terms)[0]
        z = zero.copy()
        z[0], z[1:2] = -x, scale

        def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.convolve(a, b)[:terms]

        stages: list[np.ndarray] = []
        for i, row in enumerate(self.A):
            y = one + times(z, sum((a * s for a, s in zip(row[:i], stages, strict=False)), zero))
            if row[i]:  # divide by (1 + a x) - a scale n
                lead, slope = 1.0 + row[i] * x, row[i] * scale
                for k in range(terms):
                    y[k] = (y[k] + (slope * y[k - 1] if k else 0.0)) / lead
            stages.append(y)
        if self.stiffly_accurate:
            return stages[-1]
        return one + times(z, sum((b * s for b, s in zip(self.b, stages, strict=True)), zero))


def _tableau(A: Sequence, b: Sequence, b_hat: Sequence | None = None) -> ButcherTableau:
    return ButcherTableau(_frozen(A), _frozen(b), None if b_hat is None else _frozen(b_hat))


def _frozen(values) -> np.ndarray:
    array = np.array(values, dtype=float)
    array.flags.writeable = False
    return array


# --- Recurrences of the stabilized methods ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Three-term recurrence of a stabilized explicit step with `stages` evaluations of the rates L.

    ``Y_0 = u``, ``Y_1 = Y_0 + mu_t[1] dt L_0`` and for ``j = 2 .. len(c) - 1``

        Y_j = mu[j] Y_{j-1} + nu[j] Y_{j-2} + (1 - mu[j] - nu[j]) Y_0 + mu_t[j] dt L_{j-1} + gamma_t[j] dt L_0

    with ``L_j = L(t + c[j] dt, Y_j)``. Without `finish` the last Y is the new state. With ``finish = (sigma, tau)``
    two more evaluations follow (ROCK2), n being the last index:

        Y_a    = Y_n + sigma dt L_n                                 at time t + (c[n] + sigma) dt
        Y_b    = Y_a + sigma dt L_a
        u_next = Y_b - (sigma - tau / sigma) dt (L_a - L_n)

    and ``Y_b - u_next`` estimates the error (Y_b is of order 1). All arrays have shape (n + 1,); entry 0 is unused.
    """

    mu: np.ndarray
    nu: np.ndarray
    mu_t: np.ndarray
    gamma_t: np.ndarray
    finish: tuple[float, float] | None = None
    c: np.ndarray = field(init=False)

    def __post_init__(self):
        for name in ("mu", "nu", "mu_t", "gamma_t"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        c = np.zeros(len(self.mu))  # the stage times are what the recurrence makes of u' = 1
        for j in range(1, len(c)):
            c[j] = self.mu_t[j] + self.gamma_t[j]
            if j > 1:
                c[j] += self.mu[j] * c[j - 1] + self.nu[j] * c[j - 2]
        object.__setattr__(self, "c", _frozen(c))

    @property
    def stages(self) -> int:
        """Evaluations of the rates per step."""
        return len(self.mu) - 1 + (2 if self.finish else 0)

    def stability(self, z: np.ndarray) -> np.ndarray:
        """``R(z)`` by running the recurrence, stable at any degree; real input gives real output."""
        z = np.asarray(z)
        z = z.astype(complex if np.iscomplexobj(z) else float)
        # in the differences Y_j - Y_0: exact at z = 0, and accurate relative to z near it
        with np.errstate(all="ignore"):
            before, now = np.zeros_like(z), self.mu_t[1] * z
            for j in range(2, len(self.mu)):
                rates = (self.mu_t[j] * (1.0 + now) + self.gamma_t[j]) * z
                before, now = now, self.mu[j] * now + self.nu[j] * before + rates
            now = 1.0 + now
            if self.finish:
                sigma, tau = self.finish
                now = now * (1.0 + z * (2.0 * sigma + tau * z))
        return now

    def series(self, x: float, scale: float, terms: int) -> np.ndarray:
        """Return the coefficients of ``R(-x + scale n)`` in powers of n, shape (terms,)."""

        def times_z(a: np.ndarray) -> np.ndarray:
            out = -x * a
            out[1:] += scale * a[:-1]
            return out

        one = np.eye(1, terms)[0]
        before, now = one, one + self.mu_t[1] * times_z(one)
        for j in range(2, len(self.mu)):
            fixed = (1.0 - self.mu[j] - self.nu[j]) * one + self.gamma_t[j] * times_z(one)
            before, now = now, self.mu[j] * now + self.mu_t[j] * times_z(now) + self.nu[j] * before + fixed
        if self.finish:
            sigma, tau = self.finish
            now = now + 2.0 * sigma * times_z(now) + tau * times_z(times_z(now))
        return now


def _rkl1(s: int) -> Recurrence:
    """Legendre polynomial of degree s: ``R(z) = P_s(1 + 2 z / (s^2 + s))``."""
    j = np.arange(s + 1.0)
    j[0] = 1.0
    mu, nu = (2.0 * j - 1.0) / j, (1.0 - j) / j
    return Recurrence(mu, nu, mu * 2.0 / (s * s + s), np.zeros(s + 1))


def _rkl2(s: int) -> Recurrence:
    """Shifted Legendre polynomial, ``R(z) = 1 - b_s + b_s P_s(1 + 4 z / (s^2 + s - 2))``."""
    j = np.arange(s + 1.0)
    j[:2] = 2.0  # b_0 = b_1 = b_2
    b = (j * j + j - 2.0) / (2.0 * j * (j + 1.0))
    w1 = 4.0 / (s * s + s - 2.0)
    mu, nu, mu_t, gamma_t = np.zeros((4, s + 1))
    mu_t[1] = b[1] * w1
    mu[2:] = (2.0 * j[2:] - 1.0) / j[2:] * b[2:] / b[1:-1]
    nu[2:] = -(j[2:] - 1.0) / j[2:] * b[2:] / b[:-2]
    mu_t[2:] = mu[2:] * w1
    gamma_t[2:] = -(1.0 - b[1:-1]) * mu_t[2:]
    return Recurrence(mu, nu, mu_t, gamma_t)


def _rkc2(s: int, damping: float = 2.0 / 13.0) -> Recurrence:
    """Shifted Chebyshev polynomial, damped: ``R(z) = 1 - b_s T_s(w0) + b_s T_s(w0 + w1 z)``."""
    w0 = 1.0 + damping / s**2
    T, dT, ddT = np.zeros((3, s + 1))
    T[:2], dT[1] = (1.0, w0), 1.0
    for j in range(2, s + 1):
        T[j] = 2.0 * w0 * T[j - 1] - T[j - 2]
        dT[j] = 2.0 * T[j - 1] + 2.0 * w0 * dT[j - 1] - dT[j - 2]
        ddT[j] = 4.0 * dT[j - 1] + 2.0 * w0 * ddT[j - 1] - ddT[j - 2]
    w1 = dT[s] / ddT[s]
    b = np.empty(s + 1)
    b[2:] = ddT[2:] / dT[2:] ** 2
    b[:2] = b[2]
    a = 1.0 - b * T
    mu, nu, mu_t, gamma_t = np.zeros((4, s + 1))
    mu_t[1] = b[1] * w1
    mu[2:] = 2.0 * w0 * b[2:] / b[1:-1]
    nu[2:] = -b[2:] / b[:-2]
    mu_t[2:] = 2.0 * w1 * b[2:] / b[1:-1]
    gamma_t[2:] = -a[1:-1] * mu_t[2:]
    return Recurrence(mu, nu, mu_t, gamma_t)


def _rock2(s: int) -> Recurrence:
    """Nearly optimal polynomial: orthogonal recurrence of degree s - 2 and a two-stage finish."""
    mu, nu, mu_t, sigma, tau = rock2_coefficients(s)
    return Recurrence(mu, nu, mu_t, np.zeros_like(mu), finish=(sigma, tau))


# --- Rows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Scheme:
    """One time stepping method. Use a subclass; `SCHEMES` holds them all.

    Attributes
    ----------
    name, title, reference
        Key of the table, text for people, and where the method was published.
    family
        "runge-kutta" | "stabilized" | "dirk" | "multistep" | "splitting" | "exponential".
    order
        Temporal order on smooth data; `math.inf` where linear problems with constant data are advanced exactly.
    stages
        Evaluations or solves per step, or None when the step chooses (`stages_for`).
    estimate
        What estimates the error of a step: "embedded" (``tableau.b_hat``), "hermite" (from u and the rates at both
        ends, ``0.8 (u_n - u_next) + 0.4 dt (L_n + L_next)``, Sommeijer, Shampine & Verwer 1998), "finish"
        (ROCK2's last two stages), or None.
    memory
        Fields of the size of u that a step keeps, u itself included.
    reductions
        Situation -> order in the L2 norm there, where it is lower than `order`, as dt and dx are refined together
        (dt ~ dx^2 for explicit methods of fixed stages, dt ~ dx for all others): "moving walls" (values at sides that
        depend on time), "rough start" (a jump in the initial state).
    """

    family: ClassVar[str] = ""
    explicit: ClassVar[bool] = False

    name: str
    title: str
    order: float
    reference: str
    memory: int
    stages: int | None = None
    tableau: ButcherTableau | None = None
    estimate: str | None = None
    reductions: dict[str, float] = field(default_factory=dict)

    # -- what a family must say --

    def R(self, z, s: int | None = None) -> np.ndarray:
        """Stability function at complex `z` (any shape); `s` stages for the stabilized family."""
        raise NotImplementedError

    def work(self, s: int | None = None) -> float:
        """Cost of a step in applications of the operator; a solve counts `SOLVE_WORK`."""
        raise NotImplementedError

    def _series(self, x: float, scale: float, terms: int, s: int | None) -> np.ndarray:
        """Coefficients of ``R(-x + scale n)`` in powers of n."""
        raise NotImplementedError

    # -- what follows --

    def amplification(self, z, s: int | None = None) -> np.ndarray:
        """Matrix M(z) with ``state_next = M state``, shape (\\*z.shape, k, k); ``[[R(z)]]`` for one-step methods."""
        return np.asarray(self.R(z, s))[..., None, None]

    def growth(self, z, s: int | None = None) -> np.ndarray:
        """Spectral radius of `amplification`, shape z.shape: the step is stable where it is at most 1."""
        return np.abs(self.R(z, s))

    def real_limit(self, s: int | None = None) -> float:
        """Largest x with ``growth(-y) <= 1`` for all ``0 <= y <= x``; `math.inf` where there is none."""
        return _real_limit(self, s)

    @cached_property
    def damping_at_infinity(self) -> float:
        """``|R(-inf)|``: 0 for L-stable methods, 1 for Crank-Nicolson, inf for explicit ones."""
        return math.inf if self.explicit else float(self.growth(np.array(-math.inf)))

    def positivity(self, s: int | None = None) -> float:
        """Radius of absolute monotonicity of R: no new extrema for ``dt * max A_ii <= positivity``.

        Writing ``-dt A = -x I + N`` with ``N >= 0`` elementwise (true for ``dt max A_ii <= x``), the step is
        ``sum_k R^(k)(-x) N^k / k!``, which is non-negative when no derivative is negative at -x
        (Bolley & Crouzeix 1978).
        """
        return _positivity(self, s)

    def stages_for(self, z: float) -> int:
        """Fewest stages that are stable for ``dt * rho(A) = z``, or the fixed count of the scheme."""
        if self.stages is None:
            raise NotImplementedError
        return self.stages

    @property
    def embedded_order(self) -> int | None:
        """Order of the embedded weights, from their order conditions; None where there are none."""
        if self.tableau is None or self.tableau.b_hat is None:
            return None
        return self.tableau.order_of(self.tableau.b_hat)

    @property
    def unconditional(self) -> bool:
        """Whether every step is stable for diffusion without raising the stage count."""
        return not self.explicit and math.isinf(self.real_limit())


@dataclass(frozen=True, eq=False, kw_only=True)
class RungeKutta(Scheme):
    """Explicit Runge-Kutta method given by its tableau."""

    family: ClassVar[str] = "runge-kutta"
    explicit: ClassVar[bool] = True

    tableau: ButcherTableau

    def __post_init__(self):
        object.__setattr__(self, "stages", self.tableau.stages)
        if self.tableau.explicit is not self.explicit:
            raise ProblemError(f"{self.name}: the diagonal of the tableau does not fit the family {self.family}")
        if self.tableau.order_of() != self.order:
            raise ProblemError(f"{self.name}: order {self.order} stated, its tableau has {self.tableau.order_of()}")

    def R(self, z, s=None):
        """Stability function at complex `z` (any shape)."""
        return self.tableau.stability(z)

    def work(self, s=None):
        """One application per stage."""
        return float(self.tableau.stages)

    def _series(self, x, scale, terms, s):
        return self.tableau.series(x, scale, terms)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dirk(RungeKutta):
    """Diagonally implicit Runge-Kutta method; stiffly accurate, so that its last stage is the new state."""

    family: ClassVar[str] = "dirk"
    explicit: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not self.tableau.stiffly_accurate:
            raise ProblemError(f"{self.name}: the last row of A must equal b")

    def work(self, s=None):
        """One solve per implicit stage, one application per explicit one."""
        solves = np.count_nonzero(self.tableau.A.diagonal())
        return float(self.tableau.stages - solves + SOLVE_WORK * solves)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stabilized(Scheme):
    """Explicit method whose stage count grows with the square root of the step: ``real_limit(s) ~ s^2``.

    `degrees` are the stage counts that exist: a range where the recurrence is known for every s (then no step is too
    long, only costly), a tuple where coefficients were optimised one by one.
    """

    family: ClassVar[str] = "stabilized"
    explicit: ClassVar[bool] = True

    build: Callable[[int], Recurrence]
    degrees: Sequence[int]

    @property
    def open_ended(self) -> bool:
        """Whether the stage count, and with it the real limit, has no upper end in theory."""
        return isinstance(self.degrees, range)

    def recurrence(self, s: int | None = None) -> Recurrence:
        """Coefficients for `s` stages (cached); of the smallest stage count when `s` is None.

        Raises
        ------
        ProblemError
            If the method has no coefficients for this count.
        """
        s = self.degrees[0] if s is None else s
        if s not in self.degrees:
            near = self.degrees[min(bisect.bisect_left(self.degrees, s), len(self.degrees) - 1)]
            raise ProblemError(
                f"stages = {s} does not exist for {self.name}, which has {self.degrees[0]} to {self.degrees[-1]}"
                f"{'' if self.open_ended else ' with gaps'}. Take {near}, or let the step choose with stages_for()."
            )
        return _recurrence(self, int(s))

    def R(self, z, s=None):
        """Stability function at `z`, by the recurrence with `s` stages (default: the fewest)."""
        return self.recurrence(s).stability(z)

    def work(self, s=None):
        """One application per stage."""
        return float(self.degrees[0] if s is None else s)

    def real_limit(self, s=None):
        """Real stability interval with `s` stages; over all stage counts when `s` is None."""
        if s is None:
            return math.inf if self.open_ended else _real_limit(self, self.degrees[-1])
        return _real_limit(self, s)

    def stages_for(self, z):
        """Smallest stage count whose real interval holds ``z = dt * rho(A)`` (beyond 4096 stages, up to 0.03 % more).

        Raises
        ------
        ProblemError
            If `z` is not a finite number >= 0, or no stage count of the table reaches it.
        """
        z = float(z)
        if not 0.0 <= z < math.inf:
            raise ProblemError(f"dt * rho = {z} is not a finite number >= 0, so no stage count follows from it.")
        if not within(z, self.real_limit()):
            raise ProblemError(
                f"dt * rho = {z:.6g} is beyond {self.name}: its {self.degrees[-1]} stages reach "
                f"{self.real_limit():.6g}. Divide the step, or take an implicit scheme."
            )
        # limits grow like s^2, nearly: scaling a known one twice lands within a step of the answer
        index = bisect.bisect_left(self.degrees, 32)
        for _ in range(2):
            known = self.degrees[index]
            guess = known * math.sqrt(z / self.real_limit(known))
            if self.open_ended and guess > _COMPUTED_STAGES:
                # real_limit(s) / s^2 = const + O(1 / s): the margin of 1 / s keeps the count on the safe side
                top = _COMPUTED_STAGES * math.sqrt(z / self.real_limit(_COMPUTED_STAGES))
                return math.ceil(top * (1.0 + 1.0 / _COMPUTED_STAGES))
            index = min(bisect.bisect_left(self.degrees, guess), len(self.degrees) - 1)
        while index > 0 and within(z, self.real_limit(self.degrees[index - 1])):
            index -= 1
        while not within(z, self.real_limit(self.degrees[index])):
            index += 1
        return self.degrees[index]

    def _series(self, x, scale, terms, s):
        return self.recurrence(s).series(x, scale, terms)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bdf2(Scheme):
    """Two-step backward differentiation; the state of the scheme is (u_n, u_{n-1})."""

    family: ClassVar[str] = "multistep"

    starter: str = "tr-bdf2"  # makes the first step: same order, L-stable

    @staticmethod
    def weights(ratio: float = 1.0) -> tuple[float, float, float]:
        """``(now, before, rate)`` for ``u_next = now u_n + before u_{n-1} + rate dt L_next``, dt / dt_before = `ratio`.

        Stable on any sequence of steps with ratio below 1 + sqrt(2) (Grigorieff 1983).
        """
        w = ratio
        return (1 + w) ** 2 / (1 + 2 * w), -(w**2) / (1 + 2 * w), (1 + w) / (1 + 2 * w)

    def amplification(self, z, s=None):
        """Companion matrix for equal steps, shape (\\*z.shape, 2, 2)."""
        z = np.asarray(z, dtype=complex)
        now, before, rate = self.weights()
        with np.errstate(all="ignore"):
            damping = np.where(np.isinf(z), 0.0, 1.0 / (1.0 - rate * z))
        matrix = np.zeros((*z.shape, 2, 2), dtype=complex)
        matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0] = now * damping, before * damping, 1.0
        return matrix

    def R(self, z, s=None):
        """Eigenvalue of `amplification` of largest modulus: the principal root near the origin."""
        matrix = self.amplification(z)
        half = matrix[..., 0, 0] / 2.0
        root = np.sqrt(half**2 + matrix[..., 0, 1])
        root = np.where((root * half.conj()).real < 0.0, -root, root)
        return half + root

    def work(self, s=None):
        """One solve."""
        return SOLVE_WORK

    def positivity(self, s=None):
        """0: u_{n-1} enters with a negative weight, so no step keeps every pair of non-negative states."""
        return 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Adi(Scheme):
    """Alternating directions: one tridiagonal sweep per axis.

    ``R(zx, zy, zz) = 1 + (zx + zy + zz) / ((1 - zx/2)(1 - zy/2)(1 - zz/2))``: Douglas & Gunn in any dimension, which
    in 2-D is Peaceman & Rachford's product ``(1 + zx/2)(1 + zy/2) / ((1 - zx/2)(1 - zy/2))`` and in 1-D Crank-Nicolson.
    """

    family: ClassVar[str] = "splitting"

    def R(self, *z, s=None):
        """Amplification for one argument per axis (1, 2 or 3, broadcast together)."""
        if len(z) > 1 and z[-1] is None:  # called with the common signature R(z, s)
            z = z[:-1]
        # 2 (t - 1) replaces z t, t = 1 / (1 - z/2), so that infinite arguments stay finite
        with np.errstate(all="ignore"):
            factors = [1.0 / (1.0 - np.asarray(zk, dtype=complex) / 2.0) for zk in z]
        t = np.broadcast_arrays(*[np.where(np.isfinite(tk), tk, 0.0) for tk in factors])
        total = np.ones_like(t[0])
        for k, tk in enumerate(t):
            others = math.prod((tj for j, tj in enumerate(t) if j != k), start=np.ones_like(tk))
            total = total + 2.0 * (tk - 1.0) * others
        return total

    def work(self, s=None):
        """A tridiagonal sweep costs about four applications; three axes and the explicit part at most."""
        return 16.0

    def _series(self, x, scale, terms, s):
        return SCHEMES["crank-nicolson"]._series(x, scale, terms, s)


@dataclass(frozen=True, eq=False, kw_only=True)
class Exponential(Scheme):
    """``R(z) = exp(z)``: the semi-discrete problem itself, advanced by a transform or a Krylov space."""

    family: ClassVar[str] = "exponential"

    cost: float

    def R(self, z, s=None):
        """``exp(z)``."""
        return np.exp(np.asarray(z, dtype=complex))

    def work(self, s=None):
        """Fixed model of the cost of a step."""
        return self.cost

    def positivity(self, s=None):
        """Infinite: exp is absolutely monotone everywhere."""
        return math.inf


# --- Consequences, computed once per row ------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _recurrence(scheme: Stabilized, s: int) -> Recurrence:
    return scheme.build(s)


@lru_cache(maxsize=4096)
def _real_limit(scheme: Scheme, s: int | None) -> float:
    """First exit from ``growth <= 1`` along the negative real axis, by scan and multisection."""
    if scheme.explicit:
        # Markov: a polynomial of degree s with R'(0) = 1 and |R| <= 1 ends before 2 s^2. Cosine spacing follows the
        # oscillations, which crowd towards both ends; beyond the last one |R| only grows, so at high degree a coarse
        # scan cannot miss the end.
        degree = s if s is not None else scheme.stages_for(0.0)
        angle = np.linspace(0.0, math.pi, min(64 * degree, 1024) + 1)[1:]
        x = (2.0 * degree**2 + 1.0) * (0.5 - 0.5 * np.cos(angle))
    else:
        x = np.append(np.logspace(-8, 16, 4096), np.inf)
    outside = scheme.growth(-x, s) > 1.0 + 1e-12
    if not outside.any():
        return math.inf
    first = int(np.argmax(outside))
    low, high = (x[first - 1] if first else 0.0), x[first]
    while high - low > 4.0 * np.spacing(high):
        x = np.linspace(low, high, 257)
        first = int(np.argmax(scheme.growth(-x, s) > 1.0)) or 1
        low, high = x[first - 1], x[first]
    return float(low)


@lru_cache(maxsize=4096)
def _positivity(scheme: Scheme, s: int | None) -> float:
    """Largest x at which no Taylor coefficient of R is negative, by bisection."""
    # The binding derivative is R, R' or R'' for every method here, and later ones fall like 1 / k!: 32 terms decide.
    terms = 32
    # scaled by the distance to the nearest pole (implicit) or by x itself, which keeps the coefficients near 1
    poles = SCHEMES["crank-nicolson"].tableau if scheme.family == "splitting" else scheme.tableau
    pole = 0.0 if poles is None else float(poles.A.diagonal().max())

    def monotone(x: float) -> bool:
        return bool((scheme._series(x, x + (1.0 / pole if pole else 0.0), terms, s) >= 0.0).all())

    if pole and not monotone(0.0):
        return 0.0
    if pole and monotone(1e8):
        return math.inf
    low, high = 0.0, 1.0
    while monotone(high):
        low, high = high, 2.0 * high
    while high - low > 2.0 * np.spacing(high):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if monotone(middle) else (low, middle)
    return low


# --- The table -------------------------------------------------------------------------------------------------


def _tr_bdf2() -> ButcherTableau:
    gamma = 2.0 - math.sqrt(2.0)
    d, w = gamma / 2.0, math.sqrt(2.0) / 4.0
    return _tableau(A=[[0, 0, 0], [d, d, 0], [w, w, d]], b=[w, w, d], b_hat=[(1 - w) / 3, (3 * w + 1) / 3, d / 3])


def _esdirk3() -> ButcherTableau:
    """Four stages, the first explicit; L-stable, stage order 2, so that moving wall values cost no order."""
    # L-stability: the z^3 coefficient of the numerator vanishes, gamma^3 - 3 gamma^2 + 3/2 gamma - 1/6 = 0
    gamma = float(sorted(np.roots([1.0, -3.0, 1.5, -1.0 / 6.0]).real)[1])
    for _ in range(3):  # polish: np.roots is good to a few ulp only
        gamma -= (((gamma - 3.0) * gamma + 1.5) * gamma - 1 / 6) / ((3.0 * gamma - 6.0) * gamma + 1.5)
    c2, c3 = 2.0 * gamma, 0.6
    a32 = c3 * (c3 - c2) / (4.0 * gamma)
    b2, b3 = np.linalg.solve([[c2, c3], [c2**2, c3**2]], [1 / 2 - gamma, 1 / 3 - gamma])
    b = [1.0 - b2 - b3 - gamma, b2, b3, gamma]
    return _tableau(
        A=[[0, 0, 0, 0], [gamma, gamma, 0, 0], [c3 - a32 - gamma, a32, gamma, 0], b],
        b=b,
        b_hat=[
            2756255671327 / 12835298489170,
            -10771552573575 / 22201958757719,
            9247589265047 / 10645013368117,
            2193209047091 / 5459859503100,
        ],
    )


SCHEMES: dict[str, Scheme] = {
    row.name: row
    for row in (
        RungeKutta(
            name="ftcs",
            title="FTCS (forward Euler)",
            order=1,
            reference="Courant, Friedrichs & Lewy 1928",
            memory=2,
            tableau=_tableau(A=[[0]], b=[1]),
        ),
        RungeKutta(
            name="rk2",
            title="RK2 (Heun)",
            order=2,
            reference="Heun 1900",
            memory=3,
            tableau=_tableau(A=[[0, 0], [1, 0]], b=[1 / 2, 1 / 2], b_hat=[1, 0]),
            estimate="embedded",
        ),
        RungeKutta(
            name="rk4",
            title="RK4 (classical)",
            order=4,
            reference="Kutta 1901",
            memory=4,
            tableau=_tableau(
                A=[[0, 0, 0, 0], [1 / 2, 0, 0, 0], [0, 1 / 2, 0, 0], [0, 0, 1, 0]], b=[1 / 6, 1 / 3, 1 / 3, 1 / 6]
            ),
            # stage order 1 leaves dt^2 in the cells at the wall, a share dx ~ sqrt(dt) of all: dt^(2 + 1/4) in L2
            reductions={"moving walls": 2.25},
        ),
        Stabilized(
            name="rkl1",
            title="RKL1 (Legendre)",
            order=1,
            reference="Meyer, Balsara & Aslam 2014",
            memory=4,
            build=_rkl1,
            degrees=range(1, MAX_STAGES + 1),
        ),
        Stabilized(
            name="rkl2",
            title="RKL2 (Legendre)",
            order=2,
            reference="Meyer, Balsara & Aslam 2014",
            memory=5,
            build=_rkl2,
            degrees=range(2, MAX_STAGES + 1),
            estimate="hermite",
        ),
        Stabilized(
            name="rkc2",
            title="RKC2 (Chebyshev)",
            order=2,
            reference="Sommeijer, Shampine & Verwer 1998",
            memory=5,
            build=_rkc2,
            degrees=range(2, MAX_STAGES + 1),
            estimate="hermite",
        ),
        Stabilized(
            name="rock2",
            title="ROCK2 (orthogonal)",
            order=2,
            reference="Abdulle & Medovikov 2001",
            memory=5,
            build=_rock2,
            degrees=tuple(ROCK2_FINISH),
            estimate="finish",
            # the two finishing stages amplify what the walls do between stage times
            reductions={"moving walls": 1.0},
        ),
        Dirk(
            name="backward-euler",
            title="Backward Euler",
            order=1,
            reference="Laasonen 1949",
            memory=3,
            tableau=_tableau(A=[[1]], b=[1]),
        ),
        Dirk(
            name="crank-nicolson",
            title="Crank-Nicolson",
            order=2,
            reference="Crank & Nicolson 1947",
            memory=3,
            tableau=_tableau(A=[[0, 0], [1 / 2, 1 / 2]], b=[1 / 2, 1 / 2]),
            # R(-inf) = -1: the shortest waves of a jump stay, and with them the error in the largest norm
            reductions={"rough start": 0.5},
        ),
        Dirk(
            name="tr-bdf2",
            title="TR-BDF2",
            order=2,
            reference="Bank et al. 1985; Hosea & Shampine 1996",
            memory=5,
            tableau=_tr_bdf2(),
            estimate="embedded",
        ),
        Bdf2(
            name="bdf2",
            title="BDF2",
            order=2,
            reference="Curtiss & Hirschfelder 1952",
            memory=4,
            stages=1,
        ),
        Dirk(
            name="sdirk3",
            title="ESDIRK3 (L-stable)",
            order=3,
            reference="Kennedy & Carpenter 2003, ESDIRK part of ARK3(2)4L[2]SA",
            memory=6,
            tableau=_esdirk3(),
            estimate="embedded",
        ),
        Adi(
            name="adi",
            title="ADI",
            order=2,
            reference="Peaceman & Rachford 1955 (2-D); Douglas & Gunn 1964 (3-D)",
            # as Crank-Nicolson; and the sweeps see walls of different times, most of all in corners
            reductions={"moving walls": 1.0, "rough start": 0.5},
            memory=4,
            stages=1,
        ),
        Exponential(
            name="exact",
            title="Exact exponential (transform)",
            order=math.inf,
            reference="Strang 1999, the discrete cosine transform",
            memory=3,
            stages=1,
            cost=20.0,
        ),
        Exponential(
            name="krylov",
            title="Krylov exponential",
            order=math.inf,
            reference="Saad 1992",
            memory=34,
            stages=1,
            cost=20.0 * SOLVE_WORK,  # 13 to 25 solves reach 1e-10, whatever the stiffness
        ),
    )
}


def scheme_of(name: str | Scheme) -> Scheme:
    """Return the row called `name`; a row is returned as it is.

    Raises
    ------
    ProblemError
        If there is no such row; the message lists what exists and guesses what was meant.
    """
    if isinstance(name, Scheme):
        return name
    if isinstance(name, str) and name in SCHEMES:
        return SCHEMES[name]
    close = difflib.get_close_matches(str(name).lower().replace("_", "-"), SCHEMES, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ProblemError(f"scheme = {name!r} is not in the table.{guess} Known schemes: {', '.join(SCHEMES)}.")
