"""Connected components of the cells of a padded grid, by union-find over the conducting faces."""

import numba
import numpy as np


@numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _root(parent, cell):
    """The smallest cell known to be joined to `cell`; halves the path on the way."""
    while parent[cell] != cell:
        parent[cell] = parent[parent[cell]]
        cell = parent[cell]
    return cell


@numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _join(parent, a, b):
    a, b = _root(parent, a), _root(parent, b)
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@numba.njit(cache=True, error_model="numpy", nogil=True)
def label(g0, g1, g2, free, diagonal, labels):
    """Number the components in the order of their first cells; -1 where not free. Returns anchored (n,) bool.

    Shapes: g0 (n0 + 1, n1, n2), g1 (n0, n1 + 1, n2), g2 (n0, n1, n2 + 1), the others (n0, n1, n2). A face of positive
    conductance joins its cells; face 0 of an axis joins the first cell to the last one (it is 0 unless periodic). A
    component is anchored where the diagonal is positive in some cell.
    """
    n0, n1, n2 = free.shape
    parent = np.empty(n0 * n1 * n2, dtype=np.int64)
    for cell in range(parent.size):
        parent[cell] = cell
    for i in range(n0):
        for j in range(n1):
            here = (i * n1 + j) * n2
            below, left = ((i if i > 0 else n0) - 1) * n1 + j, i * n1 + (j if j > 0 else n1) - 1
            for k in range(n2):
                if g2[i, j, k] > 0:
                    _join(parent, here + k, here + (k if k > 0 else n2) - 1)
                if g1[i, j, k] > 0:
                    _join(parent, here + k, left * n2 + k)
                if g0[i, j, k] > 0:
                    _join(parent, here + k, below * n2 + k)
    count = 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                cell = (i * n1 + j) * n2 + k
                labels[i, j, k] = -1
                if free[i, j, k]:
                    root = _root(parent, cell)
                    if root == cell:  # the smallest of its component: seen first
                        labels[i, j, k] = count
                        count += 1
                    else:
                        labels[i, j, k] = labels[root // (n1 * n2), root // n2 % n1, root % n2]
    anchored = np.zeros(count, dtype=np.bool_)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if free[i, j, k] and diagonal[i, j, k] > 0:
                    anchored[labels[i, j, k]] = True
    return anchored
