"""Speed on this machine, measured: kernels, solvers, the first result of a fresh process; peers beside them.

Figures are the best of several, because the machine may be doing something else; with one thread
(``NUMBA_NUM_THREADS=1``) they are processor seconds, which hardly feel what else it does. Peers run in processes and an
environment of their own (``diffsim bench --peers /path/to/python`` with py-pde, devito and pyamg installed there).
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from .boundary import Dirichlet
from .grid import Grid
from .problem import Problem

_FIRST = (
    "import diffsim as ds; p = ds.Problem(ds.Grid((64, 64), (1.0, 1.0)), diffusivity=1.0, boundary={'x': ds.Dirichlet(0.0)});"
    "ds.simulate(p, 1.0, until=1e-3, scheme='ftcs')"
)
_CELL_STEPS = 2e8  # work per timing of a kernel

# The peers' programs print one number. {n}, {steps} are filled in; boundaries are the cheapest the peer has.
_DEVITO = """
import os, time, numpy as np
from devito import Constant, Eq, Function, Grid, Operator, TimeFunction, configuration
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
configuration["log-level"], configuration["language"] = "ERROR", "openmp"
grid = Grid(shape=({n},) * {ndim}, dtype=np.float64)
u = TimeFunction(name="u", grid=grid, time_order=1, space_order=2)
u.data[:] = np.random.default_rng(0).random(u.data.shape)
change = 0
for axis, x in enumerate(grid.dimensions):
    low, high = u.subs(x, x - x.spacing), u.subs(x, x + x.spacing)
    if {varying}:
        g = Function(name="g" + x.name, grid=grid, space_order=2)
        g.data[:] = 0.1
        change += g * (low - u) + g.subs(x, x + x.spacing) * (high - u)
    else:
        change += 0.1 * (low + high - 2 * u)
op = Operator([Eq(u.forward, u + change)])
seconds = []
for _ in range(5):
    start = clock()
    op.apply(time_m=0, time_M={steps} - 1)
    seconds.append(clock() - start)
print({steps} * {n} ** {ndim} / min(seconds) / 1e9)
"""
_PY_PDE = """
import os, time, pde
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
grid = pde.CartesianGrid([[0, {n}]] * {ndim}, {n})
state, equation = pde.ScalarField.random_uniform(grid), pde.DiffusionPDE(1.0)
seconds = []
for _ in range(2):
    start = clock()
    equation.solve(state, t_range={steps} * 0.1, dt=0.1, tracker=None)
    seconds.append(clock() - start)
print({steps} * {n} ** {ndim} / min(seconds) / 1e9)
"""
_PYAMG = """
import io, os, sys, time, numpy as np, scipy.sparse as sp, pyamg
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
data = np.load(io.BytesIO(sys.stdin.buffer.read()))
matrix = sp.csr_matrix((data["data"], data["indices"], data["indptr"]))
best = np.inf
for build in (pyamg.ruge_stuben_solver, pyamg.smoothed_aggregation_solver):
    for _ in range(2):
        start = clock()
        build(matrix).solve(data["rhs"], tol=1e-8, accel="cg")
        best = min(best, clock() - start)
