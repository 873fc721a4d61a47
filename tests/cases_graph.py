"""Rows of the table of cases: graphs, and layers on parts of trees."""

from collections.abc import Callable

import numpy as np
from _case import Case

import fbp
from fbp._layer import PyTree


def _tree(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], PyTree]:
    return lambda rng: {name: rng.normal(size=shape) for name, shape in shapes.items()}


def _with_ids(*shape: int) -> Callable[[np.random.Generator], PyTree]:
    """Floats beside integers, which pass through."""
    return lambda rng: {
        "h": rng.normal(size=shape),
        "ids": rng.integers(5, size=shape[:-1], dtype=np.int32),
    }


def _graph() -> fbp.Graph:
    """Fan-out, fan-in, a skip, a value that is read three times, cheap values in between."""
    return fbp.Graph(
        inputs=("image", "time"),
        embed=(fbp.Dense(2, 5), "time"),
        down=(fbp.Dense(3, 5), "image"),
        act=(fbp.Tanh(), "down"),
        joined=(fbp.Concat(), ("act", "embed", "down")),
        up=(fbp.Dense(15, 5), "joined"),
        skip=(fbp.Pick("a"), {"a": "up", "b": "down"}),
        output={"y": "skip", "z": "down"},
    )


def _shared() -> fbp.Graph:
    """Two towers with the same params, and one of them once more on its own output."""
    return fbp.Graph(
        inputs=("a", "b"),
        tower=(fbp.Serial(fbp.Dense(3, 3), fbp.Tanh()), "a"),
        other=("tower", "b"),
        again=("tower", "other"),
        output=("tower", "again"),
    )


