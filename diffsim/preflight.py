"""What a run will do and need, worked out before it starts."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import resources
from .errors import ProblemError
from .footprint import count_frames
from .problem import PerAxis, Problem, Tensor
from .trajectory import Trajectory

_LONG = 1e3  # diffusion times: a run that long ends in equilibrium, and its units deserve a look
_SHORT = 1e-8


@dataclass(frozen=True)
class Survey:
    """The facts of a run before its first step.

    `step` and `fourier` (its mesh Fourier number) are None where the step adapts along the run, `steps` is then None
    too. `limit` is the largest stable step (inf where there is none), `diffusion_time` is L^2 c / D with the longest
    side, the smallest capacity and the largest diffusivity.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    diffusivity: tuple[float, float]
    diffusion_time: float
    duration: float
    scheme: str
    limit: float
    step: float | None
    fourier: float | None
    fourier_limit: float
    steps: int | None
    frames: int
    memory: int
    disk: int
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """The survey for machines."""
        return vars(self)

    def rows(self) -> list[tuple[str, str]]:
        """The survey for people."""
        low, high = self.diffusivity
        step, steps = "adapts", "adapts"
        if self.step is not None and self.fourier is not None:
            limit = (
                f", stable up to {self.limit:.6g} (Fo {self.fourier_limit:.4g})" if math.isfinite(self.limit) else ""
            )
            step, steps = f"{self.step:.6g}, mesh Fourier number {self.fourier:.4g}{limit}", f"about {self.steps}"
        return [
            (
                "grid",
                f"{' x '.join(map(str, self.shape))} cells, spacing {' x '.join(f'{h:.4g}' for h in self.spacing)}",
            ),
            ("diffusivity", f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"),
            ("diffusion time", f"{self.diffusion_time:.4g} (L^2 c / D); the run lasts {self.duration:.4g}"),
            ("scheme", self.scheme),
            ("step", step),
            ("steps", steps),
            (
                "memory, disk",
                f"{resources.readable(self.memory)}, {resources.readable(self.disk)} for {self.frames} frames",
            ),
        ]

    def require_room(self, folder: Path) -> None:
        """A `ResourceError` where the frames would not fit on the disk of `folder`."""
        resources.require_disk(folder, self.disk, f"saving {self.frames} frames")


def survey(problem: Problem, initial: Any, settings: dict[str, Any]) -> Survey:
    """What ``simulate(problem, initial, **settings)`` will do.

    Raises
    ------
    ProblemError
        Where the run would end before it starts.
    ResourceError
        Where it does not fit into memory; nothing of the size of the grid was allocated then.
    StabilityError
        Where the step is not stable and the policy is to raise.
    """
    from .schemes import scheme_of
    from .simulate import DEFAULT_TOL, LEAST, choose, frame_times, largest_good_step, leaps, require_room
    from .stability import allowed_step, check_step, mesh_fourier
    from .steppers import System

    step = None if settings["dt"] == "auto" else settings["dt"]
    scheme = scheme_of(LEAST if settings["scheme"] == "auto" else settings["scheme"])
    needs = {name: settings[name] for name in ("save", "tol", "on_unstable", "stop", "noise") if name in settings}
    available = resources.memory_available()
    memory = require_room(problem, scheme, available, step=step, **needs)
    begin = float(initial.t[-1]) if isinstance(initial, Trajectory) else 0.0
    duration = settings["until"] - begin
    if duration < 0:
        raise ProblemError(f"until = {settings['until']:g} lies before the start at t = {begin:g}; give a later time.")
    system = System(problem, problem.grid.field("initial", state(problem, initial), where=problem.active), begin)
    operator = system.first
    if settings["scheme"] == "auto":
        watched = settings.get("stop") is not None or bool(settings.get("probes"))
        times = frame_times(settings["save"], begin, settings["until"])
        scheme = choose(system, duration, settings["tol"] or DEFAULT_TOL, leaps(times, begin, watched))
        memory = require_room(problem, scheme, available, step=step, **needs)
    if step is not None and settings["on_unstable"] == "raise":
        check_step(operator, scheme, step)
    elif step is None and scheme.explicit and scheme.stages is not None and settings["tol"] is None:
        step = largest_good_step(operator, scheme)
    limit = allowed_step(operator, scheme)
    fourier = mesh_fourier(operator)
    low, high = _range(problem.diffusivity)
    frames = count_frames(settings["save"])
    diffusion_time = max(problem.grid.lengths) ** 2 * float(np.min(problem.capacity)) / high
    return Survey(
        shape=problem.grid.shape,
        spacing=problem.grid.spacing,
        diffusivity=(low, high),
        diffusion_time=diffusion_time,
        duration=duration,
        scheme=scheme.name,
        limit=limit,
        step=step,
        fourier=None if step is None else fourier * step,
        fourier_limit=fourier * limit,
        steps=None if step is None else math.ceil(duration / step * (1 - 1e-12)),
        frames=frames,
        memory=memory,
        disk=8 * problem.grid.size * frames,
        warnings=tuple(_warnings(duration, diffusion_time)),
    )


def state(problem: Problem, initial: Any) -> Any:
    """The field that a run starts from."""
    return initial.final if isinstance(initial, Trajectory) else initial


def _range(diffusivity: Any) -> tuple[float, float]:
    entries: tuple[Any, ...] = (diffusivity,)
    if isinstance(diffusivity, PerAxis):
        entries = diffusivity.values
    elif isinstance(diffusivity, Tensor):
        entries = (diffusivity.xx, diffusivity.yy)
    return min(float(np.min(entry)) for entry in entries), max(float(np.max(entry)) for entry in entries)


def _warnings(duration: float, diffusion_time: float) -> list[str]:
    times = duration / diffusion_time
    if times > _LONG:
        return [
            f"the run lasts {times:.2g} times the diffusion time L^2 c / D = {diffusion_time:.3g}: it ends in equilibrium "
            "long before. Are the units right (m, s, m^2/s)? `diffsim equilibrium` goes there directly."
        ]
    if 0 < times < _SHORT:
        return [
            f"the run lasts only {times:.2g} of the diffusion time L^2 c / D = {diffusion_time:.3g}: next to nothing will "
            "move. Are the units right (m, s, m^2/s)?"
        ]
    return []
