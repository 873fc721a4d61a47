"""Several losses on parts of one output: a weighted sum."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._contract import described
from fbp._layer import Array, Key, Loss, Params, PyTree, scaled, split
from fbp._turn import takes, value_and_grad_of, value_of


@dataclasses.dataclass(frozen=True, init=False)
class Losses(Loss):
    """The weighted sum of losses, each on its part of y and of the target.

        loss = sum_i c_i loss_i(y_i, target_i)
        dy_i = c_i dloss_i/dy_i                0 for parts of y that no loss reads

        fbp.Losses(cls=(1.0, fbp.SoftmaxCrossEntropy()), reg=(0.5, fbp.MeanSquaredError()))

    In a `Microbatch` each loss has a share of its own, so that losses that leave out different
    examples add up exactly.

    Args:
      **parts: `name=(coefficient, loss)`. y and the target are dicts with at least these names.
        params is a dict of those of the losses that have any, so that several `Losses` without
        parameters have the same.

    Raises:
      TypeError: a part is not a number and a Loss, or the loss is a `Losses` itself.
      ValueError: there are no parts; y or the target lack one.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    losses: tuple[Loss, ...]

    def __init__(self, /, **parts: tuple[float, Loss]):
        if not parts:
            raise ValueError("Losses: expected at least one loss, got none")
        for name, part in parts.items():
            numbers = (
                isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], int | float)
            )
            if not (numbers and isinstance(part[1], Loss) and not isinstance(part[1], Losses)):
                raise TypeError(
                    f"Losses: expected {name}=(coefficient, loss), got {described(part)}: as in "
                    f"{name}=(1.0, fbp.MeanSquaredError())"
                )
        object.__setattr__(self, "names", tuple(parts))
        object.__setattr__(self, "coefficients", tuple(c for c, _ in parts.values()))
        object.__setattr__(self, "losses", tuple(loss for _, loss in parts.values()))

    def __repr__(self) -> str:
        parts = zip(self.names, self.coefficients, self.losses, strict=True)
        return f"Losses({', '.join(f'{name}=({c!r}, {loss!r})' for name, c, loss in parts)})"

    def init(self, key: Array) -> Params:
        keys = jax.random.split(key, len(self.names))
        drawn = (
            (name, loss.init(k))
            for name, loss, k in zip(self.names, self.losses, keys, strict=True)
        )
        return {name: params for name, params in drawn if jax.tree.leaves(params)}

    def value(
        self, params: Params, y: PyTree, target: PyTree, key: Key = None, share: Any = None
    ) -> Array:
        self._require_parts(y=y, target=target)
        total = jnp.zeros(())
        for name, c, loss, k in self._walk(key):
            value = value_of(loss, params.get(name, ()), y[name], target[name], k)
            total += c * (value if share is None else share[name] * value)
        return total

    def value_and_grad(
        self,
        params: Params,
        y: PyTree,
        target: PyTree,
        key: Key = None,
        scale: Any = None,
        share: Any = None,
    ) -> tuple[Array, Params, PyTree]:
        self._require_parts(y=y, target=target)
        total, dparams = jnp.zeros(()), {}
        dy = jax.tree.map(
            lambda a: jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else None, y
        )
        for name, c, loss, k in self._walk(key):
            p = params.get(name, ())
            value, dp, d = value_and_grad_of(loss, p, y[name], target[name], k, scale)
            c = c if share is None else c * share[name]
            total += c * value
            dp, dy[name] = scaled(c, (dp, d))
            if name in params:
                dparams[name] = dp
        return total, dparams, dy

    def weight(self, target: PyTree) -> Any:
        """Returns the weight of each loss's part of the target, by name."""
        self._require_parts(target=target)
        return {
            name: loss.weight(target[name])
            for name, loss in zip(self.names, self.losses, strict=True)
        }

    def _walk(self, key: Key) -> Any:
        keys: list[Key] = [None] * len(self.losses)
        if any(takes(loss.value_and_grad, "key") for loss in self.losses):
            keys = split(key, len(self.losses))
        return zip(self.names, self.coefficients, self.losses, keys, strict=True)

    def _require_parts(self, **trees: PyTree) -> None:
        for what, tree in trees.items():
            missing = [name for name in self.names if not (isinstance(tree, dict) and name in tree)]
            if missing:
                raise ValueError(
                    f"Losses: expected {what} to have {', '.join(self.names)}, got "
                    f"{described(tree)}, without {', '.join(missing)}"
                )
