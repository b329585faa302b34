"""Pictures of tuning: maps of outcomes, fits with their residuals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..plots import BLACK, DASHES, GREEN, LINES, ORANGE, SKY, VERMILION, YELLOW, _figure, _finished, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .fitting import Fit
    from .harmonic import HarmonicFit
    from .sweeping import Sweep

# colour and marker say the same, and lightness alone tells the classes apart too
_LOOK = {
    "unstable": (VERMILION, "x"),
    "oscillating": (YELLOW, "^"),
    "unfinished": ("#E8EBEF", "."),
    "settled": (GREEN, "o"),
    "wasteful": (SKY, "s"),
}
_DARK = {
    "unstable": "#5E2900",
    "oscillating": "#8A7F00",
    "unfinished": "#9AA3AD",
    "settled": "#004D39",
    "wasteful": "#1F5F86",
}
_MOST_PANELS = 5
_MOST_CURVES = len(LINES)


@_styled
def sweep_picture(sweep: Sweep, path: str | Path | None = None) -> Figure:
    """One map per diffusivity, theory on top, and all outcomes on (Fo, t lambda_1)."""
    layers = sweep._layers[:_MOST_PANELS]
    columns = {1: 2, 2: 3, 3: 2}.get(len(layers), 3)
    rows = -(-(len(layers) + 1) // columns)
    figure = _figure(4.3 * columns + 0.6, 3.9 * rows + 0.7)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for k, (ax, layer) in enumerate(zip(axes, layers, strict=False)):
        _map(ax, sweep, k, layer)
    _collapse(axes[len(layers)], sweep)
    for ax in axes[len(layers) + 1 :]:
        ax.set_axis_off()
    figure.suptitle(
        f"What {sweep.theory.scheme.title} does, and what theory says (settled: within {sweep.tol:g} of the equilibrium)"
    )
    handles, labels = _legend()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return _finished(figure, path)


@_styled
def maps_side_by_side(
    sweep: Sweep, foretold: np.ndarray, best: tuple[float, int] | None, path: str | Path | None = None
) -> Figure:
    """The map that was run beside one that was foretold, (n_dts, n_steps) outcomes, each with its cheapest run."""
    figure = _figure(9.2, 4.9)
    left, right = figure.subplots(1, 2, sharey=True)
    _map(left, sweep, 0, sweep._layers[0])
    left.set_title("run")
    _map(right, sweep, 0, foretold, star=False)
    same = float((foretold == sweep._layers[0]).mean())
    right.set_title(f"foretold: {same:.0%} of the outcomes alike")
    right.set_ylabel("")
    if best is not None:
        right.plot(*best, "*", color="white", markeredgecolor=BLACK, markersize=14, zorder=5)
    figure.suptitle(f"{sweep.theory.scheme.title} (settled: within {sweep.tol:.2g} of the equilibrium)")
    handles, labels = _legend()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return _finished(figure, path)


def _map(ax: Axes, sweep: Sweep, k: int, layer: np.ndarray, star: bool = True) -> None:
    from matplotlib.colors import ListedColormap

    # each run is a tile as large as its neighbourhood
    rows, columns = np.argsort(sweep.dts), np.argsort(sweep.steps)
    classes = np.searchsorted(sorted(_LOOK), layer[np.ix_(rows, columns)])
    colours = ListedColormap([_LOOK[name][0] for name in sorted(_LOOK)])
    limits = {"vmin": -0.5, "vmax": len(_LOOK) - 0.5}
    ax.pcolormesh(_edges(sweep.dts), _edges(sweep.steps), classes.T, cmap=colours, rasterized=True, **limits)
    for name, (_, marker) in _LOOK.items():
        i, j = np.nonzero(layer == name)
        style = {"color": _DARK[name], "markersize": 3.2, "linestyle": "none", "markeredgewidth": 0.9}
        ax.plot(sweep.dts[i], sweep.steps[j], marker, **style)
    _lines(ax, sweep, k, star)
    title = "" if sweep.diffusivities is None else f"D = {_text(sweep.diffusivities[k])}"
    ax.set(xscale="log", yscale="log", xlabel="step size dt [s]", ylabel="number of steps", title=title)
    ax.set_xlim(*_edges(sweep.dts)[[0, -1]])
    ax.set_ylim(*_edges(sweep.steps)[[0, -1]])


def _lines(ax: Axes, sweep: Sweep, k: int, star: bool) -> None:
    theory, ends = sweep.theory, _edges(sweep.dts)[[0, -1]]
    if ends[0] < theory.dt_limit[k] < ends[1]:
        ax.axvline(theory.dt_limit[k], color=BLACK)
    if ends[0] < theory.dt_positive[k] < ends[1]:
        ax.axvline(theory.dt_positive[k], color=BLACK, linestyle="--", linewidth=1.2)
    stable = (
        np.geomspace(ends[0], min(ends[1], theory.dt_limit[k]), 200) if theory.dt_limit[k] > ends[0] else np.zeros(0)
    )
    ax.plot(stable, theory.settled_steps(k, stable), color=BLACK, linestyle=":", linewidth=2.2)
    best = sweep._best(sweep._layers[k], sweep._work[k])
    if star and best is not None:
        ax.plot(*best, "*", color="white", markeredgecolor=BLACK, markersize=14, zorder=5)


def _collapse(ax: Axes, sweep: Sweep) -> None:
    fourier = np.broadcast_to(sweep.fourier[:, :, None], sweep.decay.shape)
    for name, (colour, marker) in _LOOK.items():
        chosen = sweep._layers == name
        edge = colour if name == "unstable" else "#6B7280"
        ax.plot(
            fourier[chosen],
            sweep.decay[chosen],
            marker,
            color=colour,
            linestyle="none",
            markersize=5,
            markeredgewidth=0.7,
            markerfacecolor=colour,
            markeredgecolor=edge,
        )
    theory = sweep.theory
    for limit, style in ((theory.dt_limit, "-"), (theory.dt_positive, "--")):
        numbers = theory.fourier * limit
        for number in np.unique(np.round(numbers[np.isfinite(numbers) & (numbers > 0)], 6)):
            ax.axvline(number, color=BLACK, linestyle=style, linewidth=1.2 if style == "--" else 1.8)
    ax.axhline(float(theory.settled_time[0] * theory.rate[0]), color=BLACK, linestyle=":", linewidth=2.2)
    ax.set(
        xscale="log", yscale="log", xlabel="mesh Fourier number Fo", ylabel="time in units of the slowest mode, t λ₁"
    )
    ax.set_title("all runs, dimensionless")


def _legend() -> tuple[list, list[str]]:
    from matplotlib.lines import Line2D

    handles: list = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=8,
            markeredgecolor=colour if marker == "x" else "#6B7280",
        )
        for colour, marker in _LOOK.values()
    ]
    handles += [Line2D([], [], color=BLACK, linestyle=style) for style in ("-", "--", ":")]
    handles.append(Line2D([], [], color="white", marker="*", markeredgecolor=BLACK, linestyle="none", markersize=12))
    return handles, [
        *_LOOK,
        "largest stable step",
        "no new extrema",
        "settled, by the slowest mode",
        "cheapest settled",
    ]


def _edges(values: np.ndarray) -> np.ndarray:
    """Borders of tiles around positive values in rising order, halfway on a logarithmic scale."""
    logs = np.log(np.sort(np.asarray(values, dtype=float)))
    if logs.size == 1:
        return np.exp(logs[0] + np.array([-0.5, 0.5]))
    middle = 0.5 * (logs[1:] + logs[:-1])
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


def _text(diffusivity) -> str:
    return f"{diffusivity:g}" if np.ndim(diffusivity) == 0 and not hasattr(diffusivity, "values") else "field"


@_styled
def fit_picture(fit: Fit, path: str | Path | None = None) -> Figure:
    """Readings and fitted curves over time, residuals below."""
    figure = _figure(8.0, 6.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    record = fit.observations
    shown = np.unique(np.linspace(0, len(record.points) - 1, min(_MOST_CURVES, len(record.points))).astype(int))
    size = 4.0 if record.times.size < 200 else 1.5
    for colour, j in zip(LINES, shown, strict=False):
        place = ", ".join(f"{x:g}" for x in record.points[j])
        top.plot(record.times, record.values[:, j], "o", color=colour, markersize=size, alpha=0.45, markeredgewidth=0)
        top.plot(record.times, fit.predicted[:, j], color=colour, label=f"({place})", linestyle=DASHES[int(j) % 4])
        bottom.plot(record.times, fit.residual[:, j], "o", color=colour, markersize=size, alpha=0.6, markeredgewidth=0)
    bottom.axhline(0.0, color=BLACK, linewidth=0.8)
    for sign in (-1, 1):
        bottom.axhline(sign * fit.rms, color=ORANGE, linewidth=1.0, linestyle="--")
    values = ";  ".join(
        f"{name} = {value:.4g} [{low:.3g}, {high:.3g}]"
        for name, value, (low, high) in zip(fit.names, fit.value, fit.interval, strict=True)
    )
    top.set_title(values, loc="left")
    top.set_ylabel("reading (dots), fit (lines)")
    top.legend(title="point", frameon=False, ncols=2)
    bottom.set_ylabel("residual")
    bottom.set_xlabel(f"time [s]   (dashed: rms {fit.rms:.3g})")
    return _finished(figure, path)


@_styled
def harmonic_picture(fit: HarmonicFit, path: str | Path | None = None) -> Figure:
    """Amplitude and phase lag against the first coordinate, measured and fitted."""
    figure = _figure(8.5, 4.0)
    left, right = figure.subplots(1, 2)
    x = fit.points[:, 0]
    order = np.argsort(x)
    for ax, measured, fitted, label in (
        (left, np.abs(fit.response), np.abs(fit.predicted), "amplitude ratio"),
        (right, -np.unwrap(np.angle(fit.response)), -np.angle(fit.predicted), "phase lag [rad]"),
    ):
        ax.plot(x, measured, "o", color=LINES[0], markersize=4, alpha=0.5, markeredgewidth=0, label="measured")
        ax.plot(x[order], fitted[order], color=BLACK, label="fit")
        ax.set(xlabel="distance [m]", ylabel=label)
    left.set_yscale("log")
    left.legend(frameon=False)
    figure.suptitle(";  ".join(f"{name} = {value:.4g}" for name, value in zip(fit.names, fit.value, strict=True)))
    return _finished(figure, path)
