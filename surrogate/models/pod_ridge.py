"""POD and ridge regression: a linear map from all channels to the leading modes of the training labels.

The least a surrogate can be, and the yardstick of the others. It is fitted in closed form (`fit`), not by steps of an
optimizer; training, saving and predicting are the same calls.
"""

import torch
from torch import nn

from diffsim.errors import ProblemError

from ..baselines import fit_ridge


class RidgeNetwork(nn.Module):
    """See the module's text. Only for grids of the shape it was trained on.

    Parameters
    ----------
    modes
        Leading modes (proper orthogonal decomposition) that the answer is made of; fewer where there are fewer items.
    """

    title = "POD + ridge regression"

    def __init__(self, coefficients: int, forcing: int, shape: tuple[int, ...], modes: int = 64):
        super().__init__()
        self.shape, cells = shape, torch.Size(shape).numel()
        inputs = (coefficients + forcing) * cells
        sizes = {"center": (inputs,), "mean": (cells,), "weights": (inputs, modes), "shapes": (modes, cells)}
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))

    def fit(self, coefficients: torch.Tensor, forcing: torch.Tensor, target: torch.Tensor) -> None:
        """Regress the targets (n, 1, *shape) of a whole training split on its channels."""
        inputs = torch.cat([coefficients, forcing], dim=1).flatten(1)
        varies = (inputs != inputs[0]).any(dim=0)  # most kinds of faces, for example, do not
        ridge = fit_ridge(inputs[:, varies].double().numpy(), target.flatten(1).double().numpy(), len(self.shapes))
        found = len(ridge.shapes)
        for buffer in (self.weights, self.shapes):
            buffer.zero_()
        self.center.copy_(inputs[0])
        self.center[varies] = torch.from_numpy(ridge.center).float()
        self.mean.copy_(torch.from_numpy(ridge.mean))
        self.weights[varies.nonzero()[:, 0], :found] = torch.from_numpy(ridge.weights).float()
        self.shapes[:found] = torch.from_numpy(ridge.shapes)

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape)."""
        if tuple(forcing.shape[2:]) != self.shape:
            raise ProblemError(
                f"model 'pod-ridge' knows grids of {self.shape} cells only, and got {tuple(forcing.shape[2:])}; train it "
                "on such grids, or take another model."
            )
        inputs = torch.cat([coefficients, forcing], dim=1).flatten(1)
        return (self.mean + (inputs - self.center) @ self.weights @ self.shapes).unflatten(1, (1, *self.shape))
