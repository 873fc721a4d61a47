"""Planted bugs: which there are, that no file changes, and what is said of tests that miss them."""

import ast
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fbp.cli._mutate import Mutate
from fbp.verify import mutate
from fbp.verify.mutate._operators import Place
from fbp.verify.mutate._trial import Trial

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    monkeypatch.setattr(sys, "modules", {name: sys.modules[name] for name in before})


def mutants(folder: Path, source: str) -> list[mutate.Mutant]:
    """The mutants of all functions of a source."""
    file = folder / "source.py"
    file.write_text(source)
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return mutate.mutants_in([Place(str(file), f.name, f) for f in functions])


def of_body(folder: Path, body: str) -> dict[str, set[str]]:
    """What each operator makes of a function's body."""
    found: dict[str, set[str]] = {}
    head = "import jax, jax.numpy as jnp\nfrom jax import lax\n"
    for m in mutants(folder, f"{head}def f(x, dy, n):\n    {body}\n"):
        found.setdefault(m.operator, set()).add(m.after)
    return found


# A body, an operator, and all that it makes of it.
TABLE = [
    ("y = x + dy", "sign", {"y = x - dy", "y = -(x + dy)"}),
    ("y = -x", "sign", {"y = x"}),
    ("y = jnp.exp(x)", "sign", {"y = jnp.exp(-x)"}),
    ("return ((), dy.astype(x.dtype))", "sign", {"return ((), -dy.astype(x.dtype))"}),
    ("y = x - dy", "term", {"y = x", "y = -dy"}),
    ("x += dy", "term", {"pass", "x = dy"}),
    ("y = x * dy", "factor", {"y = x", "y = dy", "y = x / dy"}),
    ("y = x / n", "factor", {"y = x", "y = 1 / n", "y = x * n"}),
    ("y = x ** 3", "factor", {"y = x ** 2"}),
    ("y = x @ dy", "factor", {"y = x", "y = dy", "y = dy @ x"}),
    ("y = (n, 1) * 2", "factor", set()),
    ("y = 0.5 * x", "constant", {"y = 1.0 * x"}),
    ("y = 3 * x", "constant", {"y = 6 * x"}),
    ("y = f(0)", "constant", {"y = f(1)"}),
    ("y = x <= dy", "condition", {"y = x < dy"}),
    ("y = x == dy", "condition", {"y = x <= dy", "y = x >= dy"}),
    ("if x < n: pass", "condition", {"if x <= n", "if not x < n"}),
    ("y = x if n else dy", "condition", {"y = dy if n else x"}),
    ("y = x & dy", "condition", {"y = x", "y = dy", "y = x | dy"}),
    ("y = ~x", "condition", {"y = x"}),
    ("return (x, dy)", "order", {"return (dy, x)"}),
    ("return (x, dy, n)", "order", {"return (dy, x, n)", "return (x, n, dy)"}),
    ("y = lax.scan(f, x, dy, reverse=True)", "order", {"y = lax.scan(f, x, dy)"}),
    ("for y in reversed(x): pass", "order", {"for y in x"}),
    ("y = x[::-1]", "order", {"y = x"}),
    ("y = x[1]", "index", {"y = x[2]", "y = x[0]"}),
    ("y = x[:, -1]", "index", {"y = x[:, -2]"}),
    ("y = x[:n]", "index", {"y = x[:n - 1]", "y = x[:n + 1]"}),
    ("y = x['w'] + x['b']", "index", {"y = x['b'] + x['b']", "y = x['w'] + x['w']"}),
    ("y = x.sum(-1)", "axis", {"y = x.sum()", "y = x.sum(0)"}),
    ("y = jnp.sum(x, axis=0)", "axis", {"y = jnp.sum(x)", "y = jnp.sum(x, axis=-1)"}),
    ("y = x.sum(keepdims=True)", "axis", {"y = x.sum()", "y = x"}),
    ("y = jnp.sum(x, (0, 1))", "axis", {"y = jnp.sum(x)", "y = jnp.sum(x, (1,))",
                                        "y = jnp.sum(x, (0,))"}),
    ("y = x.mean()", "function", {"y = x.sum()"}),
    ("y = jnp.sin(x)", "function", {"y = jnp.cos(x)"}),
    ("y = jnp.exp(x)", "function", {"y = x"}),
    ("y = x.max()", "function", {"y = x.min()"}),
    ("y = jnp.tensordot(x, dy, 1)", "function", {"y = jnp.tensordot(dy, x, 1)"}),
    ("y = jnp.einsum('bi,bj->ij', x, dy)", "function", {"y = jnp.einsum('bi,bj->ij', dy, x)",
                                                        "y = jnp.einsum('bi,bj->ji', x, dy)"}),
    ("y = dy @ x.T", "transpose", {"y = dy @ x", "y = dy.T @ x.T"}),
    ("y = x.swapaxes(0, 1)", "transpose", {"y = x"}),
    ("y = jnp.where(n, x, dy)", "mask", {"y = jnp.where(n, dy, x)", "y = x", "y = dy"}),
    ("y = jnp.clip(x, 0, n)", "mask", {"y = x", "y = jnp.clip(x, None, n)",
                                       "y = jnp.clip(x, 0, None)"}),
    ("y = x.at[n].add(dy)", "scatter", {"y = x.at[n].set(dy)"}),
    ("y = x * dy", "names", {"y = dy * dy", "y = x * x"}),
    ("y = jnp.sum(x.astype(n), dtype=n)", "precision", {"y = jnp.sum(x, dtype=n)",
                                                        "y = jnp.sum(x.astype(n))"}),
    ("y = at_least_float32(x)", "precision", {"y = x"}),
    ("y = x.astype(jnp.float32)", "precision", {"y = x.astype(jnp.bfloat16)", "y = x"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "operator", "want"), TABLE)
def test_operators(body: str, operator: str, want: set[str], tmp_path: Path) -> None:
    assert of_body(tmp_path, body).get(operator, set()) == want


SOURCE = '''"""A module."""
import jax.numpy as jnp


def f(x, dy, axis=-1):
    """Text with - and 1 + 1."""
    require_float(x, 1)
    if x.ndim < 1:
        what = 1 + 1
        raise ValueError(f"{x.ndim - 1} axes")
    y: "1 + 1" = (
        x * dy
        - x
    )
    return y.sum(axis)
'''


def test_mutants_differ_compile_and_keep_lines(tmp_path: Path) -> None:
    found = mutants(tmp_path, SOURCE)
    source = SOURCE.encode()
    dumps = [ast.dump(ast.parse(m.applied(source))) for m in found]
    assert len({*dumps, ast.dump(ast.parse(source))}) == len(found) + 1
    for m in found:
        assert m.applied(source).count(b"\n") == source.count(b"\n")
        assert (
            m.applied(source).splitlines()[-1]
            in (
                b"    return y.sum(axis)",
                b"    " + (m.after.encode() if m.line == 15 else b"return y.sum(axis)"),
            )
            or m.line == 15
        )
        assert m.file == str(tmp_path / "source.py")
    # Checks, messages, annotations and defaults are not what a gradient goes through.
    assert {m.line for m in found} == {12, 13, 15}
    assert {m.before for m in found} == {"y: '1 + 1' = x * dy - x", "return y.sum(axis)"}


def test_bytes_are_not_characters(tmp_path: Path) -> None:
    found = mutants(tmp_path, "def f(x):\n    δ = 'é'; return x + δ\n")
    assert {m.after for m in found if m.operator == "term"} == {"return x", "return δ"}


KERNELS = """import functools
import jax
import jax.numpy as jnp


def helper(x):
    return 2 * x


def shared(x):
    return 3 * x


@jax.custom_vjp
def square(x):
    return shared(x) * x / 3


def square_fwd(x):
    return square(x), x


def square_bwd(x, dy):
    return (helper(x) * dy,)


square.defvjp(square_fwd, square_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def cube(x, unused):
    return x**3


cube.defvjp(lambda x, unused: (x**3, x), lambda unused, x, dy: (x * shared(x) * dy,))


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


@sine.defjvp
def sine_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return sine(x), jnp.cos(x) * dx


@jax.custom_jvp
def fourth(x):
    return x**4


fourth.defjvps(lambda dx, y, x: 4 * x**3 * dx)


def public(x):
    return square(x)


class Double:
    def forward(self, params, x, key=None):
        return 2 * x, ()

    def backward(self, params, x, res, dy):
        return (), self._twice(dy)

    def _twice(self, dy):
        return 2 * dy


def no_rule(x):
    return x
"""


def kernels(folder: Path, name: str = "kernels") -> Path:
    file = folder / f"{name}.py"
    file.write_text(KERNELS)
    return file


def functions_of(target: Any, helpers: bool = False) -> list[str]:
    return list(dict.fromkeys(m.function for m in mutate.mutants_of(target, helpers)))


def test_which_code_is_the_backward(tmp_path: Path) -> None:
    kernels(tmp_path)
    assert functions_of("kernels:square") == ["helper", "square_bwd"]
    assert functions_of("kernels.py:public") == ["helper", "square_bwd"]
    assert functions_of("kernels:cube") == ["<lambda>"]
    assert functions_of("kernels:cube", helpers=True) == ["shared", "<lambda>"]
    assert functions_of("kernels:sine") == ["sine_jvp"]
    assert functions_of("kernels:fourth") == ["<lambda>"]
    assert functions_of("kernels:Double") == ["Double.backward", "Double._twice"]
    assert functions_of("kernels:square_bwd") == ["helper", "square_bwd"]
    whole = ["helper", "square_bwd", "<lambda>", "sine_jvp", "Double.backward", "Double._twice"]
    assert functions_of("kernels") == whole
    assert functions_of(str(tmp_path / "kernels.py")) == whole

    import kernels as module

    assert functions_of(module) == whole
    assert functions_of(module.square) == ["helper", "square_bwd"]
    assert functions_of(module.Double()) == ["Double.backward", "Double._twice"]
    # Of two lambdas in a line, the right one.
    assert {m.before for m in mutate.mutants_of(module.cube)} == {
        "cube.defvjp(lambda x, unused: (x ** 3, x), lambda unused, x, dy: (x * shared(x) * dy,))"
    }
    assert all("(x ** 3, x)" in m.after for m in mutate.mutants_of(module.cube))


HIDDEN = """import functools
import jax
import jax.numpy as jnp


class filter_custom_jvp:  # as that of equinox
    def __init__(self, fn):
        self.fn = jax.custom_jvp(lambda static, *args: fn(*args), nondiff_argnums=(0,))

    def def_jvp(self, jvp):
        self.fn.defjvp(lambda static, p, t: jvp(p, t))
        return jvp

    def __call__(self, *args):
        return self.fn((), *args)


@filter_custom_jvp
def filtered(x):
    return jnp.sin(x)


@filtered.def_jvp
def _(p, t):
    return jnp.sin(p[0]), jnp.cos(p[0]) * t[0]


def scaled_by(n):
    @jax.custom_vjp
    def f(x):
        return n * x

    def bwd(_, dy):
        return (n * dy,)

    f.defvjp(lambda x: (f(x), ()), bwd)
    return f


doubled = scaled_by(2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def power(x, n):
    return x**n


def power_bwd(n, x, dy):
    return (n * x ** (n - 1) * dy,)


def register():
    power.defvjp(lambda x, n: (x**n, x), bwd=functools.partial(power_bwd))


class Layer:
    @jax.custom_jvp
    def sine(x):
        return jnp.sin(x)

    @functools.partial(sine.defjvp, symbolic_zeros=True)
    def sine_jvp(p, t):
        return jnp.sin(p[0]), jnp.cos(p[0]) * t[0]

    def __call__(self, x):
        @jax.custom_vjp
        def inner(x):
            return x * x

        inner.defvjp(lambda x: (x * x, x), self._backward)
        return inner(x)

    def _backward(self, x, dy):
        return (2 * x * dy,)


@jax.custom_gradient
def square(x):
    def grad(dy):
        return 2 * x * dy

    return x**2, grad


def bwd(x):  # of the same name as that in the factory
    return x + 1
"""


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("filtered", ["_"]),
        ("scaled_by", ["scaled_by.bwd"]),
        ("doubled", ["scaled_by.bwd"]),
        ("power", ["power_bwd"]),
        ("register", ["power_bwd"]),
        ("Layer", ["Layer.sine_jvp", "Layer._backward"]),
        ("Layer.sine", ["Layer.sine_jvp"]),
        ("Layer.__call__", ["Layer._backward"]),
        ("square", ["square.grad"]),
        ("bwd", ["bwd"]),
    ],
)
def test_rules_that_are_found_in_the_source(tmp_path: Path, name: str, found: list[str]) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN)
    assert functions_of(f"hidden:{name}") == found


