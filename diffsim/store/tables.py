"""Text with structure: CSV tables, TOML configurations, JSON."""

import csv
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from .atomic import read_bytes

_MOST_TEXT = 256 << 20
_MOST_CONFIG = 1 << 20


def read_text(path, *, most: int = _MOST_TEXT, what: str = "text file") -> str:
    """The text of a UTF-8 file, without a byte-order mark."""
    content = read_bytes(path, most=most, what=what)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise StoreError(f"{path} is encoded as UTF-16; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error


def read_json(path, *, most: int = _MOST_TEXT) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(read_text(path, most=most, what="JSON file"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not valid JSON: {error}.") from error


def read_toml(path) -> dict[str, Any]:
    """The table in a TOML file of at most 1 MiB."""
    return parse_toml(read_text(path, most=_MOST_CONFIG, what="configuration"), str(path))


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The table in `text`; `name` is what the error message calls it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # its message ends with line and column
        raise StoreError(f"{name} is not valid TOML: {error}.") from error
    except RecursionError as error:
        raise StoreError(f"{name} is nested too deeply for a configuration.") from error


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a CSV file: float arrays (empty cells are NaN), or lists of str where a cell is not a number.

    Without a header line the names are "0", "1", ...
    """

    path: Path
    columns: dict[str, np.ndarray | list[str]]

    def __getitem__(self, name: str | int) -> np.ndarray | list[str]:
        try:
            return self.columns[str(name)] if isinstance(name, str) else list(self.columns.values())[name]
        except (KeyError, IndexError):
            raise StoreError(f"{self.path} has no column {name!r}; it has {', '.join(self.columns)}.") from None

    def numbers(self) -> np.ndarray:
        """All columns as one float array (rows, columns); a `StoreError` where one holds text."""
        for name, column in self.columns.items():
            if isinstance(column, list):
                line = next(k for k, cell in enumerate(column) if _number(cell) is None)
                raise StoreError(f"{self.path}: column {name!r}, row {line + 1}: {column[line]!r} is not a number.")
        return np.column_stack(list(self.columns.values()))


def read_csv(path) -> Table:
    """The table in a CSV file: comma, semicolon, tab or blanks between the cells; with or without a header line.

    Lines that start with # and empty lines are left out, as is an empty last column.
    """
    path = Path(path)
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise StoreError(f"{path} holds no data.")
    separator = next((s for s in (";", "\t", ",") if s in lines[0]), None)
    try:
        rows = list(csv.reader(lines, delimiter=separator)) if separator else [line.split() for line in lines]
    except csv.Error as error:
        raise StoreError(f"{path} cannot be read as CSV: {error}.") from error
    if all(len(row) > 1 and not row[-1].strip() for row in rows):
        rows = [row[:-1] for row in rows]
    width = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise StoreError(f"{path}, row {number}: {len(row)} cells where the first row has {width}.")
    has_header = all(_number(cell) is None for cell in rows[0]) or (
        any(cell.strip() and _number(cell) is None for cell in rows[0])
        and len(rows) > 1
        and sum(_number(cell) is not None for cell in rows[1]) > sum(_number(cell) is not None for cell in rows[0])
    )
    names = [cell.strip() for cell in rows[0]] if has_header else [str(k) for k in range(width)]
    if len(set(names)) != width:
        raise StoreError(f"{path}: two columns have the same name ({', '.join(names)}).")
    body = rows[1:] if has_header else rows
    return Table(path, {name: _column([row[k] for row in body]) for k, name in enumerate(names)})


def _column(cells: list[str]) -> np.ndarray | list[str]:
    numbers = [math.nan if not cell.strip() else _number(cell) for cell in cells]
    if any(value is None for value in numbers):
        return [cell.strip() for cell in cells]
    return np.array(numbers, dtype=float)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
