"""Step size, number of steps and coefficients: plan a run, map what runs do, fit coefficients to records."""

from .fitting import Fit, fit
from .harmonic import HarmonicFit, fit_angstrom, fit_harmonic, time_harmonic
from .observations import Observations
from .planning import Alternative, Plan, plan
from .rod import fit_rod
from .sweeping import OUTCOMES, Cheapest, Sweep, cheapest, sweep

__all__ = [
    "OUTCOMES",
    "Alternative",
    "Cheapest",
    "Fit",
    "HarmonicFit",
    "Observations",
    "Plan",
    "Sweep",
    "cheapest",
    "fit",
    "fit_angstrom",
    "fit_harmonic",
    "fit_rod",
    "plan",
    "sweep",
    "time_harmonic",
]
