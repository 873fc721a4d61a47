"""Losses over classes: cross-entropy with smoothing and ignored rows, focal, contrastive."""

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, normals, rule, sizes
from planted._softmax import log_softmax, softmax

SMOOTHING = 0.1
IGNORED = -1


def cross_entropy(logits, labels):
    """The mean over the rows with a label >= 0, smoothed by 0.1; 0 if there is none."""
    logp = log_softmax(logits)
    picked = (_one_hot(labels, logits) * logp).sum(-1)
    row = -(1 - SMOOTHING) * picked - SMOOTHING * logp.mean(-1)
    kept = labels >= 0
    return jnp.where(kept, row, 0).sum() / jnp.maximum(kept.sum(), 1)


def _one_hot(labels, logits):
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def cross_entropy_rule(bug=""):
    def backward(logits, labels, dy):
        n, classes = logits.shape
        kept = labels >= 0
        smoothing = {"smoothing_dropped": 0, "smoothing_halved": SMOOTHING / 2}.get(bug, SMOOTHING)
        shifted = labels + 1 if bug == "label_off_by_one" else labels
        target = (1 - smoothing) * _one_hot(shifted, logits) + smoothing / classes
        if bug == "smoothing_over_others":
            one_hot = _one_hot(labels, logits)
            target = (1 - smoothing) * one_hot + smoothing / (classes - 1) * (1 - one_hot)
        dlogits = softmax(logits) - target
        if bug == "softmax_missing":
            dlogits = -target
        if bug == "target_missing":
            dlogits = softmax(logits)
        if bug == "softmax_twice":
            dlogits = softmax(softmax(logits)) - target
        if bug != "ignore_mask_dropped":
            dlogits = jnp.where(kept[:, None], dlogits, 0)
        count = jnp.maximum(kept.sum(), 1)
        if bug == "no_1_over_n":
            count = 1
        if bug == "ignored_rows_counted":
            count = n
        if bug == "all_ignored_nan":
            count = kept.sum()
        if bug == "dy_ignored":
            dy = jnp.ones_like(dy)
        return dy * dlogits / count, None

    return rule(cross_entropy, backward)


def _labelled(rng, size, ignored=slice(1, 3)):
    n, classes = sizes(size, (7, 5), (64, 100))
    labels = rng.integers(0, classes - 1, n).astype(np.int32)
    labels[ignored] = IGNORED
    return normal(rng, n, classes), labels


def _all_ignored(rng, size):
    return _labelled(rng, size, slice(None))


CE = Family("cross_entropy", cross_entropy, cross_entropy_rule, _labelled)
CE_BUGS = [
    CE.bug("no_1_over_n", "logits", ("factor", "term"), "The gradient is a sum, not a mean."),
    CE.bug(
        "ignored_rows_counted", "logits", ("factor", "term"), "1 / n counts the ignored rows too."
    ),
    CE.bug(
        "ignore_mask_dropped",
        "logits",
        ("mask:label|ignore|< ?0|-1", "subset"),
        "Ignored rows get a gradient.",
    ),
    CE.bug(
        "smoothing_dropped", "logits", ("term", "along", "constant"), "The smoothing is missing."
    ),
    CE.bug(
        "smoothing_halved",
        "logits",
        ("term:scale|smooth|0.1", "along", "constant"),
        "The smoothing is halved.",
    ),
    CE.bug(
        "smoothing_over_others",
        "logits",
        ("term", "along", "constant"),
        "The smoothing is spread over the other classes only.",
    ),
    CE.bug("label_off_by_one", "logits", ("input:label", "roll"), "The labels are off by one."),
    CE.bug("softmax_missing", "logits", ("term:drop",), "The gradient lacks the softmax."),
    CE.bug("target_missing", "logits", ("term:drop", "subset"), "The gradient lacks the target."),
    CE.bug("softmax_twice", "logits", ("term", "input", "along"), "The softmax is applied twice."),
    CE.bug(
        "all_ignored_nan",
        "logits",
        ("nonfinite",),
        "0 / 0 where every label is ignored.",
        "RANGE",
        "WRONG",
        at=_all_ignored,
    ),
    CE.bug(
        "dy_ignored",
        "logits",
        ("cotangent:not depend", "cotangent:one", "factor", "term"),
        "dy is taken for 1.",
    ),
]


