"""Cells and what runs them along a sequence: their rows of the table."""

from collections.abc import Callable

import numpy as np
from _case import Case

import fbp
from fbp._layer import PyTree


def _lstm_step(n_in: int, n: int, *batch: int) -> Callable[[np.random.Generator], PyTree]:
    def draw(rng: np.random.Generator) -> PyTree:
        x_t = rng.normal(size=(*batch, n_in))
        return x_t, fbp.LSTMState(*rng.normal(size=(2, *batch, n)))

    return draw


def _gru_step(n_in: int, n: int, *batch: int) -> Callable[[np.random.Generator], PyTree]:
    return lambda rng: (rng.normal(size=(*batch, n_in)), rng.normal(size=(*batch, n)))


def _line(*shape: int) -> Callable[[np.random.Generator], PyTree]:
    return lambda rng: {"a": rng.normal(size=shape), "b": rng.normal(size=shape)}


def make_cases() -> list[Case]:
    lstm, gru = fbp.LSTMCell(3, 5), fbp.GRUCell(3, 5)
    return [
        Case("lstm_cell", lstm, _lstm_step(3, 5, 7)),
        Case("lstm_cell/no_batch", lstm, _lstm_step(3, 5), batch=0),
        Case("lstm_cell/two_batch_axes", lstm, _lstm_step(3, 5, 2, 7), batch=2),
        Case("lstm_cell/equal", fbp.LSTMCell(3, 3), _lstm_step(3, 3, 3)),
        Case("lstm_cell/one", fbp.LSTMCell(1, 1), _lstm_step(1, 1, 1)),
        Case("gru_cell", gru, _gru_step(3, 5, 7)),
        Case("gru_cell/no_batch", gru, _gru_step(3, 5), batch=0),
        Case("gru_cell/two_batch_axes", gru, _gru_step(3, 5, 2, 7), batch=2),
        Case("gru_cell/equal", fbp.GRUCell(3, 3), _gru_step(3, 3, 3)),
        Case("gru_cell/one", fbp.GRUCell(1, 1), _gru_step(1, 1, 1)),
        Case("lstm", fbp.Recurrent(lstm), (2, 7, 3)),
        Case("lstm/no_batch", fbp.Recurrent(lstm), (7, 3), batch=0),
        Case("lstm/two_batch_axes", fbp.Recurrent(lstm), (2, 3, 4, 3), batch=2),
        Case("lstm/equal", fbp.Recurrent(fbp.LSTMCell(3, 3)), (3, 3, 3)),
        Case("lstm/one_step", fbp.Recurrent(lstm), (7, 1, 3)),
        Case("lstm/truncated", fbp.Recurrent(lstm, truncate=3), (2, 7, 3)),
        Case("lstm/truncated_every_step", fbp.Recurrent(lstm, truncate=1), (2, 4, 3)),
        Case("lstm/truncated_beyond", fbp.Recurrent(lstm, truncate=9), (2, 4, 3)),
        Case(
            "lstm/residual",
            fbp.Residual(fbp.Recurrent(fbp.LSTMCell(3, 3))),
            (2, 5, 3),
            1,
            widens=True,
        ),
        Case(
            "lstm/stacked",
            fbp.Serial(fbp.Recurrent(lstm), fbp.Recurrent(fbp.LSTMCell(5, 2)), fbp.Dense(2, 3)),
            (2, 4, 3),
        ),
        Case("lstm/stack", fbp.Stack(fbp.Recurrent(fbp.LSTMCell(3, 3)), 2), (2, 4, 3), widens=True),
        Case("lstm/remat", fbp.Remat(fbp.Recurrent(lstm)), (2, 4, 3)),
        Case("gru", fbp.Recurrent(gru), (2, 7, 3)),
        Case("gru/no_batch", fbp.Recurrent(gru), (7, 3), batch=0),
        Case("gru/equal", fbp.Recurrent(fbp.GRUCell(3, 3)), (3, 3, 3)),
        Case("gru/truncated", fbp.Recurrent(gru, truncate=2), (2, 7, 3)),
        Case("linear_recurrence", fbp.LinearRecurrence(), _line(2, 7, 3)),
        Case("linear_recurrence/no_batch", fbp.LinearRecurrence(), _line(5, 3), batch=0),
        Case("linear_recurrence/two_batch_axes", fbp.LinearRecurrence(), _line(2, 3, 8, 2), 2),
        Case("linear_recurrence/equal", fbp.LinearRecurrence(), _line(3, 3, 3)),
        Case("linear_recurrence/one", fbp.LinearRecurrence(), _line(1, 1, 1)),
        Case("linear_recurrence/one_place", fbp.LinearRecurrence(), _line(3, 1, 5)),
        Case("linear_recurrence/two_places", fbp.LinearRecurrence(), _line(3, 2, 5)),
        Case(
            "linear_recurrence/in_serial",
            fbp.Serial(
                fbp.Parallel(a=fbp.Serial(fbp.Dense(3, 5), fbp.Sigmoid()), b=fbp.Dense(3, 5)),
                fbp.LinearRecurrence(),
                fbp.Dense(5, 3),
            ),
            (2, 7, 3),
        ),
    ]


CORE = {"lstm_cell", "gru_cell", "lstm/truncated", "linear_recurrence"}
