"""Shared by the commands that check: files of reports, colour and errors."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fbp.verify.registry._named import CheckError, is_said_by_fbp, one_line
from fbp.verify.report._json import content_of


def require_new(path: Path | None) -> None:
    """Raises CheckError if the file exists already, or its folder does not."""
    if path is None:
        return
    if os.path.lexists(path):
        raise CheckError(f"{path} is there already and is kept: choose another --json")
    if not path.parent.is_dir():
        raise CheckError(f"{path}: cannot be written: there is no folder {path.parent}")


def write(path: Path | None, reports: Sequence[Any]) -> None:
    """Writes reports to a new file, unless the path is None."""
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
    """Calls a function of fbp; what it raises for a mistake of the user becomes a CheckError."""
    try:
        return f(*args, **options)
    except CheckError:
        raise
    except (TypeError, ValueError) as error:
        if not is_said_by_fbp(error):
            raise
        raise CheckError(str(error).splitlines()[0]) from error


def made(name: str, make: Callable[[], Any]) -> Any:
    """Calls a function of the user; what it raises becomes a CheckError."""
    try:
        return make()
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"{name} raises {one_line(error)}") from error
