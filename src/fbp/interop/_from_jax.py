"""Makes a layer of any JAX function, with its backward by autodiff."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._layer import Array, Key, Layer, Params, PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class Autodiff(Layer):
    """A JAX function as a layer. Its backward is not written by hand: it is `jax.vjp` of f.

        y           = f(params, x)
        dparams, dx = vjp(f)(dy)      at (params, x)

    Keeps only the key: the backward runs f again, as `Remat` does. It raises what f raises.

    Made by `fbp.from_jax`, whose f, init and name are the fields `function`, `draw` and `name`.
    """

    function: Callable[..., PyTree]
    draw: Callable[[Array], Params] | None
    name: str

    def __repr__(self) -> str:
        return f"Autodiff({self.name})"

    def init(self, key: Array) -> Params:
        return () if self.draw is None else self.draw(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self._call(params, x, key), key

    def backward(self, params: Params, x: PyTree, res: Key, dy: PyTree) -> tuple[Params, PyTree]:
        y, pull = jax.vjp(lambda params, x: self._call(params, x, res), params, x)
        return jax.tree.map(_none_for_integers, pull(_cotangent(y, dy)))

    def _call(self, params: Params, x: PyTree, key: Key) -> PyTree:
        if _takes_key(self.function):
            return self.function(params, x, key=key)
        return self.function(params, x)


def from_jax(
    f: Callable[..., PyTree],
    init: Callable[[Array], Params] | None = None,
    name: str | None = None,
) -> Autodiff:
    """Makes a layer of any JAX function, with its backward by autodiff.

    Use it for a function that has no rule written by hand. The layer works in a `Serial` or a
    `Stack` like any other; its `repr` and `fbp.summary` show it as `Autodiff`.

    Args:
      f: f(params, x) -> y, of trees of arrays. If it has a parameter called `key`, that is the key
        in training, and None in evaluation.
      init: init(key) -> params; without it f has no parameters and is given ().
      name: the name of f in reports; by default `f.__name__`.

    Raises:
      TypeError: f or init is not a function, or f cannot be hashed, as a layer must be: a callable
        that holds arrays should take them as params.
    """
    for what, value in (("f", f), ("init", init)):
        if not (callable(value) or (what == "init" and value is None)):
            raise TypeError(f"from_jax: expected {what} to be a function, got {value!r:.80}")
    try:
        hash(f)
    except TypeError:
        kind = type(f).__name__
        raise TypeError(f"from_jax: expected f to be hashable, got {kind}, which is not") from None
    return Autodiff(f, init, name or str(getattr(f, "__name__", type(f).__name__)))


def _takes_key(f: Callable[..., Any]) -> bool:
    try:
        return "key" in inspect.signature(f).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return False


def _cotangent(y: PyTree, dy: PyTree) -> PyTree:
    """dy as `jax.vjp` expects it: in the dtypes of y, and float0 for integers."""

    def one(y: Array, d: Any) -> Any:
        if not jnp.issubdtype(y.dtype, jnp.inexact):
            return np.zeros(y.shape, float0)
        return jnp.asarray(d, y.dtype)

    return jax.tree.map(one, y, dy)


def _none_for_integers(d: Any) -> Any:
    return None if d.dtype == float0 else d
