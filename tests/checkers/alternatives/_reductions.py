"""Sums, softmaxes and norms: other formulas, tiles with odd tails, float32 accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alternatives._rule import D, F, Rule, V, family, normal, ruled, touching, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")

EPS = 1e-5


def mean(x):
    return jnp.mean(x, -1, keepdims=True)


@rule("variance: E[x^2] - E[x]^2", normal(F, D, shift=0.5))
def variance_of_squares():
    def variance(x):
        x = wide(x)
        return jnp.mean(x * x, -1) - jnp.mean(x, -1) ** 2

    def bwd(x, dy):
        z, n = wide(x), x.shape[-1]
        return ((2 / n * dy[:, None] * (z - mean(z))).astype(x.dtype),)

    return ruled(variance, lambda x: (variance(x), x), bwd)


@rule("variance: the mean as a constant, whose term is zero", normal(F, D))
def variance_centred():
    def variance(x):
        return jnp.var(wide(x), axis=-1, ddof=1)

    def bwd(x, dy):
        z, n = wide(x), x.shape[-1]
        return ((dy[:, None] * 2 * (z - mean(z)) / (n - 1)).astype(x.dtype),)

    return ruled(variance, lambda x: (variance(x), x), bwd)


def softmax(x):
    return jax.nn.softmax(wide(x), axis=-1)


@rule("softmax: from y", normal(F, V, scale=2))
def softmax_from_y():
    def fwd(x):
        y = softmax(x)
        return y.astype(x.dtype), (y, jnp.zeros((), x.dtype))

    def bwd(res, dy):
        y, like = res
        dy = wide(dy)
        return ((y * (dy - jnp.sum(dy * y, -1, keepdims=True))).astype(like.dtype),)

    return ruled(lambda x: softmax(x).astype(x.dtype), fwd, bwd)


@rule("softmax: from the logits again", normal(F, V, scale=2))
def softmax_again():
    def bwd(x, dy):
        z = wide(x)
        y = jnp.exp(z - jax.nn.logsumexp(z, axis=-1, keepdims=True))
        ydy = y * wide(dy)
        return ((ydy - y * jnp.sum(ydy, -1, keepdims=True)).astype(x.dtype),)

    f = ruled(lambda x: softmax(x).astype(x.dtype), lambda x: (softmax(x).astype(x.dtype), x), bwd)
    return f


@rule("log softmax: dy - softmax sum(dy)", normal(F, V, scale=2))
def log_softmax():
    def primal(x):
        return jax.nn.log_softmax(wide(x), axis=-1).astype(x.dtype)

    def bwd(x, dy):
        dy32 = wide(dy)
        return ((dy32 - softmax(x) * jnp.sum(dy32, -1, keepdims=True)).astype(x.dtype),)

    return ruled(primal, lambda x: (primal(x), x), bwd)


@rule("logsumexp: exp(x - y)", normal(F, V, scale=3))
def logsumexp():
    def fwd(x):
        y = jax.nn.logsumexp(wide(x), axis=-1)
        return y, (x, y)

    def bwd(res, dy):
        x, y = res
        return ((dy[:, None] * jnp.exp(wide(x) - y[:, None])).astype(x.dtype),)

    return ruled(lambda x: jax.nn.logsumexp(wide(x), axis=-1), fwd, bwd)


@rule("logsumexp: -inf where masked", touching((-np.inf,), F, V))
def logsumexp_masked():
    def primal(x):
        # A row of -inf alone: its sum is -inf and its gradient is zero.
        top = lax.stop_gradient(jnp.max(x, -1, keepdims=True))
        top = jnp.where(jnp.isfinite(top), top, 0)
        return jnp.log(jnp.sum(jnp.exp(wide(x - top)), -1)) + wide(top[:, 0])

    def bwd(res, dy):
        x, y = res
        p = jnp.where(x == -jnp.inf, 0, jnp.exp(wide(x) - y[:, None]))
        return ((dy[:, None] * p).astype(x.dtype),)

    def fwd(x):
        y = primal(x)
        return y, (x, y)

    return ruled(primal, fwd, bwd)


@rule("logsumexp: online, in tiles with an odd tail", normal(F, V, scale=2))
def logsumexp_online():
    tile = 4

    def primal(x):
        x = wide(x)
        n = x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, -n % tile)), constant_values=-jnp.inf)
        tiles = jnp.moveaxis(x.reshape(x.shape[0], -1, tile), 1, 0)

        def step(carry, part):
            top, total = carry
            new = lax.stop_gradient(jnp.maximum(top, jnp.max(part, -1)))
            total = total * jnp.exp(top - new) + jnp.sum(jnp.exp(part - new[:, None]), -1)
            return (new, total), None

        start = (jnp.full(x.shape[0], -1e30, x.dtype), jnp.zeros(x.shape[0], x.dtype))
        (top, total), _ = lax.scan(step, start, tiles)
        return top + jnp.log(total)

    def fwd(x):
        y = primal(x)
        return y, (x, y)

    def bwd(res, dy):
        x, y = res
        return ((dy[:, None] * jnp.exp(wide(x) - y[:, None])).astype(x.dtype),)

    reference = ruled(primal, fwd, bwd)
    return reference


def standardized(x):
    z = wide(x)
    mu = mean(z)
    rstd = lax.rsqrt(mean((z - mu) ** 2) + EPS)
    return (z - mu) * rstd, rstd


def layer_norm(x, g, b):
    return (standardized(x)[0] * wide(g) + wide(b)).astype(x.dtype)


@rule("layer norm: one bracket", normal(F, D), normal(D, shift=1), normal(D))
def layer_norm_bracket():
    def bwd(res, dy):
        x, g, b = res
        x_hat, rstd = standardized(x)
        dy = wide(dy)
        dx_hat = dy * wide(g)
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))
        dg, db = jnp.sum(dy * x_hat, 0), jnp.sum(dy, 0)
        return dx.astype(x.dtype), dg.astype(g.dtype), db.astype(b.dtype)

    return ruled(layer_norm, lambda x, g, b: (layer_norm(x, g, b), (x, g, b)), bwd)


@rule("layer norm: through mean and variance", normal(F, D), normal(D, shift=1), normal(D))
def layer_norm_chain():
    def bwd(res, dy):
        x, g, b = res
        z, n = wide(x), x.shape[-1]
        x_hat, rstd = standardized(x)
        dx_hat = wide(dy) * wide(g)
        centred = z - mean(z)
        dvar = -0.5 * rstd**3 * jnp.sum(dx_hat * centred, -1, keepdims=True)
        dmu = -rstd * jnp.sum(dx_hat, -1, keepdims=True) - 2 * dvar * mean(centred)
        dx = dx_hat * rstd + dvar * 2 * centred / n + dmu / n
        dg = jnp.einsum("nd,nd->d", wide(dy), x_hat)
        db = jnp.ones(x.shape[0]) @ wide(dy)
        return dx.astype(x.dtype), dg.astype(g.dtype), db.astype(b.dtype)

    return ruled(layer_norm, lambda x, g, b: (layer_norm(x, g, b), (x, g, b)), bwd)


def rms_norm(x, g):
    z = wide(x)
    return (z * lax.rsqrt(mean(z * z) + EPS) * wide(g)).astype(x.dtype)


@rule("rms norm: rstd kept", normal(F, D), normal(D, shift=1))
def rms_norm_kept():
    def fwd(x, g):
        rstd = lax.rsqrt(mean(wide(x) ** 2) + EPS)
        return rms_norm(x, g), (x, g, rstd)

    def bwd(res, dy):
        x, g, rstd = res
        x_hat, dy = wide(x) * rstd, wide(dy)
        dgx = dy * wide(g)
        dx = rstd * (dgx - x_hat * mean(dgx * x_hat))
        return dx.astype(x.dtype), jnp.sum(dy * x_hat, 0).astype(g.dtype)

    return ruled(rms_norm, fwd, bwd)


@rule("rms norm: rstd^3, in tiles of rows with an odd tail", normal(F, D), normal(D, shift=1))
def rms_norm_tiled():
    rows = 2

    def bwd(res, dy):
        x, g = res
        n, d = x.shape
        pad = ((0, -n % rows), (0, 0))
        xs = jnp.pad(wide(x), pad).reshape(-1, rows, d)
        dys = jnp.pad(wide(dy), pad).reshape(-1, rows, d)

        def step(dg, tile):
            z, dz = tile
            rstd = lax.rsqrt(mean(z * z) + EPS)
            dgz = dz * wide(g)
            dx = rstd * dgz - rstd**3 * z * jnp.sum(dgz * z, -1, keepdims=True) / d
            return dg + jnp.sum(dz * z * rstd, 0), dx

        dg, dx = lax.scan(step, jnp.zeros(d, xs.dtype), (xs, dys))
        return dx.reshape(-1, d)[:n].astype(x.dtype), dg.astype(g.dtype)

    return ruled(rms_norm, lambda x, g: (rms_norm(x, g), (x, g)), bwd)


@rule("batch norm: statistics over the rows", normal(F, D), normal(D, shift=1), normal(D))
def batch_norm():
    def parts(x):
        z = wide(x)
        centred = z - jnp.mean(z, 0)
        rstd = lax.rsqrt(jnp.mean(centred**2, 0) + EPS)
        return centred * rstd, rstd

    def primal(x, g, b):
        return (parts(x)[0] * wide(g) + wide(b)).astype(x.dtype)

    def bwd(res, dy):
        x, g, b = res
        (x_hat, rstd), dy, n = parts(x), wide(dy), x.shape[0]
        dg, db = jnp.sum(dy * x_hat, 0), jnp.sum(dy, 0)
        dx = wide(g) * rstd / n * (n * dy - db - x_hat * dg)
        return dx.astype(x.dtype), dg.astype(g.dtype), db.astype(b.dtype)

    return ruled(primal, lambda x, g, b: (primal(x, g, b), (x, g, b)), bwd)


@rule("unit rows: the projection", normal(F, D))
def unit_rows():
    def unit(x):
        z = wide(x)
        return z * lax.rsqrt(jnp.sum(z * z, -1, keepdims=True) + 1e-6)

    def bwd(x, dy):
        y, dy = unit(x), wide(dy)
        scale = lax.rsqrt(jnp.sum(wide(x) ** 2, -1, keepdims=True) + 1e-6)
        return ((scale * (dy - y * jnp.sum(y * dy, -1, keepdims=True))).astype(x.dtype),)

    return ruled(lambda x: unit(x).astype(x.dtype), lambda x: (unit(x).astype(x.dtype), x), bwd)


@rule("cosine similarity: both sides", normal(F, D), normal(F, D))
def cosine():
    def primal(x, z):
        x, z = wide(x), wide(z)
        return jnp.sum(x * z, -1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(z, axis=-1))

    def bwd(res, dy):
        x, z = map(wide, res)
        rx, rz = (lax.rsqrt(jnp.sum(a * a, -1, keepdims=True)) for a in (x, z))
        ux, uz = x * rx, z * rz
        c, dy = jnp.sum(ux * uz, -1, keepdims=True), dy[:, None]
        dx, dz = dy * rx * (uz - c * ux), dy * rz * (ux - c * uz)
        return dx.astype(res[0].dtype), dz.astype(res[1].dtype)

    return ruled(primal, lambda x, z: (primal(x, z), (x, z)), bwd)


@rule("sum of squares: by a tree of halves", normal(D))
def tree_sum():
    def primal(x):
        z = wide(x) ** 2
        while z.shape[0] > 1:
            half = z.shape[0] // 2
            z = jnp.concatenate([z[:half] + z[half : 2 * half], z[2 * half :]])
        return z[0]

    return ruled(
        primal, lambda x: (primal(x), x), lambda x, dy: ((2 * dy * wide(x)).astype(x.dtype),)
    )


@rule("cumulative sum: flipped twice", normal(F, D))
def cumulative_sum():
    def bwd(_, dy):
        z = wide(dy)
        dx = jnp.flip(jnp.cumsum(jnp.flip(z, -1), -1), -1)
        return (dx.astype(dy.dtype),)

    def primal(x):
        return jnp.cumsum(wide(x), -1).astype(x.dtype)

    return ruled(primal, lambda x: (primal(x), None), bwd)


@rule("product of a row: before and after", touching((1.5, -0.5), F, 5))
def product():
    def primal(x):
        return jnp.prod(wide(x), -1)

    def bwd(x, dy):
        # The products before and after each element: no division by what may be zero.
        z = wide(x)
        ones = jnp.ones_like(z[:, :1])
        before = jnp.cumprod(jnp.concatenate([ones, z[:, :-1]], -1), -1)
        after = jnp.cumprod(jnp.concatenate([ones, z[:, :0:-1]], -1), -1)[:, ::-1]
        return ((dy[:, None] * before * after).astype(x.dtype),)

    return ruled(primal, lambda x: (primal(x), x), bwd)
