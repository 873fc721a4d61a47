"""Standardizing: mean 0 and variance 1 over some axes, as batch and group normalization do.

    xhat = (x - mean) * rstd,    rstd = 1 / sqrt(var + eps)

x_i reaches xhat_j in three ways: itself, through the mean, and through the variance. With n
numbers, d mean/dx_i = 1/n, d var/dx_i = 2 (x_i - mean)/n, and d rstd/d var = -rstd^3 / 2:

    dxhat_j/dx_i = rstd * (1[i = j] - 1/n - xhat_i xhat_j / n)

(through the mean the variance does not change: the deviations sum to 0). With dxhat from downstream

    dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))

the part of dxhat that neither a shift nor a stretch of x could bring about.
"""

from jax import lax

from fbp._layer import Array, at_least_float32

Statistics = tuple[Array, Array]


def statistics(x: Array, axes: tuple[int, ...]) -> Statistics:
    """Mean and variance, in at least float32, with the axes kept at size 1.

    The variance is that of the differences from the mean; the mean of squares less the square of
    the mean would cancel where the mean is large.
    """
    x = at_least_float32(x)
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def standardize(x: Array, mean: Array, var: Array, eps: float) -> Array:
    """xhat, in at least float32."""
    return (at_least_float32(x) - mean) * lax.rsqrt(var + eps)


def dstandardize(xhat: Array, var: Array, eps: float, dxhat: Array, axes: tuple[int, ...]) -> Array:
    """dx, where mean and variance are those of x over these axes."""
    stretch = (dxhat * xhat).mean(axes, keepdims=True)
    return lax.rsqrt(var + eps) * (dxhat - dxhat.mean(axes, keepdims=True) - xhat * stretch)
