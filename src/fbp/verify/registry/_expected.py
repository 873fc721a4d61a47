"""The exceptions that a project's pyproject.toml makes for some of its rules.

    [tool.fbp.expect]
    quantize = "a straight-through estimator"
    fixed_point = { reference = "pkg.references:fixed_point" }

A rule with a reason may be another derivative than its function's. One with a reference is compared
with that function's derivative.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fbp.verify.registry._named import CheckError, load_module, load_object, split_name

_WANTED = 'expected a reason or { reference = "pkg.module:name" }'


def expected(folder: Path) -> dict[str, str | Callable[..., Any]]:
    """Reads the exceptions, by the name of a rule, from the pyproject.toml nearest to a folder.

    Raises:
      CheckError: an exception is neither a reason nor a reference, or the file is no TOML.
    """
    file = next(
        filter(Path.is_file, (f / "pyproject.toml" for f in (folder, *folder.parents))), None
    )
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CheckError(f"{file}: {error}") from None
    for key in ("tool", "fbp", "expect"):
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise CheckError(f"{file}: [tool.fbp.expect]: expected a table")
    return {name: _exception(f"{file}: {name}", what) for name, what in table.items()}


def _exception(place: str, what: Any) -> str | Callable[..., Any]:
    if isinstance(what, str) and what.strip():
        return what
    if not (isinstance(what, dict) and list(what) == ["reference"]):
        raise CheckError(f"{place}: {_WANTED}, got {what!r}")
    where, name = split_name(str(what["reference"]))
    if not name:
        raise CheckError(f"{place}: {_WANTED}, got {what!r}")
    found = load_object(load_module(where), name)
    if not callable(found):
        raise CheckError(f"{place}: expected a function, got a {type(found).__name__}")
    return found
