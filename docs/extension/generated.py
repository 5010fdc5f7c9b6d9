"""Parts of pages that are written by the program: a line ``<!-- generated: NAME ARGUMENT -->`` becomes Markdown.

The marks are replaced as Sphinx reads a page, so that no generated text is kept in the repository.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module

from docs.extension.methods import method_sections, method_table
from docs.extension.names import commands

__all__ = ["expanded", "home"]

_MARK = re.compile(r"^<!-- generated: (\w+)(?: ([\w.-]+))? -->$", re.MULTILINE)


def expanded(text: str) -> str:
    """Replace the marks of a page.

    Raises
    ------
    KeyError
        If nothing generates what a mark names.
    """
    return _MARK.sub(lambda mark: PARTS[mark[1]](*filter(None, [mark[2]])), text)


def package(name: str) -> str:
    """Document a package or module: its names, then each module of it that lists public names."""
    parts = [_names(name), *(f"## {module}\n\n{_names(module)}" for module in sorted(_modules(name)))]
    return "\n\n".join(parts)


def _modules(name: str) -> list[str]:
    module = import_module(name)
    paths = getattr(module, "__path__", [])
    found = [found.name for found in pkgutil.walk_packages(paths, f"{name}.")]
    return [name for name in found if hasattr(import_module(name), "__all__")]


def _names(name: str) -> str:
    """Document a module's own names, and list those that it takes from others."""
    module = import_module(name)
    homes = {public: home(getattr(module, public), f"{name}.{public}") for public in getattr(module, "__all__", ())}
    own = [public for public, place in homes.items() if place == f"{name}.{public}"]
    data = [public for public in own if not _has_home(getattr(module, public))]
    members = ", ".join(public for public in own if public not in data)
    lines = [f".. automodule:: {name}", f"   :members: {members}" if members else "   :no-members:", ""]
    for public in data:
        lines += [f".. py:data:: {public}", f"   :module: {name}", "", f"   {_comment(name, public)}", ""]
    table = [
        f"| {{py:obj}}`{public} <{place}>` | {_first_sentence(getattr(module, public))} |"
        for public, place in homes.items()
        if public not in own
    ]
    head = [f"From `{name}`:", "", "| name | |", "|---|---|"] if table else []
    return "\n".join(["```{eval-rst}", *lines, "```", "", *head, *table])


def home(item: object, name: str) -> str:
    """Return the name of an item in the module that defines it."""
    if _has_home(item):
        return f"{item.__module__}.{item.__qualname__}"
    package, _, public = name.rpartition(".")
    for module in _modules(package):
        if public in import_module(module).__all__ and getattr(import_module(module), public) is item:
            return f"{module}.{public}"
    return name


def _has_home(item: object) -> bool:
    """Whether an item knows its module: classes and functions do, constants and types of hints do not."""
    return inspect.isclass(item) or inspect.isroutine(item)


def _comment(module: str, name: str) -> str:
    """Return the comment above a constant."""
    source = inspect.getsource(import_module(module))
    found = re.search(rf"((?:^# .*\n)+)^{name}\b", source, re.MULTILINE)
    return " ".join(line.removeprefix("# ") for line in found[1].splitlines()) if found else ""


def _first_sentence(item: object) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0].replace("|", "\\|")


def command_table() -> str:
    """List the commands with a line each."""
    rows = [
        f"| [`fewshot {name}`](#{name.replace(' ', '-')}) | {command.get_short_help_str(100)} |"
        for name, command in commands().items()
    ]
    return "\n".join(["| command | |", "|---|---|", *rows])


PARTS: dict[str, Callable[..., str]] = {
    "package": package,
    "command_table": command_table,
    "method_table": method_table,
    "method_sections": method_sections,
}
