"""The peer of per_example.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from per_example import DAMPING, OPTIMIZER, batch

SIZES = (64, 128, 128, 10)


def make(key):
    return eqx.nn.MLP(64, 10, 128, 2, jnp.tanh, key=key)


def of_example(model, image, label):
    return optax.softmax_cross_entropy_with_integer_labels(model(image), label)


def loss(model, batch, key=None):
    return jax.vmap(of_example, (None, 0, 0))(model, *batch).mean()


def norms(model, batch):
    """The norm of each example's gradient."""
    grads = jax.vmap(eqx.filter_grad(of_example), (None, 0, 0))(model, *batch)
    squares = [(d**2).reshape(len(d), -1).sum(-1) for d in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares))


def taken_apart(layers, activation, shifts, images, labels):
    """The loss, with a 0 added to each layer's output: its gradient is dy. And the inputs."""
    x, inputs = images, []
    for i, ((w, b), shift) in enumerate(zip(layers, shifts, strict=True)):
        x = activation(x) if i else x
        inputs.append(x)
        x = x @ w + b + shift
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean(), inputs


def natural(layers, activation, batch):
    images, labels = batch
    shifts = [jnp.zeros((len(images), len(b))) for _, b in layers]
    (value, inputs), dys = jax.value_and_grad(taken_apart, 2, has_aux=True)(
        layers, activation, shifts, images, labels
    )
    directions = []
    for x, dy in zip(inputs, dys, strict=True):
        x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], -1)
        a, g = x.T @ x / len(x), dy.T @ dy * len(x)
        d = jnp.linalg.solve(a + DAMPING**0.5 * jnp.eye(len(a)), x.T @ dy)
        d = jnp.linalg.solve(g + DAMPING**0.5 * jnp.eye(len(g)), d.T).T
        directions.append((d[:-1], d[-1]))
    return value, directions


def start(key):
    model = make(key)
    return model, OPTIMIZER.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def step(state, batch, key):
    model, opt_state = state

    def leaves(m):
        return [a for layer in m.layers for a in (layer.weight, layer.bias)]

    layers = [(layer.weight.T, layer.bias) for layer in model.layers]
    value, directions = natural(layers, jnp.tanh, batch)
    grads = eqx.filter(model, eqx.is_array)
    grads = eqx.tree_at(leaves, grads, [a for w, b in directions for a in (w.T, b)])
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return (eqx.apply_updates(model, updates), opt_state), value


def main(steps=200):
    key = jax.random.key(0)
    state, losses = start(key), []
    for k in jax.random.split(key, steps):
        state, value = step(state, batch(k), k)
        losses.append(value)
    print(f"K-FAC: loss {losses[0]:.2f}, after training {losses[-1]:.4f}")
    sizes = norms(state[0], batch(key))
    print(f"norms of single gradients: median {jnp.median(sizes):.1e}, largest {sizes.max():.1e}")
    return losses


if __name__ == "__main__":
    main()
