"""What the cells of a table's file say, in whatever way programs and people write them."""

import gzip

import numpy as np
import pytest

from fbp.train import InputError, table_task
from fbp.train.tables._cell import plain_number, written_number
from fbp.train.tables._form import Form, read_column
from fbp.train.tables._read import read_table

ROWS = 60
RNG = np.random.default_rng(0)
A = np.round(RNG.normal(5, 3, ROWS), 3)
Y = np.round(RNG.normal(0, 1, ROWS), 3)


def text(header, *columns, sep=","):
    lines = [header, *(sep.join(map(str, row)) for row in zip(*columns, strict=True))]
    return "\n".join(lines) + "\n"


def task_of(tmp_path, content, target="y", name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table_task(path, target, **options)


def put(cells, **odd):
    """The cells with some of them replaced: put(cells, _3="-")."""
    cells = list(cells)
    for place, cell in odd.items():
        cells[int(place[1:])] = cell
    return cells


@pytest.mark.parametrize(
    ("cell", "mark", "number", "unit"),
    [
        ("1,234.5", ".", 1234.5, ""),
        ("1.234,5", ",", 1234.5, ""),
        ("1,5", ",", 1.5, ""),
        ("-1,5", ",", -1.5, ""),
        ("$5", ".", 5, "$"),
        ("-$5.25", ".", -5.25, "$"),
        ("$-5.25", ".", -5.25, "$"),
        ("(1,234)", ".", -1234, ""),
        ("($7)", ".", -7, "$"),
        ("12.5%", ".", 12.5, "%"),
        ("12,5 %", ",", 12.5, "%"),
        ("5 €", ".", 5, "€"),
        ("£1,000,000", ".", 1e6, "£"),
        ("1 234", ".", 1234, ""),
        ("1\N{NO-BREAK SPACE}234,5", ",", 1234.5, ""),
        ("1'234.5", ".", 1234.5, ""),
        ("\N{MINUS SIGN}3.5", ".", -3.5, ""),
        ("1.5e3", ".", 1500, ""),
        ("1,5E-1", ",", 0.15, ""),
        (".5", ".", 0.5, ""),
    ],
)
def test_a_written_number(cell, mark, number, unit):
    got = written_number(cell, mark)
    assert got is not None
    assert got == (pytest.approx(number, rel=1e-15), unit)


NO_NUMBERS = ["", "1_2", "0,123", "12,34", "1,2345", "$$5", "$5%", "--5", "(5", "5)", "(-5)"]


@pytest.mark.parametrize("cell", [*NO_NUMBERS, "1.2.3", "five"])
def test_what_is_no_written_number(cell):
    assert written_number(cell, ".") is None


def test_an_underscore_is_not_of_a_number():
    assert plain_number("1_2") is None
    assert plain_number("12") == 12


@pytest.mark.parametrize(
    "odd", ["", "-", "--", "?", "n/a", "N/A", "#N/A", "NULL", "NaN", "n.a.", ".", "#DIV/0!", "None"]
)
def test_a_gap_leaves_a_column_of_numbers(tmp_path, odd):
    task = task_of(tmp_path, text("a,b,y", put(A, _3=odd), A[::-1], Y))
    assert [column.name for column in task.encoding.columns] == ["a", "b"]
    assert any("'a': 1 missing cells, set to its mean" in line for line in task.said)
    assert not odd or any(f"'a': {odd!r} read as missing" in line for line in task.said)


def test_an_odd_word_is_missing_and_said_with_its_line(tmp_path):
    task = task_of(tmp_path, text("a,b,y", put(A, _3="oops"), A[::-1], Y))
    assert [column.name for column in task.encoding.columns] == ["a", "b"]
    (line,) = [line for line in task.said if "'oops'" in line]
    assert line.startswith("WARNING: column 'a': 1 of 60 cells is no number, as 'oops' in line 5")


def test_codes_with_a_few_words_stay_text(tmp_path):
    """Few different numbers and a word are codes, however rare the word is."""
    codes = put([str(i % 4) for i in range(ROWS)], _3="other")
    task = task_of(tmp_path, text("a,y", codes, Y))
    assert len(task.encoding.columns) == 5


@pytest.mark.parametrize(
    ("digits", "write", "sep", "example"),
    [
        (2, lambda cell: cell.replace(".", ","), ";", "read as"),
        (1, lambda cell: f'"{float(cell):,.1f}"', ",", "read as"),
        (1, lambda cell: f"${cell}", ",", "read as"),
        (1, lambda cell: f"{cell}%", ",", "read as"),
        (0, lambda cell: cell.replace("-", "\N{MINUS SIGN}"), ",", ""),
    ],
    ids=["decimal comma", "thousands", "currency", "percent", "minus sign"],
)
def test_numbers_as_people_write_them(tmp_path, digits, write, sep, example):
    plain = [f"{a * 1e4:.{digits}f}" for a in A]
    content = text(sep.join("aby"), [write(cell) for cell in plain], A[::-1], Y, sep=sep)
    task = task_of(tmp_path, content)
    assert any(line.startswith("column 'a': ") and example in line for line in task.said)
    table = read_table(tmp_path / "t.csv")
    assert table.columns["a"].tolist() == [float(cell) for cell in plain]


def test_a_table_has_one_decimal_mark(tmp_path):
    """1.234 is a thousand and more beside decimal commas, and little beside none."""
    thousands = [f"{a * 1000:,.0f}".replace(",", ".") for a in abs(A) + 1]
    commas = [f"{y:.2f}".replace(".", ",") for y in Y]
    (tmp_path / "t.csv").write_text(text("a;b", thousands, commas, sep=";"))
    assert read_table(tmp_path / "t.csv").columns["a"].min() >= 1000
    (tmp_path / "u.csv").write_text(text("a;b", thousands, Y, sep=";"))
    assert read_table(tmp_path / "u.csv").columns["a"].max() < 1000


def test_a_prediction_reads_cells_as_training_did():
    """In a file of its own, 1,234 alone could be either."""
    assert read_column(["1,234", "2,5"]).form == Form("number", ",")
    assert read_column(["1,234"], ",").cells.tolist() == [1.234]
    assert read_column(["1,234"]).cells.tolist() == [1234]


def test_amounts_in_two_currencies_are_not_one_quantity(tmp_path):
    cells = [f"{'$€'[i % 2]}{a}" for i, a in enumerate(abs(A))]
    task = task_of(tmp_path, text("a,b,y", cells, A[::-1], Y))
    assert [column.name for column in task.encoding.columns] == ["b"]
    assert any(line.startswith("WARNING") and "'$' and '€'" in line for line in task.said)
    assert any(line.startswith("NOT USED: column 'a'") for line in task.said)


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("%Y-%m-%d", 19724),
        ("%Y-%m-%d %H:%M:%S", 19724.25),
        ("%Y-%m-%dT%H:%M:%SZ", 19724.25),
        ("%d.%m.%Y", 19724),
        ("%m/%d/%Y", 19724),
        ("%d/%m/%Y %H:%M", 19724.25),
        ("%d-%b-%y", 19724),
        ("%B %d, %Y", 19724),
        ("%Y/%m/%d", 19724),
    ],
)
def test_dates_become_days(tmp_path, form, first):
    import datetime

    start = datetime.datetime(2024, 1, 2, 6)
    dates = [f'"{(start + datetime.timedelta(days=3 * i)).strftime(form)}"' for i in range(ROWS)]
    task = task_of(tmp_path, text("d,a,y", put(dates, _5="NA"), A, Y))
    cells = read_table(tmp_path / "t.csv").columns["d"]
    assert cells[0] == first
    np.testing.assert_allclose(np.delete(np.diff(cells), [4, 5]), 3, atol=1e-9)
    assert np.isnan(cells[5])
    assert any("'d': dates, as days since 1970" in line for line in task.said)


