"""Linear models, found in closed form or step by step: where a network on a table begins."""

from collections.abc import Iterator

import numpy as np

from fbp.train.tables._folds import Arrays

# Weights of the penalty, from strong to weak: each fit goes on from the one before.
PENALTIES = tuple(float(p) for p in np.logspace(1, -4, 11))
STEPS, TOLERANCE = 200, 1e-6
# More rows do not make a start better.
MOST_ROWS = 20_000


def best_line(train: Arrays, left: Arrays, classes: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Fits a linear model for each member, with the penalty that is best on rows not fitted.

    Args:
      train: x (rows, members, inputs), and target with the same first axes.
      left: the same of the rows that each member leaves out.
      classes: how many, for labels; 0 for numbers.

    Returns:
      w (members, inputs, outputs), b (members, outputs) and the penalty.
    """
    members = range(train[0].shape[1])
    fits = [list(_path(train[0][:MOST_ROWS, i], train[1][:MOST_ROWS, i], classes)) for i in members]
    losses = np.zeros(len(PENALTIES))
    for i, fit in enumerate(fits):
        for j, (w, b, alone) in enumerate(fit):
            losses[j] += _surprise(w, b, left[0][:, i], left[1][:, i]) if classes else alone
    j = int(np.argmin(losses))
    w, b, _ = zip(*(fit[j] for fit in fits), strict=True)
    return np.stack(w), np.stack(b), PENALTIES[j]


def _path(
    x: np.ndarray, target: np.ndarray, classes: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """The linear model of each penalty: it minimizes mean loss + penalty / 2 |w|^2.

    And, for numbers, the mean squared error of each row by the model of all others, which has a
    closed form: the error divided by 1 - leverage. It is less a matter of luck than the error of
    rows left out together.

    A step solves with a bound on the curvature instead of the curvature itself, X^T X / n for half
    the squared error and half of that for the cross-entropy, so that one small matrix serves all
    steps and all classes, with Nesterov's momentum. (Böhning, "Multinomial logistic regression
    algorithm", 1992.)
    """
    x = x.astype(np.float64)
    n, inputs = x.shape
    mean = x.mean(0)
    x = x - mean
    w, b = np.zeros((inputs, max(1, classes))), np.zeros(max(1, classes))
    values, vectors = np.linalg.eigh(x.T @ x / n)
    values = np.maximum(values, 0)
    bound = 0.5 if classes else 1.0
    for penalty in PENALTIES:
        inverse = (vectors / (bound * values + penalty)) @ vectors.T
        ahead_w, ahead_b, momentum = w, b, 1.0
        for _ in range(STEPS if classes else 1):
            dz = _slope(x @ ahead_w + ahead_b, target, classes) / n
            step = inverse @ (x.T @ dz + penalty * ahead_w)
            next_w, next_b = ahead_w - step, ahead_b - dz.sum(0) / bound
            next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            share = (momentum - 1) / next_momentum
            ahead_w, ahead_b = next_w + share * (next_w - w), next_b + share * (next_b - b)
            moved = np.abs(next_w - w).max(initial=0)
            w, b, momentum = next_w, next_b, next_momentum
            if moved <= TOLERANCE * (1 + np.abs(w).max(initial=0)):
                break
        leverage = 1 / n + ((x @ inverse) * x).sum(1, keepdims=True) / n
        alone = 0.0 if classes else (_slope(x @ w + b, target, 0) / (1 - leverage)) ** 2
        yield w, b - mean @ w, float(np.mean(alone))


def _slope(z: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """The gradient of the sum of the losses with respect to the outputs z."""
    if not classes:
        return z - target.reshape(-1, 1)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), target] -= 1
    return p


def _surprise(w: np.ndarray, b: np.ndarray, x: np.ndarray, target: np.ndarray) -> float:
    """The mean cross-entropy."""
    z = x.astype(np.float64) @ w + b
    z = z - z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), target]).mean())
