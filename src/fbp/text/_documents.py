"""Reads the documents of files: plain text, JSON lines and parquet."""

import json
from pathlib import Path

from fbp._errors import InputError

FIELD = "text"


def documents_in(path: Path) -> list[str]:
    """The documents of a file that are not empty: of plain text one, its whole content.

    Of `.jsonl` each line is an object with a `text`, of `.parquet` each row; they need no other
    column.

    Raises:
      InputError: the file cannot be read, or holds something else; the message says the cure.
    """
    if path.suffix == ".parquet":
        texts = _parquet(path)
    elif path.suffix == ".jsonl":
        texts = _json_lines(path)
    else:
        texts = [text_of(path)]
    return [text for text in texts if text]


def text_of(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
      InputError: it cannot be read, or is in another encoding or no text at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if b"\0" in content:
            raise ValueError
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except ValueError:
        raise NotUtf8(f"{path}: expected text in UTF-8, got {_encoding(path, content)}") from None


class NotUtf8(InputError):
    """A file that is not text in UTF-8."""


def _encoding(path: Path, content: bytes) -> str:
    """What a file that is not UTF-8 seems to be, and how to convert it."""
    start = content[:1000]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or _half_zeros(start):
        name = "UTF-16"
    elif b"\0" in content:
        return "something else"
    else:
        name = "latin-1"
    it = "one byte a letter, perhaps latin-1" if name == "latin-1" else name
    return f"{it}: convert it by iconv -f {name} -t UTF-8 {path.name} > new.txt"


def _half_zeros(content: bytes) -> bool:
    """Whether nearly every other byte is 0, as in Latin letters of UTF-16 without a mark."""
    return len(content) > 3 and any(
        content[i::2].count(0) > 0.4 * len(content) and content[1 - i :: 2].count(0) == 0
        for i in (0, 1)
    )


def _json_lines(path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}: expected an object with a {FIELD!r}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{where}, got {line[:40]!r}") from None
        text = found.get(FIELD) if isinstance(found, dict) else None
        if not isinstance(text, str):
            got = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise InputError(f"{where} that is a text, got {str(got)[:80]}")
        texts.append(text)
    return texts


def _parquet(path: Path) -> list[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(
            f"{path}: expected the package 'pyarrow' to read it, which is not installed: "
            "pip install 'fbp[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if FIELD not in names:
            raise InputError(f"{path}: expected a column {FIELD!r}, got {', '.join(names)[:80]}")
        column = file.read([FIELD])[FIELD].to_pylist()
    except InputError:
        raise
    except Exception as error:  # the package raises several classes
        raise InputError(f"{path}: expected parquet: {str(error).splitlines()[0]}") from None
    wrong = [text for text in column if not isinstance(text, str | None)]
    if wrong:
        raise InputError(f"{path}: expected {FIELD!r} to be texts, got {type(wrong[0]).__name__}")
    return [text for text in column if text]
