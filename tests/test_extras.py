"""What needs a package of an extra works where it is installed, and else says what to install."""

import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbp import text
from fbp.train import InputError, Run
from fbp.train._trackers import Tracked
from fbp.train.tables._read import read_table

CELLS = {"x": [0.5, None, 3.0], "name": ["a", "b", "ü"], "n": [1, 2, 3]}


@pytest.mark.parametrize(("ending", "package"), [("parquet", "pyarrow"), ("xlsx", "openpyxl")])
def test_tables(ending: str, package: str, tmp_path: Path) -> None:
    pandas: Any = pytest.importorskip("pandas")
    pytest.importorskip(package)
    frame, path = pandas.DataFrame(CELLS), tmp_path / f"t.{ending}"
    frame["day"] = pandas.to_datetime(["2020-01-01", "2020-01-02", "2021-01-01"])
    frame.to_parquet(path) if ending == "parquet" else frame.to_excel(path, index=False)
    columns = read_table(path).columns
    np.testing.assert_array_equal(columns["x"], [0.5, np.nan, 3.0])
    np.testing.assert_array_equal(columns["n"], [1, 2, 3])
    assert columns["name"].tolist() == ["a", "b", "ü"]
    assert np.diff(columns["day"]).tolist() == [1, 365]


@pytest.mark.parametrize(
    ("ending", "package"), [("parquet", "pyarrow"), ("xlsx", "openpyxl"), ("xlsx", "pandas")]
)
def test_a_table_without_its_package(
    ending: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    with zipfile.ZipFile(tmp_path / f"t.{ending}", "w") as file:
        file.writestr("xl/workbook.xml", "")
    for name in (package, "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"^.*needs {package}: pip install 'fbp\[tables\]'.*$"):
        read_table(tmp_path / f"t.{ending}")


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("pyarrow", "parquet", lambda folder: text.read_text(folder / "a.parquet")),
        ("pyarrow.parquet", "parquet", lambda folder: text.read_text(folder / "a.parquet")),
        ("tokenizers", "text", lambda folder: text.FileTokenizer("{}")),
        ("tokenizers", "text", lambda folder: text.train_bpe(["a"], 300)),
    ],
)
def test_text_without_its_package(
    package: str, extra: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"^.*pip install 'fbp\[{extra}\]'$"):
        make(tmp_path)


def tracked(run: Run, name: str) -> list[str]:
    said: list[str] = []
    tracker = Tracked(run, name, {"lr": 0.5}, said.append)
    tracker.log(0, {"loss": 2.0})
    tracker.log(5, {"loss": 1.5})
    tracker.close()
    return said


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    assert tracked(Run(tmp_path), "tensorboard") == []
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, found = path.read_bytes(), []
    while content:  # length, its checksum, an event, its checksum
        (size,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + size])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        content = content[16 + size :]
    assert found == [(0, "loss", 2.0), (5, "loss", 1.5)]


@pytest.mark.slow
def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert tracked(Run(tmp_path), "wandb") == []
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"loss" in path.read_bytes()


@pytest.mark.parametrize(
    ("package", "name", "words"),
    [
        ("tensorboardX", "tensorboard", r"pip install 'fbp\[tensorboard\]'$"),
        ("wandb", "wandb", "pip install wandb$"),
    ],
)
def test_without_a_tracker(
    package: str, name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=words):
        tracked(Run(tmp_path), name)
