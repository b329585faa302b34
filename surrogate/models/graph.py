"""Messages between cells: a network on the graph of the problem, whatever the shape of the domain.

Nodes are the active cells, edges the faces that conduct, across periodic sides too; a void is simply not there. Messages
are flows (Gilmer et al. 2017 for message passing; the antisymmetric form is ours): along every edge flows a learned
multiple of the difference of its ends, and what leaves one node enters the other. Steps on one graph reach one cell
further each, so they run in V-cycles over graphs that are coarser and coarser, as multigrid's do: cells are joined in
blocks of two per axis, and conductances between blocks are sums of those between cells.

Nothing in it knows a direction or a place. So any renumbering of the cells, turning and mirroring included, renumbers
the answer (exactly as far as blocks go over into blocks), and parts of the domain that no face connects do not
influence each other. As in `multigrid`, the state only meets linear maps, steered by features of the coefficients: the
network is linear in the right-hand side.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .. import fields
from .layers import levels_for, scaled_normal_


@dataclass
class Level:
    """One graph of a batch: all its items side by side.

    Attributes
    ----------
    size
        Number of nodes.
    ends
        Two tensors (edges,): the nodes that an edge joins.
    logs
        Logarithm of each edge's conductance, (edges, 1).
    parents
        The node of the next coarser graph that each node is part of; empty on the coarsest.
    """

    size: int
    ends: tuple[torch.Tensor, torch.Tensor]
    logs: torch.Tensor
    parents: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def gathered(self, values: torch.Tensor, end: int) -> torch.Tensor:
        """Sums over nodes of the rows of the edges that begin (end 0) or end (end 1) there."""
        return _summed(values, self.ends[end], self.size)


def _summed(values: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
    return values.new_zeros(size, values.shape[1]).index_add(0, places, values)


def _averaged(values: torch.Tensor, fine: Level, coarse: Level) -> torch.Tensor:
    """Means of rows of nodes over the blocks they are part of."""
    return _summed(values, fine.parents, coarse.size) / _summed(
        values.new_ones(fine.size, 1), fine.parents, coarse.size
    )


def graphs_of(coefficients: torch.Tensor, levels: int, frames: int) -> tuple[torch.Tensor, list[Level]]:
    """(which cells are nodes (n, *shape), the graphs from fine to coarse) of the channels of `surrogate.fields`.

    Frames say nothing of faces: there all neighbours are joined alike.
    """
    ndim, shape = coefficients.ndim - 2, coefficients.shape[2:]
    cells = coefficients[:, 0].new_ones((), dtype=torch.bool).expand(coefficients[:, 0].shape)
    if not frames:
        cells = coefficients[:, 4 * ndim + 1] > 0
    number = torch.full(cells.shape, -1, dtype=torch.long)
    size = int(cells.sum())
    number[cells] = torch.arange(size)
    ends: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    logs = []
    for axis in range(ndim):
        if frames:
            joined = cells & (torch.arange(shape[axis]) < shape[axis] - 1).view(-1, *(1,) * (ndim - 1 - axis))
        else:  # the face at the high end of a cell: neither closed nor a wall
            joined = cells & (coefficients[:, 2 * ndim + 2 * axis + 1] == 0)
            logs.append(coefficients[:, 2 * axis + 1][joined])
        ends[0].append(number[joined])
        ends[1].append(number.roll(-1, 1 + axis)[joined])
    pair = torch.cat(ends[0]), torch.cat(ends[1])
    graphs = [Level(size, pair, torch.cat(logs)[:, None] if logs else torch.zeros(len(pair[0]), 1))]
    places = cells.nonzero()  # (size, 1 + ndim): item and coordinates
    places = torch.cat([_components(graphs[0])[:, None], places[:, 1:]], dim=1)
    for _ in range(levels - 1):
        places = _coarsen(graphs, places)
    return cells, graphs


def _components(graph: Level) -> torch.Tensor:
    """The connected part of the graph that each node lies in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = (end.numpy() for end in graph.ends)
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(graph.size,) * 2)
    return torch.from_numpy(connected_components(links, directed=False)[1].astype(np.int64))


