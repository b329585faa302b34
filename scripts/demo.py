"""The main job, end to end: simulate, prove the step, settle, learn, certify, tune; one HTML report at the end.

python -m scripts.demo --out out/demo
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console

import diffsim as ds
import surrogate as sg
from diffsim import plots
from diffsim.applications.terrain import CREEP, fault_scarp, plot_relief
from diffsim.report import Report

CONSOLE = Console(stderr=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the report and its pictures")
    parser.add_argument("--minutes", type=float, default=1.5, help="training time")
    parser.add_argument("--count", type=int, default=400, help="problems to learn from")
    parser.add_argument("--resolution", type=int, default=32)
    return parser.parse_args(argv)


def scarp(report: Report, out: Path) -> None:
    """Degrade a real fault scarp with the step the check allows, and with one 5 % too large."""
    section = report.section("1. A real landscape, and a step 5 % too large")
    grid, elevation = fault_scarp()
    problem = ds.Problem(grid, diffusivity=CREEP)  # metres and years
    verdict = ds.stability(problem, "ftcs")
    steps = 120
    good = ds.simulate(
        problem, elevation, until=steps * verdict.dt_positive, scheme="ftcs", dt=verdict.dt_positive, save="final"
    )
    wild = ds.simulate(
        problem, elevation, until=steps * 1.05 * verdict.dt_limit, scheme="ftcs", dt=1.05 * verdict.dt_limit, save=steps + 1,
        on_unstable="allow",
    )  # fmt: skip
    titles = [
        "today",
        f"after {good.t[-1] / 1e6:.0f} million years",
        f"step 5 % too large:\n{wild.status} after {wild.t[-1] / 1e6:.0f} million years",
    ]
    section.text(
        f"The Jacksboro fault (elevation model shipped with matplotlib) under hillslope diffusion, D = {CREEP} m²/yr. "
        "The check allows "
        f"FTCS steps up to {verdict.dt_limit:,.0f} years. {steps} such steps keep the content to {good.balance:.1e}; "
        f"a step 5 % larger is refused, and where it is allowed all the same: {wild.message}."
    )
    section.figure(
        plot_relief(grid, [elevation, good.final, wild.final], titles, out / "scarp.png"),
        "Elevation; one colour scale.",
    )
    dt = 1.05 * verdict.dt_limit
    section.figure(
        plots.plot_stability(
            ["ftcs", "rk2", "rk4", "rkc2", "crank-nicolson", "tr-bdf2"], problem, dt, out / "regions.png"
        ),
        "Stability regions in the complex plane; the landscape's own spectrum times the step that is 5 % too large.",
    )
    section.figure(
        plots.amplification(path=out / "amplification.png"),
        "Amplification of each wavenumber, per mesh Fourier number.",
    )


def wall(report: Report, out: Path) -> None:
    """Temperatures in a wall assembled from the materials table."""
    section = report.section("2. A wall from a table of materials")
    layers = [
        ("gypsum plaster", 0.015),
        ("solid clay brick 1800", 0.24),
        ("mineral wool", 0.16),
        ("cement plaster", 0.02),
    ]
    result = ds.wall(layers, inside=20.0, outside=-10.0)
    section.text(
        "Steady temperatures by the general solver, series resistances exact on the grid. "
        + result.explain().splitlines()[0]
        + "."
    )
    section.figure(result.plot(out / "wall.png"), "Temperature through the wall, 20 °C inside and -10 °C outside.")


def learn(report: Report, out: Path, count: int, resolution: int, minutes: float) -> None:
    """Generate data, train, evaluate against honest baselines, predict with a certificate, refine."""
    section = report.section("3. A surrogate whose error is bounded")
    data = sg.generate("darcy", out / "data", count=count, resolution=resolution, seed=0)
    model = sg.train(data, model="multigrid", task="coefficients", minutes=minutes, seed=0, out=out / "training")
    evaluation = sg.evaluate(model, data)
    problem = data.problems[int(data.indices("test")[0])]
    truth = ds.equilibrium(problem, tol=1e-12).u
    guess = model.predict(problem, tol=1e-2)
    sure = guess.refine(1e-6)
    section.text(
        f"{count} fields of the darcy specification at {resolution}², {minutes:g} minutes of training. "
        f"On unseen fields the mean relative L2 error is {evaluation.errors['l2']['mean']:.2%}. "
        f"For the field shown, the guaranteed bound of the relative error is {guess.bound.l2_relative:.2%}; "
        f"after refine(1e-6) it is {sure.bound.l2_relative:.1e}."
    )
    section.table(["method", "mean", "median", "p95", "worst"], [
        [name, *(f"{errors['l2'][key]:.2%}" for key in ("mean", "median", "p95", "worst"))]
        for name, errors in {"surrogate": evaluation.errors, **evaluation.baselines}.items()
    ])  # fmt: skip
    section.text(
        "Relative L2 errors on the test split. For a known D in 2-D no network beats multigrid one field at a time; fields needed "
        f"before the training has paid for itself: {evaluation.break_even:.3g}."
    )
    section.figure(
        plots.training_curve(model.history, out / "training.png"), "Training and validation error per epoch."
    )
    section.figure(
        guess.plot(out / "prediction.png", truth=truth), "Prediction, truth, error, and the guaranteed bound."
    )


def tune(report: Report, out: Path) -> None:
    """Sweep step size, step count and coefficient, with the theory line on top."""
    section = report.section("4. Step size, number of steps, coefficient")
    grid = ds.Grid(shape=(24, 24), lengths=(1.0, 1.0))
    problem = ds.Problem(grid, diffusivity=1.0, source=1.0, boundary={"x": ds.Dirichlet(0.0), "y": ds.Dirichlet(0.0)})
    limit = ds.stability(problem, "ftcs").dt_limit
    sweep = ds.sweep(
        problem, 0.0, dts=limit * np.geomspace(0.02, 4, 22), steps=np.unique(np.geomspace(4, 20000, 22).astype(int)),
        diffusivities=[0.1, 1.0, 10.0],
    )  # fmt: skip
    section.text(
        "Every cell of the map is a run: unstable right of the proven limit, unfinished below the line of the slowest mode."
    )
    section.figure(
        sweep.plot(out / "tuning.png"),
        "Outcome over step size and number of steps for three coefficients; lines are theory.",
    )
    plan = ds.plan(problem, 0.0, tol=1e-3)
    section.text("The plan for a temporal error of 1e-3 at the least counted work: " + plan.explain().splitlines()[0])
    section.table(
        ["scheme", "steps", "dt [s]", "work [applications of the operator]", "predicted error"],
        [[row.scheme, row.steps, row.dt, row.work, row.error] for row in plan.table if row.feasible],
    )


def main(argv: list[str] | None = None) -> Path:
    """Run the chapters and write the report; its path goes to stdout."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report("diffsim: the main job", "Everything on this page was computed by the run that wrote it.")
    for name, chapter in {
        "a fault scarp, and a step 5 % too large": lambda: scarp(report, args.out),
        "a wall from the materials table": lambda: wall(report, args.out),
        "data, training, prediction with a guaranteed bound": lambda: learn(
            report, args.out, args.count, args.resolution, args.minutes
        ),
        "step size, step count, coefficient": lambda: tune(report, args.out),
    }.items():
        start = time.perf_counter()
        CONSOLE.print(f"[bold]{len(report.sections) + 1}[/] {name} ...")
        chapter()
        CONSOLE.print(f"  done in {time.perf_counter() - start:.1f} s; pictures in {args.out}")
    page = report.write(args.out / "report.html")
    print(page)
    return page


if __name__ == "__main__":
    main()
