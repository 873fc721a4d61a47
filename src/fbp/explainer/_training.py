"""What became of a run over its checkpoints, as data."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Regions:
    """The likeliest class at each place of a plane, for each checkpoint.

    Attributes:
      names: of the two inputs.
      low, high: of each input, in its own unit: what is shown.
      target, classes: the name of what is predicted, and its labels.
      grids: class numbers (checkpoints, rows from the lowest, columns).
      points, labels: examples (n, 2) in these units, and the class of each.
    """

    names: tuple[str, str]
    low: tuple[float, float]
    high: tuple[float, float]
    target: str
    classes: tuple[str, ...]
    grids: np.ndarray
    points: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curve:
    """The answer to each number, for each checkpoint.

    Attributes:
      names: of the input, and of what is predicted.
      x, y: the line: (n,) and (checkpoints, n).
      points: examples (n, 2).
    """

    names: tuple[str, str]
    x: np.ndarray
    y: np.ndarray
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a language model writes after a prompt, always taking the likeliest token.

    Attributes:
      prompt: what was given.
      at: numbers of checkpoints.
      texts: what came, of each of these.
    """

    prompt: str
    at: tuple[int, ...]
    texts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OverTraining:
    """What became of a run over its checkpoints.

    Attributes:
      steps: of the checkpoints.
      there: how many there are, of which these were chosen.
      logged: lines of [step, loss, held-out loss or None].
      values: the loss at each checkpoint, on one batch.
      names: of parameters, or of layers where these are many.
      gradients, changes: root mean squares (checkpoints, names) of the gradient on this batch, and
        of what the optimizer would make of it.
      answers: what the model answers at each checkpoint, where that can be shown.
      explained: the number of the checkpoint that the step of the page is of, where it is of one.
    """

    steps: tuple[int, ...]
    there: int
    logged: list[tuple[int, float, float | None]]
    values: np.ndarray
    names: tuple[str, ...]
    gradients: np.ndarray
    changes: np.ndarray
    answers: Regions | Curve | Samples | None = None
    explained: int | None = None
