"""`fbp bench`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Bench:
    """Time a training step of a GPT beside jax.grad, flax, equinox and PyTorch, in one process.

    All start from the same parameters, see the same batches and update by AdamW; they take turns.
    What is not installed is skipped, and said to be. "system" is the share of the processors' work
    that the operating system does, "of rate" how near a step is to its matrix products alone.
    """

    workload: Annotated[
        Literal["gpt", "t1024", "t2048", "t4096", "vocab", "deep", "gpt2", "tiny"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[WORKLOAD]"),
    ] = "gpt"
    """gpt: 6 layers, width 256, context 512. t1024, t2048, t4096: longer. vocab: 50,257 ids. deep:
    12 layers of width 512. gpt2: GPT-2 124M. tiny: to try the command."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; parameters are float32."""
    only: Annotated[str, tyro.conf.arg(metavar="REGEX", help_behavior_hint="(default: all)")] = ""
    """Names of rows."""
    rounds: Annotated[int, tyro.conf.arg(metavar="N")] = 7
    """Turns of each."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Steps a turn; fbp and plain JAX scan them."""
    products: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Let the matrix products of fbp's step, alone, take turns too."""
    peak: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Train by each in a process of its own too, for the most memory that it holds."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write every number."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw time against memory, as .png, .svg or .pdf."""

    def run(self) -> int:
        """Measures, prints the table, and returns the exit status."""
        import re
        import signal
        import sys

        from fbp.train import InputError

        for name, least in (("rounds", 1), ("steps", 1)):
            if getattr(self, name) < least:
                raise InputError(f"expected --{name} to be {least} or more")
        for file in (self.json, self.picture):
            if file is not None and file.exists():
                raise InputError(f"expected a new file, got {file}, which exists")
        try:
            pattern = re.compile(self.only)
        except re.error as error:
            raise InputError(f"expected --only to be a regular expression: {error}") from None

        import jax
        import jax.numpy as jnp

        from fbp.bench import CONTENDERS, WORKLOADS, measure
        from fbp.bench._peak import peak_of
        from fbp.bench._report import draw, remarks, table, write_json

        chosen = [c for c in CONTENDERS if pattern.search(c.name)]
        if not chosen:
            names = ", ".join(c.name for c in CONTENDERS)
            raise InputError(f"expected --only to match one of: {names}")

        def say(line: str) -> None:
            if sys.stderr.isatty():
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            elif line:
                print(line, file=sys.stderr, flush=True)

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)

        sizes, dtype = WORKLOADS[self.workload], jnp.dtype(self.dtype)
        peaks: dict[str, int | str] = {}
        for contender in chosen if self.peak else ():  # before this process takes a GPU's memory
            say(f"the peak of {contender.name}")
            peaks[contender.name] = peak_of(contender, self.workload, self.dtype, self.steps)
        device = jax.devices()[0].device_kind
        about = {"dtype": self.dtype, "device": device, "jax": jax.__version__}

        def so_far(figures: Any, notes: list[str]) -> None:
            """Writes what there is, so that a run that is killed has not been in vain."""
            if self.json is not None:
                write_json(self.json, self.workload, figures, {**about, "notes": notes})

        figures, notes = measure(
            chosen,
            sizes,
            dtype=dtype,
            rounds=self.rounds,
            chunk=self.steps,
            products=self.products,
            say=say,
            so_far=so_far,
        )
        signal.signal(signal.SIGTERM, before)
        for i, f in enumerate(figures):
            peak = peaks.get(f.name)
            if isinstance(peak, int):
                figures[i] = dataclasses.replace(f, peak=peak)
            elif peak is not None:
                notes.append(f"no peak: {f.name}: {peak}")
        say("")
        title = f"{self.workload}, {self.dtype}, {device}, jax {jax.__version__}"
        print(f"{title}\n{sizes}")
        for line in notes:
            print(line)
        if not figures:
            return 1
        print(table(figures, sizes))
        for line in remarks(figures, sizes):
            print(line)
        so_far(figures, notes)
        if self.picture is not None:
            draw(self.picture, title, figures)
        return 130 if notes and notes[-1].startswith("stopped") else 0
