"""Exceptions. Every message says what was given, what is wrong, the limit, and what to do."""


class DiffsimError(Exception):
    """Base of all errors raised on purpose by `diffsim` and `surrogate`."""

    exit_code = 6


class ProblemError(DiffsimError, ValueError):
    """The problem or an argument is not well posed: wrong type, shape, sign or combination."""

    exit_code = 3


class StabilityError(DiffsimError):
    """A step outside the stability region of its scheme was asked for, or a run blew up."""

    exit_code = 3


class ConvergenceError(DiffsimError):
    """An iterative solve did not reach its tolerance."""

    exit_code = 6


class StoreError(DiffsimError):
    """A file is damaged, unsafe, of another version, or cannot be written."""

    exit_code = 4


class ResourceError(DiffsimError):
    """The request does not fit into memory or onto the disk."""

    exit_code = 5


class BusyError(StoreError):
    """Another process holds what this one would write to."""

    exit_code = 7
