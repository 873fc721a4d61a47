"""Reads text files and splits them into a training part and a held-out part."""

import dataclasses
import sysconfig
import zlib
from collections.abc import Iterable
from pathlib import Path

from fbp._errors import InputError

# One file in ten is held out.
_EVERY = 10
_NOT_SOURCE = {"site-packages", "test", "tests", "idle_test", "lib2to3", "idlelib", "__pycache__"}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in two parts.

    Attributes:
      name: its name in reports.
      train_texts: the documents to train on.
      val_texts: the held-out documents to validate on.
      said: lines for the user about what was read and left out.
    """

    name: str
    train_texts: tuple[str, ...]
    val_texts: tuple[str, ...]
    said: tuple[str, ...] = ()

    @property
    def train(self) -> str:
        """The text to train on, its documents on lines of their own."""
        return _join(self.train_texts)

    @property
    def val(self) -> str:
        """The held-out text."""
        return _join(self.val_texts)


def stdlib_text(most_bytes: int = 2**20) -> Corpus:
    """The source of the running Python's standard library, a text that needs no download.

    It takes whole files, without tests, in an order fixed by a hash of their names, until the next
    would exceed `most_bytes`. One file in ten, in the order of the same hash, is held out.

    Raises:
      InputError: this Python has no source files, or fewer than two fit in `most_bytes`.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [
        path for path in root.rglob("*.py") if not _NOT_SOURCE & set(path.relative_to(root).parts)
    ]
    named = {path.relative_to(root).as_posix(): path for path in paths}
    kept: dict[str, str] = {}
    left = most_bytes
    for name in sorted(named, key=lambda name: (_hash(name), name)):
        text = _text_of(named[name])
        if text is None:
            continue
        left -= len(text.encode())
        if left < 0:
            break
        kept[name] = text
    if len(kept) < 2:
        raise InputError(f"{root}: expected Python's own source in {most_bytes:,} bytes, got none")
    return Corpus(
        "stdlib", *_split_by_file(kept), (f"{len(kept)} files of Python's standard library",)
    )


def read_text(path: str | Path) -> Corpus:
    """The text of a file, or of all files in a folder and its subfolders.

    Of a file the last tenth is held out; of a folder one file in ten, at least one, in the order of
    a hash of the names. Files that are not UTF-8 are left out, and counted in `said`.

    Raises:
      InputError: there is no such file or folder, it has no text, or a folder has only one file of
        text.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        text = _text_of(path)
        if not text:
            raise InputError(f"{path}: expected text in UTF-8, got {_what(text)}")
        cut = len(text) - len(text) // 10
        return Corpus(path.stem, (text[:cut],), (text[cut:],))
    found = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
    read = {name: _text_of(p) for name, p in found.items()}
    texts = {name: text for name, text in read.items() if text}
    if not texts:
        raise InputError(f"{path}: expected files of text, got none among {len(found)} files")
    if len(texts) == 1:
        raise InputError(
            f"{path}: expected two files of text or more, one to hold out, got {next(iter(texts))}"
        )
    binary = [name for name, text in read.items() if text is None]
    said = [f"{len(texts)} files of text"]
    if binary:
        said.append(f"{len(binary)} files that are not text in UTF-8, as {binary[0]}: left out")
    return Corpus(path.resolve().name, *_split_by_file(texts), tuple(said))


def _split_by_file(texts: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, val): every tenth file is held out, from the first, in the order of their hashes."""
    names = sorted(texts, key=lambda name: (_hash(name), name))
    held_out = set(names[::_EVERY])
    return (
        tuple(texts[name] for name in sorted(texts) if name not in held_out),
        tuple(texts[name] for name in sorted(texts) if name in held_out),
    )


def _join(texts: Iterable[str]) -> str:
    return "\n".join(texts)


def _text_of(path: Path) -> str | None:
    """The text of a file; None if it is not text in UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeError:
        return None


def _what(text: str | None) -> str:
    return "something else" if text is None else "nothing"


def _hash(name: str) -> int:
    # Python's own hash of a string differs from process to process.
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))
