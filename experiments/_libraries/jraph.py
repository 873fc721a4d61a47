"""Graph networks of jraph."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from _libraries._cases import audit, normal

SENDERS, RECEIVERS = np.array([0, 1, 2, 3, 0, 2]), np.array([1, 2, 3, 0, 2, 1])


def graph_of(nodes):
    counts = jnp.array([4]), jnp.array([6])
    return jraph.GraphsTuple(nodes, None, RECEIVERS, SENDERS, jnp.ones((1, 1)), *counts)


@audit
def graph_attention():
    def loss(params, nodes):
        layer = jraph.GAT(
            lambda x: x @ params["query"],
            lambda q, k, edge: jax.nn.leaky_relu((q * k) @ params["logit"]),
            jax.nn.relu,
        )
        return jnp.mean(jax.nn.softmax(layer(graph_of(nodes)).nodes @ params["out"]) ** 2)

    params = {"query": normal(3, 4), "logit": normal(4, 1), "out": normal(4, 2)}
    return loss, params, normal(4, 3, seed=1)


@audit
def graph_convolution():
    def loss(params, nodes, y):
        hidden = jraph.GraphConvolution(lambda x: jax.nn.relu(x @ params["w"]))
        nodes = hidden(graph_of(nodes)).nodes
        return jnp.mean(jax.nn.softplus(-y * (nodes @ params["v"])))

    params = {"w": normal(3, 5), "v": normal(5)}
    return loss, params, normal(4, 3, seed=1), np.sign(normal(4, seed=2))
