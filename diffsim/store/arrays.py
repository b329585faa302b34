"""Plain arrays: npy, npz and safetensors. Declared sizes are checked against the file before memory is taken."""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .. import resources
from ..errors import StoreError
from .atomic import parsing, plain, translated, write_bytes
from .hdf5 import check_declared

_MOST_HEADER = 10_000  # bytes; numpy's own limit, but checked before the header is read
_MOST_TENSOR_HEADER = 16 << 20


def write_npy(path, array) -> None:
    """Write one array of numbers, atomically."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def read_npy(path) -> np.ndarray:
    """The array in a .npy file.

    Raises
    ------
    StoreError
        Where the header is forged or damaged, the data are incomplete, or the array holds Python objects.
    """
    path = Path(path)
    with translated(path, "read"), open(path, "rb") as file, parsing(path, "an npy array"):
        size = os.fstat(file.fileno()).st_size
        declared = _npy_size(file, path, str(path.name))
        if file.tell() + declared != size:
            raise StoreError(
                f"{path} is damaged: its header declares {declared} bytes of data, but {size - file.tell()} follow it."
            )
        resources.require_memory(declared, f"reading {path}")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path) -> dict[str, np.ndarray]:
    """The arrays in a .npz archive by name; a `StoreError` where it is damaged, a bomb, or holds Python objects."""
    path = Path(path)
    with translated(path, "read"), parsing(path, "an npz archive"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise StoreError(f"{path} holds two members of the same name. Refused.")
        for member in members:
            check_declared(path, member.filename, member.file_size, member.compress_size)
        resources.require_memory(sum(member.file_size for member in members), f"reading {path}")
        return {member.filename.removesuffix(".npy"): _read_member(archive, member, path) for member in members}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    if not member.filename.endswith(".npy"):
        raise StoreError(f"{path} holds {member.filename!r}, which is not an array. Refused.")
    with archive.open(member) as file:
        content = io.BytesIO(file.read(member.file_size))
    declared = _npy_size(content, path, member.filename)
    if content.tell() + declared != member.file_size:
        raise StoreError(f"{path} is damaged: {member.filename} declares {declared} bytes of data and holds others.")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def _npy_size(file: Any, path: Path, name: str) -> int:
    """Bytes of data that the header declares; leaves `file` at their beginning."""
    version = np.lib.format.read_magic(file)
    start = file.tell()
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > _MOST_HEADER:
        raise StoreError(f"{path}: the header of {name} is {length} bytes long. Refused.")
    file.seek(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=_MOST_HEADER)
    if dtype.hasobject:
        raise StoreError(f"{path}: {name} holds Python objects, which could run code. Only plain numbers are read.")
    if any(n < 0 for n in shape):
        raise StoreError(f"{path}: {name} declares the shape {shape}. Refused.")
    return math.prod(shape) * dtype.itemsize


def write_safetensors(path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata (JSON) as safetensors with a digest of both; equal content gives equal bytes."""
    import safetensors.numpy

    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, default=plain)
    sealed = json.dumps({"metadata": text, "sha256": _content_digest(arrays, text)}, sort_keys=True)
    write_bytes(path, safetensors.numpy.save(arrays, metadata={"diffsim": sealed}))


def read_safetensors(path, *, sealed: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, metadata) of a safetensors file. ``sealed=False`` reads files that others wrote, without a digest.

    Raises
    ------
    StoreError
        Where the file is damaged, its offsets overlap or leave holes, or a value is NaN or infinite.
    """
    import safetensors.numpy

    path = Path(path)
    with translated(path, "read"), open(path, "rb") as file, parsing(path, "safetensors"):
        size = os.fstat(file.fileno()).st_size
        header = _tensor_header(file, size, path)
        _check_layout(header, size - file.tell(), path)
        resources.require_memory(2 * size, f"reading {path}")
        file.seek(0)
        arrays = safetensors.numpy.load(file.read())
        metadata = _open_seal(path, header, arrays) if sealed else dict(header.get("__metadata__", {}))
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise StoreError(f"{path}: {name} holds NaN or infinite values. Such weights predict nothing; refused.")
    return arrays, metadata


def _tensor_header(file: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(size - 8, _MOST_TENSOR_HEADER):
        raise StoreError(f"{path} is not a whole safetensors file: its header would be {length} bytes of {size}.")
    header = json.loads(file.read(length), object_pairs_hook=_without_repeats)
    if not isinstance(header, dict):
        raise StoreError(f"{path}: the safetensors header is not an object.")
    return header


def _without_repeats(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _check_layout(header: dict[str, Any], rest: int, path: Path) -> None:
    """The tensors must fill the `rest` bytes after the header exactly, without holes or overlaps."""
    end = 0
    for begin, stop in sorted(v["data_offsets"] for k, v in header.items() if k != "__metadata__"):
        if begin != end or stop < begin:
            raise StoreError(f"{path}: tensors overlap or leave a hole at byte {begin}. Refused.")
        end = stop
    if end != rest:
        raise StoreError(f"{path} is damaged: {rest} bytes of data where its header declares {end}.")


def _open_seal(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        seal = json.loads(header["__metadata__"]["diffsim"])
        text, expected = seal["metadata"], seal["sha256"]
        intact = _content_digest(arrays, text) == expected
        metadata = json.loads(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} was not written by this package, or is damaged: no digest is in it.") from error
    if not intact:
        raise StoreError(f"{path} is damaged: its content does not match the SHA-256 written with it.")
    return metadata


def _content_digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        total.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        total.update(array.tobytes())
    return total.hexdigest()
