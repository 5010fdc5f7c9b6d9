"""Tables and sections of methods, written from the registries and the docstrings of the classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

from docs.extension.docstrings import as_rst
from docs.extension.numpydoc import description, parameters
from docs.extension.references import key_link, reference_keys
from fewshot.registry.episodic import METHODS, build_method, method_options
from fewshot.registry.incremental import INCREMENTAL_METHODS, build_classifier, classifier_options

__all__ = ["method_sections", "method_table"]


class Entry(NamedTuple):
    """A method of a registry, with all that a page says of it."""

    name: str
    kind: str
    summary: str
    reference: str
    options: Mapping[str, object]
    made_by: type


def _episodic() -> list[Entry]:
    return [
        Entry(
            name,
            "transductive" if entry.is_transductive else "inductive",
            entry.summary,
            entry.reference,
            method_options(name),
            type(build_method(name)),
        )
        for name, entry in METHODS.items()
    ]


def _incremental() -> list[Entry]:
    return [
        Entry(
            name,
            entry.class_name,
            entry.summary,
            entry.reference,
            classifier_options(name),
            type(build_classifier(name)),
        )
        for name, entry in INCREMENTAL_METHODS.items()
    ]


REGISTRIES = {"episodic": _episodic, "incremental": _incremental}


def method_table(registry: str) -> str:
    """Return one row a method: name, kind, rule, source, options with their defaults."""
    lines = ["| method | kind | rule | source | options and defaults |", "|---|---|---|---|---|"]
    for entry in REGISTRIES[registry]():
        options = ", ".join(f"`{option}={_word(value)}`" for option, value in entry.options.items())
        lines.append(
            f"| [`{entry.name}`](#{anchor(entry.name)}) | {entry.kind} | {entry.summary} | "
            f"{key_link(entry.reference)} | {options or '–'} |"
        )
    return "\n".join(lines)


def method_sections(registry: str) -> str:
    """Return one section a method: its equations, its options, its source, and where its class is documented."""
    return "\n\n".join(_section(entry) for entry in REGISTRIES[registry]())


def anchor(name: str) -> str:
    """Return the target of a method's section."""
    return f"method-{name.replace('++', '-plus-plus')}"


def _section(entry: Entry) -> str:
    home = f"{entry.made_by.__module__}.{entry.made_by.__qualname__}"
    lines = [
        f"({anchor(entry.name)})=",
        f"## {entry.name}",
        "",
        f"{entry.summary[0].upper()}{entry.summary[1:]}. {entry.kind.capitalize()}; {key_link(entry.reference)}; "
        f"class {{py:obj}}`~{home}`.",
        "",
        "```{eval-rst}",
        *as_rst(_rule(entry.made_by), reference_keys()),
        "",
        *_option_table(entry),
        "```",
    ]
    return "\n".join(lines)


def _rule(made_by: type) -> list[str]:
    """Return the module's description where it shows equations, else the class's."""
    module = sys.modules[made_by.__module__]
    own = description(made_by)
    shown = description(module)
    return own if _has_equation(own) or not _has_equation(shown) else shown[2:]


def _has_equation(lines: list[str]) -> bool:
    return any(line.startswith("    ") for line in lines)


def _option_table(entry: Entry) -> list[str]:
    if not entry.options:
        return ["No options."]
    said = parameters(entry.made_by)
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: auto",
        "",
        "   * - option",
        "     - default",
        "     - meaning",
    ]
    for option, value in entry.options.items():
        text = " ".join(as_rst([said.get(option, "")], reference_keys()))
        lines += [f"   * - ``{option}``", f"     - ``{_word(value)}``", f"     - {text}"]
    return lines


def _word(value: object) -> str:
    """Write a value as it is given on the command line."""
    if isinstance(value, bool) or value is None:
        return f"{value}".lower()
    return "+".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
