"""Images and image stacks as arrays; figures as files."""

import io
import warnings
from pathlib import Path

import numpy as np

from .. import resources
from ..errors import StoreError
from .arrays import read_npy
from .atomic import parsing, translated, write_bytes
from .hdf5 import check_declared


def read_image(path) -> np.ndarray:
    """The image or stack in a .npy, .tif, .png or other file that pillow reads, as stored; colours become grey.

    A single image has shape (rows, columns), a stack (pages, rows, columns): the axes as the file has them.

    Raises
    ------
    StoreError
        Where the file cannot be decoded or declares far more pixels than it holds.
    ResourceError
        Where the decoded image does not fit into memory.
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    path = Path(path)
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    with (
        translated(path, "read"),
        open(path, "rb") as file,
        parsing(path, "an image (PNG, TIFF, ...)"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")  # pillow skips damaged parts with a warning
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked below
        try:
            picture = Image.open(file)
        except UnidentifiedImageError as error:  # an OSError, and not the operating system's
            raise StoreError(f"{path} is not an image that can be read (PNG, TIFF, ...) nor a .npy array.") from error
        pages = getattr(picture, "n_frames", 1)
        declared = picture.width * picture.height * pages * _bytes_per_pixel(picture.mode)
        check_declared(path, "the image", declared, path.stat().st_size)
        resources.require_memory(declared, f"reading {path}")
        frames = [_grey(page) for page in ImageSequence.Iterator(picture)]
    if len({frame.shape for frame in frames}) != 1:
        raise StoreError(f"{path}: its pages differ in size, so they do not form one array.")
    return frames[0] if len(frames) == 1 else np.stack(frames)


def write_figure(figure, path, dpi: float | None = None) -> None:
    """Write a matplotlib Figure, atomically, in the format that the suffix of `path` names (.png without one)."""
    path = Path(path)
    kind = path.suffix.lstrip(".").lower() or "png"
    supported = figure.canvas.get_supported_filetypes()
    if kind not in supported:
        raise StoreError(f"cannot write {path}: no picture format {kind!r}; use one of {', '.join(sorted(supported))}.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **({} if dpi is None else {"dpi": dpi}))
    write_bytes(path, buffer.getvalue())


def _bytes_per_pixel(mode: str) -> int:
    return {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "LA": 2, "RGB": 3}.get(mode, 4)


def _grey(page) -> np.ndarray:
    if page.mode not in ("1", "L", "F", "I") and not page.mode.startswith("I;16"):
        page = page.convert("L")  # ITU-R 601: the luma of colours, the palette resolved
    return np.array(page)
