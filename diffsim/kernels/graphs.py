"""Setting up multigrid on graphs whose aggregates follow the strong ties: compiled loops, in double precision.

A node is a cell on the finest level and an aggregate on the others; a tie is the conductance between two of them.
Every node lies in a block of cells (`coords`), 2 x 2 x 2 of which are one block of the next level. The finest graph
is given by the face conductances (`faces`, the lists being empty), the others by lists (`graph`): the ties of node i are entries
ends[i] .. ends[i + 1] - 1 of `near` (who) and `ties` (how strong).
"""

import numpy as np
from numba import njit

_entry = njit(cache=True, error_model="numpy", nogil=True)
_compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

STRONG = 0.25  # of the strongest tie at either end
SIDES = 6  # a tie leaves its node towards side 2 axis (low) or 2 axis + 1 (high); -1 within a block


@_compiled
def face_ties(faces, coords, i, near, ties, sides):
    """The ties of a cell into the front of `near`, `ties` and `sides`; returns how many."""
    g0, g1, g2 = faces
    n0, n1, n2 = g0.shape[0] - 1, g1.shape[1] - 1, g2.shape[2] - 1
    a, b, c = coords[i, 0], coords[i, 1], coords[i, 2]
    ties[0], near[0] = g0[a, b, c], ((a if a > 0 else n0) - 1) * n1 * n2 + b * n2 + c
    ties[1], near[1] = g0[a + 1, b, c], (a + 1 if a < n0 - 1 else 0) * n1 * n2 + b * n2 + c
    ties[2], near[2] = g1[a, b, c], (a * n1 + (b if b > 0 else n1) - 1) * n2 + c
    ties[3], near[3] = g1[a, b + 1, c], (a * n1 + (b + 1 if b < n1 - 1 else 0)) * n2 + c
    ties[4], near[4] = g2[a, b, c], (a * n1 + b) * n2 + (c if c > 0 else n2) - 1
    ties[5], near[5] = g2[a, b, c + 1], (a * n1 + b) * n2 + (c + 1 if c < n2 - 1 else 0)
    count = 0
    for side in range(SIDES):
        if ties[side] > 0.0 and near[side] != i:  # a periodic axis of one cell joins it to itself
            near[count], ties[count], sides[count] = near[side], ties[side], side
            count += 1
    return count


@_compiled
def listed_ties(graph, coords, i, near, ties, sides):
    """The same from lists."""
    all_ends, all_near, all_ties = graph
    count = 0
    for e in range(all_ends[i], all_ends[i + 1]):
        j = all_near[e]
        near[count], ties[count], sides[count] = j, all_ties[e], -1
        for axis in range(3):
            step = coords[j, axis] - coords[i, axis]
            if step != 0:  # neighbours around a periodic axis lie far apart
                sides[count] = 2 * axis + ((step > 0) == (abs(step) <= 2))
        count += 1
    return count


@_compiled
def look(faces, graph, coords, i, near, ties, sides):
    """Ties of node i, wherever they are kept."""
    if graph[0].size > 0:
        return listed_ties(graph, coords, i, near, ties, sides)
    return face_ties(faces, coords, i, near, ties, sides)


@_compiled
def same_block(coords, i, j):
    """Whether two nodes lie in one block of the next level."""
    same = coords[i, 0] // 2 == coords[j, 0] // 2 and coords[i, 1] // 2 == coords[j, 1] // 2
    return same and coords[i, 2] // 2 == coords[j, 2] // 2


@_entry
def aggregate(faces, graph, coords, most, longest, one_block, labels, seeds):
    """Number the aggregates of nodes; returns how many. `labels` (n,) receives them, -1 for nodes without ties; `seeds` the
    node that each began with.

    Within each block the nodes that strong ties join grow together, up to `most` at a time: cells of two phases stay
    apart, and so do cells along an axis that is weak there. A node whose every tie is weak beside what its neighbours
    have follows the strongest of them. So does, where `one_block` says that no blocks are left, one that the others have
    left alone: the neighbours of a hub would be joined to it a few at a time. `longest`: the most ties of a node.
    """
    n = labels.size
    near, ties, sides = np.empty(longest, np.int64), np.empty(longest), np.empty(longest, np.int64)
    top, settled = np.zeros(n), np.zeros(n, np.bool_)
    queue = np.empty(most, np.int64)
    for i in range(n):
        labels[i] = -1
        for e in range(look(faces, graph, coords, i, near, ties, sides)):
            top[i] = max(top[i], ties[e])
    for i in range(n):  # nodes with a strong tie somewhere
        for e in range(look(faces, graph, coords, i, near, ties, sides)):
            settled[i] |= ties[e] >= STRONG * max(top[i], top[near[e]])
    count = 0
    for seed in range(n):
        if labels[seed] >= 0 or not settled[seed]:
            continue
        labels[seed], seeds[count], queue[0] = count, seed, seed
        size, at = 1, 0
        while at < size:
            i = queue[at]
            for e in range(look(faces, graph, coords, i, near, ties, sides)):
                j = near[e]
                strong = ties[e] >= STRONG * max(top[i], top[j])
                if size < most and strong and labels[j] < 0 and settled[j] and same_block(coords, seed, j):
                    labels[j], queue[size] = count, j
                    size += 1
            at += 1
        if size == 1 and one_block:  # the others have left it alone
            best, to = 0.0, count
            for e in range(look(faces, graph, coords, seed, near, ties, sides)):
                j = near[e]
                if labels[j] >= 0 and ties[e] >= STRONG * max(top[seed], top[j]) and ties[e] > best:
                    best, to = ties[e], labels[j]
            labels[seed] = to
            count -= to < count
        count += 1
    for i in range(n):
        if labels[i] < 0 and top[i] > 0.0:
            best, to = 0.0, -1
            for e in range(look(faces, graph, coords, i, near, ties, sides)):
                if settled[near[e]] and ties[e] > best:
                    best, to = ties[e], labels[near[e]]
            if to < 0:
                seeds[count], to = i, count
                count += 1
            labels[i] = to
    return count


