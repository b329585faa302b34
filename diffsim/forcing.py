"""What drives a discrete problem: its walls, and the right-hand side F(t) they make with sources and
losses."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .data import Data
from .lines import aligned


@dataclass(eq=False)  # not frozen: a data set makes four for every item
class Wall:
    """Wall faces of one kind on one side: flow into cell i is ``g (value - u_i) + flux * area``. Nobody changes one."""

    side: str
    cells: np.ndarray  # (m,) flat indices of the cells behind the faces
    area: np.ndarray  # (m,)
    half: np.ndarray  # (m,) conductance from the cell centre to the wall
    g: np.ndarray  # (m,) conductance from the cell centre to the outer value
    places: np.ndarray  # (m,) positions of the faces in the flattened side (-1 on voids)
    value: Data
    flux: Data

    def data_at(self, data: Data, t: float) -> np.ndarray:
        """A side's datum on these faces at time t, (m,)."""
        value = data(t)
        if np.ndim(value) == 0:
            return np.full(self.cells.size, value)
        return np.ravel(value)[self.places]

    def inflow(self, u: np.ndarray, t: float) -> np.ndarray:
        """Flow into the domain through each face, (m,), for the flat field u."""
        result = self.data_at(self.flux, t) * self.area
        conducting = self.g > 0
        result[conducting] += (self.g * (self.data_at(self.value, t) - u[self.cells]))[conducting]
        return result

    def wall_values(self, u: np.ndarray, t: float) -> np.ndarray:
        """Values at the wall itself, (m,): one half cell from the centre along the flow."""
        reached = u[self.cells] + np.divide(
            self.inflow(u, t), self.half, out=np.zeros_like(self.half), where=self.half > 0
        )
        held = (self.g == self.half) & (self.half > 0)
        return np.where(held, self.data_at(self.value, t), reached)


@dataclass(frozen=True, eq=False)
class Term:
    """``weight * data(t)`` added to the forcing of `cells`; `places` picks from array data (None: the data is
    padded like F)."""

    cells: Any  # flat indices; or slice(None), and the weight has the shape of F
    weight: np.ndarray
    data: Data
    places: np.ndarray | None

    def add(self, t: float, out: np.ndarray) -> None:
        """Add it to a padded F."""
        value = self.data(t)
        if isinstance(self.cells, slice):
            out += self.weight * (np.reshape(value, out.shape) if np.ndim(value) else value)
        else:
            value = np.ravel(value)[self.places] if np.ndim(value) else value
            np.add.at(out.reshape(-1), self.cells, self.weight * value)


class Forcing:
    """F(t): a steady part and terms ``pattern * signal(t)``. `base`: a steady part that is there already, taken over."""

    def __init__(self, shape: tuple[int, int, int], terms: list[Term], base: np.ndarray | None = None):
        self.shape = shape
        self._moving = [term for term in terms if not term.data.constant]
        self.base = aligned(shape, np.zeros) if base is None else base.reshape(shape)
        for term in terms:
            if term.data.constant and not (term.data.scalar and term.data.steady == 0.0):
                term.add(0.0, self.base)

    @property
    def constant(self) -> bool:
        return not self._moving

    def __call__(self, t: float) -> np.ndarray:
        """F at time t, padded shape."""
        if self.constant:
            return self.base
        out = self.base.copy()
        for term in self._moving:
            term.add(t, out)
        return out

    @cached_property
    def separable(self) -> bool:
        """Every moving term is a fixed pattern times one number."""
        return all(term.data.scalar for term in self._moving)

    @cached_property
    def patterns(self) -> np.ndarray:
        """(p, *shape) patterns of a separable forcing."""
        patterns = np.zeros((len(self._moving), *self.shape))
        for pattern, term in zip(patterns, self._moving, strict=True):
            if isinstance(term.cells, slice):
                pattern[...] = term.weight
            else:
                np.add.at(pattern.reshape(-1), term.cells, term.weight)
        return patterns

    def table(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(base, patterns (p, *shape), amplitudes (len(times), p)) with F(t_k) = base + sum_p amplitudes[k,
        p] patterns[p].

        Where array data move in time the patterns are the moving parts at the given times: ask for few times
        then.
        """
        if self.separable:
            amplitudes = np.empty((len(times), len(self._moving)))
            for p, term in enumerate(self._moving):
                amplitudes[:, p] = term.data.over(times)
            return self.base, self.patterns, amplitudes
        unique, inverse = np.unique(times, return_inverse=True)
        patterns = np.stack([self(float(t)) - self.base for t in unique])
        return self.base, patterns, np.eye(len(unique))[inverse]


class Shaken(Forcing):
    """A forcing with white noise in space and time, ``noise sqrt(V) dW``, held constant over each step.

    One standard normal number per free cell and step, in the order of the cells, from one seeded stream.
    """

    def __init__(self, calm: Forcing, volumes: np.ndarray, noise: float, seed: int):
        super().__init__(calm.shape, calm._moving)
        self._calm = calm.base
        self._amplitude = noise * np.sqrt(volumes)
        self._stream = np.random.default_rng(seed)

    @property
    def constant(self) -> bool:
        return False

    def __call__(self, t: float) -> np.ndarray:
        """F at time t with the noise of the present step."""
        return self.base if not self._moving else super().__call__(t)

    def shake(self, dt: float) -> None:
        """Draw the noise of the next step."""
        self.base = self._calm + self._amplitude / math.sqrt(dt) * self._stream.standard_normal(self.shape)
