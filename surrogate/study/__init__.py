"""The study: 24 things that are said about diffusion and about training, each put to the test.

claim        what a claim is: cases, a measurement, a judgement of stored records
statistics   paired comparisons over seeds
running      measurements to journals, resumable
reporting    pages, figures and verdicts from the journals
claims/      the experiments
"""

from collections.abc import Iterable
from difflib import get_close_matches

from diffsim.errors import ProblemError

from .claim import PROFILES, VERDICTS, Case, Check, Claim, Finding, Records
from .reporting import QUICK_CAVEAT, draw, findings, page, write, write_index, write_pages, write_report
from .running import complete, run, stored
from .table import CLAIMS

__all__ = [
    "CLAIMS",
    "PROFILES",
    "QUICK_CAVEAT",
    "VERDICTS",
    "Case",
    "Check",
    "Claim",
    "Finding",
    "Records",
    "chosen",
    "complete",
    "draw",
    "findings",
    "page",
    "run",
    "stored",
    "write",
    "write_index",
    "write_pages",
    "write_report",
]


def chosen(names: Iterable[str]) -> list[Claim]:
    """The claims of these names or numbers, in the order of the table; all for "all".

    Raises
    ------
    ProblemError
        For a name that is not in the table, with the nearest one.
    """
    names = [str(name) for name in names]
    if "all" in names:
        return list(CLAIMS.values())
    known = {str(claim.number): claim.name for claim in CLAIMS.values()} | {name: name for name in CLAIMS}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ProblemError(f"claim = {name!r} is not known.{hint} `surrogate study` lists them.")
    wanted = {known[name] for name in names}
    return [claim for claim in CLAIMS.values() if claim.name in wanted]
