"""Reads text files and splits them into a training part and a held-out part."""

import dataclasses
import glob
import os
import sysconfig
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fbp._errors import InputError
from fbp.text._documents import NotUtf8, documents_in, text_of

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
    kept: dict[str, list[str]] = {}
    left = most_bytes
    for name in sorted(named, key=lambda name: (_hash(name), name)):
        try:
            text = text_of(named[name])
        except NotUtf8:
            continue
        left -= len(text.encode())
        if left < 0:
            break
        kept[name] = [text]
    if len(kept) < 2:
        raise InputError(f"{root}: expected Python's own source in {most_bytes:,} bytes, got none")
    return Corpus(
        "stdlib", *_split_by_file(kept), (f"{len(kept)} files of Python's standard library",)
    )


def read_text(data: str | Path | Sequence[str | Path]) -> Corpus:
    """The text of a file, of several, of those that a pattern names, or of all in a folder.

    Files are plain text in UTF-8, `.jsonl` or `.parquet` (see `documents_in`). Of one document the
    last tenth is held out; of one file with several, one document in ten; of several files one in
    ten, at least one. Which ones depends on a hash of the names or numbers alone. In a folder,
    hidden files and those that are not UTF-8 are left out, and counted in `said`.

    Args:
      data: a path, a pattern with `*`, `?` or `[`, or a list of these. A folder is read with its
        subfolders.

    Raises:
      InputError: there is no such file or folder, or it has no text.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    if not sources:
        raise InputError("expected files of text, got none")
    # A file that is named twice is read once.
    there: dict[str, Path] = {}
    listed, hidden = set(), 0
    for source in sources:
        found, left = _files_of(Path(source))
        there |= {os.path.abspath(file): file for file in found}
        hidden += left
        if Path(source).is_file():
            listed.add(os.path.abspath(source))
    path = Path(sources[0])
    files = _named(there, path if len(sources) == 1 and path.is_dir() else None)
    is_listed = len(sources) == 1 and path.is_file()
    read, binary = {}, []
    for name, file in sorted(files.items()):
        try:
            read[name] = documents_in(file)
        except NotUtf8:
            if os.path.abspath(file) in listed:
                raise
            binary.append(name)
    texts = {name: documents for name, documents in read.items() if documents}
    if not texts:
        got = "nothing" if is_listed else f"none among {len(files)} files"
        raise InputError(f"{path}: expected {'' if is_listed else 'files of '}text, got {got}")
    said = [] if is_listed else [f"{len(texts)} files of text"]
    if sum(map(len, texts.values())) > len(texts):
        said.append(f"{sum(map(len, texts.values())):,} documents in them")
    if binary:
        said.append(f"{len(binary)} files that are not text in UTF-8, as {binary[0]}: left out")
    if hidden:
        said.append(f"{hidden} hidden files: left out")
    name = path.stem if is_listed else path.resolve().name
    return Corpus(name, *_held_out(texts), tuple(said))


def _named(there: Mapping[str, Path], folder: Path | None) -> dict[str, Path]:
    """Files by their paths in a folder, by default the one that has them all.

    What is held out depends on these names: they are the same from every working directory.
    """
    if not there:
        return {}
    root = os.path.abspath(folder) if folder else os.path.commonpath(map(os.path.dirname, there))
    return {Path(os.path.relpath(name, root)).as_posix(): file for name, file in there.items()}


def _files_of(source: Path) -> tuple[list[Path], int]:
    """The files that a path or a pattern names, and how many hidden ones a folder has besides."""
    if source.is_dir():
        found = [path for path in source.rglob("*") if path.is_file()]
        seen = [
            path
            for path in found
            if not any(part.startswith(".") for part in path.relative_to(source).parts)
        ]
        return seen, len(found) - len(seen)
    if source.exists():
        return [source], 0
    if any(mark in str(source) for mark in "*?["):
        matched = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
        files = [path for path in matched if path.is_file()]
        if not files:
            raise InputError(f"{source}: expected a pattern that some file has, got none")
        return files, 0
    raise InputError(f"{source}: no such file or folder")


def _held_out(texts: dict[str, list[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, val) of the documents of files: by file, or of a single one by document."""
    if len(texts) == 1:
        (documents,) = texts.values()
        if len(documents) == 1:
            text = documents[0]
            cut = len(text) - len(text) // 10
            return (text[:cut],), (text[cut:],)
        texts = {f"{i:09}": [text] for i, text in enumerate(documents)}
    return _split_by_file(texts)


def _split_by_file(texts: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, val): every tenth file is held out, from the first, in the order of their hashes."""
    names = sorted(texts, key=lambda name: (_hash(name), name))
    held_out = set(names[::_EVERY])
    return (
        tuple(text for name in sorted(texts) if name not in held_out for text in texts[name]),
        tuple(text for name in sorted(texts) if name in held_out for text in texts[name]),
    )


def _join(texts: Iterable[str]) -> str:
    return "\n".join(texts)


def _hash(name: str) -> int:
    # Python's own hash of a string differs from process to process.
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))
