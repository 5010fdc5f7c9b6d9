"""The pages of the API: a package, its public names, and the modules that define them."""

from __future__ import annotations

import inspect
import pkgutil
import re
from importlib import import_module

__all__ = ["home", "package"]

_NOT_THE_API = ("fewshot.cli", "fewshot.__main__")


def package(name: str) -> str:
    """Document a package or module: its names, then each module of it that lists public names."""
    parts = [_names(name), *(f"## {module}\n\n{_names(module)}" for module in sorted(_modules(name)))]
    return "\n\n".join(parts)


def home(item: object, name: str) -> str:
    """Return the name of an item in the module that defines it."""
    if _has_home(item):
        return f"{item.__module__}.{item.__qualname__}"
    package, _, public = name.rpartition(".")
    for module in map(import_module, _modules(package)):
        is_listed = public in getattr(module, "__all__", ()) and getattr(module, public) is item
        if is_listed and not hasattr(module, "__path__"):
            return f"{module.__name__}.{public}"
    return name


def _modules(name: str) -> list[str]:
    """Return the packages below a package, and the modules that list public names."""
    paths = getattr(import_module(name), "__path__", [])
    found = [found for found in pkgutil.walk_packages(paths, f"{name}.") if not found.name.startswith(_NOT_THE_API)]
    return [found.name for found in found if found.ispkg or hasattr(import_module(found.name), "__all__")]


def _names(name: str) -> str:
    """Document the names that a module defines, and list those that it takes from others."""
    module = import_module(name)
    homes = {public: home(getattr(module, public), f"{name}.{public}") for public in getattr(module, "__all__", ())}
    own = [public for public, place in homes.items() if place == f"{name}.{public}"]
    data = [public for public in own if not _has_home(getattr(module, public))]
    members = ", ".join(public for public in own if public not in data)
    lines = [f".. automodule:: {name}", f"   :members: {members}" if members else "   :no-members:", ""]
    for public in data:
        lines += [f".. py:data:: {public}", f"   :module: {name}", "", f"   {_comment(name, public)}", ""]
    rows = [
        f"| {{py:obj}}`{public} <{place}>` | {_first_sentence(getattr(module, public))} |"
        for public, place in homes.items()
        if public not in own
    ]
    head = ["| name | |", "|---|---|"] if rows else []
    return "\n".join(["```{eval-rst}", *lines, "```", "", *head, *rows])


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
