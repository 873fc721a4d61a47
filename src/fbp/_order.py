"""A shuffled order of rows, of which any part is known without the rest."""

import functools
import math

import numpy as np

# Up to this many rows a whole epoch is shuffled, in a few milliseconds, and kept.
FEW = 2**18
ROUNDS = 8


def rows_of(first: int, stop: int, n: int, seed: int) -> np.ndarray:
    """The rows at places first..stop-1 of an endless row of epochs, each a shuffle of 0..n-1.

    A function of its arguments alone, and in the time of the places asked for, whatever n.
    """
    parts = []
    for epoch in range(first // n, (stop - 1) // n + 1):
        start, end = max(first - epoch * n, 0), min(stop - epoch * n, n)
        if n <= FEW:
            parts.append(_whole(n, seed, epoch)[start:end])
        else:
            parts.append(shuffled(np.arange(start, end), n, (seed, epoch)))
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _whole(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def shuffled(places: np.ndarray, n: int, seed: tuple[int, ...]) -> np.ndarray:
    """What a permutation of 0..n-1, chosen by the seed, has at these places.

    A Feistel network on pairs: a number below a b, with a b >= n, is (left, right) with left < a
    and right < b, and each round adds to one of them a hash of the other,

        left -> left + hash(right) mod a    right -> right + hash(left) mod b

    which can be undone, so no two numbers come to the same. What lands at n or above goes through
    again until it is below: as walking a cycle of a permutation, that keeps it one.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    sizes = np.uint64(a), np.uint64(b)
    keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)
    found = np.array(places, np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        parts = [*np.divmod(found[outside], sizes[1])]
        for i, key in enumerate(keys):
            moved, other = i % 2, 1 - i % 2
            parts[moved] = (parts[moved] + _hash(parts[other] ^ key)) % sizes[moved]
        found[outside] = parts[0] * sizes[1] + parts[1]
        outside = outside[found[outside] >= n]
    return found.astype(np.int64)


def _hash(x: np.ndarray) -> np.ndarray:
    """The end of splitmix64, less a few bits, so that what is added to it does not wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(16)