def test_all_rules_of_a_file_are_found_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN)
    first = ["filter_custom_jvp.def_jvp.<lambda>", "_", "scaled_by.bwd", "power_bwd"]
    assert functions_of("hidden") == [*first, "Layer.sine_jvp", "Layer._backward", "square.grad"]


BASE = """class Base:
    def forward(self, params, x, key=None):
        return self.scale(x) + self.shift(x), ()

    def backward(self, params, x, res, dy):
        return (), self.slope(x) * self.scale(dy) + self.apart(x)

    def recompute(self, params, x, res):
        return self.shift(x)

    def slope(self, x):
        raise NotImplementedError

    def scale(self, x):
        return 2 * x

    def apart(self, x):
        return x - x
"""
HEIR = """from base import Base


def same(x):
    return x + 0


class Heir(Base):
    def shift(self, x):
        return x + 1

    def slope(self, x):
        return 2 * self._once(x)

    def scale(self, x):
        return 3 * x

    def _once(self, x):
        return 1 * same(x)


class Last(Heir):
    def slope(self, x):
        return 4 * x


class Own(Heir):
    def backward(self, params, x, res, dy):
        return (), 5 * dy
"""


def test_a_class_writes_parts_of_an_inherited_backward(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "heir.py").write_text(HEIR)
    # Also what a helper alone uses.
    heir = ["same", "Heir.slope", "Heir.scale", "Heir._once"]
    assert functions_of("heir:Heir") == heir
    assert functions_of("heir:Last") == ["Heir.scale", "Last.slope"]
    assert functions_of("heir:Own") == ["Own.backward"]
    assert functions_of("base:Base") == ["Base.backward", "Base.apart"]
    assert functions_of("heir") == [*heir, "Last.slope", "Own.backward"]
    # Also where all of it is in one file.
    (tmp_path / "one.py").write_text(BASE + HEIR.replace("from base import Base", ""))
    found = functions_of("one:Last")
    assert found == ["Base.backward", "Base.apart", "Heir.scale", "Last.slope"]


