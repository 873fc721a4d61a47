"""Taking turns: every contender a few steps a round, so that a slow moment slows all."""

import dataclasses
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.bench._contenders import Built, Contender
from fbp.bench._products import products_alone
from fbp.bench._sizes import GPTSizes

COMPARED = 10  # steps whose losses are compared
PRODUCTS = "matrix products alone"


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured of one contender.

    Attributes:
      name: the contender.
      seconds: of a step, one number a round.
      compile_seconds: see `Built`.
      arguments: bytes; see `Built`.
      temporaries: bytes; see `Built`.
      peak: the most bytes held on the device, where the framework counts them; with `--peak`, by a
        process of its own, resident where there is no GPU.
      first_losses: of the first steps; none of `PRODUCTS`.
      system: of the time that processors worked, the share in the operating system, mostly for
        memory handed out anew; None where less than a second was measured, and of `PRODUCTS`.
    """

    name: str
    seconds: tuple[float, ...]
    compile_seconds: float | None
    arguments: int | None
    temporaries: int | None
    peak: int | None
    first_losses: tuple[float, ...]
    system: float | None = None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    def ratio(self, other: "Figures") -> float:
        """How many times the time of another, the median of the rounds' ratios."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(a / b for a, b in pairs)

    def agrees(self, other: "Figures") -> float:
        """The largest relative difference of the first losses."""
        a, b = np.asarray(self.first_losses), np.asarray(other.first_losses)
        apart = float(np.max(np.abs(a - b) / np.abs(b)))
        return apart if np.isfinite(apart) else float("inf")


def measure(
    contenders: Sequence[Contender],
    sizes: GPTSizes,
    *,
    dtype: Any = jnp.float32,
    rounds: int = 7,
    chunk: int = 2,
    products: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Figures], list[str]]:
    """Builds all contenders, compares their first losses, and times them in turns.

    Args:
      contenders: who takes part.
      sizes: of the model and the batch.
      dtype: of the arithmetic; masters are float32.
      rounds: turns of each.
      chunk: steps a turn.
      products: whether the matrix products of fbp's step take a turn too, as `PRODUCTS`.
      say: is told what goes on.

    Returns:
      the figures of each, and a line for each that could not take part.
    """
    params = sizes.params()
    built: dict[str, Built] = {}
    losses, notes = {}, []
    for c in contenders:
        if importlib.util.find_spec(c.needs) is None:
            notes.append(f"skipped: {c.name}: {c.needs} is not installed")
            continue
        if c.gpu_only and (jax.default_backend() != "gpu" or dtype != jnp.bfloat16):
            notes.append(f"skipped: {c.name}: it needs a GPU, and bfloat16")
            continue
        say(f"compiling {c.name}")
        try:
            one = c.build(sizes, params, dtype, chunk)
            # The same steps for all; a scanned chunk at a time, for it is what was compiled.
            ids, labels = sizes.batches(-(-COMPARED // chunk) * chunk)
            first: list[float] = []
            for i in range(0, len(ids), chunk):
                first += [float(x) for x in one.run((ids[i : i + chunk], labels[i : i + chunk]))]
        except Exception as error:  # a peer that cannot run here must not end the run
            if c.needs == "fbp":
                raise
            notes.append(
                f"failed: {c.name}: {type(error).__name__}: {str(error).split(chr(10))[0]}"
            )
            continue
        built[c.name], losses[c.name] = one, tuple(first[:COMPARED])
    products = products and bool(built)
    if products:
        say(f"choosing {PRODUCTS}")
        alone = products_alone(sizes, dtype)
    rng = np.random.default_rng(0)
    turns = [*built, PRODUCTS] if products else list(built)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    work = {name: np.zeros(2) for name in built}  # the processors', in (user, system)
    for i in range(rounds):
        batches = sizes.batches(chunk, seed=i + 1)
        say(f"round {i + 1} of {rounds}")
        # Nobody always runs after the same other.
        for name in rng.permutation(turns):
            if name == PRODUCTS:
                seconds[name].append(alone())
                continue
            one = built[name]
            began, before = time.perf_counter(), os.times()[:2]
            one.run(batches)
            seconds[name].append((time.perf_counter() - began) / chunk)
            work[name] += np.subtract(os.times()[:2], before)
    figures = [
        Figures(
            name,
            tuple(seconds[name]),
            one.compile_seconds,
            one.arguments,
            one.temporaries,
            one.peak(),
            losses[name],
            float(work[name][1] / work[name].sum()) if work[name].sum() >= 1 else None,
        )
        for name, one in built.items()
    ]
    if products:
        figures.append(Figures(PRODUCTS, tuple(seconds[PRODUCTS]), None, None, None, None, ()))
    return figures, notes
