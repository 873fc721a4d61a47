"""Losses between numbers and between distributions: squares, Huber, logistic, KL, hinge."""

import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from planted._bug import Family, normal, normals, rule, sizes
from planted._softmax import log_softmax, softmax

PAIR = normals(((5, 7), (5, 7)), ((64, 128), (64, 128)))
DELTA = 0.5


def mse(y, target):
    """A row's mean square of y - target."""
    return ((y - target) ** 2).mean(1)


def mse_rule(bug=""):
    def backward(y, target, dloss):
        d = 2 * (y - target) * dloss[:, None] / y.shape[1]
        if bug == "no_factor_two":
            return d / 2, -d / 2
        if bug == "mean_over_the_wrong_axis":
            d = d * y.shape[1] / y.shape[0]
        if bug == "sign":
            return -d, d
        if bug == "dtarget_sign":
            return d, d
        if bug == "dtarget_zero":
            return d, jnp.zeros_like(d)
        if bug == "mean_over_everything":
            d = d / y.shape[0]
        return d, -d

    return rule(mse, backward)


MSE = Family("mse", mse, mse_rule, PAIR)
MSE_BUGS = [
    MSE.bug("no_factor_two", "y target", ("factor:1/2",), "The factor 2 is missing."),
    MSE.bug(
        "mean_over_the_wrong_axis",
        "y target",
        ("factor", "term"),
        "The mean divides by the rows and not by the columns.",
    ),
    MSE.bug("sign", "y target", ("sign",), "Both gradients are negated."),
    MSE.bug("dtarget_sign", "target", ("sign",), "dtarget is negated."),
    MSE.bug("dtarget_zero", "target", ("zero",), "dtarget is zero."),
    MSE.bug(
        "mean_over_everything",
        "y target",
        ("factor:1/n|1/5|1/64",),
        "The mean divides by the rows as well.",
    ),
]


def huber(y, target):
    """r^2 / 2 for |r| <= delta, delta (|r| - delta / 2) beyond; r = y - target."""
    r = y - target
    return jnp.where(jnp.abs(r) <= DELTA, r**2 / 2, DELTA * (jnp.abs(r) - DELTA / 2))


def huber_rule(bug=""):
    def backward(y, target, dloss):
        r = y - target
        delta = 1.0 if bug == "delta_one" else DELTA
        outside = jnp.sign(r) if bug == "delta_missing" else delta * jnp.sign(r)
        if bug == "outside_zero":
            outside = jnp.zeros_like(r)
        if bug == "sign_missing":
            outside = delta
        dy = dloss * jnp.where(jnp.abs(r) <= delta, r, outside)
        return dy, -dy

    return rule(huber, backward)


HUBER = Family("huber", huber, huber_rule, PAIR)
HUBER_BUGS = [
    HUBER.bug("delta_one", "y target", ("mask", "slope", "term"), "delta is taken for 1."),
    HUBER.bug(
        "delta_missing", "y target", ("mask", "slope", "term"), "Beyond delta the slope is 1."
    ),
    HUBER.bug("outside_zero", "y target", ("mask", "slope", "term"), "Beyond delta it is 0."),
    HUBER.bug(
        "sign_missing", "y target", ("mask", "slope", "term"), "Beyond -delta the sign is wrong."
    ),
]


def logistic(logits, target):
    """A weighted logistic loss: 3 target softplus(-logits) + (1 - target) softplus(logits)."""
    zero = jnp.zeros_like(logits)
    return 3 * target * jnp.logaddexp(-logits, zero) + (1 - target) * jnp.logaddexp(logits, zero)


def logistic_rule(bug=""):
    def backward(logits, target, dloss):
        p, weight = sigmoid(logits), 1 if bug == "weight_missing" else 3
        dlogits = (1 - target) * p - weight * target * (1 - p)
        if bug == "sigmoid_derivative_kept":
            dlogits = dlogits * p * (1 - p)
        zero = jnp.zeros_like(logits)
        dtarget = 3 * jnp.logaddexp(-logits, zero) - jnp.logaddexp(logits, zero)
        return dloss * dlogits, dloss * dtarget

    return rule(logistic, backward)


def _soft_targets(rng, size):
    shape = sizes(size, (5, 7), (64, 128))
    return normal(rng, *shape), rng.random(shape, np.float32)


LOGISTIC = Family("logistic", logistic, logistic_rule, _soft_targets)
LOGISTIC_BUGS = [
    LOGISTIC.bug("weight_missing", "logits", ("term",), "The weight of positives is missing."),
    LOGISTIC.bug(
        "sigmoid_derivative_kept",
        "logits",
        ("term", "slope", "along", "row_scale"),
        "dlogits keeps the factor p (1 - p) that cancels.",
    ),
]


def kl(a, b):
    """KL(softmax a || softmax b), a row at a time."""
    return (softmax(a) * (log_softmax(a) - log_softmax(b))).sum(1)


def kl_rule(bug=""):
    def backward(a, b, dy):
        if bug == "direction":
            a, b = b, a
        p, q = softmax(a), softmax(b)
        ratio = log_softmax(a) - log_softmax(b)
        da = p * (ratio - (p * ratio).sum(1, keepdims=True))
        db = q - p
        if bug == "da_detached":
            da = jnp.zeros_like(da)
        if bug == "mean_ratio_dropped":
            da = p * ratio
        if bug == "direction":
            da, db = db, da
        return dy[:, None] * da, dy[:, None] * db

    return rule(kl, backward)


KL = Family("kl", kl, kl_rule, PAIR)
KL_BUGS = [
    KL.bug("direction", "a b", ("input:swap", "swap", "term"), "It is the gradient of KL(b || a)."),
    KL.bug("da_detached", "a", ("zero",), "a is taken for a constant."),
    KL.bug("mean_ratio_dropped", "a", ("along", "term:drop"), "da lacks the mean of the ratio."),
]


def hinge(score, label):
    """max(0, 1 - label score)."""
    return jnp.where(label * score < 1, 1 - label * score, 0)


def hinge_rule(bug=""):
    def backward(score, label, dloss):
        margin = 0 if bug == "margin_zero" else 1
        slope = jnp.where(label * score < margin, dloss, 0)
        dscore = -slope if bug == "label_missing" else -slope * label
        return dscore, -slope * score

    return rule(hinge, backward)


def _signs(rng, size):
    shape = sizes(size, (5, 7), (64, 128))
    return normal(rng, *shape), rng.choice(np.float32([-1, 1]), shape)


HINGE = Family("hinge", hinge, hinge_rule, _signs)
HINGE_BUGS = [
    HINGE.bug("margin_zero", "score label", ("mask", "term", "subset"), "The margin is 0, not 1."),
    HINGE.bug("label_missing", "score", ("mask", "term", "along"), "dscore lacks the label."),
]

FAMILIES = [MSE, HUBER, LOGISTIC, KL, HINGE]
BUGS = MSE_BUGS + HUBER_BUGS + LOGISTIC_BUGS + KL_BUGS + HINGE_BUGS
