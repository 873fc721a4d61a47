"""Recurrences: a tanh network through time, one step of an LSTM, a linear scan, a running sum."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import sigmoid

from planted._bug import Family, normal, normals, rule, sizes


def rnn(params, h0, x):
    """h[t] = tanh(x[t] w + h[t-1] u + b), all h returned; x is (T, B, D)."""

    def step(h, xt):
        h = jnp.tanh(xt @ params["w"] + h @ params["u"] + params["b"])
        return h, h

    return lax.scan(step, h0, x)[1]


def rnn_rule(bug=""):
    def backward(params, h0, x, dy):
        w, u, b = params["w"], params["u"], params["b"]
        h = rnn(params, h0, x)
        before = jnp.concatenate([h0[None], h[:-1]])
        if bug == "h_of_the_wrong_step":
            before = h

        def step(carry, at):
            dh, dw, du, db = carry
            t, xt, h_before, ht, dyt = at
            dh = dyt if bug == "carried_cotangent_overwritten" else dh + dyt
            if bug == "tanh_of_the_pre_activation":
                ht = xt @ w + h_before @ u + b
            if bug == "tanh_twice":
                ht = jnp.tanh(ht)
            da = dh * (1 - ht**2)
            dh = da @ u if bug == "u_not_transposed" else da @ u.T
            if bug == "truncated":
                dh = jnp.where(t % 3 == 0, 0, dh)
            if bug == "last_step_dw":
                dw = jnp.where(t == len(x) - 1, xt.T @ da, dw)
            else:
                dw = dw + xt.T @ da
            return (dh, dw, du + h_before.T @ da, db + da.sum(0)), da @ w.T

        zero = (jnp.zeros_like(h0), jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(b))
        steps = (np.arange(len(x)), x, before, h, dy)
        (dh0, dw, du, db), dx = lax.scan(step, zero, steps, reverse=True)
        if bug == "dh0_missing":
            dh0 = jnp.zeros_like(dh0)
        if bug == "dx_in_reverse":
            dx = dx[::-1]
        return {"w": dw, "u": du, "b": db}, dh0, dx

    return rule(rnn, backward)


def _rnn_args(rng, size):
    t, b, d, h = sizes(size, (7, 2, 5, 3), (32, 8, 32, 64))
    params = {
        "w": normal(rng, d, h, scale=d**-0.5),
        "u": normal(rng, h, h, scale=h**-0.5),
        "b": normal(rng, h),
    }
    return params, normal(rng, b, h), normal(rng, t, b, d)


EVERYTHING = "params.w params.u params.b h0 x"
RNN = Family("rnn", rnn, rnn_rule, _rnn_args)
RNN_BUGS = [
    RNN.bug("dh0_missing", "h0", ("zero",), "dh0 is zero."),
    RNN.bug(
        "last_step_dw",
        "params.w",
        ("cotangent", "term", "subset"),
        "dw keeps the last step of the sequence only.",
    ),
    RNN.bug(
        "truncated",
        EVERYTHING,
        ("cotangent", "term", "mask", "subset"),
        "The carried cotangent is cut every third step.",
    ),
    RNN.bug(
        "tanh_of_the_pre_activation",
        EVERYTHING,
        ("term:tanh|drop", "slope", "input"),
        "1 - a^2 of the pre-activation a, not of tanh(a).",
    ),
    RNN.bug(
        "tanh_twice", EVERYTHING, ("term:tanh", "slope", "input"), "1 - tanh(h)^2 for 1 - h^2."
    ),
    RNN.bug(
        "carried_cotangent_overwritten",
        EVERYTHING,
        ("term:drop", "cotangent"),
        "A step's dy replaces what was carried back.",
    ),
    RNN.bug(
        "u_not_transposed",
        EVERYTHING,
        ("term:transpose|dot_general",),
        "dh goes through u, not u^T.",
    ),
    RNN.bug(
        "h_of_the_wrong_step",
        "params.u",
        ("input", "roll", "term"),
        "du takes h[t] for h[t-1].",
    ),
    RNN.bug(
        "dx_in_reverse",
        "x",
        ("transpose:flip", "term:rev", "roll"),
        "dx has its steps in reverse order.",
    ),
]


def lstm_step(gates, c):
    """c' = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c'); gates is (B, 4 H)."""
    i, f, g, o = jnp.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def lstm_step_rule(bug=""):
    def backward(gates, c, dy):
        dh, dc = dy
        a, f, b, o = jnp.split(gates, 4, -1)
        i, f, g, o = sigmoid(a), sigmoid(f), jnp.tanh(b), sigmoid(o)
        t = jnp.tanh(f * c + i * g)
        if bug == "dc_overwritten":
            dc = dh * o * (1 - t**2)
        elif bug == "tanh_of_c_missing":
            dc = dc + dh * o
        else:
            dc = dc + dh * o * (1 - t**2)
        df = dc * (f * c + i * g if bug == "new_c_in_df" else c) * f * (1 - f)
        dg = dc * i * (g * (1 - g) if bug == "sigmoid_for_tanh" else 1 - g**2)
        parts = [dc * g * i * (1 - i), df, dg, dh * t * o * (1 - o)]
        if bug == "gate_order":
            parts = [parts[0], parts[1], parts[3], parts[2]]
        return jnp.concatenate(parts, -1), dc * f

    return rule(lstm_step, backward)


LSTM = Family(
    "lstm_step", lstm_step, lstm_step_rule, normals(((5, 28), (5, 7)), ((64, 256), (64, 64)))
)
LSTM_BUGS = [
    LSTM.bug(
        "dc_overwritten",
        "gates c",
        ("cotangent:second|output|drop", "term:drop"),
        "The cotangent of c' is forgotten.",
    ),
    LSTM.bug("tanh_of_c_missing", "gates c", ("term:tanh|drop",), "1 - tanh(c')^2 is missing."),
    LSTM.bug("new_c_in_df", "gates", ("input", "term", "subset"), "df takes c' for c."),
    LSTM.bug("sigmoid_for_tanh", "gates", ("subset", "term"), "dg has a sigmoid's slope."),
    LSTM.bug("gate_order", "gates", ("subset", "term", "roll"), "dg and do are swapped."),
]


def linear_scan(a, x):
    """h[t] = a[t] h[t-1] + x[t], from h = 0."""

    def step(h, at):
        h = at[0] * h + at[1]
        return h, h

    return lax.scan(step, jnp.zeros_like(x[0]), (a, x))[1]


def linear_scan_rule(bug=""):
    def backward(a, x, dy):
        h = linear_scan(a, x)
        before = h if bug == "da_with_h_now" else jnp.pad(h[:-1], ((1, 0), (0, 0)))
        after = a if bug == "decay_of_the_wrong_step" else jnp.pad(a[1:], ((0, 1), (0, 0)))
        dx = linear_scan(after[::-1], dy[::-1])[::-1]
        if bug == "not_reversed":
            dx = linear_scan(after, dy)
        return before * dx, dx

    return rule(linear_scan, backward)


SCAN = Family(
    "linear_scan", linear_scan, linear_scan_rule, normals(((7, 5), (7, 5)), ((64, 32),) * 2)
)
SCAN_BUGS = [
    SCAN.bug("da_with_h_now", "a", ("input", "roll", "term", "along"), "da takes h[t] for h[t-1]."),
    SCAN.bug("decay_of_the_wrong_step", "a x", ("term", "input", "roll"), "dx decays by a[t]."),
    SCAN.bug("not_reversed", "a x", ("term:rev|scan",), "The scan of dy runs forward in time."),
]


def cumsum(x):
    """The running sum of each row."""
    return jnp.cumsum(x, 1)


def cumsum_rule(bug=""):
    def backward(x, dy):
        dx = jnp.cumsum(dy[:, ::-1], 1)[:, ::-1]
        if bug == "not_reversed":
            dx = jnp.cumsum(dy, 1)
        if bug == "exclusive":
            dx = dx - dy
        return (dx,)

    return rule(cumsum, backward)


CUMSUM = Family("cumsum", cumsum, cumsum_rule, normals(((5, 7),), ((64, 128),)))
CUMSUM_BUGS = [
    CUMSUM.bug("not_reversed", "x", ("term:rev|cumsum",), "dy is summed up forward."),
    CUMSUM.bug("exclusive", "x", ("along:dy", "term", "roll"), "A step leaves out its own dy."),
]

FAMILIES = [RNN, LSTM, SCAN, CUMSUM]
BUGS = RNN_BUGS + LSTM_BUGS + SCAN_BUGS + CUMSUM_BUGS
