"""Rows of several documents: a model reads each of them as if it were alone."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import assert_close

import fbp
from fbp._tree import named_leaves
from fbp.models import NextToken, with_documents
from fbp.models._documents import PositionsInDocuments, from_the_first

VOCAB, WIDTH, CONTEXT = 13, 8, 12
IGNORE = -1
# Of two rows: documents of 5, 1 and 4 tokens and 2 places of padding, and of 12.
SIZES = ((5, 1, 4, 2), (12,))
# Float64, through two blocks.
CLOSE = 1e-12
GPT2 = functools.partial(
    fbp.models.gpt2, vocab=VOCAB, context=CONTEXT, width=WIDTH, heads=2, layers=2
)
LLAMA = functools.partial(
    *(fbp.models.llama,),
    **{"vocab": VOCAB, "width": WIDTH, "heads": 4, "kv_heads": 2, "layers": 2, "hidden": 12},
)
MODELS: dict[str, Any] = {
    "gpt2": GPT2,
    "gpt2_untied": functools.partial(GPT2, tied=False),
    "llama": LLAMA,
    "mistral": functools.partial(LLAMA, window=3),
    "qwen2": functools.partial(LLAMA, attention_bias=True, output_bias=False, tied=True),
    "qwen3": functools.partial(LLAMA, qk_norm=True),
}


def random_params(model: fbp.Layer, seed: int = 0) -> Any:
    """None of them at 0 or 1, where a wrong term hides."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), shapes)


def batch_of_documents() -> tuple[Any, Any]:
    """((ids, documents), labels): labels stay inside documents, and padding has none."""
    rng = np.random.default_rng(3)
    ids = rng.integers(VOCAB, size=(2, CONTEXT)).astype(np.int32)
    documents = np.stack([np.repeat(np.arange(len(s)), s) for s in SIZES]).astype(np.int32)
    labels = np.full_like(ids, IGNORE)
    for row, sizes in enumerate(SIZES):
        for start, stop in _spans(sizes):
            labels[row, start : stop - 1] = ids[row, start + 1 : stop]
    labels[0, -2:] = IGNORE
    return (jnp.asarray(ids), jnp.asarray(documents)), jnp.asarray(labels)


