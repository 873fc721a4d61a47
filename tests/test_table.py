"""Tables: what is read, what is decided, and the one line that bad input gets."""

import json
import zipfile

import numpy as np
import pytest

from fbp.train import InputError, table_task
from fbp.train.tables._decide import split_rows
from fbp.train.tables._encoding import Encoding
from fbp.train.tables._read import read_table

ROWS = 40


def write(path, header, *columns):
    lines = [header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbers(n=ROWS):
    return [round(float(v), 3) for v in np.random.default_rng(0).normal(5, 3, n)]


def test_regression_is_standardized_by_the_training_part(tmp_path):
    a, y = numbers(), [v * 2.5 for v in numbers()]
    task = table_task(write(tmp_path / "t.csv", "a,y", a, y), "y")
    x, target = task.train
    assert task.encoding.kind == "regression"
    # Rounding to float32 of 32 numbers of size 1.
    np.testing.assert_allclose([x.mean(), target.mean()], 0, atol=1e-6)
    np.testing.assert_allclose([x.std(), target.std()], 1, atol=1e-6)
    held_x, held_y = task.held_out
    assert len(x) + len(held_x) == ROWS
    assert len(held_x) == ROWS // 5
    back = task.encoding.decode(held_y)["prediction"]
    # Each is some y, to the rounding of numbers up to 30 in float32.
    assert np.abs(back[:, None] - np.array(y)).min(1).max() < 30 * 2**-23


def test_labels_are_mapped_and_it_is_said(tmp_path):
    labels = ["cat", "dog"] * (ROWS // 2)
    task = table_task(write(tmp_path / "t.csv", "a,kind", numbers(), labels), "kind")
    assert task.encoding.classes == ("cat", "dog")
    assert task.train[1].dtype == np.int32
    assert any("classification" in line and "text" in line for line in task.said)


def test_whole_numbers_are_classes_when_few_and_numbers_when_many(tmp_path):
    few = [i % 3 for i in range(ROWS)]
    many = list(range(ROWS))
    assert table_task(write(tmp_path / "f.csv", "a,y", numbers(), few), "y").encoding.classes == (
        *("0", "1", "2"),
    )
    path = write(tmp_path / "m.csv", "a,y", numbers(), many)
    assert table_task(path, "y").encoding.kind == "regression"
    with pytest.raises(InputError, match="labels that repeat in 'y', got 40 different numbers"):
        table_task(path, "y", "classification")
    labels = [i % 15 for i in range(4 * ROWS)]
    path = write(tmp_path / "l.csv", "a,y", numbers(4 * ROWS), labels)
    assert table_task(path, "y", "classification").encoding.outputs == 15


def test_text_columns_become_categories(tmp_path):
    sex = ["f", "m"] * (ROWS // 2)
    names = [f"name {i}" for i in range(ROWS)]
    task = table_task(
        write(tmp_path / "t.csv", "sex,who,a,y", sex, names, numbers(), numbers()), "y"
    )
    assert [(c.name, c.category) for c in task.encoding.columns][:2] == [("sex", "f"), ("sex", "m")]
    few = table_task(write(tmp_path / "u.csv", "sex,y", sex, numbers()), "y")
    assert set(np.unique(few.train[0])) == {0.0, 1.0}


def test_a_constant_column_is_left_out_and_said(tmp_path):
    task = table_task(write(tmp_path / "t.csv", "a,c,y", numbers(), [3] * ROWS, numbers()), "y")
    assert [c.name for c in task.encoding.columns] == ["a"]
    assert "NOT USED: column 'c': constant, 3" in task.said


def test_missing_cells_take_the_mean_and_rows_without_target_go(tmp_path):
    a, y = numbers(), numbers()
    a[3], y[5] = "", "NA"
    task = table_task(write(tmp_path / "t.csv", "a,y", a, y), "y")
    rows = np.concatenate([task.train[0], task.held_out[0]])
    assert len(rows) == ROWS - 1
    assert np.isfinite(rows).all()
    assert (rows == 0).sum() == 1
    assert any("1 missing" in line for line in task.said)
    assert any("rows without 'y': 1" in line for line in task.said)


def test_semicolons_quotes_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('﻿"a b";y\n"1,5";x\n"2,5";"y\nz"\n'.encode())
    table = read_table(path)
    assert list(table.columns) == ["a b", "y"]
    assert table.columns["y"].tolist() == ["x", "y\nz"]


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "t.npz"
    np.savez(path, x=rng.normal(size=(ROWS, 2, 3)), y=np.arange(ROWS) % 2)
    task = table_task(path, "y")
    assert task.train[0].shape[1] == 6
    assert task.encoding.classes == ("0", "1")


def test_the_split_is_fixed_and_has_every_class():
    target = np.array([0] * 90 + [1] * 10)
    train, held_out = split_rows(target)
    assert sorted([*train, *held_out]) == list(range(100))
    assert target[held_out].tolist().count(1) == 2
    np.testing.assert_array_equal(train, split_rows(target)[0])


def test_an_encoding_survives_json(tmp_path):
    sex = ["f", "m"] * (ROWS // 2)
    encoding = table_task(
        write(tmp_path / "t.csv", "sex,a,y", sex, numbers(), ["p", "q"] * (ROWS // 2)), "y"
    ).encoding
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


def bad(name, content, target, *words):
    return pytest.param(name, content, target, words, id=f"{name} {words[0]}")


TEXT = "a,b,y\n" + "".join(f"{i},{i % 7},{i * 0.5}\n" for i in range(20))


@pytest.mark.parametrize(
    ("name", "content", "target", "words"),
    [
        bad("none.csv", None, "y", "no such file"),
        bad("t.doc", "a,y\n1,2\n", "y", "named .csv, .tsv"),
        bad("empty.csv", "", "y", "column names"),
        bad("blank.csv", "\n \n\n", "y", "column names"),
        bad("header.csv", "a,y\n", "y", "rows of data"),
        bad("numbers.csv", "1,2\n3,4\n", "y", "only numbers"),
        bad("twice.csv", "a,a,y\n1,2,3\n", "y", "'a'"),
        bad("unnamed.csv", "a,,y\n1,2,3\n", "y", "''"),
        bad("ragged.csv", "a,y\n1,2\n3\n", "y", "line 3", "expected 2 cells", "got 1"),
        bad("image.csv", b"\x89PNG\r\n\x1a\n\x00\xff", "y", "CSV text"),
        bad("quote.csv", 'a,y\n"1,2\n', "y", "CSV"),
        bad("missing.csv", TEXT, "z", "column 'z'", "'a', 'b', 'y'"),
        bad("near.csv", TEXT.replace("y", "price"), "prise", "did you mean 'price'"),
        bad("nan.csv", "a,y\n" + "nan,2\n,4\nNA,6\n" * 5, "y", "'a': it has no cells"),
        bad("infinite.csv", "a,y\n1,2\ninf,3\n", "y", "infinity", "'a'", "line 3"),
        bad("constant.csv", "a,y\n" + "1,2\n1,3\n" * 5, "y", "a column that varies"),
        bad("one.csv", "a,y\n" + "1,x\n2,x\n" * 5, "y", "two values"),
        bad("no_target.csv", "a,y\n" + "1,\n2,nan\n" * 5, "y", "empty in every row"),
        bad("text.npz", "not an archive", "y", "an NPZ archive"),
        bad("cut.npz", b"PK\x03\x04" + b"\x00" * 40, "y", "an NPZ archive"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, name, content, target, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as error:
        table_task(path, target)
    said = str(error.value)
    assert "\n" not in said
    assert name in said
    for word in words:
        assert word in said, said


def test_a_folder_named_like_a_table(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(InputError, match="no such file"):
        table_task(tmp_path / "t.csv", "y")


def test_npz_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.array([{"a": 1}] * 3, dtype=object), y=np.arange(3))
    with pytest.raises(InputError, match="without Python objects"):
        table_task(path, "y")


def test_npz_of_different_lengths(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.zeros(3), y=np.zeros(4))
    with pytest.raises(InputError, match="one first axis"):
        table_task(path, "y")


def test_an_archive_of_other_files_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "hello")
    with pytest.raises(InputError):
        table_task(path, "y")


def test_regression_on_text_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", "a,y", numbers(), ["p", "q"] * (ROWS // 2))
    with pytest.raises(InputError, match="to regress on"):
        table_task(path, "y", "regression")


def test_npz_names_that_clash_are_refused(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.zeros((4, 2)), x_1=np.zeros(4), y=np.arange(4))
    with pytest.raises(InputError, match="two for 'x_1'"):
        table_task(path, "y")


def test_npz_without_rows(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.zeros((0, 3)), y=np.zeros(0))
    with pytest.raises(InputError, match="rows of data"):
        table_task(path, "y")


def test_text_meant_as_numbers_is_refused(tmp_path):
    prices = [f"about {i} EUR" for i in range(ROWS)]
    path = write(tmp_path / "t.csv", "a,price", numbers(), prices)
    with pytest.raises(InputError, match="40 different texts, as 'about 0 EUR'"):
        table_task(path, "price")


def test_none_is_a_label(tmp_path):
    path = write(tmp_path / "t.csv", "a,y", numbers(), ["none", "mild"] * (ROWS // 2))
    task = table_task(path, "y")
    assert task.encoding.classes == ("mild", "none")
    assert len(task.train[0]) + len(task.held_out[0]) == ROWS


def test_line_separators_inside_a_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,y\nx\u2028z,1\n", encoding="utf-8")
    assert read_table(path).columns["a"].tolist() == ["x\u2028z"]
