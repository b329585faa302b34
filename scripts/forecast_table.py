"""Compare all forecasts over noise, sensors and how much is seen; killed, the same call goes on where it was.

python -m scripts.forecast_table --out out/forecast
"""

import argparse
from dataclasses import replace
from pathlib import Path

from diffsim import provenance, store
from surrogate.forecast_table import Plan, as_json, document, figure, make, wins


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/forecast"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(Plan().seeds))
    parser.add_argument("--plates", type=int, default=Plan().plates, help="test plates of each seed")
    parser.add_argument("--minutes", type=float, default=Plan().minutes, help="processor minutes per network")
    parser.add_argument("--media", type=int, nargs=4, default=list(Plan().media),
                        help="simulated for moments, network, its validation, and intervals")  # fmt: skip
    parser.add_argument("--noises", type=float, nargs="+", default=list(Plan().noises), help="of the largest value")
    parser.add_argument("--sensors", type=int, nargs="+", default=[n or 0 for n in Plan().sensors], help="0: all cells")
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=list(Plan().fractions), help="of the time constant"
    )
    parser.add_argument("--resolution", type=int, default=Plan().resolution)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse(argv)
    plan = replace(
        Plan(), seeds=tuple(args.seeds), plates=args.plates, minutes=args.minutes, media=tuple(args.media),
        resolution=args.resolution, noises=tuple(args.noises), sensors=tuple(n or None for n in args.sensors),
        fractions=tuple(args.fractions),
    )  # fmt: skip
    rows = make(plan, args.out, say=print)
    kept = as_json(rows, plan)
    store.write_json(args.out / "forecast_table.json", kept)
    store.write_text(args.out / "forecast_table.md", document(kept["rows"], plan))
    figure(rows, plan, args.out / "forecast.png")
    provenance.write(args.out / "forecast_table.md", argv)
    print("smallest median error at the sensors, settings won:", wins(rows, plan))
    print(f"wrote {args.out / 'forecast_table.md'}, forecast_table.json and forecast.png")
    return rows


if __name__ == "__main__":
    main()
