"""Trajectories as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ProblemError, StoreError
from .hdf5 import read_hdf5, write_hdf5

if TYPE_CHECKING:
    from ..trajectory import Trajectory

_VERSION = 1


def save_trajectory(trajectory: "Trajectory", path) -> str:
    """Write `trajectory` to a sealed HDF5 file, atomically; its SHA-256. The problem itself is not stored.

    Arrays: `t`, `u`, `content`, one `edges.N` per axis of the grid, `flow.SIDE` per side, `probe.N.times` and
    `probe.N.values` per probe. The rest is in the metadata.
    """
    grid = trajectory.grid
    probes = sorted(trajectory.probes)
    arrays = {"t": trajectory.t, "u": trajectory.u, "content": trajectory.content}
    arrays |= {f"edges.{axis}": edge for axis, edge in enumerate(grid.edges)}
    arrays |= {f"flow.{side}": flow for side, flow in trajectory.flows.items()}
    for number, name in enumerate(probes):
        arrays[f"probe.{number}.times"], arrays[f"probe.{number}.values"] = trajectory.probes[name]
    metadata = {
        "kind": "trajectory",
        "version": _VERSION,
        "grid": {
            "shape": grid.shape,
            "lengths": grid.lengths,
            "origin": grid.origin,
            "geometry": grid.geometry,
        },
        "status": trajectory.status,
        "message": trajectory.message,
        "scheme": trajectory.scheme,
        "dt": trajectory.dt,
        "balance": trajectory.balance,
        "stats": dict(trajectory.stats),
        "probes": probes,
    }
    return write_hdf5(path, arrays, metadata)


def load(path) -> "Trajectory":
    """The trajectory in a file that `Trajectory.save` wrote, bit for bit.

    Raises
    ------
    StoreError
        Where the file is missing, damaged, or not a trajectory.
    """
    from ..grid import Grid
    from ..trajectory import Trajectory

    path = Path(path)
    arrays, metadata = read_hdf5(path)
    if metadata.get("kind") != "trajectory":
        raise StoreError(f"{path} holds {metadata.get('kind', 'something')!r}, not a trajectory.")
    if metadata.get("version", 0) > _VERSION:
        raise StoreError(f"{path} has trajectory format {metadata['version']}, newer than {_VERSION}. Upgrade diffsim.")
    try:
        axes: dict[str, Any] = metadata["grid"]
        grid = Grid(
            shape=tuple(axes["shape"]),
            lengths=tuple(axes["lengths"]),
            geometry=axes["geometry"],
            origin=tuple(axes["origin"]),
            edges=tuple(arrays[f"edges.{axis}"] for axis in range(len(axes["shape"]))),
        )
        n_frames = arrays["t"].shape[0]
        if arrays["u"].shape != (n_frames, *grid.shape) or arrays["content"].shape != (n_frames,):
            raise ProblemError(f"u has shape {arrays['u'].shape} for {n_frames} frames on {grid.shape} cells")
        return Trajectory(
            grid=grid,
            t=arrays["t"],
            u=arrays["u"],
            content=arrays["content"],
            flows={name.removeprefix("flow."): a for name, a in arrays.items() if name.startswith("flow.")},
            probes={name: _probe(arrays, number) for number, name in enumerate(metadata["probes"])},
            **{name: metadata[name] for name in ("status", "message", "scheme", "dt", "balance", "stats")},
        )
    except (KeyError, TypeError, ProblemError) as error:
        raise StoreError(f"{path} is not a complete trajectory: {error}.") from error


def _probe(arrays: dict[str, np.ndarray], number: int) -> tuple[np.ndarray, np.ndarray]:
    return arrays[f"probe.{number}.times"], arrays[f"probe.{number}.values"]
