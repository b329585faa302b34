"""The trainings behind docs/results.md: each row of its table is one entry here and one call."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from diffsim.errors import ProblemError

TRAIN_SHARE = 0.8  # of a dataset's items; see Dataset.split


@dataclass(frozen=True)
class Recipe:
    """Data, model and budget of one row.

    Attributes
    ----------
    spec, resolution, labels
        The data, as `generate` takes them; the seed of the data is 0 in every row.
    items
        Training fields, exactly.
    minutes
        Of processor time of one core, the unit that a shared machine does not change: half as long on two.
    options
        Options of `train` that differ from the defaults.
    """

    name: str
    spec: str
    model: str = "multigrid"
    task: str = "coefficients"
    resolution: int = 64
    labels: str = "same-grid"
    items: int = 1000
    minutes: float = 15.0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Items to generate so that the training split, a random 80 %, surely holds `items` (six standard deviations)."""
        return round((self.items + 2.4 * self.items**0.5 * TRAIN_SHARE**-0.5) / TRAIN_SHARE) + 3


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("darcy-64", "darcy"),
        Recipe("darcy-64-long", "darcy", minutes=45.0),
        Recipe("darcy-64-fine", "darcy", labels="restricted-fine"),
        Recipe("darcy-64-fine-closure", "darcy", model="closure", labels="restricted-fine", minutes=4.0),
        Recipe("darcy-64-hybrid", "darcy", options={"hybrid": 2}),
        Recipe("darcy-64-solver", "darcy", options={"residual": True}),
        Recipe("darcy-64-fno", "darcy", model="fno", options={"optimizer": "adamw"}),
        Recipe("darcy-64-unet", "darcy", model="unet"),
        Recipe("transient-64", "transient", task="transient", minutes=8.0),
    )
}


def recipe_of(name: str) -> Recipe:
    """The entry of that name.

    Raises
    ------
    ProblemError
        For a name that is not in the table, with the nearest one and the list.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = get_close_matches(str(name), RECIPES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ProblemError(f"recipe = {name!r} is not known.{hint} Known: {', '.join(RECIPES)}.")


def reproduce(name: str, out, seed: int = 0, minutes: float | None = None, progress=None, **options):
    """Generate the data of a recipe (or go on with what `out` holds), train, and evaluate on the test split.

    Parameters
    ----------
    out
        Folder; the data come to ``data-<spec>-<resolution>``, which rows share, the model to ``<name>-<seed>``.
    seed
        Of the training.
    minutes, options
        Instead of the recipe's.

    Returns
    -------
    (Surrogate, Report)
    """
    from .dataset import generate
    from .evaluate import evaluate
    from .training import train

    recipe = recipe_of(name)
    folder = Path(out)
    label = "" if recipe.labels == "same-grid" else f"-{recipe.labels}"
    place = folder / f"data-{recipe.spec}-{recipe.resolution}{label}"
    data = generate(recipe.spec, place, count=recipe.count, resolution=recipe.resolution, seed=0, labels=recipe.labels)
    model = train(
        data,
        model=recipe.model,
        task=recipe.task,
        minutes=recipe.minutes if minutes is None else minutes,
        seed=seed,
        out=folder / f"{name}-{seed}",
        progress=progress,
        items=recipe.items,
        **{"clock": "cpu", "threads": 1, **recipe.options, **options},
    )
    return model, evaluate(model, data)
