"""The optimizer inside the backward pass: the plain step's numbers, in less memory."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import fbp
from fbp._tree import path_of
from fbp.ports import Update, _update
from fbp.ports._squares import sum_of_squares
from fbp.ports._update_if import update_if
from fbp.step import _in_backward

VOCAB, CONTEXT = 31, 8
BLOCK = fbp.Serial(mix=fbp.Residual(fbp.Serial(a=fbp.Dense(5, 5), t=fbp.Tanh())), b=fbp.Dense(5, 5))
MLP = fbp.Serial(start=fbp.Dense(3, 5), blocks=fbp.Stack(BLOCK, 3), end=fbp.Dense(5, 2))


def matrices(params: Any) -> Any:
    return jax.tree.map_with_path(lambda keys, _: path_of(keys).endswith(".w"), params)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "one cycle": lambda: optax.adam(optax.linear_onecycle_schedule(10, 1e-2)),
    "a table of rates": lambda: optax.sgd(lambda step: jnp.linspace(0.1, 0.01, 11)[step]),
    "not a number": lambda: optax.chain(
        optax.stateless_with_tree_map(lambda g, _: jnp.where(g > 1e9, jnp.nan, jax.lax.erfc(g))),
        optax.sgd(1e-2),
    ),
    "sgd": lambda: optax.sgd(1e-2),
    "momentum": lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, 1e-2, 3, 10), weight_decay=0.1, mask=matrices
    ),
    "rmsprop": lambda: optax.rmsprop(1e-3),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "clipped": lambda: fbp.Clipped(optax.sgd(1.0), 0.05),
    "clipped by the previous": lambda: fbp.Clipped(optax.sgd(1.0), 0.05, by="previous"),
}


def some(values: Any, *always: Any) -> list[Any]:
    """Values as parameters, of which those that are not named are slow."""
    return [pytest.param(v, marks=[] if v in always else pytest.mark.slow) for v in values]


def ten_steps(objective: Any, params: Any, batches: Any, optimizer: Any, **options: Any) -> Any:
    state = fbp.state_of(params, optimizer)
    # The key is for the dropout of a language model.
    return fbp.steps_of(objective, optimizer, **options)(state, batches, jax.random.key(5))


def assert_alike(one: Any, other: Any, tolerance: float = 2e-6) -> None:
    def close(a: Any, b: Any) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))

    jax.tree.map(close, one, other)


@pytest.fixture(scope="module")
def mlp() -> tuple[Any, Any, Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    objective = fbp.Objective(MLP, fbp.MeanSquaredError())
    batches = jax.random.normal(keys[0], (10, 7, 3)), jax.random.normal(keys[1], (10, 7, 2))
    return objective, objective.init(keys[2]), batches


@pytest.fixture(scope="module")
def gpt() -> tuple[Any, Any, Any]:
    model = fbp.models.gpt2(vocab=VOCAB, context=CONTEXT, width=6, heads=2, layers=2, dropout=0.1)
    ids = jax.random.randint(jax.random.key(1), (10, 2, CONTEXT + 1), 0, VOCAB)
    batches = ids[..., :-1], ids[..., 1:]
    return fbp.models.NextToken(model), model.init(jax.random.key(0)), batches


@pytest.mark.parametrize("name", some(OPTIMIZERS, "adamw", "clipped by the previous"))
def test_ten_steps_are_those_of_the_plain_step(name: str, mlp: Any) -> None:
    optimizer = OPTIMIZERS[name]()
    plain = ten_steps(*mlp, optimizer)
    # Float32: a few hundred roundings of values of about 1.
    assert_alike(ten_steps(*mlp, optimizer, in_backward=True), plain)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the MLP's matrices are pieces of their own; a list of the pieces that are taken."""
    taken: list[int] = []
    pieces_of = _update.pieces_of

    def noted(stacked: Any) -> int:
        taken.append(pieces_of(stacked))
        return taken[-1]

    monkeypatch.setattr(_update, "has_several_cpus", lambda: False)
    monkeypatch.setattr(_update, "_FEWEST_NUMBERS", 5)
    monkeypatch.setattr(_update, "pieces_of", noted)
    monkeypatch.setattr(_in_backward, "pieces_of", noted)
    return taken


