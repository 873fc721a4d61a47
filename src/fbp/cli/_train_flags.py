"""The flags of `fbp train` on what is trained, and where."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

_OF_TASK = "(default: the task's)"
_OF_PRESET = "(default: the preset's)"


@dataclasses.dataclass(frozen=True)
class Flags:
    """What is trained, and where."""

    task: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar=(
                "{digits,convnet,neuron,curve,spiral,lstm,gpt,"
                "gpt2,llama,mistral,qwen2,qwen3,MODULE:MAKE}"
            )
        ),
    ] = "digits"
    """Handwritten digits; the same with convolutions; the worked example of one neuron; a curve;
    two spirals; language models, on Python's own source code unless there is --data; pretrained
    ones to go on from, with --weights; and a function of your own, pkg.module:make or file.py:make,
    that returns a Layer, a Loss and, if it likes, batches: (x, target), or draw(start, stop)."""

    data: Annotated[
        tuple[Path, ...] | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")
    ] = None
    """Train on a table instead: .csv or .tsv with a line of names, perhaps .gz, .npz of arrays,
    .parquet or .xlsx. For language models: text in files, folders or the files of patterns in
    quotes, as .txt, .jsonl and .parquet; or a file of tokens, .npy or .bin."""
    target: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The column of the table to predict."""
    kind: Annotated[
        Literal["regression", "classification"] | None,
        tyro.conf.arg(
            metavar="{regression,classification}", help_behavior_hint="(default: inferred)"
        ),
    ] = None
    """What to do with the target."""
    inputs: Annotated[
        tuple[str, ...] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")
    ] = None
    """The columns of the table to learn from; by default all that can be used."""

    name: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the task)")
    ] = None
    """The run's folder in --runs; never one that is there already."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = None
    """How many updates."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = None
    """How many examples an update."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 0)")] = (
        None
    )
    """Of the first weights and of the order of the examples."""
    lr: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint=_OF_TASK)] = None
    """The learning rate."""
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: small)")
    ] = None
    """Of lstm, gpt and llama: tiny, small or medium, a size and settings for it."""
    layers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of lstm, gpt and llama: how many layers."""
    heads: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of gpt and llama: heads of attention."""
    width: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of lstm, gpt and llama: numbers a token is made of."""
    context: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of language models: tokens an example."""
    kv_heads: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = (
        None
    )
    """Of llama: heads of keys and values."""
    hidden: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of gpt and llama: numbers inside the feed-forward part."""
    dropout: Annotated[
        float | None, tyro.conf.arg(metavar="X", help_behavior_hint="(default: 0)")
    ] = None
    """Of gpt: the rate of dropout."""
    tokenizer: Annotated[
        str | None,
        tyro.conf.arg(metavar="{bytes,chars,bpe:N,FOLDER}", help_behavior_hint="(default: bytes)"),
    ] = None
    """Of lstm, gpt and llama: what a token is. bpe:8192 trains a tokenizer of 8,192 ids on the
    text; a folder has a tokenizer.json."""
    pack: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Of gpt, llama and their like: pack whole documents into an example, each of which is read as
    if it were alone; instead of as many tokens as fit, from anywhere."""
    weights: Annotated[
        Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required by them)")
    ] = None
    """Of gpt2, llama, mistral, qwen2 and qwen3: the folder of the model to start from."""
    lora: Annotated[
        int | None, tyro.conf.arg(metavar="RANK", help_behavior_hint="(default: every parameter)")
    ] = None
    """Of those: tune by LoRA of this rank."""
    check: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Whether to compare the hand-written gradients with jax.grad before training."""
    runs: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Where the runs' folders are."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with a run that was stopped, as runs/digits, from its newest checkpoint. All settings
    are the run's; only --steps, --eval-every, --eval-seconds, --patience, --save-every, --keep,
    --max-time and --mesh may be given anew."""
    eval_every: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = (
        None
    )
    """Steps between evaluations. The weights of the best one are kept."""
    eval_seconds: Annotated[
        float | None, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="(default: by steps)")
    ] = None
    """Seconds between evaluations, instead of steps: which are the best then goes by the clock."""
    save_every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """Time between checkpoints; 0 saves only at the end."""
    dry_run: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Take two steps to see that all of it works; nothing is kept."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A .toml file of these settings, by their names; flags go before it."""
    print_config: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the settings as such a file, and do nothing."""
    keep: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """How many of the newest checkpoints to keep."""
