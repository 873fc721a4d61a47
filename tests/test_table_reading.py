"""Cells that could be read in two ways: what they are read as, and what is said of it."""

import json
import math
import warnings

import numpy as np
import pytest

from fbp.cli import main
from fbp.text import FileTokenizer
from fbp.train import InputError, table_task
from fbp.train.tables._cell import varied
from fbp.train.tables._folds import folds
from fbp.train.tables._form import Form
from fbp.train.tables._read import read_table

nan = math.nan


def read(tmp_path, content, forms=None, name="t.csv"):
    (tmp_path / name).write_text(content)
    table = read_table(tmp_path / name, forms or {})
    return table, [line for lines in table.said.values() for line in lines]


def column(tmp_path, content, name, **options):
    table, said = read(tmp_path, content, **options)
    return table.columns[name].tolist(), said


def day(text):
    return float(np.datetime64(text, "D").astype(int))


@pytest.mark.parametrize(
    ("content", "cells", "words"),
    [
        # Thousands beside smaller numbers, in a file as programs of a decimal comma write it.
        ("v;n\n1.234;12\n999;7\n12.500;90\n", [1234, 999, 12500], ["'1.234' read as 1234"]),
        ("v;n\n1.234;12\n2.500;7\n12.500;90\n", [1.234, 2.5, 12.5], []),
        ("v;n\n1.234;1.5\n999;7.25\n12.500;9.0\n", [1.234, 999, 12.5], []),
        ("v,n\n1.234,12\n999,7\n12.500,90\n", [1.234, 999, 12.5], []),
        ("v;n\n0.234;12\n999;7\n12.500;90\n", [0.234, 999, 12.5], []),
        ("v;n\n-1.234.567;12\n999;7\n+12.500;90\n", [-1234567, 999, 12500], ["read as -1234567"]),
        # A gap does not hide that the other column has a decimal point.
        ("v;w\n1,234;1.5\n567;\n2,500;2.25\n", [1234, 567, 2500], ["'1,234' read as 1234"]),
    ],
)
def test_points_and_commas(tmp_path, content, cells, words):
    found, said = column(tmp_path, content, "v")
    assert found == cells
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_whole_numbers_are_of_a_file_with_decimal_commas(tmp_path):
    table, _ = read(tmp_path, "n;w\n100;0,5\n231;1,5\n")
    assert table.forms["n"] == Form("number", ",")
    later = "n;w\n1.234;0,5\n480,5;2,5\n"
    assert column(tmp_path, later, "n", forms=table.forms)[0] == [1234, 480.5]


@pytest.mark.parametrize(
    ("cells", "days", "words"),
    [
        (["01.2023", "12.2023", "01.2024"], ["2023-01-01", "2023-12-01", "2024-01-01"], ["dates"]),
        (["03-04-2024", "05-06-2024"], ["2024-04-03", "2024-06-05"], ["WARNING", "month could"]),
        (["01-15-2024", "05-06-2024"], ["2024-01-15", "2024-05-06"], ["dates"]),
        (["15-01-2024", "05-06-2024"], ["2024-01-15", "2024-06-05"], ["dates"]),
        (["03/04/2024", "05/06/2024"], ["2024-03-04", "2024-05-06"], ["WARNING", "day could"]),
        (["01/15/75", "01/15/60"], ["1975-01-15", "2060-01-15"], ["WARNING", "1975 to 2060"]),
        (["01/15/15", "01/16/60"], ["2015-01-15", "2060-01-16"], ["dates"]),
    ],
)
def test_dates(tmp_path, cells, days, words):
    content = "\n".join(["d,y", *(f"{cell},{i}" for i, cell in enumerate(cells))])
    found, (said,) = column(tmp_path, content, "d")
    assert found == [day(text) for text in days]
    assert all(word in said for word in words)
    assert ("WARNING" in said) == ("WARNING" in words)


