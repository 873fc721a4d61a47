"""Rows with nothing in them: all masked, all -inf, empty segments, lengths of 0."""

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, rule, sizes

ROWS = ((5, 7), (64, 128))


def masked_softmax(x, mask):
    """The softmax of what mask shows; a row that shows nothing is zero."""
    low = jnp.where(mask, x, -jnp.inf).max(1, keepdims=True)
    e = jnp.where(mask, jnp.exp(jnp.where(mask, x - low, 0)), 0)
    total = e.sum(1, keepdims=True)
    return e / jnp.where(total > 0, total, 1)


def masked_softmax_rule(bug=""):
    def backward(x, mask, dy):
        p = masked_softmax(x, mask)
        if bug == "uniform_if_empty":
            p = jax.nn.softmax(jnp.where(mask, x, -1e9), 1)
        if bug == "nan_if_empty":
            p = jax.nn.softmax(jnp.where(mask, x, -jnp.inf), 1)
        return p * (dy - (p * dy).sum(1, keepdims=True)), None

    return rule(masked_softmax, backward)


def shown(rng, size):
    """A matrix, and a mask with an empty row."""
    shape = sizes(size, *ROWS)
    mask = rng.random(shape) < 0.6
    mask[:, 0] = True
    mask[1] = False
    return normal(rng, *shape), mask


SOFTMAX = Family("masked_softmax", masked_softmax, masked_softmax_rule, shown)
SOFTMAX_BUGS = [
    SOFTMAX.bug(
        "uniform_if_empty",
        "x",
        ("subset:1 only|row 1", "mask:mask|empty"),
        "An empty row counts as uniform.",
    ),
    SOFTMAX.bug("nan_if_empty", "x", ("nonfinite",), "An empty row is NaN.", "RANGE", "WRONG"),
]


def masked_mean(x, mask):
    """The mean of each row's elements that mask shows, 0 if there is none."""
    n = mask.sum(1)
    return jnp.where(mask, x, 0).sum(1) / jnp.maximum(n, 1)


def masked_mean_rule(bug=""):
    def backward(x, mask, dy):
        n = mask.sum(1)
        if bug == "count_of_the_batch":
            n = jnp.full_like(n, n.max())
        if bug == "one_too_many":
            n = n + 1
        if bug == "empty_over_zero":
            return jnp.where(mask, dy[:, None], 0) / n[:, None], None
        dx = mask * (dy / jnp.maximum(n, 1))[:, None]
        if bug == "mask_of_the_row":
            dx = jnp.broadcast_to((dy / jnp.maximum(n, 1))[:, None], x.shape)
        return dx, None

    return rule(masked_mean, backward)


MEAN = Family("masked_mean", masked_mean, masked_mean_rule, shown)
MEAN_BUGS = [
    MEAN.bug("empty_over_zero", "x", ("nonfinite",), "0 / 0 in an empty row.", "RANGE", "WRONG"),
    MEAN.bug("count_of_the_batch", "x", ("row_scale", "term:div|reduce_sum"), "n is the largest."),
    MEAN.bug("one_too_many", "x", ("row_scale", "term:max|div|more"), "It divides by n + 1."),
    MEAN.bug(
        "mask_of_the_row",
        "x",
        ("mask:mask == False", "input:mask", "term:mask|select"),
        "What is masked gets a gradient too.",
    ),
]


def segment_average(x, ids):
    """The mean of the rows of each of four segments; 0 for an empty one."""
    total = jax.ops.segment_sum(x, ids, 4)
    n = jax.ops.segment_sum(jnp.ones(len(x), x.dtype), ids, 4)
    return total / jnp.maximum(n, 1)[:, None]


def segment_average_rule(bug=""):
    def backward(x, ids, dy):
        n = jax.ops.segment_sum(jnp.ones(len(x), x.dtype), ids, 4)
        if bug == "mean_count":
            n = jnp.full_like(n, len(x) / 4)
        dtotal = dy / jnp.maximum(n, 1)[:, None]
        if bug == "ids_shifted_past_empty":
            ids = jnp.searchsorted(jnp.unique(ids, size=4, fill_value=9), ids)
        return dtotal[ids], None

    return rule(segment_average, backward)


