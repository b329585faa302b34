"""The table of materials in data/materials.csv: design and typical values, each row with its source."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..data import number
from ..errors import ProblemError, StoreError


@dataclass(frozen=True)
class Material:
    """What conducts and stores heat."""

    name: str
    conductivity: float  # [W/(m K)]
    density: float = float("nan")  # [kg/m^3]
    heat_capacity: float = float("nan")  # [J/(kg K)]
    source: str = "given"

    @property
    def capacity(self) -> float:
        """Heat capacity per volume [J/(m^3 K)]."""
        return self.density * self.heat_capacity

    @property
    def diffusivity(self) -> float:
        """Thermal diffusivity [m^2/s]."""
        return self.conductivity / self.capacity


@cache
def materials() -> dict[str, Material]:
    """Every material of the table, by name.

    Raises
    ------
    StoreError
        If the table is missing from the installation.
    """
    from ..store import read_csv

    table = read_csv(_table_path())
    rows = zip(*(table[c] for c in ("name", "conductivity", "density", "heat_capacity", "source")), strict=True)
    return {str(name): Material(str(name), float(k), float(rho), float(c), str(src)) for name, k, rho, c, src in rows}


def _table_path() -> Path:
    # beside the packages in a checkout, under the installation's data folder otherwise
    places = [Path(__file__).parents[2] / "data", Path(sys.prefix) / "share" / "diffsim"]
    for folder in places:
        if (folder / "materials.csv").is_file():
            return folder / "materials.csv"
    raise StoreError(
        f"materials.csv is in neither {places[0]} nor {places[1]}; reinstall diffsim, or give conductivities as numbers."
    )


def material(what) -> Material:
    """A material by name (any case), from a conductivity [W/(m K)], or as it is.

    Raises
    ------
    ProblemError
        If the name is unknown (the nearest ones are named) or the conductivity is not > 0.
    """
    if isinstance(what, Material):
        return what
    if not isinstance(what, str):
        k = number("conductivity", what, above=0.0)
        return Material(f"{k:g} W/(m K)", k)
    known = {name.lower(): entry for name, entry in materials().items()}
    if what.lower() in known:
        return known[what.lower()]
    near = [n for n in known if what.lower() in n][:4] or difflib.get_close_matches(what.lower(), known, 4)
    hint = f" Did you mean {', '.join(near)}?" if near else " See diffsim.applications.materials() for the names."
    raise ProblemError(f"material {what!r} is not in the table of {len(known)} materials.{hint}")
