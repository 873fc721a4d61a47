"""Choosing what the backward keeps: the fastest step within a budget of bytes."""

import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp._layer import Key, Layer, PyTree
from fbp._objective import Microbatch
from fbp._text import align
from fbp._tree import nbytes
from fbp.combinators import Stack, map_layers
from fbp.combinators._stack import EVERYTHING, INPUTS
from fbp.explain._summary import size
from fbp.train._step import State, state_of, step_of


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to take a training step.

    Attributes:
      keep: of every `Stack`.
      in_backward: whether the optimizer runs inside the backward pass.
      kept: bytes of what the forward leaves for the backward, as in `fbp.summary`'s ledger.
      memory: bytes of the compiled step, what it is given and temporaries; None: it was not
        compiled, because what is known without is beyond the budget already.
      seconds: of a step; None: it was not run, because it is beyond the budget.
    """

    keep: str | int
    in_backward: bool
    kept: int
    memory: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `plan` chose, and from what; `str()` is the table to read.

    Attributes:
      objective: as given, every `Stack` of its model with the chosen `keep`.
      in_backward: for `step_of` and `steps_of`.
      chosen: one of `choices`.
      choices: all, in the order they were tried.
      budget: bytes.
      notes: what could not be tried, a line each.
    """

    objective: Any
    in_backward: bool
    chosen: Choice
    choices: tuple[Choice, ...]
    budget: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([_table(self.choices, self.budget, self.chosen), *self.notes])


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

    Candidates keep everything, the input of every k-th copy, or all inputs, each with the optimizer
    after or inside the backward pass. The ledger says what a candidate keeps before anything is
    compiled; the compiler says what those need that may fit; those that do fit take turns, and the
    fastest is chosen.

        plan = fbp.plan(objective, batch, 4 * 2**30, optimizer=optimizer)
        step = fbp.step_of(plan.objective, optimizer, in_backward=plan.in_backward)

    It compiles up to eight programs, and runs some steps of each on parameters of its own.

    Args:
      objective: `Objective`, `NextToken`, or a `Microbatch` of one.
      batch: one batch, as arrays.
      budget: bytes for parameters, optimizer state, batch and temporaries together.
      optimizer: that of the training; `optax.adamw` by default.
      key: a key, if the training draws noise.
      rounds: steps that each candidate is timed for; their median counts.

    Raises:
      ValueError: the model has no Stack; no candidate fits into the budget.
    """
    if budget <= 0:
        raise ValueError(f"plan: expected a budget of 1 byte or more, got {budget}")
    optimizer = optax.adamw(1e-3) if optimizer is None else optimizer
    n = max((stack.n for stack in _stacks(_model(objective))), default=0)
    if not n:
        raise ValueError("plan: expected a model with a Stack: without one nothing can be chosen")
    batch = jax.tree.map(jnp.asarray, batch)
    shapes = jax.eval_shape(lambda: state_of(objective.init(jax.random.key(0)), optimizer))
    given = nbytes((shapes, batch))
    choices: list[Choice] = []
    programs: dict[int, Any] = {}
    notes: list[str] = []
    for in_backward in (False, True):
        for keep in _keeps(n):
            candidate = _keeping(objective, keep)
            kept = _kept(candidate, shapes.params, batch, key)
            memory = None
            if given + kept <= budget:
                step: Any = step_of(candidate, optimizer, in_backward=in_backward)
                try:
                    program = step.lower(shapes, batch, key).compile()
                except ValueError as error:
                    if not in_backward:
                        raise
                    notes.append(f"not tried: {error}")
                    break
                found = program.memory_analysis()
                memory = found.argument_size_in_bytes + found.temp_size_in_bytes
                memory += found.output_size_in_bytes - found.alias_size_in_bytes
                if memory <= budget:
                    programs[len(choices)] = program
            choices.append(Choice(keep, in_backward, kept, memory))
    if not programs:
        least = min(c.memory or given + c.kept for c in choices)
        raise ValueError(f"plan: expected a budget of {size(least)} or more, got {size(budget)}")
    state = state_of(objective.init(jax.random.key(0)), optimizer)
    for i, seconds in _take_turns(programs, state, batch, key, rounds).items():
        choices[i] = dataclasses.replace(choices[i], seconds=seconds)
    best = min(programs, key=lambda i: choices[i].seconds or math.inf)
    chosen = choices[best]
    return Plan(
        _keeping(objective, chosen.keep),
        chosen.in_backward,
        chosen,
        tuple(choices),
        budget,
        tuple(notes),
    )


def _keeps(n: int) -> list[str | int]:
    """From the most memory to the least time: to keep a root of n of them is least in all."""
    between = {k for k in (2, round(math.sqrt(n))) if 1 < k < n}
    return [EVERYTHING, INPUTS, *sorted(between)]


def _model(objective: Any) -> Layer:
    return _model(objective.objective) if isinstance(objective, Microbatch) else objective.model


def _stacks(model: Layer) -> list[Stack]:
    found: list[Stack] = []

    def note(layer: Layer) -> Layer:
        if isinstance(layer, Stack):
            found.append(layer)
        return layer

    map_layers(note, model)
    return found


def _keeping(objective: Any, keep: str | int) -> Any:
    """The objective, every Stack of its model with this `keep`."""
    if isinstance(objective, Microbatch):
        return dataclasses.replace(objective, objective=_keeping(objective.objective, keep))

    def put(layer: Layer) -> Layer:
        return dataclasses.replace(layer, keep=keep) if isinstance(layer, Stack) else layer

    return dataclasses.replace(objective, model=map_layers(put, objective.model))


def _kept(objective: Any, params: PyTree, batch: PyTree, key: Key) -> int:
    """The bytes of what the model's forward leaves for its backward."""
    if isinstance(objective, Microbatch):
        batch = jax.tree.map(lambda a: a[: objective.size], batch)
        objective = objective.objective
    _, res = jax.eval_shape(objective.forward, params, batch, key)
    return nbytes(res[0])


def _take_turns(
    programs: dict[int, Any], state: State, batch: PyTree, key: Key, rounds: int
) -> dict[int, float]:
    """The median seconds of a step by each program."""
    rng = np.random.default_rng(0)
    seconds: dict[int, list[float]] = {i: [] for i in programs}
    for number in range(rounds + 1):
        for i in rng.permutation(list(programs)):
            began = time.perf_counter()
            state, value = programs[i](state, batch, key)
            jax.block_until_ready((state, value))
            if number:  # The first of each is to warm up.
                seconds[i].append(time.perf_counter() - began)
    return {i: statistics.median(s) for i, s in seconds.items()}


def _table(choices: tuple[Choice, ...], budget: int, chosen: Choice) -> str:
    rows = [("keep", "optimizer", "kept for backward", "together", "ms/step", "")]
    for c in choices:
        together = "" if c.memory is None else size(c.memory)
        mark = "chosen" if c is chosen else "" if c.seconds else "does not fit"
        where = "in backward" if c.in_backward else "after"
        time = f"{1e3 * c.seconds:.2f}" if c.seconds else ""
        rows.append((str(c.keep), where, size(c.kept), together, time, mark))
    return f"{align(rows)}\nbudget: {size(budget)}"
