"""The command ``surrogate``. Whatever is slow to import is imported by the command that needs it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from diffsim import console
from diffsim.console import emit, note, say, table

app = typer.Typer(
    name="surrogate",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Surrogates of diffusion equilibria: data, training, certified prediction, honest evaluation.",
    epilog="Start with: surrogate generate darcy data/darcy, then surrogate train data/darcy runs/first. "
    "Exit codes: 0 done, 2 usage, 3 problem, 4 file, 5 memory or disk, 6 numerical failure, 7 busy, 130 interrupted. "
    "--debug shows tracebacks.",
)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of a dataset; `surrogate generate` writes one.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained model.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, only results and errors.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
Part = Annotated[str, typer.Option(help="train, validation, test or all.")]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv` (default: the process's own) and exit with the code that its outcome has."""
    console.run(app, "surrogate", argv)


@app.callback()
def options(
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of all kernels; default: the cores.")] = None,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda wanted: _version(wanted), help="Print the version."),
    ] = False,
) -> None:
    """Options before the command."""
    from diffsim.threads import configure_threads

    configure_threads(threads)


def _version(wanted: bool) -> None:
    if wanted:
        from diffsim import __version__

        say(f"surrogate {__version__}")
        raise typer.Exit


# --- data -------------------------------------------------------------------------------------------------------------


