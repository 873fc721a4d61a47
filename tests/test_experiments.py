"""Every experiment runs small, and shows what it says."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "experiments"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_neuron(capsys):
    losses = load("one_neuron").main()
    assert f"{losses[0]:.2f}" == "3.61"
    assert f"{losses[1]:.5f}" == "2.87106"
    printed = capsys.readouterr().out
    for factor in ("-7.98", "-3.80", "3.61", "2.87106", "1.0798"):
        assert factor in printed


def test_learning_rates(tmp_path, capsys):
    rates, last = load("learning_rates").main(rates=7, seeds=2, steps=200, runs=tmp_path)
    median = np.median(last, 1)
    best = median.argmin()
    # Too small, right and too large are all there.
    assert 0 < best < len(rates) - 1
    assert np.isinf(median[-1])
    assert median[0] > 2 * median[best]
    assert (tmp_path / "learning_rates" / "picture.png").stat().st_size > 1000


@pytest.mark.slow
def test_lines_and_curves(tmp_path, capsys):
    numbers = load("lines_and_curves").main(steps=1000, runs=tmp_path)
    assert numbers["curve linear"] > 10 * numbers["curve ReLU"]
    assert numbers["spiral ReLU"] > 0.95 > 0.8 > numbers["spiral linear"]
    assert (tmp_path / "lines_and_curves" / "picture.png").stat().st_size > 1000


def test_digits(capsys):
    (accuracy,) = load("digits").main(seeds=1, steps=300)
    assert accuracy >= 0.97


@pytest.mark.slow
def test_digits_on_five_seeds(capsys):
    assert min(load("digits").main()) >= 0.97


@pytest.mark.slow
def test_tables(capsys):
    tables = load("tables")
    results = tables.main(tables.TABLES[:1], seeds=2)
    assert results["diabetes"].shape == (3, 2)
    assert tables.is_as_good(results["diabetes"])
    assert "on 1 of 1" in capsys.readouterr().out


def test_tables_without_peers(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tables = load("tables")
    assert tables.main() == {}
    assert capsys.readouterr().out == "skipped: scikit-learn is not installed\n"


def test_as_good_as_the_better_one_less_a_standard_deviation():
    is_as_good = load("tables").is_as_good
    scores = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.5, 0.5, 0.51]])
    assert is_as_good(scores)
    scores[2] -= 0.01
    assert not is_as_good(scores)


@pytest.mark.slow
def test_inside_flax_and_equinox(capsys):
    pytest.importorskip("flax")
    pytest.importorskip("equinox")
    results = load("inside_flax_and_equinox").main(steps=80)
    assert set(results) == {"flax", "equinox"}
    for result in results.values():
        assert result.losses[0] > 2.7
        assert result.losses[-1] < 0.3
        assert result.difference < 1e-5


def test_inside_nothing(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert load("inside_flax_and_equinox").main() == {}
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["skipped: flax is not installed", "skipped: equinox is not installed"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_language_model(capsys):
    experiment = load("language_model")
    corpus = experiment.stdlib_text()
    results = experiment.run(seed=0, steps=20, corpus=corpus)
    losses = [results[name]["val_loss"] for name in results if name != "fbp, LSTM"]
    assert max(losses) - min(losses) < 0.02
    assert max(losses) < 4.5


@pytest.mark.slow
def test_convnet_digits(capsys):
    (accuracy,) = load("convnet_digits").main(seeds=1, steps=200)
    assert accuracy >= 0.95


@pytest.mark.slow
@pytest.mark.exhaustive
def test_convnet_digits_on_five_seeds(capsys):
    accuracies = load("convnet_digits").main()
    assert min(accuracies) >= 0.98
    assert np.mean(accuracies) >= 0.985


def test_largest():
    budget = load("budget")
    for most in (1, 2, 3, 7, 8, 100, 1000):
        found = budget.largest(lambda n, most=most: n <= most, 2)
        assert found <= most
        assert found == 0 if most < 2 else found + max(1, found // 8) > most


TINY = {"layers": 1, "width": 16, "heads": 2, "context": 32, "batch": 1, "vocab": 32}


@pytest.mark.slow
def test_too_small_a_budget(capsys):
    budget = load("budget")
    (row,) = budget.main(2**10, {"layers": budget.GPTSizes(**TINY)}, ("fbp",))
    assert row == {"name": "fbp", "layers": 0, "parameters": 0}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_budget(capsys):
    budget = load("budget")
    sizes = budget.GPTSizes(**TINY)
    autodiff, ours = budget.main(2**19, {"context": sizes}, ("jax.grad", "fbp"))
    assert 0 < autodiff["context"] < ours["context"]
    assert "parameters" not in ours
    assert "within 0.5 MiB" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.exhaustive
def test_scaling(capsys):
    scaling = load("scaling")
    assert scaling.slope((1, 2), [3, 12]) == 2
    (row,) = scaling.main({"layers": (scaling.BASE, (1, 2))}, ("fbp",), rounds=1)
    assert row["name"] == "fbp"
    # One more layer, with AdamW's two moments.
    assert row["MiB"][1] - row["MiB"][0] > 3 * 12 * 128**2 * 4 / 2**20
    assert len(capsys.readouterr().out.splitlines()) > 3


@pytest.mark.slow
def test_schedules(capsys):
    schedules = load("schedules")
    found = schedules.main(places=(256,), rounds=1)
    names = {*schedules.ATTENTION, *schedules.DENSE, *schedules.HEAD}
    assert set(found) >= names - schedules.ON_A_GPU
    assert all(len(row) == 1 and row[0] > 0 for row in found.values())
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(found)


@pytest.mark.slow
def test_libraries(tmp_path, capsys):
    libraries, file = load("libraries"), tmp_path / "rows.json"
    rows = libraries.main(r"^jax\.(relu|xlogy_at_zero)$|^optax\.(classifier|scale_.*)$", file=file)
    found = {row["name"]: (row["verdict"], row["outcome"]) for row in rows}
    assert found == {
        "relu": ("CONVENTION", "right"),
        "xlogy_at_zero": ("RANGE", "true bug"),
        "scale_gradient": ("WRONG", "true bug"),
        "classifier": ("CONVENTION", "right"),
    }
    assert json.loads(file.read_text()) == rows
    printed = capsys.readouterr().out
    assert "optax.scale_gradient: deliberately not the gradient: the rule gives 0.5" in printed
    assert "3 checks and 1 audits of 2 libraries: 0 crashed, 0 false alarms" in printed


@pytest.mark.slow
def test_libraries_that_crash_or_hang_cost_one_row():
    libraries = load("libraries")
    assert libraries.run("optax", "check", "huber", 60)["outcome"] == "crashed"
    assert libraries.run("jax", "check", "relu", 0.01)["outcome"] == "out of time"


def test_cases_of_libraries_are_read_without_importing_them(monkeypatch):
    libraries = load("libraries")
    monkeypatch.syspath_prepend(FOLDER)
    cases = importlib.import_module("_libraries._cases").CASES
    for library in ("jax", "optax"):
        cases.clear()
        importlib.import_module(f"_libraries.{library}")
        assert dict(map(reversed, libraries.cases_of(library))) == {
            name: case.kind for name, case in cases.items()
        }
    files = [path.stem for path in (FOLDER / "_libraries").glob("[!_]*.py")]
    kinds = [kind for library in files for kind, _ in libraries.cases_of(library)]
    assert len(files) >= 12
    assert kinds.count("check") >= 100
    assert kinds.count("audit") >= 40


@pytest.mark.slow
def test_gradients_in_ci(tmp_path):
    page = (FOLDER / "gradients_in_ci.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"```\w+\n# ([\w./]+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    workflow = (tmp_path / ".github/workflows/gradients.yml").read_text(encoding="utf-8")
    install, *steps = re.findall(r"- run: (.*)", workflow)
    assert install.startswith("pip install")
    assert [step.split()[0] for step in steps] == ["pytest", "fbp"]
    code = "import sys, fbp.cli, pytest\nname, *sys.argv[1:] = sys.argv[1:]\n"
    code += "sys.exit({'fbp': fbp.cli.main, 'pytest': pytest.main}[name]())"
    for step in steps:
        command = [sys.executable, "-c", code, *step.split()]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_opens_with_command_duration_and_expected_numbers(path):
    head = path.read_text(encoding="utf-8").split('"""')[1]
    assert f"python experiments/{path.name}" in head
    assert "second" in head or "minute" in head
    assert "Expected" in head


@pytest.mark.slow
def test_see_backprop(tmp_path, capsys):
    folder, right = load("see_backprop").main(steps=60, runs=tmp_path)
    assert right
    assert {path.name for path in folder.iterdir()} >= {
        *("step.html", "gradients.svg", "answers.svg")
    }
    said = capsys.readouterr().out
    assert "each layer's own rule is what autodiff of its forward says" in said
    assert 100_000 < (folder / "step.html").stat().st_size < 2_000_000
    again, _ = load("see_backprop").main(steps=20, runs=tmp_path)
    assert again != folder
