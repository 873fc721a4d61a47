"""How Sphinx builds the pages: see scripts/docs."""

import sys
from pathlib import Path

import fbp

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "fbp"
version = release = fbp.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "fbp_pages"]
exclude_patterns = ["_ext"]

# Every name that is written as a link has to be there.
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
# Each layer's docstring has its equations; its methods are those of the contract.
autodoc_inherit_docstrings = False
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 72
add_module_names = True

# Nothing that a page shows comes from another host.
html_theme = "furo"
html_title = "fbp"
html_static_path = ["_static"]
html_css_files = ["fbp.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "default"
# Indented blocks are equations and tables as often as code.
highlight_language = "none"
smartquotes = False
