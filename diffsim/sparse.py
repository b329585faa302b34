"""K as a sparse matrix, and solving with its factors."""

from collections.abc import Callable, Sequence

import numpy as np


def matrix(conductances: Sequence[np.ndarray], diagonal: np.ndarray, periodic: Sequence[bool]):
    """``(K u)_i = diagonal_i u_i + sum over faces g (u_i - u_j)`` as a scipy CSR matrix without zeros.

    Arguments as `Multigrid` takes them.
    """
    from scipy.sparse import coo_array

    index = np.arange(diagonal.size).reshape(diagonal.shape)
    rows, cols, values = [index.ravel()], [index.ravel()], [diagonal.ravel()]
    for axis, g in enumerate(conductances):
        n = diagonal.shape[axis]
        take = lambda x, s, axis=axis: x[(slice(None),) * axis + (s,)].ravel()  # noqa: E731
        pairs = [(slice(0, n - 1), slice(1, n), slice(1, n))]
        if periodic[axis] and n > 1:
            pairs.append((slice(n - 1, n), slice(0, 1), slice(0, 1)))
        for left, right, face in pairs:
            i, j, c = take(index, left), take(index, right), take(g, face)
            rows += [i, j, i, j]
            cols += [i, j, j, i]
            values += [c, c, -c, -c]
    shape = (index.size, index.size)
    result = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=shape).tocsr()
    result.sum_duplicates()
    result.eliminate_zeros()
    return result


def factorised(
    conductances: Sequence[np.ndarray], diagonal: np.ndarray, periodic: Sequence[bool]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function that solves ``K x = rhs`` by SuperLU; None where memory does not suffice.

    Components that nothing anchors, on which `rhs` has to add up to 0, have their first cell at 0. K is symmetric, so
    the ordering is one of minimum degree on its own graph, and pivots stay on the diagonal.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import splu

    k = matrix(conductances, diagonal, periodic)
    _, labels = connected_components(k, directed=False)
    _, first = np.unique(labels, return_index=True)
    floating = first[np.bincount(labels, diagonal.ravel()) == 0.0]
    # whatever is added to the diagonal of one cell of such a component, that cell comes out as 0
    pins = np.zeros(diagonal.size)
    pins[floating] = np.where(k.diagonal()[floating] > 0.0, k.diagonal()[floating], 1.0)
    try:
        factors = splu(
            (k + diags_array(pins)).tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except (RuntimeError, MemoryError):  # the former where an anchor is so weak that K is singular in double precision
        return None
    return lambda rhs: factors.solve(rhs.ravel()).reshape(rhs.shape)
