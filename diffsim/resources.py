"""Cores, memory and disk: what there is, and whether a request fits, decided before any of it is taken."""

import math
import os
import shutil
from pathlib import Path

from .errors import ResourceError

_SHARE = 0.9  # of what is available may be asked for; the rest is for everything else that runs


def readable(size: float) -> str:
    """A number of bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the control group's share where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return cores


def memory_available() -> int:
    """Bytes this process can still take: least of free memory, the control group's rest, the address-space limit."""
    import psutil

    rests = [psutil.virtual_memory().available, *_cgroup_rests()]
    if os.name == "posix":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            rests.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(rests))


def _cgroup_rests(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each control group above this process still allows, for versions 1 and 2; [] elsewhere."""
    rests = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers == "":
            base, limit_name, used_name = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit_name, used_name = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / inside.lstrip("/")
        for folder in (group, *group.parents):
            limit, used = _integer(folder / limit_name), _integer(folder / used_name)
            if limit is not None and used is not None:
                rests.append(limit - used + _reclaimable(folder))
            if folder == base:
                break
    return rests


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None


def _reclaimable(folder: Path) -> int:
    """The page cache counts as used but gives way."""
    try:
        words = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(words.get("inactive_file", words.get("total_inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def require_memory(needed: int, what: str, shape: tuple[int, ...] | None = None, available: int | None = None) -> None:
    """Refuse what cannot fit.

    Parameters
    ----------
    needed
        Bytes, computed in Python ints.
    what
        What they are for, for the message: "simulating 4000 x 4000 x 4000 cells".
    shape
        Of the grid whose size decides; the message then names the largest similar grid that fits.
    available
        What `memory_available` said before anything was taken; asked now where it is not given.

    Raises
    ------
    ResourceError
        Where less than `needed` is available.
    """
    available = int(_SHARE * (memory_available() if available is None else available))
    if needed <= available:
        return
    advice = "Ask for less, or free some memory."
    if shape:
        factor = (available / needed) ** (1 / len(shape))
        fits = tuple(max(1, math.floor(n * factor)) for n in shape)
        advice = f"The largest grid of these proportions that fits is {' x '.join(map(str, fits))}."
    raise ResourceError(f"{what} needs {readable(needed)} of memory, but {readable(available)} can be used. {advice}")


def require_disk(folder, needed: int, what: str) -> None:
    """Refuse to start writing `needed` bytes to `folder` where they do not fit; a `ResourceError` then."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # the write itself will say what is wrong with the folder
        return
    if needed > free:
        raise ResourceError(
            f"{what} needs {readable(needed)} on the disk of {folder}, but {readable(free)} are free. "
            "Save fewer frames, or choose another folder."
        )
