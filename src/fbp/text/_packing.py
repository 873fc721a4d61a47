"""Whole documents side by side in rows, the training examples where boundaries count."""

import dataclasses
from collections.abc import Callable

import numpy as np

from fbp._errors import InputError
from fbp._order import rows_of
from fbp.text._fitting import best_fit

# The label of a place that has no next token in its document, and the number of the document of
# places that have no token.
IGNORED = -1
Rows = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Packing:
    """Rows of documents, and of pieces of those that are longer than a row.

    Attributes:
      tokens: of all documents (N,); they may be memory-mapped.
      context: places in a row.
      documents: how many documents there are.
      cut: how many of them are longer than a row.
      start, size: where each piece begins in the tokens, and its tokens (P,), ordered by row.
      at: its first place in its row (P,).
      ends: whether its last token ends its document (P,).
      first: the first piece of each row, and last the number of pieces (R + 1,).
    """

    tokens: np.ndarray
    context: int
    documents: int
    cut: int
    start: np.ndarray
    size: np.ndarray
    at: np.ndarray
    ends: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.first) - 1

    @property
    def padding(self) -> float:
        """The share of places that have no token."""
        return 1 - int(self.size.sum()) / (len(self) * self.context)

    def rows(self, numbers: np.ndarray) -> Rows:
        """((ids, documents), labels) of the rows of these numbers.

        documents[t] is the number in its row of the document of ids[t], from 0, and -1 where no
        token is. A label is the token that comes next in the document, -1 where none does. Reads
        the tokens of these rows alone.

        Shapes: numbers (...), ids, documents and labels (..., context), int32.
        """
        shape = (*numbers.shape, self.context)
        numbers = numbers.ravel()
        ids = np.zeros((len(numbers), self.context), np.int32)
        documents, labels = np.full_like(ids, IGNORED), np.full_like(ids, IGNORED)
        counts = self.first[numbers + 1] - self.first[numbers]
        number = _counted(counts)
        piece = np.repeat(self.first[numbers], counts) + number
        row = np.repeat(np.arange(len(numbers)), counts)

        size = self.size[piece]
        within = _counted(size)
        where = np.repeat(row, size), np.repeat(self.at[piece], size) + within
        token = np.repeat(self.start[piece], size) + within
        ids[where] = self.tokens[token]
        documents[where] = np.repeat(number, size)
        has_next = (within < np.repeat(size - 1, size)) | ~np.repeat(self.ends[piece], size)
        row, place = (a[has_next] for a in where)
        labels[row, place] = self.tokens[token[has_next] + 1]
        ids, documents, labels = (a.reshape(shape) for a in (ids, documents, labels))
        return (ids, documents), labels

    def spread(self, most: int) -> Rows:
        """At most `most` rows, spread evenly over all."""
        number = min(len(self), most)
        return self.rows(np.arange(number) * len(self) // number)


def pack(
    tokens: np.ndarray,
    ends: np.ndarray,
    context: int,
    seed: int = 0,
    what: str = "the text to train on",
) -> Packing:
    """Packs documents into rows: best fit, the longest first, and the seed decides among equals.

    A document longer than a row is cut into pieces as long as a row, and what is left; each token
    but the first of a document is the label of one place. What has no label, a document of a single
    token, is left out.

    Args:
      tokens: of the documents, one after another (N,).
      ends: where each ends in the tokens, before which place (D,), ascending.
      context: places in a row.
      seed: of the packing.
      what: the name of the text in errors.

    Raises:
      InputError: no document has two tokens, or the ends are not those of documents.
    """
    sizes = sizes_of(tokens, ends, what)
    ends = np.cumsum(sizes)
    # As many as hold all tokens that have a next one.
    pieces = -(-np.maximum(sizes - 1, 0) // context)
    document = np.repeat(np.arange(len(ends)), pieces)
    start = (ends - sizes)[document] + context * _counted(pieces)
    size = np.minimum(context, ends[document] - start)
    row, rows = best_fit(size, context, np.random.default_rng(seed))
    order = np.argsort(row, kind="stable")
    first = np.searchsorted(row[order], np.arange(rows + 1))
    start, size = start[order], size[order]
    before = np.cumsum(size) - size
    at = before - np.repeat(before[first[:-1]], np.diff(first))
    is_end = start + size == ends[document[order]]
    cut = int((sizes > context).sum())
    return Packing(tokens, context, len(ends), cut, start, size, at, is_end, first)


def sizes_of(tokens: np.ndarray, ends: np.ndarray, what: str) -> np.ndarray:
    """How many tokens each document has.

    Raises:
      InputError: as for `pack`.
    """
    sizes = np.diff(np.asarray(ends, np.int64), prepend=0)
    if (sizes < 0).any() or sizes.sum() > len(tokens):
        raise InputError(
            f"expected ascending ends of documents, up to {len(tokens)}, the tokens of {what}"
        )
    if sizes.max(initial=0) < 2:
        raise InputError(
            f"expected {what} to have a document of two tokens or more, got {len(ends)} documents "
            f"and {len(tokens)} tokens"
        )
    return sizes


def packed_windows(packing: Packing, batch: int, seed: int) -> Callable[[int, int], Rows]:
    """Returns a function `draw(start, stop)` of the batches of these steps, stacked.

    A batch is ((ids, documents), labels), for a model made by `fbp.models.with_documents` and a
    loss with `ignore=-1`. In an epoch every row comes once, in an order that depends on seed and
    epoch alone; any batch is known in the time of its own tokens.

    Shapes: ids, documents and labels (stop - start, batch, context), int32.
    """

    def draw(start: int, stop: int) -> Rows:
        numbers = rows_of(start * batch, stop * batch, len(packing), seed)
        return packing.rows(numbers.reshape(stop - start, batch))

    return draw


def _counted(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... count - 1 for each count, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
