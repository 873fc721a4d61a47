"""The pytest plugin, and the register of rules it collects from."""

import importlib
import json
import re
import sys

import jax
import numpy as np
import pytest

import fbp
from fbp.verify.registry import _registry
from fbp.verify.registry._named import CheckError
from fbp.verify.registry._registry import register, rules

pytest_plugins = ["pytester"]

KERNELS = """
import jax, numpy as np
import fbp

def rule(name, factor):
    @jax.custom_vjp
    def f(x):
        return x * x
    f.defvjp(lambda x: (x * x, x), lambda x, dy: (factor * x * dy,))
    f.__name__ = name
    return f

right, wrong = rule("right", 2), rule("wrong", 1)
x = np.float32([1, 2, 3])
"""
REGISTERED = KERNELS + "fbp.register(right, x)\nfbp.register(wrong, make=lambda: (x,))\n"


@pytest.fixture(autouse=True)
def _rules_of_its_own(monkeypatch):
    monkeypatch.setattr(_registry, "_RULES", {})


@pytest.fixture(scope="module", autouse=True)
def _imported():
    # pytester forgets what is first imported in a run of its own; jax may be imported only once.
    f = jax.custom_vjp(lambda x: x * x)
    f.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))
    for budget in ("fast", "default"):
        fbp.check(f, np.float32([1, 2, 3]), budget=budget)


@pytest.fixture
def run(pytester):
    """Runs pytest on a folder with kernels.py, in this process."""
    pytester.makepyfile(kernels=REGISTERED)

    def run(*args, **files):
        if files:
            pytester.makepyfile(**files)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--fbp-budget=fast", *args)

    return run


def test_a_failing_test_shows_the_card_and_no_traceback(run):
    test = """
        import kernels

        def test_right(fbp_check):
            report = fbp_check(kernels.right, kernels.x)
            assert report.ok and report.name == "right"

        def test_wrong(fbp_check):
            fbp_check(kernels.wrong, kernels.x)
    """
    result = run(test_it=test)
    result.assert_outcomes(passed=1, failed=1)
    said = result.stdout.str()
    result.stdout.re_match_lines([r"_+ test_wrong _+", r"WRONG  wrong$", r"gradient  shape"])
    assert "test_it.py:8" in said
    assert "FAILED test_it.py::test_wrong - WRONG wrong" in said
    assert "def test_wrong" not in said
    assert "verify" not in said
    assert "def test_wrong" in run("--full-trace").stdout.str()


def test_what_the_fixture_raises_can_be_expected(run):
    test = """
        import kernels, pytest
        from fbp import WrongGradientError

        def test_raises(fbp_check):
            with pytest.raises(WrongGradientError, match="x .*WRONG"):
                fbp_check(kernels.wrong, kernels.x)

        @pytest.mark.xfail(raises=WrongGradientError, strict=True)
        def test_fails(fbp_check):
            fbp_check(kernels.wrong, kernels.x)
    """
    run(test_it=test).assert_outcomes(passed=1, xfailed=1)


def test_registered_rules_are_tests(run, pytester):
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nfbp_rules = ['kernels']\n")
    result = run("--strict-markers", test_it="def test_it(): pass")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines([r"_+ fbp::wrong _+", r"WRONG  wrong$"])
    result.stdout.fnmatch_lines(["FAILED fbp::wrong - WRONG wrong: *"])
    assert "verify" not in result.stdout.str()


def test_which_rules_are_chosen(run, pytester):
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nfbp_rules = ['kernels']\n")
    pytester.makepyfile(test_it="def test_it(): pass")

    def chosen(*args):
        lines = run("--collect-only", "-q", *args).stdout.lines
        return [line for line in lines if "::" in line]

    both = ["fbp::right", "fbp::wrong"]
    assert chosen() == ["test_it.py::test_it", *both]
    assert chosen("-m", "fbp") == chosen("fbp") == both
    assert chosen("-k", "right") == chosen("fbp::right") == both[:1]
    assert chosen("fbp::right", "test_it.py") == ["test_it.py::test_it", "fbp::right"]
    # Who names tests wants those alone.
    assert chosen("test_it.py") == ["test_it.py::test_it"]
    assert chosen("test_it.py", "--fbp-rules=kernels") == ["test_it.py::test_it", *both]
    run("fbp::left").stdout.fnmatch_lines(["*registered as left; there are: right, wrong"])


