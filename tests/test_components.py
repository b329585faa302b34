"""Components by union-find against scipy's search."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import diffsim as ds
from diffsim.operator import discretize


@pytest.mark.parametrize("density", [0.3, 0.55, 0.8])
@pytest.mark.parametrize("wrap", [(), ("x",), ("x", "y", "z")], ids=lambda w: "".join(w) or "none")
@pytest.mark.parametrize("shape", [(40,), (13, 17), (6, 7, 8)], ids=str)
def test_components_match_a_graph_search(shape, wrap, density):
    active = np.random.default_rng(1).random(shape) < density
    active.flat[:2] = True
    sides = {axis: ds.Periodic() for axis in "xyz"[: len(shape)] if axis in wrap}
    if "x" not in wrap:
        sides["x-"] = ds.Dirichlet(1.0)
    operator = discretize(
        ds.Problem(ds.Grid(shape=shape, lengths=(1.0,) * len(shape)), 1.0, active=active, boundary=sides)
    )
    labels, count, anchored = operator.components

    K = coo_array(operator.matrix())
    _, raw = connected_components(coo_array((np.abs(K.data), (K.row, K.col)), shape=K.shape), directed=False)
    free = operator.free.ravel()
    kept, first, want = np.unique(raw[free], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # numbered by first cell
    assert count == kept.size
    assert np.array_equal(labels.ravel()[free], order[want])
    assert (labels.ravel()[~free] == -1).all()
    held = np.bincount(labels.ravel()[free], operator.diagonal.ravel()[free], minlength=count) > 0
    assert np.array_equal(anchored, held)
