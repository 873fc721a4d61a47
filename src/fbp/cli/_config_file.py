"""`--config FILE`: flags in a TOML file, under those of the command line; and `--print-config`."""

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any

from fbp._errors import InputError

CONFIG, PRINT = "config", "print_config"


def with_config(args: list[str], flags: type) -> list[str]:
    """The arguments of a command, with the flags of its `--config FILE` before its own.

    Args:
      args: what comes after the command's name.
      flags: the dataclass of the command.

    Raises:
      InputError: the file cannot be read, or holds what is no flag.
    """
    rest, path = [], None
    words = iter(args)
    for word in words:
        if word == "--config":
            path = next(words, None)
            if path is None:
                raise InputError("expected --config FILE, got no file")
        elif word.startswith("--config="):
            path = word.partition("=")[2]
        else:
            rest.append(word)
    if path is None:
        return rest
    # The task first: after a flag of several values it would be one of them.
    task = rest[:1] if rest and not rest[0].startswith("-") else []
    return [*task, *_flags_of(Path(path), flags, bool(task)), *rest[len(task) :]]


def _flags_of(path: Path, flags: type, has_task: bool) -> list[str]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected TOML: {error}") from None
    known = {f.name: f for f in dataclasses.fields(flags) if f.name not in (CONFIG, PRINT)}
    found: list[str] = []
    task: list[str] = []
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise InputError(f"{path}: {key} is no setting{hint}")
        if isinstance(value, list) and "tuple" in str(known[name].type):
            found += [f"--{name.replace('_', '-')}", *map(str, value)]
            continue
        if isinstance(value, dict | list):
            raise InputError(f"{path}: expected one value for {key}, got {value!r:.60}")
        if name == "task":
            task = [] if has_task else [str(value)]
        elif isinstance(value, bool):
            if not isinstance(known[name].default, bool):
                raise InputError(f"{path}: expected a value for {key}, got {value}")
            found.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            found += [f"--{name.replace('_', '-')}", str(value)]
    return [*task, *found]


def printed(command: Any) -> str:
    """The settings of a command as TOML; those that are left to the task are comments."""
    lines = []
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name in (CONFIG, PRINT, "resume"):
            continue
        if value is None:
            lines.append(f"# {field.name} = ")
        elif isinstance(value, bool):
            lines.append(f"{field.name} = {'true' if value else 'false'}")
        elif isinstance(value, int | float):
            lines.append(f"{field.name} = {value}")
        elif isinstance(value, tuple):
            lines.append(f"{field.name} = [{', '.join(map(_quoted, value))}]")
        else:
            lines.append(f"{field.name} = {_quoted(value)}")
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
