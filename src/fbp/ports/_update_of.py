"""An optimizer's update, which may be given more than it takes."""

from collections.abc import Callable
from typing import Any

import optax


def update_of(optimizer: Any) -> Callable[..., Any]:
    """Returns `update(grads, state, params, **extra)`. An optimizer of optax is given those extra
    arguments that it takes; a wrapper of fbp passes them on."""
    if isinstance(optimizer, optax.GradientTransformation):
        return optax.with_extra_args_support(optimizer).update
    return optimizer.update
