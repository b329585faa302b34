"""The data doctor: what other people's pairs of coefficients and solutions really are.

Nothing is taken on trust: the grid is found from where the labels vanish, the coefficients from the labels' curvature
where the medium is uniform, and then the labels are held against the equation, the maximum principle and each other.
The equation that is looked for is ``-div(a grad u) = f`` with a constant f and u = 0 on the sides (Darcy flow as most
benchmarks pose it); a and f are only determined up to a common factor, so f = 1 is assumed and said.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import diffsim
from diffsim import store
from diffsim.boundary import Dirichlet
from diffsim.errors import ProblemError, StoreError
from diffsim.grid import Grid
from diffsim.problem import Problem

from .dataset import Dataset

_COEFFICIENTS = ("nu", "diffusivity", "coeff", "a", "x", "K", "permeability")
_LABELS = ("tensor", "sol", "u", "y", "solution", "pressure", "equilibrium")
_SAMPLE = 64  # items that are solved again
_OUTLIER = 5.0  # times the median misfit
_STRAY = 1e-6  # relative size of values on the wrong side of a bound that single precision explains


@dataclass(frozen=True)
class Finding:
    """One result: `level` is "ok", "note" or "BAD"; `items` are the ones concerned; `values` the numbers behind it."""

    level: str
    check: str
    detail: str
    items: tuple[int, ...] = ()
    values: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Pairs:
    """Coefficients and labels, (n, *shape) each, as a file holds them."""

    name: str
    a: np.ndarray
    u: np.ndarray


def examine(*sources: "str | Path | tuple[np.ndarray, np.ndarray] | Pairs", most: int = 2000) -> list[Finding]:
    """Examine files (npz, HDF5 in the layouts of PDEBench and The Well) or pairs of arrays (coefficients, labels).

    Several sources are taken as the splits of one dataset: items that appear in two of them are reported as leakage.

    Parameters
    ----------
    most
        At most so many items per source (the first ones).

    Raises
    ------
    StoreError, ProblemError
        Where a source cannot be read, or no coefficients and labels are found in it.
    """
    if not sources:
        raise ProblemError("give at least one file or pair of arrays to examine.")
    every = [_pairs(source, most) for source in sources]
    findings: list[Finding] = []
    for pairs in every:
        prefix = f"{pairs.name}: " if len(every) > 1 else ""
        found = _examine(pairs)
        findings += [Finding(f.level, prefix + f.check, f.detail, f.items, f.values) for f in found]
    findings += _leakage(every)
    return findings


def _examine(pairs: Pairs) -> list[Finding]:
    findings = [_contents(pairs), _finite(pairs), _repeats(pairs), _sign(pairs)]
    usable = np.setdiff1d(np.arange(len(pairs.u)), [i for f in findings[1:2] for i in f.items])
    if usable.size == 0:
        return findings
    clean = Pairs(pairs.name, pairs.a[usable], pairs.u[usable])
    bad = [i for f in findings for i in f.items if f.level == "BAD"]
    trusted = np.flatnonzero(~np.isin(usable, bad))
    if trusted.size < 2:
        return findings
    core = Pairs(pairs.name, clean.a[trusted], clean.u[trusted])
    alignment = grid_alignment(core.u)
    findings.append(_alignment_finding(alignment))
    if any(_place(d) is None for ends in alignment for d in ends):
        return findings
    phases = phase_values(core.a, core.u, alignment)
    findings.append(_phase_finding(phases))
    if phases is None:
        return findings
    findings += _equation(core, phases, alignment, usable[trusted])
    return findings


def adopt(source, source_term: float = 1.0, most: int = 2000) -> tuple[Dataset, tuple[int, ...]]:
    """Other people's pairs as a dataset to train and evaluate on, and the numbers of the items that were left out.

    Items that break the maximum principle or are not finite are left out. Grid points become cells: points on a wall
    are held at 0, and where the last point lies one spacing off the wall a held row is added, with labels 0.
    Coefficients of a few values are read off the labels (for f = 1); others are taken as they are, with f = `source_term`.

    Raises
    ------
    StoreError, ProblemError
        As `examine`; and where the labels do not vanish at the sides, so that nothing is known about these.
    """
    pairs = _pairs(source, most)
    a, u, dropped = _sound(pairs)
    alignment = grid_alignment(u)
    if any(_place(d) is None for ends in alignment for d in ends):
        raise ProblemError(
            f"{pairs.name}: the labels do not vanish at the sides; pose the problems yourself (from_arrays)."
        )
    phases = phase_values(a, u, alignment)
    if phases is not None and set(np.unique(a)) == set(phases):
        coefficients, source_term = np.zeros_like(a), 1.0
        for key, (value, _) in phases.items():
            coefficients[a == key] = value
        a = coefficients
    problems = [_problem(field, alignment, source_term) for field in a]
    labels = np.zeros((len(u), *problems[0].grid.shape))
    labels[(slice(None), *_kept(alignment))] = u
    if problems[0].fixed is not None:
        labels[:, problems[0].fixed[0]] = 0.0
    return Dataset.from_arrays(problems, labels), dropped


def sampled_phases(source, most: int = 2000) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Coefficients of two values as phases: (n, m, m) bool, the m places along an axis of the unit square, and D of each phase.

    D is read off the labels, for f = 1; items that `adopt` leaves out are left out here.

    Raises
    ------
    StoreError, ProblemError
        As `adopt`; and where the coefficients take more than two values, or the samples are not a square.
    """
    pairs = _pairs(source, most)
    a, u, _ = _sound(pairs)
    alignment = grid_alignment(u)
    found = phase_values(a, u, alignment)
    low = _place(alignment[0][0])
    if found is None or len(found) != 2 or a.ndim != 3 or a.shape[1] != a.shape[2] or low is None:
        raise ProblemError(f"{pairs.name}: fields of two values on a square grid are needed here.")
    first, second = sorted(found)
    spacing = _spacings(a.shape[1:], [tuple(_place(d) for d in ends) for ends in alignment])[0]
    return a == second, (np.arange(a.shape[1]) + low) * spacing, (found[first][0], found[second][0])


