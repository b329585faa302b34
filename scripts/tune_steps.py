"""Choose scheme, step size and number of steps for a layered wall, and map what other choices do.

python -m scripts.tune_steps --tol 1e-3 --out out/tuning.png
"""

import argparse
from pathlib import Path

import numpy as np

import diffsim as ds


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-cells", type=int, default=60)
    parser.add_argument("--tol", type=float, default=1e-3, help="relative error to stay below")
    parser.add_argument("--until", type=float, default=6 * 3600.0, help="end of the run [s]")
    parser.add_argument("--points", type=int, default=12, help="step sizes, and step counts, of the map")
    parser.add_argument("--out", type=Path, default=Path("out/tuning.png"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> "ds.Plan":
    args = parse(argv)
    brick = np.arange(args.n_cells) < args.n_cells // 2  # 15 cm of brick, then 15 cm of wood
    wall = ds.Problem(
        ds.Grid((args.n_cells,), (0.3,)),
        diffusivity=np.where(brick, 0.6, 0.12),  # conductivities [W/m/K]
        capacity=np.where(brick, 1.5e6, 1.0e6),  # [J/m^3/K]
        boundary={"x-": ds.Dirichlet(-5.0), "x+": ds.Robin(h=8.0, ambient=20.0)},
    )
    plan = ds.plan(wall, 10.0, until=args.until, tol=args.tol)
    print(f"{plan.scheme}: {plan.steps} steps of {plan.dt:.4g} s")
    print(plan.run())

    limit = ds.stability(wall, "ftcs").dt_limit
    dts = limit * np.geomspace(1e-2, 1e2, args.points)
    steps = np.unique(np.geomspace(1, 1e4, args.points).astype(int))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    ds.sweep(wall, 10.0, dts=dts, steps=steps).plot(args.out)
    print(f"wrote {args.out}")
    return plan


if __name__ == "__main__":
    main()
