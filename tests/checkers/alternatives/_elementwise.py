"""Elementwise functions whose derivative is written in another form than autodiff's."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erf, erfc

from alternatives._rule import D, F, Rule, family, normal, ruled, uniform, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")


@rule("sigmoid: y (1 - y)", normal(F, D, scale=2))
def sigmoid_from_y():
    def fwd(x):
        y = jax.nn.sigmoid(x)
        return y, y

    return ruled(jax.nn.sigmoid, fwd, lambda y, dy: (dy * y * (1 - y),))


@rule("sigmoid: sigmoid(x) sigmoid(-x)", normal(F, D, scale=4))
def sigmoid_from_both_tails():
    sigmoid = jax.nn.sigmoid
    return ruled(
        lambda x: sigmoid(x),
        lambda x: (sigmoid(x), x),
        lambda x, dy: (dy * sigmoid(x) * sigmoid(-x),),
    )


@rule("tanh: 1 / cosh(x)^2", normal(F, D))
def tanh_from_cosh():
    def bwd(x, dy):
        return ((wide(dy) / jnp.cosh(wide(x)) ** 2).astype(x.dtype),)

    return ruled(lambda x: jnp.tanh(x), lambda x: (jnp.tanh(x), x), bwd)


@rule("tanh: 4 sigmoid(2x) sigmoid(-2x)", normal(F, D))
def tanh_from_sigmoid():
    def bwd(x, dy):
        return (4 * dy * jax.nn.sigmoid(2 * x) * jax.nn.sigmoid(-2 * x),)

    return ruled(lambda x: jnp.tanh(x), lambda x: (jnp.tanh(x), x), bwd)


@rule("gelu: by erfc", normal(F, D, scale=2))
def gelu_by_erfc():
    def gelu(x):
        return (0.5 * wide(x) * erfc(-wide(x) / np.sqrt(2))).astype(x.dtype)

    def bwd(x, dy):
        z = wide(x)
        cdf = 0.5 * erfc(-z / np.sqrt(2))
        pdf = jnp.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        return ((wide(dy) * (cdf + z * pdf)).astype(x.dtype),)

    return ruled(gelu, lambda x: (gelu(x), x), bwd)


@rule("gelu: primal by erf, backward by erfc", normal(F, D, scale=2))
def gelu_by_erf():
    def gelu(x):
        z = wide(x)
        return (0.5 * z * (1 + erf(z / np.sqrt(2)))).astype(x.dtype)

    def bwd(x, dy):
        z = wide(x)
        pdf = jnp.exp(-0.5 * z**2) * (1 / np.sqrt(2 * np.pi))
        return ((wide(dy) * (0.5 * erfc(-z / np.sqrt(2)) + z * pdf)).astype(x.dtype),)

    return ruled(gelu, lambda x: (gelu(x), x), bwd)


@rule("gelu of tanh: closed derivative", normal(F, D, scale=2))
def gelu_by_tanh():
    c = np.sqrt(2 / np.pi)

    def inner(z):
        return jnp.tanh(c * (z + 0.044715 * z**3))

    def gelu(x):
        z = wide(x)
        return (0.5 * z * (1 + inner(z))).astype(x.dtype)

    def bwd(x, dy):
        z = wide(x)
        t = inner(z)
        slope = 0.5 * (1 + t) + 0.5 * z * (1 - t) * (1 + t) * c * (1 + 3 * 0.044715 * z * z)
        return ((wide(dy) * slope).astype(x.dtype),)

    return ruled(gelu, lambda x: (gelu(x), x), bwd)


@rule("silu: y + s (1 - y)", normal(F, D, scale=2))
def silu_from_y():
    def silu(x):
        return (wide(x) * jax.nn.sigmoid(wide(x))).astype(x.dtype)

    def bwd(x, dy):
        s = jax.nn.sigmoid(wide(x))
        y = wide(x) * s
        return ((wide(dy) * (y + s * (1 - y))).astype(x.dtype),)

    return ruled(silu, lambda x: (silu(x), x), bwd)


@rule("softplus: exp(x - y)", normal(F, D, scale=3))
def softplus_from_y():
    def softplus(x):
        return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))

    def bwd(x, dy):
        # y again, and wide: the difference of two rounded numbers stands in the exponent.
        return ((wide(dy) * jnp.exp(wide(x) - softplus(wide(x)))).astype(x.dtype),)

    return ruled(softplus, lambda x: (softplus(x), x), bwd)


@rule("exp: dy y", normal(F, D))
def exp_from_y():
    def fwd(x):
        y = jnp.exp(x)
        return y, y

    return ruled(lambda x: jnp.exp(x), fwd, lambda y, dy: (dy * y,))


@rule("sqrt: dy / 2y", uniform(0.2, 4, F, D))
def sqrt_from_y():
    def fwd(x):
        y = jnp.sqrt(x)
        return y, y

    return ruled(lambda x: jnp.sqrt(x), fwd, lambda y, dy: (dy / (2 * y),))


@rule("rsqrt: -y^3 / 2", uniform(0.2, 4, F, D))
def rsqrt_from_y():
    def fwd(x):
        y = lax.rsqrt(x)
        return y, y

    return ruled(lambda x: lax.rsqrt(x), fwd, lambda y, dy: (-0.5 * dy * y * y * y,))


@rule("reciprocal: -y^2", uniform(0.3, 3, F, D))
def reciprocal_from_y():
    def fwd(x):
        y = 1 / x
        return y, y

    return ruled(lambda x: 1 / x, fwd, lambda y, dy: (-dy * y**2,))


@rule("cube: x x x", normal(F, D))
def cube():
    return ruled(lambda x: x**3, lambda x: (x * x * x, x), lambda x, dy: (3 * (dy * x) * x,))


@rule("power: through log", uniform(0.3, 3, F, D), uniform(-2, 2, F, D))
def power():
    def pow_(x, p):
        return (wide(x) ** wide(p)).astype(x.dtype)

    def bwd(res, dy):
        x, p = map(wide, res)
        y = jnp.exp(p * jnp.log(x))
        return (dy * p * y / x).astype(dy.dtype), (dy * y * jnp.log(x)).astype(dy.dtype)

    return ruled(pow_, lambda x, p: (pow_(x, p), (x, p)), bwd)


@rule("hypot: x / y", uniform(0.5, 2, F, D), uniform(-2, -0.5, F, D))
def hypot():
    def norm(x, z):
        return jnp.sqrt(x * x + z * z)

    def fwd(x, z):
        return jnp.hypot(x, z), (x, z)

    def bwd(res, dy):
        x, z = map(wide, res)
        y = norm(x, z)
        return (dy * x / y).astype(dy.dtype), (dy * z / y).astype(dy.dtype)

    return ruled(norm, fwd, bwd)


@rule("gated silu: gate and up", normal(F, D), normal(F, D))
def gated_silu():
    def gated(gate, up):
        g = wide(gate)
        return (g * jax.nn.sigmoid(g) * wide(up)).astype(gate.dtype)

    def bwd(res, dy):
        gate, up = map(wide, res)
        s, dy32 = jax.nn.sigmoid(gate), wide(dy)
        dgate = dy32 * up * s * (1 + gate * jax.nn.sigmoid(-gate))
        return dgate.astype(dy.dtype), (dy32 * gate * s).astype(dy.dtype)

    return ruled(gated, lambda gate, up: (gated(gate, up), (gate, up)), bwd)


@rule("broadcast product: sums to each shape", normal(F, 1), normal(1, D))
def broadcast_product():
    def bwd(res, dy):
        a, b = res
        da = jnp.einsum("fd,od->fo", dy, b)
        db = jnp.einsum("fd,fo->od", dy, a)
        return da, db

    return ruled(lambda a, b: a * b, lambda a, b: (a * b, (a, b)), bwd)
