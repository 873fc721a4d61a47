"""The head in chunks of tokens, beside all logits at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, normal_like

import fbp
from fbp._schedules import unembed

# Sums over at most 31 classes and 24 tokens: see ROUNDING in test_contract.py.
ROUNDING = 1e-12


def naive(loss: fbp.UnembedCrossEntropy, params: Any, y: Any, target: Any) -> Any:
    """The definition, for autodiff."""
    target, weight = target if isinstance(target, fbp.Weighted) else (target, None)
    z = y @ params["w"].T
    if loss.softcap is not None:
        z = loss.softcap * jnp.tanh(z / loss.softcap)
    lse = jax.nn.logsumexp(z, -1)
    q = (1 - loss.label_smoothing) * jax.nn.one_hot(target, loss.n) + loss.label_smoothing / loss.n
    losses = lse - (q * z).sum(-1) + loss.z_loss * lse**2
    counts = jnp.ones(target.shape) if loss.ignore is None else 1.0 * (target != loss.ignore)
    if weight is not None:
        counts = counts * weight.reshape(weight.shape + (1,) * (counts.ndim - weight.ndim))
    return (counts * losses).sum() / jnp.where(counts.sum() == 0, 1, counts.sum())


def by_autodiff(loss: fbp.UnembedCrossEntropy) -> Any:
    return jax.jit(jax.value_and_grad(functools.partial(naive, loss), argnums=(0, 1)))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one_chunk": {"chunk": 1000},
    "chunks_of_one": {"chunk": 1},
    "even": {"chunk": 6},
    "smoothing": {"label_smoothing": 0.2},
    "ignore": {"ignore": -100},
    "z_loss": {"z_loss": 0.3},
    "softcap": {"softcap": 0.8},
    "everything": {"ignore": 3, "z_loss": 0.1, "softcap": 2.0, "label_smoothing": 0.1, "chunk": 7},
}


def example(loss: Any, *shape: int, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    params = {"w": jnp.asarray(rng.normal(size=(loss.n, loss.size)))}
    labels = rng.integers(loss.n, size=shape)
    if loss.ignore is not None:
        labels.ravel()[1::3] = loss.ignore
    return params, jnp.asarray(rng.normal(size=(*shape, loss.size))), jnp.asarray(labels)


@pytest.mark.parametrize(
    ("shape", "weighted"),
    [
        pytest.param(
            shape, weighted, marks=() if shape == (3, 8) and weighted else pytest.mark.slow
        )
        for shape in [(24,), (3, 8), (1,), (2, 1, 5)]
        for weighted in [False, True]
    ],
    ids=str,
)
@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_the_loss_of_all_logits(name: str, shape: Any, weighted: bool, x64: None) -> None:
    loss = fbp.UnembedCrossEntropy(5, 31, **{"chunk": 5, **OPTIONS[name]})
    params, y, target = example(loss, *shape)
    if weighted:
        weight = np.random.default_rng(1).uniform(0, 2, shape[:1])
        target = fbp.Weighted(target, jnp.asarray(weight))
    value, dparams, dy = jax.jit(loss.value_and_grad)(params, y, target)
    want, (dw, dwant) = by_autodiff(loss)(params, y, target)
    assert_close((value, dparams, dy), (want, dw, dwant), ROUNDING)
    assert_close(jax.jit(loss.value)(params, y, target), want, ROUNDING)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_dtypes_and_few_digits(dtype: Any, x64: None) -> None:
    loss = fbp.UnembedCrossEntropy(5, 31, chunk=7)
    params, y, target = example(loss, 24)
    params, y = jax.tree.map(lambda a: a.astype(dtype), (params, y))
    value, dparams, dy = jax.jit(loss.value_and_grad)(params, y, target)
    assert (value.dtype, dparams["w"].dtype, dy.dtype) == (jnp.float32, dtype, dtype)
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), (params, y))
    _, exact = by_autodiff(loss)(*wide, target)
    _, by_vjp = by_autodiff(loss)(params, y, target)
    for got, auto, want in zip(*map(jax.tree.leaves, ((dparams, dy), by_vjp, exact)), strict=True):
        scale = np.abs(want).max()
        error, theirs = (
            np.abs(np.asarray(a, np.float64) - want).max() / scale for a in (got, auto)
        )
        assert error <= 2 * theirs + float(jnp.finfo(dtype).eps) / 2


def test_logits_are_never_whole() -> None:
    """At V = 50,257 and 4,096 tokens the logits are 785 MiB, a chunk of 256 of them 49 MiB."""
    loss = fbp.UnembedCrossEntropy(64, 50_257, chunk=256)
    y = jax.ShapeDtypeStruct((4096, 64), jnp.float32)
    params = {"w": jax.ShapeDtypeStruct((50_257, 64), jnp.float32)}
    labels = jax.ShapeDtypeStruct((4096,), jnp.int32)

    def temporaries(f: Any) -> float:
        return jax.jit(f).lower(params, y, labels).compile().memory_analysis().temp_size_in_bytes

    whole = jax.value_and_grad(functools.partial(naive, loss), argnums=(0, 1))
    assert temporaries(loss.value_and_grad) < 200 * 2**20 < 700 * 2**20 < temporaries(whole)


def test_large_logits_and_nothing_that_counts() -> None:
    loss = fbp.UnembedCrossEntropy(2, 3, ignore=-1)
    params = {"w": jnp.asarray([[1e4, 0], [0, 1e4], [0, 0.0]])}
    y = jnp.asarray([[10.0, 0], [0, 10.0]])
    value, dparams, dy = loss.value_and_grad(params, y, jnp.asarray([0, 0]))
    assert value == 5e4
    assert jnp.isfinite(dparams["w"]).all()
    value, dparams, dy = loss.value_and_grad(params, y * jnp.nan, jnp.asarray([-1, -1]))
    assert value == 0
    np.testing.assert_array_equal(dy, 0)


def test_tokens_of_very_different_logits_do_not_meet() -> None:
    """Each is shifted by its own largest logit."""
    loss = fbp.UnembedCrossEntropy(1, 3)
    params, y = {"w": jnp.asarray([[2.0], [1.0], [0.0]])}, jnp.asarray([[1e3], [-1e3]])
    value, _, dy = loss.value_and_grad(params, y, jnp.asarray([0, 2]))
    assert value == 0
    np.testing.assert_array_equal(dy, 0)


@pytest.mark.parametrize("weight", [[1.0, -0.5, 2.0, 0.0], [-1.0, 0.5, -2.0, 0.0]], ids=str)
def test_weights_may_be_negative(weight: list[float], x64: None) -> None:
    loss = fbp.UnembedCrossEntropy(5, 31, chunk=3)
    params, y, labels = example(loss, 4)
    target = fbp.Weighted(labels, jnp.asarray(weight))
    got = jax.jit(loss.value_and_grad)(params, y, target)
    value, (dw, dy) = by_autodiff(loss)(params, y, target)
    assert_close(got, (value, dw, dy), ROUNDING)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.30, got 31"):
        loss.value(params, y, fbp.Weighted(labels.at[1].set(31), target.weight))
    loss.value(params, y, fbp.Weighted(labels.at[3].set(31), target.weight))


@pytest.mark.parametrize(("tokens", "chunk"), [(0, (0, 0)), (4, (1, 4)), (5, (1, 5)), (11, (3, 4))])
def test_chunks(tokens: int, chunk: tuple[int, int]) -> None:
    """No larger than asked for, and alike."""
    loss = fbp.UnembedCrossEntropy(3, 7, chunk=5)
    params, y = {"w": jnp.ones((7, 3))}, jnp.ones((tokens, 3))
    labels = jnp.zeros(tokens, int)
    chunks = unembed.chunks_of(loss._tokens(params, y, labels), loss.n, loss.chunk)
    assert chunks.share.shape == chunk
    value, _, dy = loss.value_and_grad(params, y, labels)
    np.testing.assert_allclose(value, np.log(7) if tokens else 0, rtol=1e-6)
    assert dy.shape == y.shape


@pytest.mark.parametrize(("n", "chunk"), [(31, (4, 1024)), (50_257, (7, 586)), (2**26, (4096, 1))])
def test_chunks_of_a_large_vocabulary_are_smaller(n: int, chunk: tuple[int, int]) -> None:
    array = jax.ShapeDtypeStruct
    shapes = array((4096, 2), "float32"), array((4096,), "int32"), array((4096,), "float32")
    tokens = unembed.Tokens(*shapes)
    chunks = jax.eval_shape(lambda tokens: unembed.chunks_of(tokens, n, None), tokens)
    assert chunks.share.shape == chunk


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_rows_of_zeros_behind_w_change_nothing(
    name: str, x64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU has them."""
    loss = fbp.UnembedCrossEntropy(5, 131, **OPTIONS[name])
    params, y, target = example(loss, 3, 7)
    # All logits far below the 0 of a row of zeros, whose exponential would be all there is.
    params, y = {"w": params["w"] - 1000}, jnp.abs(y)
    want = loss.value(params, y, target), loss.value_and_grad(params, y, target)
    monkeypatch.setattr(unembed, "_FEWEST_LOGITS", 21 * 131)
    got = []
    for f in (loss.value, loss.value_and_grad):
        program = jax.make_jaxpr(f)(params, y, target)
        (eqn,) = (e for e in program.eqns if "branches_platforms" in e.params)
        assert eqn.params["branches_platforms"] == (("cuda", "rocm"), None)
        assert ["192,5" in str(branch) for branch in eqn.params["branches"]] == [True, False]
        with monkeypatch.context() as patch:
            patch.setattr(jax.lax, "platform_dependent", lambda *args, cuda, **other: cuda(*args))
            got.append(f(params, y, target))
    assert_close(tuple(got), want, 1e-10)  # of logits of a few thousand
    monkeypatch.setattr(unembed, "_FEWEST_LOGITS", 21 * 131 + 1)
    assert "platform_index" not in str(jax.make_jaxpr(loss.value)(params, y, target))


