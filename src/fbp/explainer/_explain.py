"""`fbp.explain`: one step's forward and backward, layer by layer, with all its numbers."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._described import described
from fbp._errors import InputError
from fbp._layer import Key, Layer, Params, PyTree
from fbp._microbatch import Microbatch
from fbp._picture import Picture
from fbp.explainer._again import pass_of
from fbp.explainer._inside import layers_inside, with_layers
from fbp.explainer._notes import collected, spread
from fbp.explainer._page import page_of, small_page_of
from fbp.explainer._plot import plot_attention, plot_gradients
from fbp.explainer._rule import rule_of
from fbp.explainer._spies import BACKWARD, FORWARD, LOSS, RECOMPUTE, STEP, STEP_BACK, Log, spied
from fbp.explainer._text import text_of
from fbp.explainer._traced import Event, Pass, Traced, TracedLoss, TracedStep
from fbp.explainer._training import OverTraining
from fbp.explainer._update import noise_of, updated
from fbp.step import State
from fbp.verify._at_numbers import judge_of_loss, judge_of_rule


@dataclasses.dataclass(frozen=True)
class Explanation(TracedStep):
    """A step of backpropagation with all its numbers; `str()` is a table of it.

    Attributes:
      objective: what was explained.
      params: its parameters.
      value: the loss.
      grads: the gradient.
      layers: every layer, in the order of `fbp.summary`.
      loss: the loss, with what it was given and gave.
      events: what happened, in order, layers without layers inside alone.
      update: what the optimizer did with the gradient, where one was given: the change of each
        parameter, the params and the loss after it, and the loss that the gradient foretold.
    """

    def __str__(self) -> str:
        return text_of(self)

    def page(
        self,
        title: str = "",
        tokens: Sequence[str] = (),
        over_training: OverTraining | None = None,
        optimizer: Sequence[str] = (),
    ) -> str:
        """Returns a page of HTML to walk through the step, in one file that needs no other.

        Args:
          title: what it is a step of.
          tokens: of a text, each token as text, and the one after the last.
          over_training: what became of the run that it is a step of, as `fbp explain RUN` has it.
          optimizer: what it is, and its rule, a line each.
        """
        return page_of(self, title, tokens, over_training, optimizer)

    def plot(self, what: str = "gradients", title: str = "", tokens: Sequence[str] = ()) -> Picture:
        """Returns a picture, which a notebook shows and `save` writes as .png or .svg.

        Args:
          what: "gradients", the size of each layer's y, dy and parameters' gradient; or
            "attention", what each query of the first example looks at, for each head.
          title: what it is a step of.
          tokens: of a text, each token as text, and the one after the last.

        Raises:
          InputError: it is neither, there is no attention, or matplotlib is not installed.
        """
        if what == "gradients":
            return plot_gradients(self, title)
        if what == "attention":
            return plot_attention(self, title, tokens)
        raise InputError(f"plot: expected 'gradients' or 'attention', got {what!r}")

    def _repr_html_(self) -> str:
        return small_page_of(self)


def explain(
    objective: Any,
    params: Params,
    batch: PyTree,
    key: Key = None,
    *,
    optimizer: Any = None,
    state: State | None = None,
    prove: bool = True,
) -> Explanation:
    """Returns every number of one step's forward and backward, layer by layer.

    The step is the one that trains, compiled as one program; each layer's x, y, res, dy, dparams
    and dx come out beside the gradient, also from inside the scan of a `Stack`. With `prove` each
    layer's own rule is compared with autodiff at these numbers, in float64.

    Args:
      objective: an `Objective`, a `NextToken`, or a `Microbatch` of one, which is taken whole.
      params: its parameters.
      batch: `(x, target)`, or what `prepare` takes.
      key: a key for noise; with an optimizer, as `step_of` takes it, which folds the number of the
        step in.
      optimizer: also takes the step with this optimizer.
      state: of `state_of`, with these params, for an optimizer that has taken steps before.
      prove: whether to compare.

    Raises:
      TypeError: the objective is none of these.
      Exception: whatever the objective raises for this batch.
    """
    if isinstance(objective, Microbatch):
        objective = objective.objective
    if not (isinstance(getattr(objective, "model", None), Layer) and hasattr(objective, "loss")):
        raise TypeError(
            "explain: expected an objective with a model and a loss, as fbp.Objective(model, loss) "
            f"and fbp.models.NextToken(model), got {described(objective)}"
        )
    batch = jax.tree.map(jnp.asarray, batch)
    noise = key if optimizer is None else noise_of(key, state)
    log = Log()
    while True:
        (value, grads), notes = _run(objective, log, params, batch, noise)
        batched = _batched(log, notes)
        if not batched:
            break
        log = Log(log.closed | batched)
    passes, steps, loss, events = _assembled(log, notes)
    layers = []
    for number, layer in enumerate(log.layers):
        seen = passes[number]
        if prove:
            seen = _proven(layer, seen)
        layers.append(
            Traced(
                log.paths[number],
                log.depths[number],
                layer,
                not log.inside[number],
                rule_of(layer),
                tuple(seen),
                tuple(steps[number]),
            )
        )
    turn = TracedLoss(
        objective.loss,
        rule_of(objective.loss),
        *(loss[name] for name in ("params", "y", "target", "value", "dparams", "dy")),
    )
    if prove:
        judge = judge_of_loss(turn.loss)
        given = turn.params, turn.y, turn.target
        proof = judge((turn.dparams, turn.dy), _key(loss.get("key")), *given)
        turn = dataclasses.replace(turn, proof=proof)
    update = None
    if optimizer is not None:
        update = updated(objective, optimizer, state, params, batch, key, float(value), grads)
    return Explanation(
        objective, params, float(value), grads, tuple(layers), turn, tuple(events), update
    )


def _run(objective: Any, log: Log, params: Params, batch: PyTree, key: Key) -> PyTree:
    """The loss and the gradient, and what was noted."""

    def step(params: Params, batch: PyTree, key: Key) -> PyTree:
        log.clear()
        return collected(spied(objective, log).value_and_grad, params, batch, key)

    return jax.tree.map(np.asarray, jax.jit(step)(params, batch, key))


def _batched(log: Log, notes: Any) -> frozenset[tuple[str, int]]:
    """The layers that run a layer inside them under `vmap`, as its arrays have more axes than its
    rule sees. Such a layer is shown as one."""
    found = set()
    for name, value in spread(notes):
        at_call, what, leaf = name.split(".")
        call = log.calls[int(at_call)]
        if call.kind != LOSS and value.shape != call.shapes[what][int(leaf)]:
            found.add(log.around(call.layer))
    return frozenset(found)


def _assembled(log: Log, notes: Any) -> tuple[Any, Any, Any, list[Event]]:
    """The passes and steps of each layer, the loss, and the events, from what was noted."""
    ran: list[tuple[int, dict[str, list[Any]]]] = []  # a call's number, and its leaves by name
    latest: dict[int, int] = {}
    for name, value in spread(notes):
        at_call, what, leaf = name.split(".")
        number = int(at_call)
        at = latest.get(number)
        # A call that begins again is another run of it, in the next step of a loop.
        if at is None or int(leaf) < len(ran[at][1].get(what, ())):
            at = latest[number] = len(ran)
            ran.append((number, defaultdict(list)))
        ran[at][1][what].append(value)

    kinds: dict[str, dict[int, list[dict[str, PyTree]]]] = defaultdict(lambda: defaultdict(list))
    events = []
    loss: dict[str, PyTree] = {}
    for number, leaves in ran:
        call = log.calls[number]
        trees = {what: _tree(form, leaves[what]) for what, form in call.noted.items()}
        if call.kind == LOSS:
            loss = trees
            events.append(Event(LOSS, -1, 0))
            continue
        kinds[call.kind][call.layer].append(trees)
        if not log.inside[call.layer] and call.kind in (FORWARD, RECOMPUTE, BACKWARD):
            run = len(kinds[call.kind][call.layer]) - 1
            if call.kind == RECOMPUTE:
                run = pass_of(trees.get("y"), kinds[FORWARD][call.layer])
            events.append(Event(call.kind, call.layer, run))
    passes, steps = {}, {}
    for layer in range(len(log.layers)):
        forward, backward = kinds[FORWARD][layer], kinds[BACKWARD][layer]
        # The backward takes the passes from the last to the first.
        backward = backward[::-1] if len(backward) == len(forward) else [{}] * len(forward)
        passes[layer] = [Pass(**{**f, **b}) for f, b in zip(forward, backward, strict=True)]
        there, back = kinds[STEP][layer], kinds[STEP_BACK][layer][::-1]
        back = back if len(back) == len(there) else [{}] * len(there)
        steps[layer] = [{**f, **b} for f, b in zip(there, back, strict=True)]
    last = {layer: len(seen) - 1 for layer, seen in passes.items()}
    events = [
        dataclasses.replace(event, run=last[event.layer] - event.run)
        if event.kind == BACKWARD
        else event
        for event in events
    ]
    return passes, steps, loss, events


def _tree(form: PyTree, leaves: list[Any]) -> PyTree:
    return jax.tree.map(lambda i: leaves[i], form)


def _proven(layer: Layer, passes: list[Pass]) -> list[Pass]:
    """The passes, each with its proof, where its backward ran and gave a gradient."""

    def inside(f: Any) -> Layer:
        fields = layers_inside(layer)
        return with_layers(
            layer, {n: [f(child) for _, child in held] for n, held in fields.items()}
        )

    judge = judge_of_rule(layer, inside)
    proven = []
    for one in passes:
        if one.dy is not None and jax.tree.leaves((one.dparams, one.dx)):
            gradient = one.dparams, one.dx
            proof = judge(gradient, _key(one.key), one.params, one.x, one.dy)
            one = dataclasses.replace(one, proof=proof)
        proven.append(one)
    return proven


def _key(data: PyTree) -> Key:
    return None if data is None else jax.random.wrap_key_data(jnp.asarray(data))
