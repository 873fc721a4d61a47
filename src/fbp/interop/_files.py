"""Opens and parses files that are not trusted."""

import collections
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO


class FolderError(ValueError):
    """A folder of weights cannot be read or written; the message is one line for the user."""


def open_file(path: Path) -> tuple[BinaryIO, int]:
    """Returns an open file and its size in bytes. Links are followed: caches of weights use them.

    Raises:
      FolderError: there is no such file, it is not a regular file, or it may not be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise FolderError(f"{path}: expected a file, got none") from None
    except OSError as error:
        raise FolderError(f"{path}: cannot be read: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FolderError(f"{path}: expected a plain file, got something else")
    return open(descriptor, "rb"), status.st_size


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
      FolderError: it cannot be read, is larger than max_bytes, or holds something else.
    """
    file, size = open_file(path)
    with file:
        if size > max_bytes:
            raise FolderError(f"{path}: expected at most {max_bytes:,} bytes, got {size:,}")
        try:
            text = file.read(max_bytes)
        except OSError as error:
            raise FolderError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_json(str(path), text)


def parse_json(source: str, text: bytes) -> dict[str, Any]:
    """Parses a JSON object in which no name may occur twice, as that would be ambiguous."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            times = collections.Counter(name for name, _ in pairs)
            twice = next(name for name in times if times[name] > 1)
            raise FolderError(f"{source}: expected every name once, got {shown(twice)} twice")
        return found

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except FolderError:
        raise
    except UnicodeDecodeError:
        raise FolderError(f"{source}: expected JSON, got bytes that are not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg} at character {error.pos}"
        raise FolderError(f"{source}: expected JSON, got something else: {where}") from None
    except RecursionError:
        raise FolderError(f"{source}: expected JSON, got too many brackets in brackets") from None
    except ValueError:  # an integer of thousands of digits
        raise FolderError(f"{source}: expected JSON, got a number that is too long") from None
    if not isinstance(value, dict):
        raise FolderError(f"{source}: expected a JSON object, got {type(value).__name__}")
    return value


def shown(value: Any) -> str:
    """The repr of a value from a file, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
