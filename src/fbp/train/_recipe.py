"""How parameters are updated: the optimizer, its rate over the steps, and what goes round it."""

import dataclasses
import difflib
import inspect
from typing import Any

import optax

from fbp._errors import InputError
from fbp._layer import Params
from fbp._tree import named_leaves
from fbp.step import Averaged, Clipped, SpikesSkipped

# What an optimizer adds to a parameter p of the gradient d, for those that most people use. Adam's
# m and v are means that begin at 0: in step t they lack b^t of a whole mean.
_MEANS = "m = b1 m + (1 - b1) d", "v = b2 v + (1 - b2) d^2"
RULES = {
    "sgd": ("step = -rate d",),
    "adam": (*_MEANS, "step = -rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)"),
    "adamw": (*_MEANS, "step = -rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)"),
    "lion": ("step = -rate (sign(b1 m + (1 - b1) d) + decay p)", "m = b2 m + (1 - b2) d"),
}
SCHEDULES = ("cosine", "constant", "stable-decay")
# Of a stable-decay schedule, the part at the end in which the rate falls.
FALL = 0.2


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of an update; a run's own are those of its task, but for what the user gives.

    Attributes:
      optimizer: its name in optax or optax.contrib, such as adamw, sgd, lion or muon.
      schedule: of the rate after the warm-up: "cosine" to `end`, "constant", or "stable-decay",
        constant and then down to `end` along a line in the last fifth of the steps after it.
      warmup: steps in which the rate rises.
      end: the last rate, as a part of the highest.
      weight_decay: None leaves it to the optimizer.
      decay: what decays: "all", "matrices", neither biases nor the gains of norms, or "network",
        all but the linear part of a table's networks.
      clip: the largest norm of a gradient.
      skip_spikes: a step whose gradient is larger than usual by this factor is not taken.
      average: the decay of a moving average of the weights, which is then what is kept.
      options: more arguments of the optimizer.
    """

    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: int = 0
    end: float = 0.0
    weight_decay: float | None = None
    decay: str = "all"
    clip: float | None = None
    skip_spikes: float | None = None
    average: float | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"expected --schedule to be one of {', '.join(SCHEDULES)}")
        if self.decay not in ("all", *_DECAYING):
            raise InputError(f"expected --decay to be all or matrices, got {self.decay}")
        if self.warmup < 0:
            raise InputError(f"expected --warmup to be 0 or more, got {self.warmup}")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"expected --clip to be above 0, got {self.clip}")
        if self.skip_spikes is not None and not self.skip_spikes > 1:
            raise InputError(f"expected --skip-spikes to be above 1, got {self.skip_spikes}")
        if self.average is not None and not 0 <= self.average < 1:
            raise InputError(f"expected --average to be in [0, 1), got {self.average}")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"expected --weight-decay to be 0 or more, got {self.weight_decay}")

    def made(self, lr: float, steps: int) -> Any:
        """The optimizer.

        Raises:
          InputError: optax has none of this name, or it takes no weight decay.
        """
        return self.with_rate(self.rate(lr, steps))

    def with_rate(self, rate: Any) -> Any:
        """The optimizer with a rate, or a function of the step, of one's own."""
        make = _named(self.optimizer)
        options = {**self.options}
        takes = inspect.signature(make).parameters
        if self.weight_decay is not None:
            options |= _decay(self.optimizer, takes, self.weight_decay, self.decay)
        unknown = [name for name in options if name not in takes]
        if unknown:
            raise InputError(f"--optimizer {self.optimizer}: it takes no {unknown[0]}")
        made = make(rate, **options)
        if self.average is not None:
            made = Averaged(made, self.average)
        if self.clip is not None:  # around the average: a step in the backward clips outermost
            made = Clipped(made, self.clip)
        return made if self.skip_spikes is None else SpikesSkipped(made, self.skip_spikes)

    def rate(self, lr: float, steps: int) -> Any:
        """The rate of each step."""
        warmup = min(self.warmup, max(steps - 1, 0))
        parts, at = [optax.constant_schedule(lr)], []
        if self.schedule == "cosine":
            parts = [optax.cosine_decay_schedule(lr, steps - warmup, alpha=self.end)]
        if warmup:
            parts.insert(0, optax.linear_schedule(lr / (warmup + 1), lr, warmup))
            at.append(warmup)
        if self.schedule == "stable-decay":
            fall = max(1, round(FALL * (steps - warmup)))
            parts.append(optax.linear_schedule(lr, lr * self.end, fall))
            at.append(steps - fall)
        return optax.join_schedules(parts, at) if at else parts[0]

    def said(self, lr: float, steps: int, step: int) -> list[str]:
        """What makes the update after so many steps, and the rule of it where it is a short one."""
        rate, given = float(self.rate(lr, steps)(step)), []
        if self.schedule != "constant" or self.warmup:
            given.append(f"at most {lr:.3g}")
        if self.weight_decay:
            given.append(f"weight decay {self.weight_decay:g}")
        if self.clip is not None:
            given.append(f"a gradient longer than {self.clip:g} is cut to that length")
        if self.skip_spikes is not None:
            given.append("a gradient far longer than usual is left out")
        line = f"{self.optimizer}; the learning rate is {rate:.3g} here"
        changes_rule = self.options.get("momentum") or self.options.get("nesterov")
        rule = () if changes_rule else RULES.get(self.optimizer, ())
        return [", ".join([line, *given]), *rule]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def matrices(params: Params) -> Params:
    """Which parameters are neither biases nor the gains of norms; chosen by name, not by rank: in a
    Stack biases and gains have one more axis."""
    import jax

    leaves = [not name.endswith(".b") and "norm" not in name for name in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def network(params: Params) -> Params:
    """Which parameters are not of the linear part of a table's networks."""
    import jax

    leaves = ["linear" not in name.split(".") for name in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


_DECAYING = {"matrices": matrices, "network": network}


def _decay(name: str, takes: Any, weight_decay: float, decay: str) -> dict[str, Any]:
    rate = next((n for n in ("weight_decay", "weight_decay_rate") if n in takes), None)
    mask = next((n for n in ("mask", "weight_decay_mask") if n in takes), None)
    if rate is None or (decay != "all" and mask is None):
        if weight_decay == 0:
            return {}
        what = "weight decay" if rate is None else "choice of what decays"
        raise InputError(f"--optimizer {name}: it takes no {what}: give --weight-decay 0")
    chosen = {rate: weight_decay}
    return {**chosen, mask: _DECAYING[decay]} if decay != "all" and mask else chosen


def _named(name: str) -> Any:
    from optax import contrib

    for room in (optax, contrib):
        found = getattr(room, name, None)
        if _is_optimizer(found):
            return found
    known = sorted(
        {n for room in (optax, contrib) for n in dir(room) if _is_optimizer(getattr(room, n, None))}
    )
    near = difflib.get_close_matches(name, known, 1)
    hint = f": {near[0]}?" if near else ", such as adamw, sgd, lion, muon"
    raise InputError(f"--optimizer {name}: expected one of optax{hint}")


def _is_optimizer(found: Any) -> bool:
    """Whether it makes an optimizer from a rate alone."""
    if not inspect.isfunction(found):
        return False
    given = list(inspect.signature(found).parameters.values())
    if not given or given[0].name != "learning_rate":
        return False
    return all(
        p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in given[1:]
    )
