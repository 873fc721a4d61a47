"""The peer of maml.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
from maml import OPTIMIZER, RATE, batch


def error(model, points):
    x, y = points
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def loss(model, batch, key):
    def after_a_step(support, query):
        grads = eqx.filter_grad(error)(model, support)
        adapted = eqx.apply_updates(model, jax.tree.map(lambda d: -RATE * d, grads))
        return error(adapted, query)

    return jax.vmap(after_a_step)(*batch).mean()


def start(key):
    model = eqx.nn.MLP(1, 1, 40, 2, jnp.tanh, key=key)
    return model, OPTIMIZER.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def step(state, batch, key):
    model, opt_state = state
    value, grads = eqx.filter_value_and_grad(loss)(model, batch, key)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    return (eqx.apply_updates(model, updates), opt_state), value


def main(steps=1000):
    key = jax.random.key(0)
    state, losses = start(key), []
    for k in jax.random.split(key, steps):
        state, value = step(state, batch(k), k)
        losses.append(value)
    print(f"loss {losses[0]:.3f}, after training {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
