"""Speed on this machine, measured: kernels, solvers, the first result of a fresh process; peers beside them.

Figures are the best of several, because the machine may be doing something else; with one thread
(``NUMBA_NUM_THREADS=1``) they are processor seconds, which hardly feel what else it does. Peers run in processes and an
environment of their own (``diffsim bench --peers /path/to/python`` with py-pde, devito, pyamg and taufactor installed there).
"""

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .boundary import Dirichlet
from .grid import Grid
from .problem import Problem

_FIRST = {
    "simulation": "import diffsim as ds; sides = {'x': ds.Dirichlet(0.0)};"
    "p = ds.Problem(ds.Grid((64, 64), (1.0, 1.0)), diffusivity=1.0, boundary=sides);"
    "ds.simulate(p, 1.0, until=1e-3, scheme='ftcs')",
    "equilibrium": "import diffsim as ds, numpy as np; sides = {'x': ds.Dirichlet(0.0)};"
    "D = 1 + np.indices((64, 64)).sum(axis=0) % 3;"
    "ds.equilibrium(ds.Problem(ds.Grid((64, 64), (1.0, 1.0)), diffusivity=D, source=1.0, boundary=sides))",
}
# Labelled pairs per second, as a user gets them: files written, checked and sealed.
_GENERATE = """
import os, tempfile, time, surrogate as sg
if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sg.generate("darcy", os.path.join(folder, "warm"), count=64, resolution=64)
        clock = time.process_time if os.environ["NUMBA_NUM_THREADS"] == "1" else time.perf_counter
        start = clock()
        sg.generate("darcy", os.path.join(folder, "data"), count={count}, resolution=64, workers={workers})
        print({count} / (clock() - start))
"""
_CELL_STEPS = 2e8  # work per timing of a kernel
_FEW_STEPS = 200  # steps of a whole call, of ours and of peers

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
# Its compiled stepper alone, called again after the call that compiles.
_PY_PDE_STEPPER = """
import os, time, pde
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
grid = pde.CartesianGrid([[0, {n}]] * {ndim}, {n})
state, equation = pde.ScalarField.random_uniform(grid), pde.DiffusionPDE(1.0)
stepper = pde.ExplicitSolver(equation, scheme="euler").make_stepper(state, dt=0.1)
stepper(state, 0.0, 1.0)
seconds = []
for _ in range(3):
    start = clock()
    stepper(state, 0.0, {steps} * 0.1)
    seconds.append(clock() - start)
print({steps} * {n} ** {ndim} / min(seconds) / 1e9)
"""
_PYAMG = """
import io, os, sys, time, numpy as np, scipy.sparse as sp, pyamg
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
data = np.load(io.BytesIO(sys.stdin.buffer.read()))
matrix = sp.csr_matrix((data["data"], data["indices"], data["indptr"]))
best = np.inf
for build in [getattr(pyamg, name) for name in {builders}]:
    for _ in range({times}):
        start = clock()
        build(matrix).solve(data["rhs"], tol=1e-8, accel="cg")
        best = min(best, clock() - start)
print(best)
"""
# Tortuosity of the image on the standard input, against the value {exact}: error and seconds at the criterion that TauFactor
# takes by itself, then of the loosest that comes below {error}.
_TAUFACTOR = """
import contextlib, io, os, sys, time, numpy as np, torch, taufactor
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
pores = (np.load(io.BytesIO(sys.stdin.buffer.read())) == 0).astype(np.uint8)
def run(criterion):
    start = clock()
    with contextlib.redirect_stdout(io.StringIO()):
        tau = taufactor.Solver(pores, device="cpu").solve(verbose=False, conv_crit=criterion)
    return abs(float(np.ravel(tau)[0]) / {exact} - 1), clock() - start
run(1e-2)
found = [run(1e-2)]
for criterion in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
    found[1:] = [run(criterion)]
    if found[1][0] <= {error}:
        break
print(*found[0], *found[1])
"""
_TORTUOSITY_ERROR = 2e-5
_RUGE_STUBEN, _AGGREGATION = "ruge_stuben_solver", "smoothed_aggregation_solver"
# Transients: m u' = F - K u from 0. Prints the error against the given reference, and the seconds of the cheapest setting
# that comes below {error}.
_BDF = """
from scipy.integrate import solve_ivp
for rtol in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5):
    start = clock()
    run = solve_ivp(lambda t, u: rate @ u + drive, (0, until), 0 * drive, method="BDF", jac=rate, rtol=rtol, atol=rtol * size)
    spent, off = clock() - start, error(run.y[:, -1])
    if off <= {error}:
        break
print(off, spent)
"""
_CRANK_NICOLSON = """
from scipy.sparse.linalg import splu
for steps in (10, 20, 40, 80, 160, 320, 640):
    start = clock()
    dt = until / steps
    factors, half = splu((eye - dt / 2 * rate).tocsc()), eye + dt / 2 * rate
    u = 0 * drive
    for _ in range(steps):
        u = factors.solve(half @ u + dt * drive)
    spent, off = clock() - start, error(u)
    if off <= {error}:
        break
print(off, spent)
"""
_TRANSIENT = """
import io, os, sys, time, numpy as np, scipy.sparse as sp
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
data = np.load(io.BytesIO(sys.stdin.buffer.read()))
matrix = sp.csr_matrix((data["data"], data["indices"], data["indptr"]))
rate, drive = (sp.diags(-1 / data["mass"]) @ matrix).tocsc(), data["rhs"] / data["mass"]
until, eye, want = float(data["until"]), sp.identity(drive.size, format="csc"), data["reference"]
size = np.abs(want).max()
error = lambda u: np.linalg.norm(u - want) / np.linalg.norm(want)
"""
_TRANSIENT_ERROR = 1e-4
_UNTIL = 0.02


