"""How far a surrogate carries: the same measurement on data ever further from what it was trained on."""

from dataclasses import dataclass, replace

import numpy as np

import diffsim
from diffsim.errors import ProblemError

from .dataset import Item
from .evaluate import Measure
from .predict import predict
from .sampling import SPECS, Spec


@dataclass(frozen=True)
class Rung:
    """One distribution: relative errors as in `Report.errors`, and the share of certified predictions accepted."""

    name: str
    errors: dict[str, dict[str, float]]
    accepted: float


def rungs(ndim: int, resolution: int) -> dict[str, tuple[Spec, int]]:
    """{name: (distribution, resolution)}: contrast, roughness, medium, source, sides and resolution, one at a time."""
    darcy = replace(SPECS["darcy"], ndim=ndim)
    steps = {"the training distribution (darcy)": darcy}
    steps |= {f"contrast {c:g}": replace(darcy, high=3.0 * c) for c in (16, 100, 1e4)}
    steps |= {f"roughness tau = {tau:g}": replace(darcy, tau=(tau,)) for tau in (5.0, 18.0)}
    steps |= {
        "log-normal medium, contrast 100": replace(darcy, medium="lognormal", contrast=(100.0, 100.0)),
        "inclusions, contrast 100": replace(darcy, medium="inclusions", contrast=(100.0, 100.0)),
        "random source": replace(darcy, source="random"),
        "random values on the sides": replace(darcy, sides="values"),
        "mixed sides and random source": replace(darcy, source="random", sides="mixed"),
    }
    result = {name: (spec, resolution) for name, spec in steps.items()}
    result |= {f"{n} cells per axis": (darcy, n) for n in (resolution // 2, 2 * resolution) if n >= 4}
    return result


def ladder(
    model, count: int = 16, resolution: int | None = None, seed: int = 1_000_000, tol: float = 1e-2
) -> list[Rung]:
    """Errors and accepted shares of a model of task "coefficients", rung by rung.

    Parameters
    ----------
    count
        Items per rung, drawn with `seed`, which should not be the training's.
    resolution
        Cells per axis of most rungs; None: those of the model's training grid.
    """
    if model.task != "coefficients":
        raise ProblemError("the ladder is for models of known problems (task 'coefficients').")
    shape = model.card.shape if getattr(model, "card", None) is not None else (64, 64)
    results = []
    for name, (spec, n) in rungs(len(shape), resolution or int(max(shape))).items():
        problems = spec.problems(seed, range(count), n)
        labels = [solution.u for solution in diffsim.equilibrium(problems, tol=1e-10)]
        predictions = predict(model, problems, tol=tol)
        measure = Measure([Item(p, u) for p, u in zip(problems, labels, strict=True)])
        accepted = float(np.mean([p.accepted for p in predictions]))
        results.append(Rung(name, measure([p.u for p in predictions]), accepted))
    return results
