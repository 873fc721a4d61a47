"""Reads a model's config.json, and checks the types of its values."""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fbp.interop._files import FolderError, read_json, shown

CONFIG = "config.json"
MAX_CONFIG = 10_000_000
T = TypeVar("T")

_REQUIRED: Any = object()
_CALLED = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads config.json of a model's folder.

    Raises:
      FolderError: there is none, it is larger than 10 MB, or it is not one JSON object.
    """
    return read_json(Path(folder) / CONFIG, MAX_CONFIG)


def expect(
    config: Mapping[str, Any],
    name: str,
    kind: type[T],
    default: Any = _REQUIRED,
    at_least: float | None = None,
) -> T:
    """Returns a value of a config, which must have a given type.

        heads = expect(config, "n_head", int, at_least=1)
        inner = expect(config, "n_inner", int, default=None)

    Args:
      config: a JSON object.
      name: the value's name.
      kind: int, float, str, bool, list or dict. An integer is converted if a float is expected;
        true and false are not integers, and a float must be finite.
      default: returned if the name is missing or null; without a default, that is an error.
      at_least: the smallest number allowed.

    Raises:
      FolderError: the name is missing, or its value is not of this kind or too small.
    """
    value = config.get(name)
    if value is None and default is not _REQUIRED:
        return default
    what = _CALLED[kind]
    if name not in config:
        near = difflib.get_close_matches(name, config, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise FolderError(f"{CONFIG}: expected {name}, {what}, got none{hint}")
    if kind is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise FolderError(f"{CONFIG}: expected {name} to be {what}, got {shown(value)}")
    if at_least is not None and value < at_least:  # type: ignore[operator]
        raise FolderError(f"{CONFIG}: expected {name} to be {at_least} or more, got {shown(value)}")
    return value


def expect_choice(
    config: Mapping[str, Any], name: str, choices: Sequence[str], default: str = _REQUIRED
) -> str:
    """Returns a string of a config, which must be one of the choices.

    Raises:
      FolderError: as in `expect`, or the string is none of the choices.
    """
    value = expect(config, name, str, default)
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise FolderError(f"{CONFIG}: expected {name} to be one of {known}, got {shown(value)}")
    return value
