"""The summary counts what is really there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from cases import CASES, Case, Noise, by_name, draw

import fbp
from fbp._columns import size
from fbp._tree import count, nbytes
from fbp.explainer._summary import _folded


def layers_in(layer: Any) -> int:
    if isinstance(layer, fbp.LoRA | fbp.Recurrent):
        return 1  # one with its dense layer, or with its cell
    held = [getattr(layer, field.name) for field in dataclasses.fields(layer)]
    inside = [v for value in held for v in (value if isinstance(value, tuple) else (value,))]
    return 1 + sum(layers_in(v) for v in inside if isinstance(v, fbp.Layer))


@by_name(CASES)
def test_the_summary_is_the_residual_tree(case: Case) -> None:
    params, x = draw(case, 0, jnp.float32)
    key = jax.random.key(0) if case.noisy else None
    _, res = jax.eval_shape(case.layer.forward, params, x, key)
    table = fbp.summary(case.layer, x, key)
    assert table.kept_bytes == nbytes(res)
    assert sum(row.kept for row in table.rows) == table.kept_bytes
    assert table.params == count(params)
    assert sum(row.params for row in table.rows) == table.params
    assert table.param_bytes == nbytes(params)
    assert table.input_bytes == nbytes(x)
    assert len(table.rows) == layers_in(case.layer)
    assert table.rows[0].input == "given"
    assert {row.input for row in table.rows} <= {"given", "kept", "recomputed"}
    text = str(table)
    # The header, a line below it and the totals; equal layers in a row are shown once.
    folded = [row for row, last in _folded(table.rows) if last is not None]
    shown = len(list(_folded(table.rows)))
    assert len(text.splitlines()) == shown + 3
    assert (shown < len(table.rows)) == bool(folded)
    assert f"{table.params:,} parameters" in text
    # Shapes are enough; and without noise less or as much is kept.
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    assert fbp.summary(case.layer, shapes, key) == table
    assert fbp.summary(case.layer, x).kept_bytes <= table.kept_bytes


def test_a_table() -> None:
    model = fbp.models.mlp([3, 5, 2], fbp.Tanh())
    table = fbp.summary(model, jax.ShapeDtypeStruct((7, 3), jnp.float32))
    assert [(row.path, row.layer, row.depth) for row in table.rows] == [
        ("", "Serial", 0),
        ("dense_1", "Dense", 1),
        ("activation_1", "Tanh", 1),
        ("dense_2", "Dense", 1),
    ]
    assert [row.output for row in table.rows] == [f"float32[7, {n}]" for n in (2, 5, 5, 2)]
    assert [row.params for row in table.rows] == [0, 20, 0, 12]
    # The input of the activation is the first layer's output, kept; that of the second Dense is
    # the activation's, computed again.
    assert [row.input for row in table.rows] == ["given", "given", "kept", "recomputed"]
    assert [row.kept for row in table.rows] == [0, 0, 7 * 5 * 4, 0]
    assert (table.params, table.param_bytes) == (32, 128)
    for words in ("dense_1: Dense", "activation_1: Tanh", "32 parameters (128 B)", "140 B"):
        assert words in str(table)


def test_copies_are_counted_together() -> None:
    x = jnp.ones((7, 3))
    table = fbp.summary(fbp.Stack(fbp.Dense(3, 3), 5), x)
    stack, dense = table.rows
    assert (stack.params, dense.params) == (0, 5 * 12)
    assert (stack.kept, dense.kept) == (0, 5 * x.nbytes)
    assert dense.output == "float32[7, 3]"


def test_remat_keeps_nothing_of_what_is_inside() -> None:
    block = fbp.Serial(fbp.Dense(3, 5), fbp.Tanh(), fbp.Dense(5, 3))
    x = jnp.ones((7, 3))
    assert fbp.summary(block, x).kept_bytes == 7 * 5 * 4
    assert fbp.summary(fbp.Remat(block), x).kept_bytes == 0
    assert fbp.summary(fbp.Stack(fbp.Remat(block), 4), x).kept_bytes == 4 * x.nbytes
    assert fbp.summary(fbp.Serial(fbp.Remat(block), fbp.Remat(block)), x).kept_bytes == x.nbytes
    assert fbp.summary(fbp.Remat(fbp.Serial(block, block)), x).kept_bytes == 0


def test_noise_keeps_its_key() -> None:
    key, x = jax.random.key(0), jnp.ones(3)
    assert fbp.summary(Noise(), x).kept_bytes == 0
    assert fbp.summary(Noise(), x, key).kept_bytes == nbytes(key)


def test_an_error_is_that_of_the_forward() -> None:
    with pytest.raises(ValueError, match=r"^Dense: expected last axis of x to be 3, got shape"):
        fbp.summary(fbp.Serial(fbp.Dense(3, 5), fbp.Dense(3, 5)), jnp.ones((7, 3)))


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (3 * 1024**4, "3.0 TiB"),
        (2048 * 1024**4, "2048.0 TiB"),
    ],
)
def test_bytes_for_people(n: int, text: str) -> None:
    assert size(n) == text


def test_equal_layers_are_shown_once_and_wide_outputs_are_cut() -> None:
    block = fbp.Residual(fbp.Serial(norm=fbp.LayerNorm(8), dense=fbp.Dense(8, 8)))
    heads = fbp.Parallel(a=fbp.Dense(8, 8), b=fbp.Dense(8, 8), c=fbp.Dense(8, 8), d=fbp.Tanh())
    model = fbp.Serial(*[fbp.Dense(8, 8)] * 4, block, block, *[block] * 2, heads)
    table = fbp.summary(model, jnp.ones((2, 16, 8)))
    assert table.params == 4 * 72 + 4 * (16 + 72) + 3 * 72
    lines = [line.split("  float32")[0].strip() for line in str(table).splitlines()[2:-1]]
    # The first Dense has its input from outside: it is another row than those after it.
    assert lines == [
        *("Serial", "0: Dense", "1 to 3: Dense", "4 to 7: Residual", "Serial"),
        *("norm: LayerNorm", "dense: Dense", "8: Parallel", "a to c: Dense", "d: Tanh"),
    ]
    assert "float32[2, 16, 8] and 3 more" in str(table)
    assert max(map(len, str(table).splitlines())) <= 100
