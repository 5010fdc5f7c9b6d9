"""Tables and sections of methods, written from the registries and the docstrings of the classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator

from docs.extension.docstrings import as_rst
from docs.extension.numpydoc import description, parameters
from docs.extension.references import key_link, reference_keys
from fewshot.registry import INCREMENTAL_METHODS, METHODS, Entry
from fewshot.registry.discovery import DISCOVERY_METHODS

__all__ = ["method_sections", "method_table"]


REGISTRIES: dict[str, Mapping[str, Entry[Any]]] = {
    "episodic": METHODS,
    "incremental": INCREMENTAL_METHODS,
    "discovery": {
        name: Entry(f"fewshot.discovery:{entry.class_name}", entry.summary, entry.reference)
        for name, entry in DISCOVERY_METHODS.items()
    },
}


def method_table(registry: str) -> str:
    """Return one row a method: name, kind, rule, source, options with their defaults."""
    lines = ["| method | kind | rule | source | options and defaults |", "|---|---|---|---|---|"]
    for name, entry in REGISTRIES[registry].items():
        options = ", ".join(f"`{option}={_word(value)}`" for option, value in entry.options().items())
        source = key_link(entry.reference)
        lines.append(
            f"| [`{name}`](#{anchor(name)}) | {_kind(entry)} | {entry.summary} | {source} | {options or '–'} |"
        )
    return "\n".join(lines)


def method_sections(registry: str) -> str:
    """Return one section a method: its equations, its options, its source, and where its class is documented."""
    return "\n\n".join(_section(name, entry) for name, entry in REGISTRIES[registry].items())


def anchor(name: str) -> str:
    """Return the target of a method's section."""
    return f"method-{name.replace('++', '-plus-plus')}"


def _section(name: str, entry: Entry[Any]) -> str:
    made = type(entry.build())
    lines = [
        f"({anchor(name)})=",
        f"## {name}",
        "",
        f"{entry.summary[0].upper()}{entry.summary[1:]}. {_kind(entry).capitalize()}; {key_link(entry.reference)}; "
        f"class {{py:obj}}`~{made.__module__}.{made.__qualname__}`.",
        "",
        "```{eval-rst}",
        *as_rst(_rule(made), reference_keys()),
        "",
        *_option_table(entry, made),
        "```",
    ]
    return "\n".join(lines)


def _kind(entry: Entry[Any]) -> str:
    if issubclass(type(entry.build()), BaseEstimator):
        return entry.class_name
    return "transductive" if entry.is_transductive else "inductive"


def _rule(made: type) -> list[str]:
    """Return the module's description where it shows equations, else the class's."""
    module = sys.modules[made.__module__]
    own = description(made)
    shown = description(module)
    return own if _has_equation(own) or not _has_equation(shown) else shown[2:]


def _has_equation(lines: list[str]) -> bool:
    return any(line.startswith("    ") for line in lines)


def _option_table(entry: Entry[Any], made: type) -> list[str]:
    options = entry.options()
    if not options:
        return ["No options."]
    said = parameters(made) | parameters(entry.target())
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: auto",
        "",
        "   * - option",
        "     - default",
        "     - meaning",
    ]
    for option, value in options.items():
        text = " ".join(as_rst([said.get(option, "")], reference_keys()))
        lines += [f"   * - ``{option}``", f"     - ``{_word(value)}``", f"     - {text}"]
    return lines


def _word(value: object) -> str:
    """Write a value as it is given on the command line."""
    if isinstance(value, bool) or value is None:
        return f"{value}".lower()
    return "+".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
