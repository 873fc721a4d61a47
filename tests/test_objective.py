"""Objectives: what they report, what they are given, what they refuse."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import assert_close

import fbp
from fbp._layer import Array, Key, Params, PyTree

KEY = jax.random.key(0)
CLASSES, NUMBERS = 3, 2
TRUNK = fbp.Serial(a=fbp.Dense(4, 8), t=fbp.Tanh())
HEADS = fbp.Parallel(cls=fbp.Dense(8, CLASSES), reg=fbp.Dense(8, NUMBERS))
# Rows without a label count for one loss and not for the other.
LOSSES = fbp.Losses(
    cls=(1.0, fbp.SoftmaxCrossEntropy(ignore=-1)), reg=(0.5, fbp.MeanSquaredError())
)


def correct(y: Any, target: Any) -> Any:
    return {"right": (y["cls"].argmax(-1) == target["cls"]).mean(), "mean": y["reg"].mean()}


TWO = fbp.Objective(fbp.Serial(trunk=TRUNK, heads=HEADS), LOSSES, aux=correct)


def batch(seed: int, n: int) -> Any:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, CLASSES, n)
    labels[-3:] = -1  # a part without any label
    return (
        jnp.asarray(rng.normal(size=(n, 4))),
        {"cls": jnp.asarray(labels), "reg": jnp.asarray(rng.normal(size=(n, NUMBERS)))},
    )


def drawn(objective: Any) -> Any:
    """Params in the widest floats there are."""
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda a: a.astype(dtype), objective.init(KEY))


@pytest.mark.slow
def test_several_losses_are_their_weighted_sum(x64: None) -> None:
    params, (x, target) = drawn(TWO), batch(0, 12)

    def by_hand(params: Any) -> Array:
        y, _ = TWO.model.forward(params.model, x)
        counts = target["cls"] >= 0
        log_p = jax.nn.log_softmax(y["cls"])[jnp.arange(12), target["cls"]]
        cross_entropy = -jnp.where(counts, log_p, 0).sum() / counts.sum()
        return cross_entropy + 0.5 * ((y["reg"] - target["reg"]) ** 2).mean()

    got = TWO.value_and_grad(params, (x, target))
    assert_close(got, jax.value_and_grad(by_hand)(params), 1e-12)
    assert_close(TWO.value(params, (x, target)), got[0], 1e-12)
    assert fbp.check(LOSSES, {"cls": (), "reg": ()}, TWO.model.forward(params.model, x)[0], target,
                     budget="fast").ok  # fmt: skip


@pytest.mark.parametrize(
    "size", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 11))]
)
def test_losses_that_leave_out_different_rows_add_up_over_parts(size: int, x64: None) -> None:
    params, data = drawn(TWO), batch(1, 12)
    (value, aux), dparams = TWO.value_and_grad(params, data, has_aux=True)
    parts = fbp.Microbatch(TWO, size)
    got = parts.value_and_grad(params, data, has_aux=True)
    assert_close(got, ((value, aux), dparams), 1e-12)
    assert_close(parts.value_and_grad(params, data), (value, dparams), 1e-12)
    assert_close(parts.value(params, data), value, 1e-12)
    assert_close(parts.value(params, data, has_aux=True), (value, aux), 1e-12)


@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_step_reports_aux_without_a_second_forward(
    microbatch: int | None, in_backward: bool
) -> None:
    forwards = []

    @dataclasses.dataclass(frozen=True)
    class Counted(fbp.Layer):
        def forward(self, params: Params, x: Array, key: Key = None) -> tuple[Array, Any]:
            forwards.append(x)
            return x, ()

        def backward(self, params: Params, x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
            return (), dy

    stack = fbp.Stack(fbp.Residual(fbp.Dense(8, 8)), 2)
    model = fbp.Serial(counted=Counted(), trunk=TRUNK, stack=stack, heads=HEADS)
    objective: Any = fbp.Objective(model, LOSSES, aux=correct)
    data = batch(2, 12)
    params = objective.init(KEY)
    wanted = objective.value(params, data, has_aux=True)
    if microbatch is not None:
        objective = fbp.Microbatch(objective, microbatch)
    optimizer = optax.adam(1e-2)
    step = fbp.step_of(objective, optimizer, has_aux=True, in_backward=in_backward)
    forwards.clear()
    state, reported = step(fbp.state_of(params, optimizer), data)
    if microbatch is None:
        assert len(forwards) == 1
    assert_close(reported, wanted, 1e-5)
    plain = fbp.step_of(objective, optimizer)
    want, value = plain(fbp.state_of(params, optimizer), data)
    assert_close((state.params, reported[0]), (want.params, value), 1e-4)
    many = fbp.steps_of(objective, optimizer, has_aux=True, in_backward=in_backward)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), data)
    _, (values, aux) = many(fbp.state_of(params, optimizer), stacked)
    assert values.shape == aux["right"].shape == (2,)
    assert_close((values[0], jax.tree.map(lambda a: a[0], aux)), wanted, 1e-5)


def test_prepare_makes_the_pair_and_draws_its_noise() -> None:
    def noised(x: Array, key: Key) -> tuple[Array, Array]:
        noise = jnp.zeros_like(x) if key is None else jax.random.normal(key, x.shape)
        return x + noise, noise

    objective = fbp.Objective(fbp.Dense(3, 3), fbp.MeanSquaredError(), prepare=noised)
    params, x = objective.init(KEY), jax.random.normal(KEY, (6, 3))
    values = {float(objective.value(params, x, jax.random.key(i))) for i in (1, 1, 2)}
    assert len(values) == 2
    value, dparams = objective.value_and_grad(params, x, jax.random.key(1))
    want = jax.value_and_grad(objective.value)(params, x, jax.random.key(1))
    assert_close((value, dparams), want, 1e-5)
    # In two halves: the same noise in both.
    halves, res = objective.forward(params, x, jax.random.key(1))
    assert_close((halves, objective.backward(params, x, res)), want, 1e-5)
    step = fbp.step_of(fbp.Microbatch(objective, 4), optax.sgd(0.1))
    step(fbp.state_of(params, optax.sgd(0.1)), x, KEY)


@dataclasses.dataclass(frozen=True)
class Drawing(fbp.Loss):
    """A loss that draws: (y - target - u)^2 with u from the key."""

    def value_and_grad(
        self, params: Any, y: Array, target: Array, key: Key = None
    ) -> tuple[Array, Any, Array]:
        u = jnp.zeros(()) if key is None else jax.random.normal(key)
        e = y - target - u
        return (e**2).mean(), (), 2 * e / e.size


def test_a_loss_that_draws_is_given_a_key_and_others_leave_the_model_s_as_it_is() -> None:
    drop = fbp.Serial(fbp.Dropout(0.5), fbp.Dense(3, 3))
    x, target = jnp.ones((5, 3)), jnp.zeros((5, 3))
    plain, drawing = (fbp.Objective(drop, loss) for loss in (fbp.MeanSquaredError(), Drawing()))
    params, key = plain.init(KEY), jax.random.key(7)
    y, _ = drop.forward(params.model, x, key)
    assert_close(plain.value(params, (x, target), key), (y**2).mean(), 1e-6)
    got = drawing.value_and_grad(params, (x, target), key)
    model_key, loss_key = jax.random.split(key)
    y, res = drop.forward(params.model, x, model_key)
    value, _, dy = Drawing().value_and_grad((), y, target, key=loss_key)
    dmodel, _ = drop.backward(params.model, x, res, dy)
    assert_close(got, (value, fbp.ObjectiveParams(dmodel, ())), 1e-6)
    silent = (objective.value(params, (x, target)) for objective in (drawing, plain))
    assert_close(*silent, 1e-6)


def test_one_of_several_losses_draws() -> None:
    y = {"a": jnp.ones(5), "b": jnp.ones(5)}
    losses = fbp.Losses(a=(1.0, fbp.MeanSquaredError()), b=(1.0, Drawing()))
    target = {"a": jnp.zeros(5), "b": jnp.zeros(5)}
    drawn = jax.random.normal(jax.random.split(KEY)[1])
    got = losses.value_and_grad((), y, target, key=KEY)
    dy = {"a": jnp.full(5, 0.4), "b": jnp.full(5, 0.4 * (1 - drawn))}
    assert_close(got, (1 + (1 - drawn) ** 2, (), dy), 1e-6)
    assert_close(losses.value((), y, target, key=KEY), got[0], 1e-6)


def test_the_gradient_by_the_input() -> None:
    objective = fbp.Objective(fbp.models.mlp((3, 5, 2), fbp.Tanh()), fbp.MeanSquaredError())
    params, x, target = objective.init(KEY), jnp.ones((7, 3)), jnp.zeros((7, 2))
    value, dx = fbp.input_grad(objective, params, (x, target))
    want = jax.value_and_grad(lambda x: objective.value(params, (x, target)))(x)
    assert_close((value, dx), want, 1e-6)
    with pytest.raises(TypeError, match=r"^input_grad: expected an Objective, got Tanh\(\)$"):
        fbp.input_grad(fbp.Tanh(), (), (x, target))


def squared(y: Array, target: Array) -> Array:
    return ((y - target) ** 2).mean()


def test_a_loss_of_a_jax_function() -> None:
    loss = fbp.loss_from_jax(squared)
    assert repr(loss) == "AutodiffLoss(squared)"
    y, target = jax.random.normal(KEY, (7, 3)), jnp.ones((7, 3))
    want = fbp.MeanSquaredError().value_and_grad((), y, target)
    assert_close(loss.value_and_grad((), y, target), want, 1e-6)
    assert loss.weight(target) == 7
    assert fbp.loss_from_jax(squared, weight=lambda target: 2.5).weight(target) == 2.5

    def tempered(params: Any, y: Array, target: Array) -> Array:
        return squared(params["t"] * y, target)

    learned = fbp.loss_from_jax(tempered, lambda key: {"t": jnp.ones(())})
    objective = fbp.Objective(fbp.Dense(3, 3), learned)
    params = objective.init(KEY)
    got = objective.value_and_grad(params, (y, target))
    assert_close(got, jax.value_and_grad(objective.value)(params, (y, target)), 1e-5)
    with pytest.raises(ValueError, match=r"^<lambda>: expected a scalar, got an array float32\[7"):
        fbp.loss_from_jax(lambda y, target: y - target).value_and_grad((), y, target)
    with pytest.raises(TypeError, match=r"^loss_from_jax: expected f to be a function, got 3$"):
        fbp.loss_from_jax(3)  # type: ignore[arg-type]


def test_an_objective_of_a_jax_function() -> None:
    def line(params: Any, batch: Any) -> Any:
        x, target = batch
        error = x @ params["w"] - target
        return (error**2).mean(), {"worst": abs(error).max()}

    def init(key: Array) -> Any:
        return {"w": jax.random.normal(key, (3,)), "step": jnp.int32(0)}

    objective = fbp.objective_from_jax(line, init, has_aux=True)
    params, data = objective.init(KEY), (jnp.ones((5, 3)), jnp.zeros(5))
    (value, aux), dparams = objective.value_and_grad(params, data, has_aux=True)
    assert dparams["step"] is None
    assert_close(dparams["w"], 2 * params["w"].sum() * jnp.ones(3), 1e-5)
    assert_close(aux["worst"], abs(params["w"].sum()), 1e-6)
    assert objective.value(params, data) == value
    floats = fbp.objective_from_jax(lambda p, b: line(p, b)[0], lambda key: {"w": jnp.ones(3)})
    optimizer = optax.sgd(0.01)
    state = fbp.state_of(floats.init(KEY), optimizer)
    step = fbp.step_of(floats, optimizer)
    values = []
    for _ in range(5):
        state, value = step(state, data)
        values.append(float(value))
    assert values == sorted(values, reverse=True)
    assert fbp.check(floats, floats.init(KEY), data, budget="fast").ok
    with pytest.raises(ValueError, match=r"expected a function that returns \(value, aux\)"):
        floats.value_and_grad(floats.init(KEY), data, has_aux=True)


@pytest.mark.slow
def test_check_takes_every_objective() -> None:
    gpt = fbp.models.gpt2(vocab=7, context=4, width=8, heads=2, layers=1)
    objective = fbp.models.NextToken(gpt)
    ids = jnp.array([[1, 2, 3, 4], [0, 6, 5, 5]])
    params = objective.init(KEY)
    assert fbp.check(objective, params, (ids, ids), budget="fast").ok
    assert fbp.check(fbp.Microbatch(TWO, 5), drawn(TWO), batch(0, 12), budget="fast").ok

    @dataclasses.dataclass(frozen=True)
    class Forgetful(fbp.Objective):
        def value_and_grad(self, *args: Any, **options: Any) -> Any:
            value, dparams = super().value_and_grad(*args, **options)
            return value, jax.tree.map(lambda d: d / 2, dparams)

    wrong = Forgetful(fbp.Dense(3, 2), fbp.MeanSquaredError())
    data = jnp.ones((5, 3)), jnp.zeros((5, 2))
    assert not fbp.check(wrong, wrong.init(KEY), data, budget="fast").ok


class Constant(fbp.Loss):
    """A loss that forgets to count: its weight is 1 whatever the target."""

    def value_and_grad(self, params: Any, y: Array, target: Array) -> tuple[Array, Any, Array]:
        return fbp.MeanSquaredError().value_and_grad((), y, target)

    def weight(self, target: Any) -> Any:
        return jnp.float32(1)


class Counting(Constant):
    """The same with the weight that every loss has."""

    weight = fbp.Loss.weight


def test_weights_that_do_not_add_up_are_refused() -> None:
    data = jnp.ones((7, 3)), jnp.zeros((7, 2))
    objective = fbp.Objective(fbp.Dense(3, 2), Constant())
    with pytest.raises(
        ValueError,
        match=r"^Microbatch: expected weights of parts to add up to that of the batch, got 1 for 3 "
        r"examples, 1 for 4 and 1 for all 7: Loss.weight must count examples",
    ):
        fbp.step_of(fbp.Microbatch(objective, 3), optax.sgd(0.1))(
            fbp.state_of(objective.init(KEY), optax.sgd(0.1)), data
        )
    counting = fbp.Objective(fbp.Dense(3, 2), Counting())
    params = counting.init(KEY)
    got = fbp.Microbatch(counting, 3).value_and_grad(params, data)
    assert_close(got, counting.value_and_grad(params, data), 1e-6)


def scalar(params: Any, y: Array, target: Any) -> Any:
    return y.mean(), (), jnp.ones_like(y) / y.size


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (
        lambda o, p, x, t: o.value(p, {"x": x, "y": t}),
        TypeError,
        "Objective: expected a batch (x, target), got a dict of x, y: give a pair, or give "
        "Objective a prepare=lambda batch, key: (x, target)",
    ),
    (
        lambda o, p, x, t: o.value(p, x),
        TypeError,
        "Objective: expected a batch (x, target), got an array float32[2, 3]: give a pair, or give "
        "Objective a prepare=lambda batch, key: (x, target)",
    ),
    (
        lambda o, p, x, t: o.value_and_grad(p.model, (x, t)),
        TypeError,
        "Objective: expected ObjectiveParams(model, loss), got a dict of b, w: those of Dense "
        "alone are ObjectiveParams(params, ()), and Objective.init draws both",
    ),
    (
        lambda o, p, x, t: fbp.Objective(o.model, fbp.MeanSquaredError),
        TypeError,
        "Objective: expected a Loss, got the class MeanSquaredError: make one, "
        "MeanSquaredError(...)",
    ),
    (
        lambda o, p, x, t: o.value(p, (x, t), has_aux=True),
        ValueError,
        "Objective: expected an aux to report, got none: give Objective(model, loss, "
        "aux=lambda y, target: ...)",
    ),
    (lambda o, p, x, t: fbp.Losses(), ValueError, "Losses: expected at least one loss, got none"),
    (
        lambda o, p, x, t: fbp.Losses(a=fbp.MeanSquaredError()),
        TypeError,
        "Losses: expected a=(coefficient, loss), got MeanSquaredError(): as in "
        "a=(1.0, fbp.MeanSquaredError())",
    ),
    (
        lambda o, p, x, t: LOSSES.value({"cls": (), "reg": ()}, {"cls": x}, {"cls": t, "reg": t}),
        ValueError,
        "Losses: expected y to have cls, reg, got a dict of cls, without reg",
    ),
    (
        lambda o, p, x, t: LOSSES.weight({"reg": t}),
        ValueError,
        "Losses: expected target to have cls, reg, got a dict of reg, without cls",
    ),
    (
        lambda o, p, x, t: fbp.step_of(fbp.models.NextToken(GPT), optax.sgd(1.0), has_aux=True),
        ValueError,
        "step: expected an objective whose value_and_grad takes has_aux, as that of Objective "
        "does, got NextToken",
    ),
    (
        lambda o, p, x, t: fbp.step_of(
            fbp.Objective(fbp.Serial(fbp.Dropout(0.1), o.model), o.loss), optax.sgd(1.0)
        )(fbp.state_of(fbp.ObjectiveParams(((), p.model), ()), optax.sgd(1.0)), (x, t)),
        ValueError,
        "step: expected a key, since Dropout draws noise in training, got None: "
        "step(state, batch, key)",
    ),
    (
        lambda o, p, x, t: fbp.loss_from_jax(squared).weight({"a": x, "b": jnp.ones(3)}),
        ValueError,
        "AutodiffLoss.weight: expected a target whose arrays have examples as their first axis, "
        "got a dict of a, b: define weight(target)",
    ),
]
GPT = fbp.models.gpt2(vocab=7, context=4, width=8, heads=2, layers=1)


@pytest.mark.parametrize(("call", "error", "words"), REFUSED, ids=[row[2][:60] for row in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(
    call: Any, error: type[Exception], words: str
) -> None:
    objective = fbp.Objective(fbp.Dense(3, 2), fbp.MeanSquaredError())
    with pytest.raises(error) as raised:
        call(objective, objective.init(KEY), jnp.ones((2, 3)), jnp.ones((2, 2)))
    assert str(raised.value).splitlines()[0] == words


@pytest.mark.slow
def test_two_optimizers_in_turn_are_two_steps_by_hand() -> None:
    """A generator against a critic: each step by `jax.grad` and optax alone."""
    net = fbp.Graph(
        ("noise", "real"),
        fake=(fbp.models.mlp((2, 8, 3), fbp.Tanh()), "noise"),
        of_fake=(fbp.Dense(3, 1), "fake"),
        of_real=("of_fake", "real"),
        output={"fake": "of_fake", "real": "of_real"},
    )

    def fools(y: Any, target: Any) -> Array:
        return jax.nn.softplus(-y["fake"]).mean()

    def tells(y: Any, target: Any) -> Array:
        return jax.nn.softplus(y["fake"]).mean() + jax.nn.softplus(-y["real"]).mean()

    adam = optax.adam(1e-2)
    turns = [
        (fbp.Objective(net, fbp.loss_from_jax(fools)), fbp.only(adam, "model.fake.*")),
        (fbp.Objective(net, fbp.loss_from_jax(tells)), fbp.only(adam, "model.of_fake")),
    ]
    state, step = fbp.state_in_turn(turns, KEY), fbp.step_in_turn(turns)
    x = {"noise": jax.random.normal(KEY, (8, 2)), "real": 2 + jax.random.normal(KEY, (8, 3))}
    params = jax.tree.map(jnp.copy, state.params.model)
    states = {name: adam.init(params[name]) for name in ("fake", "of_fake")}
    for _ in range(3):
        state, values = step(state, (x, jnp.zeros(8)))
        for value, (name, loss) in zip(values, (("fake", fools), ("of_fake", tells)), strict=True):

            def f(part: Any, name: str = name, loss: Any = loss, params: Any = params) -> Array:
                return loss(net.forward({**params, name: part}, x)[0], None)

            want, grads = jax.value_and_grad(f)(params[name])
            updates, states[name] = adam.update(grads, states[name], params[name])
            params = {**params, name: optax.apply_updates(params[name], updates)}
            assert_close(value, want, 1e-5)
        assert_close(state.params.model, params, 1e-4)
    assert state.step == 3
    with pytest.raises(ValueError, match=r"^only: expected a path like 'model.trunk', got model\."):
        fbp.only(adam, "model.trunk").init(state.params)
    other = (fbp.Objective(fbp.Dense(2, 2), fbp.MeanSquaredError()), adam)
    with pytest.raises(ValueError, match=r"^state_in_turn: expected objectives with the same par"):
        fbp.state_in_turn([turns[0], other], KEY)


# A compiled program may average bfloat16 weights before they are rounded to 2^-9.
@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2.0**-9)])
def test_an_average_of_the_weights_is_kept_beside_them(dtype: Any, limit: float) -> None:
    objective = fbp.Objective(fbp.Dense(3, 2, dtype=dtype), fbp.MeanSquaredError())
    optimizer = fbp.Averaged(optax.sgd(0.1), 0.9)
    state, step = fbp.state_of(objective.init(KEY), optimizer), fbp.step_of(objective, optimizer)
    average = jax.tree.map(lambda p: np.asarray(p, np.float32), state.params)
    for i in range(4):
        x = jax.random.normal(jax.random.key(i), (5, 3), dtype)
        state, _ = step(state, (x, jnp.ones((5, 2))))
        average = jax.tree.map(
            lambda a, p: 0.9 * a + 0.1 * np.asarray(p, np.float32), average, state.params
        )
        assert_close(state.opt_state.average, average, limit)
    with pytest.raises(ValueError, match=r"^Averaged: expected decay in \[0, 1\), got 1"):
        fbp.Averaged(optax.sgd(0.1), 1.0)
    with pytest.raises(TypeError, match=r"^Averaged: expected LossScaled\(Averaged\("):
        fbp.Averaged(fbp.LossScaled(optax.sgd(0.1)))


def test_trees(x64: None) -> None:
    """A `PyTree` of params passes through every wrapper of an optimizer."""
    tree: PyTree = {"a": jnp.ones(3), "b": (jnp.zeros(2),)}
    for optimizer in (
        fbp.Averaged(optax.adam(0.1)),
        fbp.LossScaled(fbp.Clipped(optax.adam(0.1), 1.0)),
    ):
        state = optimizer.init(tree)
        updates, state = optimizer.update(tree, state, tree)
        assert jax.tree.structure(updates) == jax.tree.structure(tree)


@pytest.mark.slow
def test_parts_prepare_their_targets_with_keys_of_their_own(x64: None) -> None:
    """Rows are left out at random: each part weighs what its own draw has kept."""

    def masked(batch: Any, key: Key) -> Any:
        x, target = batch
        drawn = jnp.ones(len(x), bool) if key is None else jax.random.bernoulli(key, 0.5, (len(x),))
        return x, fbp.Weighted(target, drawn.astype(x.dtype))

    objective = fbp.Objective(fbp.Dense(3, 2, dtype=jnp.float64), fbp.MeanSquaredError(), masked)
    params, parts = objective.init(KEY), []
    x, target = jax.random.normal(KEY, (11, 3)), jax.random.normal(KEY, (11, 2))
    got = fbp.Microbatch(objective, 4).value_and_grad(params, (x, target), KEY)
    for i, rows in enumerate((slice(0, 8, 2), slice(1, 8, 2), slice(8, 11))):
        key = jax.random.split(jax.random.fold_in(KEY, i))[1]
        parts.append(masked((x[rows], target[rows]), key))
    xs = jnp.concatenate([x for x, _ in parts])
    targets = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[t for _, t in parts])
    whole = fbp.Objective(objective.model, objective.loss)
    assert_close(got, whole.value_and_grad(params, (xs, targets)), 1e-12)


@pytest.mark.parametrize("microbatch", [None, 4])
def test_an_integer_to_report_is_averaged_as_a_float(microbatch: int | None) -> None:
    objective = fbp.Objective(
        fbp.Dense(3, 2), fbp.MeanSquaredError(), aux=lambda y, target: {"rows": target[:, 0].sum()}
    )
    target = jnp.arange(22).reshape(11, 2)
    made = objective if microbatch is None else fbp.Microbatch(objective, microbatch)
    data = jnp.ones((11, 3)), target
    (_, aux), _ = made.value_and_grad(objective.init(KEY), data, has_aux=True)
    assert aux["rows"].dtype == jnp.float32
    sums = [target[rows, 0].sum() for rows in (slice(0, 8, 2), slice(1, 8, 2), slice(8, 11))]
    parts = (4 * sums[0] + 4 * sums[1] + 3 * sums[2]) / 11
    assert_close(aux["rows"], target[:, 0].sum() if microbatch is None else parts, 1e-6)


@pytest.mark.parametrize("microbatch", [None, 4])
def test_a_step_without_a_key_is_refused_where_prepare_draws(microbatch: int | None) -> None:
    def noised(x: Array, key: Key) -> tuple[Array, Array]:
        noise = jnp.zeros_like(x) if key is None else jax.random.normal(key, x.shape)
        return x + noise, x

    for prepare, draws in ((noised, True), (lambda x, key: (x, x), False)):
        objective: Any = fbp.Objective(fbp.Dense(3, 3), fbp.MeanSquaredError(), prepare)
        state = fbp.state_of(objective.init(KEY), optax.sgd(0.1))
        if microbatch is not None:
            objective = fbp.Microbatch(objective, microbatch)
        step = fbp.step_of(objective, optax.sgd(0.1))
        if draws:
            with pytest.raises(ValueError, match=r"^step: expected a key, since prepare draws"):
                step(state, jnp.ones((6, 3)))
        else:
            step(state, jnp.ones((6, 3)))


def test_value_and_grad_takes_several_losses() -> None:
    data = batch(0, 11)
    params = drawn(TWO)
    value, dparams = fbp.value_and_grad(TWO.model, LOSSES)(params.model, data)
    want, dwant = TWO.value_and_grad(params, data)
    assert_close((value, dparams), (want, dwant.model), 1e-6)


def test_an_average_leaves_integers_as_they_are() -> None:
    params = {"w": jnp.ones(3), "steps": jnp.arange(3)}
    optimizer = fbp.Averaged(optax.sgd(0.5), 0.9)
    state = optimizer.init(params)
    assert state.average["steps"].dtype == params["steps"].dtype
    grads = {"w": jnp.ones(3), "steps": jnp.zeros(3, params["steps"].dtype)}
    _, state = optimizer.update(grads, state, params)
    assert_close(state.average, {"w": jnp.full(3, 0.95), "steps": jnp.arange(3)}, 1e-6)


def test_extra_arguments_pass_through_every_wrapper() -> None:
    """A line search asks for the value of the loss, however deep it lies."""
    seen = []

    def update(grads: Any, state: Any, params: Any = None, *, value: Any) -> tuple[Any, Any]:
        seen.append(value)
        return grads, state

    searching = optax.GradientTransformationExtraArgs(lambda params: (), update)
    plain = optax.sgd(0.1)
    for optimizer in (searching, optax.chain(plain, searching), plain):
        for wrapped in (
            fbp.LossScaled(fbp.Clipped(optimizer, 1.0)),
            fbp.LossScaled(fbp.Averaged(fbp.Clipped(optimizer, 1.0))),
            fbp.Averaged(fbp.Clipped(optimizer, 1.0)),
        ):
            seen.clear()
            params = {"w": jnp.ones(3)}
            wrapped.update(params, wrapped.init(params), params, value=2.0)
            assert bool(seen) == (optimizer is not plain)
