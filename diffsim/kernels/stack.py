"""Systems of one shape, set up and solved one after the other in one call: no Python between them.

What sets up and solves one of them comes as an argument, compiled by itself: called by name, it would be compiled again
inside its caller.
"""

from numba import njit


@njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def clear(array):
    """Make all numbers of an array 0."""
    flat = array.reshape(array.size)
    for i in range(flat.size):
        flat[i] = 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def solve_planes(
    set_up, solve, gate, g1, g2, w, b, x, tol, max_iterations, scales, wrap1, wrap2, tables, table, arena, dense, work,
    whole, numbers, fresh, wide, narrow, sums, live, found
):  # fmt: skip
    """Solve ``K_k x_k = b_k`` for every k, by `set_up` and `solve` of planes (`box_set_up` and `plane_pcg`).

    The first axis of g1, g2, w, b, x (0 at first), `scales` and `found` is k. The memory that both write on serves one
    system after the other; `fresh`: `numbers` to begin with. x is made 0 where the numbers of the arena from `live` on, one
    for each cell, are. `found` receives what `solve` returns.
    """
    for k in range(len(w)):
        clear(dense)
        clear(narrow)
        for i in range(fresh.size):
            numbers[0, i] = fresh[i]
        south, east, loss = g1[k].reshape(g1[k].size), g2[k].reshape(g2[k].size), w[k].reshape(w[k].size)
        set_up(0, 1, gate, tables, arena, work, south, east, loss, wrap1, wrap2, scales[k], dense, whole)
        iterations, residual, size, rounding = solve(
            0, 1, gate, g1[k], g2[k], w[k], b[k], x[k], tol, max_iterations, scales[k], table, arena, dense, numbers, wide,
            narrow, sums, True
        )  # fmt: skip
        found[k, 0], found[k, 1], found[k, 2], found[k, 3] = iterations, residual, size, rounding
        solution = x[k].reshape(x[k].size)
        for i in range(solution.size):
            solution[i] = 0.0 if arena[live + i] == 0.0 else solution[i]
