"""Checks that a function makes of its own values at run time, by callbacks that raise."""

import contextlib
import logging
import re
from collections.abc import Iterator

# Where jax logs the traceback of a callback that raised.
_LOGGER = logging.getLogger("jax._src.callback")


@contextlib.contextmanager
def quiet_callbacks() -> Iterator[None]:
    """Keeps jax from logging what a callback raises: whoever runs the program sees it."""
    before, _LOGGER.disabled = _LOGGER.disabled, True
    try:
        yield
    finally:
        _LOGGER.disabled = before


def said_by_user(error: RuntimeError) -> str:
    """The message of the exception inside a callback, from jax's error around it."""
    found = re.findall(r"^[\w.]+: (.+)$", str(error), flags=re.MULTILINE)
    return (found[-1] if found else str(error).strip().partition("\n")[0])[:200]
