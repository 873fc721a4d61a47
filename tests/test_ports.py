"""What ports change: dtypes, sums of two places, gradients that are never formed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import Noise, assert_close, auto, normal_like, rule

import fbp
from fbp._tree import named_leaves


def draw(layer: fbp.Layer, seed: int = 0) -> Any:
    return normal_like(seed, jax.eval_shape(layer.init, jax.random.key(0)))


def test_cast_keeps_masters_and_computes_in_few_digits() -> None:
    layer = fbp.Cast(fbp.Serial(fbp.Dense(3, 5), fbp.Tanh(), fbp.Dense(5, 2)))
    params = draw(layer)
    x = jax.random.normal(jax.random.key(1), (7, 3))
    y, res = jax.jit(layer.forward)(params, x)
    assert y.dtype == jnp.bfloat16
    dparams, dx = jax.jit(layer.backward)(params, x, res, jnp.ones_like(y))
    assert {leaf.dtype for leaf in jax.tree.leaves((dparams, dx))} == {jnp.dtype("float32")}
    by_vjp = jax.jit(functools.partial(auto, layer))(params, x, jnp.ones_like(y))
    assert_close((dparams, dx), by_vjp, 2.0**-6)


def test_cast_of_integers_and_of_float32_changes_nothing() -> None:
    layer = fbp.Serial(fbp.Embedding(5, 3), fbp.Dense(3, 2))
    params, ids = draw(layer), jnp.asarray([0, 4, 4])
    dy = jnp.ones((3, 2))
    cast = fbp.Cast(layer, jnp.float32)
    assert_close(rule(cast, params, ids, dy), rule(layer, params, ids, dy), 0.0)


@pytest.mark.parametrize(
    "unembed",
    [fbp.Cast(fbp.Freeze(fbp.Unembed(3, 7))), fbp.Freeze(fbp.Cast(fbp.Unembed(3, 7)))],
    ids=["cast of freeze", "freeze of cast"],
)
def test_a_frozen_head_does_not_learn_in_few_digits_either(unembed: fbp.Layer) -> None:
    model = fbp.Serial(embed=fbp.Embedding(7, 3), norm=fbp.LayerNorm(3), unembed=unembed)
    params, ids = draw(model), jnp.asarray([[0, 4, 4]])
    value, dparams = jax.jit(fbp.models.NextToken(model).value_and_grad)(params, (ids, ids))
    by_logits, _ = jax.jit(model.forward)(params, ids)
    want = fbp.SoftmaxCrossEntropy().value((), by_logits.astype(jnp.float32), ids)
    np.testing.assert_allclose(value, want, rtol=2.0**-6)
    assert not dparams["unembed"]["w"].any()
    assert dparams["embed"]["w"].any()


def test_a_frozen_matrix_has_no_gradient_product() -> None:
    dense = fbp.Dense(3, 5)
    params, x, dy = draw(dense), jnp.ones((7, 3)), jnp.ones((7, 5))

    def backward(layer: fbp.Layer) -> Any:
        return lambda params, x, dy: layer.backward(params, x, (), dy)

    dparams, _ = backward(fbp.Freeze(dense))(params, x, dy)
    assert not any(leaf.any() for leaf in jax.tree.leaves(dparams))
    flops = [
        jax.jit(backward(layer)).lower(params, x, dy).compile().cost_analysis()["flops"]
        for layer in (dense, fbp.Freeze(dense))
    ]
    assert flops[1] < 0.6 * flops[0]


def test_freeze_lets_nothing_flow_through_what_is_computed_again() -> None:
    # The backward computes the frozen norm again, whose params move nothing there either.
    model = fbp.Serial(norm=fbp.Freeze(fbp.BatchNorm(3)), dense=fbp.Dense(3, 2))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 3))
    direction = jax.tree.map(jnp.zeros_like, params)
    direction.model["norm"] = jax.tree.map(jnp.ones_like, params.model["norm"])
    gradient = jax.jit(lambda p: objective.value_and_grad(p, (x, jnp.ones((4, 2)))))
    _, moved = jax.jvp(gradient, (params,), (direction,))
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_array_equal(leaf, 0)


def test_a_frozen_layer_has_no_second_derivative_by_its_parameters_either() -> None:
    layer, x, dy = fbp.Freeze(fbp.Dense(3, 5)), jnp.ones(3), jnp.ones(5)
    params = draw(layer.layer)

    def total(params: Any) -> Any:
        return layer.backward(params, x, (), dy)[1].sum()

    ddx = jax.jit(jax.grad(total))(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(ddx))


NOISY = fbp.Serial(a=fbp.Scale((3,)), noise=Noise(), b=fbp.Scale((3,)))


@pytest.mark.parametrize(
    "layer",
    [fbp.Cast(NOISY, jnp.float32), fbp.Freeze(NOISY), fbp.Tie(NOISY, "a", "b")],
    ids=["cast", "freeze", "tie"],
)
def test_ports_of_what_is_cheap_compute_it_again(layer: fbp.Layer) -> None:
    params, x = draw(layer), jnp.arange(6.0).reshape(2, 3)
    y, res = layer.forward(params, x, jax.random.key(1))
    np.testing.assert_array_equal(layer.recompute(params, x, res), y)


def test_lora_is_scaled_by_alpha_over_its_rank() -> None:
    dense = fbp.Dense(3, 5)
    assert (fbp.LoRA(dense, 2, alpha=3.0).scale, fbp.LoRA(dense, 2).scale) == (1.5, 1)


def test_tie_keeps_one_array_for_both_places() -> None:
    layer = fbp.Tie(fbp.Serial(a=fbp.Scale((3,)), b=fbp.Bias((3,))), "a", "b")
    params = draw(layer)
    assert params["b"] is None
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(layer.forward(params, x)[0], x * params["a"] + params["a"])


def test_lora_starts_as_its_layer_and_merges_into_it() -> None:
    dense = fbp.Dense(3, 5)
    lora = fbp.LoRA(dense, 2, alpha=3.0)
    x = jax.random.normal(jax.random.key(1), (7, 3))
    start = lora.init(jax.random.key(0))
    np.testing.assert_array_equal(lora.forward(start, x)[0], dense.forward(start["dense"], x)[0])
    params = draw(lora)
    merged = lora.merged(params)
    assert_close(dense.forward(merged, x)[0], lora.forward(params, x)[0], 1e-6)


def test_trainable_says_what_learns() -> None:
    model = fbp.Serial(
        embed=fbp.Freeze(fbp.Embedding(5, 3)),
        blocks=fbp.Stack(fbp.Residual(fbp.Serial(up=fbp.LoRA(fbp.Dense(3, 3), 2))), 2),
        out=fbp.Dense(3, 2),
    )
    learns = fbp.trainable(model)
    assert learns == {
        "embed": {"w": False},
        "blocks": {"up": {"a": True, "b": True, "dense": {"w": False, "b": False}}},
        "out": {"w": True, "b": True},
    }
    params = model.init(jax.random.key(0))
    kept = optax.masked(optax.adamw(0.1), learns).init(params)
    sizes = jax.tree.map(lambda p, t: p.size if t else 0, params, learns)
    two_moments = 2 * sum(jax.tree.leaves(sizes))
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) == two_moments + 1


def test_the_optimizer_leaves_alone_what_is_frozen() -> None:
    model = fbp.Serial(a=fbp.Freeze(fbp.Dense(3, 3)), b=fbp.LoRA(fbp.Dense(3, 2), 1))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    learns = fbp.ObjectiveParams(fbp.trainable(model), ())
    optimizer = optax.masked(optax.adamw(0.1, weight_decay=0.5), learns)
    params = objective.init(jax.random.key(0))
    state = fbp.state_of(params, optimizer)
    batch = jnp.ones((4, 3)), jnp.ones((4, 2))
    for _ in range(2):
        state, _ = fbp.step_of(objective, optimizer)(state, batch)
    changed = jax.tree.map(lambda p, q: bool((p != q).any()), params.model, state.params.model)
    assert changed == {
        "a": {"w": False, "b": False},
        "b": {"a": True, "b": True, "dense": {"w": False, "b": False}},
    }


def test_bad_input_gets_one_clear_line() -> None:
    serial = fbp.Serial(a=fbp.Dense(3, 3), b=fbp.Dense(3, 5))
    with pytest.raises(ValueError, match=r"^Tie: expected arrays of one shape and dtype, got a\.w"):
        fbp.Tie(serial, "a.w", "b.w").init(jax.random.key(0))
    with pytest.raises(
        ValueError,
        match=r"^Tie: expected params with c\.w, got \['a\.b', 'a\.w', 'b\.b', 'b\.w'\]$",
    ):
        fbp.Tie(serial, "a.w", "c.w").init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^Tie: expected two places, got a\.w twice$"):
        fbp.Tie(serial, "a.w", "a.w")
    with pytest.raises(TypeError, match=r"^LoRA: expected a Dense, got Tanh\(\)$"):
        fbp.LoRA(fbp.Tanh(), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^LoRA: expected rank of 1 or more, got 0$"):
        fbp.LoRA(fbp.Dense(3, 3), 0)
    for port in (fbp.Freeze, fbp.Cast):
        with pytest.raises(TypeError, match=rf"^{port.__name__}: expected a Layer, got 3$"):
            port(3)  # type: ignore[arg-type]


def test_freeze_only_takes_patterns() -> None:
    layer = fbp.Serial(a=fbp.Dense(3, 4), b=fbp.Dense(4, 2))
    x = jnp.ones((5, 3))
    for only, frozen in (
        (("*.b",), {"a.b", "b.b"}),
        (("a",), {"a.w", "a.b"}),
        (("a.*", "b.w"), {"a.w", "a.b", "b.w"}),
        ((), {"a.w", "a.b", "b.w", "b.b"}),
    ):
        port = fbp.Freeze(layer, only)
        params = port.init(jax.random.key(0))
        y, res = port.forward(params, x)
        dparams, _ = port.backward(params, x, res, jnp.ones_like(y))
        zero = {path for path, d in named_leaves(dparams).items() if not d.any()}
        assert zero == frozen
    with pytest.raises(TypeError, match=r"^Freeze: expected only=\('a',\), a tuple of paths"):
        fbp.Freeze(layer, "a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Freeze: expected parameters at 'c', got a\.b, a\.w"):
        fbp.Freeze(layer, ("c",)).forward(layer.init(jax.random.key(0)), x)


@pytest.mark.slow
def test_a_tuned_model_starts_the_same_trains_alone_and_merges() -> None:
    model = fbp.models.gpt2(vocab=13, context=9, width=8, heads=2, layers=2)
    params = draw(model)
    ids = jnp.asarray(np.random.default_rng(1).integers(13, size=(3, 9)))
    tuned, around = fbp.models.with_lora(model, params, jax.random.key(1), rank=2)
    logits = model.forward(params, ids)[0]
    np.testing.assert_array_equal(tuned.forward(around, ids)[0], logits)
    learns = fbp.trainable(tuned)
    assert jax.tree.structure(learns) == jax.tree.structure(around)
    assert {p.split(".")[-1] for p, yes in named_leaves(learns).items() if yes} == {"a", "b"}
    optimizer = optax.masked(optax.adamw(0.1), learns)
    step = fbp.step_of(fbp.models.NextToken(tuned), optimizer)
    state = fbp.state_of(around, optimizer)
    losses = []
    for _ in range(5):
        state, value = step(state, (ids[:, :-1], ids[:, 1:]))
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.1
    for path, leaf in named_leaves(state.params).items():
        same = bool((leaf == named_leaves(around)[path]).all())
        assert same != named_leaves(learns)[path], path
    merged_model, merged = fbp.models.without_lora(tuned, state.params)
    assert merged_model == model
    assert_close(merged_model.forward(merged, ids)[0], tuned.forward(state.params, ids)[0], 1e-5)
    with pytest.raises(ValueError, match=r"^with_lora: expected a dense layer named like 'none'"):
        fbp.models.with_lora(model, params, jax.random.key(1), rank=2, where="none")
