"""The peer of graph_network.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from graph_network import NODES, OPTIMIZER, ROUNDS, WIDTH, accuracy, batch


class GraphNetwork(eqx.Module):
    embed: eqx.nn.Linear
    message: eqx.nn.MLP
    node: eqx.nn.MLP
    head: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(1, WIDTH, key=keys[0])
        self.message = eqx.nn.MLP(2 * WIDTH, WIDTH, WIDTH, 1, key=keys[1])
        self.node = eqx.nn.MLP(2 * WIDTH, WIDTH, WIDTH, 1, key=keys[2])
        self.head = eqx.nn.MLP(WIDTH, ROUNDS + 2, WIDTH, 1, key=keys[3])

    def __call__(self, x):
        nodes = jax.vmap(self.embed)(x["nodes"])
        senders, receivers = x["senders"], x["receivers"]

        def a_round(nodes, _):
            ends = jnp.concatenate([nodes[senders], nodes[receivers]], -1)
            message = jax.vmap(self.message)(ends)
            arrived = jax.ops.segment_sum(message, receivers, NODES)
            return nodes + jax.vmap(self.node)(jnp.concatenate([nodes, arrived], -1)), None

        nodes, _ = jax.lax.scan(a_round, nodes, length=ROUNDS)
        return jax.vmap(self.head)(nodes)


def loss(model, batch, key):
    x, distances = batch
    logits = model(x)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, distances).mean()
    return value, accuracy(logits, distances)


def start(key):
    model = GraphNetwork(key)
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
