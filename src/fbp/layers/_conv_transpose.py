"""Transposed convolution: from small images to large ones."""

import dataclasses
from typing import Any

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, name_of
from fbp._require import require_params, require_trailing
from fbp.layers._conv import Convolution
from fbp.layers._convolution import correlate, spread, transposed, weight_gradient
from fbp.layers._window import Padding, Pair, Slide


@dataclasses.dataclass(frozen=True)
class ConvTranspose2D(Convolution):
    """Every pixel adds a window of outputs: what `Conv2D` does to gradients.

    Along one axis, where o is a pixel of x, k an element of the window, i a pixel of y, s the
    stride, d the dilation and p the padding:

        y[i]  = sum_k x[(i + p - d k) / s] @ w[k] + b      where s divides i + p - d k
        dx[o] = sum_k dy[s o + d k - p] @ w[k]^T
        dw[k] = sum_o x[o]^T @ dy[s o + d k - p]           summed over the batch axes too
        db    = sum_i dy[i]

    `Conv2D` with the weights w[k]^T, from n_out channels to n_in, sums over the same triples with
    i = s o + d k - p: its dx is this forward, its forward this dx, and its dw, with x and dy in
    each other's places, this dw transposed.

    Several sizes of y have a convolution of the size of x. With "SAME" y is the largest of them,
    s times as large as x; otherwise it is the smallest, as in PyTorch with an output_padding of 0.
    (An output_padding is less padding behind: PyTorch's padding=1, output_padding=1 is
    padding=((1, 0), (1, 0)).)

    Shapes: x (..., H, W, n_in), w (kh, kw, n_in / groups, n_out), b (n_out,), y (..., H', W',
    n_out) with H' = s H for "SAME", else s (H - 1) + d (kh - 1) + 1 - padding.

    Args:
      n_in: number of channels of x.
      n_out: number of channels of y.
      kernel: size of the window.
      stride: pixels of y from the window of one pixel of x to that of the next.
      padding: "SAME", or what is cut off y: "VALID" for nothing; a number for all sides; or
        ((top, bottom), (left, right)).
      dilation: pixels from one element of the window to the next.
      groups, bias, w_init, b_init, dtype: as for `Conv2D`.

    Raises:
      ValueError: the last axis of x is not n_in; the padding leaves nothing of y; groups do not
        divide the channels; params are not of this layer.
      TypeError: x is not a float array.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
    arXiv:1603.07285.
    """

    axes = "HW"

    kernel: Pair = (3, 3)
    stride: Pair = 1
    padding: Padding = "SAME"
    dilation: Pair = 1

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n_in,))
        require_params(self, params, **self.shapes())
        y = spread(x, params["w"], self._slides(x), self.groups)
        return y + params["b"] if self.bias else y, ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        slides = self._slides(x)
        dw = weight_gradient(dy, x, slides, self.groups)
        dparams = {"w": transposed(dw, self.groups)}
        if self.bias:
            dparams["b"] = at_least_float32(dy).sum(tuple(range(dy.ndim - 1)))
        dx = correlate(dy, transposed(params["w"], self.groups), slides, self.groups)
        return like(dparams, params), dx.astype(x.dtype)

    def _slides(self, x: Array) -> list[Slide]:
        """The slides of the window over y, at as many positions as x has pixels."""
        if x.ndim < 3:
            raise ValueError(
                f"{name_of(self)}: expected x to have axes (..., H, W, C), got shape {x.shape}"
            )
        slides = [self._along(axis, x.shape[axis - 3]) for axis in (0, 1)]
        if min(slide.n for slide in slides) < 1 or 0 in x.shape[-3:-1]:
            raise ValueError(
                f"{name_of(self)}: expected x and padding {self.padding} to leave pixels of y, "
                f"got shape {x.shape}"
            )
        return slides

    def _along(self, axis: int, m: int) -> Slide:
        window = self.window()
        slide = window.along(axis, window.each(self.stride)[axis] * m)
        if self.padding == "SAME":
            return slide
        return dataclasses.replace(slide, n=slide.s * (m - 1) + slide.span - slide.lo - slide.hi)
