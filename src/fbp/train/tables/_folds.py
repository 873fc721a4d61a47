"""Which training rows each network learns from, and which it is measured by."""

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]

# More rows do not measure better, and every evaluation runs through them.
MOST_LEFT = 20_000
# A row with an input this many standard deviations from the mean would decide all by itself when
# to stop; unless more than this share of the rows are such.
FAR, FAR_SHARE = 10.0, 0.05


def folds(x: np.ndarray, target: np.ndarray, members: int, seed: int) -> tuple[Arrays, Arrays]:
    """Splits training rows for networks side by side; each row is left out by at most one.

    Rows are shuffled, then dealt out in the order of their targets, so that every part has the
    whole range of them. One network leaves out a fifth of the rows, or about 20,000 if that is
    less, several leave out one part each, of as many parts. Up to `members - 1` rows are not used
    by a network, so that all have as many. Rows far outside are never left out.

    Args:
      x: (rows, inputs).
      target: (rows,), or (rows, 1).
      members: how many networks.
      seed: of the shuffle.

    Returns:
      x and target to train on, and those left out: x (rows, members, inputs), and target with the
      same first axes.
    """
    rng = np.random.default_rng((seed, len(x)))
    shuffled = rng.permutation(len(x))
    order = shuffled[np.argsort(target.ravel()[shuffled], kind="stable")]
    parts = members if members > 1 else max(5, len(x) // MOST_LEFT)
    far = np.abs(x).max(1, initial=0)[order] > FAR
    inside = ~far if far.mean() <= FAR_SHARE else np.ones(len(x), bool)
    part = np.where(inside, (np.cumsum(inside) - 1) % parts, -1)
    rows = [rng.permutation(order[part != i]) for i in range(members)]
    left = [rng.permutation(order[part == i]) for i in range(members)]

    def side_by_side(chosen: list[np.ndarray]) -> Arrays:
        fewest = min(map(len, chosen))
        index = np.stack([rows[:fewest] for rows in chosen], 1)
        return x[index], target[index]

    return side_by_side(rows), side_by_side(left)
