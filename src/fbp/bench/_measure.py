"""Times contenders in turns: each takes a few steps per round, so that noise affects all alike."""

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
    """The measurements of one contender.

    Attributes:
      name: the contender.
      seconds: of a step, one number for each round.
      compile_seconds: see `Built`.
      arguments: bytes; see `Built`.
      temporaries: bytes; see `Built`.
      peak: the most bytes held on the device, if the framework counts them; with `--peak`, those of
        a separate process, which without a GPU are its resident memory.
      first_losses: of the first steps; () for `PRODUCTS`.
      system: the share of the CPU time that is spent in the operating system, mostly on allocating
        memory; None if less than a second was measured, and for `PRODUCTS`.
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
        """The median of the seconds of a step."""
        return statistics.median(self.seconds)

    def ratio(self, other: "Figures") -> float:
        """The time of a step over that of another, the median over the rounds."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(a / b for a, b in pairs)

    def agrees(self, other: "Figures") -> float:
        """The largest relative difference of the first losses from those of another."""
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
    so_far: Callable[[list[Figures], list[str]], None] = lambda figures, notes: None,
) -> tuple[list[Figures], list[str]]:
    """Builds all contenders, compares their first losses, and times them in turns.

    A KeyboardInterrupt ends it: what is returned then is of the rounds that were whole, and the
    last of the lines says so.

    Args:
      contenders: the contenders.
      sizes: of the model and the batch.
      dtype: of the arithmetic; masters are float32.
      rounds: how many turns each contender takes.
      chunk: how many steps a turn has.
      products: whether the matrix products of fbp's step take a turn too, as `PRODUCTS`.
      say: called with a line about each part of the work when it starts.
      so_far: called after each round with what is returned at the end, of the rounds until then.

    Returns:
      the figures of each contender, and a line for each that was skipped or failed.
    """
    params = sizes.params()
    built: dict[str, Built] = {}
    losses, notes = {}, []
    stopped = ""
    for c in contenders:
        if stopped:
            break
        if importlib.util.find_spec(c.needs) is None:
            notes.append(f"skipped: {c.name}: {c.needs} is not installed")
            continue
        if c.gpu_only and (jax.default_backend() != "gpu" or dtype != jnp.bfloat16):
            notes.append(f"skipped: {c.name}: it needs a GPU, and bfloat16")
            continue
        say(f"compiling {c.name}")
        try:
            one = c.build(sizes, params, dtype, chunk)
            # The same steps for all, in chunks, because a program is compiled for one chunk.
            ids, labels = sizes.batches(-(-COMPARED // chunk) * chunk)
            first: list[float] = []
            for i in range(0, len(ids), chunk):
                first += [float(x) for x in one.run((ids[i : i + chunk], labels[i : i + chunk]))]
        except KeyboardInterrupt:
            stopped = f"stopped while {c.name} was compiled"
            continue
        except Exception as error:  # a library that fails here must not end the benchmark
            if c.needs == "fbp":
                raise
            notes.append(
                f"failed: {c.name}: {type(error).__name__}: {str(error).split(chr(10))[0]}"
            )
            continue
        built[c.name], losses[c.name] = one, tuple(first[:COMPARED])
    products = products and bool(built) and not stopped
    if products:
        say(f"choosing {PRODUCTS}")
        alone = products_alone(sizes, dtype)
    rng = np.random.default_rng(0)
    turns = [*built, PRODUCTS] if products else list(built)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    work = {name: np.zeros(2) for name in built}  # CPU seconds, (user, system)

    def figures(whole: int) -> list[Figures]:
        """Of so many rounds."""
        found = [
            Figures(
                name,
                tuple(seconds[name][:whole]),
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
            times = tuple(seconds[PRODUCTS][:whole])
            found.append(Figures(PRODUCTS, times, None, None, None, None, ()))
        return found

    whole = 0
    try:
        for i in range(0 if stopped else rounds):
            batches = sizes.batches(chunk, seed=i + 1)
            say(f"round {i + 1} of {rounds}")
            # A random order, so that no contender always runs after the same one.
            for name in rng.permutation(turns):
                if name == PRODUCTS:
                    seconds[name].append(alone())
                    continue
                one = built[name]
                began, before = time.perf_counter(), os.times()[:2]
                one.run(batches)
                seconds[name].append((time.perf_counter() - began) / chunk)
                work[name] += np.subtract(os.times()[:2], before)
            whole = i + 1
            so_far(figures(whole), notes)
    except KeyboardInterrupt:
        stopped = f"stopped in round {whole + 1} of {rounds}"
    if stopped:
        notes.append(f"{stopped}: {whole} rounds are measured")
    return figures(whole) if whole else [], notes
