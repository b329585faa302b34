"""Values that users give: numbers, arrays, functions of time and sampled time series.

Everything is checked here, once, at the border; the numerics behind trust it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from .errors import ProblemError


def number(name: str, value, *, least: float = -math.inf, above: float = -math.inf, finite: bool = True) -> float:
    """`value` as a float, or a `ProblemError` naming the field, the value and the allowed range."""
    if type(value) is float:  # most are, and a data set checks ten for every problem
        result = value
    else:
        scalar = value.item() if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0 else value
        if isinstance(scalar, bool) or not isinstance(scalar, Real):
            raise ProblemError(f"{name} = {_short(value)} is not a number; give an int or a float.")
        result = float(scalar)
    if math.isnan(result) or (finite and math.isinf(result)):
        raise ProblemError(f"{name} = {result} is not finite; give a finite number.")
    if result < least or not result > above:
        bound = f">= {least:g}" if result < least else f"> {above:g}"
        raise ProblemError(f"{name} = {result:g} must be {bound}.")
    return result


def array(
    name: str,
    value,
    shape: tuple[int, ...],
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    where=None,
    out=None,
) -> np.ndarray:
    """`value` as a read-only float64 array of `shape`, or written to `out`; entries outside the mask `where` may be anything
    and become 0."""
    raw = np.asarray(value)
    if raw.dtype.kind not in "fiu":
        raise ProblemError(f"{name} has dtype {raw.dtype}; give real numbers (float or int), not {_short(value)}.")
    if raw.shape != tuple(shape):
        hint = " The axes look swapped: axis 0 is x." if raw.shape == tuple(shape)[::-1] and raw.ndim > 1 else ""
        raise ProblemError(f"{name} has shape {raw.shape}, but {tuple(shape)} is needed.{hint}")
    result = np.empty(shape) if out is None else out
    result[...] = raw
    if where is not None:
        result[~where] = 0.0
    # the ends say it all: NaN is both the least and the largest of numbers that hold one
    low = float(result.min(initial=math.inf))
    if result.size and not (math.isfinite(low) and math.isfinite(result.max())):
        bad = int(np.count_nonzero(~np.isfinite(result)))
        raise ProblemError(f"{name} holds {bad} values that are NaN or infinite; every value must be finite.")
    if max(least, above) > -math.inf:
        if where is not None:
            low = float(result.min(initial=math.inf, where=where))
        if low < least or not low > above:
            bound = f">= {least:g}" if low < least else f"> {above:g}"
            raise ProblemError(f"{name} has a smallest value of {low:g}, but every value must be {bound}.")
    if out is None:
        result.flags.writeable = False
    return result


def number_or_array(name: str, value, shape, **limits) -> float | np.ndarray:
    """A float where one number was given, otherwise a checked array of `shape`."""
    where = limits.pop("where", None)
    if type(value) is float or np.ndim(value) == 0:
        return number(name, value, **limits)
    return array(name, value, shape, where=where, **limits)


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """A sampled record: linear between the samples, held constant before the first and after the last.

    Parameters
    ----------
    times
        Strictly increasing, shape (n,) [s].
    values
        Shape (n,), or (n, *shape) for one value per face or cell.
    """

    times: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        times = array("TimeSeries times", self.times, np.shape(self.times))
        if times.ndim != 1 or times.size < 1:
            raise ProblemError(f"TimeSeries times has shape {times.shape}; give one or more times, shape (n,).")
        if (np.diff(times) <= 0).any():
            raise ProblemError("TimeSeries times must increase strictly; sort the record and drop repeated times.")
        shape = np.shape(self.values)
        if len(shape) < 1 or shape[0] != times.size:
            raise ProblemError(
                f"TimeSeries has {times.size} times but values of shape {shape}; the first axis must agree."
            )
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "values", array("TimeSeries values", self.values, shape))

    def __call__(self, t):
        """The value at `t`; for an array of times and scalar samples, an array."""
        if self.values.ndim == 1:
            return np.interp(t, self.times, self.values)
        i = int(np.clip(np.searchsorted(self.times, t) - 1, 0, max(self.times.size - 2, 0)))
        j = min(i + 1, self.times.size - 1)
        span = self.times[j] - self.times[i]
        weight = float(np.clip((t - self.times[i]) / span, 0, 1)) if span > 0 else 0.0
        return (1 - weight) * self.values[i] + weight * self.values[j]


@dataclass(frozen=True, eq=False)
class Data:
    """A value that may change in time: steady (`signal` is None) or ``signal(t)``, a number or an array of `shape`."""

    name: str
    shape: tuple[int, ...]
    steady: float | np.ndarray = 0.0
    signal: Callable | None = None
    scalar: bool = field(default=True)  # the value is one number, the same on every face or cell
    given: Any = field(default=0.0, repr=False)  # as the user gave it: what another grid needs

    @classmethod
    def of(cls, name: str, value, shape: tuple[int, ...], *, coordinates=None, least: float = -math.inf, where=None):
        """Check a user's `value`. A callable takes (t), or (x, ..., t) where `coordinates` are given."""
        shape = tuple(shape)
        if isinstance(value, TimeSeries):
            if value.values.ndim > 1 and value.values.shape[1:] != shape:
                raise ProblemError(
                    f"{name}: the TimeSeries holds values of shape {value.values.shape[1:]}, needed {shape}."
                )
            return cls(name, shape, signal=value, scalar=value.values.ndim == 1, given=value)
        if callable(value):
            signal = value
            arity = _positional_count(value)
            if coordinates is not None and len(coordinates) > 1 and arity == len(coordinates):
                field = evaluate(name, value, coordinates, shape, f"{name} as a function of space")
                return cls.of(name, field, shape, least=least, where=where)
            if coordinates is not None and arity == len(coordinates) + 1:

                def signal(t, f=value):
                    return evaluate(name, f, (*coordinates, t), shape, f"{name}(x, ..., t)")

            first = _evaluate(name, signal, 0.0)
            if first.ndim and first.shape != shape:
                raise ProblemError(
                    f"{name}(t) returns shape {first.shape}; return one number or an array of shape {shape}."
                )
            return cls(name, shape, signal=signal, scalar=first.ndim == 0, given=value)
        steady = number_or_array(name, value, shape, least=least, where=where)
        return cls(name, shape, steady=steady, scalar=isinstance(steady, float), given=steady)

    @property
    def constant(self) -> bool:
        return self.signal is None

    def __call__(self, t: float) -> float | np.ndarray:
        """The value at time `t`; a `ProblemError` where it is not finite."""
        if self.signal is None:
            return self.steady
        value = _evaluate(self.name, self.signal, t)
        return float(value) if value.ndim == 0 else value

    def over(self, times: np.ndarray) -> np.ndarray:
        """Scalar data at many `times`, shape (n,)."""
        if self.signal is None:
            return np.full(len(times), self.steady)
        if isinstance(self.signal, TimeSeries):
            return np.asarray(self.signal(times))
        return np.array([self(float(t)) for t in times])


def evaluate(name: str, f: Callable, arguments, shape: tuple[int, ...], called: str) -> np.ndarray:
    """``f(*arguments)`` over `shape`; a `ProblemError` where the user's function does not fit the way it is called."""
    try:
        return np.array(np.broadcast_to(np.asarray(f(*arguments), dtype=float), shape))
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"{name} is called as {called} with arrays that broadcast to {shape}, and must return a number or an array of that "
            f"shape; the function answers: {error}."
        ) from error


def _evaluate(name: str, signal: Callable, t: float) -> np.ndarray:
    try:
        value = np.asarray(signal(t), dtype=float)
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"{name} is called as {name}(t) and must return numbers; the function answers: {error}."
        ) from error
    if not np.isfinite(value).all():
        raise ProblemError(
            f"{name}(t = {t:g}) is not finite; the function must return finite numbers over the whole run."
        )
    return value


def _positional_count(f: Callable) -> int:
    import inspect

    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
