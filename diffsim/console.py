"""What our command lines share: data to stdout, messages to stderr, one line per error, and exit codes with a meaning.

0 done, 2 usage, 3 problem or configuration, 4 bad file, 5 memory or disk, 6 numerical failure, 7 busy, 130 interrupted.
"""

import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from .errors import DiffsimError, ResourceError

INTERRUPTED = 130


def run(app: typer.Typer, name: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Run `app` on `argv` and exit. ``--debug`` anywhere shows the traceback of an error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show µ must not end a run
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's preemption ends a run as Ctrl-C does
    warnings.showwarning = lambda message, *_: note(f"warning: {message}")
    try:
        app(arguments, prog_name=name)
    except DiffsimError as error:
        if debug:
            raise
        fail(str(error), error.exit_code)
    except MemoryError as error:
        if debug:
            raise
        fail("memory ran out. Ask for a smaller grid or fewer frames.", ResourceError.exit_code if error else 0)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
    sys.exit(0)


def _interrupt(*_) -> NoReturn:
    raise KeyboardInterrupt


def fail(message: str, code: int) -> NoReturn:
    """Print `message` as an error and exit with `code`."""
    typer.echo(f"error: {printable(message)}", err=True)
    sys.exit(code)


def note(message: str = "") -> None:
    """A message for people, on stderr."""
    typer.echo(printable(message), err=True)


def say(text: str) -> None:
    """A line of data, on stdout."""
    typer.echo(printable(text))


def emit(value: dict[str, Any]) -> None:
    """Data for machines: one JSON object on stdout; what is not finite becomes null."""
    typer.echo(json.dumps(_finite(value), ensure_ascii=False))


def _finite(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | None) else str(value)


def printable(text: str) -> str:
    """`text` without control characters, which could steer the terminal; names of files may hold them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] | None = None) -> str:
    """Rows as aligned text."""
    cells = [[_cell(value) for value in row] for row in ([head, *rows] if head else rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))] if cells else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
