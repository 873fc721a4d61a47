"""The findings of probes, and the record of each leaf."""

import dataclasses

import numpy as np

from fbp.verify.probe._probes import Probe
from fbp.verify.rule._pair import Pair


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding of a probe.

    Attributes:
      verdict: its kind: "WRONG", "CONVENTION", "RANGE", "PRECISION", "STRUCTURE", ...
      leaf: the index among the differentiable leaves; None for the whole rule.
      probe: the probe that showed it.
      pair: the results of the runs on that probe.
      says: a description in one line.
      size: the error, in units of what was allowed.
    """

    verdict: str
    leaf: int | None
    probe: Probe
    pair: Pair
    says: str
    size: float = float("inf")

    def at(self, probe: Probe, pair: Pair) -> "Finding":
        """The same at another probe."""
        return dataclasses.replace(self, probe=probe, pair=pair)


@dataclasses.dataclass
class LeafRecord:
    """The results of all probes for one leaf.

    Attributes:
      error: the largest error of the rule in float64, relative to the leaf.
      excess: that error in units of what was allowed.
      working: the largest error in the working dtype on ordinary input, in its rounding units.
      control: the same for autodiff.
      smallest: the smallest relative error of the whole leaf that would have been caught.
      seen: the largest element of the reference gradient.
      usual: the same on ordinary input.
      compared: whether any probe could be compared.
      covered: which elements any probe could be compared at.
      leeway: the largest error that only the accuracy which was declared allows.
      digits: the relative error accepted because the function or the rule approximates; else 0.
      wiggle: the largest of them that is the slope of an error of the function; else 0.
      both: where rule and autodiff both lose digits: the relative error, what it is in words, and
        the probe with its results.
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
    leeway: float = 0.0
    digits: float = 0.0
    wiggle: float = 0.0
    both: tuple[float, str, Probe, Pair] | None = None
    best: tuple[np.ndarray, float] | None = None


class Findings:
    """All findings and notes of an examination.

    Attributes:
      found: the findings.
      notes: remarks for the reader of the report.
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
        """Adds a finding in the working dtype; only a note if the arguments are float64."""
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
