"""Choices that depend on the platform a program is compiled for."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def has_several_cpus() -> bool:
    """Whether the arrays of a program for the CPU may lie on several devices.

    Only the CPU branch of `lax.platform_dependent` may depend on it.
    """
    try:
        return jax.device_count("cpu") > 1
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return False


def is_on_mesh() -> bool:
    """Whether the program that is traced is one for several devices, as `fbp.step_of(mesh=)` says
    by the mesh of its context."""
    return not jax.sharding.get_abstract_mesh().empty


def on_cuda(kernels: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs kernels in a program for CUDA, and `plain` in all others.

    JAX cannot differentiate a kernel, so autodiff of this function differentiates `plain`. No layer
    of fbp relies on that.

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
