"""Reading a configuration, changing it from the command line, and explaining what is wrong with it."""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ValidationError

from .. import store
from ..errors import ProblemError, StoreError
from .quantities import number
from .schema import File, FromFile, SideTable

if TYPE_CHECKING:
    from ..grid import Grid
    from ..problem import Problem


@dataclass(frozen=True)
class Configuration:
    """A checked configuration. `given` is the merged table, `origin` says which keys came from the command line."""

    file: File
    given: dict[str, Any]
    folder: Path
    overrides: tuple[str, ...] = ()

    def grid(self) -> "Grid":
        """The grid that the file asks for."""
        from .building import grid_of

        return grid_of(self.file.grid)

    def problem(self) -> "Problem":
        """The problem that the file asks for; files it names are read from its own folder."""
        from .building import Builder

        return Builder(self.grid(), self.folder).problem(self.file)

    def initial(self):
        """The initial state: a number, an array, or a trajectory to continue."""
        value = self.file.run.initial
        if isinstance(value, FromFile) and value.file.endswith(".h5"):
            return store.load(self.folder / value.file)
        from .building import Builder

        return Builder(self.grid(), self.folder).steady("run.initial", value)

    def simulation(self) -> dict[str, Any]:
        """The keyword arguments of `simulate`."""
        from ..simulate import AtSteady

        run = self.file.run
        if run.until is None:
            raise ProblemError("run.until is missing: the time at which the run ends. Add it, or --set run.until=10.")
        return {
            "until": number("run.until", run.until, "[time]"),
            "scheme": run.scheme,
            "dt": "auto" if run.dt == "auto" else number("run.dt", run.dt, "[time]"),
            "tol": run.tol,
            "save": run.save,
            "on_unstable": run.on_unstable,
            "stop": None if run.steady is None else AtSteady(run.steady),
            "probes": {k: [number(f"run.probes.{k}", x, "[length]") for x in p] for k, p in run.probes.items()} or None,
        }

    def with_values(self, values: dict[str, Any]) -> "Configuration":
        """The same configuration with the dotted keys in `values` set."""
        table = self.given
        for key, value in values.items():
            table = _replaced(table, key.split("."), value, key)
        return Configuration(_checked(table), table, self.folder, (*self.overrides, *values))

    def problem_of(self, parameters: list[str]) -> Callable[[Any], "Problem"]:
        """theta -> Problem, with the numbers at the dotted keys `parameters` replaced by theta."""
        for key in parameters:
            if not isinstance(_lookup(self.given, key), int | float):
                raise ProblemError(f"fit.parameters names {key!r}, which is not a number in this file.")
        return lambda theta: self.with_values(dict(zip(parameters, map(float, np.ravel(theta)), strict=True))).problem()

    def guess(self, parameters: list[str]) -> list[float]:
        """The numbers at the dotted keys `parameters`."""
        return [float(_lookup(self.given, key)) for key in parameters]

    def listing(self) -> Iterator[tuple[str, Any, str]]:
        """(key, value, origin) of every setting; origin is "file", "--set" or "default"."""
        from_file = dict(_flat(self.given))
        for key, value in _flat(self.file.model_dump()):
            if value is None:
                continue
            given = any(k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.") for k in from_file)
            yield key, value, "--set" if key in self.overrides else "file" if given else "default"


def read(path, overrides: list[str] | tuple[str, ...] = ()) -> Configuration:
    """The configuration in the TOML file at `path`, with ``key=value`` overrides on top.

    Raises
    ------
    StoreError
        Where the file cannot be read or is not TOML (with line and column).
    ProblemError
        Where a key is unknown (with the nearest known one) or a value is of the wrong kind.
    """
    path = Path(path)
    table = store.read_toml(path)
    if not table:
        raise ProblemError(f"{path} is empty; `diffsim init` writes an example to start from.")
    keys = []
    for override in overrides:
        key, value = _assignment(override)
        table = _replaced(table, key.split("."), value, key)
        keys.append(key)
    return Configuration(_checked(table, str(path)), table, path.parent, tuple(keys))


def _assignment(text: str) -> tuple[str, Any]:
    """``problem.diffusivity=2e-5`` as key and TOML value; what is not TOML is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ProblemError(f"--set {text!r} is not of the form key=value, e.g. --set problem.diffusivity=2e-5.")
    try:
        parsed = store.parse_toml(f"value = {value.strip()}", "--set")["value"]
    except StoreError:
        parsed = value.strip()
    return key.strip().replace('"', ""), parsed


def _replaced(table: dict[str, Any], keys: list[str], value: Any, whole: str) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**table, head: value}
    inner = table.get(head, {})
    if not isinstance(inner, dict):
        raise ProblemError(f"{whole!r} cannot be set: {head!r} is a value here, not a table.")
    return {**table, head: _replaced(inner, rest, value, whole)}


def _lookup(table: dict[str, Any], key: str) -> Any:
    value: Any = table
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _flat(table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(table, dict) and table:
        for key, value in table.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, table


def _checked(table: dict[str, Any], name: str = "configuration") -> File:
    try:
        return File.model_validate(table)
    except ValidationError as error:
        sentences: dict[str, list[str]] = {}  # a value that may have several forms fails each of them
        for entry in error.errors():
            subject, complaint = _explained(entry)
            sentences.setdefault(subject, []).append(complaint)
        lines = [f"{subject}{' '.join(complaints)}" for subject, complaints in sentences.items()]
        more = f" (and {len(lines) - 5} more)" if len(lines) > 5 else ""
        raise ProblemError(f"{name}: {' '.join(lines[:5])}{more}") from None


# what pydantic adds to the place of an error where a value may have several forms
_FORMS = {"number", "quantity", "list", "file", "series", "axes", "tensor", "float", "int", "str"}


def _explained(entry) -> tuple[str, str]:
    """One pydantic error as subject and complaint."""
    location = [str(part) for part in entry["loc"]]
    last = location[-1:] if entry["type"] in ("extra_forbidden", "missing") else []
    place = [part for part in location[: len(location) - len(last)] if part not in _FORMS and "[" not in part] + last
    key = ".".join(place)
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _known_keys(place[:-1]), 1)
        return f"unknown key {key!r}; ", f"did you mean {near[0]!r}?" if near else "remove it."
    if entry["type"] == "missing":
        return f"{key!r} is missing; ", "add it."
    value = repr(entry["input"])
    value = value if len(value) <= 60 else value[:57] + "..."
    return f"{key} = {value}: ", f"{entry['msg'].replace('Input should', 'it must')}."


def _known_keys(place: list[str]) -> list[str]:
    """The keys allowed in the table at `place`; all keys of all tables where its form depends on its content."""
    model: Any = File
    for part in place:
        if model is None or part.isdecimal():
            continue
        field = model.model_fields.get(part) if model is not SideTable else None
        model = _model_in(field.annotation) if field is not None else model
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inside in getattr(annotation, "__args__", ()):
        found = _model_in(inside)
        if found is not None:
            return found
    return None
