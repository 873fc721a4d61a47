"""Standardizing: mean 0 and variance 1 over some axes, as batch and group normalization do.

    xhat = (x - mean) * rstd,    rstd = 1 / sqrt(var + eps)

xhat_j depends on x_i in three ways: directly (i = j), through the mean, and through the variance.
With n numbers, d mean/dx_i = 1/n, d var/dx_i = 2 (x_i - mean)/n, and d rstd/d var = -rstd^3 / 2:

    dxhat_j/dx_i = rstd * (1[i = j] - 1/n - xhat_i xhat_j / n)

(the mean's effect on the variance is 0, since the deviations sum to 0). With dxhat = dloss/dxhat,

    dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))

the part of dxhat that is orthogonal to the constant vector and, up to eps, to xhat.
"""

from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array

Statistics = tuple[Array, Array]


def statistics(x: Array, axes: tuple[int, ...]) -> Statistics:
    """Returns mean and variance, in at least float32, with the axes kept at size 1.

    The variance is the mean of (x - mean)^2: mean(x^2) - mean^2 would cancel where the mean is
    large.
    """
    x = at_least_float32(x)
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def standardize(x: Array, mean: Array, var: Array, eps: float) -> Array:
    """Returns xhat, in at least float32."""
    return (at_least_float32(x) - mean) * lax.rsqrt(var + eps)


def dstandardize(xhat: Array, var: Array, eps: float, dxhat: Array, axes: tuple[int, ...]) -> Array:
    """Returns dx, for mean and variance taken from x over these axes."""
    stretch = (dxhat * xhat).mean(axes, keepdims=True)
    return lax.rsqrt(var + eps) * (dxhat - dxhat.mean(axes, keepdims=True) - xhat * stretch)