@pytest.mark.parametrize("name", some(OPTIMIZERS, "adamw", "clipped"))
def test_ten_steps_in_pieces(name: str, mlp: Any, small_pieces: list[int]) -> None:
    optimizer = OPTIMIZERS[name]()
    plain = ten_steps(*mlp, optimizer)
    assert_alike(ten_steps(*mlp, optimizer, in_backward=True), plain)
    assert set(small_pieces) == {5}


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["everything", "inputs", 2])
@pytest.mark.parametrize("name", ["adamw", "clipped", "clipped by the previous"])
def test_pieces_of_parts_of_a_batch_in_float64(
    name: str, keep: str | int, mlp: Any, small_pieces: list[int], x64: None
) -> None:
    objective, *args = mlp
    model = fbp.Serial(start=MLP.layers[0], blocks=fbp.Stack(BLOCK, 3, keep), end=MLP.layers[2])
    objective = fbp.Microbatch(fbp.Objective(model, objective.loss), 3)
    args = jax.tree.map(lambda a: a.astype(jnp.float64), args)
    optimizer = OPTIMIZERS[name]()
    plain = ten_steps(objective, *args, optimizer)
    assert_alike(ten_steps(objective, *args, optimizer, in_backward=True), plain, 1e-14)
    assert set(small_pieces) == {5}


@pytest.mark.parametrize(
    ("shapes", "pieces"),
    [
        ([(6, 512, 2048), (6, 2048, 512), (6, 512)], 4),
        ([(6, 768, 3072), (6, 768, 2304)], 8),
        ([(6, 2048, 2048), (6, 6)], 2),
        ([(6, 1021, 1021), (6, 2042)], 1),
        ([(6, 2048, 2048), (6,)], 1),
        ([(6, 512, 511)], 1),
        ([(6, 512, 512)], 1),
        ([(6, 512, 1024)], 2),
        ([], 1),
    ],
)
def test_pieces_are_not_too_small(
    shapes: list[Any], pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    monkeypatch.setattr(_update, "has_several_cpus", lambda: False)
    assert _update.pieces_of(stacked) == pieces
    monkeypatch.setattr(_update, "has_several_cpus", lambda: True)
    assert _update.pieces_of(stacked) == 1


@pytest.mark.parametrize("name", some(["adamw", "clipped", "clipped by the previous"], "clipped"))
def test_ten_steps_in_float64(name: str, mlp: Any, x64: None) -> None:
    objective, params, batches = mlp
    args = objective, *jax.tree.map(lambda a: a.astype(jnp.float64), (params, batches))
    optimizer = OPTIMIZERS[name]()
    plain = ten_steps(*args, optimizer)
    assert_alike(ten_steps(*args, optimizer, in_backward=True), plain, 1e-14)


@pytest.mark.parametrize("size", some([2, 3, 7, 9], 3))
@pytest.mark.parametrize("name", some(["momentum", "clipped"], "clipped"))
def test_parts_of_a_batch_add_up(name: str, size: int, mlp: Any) -> None:
    objective, params, batches = mlp
    optimizer = OPTIMIZERS[name]()
    plain = ten_steps(fbp.Microbatch(objective, size), params, batches, optimizer)
    args = fbp.Microbatch(objective, size), params, batches, optimizer
    assert_alike(ten_steps(*args, in_backward=True), plain)


@pytest.mark.slow
def test_a_language_model_with_tied_embeddings(gpt: Any) -> None:
    optimizer = fbp.Clipped(optax.sgd(0.5, momentum=0.9), 0.1)
    plain = ten_steps(*gpt, optimizer)
    assert_alike(ten_steps(*gpt, optimizer, in_backward=True), plain)


def test_clipping_is_that_of_optax(mlp: Any) -> None:
    optimizer = optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(1.0))
    state, losses = ten_steps(*mlp, optimizer)
    clipped, others = ten_steps(*mlp, fbp.Clipped(optax.sgd(1.0), 0.05))
    assert_alike((clipped.params, others), (state.params, losses))