def z_loss(logits):
    """The mean of (log sum e^logits)^2."""
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return ((jnp.log(jnp.exp(logits - top).sum(-1)) + top[:, 0]) ** 2).mean()


def z_loss_rule(bug=""):
    def backward(logits, dy):
        lse = logits[:, 0] - log_softmax(logits)[:, 0]
        dlse = 2 * lse * dy / len(logits)
        if bug == "lse_missing":
            dlse = jnp.full_like(lse, 2 / len(logits)) * dy
        if bug == "shifted_lse":
            dlse = 2 * (lse - logits.max(-1)) * dy / len(logits)
        return (dlse[:, None] * softmax(logits),)

    return rule(z_loss, backward)


Z = Family("z_loss", z_loss, z_loss_rule, normals(((5, 7),), ((64, 100),)))
Z_BUGS = [
    Z.bug("lse_missing", "logits", ("row_scale", "term"), "The square's factor is missing."),
    Z.bug("shifted_lse", "logits", ("row_scale", "term"), "The log-sum lacks the maximum."),
]


def focal(logits, labels):
    """The sum of -(1 - p)^2 log p over the rows, p the label's probability."""
    logp = (_one_hot(labels, logits) * log_softmax(logits)).sum(-1)
    return (-((1 - jnp.exp(logp)) ** 2) * logp).sum()


def focal_rule(bug=""):
    def backward(logits, labels, dy):
        one_hot = _one_hot(labels, logits)
        logp = (one_hot * log_softmax(logits)).sum(-1, keepdims=True)
        p = jnp.exp(logp)
        dlogp = 2 * (1 - p) * p * logp - (1 - p) ** 2
        if bug == "weight_constant":
            dlogp = -((1 - p) ** 2)
        if bug == "p_missing":
            dlogp = 2 * (1 - p) * logp - (1 - p) ** 2
        return dy * dlogp * (one_hot - softmax(logits)), None

    return rule(focal, backward)


def _focal_args(rng, size):
    return _labelled(rng, size, slice(0))


FOCAL = Family("focal", focal, focal_rule, _focal_args)
FOCAL_BUGS = [
    FOCAL.bug(
        "weight_constant", "logits", ("term:drop", "row_scale"), "The weight is not derived."
    ),
    FOCAL.bug("p_missing", "logits", ("term", "row_scale"), "d(1 - p) lacks p = dp / dlogp."),
]


def contrastive(a, b):
    """Mean cross-entropy of the rows of a b^T with their diagonals, in both directions."""
    s = a @ b.T
    return -(jnp.diag(log_softmax(s)).mean() + jnp.diag(log_softmax(s.T)).mean()) / 2


def contrastive_rule(bug=""):
    def backward(a, b, dy):
        s = a @ b.T
        n = len(s)
        eye = jnp.eye(n, dtype=s.dtype)
        if bug == "diagonal_missing":
            eye = jnp.zeros_like(eye)
        rows, columns = softmax(s) - eye, softmax(s.T).T - eye
        if bug == "one_direction":
            columns = jnp.zeros_like(columns)
        if bug == "column_not_transposed":
            columns = softmax(s.T) - eye
        ds = dy * (rows + columns) / (2 * n)
        return ds @ b, ds.T @ a

    return rule(contrastive, backward)


CONTRASTIVE = Family(
    "contrastive", contrastive, contrastive_rule, normals(((5, 7), (5, 7)), ((64, 32), (64, 32)))
)
CONTRASTIVE_BUGS = [
    CONTRASTIVE.bug(
        "diagonal_missing", "a b", ("term:drop", "along"), "The gradient lacks the positive pairs."
    ),
    CONTRASTIVE.bug("one_direction", "a b", ("term:drop",), "One direction has no gradient."),
    CONTRASTIVE.bug(
        "column_not_transposed",
        "a b",
        ("term:transpose",),
        "The columns' softmax is not transposed back.",
    ),
]

FAMILIES = [CE, Z, FOCAL, CONTRASTIVE]
BUGS = CE_BUGS + Z_BUGS + FOCAL_BUGS + CONTRASTIVE_BUGS
