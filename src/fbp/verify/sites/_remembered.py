"""What JAX remembers of a rule from tracing its forward, which a failed attempt makes it forget."""

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

from jax.extend.core import JaxprEqn


@contextlib.contextmanager
def remembered(eqn: JaxprEqn) -> Iterator[None]:
    """Keeps what JAX remembers of the rule of a call, should differentiating the call raise.

    A batched rule tells its backward the axes of its residuals through a store, which each new kind
    of differentiation empties before it traces the forward. If that raises, the store stays empty,
    and kinds that were traced before are not traced again: so the rule would be broken.
    """
    stores = list(_stores(eqn.params.get("fwd_jaxpr_thunk"), set()))
    held = [store._val for store in stores]
    try:
        yield
    except Exception:
        for store, value in zip(stores, held, strict=True):
            store._val = value
        raise


def _stores(value: Any, seen: set[int]) -> Iterator[Any]:
    """The stores that a function of JAX writes, through the functions that it is made of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    parts: list[Any] = []
    if hasattr(type(value), "_val") and hasattr(value, "reset"):
        yield value
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                parts.append(cell.cell_contents)
    elif isinstance(value, functools.partial):
        parts = [value.func, *value.args]
    elif isinstance(value, tuple | list):
        parts = list(value)
    else:
        parts = [getattr(value, name, None) for name in ("stores", "_store", "f", "f_transformed")]
    for part in parts:
        if part is not None:
            yield from _stores(part, seen)
