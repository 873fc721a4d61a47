"""The command line: what runs leave, and what mistakes are told."""

import csv
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fbp
from fbp.cli import main
from fbp.train import _train


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(path, rows=40, target=True):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, rows))
    lines = ["a,b,y" if target else "a,b"]
    for i in range(rows):
        y = f",{'up' if a[i] + b[i] > 0 else 'down'}" if target else ""
        lines.append(f"{a[i]},{b[i]}{y}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def rows_of(path):
    """The rows of a CSV file, each a dict by column."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def failure(capsys, *args):
    assert main([*map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return said


def test_train_leaves_a_run(tmp_path, capsys):
    assert main(["train", "--steps", "60", "--seed", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "of the held-out examples right after 60 steps" in printed[-1]
    assert "runs/digits" in printed[-1]
    assert sum(line.endswith("ok") for line in printed) == 7

    run = tmp_path / "runs" / "digits"
    assert sorted(p.name for p in run.iterdir()) == [
        *("config.json", "manifest.json", "metrics.jsonl", "picture.png", "scores.json"),
        *("steps", "weights.safetensors"),
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [lines[0]["step"], lines[-1]["step"]] == [0, 60]
    assert set(lines[0]) == {"step", "loss", "accuracy", "val_loss", "val_accuracy"}
    assert lines[-1]["val_accuracy"] > 0.9
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["seed"], config["batch"]) == (60, 1, 64)
    weights = load_file(run / "weights.safetensors")
    assert weights["dense_1.w"].shape == (64, 128)
    assert (run / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_the_worked_example(tmp_path, capsys):
    assert main(["train", "neuron", "--steps", "3"]) == 0
    lines = (tmp_path / "runs" / "neuron" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert f"{losses[0]:.2f} {losses[1]:.5f}" == "3.61 2.87106"


@pytest.mark.parametrize("task", ["curve", "spiral"])
def test_other_tasks(task, tmp_path, capsys):
    assert main(["train", task, "--steps", "20", "--no-check", "--name", "mine"]) == 0
    assert "jax.grad" not in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "picture.png").exists()


def test_a_name_is_never_taken_twice(tmp_path, capsys):
    args = ["train", "neuron", "--steps", "2", "--no-check"]
    assert main([*args, "--name", "n"]) == 0
    before = (tmp_path / "runs" / "n" / "metrics.jsonl").read_bytes()
    assert "n is there already" in failure(capsys, *args, "--name", "n")
    assert (tmp_path / "runs" / "n" / "metrics.jsonl").read_bytes() == before
    assert main(args) == main(args) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["n", "neuron", "neuron-2"]


def test_a_table_trains_and_predicts(tmp_path, capsys):
    data = table(tmp_path / "moves.csv")
    assert main(["train", "--data", str(data), "--target", "y", "--steps", "200"]) == 0
    assert "classification, because it is text with 2 values" in capsys.readouterr().out

    assert main(["predict", "runs/moves", "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "40 rows with the target: " in said
    assert "by class: down " in said
    rows = rows_of(tmp_path / "moves-predictions.csv")
    assert list(rows[0]) == ["a", "b", "y", "prediction", "p_down", "p_up"]
    assert [(row["a"], row["b"], row["y"]) for row in rows] == [
        tuple(line.split(",")) for line in data.read_text().splitlines()[1:]
    ]
    assert np.mean([row["y"] == row["prediction"] for row in rows]) > 0.9
    assert "is there already" in failure(capsys, "predict", "runs/moves", "--data", data)

    without = table(tmp_path / "new.csv", target=False)
    assert main(["predict", "runs/moves", "--data", str(without), "--out", "out.csv"]) == 0
    del rows[0]["y"]
    assert rows_of(tmp_path / "out.csv")[0] == rows[0]


def test_a_regression_predicts_in_its_own_units(tmp_path, capsys):
    a = np.linspace(0, 1, 50)
    np.savez(tmp_path / "t.npz", a=a, price=1000 * a + 5000)
    assert main(["train", "--data", "t.npz", "--target", "price", "--lr", "0.01"]) == 0
    assert main(["predict", "runs/t", "--data", "t.npz"]) == 0
    predicted = [float(row["prediction"]) for row in rows_of(tmp_path / "t-predictions.csv")]
    np.testing.assert_allclose(predicted, 1000 * a + 5000, atol=50)


def test_npz_columns_are_taken_by_position(tmp_path, capsys):
    assert main(["train", "spiral", "--steps", "20", "--no-check"]) == 0
    np.savez(tmp_path / "t.npz", points=np.zeros((5, 2)))
    assert main(["predict", "runs/spiral", "--data", "t.npz"]) == 0
    assert "taken by their position" in capsys.readouterr().out
    np.savez(tmp_path / "u.npz", points=np.zeros((5, 3)))
    assert "expected a column 'x1'" in failure(capsys, "predict", "runs/spiral", "--data", "u.npz")


def test_too_large_a_rate_keeps_the_best_weights(tmp_path, capsys):
    assert main(["train", "neuron", "--lr", "1"]) == 1
    assert "step 3: loss has been more than 10 times the first" in capsys.readouterr().out
    run = tmp_path / "runs" / "neuron"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    weights, last = (load_file(run / f"{name}.safetensors") for name in ("weights", "last"))
    for saved, line in ((weights, lines[0]), (last, lines[3])):
        y = np.float64(saved["w"]) * 2.1 + np.float64(saved["b"])
        assert (y - 4) ** 2 == pytest.approx(line["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--steps", "0"], "--steps"),
        (["--batch", "-3"], "--batch"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "-0.1"], "--lr"),
        (["--name", "../up"], "--name"),
        (["--name", ""], "--name"),
        (["--target", "y"], "--data"),
        (["--data", "t.csv"], "--target"),
        (["spiral", "--data", "t.csv", "--target", "y"], "got both"),
        (["--data", "t.csv", "--target", "y"], "no such file"),
        (["curve", "--in-backward"], "--in-backward: expected a model with a Stack"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(args, words, tmp_path, capsys):
    assert words in failure(capsys, "train", *args)
    assert not list(tmp_path.glob("runs/*"))


def test_an_unwritable_folder(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file in the way")
    assert "cannot make a folder" in failure(capsys, "train", "neuron")
    assert (tmp_path / "runs").read_text() == "a file in the way"


def test_a_wrong_gradient_is_refused_and_named(tmp_path, capsys, monkeypatch):
    def halved(self, params, x, res, dy):
        dparams, dx = fbp.Dense.backward(self, params, x, res, dy)
        return {**dparams, "b": dparams["b"] / 2}, dx

    wrong = type("Dense", (fbp.Dense,), {"backward": halved})
    model = fbp.Serial(dense_1=fbp.Dense(64, 8), a=fbp.Relu(), dense_2=wrong(8, 10))
    monkeypatch.setattr(_train, "build_model", lambda spec, **how: model)
    said = failure(capsys, "train", "--steps", "5")
    assert "model.dense_2.b" in said
    assert "dense_1" not in said
    assert not list(tmp_path.glob("runs/*"))


def damage(run, how):
    path = run / "weights.safetensors"
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "another shape":
        save_file({"w": np.zeros(2, np.float32), "b": np.zeros((), np.float32)}, path)
    elif how == "no weights":
        path.unlink()
    elif how == "not JSON":
        (run / "config.json").write_text("{")
    elif how == "a list":
        (run / "config.json").write_text("[]")
    elif how == "another config":
        (run / "config.json").write_text("{}")
    elif how == "not finite":
        save_file({"w": np.array(np.nan, np.float32), "b": np.zeros((), np.float32)}, path)
    elif how == "no model":
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "model": None}))
    elif how == "another model":
        config = json.loads((run / "config.json").read_text())
        model = {"kind": "mlp", "sizes": [7, 1], "activation": "relu"}
        (run / "config.json").write_text(json.dumps({**config, "model": model}))


DAMAGES = [
    *("cut short", "another shape", "no weights", "not finite"),
    *("not JSON", "a list", "another config", "no model", "another model"),
]


@pytest.fixture(scope="module")
def neuron(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("neuron")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "neuron", "--steps", "1", "--no-check"]) == 0
    return folder / "runs" / "neuron"


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_run_is_told_in_one_line(how, neuron, tmp_path, capsys):
    shutil.copytree(neuron, tmp_path / "runs" / "neuron")
    (tmp_path / "t.csv").write_text("x\n1\n2\n")
    capsys.readouterr()
    damage(tmp_path / "runs" / "neuron", how)
    assert "runs/neuron" in failure(capsys, "predict", "runs/neuron", "--data", "t.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [("z\n1\n", "expected a column 'x'"), ("x\nred\n", "expected numbers in 'x', got 'red'")],
)
def test_data_of_another_kind(content, words, tmp_path, capsys):
    assert main(["train", "neuron", "--steps", "1", "--no-check"]) == 0
    capsys.readouterr()
    (tmp_path / "t.csv").write_text(content)
    assert words in failure(capsys, "predict", "runs/neuron", "--data", "t.csv")
    assert words
    assert "expected a run's folder" in failure(capsys, "predict", "runs", "--data", "t.csv")


def test_help_does_not_import_jax():
    code = (
        "import sys\n"
        "from fbp.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(sorted({'jax', 'numpy', 'optax', 'matplotlib', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "train" in done.stdout


def test_predictions_do_not_depend_on_the_batch(tmp_path, capsys):
    assert main(["train", "curve", "--steps", "50", "--no-check"]) == 0
    model, params, _ = fbp.train.load(fbp.train.Run(tmp_path / "runs" / "curve"))
    x = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]
    together, _ = model.forward(params, x)
    alone = np.concatenate([model.forward(params, row[None])[0] for row in x])
    # Rounding of float32 sums of 64 terms.
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(params) == jax.tree.structure(model.init(jax.random.key(0)))


def test_every_row_gets_its_prediction(tmp_path, capsys):
    table(tmp_path / "t.csv")
    assert main(["train", "--data", "t.csv", "--target", "y", "--steps", "5", "--no-check"]) == 0
    (tmp_path / "gaps.csv").write_text("a,b\n1,\n,2\n,\n1,2\n")
    assert main(["predict", "runs/t", "--data", "gaps.csv"]) == 0
    assert len((tmp_path / "gaps-predictions.csv").read_text().splitlines()) == 1 + 4
    assert "column 'a': 2 missing cells" in capsys.readouterr().out

    assert main(["train", "curve", "--steps", "5", "--no-check"]) == 0
    (tmp_path / "one.csv").write_text("x\n1\n\n2\n")
    assert main(["predict", "runs/curve", "--data", "one.csv"]) == 0
    assert len((tmp_path / "one-predictions.csv").read_text().splitlines()) == 1 + 3


def test_codes_stay_text_and_new_ones_are_said(tmp_path, capsys):
    codes = ["007", "010", "A1"] * 12
    labels = ["01" if code == "007" else "B" for code in codes]
    lines = [f"{c},{y}" for c, y in zip(codes, labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["code,y", *lines]))
    assert main(["train", "--data", "t.csv", "--target", "y", "--no-check"]) == 0
    (tmp_path / "new.csv").write_text("code,y\n007,01\n010,01\n999,01\n")
    assert main(["predict", "runs/t", "--data", "new.csv"]) == 0
    assert "values never seen in training, as '999'" in capsys.readouterr().out
    rows = rows_of(tmp_path / "new-predictions.csv")
    assert [row["prediction"] for row in rows[:2]] == ["01", "B"]


def test_a_picture_never_costs_a_run(tmp_path, capsys):
    x = np.linspace(0, 1, 30)
    (tmp_path / "b$^$.csv").write_text(
        "p$x^$,规模\n" + "".join(f"{a},{a * 2.5}\n" for a in x), encoding="utf-8"
    )
    args = ["--data", "b$^$.csv", "--target", "规模", "--steps", "5", "--no-check"]
    assert main(["train", *args]) == 0
    assert (tmp_path / "runs" / "b$^$" / "picture.png").exists()


@pytest.mark.slow
def test_a_closed_pipe_does_not_cost_a_run(tmp_path):
    code = "import sys; from fbp.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "curve", "--steps", "50", "--no-check"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 0, process.stderr.read()
    assert (tmp_path / "runs" / "curve" / "weights.safetensors").exists()


def test_a_closed_pipe_ends_other_commands_without_a_word(tmp_path):
    code = "import sys; from fbp.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "explain", "neuron"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def test_an_interrupt_while_starting_is_one_line(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("fbp.cli._main.main", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "fbp: interrupted\n"


def test_it_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fbp", "train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: fbp train" in done.stdout
