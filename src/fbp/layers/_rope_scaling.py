"""Rotary frequencies for contexts longer than those that a model was first trained on.

Each is a value that `Rope` calls with its frequencies f_i = base^(-2 i / K), i = 0..K/2-1, and with
T, the length of the sequence; it returns the frequencies to use. `magnitude` is a factor of the
rotated queries and keys.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np


class Scaling(Protocol):
    """Changes the frequencies of a `Rope`."""

    @property
    def magnitude(self) -> float:
        """The factor of rotated queries and keys."""

    def __call__(self, frequencies: np.ndarray, length: int = 0) -> np.ndarray:
        """Returns the frequencies for a sequence of this length."""


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Lower frequencies for contexts longer than those trained on, as in Llama 3.1.

    A frequency f has the wavelength 2 pi / f. With C the original context, wavelengths shorter than
    C / high keep their frequency, and those longer than C / low have it divided by `factor`. In
    between, f becomes the weighted mean ((1 - s) / factor + s) f with
    s = (C / wavelength - low) / (high - low).

    Raises:
      ValueError: factor or low is not above 0; high is not above low.

    Source: Grattafiori et al., "The Llama 3 Herd of Models", 2024, and the model's published code.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    context: int = 8192
    magnitude = 1.0

    def __post_init__(self) -> None:
        if not (self.factor > 0 and self.high > self.low > 0):
            raise ValueError(
                f"Llama3Scaling: expected a factor above 0 and high above low above 0, got "
                f"factor={self.factor}, low={self.low}, high={self.high}"
            )

    def __call__(self, frequencies: np.ndarray, length: int = 0) -> np.ndarray:
        turns = self.context * frequencies / (2 * math.pi)
        s = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return frequencies * ((1 - s) / self.factor + s)


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All frequencies divided by `factor`, as if positions were that much closer: f / factor.

    Raises:
      ValueError: factor is not above 0.

    Source: Chen et al., "Extending Context Window of Large Language Models via Positional
    Interpolation", arXiv:2306.15595, 2023.
    """

    factor: float
    magnitude = 1.0

    def __post_init__(self) -> None:
        _require_above("LinearScaling", "factor", self.factor)

    def __call__(self, frequencies: np.ndarray, length: int = 0) -> np.ndarray:
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """A larger base for sequences longer than the context C; shorter ones stay as they are.

        r   = factor T / C - (factor - 1)      1 at T = C
        f_i = f_i r^(-i / (n - 1))             n frequencies: the base times r^(K / (K - 2))

    The highest frequency stays, and the lowest is divided by r.

    Raises:
      ValueError: factor is below 1, or context below 1.

    Source: "NTK-aware scaled RoPE", 2023, in Peng et al., arXiv:2309.00071, section 3.3.
    """

    factor: float
    context: int
    magnitude = 1.0

    def __post_init__(self) -> None:
        # A factor below 1 could make r negative.
        if not (self.factor >= 1 and self.context >= 1):
            raise ValueError(
                f"DynamicScaling: expected a factor and a context of 1 or more, got "
                f"factor={self.factor}, context={self.context}"
            )

    def __call__(self, frequencies: np.ndarray, length: int = 0) -> np.ndarray:
        n, length = len(frequencies), max(length, self.context)
        ratio = self.factor * length / self.context - (self.factor - 1)
        return frequencies * ratio ** (-np.arange(n) / max(n - 1, 1))


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN: high frequencies stay, low ones are divided by `factor`, with a ramp in between.

    With C the original context, frequency f_i makes C f_i / (2 pi) turns. It stays where that is
    more than `fast`, is divided by `factor` where it is less than `slow`, and in between is the
    mean of both, weighted linearly in i.

    Args:
      factor: of the context's length.
      context: C.
      fast, slow: turns where the ramp starts and ends.
      magnitude: a factor of queries and keys; in the paper 0.1 log(factor) + 1.
      whole: whether the ends of the ramp are rounded outwards to whole i.

    Raises:
      ValueError: a number is not above 0.

    Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models",
    arXiv:2309.00071, 2023.
    """

    factor: float
    context: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float = 1.0
    whole: bool = True

    def __post_init__(self) -> None:
        for name in ("factor", "context", "fast", "slow", "magnitude"):
            _require_above("YarnScaling", name, getattr(self, name))

    def __call__(self, frequencies: np.ndarray, length: int = 0) -> np.ndarray:
        n = len(frequencies)
        first, last = self._place(frequencies, self.fast), self._place(frequencies, self.slow)
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * n - 1)
        if first == last:
            last += 0.001
        low = np.clip((np.arange(n) - first) / (last - first), 0, 1)
        return frequencies * (low / self.factor + (1 - low))

    def _place(self, frequencies: np.ndarray, turns: float) -> float:
        """The i, not rounded, of the frequency that makes this many turns in the context."""
        if len(frequencies) < 2:
            return 0.0
        step = math.log(frequencies[0] / frequencies[1])
        return math.log(self.context / (2 * math.pi * turns)) / step if step else 0.0


@dataclasses.dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE: each frequency divided by a factor of its own, f_i / short_i or f_i / long_i.

    Args:
      short: a factor for each frequency, for sequences of at most `context`.
      long: those for longer sequences.
      context: the original context.
      magnitude: of queries and keys.

    Raises:
      ValueError: a factor or the magnitude is not above 0; or, when it is called, their number is
        not that of the frequencies.

    Source: Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens",
    arXiv:2402.13753, 2024.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    context: int
    magnitude: float = 1.0

    def __post_init__(self) -> None:
        for factor in (*self.short, *self.long, self.context):
            _require_above("LongRopeScaling", "every factor", factor)
        _require_above("LongRopeScaling", "magnitude", self.magnitude)

    def __call__(self, frequencies: np.ndarray, length: int = 0) -> np.ndarray:
        factors = self.long if length > self.context else self.short
        if len(factors) != len(frequencies):
            raise ValueError(
                f"LongRopeScaling: expected {len(frequencies)} factors, one for each frequency, "
                f"got {len(factors)}"
            )
        return frequencies / np.asarray(factors)


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor of queries and keys: 0.1 scale log(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1


def _require_above(name: str, what: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: expected {what} above 0, got {value}")
