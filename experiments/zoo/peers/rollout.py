"""The peer of rollout.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
from rollout import HIDDEN, OPTIMIZER, STEPS, batch


def loss(model, batch, key):
    start, path = batch

    def one(x, _):
        x = x + jax.vmap(model)(x)
        return x, x

    _, xs = jax.lax.scan(one, start, length=STEPS)
    return jnp.mean((jnp.moveaxis(xs, 0, 1).reshape(path.shape) - path) ** 2)


def start(key):
    model = eqx.nn.MLP(2, 2, HIDDEN, 2, jnp.tanh, key=key)
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
