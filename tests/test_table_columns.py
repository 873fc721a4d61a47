"""What is decided about the columns of a table, and what is said of it."""

import gzip
import json
import re

import numpy as np
import pytest

from fbp.cli import main
from fbp.train import InputError, table_task
from fbp.train.tables._labels import Lookup
from fbp.train.tables._scores import scores

ROWS = 60
RNG = np.random.default_rng(1)
A, B = RNG.normal(5, 3, (2, ROWS)).round(3)
Y = RNG.normal(0, 1, ROWS).round(3)
CLASSES = ["low"] * (ROWS // 2) + ["high"] * (ROWS // 2)


def task_of(tmp_path, header, *columns, target="y", **options):
    lines = [header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return table_task(tmp_path / "t.csv", target, **options)


def inputs(task):
    return list(dict.fromkeys(column.name for column in task.encoding.columns))


def said(task, *words):
    return any(all(word in line for word in words) for line in task.said)


@pytest.mark.parametrize(
    ("name", "cells", "used"),
    [
        ("", range(1, ROWS + 1), False),
        ("", [f"r{i}" for i in range(ROWS)], False),
        ("", A, True),
        ("rec", range(ROWS), False),
        ("id", range(700, 700 + ROWS), False),
        ("person_id", RNG.permutation(ROWS) + 31, False),
        ("Unnamed: 0", range(ROWS), False),
        ("year", range(1960, 1960 + ROWS), True),
        ("width", A, True),
        ("number", [i % 5 for i in range(ROWS)], True),
    ],
)
def test_what_numbers_the_rows_is_no_input(tmp_path, name, cells, used):
    task = task_of(tmp_path, f"{name},b,y", cells, B, Y)
    name = name or "unnamed"
    assert inputs(task) == ([name, "b"] if used else ["b"])
    assert said(task, "NOT USED", repr(name)) != used


def test_a_numbering_is_used_if_it_is_all_there_is_or_is_named(tmp_path):
    task = task_of(tmp_path, "t,y", range(ROWS), Y)
    assert inputs(task) == ["t"]
    task = task_of(tmp_path, "t,b,y", range(ROWS), B, Y, inputs=("t",))
    assert inputs(task) == ["t"]
    assert not said(task, "NOT USED")


def test_a_table_of_rs_own_that_names_one_column_too_few(tmp_path):
    lines = ["a y", *(f'"{i}" {a} {y}' for i, (a, y) in enumerate(zip(A, Y, strict=True), 1))]
    (tmp_path / "t.csv").write_text("\n".join(lines).replace(" ", ","))
    task = table_task(tmp_path / "t.csv", "y")
    assert inputs(task) == ["a"]
    assert said(task, "NOT USED: column 'unnamed': it numbers the rows, 1 to 60")


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([""] * ROWS, "it has no cells"),
        (["NA"] * ROWS, "it has no cells"),
        ([3] * ROWS, "constant, 3"),
        (["x"] * ROWS, "constant, 'x'"),
        ([f"name {i}" for i in range(ROWS)], "text with 48 different values, as 'name 0'"),
    ],
)
def test_what_is_not_used_is_said_and_why(tmp_path, cells, why):
    task = task_of(tmp_path, "a,b,y", cells, B, Y)
    assert inputs(task) == ["b"]
    assert f"NOT USED: column 'a': {why}" in task.said


def test_a_chosen_column_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match="column 'a' cannot be an input: constant, 3"):
        task_of(tmp_path, "a,b,y", [3] * ROWS, B, Y, inputs=("a",))
    with pytest.raises(InputError, match="besides the target 'y'"):
        task_of(tmp_path, "a,b,y", A, B, Y, inputs=("y",))
    with pytest.raises(InputError, match="expected a column 'c'"):
        task_of(tmp_path, "a,b,y", A, B, Y, inputs=("c",))


