"""Files of reports: the same form from pytest and from the command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def content_of(reports: Sequence[dict[str, Any]]) -> str:
    """Reports, as `Report.to_json` gives them, as the content of a file."""
    from fbp import __version__

    ok = bool(reports) and all(report["ok"] for report in reports)
    content = {"fbp": __version__, "ok": ok, "reports": list(reports)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def is_reports(path: Path) -> bool:
    """Whether a file is of reports, and of nothing else that a user could miss."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and list(content) == ["fbp", "ok", "reports"]
