"""What a folder of a model holds besides its weights, which a model takes along until it is saved.

fbp needs little of it: how to make a prompt of a chat, which tokens end a text, how long a context
may be. Who loads the folder next may need all of it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from fbp._layer import Layer
from fbp.interop._config import CONFIG, MAX_CONFIG
from fbp.interop._files import FolderError, open_file, parse_json

# Files that describe a model's text and its use: they are copied as they are.
KEPT = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
TEMPLATES = "additional_chat_templates"
MAX_FILE = 500_000_000
_ATTRIBUTE = "_origin"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The config.json of a folder, and the other files that are copied.

    Attributes:
      text: config.json as it was read.
      config: what it says.
      files: the content of the files by their path in the folder.
    """

    text: bytes
    config: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> "Origin":
        """Reads all but the weights.

        Raises:
          FolderError: there is no config.json, or a file cannot be read.
        """
        text = _content(folder / CONFIG, MAX_CONFIG)
        config = parse_json(str(folder / CONFIG), text)
        names = [name for name in KEPT if (folder / name).is_file()]
        names += [
            f"{TEMPLATES}/{path.name}" for path in sorted(folder.glob(f"{TEMPLATES}/*.jinja"))
        ]
        return cls(text, config, {name: _content(folder / name, MAX_FILE) for name in names})


def _content(path: Path, most: int) -> bytes:
    file, size = open_file(path)
    with file:
        if size > most:
            raise FolderError(f"{path}: expected at most {most:,} bytes, got {size:,}")
        try:
            return file.read(most)
        except OSError as error:
            raise FolderError(f"{path}: cannot be read: {error.strerror}") from None


def with_origin(model: Layer, origin: Origin) -> Layer:
    """The model, which now takes its origin along.

    Not a field: two models that compute the same are equal, wherever they are from. Copies of the
    model with other layers inside, as `with_lora` and `without_lora` make, take it along too.
    """
    object.__setattr__(model, _ATTRIBUTE, origin)
    return model


def origin_of(model: Layer) -> Origin | None:
    """Where a model is from; None if it was not loaded from a folder."""
    return getattr(model, _ATTRIBUTE, None)


def config_text(config: dict[str, Any]) -> bytes:
    """A config.json as transformers writes it."""
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
