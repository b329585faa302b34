"""Diffusion on structured grids: proved-stable steps, exact or multigrid equilibria, guaranteed error bounds.

Names are loaded on first use, so that importing the package costs little and compiles nothing.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# public name -> module that defines it; one table serves import, dir() and the documentation
_PUBLIC = {
    name: module
    for module, names in {
        "grid": "Grid",
        "problem": "Problem PerAxis Tensor OfState OfGradient OfTime",
        "boundary": "Dirichlet Neumann Robin Radiation Periodic Patches",
        "data": "TimeSeries",
        "errors": "DiffsimError ProblemError StabilityError ConvergenceError StoreError ResourceError",
        "stability": "stability Verdict",
        "plots": "plot_stability",
        "simulate": "simulate AtSteady",
        "trajectory": "Trajectory",
        "store": "load",
        "equilibrium": "equilibrium time_to_equilibrium Equilibrium",
        "forecast": "forecast Forecast",
        "tuning": "plan sweep fit Observations fit_rod fit_angstrom fit_harmonic time_harmonic",
        "applications": "tortuosity effective wall chip denoise",
        "particles": "walk",
    }.items()
    for name in names.split()
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name in _PUBLIC:
        value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)


class _Package(ModuleType):
    """`diffsim.simulate` is the function, also after something imported the module of the same name."""

    def __setattr__(self, name, value):
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
