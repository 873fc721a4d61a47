"""Where a text begins and ends: the tokens that say so, and their places around documents."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from fbp._errors import InputError


@dataclasses.dataclass(frozen=True)
class Marks:
    """The tokens around a text.

    Attributes:
      begin: ids that stand before a text, as a tokenizer's BOS; often none.
      end: the id after a document; None if there is none.
      stops: ids that end what a model writes: `end`, and for a chat those that end a turn.
    """

    begin: tuple[int, ...] = ()
    end: int | None = None
    stops: tuple[int, ...] = ()

    def around(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a document, with those before and after it."""
        end = () if self.end is None else (self.end,)
        return np.concatenate([self.begin, ids, end]).astype(ids.dtype)

    def before(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a prompt, with those before it, unless the prompt has them itself.

        An empty prompt begins where a new document does: after the end of another.
        """
        begin = self.begin
        if not begin and not len(ids) and self.end is not None:
            begin = (self.end,)
        if begin and tuple(ids[: len(begin)]) == begin:
            return ids
        return np.concatenate([begin, ids]).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        return {"begin": list(self.begin), "end": self.end, "stops": list(self.stops)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Marks":
        return cls(tuple(saved["begin"]), saved["end"], tuple(saved["stops"]))


def marks_of(folder: Path, begin: tuple[int, ...], ids: dict[str, int]) -> Marks:
    """The marks of a pretrained model's folder.

    The tokenizer's configuration says whether a text begins with BOS, and what its EOS is;
    generation_config.json, or else config.json, which ids end what the model writes.

    Args:
      folder: with tokenizer_config.json and the others, each of which may be missing.
      begin: what the tokenizer itself puts before a text.
      ids: the id of each token.
    """
    tokenizer, generation, config = (
        _read(folder / name)
        for name in ("tokenizer_config.json", "generation_config.json", "config.json")
    )
    adds, bos = tokenizer.get("add_bos_token"), ids.get(_token(tokenizer.get("bos_token")))
    if adds is True and bos is not None:
        begin = (bos,)
    elif adds is False:
        begin = ()
    said = generation.get("eos_token_id", config.get("eos_token_id"))
    # An id that no token has, as that of another model's default, ends nothing.
    known = set(ids.values())
    stops = [i for i in (said if isinstance(said, list) else [said]) if type(i) is int]
    stops = [i for i in stops if i in known]
    end = ids.get(_token(tokenizer.get("eos_token")))
    if end is None and stops:
        end = stops[0]
    return Marks(begin, end, tuple(dict.fromkeys([*stops, *([] if end is None else [end])])))


def _token(value: Any) -> str:
    """A token's text, which is stored alone or with its properties."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}
