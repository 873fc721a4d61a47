"""Programs composed at random of what real ones are made of, every rule in them right but one.

`_constants`, `_operands` and `_insides` have the rules, `_places` where they are called, `_between`
what JAX's own functions do in between.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from random_programs import _constants, _insides, _operands
from random_programs._between import BETWEEN, KINKED
from random_programs._places import (
    BATCHES,
    BRANCHES,
    FOR_REFS,
    INSIDE_OF_A_WHOLE,
    PLACES,
    SHARDS,
    TWICE,
    within,
)
from random_programs._rule import SIZE, TABLE

RULES = [*_constants.RULES, *_operands.RULES, *_insides.RULES]
WRONG = [-1.0, 0.5, 2.0, 1.01]


@dataclasses.dataclass(frozen=True)
class Program:
    """A loss of `params` and `batch`.

    Attributes:
      wrong: the name of its wrong rule; "" if all are right.
      has_kink: whether one of its rules takes a slope at a tie that autodiff does not.
      text: what it is composed of.
    """

    loss: Callable[..., Any]
    params: Any
    batch: Any
    wrong: str
    has_kink: bool
    text: str


def _place(rng: Any, places: list[Any]) -> tuple[Any, str]:
    """A place, a third of them within another."""
    outer, inner = (places[rng.integers(len(places))] for _ in range(2))
    if rng.integers(3):
        return outer, outer.__name__
    if outer in SHARDS and inner in SHARDS:
        return outer, outer.__name__
    if outer in BATCHES and inner in BRANCHES:
        outer, inner = inner, outer
    return within(outer, inner), f"{outer.__name__}({inner.__name__})"


def program(seed: int, wrong: bool = False) -> Program:
    """A program of that seed.

    A wrong rule is never where `fbp.audit` sees it only as a part of the whole. No rule is
    differentiated twice that cannot be, nor the first: JAX leaves no rule of it to audit.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4)) if rng.integers(3) else 1
    culprit = int(rng.integers(count)) if wrong else -1
    names, pieces, texts, has_kink = [], [], [], False
    for n in range(count):
        make = RULES[rng.integers(len(RULES))]
        places = PLACES
        if make in _insides.ONCE or n in (0, culprit):
            places = [p for p in places if p not in TWICE]
        if n == culprit:
            places = [p for p in places if p not in INSIDE_OF_A_WHOLE]
        if make is _insides.ref_inside:
            places = FOR_REFS
        place, text = _place(rng, places)
        name = f"{make.__name__}_{n}"
        factor = float(rng.choice(WRONG)) if n == culprit else 1.0
        names.append(name)
        has_kink |= make is _insides.kinked
        pieces.append((make(factor, name), place))
        texts.append(f"{text}: {name}" + (f" * {factor}" if n == culprit else ""))
        if not rng.integers(3):
            between = BETWEEN[rng.integers(len(BETWEEN))]
            pieces.append((None, between))
            texts.append(between.__name__)
            has_kink |= between in KINKED
    whole = jax.jit if rng.integers(2) else lambda f: f

    def loss(params: Any, batch: Any) -> Any:
        x = params["x"]
        scales = iter(params["scales"])
        for rule, place in pieces:
            if rule is None:
                x = place(x)
            else:
                x = place(functools.partial(lambda r, x: r(x, batch), rule), x) * next(scales)
        return jnp.sum(x * jnp.arange(1.0, SIZE + 1)) + 0.1 * jnp.sum(x**2)

    params = {
        "x": jnp.asarray(rng.normal(size=SIZE), jnp.float32),
        "scales": [jnp.float32(rng.uniform(0.5, 1.5)) for _ in names],
        "steps": jnp.int32(3),
        "none": None,
    }
    batch = {
        "table": jnp.asarray(TABLE, jnp.float32),
        "ids": jnp.asarray(rng.integers(SIZE, size=SIZE)),
        "start": jnp.int32(rng.integers(3)),
        "key": jax.random.key(int(rng.integers(100))),
    }
    return Program(
        whole(loss), params, batch, names[culprit] if wrong else "", has_kink, "; ".join(texts)
    )
