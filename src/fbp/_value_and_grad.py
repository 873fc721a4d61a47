"""The gradient of a model and a loss in one call."""

from collections.abc import Callable

import jax

from fbp._layer import Array, Key, Layer, Loss, Params, PyTree, name_of
from fbp._microbatch import objective_of
from fbp._objective import ObjectiveParams


def value_and_grad(
    model: Layer, loss: Loss, *, microbatch: int | None = None
) -> Callable[..., tuple[Array, Params]]:
    """Returns `f(params, batch, key=None) -> value, dparams`: the loss and its gradient.

    Short for `Objective(model, loss).value_and_grad` with a loss that has no parameters: `params`
    are the model's, `model.init(key)`, and `batch` is `(x, target)`.

    Args:
      model: a Layer from x to y.
      loss: a Loss of y and target, without parameters.
      microbatch: examples a part, to take each batch in parts (see `Microbatch`).

    Raises:
      ValueError: the loss has parameters; use `Objective`, whose params are both.
    """
    if jax.tree.leaves(jax.eval_shape(lambda: loss.init(jax.random.key(0)))):
        raise ValueError(
            f"value_and_grad: expected a loss without parameters, got {name_of(loss)}; "
            "use Objective(model, loss).value_and_grad"
        )
    objective = objective_of(model, loss, microbatch)

    def f(params: Params, batch: PyTree, key: Key = None) -> tuple[Array, Params]:
        value, dparams = objective.value_and_grad(ObjectiveParams(params, ()), batch, key)
        return value, dparams.model

    return f
