"""A saved run, examined: its frames, its balance, and with its problem the physics of sampled steps, redone."""

from dataclasses import dataclass, replace

import numpy as np

from .problem import Problem
from .trajectory import Trajectory

_BALANCE = 1e-6  # relative; explicit runs reach rounding, implicit ones the tolerance of their solves
_REDONE = 5e-3  # of the span of the run: ten times what the coarsest default tolerance leaves
_SAMPLES = 8


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it held, and a sentence."""

    check: str
    ok: bool
    detail: str


def examine(run: Trajectory, problem: Problem | None = None) -> list[Finding]:
    """All checks of `run`; with its `problem`, its content is summed anew and sampled steps are redone by another method."""
    findings = [
        Finding("status", run.ok, f"{run.status}: {run.message}"),
        _times(run),
        _finite(run),
        _frozen(run),
        Finding("balance", bool(run.balance <= _BALANCE), f"{run.balance:.1e} of the content is unaccounted for"),
    ]
    if problem is not None and all(finding.ok for finding in findings[1:3]):
        findings += [_content(run, problem), _steps(run, problem)]
    return findings


def _times(run: Trajectory) -> Finding:
    ok = bool(np.isfinite(run.t).all() and (np.diff(run.t) > 0).all())
    return Finding(
        "times", ok, f"{len(run.t)} frames, t = {run.t[0]:g} to {run.t[-1]:g}" + ("" if ok else ", not increasing")
    )


def _finite(run: Trajectory) -> Finding:
    voids = np.isnan(run.u[0])
    wrong = [k for k, u in enumerate(run.u) if not (np.isnan(u) == voids).all() or np.isinf(u).any()]
    detail = (
        f"frames {wrong[:5]} hold values that are not finite"
        if wrong
        else f"{int(voids.sum())} void cells in every frame"
    )
    return Finding("values", not wrong and not voids.all(), detail)


def _frozen(run: Trajectory) -> Finding:
    """A frame equal to the one before it, although the state moves again later."""
    same = [np.array_equal(a, b, equal_nan=True) for a, b in zip(run.u, run.u[1:], strict=False)]
    frozen = [k + 1 for k in range(len(same) - 1) if same[k] and not same[k + 1]]
    at_rest = bool(same) and same[0] and frozen == list(range(frozen[0], frozen[0] + 1)) if frozen else False
    ok = not frozen or at_rest  # a run may rest before data over time set it in motion
    return Finding(
        "motion", ok, "no frame repeats another" if ok else f"frames {frozen[:5]} repeat the one before them"
    )


def _content(run: Trajectory, problem: Problem) -> Finding:
    if run.u.shape[1:] != problem.grid.shape:
        return Finding("content", False, f"the run has {run.u.shape[1:]} cells, the problem {problem.grid.shape}")
    weights = problem.capacity * problem.grid.volumes
    content = np.array([np.nansum(weights * u) for u in run.u])
    scale = np.array([np.nansum(weights * np.abs(u)) for u in run.u]).max() or 1.0
    worst = float(np.abs(content - run.content).max() / scale)
    return Finding("content", worst <= 1e-10, f"summed anew it differs by {worst:.1e}")


def _steps(run: Trajectory, problem: Problem) -> Finding:
    from .simulate import simulate

    span = float(np.nanmax(run.u) - np.nanmin(run.u)) or 1.0
    worst, where = 0.0, 0
    for k in sorted({int(k) for k in np.linspace(0, len(run.t) - 2, _SAMPLES)} if len(run.t) > 1 else ()):
        start = replace(run, t=run.t[: k + 1], u=run.u[: k + 1])
        scheme = "backward-euler" if not problem.linear else "tr-bdf2" if run.scheme != "tr-bdf2" else "sdirk3"
        again = simulate(problem, start, float(run.t[k + 1]), scheme=scheme, tol=1e-5, save="final", progress=False)
        error = float(np.nanmax(np.abs(again.final - run.u[k + 1]))) / span
        if not error <= worst:
            worst, where = error, k + 1
    return Finding(
        "steps", worst <= _REDONE, f"redone by another method, frame {where} differs most: {worst:.1e} of the span"
    )
