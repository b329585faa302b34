"""Memory of a run: what is predicted is what is taken, an explicit run takes little, and what cannot fit takes nothing."""

import gc
import importlib
import subprocess
import sys
import tracemalloc

import numba
import numpy as np
import pytest

import diffsim as ds
from diffsim import preflight, resources
from diffsim.footprint import count_frames
from diffsim.schemes import SCHEMES

simulate = importlib.import_module("diffsim.simulate")  # the package shows the function under this name

PLANE, BLOCK = (512, 512), (64, 64, 64)
SMALL_PLANE, SMALL_BLOCK = (320, 320), (48, 48, 48)


def varying(shape, seed=0):
    return 1.0 + np.random.default_rng(seed).random(shape)


def void(shape):
    active = np.ones(shape, bool)
    active[tuple(slice(n // 4, n // 2) for n in shape)] = False
    return active


# what makes a problem of a shape dear or cheap
KINDS = {
    "constant": lambda shape: {"diffusivity": 1.0},
    "constant, Robin": lambda shape: {"diffusivity": 1.0, "boundary": {"x-": ds.Robin(2.0, 1.0), "y": ds.Dirichlet(1.0)}},
    "constant, source, loss": lambda shape: {"diffusivity": 1.0, "source": varying(shape), "loss": 0.3, "ambient": 1.0},
    "constant, void": lambda shape: {"diffusivity": 1.0, "active": void(shape)},
    "varying": lambda shape: {"diffusivity": varying(shape)},
    "varying, source, loss": lambda shape: {"diffusivity": varying(shape), "source": varying(shape), "loss": 0.3},
    "varying, capacity": lambda shape: {"diffusivity": varying(shape), "capacity": varying(shape, 1)},
    "varying, void": lambda shape: {"diffusivity": varying(shape), "active": void(shape)},
    "varying, held": lambda shape: {"diffusivity": varying(shape), "fixed": (~void(shape), 1.0)},
    "varying, moving wall": lambda shape: {"diffusivity": varying(shape), "boundary": {"x-": ds.Dirichlet(lambda t: t)}},
    "of state": lambda shape: {"diffusivity": ds.OfState(lambda u: 1 + u)},
    "of gradient": lambda shape: {"diffusivity": ds.OfGradient(lambda s: 1 / (1 + s))},
    "of time": lambda shape: {"diffusivity": ds.OfTime(lambda t: 1 + t)},
    "reaction": lambda shape: {"diffusivity": 1.0, "reaction": lambda u: u * (1 - u)},
}  # fmt: skip


def posed(kind, shape):
    given = {"boundary": {"x": ds.Dirichlet(0.0)}, **KINDS[kind](shape)}
    return ds.Problem(ds.Grid(shape, (1.0,) * len(shape)), **given)


def arguments(problem, start, scheme, frames, steps=3, share=0.4, **settings):
    step = share * ds.stability(problem, "ftcs", tighten=False, u=start).dt_limit
    dt = step if "tol" not in settings and SCHEMES[scheme].family != "exponential" else "auto"
    chosen = {"scheme": scheme, "dt": dt, "tol": None, "save": frames, "on_unstable": "raise", **settings}
    return {"until": steps * step, **chosen}


def foreseen(problem, until, scheme, dt, **settings):
    step = None if dt == "auto" else dt
    return simulate.require_room(problem, SCHEMES[scheme], 10**15, step=step, **settings)


def traced(action):
    """Bytes that `action` takes at its peak beyond what was there, of numpy's arrays and Python's objects."""
    gc.collect()
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def predicted_and_taken(kind, shape, scheme, frames, **settings):
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        for cells in (
            SMALL_PLANE if len(shape) == 2 else SMALL_BLOCK,
            shape,
        ):  # the first compiles what the second takes
            problem, start = posed(kind, cells), np.random.default_rng(2).random(cells)
            given = arguments(problem, start, scheme, frames, **settings)
            predicted = foreseen(problem, **given)
            taken = traced(lambda p=problem, u=start, g=given: ds.simulate(p, u, progress=False, **g))
    finally:
        numba.set_num_threads(before)
    return predicted, taken


@pytest.mark.parametrize("shape", [PLANE, BLOCK], ids=["plane", "block"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", ["final", 4])
def test_what_forward_euler_takes_is_what_was_predicted(kind, shape, frames):
    predicted, taken = predicted_and_taken(kind, shape, "ftcs", frames)
    assert abs(predicted / taken - 1) <= 0.2


@pytest.mark.parametrize("shape", [PLANE, BLOCK], ids=["plane", "block"])
@pytest.mark.parametrize("kind", ["constant", "constant, Robin"])
@pytest.mark.parametrize("frames", [1, 4])
def test_constant_coefficients_take_two_fields_and_frames(kind, shape, frames):
    _, taken = predicted_and_taken(kind, shape, "ftcs", "final" if frames == 1 else frames)
    assert taken <= 8 * np.prod(shape) * (frames + 2)


@pytest.mark.parametrize("shape", [PLANE, BLOCK], ids=["plane", "block"])
def test_varying_coefficients_add_what_the_kernel_reads(shape):
    _, taken = predicted_and_taken("varying", shape, "ftcs", "final")
    acting = 3 * (1 + 16 / shape[-1])  # loss, inverse mass, forcing, and the same at the ends of rows
    read = len(shape) + acting
    assert taken <= 8 * np.prod(shape) * (1 + 2 + read)


@pytest.mark.parametrize("scheme", ["rk2", "rk4", "rkl1", "rkl2", "rkc2", "rock2", "adi", "tr-bdf2", "exact", "krylov"])
@pytest.mark.parametrize("kind", ["constant", "varying"])
@pytest.mark.parametrize("shape", [SMALL_PLANE, SMALL_BLOCK], ids=["plane", "block"])
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_what_other_schemes_take_is_what_was_predicted(scheme, kind, shape, adaptive):
    if (scheme, kind) == ("exact", "varying") or (adaptive and scheme in ("exact", "krylov")):
        return
    settings = {"tol": 1e-2, "steps": 40} if adaptive else {"steps": 3000 if scheme == "krylov" else 3}
    predicted, taken = predicted_and_taken(kind, shape, scheme, 2, **settings)
    assert abs(predicted / taken - 1) <= 0.2


@pytest.mark.parametrize(
    "settings",
    [
        {"stop": lambda t, u: False},
        {"stop": ds.AtSteady(1e-12)},
        {"on_unstable": "allow", "share": 2.1},
        {"noise": 0.1},
    ],
    ids=["stop", "at steady", "allow", "noise"],
)
@pytest.mark.parametrize("kind", ["constant", "varying"])
def test_what_is_watched_or_shaken_is_counted(settings, kind):
    predicted, taken = predicted_and_taken(kind, PLANE, "ftcs", 3, **settings)
    assert abs(predicted / taken - 1) <= 0.2


@pytest.mark.parametrize("kind", ["constant", "varying"])
def test_a_run_is_refused_below_its_prediction_and_goes_on_above(kind, monkeypatch):
    problem = posed(kind, SMALL_PLANE)
    given = arguments(problem, np.zeros(SMALL_PLANE), "ftcs", "final")
    needed = preflight.survey(problem, 0.0, given).memory
    assert needed == foreseen(problem, **given)
    monkeypatch.setattr(simulate, "memory_available", lambda: int(needed / resources._SHARE * 1.001))
    assert ds.simulate(problem, 0.0, **given).ok
    monkeypatch.setattr(simulate, "memory_available", lambda: int(needed / resources._SHARE * 0.999))
    with pytest.raises(ds.ResourceError, match="simulating 320 x 320 cells with 1 frames by ftcs"):
        ds.simulate(problem, 0.0, **given)
    monkeypatch.setattr(resources, "memory_available", lambda: int(needed / resources._SHARE * 0.999))
    with pytest.raises(ds.ResourceError, match="simulating 320 x 320 cells with 1 frames by ftcs"):
        preflight.survey(problem, 0.0, given)


@pytest.mark.parametrize("kind", ["constant", "varying"])
@pytest.mark.parametrize("what", ["simulate", "survey"])
def test_nothing_of_the_size_of_the_grid_is_made_before_a_refusal(kind, what, monkeypatch):
    problem, start = posed(kind, PLANE), np.zeros(PLANE)
    given = arguments(problem, start, "ftcs", "final")
    del problem
    problem = posed(kind, PLANE)  # with nothing kept from before
    for module in (simulate, resources):
        monkeypatch.setattr(module, "memory_available", lambda: 10**6)

    def refused():
        with pytest.raises(ds.ResourceError):
            ds.simulate(problem, start, **given) if what == "simulate" else preflight.survey(problem, start, given)

    refused()
    assert traced(refused) < 0.02 * 8 * np.prod(PLANE)


@pytest.mark.parametrize(
    ("save", "frames"), [("final", 1), (1, 1), (7, 7), (7.0, 7), ([0.1, 0.2], 2), (np.arange(3), 3), (0, 1), (np.inf, 1)]
)  # fmt: skip
def test_frames_are_counted_without_making_them(save, frames):
    assert count_frames(save) == frames


LIMITED = """
import resource, sys
import numpy as np
import psutil
import diffsim as ds

def run(n):
    problem = ds.Problem(ds.Grid((n, n), (1.0, 1.0)), diffusivity=1.0, boundary={"x": ds.Dirichlet(0.0)})
    dt = 0.2 / n**2
    return ds.simulate(problem, 1.0, until=2 * dt, scheme="ftcs", dt=dt, save="final", progress=False)

run(256)  # compiles, and starts the threads
field = 8 * 3072**2
limit = psutil.Process().memory_info().vms + int(float(sys.argv[1]) * field)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(run(3072).status)
except ds.ResourceError as error:
    grown = psutil.Process().memory_info().vms + int(float(sys.argv[1]) * field) - limit
    print("refused", grown < 0.02 * field)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are those of Linux here")
@pytest.mark.parametrize(("fields", "said"), [(1.9, "refused True"), (2.6, "finished")])
def test_a_limit_of_the_address_space_is_honoured(fields, said):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(fields)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == said, done.stderr


PEAK = """
import sys
import numpy as np
import diffsim as ds
from diffsim.schemes import SCHEMES
from diffsim.simulate import require_room

def run(n):
    given = {"diffusivity": 1.0}
    if sys.argv[1] == "varying":  # with a loss everywhere, so that no page stays untouched
        given = {"diffusivity": np.random.default_rng(0).random((n, n)) + 1, "loss": 0.1, "ambient": 1.0}
    problem = ds.Problem(ds.Grid((n, n), (1.0, 1.0)), boundary={"x": ds.Dirichlet(0.0)}, **given)
    settings = dict(tol=None, save=int(sys.argv[3]), on_unstable="raise")
    start = np.ones((n, n))
    # nothing is made and given back before: memory that the process keeps would hide what the run takes
    predicted = require_room(problem, SCHEMES[sys.argv[2]], 10**15, step=None, **settings)
    before = peak(reset=True)
    ds.simulate(problem, start, until=0.8 / n**2, scheme=sys.argv[2], progress=False, **settings)
    return predicted / (peak() - before)

def peak(reset=False):  # ru_maxrss would begin with that of the process that started this one
    if reset:
        open("/proc/self/clear_refs", "w").write("5")
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

run(256)
print(run(1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("coefficients", "scheme", "frames"),
    [
        ("uniform", "ftcs", 1),
        ("uniform", "ftcs", 10),
        ("uniform", "exact", 10),
        ("varying", "ftcs", 1),
        ("varying", "ftcs", 10),
        ("varying", "rk4", 10),
        ("varying", "rkl2", 10),
    ],
)
def test_predicted_memory_is_what_is_resident_at_the_peak(coefficients, scheme, frames):
    words = [sys.executable, "-c", PEAK, coefficients, scheme, str(frames)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert abs(float(done.stdout) - 1) <= 0.2
