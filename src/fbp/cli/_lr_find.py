"""`fbp lr-find`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fbp.cli._train import Train

_OF_TASK = "(default: the task's)"


@dataclasses.dataclass(frozen=True)
class LrFind:
    """Find a learning rate: a short training whose rate grows until the loss does, and its picture.

    The tasks and the flags are those of `fbp train`; nothing of the training is kept.
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "digits"
    """As for fbp train: digits, gpt, mine.py:make, ..."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A table, or a file or a folder of text."""
    target: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The column of the table to predict."""
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: small)")
    ] = None
    """Of lstm and gpt."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Of gpt2 and llama: the folder of the model to start from."""
    lora: Annotated[int | None, tyro.conf.arg(metavar="RANK", help_behavior_hint="")] = None
    """Of gpt2 and llama: tune by LoRA of this rank."""
    pack: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Of gpt, llama and their like: pack whole documents into an example."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = None
    """How many examples an update."""
    optimizer: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=_OF_TASK)] = (
        None
    )
    """By its name in optax."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the first weights and of the order of the examples."""
    low: Annotated[float, tyro.conf.arg(metavar="X")] = 1e-6
    """The first rate."""
    high: Annotated[float, tyro.conf.arg(metavar="X")] = 1.0
    """The last one, if the loss does not grow before."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 200
    """How many updates."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("lr.png")
    """The .png or .svg file to write; never one that is there already."""

    def run(self) -> int:
        """Prints a rate, and writes a picture."""
        from fbp._picture import require_new_picture
        from fbp.cli._console import Console
        from fbp.train._find_rate import draw_rates, find_rate

        require_new_picture(self.out)
        train = Train(
            task=self.task,
            data=None if self.data is None else (self.data,),
            target=self.target,
            preset=self.preset,
            weights=self.weights,
            lora=self.lora,
            pack=self.pack,
        )
        found = find_rate(
            train.made_task(),
            batch=self.batch,
            seed=self.seed,
            optimizer=self.optimizer,
            low=self.low,
            high=self.high,
            steps=self.steps,
        )
        draw_rates(found).save(self.out)
        Console().say(
            f"--lr {found.suggested:.2g}, a tenth of where the loss is lowest; in {self.out}"
        )
        return 0