@pytest.mark.parametrize(
    ("leak", "target"),
    [
        (np.arange(ROWS) * 3 + 1000, CLASSES),
        (np.arange(ROWS) * -1.5, CLASSES),
        (["L" if c == "low" else "H" for c in CLASSES], CLASSES),
        ((Y * 2.54 + 7).round(4), Y),
        (np.exp(Y).round(6), Y),
    ],
    ids=["sorted", "sorted down", "text", "line", "order"],
)
def test_what_gives_the_target_away_is_pointed_out(tmp_path, leak, target):
    task = task_of(tmp_path, "a,leak,y", A, leak, target)
    assert inputs(task) == ["a", "leak"]
    assert said(task, "WARNING", "'leak' alone gives the target away")
    assert not said(task, "'a' alone")


def test_what_only_helps_is_not_pointed_out(tmp_path):
    helps = np.where(np.array(CLASSES) == "low", 1.0, 2.0) + RNG.normal(size=ROWS)
    assert not said(task_of(tmp_path, "a,b,y", A, helps, CLASSES), "away")
    helps = Y + 0.2 * RNG.normal(size=ROWS)
    assert not said(task_of(tmp_path, "a,b,y", A, helps, Y), "away")
    codes = [f"c{i}" for i in range(30)] * 2
    same = [i % 2 for i in range(30)] * 2
    assert not said(task_of(tmp_path, "a,b,y", A, codes, same), "away")


@pytest.mark.parametrize("gap", ["NA", "#N/A", "n/a", "NULL", "?", "", "nan"])
def test_a_gap_in_a_target_is_no_class(tmp_path, gap):
    labels = [gap if i == 7 else c for i, c in enumerate(CLASSES)]
    task = task_of(tmp_path, "a,y", A, labels)
    assert task.encoding.classes == ("high", "low")
    assert said(task, "rows without 'y': 1, left out")


@pytest.mark.parametrize("gap", ["n.a.", "-", "none", "oops"])
def test_a_gap_in_a_target_of_numbers_leaves_a_regression(tmp_path, gap):
    task = task_of(tmp_path, "a,y", A, [gap if i == 7 else y for i, y in enumerate(Y)])
    assert task.encoding.kind == "regression"
    assert said(task, "rows without 'y': 1, left out")


