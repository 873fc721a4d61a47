"""Convolution of images."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._layer import Array, Key, Layer, at_least_float32, like, require_params, require_trailing
from fbp.layers._window import Padding, Pair, Window, pair

_LECUN_NORMAL = initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class Conv2D(Layer):
    """A small Dense that slides over an image, with the same weights at every position.

    Along one axis, where o is a position of the window, k an element of it, s the stride, d the
    dilation and p the padding before the first pixel (x is 0 outside the image):

        y[o]  = sum_k x[s o + d k - p] @ w[k] + b

    At position o, element k lies on pixel i exactly when i = s o + d k - p. So each gradient sums
    over the same triples (i, o, k), and is again a convolution:

        dx[i] = sum_k  dy[(i + p - d k) / s] @ w[k]^T      where s divides i + p - d k
        dw[k] = sum_o  x[s o + d k - p]^T @ dy[o]          summed over the batch axes too
        db    = sum_o  dy[o]

    dx: dy is dilated, with s - 1 zeros between its elements, so that terms whose fraction is not
    whole are 0; the minus sign flips the window. This is the transposed convolution.
    dw: stride and dilation swap roles, since s multiplies the summed index o and d the free index
    k. The batch axis, which is summed over, acts as the channels, and dy as the window.

    Groups split the channels into independent convolutions: the g-th part of the output channels
    sees only the g-th part of the input channels.

    Shapes: x (..., H, W, n_in), w (kh, kw, n_in / groups, n_out), b (n_out,), y (..., H', W',
    n_out) with H' = floor((H + padding - d (kh - 1) - 1) / s) + 1.

    Args:
      n_in: number of channels of x.
      n_out: number of channels of y.
      kernel: size of the window.
      stride: pixels from one position of the window to the next.
      padding: "SAME" gives H' = ceil(H / stride); "VALID" is no padding; a number is the padding
        of all sides; or ((top, bottom), (left, right)).
      dilation: pixels from one element of the window to the next.
      groups: number of convolutions, each from n_in / groups to n_out / groups channels.
      bias: whether there is a b; without it params is {"w"} alone.
      w_init: initializer of w. LeCun normal: variance 1 / (kh kw n_in / groups).
      b_init: initializer of b.
      dtype: dtype of the parameters.

    Raises:
      ValueError: the last axis of x is not n_in; the window does not fit into the padded image;
        groups do not divide the channels; params are not of this layer.
      TypeError: x is not a float array.

    Source: LeCun et al., "Backpropagation Applied to Handwritten Zip Code Recognition", Neural
    Computation 1, 1989; Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
    arXiv:1603.07285.
    """

    n_in: int
    n_out: int
    kernel: Pair = (3, 3)
    stride: Pair = 1
    padding: Padding = "SAME"
    dilation: Pair = 1
    groups: int = 1
    bias: bool = True
    w_init: initializers.Initializer = _LECUN_NORMAL
    b_init: initializers.Initializer = initializers.zeros
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.groups < 1 or self.n_in % self.groups or self.n_out % self.groups:
            raise ValueError(
                f"Conv2D: expected groups to divide n_in {self.n_in} and n_out {self.n_out}, "
                f"got {self.groups}"
            )
        self._window()

    def _window(self) -> Window:
        return Window(self, self.kernel, self.stride, self.padding, self.dilation)

    def _w_shape(self) -> tuple[int, ...]:
        return (*pair(self.kernel), self.n_in // self.groups, self.n_out)

    def init(self, key: Array) -> dict[str, Array]:
        w_key, b_key = jax.random.split(key)
        params = {"w": self.w_init(w_key, self._w_shape(), self.dtype)}
        if self.bias:
            params["b"] = self.b_init(b_key, (self.n_out,), self.dtype)
        return params

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n_in,))
        bias = {"b": (self.n_out,)} if self.bias else {}
        require_params(self, params, w=self._w_shape(), **bias)
        slides = self._window().over(x)
        dtype = jnp.result_type(x, params["w"])
        y = lax.conv_general_dilated(
            _one_batch(x).astype(dtype),
            params["w"].astype(dtype),
            window_strides=pair(self.stride),
            padding=[(slide.lo, slide.hi) for slide in slides],
            rhs_dilation=pair(self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        y = y.reshape(*x.shape[:-3], *y.shape[1:])
        if self.bias:
            y = y + params["b"]
        return y, ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        dparams = {"w": self._dw(x, dy)}
        if self.bias:
            dparams["b"] = at_least_float32(dy).sum(tuple(range(dy.ndim - 1)))
        return like(dparams, params), self._dx(params["w"], x, dy).astype(x.dtype)

    def _dx(self, w: Array, x: Array, dy: Array) -> Array:
        # Input and output channels swap, within each group.
        kh, kw, n_in, n_out = w.shape
        w = w[::-1, ::-1].reshape(kh, kw, n_in, self.groups, n_out // self.groups)
        w = w.transpose(0, 1, 4, 3, 2).reshape(kh, kw, n_out // self.groups, self.n_in)
        dtype = jnp.result_type(dy, w)
        dx = lax.conv_general_dilated(
            _one_batch(dy).astype(dtype),
            w.astype(dtype),
            window_strides=(1, 1),
            padding=[slide.back for slide in self._window().over(x)],
            lhs_dilation=pair(self.stride),
            rhs_dilation=pair(self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return dx.reshape(x.shape)

    def _dw(self, x: Array, dy: Array) -> Array:
        # The padding on the right for which dy has one position per weight. It is negative, a crop,
        # where the stride leaves pixels over.
        padding = [
            (slide.lo, slide.reach + slide.span - 1 - slide.n - slide.lo)
            for slide in self._window().over(x)
        ]
        dtype = jnp.result_type(x, dy)
        return lax.conv_general_dilated(
            _one_batch(x).astype(dtype),
            _one_batch(dy).astype(dtype),
            window_strides=pair(self.dilation),
            padding=padding,
            rhs_dilation=pair(self.stride),
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            batch_group_count=self.groups,
            preferred_element_type=jnp.promote_types(dtype, jnp.float32),
        )


def _one_batch(x: Array) -> Array:
    """Returns x with all batch axes merged into one."""
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
