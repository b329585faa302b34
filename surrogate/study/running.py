"""Running the study: every measurement goes to a journal as soon as it is made, and is never made twice."""

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffsim import store
from diffsim.errors import ProblemError
from diffsim.threads import configure_threads

from .claim import PROFILES, Claim, Records, key

Progress = Callable[[str, int, int], None]  # claim, cases done, cases


def run(
    claims: Iterable[Claim], out, profile: str = "quick", workers: int = 1, progress: Progress | None = None
) -> dict[str, Records]:
    """Measure what is missing of these claims.

    Stopped at any moment (Ctrl-C, a kill), the same call goes on with the next case.

    Parameters
    ----------
    out
        Folder; measurements come to ``records/<profile>/<claim>.jsonl``.
    workers
        Processes, each with one thread; the numbers do not depend on it, only their order of arrival.

    Returns
    -------
    dict
        Claim's name -> all its records, in the order of its cases.
    """
    if profile not in PROFILES:
        raise ProblemError(f"profile = {profile!r}: give one of {', '.join(PROFILES)}.")
    return {claim.name: _measured(claim, Path(out), profile, workers, progress) for claim in claims}


def stored(claim: Claim, out, profile: str) -> Records:
    """The records of a claim's cases that are there, in the order of the cases."""
    found = {key(line["case"]): line for line in store.Journal(_place(claim, Path(out), profile)).records()}
    lines = (found.get(key(case)) for case in claim.cases(profile))
    return Records({**line["case"], **line["measured"]} for line in lines if line)


def complete(claim: Claim, out, profile: str) -> bool:
    """Whether every case has been measured."""
    return len(stored(claim, out, profile)) == len(claim.cases(profile))


def _place(claim: Claim, out: Path, profile: str) -> Path:
    return out / "records" / profile / f"{claim.label}.jsonl"


def _measured(claim: Claim, out: Path, profile: str, workers: int, progress: Progress | None) -> Records:
    place = _place(claim, out, profile)
    place.parent.mkdir(parents=True, exist_ok=True)
    cases = claim.cases(profile)
    journal = store.Journal(place)
    present = {key(line["case"]) for line in journal.records()}
    left = [case for case in cases if key(case) not in present]
    tell = progress or (lambda name, done, total: None)
    tell(claim.name, len(cases) - len(left), len(cases))
    with _results(claim, left, workers) as results:
        for done, (case, measured) in enumerate(results, len(cases) - len(left) + 1):
            journal.append({"case": case, "measured": {name: _plain(value) for name, value in measured.items()}})
            tell(claim.name, done, len(cases))
    return stored(claim, out, profile)


@contextmanager
def _results(claim: Claim, cases: Sequence[dict], workers: int) -> Iterator[Iterator[tuple[dict, dict]]]:
    """(case, measured) pairs as they are made; a pool is stopped at once when the reader leaves."""
    if workers == 1 or len(cases) < 2:
        yield ((case, claim.measure(case)) for case in cases)
        return
    context = multiprocessing.get_context("spawn")  # forked threads of numba and torch do not survive
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        futures = {pool.submit(claim.measure, case): case for case in cases}
        yield ((futures[future], future.result()) for future in as_completed(futures))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """One thread each; Ctrl-C is for the parent alone, which lets a worker finish its case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_threads(1)


def _plain(value: Any) -> Any:
    """As JSON has it: no numpy, None for what is not finite."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
