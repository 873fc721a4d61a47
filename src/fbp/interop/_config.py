"""Reading a model's config.json: what there is, of the type expected."""

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
    """Takes a value of a config, of one type.

        heads = expect(config, "n_head", int, at_least=1)
        inner = expect(config, "n_inner", int, default=None)

    Args:
      config: a JSON object.
      name: the value's name.
      kind: int, float, str, bool, list or dict. An integer will do for a float and is made one;
        true and false are not integers, and a float is finite.
      default: what to return where the config has no such name, or null; without it, it must have.
      at_least: the smallest number that will do.

    Raises:
      FolderError: the config has no such name, or something else there.
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
    """Takes a text of a config that is one of a few.

    Raises:
      FolderError: as `expect`; it is none of the choices.
    """
    value = expect(config, name, str, default)
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise FolderError(f"{CONFIG}: expected {name} to be one of {known}, got {shown(value)}")
    return value
