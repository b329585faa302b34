"""The command ``diffsim``. Whatever is slow to import is imported by the command that needs it."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import console
from .cli_uses import uses
from .console import emit, note, say, table

if TYPE_CHECKING:
    from .config import Configuration
    from .trajectory import Trajectory

app = typer.Typer(
    name="diffsim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Diffusion on structured grids, with steps that are proved stable (the CFL or mesh Fourier limit).",
    epilog="Start with: diffsim init problem.toml, then diffsim simulate problem.toml. "
    "Exit codes: 0 done, 2 usage, 3 problem, 4 file, 5 memory or disk, 6 numerical failure, 7 busy, 130 interrupted. "
    "--debug shows tracebacks.",
)

_CONFIG = typer.Argument(metavar="PROBLEM.toml", help="The problem; `diffsim init` writes an example.")
Problem = Annotated[Path, _CONFIG]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the file; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also write a picture (.png, .svg, .pdf).")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, only results and errors.")]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv` (default: the process's own) and exit with the code that its outcome has."""
    console.run(app, "diffsim", argv)


@app.callback()
def options(
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of all kernels; default: the cores.")] = None,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda wanted: _version(wanted), help="Print the version."),
    ] = False,
) -> None:
    """Options before the command."""
    from .threads import configure_threads

    configure_threads(threads)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        say(f"diffsim {__version__}")
        raise typer.Exit


# -------------------------------------------------------------------------------------------------- running


@app.command()
def simulate(
    file: Problem,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.h5", help="Where the run goes; default: beside you.")
    ] = None,
    plot: Plot = None,
    animate: Annotated[Path | None, typer.Option(metavar="FILE.gif", help="Also write an animation.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")] = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Advance the problem in time and save the frames."""
    from . import preflight, store
    from .simulate import simulate as run_simulation

    configuration, problem = _read(file, overrides)
    settings, initial = configuration.simulation(), configuration.initial()
    before = preflight.survey(problem, initial, settings)
    if not quiet:
        note(table(before.rows()))
        for warning in before.warnings:
            note(f"warning: {warning}")
    if dry_run:
        if json:
            emit(before.facts())
        return
    target = _free(out, f"{file.stem}.h5", force)
    for extra in (plot, animate):
        if extra is not None:
            store.new_path(extra, force=force)
    before.require_room(target.parent)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="until lies")  # the survey has said so
        run = run_simulation(problem, initial, progress=False if quiet or json else None, **settings)
    run.save(target)
    if plot is not None:
        run.plot(plot)
    if animate is not None:
        run.animate(animate)
    _report(run, target, json)
    if run.status == "interrupted":
        note(f"next: continue with --set 'run.initial={{file = \"{target}\"}}'")
        raise typer.Exit(console.INTERRUPTED)
    if not run.ok:
        raise typer.Exit(6)
    if not quiet:
        note(f"next: diffsim equilibrium {file}")


def _report(run: "Trajectory", target: Path, json: bool) -> None:
    import numpy as np

    low, high = (float(f(run.final)) if np.isfinite(run.final).any() else np.nan for f in (np.nanmin, np.nanmax))
    facts = {
        "status": run.status,
        "message": run.message,
        "scheme": run.scheme,
        "dt": run.dt,
        "frames": len(run.t),
        "t": float(run.t[-1]),
        "min": low,
        "max": high,
        "content": float(run.content[-1]),
        "balance": run.balance,
        "stats": dict(run.stats),
        "probes": {name: float(values[-1]) for name, (_, values) in run.probes.items()},
        "file": str(target),
    }
    if json:
        emit(facts)
        return
    rows = [
        ("status", f"{run.status}: {run.message}"),
        ("steps", f"{run.stats.get('steps', 0)} of {run.scheme}"),
        ("frames", f"{len(run.t)}, t = {run.t[0]:g} to {run.t[-1]:g}"),
        ("range at the end", f"{low:.6g} to {high:.6g}"),
        ("content", f"{run.content[-1]:.6g} (balance {run.balance:.1e})"),
        *((f"probe {name}", f"{values[-1]:.6g}") for name, (_, values) in run.probes.items()),
        ("file", target),
    ]
    say(table(rows))


@app.command()
def equilibrium(
    file: Problem,
    overrides: Overrides = None,
    tol: Annotated[float, typer.Option(help="Relative residual to reach.")] = 1e-8,
    out: Annotated[Path | None, typer.Option(metavar="FILE.npy", help="Save the field.")] = None,
    plot: Plot = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Solve for the state the problem settles to."""
    import numpy as np

    from . import store
    from .equilibrium import equilibrium as solve

    configuration, problem = _read(file, overrides)
    for target in (out, plot):
        if target is not None:
            store.new_path(target, force=force)
    result = solve(problem, tol=tol, initial=configuration.initial())
    if out is not None:
        store.write_npy(out, result.u)
    if plot is not None:
        from . import plots

        plots.field(problem.grid, result.u, path=plot)
    flows = {side: result.flow(side) for side in problem.grid.sides}
    facts = {
        "method": result.method,
        "iterations": result.iterations,
        "residual": result.residual,
        "error_bound": result.error_bound,
        "min": float(np.nanmin(result.u)),
        "max": float(np.nanmax(result.u)),
        "flows": flows,
        "file": None if out is None else str(out),
    }
    if json:
        emit(facts)
        return
    say(table([(name, value) for name, value in facts.items() if name != "flows" and value is not None]))
    say(table([(f"flow in through {side}", flow) for side, flow in flows.items()]))
    if not quiet:
        note(f"next: diffsim stability {file}")


