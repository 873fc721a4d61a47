"""What a user gives as batches: whether it is a draw, and whether each batch is like the first."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._errors import InputError
from fbp._layer import PyTree
from fbp.verify.registry._named import one_line

Draw = Callable[[int, int], PyTree]


def require_draw(who: str, draw: Any) -> None:
    """Raises InputError for what is not a function draw(start, stop)."""
    cure = ""
    if callable(draw) and not isinstance(draw, type):
        try:
            inspect.signature(draw).bind(0, 1)
        except TypeError:
            cure = f", got one of {inspect.signature(draw)}"
        except ValueError:  # it has no signature to look at
            return
        else:
            return
    elif isinstance(draw, tuple | list) and len(draw) == 2:
        cure = f", got {described(draw)}: of arrays, fbp.train.batches(x, y, batch=32, seed=0)"
    elif hasattr(draw, "__next__") or hasattr(draw, "__iter__"):
        cure = (
            f", got {described(draw)}: a run that goes on must draw any batch again: of arrays, "
            "fbp.train.batches(x, y, batch=32, seed=0)"
        )
    else:
        cure = f", got {described(draw)}"
    raise InputError(f"{who}: expected a function draw(start, stop) of the steps{cure}")


def looked_at(who: str, draw: Draw, steps: int, ends_early: bool = False) -> Draw:
    """The same draw, of which each batch is looked at: those of the first steps and, unless the run
    may end before it, of the last are drawn now, before anything is written.

    Raises:
      InputError: now or at a call: it is no such function, it raises, or what it returns is not
        stop - start batches stacked, of numbers, each of the shape of the first.
    """
    require_draw(who, draw)

    def given(start: int, stop: int) -> PyTree:
        try:
            return draw(start, stop)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{who}: draw({start}, {stop}) raises {one_line(error)}") from error

    first = given(0, 1)
    leaves = jax.tree.leaves(first)
    form: Any = jax.tree.structure(first)
    if not leaves:
        raise InputError(f"{who}: expected draw(0, 1) to return arrays, got {described(first)}")
    for a in leaves:
        require_numbers(f"{who}: expected draw(0, 1) to return", a)
        if a.shape[:1] != (1,):
            raise _other(who, 0, 1, (1, *a.shape), a)
    shapes = [a.shape[1:] for a in leaves]

    @functools.wraps(draw, updated=())
    def drawn(start: int, stop: int) -> PyTree:
        batches = given(start, stop)
        leaves = jax.tree.leaves(batches)
        if jax.tree.structure(batches) != form:
            what = f"{who}: expected draw({start}, {stop}) to return what draw(0, 1) does"
            raise InputError(f"{what}, {described(first)}, got {described(batches)}")
        for a, shape in zip(leaves, shapes, strict=True):
            require_numbers(f"{who}: expected draw({start}, {stop}) to return", a)
            if a.shape != (stop - start, *shape):
                raise _other(who, start, stop, (stop - start, *shape), a)
        return batches

    for name in ("rows", "unit"):  # for a run to say which rows a batch has
        if hasattr(draw, name):
            setattr(drawn, name, getattr(draw, name))
    drawn(0, min(2, steps))
    if not ends_early:
        drawn(steps - 1, steps)
    return drawn


def require_numbers(what: str, a: Any) -> None:
    """Raises InputError unless a is an array of numbers."""
    if not (hasattr(a, "shape") and hasattr(a, "dtype")):
        cure = "return, do not yield" if hasattr(a, "__next__") else "make it one by np.asarray"
        raise InputError(f"{what} arrays, got {described(a)}: {cure}")
    numbers = (jnp.number, jnp.bool_, jax.dtypes.prng_key)
    if not any(jnp.issubdtype(a.dtype, kind) for kind in numbers):
        kind = "text" if a.dtype.kind in "US" else a.dtype
        raise InputError(f"{what} arrays of numbers, got {kind} of shape {a.shape}")


def _other(who: str, start: int, stop: int, shape: tuple[int, ...], a: Any) -> InputError:
    kind = (
        "like the first, stacked"
        if a.ndim == len(shape) and a.shape[1:] != shape[1:]
        else "stacked"
    )
    return InputError(
        f"{who}: expected draw({start}, {stop}) to return stop - start batches {kind}, {shape}, "
        f"got {a.shape}"
    )