def test_plus_and_minus_are_labels(tmp_path):
    task = task_of(tmp_path, "a,y", A, ["+", "-"] * (ROWS // 2))
    assert task.encoding.classes == ("+", "-")


def test_spellings_of_a_label_are_one_class(tmp_path):
    labels = ["HIGH" if i == ROWS - 1 else c for i, c in enumerate(CLASSES)]
    task = task_of(tmp_path, "a,y", A, labels)
    assert task.encoding.classes == ("high", "low")
    assert said(task, "WARNING", "'high', 'HIGH' taken as one label")
    counts = np.bincount(np.concatenate([task.train[1], task.held_out[1]]))
    assert counts.tolist() == [ROWS // 2, ROWS // 2]
    letters = task_of(tmp_path, "a,y", A, ["a", "A", "b"] * (ROWS // 3))
    assert letters.encoding.classes == ("A", "a", "b")


def test_labels_that_were_two_classes_stay_two():
    """A run of an older version may have such classes."""
    assert Lookup(["high", "HIGH"])(np.array(["HIGH", "high", "High"])).tolist() == [1, 0, -1]
    assert Lookup(["high", "low"])(np.array(["HIGH", "low", "up"])).tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (np.arange(600) % 26, "classification"),
        (np.arange(600) % 26 + 1, "classification"),
        (np.round(np.abs(np.random.default_rng(0).normal(0, 8, 600))), "regression"),
        (np.arange(600) % 26 + 1950, "regression"),
        (np.arange(600) % 3, "classification"),
        ((np.arange(600) % 3) / 2, "regression"),
    ],
)
def test_whole_numbers_are_classes_if_they_count_evenly(tmp_path, target, kind):
    task = task_of(tmp_path, "a,y", RNG.normal(size=600), target)
    assert task.encoding.kind == kind
    assert said(task, f"target 'y': {kind}, because")


@pytest.mark.parametrize("target", [Y, np.arange(ROWS)])
def test_no_classification_of_a_continuous_target(tmp_path, target):
    with pytest.raises(InputError, match="labels that repeat in 'y', got 60 different numbers"):
        task_of(tmp_path, "a,y", A, target, kind="classification")


def test_a_regression_on_text_names_a_text(tmp_path):
    cells = [f"about {y}" if i % 3 == 1 else y for i, y in enumerate(Y)]
    with pytest.raises(InputError, match=r"'about [-0-9.]+' in line 3 is no number"):
        task_of(tmp_path, "a,y", A, cells, kind="regression")


@pytest.mark.parametrize("row", range(8))
@pytest.mark.parametrize("column", ["a", "y"])
def test_a_number_far_from_all_others_is_named(tmp_path, row, column):
    """Whether it is held out or trained on."""
    cells = {"a": A.copy(), "y": Y.copy()}
    cells[column][row] = 1e30
    with pytest.raises(InputError, match=rf"1e\+30 in '{column}', line {row + 2}, is far from all"):
        task_of(tmp_path, "a,y", cells["a"], cells["y"])


def test_the_target_of_several_columns(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.stack([A, B], 1), y=np.stack([Y, Y * 2 + 0.01 * A], 1))
    with pytest.raises(InputError, match=r"the array 'y' has 2 columns: 'y_0', 'y_1'"):
        table_task(path, "y")
    task = table_task(path, "y_0")
    assert inputs(task) == ["x_0", "x_1"]
    assert said(task, "NOT USED: column 'y_1': of the array of the target, 'y'")
    np.savez(path, data=np.stack([A, B, Y], 1))
    assert inputs(table_task(path, "data_2")) == ["data_0", "data_1"]


def test_rows_are_counted_in_one_way(tmp_path):
    """Lines of the file, as an editor shows them, with blank ones and lines inside quotes."""
    (tmp_path / "t.csv").write_text('\na,b,y\n\n1,"p\nq",3\ninf,p,4\n5,q,6\n')
    with pytest.raises(InputError, match=r"got infinity, line 6$"):
        table_task(tmp_path / "t.csv", "y")
    (tmp_path / "u.csv").write_text('\na,y\n\n"1\n2",3\n5\n')
    with pytest.raises(InputError, match=r"expected 2 cells in line 6, got 1"):
        table_task(tmp_path / "u.csv", "y")


def test_scores_beside_a_constant_answer(tmp_path):
    encoding = task_of(tmp_path, "a,y", A, ["rare"] * 6 + ["common"] * (ROWS - 6)).encoding
    target = np.array([0] * 54 + [1] * 6, np.int32)
    always = np.tile([1.0, 0.0], (ROWS, 1))
    got = scores(encoding, always, target)
    assert (got.accuracy, got.baseline, got.constant) == (0.9, 0.9, "common")
    assert got.recall == {"common": (54, 54), "rare": (0, 6)}
    assert any(
        line.startswith("WARNING: held out: no better than") for line in got.said("held out")
    )
    right = scores(encoding, np.eye(2)[target], target)
    assert right.better
    assert (
        "100.00% right (always 'common': 90.00%); by class: common 54 of 54, rare 6 of 6"
        in (right.said("held out")[0])
    )


def test_scores_in_units_of_the_target(tmp_path):
    task = task_of(tmp_path, "a,y", A, 1000 + 50 * Y)
    _, target = task.held_out
    units = target[:, 0] * task.encoding.scale + task.encoding.offset
    off = scores(task.encoding, target + 10 / task.encoding.scale, target)
    assert off.rmse == pytest.approx(10, rel=1e-4)
    assert off.r2 == pytest.approx(1 - 100 / units.var(), rel=1e-4)
    assert off.baseline == pytest.approx(units.std(), rel=1e-4)
    mean = scores(task.encoding, np.zeros_like(target) + target.mean(), target)
    assert not mean.better


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that has a run on t.csv: numbers, an amount, a date and a text."""
    folder = tmp_path_factory.mktemp("run")
    lines = ["a;cost;day;size;y"]
    for i in range(ROWS):
        numbers = [f"{v:.2f}".replace(".", ",") for v in (B[i], A[i] * 1000, Y[i] + i % 2)]
        day, size = f"{1 + i % 28}.{1 + i % 12}.2024", ["small", "large"][i % 2]
        lines.append(";".join([*numbers[:2], day, size, numbers[2]]))
    (folder / "t.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "t.csv", "--target", "y", "--steps", "20"]) == 0
    return folder


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("5;1000,5;3.4.2024;small", None),
        ("5;1000,5;3.4.2024;SMALL", None),
        ("5;;;", "column 'cost': 1 missing cells"),
        ("99;1000,5;3.4.2024;small", "column 'a': 1 rows beyond the numbers trained on"),
        ("5;1000,5;3.4.2034;small", "column 'day': 1 rows beyond the numbers trained on"),
        ("5;1000,5;3.4.2024;tiny", "values never seen in training, as 'tiny'"),
    ],
)
def test_a_prediction_says_what_is_new(run, tmp_path, monkeypatch, capsys, row, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.csv").write_text(f"a;cost;day;size\n{row}\n")
    assert main(["predict", str(run / "runs" / "t"), "--data", "n.csv"]) == 0
    printed = capsys.readouterr().out
    assert words in printed if words else "WARNING" not in printed
    # A line of the file, with the prediction behind it.
    written = (tmp_path / "n-predictions.csv").read_text().splitlines()[1]
    assert re.sub('[",;]', "", written).startswith(re.sub("[,;]", "", row))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("red;1000,5;3.4.2024;small", "expected numbers in 'a', got 'red' in line 2"),
        ("5;1.000.5;3.4.2024;small", "expected numbers in 'cost', got '1.000.5' in line 2"),
        ("5;1000,5;2024/3/4;small", "expected dates in 'day', got '2024/3/4' in line 2"),
        ("5;1000,5;30.2.2024;small", "expected dates in 'day', got '30.2.2024' in line 2"),
        ("5;1000,5;3.4.2024", "expected 4 cells in line 2, got 3"),
        ("5;1e60;3.4.2024;small", "too far from the numbers trained on"),
    ],
)
def test_a_prediction_of_what_cannot_be_read(run, tmp_path, monkeypatch, capsys, row, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.csv").write_text(f"a;cost;day;size\n{row}\n")
    assert main(["predict", str(run / "runs" / "t"), "--data", "n.csv"]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("*predictions*"))


def test_predictions_of_a_compressed_file_in_another_encoding(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = "a;cost;day;size;größe\n5;1000,5;3.4.2024;small;groß\n"
    (tmp_path / "n.csv.gz").write_bytes(gzip.compress(content.encode("latin-1")))
    assert main(["predict", str(run / "runs" / "t"), "--data", "n.csv.gz"]) == 0
    assert "Latin-1" in capsys.readouterr().out
    written = (tmp_path / "n-predictions.csv").read_text(encoding="utf-8").splitlines()
    assert written[0] == "a,cost,day,size,größe,prediction"
    assert '5,"1000,5",3.4.2024,small,groß,' in written[1]


def test_inputs_in_a_file_of_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task_of(tmp_path, "a,b c,y", A, B, Y)
    args = ["train", "--data", "t.csv", "--target", "y", "--inputs", "b c", "--steps", "2"]
    assert main([*args, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert 'inputs = ["b c"]' in printed
    (tmp_path / "c.toml").write_text(printed)
    assert main(["train", "--config", "c.toml"]) == 0
    assert "0 held out" not in capsys.readouterr().out
    config = json.loads((tmp_path / "runs" / "t" / "config.json").read_text())
    assert [column["name"] for column in config["encoding"]["columns"]] == ["b c"]
