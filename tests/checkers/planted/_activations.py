"""Elementwise functions with a custom backward: the GELU, ReLU and sigmoid families.

Every rule is `dx = dy * slope(x)`; a bug is another slope.
"""

import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jax.scipy.special import erf

from planted._bug import Family, normal, normals, rule, sizes

WIDE = normals(((5, 7),), ((64, 256),), 2.0)


def elementwise(f, slopes):
    """The builder of f's rules from its table of slopes; the right one has the name ""."""

    def build(bug=""):
        return rule(f, lambda x, dy: (dy * slopes[bug](x),))

    return build


def _with(*values):
    """Normal input that holds each of these values as well."""

    def args(rng, size):
        x = normal(rng, *sizes(size, (5, 7), (64, 256)), scale=2.0)
        x[1, : len(values)] = np.float32(values)
        return (x,)

    return args


def _pdf(x):
    return jnp.exp(-(x**2) / 2) / np.sqrt(2 * np.pi).item()


def _cdf(x):
    return (1 + erf(x / np.sqrt(2).item())) / 2


def _tanh_gelu_slope(x):
    c = np.sqrt(2 / np.pi).item()
    t = jnp.tanh(c * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2)


def _sigmoid_gelu_slope(x):
    s = sigmoid(1.702 * x)
    return s + 1.702 * x * s * (1 - s)


def gelu(x):
    """y = x Phi(x), with erf."""
    return x * (1 + erf(x / np.sqrt(2).item())) / 2


GELU_SLOPES = {
    "": lambda x: _cdf(x) + x * _pdf(x),
    "tanh_derivative": _tanh_gelu_slope,
    "sigmoid_1702": _sigmoid_gelu_slope,
    "no_pdf_term": _cdf,
    "pdf_unnormalised": lambda x: _cdf(x) + x * jnp.exp(-(x**2) / 2),
    "pdf_variance": lambda x: _cdf(x) + x * jnp.exp(-(x**2)) / np.sqrt(2 * np.pi).item(),
    "tail_cut": lambda x: jnp.where(jnp.abs(x) > 3, (x > 0) + 0 * x, _cdf(x) + x * _pdf(x)),
}
GELU = Family("gelu", gelu, elementwise(gelu, GELU_SLOPES), WIDE)
GELU_BUGS = [
    GELU.bug("tanh_derivative", "x", ("slope:tanh",), "The slope is that of the tanh form."),
    GELU.bug("sigmoid_1702", "x", ("slope:1.702|sigmoid",), "The slope is of x sigmoid(1.702 x)."),
    GELU.bug("no_pdf_term", "x", ("slope:Phi|cdf", "term:drop"), "The slope lacks x pdf(x)."),
    GELU.bug("pdf_unnormalised", "x", ("slope", "term"), "The pdf lacks 1 / sqrt(2 pi)."),
    GELU.bug("pdf_variance", "x", ("slope", "term"), "The pdf has x^2 for x^2 / 2."),
    GELU.bug(
        "tail_cut",
        "x",
        ("mask:>",),
        "Beyond |x| = 3 the slope is taken for 0 or 1.",
    ),
]


def relu(x):
    """y = max(x, 0)."""
    return jnp.where(x > 0, x, 0)


RELU_SLOPES = {
    "": lambda x: (x > 0).astype(x.dtype),
    "one_at_zero": lambda x: (x >= 0).astype(x.dtype),
    "leak_1e-3": lambda x: jnp.where(x > 0, 1, 1e-3).astype(x.dtype),
    "output_not_negative": lambda x: (relu(x) >= 0).astype(x.dtype),
    "mask_inverted": lambda x: (x < 0).astype(x.dtype),
    "two_at_zero": lambda x: jnp.where(x > 0, 1, jnp.where(x == 0, 2, 0)).astype(x.dtype),
    "capped_at_20": lambda x: ((x > 0) & (x < 20)).astype(x.dtype),
}
RELU = Family("relu", relu, elementwise(relu, RELU_SLOPES), WIDE)
RELU_BUGS = [
    RELU.bug(
        "one_at_zero",
        "x",
        ("mask:0",),
        "The slope at 0 is 1: a subgradient, by another convention.",
        "CONVENTION",
        at=_with(0.0, 0.0),
    ),
    RELU.bug("leak_1e-3", "x", ("mask:< ?=? ?0", "slope"), "The slope below 0 is 1e-3."),
    RELU.bug(
        "output_not_negative",
        "x",
        ("mask:< ?=? ?0", "slope"),
        "The mask is y >= 0, which holds everywhere.",
    ),
    RELU.bug(
        "mask_inverted", "x", ("term:negate gt", "mask", "slope"), "The gradient passes below 0."
    ),
    RELU.bug("two_at_zero", "x", ("mask:0",), "The slope at 0 is 2.", at=_with(0.0, 0.0)),
    RELU.bug(
        "capped_at_20",
        "x",
        ("mask:>", "slope"),
        "The slope above 20 is 0: a clip was left in.",
        at=_with(21.0, 30.0),
    ),
]


