"""Attention with masks and with capped scores."""

import numpy as np

from planted._attention import attend, dattend, qkv
from planted._bug import Family, rule

CAP, WINDOW = 2.0, 3


def causal_attention(q, k, v):
    """A query sees the keys up to its own position."""
    return attend(q, k, v, seen=_past(q))


def _past(q, window=None, strict=False):
    t = np.arange(q.shape[2])
    seen = t < t[:, None] if strict else t <= t[:, None]
    return seen if window is None else seen & (t > t[:, None] - window)


def causal_attention_rule(bug=""):
    def backward(q, k, v, dy):
        seen = None if bug == "non_causal_backward" else _past(q, strict=bug == "own_key_hidden")
        return dattend(bug, q, k, v, dy, seen)

    return rule(causal_attention, backward)


CAUSAL = Family("causal_attention", causal_attention, causal_attention_rule, qkv)
CAUSAL_BUGS = [
    CAUSAL.bug(
        "non_causal_backward",
        "q k v",
        ("mask:future", "term:select|where|mask|causal"),
        "The backward has no causal mask.",
    ),
    CAUSAL.bug(
        "own_key_hidden",
        "q k v",
        ("mask", "term:lt|le|<|diagonal"),
        "The backward's mask hides a query's own key.",
    ),
]


def window_attention(q, k, v):
    """A query sees its own key and the two before it."""
    return attend(q, k, v, seen=_past(q, WINDOW))


def window_attention_rule(bug=""):
    window = {"off_by_one": WINDOW + 1, "window_ignored": None}.get(bug, WINDOW)
    return rule(window_attention, lambda q, k, v, dy: dattend(bug, q, k, v, dy, _past(q, window)))


WINDOWED = Family("window_attention", window_attention, window_attention_rule, qkv)
WINDOWED_BUGS = [
    WINDOWED.bug("off_by_one", "q k v", ("mask", "term"), "The window has one key more."),
    WINDOWED.bug("window_ignored", "q k v", ("mask", "term"), "The window is ignored."),
]


def masked_attention(q, k, v, mask):
    """A query sees the keys where mask (B, 1, T, T) is true."""
    return attend(q, k, v, mask)


def masked_attention_rule(bug=""):
    return rule(
        masked_attention, lambda q, k, v, mask, dy: (*dattend(bug, q, k, v, dy, mask), None)
    )


def _masked(rng, size):
    q, k, v = qkv(rng, size)
    b, _, t, _ = q.shape
    return q, k, v, (rng.random((b, 1, t, t)) < 0.6) | np.eye(t, dtype=bool)


def _row_masked(rng, size):
    *arrays, mask = _masked(rng, size)
    mask[1, :, 2] = False
    return *arrays, mask


MASKED = Family("masked_attention", masked_attention, masked_attention_rule, _masked)
MASKED_BUGS = [
    MASKED.bug(
        "fully_masked_nan",
        "q k v",
        ("nonfinite",),
        "A fully masked row gives NaN.",
        "RANGE",
        "WRONG",
        at=_row_masked,
    ),
]


def softcap_attention(q, k, v):
    """The scores are capped: 2 tanh(s / 2)."""
    return attend(q, k, v, cap=CAP)


def softcap_attention_rule(bug=""):
    return rule(softcap_attention, lambda q, k, v, dy: dattend(bug, q, k, v, dy, cap=CAP))


SOFTCAP = Family("softcap_attention", softcap_attention, softcap_attention_rule, qkv)
SOFTCAP_BUGS = [
    SOFTCAP.bug("cap_derivative_missing", "q k", ("term:tanh|drop",), "ds lacks 1 - tanh^2."),
]

FAMILIES = [CAUSAL, WINDOWED, MASKED, SOFTCAP]
BUGS = CAUSAL_BUGS + WINDOWED_BUGS + MASKED_BUGS + SOFTCAP_BUGS
