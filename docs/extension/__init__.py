"""The site's own Sphinx extension: generated parts of pages, links from names, keys of the reference list."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from docs.extension import generated
from docs.extension.commands import with_defaults, with_examples
from docs.extension.docstrings import as_rst
from docs.extension.packages import home
from docs.extension.references import reference_keys

__all__ = ["setup"]


def _canonical(name: str) -> str:
    """Return the name under which the reference documents a public name, such as that of ``fewshot.UNEM``.

    Raises
    ------
    ImportError, AttributeError
        If there is no such name.
    """
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return home(found, name)
    raise ImportError(name)


def _expand(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put generated text in the place of the marks of a page."""
    content[0] = generated.expanded(content[0])


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a docstring valid reStructuredText."""
    lines[:] = as_rst(lines, reference_keys())


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | nodes.TextElement | None:
    """Link a public name to the module that defines it; what names nothing of ours stays code."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if not target.startswith(("fewshot.", "fewshot_episodes.")):
        return contnode
    try:
        canonical = _canonical(target)
    except (ImportError, AttributeError):
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", canonical, node, contnode)


def _look_up_exactly(app: Sphinx, doctree: nodes.document) -> None:
    """Keep Sphinx from guessing that ``n_way`` in the shape of a tensor is somebody's attribute of that name."""
    for node in doctree.findall(pending_xref):
        node.attributes.pop("refspecific", None)


def _is_left_out(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out fields of named tuples, which the section Attributes documents, and what scikit-learn generates."""
    is_field = "Alias for field number" in (getattr(obj, "__doc__", None) or "")
    is_foreign = (getattr(obj, "__module__", None) or "").startswith("sklearn.")
    return True if is_field or is_foreign else None


def _describe(app: Sphinx, context: object, lines: list[str]) -> None:
    """Show the examples of a command as code."""
    lines[:] = with_examples(lines)


def _tell_defaults(app: Sphinx, context: object, lines: list[str]) -> None:
    """Show the defaults of a command's options as a user types them."""
    lines[:] = with_defaults(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    app.connect("source-read", _expand)
    app.connect("sphinx-click-process-description", _describe)
    app.connect("sphinx-click-process-options", _tell_defaults)
    app.connect("autodoc-process-docstring", _process, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _is_left_out)
    app.connect("doctree-read", _look_up_exactly)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
