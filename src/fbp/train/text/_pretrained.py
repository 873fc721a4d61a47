"""Loads language models that are already trained, from a run's folder or Hugging Face's format."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fbp import models
from fbp._layer import Layer, Params
from fbp.interop import FolderError, expect, read_config, read_tensors
from fbp.interop._model_of import left_out_dropout
from fbp.interop._stored import require_plain, stored_dtype
from fbp.layers import Positions
from fbp.ports import Tie
from fbp.text import Tokenizer, tokenizer_of
from fbp.train._run import CONFIG, MODEL, Run
from fbp.train._stored import load_text
from fbp.train.checkpoints._disk import replaced_folder
from fbp.train.tables._table import InputError
from fbp.train.text._model import TextModel

KINDS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


@dataclasses.dataclass
class Pretrained:
    """A language model to start from.

    Attributes:
      folder: where it was loaded from.
      kind: its family, such as "gpt2" or "llama".
      text_model: the model.
      params: its parameters, in float32; None once they are taken.
      tokenizer: the tokenizer in its folder.
      dtype: of the weights in its folder.
      said: lines for the user on what is not as in the folder.
    """

    folder: Path
    kind: str
    text_model: TextModel
    params: Params
    tokenizer: Tokenizer
    dtype: str = "float32"
    said: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: str | Path, kind: str | None = None) -> "Pretrained":
        """Reads config.json, the safetensors files and tokenizer.json of a folder.

        Raises:
          FolderError, InputError: the folder cannot be used; the message is one line.
        """
        folder = Path(folder)
        config = read_config(folder)
        there = config.get("model_type")
        if kind is not None and there != kind:
            raise FolderError(f"{folder}: expected a {kind}, got model_type {there!r}")
        tensors = read_tensors(folder)
        require_plain(folder, tensors)
        stored = str(stored_dtype(folder, tensors))
        wide = jnp.result_type(stored, jnp.float32)
        model, params = models.from_pretrained(folder, wide, dropout=True)
        tokenizer = tokenizer_of(folder)
        vocab = _vocab(model)
        if tokenizer.vocab > vocab:
            raise InputError(
                f"{folder}: expected a tokenizer of at most {vocab} ids, got {tokenizer.vocab}"
            )
        text_model = TextModel(model, vocab, _context(model, config))
        said = []
        if rate := left_out_dropout(config):
            said.append(
                f"{folder}: its dropout of {rate:g} within attention is left out; the rest is used"
            )
        return cls(folder, str(there), text_model, params, tokenizer, stored, tuple(said))

    def take(self) -> Params:
        """The parameters, which no longer stay in memory for this object's sake.

        Taken again, they are read from the folder again.
        """
        params, self.params = self.params, None
        return Pretrained.load(self.folder, self.kind).params if params is None else params

    def save(self, run: Run, model: Layer, params: Params) -> None:
        """Saves a model, with LoRA merged into its weights, in a subfolder of the run's folder.

        In the dtype that it had; all else in its folder is as it was.
        """
        model, params = models.without_lora(model, params)
        params = jax.tree.map(lambda a: a.astype(self.dtype), params)
        with replaced_folder(run.folder / MODEL) as folder:
            models.save_pretrained(folder, model, params)


def load_language_model(folder: str | Path) -> tuple[TextModel, Params, Tokenizer]:
    """Returns the model of a run or of a Hugging Face folder, its parameters and its tokenizer.

    Raises:
      FolderError, InputError: the folder cannot be used; the message is one line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of a run or of a model, got none")
    if (folder / MODEL / CONFIG).exists():
        Run(folder).require_whole()
        folder = folder / MODEL
    config = read_config(folder)
    if "model_type" in config:
        found = Pretrained.load(folder)
        return found.text_model, found.params, found.tokenizer
    if config.get("task") in KINDS and "tokenizer" not in config:
        raise InputError(f"{folder}: expected what was tuned in {folder / MODEL}, got none")
    return load_text(Run(folder))


def _vocab(model: Layer) -> int:
    shape = jax.eval_shape(model.init, jax.random.key(0))["embed"]["w"].shape
    return int(shape[0])


def _context(model: Layer, config: dict[str, Any]) -> int | None:
    """The most tokens a model reads: its learned positions, or what config.json says of others."""
    serial = model.layer if isinstance(model, Tie) else model
    for layer in getattr(serial, "layers", ()):
        if isinstance(layer, Positions):
            return layer.n
    return expect(config, "max_position_embeddings", int, None, at_least=1)