@app.command()
def generate(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A name (`surrogate specs` lists them) or a TOML file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the dataset; the same call resumes it.")],
    count: Annotated[int, typer.Option(min=1, help="Number of items.")] = 1000,
    resolution: Annotated[int, typer.Option(min=2, help="Cells per axis.")] = 64,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Shards solved at once; the result does not depend on it.")] = 1,
    labels: Annotated[str, typer.Option(help="same-grid or restricted-fine.")] = "same-grid",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the spec; repeatable.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Draw problems, solve them, and keep both; interrupted at any moment, the same call goes on."""
    from .dataset import generate as run
    from .sampling import Spec

    chosen = Spec.of(spec)
    if changes := _settings(overrides):
        chosen = Spec.of({"base": spec, "name": chosen.name, **changes})
    with _bar(f"generating {chosen.name}", quiet or json) as progress:
        data = run(chosen, out, count, resolution, seed, workers, labels, progress)
    facts = {"data": str(out), "items": len(data), "shape": data.shape, "task": data.task, "labels": data.labels}
    facts |= {part: len(items) for part, items in data.split.items()}
    if json:
        emit(facts)
        return
    say(table(list(facts.items())))
    if not quiet:
        note(
            f"next: surrogate train {out} runs/{chosen.name}"
            + (" --task transient" if data.task == "transient" else "")
        )


@app.command()
def specs(json: Json = False) -> None:
    """List the distributions of problems that have a name."""
    from .sampling import SPECS, Spec

    plain = Spec("plain").as_dict()
    rows = []
    for spec in SPECS.values():
        fields = spec.as_dict()
        rows.append((spec.name, ", ".join(f"{k} = {v}" for k, v in fields.items() if k != "name" and v != plain[k])))
    if json:
        emit({spec.name: spec.as_dict() for spec in SPECS.values()})
        return
    say(table(rows, ("name", "differs from darcy in")))


@app.command()
def verify(
    data: Data,
    sample: Annotated[int | None, typer.Option(min=1, help="Check the physics of so many items; default: all.")] = None,
    seed: Seed = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make a lost or damaged manifest again from the shards.")
    ] = False,
    json: Json = False,
) -> None:
    """Check every byte of a dataset, and its labels against the physics."""
    from .dataset import Dataset

    dataset = Dataset.repair(data) if repair else Dataset(data)
    report = dataset.verify(sample=sample, seed=seed)
    if json:
        emit({"ok": True, **vars(report)})
        return
    say(f"ok: {report}")


@app.command()
def export(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    layout: Annotated[str, typer.Option(help="pdebench, well or netcdf.")] = "netcdf",
    part: Part = "all",
    force: Force = False,
) -> None:
    """Write a dataset in the layout of others."""
    from diffsim import store
    from diffsim.errors import ProblemError

    from .dataset import Dataset

    dataset, chosen = Dataset(data), None if part == "all" else part
    store.new_path(out, force=force)
    if layout == "netcdf":
        with store.replacing(out) as temporary:
            dataset.to_xarray(chosen).to_netcdf(temporary, engine="h5netcdf")
    elif layout in ("pdebench", "well"):
        getattr(dataset, f"to_{layout}")(out, chosen)
    else:
        raise ProblemError(f"layout = {layout!r} is unknown; choose one of pdebench, well, netcdf.")
    note(f"wrote {out}")


@app.command()
def doctor(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="npz, npy, HDF5 (PDEBench, The Well) files.")],
    json: Json = False,
) -> None:
    """Examine other people's data: which equation, which grid, equilibria or not, extrema, repeats, leakage."""
    from .doctor import examine

    findings = examine(*files)
    if json:
        emit({"findings": [vars(f) for f in findings]})
        return
    say(table([(f.level, f.check, f.detail) for f in findings]))


# --- models -----------------------------------------------------------------------------------------------------------


@app.command()
def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of a dataset; with --recipe, of data and models.")
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Folder of the model; the same call resumes it.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Reproduce a row of docs/results.md: generate, train and evaluate in DATA.")
    ] = None,
    model: Annotated[str, typer.Option(help="Architecture; a wrong name lists them.")] = "multigrid",
    task: Annotated[str | None, typer.Option(help="coefficients or transient; default: what the data are.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time to train.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data to train.")] = None,
    seed: Seed = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of model, optimizer or training; repeatable."),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also draw the training curve.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a surrogate; interrupted at any moment, the same call goes on."""
    if recipe is not None:
        _reproduce(recipe, data, seed, minutes, _settings(overrides), quiet, json)
        return
    if out is None:
        raise typer.BadParameter("OUT is missing: name a folder for the model.")
    from .dataset import Dataset
    from .training import train as run

    dataset = Dataset(data)
    surrogate = run(
        dataset,
        model=model,
        task=task or dataset.task,
        minutes=minutes,
        epochs=epochs,
        seed=seed,
        out=out,
        progress=False if quiet or json else None,
        **_settings(overrides),
    )
    if plot is not None:
        from diffsim import plots

        plots.training_curve(surrogate.history, path=plot)
    trained = surrogate.card.trained
    facts = {
        "model": str(out),
        "architecture": surrogate.card.model,
        "task": surrogate.task,
        "parameters": surrogate.parameters,
        "validation_l2": trained.get("validation_l2"),
        "epochs": trained.get("epochs"),
        "minutes": trained.get("minutes_used"),
        "status": trained.get("status"),
    }
    emit(facts) if json else say(table(list(facts.items())))
    if trained.get("status") == "interrupted":
        note("interrupted; the same call goes on from here")
        raise typer.Exit(console.INTERRUPTED)
    if not quiet and not json:
        note(f"next: surrogate evaluate {out} {data}")


def _reproduce(
    name: str, folder: Path, seed: int, minutes: float | None, options: dict, quiet: bool, json: bool
) -> None:
    from .recipes import reproduce

    _, report = reproduce(name, folder, seed, minutes, progress=False if quiet or json else None, **options)
    emit(report.as_dict()) if json else say(report.table())