def _spans(sizes: Any) -> list[tuple[int, int]]:
    ends = np.cumsum(sizes)
    return [(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]


def objective_of(model: fbp.Layer) -> NextToken:
    return NextToken(model, fbp.UnembedCrossEntropy(WIDTH, VOCAB, ignore=IGNORE))


def some(*names: str) -> list[Any]:
    """These models always, the others among the slow tests, most where they are asked for."""
    marks = {n: [pytest.mark.slow] + [pytest.mark.exhaustive] * (n != "llama") for n in MODELS}
    return [n if n in names else pytest.param(n, marks=marks[n]) for n in MODELS]


@pytest.mark.parametrize("name", some())
def test_a_row_of_documents_is_each_of_them_alone(name: str, x64: None) -> None:
    """The logits, and the gradient: that of the documents alone, weighed by their labels."""
    model = MODELS[name](dtype="float64")
    params, packed = random_params(model), with_documents(model)
    (ids, documents), labels = batch_of_documents()
    logits, _ = jax.jit(packed.forward)(params, (ids, documents))
    loss, dparams = jax.jit(objective_of(packed).value_and_grad)(params, ((ids, documents), labels))
    alone = jax.jit(objective_of(model).value_and_grad)
    total, summed = 0.0, jax.tree.map(jnp.zeros_like, params)
    for row, sizes in enumerate(SIZES):
        for start, stop in _spans(sizes):
            one = ids[row : row + 1, start:stop], labels[row : row + 1, start:stop]
            y, _ = model.forward(params, one[0])
            assert_close(logits[row : row + 1, start:stop], y, CLOSE)
            share = (one[1] != IGNORE).sum() / (labels != IGNORE).sum()
            value, d = alone(params, one)
            total = total + share * value
            summed = jax.tree.map(lambda a, b: a + share * b, summed, d)  # noqa: B023
    np.testing.assert_allclose(loss, total, rtol=CLOSE)
    assert_close(dparams, summed, CLOSE)
    # Without the numbers a document sees those before it.
    y, _ = model.forward(params, ids)
    assert not np.allclose(y[0, 5:], logits[0, 5:])


@pytest.mark.parametrize("name", MODELS)
def test_params_are_those_of_the_model(name: str) -> None:
    model = MODELS[name](dtype="bfloat16")
    key = jax.random.key(3)
    want, got = model.init(key), with_documents(model).init(key)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.slow
def test_the_rule_is_checked(name: str) -> None:
    """Against autodiff; and `summary` shows the same layers, params and paths."""
    model = MODELS[name]()
    packed, batch = with_documents(model), batch_of_documents()
    check = fbp.cross_check(objective_of(packed), random_params(packed), batch)
    assert check.ok, str(check)
    x = batch[0]
    assert fbp.check(packed, random_params(packed), x, budget="fast").ok
    assert fbp.summary(packed, x).params == fbp.summary(model, x[0]).params
    assert "blocks.attention.qkv" in {row.path for row in fbp.summary(packed, x).rows}


def _keeping(model: Any, keep: Any) -> Any:
    change = functools.partial(dataclasses.replace, keep=keep)
    return fbp.map_layers(lambda one: change(one) if isinstance(one, fbp.Stack) else one, model)


def _remat(model: Any) -> Any:
    def inside(one: Any) -> Any:
        return dataclasses.replace(one, layer=fbp.Remat(one.layer)) if is_stack(one) else one

    def is_stack(one: Any) -> bool:
        return isinstance(one, fbp.Stack)

    return fbp.map_layers(inside, model)


@pytest.mark.parametrize("before", [True, False], ids=["changed_before", "changed_after"])
@pytest.mark.parametrize(
    "change",
    [lambda m: _keeping(m, "inputs"), lambda m: _keeping(m, 2), _remat],
    ids=["keep_inputs", "keep_2", "remat"],
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_whatever_is_kept(name: str, change: Any, before: bool, x64: None) -> None:
    model, batch = MODELS[name](dtype="float64"), batch_of_documents()
    params = random_params(model)
    changed = with_documents(change(model)) if before else change(with_documents(model))
    assert changed != with_documents(model)
    want, got = (
        jax.jit(objective_of(m).value_and_grad)(params, batch)
        for m in (with_documents(model), changed)
    )
    assert_close(got, want, CLOSE)


@pytest.mark.slow
def test_lora_bfloat16_dropout_and_parts_of_a_batch() -> None:
    model = fbp.models.gpt2(
        vocab=VOCAB, context=CONTEXT, width=WIDTH, heads=2, layers=2, dropout=0.5
    )
    batch, key = batch_of_documents(), jax.random.key(1)
    params = random_params(model)
    tuned, lora = fbp.models.with_lora(model, params, key, rank=2)
    packed = with_documents(tuned)
    assert jax.tree.structure(packed.init(key)) == jax.tree.structure(lora)
    for some in (packed, fbp.mixed_precision(packed), with_documents(fbp.mixed_precision(tuned))):
        objective = objective_of(some)
        value, dparams = jax.jit(objective.value_and_grad)(lora, batch, key)
        assert np.isfinite(value)
        drawn, frozen = (
            named_leaves(dparams)[f"blocks.attention.qkv.{n}"] for n in ("b", "dense.w")
        )
        assert np.any(drawn)
        assert not np.any(frozen)
    # Of one row each, which have not as many labels.
    objective = objective_of(with_documents(model))
    want = jax.jit(objective.value_and_grad)(params, batch)
    got = jax.jit(fbp.Microbatch(objective, 1).value_and_grad)(params, batch)
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_step_with_its_optimizer_inside_the_backward(name: str, x64: None) -> None:
    model, batch = MODELS[name](dtype="float64"), batch_of_documents()
    optimizer, found = optax.adam(1e-2), []
    for inside in (False, True):
        step = jax.jit(
            fbp.step_of(objective_of(with_documents(model)), optimizer, in_backward=inside)
        )
        params = random_params(model)
        state = fbp.state_of(params, optimizer)
        for _ in range(3):
            state, loss = step(state, batch)
        found.append((state.params, loss))
    assert_close(*found, CLOSE)


def test_where_documents_begin() -> None:
    for numbers, want in (
        ([4, 4, 0, 1, 1, 1], [0, 1, 0, 0, 1, 2]),
        ([0, 0, 0], [0, 1, 2]),
        ([2], [0]),
        ([], []),
    ):
        assert from_the_first(jnp.asarray(numbers, int)).tolist() == want
    rows = jnp.asarray([[[0, 0, 1]], [[5, 3, 3]]], jnp.uint8)
    assert from_the_first(rows).tolist() == [[[0, 1, 0]], [[0, 0, 1]]]


def test_positions_of_many_documents_are_added_in_at_least_float32() -> None:
    """In bfloat16 a sum of ones ends at 256."""
    layer, numbers = PositionsInDocuments(4, 1, dtype=jnp.bfloat16), jnp.arange(1200).reshape(-1, 4)
    x = jnp.ones((300, 4, 1), jnp.bfloat16)
    params = layer.init(jax.random.key(0))
    (dparams, (dx, none)) = layer.backward(params, (x, numbers), (), (x, None))
    assert none is None
    assert dx.dtype == dparams["w"].dtype == jnp.bfloat16
    assert dparams["w"].ravel().tolist() == [1200, 0, 0, 0]


def test_what_cannot_be_told_of_documents_is_refused() -> None:
    ids = jnp.zeros((2, 5), int)
    lstm = fbp.models.char_lstm(VOCAB, 4)
    with pytest.raises(
        TypeError, match=r"^with_documents: expected Attention and Positions, .* got R"
    ):
        with_documents(lstm)
    with pytest.raises(
        TypeError, match=r"^with_documents: expected a model that ends with unembed"
    ):
        with_documents(fbp.models.mlp([3, 2]))
    packed = with_documents(GPT2())
    params = packed.init(jax.random.key(0))
    for documents, error, message in (
        (jnp.zeros((2, 4), int), ValueError, "expected numbers of documents of shape"),
        (jnp.zeros((2, 5), bool), TypeError, "expected the numbers of documents to be integers, g"),
        (jnp.zeros((2, 5)), TypeError, "expected the numbers of documents to be integers, got flo"),
    ):
        with pytest.raises(error, match=f"^PositionsInDocuments: {message}"):
            packed.forward(params, (ids, documents))
    llama = with_documents(LLAMA())
    with pytest.raises(TypeError, match=r"^AttentionInDocuments: expected the numbers of documen"):
        llama.forward(llama.init(jax.random.key(0)), (ids, jnp.zeros((2, 5), bool)))
    for model in (packed, llama):
        with pytest.raises(
            ValueError, match=r": expected the model without documents to go one pl"
        ):
            model.start(model.init(jax.random.key(0)), (ids[:, 0], ids[:, 0]), 5)