@pytest.mark.parametrize("keep", some(["inputs", 2, 3], 2))
def test_whatever_a_stack_keeps(keep: str | int, mlp: Any) -> None:
    objective, params, batches = mlp
    model = fbp.Serial(start=MLP.layers[0], blocks=fbp.Stack(BLOCK, 3, keep), end=MLP.layers[2])
    other = fbp.Objective(model, objective.loss)
    optimizer = OPTIMIZERS["adamw"]()
    plain = ten_steps(objective, params, batches, optimizer)
    assert_alike(ten_steps(other, params, batches, optimizer, in_backward=True), plain)


@pytest.mark.slow
def test_two_stacks_and_stacks_in_combinators(mlp: Any) -> None:
    _, _, batches = mlp
    deep = fbp.Stack(fbp.Stack(fbp.Dense(5, 5), 2), 2)
    # Names whose order is not that of the layers: params are dicts, and those are sorted.
    model = fbp.Serial(
        z=fbp.Dense(3, 5), y=fbp.Residual(deep), x=fbp.Remat(fbp.Stack(BLOCK, 2)), a=fbp.Dense(5, 2)
    )
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    params, optimizer = objective.init(jax.random.key(3)), OPTIMIZERS["adamw"]()
    plain = ten_steps(objective, params, batches, optimizer)
    assert_alike(ten_steps(objective, params, batches, optimizer, in_backward=True), plain)


