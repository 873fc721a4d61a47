"""The peer of unet.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from unet import N, batch, noised

OPTIMIZER = optax.adam(2e-3)


class Conv(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm

    def __init__(self, n_in, n_out, key):
        self.conv = eqx.nn.Conv2d(n_in, n_out, 3, padding=1, key=key)
        self.norm = eqx.nn.GroupNorm(4, n_out)

    def __call__(self, x):
        return jax.nn.silu(self.norm(self.conv(x)))


class UNet(eqx.Module):
    first: Conv
    time: list
    down: Conv
    middle: Conv
    last: list

    def __init__(self, key):
        keys = jax.random.split(key, 7)
        self.first = Conv(1, N, keys[0])
        self.time = [eqx.nn.Linear(32, N, key=keys[1]), eqx.nn.Linear(N, N, key=keys[2])]
        self.down = Conv(N, N, keys[3])
        self.middle = Conv(N, N, keys[4])
        self.last = [Conv(2 * N, N, keys[5]), eqx.nn.Conv2d(N, 1, 3, padding=1, key=keys[6])]

    def __call__(self, noisy, level):
        angles = level * 10_000.0 ** (-jnp.arange(16) / 16)
        time = self.time[0](jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))
        time = self.time[1](jax.nn.silu(time))
        first = self.first(noisy)
        down = self.down(eqx.nn.AvgPool2d(2, 2)(first)) + time[:, None, None]
        middle = down + self.middle(down)
        up = jnp.repeat(jnp.repeat(middle, 2, 1), 2, 2)
        return self.last[1](self.last[0](jnp.concatenate([first, up])))


def loss(model, batch, key):
    (noisy, level), noise = noised(batch, key)
    y = jax.vmap(model)(jnp.moveaxis(noisy, -1, 1), level)
    return jnp.mean((jnp.moveaxis(y, 1, -1) - noise) ** 2)


def start(key):
    model = UNet(key)
    params = eqx.filter(model, eqx.is_array)
    return model, OPTIMIZER.init(params), jax.tree.map(jnp.copy, params)


@eqx.filter_jit
def step(state, batch, key):
    model, opt_state, average = state
    value, grads = eqx.filter_value_and_grad(loss)(model, batch, key)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    model = eqx.apply_updates(model, updates)
    params = eqx.filter(model, eqx.is_array)
    average = jax.tree.map(lambda a, p: 0.99 * a + 0.01 * p, average, params)
    return (model, opt_state, average), value


def main(steps=1000):
    key = jax.random.key(0)
    state, drawn, losses = start(key), jax.jit(batch), []
    for k in jax.random.split(key, steps):
        state, value = step(state, drawn(k), k)
        losses.append(value)
    averaged = loss(eqx.combine(state[2], state[0]), batch(key, 1000), key)
    print(f"error {losses[0]:.3f}, after training {losses[-1]:.3f}")
    print(f"of the averaged weights {averaged:.3f}")
    return losses


if __name__ == "__main__":
    main()