def test_rules_of_one_name_in_two_modules(run):
    other = KERNELS + "fbp.register(right, x)\n"
    result = run("--fbp-rules=kernels", "--fbp-rules=other", "-v", "-k", "right", other=other)
    assert "\nfbp::right[kernels] PASSED" in result.stdout.str()
    assert "\nfbp::right[other] PASSED" in result.stdout.str()
    run("--fbp-rules=other", "fbp::right").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "fbp_rules: there is no module other"),
        ("x = 1", "fbp_rules: other registers no rule"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_collected(code, words, run):
    result = run("--fbp-rules=other", **({"other": code} if code else {}))
    result.assert_outcomes(errors=1)
    assert words in result.stdout.str()


def test_a_rule_that_cannot_be_checked(run):
    other = KERNELS + "fbp.register(right, np.arange(3))\nfbp.register(wrong, make=lambda: x)\n"
    result = run("--fbp-rules=other", other=other)
    result.assert_outcomes(failed=2)
    said = result.stdout.str()
    assert "\nright: expected an argument with floats to differentiate, got x int" in said
    assert "\nmake of wrong: expected a tuple of arguments, got ndarray" in said
    assert "verify" not in said


def test_reports_as_json(run, pytester):
    test = """
        import kernels
        def test_both(fbp_check):
            fbp_check(kernels.right, kernels.x)
            fbp_check(kernels.wrong, kernels.x)
    """
    args = ["--fbp-rules=kernels", "--fbp-json=out.json"]
    run(*args, test_it=test)
    content = json.loads((pytester.path / "out.json").read_text())
    assert list(content) == ["fbp", "ok", "reports"]
    assert not content["ok"]
    assert [(r["test"], r["verdict"]) for r in content["reports"]] == [
        ("test_it.py::test_both", "OK"),
        ("test_it.py::test_both", "WRONG"),
        ("fbp::right", "OK"),
        ("fbp::wrong", "WRONG"),
    ]
    # Its own file is written anew, also by a run that checks nothing; that is not good news.
    run(*args, "-k", "nothing")
    content = json.loads((pytester.path / "out.json").read_text())
    assert (content["ok"], content["reports"]) == (False, [])
    assert [p.name for p in pytester.path.glob("out*")] == ["out.json"]


def test_a_file_of_the_users_is_kept(run, pytester):
    mine = pytester.path / "mine.json"
    mine.write_text('{"ok": true}')
    result = run("--fbp-json=mine.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*mine.json is there already and is kept*"])
    assert mine.read_text() == '{"ok": true}'
    assert run("--fbp-json=no/where.json").ret == pytest.ExitCode.USAGE_ERROR


def test_options_go_before_what_a_check_says(run, pytester):
    test = """
        import kernels
        def test_it(fbp_check):
            assert fbp_check(kernels.right, kernels.x, budget="default").variants == {}
    """
    run("--fbp-seed=3", test_it=test).assert_outcomes(passed=1)
    assert run("--fbp-seed=-1").ret == pytest.ExitCode.USAGE_ERROR
    assert run("--fbp-budget=none").ret == pytest.ExitCode.USAGE_ERROR


