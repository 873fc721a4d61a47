"""The peer of gan.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from gan import HIDDEN, NOISE, batch

OPTIMIZER = optax.adam(1e-3, b1=0.5)


def leaky(x):
    return jax.nn.leaky_relu(x, 0.2)


def entropy(critic, points, label):
    logits = jax.vmap(critic)(points)
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, label)).mean()


def fools(generator, critic, noise):
    return entropy(critic, jax.vmap(generator)(noise), 1.0)


def tells(critic, generator, noise, real):
    return entropy(critic, jax.vmap(generator)(noise), 0.0) + entropy(critic, real, 1.0)


def start(key):
    keys = jax.random.split(key)
    generator = eqx.nn.MLP(NOISE, 2, HIDDEN, 2, leaky, key=keys[0])
    critic = eqx.nn.MLP(2, 1, HIDDEN, 2, leaky, key=keys[1])
    models = (generator, critic)
    return models, tuple(OPTIMIZER.init(eqx.filter(m, eqx.is_array)) for m in models)


@eqx.filter_jit
def step(state, real, key):
    (generator, critic), (g_state, c_state) = state
    first, second = jax.random.split(key)
    noise = jax.random.normal(first, (len(real), NOISE))
    g_value, grads = eqx.filter_value_and_grad(fools)(generator, critic, noise)
    updates, g_state = OPTIMIZER.update(grads, g_state)
    generator = eqx.apply_updates(generator, updates)
    noise = jax.random.normal(second, (len(real), NOISE))
    c_value, grads = eqx.filter_value_and_grad(tells)(critic, generator, noise, real)
    updates, c_state = OPTIMIZER.update(grads, c_state)
    critic = eqx.apply_updates(critic, updates)
    return ((generator, critic), (g_state, c_state)), (g_value, c_value)


def main(steps=3000):
    key = jax.random.key(0)
    state, losses = start(key), []
    for k in jax.random.split(key, steps):
        state, values = step(state, batch(k), k)
        losses.append(values)
    fake = jax.vmap(state[0][0])(jax.random.normal(key, (1000, NOISE)))
    off = jnp.abs(jnp.linalg.norm(fake, axis=-1) - 1).mean()
    print(f"off the circle {off:.3f}")
    return losses


if __name__ == "__main__":
    main()
