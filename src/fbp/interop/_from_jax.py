"""Makes layers, losses and objectives of JAX functions, with their backward by autodiff."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._contract import described, require_single_positions
from fbp._layer import Array, Key, Layer, Loss, Params, PyTree
from fbp._turn import takes


@dataclasses.dataclass(frozen=True, repr=False)
class Autodiff(Layer):
    """A JAX function as a layer. Its backward is not written by hand: it is `jax.vjp` of f.

        y           = f(params, x)
        dparams, dx = vjp(f)(dy)      at (params, x)

    The residuals are what `jax.vjp` keeps, as in `jax.grad`, without params and x, which the caller
    has; `Remat` around it keeps nothing and runs f again. It raises what f raises.

    Made by `fbp.from_jax`, whose f, init and name are the fields `function`, `draw` and `name`.
    """

    function: Callable[..., PyTree]
    draw: Callable[[Array], Params] | None
    name: str

    def __repr__(self) -> str:
        return f"Autodiff({self.name})"

    @property
    def draws(self) -> bool:
        return takes(self.function, "key")

    def init(self, key: Array) -> Params:
        return () if self.draw is None else self.draw(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        options = {"key": key} if takes(self.function, "key") else {}
        y, pull = jax.vjp(lambda params, x: self.function(params, x, **options), params, x)
        return y, _Pull.of(pull, (params, x), y)

    def backward(
        self, params: Params, x: PyTree, res: "_Pull", dy: PyTree
    ) -> tuple[Params, PyTree]:
        return jax.tree.map(_none_for_integers, res.pull((params, x))(_cotangent(res.y, dy)))

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        require_single_positions(self, x)
        return ()


@dataclasses.dataclass(frozen=True, repr=False)
class AutodiffLoss(Loss):
    """A JAX function as a loss, its gradient by `jax.vjp`. Made by `fbp.loss_from_jax`."""

    function: Callable[..., Array]
    draw: Callable[[Array], Params] | None
    count: Callable[[PyTree], Any] | None
    name: str

    def __repr__(self) -> str:
        return f"AutodiffLoss({self.name})"

    @property
    def draws(self) -> bool:
        return takes(self.function, "key")

    def init(self, key: Array) -> Params:
        return () if self.draw is None else self.draw(key)

    def value(self, params: Params, y: PyTree, target: PyTree, key: Key = None) -> Array:
        value = self._of(target, key)(params, y)
        _require_scalar(self, value)
        return value

    def value_and_grad(
        self, params: Params, y: PyTree, target: PyTree, key: Key = None
    ) -> tuple[Array, Params, PyTree]:
        value, pull = jax.vjp(self._of(target, key), params, y)
        _require_scalar(self, value)
        dparams, dy = jax.tree.map(_none_for_integers, pull(jnp.ones_like(value)))
        return value, dparams, dy

    def weight(self, target: PyTree) -> Any:
        return super().weight(target) if self.count is None else self.count(target)

    def _of(self, target: PyTree, key: Key) -> Callable[[Params, PyTree], Array]:
        options = {"key": key} if takes(self.function, "key") else {}
        if self.draw is None:
            return lambda _, y: self.function(y, target, **options)
        return lambda params, y: self.function(params, y, target, **options)


@dataclasses.dataclass(frozen=True, repr=False)
class AutodiffObjective:
    """A JAX function as an objective, its gradient by `jax.value_and_grad`. Made by
    `fbp.objective_from_jax`."""

    function: Callable[..., Any]
    draw: Callable[[Array], Params]
    has_aux: bool
    name: str

    def __repr__(self) -> str:
        return f"AutodiffObjective({self.name})"

    @property
    def draws(self) -> bool:
        return takes(self.function, "key")

    def init(self, key: Array) -> Params:
        return self.draw(key)

    def value(
        self, params: Params, batch: PyTree, key: Key = None, *, has_aux: bool = False
    ) -> Any:
        value, aux = self._with_aux(params, batch, key)
        return (value, aux) if self._wants(has_aux) else value

    def value_and_grad(
        self,
        params: Params,
        batch: PyTree,
        key: Key = None,
        *,
        has_aux: bool = False,
        scale: Any = None,
    ) -> tuple[Any, Params]:
        value, pull, aux = jax.vjp(
            lambda params: self._with_aux(params, batch, key), params, has_aux=True
        )
        _require_scalar(self, value)
        ones = jnp.ones_like(value)
        (dparams,) = pull(ones if scale is None else (scale * ones).astype(ones.dtype))
        dparams = jax.tree.map(_none_for_integers, dparams)
        return ((value, aux) if self._wants(has_aux) else value), dparams

    def weight(self, batch: PyTree) -> Array:
        """Returns the number of examples, the size of the first axis."""
        return jnp.float32(jax.tree.leaves(batch)[0].shape[0])

    def _with_aux(self, params: Params, batch: PyTree, key: Key) -> tuple[Array, PyTree]:
        options = {"key": key} if takes(self.function, "key") else {}
        returned = self.function(params, batch, **options)
        return returned if self.has_aux else (returned, ())

    def _wants(self, has_aux: bool) -> bool:
        if has_aux and not self.has_aux:
            raise ValueError(
                f"{self.name}: expected a function that returns (value, aux), made by "
                "objective_from_jax(f, init, has_aux=True), got one without aux"
            )
        return has_aux


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Pull:
    """A function that `jax.vjp` returned, without the arrays that its caller has anyway.

    Attributes:
      kept: the arrays that it closes over; None for those among the leaves of `given`.
      places: for each of those arrays its index among the leaves of `given`, or None.
      tree: the tree of the function, of which the arrays are the leaves.
      y: shapes and dtypes of y.
    """

    kept: list[Any]
    places: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})
    tree: Any = dataclasses.field(metadata={"static": True})
    y: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, pull: Any, given: PyTree, y: PyTree) -> "_Pull":
        arrays, tree = jax.tree.flatten(pull)
        index = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(given))}
        places = tuple(index.get(id(a)) for a in arrays)
        kept = [a if place is None else None for a, place in zip(arrays, places, strict=True)]
        leaves, y_tree = jax.tree.flatten(y)
        shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(a), a.dtype) for a in leaves)
        return cls(kept, places, tree, (y_tree, shapes))

    def pull(self, given: PyTree) -> Any:
        leaves = jax.tree.leaves(given)
        arrays = [
            a if place is None else leaves[place]
            for a, place in zip(self.kept, self.places, strict=True)
        ]
        return self.tree.unflatten(arrays)


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
    _require_functions("from_jax", f=f, init=init)
    return Autodiff(f, init, name or _name(f))


def loss_from_jax(
    f: Callable[..., Array],
    init: Callable[[Array], Params] | None = None,
    weight: Callable[[PyTree], Any] | None = None,
    name: str | None = None,
) -> AutodiffLoss:
    """Makes a loss of any JAX function, with its gradient by autodiff.

        fbp.loss_from_jax(lambda y, target: optax.squared_error(y, target).mean())

    Args:
      f: f(y, target) -> a scalar, a mean over the examples; with `init` f(params, y, target). If it
        has a parameter called `key`, that is the key in training, and None in evaluation.
      init: init(key) -> params.
      weight: weight(target) -> how much a target counts as a part of a larger one; by default the
        number of examples, the size of its first axis.
      name: the name of f in reports; by default `f.__name__`.

    Raises:
      TypeError: f, init or weight is not a function, or f cannot be hashed.
      ValueError: f does not return a scalar.
    """
    _require_functions("loss_from_jax", f=f, init=init, weight=weight)
    return AutodiffLoss(f, init, weight, name or _name(f))


def objective_from_jax(
    f: Callable[..., Any],
    init: Callable[[Array], Params],
    has_aux: bool = False,
    name: str | None = None,
) -> AutodiffObjective:
    """Makes an objective of any JAX function, with its gradient by autodiff.

    `fbp.step_of` trains it and `fbp.check` and the rest take it, as any other objective.

    Args:
      f: f(params, batch) -> a scalar, a mean over the examples of the batch. If it has a parameter
        called `key`, that is the key in training, and None in evaluation.
      init: init(key) -> params.
      has_aux: f returns (value, aux), as for `jax.value_and_grad`.
      name: the name of f in reports; by default `f.__name__`.

    Raises:
      TypeError: f or init is not a function, or f cannot be hashed.
      ValueError: the value is not a scalar.
    """
    if init is None:
        raise TypeError("objective_from_jax: expected init(key) -> params, got None")
    _require_functions("objective_from_jax", f=f, init=init)
    return AutodiffObjective(f, init, has_aux, name or _name(f))


def _require_functions(owner: str, **functions: Any) -> None:
    for what, value in functions.items():
        if not (callable(value) or (what != "f" and value is None)):
            raise TypeError(f"{owner}: expected {what} to be a function, got {described(value)}")
    try:
        hash(functions["f"])
    except TypeError:
        kind = type(functions["f"]).__name__
        raise TypeError(f"{owner}: expected f to be hashable, got {kind}, which is not") from None


def _require_scalar(owner: Any, value: Any) -> None:
    if jnp.shape(value) != ():
        raise ValueError(
            f"{owner.name}: expected a scalar, got {described(value)}: a loss is a mean over the "
            "examples"
        )


def _name(f: Any) -> str:
    return str(getattr(f, "__name__", type(f).__name__))


def _cotangent(y: Any, dy: PyTree) -> PyTree:
    """dy as `jax.vjp` expects it: in the dtypes of y, and float0 for integers."""
    tree, shapes = y

    def one(a: Any, d: Any) -> Any:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return np.zeros(a.shape, float0)
        return jnp.broadcast_to(jnp.asarray(d, a.dtype), a.shape)

    return tree.unflatten(map(one, shapes, tree.flatten_up_to(dy)))


def _none_for_integers(d: Any) -> Any:
    return None if d.dtype == float0 else d
