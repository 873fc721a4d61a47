"""Schedule of `UnembedCrossEntropy`: chunks of tokens, in sizes that are fast on a GPU.

The equations of one chunk are in `UnembedCrossEntropy`. Here they are called with one chunk at a
time, so that only the logits of one chunk exist.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array


class Tokens(NamedTuple):
    """Vectors (N, D), labels (N,), and each token's coefficient in the mean loss (N,)."""

    y: Array
    label: Array
    share: Array


# Matrix products on a GPU are several times faster if every axis is a multiple of this.
_ALIGNED = 64
# With fewer logits than this, 4 MiB in float32, the head takes a small part of a step's time.
_FEWEST_LOGITS = 2**20
_LOGITS = 2**25

Turn = Callable[[Array, Tokens], tuple[Array, Any]]
Gradients = Callable[[Array, Tokens], tuple[Array, Array, Array]]


def value(turn: Turn, w: Array, tokens: Tokens, most: int | None, parts: int = 1) -> Array:
    """Returns the loss of all tokens.

    Args:
      turn: maps w and a chunk to the chunk's loss and a second value, which is not used.
      w: (V, D); `turn` may get it with rows of zeros appended.
      tokens: all tokens.
      most: largest number of tokens in a chunk; None for 1,024, or fewer so that a chunk has at
        most 2^25 logits.
      parts: tokens lie in this many parts side by side, as on so many devices: each chunk has as
        many of every part, and the sums of the parts are added once, at the end.
    """

    def run(align: int, w: Array, tokens: Tokens) -> Array:
        n, w = len(w), _aligned(w, align)

        def add(value: Array, chunk: Tokens) -> tuple[Array, None]:
            return value + turn(w, chunk)[0], None

        def of_part(tokens: Tokens) -> Array:
            zero = jnp.zeros((), tokens.share.dtype)
            return lax.scan(add, zero, chunks_of(tokens, n, most, align))[0]

        return _of_parts(of_part, tokens, parts).sum(0)

    return _by_platform(run, w, tokens, most)


def value_and_grad(
    gradients: Gradients, w: Array, tokens: Tokens, most: int | None, parts: int = 1
) -> tuple[Array, Array, Array]:
    """Returns the loss, dw and dy of all tokens, from a function that computes them for a chunk."""

    def run(align: int, w: Array, tokens: Tokens) -> tuple[Array, Array, Array]:
        n, w = len(w), _aligned(w, align)

        def add(sums: tuple[Array, Array], chunk: Tokens) -> tuple[tuple[Array, Array], Array]:
            value, dw, dy = gradients(w, chunk)
            return (sums[0] + value, sums[1] + dw), dy

        wide = jnp.promote_types(jnp.result_type(tokens.y, w), jnp.float32)

        def of_part(tokens: Tokens) -> tuple[Array, Array, Array]:
            zeros = jnp.zeros((), tokens.share.dtype), jnp.zeros(w.shape, wide)
            (value, dw), dy = lax.scan(add, zeros, chunks_of(tokens, n, most, align))
            return value, dw[:n], dy.reshape(-1, w.shape[-1])[: tokens.y.shape[0]]

        value, dw, dy = _of_parts(of_part, tokens, parts)
        return value.sum(0), dw.sum(0), dy.reshape(-1, w.shape[-1])

    return _by_platform(run, w, tokens, most)


def _of_parts(of_part: Callable[[Tokens], Any], tokens: Tokens, parts: int) -> Any:
    """What is computed of each part of the tokens, by itself."""
    if parts == 1 or tokens.y.shape[0] % parts:
        return jax.tree.map(lambda a: a[None], of_part(tokens))
    cut = Tokens(*(a.reshape(parts, -1, *a.shape[1:]) for a in tokens))
    return jax.vmap(of_part)(cut)


def chunks_of(tokens: Tokens, classes: int, most: int | None, align: int = 1) -> Tokens:
    """Splits tokens into chunks; the last one is padded with tokens of share 0."""
    n, size = _sizes(tokens.y.shape[0], classes, most, align)

    def cut(a: Array) -> Array:
        a = jnp.pad(a, ((0, n * size - len(a)), *((0, 0),) * (a.ndim - 1)))
        return a.reshape(n, size, *a.shape[1:])

    return Tokens(*map(cut, tokens))


def _sizes(tokens: int, classes: int, most: int | None, align: int) -> tuple[int, int]:
    """Returns the number of chunks and the number of tokens in each."""
    most = most or max(1, min(1024, _LOGITS // classes))
    n = -(-tokens // most)
    return n, min(most, _up(-(-tokens // max(1, n)), align))


def _by_platform(run: Callable[..., Any], w: Array, tokens: Tokens, most: int | None) -> Any:
    """Calls `run`, with every axis rounded up in a program for a GPU."""

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
    """Returns w with rows of zeros appended, up to a multiple of `align`."""
    return jnp.pad(w, ((0, _up(len(w), align) - len(w)), (0, 0)))


def _up(n: int, align: int) -> int:
    return -(-n // align) * align
