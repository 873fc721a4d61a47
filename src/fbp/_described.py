"""How values are named in errors and in a `repr`: short, without addresses or numbers."""

import dataclasses
import functools
import inspect
from typing import Any


def described(value: Any) -> str:
    """A value in a few words, for an error: never an address, never the numbers of an array."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if _is_array(value):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted(map(str, value)))}" if value else "{}"
    if value == () and type(value) is tuple:
        return "()"
    if type(value) in (tuple, list):
        inside = ", ".join(described(v) for v in value[:4]) + (", ..." if len(value) > 4 else "")
        return f"{type(value).__name__} ({inside})"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return f"{value!r:.60}"
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    text = repr(value)
    return text if len(text) <= 60 and " at 0x" not in text else _with_article(type(value).__name__)


def _with_article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def short_repr(value: Any) -> str:
    """A layer as it is written, without what is at its default: `Dense(n_in=3, n_out=5)`."""
    shown = []
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        held = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        same = held is default or (not _is_array(held) and bool(held == default))
        if field.repr and field.init and not same:
            shown.append(f"{field.name}={as_written(held)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def as_written(value: Any) -> str:
    """A value in a `repr`: functions and dtypes by their names, arrays by their shapes."""
    if _is_array(value):
        return described(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return str(getattr(value, "__name__", value))
    if type(value) is tuple:
        inside = ", ".join(map(as_written, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if type(value) is dict:
        return "{" + ", ".join(f"{k!r}: {as_written(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")