def squared_relu(x):
    """y = max(x, 0)^2."""
    return jnp.where(x > 0, x, 0) ** 2


SQUARED_RELU = Family(
    "squared_relu",
    squared_relu,
    elementwise(squared_relu, {"": lambda x: 2 * relu(x), "two_missing": relu}),
    WIDE,
)
SQUARED_RELU_BUGS = [SQUARED_RELU.bug("two_missing", "x", ("factor:1/2",), "dx is halved.")]


def softplus(x):
    """y = log(1 + e^(2 x)) / 2."""
    return jnp.logaddexp(2 * x, jnp.zeros_like(x)) / 2


SOFTPLUS_SLOPES = {
    "": lambda x: sigmoid(2 * x),
    "beta_forgotten": sigmoid,
    "beta_twice": lambda x: 2 * sigmoid(2 * x),
    "overflow": lambda x: jnp.exp(2 * x) / (1 + jnp.exp(2 * x)),
    "linear_above_20": lambda x: jnp.where(jnp.abs(2 * x) > 20, 1.0, sigmoid(2 * x)),
}
SOFTPLUS = Family("softplus", softplus, elementwise(softplus, SOFTPLUS_SLOPES), WIDE)
SOFTPLUS_BUGS = [
    SOFTPLUS.bug("beta_forgotten", "x", ("slope", "term", "input"), "sigmoid(x), not of 2 x."),
    SOFTPLUS.bug("beta_twice", "x", ("factor:2",), "dx is doubled by a second beta."),
    SOFTPLUS.bug(
        "overflow",
        "x",
        ("nonfinite",),
        "dx is inf / inf for large x.",
        "RANGE",
        "WRONG",
        at=_with(500.0, 400.0),
    ),
    SOFTPLUS.bug(
        "linear_above_20",
        "x",
        ("mask",),
        "The slope is 1 for |2 x| > 20, where it should be 0 below -20.",
        at=_with(-30.0, -12.0),
    ),
]


def tanh(x):
    """y = tanh x."""
    return jnp.tanh(x)


def _tanh_rational_slope(x):
    return 1 / (1 + x**2)


TANH_SLOPES = {
    "": lambda x: 1 - jnp.tanh(x) ** 2,
    "of_the_output": lambda x: 1 - jnp.tanh(jnp.tanh(x)) ** 2,
    "square_missing": lambda x: 1 - jnp.tanh(x),
    "of_the_input": lambda x: 1 - x**2,
    "arctan_slope": _tanh_rational_slope,
}
TANH = Family("tanh", tanh, elementwise(tanh, TANH_SLOPES), WIDE)
TANH_BUGS = [
    TANH.bug("of_the_output", "x", ("input", "slope", "term"), "tanh is applied twice."),
    TANH.bug("square_missing", "x", ("slope", "term"), "The slope is 1 - y."),
    TANH.bug("of_the_input", "x", ("slope", "term", "input"), "The slope is 1 - x^2."),
    TANH.bug("arctan_slope", "x", ("slope",), "The slope is that of arctan."),
]

FAMILIES = [GELU, RELU, SQUARED_RELU, SOFTPLUS, TANH]
BUGS = GELU_BUGS + RELU_BUGS + SQUARED_RELU_BUGS + SOFTPLUS_BUGS + TANH_BUGS
