"""Rows of the table of cases: wrappers that change which parameters a layer takes."""

import numpy as np
from _case import Case

import fbp


def _tied(v: int, d: int) -> fbp.Tie:
    model = fbp.Serial(embed=fbp.Embedding(v, d), dense=fbp.Dense(d, d), unembed=fbp.Unembed(d, v))
    return fbp.Tie(model, "embed.w", "unembed.w")


def make_cases() -> list[Case]:
    dense, tanh = fbp.Dense(3, 5), fbp.Tanh()
    return [
        Case("tie", _tied(7, 3), lambda rng: rng.integers(7, size=(2, 5), dtype=np.int32), 2),
        Case("tie/equal", _tied(3, 3), lambda rng: rng.integers(3, size=(3,), dtype=np.int32)),
        Case(
            "tie/floats",
            fbp.Tie(fbp.Serial(a=fbp.Dense(3, 3), b=tanh, c=fbp.Dense(3, 3)), "a.w", "c.w"),
            (7, 3),
            notes="its target's dict keeps the bias",
        ),
        Case("freeze", fbp.Freeze(dense), (7, 3)),
        Case("freeze/in_serial", fbp.Serial(fbp.Freeze(dense), tanh, fbp.Dense(5, 3)), (7, 3)),
        Case(
            "freeze/in_stack",
            fbp.Stack(fbp.Residual(fbp.Serial(fbp.Freeze(fbp.Dense(3, 3)), tanh)), 2),
            (5, 3),
            widens=True,
        ),
        Case("lora", fbp.LoRA(dense, 2, alpha=3.0), (7, 3)),
        Case("lora/no_bias", fbp.LoRA(fbp.Dense(3, 3, bias=False), 3), (3, 3, 3), 2),
        Case("lora/one", fbp.LoRA(fbp.Dense(1, 1), 1), (1, 1)),
        Case("lora/no_batch", fbp.LoRA(dense, 2), (3,), batch=0),
        Case("lora/in_stack", fbp.Stack(fbp.LoRA(fbp.Dense(3, 3), 2), 2), (5, 3), widens=True),
    ]


CORE = {"tie", "freeze/in_serial", "lora"}
