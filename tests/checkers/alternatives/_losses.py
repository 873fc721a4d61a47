"""Losses whose gradient is written at once, fused or in chunks."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy

from alternatives._rule import (
    Axis,
    B,
    D,
    F,
    Rule,
    T,
    V,
    family,
    integers,
    normal,
    ruled,
    uniform,
    weights,
    wide,
)

RULES: list[Rule] = []
rule = family(RULES, "hand")

IGNORED = -1


@rule("cross-entropy: p - one hot", normal(F, V, scale=2), integers(0, V, F))
def cross_entropy():
    def primal(logits, labels):
        log_p = jax.nn.log_softmax(wide(logits), axis=-1)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], -1))

    def bwd(res, dy):
        logits, labels = res
        p = jax.nn.softmax(wide(logits), axis=-1)
        hot = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
        return (dy / p.shape[0] * (p - hot)).astype(logits.dtype), None

    return ruled(primal, lambda logits, labels: (primal(logits, labels), (logits, labels)), bwd)


@rule("cross-entropy: ignored labels", normal(B, T, V, scale=2), integers(IGNORED, V, B, T))
def cross_entropy_ignoring():
    def primal(logits, labels):
        kept = labels != IGNORED
        log_p = jax.nn.log_softmax(wide(logits), axis=-1)
        picked = jnp.take_along_axis(log_p, jnp.where(kept, labels, 0)[..., None], -1)[..., 0]
        return -jnp.sum(jnp.where(kept, picked, 0)) / jnp.maximum(jnp.sum(kept), 1)

    def bwd(res, dy):
        logits, labels = res
        kept = labels != IGNORED
        z = wide(logits)
        p = jnp.exp(z - jax.nn.logsumexp(z, axis=-1, keepdims=True))
        at = jnp.where(kept, labels, 0)[..., None]
        dz = jnp.where(jnp.arange(z.shape[-1]) == at, p - 1, p)
        scale = dy / jnp.maximum(jnp.sum(kept), 1)
        return (jnp.where(kept[..., None], scale * dz, 0)).astype(logits.dtype), None

    return ruled(primal, lambda logits, labels: (primal(logits, labels), (logits, labels)), bwd)


@rule("cross-entropy: smoothed, with a z-loss", normal(F, V, scale=2), integers(0, V, F))
def cross_entropy_smoothed():
    smoothing, z_weight = 0.1, 1e-2

    def target(labels, n, dtype):
        return (1 - smoothing) * jax.nn.one_hot(labels, n, dtype=dtype) + smoothing / n

    def primal(logits, labels):
        z = wide(logits)
        lse = jax.nn.logsumexp(z, axis=-1)
        q = target(labels, z.shape[-1], z.dtype)
        return lse - jnp.sum(q * z, -1) + z_weight * lse**2

    def bwd(res, dy):
        logits, labels = res
        z = wide(logits)
        lse = jax.nn.logsumexp(z, axis=-1, keepdims=True)
        p = jnp.exp(z - lse)
        dz = p * (1 + 2 * z_weight * lse) - target(labels, z.shape[-1], z.dtype)
        return (dy[:, None] * dz).astype(logits.dtype), None

    return ruled(primal, lambda logits, labels: (primal(logits, labels), (logits, labels)), bwd)


def linear_loss(x, w, labels):
    """The sum of the cross-entropies of x @ w."""
    z = wide(x) @ wide(w)
    return jnp.sum(jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, labels[:, None], -1)[:, 0])


@rule(
    "linear + cross-entropy: chunks in a scan, gradients in the forward",
    normal(Axis(6, 60), D),
    weights(D, V),
    integers(0, V, Axis(6, 60)),
)
def fused_linear_cross_entropy():
    rows = 2

    def primal(x, w, labels):
        return linear_loss(x, w, labels) / x.shape[0]

    def fwd(x, w, labels):
        n, d = x.shape
        w_wide = wide(w)

        def step(carry, chunk):
            loss, dw = carry
            xs, ls = wide(chunk[0]), chunk[1]
            z = xs @ w_wide
            lse = jax.nn.logsumexp(z, axis=-1, keepdims=True)
            hot = jax.nn.one_hot(ls, z.shape[-1], dtype=z.dtype)
            dz = (jnp.exp(z - lse) - hot) / n
            loss += jnp.sum(lse[:, 0] - jnp.sum(hot * z, -1)) / n
            return (loss, dw + xs.T @ dz), dz @ w_wide.T

        start = (jnp.zeros((), w_wide.dtype), jnp.zeros_like(w_wide))
        chunks = (x.reshape(-1, rows, d), labels.reshape(-1, rows))
        (loss, dw), dx = lax.scan(step, start, chunks)
        return loss, (dx.reshape(n, d).astype(x.dtype), dw.astype(w.dtype))

    def bwd(res, dy):
        dx, dw = res
        return (dy * dx).astype(dx.dtype), (dy * dw).astype(dw.dtype), None

    return ruled(primal, fwd, bwd)


@rule(
    "linear + cross-entropy: logits again, vocabulary in blocks",
    normal(F, D),
    weights(D, Axis(12, 256)),
    integers(0, Axis(12, 256), F),
)
def linear_cross_entropy_blocks():
    width = 4

    def fwd(x, w, labels):
        blocks = wide(w).reshape(w.shape[0], -1, width).swapaxes(0, 1)
        lse = jax.nn.logsumexp(lax.map(lambda block: wide(x) @ block, blocks), axis=(0, 2))
        picked = jnp.sum(wide(x) * wide(w)[:, labels].T, -1)
        return jnp.sum(lse - picked), (x, w, labels, lse)

    def bwd(res, dy):
        x, w, labels, lse = res
        xs = wide(x)
        blocks = wide(w).reshape(w.shape[0], -1, width).swapaxes(0, 1)

        def step(dx, numbered):
            i, block = numbered
            hot = labels[:, None] == i * width + jnp.arange(width)
            dz = dy * (jnp.exp(xs @ block - lse[:, None]) - hot)
            return dx + dz @ block.T, xs.T @ dz

        dx, dw = lax.scan(step, jnp.zeros_like(xs), (jnp.arange(len(blocks)), blocks))
        dw = dw.swapaxes(0, 1).reshape(w.shape)
        return dx.astype(x.dtype), dw.astype(w.dtype), None

    return ruled(linear_loss, fwd, bwd)


@rule("binary cross-entropy: sigmoid(x) - t", normal(F, D, scale=3), uniform(0, 1, F, D))
def binary_cross_entropy():
    def primal(x, t):
        z = wide(x)
        return jnp.mean(jnp.maximum(z, 0) - z * wide(t) + jnp.log1p(jnp.exp(-jnp.abs(z))))

    def bwd(res, dy):
        x, t = res
        z = wide(x)
        dx, dt = dy / z.size * (jax.nn.sigmoid(z) - wide(t)), -dy / z.size * z
        return dx.astype(x.dtype), dt.astype(t.dtype)

    return ruled(primal, lambda x, t: (primal(x, t), (x, t)), bwd)


@rule("mean squared error: 2 / n", normal(F, D), normal(F, D))
def mean_squared_error():
    def primal(y, target):
        return jnp.mean((wide(y) - wide(target)) ** 2)

    def bwd(res, d):
        y, target = res
        dy = 2 / y.size * d * (wide(y) - wide(target))
        return dy.astype(y.dtype), (-dy).astype(target.dtype)

    return ruled(primal, lambda y, target: (primal(y, target), (y, target)), bwd)


@rule("kl divergence: of two rows of logits", normal(F, V), normal(F, V))
def kl_divergence():
    def parts(a, b):
        log_p, log_q = (jax.nn.log_softmax(wide(z), axis=-1) for z in (a, b))
        return jnp.exp(log_p), jnp.exp(log_q), log_p - log_q

    def primal(a, b):
        p, _, ratio = parts(a, b)
        return jnp.sum(p * ratio, -1)

    def bwd(res, dy):
        a, b = res
        p, q, ratio = parts(a, b)
        dy = dy[:, None]
        da = dy * p * (ratio - jnp.sum(p * ratio, -1, keepdims=True))
        return da.astype(a.dtype), (dy * (q - p)).astype(b.dtype)

    return ruled(primal, lambda a, b: (primal(a, b), (a, b)), bwd)


@rule(
    "contrastive: rows and columns of one matrix", normal(F, D, scale=0.3), normal(F, D, scale=0.3)
)
def contrastive():
    def scores(a, b):
        return wide(a) @ wide(b).T

    def primal(a, b):
        z = scores(a, b)
        rows, columns = (jax.nn.logsumexp(z, axis=i) for i in (1, 0))
        return jnp.sum(rows + columns - 2 * jnp.diagonal(z))

    def bwd(res, dy):
        a, b = res
        z = scores(a, b)
        eye = jnp.eye(z.shape[0], dtype=z.dtype)
        dz = dy * (jax.nn.softmax(z, axis=1) + jax.nn.softmax(z, axis=0) - 2 * eye)
        return (dz @ wide(b)).astype(a.dtype), (dz.T @ wide(a)).astype(b.dtype)

    return ruled(primal, lambda a, b: (primal(a, b), (a, b)), bwd)


@rule("gaussian likelihood: mean and log scale", normal(F, D), normal(D), normal(D, scale=0.3))
def gaussian():
    def primal(x, mu, log_scale):
        z = (wide(x) - wide(mu)) * jnp.exp(-wide(log_scale))
        return jnp.mean(jnp.sum(0.5 * z * z + wide(log_scale), -1))

    def bwd(res, dy):
        x, mu, log_scale = res
        inverse = jnp.exp(-wide(log_scale))
        z, n = (wide(x) - wide(mu)) * inverse, x.shape[0]
        dx = dy / n * z * inverse
        grads = (dx, -jnp.sum(dx, 0), dy * jnp.mean(1 - z * z, 0))
        return tuple(d.astype(a.dtype) for d, a in zip(grads, res, strict=True))

    return ruled(
        primal, lambda x, mu, log_scale: (primal(x, mu, log_scale), (x, mu, log_scale)), bwd
    )


@rule("distillation: the teacher is held fixed", normal(F, V), normal(F, V))
def distillation():
    """The loss stops the teacher's gradient, so its zeros are right."""

    def primal(student, teacher):
        p = lax.stop_gradient(jax.nn.softmax(wide(teacher), axis=-1))
        return -jnp.sum(p * jax.nn.log_softmax(wide(student), axis=-1))

    def bwd(res, dy):
        student, teacher = res
        p, q = (jax.nn.softmax(wide(z), axis=-1) for z in (teacher, student))
        return (dy * (q - p)).astype(student.dtype), jnp.zeros_like(teacher)

    def fwd(student, teacher):
        return primal(student, teacher), (student, teacher)

    return ruled(primal, fwd, bwd)


@rule("focal loss: closed form", normal(F, V), integers(0, V, F))
def focal():
    gamma = 2

    def primal(logits, labels, gamma):
        log_p = jax.nn.log_softmax(wide(logits), axis=-1)
        log_p = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
        return -((1 - jnp.exp(log_p)) ** gamma) * log_p

    def bwd(gamma, res, dy):
        logits, labels = res
        p = jax.nn.softmax(wide(logits), axis=-1)
        hot = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
        pt = jnp.sum(p * hot, -1)
        slope = gamma * (1 - pt) ** (gamma - 1) * xlogy(pt, pt) - (1 - pt) ** gamma
        return ((dy * slope)[:, None] * (hot - p)).astype(logits.dtype), None

    def fwd(logits, labels, gamma):
        return primal(logits, labels, gamma), (logits, labels)

    f = ruled(primal, fwd, bwd, custom_vjp={"nondiff_argnums": (2,)})
    return functools.partial(f, gamma=gamma)
