"""Loads the module, the file or the object that a user names on a command line."""

import difflib
import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

_PYTHON = os.path.dirname(os.__file__)


class CheckError(ValueError):
    """The named object cannot be checked; the message is one line for the user."""


def split_name(text: str) -> tuple[str, str]:
    """Splits "pkg.module:name" or "file.py:name" in two; the second is "" if it is missing."""
    where, colon, name = text.rpartition(":")
    return (text, "") if not colon or text.endswith(".py") else (where, name)


def load_module(where: str) -> ModuleType:
    """Imports "pkg.module", which may be in the current folder, or "folder/file.py".

    Raises:
      CheckError: there is no such module or file, or importing it raises.
    """
    root, name, path = Path.cwd(), where, None
    if where.endswith(".py") or os.sep in where:
        path = Path(where).resolve()
        if not path.is_file():
            raise CheckError(f"{where}: there is no such file")
        root = path.parent
        while (root / "__init__.py").exists():
            root = root.parent
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise CheckError(f"there is no module {error.name}") from None
        raise CheckError(f"{where} cannot be imported: {error}") from error
    except SyntaxError as error:
        raise CheckError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise CheckError(f"{where} cannot be imported: {one_line(error)}") from error
    if path is not None and Path(module.__file__ or "").resolve() != path:
        raise CheckError(f"{where}: expected another name: there is another module {name!r}")
    return module


def load_object(module: ModuleType, name: str) -> Any:
    """The attribute of a module with this name, which may have dots.

    Raises:
      CheckError: there is no such attribute.
    """
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            near = difflib.get_close_matches(part, [n for n in dir(value) if n[:1] != "_"], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CheckError(f"{module.__name__} has no {name}{hint}") from None
    return value


def one_line(error: BaseException) -> str:
    """An exception in one line, with the file and line that raised it."""
    said = " ".join(str(error).split())[:300]
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    # Not frames of Python, of installed packages or of this file.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and "site-packages" not in frame.filename
        and not frame.filename.startswith(("<", _PYTHON))
    ]
    if not frames:
        return text
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def is_said_by_fbp(error: BaseException) -> bool:
    """Whether fbp itself raised an exception, so that its message is meant for the user."""
    last = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        last = frame
    return last is not None and str(last.f_globals.get("__name__")).startswith("fbp.")
