"""Steady temperature of a chip from its floorplan and power trace, on the default package.

python -m scripts.chip ev6.flp gcc.ptrace --out out/chip.png
"""

import argparse
from pathlib import Path

import diffsim as ds


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("floorplan", type=Path, help=".flp: name width height left bottom [m]")
    parser.add_argument("power", type=Path, help=".ptrace: block names, then lines of watts")
    parser.add_argument("--cells", type=int, default=64, help="of the map, along each side of the die")
    parser.add_argument("--sink-resistance", type=float, default=0.1, help="heat sink to air [K/W]")
    parser.add_argument("--ambient", type=float, default=318.15, help="air temperature [K]")
    parser.add_argument("--out", type=Path, default=Path("out/chip.png"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> object:
    args = parse(argv)
    result = ds.chip(
        args.floorplan,
        args.power,
        cells=args.cells,
        sink_resistance=args.sink_resistance,
        ambient=args.ambient,
    )
    print(
        f"{result.power:.3f} W in, {result.heat_out:.3f} W out; hottest cell {result.hottest}: {result.maximum:.2f} K"
    )
    for name, temperature in sorted(result.blocks.items(), key=lambda item: -item[1])[:5]:
        print(f"  {name:<12} {temperature:8.2f} K")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result.plot(args.out)
    print(f"wrote {args.out}")
    return result


if __name__ == "__main__":
    main()
