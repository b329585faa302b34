"""Step size, number of steps and coefficients: plan a run, map what runs do, fit coefficients to records."""

from .fitting import Fit, fit
from .observations import Observations
from .planning import Alternative, Plan, plan

__all__ = ["Alternative", "Fit", "Observations", "Plan", "fit", "plan"]
