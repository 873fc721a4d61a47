"""JAX functions as a layer, a loss and an objective, with their backward by autodiff."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.dtypes import float0

from fbp._contract import takes
from fbp._described import described
from fbp._layer import Array, Key, Layer, Loss, Params, PyTree
from fbp._positions import require_single_positions
from fbp.interop._pull import Pull


@dataclasses.dataclass(frozen=True, repr=False)
class Autodiff(Layer):
    """A JAX function as a layer. Its backward is not written by hand: it is `jax.vjp` of f.

        y           = f(params, x)
        dparams, dx = vjp(f)(dy)      at (params, x)

    The residuals are what `jax.vjp` keeps, as in `jax.grad`, without params and x, which the caller
    has; `Remat` around it keeps nothing and runs f again. It raises what f raises. Their tree holds
    the traced program: a `backward` that is jitted alone is compiled again after each `forward`
    that is not.

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
        return y, Pull.of(pull, (params, x), y)

    def backward(self, params: Params, x: PyTree, res: "Pull", dy: PyTree) -> tuple[Params, PyTree]:
        return jax.tree.map(_none_for_integers, res.pull((params, x), dy))

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


def _require_scalar(owner: Any, value: Any) -> None:
    if jnp.shape(value) != ():
        raise ValueError(
            f"{owner.name}: expected a scalar, got {described(value)}: a loss is a mean over the "
            "examples"
        )


def _none_for_integers(d: Any) -> Any:
    return None if d.dtype == float0 else d
