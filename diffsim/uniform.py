"""Constant-coefficient boxes: their eigenvalues and bounds in closed form."""

from dataclasses import dataclass

import numpy as np

from .errors import ProblemError


@dataclass(frozen=True)
class UniformSide:
    """What one side of a constant-coefficient box is."""

    kind: str  # "value" | "flux" | "robin" | "periodic"
    h: float  # conductance per area from the wall to the outer value; inf for a value, 0 for a flux


@dataclass(frozen=True)
class Uniform:
    """Facts of a constant-coefficient box, per padded axis (axes of length 1 that pad the grid have kind "flux")."""

    shape: tuple[int, int, int]
    diffusivity: tuple[float, ...]
    capacity: float
    loss: float
    spacing: tuple[float, ...]
    sides: tuple[tuple[UniformSide, UniformSide], ...]

    @property
    def transformable(self) -> bool:
        """Each axis diagonalises by a sine, cosine or Fourier transform."""
        return all(side.kind != "robin" for pair in self.sides for side in pair)

    def kinds(self, axis: int) -> tuple[str, str]:
        return self.sides[axis][0].kind, self.sides[axis][1].kind

    def wall_factor(self, axis: int, end: int) -> float:
        """Wall conductance over that of an inner face: 2 for a value, 0 for a flux, between for Robin; 1 periodic."""
        side = self.sides[axis][end]
        if side.kind == "periodic":
            return 1.0
        if side.kind == "value":
            return 2.0
        if side.h == 0:
            return 0.0
        d, h = self.diffusivity[axis], self.spacing[axis]
        return (h / d) / (1 / side.h + h / (2 * d)) if d > 0 else 0.0

    def axis_eigenvalues(self, axis: int) -> np.ndarray:
        """Eigenvalues of -D d2/dx2 along the axis, (n,), in the mode order of the axis' transform.

        Half-cell walls: value-value 4 D/h^2 sin^2(k pi / 2n), k = 1..n; flux-flux k = 0..n-1; mixed (2k + 1) pi / 4n;
        periodic: frequencies of the real Fourier transform of length n, each counted once (n // 2 + 1 values).
        """
        n, d, h = self.shape[axis], self.diffusivity[axis], self.spacing[axis]
        if n == 1 and self.kinds(axis)[0] == "periodic":
            return np.zeros(1)
        return 4 * d / h**2 * np.sin(self._angles(axis)) ** 2

    def _angles(self, axis: int) -> np.ndarray:
        n, kinds = self.shape[axis], self.kinds(axis)
        if "robin" in kinds:
            raise ProblemError("a Robin side has no closed-form modes; use the multigrid solver.")
        if kinds[0] == "periodic":
            return np.pi * np.arange(n // 2 + 1) / n
        if kinds == ("value", "value"):
            return np.pi * np.arange(1, n + 1) / (2 * n)
        if kinds == ("flux", "flux"):
            return np.pi * np.arange(n) / (2 * n)
        return np.pi * (2 * np.arange(n) + 1) / (4 * n)

    @property
    def spectral_radius(self) -> float:
        """rho(A) in closed form [1/s]: the largest axis eigenvalues add up."""
        return (sum(float(self.axis_eigenvalues(a).max()) for a in range(3)) + self.loss) / self.capacity

    @property
    def gershgorin(self) -> float:
        """Largest absolute row sum of A [1/s]: that of each axis adds up."""
        rows = (float((2 * (g[:-1] + g[1:]) + w).max()) for g, w in map(self._line, range(3)))
        return (sum(rows) + self.loss) / self.capacity

    def _line(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Conductances (n + 1,) and walls (n,) of the one-dimensional operator along an axis."""
        n, unit, wraps = self.shape[axis], self.diffusivity[axis] / self.spacing[axis] ** 2, self._wraps(axis)
        g, w = np.full(n + 1, unit), np.zeros(n)
        if not wraps or n == 1:
            g[0] = g[n] = 0.0
        if not wraps:
            w[0] += unit * self.wall_factor(axis, 0)
            w[-1] += unit * self.wall_factor(axis, 1)
        return g, w

    def _wraps(self, axis: int) -> bool:
        return self.kinds(axis)[0] == "periodic"

    @property
    def max_diagonal(self) -> float:
        """max A_ii in closed form [1/s]; the widest stencil of each axis adds up."""
        total = self.loss
        for axis in range(3):
            n = self.shape[axis]
            lo, hi = (self.wall_factor(axis, end) for end in (0, 1))
            if n == 1:
                widest = 0.0 if self.kinds(axis)[0] == "periodic" else lo + hi
            else:
                widest = max(1 + lo, 1 + hi, 2.0 if n > 2 else 0.0)
            total += widest * self.diffusivity[axis] / self.spacing[axis] ** 2
        return total / self.capacity
