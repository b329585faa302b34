"""Measure how much a phase of a voxel image hinders diffusion, along every axis.

python -m scripts.tortuosity electrode.tiff --phase 0 --box 128
"""

import argparse
from pathlib import Path

import diffsim as ds
from diffsim import store


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="TIFF stack, PNG or npy of labels")
    parser.add_argument("--phase", type=int, default=0, help="label that conducts")
    parser.add_argument("--box", type=int, default=None, help="use only the first voxels of every axis")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list:
    args = parse(argv)
    voxels = store.read_image(args.image)
    voxels = voxels[(slice(args.box),) * voxels.ndim]
    results = [ds.tortuosity(voxels, phase=args.phase, axis=axis) for axis in range(voxels.ndim)]
    print(f"{args.image}: {' x '.join(map(str, voxels.shape))} voxels, phase {args.phase}")
    for axis, result in enumerate(results):
        print(f"axis {axis}: tau {result.tau:.6g}   D_eff/D {result.deff:.6g}   fraction {result.epsilon:.6g}")
    return results


if __name__ == "__main__":
    main()
