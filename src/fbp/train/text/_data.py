"""The tokens of a task: of texts, or of files that hold tokens."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fbp._errors import InputError
from fbp.text import FileTokenizer, Tokenizer, open_tokens, read_text, stdlib_text
from fbp.text._boundaries import ends_by_marks, joined
from fbp.text._tokens import dtype_for
from fbp.train.text._cache import kept_tokens

Source = str | Path | Sequence[str | Path]
ENDINGS = (".npy", ".bin")
# Enough of them to know how many bytes a token has.
_SAMPLE = 2**20


@dataclasses.dataclass(frozen=True)
class Beside:
    """What goes on beside the encoding of a text.

    Attributes:
      folder: of the tokens that are kept for other runs; None keeps none.
      told: called with the number of characters encoded, and that of all.
    """

    folder: Path | None = None
    told: Callable[[int, int], None] | None = None


@dataclasses.dataclass(frozen=True)
class Data:
    """Tokens to train on and to validate on.

    Attributes:
      name: of the data.
      tokenizer: of the tokens.
      train, val: ids (N,).
      bytes_per_token: UTF-8 bytes of the validation text, marks aside, per token.
      said: lines for the user.
      ends: where the documents of train, and of val, end, if they are kept apart.
    """

    name: str
    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray
    bytes_per_token: float
    said: tuple[str, ...]
    ends: tuple[np.ndarray, np.ndarray] | None = None


def read_data(
    data: Source | None,
    make: Callable[[Sequence[str] | None], Tokenizer],
    apart: bool = False,
    beside: Beside = Beside(),
) -> Data:
    """Reads data, or the standard library's source if it is None.

    Args:
      data: text, as for `read_text`; a `.npy` or `.bin` file of token ids, the latter of uint16;
        or a folder with such files named train and val. Files of tokens are mapped into memory.
      make: returns the tokenizer, from the texts to train on; from None if there are only tokens.
      apart: whether documents are kept apart: nothing but marks stands between them, and it is
        known where each ends. In files of tokens the tokenizer's marks say so.
      beside: where tokens are kept for other runs, and who hears how far the encoding is.

    Raises:
      InputError: the data cannot be used; the message is one line.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if path.suffix in ENDINGS and path.is_file():
            ids = _opened(path)
            cut = len(ids) - len(ids) // 10
            return _of_tokens(path.stem, ids[:cut], ids[cut:], make(None), path, apart)
        for ending in ENDINGS:
            parts = [path / f"{part}{ending}" for part in ("train", "val")]
            if all(part.is_file() for part in parts):
                train, val = map(_opened, parts)
                return _of_tokens(path.resolve().name, train, val, make(None), path, apart)
    elif data is not None and (ids_of := [p for p in data if Path(p).suffix in ENDINGS]):
        raise InputError(
            f"{ids_of[0]}: expected text in each of several files: tokens are one file, or a "
            "folder with two named train and val"
        )
    corpus = stdlib_text() if data is None else read_text(data)
    tokenizer = make(corpus.train_texts)
    size = sum(len(text.encode("utf-8", "replace")) for text in corpus.val_texts)
    if apart:
        train, of_train = tokens_of(tokenizer, corpus.train_texts, apart, beside.told)
        val, of_val = tokens_of(tokenizer, corpus.val_texts, apart, beside.told)
        ends = (of_train, of_val)
        return Data(corpus.name, tokenizer, train, val, size / max(1, len(val)), corpus.said, ends)
    if tokenizer.marks.end is None and not tokenizer.marks.begin:
        size += len(corpus.val_texts) - 1  # the line breaks between them
    said = list(corpus.said)
    found = []
    for texts in (corpus.train_texts, corpus.val_texts):
        encode = functools.partial(_ids_of, tokenizer, texts, beside.told)
        ids, kept = kept_tokens(beside.folder, tokenizer, texts, encode)
        if kept is not None:
            said.append(f"tokens of a former run, from {kept.with_name(kept.name[:12])}...")
        found.append(ids)
    train, val = found
    return Data(corpus.name, tokenizer, train, val, size / max(1, len(val)), tuple(said))


def tokens_of(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    apart: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of documents one after another, in the fewest bytes that hold the vocabulary, and
    where each ends.

    Each begins and ends as the tokenizer marks it; without marks, each is on lines of its own, in
    one document, unless they are kept apart. `told` is called with the number of characters
    encoded, and that of all.
    """
    marks, dtype = tokenizer.marks, dtype_for(tokenizer.vocab)
    if marks.end is None and not marks.begin and not apart:
        texts = ["\n".join(texts)]
    return joined(_encoded(tokenizer, texts, told), marks, dtype)


def _ids_of(
    tokenizer: Tokenizer, texts: Sequence[str], told: Callable[[int, int], None] | None
) -> np.ndarray:
    return tokens_of(tokenizer, texts, told=told)[0]


def _encoded(
    tokenizer: Tokenizer, texts: Sequence[str], told: Callable[[int, int], None] | None
) -> Iterator[np.ndarray]:
    whole, before = sum(map(len, texts)), 0

    def within(done: int) -> None:
        assert told is not None
        told(before + done, whole)

    for text in texts:
        if told is None or not isinstance(tokenizer, FileTokenizer):
            yield tokenizer.encode(text)
            continue
        yield tokenizer.encode(text, within)
        within(len(text))
        before += len(text)


def _opened(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return open_tokens(path)
    size = path.stat().st_size
    if not size or size % 2:
        raise InputError(f"{path}: expected ids of two bytes each (uint16), got {size:,} bytes")
    try:
        return np.memmap(path, np.dtype("<u2"), "r")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _of_tokens(
    name: str,
    train: np.ndarray,
    val: np.ndarray,
    tokenizer: Tokenizer,
    source: Path,
    apart: bool,
) -> Data:
    for ids in (train, val):
        largest = max(
            (int(ids[i : i + _SAMPLE].max()) for i in range(0, len(ids), _SAMPLE)), default=0
        )
        if largest >= tokenizer.vocab:
            raise InputError(
                f"{source}: expected ids in 0..{tokenizer.vocab - 1}, those of the tokenizer, got "
                f"{largest}: name theirs by --tokenizer FOLDER"
            )
    part = val[:_SAMPLE]
    marks = [i for i in (*tokenizer.marks.begin, tokenizer.marks.end) if i is not None]
    size = len(tokenizer.decode(part[~np.isin(part, marks)]).encode("utf-8", "replace"))
    said = (f"tokens of {source}, mapped into memory",)
    ends = None
    if apart:
        of_train, of_val = ends_by_marks((train, val), tokenizer.marks, str(source))
        ends = of_train, of_val
    return Data(name, tokenizer, train, val, size / max(1, len(part)), said, ends)
