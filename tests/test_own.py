"""Models of one's own on the command line, configuration files, and looking at runs."""

import json
import sys
import types

import pytest

from fbp.cli import main
from fbp.train import Run

MINE = """
import fbp
import numpy as np

X = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]


def make():
    return fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError(), (X, X**2)


def draws():
    def draw(start, stop):
        rows = np.stack([np.random.default_rng(i).permutation(50)[:8] for i in range(start, stop)])
        return X[rows], X[rows] ** 2

    return fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError(), draw


def layer(data=None):
    return fbp.models.mlp((2, 8, 1)), fbp.MeanSquaredError()


def three():
    return 3


def few():
    return fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError(), (X, X[:4])


def raises():
    raise RuntimeError("no luck")
"""

MISTAKES = """
import fbp
import numpy as np

X = np.random.default_rng(0).normal(size=(160, 4)).astype(np.float32)
Y = 2 * X[:, :1]
LABELS = np.arange(160) % 3
MSE, CE = fbp.MeanSquaredError(), fbp.SoftmaxCrossEntropy()


def learns(data, outputs=1, loss=MSE):
    return lambda: (fbp.models.mlp((4, 8, outputs)), loss, data)


def of(draw):
    return learns(lambda start, stop: draw(start, stop))


def stacked(x, y, start, stop):
    return np.stack([x] * (stop - start)), np.stack([y] * (stop - start))


class Wrong(fbp.Layer):
    def forward(self, params, x, key=None):
        return x @ params, ()

    def backward(self, params, x, res, dy):
        return (), dy


def bad(a, row, value):
    a = np.copy(a)
    a[row] = value
    return a


def yields(start, stop):
    yield X[:8], Y[:8]


def breaks(start, stop):
    raise KeyError("oh")


flat = learns((X, Y[:, 0]))
three = learns((X, Y), 3)
floats = learns((X, LABELS.astype(np.float32)), 3, CE)
column = learns((X, LABELS.astype(np.float32)[:, None]), 3, CE)
wide = learns((np.ones((160, 5), np.float32), Y))
own = lambda: (Wrong(), MSE, (X, Y))
no_axis = of(lambda start, stop: (X[:32], Y[:32]))
one_row = of(lambda start, stop: (X[:1], Y[:1]))
no_arguments = learns(lambda: (X[:32], Y[:32]))
shorter = of(lambda start, stop: stacked(*(a[: 8 - start // 8] for a in (X, Y)), start, stop))
alone = of(lambda start, stop: stacked(X[:8], Y[:8], start, stop)[0])
nothing = of(lambda start, stop: None)
changes = of(lambda start, stop: stacked(X[:8], Y[:8], start, stop)[: 2 - start])
lists = of(lambda start, stop: [[0.0], [1.0]])
generator = learns(yields)
iterator = learns(iter([(X, Y)]))
broken = learns(breaks)
text = learns((X.astype(str), Y))
drawn_text = of(lambda start, stop: stacked(X.astype(str), Y, start, stop))
objects = learns((X, np.array([None] * 160)))
uneven = learns((X, [[1]] * 159 + [[1, 2]]))
five = learns((X, np.arange(160) % 5), 3, CE)
rare = learns((X, bad(LABELS, 70, 7)), 3, CE)
nan = learns((bad(X, 17, np.nan), Y))
infinite = learns((X, bad(Y, 9, np.inf)))


def needs(a, data):
    return flat()
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_tests.py").write_text(MINE)
    (tmp_path / "mistakes_of_tests.py").write_text(MISTAKES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine_of_tests", None)
    sys.modules.pop("mistakes_of_tests", None)


def failure(capsys, *args):
    capsys.readouterr()
    assert main([*map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("name", ["make", "draws"])
def test_a_model_of_ones_own(name, here, capsys):
    args = ["train", f"mine_of_tests.py:{name}", "--batch", "8", "--lr", "0.02"]
    assert main([*args, "--steps", "100"]) == 0
    said = capsys.readouterr().out
    assert "dense_1: Dense" in said
    assert "model.dense_1.w" in said
    run = here / "runs" / name
    lines = Run(run).metrics()
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    assert (run / "picture.png").exists()
    assert main(["train", "--resume", f"runs/{name}", "--steps", "110"]) == 0
    (here / "t.csv").write_text("x\n1\n")
    assert "a model of your own" in failure(capsys, "predict", f"runs/{name}", "--data", "t.csv")


def test_a_layer_of_ones_own_on_a_table(here, capsys):
    rows = "\n".join(f"{i / 7},{i * i % 53 / 3},{i + i % 5 / 2}" for i in range(60))
    (here / "t.csv").write_text(f"a,b,y\n{rows}\n")
    args = ["train", "mine_of_tests:layer", "--data", "t.csv", "--target", "y", "--steps", "30"]
    assert main([*args, "--no-check"]) == 0
    assert "val_loss" in Run(here / "runs/t").metrics()[0]
    (here / "u.csv").write_text("a,y\n" + "\n".join(f"{i / 7},{i % 5 / 2}" for i in range(60)))
    args[3] = "u.csv"
    said = failure(capsys, *args)
    assert "the layer on its batches: Dense: expected last axis of x to be 2, got shape" in said


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("mine_of_tests.py:three", "expected it to return a Layer, a Loss and maybe batches"),
        ("mine_of_tests.py:few", "expected x and target of as many rows"),
        ("mine_of_tests.py:layer", "expected batches from it, or --data FILE and --target"),
        ("mine_of_tests.py:raises", "raises RuntimeError: no luck"),
        ("mine_of_tests.py:nothing", "has no nothing"),
        ("mine_of_tests.py:X", "expected a function, got ndarray"),
        ("nowhere.py:make", "there is no such file"),
        ("nowhere:make", "there is no module nowhere"),
        ("digitz", "did you mean digits?"),
    ],
)
def test_mistakes_in_ones_own_are_one_line(task, words, here, capsys):
    assert words in failure(capsys, "train", task, "--steps", "2")
    assert not list(here.glob("runs/*"))


ROWS = "expected target to have the shape of y,"
INTEGERS = "make the labels integers, of shape (64,)"
STACKED = "to return stop - start batches stacked,"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flat", f"flat: on its batches: MeanSquaredError: {ROWS} (64, 1), got shape (64,)"),
        ("three", f"MeanSquaredError: {ROWS} (64, 3), got shape (64, 1)"),
        ("floats", f"distribution of shape (64, 3), got (64,): {INTEGERS}"),
        ("column", f"distribution of shape (64, 3), got (64, 1): {INTEGERS}"),
        ("wide", "the layer on its batches: Dense: expected last axis of x to be 4, got shape"),
        ("own", "the layer on its batches: TypeError: "),
        ("own", "(mistakes_of_tests.py:25)"),
        ("no_axis", f"no_axis: expected draw(0, 1) {STACKED} (1, 32, 4), got (32, 4)"),
        ("one_row", f"expected draw(0, 2) {STACKED} (2, 4), got (1, 4)"),
        ("no_arguments", "expected a function draw(start, stop) of the steps, got one of ()"),
        ("shorter", "expected draw(19, 20) to return stop - start batches like the first, stacked"),
        ("shorter", "(1, 8, 4), got (1, 6, 4)"),
        ("alone", "expected a batch (x, target), got an array float32[8, 4]"),
        ("nothing", "expected draw(0, 1) to return arrays, got None"),
        ("changes", "expected draw(19, 20) to return what draw(0, 1) does, tuple (an array"),
        ("lists", "expected draw(0, 1) to return arrays, got 0.0: make it one by np.asarray"),
        ("generator", "to return arrays, got a generator: return, do not yield"),
        ("iterator", "expected batches (x, target) or draw(start, stop)"),
        ("broken", "draw(0, 1) raises KeyError: 'oh' (mistakes_of_tests.py:42)"),
        ("text", "expected x to be arrays of numbers, got text of shape (160, 4)"),
        ("drawn_text", "to return arrays of numbers, got text of shape (1, 160, 4)"),
        ("objects", "expected target to be arrays of numbers, got object of shape (160,)"),
        ("uneven", "expected target to be an array, got rows of uneven size"),
        ("five", "checked on: SoftmaxCrossEntropy: expected labels in 0..2, got 4; training rows"),
        ("rare", "expected labels in 0..2, got 7; training row 70\n"),
        ("nan", ": the input of the batch is not finite; training row 17\n"),
        ("infinite", ": the target of the batch is not finite; training row 9\n"),
        ("needs", "expected a function without arguments, or of one named data, which gets the"),
        ("needs", "it needs a\n"),
    ],
)
def test_mistakes_in_what_ones_own_learns_are_one_line(name, words, here, capsys):
    task = f"mistakes_of_tests.py:{name}"
    assert words in failure(capsys, "train", task, "--steps", "20")
    assert not list(here.glob("runs/*"))


@pytest.mark.parametrize(("name", "words"), [("flat", ROWS), ("no_axis", STACKED)])
def test_of_a_rate_too(name, words, here, capsys):
    assert words in failure(capsys, "lr-find", f"mistakes_of_tests.py:{name}")
    assert not list(here.glob("*.png"))


def test_what_is_more_than_a_run_has_is_said(here, capsys):
    flags = "--batch 99 --accumulate 1000 --warmup 1000 --steps 20 --no-check"
    assert main(["train", "mine_of_tests.py:make", *flags.split()]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "batch: 50, as there are no more rows to train on" in said
    assert "accumulate: 50 parts, as a batch has no more examples" in said
    assert "warmup: 19 steps, as there are 20 in all" in said


def test_flags_go_before_a_file(here, capsys):
    (here / "c.toml").write_text(
        'task = "curve"\nlr = 0.02\nsteps = 9\ncheck = false\nname = "from file"\n'
    )
    assert main(["train", "--config", "c.toml", "--steps", "7"]) == 0
    config = Run(here / "runs" / "from file").config()
    assert (config["task"], config["lr"], config["steps"]) == ("curve", 0.02, 7)


def test_what_is_printed_is_a_file_of_the_same(here, capsys):
    args = ["train", "gpt", "--lr", "0.1", "--optimizer", "sgd", "--bf16", "--name", 'a "b" \\']
    assert main([*args, "--print-config"]) == 0
    printed = capsys.readouterr().out
    (here / "c.toml").write_text(printed)
    assert main(["train", "--config=c.toml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stepz = 4", "stepz is no setting: did you mean steps?"),
        ("zzz = 4", "zzz is no setting"),
        ("steps = [1]", "expected one value for steps"),
        ("steps = true", "expected a value for steps, got True"),
        ("[steps]\na = 1", "expected one value for steps"),
        ("steps = ", "expected TOML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_mistakes_in_a_file_are_one_line(content, words, here, capsys):
    if content is not None:
        (here / "c.toml").write_text(content)
    assert words in failure(capsys, "train", "--config", "c.toml")
    assert "expected --config FILE" in failure(capsys, "train", "--config")


def test_a_dry_run_leaves_nothing(here, capsys):
    assert main(["train", "curve", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("2 steps went well; nothing is kept\n")
    assert not (here / "runs").exists()


def test_looking_at_runs(here, capsys):
    for name, steps in (("a", 20), ("b", 12)):
        args = ["train", "curve", "--steps", steps, "--name", name, "--no-check"]
        assert main([*map(str, args)]) == 0
    (here / "runs" / "c").mkdir()
    (here / "runs" / "c" / "config.json").write_text("{")
    (here / "runs" / "d").mkdir()
    (here / "runs" / "d" / "config.json").write_text(json.dumps({"task": "x", "steps": 5}))
    capsys.readouterr()
    assert main(["runs"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "task", "steps", "of", "best", "at", "last"]
    assert [row.split()[0] for row in rows] == ["a", "b", "c", "d"]
    assert "20" in rows[0]
    assert "damaged" in rows[2]
    assert "not begun" in rows[3]
    assert main(["compare", "runs/a", "runs/b"]) == 0
    assert main(["plot", "runs/a"]) == 0
    for name in ("compare.png", "a.png"):
        assert (here / name).read_bytes()[:4] == b"\x89PNG"
    assert "is there already and is kept" in failure(capsys, "plot", "runs/a")
    assert "expected a run's folder" in failure(capsys, "plot", "runs/nothing")
    assert "expected a line or more" in failure(capsys, "plot", "runs/d", "--out", "d.png")
    assert "cannot be read" in failure(capsys, "runs", "nowhere")


@pytest.mark.slow
def test_a_rate_is_found(here, capsys):
    assert main(["lr-find", "curve", "--steps", "120"]) == 0
    said = capsys.readouterr().out
    rate = float(said.split()[1].rstrip(","))
    assert 1e-4 < rate < 0.3
    assert (here / "lr.png").read_bytes()[:4] == b"\x89PNG"
    assert not (here / "runs").exists()
    assert "is there already" in failure(capsys, "lr-find", "curve")
    more = "--out", "other.png"
    assert main(["lr-find", "mine_of_tests.py:draws", "--optimizer", "sgd", *more]) == 0
    for args, words in (
        (["--low", "2"], "0 < --low < --high"),
        (["--steps", "3"], "--steps to be 20 or more"),
        (["--optimizer", "sdg"], "--optimizer sdg"),
    ):
        assert words in failure(capsys, "lr-find", "curve", *args, "--out", "x.png")


@pytest.mark.parametrize(
    ("name", "words"),
    [("tensorboard", "pip install 'fbp[tensorboard]'"), ("wandb", "pip install wandb")],
)
def test_a_tracker_that_is_missing_is_said(name, words, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    assert words in failure(capsys, "train", "curve", "--no-check", "--steps", "2", "--track", name)
    assert not list(here.glob("runs/*"))


def test_a_tracker_gets_the_metrics_and_its_trouble_costs_no_run(here, capsys, monkeypatch):
    got = []

    class SummaryWriter:
        def __init__(self, folder):
            got.append(folder)

        def add_scalar(self, name, value, step):
            got.append((name, value, step))
            if step == 2:
                raise RuntimeError("it broke")

        def close(self):
            got.append("closed")

    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    args = ["train", "curve", "--no-check", "--track", "tensorboard", "--eval-every", "1"]
    assert main([*args, "--steps", "3", "--name", "broken"]) == 0
    assert "no longer tracked: it broke" in capsys.readouterr().out
    assert got[0].endswith("tensorboard")
    assert "closed" not in got
    got.clear()
    assert main([*args, "--steps", "1", "--name", "whole"]) == 0
    lines = Run(here / "runs" / "whole").metrics()
    assert ("loss", lines[-1]["loss"], 1) in got
    assert got[-1] == "closed"
