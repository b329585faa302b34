"""Many linear systems at once: small ones side by side, planes of one shape in stacks that one compiled call solves.

A result does not depend on its companions: each comes from the operations of `Multigrid.solve` on one thread.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba
import numpy as np

from . import compiling, multigrid
from .kernels import multigrid as kernels
from .kernels import stack, team
from .lines import stacked
from .multigrid import Multigrid, Solve
from .together import CELLS, LARGEST

SIDE_BY_SIDE = 500_000  # cells below which systems are solved side by side
FEWEST = 4  # systems that are worth a stack


def solve_batch(systems: Sequence[tuple], tol: float = 1e-8, max_iterations: int = 500) -> list[Solve]:
    """Solve many systems (conductances, diagonal, rhs), small ones side by side on all threads.

    Entries may carry a fourth item, the periodic axes.
    """
    threads = numba.get_num_threads()
    results: list[Solve | None] = [None] * len(systems)

    def solve(which: Sequence[int]) -> None:
        for k, result in zip(which, _one_by_one([systems[k] for k in which], tol, max_iterations), strict=True):
            results[k] = result

    small = [k for k, system in enumerate(systems) if np.size(system[1]) < SIDE_BY_SIDE]
    for k in sorted(set(range(len(systems))).difference(small)):
        conductances, diagonal, rhs, *periodic = systems[k]
        results[k] = Multigrid(conductances, diagonal, *periodic).solve(rhs, tol=tol, max_iterations=max_iterations)
    if threads == 1 or len(small) < 2:
        solve(small)
    else:
        solve(small[:1])  # compiles, once
        most = -(-len(small) // (2 * threads))
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(solve, [small[start : start + most] for start in range(1, len(small), most)]))
    return results  # type: ignore[return-value]


def _one_by_one(systems: Sequence[tuple], tol: float, max_iterations: int) -> list[Solve]:
    """Solutions by this thread alone."""
    results: list[Solve | None] = [None] * len(systems)
    solvers = [Multigrid(g, w, *periodic, threads=1) for g, w, _, *periodic in systems]
    sides = [np.ascontiguousarray(system[2], dtype=np.float64).reshape(system[1].shape) for system in systems]
    alike: dict[tuple, list[int]] = {}
    for k, (solver, side) in enumerate(zip(solvers, sides, strict=True)):
        alike.setdefault(_kind(solver, side) or (k,), []).append(k)
    for group in alike.values():
        most = max(1, CELLS // solvers[group[0]].diagonal.size)
        for start in range(0, len(group), most):
            which = group[start : start + most]
            given = [solvers[k] for k in which], [sides[k] for k in which]
            found = (
                _stacked(*given, tol, max_iterations) if len(which) >= FEWEST else _alone(*given, tol, max_iterations)
            )
            for k, result in zip(which, found, strict=True):
                results[k] = result
    return results  # type: ignore[return-value]


def _kind(solver: Multigrid, rhs: np.ndarray) -> tuple | None:
    """What systems of one stack have in common; None for those that fit none."""
    if solver.direct or solver.diagonal.size > LARGEST or solver._plane is None:
        return None
    if not 1e-180 < np.vdot(rhs, rhs) < 1e180:  # so that no square leaves the range of doubles
        return None
    return solver.shape, solver.periodic, solver._precision


def _alone(solvers: list[Multigrid], sides: list[np.ndarray], tol: float, max_iterations: int) -> list[Solve]:
    results = []
    for solver, rhs in zip(solvers, sides, strict=True):
        results.append(solver.solve(rhs, tol=tol, max_iterations=max_iterations))
        solver.release()
    return results


def _stacked(solvers: list[Multigrid], sides: list[np.ndarray], tol: float, max_iterations: int) -> list[Solve]:
    """Solutions for planes of one kind, in one compiled call."""
    first = solvers[0]
    assert first._plane is not None
    table, size = first._plane
    tables, room = multigrid._banded_layouts(first.shape, first.periodic, 1)
    wrap1, wrap2 = first.periodic[1:]
    given = [[solver.conductances[axis] for solver in solvers] for axis in (1, 2)]
    wholes = map(stacked, (*given, [solver.diagonal for solver in solvers], sides))
    g1, g2, w, b = (whole if whole.flags.writeable else whole.copy() for whole in wholes)  # one type to compile for
    x, found = np.zeros(b.shape), np.empty((len(solvers), 4))
    scales = np.array([solver._scale for solver in solvers])
    arena, dense = multigrid._memory("arena", size, first._precision), multigrid._dense(table)
    work = multigrid._memory("scratch", room, np.float64)
    *_, numbers, wide, narrow, sums, _ = first._call((table, arena, dense, 1.0, None), b[0], x[0], tol, 0)
    patience = min(first._patience, max_iterations)
    whole, live = np.empty(len(dense)), int(table[0, kernels.DINV])
    stack.solve_planes(
        *_callees(first._precision), team.new_gate(), g1, g2, w, b, x, tol, patience, scales, wrap1, wrap2, tables.copy(),
        table, arena, dense, work, whole, numbers, numbers[0].copy(), wide, narrow, sums, live, found
    )  # fmt: skip
    for name, memory in (("arena", arena), ("dense", dense), ("scratch", work)):
        multigrid._leave(name, memory)
    solves = [Solve.of(x[k], tol, *found[k].tolist()) for k in range(len(solvers))]
    for k, solve in enumerate(solves):
        if not solve.converged and max_iterations > patience:  # it takes what a solver has for such planes
            solves[k] = _alone([solvers[k]], [sides[k]], tol, max_iterations)[0]
    return solves


@lru_cache
def _callees(precision: type) -> tuple:
    """`box_set_up` and `plane_pcg` for an arena of that precision, as the kernel of a stack takes them."""
    gate, flat, cube, square = team.new_gate(), np.zeros(1), np.zeros((1, 1, 1)), np.zeros((1, 1))
    tables, table = np.zeros((1, 1, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.int64)
    table.flags.writeable = False
    arena: np.ndarray = np.zeros(1, dtype=precision)
    narrow: np.ndarray = np.zeros((1, 1), dtype=precision)
    set_up = (0, 1, gate, tables, arena, flat, flat, flat, flat, False, False, 1.0, square, flat)
    memory = (narrow, square, narrow, square)
    solve = (0, 1, gate, *(cube,) * 5, 1e-8, 1, 1.0, table, arena, square, *memory, True)
    return compiling.callee(kernels.box_set_up, set_up), compiling.callee(kernels.plane_pcg, solve)
