"""Gated units and the newer elementwise functions: SiLU gates, ELU, mish, hard sigmoid, clip."""

import jax.numpy as jnp
from jax.nn import sigmoid

from planted._activations import WIDE, elementwise
from planted._bug import Family, normals, rule


def gated_silu(gate, up):
    """y = gate sigmoid(gate) up."""
    return gate * sigmoid(gate) * up


def gated_silu_rule(bug=""):
    def backward(gate, up, dy):
        s = sigmoid(gate)
        dgate = dy * up * (s + gate * s * (1 - s))
        dup = dy * gate * s
        if bug == "x_term_dropped":
            dgate = dy * up * s
        if bug == "gate_and_up_swapped":
            dgate, dup = dup, dgate
        if bug == "extra_sigmoid":
            dgate = dgate * s
        if bug == "up_missing":
            dgate = dy * (s + gate * s * (1 - s))
        if bug == "dup_without_gate":
            dup = dy * s
        return dgate, dup

    return rule(gated_silu, backward)


GATED = Family(
    "gated_silu", gated_silu, gated_silu_rule, normals(((5, 7), (5, 7)), ((64, 256), (64, 256)))
)
GATED_BUGS = [
    GATED.bug("x_term_dropped", "gate", ("term:drop", "slope"), "dgate lacks gate s (1 - s)."),
    GATED.bug("gate_and_up_swapped", "gate up", ("swap",), "dgate and dup are swapped."),
    GATED.bug(
        "extra_sigmoid",
        "gate",
        ("row_scale:logistic", "slope", "term", "along"),
        "It has s^2.",
    ),
    GATED.bug(
        "up_missing", "gate", ("row_scale:up", "term", "along", "input:up"), "dgate lacks up."
    ),
    GATED.bug(
        "dup_without_gate",
        "up",
        ("row_scale:gate", "term", "along", "slope"),
        "It lacks gate.",
    ),
]


def elu(x):
    """y = x above 0, 0.7 (e^x - 1) below."""
    return jnp.where(x > 0, x, 0.7 * (jnp.exp(jnp.where(x > 0, 0, x)) - 1))


def elu_slope(below):
    """1 above 0 and `below` elsewhere."""
    return lambda x: jnp.where(x > 0, 1, below(x))


ELU_SLOPES = {
    "": elu_slope(lambda x: 0.7 * jnp.exp(x)),
    "alpha_missing": elu_slope(jnp.exp),
    "output_without_alpha": elu_slope(elu),
    "alpha_for_slope": elu_slope(lambda x: 0.7),
}
ELU = Family("elu", elu, elementwise(elu, ELU_SLOPES), WIDE)
ELU_BUGS = [
    ELU.bug("alpha_missing", "x", ("mask:<", "term", "slope"), "The slope below 0 lacks alpha."),
    ELU.bug(
        "output_without_alpha",
        "x",
        ("mask:<", "term", "slope"),
        "The slope below 0 is y, not y + alpha.",
    ),
    ELU.bug("alpha_for_slope", "x", ("mask:<", "slope", "term"), "The slope below 0 is alpha."),
]


def mish(x):
    """y = x tanh(softplus(x))."""
    return x * jnp.tanh(jnp.logaddexp(x, jnp.zeros_like(x)))


def _mish_slope(x, inner=sigmoid):
    t = jnp.tanh(jnp.logaddexp(x, jnp.zeros_like(x)))
    return t + x * (1 - t**2) * inner(x)


MISH_SLOPES = {
    "": _mish_slope,
    "chain_broken": lambda x: _mish_slope(x, jnp.ones_like),
    "x_term_dropped": lambda x: jnp.tanh(jnp.logaddexp(x, jnp.zeros_like(x))),
}
MISH = Family("mish", mish, elementwise(mish, MISH_SLOPES), WIDE)
MISH_BUGS = [
    MISH.bug("chain_broken", "x", ("term", "slope"), "The slope lacks that of softplus."),
    MISH.bug("x_term_dropped", "x", ("term:drop", "slope"), "The slope lacks x (1 - t^2) s."),
]


def hard_sigmoid(x):
    """y = x / 6 + 1/2, between 0 and 1."""
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, x / 6 + 0.5))


HARD_SIGMOID_SLOPES = {
    "": lambda x: (jnp.abs(x) < 3) / 6,
    "range": lambda x: (jnp.abs(x) < 1) / 6,
    "one_sided": lambda x: (x < 3) / 6,
    "keras_slope": lambda x: (jnp.abs(x) < 3) / 5,
}
HARD_SIGMOID = Family(
    "hard_sigmoid", hard_sigmoid, elementwise(hard_sigmoid, HARD_SIGMOID_SLOPES), WIDE
)
HARD_SIGMOID_BUGS = [
    HARD_SIGMOID.bug("range", "x", ("mask", "slope"), "The slope ends at |x| = 1, not 3."),
    HARD_SIGMOID.bug("one_sided", "x", ("mask:<", "slope"), "The slope goes on below -3."),
    HARD_SIGMOID.bug("keras_slope", "x", ("factor:6/5|1.2",), "The slope is 1/5 for 1/6."),
]


def clip(x):
    """y = x between -1 and 1."""
    return jnp.where(x < -1, -1, jnp.where(x > 1, 1, x))


CLIP_SLOPES = {
    "": lambda x: (jnp.abs(x) <= 1) * 1,
    "pass_through": jnp.ones_like,
    "one_sided": lambda x: (x <= 1) * 1,
    "inside_out": lambda x: (jnp.abs(x) > 1) * 1,
}
CLIP = Family("clip", clip, elementwise(clip, CLIP_SLOPES), WIDE)
CLIP_BUGS = [
    CLIP.bug("pass_through", "x", ("mask", "slope"), "dx is dy outside the bounds too."),
    CLIP.bug("one_sided", "x", ("mask:<", "slope"), "dx is dy below the lower bound."),
    CLIP.bug("inside_out", "x", ("mask", "slope"), "dx is dy outside the bounds only."),
]


def absolute(x):
    """y = |x|."""
    return jnp.where(x < 0, -x, x)


ABSOLUTE_SLOPES = {
    "": lambda x: jnp.where(x < 0, -1, 1),
    "sign_missing": jnp.ones_like,
    "x_for_sign": lambda x: x,
}
ABSOLUTE = Family("absolute", absolute, elementwise(absolute, ABSOLUTE_SLOPES), WIDE)
ABSOLUTE_BUGS = [
    ABSOLUTE.bug("sign_missing", "x", ("mask:<", "slope"), "The slope below 0 is 1."),
    ABSOLUTE.bug("x_for_sign", "x", ("slope", "row_scale", "along"), "The slope is x, unsigned."),
]

FAMILIES = [GATED, ELU, MISH, HARD_SIGMOID, CLIP, ABSOLUTE]
BUGS = GATED_BUGS + ELU_BUGS + MISH_BUGS + HARD_SIGMOID_BUGS + CLIP_BUGS + ABSOLUTE_BUGS
