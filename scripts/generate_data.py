"""Generate a dataset of diffusion problems and their equilibria, and verify every item of it.

python -m scripts.generate_data --spec darcy --count 1000 --resolution 64 --out out/darcy64

Interrupt it whenever you like: the same command goes on where it was.
"""

import argparse
from pathlib import Path

import surrogate as sg
from diffsim import provenance


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="darcy", help="a name, such as darcy or transient, or a TOML file")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--resolution", type=int, default=64, help="cells along each axis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; the data do not depend on it")
    parser.add_argument("--out", type=Path, default=Path("out/darcy64"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> "sg.Dataset":
    args = parse(argv)
    data = sg.generate(
        args.spec, args.out, count=args.count, resolution=args.resolution, seed=args.seed, workers=args.workers
    )
    print(data.verify())
    provenance.write(args.out, argv, seed=args.seed)
    print(f"wrote {len(data)} items to {args.out}")
    return data


if __name__ == "__main__":
    main()
