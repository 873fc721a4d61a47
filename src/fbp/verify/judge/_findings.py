"""What probes bring to light."""

import dataclasses

import numpy as np

from fbp.verify.probe._probes import Probe
from fbp.verify.rule._pair import Pair


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something a probe brought to light.

    Attributes:
      verdict: what it is: "WRONG", "CONVENTION", "RANGE", "PRECISION", "STRUCTURE", ...
      leaf: which differentiable leaf, by its place among them; None for the whole rule.
      probe: where it showed.
      pair: what the runs gave there.
      says: one line.
      size: the error, in units of what was allowed.
    """

    verdict: str
    leaf: int | None
    probe: Probe
    pair: Pair
    says: str
    size: float = float("inf")


@dataclasses.dataclass
class LeafRecord:
    """What all probes together say of one leaf.

    Attributes:
      error: the largest error of the rule in float64, relative to the leaf.
      excess: the same in units of what was allowed.
      working: the largest error in the working dtype on ordinary input, in its rounding units.
      control: the same of autodiff.
      smallest: the smallest relative error of the whole leaf that would have been caught.
      seen: the largest element of the reference gradient.
      usual: the same on ordinary input.
      compared: whether any probe could be compared.
      covered: which elements any probe could be compared at.
      digits: how far the rule was let off for approximating, relatively.
      best: the reference gradient that is most sensitive to an error, and the error allowed there.
    """

    error: float = 0.0
    excess: float = 0.0
    working: float = 0.0
    control: float = 0.0
    smallest: float = float("inf")
    seen: float = 0.0
    usual: float = 0.0
    compared: bool = False
    covered: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((), bool))
    digits: float = 0.0
    best: tuple[np.ndarray, float] | None = None


class Findings:
    """Everything that probes brought to light.

    Attributes:
      found: what is not as it should be.
      notes: what a reader should know.
    """

    def __init__(self, in_float64: bool) -> None:
        self.found: list[Finding] = []
        self.notes: list[str] = []
        self._in_float64 = in_float64

    def say(
        self, verdict: str, leaf: int | None, probe: Probe, pair: Pair, says: str, size: float
    ) -> None:
        self.found.append(Finding(verdict, leaf, probe, pair, says, size))

    def in_dtype(self, verdict: str, leaf: int | None, probe: Probe, pair: Pair, says: str) -> None:
        """Says what shows in the working dtype only, unless that is not what was given."""
        if self._in_float64:
            self.note(f"{says} ({probe.name}): what was given is of float64")
        else:
            self.say(verdict, leaf, probe, pair, says, np.inf)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def has(self, verdict: str, leaf: int) -> bool:
        """Whether a leaf has this verdict from some probe."""
        return any(f.verdict == verdict and f.leaf == leaf for f in self.found)
