"""The comparison of checkers runs small, and counts what it says it counts."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import comparison
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")

FEW = "^mse/(sign|right)|^cube: x x x"


def rows(out, table):
    """The rows under the header that begins with `table`, by their first columns."""
    (block,) = [block for block in out.split("\n\n") if block.startswith(table)]
    cells = [[c for c in line.split("  ") if c] for line in block.splitlines()]
    return {row[0]: [c.strip() for c in row[1:]] for row in cells[1:]}


@pytest.mark.slow
def test_tables_and_missing_peers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    file = tmp_path / "records.json"
    out = comparison.main(
        seeds=2, only=FEW, sizes="tiny", checkers="check_grads|chex|torch|gradcheck", json_file=file
    )
    assert "skipped: torch is not installed" in out.splitlines()
    wrong, right = rows(out, "wrong rules"), rows(out, "right rules")
    assert set(wrong) >= {"check_grads", "check_grads f64", "chex"}
    assert wrong["check_grads f64"][:3] == ["2", "100.0", "0"]  # runs, detected %, missed
    assert right["check_grads f64"][2] == "0"  # false alarms
    records = json.loads(file.read_text())["records"]
    assert len(records) == 2 * 3 * 3  # seeds, checkers, rules
    assert {r["dtype"] for r in records} == {"float32"}


def test_an_error_is_no_detection():
    def raising(x):
        raise TypeError("no gradient here")

    case = comparison.Case("raising", lambda: raising, lambda rng, size: (rng.normal(size=3),))
    (record,) = comparison.run(case, "tiny", "float32", "check_grads", 1, 1.0)
    assert record.outcome == comparison.ERROR
    assert "no gradient here" in record.message


@pytest.mark.slow
def test_too_slow_is_no_detection():
    pytest.importorskip("torch")
    case = comparison.Case("slow", lambda: lambda x: x, lambda rng, size: (rng.normal(size=3),))
    records = comparison.run(case, "tiny", "float32", "gradcheck", 2, -1.0)
    assert [r.outcome for r in records] == [comparison.SLOW] * 2


def test_hint_names_the_mistake():
    hint = SimpleNamespace(leaf="x", kind="factor", text="n = 7 (axis 0)")
    assert comparison.names(hint, "factor")
    assert comparison.names(hint, "factor:n = 7")
    assert not comparison.names(hint, "factor:1/2")
    assert not comparison.names(hint, "term")


def test_opens_with_command_duration_and_expected_numbers():
    head = Path(__file__).with_name("__main__.py").read_text(encoding="utf-8").split('"""')[1]
    assert "python tests/checkers" in head
    assert "minute" in head
    assert "Expected" in head
