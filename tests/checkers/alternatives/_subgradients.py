"""Other subgradients: at a kink or a tie, another element of the subdifferential."""

import jax
import jax.numpy as jnp
from jax import lax

from alternatives._rule import D, F, Rule, family, normal, ruled, tied, touching, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")


def elementwise(primal, slope):
    """`slope(x)` is the derivative."""
    return ruled(primal, lambda x: (primal(x), x), lambda x, dy: (dy * slope(x).astype(dy.dtype),))


@rule("relu: 1/2 at 0", touching((0.0, -0.0), F, D))
def relu_half():
    return elementwise(lambda x: jnp.maximum(x, 0), lambda x: jnp.heaviside(x, 0.5))


@rule("relu: 1 at 0", touching((0.0, -0.0), F, D))
def relu_one():
    return elementwise(lambda x: jnp.maximum(x, 0), lambda x: x >= 0)


@rule("relu: 0 at 0, from y", touching((0.0, -0.0), F, D))
def relu_from_y():
    def fwd(x):
        y = jnp.maximum(x, 0)
        return y, y

    return ruled(lambda x: jnp.maximum(x, 0), fwd, lambda y, dy: (jnp.where(y > 0, dy, 0),))


@rule("abs: 1 at 0", touching((0.0, -0.0), F, D))
def abs_one():
    return elementwise(lambda x: jnp.abs(x), lambda x: jnp.where(x >= 0, 1, -1))


@rule("abs: 0 at 0, by where", touching((0.0, -0.0), F, D))
def abs_zero():
    return elementwise(lambda x: jnp.where(x > 0, x, -x), lambda x: 1.0 * (x > 0) - 1.0 * (x < 0))


@rule("leaky relu: the mean slope at 0", touching((0.0,), F, D))
def leaky_relu():
    def slope(x):
        return jnp.where(x > 0, 1.0, jnp.where(x < 0, 0.01, 0.505))

    return elementwise(lambda x: jnp.where(x > 0, x, 0.01 * x), slope)


@rule("relu6: 1/2 at both kinks", touching((0.0, 6.0), F, D, scale=4))
def relu6_half():
    def slope(x):
        return jnp.heaviside(x, 0.5) + jnp.heaviside(6 - x, 0.5) - 1

    return elementwise(lambda x: jnp.clip(x, 0, 6), slope)


@rule("clip: the boundary inside", touching((-1.0, 1.0), F, D))
def clip_inside():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: (x >= -1) & (x <= 1))


@rule("clip: the boundary outside", touching((-1.0, 1.0), F, D))
def clip_outside():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: jnp.abs(x) < 1)


@rule("hinge: 1/2 at 1", touching((1.0,), F, D))
def hinge_half():
    return elementwise(lambda x: jnp.maximum(0, 1 - x), lambda x: -jnp.heaviside(1 - x, 0.5))


@rule("hard tanh: one end in, one end out", touching((-1.0, 1.0), F, D))
def hard_tanh():
    return elementwise(lambda x: jnp.clip(x, -1, 1), lambda x: (x > -1) & (x <= 1))


@rule("huber: clip(x)", touching((-1.0, 1.0), F, D, scale=1.5))
def huber():
    def loss(x):
        a = jnp.abs(x)
        return jnp.where(a <= 1, 0.5 * x * x, a - 0.5)

    return elementwise(loss, lambda x: jnp.clip(x, -1, 1))


@rule("l1 norm: sign, 0 at 0", touching((0.0,), F, D))
def l1_norm():
    def norm(x):
        return jnp.sum(jnp.abs(wide(x)), -1).astype(x.dtype)

    return ruled(norm, lambda x: (norm(x), x), lambda x, dy: (dy[:, None] * jnp.sign(x),))


def zero_row(*axes):
    """Normal, the first row all zero."""

    def leaf(rng, size):
        x = normal(*axes)(rng, size)
        x[0] = 0
        return x

    return leaf


@rule("safe norm: 0 at a zero row, by where", zero_row(F, D))
def safe_norm():
    def norm(x):
        square = jnp.sum(wide(x) ** 2, -1)
        safe = jnp.where(square > 0, square, 1)
        return jnp.where(square > 0, jnp.sqrt(safe), 0).astype(x.dtype)

    def bwd(x, dy):
        n = jnp.linalg.norm(wide(x), axis=-1)
        scale = jnp.where(n > 0, wide(dy) / jnp.where(n > 0, n, 1), 0)
        return ((scale[:, None] * wide(x)).astype(x.dtype),)

    return ruled(norm, lambda x: (norm(x), x), bwd)


@rule("safe norm: 0 at a zero row, by a floor", zero_row(F, D))
def floored_norm():
    floor = 1e-24

    def norm(x):
        return jnp.sqrt(jnp.maximum(jnp.sum(wide(x) ** 2, -1), floor)).astype(x.dtype)

    def bwd(x, dy):
        square = jnp.sum(wide(x) ** 2, -1)
        slope = jnp.where(square > floor, lax.rsqrt(jnp.maximum(square, floor)), 0)
        return (((wide(dy) * slope)[:, None] * wide(x)).astype(x.dtype),)

    return ruled(norm, lambda x: (norm(x), x), bwd)


def maximum_of_rows(share):
    """`share(is_max)` says who gets the gradient of a row's maximum."""

    def bwd(x, dy):
        is_max = x == jnp.max(x, -1, keepdims=True)
        return ((dy[:, None] * share(is_max)).astype(x.dtype),)

    return ruled(lambda x: jnp.max(x, -1), lambda x: (jnp.max(x, -1), x), bwd)


@rule("max: ties to the first", tied(F, D))
def max_first():
    return maximum_of_rows(lambda m: m & (jnp.cumsum(m, -1) == 1))


@rule("max: ties to the last", tied(F, D))
def max_last():
    return maximum_of_rows(lambda m: m & (jnp.cumsum(m[:, ::-1], -1)[:, ::-1] == 1))


@rule("max: ties split evenly", tied(F, D))
def max_even():
    return maximum_of_rows(lambda m: m / jnp.sum(m, -1, keepdims=True))


@rule("maximum of two: ties to the first", tied(F, D), tied(F, D))
def maximum_first():
    def bwd(mask, dy):
        return jnp.where(mask, dy, 0), jnp.where(mask, 0, dy)

    return ruled(lambda x, z: jnp.maximum(x, z), lambda x, z: (jnp.maximum(x, z), x >= z), bwd)


@rule("minimum of two: ties to the second", tied(F, D), tied(F, D))
def minimum_second():
    def bwd(mask, dy):
        return jnp.where(mask, dy, 0), jnp.where(mask, 0, dy)

    return ruled(lambda x, z: jnp.minimum(x, z), lambda x, z: (jnp.minimum(x, z), x < z), bwd)


@rule("max pool: windows by argmax", tied(F, 12))
def max_pool():
    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3), (1, 3), "VALID")

    def bwd(x, dy):
        windows = x.reshape(x.shape[0], -1, 3)
        first = jax.nn.one_hot(jnp.argmax(windows, -1), 3, dtype=x.dtype)
        return ((dy[..., None] * first).reshape(x.shape),)

    return ruled(pool, lambda x: (pool(x), x), bwd)


@rule("sort: gradient by the inverse order", tied(F, D))
def sort():
    def fwd(x):
        order = jnp.argsort(x, -1)
        return jnp.take_along_axis(x, order, -1), order

    def bwd(order, dy):
        return (jnp.take_along_axis(dy, jnp.argsort(order, -1), -1),)

    return ruled(lambda x: jnp.sort(x, -1), fwd, bwd)