@pytest.mark.slow
def test_masters_in_float32_and_arithmetic_in_bfloat16(gpt: Any) -> None:
    objective, params, batches = gpt
    cast = fbp.models.NextToken(fbp.mixed_precision(objective.model))
    # One step: of ten, roundings in bfloat16 would be all one sees.
    batches = jax.tree.map(lambda a: a[:1], batches)
    plain = ten_steps(cast, params, batches, optax.sgd(0.5))
    inside = ten_steps(cast, params, batches, optax.sgd(0.5), in_backward=True)
    assert_alike(inside[0].params, plain[0].params, 1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(inside[0].params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", some(["adamw", "clipped", "clipped by the previous"], "clipped"))
def test_a_loss_that_is_not_finite_changes_nothing(name: str, mlp: Any) -> None:
    objective, params, batches = mlp
    optimizer = OPTIMIZERS[name]()
    step = fbp.step_of(objective, optimizer, in_backward=True)
    before = fbp.state_of(params, optimizer)
    bad = batches[0][0].at[3, 1].set(jnp.inf), batches[1][0]
    after, value = step(jax.tree.map(jnp.copy, before), bad)
    assert not jnp.isfinite(value)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    moved, _ = step(after, jax.tree.map(lambda a: a[1], batches))
    assert moved.step == 1


MIXING = {
    "global norm": lambda: optax.chain(optax.clip_by_global_norm(1e-3), optax.adam(1e-3)),
    "block rms": lambda: optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(1.0)),
    "lamb": lambda: optax.lamb(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3),
    "flatten": lambda: optax.flatten(optax.adam(1e-3)),
    "multi steps": lambda: optax.MultiSteps(
        optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(1.0)), 4
    ),
    "dadapt": lambda: optax.contrib.dadapt_adamw(1.0),
    "polyak": lambda: optax.polyak_sgd(),
    "if all are finite": lambda: optax.apply_if_finite(optax.sgd(1e-3), 3),
    "notes the norm": lambda: optax.chain(optax.sgd(1e-3), noting_the_norm()),
    # Their updates of a copy depend on that copy alone, but not of an element.
    "centralized": lambda: optax.chain(optax.centralize(), optax.sgd(1e-2)),
    "in groups": lambda: optax.chain(optax.stateless(in_groups), optax.sgd(1e-2)),
    "places": lambda: optax.stateless_with_tree_map(
        lambda g, _: g * jnp.arange(g.shape[-1]) if g.ndim > 1 else g
    ),
    "noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(1e-2)),
    # Another program for other sizes.
    "by copies": lambda: optax.chain(optax.stateless(by_copies), optax.sgd(1e-2)),
    "a constant of the size": lambda: optax.stateless_with_tree_map(
        lambda g, _: g * made_now(g.size)
    ),
    "a number of the state by size": lambda: by_size_from_state(),
    # Another program among other parameters.
    "by place": lambda: of_leaves(lambda gs: [g / (i + 1) for i, g in enumerate(gs)]),
    "by the number of leaves": lambda: of_leaves(lambda gs: [g / len(gs) for g in gs]),
    "another's norm": lambda: of_leaves(lambda gs: [g / (1 + (gs[-1] ** 2).sum()) for g in gs]),
    "only the others": lambda: of_leaves(lambda gs: [*gs[:-1], gs[-1] / len(gs)]),
    "noise of a leaf": lambda: of_leaves(
        lambda gs: [
            g + jax.random.normal(jax.random.fold_in(jax.random.key(0), i))
            for i, g in enumerate(gs)
        ]
    ),
    "the loss": lambda: optax.GradientTransformationExtraArgs(
        optax.init_empty_state,
        lambda g, s, p=None, *, value=None, **_: (
            jax.tree.map(lambda a: a if value is None else a * value, g),
            s,
        ),
    ),
    "the loss elsewhere": lambda: optax.GradientTransformationExtraArgs(
        optax.init_empty_state,
        lambda g, s, p=None, *, value_fn=None, **_: (
            jax.tree.map(lambda a: a if value_fn is None else a * value_fn(p), g),
            s,
        ),
    ),
    "two states a number": lambda: optax.GradientTransformation(
        lambda p: jax.tree.map(lambda a: jnp.ones((2, *a.shape)), p),
        lambda g, s, p=None: (g, jax.tree.map(lambda a: a / 2, s)),
    ),
}


def of_leaves(change: Any) -> Any:
    def update(updates: Any, params: Any) -> Any:
        leaves, tree = jax.tree.flatten(updates)
        return tree.unflatten(change(leaves))

    return optax.stateless(update)


def made_now(size: int) -> Any:
    with jax.ensure_compile_time_eval():
        return 1 / jnp.sqrt(size)


def by_size_from_state() -> Any:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        size = max(g.size for g in jax.tree.leaves(updates)) if jax.tree.leaves(updates) else 0
        rate = state["large"] if size > 30 else state["small"]
        return jax.tree.map(lambda g: -rate * g, updates), state

    rates = {"large": jnp.asarray(0.01), "small": jnp.asarray(0.5)}
    return optax.GradientTransformation(lambda params: rates, update)


def by_copies(updates: Any, params: Any) -> Any:
    return jax.tree.map(lambda g: g / len(g) if g.ndim > 1 else g, updates)


def in_groups(updates: Any, params: Any) -> Any:
    def scaled(g: Any) -> Any:
        rows = g.reshape(*g.shape[:-1], 1, g.shape[-1])
        return (rows / (1 + jnp.abs(rows).max(-1, keepdims=True))).reshape(g.shape)

    return jax.tree.map(lambda g: scaled(g) if g.ndim > 2 else g, updates)


def noting_the_norm() -> Any:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return updates, optax.tree.norm(updates)

    return optax.GradientTransformation(lambda params: jnp.zeros(()), update)


