"""The peer of vae.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from vae import CODE, HIDDEN, OPTIMIZER, PIXELS, batch


class VAE(eqx.Module):
    hidden: eqx.nn.Linear
    mean: eqx.nn.Linear
    log_var: eqx.nn.Linear
    pixels: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.hidden = eqx.nn.Linear(PIXELS, HIDDEN, key=keys[0])
        self.mean = eqx.nn.Linear(HIDDEN, CODE, key=keys[1])
        self.log_var = eqx.nn.Linear(HIDDEN, CODE, key=keys[2])
        self.pixels = eqx.nn.MLP(CODE, PIXELS, HIDDEN, 1, jax.nn.gelu, key=keys[3])

    def __call__(self, image, key):
        hidden = jax.nn.gelu(self.hidden(image))
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        code = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        return self.pixels(code), mean, log_var


def loss(model, batch, key):
    pixels, mean, log_var = jax.vmap(model)(batch, jax.random.split(key, len(batch)))
    reconstruction = optax.sigmoid_binary_cross_entropy(pixels, batch).sum(-1)
    divergence = (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(-1) / 2
    return (reconstruction + divergence).mean()


def start(key):
    model = VAE(key)
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