def make_cases() -> list[Case]:
    dense, tanh = fbp.Dense(3, 5), fbp.Tanh()
    serial = fbp.Graph("x", a=(dense, "x"), b=(tanh, "a"), c=(fbp.Dense(5, 2), "b"), output="c")
    noisy = fbp.Graph(
        "x",
        a=(fbp.Dropout(0.5), "x"),
        b=(fbp.Dense(3, 3), "a"),
        c=(fbp.Dropout(0.3), "b"),
        d=(fbp.Each(fbp.Dropout(0.5), tanh), ("c", "a")),
        y=(fbp.Concat(), "d"),
        output="y",
    )
    cheap = fbp.Graph("x", a=(tanh, "x"), b=(fbp.Sigmoid(), "a"), output=("a", "b"))
    block = fbp.Graph(
        "x",
        f=(fbp.Dense(3, 3), "x"),
        joined=(fbp.Concat(), {"a": "f", "b": "x"}),
        y=(fbp.Dense(6, 3), "joined"),
        output="y",
    )
    conv = fbp.On("h", fbp.Dense(3, 3))
    return [
        Case("graph", _graph(), _tree(image=(7, 3), time=(7, 2))),
        Case("graph/no_batch", _graph(), _tree(image=(3,), time=(2,)), batch=0),
        Case("graph/two_batch_axes", _graph(), _tree(image=(2, 5, 3), time=(2, 5, 2)), batch=2),
        Case("graph/tuple", _shared(), lambda rng: (rng.normal(size=(7, 3)),) * 2),
        Case("graph/shared", _shared(), _tree(a=(3, 3), b=(3, 3))),
        Case("graph/serial", serial, (7, 3)),
        Case("graph/one", fbp.Graph("x", y=(fbp.Dense(1, 1), "x"), output="y"), (1, 1)),
        Case("graph/cheap", cheap, (7, 3)),
        Case(
            "graph/recomputed",
            fbp.Serial(fbp.Dense(3, 5), cheap, fbp.Concat(), fbp.Dense(10, 3)),
            (7, 3),
        ),
        Case("graph/noise", noisy, (7, 3), noisy=True),
        Case("graph/in_stack", fbp.Stack(fbp.Residual(block), 2), (7, 3), widens=True),
        Case(
            "graph/of_stack",
            fbp.Graph("x", a=(fbp.Stack(fbp.Dense(3, 3), 2), "x"), b=(tanh, "a"), output="b"),
            (7, 3),
            widens=True,
        ),
        Case("graph/input_is_output", fbp.Graph("x", a=(tanh, "x"), output=("a", "x")), (7, 3)),
        Case(
            "graph/unread_input",
            fbp.Graph(("h", "ids"), a=(fbp.Dense(3, 3), "h"), output="a"),
            _with_ids(7, 3),
            notes="the integers of an input that nothing reads have no gradient",
        ),
        Case("each", fbp.Each(dense, tanh), lambda rng: (rng.normal(size=(7, 3)),) * 2),
        Case("each/named", fbp.Each(b=dense, a=fbp.Tanh()), _tree(a=(7, 2), b=(7, 3))),
        Case("each/integers", fbp.Each(h=tanh, ids=fbp.Embedding(5, 3)), _with_ids(7, 3)),
        Case(
            "each/recomputed",
            fbp.Serial(fbp.Parallel(dense, dense), fbp.Each(tanh, fbp.Sigmoid()), fbp.Concat()),
            (7, 3),
        ),
        Case("on", fbp.On("a", dense), _tree(a=(7, 3), b=(7, 2))),
        Case("on/tuple", fbp.On(1, tanh), lambda rng: (rng.normal(size=(3, 3)),) * 2),
        Case("on/integers", fbp.Serial(conv, fbp.On("h", tanh), conv), _with_ids(7, 3)),
        Case(
            "residual/integers",
            fbp.Serial(fbp.Residual(conv), fbp.Residual(conv), fbp.Pick("h")),
            _with_ids(7, 3),
            widens=True,
        ),
        Case("sum/integers", fbp.Sum(conv, fbp.On("h", fbp.Dense(3, 3))), _with_ids(7, 3)),
        Case("pick", fbp.Pick("b"), _tree(a=(7, 3), b=(7, 2))),
        Case("pick/integers", fbp.Pick("h"), _with_ids(7, 3)),
        Case("pick/last", fbp.Pick(-1), lambda rng: (rng.normal(size=(3,)),) * 2, batch=0),
        Case("add", fbp.Add(), lambda rng: tuple(rng.normal(size=(3, 7, 5)))),
        Case("add/named", fbp.Add(), _tree(a=(7, 3), b=(7, 3))),
        Case("add/one", fbp.Add(), lambda rng: (rng.normal(size=(1, 1)),)),
        Case("add/no_batch", fbp.Add(), lambda rng: tuple(rng.normal(size=(2, 5))), batch=0),
        Case(
            "add/recomputed",
            fbp.Serial(fbp.Parallel(dense, dense), fbp.Add(), fbp.Tanh(), fbp.Dense(5, 2)),
            (7, 3),
        ),
        Case("concat", fbp.Concat(), _tree(a=(7, 3), b=(7, 2), c=(7, 1))),
        Case("concat/one", fbp.Concat(), _tree(a=(1, 1)), batch=1),
        Case("concat/second_last", fbp.Concat(-2), _tree(a=(7, 3, 2), b=(7, 1, 2))),
        Case("concat/none_wide", fbp.Concat(), _tree(a=(7, 0), b=(7, 2))),
        Case("repeat", fbp.Repeat(fbp.Serial(fbp.Dense(3, 3), tanh), 3), (7, 3), widens=True),
        Case("repeat/one", fbp.Repeat(fbp.Dense(1, 1), 1), (1, 1), widens=True),
        Case("repeat/none", fbp.Repeat(fbp.Dense(3, 3), 0), (7, 3), widens=True),
        Case(
            "repeat/noise",
            fbp.Repeat(fbp.Serial(fbp.Dropout(0.5), fbp.Dense(3, 3)), 3),
            (7, 3),
            noisy=True,
            widens=True,
        ),
        Case("repeat/in_stack", fbp.Stack(fbp.Repeat(fbp.Dense(3, 3), 2), 2), (5, 3), widens=True),
    ]


CORE = {"graph", "graph/shared", "graph/noise", "each/integers", "on/integers", "repeat"}
