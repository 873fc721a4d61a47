"""What commands that check share: files of reports, and colour."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fbp.verify.registry._named import CheckError, is_said_by_fbp, one_line
from fbp.verify.report._json import content_of


def require_new(path: Path | None) -> None:
    """Raises CheckError unless a file can be written that is not there yet."""
    if path is None:
        return
    if os.path.lexists(path):
        raise CheckError(f"{path} is there already and is kept: choose another --json")
    if not path.parent.is_dir():
        raise CheckError(f"{path}: cannot be written: there is no folder {path.parent}")


def write(path: Path | None, reports: Sequence[Any]) -> None:
    """Writes reports to a new file, if there is one to be written."""
    if path is None:
        return
    content = content_of([json.loads(report.to_json()) for report in reports])
    try:
        file = open(path, "x", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise CheckError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with file:
            file.write(content)
    except OSError as error:
        path.unlink()
        raise CheckError(f"{path}: cannot be written: {error.strerror}") from None


def is_coloured() -> bool:
    """Whether standard output shows colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def asked(f: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a function of fbp: what it says of a user's mistake is a CheckError."""
    try:
        return f(*args, **options)
    except CheckError:
        raise
    except (TypeError, ValueError) as error:
        if not is_said_by_fbp(error):
            raise
        raise CheckError(str(error).splitlines()[0]) from error


def made(name: str, make: Callable[[], Any]) -> Any:
    """What a user's function makes; what it raises is a CheckError."""
    try:
        return make()
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"{name} raises {one_line(error)}") from error
