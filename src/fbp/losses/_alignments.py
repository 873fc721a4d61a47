"""All alignments of labels with frames, summed by recursions along the frames, for `CTC`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from fbp._layer import Array


class States(NamedTuple):
    """Labels with blanks between them, as states s = 0..2L: blank, l_1, blank, ..., l_L, blank."""

    of_state: Array  # (B, S), the class of each state
    skip: Array  # (B, S), whether s may follow s - 2: a label that differs from the one before
    inside: Array  # (B, S), whether the state is one of this row's, s <= 2 label_length
    end: Array  # (B, S), log 1 where a path may end, the last two states, log 0 elsewhere
    frames: Array  # (B,), the number of frames


def moved(a: Array, by: int, fill: Any) -> Array:
    """Moves (B, S) along the states, up by `by` or down by -by."""
    pads = (by, 0) if by > 0 else (0, -by)
    wide = jnp.pad(a, ((0, 0), pads), constant_values=fill)
    return wide[:, : a.shape[1]] if by > 0 else wide[:, -by:]


def _log_sum(*terms: Array) -> Array:
    """log(sum(exp)) of arrays, -inf where all are."""
    top = terms[0]
    for term in terms[1:]:
        top = jnp.maximum(top, term)
    top = jnp.where(top == -jnp.inf, 0, top)
    total = sum((jnp.exp(term - top) for term in terms[1:]), jnp.exp(terms[0] - top))
    none = total == 0
    return jnp.where(none, -jnp.inf, top + jnp.log(jnp.where(none, 1, total)))


def _shifted(a: Array) -> tuple[Array, Array]:
    """Returns (B, S) with its largest state at 0, and by how much it was shifted, (B,)."""
    top = a.max(-1)
    top = jnp.where(top == -jnp.inf, 0, top)
    return a - top[:, None], top


def emitted_by(log_p: Array, states: States) -> Array:
    """Returns e (T, B, S): log p_t of each state's class, -inf in states that a row lacks."""
    e = jnp.take_along_axis(log_p, states.of_state[:, None, :], axis=-1)
    return jnp.where(states.inside[:, None, :], e, -jnp.inf).swapaxes(0, 1)


def forward(emitted: Array, states: States) -> tuple[Array, Array]:
    """Returns alpha (T, B, S), up to a number for each frame and row, and log P (B,)."""

    def step(carry: tuple[Array, Array], now: tuple[Array, Array]) -> Any:
        (alpha, log_scale), (t, e) = carry, now
        skipped = jnp.where(states.skip, moved(alpha, 2, -jnp.inf), -jnp.inf)
        after, shift = _shifted(e + _log_sum(alpha, moved(alpha, 1, -jnp.inf), skipped))
        frame = t < states.frames
        alpha = jnp.where(frame[:, None], after, alpha)
        return (alpha, log_scale + jnp.where(frame, shift, 0)), alpha

    # Before the first frame a path is in the first blank: it then stays there, or goes on to l_1.
    start = jnp.where(jnp.arange(emitted.shape[-1]) == 0, 0, jnp.full_like(states.end, -jnp.inf))
    start = start.astype(emitted.dtype)
    times = jnp.arange(len(emitted))
    log_scale = jnp.zeros(len(states.frames), emitted.dtype)
    (alpha, log_scale), alphas = lax.scan(step, (start, log_scale), (times, emitted))
    ends = alpha + states.end.astype(alpha.dtype)
    ends, shift = _shifted(ends)
    total = jnp.exp(ends).sum(-1)
    none = total == 0
    log_end = jnp.where(none, -jnp.inf, shift + jnp.log(jnp.where(none, 1, total)))
    return alphas, log_scale + log_end


def backward(emitted: Array, states: States) -> Array:
    """Returns beta (T, B, S), up to a number for each frame and row."""
    may_skip = moved(states.skip, -2, False)

    def step(beta: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        t, e = now
        there = e + beta
        skipped = jnp.where(may_skip, moved(there, -2, -jnp.inf), -jnp.inf)
        before, _ = _shifted(_log_sum(there, moved(there, -1, -jnp.inf), skipped))
        return jnp.where((t < states.frames)[:, None], before, beta), beta

    end = states.end.astype(emitted.dtype)
    _, betas = lax.scan(step, end, (jnp.arange(len(emitted)), emitted), reverse=True)
    return betas


def posterior(alphas: Array, betas: Array, states: States, p: Array) -> Array:
    """Returns the probability (B, T, C) of each class at each frame, given the labels."""
    gamma = alphas + betas
    top = gamma.max(-1, keepdims=True)
    gamma = jnp.exp(gamma - jnp.where(top == -jnp.inf, 0, top))
    total = gamma.sum(-1, keepdims=True)
    gamma = (gamma / jnp.where(total == 0, 1, total)).swapaxes(0, 1)
    rows, times = jnp.arange(len(p))[:, None, None], jnp.arange(p.shape[1])[:, None]
    return jnp.zeros_like(p).at[rows, times, states.of_state[:, None, :]].add(gamma)
