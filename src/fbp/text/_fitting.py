"""Into which row each piece of a text goes, so that few places stay empty."""

import bisect
import collections

import numpy as np


def best_fit(sizes: np.ndarray, room: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Packs pieces into rows, the largest first, each where it leaves the least room.

    Pieces of one size are taken in the order that rng draws, and many at once: rows with as much
    room are alike, so the time is that of sorting the pieces, and of the different sizes.

    Args:
      sizes: of the pieces (N,), 1 to `room`.
      room: of a row.
      rng: shuffles the pieces.

    Returns:
      The row of each piece (N,), and how many rows there are. They are at most 11/9 of the fewest
      possible and one.

    Source: Johnson et al., "Worst-Case Performance Bounds for Simple One-Dimensional Packing
    Algorithms", SIAM J. Computing 3, 1974; Krell et al., "Efficient Sequence Packing without
    Cross-contamination", arXiv:2107.02027.
    """
    shuffled = rng.permutation(len(sizes))
    shuffled = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    row = np.zeros(len(sizes), np.int64)
    rows = 0
    with_room: dict[int, list[int]] = collections.defaultdict(list)  # rows by what room they have
    rooms: list[int] = []  # the keys that have rows, sorted
    cuts = np.flatnonzero(np.diff(sizes[shuffled])) + 1
    for pieces in np.split(shuffled, cuts):
        size = int(sizes[pieces[0]]) if len(pieces) else room
        while len(pieces):
            i = bisect.bisect_left(rooms, size)
            left = rooms[i] if i < len(rooms) else room
            each = left // size
            wanted = -(-len(pieces) // each)
            if i < len(rooms):
                there = with_room[left]
                taken = there[-wanted:]
                del there[-wanted:]
                if not there:
                    del rooms[i]
            else:
                taken = list(range(rows, rows + wanted))
                rows += wanted
            put, pieces = np.split(pieces, [each * len(taken)])
            row[put] = np.repeat(taken, each)[: len(put)]
            last = len(put) - each * (len(taken) - 1)  # how many the last row took
            for some, count in ((taken[:-1], each), (taken[-1:], last)):
                new = left - count * size
                if some and new:
                    if not with_room[new]:
                        bisect.insort(rooms, new)
                    with_room[new] += some
    return row, rows
