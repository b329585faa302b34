"""One TOML file, checked, becomes a `Problem` and the settings of a run.

The keys are the Python names. Values are numbers, strings with a unit ("111 mm^2/s"), lists, or small tables that
name a file. Nothing in a configuration is ever evaluated as code.

    schema       the tables and keys
    reading      the file, ``--set key=value``, and what is wrong with them
    quantities   numbers with units
    building     tables -> Problem
"""

from .example import EXAMPLE
from .quantities import number
from .reading import Configuration, read
from .schema import File

__all__ = ["EXAMPLE", "Configuration", "File", "number", "read"]
