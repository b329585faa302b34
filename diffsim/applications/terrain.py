"""Hillslope diffusion: soil creeps downhill in proportion to slope, so elevation obeys the heat equation
(Culling 1960)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..grid import Grid
from ..store import write_figure

METRES_PER_DEGREE = 111_195.0  # of latitude, on a sphere of 6371 km
CREEP = 0.01  # m^2/yr: within the 0.1 to 15 m^2/kyr that Hanks (2000) collects for dated scarps


def fault_scarp() -> tuple[Grid, np.ndarray]:
    """The elevation model of the Jacksboro fault that matplotlib ships (SRTM): its grid [m] and elevations
    [m].

    Axis 0 is west to east, axis 1 south to north; 403 x 344 cells of about 74 x 93 m.
    """
    from matplotlib.cbook import get_sample_data

    sample: Any = get_sample_data("jacksboro_fault_dem.npz")
    north_first = sample["elevation"]
    latitude = math.radians(0.5 * (float(sample["ymin"]) + float(sample["ymax"])))
    dx = float(sample["dx"]) * METRES_PER_DEGREE * math.cos(latitude)
    dy = float(sample["dy"]) * METRES_PER_DEGREE
    elevation = np.ascontiguousarray(north_first[::-1].T, dtype=float)
    shape = elevation.shape
    return Grid(shape=shape, lengths=(shape[0] * dx, shape[1] * dy)), elevation


def plot_relief(grid: Grid, surfaces: Sequence[np.ndarray], titles: Sequence[str], path: str | Path | None = None):
    """Shaded relief of elevations [m] side by side on one colour scale; returns the Figure."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LightSource, Normalize
    from matplotlib.figure import Figure

    light = LightSource(azdeg=315, altdeg=45)
    norm = Normalize(float(np.nanmin(surfaces[0])), float(np.nanmax(surfaces[0])))
    cmap = colormaps["cividis"]
    width = 4.6 * len(surfaces)
    figure = Figure(figsize=(width, 4.8), layout="compressed")
    axes = figure.subplots(1, len(surfaces), sharey=True, squeeze=False)[0]
    extent = (0.0, grid.lengths[0] / 1000, 0.0, grid.lengths[1] / 1000)
    for ax, surface, title in zip(axes, surfaces, titles, strict=True):
        clipped = np.clip(surface, norm.vmin, norm.vmax).T
        shaded = light.shade(
            clipped,
            cmap=cmap,
            norm=norm,
            vert_exag=4,
            dx=grid.spacing[0],
            dy=-grid.spacing[1],
            blend_mode="soft",
        )
        ax.imshow(shaded, origin="lower", extent=extent)
        ax.set(title=title, xlabel="east [km]")
    axes[0].set_ylabel("north [km]")
    figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes), label="elevation [m]", shrink=0.8)
    if path is not None:
        write_figure(figure, path, dpi=130)
    return figure