@pytest.mark.parametrize(("last", "sure"), [("5/6/2024", False), ("25/6/2024", True)])
def test_whether_the_day_comes_first(tmp_path, last, sure):
    """Only a day above 12 tells."""
    dates = [*(f"{1 + i % 12}/{1 + i % 11}/2024" for i in range(ROWS - 1)), last]
    task = task_of(tmp_path, text("d,a,y", dates, A, Y))
    (line,) = [line for line in task.said if "'d': dates" in line]
    assert line.startswith("WARNING") != sure
    assert "'1/1/2024' read as 2024-01-01" in line


def test_percent_and_none(tmp_path):
    task = task_of(tmp_path, text("p,a,y", put([f"{a}%" for a in A], _3="0.5"), A, Y))
    assert any(line.startswith("WARNING: column 'p': some numbers have a %") for line in task.said)
    task = task_of(tmp_path, text("p,a,y", put([f"{a}%" for a in A], _3="-"), A, Y))
    assert not any("some numbers" in line for line in task.said)


def test_words_with_numbers_are_no_dates(tmp_path):
    names = [f"room {i % 9}" for i in range(ROWS)]
    task = task_of(tmp_path, text("a,y", names, Y))
    assert len(task.encoding.columns) == 9


GERMAN = text("a,Größe,y", A, ["groß", "klein"] * (ROWS // 2), Y)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("u.csv", GERMAN.encode("utf-8"), None),
        ("u8.csv", GERMAN.encode("utf-8-sig"), None),
        ("u16.csv", GERMAN.encode("utf-16"), "UTF-16"),
        ("u16le.csv", GERMAN.encode("utf-16-le"), "UTF-16-LE"),
        ("u16be.csv", GERMAN.encode("utf-16-be"), "UTF-16-BE"),
        ("l1.csv", GERMAN.encode("latin-1"), "Latin-1"),
        ("gz.csv.gz", gzip.compress(GERMAN.encode("latin-1")), "Latin-1"),
        ("gz.csv", gzip.compress(GERMAN.encode()), None),
        ("tabs.tsv", GERMAN.replace(",", "\t").encode(), None),
        ("bars.txt", GERMAN.replace(",", "|").encode(), None),
        ("mac.csv", GERMAN.replace("\n", "\r").encode(), None),
        ("dos.csv", GERMAN.replace("\n", "\r\n").encode(), None),
    ],
)
def test_encodings_and_delimiters(tmp_path, name, content, said):
    task = task_of(tmp_path, content, name=name)
    names = [(column.name, column.category) for column in task.encoding.columns]
    assert names == [("a", None), ("Größe", "groß"), ("Größe", "klein")]
    assert task.name == name.partition(".")[0]
    assert (
        any(said in line for line in task.said)
        if said
        else not any("UTF" in line for line in task.said)
    )


