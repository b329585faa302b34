"""Step size, number of steps and coefficients: plan a run, map what runs do, fit coefficients to records."""

from .planning import Alternative, Plan, plan

__all__ = ["Alternative", "Plan", "plan"]
