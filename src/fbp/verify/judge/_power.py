"""The power of a check: which errors it would have caught, found by injecting them."""

import numpy as np

from fbp.verify.judge._findings import LeafRecord

_SIZES = [10.0**-n for n in range(15, -1, -1)]


def smallest_caught(record: LeafRecord) -> dict[str, float]:
    """The smallest relative error of each kind that the comparison of one gradient would catch.

    The errors are injected into the reference gradient of the most sensitive probe, which is
    compared as the rule's own gradient was: the whole leaf scaled, one element changed, and the
    leaf mixed with itself rolled by one.
    """
    if record.best is None:
        return {}
    want, allowed = record.best
    allowed = max(allowed, record.digits * float(np.abs(want).max(initial=0.0)))
    scale = np.abs(want).max()
    one = np.zeros(want.shape)
    one.flat[int(np.argmax(np.abs(want)))] = scale
    errors = {
        "scaled": want,
        "one element": one,
        "rolled": np.roll(want.ravel(), 1).reshape(want.shape) - want,
    }
    return {
        name: next((e for e in _SIZES if np.abs(e * error).max() > allowed), float("inf"))
        for name, error in errors.items()
    }
