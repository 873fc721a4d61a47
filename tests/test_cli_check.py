"""`fbp check` and `fbp audit`: what they print, and what mistakes are told."""

import inspect
import json
import os
import pickle
import sys

import jax
import numpy as np
import pytest

import fbp
from fbp import combinators, layers, losses, ports
from fbp.cli import main
from fbp.cli._inputs import parse_inputs
from fbp.verify.registry import _own, _registry
from fbp.verify.registry._named import CheckError

KERNELS = """
import jax, jax.numpy as jnp, numpy as np
import fbp

def rule(factor):
    @jax.custom_vjp
    def f(x, scale):
        return scale * x * x
    f.defvjp(
        lambda x, scale: (scale * x * x, (x, scale)),
        lambda res, dy: (factor * res[1] * res[0] * dy, (res[0] ** 2 * dy).sum()),
    )
    return f

right, wrong = rule(2), rule(1)
x = np.float32([[1, -2, 3], [0.5, 2, 1]])
fbp.register(right, x, np.float32(2), name="right")
fbp.register(wrong, make=lambda: (x, np.float32(2)), name="wrong", budget="fast")
fbp.register(right, make=lambda: 1 / 0, name="broken")

twice = fbp.Scale((3,))
mean = fbp.MeanSquaredError()
objective = fbp.Objective(twice, mean)

def plain(x, scale):
    return scale * x**2

above_1 = {"scale": lambda scale: scale > 1}

def total(x, scale):
    return scale * x.sum()

def loss(params, x):
    return wrong(x, params["b"] * right(x[0], params["a"]).sum()).sum()

def inputs():
    return {"a": np.float32(2), "b": np.float32(3)}, x

def not_inputs():
    return x
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "kernels.py").write_text(KERNELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(_registry, "_RULES", {})
    yield
    for name in ("kernels", "pack", "pack.kernels"):
        sys.modules.pop(name, None)


def failure(capsys, *args):
    assert main([*map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return said


FAST = ["--budget", "fast"]


@pytest.mark.parametrize("where", ["kernels", "kernels.py", "pack/kernels.py"])
def test_a_rule_by_its_name(where, tmp_path, capsys):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "kernels.py").write_text(KERNELS)
    assert main(["check", f"{where}:right", "--input", "3x2", "float32[]", *FAST]) == 0
    assert capsys.readouterr().out.startswith("OK  right\ngradient ")
    assert main(["check", f"{where}:wrong"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("WRONG  wrong\ngradient ")
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("name", "args"), [("twice", "7x3"), ("mean", "7x3 7x3"), ("objective", "7x3 7x3")]
)
def test_parameters_of_fbps_own_are_drawn(name, args, capsys):
    assert main(["check", f"kernels:{name}", "--input", *args.split(), *FAST]) == 0
    assert capsys.readouterr().out.startswith(f"OK  {name}\n")
    assert f"kernels:{name}: expected --input for" in failure(
        capsys, "check", f"kernels:{name}", "--input", *args.split() * 3
    )


def test_all_rules_of_a_module(tmp_path, capsys):
    (tmp_path / "kernels.py").write_text(KERNELS.replace("1 / 0", "(x, np.float32(1))"))
    assert main(["check", "kernels", *FAST, "--json", "out.json"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rule", "verdict", "seconds"]
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["right", "OK"],
        ["wrong", "WRONG"],
        ["broken", "OK"],
    ]
    # A card of what is wrong alone.
    assert [line for line in lines[5:] if line.startswith(("OK", "WRONG"))] == ["WRONG  wrong"]
    assert lines[-1].startswith("1 of 3 rules wrong; ")
    content = json.loads((tmp_path / "out.json").read_text())
    assert (list(content), content["ok"]) == (["fbp", "ok", "reports"], False)
    assert [r["name"] for r in content["reports"]] == ["right", "wrong", "broken"]


def test_a_reference(capsys):
    args = ["check", "kernels:right", *FAST, "--reference"]
    assert main([*args, "kernels.py:plain"]) == 0
    assert "autodiff of plain" in capsys.readouterr().out
    assert "expected outputs" in failure(capsys, *args, "kernels:total")
    assert "reference loss raises TypeError: " in failure(capsys, *args, "kernels:loss")
    assert "expected pkg.module:name, got kernels" in failure(capsys, *args, "kernels")


def test_a_domain(capsys):
    args = ["check", "kernels:right", *FAST, "--domain"]
    assert main([*args, "kernels.py:above_1"]) == 0
    assert "in the domain that was declared" in capsys.readouterr().out
    assert "domain: expected a function or a dict" in failure(capsys, *args, "kernels:x")
    outside = ["--input", "7", "0.5"]
    said = failure(capsys, *args, "kernels:above_1", *outside)
    assert "expected arguments in their domain, got scale outside of it" in said
    assert "--domain: expected pkg.module:name" in failure(capsys, *args, "kernels")


def test_colour_is_for_terminals(monkeypatch, capsys):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["check", "kernels:wrong"]) == 1
    assert capsys.readouterr().out.startswith("\x1b[1;31mWRONG\x1b[0m  wrong\n")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["check", "kernels:wrong"]) == 1
    assert capsys.readouterr().out.startswith("WRONG  wrong\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("no_such.thing:f", "there is no module no_such"),
        ("no/such.py:f", "no/such.py: there is no such file"),
        ("kernels:rihgt", "kernels has no rihgt; did you mean right?"),
        ("kernels:jnp.cos", "expected --input SPEC for x, or fbp.register"),
        ("kernels:x", "kernels:x: expected a function, a layer or a loss, got a ndarray"),
        ("fbp:Dense --input 7x5", "expected a function, a layer or a loss, got a class"),
        ("kernels:loss", "expected --input SPEC for params, x, or fbp.register"),
        ("kernels:inputs --input 1", "expected --input for no argument, got 1"),
        ("kernels:plain --input 7x5", "expected --input for x, scale, got 1"),
        ("kernels:plain --input 7x5 float32[4]", "plain raises on these arguments: "),
        ("kernels:plain --input 'int32[7]<3' 1", "expected an argument with floats"),
        ("kernels:broken", "make of broken raises ZeroDivisionError: division by zero (kernels.py"),
        ("kernels --input 7x5", "--input is of a function: expected kernels:name"),
        ("--input 7x5", "--input, --reference and --domain are of a function"),
        ("os", "os registers no rule: expected os:name"),
        ("kernels:right --seed -1", "--seed: expected 0 or more, got -1"),
        ("kernels:right --json kernels.py", "kernels.py is there already and is kept"),
        ("kernels:right --json no/where.json", "there is no folder no"),
        ("kernels:right --json .", "is there already and is kept"),
    ],
)
def test_mistakes_get_one_line(args, words, tmp_path, capsys):
    args = args.replace("'", "").split()
    assert words in failure(capsys, "check", *args)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kernels.py"]
    assert (tmp_path / "kernels.py").read_text() == KERNELS


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(:", "kernels.py:1: invalid syntax"),
        ("import no_such_module", "cannot be imported: No module named 'no_such_module'"),
        ("\n1 / 0", "cannot be imported: ZeroDivisionError: division by zero (kernels.py:2)"),
        ("import sys\nsys.exit(3)", "cannot be imported: SystemExit: 3 (kernels.py:2)"),
    ],
)
def test_a_module_that_cannot_be_imported(code, words, tmp_path, capsys):
    (tmp_path / "kernels.py").write_text(code)
    assert words in failure(capsys, "check", "kernels.py:f")


def test_a_file_named_like_another_module(tmp_path, capsys):
    (tmp_path / "json.py").write_text(KERNELS)
    assert "there is another module 'json'" in failure(capsys, "check", "json.py:right")


# What --input takes.


@pytest.mark.parametrize(
    ("spec", "dtype", "shape"),
    [
        ("float32[7,5]", "float32", (7, 5)),
        ("f32[7, 5]", "float32", (7, 5)),
        ("7x5", "float32", (7, 5)),
        ("float32[]", "float32", ()),
        ("bfloat16[3]", "bfloat16", (3,)),
        ("bf16[3]", "bfloat16", (3,)),
        ("float64[3]", "float64", (3,)),
        ("complex64[3]", "complex64", (3,)),
        ("float32[100]>0", "float32", (100,)),
        ("int32[100]<11", "int32", (100,)),
        ("uint8[3]<2", "uint8", (3,)),
        ("bool[100]", "bool", (100,)),
    ],
)
def test_arrays_are_drawn(spec, dtype, shape):
    (a,), (same,), (other,) = (parse_inputs((spec,), seed) for seed in (0, 0, 1))
    assert (str(a.dtype), a.shape) == (dtype, shape)
    np.testing.assert_array_equal(a, same)
    if a.size == 100:
        assert (a != other).any()
    if ">" in spec:
        assert (a > 0).all()
    if dtype == "int32":
        assert set(a.tolist()) == set(range(11))


def test_other_arguments(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3.0))
    np.savez(tmp_path / "p.npz", w=np.ones((2, 2)), b=np.zeros(2))
    specs = ("none", "true", "False", "3", "-0.5", "1e-6", "@a.npy", "@p.npz", "key")
    *words, a, p, key = parse_inputs(specs, 3)
    assert words == [None, True, False, 3, -0.5, 1e-6]
    assert a.tolist() == [0, 1, 2]
    assert {name: v.shape for name, v in p.items()} == {"w": (2, 2), "b": (2,)}
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("7y5", "expected one of float32[7,5], 7x5"),
        ("", "expected one of"),
        ("float32[7,-5]", "expected one of"),
        ("float32[7]<3", "expected one of"),
        ("bool[7]<3", "expected one of"),
        ("floot32[7]", "expected a dtype, as float32, got floot32"),
        ("int32[7]", "expected how large its integers get, as in 'int32[7]<11'"),
        ("int32[7]<0", "expected how large its integers get"),
        ("float32[9999999,9999999]", "cannot be made"),
        ("@no.npy", "no.npy: cannot be read: No such file"),
        ("@.", ".: cannot be read"),
        ("@text.npy", "text.npy: expected an .npy or .npz file of numbers"),
        ("@objects.npy", "objects.npy: expected an .npy or .npz file of numbers; pickled"),
        ("@objects.npz", "objects.npz: expected an .npy or .npz file of numbers; pickled"),
        ("@pickle.npy", "pickle.npy: expected an .npy or .npz file of numbers; pickled"),
        ("@words.npy", "words.npy: expected an .npy or .npz file of numbers"),
        ("@cut.npz", "cut.npz: expected an .npy or .npz file of numbers"),
    ],
)
def test_wrong_arguments(spec, words, tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "text.npy").write_text("1, 2, 3")
    np.save(tmp_path / "objects.npy", np.array([Trap()]), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=np.array([Trap()]))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.savez(tmp_path / "whole.npz", a=np.ones(9))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-30])
    with pytest.raises(CheckError) as error:
        parse_inputs((spec,), 0)
    assert words in str(error.value)
    assert not (tmp_path / "sprung").exists()


# fbp's own rules.


def test_every_layer_and_loss_is_in_the_table():
    rules = _own.own_rules()
    assert len({rule.name for rule in rules}) == len(rules)
    kinds = {
        value
        for room in (layers, combinators, losses, ports)
        for value in vars(room).values()
        if inspect.isclass(value)
        and issubclass(value, fbp.Layer | fbp.Loss)
        and not inspect.isabstract(value)
    }
    assert len(kinds) >= 20
    # What `Update` gives is no gradient.
    kinds -= {fbp.Update}
    assert {type(rule.f) for rule in rules} == kinds | {fbp.Objective, fbp.Microbatch}


def test_a_table_of_fbps_own(monkeypatch, capsys):
    own = [rule for rule in _own.own_rules() if rule.name in ("Dense", "Huber")]
    monkeypatch.setattr(_own, "own_rules", lambda: own)
    assert main(["check", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["Dense", "OK"], ["Huber", "OK"]]
    assert lines[4].startswith("2 rules right; ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "every"),
    [
        ("fast", 4),
        pytest.param("fast", 1, marks=pytest.mark.exhaustive),
        pytest.param("default", 1, marks=pytest.mark.exhaustive),
    ],
)
def test_fbps_own_rules_are_right(budget, every, monkeypatch, capsys):
    own = _own.own_rules()[::every]
    monkeypatch.setattr(_own, "own_rules", lambda: own)
    assert main(["check", "--budget", budget]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + len(own)
    assert {line.split()[-2] for line in lines[2:-1]} == {"OK"}


# A whole loss.


def test_audit(tmp_path, capsys):
    assert main(["audit", "kernels:loss", "--inputs", "inputs", "--json", "out.json"]) == 1
    assert capsys.readouterr().out.startswith("WRONG  loss: 2 custom rules; ")
    (report,) = json.loads((tmp_path / "out.json").read_text())["reports"]
    assert [site["report"]["verdict"] for site in report["sites"]] == ["OK", "WRONG"]


def test_audit_of_what_is_registered(tmp_path, capsys):
    code = KERNELS.replace("rule(1)", "rule(2)") + "\nfbp.register(loss, make=inputs)\n"
    (tmp_path / "kernels.py").write_text(code)
    assert main(["audit", "kernels.py:loss"]) == 0
    assert capsys.readouterr().out.startswith("OK  loss: 2 custom rules; ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("kernels", "expected kernels:name, the name of a loss"),
        ("kernels:x", "kernels:x: expected a function, got a ndarray"),
        ("kernels:loss", "expected --inputs NAME, a function that returns (params, *batch)"),
        ("kernels:loss --inputs nothing", "kernels has no nothing"),
        ("kernels:loss --inputs x", "--inputs x: expected a function, got a ndarray"),
        ("kernels:loss --inputs not_inputs", "not_inputs: expected to return (params, *batch)"),
        ("kernels:loss --inputs kernels:loss", "kernels:loss raises TypeError"),
        ("kernels:plain --inputs inputs", "kernels:plain raises TypeError"),
        ("kernels:loss --inputs inputs --seed -1", "--seed: expected 0 or more"),
        ("kernels:loss --inputs inputs --json kernels.py", "is there already and is kept"),
    ],
)
def test_mistakes_of_an_audit_get_one_line(args, words, capsys):
    assert words in failure(capsys, "audit", *args.split())


def test_exceptions_in_pyproject(tmp_path, monkeypatch, capsys):
    code = """
import jax, numpy as np, fbp
@jax.custom_vjp
def quantize(x): return x.round()
quantize.defvjp(lambda x: (x.round(), None), lambda _, dy: (dy,))
fbp.register(quantize, np.float32([0.3, 1.7]))
def loss(w): return (quantize(3 * w) ** 2).sum()
def inputs(): return (np.float32([0.3, 1.7]),)
"""
    (tmp_path / "quantized.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    audit = ["audit", "quantized.py:loss", "--inputs", "inputs"]
    assert main(["check", "quantized.py"]) == 1
    assert main(audit) == 1
    capsys.readouterr()
    (tmp_path / "pyproject.toml").write_text('[tool.fbp.expect]\nquantize = "straight through"\n')
    assert main(["check", "quantized.py"]) == 0
    assert "quantize is expected to differ: straight through" in capsys.readouterr().out
    assert main(audit) == 0
    assert "quantize is expected to differ: straight through" in capsys.readouterr().out
    (tmp_path / "pyproject.toml").write_text("[tool.fbp]\nexpect = 3\n")
    assert main(audit) == 2
    assert "[tool.fbp.expect]: expected a table" in capsys.readouterr().err
