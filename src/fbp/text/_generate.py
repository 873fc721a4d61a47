"""Writing on: one token at a time, each the next one's input."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Layer, Params, PyTree
from fbp.combinators import Recurrent, Serial
from fbp.text._choose import choose, require_choice


@dataclasses.dataclass(frozen=True)
class Choice:
    """How tokens are chosen; see `choose`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        require_choice(self.temperature, self.top_k, self.top_p)

    def __call__(self, logits: Array, key: Array) -> Array:
        return choose(logits, key, self.temperature, self.top_k, self.top_p)


@functools.partial(jax.jit, static_argnames=("model", "n", "choice"))
def generate_recurrent(
    model: Serial,
    params: Params,
    prompt: Array,
    n: int,
    key: Array,
    choice: Choice = Choice(),
) -> Array:
    """Writes n tokens after a prompt with a recurrent model, as one compiled program.

    The past is in the states of the cells, so that a token costs the same wherever it stands. Two
    scans: one reads the prompt, one writes.

    Args:
      model: a Serial of `Recurrent` layers and layers that know no time, from ids to logits.
      params: its parameters.
      prompt: ids (..., P), one or more.
      n: how many tokens to write.
      key: of the choices.
      choice: how they are made.

    Returns:
      The new ids (..., n).

    Raises:
      ValueError: the prompt is empty.
    """
    if not prompt.ndim or not prompt.shape[-1]:
        raise ValueError(f"generate: expected a prompt (..., P), P >= 1, got shape {prompt.shape}")
    prompt = jnp.moveaxis(prompt, -1, 0)

    def read(states: PyTree, ids: Array) -> tuple[PyTree, None]:
        return _step(model, params, states, ids)[0], None

    def write(carry: tuple[PyTree, Array], key: Array) -> tuple[tuple[PyTree, Array], Array]:
        states, ids = carry
        states, logits = _step(model, params, states, ids)
        ids = choice(logits, key).astype(ids.dtype)
        return (states, ids), ids

    states, _ = lax.scan(read, _initial(model, params, prompt[0]), prompt[:-1])
    _, ids = lax.scan(write, (states, prompt[-1]), jax.random.split(key, n))
    return jnp.moveaxis(ids, 0, -1)


def _step(model: Serial, params: Params, states: PyTree, x: Any) -> tuple[list[PyTree], Array]:
    """One token through all layers: the states after it and the last layer's output."""
    after = []
    for layer, p, state in zip(model.layers, model.unpack(params), states, strict=True):
        if isinstance(layer, Recurrent):
            (x, state), _ = layer.cell.forward(p, (x, state))
        else:
            x, _ = layer.forward(p, x)
        after.append(state)
    return after, x


def _initial(model: Serial, params: Params, x: Any) -> list[PyTree]:
    """The states before the first token; () for a layer that has none."""
    states: list[PyTree] = []
    for layer, p in zip(model.layers, model.unpack(params), strict=True):
        if isinstance(layer, Recurrent):
            state = layer.cell.initial(p, x)
            (x, _), _ = jax.eval_shape(layer.cell.forward, p, (x, state))
        else:
            state = ()
            x, _ = jax.eval_shape(layer.forward, p, x)
        states.append(state)
    return states


@functools.partial(jax.jit, static_argnames=("model", "context", "n", "choice"))
def generate_windowed(
    model: Layer,
    params: Params,
    prompt: Array,
    n: int,
    key: Array,
    choice: Choice = Choice(),
    *,
    context: int,
) -> Array:
    """Writes n tokens after a prompt with a causal model, reading the last `context` every time.

    The plain way, without a cache: a token costs a whole forward pass. What stands behind the last
    token in the window is not looked at by a causal model.

    Args:
      model: a causal Layer from ids (..., T) to logits (..., T, V).
      params: its parameters.
      prompt: ids (..., P), one or more; the last `context` of them count.
      n: how many tokens to write.
      key: of the choices.
      choice: how they are made.
      context: the longest T.

    Returns:
      The new ids (..., n).

    Raises:
      ValueError: the prompt is empty.
    """
    if not prompt.ndim or not prompt.shape[-1]:
        raise ValueError(f"generate: expected a prompt (..., P), P >= 1, got shape {prompt.shape}")
    prompt = prompt[..., -context:]
    length = prompt.shape[-1]
    room = [(0, 0)] * (prompt.ndim - 1) + [(0, context - length)]

    def write(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        window, length = carry
        logits, _ = model.forward(params, window)
        ids = choice(jnp.take(logits, length - 1, -2), key).astype(window.dtype)
        full = length == context
        window = jnp.where(full, jnp.roll(window, -1, -1), window)
        place = jnp.where(full, context - 1, length)
        window = jnp.where(jnp.arange(context) == place, ids[..., None], window)
        return (window, jnp.minimum(length + 1, context)), ids

    start = jnp.pad(prompt, room), jnp.asarray(length)
    _, ids = lax.scan(write, start, jax.random.split(key, n))
    return jnp.moveaxis(ids, 0, -1)
