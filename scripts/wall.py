"""Heat flow through a wall assembled from the table of materials, and how much another insulation saves.

python -m scripts.wall --inside 20 --outside -10 --out out/wall.png
"""

import argparse
from pathlib import Path

import diffsim as ds


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inside", type=float, default=20.0, help="air temperature [C]")
    parser.add_argument("--outside", type=float, default=-10.0, help="air temperature [C]")
    parser.add_argument("--insulation", default="mineral wool", help="a name of data/materials.csv")
    parser.add_argument("--thickness", type=float, default=0.16, help="of the insulation [m]")
    parser.add_argument("--out", type=Path, default=Path("out/wall.png"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> object:
    args = parse(argv)
    section = ds.wall(
        [
            ("gypsum plaster", 0.015),
            ("solid clay brick 1800", 0.24),
            (args.insulation, args.thickness),
            0.18,  # an air gap, as a resistance [m^2 K/W]
            ("solid clay brick 1800", 0.115),
        ],
        args.inside,
        args.outside,
    )
    print(section.explain())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    section.plot(args.out)
    print(f"wrote {args.out}")
    return section


if __name__ == "__main__":
    main()
