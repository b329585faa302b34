"""Train a surrogate on a dataset, compare it with honest baselines, and certify one prediction.

python -m scripts.train_surrogate --data out/darcy64 --minutes 20 --out out/surrogate
"""

import argparse
from pathlib import Path

import surrogate as sg
from diffsim import provenance


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("out/darcy64"), help="folder that generate_data wrote")
    parser.add_argument("--model", default="multigrid")
    parser.add_argument("--minutes", type=float, default=None, help="training time")
    parser.add_argument("--epochs", type=int, default=None, help="passes over the data; default 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/surrogate"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> "sg.Report":
    args = parse(argv)
    data = sg.Dataset(args.data)
    model = sg.train(
        data, model=args.model, task=data.task, minutes=args.minutes, epochs=args.epochs, seed=args.seed, out=args.out
    )
    model.save(args.out / "model")
    provenance.write(args.out, argv, seed=args.seed)

    report = sg.evaluate(model, data)
    print(report.table())
    if data.task == "coefficients":
        guess = model.predict(data[0].problem)
        sure = guess.refine(1e-6)
        print(
            f"certified relative error: {guess.bound.l2_relative:.2g} as predicted, {sure.bound.l2_relative:.2g} refined"
        )
    return report


if __name__ == "__main__":
    main()
