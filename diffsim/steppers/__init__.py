"""One step of each family of schemes: ``u -> u_next``, with what entered on the way and an estimate of the error.

A stepper is built once per run for a `System` and a row of the table, and knows nothing of saving, stopping or
choosing steps. All fields here are padded (docs/architecture.md).

    base          System, Counts, Trial, Stepper
    explicit      Runge-Kutta and stabilized schemes
    solver        the linear solves inside implicit steps
    implicit      diagonally implicit, multistep and splitting schemes
    exponential   the exact and the Krylov exponential
"""

from ..errors import ProblemError
from ..schemes import SCHEMES, Scheme
from .base import Counts, Stepper, System, Trial
from .explicit import ExplicitEuler, GeneralExplicit, RungeKuttaStepper, StabilizedStepper
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