def _segments(rng, size):
    n, d = sizes(size, (7, 3), (64, 32))
    ids = np.sort(rng.choice([0, 2, 3], n)).astype(np.int32)
    ids[0], ids[-1] = 0, 3
    return normal(rng, n, d), ids


SEGMENT = Family("segment_average", segment_average, segment_average_rule, _segments)
SEGMENT_BUGS = [
    SEGMENT.bug("mean_count", "x", ("row_scale", "term:div|scatter"), "All counts are n / 4."),
    SEGMENT.bug(
        "ids_shifted_past_empty",
        "x",
        ("mask:ids", "input:ids", "cotangent:never reach", "subset"),
        "The segments after an empty one are taken for the ones before them.",
    ),
]


def pooled(x, lengths):
    """The largest of the first `length` elements of each row; 0 if there are none."""
    seen = np.arange(x.shape[1]) < lengths[:, None]
    low = jnp.where(seen, x, -jnp.inf).max(1)
    return jnp.where(lengths > 0, low, 0)


def pooled_rule(bug=""):
    def backward(x, lengths, dy):
        seen = np.arange(x.shape[1]) < lengths[:, None]
        best = jnp.argmax(jnp.where(seen, x, -jnp.inf), 1)
        if bug == "length_ignored":
            best = jnp.argmax(x, 1)
        dx = jax.nn.one_hot(best, x.shape[1], dtype=x.dtype) * dy[:, None]
        return dx if bug == "first_if_empty" else dx * (lengths > 0)[:, None], None

    return rule(pooled, backward)


def _lengths(rng, size):
    n, t = sizes(size, *ROWS)
    lengths = rng.integers(1, t + 1, n).astype(np.int32)
    lengths[[0, 2]] = 2, 0
    x = normal(rng, n, t)
    x[0, -1] = x.max() + 1
    return x, lengths


POOLED = Family("pooled", pooled, pooled_rule, _lengths)
POOLED_BUGS = [
    POOLED.bug(
        "first_if_empty",
        "x",
        ("mask:lengths", "subset:row 2|2 only|one element", "term:gt|select|mask"),
        "A row of length 0 gives its dy to the first element.",
    ),
    POOLED.bug(
        "length_ignored",
        "x",
        ("input:lengths", "term:lt|mask|select"),
        "The largest of the whole row gets dy.",
    ),
]


def ignoring_loss(logits, labels):
    """The mean cross-entropy of the labels that are not negative; 0 if there are none."""
    logp = jax.nn.log_softmax(logits)
    kept = labels >= 0
    each = -jnp.take_along_axis(logp, jnp.maximum(labels, 0)[:, None], 1)[:, 0]
    return jnp.where(kept, each, 0).sum() / jnp.maximum(kept.sum(), 1)


def ignoring_loss_rule(bug=""):
    def backward(logits, labels, dy):
        kept = labels >= 0
        n = kept.sum() if bug == "nothing_kept" else jnp.maximum(kept.sum(), 1)
        d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
        if bug != "ignored_kept":
            d = d * kept[:, None]
        return d * dy / n, None

    return rule(ignoring_loss, backward)


def _labels(rng, size):
    n, v = sizes(size, *ROWS)
    labels = rng.integers(0, v, n).astype(np.int32)
    labels[1] = -1
    return normal(rng, n, v), labels


def _none_kept(rng, size):
    logits, labels = _labels(rng, size)
    return logits, np.full_like(labels, -1)


IGNORING = Family("ignoring_loss", ignoring_loss, ignoring_loss_rule, _labels)
IGNORING_BUGS = [
    IGNORING.bug(
        "nothing_kept",
        "logits",
        ("nonfinite",),
        "0 / 0 where every label is ignored.",
        "RANGE",
        "WRONG",
        at=_none_kept,
    ),
    IGNORING.bug(
        "ignored_kept",
        "logits",
        ("mask:labels", "term:mask|select|where|ge", "subset:row 1|1 only"),
        "Rows whose label is ignored get a gradient.",
    ),
]

FAMILIES = [SOFTMAX, MEAN, SEGMENT, POOLED, IGNORING]
BUGS = SOFTMAX_BUGS + MEAN_BUGS + SEGMENT_BUGS + POOLED_BUGS + IGNORING_BUGS