@pytest.mark.parametrize(("most", "shape"), [(100, (2, 100)), (None, (1, 192))])
def test_chunks_are_aligned_but_not_larger_than_asked_for(most: Any, shape: Any) -> None:
    tokens = unembed.Tokens(jnp.ones((130, 5)), jnp.zeros(130, int), jnp.ones(130))
    chunks = unembed.chunks_of(tokens, 131, most, 64)
    assert chunks.share.shape == shape
    assert chunks.y.sum() == 650


@pytest.mark.parametrize(
    ("n", "tokens", "alike"), [(128, 64, True), (128, 65, False), (129, 64, False)]
)
def test_what_is_aligned_is_the_same_everywhere(
    n: int, tokens: int, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unembed, "_FEWEST_LOGITS", 0)
    loss = fbp.UnembedCrossEntropy(5, n)
    program = jax.make_jaxpr(loss.value)(*example(loss, tokens))
    assert ("platform_index" not in str(program)) == alike


def test_weights_are_shares_of_parts(x64: None) -> None:
    loss = fbp.UnembedCrossEntropy(5, 31, ignore=7)
    _, _, target = example(loss, 24)
    assert loss.weight(target) == (target != 7).sum()
    assert loss.weight(fbp.Weighted(target, jnp.full(24, 0.5))) == (target != 7).sum() / 2


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros(3, np.int32), ValueError, r"expected labels of shape \(4,\), got \(3,\)"),
        (np.zeros(4, np.float32), TypeError, "expected integer labels, got float32"),
        (np.asarray([0, 1, 2, 31]), ValueError, r"expected labels in 0\.\.30, got 31"),
        (np.asarray([0, -1, 2, 3]), ValueError, r"expected labels in 0\.\.30, got -1"),
    ],
    ids=["shape", "floats", "too_large", "negative"],
)
def test_bad_labels(labels: Any, error: Any, message: str) -> None:
    loss = fbp.UnembedCrossEntropy(5, 31)
    params, y, _ = example(loss, 4)
    with pytest.raises(error, match=f"^UnembedCrossEntropy: {message}$"):
        loss.value_and_grad(params, y.astype(jnp.float32), labels)


