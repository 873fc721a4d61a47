"""The flags of `fbp train` on how parameters are updated, and how long."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

_OF_TASK = "(default: the task's)"


def _flag(metavar: str, hint: str = _OF_TASK) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


@dataclasses.dataclass(frozen=True)
class Knobs:
    """The same for every task; what is not given is the task's."""

    optimizer: Annotated[str | None, _flag("NAME")] = None
    """By its name in optax: adamw, sgd, lion, muon, ..."""
    schedule: Annotated[
        Literal["cosine", "constant", "stable-decay"] | None,
        _flag("{cosine,constant,stable-decay}"),
    ] = None
    """The rate after the warm-up; stable-decay falls in the last fifth."""
    warmup: Annotated[int | None, _flag("N")] = None
    """Steps in which the rate rises."""
    weight_decay: Annotated[float | None, _flag("X")] = None
    """How strongly weights are pulled to 0."""
    decay: Annotated[Literal["all", "matrices"] | None, _flag("{all,matrices}")] = None
    """What decays; matrices leaves out biases and the gains of norms."""
    clip: Annotated[float | None, _flag("NORM")] = None
    """The largest norm of a gradient."""
    skip_spikes: Annotated[float | None, _flag("TIMES", "(default: none)")] = None
    """Leave out a step whose gradient is TIMES larger than usual, such as 10."""
    average: Annotated[float | None, _flag("DECAY", "(default: none)")] = None
    """Keep a moving average of the weights, such as 0.999, instead of the weights."""
    accumulate: Annotated[int, _flag("N", "(default: 1)")] = 1
    """Take a batch in N parts, one after another, in less memory."""
    bf16: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Whether to compute in bfloat16; the weights stay float32."""
    in_backward: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Whether to update each layer within the backward pass, in less memory."""
    mesh: Annotated[str | None, _flag("AXES", "(default: one device)")] = None
    """Train on all devices, as data=4,fsdp=2: examples lie over both axes, and parameters, between
    their uses, over fsdp; tensor=N cuts weights while they are used."""
    patience: Annotated[int | None, _flag("N")] = None
    """End after N evaluations without a better one."""
    max_time: Annotated[float, _flag("SECONDS", "(default: none)")] = float("inf")
    """End, and save, after this time."""
    overfit_batches: Annotated[int | None, _flag("N", "(default: all)")] = None
    """Train on the first N batches again and again: can the model learn them?"""
    track: Annotated[
        Literal["tensorboard", "wandb"] | None, _flag("{tensorboard,wandb}", "(default: none)")
    ] = None
    """Where metrics go beside metrics.jsonl."""

    @property
    def recipe(self) -> dict[str, Any]:
        """What of the recipe is given."""
        names = ["optimizer", "schedule", "warmup", "weight_decay", "decay", "clip"]
        names += ["skip_spikes", "average"]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
