"""Where a run is: all that a checkpoint holds, and the parameters that are shown of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fbp._layer import Params
from fbp.step._averaged import Average
from fbp.step._spikes import Spikes
from fbp.step._step import State, state_of
from fbp.train._watch import Metrics, Watch
from fbp.train.checkpoints import Checkpoint, Saver


@dataclasses.dataclass
class At:
    """Where a run is: all that a checkpoint holds."""

    state: State
    step: int
    watch: Watch
    evaluated: int = -1
    best: Params = None
    best_metrics: Metrics = dataclasses.field(default_factory=dict)

    def note(self, metrics: Metrics) -> None:
        """Takes an evaluation of the state into account."""
        self.evaluated = self.step
        self.watch = self.watch.seen(self.step, metrics)
        if self.watch.best_step == self.step:
            self.best = None  # so that its memory is free for the next one
            self.best, self.best_metrics = copied(shown(self.state)), metrics

    def save(self, saver: Saver) -> None:
        is_best = self.watch.best_step == self.step
        tree = {"state": self.state, **({} if is_best else {"best": self.best})}
        content = {
            "watch": dataclasses.asdict(self.watch),
            "evaluated": self.evaluated,
            "best_metrics": self.best_metrics,
        }
        saver.save(self.step, tree, content, self.watch.best_step)


def begin(
    params: Params,
    optimizer: Any,
    watch: Watch,
    resume: Checkpoint | None,
) -> At:
    """The first state, or that of a checkpoint."""
    if resume is None:
        return At(state_of(params, optimizer), 0, watch)
    content = resume.content
    watched = Watch(**{**content["watch"], "patience": watch.patience})
    is_best = watched.best_step == resume.step
    tree = resume.tree(
        jax.eval_shape(
            lambda: {
                "state": state_of(params, optimizer),
                **({} if is_best or watched.best_step < 0 else {"best": params}),
            }
        )
    )
    at = At(tree["state"], resume.step, watched, content["evaluated"])
    at.best = copied(shown(at.state)) if is_best else tree.get("best")
    at.best_metrics = content["best_metrics"]
    return at


def shown(state: State) -> Params:
    """The parameters to evaluate and to keep: those of a state, or if an `Averaged` has made an
    average of them, that, in their dtypes."""
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda leaf: isinstance(leaf, Average))
    averages = [leaf.average for leaf in leaves if isinstance(leaf, Average)]
    if not averages:
        return state.params
    # What an optimizer is masked for has no average: it does not change.
    return jax.tree.map(
        lambda a, p: p if _is_masked(a) else a.astype(p.dtype),
        averages[0],
        state.params,
        is_leaf=_is_masked,
    )


def _is_masked(a: Any) -> bool:
    return isinstance(a, optax.MaskedNode)


def skipped_of(state: State) -> Metrics:
    """How many steps a `SpikesSkipped` has not taken."""
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda leaf: isinstance(leaf, Spikes))
    skipped = [int(leaf.skipped) for leaf in leaves if isinstance(leaf, Spikes)]
    return {"skipped": float(sum(skipped))} if skipped else {}


def copied(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)