def _coarsen(graphs: list[Level], places: torch.Tensor) -> torch.Tensor:
    """Append the graph of the blocks of two nodes per axis, and return their places: (part, block coordinates)."""
    fine = graphs[-1]
    blocks = torch.cat([places[:, :1], places[:, 1:] // 2], dim=1)
    extent = blocks.amax(dim=0) + 1 if len(blocks) else torch.ones(blocks.shape[1], dtype=torch.long)
    key = blocks[:, 0]
    for column in range(1, blocks.shape[1]):
        key = key * extent[column] + blocks[:, column]
    names, fine.parents = key.unique(return_inverse=True)
    size = len(names)
    first, second = (fine.parents[end] for end in fine.ends)
    between = first != second
    key = torch.minimum(first, second) * size + torch.maximum(first, second)
    names, edges = key[between].unique(return_inverse=True)
    conductances = _summed(fine.logs[between].exp(), edges, len(names))
    ends = names // max(size, 1), names % max(size, 1)
    graphs.append(Level(size, ends, conductances.log()))
    coarse = blocks.new_zeros(size, blocks.shape[1])
    coarse[fine.parents] = blocks
    return coarse


class Flows(nn.Module):
    """``h + W2 (b * W1 h + div (a * grad W1 h) / neighbours)``: linear in h; a lives on edges, b on nodes."""

    def __init__(self, width: int, neighbours: int, gain: float):
        super().__init__()
        self.neighbours = neighbours
        self.inner = nn.Linear(width, width, bias=False)
        self.outer = nn.Linear(width, width, bias=False)
        scaled_normal_(self.outer.weight, gain)

    def forward(self, h: torch.Tensor, graph: Level, features: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """(nodes, width), the same shape."""
        nodes, edges = features
        y = self.inner(h)
        first, second = graph.ends
        flow = edges * (y.index_select(0, second) - y.index_select(0, first))
        return h + self.outer(nodes * y + (graph.gathered(flow, 0) - graph.gathered(flow, 1)) / self.neighbours)


class Encoder(nn.Module):
    """Features of the coefficients on the nodes and edges of every level, the finest first."""

    def __init__(self, channels: int, width: int, levels: int, depth: int):
        super().__init__()
        self.stem = nn.Linear(channels, width)
        self.send = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(levels))
        self.receive = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(levels)
        )
        self.conductance = nn.ModuleList(nn.Linear(1, width) for _ in range(levels))
        self.edge = nn.ModuleList(nn.Linear(width, width) for _ in range(levels))

    def forward(self, inputs: torch.Tensor, graphs: list[Level]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per level (nodes, width) and (edges, width)."""
        z, features = self.stem(inputs), []
        for level, graph in enumerate(graphs):
            first, second = graph.ends
            conductance = self.conductance[level](graph.logs)
            both = lambda y, c=conductance, i=first, j=second: y.index_select(0, i) + y.index_select(0, j) + c  # noqa: E731
            for send, receive in zip(self.send[level], self.receive[level], strict=True):
                message = functional.gelu(both(send(z)))
                z = z + receive(functional.gelu(graph.gathered(message, 0) + graph.gathered(message, 1)))
            features.append((functional.gelu(z), self.edge[level](functional.gelu(both(z)))))
            if len(graph.parents):
                z = _averaged(z, graph, graphs[level + 1])
        return features


class Cycle(nn.Module):
    """One V-cycle over all graphs."""

    def __init__(self, width: int, neighbours: int, levels: int, coarse: int, gain: float):
        super().__init__()
        fine = range(levels - 1)
        self.before = nn.ModuleList(Flows(width, neighbours, gain) for _ in fine)
        self.after = nn.ModuleList(Flows(width, neighbours, gain) for _ in fine)
        self.coarse = nn.ModuleList(Flows(width, neighbours, gain) for _ in range(coarse))
        self.restrict = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in fine)
        self.prolong = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in fine)
        for transfer in self.prolong:
            scaled_normal_(transfer.weight, gain)

    def forward(self, h: torch.Tensor, graphs: list[Level], features) -> torch.Tensor:
        """The state on the finest graph, (nodes, width)."""
        down = []
        for level, (smooth, restrict) in enumerate(zip(self.before, self.restrict, strict=True)):
            h = smooth(h, graphs[level], features[level])
            down.append(h)
            h = _averaged(restrict(h), graphs[level], graphs[level + 1])
        for smooth in self.coarse:
            h = smooth(h, graphs[len(down)], features[len(down)])
        for level in reversed(range(len(down))):
            h = down[level] + self.prolong[level](h).index_select(0, graphs[level].parents)
            h = self.after[level](h, graphs[level], features[level])
        return h


class GraphNetwork(nn.Module):
    """See the module's text.

    Parameters
    ----------
    width
        Numbers per node and edge.
    cycles
        V-cycles one after the other.
    levels
        Graphs at most; fewer where the training grid gets shorter than four blocks.
    depth
        Rounds of messages per level that make the features.
    coarse
        Steps on the coarsest graph.
    """

    title = "message-passing graph network"

    def __init__(
        self,
        coefficients: int,
        forcing: int,
        shape: tuple[int, ...],
        width: int = 32,
        cycles: int = 4,
        levels: int = 5,
        depth: int = 1,
        coarse: int = 2,
    ):
        super().__init__()
        self.frames, self.levels = fields.frames_in(coefficients, forcing), levels_for(shape, levels)
        gain = 1 / math.sqrt(2 * cycles)
        self.encoder = Encoder(coefficients if self.frames else 3, width, self.levels, depth)
        self.lift = nn.Linear(forcing, width, bias=False)
        self.cycles = nn.ModuleList(Cycle(width, 2 * len(shape), self.levels, coarse, gain) for _ in range(cycles))
        self.head = nn.Linear(width, 1, bias=False)
        for p in (*self.lift.parameters(), *self.encoder.stem.parameters(), *self.head.parameters()):
            p.plain = True  # first and last layers: see optimizers.Muon

    def forward(self, coefficients: torch.Tensor, forcing: torch.Tensor) -> torch.Tensor:
        """(n, 1, *shape); 0 in cells that are no nodes."""
        cells, graphs = graphs_of(coefficients, self.levels, self.frames)
        features = self.encoder(self._inputs(coefficients)[cells], graphs)
        h = self.lift(forcing.movedim(1, -1)[cells]).float()
        for cycle in self.cycles:
            h = cycle(h, graphs, features)
        with torch.autocast(h.device.type, enabled=False):
            values = self.head(h)
        out = values.new_zeros(cells.shape)
        out[cells] = values[:, 0]
        return out[:, None]

    def _inputs(self, coefficients: torch.Tensor) -> torch.Tensor:
        """What a node knows of itself, (n, *shape, channels): frames, or its conductances to walls and in all, and its sink."""
        channels = coefficients.movedim(1, -1)
        if self.frames:
            return channels
        ndim = coefficients.ndim - 2
        conductances, kinds = channels[..., : 2 * ndim].exp(), channels[..., 2 * ndim : 4 * ndim]
        walls = (conductances * (kinds > 0)).sum(-1, keepdim=True)
        degree = (conductances * (kinds >= 0)).sum(-1, keepdim=True)
        return torch.cat([walls.log1p(), degree.log1p(), channels[..., 4 * ndim : 4 * ndim + 1]], dim=-1)
