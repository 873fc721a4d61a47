"""What a language model learns from: windows from anywhere, or rows of whole documents."""

import dataclasses
from collections.abc import Callable

import numpy as np

from fbp._layer import Layer, PyTree
from fbp.losses import UnembedCrossEntropy
from fbp.models import NextToken, with_documents
from fbp.text import fixed_windows, pack, packed_windows, random_windows
from fbp.text._packing import IGNORED
from fbp.train.text._task import TextTask

# A batch (x, labels): x is ids, or (ids, documents).
Batch = tuple[PyTree, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a run learns, and from what.

    Attributes:
      objective: of a batch.
      draw: `draw(start, stop)`, the batches of these steps, stacked.
      said: lines for the user.
    """

    objective: NextToken
    draw: Callable[[int, int], Batch]
    said: tuple[str, ...] = ()


def learned(task: TextTask, model: Layer, batch: int, seed: int) -> Learned:
    """The objective of a task for its model, and its batches.

    Raises:
      InputError: the text has no document that can be learned from.
    """
    if task.ends is None:
        return Learned(NextToken(model), random_windows(task.train, batch, task.context, seed))
    what = f"the text to train on of {task.data}"
    packing = pack(task.train, task.ends[0], task.context, seed, what)
    said = (
        f"packed: {packing.documents:,} documents in {len(packing):,} rows of {task.context} "
        f"tokens, {packing.padding:.1%} of them padding"
    )
    if packing.cut:
        said += f"; {packing.cut:,} documents are longer than a row, and cut"
    plain = NextToken(with_documents(model))
    assert plain.loss is not None
    loss = UnembedCrossEntropy(plain.loss.size, plain.loss.n, ignore=IGNORED)
    return Learned(
        dataclasses.replace(plain, loss=loss), packed_windows(packing, batch, seed), (said,)
    )


def measured(task: TextTask, held_out: bool, most: int) -> Batch:
    """The same windows or rows at each evaluation, spread over the text, with at most `most`
    tokens in all, but at least one of them.

    Raises:
      InputError: as for `learned`.
    """
    tokens = task.val if held_out else task.train
    most = max(1, most // task.context)
    if task.ends is None:
        return fixed_windows(tokens, task.context, most)
    what = f"the text {'held out' if held_out else 'to train on'} of {task.data}"
    return pack(tokens, task.ends[held_out], task.context, what=what).spread(most)