def test_a_damaged_gzip_file(tmp_path):
    whole = gzip.compress(GERMAN.encode())
    for content in (whole[: len(whole) // 2], whole[:-3], whole[:40] + b"??" + whole[42:]):
        with pytest.raises(InputError, match="a damaged one"):
            task_of(tmp_path, content, name="t.csv.gz")
    with pytest.raises(InputError, match="expected a gzip file, got something else"):
        task_of(tmp_path, GERMAN, name="t.csv.gz")


@pytest.mark.parametrize("suffix", ["parquet", "xlsx"])
def test_other_formats_by_pandas(tmp_path, suffix):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip({"parquet": "pyarrow", "xlsx": "openpyxl"}[suffix])
    dates = pandas.date_range("2024-01-02", periods=ROWS, freq="3D")
    numbers = put(A, _4=np.nan)
    names = put(["p", "q"] * (ROWS // 2), _6=None)
    frame = pandas.DataFrame({"a": numbers, "n": range(5, 5 + ROWS), "s": names, "d": dates})
    path = tmp_path / f"t.{suffix}"
    (frame.to_parquet if suffix == "parquet" else frame.to_excel)(path, index=False)
    table = read_table(path)
    np.testing.assert_array_equal(table.columns["a"], numbers)
    np.testing.assert_array_equal(table.columns["n"], np.arange(5, 5 + ROWS))
    assert table.columns["s"].tolist() == put(["p", "q"] * (ROWS // 2), _6="")
    assert table.columns["d"][:2].tolist() == [19724, 19727]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="got something else"):
        read_table(path)


def test_without_pandas_it_is_said_what_to_do(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pip install 'fbp\[tables\]', or save it as \.csv"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.slow
def test_a_large_table_takes_little_memory(tmp_path):
    """Less than a few times its file, where a Python object a cell takes ten times."""
    import tracemalloc

    row = ",".join(f"{a:.6f}" for a in RNG.normal(size=20))
    (tmp_path / "t.csv").write_text(
        ",".join(f"c{i}" for i in range(20)) + "\n" + (row + "\n") * 30_000
    )
    size = (tmp_path / "t.csv").stat().st_size
    tracemalloc.start()
    table = read_table(tmp_path / "t.csv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 30_000
    assert peak < 6 * size
