"""The state of the installation: versions, what is missing, threads, memory, and where compiled kernels are kept."""

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from . import __version__, resources, threads

_NEEDED = ("numpy", "numba", "scipy", "h5py", "matplotlib", "pydantic", "typer", "rich")
_EXTRAS = {
    "surrogate": ("torch", "safetensors"),
    "solvers": ("pyamg",),
    "interop": ("xarray", "h5netcdf"),
    "units": ("pint",),
    "dask": ("dask", "distributed"),
}
_PACKAGE = Path(__file__).parent


def sections() -> dict[str, dict[str, str]]:
    """Title -> facts."""
    return {"versions": _versions(), "machine": _machine(), "threads": _threads(), "compiled kernels": _cache()}


def _versions() -> dict[str, str]:
    facts = {"diffsim": __version__, "python": f"{platform.python_version()} on {platform.platform()}"}
    facts |= {name: _version(name) or "MISSING: pip install --force-reinstall diffsim" for name in _NEEDED}
    for extra, names in _EXTRAS.items():
        for name in names:
            facts[name] = _version(name) or f"not installed; pip install 'diffsim[{extra}]'"
    return facts


def _version(name: str) -> str | None:
    """The version of an installed package, found without importing it."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _machine() -> dict[str, str]:
    return {
        "cores": str(resources.available_cores()),
        "memory available": resources.readable(resources.memory_available()),
        "disk free here": resources.readable(shutil.disk_usage(Path.cwd()).free),
    }


def _threads() -> dict[str, str]:
    return {pool.library: f"{pool.threads}, from {pool.decided_by}" for pool in threads.plan()}


def _cache() -> dict[str, str]:
    facts = {"folder": str(_cache_folder()), "files": str(len(_compiled()))}
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if folder and Path(folder).exists() and Path(folder).stat().st_mode & 0o022:
        facts["WARNING"] = f"others can write to {folder}: whoever can change compiled kernels can run code as you"
    return facts


def _cache_folder() -> Path:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return Path(chosen) if chosen else _PACKAGE / "kernels" / "__pycache__"


def _compiled() -> list[Path]:
    """Numba's index and data files of our kernels; in a folder of its own, Numba names subfolders after the package."""
    folder = _cache_folder()
    pattern = "kernels_*/*.nb[ic]" if os.environ.get("NUMBA_CACHE_DIR") else "*.nb[ic]"
    return list(folder.glob(pattern))


def clear_cache() -> int:
    """Delete the compiled kernels; how many there were. They are compiled again when they are next needed."""
    compiled = _compiled()
    for file in compiled:
        file.unlink(missing_ok=True)
    return sum(file.suffix == ".nbi" for file in compiled)
