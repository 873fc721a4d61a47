"""The peer of pinn.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
from pinn import OPTIMIZER, batch, solution


def loss(model, batch, key):
    (inside, ends), target = batch

    def u(x):
        return model(x[None])[0]

    equation = jax.vmap(jax.grad(jax.grad(u)))(inside[:, 0]) - target["equation"][:, 0]
    edge = jax.vmap(u)(ends[:, 0]) - target["ends"][:, 0]
    return jnp.mean(equation**2) + 10 * jnp.mean(edge**2)


def start(key):
    model = eqx.nn.MLP(1, 1, 32, 2, jnp.tanh, key=key)
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
    x = jnp.linspace(-1, 1, 101)[:, None]
    error = jnp.abs(jax.vmap(state[0])(x) - solution(x)).max()
    print(f"loss {losses[0]:.1f}, after training {losses[-1]:.1e}")
    print(f"largest error of u {error:.1e}")
    return losses


if __name__ == "__main__":
    main()
