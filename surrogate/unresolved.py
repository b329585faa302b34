"""What samples of a two-phase coefficient leave open: the error that no model of them can go below.

Coefficients known at points only say little about what lies between. Where the phases are the signs of a Gaussian field
(as in `darcy`), fields between the points can be drawn given the signs at the points, and each has an equilibrium of its
own. The spread of these equilibria is the error that remains for a predictor that knows the distribution exactly; their
mean is the best prediction in the mean square.
"""

from dataclasses import dataclass

import numpy as np

from diffsim.errors import ProblemError

from .sampling import amplitudes

LAGS = 4  # of the correlation that `fitted` matches


@dataclass(frozen=True)
class Prior:
    """Gaussian fields of zero mean on the unit square: cosine modes (k1, k2) != 0 below `modes`, with coefficients
    ``(pi^2 (k1^2 + k2^2) + tau^2)^(-alpha/2)``, as `Spec` draws them, scaled to mean variance one."""

    tau: float
    alpha: float
    modes: int = 128

    def amplitudes(self) -> np.ndarray:
        """(modes, modes)."""
        return amplitudes(self.tau, self.alpha, 2, self.modes)

    def basis(self, places: np.ndarray) -> np.ndarray:
        """Orthonormal cosines at places in [0, 1], (n, modes)."""
        made = np.cos(np.pi * np.outer(places, np.arange(self.modes)))
        made[:, 1:] *= np.sqrt(2.0)
        return made

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of the field at the points (a_i, a_j) and (b_k, b_l): (len(a)^2, len(b)^2)."""
        p, q, power = self.basis(a), self.basis(b), self.amplitudes() ** 2
        one_axis = np.einsum("ia,ka->ika", p, q)
        made = np.einsum("ika,ab,jlb->ijkl", one_axis, power, one_axis, optimize=True)
        return made.reshape(len(a) ** 2, len(b) ** 2)


def fitted(phases: np.ndarray, places: np.ndarray) -> Prior:
    """The prior whose signs correlate like `phases`, over the first four lags along both axes.

    Signs of two Gaussian numbers of correlation r correlate as ``2/pi arcsin r`` (Sheppard 1899).

    Parameters
    ----------
    phases
        (n, m, m) bool.
    places
        (m,), where they were sampled, equally spaced, the same along both axes.
    """
    from scipy.optimize import minimize

    signs = 2.0 * np.asarray(phases, dtype=float) - 1.0
    m = len(places)
    if signs.ndim != 3 or signs.shape[1:] != (m, m) or m < 2 * LAGS + 1:
        raise ProblemError(
            f"phases of shape {signs.shape} at {m} places; give (n, m, m) with m >= {2 * LAGS + 1} places per axis."
        )
    middle = np.arange((m - LAGS) // 4, m - LAGS - (m - LAGS) // 4)
    seen = np.array([
        0.5 * (np.mean(signs[:, middle] * signs[:, middle + k]) + np.mean(signs[:, :, middle] * signs[:, :, middle + k]))
        for k in range(1, LAGS + 1)
    ])  # fmt: skip

    def expected(prior: Prior) -> np.ndarray:
        c = prior.covariance(places, places)
        scale = np.sqrt(c.diagonal())
        r = (c / scale / scale[:, None]).reshape(m, m, m, m)
        i, j = np.meshgrid(middle, np.arange(m), indexing="ij")
        return np.array([np.mean(2 / np.pi * np.arcsin(np.clip(r[i, j, i + k, j], -1, 1))) for k in range(1, LAGS + 1)])

    def misfit(theta: np.ndarray) -> float:
        return float(((expected(Prior(np.exp(theta[0]), 1.0 + np.exp(theta[1]), modes=64)) - seen) ** 2).sum())

    best = minimize(
        misfit, [np.log(6.0), 0.0], method="Nelder-Mead", options={"maxiter": 80, "xatol": 1e-3, "fatol": 1e-9}
    )
    return Prior(float(np.exp(best.x[0])), float(1.0 + np.exp(best.x[1])))


def drawn(
    prior: Prior, phases: np.ndarray, places: np.ndarray, resolution: int, count: int, seed: int = 0, sweeps: int = 500
) -> np.ndarray:
    """Phases on a finer grid given those at the places: (n, count, resolution, resolution) bool.

    The field at the places by Gibbs sampling of the truncated normal (Geweke 1991), `count` independent chains per item;
    between the places by conditioning a free draw on it (Matheron's rule).
    """
    from scipy.special import ndtr, ndtri

    rng = np.random.default_rng(seed)
    items, m = len(phases), len(places)
    signs = np.repeat(2.0 * np.asarray(phases, dtype=float).reshape(items, m * m) - 1.0, count, axis=0)
    # The jitter is the variance that single precision would resolve; it keeps the smooth covariance invertible.
    covariance = prior.covariance(places, places) + 1e-8 * np.eye(m * m)
    precision = np.linalg.inv(covariance)
    spread = 1.0 / np.sqrt(precision.diagonal())
    g = 0.5 * signs
    for _ in range(sweeps):
        for i in range(m * m):
            mean = g[:, i] - (g @ precision[i]) * spread[i] ** 2
            # a normal number above a: by the upper tail, which keeps its digits where a is large
            a = -signs[:, i] * mean / spread[i]
            above = -ndtri(np.maximum(rng.random(len(g)), 1e-16) * np.maximum(ndtr(-a), 1e-300))
            g[:, i] = mean + signs[:, i] * spread[i] * np.maximum(above, a)
    fine = (np.arange(resolution) + 0.5) / resolution
    p, q, spread_of_modes = prior.basis(places), prior.basis(fine), prior.amplitudes()
    kriging = prior.covariance(fine, places) @ precision
    made = np.empty((len(g), resolution, resolution), dtype=bool)
    for k, at_places in enumerate(g):
        modes = rng.standard_normal(spread_of_modes.shape) * spread_of_modes
        correction = kriging @ (at_places - (p @ modes @ p.T).ravel())
        made[k] = q @ modes @ q.T + correction.reshape(resolution, resolution) >= 0
    return made.reshape(items, count, resolution, resolution)


@dataclass(frozen=True)
class Floor:
    """What remains open, per item.

    Attributes
    ----------
    mean
        (n, m, m), the best prediction in the mean square, at the places.
    error
        (n,), expected relative error of the best prediction, measured as each draw's distance to the mean of the others.
    apart
        (n,), mean relative distance of one draw to another: how different fields of the same samples are.
    """

    mean: np.ndarray
    error: np.ndarray
    apart: np.ndarray


def floor(draws: np.ndarray, values: tuple[float, float], places: np.ndarray) -> Floor:
    """Equilibria (f = 1, zero sides) of drawn phases, compared at the places.

    Parameters
    ----------
    draws
        (n, count, r, r) bool.
    values
        D where False, D where True.
    """
    import diffsim

    count, r = draws.shape[1:3]
    if count < 3:
        raise ProblemError(f"{count} draws per item; the spread needs at least 3.")
    grid = diffsim.Grid((r, r), (1.0, 1.0))
    sides = {"x": diffsim.Dirichlet(0.0), "y": diffsim.Dirichlet(0.0)}
    result = []
    for item in draws:
        problems = [diffsim.Problem(grid, np.where(d, values[1], values[0]), source=1.0, boundary=sides) for d in item]
        u = np.stack([_at(e.u, places) for e in diffsim.equilibrium(problems, tol=1e-6)])
        mean = u.mean(axis=0)
        size = np.linalg.norm(u, axis=(1, 2))
        left_out = np.linalg.norm(u - mean, axis=(1, 2)) * count / (count - 1)
        pairs = np.linalg.norm(u[1:] - u[:-1], axis=(1, 2)) / size[1:]
        result.append((mean, np.mean(left_out / size), np.mean(pairs)))
    mean, error, apart = (np.array(x) for x in zip(*result, strict=True))
    return Floor(mean, error, apart)


def _at(u: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values at (places x places) of a field at cell centres that is 0 on the sides; bilinear."""
    from scipy.interpolate import RegularGridInterpolator

    centres = np.concatenate([[0.0], (np.arange(len(u)) + 0.5) / len(u), [1.0]])
    return RegularGridInterpolator((centres, centres), np.pad(u, 1))(
        np.stack(np.meshgrid(places, places, indexing="ij"), -1)
    )
