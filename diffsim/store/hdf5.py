"""HDF5: a sealed container of our own, and a guarded door to other people's files.

A sealed file is ordinary HDF5 with a 512-byte user block in front, which the format reserves for applications. It
holds the SHA-256 of everything after it, so that one flipped bit anywhere is noticed before a number is used.

HDF5 itself runs no code, but a file can name other files (external links, external storage, virtual datasets), ask
for plugins (filters), declare terabytes in a few bytes, or nest without end. `open_hdf5` refuses all of that first.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import resources
from ..errors import StoreError
from .atomic import crash_point, digest, explained, parsing, plain, replacing, translated

BLOCK = 512
_TITLE = "diffsim sealed hdf5"
_VERSION = 1
_METADATA = "metadata.json"
_CHUNK = 1 << 18  # bytes of a chunk at most: it stays in the cache between its copy and its checksum
_MOST_OBJECTS = 100_000
_MOST_ATTRIBUTES = 4096
_MOST_DEPTH = 16
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 6: "scaleoffset", 32000: "lzf"}  # built in: no plugin


class _Patient(io.RawIOBase):
    """A file for HDF5 to write to that keeps the first error for us.

    The library crashes the process when a write fails while it closes (seen with a full disk), so it is told that all
    is well; the caller asks for `.error` afterwards.
    """

    def __init__(self, raw: io.FileIO):
        self._raw = raw
        self.error: OSError | None = None

    def readable(self):
        return True

    def writable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return self._raw.seek(offset, whence)

    def tell(self):
        return self._raw.tell()

    def readinto(self, buffer):
        return self._raw.readinto(buffer)

    def write(self, buffer):
        size = memoryview(buffer).nbytes
        self._attempt(self._write_all, buffer)
        return size

    def truncate(self, size=None):
        self._attempt(self._raw.truncate, size)
        return size

    def _write_all(self, buffer) -> None:
        rest = memoryview(buffer).cast("B")
        while rest:
            rest = rest[self._raw.write(rest) :]

    def _attempt(self, action, *arguments) -> None:
        if self.error is None:
            try:
                action(*arguments)
            except OSError as error:
                self.error = error


def write_hdf5(path, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Write `arrays` and `metadata` (JSON) to a sealed HDF5 file, atomically; its SHA-256.

    Equal content gives equal bytes. Floats that were never written read back as NaN, never as 0.
    """
    with replacing(path) as temporary:
        return fill_hdf5(temporary, path, arrays, metadata)


def fill_hdf5(temporary: Path, path, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Write what `write_hdf5` writes to a temporary that was staged for the file at `path`; its SHA-256."""
    path = Path(path)
    content = _plain_arrays(arrays, metadata)
    size = sum(array.nbytes for array in content.values()) + BLOCK
    resources.require_disk(path.parent, size, f"writing {path.name}")
    with _hdf5_in(temporary, path, BLOCK) as file:
        for name, array in content.items():
            _create(file, name, array)
            crash_point("writing")
    with translated(path, "write"), open(temporary, "r+b", buffering=0) as raw:
        raw.seek(BLOCK)
        seal = _seal(raw)
        raw.seek(0)
        raw.write(seal)
    return digest(temporary)


def _plain_arrays(arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a sealed file holds, by name: arrays of numbers, and the metadata as bytes of text."""
    content = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, default=plain).encode()
    content[_METADATA] = np.frombuffer(text, dtype=np.uint8)
    for name, array in content.items():
        if array.dtype.kind not in "biufc" or "/" in name or name in ("", "."):
            raise StoreError(f"cannot write array {name!r} of dtype {array.dtype} to HDF5: it is not plain numbers.")
    return content


@contextmanager
def create_hdf5(path) -> Iterator[Any]:
    """A new h5py file to write to, in any layout; it becomes the file at `path`, whole and durable, when the block ends.

    Raises
    ------
    StoreError, ResourceError
        Where it cannot be written; a full disk does not end the process, as it does with h5py alone.
    """
    with replacing(path) as temporary, _hdf5_in(temporary, Path(path)) as file:
        yield file


@contextmanager
def _hdf5_in(temporary: Path, path: Path, block: int = 0) -> Iterator[Any]:
    """A new h5py file in an empty one that is there, behind `block` bytes left to the caller; errors name `path`."""
    import h5py

    with translated(path, "write"), open(temporary, "r+b", buffering=0) as raw:
        patient = _Patient(raw)
        try:
            with h5py.File(patient, "w", userblock_size=block) as file:
                yield file
        except (OSError, RuntimeError) as error:
            if patient.error is None:
                raise StoreError(f"cannot write {path}: {error}.") from error
        if patient.error is not None:
            raise explained(patient.error, path, "write")


def _create(file, name: str, array: np.ndarray) -> None:
    if array.ndim == 0 or array.size == 0:  # such cannot be chunked; the seal covers them
        file.create_dataset(name, data=array)
        return
    fill = np.nan if array.dtype.kind in "fc" else None
    entries = _CHUNK // array[0].nbytes  # in one chunk, which has one checksum and is written at once
    chunks = (min(entries, len(array)), *array.shape[1:]) if entries else True
    file.create_dataset(name, data=array, chunks=chunks, fletcher32=True, fillvalue=fill)


