"""The tasks of language models: their text, sizes and settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbp.text import ByteTokenizer, Tokenizer, read_text, stdlib_text
from fbp.text._marks import joined
from fbp.text._tokens import dtype_for
from fbp.text._windows import require_window
from fbp.train.tables._table import InputError
from fbp.train.text._pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that the user may set; None takes the preset's."""

    preset: str | None = None
    layers: int | None = None
    heads: int | None = None
    width: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected --{name} to be 1 or more, got {value}")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes and settings that go together."""

    layers: int
    width: int
    context: int
    batch: int
    steps: int
    lr: float
    heads: int | None = None


TEXT_TASKS: dict[str, dict[str, Preset]] = {
    "lstm": {
        "small": Preset(layers=1, width=256, context=64, batch=32, steps=1000, lr=4e-3),
        "tiny": Preset(layers=1, width=64, context=32, batch=16, steps=200, lr=1e-2),
        "medium": Preset(layers=2, width=512, context=128, batch=64, steps=5000, lr=2e-3),
    },
    "gpt": {
        "small": Preset(layers=4, width=128, heads=4, context=64, batch=32, steps=1000, lr=2e-3),
        "tiny": Preset(layers=2, width=64, heads=2, context=32, batch=16, steps=200, lr=4e-3),
        "medium": Preset(layers=6, width=384, heads=6, context=256, batch=64, steps=5000, lr=1e-3),
    },
}


# The rate is low, to keep what a model has learned; LoRA's factors start at an update of zero and
# take a higher one.
_TUNING = Preset(layers=0, width=0, context=128, batch=8, steps=200, lr=1e-4)
_LORA_LR = 1e-3


@dataclasses.dataclass(frozen=True)
class TextTask:
    """Tokens, with the network and the default settings to learn them.

    Attributes:
      name: of the task; runs are named after it.
      data: the name of the text.
      model_spec: the network, in JSON.
      tokenizer: of the text.
      train, val: ids (N,) to train on, and to validate on.
      bytes_per_token: UTF-8 bytes per token of the validation text.
      context: tokens per window.
      steps, batch, lr: updates, windows per update, the highest learning rate.
      chunks: how many times a run computes its metrics after the start.
      said: lines to print on decisions made about the data.
      start: the model to start from, or None for random parameters.
      lora: the rank of LoRA to tune it with; None tunes every parameter.
    """

    name: str
    data: str
    model_spec: dict[str, Any]
    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray
    bytes_per_token: float
    context: int
    steps: int
    batch: int
    lr: float
    chunks: int = 20
    said: tuple[str, ...] = ()
    start: Pretrained | None = None
    lora: int | None = None


def text_task(
    kind: str,
    data: str | Path | None = None,
    sizes: Sizes = Sizes(),
    tokenizer: Tokenizer = ByteTokenizer(),  # noqa: B008
) -> TextTask:
    """A task from a file or a folder of text, or from Python's own source code.

    Args:
      kind: "lstm" or "gpt".
      data: a text file, or a folder of them; None is 1 MiB of the standard library's source.
      sizes: of the network, where they differ from the preset.
      tokenizer: of the text; by default its tokens are bytes.

    Raises:
      InputError: the text or a size cannot be used; the message is one line.
    """
    name, *others = TEXT_TASKS[kind]
    if sizes.preset is not None and sizes.preset not in TEXT_TASKS[kind]:
        known = ", ".join([name, *others])
        raise InputError(f"expected --preset to be one of {known}, got {sizes.preset}")
    preset = TEXT_TASKS[kind][sizes.preset or name]
    if sizes.heads is not None and preset.heads is None:
        raise InputError(f"--heads is of attention: {kind} has none")
    context = sizes.context or preset.context
    spec: dict[str, Any] = {
        "kind": kind,
        "vocab": tokenizer.vocab,
        "width": sizes.width or preset.width,
        "layers": sizes.layers or preset.layers,
    }
    if preset.heads is not None:
        spec |= {"heads": sizes.heads or preset.heads, "context": context}
        if spec["width"] % spec["heads"]:
            raise InputError(
                f"expected --heads to divide --width, got {spec['heads']} of {spec['width']}"
            )

    return _task(kind, data, spec, tokenizer, context, preset)


def tuning_task(
    start: Pretrained,
    data: str | Path | None = None,
    context: int | None = None,
    lora: int | None = None,
) -> TextTask:
    """A task that fine-tunes a model on a file or a folder of text.

    Args:
      start: the model.
      data: as for `text_task`.
      context: tokens per window; by default 128, or fewer if the model reads fewer.
      lora: the rank of LoRA, or None to tune every parameter.

    Raises:
      InputError: the text or a setting cannot be used; the message is one line.
    """
    most = start.text_model.context
    if context is not None and most is not None and context > most:
        raise InputError(f"expected --context to be at most the model's {most}, got {context}")
    if lora is not None and lora < 1:
        raise InputError(f"expected --lora to be 1 or more, got {lora}")
    context = context or min(most or _TUNING.context, _TUNING.context)
    folder = str(start.folder.resolve())  # the same from wherever the run goes on
    spec = {"kind": start.kind, "vocab": start.text_model.vocab, "folder": folder}
    lr = _TUNING.lr if lora is None else _LORA_LR
    preset = dataclasses.replace(_TUNING, lr=lr)
    task = _task(start.kind, data, spec, start.tokenizer, context, preset)
    return dataclasses.replace(task, start=start, lora=lora, said=(*start.said, *task.said))


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """The ids of documents one after another, in the fewest bytes that hold the vocabulary.

    Each begins and ends as the tokenizer marks it; without marks, each is on lines of its own.
    """
    marks, dtype = tokenizer.marks, dtype_for(tokenizer.vocab)
    if marks.end is None and not marks.begin:
        texts = ["\n".join(texts)]
    return joined(map(tokenizer.encode, texts), marks, dtype)


def _task(
    kind: str,
    data: str | Path | None,
    spec: dict[str, Any],
    tokenizer: Tokenizer,
    context: int,
    preset: Preset,
) -> TextTask:
    corpus = stdlib_text() if data is None else read_text(data)
    train, val = (tokens_of(tokenizer, texts) for texts in (corpus.train_texts, corpus.val_texts))
    require_window(train, context, f"the text to train on of {corpus.name}")
    require_window(val, context, f"the text held out of {corpus.name}")
    return TextTask(
        kind,
        corpus.name,
        spec,
        tokenizer,
        train,
        val,
        bytes_per_token=len(corpus.val.encode("utf-8", "replace")) / len(val),
        context=context,
        steps=preset.steps,
        batch=preset.batch,
        lr=preset.lr,
        said=corpus.said,
    )
