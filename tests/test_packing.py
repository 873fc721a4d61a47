"""Rows packed with whole documents: what stands in them, how full they are, and when."""

import time
from typing import Any

import numpy as np
import pytest

from fbp import text
from fbp._errors import InputError
from fbp.text._fitting import best_fit

RNG = np.random.default_rng(0)
# Sizes of documents: some prime, equal to a row, one more, of one token and of none.
LENGTHS = {
    "mixed": [5, 1, 8, 3, 2, 9, 17, 16, 0, 2, 1, 24, 25, 7],
    "equal": [4] * 10,
    "of_two": [2] * 7,
    "one": [40],
    "a_row": [8],
    "random": RNG.integers(1, 30, size=200).tolist(),
}


def tokens_of(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids that are all different, and the ends of the documents."""
    return np.arange(100, 100 + sum(lengths)).astype(np.uint16), np.cumsum(lengths)


@pytest.mark.parametrize("context", [1, 2, 7, 8, 64])
@pytest.mark.parametrize("name", LENGTHS)
def test_what_stands_in_a_row(name: str, context: int) -> None:
    """Each token of a document but its first is a label once, at the token before it."""
    tokens, ends = tokens_of(LENGTHS[name])
    packing = text.pack(tokens, ends, context, seed=1)
    (ids, documents), labels = packing.rows(np.arange(len(packing)))
    assert ids.dtype == documents.dtype == labels.dtype == np.int32
    assert ids.shape == documents.shape == labels.shape == (len(packing), context)
    of = np.searchsorted(ends, np.arange(len(tokens)), side="right")  # the document of a token
    seen = []
    for row_ids, row_documents, row_labels in zip(ids, documents, labels, strict=True):
        padding = row_documents == -1
        assert np.all(np.diff(padding.astype(int)) >= 0)  # at the end
        assert not row_ids[padding].any()
        assert np.all(row_labels[padding] == -1)
        numbers = row_documents[~padding]
        assert numbers[:1].tolist() == [0]
        assert set(np.diff(numbers)) <= {0, 1}
        for number in set(numbers.tolist()):
            piece = row_ids[row_documents == number] - 100
            assert np.all(np.diff(piece) == 1)
            assert len(set(of[piece].tolist())) == 1
            want = np.where(piece + 1 == ends[of[piece[0]]], -1, piece + 101)
            np.testing.assert_array_equal(row_labels[row_documents == number], want)
        seen += row_labels[row_labels != -1].tolist()
    firsts = {int(end) - n + 100 for end, n in zip(ends, LENGTHS[name], strict=True) if n}
    assert sorted(seen) == sorted({*range(100, 100 + len(tokens))} - firsts)
    assert packing.padding == pytest.approx((documents == -1).mean())
    assert packing.documents == len(ends)
    assert packing.cut == sum(n > context for n in LENGTHS[name])


def slow_best_fit(sizes: np.ndarray, room: int) -> int:
    """How many rows best fit takes, one piece after another."""
    left: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):
        fitting = [(n, i) for i, n in enumerate(left) if n >= size]
        if fitting:
            left[min(fitting)[1]] -= size
        else:
            left.append(room - size)
    return len(left)


@pytest.mark.parametrize("room", [1, 2, 10, 11, 50, 100])
def test_pieces_go_where_they_fit_best(room: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 1 + rng.integers(1, room + 1), size=rng.integers(1, 300))
        row, rows = best_fit(sizes, room, rng)
        filled = np.bincount(row, sizes, rows)
        assert filled.max() <= room
        assert filled.min() > 0
        assert rows == slow_best_fit(sizes, room)
    assert best_fit(np.zeros(0, int), room, rng)[1] == 0


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    packing = text.pack(*tokens_of(LENGTHS["random"]), 32, seed=3)
    draw = text.packed_windows(packing, batch=4, seed=3)
    (ids, documents), labels = draw(0, 60)
    assert ids.shape == documents.shape == labels.shape == (60, 4, 32)
    (few, _), _ = draw(7, 9)
    np.testing.assert_array_equal(few, ids[7:9])
    again = text.packed_windows(text.pack(*tokens_of(LENGTHS["random"]), 32, seed=3), 4, 3)
    np.testing.assert_array_equal(again(7, 9)[0][0], few)
    # In an epoch each row comes once.
    rows = ids.reshape(-1, 32)
    n = len(packing)
    for epoch in (rows[:n], rows[n : 2 * n]):
        assert len(np.unique(epoch, axis=0)) == n
    assert not np.array_equal(rows[:n], rows[n : 2 * n])
    other = text.pack(*tokens_of(LENGTHS["random"]), 32, seed=4)
    assert not np.array_equal(other.rows(np.arange(5))[0][0], packing.rows(np.arange(5))[0][0])


def test_rows_spread_over_all() -> None:
    packing = text.pack(*tokens_of(LENGTHS["random"]), 32)
    (ids, _), _ = packing.spread(5)
    every = packing.rows(np.arange(len(packing)))[0][0]
    np.testing.assert_array_equal(ids, every[np.arange(5) * len(packing) // 5])
    np.testing.assert_array_equal(packing.spread(10**6)[0][0], every)


@pytest.mark.parametrize(
    ("lengths", "ends", "message"),
    [
        ([], [], "expected the book to have a document of two tokens or more, got 0 documents and"),
        ([1, 1], [1, 2], "expected the book to have a document of two tokens or more, got 2 docum"),
        ([5], [6], "expected ascending ends of documents, up to 5, the tokens of the book"),
        ([5], [4, 3], "expected ascending ends of documents, up to 5, the tokens of the book"),
    ],
)
def test_what_cannot_be_packed_is_refused(lengths: Any, ends: Any, message: str) -> None:
    tokens, _ = tokens_of(lengths)
    with pytest.raises(InputError, match=f"^{message}"):
        text.pack(tokens, np.array(ends, int), 4, what="the book")


@pytest.mark.slow
def test_a_batch_of_a_large_corpus_is_there_at_once() -> None:
    """After one pass over 2 million boundaries, a draw takes the time of its own rows."""
    sizes = np.random.default_rng(0).integers(2, 400, size=2_000_000)
    tokens = np.broadcast_to(np.uint16(7), int(sizes.sum()))
    packing = text.pack(tokens, np.cumsum(sizes), 1024)
    assert packing.padding < 0.01
    draw = text.packed_windows(packing, batch=32, seed=0)
    draw(0, 1)
    seconds = []
    for step in (10, 10**4, 10**6):
        began = time.perf_counter()
        draw(step, step + 1)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.05, seconds
