"""What programs do between their own rules: functions of JAX that have rules, and solvers."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from random_programs._rule import TABLE


def relu(x: Any) -> Any:
    return jax.nn.relu(x) + 0.1 * jax.nn.relu6(x)


def softmax(x: Any) -> Any:
    return jax.nn.softmax(x) + jax.nn.log_softmax(x) * 0.1


def logsumexp(x: Any) -> Any:
    return x * jax.nn.logsumexp(x)


def logaddexp(x: Any) -> Any:
    return jnp.logaddexp(x, 0.5) + jax.nn.softplus(-x)


def sinc(x: Any) -> Any:
    return jnp.sinc(x) + 0.1 * x


def activations(x: Any) -> Any:
    return jax.nn.silu(x) + jax.nn.gelu(x) + jax.nn.elu(x) + jax.nn.selu(x)


def norms(x: Any) -> Any:
    return x / (1 + jnp.linalg.norm(x)) + jax.nn.standardize(x)


def special(x: Any) -> Any:
    return jax.scipy.special.xlogy(x * x + 1, x * x + 2) + jax.scipy.special.erf(x)


def straight_through(x: Any) -> Any:
    return x + lax.stop_gradient(jnp.round(x) - x)


def noise(x: Any) -> Any:
    return x + 0.1 * jax.random.normal(jax.random.key(3), x.shape)


def gathered(x: Any) -> Any:
    ids = jnp.argsort(jnp.asarray(TABLE[0]))
    return jnp.take_along_axis(x, ids, 0) + x.at[ids[:2]].multiply(0.5)


def linear_solve(x: Any) -> Any:
    matrix = jnp.eye(x.size) + 0.2 * jnp.asarray(TABLE, jnp.float32)

    def transposed(vecmat: Any, b: Any) -> Any:
        return jnp.linalg.solve(matrix.T, b)

    return lax.custom_linear_solve(
        lambda y: matrix @ y, x, lambda _, b: jnp.linalg.solve(matrix, b), transposed
    )


def root(x: Any) -> Any:
    """y = x + sin(y) / 4, by a loop that autodiff has no reverse mode of."""

    def solve(g: Any, y: Any) -> Any:
        def step(c: Any) -> Any:
            return c[0] + 1, c[1] - g(c[1])

        return lax.while_loop(lambda c: c[0] < 40, step, (0, y))[1]

    def tangent_solve(g: Any, dy: Any) -> Any:
        return dy / g(jnp.ones_like(dy))

    def g(y: Any) -> Any:
        return y - x - jnp.sin(y) / 4

    return lax.custom_root(g, jnp.zeros_like(x), solve, tangent_solve)


BETWEEN = [
    *(relu, softmax, logsumexp, logaddexp, sinc, activations, norms, special, straight_through),
    *(noise, gathered, linear_solve, root),
]
# Their rules take other slopes at ties than autodiff of their programs: logaddexp those it has.
KINKED = [relu, logaddexp]
