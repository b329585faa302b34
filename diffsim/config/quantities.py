"""Numbers with units."""

import re

from ..errors import ProblemError

_UNIT = r"[A-Za-zµμ°Ω]+(?:\^-?\d|\*\*-?\d|[²³])?"
_QUANTITY = re.compile(rf"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*({_UNIT}(?:[ */·]{_UNIT})*)\s*")


def number(name: str, value: float | str, dimension: str | None = None) -> float:
    """A number, or a string with a unit in SI base units: ``"111 mm^2/s"`` is 1.11e-4, ``"20 degC"`` is 293.15.

    Raises
    ------
    ProblemError
        Where the string is not a number and a unit, the unit is unknown, or its dimension is not `dimension`.
    """
    if not isinstance(value, str):
        return float(value)
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ProblemError(f'{name} = {value!r} is not a number with a unit; write e.g. 1e-5 or "10 mm^2/s".')
    try:
        import pint
    except ImportError:
        raise ProblemError(
            f"{name} = {value!r} has a unit, and units need the package pint: pip install 'diffsim[units]'. "
            "Or write the number in SI units."
        ) from None
    registry = pint.UnitRegistry()
    text = match[2].replace("²", "^2").replace("³", "^3").replace("·", "*")
    try:
        quantity = registry.Quantity(float(match[1]), text).to_base_units()
    except (pint.PintError, ValueError, TypeError, AttributeError) as error:
        raise ProblemError(f"{name} = {value!r}: {error}.") from None
    if dimension is not None and not quantity.check(dimension):
        raise ProblemError(f"{name} = {value!r} has the dimension {quantity.dimensionality}; {dimension} is needed.")
    return float(quantity.magnitude)