@app.command()
def ladder(
    model: Model,
    count: Annotated[int, typer.Option(min=1, help="Items per rung.")] = 16,
    resolution: Annotated[int | None, typer.Option(min=4, help="Cells per axis; default: as trained.")] = None,
    seed: Seed = 1_000_000,
    tol: Annotated[float, typer.Option(help="Relative L2 error up to which a prediction is accepted.")] = 1e-2,
    json: Json = False,
) -> None:
    """Measure a model away from what it was trained on: contrast, roughness, sources, sides, resolution."""
    from .checkpoint import load
    from .ladder import ladder as climb

    rungs = climb(load(model), count=count, resolution=resolution, seed=seed, tol=tol)
    if json:
        emit({rung.name: {"accepted": rung.accepted, **rung.errors} for rung in rungs})
        return
    rows = [(r.name, *(100 * r.errors["l2"][s] for s in ("mean", "worst")), 100 * r.accepted) for r in rungs]
    say(table(rows, ("away from the training data", "mean L2 error, %", "worst, %", f"accepted at {100 * tol:g} %, %")))


@app.command()
def evaluate(
    model: Model,
    data: Data,
    part: Part = "test",
    tol: Annotated[float, typer.Option(help="Relative L2 error up to which a prediction is accepted.")] = 1e-2,
    most: Annotated[int | None, typer.Option(min=1, help="At most so many items.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Save the report.")] = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure a model on data it has not seen, beside baselines and the solver itself."""
    from diffsim import store

    from .checkpoint import load
    from .dataset import Dataset
    from .evaluate import evaluate as run

    if out is not None:
        store.new_path(out, force=force)
    say_stage = None if quiet or json else note
    report = run(load(model), Dataset(data), None if part == "all" else part, tol, most, progress=say_stage)
    if out is not None:
        report.save(out)
    if json:
        emit(report.as_dict())
        return
    say(report.table())


@app.command()
def predict(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="PROBLEM.toml", help="The problem, as for `diffsim equilibrium`.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the file; repeatable.")
    ] = None,
    tol: Annotated[float, typer.Option(help="Relative L2 error up to which the prediction is accepted.")] = 1e-2,
    refine: Annotated[bool, typer.Option("--refine", help="Improve it until it is accepted.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.npy", help="Save the field.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also write a picture.")] = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Predict the equilibrium of a problem, with a guaranteed error bound."""
    import numpy as np

    from diffsim import config, store

    from .checkpoint import load

    problem = config.read(file, overrides or []).problem()
    for target in (out, plot):
        if target is not None:
            store.new_path(target, force=force)
    answer = load(model).predict(problem, tol=tol)
    if refine and not answer.accepted:
        answer = answer.refine(tol)
    if out is not None:
        store.write_npy(out, answer.u)
    if plot is not None:
        answer.plot(plot)
    bound = answer.bound
    finite = bool(np.isfinite(answer.u).any())
    facts: dict[str, Any] = {
        "min": float(np.nanmin(answer.u)) if finite else None,
        "max": float(np.nanmax(answer.u)) if finite else None,
        "accepted": answer.accepted,
        "tol": tol,
    }
    if bound is not None:
        facts |= {k: getattr(bound, k) for k in ("l2", "l2_relative", "energy_lower", "energy")}
    facts["file"] = None if out is None else str(out)
    if json:
        emit(facts)
    else:
        say(table([(k, v) for k, v in facts.items() if v is not None]))
        if bound is not None:
            say(bound.explain())
        if answer.interval is not None:
            say(f"statistically: {answer.interval}")
    if not finite:
        note("the prediction is not finite")
        raise typer.Exit(6)
    if not quiet and not json and not answer.accepted:
        note(f"next: surrogate predict {model} {file} --refine")


# --- the study --------------------------------------------------------------------------------------------------------


@app.command()
def study(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="Names or numbers of claims, or all; none: a list.")
    ] = None,
    profile: Annotated[str, typer.Option(help="quick (minutes) or full (hours; what docs/study holds).")] = "quick",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records, pages and figures.")] = Path("study"),
    workers: Annotated[int, typer.Option(min=1, help="Processes; the numbers do not depend on it.")] = 1,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Also write all that is complete in one page.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """List the claims of the study with their verdicts, or measure some; interrupted, the same call goes on."""
    from diffsim import store

    from . import study as the_study

    if report is not None:
        store.new_path(report, force=force)
    chosen = the_study.chosen(names or [])
    if chosen:
        _measure(chosen, profile, out, workers, quiet or json, names or [])
        the_study.write_pages(chosen, out, profile)
    everything = list(the_study.CLAIMS.values())
    found = the_study.findings(everything, out, profile)
    if chosen:
        the_study.write_index(everything, out, found)
    if report is not None:
        the_study.write_report(everything, out, profile, report)
    shown = chosen or everything
    if json:
        emit({"profile": profile, "claims": [_claim_facts(claim, found.get(claim.name)) for claim in shown]})
    elif chosen:
        say(table([(c.number, c.name, found[c.name].verdict, found[c.name].because) for c in shown], _CLAIM_HEAD))
        if profile == "quick" and not quiet:
            note(the_study.QUICK_CAVEAT)
    else:
        rows = [(c.number, c.name, found[c.name].verdict if c.name in found else "-", c.says) for c in shown]
        say(table(rows, ("", "name", "verdict", "what is said")))
        if not quiet:
            note(f"next: surrogate study {shown[0].name if shown else 'NAME'}, or surrogate study all")
    failed = [(c.name, check) for c in chosen for check in found[c.name].checks if not check.ok]
    for name, check in failed:
        note(f"{name}: {check.name} is {check.measured:.6g}, theory gives {check.expected:.6g} ± {check.tolerance:.2g}")
    if failed:
        raise typer.Exit(6)


