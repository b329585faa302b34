"""All claims, in the order in which the report has them."""

from importlib import import_module

from .claim import Claim

# module of claims/ -> each holds its experiments in CLAIMS
_MODULES: tuple[str, ...] = (
    "stepping",
    "processes",
    "optimizers",
    "normalisation",
    "regularisation",
    "sharpness",
    "batches",
    "architectures",
    "robustness",
    "generators",
    "data",
)


def _gathered() -> dict[str, Claim]:
    claims = [claim for name in _MODULES for claim in import_module(f"{__package__}.claims.{name}").CLAIMS]
    return {claim.name: claim for claim in sorted(claims, key=lambda claim: claim.number)}


CLAIMS: dict[str, Claim] = _gathered()
