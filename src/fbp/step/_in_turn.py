"""Several objectives on the same params, each with an optimizer of its own: GANs, actor-critics."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from fbp._layer import Array, Key, Params, PyTree
from fbp._objective import ObjectiveLike
from fbp._tree import matches, named_leaves, path_of
from fbp.step._step import State, first_state, one_step


def only(optimizer: optax.GradientTransformation, *patterns: str) -> optax.GradientTransformation:
    """Returns the optimizer for the params at these paths alone; all others stay as they are.

        fbp.only(optax.adam(2e-4), "model.generator.*")

    Their gradients are not used, so a compiled program does not compute them, and no state is kept
    for them.

    Args:
      optimizer: an optax optimizer.
      *patterns: paths of leaves, as in `model.trunk.dense.w`, with `*` for any text.

    Raises:
      ValueError: when it is initialized, if a pattern is at no path.
    """

    def labels(params: Params) -> PyTree:
        paths = list(named_leaves(params))
        for pattern in patterns:
            if not any(matches(path, pattern) for path in paths):
                raise ValueError(f"only: expected a path like {pattern!r}, got {', '.join(paths)}")
        return jax.tree.map_with_path(
            lambda keys, _: "here" if any(matches(path_of(keys), p) for p in patterns) else "not",
            params,
        )

    return optax.partition({"here": optimizer, "not": optax.set_to_zero()}, labels)


def step_in_turn(
    objectives: Sequence[tuple[ObjectiveLike, Any]],
) -> Callable[..., tuple[State, tuple[Array, ...]]]:
    """Returns `step(state, batch, key=None) -> state, values`: each objective takes a step in turn.

    All objectives have the same params, those that the one before has updated, and the same batch;
    `fbp.only` chooses what each optimizer updates. A generative adversarial network:

        net = fbp.Graph(
            inputs=("noise", "real"),
            fake=(generator, "noise"),
            of_fake=(critic, "fake"),
            of_real=("of_fake", "real"),
            output={"fake": "of_fake", "real": "of_real"},
        )
        turns = [
            (fbp.Objective(net, fools), fbp.only(optax.adam(2e-4), "model.fake.*")),
            (fbp.Objective(net, tells_apart), fbp.only(optax.adam(2e-4), "model.of_fake.*")),
        ]
        state = fbp.state_in_turn(turns, key)
        step = fbp.step_in_turn(turns)

    One jitted program, whose state is donated, as that of `step_of`. The count of the state is that
    of rounds.

    Args:
      objectives: pairs of an objective and its optimizer, in order.
    """
    steps = [one_step(objective, optimizer) for objective, optimizer in objectives]

    def step(state: State, batch: PyTree, key: Key = None) -> tuple[State, tuple[Array, ...]]:
        params, opt_states, number = state
        values, after = [], []
        for i, (one, opt_state) in enumerate(zip(steps, opt_states, strict=True)):
            own_key = None if key is None else jax.random.fold_in(key, i)
            (params, opt_state, _), value = one(State(params, opt_state, number), batch, own_key)
            values.append(value)
            after.append(opt_state)
        return State(params, tuple(after), number + 1), tuple(values)

    return jax.jit(step, donate_argnums=0)


def state_in_turn(objectives: Sequence[tuple[ObjectiveLike, Any]], key: Array) -> State:
    """Returns the initial state of `step_in_turn`: params drawn by the first objective, and the
    state of every optimizer.

    Raises:
      ValueError: the objectives differ in the form of their params.
    """
    first, *others = (jax.eval_shape(objective.init, key) for objective, _ in objectives)
    for other in others:
        if other != first:
            raise ValueError(
                "state_in_turn: expected objectives with the same params, got "
                f"{', '.join(named_leaves(first))} and {', '.join(named_leaves(other))}"
            )
    params = objectives[0][0].init(key)
    return first_state(params, tuple(optimizer.init(params) for _, optimizer in objectives))
