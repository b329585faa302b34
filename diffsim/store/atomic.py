"""Writing so that a reader sees the old file or the new one, never half of either.

The order is the one that survives a power cut: write under a temporary name in the same folder, flush and fsync
the file, rename it over the target, fsync the folder. Journals append whole lines; a line torn by a crash has no
newline and does not count.
"""

import errno
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BusyError, DiffsimError, ResourceError, StoreError

CRASH_EXIT = 86
_TEMPORARY = ".diffsim-"
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_passed: Counter[str] = Counter()


def crash_point(kind: str) -> None:
    """End the process at once where ``DIFFSIM_CRASH_AT`` says so: ``rename:3`` is the third rename.

    With counted points a test can be killed at every moment that matters, one after the other, until a run survives.
    """
    wanted = os.environ.get("DIFFSIM_CRASH_AT")
    if not wanted:
        return
    for name in (kind, "any"):
        _passed[name] += 1
        if wanted == f"{name}:{_passed[name]}":
            os._exit(CRASH_EXIT)  # no buffers are flushed and no `finally` runs: as a kill would end it


def explained(error: OSError, path: Path, doing: str) -> StoreError | ResourceError:
    """`error` as one of ours, with what to do about it."""
    if error.errno in _FULL:
        return ResourceError(
            f"cannot {doing} {path}: the disk is full or a size limit is reached ({error.strerror}). "
            "Nothing was left under that name; free some space or choose another folder."
        )
    reasons = {
        errno.ENOENT: "it does not exist" if doing == "read" else f"the folder {path.parent} does not exist",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "the file system is read-only",
        errno.EISDIR: "it is a folder, not a file",
        errno.ENOTDIR: "a part of its path is a file, not a folder",
        errno.ENAMETOOLONG: "the name is too long for this file system",
        errno.ELOOP: "its symbolic links go in a circle",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return StoreError(f"cannot {doing} {path}: {reason}. Check the path.")


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise explained(error, path, doing) from error


@contextmanager
def parsing(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises on damaged bytes into a `StoreError`: no list of their exceptions is complete."""
    try:
        yield
    except (DiffsimError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"{path} cannot be read as {kind}: {reason}. It is damaged, or of another format.") from error


@contextmanager
def replacing(path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there becomes `path`, whole and durable, at the end.

    Raises
    ------
    StoreError, ResourceError
        Where it cannot be written. The old file, if there was one, is untouched then, and the temporary is gone.
    """
    path = Path(path)
    temporary = stage(path)
    try:
        with translated(path, "write"):
            yield temporary
        publish(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def stage(path) -> Path:
    """A new and empty temporary file beside `path`, to be written anywhere and then made that file by `publish`.

    Who writes to it opens what is there and makes nothing: once swept away, it stays away.
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with translated(path, "write"):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def publish(temporary: Path, path) -> None:
    """Make a temporary that is written the file at `path`, durable when this returns."""
    path = Path(path)
    with translated(path, "write"):
        crash_point("written")
        _fsync(temporary)
        crash_point("rename")
        os.replace(temporary, path)
        crash_point("renamed")
        _fsync_folder(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder, and makes renames durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        half = len(content) // 2
        file.write(content[:half])
        crash_point("writing")
        file.write(content[half:])


def write_text(path, text: str) -> None:
    """Replace the file at `path` by `text` in UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path, value: Any) -> None:
    """Replace the file at `path` by `value` as JSON with sorted keys: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=plain) + "\n")


def plain(value):
    """What JSON can hold in place of `value`: numpy numbers and arrays become Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def read_bytes(path, *, most: int, what: str = "file") -> bytes:
    """All bytes of the file at `path`; a `StoreError` where it holds more than `most`."""
    path = Path(path)
    with translated(path, "read"), open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise StoreError(f"{path} is too large for a {what}: it holds more than the {most} bytes allowed.")
    return content


def digest(path) -> str:
    """SHA-256 of the file at `path`, as 64 hexadecimal digits."""
    path = Path(path)
    with translated(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_line(path, record: dict[str, Any]) -> None:
    """Append `record` to the journal at `path` as one JSON line, durable when this returns."""
    Journal(Path(path)).append(record)


@dataclass(frozen=True)
class Journal:
    """A file of JSON lines that only grows. What `append` returned from is in it after any crash."""

    path: Path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record, durable when this returns; a torn last line left by a crash is removed first."""
        line = json.dumps(record, sort_keys=True, ensure_ascii=False, default=plain).encode() + b"\n"
        is_new = not self.path.exists()
        with translated(self.path, "append to"), open(self.path, "a+b", buffering=0) as file:
            whole = self._whole_length(file)
            file.truncate(whole)
            try:
                file.write(line[: len(line) // 2])
                crash_point("appending")
                file.write(line[len(line) // 2 :])
                crash_point("appended")
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(whole)
                raise
            if is_new:
                _fsync_folder(self.path.parent)
        crash_point("journalled")

    @staticmethod
    def _whole_length(file) -> int:
        """Length of the file up to the end of its last whole line."""
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def records(self) -> list[dict[str, Any]]:
        """All whole records; [] where there is no journal yet.

        Raises
        ------
        StoreError
            Where a whole line is not a JSON object: no crash does that, so the file was damaged or edited.
        """
        if not self.path.exists():
            return []
        lines = read_bytes(self.path, most=1 << 30, what="journal").split(b"\n")[:-1]
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise StoreError(f"{self.path}, line {number}: not a JSON object. The journal was damaged or edited.")
            records.append(record)
        return records


@contextmanager
def locked(folder) -> Iterator[None]:
    """Hold `folder` for writing; the lock goes with the process, however it ends.

    Raises
    ------
    BusyError
        Where another process holds it.
    """
    folder = Path(folder)
    path = folder / ".lock"
    with translated(path, "lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(descriptor):
            raise BusyError(f"{folder} is in use by another process; wait for it to end, or write to another folder.")
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


def sweep(folder) -> int:
    """Remove the temporary files that crashed writers left in `folder`; how many. Call it while holding `locked`."""
    leftovers = list(Path(folder).glob(f"{_TEMPORARY}*.tmp"))
    for leftover in leftovers:
        with suppress(OSError):
            leftover.unlink()
    return len(leftovers)


def new_path(path, *, force: bool = False) -> Path:
    """`path`, checked before the work starts: its folder exists (it is made) and nothing would be overwritten.

    Raises
    ------
    StoreError
        Where something is there already and `force` is not given.
    """
    path = Path(path)
    if path.is_dir():
        raise StoreError(f"cannot write {path}: it is a folder, not a file. Name a file in it.")
    if path.exists() and not force:
        raise StoreError(f"{path} exists already. Choose another name, or allow overwriting with --force.")
    with translated(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path
