"""Fifty mistakes of a first hour: each gets one line with the layer, what is wrong and the cure."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp

KEY = jax.random.key(0)
X, Y = jnp.ones((4, 3)), jnp.zeros((4, 2))
LABELS = jnp.arange(4) % 2
DENSE, TANH, MSE = fbp.Dense(3, 2), fbp.Tanh(), fbp.MeanSquaredError()
CE = fbp.SoftmaxCrossEntropy()
OBJECTIVE = fbp.Objective(DENSE, MSE)
PARAMS = OBJECTIVE.init(KEY)
SGD = optax.sgd(0.1)
GPT = fbp.models.gpt2(vocab=7, context=4, width=8, heads=2, layers=1)

MISTAKES: list[tuple[str, str, Callable[[], Any]]] = []


def mistake(line: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Lists a mistake with the line that it gets; `...` stands for any text."""

    def add(f: Callable[[], Any]) -> Callable[[], Any]:
        MISTAKES.append((f.__name__, line, f))
        return f

    return add


def layer(**methods: Any) -> Any:
    """A layer `Own` of one's own, right but for the methods given."""

    def forward(self: Any, params: Any, x: Any, key: Any = None) -> Any:
        return 2 * x, ()

    def backward(self: Any, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return (), 2 * dy

    return type("Own", (fbp.Layer,), {"forward": forward, "backward": backward, **methods})()


def trained(own: fbp.Layer, params: Any = ()) -> Any:
    objective = fbp.Objective(own, MSE)
    return fbp.step_of(objective, SGD)(
        fbp.state_of(fbp.ObjectiveParams(params, ()), SGD), (X, jnp.zeros((4, 3)))
    )


# A layer of one's own


@mistake(
    "Own.forward: expected to get y and res, got an array float32[4, 3]: return (y, ()) where the "
    "backward needs nothing but params and x"
)
def forward_returns_y_alone() -> Any:
    return trained(layer(forward=lambda self, params, x, key=None: 2 * x))


@mistake("Own.forward: expected to get y and res, got an array float32[2, 3]: return (y, ()) ...")
def forward_returns_y_alone_of_two_rows() -> Any:
    return layer(forward=lambda self, params, x, key=None: x).forward((), X[:2])


@mistake("Own.forward: expected to get y and res, got None: return (y, ()) ...")
def forward_returns_nothing() -> Any:
    return layer(forward=lambda self, params, x, key=None: None).forward((), X)


@mistake(
    "Own.forward: expected parameters (params, x, key=None), got (params, x): add key=None, even "
    "where nothing is drawn"
)
def forward_takes_no_key() -> Any:
    return trained(layer(forward=lambda self, params, x: (x, ())))


@mistake(
    "Own.backward: expected to get dparams and dx, got an array float32[4, 3]: return ((), dx) for "
    "a layer without parameters"
)
def backward_returns_dx_alone() -> Any:
    return trained(layer(backward=lambda self, params, x, res, dy: dy))


def weighted(backward: Any) -> Any:
    return layer(
        init=lambda self, key: {"w": jnp.ones((3, 3))},
        forward=lambda self, params, x, key=None: (x @ params["w"], ()),
        backward=backward,
    )


@mistake(
    "Own.backward: expected dx to be like x, an array float32[4, 3], got a dict of w: dparams and "
    "dx are swapped, return (dparams, dx)"
)
def dparams_and_dx_swapped() -> Any:
    def backward(self: Any, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return dy @ params["w"].T, {"w": x.T @ dy}

    return trained(weighted(backward), {"w": jnp.ones((3, 3))})


@mistake(
    "Own.backward: expected dparams to be like params, an array float32[3, 3] at ['w'], got an "
    "array float32[4, 3]"
)
def gradient_of_another_shape() -> Any:
    def backward(self: Any, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return {"w": dy}, dy @ params["w"].T

    return trained(weighted(backward), {"w": jnp.ones((3, 3))})


@mistake("Own.backward: expected dparams to be like params, a dict of w, got ()")
def gradient_forgotten() -> Any:
    def backward(self: Any, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return (), dy @ params["w"].T

    return trained(weighted(backward), {"w": jnp.ones((3, 3))})


@mistake(
    "Own.backward: expected dx to be like x, an array float32[4, 3], got None: return zeros where "
    "the gradient is zero"
)
def none_for_a_gradient() -> Any:
    return trained(layer(backward=lambda self, params, x, res, dy: ((), None)))


@mistake(
    "Own.backward: expected dx to be like x, None (an array int32[4] has no gradient), got ..."
)
def gradient_of_integers() -> Any:
    own = layer(
        forward=lambda self, params, x, key=None: (jnp.ones((4, 3)), ()),
        backward=lambda self, params, x, res, dy: ((), jnp.zeros(4)),
    )
    return own.backward((), jnp.arange(4), (), X)


@mistake(
    "Own: expected start and step, since its forward reads other positions of a sequence than its "
    "own: without them sampling computes another function than forward"
)
def a_causal_layer_without_step() -> Any:
    own = layer(forward=lambda self, params, x, key=None: (jnp.cumsum(x, -2), ()))
    model = fbp.Serial(embed=fbp.Embedding(9, 4), own=own)
    return model.start(model.init(KEY), jnp.zeros((), jnp.int32), 6)


@mistake("Can't instantiate abstract class Own with...abstract method...backward...")
def no_backward() -> Any:
    return type("Own", (fbp.Layer,), {"forward": lambda self, params, x, key=None: (x, ())})()


# Composing


@mistake("Serial: expected a Layer, got the class Tanh: make one, Tanh(...)")
def a_class_for_a_layer() -> Any:
    return fbp.Serial(DENSE, fbp.Tanh)


@mistake("Serial: expected a Layer, got the function tanh: make a layer of it by fbp.from_jax")
def a_function_for_a_layer() -> Any:
    return fbp.Serial(DENSE, jnp.tanh)


@mistake(
    "Serial: expected a Layer, got list (Dense(n_in=3, n_out=2), Tanh()): write Serial(*layers)"
)
def a_list_of_layers() -> Any:
    return fbp.Serial([DENSE, TANH])


@mistake("Serial: expected layers all with names or all without")
def names_for_some() -> Any:
    return fbp.Serial(DENSE, act=TANH)


@mistake("Dense: expected last axis of x to be 5, got shape (4, 2)...")
def sizes_that_do_not_fit() -> Any:
    model = fbp.Serial(DENSE, fbp.Dense(5, 1))
    return model.forward(model.init(KEY), X)


@mistake("Serial: expected params to be a tuple of 2, got a dict of ['b', 'w']...")
def params_of_one_layer_for_all() -> Any:
    return fbp.Serial(DENSE, TANH).forward(PARAMS.model, X)


@mistake("Dense: expected params of shapes {'w': (3, 2), 'b': (2,)}, got ()...")
def params_forgotten() -> Any:
    return DENSE.forward((), X)


@mistake("Dense: expected params of shapes {'w': (3, 2), 'b': (2,)}, got tuple (an array ...")
def a_tuple_of_params() -> Any:
    return DENSE.forward((jnp.ones((3, 2)), jnp.ones(2)), X)


@mistake("Residual: expected its layer to keep the shape and dtype of x, got float32[4, 3] -> ...")
def a_residual_that_changes_the_shape() -> Any:
    return fbp.Residual(DENSE).forward(PARAMS.model, X)


@mistake("Graph: b reads 'c', which is none of x, a")
def a_name_that_is_not_there() -> Any:
    return fbp.Graph("x", a=(TANH, "x"), b=(TANH, "c"), output="b")


@mistake("Graph: expected no cycle, got a <- b <- a")
def a_cycle() -> Any:
    return fbp.Graph("x", a=(TANH, "b"), b=(TANH, "a"), output="b")


@mistake("Graph: expected different names, got 'x' twice")
def an_input_named_twice() -> Any:
    return fbp.Graph(("x", "x"), a=(TANH, "x"), output="a")


@mistake("On: expected x with a part 'h', got a dict of a, b")
def a_part_that_is_not_there() -> Any:
    return fbp.On("h", TANH).forward((), {"a": X, "b": X})


@mistake("Concat: expected axis below 0, since leading axes are batch axes, got 1")
def an_axis_from_the_left() -> Any:
    return fbp.Concat(1)


@mistake("Stack: expected params with a leading axis of size 3, got shape (2,)...")
def params_of_one_copy_for_a_stack() -> Any:
    return fbp.Stack(fbp.Scale((2,)), 3).forward(jax.tree.map(jnp.ones, {"w": (2,)}), Y)


@mistake("freeze: expected parameters at 'trunk.*', got b, w")
def a_path_that_is_not_there() -> Any:
    return fbp.freeze(DENSE, "trunk.*")


@mistake("Tie: expected params with head.w, got ['0.b', '0.w']")
def a_tie_to_nowhere() -> Any:
    return fbp.Tie(fbp.Serial(DENSE), "0.w", "head.w").init(KEY)


# Data


@mistake(
    "Objective: expected a batch (x, target), got a dict of x, y: give a pair, or give Objective a "
    "prepare=lambda batch, key: (x, target)"
)
def a_batch_in_a_dict() -> Any:
    return OBJECTIVE.value(PARAMS, {"x": X, "y": Y})


@mistake("MeanSquaredError: expected target to have the shape of y, (4, 2), got shape (4,)...")
def targets_without_their_axis() -> Any:
    return OBJECTIVE.value(PARAMS, (X, jnp.zeros(4)))


@mistake("SoftmaxCrossEntropy: expected a float distribution of shape (4, 2), got (4,)...")
def labels_as_floats() -> Any:
    return CE.value((), Y, LABELS.astype(float))


@mistake("SoftmaxCrossEntropy: expected integer labels of shape (4,), got (4, 1)...")
def labels_in_a_column() -> Any:
    return CE.value((), Y, LABELS[:, None])


@mistake("SoftmaxCrossEntropy: expected labels in 0..1, got 7")
def a_label_out_of_range() -> Any:
    return CE.value((), Y, jnp.array([0, 1, 7, 0]))


@mistake("Dense: expected x to be a float array, got int32...")
def integers_for_floats() -> Any:
    return DENSE.forward(PARAMS.model, jnp.ones((4, 3), int))


@mistake("Dense: expected x to be a float array, got list...")
def a_list_of_numbers() -> Any:
    return DENSE.forward(PARAMS.model, [1.0, 2.0, 3.0])


@mistake("Embedding: expected x to be an integer array, got float32...")
def ids_as_floats() -> Any:
    embedding = fbp.Embedding(5, 3)
    return embedding.forward(embedding.init(KEY), jnp.zeros(4))


@mistake("Conv2D: expected last axis of x to be 3, got shape (2, 3, 8, 8)...")
def images_with_channels_first() -> Any:
    conv = fbp.Conv2D(3, 4, 3)
    return conv.forward(conv.init(KEY), jnp.zeros((2, 3, 8, 8)))


@mistake("Microbatch: expected one size of the first axis, got [3, 4]")
def inputs_and_targets_of_two_sizes() -> Any:
    return fbp.Microbatch(OBJECTIVE, 2).value(PARAMS, (X[:3], Y))


# Losses and objectives


@mistake(
    "Objective: expected a Loss, got the class MeanSquaredError: make one, MeanSquaredError(...)"
)
def a_class_for_a_loss() -> Any:
    return fbp.Objective(DENSE, fbp.MeanSquaredError)


@mistake(
    "Objective: expected a Loss, got the function l2_loss: make a loss of it by fbp.loss_from_jax"
)
def a_function_for_a_loss() -> Any:
    return fbp.Objective(DENSE, optax.l2_loss)


@mistake(
    "l2_loss: expected a scalar, got an array float32[4, 2]: a loss is a mean over the examples"
)
def a_loss_without_a_mean() -> Any:
    return fbp.Objective(DENSE, fbp.loss_from_jax(optax.l2_loss)).value_and_grad(PARAMS, (X, Y))


@mistake(
    "Objective: expected ObjectiveParams(model, loss), got a dict of b, w: those of Dense alone "
    "are ObjectiveParams(params, ()), and Objective.init draws both"
)
def the_model_s_params_alone() -> Any:
    return fbp.step_of(OBJECTIVE, SGD)(fbp.state_of(PARAMS.model, SGD), (X, Y))


@mistake("Losses: expected y to have a, b, got a dict of a, without b")
def a_loss_on_a_part_that_is_missing() -> Any:
    return fbp.Losses(a=(1.0, MSE), b=(1.0, MSE)).value({"a": (), "b": ()}, {"a": Y}, {"a": Y})


@mistake("Losses: expected a=(coefficient, loss), got MeanSquaredError(): as in a=(1.0, ...")
def a_loss_without_its_coefficient() -> Any:
    return fbp.Losses(a=MSE)


@mistake("MeanSquaredError: expected weight to have the first axes of (4, 2), got shape (3,)...")
def weights_of_another_size() -> Any:
    return MSE.value((), Y, fbp.Weighted(Y, jnp.ones(3)))


# Steps


@mistake(
    "step: expected a key, since Dropout draws noise in training, got None: step(state, batch, key)"
)
def dropout_without_a_key() -> Any:
    objective = fbp.Objective(fbp.Serial(fbp.Dropout(0.5), DENSE), MSE)
    return fbp.step_of(objective, SGD)(fbp.state_of(objective.init(KEY), SGD), (X, Y))


@mistake(
    "step: expected an objective, got Dense(n_in=3, n_out=2): make one, fbp.Objective(model, loss)"
)
def a_model_for_an_objective() -> Any:
    return fbp.step_of(DENSE, SGD)


@mistake(
    "step: expected an optax optimizer, got the function adam: call it, as in optax.adam(1e-3)"
)
def a_function_for_an_optimizer() -> Any:
    return fbp.step_of(OBJECTIVE, optax.adam)


@mistake(
    "step: expected an optax optimizer, got the class GradientTransformation: as optax.adam(..."
)
def a_class_for_an_optimizer() -> Any:
    return fbp.step_of(OBJECTIVE, optax.GradientTransformation)


@mistake("step: expected a state, that of fbp.state_of(params, optimizer), got ...")
def state_and_batch_swapped() -> Any:
    return fbp.step_of(OBJECTIVE, SGD)((X, Y), fbp.state_of(PARAMS, SGD))


@mistake(
    "step: expected the state of this optimizer, that of fbp.state_of(params, optimizer), got ..."
)
def the_state_of_another_optimizer() -> Any:
    return fbp.step_of(OBJECTIVE, optax.adam(0.1))(fbp.state_of(PARAMS, SGD), (X, Y))


@mistake("Objective: expected an aux to report, got none: give Objective(model, loss, aux=...)")
def aux_without_an_aux() -> Any:
    return fbp.step_of(OBJECTIVE, SGD, has_aux=True)(fbp.state_of(PARAMS, SGD), (X, Y))


@mistake("in_backward: expected a model with a Stack inside ..., found none: take a plain step")
def in_backward_without_a_stack() -> Any:
    step = fbp.step_of(OBJECTIVE, SGD, in_backward=True)
    return step(fbp.state_of(PARAMS, SGD), (X, Y))


@mistake("Microbatch: expected size to be 1 or more, got 0")
def no_examples_a_part() -> Any:
    return fbp.Microbatch(OBJECTIVE, 0)


@mistake("NextToken: expected a model that ends with unembed=Unembed(...)...")
def a_language_model_without_its_head() -> Any:
    return fbp.models.NextToken(DENSE)


# Other people's functions, and checks


@mistake("from_jax: expected f to be a function, got an array float32[4, 3]")
def an_array_for_a_function() -> Any:
    return fbp.from_jax(X)


@mistake("to_jax: expected a Layer or a Loss, got the function tanh")
def to_jax_of_a_function() -> Any:
    return fbp.to_jax(jnp.tanh)


@mistake("Dense: expected params, x[, key], got 0 arguments")
def a_check_without_arguments() -> Any:
    return fbp.check(DENSE)


@mistake("sin: expected an argument with floats to differentiate, got ...")
def a_check_of_integers() -> Any:
    return fbp.check(jnp.sin, np.arange(3))


@mistake("LoRA: expected a Dense, got Tanh()")
def a_lora_of_no_dense() -> Any:
    return fbp.LoRA(TANH, 2)


@mistake("Cast: expected a Layer, got the class bfloat16")
def a_dtype_for_a_layer() -> Any:
    return fbp.Cast(jnp.bfloat16)


@mistake("Bias: expected shape to be a tuple of sizes, got 3: write (3,)")
def a_size_for_a_shape() -> Any:
    return fbp.Bias(3)  # type: ignore[arg-type]


@mistake("Unflatten: expected shape to be a tuple of sizes, got [8, 8, 1]")
def a_list_for_a_shape() -> Any:
    return fbp.Unflatten([8, 8, 1])  # type: ignore[arg-type]


@pytest.mark.parametrize(("line", "f"), [(line, f) for _, line, f in MISTAKES],
                         ids=[name for name, _, _ in MISTAKES])  # fmt: skip
def test_a_mistake_gets_its_line(line: str, f: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        f()
    got = str(raised.value).splitlines()[0]
    pattern = ".*".join(map(re.escape, line.split("...")))
    assert re.fullmatch(pattern, got), got
    assert " at 0x" not in got


def test_there_are_fifty() -> None:
    assert len(MISTAKES) >= 50
    assert len({name for name, _, _ in MISTAKES}) == len(MISTAKES)
