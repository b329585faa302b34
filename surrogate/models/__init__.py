"""The architectures: one file each, one line each in the registry.

Every network is built as ``Network(coefficients, forcing, shape, **options)`` and called as
``network(coefficients (n, C, *shape), forcing (n, R, *shape)) -> (n, 1, *shape)``, all float32 and free of units
(`surrogate.fields`). Options have defaults; `build` refuses unknown ones. A network with a method
``fit(coefficients, forcing, target)`` has a closed form: `train` calls it instead of an optimizer.
"""

import inspect
from difflib import get_close_matches

from torch import nn

from diffsim.errors import ProblemError

from .attention import AttentionNetwork
from .closure import ClosureNetwork
from .convlstm import ConvLSTMNetwork
from .deeponet import DeepONetwork
from .fno import FourierNetwork
from .graph import GraphNetwork
from .layers import lay_out
from .multigrid import MultigridNetwork
from .pod_ridge import RidgeNetwork
from .resnet import ResidualNetwork
from .structure import envelop, wrap
from .unet import UNetwork

MODELS: dict[str, type[nn.Module]] = {
    "multigrid": MultigridNetwork,
    "fno": FourierNetwork,
    "unet": UNetwork,
    "resnet": ResidualNetwork,
    "deeponet": DeepONetwork,
    "graph": GraphNetwork,
    "convlstm": ConvLSTMNetwork,
    "attention": AttentionNetwork,
    "pod-ridge": RidgeNetwork,
    "closure": ClosureNetwork,
}


def options_of(name: str) -> dict[str, object]:
    """The options of a model and their defaults.

    Raises
    ------
    ProblemError
        For a name that is not in the registry.
    """
    if name not in MODELS:
        near = get_close_matches(str(name), MODELS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ProblemError(f"model = {name!r} is not known.{hint} Known: {', '.join(MODELS)}.")
    parameters = inspect.signature(MODELS[name].__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def build(
    name: str,
    coefficients: int,
    forcing: int,
    shape: tuple[int, ...],
    periodic: tuple[bool, ...] = (),
    exact_sides: bool = False,
    **options,
) -> nn.Module:
    """A fresh network; weights follow torch's random generator.

    Parameters
    ----------
    periodic
        Per axis: what lies at one end is the neighbour of what lies at the other.
    exact_sides
        The last channel of the coefficients is an envelope that multiplies the output: `fields.from_problems` makes it.

    Raises
    ------
    ProblemError
        For an unknown model or option, or one that does not fit the shape.
    """
    known = options_of(name)
    if unknown := sorted(set(options) - set(known)):
        raise ProblemError(f"model '{name}' has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    network = MODELS[name](coefficients, forcing, tuple(shape), **options)
    if exact_sides and hasattr(network, "fit"):
        raise ProblemError(
            f"model '{name}' has a closed form, which knows no envelope: leave exact_sides out, or take another model."
        )
    wrap(name, network, tuple(shape), tuple(periodic))
    if exact_sides:
        envelop(network)
    return lay_out(network, len(shape))
