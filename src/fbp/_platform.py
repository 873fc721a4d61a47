"""What a program will run on, where a schedule depends on it."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def is_lone_cpu() -> bool:
    """Whether programs run on one device, a CPU of any number of cores: its caches decide how much
    to take at a time, and no array has its parts on several devices."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def has_several_cpus() -> bool:
    """Whether a program for a CPU may have its arrays on several devices. Asked where such a
    program is written: not of the process, whose programs may be for others."""
    try:
        return jax.device_count("cpu") > 1
    except RuntimeError:  # there is none among the platforms that this process may use
        return False


def on_cuda(kernels: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """The kernels where a program is for CUDA, and elsewhere what they stand for.

    Who differentiates the function, as no layer of fbp does, gets the derivatives of `plain`:
    `jax.grad` cannot pass a kernel.

    Args:
      kernels: takes and gives arrays.
      plain: takes and gives the same but for the dtypes that it gives.
    """

    def otherwise(*args: Any) -> Any:
        like = jax.eval_shape(kernels, *args)
        return jax.tree.map(lambda a, b: a.astype(b.dtype), plain(*args), like)

    @jax.custom_jvp
    def either(*args: Any) -> Any:
        return lax.platform_dependent(*args, cuda=kernels, default=otherwise)

    either.defjvp(lambda args, tangents: jax.jvp(otherwise, args, tangents))
    return either