def test_a_time_of_day_in_twelve_hours(tmp_path):
    found, _ = column(tmp_path, "d,y\n1/15/2024 1:30:00 PM,2\n1/16/2024 12:00:00 AM,3\n", "d")
    assert found == [day("2024-01-15") + 13.5 / 24, day("2024-01-16")]


@pytest.mark.parametrize(("serials", "kind"), [(0, "date"), (3, "date"), (30, "text")])
def test_dates_beside_numbers(tmp_path, serials, kind):
    dates = [f"2024-01-{i % 28 + 1:02}" for i in range(100 - serials)]
    cells = [*dates, *(str(45292 + i) for i in range(serials))]
    table, said = read(tmp_path, "\n".join(["d,y", *(f"{c},1" for c in cells)]))
    assert table.forms["d"].kind == kind
    assert any("are no dates, as '45292'" in line for line in said) == (serials == 3)


def test_numbers_of_another_unit_are_refused(tmp_path):
    table, _ = read(tmp_path, "p,y\n€5,1\n€7.5,2\n")
    assert table.forms["p"].unit == "€"
    same = {"forms": table.forms}
    assert column(tmp_path, "p,y\n€1,1\n2,2\n", "p", **same)[0] == [1, 2]
    with pytest.raises(InputError, match="expected numbers in 'p' in '€', got some in '\\$'"):
        read(tmp_path, "p,y\n$1,1\n2,2\n", **same)
    # Runs of before have no unit.
    with pytest.raises(InputError, match="expected numbers in 'p' in '%', got some in '€'"):
        read(tmp_path, "p,y\n€1,1\n2 %,2\n", forms={"p": Form("number", ".")})


def test_a_line_break_in_the_first_name(tmp_path):
    table, _ = read(tmp_path, '"weight\n(kg)";y\n1;2\n3;4\n')
    assert [cells.tolist() for cells in table.columns.values()] == [[1, 3], [2, 4]]


def test_genotypes_are_labels_and_spellings_of_a_word_are_not(tmp_path):
    lines = [f"{g},{i % 7},{'AA Aa aa'.index(g)}" for i, g in enumerate(["AA", "Aa", "aa"] * 20)]
    (tmp_path / "t.csv").write_text("\n".join(["g,b,y", *lines]))
    task = table_task(tmp_path / "t.csv", "y")
    assert [c.category for c in task.encoding.columns if c.name == "g"] == ["AA", "Aa", "aa"]
    lines = [f"{g},{i % 7},{i}" for i, g in enumerate(["No", "NO", "no"] * 20)]
    (tmp_path / "t.csv").write_text("\n".join(["g,b,y", *lines]))
    task = table_task(tmp_path / "t.csv", "y")
    wanted = "NOT USED: column 'g': constant, 'NO'; column 'g': 'NO', 'No', 'no' taken as one label"
    assert wanted in task.said
    with pytest.raises(InputError, match=r"got \['NO'\]; column 'g': .* taken as one label"):
        table_task(tmp_path / "t.csv", "g")


@pytest.mark.parametrize(
    ("far", "refused"),
    [(0, False), (1, True), (20, False), (-20, True)],
    ids=["none", "a slip", "skewed", "a code"],
)
def test_a_slip_is_refused_and_a_skewed_column_is_not(tmp_path, far, refused):
    rng = np.random.default_rng(0)
    p = rng.uniform(1e-10, 1e-8, 100)
    p[: abs(far)] = rng.uniform(0.5, 1, abs(far)) if far >= 0 else 99.0
    rows = [f"{a},{b}" for a, b in zip(p, rng.normal(size=100), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["p,y", *rows]))
    if refused:
        with pytest.raises(InputError, match="is far from all others"):
            table_task(tmp_path / "t.csv", "y")
    else:
        assert [c.name for c in table_task(tmp_path / "t.csv", "y").encoding.columns] == ["p"]


