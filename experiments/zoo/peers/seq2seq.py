"""The peer of seq2seq.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from seq2seq import HEADS, LENGTH, LETTERS, OPTIMIZER, WIDTH, accuracy, batch, shifted


class Embedding(eqx.Module):
    letters: eqx.nn.Embedding
    positions: jax.Array

    def __init__(self, n, key):
        keys = jax.random.split(key)
        self.letters = eqx.nn.Embedding(n, WIDTH, key=keys[0])
        self.positions = 0.02 * jax.random.normal(keys[1], (LENGTH, WIDTH))

    def __call__(self, letters):
        return jax.vmap(self.letters)(letters) + self.positions


class Attention(eqx.Module):
    norm: eqx.nn.LayerNorm
    attend: eqx.nn.MultiheadAttention

    def __init__(self, key):
        self.norm = eqx.nn.LayerNorm(WIDTH)
        bias = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attend = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=key, **bias)

    def __call__(self, x, memory=None, mask=None):
        x = jax.vmap(self.norm)(x)
        memory = x if memory is None else memory
        return self.attend(x, memory, memory, mask)


class Mlp(eqx.Module):
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 2 * WIDTH, 1, jax.nn.gelu, key=key)

    def __call__(self, x):
        return jax.vmap(lambda x: self.mlp(self.norm(x)))(x)


class EncoderDecoder(eqx.Module):
    embed: list
    attend: list
    mlp: list
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 8)
        self.embed = [Embedding(LETTERS, keys[0]), Embedding(LETTERS + 1, keys[1])]
        self.attend = [Attention(k) for k in keys[2:5]]
        self.mlp = [Mlp(k) for k in keys[5:7]]
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, LETTERS, key=keys[7])

    def __call__(self, x):
        read, written = x
        memory = self.embed[0](read)
        memory = memory + self.attend[0](memory)
        memory = memory + self.mlp[0](memory)
        y = self.embed[1](written)
        y = y + self.attend[1](y, mask=jnp.tril(jnp.ones((LENGTH, LENGTH), bool)))
        y = y + self.attend[2](y, memory)
        y = y + self.mlp[1](y)
        return jax.vmap(lambda y: self.head(self.norm(y)))(y)


def loss(model, batch, key):
    x, ordered = shifted(batch, None)
    logits = jax.vmap(model)(x)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, ordered).mean()
    return value, accuracy(logits, ordered)


def start(key):
    model = EncoderDecoder(key)
    return model, OPTIMIZER.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def step(state, batch, key):
    model, opt_state = state
    value, grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, batch, key)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    return (eqx.apply_updates(model, updates), opt_state), value


def main(steps=1000):
    key = jax.random.key(0)
    state, losses = start(key), []
    for k in jax.random.split(key, steps):
        state, value = step(state, batch(k), k)
        losses.append(value)
    print(f"loss and more {losses[0]}, after training {losses[-1]}")
    return losses


if __name__ == "__main__":
    main()
