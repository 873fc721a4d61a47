"""The peer of clip.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from clip import HIDDEN, OPTIMIZER, WIDTH, batch, found


class Towers(eqx.Module):
    image: eqx.nn.MLP
    letters: eqx.nn.Embedding
    word: eqx.nn.MLP
    log_scale: jax.Array

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.image = eqx.nn.MLP(64, WIDTH, HIDDEN, 1, jax.nn.gelu, key=keys[0])
        self.letters = eqx.nn.Embedding(27, 16, key=keys[1])
        self.word = eqx.nn.MLP(5 * 16, WIDTH, HIDDEN, 1, jax.nn.gelu, key=keys[2])
        self.log_scale = jnp.log(1 / 0.07)

    def __call__(self, x):
        letters = jax.vmap(self.letters)(x["b"])
        return {"a": self.image(x["a"]), "b": self.word(letters.reshape(-1))}


def loss(model, batch, key):
    y = jax.vmap(model)(batch[0])
    a, b = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (y["a"], y["b"]))
    scores, own = jnp.exp(model.log_scale) * a @ b.T, jnp.arange(len(a))
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return (entropy(scores, own) + entropy(scores.T, own)).mean() / 2, found(y, None)


def start(key):
    model = Towers(key)
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
