"""Speed on this machine, measured: kernels, solvers, and how long a fresh process takes to its first result."""

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


def measurements(quick: bool = False) -> Iterator[tuple[str, float, str]]:
    """(name, value, unit) one by one, as they are measured; `quick` leaves the large sizes out."""
    yield "import diffsim, fresh process", _fresh("import diffsim"), "s"
    _fresh(_FIRST)  # fills the cache of compiled kernels
    yield "first result, fresh process, compiled before", _fresh(_FIRST), "s"
    for n in (256, 1024) if quick else (256, 1024, 4096):
        yield f"FTCS, {n} x {n} cells", _stencil(n), "Gcell/s"
    for n in (64, 128) if quick else (64, 128, 421, 1024):
        yield f"equilibrium, D = 12 or 3, {n} x {n}, residual 1e-8", _equilibrium(n), "s"


def _fresh(code: str) -> float:
    """Seconds that a new interpreter takes for `code`, its own start included; the best of three."""
    return _best(lambda: subprocess.run([sys.executable, "-c", code], check=True), 3)


def _best(action: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _stencil(n: int) -> float:
    """Cell updates per second of FTCS, from the difference of a long and a short run."""
    from .simulate import simulate
    from .stability import stability

    problem = Problem(Grid((n, n), (1.0, 1.0)), diffusivity=1.0, boundary={"x": Dirichlet(0.0)})
    dt = stability(problem, "ftcs").dt_positive
    steps = max(20, (1 << 28) // n**2)

    def run(count: int) -> None:
        simulate(problem, 1.0, count * dt, scheme="ftcs", dt=dt, save="final", progress=False)

    run(2)
    difference = _best(lambda: run(2 * steps), 3) - _best(lambda: run(steps), 3)
    return steps * n**2 / difference / 1e9


def _equilibrium(n: int) -> float:
    """Seconds for one solve with a random two-phase coefficient, set-up included."""
    from .equilibrium import equilibrium

    noise = np.fft.rfft2(np.random.default_rng(0).normal(size=(n, n)))
    kx, ky = np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n
    smooth = np.fft.irfft2(noise / (kx[:, None] ** 2 + ky**2 + 9.0), (n, n))
    diffusivity = np.where(smooth >= np.median(smooth), 12.0, 3.0)
    walls = {"x": Dirichlet(0.0), "y": Dirichlet(0.0)}
    problem = Problem(Grid((n, n), (1.0, 1.0)), diffusivity=diffusivity, source=1.0, boundary=walls)
    equilibrium(problem, tol=1e-8)
    return _best(lambda: equilibrium(problem, tol=1e-8), 3)
