"""Blocks of queries and of keys for the kernels of attention, and which of them interact."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fbp._layer import Array

# Queries and keys in a block: of the sizes tried on an H200 in bfloat16, fastest in every kernel.
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks of queries and of keys: their sizes, their scores, and which of them interact.

    Attributes:
      how: the `FusedAttention`.
      n_keys: number of keys, without padding.
      queries: number of queries in a block.
      keys: number of keys in a block.
    """

    how: Any
    n_keys: int
    queries: int = _BLOCK
    keys: int = _BLOCK

    def run(
        self,
        kernel: Callable[..., None],
        ins: str,
        arrays: Sequence[Array],
        outs: str,
        shapes: Sequence[Any],
    ) -> Any:
        """Runs a kernel. `ins` and `outs` have a letter for each array, which says what a program
        gets of it: a block of queries ("q"), a block of keys ("k"), or all ("_")."""
        rows, keys = arrays[0].shape[1], arrays[1].shape[1]
        # Wide heads need smaller blocks to fit into shared memory.
        width = max(a.shape[2] * a.dtype.itemsize for a in arrays[:3])
        block = min(_BLOCK, max(16, 2**14 // width))
        of = dataclasses.replace(self, queries=min(block, rows), keys=min(block, keys))
        sizes = {"q": of.queries, "k": of.keys}

        def spec(along: str, a: Any) -> pl.BlockSpec:
            block = (None, sizes.get(along, a.shape[1]), *a.shape[2:])
            rest = (0,) * (a.ndim - 2)
            return pl.BlockSpec(block, lambda n, i: (n, i if along in sizes else 0, *rest))

        return pl.pallas_call(
            functools.partial(kernel, of),
            grid=(len(arrays[0]), rows // of.queries if outs[0] == "q" else keys // of.keys),
            in_specs=[spec(*pair) for pair in zip(ins, arrays, strict=True)],
            out_specs=[spec(*pair) for pair in zip(outs, shapes, strict=True)],
            out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in shapes],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=3 if width <= 128 else 2),
            interpret=self.how.interpret,
            name=kernel.__name__.strip("_"),
        )(*arrays)

    def scores(self, q: Array, k: Array, i: Array, j: Array) -> Array:
        """Returns s for block i of queries and block j of keys."""
        how = self.how
        s = how.scale * triton.dot(q, k, trans_b=True)
        if how.softcap is not None:
            s = how.softcap * jnp.tanh(s / how.softcap)
        key = j * self.keys + lax.iota(jnp.int32, self.keys)
        sees = (key < self.n_keys)[None, :]
        if how.causal:
            row = i * self.queries + lax.iota(jnp.int32, self.queries)
            place = _quotient(row, how.each)
            behind = place[:, None] - key[None, :]
            sees &= behind >= 0
            if self.window is not None:
                sees &= behind < self.window
        return jnp.where(sees, s, unseen(s.dtype))

    def dscores(self, s: Array, p: Array, dp: Array, d: Array) -> Array:
        """Returns scale * ds, from which dq and dk are computed."""
        ds = p * (dp - d[:, None])
        if self.how.softcap is not None:
            ds = ds * (1 - jnp.where(s == unseen(s.dtype), 0, s / self.how.softcap) ** 2)
        return self.how.scale * ds

    @property
    def window(self) -> int | None:
        """The window, limited to the number of keys so that sums with it do not overflow int32."""
        return None if self.how.window is None else min(self.how.window, self.n_keys)

    def keys_of(self, i: Array) -> tuple[Any, Any]:
        """Returns (first, stop) of the blocks of keys that block i of queries sees."""
        after = pl.cdiv(self.n_keys, self.keys)
        if not self.how.causal:
            return 0, after
        first = _quotient(i * self.queries, self.how.each)
        last = _quotient((i + 1) * self.queries - 1, self.how.each)
        start: Any = 0
        if self.window is not None:
            start = _quotient(jnp.maximum(first - self.window + 1, 0), self.keys)
        return start, jnp.minimum(_quotient(last, self.keys) + 1, after)

    def queries_of(self, j: Array, rows: int) -> tuple[Any, Any]:
        """Returns (first, stop) of the blocks of queries that see block j of keys."""
        after = rows // self.queries
        if not self.how.causal:
            return 0, after
        start = _quotient(j * self.keys * self.how.each, self.queries)
        if self.window is None:
            return start, after
        last = ((j + 1) * self.keys + self.window - 1) * self.how.each - 1
        return start, jnp.minimum(_quotient(last, self.queries) + 1, after)


def unseen(dtype: Any) -> float:
    """Returns the score of a key that is not seen. Finite, since -inf - (-inf) is NaN."""
    return float(jnp.finfo(dtype).min)


def _quotient(a: Array, b: int) -> Array:
    """Returns a // b for nonnegative a and positive b, in one instruction."""
    return lax.div(a, jnp.asarray(b, a.dtype))


def padded(a: Array) -> Array:
    """Pads a with zeros: the rows to a power of two, or to a multiple of 64 beyond 64, and the
    columns to a power of two; to at least 16 each."""
    block = min(_BLOCK, max(16, pl.next_power_of_2(a.shape[1])))
    rows = block * pl.cdiv(a.shape[1], block)
    columns = [max(16, pl.next_power_of_2(n)) for n in a.shape[2:]]
    more = zip((rows, *columns), a.shape[1:], strict=True)
    return jnp.pad(a, [(0, 0), *((0, size - n) for size, n in more)])
