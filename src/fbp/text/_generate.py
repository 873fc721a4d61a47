"""Writing on: one token at a time, each the next one's input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Layer, Params, PyTree, at_least_int32
from fbp.text._choose import choose, require_choice

# Attention's scores of a piece of the prompt are as many numbers as this times all places.
_PIECE = 512


@dataclasses.dataclass(frozen=True)
class Choice:
    """How tokens are chosen; see `choose`.

    `vocab` is how many ids there are to choose from: a model may have more of them than its
    tokenizer, which are never drawn then. None is all.
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
) -> Array:
    """Writes n tokens after a prompt, each chosen from the logits after all before it.

    What a layer looks back at is in its state: keys and values of attention, an LSTM's h and c. The
    prompt fills it at once, then a token costs the same wherever it stands, and the whole is one
    compiled program. Where the context is full, writing goes on from the last half of it, read
    anew.

    Args:
      model: a causal model from ids (..., T) to logits (..., T, V).
      params: its parameters.
      prompt: ids (..., P), one or more.
      n: how many tokens to write.
      key: of the choices: the same key writes the same.
      choice: how they are made.
      context: the most tokens the model reads, or None where there is no most.

    Returns:
      The new ids (..., n).

    Raises:
      ValueError: the prompt is empty, or longer than the context; n is negative; logits are NaN, as
        those of an id outside the vocabulary.
    """
    if n < 0:
        raise ValueError(f"generate: expected n of 0 or more, got {n}")
    prompt = at_least_int32(jnp.asarray(prompt))  # of what is written some may need more bits
    if not prompt.ndim or not prompt.shape[-1]:
        raise ValueError(f"generate: expected a prompt (..., P), P >= 1, got shape {prompt.shape}")
    if context is not None and prompt.shape[-1] > context:
        got = prompt.shape[-1]
        raise ValueError(f"generate: expected a prompt of at most {context} tokens, got {got}")
    written = prompt[..., :0]
    while written.shape[-1] < n:
        more = n - written.shape[-1]
        if context is not None:
            # The last token that is written need not be read.
            more = min(more, context - prompt.shape[-1] + 1)
        key, part = jax.random.split(key)
        new, failed = _write(model, params, prompt, more, part, choice)
        if not isinstance(failed, jax.core.Tracer) and failed:
            raise ValueError(
                "generate: expected logits that are numbers, got NaN: params that are not numbers, "
                "or an id of the prompt outside the vocabulary"
            )
        written = jnp.concatenate([written, new], -1)
        if context is not None:
            prompt = jnp.concatenate([prompt, new], -1)[..., -max(1, context // 2) :]
    return written


@functools.partial(jax.jit, static_argnames=("model", "n", "choice"))
def _write(
    model: Layer, params: Params, prompt: Array, n: int, key: Array, choice: Choice
) -> tuple[Array, Array]:
    """Returns the new ids, and whether logits were NaN.

    Reads all of the prompt but its last token, whose logits are the first to choose from.
    """
    *_, places = prompt.shape
    prompt = jnp.moveaxis(prompt, -1, 0)
    state = model.start(params, prompt[0], places + n - 1)
    for start in range(0, places - 1, _PIECE):
        _, state = model.steps(params, prompt[start : min(start + _PIECE, places - 1)], state)

    def write(carry: tuple[PyTree, Array], key: Array) -> tuple[tuple[PyTree, Array], PyTree]:
        state, ids = carry
        logits, state = model.step(params, ids, state)
        ids = choice(logits, key).astype(ids.dtype)
        return (state, ids), (ids, jnp.isnan(logits).any())

    _, (ids, failed) = lax.scan(write, (state, prompt[-1]), jax.random.split(key, n))
    return jnp.moveaxis(ids, 0, -1), failed.any()
