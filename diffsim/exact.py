"""Closed-form solutions: what the solver is judged against in tests, documentation and scripts.

Conventions: consistent units (SI, say); `x`, `t` may be arrays and broadcast; `diffusivity` is D/c [m^2/s] in
transient formulas and the conductivity [W/(m K)] in steady ones where a flux enters.

Sources cited more than once:
  [CJ]  H. S. Carslaw, J. C. Jaeger, Conduction of Heat in Solids, 2nd ed., Oxford 1959.
  [Cr]  J. Crank, The Mathematics of Diffusion, 2nd ed., Oxford 1975.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffsim.errors import ProblemError

Array = NDArray[np.float64]

# ----------------------------------------------------------------------------------------------------
# Eigenmodes of a slab


@dataclass(frozen=True)
class SlabModes:
    """Eigenmodes ``cos(kappa x - phase)`` of ``-D u''`` on ``[0, length]``, slowest first.

    With ``spacing`` set they are the modes of the *discrete* operator on cell centres (walls half a cell
    outside the first and last centre), and ``rates`` its eigenvalues; without it, those of the continuous
    one.
    """

    wavenumbers: Array  # (n,) [1/m]
    phases: Array  # (n,) [rad]
    rates: Array  # (n,) decay rates [1/s]
    length: float  # [m]

    def __call__(self, mode: int, x: ArrayLike) -> Array:
        """Mode number `mode` at `x`, amplitude 1."""
        return np.cos(self.wavenumbers[mode] * np.asarray(x, float) - self.phases[mode])

    def norm2(self, mode: int) -> float:
        """Integral of the squared continuous mode over the slab [m]."""
        kappa, phase = self.wavenumbers[mode], self.phases[mode]
        if kappa == 0:
            return self.length * float(np.cos(phase) ** 2)
        return float(self.length / 2 + (np.sin(2 * (kappa * self.length - phase)) + np.sin(2 * phase)) / (4 * kappa))


def slab_modes(
    length: float,
    count: int,
    diffusivity: float = 1.0,
    left: float = np.inf,
    right: float = np.inf,
    cells: int | None = None,
) -> SlabModes:
    """First `count` eigenmodes of a slab whose sides transfer heat with coefficients `left` and `right`.

    A side is one number h in ``-D du/dn = h u``: ``inf`` is a fixed zero value, ``0`` zero flux, anything
    between is Robin; so every mix of sides is one formula. A mode is ``cos(kappa x - a)`` with ``tan a =
    h_left / (D kappa)``, and ``kappa length = n pi + a + b`` with ``tan b = h_right / (D kappa)``, whose
    right side decreases in kappa: one root in each ``[n pi, (n + 1) pi]`` [CJ §3.9-3.10]. On a grid of
    `cells` cells the same holds with kappa replaced by ``(2/d) tan(kappa d/2)`` in both tangents, and the
    rate is ``(4 D/d^2) sin^2(kappa d/2)``.

    Parameters
    ----------
    length
        Thickness [m].
    count
        Number of modes; at most `cells` on a grid.
    diffusivity
        D [m^2/s], or the conductivity when `left` and `right` are in W/(m^2 K); rates are for unit capacity.
    left, right
        Transfer coefficients, each in [0, inf].
    cells
        Number of grid cells for discrete modes; None for the continuous ones.

    Raises
    ------
    ProblemError
        If a coefficient is negative or more modes are asked for than the grid has.
    """
    from scipy.optimize import brentq

    if not (length > 0 and diffusivity > 0 and left >= 0 and right >= 0):
        raise ProblemError(
            f"slab_modes: length = {length}, diffusivity = {diffusivity}, left = {left}, right = {right}: length "
            "and diffusivity must be > 0 and side coefficients in [0, inf]. Use inf for a fixed value and 0 for "
            "zero flux."
        )
    if count < 1 or (cells is not None and count > cells):
        raise ProblemError(f"slab_modes: count = {count} must be in 1 .. {cells or 'any'}: a grid has one mode a cell.")
    d = None if cells is None else length / cells

    def side(h: float, kappa: float) -> float:
        if h == 0 or h == np.inf:
            return 0.0 if h == 0 else np.pi / 2
        slope = kappa if d is None else 2 / d * np.tan(kappa * d / 2)
        return float(np.arctan2(h, diffusivity * slope))

    wavenumbers = np.empty(count)
    for n in range(count):

        def excess(kappa: float, n: int = n) -> float:
            return kappa * length - n * np.pi - side(left, kappa) - side(right, kappa)

        low, high = n * np.pi / length, (n + 1) * np.pi / length
        if d is not None:  # tan(kappa d/2) has its pole at the last mode: stay on its finite side
            high = min(high, np.nextafter(np.pi / d, 0))
        if excess(low) >= 0:
            wavenumbers[n] = low
        elif excess(high) <= 0:
            wavenumbers[n] = high
        else:
            wavenumbers[n] = brentq(excess, low, high, xtol=1e-300, rtol=8 * np.finfo(float).eps)
    phases = np.array([side(left, kappa) for kappa in wavenumbers])
    squares = wavenumbers**2 if d is None else 4 / d**2 * np.sin(wavenumbers * d / 2) ** 2
    rates = diffusivity * squares
    return SlabModes(wavenumbers, phases, rates, length)


def periodic_rates(length: float, cells: int, diffusivity: float = 1.0) -> Array:
    """Eigenvalues of the discrete periodic ``-D u''`` on `cells` cells, ascending, shape (cells,) [1/s].

    Wave number ``2 pi j / length`` has rate ``(4 D/d^2) sin^2(pi j / cells)``, twice except for j = 0 (and
    cells/2).
    """
    d = length / cells
    return np.sort(4 * diffusivity / d**2 * np.sin(np.pi * np.arange(cells) / cells) ** 2)


# ----------------------------------------------------------------------------------------------------
# Slabs and half-spaces in time


def semi_infinite(x: ArrayLike, t: ArrayLike, diffusivity: float, surface: float = 1.0, initial: float = 0.0) -> Array:
    """Half-space ``x >= 0`` at `initial` whose surface is put to `surface` at t = 0 [CJ §2.5 (1)]."""
    from scipy.special import erfc

    x, t = np.broadcast_arrays(np.asarray(x, float), np.asarray(t, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = np.where(t > 0, erfc(x / (2 * np.sqrt(diffusivity * t))), 0.0)
    return initial + (surface - initial) * rise


def semi_infinite_flux(x: ArrayLike, t: ArrayLike, conductivity: float, capacity: float, flux: float) -> Array:
    """Half-space at 0 that takes `flux` [W/m^2] through its surface from t = 0 on [CJ §2.9 (7)]."""
    from scipy.special import erfc

    x, t = np.asarray(x, float), np.asarray(t, float)
    spread = np.sqrt(conductivity / capacity * t)
    return (
        flux
        / conductivity
        * (2 * spread / np.sqrt(np.pi) * np.exp(-((x / (2 * spread)) ** 2)) - x * erfc(x / (2 * spread)))
    )


def semi_infinite_robin(
    x: ArrayLike, t: ArrayLike, conductivity: float, capacity: float, h: float, ambient: float = 1.0
) -> Array:
    """Half-space at 0 that exchanges heat with `ambient` through a film `h` [W/(m^2 K)] from t = 0 on [CJ
    §2.7 (1)].

    Written with the scaled ``erfcx`` so that it does not overflow for large h or t.
    """
    from scipy.special import erfc, erfcx

    x, t = np.asarray(x, float), np.asarray(t, float)
    spread = np.sqrt(conductivity / capacity * t)
    eta, biot = x / (2 * spread), h * spread / conductivity
    return ambient * (erfc(eta) - np.exp(-(eta**2)) * erfcx(eta + biot))


def slab_step(
    x: ArrayLike,
    t: float,
    length: float,
    diffusivity: float,
    left: float = 1.0,
    right: float = 0.0,
    initial: float = 0.0,
) -> Array:
    """Slab at `initial` whose faces are held at `left` (x = 0) and `right` (x = length) from t = 0 on.

    Two series for one function: images of the half-space (erfc) while ``D t < L^2 / 10``, where twelve of
    them reach rounding, and the sine series [CJ §3.3-3.4] after that, where twenty terms do.
    """
    from scipy.special import erfc

    x = np.asarray(x, float)
    if t <= 0:
        return np.where(x <= 0, left, np.where(x >= length, right, initial)) * np.ones_like(x)
    fourier = diffusivity * t / length**2
    a, b = left - initial, right - initial
    if fourier < 0.1:
        u = np.full_like(x, float(initial))
        width = 2 * np.sqrt(diffusivity * t)
        for n in range(
            6
        ):  # the image of the left face at 2nL, and its mirror at the other side; likewise the right one
            near, far = 2 * n * length, (2 * n + 2) * length
            u += a * (erfc((near + x) / width) - erfc((far - x) / width))
            y = length - x
            u += b * (erfc((near + y) / width) - erfc((far - y) / width))
        return u
    u = initial + a + (b - a) * x / length
    for n in range(1, 21):
        weight = 2 / (n * np.pi) * (a - (-1) ** n * b)
        u -= weight * np.sin(n * np.pi * x / length) * np.exp(-fourier * (n * np.pi) ** 2)
    return u


def slab_driven(x: ArrayLike, t: float, length: float, diffusivity: float, amplitude: float, frequency: float) -> Array:
    """Slab at 0 with x = 0 held at 0 and ``u(length, t) = amplitude sin(frequency t)``, for t > 0 [CJ §3.6].

    The periodic part is ``Im[A exp(i w t) sinh(q x) / sinh(q L)]`` with ``q^2 = i w / D``; what the start
    adds is a sine series that decays as ``exp(-D (n pi / L)^2 t)``, summed until that is below rounding.
    """
    x = np.asarray(x, float)
    q = np.sqrt(1j * frequency / diffusivity)
    # sinh(q x) / sinh(q L) with the growing exponential divided out
    shape = np.exp(-q * (length - x)) * np.expm1(-2 * q * x) / np.expm1(-2 * q * length)
    periodic = amplitude * np.imag(np.exp(1j * frequency * t) * shape)
    terms = min(20_000, 2 + int(length / np.pi * np.sqrt(40 / (diffusivity * t))))
    n = np.arange(1, terms + 1)
    rate = diffusivity * (n * np.pi / length) ** 2
    lift = 2 * (-1.0) ** (n + 1) / (n * np.pi)  # sine coefficients of x/L
    start = amplitude * frequency * lift * rate * np.exp(-rate * t) / (rate**2 + frequency**2)
    return periodic + np.sin(np.multiply.outer(x, n) * np.pi / length) @ start


NAFEMS_T3 = {
    "length": 0.1,
    "conductivity": 35.0,
    "capacity": 440.5 * 7200.0,
    "amplitude": 100.0,
    "frequency": np.pi / 40,
    "x": 0.08,
    "t": 32.0,
    "published": 36.60,
}
"""NAFEMS benchmark T3 (The Standard NAFEMS Benchmarks, rev. 3, 1990): a bar heated sinusoidally at one end;
SI units."""


def nafems_t3(x: ArrayLike = 0.08, t: float = 32.0) -> Array:
    """Temperature of NAFEMS T3 at `x` [m] and `t` [s]; the published target is 36.60 at (0.08 m, 32 s)."""
    case = NAFEMS_T3
    return slab_driven(
        x, t, case["length"], case["conductivity"] / case["capacity"], case["amplitude"], case["frequency"]
    )


def plane_wave(
    x: ArrayLike, frequency: float, diffusivity: float, loss: float = 0.0, length: float | None = None
) -> NDArray[np.complex128]:
    """Complex response at `x` to ``cos(2 pi frequency t)`` at x = 0 of a rod that loses heat (Ångström's
    method).

    ``u(x, t) = Re[response exp(2 pi i frequency t)]`` solves ``u_t = diffusivity u_xx - loss u``: ``exp(-q
    x)`` with ``q^2 = (loss + i omega) / diffusivity`` on a half-infinite rod, ``cosh(q (L - x)) / cosh(q L)``
    on one insulated at x = `length`. The amplitude ratio is ``abs(response)``, the phase lag
    ``-angle(response)``. [CJ §4.5-4.6; A. J. Ångström, Annalen der Physik 190 (1861) 513.]
    """
    x = np.asarray(x, float)
    q = np.sqrt((loss + 2j * np.pi * frequency) / diffusivity)
    if length is None:
        return np.exp(-q * x)
    # cosh(q (L - x)) / cosh(q L), with the growing exponential divided out: long rods do not overflow
    return np.exp(-q * x) * (1 + np.exp(-2 * q * (length - x))) / (1 + np.exp(-2 * q * length))


def angstrom_diffusivity(
    distance: ArrayLike, amplitude_ratio: ArrayLike, phase_lag: ArrayLike, frequency: float
) -> Array:
    """Diffusivity from the decay and the lag between two points of a long rod [m^2/s].

    ``omega distance^2 / (2 phase_lag ln(1/amplitude_ratio))``: the loss cancels, because the real and
    imaginary parts of q multiply to ``omega / (2 diffusivity)`` whatever it is (Ångström 1861).
    """
    decay = -np.log(np.asarray(amplitude_ratio, float))
    return 2 * np.pi * frequency * np.asarray(distance, float) ** 2 / (2 * np.asarray(phase_lag, float) * decay)


# ----------------------------------------------------------------------------------------------------
# Free space


def gaussian(
    r: ArrayLike,
    t: ArrayLike,
    diffusivity: float,
    mass: float = 1.0,
    dimension: int = 1,
    variance: float = 0.0,
) -> Array:
    """A Gaussian of total content `mass` spreading in free space: per-axis variance ``variance + 2 D t`` [CJ
    §10.2]."""
    spread = variance + 2 * diffusivity * np.asarray(t, float)
    return mass * np.exp(-(np.asarray(r, float) ** 2) / (2 * spread)) / (2 * np.pi * spread) ** (dimension / 2)


@dataclass(frozen=True)
class Barenblatt:
    """Source-type solution of ``u_t = div(diffusivity u^power grad u)``: compact support, a moving front.

    ``u = s^(-a) (C - k r^2 s^(-2b))_+^(1/power)`` with ``s = diffusivity t / (power + 1)``, ``b = 1/(d power
    + 2)``, ``a = d b``, ``k = power b / (2 (power + 1))`` (G. I. Barenblatt 1952; J. L. Vazquez, The Porous
    Medium Equation, Oxford 2007, §4.4).
    """

    power: float  # exponent n of D = diffusivity u^n, > 0
    constant: float = 1.0  # C: sets the mass
    diffusivity: float = 1.0
    dimension: int = 1

    @property
    def _exponents(self) -> tuple[float, float, float]:
        b = 1 / (self.dimension * self.power + 2)
        return self.dimension * b, b, self.power * b / (2 * (self.power + 1))

    def __call__(self, r: ArrayLike, t: float) -> Array:
        """Value at distance `r` from the source and time `t` > 0."""
        a, b, k = self._exponents
        s = self.diffusivity * t / (self.power + 1)
        head = np.maximum(self.constant - k * np.asarray(r, float) ** 2 * s ** (-2 * b), 0.0)
        return s**-a * head ** (1 / self.power)

    def front(self, t: float) -> float:
        """Radius of the support at time `t`: grows as ``t^b``."""
        _, b, k = self._exponents
        s = self.diffusivity * t / (self.power + 1)
        return float(np.sqrt(self.constant / k) * s**b)


# ----------------------------------------------------------------------------------------------------
# Steady states


def layered_wall(
    thicknesses: ArrayLike,
    conductivities: ArrayLike,
    inside: float,
    outside: float,
    inside_resistance: float = 0.0,
    outside_resistance: float = 0.0,
) -> tuple[float, Array]:
    """Heat flux [W/m^2] through layers in series, and the temperatures at their n + 1 faces, inside first.

    Resistances add: ``q = (T_in - T_out) / (R_si + sum d/k + R_se)`` (ISO 6946).
    """
    resistance = np.asarray(thicknesses, float) / np.asarray(conductivities, float)
    flux = (inside - outside) / (inside_resistance + resistance.sum() + outside_resistance)
    return float(flux), inside - flux * (inside_resistance + np.concatenate([[0.0], np.cumsum(resistance)]))


def cylinder_shell(r: ArrayLike, inner: float, outer: float, u_inner: float, u_outer: float) -> Array:
    """Steady profile between two cylinders held at `u_inner` and `u_outer`: linear in ln r [CJ §7.2]."""
    return u_inner + (u_outer - u_inner) * np.log(np.asarray(r, float) / inner) / np.log(outer / inner)


def cylinder_shell_flow(inner: float, outer: float, u_inner: float, u_outer: float, conductivity: float) -> float:
    """Heat flow outwards through that shell per unit length [W/m]."""
    return 2 * np.pi * conductivity * (u_inner - u_outer) / np.log(outer / inner)


def sphere_shell(r: ArrayLike, inner: float, outer: float, u_inner: float, u_outer: float) -> Array:
    """Steady profile between two spheres held at `u_inner` and `u_outer`: linear in 1/r [CJ §9.2]."""
    return u_inner + (u_outer - u_inner) * (1 / inner - 1 / np.asarray(r, float)) / (1 / inner - 1 / outer)


def sphere_shell_flow(inner: float, outer: float, u_inner: float, u_outer: float, conductivity: float) -> float:
    """Heat flow outwards through that shell [W]."""
    return 4 * np.pi * conductivity * (u_inner - u_outer) / (1 / inner - 1 / outer)


def heated_body(
    r: ArrayLike, radius: float, conductivity: float, source: float, surface: float, dimension: int
) -> Array:
    """Steady profile of a body that makes `source` [W/m^3] inside and is held at `surface`: a parabola.

    `dimension` 1 is a slab of half-thickness `radius`, 2 a cylinder, 3 a sphere [CJ §3.14, §7.2, §9.8].
    """
    return surface + source * (radius**2 - np.asarray(r, float) ** 2) / (2 * dimension * conductivity)


def fin(x: ArrayLike, length: float, m: float, base: float = 1.0, tip: float = 0.0) -> Array:
    """Excess temperature of a straight fin with ``u'' = m^2 u``, `base` at x = 0 and transfer ``-u' = tip u``
    at the end.

    ``m^2 = h P / (k A)`` [1/m^2]; `tip` is h/k [1/m], 0 for an insulated tip (F. P. Incropera, D. P. DeWitt,
    Fundamentals of Heat and Mass Transfer, table of fin profiles).
    """
    y = length - np.asarray(x, float)
    return base * (np.cosh(m * y) + tip / m * np.sinh(m * y)) / (np.cosh(m * length) + tip / m * np.sinh(m * length))


def square_hot_top(x: ArrayLike, y: ArrayLike, side: float = 1.0, top: float = 1.0, terms: int = 200) -> Array:
    """Steady square with `top` on y = side and 0 on the other three sides [CJ §5.3]; `x`, `y` broadcast.

    ISO 10211 case 1 is this with ``top = 20``: by symmetry (four such squares add up to a constant) the
    centre is exactly ``top / 4``. Odd sine terms; ratios of sinh are written with decaying exponentials.
    """
    x, y = np.broadcast_arrays(np.asarray(x, float) / side, np.asarray(y, float) / side)
    u = np.zeros(x.shape)
    for n in range(1, 2 * terms, 2):
        k = n * np.pi
        profile = np.exp(-k * (1 - y)) * -np.expm1(-2 * k * y) / -np.expm1(-2 * k)
        u += 4 * top / k * np.sin(k * x) * profile
    return u


# ----------------------------------------------------------------------------------------------------
# Manufactured


@dataclass(frozen=True)
class Manufactured:
    """A quadratic in space, linear in time: backward Euler makes no error in t, and any error is the grid's.

    ``u = 1 + x^2 + alpha y^2 + beta t`` solves ``u_t = div grad u + f`` with ``f = beta - 2 - 2 alpha`` (H.
    P. Langtangen, A. Logg, Solving PDEs in Python: The FEniCS Tutorial I, Springer 2016, §3.1; there alpha =
    3, beta = 1.2).
    """

    alpha: float = 3.0
    beta: float = 1.2

    @property
    def source(self) -> float:
        """The constant source."""
        return self.beta - 2 - 2 * self.alpha

    def __call__(self, x: ArrayLike, y: ArrayLike, t: float) -> Array:
        """Value at (x, y, t)."""
        return 1 + np.asarray(x, float) ** 2 + self.alpha * np.asarray(y, float) ** 2 + self.beta * t


# ----------------------------------------------------------------------------------------------------
# The stochastic heat equation


def noise_variance(x: ArrayLike, length: float, diffusivity: float, noise: float) -> Array:
    """Stationary variance of ``u_t = D u_xx + noise dW/(dt dx)`` on ``[0, length]`` with zero values at both
    ends.

    Each mode is an Ornstein-Uhlenbeck process of variance ``noise^2 / (2 rate)``; their sum is ``noise^2 / (2
    D)`` times the Green's function, ``x (L - x) / L`` (G. Da Prato, J. Zabczyk, Stochastic Equations in
    Infinite Dimensions, §5).
    """
    x = np.asarray(x, float)
    return noise**2 / (2 * diffusivity) * x * (length - x) / length


def noise_covariance(stiffness: ArrayLike, noise: float) -> Array:
    """Stationary covariance of the semi-discrete equation ``m du = -K u dt + noise sqrt(V) dW`` where m = V
    (c = 1).

    The balance ``A C + C A^T = noise^2 V^-1`` with ``A = V^-1 K`` is solved by ``C = noise^2 K^-1 / 2``, on
    any grid.

    Parameters
    ----------
    stiffness
        Dense K, (n, n), symmetric positive definite.
    """
    return noise**2 / 2 * np.linalg.inv(np.asarray(stiffness, float))


def noise_mode_variance(rate: ArrayLike, dt: float, noise: float, amplification: Callable[[Array], Array]) -> Array:
    """Stationary variance of a mode stepped by ``u -> R(-rate dt) (u + noise sqrt(dt) xi)``, xi standard
    normal.

    The geometric series ``noise^2 dt R^2 / (1 - R^2)``; tends to ``noise^2 / (2 rate)`` as dt -> 0.
    """
    factor = np.real(amplification(-np.asarray(rate, float) * dt)) ** 2
    return noise**2 * dt * factor / (1 - factor)
