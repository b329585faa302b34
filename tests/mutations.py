"""Planted faults that the suite must notice: python -m tests.mutations [word ...]

Each entry changes one expression (a sign, an index, a factor, a mean, a side, a floor) in a copy of the packages and runs
the tests named beside it. A fault that leaves them green is printed as SURVIVED, and the exit code says so. Words select
faults by name.
`tests/test_mutations.py` keeps the list applicable: every expression must occur exactly once.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Fault:
    """One wrong expression and the tests that must fail for it."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


OPERATOR, SIMULATE, KERNELS = "tests/test_operator.py", "tests/test_simulate.py", "tests/test_kernels.py"
FAULTS = [
    Fault("mean: one side's resistance counted twice", "diffsim/series.py",
          "np.add(_cut(half, along, None, -1), _cut(half, along, 1, None), out=faces)",
          "np.multiply(2, _cut(half, along, None, -1), out=faces)", OPERATOR),
    Fault("factor: half cell taken as a whole", "diffsim/series.py",
          "return 0.5 * grid._along", "return grid._along", OPERATOR),
    Fault("batch: a wall's flux counted for the next problem", "diffsim/together.py",
          "(area * _column(flux.steady for _, _, flux in terms))",
          "(area * np.roll(_column(flux.steady for _, _, flux in terms), 1))", "tests/test_together.py"),
    Fault("batch: high wall given the first cells", "diffsim/together.py",
          "cells, area, over = grid.side_cells(side),", 'cells, area, over = grid.side_cells(f"{side[0]}-"),',
          "tests/test_together.py"),
    Fault("batch: half cells of one axis taken for all", "diffsim/together.py",
          "cubes = grid.uniform and len(set(grid.spacing)) == 1", "cubes = True", "tests/test_together.py"),
    Fault("stack: arrays taken for one whatever lies between them", "diffsim/lines.py",
          "there - here == first.nbytes", "there - here >= first.nbytes", "tests/test_together.py"),
    Fault("stack: factors added to those of the system before", "diffsim/kernels/stack.py",
          "clear(dense)", "pass", "tests/test_multigrid.py"),
    Fault("stack: every system scaled by the first one's number", "diffsim/batch.py",
          "np.array([solver._scale for solver in solvers])", "np.array([first._scale for solver in solvers])",
          "tests/test_multigrid.py"),
    Fault("stack: systems of both precisions in one", "diffsim/batch.py",
          "return solver.shape, solver.periodic, solver._precision", "return solver.shape, solver.periodic",
          "tests/test_multigrid.py"),
    Fault("draw: the amplitudes of the first field for all", "surrogate/sampling.py",
          "field *= amplitudes(tau, self.alpha", "field *= amplitudes(taus[0], self.alpha", "tests/test_sampling.py"),
    Fault("side: low wall given the last cells", "diffsim/series.py",
          'place = 0 if end == "-" else -1', 'place = 0 if end == "+" else -1', "tests/test_operator.py"),
    Fault("side: low wall put before the last cells", "diffsim/grid.py",
          '(("-", 0), ("+", n - 1))', '(("-", n - 1), ("+", 0))', OPERATOR),
    Fault("index: contact one face off", "diffsim/series.py",
          "_cut(links, along, face, face + 1)", "_cut(links, along, face - 1, face)", OPERATOR),
    Fault("sign: cross term of the tensor", "diffsim/tensor.py",
          "out += np.roll(uy - ux, -1, 1)", "out += np.roll(ux - uy, -1, 1)", OPERATOR),
    Fault("missing: wrapped link of a periodic axis", "diffsim/series.py",
          "_cut(links, along, 0, 1)[...] = seam", "_cut(links, along, 0, 1)[...] = 0.0", OPERATOR),
    Fault("factor: rows of Gershgorin counted once", "diffsim/kernels/collatz.py",
          "sums[k] = 2.0 * sums[k] + loss[k]", "sums[k] = sums[k] + loss[k]", OPERATOR),
    Fault("sign: couplings of |A| along the rows", "diffsim/kernels/collatz.py",
          "along[k] * (c + here[k - 1])", "along[k] * (c - here[k - 1])", OPERATOR),
    Fault("team: one goes on before the last one has arrived", "diffsim/kernels/team.py",
          "if _add_to(gate, ARRIVED, 1) == parts - 1:", "if _add_to(gate, ARRIVED, 1) >= parts - 2:", "tests/test_team.py"),
    Fault("scratch: halos hold what an earlier set-up left", "diffsim/kernels/multigrid.py",
          "work[row + THREE + n + k] = 0.0", "pass", "tests/test_multigrid.py"),
    Fault("band: a row of weights that the next band makes", "diffsim/kernels/multigrid.py",
          "middle_rows(top, end + 2, START, table, work)",
          "middle_rows(top, end + 2 if end == m1 else end + 1, START, table, work)", "tests/test_multigrid.py"),
    Fault("band: rows of the other end of a periodic plane", "diffsim/kernels/multigrid.py",
          "inside = (i + n1) % n1 if wrap1 else i", "inside = i", "tests/test_multigrid.py"),
    Fault("missing: what holds a component that nothing anchors", "diffsim/sparse.py",
          "(k + diags_array(pins)).tocsc()", "k.tocsc()", "tests/test_multigrid.py"),
    Fault("missing: the order to the process beside", "diffsim/compiling.py",
          "awaited = True", "awaited = False", "tests/test_compiling.py"),
    Fault("missing: walls in the rows of a box with a Robin side", "diffsim/uniform.py",
          "2 * (g[:-1] + g[1:]) + w", "2 * (g[:-1] + g[1:])", OPERATOR),
    Fault("sign: flux out of the domain", "diffsim/forcing.py",
          "result = self.data_at(self.flux, t) * self.area", "result = -self.data_at(self.flux, t) * self.area", OPERATOR),
    Fault("factor: value wall a whole cell away", "diffsim/uniform.py",
          'side.kind == "value":\n            return 2.0', 'side.kind == "value":\n            return 1.0', OPERATOR),
    Fault("index: sine modes start at 0", "diffsim/uniform.py",
          "np.pi * np.arange(1, n + 1) / (2 * n)", "np.pi * np.arange(n) / (2 * n)", "tests/test_spectral.py"),
    Fault("factor: mixed modes of twice the length", "diffsim/uniform.py",
          "np.pi * (2 * np.arange(n) + 1) / (4 * n)", "np.pi * (2 * np.arange(n) + 1) / (2 * n)", "tests/test_spectral.py"),
    Fault("power: sphere with the volume of a cylinder", "diffsim/grid.py",
          "lo * lo)", "lo)", "tests/test_problem.py"),
    Fault("floor for ceil in the step count", "diffsim/simulate.py",
          "math.ceil(interval / largest * (1 - 1e-12))", "math.floor(interval / largest * (1 - 1e-12))", SIMULATE),
    Fault("check: limit compared the wrong way", "diffsim/stability.py",
          "return any(within(dt, _limit", "return not any(within(dt, _limit", SIMULATE),
    Fault("order: the content is counted after the state became its frame", "diffsim/simulate.py",
          "        self.contents.append(self.content())\n        for",
          "        operator.leave(self.u, out=self.frames[-1])\n        self.contents.append(self.content())\n        for",
          SIMULATE),
    Fault("missing: a blown-up run is not looked at", "diffsim/simulate.py",
          "if not math.isfinite(largest):", "if False:", SIMULATE),
    Fault("sign: error estimate's embedded weights", "diffsim/steppers/implicit.py",
          "net = shift * operator.mass * delta - known", "net = shift * operator.mass * delta + known", SIMULATE),
    Fault("index: stage times of the recurrence one late", "diffsim/steppers/explicit.py",
          "t + row.c[:last] * dt", "t + row.c[1 : last + 1] * dt", "tests/verification/test_order_in_time.py"),
    Fault("factor: phi_1 at the wrong time", "diffsim/steppers/exponential.py",
          "self.settled(dt * one, gain), gain, None)", "self.settled(0.5 * dt * one, gain), gain, None)", SIMULATE),
    Fault("missing: content lost by an unfinished solve", "diffsim/steppers/solver.py",
          "x = solution.x + lack / float(centre.sum())", "x = solution.x * (1 + 1e-11)", SIMULATE),
    Fault("sign: two-step weights", "diffsim/schemes.py",
          "-(w**2) / (1 + 2 * w)", "(w**2) / (1 + 2 * w)", "tests/test_schemes.py"),
    Fault("factor: damping of RKC2", "diffsim/schemes.py",
          "w0 = 1.0 + damping / s**2", "w0 = 1.0 - damping / s**2", "tests/test_schemes.py"),
    Fault("index: RKL2's weights shifted", "diffsim/schemes.py",
          "b[2:] / b[1:-1]\n    nu[2:] = -(j[2:]", "b[2:] / b[2:]\n    nu[2:] = -(j[2:]", "tests/test_schemes.py"),
    Fault("swap: east and west of a row", "diffsim/kernels/stepping.py",
          "_pair(like, along, face, face + np.uint64(1), row, west + k, east + k, centre)",
          "_pair(like, along, face + np.uint64(1), face, row, west + k, east + k, centre)", KERNELS),
    Fault("ring: a plane too few", "diffsim/kernels/stepping.py",
          "return 2 * levels + visit", "return 2 * levels - 1 + visit", KERNELS),
    Fault("ring: the second plane of a visit overwrites what the first one needs", "diffsim/kernels/stepping.py",
          "halo, lag = (0, 0) if r1 is None else (depth, 1)", "halo, lag = (0, 0) if r1 is None else (depth, 0)", KERNELS),
    Fault("ends: far wall a cell away", "diffsim/kernels/stepping.py",
          "np.uint64(0) - k, n2 - ONE - k", "np.uint64(0) - k, n2 - k", KERNELS),
    Fault("ring: lanes compute twice what they overwrite", "diffsim/kernels/stepping.py",
          "stop = first + _rounded(last - first) if level > 1 and reach > 0 else last", "stop = last", KERNELS),
    Fault("swap: ghost rows of the two ends", "diffsim/kernels/stepping.py",
          "walls[step, axis, end, 0], np.uint64(width)", "walls[step, axis, 1 - end, 0], np.uint64(width)", KERNELS),
    Fault("index: spare row one column off", "diffsim/kernels/stepping.py",
          "own, at = ring, spare", "own, at = ring, spare + 1", KERNELS),
    Fault("ends: forcing of the near one taken for the far one", "diffsim/kernels/stepping.py",
          "(number + number + np.uint64(side)) * length - k", "(number + number) * length - k", KERNELS),
    Fault("ends: a block narrower than the end of a row", "diffsim/kernels/stepping.py",
          "first <= n2 - _LANES <= loud", "n2 - _LANES <= loud", KERNELS),
    Fault("wall: what enters through the far end left out", "diffsim/kernels/stepping.py",
          "entered += r2 * east + (high - r2)", "entered += 0.0 * east + 0.0 * (high - r2)", KERNELS),
    Fault("index: tridiagonal sweep drops the last coupling", "diffsim/kernels/splitting.py",
          "for k in range(n - 2, -1, -1):", "for k in range(n - 3, -1, -1):", SIMULATE),
    Fault("walk: up taken for down", "diffsim/kernels/walk.py",
          "if way % 2 == 0:", "if way % 2 == 1:", "tests/test_particles.py"),
    Fault("walk: drift towards thick cells left out", "diffsim/kernels/walk.py",
          "drift[a] = (work[a] + work[3] * drift[a]) / c", "drift[a] = work[3] * drift[a] / c", "tests/test_particles.py"),
    Fault("walk: bridge at an absorbing wall too narrow", "diffsim/kernels/walk.py",
          "math.exp(-before * after / (kappa[a] * dt))", "math.exp(-2 * before * after / (kappa[a] * dt))",
          "tests/test_particles.py"),
    Fault("walk: rates over the mass of another cell", "diffsim/particles.py",
          "low = np.take(g, range(n), axis=axis) / mass", "low = np.take(g, range(n), axis=axis) / np.roll(mass, 1)",
          "tests/test_particles.py"),
    Fault("tortuosity: wall a whole voxel away", "diffsim/applications/porous.py",
          "half = 2 * np.prod(sizes)", "half = np.prod(sizes)", "tests/test_applications.py"),
    Fault("chip: blocks turned", "diffsim/applications/chips.py",
          "return np.outer(*spans)", "return np.outer(*spans[::-1])", "tests/test_applications.py"),
    Fault("verification: differences from the first level", "diffsim/verification.py",
          "return second - first, third - second", "return second - first, third - first", "tests/test_verification.py"),
    Fault("noise: spread of a mode without its 2", "diffsim/stochastic.py",
          "np.sqrt(_fed(2 * rate, gap))", "np.sqrt(_fed(rate, gap))", "tests/test_stochastic.py"),
    Fault("tensor: flux along a flux side pushed the wrong way", "diffsim/tensor.py",
          '(("-", 0, 1.0), ("+", -1, -1.0))', '(("-", 0, -1.0), ("+", -1, 1.0))', "tests/verification/test_order_in_space.py"),
]  # fmt: skip


def survives(fault: Fault, folder: Path) -> bool:
    """Whether the tests stay green with the fault planted in a copy of the repository under `folder`."""
    path = folder / fault.file
    text = path.read_text()
    path.write_text(text.replace(fault.right, fault.wrong))
    own = {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **own}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "slow or not slow",
        "-p",
        "no:cacheprovider",
        fault.tests,
    ]
    try:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=900).returncode == 0
    finally:
        path.write_text(text)


def main(words: list[str]) -> int:
    """Try the selected faults; 1 where any survived."""
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    lost = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        skip = shutil.ignore_patterns(".venv", ".git", "out", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, folder, ignore=skip)
        for fault in chosen:
            alive = survives(fault, folder)
            lost += alive
            print(f"{'SURVIVED' if alive else 'caught  '}  {fault.name}  ({fault.file})", flush=True)
    print(f"{len(chosen) - lost} of {len(chosen)} faults caught")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