def test_a_label_outside_is_nan_inside_jit() -> None:
    loss = fbp.UnembedCrossEntropy(5, 31)
    params, y, _ = example(loss, 4)
    assert jnp.isnan(jax.jit(loss.value)(params, y, jnp.asarray([0, 1, 2, 31])))


@pytest.mark.slow
def test_the_model_s_own_params(x64: None) -> None:
    model = fbp.models.gpt2(vocab=13, context=9, width=8, heads=2, layers=2, dtype="float64")
    params = normal_like(0, jax.eval_shape(model.init, jax.random.key(0)))
    ids = jnp.asarray(np.random.default_rng(1).integers(13, size=(3, 9)))
    batch = ids[:, :-1], ids[:, 1:]
    objective = fbp.models.NextToken(model, fbp.UnembedCrossEntropy(8, 13, chunk=5))
    value, dparams = jax.jit(objective.value_and_grad)(params, batch)

    def whole(params: Any) -> Any:
        logits, _ = model.forward(params, batch[0])
        return fbp.SoftmaxCrossEntropy().value((), logits, batch[1])

    assert_close((value, dparams), jax.value_and_grad(whole)(params), ROUNDING)
    assert_close(objective.value(params, batch), value, ROUNDING)
    with pytest.raises(TypeError, match=r"^NextToken: expected a model that ends with unembed"):
        fbp.models.NextToken(fbp.Dense(3, 5))
