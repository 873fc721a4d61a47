"""A residual network for small images."""

import functools
from collections.abc import Callable, Sequence

import jax

from fbp._layer import Layer
from fbp.combinators import Residual, Serial, Sum
from fbp.layers import Conv2D, Dense, GlobalAvgPool2D, GroupNorm, Relu

_HE_NORMAL = jax.nn.initializers.he_normal()


def convnet(
    n_in: int = 3,
    n_out: int = 10,
    widths: Sequence[int] = (64, 128, 256),
    blocks: int = 2,
    norm: Callable[[int], Layer] = functools.partial(GroupNorm, 8),  # noqa: B008
    activation: Layer = Relu(),  # noqa: B008
) -> Serial:
    """A residual network: images (..., H, W, n_in) in, scores (..., n_out) out.

    A convolution; a stage of residual blocks for each width, where every stage but the first halves
    the image; the mean over the remaining pixels; a Dense. It takes images of any size. The
    defaults, for CIFAR's 32x32 pixels in 3 colours, have 2.8 million parameters.

    Its params are named stem, norm, stage_1, ... stage_n, dense. The weights of convolutions start
    at He's variance.

    Args:
      n_in: channels of the image: 3 for colour, 1 for grey.
      n_out: the number of scores, one for each class.
      widths: channels of each stage.
      blocks: residual blocks in each stage.
      norm: makes a normalization of a given number of channels; by default a GroupNorm of 8 groups.
        `fbp.BatchNorm` is another.
      activation: a Layer.

    Raises:
      ValueError: no widths or no blocks; or `norm` raises it, for example if 8 does not divide a
        width.

    Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    if not widths or blocks < 1:
        raise ValueError(
            f"convnet: expected a width and a block or more, got {tuple(widths)} and {blocks}"
        )
    stages: dict[str, Layer] = {}
    n = widths[0]
    for i, width in enumerate(widths, start=1):
        first = _block(n, width, norm, activation, stride=1 if i == 1 else 2)
        rest = [_block(width, width, norm, activation) for _ in range(blocks - 1)]
        stages[f"stage_{i}"] = Serial(first, *rest)
        n = width
    return Serial(
        stem=_conv(n_in, widths[0], 3),
        norm=norm(widths[0]),
        activation=activation,
        **stages,
        pool=GlobalAvgPool2D(),
        dense=Dense(n, n_out),
    )


def _block(
    n_in: int,
    n_out: int,
    norm: Callable[[int], Layer],
    activation: Layer,
    stride: int = 1,
) -> Serial:
    """activation(skip(x) + f(x)), where the skip is x itself if that has the shape of f(x)."""
    f = Serial(
        conv_1=_conv(n_in, n_out, 3, stride),
        norm_1=norm(n_out),
        activation_1=activation,
        conv_2=_conv(n_out, n_out, 3),
        norm_2=norm(n_out),
    )
    if (n_in, stride) == (n_out, 1):
        return Serial(sum=Residual(f), activation=activation)
    skip = Serial(conv=_conv(n_in, n_out, 1, stride), norm=norm(n_out))
    return Serial(sum=Sum(skip=skip, f=f), activation=activation)


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> Conv2D:
    # No bias: the norm that follows subtracts it with the mean, and has a bias of its own.
    return Conv2D(n_in, n_out, kernel, stride, bias=False, w_init=_HE_NORMAL)