@pytest.mark.parametrize(
    "name",
    some(
        MIXING,
        "global norm",
        "flatten",
        "polyak",
        "by copies",
        "by place",
        "another's norm",
        "the loss",
    ),
)
def test_an_optimizer_that_mixes_parameters_is_refused(name: str, mlp: Any) -> None:
    objective, params, batches = mlp
    optimizer = MIXING[name]()
    step = fbp.step_of(objective, optimizer, in_backward=True)
    with pytest.raises(ValueError, match=r"in_backward: expected an optimizer whose update"):
        step(fbp.state_of(params, optimizer), jax.tree.map(lambda a: a[0], batches))


def test_parts_of_a_batch_draw_the_noise_of_the_plain_step(mlp: Any) -> None:
    _, _, batches = mlp
    noisy = fbp.Serial(start=fbp.Dense(3, 5), blocks=fbp.Stack(fbp.Dropout(0.5), 2))
    model = fbp.Serial(noisy=noisy, blocks=fbp.Stack(BLOCK, 2), end=fbp.Dense(5, 2))
    objective = fbp.Microbatch(fbp.Objective(model, fbp.MeanSquaredError()), 3)
    params, optimizer = objective.init(jax.random.key(3)), optax.sgd(1e-2)
    batch = jax.tree.map(lambda a: a[0, :6], batches)
    states = []
    for inside in (False, True):
        step = fbp.step_of(objective, optimizer, in_backward=inside)
        states.append(step(fbp.state_of(params, optimizer), batch, jax.random.key(5)))
    assert_alike(states[1], states[0])


def test_what_does_not_learn_stays(mlp: Any) -> None:
    _, _, batches = mlp
    block = fbp.Serial(a=fbp.LoRA(fbp.Dense(5, 5), 2), t=fbp.Tanh(), b=fbp.Freeze(fbp.Dense(5, 5)))
    model = fbp.Serial(start=fbp.Dense(3, 5), blocks=fbp.Stack(block, 2), end=fbp.Dense(5, 2))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    learns = fbp.trainable(model)
    mask = fbp.ObjectiveParams(learns, ())
    optimizer = optax.masked(optax.adamw(1e-2), mask)
    params = objective.init(jax.random.key(3))
    plain = ten_steps(objective, params, batches, optimizer)
    inside = ten_steps(objective, params, batches, optimizer, in_backward=True)
    assert_alike(inside, plain)
    frozen = inside[0].params.model["blocks"]["b"]
    jax.tree.map(np.testing.assert_array_equal, frozen, params.model["blocks"]["b"])


@pytest.mark.slow
@pytest.mark.parametrize("by", ["exact", "previous"])
def test_clipped_in_bfloat16(by: str, mlp: Any) -> None:
    objective, params, batches = mlp
    params, batches = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, batches))
    optimizer = fbp.Clipped(optax.sgd(0.1), 0.05, by)
    first = jax.tree.map(lambda a: a[:1], batches)
    plain = ten_steps(objective, params, first, optimizer)
    inside = ten_steps(objective, params, first, optimizer, in_backward=True)
    # One step of 0.1 in bfloat16: of numbers of about 1, one rounding.
    assert_alike(
        *jax.tree.map(lambda a: a.astype(jnp.float32), (inside[0].params, plain[0].params)), 2.0**-7
    )


def test_a_norm_beyond_all_numbers_is_forgotten(mlp: Any) -> None:
    objective, params, batches = mlp
    optimizer = OPTIMIZERS["clipped by the previous"]()
    step = fbp.step_of(objective, optimizer, in_backward=True)
    x, target = jax.tree.map(lambda a: a[0], batches)
    state, value = step(fbp.state_of(params, optimizer), (x, target * 1e18))
    assert jnp.isfinite(value)
    assert jnp.isfinite(state.opt_state.norm)


def test_clipped_hands_on_what_an_optimizer_asks_for(mlp: Any) -> None:
    objective, params, batches = mlp
    optimizer = fbp.Clipped(optax.polyak_sgd(), 1.0)
    _, value = fbp.step_of(objective, optimizer)(
        fbp.state_of(params, optimizer), jax.tree.map(lambda a: a[0], batches)
    )
    assert jnp.isfinite(value)


