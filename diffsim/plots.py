"""Pictures. Every function returns a matplotlib Figure and writes it where `path` is given.

Figures are made without pyplot, so none is kept alive and no display is needed. Colours are safe for the colour-blind:
Okabe & Ito's for lines, cividis for fields, a symmetric blue-red map for signed errors; whatever colour says, a
marker, a dash or a word says too. matplotlib is imported on first use.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ProblemError
from .grid import Grid
from .operator import Operator
from .problem import Problem
from .schemes import SCHEMES, Scheme, Stabilized, scheme_of
from .stability import Spectrum, Verdict, mesh_fourier, positive_step, spectrum
from .stability import _operator as operator_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from .trajectory import Trajectory

__all__ = [
    "amplification",
    "animation",
    "balance",
    "field",
    "frames",
    "plot_stability",
    "prediction",
    "step_map",
    "training_curve",
    "verdict",
]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
LINES = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, "#7A7A7A", "#8B6914")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
FIELDS, SIGNED, VOID = "cividis", "RdBu_r", "#D9D9D9"

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.titlesize": 12,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "grid.color": "#E3E6EA",
    "savefig.dpi": 150,
    "figure.dpi": 100,
}


def _styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Run `draw` under the style of this module, leaving the user's own settings alone."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _finished(figure: Any, path: str | Path | None) -> Any:
    """Write the figure, in one piece, to `path` where one is given."""
    if path is not None:
        from .store import write_bytes

        target = Path(path)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=target.suffix.lstrip(".").lower() or "png")
        write_bytes(target, buffer.getvalue())
    return figure


# --- stability regions -------------------------------------------------------------------------------------------


@_styled
def plot_stability(
    schemes: Iterable[Any] | None = None,
    problem: Problem | Operator | Spectrum | np.ndarray | Sequence[float] | None = None,
    dt: float | None = None,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw the stability regions in the plane of ``z = lambda dt``, with the problem's own spectrum times dt on top.

    Parameters
    ----------
    schemes
        Names of the table, rows, or anything with ``.amplification(z)`` (a matrix) and ``.title``, such as an
        optimizer; None: the whole table.
    problem
        Its eigenvalues, times -dt, are marked: in closed form or dense where possible, otherwise as Lanczos' estimates
        together with the proven interval. Or the real eigenvalues themselves, (n,), of whatever decays: a positive one
        is a mode that decays, a negative one a mode that grows by itself, as the Hessian of a network has them.
    dt
        Step [s]; None: the largest stable FTCS step of the problem.
    path
        Where to write the picture.
    title
        Instead of the title that names the plane and the step.
    figure
        Draw into this one, or a part of it, instead of a new one; whoever made it sees to its size and layout.

    Returns
    -------
    Figure
        The new figure, or the one given.
    """
    rows = [_row(scheme) for scheme in (SCHEMES if schemes is None else schemes)]
    if not rows:
        raise ProblemError("schemes is empty; name one or more, or leave it out for the whole table.")
    eigenvalues = None if problem is None else _spectrum_of(problem)
    if eigenvalues is not None and (dt is None or not math.isfinite(dt)):
        dt = SCHEMES["ftcs"].real_limit() / eigenvalues.bound if eigenvalues.bound > 0 else 1.0
    if path is not None and figure is not None and not hasattr(figure, "savefig"):
        raise ProblemError("a part of a figure is not written by itself; leave path out, and save the whole.")
    columns = min(len(rows), 5 if len(rows) > 8 else 4 if len(rows) > 6 else 3)
    lines = math.ceil(len(rows) / columns)
    figure = _figure(max(1.2 + 2.75 * columns, 5.5), 1.5 + 2.35 * lines) if figure is None else figure
    axes = figure.subplots(lines, columns, squeeze=False)
    shades = [_region(ax, row, eigenvalues, dt) for ax, row in zip(axes.flat, rows, strict=False)]
    for ax in axes.flat[len(rows) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("Im z")
    for k, ax in enumerate(axes.flat):
        if k + columns >= len(rows):
            ax.set_xlabel("Re z")
    bar = figure.colorbar(shades[-1], ax=axes, ticks=_LEVELS, shrink=0.7, aspect=30, pad=0.01)
    bar.set_label("amplification per step, |R(z)| (white: it grows)" if lines > 1 else "|R(z)| (white: > 1)")
    heading = "Stability regions in the plane of z = λ dt"
    if eigenvalues is not None:
        whose = f"{'given' if eigenvalues.kind == 'given' else 'of this problem'}, dt = {dt:.4g} s"
        heading += "," + (" " if columns > 3 else "\n") + f"and −dt × the eigenvalues {whose}"
        _spectrum_legend(figure, eigenvalues, 2 if columns > 3 else 1)
    figure.suptitle(heading if title is None else title)
    return _finished(figure, path)


def _spectrum_of(given: Any) -> Spectrum:
    """The spectrum of a problem, or the one given."""
    if isinstance(given, Spectrum):
        return given
    if isinstance(given, Problem | Operator):
        return spectrum(operator_of(given, None, 0.0))
    if not isinstance(given, np.ndarray | Sequence) or isinstance(given, str):
        raise ProblemError(f"problem = {given!r} is neither a Problem nor an array of eigenvalues.")
    values = np.asarray(given)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ProblemError(
            f"the eigenvalues have shape {values.shape} and dtype {values.dtype}; give real, finite ones, (n,). "
            "Take their real parts only where you know that the others are rounding."
        )
    values = np.sort(values.astype(float))
    return Spectrum(values, "given", float(max(values[-1], 0.0)))


_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def _row(scheme: Any) -> Any:
    """A row of the table, or an object that knows its own amplification."""
    if isinstance(scheme, str | Scheme):
        return scheme_of(scheme)
    if not (hasattr(scheme, "amplification") and hasattr(scheme, "title")):
        raise ProblemError(f"{scheme!r} has no .amplification(z) and .title, so it has no stability region to draw.")
    return scheme


def _growth(row: Any, z: np.ndarray, stages: int | None) -> np.ndarray:
    """Spectral radius of the amplification matrix at every z."""
    with np.errstate(all="ignore"):
        if isinstance(row, Scheme):
            return row.growth(z, stages)
        matrices = np.stack([row.amplification(complex(point)) for point in z.ravel()])
    finite = np.isfinite(matrices).all(axis=(1, 2))
    growth = np.full(z.size, np.inf)
    growth[finite] = np.abs(np.linalg.eigvals(matrices[finite])).max(axis=-1)
    return growth.reshape(z.shape)


def _region(ax: Axes, row: Any, eigenvalues: Spectrum | None, dt: float | None):
    """One panel: the region of `row`, and the spectrum on top."""
    reach = 0.0 if eigenvalues is None or dt is None else dt * eigenvalues.bound
    stages = _stages(row, reach)
    limit = (
        row.real_limit(stages) if isinstance(row, Scheme) else row.real_limit() if hasattr(row, "real_limit") else 4.0
    )
    if math.isfinite(limit):
        # a spectrum that reaches far out would shrink the region to a dot: cut there, and say so
        left = min(max(1.2 * limit, 1.1 * reach), 3.0 * limit)
        right, height = 0.15 * left, max(0.8 * left, 4.0)
    else:
        left = min(max(10.0, 1.1 * reach), 40.0)
        right, height = 0.6 * left, 0.8 * left
    fine = 161 if isinstance(row, Scheme) else 121
    x = np.linspace(-left, right, fine)
    for _ in range(4):  # fit the height to the region, which may be a sliver
        y = np.linspace(0.0, height, fine)
        growth = _growth(row, x[:, None] + 1j * y, stages)
        top = np.flatnonzero((growth <= 1.0)[x < 0.0].any(axis=0)).max(initial=0) + 1
        if math.isinf(limit) or 0.5 * fine < top < 0.9 * fine:
            break
        height *= 1.35 * top / fine
    growth = np.hstack([growth[:, :0:-1], growth])  # coefficients are real: the picture is symmetric
    y = np.concatenate([-y[:0:-1], y])
    growth = np.where(np.isfinite(growth), growth, 1e300).T
    shade = ax.contourf(x, y, growth, levels=_LEVELS, cmap="Blues_r", vmin=-0.3, vmax=1.25)
    ax.contour(x, y, growth, levels=[1.0], colors=BLUE, linewidths=1.2)
    ax.axhline(0.0, color="#9AA5B4", linewidth=0.6, zorder=1)
    ax.axvline(0.0, color="#9AA5B4", linewidth=0.6, zorder=1)
    if eigenvalues is not None and dt is not None:
        _mark_spectrum(ax, row, stages, dt, eigenvalues, left)
    ax.set_xlim(-left, right)
    ax.set_ylim(-height, height)
    ax.locator_params(nbins=5)
    count = f", {stages} stages" if stages and isinstance(row, Stabilized) else ""
    ax.set_title(row.title + count, pad=4)
    ax.text(
        0.03, 0.04, f"β = {limit:.5g}" if math.isfinite(limit) else "β = ∞", transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )  # fmt: skip
    return shade


def _stages(row: Any, reach: float) -> int | None:
    """Stages of the panel: those the step takes, at least five, so that the family's shape shows."""
    if not isinstance(row, Stabilized):
        return None
    least = next(s for s in row.degrees if s >= 5)
    if reach == 0.0 or reach <= row.real_limit(least):
        return least
    return row.stages_for(min(reach, row.real_limit()))


def _mark_spectrum(ax: Axes, row: Any, stages: int | None, dt: float, eigenvalues: Spectrum, left: float) -> None:
    z = -dt * eigenvalues.values
    grows = _growth(row, z.astype(complex), stages) > 1.0 + 1e-9
    if eigenvalues.kind == "ritz":
        ax.plot([-min(dt * eigenvalues.bound, left), 0.0], [0.0, 0.0], color=ORANGE, linewidth=4, alpha=0.5, zorder=3)
    ax.plot(
        z[~grows], np.zeros(np.count_nonzero(~grows)), "|", color=ORANGE, markersize=9, markeredgewidth=1.0, zorder=4
    )
    ax.plot(
        z[grows], np.zeros(np.count_nonzero(grows)), "x", color=VERMILION, markersize=5, markeredgewidth=1.3, zorder=5
    )
    if dt * eigenvalues.bound > left:
        ax.annotate(
            f"to {-dt * eigenvalues.bound:.3g}", (0.02, 0.5), xytext=(0.2, 0.8), xycoords="axes fraction",
            textcoords="axes fraction", fontsize=8.5, color=VERMILION if grows.any() else "#8A5A00",
            arrowprops={"arrowstyle": "->", "color": VERMILION if grows.any() else "#8A5A00"},
        )  # fmt: skip


_SPECTRUM_TEXT = {
    "given": "eigenvalues as given",
    "exact": "eigenvalues in closed form",
    "dense": "all eigenvalues",
    "ritz": "Lanczos' estimates of eigenvalues, and the proven interval",
}


def _spectrum_legend(figure: Figure | SubFigure, eigenvalues: Spectrum, columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=ORANGE, marker="|", linestyle="none", markersize=9, markeredgewidth=1.5),
        Line2D([], [], color=VERMILION, marker="x", linestyle="none", markersize=6, markeredgewidth=1.5),
    ]
    labels = [f"{_SPECTRUM_TEXT[eigenvalues.kind]}: the mode decays", "the mode grows: this step is unstable"]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