def _sound(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """(a, u, numbers left out): the pairs that are finite and obey the maximum principle."""
    dropped = sorted({i for check in (_finite, _sign) for f in [check(pairs)] if f.level == "BAD" for i in f.items})
    kept = np.setdiff1d(np.arange(len(pairs.u)), dropped)
    return pairs.a[kept], pairs.u[kept], tuple(dropped)


# --- reading -----------------------------------------------------------------------------------------------------------


def _pairs(source, most: int) -> Pairs:
    if isinstance(source, Pairs):
        return source
    if isinstance(source, tuple) and len(source) == 2:
        return _checked("arrays", np.asarray(source[0]), np.asarray(source[1]), most)
    path = Path(source)
    if path.suffix == ".npz":
        arrays = store.read_npz(path)
        return _checked(path.name, _pick(arrays, _COEFFICIENTS, path), _pick(arrays, _LABELS, path), most)
    if path.suffix in (".h5", ".hdf5", ".nc"):
        with store.open_hdf5(path) as file:
            arrays = {name.rsplit("/", 1)[-1]: item for name, item in _datasets(file)}
            first = {name: item[:most] for name, item in arrays.items() if item.ndim >= 2}
        if "equilibrium" in first:  # The Well, as this package writes it: u are the frames, not the label
            first.pop("u", None)
        return _checked(path.name, _pick(first, _COEFFICIENTS, path), _pick(first, _LABELS, path), most)
    raise StoreError(f"{path}: the doctor reads .npz, .h5, .hdf5 and .nc files, and pairs of arrays.")


def _datasets(group, prefix: str = ""):
    for name, item in group.items():
        if hasattr(item, "shape"):
            yield f"{prefix}{name}", item
        else:
            yield from _datasets(item, f"{prefix}{name}/")


def _pick(arrays: dict[str, np.ndarray], names: Sequence[str], path: Path) -> np.ndarray:
    for name in names:
        if name in arrays:
            return np.asarray(arrays[name])
    raise StoreError(f"{path} holds {', '.join(arrays) or 'nothing'}; none of them is called {', '.join(names)}.")


def _checked(name: str, a: np.ndarray, u: np.ndarray, most: int) -> Pairs:
    a, u = (_squeezed(x[:most]) for x in (a, u))
    if a.shape != u.shape or a.ndim not in (2, 3, 4):
        raise ProblemError(
            f"{name}: coefficients have shape {a.shape} and labels {u.shape}; both must be (n, *grid shape)."
        )
    if min(a.shape[1:]) < 6:
        raise ProblemError(
            f"{name}: a grid of {a.shape[1:]} is too small to examine; at least 6 points per axis are needed."
        )
    return Pairs(name, a.astype(np.float64), u.astype(np.float64))


def _squeezed(x: np.ndarray) -> np.ndarray:
    """Without axes of one channel or one time step."""
    if x.dtype.kind not in "biuf":
        raise ProblemError(f"an array of dtype {x.dtype} holds no numbers.")
    return x.reshape(x.shape[0], *(n for n in x.shape[1:] if n > 1)) if x.ndim > 1 else x


# --- one file ----------------------------------------------------------------------------------------------------------


def _contents(pairs: Pairs) -> Finding:
    values = np.unique(pairs.a[np.isfinite(pairs.a)])
    kind = f"{len(values)} values ({', '.join(f'{v:g}' for v in values)})" if len(values) <= 4 else "many values"
    shape = "x".join(map(str, pairs.u.shape[1:]))
    return Finding("note", "contents", f"{len(pairs.u)} pairs on {shape} points; coefficients take {kind}")


def _finite(pairs: Pairs) -> Finding:
    axes = tuple(range(1, pairs.u.ndim))
    bad = np.flatnonzero(~(np.isfinite(pairs.u).all(axis=axes) & np.isfinite(pairs.a).all(axis=axes)))
    if bad.size:
        return Finding("BAD", "finite", f"{bad.size} pairs hold NaN or infinity: {_listed(bad)}", tuple(map(int, bad)))
    return Finding("ok", "finite", "all values are finite")


def _repeats(pairs: Pairs) -> Finding:
    seen: dict[str, list[int]] = {}
    for i, digest in enumerate(_digests(pairs)):
        seen.setdefault(digest, []).append(i)
    groups = [group for group in seen.values() if len(group) > 1]
    if not groups:
        return Finding("ok", "repeats", "no coefficient field appears twice")
    extra = tuple(i for group in groups for i in group[1:])
    return Finding("note", "repeats", f"{len(extra)} coefficient fields repeat an earlier one: {_listed(extra)}", extra)


def _sign(pairs: Pairs) -> Finding:
    """A source of one sign and zero sides give labels of that sign: the maximum principle."""
    axes = tuple(range(1, pairs.u.ndim))
    u = np.nan_to_num(pairs.u)
    sign = 1.0 if np.median(u.mean(axis=axes)) >= 0 else -1.0
    low, size = (sign * u).min(axis=axes), np.abs(u).max(axis=axes)
    bad = np.flatnonzero(low < -_STRAY * np.where(size > 0, size, 1.0))
    if bad.size == 0:
        return Finding(
            "ok", "maximum principle", "no label changes sign, as a source of one sign and zero sides demand"
        )
    if bad.size > 0.2 * len(u):
        return Finding(
            "note", "maximum principle", "labels change sign: the source or the sides do, so it says nothing here"
        )
    worst = int(bad[np.argmin(low[bad])])
    detail = (
        f"{bad.size} of {len(u)} labels have values of the wrong sign, against the maximum principle: items {_listed(bad)}; "
        f"worst item {worst} with {sign * low[worst]:.3g}"
    )
    return Finding(
        "BAD", "maximum principle", detail, tuple(map(int, bad)), {"worst": worst, "lowest": float(low[worst])}
    )


def grid_alignment(u: np.ndarray) -> list[tuple[float, float]]:
    """Per axis, how far before the first and behind the last sample the labels vanish, in sample spacings.

    0.5 and 0.5: cell centres. 0 and 0: nodes, walls included. 1 and 1: inner nodes. From the cubic through the first
    four points of the mean profile.
    """
    result = []
    for axis in range(1, u.ndim):
        profile = np.moveaxis(u, axis, 0).reshape(u.shape[axis], -1).mean(axis=1)
        result.append((_vanishing(profile), _vanishing(profile[::-1])))
    return result


def _vanishing(profile: np.ndarray) -> float:
    roots = np.roots(np.polyfit(np.arange(4), profile[:4], 3))
    real = roots[np.abs(roots.imag) < 1e-9].real
    return float(-real[np.argmin(np.abs(real))]) if real.size else math.nan


def _alignment_finding(alignment: list[tuple[float, float]]) -> Finding:
    names = {0.0: "on the wall", 0.5: "half a cell inside", 1.0: "one cell inside", None: "nowhere near the wall"}
    kinds, words = [], []
    for ends, axis in zip(alignment, "xyz", strict=False):
        kinds.append(tuple(_place(d) for d in ends))
        first, last = (names[kind] for kind in kinds[-1])
        words.append(f"{axis}: first point {first} ({ends[0]:.3f}), last point {last} ({ends[1]:.3f})")
    values = {"distances": alignment}
    detail = "; ".join(words) + " (distances to where labels vanish, in spacings)"
    if any(end is None for ends in kinds for end in ends):
        return Finding("note", "grid alignment", f"labels do not vanish at the sides: {detail}", values=values)
    if any(low != high for low, high in kinds):
        return Finding("BAD", "grid alignment", f"the grid is not symmetric (point-sampled?): {detail}", values=values)
    return Finding("ok", "grid alignment", detail, values=values)


def _place(distance: float) -> float | None:
    """The usual place that a distance to the wall is nearest to, in spacings; None where labels do not vanish there."""
    if not -0.25 <= distance <= 1.5:
        return None
    return min((0.0, 0.5, 1.0), key=lambda place: abs(place - distance))


def _spacings(shape: Sequence[int], alignment) -> list[float]:
    """Distance of the samples per axis where the box is the unit cube."""
    return [1.0 / (n - 1 + low + high) for n, (low, high) in zip(shape, alignment, strict=True)]


def phase_values(a: np.ndarray, u: np.ndarray, alignment) -> dict[float, tuple[float, float]] | None:
    """{value in the file: (coefficient for f = 1, relative quartile spread)} from the labels' curvature.

    Where all 5 neighbours along every axis are of one phase, ``a = f / (-laplace u)`` up to the second order of the
    spacing, whatever the discretisation that made the labels. None where the coefficients take many values.
    """
    values = np.unique(a)
    if len(values) > 4:
        return None
    laplace = np.zeros([n - 4 for n in u.shape[1:]])
    inner = (slice(None), *(slice(2, -2),) * (u.ndim - 1))
    laplace = np.zeros(u[inner].shape)
    uniform = np.ones(laplace.shape, dtype=bool)
    for axis, h in enumerate(_spacings(u.shape[1:], alignment), start=1):
        around = []
        for shift in (-2, -1, 1, 2):
            index = list(inner)
            index[axis] = slice(2 + shift, u.shape[axis] - 2 + shift)
            around.append(tuple(index))
            uniform &= a[tuple(index)] == a[inner]
        # fourth order: (-u(-2h) + 16 u(-h) - 30 u + 16 u(h) - u(2h)) / 12 h^2
        laplace += (16 * (u[around[1]] + u[around[2]]) - u[around[0]] - u[around[3]] - 30 * u[inner]) / (12 * h * h)
    result = {}
    for value in values:
        curvature = -laplace[uniform & (a[inner] == value)]
        if curvature.size < 20 or not np.median(curvature) > 0:
            continue
        low, middle, high = np.quantile(curvature, [0.25, 0.5, 0.75])
        result[float(value)] = (float(1 / middle), float((high - low) / middle))
    return result or None


def _phase_finding(phases) -> Finding:
    if phases is None:
        return Finding(
            "note", "coefficients", "they take many values, or never a uniform patch: not inferred from the labels"
        )
    words = [f"{key:g} means a = {a:.4g} (spread {100 * spread:.1f} %)" for key, (a, spread) in phases.items()]
    level = "ok" if all(spread < 0.2 for _, spread in phases.values()) else "BAD"
    scaled = [a / key for key, (a, _) in phases.items() if key > 0]
    note = ""
    if len(scaled) == len(phases) and max(scaled) < 1.1 * min(scaled):
        note = f"; this is the file's own a with f = {1 / np.mean(scaled):.3g}"
    tail = (
        ""
        if level == "ok"
        else "; the curvature of the labels varies inside one phase: another equation, or no equilibria"
    )
    return Finding(level, "coefficients", f"for f = 1, {'; '.join(words)}{note}{tail}", values={"a": phases})


def _equation(pairs: Pairs, phases, alignment, numbers: np.ndarray) -> list[Finding]:
    """Labels against solutions on their own points, with the coefficients that were found."""
    if set(np.unique(pairs.a)) != set(phases):
        return [
            Finding("note", "equation", "a phase has no uniform patch to read its coefficient from: not solved again")
        ]
    chosen = np.arange(min(len(pairs.u), _SAMPLE * 4))
    a = np.zeros_like(pairs.a[chosen])
    for key, (value, _) in phases.items():
        a[pairs.a[chosen] == key] = value
    problems = [_problem(field, alignment) for field in a]
    keep = _kept(alignment)
    solved = np.stack([s.u[keep] for s in diffsim.equilibrium(problems, tol=1e-8)])
    flat, own = pairs.u[chosen].reshape(len(chosen), -1), solved.reshape(len(chosen), -1)
    misfit = np.linalg.norm(flat - own, axis=1) / np.linalg.norm(flat, axis=1)
    median = float(np.median(misfit))
    level = "ok" if median < 0.3 else "BAD"
    verdict = (
        "the labels solve -div(a grad u) = 1 up to" if level == "ok" else "the labels do NOT solve -div(a grad u) = 1:"
    )
    findings = [
        Finding(
            level,
            "equation",
            f"{verdict} {100 * median:.1f} % (median; mean {100 * misfit.mean():.1f} %), which includes the error of solving "
            "on these points",
            values={"median": median, "mean": float(misfit.mean())},
        )
    ]
    odd = np.flatnonzero(misfit > _OUTLIER * median)
    if odd.size:
        listed = numbers[chosen][odd]
        detail = f"{odd.size} labels are off by more than {_OUTLIER:g} times the median: items {_listed(listed)}"
        findings.append(Finding("BAD", "outliers", detail, tuple(map(int, listed))))
    else:
        findings.append(Finding("ok", "outliers", f"no label is off by more than {_OUTLIER:g} times the median"))
    scale = (flat * own).sum(axis=1) / (own * own).sum(axis=1)
    spread = float(np.std(scale) / abs(np.mean(scale)))
    level = "ok" if spread < 0.15 else "BAD"
    detail = f"labels are {np.mean(scale):.3f} times the solutions, varying by {100 * spread:.1f} % between items"
    detail += "" if level == "ok" else "; the source or the scale is not the same everywhere"
    findings.append(Finding(level, "scale", detail, values={"mean": float(np.mean(scale)), "spread": spread}))
    return findings


def _problem(a: np.ndarray, alignment, source: float = 1.0) -> Problem:
    """The samples as the unit box with zero sides: points on a wall are held at 0, points one spacing off get such a row."""
    kinds = [tuple(_place(d) for d in ends) for ends in alignment]
    edges, mask_rows = [], []
    for axis, (low, high) in enumerate(kinds):
        pads = (int(low == 1.0), int(high == 1.0))
        a = np.pad(a, [pads if b == axis else (0, 0) for b in range(a.ndim)], mode="edge")
        h = 1.0 / (a.shape[axis] - 1 - sum(pads) + low + high)
        edges.append((np.arange(a.shape[axis] + 1) - 0.5) * h)
        mask_rows.append((low != 0.5, high != 0.5))
    held = np.zeros(a.shape, dtype=bool)
    for axis, ends in enumerate(mask_rows):
        for end, is_held in zip((0, -1), ends, strict=True):
            if is_held:
                held[(slice(None),) * axis + (end,)] = True
    grid = Grid.from_edges(edges)
    sides = {axis: Dirichlet(0.0) for axis in grid.axes}
    return Problem(grid, diffusivity=a, source=source, boundary=sides, fixed=(held, 0.0) if held.any() else None)


def _kept(alignment) -> tuple[slice, ...]:
    """The part of `_problem`'s grid that the samples fill."""
    cut = []
    for low, high in alignment:
        pads = [int(_place(d) == 1.0) for d in (low, high)]
        cut.append(slice(pads[0], -1 if pads[1] else None))
    return tuple(cut)


# --- several files -----------------------------------------------------------------------------------------------------


def _leakage(every: Sequence[Pairs]) -> list[Finding]:
    findings = []
    for k, first in enumerate(every):
        known = dict(zip(_digests(first), range(len(first.a)), strict=True))
        for second in every[k + 1 :]:
            shared = [i for i, digest in enumerate(_digests(second)) if digest in known]
            check = "leakage"
            if shared:
                detail = f"{len(shared)} coefficient fields of {second.name} are also in {first.name}: items {_listed(shared)}"
                findings.append(Finding("BAD", check, detail, tuple(shared)))
            else:
                findings.append(Finding("ok", check, f"{first.name} and {second.name} share no coefficient field"))
    return findings


def _digests(pairs: Pairs) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(field).tobytes()).hexdigest() for field in pairs.a]


def _listed(items, most: int = 12) -> str:
    shown = ", ".join(str(int(i)) for i in list(items)[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
