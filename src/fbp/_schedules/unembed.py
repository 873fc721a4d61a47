"""The schedule of a head and its loss: chunks of tokens, of sizes that a GPU's products like.

The equations are those of `UnembedCrossEntropy`, of one chunk. Here they are called with a chunk at
a time, so that the logits of no more exist.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from fbp._layer import Array


class Tokens(NamedTuple):
    """Vectors (N, D), labels (N,), and what each contributes to the mean."""

    y: Array
    label: Array
    share: Array


# A GPU's products are several times faster where every axis is a multiple of this.
_ALIGNED = 64
# With fewer logits than this, 4 MiB in float32, the head is little of a step.
_FEWEST_LOGITS = 2**20
_LOGITS = 2**25

Turn = Callable[[Array, Tokens], tuple[Array, Any]]
Gradients = Callable[[Array, Tokens], tuple[Array, Array, Array]]


def value(turn: Turn, w: Array, tokens: Tokens, most: int | None) -> Array:
    """The loss of all tokens, by a function of w and a chunk that gives it first.

    Args:
      turn: the loss of a chunk, and what else it gives, which is left aside.
      w: (V, D); rows of zeros may come behind it.
      tokens: all of them.
      most: tokens a chunk; None for as many as have 2^25 logits, and at most 1,024.
    """

    def run(align: int, w: Array, tokens: Tokens) -> Array:
        n, w = len(w), _aligned(w, align)

        def add(value: Array, chunk: Tokens) -> tuple[Array, None]:
            return value + turn(w, chunk)[0], None

        zero = jnp.zeros((), tokens.share.dtype)
        return lax.scan(add, zero, chunks_of(tokens, n, most, align))[0]

    return _by_platform(run, w, tokens, most)


def value_and_grad(
    gradients: Gradients, w: Array, tokens: Tokens, most: int | None
) -> tuple[Array, Array, Array]:
    """The loss, dw and dy of all tokens, by a function that gives those of w and a chunk."""

    def run(align: int, w: Array, tokens: Tokens) -> tuple[Array, Array, Array]:
        n, w = len(w), _aligned(w, align)

        def add(sums: tuple[Array, Array], chunk: Tokens) -> tuple[tuple[Array, Array], Array]:
            value, dw, dy = gradients(w, chunk)
            return (sums[0] + value, sums[1] + dw), dy

        wide = jnp.promote_types(jnp.result_type(tokens.y, w), jnp.float32)
        zeros = jnp.zeros((), tokens.share.dtype), jnp.zeros(w.shape, wide)
        (value, dw), dy = lax.scan(add, zeros, chunks_of(tokens, n, most, align))
        return value, dw[:n], dy.reshape(-1, w.shape[-1])[: tokens.y.shape[0]]

    return _by_platform(run, w, tokens, most)


def chunks_of(tokens: Tokens, classes: int, most: int | None, align: int = 1) -> Tokens:
    """Tokens cut into chunks, the last one filled up with some that do not count."""
    n, size = _sizes(tokens.y.shape[0], classes, most, align)

    def cut(a: Array) -> Array:
        a = jnp.pad(a, ((0, n * size - len(a)), *((0, 0),) * (a.ndim - 1)))
        return a.reshape(n, size, *a.shape[1:])

    return Tokens(*map(cut, tokens))


def _sizes(tokens: int, classes: int, most: int | None, align: int) -> tuple[int, int]:
    """How many chunks there are, and of how many tokens: all of about as many."""
    most = most or max(1, min(1024, _LOGITS // classes))
    n = -(-tokens // most)
    return n, min(most, _up(-(-tokens // max(1, n)), align))


def _by_platform(run: Callable[..., Any], w: Array, tokens: Tokens, most: int | None) -> Any:
    """run, with every axis rounded up in a program for a GPU."""

    def plain(w: Array, tokens: Tokens) -> Any:
        return run(1, w, tokens)

    def aligned(w: Array, tokens: Tokens) -> Any:
        return run(_ALIGNED, w, tokens)

    rows, classes = tokens.y.shape[0], len(w)
    sizes = [(_up(classes, align), _sizes(rows, classes, most, align)) for align in (1, _ALIGNED)]
    if sizes[0] == sizes[1] or rows * classes < _FEWEST_LOGITS:
        return plain(w, tokens)
    return lax.platform_dependent(w, tokens, cuda=aligned, rocm=aligned, default=plain)


def _aligned(w: Array, align: int) -> Array:
    """w, with rows of zeros behind it."""
    return jnp.pad(w, ((0, _up(len(w), align) - len(w)), (0, 0)))


def _up(n: int, align: int) -> int:
    return -(-n // align) * align
