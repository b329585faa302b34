"""One step of each family of schemes: ``u -> u_next``, with what entered on the way and an estimate of the error.

A stepper is built once per run for a `System` and a row of the table, and knows nothing of saving, stopping or
choosing steps. All fields here are padded (docs/architecture.md).

    base          System, Counts, Trial, Stepper
    explicit      Runge-Kutta and stabilized schemes
    solver        the linear solves inside implicit steps
    implicit      diagonally implicit, multistep and splitting schemes
    exponential   the exact and the Krylov exponential
"""

from typing import Any

import numpy as np

from ..errors import ProblemError
from ..grid import Grid
from ..problem import Problem
from ..schemes import SCHEMES, Scheme
from .base import Counts, Stepper, System, Trial
from .explicit import ExplicitEuler, GeneralExplicit, RungeKuttaStepper, StabilizedStepper, constant_box
from .exponential import ExactStepper, KrylovStepper, phi
from .implicit import AdiStepper, Bdf2Stepper, ImplicitStepper, PicardStepper
from .solver import ShiftedSolver

__all__ = ["Counts", "ShiftedSolver", "Stepper", "System", "Trial", "phi", "stepper_for"]

_STEADY: dict[str, type[Stepper]] = {
    "runge-kutta": RungeKuttaStepper,
    "stabilized": StabilizedStepper,
    "dirk": ImplicitStepper,
    "multistep": Bdf2Stepper,
    "splitting": AdiStepper,
}
_MOVING: dict[str, type[Stepper]] = {
    "runge-kutta": GeneralExplicit,
    "stabilized": GeneralExplicit,
    "dirk": PicardStepper,
}
_BY_NAME: dict[str, type[Stepper]] = {"ftcs": ExplicitEuler, "exact": ExactStepper, "krylov": KrylovStepper}


def longest_kernel(system: System, scheme: Scheme) -> Any:
    """The kernel of these steps that takes longest to compile; None where the checks before them compile next to nothing."""
    from ..kernels import stepping

    if not (system.steady and scheme.explicit and system.first.cross is None):
        return None
    if scheme.name == "ftcs" and not system.shaken and constant_box(system.first) is not None:
        return None
    return stepping.longest(scheme.name, scheme.family)


def rehearse(scheme: str, axes: int) -> None:
    """Take a few steps of a tiny problem: what is compiled for them serves every problem of the kind."""
    grid = Grid((3,) * axes, (1.0,) * axes)
    system = System(Problem(grid, np.ones(grid.shape)), np.ones(grid.shape))
    stepper, u = stepper_for(system, SCHEMES[scheme]), np.ones(system.first.shape)
    if isinstance(stepper, ExplicitEuler):
        stepper.advance(u, 0.0, 1e-6, 4)
    else:
        stepper.__dict__["radius"] = 1.0  # no need to compile what bounds it
        stepper.trial(u, 0.0, 1e-6, estimate=False)


def stepper_for(system: System, scheme: Scheme) -> Stepper:
    """The stepper of a row for a system; a `ProblemError` where the scheme cannot do what the problem asks."""
    compiled = system.steady and (system.first.cross is None or not scheme.explicit)
    if compiled:
        if scheme.family == "splitting" and system.first.cross is not None:
            raise ProblemError("scheme = 'adi' cannot split a full tensor D; use 'tr-bdf2' or 'rkc2'.")
        return (_BY_NAME.get(scheme.name) or _STEADY[scheme.family])(system, scheme)
    if scheme.family not in _MOVING:
        usable = [row.name for row in SCHEMES.values() if row.family in _MOVING]
        raise ProblemError(
            f"scheme = {scheme.name!r} needs coefficients that do not change; here D depends on t or u, or there is a reaction. "
            f"Use one of {', '.join(usable)}."
        )
    return _MOVING[scheme.family](system, scheme)
