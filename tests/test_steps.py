"""A sequence in parts: one place at a time, several at once, and what is written on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import text
from fbp.text import _generate

SIZES = {"vocab": 13, "width": 8, "layers": 2}
MODELS: dict[str, fbp.Layer] = {
    "gpt2": fbp.models.gpt2(**SIZES, context=9, heads=2),
    "llama": fbp.models.llama(**SIZES, heads=4, kv_heads=2, hidden=12, window=3, tied=True),
    "char_lstm": fbp.models.char_lstm(**SIZES),
}


@dataclasses.dataclass(frozen=True)
class Mean(fbp.Layer):
    """The mean of all places up to each: a layer with a `start` and a `step` of its own."""

    def forward(self, params: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        return jnp.cumsum(x, -2) / jnp.arange(1, x.shape[-2] + 1)[:, None], ()

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def start(self, params: Any, x: Any, length: int) -> Any:
        return jnp.zeros(x.shape, x.dtype), jnp.zeros((), x.dtype)

    def step(self, params: Any, x: Any, state: Any) -> tuple[Any, Any]:
        total, places = state
        return (total + x) / (places + 1), (total + x, places + 1)


def attention() -> fbp.Layer:
    return fbp.Serial(
        *(fbp.Dense(8, 24), fbp.SplitHeads(2), fbp.Rope()),
        *(fbp.Attention(causal=True, softcap=2.0), fbp.MergeHeads()),
    )


COMBINED: dict[str, fbp.Layer] = {
    "parallel": fbp.Serial(
        fbp.Parallel(a=attention(), b=fbp.Recurrent(fbp.GRUCell(8, 8))),
        fbp.from_jax(lambda _, x: x["a"] * x["b"]),
    ),
    "sum": fbp.Sum(attention(), fbp.Recurrent(fbp.GRUCell(8, 8)), Mean(), fbp.Dense(8, 8)),
    "residual": fbp.Residual(fbp.Remat(fbp.Freeze(attention()))),
    "stack": fbp.Stack(fbp.Serial(mean=Mean(), dense=fbp.Dense(8, 8)), 3),
    "cast": fbp.Cast(fbp.Serial(attention(), Mean()), jnp.float32),
    "positions": fbp.Positions(9, 8),
}


def drawn(model: fbp.Layer) -> Any:
    """Params with which a place is far from its neighbours."""
    params, rng = model.init(jax.random.key(0)), np.random.default_rng(1)
    return jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape), params)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, *COMBINED])
def test_in_parts_it_is_the_forward_pass(name: str) -> None:
    rng = np.random.default_rng(0)
    if name in MODELS:
        model, x = MODELS[name], jnp.asarray(rng.integers(13, size=(2, 9)))
    else:
        model, x = COMBINED[name], jnp.asarray(rng.normal(size=(2, 9, 8)), jnp.float32)
    params = drawn(model)
    want, _ = jax.jit(model.forward)(params, x)
    want, x = jnp.moveaxis(want, 1, 0), jnp.moveaxis(x, 1, 0)
    # Float32, and sums of at most 24 terms, four or so one after another.
    close = 100 * float(jnp.finfo(jnp.float32).eps * jnp.abs(want).max())
    step, steps = jax.jit(model.step), jax.jit(model.steps)
    for cuts in ([9], [4, 1, 4], [1] * 9):
        state, at = model.start(params, x[0], 9), 0
        for part in cuts:
            if part == 1:
                y, state = step(params, x[at], state)
                y = y[None]
            else:
                y, state = steps(params, x[at : at + part], state)
            np.testing.assert_allclose(y, want[at : at + part], rtol=0, atol=close)
            at += part


def test_what_cannot_go_in_parts_is_refused() -> None:
    q = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"^Attention: expected causal=True and x = \(q, k, v\)"):
        fbp.Attention().start((), (q, q, q), 3)
    with pytest.raises(ValueError, match=r"^Attention: expected causal=True and x = \(q, k, v\)"):
        fbp.Attention(causal=True).start((), (q, q, q, jnp.ones((), bool)), 3)
    with pytest.raises(ValueError, match=r"^Attention: expected causal=True and x = \(q, k, v\)"):
        fbp.Attention(causal=True).start((), (q, q, q, jnp.ones((), int)), 3)
    with pytest.raises(ValueError, match=r"^Positions: expected at most 3 places, got 4$"):
        fbp.Positions(3, 4).start({"w": jnp.ones((3, 4))}, q, 4)


def likeliest(model: fbp.Layer, params: Any, ids: list[int], n: int) -> list[int]:
    """The likeliest token n times, each of all before it, by the forward pass alone."""
    forward = jax.jit(model.forward)
    for _ in range(n):
        # What comes after is not seen.
        logits, _ = forward(params, jnp.asarray(ids + [0] * (9 - len(ids))))
        ids = [*ids, int(logits[len(ids) - 1].argmax())]
    return ids[-n:]


@pytest.mark.slow
@pytest.mark.parametrize("piece", [3, 512], ids=["in_pieces", "at_once"])
def test_the_likeliest_token_every_time(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_generate, "_PIECE", piece)
    _generate._write.clear_cache()
    prompt, greedy = [1, 2, 3, 12, 5, 5], text.Choice(temperature=0)
    for model in (MODELS["gpt2"], MODELS["llama"]):
        params = drawn(model)
        got = text.generate(model, params, jnp.asarray(prompt), 3, jax.random.key(0), greedy)
        assert got.tolist() == likeliest(model, params, prompt, 3)
    _generate._write.clear_cache()


@pytest.mark.slow
def test_beyond_the_context() -> None:
    model = MODELS["gpt2"]
    params, prompt, key = drawn(model), jnp.asarray([1, 2, 3]), jax.random.key(0)
    greedy = text.Choice(temperature=0)
    longer = text.generate(model, params, prompt, 20, key, greedy, context=9)
    assert longer.shape == (20,)
    # Seven until nine are read; then on from the last four.
    first = likeliest(model, params, [1, 2, 3], 7)
    assert longer.tolist()[:13] == first + likeliest(model, params, first[-4:], 6)


def test_bytes_may_be_followed_by_ids_of_more() -> None:
    model = fbp.models.char_lstm(vocab=300, width=4, layers=1)
    params = model.init(jax.random.key(0))
    params["unembed"]["w"] = params["unembed"]["w"].at[:256].set(0)
    prompt, key = jnp.asarray([255], jnp.uint8), jax.random.key(0)
    choice = text.Choice(temperature=1e-3)
    assert (np.asarray(text.generate(model, params, prompt, 9, key, choice)) >= 256).any()


def test_what_cannot_be_written_on_is_refused() -> None:
    model, key = MODELS["gpt2"], jax.random.key(0)
    params = drawn(model)
    for prompt, n, message in [
        ([0] * 10, 1, "expected a prompt of at most 9 tokens, got 10"),
        ([], 1, r"expected a prompt \(\.\.\., P\), P >= 1, got shape \(0,\)"),
        ([1], -1, "expected n of 0 or more, got -1"),
        ([1, 13], 2, "expected logits that are numbers, got NaN: .* outside the vocabulary"),
        ([-1, 1], 2, "expected logits that are numbers, got NaN: .* outside the vocabulary"),
    ]:
        with pytest.raises(ValueError, match=f"^generate: {message}"):
            text.generate(model, params, jnp.asarray(prompt, int), n, key, context=9)
