"""Let a hot spot spread over a plate with a cold edge, and save the run and a picture of it.

python -m scripts.simulate --n-cells 128 --diffusivity 1e-4 --out out/plate.h5
"""

import argparse
from pathlib import Path

import numpy as np

import diffsim as ds
from diffsim import provenance


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-cells", type=int, default=128, help="cells along each side")
    parser.add_argument("--size", type=float, default=0.1, help="side of the plate [m]")
    parser.add_argument("--diffusivity", type=float, default=1e-4, help="[m^2/s]")
    parser.add_argument("--until", type=float, default=5.0, help="end of the run [s]")
    parser.add_argument("--scheme", default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/plate.h5"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> ds.Trajectory:
    args = parse(argv)
    problem = ds.Problem(
        ds.Grid((args.n_cells, args.n_cells), (args.size, args.size)),
        diffusivity=args.diffusivity,
        boundary={"x-": ds.Dirichlet(20.0)},  # the other edges let nothing through
    )
    width = args.size / 10
    hot_spot = lambda x, y: 20 + 80 * np.exp(-((x - args.size / 2) ** 2 + (y - args.size / 2) ** 2) / width**2)

    print(ds.stability(problem, "ftcs").explain())
    run = ds.simulate(problem, hot_spot, until=args.until, scheme=args.scheme, save=9)
    print(run)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    run.save(args.out)
    run.plot(args.out.with_suffix(".png"))
    provenance.write(args.out, argv)
    print(f"wrote {args.out} and {args.out.with_suffix('.png')}")
    return run


if __name__ == "__main__":
    main()
