"""Tridiagonal solves along one axis of a padded array: the sweeps of alternating-direction methods."""

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy")
def sweep(g, centre, scale, periodic, x):
    """Solve ``(centre + scale T) x = rhs`` along the middle axis, in place.

    T is the graph Laplacian of the face conductances along that axis, ``(T u)_k = g_k (u_k - u_{k-1}) + g_{k+1}
    (u_k - u_{k+1})``. Shapes: x and centre (outer, n, inner), x holding the right-hand side on entry;
    g (outer, n + 1, inner). The system is diagonally dominant, so elimination needs no pivoting; a periodic axis is
    closed by the Sherman-Morrison formula.
    """
    outer, n, inner = x.shape
    upper = np.empty((n, inner))
    corner = np.empty((n, inner))
    for o in range(outer):
        for i in range(inner):
            wrap = periodic and n > 2
            closing = scale * g[o, 0, i] if wrap else 0.0
            pair = scale * g[o, 0, i] if periodic and n == 2 else 0.0  # both faces join the same two cells
            # rank-one splitting: A = B + z z^T with z = sqrt(closing) (1, 0, ..., 0, -1)
            first = centre[o, 0, i] + pair + (scale * g[o, 1, i] if n > 1 else 0.0)
            upper[0, i] = -(scale * g[o, 1, i] + pair) / first if n > 1 else 0.0
            x[o, 0, i] /= first
            corner[0, i] = closing / first
        for k in range(1, n):
            last = k == n - 1
            for i in range(inner):
                pair = scale * g[o, 0, i] if periodic and n == 2 else 0.0
                low = -(scale * g[o, k, i] + pair)
                high = 0.0 if last else -scale * g[o, k + 1, i]
                pivot = centre[o, k, i] - low - high - low * upper[k - 1, i]
                upper[k, i] = high / pivot
                x[o, k, i] = (x[o, k, i] - low * x[o, k - 1, i]) / pivot
                own = -scale * g[o, n, i] if last and periodic and n > 2 else 0.0
                corner[k, i] = (own - low * corner[k - 1, i]) / pivot
        for k in range(n - 2, -1, -1):
            for i in range(inner):
                x[o, k, i] -= upper[k, i] * x[o, k + 1, i]
                corner[k, i] -= upper[k, i] * corner[k + 1, i]
        if periodic and n > 2:
            for i in range(inner):
                jump = x[o, 0, i] - x[o, n - 1, i]
                weight = jump / (1.0 + (corner[0, i] - corner[n - 1, i]))
                for k in range(n):
                    x[o, k, i] -= weight * corner[k, i]
