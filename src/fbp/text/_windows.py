"""Windows of a long text, the training examples of a language model."""

from collections.abc import Callable

import numpy as np

from fbp._errors import InputError

Windows = tuple[np.ndarray, np.ndarray]


def random_windows(
    tokens: np.ndarray, batch: int, context: int, seed: int
) -> Callable[[int, int], Windows]:
    """Returns a function `draw(start, stop)` of the batches (ids, labels) of these steps, stacked.

    A window is context + 1 tokens from anywhere in the text; labels are the ids one position later.
    Its start depends only on seed and step, so that a run can be resumed at any step.

    Shapes: tokens (N,); ids and labels (stop - start, batch, context), int32.

    Raises:
      InputError: the text is shorter than a window.
    """
    require_window(tokens, context, "the text to train on")

    def starts_of(step: int) -> np.ndarray:
        return np.random.default_rng((seed, step)).integers(len(tokens) - context, size=batch)

    def draw(start: int, stop: int) -> Windows:
        starts = [starts_of(step) for step in range(start, stop)]
        return _windows(tokens, np.array(starts), context)

    # For a run to say of what the batch of a step is made.
    draw.rows, draw.unit = starts_of, "windows at token"  # type: ignore[attr-defined]
    return draw


def fixed_windows(tokens: np.ndarray, context: int, most: int) -> Windows:
    """Returns at most `most` windows, spread evenly over the text, whose labels do not overlap.

    Shapes: tokens (N,); ids and labels (windows, context), int32.

    Raises:
      InputError: the text is shorter than a window.
    """
    require_window(tokens, context, "the text to validate on")
    there = (len(tokens) - 1) // context
    number = min(there, most)
    starts = context * (np.arange(number) * there // number)
    return _windows(tokens, starts, context)


def require_window(tokens: np.ndarray, context: int, what: str) -> None:
    """Raises InputError if the text is shorter than one window."""
    if len(tokens) < context + 1:
        raise InputError(
            f"expected {what} to have at least {context + 1} tokens for a context of {context}, "
            f"got {len(tokens)}"
        )


def _windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> Windows:
    windows = tokens[starts[..., None] + np.arange(context + 1)].astype(np.int32)
    return windows[..., :-1], windows[..., 1:]
