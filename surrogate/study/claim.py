"""What a claim is: settings, a measurement, and a judgement that sees nothing but the stored measurements."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffsim.errors import ProblemError

Case = Mapping[str, Any]  # settings of one measurement: numbers, names and the seed, as JSON holds them
PROFILES = ("quick", "full")
VERDICTS = ("supported", "refuted", "depends")


def key(case: Case) -> str:
    """The case as text, the same for equal cases."""
    return json.dumps(dict(case), sort_keys=True)


class Records:
    """Measurements of one claim: a table with a row per case.

    Parameters
    ----------
    rows
        Case and measurement of each row in one mapping; a measurement that was not finite is None.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        self.rows = [dict(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def where(self, **settings) -> "Records":
        """The rows with these settings."""
        return Records(row for row in self.rows if all(row.get(k) == v for k, v in settings.items()))

    def distinct(self, column: str) -> list:
        """The values of a column, in order of first appearance."""
        return list(dict.fromkeys(row[column] for row in self.rows if column in row))

    def __getitem__(self, column: str) -> np.ndarray:
        """A column of numbers, (rows,) or (rows, n) for measured lists; None reads as NaN."""
        return np.array([row[column] for row in self.rows], dtype=float)

    def by_seed(self, column: str, **settings) -> dict[int, float]:
        """Seed -> number, over the rows with these settings.

        Raises
        ------
        ProblemError
            If several rows with these settings share a seed: the settings do not name one variant.
        """
        chosen = self.where(**settings)
        found = {int(row["seed"]): math.nan if row[column] is None else float(row[column]) for row in chosen}
        if len(found) != len(chosen):
            raise ProblemError(f"{settings} names several rows per seed; give all settings of one variant.")
        return found


@dataclass(frozen=True)
class Check:
    """A number that theory gives, beside the measured one; `tolerance` is absolute, and from theory as well."""

    name: str
    measured: float
    expected: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return abs(self.measured - self.expected) <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class Finding:
    """What the records say.

    Attributes
    ----------
    verdict
        "supported", "refuted" or "depends".
    because
        The figures that decide, in a sentence or two; for "depends": on what.
    head, rows
        The table behind it.
    checks
        Numbers that theory gives.
    """

    verdict: str
    because: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...] = ()

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ProblemError(f"verdict = {self.verdict!r}; it is one of {', '.join(VERDICTS)}.")
        if any(len(row) != len(self.head) for row in self.rows):
            raise ProblemError(f"the rows of a table have as many cells as its head, {len(self.head)}.")


@dataclass(frozen=True)
class Claim:
    """One experiment.

    Attributes
    ----------
    number, name
        As the report counts and files it.
    says
        What is said.
    hypothesis
        The same as something that can turn out false, and the rule by which it is judged.
    settings
        What is run: problem, sizes, seeds.
    why
        The reasons behind the outcome, for a reader who wants to learn.
    cases
        profile -> cases, cheap and deterministic.
    measure
        case -> numbers, lists of numbers or None. Depends on the case alone. Computes for seconds, not minutes, so that
        little is lost when it is stopped.
    judge
        Records -> Finding.
    draw
        (Records, matplotlib figure) -> None.
    """

    number: int
    name: str
    says: str
    hypothesis: str
    settings: str
    why: str
    cases: Callable[[str], list[dict]] = field(repr=False)
    measure: Callable[[Case], dict[str, Any]] = field(repr=False)
    judge: Callable[[Records], Finding] = field(repr=False)
    draw: Callable[[Records, Any], None] = field(repr=False)

    @property
    def label(self) -> str:
        """What its files are called."""
        return f"{self.number:02d}-{self.name}"
