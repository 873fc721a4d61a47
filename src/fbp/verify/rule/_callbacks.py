"""Support for functions that check their values at run time in callbacks that raise."""

import contextlib
import logging
import re
from collections.abc import Iterator

# JAX logs the traceback of a callback that raises here.
_LOGGER = logging.getLogger("jax._src.callback")


@contextlib.contextmanager
def quiet_callbacks() -> Iterator[None]:
    """Keeps JAX from logging exceptions of callbacks: they reach the caller anyway."""
    before, _LOGGER.disabled = _LOGGER.disabled, True
    try:
        yield
    finally:
        _LOGGER.disabled = before


def said_by_user(error: RuntimeError) -> str:
    """The message of the exception that a callback raised, taken from the error of JAX."""
    found = re.findall(r"^[\w.]+: (.+)$", str(error), flags=re.MULTILINE)
    return (found[-1] if found else str(error).strip().partition("\n")[0])[:200]