def _seal(raw) -> bytes:
    """The user block that belongs in front of what is left to read of `raw`."""
    content = hashlib.file_digest(raw, "sha256").hexdigest()
    return f"{_TITLE} {_VERSION}\nsha256 {content}\n".encode().ljust(BLOCK, b"\0")


def read_hdf5(path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, metadata) of a file that `write_hdf5` wrote.

    Raises
    ------
    StoreError
        Where the file is damaged, truncated, or was not written by `write_hdf5`.
    ResourceError
        Where it does not fit into memory.
    """
    path = Path(path)
    _check_seal(path)
    with open_hdf5(path) as file:
        resources.require_memory(sum(file[name].nbytes for name in file), f"reading {path}")
        arrays = {name: np.asarray(file[name][()]) for name in file}
    try:
        metadata = json.loads(arrays.pop(_METADATA).tobytes())
    except (KeyError, ValueError, RecursionError, AttributeError) as error:
        raise StoreError(f"{path}: the metadata cannot be read ({error}).") from error
    return arrays, metadata


def _check_seal(path: Path) -> None:
    with translated(path, "read"), open(path, "rb") as raw:
        block = raw.read(BLOCK)
        intact = len(block) == BLOCK and block == _seal(raw)
    if intact:
        return
    title = block[:80].split(b"\n")[0].decode("ascii", "replace")
    if not title.startswith(_TITLE):
        raise StoreError(f"{path} was not written by diffsim, or its beginning is damaged: the seal is missing.")
    version = title.removeprefix(_TITLE).strip()
    if version.isdecimal() and int(version) > _VERSION:
        raise StoreError(f"{path} has format {version}, newer than the {_VERSION} this version reads. Upgrade diffsim.")
    raise StoreError(
        f"{path} is damaged: its content does not match the SHA-256 written with it (a flipped bit or a missing end). "
        "Restore it from a copy, or compute it again."
    )


@contextmanager
def open_hdf5(path) -> Iterator[Any]:
    """The opened h5py file at `path` (read-only), after every object in it was found harmless.

    Raises
    ------
    StoreError
        Where the file is not HDF5 or holds links, external or virtual data, unknown filters, object types, too many
        or too deep objects, or sizes far beyond what is stored.
    """
    import h5py

    path = Path(path)
    with translated(path, "read"), open(path, "rb"):
        pass
    try:
        with parsing(path, "HDF5"), h5py.File(path, "r") as file:
            _inspect(file, path)
            yield file
    except OSError as error:  # h5py's name for damage, too
        raise StoreError(f"{path} cannot be read as HDF5: {error}. It is damaged, or not an HDF5 file.") from error


def _inspect(file, path: Path) -> None:
    import h5py

    seen: set[int] = set()
    waiting = [(file, "/", 0)]
    while waiting:
        group, where, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise StoreError(f"{path}: groups are nested more than {_MOST_DEPTH} deep at {where[:80]}. Refused.")
        if len(seen) + len(group) > _MOST_OBJECTS:
            raise StoreError(f"{path}: more than {_MOST_OBJECTS} objects. Refused.")
        _inspect_attributes(group, where, path)
        for name in group:
            here = f"{where.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise StoreError(f"{path}: {here} is a link to elsewhere. Refused: it could reach other files.")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((item, here, depth + 1))
            elif isinstance(item, h5py.Dataset):
                _inspect_attributes(item, here, path)
                _inspect_dataset(item, here, path)


def _inspect_attributes(item, where: str, path: Path) -> None:
    import h5py

    count = h5py.h5a.get_num_attrs(item.id)
    if count > _MOST_ATTRIBUTES:
        raise StoreError(f"{path}: {where} has {count} attributes, more than {_MOST_ATTRIBUTES}. Refused.")


def _inspect_dataset(dataset, where: str, path: Path) -> None:
    if dataset.external:
        raise StoreError(f"{path}: {where} keeps its data in another file. Refused.")
    if dataset.is_virtual:
        raise StoreError(f"{path}: {where} is a virtual dataset, made of other files. Refused.")
    if dataset.dtype.hasobject:
        raise StoreError(f"{path}: {where} holds objects (variable-length data or references), not numbers. Refused.")
    plist = dataset.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        code = plist.get_filter(index)[0]
        if code not in _FILTERS:
            raise StoreError(f"{path}: {where} needs the filter {code}; allowed are {', '.join(_FILTERS.values())}.")
    declared = math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    check_declared(path, where, declared, dataset.id.get_storage_size())


def check_declared(path: Path, where: str, declared: int, stored: int) -> None:
    """Refuse sizes that no honest file declares: over 64 MiB and over a thousand times what is stored."""
    if declared > 64 << 20 and declared > 1000 * stored:
        raise StoreError(
            f"{path}: {where} declares {resources.readable(declared)} but the file stores {resources.readable(stored)} "
            "of it. Refused: it is damaged, unfinished, or made to exhaust memory."
        )
