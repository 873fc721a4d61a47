"""What came of one check."""

from dataclasses import dataclass

DETECTED, PASSED, ERROR, SLOW = "detected", "passed", "error", "slow"
UNVERIFIABLE, OTHER = "unverifiable", "other verdict"


@dataclass(frozen=True)
class Record:
    """What one checker said of one case, once."""

    case: str
    wrong: bool
    size: str
    dtype: str
    seed: int
    checker: str
    outcome: str
    seconds: float
    verdict: str = ""
    leaf_named: bool | None = None
    term_named: bool | None = None  # among the first three explanations
    first_named: bool | None = None  # by the first of them
    message: str = ""
