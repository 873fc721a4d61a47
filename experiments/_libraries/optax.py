"""Losses, projections and optimizers of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from _libraries._cases import Bug, audit, check, normal, slopes, uniform

LABELS = np.array([0, 1, 2, 0, 1, 2])


def ctc(logits):
    """The loss of two sequences of letters, the first a letter shorter."""
    labels, padding = jnp.array([[1, 2, 0], [2, 1, 1]]), jnp.array([[0.0, 0, 1], [0, 0, 0]])
    return optax.ctc_loss(logits, jnp.zeros((2, 6)), labels, padding)


def _ctc_twice():
    """The second derivative by one logit, where all are zero."""

    def slope(t):
        logits = jnp.zeros((2, 6, 4)).at[0, 0, 1].set(t)
        return jax.grad(lambda logits: ctc(logits).sum())(logits)[0, 0, 1]

    return slopes(slope, 0.0)


check(
    "ctc_loss",
    ctc,
    normal(2, 6, 4),
    bug=Bug("VARIANT", "the second derivative is wrong where logits are equal", _ctc_twice),
)
check(
    "scale_gradient",
    lambda x: optax.scale_gradient(x, 0.5),
    normal(3, 4),
    bug=Bug(
        "WRONG",
        "deliberately not the gradient",
        lambda: slopes(lambda x: optax.scale_gradient(x, 0.5), 1.0),
    ),
)
check("projection_simplex", optax.projections.projection_simplex, normal(6))
check("projection_l1_ball", optax.projections.projection_l1_ball, normal(6, scale=3))
check("projection_l1_sphere", optax.projections.projection_l1_sphere, normal(6, scale=3))
check("sigmoid_binary", optax.sigmoid_binary_cross_entropy, normal(5), uniform(5, seed=1))
check(
    "sigmoid_focal",
    lambda logits: optax.sigmoid_focal_loss(logits, np.float32([0, 1, 1, 0, 1])),
    normal(5),
)
check("log_cosh", optax.log_cosh, normal(3, 4), normal(3, 4, seed=1))


@audit
def classifier():
    def loss(params, x, labels):
        h = jax.nn.relu(x @ params["w"] + params["b"])
        logits = h @ params["v"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    params = {"w": normal(4, 8), "b": np.zeros(8, np.float32), "v": normal(8, 3, seed=1)}
    return loss, params, normal(6, 4, seed=2), LABELS


@audit
def sequence_of_letters():
    return lambda w, x: ctc(x @ w).mean(), normal(5, 4), normal(2, 6, 5, seed=1)


@audit
def sum_of_losses():
    def loss(w, x, y):
        z = x @ w
        return (
            optax.huber_loss(z, y).mean()
            + optax.sigmoid_focal_loss(z, (y > 0) * 1.0).mean()
            + optax.log_cosh(z, y).mean()
            + optax.safe_softmax_cross_entropy(z, jax.nn.softmax(y)).mean()
            + optax.cosine_distance(z, y, epsilon=1e-6).mean()
        )

    return loss, normal(4, 3), normal(6, 4, seed=1), normal(6, 3, seed=2)


@audit
def simplex_layer():
    def loss(w, x, y):
        return jnp.mean((jax.vmap(optax.projections.projection_simplex)(x @ w) - y) ** 2)

    return loss, normal(4, 5), normal(6, 4, seed=1), jax.nn.softmax(normal(6, 5, seed=2))


@audit
def learned_learning_rate():
    def loss(params, x, y):
        optimizer = optax.adam(params["rate"])

        def inner(w):
            return jnp.mean((jax.nn.relu(x @ w) - y) ** 2)

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.grad(inner)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        carry = params["w"], optimizer.init(params["w"])
        (w, _), _ = jax.lax.scan(step, carry, None, length=3)
        return inner(w)

    params = {"w": normal(4), "rate": np.float32(0.1)}
    return loss, params, normal(6, 4, seed=1), normal(6, seed=2)
