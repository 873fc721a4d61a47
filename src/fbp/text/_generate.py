"""Generates text one token at a time; each token is the next input."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_int32
from fbp._layer import Array, Layer, Params, PyTree
from fbp.text._choose import choose, require_choice

# The prompt is read in pieces of this many tokens: attention's scores of one piece have this many
# rows, with a column for each position.
_PIECE = 512


@dataclasses.dataclass(frozen=True)
class Choice:
    """How tokens are chosen; see `choose`.

    Only ids below `vocab` are drawn; None is all. A model may have more ids than its tokenizer.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    vocab: int | None = None

    def __post_init__(self) -> None:
        require_choice(self.temperature, self.top_k, self.top_p)

    def __call__(self, logits: Array, key: Array) -> Array:
        return choose(logits[..., : self.vocab], key, self.temperature, self.top_k, self.top_p)


def generate(
    model: Layer,
    params: Params,
    prompt: Array,
    n: int,
    key: Array,
    choice: Choice = Choice(),
    *,
    context: int | None = None,
    stops: tuple[int, ...] = (),
) -> Array:
    """Generates n tokens after a prompt, each drawn from the logits after all tokens before it.

    Layers keep earlier tokens in a state: keys and values of attention, h and c of an LSTM. The
    prompt fills the state in pieces of many tokens; then every token costs the same. Both are one
    compiled program. When the context is full, its last half is read again as a new prompt.

    Args:
      model: a causal model from ids (..., T) to logits (..., T, V).
      params: its parameters.
      prompt: ids (..., P), with P of 1 or more.
      n: how many tokens to generate.
      key: the key to draw with; the same key gives the same tokens.
      choice: how tokens are chosen.
      context: the most tokens that the model can read, or None if there is no limit.
      stops: ids that end a text. What comes after one is that id again; when all texts have ended,
        nothing more is computed.

    Returns:
      The new ids (..., n).

    Raises:
      ValueError: the prompt is empty, or longer than the context; n is negative; or logits are NaN,
        for example after an id outside the vocabulary.
    """
    if n < 0:
        raise ValueError(f"generate: expected n of 0 or more, got {n}")
    prompt = at_least_int32(jnp.asarray(prompt))  # new ids may not fit the prompt's dtype
    if not prompt.ndim or not prompt.shape[-1]:
        raise ValueError(f"generate: expected a prompt (..., P), P >= 1, got shape {prompt.shape}")
    if context is not None and prompt.shape[-1] > context:
        got = prompt.shape[-1]
        raise ValueError(f"generate: expected a prompt of at most {context} tokens, got {got}")
    written = prompt[..., :0]
    ended = jnp.zeros(prompt.shape[:-1], bool)
    while written.shape[-1] < n:
        more = n - written.shape[-1]
        if context is not None:
            # The model need not read the last new token, so one more than the context fits.
            more = min(more, context - prompt.shape[-1] + 1)
        key, part = jax.random.split(key)
        new, failed, ended = _write(model, params, prompt, more, part, choice, stops, ended)
        if not isinstance(failed, jax.core.Tracer) and failed:
            raise ValueError(
                "generate: expected logits that are numbers, got NaN: params that are not numbers, "
                "or an id of the prompt outside the vocabulary"
            )
        written = jnp.concatenate([written, new], -1)
        if context is not None:
            prompt = jnp.concatenate([prompt, new], -1)[..., -max(1, context // 2) :]
    return written


@functools.partial(jax.jit, static_argnames=("model", "n", "choice", "stops"))
def _write(
    model: Layer,
    params: Params,
    prompt: Array,
    n: int,
    key: Array,
    choice: Choice,
    stops: tuple[int, ...],
    ended: Array,
) -> tuple[Array, Array, Array]:
    """Returns the new ids, whether logits were NaN, and which texts have ended.

    The state is filled with the prompt except its last token, which is the first step's input.
    """
    *_, places = prompt.shape
    prompt = jnp.moveaxis(prompt, -1, 0)
    state = model.start(params, prompt[0], places + n - 1)
    for start in range(0, places - 1, _PIECE):
        _, state = model.steps(params, prompt[start : min(start + _PIECE, places - 1)], state)
    keys = jax.random.split(key, n)

    def goes_on(carry: _Writing) -> Array:
        return (carry.at < n) & ~carry.ended.all()

    def write(carry: _Writing) -> _Writing:
        logits, state = model.step(params, carry.ids, carry.state)
        ids = choice(logits, keys[carry.at]).astype(carry.ids.dtype)
        # A text that has ended goes on with the id that ended it.
        ids = jnp.where(carry.ended, carry.ids, ids)
        ended = carry.ended | jnp.isin(ids, jnp.array(stops, ids.dtype))
        failed = carry.failed | jnp.isnan(logits).any()
        return _Writing(
            carry.at + 1, state, ids, carry.written.at[carry.at].set(ids), ended, failed
        )

    written = jnp.zeros((n, *prompt.shape[1:]), prompt.dtype)
    first = jnp.zeros((), jnp.int32)
    begun = _Writing(first, state, prompt[-1], written, ended, jnp.zeros((), bool))
    done = lax.while_loop(goes_on, write, begun)
    late = jnp.arange(n) >= done.at
    written = jnp.where(late.reshape(n, *(1,) * ended.ndim), done.ids, done.written)
    return jnp.moveaxis(written, 0, -1), done.failed, done.ended


class _Writing(NamedTuple):
    """What a step of writing changes."""

    at: Array
    state: PyTree
    ids: Array
    written: Array
    ended: Array
    failed: Array
