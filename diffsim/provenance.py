"""Where a file came from: the command, the versions and the commit that made it, written beside it."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import store


def write(path: str | Path, argv: Sequence[str] | None = None, **facts: Any) -> Path:
    """Write what made `path` to ``path.provenance.json`` (inside, where it is a folder); the path of that file."""
    path = Path(path)
    target = path / "provenance.json" if path.is_dir() else path.with_name(f"{path.name}.provenance.json")
    store.write_json(target, {**stamp(argv), **facts})
    return target


def stamp(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Command, commit and versions. Nothing of the environment: it may hold secrets."""
    from . import __version__

    names = ("numpy", "numba", "scipy", "h5py", "torch")
    versions = {name: _version(name) for name in names}
    return {
        "command": [Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)],
        "commit": _commit(),
        "versions": {"diffsim": __version__, "python": platform.python_version(), **versions},
        "machine": platform.machine(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source, with + where it was changed since; None outside a clone."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
