"""Backwards that differ between two runs with the same input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, rule, sizes

NOISE = np.random.default_rng(0)


def noisy(x, w, key):
    """y = w (x where it is kept, by the key)."""
    return jnp.where(_kept(key, x), x, 0) @ w


def _kept(key, x):
    return jax.random.uniform(key, x.shape, jnp.float32) < 0.5


def noisy_rule(bug=""):
    counter = itertools.count(1)

    def backward(x, w, key, dy):
        if bug == "counter_on_the_host":
            shape = jax.ShapeDtypeStruct((), jnp.uint32)
            count = jax.pure_callback(lambda _: np.uint32(next(counter)), shape, dy.sum())
            key = jax.random.fold_in(key, count)
        if bug == "counter_in_python":
            key = jax.random.fold_in(key, next(counter))
        kept = _kept(key, x)
        dx = jnp.where(kept, dy @ w.T, 0)
        dw = jnp.where(kept, x, 0).T @ dy
        if bug == "noise_on_the_host":
            shape = jax.ShapeDtypeStruct(w.shape, jnp.float32)
            noise = jax.pure_callback(lambda _: _noise(w.shape), shape, dy.sum())
            dw = dw * (1 + noise)
        if bug == "order_of_the_sum":
            shape = jax.ShapeDtypeStruct((len(x),), jnp.int32)
            order = jax.pure_callback(lambda _: _order(len(x)), shape, dy.sum())
            terms = jnp.where(kept, x, 0)[order][:, :, None] * dy[order][:, None, :]
            dw = jax.lax.scan(lambda dw, term: (dw + term, None), jnp.zeros_like(dw), terms)[0]
        return dx, dw, None

    return rule(noisy, backward)


def _noise(shape):
    return (1e-3 * NOISE.standard_normal(shape)).astype(np.float32)


def _order(n):
    return NOISE.permutation(n).astype(np.int32)


def _keyed(rng, size):
    n, d, f = sizes(size, (7, 5, 3), (128, 64, 32))
    return normal(rng, n, d), normal(rng, d, f), rng.integers(0, 2**31, 2, np.uint32)


NOISY = Family("random", noisy, noisy_rule, _keyed)
NOISY_BUGS = [
    NOISY.bug(
        "counter_on_the_host",
        "x w",
        ("random",),
        "A counter on the host draws a new mask at every run.",
        "NONDETERMINISTIC",
    ),
    NOISY.bug(
        "counter_in_python",
        "x w",
        ("random", "input:key", "mask", "subset"),
        "A counter in Python draws a new mask at every trace.",
        "NONDETERMINISTIC",
        "WRONG",
    ),
    NOISY.bug(
        "noise_on_the_host",
        "w",
        ("random",),
        "dw has fresh noise of one thousandth.",
        "NONDETERMINISTIC",
    ),
    NOISY.bug(
        "order_of_the_sum",
        "w",
        ("random",),
        "dw adds its rows up in a new order at every run: the last bits differ.",
        "NONDETERMINISTIC",
    ),
]

FAMILIES = [NOISY]
BUGS = NOISY_BUGS