def test_an_input_called_x_is_no_row_number(tmp_path):
    x = np.random.default_rng(0).permutation(100) * 2
    rows = [f"{a},{a % 7 + 0.5},{a * 0.1}" for a in x]
    (tmp_path / "t.csv").write_text("\n".join(["x,b,y", *rows]))
    assert [c.name for c in table_task(tmp_path / "t.csv", "y").encoding.columns] == ["x", "b"]


def test_dates_to_predict_are_numbers(tmp_path):
    rows = [f"{i * 0.5},2024-0{i % 4 + 1}-01" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["x,d", *rows]))
    task = table_task(tmp_path / "t.csv", "d")
    assert task.encoding.kind == "regression"
    assert "target 'd': regression, because it is dates, as days since 1970" in task.said


def test_a_target_whose_spread_is_no_number_is_refused(tmp_path):
    rows = [f"{i},{(i + 1.5) * 1e200}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]))
    with pytest.raises(InputError, match="the numbers in 'y' are too large to average"):
        table_task(tmp_path / "t.csv", "y")
    # A standard deviation that is nothing but rounding.
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *(f"{i},0.1" for i in range(7)), "7,0.3"]))
    encoding = table_task(tmp_path / "t.csv", "y", "regression").encoding
    assert encoding.scale == 1 or encoding.scale > 0.01


def test_scores_are_json_and_predictions_have_their_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "six.csv").write_text("\n".join(["x,y", *(f"{i},{i * 0.3}" for i in range(6))]))
    fast = ["--steps", "20", "--no-check"]
    assert main(["train", "--data", "six.csv", "--target", "y", *fast]) == 0
    said = capsys.readouterr().out
    assert "nan" not in said
    assert "held out: root mean squared error" in said
    scores = json.loads((tmp_path / "runs/six/scores.json").read_text())
    assert "r2" not in scores
    rows = [f"{i},{1.7e9 + 300 * i}" for i in range(60)]
    (tmp_path / "epoch.csv").write_text("\n".join(["x,t", *rows]))
    assert main(["train", "--data", "epoch.csv", "--target", "t", *fast]) == 0
    assert "(always 17000" in capsys.readouterr().out
    assert main(["predict", "runs/epoch", "--data", "epoch.csv", "--out", "p.csv"]) == 0
    found = np.genfromtxt(tmp_path / "p.csv", delimiter=",", names=True)
    assert np.abs(found["prediction"] - found["t"]).max() < 3000  # of a range of 17,700


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (1.7e9 + 0.25, 1.0, "1700000000.25"),
        (123.456789123, 100.0, "123.4568"),
        (0.0, 1.0, "0"),
        (-2.0, 0.0, "-2"),
        (1e300, 1e-300, "1.0000000000000001e+300"),
        (1e-5, 1.0, "1e-05"),
    ],
)
def test_digits_of_what_varies(value, spread, text):
    assert varied(value, spread, 7) == text


def test_rows_far_outside_leave_parts_of_one_size():
    x = np.zeros((1000, 1), np.float32)
    x[np.arange(0, 250, 5)] = 30
    train, left = folds(x, np.arange(1000.0), 5, 0)
    assert left[0].shape[0] == 190
    assert train[0].shape[0] == 810
    assert not (left[0] > 10).any()
    # None is left out twice.
    assert len(np.unique(left[1])) == 190 * 5


def test_text_that_says_nan_in_an_archive_is_missing(tmp_path):
    np.savez(tmp_path / "t.npz", s=np.array(["a", "b", "nan"] * 30), x=np.arange(90.0) % 11)
    assert read_table(tmp_path / "t.npz").columns["s"].tolist()[:3] == ["a", "b", ""]
    assert table_task(tmp_path / "t.npz", "s").encoding.classes == ("a", "b")


@pytest.fixture
def pandas():
    pytest.importorskip("pyarrow")
    return pytest.importorskip("pandas")


