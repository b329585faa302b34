"""Random problems of every kind that can be posed, from a seed; small enough for dense linear algebra."""

import numpy as np

import diffsim as ds

KINDS = ("value", "flux", "robin", "periodic")


def random_side(rng, shape, kinds=KINDS[:3]):
    kind = rng.choice(kinds)
    value = rng.normal() if rng.random() < 0.7 or not shape else rng.normal(size=shape)
    if kind == "value":
        return ds.Dirichlet(value)
    if kind == "flux":
        return ds.Neumann(value if rng.random() < 0.5 else 0.0)
    return ds.Robin(h=float(rng.uniform(0, 5)), ambient=value)


def random_grid(rng, most_cells=60):
    ndim = int(rng.integers(1, 4))
    geometry = rng.choice(["cartesian"] * 4 + ["cylindrical"] * (ndim <= 2) + ["spherical"] * (ndim == 1))
    most = {1: most_cells, 2: int(most_cells**0.5) + 2, 3: 5}[ndim]
    shape = tuple(int(n) for n in rng.integers(1 if ndim > 1 else 2, most, size=ndim))
    lengths = tuple(rng.uniform(0.5, 3.0, size=ndim))
    if rng.random() < 0.5:
        return ds.Grid(shape=shape, lengths=lengths, geometry=geometry)
    edges = [np.concatenate([[0.0], np.cumsum(rng.uniform(0.3, 1.0, size=n))]) + (rng.random() < 0.5) for n in shape]
    return ds.Grid.from_edges(edges, geometry=geometry)


def random_problem(seed, grid=None, **given):
    """A steady linear problem; `given` arguments override the drawn ones."""
    rng = np.random.default_rng(seed)
    grid = grid or random_grid(rng)
    boundary = {}
    for axis in grid.axes:
        if axis != "r" and rng.random() < 0.2:
            boundary[axis] = ds.Periodic()
            continue
        for end in "-+":
            if not (axis == "r" and end == "-" and grid.edges[0][0] == 0):
                boundary[f"{axis}{end}"] = random_side(rng, grid.side_shape(f"{axis}{end}"))
    arguments = {"boundary": boundary}
    contrast = 10 ** rng.uniform(0, 6)
    kind = rng.random()
    if kind < 0.3:
        arguments["diffusivity"] = float(rng.uniform(0.1, 3))
    elif kind < 0.8:
        arguments["diffusivity"] = contrast ** rng.random(grid.shape)
    else:
        arguments["diffusivity"] = ds.PerAxis(*[float(x) for x in rng.uniform(0.1, 3, size=grid.ndim)])
    if rng.random() < 0.3:
        arguments["capacity"] = rng.uniform(0.5, 2, size=grid.shape)
    if rng.random() < 0.3:
        arguments["loss"] = float(rng.uniform(0, 2))
        arguments["ambient"] = float(rng.normal())
    if rng.random() < 0.5:
        arguments["source"] = rng.normal(size=grid.shape)
    if rng.random() < 0.3 and grid.size > 4:
        active = rng.random(grid.shape) < 0.8
        active.flat[0] = True
        arguments["active"] = active
        boundary["void"] = random_side(rng, ())
        if rng.random() < 0.5:
            mask = active & (rng.random(grid.shape) < 0.15)
            arguments["fixed"] = (mask, rng.normal(size=grid.shape))
    return ds.Problem(grid, **{**arguments, **given})
