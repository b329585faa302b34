"""Other people's pairs, sampled too coarsely: what they are, what is learned from them, and what cannot be known.

python -m scripts.coarse_pairs --data darcy_train_16.npz --minutes 0.1 0.5 3
"""

import argparse
from pathlib import Path

import numpy as np

import surrogate as sg
from surrogate import doctor, unresolved

MODELS = {"closure": {}, "multigrid": {}, "fno": {"optimizer": "adamw"}}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="npz or HDF5 with two-phase coefficients and labels (f = 1)"
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.1, 0.5], help="of processor time, each model")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--items", type=int, default=40, help="for the floor")
    parser.add_argument("--draws", type=int, default=24, help="fine fields per item")
    parser.add_argument("--resolution", type=int, default=96, help="of the fine fields")
    parser.add_argument("--sweeps", type=int, default=500, help="of the Gibbs sampler")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    args = parse(argv)
    data, dropped = sg.adopt(args.data)
    print(f"{len(data)} pairs are used; left out: {len(dropped)}")
    result = {}
    for minutes in args.minutes:
        for name, options in MODELS.items():
            errors = []
            for seed in range(args.seeds):
                model = sg.train(
                    data, model=name, minutes=minutes, seed=seed, clock="cpu", threads=1, progress=False, **options
                )
                errors.append(sg.evaluate(model, data).errors["l2"]["mean"])
            result[f"{name} {minutes:g}"] = float(np.mean(errors))
            print(
                f"{name:10} {minutes:6g} minutes: mean relative L2 {100 * np.mean(errors):.2f} % ± {100 * np.std(errors):.2f}"
            )

    phases, places, values = doctor.sampled_phases(args.data)
    prior = unresolved.fitted(phases, places)
    draws = unresolved.drawn(prior, phases[: args.items], places, args.resolution, args.draws, sweeps=args.sweeps)
    floor = unresolved.floor(draws, values, places)
    result["floor"], result["apart"] = float(floor.error.mean()), float(floor.apart.mean())
    print(
        f"prior fitted to the signs: tau {prior.tau:.3g}, alpha {prior.alpha:.3g}. Fields of the same samples have equilibria "
        f"{100 * result['apart']:.1f} % apart; a predictor that knew the prior would still err by {100 * result['floor']:.1f} %"
    )
    return result


if __name__ == "__main__":
    main()
