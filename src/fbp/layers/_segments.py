"""SegmentSum and Gather: sums by integers, and their transpose. What a graph network is made of."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import at_least_float32, at_least_int32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float


@dataclasses.dataclass(frozen=True)
class SegmentSum(Layer):
    """Sums the rows that have the same integer, as messages that arrive at the same node.

        y[s]      = sum of values[e] over all e with segments[e] = s
        dvalues   = dy[segments]
        dsegments = None                                                an integer has no gradient

    Each is the transpose of `Gather`. A row whose segment is outside 0..n-1 counts nowhere, and its
    gradient is 0, as in `jax.ops.segment_sum`: padding can have the segment n. Segments need not be
    sorted, and one without rows is 0.

    Shapes: x = {"values": (..., E, *D), "segments": (..., E) of integers}, y (..., n, *D). The
    batch axes are those of segments before its last; *D may be any number of axes.

    Args:
      n: number of segments.

    Raises:
      ValueError: n is below 1; x is no such dict; the first axes of values are not those of
        segments.
      TypeError: values are not floats, or segments not integers.

    Source: Gilmer et al., "Neural Message Passing for Quantum Chemistry", arXiv:1704.01212.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"{name_of(self)}: expected n of 1 or more, got {self.n}")

    def forward(self, params: tuple[()], x: Any, key: Key = None) -> tuple[Array, Any]:
        values, segments = _unpacked(self, x, "segments")
        if values.shape[: segments.ndim] != segments.shape:
            raise ValueError(
                f"{name_of(self)}: expected values with the first axes of segments, "
                f"{segments.shape}, got shape {values.shape}"
            )
        return _added(values, segments, self.n), ()

    def backward(self, params: tuple[()], x: Any, res: Any, dy: Array) -> tuple[Any, Any]:
        segments = at_least_int32(x["segments"])
        return (), {"values": _gathered(dy, segments), "segments": None}


@dataclasses.dataclass(frozen=True)
class Gather(Layer):
    """Reads rows by integers, as an edge reads the node that it comes from.

        y[e]       = values[index[e]]
        dvalues[i] = sum of dy[e] over all e with index[e] = i
        dindex     = None                                               an integer has no gradient

    Each is the transpose of `SegmentSum`. An index outside 0..N-1 reads zeros and takes no
    gradient: a negative one does not count from the end, and padding can have the index N. (Like
    `Embedding`, with rows that are not parameters.)

    Shapes: x = {"values": (..., N, *D), "index": (..., E) of integers}, y (..., E, *D). The batch
    axes are those of index before its last; *D may be any number of axes.

    Raises:
      ValueError: x is no such dict; values and index differ in their batch axes.
      TypeError: values are not floats, or index not integers.

    Source: as for `SegmentSum`.
    """

    def forward(self, params: tuple[()], x: Any, key: Key = None) -> tuple[Array, Any]:
        values, index = _unpacked(self, x, "index")
        if values.ndim < index.ndim or values.shape[: index.ndim - 1] != index.shape[:-1]:
            raise ValueError(
                f"{name_of(self)}: expected values (..., N, *D) and index (..., E) with the same "
                f"batch axes, got shapes {values.shape} and {index.shape}"
            )
        return _gathered(values, index), ()

    def backward(self, params: tuple[()], x: Any, res: Any, dy: Array) -> tuple[Any, Any]:
        values, index = x["values"], at_least_int32(x["index"])
        dvalues = _added(dy, index, values.shape[index.ndim - 1])
        return (), {"values": dvalues, "index": None}


def _unpacked(layer: Layer, x: Any, name: str) -> tuple[Array, Array]:
    """Returns the values and the integers of x, checked."""
    if not isinstance(x, dict) or set(x) != {"values", name}:
        raise ValueError(
            f'{name_of(layer)}: expected x = {{"values": ..., "{name}": ...}}, got {described(x)}'
        )
    values, integers = x["values"], x[name]
    require_float(layer, values, "values")
    dtype = getattr(integers, "dtype", type(integers).__name__)
    if not (hasattr(integers, "dtype") and jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{name_of(layer)}: expected {name} to be an integer array, got {dtype}")
    if not integers.ndim:
        raise ValueError(f"{name_of(layer)}: expected {name} (..., E), got a scalar")
    return values, at_least_int32(integers)


def _rows(integers: Array, n: int) -> Array:
    """Returns the rows, of all examples one below the other, that (..., E) integers name.

    What is outside 0..n-1 names a row behind all others: not one of the next example.
    """
    batch = math.prod(integers.shape[:-1])
    first = n * jnp.arange(batch, dtype=integers.dtype).reshape(*integers.shape[:-1], 1)
    return jnp.where((integers >= 0) & (integers < n), integers + first, batch * n)


def _gathered(values: Array, integers: Array) -> Array:
    """Returns the rows of values (..., N, *D), 0 for integers outside 0..N-1: (..., E, *D)."""
    n, *size = values.shape[integers.ndim - 1 :]
    flat = values.reshape(math.prod(values.shape[: integers.ndim]), *size)
    return flat.at[_rows(integers, n)].get(mode="fill", fill_value=0)


def _added(values: Array, integers: Array, n: int) -> Array:
    """Returns the sums of rows (..., E, *D) with equal integers, in at least float32 and rounded to
    the dtype of values: (..., n, *D)."""
    batch, size = integers.shape[:-1], values.shape[integers.ndim :]
    wide = at_least_float32(values)
    y = jnp.zeros((math.prod(batch) * n, *size), wide.dtype)
    y = y.at[_rows(integers, n)].add(wide, mode="drop")
    return y.reshape(*batch, n, *size).astype(values.dtype)
