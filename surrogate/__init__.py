"""Surrogates of diffusion equilibria: data, training, prediction with guaranteed error bounds, honest evaluation.

Names are loaded on first use, so that importing the package loads neither torch nor h5py.
"""

import sys
from importlib import import_module
from types import ModuleType

# public name -> module that defines it
_PUBLIC = {
    name: module
    for module, names in {
        "dataset": "generate Dataset",
        "sampling": "Spec SPECS",
        "training": "train",
        "checkpoint": "load Surrogate",
        "predict": "Prediction predict",
        "certificate": "certify Bound",
        "evaluate": "evaluate Report",
        "ladder": "ladder",
        "adjoint": "equilibrium_layer",
        "doctor": "examine adopt",
        "adapt": "Adaptive",
        "forecast": "Forecaster forecaster",
    }.items()
    for name in names.split()
}

__all__ = [*_PUBLIC]


def __getattr__(name):
    if name in _PUBLIC:
        value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)


class _Package(ModuleType):
    """`surrogate.predict` is the function, also after something imported the module of the same name."""

    def __setattr__(self, name, value):
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