def measurements(quick: bool = False, peers: str | None = None) -> Iterator[tuple[str, float, str]]:
    """(name, value, unit) one by one, as they are measured.

    Parameters
    ----------
    quick
        Leave the large sizes out.
    peers
        A Python interpreter whose environment has py-pde, devito, pyamg and taufactor, measured beside ours.
    """
    import numba

    yield f"threads, on {platform.processor() or platform.machine()}", numba.get_num_threads(), ""
    bandwidth = _copy_bandwidth()
    yield "memory bandwidth (copy, one thread)", bandwidth, "GB/s"
    yield "import diffsim, fresh process", _fresh("import diffsim"), "s"
    for what, code in _FIRST.items():
        if not quick:
            yield f"first {what} of a fresh process, nothing compiled before", _fresh_and_cold(code), "s"
        _fresh(code, 1)  # fills the cache of compiled kernels
        yield f"first {what} of a fresh process, compiled before", _fresh(code), "s"

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
        few = min(steps, _FEW_STEPS)
        whole = _whole_call(ndim, n, varying, few)
        yield f"    simulate(), whole call of {few} steps", whole, "Gcell/s"
        if peers:
            yield from _stepping_peers(peers, ndim, n, varying, steps, ours, whole)

    for n in (64, 128) if quick else (64, 128, 421, 1024, 2048):
        name = f"equilibrium, D = 12 or 3, {n} x {n}, residual 1e-8"
        yield from _equilibrium(name, two_phase(n), peers if n < 2048 else None, (_RUGE_STUBEN, _AGGREGATION))
    if not quick:
        block = log_normal((128,) * 3)
        yield from _equilibrium("equilibrium, log-normal D, contrast 1e3, 128^3", block, peers, (_AGGREGATION,))
    yield "equilibria, 64 x 64, in batches", _batch_rate(32 if quick else 256), "1/s"
    if not quick:
        threads = numba.get_num_threads()
        for workers in (1,) if threads == 1 else (1, threads):
            program = _GENERATE.format(count=2048 * workers, workers=workers)
            yield f"data set of equilibria, 64 x 64, workers = {workers}", _peer(sys.executable, program), "1/s"
        if peers:
            program = _PYAMG.format(builders=(_RUGE_STUBEN, _AGGREGATION), times=5)
            yield "    pyamg, one at a time, solve alone", 1 / _peer(peers, program, _system(two_phase(64))), "1/s"
        yield from _transient(peers)
        yield from _tortuosity(peers)


def _stepping_peers(
    peers: str, ndim: int, n: int, varying: bool, steps: int, kernel: float, whole: float
) -> Iterator[tuple[str, float, str]]:
    """Rows of the peers beside one kernel: bare loops against the kernel, whole calls against the whole call."""
    few = min(steps, _FEW_STEPS)
    rows = [("devito", _DEVITO, steps, kernel)]
    if not varying and n <= 1024:
        rows += [("py-pde, solve()", _PY_PDE, few, whole), ("py-pde, bare stepper", _PY_PDE_STEPPER, few, kernel)]
    for peer, program, work, ours in rows:
        theirs = _peer(peers, program.format(n=n, ndim=ndim, steps=work, varying=varying))
        yield f"    {peer}", theirs, "Gcell/s"
        yield f"    ratio to {peer}", ours / theirs, ""


