"""The benchmark's programs compute what they time, and its table says what was measured."""

import math
import sys

import numpy as np
import pytest
from scipy.linalg import expm

import diffsim as ds
from diffsim import bench
from diffsim.operator import discretize


@pytest.mark.parametrize("program", [bench._BDF, bench._CRANK_NICOLSON], ids=["BDF", "Crank-Nicolson"])
def test_peers_solve_the_transient_that_they_are_timed_on(program):
    problem = ds.Problem(
        ds.Grid((6, 5), (1.0, 1.0)),
        diffusivity=1.0 + np.indices((6, 5)).sum(axis=0),
        capacity=2.0,
        source=1.0,
        boundary={"x": ds.Dirichlet(0.0)},
    )
    operator, until = discretize(problem), 0.05
    rate = -operator.matrix().toarray() / operator.mass.reshape(-1, 1)
    settled = np.linalg.solve(operator.matrix().toarray(), operator.forcing(0.0).ravel())
    exact = settled - expm(until * rate) @ settled  # from 0
    data = bench._system(problem, until=until, reference=exact)
    error, seconds = bench._numbers(sys.executable, bench._TRANSIENT + program.format(error=1e-4), data, 2)
    assert 1e-9 < error <= 1e-4
    assert seconds > 0


def test_a_peer_that_is_missing_or_fails_is_no_number():
    assert all(math.isnan(x) for x in bench._numbers(sys.executable, "raise SystemExit(1)", b"", 2))
    assert bench._numbers(sys.executable, "print(1, 2.5)", b"", 2) == [1.0, 2.5]


def test_the_table_names_the_command_and_indents_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/diffsim", "bench", "--quick"])
    rows = [{"name": "work", "value": 1.23456, "unit": "s"}, {"name": "    peer", "value": 2.0, "unit": "s"}]
    bench.write_table(rows, tmp_path / "bench.md")
    text = (tmp_path / "bench.md").read_text()
    assert text.startswith("`diffsim bench --quick` on ")
    assert "| work | 1.235 | s |\n| - peer | 2 | s |\n" in text


def test_the_synthetic_fields_are_what_their_names_say():
    two, block = bench.two_phase(32), bench.log_normal((8, 8, 8))
    assert set(np.unique(two.diffusivity)) == {3.0, 12.0}
    assert block.diffusivity.max() / block.diffusivity.min() == pytest.approx(1e3)


def test_whole_calls_are_compared_with_whole_calls_and_kernels_with_kernels(monkeypatch):
    speeds = {bench._DEVITO: 4.0, bench._PY_PDE: 0.01, bench._PY_PDE_STEPPER: 0.5}
    same = {
        text.format(n=8, ndim=2, steps=steps, varying=False): speed
        for text, speed in speeds.items()
        for steps in (200, 999)
    }
    monkeypatch.setattr(bench, "_peer", lambda _, program: same[program])
    rows = {name.strip(): value for name, value, _ in bench._stepping_peers("python", 2, 8, False, 999, 2.0, 1.0)}
    ratios = {name.removeprefix("ratio to "): value for name, value in rows.items() if name.startswith("ratio")}
    assert ratios == {"devito": 0.5, "py-pde, solve()": 100.0, "py-pde, bare stepper": 4.0}
