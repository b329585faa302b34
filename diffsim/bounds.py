"""Guaranteed two-sided bounds of the distance between any field and the solution of K u = F.

With e = u - v and r = F - K v, two dual principles enclose the energy e'Ke = r' K^-1 r (r balanced, K a weighted graph
Laplacian with conductances g and a diagonal w; Prager & Synge 1947 for the continuous form):

    Thomson    e'Ke <= sum_f p_f^2 / g_f + sum_i q_i^2 / w_i       for every flow (p, q) whose divergence is r
    Dirichlet  e'Ke >= (r'y)^2 / (y'Ky)                            for every field y

Both take the flow and the field from ``z = L^-1 r`` with a *comparison operator* L on the same graph that separates
over the axes, so that L^-1 is a product of small orthogonal matrices. They are sharper than the classical
``r'L^-1 r / gamma_max <= e'Ke <= r'L^-1 r / gamma_min`` (gamma the extreme ratios of K to L), which they imply.
Where no such L exists (voids, held cells, patches), K itself is solved approximately and what is left over is bounded
by a *comparison function*: x > 0 with K x > 0 gives ``|K^-1 s| <= max(|s| / Kx) x`` for every s, because K^-1 >= 0, and
the smallest eigenvalue is at least ``min (Kx) / (V x)`` (Collatz-Wielandt).

Steps of conjugate gradients tighten both sides through an identity that holds for *any* correction d of v with
s = r - K d, however inexactly d was computed:  e'Ke = d'Kd + 2 d's + s' K^-1 s.

All floating-point work carries an allowance: the bounds hold for the exact solution of the stored coefficients.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from .errors import ProblemError
from .kernels import bounds as kernels

_EPS = float(np.finfo(float).eps)
_RESIDUAL_SLACK = 8 * _EPS  # times |F| + |K||v|: at most 16 roundings per cell, each half an eps
_SUM_SLACK = 1e-12  # relative, of sums of products of one sign
_MILD = 10.0  # ratio of K to L up to which L preconditions well enough to go without multigrid
_LAYERED = 100.0  # ratio from which a comparison operator with profiles along the axes is tried
_TRANSFORM_FROM = (
    48  # cells along an axis from which transforms are used: as fast as a dense basis, without BLAS threads
)
_SINGLE = 1e7  # condition number up to which L is inverted in single precision
_LARGEST_BASIS = 512  # cells along an axis for which a dense orthogonal basis is worth its cost
_BALANCE = 1e-10  # relative imbalance of a floating component that still counts as rounding of the data


@dataclass(frozen=True, eq=False)
class Bound:
    """``energy_lower <= ||e||_K <= energy`` and ``||e|| <= l2``, e the distance of the candidate to the equilibrium.

    The energy is ``sqrt(e' K e)``, K volume-integrated; the L2 norm is ``sqrt(sum V_i e_i^2)``. Infinity means that
    nothing can be promised. In components that no side anchors, the equilibrium is the one with the
    candidate's content.
    """

    energy_lower: float
    energy: float
    l2: float
    l2_relative: float  # of the truth: l2 / (||v|| - l2)
    linf: float  # max |e_i|
    steps: int  # conjugate-gradient steps behind this bound
    u: np.ndarray  # the candidate improved by these steps, shape grid.shape

    def explain(self) -> str:
        """One sentence for people."""
        if not math.isfinite(self.energy):
            return "No bound: the candidate is not finite, or nothing rigorous can be said of this problem."
        relative = "unknown" if math.isinf(self.l2_relative) else f"{100 * self.l2_relative:.3g} %"
        return (
            f"The candidate is within {self.l2:.4g} (L2; relative {relative}) of the discrete equilibrium; its energy "
            f"error lies between {self.energy_lower:.4g} and {self.energy:.4g} ({self.steps} steps of refinement)."
        )


def energy_bound(operator, candidate, steps: int = 0) -> Bound:
    """Bound the distance between `candidate` and the equilibrium of a linear, steady problem.

    Parameters
    ----------
    operator
        ``discretize(problem)``.
    candidate
        Any field of shape ``grid.shape``; values in void and held cells are ignored.
    steps
        Conjugate-gradient steps that tighten the bound and improve the candidate. On grids where no comparison
        operator separates, at least three are always taken.

    Raises
    ------
    ProblemError
        If the shape is wrong, the problem is nonlinear or changes in time, or has no equilibrium.
    """
    v = _candidate(operator, candidate)
    steps = _steps(steps)
    _require_linear_and_steady(operator)
    if not operator.all_free:
        v = np.where(operator.free, v, 0.0)
    if operator.cross is not None or not np.isfinite(v).all():
        return _nothing(operator, v, steps)  # a full tensor has no M-matrix to compare with: abstain
    if not operator.free.any():  # every cell is held: there is nothing to be wrong about
        return Bound(0.0, 0.0, 0.0, 0.0, 0.0, steps, operator.unpad(v))
    system = _system(operator)
    forcing, driven = system.forcing(operator)
    # squares of very large or small numbers leave the range of doubles: work in units of the data
    unit = max(float(v.max()), -float(v.min()), driven)
    unit = 1.0 if unit == 0 or 1e-60 < unit < 1e60 else 2.0 ** max(math.frexp(unit)[1], -1020)
    with np.errstate(all="ignore"):  # overflow ends as infinity, and is answered as such
        if unit != 1:
            v, forcing = v / unit, forcing / unit
        parts = _enclose(system, v, forcing, steps)
        norm = system.norm(v) * (1 - 64 * _EPS)
    if parts is None:
        return _nothing(operator, v * unit, steps)
    lower, energy, l2, linf, corrected, used = parts
    relative = l2 / (norm - l2) if l2 < norm else math.inf
    lower, energy, l2, linf = (float(x * unit) for x in (lower, energy, l2, linf))
    return Bound(lower, energy, l2, float(relative), linf, used, operator.unpad(corrected * unit))


# --- the discrete system --------------------------------------------------------------------------------------------


class _System:
    """K, its volumes, and what is found out about them once: comparison operator, preconditioner, eigenvalue bound."""

    def __init__(self, operator):
        self.operator = operator
        self.free = operator.free
        self.conductances = operator.conductances
        self.diagonal = operator.diagonal
        self.periodic = operator.periodic
        self.volumes = np.where(self.free, operator.pad(np.ascontiguousarray(operator.grid.volumes)), 1.0)
        self.inverse_volumes = 1 / self.volumes
        self.mass = operator.mass
        self.labels, self.n_components, anchored = _components(operator)
        self.floating = np.flatnonzero(~np.asarray(anchored, dtype=bool))
        self.degree = self.diagonal.copy()  # the diagonal of K
        for axis, g in enumerate(self.conductances):
            if g.shape[axis] > 2 or self.periodic[axis]:
                self.degree += _cut(g, axis, slice(None, -1)) + _cut(g, axis, slice(1, None))
        self.scale = np.where(self.degree > 0, self.degree, 1.0)
        extent = [float(f(x)) for x in (self.scale[self.free], self.volumes) for f in (np.min, np.max)]
        self.tame = min(extent) > 1e-100 and max(extent) < 1e100  # squares stay inside the range of doubles
        self.content_factor = self._content_factor()
        self.smallest = float(self.volumes[self.free].min())
        self._forcing = None
        self.separable = _comparison(self)
        self._general = None

    def general(self) -> "_Comparison":
        """Multigrid and the comparison function, made on first use."""
        if self._general is None:
            self._general = _Comparison(self)
        return self._general

    def apply(self, u):
        return self.operator.apply(u)

    def energy(self, u) -> float:
        """u'Ku as a sum of squares, (relative error below _SUM_SLACK)."""
        total = _sum(self.diagonal * u * u)
        for axis, g in enumerate(self.conductances):
            jump = _jumps(u, axis, self.periodic[axis])
            if jump is not None:
                total += _sum(_inner(g, axis, self.periodic[axis]) * jump * jump)
        return total

    def rounding(self, u, forcing):
        """Upper bound of the rounding error of ``F - K u``, cell by cell."""
        a = np.abs(u)
        spread = 2 * self.degree * a - self.apply(a)  # (|K| |u|): off-diagonal entries taken positive
        return _RESIDUAL_SLACK * (np.abs(forcing) + np.maximum(spread, self.degree * a))

    def residual(self, u, forcing) -> tuple[np.ndarray, float]:
        """F - K u, and a bound of its rounding errors in the norm ``sqrt(sum rho^2 / V)``."""
        r, rows = np.empty(u.shape), np.empty(u.shape[0] * u.shape[1])
        kernels.residual(
            *self.conductances, self.diagonal, self.free, self.periodic, self.inverse_volumes, forcing, u, _RESIDUAL_SLACK, r, rows
        )  # fmt: skip
        return r, math.sqrt(_sum(rows)) * (1 + _SUM_SLACK)

    def sums(self, a):
        """Sum of `a` over each floating component."""
        totals = np.bincount(self.labels[self.free].ravel(), weights=a[self.free].ravel(), minlength=self.n_components)
        return totals[self.floating]

    def spread(self, weights, amounts):
        """`weights` times one amount per floating component; 0 elsewhere."""
        per_component = np.zeros(self.n_components)
        per_component[self.floating] = amounts
        return np.where(self.free, per_component[np.maximum(self.labels, 0)] * weights, 0.0)

    def norm(self, a) -> float:
        """sqrt(sum V a^2), never too small."""
        rows = np.empty(a.shape[0] * a.shape[1])
        kernels.squares(self.volumes, a, rows)
        return math.sqrt(_sum(rows)) * (1 + _SUM_SLACK)

    def forcing(self, operator) -> tuple[np.ndarray, float]:
        """F with the rounding of its imbalance evened out, and the size of the field that it drives."""
        if self._forcing is None:
            forcing = self._balanced(np.asarray(operator.forcing(0.0), dtype=float))
            self._forcing = forcing, float((np.abs(forcing) / self.scale).max())
        return self._forcing

    def _balanced(self, forcing):
        """The forcing with the rounding of its imbalance spread by mass; an error where it has no equilibrium."""
        if not self.free.all():
            forcing = np.where(self.free, forcing, 0.0)
        if not self.floating.size:
            return forcing
        excess, size, content = self.sums(forcing), self.sums(np.abs(forcing)), self.sums(self.mass)
        worst = int(np.argmax(np.abs(excess) - _BALANCE * size))
        if abs(excess[worst]) > _BALANCE * size[worst] + 1e-12 * float(np.abs(forcing).max()):
            raise ProblemError(
                f"this problem has no equilibrium: no side anchors it, and its content grows by {excess[worst]:g} per "
                "second in one component. Balance the sources and fluxes, or hold a value somewhere."
            )
        return forcing - self.spread(self.mass, excess / content)

    def centred(self, u):
        """`u` without its content in floating components."""
        if not self.floating.size:
            return u
        return u - self.spread(np.ones_like(u), self.sums(self.mass * u) / self.sums(self.mass))

    def even(self, r):
        """`r` made to sum to zero over floating components."""
        if not self.floating.size:
            return r
        return r - self.spread(self.mass, self.sums(r) / self.sums(self.mass))

    def _content_factor(self) -> float:
        """How much larger a field of zero content can be than its part of zero mean (1 where c is constant)."""
        if not self.floating.size:
            return 1.0
        spread = self.sums(self.volumes) * self.sums(self.mass**2 / self.volumes) / self.sums(self.mass) ** 2
        return math.sqrt(max(1.0, float(spread.max()))) * (1 + _SUM_SLACK)


_systems: WeakKeyDictionary = WeakKeyDictionary()


def _system(operator) -> _System:
    system = _systems.get(operator)
    if system is None:
        system = _systems[operator] = _System(operator)
        system.operator = _Borrowed(operator)
    return system


def _components(operator):
    """`operator.components`, without the search where every pair of neighbours is linked."""
    linked = (_inner(g, a, p) for a, (g, p) in enumerate(zip(operator.conductances, operator.periodic, strict=True)))
    if operator.all_free and all((g > 0).all() for g in linked if g.size):
        return np.zeros(operator.shape, dtype=np.int32), 1, np.array([bool((operator.diagonal > 0).any())])
    return operator.components


class _Borrowed:
    """The operator's `apply` without keeping the operator alive (the cache is weak in it)."""

    def __init__(self, operator):
        import weakref

        self._operator = weakref.ref(operator)

    def apply(self, u):
        operator = self._operator()
        assert operator is not None  # whoever holds the cache entry holds the operator
        return operator.apply(u)


# --- the enclosure --------------------------------------------------------------------------------------------------


def _enclose(system: _System, v, forcing, steps: int):
    """(lower, energy, l2, linf, corrected candidate, steps used), or None where nothing can be said."""
    way: _Separable | _Comparison | None = system.separable
    if way is None:
        way = system.general()
        steps = max(steps, 3)
    if way is None or not way.lowest > 0:
        return None
    r, hidden = system.residual(v, forcing)
    if not (system.tame and math.isfinite(hidden)):
        return None
    u, d = v, None
    if steps:
        preconditioner: _Separable | _Comparison = way
        if way.contrast > _MILD:
            preconditioner = system.general()
            way.lowest = max(way.lowest, preconditioner.lowest)  # both are proved; the contrast weakens the first
        u = v + _conjugate_gradients(system, preconditioner, r, steps)
        r, hidden = system.residual(u, forcing)
        d = u - v
    slack, factor, root = 1 + _SUM_SLACK, system.content_factor, math.sqrt(way.lowest)
    # what rounding may have hidden: in r, and in the subtraction d = u - v
    if system.floating.size:
        hidden *= 1 + factor  # what evening out takes from r is rounding too
    allowance = hidden / root
    lost = factor * hidden / way.lowest
    if system.floating.size:
        lost += 4 * _EPS * system.norm(u)  # rounding of the content itself
    lower, upper, z = way.enclose(system.even(r))  # of s' K^-1 s, and the part of K^-1 s along z
    # |K^-1 s|^2 splits into the part along z and a rest, in energy
    rest = factor * math.sqrt(max(0.0, upper - lower + _SUM_SLACK * upper)) / root
    if d is None:
        energy, least = math.sqrt(upper) + allowance, math.sqrt(lower) / slack - allowance
        l2 = min(system.norm(system.centred(z)) + rest, factor * energy / root) + lost
    else:
        allowance += 2 * _EPS * math.sqrt(2 * _sum(system.degree * d * d))
        lost += 2 * _EPS * system.norm(d)
        cross, cross_slack, done = 2 * _sum(d * r), 2 * _SUM_SLACK * _sum(np.abs(d * r)), system.energy(d)
        energy = math.sqrt(max(0.0, done * slack + cross + cross_slack + upper)) + allowance
        least = math.sqrt(max(0.0, done / slack + cross - cross_slack + lower)) / slack - allowance
        around = (system.norm(d) + factor * math.sqrt(upper) / root, system.norm(d + system.centred(z)) + rest)
        l2 = min(*around, factor * energy / root) + lost
    linf = min(l2 / math.sqrt(system.smallest), way.largest(d, system, r, u, forcing))
    if not (math.isfinite(energy) and math.isfinite(l2)):
        return None
    return max(0.0, least), energy * slack, l2 * slack, linf, u, steps


def _conjugate_gradients(system: _System, preconditioner, r, steps: int):
    """The correction after `steps` steps of preconditioned conjugate gradients for K d = r, from d = 0."""
    d = np.zeros_like(r)
    r = system.even(r)
    p, old = None, 0.0
    for _ in range(steps):
        z = system.centred(preconditioner.solve(r))
        new = _sum(r * z)
        if not new > 0:
            break
        p = z if p is None else z + (new / old) * p
        q = np.where(system.free, system.apply(p), 0.0)
        curvature = _sum(p * q)
        if not curvature > 0:
            break
        step = new / curvature
        d = d + step * p
        r = system.even(r - step * q)
        old = new
    return d if np.isfinite(d).all() else np.zeros_like(d)


# --- comparison operators that separate -----------------------------------------------------------------------------


class _Separable:
    """``L = sum_a D_a (T_a x W_b x W_c) + s (W_a x W_b x W_c)``, T tridiagonal, W diagonal; inverted by bases."""

    def __init__(self, system: _System, axes, shift: float):
        self.system, self.axes, self.shift = system, axes, shift
        self.faces = tuple(axis.scale * axis.faces for axis in axes)
        self.walls = tuple(axis.scale * axis.walls for axis in axes)
        self.weights = tuple(axis.weights for axis in axes)
        rows = np.empty((system.free.shape[0] * system.free.shape[1], 3))
        kernels.extremes(
            *system.conductances, system.diagonal, system.periodic, *self.faces, *self.walls, *self.weights, shift, rows
        )
        least, most = float(rows[:, 0].min()), float(rows[:, 1].max())
        self.floats = shift == 0 and not any(w.any() for w in self.walls)
        self.least = least * (1 - 16 * _EPS)
        self.contrast = math.inf if rows[:, 2].any() or not least > 0 else most / least

    def prepare(self) -> "_Separable | None":
        """Build the bases and the eigenvalue bound; None where they are not worth it or cannot be trusted."""
        if not (self.least > 0 and all(axis.affordable for axis in self.axes)):
            return None
        self.bases = [axis.basis() for axis in self.axes]
        pairs = list(zip(self.axes, self.bases, strict=True))
        eigenvalues = (
            sum(axis.scale * basis.values.reshape(_along(a)) for a, (axis, basis) in enumerate(pairs)) + self.shift
        )
        if self.floats:
            eigenvalues[0, 0, 0] = math.inf  # the constant: balanced residuals have no part in it
            lowest = min((axis.scale * basis.gap for axis, basis in pairs if axis.n > 1), default=math.inf)
        else:
            lowest = sum(axis.scale * basis.lowest for axis, basis in pairs) + self.shift
        product = math.prod(w.reshape(_along(a)) for a, w in enumerate(self.weights))
        # in units of their own; single precision where it holds them: the flow's defect is measured, not assumed
        finite = eigenvalues[np.isfinite(eigenvalues)]
        self.unit = float(finite.min(initial=math.inf))
        even = product.min() == product.max()
        single = even and float(finite.max(initial=0.0)) < _SINGLE * self.unit
        self.inverses = (self.unit / eigenvalues).astype(np.float32 if single else np.float64)
        self.root = math.sqrt(float(product.max())) if even else np.sqrt(product)
        self.inverse_weights = np.ascontiguousarray(1 / product)
        self.gentlest = self.least * lowest * (1 - 1e-12)  # of K over the weights; over the volumes:
        self.lowest = self.gentlest / float((self.system.volumes / product).max()) * (1 - 1e-12)
        return self if self.lowest > 0 and math.isfinite(self.unit) else None

    def solve(self, r):
        """L^-1 r, about; where L floats, the solution of zero mean (r balanced)."""
        x = r / self.root
        size = float(np.abs(x).max())
        if not 0 < size < math.inf:
            return np.zeros_like(r)
        x = (x / size).astype(self.inverses.dtype)
        for a, basis in enumerate(self.bases):
            x = basis.forward(x, a)
        x *= self.inverses
        for a, basis in enumerate(self.bases):
            x = basis.backward(x, a)
        return x.astype(np.float64) * (size / self.unit) / self.root

    def enclose(self, s):
        """Lower and upper bound of ``s' K^-1 s``, and the multiple of L^-1 s that is closest to K^-1 s in energy."""
        system = self.system
        z = self.solve(s)
        rows = np.empty((z.shape[0] * z.shape[1], 5))
        kernels.dual_energies(
            *system.conductances, system.diagonal, system.periodic, self.inverse_weights,
            *self.faces, *self.walls, *self.weights, self.shift, s, z, _RESIDUAL_SLACK, rows,
        )  # fmt: skip
        flow, work, power, spread, missed = (_sum(column) for column in rows.T)
        # what the flow misses of s, rounding of its own evaluation included, is bounded by the lowest eigenvalue
        slack = 1 + _SUM_SLACK
        upper = (math.sqrt(flow) + math.sqrt(missed / self.gentlest)) ** 2 * slack
        if not work > 0:
            return 0.0, upper, z
        power = abs(power) - _SUM_SLACK * spread
        lower = max(0.0, power) ** 2 / (work * slack)
        return min(lower, upper), upper, z * (power / work)

    def largest(self, d, system, r, u, forcing) -> float:
        """No comparison function is at hand: no pointwise bound beyond the one that L2 implies."""
        return math.inf


@dataclass(frozen=True)
class _Axis:
    """One axis of a separable operator: `scale` times (unit faces and walls), over `weights`."""

    weights: np.ndarray  # (n,)
    faces: np.ndarray  # (n + 1,) unit conductances; ends are 0, or equal where periodic
    lo: float  # unit wall conductances
    hi: float
    periodic: bool
    scale: float

    @property
    def n(self) -> int:
        return len(self.weights)

    @property
    def walls(self) -> np.ndarray:
        w = np.zeros(self.n)
        w[0] += self.lo
        w[-1] += self.hi
        return w

    @property
    def kind(self) -> str | None:
        """Name of the transform that diagonalises equal cells; None where there is none."""
        f = self.faces[1:-1]
        if self.n < 3 or self.periodic or np.ptp(self.weights) > 0 or np.ptp(f) > 1e-13 * f[0]:
            return None
        names = []
        for wall in (self.lo, self.hi):
            if wall == 0:
                names.append("flux")
            elif abs(wall - 2 * f[0]) <= 1e-13 * f[0]:
                names.append("value")
            else:
                return None
        return "-".join(names)

    @property
    def affordable(self) -> bool:
        return self.n <= _LARGEST_BASIS or self.kind is not None

    def basis(self) -> "_Dense | _Transform":
        if self.n > _TRANSFORM_FROM and self.kind is not None:
            return _Transform(self.kind, self.n, float(self.faces[1]) / float(self.weights[0]))
        return _dense(self.weights.tobytes(), self.faces.tobytes(), self.lo, self.hi, self.periodic)


class _Dense:
    """Orthonormal eigenvectors of W^-1/2 T W^-1/2; `lowest` and `gap` never exceed the first and second eigenvalue."""

    def __init__(self, weights, faces, lo, hi, periodic):
        n = len(weights)
        if n == 1:
            self.q = None
            self.values = np.array([(lo + hi) / weights[0]])
            self.lowest, self.gap = float(self.values[0]) * (1 - 4 * _EPS), math.inf
            return
        matrix = np.zeros((n, n))
        i = np.arange(n - 1)
        matrix[i, i + 1] = matrix[i + 1, i] = -faces[1:-1]
        if periodic:
            matrix[0, -1] -= faces[0]
            matrix[-1, 0] -= faces[0]
        diagonal = faces[:-1] + faces[1:]
        diagonal[0] += lo
        diagonal[-1] += hi
        matrix[np.arange(n), np.arange(n)] = diagonal
        root = np.sqrt(weights)
        values, vectors = np.linalg.eigh(matrix / np.outer(root, root))
        self.q = {kind: np.ascontiguousarray(vectors.astype(kind)) for kind in ("f4", "f8")}
        self.values = np.maximum(values, 0.0)
        # an eigenvalue lies within ||T q - value W q|| of the computed one; this is far above the rounding of eigh
        error = 64 * n * _EPS * float(np.abs(values).max())
        self.gap = max(0.0, float(values[1]) - error)
        if lo == hi == 0:
            self.values[0] = 0.0
            self.lowest = 0.0
        else:
            x = np.abs(vectors[:, 0]) / root
            applied = matrix @ x - 8 * n * _EPS * (np.abs(matrix) @ x)
            ratio = float((applied / (weights * x)).min()) if (x > 0).all() else 0.0  # Collatz-Wielandt
            self.lowest = max(0.0, ratio, float(values[0]) - error)

    def forward(self, x, axis):
        return x if self.q is None else _multiply(self.q[x.dtype.str[1:]].T, x, axis)

    def backward(self, x, axis):
        return x if self.q is None else _multiply(self.q[x.dtype.str[1:]], x, axis)


class _Transform:
    """The same for equal cells between value and flux sides: sine and cosine transforms with known eigenvalues."""

    def __init__(self, kind: str, n: int, strength: float):
        self.name, self.type = {
            "value-value": ("dst", 2),
            "flux-flux": ("dct", 2),
            "value-flux": ("dst", 4),
            "flux-value": ("dct", 4),
        }[kind]
        k = np.arange(n)
        angles = {"value-value": (k + 1) / (2 * n), "flux-flux": k / (2 * n)}.get(kind, (2 * k + 1) / (4 * n))
        self.values = 4 * strength * np.sin(np.pi * angles) ** 2
        self.lowest, self.gap = (float(v) * (1 - 1e-12) for v in self.values[:2])

    def forward(self, x, axis):
        import scipy.fft

        return getattr(scipy.fft, self.name)(x, self.type, axis=axis, norm="ortho", overwrite_x=True)

    def backward(self, x, axis):
        import scipy.fft

        return getattr(scipy.fft, f"i{self.name}")(x, self.type, axis=axis, norm="ortho", overwrite_x=True)


@lru_cache(maxsize=64)
def _dense(weights: bytes, faces: bytes, lo: float, hi: float, periodic: bool) -> _Dense:
    return _Dense(np.frombuffer(weights), np.frombuffer(faces), lo, hi, periodic)


def _comparison(system: _System) -> _Separable | None:
    """The comparison operator: constant D per axis; with profiles along the axes where that is much closer (layers)."""
    if not system.free.all() or system.n_components != 1:
        return None
    grid, periodic, shape = system.operator.grid, system.periodic, system.free.shape
    weights, faces, ends = _geometry(grid, periodic, shape)
    ratios = [
        _inner(g, a, periodic[a]) / _inner(_outer(faces[a], weights, a), a, periodic[a]) if shape[a] > 1 else None
        for a, g in enumerate(system.conductances)
    ]
    ranges = [(1.0, 1.0) if x is None else (float(x.min()), float(x.max())) for x in ratios]
    if any(not low > 0 for low, _ in ranges):
        return None
    flat = _assemble(system, weights, faces, ends, [0.5 * (math.log(low) + math.log(high)) for low, high in ranges])
    if flat is not None and flat.contrast <= _LAYERED:
        return flat.prepare()
    logs = [None if x is None else np.log(x) for x in ratios]
    layered = _assemble(system, *_profiles(logs, weights, faces, ends, periodic))
    best = flat
    if layered is not None and (flat is None or layered.contrast < 0.25 * flat.contrast):
        best = layered
    return best.prepare() if best is not None else None


def _assemble(system, weights, faces, ends, levels) -> _Separable | None:
    """L with the given geometry; its walls and its loss are fitted to those of K."""
    shape, periodic = system.free.shape, system.periodic
    scales = [math.exp(level) for level in levels]
    w = system.diagonal
    product = math.prod(np.asarray(x).reshape(_along(a)) for a, x in enumerate(weights))
    relative = w / product
    core = relative[
        tuple(slice(1, -1) if n > 2 and not p else slice(None) for n, p in zip(shape, periodic, strict=True))
    ]
    least = float(core.min()) if core.size else 0.0
    shift = math.sqrt(least * float(core.max())) if least > 0 else 0.0
    axes = []
    for a in range(3):
        lo = hi = 0.0
        if shape[a] > 1 and not periodic[a]:
            lo = _wall(relative, shift, weights, a, 0, scales[a], ends[a][0], shape, periodic)
            hi = _wall(relative, shift, weights, a, -1, scales[a], ends[a][1], shape, periodic)
        axes.append(
            _Axis(
                np.ascontiguousarray(weights[a]), np.ascontiguousarray(faces[a]), lo, hi, bool(periodic[a]), scales[a]
            )
        )
    candidate = _Separable(system, axes, shift)
    anchored = bool((w > 0).any())
    if candidate.floats == anchored or not candidate.least > 0:
        return None  # L must be singular exactly when K is
    return candidate


def _wall(relative, shift, weights, axis, end, scale, value_wall, shape, periodic) -> float:
    """Unit wall conductance of one side: of a value side where K is near it, else near the middle of K's."""
    index = [slice(1, -1) if n > 2 and not p else slice(None) for n, p in zip(shape, periodic, strict=True)]
    index[axis] = slice(0, 1) if end == 0 else slice(-1, None)
    here = (relative[tuple(index)] - shift) * weights[axis][end] / scale
    least, most = float(here.min()), float(here.max())
    if not least > 1e-9 * max(most, shift * float(weights[axis][end]) / scale):
        return 0.0
    fitted = math.sqrt(least * most)
    if value_wall > 0 and 0.25 <= fitted / value_wall <= 4.0:
        return value_wall
    return 2.0 ** (round(4 * math.log2(fitted)) / 4)  # rounded, so that a basis serves many problems


def _geometry(grid, periodic, shape):
    """Per padded axis, for D = 1: weights (n,), face conductances (n + 1,), conductances of value walls (lo, hi)."""
    lead = 3 - grid.ndim
    weights = [np.ones(1) for _ in range(lead)]
    volumes = np.asarray(grid.volumes)
    corner = (0,) * grid.ndim
    for a in range(grid.ndim):
        line = np.ascontiguousarray(volumes[tuple(slice(None) if b == a else 0 for b in range(grid.ndim))])
        weights.append(line if a == 0 else line / volumes[corner])
    faces, ends = [np.zeros(2) for _ in range(lead)], [(0.0, 0.0)] * lead
    for a in range(grid.ndim):
        width = grid.widths[a]
        n = grid.shape[a]
        area = np.broadcast_to(grid.face_areas(a), [m + (b == a) for b, m in enumerate(grid.shape)])
        area = area[tuple(slice(None) if b == a else 0 for b in range(grid.ndim))]
        area = area / math.prod(float(weights[lead + b][0]) for b in range(grid.ndim) if b != a)
        unit = np.zeros(n + 1)
        unit[1:-1] = area[1:-1] / (0.5 * (width[1:] + width[:-1]))
        if periodic[lead + a]:
            unit[0] = unit[-1] = area[0] / (0.5 * (width[0] + width[-1]))
        faces.append(unit)
        ends.append((float(area[0] / (0.5 * width[0])), float(area[-1] / (0.5 * width[-1]))))
    return weights, faces, ends


def _profiles(logs, weights, faces, ends, periodic, sweeps: int = 4):
    """Separable fit of the conductances, taking out the middle of the range plane by plane: the range never grows."""
    logs = [None if x is None else x.copy() for x in logs]
    weight_logs = [np.zeros(len(w)) for w in weights]
    face_logs = [np.zeros(max(x.shape[a], 1)) if x is not None else np.zeros(1) for a, x in enumerate(logs)]
    active = [a for a, x in enumerate(logs) if x is not None]
    for _ in range(sweeps):
        for a in active:
            others = tuple(b for b in range(3) if b != a)
            middle = 0.5 * (logs[a].min(axis=others) + logs[a].max(axis=others))
            face_logs[a] += middle
            logs[a] -= middle.reshape(_along(a))
            # the weight along `a` multiplies the faces of every other axis
            across = [b for b in active if b != a]
            if across:
                least = np.min([logs[b].min(axis=tuple(c for c in range(3) if c != a)) for b in across], axis=0)
                most = np.max([logs[b].max(axis=tuple(c for c in range(3) if c != a)) for b in across], axis=0)
                middle = 0.5 * (least + most)
                weight_logs[a] += middle
                for b in across:
                    logs[b] -= middle.reshape(_along(a))
    new_weights = [w * np.exp(x) for w, x in zip(weights, weight_logs, strict=True)]
    new_faces, new_ends = [], []
    for a, unit in enumerate(faces):
        unit = unit.copy()
        factors = np.exp(face_logs[a])
        if logs[a] is None:
            new_faces.append(unit)
            new_ends.append(ends[a])
            continue
        if periodic[a]:
            unit[:-1] *= factors
            unit[-1] = unit[0]
        else:
            unit[1:-1] *= factors
        new_faces.append(unit)
        new_ends.append((0.0, 0.0))  # walls are fitted
    levels = [0.0 if x is None else _middle(x) for x in logs]
    return new_weights, new_faces, new_ends, levels


# --- where nothing separates: multigrid and a comparison function ---------------------------------------------------


class _Comparison:
    """x > 0 with K x > 0 bounds every remainder; multigrid makes the remainder small."""

    contrast = 0.0  # its own preconditioner is always good enough

    def __init__(self, system: _System):
        self.system = system
        self.anchor = self._anchors()
        self.cycle = self._preconditioner()
        self.x, self.image = self._function()
        self.lowest = 0.0
        if self.x is not None:
            self.lowest = float((self.image[system.free] / (system.volumes * self.x)[system.free]).min()) * (1 - 1e-12)

    def _anchors(self):
        """A diagonal at one cell of each floating component: balanced right-hand sides do not see it."""
        system = self.system
        anchor = np.where(system.free, 0.0, 1.0)
        flat_labels, flat_degree = system.labels.ravel(), system.degree.ravel()
        for component in system.floating:
            cells = np.flatnonzero(flat_labels == component)
            best = cells[np.argmax(flat_degree[cells])]
            anchor.ravel()[best] = flat_degree[best] or 1.0
        return anchor

    def _preconditioner(self):
        from .multigrid import Multigrid

        system = self.system
        diagonal = system.diagonal
        if system.floating.size:
            # a small shift over floating components makes K definite without changing what it preconditions
            size = self._diameter()
            slope = float(np.max(system.degree[system.free] / system.volumes[system.free]))
            shift = np.zeros(system.n_components)
            shift[system.floating] = slope / size**2
            diagonal = diagonal + system.spread(system.volumes, shift[system.floating])
        return Multigrid(system.conductances, diagonal, system.periodic)

    def _diameter(self) -> float:
        return 4.0 * max(self.system.free.shape)

    def solve(self, r):
        out = np.empty_like(r)
        self.cycle.cycle(np.ascontiguousarray(r), out)
        return np.where(self.system.free, out, 0.0)

    def _apply(self, u):
        return self.system.apply(u) + self.anchor * u

    def _function(self):
        """x from K x = V, accurate to half of V everywhere, and a lower bound of K x; (None, None) if not found."""
        system = self.system
        target = np.where(system.free, system.volumes, 0.0)
        x = np.zeros_like(target)
        r = target.copy()
        p, old = None, 0.0
        for _ in range(200):
            z = self.solve(r)
            new = _sum(r * z)
            if not new > 0:
                break
            p = z if p is None else z + (new / old) * p
            q = np.where(system.free, self._apply(p), 0.0)
            step = new / _sum(p * q)
            x, r, old = x + step * p, r - step * q, new
            if (r <= 0.5 * target)[system.free].all() and (x > 0)[system.free].all():
                image = np.where(system.free, self._apply(x), 1.0)
                image = image - 2 * _RESIDUAL_SLACK * (2 * (system.degree + self.anchor) * x)
                if (image > 0)[system.free].all():
                    return np.where(system.free, x, 1.0), np.where(system.free, image, 1.0)
        return None, None

    def enclose(self, s):
        """Lower and upper bound of ``s' K^-1 s``, and the multiple of one cycle that is closest to K^-1 s in energy."""
        system = self.system
        z = system.centred(self.solve(s))
        t = np.where(system.free, s - self._apply(z), 0.0)
        t_size = np.abs(t) + 2 * _RESIDUAL_SLACK * (np.abs(s) + 2 * (system.degree + self.anchor) * np.abs(z))
        slack = 1 + _SUM_SLACK
        crude = (
            min(_root_sum(1 / system.volumes, t_size) ** 2 / self.lowest, _sum(t_size * self.x) * self._ratio(t_size))
            * slack
        )
        # s = K z + t: the energy of K^-1 s is at most that of z plus that of K^-1 t
        work = system.energy(z) + _sum(self.anchor * z * z)
        upper = (math.sqrt(work * slack) + math.sqrt(crude)) ** 2
        identity = work * slack + 2 * _sum(z * t) + 2 * _sum(np.abs(z) * (t_size - np.abs(t))) + crude
        upper = min(upper, max(identity, 0.0) + _SUM_SLACK * (work + _sum(np.abs(z * t))))
        pure = system.energy(z)
        if not pure > 0:
            return 0.0, upper, z
        power = abs(_sum(s * z)) - _SUM_SLACK * _sum(np.abs(s * z))
        lower = max(0.0, power) ** 2 / (pure * slack)
        return min(lower, upper), upper, z * (power / pure)

    def _ratio(self, t_size) -> float:
        return float((t_size / self.image)[self.system.free].max())

    def largest(self, d, system, r, u, forcing) -> float:
        """max |d + K^-1 s| by the comparison function; infinite where a component floats."""
        if system.floating.size:
            return math.inf
        beta = self._ratio(np.abs(r) + system.rounding(u, forcing))
        return float((np.abs(d) + beta * self.x)[system.free].max()) * (1 + _SUM_SLACK)


# --- small things ---------------------------------------------------------------------------------------------------


def _candidate(operator, candidate):
    a = np.asarray(candidate)
    if a.dtype.kind not in "fiu":
        raise ProblemError(f"the candidate has dtype {a.dtype}; give an array of real numbers.")
    if a.shape != tuple(operator.grid.shape):
        raise ProblemError(f"the candidate has shape {a.shape}, but the grid has {tuple(operator.grid.shape)}.")
    return operator.pad(a.astype(float))


def _steps(steps) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise ProblemError(f"steps = {steps!r} must be an int >= 0.")
    return int(steps)


def _require_linear_and_steady(operator) -> None:
    if not operator.problem.linear:
        raise ProblemError(
            "a guaranteed bound needs a linear problem; here D, a side or a reaction depends on u. Use ds.equilibrium."
        )
    if not (operator.autonomous and operator.forcing.constant):
        raise ProblemError(
            "a problem whose coefficients, sides or sources change in time has no equilibrium to bound against."
        )


def _nothing(operator, v, steps) -> Bound:
    return Bound(0.0, math.inf, math.inf, math.inf, math.inf, steps, operator.unpad(v))


def _along(axis: int) -> tuple[int, ...]:
    return tuple(-1 if a == axis else 1 for a in range(3))


def _cut(a, axis, index):
    return a[(slice(None),) * axis + (index,)]


def _inner(g, axis, periodic):
    """The faces that join two cells: all but the two ends; with periodic sides the closing face is the first."""
    return _cut(g, axis, slice(0, -1)) if periodic else _cut(g, axis, slice(1, -1))


def _outer(faces, weights, axis):
    cross = math.prod(np.asarray(w).reshape(_along(b)) for b, w in enumerate(weights) if b != axis)
    return faces.reshape(_along(axis)) * cross


def _jumps(u, axis, periodic):
    """u_i - u_(i-1) over the faces of `_inner`; None where the axis has one cell."""
    if u.shape[axis] == 1:
        return None
    if periodic:
        return u - np.roll(u, 1, axis)
    return np.diff(u, axis=axis)


def _multiply(q, r, axis):
    if axis == 2:
        return r @ q.T
    if axis == 1:
        return q @ r
    return (q @ r.reshape(r.shape[0], -1)).reshape(r.shape)


def _middle(x) -> float:
    return 0.5 * (float(x.min()) + float(x.max()))


def _sum(a) -> float:
    return float(np.sum(np.ascontiguousarray(a).ravel()))  # pairwise over one flat array: error log(n) eps


def _root_sum(weights, a) -> float:
    """sqrt(sum weights a^2), safe from overflow and underflow."""
    largest = float(np.abs(a).max(initial=0.0))
    if not 0 < largest < math.inf:
        return largest
    return largest * math.sqrt(_sum(weights * (a / largest) ** 2))
