"""A model's config.json: values of the type expected, or one line."""

import json
from pathlib import Path
from typing import Any

import pytest

import fbp.cli._predict
from fbp.cli import main
from fbp.interop import FolderError, expect, expect_choice, read_config
from fbp.interop._files import shown


def test_a_config(tmp_path: Path) -> None:
    config = {"n_head": 12, "eps": 1e-5, "one": 1, "act": "gelu_new", "tie": True, "none": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path) == config
    assert expect(config, "n_head", int, at_least=1) == 12
    assert expect(config, "eps", float) == 1e-5
    one = expect(config, "one", float)
    assert type(one) is float
    assert one == 1
    assert expect(config, "tie", bool) is True
    assert expect(config, "none", int, default=None) is None
    assert expect(config, "none", int, default=3) == 3
    assert expect(config, "absent", int, default=3) == 3
    assert expect_choice(config, "act", ("gelu", "gelu_new")) == "gelu_new"
    assert expect_choice(config, "absent", ("gelu", "gelu_new"), "gelu") == "gelu"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("12", int, "expected n_head to be an integer, got '12'"),
        (12.0, int, "expected n_head to be an integer, got 12.0"),
        (True, int, "expected n_head to be an integer, got True"),
        (None, int, "expected n_head to be an integer, got None"),
        (0, int, "expected n_head to be 1 or more, got 0"),
        (True, float, "expected n_head to be a number, got True"),
        (float("nan"), float, "expected n_head to be a number, got nan"),
        (10**400, float, "expected n_head to be a number, got 1000"),
        (1, bool, "expected n_head to be true or false, got 1"),
        (1, str, "expected n_head to be a text, got 1"),
        ({}, list, "expected n_head to be a list, got {}"),
        ([], dict, "expected n_head to be an object, got []"),
    ],
)
def test_a_value_of_another_type(value: Any, kind: type, message: str) -> None:
    with pytest.raises(FolderError) as caught:
        expect({"n_head": value}, "n_head", kind, at_least=1)
    assert str(caught.value).startswith(f"config.json: {message}")


def test_a_value_that_is_not_there() -> None:
    with pytest.raises(FolderError, match=r"^config.json: expected n_layer, an integer, got none$"):
        expect({}, "n_layer", int)
    with pytest.raises(FolderError, match=r"got none; did you mean 'n_layers'\?$"):
        expect({"n_layers": 3}, "n_layer", int)
    with pytest.raises(FolderError, match=r"expected act to be one of 'a', 'b', got 'c'$"):
        expect_choice({"act": "c"}, "act", ("a", "b"))


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(FolderError, match=r"config.json: expected a file, got none$"):
        read_config(tmp_path)
    path.write_text("[]")
    with pytest.raises(FolderError, match=r"config.json: expected a JSON object, got list$"):
        read_config(tmp_path)
    path.write_text(" " * 10_000_001)
    with pytest.raises(FolderError, match=r"expected at most 10,000,000 bytes, got 10,000,001$"):
        read_config(tmp_path)


def test_a_long_value_is_cut() -> None:
    assert shown("a" * 1000) == "'" + "a" * 76 + "..."


def test_the_command_line_shows_one_line(monkeypatch: Any, capsys: Any) -> None:
    def run(self: Any) -> int:
        raise FolderError("weights: expected a file, got none")

    monkeypatch.setattr(fbp.cli._predict.Predict, "run", run)
    assert main(["predict", "runs/x", "--data", "x.csv"]) == 2
    assert capsys.readouterr().err == "fbp: weights: expected a file, got none\n"
