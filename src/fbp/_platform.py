"""The platform that a program is for, where a schedule depends on it."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def has_several_cpus() -> bool:
    """Whether the arrays of a program for a CPU may lie on several devices.

    To be asked in the CPU's branch of `lax.platform_dependent` only.
    """
    try:
        return jax.device_count("cpu") > 1
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return False


def on_cuda(kernels: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs kernels in a program for CUDA, and `plain` in all others.

    Autodiff of it, which no layer of fbp uses, differentiates `plain`: JAX has no derivative of a
    kernel.

    Args:
      kernels: from arrays to arrays.
      plain: the same function; its outputs may have other dtypes.
    """

    def otherwise(*args: Any) -> Any:
        like = jax.eval_shape(kernels, *args)
        return jax.tree.map(lambda a, b: a.astype(b.dtype), plain(*args), like)

    @jax.custom_jvp
    def either(*args: Any) -> Any:
        return lax.platform_dependent(*args, cuda=kernels, default=otherwise)

    either.defjvp(lambda args, tangents: jax.jvp(otherwise, args, tangents))
    return either
