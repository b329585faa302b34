"""The pages of the study, written from stored records alone."""

from collections.abc import Iterable
from pathlib import Path

from diffsim import store

from .claim import Claim, Finding
from .running import complete, stored

VERDICTS_FILE = "verdicts.json"
QUICK_CAVEAT = (
    "Quick profile: few seeds and small sizes exercise the experiment and settle what theory gives. Here a verdict such as "
    "'refuted' may only mean that so few runs show no effect; verdicts to quote are those of the full profile."
)


def findings(claims: Iterable[Claim], out, profile: str) -> dict[str, Finding]:
    """Name -> finding of every claim whose cases are all measured."""
    return {claim.name: claim.judge(stored(claim, out, profile)) for claim in claims if complete(claim, out, profile)}


def page(claim: Claim, finding: Finding, figure: str | None, profile: str = "full") -> str:
    """One claim as Markdown."""
    lines = [
        f"# {claim.number}. {claim.says}",
        "",
        f"**{finding.verdict.capitalize()}.** {finding.because}",
        "",
        *([f"*{QUICK_CAVEAT}*", ""] if profile == "quick" else []),
        f"*Tested:* {claim.hypothesis}",
        "",
        f"*Settings:* {claim.settings}",
        "",
        *_table(finding.head, finding.rows),
        "",
    ]
    if finding.checks:
        rows = [(c.name, f"{c.measured:.6g}", f"{c.expected:.6g}", f"{c.tolerance:.2g}") for c in finding.checks]
        lines += ["What theory gives:", "", *_table(("number", "measured", "theory", "tolerance"), rows), ""]
    if figure:
        lines += [f"![{claim.name}]({figure})", ""]
    lines += ["## Why", "", claim.why, "", f"Remade by `surrogate study {claim.name} --profile full`.", ""]
    return "\n".join(lines)


def index(claims: Iterable[Claim], found: dict[str, Finding]) -> str:
    """The table of all verdicts as Markdown."""
    rows = [
        (str(c.number), f"[{c.says}](claims/{c.label}.md)", f"**{found[c.name].verdict}**", found[c.name].because)
        for c in claims
        if c.name in found
    ]
    return "\n".join(_table(("", "what is said", "verdict", "because"), rows)) + "\n"


def write(claims: Iterable[Claim], out, profile: str, figures: bool = True) -> dict[str, Finding]:
    """Pages, figures, the index and the verdicts of every claim that is complete; what they say.

    Parameters
    ----------
    out
        The folder given to `run`: the pages come to ``claims/``, figures to ``claims/images/``, the index to ``verdicts.md``.
    """
    claims = list(claims)
    found = write_pages(claims, out, profile, figures)
    write_index(claims, out, found)
    return found


def write_pages(claims: Iterable[Claim], out, profile: str, figures: bool = True) -> dict[str, Finding]:
    """Pages and figures alone, of every claim that is complete; what they say."""
    claims, folder = list(claims), Path(out)
    found = findings(claims, folder, profile)
    (folder / "claims" / "images").mkdir(parents=True, exist_ok=True)
    for claim in claims:
        if claim.name not in found:
            continue
        picture = f"images/{claim.label}.png"
        if figures:
            draw(claim, folder, profile, folder / "claims" / picture)
        store.write_text(folder / "claims" / f"{claim.label}.md", page(claim, found[claim.name], picture, profile))
    return found


def write_index(claims: Iterable[Claim], out, found: dict[str, Finding]) -> None:
    """``verdicts.md`` and ``verdicts.json``: the verdict of every claim in `found`, in the order of `claims`."""
    folder, claims = Path(out), list(claims)
    store.write_text(folder / "verdicts.md", index(claims, found))
    verdicts = {claim.name: found[claim.name].verdict for claim in claims if claim.name in found}
    store.write_json(folder / VERDICTS_FILE, verdicts)


def write_report(claims: Iterable[Claim], out, profile: str, path) -> None:
    """All complete claims in one HTML file, figures included."""
    from diffsim.report import Report

    claims = list(claims)
    found = findings(claims, out, profile)
    lead = (
        f"{len(found)} of {len(claims)} claims measured, profile {profile}. Every verdict is computed from the records."
    )
    if profile == "quick":
        lead += f" {QUICK_CAVEAT}"
    report = Report("The study: what is said about diffusion and training", lead)
    summary = report.section("Verdicts")
    summary.table(
        ["", "what is said", "verdict"],
        [[str(c.number), c.says, found[c.name].verdict] for c in claims if c.name in found],
    )
    for claim in claims:
        if claim.name not in found:
            continue
        finding = found[claim.name]
        section = report.section(f"{claim.number}. {claim.says}")
        section.text(f"{finding.verdict.capitalize()}. {finding.because}")
        section.text(f"Tested: {claim.hypothesis}")
        section.table(list(finding.head), [list(row) for row in finding.rows])
        section.figure(draw(claim, out, profile), claim.settings)
        for paragraph in claim.why.split("\n\n"):
            section.text(paragraph.replace("*", ""))
    report.write(path)


def draw(claim: Claim, out, profile: str, path: Path | None = None):
    """The claim's figure, written to `path` where given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    claim.draw(stored(claim, out, profile), figure)
    if path is not None:
        store.write_figure(figure, path)
    return figure


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    return [f"| {' | '.join(row)} |" for row in (clean[0], ["---"] * len(head), *clean[1:])]
