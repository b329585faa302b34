"""Heat flow through a wall of layers (EN ISO 6946), by the general solver on a grid whose faces are the
interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..boundary import Dirichlet, Robin
from ..data import number
from ..errors import ProblemError
from ..grid import Grid
from ..problem import Problem
from ..store import write_figure
from .materials import Material, material

INSIDE_RESISTANCE = 0.13  # m^2 K/W, horizontal heat flow, EN ISO 6946:2017 table 7
OUTSIDE_RESISTANCE = 0.04


@dataclass(frozen=True, eq=False)
class WallSection:
    """A wall in its steady state."""

    u_value: float  # thermal transmittance [W/(m^2 K)]; NaN without a temperature difference
    flux: float  # heat flow from inside to outside [W/m^2]
    resistance: float  # of the layers and contacts, without surfaces [m^2 K/W]
    interfaces: np.ndarray  # (layers + 1, 2): temperature on the inner and outer side of every interface
    layers: tuple[tuple[Material, float], ...]  # (material, thickness [m]), inside first
    problem: Problem = field(repr=False)
    x: np.ndarray = field(repr=False)  # (n,) cell centres, from the inner face [m]
    u: np.ndarray = field(repr=False)  # (n,) temperatures there

    def explain(self) -> str:
        """The section in words, one line per layer."""
        lines = [f"U = {self.u_value:.4g} W/(m^2 K), heat flow {self.flux:.4g} W/m^2"]
        for k, (what, thickness) in enumerate(self.layers):
            t_in, t_out = self.interfaces[k, 1], self.interfaces[k + 1, 0]
            lines.append(
                f"  {1000 * thickness:7.1f} mm  {what.name:<32} {what.conductivity:8.4g} W/(m K)  {t_in:7.2f} -> {t_out:.2f}"
            )
        return "\n".join(lines)

    def plot(self, path=None):
        """Temperature through the section, layers shaded; returns the figure, and saves it where a path is
        given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        edges = np.concatenate([[0], np.cumsum([thickness for _, thickness in self.layers])])
        for k, (what, _) in enumerate(self.layers):
            axes.axvspan(1000 * edges[k], 1000 * edges[k + 1], color="0.9" if k % 2 else "0.97")
            # names stand where the line is not
            low = np.mean(self.interfaces[[k, k + 1], [1, 0]]) > np.mean([self.interfaces.min(), self.interfaces.max()])
            axes.text(
                500 * (edges[k] + edges[k + 1]), 0.02 if low else 0.98, what.name, rotation=90, ha="center",
                va="bottom" if low else "top", fontsize=8, transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        x = np.repeat(edges, 2)
        axes.plot(1000 * x, self.interfaces.ravel(), color="#D55E00", marker="o", markersize=3)
        axes.set(
            xlabel="distance from the inner face [mm]", ylabel="temperature",
            title=f"U = {self.u_value:.3f} W/(m² K), heat flow {self.flux:.2f} W/m²", xlim=(0, 1000 * edges[-1]),
        )  # fmt: skip
        if path is not None:
            write_figure(figure, path, dpi=150)
        return figure


def wall(
    layers: Sequence,
    inside: float = 20.0,
    outside: float = 0.0,
    *,
    inside_resistance: float = INSIDE_RESISTANCE,
    outside_resistance: float = OUTSIDE_RESISTANCE,
    cells: int = 8,
) -> WallSection:
    """Steady heat flow through layers between two rooms.

    Parameters
    ----------
    layers
        From inside to outside. A pair (material, thickness [m]) is a layer; the material is a name of the
        table, a conductivity [W/(m K)] or a `Material`. A single number is a resistance [m^2 K/W] between two
        layers: a contact, or an air gap (EN ISO 6946 table 8: 0.18 for 25 mm or more).
    inside, outside
        Air temperatures.
    inside_resistance, outside_resistance
        Surface resistances [m^2 K/W]; 0 holds the face at the air temperature.
    cells
        Cells per layer. The result does not depend on it: series resistances are exact on the grid.

    Raises
    ------
    ProblemError
        If there is no layer, a thickness is not > 0, a name is unknown, or a resistance stands at an end (add
        it to the surface resistance there).
    """
    from ..equilibrium import equilibrium

    inside, outside = number("inside", inside), number("outside", outside)
    sections, gaps = _sections(layers)
    surfaces = [
        number(name, r, least=0.0)
        for name, r in (("inside_resistance", inside_resistance), ("outside_resistance", outside_resistance))
    ]
    corners = np.concatenate([[0.0], np.cumsum([thickness for _, thickness in sections])])
    edges = np.concatenate([np.linspace(a, b, cells, endpoint=False) for a, b in pairwise(corners)] + [corners[-1:]])
    conductivity = np.repeat([what.conductivity for what, _ in sections], cells)
    capacity = np.repeat([what.capacity for what, _ in sections], cells)
    problem = Problem(
        Grid.from_edges([edges]),
        conductivity,
        capacity=capacity if np.isfinite(capacity).all() else 1.0,
        boundary={
            side: Dirichlet(value) if r == 0 else Robin(1 / r, value)
            for side, value, r in (("x-", inside, surfaces[0]), ("x+", outside, surfaces[1]))
        },
        contacts=tuple(("x", corners[k], r) for k, r in gaps.items()),
    )
    steady = equilibrium(problem, tol=1e-13)
    flux = float(steady.flow("x-"))
    half = np.diff(edges) / (2 * conductivity)
    to_inner, to_outer = (
        steady.u + flux * half,
        steady.u - flux * half,
    )  # temperatures at the faces of every cell
    interfaces = np.empty((len(sections) + 1, 2))
    interfaces[:-1, 1], interfaces[1:, 0] = to_inner[::cells], to_outer[cells - 1 :: cells]
    interfaces[0, 0], interfaces[-1, 1] = interfaces[0, 1], interfaces[-1, 0]
    resistance = float(sum(t / m.conductivity for m, t in sections) + sum(gaps.values()))
    u_value = flux / (inside - outside) if inside != outside else 1 / (resistance + sum(surfaces))
    return WallSection(
        u_value, flux, resistance, interfaces, tuple(sections), problem, problem.grid.centers[0], steady.u
    )


def _sections(layers) -> tuple[list[tuple[Material, float]], dict[int, float]]:
    """Layers, and the resistances between them by the number of the layer that follows."""
    sections: list[tuple[Material, float]] = []
    gaps: dict[int, float] = {}
    entries = list(layers)
    for k, entry in enumerate(entries):
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            if not sections or k == len(entries) - 1:
                raise ProblemError(
                    f"layers[{k}] = {entry!r} is a resistance at an end of the wall; add it to the surface resistance there."
                )
            gaps[len(sections)] = gaps.get(len(sections), 0.0) + number(f"layers[{k}]", entry, least=0.0)
            continue
        try:
            what, thickness = entry
        except (TypeError, ValueError):
            raise ProblemError(f"layers[{k}] = {entry!r}: give (material, thickness), or a resistance.") from None
        sections.append((material(what), number(f"thickness of layers[{k}]", thickness, above=0.0)))
    if not sections:
        raise ProblemError("layers is empty: give at least one (material, thickness).")
    return sections, gaps
