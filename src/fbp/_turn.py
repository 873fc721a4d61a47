"""Where forward turns into backward: a loss, as an objective calls it.

A loss is given what its `value_and_grad` has parameters for: a key to draw from, a scale, the
shares of its parts. Scaled in at least float32, then rounded: in float16, whose smallest number is
6e-8, most of dy of a large batch would be 0 before a scale could help.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fbp._contract import is_float, takes
from fbp._layer import Array, Key, Loss, Params, PyTree


def value_of(
    loss: Loss, params: Params, y: PyTree, target: PyTree, key: Key = None, share: Any = None
) -> Array:
    """The loss alone."""
    if type(loss).value is Loss.value:  # which knows of no key
        return value_and_grad_of(loss, params, y, target, key, share=share)[0]
    return loss.value(params, y, target, **_options(loss.value, key=key, share=share))


def value_and_grad_of(
    loss: Loss,
    params: Params,
    y: PyTree,
    target: PyTree,
    key: Key = None,
    scale: Any = None,
    share: Any = None,
) -> tuple[Array, Params, PyTree]:
    """The loss, dparams and dy; these two times `scale`."""
    options = _options(loss.value_and_grad, key=key, share=share)
    if scale is None:
        return loss.value_and_grad(params, y, target, **options)
    if takes(loss.value_and_grad, "scale"):
        return loss.value_and_grad(params, y, target, **options, **{"scale": scale})
    value, gradient, dtypes = wide_gradient(loss, params, y, target, key, share)
    return value, *rounded(scale, gradient, dtypes)


def wide_gradient(
    loss: Loss, params: Params, y: PyTree, target: PyTree, key: Key = None, share: Any = None
) -> tuple[Array, PyTree, PyTree]:
    """The loss, (dparams, dy) in float32 where params and y are float16, and what `rounded` needs
    to give them their dtypes: empty arrays of these, since residuals are arrays."""
    options = _options(loss.value_and_grad, key=key, share=share)
    dtypes = jax.tree.map(lambda a: jnp.zeros(0, a.dtype) if is_float(a) else None, (params, y))
    params, y = jax.tree.map(_widened, (params, y))
    value, dparams, dy = loss.value_and_grad(params, y, target, **options)
    return value, (dparams, dy), dtypes


def rounded(dvalue: Any, gradient: PyTree, dtypes: PyTree) -> PyTree:
    """dvalue times a gradient of `wide_gradient`, in the dtypes of what it is by."""
    wide = jnp.promote_types
    return jax.tree.map(
        lambda d, a: (dvalue * d.astype(wide(d.dtype, jnp.float32))).astype(a.dtype),
        gradient,
        dtypes,
    )


def _widened(a: Any) -> Any:
    return a.astype(jnp.float32) if getattr(a, "dtype", None) == jnp.float16 else a


def _options(f: Any, **options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if takes(f, name)}
