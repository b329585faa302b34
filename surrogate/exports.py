"""Datasets in the layouts of others: xarray/NetCDF, PDEBench, The Well."""

import json
from pathlib import Path

import numpy as np

from diffsim import store
from diffsim.errors import ProblemError


def to_xarray(data, part=None):
    """An xarray Dataset with named dimensions and coordinates."""
    import xarray

    grid, arrays = data[0].problem.grid, data.arrays(part)
    coordinates = {"item": data.indices(part), **dict(zip(grid.axes, grid.centers, strict=True))}
    stored = [name for name in ("u", "diffusivity", "source") if name in arrays]
    variables = {name: (("item", *grid.axes), arrays[name]) for name in stored}
    if "frames" in arrays:
        variables["frames"] = (("item", "frame", *grid.axes), arrays["frames"])
        variables["time"] = (("item", "frame"), arrays["times"])
    return xarray.Dataset(variables, coordinates, {"settings": json.dumps(data.settings)})


def to_pdebench(data, path: str | Path, part=None) -> None:
    """PDEBench's 2-D Darcy flow: ``nu`` (n, nx, ny), ``tensor`` (n, 1, nx, ny), and the coordinates of the centres."""
    if len(data.shape) != 2 or data.task != "coefficients":
        raise ProblemError("the PDEBench layout written here is that of its 2-D Darcy equilibria; this is not.")
    arrays, grid = data.arrays(part), data[0].problem.grid
    with store.create_hdf5(path) as file:
        file["nu"] = arrays["diffusivity"]
        file["tensor"] = arrays["u"][:, None]
        for name, centers in zip(("x-coordinate", "y-coordinate"), grid.centers, strict=True):
            file[name] = centers


def to_well(data, path: str | Path, part=None) -> None:
    """The Well: fields grouped by tensor rank, (trajectory, time, *space), one file of one grid.

    Trajectories carry their frames and their equilibrium; equilibria are single steps. The layout is that of the
    project's data-format page (polymathic-ai/the_well).
    """
    arrays, grid = data.arrays(part), data[0].problem.grid
    frames = arrays.get("frames", arrays["u"][:, None])
    times = arrays.get("times", np.zeros(1))
    text = lambda names: np.array(names, dtype="S16")  # noqa: E731
    with store.create_hdf5(path) as file:
        file.attrs.update(
            dataset_name=data.spec.name if data.spec else "given",
            grid_type="cartesian",
            n_spatial_dims=grid.ndim,
            n_trajectories=len(frames),
            simulation_parameters=text([]),
        )
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = text(grid.axes)
        for name, centers in zip(grid.axes, grid.centers, strict=True):
            _field(dimensions, name, centers, sample=False, time=False)
        _field(dimensions, "time", times, sample=times.ndim > 1, time=True)
        scalars = file.create_group("t0_fields")
        _field(scalars, "u", frames, sample=True, time=True, spatial=grid.ndim)
        for name in ("diffusivity", "source"):
            if name in arrays:
                _field(scalars, name, arrays[name], sample=True, time=False, spatial=grid.ndim)
        if "frames" in arrays:
            _field(scalars, "equilibrium", arrays["u"], sample=True, time=False, spatial=grid.ndim)
        scalars.attrs["field_names"] = text(list(scalars))
        for name in ("t1_fields", "t2_fields", "scalars"):
            file.create_group(name).attrs["field_names"] = text([])
        conditions = file.create_group("boundary_conditions")
        for axis, n in zip(grid.axes, grid.shape, strict=True):
            wall = conditions.create_group(f"{axis}_wall")
            wall.attrs.update(
                bc_type="WALL",
                associated_fields=text(["u"]),
                associated_dims=text([axis]),
                sample_varying=False,
                time_varying=False,
            )
            mask = np.zeros(n, dtype=bool)
            mask[[0, -1]] = True
            wall["mask"] = mask


def _field(group, name: str, values: np.ndarray, sample: bool, time: bool, spatial: int = 0) -> None:
    dataset = group.create_dataset(name, data=values)
    dataset.attrs.update(sample_varying=sample, time_varying=time)
    if spatial:
        dataset.attrs["dim_varying"] = np.ones(spatial, dtype=bool)
