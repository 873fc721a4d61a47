"""Scans over padded sequences, run backwards: from the padding on, or with another mask."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from planted._bug import Family, normal, rule, sizes


def padded_decay(a, x, lengths):
    """h[t] = a h[t-1] + x[t] up to each length, h kept from there; x is (T, B), a (B,)."""

    def step(h, at):
        xt, seen = at
        h = jnp.where(seen, a * h + xt, h)
        return h, h

    return lax.scan(step, jnp.zeros_like(a), (x, _seen(x, lengths)))[1]


def _seen(x, lengths):
    return np.arange(len(x))[:, None] < lengths


def padded_decay_rule(bug=""):
    def backward(a, x, lengths, dy):
        h = padded_decay(a, x, lengths)
        before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        seen = _seen(x, lengths)
        if bug == "lengths_ignored":
            seen = np.ones(x.shape, bool)
        if bug == "mask_run_forwards":
            seen = seen[::-1]
        if bug == "one_step_more":
            seen = _seen(x, lengths + 1)
        if bug == "dy_of_padding_dropped":
            dy = dy * seen

        def step(carry, at):
            dh, da = carry
            dyt, seent, ht = at
            dh = dh + dyt
            da = da + jnp.where(seent, dh * ht, 0)
            dx = dh if bug == "mask_in_the_carry_only" else jnp.where(seent, dh, 0)
            past = jnp.where(seent, a * dh, 0 if bug == "carry_cleared" else dh)
            if bug == "decays_through_padding":
                past = a * dh
            return (past, da), dx

        zero = jnp.zeros_like(a)
        (_, da), dx = lax.scan(step, (zero, zero), (dy, seen, before), reverse=True)
        return da, dx, None

    return rule(padded_decay, backward)


def _sequences(rng, size):
    t, b = sizes(size, (7, 4), (32, 16))
    lengths = rng.integers(2, t, b).astype(np.int32)
    lengths[0] = t
    return rng.uniform(0.3, 0.9, b).astype(np.float32), normal(rng, t, b), lengths


BY_LENGTH = ("input:lengths", "mask:lengths", "term:mask|select|lt|never|always")
DECAY = Family("padded_decay", padded_decay, padded_decay_rule, _sequences)
DECAY_BUGS = [
    DECAY.bug("lengths_ignored", "a x", BY_LENGTH, "The backward takes all sequences for full."),
    DECAY.bug("mask_run_forwards", "a x", BY_LENGTH, "The mask is not reversed with the scan."),
    DECAY.bug("one_step_more", "a x", ("input:lengths", "term:le"), "A step of padding counts."),
    DECAY.bug(
        "dy_of_padding_dropped",
        "a x",
        ("cotangent", "mask:lengths", "term:mask|select"),
        "dy of the padded steps, which repeat h, is not used.",
    ),
    DECAY.bug(
        "mask_in_the_carry_only",
        "x",
        ("mask:lengths", "term:mask|select"),
        "dx is not zero in the padding.",
    ),
    DECAY.bug(
        "carry_cleared",
        "a x",
        ("term:select|mask|drop", "cotangent", "mask:lengths"),
        "The padding clears what is carried back.",
    ),
    DECAY.bug(
        "decays_through_padding",
        "a x",
        ("term:select|mask|lt", "input:lengths", "mask:lengths"),
        "What is carried back decays in the padding too.",
    ),
]


def returns(r, done, discount):
    """G[t] = r[t] + discount G[t+1], started anew after each end of an episode."""

    def step(g, at):
        rt, end = at
        g = rt + jnp.where(end, 0, discount * g)
        return g, g

    return lax.scan(step, jnp.zeros((), r.dtype), (r, done), reverse=True)[1]


def returns_rule(bug=""):
    def backward(r, done, discount, dy):
        g = returns(r, done, discount)
        after = jnp.concatenate([g[1:], jnp.zeros_like(g[:1])])
        before = jnp.concatenate([np.zeros(1, bool), done[:-1]])
        if bug == "ends_shifted":
            before = done
        if bug == "ends_ignored":
            before = jnp.zeros_like(done)

        def step(carry, at):
            dyt, end = at
            carry = dyt + jnp.where(end, 0, discount * carry)
            return carry, carry

        dr = lax.scan(step, jnp.zeros((), r.dtype), (dy, before))[1]
        if bug == "run_backwards":
            dr = lax.scan(step, jnp.zeros((), r.dtype), (dy, before), reverse=True)[1]
        kept = jnp.ones_like(r) if bug == "ends_in_ddiscount" else 1 - done.astype(r.dtype)
        return dr, None, (dr * kept * after).sum()

    return rule(returns, backward)


def _episodes(rng, size):
    (n,) = sizes(size, (9,), (128,))
    done = rng.random(n) < 0.25
    done[[2, 6]] = True, True
    return normal(rng, n), done, np.float32(0.9)


RETURNS = Family("returns", returns, returns_rule, _episodes)
RETURNS_BUGS = [
    RETURNS.bug("ends_shifted", "r discount", ("input:done", "term:select"), "Ends lie one late."),
    RETURNS.bug(
        "ends_ignored",
        "r discount",
        ("input:done", "term:select|mask"),
        "The backward runs through the ends of episodes.",
    ),
    RETURNS.bug(
        "run_backwards",
        "r discount",
        ("term:flip|rev|scan", "cotangent:flip", "transpose"),
        "The backward of the reverse scan runs in reverse too.",
    ),
    RETURNS.bug(
        "ends_in_ddiscount", "discount", ("input:done", "term:select|mask"), "It ignores the ends."
    ),
]


def reversed_within(x, lengths):
    """The first `length` rows of each sequence in reverse, the padding where it is; (T, B)."""
    t = np.arange(len(x))[:, None]
    at = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.tanh(jnp.take_along_axis(x, at, 0)) * x


def reversed_within_rule(bug=""):
    def backward(x, lengths, dy):
        t = np.arange(len(x))[:, None]
        at = jnp.where(t < lengths, lengths - 1 - t, t)
        if bug == "padding_reversed_too":
            at = jnp.broadcast_to(len(x) - 1 - t, x.shape)
        y = jnp.tanh(jnp.take_along_axis(x, at, 0))
        inner = dy * x * (1 - y**2)
        if bug == "not_turned_back":
            return dy * y + inner, None
        back = jnp.zeros_like(x).at[at, np.arange(x.shape[1])].add(inner)
        return dy * y + back, None

    return rule(reversed_within, backward)


def _some_sequences(rng, size):
    _, x, lengths = _sequences(rng, size)
    return x, lengths


REVERSED = Family("reversed_within", reversed_within, reversed_within_rule, _some_sequences)
REVERSED_BUGS = [
    REVERSED.bug(
        "padding_reversed_too",
        "x",
        ("input:lengths", "mask:lengths", "term:select|lt|mask|always|never"),
        "The backward reverses the whole axis, padding included.",
    ),
    REVERSED.bug(
        "not_turned_back",
        "x",
        ("term:gather|take|flip|transpose",),
        "It is not turned back.",
    ),
]

FAMILIES = [DECAY, RETURNS, REVERSED]
BUGS = DECAY_BUGS + RETURNS_BUGS + REVERSED_BUGS
