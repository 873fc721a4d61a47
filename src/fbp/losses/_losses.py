"""Several losses on parts of one output: a weighted sum."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import scaled, zero_gradient
from fbp._layer import Array, Key, Loss, Params, PyTree, split
from fbp._turn import value_and_grad_of, value_of


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
        params is a dict of those of the losses that have any, () where none has.

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
            pair = part if isinstance(part, tuple) and len(part) == 2 else (None, None)
            is_number = isinstance(pair[0], numbers.Real) and not isinstance(pair[0], bool)
            if not is_number or not isinstance(pair[1], Loss) or isinstance(pair[1], Losses):
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

    @property
    def draws(self) -> bool:
        return any(loss.draws for loss in self.losses)

    def init(self, key: Array) -> Params:
        keys = jax.random.split(key, len(self.names))
        parts = zip(self.names, self.losses, keys, strict=True)
        drawn = {name: loss.init(k) for name, loss, k in parts}
        return {name: p for name, p in drawn.items() if jax.tree.leaves(p)} or ()

    def value(
        self, params: Params, y: PyTree, target: PyTree, key: Key = None, share: Any = None
    ) -> Array:
        self._require_parts(y=y, target=target)
        total = jnp.zeros(())
        for name, c, loss, k in self._walk(key):
            value = value_of(loss, _of(params, name), y[name], target[name], k)
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
        dy = zero_gradient(y)
        for name, c, loss, k in self._walk(key):
            p = _of(params, name)
            value, dp, d = value_and_grad_of(loss, p, y[name], target[name], k, scale)
            c = c if share is None else c * share[name]
            total += c * value
            dp, dy[name] = scaled(c, (dp, d))
            if name in params:
                dparams[name] = dp
        return total, dparams or (), dy

    def weight(self, target: PyTree) -> Any:
        """Returns the weight of each loss's part of the target, by name."""
        self._require_parts(target=target)
        return {
            name: loss.weight(target[name])
            for name, loss in zip(self.names, self.losses, strict=True)
        }

    def _walk(self, key: Key) -> Any:
        keys = split(key if self.draws else None, len(self.losses))
        return zip(self.names, self.coefficients, self.losses, keys, strict=True)

    def _require_parts(self, **trees: PyTree) -> None:
        for what, tree in trees.items():
            missing = [name for name in self.names if not (isinstance(tree, dict) and name in tree)]
            if missing:
                raise ValueError(
                    f"Losses: expected {what} to have {', '.join(self.names)}, got "
                    f"{described(tree)}, without {', '.join(missing)}"
                )


def _of(params: Params, name: str) -> Params:
    """The params of one loss; () for one that has none."""
    return params[name] if params and name in params else ()
