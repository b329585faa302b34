"""The only place that opens files.

Writing is atomic and durable: a reader sees the old file or the new one. Reading checks what a file declares
against what it holds before memory is taken, never runs code, never follows a link out of the file, and raises
`StoreError` naming the file where anything is wrong.

    atomic        replacing (stage, publish), write_bytes, write_text, write_json, Journal, locked, sweep
    hdf5          write_hdf5, fill_hdf5, read_hdf5 (sealed with a digest), create_hdf5, open_hdf5 (layouts of others)
    arrays        npy, npz, safetensors
    tables        CSV, TOML, JSON, text
    images        PNG, TIFF and what else pillow reads; figures
    trajectories  save_trajectory, load
"""

from .arrays import read_npy, read_npz, read_safetensors, write_npy, write_safetensors
from .atomic import (
    Journal,
    append_line,
    digest,
    locked,
    new_path,
    publish,
    read_bytes,
    replacing,
    stage,
    sweep,
    write_bytes,
    write_json,
    write_text,
)
from .hdf5 import create_hdf5, fill_hdf5, open_hdf5, read_hdf5, write_hdf5
from .images import read_image, write_figure
from .tables import Table, parse_toml, read_csv, read_json, read_text, read_toml
from .trajectories import load, save_trajectory

__all__ = [
    "Journal",
    "Table",
    "append_line",
    "create_hdf5",
    "digest",
    "fill_hdf5",
    "load",
    "locked",
    "new_path",
    "open_hdf5",
    "parse_toml",
    "publish",
    "read_bytes",
    "read_csv",
    "read_hdf5",
    "read_image",
    "read_json",
    "read_npy",
    "read_npz",
    "read_safetensors",
    "read_text",
    "read_toml",
    "replacing",
    "save_trajectory",
    "stage",
    "sweep",
    "write_bytes",
    "write_figure",
    "write_hdf5",
    "write_json",
    "write_npy",
    "write_safetensors",
    "write_text",
]
