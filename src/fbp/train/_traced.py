"""A step is traced on the first batch, so that a mistake is told before anything is written."""

from collections.abc import Callable
from typing import Any

import jax

from fbp._errors import InputError
from fbp._layer import Key, Params, PyTree
from fbp._objective import Objective
from fbp.verify.registry._named import is_said_by_fbp, one_line


def require_traces(who: str, objective: Any, params: Params, batch: PyTree, key: Key) -> None:
    """Raises InputError, with what the model or the loss says, where a step cannot be taken.

    Args:
      who: the error begins with it.
      objective: of the step.
      params, batch, key: its arguments, or their shapes.
    """
    try:
        jax.eval_shape(objective.value_and_grad, params, batch, key)
    except Exception as error:
        by = "the layer " if _is_of_layer(objective, params, batch, key) else ""
        raise InputError(f"{who}: {by}on its batches: {said_of(error)}") from error


def said_of(error: Exception) -> str:
    """What an exception says, in one line: of those that fbp does not raise itself, where too."""
    lines = str(error).splitlines()
    return lines[0] if lines and is_said_by_fbp(error) else one_line(error)


def _is_of_layer(objective: Any, params: Params, batch: PyTree, key: Key) -> bool:
    """Whether it is the model's forward that raises."""
    if not isinstance(objective, Objective):
        return False

    def inputs(*args: Any) -> PyTree:
        x, _, model_key, _ = objective.inputs(*args)
        return x, model_key

    def forward(params: Params, batch: PyTree, key: Key) -> PyTree:
        x, model_key = inputs(params, batch, key)
        return objective.model.forward(params.model, x, model_key)

    return _traces(inputs, params, batch, key) and not _traces(forward, params, batch, key)


def _traces(f: Callable[..., PyTree], *args: Any) -> bool:
    try:
        jax.eval_shape(f, *args)
    except Exception:
        return False
    return True
