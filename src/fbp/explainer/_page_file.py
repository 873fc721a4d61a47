"""A page as one file: its document with its styles, its scripts and its data inside."""

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any


def filled(document: str, styles: Sequence[str], scripts: Sequence[str], data: Any) -> str:
    """The page that is made of files of this room, each named by its place in it."""
    page = _text(document).replace("/*STYLE*/", "\n".join(map(_text, styles)))
    page = page.replace("/*SCRIPT*/", "\n".join(map(_text, scripts)))
    # The data last: what is in it is never taken for one of the marks.
    return page.replace("/*DATA*/", json_text(data))


def json_text(data: Any) -> str:
    """JSON that ends no script and no line of one."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(name: str) -> str:
    return resources.files("fbp.explainer").joinpath(*name.split("/")).read_text("utf-8")
