"""CTC: against all alignments written out, optax, and labels that cannot be spelled."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import loss_cases
import numpy as np
import optax
import pytest

import fbp
from fbp import Weighted

LOSS = fbp.CTC()


def drawn(seed: int = 0, rows: int = 3, frames: int = 7, classes: int = 5, length: int = 3) -> Any:
    """Logits, and labels of several lengths that frames can spell; repetitions among them."""
    rng = np.random.default_rng(seed)
    label_lengths = rng.integers(length + 1, size=rows)
    target = {
        "labels": jnp.asarray(rng.integers(1, classes, size=(rows, length))),
        "label_lengths": jnp.asarray(label_lengths),
        "logit_lengths": jnp.asarray(np.minimum(frames, 2 * label_lengths + rng.integers(3))),
    }
    return jnp.asarray(2 * rng.normal(size=(rows, frames, classes))), target


def spelled(path: tuple[int, ...], blank: int) -> list[int]:
    merged = [c for c, before in zip(path, (None, *path), strict=False) if c != before]
    return [c for c in merged if c != blank]


def by_all_paths(y: Any, labels: list[int], blank: int) -> Any:
    """-log of the sum over every path of T frames that spells the labels."""
    frames, classes = y.shape
    paths = [
        path
        for path in itertools.product(range(classes), repeat=frames)
        if spelled(path, blank) == labels
    ]
    log_p = jax.nn.log_softmax(y)
    sums = [sum((log_p[t, c] for t, c in enumerate(path)), jnp.zeros(())) for path in paths]
    return -jax.nn.logsumexp(jnp.stack(sums)) if paths else jnp.asarray(jnp.inf)


TINY = [
    (1, []),
    (1, [1]),
    (2, [1]),
    (3, [1, 1]),
    (3, [1, 2]),
    (4, [1, 1]),
    (4, [2, 1]),
    (4, [1, 2, 1]),
    (4, []),
    (5, [1, 1, 2]),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frames", "labels"),
    [
        pytest.param(*case, marks=[pytest.mark.exhaustive] * (i % 3 > 0))
        for i, case in enumerate(TINY)
    ],
    ids=str,
)
@pytest.mark.parametrize("blank", [0, 2])
def test_all_paths_written_out(frames: int, labels: list[int], blank: int, x64: None) -> None:
    classes = 3
    labels = [(c + blank) % classes for c in labels]
    y = jnp.asarray(2 * np.random.default_rng(frames).normal(size=(frames, classes)))
    want, dwant = jax.value_and_grad(lambda y: by_all_paths(y, labels, blank))(y)
    # In a batch, with padding that is not read, and alone.
    padded = jnp.asarray([*labels, 99, -7])
    target = {"labels": padded[None], "label_lengths": jnp.asarray([len(labels)])}
    target["logit_lengths"] = jnp.asarray([frames])
    longer = jnp.concatenate([y, jnp.full((2, classes), jnp.nan)])[None]
    value, _, dy = fbp.CTC(blank).value_and_grad((), longer, target)
    alone = fbp.CTC(blank).value_and_grad((), y, {"labels": jnp.asarray(labels, int)})
    np.testing.assert_allclose(value, want, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(dy[0, :frames], dwant, atol=1e-14)
    np.testing.assert_array_equal(dy[0, frames:], 0)
    np.testing.assert_allclose(alone[0], want, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(alone[2], dwant, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_autodiff_agrees(seed: int, x64: None) -> None:
    y, target = drawn(seed)
    loss_cases.agrees(LOSS, (), y, target)
    loss_cases.agrees(LOSS, (), y, Weighted(target, jnp.asarray([0.5, 0.0, 2.0])))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_optax_agrees(seed: int, x64: None) -> None:
    y, target = drawn(seed, rows=5)
    past = jnp.arange(7) >= target["logit_lengths"][:, None]
    unread = jnp.arange(3) >= target["label_lengths"][:, None]

    def theirs(y: Any) -> Any:
        return optax.ctc_loss(y, past.astype(float), target["labels"], unread.astype(float)).mean()

    # Rows without frames, which optax does not give log 1, are not drawn here.
    assert (target["logit_lengths"] > 0).all()
    want, dwant = jax.value_and_grad(theirs)(y)
    value, _, dy = LOSS.value_and_grad((), y, target)
    # In optax log 0 is -1e5: what it lets through is exp(-1e5) = 0.
    np.testing.assert_allclose(value, want, rtol=1e-11)
    np.testing.assert_allclose(dy, dwant, atol=1e-11)


def test_labels_that_cannot_be_spelled() -> None:
    """P = 0 for every y: the loss is inf, its row's gradient 0, and the other rows' are right."""
    y, _ = drawn(0, rows=4, frames=3)
    target = {
        "labels": jnp.asarray([[1, 2, 3], [1, 1, 2], [1, 2, 0], [1, 1, 0]]),
        "label_lengths": jnp.asarray([3, 3, 2, 2]),
        "logit_lengths": jnp.asarray([3, 3, 1, 3]),
    }
    value, _, dy = jax.jit(LOSS.value_and_grad)((), y, target)
    assert value == jnp.inf
    np.testing.assert_array_equal(dy[1:3], 0)
    possible = Weighted(target, jnp.asarray([1.0, 0, 0, 1]))
    value, _, dwant = jax.jit(LOSS.value_and_grad)((), y, possible)
    assert jnp.isfinite(value)
    np.testing.assert_allclose(2 * dy, dwant, rtol=1e-6)
    assert (dwant[jnp.asarray([0, 3])] != 0).all()


@pytest.mark.slow
def test_no_frames_spell_no_labels() -> None:
    y = jnp.zeros((2, 0, 3))
    lengths = {"labels": jnp.asarray([[1], [1]]), "label_lengths": jnp.asarray([0, 1])}
    assert LOSS.value((), y[:1], jax.tree.map(lambda a: a[:1], lengths)) == 0
    assert LOSS.value((), y, lengths) == jnp.inf


def test_classes_taken_out_at_minus_infinity() -> None:
    y = jnp.asarray([[[0.0, 0.0, -jnp.inf], [0.0, 0.0, -jnp.inf]]])
    value, _, dy = LOSS.value_and_grad((), y, {"labels": jnp.asarray([[1]])})
    np.testing.assert_allclose(value, -np.log(0.75), rtol=1e-6)
    # Of the paths 11, 10, 01 two have 1 at each frame.
    np.testing.assert_allclose(dy, [[[1 / 2 - 1 / 3, 1 / 2 - 2 / 3, 0]] * 2], atol=1e-6)
    value, _, dy = LOSS.value_and_grad((), y, {"labels": jnp.asarray([[2]])})
    assert value == jnp.inf
    np.testing.assert_array_equal(dy, 0)


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.slow
def test_huge_logits(size: float) -> None:
    """A path that is certain costs nothing; one that is wrong, what its logits say."""
    y = jnp.full((1, 4, 3), -size).at[0, jnp.arange(4), jnp.asarray([1, 0, 2, 2])].set(size)
    value, _, dy = LOSS.value_and_grad((), y, {"labels": jnp.asarray([[1, 2]])})
    assert value == 0
    np.testing.assert_array_equal(dy, 0)
    value, _, dy = LOSS.value_and_grad((), y, {"labels": jnp.asarray([[1, 1]])})
    # Two frames at least are other than they say, by 2 size each: 1, blank, 1, and 1 or blank.
    # So cost three paths: with 1, 1, or 1, blank, or blank, 1 in the frames of 2.
    np.testing.assert_allclose(value, 4 * size - np.log(3), rtol=1e-6)
    assert jnp.isfinite(dy).all()


def test_long_sequences_keep_their_digits() -> None:
    """In float32, over a thousand frames, as in float64."""
    y, _ = drawn(0, rows=2, frames=1000, classes=11)
    labels = {"labels": jnp.asarray(np.random.default_rng(1).integers(1, 11, size=(2, 200)))}
    value, _, dy = jax.jit(LOSS.value_and_grad)((), y.astype(jnp.float32), labels)
    with jax.enable_x64(True):
        wide = y.astype(jnp.float32).astype(jnp.float64)
        want, _, dwant = jax.jit(LOSS.value_and_grad)((), wide, labels)
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(value, want, rtol=1000 * eps)
    # Ratios of alpha along the states are sums of up to 200 terms that err by eps of their size, 8.
    np.testing.assert_allclose(2 * np.asarray(dy), 2 * np.asarray(dwant), atol=200 * 8 * eps)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cuts", [[3, 5], [1], [2, 3]], ids=str)
def test_uneven_parts_add_up(cuts: list[int], weighted: bool, x64: None) -> None:
    y, target = drawn(3, rows=7)
    if weighted:
        target = Weighted(target, jnp.asarray(np.random.default_rng(2).random(7)))
    loss_cases.adds_up(LOSS, (), y, target, cuts)


@pytest.mark.slow
def test_what_does_not_count_does_not_leak() -> None:
    y, target = drawn(1)
    weight = jnp.asarray([1.0, 0, 2])
    want = LOSS.value_and_grad((), y, Weighted(target, weight))
    wrong = {**target, "labels": target["labels"].at[1].set(77)}
    got = LOSS.value_and_grad((), y.at[1].set(jnp.nan), Weighted(wrong, weight))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    value, _, dy = LOSS.value_and_grad((), y, Weighted(target, jnp.zeros(3)))
    assert value == 0
    np.testing.assert_array_equal(dy, 0)
    full = {"labels": target["labels"]}
    value, _, dy = LOSS.value_and_grad((), y.at[1, 2].set(jnp.nan), full)
    assert jnp.isnan(value)
    assert jnp.isnan(dy[1, 2]).all()  # of other frames, the classes that may be spelled
    assert jnp.isfinite(dy[jnp.asarray([0, 2])]).all()


@pytest.mark.slow
def test_leading_axes(x64: None) -> None:
    y, target = drawn(0, rows=6)
    want, _, dwant = LOSS.value_and_grad((), y, target)
    shaped = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), (y, target))
    value, _, dy = LOSS.value_and_grad((), *shaped)
    np.testing.assert_allclose(value, want, rtol=1e-13)
    np.testing.assert_allclose(dy.reshape(y.shape), dwant, rtol=1e-13)
    mapped = jax.vmap(lambda y, t: LOSS.value_and_grad((), y, t))(*shaped)
    np.testing.assert_allclose(mapped[0].mean(), want, rtol=1e-13)
    np.testing.assert_allclose(mapped[2].reshape(y.shape) / 2, dwant, rtol=1e-12, atol=1e-16)


@pytest.mark.slow
def test_an_empty_batch() -> None:
    y, target = jax.tree.map(lambda a: a[:0], drawn())
    value, _, dy = LOSS.value_and_grad((), y, target)
    assert (value, dy.shape, LOSS.weight(target)) == (0, (0, 7, 5), 0)


def test_bfloat16(x64: None) -> None:
    y, target = drawn()
    loss_cases.rounds_once(LOSS, (), y, target, 100)


def test_what_is_refused() -> None:
    y, target = drawn()
    labels = target["labels"]
    for bad in (labels, {}, {"label": labels}, {**target, "more": labels}):
        with pytest.raises(
            ValueError, match=r"^CTC: expected target to be a dict of labels and, if"
        ):
            LOSS.value((), y, bad)
    with pytest.raises(
        ValueError, match=r"^CTC: expected labels of shape \(3, 'L'\), got shape \(2,"
    ):
        LOSS.value((), y, {"labels": labels[:2]})
    with pytest.raises(
        ValueError, match=r"^CTC: expected label_lengths of shape \(3,\), got shape"
    ):
        LOSS.value((), y, {"labels": labels, "label_lengths": jnp.ones(2, int)})
    with pytest.raises(TypeError, match=r"^CTC: expected labels to be integers, got float32"):
        LOSS.value((), y, {"labels": labels.astype(jnp.float32)})
    with pytest.raises(ValueError, match=r"^CTC: expected blank in 0\.\.4, a class of y, got 5"):
        fbp.CTC(5).value((), y, target)
    for bad in (0, -1, 5):
        wrong = {"labels": labels.at[1, 2].set(bad)}
        with pytest.raises(
            ValueError, match=rf"^CTC: expected labels in 0\.\.4 and not 0.*got {bad}$"
        ):
            LOSS.value((), y, wrong)
        value, _, dy = jax.jit(LOSS.value_and_grad)((), y, wrong)
        assert jnp.isnan(value)
        assert jnp.isfinite(dy[jnp.asarray([0, 2])]).all()  # the other rows
    for name, most in (("label_lengths", 3), ("logit_lengths", 7)):
        for bad in (-1, most + 1):
            wrong = {"labels": labels, name: jnp.full(3, bad)}
            message = rf"^CTC: expected {name} in 0\.\.{most}, got {bad}$"
            with pytest.raises(ValueError, match=message):
                LOSS.value((), y, wrong)
            assert jnp.isnan(jax.jit(LOSS.value)((), y, wrong))


SMALL = {
    "labels": jnp.asarray([[1, 1, 3], [2, 4, 2], [3, 1, 1]]),
    "label_lengths": jnp.asarray([3, 2, 1]),
    "logit_lengths": jnp.asarray([7, 5, 2]),
}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_check(seed: int) -> None:
    y = drawn(seed)[0].astype(jnp.float32)
    loss_cases.passes(LOSS, (), y, SMALL, budget="fast", seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_check_at_length(seed: int) -> None:
    loss_cases.passes(LOSS, (), drawn(seed)[0].astype(jnp.float32), SMALL, seed=seed)


def bug_of(kind: str) -> Any:
    def change(params: Any, y: Any, target: Any, dparams: Any, dy: Any) -> Any:
        p = jax.nn.softmax(y) / len(y)
        inside = (jnp.arange(y.shape[1]) < target["logit_lengths"][:, None])[..., None]
        if kind == "softmax_missing":  # the gradient of log p, not of the logits
            dy = jnp.where(inside, dy - p, 0)
        if kind == "posterior_not_over_p":  # the gradient of p
            dy = jnp.where(inside, (dy - p) / (p * len(y)), 0)
        if kind == "padding_pulled":
            dy = jnp.where(inside, dy, p)
        if kind == "posterior_of_the_frame_before":
            dy = jnp.where(inside, p + jnp.roll(dy - p, 1, axis=1), 0)
        if kind == "divided_by_lengths":
            dy = dy / target["label_lengths"][:, None, None]
        return (), dy

    return change


BUGS = ["softmax_missing", "posterior_not_over_p", "padding_pulled"]
BUGS += ["posterior_of_the_frame_before", "divided_by_lengths"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "bug", [pytest.param(b, marks=[pytest.mark.exhaustive] * (i > 1)) for i, b in enumerate(BUGS)]
)
def test_a_bug_is_caught(bug: str) -> None:
    y = drawn(0)[0].astype(jnp.float32)
    loss_cases.is_caught(LOSS, bug_of(bug), (), y, SMALL, seed=0)