@_entry
def members(labels, groups, order):
    """Nodes sorted by aggregate: those of aggregate c are order[groups[c]] .. order[groups[c + 1] - 1]."""
    for c in range(groups.size):
        groups[c] = 0
    for i in range(labels.size):
        if labels[i] >= 0:
            groups[labels[i] + 1] += 1
    for c in range(groups.size - 1):
        groups[c + 1] += groups[c]
    at = groups.copy()
    for i in range(labels.size):
        if labels[i] >= 0:
            order[at[labels[i]]] = i
            at[labels[i]] += 1


@_entry
def distances(faces, graph, coords, labels, longest, further):
    """How much further away the neighbours on each side move when a node's aggregate stands for it.

    `further` (n, 6) receives the resistance of half the way to the other end of the aggregate, relative to that of the
    ties to the side: 1/2 in a regular block of cells, 0 where the aggregate is one node long. Returns how many ties run
    between aggregates.
    """
    near, ties, sides = np.empty(longest, np.int64), np.empty(longest), np.empty(longest, np.int64)
    outside, inside = np.empty(SIDES), np.empty(3)
    crossing = 0
    for i in range(labels.size):
        outside[:] = 0.0
        inside[:] = 0.0
        for e in range(look(faces, graph, coords, i, near, ties, sides)):
            joined = labels[near[e]] == labels[i]
            crossing += not joined
            if sides[e] >= 0 and joined:
                inside[sides[e] // 2] += ties[e]
            elif sides[e] >= 0:
                outside[sides[e]] += ties[e]
        for side in range(SIDES):
            within = inside[side // 2]
            further[i, side] = min(0.5, 0.5 * outside[side] / within) if within > 0.0 else 0.0
    return crossing


@_entry
def join(faces, graph, coords, w, labels, seeds, groups, order, further, longest, ends, to, strength, loss, blocks):
    """The graph of the aggregates: `ends`, `to`, `strength`, their w in `loss`, their coords in `blocks`.

    Ties add up, each in series with what lies between it and the centres of the aggregates. The plain sum (Galerkin's)
    is up to twice too stiff for smooth errors (Braess, Towards algebraic multigrid for elliptic problems, Computing 55,
    1995). w likewise: a wall is halved as the ties are, a small loss is summed unchanged. Returns the most ties of a node.
    """
    near, ties, sides = np.empty(longest, np.int64), np.empty(longest), np.empty(longest, np.int64)
    place = np.full(groups.size, -1, np.int64)
    ends[0], most = 0, 0
    for c in range(groups.size - 1):
        start = ends[c]
        end, total = start, 0.0
        for m in range(groups[c], groups[c + 1]):
            i = order[m]
            whole, count = 0.0, look(faces, graph, coords, i, near, ties, sides)
            for e in range(count):
                whole += ties[e]
                other = labels[near[e]]
                if other == c:
                    continue
                side, way = sides[e], 1.0
                if side >= 0:
                    way += further[i, side] + further[near[e], side ^ 1]
                if place[other] < start:
                    place[other] = end
                    to[end], strength[end] = other, 0.0
                    end += 1
                strength[place[other]] += ties[e] / way
            total += w[i] / (1.0 + min(1.0, 0.5 * w[i] * count / whole))
        ends[c + 1], loss[c] = end, total
        most = max(most, end - start)
        for axis in range(3):
            blocks[c, axis] = coords[seeds[c], axis] // 2
    return most


@_entry
def weak_ties(g0, g1, g2, halved):
    """(faces within 2 x 2 x 2 cells that conduct, those that are weak); `halved`: the axes along which cells pair up."""
    n0, n1, n2 = g0.shape[0] - 1, g1.shape[1] - 1, g2.shape[2] - 1
    top = np.empty((n0, n1, n2))
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                a, b = max(g0[i, j, k], g0[i + 1, j, k]), max(g1[i, j, k], g1[i, j + 1, k])
                top[i, j, k] = max(max(a, b), max(g2[i, j, k], g2[i, j, k + 1]))
    every, weak = 0, 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if halved[0] and i % 2:
                    every += g0[i, j, k] > 0.0
                    weak += 0.0 < g0[i, j, k] < STRONG * max(top[i, j, k], top[i - 1, j, k])
                if halved[1] and j % 2:
                    every += g1[i, j, k] > 0.0
                    weak += 0.0 < g1[i, j, k] < STRONG * max(top[i, j, k], top[i, j - 1, k])
                if halved[2] and k % 2:
                    every += g2[i, j, k] > 0.0
                    weak += 0.0 < g2[i, j, k] < STRONG * max(top[i, j, k], top[i, j, k - 1])
    return every, weak
