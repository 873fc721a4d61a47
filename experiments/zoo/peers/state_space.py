"""The peer of state_space.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from state_space import BLOCKS, OPTIMIZER, PIXELS, WIDTH, accuracy, batch, data


class Recurrence(eqx.Module):
    norm: eqx.nn.LayerNorm
    a: eqx.nn.Linear
    b: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.a = eqx.nn.Linear(WIDTH, WIDTH, key=keys[0])
        self.a = eqx.tree_at(lambda a: a.bias, self.a, jnp.full(WIDTH, 3.0))
        self.b = eqx.nn.Linear(WIDTH, WIDTH, key=keys[1])
        self.out = eqx.nn.Linear(WIDTH, WIDTH, key=keys[2])

    def __call__(self, x):
        x = jax.vmap(self.norm)(x)
        a, b = jax.nn.sigmoid(jax.vmap(self.a)(x)), jax.vmap(self.b)(x)

        def after(first, then):
            return then[0] * first[0], then[0] * first[1] + then[1]

        _, state = jax.lax.associative_scan(after, (a, b))
        return jax.vmap(self.out)(jax.nn.gelu(state))


class StateSpace(eqx.Module):
    embed: eqx.nn.Linear
    positions: jax.Array
    blocks: Recurrence
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(1, WIDTH, key=keys[0])
        self.positions = 0.02 * jax.random.normal(keys[1], (PIXELS, WIDTH))
        self.blocks = eqx.filter_vmap(Recurrence)(jax.random.split(keys[2], BLOCKS))
        self.head = eqx.nn.Linear(WIDTH, 10, key=keys[3])

    def __call__(self, image):
        x = jax.vmap(self.embed)(image[:, None]) + self.positions
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def block(x, arrays):
            return x + eqx.combine(arrays, static)(x), None

        x, _ = jax.lax.scan(block, x, arrays)
        return self.head(x.mean(0))


def loss(model, batch, key):
    images, labels = batch
    logits = jax.vmap(model)(images)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, accuracy(logits, labels)


def start(key):
    model = StateSpace(key)
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
