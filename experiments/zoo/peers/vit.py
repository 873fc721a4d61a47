"""The peer of vit.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from vit import BLOCKS, HEADS, OPTIMIZER, PATCHES, WIDTH, accuracy, batch, data


class Attention(eqx.Module):
    norm: eqx.nn.LayerNorm
    attend: eqx.nn.MultiheadAttention

    def __init__(self, key):
        self.norm = eqx.nn.LayerNorm(WIDTH)
        bias = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attend = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=key, **bias)

    def __call__(self, x):
        x = jax.vmap(self.norm)(x)
        return self.attend(x, x, x)


class Mlp(eqx.Module):
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 1, jax.nn.gelu, key=key)

    def __call__(self, x):
        return self.mlp(self.norm(x))


class Block(eqx.Module):
    attention: Attention
    mlp: Mlp

    def __init__(self, key):
        keys = jax.random.split(key)
        self.attention, self.mlp = Attention(keys[0]), Mlp(keys[1])

    def __call__(self, x):
        x = x + self.attention(x)
        return x + jax.vmap(self.mlp)(x)


class ViT(eqx.Module):
    patches: eqx.nn.Conv2d
    positions: jax.Array
    blocks: Block
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.patches = eqx.nn.Conv2d(1, WIDTH, 2, 2, key=keys[0])
        self.positions = 0.02 * jax.random.normal(keys[1], (PATCHES, WIDTH))
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(keys[2], BLOCKS))
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, 10, key=keys[3])

    def __call__(self, image):
        patches = self.patches(jnp.moveaxis(image, -1, 0))
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def block(x, arrays):
            return eqx.combine(arrays, static)(x), None

        x, _ = jax.lax.scan(block, patches.reshape(WIDTH, -1).T + self.positions, arrays)
        return self.head(jax.vmap(self.norm)(x).mean(0))


def loss(model, batch, key):
    images, labels = batch
    logits = jax.vmap(model)(images)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, accuracy(logits, labels)


def start(key):
    model = ViT(key)
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
    held_out = jax.tree.map(lambda a: a[1500:], data())
    _, right = loss(state[0], held_out, None)
    print(f"loss {losses[0][0]:.2f}, after training {losses[-1][0]:.3f}")
    print(f"right of the 297 held out {right:.1%}")
    return losses


if __name__ == "__main__":
    main()
