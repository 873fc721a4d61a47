"""Draws the next token from logits."""

import jax
import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key


def choose(
    logits: Array,
    key: Key,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Array:
    """Draws ids from softmax(logits / temperature), restricted by top_k and top_p.

    First top_k keeps the k largest logits, and any that equal the smallest of these. Then top_p
    keeps the smallest set of most likely tokens whose probabilities, after top_k and temperature,
    sum to p or more: a token stays if the likelier ones sum to less than p, so at least one stays.

    Shapes: logits (..., V), ids (...), int32. `temperature`, `top_k` and `top_p` are Python
    numbers: each setting compiles a program of its own.

    Args:
      logits: unnormalized log-probabilities.
      key: a key; not needed at temperature 0.
      temperature: 0 takes the largest logit, the first of equals; 1 is the model's distribution.
      top_k: how many tokens to draw from, or None for all.
      top_p: the total probability of the tokens to draw from, or None for all tokens.

    Raises:
      ValueError: a setting is outside its range; there is no key and the temperature is not 0.

    Source: top-k: Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation", ACL 2018; top-p:
    Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020.
    """
    require_choice(temperature, top_k, top_p)
    if temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    if key is None:
        raise ValueError("choose: expected a key, or a temperature of 0")
    logits = at_least_float32(logits) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p is not None and top_p < 1:
        order = jnp.argsort(-logits, -1)
        p = jax.nn.softmax(jnp.take_along_axis(logits, order, -1))
        stays = jnp.cumsum(p, -1) - p < top_p
        # The inverse permutation restores the order of the vocabulary.
        stays = jnp.take_along_axis(stays, jnp.argsort(order, -1), -1)
        logits = jnp.where(stays, logits, -jnp.inf)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def require_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ValueError unless these are settings of `choose`."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"choose: expected a temperature of 0 or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"choose: expected top_k to be 1 or more, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"choose: expected top_p in (0, 1], got {top_p}")