def _equilibrium(name: str, problem: Problem, peers: str | None, builders: tuple) -> Iterator[tuple[str, float, str]]:
    """Rows of one equilibrium, pyamg's best of `builders` beside it."""
    ours = _solve(problem)
    yield name, ours, "s"
    yield "    per cell", ours / problem.grid.size * 1e9, "ns"
    if peers:
        times = 5 if problem.grid.size < 5e4 else 2 if problem.grid.size < 5e5 else 1
        theirs = _peer(peers, _PYAMG.format(builders=builders, times=times), _system(problem))
        yield "    pyamg", theirs, "s"
        yield "    ratio to pyamg", theirs / ours, ""


def _transient(peers: str | None) -> Iterator[tuple[str, float, str]]:
    """Rows of a run with D = 12 or 3 from 0 on 256 x 256, every solver at the same error."""
    from .simulate import simulate

    problem = two_phase(256)
    reference = simulate(problem, 0.0, until=_UNTIL, scheme="sdirk3", tol=1e-6, save="final").final
    size = float(np.linalg.norm(reference))
    for tol in (1e-4, 3e-5, 1e-5, 1e-6):

        def run(tol: float = tol):
            return simulate(problem, 0.0, until=_UNTIL, scheme="auto", tol=tol, save="final")

        off = float(np.linalg.norm(run().final - reference)) / size
        if off <= _TRANSIENT_ERROR:
            break
    ours = _worked(run, 2)
    yield f"D = 12 or 3 from 0 to t = {_UNTIL}, 256 x 256, scheme = auto", ours, "s"
    yield "    relative error", off, ""
    if peers:
        data = _system(problem, until=_UNTIL, reference=reference.ravel())
        for name, program in (("BDF of scipy", _BDF), ("Crank-Nicolson with SuperLU", _CRANK_NICOLSON)):
            off, theirs = _numbers(peers, _TRANSIENT + program.format(error=_TRANSIENT_ERROR), data, 2)
            yield f"    {name}", theirs, "s"
            yield "    relative error", off, ""
            yield f"    ratio to {name}", theirs / ours, ""


def _tortuosity(peers: str | None) -> Iterator[tuple[str, float, str]]:
    """Rows of the flow through a synthetic pore space: 46 % of a smoothed random field, 128^3 voxels."""
    from scipy.ndimage import gaussian_filter

    from .applications import tortuosity

    field = gaussian_filter(np.random.default_rng(0).standard_normal((128,) * 3), 3.0, mode="wrap")
    image = (field > np.quantile(field, 0.46)).astype(np.uint8)
    exact = tortuosity(image, phase=0, tol=1e-9).tau
    ours = _worked(lambda: tortuosity(image, phase=0), 2)
    yield "tortuosity, 128^3 voxels, 46 % pores", ours, "s"
    yield "    relative error", abs(tortuosity(image, phase=0).tau / exact - 1), ""
    if peers:
        program = _TAUFACTOR.format(exact=exact, error=_TORTUOSITY_ERROR)
        loose, short, close, long = _numbers(peers, program, _file(np.save, image), 4)
        for name, off, theirs in (("TauFactor as it comes", loose, short), ("TauFactor, tightened", close, long)):
            yield f"    {name}", theirs, "s"
            yield "    relative error", off, ""
            yield f"    ratio to {name}", theirs / ours, ""


def write_table(rows: Sequence[dict], path: Path) -> None:
    """Write the measurements as Markdown, with the machine and the command that remakes them."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    lines = [f"`{command}` on {platform.processor() or platform.machine()}, {os.cpu_count()} processors.", ""]
    lines += ["| work | measured | |", "|---|---|---|"]
    for row in rows:
        name = "- " + row["name"].strip() if row["name"].startswith(" ") else row["name"]
        lines.append(f"| {name} | {row['value']:.4g} | {row['unit']} |")
    path.write_text("\n".join(lines) + "\n")


def log_normal(shape: tuple[int, ...], contrast: float = 1e3, seed: int = 0) -> Problem:
    """Unit box with log-normal D of that contrast between its extremes, f = 1, u = 0 on the sides."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), min(shape) / 16, mode="wrap")
    walls = {axis: Dirichlet(0.0) for axis in "xyz"[: len(shape)]}
    diffusivity = contrast ** ((field - field.min()) / np.ptp(field))
    return Problem(Grid(shape, (1.0,) * len(shape)), diffusivity=diffusivity, source=1.0, boundary=walls)


