"""The text in a file of a table, whatever its encoding, compressed or not."""

import codecs
import gzip
import zlib
from pathlib import Path

from fbp.train.tables._table import InputError

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Characters that no text has: all below the space but tab, line feed, form feed and return.
_CONTROL = bytes(set(range(32)) - {9, 10, 12, 13})


def read_text(path: Path) -> tuple[bytes, str, list[str]]:
    """Returns the bytes of a text file, the encoding to decode them by, and lines to print."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: expected a gzip file, got a damaged one: {error}") from None
    elif path.suffix.lower() == ".gz":
        raise InputError(f"{path}: expected a gzip file, got something else")
    encoding = next((name for bom, name in _BOMS.items() if content.startswith(bom)), None)
    if encoding is None and b"\0" in content[:1000]:
        encoding = _without_mark(content[:1000])
    if encoding is not None:
        return (
            _checked(path, content, encoding),
            encoding,
            ([] if encoding == "utf-8-sig" else [f"{path}: text in {encoding.upper()}"]),
        )
    if len(content.translate(None, _CONTROL)) < len(content):
        raise InputError(f"{path}: expected CSV text, got a file with bytes that no text has")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        # Every byte is a letter in Latin-1, and cp1252 is what Windows calls by that name.
        encoding = "cp1252" if _decodes(content, "cp1252") else "latin-1"
        start = max(0, error.start - 12)
        near = content[start : error.start + 8].decode(encoding).split("\n")[0 if start else -1]
        return (
            content,
            encoding,
            [
                f"{path}: not UTF-8, read as {encoding} (Latin-1), as in {near.strip()!r}: "
                "save it as UTF-8 if that is wrong"
            ],
        )
    return content, "utf-8", []


def _without_mark(start: bytes) -> str | None:
    """UTF-16 without a byte order mark: every other byte of plain letters is zero."""
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) < 0.3 * len(start) / 2 or min(even, odd) > 0:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _checked(path: Path, content: bytes, encoding: str) -> bytes:
    if not _decodes(content, encoding):
        raise InputError(f"{path}: expected text in {encoding.upper()}, got a damaged file")
    return content


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        return "\0" not in content.decode(encoding)
    except UnicodeDecodeError:
        return False