@app.command()
def stability(
    file: Problem,
    overrides: Overrides = None,
    scheme: Annotated[str | None, typer.Option(help="Judge this scheme; default: run.scheme, or ftcs.")] = None,
    dt: Annotated[float | None, typer.Option(help="Judge this step.")] = None,
    plot: Plot = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show which steps are stable, for every scheme (CFL, mesh Fourier number, von Neumann)."""
    from . import preflight, store
    from .schemes import SCHEMES
    from .stability import stability as judge

    configuration, problem = _read(file, overrides)
    run = configuration.file.run
    if scheme is None:
        scheme = "ftcs" if run.scheme == "auto" else run.scheme
    if dt is None and run.dt != "auto":
        from .config import number

        dt = number("run.dt", run.dt)
    state = preflight.state(problem, configuration.initial())
    verdict = judge(problem, scheme, dt, u=state)
    verdicts = {name: judge(problem, name, dt, u=state) for name in SCHEMES}
    if plot is not None:
        from .plots import plot_stability

        store.new_path(plot, force=force)
        plot_stability(problem=problem, dt=verdict.dt_limit if dt is None else dt, path=plot)
    if json:
        keys = ("stable", "dt_limit", "dt_positive", "fourier", "spectral_radius", "oscillating")
        facts = {name: {key: getattr(v, key) for key in keys} for name, v in verdicts.items()}
        emit({"scheme": scheme, "dt": dt, "explanation": verdict.explain(), "schemes": facts})
        return
    say(verdict.explain())
    say("")
    rows = [
        (name, SCHEMES[name].order, v.dt_limit, v.dt_positive, "yes" if v.stable else "no")
        for name, v in verdicts.items()
    ]
    say(
        table(
            rows,
            (
                "scheme",
                "order",
                "largest stable dt",
                "no new extrema up to",
                "stable" + ("" if dt is None else " at dt"),
            ),
        )
    )
    if not quiet:
        note(f"next: diffsim simulate {file} --set run.scheme={scheme}")


# --------------------------------------------------------------------------------------------------- tuning


@app.command()
def plan(
    file: Problem,
    overrides: Overrides = None,
    tol: Annotated[float, typer.Option(help="Relative error to stay below.")] = 1e-3,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Choose scheme, step size and number of steps for an accuracy, by counted work."""
    from .tuning import plan as make_plan

    configuration, problem = _read(file, overrides)
    until = configuration.file.run.until
    settings = configuration.simulation() if until is not None else {"until": None}
    chosen = make_plan(problem, configuration.initial(), until=settings["until"], tol=tol)
    facts = {key: getattr(chosen, key) for key in ("scheme", "dt", "steps", "work", "seconds")}
    if json:
        emit({**facts, "table": _records(chosen.table)})
        return
    say(table(list(facts.items())))
    say("")
    rows = _records(chosen.table)
    say(table([list(row.values()) for row in rows], list(rows[0])))
    if not quiet:
        note(f"next: diffsim simulate {file} --set run.scheme={chosen.scheme} --set run.dt={chosen.dt:.6g}")


@app.command()
def sweep(
    file: Problem,
    overrides: Overrides = None,
    plot: Plot = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run many step sizes and step counts, and map where runs are unstable, slow, unfinished or settled."""
    from . import store
    from .errors import ProblemError
    from .tuning import sweep as run_sweep

    configuration, problem = _read(file, overrides)
    wanted = configuration.file.sweep
    if wanted is None:
        raise ProblemError(f"{file} has no [sweep] table; add one with dts = [...] and steps = [...].")
    if plot is not None:
        store.new_path(plot, force=force)
    result = run_sweep(problem, configuration.initial(), wanted.dts, wanted.steps, wanted.diffusivities)
    if plot is not None:
        result.plot(plot)
    if json:
        emit(
            {"dts": wanted.dts, "steps": wanted.steps, "diffusivities": wanted.diffusivities, "outcome": result.outcome}
        )
        return
    for k, layer in enumerate(result.outcome if wanted.diffusivities else [result.outcome]):
        if wanted.diffusivities:
            say(f"diffusivity {wanted.diffusivities[k]:g}")
        rows = [(f"{dt:g}", *row) for dt, row in zip(wanted.dts, layer, strict=True)]
        say(table(rows, ("dt", *(f"{n} steps" for n in wanted.steps))))
    if not quiet:
        note(f"next: diffsim plan {file}")


@app.command()
def fit(file: Problem, overrides: Overrides = None, quiet: Quiet = False, json: Json = False) -> None:
    """Fit numbers of the file, such as the diffusivity, to a sensor log."""
    import numpy as np

    from . import store
    from .errors import ProblemError
    from .tuning import Observations
    from .tuning import fit as run_fit

    configuration, _ = _read(file, overrides)
    wanted = configuration.file.fit
    if wanted is None:
        raise ProblemError(f"{file} has no [fit] table; add one with parameters, observations, columns and points.")
    log = store.read_csv(configuration.folder / wanted.observations)
    values = np.column_stack([np.asarray(log[column]) for column in wanted.columns])
    observations = Observations(np.array(wanted.points), np.asarray(log[wanted.time]), values)
    guess = configuration.guess(wanted.parameters)
    result = run_fit(
        configuration.problem_of(wanted.parameters), configuration.initial(), observations, guess, bounds=wanted.bounds
    )
    best = [float(value) for value in np.ravel(result.value)]
    intervals = np.asarray(result.interval).tolist()
    found = list(zip(wanted.parameters, best, intervals, strict=True))
    if json:
        emit({"rms": result.rms, "parameters": {name: {"value": v, "interval": i} for name, v, i in found}})
        return
    rows = [(name, value, f"[{low:.6g}, {high:.6g}]") for name, value, (low, high) in found]
    say(table(rows, ("parameter", "value", "95 % interval")))
    say(f"rms of the misfit: {result.rms:.6g}")
    if not quiet:
        sets = " ".join(f"--set {name}={value:.6g}" for name, value in zip(wanted.parameters, best, strict=True))
        note(f"next: diffsim simulate {file} {sets}")


@app.command()
def tortuosity(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A .tif stack, .png or .npy of labelled voxels.")],
    phase: Annotated[int, typer.Option(help="Label of the phase that conducts.")] = 0,
    axis: Annotated[int, typer.Option(min=0, max=2, help="Axis of the array along which to measure.")] = 0,
    box: Annotated[int | None, typer.Option(min=2, help="Use only the first BOX voxels of every axis.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure tortuosity factor and effective diffusivity of a voxel image."""
    from . import store
    from .applications import tortuosity as measure

    voxels = store.read_image(image)
    if box is not None:
        voxels = voxels[(slice(box),) * voxels.ndim]
    result = measure(voxels, phase=phase, axis=axis)
    facts = {"shape": voxels.shape, **{key: getattr(result, key) for key in ("tau", "deff", "epsilon", "residual")}}
    if json:
        emit(facts)
        return
    say(table(list(facts.items())))
    if not quiet:
        note(f"next: diffsim tortuosity {image} --phase {phase} --axis {(axis + 1) % voxels.ndim}")


# ------------------------------------------------------------------------------------------------- looking after


def _refine(file: Path, overrides: list[str] | None, json: bool) -> None:
    from . import verification

    configuration, problem = _read(file, overrides)
    moves = configuration.file.run.until is not None
    arguments = configuration.simulation() if moves else {}
    report = verification.verify(
        problem, configuration.initial(), **{key: arguments[key] for key in ("until", "scheme", "dt") if moves}
    )
    if json:
        emit({"ok": report.ok, "findings": report.rows()})
    else:
        say(report.explain())
    if not report.ok:
        raise typer.Exit(6)


def _hand_over(package: str, *words: str) -> int:
    """Run the command of a package that this one does not import; its exit code."""
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-m", package, *words], check=False).returncode


@app.command()
def verify(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.h5 | PROBLEM.toml | DATASET", help="A saved run, a problem to refine, or a folder of data."
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="[PROBLEM.toml]", help="Its problem: then steps are redone.")
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Check a saved run: every byte, its frames, its balance, and with its problem also the physics.

    With a problem alone: refine it in space (and time, where it has a run.until), and print observed orders and the
    estimated error of its results. Of a dataset's folder, what `surrogate verify` checks.
    """
    if run.is_dir():
        raise typer.Exit(_hand_over("surrogate", "verify", str(run), *(["--json"] if json else [])))
    if run.suffix.lower() == ".toml":
        _refine(run, overrides, json)
        return
    from . import checks, store

    trajectory = store.load(run)
    problem = None if file is None else _read(file, overrides)[1]
    findings = checks.examine(trajectory, problem)
    if json:
        emit({"ok": all(f.ok for f in findings), "findings": [vars(f) for f in findings]})
    else:
        say(table([("ok" if f.ok else "BAD", f.check, f.detail) for f in findings]))
    if not all(f.ok for f in findings):
        raise typer.Exit(6)
    if not quiet and file is None:
        note(f"next: diffsim verify {run} PROBLEM.toml, to redo sampled steps")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option(help="Small sizes only.")] = False,
    peers: Annotated[
        str | None, typer.Option(help="A Python with py-pde, devito, pyamg, taufactor, measured too.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the table as Markdown here, after every row.")] = None,
    json: Json = False,
) -> None:
    """Measure kernels, solvers and the first call on this machine."""
    from .bench import measurements, write_table

    rows = []
    for name, value, unit in measurements(quick, peers):
        rows.append({"name": name, "value": value, "unit": unit})
        if save is not None:
            write_table(rows, save)
        if not json:
            say(f"{name:<56} {value:10.4g} {unit}")
    if json:
        emit({"measurements": rows})


@app.command()
def doctor(
    clear_cache: Annotated[bool, typer.Option("--clear-cache", help="Delete the compiled kernels.")] = False,
    json: Json = False,
) -> None:
    """Show versions, threads, memory and what is missing, with the command that installs it."""
    from . import doctor as examination

    if clear_cache:
        note(f"deleted {examination.clear_cache()} compiled kernels")
    sections = examination.sections()
    if json:
        emit(sections)
        return
    for title, facts in sections.items():
        say(f"{title}\n" + "\n".join(f"  {line}" for line in table(list(facts.items())).splitlines()))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="PROBLEM.toml")] = Path("problem.toml"),
    force: Force = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the file, for editors.")] = False,
) -> None:
    """Write a commented example to start from."""
    from . import config, store

    if schema:
        emit(config.File.model_json_schema())
        return
    store.new_path(file, force=force)
    store.write_text(file, config.EXAMPLE.format(name=file))
    note(f"wrote {file}\nnext: diffsim simulate {file} --dry-run")


@app.command("config")
def show_config(file: Problem, overrides: Overrides = None, json: Json = False) -> None:
    """Print every setting and where it came from: the file, --set, or the default."""
    configuration, _ = _read(file, overrides)
    rows = list(configuration.listing())
    if json:
        emit({key: {"value": value, "from": origin} for key, value, origin in rows})
        return
    say(table(rows))


def _read(file: Path, overrides: list[str] | None) -> "tuple[Configuration, Any]":
    from . import config

    configuration = config.read(file, overrides or [])
    return configuration, configuration.problem()


def _free(out: Path | None, default: str, force: bool) -> Path:
    """`out`, which must not exist; or the default name, with a number where it does."""
    from . import store

    if out is not None or force:
        return store.new_path(out or Path(default), force=force)
    target, number = Path(default), 1
    while target.exists():
        number += 1
        target = Path(default).with_stem(f"{Path(default).stem}-{number}")
    return target


def _records(rows: Any) -> list[dict[str, Any]]:
    """The public fields of dataclasses."""
    return [{key: value for key, value in vars(row).items() if not key.startswith("_")} for row in rows]


app.registered_commands += uses.registered_commands
