"""Print every scheme's largest step for a rod, and plot the stability regions with the rod's spectrum on top.

python -m scripts.plot_stability --n-cells 100 --diffusivity 1e-4 --out out/stability.png
"""

import argparse
from pathlib import Path

import diffsim as ds
from diffsim.schemes import SCHEMES


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-cells", type=int, default=100)
    parser.add_argument("--length", type=float, default=1.0, help="[m]")
    parser.add_argument("--diffusivity", type=float, default=1e-4, help="[m^2/s]")
    parser.add_argument("--dt", type=float, default=None, help="step to judge [s]; default: the limit of ftcs")
    parser.add_argument("--out", type=Path, default=Path("out/stability.png"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, ds.Verdict]:
    args = parse(argv)
    rod = ds.Problem(
        ds.Grid((args.n_cells,), (args.length,)),
        diffusivity=args.diffusivity,
        boundary={"x": ds.Dirichlet(0.0)},
    )
    dt = ds.stability(rod, "ftcs").dt_limit if args.dt is None else args.dt
    verdicts = {name: ds.stability(rod, name, dt) for name in SCHEMES}
    for name, verdict in verdicts.items():
        print(f"{name:<16} dt <= {verdict.dt_limit:<10.4g} {'stable' if verdict.stable else 'UNSTABLE'} at {dt:.4g} s")

    args.out.parent.mkdir(parents=True, exist_ok=True)
    ds.plot_stability(problem=rod, dt=dt, path=args.out)
    print(f"wrote {args.out}")
    return verdicts


if __name__ == "__main__":
    main()
