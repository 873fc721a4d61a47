"""Times the matrix products of fbp's step alone, without the rest of the step."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._schedules.attention import causal_blocks
from fbp.bench._sizes import GPTSizes

# A product of (m, k) and (k, n) as it is, and with one factor or the result stored transposed.
_WAYS = ("mk,kn->mn", "km,kn->mn", "mk,nk->mn", "mk,kn->nm")


def products_of(sizes: GPTSizes) -> dict[tuple[int, int, int, int], int]:
    """The number of products of each size (batch, m, k, n) in a step, forward and backward."""
    d, n, rows = sizes.width, sizes.layers, sizes.tokens
    found: dict[tuple[int, int, int, int], int] = {}

    def add(count: int, b: int, m: int, k: int, n: int) -> None:
        found[b, m, k, n] = found.get((b, m, k, n), 0) + count

    weights = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]
    for count, ins, outs in [*((n, *w) for w in weights), (1, d, sizes.vocab)]:
        add(count, 1, rows, ins, outs)  # y = x w
        add(count, 1, rows, outs, ins)  # dx = dy w^T
        add(count, 1, ins, rows, outs)  # dw = x^T dy
    heads, per_head = sizes.batch * sizes.heads, d // sizes.heads
    for block, keys in causal_blocks(sizes.context):
        t, s = block.stop - block.start, keys.stop - keys.start
        add(3 * n, heads, t, per_head, s)  # q k^T, twice, and dy v^T
        add(2 * n, heads, t, s, per_head)  # p v, ds k
        add(2 * n, heads, s, t, per_head)  # p^T dy, ds^T q
    return found


def products_alone(sizes: GPTSizes, dtype: Any, rounds: int = 3) -> Callable[[], float]:
    """Returns a function that measures the seconds that a step's products take alone.

    Each product uses the fastest of the layouts in `_WAYS`, which is found here.
    """

    def fastest(shape: tuple[int, int, int, int]) -> Callable[[], float]:
        ways = [_product(shape, way, dtype) for way in _WAYS]
        return min(ways, key=lambda way: statistics.median(way() for _ in range(rounds)))

    found = [(count, fastest(shape)) for shape, count in products_of(sizes).items()]
    return lambda: sum(count * seconds() for count, seconds in found)


def _product(shape: tuple[int, int, int, int], way: str, dtype: Any) -> Callable[[], float]:
    """A function that measures the seconds of one product."""
    b, m, k, n = shape
    size = dict(zip("mkn", (m, k, n), strict=True))
    inputs, output = way.split("->")
    left, right = inputs.split(",")
    keys = jax.random.split(jax.random.key(0))

    def factors() -> list[jax.Array]:
        """Made for each measurement, because all factors together would need too much memory."""
        return [
            jax.random.normal(key, (b, *(size[axis] for axis in axes)), dtype)
            for key, axes in zip(keys, (left, right), strict=True)
        ]

    # On a CPU about 10 GFLOP in all: long enough to be timed, and short enough for many rounds.
    repeats = (
        max(2, min(200, int(1e10 / (2 * b * m * k * n)))) if jax.default_backend() == "cpu" else 20
    )

    @functools.partial(jax.jit, static_argnums=2)
    def loop(x: jax.Array, w: jax.Array, repeats: int) -> jax.Array:
        def body(_: int, carry: Any) -> Any:
            x, y = carry
            # A number of this product goes into the next factor, so that they run one by one.
            x = lax.dynamic_update_slice(x, y[:1, :1, :1], (0, 0, 0))
            return x, jnp.einsum(f"b{left},b{right}->b{output}", x, w)

        y = jnp.zeros((b, *(size[axis] for axis in output)), dtype)
        return lax.fori_loop(0, repeats, body, (x, y))[1]

    def seconds() -> float:
        x, w = jax.block_until_ready(factors())
        began = time.perf_counter()
        loop(x, w, repeats).block_until_ready()
        return (time.perf_counter() - began) / repeats

    seconds()  # compiles
    return seconds
