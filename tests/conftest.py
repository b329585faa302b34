"""Fixtures and settings that every test shares."""

import os
from pathlib import Path

# Numba reads this when it is imported. Two threads, whatever the machine: tests that compare thread counts
# need more than one, and no result may depend on how many cores there happen to be.
os.environ.setdefault("NUMBA_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "diffsim",
    deadline=None,  # the first example of a kernel includes its compilation
    max_examples=25,
    derandomize=True,
    database=None,
)
hypothesis.settings.load_profile("diffsim")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with measured and published inputs that are not part of the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DIFFSIM_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no real inputs at {folder}; set DIFFSIM_SHARED to the folder that holds them")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


def pytest_terminal_summary(terminalreporter):
    """Print what was skipped, and why, even where the report level hides it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"skipped: {len(skipped)}")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
