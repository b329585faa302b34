"""Forecast the later part of each heating pulse of a rod from its first part, by every method that applies.

python -m scripts.forecast_rod log.csv --columns 2 4 6 --positions 0.05 0.10 0.15 --length 0.3 --room 21.6 --pulses 160 460 760
"""

import argparse
from pathlib import Path

import numpy as np

from diffsim import store
from surrogate.forecast_rod import Rod, continued, without_offsets


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="CSV file with or without a header line")
    parser.add_argument("--time", default="0", help="column of the times [s]: its name, or its number without a header")
    parser.add_argument("--columns", nargs="+", required=True, help="columns of the sensors, in order of position")
    parser.add_argument("--positions", nargs="+", type=float, required=True, help="where they sit [m]")
    parser.add_argument("--length", type=float, required=True, help="of the rod [m]")
    parser.add_argument("--room", type=float, required=True, help="temperature of the surroundings")
    parser.add_argument("--rest", type=float, help="seconds at the start during which nothing happens: removes offsets")
    parser.add_argument("--pulses", nargs="+", type=float, required=True, help="start, now and end of each [s]")
    parser.add_argument("--every", type=float, default=10.0, help="readings are averaged over so many seconds")
    parser.add_argument("--rods", type=int, default=200, help="simulated rods to learn from")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[dict[str, float]]:
    args = parse(argv)
    log = store.read_csv(args.log)
    times = np.asarray(log[args.time])
    readings = np.column_stack([np.asarray(log[column]) for column in args.columns])
    if args.rest is not None:
        readings = without_offsets(times, readings, args.rest, args.room)
    rod = Rod(args.length, np.array(args.positions), args.room)
    gaussians = rod.simulated(args.rods)
    rows = []
    for start, now, end in np.reshape(args.pulses, (-1, 3)):
        ticks = np.arange(start, end, args.every)
        means = np.stack([readings[np.abs(times - t) <= args.every / 2].mean(axis=0) for t in ticks])
        rows.append(continued(rod, ticks, means, int((ticks < now).sum()), gaussians))
    print("| pulse | " + " | ".join(rows[0]) + " |\n" + "|---" * (len(rows[0]) + 1) + "|")
    for (start, now, end), row in zip(np.reshape(args.pulses, (-1, 3)), rows, strict=True):
        print(f"| {start:g} to {now:g}, then to {end:g} s | " + " | ".join(f"{x:.2f}" for x in row.values()) + " |")
    return rows


if __name__ == "__main__":
    main()
