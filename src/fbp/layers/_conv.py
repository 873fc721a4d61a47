"""Convolution of images and of sequences."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_params, require_trailing
from fbp.layers._convolution import correlate, spread, transposed, weight_gradient
from fbp.layers._window import Padding, Pair, Sides, Slide, Window

_LECUN_NORMAL = initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class Convolution(Layer):
    """What convolutions along one axis and two have in common: see `Conv2D`.

    Attributes:
      axes: names of the axes along which the window slides.
    """

    axes: ClassVar[str]

    n_in: int
    n_out: int
    kernel: Any = 3
    stride: Any = 1
    padding: Any = "SAME"
    dilation: Any = 1
    groups: int = 1
    bias: bool = True
    w_init: initializers.Initializer = _LECUN_NORMAL
    b_init: initializers.Initializer = initializers.zeros
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.groups < 1 or self.n_in % self.groups or self.n_out % self.groups:
            raise ValueError(
                f"{name_of(self)}: expected groups to divide n_in {self.n_in} and n_out "
                f"{self.n_out}, got {self.groups}"
            )
        self.window()

    def window(self) -> Window:
        return Window(self, self.kernel, self.stride, self.padding, self.dilation, self.axes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the parameters."""
        kernel = self.window().each(self.kernel)
        shapes: dict[str, tuple[int, ...]] = {"w": (*kernel, self.n_in // self.groups, self.n_out)}
        return shapes | {"b": (self.n_out,)} if self.bias else shapes

    def init(self, key: Array) -> dict[str, Array]:
        keys = dict(zip("wb", jax.random.split(key), strict=True))
        inits = {"w": self.w_init, "b": self.b_init}
        return {
            name: inits[name](keys[name], shape, self.dtype)
            for name, shape in self.shapes().items()
        }

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n_in,))
        require_params(self, params, **self.shapes())
        y = correlate(x, params["w"], self.window().over(x), self.groups)
        return y + params["b"] if self.bias else y, ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        slides = self.window().over(x)
        dparams = {"w": weight_gradient(x, dy, slides, self.groups)}
        if self.bias:
            dparams["b"] = at_least_float32(dy).sum(tuple(range(dy.ndim - 1)))
        dx = spread(dy, transposed(params["w"], self.groups), slides, self.groups)
        return like(dparams, params), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Conv2D(Convolution):
    """A small Dense that slides over an image, with the same weights at every position.

    Along one axis, where o is a position of the window, k an element of it, s the stride, d the
    dilation and p the padding before the first pixel (x is 0 outside the image):

        y[o]  = sum_k x[s o + d k - p] @ w[k] + b

    At position o, element k lies on pixel i exactly when i = s o + d k - p. So each gradient sums
    over the same triples (i, o, k), and is again a convolution:

        dx[i] = sum_k  dy[(i + p - d k) / s] @ w[k]^T      where s divides i + p - d k
        dw[k] = sum_o  x[s o + d k - p]^T @ dy[o]          summed over the batch axes too
        db    = sum_o  dy[o]

    dx is the transposed convolution, the forward of `ConvTranspose2D`. `fbp/layers/_convolution.py`
    says how XLA computes each of the three.

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

    axes = "HW"

    kernel: Pair = (3, 3)
    stride: Pair = 1
    padding: Padding = "SAME"
    dilation: Pair = 1


@dataclasses.dataclass(frozen=True)
class Conv1D(Convolution):
    """A small Dense that slides along a sequence: `Conv2D` of one axis, T.

        y[o]  = sum_k x[s o + d k - p] @ w[k] + b
        dx[i] = sum_k dy[(i + p - d k) / s] @ w[k]^T      where s divides i + p - d k
        dw[k] = sum_o x[s o + d k - p]^T @ dy[o]          summed over the batch axes too
        db    = sum_o dy[o]

    where o is a position of the window, k an element of it, s the stride, d the dilation and p the
    padding before the first place. See `Conv2D` for the derivation.

    With causal padding all of the padding is in front, p = d (kernel - 1), so that y[o] sees x only
    up to its own place (for a stride of 1). Then a sequence can be taken in parts: the state is the
    last d (kernel - 1) places of x.

    Shapes: x (..., T, n_in), w (kernel, n_in / groups, n_out), b (n_out,), y (..., T', n_out) with
    T' = floor((T + padding - d (kernel - 1) - 1) / s) + 1.

    Args:
      n_in: number of channels of x.
      n_out: number of channels of y.
      kernel: size of the window.
      stride: places from one position of the window to the next.
      padding: "SAME" gives T' = ceil(T / stride), and so does "CAUSAL", with all of it in front;
        "VALID" is no padding; a number is the padding of both sides; or (before, after).
      dilation: places from one element of the window to the next.
      groups, bias, w_init, b_init, dtype: as for `Conv2D`.

    Raises:
      ValueError: the last axis of x is not n_in; the window does not fit into the padded sequence;
        groups do not divide the channels; params are not of this layer; it is to be taken in parts
        and is not causal.
      TypeError: x is not a float array.

    Source: van den Oord et al., "WaveNet: A Generative Model for Raw Audio", arXiv:1609.03499, for
    causal stacks; and as for `Conv2D`.
    """

    axes = "T"

    kernel: int = 3
    stride: int = 1
    padding: Sides = "SAME"
    dilation: int = 1

    def start(self, params: dict[str, Array], x: Array, length: int) -> Array:
        # Whether the padding is causal depends on the length only where there is a stride.
        slide = self.window().along(0, 1)
        if (slide.s, slide.lo, slide.hi) != (1, slide.span - 1, 0):
            raise ValueError(
                f'{name_of(self)}: expected padding="CAUSAL" and stride=1 to go one place at a '
                f"time, got padding={self.padding!r} and stride={self.stride}"
            )
        return jnp.zeros((*x.shape[:-1], slide.span - 1, self.n_in), x.dtype)

    def steps(self, params: dict[str, Array], x: Array, state: Array) -> tuple[Array, Array]:
        seen = jnp.concatenate([state, jnp.moveaxis(x, 0, -2)], -2)
        slide = Slide(seen.shape[-2], self.kernel, 1, self.dilation, 0, 0)
        y = correlate(seen, params["w"], [slide], self.groups)
        y = y + params["b"] if self.bias else y
        return jnp.moveaxis(y, -2, 0), seen[..., len(x) :, :]