def test_a_model_without_a_stack_is_refused(mlp: Any) -> None:
    _, _, batches = mlp
    objective, optimizer = fbp.Objective(fbp.Dense(3, 2), fbp.MeanSquaredError()), optax.sgd(0.1)
    step = fbp.step_of(objective, optimizer, in_backward=True)
    state = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
    with pytest.raises(ValueError, match="in_backward: expected a model with a Stack inside"):
        step(state, jax.tree.map(lambda a: a[0], batches))


def test_a_tie_into_a_stack_is_refused() -> None:
    model = fbp.Tie(
        fbp.Serial(a=fbp.Stack(fbp.Scale((3,)), 2), b=fbp.Stack(fbp.Scale((3,)), 2)), "a", "b"
    )
    objective, optimizer = fbp.Objective(model, fbp.MeanSquaredError()), optax.sgd(0.1)
    step = fbp.step_of(objective, optimizer, in_backward=True)
    state = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
    with pytest.raises(
        ValueError, match=r"^in_backward: expected ties outside of every Stack: Tie"
    ):
        step(state, (jnp.ones((5, 3)), jnp.ones((5, 3))))


def test_update_around_one_layer() -> None:
    layer = fbp.Serial(fbp.Dense(3, 4), fbp.Tanh(), fbp.Dense(4, 2))
    optimizer = optax.sgd(0.1, momentum=0.9)
    update = Update(layer, optimizer)
    params = update.init(jax.random.key(0))
    x, dy = jnp.ones((5, 3)), jnp.ones((5, 2))
    y, res = update.forward(params, x)
    new, dx = update.backward(params, x, res, dy)
    dparams, dx_alone = layer.backward(params.params, x, res, dy)
    updates, state = optimizer.update(dparams, params.state, params.params)
    assert_alike((new.params, new.state), (optax.apply_updates(params.params, updates), state))
    np.testing.assert_array_equal(dx, dx_alone)
    np.testing.assert_allclose(new.squares, optax.tree.norm(dparams, squared=True), rtol=1e-6)
    np.testing.assert_array_equal(update.steps(params, x, update.start(params, x[0], 5))[0], y)