def test_the_plugin_imports_neither_jax_nor_numpy(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        import sys
        def test_it():
            assert "fbp.verify.pytest_plugin" in sys.modules
            assert not {"jax", "numpy", "optax", "rich", "tyro"} & set(sys.modules)
        """
    )
    # Of the entry points, the one of this name.
    pytester.runpytest_subprocess("-p", "fbp").assert_outcomes(passed=1)


# The register.


def square(x):
    return x * x


def test_register_gives_the_rule_back():
    assert register(square, 1.0) is square
    assert register(make=lambda: (1.0,), name="again")(square) is square
    dense = fbp.Dense(3, 5)
    register(dense, make=lambda: ())
    assert [(rule.name, rule.module) for rule in rules()] == [
        ("square", __name__),
        ("again", __name__),
        ("Dense", __name__),
    ]
    assert rules(__name__) == rules()
    assert rules("test") == []


def test_nothing_is_made_before_it_is_checked():
    made = []
    register(square, make=lambda: made.append(1) or (np.float32(2),), name="mine")
    assert not made
    (rule,) = rules()
    report = rule.check(budget="fast")
    assert (made, report.name, report.verdict) == ([1], "mine", "VACUOUS")


def test_two_rules_of_one_name_are_refused():
    register(square, 1.0)
    words = rf"^register: {__name__} has registered a rule 'square' already: give one of them"
    with pytest.raises(ValueError, match=words):
        register(square, 2.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: register(square), "expected either arguments or make=, got neither"),
        (lambda: register(square, 1.0, make=tuple), "expected either arguments or make=, got both"),
        (lambda: register(lambda x: x, 1.0), "expected name= for <lambda>"),
        (lambda: register(np.ones(3), 1.0), "expected a function, a Layer or a Loss first"),
        (lambda: register(square, 1.0, name="a::b"), "expected a name of printable characters"),
        (lambda: register(square, 1.0, name=""), "expected a name of printable characters"),
    ],
)
def test_what_cannot_be_registered(call, words):
    with pytest.raises((TypeError, ValueError), match=f"^register: {re.escape(words)}"):
        call()
    assert rules() == []


def test_what_make_makes():
    register(square, make=lambda: np.ones(3))
    with pytest.raises(CheckError, match=r"^make of square: expected a tuple of arguments, got nd"):
        rules()[0].check()


def test_a_module_that_is_reloaded_registers_anew(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "reloaded_rules.py"
    path.write_text("import fbp\nfbp.register(abs, 1.0)\nfbp.register(max, 1.0)\n")
    module = importlib.import_module("reloaded_rules")
    path.write_text("import fbp\nfbp.register(abs, 2.0)\n")
    importlib.reload(module)
    assert [(rule.name, rule.args) for rule in rules("reloaded_rules")] == [("abs", (2.0,))]
    monkeypatch.delitem(sys.modules, "reloaded_rules")


def test_a_time_limit_of_each_check(run):
    result = run("--fbp-rules=kernels", "--fbp-seconds=1e-9", "fbp::right")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(["UNVERIFIABLE  right", "note  out of time after seconds=1e-09: "])
    for wrong in ("0", "-1", "soon"):
        result = run(f"--fbp-seconds={wrong}")
        assert f"expected more than 0, got '{wrong}'" in result.stderr.str()


EXPECTED = """
[tool.fbp.expect]
wrong = "half of it is meant"
right = "not sure"
"""


def test_a_rule_that_is_expected_to_differ(pytester, run):
    pytester.makefile(".toml", pyproject=EXPECTED)
    result = run("--fbp-rules=kernels", "-rx", "-Wdefault")
    result.assert_outcomes(passed=1, xfailed=1, warnings=1)
    result.stdout.fnmatch_lines(["*half of it is meant*"])
    result.stdout.fnmatch_lines(["*right is right: it needs no exception*"])


def test_a_reference_for_a_rule(pytester, run):
    toml = '[tool.fbp.expect]\nwrong = { reference = "kernels:half" }\n'
    pytester.makefile(".toml", pyproject=toml)
    half = "\ndef half(x):\n    return x * x / 2 + jax.lax.stop_gradient(x * x / 2)\n"
    result = run("--fbp-rules=kernels", kernels=REGISTERED + half)
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("what", ["3", '""', '{ reference = "kernels" }', "{ why = 1 }"])
def test_an_exception_that_is_none(what, pytester, run):
    pytester.makefile(".toml", pyproject=f"[tool.fbp.expect]\nwrong = {what}\n")
    result = run("--fbp-rules=kernels")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*pyproject.toml: wrong: expected a reason or*"])


def test_the_fixture_for_audits(pytester, run):
    pytester.makefile(".toml", pyproject='[tool.fbp.expect]\nf = "meant"\n')
    code = """
    import jax.numpy as jnp
    from kernels import right, wrong, x

    def test_right(fbp_audit):
        assert fbp_audit(lambda w: jnp.sum(right(w * x)), jnp.float32(2)).ok

    def test_expected(fbp_audit):
        assert fbp_audit(lambda w: jnp.sum(wrong(w * x)), jnp.float32(2)).ok

    def test_not_expected(fbp_audit):
        fbp_audit(lambda w: jnp.sum(wrong(w * x)), jnp.float32(2), expect={})
    """
    result = run(test_audits=code)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*WRONG*<lambda>: 1 custom rules*"])
