"""Step size, number of steps and coefficients: plan a run, map what runs do, fit coefficients to records."""

from .fitting import Fit, fit
from .observations import Observations
from .planning import Alternative, Plan, plan
from .sweeping import OUTCOMES, Sweep, sweep

__all__ = ["OUTCOMES", "Alternative", "Fit", "Observations", "Plan", "Sweep", "fit", "plan", "sweep"]
