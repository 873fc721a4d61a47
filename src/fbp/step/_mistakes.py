"""Mistakes in the use of a training step: each is told in one line."""

from collections.abc import Callable
from typing import Any

import jax

from fbp._contract import takes
from fbp._described import described
from fbp._layer import Key, Layer, Loss, PyTree, name_of
from fbp.combinators import map_layers
from fbp.step._scaled import LossScale, LossScaled


def require_parts(objective: Any, optimizer: Any, has_aux: bool, in_backward: bool) -> None:
    """Raises unless a step can be made of an objective and an optimizer."""
    if in_backward and isinstance(optimizer, LossScaled):
        raise ValueError(
            "in_backward: expected an optimizer that needs no whole gradient, got LossScaled, "
            "which looks whether it is finite: take a plain step"
        )
    if not hasattr(objective, "value_and_grad") or isinstance(objective, Loss):
        raise TypeError(
            f"step: expected an objective, got {described(objective)}: make one, "
            "fbp.Objective(model, loss)"
        )
    made = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    if isinstance(optimizer, type) or not made:
        name = getattr(optimizer, "__name__", "")
        function = callable(optimizer) and not isinstance(optimizer, type)
        cure = f": call it, as in optax.{name}(1e-3)" if function else ": as optax.adam(1e-3)"
        raise TypeError(f"step: expected an optax optimizer, got {described(optimizer)}{cure}")
    for option, wanted in (("has_aux", has_aux), ("scale", isinstance(optimizer, LossScaled))):
        if wanted and not _accepts(objective, option):
            raise ValueError(
                f"step: expected an objective whose value_and_grad takes {option}, as that of "
                f"Objective does, got {name_of(objective)}"
            )


def require_state(optimizer: Any, state: Any) -> None:
    """Raises TypeError for what is no state; ValueError for that of a LossScaled inside another
    optimizer, whose scale would reach no loss."""
    if not (isinstance(state, tuple) and len(state) == 3):
        raise TypeError(
            "step: expected a state, that of fbp.state_of(params, optimizer), got "
            f"{described(state)}"
        )
    inside = state[1].state if isinstance(optimizer, LossScaled) else state[1]
    leaves = jax.tree.leaves(inside, is_leaf=lambda s: isinstance(s, LossScale))
    if any(isinstance(leaf, LossScale) for leaf in leaves):
        raise ValueError(
            "step: expected LossScaled as the outermost wrapper of the optimizer, got it inside "
            "another: write LossScaled(Clipped(...))"
        )


def _uses_key(prepare: Callable[[PyTree, Key], PyTree], batch: PyTree) -> bool:
    """Whether what it returns depends on the key: all take one."""
    program = jax.make_jaxpr(prepare)(batch, jax.random.key(0)).jaxpr
    key = program.invars[-1]
    return key in program.outvars or any(key in eqn.invars for eqn in program.eqns)


def require_own_state(optimizer: Any, params: Any, opt_state: Any, error: Exception) -> None:
    """Raises TypeError where an update failed because the state is not this optimizer's."""
    own, given = (
        jax.tree.structure(s) for s in (jax.eval_shape(optimizer.init, params), opt_state)
    )
    if str(own) != str(given):
        raise TypeError(
            "step: expected the state of this optimizer, that of fbp.state_of(params, optimizer), "
            f"got {described(opt_state)}"
        ) from error


def _accepts(objective: Any, option: str) -> bool:
    whole = getattr(objective, "objective", objective)  # that of a Microbatch
    return takes(whole.value_and_grad, option)


def require_no_noise(objective: Any, batch: PyTree) -> None:
    """Raises ValueError where training without a key would silently draw no noise."""
    drawing = [name_of(objective)] if getattr(objective, "draws", False) else []

    def note(layer: Layer) -> Layer:
        if layer.draws:
            drawing.append(name_of(layer))
        return layer

    whole = getattr(objective, "objective", objective)  # that of a Microbatch
    if getattr(getattr(whole, "loss", None), "draws", False):
        drawing.append(name_of(whole.loss))
    if isinstance(getattr(whole, "model", None), Layer):
        map_layers(note, whole.model)
    if getattr(whole, "prepare", None) is not None and _uses_key(whole.prepare, batch):
        drawing.append("prepare")
    if drawing:
        raise ValueError(
            f"step: expected a key, since {drawing[0]} draws noise in training, got None: "
            "step(state, batch, key)"
        )
