"""Writing on: one token at a time, each the next one's input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Layer, Params, PyTree
from fbp.text._choose import choose, require_choice


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

    What a layer looks back at is in its state: keys and values of attention, an LSTM's h and c. So
    a token costs the same wherever it stands, and the whole is one compiled program. Where the
    context is full, writing goes on from the last half of it, read anew.

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
      ValueError: the prompt is empty, or longer than the context.
    """
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
        new = _write(model, params, prompt, more, part, choice)
        written = jnp.concatenate([written, new], -1)
        if context is not None:
            prompt = jnp.concatenate([prompt, new], -1)[..., -max(1, context // 2) :]
    return written


@functools.partial(jax.jit, static_argnames=("model", "n", "choice"))
def _write(
    model: Layer, params: Params, prompt: Array, n: int, key: Array, choice: Choice
) -> Array:
    """Two scans: one reads the prompt, one writes."""
    prompt = jnp.moveaxis(prompt, -1, 0)

    def read(state: PyTree, ids: Array) -> tuple[PyTree, None]:
        return model.step(params, ids, state)[1], None

    def write(carry: tuple[PyTree, Array], key: Array) -> tuple[tuple[PyTree, Array], Array]:
        state, ids = carry
        logits, state = model.step(params, ids, state)
        ids = choice(logits, key).astype(ids.dtype)
        return (state, ids), ids

    state = model.start(params, prompt[0], len(prompt) + n - 1)
    state, _ = lax.scan(read, state, prompt[:-1])
    _, ids = lax.scan(write, (state, prompt[-1]), jax.random.split(key, n))
    return jnp.moveaxis(ids, 0, -1)
