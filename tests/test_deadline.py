"""The time limit of a check: what was established by then, what was left out, and progress."""

import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.cli import main
from fbp.verify import _check, _deadline
from fbp.verify._deadline import Deadline
from fbp.verify.probe._variants import Variants
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject_of import subject_of

X = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def sine(factor: float) -> Any:
    return ruled(jnp.sin, lambda x, dy: (factor * jnp.cos(x) * dy,))


class Clock:
    """A clock that goes on by a step whenever it is read."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_limit_everything_is_allowed() -> None:
    deadline = Deadline(clock=Clock(1e6))
    assert list(deadline.each("items", range(5))) == [0, 1, 2, 3, 4]
    assert deadline.allows("more")
    assert not deadline.is_over()
    assert (deadline.left_out, deadline.said()) == ([], "")


def test_what_has_not_begun_in_time_is_left_out_and_named_once() -> None:
    deadline = Deadline(2.5, clock=Clock(1.0))
    assert list(deadline.each("items", range(5))) == [0, 1]
    assert not deadline.allows("more")
    assert not deadline.allows("more")
    # The first of some items is not left out: without it there would be no result at all.
    assert list(deadline.each("others", range(5))) == [0]
    assert deadline.said() == "out of time after seconds=2.5: left out: items, more, others"


def test_progress_is_one_line_on_a_terminal_which_is_erased() -> None:
    shown = Terminal()
    with Deadline(None, "f" * 100, shown, Clock(1.0)) as deadline:
        deadline.allows("quick")
        assert shown.getvalue() == ""
        deadline.allows("the variants")
        deadline.allows("the second derivative")
    assert "\n" not in shown.getvalue()
    *lines, last = shown.getvalue().split("\r\x1b[K")
    assert last == ""
    assert [len(line) <= 79 for line in lines] == [True] * 3
    assert lines[1].startswith("checking fff")
    plain = io.StringIO()
    with Deadline(None, "f", plain, Clock(1.0)) as deadline:
        deadline.allows("quick")
        deadline.allows("the variants")
    assert plain.getvalue() == ""
    broken = Deadline(None, "f", shown, Clock(9.0))
    broken.allows("it breaks")
    broken.__exit__(KeyError, KeyError(), None)
    assert shown.getvalue().endswith("it breaks, 9 s\r\x1b[K")


STAGES = ["further probes", "the variants", "the second derivative", "other sizes"]


def ending(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Makes the time of a check be over when a stage is about to begin."""

    class Ending(Deadline):
        def __init__(self, seconds: float | None, name: str) -> None:
            self.reached = False
            super().__init__(seconds, name)

        def is_over(self) -> bool:
            return self.seconds is not None and self.reached

        def allows(self, name: str) -> bool:
            self.reached |= name == stage
            return super().allows(name)

    monkeypatch.setattr(_check, "Deadline", Ending)


@pytest.mark.parametrize("stage", STAGES)
def test_a_right_rule_of_which_something_was_left_out(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(monkeypatch, stage)
    report = fbp.check(sine(1.0), X, seconds=60)
    # What is certain does not need the variants, but all probes.
    wanted = "UNVERIFIABLE" if stage == STAGES[0] else "OK"
    assert report.verdict == wanted, str(report)
    left_out = ", ".join(STAGES[STAGES.index(stage) :])
    assert report.notes[0] == f"out of time after seconds=60: left out: {left_out}"
    assert report.notes[0] in str(report)
    assert (report.probes == 1) == (wanted == "UNVERIFIABLE")


@pytest.mark.parametrize("stage", [*STAGES[:3], "the search for a cause"])
def test_a_wrong_rule_stays_wrong(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, stage)
    report = fbp.check(sine(-1.0), X, seconds=60)
    assert report.verdict == "WRONG"
    assert report.hints[0].kind == "sign"
    assert stage in report.notes[0]


def test_all_sizes_and_rounds_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, "n = 7")
    report = fbp.check(sine(1.0), X, seconds=60, sizes=lambda n: (X[:1, :1] * np.ones(n),))
    assert report.verdict == "OK"
    assert "out of time after seconds=60: left out: n = 7, n = 16, n = 33" in report.notes
    assert report.notes[-1].endswith("n = 1, 2")
    ending(monkeypatch, "further probes")
    report = fbp.check(sine(1.0), X, seconds=60, budget="thorough")
    assert report.probes == 4  # one of each round


def test_a_real_clock_ends_a_check_too() -> None:
    report = fbp.check(sine(1.0), X, seconds=1e-9)
    assert report.verdict == "UNVERIFIABLE"
    assert report.line().startswith("UNVERIFIABLE sin: out of time after seconds=1e-09: left out: ")
    report = fbp.check(sine(1.0), X, seconds=600)
    assert report.verdict == "OK"
    assert not any("out of time" in note for note in report.notes)


def test_a_check_shows_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(_deadline, "_QUIET", 0.0)
    fbp.check(sine(1.0), X, budget="fast")
    assert "checking sin: further probes, 0 s" in shown.getvalue()
    assert shown.getvalue().endswith("\r\x1b[K")
    assert "\n" not in shown.getvalue()


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "60"])
def test_a_limit_is_a_number_above_zero(seconds: Any) -> None:
    with pytest.raises(ValueError, match="expected seconds above 0, got"):
        fbp.check(sine(1.0), X, seconds=seconds)


def test_the_limit_of_the_command_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "of_one_second.py").write_text(
        "import jax, jax.numpy as jnp\n"
        "f = jax.custom_vjp(jnp.sin)\n"
        "f.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: (jnp.cos(x) * dy,))\n"
    )
    monkeypatch.chdir(tmp_path)
    args = ["check", "of_one_second.py:f", "--input", "3x2", "--seconds"]
    assert main([*args, "1e-9"]) == 1
    assert "out of time after seconds=1e-09" in capsys.readouterr().out
    assert main([*args, "0"]) == 2
    assert "--seconds: expected more than 0, got 0" in capsys.readouterr().err


def test_variants_that_would_take_longer_are_left_out_and_named() -> None:
    runs = Runs(subject_of(sine(1.0), (X,)), None)
    runs.compiling = 2.0
    # Each is as large as what was compiled before; tracing takes no time to speak of.
    few = Variants.of(runs, lambda: 5.5)
    assert [t.name for t in few.transforms] == ["jit", "remat"]
    every = Variants.of(runs)
    assert few.left_out == [t.name for t in every.transforms[2:]]
    assert not every.left_out
    assert Variants.of(runs) is every