def test_a_file_in_a_package_is_that_package_s_module(tmp_path: Path) -> None:
    (tmp_path / "src" / "pack").mkdir(parents=True)
    (tmp_path / "src" / "pack" / "__init__.py").write_text("")
    kernels(tmp_path / "src" / "pack")
    assert functions_of("src/pack/kernels.py:sine") == ["sine_jvp"]
    assert "pack.kernels" in sys.modules


def test_rules_of_fbp(monkeypatch: pytest.MonkeyPatch) -> None:
    import fbp

    assert functions_of(fbp.Dense) == ["Dense.backward"]
    assert functions_of("fbp:Serial") == ["Serial.backward", "Serial.recompute", "Serial._inputs"]
    assert functions_of(fbp.Huber()) == ["Huber.element"]
    assert functions_of(fbp.LSTMCell) == ["LSTMCell.backward_step", "LSTMCell.gather"]
    assert functions_of(fbp.Microbatch)[-1] == "Microbatch._weighted_sum"
    after = {m.after for m in mutate.mutants_of(fbp.Relu)}
    assert "dx = jnp.where(y == 0, dy, 0)" in after


def said_by(capsys: pytest.CaptureFixture[str], name: str, **options: Any) -> str:
    """The one line that says what is wrong with what was typed."""
    assert Mutate(name, **options).run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fbp: ")
    assert err.count("\n") == 1
    return err.removeprefix("fbp: ").strip()


