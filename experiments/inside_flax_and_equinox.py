"""Layers of fbp inside the models of other libraries, under their own jax.grad.

    python experiments/inside_flax_and_equinox.py

A transformer of one block, once with flax (nnx) and once with equinox. Its attention, and its head
with the cross-entropy, are fbp's by `fbp.to_jax`; everything else is the library's. A sequence is
8 random letters, said twice: the second time can be known only by looking 7 places back.

About 60 seconds on 2 cores of a 2.6 GHz Xeon, nearly all of it compiling. Expected: the loss of the
second time falls from 2.8 = log 16 to 0.0016 with flax and 0.0026 with equinox, and the gradients
are those of the same model by autodiff alone: they differ by 4e-7 and 3e-7 of the largest.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fbp

LETTERS, HALF, WIDTH, HEADS, BATCH = 16, 8, 64, 4, 64
LENGTH = 2 * HALF - 1


class Parts(NamedTuple):
    """What can be done by fbp or by autodiff."""

    attention: Callable[..., Any]
    head: Callable[..., Any]


class Model(NamedTuple):
    """A model of any library: its parameters, and its loss by them on a batch."""

    params: Any
    loss: Callable[..., Any]


class Result(NamedTuple):
    """The losses of a training, and how far apart its first gradients were."""

    losses: list[float]
    difference: float


BY_FBP = Parts(
    fbp.to_jax(fbp.Attention(causal=True)),
    fbp.to_jax(fbp.UnembedCrossEntropy(WIDTH, LETTERS, ignore=-1)),
)


def plain_attention(params, x):
    return jax.nn.dot_product_attention(*x, is_causal=True)


def plain_head(params, y, target):
    log_p = jax.nn.log_softmax(y @ params["w"].T)
    losses = -jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]
    return jnp.where(target == -1, 0, losses).sum() / (target != -1).sum()


BY_AUTODIFF = Parts(plain_attention, plain_head)


def flax_model(parts: Parts) -> Model:
    """The transformer in flax."""
    from flax import nnx

    class Transformer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.letters = nnx.Embed(LETTERS, WIDTH, rngs=rngs)
            self.places = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
            self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
            self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.head = nnx.Param(0.02 * jax.random.normal(rngs.params(), (LETTERS, WIDTH)))

        def __call__(self, ids, target):
            x = self.letters(ids) + self.places(jnp.arange(LENGTH))
            q, k, v = jnp.split(self.qkv(x).reshape(*ids.shape, 3 * HEADS, -1), 3, -2)
            x = x + self.out(parts.attention((), (q, k, v)).reshape(x.shape))
            return parts.head({"w": self.head[...]}, self.norm(x), target)

    graph, params = nnx.split(Transformer(nnx.Rngs(0)))
    return Model(params, lambda params, ids, target: nnx.merge(graph, params)(ids, target))


def equinox_model(parts: Parts) -> Model:
    """The transformer in equinox, written for one sequence and mapped over a batch."""
    import equinox as eqx

    class Transformer(eqx.Module):
        letters: eqx.nn.Embedding
        places: eqx.nn.Embedding
        qkv: eqx.nn.Linear
        out: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        head: jax.Array

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.letters = eqx.nn.Embedding(LETTERS, WIDTH, key=keys[0])
            self.places = eqx.nn.Embedding(LENGTH, WIDTH, key=keys[1])
            self.qkv = eqx.nn.Linear(WIDTH, 3 * WIDTH, key=keys[2])
            self.out = eqx.nn.Linear(WIDTH, WIDTH, key=keys[3])
            self.norm = eqx.nn.LayerNorm(WIDTH)
            self.head = 0.02 * jax.random.normal(keys[4], (LETTERS, WIDTH))

        def __call__(self, ids, target):
            x = jax.vmap(self.letters)(ids) + self.places.weight
            q, k, v = jnp.split(jax.vmap(self.qkv)(x).reshape(LENGTH, 3 * HEADS, -1), 3, -2)
            y = parts.attention((), (q, k, v)).reshape(x.shape)
            x = x + jax.vmap(self.out)(y)
            return parts.head({"w": self.head}, jax.vmap(self.norm)(x), target)

    params, static = eqx.partition(Transformer(jax.random.key(0)), eqx.is_inexact_array)

    def loss(params, ids, target):
        return jax.vmap(eqx.combine(params, static))(ids, target).mean()

    return Model(params, loss)


def batch(key):
    """Letters and those that follow; the first time nothing can be known, and nothing counts."""
    letters = jnp.tile(jax.random.randint(key, (BATCH, HALF), 0, LETTERS), 2)
    return letters[:, :-1], letters[:, 1:].at[:, : HALF - 1].set(-1)


def fit(make: Callable[[Parts], Model], steps: int) -> Result:
    """Trains a model with fbp inside, after holding its gradient against autodiff's."""
    model, plain = make(BY_FBP), make(BY_AUTODIFF)
    ids, target = batch(jax.random.key(1))
    ours, theirs = (jax.jit(jax.grad(m.loss))(m.params, ids, target) for m in (model, plain))
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    apart = max(float(jnp.abs(a - b).max()) for a, b in pairs)
    largest = max(float(jnp.abs(d).max()) for d in jax.tree.leaves(theirs))

    adam = optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        value, gradient = jax.value_and_grad(model.loss)(params, *batch(key))
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, state = model.params, adam.init(model.params)
    losses = []
    for key in jax.random.split(jax.random.key(2), steps):
        params, state, value = step(params, state, key)
        losses.append(float(value))
    return Result(losses, apart / largest)


def main(steps: int = 200) -> dict[str, Result]:
    """Fits both models; returns their results by the library's name."""
    results = {}
    for name, make in (("flax", flax_model), ("equinox", equinox_model)):
        if importlib.util.find_spec(name) is None:
            print(f"skipped: {name} is not installed")
            continue
        started = time.perf_counter()
        results[name] = result = fit(make, steps)
        for i in (0, steps // 4, steps // 2, steps - 1):
            print(f"{name:7}   step {i:4}   loss {result.losses[i]:.4f}")
        print(
            f"{name:7}   gradients by fbp and by autodiff differ by {result.difference:.1e} "
            f"of the largest   {time.perf_counter() - started:.1f} s"
        )
    return results


if __name__ == "__main__":
    main()
