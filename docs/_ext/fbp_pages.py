"""What the pages have beyond Sphinx: docstrings as they are written, and links of `fbp.` names."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from docstrings import to_rst
from docutils import nodes
from experiments import page
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

import fbp

_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"(fbp(?:\.\w+)+|[A-Z]\w+)(\(.*\))?", re.DOTALL)
# What autodoc makes of jax.typing.DTypeLike.
_DTYPE = re.compile(
    r"str \| type\[~?(?:typing\.)?Any\] \| ~?(?:\w+\.)*dtype \| ~?(?:\w+\.)*SupportsDType"
)
_FETCHED = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["'](?:https?:)?//[^"']*"""
    r"""|@import[^;]*//[^;]*|url\(["']?(?:https?:)?//[^)]*"""
)
_FIELD = type(fbp.ObjectiveParams.model)
# Modules, which no entry describes.
_MODULES = {"fbp.models", "fbp.text", "fbp.train", "fbp.verify", "fbp.verify.domains"}


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def _property(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undoes what napoleon does to a property: it takes the words before a colon for its type."""
    if what == "property":
        lines[:] = [*to_rst((inspect.getdoc(obj) or "").splitlines()), ""]


def _signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Writes defaults by their names, and the types of JAX as its users know them."""
    if signature is None:
        return None

    def named(match: re.Match[str]) -> str:
        return "..." if "<locals>" in match[1] else match[1].rpartition(".")[2]

    signature = re.sub(r"<(?:function |class ')([\w.]+(?:<locals>[\w.]+)?)'?>", named, signature)
    return _DTYPE.sub("DTypeLike", signature), returns


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out members that are defaults from other libraries, and the fields of tuples."""
    if isinstance(obj, _FIELD):
        return True
    module = getattr(obj, "__module__", None)
    return True if module is not None and not module.startswith("fbp") else None


def _experiments(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == "experiments":
        source[0] += "\n" + page(_ROOT / "experiments")


def _link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Makes a link of each name of fbp in code, which must then be in the reference."""
    for literal in list(doctree.findall(nodes.literal)):
        name = _NAME.fullmatch(literal.astext())
        if name is None or isinstance(literal.parent, nodes.reference | addnodes.pending_xref):
            continue
        target = name[1] if name[1].startswith("fbp.") else f"fbp.{name[1]}"
        if target in _MODULES or (target != name[1] and name[1] not in fbp.__all__):
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True
        )
        link["refdoc"] = app.env.current_document.docname
        literal.replace_self(link)
        link += literal
    # The dash between a name and its description, as Sphinx writes it.
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def _missing(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """A type of another library, or one that is not public, is text; else the link is broken."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("fbp."):
        return content if node.get("refdomain") == "py" else None
    module, _, name = target.rpartition(".")
    if "._" not in target and not _is_internal(module, name):
        return None
    domain = env.get_domain("py")
    if name in fbp.__all__:
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"fbp.{name}", node, content
        )
    return content


def _is_internal(module: str, name: str) -> bool:
    """Whether an object's module is one of fbp's that the reference calls by another name."""
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return inspect.isclass(found) and found.__module__ == module


def _self_contained(app: Sphinx, error: Exception | None) -> None:
    """Pages are read anywhere: they fetch nothing from other hosts, and name no folder of here."""
    if error is not None or app.builder.format != "html":
        return
    for path in [*Path(app.outdir).rglob("*.html"), *Path(app.outdir).rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        if fetched := _FETCHED.search(text):
            _LOG.warning("%s fetches from another host: %s", path.name, fetched[0])
        if str(_ROOT) in text:
            _LOG.warning("%s has a path of this machine: %s", path.name, _ROOT)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    # Before napoleon, which makes lists of the sections.
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-process-docstring", _property, priority=600)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _experiments)
    app.connect("doctree-read", _link_names)
    app.connect("missing-reference", _missing)
    app.connect("build-finished", _self_contained)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