_CLAIM_HEAD = ("", "name", "verdict", "because")


def _measure(chosen: list, profile: str, out: Path, workers: int, silent: bool, names: list[str]) -> None:
    """Measure what is missing of these claims, under one bar; a stop says how to go on."""
    from . import study as the_study

    done: dict[str, int] = {}
    total = sum(len(claim.cases(profile)) for claim in chosen) if profile in the_study.PROFILES else 0
    with _bar(f"study, {profile}", silent) as bar:

        def progress(name: str, measured: int, _of: int) -> None:
            done[name] = measured
            if bar is not None:
                bar(sum(done.values()), total)

        try:
            the_study.run(chosen, out, profile, workers, progress)
        except KeyboardInterrupt:
            note(
                f"interrupted with {sum(done.values())} of {total} measurements kept; go on with: "
                f"surrogate study {' '.join(names)} --profile {profile} --out {out}"
            )
            raise typer.Exit(console.INTERRUPTED) from None


def _claim_facts(claim, finding) -> dict[str, Any]:
    facts = {"number": claim.number, "name": claim.name, "says": claim.says, "verdict": None}
    if finding is not None:
        facts |= {"verdict": finding.verdict, "because": finding.because}
        facts["checks"] = [{**vars(check), "ok": check.ok} for check in finding.checks]
    return facts


# --- small things -----------------------------------------------------------------------------------------------------


def _settings(overrides: list[str] | None) -> dict[str, Any]:
    """``key=value`` pairs; values as TOML writes them, anything else is a string."""
    from diffsim.errors import ProblemError, StoreError
    from diffsim.store import parse_toml

    result: dict[str, Any] = {}
    for given in overrides or []:
        key, equals, text = given.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ProblemError(f"--set {given!r} is not KEY=VALUE; write for example --set batch=8.")
        try:
            result[key.strip()] = parse_toml(f"value = {text}", "--set")["value"]
        except StoreError:
            result[key.strip()] = text.strip()
    return result


@contextmanager
def _bar(title: str, silent: bool) -> "Iterator[Callable[[int, int], None] | None]":
    """A progress bar on a terminal; elsewhere a line every ten seconds."""
    import sys
    import time

    if silent:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    else:
        last = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= 10 or done == total:
                last = time.monotonic()
                note(f"{title}: {done} of {total}")

        yield report
