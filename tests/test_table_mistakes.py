"""Tables that cannot be used: one clear line, status 2, and nothing written."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from fbp.cli import main
from fbp.train import InputError, table_task

ROWS = 40
GOOD = "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i * 0.5}\n" for i in range(ROWS))


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def archive(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(name, content)
    return file.getvalue()


def replaced(line, by):
    lines = GOOD.splitlines()
    lines[line - 1] = by
    return "\n".join(lines) + "\n"


X = np.arange(ROWS) % 7 + 0.5
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">IIII", 13, 1, 1, 0) + b"\x00\xff"
# Each: the file's name, its content, what else is asked for, and words of the answer.
MISTAKES = [
    ("none.csv", None, [], "no such file"),
    ("t.doc", GOOD, [], "expected a file named .csv"),
    ("t", GOOD, [], "expected a file named .csv"),
    ("t.gz", GOOD, [], "expected a file named .csv"),
    ("t.npz.gz", GOOD, [], "expected a file named .csv"),
    ("t.csv", "", [], "a line of column names"),
    ("t.csv", "\n\n  \n", [], "a line of column names"),
    ("t.csv", "\ufeff", [], "a line of column names"),
    ("t.csv", "a,b,y\n", [], "expected rows of data"),
    ("t.csv", "a,b,y\n\n\n", [], "expected rows of data"),
    ("t.csv", "1,2,3\n4,5,6\n", [], "got only numbers"),
    ("t.csv", "a,a,y\n1,2,3\n", [], "'a' more than once or empty"),
    ("t.csv", "a,,y\n1,2,3\n", [], "'' more than once or empty"),
    ("t.csv", replaced(5, "1,2"), [], "expected 3 cells in line 5, got 2"),
    ("t.csv", replaced(5, "1,2,3,4"), [], "expected 3 cells in line 5, got 4"),
    ("t.csv", replaced(5, '1,"2,3'), [], "breaks its rules"),
    ("t.csv", replaced(5, '1,"2"x,3'), [], "breaks its rules"),
    ("t.csv", replaced(5, "inf,2,3"), [], "infinity, line 5"),
    ("t.csv", replaced(5, "1,2,-Infinity"), [], "infinity, line 5"),
    ("t.csv", replaced(5, "1e400,2,3"), [], "infinity, line 5"),
    ("t.csv", replaced(5, "1e30,2,3"), [], "1e+30 in 'a', line 5, is far from all others"),
    ("t.csv", replaced(5, "1,2,1e300"), [], "1e+300 in 'y', line 5, is far from all others"),
    ("t.csv", PNG, [], "bytes that no text has"),
    ("t.csv", b"\x00" * 100, [], "bytes that no text has"),
    ("t.csv", b"PK\x03\x04" + bytes(range(32)) * 4, [], "bytes that no text has"),
    ("t.csv", b"\xff\xfea\x00,\x00y\x00\n\x00\x31", [], "damaged"),
    ("t.csv.gz", GOOD, [], "expected a gzip file"),
    ("t.csv.gz", gzip.compress(GOOD.encode())[:60], [], "a damaged one"),
    ("t.csv.gz", gzip.compress(PNG), [], "bytes that no text has"),
    ("t.csv", GOOD, ["--target", "z"], "expected a column 'z'"),
    ("t.csv", GOOD.replace("y", "price"), ["--target", "prise"], "did you mean 'price'"),
    ("t.csv", GOOD, ["--target", ""], "expected a column ''; it has 'a', 'b', 'y'"),
    ("t.csv", GOOD, ["--inputs", "z"], "expected a column 'z'"),
    ("t.csv", GOOD, ["--inputs", "a", "y"], "besides the target 'y'"),
    ("t.csv", "a,b,y\n" + "1,2,3\n" * 9, [], "two values or more"),
    ("t.csv", "a,b,y\n" + "1,2,3\n1,2,4\n" * 9, [], "a column that varies besides 'y'"),
    ("t.csv", "a,b,y\n" + ",,3\n,,4\n" * 9, [], "it has no cells"),
    ("t.csv", "y\n" + "3\n4\n" * 9, [], "a column that varies besides 'y'"),
    ("t.csv", "a,y\n" + "1,\n2,NA\n3,?\n" * 9, [], "'y' is empty in every row"),
    ("t.csv", GOOD, ["--kind", "classification"], "labels that repeat in 'y', got 40"),
    ("t.csv", "a,y\n" + "1,p\n2,q\n" * 9, ["--kind", "regression"], "to regress on, got text"),
    ("t.csv", "a,y\n" + "".join(f"{i},n{i}\n" for i in range(40)), [], "40 different texts"),
    ("t.csv", GOOD, ["--inputs", "a", "--steps", "0"], "--steps"),
    ("t.csv", GOOD, ["--lr", "0"], "--lr"),
    ("t.csv", GOOD, ["--batch", "0"], "--batch"),
    ("t.npz", GOOD, [], "expected an NPZ archive"),
    ("t.npz", npz(a=X, y=X * 2)[:200], [], "expected an NPZ archive"),
    ("t.npz", archive("notes.txt", "hello"), [], "expected an NPZ archive"),
    ("t.npz", archive("a.npy", b"\x93NUMPY\x01"), [], "expected an NPZ archive"),
    ("t.npz", npz(a=X, y=np.array([{}] * ROWS)), [], "without Python objects"),
    ("t.npz", npz(a=X, y=X[:-1]), [], "one first axis"),
    ("t.npz", npz(a=X, y=np.float64(1)), [], "one first axis"),
    ("t.npz", npz(a=X, y=X * 1j), [], "numbers or text in 'y', got complex128"),
    ("t.npz", npz(a=X[:0], y=X[:0]), [], "expected rows of data"),
    ("t.npz", npz(a=X, y=np.where(X > 1, X, np.inf)), [], "infinity, row 1"),
    ("t.npz", npz(x=np.stack([X, X], 1), x_1=X, y=X), [], "two for 'x_1'"),
    ("t.npz", npz(x=X, y=np.stack([X, X + 1], 1)), [], "'y' has 2 columns: 'y_0', 'y_1'"),
    ("t.npz", npz(), [], "got an empty archive"),
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `fbp train` on a file, and returns what it says of what is wrong."""
    monkeypatch.chdir(tmp_path)

    def failure(name, content, *args):
        if content is not None:
            bytes_ = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).write_bytes(bytes_)
        target = [] if "--target" in args else ["--target", "y"]
        assert main(["train", "--data", name, *target, *args]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("fbp: ")
        assert said.err.count("\n") == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == [name] * (content is not None)
        if content is not None:
            assert (tmp_path / name).read_bytes() == bytes_
        return said.err

    return failure


@pytest.mark.parametrize(
    ("name", "content", "args", "words"), MISTAKES, ids=[f"{m[0]} {m[3]}" for m in MISTAKES]
)
def test_a_mistake_gets_one_line_and_leaves_nothing(run, name, content, args, words):
    assert words in run(name, content, *args)


def test_the_good_table_is_good(tmp_path):
    """So that each mistake above is the only one in its file."""
    (tmp_path / "t.csv").write_text(GOOD)
    assert table_task(tmp_path / "t.csv", "y").encoding.kind == "regression"


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_ends_in_anything_but_one_line(tmp_path, seed):
    """Bytes of tables replaced, cut out, doubled and swapped, 60 times a seed."""
    rng = np.random.default_rng(seed)
    wholes = [GOOD.encode(), GOOD.encode("utf-16"), gzip.compress(GOOD.encode()), npz(a=X, y=X * 2)]
    refused = []
    for i in range(60):
        whole = bytearray(wholes[i % 4])
        start, size = int(rng.integers(len(whole))), int(rng.integers(1, 9))
        part = bytes(whole[start : start + size])
        whole[start : start + size] = [rng.bytes(size), b"", part * 3, part[::-1]][i // 4 % 4]
        path = tmp_path / f"t{i}{'.npz' if i % 4 == 3 else '.csv'}"
        path.write_bytes(whole)
        try:
            table_task(path, "y")
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert not any("\n" in said for said in refused)
