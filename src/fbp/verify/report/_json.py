"""Report files, which pytest and the command line write in the same form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def content_of(reports: Sequence[dict[str, Any]]) -> str:
    """The text of a report file; each report is a dict as in `Report.to_json`."""
    from fbp import __version__

    ok = bool(reports) and all(report["ok"] for report in reports)
    content = {"fbp": __version__, "ok": ok, "reports": list(reports)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def is_reports(path: Path) -> bool:
    """Whether a file is a report file, which may be overwritten without loss of other data."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and list(content) == ["fbp", "ok", "reports"]