@_styled
def verdict(judged: Verdict, path: str | Path | None = None) -> Figure:
    """Draw R along the negative real axis, with the limits and the reach of the spectrum of a `Verdict`."""
    if judged.scheme == "auto":
        raise ProblemError("scheme = 'auto' has no stability function of its own; judge one scheme to draw it.")
    row = scheme_of(judged.scheme)
    rho = judged.spectral_radius
    reach = rho * judged.dt if judged.dt is not None else 0.0
    stages = judged.stages or (row.degrees[3] if isinstance(row, Stabilized) else None)
    limit = row.real_limit(stages)
    right = 1.25 * max(limit if math.isfinite(limit) else 0.0, min(reach, 3 * limit), 4.0)
    x = np.linspace(0.0, right, 1201)
    with np.errstate(all="ignore"):
        R = np.asarray(row.R(-x, stages), dtype=complex)
    figure = _figure(7.5, 4.6)
    ax = figure.subplots()
    ax.axhspan(-1.0, 1.0, color="#EEF3F8", zorder=0)
    ax.axhline(0.0, color="#9AA5B4", linewidth=0.8)
    ax.plot(x, np.exp(-x), color=BLACK, linestyle="--", linewidth=1.2, label="exact decay, exp(−x)")
    oscillates = np.abs(R.imag) > 1e-12
    ax.plot(x, np.where(oscillates, np.nan, R.real), color=BLUE, label=f"R(−x), {row.title}")
    if oscillates.any():
        ax.plot(x, np.where(oscillates, np.abs(R), np.nan), color=BLUE, linestyle=":", label="|R|, complex pair")
    if math.isfinite(limit):
        ax.axvline(limit, color=VERMILION, linewidth=1.2)
        ax.text(limit, 1.42, f" limit {limit:.5g}", color=VERMILION, fontsize=9, va="top")
    if judged.dt is not None:
        end = min(reach, right)
        text = f"spectrum at dt = {judged.dt:.4g} s: up to {reach:.4g}"
        colour = ORANGE if judged.stable else VERMILION
        ax.plot([0.0, end], [-1.28, -1.28], color=colour, linewidth=6, solid_capstyle="butt")
        if reach > right:
            ax.annotate("", (right, -1.28), (0.93 * right, -1.28), arrowprops={"arrowstyle": "->", "color": colour})
        ax.text(
            0.01 * right, -1.24, text, fontsize=9, va="bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )  # fmt: skip
    ax.set_xlim(0.0, right)
    ax.set_ylim(-1.5, 1.5)
    ax.set_xlabel("x = dt × eigenvalue")
    ax.set_ylabel("amplification of a mode per step")
    word = "" if judged.dt is None else ": stable" if judged.stable else ": unstable"
    count = f", {stages} stages" if stages and isinstance(row, Stabilized) else ""
    ax.set_title(f"{row.title}{count}{word}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return _finished(figure, path)


@_styled
def step_map(
    problem: Problem | Operator, scheme: str | Scheme = "ftcs", dt: float | None = None, path: str | Path | None = None
) -> Figure:
    """Draw which (dx, dt) are unstable, stable, and free of new extrema for a scheme on this problem.

    The grid is refined in thought: the spectral radius scales with 1/dx^2 from the problem's own.
    """
    operator, row = operator_of(problem, None, 0.0), scheme_of(scheme)
    rho = operator.spectral_bound().value
    if rho == 0.0:
        raise ProblemError("nothing moves in this problem (its spectral radius is 0), so every step is stable.")
    here = min(operator.grid.spacing)
    limit, positive = row.real_limit() / rho, positive_step(operator, row, rho)
    centre = limit if math.isfinite(limit) else positive if 0 < positive < math.inf else 2.0 / rho
    dx = here * np.logspace(-1, 1, 201)
    step = centre * np.logspace(-3, 3, 301)
    scale = (here / dx) ** 2
    figure = _figure(7.2, 5.2)
    ax = figure.subplots()
    low, high = step[0], step[-1]
    bounds = [np.full_like(dx, low), np.full_like(dx, high)]
    edge = np.clip(positive / scale, low, high) if positive > 0 else bounds[0]
    top = np.clip(limit / scale, low, high) if math.isfinite(limit) else bounds[1]
    edge = np.minimum(edge, top)
    for lower, upper, colour, hatch, text in (
        (bounds[0], edge, "#BFE3D5", None, "stable, no new extrema"),
        (edge, top, "#FBF3B9", None, "stable, new extrema possible"),
        (top, bounds[1], "#F3C6A9", "///", "unstable: modes grow"),
    ):
        if (upper > lower * (1 + 1e-9)).any():
            ax.fill_between(
                dx,
                lower,
                upper,
                facecolor=colour,
                hatch=hatch,
                edgecolor="#D08A5E" if hatch else "none",
                linewidth=0,
                label=text,
            )
    if math.isfinite(limit):
        ax.plot(dx, limit / scale, color=VERMILION, label=f"limit: dt ρ = {row.real_limit():.5g}")
    if 0 < positive < math.inf:
        ax.plot(dx, positive / scale, color=GREEN, linestyle="--", label="largest dt without new extrema")
    if isinstance(row, Stabilized):
        _stage_lines(ax, row, dx, scale, rho, low, high)
    fourier = mesh_fourier(operator)
    for number in (0.01, 1.0, 100.0):
        ax.plot(dx, number / (fourier * scale), color="#7A7A7A", linewidth=0.8, linestyle=":")
        inside = np.flatnonzero((number / (fourier * scale) < high * 0.7) & (number / (fourier * scale) > low * 1.4))
        if inside.size:
            k = inside[int(0.12 * inside.size)]
            ax.text(dx[k], number / (fourier * scale[k]), f"Fo = {number:g}", fontsize=8.5, color="#4A4A4A", ha="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1})  # fmt: skip
    mark = dt if dt is not None else min(limit, centre)
    ax.plot([here], [np.clip(mark, low, high)], "o", color=BLACK, markersize=6, label=f"this grid, dt = {mark:.3g} s")
    ax.set(xscale="log", yscale="log", xlim=(dx[0], dx[-1]), ylim=(low, high))
    ax.set_xlabel("smallest cell width dx [m]")
    ax.set_ylabel("step dt [s]")
    ax.set_title(f"Steps and grids: {row.title}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _finished(figure, path)


def _stage_lines(
    ax: Axes, row: Stabilized, dx: np.ndarray, scale: np.ndarray, rho: float, low: float, high: float
) -> None:
    """Contours of the stage count."""
    for s in (5, 20, 80):
        s = min(row.degrees, key=lambda have: abs(have - s)) if not row.open_ended else s
        line = row.real_limit(s) / rho / scale
        ax.plot(dx, line, color=BLUE, linewidth=1.0)
        inside = np.flatnonzero((line < high * 0.7) & (line > low * 1.4))
        if inside.size:
            k = inside[int(0.8 * inside.size)]
            ax.text(dx[k], line[k], f"{s} stages", fontsize=8.5, color=BLUE, ha="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1})  # fmt: skip


_SHOWN = ("ftcs", "rk4", "rkl2", "backward-euler", "crank-nicolson", "tr-bdf2", "sdirk3")


@_styled
def amplification(
    schemes: Iterable[str | Scheme] | None = None,
    fourier: Sequence[float] = (0.4, 5.0),
    path: str | Path | None = None,
) -> Figure:
    """Draw the amplification factor of each wavenumber in 1-D, a panel per mesh Fourier number ``D dt / dx^2``.

    Two exact answers stand beside the schemes: that of the discrete problem, and that of the differential equation.
    """
    rows = [scheme_of(scheme) for scheme in (_SHOWN if schemes is None else schemes)]
    angle = np.linspace(0.0, np.pi, 400)
    figure = _figure(1.2 + 4.4 * len(fourier), 5.0)
    axes = figure.subplots(1, len(fourier), sharey=True, squeeze=False)[0]
    for ax, number in zip(axes, fourier, strict=True):
        x = 4.0 * number * np.sin(angle / 2) ** 2
        ax.axhspan(-1.0, 1.0, color="#EEF3F8", zorder=0)
        ax.axhline(0.0, color="#9AA5B4", linewidth=0.8)
        ax.plot(
            angle,
            np.exp(-number * angle**2),
            color=BLACK,
            linewidth=1.2,
            linestyle=(0, (1, 2)),
            label="equation, exact",
        )
        ax.plot(angle, np.exp(-x), color=BLACK, linewidth=1.2, label="grid, exact in time")
        for k, row in enumerate(rows):
            stages = row.stages_for(4.0 * number) if row.stages is None else None
            R = np.asarray(row.R(-x, stages), dtype=complex)
            value = np.where(np.abs(R.imag) > 1e-12, np.abs(R), R.real)
            ax.plot(
                angle,
                np.where(np.abs(value) < 3, value, np.nan),
                color=LINES[k % len(LINES)],
                linestyle=DASHES[k % len(DASHES)],
                label=row.title,
            )
        ax.set_xlim(0.0, np.pi)
        ax.set_ylim(-1.3, 1.3)
        ax.set_xticks([0, np.pi / 2, np.pi], ["0", "π/2", "π"])
        ax.set_xlabel("wavenumber × dx (π: the shortest wave of the grid)")
        ax.set_title(f"mesh Fourier number D dt / dx² = {number:g}")
    axes[0].set_ylabel("amplification per step (shaded: stable)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4 if len(fourier) > 1 else 3, frameon=False)
    return _finished(figure, path)


# --- fields --------------------------------------------------------------------------------------------------------


@_styled
def field(
    grid: Grid,
    u: np.ndarray,
    path: str | Path | None = None,
    *,
    title: str = "",
    label: str = "u",
    signed: bool = False,
) -> Figure:
    """Draw one field: a line in 1-D, an image in 2-D with its true aspect, the three middle slices in 3-D.

    Parameters
    ----------
    u
        Shape grid.shape; NaN (voids) is drawn grey.
    label
        Name of the quantity and its unit.
    signed
        Symmetric colours around 0, for differences.
    """
    u = _checked_field(grid, u)
    if grid.ndim == 1:
        figure = _figure(7.0, 4.0)
        ax = figure.subplots()
        ax.plot(grid.centers[0], u, color=BLUE, marker="." if u.size <= 60 else None)
        ax.set(xlabel=f"{grid.axes[0]} [m]", ylabel=label, title=title)
        ax.grid(visible=True)
        return _finished(figure, path)
    norm = _scale([u], signed)
    if grid.ndim == 2:
        width, height = _panel_size(grid, 6.0)
        figure = _figure(width + 1.4, height + 0.9)
        ax = figure.subplots()
        image = _image(ax, grid, u, (0, 1), norm, signed)
        ax.set_title(title)
        figure.colorbar(image, ax=ax, label=label)
        return _finished(figure, path)
    figure = _figure(11.0, 4.2)
    axes = figure.subplots(1, 3)
    for ax, normal in zip(axes, (2, 1, 0), strict=True):
        across, up = (a for a in range(3) if a != normal)
        image = _image(ax, grid, np.take(u, u.shape[normal] // 2, axis=normal), (across, up), norm, signed)
        position = grid.centers[normal][u.shape[normal] // 2]
        ax.set_title(f"{grid.axes[normal]} = {position:.3g} m")
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    figure.suptitle(title)
    return _finished(figure, path)


def _checked_field(grid: Grid, u: np.ndarray) -> np.ndarray:
    u = np.asarray(u, dtype=float)
    if u.shape != grid.shape:
        raise ProblemError(f"u has shape {u.shape}; this grid has {grid.shape}.")
    return u


def _panel_size(grid: Grid, longest: float) -> tuple[float, float]:
    """Width and height in inches of a panel with the aspect of the grid, within reason."""
    wide, high = grid.lengths[0], grid.lengths[1]
    ratio = min(max(high / wide, 0.2), 3.0)
    return (longest, max(1.6, longest * ratio)) if ratio <= 1 else (max(1.8, longest / ratio), longest)


def _scale(fields: Iterable[np.ndarray], signed: bool = False):
    """One normalisation for all `fields`; a constant field gets a little room around it."""
    from matplotlib.colors import Normalize

    values = np.concatenate([np.ravel(f)[np.isfinite(np.ravel(f))] for f in fields])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    elif high - low <= 1e-12 * max(abs(low), abs(high)):
        room = 0.05 * abs(high) or 0.5
        low, high = low - room, high + room
    return Normalize(low, high)


def _image(ax: Axes, grid: Grid, u: np.ndarray, axes: tuple[int, int], norm, signed: bool = False, unit: str = "m"):
    """Draw a 2-D slice with true aspect; the first axis runs to the right."""
    from matplotlib import colormaps

    cmap = colormaps[SIGNED if signed else FIELDS].with_extremes(bad=VOID)
    across, up = axes
    image = ax.pcolormesh(
        grid.edges[across], grid.edges[up], np.ma.masked_invalid(u).T, cmap=cmap, norm=norm, rasterized=True
    )
    ax.set_facecolor(VOID)
    wide, high = grid.lengths[across], grid.lengths[up]
    ax.set_aspect("equal" if 0.1 <= high / wide <= 10 else "auto")
    ax.set(xlabel=f"{grid.axes[across]} [{unit}]", ylabel=f"{grid.axes[up]} [{unit}]")
    ax.locator_params(nbins=5)
    for spine in ("top", "right"):
        ax.spines[spine].set_visible(True)
    return image


def _slice(grid: Grid, u: np.ndarray) -> np.ndarray:
    """What a flat picture shows of a field: itself, or the middle layer across the last axis."""
    return u if grid.ndim < 3 else u[:, :, u.shape[2] // 2]


@_styled
def frames(trajectory: Trajectory, count: int = 6, path: str | Path | None = None, *, label: str = "u") -> Figure:
    """Draw up to `count` frames of a run, equally spread in number, on one scale; of 3-D runs the middle layer."""
    grid, n = trajectory.grid, len(trajectory.t)
    chosen = np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(int))
    if grid.ndim == 1:
        figure = _figure(7.5, 4.4)
        ax = figure.subplots()
        _profiles(figure, ax, trajectory, chosen, label)
        return _finished(figure, path)
    columns = min(len(chosen), 3)
    lines = math.ceil(len(chosen) / columns)
    width, height = _panel_size(grid, 3.3)
    figure = _figure(width * columns + 1.8, (height + 0.4) * lines + 0.7)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    shown = [_slice(grid, trajectory.u[k]) for k in chosen]
    norm = _scale(shown)
    for ax, k, u in zip(axes.flat, chosen, shown, strict=False):
        image = _image(ax, grid, u, (0, 1), norm)
        ax.set_title(f"t = {trajectory.t[k]:.4g} s")
        ax.label_outer()
    for ax in axes.flat[len(chosen) :]:
        ax.set_axis_off()
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    figure.suptitle(_run_title(trajectory))
    return _finished(figure, path)


def _profiles(figure: Figure, ax: Axes, trajectory: Trajectory, chosen: np.ndarray, label: str) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    norm = _scale([trajectory.t])
    for k in chosen:
        ax.plot(trajectory.grid.centers[0], trajectory.u[k], color=colormaps["viridis"](norm(trajectory.t[k]) * 0.92))
    ax.set(xlabel=f"{trajectory.grid.axes[0]} [m]", ylabel=label, title=_run_title(trajectory))
    ax.grid(visible=True)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=ax, label="t [s]")


def _run_title(trajectory: Trajectory) -> str:
    scheme = SCHEMES[trajectory.scheme].title if trajectory.scheme in SCHEMES else trajectory.scheme
    return f"{scheme}: {trajectory.status}"


@_styled
def animation(trajectory: Trajectory, path: str | Path, *, frames_per_second: float = 15.0, label: str = "u") -> None:
    """Write an animated GIF of a run on one scale, at most 200 frames; of 3-D runs the middle layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    from .store import write_bytes

    grid, n = trajectory.grid, len(trajectory.t)
    chosen = np.unique(np.linspace(0, n - 1, min(200, n)).round().astype(int))
    width, height = (6.4, 4.0) if grid.ndim == 1 else _panel_size(grid, 4.8)
    figure = _figure(width + (0.0 if grid.ndim == 1 else 1.6), height + (0.0 if grid.ndim == 1 else 0.9))
    canvas = FigureCanvasAgg(figure)
    ax = figure.subplots()
    shown = [_slice(grid, trajectory.u[k]) for k in chosen]
    norm = _scale(shown)
    if grid.ndim == 1:
        (moving,) = ax.plot(grid.centers[0], shown[0], color=BLUE)
        room = 0.05 * (norm.vmax - norm.vmin)
        ax.set_ylim(norm.vmin - room, norm.vmax + room)
        ax.set(xlabel=f"{grid.axes[0]} [m]", ylabel=label)
        ax.grid(visible=True)
        update: Callable[[np.ndarray], Any] = moving.set_ydata
    else:
        moving = _image(ax, grid, shown[0], (0, 1), norm)
        figure.colorbar(moving, ax=ax, label=label)
        update = lambda u: moving.set_array(np.ma.masked_invalid(u).T)  # noqa: E731
    # axes, labels and colour bar are drawn once; a frame adds only what moves, and the frame line over it
    ax.set_title(" ")
    changing = [moving, ax.title, *ax.spines.values()]
    for artist in changing:
        artist.set_animated(True)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    pictures: list[Any] = []
    for k, u in zip(chosen, shown, strict=True):
        update(u)
        ax.title.set_text(f"t = {trajectory.t[k]:.4g} s")
        canvas.restore_region(background)
        for artist in changing:
            ax.draw_artist(artist)
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = Image.new("P", (1, 1))
    palette.putpalette(_animation_colours().ravel().tolist())
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    hold = [round(1000 / frames_per_second)] * (len(pictures) - 1) + [1500]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=hold, loop=0, optimize=False)
    write_bytes(path, buffer.getvalue())


def _animation_colours() -> np.ndarray:
    """Return the 256 colours of every frame, (256, 3): the field's map, greys from ink to paper, and a line's edges."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    field_map = colormaps[FIELDS](np.linspace(0.0, 1.0, 222))[:, :3]
    greys = np.repeat(np.linspace(0.0, 1.0, 18)[:, None], 3, axis=1)  # coarse: Pillow matches to about 4 levels
    fade = np.linspace(0.0, 1.0, 16)[:, None]
    edges = fade * np.array(to_rgb(BLUE)) + (1.0 - fade)
    return np.round(255 * np.vstack([field_map, greys, edges])).astype(int)


@_styled
def balance(trajectory: Trajectory, path: str | Path | None = None) -> Figure:
    """Draw the history of a run: its content, and what flows in through each side."""
    figure = _figure(7.5, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    t = trajectory.t
    top.plot(t, trajectory.content, color=BLUE)
    top.set_ylabel("content, Σ c V u")
    top.set_title(f"{_run_title(trajectory)}; content balanced to {trajectory.balance:.1e}")
    top.grid(visible=True)
    moving = [(side, flow) for side, flow in trajectory.flows.items() if np.any(flow)]
    for k, (side, flow) in enumerate(moving):
        bottom.plot(t, flow, color=LINES[k % len(LINES)], linestyle=DASHES[k % len(DASHES)], label=side)
    bottom.axhline(0.0, color="#9AA5B4", linewidth=0.8)
    bottom.set_ylabel("flow in through a side [content/s]")
    bottom.set_xlabel("t [s]")
    bottom.grid(visible=True)
    if moving:
        bottom.legend(frameon=False, ncols=min(len(moving), 4))
        _tame(bottom, np.concatenate([flow[1:] if len(flow) > 2 else flow for _, flow in moving]))
    else:
        bottom.text(0.5, 0.5, "nothing flows through any side", transform=bottom.transAxes, ha="center", va="bottom")
    return _finished(figure, path)


def _tame(ax: Axes, values: np.ndarray) -> None:
    """Keep one spike (the first instant of a sudden wall) from flattening the rest of a history."""
    values = values[np.isfinite(values)]
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    room = 0.08 * (high - low) or 0.5
    ax.set_ylim(low - room, high + room)


# --- surrogates ----------------------------------------------------------------------------------------------------


@_styled
def training_curve(history: Sequence[Mapping[str, float]], path: str | Path | None = None) -> Figure:
    """Draw a training run: relative errors on both sets, and the step size (with its measured limit where known).

    `history` holds one mapping per epoch with the keys epoch, train_l2, validation_l2, lr and, at times, sharpness.
    """
    if not history:
        raise ProblemError("history is empty: there is no epoch to draw.")
    column = lambda key: np.array([float(line.get(key, np.nan)) for line in history])  # noqa: E731
    epoch = column("epoch") if "epoch" in history[0] else np.arange(1.0, len(history) + 1)
    figure = _figure(7.5, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    marker = "." if len(history) < 40 else None
    for key, text, colour, dash in (
        ("train_l2", "training", ORANGE, "--"),
        ("validation_l2", "validation", BLUE, "-"),
    ):
        if np.isfinite(column(key)).any():
            top.plot(epoch, column(key), color=colour, linestyle=dash, marker=marker, label=text)
    validation = column("validation_l2")
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        top.plot(
            epoch[best],
            validation[best],
            "o",
            color=VERMILION,
            label=f"best: {validation[best]:.3g} at epoch {epoch[best]:g}",
        )
    top.set_yscale("log")
    top.set_ylabel("relative L2 error")
    top.legend(frameon=False)
    top.grid(visible=True, which="both")
    bottom.plot(epoch, column("lr"), color=GREEN, marker=marker, label="learning rate")
    sharpness = column("sharpness")
    if np.isfinite(sharpness).any():
        known = np.isfinite(sharpness) & (sharpness > 0)
        bottom.plot(
            epoch[known],
            2.0 / sharpness[known],
            "x",
            color=VERMILION,
            label="2 / sharpness, the limit of gradient descent",
        )
    bottom.set_yscale("log")
    bottom.set_ylabel("step size")
    bottom.set_xlabel("epoch")
    bottom.legend(frameon=False)
    bottom.grid(visible=True)
    return _finished(figure, path)


@_styled
def prediction(
    predicted: Any,
    truth: np.ndarray | None = None,
    path: str | Path | None = None,
    *,
    grid: Grid | None = None,
    label: str = "u",
) -> Figure:
    """Draw prediction, truth, signed error and the guaranteed bounds side by side.

    `predicted` has ``.u``, ``.bound`` (with energy_lower, energy, l2, l2_relative; or None) and, where the problem is
    known, ``.operator``; without it and without `grid` the axes count cells.
    """
    operator = getattr(predicted, "operator", None)
    unit = "cells" if grid is None and operator is None else "m"
    if grid is None:
        grid = operator.grid if operator is not None else _cells(np.shape(predicted.u))
    u = _checked_field(grid, predicted.u)
    truth = None if truth is None else _checked_field(grid, truth)
    bound = predicted.bound
    if grid.ndim == 1:
        return _finished(_predicted_line(grid, u, truth, bound, operator, label, unit), path)
    wide, high = _panel_size(grid, 3.3)
    widths = [wide] * (1 if truth is None else 3) + [2.4] * (bound is not None)
    figure = _figure(sum(widths) + 1.1 * len(widths), max(high + 0.9, 2.9))
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    fields = {"prediction": u} if truth is None else {"prediction": u, "truth": truth}
    norm = _scale([_slice(grid, values) for values in fields.values()])
    for ax, (title, values) in zip(axes, fields.items(), strict=False):
        image = _image(ax, grid, _slice(grid, values), (0, 1), norm, unit=unit)
        ax.set_title(title)
    figure.colorbar(image, ax=axes[: len(fields)], label=label, shrink=0.8)
    if truth is not None:
        error = _slice(grid, u - truth)
        image = _image(axes[2], grid, error, (0, 1), _scale([error], signed=True), signed=True, unit=unit)
        axes[2].set_title("prediction − truth")
        figure.colorbar(image, ax=axes[2], label=label, shrink=0.8)
    if bound is not None:
        _bound_panel(axes[-1], bound, u, truth, operator)
    return _finished(figure, path)


def _cells(shape: tuple[int, ...]) -> Grid:
    return Grid(shape=shape, lengths=tuple(float(n) for n in shape))


def _predicted_line(
    grid: Grid, u: np.ndarray, truth: np.ndarray | None, bound: Any, operator: Operator | None, label: str, unit: str
) -> Figure:
    widths = [6.5] if bound is None else [6.5, 2.4]
    figure = _figure(sum(widths) + 1.2 * (len(widths) - 1), 4.0)
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    x = grid.centers[0]
    if truth is not None:
        axes[0].plot(x, truth, color=BLACK, linewidth=1.2, label="truth")
    axes[0].plot(x, u, color=BLUE, linestyle="--", label="prediction")
    axes[0].set(xlabel=f"{grid.axes[0]} [{unit}]", ylabel=label)
    axes[0].legend(frameon=False)
    axes[0].grid(visible=True)
    if bound is not None:
        _bound_panel(axes[1], bound, u, truth, operator)
    return figure


def _bound_panel(ax: Axes, bound: Any, u: np.ndarray, truth: np.ndarray | None, operator: Operator | None) -> None:
    """Guaranteed bounds against the true errors on one logarithmic axis, relative."""
    rows: list[tuple[str, float, str, str]] = []
    if truth is not None:
        error, solution = np.where(np.isfinite(u), u - truth, 0.0), np.where(np.isfinite(truth), truth, 0.0)
    if truth is not None and operator is not None:
        energy = _energy(operator, error)
        scale = _energy(operator, solution) or 1.0
        rows += [
            ("energy, upper bound", bound.energy / scale, VERMILION, "v"),
            ("energy, true", energy / scale, BLACK, "o"),
            ("energy, lower bound", bound.energy_lower / scale, GREEN, "^"),
        ]
    rows.append(("L2, upper bound", bound.l2_relative, VERMILION, "v"))
    if truth is not None:
        volumes = 1.0 if operator is None else operator.grid.volumes
        norm = lambda v: math.sqrt(float((volumes * v * v).sum()))  # noqa: E731
        rows.append(("L2, true", norm(error) / (norm(solution) or 1.0), BLACK, "o"))
    rows = [row for row in rows if math.isfinite(row[1]) and row[1] > 0.0]
    ax.set_title("relative error, guaranteed")
    if not rows:
        ax.text(0.5, 0.5, "no finite bound", transform=ax.transAxes, ha="center")
        ax.set_axis_off()
        return
    for k, (_, value, colour, marker) in enumerate(rows):
        ax.plot(value, k, marker, color=colour, markersize=8)
        ax.annotate(f"{value:.2e}", (value, k), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
    values = [value for _, value, _, _ in rows]
    ax.set_xscale("log")
    decades = max(2.0, math.log10(max(values) / min(values)) + 1.0)  # room around the markers
    middle = math.sqrt(max(values) * min(values))
    ax.set_xlim(middle * 10 ** (-decades / 2), middle * 10 ** (decades / 2))
    ax.set_ylim(len(rows) - 0.5, -0.7)
    ax.set_yticks(range(len(rows)), [name for name, _, _, _ in rows], fontsize=8.5)
    ax.minorticks_off()
    ax.grid(visible=True, axis="x")


def _energy(operator: Operator, v: np.ndarray) -> float:
    """sqrt(v' K v) of a field of grid.shape."""
    padded = operator.enter(v)
    return math.sqrt(max(0.0, float((padded * operator.apply(padded)).sum())))
