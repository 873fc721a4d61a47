"""Rules that are right at the size at hand only, and what a check tries of other sizes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fbp
from fbp.verify.program._program import trace
from fbp.verify.program._sizes import is_one_program
from fbp.verify.registry import _registry

RNG = np.random.default_rng(0)


def x(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def mean(x: Any) -> Any:
    return x.mean(-1) ** 2


def hard_coded(n: int) -> Any:
    """The rule of a mean of n numbers, whatever their number is."""
    return ruled(mean, lambda x, dy: ((2 / n * x.mean(-1) * dy)[:, None] + 0 * x,))


def by_halves() -> Any:
    """Right for an even number of columns."""

    def backward(x: Any, dy: Any) -> Any:
        half = x.shape[-1] // 2
        dx = jnp.zeros_like(x).at[:, : 2 * half].set(2 * x[:, : 2 * half] * dy[:, None])
        return (dx,)

    return ruled(lambda x: (x * x).sum(-1), backward)


def in_blocks(block: int) -> Any:
    """Right for a number of rows that is a multiple of the block."""

    def backward(x: Any, w: Any, dy: Any) -> Any:
        dw = jnp.zeros_like(w)
        for start in range(0, x.shape[0] - block + 1, block):
            dw += x[start : start + block].T @ dy[start : start + block]
        return dy @ w.T, dw

    return ruled(lambda x, w: x @ w, backward)


def of_one_head() -> Any:
    """Takes the first of the heads for all."""

    def backward(q: Any, k: Any, dy: Any) -> Any:
        return k[:, :1] * dy[..., None], q[:, :1] * dy[..., None]

    return ruled(lambda q, k: (q * k).sum(-1), backward)


def of_one_step() -> Any:
    """Reads one step of four examples."""
    return ruled(lambda x: jnp.sin(x), lambda x, dy: ((jnp.cos(x) * dy).at[4:].set(0.0),))


AT_HAND: dict[str, tuple[Any, tuple[np.ndarray, ...], str]] = {
    "hard-coded": (functools.partial(hard_coded, 7), (x(5, 7),), "6 for 5 and 8 for 7"),
    "hard-coded, of six": (functools.partial(hard_coded, 6), (x(5, 6),), "6 for 5 and 7 for 6"),
    "halves": (by_halves, (x(5, 6),), "6 for 5 and 7 for 6"),
    "one step": (of_one_step, (x(4, 3),), "5 for 4 and 4 for 3"),
    "one head": (of_one_head, (x(5, 1, 3), x(5, 1, 3)), ""),
    "blocks": (functools.partial(in_blocks, 2), (x(4, 4), x(4, 4)), "5 for 4"),
    "blocks of rows": (functools.partial(in_blocks, 4), (x(8, 3), x(3, 2)), ""),
}


@pytest.mark.parametrize("name", AT_HAND)
def test_a_rule_that_is_right_at_its_size_only(name: str) -> None:
    make, args, where = AT_HAND[name]
    report = fbp.check(make(), *args)
    assert fbp.check(make(), *args, budget="fast").verdict == "OK"
    if not where:  # no axis that all arrays have is to blame
        assert report.verdict == "OK", str(report)
        assert "sizes= tries others" in str(report)
        return
    assert report.verdict == "WRONG", str(report)
    assert report.hints[0].kind == "size"
    assert report.hints[0].text == f"right at the sizes that were given, WRONG with {where}"
    assert f"with {where}: [" in report.line()


SIZED: dict[str, tuple[Any, Callable[[int], Any], str]] = {
    "hard-coded": (functools.partial(hard_coded, 7), lambda n: (x(5, n),), "1"),
    "halves": (by_halves, lambda n: (x(3, n),), "1"),
    "one step": (of_one_step, lambda n: (x(n, 3),), "7"),
    "one head": (of_one_head, lambda n: (x(5, n, 3), x(5, n, 3)), "2"),
    "blocks of rows": (functools.partial(in_blocks, 4), lambda n: (x(n, 3), x(3, 2)), "1"),
    "larger blocks": (functools.partial(in_blocks, 16), lambda n: (x(n, 3), x(3, 2)), "1"),
}


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("budget", ["fast", "default"])
def test_sizes_find_it(name: str, budget: Any) -> None:
    _, given, _ = AT_HAND.get(name, (None, (x(16, 3), x(3, 2)), ""))
    make, sizes, n = SIZED[name]
    report = fbp.check(make(), *given, sizes=sizes, budget=budget)
    assert report.verdict == "WRONG", str(report)
    assert report.hints[0].text == f"right at the sizes that were given, WRONG at n = {n}"
    assert any(row.says.startswith(f"at n = {n}: ") for row in report.leaves)


def right_mean() -> Any:
    def backward(x: Any, dy: Any) -> Any:
        return ((2 / x.shape[-1] * x.mean(-1) * dy)[:, None] + 0 * x,)

    return ruled(mean, backward)


def test_sizes_of_a_right_rule_are_named() -> None:
    report = fbp.check(right_mean(), x(5, 7), sizes=lambda n: (x(3, n),))
    assert report.verdict == "OK"
    assert report.notes[-1] == "sizes tried: those given, and n = 1, 2, 7, 16, 33"
    report = fbp.check(right_mean(), x(5, 7))
    assert report.notes[-1] == (
        "sizes tried: those given, 4 for 5 and 6 for 7, 6 for 5 and 8 for 7; sizes= tries others"
    )
    report = fbp.check(right_mean(), x(5, 7), budget="fast")
    assert report.notes[-1] == "sizes tried: those given; sizes= tries others"


def test_sizes_that_the_function_is_not_for_are_no_alarm() -> None:
    def even(x: Any) -> Any:
        if x.shape[-1] % 2:
            raise ValueError("an even number of columns is needed")
        return (x * x).sum(-1)

    right = ruled(even, lambda x, dy: (2 * x * dy[:, None],))
    report = fbp.check(right, x(5, 6))
    assert report.verdict == "OK"
    assert report.notes[-1].startswith("sizes tried: those given, 4 for 5, 6 for 5; ")
    report = fbp.check(right, x(5, 6), sizes=lambda n: (x(3, n),))
    assert report.verdict == "OK"
    assert report.notes[-1] == "sizes tried: those given, and n = 2, 16"
    assert sum("an even number of columns is needed" in note for note in report.notes) == 3


def nan_when_odd(x: Any) -> Any:
    return (x * x).sum(-1) + (jnp.nan if x.shape[-1] % 2 else 0.0)


def other_values_when_odd(x: Any) -> Any:
    return (x * x).sum(-1) * (2 if x.shape[-1] % 2 else 1)


@pytest.mark.parametrize("f", [nan_when_odd, other_values_when_odd])
def test_outputs_that_make_no_sense_are_no_alarm(f: Any) -> None:
    rule = jax.custom_vjp(f)
    rule.defvjp(lambda x: ((x * x).sum(-1), x), lambda x, dy: (2.0 * x * dy[:, None],))
    report = fbp.check(rule, x(5, 6))
    assert report.verdict == "OK", str(report)
    assert "7 for 6" not in report.notes[-1]


def test_a_rule_that_raises_at_other_sizes_is_no_alarm_unless_they_are_asked_for() -> None:
    def backward(x: Any, dy: Any) -> Any:
        return (2 * x * dy[:, None] * jnp.ones(6, x.dtype),)

    rule = ruled(lambda x: (x * x).sum(-1), backward)
    assert fbp.check(rule, x(5, 6)).verdict == "OK"
    report = fbp.check(rule, x(5, 6), sizes=lambda n: (x(5, n),))
    assert report.verdict == "STRUCTURE"
    assert "STRUCTURE at n = " in report.line()


def test_a_reference_and_a_domain_go_to_the_other_sizes() -> None:
    def halved(x: Any) -> Any:
        return 0.5 * x.mean(-1) ** 2 + jax.lax.stop_gradient(0.5 * x.mean(-1) ** 2)

    def half(n: int | None) -> Any:
        def backward(x: Any, dy: Any) -> Any:
            return ((1 / (n or x.shape[-1]) * x.mean(-1) * dy)[:, None] + 0 * x,)

        return ruled(mean, backward)

    for options in ({}, {"sizes": lambda n: (np.abs(x(3, n)) + 1,)}):
        options |= {"reference": halved, "domain": lambda x: x > 0}
        given = np.abs(x(5, 7)) + 1
        assert fbp.check(half(None), given, **options).verdict == "OK"
        assert fbp.check(half(7), given, **options).verdict == "WRONG"


def test_a_rule_is_registered_with_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_RULES", {})
    fbp.register(of_one_step(), x(4, 3), name="given", sizes=lambda n: (x(n, 3),))
    fbp.register(of_one_step(), name="sizes alone", sizes=lambda n: (x(n, 3),))
    assert [rule.check().verdict for rule in _registry.rules()] == ["WRONG", "WRONG"]
    with pytest.raises(TypeError, match="expected a function for sizes, got int"):
        fbp.check(right_mean(), x(5, 7), sizes=3)  # type: ignore[arg-type]


# Programs in which a size is a variable.


def constant(x: Any) -> Any:
    return (x * (1 / 7)).sum()


ONE = {
    "mean": lambda x: x.mean(),
    "variance": lambda x: ((x - x.mean()) ** 2).sum() / (x.shape[0] - 1),
    "scale": lambda x: jnp.dot(x, x) / np.sqrt(x.shape[0]),
    "elementwise": lambda x: jnp.where(x > 0.1, jnp.tanh(7 * x), 1 / 7),
    "repeated": lambda x: jnp.broadcast_to(x[None], (3, x.size)).sum(0),
    "softmax": lambda x: jax.nn.softmax(x),
}
MANY = {
    "halves": lambda x: x.at[: x.shape[0] // 2].set(0.0),
    "power": lambda x: x * 2.0 ** x.shape[0],
    "parity": lambda x: x.sum() * (x.shape[0] % 2),
    "unrolled": lambda x: sum(x[i] for i in range(x.shape[0])),
    "table": lambda x: x * np.arange(x.shape[0], dtype=np.float32),
    "loop": lambda x: jax.lax.fori_loop(0, x.shape[0], lambda i, y: y + x[i], x[0]),
    "constant": constant,
}


@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_programs_that_differ_by_a_size_alone(name: str) -> None:
    f = {**ONE, **MANY}[name]
    programs = [trace(f, np.zeros(n, np.float32)) for n in (6, 7, 8)]
    other = trace(lambda x: x.sum(), np.zeros(7, np.float32))
    assert is_one_program(programs, [7], other) == (name in ONE)


@given(st.integers(3, 40), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_a_constant_is_known_if_the_function_has_it(n: int, factor: float) -> None:
    def programs(f: Any) -> Any:
        return [trace(f, np.zeros(m, np.float32)) for m in (n - 1, n, n + 1)]

    of_n = programs(lambda x: (x / n).sum())
    assert not is_one_program(of_n, [n], programs(lambda x: (x * 0.77).sum())[1])
    assert is_one_program(of_n, [n], of_n[1])
    twice = programs(lambda x: (x * factor).sum() / x.size)
    assert is_one_program(twice, [n], twice[1])


def test_programs_that_differ_by_two_sizes() -> None:
    def programs(f: Any) -> Any:
        return [trace(f, np.zeros((4 + n, 6 + n), np.float32)) for n in (-1, 0, 1)]

    for f in (lambda x: x.mean(), lambda x: x.ravel().sum(), lambda x: x / x.shape[0] ** 0.5):
        each = programs(f)
        assert is_one_program(each, [4, 6], each[1])
    for f in (lambda x: x * (x.size // 7), lambda x: x[: x.shape[0] // 2], lambda x: x[:, :6]):
        each = programs(f)
        assert not is_one_program(each, [4, 6], each[1])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (x.sum(-1), (x > 0).sum(-1)),
        lambda x: (x.sum(-1), jnp.argmax(x, -1), jnp.bfloat16(2) * x.astype(jnp.bfloat16)),
        lambda x: (x * jax.random.normal(jax.random.key(0), x.shape), jnp.isnan(x)),
        lambda x: x * jnp.inf ** (x > 9) + jax.lax.complex(x, x).real,
    ],
)
def test_outputs_and_constants_of_all_kinds_are_compared(f: Any) -> None:
    rule = ruled(f, lambda x, dy: jax.vjp(f, x)[1](dy))
    report = fbp.check(rule, x(4, 6))
    assert report.ok, str(report)
    assert "5 for 4 and 7 for 6" in report.notes[-1]


def test_loops_that_may_not_end_elsewhere_are_left_alone() -> None:
    def root(x: Any) -> Any:
        def step(y: Any, _: None) -> Any:
            return (y + x / y) / 2, None

        return jax.lax.scan(step, 1 + x, None, length=20)[0].sum(-1)

    def backward(x: Any, dy: Any) -> Any:
        return (dy[:, None] / (2 * jnp.sqrt(x)),)

    report = fbp.check(ruled(root, backward), np.abs(x(5, 6)) + 1)
    assert report.ok, str(report)
    assert report.notes[-1] == "sizes tried: those given; sizes= tries others"
