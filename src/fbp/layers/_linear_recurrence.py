"""A linear recurrence, over all places of a sequence at once."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from fbp._described import described
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float

# {"a": ..., "b": ...}
Line = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class LinearRecurrence(Layer):
    """A state that decays and is added to: what state space models and gated linear RNNs have.

        h_t  = a_t h_{t-1} + b_t            h_{-1} = 0,  y_t = h_t

        dh_t = dy_t + a_{t+1} dh_{t+1}      dh_T = 0
        da_t = dh_t h_{t-1}
        db_t = dh_t

    for each number of a place by itself. The gradient is the same recurrence from the other end.
    Two steps one after another are one step, h -> a' (a h + b) + b' = (a' a) h + (a' b + b'), and
    which steps are put together first does not matter. So T steps take about 2 log T rounds, each
    of them parallel, instead of T (`lax.associative_scan`), forward and backward.

    Computed in at least float32. res is y, which is all of h that the backward needs. Where y goes
    on to a layer that keeps its x, the two are one array; computing y again from a and b would take
    as long as the forward.

    In parts, the state is the last h, in at least float32.

    Shapes: x = {"a": (..., T, D), "b": (..., T, D)} of one shape, y (..., T, D).

    Raises:
      ValueError: x is no such dict; a and b differ in shape or have no axis T.
      TypeError: a or b is not a float array.

    Source: Blelloch, "Prefix Sums and Their Applications", 1990; Martin and Cundy, "Parallelizing
    Linear Recurrent Neural Nets Over Sequence Length", arXiv:1709.04057.
    """

    def forward(self, params: tuple[()], x: Line, key: Key = None) -> tuple[Array, Array]:
        self._require(x, 2)
        y = _scan(x["a"], x["b"], -2)
        y = y.astype(jnp.result_type(x["a"], x["b"]))
        return y, y

    def backward(self, params: tuple[()], x: Line, res: Array, dy: Array) -> tuple[Any, Line]:
        # At t, a_{t+1}. Whatever stands at the last place meets no gradient from beyond it.
        later = jnp.roll(x["a"], -1, -2)
        dh = _scan(later, dy, -2, reverse=True)
        da = dh * _earlier(res)
        return (), {"a": da.astype(x["a"].dtype), "b": dh.astype(x["b"].dtype)}

    def start(self, params: tuple[()], x: Line, length: int) -> Array:
        self._require(x, 1)
        dtype = jnp.result_type(x["a"].dtype, x["b"].dtype)
        return jnp.zeros(x["a"].shape, jnp.promote_types(dtype, jnp.float32))

    def steps(self, params: tuple[()], x: Line, state: Array) -> tuple[Array, Array]:
        # The state is one more step, in front: h = 0 h + state.
        a = jnp.concatenate([jnp.zeros_like(state[None]), x["a"]])
        b = jnp.concatenate([state[None], x["b"]])
        h = _scan(a, b, 0)
        return h[1:].astype(jnp.result_type(x["a"], x["b"])), h[-1]

    def _require(self, x: Any, axes: int) -> None:
        shape = "(..., T, D)" if axes == 2 else "(..., D)"
        if not isinstance(x, dict) or set(x) != {"a", "b"}:
            got = described(x)
            raise ValueError(f'{name_of(self)}: expected x = {{"a": ..., "b": ...}}, got {got}')
        for name in "ab":
            require_float(self, x[name], name)
        if x["a"].shape != x["b"].shape or x["a"].ndim < axes:
            raise ValueError(
                f"{name_of(self)}: expected a and b of one shape {shape}, "
                f"got {x['a'].shape} and {x['b'].shape}"
            )


def _scan(a: Array, b: Array, axis: int, reverse: bool = False) -> Array:
    """Returns h along an axis, in at least float32; from its end, if `reverse`."""

    def after(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        (a, b), (a_then, b_then) = first, then
        return a_then * a, a_then * b + b_then

    dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return lax.associative_scan(after, (a.astype(dtype), b.astype(dtype)), reverse, axis % a.ndim)[
        1
    ]


def _earlier(h: Array) -> Array:
    """At t, h_{t-1}; 0 at the first place."""
    axes = (*((0, 0, 0),) * (h.ndim - 2), (1, -1, 0), (0, 0, 0))
    return lax.pad(h, jnp.zeros((), h.dtype), axes)
