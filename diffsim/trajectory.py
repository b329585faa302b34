"""What a run leaves behind: frames, histories, a status in words, and the balance of its content."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import ProblemError
from .grid import Grid

STATUSES = ("finished", "stopped", "unstable", "failed", "interrupted")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The result of `simulate`.

    Attributes
    ----------
    t, u
        Frame times (n,) [s] and frames (n, *grid.shape); NaN in voids.
    status, message
        "finished" (reached `until`), "stopped" (the stop rule held), "unstable" (blew up), "failed" (a solve did not
        converge), "interrupted" (Ctrl-C); and one sentence about it.
    content
        sum of c V u at the frames, (n,).
    balance
        |start + inflow + sources - losses - now| over the largest of them: what the run lost or made up, relative.
    flows
        {side: flow into the domain at the frames (n,)}.
    probes
        {name: (times, values)}.
    stats
        Counts of work: steps, rejected, stages, solves, iterations, what limited the step, ...
    """

    t: np.ndarray
    u: np.ndarray
    status: str
    message: str
    grid: Grid
    scheme: str
    dt: float
    content: np.ndarray
    balance: float
    flows: Mapping[str, np.ndarray] = field(default_factory=dict)
    probes: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    stats: Mapping[str, object] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """The run reached its end or its stop rule."""
        return self.status in ("finished", "stopped")

    @property
    def final(self) -> np.ndarray:
        """The last frame, grid.shape."""
        return self.u[-1]

    def flow(self, side: str) -> np.ndarray:
        """Flow INTO the domain through `side` at the frames, (n,)."""
        if side in self.grid.axes:
            return self.flows[f"{side}-"] + self.flows[f"{side}+"]
        if side not in self.flows:
            raise ProblemError(f"side {side!r} does not exist; this run has {', '.join(self.flows)}.")
        return self.flows[side]

    def plot(self, path: str | Path | None = None):
        """The frames on one scale; returns the matplotlib Figure, written to `path` where given."""
        from .plots import frames

        return frames(self, path=path)

    def animate(self, path: str | Path):
        """Write an animated GIF of the frames."""
        from .plots import animation

        animation(self, path)

    def save(self, path: str | Path) -> None:
        """Store the run in one HDF5 file, written atomically; `diffsim.load` reads it back."""
        from . import store

        store.save_trajectory(self, path)

    def to_xarray(self):
        """An xarray Dataset with named dimensions and coordinates."""
        import xarray

        dims = self.grid.axes
        coordinates = {"t": self.t, **dict(zip(dims, self.grid.centers, strict=True))}
        variables: dict = {"u": (("t", *dims), self.u), "content": ("t", self.content)}
        variables |= {f"flow_{side}": ("t", values) for side, values in self.flows.items()}
        attributes = {"status": self.status, "message": self.message, "scheme": self.scheme, "balance": self.balance}
        return xarray.Dataset(variables, coordinates, attributes)

    def __repr__(self) -> str:
        return (
            f"Trajectory({self.status}: {len(self.t)} frames of {'x'.join(map(str, self.grid.shape))}, t = {self.t[0]:g} to "
            f"{self.t[-1]:g}, {self.scheme}, {self.stats.get('steps', 0)} steps, balance {self.balance:.1e})"
        )
