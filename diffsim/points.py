"""Values between the cell centres: linear in every half cell, and exact across jumps of D and up to the wall."""

from functools import lru_cache

import numpy as np

from .errors import ProblemError
from .operator import Operator


class PointValue:
    """Interpolates a padded state at one point.

    Along each axis the profile is linear from a centre to the face, where the value is the one that carries the same
    flow through both half cells (series resistances), and on to the next centre; at a wall it ends in the wall value.
    Linear profiles and layered steady profiles are reproduced exactly.

    Raises
    ------
    ProblemError
        Where the point lies outside the box or in a void.
    """

    def __init__(self, operator: Operator, point):
        self.operator = operator
        self.point = np.atleast_1d(np.asarray(point, dtype=float))
        self.cell = operator.grid.locate(point)
        active = operator.problem.active
        if active is not None and not active[self.cell]:
            raise ProblemError(
                f"point {tuple(float(x) for x in self.point)} lies in a void cell; choose one inside the material."
            )

    def __call__(self, state: np.ndarray, t: float) -> float:
        """The value for a padded state at time t."""
        operator, grid = self.operator, self.operator.grid
        held = operator.problem.fixed
        field = state.reshape(grid.shape)

        def at(index: tuple[int, ...]) -> float:
            if held is not None and held[0][index]:
                return float(held[1][index])
            return float(field[index])

        def along(axis: int, index: tuple[int, ...]) -> float:
            """The value with the coordinates of `axis` and later ones interpolated, earlier ones at cell centres."""
            if axis == grid.ndim:
                return at(index)
            i, n = index[axis], grid.shape[axis]
            here = along(axis + 1, index)
            offset = self.point[axis] - grid.centers[axis][i]
            if offset == 0:
                return here
            step = 1 if offset > 0 else -1
            j = i + step
            wraps = operator.periodic[operator.lead + axis] and n > 1
            if not 0 <= j < n and not wraps:
                face = self._wall_value(axis, index, step, here, t)
            else:
                other = (*index[:axis], j % n, *index[axis + 1 :])
                active = operator.problem.active
                if active is not None and not active[other]:
                    return here
                face = self._face_value(axis, index, other, here, along(axis + 1, other))
            return here + (face - here) * abs(offset) / (0.5 * grid.widths[axis][i])

        return along(0, self.cell)

    def _face_value(self, axis: int, index, other, here: float, there: float) -> float:
        grid = self.operator.grid
        d = np.broadcast_to(self.operator._along(axis), grid.shape)
        near, far = d[index] / grid.widths[axis][index[axis]], d[other] / grid.widths[axis][other[axis]]
        return (near * here + far * there) / (near + far) if near + far > 0 else here

    def _wall_value(self, axis: int, index, step: int, here: float, t: float) -> float:
        grid = self.operator.grid
        side = f"{grid.axes[axis]}{'+' if step > 0 else '-'}"
        place = (
            int(np.ravel_multi_index([i for a, i in enumerate(index) if a != axis], grid.side_shape(side)))
            if grid.ndim > 1
            else 0
        )
        for wall, k in self._faces(side, place):
            inflow = wall.data_at(wall.flux, t)[k] * wall.area[k]
            if wall.g[k] > 0:
                inflow += wall.g[k] * (wall.data_at(wall.value, t)[k] - here)
            return here + inflow / wall.half[k] if wall.half[k] > 0 else here
        return here

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the probe
    def _faces(self, side: str, place: int) -> list:
        found = []
        for wall in self.operator.walls:
            if wall.side == side:
                k = int(np.searchsorted(wall.places, place))
                if k < wall.places.size and wall.places[k] == place:
                    found.append((wall, k))
        return found
