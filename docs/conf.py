"""Sphinx configuration: ``make docs`` builds the site, warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import fewshot
from docs.extension.tutorials import copy_notebooks

ROOT = Path(__file__).parents[1]
copy_notebooks(ROOT / "notebooks", ROOT / "build" / "notebooks", ROOT / "docs" / "tutorials")

project = "fewshot"
author = "The fewshot authors"
copyright = author
version = release = fewshot.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_click",
    "sphinx_copybutton",
    "docs.extension",
]
html_theme = "furo"
html_title = f"fewshot {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]

# A name in single backticks is a link where it is known, and code elsewhere.
default_role = "py:obj"
nitpicky = True
add_module_names = False
# Quotes and dots, but no dashes: --option stays as it is typed.
smartquotes_action = "qe"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]

myst_enable_extensions = ["attrs_inline", "attrs_block", "colon_fence", "deflist", "dollarmath", "linkify"]
myst_heading_anchors = 3
# `make notebooks` has executed them; the copies with outputs are rendered as they are.
nb_execution_mode = "off"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
