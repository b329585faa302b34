"""Remove noise from an image and keep its edges; without an image, from the MRI slice that matplotlib ships.

python -m scripts.denoise photo.png --out out/denoised.png
"""

import argparse
from pathlib import Path

import numpy as np

import diffsim as ds
from diffsim import store
from diffsim.applications import sample_slice


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, nargs="?", help="PNG, TIFF or npy; left out: the sample, with noise added")
    parser.add_argument("--noise", type=float, default=8.0, help="standard deviation added to the sample")
    parser.add_argument("--out", type=Path, default=Path("out/denoised.png"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> object:
    args = parse(argv)
    if args.image is None:
        image = sample_slice()
        image = image + np.random.default_rng(0).normal(0, args.noise, image.shape)
    else:
        image = store.read_image(args.image)
    result = ds.denoise(image)
    print("edges kept:  ", result.explain())
    print("plain blur:  ", ds.denoise(image, edge_preserving=False).explain())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result.plot(args.out)
    print(f"wrote {args.out}")
    return result


if __name__ == "__main__":
    main()
