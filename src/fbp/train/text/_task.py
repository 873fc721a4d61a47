"""The tasks of language models: their text, sizes and settings."""

import dataclasses
from typing import Any

import numpy as np

from fbp.text import Tokenizer, named_tokenizer
from fbp.text._packing import sizes_of
from fbp.text._windows import require_window
from fbp.train.tables._table import InputError
from fbp.train.text._data import Beside, Data, Source, read_data
from fbp.train.text._pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that the user may set; None takes the preset's."""

    preset: str | None = None
    layers: int | None = None
    heads: int | None = None
    width: int | None = None
    context: int | None = None
    kv_heads: int | None = None
    hidden: int | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"expected --dropout to be in [0, 1), got {self.dropout}")
        for name in ("layers", "heads", "width", "context", "kv_heads", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise InputError(f"expected --{flag} to be 1 or more, got {value}")


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
    kv_heads: int | None = None


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
    "llama": {
        "small": Preset(4, 128, context=64, batch=32, steps=1000, lr=2e-3, heads=4, kv_heads=2),
        "tiny": Preset(2, 64, context=32, batch=16, steps=200, lr=4e-3, heads=2, kv_heads=1),
        "medium": Preset(6, 384, context=256, batch=64, steps=5000, lr=1e-3, heads=6, kv_heads=2),
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
      ends: where the documents to train on, and to validate on, end, to be packed into rows; None
        for windows from anywhere.
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
    ends: tuple[np.ndarray, np.ndarray] | None = None


def text_task(
    kind: str,
    data: Source | None = None,
    sizes: Sizes = Sizes(),
    tokenizer: Tokenizer | str = "bytes",
    pack: bool = False,
    beside: Beside = Beside(),  # noqa: B008
) -> TextTask:
    """A task from text or from files of tokens, or from Python's own source code.

    Args:
      kind: "lstm", "gpt" or "llama".
      data: as for `read_data`; None is 1 MiB of the standard library's source.
      sizes: of the network, where they differ from the preset.
      tokenizer: of the text, or a name of `named_tokenizer`; by default its tokens are bytes.
      pack: whether rows are packed with whole documents, each of which is read as if it were alone.
      beside: as for `read_data`.

    Raises:
      InputError: the text or a size cannot be used; the message is one line.
    """
    if pack and kind == "lstm":
        raise InputError("--pack is of attention, which can leave a document out: lstm has none")
    name, *others = TEXT_TASKS[kind]
    if sizes.preset is not None and sizes.preset not in TEXT_TASKS[kind]:
        known = ", ".join([name, *others])
        raise InputError(f"expected --preset to be one of {known}, got {sizes.preset}")
    preset = TEXT_TASKS[kind][sizes.preset or name]
    spec = _spec(kind, preset, sizes)
    read = read_data(
        data,
        lambda texts: (
            named_tokenizer(tokenizer, texts) if isinstance(tokenizer, str) else tokenizer
        ),
        pack,
        beside,
    )
    spec = {"kind": kind, "vocab": read.tokenizer.vocab, **spec}
    return _task(kind, read, spec, sizes.context or preset.context, preset)


def _spec(kind: str, preset: Preset, sizes: Sizes) -> dict[str, Any]:
    """The sizes of a network other than its vocabulary."""
    if preset.heads is None:
        if sizes.heads is not None:
            raise InputError(f"--heads is of attention: {kind} has none")
        if sizes.hidden is not None:
            raise InputError(f"--hidden is of gpt and llama, not of {kind}")
    if sizes.kv_heads is not None and preset.kv_heads is None:
        raise InputError(f"--kv-heads is of llama, not of {kind}")
    if sizes.dropout is not None and kind != "gpt":
        raise InputError(f"--dropout is of gpt, not of {kind}")
    spec: dict[str, Any] = {
        "width": sizes.width or preset.width,
        "layers": sizes.layers or preset.layers,
    }
    if preset.heads is None:
        return spec
    heads, width = sizes.heads or preset.heads, spec["width"]
    spec |= {"heads": heads, "context": sizes.context or preset.context}
    if width % heads:
        raise InputError(f"expected --heads to divide --width, got {heads} of {width}")
    if sizes.dropout:
        spec["dropout"] = sizes.dropout
    if sizes.hidden is not None:
        spec["hidden"] = sizes.hidden
    if preset.kv_heads is not None:
        groups = sizes.kv_heads or (preset.kv_heads if heads % preset.kv_heads == 0 else 1)
        if heads % groups:
            raise InputError(f"expected --kv-heads to divide --heads, got {groups} of {heads}")
        if width // heads % 2:
            raise InputError(
                f"expected --width to be an even multiple of --heads, got {width} and {heads}"
            )
        spec["kv_heads"] = groups
        # Three matrices of 8/3 of the width have as many numbers as two of four times.
        spec.setdefault("hidden", 8 * max(1, round(width / 3)))
    return spec


def tuning_task(
    start: Pretrained,
    data: Source | None = None,
    context: int | None = None,
    lora: int | None = None,
    pack: bool = False,
    beside: Beside = Beside(),  # noqa: B008
) -> TextTask:
    """A task that fine-tunes a model on a file or a folder of text.

    Args:
      start: the model.
      data: as for `text_task`.
      context: tokens per window; by default 128, or fewer if the model reads fewer.
      lora: the rank of LoRA, or None to tune every parameter.
      pack: as for `text_task`.
      beside: as for `read_data`.

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
    read = read_data(data, lambda _: start.tokenizer, pack, beside)
    task = _task(start.kind, read, spec, context, preset)
    return dataclasses.replace(task, start=start, lora=lora, said=(*start.said, *task.said))


def _task(kind: str, data: Data, spec: dict[str, Any], context: int, preset: Preset) -> TextTask:
    for i, (tokens, part) in enumerate(((data.train, "to train on"), (data.val, "held out"))):
        what = f"the text {part} of {data.name}"
        if data.ends is None:
            require_window(tokens, context, what)
        else:
            sizes_of(tokens, data.ends[i], what)
    return TextTask(
        kind,
        data.name,
        spec,
        data.tokenizer,
        data.train,
        data.val,
        bytes_per_token=data.bytes_per_token,
        context=context,
        steps=preset.steps,
        batch=preset.batch,
        lr=preset.lr,
        said=data.said,
        ends=data.ends,
    )
