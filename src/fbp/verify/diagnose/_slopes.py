"""Derivatives of common functions, to recognise one that was used instead of another."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import special

from fbp.verify.diagnose._scene import Scene, close

Slope = Callable[[np.ndarray], Any]


def _density(x: np.ndarray) -> Any:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _tanh_gelu(x: np.ndarray) -> Any:
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    du = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return 0.5 * (1 + np.tanh(u)) + 0.5 * x * du / np.cosh(u) ** 2


def _sigmoid_gelu(x: np.ndarray) -> Any:
    s = special.expit(1.702 * x)
    return s + 1.702 * x * s * (1 - s)


def _silu(x: np.ndarray) -> Any:
    s = special.expit(x)
    return s + x * s * (1 - s)


SLOPES: dict[str, Slope] = {
    "1, that of the identity": lambda x: np.ones_like(x),
    "that of relu": lambda x: (x > 0) * 1.0,
    "that of relu with 1 at 0": lambda x: (x >= 0) * 1.0,
    "that of GELU by erf": lambda x: special.ndtr(x) + x * _density(x),
    "that of GELU by tanh": _tanh_gelu,
    "that of GELU by sigmoid(1.702 x)": _sigmoid_gelu,
    "Phi(x), the normal cdf, without x times its density": special.ndtr,
    "that of the normal cdf, its density": _density,
    "that of silu": _silu,
    "sigmoid(x)": special.expit,
    "sigmoid(x) (1 - sigmoid(x))": lambda x: special.expit(x) * special.expit(-x),
    "1 - sigmoid(x)": lambda x: special.expit(-x),
    "1 - tanh(x)^2": lambda x: 1 / np.cosh(x) ** 2,
    "1 - x^2: the input where the output belongs": lambda x: 1 - x**2,
    "1 - tanh(x)": lambda x: 1 - np.tanh(x),
    "tanh(x)": np.tanh,
    "x (1 - x): the input where the output belongs": lambda x: x * (1 - x),
    "exp(x)": np.exp,
    "exp(-x)": lambda x: np.exp(-x),
    "sin(x)": np.sin,
    "cos(x)": np.cos,
    "-sin(x)": lambda x: -np.sin(x),
    "-cos(x)": lambda x: -np.cos(x),
    "2 x": lambda x: 2 * x,
    "x": lambda x: x,
    "2 max(x, 0)": lambda x: 2 * np.maximum(x, 0),
    "max(x, 0)": lambda x: np.maximum(x, 0),
    "sign(x)": np.sign,
    "1/x": lambda x: 1 / x,
    "-1/x^2": lambda x: -1 / x**2,
    "1/x^2": lambda x: 1 / x**2,
    "1/sqrt(x)": lambda x: 1 / np.sqrt(x),
    "1/(2 sqrt(x))": lambda x: 0.5 / np.sqrt(x),
}


def gradient_of_another(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is right for another function of x."""
    dy = s.arrays.get("dy")
    if dy is None or dy.shape != s.x.shape or s.x.dtype.kind != "f":
        return
    for axis in range(s.x.ndim):
        p = np.exp(s.x - s.x.max(axis, keepdims=True))
        p = p / p.sum(axis, keepdims=True)
        known = {
            "softmax": p * (dy - (p * dy).sum(axis, keepdims=True)),
            "log_softmax": dy - p * dy.sum(axis, keepdims=True),
            "x - mean(x)": dy - dy.mean(axis, keepdims=True),
            "cumsum": np.flip(np.cumsum(np.flip(dy, axis), axis), axis),
            "a cumsum run backwards": np.cumsum(dy, axis),
        }
        for name, gradient in known.items():
            if close(s.got, gradient) and not close(s.want, gradient):
                yield "slope", f"it is the gradient of {name} along axis {axis}"
                return


def known(s: Scene) -> Iterator[tuple[str, str]]:
    """A local derivative that is that of another function."""
    if not _has_slope(s):
        return
    x, mine, _ = _local(s)
    for name, f in SLOPES.items():
        with np.errstate(all="ignore"):
            if close(mine, f(x), max(1.0, np.abs(mine).max())):
                yield "slope", f"its local derivative is {name}"
                return


def unknown(s: Scene) -> Iterator[tuple[str, str]]:
    """A local derivative that is wrong, where it is most so."""
    if not _has_slope(s):
        return
    x, mine, right = _local(s)
    worst = int(np.argmax(np.abs(mine - right)))
    yield (
        "slope",
        f"the local derivative is wrong: at {s.leaf} = {x[worst]:.4g} it is {mine[worst]:.6g}, "
        f"not {right[worst]:.6g}",
    )


def _has_slope(s: Scene) -> bool:
    return s.dy is not None and not np.iscomplexobj(s.x) and not np.iscomplexobj(s.dy)


def _local(s: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of the leaf, its local derivatives by the rule, and the right ones."""
    dy: Any = s.dy
    clear = np.abs(dy) > 1e-3 * np.abs(dy).max()
    return s.x[clear], s.got[clear] / dy[clear], s.want[clear] / dy[clear]
