"""What a check hands back or raises."""

import re
from collections.abc import Callable
from typing import Any

from comparison._case import Case
from comparison._record import DETECTED, PASSED

# A check takes a case, its function, the arguments in float32 and the seconds it may take. It gives
# an outcome and what else there is to record, or raises.
Said = tuple[str, dict[str, Any]]
Check = Callable[[Case, Callable, tuple, float], Said]


class TooSlow(Exception):
    """The time that a check may take is over."""


def complaint(check: Callable[[], None], errors: type[Exception], about: str) -> Said:
    """Detected if the check raises `errors` with a message about a gradient."""
    try:
        check()
    except errors as error:
        if not re.search(about, str(error)):
            raise
        return DETECTED, {"message": shortened(error)}
    return PASSED, {}


def shortened(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