def test_bad_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels(tmp_path)
    (tmp_path / "broken.py").write_text("import math\ndef f(:\n")
    (tmp_path / "raising.py").write_text("raise OSError('no\\ndisk')\n")
    (tmp_path / "needing.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "empty.py").write_text("def f(x):\n    return x\n")
    for name, message in {
        "kernels:squre": "kernels has no squre; it has square, cube, sine, fourth, Double",
        "kernel:square": "there is no module kernel",
        "lib/kernels.py:square": "lib/kernels.py: there is no such file",
        "broken.py:f": f"{tmp_path}/broken.py:2: invalid syntax",
        "raising:f": "raising cannot be imported: OSError: no disk (raising.py:1)",
        "needing:f": "needing cannot be imported: No module named 'nothing_of_that_name'",
        "empty:f": "there is nothing to mutate in f",
    }.items():
        assert said_by(capsys, name) == message
    assert said_by(capsys, "empty").startswith("empty has no backward rule: no custom_vjp")
    said = said_by(capsys, "kernels:square", tests=("nowhere.py",))
    assert said == "nowhere.py: there is no such file or folder of tests"
    said = said_by(capsys, "kernels:square", limit=0)
    assert said == "--limit: expected a number of 1 or more, got 0"
    (tmp_path / "there.json").write_text("{}")
    assert "exists already" in said_by(capsys, "kernels:square", json=Path("there.json"))


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels(tmp_path)
    assert Mutate("kernels.py:square", list=True).run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "factor     kernels.py:24  return (helper(x) * dy,)  ->  return (helper(x),)" in lines
    assert lines[-1] == f"{len(lines) - 1} mutants"


def test_importing_it_does_not_import_jax() -> None:
    import subprocess

    code = "import sys, fbp.cli._mutate, fbp.verify.mutate; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# With tests. Rules without jax, so that a run of the tests takes no time.

RULE = """def backward(x, dy):
    return 2 * x * dy
"""
STRONG = """from rule import backward
def test_numbers():
    assert backward(3.0, 5.0) == 30.0
    assert backward(3.0, -0.5) == -3.0
"""
WEAK = """from rule import backward
def test_it_runs():
    backward(3.0, 5.0)
def test_zero():
    assert backward(0.0, 0.0) == 0.0
"""


def user(folder: Path, rule: str = RULE, **tests: str) -> Path:
    (folder / "rule.py").write_text(rule)
    (folder / "tests").mkdir(exist_ok=True)
    for name, source in tests.items():
        (folder / "tests" / f"test_{name}.py").write_text(source)
    return folder / "rule.py"


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_strong_tests_kill_and_no_file_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user(tmp_path, strong=STRONG, weak=WEAK)
    before = everything_in(tmp_path)
    assert Mutate("rule.py:backward", workers=2).run() == 0
    out = capsys.readouterr().out.splitlines()
    assert everything_in(tmp_path) == before
    assert not (tmp_path / "tests" / "__pycache__").exists()
    killed = [line for line in out if line.endswith("killed by tests/test_strong.py::test_numbers")]
    assert any(
        line.startswith("rule.py:2  return 2 * x * dy  ->  return 2 * x ") for line in killed
    )
    count = len(mutate.mutants_of("rule.py:backward"))
    assert out[-1].startswith(f"killed {count} of {count}")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_weak_tests_let_mutants_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user(tmp_path, weak=WEAK)
    assert Mutate("rule:backward", tests=("tests",), json=Path("out.json"), workers=1).run() == 1
    out = capsys.readouterr().out
    assert "rule.py:2  return 2 * x * dy  ->  return 2 * x + dy" not in out
    assert out.count("SURVIVED") >= 4
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["mutants"] == len(saved["results"])
    assert saved["killed"] == sum(r["status"] != "survived" for r in saved["results"])
    division = [r for r in saved["results"] if r["after"] == "return 2 * x / dy"]
    assert division[0]["status"] == "error"
    assert division[0]["by"] == "tests/test_weak.py::test_zero"
    assert "ZeroDivisionError" in division[0]["said"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_unusable_tests_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user(
        tmp_path,
        failing="from rule import backward\ndef test_a():\n    assert backward(1, 1) == 3\n",
    )
    said = said_by(capsys, "rule:backward", workers=1)
    start = "the tests fail without any mutant: tests/test_failing.py::test_a: "
    assert said.startswith(start + "assert 2 == 3") or said.startswith(start + "AssertionError")
    (tmp_path / "tests" / "test_failing.py").write_text("import rule\n")
    assert (
        said_by(capsys, "rule:backward", tests=("tests",)) == "no tests were collected from tests"
    )
    (tmp_path / "tests" / "test_failing.py").write_text("def test_b(:\n")
    said = said_by(capsys, "rule:backward")
    assert said.startswith("the tests fail without any mutant: tests/test_failing.py: ")
    (tmp_path / "tests" / "test_failing.py").write_text("def test_b(): pass\n")
    assert said_by(capsys, "rule:backward") == "the tests never import rule.py"
    (tmp_path / "tests" / "test_failing.py").write_text("import rule\ndef test_b(): pass\n")
    score = mutate.score("rule:backward")
    assert {str(result) for result in score.results} == {"SURVIVED (no test runs it)"}


@pytest.mark.slow
def test_what_hangs_or_crashes_is_killed(tmp_path: Path) -> None:
    rule = """import os
def backward(x, dy):
    total = 0.0
    while x > 0:
        total += dy
        x -= 1
    if dy > 100:
        os.kill(os.getpid(), 9)
    return total
"""
    user(tmp_path, rule, strong="import rule\ndef test():\n    assert rule.backward(2, 3) == 6\n")
    mutants = mutate.mutants_of("rule:backward")
    hangs = [m for m in mutants if m.after in ("x += 1", "pass") and m.before == "x -= 1"]
    crashes = [m for m in mutants if m.after == "if not dy > 100"]
    with Trial(mutate.places_of("rule:backward"), [], 1) as trial:
        trial.check_baseline()
        trial.limit = 10.0
        started = time.monotonic()
        score = trial.score([*hangs, *crashes])
        assert time.monotonic() - started < 120
    assert [str(r) for r in score.results] == ["killed by time-out"] * 2 + ["killed by a crash"]
    assert score.summary() == "killed 3 of 3 (1 by an error, 2 by time-out)"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_rules_in_test_files_and_files_loaded_by_path(tmp_path: Path) -> None:
    user(tmp_path, inside=RULE + "def test():\n    assert backward(3.0, 5.0) == 30.0\n")
    score = mutate.score("tests/test_inside.py:backward", "tests/test_inside.py")
    assert score.ok, str(score)
    load = """import importlib.util, pathlib
path = pathlib.Path(__file__).parent.parent / "rule.py"
spec = importlib.util.spec_from_file_location("any_name", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def test():
    assert module.backward(3.0, 5.0) == 30.0
"""
    user(tmp_path, by_path=load)
    score = mutate.score("rule:backward", ["tests/test_by_path.py"])
    assert score.ok, str(score)


EQUIVALENT = """import functools
import jax
import jax.numpy as jnp


class Rules:
    @staticmethod
    def relu_bwd(x, dy):
        y = jnp.maximum(x, 0)
        return (jnp.where(y == 0, 0, dy),)


def made():
    @jax.custom_vjp
    def f(w, x):
        return w @ x

    @functools.wraps(f)
    def bwd(res, dy):
        w, x = res
        return jnp.outer(dy, x.T), dy @ w

    f.defvjp(lambda w, x: (w @ x, (w, x)), bwd)
    return f


relu = jax.custom_vjp(lambda x: jnp.maximum(x, 0))
relu.defvjp(lambda x: (jnp.maximum(x, 0), x), Rules.relu_bwd)
square = jax.custom_vjp(lambda x: x * x)
square.defvjp(lambda x: (x * x, x), lambda x, dy: (2 * x.T * dy,))
"""
OF_EQUIVALENT = """import jax, jax.numpy as jnp
from equal import made, relu, square
x = jnp.asarray([1.5, -2.0, 0.5])
def test_made():
    w, dy = jnp.arange(6.0).reshape(2, 3), jnp.asarray([0.5, -3.0])
    dw, dx = jax.vjp(made(), w, x)[1](dy)
    assert (dw == dy[:, None] * x).all() and (dx == dy @ w).all()
def test_relu():
    dy = jnp.asarray([2.0, 3.0, 5.0])
    assert jax.jit(lambda x: jax.vjp(relu, x)[1](dy))(x)[0].tolist() == [2, 0, 5]
def test_square_of_ones():
    assert (jax.grad(lambda x: square(x).sum())(x) == 2 * x).all()
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_equivalent_mutants_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "equal.py").write_text(EQUIVALENT)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_equal.py").write_text(OF_EQUIVALENT)
    wanted = {
        "return (jnp.outer(dy, x), dy @ w)": "equivalent: the same program for all shapes",
        "return (jnp.where(y <= 0, 0, dy),)": "equivalent: the same bits for all shapes",
        "lambda x, dy: (2 * x * dy,))": "equivalent: the same program for all shapes",
        # The same for the cotangents of the tests only, which are ones.
        "lambda x, dy: (2 * x.T,))": "SURVIVED",
    }
    mutants = [m for m in mutate.mutants_of("equal") if m.after.endswith(tuple(wanted))]
    assert len(mutants) == len(wanted)
    with Trial(mutate.places_of("equal"), [], 2) as trial:
        trial.check_baseline()
        score = trial.score(mutants)
    for result in score.results:
        said = next(said for after, said in wanted.items() if result.mutant.after.endswith(after))
        assert str(result).startswith(said), result
    assert score.summary() == "killed 0 of 1, 3 more are equivalent"
    assert json.loads(score.to_json())["equivalent"] == 3
    assert not score.ok


@pytest.mark.slow
def test_a_custom_vjp_and_tests_that_configure_jax(tmp_path: Path) -> None:
    """A conftest that sets what jax reads when imported: jax may not be imported before it."""
    kernels(tmp_path, "rule")
    test = """import jax, jax.numpy as jnp
from rule import square
def test_square():
    x = jnp.asarray(3.0)
    assert x.dtype == jnp.float64
    assert jax.grad(lambda x: 5 * square(x))(x) == 30
"""
    (tmp_path / "conftest.py").write_text("import os\nos.environ['JAX_ENABLE_X64'] = '1'\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_square.py").write_text(test)
    score = mutate.score("rule:square", limit=2, workers=1)
    assert len(score.killed) == 2, str(score)
    (tmp_path / "tests" / "test_square.py").write_text(test.replace("== 30", "!= 31"))
    score = mutate.score("rule:square", limit=2, workers=1)
    assert score.survived


@pytest.mark.slow
def test_the_tests_that_kill_must_pass_alone(tmp_path: Path) -> None:
    test = """import rule
seen = []
def test_first():
    seen.append(1)
    assert rule.backward(3.0, 5.0) != 1
def test_second():
    assert seen and rule.backward(3.0, 5.0) == 30.0
"""
    user(tmp_path, order=test)
    with pytest.raises(mutate.MutateError, match=r"::test_second fails without any mutant, after"):
        mutate.score("rule:backward", workers=1)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_list_of_equivalents_is_of_mutants_there_are() -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "mutants", "--list"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