print(best)
"""


def measurements(quick: bool = False, peers: str | None = None) -> Iterator[tuple[str, float, str]]:
    """(name, value, unit) one by one, as they are measured.

    Parameters
    ----------
    quick
        Leave the large sizes out.
    peers
        A Python interpreter whose environment has py-pde, devito and pyamg, measured beside ours.
    """
    import numba

    yield f"threads, on {platform.processor() or platform.machine()}", numba.get_num_threads(), ""
    bandwidth = _copy_bandwidth()
    yield "memory bandwidth (copy, one thread)", bandwidth, "GB/s"
    yield "import diffsim, fresh process", _fresh("import diffsim"), "s"
    _fresh(_FIRST)  # fills the cache of compiled kernels
    yield "first result, fresh process, compiled before", _fresh(_FIRST), "s"

    kernels = [(2, n, varying) for varying in (False, True) for n in ((256, 1024) if quick else (256, 1024, 4096))]
    kernels += [] if quick else [(3, 128, False), (3, 128, True), (3, 256, True)]
    for ndim, n, varying in kernels:
        size = " x ".join([str(n)] * ndim)
        name = f"FTCS, {'varying' if varying else 'constant'} D, {size}"
        steps = max(16, int(_CELL_STEPS / n**ndim) // 16 * 16)
        ours = _kernel(ndim, n, varying, steps)
        yield name, ours, "Gcell/s"
        # One pass per step moves at least the state in and out (and, where D varies, a conductance per axis).
        floor = 8 * (2 + (ndim if varying else 0))
        yield "    as multiple of one pass per step at that bandwidth", ours * floor / bandwidth, ""
        if peers:
            for peer, program in (("devito", _DEVITO), ("py-pde", _PY_PDE)):
                if peer == "py-pde" and (varying or n > 1024):
                    continue
                work = steps if peer == "devito" else min(steps, 200)
                theirs = _peer(peers, program.format(n=n, ndim=ndim, steps=work, varying=varying))
                yield f"    {peer}", theirs, "Gcell/s"
                yield f"    ratio to {peer}", ours / theirs, ""

    for n in (64, 128) if quick else (64, 128, 421, 1024):
        problem = two_phase(n)
        ours = _solve(problem)
        yield f"equilibrium, D = 12 or 3, {n} x {n}, residual 1e-8", ours, "s"
        if peers:
            theirs = _peer(peers, _PYAMG, _system(problem))
            yield "    pyamg", theirs, "s"
            yield "    ratio to pyamg", theirs / ours, ""
    yield "equilibria, 64 x 64, in batches", _batch_rate(32 if quick else 256), "1/s"


def two_phase(n: int, seed: int = 0) -> Problem:
    """Unit square with D = 12 or 3 by the sign of a smooth random field, f = 1, u = 0 on the sides."""
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(n, n)))
    kx, ky = np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n
    smooth = np.fft.irfft2(noise / (kx[:, None] ** 2 + ky**2 + 9.0), (n, n))
    diffusivity = np.where(smooth >= np.median(smooth), 12.0, 3.0)
    walls = {"x": Dirichlet(0.0), "y": Dirichlet(0.0)}
    return Problem(Grid((n, n), (1.0, 1.0)), diffusivity=diffusivity, source=1.0, boundary=walls)


def _fresh(code: str) -> float:
    """Seconds that a new interpreter takes for `code`, its own start included; the best of three."""
    return _best_by(time.perf_counter, lambda: subprocess.run([sys.executable, "-c", code], check=True), 3)


def _best_by(clock: Callable[[], float], action: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = clock()
        action()
        seconds.append(clock() - start)
    return min(seconds)


def _worked(action: Callable[[], object], times: int) -> float:
    """Seconds of `action`, of the processor where there is one thread; the best of several."""
    import numba

    return _best_by(time.process_time if numba.get_num_threads() == 1 else time.perf_counter, action, times)


def _copy_bandwidth() -> float:
    """Bytes read and written per second by a copy far larger than the caches, GB/s."""
    source = np.ones(1 << 24)
    target = np.empty_like(source)
    return 2 * source.nbytes / _worked(lambda: np.copyto(target, source), 6) / 1e9


def _kernel(ndim: int, n: int, varying: bool, steps: int) -> float:
    """Cell updates per second of the FTCS kernel that such a problem takes, values on all sides, Gcell/s."""
    from .kernels import stepping
    from .operator import discretize

    field = 1.0 + np.random.default_rng(0).random((n,) * ndim) if varying else 1.0
    walls = {axis: Dirichlet(1.0) for axis in "xyz"[:ndim]}
    operator = discretize(Problem(Grid((n,) * ndim, (1.0,) * ndim), diffusivity=field, boundary=walls))
    u = np.random.default_rng(1).random(operator.shape)
    scratch = np.empty_like(u)
    if varying:
        dt = 0.9 / operator.max_diagonal
        base, patterns, amplitudes = operator.forcing.table(dt * np.arange(steps))
        arrays = (*operator.conductances, operator.diagonal, 1.0 / operator.mass)

        def run() -> None:
            stepping.advance_explicit_euler(*arrays, dt, base, patterns, amplitudes, u, scratch)
    else:
        r = np.array([0.0] * (3 - ndim) + [0.125] * ndim)
        sides = np.zeros((1, 3, 2, 2))
        sides[:, 3 - ndim :] = 2.0, -1.0
        sides[:, : 3 - ndim, :, 1] = 1.0
        nothing = np.zeros((0, 0, 0))

        def run() -> None:
            stepping.advance_uniform(r, sides, np.zeros(3, bool), nothing, 0.0, steps, u, scratch)

    run()
    return steps * n**ndim / _worked(run, 5) / 1e9


def _solve(problem: Problem) -> float:
    """Seconds for one equilibrium, set-up included."""
    from .equilibrium import equilibrium

    equilibrium(problem, tol=1e-8)
    return _worked(lambda: equilibrium(problem, tol=1e-8), 3)


def _batch_rate(count: int) -> float:
    """Equilibria per second when a list of problems is solved together."""
    from .equilibrium import equilibrium

    problems = [two_phase(64, seed) for seed in range(count)]
    equilibrium(problems[:2], tol=1e-8)
    return count / _worked(lambda: equilibrium(problems, tol=1e-8), 2)


def _system(problem: Problem) -> bytes:
    """Matrix and right-hand side of a problem's equilibrium, as the bytes of an .npz file."""
    import io

    from .operator import discretize

    operator = discretize(problem)
    matrix, rhs = operator.matrix(), operator.forcing(0.0).ravel()
    file = io.BytesIO()
    np.savez(file, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr, rhs=rhs)
    return file.getvalue()


def _peer(python: str, program: str, data: bytes = b"") -> float:
    """The number that a peer's program prints last, on as many threads as ours; NaN where the peer is missing or fails."""
    import numba

    threads = str(numba.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    run = subprocess.run([python, "-c", program], input=data, capture_output=True, check=False, env=environment)
    return float(run.stdout.split()[-1]) if run.returncode == 0 and run.stdout.split() else float("nan")