@pytest.mark.parametrize("go", [True, False])
def test_update_in_pieces(go: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 rows and of 4, with what earlier parts of a batch gave: no number differs."""
    stack = fbp.Stack(fbp.Serial(a=fbp.Dense(6, 4), t=fbp.Tanh(), b=fbp.Dense(4, 6)), 3)
    x = jax.random.normal(jax.random.key(0), (5, 6))
    found = []
    for pieces in (1, 2):
        monkeypatch.setattr(_update, "pieces_of", lambda stacked, pieces=pieces: pieces)
        update = fbp.Update(stack, optax.adam(0.1))
        params = update.init(jax.random.key(1))
        before = jax.tree.map(jnp.cos, params.params)
        params = params._replace(go=jnp.asarray(go), grads=before)
        y, res = jax.jit(update.forward)(params, x)
        found.append(jax.jit(update.backward)(params, x, res, y))
    (whole, dx), (cut, dx_cut) = found
    np.testing.assert_array_equal(dx, dx_cut)
    jax.tree.map(
        np.testing.assert_array_equal, (whole.params, whole.state), (cut.params, cut.state)
    )
    np.testing.assert_allclose(whole.squares, cut.squares, rtol=1e-6)
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), cut.params, params.params)
    assert set(jax.tree.leaves(changed)) == {go}


def test_update_of_copies_of_one_number() -> None:
    stack = fbp.Stack(fbp.Scale(()), 3)
    update = fbp.Update(stack, optax.sgd(0.1))
    params, x = update.init(jax.random.key(0)), jnp.arange(5.0)
    y, res = update.forward(params, x)
    new, _ = update.backward(params, x, res, y)
    dparams, _ = stack.backward(params.params, x, res, y)
    np.testing.assert_allclose(new.params, params.params - 0.1 * dparams, rtol=1e-6)


def test_update_around_a_stack_is_for_elementwise_optimizers() -> None:
    update = fbp.Update(fbp.Stack(fbp.Dense(3, 3), 2), optax.clip_by_block_rms(1.0))
    params, x = update.init(jax.random.key(0)), jnp.ones((5, 3))
    y, res = update.forward(params, x)
    with pytest.raises(
        ValueError, match=r"^Update: expected an optimizer .* takes reduce_sum over"
    ):
        update.backward(params, x, res, y)


def test_update_in_bfloat16_adds_what_parts_before_have_given() -> None:
    """Their sum is in float32, and the optimizer sees the dtype of the parameters."""
    layer, optimizer = fbp.Scale((3,), dtype=jnp.bfloat16), optax.sgd(0.5, momentum=0.5)
    update = Update(layer, optimizer)
    before = update.init(jax.random.key(0))
    before = before._replace(grads=jnp.asarray([1.0, 2.0, 3.0]))
    new, _ = update.backward(before, jnp.ones(3, jnp.bfloat16), (), jnp.ones(3, jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves((new.params, new.state))} == {
        jnp.dtype("bfloat16")
    }
    np.testing.assert_array_equal(new.params, before.params - 0.5 * jnp.arange(2.0, 5.0))
    assert new.squares == 4 + 9 + 16


@pytest.fixture(params=["cpu", "cuda"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Programs take, here, what is for this platform."""

    def choose(*args: Any, default: Any, **branches: Any) -> Any:
        return branches.get(request.param, default)(*args)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    return request.param


@pytest.mark.parametrize("go", [True, False])
def test_on_a_gpu_there_is_no_branch(go: bool, platform: str) -> None:
    layer = fbp.Update(fbp.Stack(fbp.Dense(3, 3), 4), optax.adam(0.1))
    params = layer.init(jax.random.key(0))._replace(go=jnp.asarray(go))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    y, res = layer.forward(params, x)
    new, _ = layer.backward(params, x, res, y)
    program = str(jax.make_jaxpr(layer.backward)(params, x, res, y))
    assert ("cond[" in program) == (platform == "cpu")
    dparams, _ = layer.layer.backward(params.params, x, res, y)
    updates, state = layer.optimizer.update(dparams, params.state, params.params)
    want = optax.apply_updates(params.params, updates), state
    assert_alike((new.params, new.state), want if go else (params.params, params.state))


def updated(go: Any, optimizer: Any, grads: Any, params: Any, state: Any) -> Any:
    def update(old: Any) -> Any:
        updates, state = optimizer.update(grads, old[1], old[0])
        return optax.apply_updates(old[0], updates), state

    return update_if(go, update, (params, state))


@pytest.mark.parametrize("go", [True, False])
def test_what_is_set_by_hand_is_not_weakly_typed(go: bool, platform: str) -> None:
    """Or the next step would be compiled anew."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    params = jnp.ones(2)
    state = optimizer.init(params)
    state.hyperparams["learning_rate"] = 0.25
    step = jax.jit(lambda go, params, state: updated(go, optimizer, params, params, state))
    params, state = step(go, params, state)
    np.testing.assert_array_equal(params, 0.75 if go else 1)
    rate = state.hyperparams["learning_rate"]
    assert (rate, rate.weak_type) == (0.25, False)


def test_a_state_keeps_its_dtypes(platform: str) -> None:
    optimizer = optax.sgd(0.5, momentum=0.5)
    state = optimizer.init(jnp.ones(2, jnp.bfloat16))
    with pytest.raises(TypeError, match="keeps the dtypes of its state, got float32 for bfloat16"):
        updated(jnp.asarray(True), optimizer, jnp.ones(2), jnp.ones(2), state)


FOR_ANOTHER_PLATFORM = """
import hashlib, re, jax, optax, fbp
model = fbp.models.gpt2(vocab=64, context=16, width=32, heads=2, layers=3)
objective, optimizer = fbp.models.NextToken(model), optax.adamw(1e-3)
state = jax.eval_shape(
    lambda key: fbp.state_of(objective.init(key), optimizer), jax.random.key(0)
)
ids = jax.ShapeDtypeStruct((2, 16), "int32")
# The index of a branch that depends on a number; those that choose a platform are constants.
branch = re.compile(r"(%\\d+) = .*tensor<i1>\\) -> tensor<i32>\\n.*stablehlo.case.\\(\\1\\)")
for platform in ("tpu", "cuda", "cpu"):
    step = fbp.step_of(objective, optimizer, in_backward=True)
    text = step.trace(state, (ids, ids)).lower(lowering_platforms=(platform,)).as_text()
    print(platform, bool(branch.search(text)), hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.mark.slow
def test_a_program_is_for_its_platform_whatever_this_machine_has() -> None:
    said = []
    for count in (1, 2):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        run = subprocess.run(
            [sys.executable, "-c", FOR_ANOTHER_PLATFORM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        said.append([line.split() for line in run.stdout.splitlines()])
    one, two = ({platform: rest for platform, *rest in lines} for lines in said)
    assert one["tpu"] == two["tpu"]
    assert one["cuda"] == two["cuda"]
    assert [one[name][0] for name in ("tpu", "cuda", "cpu")] == ["True", "False", "True"]


def test_update_recomputes_what_its_layer_drew() -> None:
    update = fbp.Update(fbp.Dropout(0.5), optax.sgd(0.1))
    params, x = update.init(jax.random.key(0)), jnp.ones(11)
    y, res = update.forward(params, x, jax.random.key(1))
    np.testing.assert_array_equal(update.recompute(params, x, res), y)


def test_sums_of_squares_are_in_float32() -> None:
    assert sum_of_squares(jnp.ones(257, jnp.bfloat16)) == 257
    assert sum_of_squares(()).dtype == jnp.float32


@pytest.mark.parametrize("bad", [{"norm": 0.0}, {"norm": 1.0, "by": "rows"}])
def test_clipped_says_what_it_takes(bad: Any) -> None:
    with pytest.raises(ValueError, match="Clipped: expected"):
        fbp.Clipped(optax.sgd(1.0), **bad)


COMPILED = """
import jax, optax, fbp
from fbp.ports import _update
model = fbp.models.gpt2(vocab=512, context=32, width=64, heads=2, layers=12)
objective, optimizer = fbp.models.NextToken(model), optax.adamw(1e-3)
state = jax.eval_shape(
    lambda key: fbp.state_of(objective.init(key), optimizer), jax.random.key(0)
)
ids = jax.ShapeDtypeStruct((1, 32), "int32")
for inside, fewest in ((False, 1), (True, 1 << 30), (True, 1 << 10)):
    _update._FEWEST_NUMBERS = fewest
    step = fbp.step_of(objective, optimizer, in_backward=inside).lower(state, (ids, ids)).compile()
    print(step.memory_analysis().temp_size_in_bytes)
    print(step.as_text().replace("\\n", " "))
"""


@pytest.mark.slow
def test_no_stacked_parameters_are_copied() -> None:
    """In the program as users compile it: in a process that does not skip optimizations."""
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    plain, _, inside, program, in_pieces, program_in_pieces = run.stdout.splitlines()
    # No copy of the blocks' matrices, of the table, or of their moments, and the gradients of all
    # blocks are not held at once.
    for text in (program, program_in_pieces):
        assert not re.findall(r"f32\[(?:12,\d+,(?:64|128|192|256)|512,64)\]\S* copy\(", text)
    block = 12 * 64**2 * 4
    assert int(plain) - int(inside) > 0.5 * 12 * block
    # Nor the new params and moments of a whole block: of 16 pieces, one's.
    assert int(inside) - int(in_pieces) > 0.8 * 3 * block
