"""Tokenizers: text to ids and back."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fbp._errors import InputError
from fbp.text._in_parts import PART, encode_in_parts
from fbp.text._marks import Marks, marks_of

Ids = Sequence[int] | np.ndarray


class Tokenizer(Protocol):
    """Text to ids, 0 to vocab - 1, and back."""

    @property
    def vocab(self) -> int:
        """One more than the largest id."""

    @property
    def marks(self) -> Marks:
        """The ids around a text."""

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, (T,)."""

    def decode(self, ids: Ids) -> str:
        """Returns the text of ids; bytes that are not UTF-8 become U+FFFD."""

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object from which `tokenizer_from_json` makes the tokenizer again."""


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """The bytes of UTF-8: 256 ids, which can represent any text."""

    vocab: int = dataclasses.field(default=256, init=False)
    marks = Marks()

    def encode(self, text: str) -> np.ndarray:
        # A lone surrogate, which some file names contain, cannot be encoded in UTF-8.
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)

    def decode(self, ids: Ids) -> str:
        ids = _within(self, ids)
        return ids.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bytes"}


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """The characters of a text, with one id each.

    Args:
      chars: the characters in the order of their ids; see `CharTokenizer.of`.

    Raises:
      InputError: there are no characters, or one occurs twice; in `encode`, the text has a
        character that the tokenizer does not have.
    """

    chars: str
    marks = Marks()

    def __post_init__(self) -> None:
        if not self.chars or len(set(self.chars)) != len(self.chars):
            raise InputError(f"CharTokenizer: expected different characters, got {self.chars!r}")

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The tokenizer of all characters of a text, in the order of their code points."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        # A binary search in arrays of code points; a dict would need a Python lookup per character.
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.frombuffer(self.chars.encode("utf-32-le", "surrogatepass"), np.uint32)
        order = np.argsort(known)
        place = np.searchsorted(known[order], points).clip(max=len(known) - 1)
        ids = order[place]
        wrong = known[ids] != points
        if wrong.any():
            raise InputError(
                f"CharTokenizer: expected its {self.vocab} characters, "
                f"got {chr(int(points[wrong][0]))!r}"
            )
        return ids.astype(np.int32)

    def decode(self, ids: Ids) -> str:
        return "".join(self.chars[i] for i in _within(self, ids).tolist())

    def to_json(self) -> dict[str, Any]:
        return {"kind": "chars", "chars": self.chars}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "CharTokenizer":
        return cls(saved["chars"])


class FileTokenizer:
    """A tokenizer.json, such as those of GPT-2 and Llama, read by the package `tokenizers`.

    Args:
      text: the content of the file.
      source: its name in messages.
      marks: the ids around a text; by default only those that the tokenizer puts before one.

    Raises:
      InputError: the package is not installed, or it cannot read the file.
    """

    def __init__(self, text: str, source: str = "tokenizer.json", marks: Marks | None = None):
        try:
            import tokenizers
        except ImportError:
            raise InputError(
                f"{source}: expected the package 'tokenizers' to read it, which is not installed: "
                "pip install 'fbp[text]'"
            ) from None
        try:
            self._inner = tokenizers.Tokenizer.from_str(text)
            # Some files say how a model cuts its inputs: of a text nothing may be lost.
            self._inner.no_truncation()
            self._inner.no_padding()
        except Exception as error:  # the package raises no narrower class
            raise InputError(f"{source}: expected a tokenizer: {error}") from None
        self._text = text
        # The largest id, not the number of ids: some tokenizers leave ids out.
        self.ids: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        self.vocab = max(self.ids.values(), default=-1) + 1
        self.marks = Marks(begin=self._begin()) if marks is None else marks

    def encode(self, text: str, told: Callable[[int], None] | None = None) -> np.ndarray:
        """As every tokenizer; of a long text, `told` is called with the characters done."""
        if len(text) > 2 * PART and (ids := encode_in_parts(self._inner, text, told)) is not None:
            return ids
        return np.asarray(self._inner.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Ids) -> str:
        return self._inner.decode(_within(self, ids).tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "file", "text": self._text, "marks": self.marks.to_json()}

    def _begin(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text."""
        plain, whole = (
            self._inner.encode("a", add_special_tokens=add).ids for add in (False, True)
        )
        for i in range(len(whole) - len(plain) + 1):
            if whole[i : i + len(plain)] == plain:
                return tuple(whole[:i])
        return ()


def tokenizer_of(folder: str | Path) -> FileTokenizer:
    """The tokenizer of a folder with a tokenizer.json, such as that of a pretrained model.

    Raises:
      InputError: there is no such file; the package `tokenizers` is not installed.
    """
    path = Path(folder) / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{folder}: expected a folder with tokenizer.json") from None
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    tokenizer = FileTokenizer(text, str(path))
    marks = marks_of(Path(folder), tokenizer.marks.begin, tokenizer.ids)
    return FileTokenizer(text, str(path), marks)


def tokenizer_from_json(saved: dict[str, Any]) -> Tokenizer:
    """The tokenizer for which `to_json` returned this object."""
    if saved.get("kind") == "bytes":
        return ByteTokenizer()
    if saved.get("kind") == "chars":
        return CharTokenizer.from_json(saved)
    if saved.get("kind") == "file":
        marks = Marks.from_json(saved["marks"]) if "marks" in saved else None
        return FileTokenizer(saved["text"], marks=marks)
    raise InputError(f"expected a tokenizer of bytes, chars or file, got {saved.get('kind')!r}")


def _within(tokenizer: Tokenizer, ids: Ids) -> np.ndarray:
    """The ids as a flat array; raises InputError if one is outside the vocabulary."""
    ids = np.asarray(ids, dtype=np.int64).ravel()
    outside = (ids < 0) | (ids >= tokenizer.vocab)
    if outside.any():
        raise InputError(f"expected ids in 0..{tokenizer.vocab - 1}, got {ids[outside][0]}")
    return ids


def text_after(tokenizer: Tokenizer, prompt: Ids, new: Ids) -> str:
    """The text of new ids after those of a prompt.

    The prompt's text is cut off that of the whole: alone, the new ids may say another text, as some
    tokenizers leave out the space that a text begins with.
    """
    said, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *new])
    same = 0
    while same < min(len(said), len(whole)) and said[same] == whole[same]:
        same += 1
    return whole[same:]