def test_numbers_in_a_frame_have_a_point(tmp_path, pandas):
    frame = pandas.DataFrame({"a": ["1,5", "2,7", "3,1"], "w": [1.125, 2.875, nan]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.columns["w"], [1.125, 2.875, nan])
    assert table.columns["a"].tolist() == [1.5, 2.7, 3.1]
    known = read_table(tmp_path / "t.parquet", {"w": Form("number", ",")})
    np.testing.assert_array_equal(known.columns["w"], [1.125, 2.875, nan])


def test_nullable_columns_lists_and_an_index(tmp_path, pandas):
    values = {
        "n": pandas.array([1, None, 3], "Int64"),
        "b": pandas.array([True, None, False], "boolean"),
        "s": pandas.array(["u", None, "v"], "string"),
        "l": [[1, 2], [3, 4], None],
    }
    frame = pandas.DataFrame(values, index=pandas.Index([5.0, 6.0, 7.0], name="dose"))
    frame.to_parquet(tmp_path / "t.parquet")
    columns = read_table(tmp_path / "t.parquet").columns
    np.testing.assert_array_equal(columns["n"], [1, nan, 3])
    assert columns["b"].tolist() == ["true", "", "false"]
    assert columns["s"].tolist() == ["u", "", "v"]
    assert columns["dose"].tolist() == [5, 6, 7]


def test_a_label_none_in_a_sheet(tmp_path, pandas):
    pytest.importorskip("openpyxl")
    labels = ["None", "Mild", "Severe", "None"]
    frame = pandas.DataFrame({"a": labels, "y": [1.25, nan, 3, 4]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame.to_excel(tmp_path / "t.xlsx", index=False)
        columns = read_table(tmp_path / "t.xlsx").columns
    assert columns["a"].tolist() == labels
    np.testing.assert_array_equal(columns["y"], [1.25, nan, 3, 4])


def test_the_same_tokens_have_the_same_bytes(tmp_path):
    pytest.importorskip("tokenizers")
    from fbp.text import train_bpe
    from fbp.train.text._data import read_data

    texts = [f"a{i % 7} b{i % 5} c" for i in range(200)]
    tokenizer = train_bpe(texts, 300)
    assert isinstance(tokenizer, FileTokenizer)
    assert tokenizer.marks.end is not None
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    data = [read_data(tmp_path / "d.jsonl", lambda _: tokenizer, apart) for apart in (False, True)]
    folder = tmp_path / "tokens"
    folder.mkdir()
    np.save(folder / "train.npy", data[0].train)
    np.save(folder / "val.npy", data[0].val)
    data.append(read_data(folder, lambda _: tokenizer))
    assert len({len(one.val) for one in data}) == 1
    assert len({one.bytes_per_token for one in data}) == 1


def table_with(tmp_path, header, rows, name="t.csv"):
    (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
    return tmp_path / name


def rows_of(n=60, first=lambda i: str(i % 7)):
    return [f"{first(i)},{i * 0.25 + 1},{i * 1.5 + (i % 5)}" for i in range(n)]


@pytest.mark.parametrize(
    ("footer", "named"),
    [
        ("Total,{b},{y}", "'b' and 'y'"),
        ("{a},{b},{y}", "'a' and 'b' and 'y'"),
        (",{b},", "'b'"),
        ("Total,,{y}", "'y'"),
        ("3,7.5,{mean}", None),
        ("0,0,0", None),
    ],
)
def test_a_line_of_totals_is_left_out(tmp_path, footer, named):
    rows = rows_of()
    cells = np.array([[float(cell) for cell in row.split(",")] for row in rows])
    a, b, y = cells.sum(0)
    line = footer.format(a=a, b=b, y=f"{y:.1f}", mean=cells[:, 2].mean())
    task = table_task(table_with(tmp_path, "a,b,y", [*rows, line]), "y")
    left = [said for said in task.said if "is left out" in said]
    if named is None:
        assert not left
        assert len(task.train[0]) + len(task.held_out[0]) == 61
    else:
        assert left == [
            f"WARNING: line 62 is left out: its number in {named} is the sum of all others"
        ]
        assert len(task.train[0]) + len(task.held_out[0]) == 60


@pytest.mark.parametrize(
    ("write", "unit"),
    [
        (lambda i: f"{2 * i} kg", "kg"),
        (lambda i: f"{i / 8}cm", "cm"),
        (lambda i: f"{i},5 m".replace(",", "."), "m"),
        (lambda i: "" if i % 9 == 1 else f"1,00{i % 10} USD", "USD"),
        (lambda i: "n/a" if i == 3 else f"-{i}µg", "µg"),
    ],
)
def test_numbers_with_a_unit_are_numbers(tmp_path, write, unit):
    lines = [f'"{write(i)}";{i % 7};{i * 1.5}' for i in range(60)]
    task = table_task(table_with(tmp_path, "a;b;y", lines), "y")
    assert task.encoding.read["a"].unit == unit
    assert [c.name for c in task.encoding.columns] == ["a", "b"]
    assert any(said.startswith("column 'a': ") and unit in said for said in task.said)
    forms = task.encoding.forms
    again, _ = read(tmp_path, f"a;b;y\n7.5 {unit};1;2\n8;1;2\n", forms, "new.csv")
    assert again.columns["a"].tolist() == [7.5, 8]
    with pytest.raises(InputError, match="expected numbers in 'a', got '9 lb'"):
        read(tmp_path, "a;b;y\n9 lb;1;2\n", forms, "new.csv")


@pytest.mark.parametrize(
    "cells", [["7kg", "8g"], ["12A", "13B"], ["7 kg", "kg"], ["a1b", "a2b"], ["route 1x", "2x"]]
)
def test_other_letters_are_text(tmp_path, cells):
    table, _ = read(tmp_path, "\n".join(["a,y", *(f"{c},1" for c in cells)]))
    assert table.forms["a"].kind == "text"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("a;b;;\n1;2;;\n3;4;;\n", ["a", "b"]),
        ("a;;b\n1;;2\n3;;4\n", ["a", "b"]),
        (";a;b\n1;5;2\n2;6;4\n", ["unnamed", "a", "b"]),
        ("a;;b\n1;7;2\n3;;4\n", "got '' more than once or empty$"),
        ("Sales 2024;;;\na;b;c;d\n1;2;3;4\n", "if a title stands above the line of names"),
        ("Sales 2024\na,b,c,d\n1,2,3,4\n", "if a title stands above the line of names"),
    ],
)
def test_columns_of_which_nothing_is_there(tmp_path, content, wanted):
    if isinstance(wanted, list):
        assert list(read(tmp_path, content)[0].columns) == wanted
    else:
        with pytest.raises(InputError, match=wanted):
            read(tmp_path, content)


def test_what_is_said_of_codes_currencies_and_percent(tmp_path):
    _, said = read(tmp_path, "zip,y\n00028,1\n12345,2\n")
    assert "WARNING: column 'zip': '00028' read as 28: if these are codes" in said[0]
    assert not read(tmp_path, "n,y\n0,1\n0.5,2\n10,3\n")[1]
    lines = [f"{i},{'€$'[i % 2]}{100 + i}" for i in range(60)]
    with pytest.raises(InputError, match="numbers with '\\$' and '€' are not one quantity"):
        table_task(table_with(tmp_path, "x,y", lines), "y")
    forms = {"p": Form("number", ".", unit="%")}
    assert read(tmp_path, "p,y\n0.279,1\n", forms)[1] == [
        "WARNING: column 'p': some numbers have a % and some none: all read alike"
    ]


def test_missing_cells_and_new_categories_are_counted_apart(tmp_path):
    task = table_task(table_with(tmp_path, "a,b,y", rows_of(first=lambda i: "uvw"[i % 3])), "y")
    table, _ = read(tmp_path, "a,b,y\n,1,2\n,1,2\ncastle,1,2\nu,1,2\n")
    assert [said for said in task.encoding.unknown(table) if "'a'" in said] == [
        "WARNING: column 'a': 2 rows with missing cells",
        "WARNING: column 'a': 1 rows with values never seen in training, as 'castle'",
    ]
