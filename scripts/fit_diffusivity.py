"""Fit diffusivity and loss of a rod to a CSV log of its sensors; the outer two drive the ends of the model.

python -m scripts.fit_diffusivity log.csv --columns x1 x2 x3 --positions 0.05 0.10 0.15 --ambient 21.6
"""

import argparse
from pathlib import Path

import numpy as np

import diffsim as ds
from diffsim import provenance, store


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="CSV file with or without a header line")
    parser.add_argument("--time", default="0", help="column of the times [s]: its name, or its number without a header")
    parser.add_argument("--columns", nargs="+", required=True, help="columns of the sensors, in order of position")
    parser.add_argument("--positions", nargs="+", type=float, required=True, help="where they sit [m]")
    parser.add_argument(
        "--ambient", type=float, required=True, help="temperature of the surroundings, and at the start"
    )
    parser.add_argument("--rest", type=float, help="seconds at the start during which nothing happens: removes offsets")
    parser.add_argument("--until", type=float, default=np.inf, help="last time to use [s]")
    parser.add_argument("--every", type=int, default=1, help="use every so many-th line")
    parser.add_argument("--out", type=Path, default=Path("out/fit.png"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> "ds.tuning.Fit":
    args = parse(argv)
    log = store.read_csv(args.log)
    times = np.asarray(log[args.time])
    used = (times <= args.until) & (np.arange(times.size) % args.every == 0)
    readings = np.column_stack([np.asarray(log[column]) for column in args.columns])
    fit = ds.fit_rod(args.positions, times[used], readings[used], ambient=args.ambient, rest=args.rest)
    print(fit.explain())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fit.plot(args.out)
    provenance.write(args.out, argv)
    print(f"wrote {args.out}")
    return fit


if __name__ == "__main__":
    main()
