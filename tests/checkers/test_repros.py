"""The program in `report.repro` runs, and fails where the rule is wrong."""

import inspect
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

import fbp

pytestmark = pytest.mark.filterwarnings("ignore")

X = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
BUGS = [b for b in planted.BUGS if "parallel" not in b.name and b.verdicts[0] == "WRONG"]


def importable(f, monkeypatch):
    """The function, under a name of the module that made it."""
    module = sys.modules[inspect.unwrap(f).__module__]
    monkeypatch.setattr(module, "planted_here", f, raising=False)
    return f


def run(program, folder):
    """Runs a program here, as a script; its setting of float64 does not outlive it."""
    file = folder / "repro.py"
    file.write_text(program)
    with jax.enable_x64(jax.config.jax_enable_x64):
        before = jax.config.jax_enable_x64
        try:
            runpy.run_path(str(file), run_name="__main__")
        finally:
            jax.config.update("jax_enable_x64", before)


def scaled(by):
    """y = tanh(x), its gradient times a number."""

    @jax.custom_vjp
    def f(x):
        return jnp.tanh(x)

    f.defvjp(lambda x: (f(x), x), lambda x, dy: (by * dy * (1 - jnp.tanh(x) ** 2),))
    return f


@pytest.mark.parametrize(
    ("by", "in_float64"), [(2.0, False), (1.00001, True)], ids=["in float32", "in float64 only"]
)
def test_it_runs_in_the_dtype_in_which_the_error_shows(by, in_float64, monkeypatch, tmp_path):
    report = fbp.check(importable(scaled(by), monkeypatch), X)
    assert report.verdict == "WRONG"
    assert ("jax_enable_x64" in report.repro) == in_float64
    with pytest.raises(AssertionError, match="x"):
        run(report.repro, tmp_path)


def test_there_is_none_of_a_right_rule(monkeypatch):
    assert fbp.check(importable(scaled(1.0), monkeypatch), X).repro == ""


def test_a_gradient_that_is_not_finite_has_one(monkeypatch, tmp_path):
    (bug,) = [b for b in planted.BUGS if b.name == "length/zero_row"]
    args = bug.args(np.random.default_rng(0), "tiny")
    report = fbp.check(importable(bug.make(), monkeypatch), *args)
    assert report.verdict == "RANGE"
    with pytest.raises(AssertionError, match="x"):
        run(report.repro, tmp_path)


@pytest.mark.slow
def test_it_fails_as_a_script(tmp_path: Path) -> None:
    source = """
        import jax
        import jax.numpy as jnp

        @jax.custom_vjp
        def f(x):
            return jnp.tanh(x)

        def bwd(x, dy):
            return (1.00001 * dy * (1 - jnp.tanh(x) ** 2),)

        f.defvjp(lambda x: (f(x), x), bwd)
    """
    (tmp_path / "kernels.py").write_text(textwrap.dedent(source))
    program = (
        "import numpy as np, fbp, kernels\n"
        "x = np.random.default_rng(0).normal(size=(5, 7)).astype('f4')\n"
        "print(fbp.check(kernels.f, x).repro)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (tmp_path / "repro.py").write_text(made.stdout)
    ran = subprocess.run(
        [sys.executable, "repro.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.strip().endswith("AssertionError: x")


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS[::60], ids=lambda bug: bug.name)
def test_it_fails_of_planted_bugs(bug, monkeypatch, tmp_path):
    f = importable(bug.make(), monkeypatch)
    report = fbp.check(f, *bug.args(np.random.default_rng(0), "tiny"))
    with pytest.raises(AssertionError):
        run(report.repro, tmp_path)
