"""The peer of mixture.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from mixture import CHOSEN, EXPERTS, OPTIMIZER, WIDTH, batch, busiest


class Mixture(eqx.Module):
    hidden: eqx.nn.Linear
    router: eqx.nn.Linear
    experts: list
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3 + EXPERTS)
        self.hidden = eqx.nn.Linear(64, WIDTH, key=keys[0])
        self.router = eqx.nn.Linear(WIDTH, EXPERTS, key=keys[1])
        self.experts = [eqx.nn.MLP(WIDTH, WIDTH, WIDTH, 1, key=k) for k in keys[3:]]
        self.head = eqx.nn.Linear(WIDTH, 10, key=keys[2])

    def __call__(self, image):
        hidden = jax.nn.gelu(self.hidden(image))
        logits = self.router(hidden)
        top, chosen = jax.lax.top_k(logits, CHOSEN)
        weights = jnp.zeros(EXPERTS).at[chosen].set(jax.nn.softmax(top))
        mix = weights @ jnp.stack([expert(hidden) for expert in self.experts])
        return {"label": self.head(hidden + mix), "balance": logits}


def loss(model, batch, key):
    images, target = batch
    y = jax.vmap(model)(images)
    label = optax.softmax_cross_entropy_with_integer_labels(y["label"], target["label"]).mean()
    chosen = jax.nn.one_hot(jax.lax.top_k(y["balance"], CHOSEN)[1], EXPERTS)
    balance = chosen.mean((0, 1)) @ jax.nn.softmax(y["balance"]).mean(0) * EXPERTS
    return label + 0.01 * balance, busiest(y, target)


def start(key):
    model = Mixture(key)
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
