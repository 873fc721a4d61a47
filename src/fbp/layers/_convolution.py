"""The three products of a convolution, along one axis or two.

At position o, element k of the window lies on pixel i = s o + d k - p (see `Slide`). The triples
(i, o, k) for which this holds are all that x[i], y[o] and w[k] have to do with one another, and
each function sums over them for one of the three:

    correlate        y[o] = sum_k x[i] @ w[k]
    spread           x[i] = sum_k y[o] @ w[k]           where s divides i + p - d k
    weight_gradient  w[k] = sum_o x[i]^T @ y[o]

The transpose of the first is the second with w[k]^T, and the other way round.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from fbp._layer import Array
from fbp.layers._window import Slide

Slides = Sequence[Slide]


def correlate(x: Array, w: Array, slides: Slides, groups: int = 1) -> Array:
    """y[o] = sum_k x[s o + d k - p] @ w[k].

    Shapes: x (..., *n, n_in), w (*k, n_in / groups, n_out), y (..., *m, n_out).
    """
    dtype = jnp.result_type(x, w)
    y = lax.conv_general_dilated(
        _one_batch(x, slides).astype(dtype),
        w.astype(dtype),
        window_strides=[slide.s for slide in slides],
        padding=[(slide.lo, slide.hi) for slide in slides],
        rhs_dilation=[slide.d for slide in slides],
        dimension_numbers=_axes(slides, "N_C", "_IO", "N_C"),
        feature_group_count=groups,
    )
    return y.reshape(*x.shape[: -1 - len(slides)], *y.shape[1:])


def spread(y: Array, w: Array, slides: Slides, groups: int = 1) -> Array:
    """x[i] = sum_k y[(i + p - d k) / s] @ w[k].

    Shapes: y (..., *m, n_in), w (*k, n_in / groups, n_out), x (..., *n, n_out).

    y is dilated, with s - 1 zeros between its elements, so that terms whose fraction is not whole
    are 0; the minus sign flips the window.
    """
    dtype = jnp.result_type(y, w)
    x = lax.conv_general_dilated(
        _one_batch(y, slides).astype(dtype),
        jnp.flip(w, range(len(slides))).astype(dtype),
        window_strides=[1] * len(slides),
        padding=[slide.back for slide in slides],
        lhs_dilation=[slide.s for slide in slides],
        rhs_dilation=[slide.d for slide in slides],
        dimension_numbers=_axes(slides, "N_C", "_IO", "N_C"),
        feature_group_count=groups,
    )
    return x.reshape(*y.shape[: -1 - len(slides)], *x.shape[1:])


def weight_gradient(x: Array, y: Array, slides: Slides, groups: int = 1) -> Array:
    """w[k] = sum_o x[s o + d k - p]^T @ y[o], over the batch axes too, in at least float32.

    Shapes: x (..., *n, n_in), y (..., *m, n_out), w (*k, n_in / groups, n_out).

    Stride and dilation swap roles, since s multiplies the summed index o and d the free index k.
    The batch axis, which is summed over, acts as the channels, and y as the window.
    """
    # The padding on the right for which y has one position per weight. It is negative, a crop,
    # where the stride leaves pixels over.
    padding = [(slide.lo, slide.reach + slide.span - 1 - slide.n - slide.lo) for slide in slides]
    dtype = jnp.result_type(x, y)
    return lax.conv_general_dilated(
        _one_batch(x, slides).astype(dtype),
        _one_batch(y, slides).astype(dtype),
        window_strides=[slide.d for slide in slides],
        padding=padding,
        rhs_dilation=[slide.s for slide in slides],
        dimension_numbers=_axes(slides, "C_N", "I_O", "_NC"),
        batch_group_count=groups,
        preferred_element_type=jnp.promote_types(dtype, jnp.float32),
    )


def transposed(w: Array, groups: int = 1) -> Array:
    """Swaps input and output channels within each group: from (*k, n_in / groups, n_out) to
    (*k, n_out / groups, n_in)."""
    *k, n_in, n_out = w.shape
    w = w.reshape(*k, n_in, groups, n_out // groups).swapaxes(-1, -3)
    return w.reshape(*k, n_out // groups, groups * n_in)


def _axes(slides: Slides, x: str, w: str, y: str) -> tuple[str, str, str]:
    """Names the axes of x, w and y, with those that the window slides along for the "_"."""
    along = "HW"[: len(slides)]
    return x.replace("_", along), w.replace("_", along), y.replace("_", along)


def _one_batch(x: Array, slides: Slides) -> Array:
    """Returns x with all batch axes merged into one."""
    kept = 1 + len(slides)
    return x.reshape(math.prod(x.shape[:-kept]), *x.shape[-kept:])
