"""Edge-preserving denoising: nonlinear diffusion that slows down where the image is steep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data import number
from ..errors import ProblemError
from ..grid import Grid
from ..problem import OfGradient, Problem
from ..store import write_figure

STRONGEST = 0.05  # share of the pixels that counts as edges when the result is judged


@dataclass(frozen=True, eq=False)
class Denoised:
    """A denoised image and what was done to it, in the image's own grey values."""

    image: np.ndarray = field(repr=False)
    noise_before: float  # estimated standard deviation of the noise
    noise_after: float
    edges_kept: float  # slope left on the strongest 5 % of the edges, 1 = all; measured on smoothed images
    contrast: float  # slope at which diffusion is halved [grey values per pixel]
    until: float  # diffusion time [pixels^2]
    steps: int
    original: np.ndarray = field(repr=False)

    def explain(self) -> str:
        """The numbers in words."""
        return (
            f"noise {self.noise_before:.4g} -> {self.noise_after:.4g} ({self.noise_after / max(self.noise_before, 1e-300):.0%}"
            f" left), edges {self.edges_kept:.1%} kept; contrast {self.contrast:.4g} per pixel, {self.steps} steps to t = "
            f"{self.until:.3g} pixels^2"
        )

    def plot(self, path=None):
        """Before, after and what was removed; returns the figure, and saves it where a path is given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        axes = figure.subplots(1, 3)
        low, high = np.percentile(self.original, [0.5, 99.5])
        for place, title, values in ((axes[0], "before", self.original), (axes[1], "after", self.image)):
            place.imshow(values, cmap="gray", vmin=low, vmax=high)
            place.set_title(title)
        removed = self.original - self.image
        reach = 4 * max(self.noise_before, 1e-300)
        shown = axes[2].imshow(removed, cmap="RdBu_r", vmin=-reach, vmax=reach)
        axes[2].set_title("removed")
        figure.colorbar(shown, ax=axes[2], label="grey values")
        for place in axes:
            place.set_axis_off()
        if path is not None:
            write_figure(figure, path, dpi=150)
        return figure


def denoise(
    image,
    *,
    noise: float | None = None,
    contrast: float | None = None,
    until: float | None = None,
    edge_preserving: bool = True,
) -> Denoised:
    """Remove noise from an image and keep its edges.

    Solves ``u_t = div(D(|grad u|) grad u)`` with ``D = 1 / (1 + (|grad u| / contrast)^2)`` by explicit steps
    that the step check proves stable, on pixels of size 1 with insulated borders, so the mean grey value is
    kept.

    Parameters
    ----------
    image
        Grey values, 2-D, or the path of an image.
    noise
        Standard deviation of the noise; estimated by `noise_level` by default.
    contrast
        Slope that halves the diffusivity [grey values per pixel]; twice the noise by default: between two
        pixels noise alone makes a slope of 1.4 times itself.
    until
        Diffusion time [pixels^2]. By default the run ends when what it removed has the variance of the noise.
    edge_preserving
        False: constant D, the linear filter (a Gaussian blur) to compare with.

    Raises
    ------
    ProblemError
        If the image is not 2-D, holds NaN or is constant.

    Notes
    -----
    P. Perona, J. Malik, IEEE Trans. PAMI 12 (1990) 629. Stop where the removed part has the variance of the
    noise: V. A. Morozov's discrepancy principle, in this use J. Weickert, Anisotropic Diffusion in Image
    Processing, 1998.
    """
    from ..simulate import simulate

    values = _grey(image)
    sigma = noise_level(values) if noise is None else number("noise", noise, least=0.0)
    if sigma == 0:
        return Denoised(values.copy(), 0.0, 0.0, 1.0, 0.0, 0.0, 0, values)
    slope = 2 * sigma if contrast is None else number("contrast", contrast, above=0.0)
    law = OfGradient(lambda s: 1 / (1 + (s / slope) ** 2)) if edge_preserving else 1.0
    problem = Problem(Grid(values.shape, tuple(map(float, values.shape))), law)
    enough = None if until is not None else (lambda t, u: float(np.mean((u - values) ** 2)) >= sigma**2)
    # Noise decays as 1/(8 pi t): after 10 pixels^2 nothing of it is left, whatever the stop rule thinks.
    end = 10.0 if until is None else number("until", until, above=0.0)
    # A quarter of the stable step: the stop rule is asked after every step, and noise falls fast in the first
    # ones.
    steps = max(1, int(np.ceil(end / (0.25 * 0.25))))
    run = simulate(problem, values, end, scheme="ftcs", dt=end / steps, save="final", stop=enough, progress=False)
    result = run.final
    taken = round(run.t[-1] / (end / steps))
    return Denoised(
        result, sigma, noise_level(result), edges_kept(values, result), slope, float(run.t[-1]), taken, values
    )


def noise_level(image) -> float:
    """Standard deviation of the white noise in an image, robust against its content.

    The median absolute response to the mask [1 -2 1] x [1 -2 1], blind to everything that is locally linear
    along either axis (J. Immerkaer, Computer Vision and Image Understanding 64 (1996) 300, with the median
    for the mean). Responses that are exactly zero come from flat, clipped background and are left out.
    """
    u = _grey(image)
    response = np.diff(np.diff(u, 2, axis=0), 2, axis=1)
    response = np.abs(response[response != 0])
    if response.size == 0:
        return 0.0
    return float(
        np.median(response) / 0.6744897501960817 / 6
    )  # 0.67: median of |N(0, 1)|; 6: root of the mask's squares


def edges_kept(before, after) -> float:
    """Slope of `after` over that of `before` along the steepest 5 % of `before`, both smoothed to see edges,
    not noise."""
    from scipy.ndimage import gaussian_gradient_magnitude

    slopes = [gaussian_gradient_magnitude(np.asarray(u, float), 1.5) for u in (before, after)]
    steep = slopes[0] >= np.quantile(slopes[0], 1 - STRONGEST)
    return float(slopes[1][steep].sum() / slopes[0][steep].sum())


def sample_slice() -> np.ndarray:
    """An MRI slice of a head that comes with matplotlib: 256 x 256, grey values 0 to 215 (big-endian in its
    file)."""
    from matplotlib.cbook import get_sample_data

    sample: Any = get_sample_data("s1045.ima.gz")
    with sample as file:
        return np.frombuffer(file.read(), ">u2").reshape(256, 256).astype(float)


def _grey(image) -> np.ndarray:
    if isinstance(image, str | Path):
        from ..store import read_image

        image = read_image(image)
    values = np.asarray(image)
    if values.ndim != 2 or min(values.shape, default=0) < 3 or values.dtype.kind not in "fiub":
        raise ProblemError(
            f"image has shape {values.shape} and dtype {values.dtype}; give grey values, at least 3 x 3."
        )
    values = values.astype(float)
    if not np.isfinite(values).all():
        raise ProblemError("image holds NaN or infinite values; mask or fill them first.")
    return values
