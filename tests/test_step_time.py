import importlib.util
import json
import sys
from pathlib import Path

import pytest

STEP_TIME = Path(__file__).parents[1] / "experiments" / "step_time.py"


@pytest.mark.slow
def test_table_and_missing_peers(monkeypatch, tmp_path):
    for peer in ("flax", "equinox", "torch"):
        monkeypatch.setitem(sys.modules, peer, None)  # as if it were not installed
    spec = importlib.util.spec_from_file_location("step_time", STEP_TIME)
    step_time = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(step_time)
    out = step_time.main(rounds=1, chunk=8, json_file=str(tmp_path / "times.json"))

    lines = out.splitlines()
    for peer in ("flax", "equinox", "torch"):
        assert f"skipped: {peer} is not installed" in lines
    header, *rows = lines[lines.index("") + 1 :]
    assert header.split()[:6] == ["us", "a", "step", "median", "min", "max"]
    assert [row.split("  ")[0] for row in rows] == [
        "fbp, scanned",
        "fbp, a call a step",
        "jax + optax, scanned",
        "jax + optax, a call a step",
        "matrix products alone",
    ]
    assert all(float(number) > 0 for row in rows for number in row.split()[-6:])
    assert len({len(line) for line in (header, *rows)}) == 1  # aligned
    times = json.loads((tmp_path / "times.json").read_text())
    assert all(len(us) == 1 for us in times["us"].values())