def two_phase(n: int, seed: int = 0) -> Problem:
    """Unit square with D = 12 or 3 by the sign of a smooth random field, f = 1, u = 0 on the sides."""
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(n, n)))
    kx, ky = np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n
    smooth = np.fft.irfft2(noise / (kx[:, None] ** 2 + ky**2 + 9.0), (n, n))
    diffusivity = np.where(smooth >= np.median(smooth), 12.0, 3.0)
    walls = {"x": Dirichlet(0.0), "y": Dirichlet(0.0)}
    return Problem(Grid((n, n), (1.0, 1.0)), diffusivity=diffusivity, source=1.0, boundary=walls)


def _fresh(code: str, times: int = 3, **environment: str) -> float:
    """Seconds that a new interpreter takes for `code`, its own start included; the best of several."""
    settings = {**os.environ, **environment}
    run = [sys.executable, "-c", code]
    return _best_by(time.perf_counter, lambda: subprocess.run(run, check=True, env=settings), times)


def _fresh_and_cold(code: str) -> float:
    """The same once, with an empty cache of compiled kernels."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return _fresh(code, 1, NUMBA_CACHE_DIR=folder)


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


def _warm_box(ndim: int, n: int, varying: bool) -> Problem:
    """A box with values on all sides."""
    field = 1.0 + np.random.default_rng(0).random((n,) * ndim) if varying else 1.0
    walls = {axis: Dirichlet(1.0) for axis in "xyz"[:ndim]}
    return Problem(Grid((n,) * ndim, (1.0,) * ndim), diffusivity=field, boundary=walls)


def _whole_call(ndim: int, n: int, varying: bool, steps: int) -> float:
    """Cell updates per second of ``simulate(..., scheme="ftcs", save="final")`` as a user calls it, Gcell/s."""
    from .operator import discretize
    from .simulate import simulate

    problem, start = _warm_box(ndim, n, varying), np.random.default_rng(1).random((n,) * ndim)
    dt = 0.9 / discretize(problem).max_diagonal

    def run() -> None:
        simulate(problem, start, until=steps * dt, scheme="ftcs", dt=dt, save="final", progress=False)

    run()
    return steps * n**ndim / _worked(run, 3) / 1e9


def _kernel(ndim: int, n: int, varying: bool, steps: int) -> float:
    """Cell updates per second of the FTCS kernel that such a problem takes, Gcell/s."""
    from .kernels import stepping
    from .lines import aligned
    from .operator import discretize

    operator = discretize(_warm_box(ndim, n, varying))
    u, scratch = aligned(operator.shape), aligned(operator.shape)
    u[...] = np.random.default_rng(1).random(operator.shape)
    if varying:
        dt = 0.9 / operator.max_diagonal
        base, patterns, amplitudes = operator.forcing.table(dt * np.arange(steps))
        arrays = (*operator.stencil, operator.diagonal, operator.inverse_mass)
        quiet = stepping.quiet_cells(*arrays[3:], base, patterns)  # a run looks for them once

        def run() -> None:
            stepping.advance_explicit_euler(*arrays, dt, base, patterns, amplitudes, u, scratch, quiet)
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
    times = max(5, min(50, 1_000_000 // problem.grid.size))  # milliseconds scatter more than seconds
    return _worked(lambda: equilibrium(problem, tol=1e-8), times)


def _batch_rate(count: int) -> float:
    """Equilibria per second when a list of problems is solved together."""
    from .equilibrium import equilibrium

    problems = [two_phase(64, seed) for seed in range(count)]
    equilibrium(problems[:2], tol=1e-8)
    return count / _worked(lambda: equilibrium(problems, tol=1e-8), 2)


def _system(problem: Problem, **more) -> bytes:
    """Matrix, right-hand side and mass of a problem, and `more`, as the bytes of an .npz file."""
    from .operator import discretize

    operator = discretize(problem)
    matrix, rhs = operator.matrix(), operator.forcing(0.0).ravel()
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "rhs": rhs}
    return _file(np.savez, mass=operator.mass.ravel(), **parts, **more)


def _file(save: Callable, *arrays, **named) -> bytes:
    """What `save` would write."""
    import io

    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def _peer(python: str, program: str, data: bytes = b"") -> float:
    """The number that a peer's program prints last, on as many threads as ours; NaN where the peer is missing or fails."""
    return _numbers(python, program, data, 1)[0]


def _numbers(python: str, program: str, data: bytes, count: int) -> list[float]:
    """The last `count` numbers that a program prints."""
    import numba

    threads = str(numba.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    run = subprocess.run([python, "-c", program], input=data, capture_output=True, check=False, env=environment)
    words = run.stdout.split()
    if run.returncode or len(words) < count:
        return [math.nan] * count
    return [float(word) for word in words[-count:]]
