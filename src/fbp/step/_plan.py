"""Choice of what a Stack keeps for the backward: the fastest step within a memory budget."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fbp._columns import align, size
from fbp._described import described
from fbp._html import lines, shown, table
from fbp._layer import Key, Layer, PyTree
from fbp._microbatch import Microbatch
from fbp._tree import nbytes
from fbp.combinators import Stack, map_layers
from fbp.combinators._stack import EVERYTHING, INPUTS
from fbp.step._step import state_of, step_of
from fbp.step._turns import take_turns


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to take a training step.

    Attributes:
      keep: `keep` of every `Stack`.
      in_backward: whether the optimizer runs inside the backward pass.
      kept: bytes that the forward keeps for the backward, as in `fbp.summary`'s ledger.
      memory: bytes of the compiled step: arguments, temporaries, and outputs not in donated memory.
      seconds: time of a step; None if it was not run, because it exceeds the budget.
    """

    keep: str | int
    in_backward: bool
    kept: int
    memory: int
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The choice that `plan` made and its alternatives; `str()` returns them as a table.

    Attributes:
      objective: the given objective, with the chosen `keep` in every `Stack` of its model; its
        params are the same.
      chosen: one of `choices`.
      choices: all choices, in the order in which they were tried.
      budget: the budget in bytes.
      notes: lines on choices that could not be tried, or on doubtful times.
    """

    objective: Any
    chosen: Choice
    choices: tuple[Choice, ...]
    budget: int
    notes: tuple[str, ...] = ()

    @property
    def in_backward(self) -> bool:
        """The argument `in_backward` for `step_of`."""
        return self.chosen.in_backward

    def table(self) -> list[tuple[str, ...]]:
        """The cells of the table; the first row is the header."""
        rows: list[tuple[str, ...]] = [
            ("keep", "optimizer", "kept for backward", "together", "ms/step", "")
        ]
        for c in self.choices:
            mark = "chosen" if c is self.chosen else "" if c.seconds else "beyond the budget"
            where = "in backward" if c.in_backward else "after"
            time = f"{1e3 * c.seconds:.2f}" if c.seconds else ""
            rows.append((str(c.keep), where, size(c.kept), size(c.memory), time, mark))
        return rows

    def __str__(self) -> str:
        return "\n".join([align(self.table()), f"budget: {size(self.budget)}", *self.notes])

    def _repr_html_(self) -> str:
        said = lines(f"budget: {size(self.budget)}", *self.notes)
        return shown(table(self.table()), said)


def plan(
    objective: Any,
    batch: PyTree,
    budget: int,
    *,
    optimizer: Any = None,
    key: Key = None,
    rounds: int = 5,
) -> Plan:
    """Chooses what every `Stack` keeps, and where the optimizer runs, for the fastest step.

    Candidates keep everything, all inputs, or the input of every k-th copy, each with the optimizer
    after or inside the backward pass; the present `keep` of the Stacks is ignored. At most two k
    are tried: 2, and the one that keeps the fewest bytes by the ledger, each only if it keeps less
    than all inputs do. For n copies with a bytes of input and r bytes of residuals each,

        n / k a + k (a + r)    is least at    k = sqrt(n a / (a + r))

    The compiler reports the memory of each step. Those within the budget are timed in turns, and
    the fastest is chosen:

        plan = fbp.plan(objective, batch, 4 * 2**30, optimizer=optimizer)
        step = fbp.step_of(plan.objective, optimizer, in_backward=plan.in_backward)

    Up to eight programs are compiled, and those within the budget run some steps with params and a
    state of their own, which need memory in addition to those of the caller.

    Args:
      objective: `Objective`, `NextToken`, or a `Microbatch` of one.
      batch: one batch, as arrays.
      budget: bytes for params, optimizer state, batch and temporaries together.
      optimizer: the optimizer of the training; `optax.adamw(1e-3)` by default.
      key: a key, if the training draws noise.
      rounds: number of timed steps of each candidate, of which the median is taken.

    Raises:
      TypeError: the objective is none of these.
      ValueError: the model has no Stack; no candidate is within the budget.
    """
    for name, value in (("a budget of 1 byte", budget), ("rounds of 1", rounds)):
        if value < 1:
            raise ValueError(f"plan: expected {name} or more, got {value}")
    model = getattr(_inner(objective), "model", None)
    if not isinstance(model, Layer) or not hasattr(_inner(objective), "forward"):
        raise TypeError(
            "plan: expected an Objective, a NextToken or a Microbatch of one, "
            f"got {described(objective)}"
        )
    n = max((stack.n for stack in _stacks(model)), default=0)
    if not n:
        raise ValueError("plan: expected a model with a Stack: without one nothing can be chosen")
    optimizer = optax.adamw(1e-3) if optimizer is None else optimizer
    batch = jax.tree.map(jnp.asarray, batch)
    start = jax.jit(lambda: state_of(objective.init(jax.random.key(0)), optimizer))
    shapes = jax.eval_shape(start)

    @functools.cache
    def kept(keep: str | int) -> int:
        return _kept(_keeping(objective, keep), shapes.params, batch, key)

    keeps = _keeps(n, {keep: kept(keep) for keep in (EVERYTHING, INPUTS, n)})
    choices: list[Choice] = []
    programs: dict[int, Any] = {}
    notes: list[str] = []
    for in_backward in (False, True):
        for keep in keeps:
            step: Any = step_of(_keeping(objective, keep), optimizer, in_backward=in_backward)
            try:
                program = step.lower(shapes, batch, key).compile()
            except (TypeError, ValueError) as error:
                if not in_backward:
                    raise
                notes.append(f"not tried: {error}")
                break
            found = program.memory_analysis()
            memory = found.argument_size_in_bytes + found.temp_size_in_bytes
            memory += found.output_size_in_bytes - found.alias_size_in_bytes
            if memory <= budget:
                programs[len(choices)] = program
            choices.append(Choice(keep, in_backward, kept(keep), memory))
    if not programs:
        least = min(c.memory for c in choices)
        raise ValueError(f"plan: expected a budget of {least:,} bytes or more, got {budget:,}")
    seconds, finite = take_turns(programs, start(), batch, key, rounds)
    if not finite:
        notes.append("the losses of the timed steps are not finite: times may mislead")
    for i in programs:
        choices[i] = dataclasses.replace(choices[i], seconds=seconds[i])
    chosen = choices[min(programs, key=seconds.__getitem__)]
    best = _keeping(objective, chosen.keep)
    return Plan(best, chosen, tuple(choices), budget, tuple(notes))


def _keeps(n: int, ledger: dict[str | int, int]) -> list[str | int]:
    """Returns the values of `keep` to try, from the bytes kept with everything, inputs, and n."""
    a = (ledger[INPUTS] - ledger[n]) / max(1, n - 1)
    r = (ledger[EVERYTHING] - ledger[INPUTS]) / n

    def bytes_of(k: int) -> float:
        return -(-n // k) * a + k * (a + r)

    least = round(math.sqrt(n * a / (a + r))) if a else 1
    between = {k for k in (2, least) if 1 < k < n and bytes_of(k) < bytes_of(1)}
    return [EVERYTHING, INPUTS, *sorted(between)]


def _inner(objective: Any) -> Any:
    return _inner(objective.objective) if isinstance(objective, Microbatch) else objective


def _stacks(model: Layer) -> list[Stack]:
    found: list[Stack] = []

    def note(layer: Layer) -> Layer:
        if isinstance(layer, Stack):
            found.append(layer)
        return layer

    map_layers(note, model)
    return found


def _keeping(objective: Any, keep: str | int) -> Any:
    """Returns the objective with this `keep` in every Stack of its model."""
    if isinstance(objective, Microbatch):
        return dataclasses.replace(objective, objective=_keeping(objective.objective, keep))

    def put(layer: Layer) -> Layer:
        return dataclasses.replace(layer, keep=keep) if isinstance(layer, Stack) else layer

    return dataclasses.replace(objective, model=map_layers(put, objective.model))


def _kept(objective: Any, params: PyTree, batch: PyTree, key: Key) -> int:
    """Returns the bytes that the model's forward keeps for its backward."""
    if isinstance(objective, Microbatch):
        batch = jax.tree.map(lambda a: a[: objective.size], batch)
        objective = objective.objective
    _, res = jax.eval_shape(objective.forward, params, batch, key)
    return nbytes(res[0])
