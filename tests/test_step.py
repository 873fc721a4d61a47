"""Training steps: the same as autodiff and optax by hand, whatever the optimizer."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import Noise, assert_close, cast

import fbp
from fbp import Weighted
from fbp._layer import Array, Params, PyTree
from fbp._microbatch import objective_of
from fbp.step._step import state_of

# Two programs of the same arithmetic, in float64: each step adds roundings of 2.2e-16, and an
# optimizer that divides by the size of the gradient magnifies them. Ten steps of any optimizer
# here stay below 1e-9; a wrong update is of the order of the learning rate, 1e-2.
TEN_STEPS = 1e-9
MODEL = fbp.models.mlp([3, 5, 2], fbp.Tanh())
NOISY = fbp.Serial(a=fbp.Dense(3, 5), noise=Noise(), act=fbp.Tanh(), b=fbp.Dense(5, 2))
MSE = fbp.MeanSquaredError()


@dataclasses.dataclass(frozen=True)
class Temperature(fbp.Loss):
    """Cross-entropy of t * y with a learned t: a loss with a parameter of its own."""

    loss: fbp.Loss = dataclasses.field(default_factory=fbp.SoftmaxCrossEntropy)

    def init(self, key: Array) -> Params:
        return {"t": jnp.ones(())}

    def value_and_grad(
        self, params: Params, y: Array, target: PyTree
    ) -> tuple[Array, Params, PyTree]:
        value, _, dz = self.loss.value_and_grad((), params["t"] * y, target)
        return value, {"t": (y * dz).sum().astype(params["t"].dtype)}, params["t"] * dz

    def weight(self, target: PyTree) -> Array:
        return self.loss.weight(target)


def init_state(model: fbp.Layer, loss: fbp.Loss, optimizer: Any, key: Array) -> fbp.State:
    return fbp.state_of(fbp.Objective(model, loss).init(key), optimizer)


def make_step(
    model: fbp.Layer, loss: fbp.Loss, optimizer: Any, microbatch: int | None = None
) -> Any:
    return fbp.step_of(objective_of(model, loss, microbatch), optimizer)


def make_steps(
    model: fbp.Layer, loss: fbp.Loss, optimizer: Any, microbatch: int | None = None
) -> Any:
    return fbp.steps_of(objective_of(model, loss, microbatch), optimizer)


def regression(seed: int, n: int = 7) -> Any:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, 3))), jnp.asarray(rng.normal(size=(n, 2)))


def classification(seed: int, n: int = 7, classes: int = 2) -> Any:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, 3))), jnp.asarray(rng.integers(classes, size=n))


def start(model: fbp.Layer, loss: fbp.Loss, optimizer: Any, seed: int = 0) -> fbp.State:
    state = init_state(model, loss, optimizer, jax.random.key(seed))
    return state_of(cast(state.params, jnp.result_type(float)), optimizer)


def by_hand(model: Any, loss: Any, optimizer: Any, batches: list[Any], key: Any = None) -> Any:
    """The loop one writes with `jax.value_and_grad` and optax."""
    objective = fbp.Objective(model, loss)
    params, opt_state, _ = start(model, loss, optimizer)
    update = optax.with_extra_args_support(optimizer).update

    @jax.jit
    def step(params: Any, opt_state: Any, batch: Any, i: Any) -> Any:
        k = None if key is None else jax.random.fold_in(key, i)

        def f(params: Any) -> Any:
            return objective.value(params, batch, k)

        value, grad = jax.value_and_grad(f)(params)
        updates, opt_state = update(grad, opt_state, params, value=value, grad=grad, value_fn=f)
        return optax.apply_updates(params, updates), opt_state, value

    values = []
    for i, batch in enumerate(batches):
        params, opt_state, value = step(params, opt_state, batch, i)
        values.append(value)
    return params, opt_state, jnp.stack(values)


def only_weights(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-2),
    "adamw_mask": lambda: optax.adamw(1e-2, weight_decay=0.1, mask=only_weights),
    "lion": lambda: optax.lion(1e-2),
    "clip_schedule": lambda: optax.chain(
        optax.clip_by_global_norm(0.1), optax.adam(optax.cosine_decay_schedule(1e-2, 10))
    ),
    "multi_steps": lambda: optax.MultiSteps(optax.adam(1e-2), 3),
    "polyak_sgd": lambda: optax.polyak_sgd(max_learning_rate=0.1),
    "plateau": lambda: optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, factor=0.5)
    ),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
    "prodigy": lambda: optax.contrib.prodigy(1.0),
    "lbfgs": lambda: optax.lbfgs(memory_size=3),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "lbfgs" else []) for n in OPTIMIZERS],
)
def test_steps_are_those_of_autodiff_and_optax(name: str, x64: None) -> None:
    optimizer = OPTIMIZERS[name]()
    if name == "multi_steps":
        optimizer = optimizer.gradient_transformation()
    # A line search on another batch at every step is no line search.
    batches = [regression(0 if name == "lbfgs" else i) for i in range(10)]
    step = make_step(MODEL, MSE, optimizer)
    state = start(MODEL, MSE, optimizer)
    values = []
    for batch in batches:
        state, value = step(state, batch)
        values.append(value)
    params, opt_state, want = by_hand(MODEL, MSE, optimizer, batches)
    assert state.step == 10
    np.testing.assert_allclose(jnp.stack(values), want, rtol=TEN_STEPS)
    assert_close(state.params, params, TEN_STEPS)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(opt_state)


@pytest.mark.parametrize(("microbatch", "keyed"), [(None, False), (None, True), (3, True)])
def test_many_steps_are_single_steps(microbatch: int | None, keyed: bool, x64: None) -> None:
    optimizer = optax.adam(1e-2)
    batches = [regression(i) for i in range(4)]
    key = jax.random.key(3) if keyed else None
    step = make_step(NOISY, MSE, optimizer, microbatch=microbatch)
    state, values = start(NOISY, MSE, optimizer), []
    for batch in batches:
        state, value = step(state, batch, key)
        values.append(value)
    steps = make_steps(NOISY, MSE, optimizer, microbatch=microbatch)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    many, many_values = steps(start(NOISY, MSE, optimizer), stacked, key)
    np.testing.assert_allclose(many_values, jnp.stack(values), rtol=1e-12)
    assert_close(many.params, state.params, 1e-12)
    assert many.step == state.step == 4
    # And in pieces: the noise depends on the step's number, not on the call.
    pieces = start(NOISY, MSE, optimizer)
    for i in (0, 2):
        pieces, _ = steps(pieces, jax.tree.map(lambda a, i=i: a[i : i + 2], stacked), key)
    assert_close(pieces.params, state.params, 1e-12)


def test_noise_differs_from_step_to_step_and_is_that_of_the_key(x64: None) -> None:
    optimizer = optax.sgd(0.0)
    step = make_step(NOISY, MSE, optimizer)
    batch = regression(0)

    def values(key: Any) -> list[float]:
        state, got = start(NOISY, MSE, optimizer), []
        for _ in range(3):
            state, value = step(state, batch, key)
            got.append(float(value))
        return got

    assert len(set(values(jax.random.key(1)))) == 3
    assert values(jax.random.key(1)) == values(jax.random.key(1))
    assert values(jax.random.key(1)) != values(jax.random.key(2))
    assert len(set(values(None))) == 1


def test_noisy_steps_are_those_of_autodiff(x64: None) -> None:
    optimizer, key = optax.adam(1e-2), jax.random.key(5)
    batches = [regression(i) for i in range(10)]
    step, state = make_step(NOISY, MSE, optimizer), start(NOISY, MSE, optimizer)
    for batch in batches:
        state, _ = step(state, batch, key)
    params, _, _ = by_hand(NOISY, MSE, optimizer, batches, key)
    assert_close(state.params, params, TEN_STEPS)


@pytest.mark.parametrize("make", [make_step, make_steps])
def test_the_state_is_donated(make: Any) -> None:
    optimizer = optax.adam(1e-2)
    state = init_state(MODEL, MSE, optimizer, jax.random.key(0))
    batch = cast(regression(0), jnp.float32)
    if make is make_steps:
        batch = jax.tree.map(lambda a: a[None], batch)
    new, _ = make(MODEL, MSE, optimizer)(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, batch)))
    with pytest.raises(RuntimeError, match="deleted"):
        jax.tree.leaves(state.params)[0] + 1


def test_the_state_is_the_objective_s() -> None:
    optimizer, key = optax.adam(1e-2), jax.random.key(0)
    state = init_state(MODEL, Temperature(), optimizer, key)
    want = fbp.Objective(MODEL, Temperature()).init(key)
    assert isinstance(state.params, fbp.ObjectiveParams)
    assert_close(state.params, want, 0)
    assert state.params.loss == {"t": 1}
    assert (state.step, state.step.dtype) == (0, jnp.int32)


def test_bfloat16_parameters_stay_bfloat16() -> None:
    dense = functools.partial(fbp.Dense, dtype=jnp.bfloat16)
    model = fbp.Serial(a=dense(3, 5), act=fbp.Tanh(), b=dense(5, 2))
    optimizer = optax.sgd(0.1, momentum=0.9)
    for microbatch in (None, 3):
        state = init_state(model, MSE, optimizer, jax.random.key(0))
        dtypes = jax.tree.map(lambda a: a.dtype, state)
        step = make_step(model, MSE, optimizer, microbatch=microbatch)
        for i in range(2):
            state, value = step(state, cast(regression(i), jnp.bfloat16))
            assert jax.tree.map(lambda a: a.dtype, state) == dtypes
        assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
        assert value.dtype == jnp.float32


# Batches taken in parts.


def batch_of(kind: str) -> tuple[fbp.Loss, Any]:
    rng = np.random.default_rng(0)
    x, label = classification(0)
    weight = jnp.asarray([0.0, 2.0, 0.0, 0.5, 1.0, 3.0, 0.1])
    ignored = jnp.asarray([0, -1, 1, -1, -1, -1, 1])
    ignore = fbp.SoftmaxCrossEntropy(ignore=-1)
    soft = jnp.asarray(rng.random((7, 2)))
    return {
        "mse": (MSE, regression(0)),
        "labels": (fbp.SoftmaxCrossEntropy(label_smoothing=0.1), (x, label)),
        "ignored": (ignore, (x, ignored)),
        "all_ignored": (ignore, (x, jnp.full(7, -1))),
        "weights": (fbp.SoftmaxCrossEntropy(), (x, Weighted(label, weight))),
        "ignored_weights": (ignore, (x, Weighted(ignored, weight))),
        "zero_weights": (MSE, (x, Weighted(soft, jnp.zeros(7)))),
        "element_weights": (fbp.Huber(0.5), (x, Weighted(soft, jnp.asarray(rng.random((7, 2)))))),
        "binary": (fbp.SigmoidCrossEntropy(), (x, soft)),
        "soft": (fbp.SoftmaxCrossEntropy(), (x, soft)),
        "temperature": (Temperature(), (x, Weighted(label, weight))),
    }[kind]


KINDS = ["mse", "labels", "ignored", "all_ignored", "weights", "ignored_weights", "zero_weights"]
KINDS += ["element_weights", "binary", "soft", "temperature"]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_whole(kind: str, x64: None) -> None:
    loss, batch = batch_of(kind)
    whole = fbp.Objective(MODEL, loss)
    params = start(MODEL, loss, optax.sgd(0.1)).params
    want, dwant = jax.jit(whole.value_and_grad)(params, batch)
    for size in (3, 100) if kind == "mse" else (3,):
        parts = fbp.Microbatch(whole, size)
        value, dparams = jax.jit(parts.value_and_grad)(params, batch)
        # Sums of 7 terms, in another order, none larger than the largest of the leaf by much.
        np.testing.assert_allclose(value, want, rtol=1e-12)
        assert_close(dparams, dwant, 1e-12)
        np.testing.assert_allclose(parts.weight(batch), whole.weight(batch))


def test_parts_draw_noise_of_their_own(x64: None) -> None:
    whole = fbp.Objective(NOISY, MSE)
    params = start(NOISY, MSE, optax.sgd(0.1)).params
    x, target = regression(0, 1)
    batch = jax.tree.map(lambda a: jnp.repeat(a, 4, axis=0), (x, target))
    key = jax.random.key(0)
    parts = fbp.Microbatch(whole, 2)
    value_and_grad = jax.jit(parts.value_and_grad)
    value, dparams = value_and_grad(params, batch, key)
    assert value == value_and_grad(params, batch, key)[0]
    assert value != value_and_grad(params, batch)[0]
    # The gradient is that of the very same noise, by autodiff.
    want, dwant = jax.jit(jax.value_and_grad(parts.value))(params, batch, key)
    np.testing.assert_allclose(want, value, rtol=1e-12)
    assert_close(dparams, dwant, 1e-12)
    # Part i draws with fold_in(key, i): equal halves of a batch do not see equal noise.
    half = jax.tree.map(lambda a: a[:2], batch)
    value_of_half = jax.jit(whole.value)
    halves = [value_of_half(params, half, jax.random.fold_in(key, i)) for i in range(2)]
    assert halves[0] != halves[1]
    np.testing.assert_allclose(value, sum(halves) / 2, rtol=1e-12)


def test_parts_keep_their_sums_in_float32() -> None:
    """256 bfloat16 gradients of 1 sum to 256; summed in bfloat16 itself a mean would stall."""
    model = fbp.Bias(dtype=jnp.bfloat16)
    objective = fbp.Objective(model, fbp.MeanAbsoluteError())
    params = fbp.ObjectiveParams(jnp.ones((), jnp.bfloat16), ())
    batch = jnp.ones(1000, jnp.bfloat16), jnp.zeros(1000)
    value, dparams = fbp.Microbatch(objective, 1).value_and_grad(params, batch)
    assert dparams.model.dtype == jnp.bfloat16
    assert dparams.model == 1
    # 1000 terms of float32.
    np.testing.assert_allclose(value, 2, rtol=1000 * float(jnp.finfo(jnp.float32).eps))


def test_wrong_parts_are_refused() -> None:
    objective = fbp.Objective(MODEL, MSE)
    with pytest.raises(ValueError, match=r"^Microbatch: expected size to be 1 or more, got 0$"):
        fbp.Microbatch(objective, 0)
    params = objective.init(jax.random.key(0))
    batch = jnp.ones((7, 3)), jnp.ones((5, 2))
    message = r"^Microbatch: expected one size of the first axis, got \[5, 7\]$"
    with pytest.raises(ValueError, match=message):
        fbp.Microbatch(objective, 2).value(params, batch)


# A loss with parameters of its own; the short way without.


def test_a_loss_with_parameters_trains(x64: None) -> None:
    optimizer = optax.sgd(0.1)
    batches = [classification(i) for i in range(10)]
    step, state = (
        make_step(MODEL, Temperature(), optimizer),
        start(MODEL, Temperature(), optimizer),
    )
    for batch in batches:
        state, _ = step(state, batch)
    params, _, _ = by_hand(MODEL, Temperature(), optimizer, batches)
    assert_close(state.params, params, TEN_STEPS)
    assert state.params.loss["t"] != 1


def test_value_and_grad(x64: None) -> None:
    batch = regression(0)
    params = start(MODEL, MSE, optax.sgd(0.1)).params.model
    want, dwant = jax.jit(
        jax.value_and_grad(lambda p: jnp.mean((MODEL.forward(p, batch[0])[0] - batch[1]) ** 2))
    )(params)
    for microbatch in (None, 2):
        f = jax.jit(fbp.value_and_grad(MODEL, MSE, microbatch=microbatch))
        value, dparams = f(params, batch)
        np.testing.assert_allclose(value, want, rtol=1e-12)
        assert_close(dparams, dwant, 1e-12)


def test_value_and_grad_refuses_a_loss_with_parameters() -> None:
    message = r"^value_and_grad: expected a loss without parameters, got Temperature; use Objective"
    with pytest.raises(ValueError, match=message):
        fbp.value_and_grad(MODEL, Temperature())


def test_the_loss_goes_down() -> None:
    optimizer = optax.adam(1e-2)
    x, _ = cast(regression(0, 20), jnp.float32)
    batch = x, jnp.tanh(x[:, :2])
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (300, *a.shape)), batch)
    state = init_state(MODEL, MSE, optimizer, jax.random.key(0))
    _, values = make_steps(MODEL, MSE, optimizer)(state, stacked)
    assert values[-1] < values[0] / 10


@pytest.mark.parametrize("name", ["init_state", "make_step", "make_steps"])
def test_older_names_still_work_and_say_what_to_use(name: str) -> None:
    optimizer, key = optax.adam(1e-2), jax.random.key(0)
    with pytest.warns(DeprecationWarning, match=rf"^fbp\.{name} is deprecated: use fbp\.st"):
        old = getattr(fbp, name)
    assert name not in fbp.__all__
    batch = cast(regression(0), jnp.float32)
    want, _ = make_step(MODEL, MSE, optimizer)(init_state(MODEL, MSE, optimizer, key), batch)
    state = init_state(MODEL, MSE, optimizer, key)
    if name == "init_state":
        got, _ = make_step(MODEL, MSE, optimizer)(old(MODEL, MSE, optimizer, key), batch)
    elif name == "make_step":
        got, _ = old(MODEL, MSE, optimizer)(state, batch)
    else:
        got, _ = old(MODEL, MSE, optimizer)(state, jax.tree.map(lambda a: a[None], batch))
    assert_close(got.params, want.params, 1e-6)
